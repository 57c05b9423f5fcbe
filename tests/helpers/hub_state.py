"""The state of a stand-in hub: endpoints, repos with commits and refs, blobs, and planned faults."""

import hashlib
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = "hf_marked" + "0123456789abcdef"
PART_BYTES = 1_000_000
# Method, path and handler of each endpoint that huggingface_hub uses.
ROUTES: list[tuple[str, re.Pattern[str], str]] = [
    (method, re.compile(pattern), name)
    for method, pattern, name in (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("DELETE", r"/api/repos/delete", "delete"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<rev>[^/]+)", "preupload"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})(?:/(?P<part>\d+))?", "put"),
        ("POST", r"/storage/(?P<oid>[0-9a-f]{64})/complete", "complete"),
        ("POST", r"/storage/(?P<oid>[0-9a-f]{64})/verify", "verify"),
        ("GET", r"/storage/(?P<oid>[0-9a-f]{64})", "get"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<rev>[^/]+)", "commit"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/tag/(?P<rev>[^/]+)", "tag"),
        ("DELETE", r"/api/models/(?P<repo>[^/]+/[^/]+)/tag/(?P<rev>[^/]+)", "untag"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/refs", "refs"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/commits/(?P<rev>[^/]+)", "commits"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<rev>[^/]+)", "tree"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<rev>[^/]+)", "paths"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/xet-(?:write|read)-token/(?P<rev>[^/]+)", "xet_token"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<rev>[^/]+))?", "info"),
        ("HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
    )
]


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Entry:
    """A file of a commit: its bytes, or the id of its LFS object."""

    data: bytes | None = None
    lfs: str | None = None


@dataclass
class Commit:
    oid: str
    title: str
    message: str
    files: dict[str, Entry]
    parent: str | None


@dataclass
class Repo:
    name: str
    private: bool
    commits: list[Commit] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.commits:
            self.add("initial commit", "", {".gitattributes": Entry(b"*.safetensors filter=lfs\n")})

    def add(self, title: str, message: str, files: dict[str, Entry]) -> Commit:
        parent = self.commits[-1].oid if self.commits else None
        oid = hashlib.sha1(f"{self.name} {len(self.commits)} {title}".encode()).hexdigest()
        self.commits.append(Commit(oid, title, message, files, parent))
        self.refs["main"] = oid
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        oid = self.refs.get(revision) or self.tags.get(revision) or revision
        return next((one for one in self.commits if one.oid == oid), None)


@dataclass
class Fault:
    """The next `times` requests of a method whose path contains `on` fail, with a status or in the way `how`.

    "cut" closes the connection after reading part of the body, "lost" does the work and closes it without a response,
    "etag" omits the ETag, "corrupt" stores other bytes, "slow" waits a second, "race" adds another commit first.
    """

    method: str
    on: str
    status: int = 0
    how: str = ""
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    # Only requests with at least this many bytes fail.
    least: int = 0


class HubState:
    """The repos and blobs of the stand-in, the requests so far, and the planned faults."""

    def __init__(self, transfer: str = "basic", xet: Path | None = None, role: str = "write") -> None:
        self.transfer, self.xet, self.role = transfer, xet, role
        self.bytes_per_second: float | None = None  # of each upload; None for no limit
        # Xet name and size of LFS objects that were uploaded through xet, which this server does not receive.
        self.xet_names: dict[str, tuple[str, int]] = {}
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []
        self.received: Counter[str] = Counter()  # bytes of PUT bodies by LFS oid, finished or not
        self.token_shown_to_storage = 0
        self.user_agents: set[str] = set()
        self.lock = threading.RLock()

    def fault(self, method: str, path: str, length: int) -> Fault | None:
        """The next fault that applies to a request. Each is used `times` times."""
        with self.lock:
            for one in self.faults:
                if one.times and one.method == method and one.on in path and length >= one.least:
                    one.times -= 1
                    return one
        return None

    def content(self, repo: str, path: str, revision: str = "main") -> bytes:
        """The bytes of a published file."""
        commit = self.repos[repo].at(revision)
        assert commit is not None
        return self.bytes_of(commit.files[path])

    def bytes_of(self, entry: Entry) -> bytes:
        if entry.data is not None:
            return entry.data
        assert entry.lfs is not None
        return self.blobs[entry.lfs]

    def count(self, method: str, path: str) -> int:
        return sum(m == method and path in p for m, p in self.seen)
