"""The tables that a recipe is made of: every key, its type, and what it means if left out."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from comity.tables.rows import TableFormat

Kind = Literal["classification", "multi-label", "regression", "similarity"]
HeadName = Literal["linear", "bins", "regression", "cosine"]
View = Literal["first", "second", "pair"]
Pooling = Literal["mean", "cls", "pooler"]
LossName = Literal["ranking", "contrastive", "cosent"]
BalancerName = Literal["sum", "mean", "pcgrad", "gradvac", "mgda", "imtl-g", "cagrad", "upgrad"]
TaskSamplingName = Literal["round-robin", "sequential", "proportional", "temperature", "annealed"]

DRAWN = ("proportional", "temperature", "annealed")
"""The schedules that weigh tasks by `sampling_weight`."""

METRICS_OF = {
    "classification": ("accuracy", "macro_f1"),
    "multi-label": ("micro_f1",),
    "regression": ("pearson", "spearman", "rmse"),
    "similarity": ("pearson", "spearman", "rmse"),
}
"""The metrics of each kind; the first judges unless the recipe names another."""

Column = str | int
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of the recipe: unknown keys and wrong types are errors, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def sets(self, key: str) -> bool:
        """Whether the user wrote this key."""
        return key in self.model_fields_set


class EncoderSection(Section):
    """Which encoder, and its dropout rates (those of its config unless set)."""

    name: str = "minilm"
    revision: str | None = None
    dropout: Share | None = None
    embedding_dropout: Share | None = None
    hidden_dropout: Share | None = None
    attention_dropout: Share | None = None

    def rates(self) -> dict[str, float | None]:
        """The three rates as the encoder takes them; `dropout` stands for those not set apart."""
        names = ("embedding_dropout", "hidden_dropout", "attention_dropout")
        return {n: self.dropout if getattr(self, n) is None else getattr(self, n) for n in names}


class ObjectiveSection(Section):
    """A loss beside the head's, on the embeddings of the two texts of a pair."""

    loss: LossName
    weight: Positive = 1.0
    cosine_scale: Positive = 20.0
    symmetric: bool = False
    positive_from: Annotated[float, Field(gt=0, le=1)] = 0.8
    denominator: Literal["norms", "printed"] = "norms"


class TaskSection(Section):
    """One task: its files and columns, its kind and head, and how it is trained."""

    kind: Kind
    train: str
    dev: str | Annotated[float, Field(gt=0, lt=1)]
    text: Column | None = None
    texts: tuple[Column, Column] | None = Field(default=None, strict=False)
    label: Column | None = None
    labels: Annotated[tuple[Column, ...], Field(min_length=2)] | None = Field(
        default=None, strict=False
    )
    # How the files are read; detected where not set.
    delimiter: str | None = None
    header: bool = True
    quoting: bool | None = None
    encoding: str | None = None
    decimal_mark: Literal[".", ","] = "."
    separator: Annotated[str, Field(min_length=1)] | None = None
    missing_labels: Literal["error", "skip"] = "error"
    empty_texts: Literal["keep", "drop", "error"] = "keep"
    # What is predicted, and how.
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        default=None, strict=False
    )
    scale: tuple[float, float] = Field(default=(0.0, 5.0), strict=False)
    head: HeadName | None = None
    rounding: Literal["nearest", "down"] = "nearest"
    view: View | None = None
    interaction: bool = False
    head_layers: Annotated[int, Field(ge=0, le=4)] = 0
    add_norm: bool = False
    pooling: Pooling = "mean"
    head_dropout: Share | None = None
    metric: Literal["accuracy", "macro_f1", "micro_f1", "pearson", "spearman", "rmse"] | None = None
    # How it is trained.
    eval_only: bool = False
    objectives: tuple[ObjectiveSection, ...] = Field(default=(), strict=False)
    batch_size: Count | None = None
    batch_tokens: Count | None = None
    micro_batches: Count = 1
    max_length: Annotated[int, Field(ge=4)] | None = None
    head_lr: Positive | None = None
    loss_weight: Positive = 1.0
    sampling_weight: Positive = 1.0
    class_weights: Literal["balanced"] | dict[str, Positive] | None = None

    @property
    def table_format(self) -> TableFormat:
        """How the task's files are read."""
        return TableFormat(self.delimiter, self.header, self.quoting, self.encoding)

    @property
    def text_columns(self) -> tuple[Column, ...]:
        """The text columns, one or two."""
        return self.texts if self.texts is not None else (self.text,)  # type: ignore[return-value]

    @property
    def label_columns(self) -> tuple[Column, ...]:
        """The label columns: one, or several indicator columns of a multi-label task."""
        return self.labels if self.labels is not None else (self.label,)  # type: ignore[return-value]

    @property
    def head_name(self) -> HeadName:
        """The head that serves the kind unless another is named: the paper's (section 3.3)."""
        if self.head is not None:
            return self.head
        return {"similarity": "bins", "regression": "regression"}.get(self.kind, "linear")  # type: ignore[return-value]

    @property
    def apart(self) -> bool:
        """Whether the head reads the two texts of a pair apart."""
        return self.head_name == "cosine" or self.interaction

    @property
    def views(self) -> tuple[View, ...]:
        """The readings that the head takes: two texts apart, or one sequence."""
        if self.apart:
            return ("first", "second")
        if self.view is not None:
            return (self.view,)
        return ("pair",) if self.texts is not None else ("first",)

    @property
    def embeds(self) -> bool:
        """Whether training the task shapes the embedding of a text alone."""
        return self.apart or bool(self.objectives)

    @property
    def trained_views(self) -> tuple[View, ...]:
        """The readings that training takes: the head's, and both texts apart for objectives."""
        if self.objectives and not self.apart:
            return (*self.views, "first", "second")
        return self.views

    @property
    def metric_name(self) -> str:
        """The metric that the task is judged by."""
        return self.metric or METRICS_OF[self.kind][0]


class StageKeys(Section):
    """The keys that a stage may set for itself; `[train]` holds them for all stages."""

    task_sampling: TaskSamplingName = "round-robin"
    batches_per_step: Count = 1
    sampling_temperature: Positive = 2.0
    balancer: BalancerName = "sum"
    epochs: Positive | None = None
    steps: Count | None = None
    epoch_ends: Literal["examples", "longest"] = "examples"
    lr: Positive = 5e-5
    warmup: NotNegative = 0.1
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    lr_layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    freeze: Literal["nothing", "embeddings", "encoder"] | Annotated[int, Field(ge=1)] = "nothing"


class TrainSection(StageKeys):
    """What holds for the whole run, and what every stage starts from."""

    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    device: str = "auto"
    batch_size: Count = 32
    batch_tokens: Count | None = None
    group_by_length: bool = True
    max_length: Annotated[int, Field(ge=4)] | None = None
    head_lr: Positive | None = None
    loss_weighting: Literal["fixed", "uncertainty"] = "fixed"
    weight_decay: NotNegative = 0.01
    betas: tuple[Share, Share] = Field(default=(0.9, 0.999), strict=False)
    eps: Positive = 1e-6
    max_grad_norm: NotNegative = 1.0
    conflict_every: Annotated[int, Field(ge=0)] = 100
    evaluate_every: Count | Literal["epoch"] = "epoch"
    eval_train_rows: Annotated[int, Field(ge=0)] = 500
    select_by: str = "mean"
    patience: Annotated[int, Field(ge=0)] = 0


class StageFile(Section):
    """The rows that a stage trains a task on instead of the task's own.

    What it leaves out is as the task has it; `label_map` sends the file's labels to the task's.
    """

    file: str
    text: Column | None = None
    texts: tuple[Column, Column] | None = Field(default=None, strict=False)
    label: Column | None = None
    label_map: dict[str, str | int | float] = Field(default_factory=dict)

    def read_as(self, task: TaskSection) -> TaskSection:
        """The task with the columns of this file."""
        own = {key: getattr(self, key) for key in ("text", "texts", "label") if self.sets(key)}
        return task.model_copy(update=own)


def _as_table(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


StageData = dict[str, Annotated[StageFile, BeforeValidator(_as_table)]]


class StageSection(StageKeys):
    """A span of training. What it leaves out it takes from `[train]`."""

    name: str | None = None
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None, strict=False
    )
    train_on: Literal["labels", "masked-words"] = "labels"
    data: StageData = Field(default_factory=dict)
    keep_optimizer_state: bool = False


class Stage(StageKeys):
    """A stage with everything resolved: its own keys, then those of `[train]`, then defaults."""

    name: str
    tasks: tuple[str, ...]
    train_on: Literal["labels", "masked-words"] = "labels"
    data: StageData = Field(default_factory=dict)
    keep_optimizer_state: bool = False
