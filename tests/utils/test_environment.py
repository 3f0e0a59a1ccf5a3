"""What a report says of the code that it was made with."""

import json
import subprocess
import sys
from importlib.metadata import PathDistribution

import pytest
import torch

from hf_bkd.utils import environment as module
from hf_bkd.utils.environment import commit, environment


def git(folder, *words):
    names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *names, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    package = tmp_path / "clone" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-q", "-m", "first")
    return package


def test_a_checkout_says_its_commit_and_whether_it_was_changed(checkout):
    revision = git(checkout, "rev-parse", "HEAD")
    assert len(revision) == 40 and commit(checkout) == revision
    (checkout.parent / "notes.txt").write_text("untracked files are no change")
    assert commit(checkout) == revision
    (checkout / "__init__.py").write_text("changed = True")
    assert commit(checkout) == f"{revision}, changed since"


def test_the_commit_of_somebody_elses_repository_is_not_the_packages(checkout):
    installed = checkout.parent / "installed"  # as if the clone had its packages right at its top, untracked
    installed.mkdir()
    (installed / "__init__.py").write_text("")
    assert commit(installed) is None
    deeper = checkout.parent / "venv" / "site-packages" / "package"
    deeper.mkdir(parents=True)
    assert commit(deeper) is None


@pytest.mark.parametrize(
    ("noted", "revision"),
    [
        ({"url": "u", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}}, "a" * 40),
        ({"url": "u", "dir_info": {"editable": True}}, None),
        (None, None),
    ],
)
def test_a_package_installed_from_a_repository_says_the_commit_that_pip_noted(tmp_path, monkeypatch, noted, revision):
    metadata = tmp_path / "package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: package\nVersion: 1.0\n")
    if noted:
        (metadata / "direct_url.json").write_text(json.dumps(noted))
    monkeypatch.setattr(module, "distribution", lambda name: PathDistribution(metadata))
    assert commit(tmp_path / "package") == revision


def test_without_git_the_commit_is_not_known(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit(checkout) is None


def test_no_path_of_the_machine_is_in_it():
    facts = environment(torch.device("cpu"))
    assert facts["python"] == ".".join(map(str, sys.version_info[:3])) and "/" not in "".join(facts.values())
