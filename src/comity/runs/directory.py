"""The run directory: where each file is, and how it is written and read.

RUN/recipe.toml          the recipe, with overrides applied
    run.json             RunFacts: id, seed, recipe, precision, inputs, tasks, machine, versions
    metrics.jsonl        one JSON object per line: one of the entries below
    predictions/000300/sentiment.csv
    best.json            BestModel: the folder of the best model, its scores and calibration
    data.json            RunData: rows, labels and lengths of every split
    skipped-rows.jsonl   the rows that `bad_rows = "skip"` has left out, if there are any
    best-000300/         the best model: encoder/ (Hugging Face names), heads.safetensors
    checkpoint-000300/   the state at an evaluation or an interrupt, for --resume
    report.html          the page of `comity report`, with its numbers in report.json
    track/               the files of experiment trackers, if there are any

Every write is atomic: after a crash the previous version is still there. Each of the folders has a
manifest with the run's id and the digest of every file, and the JSON records have digests of their
own. They are checked when they are read, so a damaged file or one of another run is never used.
"""

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tomli_w
from pydantic import Field, TypeAdapter, ValidationError

from comity.data.summary import RunData
from comity.errors import ComityError
from comity.files import (
    MANIFEST,
    append,
    damage,
    read_bytes,
    read_record,
    sha256_of,
    write_atomically,
    write_folder,
    write_record,
)
from comity.format import or_dash
from comity.recipe.differences import first_difference
from comity.recipe.recipe import Recipe, parsed_toml
from comity.runs.calibration import fitted_heads
from comity.runs.entries import BestModel, EndEntry, Entry, EvaluationEntry
from comity.runs.facts import FORMAT, RunFacts
from comity.runs.lock import LOCK

E = TypeVar("E", bound=Entry)

_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="type")])
_FACTS = TypeAdapter(RunFacts)
_BEST = TypeAdapter(BestModel)
_DATA = TypeAdapter(RunData)

_NAMES = r"(recipe\.toml|(run|best|data|report)\.json|(metrics|skipped-rows)\.jsonl|report\.html)"
_OF_A_RUN = re.compile(rf"{_NAMES}|\.{_NAMES}\.new|predictions|track|\.?(best|checkpoint)-.*")
"""Names of the files and folders in a run directory."""

SLIM_WEIGHTS = "weights.json"
"""The file with the digests of the weights that a slim run does not have."""

TRACK = "track"
"""The folder for files of experiment trackers."""

BEST = re.compile(r"best-\d+")
"""The name of the folder of the best model, with its step."""

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
"""The name of a checkpoint's folder, with its step."""

LEFTOVERS = (".best-*", ".checkpoint-*", ".*.new", "predictions/.[0-9]*")
"""Temporary files and folders that a killed process leaves in a run directory."""


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

    # --- a new run ---

    @staticmethod
    def check_new(path: Path, overwrite: bool = False) -> None:
        """Raise a ComityError if a new run in `path` would lose something.

        An empty directory is fine, and with `overwrite` also one that holds a run and nothing else.
        """
        try:
            os.fsencode(path).decode("utf-8")
        except UnicodeError:  # the reader of safetensors takes UTF-8 only
            raise ComityError(
                f"{path}: the name of the run directory is not UTF-8; choose another --out"
            ) from None
        if path.exists() and not path.is_dir():
            raise ComityError(f"{path}: is a file; choose a directory with --out")
        found = _entries(path)
        if not found:
            return
        if not (path / "run.json").is_file():
            names = ", ".join(entry.name for entry in found[:3]) + (", ..." if found[3:] else "")
            raise ComityError(
                f"{path}: is not empty ({names}) and is not a run; choose a new or empty directory "
                f"with --out, such as {path / 'run'}"
            )
        if overwrite:
            _check_names(found)
            return
        raise ComityError(f"{path}: is not empty; {_advice_for_taken(path)}")

    @classmethod
    def create(cls, path: Path, overwrite: bool = False) -> "RunDirectory":
        """Create a run directory and its parents; an empty directory may exist already.

        With `overwrite` the run that is there is deleted.
        """
        cls.check_new(path, overwrite)
        try:
            clear(path)
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

    # --- records ---

    def write_recipe(self, recipe: Recipe) -> None:
        """Write recipe.toml."""
        write_atomically(self.path / "recipe.toml", tomli_w.dumps(recipe.to_dict()))

    def recipe(self) -> Recipe:
        """The run's recipe.

        Raises:
            ComityError: recipe.toml is damaged, or was edited since the run was started.
        """
        path = self.path / "recipe.toml"
        recipe = Recipe.load(path)
        recorded = self.facts().recipe if (self.path / "run.json").is_file() else None
        if recorded is not None:
            found = parsed_toml(path.read_text(encoding="utf-8-sig"))
            difference = first_difference(recorded, found, ("in run.json", "in recipe.toml"))
            if difference:
                raise ComityError(
                    f"{path}: was edited since the run was started ({difference}); undo the edit, "
                    "or start a new run with the edited recipe"
                )
        return recipe

    def check_recipe(self, recipe: Recipe, name: str) -> None:
        """Raise a ComityError if a recipe, called `name`, is not the one of this run."""
        own, given = self.recipe().to_dict(), recipe.to_dict()
        difference = first_difference(own, given, ("in the run", f"in {name}"))
        if difference and given != self.facts().recipe:
            raise ComityError(
                f"{self.path}: was started with another recipe ({difference}); resume it without "
                "a recipe, or start a new run"
            )

    def write_facts(self, facts: RunFacts) -> None:
        """Write run.json."""
        write_record(self.path / "run.json", asdict(facts))

    def facts(self) -> RunFacts:
        """The contents of run.json."""
        path = self.path / "run.json"
        values = read_record(path)
        if isinstance(values, dict) and values.get("format") != FORMAT:
            raise ComityError(
                f"{self.path}: was written by another version of comity; train it again"
            )
        return validated(_FACTS, values, path)

    def write_data(self, data: RunData) -> None:
        """Write data.json."""
        write_record(self.path / "data.json", asdict(data))

    def data(self) -> RunData | None:
        """The contents of data.json; None for a run of an earlier version."""
        path = self.path / "data.json"
        return validated(_DATA, read_record(path), path) if path.is_file() else None

    def write_skipped_rows(self, lists: Sequence[Path]) -> None:
        """Write skipped-rows.jsonl from its parts, one after another; nothing if they are empty."""
        filled = [path for path in lists if path.stat().st_size]
        if not filled:
            return
        temporary = self.path / ".skipped-rows.jsonl.new"
        with temporary.open("wb") as file:
            for path in filled:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file)
        temporary.replace(self.path / "skipped-rows.jsonl")

    def log(self, *entries: Entry) -> None:
        """Append a line for each entry to metrics.jsonl; all of them or none."""
        append(self.path / "metrics.jsonl", "".join(map(_line, entries)))

    def metrics(self) -> list[Entry]:
        """The entries of metrics.jsonl, without a last line that a crash cut short.

        Raises:
            ComityError: any other line cannot be read; names the line.
        """
        path = self.path / "metrics.jsonl"
        try:
            *lines, _ = read_bytes(path).split(b"\n") if path.exists() else [b""]
        except OSError as error:
            raise ComityError(
                f"{path}: cannot be read ({error.strerror}); the run is damaged, train it again"
            ) from None
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
        """Remove the metrics of the steps that a resumed run will repeat, and the end entry."""
        entries = self.metrics()
        kept = [e for e in entries if e.step <= step and not isinstance(e, EndEntry)]
        write_atomically(self.path / "metrics.jsonl", "".join(map(_line, kept)))

    # --- folders ---

    def write_predictions(self, step: int, save: Callable[[Path], None]) -> None:
        """Let `save` write a step's files of dev predictions, one per task."""
        self._write_folder(self.path / "predictions" / f"{step:06d}", save)

    def predictions(self, step: int, task: str) -> Path:
        """A task's file of dev predictions.

        Raises:
            ComityError: the file has changed since it was written.
        """
        folder = self.path / "predictions" / f"{step:06d}"
        name = f"{task}.csv"
        wrong = damage(folder, self.facts().id, name) if (folder / MANIFEST).is_file() else None
        if wrong:
            raise ComityError(
                f"{folder / name}: is damaged: {wrong}; restore the folder, or train the run again"
            )
        return folder / name

    def write_best(self, best: BestModel, save: Callable[[Path], None]) -> None:
        """Let `save` write the model into its folder, update best.json, delete the old folder."""
        folder = self.path / best.folder
        self._write_folder(folder, save)
        write_record(self.path / "best.json", asdict(best))
        for old in self.path.glob("best-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def has_best(self) -> bool:
        """Whether a model has been kept."""
        return (self.path / "best.json").is_file()

    def best(self) -> BestModel:
        """The contents of best.json."""
        path = self.path / "best.json"
        if not path.is_file():
            raise ComityError(
                f"{self.path}: the run has no saved model yet ({self.status().sentence})"
            )
        best = validated(_BEST, read_record(path), path)
        if not BEST.fullmatch(best.folder):
            raise ComityError(
                f'{path}: names "{best.folder}", which is not a folder of the run; the run is '
                "damaged, train it again"
            )
        return best

    @property
    def warnings(self) -> list[str]:
        """A sentence for each task of which the kept model predicts nothing but one class."""
        kept = self.kept_evaluation()
        return kept.warnings if kept else []

    def kept_evaluation(self) -> EvaluationEntry | None:
        """The evaluation of the kept model, with its calibration; None if it was not recorded."""
        best = self.best()
        found = [entry for entry in self.entries(EvaluationEntry) if entry.step == best.step]
        return best.kept(found[-1]) if found else None

    def kept_facts(self) -> RunFacts:
        """The contents of run.json, with what was fitted for the kept model in its heads."""
        facts, fit = self.facts(), self.best().fit
        if unknown := {*fit.tasks} - {*facts.tasks}:
            raise ComityError(
                f"{self.path / 'best.json'}: has a calibration or a mix of {min(unknown)}, which "
                "is not a task of the run; the run is damaged, train it again"
            )
        heads = fitted_heads({name: task.head for name, task in facts.tasks.items()}, fit)
        tasks = {name: replace(task, head=heads[name]) for name, task in facts.tasks.items()}
        return replace(facts, tasks=tasks)

    def kept_model(self) -> Path:
        """The folder of the best model, all of whose files have been checked.

        Raises:
            ComityError: no model has been kept, or a file is damaged or of another run; or this is
                a slim run.
        """
        folder = self.path / self.best().folder
        if not folder.is_dir() and (self.path / SLIM_WEIGHTS).is_file():
            raise ComityError(
                f"{self.path}: is a slim copy without weights; name the run that it is a copy of"
            )
        wrong = damage(folder, self.facts().id) if folder.is_dir() else "it is missing"
        if wrong:
            raise ComityError(
                f"{folder}: the kept model is damaged: {wrong}; restore the folder from a copy, or "
                "train the run again"
            )
        return folder

    def write_checkpoint(self, step: int, save: Callable[[Path], None], keep: int = 2) -> None:
        """Let `save` fill the checkpoint's folder, then delete all but the newest `keep` ones."""
        self._write_folder(self.path / f"checkpoint-{step:06d}", save)
        ours = [folder for folder in self.checkpoints() if _step_of(folder) <= step]
        for old in ours[keep:]:  # one with a higher step was skipped when the run was resumed
            shutil.rmtree(old, ignore_errors=True)

    def checkpoints(self) -> list[Path]:
        """The folders of all checkpoints, the newest first; they may be damaged."""
        found = (f for f in self.path.glob("checkpoint-*") if CHECKPOINT.fullmatch(f.name))
        return sorted(found, key=_step_of, reverse=True)

    def find_checkpoint(self) -> "tuple[Path | None, list[str]]":
        """The newest undamaged checkpoint, and one sentence on each newer one."""
        run = self.facts().id
        skipped = []
        for folder in self.checkpoints():
            wrong = damage(folder, run)
            if wrong is None:
                end = f"skipped; the run continues from {folder.name}"
                return folder, [f"{sentence}; {end}" for sentence in skipped]
            skipped.append(f"{folder}: cannot be used: {wrong}")
        return None, skipped

    def usable_checkpoint(self) -> "tuple[Path, list[str]]":
        """As `find_checkpoint`.

        Raises:
            ComityError: no checkpoint can be used; it says why, and what to do instead.
        """
        folder, sentences = self.find_checkpoint()
        if folder is not None:
            return folder, sentences
        if self.is_finished():
            raise ComityError(
                *sentences,
                f"{self.path}: has no undamaged checkpoint, so it cannot be extended (comity sweep "
                "and comity clean delete the checkpoints of finished runs); train a longer run",
            )
        raise ComityError(*sentences, f"{self.path}: {self.status().sentence}")

    def remove_unfinished_writes(self) -> None:
        """Delete what a killed process left behind."""
        for pattern in LEFTOVERS:
            for path in self.path.glob(pattern):
                _delete(path)

    def _write_folder(self, folder: Path, save: Callable[[Path], None]) -> None:
        write_folder(folder, save, self.facts().id, self.advice_after_failed_write)

    # --- how far it has come ---

    def is_finished(self) -> bool:
        """Whether the run has reached its end."""
        return bool(self.entries(EndEntry))

    def status(self) -> "RunStatus":
        """How far the run has come, and how to complete it if it is unfinished."""
        planned = self.facts().steps
        of = f" of {planned:,}" if planned else ""
        ends = self.entries(EndEntry)
        if ends:
            end = ends[-1]
            early = " (stopped early)" if end.stopped_early else ""
            return RunStatus(True, end.step, planned, f"finished: step {end.step:,}{of}{early}")
        checkpoint, skipped = self.find_checkpoint()
        step = _step_of(checkpoint) if checkpoint else 0
        if checkpoint is not None:
            advice = f"continue with {self.resume_command}"
        else:
            why = "all checkpoints are damaged" if skipped else "there is no checkpoint"
            advice = f"{why}, so start it again with {self._restart_command()}"
        return RunStatus(False, step, planned, f"unfinished: step {step:,}{of}; {advice}")

    @property
    def next_command(self) -> str:
        """The command that completes an unfinished run: it resumes the run, or starts it again."""
        return self.resume_command if self.checkpoints() else self._restart_command()

    @property
    def advice_after_failed_write(self) -> str:
        """What to do when the disk is full or cannot be written."""
        return f"free some space or correct the cause, then run {self.next_command}"

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return f"comity train --resume {shlex.quote(str(self.path))}"

    def _restart_command(self) -> str:
        facts = self.facts()
        if facts.inputs.fold and facts.command:  # comity train would train on all rows
            return shlex.join(facts.command)
        if facts.soup:
            runs = [member.run for member in facts.soup]
            return shlex.join(["comity", "soup", *runs, "--out", str(self.path), "--overwrite"])
        inputs = facts.inputs
        words = ["comity", "train", str(self.path / "recipe.toml"), "--data", inputs.data]
        words += ["--drop-leaks"] if inputs.drop_leaks else []
        return shlex.join([*words, "--out", str(self.path), "--overwrite"])


@dataclass(frozen=True)
class RunStatus:
    """How far a run has come, or for an unfinished run the step from which it can continue."""

    finished: bool
    step: int
    steps: int | None  # planned; None for a run of an earlier version
    sentence: str


def _advice_for_taken(path: Path) -> str:
    """What to do about a directory that holds a run already."""
    choose = "choose another directory with --out, or replace the run with --overwrite"
    try:
        directory = RunDirectory.open(path)
        if directory.is_finished():
            return f"it holds a finished run; {choose}"
        if directory.find_checkpoint()[0] is not None:
            resume = directory.resume_command
            return f"it holds an unfinished run; continue it with {resume}, {choose}"
        return f"it holds a run without a checkpoint; {choose}"
    except ComityError:
        return f"it holds a damaged run; {choose}"


def resume_or_start(path: Path) -> tuple[bool, bool]:
    """For one command that starts a run or resumes it: whether to resume it, and to overwrite it.

    What is left of a process that was killed before its first checkpoint is overwritten.
    """
    if not (path / "run.json").is_file():
        return False, False
    run = RunDirectory.open(path)
    if run.is_finished() or run.find_checkpoint()[0] is not None:
        return True, False
    return False, not run.checkpoints()


def clear(path: Path) -> None:
    """Delete everything in a run directory.

    Raises:
        ComityError: something in it does not belong to a run; nothing is deleted.
    """
    found = _entries(path)
    _check_names(found)
    for entry in found:
        _delete(entry)


def _entries(path: Path) -> list[Path]:
    """What is in a directory besides the file of its lock."""
    found = sorted(path.iterdir()) if path.is_dir() else []
    return [entry for entry in found if entry.name != LOCK]


def _check_names(entries: list[Path]) -> None:
    for entry in entries:
        if not _OF_A_RUN.fullmatch(entry.name):
            raise ComityError(
                f"{entry}: does not belong to a run; move it away, so that the run can start here"
            )


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


T = TypeVar("T")


def validated(adapter: TypeAdapter[T], values: Any, path: Path) -> T:
    """Parsed JSON as a typed record.

    Raises:
        ComityError: a value is missing or has the wrong type; names the first such key.
    """
    try:
        return adapter.validate_python(values)
    except UnicodeEncodeError:  # from pydantic, where a value has to be one of some words
        raise ComityError(
            f"{path}: a value contains half of a surrogate pair; the run is damaged, train it again"
        ) from None
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"])) or "the whole file"
        raise ComityError(
            f"{path}: {key} is missing or has the wrong type; the run is damaged, train it again"
        ) from None


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry), allow_nan=False) + "\n"


def _step_of(folder: Path) -> int:
    found = CHECKPOINT.fullmatch(folder.name)
    return int(found[1]) if found else -1


def digests_of_weights(kept: Path) -> dict[str, str]:
    """SHA-256 of each weight file of a run's kept model, by its path in the model's folder."""
    files = sorted(kept.rglob("*.safetensors"))
    return {file.relative_to(kept).as_posix(): sha256_of(file) for file in files}


def is_finished(directory: Path) -> bool:
    """Whether the directory contains a run that has reached its end."""
    return RunDirectory(directory).is_finished()


def has_checkpoint(directory: Path) -> bool:
    """Whether the directory contains a run that can be resumed."""
    return any(directory.glob("checkpoint-*"))
