"""What makes a recipe wrong beyond one key's type: names, columns, keys that would do nothing."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comity.errors import Faults, nearest
from comity.recipe.schema import (
    DRAWN,
    METRICS_OF,
    Schedule,
    Stage,
    StageFile,
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
    "batch_size", "batch_tokens", "accumulate", "head_lr", "weight", "sampling_weight",
    "class_weights", "objectives", "rounding",
)  # fmt: skip
_WEIGHED_KEYS = ("dropout", "head_lr", "interaction", "layers", "add_norm")


def check_rules(recipe: "Recipe", source: str, faults: Faults) -> None:
    """Faults that need more than one key to see; above all keys that would do nothing here."""

    def fault(key: str, sentence: str) -> None:
        faults.add(f"{source}: {key}: {sentence}")

    _check_names(recipe, fault)
    for name, task in recipe.tasks.items():
        _check_columns(f"tasks.{name}", task, fault)
        _check_format_keys(name, task, recipe, fault)
        _check_task_keys(f"tasks.{name}", task, recipe, fault)
    _check_train(recipe, fault)
    if not faults:
        _check_stages(recipe, fault)


def _check_names(recipe: "Recipe", fault: Any) -> None:
    seen: dict[str, str] = {}
    for name in recipe.tasks:
        if not _TASK_NAME.fullmatch(name) or name.split(".")[0].lower() in _RESERVED:
            fault(
                f"tasks.{name}",
                "a task's name becomes a file name; use letters, digits, ., - and _ (64 at most)",
            )
        if name == "mean":
            fault("tasks.mean", 'the name "mean" stands for the mean over tasks; take another')
        if name.casefold() in seen:
            fault(f"tasks.{name}", f"differs from {seen[name.casefold()]} in case only; rename one")
        seen[name.casefold()] = name


def _check_columns(place: str, task: TaskSection, fault: Any) -> None:
    if (task.text is None) == (task.texts is None):
        fault(place, 'set either "text" (one column) or "texts" (a list of two columns)')
    if (task.label is None) == (task.labels is None):
        fault(place, 'set either "label" (one column) or "labels" (several, multi-label only)')
    columns = [c for c in (*task.text_columns, *task.label_columns) if c is not None]
    if not task.header and any(isinstance(column, str) for column in columns):
        fault(f"{place}.header", "without a header, columns are named by position, counted from 0")
    if task.header and any(isinstance(column, int) for column in columns):
        fault(place, "columns given by position need header = false")
    both = set(task.text_columns) & set(task.label_columns) - {None}
    if both:
        fault(place, f"the column {both.pop()} is text and label at once; name two columns")
    if task.labels is not None and len(set(task.labels)) < len(task.labels):
        fault(f"{place}.labels", "names a column twice")
    if task.texts is not None and task.texts[0] == task.texts[1]:
        fault(f"{place}.texts", f"both texts are the column {task.texts[0]}; name two columns")


def _check_format_keys(name: str, task: TaskSection, recipe: "Recipe", fault: Any) -> None:
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
            fault(f"tasks.{name}.{key}", "has no effect here (it is for delimited text); remove it")


def _check_task_keys(place: str, task: TaskSection, recipe: "Recipe", fault: Any) -> None:
    heads = {"similarity": ("bins", "regression", "cosine"), "regression": ("regression",)}
    allowed = heads.get(task.kind, ("linear",))
    if task.head is not None and task.head not in allowed:
        fault(f"{place}.head", f"{task.kind} has the heads {', '.join(allowed)}, not {task.head}")
    pairs = task.texts is not None
    if task.kind == "similarity" and not pairs:
        fault(place, 'similarity compares two texts; set "texts" to a list of two columns')
    metrics = METRICS_OF[task.kind]
    if task.metric is not None and task.metric not in metrics:
        fault(f"{place}.metric", f"{task.kind} is judged by {' or '.join(metrics)}")
    labelled = task.kind in ("classification", "multi-label")
    numeric = task.kind in ("similarity", "regression")
    without_effect = {
        "labels": task.kind != "multi-label" and "only multi-label has several label columns",
        "separator": (task.kind != "multi-label" or task.labels is not None)
        and "it splits the one label column of a multi-label task",
        "scale": task.kind != "similarity" and "only similarity has a scale",
        "decimal": not numeric and "only scores and numbers have a decimal mark",
        "classes": not labelled and "only classification and multi-label have classes",
        "class_weights": task.kind != "classification" and "only classification has class weights",
        "rounding": task.head_name != "bins" and "only the bins head rounds scores",
        "pooling": not (task.apart or task.objectives) and "it is for texts that are read apart",
        "view": task.apart and "the head reads both texts apart",
        "add_norm": task.layers == 0 and "there are no layers to add and norm; set layers",
        "batch_size": task.batch_tokens is not None and "batch_tokens already says how much",
    }
    if task.head_name == "cosine":
        without_effect |= dict.fromkeys(_WEIGHED_KEYS, "the cosine head has no weights")
    if task.judge_only:
        without_effect |= dict.fromkeys(_TRAINING_KEYS, "the task is judged only")
    for key, reason in without_effect.items():
        if task.sets(key) and reason:
            fault(f"{place}.{key}", f"has no effect here ({reason}); remove it")
    size = task.batch_size or (None if task.batch_tokens else recipe.train.batch_size)
    if size is not None and task.accumulate > size:
        fault(f"{place}.accumulate", f"cannot cut a batch of {size} into {task.accumulate} parts")
    for key in ("interaction", "objectives"):
        if getattr(task, key) and not pairs:
            fault(f"{place}.{key}", 'needs two text columns; set "texts"')
    if task.objectives and task.view in ("first", "second"):
        fault(
            f"{place}.view", "objectives read both texts apart; take the view pair or interaction"
        )
    _check_objectives(place, task, fault)
    if task.view in ("second", "pair") and not pairs:
        fault(f"{place}.view", f'the view "{task.view}" needs two text columns')
    if task.scale[0] >= task.scale[1]:
        fault(f"{place}.scale", "the lower end comes first and the two differ")
    elif task.head_name == "bins" and any(end != int(end) for end in task.scale):
        fault(f"{place}.scale", "the bins head counts whole numbers; take another head or scale")
    if task.classes is not None and task.labels is not None:
        fault(f"{place}.classes", "has no effect here (the label columns name them); remove it")


def _check_objectives(place: str, task: TaskSection, fault: Any) -> None:
    if task.objectives and task.kind not in ("similarity", "classification"):
        fault(f"{place}.objectives", f"are for similarity or two classes, not for {task.kind}")
    for number, objective in enumerate(task.objectives):
        where = f"{place}.objectives.{number}"
        ranking = objective.loss == "ranking"
        without_effect = {
            "scale": objective.loss == "contrastive" and "contrastive compares plain cosines",
            "symmetric": not ranking and "only ranking has two directions",
            "denominator": objective.loss != "contrastive" and "only contrastive has that choice",
            "positive": not (ranking and task.kind == "similarity")
            and "it says from which score on a pair is positive for ranking",
        }
        for key, reason in without_effect.items():
            if objective.sets(key) and reason:
                fault(f"{where}.{key}", f"has no effect here ({reason}); remove it")


def _check_train(recipe: "Recipe", fault: Any) -> None:
    train = recipe.train
    names = ["mean", *recipe.tasks]
    if train.best not in names:
        hint = nearest(train.best, names)
        fault("train.best", f'"{train.best}" is no task of this recipe and not "mean"{hint}')
    elif train.best in recipe.tasks and recipe.tasks[train.best].judge_only:
        fault("train.best", f"{train.best} is judged only; name a task that is trained")
    if train.best == "mean" and all(t.metric_name == "rmse" for t in recipe.tasks.values()):
        fault("train.best", "rmse has a unit and stands in no mean; name a task")
    if train.epochs is not None and train.steps is not None:
        fault("train.steps", "set either epochs or steps, not both")
    if train.sets("batch_size") and train.batch_tokens is not None:
        fault("train.batch_size", "has no effect here (batch_tokens already says how much)")
    for key in ("batch_size", "batch_tokens", "max_length", "head_lr"):
        alike = ("batch_size", "batch_tokens") if key.startswith("batch") else (key,)
        if train.sets(key) and all(any(t.sets(k) for k in alike) for t in recipe.tasks.values()):
            fault(f"train.{key}", "has no effect here (every task sets its own); remove it")
    surgery = [stage.balancer != "sum" or stage.objective != "tasks" for stage in recipe.stages]
    if train.sets("watch") and train.watch and all(surgery):
        fault("train.watch", "has no effect here (no stage sums its tasks' gradients); remove it")
    trained = [name for name, task in recipe.tasks.items() if not task.judge_only]
    if train.sets("watch") and train.watch and len(trained) < 2:
        fault("train.watch", "has no effect here (one task cannot conflict); remove it")
    if recipe.encoder.revision is not None and recipe.encoder.name == "minilm":
        fault("encoder.revision", 'has no effect here ("minilm" is one fixed set of weights)')
    if train.weighting == "uncertainty":
        for name, task in recipe.tasks.items():
            if task.sets("weight"):
                reason = "train.weighting learns the weights"
                fault(f"tasks.{name}.weight", f"has no effect here ({reason}); remove it")
    rates = ("embedding_dropout", "hidden_dropout", "attention_dropout")
    if recipe.encoder.sets("dropout") and all(recipe.encoder.sets(rate) for rate in rates):
        fault("encoder.dropout", "has no effect here (all three rates are set apart); remove it")
    for number, stage in enumerate(recipe.stages_declared):
        if stage.epochs is not None and stage.steps is not None:
            fault(f"stages.{number}.steps", "set either epochs or steps, not both")


def _check_stages(recipe: "Recipe", fault: Any) -> None:
    """A stage's own key must work in that stage, one of [train] in some stage that takes it."""
    declared = recipe.stages_declared or (StageSection(),)
    inherited: dict[str, list[str | None]] = {}
    for number, (own, stage) in enumerate(zip(declared, recipe.stages, strict=True)):
        place = f"stages.{number}"
        _check_stage_tasks(place, stage, recipe, fault)
        idle = _idle_keys(stage)
        for key, reason in idle.items():
            if own.sets(key):
                fault(f"{place}.{key}", f"has no effect here ({reason}); change or remove it")
        for key in Schedule.model_fields:
            length = key in ("epochs", "steps")
            if length and recipe.train.sets(key) and (own.sets("epochs") or own.sets("steps")):
                inherited.setdefault(key, []).append("every stage sets its own length")
            elif recipe.train.sets(key) and own.sets(key):
                inherited.setdefault(key, []).append("every stage sets its own")
            elif recipe.train.sets(key):
                inherited.setdefault(key, []).append(idle.get(key))
    for key, reasons in inherited.items():
        if all(reasons):
            fault(f"train.{key}", f"has no effect here ({reasons[0]}); change or remove it")
    if recipe.stages_declared and recipe.stages_declared[0].carry:
        fault("stages.0.carry", "has no effect here (nothing comes before the first stage)")
    for name, task in recipe.tasks.items():
        own_stages = [s for s in recipe.stages if name in s.tasks and s.objective == "tasks"]
        if not own_stages and not task.judge_only:
            fault(f"tasks.{name}", "no stage trains this task; name it in one, or remove it")
        if task.sets("sampling_weight") and not any(s.schedule in DRAWN for s in own_stages):
            reason = f"the schedule {recipe.stages[0].schedule} draws no tasks"
            fault(f"tasks.{name}.sampling_weight", f"has no effect here ({reason}); remove it")


def _check_stage_tasks(place: str, stage: Stage, recipe: "Recipe", fault: Any) -> None:
    if stage.warmup > 1 and stage.warmup != int(stage.warmup):
        fault(f"{place}.warmup", "above 1 it counts steps; write a whole number")
    for name in stage.tasks:
        if name not in recipe.tasks:
            hint = nearest(name, recipe.tasks)
            fault(f"{place}.tasks", f'"{name}" is no task of this recipe{hint}')
        elif recipe.tasks[name].judge_only and stage.objective == "tasks":
            fault(f"{place}.tasks", f'"{name}" is judged only; leave it out, or its judge_only')
    if not stage.tasks:
        fault(f"{place}.tasks", "every task is judged only, so nothing is trained; train one")
    if len(set(stage.tasks)) < len(stage.tasks):
        fault(f"{place}.tasks", "names a task twice")
    if stage.schedule == "annealed" and stage.steps is not None:
        fault(f"{place}.steps", "the schedule annealed goes by epochs; set those instead")
    if stage.objective != "tasks" and stage.freeze == "encoder":
        fault(f"{place}.freeze", "masked words train the encoder, and it is frozen; change one")
    for name in stage.tasks if stage.freeze == "encoder" else ():
        if name in recipe.tasks and recipe.tasks[name].head_name == "cosine":
            fault(f"tasks.{name}.head", "cosine has no weights, and the encoder is frozen")
    if all(s.freeze == "encoder" for s in recipe.stages):
        for name in stage.tasks:
            if name in recipe.tasks and recipe.tasks[name].objectives:
                fault(f"tasks.{name}.objectives", "embeddings cannot move, the encoder is frozen")
    for name, file in stage.data.items():
        if name not in stage.tasks:
            hint = nearest(name, stage.tasks)
            fault(f"{place}.data.{name}", f"no task of this stage has that name{hint}")
        elif name in recipe.tasks:
            _check_stage_file(f"{place}.data.{name}", name, file, recipe, fault)


def _check_stage_file(place: str, name: str, file: StageFile, recipe: "Recipe", fault: Any) -> None:
    task = recipe.tasks[name]
    other = "text" if task.texts is not None else "texts"
    if getattr(file, other) is not None:
        fault(f"{place}.{other}", f"the task {name} has another number of texts; name as many")
    if task.kind == "multi-label" and (file.label is not None or file.map):
        fault(place, "a multi-label task reads the label columns of its own files only")
    if file.sets("map") and len(Classes.found(tuple(file.map)).names) < max(len(file.map), 1):
        fault(
            f"{place}.map", "names each of the file's labels once; it is empty or names one twice"
        )
    _check_columns(place, file.read_as(task), fault)
    readings = [s.data[name] for s in recipe.stages if name in s.data and s.data[name] != file]
    if any(other.file == file.file for other in readings):
        fault(f"{place}.file", f"two stages read {file.file} in two ways; give one a copy")


def _idle_keys(stage: Stage) -> dict[str, str]:
    """The keys that do nothing in this stage, each with the reason."""
    idle = {}
    if stage.schedule == "round-robin" and stage.turns > 1:
        idle["turns"] = "round-robin gives every task one turn a step"
    if stage.schedule != "temperature":
        idle["temperature"] = f"the schedule is {stage.schedule}"
    if stage.steps is not None:
        idle["epoch"] = "the length is given in steps"
    elif stage.epoch == "longest" and stage.schedule != "round-robin":
        idle["epoch"] = "only round-robin knows a longest task"
    surgery = stage.balancer != "sum"
    if surgery and stage.objective != "tasks":
        idle["balancer"] = "masked words are one objective, whatever task the texts are of"
    elif surgery and len(stage.tasks) < 2:
        idle["balancer"] = f"{stage.balancer} needs two tasks or more"
    elif surgery and stage.schedule != "round-robin" and stage.turns < 2:
        reason = "needs two turns a step; raise turns or take round-robin"
        idle["balancer"] = f"{stage.balancer} {reason}"
    if stage.freeze == "encoder":
        idle["layer_decay"] = "the whole encoder is frozen"
        if surgery:
            idle["balancer"] = "the whole encoder is frozen, so nothing is shared"
    return idle
