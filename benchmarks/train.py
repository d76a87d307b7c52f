"""Training speed: Comity, the Trainer of transformers, the trainer of sentence-transformers.

    python benchmarks/train.py --data DIR [--rounds 3] [--steps 50] [--batch 32]
        [--tasks sentiment paraphrase similarity] [--dev] [--peers trainer-compiled]

All use the same data, encoder (MiniLM) and batch size, and the dropout of the checkpoint. Each run
is a separate process and times all its steps. The other trainers run as their documentation shows
("documented") and with their fastest settings ("best": rows grouped by length where supported,
eager attention). With `--dev`, each run is evaluated on dev after its steps; that is not timed.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comity.model.checkpoint import find_checkpoint

HERE = Path(__file__)
TASKS = ("sentiment", "paraphrase", "similarity")
TRAINERS = {
    "trainer-documented": {"attention": "sdpa", "group": False},
    "trainer-best": {"attention": "eager", "group": True},
    "trainer-compiled": {"attention": "sdpa", "group": False, "compiled": True},
}
SENTENCE_TRANSFORMERS = {
    "sentence-transformers": "sdpa",
    "sentence-transformers-eager": "eager",
}
PEERS = ("trainer-documented", "trainer-best", "sentence-transformers")
FILES = {"sentiment": "ids-sst", "paraphrase": "quora", "similarity": "sts"}
OUTPUTS = {"sentiment": 5, "paraphrase": 2, "similarity": 1}
LABELS = {"sentiment": "sentiment", "paraphrase": "is_duplicate", "similarity": "similarity"}


def main() -> None:
    """Run the benchmark, print its tables and write the results."""
    options = _options()
    if options.profile:
        profile(options)
        return
    if options.one is not None:
        print(json.dumps(run_one(options.one, options)))
        return
    from common import alternate, keep, median, precisions, show, spread

    commands = {}
    options.precisions = options.precisions or precisions()
    for precision in options.precisions:
        for name in options.only or names(options):
            commands[f"{name} {precision}"] = [
                sys.executable, str(HERE), "--one", name, "--precision", precision,
                "--data", str(options.data), "--steps", str(options.steps),
                "--batch", str(options.batch), *(["--dev"] if options.dev else []),
            ]  # fmt: skip
    found = alternate(commands, options.rounds)
    speeds = {name: [run["examples_per_second"] for run in runs] for name, runs in found.items()}
    scores = {name: runs[0]["dev"] for name, runs in found.items() if options.dev}
    rows = [
        (name, median(values), spread(values), scores.get(name, "-"))
        for name, values in speeds.items()
    ]
    show(
        f"Training, batch {options.batch}, {options.steps} steps",
        ["trainer", "examples/s", "spread", "dev"],
        rows,
    )
    ratios = {}
    for precision in options.precisions:
        short = {"bf16": "bf16", "float32": "fp32"}[precision]
        compared = [(f"st_{short}", "comity-three", "sentence-transformers")]
        for task in TASKS:
            suffix = "" if task == "sentiment" else f"_{task}"
            for setting in ("documented", "best"):
                key, peer = f"train_{short}_{setting}{suffix}", f"trainer-{setting}-{task}"
                compared.append((key, f"comity-{task}", peer))
        for key, ours, theirs in compared:
            pair = [speeds.get(f"{name} {precision}") for name in (ours, theirs)]
            if all(pair):
                ratios[key] = round(median(pair[0] or []) / median(pair[1] or []), 3)
        for name, key in (("sentiment", ""), ("three", "_three")):
            runs = found.get(f"comity-{name} {precision}")
            if runs:
                shares = [run["share_of_limit"] for run in runs]
                ratios[f"share_of_limit_{short}{key}"] = round(median(shares), 3)
    show("Ratios", ["key", "ratio"], list(ratios.items()))
    measured: dict[str, Any] = {"examples_per_second": speeds}
    ours = {name: runs[0] for name, runs in found.items() if name.startswith("comity")}
    columns = ["trainer", "time for packing", "MB in use after a quarter", "MB at the end"]
    costs = [
        (name, f"{run['packing_share']:.2%}", *run["memory_held_mb"]) for name, run in ours.items()
    ]
    show("Packing and memory", columns, costs)
    for what in ("packing_share", "memory_held_mb"):
        measured[what] = {name: run[what] for name, run in ours.items()}
    if options.dev:
        measured[f"dev_after_{options.steps}_steps"] = scores
    name = f"train-batch{options.batch}"
    if options.batch == 32:  # the targets are for this batch size
        keep(name, ratios, measured)
    else:
        keep(name, {}, {**ratios, **measured})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32)
    known = ("bf16", "float32")
    parser.add_argument("--precisions", nargs="+", choices=known, help="default: fast ones")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["sentiment"])
    peers = [*TRAINERS, *SENTENCE_TRANSFORMERS]
    parser.add_argument("--peers", nargs="+", choices=peers, default=PEERS)
    parser.add_argument("--only", nargs="+", help="run only these rows of the table")
    parser.add_argument("--dev", action="store_true", help="evaluate each run on dev")
    parser.add_argument("--profile", action="store_true", help="profile our steps instead")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="bf16", help=argparse.SUPPRESS)
    return parser.parse_args()


def names(options: argparse.Namespace) -> list[str]:
    """The rows of the table: trainers on one task, then trainers on three tasks at once."""
    found = []
    for task in options.tasks:
        found.append(f"comity-{task}")
        found.extend(f"{peer}-{task}" for peer in options.peers if peer in TRAINERS)
    return [*found, "comity-three", *(p for p in options.peers if p in SENTENCE_TRANSFORMERS)]


def run_one(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run the steps of one row of the table.

    Our rows include `share_of_limit`: the FLOP/s of the run divided by those of one large product.
    """
    import torch
    from common import product_rate

    if name in SENTENCE_TRANSFORMERS:
        return sentence_transformers(options, SENTENCE_TRANSFORMERS[name])
    who, _, task = name.rpartition("-")
    if who == "comity":
        dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
        rate = product_rate(dtype)
        found = comity(options, list(TASKS) if task == "three" else [task])
        rate = (rate + product_rate(dtype)) / 2
        return {**found, "share_of_limit": found["flop_per_second"] / rate}
    if who not in TRAINERS or task not in TASKS:
        raise SystemExit(f"{name}: unknown row; a row is named like comity-sentiment")
    return trainer(options, task, **TRAINERS[who])


def comity(options: argparse.Namespace, tasks: list[str]) -> dict[str, Any]:
    """Time the steps of our trainer, without evaluation."""
    from common import memory

    from comity import Recipe
    from comity.hardware import flushed_denormals
    from comity.training.setup import prepare
    from comity.training.trainer import Trainer

    recipe = Recipe.load(HERE.parents[1] / "recipes" / "cs224n.toml").to_dict()
    # The Trainer's heads read the pooler, so ours do too: another pooling is other work.
    recipe["tasks"] = {name: {**recipe["tasks"][name], "pooling": "pooler"} for name in tasks}
    recipe["encoder"] = {"name": "minilm"}
    recipe["train"] |= {"precision": options.precision, "batch_size": options.batch}
    recipe["train"] |= {"steps": options.steps, "device": "cpu"}
    del recipe["train"]["epochs"]
    if len(tasks) == 1:
        del recipe["train"]["balancer"]
    with flushed_denormals():
        trainer = Trainer(prepare(Recipe.from_dict(recipe), options.data))
        plan = trainer.plans[0]
        trainer.start_stage(plan)
        held = []
        started = time.perf_counter()
        for number, batches in enumerate(plan.steps):
            trainer.step(plan, batches)
            trainer.progress.stage_step = trainer.progress.step = number + 1
            held.append(memory()[0] / 1e6)
        seconds = time.perf_counter() - started
        again = time.perf_counter()
        for planned in plan.steps:
            trainer._batches(plan, planned)
        packing = time.perf_counter() - again
    examples = sum(count.examples for count in plan.counts)
    tokens = sum(count.tokens for count in plan.counts)
    dev = {}
    if options.dev:
        evaluated, _ = trainer.evaluate({n: d.dev for n, d in trainer.prepared.tasks.items()})
        dev = {"dev": {name: found.score.value for name, found in evaluated.items()}}
    return {
        **dev,
        "examples_per_second": examples / seconds,
        "flop_per_second": training_flop(trainer.model.encoder, tokens, examples) / seconds,
        "packing_share": packing / seconds,
        "memory_held_mb": [round(held[len(held) // 4]), round(held[-1])],
    }


def training_flop(encoder: Any, tokens: int, sequences: int) -> int:
    """FLOP of the dense layers of BERT in training, where heads read [CLS] through the pooler.

    Forward and backward pass take 6 FLOP for each weight of a product and each token. The last
    layer computes keys and values for all tokens, everything else for [CLS] alone.
    """
    width, inner = encoder.width, encoder.config.intermediate_size
    keys_and_values, layer = 2 * width**2, 4 * width**2 + 2 * width * inner
    for_all = (encoder.depth - 1) * layer + keys_and_values
    for_cls = layer - keys_and_values + width**2  # the pooler is one more product
    return 6 * (for_all * tokens + for_cls * sequences)


def profile(options: argparse.Namespace) -> None:
    """Print the operations that take most of the time of our steps, for one task and for three."""
    from common import precisions
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    for precision in options.precisions or precisions():
        options.precision = precision
        for name in ("comity-sentiment", "comity-three"):
            with profiler(activities=[ProfilerActivity.CPU]) as seen:
                comity(options, list(TASKS) if name == "comity-three" else ["sentiment"])
            print(f"{name} {options.precision}, {options.steps} steps, preparation included")
            print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


def trainer(
    options: argparse.Namespace, task: str, attention: str, group: bool, compiled: bool = False
) -> dict[str, Any]:
    """The Trainer of transformers on one task, with a pair as one sequence."""
    import transformers

    folder = find_checkpoint("minilm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = encoded_rows(options.data, task, "train", tokenizer)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=OUTPUTS[task], attn_implementation=attention
    )
    with tempfile.TemporaryDirectory() as out:
        arguments = transformers.TrainingArguments(
            output_dir=out,
            max_steps=options.steps,
            learning_rate=5e-5,
            torch_compile=compiled,
            **_settings(options),
            **({"train_sampling_strategy": "group_by_length"} if group else {}),
        )
        collator = transformers.DataCollatorWithPadding(tokenizer)
        runner = transformers.Trainer(model, arguments, train_dataset=rows, data_collator=collator)
        started = time.perf_counter()
        runner.train()
        seconds = time.perf_counter() - started
        dev = {}
        if options.dev:
            rows = encoded_rows(options.data, task, "dev", tokenizer)
            dev = {"dev": {task: _score(runner, rows, task)}}
    return {"examples_per_second": options.steps * options.batch / seconds, **dev}


def encoded_rows(data: Path, task: str, split: str, tokenizer: Any) -> list[dict[str, Any]]:
    """The rows of a file as the Trainer takes them; similarity is divided by 5."""
    rows = _rows(data / f"{FILES[task]}-{split}.csv")
    columns = ["sentence"] if task == "sentiment" else ["sentence1", "sentence2"]
    encoded = tokenizer(*([row[column] for row in rows] for column in columns), truncation=True)
    labels = [float(row[LABELS[task]]) for row in rows]
    return [
        {
            **{key: values[index] for key, values in encoded.items()},
            "labels": label / 5 if task == "similarity" else int(label),
        }
        for index, label in enumerate(labels)
    ]


def _score(runner: Any, rows: Any, task: str) -> float:
    """The score of the Trainer's predictions, in the metric of the task."""
    from comity.evaluation.metrics import METRICS

    # With rows grouped by length, predict() may reorder them, so use the labels that it returns.
    result = runner.predict(rows)
    outputs = result.predictions
    found = outputs[:, 0] if task == "similarity" else outputs.argmax(axis=1)
    name = "pearson" if task == "similarity" else "accuracy"
    return float(METRICS[name](result.label_ids, found).value or 0.0)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of both other trainers: the same work, without logging or saving."""
    return {
        "per_device_train_batch_size": options.batch,
        "bf16": options.precision == "bf16",
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def sentence_transformers(options: argparse.Namespace, attention: str) -> dict[str, Any]:
    """The trainer of sentence-transformers, round-robin over the three tasks."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    model = SentenceTransformer(
        str(find_checkpoint("minilm")),
        device="cpu",
        model_kwargs={"attn_implementation": attention},
    )
    sst = _rows(options.data / "ids-sst-train.csv")
    quora = _rows(options.data / "quora-train.csv")
    sts = _rows(options.data / "sts-train.csv")
    data = {
        "sentiment": Dataset.from_dict(
            {
                "sentence": [row["sentence"] for row in sst],
                "label": [int(row["sentiment"]) for row in sst],
            }
        ),
        "paraphrase": _pairs(quora, "is_duplicate", 1.0),
        "similarity": _pairs(sts, "similarity", 5.0),
    }
    objectives = {
        "sentiment": losses.BatchAllTripletLoss(model),
        "paraphrase": losses.ContrastiveLoss(model),
        "similarity": losses.CosineSimilarityLoss(model),
    }
    with tempfile.TemporaryDirectory() as out:
        arguments = Arguments(
            output_dir=out,
            max_steps=options.steps * 3,  # one task per step
            multi_dataset_batch_sampler="round_robin",
            **_settings(options),
        )
        runner = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=data, loss=objectives
        )
        started = time.perf_counter()
        runner.train()
        seconds = time.perf_counter() - started
    dev = {"dev": {"similarity": _cosine_score(model, options)}} if options.dev else {}
    return {"examples_per_second": options.steps * 3 * options.batch / seconds, **dev}


def _cosine_score(model: Any, options: argparse.Namespace) -> float:
    """Pearson correlation of the cosines of the embeddings with the dev scores of similarity."""
    from comity.evaluation.metrics import METRICS

    rows = _rows(options.data / "sts-dev.csv")
    texts = [[row[column] for row in rows] for column in ("sentence1", "sentence2")]
    first, second = (model.encode(column, normalize_embeddings=True) for column in texts)
    gold = [float(row["similarity"]) for row in rows]
    return float(METRICS["pearson"](gold, (first * second).sum(axis=1)).value or 0.0)


def _pairs(rows: list[dict[str, str]], label: str, scale: float) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "sentence1": [row["sentence1"] for row in rows],
            "sentence2": [row["sentence2"] for row in rows],
            "label": [float(row[label]) / scale for row in rows],
        }
    )


def _rows(path: Path) -> list[dict[str, str]]:
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


if __name__ == "__main__":
    main()
