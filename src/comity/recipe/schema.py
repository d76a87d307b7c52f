"""The keys of a recipe, table by table: type, default and description of each."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from comity.tables.rows import TableFormat

Kind = Literal["classification", "multi-label", "regression", "similarity"]
HeadName = Literal["linear", "bins", "regression", "cosine"]
View = Literal["first", "second", "pair"]
ViewChoice = Literal[View, "both"]
Pooling = Literal["mean", "cls", "cls+mean", "pooler"]
LossName = Literal["ranking", "contrastive", "cosent"]
HeadLoss = Literal["cross-entropy", "one-vs-all"]
BalancerName = Literal["sum", "mean", "pcgrad", "gradvac", "mgda", "imtl-g", "cagrad", "upgrad"]
TaskSamplingName = Literal["round-robin", "sequential", "proportional", "temperature", "annealed"]
AverageName = Literal["none", "ema", "last-evaluations"]
TrackerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]
MetricName = Literal[
    "accuracy", "macro_f1", "balanced_accuracy", "mcc", "micro_f1",
    "pearson", "spearman", "rmse", "mae",
]  # fmt: skip

TASK_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""The pattern of a task's name, which becomes a file name."""

MOST_LAYERS = 4
"""Dense layers in a head before its output layer."""

MOST_LEVELS = 10_000
"""Whole numbers in the scale of the bins head, which has an output for each."""

LR_OF_HEADS = 1e-2
"""The default learning rate where only heads are trained. The encoder's would leave a linear head
far from its optimum: it starts at 0 and reads values of about 0.2."""

DRAWN = ("proportional", "temperature", "annealed")
"""The task samplings that use `sampling_weight`."""

HEADS_OF: dict[str, tuple[HeadName, ...]] = {
    "classification": ("linear",),
    "multi-label": ("linear",),
    "regression": ("regression",),
    "similarity": ("bins", "regression", "cosine"),
}
"""The heads of each kind; the first is the default (the paper, section 3.3)."""

METRICS_OF: dict[str, tuple[MetricName, ...]] = {
    "classification": ("accuracy", "macro_f1", "balanced_accuracy", "mcc"),
    "multi-label": ("micro_f1",),
    "regression": ("pearson", "spearman", "rmse", "mae"),
    "similarity": ("pearson", "spearman", "rmse", "mae"),
}
"""The metrics of each kind; the first is the default."""

NOT_AVERAGED: tuple[MetricName, ...] = ("rmse", "mae")
"""Metrics in the unit of the labels. They have no common scale, so the mean excludes them."""

Column = str | int


def _only_a_list(value: Any) -> Any:
    """The value, if it is a list: a table in memory would give the names of its columns."""
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("tuple_type", "expected a list")
    return value


File = (
    str
    | Annotated[tuple[str, ...], Field(min_length=1, strict=False), BeforeValidator(_only_a_list)]
)
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Mix = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Minutes = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)? min$")]


def default_is(text: str) -> JsonDict:
    """Extra schema data: what applies where the key is not set, for the reference page."""
    return {"default_text": text}


class Section(BaseModel):
    """A table of the recipe. Unknown keys and wrong types are errors; nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def sets(self, key: str) -> bool:
        """Whether the user set this key."""
        return key in self.model_fields_set


class EncoderSection(Section):
    """The encoder and its dropout."""

    name: str = Field(
        default="minilm",
        description="`minilm`, a folder with a BERT checkpoint, or a hub id such as "
        "`bert-base-uncased`. A relative folder is looked for next to the recipe first, then in "
        "the working directory.",
    )
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit of a hub id.",
        json_schema_extra=default_is("the hub's main branch"),
    )
    lower_case: bool | None = Field(
        default=None,
        description="Whether the tokenizer lower-cases texts; BERT's tokenizer then also removes "
        "accents, unless the checkpoint sets `strip_accents`.",
        json_schema_extra=default_is("the checkpoint's, or `true` where it does not say"),
    )
    dropout: Share | None = Field(
        default=None,
        description="Dropout probability for the embeddings, the hidden states and the attention "
        "weights. Each of the three keys below overrides it for its part.",
        json_schema_extra=default_is("the checkpoint's"),
    )
    embedding_dropout: Share | None = Field(
        default=None,
        description="Dropout probability after the embeddings.",
        json_schema_extra=default_is("`dropout`"),
    )
    hidden_dropout: Share | None = Field(
        default=None,
        description="Dropout probability after the attention output and the feed-forward output "
        "of each layer.",
        json_schema_extra=default_is("`dropout`"),
    )
    attention_dropout: Share | None = Field(
        default=None,
        description="Dropout probability of the attention weights.",
        json_schema_extra=default_is("`dropout`"),
    )

    def rates(self) -> dict[str, float | None]:
        """The three dropout probabilities; None means the checkpoint's."""
        names = ("embedding_dropout", "hidden_dropout", "attention_dropout")
        return {n: self.dropout if getattr(self, n) is None else getattr(self, n) for n in names}


class ObjectiveSection(Section):
    """A loss on the embeddings of the two texts of a pair, added to the head's loss."""

    loss: LossName = Field(
        description="Loss function. `ranking`: multiple negatives ranking (Henderson et al. 2017). "
        "`contrastive`: the paper's own variant. `cosent`: CoSENT (Su 2022).",
    )
    weight: Positive = Field(
        default=1.0,
        description="Factor on this loss. The head's loss has a factor of 1.",
    )
    cosine_scale: Positive = Field(
        default=20.0,
        description="Factor on the cosines in `ranking` and `cosent`.",
    )
    symmetric: bool = Field(
        default=False,
        description="Whether `ranking` runs in both directions: the mean of the loss from first to "
        "second text and the loss from second to first.",
    )
    positive_from: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8,
        description="For `ranking` on a similarity task: a pair counts as positive from this share "
        "of the scale up.",
    )
    denominator: Literal["norms", "printed"] = Field(
        default="norms",
        description="For `contrastive`: `norms` divides by the two norms, which gives the cosine; "
        "`printed` divides by the expression printed in the paper.",
    )


class ConsistencySection(Section):
    """A loss on the difference between two dropout draws of the same rows."""

    kind: Literal["r-drop"] = Field(
        description="How two draws are compared. `r-drop`: each row is encoded twice in a step, "
        "with two dropout draws. The head's loss is the mean of both, and the divergence between "
        "the two predictions is added to it (Liang et al. 2021). With a frozen encoder, only the "
        "dropout of the head is drawn twice.",
    )
    weight: Positive = Field(
        default=1.0,
        description="Factor on the divergence. Liang et al. add up the losses of the two draws "
        "where we take their mean, so their alpha is twice this factor.",
    )


class TaskSection(Section):
    """One task: its files and columns, its head, and how it is trained."""

    kind: Kind = Field(description="What the task predicts.")
    train: File = Field(
        description="Training file: CSV, TSV, JSON Lines or Parquet; the extension sets the "
        "format. Or several files: a pattern such as `train-*.parquet`, or a list of files and "
        "patterns. Or a data set of the Hugging Face hub: `hf://OWNER/NAME:SPLIT`.",
    )
    dev: File | Annotated[float, Field(gt=0, lt=1)] = Field(
        description="File of the dev set (or several, or a data set, as for `train`), or a number: "
        "0.1 holds out that share of the training rows, see `split`.",
    )
    split: Literal["groups", "rows"] = Field(
        default="groups",
        description="What stays together if `dev` is a number. `groups`: rows that have a text in "
        "common stay on the same side of the split. `rows`: each row is drawn by itself, so dev "
        "rows may share texts with training rows; `check` reports how many do.",
    )
    text: Column | None = Field(
        default=None,
        description="Text column of a task with one text: its name, or with `header = false` its "
        "index, counted from 0. A nested JSON key is written with dots.",
        json_schema_extra=default_is("required, unless `texts` is set"),
    )
    texts: tuple[Column, Column] | None = Field(
        default=None,
        strict=False,
        description="The two text columns of a task on pairs of texts.",
        json_schema_extra=default_is("required, unless `text` is set"),
    )
    label: Column | None = Field(
        default=None,
        description="Label column: its name or index, as for `text`.",
        json_schema_extra=default_is("required, unless `labels` is set"),
    )
    labels: Annotated[tuple[Column, ...], Field(min_length=2)] | None = Field(
        default=None,
        strict=False,
        description="Indicator columns of a multi-label task, one per class.",
        json_schema_extra=default_is("required, unless `label` is set"),
    )
    # How text files are read.
    delimiter: str | None = Field(
        default=None,
        description="Character between two columns of a CSV or TSV file; a tab may be written "
        "`tab`. If it is not set, a first line such as `sep=;` sets it, as in Excel. That line is "
        "never a row.",
        json_schema_extra=default_is("detected"),
    )
    header: bool = Field(
        default=True,
        description="Whether the first line of a CSV or TSV file names the columns. If false, "
        "columns are given by their index, counted from 0.",
    )
    quoting: bool | None = Field(
        default=None,
        description="Whether values in a CSV or TSV file may be quoted. If false, quote characters "
        "are ordinary text.",
        json_schema_extra=default_is("detected"),
    )
    encoding: str | None = Field(
        default=None,
        description="Character encoding of a text file, such as `utf-8` or `cp1252`.",
        json_schema_extra=default_is("detected"),
    )
    decimal_mark: Literal[".", ","] = Field(
        default=".",
        description="Decimal mark of the scores of a similarity or regression task that are texts. "
        "Numbers of JSON Lines, Parquet and DataFrames are read as they are.",
    )
    separator: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Text between two labels in one cell of a multi-label task.",
        json_schema_extra=default_is("not set"),
    )
    missing_labels: Literal["error", "skip"] = Field(
        default="error",
        description="What to do with a row that has no label. `error`: report it as an error. "
        "`skip`: leave the row out and report how many there are.",
    )
    ignore_labels: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description='Labels that mark a missing label, such as `["-1", "n/a"]`: rows with one '
        "of them are left out, and `check` reports how many there are. Numbers match by value, "
        "other labels in any case.",
        json_schema_extra=default_is("none"),
    )
    match_labels: Literal["auto", "loose"] = Field(
        default="auto",
        description="Which labels are the same class. `auto`: whole numbers with the same value "
        "(`1` and `1.0`), true and false in any case, and otherwise labels that are written the "
        "same, except for spaces at the ends. `loose`: all labels that differ only in case, "
        "spaces, Unicode form or, for numbers, in zeros; the most frequent spelling names the "
        "class.",
    )
    bad_rows: Literal["error", "skip"] | None = Field(
        default=None,
        description="As `train.bad_rows`, for the files of this task.",
        json_schema_extra=default_is("`train.bad_rows`"),
    )
    empty_texts: Literal["keep", "drop", "error"] = Field(
        default="keep",
        description="What to do with a row that has a text without any visible character. `keep` "
        "or `drop`: keep the row or leave it out, and report how many there are. `error`: report "
        "it as an error.",
    )
    # What is predicted, and how.
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        default=None,
        strict=False,
        description="The classes, in order, instead of those found in the training file. If there "
        "are two, the last is the positive one. Listed classes are kept apart as they are written, "
        "and `check` does not ask whether they are meant.",
        json_schema_extra=default_is("found in the training file"),
    )
    scale: tuple[Finite, Finite] = Field(
        default=(0.0, 5.0),
        strict=False,
        description="Lowest and highest score of a similarity task.",
    )
    head: HeadName | None = Field(
        default=None,
        description="How the task predicts; only similarity has a choice. `bins`: softmax over the "
        "whole numbers of the scale; the prediction is the expected score (the paper, section "
        "3.3). `regression`: one number. `cosine`: the cosine of the two texts' embeddings.",
        json_schema_extra=default_is("`bins` for similarity, else the only head of the kind"),
    )
    rounding: Literal["nearest", "down"] = Field(
        default="nearest",
        description="How the `bins` head rounds scores in training. `down` rounds 2.6 to 2.",
    )
    loss: HeadLoss = Field(
        default="cross-entropy",
        description="Loss of a classification with three or more classes. `cross-entropy`: of a "
        "softmax over the classes. `one-vs-all`: a sigmoid for each class and the sum of their "
        "binary cross-entropies (Lin & Le 2024); the probabilities are the sigmoids, divided by "
        "their sum.",
    )
    view: ViewChoice | None = Field(
        default=None,
        description="What the head reads: the `first` or `second` text alone, or the `pair` in "
        "one sequence. `both` trains two heads: one reads the pair, a second one the two texts, "
        "encoded separately (the cross-encoder and the bi-encoder of Reimers & Gurevych 2019). "
        "Their losses are summed, and `mix` averages their predictions. The second head is "
        "`cosine` for similarity, an interaction head for classification and regression.",
        json_schema_extra=default_is("`pair` for two texts, else `first`"),
    )
    mix: Mix | Literal["dev"] = Field(
        default=0.5,
        description='With `view = "both"`: the share of the head on the pair in a prediction, from '
        "0 to 1. The rest is the share of the second head. Probabilities of classes are averaged, "
        "or scores, each clipped to the scale. `dev` fits the share for the kept model: that of "
        "0, 0.05, ..., 1 with the best metric on the dev rows, or 0.5 where another share does not "
        "help rows that it was not fitted on. Until then it is 0.5.",
    )
    interaction: bool = Field(
        default=False,
        description="Whether the head reads u, v, abs(u - v) and u * v, where u and v are the "
        'embeddings of the two texts, encoded separately. With `view = "both"` on a similarity '
        "task, the second head is such a head in place of `cosine`.",
    )
    head_layers: Annotated[int, Field(ge=0, le=MOST_LAYERS)] = Field(
        default=0,
        description="Number of dense layers in the head before its output layer. With "
        '`view = "both"`, this and the other keys of the head are for both heads.',
    )
    add_norm: bool = Field(
        default=False,
        description="Whether each of the `head_layers` has a residual connection and LayerNorm, as "
        "in the encoder.",
    )
    pooling: Pooling | None = Field(
        default=None,
        description="How what the head reads becomes one vector: the `mean` of all tokens, `cls` "
        "([CLS] alone), both of them concatenated (`cls+mean`), or the output of the `pooler`. An "
        "encoder from sentence-transformers, such as `minilm`, never trained its pooler. Without "
        "`mean`, the last layer computes [CLS] alone, which is faster.",
        json_schema_extra=default_is(
            "`mean` for `minilm`; what a sentence-transformers folder declares; for any other "
            "encoder `pooler`, or `mean` for texts encoded separately and for a checkpoint without "
            "a pooler"
        ),
    )
    embedding_pooling: Pooling | None = Field(
        default=None,
        description="How two texts that are encoded separately become vectors, where a head reads "
        'the pair: for objectives, and for the second head of `view = "both"`.',
        json_schema_extra=default_is("`pooling` where it is set, else as for `pooling`"),
    )
    head_dropout: Share | None = Field(
        default=None,
        description="Dropout probability of the head.",
        json_schema_extra=default_is("the encoder's hidden dropout"),
    )
    metric: MetricName | None = Field(
        default=None,
        description="Metric of the task. Classification: `accuracy`, `macro_f1`, "
        "`balanced_accuracy` (mean recall of the classes), `mcc` (Matthews' correlation). "
        "Multi-label: `micro_f1`. Regression and similarity: `pearson`, `spearman`, `rmse`, `mae`.",
        json_schema_extra=default_is("the first one listed"),
    )
    # How it is trained.
    eval_only: bool = Field(
        default=False,
        description="Evaluate the task without training it. Its randomly initialised head is "
        "evaluated on dev like the others, but its score does not count in the mean that selects "
        "the kept model.",
    )
    objectives: tuple[ObjectiveSection, ...] = Field(
        default=(),
        strict=False,
        description="Losses on embeddings, added to the head's loss; see below.",
        json_schema_extra=default_is("none"),
    )
    consistency: ConsistencySection | None = Field(
        default=None,
        description="A loss on the difference between two dropout draws of the same rows, added "
        "to the head's loss; see below. A step encodes twice as many tokens of this task.",
        json_schema_extra=default_is("none"),
    )
    teacher: str | Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = Field(
        default=None,
        description="A trained model that this task also learns from, or a list of several, whose "
        "predictions are averaged. Each is a run directory, of any encoder, with a task of the "
        "same name and classes, or a file of soft labels from `comity baseline --folds`; see [One "
        "model from several](distil.md). A relative path is looked for where relative paths of "
        "data files start, then in the working directory.",
        json_schema_extra=default_is("none"),
    )
    teacher_weight: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5,
        description="Share of the teacher's loss in the head's loss; the loss on labels has the "
        "rest. A row that no teacher labels is trained on its label alone.",
    )
    teacher_temperature: Positive = Field(
        default=1.0,
        description="What the logits of teacher and student are divided by in the teacher's loss. "
        "The loss is multiplied by its square (Hinton et al. 2015). Above 1, the probabilities of "
        "unlikely classes count more.",
    )
    teacher_anneal: bool = Field(
        default=False,
        description="Whether the share of the teacher's loss falls linearly over each stage, from "
        "1 at its first step to 0 at its end, instead of being `teacher_weight`. This is teacher "
        "annealing (Clark et al. 2019).",
    )
    unlabelled: File | None = Field(
        default=None,
        description="File (or files, as for `train`) of more training rows, which only the "
        "teacher labels; it has the task's text columns, and labels in it are not read. An epoch "
        "counts these rows. Stages that train the task on a file of their own leave them out. See "
        "[Rows without labels](distil.md#rows-without-labels).",
        json_schema_extra=default_is("none"),
    )
    batch_size: Count | None = Field(
        default=None,
        description="Rows in a batch of this task.",
        json_schema_extra=default_is("`train.batch_size`"),
    )
    batch_tokens: Count | None = Field(
        default=None,
        description="Token budget of a batch of this task, instead of `batch_size`. With "
        "`consistency`, both draws of a row count.",
        json_schema_extra=default_is("`train.batch_tokens`"),
    )
    micro_batches: Count = Field(
        default=1,
        description="Number of parts that a batch is split into, each with its own backward pass, "
        "to save memory. The gradient is the same, except for objectives and masked words, which "
        "are computed within each part.",
    )
    max_length: Annotated[int, Field(ge=4)] | None = Field(
        default=None,
        description="Maximum sequence length of this task in tokens, special tokens included.",
        json_schema_extra=default_is("`train.max_length`"),
    )
    head_lr: Positive | None = Field(
        default=None,
        description="Peak learning rate of this task's head.",
        json_schema_extra=default_is("`train.head_lr`"),
    )
    loss_weight: Positive = Field(
        default=1.0,
        description="Factor on the task's loss, before the balancer.",
    )
    sampling_weight: Positive = Field(
        default=1.0,
        description="Factor on the probability of drawing a batch of this task, in `proportional`, "
        "`temperature` and `annealed` sampling.",
    )
    class_weights: Literal["balanced"] | dict[str, Positive] | None = Field(
        default=None,
        description="`balanced` (inverse class frequency), or a table from class to weight. The "
        "loss is still a mean over rows.",
        json_schema_extra=default_is("equal weights"),
    )

    calibrate: bool = Field(
        default=False,
        description="Whether to calibrate the kept model on the dev rows. Classification and "
        "multi-label get a temperature that divides the logits (Guo et al. 2017). Two classes and "
        "multi-label also get the threshold with the best metric: the probability above which a "
        "class or label is predicted (one for all labels). Either is left out where it does not "
        "help rows that it was not fitted on. The weights are the same.",
    )

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
        """The head: as set, else the default of the kind."""
        return self.head or HEADS_OF[self.kind][0]

    @property
    def both(self) -> bool:
        """Whether one head reads the pair and a second one its two texts."""
        return self.view == "both"

    @property
    def trained_mix(self) -> float:
        """The share of the first head until one is fitted on dev."""
        return 0.5 if self.mix == "dev" else self.mix

    @property
    def text_head(self) -> HeadName | None:
        """The second head of the view "both": `cosine`, or a head of the kind with interaction."""
        if not self.both:
            return None
        cosine = self.kind == "similarity" and not self.interaction
        return "cosine" if cosine else self.head_name

    @property
    def apart(self) -> bool:
        """Whether the only head reads the two texts of a pair as separate embeddings."""
        return not self.both and (self.head_name == "cosine" or self.interaction)

    @property
    def views(self) -> tuple[View, ...]:
        """The views that the heads read."""
        if self.apart:
            return ("first", "second")
        if self.view == "both":
            return ("pair", "first", "second")
        if self.view is not None:
            return (self.view,)
        return ("pair",) if self.texts is not None else ("first",)

    @property
    def embeds(self) -> bool:
        """Whether training the task shapes the embedding of a single text."""
        return self.apart or self.both or bool(self.objectives)

    @property
    def trained_views(self) -> tuple[View, ...]:
        """The views that training encodes: the heads', and for objectives both texts alone."""
        if self.objectives and not (self.apart or self.both):
            return (*self.views, "first", "second")
        return self.views

    @property
    def masked_views(self) -> tuple[View, ...]:
        """The views that a stage on masked words encodes: those of the first head."""
        return self.views[:1] if self.both else self.views

    @property
    def draws(self) -> int:
        """The dropout draws that a step of training encodes of each row."""
        return 1 if self.consistency is None else 2

    @property
    def teachers(self) -> tuple[str, ...]:
        """The paths of the teachers, as in the recipe."""
        if isinstance(self.teacher, str):
            return (self.teacher,)
        return self.teacher or ()

    @property
    def metric_name(self) -> MetricName:
        """The metric: as set, else the default of the kind."""
        return self.metric or METRICS_OF[self.kind][0]


class StageKeys(Section):
    """The keys that `[train]` sets for all stages and a stage sets for itself."""

    task_sampling: TaskSamplingName = Field(
        default="round-robin",
        description="Which tasks contribute a batch to a step. `round-robin`: every task, one "
        "batch each. `sequential`: each epoch runs every batch of each task, in recipe order, as "
        "in the paper; if the last epoch is a fraction, each task runs that fraction. "
        "`proportional`: each epoch runs every batch of every task in random order; with sampling "
        "weights, batches are drawn with probability proportional to weight times rows. "
        "`temperature`: drawn proportional to rows^(1/T), where T is `sampling_temperature`. "
        "`annealed`: drawn proportional to rows^a, where a falls from 1 to 0.2 over the epochs "
        "(Stickland & Murray 2019).",
    )
    batches_per_step: Count = Field(
        default=1,
        description="Batches in a step. It has no effect with `round-robin`.",
    )
    sampling_temperature: Positive = Field(
        default=2.0,
        description="Temperature of `temperature` sampling. At 1 the probabilities are "
        "proportional to the number of rows; higher values are closer to uniform.",
    )
    balancer: BalancerName = Field(
        default="sum",
        description="How the task gradients on the shared encoder are combined into one. `pcgrad` "
        "(Yu et al. 2020) projects each gradient onto the normal plane of those it conflicts "
        "with. A stage that freezes the encoder or trains on masked words has nothing to balance: "
        "it uses `sum` instead of the balancer of `[train]`, and one of its own is an error.",
    )
    epochs: Positive | None = Field(
        default=None,
        description="Length of a stage in epochs. With any task sampling, an epoch is as many "
        "examples as the stage's tasks have rows in total.",
        json_schema_extra=default_is("3, unless `steps` is set"),
    )
    steps: Count | None = Field(
        default=None,
        description="Length of a stage in optimizer updates, instead of `epochs`.",
        json_schema_extra=default_is("not set"),
    )
    epoch_ends: Literal["examples", "longest"] = Field(
        default="examples",
        description="When an epoch ends. `examples`: after as many examples as the tasks have rows "
        "in total. `longest` (only with round-robin): when the task with the most batches has "
        "used all its rows once.",
    )
    lr: Positive = Field(
        default=5e-5,
        description="Peak learning rate of the encoder, and of the heads unless `head_lr` is set.",
        json_schema_extra=default_is('`5e-5`, or `0.01` with `freeze = "encoder"`'),
    )
    warmup: NotNegative = Field(
        default=0.1,
        description="Steps over which learning rates rise linearly. Below 1: a share of the "
        "stage's steps. From 1: a whole number of steps.",
    )
    lr_schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear",
        description="How learning rates fall after the warm-up: to 0 along a line or a cosine "
        "(Loshchilov & Hutter 2017), or not at all.",
    )
    lr_layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Learning rate of each encoder layer as a multiple of the layer above it "
        "(Howard & Ruder 2018).",
    )
    freeze: Literal["nothing", "embeddings", "encoder"] | Annotated[int, Field(ge=1)] = Field(
        default="nothing",
        description="What is frozen. `nothing`; `embeddings`; a number n: the embeddings and the "
        "lowest n layers; `encoder`: the whole encoder with its pooler. Each row is then encoded "
        "once, at the start of the stage, without the encoder's dropout; heads keep their own, "
        "`head_dropout`. Steps take milliseconds, so heads can train for many epochs.",
    )


class TrainSection(StageKeys):
    """Settings of the whole run, and defaults for every stage."""

    seed: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Seed of every random draw in training: batches, dropout, projection orders, "
        "new heads.",
    )
    split_seed: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Seed of the dev rows where a task's `dev` is a number. It does not depend on "
        "`seed`, so runs with different seeds have the same dev rows and can be compared.",
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto",
        description="Precision of the encoder's computation. `auto` is bf16 if the processor or "
        "GPU is fast at it, else float32. A processor without bf16 instructions runs `bf16` at the "
        "speed of float32.",
    )
    device: str = Field(
        default="auto",
        description="`auto`, `cpu`, `cuda`, or one GPU such as `cuda:1`.",
    )
    bad_rows: Literal["error", "skip"] = Field(
        default="error",
        description="What to do with a row that cannot be used: with a wrong number of fields, "
        "broken quotes, invalid JSON, bytes that do not fit the encoding, something else than a "
        "text, a label that is wrong or (unless `missing_labels` is `skip`) missing. `error`: "
        "report it as an error. `skip`: leave the row out; the run lists all such rows in "
        "`skipped-rows.jsonl`. If more than half of a file's rows cannot be used, that is an "
        "error.",
    )
    batch_size: Count = Field(
        default=32,
        description="Rows in a batch.",
    )
    batch_tokens: Count | None = Field(
        default=None,
        description="Token budget of a batch, instead of `batch_size`.",
        json_schema_extra=default_is("not set"),
    )
    group_by_length: bool = Field(
        default=True,
        description="Put rows of similar length into the same batch.",
    )
    max_length: Annotated[int, Field(ge=4)] | None = Field(
        default=None,
        description="Maximum sequence length in tokens, special tokens included. If a pair is too "
        "long, its longer text is truncated first.",
        json_schema_extra=default_is("the encoder's"),
    )
    head_lr: Positive | None = Field(
        default=None,
        description="Peak learning rate of the heads.",
        json_schema_extra=default_is("the stage's `lr`"),
    )
    loss_weighting: Literal["fixed", "uncertainty"] = Field(
        default="fixed",
        description="How the tasks' losses are weighted. `fixed`: by `loss_weight`. `uncertainty`: "
        "by learned weights, one variance per task (Kendall et al. 2018).",
    )
    weight_decay: NotNegative = Field(
        default=0.01,
        description="Weight decay of AdamW, on all weights except biases and LayerNorm.",
    )
    betas: tuple[Share, Share] = Field(
        default=(0.9, 0.999),
        strict=False,
        description="Decay rates of AdamW's first and second moment.",
    )
    eps: Positive = Field(
        default=1e-6,
        description="Added to the denominator of AdamW's update, before the bias correction (the "
        "paper, section 3.2).",
    )
    max_grad_norm: NotNegative = Field(
        default=1.0,
        description="Maximum norm of the gradient, which is clipped once, after the balancer; 0 "
        "disables clipping.",
    )
    average: AverageName = Field(
        default="none",
        description="Which weights are evaluated, kept and exported. `none`: the trained weights. "
        "`ema`: their exponential moving average over updates, see `average_decay`. "
        "`last-evaluations`: their mean over the last `average_last` evaluations (checkpoint "
        "averaging, Vaswani et al. 2017; Izmailov et al. 2018). Training itself does not change. "
        "Each stage starts a new average, unless it has `keep_optimizer_state`.",
    )
    average_decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.999,
        description="Decay d of the moving average, for `ema`: each update makes it d times itself "
        "plus 1 - d times the weights. It spans about the last 1 / (1 - d) updates. Update n uses "
        "(1 + n) / (10 + n) where that is smaller, as TensorFlow's `ExponentialMovingAverage`.",
    )
    average_last: Annotated[int, Field(ge=2)] = Field(
        default=3,
        description="Number of evaluations whose weights are averaged, for `last-evaluations`; "
        "`evaluate_every` sets how often they come. Each needs as much memory as the weights.",
    )
    conflict_every: Annotated[int, Field(ge=0)] = Field(
        default=100,
        description="Steps between two conflict probes. A probe computes the gradients of two "
        "batches per task, which takes as long as about two steps with a batch of every task, and "
        "updates nothing; 0 disables probes.",
    )
    evaluate_every: Count | Literal["epoch"] = Field(
        default="epoch",
        description="Steps between two evaluations, or `epoch`.",
    )
    eval_train_rows: Annotated[int, Field(ge=0)] = Field(
        default=500,
        description="Number of training rows per task that each evaluation scores besides the dev "
        "set, to show overfitting. They are always the same rows.",
    )
    select_by: str = Field(
        default="mean",
        description="The task whose dev score selects the kept model, or `mean`. The mean excludes "
        "`rmse` and `mae`, which have the unit of the labels.",
    )
    checkpoint_every: Count | Minutes = Field(
        default="10 min",
        description='Steps between two checkpoints, or minutes, such as `"10 min"`. There is one '
        "at each evaluation too. A checkpoint is written while training continues.",
    )
    keep_checkpoints: Count = Field(
        default=2,
        description="Number of checkpoints that a run keeps for `--resume`. If the newest one is "
        "damaged, the one before is used.",
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Number of evaluations in a row without a better score after which the run "
        "stops; 0 disables this. Each stage starts a new count, and a stage on masked words never "
        "stops the run.",
    )

    @property
    def checkpoint_minutes(self) -> float | None:
        """Minutes between two checkpoints; None if `checkpoint_every` is a number of steps."""
        if isinstance(self.checkpoint_every, int):
            return None
        return float(self.checkpoint_every.removesuffix(" min"))


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class TrackSection(Section):
    """The experiment trackers that show a run while it trains."""

    to: Annotated[
        tuple[TrackerName, ...],
        BeforeValidator(_as_list, json_schema_input_type=TrackerName | list[TrackerName]),
    ] = Field(
        default=(),
        strict=False,
        description="The trackers: one, or a list of them. Each needs the extra of its name, such "
        "as `comity[wandb]`.",
        json_schema_extra=default_is("none"),
    )
    project: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="The project in `wandb` and `trackio`, and the experiment in `mlflow`.",
        json_schema_extra=default_is("`WANDB_PROJECT`, `MLFLOW_EXPERIMENT_NAME`, or `comity`"),
    )


class StageFile(Section):
    """A training file that a stage uses for a task instead of the task's own."""

    file: File = Field(description="Path of the training file, or several, as for `train`.")
    text: Column | None = Field(
        default=None,
        description="Text column of this file.",
        json_schema_extra=default_is("the task's"),
    )
    texts: tuple[Column, Column] | None = Field(
        default=None,
        strict=False,
        description="The two text columns of this file.",
        json_schema_extra=default_is("the task's"),
    )
    label: Column | None = Field(
        default=None,
        description="Label column of this file.",
        json_schema_extra=default_is("the task's"),
    )
    label_map: dict[str, str | int | float] = Field(
        default_factory=dict,
        description="A table from this file's labels to the task's labels. A label that is missing "
        "from the table is an error, unless it is one of the task's `ignore_labels`.",
        json_schema_extra=default_is("labels are used as they are"),
    )

    def read_as(self, task: TaskSection) -> TaskSection:
        """The task with the columns of this file."""
        own = {key: getattr(self, key) for key in ("text", "texts", "label") if self.sets(key)}
        return task.model_copy(update=own)


def _as_table(value: Any) -> Any:
    return {"file": value} if isinstance(value, str | list | tuple) else value


StageData = dict[
    str, Annotated[StageFile, BeforeValidator(_as_table, json_schema_input_type=File | StageFile)]
]


class StageSection(StageKeys):
    """One stage of training. Keys that are not set are taken from `[train]`."""

    name: str | None = Field(
        default=None,
        description="Name of the stage in reports.",
        json_schema_extra=default_is("stage 1, stage 2, ..."),
    )
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None,
        strict=False,
        description="The tasks that take part.",
        json_schema_extra=default_is("all tasks, but no `eval_only` task in a stage on labels"),
    )
    train_on: Literal["labels", "masked-words"] = Field(
        default="labels",
        description="What the stage trains. `labels`: the tasks. `masked-words`: the encoder, by "
        "further pre-training on masked words in the tasks' training texts, without labels (Sun et "
        "al. 2019).",
    )
    data: StageData = Field(
        default_factory=dict,
        description="Other training files for this stage, by task: a path, or a table; see below.",
        json_schema_extra=default_is("the tasks' own files"),
    )
    keep_optimizer_state: bool = Field(
        default=False,
        description="Keep AdamW's moments and step counts from the previous stage, the average of "
        "the weights, and the balancer's state if both stages have the same tasks and balancer. "
        "Learning rates follow this stage's own schedule in any case.",
    )


class Stage(StageKeys):
    """A stage with all keys resolved: its own, then those of `[train]`, then the defaults."""

    name: str
    tasks: tuple[str, ...]
    train_on: Literal["labels", "masked-words"] = "labels"
    data: StageData = Field(default_factory=dict)
    keep_optimizer_state: bool = False


class RecipeSchema(Section):
    """The tables of a recipe, and its stages resolved. `Recipe` adds reading and writing."""

    encoder: EncoderSection = Field(default=EncoderSection(), description="The encoder.")
    train: TrainSection = Field(
        default=TrainSection(), description="Settings of the whole run, and defaults for stages."
    )
    track: TrackSection = Field(default=TrackSection(), description="The experiment trackers.")
    tasks: Annotated[dict[str, TaskSection], Field(min_length=1)] = Field(
        description="The tasks, by name."
    )
    stages_declared: tuple[StageSection, ...] = Field(
        default=(),
        alias="stages",
        strict=False,
        description="The stages, one after another. Without any there is one over all tasks.",
    )

    def task_as_read(self, name: str) -> TaskSection:
        """A task with what it takes from [train] on how its files are read."""
        task = self.tasks[name]
        if task.bad_rows is not None or self.train.bad_rows == "error":
            return task
        return task.model_copy(update={"bad_rows": self.train.bad_rows})

    @property
    def stages(self) -> list[Stage]:
        """The stages with all keys resolved; without declared stages, one over all tasks."""
        declared = self.stages_declared or (StageSection(),)
        return [self._resolved(stage, number) for number, stage in enumerate(declared, start=1)]

    def _resolved(self, stage: StageSection, number: int) -> Stage:
        shared = {k: getattr(self.train, k) for k in StageKeys.model_fields if self.train.sets(k)}
        own = {key: getattr(stage, key) for key in stage.model_fields_set}
        if own.keys() & {"epochs", "steps"}:  # either of them replaces the length in [train]
            shared = {k: v for k, v in shared.items() if k not in ("epochs", "steps")}
        masked = stage.train_on != "labels"  # needs no labels, so eval_only tasks take part too
        tasks = tuple(n for n, task in self.tasks.items() if masked or not task.eval_only)
        values = {"name": f"stage {number}", "tasks": tasks, **shared, **own}
        # Masked words are one loss, and a frozen encoder has no gradient: nothing is balanced.
        if (masked or values.get("freeze") == "encoder") and not stage.sets("balancer"):
            values["balancer"] = "sum"
        if values.get("freeze") == "encoder":
            values.setdefault("lr", LR_OF_HEADS)  # only new weights are trained
        if values.get("epochs") is None and values.get("steps") is None:
            values["epochs"] = 3.0
        return Stage(**values)
