"""A Hub on 127.0.0.1: as much of the real one's HTTP as its own Python client needs, for models and datasets.

It is strict where a broken upload would show (LFS objects are checked by size and SHA-256, commits are atomic, tokens
are asked for), remembers what was asked, and fails on demand.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.hub.hub_store import Commit, File, Refusal, Repo

USER, TOKEN = "tester", "hf_TokenOfTheTestServer"
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
DROP = 0  # in place of a status: the connection ends half-way


class Request(NamedTuple):
    method: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None


class Answer(NamedTuple):
    content: Any = b""
    status: int = 200
    headers: dict[str, str] = {}


class HubServer:
    """Serves from construction until :meth:`close`; ``address`` is what HF_ENDPOINT should be."""

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}  # by kind ("models", "datasets") and OWNER/NAME
        self.objects: dict[str, bytes] = {}  # LFS's, by SHA-256
        self.announced: dict[str, int] = {}  # sizes of LFS objects that may come
        self.requests: list[tuple[str, str]] = []
        self.failures: list[tuple[str, str, int]] = []  # those still to come
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def fail(self, method: str, pattern: str, status: int, times: int = 1) -> None:
        """Answer the next requests whose path has the pattern with ``status``, or break them off with ``DROP``."""
        self.failures += [(method, pattern, status)] * times

    def asked(self, method: str, pattern: str) -> int:
        """How many such requests came."""
        return sum(m == method and re.search(pattern, path) is not None for m, path in self.requests)

    def head(self, name: str, kind: str = "models") -> Commit:
        return self.repos[kind, name].at("main")

    def stored(self) -> Iterator[bytes]:
        """All that was ever uploaded."""
        yield from self.objects.values()
        for repo in self.repos.values():
            for commit in repo.commits.values():
                yield from (commit.title.encode(), *map(str.encode, commit.files))
                yield from (file.content for file in commit.files.values())

    def note(self, method: str, path: str) -> int | None:
        """Remember a request; the status that it is to fail with, if it is."""
        with self.lock:
            self.requests.append((method, path))
            for number, (its_method, pattern, status) in enumerate(self.failures):
                if its_method == method and re.search(pattern, path):
                    del self.failures[number]
                    return status
        return None

    def answer(self, path: str, request: Request) -> Answer:
        if request.token not in (None, TOKEN):
            raise Refusal(401, "Invalid credentials in Authorization header")
        for methods, pattern, access, handler in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and request.method in methods.split():
                groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
                if access:
                    groups["repo"] = self._open(access, groups.pop("kind") or "models", groups.pop("name"), request)
                with self.lock:
                    return handler(self, request, **groups)
        raise Refusal(404, f"no such page: {request.method} {path}")

    def _open(self, access: str, kind: str, name: str, request: Request) -> Repo:
        repo = self.repos.get((kind, name))
        if request.token is None and (access == "write" or repo is None or repo.private):
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        if repo is None:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repo


def validate_yaml(hub: HubServer, request: Request) -> Answer:
    metadata = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", request.json()["content"], re.DOTALL)
    try:
        yaml.safe_load(metadata[1] if metadata else "")
    except yaml.YAMLError as error:
        return Answer({"errors": [{"message": f"YAML: {error}"}], "warnings": []}, 400)
    return Answer({"errors": [], "warnings": []})


def create_repo(hub: HubServer, request: Request) -> Answer:
    if request.token is None:
        raise Refusal(401, "Invalid username or password.")
    asked = request.json()
    owner, kind = asked.get("organization") or USER, asked.get("type", "model") + "s"
    if owner != USER:
        raise Refusal(403, f"You don't have the rights to create a model under the namespace {owner!r}")
    name = f"{owner}/{asked['name']}"
    url = {"url": f"{hub.address}/{'' if kind == 'models' else kind + '/'}{name}"}
    if (kind, name) in hub.repos:
        return Answer(url | {"error": "You already created this repo"}, 409)
    hub.repos[kind, name] = Repo(name, private=asked.get("visibility") == "private")
    hub.repos[kind, name].add("main", "initial commit", {".gitattributes": File(GITATTRIBUTES)})
    return Answer(url)


def repo_info(hub: HubServer, request: Request, repo: Repo, revision: str | None) -> Answer:
    commit = repo.at(revision or "main")
    files = [{"rfilename": path} for path in commit.files]
    return Answer({"id": repo.name, "sha": commit.oid, "private": repo.private, "tags": [], "siblings": files})


def tree(hub: HubServer, request: Request, repo: Repo, revision: str, path: str | None) -> Answer:
    return Answer(repo.at(revision).listing(path or "", recursive=request.query.get("recursive") == ["true"]))


def create_branch(hub: HubServer, request: Request, repo: Repo, branch: str) -> Answer:
    if branch in repo.branches:
        raise Refusal(409, "Reference already exists")
    repo.branches[branch] = repo.at(request.json().get("startingPoint", "main")).oid
    return Answer()


def create_tag(hub: HubServer, request: Request, repo: Repo, revision: str) -> Answer:
    tag = request.json()["tag"]
    if tag in repo.tags:
        raise Refusal(409, "Tag already exists")
    repo.tags[tag] = repo.at(revision).oid
    return Answer()


def preupload(hub: HubServer, request: Request, repo: Repo, revision: str) -> Answer:
    there, told = repo.at(revision).files, []
    for file in request.json()["files"]:
        path = file["path"]
        lfs = path.endswith(LFS_SUFFIXES) or b"\0" in base64.b64decode(file["sample"])
        oid = there[path].oid if path in there else None
        told.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
    return Answer({"files": told})


def lfs_batch(hub: HubServer, request: Request, repo: Repo) -> Answer:
    told = []
    for each in request.json()["objects"]:
        hub.announced[each["oid"]] = each["size"]
        upload = {"actions": {"upload": {"href": f"{hub.address}/lfs/{each['oid']}"}}}
        told.append(each if each["oid"] in hub.objects else each | upload)
    return Answer({"transfer": "basic", "objects": told})


def lfs_upload(hub: HubServer, request: Request, oid: str) -> Answer:
    if hub.announced.get(oid) != len(request.body) or hashlib.sha256(request.body).hexdigest() != oid:
        raise Refusal(400, "the content is not what was announced")
    hub.objects[oid] = request.body
    return Answer()


def commit(hub: HubServer, request: Request, repo: Repo, revision: str) -> Answer:
    made = repo.commit(revision, [json.loads(line) for line in request.body.splitlines()], hub.objects)
    url = f"{hub.address}/{repo.name}/commit/{made.oid}"
    return Answer({"success": True, "commitOid": made.oid, "commitUrl": url})


def resolve(hub: HubServer, request: Request, repo: Repo, revision: str, path: str) -> Answer:
    commit = repo.at(revision)
    headers = {"X-Repo-Commit": commit.oid}
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", headers)
    file = commit.files[path]
    headers |= {"ETag": f'"{file.oid}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if not wanted:
        return Answer(file.content, 200, headers)
    first, last = int(wanted[1]), min(int(wanted[2] or len(file.content)), len(file.content) - 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{len(file.content)}"
    return Answer(file.content[first : last + 1], 206, headers)


API, PAGE = r"/api/(?P<kind>models|datasets)/", "/(?:(?P<kind>datasets)/)?"
NAME, REVISION = "(?P<name>[^/]+/[^/]+)", "(?P<revision>[^/]+)"
ROUTES: list[tuple[str, str, str, Callable[..., Answer]]] = [
    ("POST", "/api/validate-yaml", "", validate_yaml),
    ("POST", "/api/repos/create", "", create_repo),
    ("GET", f"{API}{NAME}(?:/revision/{REVISION})?", "read", repo_info),
    ("GET", f"{API}{NAME}/tree/{REVISION}(?:/(?P<path>.+))?", "read", tree),
    ("POST", f"{API}{NAME}/branch/(?P<branch>[^/]+)", "write", create_branch),
    ("POST", f"{API}{NAME}/tag/{REVISION}", "write", create_tag),
    ("POST", f"{API}{NAME}/preupload/{REVISION}", "write", preupload),
    ("POST", f"{API}{NAME}/commit/{REVISION}", "write", commit),
    ("POST", rf"{PAGE}{NAME}\.git/info/lfs/objects/batch", "write", lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", "", lfs_upload),
    ("GET HEAD", f"{PAGE}{NAME}/resolve/{REVISION}/(?P<path>.+)", "read", resolve),
]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        failure = self.hub.note(self.command, unquote(parts.path))
        length = int(self.headers.get("Content-Length", 0))
        if failure == DROP and length:
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        request = Request(self.command, parse_qs(parts.query), self.headers, self.rfile.read(length))
        try:
            if failure:
                raise Refusal(failure, "failed on demand", headers={"Retry-After": "0"})
            answer = self.hub.answer(parts.path, request)
        except Refusal as refusal:
            answer = Answer({"error": str(refusal)}, refusal.status, refusal.headers)
        self._send(answer, half=failure == DROP)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _send(self, answer: Answer, half: bool) -> None:
        content = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half else content)
        self.close_connection = self.close_connection or half

    def log_message(self, *args: Any) -> None:
        """Tests look at ``HubServer.requests`` instead."""
