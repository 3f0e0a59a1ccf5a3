"""The tests' Hub refuses what the real one would: its answers are worth something."""

import base64
import hashlib
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.hub.hub_server import TOKEN, HubServer

CONTENT = b"weights" * 100
SIZE = len(CONTENT)
OID = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub():
    server = HubServer()
    ask(server, "POST", "/api/repos/create", {"name": "repo", "visibility": "private"})
    yield server
    server.close()


def ask(hub, method, path, body=None, token=TOKEN, **headers):
    """Status, headers and content of an answer."""
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urlopen(Request(hub.address + path, content, headers, method=method)) as answer:
            return answer.status, answer.headers, answer.read()
    except HTTPError as error:
        return error.code, error.headers, error.read()


def commit(hub, *operations, parent=None):
    header = {"key": "header", "value": {"summary": "title"} | ({"parentCommit": parent} if parent else {})}
    lines = [json.dumps(each).encode() for each in (header, *operations)]
    return ask(hub, "POST", "/api/models/tester/repo/commit/main", b"\n".join(lines))[0]


def file(path, content=CONTENT):
    return {"key": "file", "value": {"path": path, "content": base64.b64encode(content).decode()}}


def lfs_file(path, oid=OID, size=SIZE):
    return {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": oid, "size": size}}


def announce(hub, size=SIZE):
    objects = {"objects": [{"oid": OID, "size": size}]}
    return ask(hub, "POST", "/tester/repo.git/info/lfs/objects/batch", objects)[0]


def test_an_lfs_object_is_what_was_announced_or_refused(hub):
    assert ask(hub, "PUT", f"/lfs/{OID}", CONTENT)[0] == 400  # not announced
    assert announce(hub, size=5) == 200 and ask(hub, "PUT", f"/lfs/{OID}", CONTENT)[0] == 400
    assert announce(hub) == 200
    for broken in (CONTENT[:-1], CONTENT + b"x", CONTENT[::-1]):
        assert ask(hub, "PUT", f"/lfs/{OID}", broken)[0] == 400
    assert not hub.objects and ask(hub, "PUT", f"/lfs/{OID}", CONTENT)[0] == 200


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (lfs_file("b", oid="0" * 64), 400),
        (lfs_file("b", size=3), 400),
        ({"key": "deletedFile", "value": {"path": "nothing"}}, 404),
        ({"key": "deletedFolder", "value": {"path": "a"}}, 404),
    ],
)
def test_a_commit_is_made_whole_or_not(hub, bad, status):
    announce(hub)
    ask(hub, "PUT", f"/lfs/{OID}", CONTENT)
    assert commit(hub, file("a"), lfs_file("folder/b")) == 200
    before = hub.head("tester/repo")
    assert commit(hub, file("c"), bad) == status
    assert hub.head("tester/repo") == before and len(hub.repos["models", "tester/repo"].commits) == 2
    assert commit(hub, file("c"), parent="0" * 40) == 412
    assert commit(hub, {"key": "deletedFolder", "value": {"path": "folder/"}}, parent=before.oid) == 200
    assert set(hub.head("tester/repo").files) == {".gitattributes", "a"}


def test_who_may_not_is_told_so(hub):
    page = "/api/models/tester/repo"
    assert ask(hub, "GET", page)[0] == 200
    assert [ask(hub, "GET", page, token=token)[0] for token in (None, "hf_other")] == [401, 401]
    for path in ("preupload/main", "commit/main", "branch/b", "tag/main"):
        assert ask(hub, "POST", f"{page}/{path}", b"", token=None)[0] == 401
    assert ask(hub, "POST", "/api/repos/create", {"name": "x"}, token=None)[0] == 401
    assert ask(hub, "POST", "/api/repos/create", {"name": "x", "organization": "others"})[0] == 403


def test_what_is_missing_is_named_by_its_code(hub):
    codes = {
        "/api/models/tester/nothing": "RepoNotFound",
        "/api/models/tester/repo/revision/v1": "RevisionNotFound",
        "/tester/repo/resolve/main/nothing": "EntryNotFound",
        "/api/models/tester/repo/tree/main/nothing": "EntryNotFound",
    }
    for path, code in codes.items():
        status, headers, _ = ask(hub, "GET", path)
        assert (status, headers["X-Error-Code"]) == (404, code), path


def test_parts_of_a_file(hub):
    commit(hub, file("a"))
    page = "/tester/repo/resolve/main/a"
    status, headers, content = ask(hub, "GET", page, Range="bytes=3-9")
    assert (status, headers["Content-Range"], content) == (206, f"bytes 3-9/{SIZE}", CONTENT[3:10])
    assert ask(hub, "GET", page, Range="bytes=690-")[2] == CONTENT[690:]
    status, headers, content = ask(hub, "HEAD", page)
    assert (status, headers["Content-Length"], content) == (200, str(SIZE), b"")
    assert headers["X-Repo-Commit"] == hub.head("tester/repo").oid and headers["ETag"]
