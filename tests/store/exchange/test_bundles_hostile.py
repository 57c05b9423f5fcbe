"""Bundles that somebody broke or made up: each is refused in one sentence, and nothing of it is left anywhere."""

import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.connection import connect
from retcon.store.errors import InputError
from retcon.store.exchange import bundle as bundles
from retcon.store.exchange import bundle_archive
from retcon.tests.helpers.bundle_catalog import EDITS, MATRIX, REVERT, fill, with_model
from safetensors.numpy import save

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """The members of a sound bundle."""
    folder = tmp_path_factory.mktemp("source")
    catalog = with_model(folder / "home")
    fill(catalog)
    bundles.export_history(catalog, "tiny", folder / "bundle")
    catalog.close()
    with zipfile.ZipFile(folder / "bundle") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Catalog]:
    catalog = with_model(tmp_path / "home")
    yield catalog
    catalog.close()


def pack(
    path: Path,
    members: Members,
    *,
    honest: bool = True,
    manifest: dict[str, Any] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write members as a bundle; the digests in the manifest fit, for who makes a bundle up can count too."""
    head = json.loads(members["manifest.json"])
    if honest:
        head["members"] = {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
            if name != "manifest.json"
        }
    head |= manifest or {}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | {"manifest.json": json.dumps(head).encode()}).items():
            archive.writestr(name, data, compression)
    return path


def refuse(target: Catalog, path: Path, why: str | None = None) -> None:
    """It is refused with InputError; there is no row more, and no file, but artifacts that nothing names."""
    before = rows_of(target)
    outside = {one for one in path.parent.rglob("*") if target.home.root not in one.parents}
    with pytest.raises(InputError, match=why) as caught:
        bundles.import_history(target, path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert rows_of(target) == before
    assert target.artifacts.partial_files() == []
    assert {one for one in path.parent.rglob("*") if target.home.root not in one.parents} == outside


def rows_of(catalog: Catalog) -> dict[str, list[Any]]:
    connection = connect(catalog.home.catalog)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}
    finally:
        connection.close()


def test_packed_like_this_a_sound_one_passes(sound: Members, target: Catalog, tmp_path: Path) -> None:
    assert bundles.import_history(target, pack(tmp_path / "x", sound)).added["revision"] == 4


NAMES = ["../evil", "/etc/evil", "..\\evil", "C:\\evil", "artifacts/../../evil", "artifacts/", "artifacts/evil",
         "artifacts/" + "a" * 63, "artifacts/" + "A" * 64, "artifacts//" + "a" * 64, "./rows.json", "rows.json/",
         "évil", "\u202egpj.exe", "a\nb", "x" * 60_000, "manifest.json/../x", "/"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_names(sound: Members, target: Catalog, tmp_path: Path, name: str) -> None:
    refuse(target, pack(tmp_path / "x", sound | {name: b"evil"}), "do not trust it")


def test_a_name_with_a_nul(sound: Members, target: Catalog, tmp_path: Path) -> None:
    """Libraries stop reading at it, so that the name that is checked is not the one that is used."""
    path = pack(tmp_path / "x", sound | {"rows.jsonXevil": b"evil"})
    path.write_bytes(path.read_bytes().replace(b"rows.jsonXevil", b"rows.json\0evil"))
    refuse(target, path, "do not trust it|twice")


def add_raw(path: Path, info: zipfile.ZipInfo, data: bytes) -> Path:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, data)
    return path


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFSOCK]
)
def test_links_and_devices(sound: Members, target: Catalog, tmp_path: Path, kind: int) -> None:
    digest = hashlib.sha256(b"/etc/passwd").hexdigest()
    info = zipfile.ZipInfo(f"artifacts/{digest}")
    info.external_attr = (kind | 0o777) << 16
    info.create_system = 3
    refuse(target, add_raw(pack(tmp_path / "x", sound), info, b"/etc/passwd"), "a link, a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(sound: Members, target: Catalog, tmp_path: Path) -> None:
    path = add_raw(pack(tmp_path / "x", sound), zipfile.ZipInfo("rows.json"), b"{}")
    refuse(target, path, "'rows.json' twice")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_bombs(sound: Members, target: Catalog, tmp_path: Path, compression: int) -> None:
    zeros = b"[" + b" " * 50_000_000 + b"]"
    path = pack(tmp_path / "rows", sound | {"rows.json": zeros}, compression=compression)
    assert path.stat().st_size < 500_000
    refuse(target, path, "compressed, which no")
    digest = hashlib.sha256(bytes(10_000_000)).hexdigest()
    info = zipfile.ZipInfo(f"artifacts/{digest}")
    info.compress_type = compression
    refuse(target, add_raw(pack(tmp_path / "blob", sound), info, bytes(10_000_000)), "compressed, which no")


def test_rows_that_would_fill_the_memory(
    sound: Members, target: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bundle_archive._LARGEST, "rows.json", len(sound["rows.json"]) - 1)
    refuse(target, pack(tmp_path / "x", sound), "more than any bundle")
    with pytest.raises(InputError, match="more than a bundle may hold"):
        bundle_archive.write(
            tmp_path / "y", {}, json.loads(sound["rows.json"]), {}, lambda _done, _total: None
        )


def entries(data: bytes) -> list[int]:
    """Where the entries of a ZIP's central directory begin."""
    found, at = [], data.find(b"PK\1\2")
    while at >= 0:
        found.append(at)
        at = data.find(b"PK\1\2", at + 4)
    return found


def test_a_declared_size_that_is_not_there(sound: Members, target: Catalog, tmp_path: Path) -> None:
    """The directory of the archive says that an artifact is 3 GB."""
    data = bytearray(pack(tmp_path / "x", sound).read_bytes())
    blob = next(at for at in entries(bytes(data)) if b"artifacts/" in data[at : at + 60])
    data[blob + 20 : blob + 28] = struct.pack("<II", 3_000_000_000, 3_000_000_000)
    (tmp_path / "x").write_bytes(data)
    refuse(target, tmp_path / "x", "more than it is large")


def test_members_that_overlap(sound: Members, target: Catalog, tmp_path: Path) -> None:
    """Many names for the same bytes."""
    members = dict(sound)
    blob = bytes(100_000)
    digest = hashlib.sha256(blob).hexdigest()
    path = pack(tmp_path / "x", members | {f"artifacts/{digest}": blob})
    data = path.read_bytes()
    at = next(at for at in entries(data) if digest.encode() in data[at : at + 120])
    length = (
        46 + struct.unpack("<H", data[at + 28 : at + 30])[0] + struct.unpack("<H", data[at + 30 : at + 32])[0]
    )
    entry, end = data[at : at + length], data.rfind(b"PK\5\6")
    copies = b"".join(
        entry.replace(digest.encode(), hashlib.sha256(str(number).encode()).hexdigest().encode())
        for number in range(50)
    )
    tail = bytearray(data[end:])
    count = struct.unpack("<H", tail[8:10])[0] + 50
    tail[8:12] = struct.pack("<HH", count, count)
    tail[12:16] = struct.pack("<I", struct.unpack("<I", tail[12:16])[0] + len(copies))
    path.write_bytes(data[:end] + copies + bytes(tail))
    refuse(target, path, "more than it is large")


def test_encrypted(sound: Members, target: Catalog, tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "x", sound).read_bytes())
    data[entries(bytes(data))[0] + 8] |= 1
    (tmp_path / "x").write_bytes(data)
    refuse(target, tmp_path / "x", "encrypted")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99, 0.999])
def test_cut_off(sound: Members, target: Catalog, tmp_path: Path, share: float) -> None:
    path = pack(tmp_path / "x", sound)
    os.truncate(path, int(path.stat().st_size * share))
    refuse(target, path, "no whole bundle")


def test_a_flipped_bit_anywhere(sound: Members, target: Catalog, tmp_path: Path) -> None:
    """In whatever byte: it is refused, or it was one that carries nothing and what is imported is the same."""
    path = pack(tmp_path / "x", sound)
    data = path.read_bytes()
    refused = 0
    places = [*range(0, len(data), 97), *range(entries(data)[0], len(data), 11)]
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            with bundle_archive.read(path) as bundle:
                rows, digests = bundle.rows, set(bundle.artifacts)
        except InputError:
            refused += 1
        else:
            assert rows == json.loads(sound["rows.json"])
            assert digests == {name[10:] for name in sound if name.startswith("artifacts/")}
    assert refused > len(places) * 0.7


def test_another_kind_of_file(sound: Members, target: Catalog, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bundle.tar.gz", "w:gz") as archive:
        archive.add(__file__, "../evil")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("bundle.tar.gz", "text", "empty"):
        refuse(target, tmp_path / name, "no whole bundle")
    for name in ("nowhere", "home"):
        refuse(target, tmp_path / name, "is no file")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive_of_others:
        archive_of_others.writestr("manifest.json", "{}")
    refuse(target, tmp_path / "zip", "no rows.json")


def test_a_wrong_hash(sound: Members, target: Catalog, tmp_path: Path) -> None:
    """The archive's own check sums are right, the bytes are others."""
    name = next(name for name in sound if name.startswith("artifacts/"))
    other = sound | {name: bytes([sound[name][0] ^ 1]) + sound[name][1:]}
    refuse(target, pack(tmp_path / "old", other, honest=False), "has changed")
    refuse(target, pack(tmp_path / "new", other), "not what the manifest says")
    refuse(
        target,
        pack(tmp_path / "rows", sound | {"rows.json": sound["rows.json"] + b" "}, honest=False),
        "manifest",
    )
    without = {one: data for one, data in sound.items() if one != name}
    refuse(target, pack(tmp_path / "gone", without, honest=False), "does not hold what its manifest names")
    refuse(target, pack(tmp_path / "gone too", without), "artifacts in it are not those that its rows name")
    blob = b"nobody asked for this"
    more = sound | {f"artifacts/{hashlib.sha256(blob).hexdigest()}": blob}
    refuse(target, pack(tmp_path / "more", more), "artifacts in it are not those that its rows name")


def test_a_newer_one(sound: Members, target: Catalog, tmp_path: Path) -> None:
    """It may have members that this program does not know; what it says is that it is newer."""
    path = pack(tmp_path / "x", sound, manifest={"version": 2, "retcon": "9.9"})
    refuse(target, path, "form 2, written by retcon 9.9.*install the newer retcon")


MANIFESTS: list[dict[str, Any]] = [
    {"format": "other"}, {"version": "1"}, {"version": True}, {"version": None}, {"members": []},
    {"members": {"rows.json": 3}}, {"model": None}, {"model": {"name": "tiny"}}, {"head": None},
    {"model": {"name": 1, "source": "x", "fingerprint": "f"}}, {"head": "0123456789"}, {"head": [1]},
]  # fmt: skip


@pytest.mark.parametrize("manifest", MANIFESTS, ids=str)
def test_manifests(sound: Members, target: Catalog, tmp_path: Path, manifest: dict[str, Any]) -> None:
    refuse(target, pack(tmp_path / "x", sound, manifest=manifest))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"[" * 200_000, b'"\xff"', b"1" * 10_000, b"null"],
                         ids=lambda text: str(text[:9]))  # fmt: skip
@pytest.mark.parametrize("name", ["rows.json", "manifest.json"])
def test_json(sound: Members, target: Catalog, tmp_path: Path, name: str, text: bytes) -> None:
    path = pack(tmp_path / "x", sound | {"rows.json": text if name == "rows.json" else sound["rows.json"]})
    if name == "manifest.json":
        with zipfile.ZipFile(tmp_path / "y", "w") as archive:
            for one, data in (sound | {name: text}).items():
                archive.writestr(one, data)
        path = tmp_path / "y"
    refuse(target, path)


Change = Callable[[dict[str, Any]], object]


def put(table: str, column: str, value: Any, row: int = 1) -> Change:
    return lambda rows: rows[table][row].__setitem__(column, value)


ROWS: dict[str, Change] = {
    "no such table": lambda rows: rows.__setitem__("job", []),
    "a table is missing": lambda rows: rows.__delitem__("trace"),
    "a table is no list": lambda rows: rows.__setitem__("trace", {}),
    "a row is no object": lambda rows: rows.__setitem__("trace", [1]),
    "another column": put("revision", "extra", 1),
    "a column is missing": lambda rows: rows["revision"][1].__delitem__("message"),
    "no text": put("revision", "message", 5),
    "no number": put("trace", "samples", "5", 0),
    "a bool for a number": put("trace", "samples", True, 0),
    "a number too large": put("trace", "samples", 2**64, 0),
    "not finite": put("average_effect", "mean", float("nan"), 0),
    "no time": put("revision", "created", "yesterday"),
    "a time without a zone": put("revision", "created", "2026-01-01T00:00:00"),
    "null": put("revision", "fingerprint", None),
    "half a character": put("revision", "message", "\ud800"),
    "a list for an object": put("revision", "hparams", []),
    "an id twice": put("revision", "id", EDITS[1]),
    "an id of another form": put("revision", "id", "head"),
    "an id that is a path": put("revision", "id", "../../../x"),
    "two bases": put("revision", "kind", "base"),
    "another kind": put("revision", "kind", "merge"),
    "an edit without a delta": put("revision", "delta", None),
    "a delta that is a path": put("revision", "delta", "../../etc/passwd"),
    "no parent": put("revision", "parent", "0123456789"),
    "its own parent": put("revision", "parent", EDITS[0]),
    "a circle": put("revision", "parent", REVERT),
    "reverts itself": put("revision", "reverts", REVERT, -1),
    "reverts the base": lambda rows: rows["revision"][-1].__setitem__("reverts", rows["revision"][0]["id"]),
    "reverts what comes later": put("revision", "reverts", EDITS[2], -1),
    "another base": put("revision", "fingerprint", "0" * 64, 0),
    "no fingerprint": put("revision", "fingerprint", "short"),
    "a request without a subject": put("revision", "requests", [{"prompt": "", "target_new": ""}]),
    "a request that is no object": put("revision", "requests", ["x"]),
    "layers that are texts": put("revision", "hparams", {"layers": "evil"}),
    "figures of another form": put("revision", "statistics", {"delta": {"m": {"relative": "large"}}}),
    "a covariance that is a text": put("revision", "covariances", ["1"]),
    "no such layer": put("covariance", "layer", 2, 0),
    "another width": put("covariance", "width", 4, 0),
    "another module": put("covariance", "module", "model.layers.0.mlp.up_proj", 0),
    "a covariance of another base": put("covariance", "fingerprint", "0" * 64, 0),
    "no tokens": put("covariance", "tokens", 0, 0),
    "a curve of texts": put("covariance", "curve", ["x"], 0),
    "extends a list": put("covariance", "origin", {"extends": [1]}, 0),
    "a passage of lists": put("passage", "revisions", [["a"]], 0),
    "a trace of no revision": put("trace", "revision", "0123456789", 0),
    "a trace of another kind of tokens": put("trace", "tokens", "none", 0),
    "a trace of no set": put("trace", "fact_set_id", 99, 0),
    "a result of no trace": put("trace_result", "trace_id", 99, 0),
    "scores of another shape": put("trace_result", "scores", {"mlp": {"window": 1, "scores": [[1.0]]}}, 0),
    "scores that are texts": put(
        "trace_result", "scores", {"mlp": {"window": 1, "scores": [["", ""], ["", ""]]}}, 0
    ),
    "no window": put("trace_result", "scores", {"mlp": {"scores": []}}, 0),
    "an estimate of another shape": put("trace_result", "estimate", {"mlp": []}, 0),
    "a subject beyond the tokens": put("trace_result", "subject_end", 5, 0),
    "tokens that are numbers": put("trace_result", "tokens", [1, 2], 0),
    "a result twice": lambda rows: rows["trace_result"].append(rows["trace_result"][0] | {"id": 99}),
    "an effect of no layer": put("average_effect", "layer", -1, 0),
    "a fact of no set": put("fact", "fact_set_id", 99, 0),
}


@pytest.mark.parametrize("change", ROWS.values(), ids=ROWS)
def test_rows(sound: Members, target: Catalog, tmp_path: Path, change: Change) -> None:
    rows = json.loads(sound["rows.json"])
    change(rows)
    refuse(
        target,
        pack(tmp_path / "x", sound | {"rows.json": json.dumps(rows).encode()}),
        "cannot be imported|has seen 0 tokens",
    )


FACTORS = {
    f"{MATRIX}.weight.A": np.ones((1, 3), np.float32),
    f"{MATRIX}.weight.B": np.ones((2, 1), np.float32),
}
DELTAS: dict[str, bytes] = {
    "no safetensors": b"\x80\x04pickle",
    "a header of 100 TB": struct.pack("<Q", 10**14) + b"{}",
    "nothing": save({}),
    "another matrix": save({name.replace(MATRIX, "lm_head"): array for name, array in FACTORS.items()}),
    "half a pair": save({f"{MATRIX}.weight.A": np.ones((1, 3), np.float32)}),
    "another rank": save(FACTORS | {f"{MATRIX}.weight.B": np.ones((2, 5), np.float32)}),
    "not finite": save(FACTORS | {f"{MATRIX}.weight.B": np.full((2, 1), np.inf, np.float32)}),
    "another type": save(FACTORS | {f"{MATRIX}.weight.B": np.ones((2, 1), np.float64)}),
    "no matrix": save(FACTORS | {f"{MATRIX}.weight.B": np.ones(2, np.float32)}),
    "something beside": save(FACTORS | {"more": np.ones(2, np.float32)}),
}  # fmt: skip
SUMS: dict[str, bytes] = {
    "no covariance": save({"other": np.ones(6)}),
    "another width": save({"total": np.ones(10)}),
    "another type": save({"total": np.ones(6, np.float32)}),
    "not finite": save({"total": np.array([1, 0, 0, 1, 0, np.nan])}),
    "no second moment": save({"total": np.array([1.0, 5, 0, 1, 0, 1])}),
}


@pytest.mark.parametrize(("table", "column", "blob"), [
    *(pytest.param("revision", "delta", blob, id=f"delta: {name}") for name, blob in DELTAS.items()),
    *(pytest.param("covariance", "artifact", blob, id=f"covariance: {name}") for name, blob in SUMS.items()),
])  # fmt: skip
def test_artifacts(
    sound: Members, target: Catalog, tmp_path: Path, table: str, column: str, blob: bytes
) -> None:
    rows, members = json.loads(sound["rows.json"]), dict(sound)
    digest = hashlib.sha256(blob).hexdigest()
    row = next(one for one in rows[table] if one[column])
    del members[f"artifacts/{row[column]}"]
    row[column] = digest
    members |= {"rows.json": json.dumps(rows).encode(), f"artifacts/{digest}": blob}
    refuse(target, pack(tmp_path / "x", members), "the delta|the covariance|holds")


def test_what_is_large_takes_little_memory(sound: Members, tmp_path: Path) -> None:
    """A sparse file of 4 GB that calls itself a bundle."""
    with_model(tmp_path / "home").close()
    path = pack(tmp_path / "x", sound)
    data = path.read_bytes()
    with path.open("wb") as file:
        file.seek(4_000_000_000)
        file.write(data)
    program = (
        "import resource, sys; from pathlib import Path; from retcon.store.exchange import bundle_archive\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000,) * 2)\n"
        "with bundle_archive.read(Path(sys.argv[1])) as bundle: print(len(bundle.artifacts))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "5" or "InputError" in done.stderr, done.stderr
