"""The checks of benchmarks/gpu.py, each a function that yields what it finds."""

import copy
import gc
import json
import re
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import memory, product_rate, wait
from safetensors.torch import load_file, save_file
from torch import Tensor
from train import training_flop

from comity import Recipe
from comity.demo.files import write_files
from comity.model.bert import Bert
from comity.model.bert_config import BertConfig
from comity.model.checkpoint import load_encoder
from comity.model.encoder import Group, Packed
from comity.model.reference import padded_forward
from comity.runs.directory import RunDirectory
from comity.training.events import Evaluated, Event, StepDone
from comity.training.setup import prepare
from comity.training.train import train
from comity.training.trainer import Trainer

TASKS = ("sentiment", "paraphrase", "similarity")
SHAPES = {
    "MiniLM": BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
    "BERT-base": BertConfig(),
}
TINY = BertConfig(
    vocab_size=8192,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
)
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Finding:
    """One comparison: a number and, if it has one, the bar."""

    what: str
    value: float
    bar: float | None = None
    at_least: bool = False  # otherwise the value must be at most the bar

    @property
    def ok(self) -> bool | None:
        """Whether the bar was met; None without one. NaN never meets it."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def line(self, check: str) -> str:
        """One line for the terminal."""
        verdict = {True: "ok", False: "missed", None: "-"}[self.ok]
        bar = "" if self.bar is None else f" (at {'least' if self.at_least else 'most'} {self.bar})"
        return f"{verdict:7} {check}: {self.what}: {self.value:.4g}{bar}"


Findings = Iterator[Finding]


@dataclass(frozen=True)
class Setting:
    """The device, the sizes of the checks, and a folder for their files."""

    device: str
    quick: bool
    folder: Path

    @property
    def shapes(self) -> Mapping[str, BertConfig]:
        """The encoders to compare and time, by name."""
        return {"tiny": TINY} if self.quick else SHAPES

    @property
    def small(self) -> str:
        """The name of the smallest of them."""
        return next(iter(self.shapes))

    def size(self, normal: int, quick: int) -> int:
        """A number that a quick run replaces."""
        return quick if self.quick else normal

    @property
    def data(self) -> Path:
        """A folder with the demo's corpus."""
        folder = self.folder / "data"
        if not folder.exists():
            write_files(folder)
            for path in folder.glob("*.csv") if self.quick else []:
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:65]
                path.write_text("".join(lines), encoding="utf-8")
        return folder

    def encoder(self, shape: str) -> Path:
        """A checkpoint with random weights and the words of the demo's corpus."""
        folder = self.folder / shape
        if not folder.exists():
            write_encoder(folder, self.shapes[shape], self.data)
        return folder

    def recipe(self, shape: str, tasks: Sequence[str] = TASKS, **train: Any) -> Recipe:
        """The demo's recipe; heads read the pooler, as those of the Trainer do."""
        recipe = Recipe.load(self.data / "recipe.toml").to_dict()
        recipe["tasks"] = {name: recipe["tasks"][name] | {"pooling": "pooler"} for name in tasks}
        recipe["encoder"] = {"name": str(self.encoder(shape))}
        del recipe["train"]["epochs"]
        if len(tasks) == 1:
            del recipe["train"]["balancer"]
        recipe["train"] |= {"device": self.device, "conflict_every": 0} | train
        return Recipe.from_dict(recipe)

    def in_use(self) -> int:
        """Bytes of memory in use: of the GPU, or of this process."""
        return torch.cuda.memory_allocated() if self.device == "cuda" else memory()[0]


def write_encoder(folder: Path, config: BertConfig, data: Path) -> None:
    """Write a checkpoint whose vocabulary has the letters and the words of the data files."""
    words: set[str] = set()
    for path in sorted(data.glob("*.csv")):
        words |= set(re.findall(r"[a-z]+", path.read_text(encoding="utf-8").lower()))
    letters = string.ascii_lowercase + string.digits
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *letters]
    tokens = list(dict.fromkeys([*tokens, *(f"##{letter}" for letter in letters), *sorted(words)]))
    tokens += [f"[unused{number}]" for number in range(config.vocab_size - len(tokens))]
    bert = Bert(config)
    generator = torch.Generator().manual_seed(0)
    values: dict[str, Tensor] = {}
    for name, parameter in bert.named_parameters():
        value = torch.zeros(parameter.shape)
        if "norm.weight" in name:
            value += 1
        elif parameter.dim() > 1:
            value.normal_(std=config.hidden_size**-0.5, generator=generator)
        parts = bert.checkpoint_names()[name]
        values |= zip(parts, (part.clone() for part in value.chunk(len(parts))), strict=True)
    folder.mkdir(parents=True)
    save_file(values, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"} | config.to_dict()))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    settings = {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def error(found: Tensor, expected: Tensor) -> float:
    """The length of the difference, as a share of the length of what was expected."""
    found, expected = found.detach().double().cpu(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


# --- numbers --------------------------------------------------------------------------------------


def parity(setting: Setting) -> Findings:
    """Packed hidden states and gradients against the padded reference, float64 on the CPU."""
    bars = {"float32": (2e-5, 2e-5), "bf16": (0.03, 0.05)}
    for shape in setting.shapes:
        bert = load_encoder(str(setting.encoder(shape))).encoder
        assert isinstance(bert, Bert)
        batch, padded = random_batch(bert, setting.size(24, 4), setting.size(96, 12))
        reference = copy.deepcopy(bert).double()
        hidden, pooled = padded_forward(reference, *padded)
        hidden = hidden[padded[2].bool()]
        weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
        ((hidden * weights).sum() + pooled.sum()).backward()
        expected = torch.cat([parameter.grad.flatten() for parameter in reference.parameters()])  # pyright: ignore[reportOptionalMemberAccess]
        for name, dtype in DTYPES.items():
            model = copy.deepcopy(bert).to(setting.device, dtype)
            on_device = Packed(
                *(each.to(setting.device) for each in (batch.ids, batch.segments, batch.offsets)),
                longest=batch.longest,
            )
            (own,) = model([Group(on_device)])
            own_pooled = model.pool(own[on_device.offsets[:-1]])
            ((own * weights.to(own)).sum() + own_pooled.sum()).backward()
            gradient = torch.cat([p.grad.flatten().float() for p in model.parameters()])  # pyright: ignore[reportOptionalMemberAccess]
            of = f"{shape} in {name}, packed against the padded reference"
            yield Finding(f"{of}, hidden states, relative error", error(own, hidden), bars[name][0])
            yield Finding(
                f"{of}, gradients, relative error", error(gradient, expected), bars[name][1]
            )


def random_batch(
    bert: Bert, rows: int, longest: int
) -> tuple[Packed, tuple[Tensor, Tensor, Tensor]]:
    """Random sequences, packed, and padded as ids, segments and mask `[B, L]`."""
    draws = np.random.default_rng(0)
    lengths = draws.integers(1, longest + 1, rows)
    ids = torch.from_numpy(draws.integers(0, bert.config.vocab_size, lengths.sum()))
    segments = torch.from_numpy(draws.integers(0, 2, lengths.sum()))
    offsets = torch.from_numpy(np.cumsum([0, *lengths]))
    padded = (
        torch.nn.utils.rnn.pad_sequence(list(each.split(lengths.tolist())), batch_first=True)
        for each in (ids, segments, torch.ones_like(ids))
    )
    return Packed(ids, segments, offsets, int(lengths.max())), tuple(padded)  # type: ignore[return-value]


def gradients(setting: Setting) -> Findings:
    """The task gradients of the first step, with dropout, against float32 on the CPU."""
    bars = {"float32": (1e-4, 1e-4), "bf16": (0.1, 0.02)}
    expected = first_step(setting, "cpu", "float32")
    for precision, (of_rows, of_losses) in bars.items():
        found = first_step(setting, setting.device, precision)
        for name, tensor in expected.items():
            bar = of_losses if name == "losses" else of_rows
            what = f"{setting.small} in {precision}, first step against the CPU, {name}"
            yield Finding(f"{what}, relative error", error(found[name], tensor), bar)


def first_step(setting: Setting, device: str, precision: str) -> dict[str, Tensor]:
    """Losses and gradients of the first step of the demo, on the CPU."""
    options = {"precision": precision, "steps": 2, "device": device}
    trainer = Trainer(prepare(setting.recipe(setting.small, **options), setting.data))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    losses, tasks, gramian = trainer._fill(plan, trainer._batches(plan, plan.steps[0]), 0)
    own = trainer.gradients
    return {
        "losses": torch.tensor(losses),
        **{f"row of {task}": row.clone().cpu() for task, row in zip(tasks, own.rows, strict=True)},
        "word embeddings": own.word_rows.clone().cpu(),
        "heads": own.heads.clone().cpu(),
        "Gramian": gramian,
    }


# --- training -------------------------------------------------------------------------------------


@dataclass
class Trained:
    """What a training run told: the losses of each step, and the last dev scores."""

    losses: list[tuple[float, ...]]
    scores: dict[str, float]

    def __call__(self, event: Event) -> None:
        """Listen to the run."""
        if isinstance(event, StepDone):
            self.losses.append(tuple(loss for _, loss in event.losses))
        if isinstance(event, Evaluated):
            self.scores = {n: e.score.value or 0.0 for n, e in event.evaluations.items()}


def training(setting: Setting) -> Findings:
    """The demo's recipe for 200 steps, against the same on the CPU in float32."""
    steps = setting.size(200, 6)

    def run(device: str, precision: str) -> Trained:
        options = {"steps": steps, "device": device, "precision": precision}
        options |= {"evaluate_every": steps, "eval_train_rows": 0}
        found, out = Trained([], {}), setting.folder / "trained"
        train(setting.recipe(setting.small, **options), setting.data, out, on_event=found)
        shutil.rmtree(out)
        return found

    expected = run("cpu", "float32")
    for precision, bar in {"float32": 1e-3, "bf16": 0.05}.items():
        found = run(setting.device, precision)
        of = f"{setting.small} in {precision} against the CPU"
        first = [torch.tensor(each.losses[:5]).flatten() for each in (found, expected)]
        yield Finding(f"{of}, losses of the first 5 steps, relative error", error(*first), bar)
        last = [torch.tensor(each.losses[-50:]).mean() for each in (found, expected)]
        yield Finding(f"{of}, mean loss of the last 50 steps, relative error", error(*last), 0.05)
        for task, score in expected.scores.items():
            difference = abs(found.scores[task] - score)
            what = f"{of}, {steps} steps, dev score of {task}, here {found.scores[task]:.3f}"
            yield Finding(f"{what}, there {score:.3f}, difference", difference, 0.05)


def resume(setting: Setting) -> Findings:
    """A run that is stopped and resumed in a new process ends with the weights of a whole run."""
    steps = setting.size(30, 6)
    options = {"steps": steps, "precision": "bf16", "evaluate_every": steps}
    options |= {"eval_train_rows": 0, "checkpoint_every": steps // 3}
    recipe = setting.recipe(setting.small, **options)

    def masters(name: str, listen: Callable[[Event], None] = lambda event: None) -> Tensor:
        out = setting.folder / name
        try:
            train(recipe, setting.data, out, on_event=listen)
        except KeyboardInterrupt:
            command = [sys.executable, "-m", "comity", "train", "--resume", str(out), "--quiet"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        checkpoint, _ = RunDirectory(out).usable_checkpoint()
        return load_file(checkpoint / "state.safetensors")["masters"]

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == steps // 2:
            raise KeyboardInterrupt  # without a checkpoint, as if the process had been killed

    whole = masters("whole")
    again = float((masters("again") - whole).abs().max())
    yield Finding(
        f"{setting.small}, {steps} steps twice, largest difference of weights", again, 0.0
    )
    resumed = float((masters("stopped", stop) - whole).abs().max())
    what = f"{setting.small}, stopped and resumed, largest difference of weights"
    yield Finding(what, resumed, 10 * again)  # 0 where training is deterministic


# --- speed and memory -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """Examples per second of a trainer, its FLOP/s in dense layers, and its peak of memory."""

    examples: float
    flop: float = 0.0
    peak_mb: float = 0.0


def throughput(setting: Setting) -> Findings:
    """Examples per second against the Trainer of transformers, and the share of the product rate.

    bf16, dropout of the checkpoint, first steps not counted. The Trainer runs as documented and
    with rows grouped by length.
    """
    cases = [(shape, batch) for shape in setting.shapes for batch in (32, 128)]
    for shape, batch in cases[:1] if setting.quick else cases:
        config = setting.shapes[shape]
        sizes = {"width": config.hidden_size, "inner": config.intermediate_size}
        rate = product_rate(torch.bfloat16, 8192, 20, setting.device, **sizes)
        of = f"{shape}, bf16, batch {batch}"
        yield Finding(f"{of}, measured product rate, TFLOP/s", rate / 1e12)
        one = comity_speed(setting, shape, ["sentiment"], batch)
        three = comity_speed(setting, shape, TASKS, batch)
        for name, own in (("sentiment", one), ("three tasks, pcgrad", three)):
            yield Finding(f"{of}, Comity, {name}, examples/s", own.examples)
            yield Finding(f"{of}, Comity, {name}, share of the product rate", own.flop / rate)
            yield Finding(f"{of}, Comity, {name}, peak of memory, MB", own.peak_mb)
        for name, group in (("as documented", False), ("grouped by length", True)):
            peer = trainer_speed(setting, shape, batch, group)
            yield Finding(f"{of}, Trainer {name}, sentiment, examples/s", peer.examples)
            yield Finding(f"{of}, Trainer {name}, sentiment, peak of memory, MB", peer.peak_mb)
            ratio = one.examples / peer.examples
            yield Finding(f"{of}, sentiment, Comity / Trainer {name}", ratio, *_bar(setting))


def _bar(setting: Setting) -> tuple[float | None, bool]:
    """At least as fast as the Trainer; a tiny encoder on a CPU says nothing about it."""
    return (None if setting.quick else 1.0), True


def comity_speed(setting: Setting, shape: str, tasks: Sequence[str], batch: int) -> Speed:
    """The speed of our steps, without evaluation."""
    warm, steps = setting.size(10, 1), setting.size(50, 3)
    recipe = setting.recipe(shape, tasks, precision="bf16", batch_size=batch, steps=warm + steps)
    trainer = Trainer(prepare(recipe, setting.data))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    examples, tokens, started = 0, 0, 0.0
    _reset_peak(setting)
    for number, batches in enumerate(plan.steps):
        if number == warm:
            wait(setting.device)
            examples, tokens, started = 0, 0, time.perf_counter()
        done = trainer.step(plan, batches)
        trainer.progress.stage_step = trainer.progress.step = number + 1
        examples, tokens = examples + done.examples, tokens + done.tokens
    wait(setting.device)
    seconds = time.perf_counter() - started
    flop = training_flop(trainer.model.encoder, tokens, examples)
    return Speed(examples / seconds, flop / seconds, _peak_mb(setting))


def trainer_speed(setting: Setting, shape: str, batch: int, group: bool) -> Speed:
    """The speed of the Trainer of transformers on sentiment, in bf16."""
    import csv

    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = setting.encoder(shape)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with (setting.data / "sentiment-train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    encoded = tokenizer([row["text"] for row in rows])
    names = sorted({row["sentiment"] for row in rows})
    data = [
        {key: encoded[key][index] for key in encoded} | {"labels": names.index(row["sentiment"])}
        for index, row in enumerate(rows)
    ]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(names)
    )
    warm, steps = setting.size(10, 1), setting.size(50, 3)
    times = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step in (warm, warm + steps):
                wait(setting.device)
                times.append(time.perf_counter())

    options: dict[str, Any] = {
        "max_steps": warm + steps,
        "per_device_train_batch_size": batch,
        "bf16": True,
        "use_cpu": setting.device == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    if group:
        options["train_sampling_strategy"] = "group_by_length"
    arguments = transformers.TrainingArguments(str(setting.folder / "trainer"), **options)
    runner = transformers.Trainer(
        model,
        arguments,
        train_dataset=data,  # pyright: ignore[reportArgumentType]
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        callbacks=[Clock()],
    )
    runner.remove_callback(transformers.PrinterCallback)
    _reset_peak(setting)
    runner.train()
    return Speed(steps * batch / (times[1] - times[0]), peak_mb=_peak_mb(setting))


def _reset_peak(setting: Setting) -> None:
    gc.collect()  # models of earlier checks
    if setting.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_mb(setting: Setting) -> float:
    peak = torch.cuda.max_memory_allocated() if setting.device == "cuda" else memory()[1]
    return peak / 1e6


def memory_in_use(setting: Setting) -> Findings:
    """Memory does not grow from step to step, and is what the plan says."""
    steps = setting.size(60, 4)
    gc.collect()  # models of earlier checks
    before = setting.in_use()
    shape = list(setting.shapes)[-1]
    recipe = setting.recipe(shape, precision="bf16", batch_size=32, steps=steps)
    trainer = Trainer(prepare(recipe, setting.data))
    plan = trainer.plans[0]
    trainer.start_stage(plan)
    planned = trainer.plan().memory_bytes
    kept = sum(planned[name] for name in ("parameters", "task gradients", "optimizer"))
    if setting.device == "cuda":  # a process on a CPU has much else
        share = (setting.in_use() - before) / kept
        yield Finding(f"{shape}, weights, gradients and moments, used / planned", share, 1.05)
    used = []
    for number, batches in enumerate(plan.steps):
        trainer.step(plan, batches)
        trainer.progress.stage_step = trainer.progress.step = number + 1
        used.append(setting.in_use())
    growth = max(used[3 * steps // 4 :]) / max(used[: steps // 4 + 1])
    yield Finding(f"{shape}, three tasks, end / first quarter of {steps} steps", growth, 1.1)


Check = Callable[[Setting], Findings]

CHECKS: dict[str, tuple[Check, float]] = {
    "parity": (parity, 40.0),
    "gradients": (gradients, 30.0),
    "training": (training, 110.0),
    "resume": (resume, 50.0),
    "throughput": (throughput, 100.0),
    "memory": (memory_in_use, 30.0),
}
"""The checks, and the seconds that each may take."""
