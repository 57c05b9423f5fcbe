"""Access to the Hugging Face Hub for publishing: account, repos, uploads, commits, and errors in plain English.

huggingface_hub reads the token from its own storage, in this process only.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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

NO_TOKEN = "This machine has no token for the hub. Log in with `retcon hub login`, then run this again."
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".gguf")
_SECRET = re.compile(r"hf_[A-Za-z0-9]+")
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")
_REFUSALS = {
    401: "The hub does not accept the token: it has expired or was revoked. Log in again with `retcon hub login`.",
    403: "The token or its account may not write to {repo}. Use a token with the write role, or a repo of your own.",
    404: "The hub has no repo {repo}, or this token may not read it.",
    409: "The hub refused {repo} because another upload was running. Run the command again.",
    412: "Another commit to {repo} was made meanwhile. Check it, then publish again on top of it.",
    413: "The hub refused a file for {repo} because of its size.",
}


class HubError(CatalogError):
    """The hub failed on a valid request. It keeps the files that it has received."""


@dataclass(frozen=True)
class Account:
    """The account of the token, and the token's role."""

    name: str
    role: str | None


@dataclass(frozen=True)
class RemoteRepo:
    """A repo at its newest commit `head`. `files` maps a path to the digest of its content (see `hash_file`)."""

    head: str
    is_private: bool
    files: dict[str, str]
    manifest: Manifest | None

    def has(self, files: Mapping[str, Path], removed: set[str]) -> bool:
        """Whether the repo has exactly these contents, and none of the removed files."""
        is_same = all(self.files.get(name) in hash_file(path) for name, path in files.items())
        return is_same and not removed & self.files.keys()

    def stale_files(self, files: Mapping[str, Path]) -> set[str]:
        """Files of an earlier publication that this one does not have."""
        return (self._published & self.files.keys()) - files.keys()

    def foreign_weights(self, files: Mapping[str, Path]) -> list[str]:
        """Weight files that retcon did not publish. A program that loads the repo could load these instead."""
        weights = (name for name in self.files if name.endswith(_WEIGHTS) and "/" not in name)
        return sorted(name for name in weights if name not in self._published and name not in files)

    @property
    def _published(self) -> set[str]:
        return set(self.manifest.files) if self.manifest else set()


def find_account() -> Account:
    """The account of the token.

    Raises:
        InputError: there is no token, or it may only read.
    """
    if get_token() is None:
        raise InputError(NO_TOKEN)
    found = HfApi().whoami()
    role = (found.get("auth", {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise InputError(
            f"The token of {found['name']} may only read. Create one with the write role, then run `retcon hub login`."
        )
    return Account(found["name"], role)


def find_repo(name: str) -> RemoteRepo | None:
    """The current state of a repo, or None if it does not exist.

    Raises:
        HfHubHTTPError and network errors.
    """
    api = HfApi()
    try:
        info: ModelInfo = api.model_info(name)
    except RepositoryNotFoundError:
        return None
    assert info.sha is not None
    files = list_remote_files(name, info.sha)
    manifest = None
    if MANIFEST in files:
        path = Path(api.hf_hub_download(name, MANIFEST, revision=info.sha))
        with suppress(InputError, UnicodeDecodeError):  # another program wrote a file of that name
            manifest = Manifest.parse(path.read_text(encoding="utf-8"), f"{name}/{MANIFEST}")
    return RemoteRepo(info.sha, bool(info.private), files, manifest)


def list_remote_files(repo: str, commit: str) -> dict[str, str]:
    """The digest of each file of a commit: sha256 for an LFS file, otherwise git's blob id."""
    tree = HfApi().list_repo_tree(repo, recursive=True, revision=commit)
    return {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in tree
        if isinstance(entry, RepoFile)
    }


def hash_file(path: Path) -> tuple[str, str]:
    """The two digests by which the hub may identify a file: sha256, and git's blob id."""
    status = path.stat()
    return _hash_file(path, status.st_size, status.st_mtime_ns)


@cache
def _hash_file(path: Path, size: int, _modified: int) -> tuple[str, str]:
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            git.update(chunk)
    return sha256_of(path), git.hexdigest()


def has_xet_storage(repo: str) -> bool:
    """Whether the hub has xet storage. If not, the client is set to LFS, since it does not detect that itself."""
    if constants.HF_HUB_DISABLE_XET:
        return False
    url = f"{constants.ENDPOINT}/api/models/{repo}/xet-write-token/main"
    if get_session().get(url, headers=build_hf_headers()).status_code == 404:
        constants.HF_HUB_DISABLE_XET = True
    return not constants.HF_HUB_DISABLE_XET


class MeteredAddition(CommitOperationAdd):
    """A file to commit. `on_read(offset)` is called as its bytes are uploaded."""

    def __init__(self, name: str, path: Path, on_read: Callable[[int], None]) -> None:
        super().__init__(path_in_repo=name, path_or_fileobj=path)
        self.upload_info.sha256 = bytes.fromhex(
            hash_file(path)[0]
        )  # otherwise the client hashes the file again
        self._on_read = on_read

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        # The client requests a progress bar exactly where it uploads the bytes.
        assert isinstance(self.path_or_fileobj, str)
        on_read = self._on_read if with_tqdm else lambda _offset: None
        with _MeteredFile(self.path_or_fileobj, on_read) as file:
            yield file


class _MeteredFile(io.BufferedReader):
    """A file that reports the offset after each read. A retry starts again at a lower offset."""

    def __init__(self, path: str, on_read: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path))
        self._on_read = on_read

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._on_read(self.tell())
        return data


@dataclass(frozen=True)
class HubCommit:
    """A commit to create: local files by their name in the repo, names to remove, and the parent commit."""

    repo: str
    files: Mapping[str, Path]
    removed: set[str]
    parent: str
    title: str
    description: str

    def additions(self, on_read: Callable[[str, int], None]) -> list[MeteredAddition]:
        return [
            MeteredAddition(name, path, lambda offset, name=name: on_read(name, offset))  # type: ignore[misc]
            for name, path in self.files.items()
        ]


def create_commit(commit: HubCommit, additions: list[MeteredAddition]) -> str:
    """Create the commit and return its id. If the hub's response was lost, the commit is searched in the repo.

    Raises:
        HfHubHTTPError and network errors, also if the parent is no longer the head.
    """
    removals = [CommitOperationDelete(name) for name in sorted(commit.removed)]
    operations: list[Any] = [*additions, *removals]
    try:
        info = HfApi().create_commit(
            commit.repo, operations, commit_message=commit.title, commit_description=commit.description,
            parent_commit=commit.parent,
        )  # fmt: skip
    except Exception as error:
        if _find_status(error) != 412 and not _is_network_error(error):
            raise
        repo = find_repo(commit.repo)
        found = find_commit(commit, repo) if repo else None
        if found is None:
            raise
        return found
    return str(info.oid)


def find_commit(commit: HubCommit, repo: RemoteRepo) -> str | None:
    """The id of the commit if the repo already has its files: the one with this title, or the head."""
    if not repo.has(commit.files, commit.removed):
        return None
    for one in HfApi().list_repo_commits(commit.repo):
        if one.title == commit.title and commit.description in one.message:
            return str(one.commit_id)
    return repo.head


def verify_commit(commit: HubCommit, oid: str) -> None:
    """Compare the hub's digests of a commit with the local files.

    Raises:
        HubError: a file is missing or differs. The message names the first one.
    """
    remote = list_remote_files(commit.repo, oid)
    for name, path in commit.files.items():
        if remote.get(name) not in hash_file(path):
            fault = "is missing" if name not in remote else "is corrupt"
            raise HubError(
                f"{name} {fault} in commit {oid[:10]} of {commit.repo}. Run `retcon unpublish {commit.repo}`, then "
                "publish to a new repo."
            )


def tag_commit(repo: str, oid: str, tag: str, message: str) -> bool:
    """Tag a commit. Returns False if the tag belongs to another commit, which keeps it."""
    api = HfApi()
    for one in api.list_repo_refs(repo).tags:
        if one.name == tag:
            return one.target_commit == oid
    api.create_tag(repo, tag=tag, tag_message=message, revision=oid)
    return True


@contextmanager
def translate_hub_errors(repo: str) -> Iterator[None]:
    """Replace the client's errors by a plain sentence: InputError if the user must act, HubError if waiting helps.

    The original is not chained, since its text and its requests hold signed URLs, which work like passwords.
    """
    try:
        yield
    except (InputError, CatalogError, StopRequested):
        raise
    except Exception as error:
        translated = _translate(error, repo)
    else:
        return
    raise translated from None


def _translate(error: Exception, repo: str) -> Exception:
    if any(isinstance(one, StopRequested) for one in _causes(error)):
        return StopRequested()
    status = _find_status(error)
    if status in _REFUSALS:
        return InputError(_REFUSALS[status].format(repo=repo))
    if status == 429:
        response = next(one.response for one in _causes(error) if getattr(one, "response", None) is not None)  # type: ignore[attr-defined]
        wait = response.headers.get("Retry-After")
        when = f"in {wait} seconds" if wait and wait.isdigit() else "in some minutes"
        return HubError(f"The hub limits the number of requests (429). Resume this job {when}.")
    if status is not None and status >= 500:
        return HubError(
            f"The hub failed (status {status}), and nothing was published. Resume this job later."
        )
    if _is_network_error(error):
        return HubError(
            f"The hub at {constants.ENDPOINT} cannot be reached. Resume this job when the network is back. Uploaded "
            "files are not uploaded again."
        )
    first = (str(error).strip().splitlines() or [""])[0]
    # Without tokens, and without the signatures of upload URLs.
    redacted = _QUERY.sub(r"\1?…", _SECRET.sub("hf_…", first))
    return HubError(f"Publishing to {repo} failed: {type(error).__name__}: {redacted}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes. The client wraps the errors of its threads."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _find_status(error: BaseException) -> int | None:
    """The HTTP status that caused an error."""
    found = (getattr(getattr(one, "response", None), "status_code", None) for one in _causes(error))
    return next((status for status in found if isinstance(status, int)), None)


def _is_network_error(error: BaseException) -> bool:
    """Whether an exception means that the connection failed or was lost."""
    import httpx2

    return any(
        isinstance(one, httpx2.TransportError | ConnectionError | TimeoutError) for one in _causes(error)
    )
