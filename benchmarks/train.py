"""Training speed: Comity, transformers' Trainer, sentence-transformers' trainer.

    python benchmarks/train.py --data DIR [--rounds 3] [--steps 50] [--batch 32]

Same data, same encoder (MiniLM), same batch, dropout as in the checkpoint on both sides. Each run
is a process of its own and times all its steps; the peers run as their documentation starts them
and at their best (rows grouped by length, eager attention).
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comity.model.weights import find_checkpoint

HERE = Path(__file__)
DOCUMENTED = {"attention": "sdpa", "group": False}
BEST = {"attention": "eager", "group": True}


def main() -> None:
    """Measure, show a table, keep the ratios."""
    options = _options()
    if options.profile:
        profile(options)
        return
    if options.one is not None:
        print(json.dumps(ONE[options.one](options)))
        return
    import torch
    from common import in_turn, keep, median, product_rate, show, spread

    commands = {}
    for precision in options.precisions:
        for name in options.only or ONE:
            commands[f"{name} {precision}"] = [
                sys.executable, str(HERE), "--one", name, "--precision", precision,
                "--data", str(options.data), "--steps", str(options.steps),
                "--batch", str(options.batch),
            ]  # fmt: skip
    found = in_turn(commands, options.rounds)
    speeds = {name: [run["examples_per_second"] for run in runs] for name, runs in found.items()}
    rows = [(name, median(values), spread(values)) for name, values in speeds.items()]
    show(
        f"Training, batch {options.batch}, {options.steps} steps",
        ["who", "examples/s", "spread"],
        rows,
    )
    ratios = {}
    for precision in options.precisions:
        short = {"bf16": "bf16", "float32": "fp32"}[precision]
        for key, ours, theirs in (
            (f"train_{short}_documented", "comity-sst", "trainer-documented"),
            (f"train_{short}_best", "comity-sst", "trainer-best"),
            (f"st_{short}", "comity-three", "sentence-transformers"),
        ):
            pair = [speeds.get(f"{name} {precision}") for name in (ours, theirs)]
            if all(pair):
                ratios[key] = round(median(pair[0] or []) / median(pair[1] or []), 3)
        rate = product_rate(torch.bfloat16 if precision == "bf16" else torch.float32)
        flops = found.get(f"comity-sst {precision}", [{}])[0].get("flop_per_second")
        if flops:
            ratios[f"share_of_limit_{short}"] = round(flops / rate, 3)
    show("Ratios", ["key", "ratio"], list(ratios.items()))
    keep(f"train-batch{options.batch}", {**ratios, "examples_per_second": speeds})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "float32"])
    parser.add_argument("--only", nargs="+", choices=list(ONE))
    parser.add_argument("--profile", action="store_true", help="where a step's time goes, ours")
    parser.add_argument("--one", choices=list(ONE), help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="bf16", help=argparse.SUPPRESS)
    return parser.parse_args()


def comity(options: argparse.Namespace, tasks: list[str]) -> dict[str, Any]:
    """Steps of the trainer, evaluation left out."""
    from comity import Recipe
    from comity.machine import flushed_denormals
    from comity.prepare import prepare
    from comity.training import Trainer

    recipe = Recipe.load(HERE.parents[1] / "recipes" / "cs224n.toml").to_dict()
    recipe["tasks"] = {name: recipe["tasks"][name] for name in tasks}
    recipe["encoder"] = {"name": "minilm"}
    recipe["train"] |= {"precision": options.precision, "batch_size": options.batch}
    recipe["train"] |= {"steps": options.steps}
    del recipe["train"]["epochs"]
    if len(tasks) == 1:
        del recipe["train"]["balancer"]
    with flushed_denormals():
        trainer = Trainer(prepare(Recipe.from_dict(recipe), options.data))
        plan = trainer.plans[0]
        trainer.start_stage(plan)
        started = time.perf_counter()
        for number, turns in enumerate(plan.steps):
            trainer.step(plan, turns)
            trainer.progress.stage_step = trainer.progress.step = number + 1
        seconds = time.perf_counter() - started
    examples = sum(count.examples for count in plan.counts)
    tokens = sum(count.tokens for count in plan.counts)
    dense = len(trainer.flat.masters) - trainer.flat.table_stop
    return {
        "examples_per_second": examples / seconds,
        "flop_per_second": 6 * dense * tokens / seconds,
    }


def profile(options: argparse.Namespace) -> None:
    """Print the operations that take most of our steps' time, for one task and for three."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    for precision in options.precisions:
        options.precision = precision
        for name in ("comity-sst", "comity-three"):
            with profiler(activities=[ProfilerActivity.CPU]) as seen:
                ONE[name](options)
            print(f"{name} {options.precision}, {options.steps} steps, preparation included")
            print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


def trainer(options: argparse.Namespace, attention: str, group: bool) -> dict[str, Any]:
    """transformers' Trainer on the sentiment task."""
    import transformers
    from torch.utils.data import Dataset

    folder = find_checkpoint("minilm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = _rows(options.data / "ids-sst-train.csv")
    encoded = tokenizer([row["sentence"] for row in rows], truncation=True)

    class Rows(Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, place: int) -> dict[str, Any]:
            values = {key: encoded[key][place] for key in ("input_ids", "attention_mask")}
            return {**values, "labels": int(rows[place]["sentiment"])}

    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=5, attn_implementation=attention
    )
    with tempfile.TemporaryDirectory() as out:
        arguments = transformers.TrainingArguments(
            output_dir=out,
            max_steps=options.steps,
            learning_rate=5e-5,
            **_settings(options),
            **({"train_sampling_strategy": "group_by_length"} if group else {}),
        )
        collator = transformers.DataCollatorWithPadding(tokenizer)
        runner = transformers.Trainer(
            model, arguments, train_dataset=Rows(), data_collator=collator
        )
        started = time.perf_counter()
        runner.train()
        seconds = time.perf_counter() - started
    return {"examples_per_second": options.steps * options.batch / seconds}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What both peers' trainers are told alike: the work, and nothing beside it."""
    return {
        "per_device_train_batch_size": options.batch,
        "bf16": options.precision == "bf16",
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def sentence_transformers(options: argparse.Namespace) -> dict[str, Any]:
    """sentence-transformers' trainer, round-robin over the three tasks."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, losses
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    model = SentenceTransformer(str(find_checkpoint("minilm")), device="cpu")
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
            max_steps=options.steps * 3,  # one task a step
            multi_dataset_batch_sampler="round_robin",
            **_settings(options),
        )
        runner = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=data, loss=objectives
        )
        started = time.perf_counter()
        runner.train()
        seconds = time.perf_counter() - started
    return {"examples_per_second": options.steps * 3 * options.batch / seconds}


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


ONE = {
    "comity-sst": lambda options: comity(options, ["sentiment"]),
    "comity-three": lambda options: comity(options, ["sentiment", "paraphrase", "similarity"]),
    "trainer-documented": lambda options: trainer(options, **DOCUMENTED),
    "trainer-best": lambda options: trainer(options, **BEST),
    "sentence-transformers": sentence_transformers,
}

if __name__ == "__main__":
    main()
