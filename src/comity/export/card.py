"""Model cards: the README.md of each folder, with the metadata that the Hugging Face hub reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comity.evaluation.bootstrap import Interval, interval
from comity.evaluation.predictions import kept_predictions
from comity.export.folders import Part, Source
from comity.files import write_atomically
from comity.format import markdown_table, markdown_text, or_dash, plural, precision_name, some
from comity.inference.saved_model import LOCAL, public_encoder
from comity.model.checkpoint import MINILM, MINILM_SHA256
from comity.model.checkpoint_files import WEIGHTS
from comity.recipe.schema import Stage
from comity.runs.calibration import CalibrationScores
from comity.runs.entries import RecordedScore
from comity.runs.facts import EncoderFacts
from comity.runs.summary import weight_average
from comity.targets import HeadSpec, Target

FILE = "README.md"
FOLDER = "FOLDER"
"""What the code in a card has in place of the folder or hub id."""

MOST_NAMES = 20
"""Classes that a card lists."""

_METRIC_TYPES = {
    "macro_f1": "f1",
    "micro_f1": "f1",
    "balanced_accuracy": "balanced_accuracy",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Metrics by the names of the hub, where those differ from ours."""

_MINILM = """\
[all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2) (Apache-2.0), a \
MiniLM with six layers. Its authors trained it to embed sentences, with a contrastive loss, on \
sentence pairs from public collections, among them Reddit comments, S2ORC citations, WikiAnswers, \
PAQ, Stack Exchange, MS MARCO, GOOAQ, Yahoo Answers, CodeSearchNet, COCO captions, SPECTER, ELI5, \
Flickr30k, SNLI and MultiNLI, Quora question triplets, Natural Questions, SQuAD 2.0 and TriviaQA. \
Evaluation data that comes from one of these collections is not new to it."""


@dataclass(frozen=True)
class TaskScore:
    """A task's score on its dev set, as the run recorded it."""

    score: RecordedScore
    interval: Interval | None  # 95%, over rows
    rows: int
    others: Mapping[str, float | None]  # the other metrics


def task_scores(source: Source) -> dict[str, TaskScore]:
    """The dev scores of the kept model.

    Raises:
        ComityError: a file of the run is damaged.
    """
    directory = source.directory
    best = directory.best()
    kept = directory.kept_evaluation()
    scores = {}
    for task, score in best.tasks.items():
        found = kept_predictions(directory, task)
        recorded = kept.tasks.get(task) if kept else None
        between = None
        if score.value is not None:
            between = interval(score.metric, found.gold, found.predicted, task)
        others = recorded.others if recorded else {}
        scores[task] = TaskScore(score, between, len(found.gold), others)
    return scores


def write_card(
    folder: Path,
    source: Source,
    scores: Mapping[str, TaskScore],
    library: str,
    parts: Sequence[tuple[Part, str]],
    omitted: Mapping[str, str],
) -> None:
    """Write the card of a folder.

    Args:
        folder: the folder.
        source: the run.
        scores: the dev scores of all tasks.
        library: the name of the library that loads the folder, on the hub.
        parts: the parts in this folder, each with code that loads it.
        omitted: why the heads of other tasks are not in it, by task.
    """
    from huggingface_hub import ModelCard

    tasks = [task for task in source.model.tasks if any(task in part.tasks for part, _ in parts)]
    own = {task: scores[task] for task in tasks if _gives_score(source, task, parts)}
    data = _metadata(source, own, library, [part for part, _ in parts])
    body = "\n".join(_body(source, own, parts, omitted, tasks or source.model.tasks))
    text = f"---\n{data.to_yaml()}\n---\n\n{body}\n"
    write_atomically(folder / FILE, str(ModelCard(text)))


def _gives_score(source: Source, task: str, parts: Sequence[tuple[Part, str]]) -> bool:
    """Whether the parts have the trained head of a task, and not only its embeddings."""
    whats = {part.what for part, _ in parts if task in part.tasks}
    is_cosine = source.spec(task).target.head == "cosine"
    return task not in source.untrained and (is_cosine or whats != {"embeddings"})


# --- metadata -------------------------------------------------------------------------------------


def _metadata(
    source: Source, scores: Mapping[str, TaskScore], library: str, parts: Sequence[Part]
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    encoder = _encoder(source)
    specs = [source.spec(task) for task in scores]
    results = []
    for task, found in scores.items():
        values = {found.score.metric: found.score.value} | dict(found.others)
        for metric, value in values.items():
            if value is None:
                continue
            between = found.interval if metric == found.score.metric else None
            results.append(
                EvalResult(
                    task_type=_pipeline(source.spec(task)),
                    dataset_type="unknown",  # it is not on the hub
                    dataset_name=f"dev set of {task}",
                    dataset_config=task,  # results of one type and config are merged
                    dataset_args={"sha256": _digest(source, task)},
                    metric_type=_METRIC_TYPES.get(metric, metric),
                    metric_value=round(value, 6),
                    metric_name=metric,
                    metric_args=between and {"interval": [between.low, between.high]},
                )
            )
    names = [found.score.metric for found in scores.values()]
    metrics = [_METRIC_TYPES.get(name, name) for name in names]
    return ModelCardData(
        model_name=f"BERT for {', '.join(scores)}" if results else None,
        library_name=library,
        license="apache-2.0" if _is_minilm(encoder) else None,
        base_model=MINILM if _is_minilm(encoder) else encoder.hub,
        pipeline_tag=_pipeline_tag(specs, parts),
        tags=_tags(source, parts),
        metrics=list(dict.fromkeys(metrics)) or None,
        eval_results=results or None,
    )


def _tags(source: Source, parts: Sequence[Part]) -> list[str]:
    tags = ["comity", "bert"]
    tags += ["multi-task"] if len(source.model.tasks) > 1 else []
    return tags + (["cross-encoder"] if _has_cross_encoder(parts) else [])


def _pipeline_tag(specs: Sequence[HeadSpec], parts: Sequence[Part]) -> str:
    """The hub's name of what the folder does."""
    whats = {part.what for part in parts}
    if whats == {"encoder"}:
        return "feature-extraction"
    if whats == {"embeddings"}:
        return "sentence-similarity"
    if all(spec.target.head == "regression" for spec in specs) and _has_cross_encoder(parts):
        return "text-ranking"
    return "text-classification"


def _has_cross_encoder(parts: Sequence[Part]) -> bool:
    return any(part.loads_with.endswith(".CrossEncoder") for part in parts)


def _pipeline(spec: HeadSpec) -> str:
    return "sentence-similarity" if spec.target.kind == "similarity" else "text-classification"


def _digest(source: Source, task: str) -> str:
    """The SHA-256 of the file that a task's dev rows are from."""
    files = source.directory.facts().inputs.files
    return files.get(f"{task} dev") or files.get(f"{task} train", "")


def _encoder(source: Source) -> EncoderFacts:
    return public_encoder(source.directory.facts().inputs.encoder)


def _is_minilm(encoder: EncoderFacts) -> bool:
    return encoder.sha256 == {WEIGHTS: MINILM_SHA256}


# --- text -----------------------------------------------------------------------------------------


def _body(
    source: Source,
    scores: Mapping[str, TaskScore],
    parts: Sequence[tuple[Part, str]],
    omitted: Mapping[str, str],
    tasks: Sequence[str],
) -> list[str]:
    whats = {part.what for part, _ in parts}
    what = {"encoder": "Encoder of ", "embeddings": "Embeddings of "}
    title = what.get(whats.pop(), "") if len(whats) == 1 else ""
    encoder = _encoder(source)
    name = "all-MiniLM-L6-v2" if _is_minilm(encoder) else encoder.hub or LOCAL
    together = " together" if len(source.model.tasks) > 1 else ""
    return [
        f"# {title}{', '.join(map(markdown_text, tasks))}",
        "",
        f"A BERT ({markdown_text(name)}), fine-tuned with "
        f"Comity {source.directory.facts().versions.get('comity', '')} on "
        f"{plural(len(source.model.tasks), 'task')}{together}.",
        "",
        *_tasks(source, tasks),
        *_how_to_load(parts),
        *_omitted(omitted),
        *_scores(source, scores),
        *_training(source),
        "## The encoder before fine-tuning",
        "",
        _MINILM if _is_minilm(encoder) else _unknown_encoder(encoder),
        "",
        *_use_and_limits(source, tasks),
        *_licence(encoder),
    ]


def _tasks(source: Source, tasks: Sequence[str]) -> list[str]:
    rows = []
    for task in tasks:
        spec = source.spec(task)
        reads = "a pair of texts" if "pair" in spec.views or spec.apart else "a text"
        target = spec.target
        rows.append(
            [
                markdown_text(task),
                target.kind,
                reads,
                _predicts(target),
                f"{source.max_length(task):,}",
            ]
        )
    header = ["task", "kind", "reads", "predicts", "most tokens"]
    return ["## Tasks", "", *markdown_table(header, rows, "llllr"), ""]


def _predicts(target: Target) -> str:
    """What a task predicts: its classes, or the range of its numbers."""
    if target.classes:
        names = [markdown_text(name) for name in target.classes]
        which = "any of " if target.kind == "multi-label" else ""
        return which + some(names, len(names), MOST_NAMES)
    if target.kind == "similarity":
        return f"a score from {target.scale[0]:g} to {target.scale[1]:g}"
    return f"a number (in training: mean {target.mean:.4g}, deviation {target.deviation:.4g})"


def _how_to_load(parts: Sequence[tuple[Part, str]]) -> list[str]:
    lines = [
        "## How to load",
        "",
        f'"{FOLDER}" is this folder or, where the library takes one, its id on the Hugging Face '
        "hub.",
        "",
    ]
    for part, code in parts:
        if part.folder != "." and len(parts) > 1:
            lines += [f"`{part.folder}`{': ' if part.note else ''}{markdown_text(part.note)}", ""]
        elif part.note:
            lines += [f"Note: {markdown_text(part.note)}.", ""]
        lines += ["```python", code, "```", ""]
    return lines


def _omitted(omitted: Mapping[str, str]) -> list[str]:
    if not omitted:
        return []
    rows = [[markdown_text(task), markdown_text(why)] for task, why in omitted.items()]
    return ["Not in this folder:", "", *markdown_table(["task", "why"], rows), ""]


def _scores(source: Source, scores: Mapping[str, TaskScore]) -> list[str]:
    if not scores:
        return []
    rows = []
    for task, found in scores.items():
        between = found.interval
        rows.append(
            [
                markdown_text(task),
                found.score.metric,
                or_dash(found.score.value),
                f"{between.low:.4f} to {between.high:.4f}" if between else "-",
                f"{found.rows:,}",
            ]
        )
    precision = precision_name(source.directory.facts().precision)
    slightly = "" if precision == "float32" else "; in float32 they can differ slightly"
    return [
        "## Scores",
        "",
        *markdown_table(["task", "metric", "score", "95% interval", "rows"], rows, "llrrr"),
        "",
        f"On the dev sets, computed by Comity in {precision}{slightly}. The best model of the run "
        "was chosen by these scores, so scores on new texts can be lower. The intervals are "
        "bootstrap intervals over the dev rows.",
        "",
    ]


def _training(source: Source) -> list[str]:
    facts, recipe = source.directory.facts(), source.directory.recipe()
    stages = [f"- {_stage(stage)}" for stage in recipe.stages]
    versions = ", ".join(f"{k} {v}" for k, v in facts.versions.items() if k != "platform")
    rows = []
    for role, digest in facts.inputs.files.items():
        task, _, which = role.partition(" ")
        name = which if which in ("train", "dev") else Path(which).name
        memory = " (in memory)" if role in facts.inputs.in_memory else ""
        rows.append([markdown_text(task), markdown_text(name) + memory, f"`{digest}`"])
    return [
        "## Training",
        "",
        *stages,
        "",
        f"{_which_model(source)} Versions: {markdown_text(versions)}.",
        "",
        *markdown_table(["task", "data", "SHA-256"], rows),
        "",
        "A task without a dev file was evaluated on a part of its training file.",
        "",
    ]


def _which_model(source: Source) -> str:
    """The seed, and which of the weights of the training the model has."""
    facts, best = source.directory.facts(), source.directory.best()
    precision = precision_name(facts.precision)
    average = weight_average(source.directory.recipe().train)
    averaged = f"; evaluated were the {average}" if average else ""
    if facts.soup:
        seeds = [member.seed for member in facts.soup if member.kept]
        return (
            f"A soup of {plural(len(seeds), 'run')} (seeds {some(seeds, len(seeds))}), "
            f"{precision}: the mean of the weights that these runs kept{averaged}."
        )
    steps = plural(facts.steps or best.step, "step")
    return (
        f"Seed {facts.seed}, {precision}; the model is that of step {best.step:,} of {steps}"
        f"{averaged}."
    )


def _stage(stage: Stage) -> str:
    """A stage of the training in one line."""
    length = plural(stage.steps or 0, "step")
    if stage.epochs is not None:
        length = "1 epoch" if stage.epochs == 1 else f"{stage.epochs:g} epochs"
    what = "masked words of " if stage.train_on == "masked-words" else ""
    tasks = ", ".join(map(markdown_text, stage.tasks))
    return (
        f"{what}{tasks}: {length}, {stage.task_sampling} sampling, balancer {stage.balancer}, "
        f"learning rate {stage.lr:g}"
    )


def _unknown_encoder(encoder: EncoderFacts) -> str:
    digests = ", ".join(f"{name} `{digest}`" for name, digest in encoder.sha256.items())
    where = "A local checkpoint"
    if encoder.hub:
        link = f"[{markdown_text(encoder.hub)}](https://huggingface.co/{encoder.hub})"
        where = f"{link} at revision `{encoder.revision}`"
    return (
        f"{where}; SHA-256 of {digests}. What it was pre-trained on, and its licence, are not "
        "recorded."
    )


def _use_and_limits(source: Source, tasks: Sequence[str]) -> list[str]:
    return [
        "## Intended use and limits",
        "",
        "The model is meant for texts like those it was trained on, in their language. For other "
        "texts its predictions have not been evaluated: evaluate them on labelled texts of your "
        "own first.",
        "",
        "- It gives a prediction for any text, however unlike the training texts it is.",
        *_calibration(source, tasks),
        "- Only the first tokens of a text are read; the table of tasks says how many.",
        "- It can repeat biases of the encoder, of the training texts and of the people who "
        "labelled them.",
        "- It should not decide alone on matters that affect people.",
        "",
    ]


def _calibration(source: Source, tasks: Sequence[str]) -> list[str]:
    """What was fitted on the dev sets, and which probabilities were not calibrated."""
    fitted, mixes = source.directory.best().calibration, source.directory.best().mixes
    mixed = [
        f"- The two heads of {markdown_text(task)} have the shares {mixes[task].mix:g} and "
        f"{1 - mixes[task].mix:g} in a prediction, fitted on its dev set."
        for task in tasks
        if task in mixes
    ]
    lines = []
    for task in tasks:
        if task in fitted:
            found = fitted[task]
            what = f"temperature {found.temperature:.4f}"
            what += "" if found.threshold is None else f", threshold {found.threshold:.6f}"
            lines.append(f"- {markdown_text(task)} was calibrated on its dev set: {what}.")
            if found.as_trained and found.cross_fitted:
                lines[-1] += f" Cross-fitted there: {_gain(found.as_trained, found.cross_fitted)}."
    if len(lines) < len(tasks):
        other = "Any other" if lines else "A"
        lines.append(f"- {other} probability is the model's own estimate. It was not calibrated.")
    return mixed + lines


def _gain(before: CalibrationScores, after: CalibrationScores) -> str:
    """The calibration error before and after."""
    return (
        f"a calibration error of {after.calibration_error:.4f} instead of "
        f"{before.calibration_error:.4f}"
    )


def _licence(encoder: EncoderFacts) -> list[str]:
    known = (
        "The encoder is under the Apache License 2.0."
        if _is_minilm(encoder)
        else "The licence of the encoder is not recorded."
    )
    return [
        "## Licence and data",
        "",
        f"{known} The terms of the training data are not recorded: whoever publishes this model "
        "has to check that they allow it, and to name them here. The folder contains no training "
        "texts. It contains the names of the classes.",
    ]
