"""What trackers are sent: names and numbers, made from the entries of metrics.jsonl."""

import itertools
from collections.abc import Mapping

from comity.runs.entries import (
    BestModel,
    ConflictEntry,
    Entry,
    EvaluationEntry,
    RecordedEvaluation,
    TrainEntry,
)

Values = dict[str, float]


def values_of(entry: Entry) -> Values:
    """The values of an entry by name; nothing for entries that trackers do not show."""
    match entry:
        case TrainEntry():
            found = _training(entry)
        case ConflictEntry():
            found = _conflict(entry)
        case EvaluationEntry():
            found = {
                "dev/mean": entry.mean,
                **_scores("dev", entry.tasks),
                **_scores("train_sample", entry.train),
            }
        case _:
            found = {}
    return _known(found)


def kept_values(best: BestModel) -> Values:
    """The step and the dev scores of the kept model, for the end of a run."""
    scores = {f"kept/{score.metric}/{task}": score.value for task, score in best.tasks.items()}
    mean = {"kept/mean": best.score.value} if best.by == "mean" else {}
    return _known({"kept/step": best.step, **mean, **scores})


def _training(entry: TrainEntry) -> dict[str, float | None]:
    return {
        **{f"train/loss/{task}": loss for task, loss in entry.loss.items()},
        "train/lr": entry.lr,
        "train/gradient_norm": entry.gradient_norm,
        "train/skipped_steps": entry.skipped,
        "train/examples_per_second": entry.examples_per_second,
        "train/tokens_per_second": entry.tokens_per_second,
    }


def _conflict(entry: ConflictEntry) -> dict[str, float | None]:
    kind = "probe_cosine" if entry.steps is None else "cosine"
    pairs = itertools.combinations(range(len(entry.tasks)), 2)
    reliability = zip(entry.tasks, entry.reliability or [], strict=entry.reliability is not None)
    return {
        **{
            f"conflict/{kind}/{entry.tasks[i]}/{entry.tasks[j]}": entry.cosines[i][j]
            for i, j in pairs
        },
        **{f"conflict/reliability/{task}": value for task, value in reliability},
    }


def _scores(rows: str, tasks: Mapping[str, RecordedEvaluation]) -> dict[str, float | None]:
    """The loss and all metrics of each task on some rows."""
    return {
        f"{rows}/{name}/{task}": value
        for task, found in tasks.items()
        for name, value in {"loss": found.loss, found.metric: found.value, **found.others}.items()
    }


def _known(values: Mapping[str, float | None]) -> Values:
    return {name: value for name, value in values.items() if value is not None}
