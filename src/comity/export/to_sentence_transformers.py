"""The target `sentence-transformers`: embeddings, and heads on pairs of texts.

embeddings/NAME/        SentenceTransformer: encoder, pooling and, for a cosine head, normalisation
cross-encoders/TASK/    CrossEncoder: a head that reads both texts in one sequence

A head on the output of BERT's pooler is written as BertForSequenceClassification. Heads with
another pooling, or with hidden layers, are chains of modules: encoder, pooling, dense layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comity.export.folders import (
    EXAMPLE_TEXTS,
    Part,
    Source,
    as_outputs,
    largest_difference,
    output_layer,
    row_code,
    threshold_note,
    write_bert,
    write_json,
)
from comity.export.samples import columns_read, sample_rows, sample_texts
from comity.export.to_transformers import head_config
from comity.format import plural
from comity.model.checkpoint import save_tensors
from comity.model.checkpoint_files import WEIGHTS
from comity.model.pooling import CONFIG, FOLDER, MODULES, declaration
from comity.model.translate import silent
from comity.targets import HeadSpec, Target

LIBRARY = "sentence-transformers"
PACKAGES = ("sentence_transformers",)
TOLERANCE = 1e-4

EMBEDDINGS = "embeddings"
CROSS_ENCODERS = "cross-encoders"
UNTRAINED = "encoder"
"""The name of the embeddings if no task trained any."""

_EMBEDS = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
_IDENTITY = "torch.nn.modules.linear.Identity"
_SIGMOID = "torch.nn.modules.activation.Sigmoid"
_TANH = "torch.nn.modules.activation.Tanh"
_GELU = "torch.nn.modules.activation.GELU"


@dataclass(frozen=True)
class Module:
    """A module of sentence-transformers after the encoder."""

    kind: str  # its class
    config: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def lacks(spec: HeadSpec) -> str | None:
    """Why a head cannot be expressed, or None if it can."""
    if spec.both:
        return "the prediction is the mean of two heads; CrossEncoder has one"
    if spec.target.head == "cosine":
        return None  # the similarity of two embeddings
    if spec.interaction:
        return "the head reads two texts that are encoded separately"
    if spec.views != ("pair",):
        return "the head reads one text; CrossEncoder reads pairs"
    if spec.add_norm and spec.layers:
        return "LayerNorm in sentence-transformers has another epsilon than in the head"
    return None


def write(source: Source, folder: Path, tasks: list[str]) -> list[Part]:
    """Write embeddings, and the heads of those `tasks` that read pairs, into an empty folder."""
    trained = [name for name in source.model.tasks if source.spec(name).embeds]
    parts = [_write_embeddings(source, folder, task) for task in trained]
    parts = parts or [_write_untrained_embeddings(source, folder)]
    heads = [task for task in tasks if source.spec(task).target.head != "cosine"]
    return parts + [_write_cross_encoder(source, folder, task) for task in heads]


# --- embeddings -----------------------------------------------------------------------------------


def _write_embeddings(source: Source, folder: Path, task: str) -> Part:
    spec, name = source.spec(task), f"{EMBEDDINGS}/{task}"
    modules = list(_pooling(source, spec.text_pooling))
    is_cosine = spec.target.head == "cosine"
    if is_cosine:
        modules.append(Module("Normalize"))
    _write_modules(folder / name, source, source.max_length(task), modules, **_EMBEDS)
    note = ""
    if is_cosine:
        low, high = spec.target.scale
        note = "normalised"
        if (low, high) != (0, 1):
            start = f"{low:g} plus " if low else ""
            note += f"; the score is {start}{high - low:g} times the cosine"
    return Part(name, "embeddings", (task,), "sentence_transformers.SentenceTransformer", note)


def _write_untrained_embeddings(source: Source, folder: Path) -> Part:
    encoder, name = source.model.network.encoder, f"{EMBEDDINGS}/{UNTRAINED}"
    modules = list(_pooling(source, encoder.text_pooling))
    _write_modules(folder / name, source, encoder.max_length, modules, **_EMBEDS)
    note = "no task trained these embeddings"
    return Part(name, "embeddings", (), "sentence_transformers.SentenceTransformer", note)


def _pooling(source: Source, pooling: str) -> Iterator[Module]:
    """The modules for one of our poolings; BERT's pooler is a dense layer and tanh on [CLS]."""
    encoder: Any = source.model.network.encoder
    token = "cls" if pooling == "pooler" else pooling
    yield Module("Pooling", declaration(token, encoder.width)[f"{FOLDER}/{CONFIG}"])
    if pooling == "pooler":
        yield _dense(encoder.pooler.weight, encoder.pooler.bias, _TANH)


def _dense(weight: Tensor, bias: Tensor, activation: str, output: str | None = None) -> Module:
    config = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": True,
        "activation_function": activation,
    }
    if output is not None:
        config |= {"module_input_name": "sentence_embedding", "module_output_name": output}
    tensors = {"linear.weight": weight.detach().clone(), "linear.bias": bias.detach().clone()}
    return Module("Dense", config, tensors)


def _write_modules(
    folder: Path, source: Source, max_length: int, modules: list[Module], **config: Any
) -> None:
    """Write a chain of modules that starts with the encoder; `config` says which class loads it."""
    write_bert(folder, source.model, max_length)
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False}
    )
    package = "sentence_transformers.models"  # the name that all versions know
    listed = [{"idx": 0, "name": "0", "path": "", "type": f"{package}.Transformer"}]
    for number, module in enumerate(modules, start=1):
        name = f"{number}_{module.kind}"
        listed.append(
            {"idx": number, "name": str(number), "path": name, "type": f"{package}.{module.kind}"}
        )
        write_json(folder / name / CONFIG, module.config)
        if module.tensors:
            save_tensors(module.tensors, folder / name / WEIGHTS)
    write_json(folder / MODULES, listed)
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None} | config,
    )


# --- cross-encoders -------------------------------------------------------------------------------


def _write_cross_encoder(source: Source, folder: Path, task: str) -> Part:
    spec, name = source.spec(task), f"{CROSS_ENCODERS}/{task}"
    weight, bias = output_layer(source, task)
    activation = _SIGMOID if spec.target.sigmoid else _IDENTITY
    length = source.max_length(task)
    if spec.pooling == "pooler" and not spec.layers:
        write_bert(
            folder / name,
            source.model,
            length,
            {"classifier.weight": weight, "classifier.bias": bias},
            **_cross_encoder_config(spec, activation),
        )
    else:
        head: Any = source.model.network.head(task)
        hidden = [_dense(layer.weight, layer.bias, _GELU) for layer in head.layers]
        modules = [*_pooling(source, spec.pooling), *hidden]
        modules.append(_dense(weight, bias, _IDENTITY, output="scores"))
        _write_modules(
            folder / name,
            source,
            length,
            modules,
            model_type="CrossEncoder",
            activation_fn=activation,
        )
    return Part(name, "head", (task,), "sentence_transformers.CrossEncoder", _note(spec.target))


def _cross_encoder_config(spec: HeadSpec, activation: str) -> dict[str, Any]:
    config = head_config(spec)
    if spec.target.outputs == 1 and spec.target.classes:  # one logit, that of the second class
        name = spec.target.classes[1]
        config |= {"id2label": {"0": name}, "label2id": {name: 0}}
        del config["problem_type"]
    return config | {"sentence_transformers": {"activation_fn": activation}}


def _note(target: Target) -> str:
    return "; ".join(filter(None, (_result(target), threshold_note(target))))


def _result(target: Target) -> str:
    """What `predict` gives."""
    if target.kind == "multi-label":
        return "predict gives the probability of each label"
    if target.kind == "classification" and target.outputs == 1:
        return f'predict gives the probability of "{target.classes[1]}"'
    if target.one_vs_all:
        return (
            "predict gives a sigmoid for each class; divided by their sum they are the "
            "probabilities of the classes"
        )
    if target.kind == "classification":
        return "predict gives logits; with apply_softmax=True it gives probabilities"
    if target.head == "bins":
        levels = plural(len(target.levels), "level")
        return (
            f"predict gives the logits of {levels}; the score is their mean, weighted by the "
            "probabilities that apply_softmax=True gives"
        )
    if target.kind == "similarity":
        return f"scores outside {target.scale[0]:g} to {target.scale[1]:g} are not clipped"
    return ""


# --- the check ------------------------------------------------------------------------------------


def difference(source: Source, folder: Path, part: Part) -> float:
    """The largest difference of any embedding, score, logit or probability from ours."""
    if part.what == "embeddings":
        return _embeddings_difference(source, folder / part.folder, part.tasks)
    from sentence_transformers import CrossEncoder

    (task,) = part.tasks
    target = source.spec(task).target
    pairs = [list(pair) for pair in zip(*columns_read(source, task), strict=True)]
    with silent():
        model = CrossEncoder(str(folder / part.folder), device="cpu")
        predicted: Any = model.predict(pairs, show_progress_bar=False)
    ours = source.model.outputs(task, sample_rows(source, task))
    ours = ours / target.temperature
    if target.sigmoid:
        ours = torch.sigmoid(torch.from_numpy(ours)).numpy()
    return largest_difference(as_outputs(target, predicted), ours)


def _embeddings_difference(source: Source, folder: Path, tasks: tuple[str, ...]) -> float:
    from sentence_transformers import SentenceTransformer

    encoder = source.model.network.encoder
    pooling, length, normalised = encoder.text_pooling, encoder.max_length, False
    for task in tasks:
        spec = source.spec(task)
        pooling, length = spec.text_pooling, source.max_length(task)
        normalised = spec.target.head == "cosine"
    texts = sample_texts(length)
    with silent():
        model = SentenceTransformer(str(folder), device="cpu")
        theirs = model.encode(texts, show_progress_bar=False, convert_to_numpy=True)
    ours = source.model.embeddings(texts, pooling, length)
    if normalised:
        ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    return largest_difference(np.asarray(theirs), ours)


def example(source: Source, part: Part, path: str) -> str:
    """Code that loads the part from `path` and uses it."""
    if part.what == "embeddings":
        return f'''\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{path}")
embeddings = model.encode(["{EXAMPLE_TEXTS[0]}", "{EXAMPLE_TEXTS[1]}"])
model.similarity(embeddings, embeddings)'''
    return f'''\
from sentence_transformers import CrossEncoder

model = CrossEncoder("{path}")
model.predict([{row_code(2)}])'''
