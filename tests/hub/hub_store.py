"""What the tests' Hub keeps: repositories with commits, branches and tags, all in memory."""

import base64
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple


class Refusal(Exception):
    """An answer that is an error; ``code`` is what the client tells errors apart by."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | (headers or {})


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool = False

    @cached_property
    def oid(self) -> str:
        """Git's hash of a regular file, SHA-256 of an LFS object: what the client compares its own files with."""
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    def describe(self, path: str) -> dict[str, Any]:
        size = len(self.content)
        lfs = {"lfs": {"oid": self.oid, "size": size, "pointerSize": 130}} if self.lfs else {}
        return {"type": "file", "path": path, "size": size, "oid": self.oid, **lfs}


class Commit(NamedTuple):
    oid: str
    title: str
    files: dict[str, File]

    def listing(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """The files and folders in a folder ("" for the root), those further down too if recursive."""
        prefix = f"{folder}/" if folder else ""
        below = {path: file for path, file in self.files.items() if path.startswith(prefix)}
        if folder and not below:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound", {"X-Repo-Commit": self.oid})
        shown = {}
        for path, file in below.items():
            *parents, name = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parents) + 1 if recursive else min(len(parents), 1) + 1):
                inner = prefix + "/".join(parents[:depth])
                shown[inner] = {"type": "directory", "path": inner, "oid": hashlib.sha1(inner.encode()).hexdigest()}
            if recursive or not parents:
                shown[path] = file.describe(path)
        return list(shown.values())


@dataclass
class Repo:
    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a whole hash names."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def add(self, branch: str, title: str, files: dict[str, File]) -> Commit:
        oid = hashlib.sha1(f"{self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, files)
        self.branches[branch] = oid
        return self.commits[oid]

    def commit(self, branch: str, operations: list[dict[str, Any]], objects: dict[str, bytes]) -> Commit:
        """All of the operations or, refusing one of them, none."""
        if branch not in self.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        files, header = dict(self.at(branch).files), {}
        for operation in operations:
            kind, value = operation["key"], operation["value"]
            path = value.get("path", "")
            if kind == "header":
                header = value
            elif kind == "file":
                files[path] = File(base64.b64decode(value["content"]))
            elif kind == "lfsFile":
                if len(objects.get(value["oid"], b"")) != value["size"]:
                    raise Refusal(400, f"the LFS object of {path} was not uploaded")
                files[path] = File(objects[value["oid"]], lfs=True)
            else:
                folder = path.rstrip("/") + "/"
                gone = {p for p in files if (p == path if kind == "deletedFile" else p.startswith(folder))}
                if not gone:
                    raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
                files = {p: file for p, file in files.items() if p not in gone}
        if header.get("parentCommit", self.branches[branch]) != self.branches[branch]:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        return self.add(branch, header["summary"], files)
