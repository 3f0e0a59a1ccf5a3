"""Folders to a Hub and back through huggingface_hub, and what a person reads when that fails."""

import pytest
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from hf_bkd import UserError
from hf_bkd.hub.transfer import local_folder, push_folder
from tests.hub.hub_server import DROP, TOKEN

WEIGHTS = bytes(range(256)) * 200


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "up" / "network").mkdir(parents=True)
    (tmp_path / "up" / "network" / "model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "up" / "teacher.json").write_text('{"format": 1}\n')
    return tmp_path / "up"


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pushed_files(hub, name):
    return {path: file.content for path, file in hub.head(name).files.items() if path != ".gitattributes"}


def test_a_folder_comes_back_byte_for_byte_its_weights_as_lfs_objects(hub, folder):
    before = hub.asked("PUT", "^/lfs/")
    address = push_folder(folder, "tester/round-trip")
    assert address == f"{hub.address}/tester/round-trip"
    stored = hub.head("tester/round-trip").files
    assert (stored["network/model.safetensors"].lfs, stored["teacher.json"].lfs) == (True, False)
    assert hub.asked("PUT", "^/lfs/") == before + 1
    assert hub.asked("POST", "^/tester/round-trip.git/info/lfs/objects/batch$") == 1
    loaded = content(local_folder("tester/round-trip"))
    assert loaded.pop(".gitattributes") and loaded == content(folder)
    assert push_folder(folder, "tester/round-trip") == address
    assert len(hub.repos["models", "tester/round-trip"].commits) == 2  # the initial one and this: nothing is new


def test_a_push_is_one_commit_and_replaces_what_an_earlier_one_wrote(hub, folder):
    push_folder(folder, "tester/replaced")
    (folder / "network" / "model.safetensors").unlink()
    (folder / "posterior.safetensors").write_bytes(WEIGHTS[:100])
    push_folder(folder, "tester/replaced")
    assert pushed_files(hub, "tester/replaced") == content(folder)
    assert ".gitattributes" in hub.head("tester/replaced").files
    assert len(hub.repos["models", "tester/replaced"].commits) == 3


def test_a_branch_a_tag_and_a_commit_keep_what_they_named(hub, folder):
    api = HfApi()
    push_folder(folder, "tester/revisions")
    first = hub.head("tester/revisions").oid
    api.create_tag("tester/revisions", tag="v1")
    api.create_branch("tester/revisions", branch="kept/first")
    (folder / "teacher.json").write_text('{"format": 2}\n')
    push_folder(folder, "tester/revisions")
    for revision in ("v1", "kept/first", first):
        assert (local_folder("tester/revisions", revision) / "teacher.json").read_text() == '{"format": 1}\n'
    for revision in (None, "main", hub.head("tester/revisions").oid):
        assert (local_folder("tester/revisions", revision) / "teacher.json").read_text() == '{"format": 2}\n'


def test_what_is_not_there_is_named(hub, folder):
    push_folder(folder, "tester/here")
    with pytest.raises(UserError, match="^the repository tester/here has no revision v9"):
        local_folder("tester/here", "v9")
    with pytest.raises(UserError, match="neither a folder tester/nothing nor a repository that you can see"):
        local_folder("tester/nothing")
    with pytest.raises(UserError, match="^there is no folder no/such/folder$"):
        local_folder("no/such/folder")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("tester/here", "nothing.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("tester/here", "teacher.json", revision="v9")
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("tester/nothing")


def test_a_private_repository_is_for_those_with_a_token(hub, folder, monkeypatch):
    push_folder(folder, "tester/private", private=True)
    assert hub.repos["models", "tester/private"].private
    assert local_folder("tester/private").is_dir()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("tester/private")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent / "empty"))
    with pytest.raises(UserError, match="nor a repository that you can see on the Hub: check the name, or log in"):
        local_folder("tester/private")
    with pytest.raises(UserError, match="401"):
        push_folder(folder, "tester/private")


def test_nothing_private_goes_to_a_public_repository(hub, folder):
    push_folder(folder, "tester/public")
    before = hub.head("tester/public")
    with pytest.raises(UserError, match="tester/public is public"):
        push_folder(folder, "tester/public", private=True)
    assert hub.head("tester/public") == before


@pytest.mark.parametrize("token", ["hf_WrongToken", "hf_Wrong Tok\nen", "hf_Wröng"])
def test_a_bad_token_is_refused_and_not_told(hub, folder, token, capfd):
    with pytest.raises(UserError, match="Invalid credentials|no token has") as caught:
        push_folder(folder, "tester/unwritten", token=token)
    assert ("models", "tester/unwritten") not in hub.repos
    said = str(caught.value) + "".join(capfd.readouterr())
    assert token not in said and repr(token)[1:-1] not in said
    assert "\n" not in str(caught.value)


def test_a_name_without_an_owner_is_the_users_own(hub, folder):
    assert push_folder(folder, "student") == f"{hub.address}/tester/student"
    assert pushed_files(hub, "tester/student") == content(folder)


def test_a_name_of_other_peoples_is_refused(hub, folder):
    with pytest.raises(UserError, match="403 Forbidden.*namespace 'someone'"):
        push_folder(folder, "someone/teacher")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("PUT", "^/lfs/", 507), ("POST", "/lfs/objects/batch$", 403), ("POST", "/commit/main$", 500)],
)
def test_a_failed_push_leaves_the_last_commit_and_the_same_call_succeeds(hub, folder, method, path, status):
    name = f"tester/failed-{status}"
    push_folder(folder, name)
    before = hub.head(name)
    (folder / "network" / "model.safetensors").write_bytes(WEIGHTS + b"%d" % status)
    hub.fail(method, path, status)
    with pytest.raises(UserError, match=rf"could not push to {name} .*{status} .*push again$"):
        push_folder(folder, name)
    assert hub.head(name) == before
    push_folder(folder, name)
    assert pushed_files(hub, name) == content(folder)


@pytest.mark.parametrize("status", [DROP, 503])
def test_a_passing_trouble_of_an_upload_is_gone_over(hub, folder, status):
    (folder / "network" / "model.safetensors").write_bytes(WEIGHTS + b"%d" % status)
    before = hub.asked("PUT", "^/lfs/")
    hub.fail("PUT", "^/lfs/", status)
    push_folder(folder, f"tester/passing-{status}")
    assert hub.asked("PUT", "^/lfs/") == before + 2
    assert pushed_files(hub, f"tester/passing-{status}") == content(folder)


def test_a_commit_that_breaks_off_is_told(hub, folder):
    push_folder(folder, "tester/broken-off")
    before = hub.head("tester/broken-off")
    (folder / "teacher.json").write_text('{"format": 3}\n')
    hub.fail("POST", "/commit/main$", DROP)
    with pytest.raises(UserError, match="could not push .*RemoteProtocolError.*again"):
        push_folder(folder, "tester/broken-off")
    assert hub.head("tester/broken-off") == before


def test_a_download_that_breaks_off_goes_on_from_there(hub, folder):
    push_folder(folder, "tester/resumed")
    hub.fail("GET", "^/tester/resumed/resolve/.*safetensors$", DROP)
    assert (local_folder("tester/resumed") / "network" / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.asked("GET", "^/tester/resumed/resolve/.*safetensors$") == 2


def test_no_hub_at_all_is_told(hub, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="could not push .*ConnectError"):
        push_folder(folder, "tester/unreached")
    with pytest.raises(UserError, match="the Hub could not deliver it"):
        local_folder("tester/unreached")


def test_a_card_comes_back_with_its_metrics(hub, folder):
    from hf_bkd.hub.cards import write_teacher_card

    measured = {"accuracy": 0.75, "nll": 0.5, "ece": 0.0625, "brier": 0.25}
    record = {"validation": measured, "dataset": "digits", "examples": 5}
    description = {"method": "laplace", "num_classes": 10, "settings": {"link": "mc"}, "record": record}
    write_teacher_card(folder, description, "image-classification")
    push_folder(folder, "tester/card")
    card = ModelCard.load("tester/card")
    assert card.content == (folder / "README.md").read_text()
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == measured
    assert card.data.library_name == "hf_bkd" and "laplace" in card.data.tags


def test_a_card_that_the_hub_cannot_read_is_refused(hub, folder):
    (folder / "README.md").write_text("---\ntags: [a\n---\n")
    with pytest.raises(UserError, match="Invalid metadata in README.md"):
        push_folder(folder, "tester/bad-card")


def test_the_token_is_in_no_request(hub):
    assert all(TOKEN not in path for _, path in hub.requests)
