"""The facts of a run: the contents of run.json."""

import math
import platform
import secrets
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, Field

from comity.recipe.schema import HEADS_OF, MOST_LAYERS, MOST_LEVELS, TASK_NAME, Pooling, View
from comity.targets import HeadSpec

FORMAT = 3
"""Version of the files in a run directory. Runs of another format are refused."""

RECORDED_PACKAGES = ("comity", "torch", "numpy", "tokenizers", "safetensors")

TaskName = Annotated[str, Field(pattern=f"^{TASK_NAME}$")]
Precision = Annotated[str, Field(pattern="^(float32|bfloat16)$")]


def _checked(head: HeadSpec) -> HeadSpec:
    """A head from a file, if a recipe could have declared it: its sizes take memory.

    Raises:
        ValueError: no recipe could.
    """
    for part in head.target.parts:
        low, high = part.scale
        if part.head not in HEADS_OF.get(part.kind, ()):
            raise ValueError(f"{part.kind} has no head {part.head}")
        if not -math.inf < low < high < math.inf:
            raise ValueError("no scale")
        if not (0 < part.deviation < math.inf and abs(part.mean) < math.inf):
            raise ValueError("no mean and deviation")
        if not (0 < part.temperature < math.inf and 0 < part.threshold < 1 and 0 <= part.mix <= 1):
            raise ValueError("a temperature, threshold or share is out of range")
        if part.head == "bins" and high - low >= MOST_LEVELS:
            raise ValueError("too many levels")
    if not 0 <= head.layers <= MOST_LAYERS or not 0 <= head.dropout < 1:
        raise ValueError("layers or dropout out of range")
    if not {head.pooling, head.embedding_pooling} <= {*get_args(Pooling)}:
        raise ValueError("unknown pooling")
    if len(head.views) not in range(1, 4) or not {*head.views} <= {*get_args(View)}:
        raise ValueError("unknown views")
    return head


# --- run.json -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncoderFacts:
    """The pretrained encoder: its name in the recipe, its origin, and its digests."""

    name: str
    sha256: dict[str, str]  # by weight file
    folder: str | None = None  # for a local checkpoint
    hub: str | None = None  # for one from the Hugging Face hub, with its revision
    revision: str | None = None


@dataclass(frozen=True)
class HubFacts:
    """A data set of the Hugging Face hub, or a folder that `datasets` has saved."""

    name: str  # as in the recipe
    revision: str | None  # the commit on the hub; None for a folder
    fingerprint: str  # of `datasets`


@dataclass(frozen=True)
class FoldFacts:
    """The fold of the training rows that a run has not seen (`comity.data.folds`).

    It is drawn from the split seed and the training file, so that the rows can be found again.
    """

    number: int  # from 1
    count: int
    rows: int
    sha256: str  # of the rows, as indices in the file


@dataclass(frozen=True)
class TeacherFacts:
    """A teacher of a task: a run, or a file of soft labels."""

    path: str  # as in the recipe
    sha256: str  # of everything that its predictions depend on besides the rows


@dataclass(frozen=True)
class PartFacts:
    """One file of a table in several files."""

    name: str  # as in the recipe, or as it matches the recipe's pattern
    sha256: str


@dataclass(frozen=True)
class RunInputs:
    """Everything a run reads. None of it may change between start and resume."""

    data: str  # absolute path of the folder where the recipe's relative paths start
    drop_leaks: bool
    encoder: EncoderFacts
    tokenizer: str  # fingerprint
    files: dict[str, str]  # SHA-256 by role: "TASK train", "dev", "unlabelled" or a stage's file
    split_seed: int | None = None  # None in runs of older versions, which used the training seed
    in_memory: list[str] = field(default_factory=list)  # roles that were tables in memory
    hub: dict[str, HubFacts] = field(default_factory=dict)  # roles that were data sets of the hub
    fold: FoldFacts | None = None  # None: the run has seen all training rows
    teachers: dict[str, list[TeacherFacts]] = field(default_factory=dict)  # by task
    parts: dict[str, list[PartFacts]] = field(default_factory=dict)  # by role, of several files

    def training_digests(self, task: str) -> set[str]:
        """The digests of the files that a task is trained on, and of their parts."""
        roles = {role for role in self.files if role.startswith(f"{task} ")} - {f"{task} dev"}
        parts = {part.sha256 for role in roles for part in self.parts.get(role, [])}
        return parts | {self.files[role] for role in roles}

    @property
    def digests(self) -> dict[str, str]:
        """One digest for each input: encoder, tokenizer, files, rows left out, teachers."""
        weights = " ".join(f"{name}:{digest}" for name, digest in self.encoder.sha256.items())
        files = {f"file of {role}": digest for role, digest in self.files.items()}
        held_out = {"fold of training rows": self.fold.sha256} if self.fold else {}
        teachers = {
            f"teacher of {task}": " ".join(teacher.sha256 for teacher in own)
            for task, own in self.teachers.items()
        }
        return {"encoder": weights, "tokenizer": self.tokenizer, **files, **held_out, **teachers}


@dataclass(frozen=True)
class TaskFacts:
    """One task of a run."""

    head: Annotated[HeadSpec, AfterValidator(_checked)]
    metric: str
    max_length: int  # in tokens


@dataclass(frozen=True)
class Machine:
    """The hardware of a run."""

    device: str
    processor: str
    processor_class: str
    threads: int
    card: str | None = None  # the GPU
    processes: int = 1  # that trained together when the run was started


@dataclass(frozen=True)
class SoupMember:
    """A run that was offered to a soup, see `comity.experiments.soup`."""

    run: str  # its directory, as it was named
    id: str | None
    seed: int
    score: float | None  # on dev, of the run alone
    with_it: float | None  # on dev, of the soup with it
    kept: bool


@dataclass(frozen=True)
class RunFacts:
    """The contents of run.json."""

    seed: int
    precision: Precision
    inputs: RunInputs
    tasks: dict[TaskName, TaskFacts]
    machine: Machine
    versions: dict[str, str]  # by package
    command: list[str] | None = None  # None for a run started from Python
    commit: str | None = None  # of the git repository in the working directory
    format: int = FORMAT
    id: str | None = None  # random; also in the manifests of the run's folders
    recipe: dict[str, Any] | None = None  # the content of recipe.toml, to notice an edit
    steps: int | None = None  # of the whole plan
    soup: list[SoupMember] = field(default_factory=list)  # of a soup: in the order of the attempts


def new_run_id() -> str:
    """A random id, so that no run takes another run's checkpoint for its own."""
    return secrets.token_hex(8)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages a run depends on."""
    packages = {name: metadata.version(name) for name in RECORDED_PACKAGES}
    return {**packages, "python": platform.python_version(), "platform": platform.platform()}


def current_commit() -> str | None:
    """The commit checked out in the working directory, or None outside a git repository."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
