"""Checks across the keys of the stages."""

from collections.abc import Iterable

from comity.errors import nearest
from comity.recipe.schema import (
    DRAWN,
    RecipeSchema,
    Stage,
    StageFile,
    StageKeys,
    StageSection,
    TaskSection,
)
from comity.recipe.task_rules import check_columns
from comity.recipe.unused_keys import Report, report_no_effect, report_unused
from comity.tables.locations import file_text
from comity.targets import Classes


def check_stages(recipe: RecipeSchema, report: Report) -> None:
    """Report everything that is wrong with the stages, all keys resolved."""
    _check_each(recipe, report)
    _check_inherited(recipe, report)
    _check_trained(recipe, report)


def frozen_balancers(recipe: RecipeSchema) -> list[str]:
    """A sentence for each stage whose frozen encoder leaves the balancer of [train] unused."""
    balancer, declared = recipe.train.balancer, recipe.stages_declared or (StageSection(),)
    if balancer == "sum":
        return []
    return [
        f'{stage.name}: the whole encoder is frozen, so it uses the balancer "sum" instead of '
        f'"{balancer}"'
        for stage, own in zip(recipe.stages, declared, strict=True)
        if stage.freeze == "encoder" and stage.train_on == "labels" and not own.sets("balancer")
    ]


def frozen_encoders(recipe: RecipeSchema) -> list[str]:
    """A sentence for each stage that freezes the encoder, on its dropout."""
    return [
        f"{stage.name}: the whole encoder is frozen, so each row is encoded once, without dropout; "
        "only heads are trained, with their own dropout"
        for stage in recipe.stages
        if stage.freeze == "encoder" and stage.train_on == "labels"
    ]


def _check_each(recipe: RecipeSchema, report: Report) -> None:
    for number, stage in enumerate(recipe.stages):
        path = f"stages.{number}"
        _check_stage(path, stage, report)
        _check_stage_tasks(path, stage, recipe, report)
        _check_frozen(path, stage, recipe, report)
        _check_stage_files(path, stage, recipe, report)
    for number, own in enumerate(recipe.stages_declared):
        table = [(key, True, reason) for key, reason in _unused_keys(recipe.stages[number]).items()]
        kept = number == 0 and own.keep_optimizer_state  # false is right in the first stage
        table.append(("keep_optimizer_state", kept, "no stage comes before this one"))
        report_unused(own, f"stages.{number}", table, report)


def _check_stage(path: str, stage: Stage, report: Report) -> None:
    if stage.warmup > 1 and stage.warmup != int(stage.warmup):
        report(f"{path}.warmup", "a value above 1 is a number of steps; use a whole number")
    if stage.task_sampling == "annealed" and stage.steps is not None:
        report(f"{path}.steps", "annealed sampling needs epochs; set epochs instead of steps")


def _check_stage_tasks(path: str, stage: Stage, recipe: RecipeSchema, report: Report) -> None:
    key = f"{path}.tasks"
    for name in stage.tasks:
        if name not in recipe.tasks:
            report(key, _unknown_task(name, recipe.tasks, "this recipe"))
        elif recipe.tasks[name].eval_only and stage.train_on == "labels":
            report(key, f'the task "{name}" is eval_only; remove it here, or unset eval_only')
    if not stage.tasks:
        report(key, "all tasks are eval_only, so nothing is trained; unset eval_only for one")
    if len(set(stage.tasks)) < len(stage.tasks):
        report(key, "names a task twice; remove one")


def _check_frozen(path: str, stage: Stage, recipe: RecipeSchema, report: Report) -> None:
    """With a frozen encoder, whatever trains only the encoder has nothing to train."""
    if stage.freeze != "encoder":
        return
    if stage.train_on != "labels":
        report(f"{path}.freeze", "masked words train the encoder, so it cannot be frozen")
    always = all(s.freeze == "encoder" for s in recipe.stages)
    for name in stage.tasks:
        task = recipe.tasks.get(name)
        if task is not None and task.head_name == "cosine":
            report(
                f"tasks.{name}.head",
                "the cosine head has no weights and the encoder is frozen, so nothing is trained; "
                "change one",
            )
        if task is not None and task.objectives and always:
            report(
                f"tasks.{name}.objectives",
                "objectives train the encoder, which is frozen in every stage; remove them",
            )


def _check_stage_files(path: str, stage: Stage, recipe: RecipeSchema, report: Report) -> None:
    for name, file in stage.data.items():
        key = f"{path}.data.{name}"
        if name not in stage.tasks:
            report(key, _unknown_task(name, stage.tasks, "this stage"))
        elif name in recipe.tasks:
            _check_stage_file(key, recipe.tasks[name], file, report)
            others = [s.data[name] for s in recipe.stages if name in s.data]
            if any(other.file == file.file and other != file for other in others):
                report(
                    f"{key}.file",
                    f"two stages read {file_text(file.file)} with different keys; use the same "
                    "keys, or a copy of the file under another name",
                )


def _check_stage_file(path: str, task: TaskSection, file: StageFile, report: Report) -> None:
    right, wrong = ("texts", "text") if task.texts is not None else ("text", "texts")
    if getattr(file, wrong) is not None:
        report(f"{path}.{wrong}", f'the task has "{right}"; set "{right}" instead')
    if task.kind == "multi-label" and (file.label is not None or file.label_map):
        report(path, "a multi-label task uses its own label columns; remove label and label_map")
    labels = tuple(file.label_map)
    if file.sets("label_map") and not labels:
        report(f"{path}.label_map", "is empty; map each label of the file, or remove it")
    elif len(Classes.found(labels, task.match_labels == "loose").names) < len(labels):
        report(f"{path}.label_map", "names a label twice; remove one")
    if any(file.sets(key) for key in ("text", "texts", "label")):  # else they are the task's
        check_columns(path, file.read_as(task), report)


def _unused_keys(stage: Stage) -> dict[str, str]:
    """The keys that have no effect in this stage, each with the reason."""
    unused = {}
    if stage.task_sampling == "round-robin" and stage.batches_per_step > 1:
        unused["batches_per_step"] = "round-robin takes one batch of every task"
    if stage.task_sampling != "temperature":
        unused["sampling_temperature"] = f"task_sampling is {stage.task_sampling}"
    if stage.steps is not None:
        unused["epoch_ends"] = "the length is given in steps"
    elif stage.epoch_ends == "longest" and stage.task_sampling != "round-robin":
        unused["epoch_ends"] = "only round-robin can end with the longest task"
    if stage.freeze == "encoder":
        unused["lr_layer_decay"] = "the whole encoder is frozen"
    if reason := _why_no_balancer(stage):
        unused["balancer"] = reason
    return unused


def _why_no_balancer(stage: Stage) -> str | None:
    """Why a balancer other than `sum` has no effect in this stage, or None if it has."""
    if stage.balancer == "sum":
        return None
    if stage.freeze == "encoder":
        return "the whole encoder is frozen, so the tasks share no gradient"
    if stage.train_on != "labels":
        return "all tasks have the same loss on masked words"
    if len(stage.tasks) < 2:
        return f"{stage.balancer} needs at least two tasks"
    if stage.task_sampling != "round-robin" and stage.batches_per_step < 2:
        return (
            f"{stage.balancer} needs two batches per step; raise batches_per_step, or use "
            "round-robin"
        )
    return None


def _check_inherited(recipe: RecipeSchema, report: Report) -> None:
    """A key of [train] must have an effect in at least one stage that does not override it."""
    declared = recipe.stages_declared or (StageSection(),)
    unused = [_unused_keys(stage) for stage in recipe.stages]
    for key in StageKeys.model_fields:
        if not recipe.train.sets(key):
            continue
        own = ("epochs", "steps") if key in ("epochs", "steps") else (key,)
        reasons = [
            "every stage sets its own" if any(stage.sets(k) for k in own) else here.get(key)
            for stage, here in zip(declared, unused, strict=True)
        ]
        if all(reasons):
            report_no_effect(f"train.{key}", str(reasons[0]), report)


def _check_trained(recipe: RecipeSchema, report: Report) -> None:
    """Every task must be trained by a stage, and its keys on training be used by one."""
    for name, task in recipe.tasks.items():
        stages = [s for s in recipe.stages if name in s.tasks and s.train_on == "labels"]
        if not stages and not task.eval_only:
            report(f"tasks.{name}", "no stage trains this task; add it to one, or remove it")
        if task.sets("sampling_weight") and not any(s.task_sampling in DRAWN for s in stages):
            reason = f"{recipe.stages[0].task_sampling} sampling does not draw tasks at random"
            report_no_effect(f"tasks.{name}.sampling_weight", reason, report)
        own_files = [name in s.data for s in recipe.stages if name in s.tasks]
        if task.sets("unlabelled") and own_files and all(own_files):
            reason = "every stage trains the task on a file of its own"
            report_no_effect(f"tasks.{name}.unlabelled", reason, report)


def _unknown_task(name: str, known: Iterable[str], owner: str) -> str:
    hint = nearest(name, known) or f"; {owner} has {', '.join(known)}"
    return f'unknown task "{name}"{hint}'
