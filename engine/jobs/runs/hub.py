"""The hub as publishing uses it: who we are, what is in the repo, what is sent, and whether it arrived.

The token is read where huggingface_hub keeps it, by that library, in this process only.
"""

import hashlib
import io
import re
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
from ....store.errors import CatalogError, InputError
from ....store.exchange.manifest import MANIFEST, Manifest
from ...errors import StopRequested

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


_SECRET = re.compile(r"hf_[A-Za-z0-9]+")
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")
_REFUSED = {
    401: "the hub does not accept the token: it has expired or was revoked; log in again with `retcon hub login`",
    403: "the account or its token may not write to {repo}: use a token with the write role, or a repo of your own",
    404: "the hub knows no repo {repo}, or this token may not see it",
    409: "the hub refused {repo} because another write to it is going on; run it again in a moment",
    412: "somebody else committed to {repo} meanwhile; look at what is there, then publish again on top of it",
    413: "the hub finds a file for {repo} too large",
}


class HubFailed(CatalogError):
    """The hub failed although what was asked of it was right. What it has received by then, it keeps."""


def redacted(text: str) -> str:
    """Text without tokens and without the signatures of upload addresses."""
    return _QUERY.sub(r"\1?…", _SECRET.sub("hf_…", text))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from: the client wraps what fails inside its threads."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error came from."""
    for one in causes(error):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def is_network(error: BaseException) -> bool:
    """Whether the line was cut or never there."""
    import httpx2

    return any(
        isinstance(one, httpx2.TransportError | ConnectionError | TimeoutError) for one in causes(error)
    )


@contextmanager
def plain_hub_errors(repo: str) -> Iterator[None]:
    """Turn whatever the client raises into a sentence.

    InputError where the person must act, HubFailed where waiting helps. The original is not chained: its text and its
    requests hold addresses that are as good as passwords.
    """
    try:
        yield
    except (InputError, CatalogError, StopRequested):
        raise
    except Exception as error:
        made = _plain(error, repo)
    else:
        return
    raise made from None


def _plain(error: Exception, repo: str) -> Exception:
    if any(isinstance(one, StopRequested) for one in causes(error)):
        return StopRequested()
    status = status_of(error)
    if status in _REFUSED:
        return InputError(_REFUSED[status].format(repo=repo))
    if status == 429:
        response = next(one.response for one in causes(error) if getattr(one, "response", None) is not None)  # type: ignore[attr-defined]
        wait = response.headers.get("Retry-After")
        when = f"in {wait} seconds" if wait and wait.isdigit() else "in some minutes"
        return HubFailed(
            f"the hub asks for fewer requests (429): resume this job {when}; what it has, it keeps"
        )
    if status is not None and status >= 500:
        return HubFailed(
            f"the hub failed (status {status}) and nothing was published: resume this job later; what it has, it keeps"
        )
    if is_network(error):
        from huggingface_hub import constants

        return HubFailed(
            f"the hub at {constants.ENDPOINT} cannot be reached: resume this job when the line is back; what was sent "
            "is not sent again"
        )
    first = (str(error).strip().splitlines() or [""])[0]
    return HubFailed(f"publishing to {repo} failed: {type(error).__name__}: {redacted(first)}")
