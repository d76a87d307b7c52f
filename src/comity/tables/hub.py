"""Data sets of the Hugging Face hub, and folders that the library `datasets` has saved.

A recipe names one where a file would be: `hf://OWNER/NAME:SPLIT`, with a configuration
`hf://OWNER/NAME/CONFIG:SPLIT`, at a revision `hf://OWNER/NAME@REVISION:SPLIT`, or a folder
`hf://./FOLDER:SPLIT`. `datasets` is an extra, imported when such a name is read. Nothing of a data
set runs as code.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comity.errors import ComityError, nearest
from comity.format import missing_extra
from comity.tables.locations import FramePath
from comity.tables.rows import quoted_list, shortened

START = "hf://"

FORM = "hf://OWNER/NAME:SPLIT, hf://OWNER/NAME/CONFIG:SPLIT or hf://./FOLDER:SPLIT"

_REVISION = r"refs/convert/\w+|refs/pr/\d+|[^:/@]+"
_ON_HUB = re.compile(
    rf"(?P<repository>[\w.-]+(/[\w.-]+)?)(@(?P<revision>{_REVISION}))?"
    r"(/(?P<config>[^:/@]+))?:(?P<split>\S.*)"
)
_LOCAL = re.compile(r"(?P<folder>[./~][^:]*):(?P<split>\S.*)")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class HubName:
    """The parts of a name that starts with `hf://`."""

    text: str
    split: str
    repository: str = ""
    folder: str = ""  # instead of a repository
    config: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubName":
        """The parts of a name.

        Raises:
            ComityError: the name has another form.

        >>> HubName.parse("hf://nyu-mll/glue/mrpc:train").config
        'mrpc'
        >>> HubName.parse("hf://./reviews:dev").folder
        './reviews'
        """
        rest = text.removeprefix(START)
        found = _LOCAL.fullmatch(rest) if rest[:1] in (".", "/", "~") else _ON_HUB.fullmatch(rest)
        if found is None:
            raise ComityError(f'"{text}" names no data set and split; write {FORM}')
        return cls(text, **found.groupdict())


@dataclass(frozen=True)
class HubSplit:
    """A split of a data set, and what it was loaded from."""

    dataset: Any  # a `datasets.Dataset`
    revision: str | None  # the commit on the hub; None for a folder
    fingerprint: str  # of `datasets`


class HubPath(FramePath):
    """The name of a split, with its rows; it goes wherever the path of a file goes."""

    loaded: HubSplit


def is_hub_name(file: str) -> bool:
    """Whether a recipe's file is the name of a data set.

    >>> is_hub_name("hf://owner/name:train"), is_hub_name("train.csv")
    (True, False)
    """
    return file.startswith(START)


def load_split(file: str, folder: Path) -> HubPath:
    """Load the split that a recipe names; `folder` is where relative paths start.

    Raises:
        ComityError: the data set, its configuration or its split cannot be loaded.
    """
    name = HubName.parse(file)
    path = HubPath(file)
    path.title = file
    with _quiet():
        path.loaded = _saved(name, folder) if name.folder else _on_hub(name)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars and warnings of `datasets`.

    Raises:
        ComityError: the extra is not installed.
    """
    try:
        import datasets
    except ImportError:
        needing = "data sets of the Hugging Face hub need"
        raise ComityError(missing_extra(needing, ["datasets"], "hub")) from None
    verbosity, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()


# --- folders --------------------------------------------------------------------------------------


def _saved(name: HubName, folder: Path) -> HubSplit:
    """A split of a folder: one that `save_to_disk` wrote, or one with data files."""
    import datasets

    path = folder / Path(name.folder).expanduser()
    if not path.is_dir():
        raise ComityError(f"{name.text}: there is no folder {path}; check the path")
    if not (path / "dataset_dict.json").exists() and not (path / "state.json").exists():
        return _built(name, str(path), None)
    try:
        saved: Any = datasets.load_from_disk(str(path))
    except Exception as error:  # damaged files raise anything
        raise ComityError(
            f"{name.text}: cannot be read ({_reason(error)}); save it again"
        ) from None
    splits = saved if isinstance(saved, dict) else {str(saved.split or name.split): saved}
    if name.split not in splits:
        raise ComityError(_no_split(name, splits))
    dataset = splits[name.split]
    return HubSplit(dataset, None, dataset._fingerprint)


# --- the hub --------------------------------------------------------------------------------------


def _on_hub(name: HubName) -> HubSplit:
    """A split of a data set on the hub, downloaded to the cache of `datasets` if it is not there.

    Without a connection the cached copy is read.
    """
    if Path(name.repository).exists():  # `datasets` would read it
        raise ComityError(
            f"{name.text}: the working directory has a folder {name.repository}; write "
            f"hf://./{name.repository}:{name.split} to read it, or change to another directory"
        )
    commit = _commit(name)
    loaded = _built(name, name.repository, commit or name.revision)
    # Without a connection `datasets` takes the newest copy, whatever revision it is given.
    wanted = name.revision if commit is None else None
    if wanted and not (_COMMIT.fullmatch(wanted) and (loaded.revision or "").startswith(wanted)):
        raise ComityError(
            f"{name.text}: the Hugging Face hub cannot be reached, and the cached copy is of the "
            f"commit {loaded.revision}; go online, or name that commit"
        )
    return loaded


def _commit(name: HubName) -> str | None:
    """The commit that a revision stands for, or None if the hub cannot be reached."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        found = huggingface_hub.HfApi().dataset_info(name.repository, revision=name.revision)
        return found.sha
    except errors.GatedRepoError:
        reason = "is gated; request access on its page, then log in with `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = (
            "is not on the Hugging Face hub, or it is private; correct the name, or log in with "
            "`hf auth login`"
        )
    except errors.RevisionNotFoundError:
        reason = f'has no revision "{name.revision}"; correct it'
    except errors.HFValidationError:
        reason = "is no valid name of a data set; correct it"
    except Exception:  # no connection; HTTP libraries differ between versions of huggingface_hub
        return None
    raise ComityError(f"{name.text}: the data set {name.repository} {reason}")


def _built(name: HubName, source: str, revision: str | None) -> HubSplit:
    """A split that `datasets` makes from data files, in its cache."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(source, name.config, revision=revision)
        builder.download_and_prepare()
    except ConnectionError:
        raise ComityError(
            f"{name.text}: the data set is not in the cache, and the Hugging Face hub cannot be "
            "reached; go online, unset HF_HUB_OFFLINE, or name a local folder"
        ) from None
    except Exception as error:  # a data set may be broken in any way
        raise ComityError(
            f"{name.text}: cannot be loaded ({_reason(error)}); correct the name, or save the rows "
            "as a file"
        ) from None
    try:
        dataset: Any = builder.as_dataset(split=name.split)
    except ValueError:
        raise ComityError(_no_split(name, builder.info.splits or {})) from None
    return HubSplit(dataset, None if name.folder else builder.hash, dataset._fingerprint)


def _no_split(name: HubName, splits: Iterable[str]) -> str:
    splits = list(splits)
    hint = nearest(name.split, splits) or "; correct it"
    return f'{name.text}: no split "{name.split}" (the splits are {quoted_list(splits)}){hint}'


def _reason(error: Exception) -> str:
    """What an error of `datasets` says, on one line and without its examples."""
    return shortened(" ".join(str(error).partition("Example of usage")[0].split()), 200)
