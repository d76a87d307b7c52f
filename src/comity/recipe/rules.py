"""What makes a recipe wrong beyond one key's type: names, columns, keys that would do nothing."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comity.errors import ErrorList, nearest
from comity.recipe.schema import (
    DRAWN,
    METRICS_OF,
    Stage,
    StageFile,
    StageKeys,
    StageSection,
    TaskSection,
)
from comity.targets import Classes

if TYPE_CHECKING:
    from comity.recipe.recipe import Recipe

_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
_RESERVED = {"con", "prn", "aux", "nul"} | _PORTS
_TRAINING_KEYS = (
    "batch_size", "batch_tokens", "micro_batches", "head_lr", "loss_weight", "sampling_weight",
    "class_weights", "objectives", "rounding",
)  # fmt: skip
_WEIGHED_KEYS = ("head_dropout", "head_lr", "interaction", "head_layers", "add_norm")


def check_rules(recipe: "Recipe", source: str, errors: ErrorList) -> None:
    """ErrorList that need more than one key to see; above all keys that would do nothing here."""

    def report(key: str, sentence: str) -> None:
        errors.add(f"{source}: {key}: {sentence}")

    _check_names(recipe, report)
    for name, task in recipe.tasks.items():
        _check_columns(f"tasks.{name}", task, report)
        _check_format_keys(name, task, recipe, report)
        _check_task_keys(f"tasks.{name}", task, recipe, report)
    _check_train(recipe, report)
    if not errors:
        _check_stages(recipe, report)


def _check_names(recipe: "Recipe", report: Any) -> None:
    seen: dict[str, str] = {}
    for name in recipe.tasks:
        if not _TASK_NAME.fullmatch(name) or name.split(".")[0].lower() in _RESERVED:
            report(
                f"tasks.{name}",
                "a task's name becomes a file name; use letters, digits, ., - and _ (64 at most)",
            )
        if name == "mean":
            report("tasks.mean", 'the name "mean" stands for the mean over tasks; take another')
        if name.casefold() in seen:
            report(
                f"tasks.{name}", f"differs from {seen[name.casefold()]} in case only; rename one"
            )
        seen[name.casefold()] = name


def _check_columns(place: str, task: TaskSection, report: Any) -> None:
    if (task.text is None) == (task.texts is None):
        report(place, 'set either "text" (one column) or "texts" (a list of two columns)')
    if (task.label is None) == (task.labels is None):
        report(place, 'set either "label" (one column) or "labels" (several, multi-label only)')
    columns = [c for c in (*task.text_columns, *task.label_columns) if c is not None]
    if not task.header and any(isinstance(column, str) for column in columns):
        report(f"{place}.header", "without a header, columns are named by position, counted from 0")
    if task.header and any(isinstance(column, int) for column in columns):
        report(place, "columns given by position need header = false")
    both = set(task.text_columns) & set(task.label_columns) - {None}
    if both:
        report(place, f"the column {both.pop()} is text and label at once; name two columns")
    if task.labels is not None and len(set(task.labels)) < len(task.labels):
        report(f"{place}.labels", "names a column twice")
    if task.texts is not None and task.texts[0] == task.texts[1]:
        report(f"{place}.texts", f"both texts are the column {task.texts[0]}; name two columns")


def _check_format_keys(name: str, task: TaskSection, recipe: "Recipe", report: Any) -> None:
    """How text files are read has no effect where no file of the task is one."""
    of_stages = [s.data[name].file for s in recipe.stages_declared if name in s.data]
    files = [file for file in (task.train, task.dev, *of_stages) if isinstance(file, str)]
    endings = {Path(file).suffix.lower() for file in files}
    json_lines, parquet = {".jsonl", ".ndjson", ".json"}, {".parquet"}
    idle = []
    if endings <= json_lines | parquet:
        idle = ["delimiter", "quoting", "header"]
    if endings <= parquet:
        idle.append("encoding")
    for key in idle:
        if task.sets(key):
            report(
                f"tasks.{name}.{key}", "has no effect here (it is for delimited text); remove it"
            )


def _check_task_keys(place: str, task: TaskSection, recipe: "Recipe", report: Any) -> None:
    heads = {"similarity": ("bins", "regression", "cosine"), "regression": ("regression",)}
    allowed = heads.get(task.kind, ("linear",))
    if task.head is not None and task.head not in allowed:
        report(f"{place}.head", f"{task.kind} has the heads {', '.join(allowed)}, not {task.head}")
    pairs = task.texts is not None
    if task.kind == "similarity" and not pairs:
        report(place, 'similarity compares two texts; set "texts" to a list of two columns')
    metrics = METRICS_OF[task.kind]
    if task.metric is not None and task.metric not in metrics:
        report(f"{place}.metric", f"{task.kind} is judged by {' or '.join(metrics)}")
    labelled = task.kind in ("classification", "multi-label")
    numeric = task.kind in ("similarity", "regression")
    without_effect = {
        "labels": task.kind != "multi-label" and "only multi-label has several label columns",
        "separator": (task.kind != "multi-label" or task.labels is not None)
        and "it splits the one label column of a multi-label task",
        "scale": task.kind != "similarity" and "only similarity has a scale",
        "decimal_mark": not numeric and "only scores and numbers have a decimal mark",
        "classes": not labelled and "only classification and multi-label have classes",
        "class_weights": task.kind != "classification" and "only classification has class weights",
        "rounding": task.head_name != "bins" and "only the bins head rounds scores",
        "pooling": not (task.apart or task.objectives) and "it is for texts that are read apart",
        "view": task.apart and "the head reads both texts apart",
        "add_norm": task.head_layers == 0 and "the head has no extra layers; set head_layers",
        "batch_size": task.batch_tokens is not None and "batch_tokens already says how much",
    }
    if task.head_name == "cosine":
        without_effect |= dict.fromkeys(_WEIGHED_KEYS, "the cosine head has no weights")
    if task.eval_only:
        without_effect |= dict.fromkeys(_TRAINING_KEYS, "the task is judged only")
    for key, reason in without_effect.items():
        if task.sets(key) and reason:
            report(f"{place}.{key}", f"has no effect here ({reason}); remove it")
    size = task.batch_size or (None if task.batch_tokens else recipe.train.batch_size)
    if size is not None and task.micro_batches > size:
        report(
            f"{place}.micro_batches",
            f"cannot cut a batch of {size} into {task.micro_batches} parts",
        )
    for key in ("interaction", "objectives"):
        if getattr(task, key) and not pairs:
            report(f"{place}.{key}", 'needs two text columns; set "texts"')
    if task.objectives and task.view in ("first", "second"):
        report(
            f"{place}.view", "objectives read both texts apart; take the view pair or interaction"
        )
    _check_objectives(place, task, report)
    if task.view in ("second", "pair") and not pairs:
        report(f"{place}.view", f'the view "{task.view}" needs two text columns')
    if task.scale[0] >= task.scale[1]:
        report(f"{place}.scale", "the lower end comes first and the two differ")
    elif task.head_name == "bins" and any(end != int(end) for end in task.scale):
        report(f"{place}.scale", "the bins head counts whole numbers; take another head or scale")
    if task.classes is not None and task.labels is not None:
        report(f"{place}.classes", "has no effect here (the label columns name them); remove it")


def _check_objectives(place: str, task: TaskSection, report: Any) -> None:
    if task.objectives and task.kind not in ("similarity", "classification"):
        report(f"{place}.objectives", f"are for similarity or two classes, not for {task.kind}")
    for number, objective in enumerate(task.objectives):
        where = f"{place}.objectives.{number}"
        ranking = objective.loss == "ranking"
        without_effect = {
            "cosine_scale": objective.loss == "contrastive"
            and "contrastive compares plain cosines",
            "symmetric": not ranking and "only ranking has two directions",
            "denominator": objective.loss != "contrastive" and "only contrastive has that choice",
            "positive_from": not (ranking and task.kind == "similarity")
            and "it says from which score on a pair is positive for ranking",
        }
        for key, reason in without_effect.items():
            if objective.sets(key) and reason:
                report(f"{where}.{key}", f"has no effect here ({reason}); remove it")


def _check_train(recipe: "Recipe", report: Any) -> None:
    train = recipe.train
    names = ["mean", *recipe.tasks]
    if train.select_by not in names:
        hint = nearest(train.select_by, names)
        report(
            "train.select_by", f'"{train.select_by}" is no task of this recipe and not "mean"{hint}'
        )
    elif train.select_by in recipe.tasks and recipe.tasks[train.select_by].eval_only:
        report("train.select_by", f"{train.select_by} is judged only; name a task that is trained")
    if train.select_by == "mean" and all(t.metric_name == "rmse" for t in recipe.tasks.values()):
        report("train.select_by", "rmse has a unit and stands in no mean; name a task")
    if train.epochs is not None and train.steps is not None:
        report("train.steps", "set either epochs or steps, not both")
    if train.sets("batch_size") and train.batch_tokens is not None:
        report("train.batch_size", "has no effect here (batch_tokens already says how much)")
    for key in ("batch_size", "batch_tokens", "max_length", "head_lr"):
        alike = ("batch_size", "batch_tokens") if key.startswith("batch") else (key,)
        if train.sets(key) and all(any(t.sets(k) for k in alike) for t in recipe.tasks.values()):
            report(f"train.{key}", "has no effect here (every task sets its own); remove it")
    surgery = [stage.balancer != "sum" or stage.train_on != "labels" for stage in recipe.stages]
    if train.sets("conflict_every") and train.conflict_every and all(surgery):
        report(
            "train.conflict_every",
            "has no effect here (no stage sums its tasks' gradients); remove it",
        )
    trained = [name for name, task in recipe.tasks.items() if not task.eval_only]
    if train.sets("conflict_every") and train.conflict_every and len(trained) < 2:
        report("train.conflict_every", "has no effect here (one task cannot conflict); remove it")
    if recipe.encoder.revision is not None and recipe.encoder.name == "minilm":
        report("encoder.revision", 'has no effect here ("minilm" is one fixed set of weights)')
    if train.loss_weighting == "uncertainty":
        for name, task in recipe.tasks.items():
            if task.sets("loss_weight"):
                reason = "train.loss_weighting learns the weights"
                report(f"tasks.{name}.loss_weight", f"has no effect here ({reason}); remove it")
    rates = ("embedding_dropout", "hidden_dropout", "attention_dropout")
    if recipe.encoder.sets("dropout") and all(recipe.encoder.sets(rate) for rate in rates):
        report("encoder.dropout", "has no effect here (all three rates are set apart); remove it")
    for number, stage in enumerate(recipe.stages_declared):
        if stage.epochs is not None and stage.steps is not None:
            report(f"stages.{number}.steps", "set either epochs or steps, not both")


def _check_stages(recipe: "Recipe", report: Any) -> None:
    """A stage's own key must work in that stage, one of [train] in some stage that takes it."""
    declared = recipe.stages_declared or (StageSection(),)
    inherited: dict[str, list[str | None]] = {}
    for number, (own, stage) in enumerate(zip(declared, recipe.stages, strict=True)):
        place = f"stages.{number}"
        _check_stage_tasks(place, stage, recipe, report)
        idle = _idle_keys(stage)
        for key, reason in idle.items():
            if own.sets(key):
                report(f"{place}.{key}", f"has no effect here ({reason}); change or remove it")
        for key in StageKeys.model_fields:
            length = key in ("epochs", "steps")
            if length and recipe.train.sets(key) and (own.sets("epochs") or own.sets("steps")):
                inherited.setdefault(key, []).append("every stage sets its own length")
            elif recipe.train.sets(key) and own.sets(key):
                inherited.setdefault(key, []).append("every stage sets its own")
            elif recipe.train.sets(key):
                inherited.setdefault(key, []).append(idle.get(key))
    for key, reasons in inherited.items():
        if all(reasons):
            report(f"train.{key}", f"has no effect here ({reasons[0]}); change or remove it")
    if recipe.stages_declared and recipe.stages_declared[0].keep_optimizer_state:
        report(
            "stages.0.keep_optimizer_state",
            "has no effect here (nothing comes before the first stage)",
        )
    for name, task in recipe.tasks.items():
        own_stages = [s for s in recipe.stages if name in s.tasks and s.train_on == "labels"]
        if not own_stages and not task.eval_only:
            report(f"tasks.{name}", "no stage trains this task; name it in one, or remove it")
        if task.sets("sampling_weight") and not any(s.task_sampling in DRAWN for s in own_stages):
            reason = f"{recipe.stages[0].task_sampling} sampling draws no tasks"
            report(f"tasks.{name}.sampling_weight", f"has no effect here ({reason}); remove it")


def _check_stage_tasks(place: str, stage: Stage, recipe: "Recipe", report: Any) -> None:
    if stage.warmup > 1 and stage.warmup != int(stage.warmup):
        report(f"{place}.warmup", "above 1 it counts steps; write a whole number")
    for name in stage.tasks:
        if name not in recipe.tasks:
            hint = nearest(name, recipe.tasks)
            report(f"{place}.tasks", f'"{name}" is no task of this recipe{hint}')
        elif recipe.tasks[name].eval_only and stage.train_on == "labels":
            report(f"{place}.tasks", f'"{name}" is judged only; leave it out, or its eval_only')
    if not stage.tasks:
        report(f"{place}.tasks", "every task is judged only, so nothing is trained; train one")
    if len(set(stage.tasks)) < len(stage.tasks):
        report(f"{place}.tasks", "names a task twice")
    if stage.task_sampling == "annealed" and stage.steps is not None:
        report(f"{place}.steps", "annealed sampling follows epochs; set epochs instead")
    if stage.train_on != "labels" and stage.freeze == "encoder":
        report(f"{place}.freeze", "masked words train the encoder, and it is frozen; change one")
    for name in stage.tasks if stage.freeze == "encoder" else ():
        if name in recipe.tasks and recipe.tasks[name].head_name == "cosine":
            report(f"tasks.{name}.head", "cosine has no weights, and the encoder is frozen")
    if all(s.freeze == "encoder" for s in recipe.stages):
        for name in stage.tasks:
            if name in recipe.tasks and recipe.tasks[name].objectives:
                report(f"tasks.{name}.objectives", "embeddings cannot move, the encoder is frozen")
    for name, file in stage.data.items():
        if name not in stage.tasks:
            hint = nearest(name, stage.tasks)
            report(f"{place}.data.{name}", f"no task of this stage has that name{hint}")
        elif name in recipe.tasks:
            _check_stage_file(f"{place}.data.{name}", name, file, recipe, report)


def _check_stage_file(
    place: str, name: str, file: StageFile, recipe: "Recipe", report: Any
) -> None:
    task = recipe.tasks[name]
    other = "text" if task.texts is not None else "texts"
    if getattr(file, other) is not None:
        report(f"{place}.{other}", f"the task {name} has another number of texts; name as many")
    if task.kind == "multi-label" and (file.label is not None or file.label_map):
        report(place, "a multi-label task reads the label columns of its own files only")
    if file.sets("label_map") and len(Classes.found(tuple(file.label_map)).names) < max(
        len(file.label_map), 1
    ):
        report(
            f"{place}.label_map",
            "names each of the file's labels once; it is empty or names one twice",
        )
    _check_columns(place, file.read_as(task), report)
    readings = [s.data[name] for s in recipe.stages if name in s.data and s.data[name] != file]
    if any(other.file == file.file for other in readings):
        report(f"{place}.file", f"two stages read {file.file} in two ways; give one a copy")


def _idle_keys(stage: Stage) -> dict[str, str]:
    """The keys that do nothing in this stage, each with the reason."""
    idle = {}
    if stage.task_sampling == "round-robin" and stage.batches_per_step > 1:
        idle["batches_per_step"] = "round-robin takes one batch of every task"
    if stage.task_sampling != "temperature":
        idle["sampling_temperature"] = f"task_sampling is {stage.task_sampling}"
    if stage.steps is not None:
        idle["epoch_ends"] = "the length is given in steps"
    elif stage.epoch_ends == "longest" and stage.task_sampling != "round-robin":
        idle["epoch_ends"] = "only round-robin can end with the longest task"
    surgery = stage.balancer != "sum"
    if surgery and stage.train_on != "labels":
        idle["balancer"] = "masked words are one objective, whatever task the texts are of"
    elif surgery and len(stage.tasks) < 2:
        idle["balancer"] = f"{stage.balancer} needs two tasks or more"
    elif surgery and stage.task_sampling != "round-robin" and stage.batches_per_step < 2:
        reason = "needs two batches a step; raise batches_per_step or use round-robin"
        idle["balancer"] = f"{stage.balancer} {reason}"
    if stage.freeze == "encoder":
        idle["lr_layer_decay"] = "the whole encoder is frozen"
        if surgery:
            idle["balancer"] = "the whole encoder is frozen, so nothing is shared"
    return idle
