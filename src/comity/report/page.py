"""The page of a report: its sentences, figures and tables, put into the template."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from comity.evaluation.compare import MEAN, Comparison
from comity.format import clock, plural, precision_name, some
from comity.report.content import Report, StageConflict
from comity.report.figures import (
    Figure,
    Table,
    between,
    calibration_figure,
    class_table,
    comparison_figures,
    comparison_table,
    confusion_figure,
    confusion_list,
    cosine_figure,
    curve_figures,
    data_table,
    effect_table,
    kept_scores,
    label_figure,
    layer_figure,
    layer_times,
    number_figures,
    pair_name,
    pair_table,
    score_ranges,
    shown,
    visible,
    weight_figure,
    worst_table,
)
from comity.report.tasks import TaskView
from comity.runs.calibration import TaskCalibration, TaskMix
from comity.runs.entries import StageConflictEntry

TEMPLATE, STYLE = "page.html", "page.css"


@dataclass(frozen=True)
class Block:
    """A part of a section: sentences, then figures, then tables; everything may be empty."""

    heading: str
    sentences: list[str]
    figures: list[Figure]
    tables: list[Table]
    items: list[str]  # of a list


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    key: str
    title: str
    blocks: list[Block]


def page(report: Report) -> str:
    """The page as HTML. Everything that comes from data or from the recipe is escaped."""
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        name=visible(Path(report.run.run).name or report.run.run),
        lead=_lead(report),
        warnings=[visible(sentence) for sentence in report.run.warnings],
        sections=_sections(report),
        recipe=report.recipe,
        facts=_facts(report),
        version=version("comity"),
        style=Markup(_resource(STYLE)),
    )


def _resource(name: str) -> str:
    return files("comity.report").joinpath(name).read_text(encoding="utf-8")


def _block(
    heading: str = "",
    sentences: list[str] | None = None,
    figures: list[Figure] | None = None,
    tables: list[Table] | None = None,
    items: list[str] | None = None,
) -> Block:
    return Block(heading, sentences or [], figures or [], tables or [], items or [])


def _sections(report: Report) -> list[Section]:
    sections = [
        Section("scores", "Scores", _score_blocks(report)),
        Section("conflict", "Conflict between tasks", _conflict_blocks(report)),
        Section("curves", "Losses and scores over steps", _curve_blocks(report)),
        Section("tasks", "Predictions on dev", [_task_block(n, v) for n, v in _numbered(report)]),
        Section("data", "Data", _data_blocks(report)),
    ]
    return [section for section in sections if section.blocks]


def _numbered(report: Report) -> list[tuple[int, TaskView]]:
    return list(enumerate(report.tasks))


def _lead(report: Report) -> list[str]:
    run = report.run
    tasks = plural(len(report.facts.tasks), "task")
    names = some(map(visible, report.facts.tasks), len(report.facts.tasks), most=20)
    sentences = [
        f"{visible(run.encoder)}, trained on {tasks}: {names}.",
        f"The run is {visible(run.status)}.",
    ]
    if run.best is not None:
        by = "mean dev score" if run.best.by == MEAN else f"dev score of {visible(run.best.by)}"
        sentences.append(f"The kept model is that of step {run.best.step:,}, selected by the {by}.")
    if run.skipped:
        sentences.append(
            f"{plural(run.skipped, 'step')} skipped, because a loss or gradient was not finite."
        )
    return sentences


# --- scores ---------------------------------------------------------------------------------------


def _score_blocks(report: Report) -> list[Block]:
    if report.scores is None:
        return [_block(sentences=["No model has been evaluated and kept yet."])]
    tables = [*report.scores.tasks, *([report.scores.mean] if report.scores.mean else [])]
    seeds = len(report.scores.tasks[0].entries[0].of_runs)
    interval = (
        "Intervals are 95% intervals over dev rows (bootstrap); they say nothing about other seeds."
        if seeds == 1
        else f"Scores are means over {seeds} seeds, with their standard deviation. "
        f"Everything else on this page is about seed {report.facts.seed}."
    )
    blocks = [
        _block(
            sentences=[interval],
            tables=[kept_scores(report.run, report.scores.tasks, report.scores.mean)],
        )
    ]
    if any(len(table.entries) > 1 for table in tables):
        shared = [table for table in tables if len(table.entries) > 1]
        blocks.append(
            _block(
                "Next to the baselines",
                _comparison_sentences(report.scores),
                comparison_figures(shared),
                [comparison_table(shared)],
            )
        )
    return blocks


def _comparison_sentences(scores: Comparison) -> list[str]:
    """As `comity compare` explains its table."""
    sentences = [
        "A difference is the score of this run minus that of the baseline. The verdict says "
        "whether this run scores higher or lower."
    ]
    tested = [verdict for verdict in scores.verdicts if verdict.p is not None]
    if tested:
        sentences.append(
            "Intervals of several runs cover other seeds and other dev rows; p is two-sided, "
            f"adjusted for {plural(len(tested), 'difference')} (Holm)."
        )
    if len(tested) < sum(verdict.difference is not None for verdict in scores.verdicts):
        sentences.append(
            "A single run says nothing about other seeds: its intervals cover dev rows alone. For "
            "verdicts, train at least two seeds of each recipe and use --group-seeds."
        )
    return sentences


# --- conflict -------------------------------------------------------------------------------------


def _conflict_blocks(report: Report) -> list[Block]:
    if not report.conflict:
        if len(report.facts.tasks) < 2:
            return [_block(sentences=["The run has one task, so there is no conflict."])]
        return [_block(sentences=["No conflict has been recorded: no stage trains two tasks."])]
    several = len(report.conflict) > 1
    blocks = [
        _block(
            sentences=[
                "Two tasks conflict if their gradients on the shared encoder point in opposing "
                "directions: the cosine between them is below 0. A pair is called conflicting only "
                "if its mean cosine is significantly below 0, because single batches are noisy."
            ]
        )
    ]
    for number, stage in enumerate(report.conflict):
        heading = visible(stage.name) if several else ""
        blocks.extend(_stage_blocks(f"conflict-{number}", heading, stage))
    return blocks


def _stage_blocks(key: str, heading: str, stage: StageConflict) -> list[Block]:
    entry = stage.summary
    figure = cosine_figure(f"{key}-cosines", stage)
    if entry is None:
        sentences = ["Verdicts come with the first evaluation of the stage."]
        return [_block(heading, sentences, [figure] if figure else [])]
    sentences = _verdicts(entry)
    seen = any(pair.observed for pair in entry.pairs)
    if seen:
        sentences.append(
            "The cosine without noise is that of the expected gradients; it has no value where the "
            "noise is too large."
        )
    blocks = [
        _block(heading, sentences, [figure] if figure else [], [pair_table(entry)] if seen else []),
        _layer_block(key, stage, entry),
    ]
    if seen:
        blocks.append(_balancer_block(key, stage, entry))
    return blocks


def _verdicts(entry: StageConflictEntry) -> list[str]:
    unit = "step" if entry.from_steps else "probe"
    conflicting = [pair for pair in entry.pairs if pair.conflicts]
    sentences = [
        f"{pair_name(pair.tasks)} conflict: mean cosine {shown(pair.cosine, '.3f')}"
        f"{between(pair.low, pair.high, '.3f')} over {plural(pair.observed, unit)}."
        for pair in conflicting
    ]
    if not conflicting and any(pair.conflicts is not None for pair in entry.pairs):
        sentences.append("No pair of tasks was found to conflict.")
    if all(pair.conflicts is None for pair in entry.pairs) and entry.unprobed is None:
        sentences.append(f"There are too few {unit}s for a verdict; it needs 20.")
    if entry.unprobed is not None:
        sentences.append(f"{visible(entry.unprobed[0].upper() + entry.unprobed[1:])}.")
    elif entry.reliability:
        each = (f"{visible(task)} {shown(v, '.3f')}" for task, v in entry.reliability.items())
        sentences.append(
            f"Cosine between two batches of one task, the mean of {plural(entry.probes, 'probe')}: "
            f"{', '.join(each)}. It is 1 without noise and 0 if a gradient is only noise."
        )
    return sentences


def _layer_block(key: str, stage: StageConflict, entry: StageConflictEntry) -> Block:
    heading = "In which layer"
    if entry.unprobed is not None:
        sentence = "Layers are compared in conflict probes, and there were none."
        return _block(heading, [sentence])
    figure = layer_figure(f"{key}-layers", entry)
    if figure is None:
        sentence = "Conflict by layer was not recorded: the run is of an earlier version."
        return _block(heading, [sentence])
    found = [
        f"{pair_name(pair.tasks)} in {some(layers, len(layers), most=20)}"
        for pair in entry.pairs
        if (layers := [layer.layer for layer in pair.layers if layer.conflicts])
    ]
    tested = any(layer.conflicts is not None for pair in entry.pairs for layer in pair.layers)
    if found:
        sentence = f"Significantly below 0: {'; '.join(found)}."
    elif tested:
        sentence = "In no layer is a mean cosine significantly below 0."
    else:
        sentence = f"{plural(entry.probes, 'probe')} are too few for a verdict; it needs 20."
    return _block(
        heading,
        [
            f"The cosine between the parts of two gradients that belong to one layer, over "
            f"{plural(entry.probes, 'probe')}. Embeddings include the word embeddings.",
            sentence,
        ],
        [figure, *layer_times(f"{key}-times", stage, entry)],
    )


def _balancer_block(key: str, stage: StageConflict, entry: StageConflictEntry) -> Block:
    heading = "What the balancer did"
    if entry.balancer is None:
        sentence = "It was not recorded: the run is of an earlier version."
        return _block(heading, [sentence])
    if entry.balancer == "sum":
        sentence = "The balancer is sum: the gradients of the tasks are added, with equal weights."
        return _block(heading, [sentence])
    if not entry.effects or entry.changed is None:
        sentence = f"The balancer {entry.balancer} met no step with the gradients of two tasks."
        return _block(heading, [sentence])
    sentences = [
        f"{entry.balancer} turned the update away from the plain sum of the gradients in "
        f"{entry.changed:.0%} of the steps; the mean cosine between the two is "
        f"{shown(entry.turned, '.3f')}. The update is the combined gradient of the encoder, "
        "before clipping and AdamW. A step is against a task if the update and the gradient of "
        "the task have a negative cosine."
    ]
    figure = weight_figure(f"{key}-weights", stage)
    return _block(heading, sentences, [figure] if figure else [], [effect_table(entry)])


# --- curves, tasks, data --------------------------------------------------------------------------


def _curve_blocks(report: Report) -> list[Block]:
    step = report.run.best.step if report.run.best else None
    figures = [
        figure
        for number, curve in enumerate(report.curves)
        for figure in curve_figures(number, curve, step)
    ]
    if not figures:
        return [_block(sentences=["Nothing has been recorded yet."])]
    sentences = [
        "Training losses are means over the steps since the point before, with dropout. Training "
        "rows are a fixed sample, evaluated like the dev rows."
    ]
    return [_block(sentences=sentences, figures=figures)]


def _task_block(number: int, view: TaskView) -> Block:
    key = f"task-{number}"
    scores = ", ".join(f"{name} {shown(value)}" for name, value in view.scores.items())
    sentences = [f"{view.kind}, head {view.head}, {plural(view.rows, 'dev row')}: {scores}."]
    items, tables = [], []
    if view.mix is not None:
        sentences.extend(_mixed(view.mix))
    if view.fitted is not None:
        sentences.extend(_fitted(view.fitted))
    if view.not_finite:
        sentences.append(
            f"{plural(view.not_finite, 'row')} with a prediction that is not a finite number left "
            "out."
        )
    figures = [confusion_figure(f"{key}-confusion", view)]
    if view.calibration is not None:
        figures.append(calibration_figure(f"{key}-calibration", view, view.calibration))
    elif view.kind in ("classification", "multi-label"):
        sentences.append("Calibration is not shown: the run has no probabilities (a slim copy).")
    if view.numbers is not None:
        figures.extend(number_figures(key, view, view.numbers))
    if view.classes:
        tables.append(class_table(view))
    confusions = confusion_list(view)
    tables.extend([confusions] if confusions else [])
    if view.worst:
        tables.append(worst_table(view))
        name = Path(view.file).name
        items.append(f"Line numbers refer to {visible(name)}.")
        if view.texts_note:
            items.append(visible(view.texts_note))
    return _block(
        visible(view.task),
        sentences,
        [figure for figure in figures if figure is not None],
        tables,
        items,
    )


def _mixed(found: TaskMix) -> list[str]:
    """The share that `mix = "dev"` has fitted, and what it is worth on other rows."""
    sentences = [f"The share of the head on the pair, fitted on dev, is {found.mix:g}."]
    if found.cross_fitted is not None:
        sentences.append(
            "Cross-fitted (fitted on one half of the rows, measured on the other): "
            f"{found.metric} {shown(found.cross_fitted)} instead of {shown(found.equal)} at 0.5, "
            "as means over the two halves."
        )
    return sentences + [f"{visible(note[0].upper() + note[1:])}." for note in found.notes]


def _fitted(found: TaskCalibration) -> list[str]:
    """What `calibrate` has fitted, and what it is worth on rows that it was not fitted on."""
    also = "" if found.threshold is None else f" and a threshold of {found.threshold:.4f}"
    sentences = [f"Calibrated on dev, with a temperature of {found.temperature:.4f}{also}."]
    before, after = found.as_trained, found.cross_fitted
    if before and after:
        sentences.append(
            "Cross-fitted (fitted on one half of the rows, measured on the other): "
            f"{found.metric} {shown(after.value)} instead of {shown(before.value)}, log loss "
            f"{shown(after.log_loss)} instead of {shown(before.log_loss)}, calibration error "
            f"{shown(after.calibration_error)} instead of {shown(before.calibration_error)}."
        )
    return sentences + [f"{visible(note[0].upper() + note[1:])}." for note in found.notes]


def _data_blocks(report: Report) -> list[Block]:
    data = report.data
    if data is None:
        sentence = (
            "This run has no counts of its data: it is a slim copy, or of an earlier version."
        )
        return [_block(sentences=[sentence])]
    figures = [label_figure(f"labels-{n}", *item) for n, item in enumerate(data.tasks.items())]
    ranges = score_ranges(data.tasks)
    blocks = [
        _block(
            sentences=[
                "Left out: rows without a label, with an ignored label or with an empty text. "
                "Leaks: training rows whose texts are also in a dev set."
            ],
            figures=[figure for figure in figures if figure is not None],
            tables=[data_table(data.tasks), *([ranges] if ranges else [])],
        )
    ]
    notes = [visible(sentence) for sentence in (*data.notes, *data.leaks)]
    return [*blocks, *([_block("Notes on the data", items=notes)] if notes else [])]


def _facts(report: Report) -> list[tuple[str, str]]:
    """Time, throughput, machine, versions and inputs."""
    facts, machine, speed = report.facts, report.facts.machine, report.speed
    rows = []
    if speed is not None:
        rows += [
            ("time of the training steps", f"{clock(speed.seconds)}, without evaluations"),
            (
                "throughput",
                f"{speed.examples_per_second:,.1f} examples/s"
                + (f", {speed.tokens_per_second:,.0f} tokens/s" if speed.tokens_per_second else ""),
            ),
        ]
    card = f", {machine.card}" if machine.card else ""
    rows += [
        ("device", f"{machine.device}{card}"),
        ("processor", f"{machine.processor} ({machine.processor_class})"),
        ("threads", f"{machine.threads}"),
        *([("processes", f"{machine.processes}")] if machine.processes > 1 else []),
        ("precision", precision_name(facts.precision)),
        ("seed", f"{facts.seed}"),
        ("versions", _listed(facts.versions)),
        ("encoder, start of SHA-256", _listed(facts.inputs.encoder.sha256, 16)),
        ("data files, start of SHA-256", _listed(facts.inputs.files, 16)),
    ]
    if report.run.average:
        rows.append(("evaluated weights", report.run.average))
    if facts.soup:
        kept = [member.run for member in facts.soup if member.kept]
        rows.append(("a soup", f"mean of the weights of {some(kept, len(kept))}"))
    if facts.command:
        rows.append(("command", " ".join(facts.command)))
    if facts.commit:
        rows.append(("commit", facts.commit))
    return [(name, visible(value)) for name, value in rows if value]


def _listed(values: Mapping[str, str], characters: int | None = None) -> str:
    """Names and values in one line; only the first characters of a value."""
    return ", ".join(f"{name} {value[:characters]}" for name, value in values.items())
