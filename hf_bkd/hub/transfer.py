"""Upload folders to the Hub, and download them from it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from urllib.parse import quote

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoUrl,
    constants,
    get_token,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..utils.errors import UserError
from ..utils.files import bare_name, read_json

OURS, WEIGHTS = ("teacher.json", "members/", "network/"), ".safetensors"  # files of a saved model
OTHER_FORMS = [
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.tflite",
    "*.gguf",
    "*onnx*",
    "coreml/*",
]
STARS = "***"
UNAUTHORIZED = 401  # of HTTP


def push_folder(folder: str | Path, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Upload a folder as a model repository, creating it if need be, and return the repository's address.

    The upload is a single commit: a push that fails changes nothing. Files that an earlier push left of a model, such
    as members of a larger ensemble, are removed; all other files stay.

    Args:
        folder: what to upload.
        repo_id: the repository's name, under the user's own where it has no ``OWNER/``.
        private: whether a new repository is private; True is refused for one that is public already.
        token: of the Hub, if not that of the user's login.

    Raises:
        UserError: the Hub can't be reached or refuses, or the repository is public and must be private.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(Path(folder).rglob("*")) if path.is_file()}
    for path in (path for name, path in files.items() if name.rpartition("/")[2] == OURS[0]):
        check_base_is_shared(str(read_json(path).get("base", {}).get("name", "")))
    with pushing_to(repo_id, token):
        api = HfApi(token=token)
        address = made_repository(api, repo_id, "model", private)
        repo_id = address.repo_id
        stale = {name for name in api.list_repo_files(repo_id) if name.startswith(OURS) or name.endswith(WEIGHTS)}
        operations = [CommitOperationDelete(name) for name in sorted(stale - files.keys())]
        operations += [CommitOperationAdd(name, path) for name, path in files.items()]
        api.create_commit(repo_id, operations, commit_message="Upload with hf_bkd")
    return str(address)


def check_base_is_shared(name: str) -> None:
    """Raise a UserError if a model that adapters are pushed without is a folder here."""
    if Path(name).is_absolute():
        raise UserError(
            f"the adapters' base model is the folder {name}, which nobody else has: push it, and take it by its name "
            "on the Hub, for a saved teacher by Teacher.from_pretrained(folder, network=base)"
        )


def made_repository(api: HfApi, repo_id: str, kind: str, private: bool | None) -> RepoUrl:
    """Create a repository of models or datasets if need be; UserError if it must be private and is public already."""
    address = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
    if private and not api.repo_info(address.repo_id, repo_type=kind).private:
        raise UserError(
            f"the repository {address.repo_id} is public: make it private on the Hub, or push to another one"
        )
    return address


def without_tokens(text: str, token: str | None = None) -> str:
    """Return text of a server, a URL or an exception with every token of the Hub in it replaced by stars.

    Args:
        text: what is to be shown.
        token: one that is known to have been sent; the login's and the environment's are known too.
    """
    for known in filter(None, (token, get_token())):
        for form in (known, quote(known, safe="")):
            text = text.replace(form, STARS)
    text = re.sub(r"\bhf_[A-Za-z0-9]{10,}|\bapi_org_[A-Za-z0-9]{10,}", STARS, text)
    text = re.sub(r"(?i)(bearer\s+)[^\s,;\"']+", rf"\1{STARS}", text)
    return re.sub(r"(://[^/\s:@]*:)[^/\s@]+@", rf"\1{STARS}@", text)


@contextmanager
def pushing_to(repo_id: str, token: str | None = None) -> Iterator[None]:
    """Turn whatever goes wrong with a push into a :class:`UserError`, which never holds the token."""
    if token is not None and not re.fullmatch("[!-~]+", token):
        raise UserError("the token holds characters that no token has: pass it as the Hub's settings show it")
    try:
        yield
    except UserError:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) else None  # why a file could not be sent
        reason = shorten(without_tokens(f"{type(cause or error).__name__}: {cause or error}", token), 300)
        raise UserError(f"could not push to {repo_id} ({reason}): log in if need be, and push again") from None


def local_folder(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Return a local folder, or download a repository's snapshot from the Hub.

    Raises:
        UserError: the name is neither a folder nor a repository that the Hub can deliver.
    """
    name_or_path = re.sub("^(hf[-_]hub|local-dir):", "", str(name_or_path))  # as timm has names
    name, path = without_tokens(name_or_path), Path(name_or_path).expanduser()
    if not name.strip():
        raise UserError("the name of a folder or a repository is empty: pass one")
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(f"{name} is a file: pass the folder that a network was saved in")
    try:
        return Path(snapshot_download(name_or_path, revision=revision, ignore_patterns=OTHER_FORMS))
    except HFValidationError:
        raise UserError(f"there is no folder {name}") from None
    except RevisionNotFoundError:
        raise UserError(
            f"the repository {name} has no revision {revision}: pass one of its branches, tags or commits"
        ) from None
    except GatedRepoError:
        raise UserError(
            f"the repository {name} is gated: accept its conditions on the Hub, log in and try again"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"there is neither a folder {name} nor a repository that you can see on the Hub: check the name, "
            "or log in if it is private"
        ) from None
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"there is no folder {name}, and the Hub could not deliver it ({why_not_delivered(error)}); pass the "
            "path of a folder written by save_pretrained"
        ) from None


def why_not_delivered(error: Exception) -> str:
    """Say in a few words why the Hub could not deliver something."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    if status == UNAUTHORIZED:
        return "it refuses the token: hf auth login"
    if status is not None:
        return f"its answer was {status}"
    if isinstance(error, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and the cache does not have it"
    if isinstance(error, LocalEntryNotFoundError):
        return "it can't be reached, and the cache does not have it"
    return type(error).__name__


def source_of(name_or_path: str | Path, folder: Path) -> dict[str, str]:
    """Say where ``folder`` is from, for public records: a repository and its commit, or a folder's bare name."""
    if Path(name_or_path).expanduser().is_dir():
        return {"folder": bare_name(str(name_or_path))}
    return {"repository": str(name_or_path), "revision": folder.name}
