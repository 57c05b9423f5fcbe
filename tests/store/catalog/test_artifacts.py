"""Artifacts are complete or absent, and verified on reading."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sqlmodel import select

from retcon.store.catalog.artifacts import ArtifactStore
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Artifact
from retcon.store.errors import ArtifactCorrupt, CatalogError

WORKERS = "retcon.tests.helpers.workers"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def files(store: ArtifactStore) -> list[Path]:
    """All files except the leases."""
    return [path for path in store.root.rglob("*") if path.is_file() and path.parent != store.leases.folder]


def test_bytes_are_named_by_digest(store: ArtifactStore) -> None:
    artifact = store.put_bytes(b"data")
    digest = hashlib.sha256(b"data").hexdigest()
    assert (artifact.sha256, artifact.size) == (digest, 4)
    assert store.path(digest) == store.root / digest[:2] / digest
    assert store.read_bytes(digest) == b"data"
    assert store.path(digest).stat().st_mode & 0o777 == 0o600
    assert list(store.digests()) == [digest]


def test_storing_twice_keeps_one_file(store: ArtifactStore, catalog: Catalog) -> None:
    for _ in range(2):
        with catalog.write() as session:
            session.merge(store.put_bytes(b"data"))
    assert len(files(store)) == 1
    with catalog.read() as session:
        assert len(session.exec(select(Artifact)).all()) == 1


def test_put_file_stores_a_copy(store: ArtifactStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    source.chmod(0o644)
    artifact = store.put_file(source)
    source.unlink()
    assert artifact.size == 3_000_000
    assert store.path(artifact.sha256).stat().st_mode & 0o777 == 0o600


def test_equal_arrays_share_a_digest(store: ArtifactStore) -> None:
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    # A transposed view has another order in memory, but must give the same file.
    arrays: dict[str, np.ndarray] = {"b": square.T, "a": np.array([1.5], dtype=np.float64)}
    artifact = store.put_tensors(arrays)
    again = store.put_tensors({"a": arrays["a"].copy(), "b": np.ascontiguousarray(square.T)})
    assert again.sha256 == artifact.sha256
    found = store.read_arrays(artifact.sha256)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("damage", ["missing", "short", "changed", "empty"])
def test_damage_is_reported(store: ArtifactStore, damage: str) -> None:
    artifact = store.put_bytes(b"some data")
    path = store.path(artifact.sha256)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"short": b"some dat", "changed": b"sOme data", "empty": b""}[damage])
        path.chmod(0o444)
    with pytest.raises(ArtifactCorrupt) as caught:
        store.read_bytes(artifact.sha256)
    assert artifact.sha256 in str(caught.value)
    assert str(path) in str(caught.value)
    # Storing it again repairs it.
    store.put_bytes(b"some data")
    assert store.read_bytes(artifact.sha256) == b"some data"


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "a" * 65])
def test_invalid_digest_is_rejected(store: ArtifactStore, digest: str) -> None:
    with pytest.raises(ArtifactCorrupt, match="not a sha256"):
        store.path(digest)


def test_full_disk_leaves_no_file(store: ArtifactStore) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CatalogError, match="is full"):
        store.put_writer(full)
    assert files(store) == []


def test_full_disk_at_flush(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CatalogError, match="is full"):
        store.put_bytes(b"data")
    assert files(store) == []


def test_full_disk_in_safetensors(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors
    from safetensors import numpy as safetensors_numpy

    def full(_arrays: object, _path: Path) -> None:
        # The exact message of safetensors, whose exception is not an OSError.
        message = "Error while serializing: I/O error: No space left on device (os error 28)"
        raise safetensors.SafetensorError(message)

    monkeypatch.setattr(safetensors_numpy, "save_file", full)
    with pytest.raises(CatalogError, match="is full"):
        store.put_tensors({"a": np.zeros(10)})
    assert files(store) == []


def test_failed_write_leaves_no_file(store: ArtifactStore) -> None:
    def fails(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put_writer(fails)
    assert files(store) == []


def test_kill_leaves_only_a_temporary_file(catalog: Catalog) -> None:
    store = catalog.artifacts
    worker = subprocess.Popen(
        [sys.executable, "-m", WORKERS, "store_slowly", str(catalog.home.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "begun\n"
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    (partial,) = files(store)
    assert partial.name.startswith(".partial-")
    assert list(store.digests()) == []
    assert store.partial_files() == [partial]
