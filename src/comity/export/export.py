"""Exports a run: writes the folders of a target, their model cards, and checks them."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from comity.errors import ComityError, nearest
from comity.export import to_comity, to_onnx, to_sentence_transformers, to_transformers
from comity.export.card import FOLDER, task_scores, write_card
from comity.export.folders import Part, Source, largest_difference, write_json
from comity.export.onnx import OnnxExport, add_int8
from comity.export.samples import sample_rows
from comity.files import check_free, give_same_permissions, path_text, read_json, replace_folder
from comity.inference.model import load
from comity.runs.directory import RunDirectory
from comity.targets import HeadSpec

RECORD = "export.json"
"""The file that says what an export contains. It also marks the folder as one."""


class ExportTarget(Protocol):
    """What a module that writes a target has."""

    @property
    def LIBRARY(self) -> str:
        """The library that loads the folders, as the hub names it in `library_name`."""
        ...

    @property
    def PACKAGES(self) -> Sequence[str]:
        """What the check imports."""
        ...

    @property
    def TOLERANCE(self) -> float:
        """The largest difference from ours that is not an error."""
        ...

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


TARGETS: dict[str, ExportTarget] = {
    "comity": to_comity,
    "transformers": to_transformers,
    "sentence-transformers": to_sentence_transformers,
    "onnx": to_onnx,
}
"""The targets by the name that `--to` takes."""


WITH_UNTRAINED = ("comity", "onnx")
"""The targets with every head in one model, untrained ones included."""


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
    parts: list[Part]
    omitted: list[OmittedHead]
    checked_with: dict[str, str]  # versions of the packages that loaded the parts again
    unchecked: str | None  # why nothing was checked
    precision: str  # of the run
    float32_differences: dict[str, float] = field(default_factory=dict)
    """By task, how far outputs in float32 are from those in the precision of the run."""
    int8: OnnxExport | None = None


def export(run: Path, to: str, out: Path, overwrite: bool = False, int8: bool = False) -> Export:
    """Write the kept model of a finished run for a target, and check it where that is possible.

    Args:
        run: the run directory.
        to: the target, one of `TARGETS`.
        out: the folder to write: new or empty.
        overwrite: replace the export in `out`.
        int8: for the target `onnx`, write a graph with 8-bit weights too.

    Raises:
        ComityError: an unknown target; a run that is unfinished, damaged or has no weights; `out`
            is not empty; or what was written does not give the outputs of the run.
    """
    if to not in TARGETS:
        hint = nearest(to, TARGETS) or f"; use one of {', '.join(TARGETS)}"
        raise ComityError(f'--to: unknown target "{to}"{hint}')
    if int8 and to != "onnx":
        raise ComityError(f"--int8 needs --to onnx; {to} has no 8-bit weights, so leave it out")
    check_out(out, overwrite)
    target, source = TARGETS[to], open_source(run)
    tasks, omitted = divided(source, to)
    parts: list[Part] = []
    quantised: list[OnnxExport] = []

    def save(folder: Path) -> None:
        parts.extend(_checked(target, source, folder, target.write(source, folder, tasks)))
        if int8:
            quantised.append(add_int8(source.model, folder))
        _write_cards(target, source, folder, parts, omitted)
        _write_record(folder, to, parts, omitted)
        give_same_permissions(folder, RECORD)

    replace_folder(out, save, "choose another folder, or free some space")
    missing = _missing_packages(target)
    return Export(
        run=path_text(run),
        target=to,
        out=path_text(out),
        parts=parts,
        omitted=omitted,
        checked_with={} if missing else {name: version(name) for name in target.PACKAGES},
        unchecked=missing or None,
        precision=source.directory.facts().precision,
        float32_differences={} if to == "comity" else _float32_differences(source),
        int8=quantised[0] if quantised else None,
    )


def check_out(out: Path, overwrite: bool) -> None:
    """Raise a ComityError if writing an export to `out` would lose something."""
    entries = _entries(out)
    if overwrite and entries is not None:
        others = sorted(path.name for path in out.iterdir() if path.name not in entries)
        if others:
            raise ComityError(
                f"{out / others[0]}: does not belong to the export; move it away, so that the "
                "export can be replaced"
            )
        return
    try:
        check_free(out)
    except ComityError as error:
        advice = "; --overwrite replaces only what comity export wrote" if overwrite else ""
        if entries is not None:
            advice = ", or replace the export with --overwrite"
        raise ComityError(f"{error}{advice}") from None


def _entries(folder: Path) -> list[str] | None:
    """The names of what an export has in its folder; None if the folder is not an export."""
    try:
        return list(read_json(folder / RECORD)["entries"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
        if task in source.untrained and to not in WITH_UNTRAINED:
            why, able = "the head was not trained", list(WITH_UNTRAINED)
        if why is None:
            tasks.append(task)
        else:
            omitted.append(OmittedHead(task, why, tuple(able)))
    return tasks, omitted


# --- the check ------------------------------------------------------------------------------------


def _missing_packages(target: ExportTarget) -> str:
    """A sentence if a package that the check needs is not installed, else ""."""
    missing = [name for name in target.PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    name = missing[0].replace("_", "-")
    return f"not checked: {name} is not installed (pip install {name}, then export again)"


def _checked(target: ExportTarget, source: Source, folder: Path, parts: list[Part]) -> list[Part]:
    """The parts with their differences, or as they are if a package is missing."""
    if _missing_packages(target):
        return parts
    checked = []
    for part in parts:
        difference = target.difference(source, folder, part)
        if difference > target.TOLERANCE:
            raise ComityError(
                f"{source.directory.path}: the exported folder {part.folder} gives other outputs "
                f"than the run (by up to {difference:.3g}), so nothing was written; please report "
                "this"
            )
        checked.append(replace(part, difference=difference))
    return checked


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
    target: ExportTarget,
    source: Source,
    folder: Path,
    parts: list[Part],
    omitted: list[OmittedHead],
) -> None:
    """Write the card of the whole export and one for each folder that is loaded by itself."""
    scores = task_scores(source)

    def write(place: Path, own: Mapping[str, Part], reasons: Mapping[str, str]) -> None:
        codes = [(part, target.example(source, part, path)) for path, part in own.items()]
        write_card(place, source, scores, target.LIBRARY, codes, reasons)

    for part in parts:
        write(folder / part.folder, {FOLDER: part}, {})
    if parts[0].folder != ".":
        every = {f"{FOLDER}/{part.folder}": part for part in parts}
        write(folder, every, {head.task: head.why for head in omitted})


def _write_record(folder: Path, to: str, parts: list[Part], omitted: list[OmittedHead]) -> None:
    write_json(
        folder / RECORD,
        {
            "target": to,
            "comity": version("comity"),
            "entries": sorted({RECORD, *(path.name for path in folder.iterdir())}),
            "parts": [asdict(part) for part in parts],
            "omitted": [asdict(head) for head in omitted],
        },
    )
