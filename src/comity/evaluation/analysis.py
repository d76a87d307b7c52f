"""Analysis of predicted against true values, for a task whose target is a number.

Section 5 of the paper does this for its similarity task: a scatter plot of predicted against true
scores showed that the model never predicted anything below 2.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.errors import ComityError, ErrorList
from comity.evaluation.metrics import metrics_of
from comity.evaluation.plots import band_numbers, histogram_by_band, scatter
from comity.evaluation.predictions import kept_predictions
from comity.files import path_of, path_text
from comity.format import markdown_table, markdown_text, or_dash
from comity.runs.directory import SLIM_WEIGHTS, RunDirectory
from comity.tables.bad_rows import BadRows
from comity.tables.hub import is_hub_name
from comity.tables.locations import file_text, row_name
from comity.tables.parts import table_path
from comity.tables.reader import open_table, table_digest
from comity.targets import Target

WORST = 20
MOST_BANDS = 10
BANDS = 5
"""How many bands of equal width, where the scale has too few or too many whole numbers."""


@dataclass(frozen=True)
class Band:
    """The rows whose true value is from `low` to below `high` (the last band includes `high`)."""

    low: float
    high: float
    rows: int
    mean: float | None  # of the predictions; None without rows, like the next two
    smallest: float | None
    largest: float | None
    below: float | None  # share predicted below `high`, of all rows with a true value below it


@dataclass(frozen=True)
class Miss:
    """A row that was predicted far from its true value."""

    line: int | str  # in the labelled file, see `row_name`
    gold: float
    predicted: float
    texts: list[str] | None


@dataclass(frozen=True)
class Analysis:
    """Statistics of a task's predictions on dev."""

    run: str
    task: str
    step: int
    rows: int
    scores: dict[str, float | None]
    smallest: float
    largest: float
    bands: list[Band]
    worst: list[Miss]
    file: str  # the labelled file, to which the line numbers refer
    note: str | None  # why the worst rows have no texts
    written: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def analyse(run: Path, task: str, out: Path) -> Analysis:
    """Analyse a run's dev predictions for a similarity or regression task.

    Writes TASK-scatter.png, TASK-histogram.png, TASK.md and TASK.json into the folder `out`. Files
    of an earlier analysis are overwritten.

    Raises:
        ComityError: as `draw_analysis`, or a TASK.md or TASK.json exists that is not from an
            analysis.
    """
    _check_free(out, task)
    analysis = draw_analysis(run, task, out)
    page, data = out / f"{task}.md", out / f"{task}.json"
    analysis.written.extend([path_text(page), path_text(data)])
    text = json.dumps(analysis.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    # A path that is not UTF-8 is written with escapes.
    data.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    # The page is last: a page without JSON is taken for somebody else's file.
    page.write_text(markdown(analysis), encoding="utf-8", errors="backslashreplace")
    return analysis


def draw_analysis(run: Path, task: str, out: Path) -> Analysis:
    """Analyse a run's dev predictions and write only the two pictures into the folder `out`.

    Raises:
        ComityError: not a run, an unknown task, a task that does not predict a number, or
            matplotlib is not installed.
    """
    directory = RunDirectory.open(run)
    predictions = kept_predictions(directory, task)
    target, gold, predicted = predictions.target, predictions.gold, predictions.predicted
    if target.kind not in ("similarity", "regression"):
        raise ComityError(
            f"{task}: a {target.kind} task does not predict a number; name a similarity or "
            "regression task"
        )
    if bad := int((~np.isfinite(predicted)).sum()):
        raise ComityError(
            f"{run}: {bad} of {len(predicted)} predictions of {task} are not finite; train again "
            "with a lower learning rate"
        )
    edges = band_edges(target, gold)
    far = np.argsort(-np.abs(predicted - gold), kind="stable")[:WORST]
    lines = [predictions.lines[row] for row in far]
    file, texts, note = texts_at(directory, task, predictions.file, lines)
    scores = {metric.name: metric(gold, predicted).value for metric in metrics_of(target.kind)}
    paths = [out / f"{task}-{picture}.png" for picture in ("scatter", "histogram")]
    analysis = Analysis(
        run=path_text(run),
        task=task,
        step=directory.best().step,
        rows=len(gold),
        scores=scores,
        smallest=float(predicted.min()),
        largest=float(predicted.max()),
        bands=bands_of(gold, predicted, edges),
        worst=[
            Miss(line, float(gold[row]), float(predicted[row]), row_texts)
            for row, line, row_texts in zip(far, lines, texts or [None] * len(far), strict=True)
        ],
        file=path_text(file),
        note=note,
        written=[path_text(path) for path in paths],
    )
    _draw(analysis, target, gold, predicted, edges, paths)
    return analysis


def _check_free(out: Path, task: str) -> None:
    """Refuse to overwrite a file that is not from an analysis, whose JSON has the key "run"."""
    data, page = out / f"{task}.json", out / f"{task}.md"
    try:
        values = json.loads(data.read_text(encoding="utf-8"))
        other = None if isinstance(values, dict) and "run" in values else data
    except FileNotFoundError:
        other = page if page.exists() else None
    except (OSError, ValueError, RecursionError):
        other = data
    if other is not None:
        raise ComityError(
            f"{other}: exists and is not from an analysis; move it or name another --out"
        )


def band_edges(target: Target, gold: NDArray[np.float64]) -> NDArray[np.float64]:
    """The edges of the bands of true values: the whole numbers of the scale, if they are few.

    Otherwise five bands of equal width, over the scale or, for regression, over the true values.
    """
    if target.kind == "similarity":
        low, high = target.scale
        if low == int(low) and 2 <= high - low <= MOST_BANDS and high == int(high):
            return np.arange(low, high + 1)
    else:
        low, high = float(gold.min()), float(gold.max())
        high = high if high > low else low + 1  # a single value needs a band too
    return np.linspace(low, high, BANDS + 1)


def bands_of(gold: NDArray, predicted: NDArray, edges: NDArray) -> list[Band]:
    """What was predicted in each band of true values; all arguments are finite numbers."""
    numbers = band_numbers(gold, edges)
    bands = []
    for band in range(len(edges) - 1):
        low, high = float(edges[band]), float(edges[band + 1])
        within = predicted[numbers == band]
        up_to = predicted[numbers <= band]
        last = band == len(edges) - 2  # every row is within the end of the scale
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


def texts_at(
    directory: RunDirectory, task: str, digest: str | None, lines: Sequence[int | str]
) -> tuple[Path, list[list[str]] | None, str | None]:
    """The file of a task's dev rows, their texts at `lines`, and why there are no texts.

    Args:
        directory: the run.
        task: one of its tasks.
        digest: SHA-256 of the file when it was read.
        lines: of rows in the file, see `row_name`.
    """
    section, inputs = directory.recipe().task_as_read(task), directory.facts().inputs
    file = section.dev if isinstance(section.dev, str | tuple) else section.train
    path = path_of(file_text(file))
    if f"{task} dev" in inputs.in_memory:
        return path, None, "The texts are not shown because the data was in memory."
    if (directory.path / SLIM_WEIGHTS).is_file():
        return path, None, "The texts are not shown because a slim copy of a run has none."
    try:
        path = table_path(file, Path(inputs.data))
        changed = table_digest(path) != digest
    except ComityError:
        gone = isinstance(file, str) and not is_hub_name(file) and not path.exists()
        what = "no longer exists" if gone else "can no longer be read"
        return path, None, f"The texts are not shown because {path} {what}."
    if changed:
        return path, None, f"The texts are not shown because {path} has changed since the run."
    wanted, found = set(lines), {}
    columns = [*section.text_columns, *section.label_columns]
    skips = section.bad_rows == "skip"
    errors = BadRows(lambda _: None) if skips else ErrorList()
    for row in open_table(path, section.table_format, columns, lenient=skips).rows(errors):
        if (name := row_name(path, row.line)) in wanted:
            found[name] = [str(text) for text in row.values[: len(section.text_columns)]]
    errors.check()
    return path, [found[line] for line in lines], None


def _draw(
    analysis: Analysis,
    target: Target,
    gold: NDArray,
    predicted: NDArray,
    edges: NDArray,
    paths: Sequence[Path],
) -> None:
    task, pearson = analysis.task, analysis.scores["pearson"]
    unit = "the label's unit"
    if target.kind == "similarity":
        unit = f"scale {target.scale[0]:g} to {target.scale[1]:g}"
    labels = (f"true {task} ({unit})", f"predicted {task} ({unit})")
    shown = "no Pearson" if pearson is None else f"Pearson {pearson:.3f}"
    title = f"{task} on dev: {shown}, n = {analysis.rows:,}"
    scatter(paths[0], gold, predicted, edges, labels, title)
    histogram_by_band(paths[1], gold, predicted, edges, labels, title)


def markdown(analysis: Analysis) -> str:
    """The analysis as a Markdown page that shows its two pictures."""
    task = analysis.task
    scores = ", ".join(f"{name} {or_dash(value)}" for name, value in analysis.scores.items())
    lines = [
        f"# {task}: predicted against true",
        "",
        f"{analysis.run}, best step {analysis.step:,}, {analysis.rows:,} dev rows: {scores}. "
        f"Predictions range from {analysis.smallest:.4g} to {analysis.largest:.4g}.",
        "",
        f"![Predicted against true values]({task}-scatter.png)",
        "",
        f"![Predictions in each band of true values]({task}-histogram.png)",
        "",
        *_band_table(analysis.bands),
        "",
        f"## The {len(analysis.worst)} largest errors",
        "",
        f"Line numbers refer to {analysis.file}.",
        *([analysis.note] if analysis.note else []),
        "",
        *_worst_table(analysis.worst),
    ]
    return "\n".join(lines) + "\n"


def _band_table(bands: Sequence[Band]) -> list[str]:
    share = "of all rows with a true value below the band's end: predicted below it"
    header = ["true value", "rows", "mean predicted", "smallest", "largest", share]
    rows = [
        [
            f"{band.low:g} to {band.high:g}",
            f"{band.rows:,}",
            *(or_dash(value, ".4g") for value in (band.mean, band.smallest, band.largest)),
            or_dash(band.below, ".1%"),
        ]
        for band in bands
    ]
    return markdown_table(header, rows, "lrrrrr")


def _worst_table(worst: Sequence[Miss]) -> list[str]:
    count = len(worst[0].texts or ())
    texts = [f"text {number}" if count > 1 else "text" for number in range(1, count + 1)]
    rows = [
        [
            str(miss.line),
            f"{miss.gold:g}",
            f"{miss.predicted:.4g}",
            *(markdown_text(text) for text in miss.texts or ()),
        ]
        for miss in worst
    ]
    return markdown_table(["line", "true", "predicted", *texts], rows, "rrr" + "l" * count)
