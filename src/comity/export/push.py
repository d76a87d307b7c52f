"""Uploads an export, or a run, to the Hugging Face hub."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from comity.errors import ComityError
from comity.export.card import FILE as CARD
from comity.export.export import export
from comity.files import files_in


@dataclass(frozen=True)
class Push:
    """What was uploaded."""

    repository: str  # its id
    url: str  # of the commit
    revision: str | None  # the branch; None for the main one
    files: list[str]


def push(source: Path, repository: str, private: bool = False, revision: str | None = None) -> Push:
    """Upload a folder that `export` wrote, in one commit; of a run, the export to `comity`.

    Args:
        source: the folder, or a run directory.
        repository: the id of a model on the hub, such as "name/model"; created if it is new.
        private: whether a new repository is private.
        revision: the branch; created if it is new.

    Raises:
        ComityError: the folder is not an export, the run cannot be exported, there is no token, or
            the hub cannot be reached or refuses the upload.
    """
    _check_id(repository)
    if not source.is_dir():
        raise ComityError(f"{source}: no such folder; name a run or what comity export wrote")
    token = _token()
    if not (source / "run.json").is_file():
        return _upload(source, repository, private, revision, token)
    with tempfile.TemporaryDirectory(prefix="comity-") as folder:
        out = Path(folder) / "export"
        export(source, "comity", out)
        return _upload(out, repository, private, revision, token)


def _check_id(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise ComityError(
            f'"{repository}" is not a model id of the Hugging Face hub; write it as NAME/MODEL'
        ) from None


def _token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise ComityError(
            "there is no token for the Hugging Face hub; log in with `hf auth login`, or set "
            "HF_TOKEN"
        )
    return token


def _upload(folder: Path, repository: str, private: bool, revision: str | None, token: str) -> Push:
    from huggingface_hub import CommitOperationAdd, HfApi

    files = [file.relative_to(folder).as_posix() for file in files_in(folder)]
    if CARD not in files:
        raise ComityError(
            f"{folder}: has no model card ({CARD}); name a run or a folder that comity export wrote"
        )
    api = HfApi(token=token)
    try:
        # None leaves the choice to the hub, where an organisation may have private as its default.
        repository = api.create_repo(repository, private=private or None, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(name, str(folder / name)) for name in files],
            commit_message="Upload a model trained with Comity",
            revision=revision,
        )
    except Exception as error:  # HTTP libraries differ between versions of huggingface_hub
        raise ComityError(_reason(error, repository, api.endpoint)) from None
    return Push(repository, commit.commit_url, revision, files)


def _reason(error: Exception, repository: str, endpoint: str) -> str:
    """One sentence on why an upload failed."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what happened while a file was sent
    failed = f"{repository}: not uploaded"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{failed}, because HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, HfHubHTTPError):
        return f"{failed}{_refusal(error.response.status_code, error.server_message)}"
    is_network = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests")
    if is_network or isinstance(error, (ConnectionError, TimeoutError)):
        what = type(error).__name__
        return f"{failed}: {endpoint} cannot be reached ({what}); go online, or check HF_ENDPOINT"
    what = " ".join(str(error).split())[:200]
    return f"{failed} ({type(error).__name__}: {what}); correct this, then try again"


def _refusal(status: int, said: str | None) -> str:
    """What the hub's answer means, as the end of a sentence."""
    if status == 401:
        return (
            ", because the hub does not accept the token; log in again with `hf auth login`, or "
            "set another HF_TOKEN"
        )
    if status == 403:
        return (
            ", because the token may not write there; use a token with write access, or another "
            "name"
        )
    message = " ".join((said or "").split())[:200]
    return f" (the hub answered {status}{': ' if message else ''}{message}); try again"
