"""What a run predicts for a task that has a number as its target: where it is right, and where not.

The paper's section 5 asks this of its similarity task: a scatter of predicted against true scores
showed that nothing below 2 was ever predicted.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.errors import ComityError, ErrorList
from comity.evaluation.metrics import METRICS
from comity.evaluation.plots import band_numbers, histogram_by_band, scatter
from comity.evaluation.predictions import kept_predictions
from comity.files import sha256_of
from comity.format import or_dash
from comity.recipe.schema import METRICS_OF
from comity.runs import RunDirectory
from comity.tables.reader import read_table
from comity.targets import Target

WORST = 20
MOST_BANDS = 10
BANDS = 5
"""Bands of equal width where the scale has too few or too many whole numbers."""


@dataclass(frozen=True)
class Band:
    """The rows whose true value is `low` up to, but without, `high` (the last band holds it)."""

    low: float
    high: float
    rows: int
    mean: float | None  # of the predictions; None without rows, as the next two
    smallest: float | None
    largest: float | None
    below: float | None  # of the rows whose true value is below `high`: share predicted below it


@dataclass(frozen=True)
class Miss:
    """A row that was predicted far from its true value."""

    line: int  # in the dev file
    gold: float
    predicted: float
    texts: list[str] | None


@dataclass(frozen=True)
class Analysis:
    """A task's predictions on dev, in figures."""

    run: str
    task: str
    step: int
    rows: int
    scores: dict[str, float | None]
    smallest: float
    largest: float
    bands: list[Band]
    worst: list[Miss]
    file: str  # that the lines count in
    note: str | None  # why the worst rows stand here without their texts
    written: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def analyse(run: Path, task: str, out: Path) -> Analysis:
    """Analyse a similarity or regression task of a run by its predictions on dev.

    Writes TASK-scatter.png, TASK-histogram.png, TASK.md and TASK.json into the folder `out`, over
    those of an analysis that stands there.

    Raises:
        ComityError: not a run, no such task, one that predicts no number, no matplotlib, or a
            TASK.md or TASK.json that no analysis wrote.
    """
    directory = RunDirectory.open(run)
    judged = kept_predictions(directory, task)
    gold, predicted = judged.gold, judged.predicted
    if judged.target.kind not in ("similarity", "regression"):
        raise ComityError(
            f"{task}: is a {judged.target.kind} task, which predicts no number; name a similarity "
            "or regression task"
        )
    if bad := int((~np.isfinite(predicted)).sum()):
        raise ComityError(
            f"{run}: {bad} of {len(predicted)} predictions of {task} are not finite; train it with "
            "a lower learning rate"
        )
    _check_free(out, task)
    edges = band_edges(judged.target, gold)
    far = np.argsort(-np.abs(predicted - gold), kind="stable")[:WORST]
    file, texts, note = _texts(directory, task, judged.file, [judged.lines[row] for row in far])
    of_row = zip(far, texts or [None] * len(far), strict=True)
    scores = {name: METRICS[name](gold, predicted).value for name in METRICS_OF["similarity"]}
    paths = {name: out / f"{task}{name}" for name in ("-scatter.png", "-histogram.png", ".md")}
    paths[".json"] = out / f"{task}.json"
    analysis = Analysis(
        run=str(run),
        task=task,
        step=directory.best().step,
        rows=len(gold),
        scores=scores,
        smallest=float(predicted.min()),
        largest=float(predicted.max()),
        bands=_bands(gold, predicted, edges),
        worst=[
            Miss(judged.lines[row], float(gold[row]), float(predicted[row]), shown)
            for row, shown in of_row
        ],
        file=str(file),
        note=note,
        written=[str(path) for path in paths.values()],
    )
    _draw(analysis, judged.target, gold, predicted, edges, paths)
    text = json.dumps(analysis.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    paths[".json"].write_text(text + "\n", encoding="utf-8")
    paths[".md"].write_text(markdown(analysis), encoding="utf-8")  # last: alone it is another's
    return analysis


def _check_free(out: Path, task: str) -> None:
    """Refuse to write over a file that is no analysis: one has a JSON object that names its run."""
    kept, page = out / f"{task}.json", out / f"{task}.md"
    try:
        values = json.loads(kept.read_text(encoding="utf-8"))
        other = None if isinstance(values, dict) and "run" in values else kept
    except FileNotFoundError:
        other = page if page.exists() else None
    except (OSError, ValueError):
        other = kept
    if other is not None:
        raise ComityError(
            f"{other}: exists already and is no analysis; move it away or name another --out"
        )


def band_edges(target: Target, gold: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ends of the bands of true values: the whole numbers of the scale where they are few.

    Else five bands of equal width, over the scale or, for a regression, over the true values.
    """
    if target.kind == "similarity":
        low, high = target.scale
        if low == int(low) and 2 <= high - low <= MOST_BANDS and high == int(high):
            return np.arange(low, high + 1)
    else:
        low, high = float(gold.min()), float(gold.max())
        high = high if high > low else low + 1  # one value alone still needs a band
    return np.linspace(low, high, BANDS + 1)


def _bands(gold: NDArray, predicted: NDArray, edges: NDArray) -> list[Band]:
    numbers = band_numbers(gold, edges)
    bands = []
    for band in range(len(edges) - 1):
        low, high = float(edges[band]), float(edges[band + 1])
        within = predicted[numbers == band]
        up_to = predicted[numbers <= band]
        last = band == len(edges) - 2  # nothing has to be below the end of the scale
        bands.append(
            Band(
                low,
                high,
                len(within),
                float(within.mean()) if len(within) else None,
                float(within.min()) if len(within) else None,
                float(within.max()) if len(within) else None,
                float((up_to < high).mean()) if len(up_to) and not last else None,
            )
        )
    return bands


def _texts(
    directory: RunDirectory, task: str, digest: str | None, lines: Sequence[int]
) -> tuple[Path, list[list[str]] | None, str | None]:
    """The dev file, the texts at `lines` of it, and a sentence where it cannot tell them."""
    section = directory.recipe().tasks[task]
    file = section.dev if isinstance(section.dev, str) else section.train
    path = Path(directory.facts().inputs.data) / file
    try:
        now = sha256_of(path)
    except OSError:
        now = None
    if now is None or now != digest:
        what = "is not there any more" if now is None else "has changed since the run"
        return path, None, f"The texts are not shown, since {path} {what}."
    wanted, found = set(lines), {}
    columns = [*section.text_columns, *section.label_columns]
    errors = ErrorList()
    for row in read_table(path, columns, section.table_format, errors):
        if row.line in wanted:
            found[row.line] = [str(text) for text in row.values[: len(section.text_columns)]]
    errors.check()
    return path, [found[line] for line in lines], None


def _draw(
    analysis: Analysis,
    target: Target,
    gold: NDArray,
    predicted: NDArray,
    edges: NDArray,
    paths: dict[str, Path],
) -> None:
    task, pearson = analysis.task, analysis.scores["pearson"]
    unit = "the label's unit"
    if target.kind == "similarity":
        unit = f"scale {target.scale[0]:g} to {target.scale[1]:g}"
    labels = (f"true {task} ({unit})", f"predicted {task} ({unit})")
    shown = "no Pearson" if pearson is None else f"Pearson {pearson:.3f}"
    title = f"{task} on dev: {shown}, n = {analysis.rows:,}"
    scatter(paths["-scatter.png"], gold, predicted, edges, labels, title)
    histogram_by_band(paths["-histogram.png"], gold, predicted, edges, labels, title)


def markdown(analysis: Analysis) -> str:
    """The analysis as a page, beside its two pictures."""
    task = analysis.task
    scores = ", ".join(f"{name} {or_dash(value)}" for name, value in analysis.scores.items())
    lines = [
        f"# {task}: predicted against true",
        "",
        f"{analysis.run}, kept step {analysis.step:,}, {analysis.rows:,} dev rows: {scores}. "
        f"Predictions run from {analysis.smallest:.4g} to {analysis.largest:.4g}.",
        "",
        f"![Predicted against true values]({task}-scatter.png)",
        "",
        f"![Predictions in each band of true values]({task}-histogram.png)",
        "",
        "| true value | rows | mean predicted | smallest | largest | of all rows truly below its "
        "end: predicted below it |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for band in analysis.bands:
        cells = [or_dash(value, ".4g") for value in (band.mean, band.smallest, band.largest)]
        below = "-" if band.below is None else f"{band.below:.1%}"
        lines.append(
            f"| {band.low:g} to {band.high:g} | {band.rows:,} | {' | '.join(cells)} | {below} |"
        )
    lines += ["", f"## The {len(analysis.worst)} largest errors", ""]
    lines += [f"Lines count in {analysis.file}.", *([analysis.note] if analysis.note else []), ""]
    width = len(analysis.worst[0].texts or ())
    names = [f" text {number} |" if width > 1 else " text |" for number in range(1, width + 1)]
    lines.append(f"| line | true | predicted |{''.join(names)}")
    lines.append("|--:|--:|--:|" + "---|" * width)
    for miss in analysis.worst:
        texts = "".join(f" {_escaped(text)} |" for text in miss.texts or ())
        lines.append(f"| {miss.line} | {miss.gold:g} | {miss.predicted:.4g} |{texts}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """A user's text as it is, in one cell: nothing in it means anything to Markdown."""
    return re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", " ".join(text.split()))
