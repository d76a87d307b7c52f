"""The target `transformers`: the encoder, and each head that BertForSequenceClassification has.

encoder/            BertModel
tasks/TASK/         BertForSequenceClassification with the labels of the task

BertForSequenceClassification applies one dense layer to the output of BERT's pooler, which is a
dense layer and tanh on [CLS]. Heads that read anything else cannot be written: tanh is not the
identity, and no other token is read.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from comity.evaluation.predictions import probability_names
from comity.export.folders import (
    EXAMPLE_TEXTS,
    Part,
    Source,
    as_outputs,
    largest_difference,
    output_layer,
    threshold_note,
    write_bert,
)
from comity.export.samples import columns_read, sample_rows, sample_texts
from comity.model.translate import silent
from comity.targets import HeadSpec

LIBRARY = "transformers"
PACKAGES = ("transformers",)
TOLERANCE = 1e-4

ENCODER = "encoder"
TASKS = "tasks"

_READS = {"mean": "the mean of all tokens", "cls": "[CLS] without the pooler"}


def lacks(spec: HeadSpec) -> str | None:
    """Why a head cannot be expressed, or None if it can."""
    if spec.both:
        return "the prediction is the mean of two heads; BertForSequenceClassification has one"
    if spec.target.head == "cosine":
        return "the prediction is the cosine of two embeddings"
    if spec.interaction:
        return "the head reads two texts that are encoded separately"
    if spec.pooling != "pooler":
        reads = " and ".join(_READS[mode] for mode in spec.pooling.split("+"))
        return f"the head reads {reads}; BertForSequenceClassification reads the pooler"
    if spec.layers:
        return "the head has hidden layers; BertForSequenceClassification has none"
    return None


def write(source: Source, folder: Path, tasks: list[str]) -> list[Part]:
    """Write the encoder and the heads of `tasks` into an empty folder."""
    encoder = source.model.network.encoder
    write_bert(folder / ENCODER, source.model, encoder.max_length)
    parts = [Part(ENCODER, "encoder", (), "transformers.AutoModel")]
    for task in tasks:
        spec = source.spec(task)
        name = f"{TASKS}/{task}"
        weight, bias = output_layer(source, task)
        if spec.target.kind == "classification" and spec.target.outputs == 1:
            # The logit z of the second class becomes the logits 0 and z.
            weight = torch.cat([torch.zeros_like(weight), weight])
            bias = torch.cat([torch.zeros_like(bias), bias])
        write_bert(
            folder / name,
            source.model,
            source.max_length(task),
            {"classifier.weight": weight, "classifier.bias": bias},
            **head_config(spec),
        )
        loads_with = "transformers.AutoModelForSequenceClassification"
        parts.append(Part(name, "head", (task,), loads_with, _note(spec)))
    return parts


def head_config(spec: HeadSpec) -> dict[str, Any]:
    """The keys of config.json that describe a head."""
    target = spec.target
    labels = ["score"] if target.head == "regression" else probability_names(target)
    problem = "single_label_classification"
    if target.head == "regression":
        problem = "regression"
    elif target.kind == "multi-label" or target.one_vs_all:  # pipelines apply a sigmoid
        problem = "multi_label_classification"
    return {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": problem,
        "classifier_dropout": spec.dropout,
    }


def _note(spec: HeadSpec) -> str:
    target = spec.target
    if target.one_vs_all:
        return "scores are sigmoids; divided by their sum they are the probabilities of the classes"
    if target.head == "bins":
        return "the score is the mean of the labels, weighted by their probabilities"
    if target.kind == "similarity":
        return f"scores outside {target.scale[0]:g} to {target.scale[1]:g} are not clipped"
    return threshold_note(target)


def difference(source: Source, folder: Path, part: Part) -> float:
    """The largest difference of any output of a part from ours."""
    if part.what == "encoder":
        return _encoder_difference(source, folder / part.folder)
    (task,) = part.tasks
    target = source.spec(task).target
    columns = columns_read(source, task)
    (logits,) = _forward("AutoModelForSequenceClassification", folder / part.folder, columns)
    if target.kind == "classification" and target.outputs == 1:
        logits = logits[:, 1:] - logits[:, :1]
    ours = source.model.outputs(task, sample_rows(source, task)) / target.temperature
    return largest_difference(as_outputs(target, logits), ours)


def _encoder_difference(source: Source, folder: Path) -> float:
    length = source.model.network.encoder.max_length
    texts = sample_texts(length)
    hidden, pooled = _forward("AutoModel", folder, [texts])
    ours = [source.model.embeddings(texts, pooling, length) for pooling in ("cls", "pooler")]
    return max(map(largest_difference, (hidden[:, 0], pooled), ours))


def _forward(auto_class: str, folder: Path, columns: list[list[str]]) -> list[np.ndarray]:
    """What a model in `folder` computes in transformers for one column of texts, or for pairs."""
    import transformers

    with silent(), torch.inference_mode():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = getattr(transformers, auto_class).from_pretrained(folder, dtype=torch.float32)
        batch = tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
        return [tensor.numpy() for tensor in model.eval()(**batch).to_tuple()]


def example(source: Source, part: Part, path: str) -> str:
    """Code that loads the part from `path` and uses it."""
    if part.what == "encoder":
        return f'''\
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{path}")
model = AutoModel.from_pretrained("{path}")
batch = tokenizer(["{EXAMPLE_TEXTS[0]}"], padding=True, truncation=True, return_tensors="pt")
hidden = model(**batch).last_hidden_state'''
    spec = source.spec(part.tasks[0])
    row = json.dumps(EXAMPLE_TEXTS[0])
    if spec.views == ("pair",):
        row = json.dumps(dict(zip(("text", "text_pair"), EXAMPLE_TEXTS, strict=True)))
    every = ", top_k=None" if spec.target.kind == "multi-label" else ""
    return f'''\
from transformers import pipeline

classify = pipeline("text-classification", model="{path}")
classify({row}, truncation=True{every})'''
