"""Turns pydantic's validation errors into messages: the key, what is wrong, what to write."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from comity.errors import did_you_mean, nearest
from comity.recipe.schema import (
    ConsistencySection,
    EncoderSection,
    ObjectiveSection,
    RecipeSchema,
    Section,
    StageFile,
    StageKeys,
    StageSection,
    TaskSection,
    TrackSection,
    TrainSection,
)
from comity.tables.frames import frame_columns

RENAMED: Mapping[type[Section], Mapping[str, str]] = {
    StageKeys: {
        "schedule": "task_sampling",
        "turns": "batches_per_step",
        "temperature": "sampling_temperature",
        "decay": "lr_schedule",
        "layer_decay": "lr_layer_decay",
    },
    TrainSection: {
        "group_lengths": "group_by_length",
        "weighting": "loss_weighting",
        "clip": "max_grad_norm",
        "watch": "conflict_every",
        "train_sample": "eval_train_rows",
        "best": "select_by",
    },
    StageSection: {"objective": "train_on", "carry": "keep_optimizer_state"},
    StageFile: {"map": "label_map"},
    TaskSection: {
        "judge_only": "eval_only",
        "accumulate": "micro_batches",
        "weight": "loss_weight",
        "layers": "head_layers",
        "dropout": "head_dropout",
        "decimal": "decimal_mark",
        "missing": "missing_labels",
        "empty": "empty_texts",
    },
    ObjectiveSection: {"scale": "cosine_scale", "positive": "positive_from"},
}
"""Keys that had another name before, in each table: old name → new name."""

FROM_ELSEWHERE: Mapping[str, str] = {
    "learning_rate": "lr",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "epoch": "epochs",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "max_steps": "steps",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "max_len": "max_length",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "lr_scheduler": "lr_schedule",
    "lr_scheduler_type": "lr_schedule",
    "layerwise_lr_decay": "lr_layer_decay",
    "adam_epsilon": "eps",
    "adam_beta1": "betas",
    "adam_beta2": "betas",
    "clip_grad_norm": "max_grad_norm",
    "gradient_clip_val": "max_grad_norm",
    "gradient_accumulation_steps": "micro_batches",
    "early_stopping_patience": "patience",
    "eval_steps": "evaluate_every",
    "eval_strategy": "evaluate_every",
    "evaluation_strategy": "evaluate_every",
    "metric_for_best_model": "select_by",
    "bf16": "precision",
    "fp16": "precision",
    "random_seed": "seed",
    "ema": "average",
    "ema_decay": "average_decay",
    "swa": "average",
    "freeze_encoder": "freeze",
    "r_drop": "consistency",
    "rdrop": "consistency",
    "teacher_model": "teacher",
    "distillation_temperature": "teacher_temperature",
    "sampling": "task_sampling",
    "model": "name",
    "model_name": "name",
    "model_name_or_path": "name",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "train_file": "train",
    "validation": "dev",
    "validation_file": "dev",
    "eval_file": "dev",
    "text_column": "text",
    "label_column": "label",
    "target": "label",
    "task_type": "kind",
    "num_labels": "classes",
    "label_names": "classes",
    "report_to": "to",
    "wandb_project": "project",
    "experiment_name": "project",
}
"""Names in other tools, mostly the Hugging Face Trainer, by the name of the same key here."""

RENAMED_VALUES: Mapping[str, Mapping[str, str]] = {
    "train_on": {"tasks": "labels", "masked-language-model": "masked-words"},
}
"""Values that had another name before, by key: old value → new value."""

VALUES_FROM_ELSEWHERE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "kind": {
        "binary": ("classification",),
        "multiclass": ("classification",),
        "multi_class": ("classification",),
        "single_label": ("classification",),
        "single_label_classification": ("classification",),
        "nli": ("classification",),
        "multi_label_classification": ("multi-label",),
        "multilabel_classification": ("multi-label",),
        "sts": ("similarity",),
    },
    "metric": {
        "acc": ("accuracy",),
        "f1": ("macro_f1", "micro_f1"),
        "f1_score": ("macro_f1", "micro_f1"),
        "f1_weighted": ("macro_f1",),
        "weighted_f1": ("macro_f1",),
        "precision": ("macro_f1",),
        "recall": ("balanced_accuracy",),
        "matthews": ("mcc",),
        "matthews_corrcoef": ("mcc",),
        "matthews_correlation": ("mcc",),
        "corr": ("pearson", "spearman"),
        "correlation": ("pearson", "spearman"),
        "mse": ("rmse",),
        "mean_squared_error": ("rmse",),
        "root_mean_squared_error": ("rmse",),
        "mean_absolute_error": ("mae",),
    },
    "balancer": {
        "none": ("sum",),
        "equal": ("sum",),
        "average": ("mean",),
        "surgery": ("pcgrad",),
        "gradient_surgery": ("pcgrad",),
    },
    "task_sampling": {
        "alternating": ("round-robin",),
        "uniform": ("round-robin",),
        "random": ("proportional",),
        "size": ("proportional",),
        "square_root": ("temperature",),
        "sqrt": ("temperature",),
    },
    "pooling": {"average": ("mean",), "avg": ("mean",), "first": ("cls",)},
    "embedding_pooling": {"average": ("mean",), "avg": ("mean",), "first": ("cls",)},
    "loss": {
        "infonce": ("ranking",),
        "mnrl": ("ranking",),
        "multiplenegativesrankingloss": ("ranking",),
        "ce": ("cross-entropy",),
        "softmax": ("cross-entropy",),
        "bce": ("one-vs-all",),
        "ovr": ("one-vs-all",),
        "one_vs_rest": ("one-vs-all",),
    },
    "precision": {
        "32": ("float32",),
        "fp32": ("float32",),
        "bfloat16": ("bf16",),
        "16": ("bf16",),
        "fp16": ("bf16",),
        "float16": ("bf16",),
    },
    "lr_schedule": {"constant_with_warmup": ("constant",), "none": ("constant",)},
    "average": {"swa": ("last-evaluations",), "checkpoints": ("last-evaluations",)},
    "freeze": {"none": ("nothing",), "all": ("encoder",)},
    "bad_rows": {"drop": ("skip",), "ignore": ("skip",)},
    "missing_labels": {"drop": ("skip",), "ignore": ("skip",)},
    "empty_texts": {"skip": ("drop",), "ignore": ("drop",)},
    "train_on": {"mlm": ("masked-words",), "masked_lm": ("masked-words",)},
}
"""Values that other tools or papers have, by key, and what is closest to them here.

They are compared in lower case, with "_" for spaces and hyphens. A name that only looks like one
here is in the list too, such as `acc`, which is closer to `mcc` than to `accuracy`.
"""

_TABLES = {
    "train": TrainSection,
    "encoder": EncoderSection,
    "track": TrackSection,
    "tasks.NAME": TaskSection,
}

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "string_pattern_mismatch": 'minutes such as "10 min"',  # the one pattern in recipes
    "string_too_short": "text that is not empty",
    "bool_type": "true or false",
    "dict_type": "a table",
    "model_type": "a table",
    "tuple_type": "a list",
    "list_type": "a list",
}
_BRANCH = re.compile(r"^(literal\[|constrained-|float$|int$|str$|bool$|dict\[|tuple\[|function-)")
_BOUND_TYPES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_BOUNDS = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
}


def type_errors(error: ValidationError, source: str) -> list[str]:
    """One message per key that is wrong; `source` names the recipe.

    Where a key may have one of several types, pydantic reports one error for each of them.
    """
    by_key: dict[str, list[Any]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(_key_path(detail["loc"]), []).append(detail)
    return [f"{source}: {key}: {_message(key, details)}" for key, details in by_key.items()]


def new_name(section: type[Section], key: str) -> str | None:
    """What an old key of a table is called now, or None for a key that was never renamed."""
    for table in section.__mro__:
        if key in RENAMED.get(table, {}):
            return RENAMED[table][key]
    return None


def keys_of(section: type[Section]) -> list[str]:
    """The keys of a table as a recipe spells them."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _key_path(location: tuple[int | str, ...]) -> str:
    """The key as a user writes it, without the types that pydantic tried for it.

    A task may be called like a type: the name right after `tasks` or `data` is always a key.
    """
    return ".".join(
        str(part)
        for index, part in enumerate(location)
        if not _BRANCH.match(str(part)) or location[index - 1 : index] in (("tasks",), ("data",))
    )


def _message(key: str, details: list[Any]) -> str:
    types = {detail["type"] for detail in details}
    parent, _, last = key.rpartition(".")
    if "extra_forbidden" in types:
        return _unknown_key(parent, last)
    if "missing" in types:
        return _missing_key(parent, last)
    given = details[0]["input"]
    if isinstance(given, str) and given in RENAMED_VALUES.get(last, {}):
        return f'"{given}" is now called "{RENAMED_VALUES[last][given]}"'
    *others, last_one = dict.fromkeys(_expectation(detail) for detail in details)
    expected = " or ".join(filter(None, (", ".join(others), last_one)))
    choices = [choice for detail in details for choice in _choices(detail)]
    return f"expected {expected}, got {_shown(given)}{_meant(last, given, choices)}"


def _meant(key: str, given: Any, choices: list[str]) -> str:
    """A suggestion for a wrong value that ends a message, or ""."""
    known = VALUES_FROM_ELSEWHERE.get(key, {}) if choices else {}
    meant = known.get(re.sub("[ -]", "_", str(given).casefold()), ())
    # Keys of one name in two tables have different values.
    meant = tuple(choice for choice in meant if choice in choices)
    return did_you_mean(meant) if meant else nearest(given, choices)


def _unknown_key(parent: str, key: str) -> str:
    section = _section_of(parent)
    where = f"in [{parent}]" if parent else "at the top level"
    renamed = new_name(section, key)
    if renamed is not None:
        return f'unknown key "{key}" {where}; it is now called "{renamed}"'
    known = sorted(keys_of(section))
    here = FROM_ELSEWHERE.get(key.casefold(), key)
    hint = _in_another_table(here) if here not in known else ""
    hint = hint or nearest(here, known) or _in_another_table(*_close_elsewhere(key))
    return f'unknown key "{key}" {where}' + (
        hint or f"; the keys of this table are {', '.join(known)}"
    )


def _in_another_table(*keys: str) -> str:
    """A suggestion for the first of some keys that a table has, or "" if none has it."""
    for key in keys:
        for table, section in _TABLES.items():
            if key in keys_of(section):
                return f'; did you mean "{table}.{key}"?'
    return ""


def _close_elsewhere(key: str) -> list[str]:
    """The keys of any table that are spelled like `key`, the closest first."""
    known = [name for section in _TABLES.values() for name in keys_of(section)]
    return difflib.get_close_matches(key.casefold(), known, n=1, cutoff=0.8)


def _missing_key(parent: str, key: str) -> str:
    if key.isdigit():
        return f"entry {int(key) + 1} of this list is missing; add it"
    if not parent:
        return f"missing; add a table [{key}.NAME] for each task"
    return f'missing; add "{key}" to [{parent}]'


def _expectation(detail: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind == "literal_error":
        return f"one of {context['expected']}"
    if kind == "too_short":
        return f"at least {_entries(context['min_length'])}"
    if kind == "too_long":
        return f"at most {_entries(context['max_length'])}"
    text = detail["msg"].removeprefix("Input should be ")
    if kind not in _BOUND_TYPES:
        return text
    for theirs, ours in _BOUNDS.items():
        text = text.replace(theirs, ours)
    return f"a number {text}"


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _choices(detail: Any) -> list[str]:
    if detail["type"] != "literal_error":
        return []
    return re.findall(r"'([^']+)'", detail["ctx"]["expected"])


def _shown(value: Any) -> str:
    if frame_columns(value) is not None:
        return "a table in memory, which only train() takes"
    text = f'"{value}"' if isinstance(value, str) else " ".join(str(value).split())
    if isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= 60 else text[:57] + "..."


def _section_of(path: str) -> type[Section]:
    """The class of a table, given its full key such as "stages.0.data.mood"."""
    if path == "":
        return RecipeSchema
    first, *rest = path.split(".")
    if first == "stages":
        return StageFile if "data" in rest[1:2] else StageSection
    if first == "tasks":
        inner = {"objectives": ObjectiveSection, "consistency": ConsistencySection}
        return inner.get(rest[1] if len(rest) > 1 else "", TaskSection)
    return {"encoder": EncoderSection, "track": TrackSection}.get(first, TrainSection)
