"""The endpoints of the stand-in hub that huggingface_hub uses."""

import base64
import hashlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from retcon.tests.helpers.hub_state import PART_BYTES, ROUTES, TOKEN, Commit, Entry, Repo, git_oid

if TYPE_CHECKING:
    from retcon.tests.helpers.hub_stand_in import StandIn

_CHUNK = 1 << 16


def build_handler(hub: "StandIn") -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"hub": hub})


class _Handler(BaseHTTPRequestHandler):
    hub: "StandIn"
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        # Some tests kill the client.
        try:
            super().handle()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def do_any(self) -> None:
        path = urlsplit(self.path).path
        length = int(self.headers.get("Content-Length") or 0)
        with self.hub.lock:
            self.hub.seen.append((self.command, path))
            self.hub.user_agents.add(self.headers.get("User-Agent", ""))
            if path.startswith("/storage/") and not path.endswith(("complete", "verify")):
                self.hub.token_shown_to_storage += "authorization" in self.headers
        self.fault = self.hub.fault(self.command, path, length)
        how = self.fault.how if self.fault else ""
        if how == "slow":
            time.sleep(1)
        name, words = self._route(path)
        if name == "put":
            return self._put(how, length, **words)
        self.body = self.rfile.read(length) if length else self._chunked()
        if self.fault and self.fault.status:
            return self._say(self.fault.status, {"error": "a fault on purpose"}, self.fault.headers)
        if how == "cut":
            return self._cut()
        if name is None:
            return self._say(404, {"error": f"no route {self.command} {path}"})
        if not path.startswith("/storage") and not self._allowed(name):
            return None
        return getattr(self, f"_{name}")(**words)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_any  # noqa: N815

    def _route(self, path: str) -> tuple[str | None, dict[str, Any]]:
        for method, pattern, name in ROUTES:
            if method == self.command and (match := pattern.fullmatch(path)):
                found = match.groupdict().items()
                return name, {key: unquote(value) if value else value for key, value in found}
        return None, {}

    def _allowed(self, name: str) -> bool:
        if name == "validate":
            return True
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._say(
                401,
                {"error": "Invalid username or password."},
                {"X-Error-Message": "Invalid credentials in Authorization header"},
            )
            return False
        return True

    def _repo(self, repo: str) -> Repo | None:
        found = self.hub.repos.get(repo)
        if found is None:
            self._say(
                404,
                {"error": "Repository not found"},
                {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"},
            )
        return found

    def _commit_at(self, repo: str, rev: str | None) -> tuple[Repo, Commit] | None:
        found = self._repo(repo)
        if found is None:
            return None
        commit = found.at(rev or "main")
        if commit is None:
            self._say(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return found, commit

    # The API

    def _whoami(self) -> None:
        role = {"displayName": "laptop", "role": self.hub.role}
        auth = {"type": "access_token", "accessToken": role}
        self._say(
            200, {"type": "user", "name": "me", "fullname": "Me", "orgs": [{"name": "lab"}], "auth": auth}
        )

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        with self.hub.lock:
            there = name in self.hub.repos
            if not there:
                private = asked.get("visibility") == "private" or bool(asked.get("private"))
                self.hub.repos[name] = Repo(name, private)
        answer = {"url": f"{self.hub.url}/{name}", "id": name, "name": name}
        self._say(
            409 if there else 200, answer | ({"error": "You already created this repo"} if there else {})
        )

    def _delete(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if self._repo(name):
            del self.hub.repos[name]
            self._say(200, {})

    def _validate(self) -> None:
        self._say(200, {"errors": [], "warnings": []})

    def _preupload(self, repo: str, rev: str) -> None:
        found = self._commit_at(repo, rev)
        if not found:
            return
        files = []
        for file in json.loads(self.body)["files"]:
            lfs = file["path"].endswith((".safetensors", ".png")) or file["size"] > 10 * 2**20
            one = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            there = found[1].files.get(file["path"])
            if there is not None:
                one["oid"] = there.lfs or git_oid(there.data or b"")
            files.append(one)
        self._say(200, {"files": files})

    def _batch(self, repo: str) -> None:
        if not self._repo(repo):
            return
        objects = []
        for one in json.loads(self.body)["objects"]:
            oid, size = one["oid"], one["size"]
            made: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.blobs:
                made["actions"] = self._actions(oid, size)
            objects.append(made)
        self._say(200, {"transfer": self.hub.transfer, "objects": objects})

    def _actions(self, oid: str, size: int) -> dict[str, Any]:
        place = f"{self.hub.storage}/storage/{oid}"
        verify = {"href": f"{self.hub.url}/storage/{oid}/verify"}
        if self.hub.transfer == "basic":
            return {"upload": {"href": place}, "verify": verify}
        count = -(-size // PART_BYTES)
        header = {f"{number + 1:05d}": f"{place}/{number + 1}" for number in range(count)}
        upload = {"href": f"{place}/complete", "header": {"chunk_size": str(PART_BYTES)} | header}
        return {"upload": upload, "verify": verify}

    def _put(self, how: str, length: int, oid: str, part: str | None) -> None:
        data = bytearray()
        left = length // 2 if how == "cut" else length
        while left:
            got = self.rfile.read(min(_CHUNK, left))
            if not got:
                break
            data += got
            left -= len(got)
            if self.hub.bytes_per_second:
                time.sleep(len(got) / self.hub.bytes_per_second)
            with self.hub.lock:
                self.hub.received[oid] += len(got)
        if how == "cut" or left:
            return self._cut()
        if self.fault and self.fault.status:
            return self._say(self.fault.status, {"error": "a fault on purpose"}, self.fault.headers)
        if how == "corrupt":
            data[len(data) // 2] ^= 1
        with self.hub.lock:
            if part:
                self.hub.parts.setdefault(oid, {})[int(part)] = bytes(data)
            else:
                self.hub.blobs[oid] = bytes(data)
        headers = {} if how == "etag" else {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}
        return self._say(200, None, headers)

    def _complete(self, oid: str) -> None:
        parts = self.hub.parts.get(oid, {})
        for one in json.loads(self.body)["parts"]:
            if one["etag"] != f'"{hashlib.md5(parts[one["partNumber"]]).hexdigest()}"':
                return self._say(400, {"error": f"part {one['partNumber']} has another etag"})
        with self.hub.lock:
            self.hub.blobs[oid] = b"".join(parts[number] for number in sorted(parts))
        return self._say(200, {"success": True})

    def _verify(self, oid: str) -> None:
        size = json.loads(self.body)["size"]
        right = oid in self.hub.blobs and len(self.hub.blobs[oid]) == size
        self._say(200 if right else 404, {"message": "ok" if right else "not here"})

    def _commit(self, repo: str, rev: str) -> None:
        found = self._commit_at(repo, rev)
        if not found:
            return None
        if self.fault and self.fault.how == "race":
            found[0].add("somebody else", "", found[1].files | {"notes.txt": Entry(b"mine")})
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        with self.hub.lock:
            head = found[0].commits[-1]
            if header.get("parentCommit") not in (None, head.oid):
                return self._say(412, {"error": "A commit has happened since. Please refresh and try again."})
            files = dict(head.files)
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = Entry(base64.b64decode(value["content"]))
                elif line["key"] == "lfsFile":
                    if not self.hub.xet and value["oid"] not in self.hub.blobs:
                        return self._say(400, {"error": f"LFS object {value['oid']} is missing"})
                    files[value["path"]] = Entry(lfs=value["oid"])
                else:
                    files.pop(value["path"], None)
            made = found[0].add(header["summary"], header.get("description", ""), files)
        if self.fault and self.fault.how == "lost":
            return self._cut()
        url = f"{self.hub.url}/{repo}/commit/{made.oid}"
        return self._say(200, {"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})

    def _tag(self, repo: str, rev: str) -> None:
        found, asked = self._commit_at(repo, rev), json.loads(self.body)
        if found:
            there = asked["tag"] in found[0].tags
            if not there:
                found[0].tags[asked["tag"]] = found[1].oid
            self._say(409 if there else 200, {"error": "Tag reference exists already"} if there else None)

    def _untag(self, repo: str, rev: str) -> None:
        found = self._repo(repo)
        if found:
            there = found.tags.pop(rev, None)
            self._say(200 if there else 404, None if there else {"error": "no such tag"})

    def _refs(self, repo: str) -> None:
        found = self._repo(repo)
        if found:
            branches, tags = (
                [
                    {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid}
                    for name, oid in refs.items()
                ]
                for kind, refs in (("heads", found.refs), ("tags", found.tags))
            )
            self._say(200, {"branches": branches, "tags": tags, "converts": []})

    def _commits(self, repo: str, rev: str) -> None:
        found = self._commit_at(repo, rev)
        if found:
            upto = found[0].commits.index(found[1]) + 1
            listed = [
                {"id": one.oid, "title": one.title, "message": one.message, "authors": [{"user": "me"}],
                 "date": "2026-01-01T00:00:00.000Z"}
                for one in reversed(found[0].commits[:upto])
            ]  # fmt: skip
            self._say(200, listed)

    def _described(self, path: str, entry: Entry) -> dict[str, Any]:
        if entry.lfs is None:
            data = entry.data or b""
            return {"type": "file", "path": path, "oid": git_oid(data), "size": len(data)}
        size, oid = self._size(entry.lfs), entry.lfs
        if self.hub.xet is None:
            # Like the live Hub, which hashes the received bytes.
            oid = hashlib.sha256(self.hub.blobs[entry.lfs]).hexdigest()
        lfs = {"oid": oid, "size": size, "pointerSize": 134}
        return {"type": "file", "path": path, "oid": git_oid(oid.encode()), "size": size, "lfs": lfs}

    def _size(self, oid: str) -> int:
        return len(self.hub.blobs[oid]) if oid in self.hub.blobs else self.hub.xet_names.get(oid, ("", 0))[1]

    def _tree(self, repo: str, rev: str) -> None:
        found = self._commit_at(repo, rev)
        if found:
            self._say(200, [self._described(path, entry) for path, entry in found[1].files.items()])

    def _paths(self, repo: str, rev: str) -> None:
        found = self._commit_at(repo, rev)
        if found:
            text = self.body.decode()
            asked = json.loads(text) if text.startswith("{") else parse_qs(text)
            files = found[1].files
            self._say(200, [self._described(p, files[p]) for p in asked["paths"] if p in files])

    def _info(self, repo: str, rev: str | None) -> None:
        found = self._commit_at(repo, rev)
        if found:
            siblings = [{"rfilename": path} for path in found[1].files]
            made = {"_id": "1", "id": repo, "modelId": repo, "author": repo.partition("/")[0], "sha": found[1].oid,
                    "private": found[0].private, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
                    "tags": [], "siblings": siblings}  # fmt: skip
            self._say(200, made)

    def _xet_token(self, repo: str, rev: str) -> None:
        if not self._repo(repo):
            return None
        if self.hub.xet is None:
            return self._say(404, {"error": "no xet here"})
        told = {"casUrl": f"local://{self.hub.xet}", "accessToken": "xet_token", "exp": 4_000_000_000}
        headers = {
            "X-Xet-Cas-Url": told["casUrl"],
            "X-Xet-Access-Token": told["accessToken"],
            "X-Xet-Token-Expiration": str(told["exp"]),
        }
        return self._say(200, told, headers)

    def _resolve(self, repo: str, rev: str, path: str) -> None:
        found = self._commit_at(repo, rev)
        if not found:
            return None
        entry = found[1].files.get(path)
        headers = {"X-Repo-Commit": found[1].oid}
        if entry is None:
            return self._say(404, {"error": "Entry not found"}, headers | {"X-Error-Code": "EntryNotFound"})
        if entry.lfs is None:
            data = entry.data or b""
            return self._send(200, data, headers | {"ETag": f'"{git_oid(data)}"'})
        if entry.lfs in self.hub.xet_names:
            headers["X-Xet-Hash"] = self.hub.xet_names[entry.lfs][0]
            auth = f"{self.hub.url}/api/models/{repo}/xet-read-token/{found[1].oid}"
            headers["Link"] = f'<{auth}>; rel="xet-auth"'
        headers |= {"X-Linked-Etag": f'"{entry.lfs}"', "X-Linked-Size": str(self._size(entry.lfs))}
        return self._send(302, b"", headers | {"Location": f"{self.hub.storage}/storage/{entry.lfs}"})

    def _get(self, oid: str) -> None:
        data = bytearray(self.hub.blobs[oid])
        if self.fault and self.fault.how == "corrupt":
            data[-1] ^= 1
        begin = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = int(match[1])
        headers = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self._send(206 if begin else 200, bytes(data[begin:]), headers)

    # Answers

    def _say(self, status: int, record: Any, headers: dict[str, str] | None = None) -> None:
        data = b"" if record is None else json.dumps(record).encode()
        self._send(status, data, {"Content-Type": "application/json"} | (headers or {}))

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _chunked(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data
