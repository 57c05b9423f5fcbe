"""The real client against the stand-in hub, uploads and downloads byte for byte. The other tests rely on this."""

import os
from pathlib import Path

import hf_xet
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from retcon.store.catalog.artifacts import sha256_of
from retcon.tests.helpers.hub_client import Client
from retcon.tests.helpers.hub_stand_in import StandIn, stand_in
from retcon.tests.helpers.hub_state import PART_BYTES, TOKEN, Fault


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A small text, a file of several parts, and an empty one."""
    contents = {
        "config.json": b"{}",
        "model.safetensors": os.urandom(2 * PART_BYTES + 17),
        "deltas/a.safetensors": b"x",
    }
    paths = {}
    for name, data in contents.items():
        paths[name] = tmp_path / "source" / name
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_bytes(data)
    return paths


def upload(files: dict[str, Path], repo: str = "me/there") -> str:
    api = HfApi()
    api.create_repo(repo, private=True, exist_ok=True)
    adds = [CommitOperationAdd(name, path) for name, path in files.items()]
    return str(api.create_commit(repo, adds, commit_message="files").oid)


@pytest.mark.parametrize("transfer", ["basic", "multipart"])
def test_upload_and_download_give_same_bytes(
    transfer: str, client: Client, files: dict[str, Path], tmp_path: Path
) -> None:
    with stand_in(transfer=transfer) as hub:
        client.use(hub)
        oid = upload(files)
        assert {name: hub.content("me/there", name) for name in files} == {
            name: path.read_bytes() for name, path in files.items()
        }
        folder = Path(snapshot_download("me/there", revision=oid, local_dir=tmp_path / "target"))
        assert {name: (folder / name).read_bytes() for name in files} == {
            name: path.read_bytes() for name, path in files.items()
        }
        parts = hub.count("PUT", "/storage/")
        assert parts == (2 if transfer == "basic" else 4)
        assert hub.token_shown_to_storage == 0
        # A second time there is nothing to commit, and nothing is uploaded.
        assert upload(files) == oid and hub.count("PUT", "/storage/") == parts


def test_upload_and_download_through_xet(
    client: Client, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stand_in(xet=tmp_path / "cas") as hub:
        client.use(hub)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        oid = upload(files)
        assert hub.count("PUT", "/storage/") == hub.count("POST", "/objects/batch") == 0
        assert hub.repos["me/there"].commits[-1].oid == oid
        stored = sum(path.stat().st_size for path in (tmp_path / "cas").rglob("*") if path.is_file())
        assert stored > 2 * PART_BYTES
        large = [path for path in files.values() if path.suffix == ".safetensors"]
        for path, info in zip(large, hf_xet.hash_files([str(path) for path in large]), strict=True):
            hub.xet_names[sha256_of(path)] = (info.hash, path.stat().st_size)
        folder = Path(snapshot_download("me/there", revision=oid, local_dir=tmp_path / "target"))
        assert hub.count("GET", "/storage/") == 0
        assert all((folder / name).read_bytes() == path.read_bytes() for name, path in files.items())


def test_part_without_etag_fails(client: Client, files: dict[str, Path]) -> None:
    with stand_in(transfer="multipart") as hub:
        client.use(hub)
        hub.faults.append(Fault("PUT", "/storage/", how="etag"))
        with pytest.raises(Exception) as caught:
            upload(files)
        assert "etag" in str(caught.value.__cause__ or caught.value)
        assert len(hub.repos["me/there"].commits) == 1


def test_stand_in_requires_the_token(client: Client, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert HfApi().whoami()["name"] == "me"
    monkeypatch.setenv("HF_TOKEN", TOKEN + "x")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi().whoami()
