"""The counts of a run's data, as `comity check` reports and runs record them. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ScoreRange:
    """The gold scores of a split."""

    min: float
    mean: float
    max: float
    deviation: float  # standard deviation


@dataclass(frozen=True)
class SplitSummary:
    """One split of one task, counted."""

    file: str
    reading: Mapping[str, object]  # how the file was read: format, delimiter, encoding, ...
    rows: int
    unlabelled: int
    ignored: int  # rows left out because of `ignore_labels`
    empty: int  # rows with an empty text, kept or dropped
    first_empty_line: int | None
    empty_lines: list[int]  # the first 100 of them
    zero_bytes: int  # rows with a zero byte in a text
    unknown: float  # share of the tokens that are not in the vocabulary
    dropped: int
    truncated: int
    leaked: int
    token_percentiles: dict[str, int]  # "50", "95" and "100"; empty for a split without rows
    counts: dict[str, int] | None = None  # rows of each class
    scores: ScoreRange | None = None  # for tasks without classes
    skipped: dict[str, int] = field(default_factory=dict)  # rows that cannot be used, by reason


@dataclass(frozen=True)
class TaskSummary:
    """One task and its data."""

    kind: str
    head: str
    pooling: str
    views: list[str]
    metric: str
    classes: list[str]
    max_length: int
    train: SplitSummary
    dev: SplitSummary
    stages: dict[str, SplitSummary]  # by the stage's file
    unlabelled: SplitSummary | None = None

    @property
    def splits(self) -> dict[str, SplitSummary]:
        """Its splits, as in `comity.data.splits.TaskData.splits`."""
        more = {} if self.unlabelled is None else {"unlabelled": self.unlabelled}
        return {"train": self.train, "dev": self.dev, **more, **self.stages}


@dataclass(frozen=True)
class RunData:
    """The data of a run, counted: the contents of data.json."""

    tasks: dict[str, TaskSummary]
    notes: list[str]  # sentences about the data that the user should see
    leaks: list[str]  # one sentence per leak
