"""Broken or forged bundle archives: each is rejected in one sentence, and nothing of it is stored."""

import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.store.errors import InputError
from retcon.store.exchange import bundle as bundles
from retcon.store.exchange import bundle_archive
from retcon.tests.helpers.bundle_catalog import (
    Members,
    assert_rejected,
    pack,
    with_model,
)


def test_valid_bundle_is_imported(valid: Members, target: Catalog, tmp_path: Path) -> None:
    assert bundles.import_history(target, pack(tmp_path / "x", valid)).added["revision"] == 4


NAMES = ["../evil", "/etc/evil", "..\\evil", "C:\\evil", "artifacts/../../evil", "artifacts/", "artifacts/evil",
         "artifacts/" + "a" * 63, "artifacts/" + "A" * 64, "artifacts//" + "a" * 64, "./rows.json", "rows.json/",
         "évil", "\u202egpj.exe", "a\nb", "x" * 60_000, "manifest.json/../x", "/"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_unknown_member_name_is_rejected(valid: Members, target: Catalog, tmp_path: Path, name: str) -> None:
    assert_rejected(target, pack(tmp_path / "x", valid | {name: b"evil"}), "do not trust it")


def test_member_name_with_nul_is_rejected(valid: Members, target: Catalog, tmp_path: Path) -> None:
    """zipfile cuts a name at a NUL: the checked name would not be the used one."""
    path = pack(tmp_path / "x", valid | {"rows.jsonXevil": b"evil"})
    path.write_bytes(path.read_bytes().replace(b"rows.jsonXevil", b"rows.json\0evil"))
    assert_rejected(target, path, "do not trust it|twice")


def add_raw(path: Path, info: zipfile.ZipInfo, data: bytes) -> Path:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, data)
    return path


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFSOCK]
)
def test_links_and_devices_are_rejected(valid: Members, target: Catalog, tmp_path: Path, kind: int) -> None:
    digest = hashlib.sha256(b"/etc/passwd").hexdigest()
    info = zipfile.ZipInfo(f"artifacts/{digest}")
    info.external_attr = (kind | 0o777) << 16
    info.create_system = 3
    assert_rejected(target, add_raw(pack(tmp_path / "x", valid), info, b"/etc/passwd"), "a link, a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_member_is_rejected(valid: Members, target: Catalog, tmp_path: Path) -> None:
    path = add_raw(pack(tmp_path / "x", valid), zipfile.ZipInfo("rows.json"), b"{}")
    assert_rejected(target, path, "'rows.json' twice")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_member_is_rejected(
    valid: Members, target: Catalog, tmp_path: Path, compression: int
) -> None:
    zeros = b"[" + b" " * 50_000_000 + b"]"
    path = pack(tmp_path / "rows", valid | {"rows.json": zeros}, compression=compression)
    assert path.stat().st_size < 500_000
    assert_rejected(target, path, "compressed, unlike")
    digest = hashlib.sha256(bytes(10_000_000)).hexdigest()
    info = zipfile.ZipInfo(f"artifacts/{digest}")
    info.compress_type = compression
    assert_rejected(
        target, add_raw(pack(tmp_path / "blob", valid), info, bytes(10_000_000)), "compressed, unlike"
    )


def test_too_large_rows_are_rejected(
    valid: Members, target: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bundle_archive._LARGEST, "rows.json", len(valid["rows.json"]) - 1)
    assert_rejected(target, pack(tmp_path / "x", valid), "more than a bundle may contain")
    with pytest.raises(InputError, match="more than a bundle may contain"):
        bundle_archive.write(
            tmp_path / "y", {}, json.loads(valid["rows.json"]), {}, lambda _done, _total: None
        )


def entries(data: bytes) -> list[int]:
    """The offsets of the entries of a ZIP's central directory."""
    found, at = [], data.find(b"PK\1\2")
    while at >= 0:
        found.append(at)
        at = data.find(b"PK\1\2", at + 4)
    return found


def test_declared_size_beyond_file_is_rejected(valid: Members, target: Catalog, tmp_path: Path) -> None:
    """The central directory declares 3 GB for an artifact."""
    data = bytearray(pack(tmp_path / "x", valid).read_bytes())
    blob = next(at for at in entries(bytes(data)) if b"artifacts/" in data[at : at + 60])
    data[blob + 20 : blob + 28] = struct.pack("<II", 3_000_000_000, 3_000_000_000)
    (tmp_path / "x").write_bytes(data)
    assert_rejected(target, tmp_path / "x", "larger than the file")


def test_overlapping_members_are_rejected(valid: Members, target: Catalog, tmp_path: Path) -> None:
    """50 members share the same bytes."""
    members = dict(valid)
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
    assert_rejected(target, path, "larger than the file")


def test_encrypted_member_is_rejected(valid: Members, target: Catalog, tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "x", valid).read_bytes())
    data[entries(bytes(data))[0] + 8] |= 1
    (tmp_path / "x").write_bytes(data)
    assert_rejected(target, tmp_path / "x", "encrypted")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99, 0.999])
def test_truncated_bundle_is_rejected(valid: Members, target: Catalog, tmp_path: Path, share: float) -> None:
    path = pack(tmp_path / "x", valid)
    os.truncate(path, int(path.stat().st_size * share))
    assert_rejected(target, path, "not a complete bundle")


def test_flipped_bit_is_detected_or_harmless(valid: Members, target: Catalog, tmp_path: Path) -> None:
    """Each flipped bit is rejected, or it is in an unused field and the content stays equal."""
    path = pack(tmp_path / "x", valid)
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
            assert rows == json.loads(valid["rows.json"])
            assert digests == {name[10:] for name in valid if name.startswith("artifacts/")}
    assert refused > len(places) * 0.7


def test_other_file_types_are_rejected(valid: Members, target: Catalog, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bundle.tar.gz", "w:gz") as archive:
        archive.add(__file__, "../evil")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("bundle.tar.gz", "text", "empty"):
        assert_rejected(target, tmp_path / name, "not a complete bundle")
    for name in ("nowhere", "home"):
        assert_rejected(target, tmp_path / name, "is not a file")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive_of_others:
        archive_of_others.writestr("manifest.json", "{}")
    assert_rejected(target, tmp_path / "zip", "has no rows.json")


def test_wrong_digest_is_rejected(valid: Members, target: Catalog, tmp_path: Path) -> None:
    """The CRCs of the archive are right, but the bytes differ from the manifest."""
    name = next(name for name in valid if name.startswith("artifacts/"))
    other = valid | {name: bytes([valid[name][0] ^ 1]) + valid[name][1:]}
    assert_rejected(target, pack(tmp_path / "old", other, honest=False), "has changed")
    assert_rejected(target, pack(tmp_path / "new", other), "differs from the manifest")
    assert_rejected(
        target,
        pack(tmp_path / "rows", valid | {"rows.json": valid["rows.json"] + b" "}, honest=False),
        "manifest",
    )
    without = {one: data for one, data in valid.items() if one != name}
    assert_rejected(
        target,
        pack(tmp_path / "gone", without, honest=False),
        "does not contain the members that its manifest lists",
    )
    assert_rejected(
        target, pack(tmp_path / "gone too", without), "its artifacts are not those that its rows name"
    )
    blob = b"unreferenced"
    more = valid | {f"artifacts/{hashlib.sha256(blob).hexdigest()}": blob}
    assert_rejected(target, pack(tmp_path / "more", more), "its artifacts are not those that its rows name")


def test_newer_version_is_rejected(valid: Members, target: Catalog, tmp_path: Path) -> None:
    """A newer bundle may have unknown members; the error names its version."""
    path = pack(tmp_path / "x", valid, manifest={"version": 2, "retcon": "9.9"})
    assert_rejected(target, path, "version 2, written by retcon 9.9.*install the newer retcon")


def test_large_file_is_read_with_little_memory(valid: Members, tmp_path: Path) -> None:
    """A sparse file of 4 GB with a bundle at its end."""
    with_model(tmp_path / "home").close()
    path = pack(tmp_path / "x", valid)
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
