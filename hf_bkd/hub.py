"""The way to the Hub and back: whole folders."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from .errors import UserError


def push_folder(folder: str | Path, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Upload a folder as a model repository, made if need be; returns its address.

    Raises:
        UserError: the Hub can't be reached or refuses.
    """
    api = HfApi(token=token)
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"could not push {folder} to {repo_id} ({reason}): log in, or push the folder later") from None
    return str(address)


def local_folder(name_or_path: str | Path, revision: str | None = None) -> Path:
    """A folder as it is, or a repository's snapshot from the Hub.

    Raises:
        UserError: neither a folder nor a repository that the Hub can deliver.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    try:
        return Path(snapshot_download(str(name_or_path), revision=revision))
    except HFValidationError:
        raise UserError(f"there is no folder {name_or_path}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"there is no folder {name_or_path}, and the Hub could not deliver it ({type(error).__name__}); pass the "
            "path of a folder written by save_pretrained"
        ) from None
