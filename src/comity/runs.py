"""The run directory and the typed records in it. Loads no torch.

RUN/recipe.toml          the recipe, with overrides applied
    run.json             RunFacts: seed, precision, inputs, tasks, machine, versions, command
    metrics.jsonl        one JSON object per line: train, conflict, evaluation, skipped, end
    predictions/000300/sentiment.csv
    best.json            BestModel: the folder of the best model, and its scores
    best-000300/         the best model: encoder/ (Hugging Face names), heads.safetensors
    checkpoint-000300/   the state at the last evaluation, for --resume

Every write is atomic: after a crash the previous version is still there.
"""

import json
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import Field, TypeAdapter, ValidationError

from comity.errors import ComityError
from comity.files import is_complete, write_atomically, write_folder
from comity.format import or_dash
from comity.recipe.recipe import Recipe
from comity.targets import HeadSpec

FORMAT = 3
"""Version of the files in a run directory. Runs of another format are refused."""

RECORDED_PACKAGES = ("comity", "torch", "numpy", "tokenizers", "safetensors")

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
class RunInputs:
    """Everything a run reads. None of it may change between start and resume."""

    data: str  # absolute path of the folder where the recipe's relative paths start
    drop_leaks: bool
    encoder: EncoderFacts
    tokenizer: str  # fingerprint
    files: dict[str, str]  # SHA-256 by role: "TASK train", "TASK dev" or "TASK FILE" of a stage
    in_memory: list[str] = field(default_factory=list)  # roles that were tables in memory

    @property
    def digests(self) -> dict[str, str]:
        """One digest for the encoder, one for the tokenizer, and one for each file."""
        weights = " ".join(f"{name}:{digest}" for name, digest in self.encoder.sha256.items())
        files = {f"file of {role}": digest for role, digest in self.files.items()}
        return {"encoder": weights, "tokenizer": self.tokenizer, **files}


@dataclass(frozen=True)
class TaskFacts:
    """One task of a run."""

    head: HeadSpec
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


@dataclass(frozen=True)
class RunFacts:
    """The contents of run.json."""

    seed: int
    precision: str  # "float32" or "bfloat16"
    inputs: RunInputs
    tasks: dict[str, TaskFacts]
    machine: Machine
    versions: dict[str, str]  # by package
    command: list[str] | None = None  # None for a run started from Python
    commit: str | None = None  # of the git repository in the working directory
    format: int = FORMAT


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


# --- best.json and metrics.jsonl ------------------------------------------------------------------


@dataclass(frozen=True)
class RecordedScore:
    """A score in a file; `reason` says why `value` is None, or which tasks a mean excludes."""

    metric: str
    value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class BestModel:
    """The contents of best.json: which model was kept, and its dev scores."""

    folder: str  # in the run directory
    step: int
    by: str  # train.select_by: "mean" or a task
    score: RecordedScore
    tasks: dict[str, RecordedScore]


@dataclass(frozen=True)
class RecordedEvaluation:
    """One task's evaluation in metrics.jsonl."""

    metric: str
    value: float | None
    loss: float | None
    n: int  # rows
    others: dict[str, float | None]  # the other metrics
    reason: str | None = None  # why `value` is None
    confusion_matrix: list[list[int]] | None = None
    warning: str | None = None  # where the model predicts nothing but one class


@dataclass(frozen=True)
class BestOfTask:
    """A task's own best dev score in a run, whichever model was kept."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True, kw_only=True)
class TrainEntry:
    """Training averages since the previous train entry."""

    type: Literal["train"] = "train"
    step: int
    examples: int  # since the start of the run
    loss: dict[str, float | None]  # mean by task; None if it was not finite
    gradient_norm: float | None  # of the last step, before clipping
    skipped: int  # steps since the start of the run
    examples_per_second: float
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class ConflictEntry:
    """The most recent cosines between task gradients."""

    type: Literal["conflict"] = "conflict"
    step: int
    tasks: list[str]
    cosines: list[list[float]]  # [K, K]
    share_of_steps: float  # observed steps in which at least one pair of tasks conflicted


@dataclass(frozen=True, kw_only=True)
class EvaluationEntry:
    """An evaluation on dev and on a sample of the training rows."""

    type: Literal["evaluation"] = "evaluation"
    step: int
    examples: int
    mean: float | None
    mean_reason: str | None
    tasks: dict[str, RecordedEvaluation]
    train: dict[str, RecordedEvaluation]
    best_of_task: dict[str, BestOfTask]  # up to and including this evaluation


@dataclass(frozen=True, kw_only=True)
class SkippedEntry:
    """A step that was skipped because a loss or gradient was not finite."""

    type: Literal["skipped"] = "skipped"
    step: int
    task: str
    lines: list[int]  # of the task's batch, in its file


@dataclass(frozen=True, kw_only=True)
class EndEntry:
    """The end of a run."""

    type: Literal["end"] = "end"
    step: int
    examples: int
    skipped: int
    stopped_early: bool


Entry = TrainEntry | ConflictEntry | EvaluationEntry | SkippedEntry | EndEntry
E = TypeVar("E", bound=Entry)

_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="type")])
_FACTS = TypeAdapter(RunFacts)
_BEST = TypeAdapter(BestModel)


# --- the directory --------------------------------------------------------------------------------


class RunDirectory:
    """Reads and writes the files of one run."""

    def __init__(self, path: Path):
        self.path = path

    def __repr__(self) -> str:
        """The path and, once a model is kept, its step and dev scores."""
        try:
            best = self.best()
        except ComityError:
            return f"<Run {self.path}: no model kept yet>"
        scores = [f"{task} {s.metric} {or_dash(s.value)}" for task, s in best.tasks.items()]
        return f"<Run {self.path}: {', '.join(scores)} on dev at step {best.step}>"

    @staticmethod
    def check_new(path: Path) -> None:
        """Raise a ComityError if `path` is a file or a directory with content: nothing is lost."""
        if path.exists() and not path.is_dir():
            raise ComityError(f"{path}: is a file; choose a directory with --out")
        if path.is_dir() and any(path.iterdir()):
            raise ComityError(
                f"{path}: the run directory is not empty; choose another one with --out, or "
                f"continue the run in it with --resume {path}"
            )

    @classmethod
    def create(cls, path: Path) -> "RunDirectory":
        """Create a run directory; an empty directory may exist already."""
        cls.check_new(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise ComityError(
                f"{path}: cannot create the run directory ({error.strerror}); choose another one"
            ) from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open an existing run.

        Raises:
            ComityError: not a run directory, or run.json is damaged or has another format.
        """
        if not (path / "run.json").is_file():
            what = "no such directory" if not path.exists() else "not a run (it has no run.json)"
            advice = "name a directory written by comity train"
            for parent in list(path.absolute().parents)[:2] if path.exists() else ():
                if (parent / "run.json").is_file():
                    what, advice = "a part of a run", f"name the run itself: {parent}"
                    break
            raise ComityError(f"{path}: {what}; {advice}")
        found = cls(path)
        found.facts()
        return found

    def write_recipe(self, recipe: Recipe) -> None:
        """Write recipe.toml."""
        write_atomically(self.path / "recipe.toml", tomli_w.dumps(recipe.to_dict()))

    def recipe(self) -> Recipe:
        """The run's recipe."""
        return Recipe.load(self.path / "recipe.toml")

    def write_facts(self, facts: RunFacts) -> None:
        """Write run.json."""
        write_atomically(self.path / "run.json", json.dumps(asdict(facts), indent=2) + "\n")

    def facts(self) -> RunFacts:
        """The contents of run.json."""
        path = self.path / "run.json"
        values = read_json(path)
        if isinstance(values, dict) and values.get("format") != FORMAT:
            raise ComityError(
                f"{self.path}: was written by another version of comity; train it again"
            )
        return validated(_FACTS, values, path)

    def log(self, entry: Entry) -> None:
        """Append one line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(_line(entry))

    def metrics(self) -> list[Entry]:
        """The entries of metrics.jsonl, without a last line that a crash cut short.

        Raises:
            ComityError: any other line cannot be read; names the line.
        """
        path = self.path / "metrics.jsonl"
        *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
        entries = []
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(_ENTRY.validate_json(line))
            except ValidationError:
                raise ComityError(
                    f"{path}:{number}: is not an entry that comity writes; the run is damaged, "
                    "restore the line or train the run again"
                ) from None
        return entries

    def entries(self, kind: type[E]) -> list[E]:
        """The entries of metrics.jsonl of one class."""
        return [entry for entry in self.metrics() if isinstance(entry, kind)]

    def forget_after(self, step: int) -> None:
        """Remove the metrics of the steps that a resumed run will repeat."""
        kept = [entry for entry in self.metrics() if entry.step <= step]
        write_atomically(self.path / "metrics.jsonl", "".join(map(_line, kept)))

    def write_best(self, best: BestModel, save: Callable[[Path], None]) -> None:
        """Let `save` write the model into its folder, update best.json, delete the old folder."""
        folder = self.path / best.folder
        write_folder(folder, save)
        write_atomically(self.path / "best.json", json.dumps(asdict(best)) + "\n")
        self._delete_others("best-*", folder)

    def best(self) -> BestModel:
        """The contents of best.json."""
        path = self.path / "best.json"
        if not path.is_file():
            raise ComityError(
                f"{self.path}: the run has no saved model yet; continue it with "
                f"--resume {self.path}"
            )
        return validated(_BEST, read_json(path), path)

    @property
    def warnings(self) -> list[str]:
        """A sentence for each task of which the kept model predicts nothing but one class."""
        step = self.best().step
        kept = [entry for entry in self.entries(EvaluationEntry) if entry.step == step]
        return _warnings(kept[-1] if kept else None)

    def write_checkpoint(self, step: int, save: Callable[[Path], None]) -> None:
        """Let `save` fill the checkpoint's folder, then delete the previous checkpoint."""
        folder = self.path / f"checkpoint-{step:06d}"
        write_folder(folder, save)
        self._delete_others("checkpoint-*", folder)

    def newest_checkpoint(self) -> Path:
        """The folder of the newest complete checkpoint."""
        for folder in sorted(self.path.glob("checkpoint-*"), key=_step_of, reverse=True):
            if is_complete(folder):
                return folder
        raise ComityError(
            f"{self.path}: there is no complete checkpoint (the first evaluation writes the "
            "first one); start the run again in another directory"
        )

    def remove_unfinished_writes(self) -> None:
        """Delete the temporary folders of a killed process."""
        for pattern in (".best-*", ".checkpoint-*"):
            for folder in self.path.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)

    def _delete_others(self, pattern: str, kept: Path) -> None:
        for old in self.path.glob(pattern):
            if old != kept:
                shutil.rmtree(old, ignore_errors=True)


def read_json(path: Path) -> Any:
    """Parse a JSON file of a run.

    Raises:
        ComityError: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ComityError(f"{path}: cannot be read; the run is damaged, train it again") from None


T = TypeVar("T")


def validated(adapter: TypeAdapter[T], values: Any, path: Path) -> T:
    """Parsed JSON as a typed record.

    Raises:
        ComityError: a value is missing or has the wrong type; names the first such key.
    """
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"])) or "the whole file"
        raise ComityError(
            f"{path}: {key} is missing or has the wrong type; the run is damaged, train it again"
        ) from None


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry), allow_nan=False) + "\n"


def _step_of(folder: Path) -> int:
    tail = folder.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else -1


def is_finished(directory: Path) -> bool:
    """Whether the directory contains a run that has reached its end."""
    return bool(RunDirectory(directory).entries(EndEntry))


def has_checkpoint(directory: Path) -> bool:
    """Whether the directory contains a run that can be resumed."""
    return any(directory.glob("checkpoint-*"))


# --- summaries ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance: `comity info`."""

    run: str
    finished: bool
    encoder: str
    precision: str
    seed: int
    machine: Machine
    versions: dict[str, str]
    best: BestModel
    best_of_task: dict[str, BestOfTask]
    evaluations: list[EvaluationEntry]
    conflict: ConflictEntry | None  # the last one
    skipped: int | None  # steps; None until the run has ended

    @property
    def kept(self) -> EvaluationEntry | None:
        """The evaluation of the kept model."""
        return next((e for e in self.evaluations if e.step == self.best.step), None)

    @property
    def warnings(self) -> list[str]:
        """A sentence for each task of which the kept model predicts nothing but one class."""
        return _warnings(self.kept)


def _warnings(evaluation: EvaluationEntry | None) -> list[str]:
    tasks = evaluation.tasks if evaluation else {}
    return [f"{name}: {task.warning}" for name, task in tasks.items() if task.warning]


def run_summary(directory: RunDirectory) -> RunSummary:
    """Summarise a run.

    Raises:
        ComityError: the run has no saved model yet, or a file is damaged.
    """
    facts = directory.facts()
    evaluations = directory.entries(EvaluationEntry)
    conflicts = directory.entries(ConflictEntry)
    ends = directory.entries(EndEntry)
    return RunSummary(
        run=str(directory.path),
        finished=bool(ends),
        encoder=facts.inputs.encoder.name,
        precision=facts.precision,
        seed=facts.seed,
        machine=facts.machine,
        versions=facts.versions,
        best=directory.best(),
        best_of_task=evaluations[-1].best_of_task if evaluations else {},
        evaluations=evaluations,
        conflict=conflicts[-1] if conflicts else None,
        skipped=ends[-1].skipped if ends else None,
    )


@dataclass(frozen=True)
class Reached:
    """The dev scores of a run's kept model."""

    step: int
    mean: float | None  # None if any task has no value: a mean without its worst task misleads
    tasks: dict[str, float | None]


def reached(directory: RunDirectory) -> Reached:
    """The step, mean and task scores of the kept model."""
    best = directory.best()
    tasks = {name: score.value for name, score in best.tasks.items()}
    means = [entry.mean for entry in directory.entries(EvaluationEntry) if entry.step == best.step]
    return Reached(best.step, None if None in tasks.values() or not means else means[0], tasks)
