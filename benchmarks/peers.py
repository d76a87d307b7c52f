"""Scores of three models that transformers' Trainer fine-tunes, one for each task of the course.

    python benchmarks/peers.py --data DIR [--seeds 3] [TASK ...]
    python benchmarks/peers.py --table RUN [RUN ...]

The first command trains what is missing: MiniLM, with the settings of the Trainer's documentation
but for those below. Of each epoch's model, the one with the best score on dev is kept, as Comity
does. docs/scores/peers keeps the predictions on dev. The second command compares runs of one recipe
of Comity, which differ in the seed, with the three models.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from train import OUTPUTS, TASKS, encoded_rows

from comity import hardware
from comity.evaluation.bootstrap import resampled
from comity.evaluation.metrics import METRICS
from comity.evaluation.predictions import kept_predictions
from comity.evaluation.seeds import Group, difference, holm, mean_over_seeds
from comity.format import markdown_table
from comity.model.checkpoint import find_checkpoint
from comity.runs.directory import RunDirectory

KEPT = Path(__file__).parents[1] / "docs" / "scores" / "peers"
EPOCHS = {"sentiment": 3, "paraphrase": 3, "similarity": 4}
METRIC = {"sentiment": "accuracy", "paraphrase": "accuracy", "similarity": "pearson"}


def train(data: Path, task: str, seed: int) -> dict[str, Any]:
    """Fine-tune MiniLM on one task; returns the predictions on dev of its best epoch."""
    import transformers

    folder = find_checkpoint("minilm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dev = encoded_rows(data, task, "dev", tokenizer)
    gold = np.array([row["labels"] for row in dev])
    kept: dict[str, Any] = {"score": -1.0}

    class Keep(transformers.TrainerCallback):
        def on_epoch_end(self, *arguments: Any, **values: Any) -> None:
            outputs = np.asarray(trainer.predict(dev).predictions)  # pyright: ignore[reportArgumentType]
            found = outputs[:, 0] if task == "similarity" else outputs.argmax(axis=1)
            score = METRICS[METRIC[task]](gold, found).value
            if score is not None and score > kept["score"]:
                epoch = round(trainer.state.epoch or 0)
                kept.update(score=score, epoch=epoch, predictions=found.tolist())

    transformers.set_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=OUTPUTS[task]
    )
    with tempfile.TemporaryDirectory() as out:
        settings = transformers.TrainingArguments(
            output_dir=out,
            seed=seed,
            num_train_epochs=EPOCHS[task],
            learning_rate=5e-5,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            bf16=hardware.fast_bf16(hardware.choose_device("cpu")),
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            model,
            settings,
            train_dataset=encoded_rows(data, task, "train", tokenizer),  # pyright: ignore[reportArgumentType]
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            callbacks=[Keep()],
        )
        trainer.train()
    return kept


def groups_of(task: str, runs: Sequence[Path]) -> list[Group]:
    """The scores of the three models and of the runs on one task, on the same resamples."""
    found = [kept_predictions(RunDirectory.open(run), task) for run in runs]
    files = sorted(KEPT.glob(f"{task}-seed*.json"))
    peers = [np.array(json.loads(file.read_text())["predictions"]) for file in files]
    kind = float if task == "similarity" else int
    every = [*peers, *(np.asarray(one.predicted).astype(kind) for one in found)]
    gold = np.asarray(found[0].gold).astype(kind)
    scores = np.array([METRICS[METRIC[task]](gold, one).value for one in every])
    draws = resampled(METRIC[task], gold, every, task)
    cut = len(peers)
    return [Group(scores[:cut], draws[:cut]), Group(scores[cut:], draws[cut:])]


def table(runs: Sequence[Path]) -> list[str]:
    """Mean scores over the seeds, and the differences; 95% intervals over seeds and rows."""
    pairs = [groups_of(task, runs) for task in TASKS]
    means = [
        Group(*(np.mean(values, axis=0) for values in zip(*sides, strict=True)))
        for sides in ([(p[side].scores, p[side].resampled) for p in pairs] for side in (0, 1))
    ]
    rows = [["three models (Trainer)"], ["one model (Comity)"], ["difference"]]
    p_values = []
    for pair in (*pairs, means):
        estimates = [mean_over_seeds(pair, 0), mean_over_seeds(pair, 1), difference(pair, 0, 1)]
        for row, estimate, sign in zip(rows, estimates, ("", "", "+"), strict=True):
            assert estimate is not None
            value, low, high = estimate.value, estimate.interval.low, estimate.interval.high
            row.append(f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})")
        p_values.append(estimates[2].p if estimates[2] else None)
    known = [p for p in p_values if p is not None]
    if len(known) == len(p_values):
        rows.append(["p (Holm)", *(f"{p:.3f}" for p in holm(known))])
    return markdown_table(["", *TASKS, "mean"], rows, "l" + "r" * (len(TASKS) + 1))


def main() -> None:
    """Train what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the data files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(options.table)))
        return
    if options.data is None:
        parser.error("--data is missing; or compare runs with --table")
    KEPT.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        for task in options.tasks or TASKS:
            file = KEPT / f"{task}-seed{seed}.json"
            if not file.exists():
                kept = train(options.data, task, seed)
                file.write_text(json.dumps(kept) + "\n")
                print(f"{file.name}: {kept['score']:.3f} after epoch {kept['epoch']}")


if __name__ == "__main__":
    main()
