"""What `comity check` reports about the data: rows, labels, lengths, and what is left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comity.data.labels import class_counts
from comity.data.notes import unknown_share
from comity.data.splits import MOST_LINES, Split, TaskData
from comity.data.summary import RunData, ScoreRange, SplitSummary, TaskSummary
from comity.data.token_cache import token_counts
from comity.format import plural
from comity.runs.facts import EncoderFacts
from comity.tables.locations import row_list
from comity.training.setup import Prepared, head_spec


@dataclass(frozen=True)
class DataSummary:
    """What `comity check` reports about a valid recipe."""

    encoder: EncoderFacts
    tasks: dict[str, TaskSummary]
    notes: list[str]
    leaks: list[str]

    @property
    def recorded(self) -> RunData:
        """What a run records of it."""
        return RunData(self.tasks, self.notes, self.leaks)


def data_summary(prepared: Prepared) -> DataSummary:
    """Count the rows, labels and tokens of every split."""
    return DataSummary(
        encoder=prepared.inputs().encoder,
        tasks={name: _task_summary(data, prepared) for name, data in prepared.tasks.items()},
        notes=[*prepared.notes, *_shared_files(prepared.tasks)],
        leaks=prepared.leaks,
    )


def _task_summary(data: TaskData, prepared: Prepared) -> TaskSummary:
    unknown = prepared.loaded.tokenizer.unk_id
    spec = head_spec(data, prepared.encoder)
    return TaskSummary(
        kind=data.task.kind,
        head=data.target.head_names,
        pooling=" + ".join(dict.fromkeys(spec.poolings)),
        views=list(data.task.views),
        metric=data.task.metric_name,
        classes=list(data.target.classes),
        max_length=data.max_length,
        train=_split_summary(data, data.train, unknown),
        dev=_split_summary(data, data.dev, unknown),
        stages={path: _split_summary(data, s, unknown) for path, s in data.stage_train.items()},
        unlabelled=None
        if data.unlabelled is None
        else _split_summary(data, data.unlabelled, unknown),
    )


def _split_summary(data: TaskData, split: Split, unknown: int) -> SplitSummary:
    lengths = token_counts(split.table, split.rows).sum(axis=1)
    kept = split.empty_lines
    empty = sorted((*kept[:MOST_LINES], *split.dropped_lines))[:MOST_LINES]
    counts = scores = None
    if split is data.unlabelled:
        pass  # there is nothing to count
    elif data.target.classes:
        found = class_counts(data.target, split.targets).tolist()
        counts = dict(zip(data.target.classes, found, strict=True))
    elif len(split):
        values = split.targets
        measured = (values.min(), values.mean(), values.max(), values.std())
        scores = ScoreRange(*map(float, measured))
    return SplitSummary(
        file=str(split.table.path),
        reading=split.table.reading,
        rows=len(split),
        unlabelled=split.unlabelled,
        ignored=split.ignored,
        empty=len(kept) + split.dropped,
        first_empty_line=min(empty, default=None),
        empty_lines=empty,
        zero_bytes=len(split.zero_byte_lines),
        unknown=unknown_share(data, split, unknown),
        dropped=split.dropped,
        truncated=split.cut(data.task.trained_views, data.max_length),
        leaked=split.leaked,
        token_percentiles=_percentiles(lengths),
        counts=counts,
        scores=scores,
        skipped=dict(split.skipped.counts),
    )


def _percentiles(lengths: np.ndarray) -> dict[str, int]:
    if not len(lengths):
        return {}
    found = np.percentile(lengths, (50, 95, 100), method="lower")
    return {name: int(v) for name, v in zip(("50", "95", "100"), found, strict=True)}


def _shared_files(tasks: Mapping[str, TaskData]) -> list[str]:
    """For each file that several tasks read: how many rows all of them use, and how many none."""
    by_path: dict[Path, list[TaskData]] = {}
    for data in tasks.values():
        by_path.setdefault(data.train.table.path, []).append(data)
    notes = []
    for path, sharing in by_path.items():
        if len(sharing) < 2:
            continue
        used = [_lines_used(data, path) for data in sharing]
        by_all = set.intersection(*used)
        unused = sorted(set(sharing[0].train.table.lines.tolist()) - set.union(*used))
        names = " and ".join(data.name for data in sharing)
        verb = "is" if len(by_all) == 1 else "are"
        by_none = "neither" if len(sharing) == 2 else "none of them"
        sentence = f"{path}: {plural(len(by_all), 'row')} {verb} used by {names}, "
        sentence += f"{len(unused):,} by {by_none}"
        if unused:
            sentence += f" (first: {row_list(sharing[0].train.table.path, unused[:1])})"
        notes.append(sentence)
    return notes


def _lines_used(data: TaskData, path: Path) -> set[int]:
    """The lines of a file that a task trains or evaluates on."""
    splits = [data.train, *([data.dev] if data.dev.table.path == path else [])]
    return {line for split in splits for line in split.table.lines[split.rows].tolist()}
