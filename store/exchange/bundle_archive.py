"""The file of a bundle: a ZIP of a manifest, rows, and artifacts. Reading trusts no byte of it.

    manifest.json       the model, and the size and sha256 of every other member
    rows.json           the rows, see `bundle_rows`
    artifacts/DIGEST    the files that the rows name

Members are not compressed: tensors do not shrink, and a stored member cannot be a bomb. No member is extracted to its
name: only these three forms of names are accepted.
"""

import errno
import hashlib
import json
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ... import __version__
from ..catalog.artifacts import SHA256
from ..errors import InputError

FORMAT, VERSION = "retcon bundle", 1
_MANIFEST, _ROWS = "manifest.json", "rows.json"
_ARTIFACT = re.compile(f"artifacts/({SHA256.pattern})")
_MOST_MEMBERS = 200_000
# Limits for members that are read into memory, where JSON takes several times its size.
_LARGEST = {_MANIFEST: 64 * 2**20, _ROWS: 2**29}
_CHUNK = 1 << 20
# Errors of zipfile for broken or forged files.
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError,
           OverflowError)  # fmt: skip

Report = Callable[[int, int], object]


def write(
    path: Path,
    about: Mapping[str, Any],
    rows: Mapping[str, Any],
    artifacts: Mapping[str, Path],
    report: Report,
) -> None:
    """Write a bundle. Hashes each artifact while reading it.

    Raises InputError if an artifact is corrupt, or if the rows exceed the limit of `read`.
    """
    text = json.dumps(rows, default=datetime.isoformat).encode()
    if len(text) > _LARGEST[_ROWS]:
        raise InputError(
            f"The history has {len(text) / 1e9:.1f} GB of traces and scores, more than a bundle may contain."
        )
    members = {_ROWS: {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}}
    done, total = 0, sum(source.stat().st_size for source in artifacts.values())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for digest, source in sorted(artifacts.items()):
            hashed, size = hashlib.sha256(), 0
            with (
                source.open("rb") as file,
                archive.open(_entry(f"artifacts/{digest}", source.stat().st_size), "w") as to,
            ):
                while chunk := file.read(_CHUNK):
                    hashed.update(chunk)
                    size += len(chunk)
                    to.write(chunk)
                    report(done + size, total)
            if hashed.hexdigest() != digest:
                raise InputError(f"{source} changed during the export: run `retcon catalog check`.")
            done += size
            members[f"artifacts/{digest}"] = {"size": size, "sha256": digest}
        archive.writestr(_entry(_ROWS, len(text)), text)
        head = (
            {"format": FORMAT, "version": VERSION, "retcon": __version__} | dict(about) | {"members": members}
        )
        archive.writestr(_entry(_MANIFEST, 0), json.dumps(head, indent=1).encode())


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    # A fixed date: the same history gives the same bytes.
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.file_size = size
    return entry


@dataclass(frozen=True)
class Bundle:
    """An open bundle. All bytes were compared with its manifest."""

    path: Path
    archive: zipfile.ZipFile
    about: dict[str, Any]
    rows: dict[str, Any]
    # The size of each artifact in bytes.
    artifacts: dict[str, int]

    @contextmanager
    def artifact(self, digest: str) -> Iterator[IO[bytes]]:
        """The bytes of an artifact. The file may have changed since its check: hash them again."""
        with _bundle_errors(self.path), self.archive.open(f"artifacts/{digest}") as file:
            yield file


@contextmanager
def read(path: Path, report: Report = lambda _done, _total: None) -> Iterator[Bundle]:
    """Verify and open a bundle. Writes no file.

    Raises InputError if it is not a bundle, is corrupt, is of a newer program, or has unknown members.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file.")
    with _bundle_errors(path):
        archive = zipfile.ZipFile(path)
    with archive:
        with _bundle_errors(path):
            entries = _entries(path, archive)
            manifest = _manifest(path, archive, entries)
            members = _members(path, manifest, entries)
            _verify(path, archive, members, report)
            rows = _json(path, archive, entries[_ROWS])
        if not isinstance(rows, dict):
            raise InputError(f"{path} is not a retcon bundle: rows.json must hold a JSON object.")
        artifacts = {
            match[1]: size for name, (size, _) in members.items() if (match := _ARTIFACT.fullmatch(name))
        }
        yield Bundle(path, archive, manifest, rows, artifacts)


@contextmanager
def _bundle_errors(path: Path) -> Iterator[None]:
    """Convert errors about a broken file into InputError."""
    try:
        yield
    except _BROKEN as error:
        raise InputError(
            f"{path} is not a complete bundle of retcon ({error}): download it again."
        ) from error
    except OSError as error:
        # A forged directory can name an offset before the beginning of the file.
        if error.errno != errno.EINVAL:
            raise
        raise InputError(f"{path} is not a complete bundle of retcon: download it again.") from error
    except RecursionError as error:
        raise InputError(f"{path} contains JSON that is nested too deeply.") from error


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name. Rejects unknown names and file types."""
    found: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > _MOST_MEMBERS:
        raise InputError(f"{path} has {len(infos)} members, more than a bundle of retcon can have.")
    for info in infos:
        name = info.orig_filename  # zipfile cuts `filename` at a NUL
        if name in found:
            raise InputError(f"{path} contains {name!r} twice.")
        if name != info.filename or not (name in _LARGEST or _ARTIFACT.fullmatch(name)):
            raise InputError(
                f"{path} contains {name[:200]!r}, which is not a member of a bundle: do not trust it."
            )
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG) or info.flag_bits & 1:
            raise InputError(f"{path} contains {name!r} as a link, a device or encrypted: do not trust it.")
        _check_size(path, info)
        found[name] = info
    # Overlapping members could be few bytes in the file and many when read.
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise InputError(f"{path} declares members that are larger than the file itself: do not use it.")
    for name in _LARGEST:
        if name not in found:
            raise InputError(f"{path} is not a bundle of retcon: it has no {name}.")
    return found


def _check_size(path: Path, info: zipfile.ZipInfo) -> None:
    """Reject compressed members, and members that are too large to be read at once."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise InputError(
            f"{path} contains {info.filename} compressed, unlike a bundle of retcon: do not trust it."
        )
    if info.file_size > _LARGEST.get(info.filename, info.file_size):
        raise InputError(
            f"{path} has a {info.filename} of {info.file_size} bytes, more than a bundle may contain."
        )


def _json(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    with archive.open(entry) as file:
        # zipfile reads at most the declared size.
        text = file.read(entry.file_size + 1)
    return json.loads(text.decode("utf-8"))


def _manifest(path: Path, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, Any]:
    found = _json(path, archive, entries[_MANIFEST])
    if not isinstance(found, dict) or found.get("format") != FORMAT or type(found.get("version")) is not int:
        raise InputError(f"{path} is not a bundle of retcon: its manifest has another format.")
    if found["version"] != VERSION:
        raise InputError(
            f"{path} is a bundle of version {found['version']}, written by retcon {str(found.get('retcon'))[:40]}; "
            f"this is retcon {__version__}, which reads version {VERSION}: install the newer retcon."
        )
    return found


def _members(
    path: Path, manifest: Mapping[str, Any], entries: Mapping[str, zipfile.ZipInfo]
) -> dict[str, tuple[int, str]]:
    """The size and digest of each member, from the manifest. Raises InputError if the names differ."""
    listed = manifest.get("members")
    if not isinstance(listed, dict) or set(listed) != set(entries) - {_MANIFEST}:
        raise InputError(f"{path} does not contain the members that its manifest lists.")
    found = {}
    for name, one in listed.items():
        size, digest = (one.get("size"), one.get("sha256")) if isinstance(one, dict) else (None, None)
        own = _ARTIFACT.fullmatch(name)
        if type(size) is not int or not isinstance(digest, str) or not SHA256.fullmatch(digest):
            raise InputError(f"{path}: the manifest has no valid size and sha256 of {name}.")
        if size != entries[name].file_size or (own and own[1] != digest):
            raise InputError(f"{path}: {name} differs from the manifest.")
        found[name] = (size, digest)
    return found


def _verify(
    path: Path, archive: zipfile.ZipFile, members: Mapping[str, tuple[int, str]], report: Report
) -> None:
    done, total = 0, sum(size for size, _ in members.values())
    for name, (_, digest) in members.items():
        hashed = hashlib.sha256()
        with archive.open(name) as file:
            while chunk := file.read(_CHUNK):
                hashed.update(chunk)
                done += len(chunk)
                report(done, total)
        if hashed.hexdigest() != digest:
            raise InputError(
                f"{path}: {name} has changed since the bundle was written, or is truncated: download it again."
            )


def copy(source: IO[bytes], target: Path) -> None:
    """Write the bytes of an artifact to a file."""
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
