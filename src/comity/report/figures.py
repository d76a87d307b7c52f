"""The figures and tables of a report, made from its content."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from comity.data.summary import SplitSummary, TaskSummary
from comity.evaluation.compare import MEAN, Compared, Entry
from comity.format import or_dash, p_value
from comity.report.charts import (
    WIDTH,
    Bin,
    Cell,
    Series,
    Whisker,
    band_chart,
    bar_chart,
    heat_map,
    interval_chart,
    line_chart,
    minus,
    reliability_chart,
    row_names,
    scatter_chart,
)
from comity.report.content import Curve, StageConflict
from comity.report.tasks import Calibration, Numbers, TaskView
from comity.runs.entries import ConflictEntry, PairConflict, StageConflictEntry
from comity.runs.summary import RunSummary

MOST_LINES = 6
"""Lines in a chart, and pairs of tasks in a heat map; of more pairs, the lowest cosines."""

MOST_CLASSES = 12
"""Classes in a confusion matrix or a bar chart."""

MOST_CLASS_ROWS = 40
"""Classes in a table."""

FEWEST_TIMES, MOST_TIMES = 4, 12
"""Columns of the heat map of layers over steps."""

LONGEST_TEXT = 400
"""Characters of a text that are shown."""

JOINERS = "\u200c\u200d"
"""Invisible characters that belong to words and emoji."""


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    right: int = 0  # how many columns from the end are numbers
    texts: int = 0  # how many columns from the end are texts of the data


@dataclass(frozen=True)
class Figure:
    """A chart with its title, and its numbers as a table."""

    title: str
    chart: Markup
    table: Table
    note: str = ""
    wide: bool = False


# --- texts and numbers ----------------------------------------------------------------------------


def visible(text: str) -> str:
    """A text of the data on one line, with control and other unprintable characters as escapes.

    >>> visible("a\\n b\\x1b[0m"), visible("x\\u202ey")
    ('a b\\\\x1b[0m', 'x\\\\u202ey')
    """
    return "".join(
        character if character.isprintable() or character in JOINERS else repr(character)[1:-1]
        for character in " ".join(text.split())
    )


def shortened(text: str) -> str:
    """A text of the data as `visible`, cut if it is long."""
    if len(text) <= LONGEST_TEXT:
        return visible(text)
    more = len(text) - LONGEST_TEXT
    return f"{visible(text[:LONGEST_TEXT])}… ({more:,} more characters)"


def shown(value: float | None, form: str = ".4f") -> str:
    """A number with a real minus sign, or a dash."""
    return minus(or_dash(value, form)) if value is not None else "–"


def between(low: float | None, high: float | None, form: str = ".4f") -> str:
    """An interval in parentheses, or nothing."""
    if low is None or high is None:
        return ""
    return f" ({shown(low, form)} to {shown(high, form)})"


def pair_name(tasks: Sequence[str]) -> str:
    """The name of a pair of tasks."""
    return "\u00a0/ ".join(map(visible, tasks))  # may break after the stroke only


def _known(points: Sequence[tuple[int, float | None]]) -> bool:
    return any(value is not None for _, value in points)


# --- scores ---------------------------------------------------------------------------------------


def kept_scores(summary: RunSummary, scores: Sequence[Compared], mean: Compared | None) -> Table:
    """The kept model's dev scores, the best score of each task, and the score on training rows."""
    kept, rows = summary.kept, []
    for compared in scores:
        own, best = compared.entries[0], summary.best_of_task.get(compared.task)
        train = kept.train.get(compared.task) if kept else None
        rows.append(
            [
                f"{visible(compared.task)} ({compared.metric})",
                _score(own),
                f"{compared.rows:,}",
                f"{shown(best.value)} at step {best.step:,}" if best else "–",
                shown(train.value if train else None),
            ]
        )
    if mean:
        rows.append(["mean", _score(mean.entries[0]), "", "", ""])
    header = ["task", "kept model (95% interval)", "dev rows", "best", "on training rows"]
    return Table("Dev scores of the kept model", header, rows, right=4)


def _score(entry: Entry) -> str:
    interval = entry.interval
    spread = "" if entry.spread is None else f" ± {entry.spread:.4f}"
    low, high = (interval.low, interval.high) if interval else (None, None)
    reason = f" ({entry.reason})" if entry.value is None and entry.reason else ""
    return shown(entry.value) + spread + between(low, high) + reason


def comparison_table(tables: Sequence[Compared]) -> Table:
    """This run and its baselines; differences are this run minus the baseline."""
    rows = []
    for compared in tables:
        names = _run_names(compared)
        for number, (name, entry) in enumerate(zip(names, compared.entries, strict=True)):
            first = visible(compared.task)
            if compared.task != MEAN:
                first += f" ({compared.metric})"
            rows.append([first if not number else "", name, _score(entry), *_verdict(entry)])
    header = ["task", "run", "score (95% interval)", "this run minus it", "p", "verdict"]
    return Table("This run next to its baselines", header, rows, right=4)


def _run_names(compared: Compared) -> list[str]:
    """The names of the runs without their folders, where that leaves them different."""
    full = [visible(entry.name) for entry in compared.entries]
    short = [name.rpartition("/")[2] for name in full]
    return short if len(set(short)) == len(full) else full


def _verdict(entry: Entry) -> list[str]:
    verdict = entry.verdict
    if verdict is None:
        return ["", "", ""]
    if verdict.difference is None:
        return ["–", "–", "–"]
    difference = shown(verdict.difference, "+.4f") + between(verdict.low, verdict.high, "+.4f")
    return [
        difference,
        p_value(verdict.p) if verdict.p is not None else "–",
        verdict.verdict or "–",
    ]


def comparison_figures(tables: Sequence[Compared]) -> list[Figure]:
    """The scores of each task with their intervals, one chart per task."""
    figures = []
    for number, compared in enumerate(tables):
        names = _run_names(compared)
        # The interval of two seeds can be many times as wide as the range of a score.
        floor = -1.0 if compared.higher_is_better else -math.inf
        rows = [
            Whisker(
                name,
                entry.value,
                max(entry.interval.low, floor) if entry.interval else None,
                min(entry.interval.high, -floor) if entry.interval else None,
                shown(entry.value, ".3f"),
            )
            for name, entry in zip(names, compared.entries, strict=True)
            if entry.value is not None
        ]
        if not rows:
            continue
        better = "higher is better" if compared.higher_is_better else "lower is better"
        name = visible(compared.task)
        metric = "mean score" if compared.task == MEAN else compared.metric
        title = f"{name}: {metric} on {compared.rows:,} dev rows"
        description = f"{metric} of each run with its 95% interval; {better}."
        chart = interval_chart(
            f"scores-{number}", title, description, rows, f"{metric}, 95% interval; {better}"
        )
        table = Table(
            title,
            ["run", "score (95% interval)"],
            [[n, _score(entry)] for n, entry in zip(names, compared.entries, strict=True)],
            right=1,
        )
        figures.append(Figure(title, chart, table))
    return figures


# --- curves ---------------------------------------------------------------------------------------


def curve_figures(number: int, curve: Curve, kept: int | None) -> list[Figure]:
    """The losses and the scores of one task over steps."""
    task = visible(curve.task)
    losses = {
        "dev": curve.dev_loss,
        "training": curve.train_loss,
        "training rows": curve.sample_loss,
    }
    if _known(losses["training"]):  # with dropout; the sample is for runs without these
        del losses["training rows"]
    scores = {"dev": curve.dev_score, "training rows": curve.sample_score}
    figures = []
    for what, unit, lines in (("loss", "loss", losses), ("score", curve.metric, scores)):
        series = [Series(name, points) for name, points in lines.items() if _known(points)]
        if not series:
            continue
        title = f"{task}: {unit} over steps"
        description = f"The {unit} of {task} on {' and '.join(s.name for s in series)}."
        chart = line_chart(
            f"curve-{number}-{what}", title, description, series, ("step", unit), kept
        )
        figures.append(Figure(title, chart, _series_table(title, series, ".4f")))
    return figures


def _series_table(caption: str, series: Sequence[Series], form: str) -> Table:
    columns = [dict(line.points) for line in series]
    steps = sorted({step for column in columns for step in column})
    rows = [[f"{step:,}", *(shown(c.get(step), form) for c in columns)] for step in steps]
    names = [line.name for line in series]
    return Table(caption, ["step", *names], rows, right=len(names))


# --- conflict -------------------------------------------------------------------------------------


def pair_table(entry: StageConflictEntry) -> Table:
    """The cosines of a stage's pairs, and whether they conflict."""
    unit = "steps" if entry.from_steps else "probes"
    words = {True: "yes", False: "not found", None: f"too few {unit}"}
    rows = [
        [
            pair_name(pair.tasks),
            f"{pair.observed:,}",
            shown(pair.cosine, ".3f") + between(pair.low, pair.high, ".3f"),
            shown(pair.expected_cosine, ".3f")
            + between(pair.expected_low, pair.expected_high, ".3f"),
            words[pair.conflicts],
        ]
        for pair in entry.pairs
    ]
    header = ["tasks", unit, "mean cosine (95% interval)", "without noise", "conflict"]
    return Table("Cosines between task gradients on the encoder", header, rows, right=4)


def cosine_figure(key: str, stage: StageConflict) -> Figure | None:
    """The cosine of each pair of tasks over steps."""
    entries = stage.steps or stage.probes
    pairs = list(itertools.combinations(range(len(stage.tasks)), 2))
    points = {(i, j): [(e.step, e.cosines[i][j]) for e in entries] for i, j in pairs}
    known = {pair: p for pair, p in points.items() if _known(p)}
    if not known:
        return None
    lowest = sorted(known, key=lambda pair: _mean(y for _, y in known[pair]) or 0.0)[:MOST_LINES]
    series = [
        Series(pair_name([stage.tasks[n] for n in pair]), known[pair])
        for pair in known
        if pair in lowest
    ]
    unit = "mean cosine of the steps before" if stage.steps else "cosine of a probe"
    title = "Cosine between task gradients over steps; below 0 they conflict"
    note = _left_out(len(known) - len(series))
    chart = line_chart(key, title, f"{title}.", series, ("step", unit), zero=True)
    return Figure(title, chart, _series_table(title, series, ".3f"), note)


def _left_out(count: int) -> str:
    if not count:
        return ""
    return f"The {MOST_LINES} pairs with the lowest cosines; report.json has {count:,} more."


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _lowest(entry: StageConflictEntry) -> list[PairConflict]:
    """The pairs to show layer by layer, in the order of the entry."""
    pairs = [pair for pair in entry.pairs if any(layer.observed for layer in pair.layers)]
    order = sorted(range(len(pairs)), key=lambda n: pairs[n].cosine or 0.0)[:MOST_LINES]
    return [pairs[number] for number in sorted(order)]


def layer_figure(key: str, entry: StageConflictEntry) -> Figure | None:
    """The mean cosine of each pair in each layer; the top layer is on top."""
    pairs = _lowest(entry)
    if not pairs:
        return None
    rows = [layer.layer for layer in pairs[0].layers]
    used = [n for n in reversed(range(len(rows))) if any(pair.layers[n].observed for pair in pairs)]
    limit = _limit(pair.layers[n].cosine for pair in pairs for n in used)
    form = ".3f" if limit < 0.1 else ".2f"
    cells = [
        [
            Cell(
                pair.layers[n].cosine,
                shown(pair.layers[n].cosine, form),
                bool(pair.layers[n].conflicts),
            )
            for pair in pairs
        ]
        for n in used
    ]
    title = "Mean cosine between task gradients in each layer"
    description = (
        f"{title} of the encoder, over {entry.probes:,} probes. Negative cells are hatched; a "
        "border marks those significantly below 0."
    )
    columns = [[visible(pair.tasks[0]), visible(pair.tasks[1])] for pair in pairs]
    chart = heat_map(
        key, title, description, [rows[n] for n in used], columns, cells, limit, cell=(74, 22)
    )
    table = Table(
        title,
        ["tasks", "layer", "probes", "mean cosine (95% interval)", "part of the whole cosine"],
        [
            [
                pair_name(pair.tasks),
                pair.layers[n].layer,
                f"{pair.layers[n].observed:,}",
                shown(pair.layers[n].cosine, ".3f")
                + between(pair.layers[n].low, pair.layers[n].high, ".3f"),
                shown(pair.layers[n].part, ".4f"),
            ]
            for pair in pairs
            for n in used
        ],
        right=3,
    )
    few = sum(any(layer.observed for layer in pair.layers) for pair in entry.pairs) - len(pairs)
    note = f"Hatched: below 0. Full shade: {limit:g}. With a border: significantly below 0. "
    return Figure(title, chart, table, note + _left_out(few), wide=len(pairs) > 3)


def _limit(values: Iterable[float | None]) -> float:
    """The cosine with the darkest shade: a round number that covers all values."""
    most = max((abs(value) for value in values if value is not None), default=0.0)
    return next((limit for limit in (0.02, 0.05, 0.1, 0.2, 0.5) if most <= limit), 1.0)


def layer_times(key: str, stage: StageConflict, entry: StageConflictEntry) -> list[Figure]:
    """For each pair, its cosine in each layer over steps: probes in groups of equal size."""
    probes = [probe for probe in stage.probes if probe.layers]
    if len(probes) < FEWEST_TIMES:
        return []
    groups = np.array_split(np.arange(len(probes)), min(MOST_TIMES, len(probes)))
    steps = [f"{probes[group[-1]].step:,}" for group in groups]
    shown_pairs = [pair.tasks for pair in _lowest(entry)]
    found = {
        tasks: _over_time(probes, groups, number)
        for number, tasks in enumerate(itertools.combinations(stage.tasks, 2))
        if tasks in shown_pairs
    }
    limit = _limit(v for layers in found.values() for values in layers.values() for v in values)
    figures = []
    for number, (tasks, layers) in enumerate(found.items()):
        title = f"{pair_name(tasks)}: cosine in each layer over steps"
        chart = heat_map(
            f"{key}-{number}",
            title,
            f"{title}; negative cells are hatched.",
            list(layers),
            [[steps[0]], *([""] for _ in steps[1:-1]), [steps[-1]]],
            [[Cell(value) for value in values] for values in layers.values()],
            limit,
            ("", "up to step"),
            (280 / len(steps), 16),
        )
        rows = [[layer, *(shown(v, ".2f") for v in values)] for layer, values in layers.items()]
        table = Table(title, ["layer", *(f"to {step}" for step in steps)], rows, len(steps))
        figures.append(Figure(title, chart, table, f"Hatched: below 0. Full shade: {limit:g}."))
    return figures


def _over_time(
    probes: Sequence[ConflictEntry], groups: Sequence[NDArray[np.integer]], pair: int
) -> dict[str, list[float | None]]:
    """The mean cosines of a pair in each group of probes, by layer; the top layer comes first."""
    found = {}
    for layer in reversed(list(probes[-1].layers or {})):
        of_probes = [probe.layers[layer][pair] for probe in probes if probe.layers]
        means = [_mean(of_probes[n] for n in group) for group in groups]
        if any(mean is not None for mean in means):
            found[layer] = means
    return found


def weight_figure(key: str, stage: StageConflict) -> Figure | None:
    """The balancer's mean weights over steps."""
    entries = [entry for entry in stage.steps if entry.weights is not None]
    series = [
        Series(visible(task), [(e.step, (e.weights or [])[n]) for e in entries])
        for n, task in enumerate(stage.tasks)
    ]
    series = [line for line in series if _known([(int(x), y) for x, y in line.points])]
    if not series:
        return None
    title = "Weight of each task's gradient over steps"
    chart = line_chart(
        key, title, f"{title}.", series[:MOST_LINES], ("step", "mean weight of the steps before")
    )
    return Figure(title, chart, _series_table(title, series, ".3f"))


def effect_table(entry: StageConflictEntry) -> Table:
    """What the balancer did to each task's gradient."""
    rows = [
        [
            visible(effect.task),
            f"{effect.steps:,}",
            shown(effect.weight, ".3f"),
            f"{shown(effect.sum_cosine, '.3f')} → {shown(effect.update_cosine, '.3f')}",
            f"{effect.sum_opposed:.1%} → {effect.update_opposed:.1%}",
        ]
        for effect in entry.effects
    ]
    header = [
        "task",
        "steps",
        "mean weight",
        "cosine: plain sum → update",
        "steps against it: plain sum → update",
    ]
    return Table("What the balancer did to each task's gradient", header, rows, right=4)


# --- tasks ----------------------------------------------------------------------------------------


def class_table(view: TaskView) -> Table:
    """The scores of each class or label."""
    found = sorted(zip(view.names, view.classes, strict=True), key=lambda pair: -pair[1].rows)
    if len(found) <= MOST_CLASS_ROWS:
        found = list(zip(view.names, view.classes, strict=True))
    rows = [
        [
            visible(name),
            *(shown(value, ".3f") for value in (one.precision, one.recall, one.f1)),
            f"{one.rows:,}",
            f"{one.predicted:,}",
        ]
        for name, one in found[:MOST_CLASS_ROWS]
    ]
    what = "label" if view.kind == "multi-label" else "class"
    header = [what, "precision", "recall", "F1", "rows", "predicted"]
    return Table(f"Scores of each {what} of {visible(view.task)}", header, rows, right=5)


def confusion_figure(key: str, view: TaskView) -> Figure | None:
    """The confusion matrix of a task with few classes; shades are shares of a true class."""
    counts = view.confusion
    if counts is None or len(counts) > MOST_CLASSES:
        return None
    title = f"{visible(view.task)}: rows by true class (down) and predicted class (across)"
    names = [visible(name) for name in view.names]
    cells = [
        [
            Cell(count / max(sum(row), 1), f"{count:,}", true == predicted)
            for predicted, count in enumerate(row)
        ]
        for true, row in enumerate(counts)
    ]
    width = min(max((WIDTH - 8 - row_names(names)) / len(names), 36.0), 74.0)
    chart = heat_map(
        key,
        title,
        f"{title}. Shades are shares of the true class.",
        names,
        [[name] for name in names],
        cells,
        1.0,
        ("true", "predicted"),
        (width, 28),
    )
    rows = [
        [name, *(f"{count:,}" for count in row)] for name, row in zip(names, counts, strict=True)
    ]
    table = Table(title, ["true class", *names], rows, right=len(names))
    note = "Shade: share of the true class. With a border: correct predictions."
    return Figure(title, chart, table, note, wide=len(names) > 7)


def confusion_list(view: TaskView, most: int = 20) -> Table | None:
    """The most frequent confusions of a task with many classes."""
    counts = view.confusion
    if counts is None or len(counts) <= MOST_CLASSES:
        return None
    found = [
        (count, true, predicted)
        for true, row in enumerate(counts)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    found.sort(key=lambda one: -one[0])
    rows = [
        [visible(view.names[true]), visible(view.names[predicted]), f"{count:,}"]
        for count, true, predicted in found[:most]
    ]
    caption = f"The most frequent confusions of {visible(view.task)}, of {len(found):,} kinds"
    return Table(caption, ["true class", "predicted class", "rows"], rows, right=1)


def calibration_figure(key: str, view: TaskView, found: Calibration) -> Figure:
    """The reliability diagram of a task's probabilities."""
    many = view.kind == "multi-label"
    title = f"{visible(view.task)}: calibration, expected error {found.error:.3f}"
    labels = (
        ("predicted probability of a label", "share of rows that have the label")
        if many
        else ("confidence: probability of the predicted class", "share of correct predictions")
    )
    bins = [Bin(one.confidence, one.right, one.rows) for one in found.bins]
    chart = reliability_chart(key, title, f"{labels[1]} by {labels[0]}.", bins, labels)
    what = "predictions" if many else "rows"
    rows = [
        [f"{one.low:.2f} to {one.high:.2f}", f"{one.rows:,}", f"{one.confidence:.3f}",
         f"{one.right:.3f}"]
        for one in found.bins
    ]  # fmt: skip
    table = Table(title, [labels[0], what, "mean", labels[1]], rows, right=3)
    return Figure(title, chart, table, "Below the dashed line the model is overconfident.")


def number_figures(key: str, view: TaskView, numbers: Numbers) -> list[Figure]:
    """The scatter plot of a task that predicts a number, and its histograms by band."""
    task = visible(view.task)
    title = f"{task}: predicted against true values"
    few = len(numbers.points)
    what = f"{few:,} of {view.rows:,} dev rows" if few < view.rows else f"{view.rows:,} dev rows"
    chart = scatter_chart(
        f"{key}-scatter",
        title,
        f"{what}; diamonds are the means of the bands of true values.",
        numbers.points,
        numbers.mean_points,
        (f"true {task}", f"predicted {task}"),
    )
    rows = [
        [
            minus(f"{band.low:g} to {band.high:g}"),
            f"{band.rows:,}",
            *(shown(value, ".3g") for value in (band.mean, band.smallest, band.largest)),
        ]
        for band in numbers.bands
    ]
    table = Table(title, ["true value", "rows", "mean predicted", "smallest", "largest"], rows, 4)
    note = f"{what[0].upper()}{what[1:]}; diamonds: means of the bands of true values."
    scatter = Figure(title, chart, table, note)
    title = f"{task}: predictions in each band of true values"
    bands = [
        (minus(f"{band.low:g}–{band.high:g}"), (band.low, band.high), counts)
        for band, counts in zip(numbers.bands, numbers.histograms, strict=True)
    ][::-1]
    chart = band_chart(
        f"{key}-bands", title, f"{title}; the band itself is shaded.", bands, numbers.edges,
        f"predicted {task}",
    )  # fmt: skip
    note = "Rows by true value, each row of bars with a scale of its own. Shaded: the true band."
    return [scatter, Figure(title, chart, table, note)]


def worst_table(view: TaskView) -> Table:
    """The worst errors with their texts."""
    count = max((len(miss.texts or ()) for miss in view.worst), default=0)
    probable = any(miss.probability is not None for miss in view.worst)
    texts = [f"text {n}" if count > 1 else "text" for n in range(1, count + 1)]
    rows = []
    for miss in view.worst:
        line = miss.line if isinstance(miss.line, str) else f"{miss.line:,}"
        cells = [visible(line), _label(miss.gold), _label(miss.predicted)]
        if probable:
            cells.append(shown(miss.probability, ".1%"))
        rows.append([*cells, *map(shortened, miss.texts or ())])
    header = ["line", "true", "predicted", *(["probability"] if probable else []), *texts]
    return Table(_worst_caption(view), header, rows, texts=count)


def _worst_caption(view: TaskView) -> str:
    task, count = visible(view.task), len(view.worst)
    if view.kind == "classification":
        probable = any(miss.probability is not None for miss in view.worst)
        order = ", most confident first" if probable else ""
        return f"{task}: {count:,} of {view.wrong or 0:,} wrong predictions{order}"
    if view.kind == "multi-label":
        return f"{task}: {count:,} of {view.wrong or 0:,} rows with a wrong label, the worst first"
    return f"{task}: the {count:,} largest errors"


def _label(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(visible(str(one)) for one in value) or "(none)"
    return minus(f"{value:.4g}") if isinstance(value, float) else visible(str(value))


# --- data -----------------------------------------------------------------------------------------


def data_table(tasks: dict[str, TaskSummary]) -> Table:
    """The rows, lengths and left-out rows of every split."""
    rows = []
    for name, task in tasks.items():
        for number, (which, split) in enumerate(task.splits.items()):
            left_out = split.unlabelled + split.ignored + split.dropped
            left_out += sum(split.skipped.values())
            rows.append(
                [
                    visible(name) if not number else "",
                    visible(which),
                    visible(Path(split.file).name),
                    f"{split.rows:,}",
                    f"{left_out:,}",
                    f"{split.leaked:,}",
                    ", ".join(f"{length:,}" for length in split.token_percentiles.values()),
                    f"{split.truncated:,}",
                    f"{split.unknown:.1%}",
                ]
            )
    header = ["task", "split", "file", "rows", "left out", "leaks left out",
              "tokens: median, 95%, most", "truncated", "unknown tokens"]  # fmt: skip
    return Table("Rows of every split", header, rows, right=6)


def label_figure(key: str, name: str, task: TaskSummary) -> Figure | None:
    """How often each class or label occurs in training and on dev."""
    train, dev = task.train.counts, task.dev.counts
    if not train or dev is None:
        return None
    multi = task.kind == "multi-label"
    what = "labels" if multi else "classes"
    title = f"{visible(name)}: {what} of the training rows"

    def share(counts: dict[str, int], label: str, split: SplitSummary) -> str:
        return f"{counts.get(label, 0) / max(split.rows, 1):.0%}"

    frequent = sorted(train, key=lambda label: -train[label])[:MOST_CLASSES]
    order = list(train) if len(train) <= MOST_CLASSES else frequent
    bars = [
        (visible(label), float(train[label]),
         f"{train[label]:,} ({share(train, label, task.train)}; dev {share(dev, label, task.dev)})")
        for label in order
    ]  # fmt: skip
    chart = bar_chart(key, title, f"Rows of each of the {what}, with shares.", bars)
    rows = [
        [visible(label), f"{train[label]:,}", share(train, label, task.train),
         f"{dev.get(label, 0):,}", share(dev, label, task.dev)]
        for label in list(train)[:MOST_CLASS_ROWS]
    ]  # fmt: skip
    table = Table(title, [what, "training rows", "share", "dev rows", "share"], rows, right=4)
    more = len(train) - len(order)
    note = f"The {len(order)} most frequent; report.json has {more:,} more." if more else ""
    return Figure(title, chart, table, note)


def score_ranges(tasks: dict[str, TaskSummary]) -> Table | None:
    """The gold scores of the tasks that predict a number."""
    rows = []
    for name, task in tasks.items():
        for which, split in task.splits.items():
            if split.scores is not None:
                found = split.scores
                numbers = (found.min, found.mean, found.max, found.deviation)
                cells = (shown(value, ".4g") for value in numbers)
                rows.append([visible(name), visible(which), *cells])
    header = ["task", "split", "smallest", "mean", "largest", "deviation"]
    return Table("True scores", header, rows, right=4) if rows else None
