"""Cost of gradient surgery: steps with `pcgrad`, `sum`, torchjd and an optimizer wrapper.

    python benchmarks/surgery.py --data DIR [--tasks 2 3 8 16] [--batches 8 32] [--rounds 7]

The K tasks are K classifications of the same sentences, so that only the number of tasks differs.
The systems run alternating steps on the same batches; times are medians of whole steps, including
the update. Memory is the peak of a separate process that runs a few steps, minus the peak with
`sum`.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__)


def main() -> None:
    """Run the benchmark, print its table and write the results."""
    options = _options()
    if options.one is not None:
        step = STEPS[options.one](options, options.tasks[0], options.batches[0])
        from common import memory

        for number in range(3):
            step(number)
        print(json.dumps(memory()[1]))
        return
    from common import keep, median, show

    rows, ratios, details = [], {}, {}
    for tasks in options.tasks:
        for batch in options.batches:
            names = [n for n in STEPS if tasks <= options.peers_up_to or n.startswith("comity")]
            times = _times({n: STEPS[n](options, tasks, batch) for n in names}, options.rounds)
            base = median(times["comity sum"])
            peaks = {n: _peak(n, options, tasks, batch) for n in names}
            for name in names:
                ratio = median(
                    [a / b for a, b in zip(times[name], times["comity sum"], strict=True)]
                )
                extra = (peaks[name] - peaks["comity sum"]) / 1e6
                rows.append((f"{name}, K={tasks}", batch, 1e3 * median(times[name]), ratio, extra))
                details[f"{name} K={tasks} batch={batch}"] = {
                    "milliseconds": [round(1e3 * value, 2) for value in times[name]],
                    "ratio_to_sum": round(ratio, 4),
                    "memory_above_sum_mb": round(extra, 1),
                }
                if name == "comity pcgrad" and batch == 32 and tasks in (3, 16):
                    ratios[f"surgery_k{tasks}"] = round(ratio, 4)
            print(f"K={tasks} batch={batch}: sum {1e3 * base:.0f} ms", file=sys.stderr, flush=True)
    show(
        "Gradient surgery",
        ["system", "batch", "ms per step", "time / sum", "MB more than sum"],
        rows,
    )
    keep("surgery", ratios, {"steps": details})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 3, 8, 16])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--peers-up-to", type=int, default=3, help="largest K at which torchjd and the wrapper run"
    )
    parser.add_argument("--one", choices=list(STEPS), help=argparse.SUPPRESS)
    return parser.parse_args()


def _times(steps: dict[str, Callable[[int], None]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step(number)
            if number >= 2:  # the first two rounds warm up
                times[name].append(time.perf_counter() - started)
    return times


def _peak(name: str, options: argparse.Namespace, tasks: int, batch: int) -> int:
    command = [
        sys.executable, str(HERE), "--one", name, "--data", str(options.data),
        "--tasks", str(tasks), "--batches", str(batch), "--precision", options.precision,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _comity(balancer: str) -> Callable[..., Callable[[int], None]]:
    def make(options: argparse.Namespace, tasks: int, batch: int) -> Callable[[int], None]:
        from comity import Recipe
        from comity.training.setup import prepare
        from comity.training.trainer import Trainer

        task = {
            "kind": "classification",
            "train": "ids-sst-train.csv",
            "dev": "ids-sst-dev.csv",
            "text": "sentence",
            "label": "sentiment",
            "pooling": "pooler",
        }
        settings = {"balancer": balancer, "batch_size": batch, "steps": 60, "conflict_every": 0}
        recipe = Recipe.from_dict(
            {
                "train": {**settings, "precision": options.precision, "device": "cpu"},
                "tasks": {f"task{number}": task for number in range(tasks)},
            }
        )
        trainer = Trainer(prepare(recipe, options.data))
        plan = trainer.plans[0]
        trainer.start_stage(plan)
        trainer.directory = _Silent()  # type: ignore[assignment]

        def step(number: int) -> None:
            trainer.progress.step = trainer.progress.stage_step = number
            trainer.step(plan, plan.steps[number])

        return step

    return make


class _Silent:
    """A run directory that writes nothing."""

    def log(self, *_: Any, **__: Any) -> None:
        """Ignore a line of the log."""


def _peer_model(options: argparse.Namespace, tasks: int, batch: int) -> tuple[Any, ...]:
    """transformers' BertModel with K heads, its optimizer, and a function that gives K losses.

    Every batch holds sentences of similar length.
    """
    import csv

    import transformers

    from comity import hardware
    from comity.model.checkpoint import find_checkpoint

    folder = find_checkpoint("minilm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with (options.data / "ids-sst-train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    rows.sort(key=lambda row: len(row["sentence"]))
    bert = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").train()
    heads = torch.nn.ModuleList(torch.nn.Linear(bert.config.hidden_size, 5) for _ in range(tasks))
    optimizer = torch.optim.AdamW([*bert.parameters(), *heads.parameters()], lr=5e-5, fused=True)
    draws = random.Random(0)
    dtype = hardware.choose_precision(options.precision, torch.device("cpu"))  # as Comity chooses

    def losses() -> list[torch.Tensor]:
        found = []
        for head in heads:
            first = draws.randrange(len(rows) - batch)
            chosen = rows[first : first + batch]
            texts = tokenizer([r["sentence"] for r in chosen], padding=True, return_tensors="pt")
            labels = torch.tensor([int(row["sentiment"]) for row in chosen])
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                logits = head(bert(**texts).pooler_output)
                found.append(torch.nn.functional.cross_entropy(logits.float(), labels))
        return found

    return bert, heads, optimizer, losses


def _torchjd(options: argparse.Namespace, tasks: int, batch: int) -> Callable[[int], None]:
    from torchjd.aggregation import PCGrad
    from torchjd.autojac import backward, jac_to_grad

    bert, heads, optimizer, losses = _peer_model(options, tasks, batch)
    shared = [p for p in bert.parameters() if p.requires_grad]

    def step(number: int) -> None:
        optimizer.zero_grad()
        found = losses()
        for loss, head in zip(found, heads, strict=True):
            grads = torch.autograd.grad(loss, list(head.parameters()), retain_graph=True)
            for parameter, gradient in zip(head.parameters(), grads, strict=True):
                parameter.grad = gradient
        backward(found, inputs=shared)
        jac_to_grad(shared, PCGrad())
        optimizer.step()

    return step


def _wrapper(options: argparse.Namespace, tasks: int, batch: int) -> Callable[[int], None]:
    """PCGrad as a wrapper around an optimizer: K backward passes, then pairwise projections.

    Yu et al. 2020, algorithm 1, as public implementations do it: for each task one concatenated
    gradient of all parameters, including the heads, with zeros for parameters it does not use.
    """
    bert, heads, optimizer, losses = _peer_model(options, tasks, batch)
    parameters = [*bert.parameters(), *heads.parameters()]

    def flat_gradient(loss: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(parameters, found, strict=True)
            ]
        )

    def step(number: int) -> None:
        gradients = [flat_gradient(loss) for loss in losses()]
        combined = torch.zeros_like(gradients[0])
        for one in range(tasks):
            projected = gradients[one].clone()
            for other in random.sample([o for o in range(tasks) if o != one], tasks - 1):
                product = projected @ gradients[other]
                if product < 0:
                    projected -= product / gradients[other].square().sum() * gradients[other]
            combined += projected
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.grad = combined[start:stop].view_as(parameter)
            start = stop
        optimizer.step()

    return step


STEPS: dict[str, Callable[..., Callable[[int], None]]] = {
    "comity sum": _comity("sum"),
    "comity pcgrad": _comity("pcgrad"),
    "torchjd": _torchjd,
    "wrapper": _wrapper,
}

if __name__ == "__main__":
    main()
