"""Exports a run: writes the folders of a target, their model cards, and checks them."""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from comity.errors import ComityError, nearest
from comity.export import to_comity, to_sentence_transformers, to_transformers
from comity.export.card import task_scores, write_card
from comity.export.folders import Part, Source, largest_difference, write_json
from comity.export.samples import sample_rows
from comity.files import check_free, give_same_permissions, replace_folder
from comity.inference.model import load
from comity.runs import RunDirectory
from comity.targets import HeadSpec

RECORD = "export.json"
"""The file that says what an export contains. It also marks the folder as one."""


class Target(Protocol):
    """What a module that writes a target has."""

    LIBRARY: str  # as the hub names it in `library_name`
    PACKAGES: tuple[str, ...]  # that the check imports
    TOLERANCE: float  # the largest difference from ours that is not an error

    def lacks(self, spec: HeadSpec) -> str | None:
        """Why a head cannot be expressed, or None if it can."""
        ...

    def write(self, source: Source, folder: Path, tasks: list[str]) -> list[Part]:
        """Write the parts into an empty folder; `tasks` are those that can be expressed."""
        ...

    def difference(self, source: Source, folder: Path, part: Part) -> float:
        """The largest absolute difference of any output of a part from ours."""
        ...

    def example(self, source: Source, part: Part, path: str) -> str:
        """Code that loads a part from `path` and uses it."""
        ...


TARGETS: dict[str, Target] = {
    "comity": to_comity,
    "transformers": to_transformers,
    "sentence-transformers": to_sentence_transformers,
}
"""The targets by the name that `--to` takes."""


@dataclass(frozen=True)
class ExportedPart:
    """A part of an export and how far its outputs are from ours."""

    folder: str  # in the export
    what: str
    tasks: tuple[str, ...]
    loads_with: str
    note: str
    difference: float | None  # the largest; None if it was not checked


@dataclass(frozen=True)
class OmittedHead:
    """A head that the target does not have."""

    task: str
    why: str
    targets: tuple[str, ...]  # that have it


@dataclass(frozen=True)
class Export:
    """What an export wrote."""

    run: str
    target: str
    out: str
    parts: list[ExportedPart]
    omitted: list[OmittedHead]
    checked_with: dict[str, str]  # versions of the packages that loaded the parts again
    unchecked: str | None  # why nothing was checked
    precision: str  # of the run
    float32_differences: dict[str, float] = field(default_factory=dict)
    """By task, how far outputs in float32 are from those in the precision of the run."""


def export(run: Path, to: str, out: Path, overwrite: bool = False) -> Export:
    """Write the kept model of a finished run for a target, and check it where that is possible.

    Args:
        run: the run directory.
        to: the target, one of `TARGETS`.
        out: the folder to write: new or empty.
        overwrite: replace the export in `out`.

    Raises:
        ComityError: an unknown target; a run that is unfinished, damaged or has no weights; `out`
            is not empty; or what was written does not give the outputs of the run.
    """
    if to not in TARGETS:
        hint = nearest(to, TARGETS) or f"; use one of {', '.join(TARGETS)}"
        raise ComityError(f'--to: unknown target "{to}"{hint}')
    check_out(out, overwrite)
    target, source = TARGETS[to], open_source(run)
    tasks, omitted = divided(source, to)
    found: dict[str, float] = {}
    parts: list[Part] = []

    def save(folder: Path) -> None:
        parts.extend(target.write(source, folder, tasks))
        found.update(_check(target, source, folder, parts))
        _write_cards(target, source, folder, parts, omitted)
        _write_record(folder, to, parts, omitted, found)
        give_same_permissions(folder, RECORD)

    replace_folder(out, save)
    missing = _missing_packages(target)
    return Export(
        run=str(run),
        target=to,
        out=str(out),
        parts=[ExportedPart(**asdict(part), difference=found.get(part.folder)) for part in parts],
        omitted=omitted,
        checked_with={} if missing else {name: version(name) for name in target.PACKAGES},
        unchecked=missing or None,
        precision=source.directory.facts().precision,
        float32_differences={} if to == "comity" else _float32_differences(source),
    )


def check_out(out: Path, overwrite: bool) -> None:
    """Raise a ComityError if writing an export to `out` would lose something."""
    if not overwrite or not out.is_dir() or not any(out.iterdir()):
        try:
            check_free(out)
        except ComityError as error:
            advice = ", or replace the export with --overwrite" if _is_export(out) else ""
            raise ComityError(f"{error}{advice}") from None
        return
    if not _is_export(out):
        raise ComityError(
            f"{out}: is not empty and comity export did not write it; choose a new or empty folder"
        )
    entries = json.loads((out / RECORD).read_text(encoding="utf-8")).get("entries", [])
    others = sorted(path.name for path in out.iterdir() if path.name not in entries)
    if others:
        raise ComityError(
            f"{out / others[0]}: does not belong to the export; move it away, so that the export "
            "can be replaced"
        )


def _is_export(folder: Path) -> bool:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and isinstance(record.get("entries"), list)


def open_source(run: Path) -> Source:
    """The kept model of a finished run, in float32 on the CPU.

    Raises:
        ComityError: the run is unfinished, damaged, or has no weights.
    """
    directory = RunDirectory.open(run)
    status = directory.status()
    if not status.finished:
        raise ComityError(f"{run}: only a finished run can be exported ({status.sentence})")
    model = load(directory, "cpu", "float32")
    stages = directory.recipe().stages
    trained = {task for stage in stages if stage.train_on == "labels" for task in stage.tasks}
    untrained = {
        task
        for task, spec in model.network.tasks.items()
        if task not in trained and spec.target.head != "cosine"  # which has nothing to train
    }
    return Source(directory, model, frozenset(untrained))


def divided(source: Source, to: str) -> tuple[list[str], list[OmittedHead]]:
    """The tasks whose heads a target can express, and the others."""
    tasks, omitted = [], []
    for task, spec in source.model.network.tasks.items():
        why = TARGETS[to].lacks(spec)
        able = [name for name, other in TARGETS.items() if other.lacks(spec) is None]
        if task in source.untrained and to != "comity":
            why, able = "the head was not trained", ["comity"]
        if why is None:
            tasks.append(task)
        else:
            omitted.append(OmittedHead(task, why, tuple(able)))
    return tasks, omitted


# --- the check ------------------------------------------------------------------------------------


def _missing_packages(target: Target) -> str:
    """A sentence if a package that the check needs is not installed, else ""."""
    missing = [name for name in target.PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    name = missing[0].replace("_", "-")
    return f"not checked: {name} is not installed (pip install {name}, then export again)"


def _check(target: Target, source: Source, folder: Path, parts: list[Part]) -> dict[str, float]:
    """The difference of each part by its folder; empty where a package is missing."""
    if _missing_packages(target):
        return {}
    found = {part.folder: target.difference(source, folder, part) for part in parts}
    for name, difference in found.items():
        if difference > target.TOLERANCE:
            raise ComityError(
                f"{source.directory.path}: the exported folder {name} gives other outputs than the "
                f"run (by up to {difference:.3g}), so nothing was written; please report this"
            )
    return found


def _float32_differences(source: Source) -> dict[str, float]:
    """By task, how far the outputs in float32 are from those in the precision of the run."""
    if source.directory.facts().precision == "float32":
        return {}
    own = load(source.directory, "cpu")
    found = {}
    for task in source.model.tasks:
        rows = sample_rows(source, task)
        outputs = (model.outputs(task, rows) for model in (own, source.model))
        found[task] = largest_difference(*outputs)
    return found


# --- cards and the record -------------------------------------------------------------------------


def _write_cards(
    target: Target, source: Source, folder: Path, parts: list[Part], omitted: list[OmittedHead]
) -> None:
    """Write the card of the whole export and one for each folder that is loaded by itself."""
    scores = task_scores(source)

    def write(place: Path, own: Mapping[str, Part], reasons: Mapping[str, str]) -> None:
        codes = [(part, target.example(source, part, path)) for path, part in own.items()]
        write_card(place, source, scores, target.LIBRARY, codes, reasons)

    for part in parts:
        write(folder / part.folder, {"FOLDER": part}, {})
    if parts[0].folder != ".":
        every = {f"FOLDER/{part.folder}": part for part in parts}
        write(folder, every, {head.task: head.why for head in omitted})


def _write_record(
    folder: Path,
    to: str,
    parts: list[Part],
    omitted: list[OmittedHead],
    differences: Mapping[str, float],
) -> None:
    entries = sorted({RECORD, *(path.name for path in folder.iterdir())})
    write_json(
        folder / RECORD,
        {
            "target": to,
            "comity": version("comity"),
            "entries": entries,
            "parts": [asdict(p) | {"difference": differences.get(p.folder)} for p in parts],
            "omitted": [asdict(head) for head in omitted],
        },
    )
