"""The hub as publishing uses it: who we are, what is in the repo, what is sent, and whether it arrived.

The token is read where huggingface_hub keeps it, by that library, in this process only.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

from ....store.catalog.artifacts import sha256_of
from ....store.errors import InputError
from ....store.exchange.manifest import MANIFEST, Manifest
from .hub_errors import HubFailed, is_network, status_of

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

NO_TOKEN = (
    "there is no token for the hub on this machine: log in with `retcon hub login`, then run this again"
)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".gguf")
Sent = Callable[[int], None]


@dataclass(frozen=True)
class Account:
    """Who the token belongs to, and what it may do."""

    name: str
    role: str | None


@dataclass(frozen=True)
class Remote:
    """A repo as it is at its newest commit; `files` maps a path to the digest of its content (see `digest_of`)."""

    head: str
    private: bool
    files: dict[str, str]
    manifest: Manifest | None

    def holds(self, files: Mapping[str, Path], gone: set[str]) -> bool:
        """Whether all files are there as they are here, and none of those that should be gone."""
        same = all(self.files.get(name) in digests_of(path) for name, path in files.items())
        return same and not gone & self.files.keys()

    def stale(self, files: Mapping[str, Path]) -> set[str]:
        """What an earlier publication left that this one does not have."""
        listed = self.manifest.files if self.manifest else {}
        return (listed.keys() & self.files.keys()) - files.keys()

    def foreign_weights(self, files: Mapping[str, Path]) -> list[str]:
        """Weights that retcon did not put there: who loads the repo could get those instead."""
        listed = self.manifest.files if self.manifest else {}
        loose = (name for name in self.files if name.endswith(_WEIGHTS) and "/" not in name)
        return sorted(name for name in loose if name not in listed and name not in files)


def account() -> Account:
    """Ask the hub whose token this is.

    Raises:
        InputError: there is none, or it may only read.
    """
    if get_token() is None:
        raise InputError(NO_TOKEN)
    found = HfApi().whoami()
    role = (found.get("auth", {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise InputError(
            f"the token of {found['name']} may only read: make one with the write role, then `retcon hub login`"
        )
    return Account(found["name"], role)


def remote(repo: str) -> Remote | None:
    """The repo as it is now; None if the hub knows none of that name.

    Raises:
        HfHubHTTPError and what the network raises.
    """
    api = HfApi()
    try:
        info: ModelInfo = api.model_info(repo)
    except RepositoryNotFoundError:
        return None
    assert info.sha is not None
    files = remote_files(repo, info.sha)
    return Remote(info.sha, bool(info.private), files, _manifest(api, repo, info.sha, files))


def remote_files(repo: str, commit: str) -> dict[str, str]:
    """Each file of a commit: the sha256 of an LFS file, the git blob id of another."""
    tree = HfApi().list_repo_tree(repo, recursive=True, revision=commit)
    return {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in tree
        if isinstance(entry, RepoFile)
    }


def digests_of(path: Path) -> tuple[str, str]:
    """Both digests that the hub may know a file by: sha256, and git's blob id."""
    found = path.stat()
    return _digests(path, found.st_size, found.st_mtime_ns)


@cache
def _digests(path: Path, size: int, _changed: int) -> tuple[str, str]:
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            git.update(chunk)
    return sha256_of(path), git.hexdigest()


def _manifest(api: HfApi, repo: str, commit: str, files: Mapping[str, str]) -> Manifest | None:
    if MANIFEST not in files:
        return None
    path = Path(api.hf_hub_download(repo, MANIFEST, revision=commit))
    try:
        return Manifest.parse(path.read_text(encoding="utf-8"), f"{repo}/{MANIFEST}")
    except (InputError, UnicodeDecodeError):
        return None  # somebody else's file of that name


def without_xet_if_lacking(repo: str) -> bool:
    """Send as LFS where the hub has no xet storage: the client does not find out by itself. Whether it has."""
    if constants.HF_HUB_DISABLE_XET:
        return False
    url = f"{constants.ENDPOINT}/api/models/{repo}/xet-write-token/main"
    lacking = get_session().get(url, headers=build_hf_headers()).status_code == 404
    if lacking:
        constants.HF_HUB_DISABLE_XET = True
    return not lacking


class CountedAdd(CommitOperationAdd):
    """A file to commit that tells how much of it has been read, so that progress is told in bytes."""

    def __init__(self, name: str, path: Path, sent: Sent) -> None:
        super().__init__(path_in_repo=name, path_or_fileobj=path)
        self.upload_info.sha256 = bytes.fromhex(digests_of(path)[0])  # else it would be hashed once more
        self._sent = sent

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        # The client asks for its progress bar exactly where it sends the bytes.
        assert isinstance(self.path_or_fileobj, str)
        with Path(self.path_or_fileobj).open("rb") as file:
            yield _Counted(file, self._sent) if with_tqdm else file  # type: ignore[misc]


class _Counted(io.BufferedIOBase):
    """A file that tells where it was read up to; a retry begins again at an earlier place."""

    def __init__(self, file: BinaryIO, sent: Sent) -> None:
        self._file, self._sent = file, sent

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._file.read(-1 if size is None else size)
        self._sent(self._file.tell())
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


@dataclass(frozen=True)
class Push:
    """One commit to make: files by their name in the repo, names to remove, and the commit that it goes on."""

    repo: str
    files: Mapping[str, Path]
    gone: set[str]
    parent: str
    title: str
    description: str

    def additions(self, sent: Callable[[str, int], None]) -> list[CountedAdd]:
        return [
            CountedAdd(name, path, lambda at, name=name: sent(name, at))  # type: ignore[misc]
            for name, path in self.files.items()
        ]


def upload(push: Push, additions: list[CountedAdd], done: Callable[[str], None]) -> None:
    """Send the large files one after another; what the hub has already is not sent."""
    api = HfApi()
    for addition in additions:
        api.preupload_lfs_files(push.repo, [addition], free_memory=False)
        done(addition.path_in_repo)


def commit(push: Push, additions: list[CountedAdd]) -> str:
    """Make the commit, or find that it was made: its answer may have been lost. Its id.

    Raises:
        InputError: somebody else committed first.
        HfHubHTTPError and what the network raises.
    """
    operations: list[Any] = [*additions, *(CommitOperationDelete(name) for name in sorted(push.gone))]
    try:
        made = HfApi().create_commit(
            push.repo, operations, commit_message=push.title, commit_description=push.description,
            parent_commit=push.parent,
        )  # fmt: skip
    except Exception as error:
        if status_of(error) != 412 and not is_network(error):
            raise
        there = remote(push.repo)
        found = committed(push, there) if there else None
        if found is None:
            raise
        return found
    return str(made.oid)


def committed(push: Push, there: Remote) -> str | None:
    """The commit that holds just these files, if the repo is already so: the one with our words, or the newest."""
    if not there.holds(push.files, push.gone):
        return None
    for one in HfApi().list_repo_commits(push.repo):
        if one.title == push.title and push.description in one.message:
            return str(one.commit_id)
    return there.head


def check_arrived(push: Push, oid: str) -> None:
    """Compare the digests that the hub tells of the commit with the files here.

    Raises:
        HubFailed: naming the first file that is missing or differs.
    """
    found = remote_files(push.repo, oid)
    for name, path in push.files.items():
        if found.get(name) not in digests_of(path):
            what = "did not arrive" if name not in found else "arrived damaged"
            raise HubFailed(
                f"{name} {what}: commit {oid[:10]} of {push.repo} does not have the bytes that were sent; take it back "
                f"with `retcon unpublish {push.repo}` and publish to a new repo"
            )


def tag_commit(repo: str, oid: str, tag: str, message: str) -> bool:
    """Name the commit; False if the tag names another commit already, which stays."""
    api = HfApi()
    for one in api.list_repo_refs(repo).tags:
        if one.name == tag:
            return one.target_commit == oid
    api.create_tag(repo, tag=tag, tag_message=message, revision=oid)
    return True
