"""Checks across keys: names, columns, and keys that have no effect."""

import re

from comity.errors import ErrorList, nearest
from comity.recipe.schema import NOT_AVERAGED, TASK_NAME, RecipeSchema, TrainSection
from comity.recipe.stage_rules import check_stages
from comity.recipe.task_rules import check_task
from comity.recipe.unused_keys import NO_EFFECT, Report, report_unused

_PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
_RESERVED = {"con", "prn", "aux", "nul"} | _PORTS  # file names that Windows does not allow


def check_rules(recipe: RecipeSchema, source: str, errors: ErrorList) -> None:
    """Add an error for everything that is wrong across keys; `source` names the recipe."""

    def report(key: str, problem: str) -> None:
        errors.add(f"{source}: {key}: {problem}")

    _check(recipe, report)


def keys_without_effect(recipe: RecipeSchema) -> list[str]:
    """The keys that are set but have no effect, in full, such as "train.balancer"."""
    keys = []

    def report(key: str, problem: str) -> None:
        if problem.startswith(NO_EFFECT):
            keys.append(key)

    _check(recipe, report)
    return keys


def _check(recipe: RecipeSchema, report: Report) -> None:
    _check_names(recipe, report)
    _check_encoder(recipe, report)
    for name in recipe.tasks:
        check_task(name, recipe, report)
    _check_select_by(recipe, report)
    _check_average(recipe.train, report)
    _check_conflict_every(recipe, report)
    _check_split_seed(recipe, report)
    _check_overridden(recipe, report)
    _check_lengths(recipe, report)
    _check_track(recipe, report)
    check_stages(recipe, report)


def _check_names(recipe: RecipeSchema, report: Report) -> None:
    seen: dict[str, str] = {}
    for name in recipe.tasks:
        path = f"tasks.{name}"
        if not re.fullmatch(TASK_NAME, name) or name.split(".")[0].lower() in _RESERVED:
            report(
                path,
                "a task's name becomes a file name; use up to 64 letters, digits, dots, hyphens "
                "and underscores",
            )
        if name == "mean":
            report(path, 'the name "mean" is reserved for the mean over tasks; rename the task')
        if name.casefold() in seen:
            report(path, f"differs from {seen[name.casefold()]} only in case; rename one of them")
        seen[name.casefold()] = name


def _check_encoder(recipe: RecipeSchema, report: Report) -> None:
    encoder = recipe.encoder
    frozen = all(stage.freeze == "encoder" for stage in recipe.stages)
    rates = ("embedding_dropout", "hidden_dropout", "attention_dropout")
    table = [
        ("revision", encoder.name == "minilm", '"minilm" is one fixed set of weights'),
        ("dropout", all(encoder.sets(rate) for rate in rates), "all three rates are set"),
        # The third rate, `hidden_dropout`, is also the default of heads.
        ("embedding_dropout", frozen, "a frozen encoder has no dropout"),
        ("attention_dropout", frozen, "a frozen encoder has no dropout"),
    ]
    report_unused(encoder, "encoder", table, report)


def _check_select_by(recipe: RecipeSchema, report: Report) -> None:
    key, chosen = "train.select_by", recipe.train.select_by
    metrics = [task.metric_name for task in recipe.tasks.values()]
    if chosen != "mean" and chosen not in recipe.tasks:
        hint = nearest(chosen, ["mean", *recipe.tasks])
        names = ", ".join(recipe.tasks)
        report(key, f'unknown task "{chosen}"{hint}' + ("" if hint else f'; use "mean" or {names}'))
    elif chosen != "mean" and recipe.tasks[chosen].eval_only:
        report(key, f"the task {chosen} is eval_only; name a task that is trained")
    elif chosen == "mean" and all(metric in NOT_AVERAGED for metric in metrics):
        excluded = " and ".join(sorted(set(metrics)))
        report(key, f"the mean excludes {excluded}; set train.select_by to a task")


def _check_average(train: TrainSection, report: Report) -> None:
    reason = f"average is {train.average}"
    table = [
        ("average_decay", train.average != "ema", reason),
        ("average_last", train.average != "last-evaluations", reason),
    ]
    report_unused(train, "train", table, report)


def _check_conflict_every(recipe: RecipeSchema, report: Report) -> None:
    trained = [task for task in recipe.tasks.values() if not task.eval_only]
    stages = [s for s in recipe.stages if s.train_on == "labels" and s.freeze != "encoder"]
    table = [
        (
            "conflict_every",
            all(len(stage.tasks) < 2 for stage in stages),
            "no stage trains a part of the encoder on two tasks",
        ),
        ("conflict_every", len(trained) < 2, "conflict needs two trained tasks"),
    ]
    if recipe.train.conflict_every:  # 0 disables probes, which is never wrong
        report_unused(recipe.train, "train", table, report)


def _check_split_seed(recipe: RecipeSchema, report: Report) -> None:
    files = not any(isinstance(task.dev, float) for task in recipe.tasks.values())
    report_unused(
        recipe.train, "train", [("split_seed", files, "every task has a dev file")], report
    )


def _check_overridden(recipe: RecipeSchema, report: Report) -> None:
    """Keys of [train] that every task overrides, and loss weights that are learned."""
    train, tasks = recipe.train, recipe.tasks.values()
    sizes = ("batch_size", "batch_tokens")  # either of them overrides both
    own = {key: (key,) for key in ("max_length", "head_lr", "bad_rows")}
    own |= dict.fromkeys(sizes, sizes)
    table = [
        (key, all(any(task.sets(k) for k in keys) for task in tasks), "every task sets its own")
        for key, keys in own.items()
    ]
    table.append(("batch_size", train.batch_tokens is not None, "batch_tokens sets the size"))
    report_unused(train, "train", table, report)
    learned = [("loss_weight", train.loss_weighting == "uncertainty", "loss weights are learned")]
    for name, task in recipe.tasks.items():
        report_unused(task, f"tasks.{name}", learned, report)


def _check_track(recipe: RecipeSchema, report: Report) -> None:
    names = recipe.track.to
    for name in sorted({name for name in names if names.count(name) > 1}):
        report("track.to", f'"{name}" is listed twice; remove one of them')
    alone = set(names) == {"tensorboard"}
    table = [("project", alone, "tensorboard has no projects: the event files are in the run")]
    report_unused(recipe.track, "track", table, report)


def _check_lengths(recipe: RecipeSchema, report: Report) -> None:
    declared = {f"stages.{number}": stage for number, stage in enumerate(recipe.stages_declared)}
    for path, section in {"train": recipe.train, **declared}.items():
        if section.epochs is not None and section.steps is not None:
            report(f"{path}.steps", "set either epochs or steps, not both")
