"""Checks across the keys of one task."""

from collections.abc import Sequence
from pathlib import Path

from comity.errors import ComityError
from comity.recipe.schema import (
    HEADS_OF,
    METRICS_OF,
    MOST_LEVELS,
    File,
    ObjectiveSection,
    RecipeSchema,
    TaskSection,
)
from comity.recipe.unused_keys import Report, Unused, report_unused
from comity.tables.hub import HubName, is_hub_name
from comity.tables.rows import JSON_LINES, PARQUET
from comity.targets import loose_key

_TRAINING_KEYS = (
    "batch_size", "batch_tokens", "micro_batches", "head_lr", "loss_weight", "sampling_weight",
    "class_weights", "objectives", "rounding", "loss", "consistency", "calibrate", "teacher",
    "unlabelled",
)  # fmt: skip
_TEACHER_KEYS = ("teacher_weight", "teacher_temperature", "teacher_anneal", "unlabelled")
_HEAD_KEYS = ("head_dropout", "head_lr", "interaction", "head_layers", "add_norm")


def check_task(name: str, recipe: RecipeSchema, report: Report) -> None:
    """Report everything that is wrong with the task `name` by itself."""
    path, task = f"tasks.{name}", recipe.tasks[name]
    check_columns(path, task, report)
    _check_file_keys(name, task, recipe, report)
    _check_head(path, task, report)
    _check_views(path, task, report)
    _check_unused_task_keys(path, task, report)
    _check_micro_batches(path, task, recipe, report)
    _check_objectives(path, task, report)
    _check_ignored_labels(path, task, report)
    if len(set(task.teachers)) < len(task.teachers):
        report(f"{path}.teacher", "names a teacher twice; remove one")
    for key in ("train", "dev"):
        if task.unlabelled is not None and task.unlabelled == getattr(task, key):
            report(f"{path}.unlabelled", f"is the file of {key}; name a file of other rows")


def _check_ignored_labels(path: str, task: TaskSection, report: Report) -> None:
    ignored = {loose_key(label) for label in task.ignore_labels}
    for name in task.classes or ():
        if loose_key(name) in ignored:
            report(f"{path}.ignore_labels", f'"{name}" is also in classes; remove one of them')
    if not all(label.strip() for label in task.ignore_labels):
        report(f"{path}.ignore_labels", 'has an empty label; set missing_labels = "skip" instead')


def check_columns(path: str, task: TaskSection, report: Report) -> None:
    """Report text and label columns that do not fit together."""
    if (task.text is None) == (task.texts is None):
        report(path, 'set either "text" (one column) or "texts" (a list of two columns)')
    if (task.label is None) == (task.labels is None):
        report(path, 'set either "label" (one column) or "labels" (several, multi-label only)')
    columns = [c for c in (*task.text_columns, *task.label_columns) if c is not None]
    if not task.header and any(isinstance(column, str) for column in columns):
        report(f"{path}.header", "without a header, give columns by their index, counted from 0")
    if task.header and any(isinstance(column, int) for column in columns):
        report(path, "columns given by index need header = false")
    both = set(task.text_columns) & set(task.label_columns) - {None}
    if both:
        report(path, f"the column {both.pop()} is both text and label; name two columns")
    if task.labels is not None and len(set(task.labels)) < len(task.labels):
        report(f"{path}.labels", "names a column twice; remove one")
    if task.texts is not None and task.texts[0] == task.texts[1]:
        report(f"{path}.texts", f"both texts are the column {task.texts[0]}; name two columns")


def _check_file_keys(name: str, task: TaskSection, recipe: RecipeSchema, report: Report) -> None:
    """Keys on how text files are read have no effect if the task has no text file."""
    files = {f"tasks.{name}.train": task.train, f"tasks.{name}.dev": task.dev}
    if task.unlabelled is not None:
        files[f"tasks.{name}.unlabelled"] = task.unlabelled
    for number, stage in enumerate(recipe.stages_declared):
        if name in stage.data:
            files[f"stages.{number}.data.{name}"] = stage.data[name].file
    for key, file in files.items():
        _check_hub_name(key, file, report)
    named = [file for file in files.values() if not isinstance(file, float)]
    extensions = {_extension(one) for file in named for one in _each(file)}
    no_delimited = extensions <= {*JSON_LINES, *PARQUET}
    table = [
        *((key, no_delimited, "no file is CSV or TSV") for key in ("delimiter", "quoting")),
        ("header", no_delimited, "no file is CSV or TSV"),
        ("encoding", extensions <= {*PARQUET}, "all files are Parquet"),
    ]
    report_unused(task, f"tasks.{name}", table, report)


def _each(file: File) -> Sequence[str]:
    return [file] if isinstance(file, str) else file


def _check_hub_name(key: str, file: File | float, report: Report) -> None:
    if isinstance(file, tuple):
        for data_set in filter(is_hub_name, file):
            report(key, f"a list names files, but {data_set} is a data set; name it without a list")
    elif isinstance(file, str) and is_hub_name(file):
        try:
            HubName.parse(file)
        except ComityError as error:
            report(key, *error.messages)


def _extension(file: str) -> str:
    """The extension of a file; data sets of the hub are read as Parquet is."""
    return PARQUET[0] if is_hub_name(file) else Path(file).suffix.lower()


def _check_head(path: str, task: TaskSection, report: Report) -> None:
    heads, metrics = HEADS_OF[task.kind], METRICS_OF[task.kind]
    if task.head is not None and task.head not in heads:
        report(f"{path}.head", f"{task.kind} needs the head {_one_of(heads)}, got {task.head}")
    if task.metric is not None and task.metric not in metrics:
        choice = _one_of(metrics)
        report(f"{path}.metric", f"{task.kind} needs the metric {choice}, got {task.metric}")
    if task.scale[0] >= task.scale[1]:
        report(f"{path}.scale", "the first number must be lower than the second")
    elif task.head_name == "bins" and any(end != int(end) for end in task.scale):
        report(f"{path}.scale", "the bins head needs whole numbers; change the scale or the head")
    elif task.head_name == "bins" and task.scale[1] - task.scale[0] >= MOST_LEVELS:
        report(
            f"{path}.scale",
            f"the bins head has a class for each whole number, and at most {MOST_LEVELS:,}; change "
            "the scale or the head",
        )


def _one_of(names: Sequence[str]) -> str:
    """Names as text: "bins, regression or cosine"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _check_views(path: str, task: TaskSection, report: Report) -> None:
    has_pairs = task.texts is not None
    if task.kind == "similarity" and not has_pairs:
        report(path, 'similarity compares two texts; set "texts" to a list of two columns')
    if task.both:
        _check_both(path, task, report)
    for key in ("interaction", "objectives"):
        if getattr(task, key) and not has_pairs:
            report(f"{path}.{key}", 'needs two text columns; set "texts"')
    if task.view in ("second", "pair", "both") and not has_pairs:
        report(f"{path}.view", f'the view "{task.view}" needs two text columns; set "texts"')
    if task.objectives and task.view in ("first", "second"):
        report(
            f"{path}.view", 'objectives need both texts; set view = "pair" or interaction = true'
        )


def _check_both(path: str, task: TaskSection, report: Report) -> None:
    if task.kind == "multi-label":
        report(
            f"{path}.view",
            'the view "both" needs a classification, similarity or regression, not multi-label; '
            'set view = "pair"',
        )
    if task.head == "cosine":
        report(
            f"{path}.head",
            'with the view "both", head is the one that reads the pair; the second head is cosine '
            "by default, so remove it, or set bins or regression",
        )


def _check_unused_task_keys(path: str, task: TaskSection, report: Report) -> None:
    multi_label = task.kind == "multi-label"
    labelled = task.kind in ("classification", "multi-label")
    numeric = task.kind in ("similarity", "regression")
    table = [
        ("labels", not multi_label, "only multi-label has several label columns"),
        ("separator", not multi_label, "only multi-label has several labels in a cell"),
        ("separator", task.labels is not None, "each class has its own column"),
        ("scale", task.kind != "similarity", "only similarity has a scale"),
        ("decimal_mark", not numeric, "only similarity and regression read numbers"),
        ("classes", task.labels is not None, "the label columns name the classes"),
        ("classes", not labelled, "only classification and multi-label have classes"),
        ("match_labels", task.labels is not None, "the label columns name the classes"),
        ("match_labels", not labelled, "only classification and multi-label have classes"),
        ("split", not isinstance(task.dev, float), "dev is a file"),
        (
            "class_weights",
            task.kind != "classification",
            "only classification has class weights",
        ),
        *((key, not task.teachers, "the task has no teacher") for key in _TEACHER_KEYS),
        ("teacher_temperature", numeric, "teachers of scores and numbers have no logits"),
        ("teacher_weight", task.teacher_anneal, "teacher_anneal sets the share"),
        ("calibrate", not labelled, "only classification and multi-label can be calibrated"),
        ("rounding", task.head_name != "bins", "only the bins head rounds scores"),
        ("loss", task.kind != "classification", "only classification has a choice"),
        ("embedding_pooling", not (task.objectives or task.both), "the task has no objectives"),
        ("embedding_pooling", task.apart, "objectives read the vectors of the head; set pooling"),
        ("view", task.apart, "the head encodes both texts separately"),
        ("mix", not task.both, 'only the view "both" has two heads'),
        ("mix", task.eval_only and task.mix == "dev", "the task is eval_only"),
        (
            "interaction",
            task.both and task.kind != "similarity",
            'with the view "both", the second head always is an interaction head',
        ),
        ("add_norm", task.head_layers == 0, "the head has no extra layers; set head_layers"),
        ("batch_size", task.batch_tokens is not None, "batch_tokens sets the size"),
        *(
            (key, task.apart and task.head_name == "cosine", "the cosine head has no weights")
            for key in _HEAD_KEYS
        ),
        *((key, task.eval_only, "the task is eval_only") for key in _TRAINING_KEYS),
    ]
    report_unused(task, path, table, report)


def _check_micro_batches(
    path: str, task: TaskSection, recipe: RecipeSchema, report: Report
) -> None:
    size = task.batch_size or (None if task.batch_tokens else recipe.train.batch_size)
    if size is not None and task.micro_batches > size:
        report(
            f"{path}.micro_batches",
            f"a batch of {size} rows cannot be split into {task.micro_batches} parts; lower it",
        )


def _check_objectives(path: str, task: TaskSection, report: Report) -> None:
    if task.objectives and task.kind not in ("similarity", "classification"):
        report(
            f"{path}.objectives",
            f"objectives need a similarity task or a classification with two classes, not "
            f"{task.kind}; remove them",
        )
    for number, objective in enumerate(task.objectives):
        table = _unused_objective_keys(objective, task)
        report_unused(objective, f"{path}.objectives.{number}", table, report)


def _unused_objective_keys(objective: ObjectiveSection, task: TaskSection) -> Unused:
    ranking, contrastive = objective.loss == "ranking", objective.loss == "contrastive"
    scored_ranking = ranking and task.kind == "similarity"
    return [
        ("cosine_scale", contrastive, "contrastive compares plain cosines"),
        ("symmetric", not ranking, "only ranking has two directions"),
        ("denominator", not contrastive, "only contrastive has a denominator"),
        ("positive_from", not scored_ranking, "only ranking on a similarity task uses it"),
    ]
