"""The rows of the paper's tables: each is a base recipe and the keys that make the row."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comity.errors import ComityError, nearest
from comity.recipe.recipe import Recipe

HERE = Path(__file__).parent
TABLES = ("1", "2", "3", "figure", "surgery")
OTHER_READING = "other-reading"
"""The other reading of "one dataset at a time"; trained only on request."""

MINILM = "minilm"
RATES = ("8e-6", "1e-5", "2e-5")
"""The learning rates of the paper's Table 2."""
MINILM_RATES = ("5e-5", "1e-4")
"""More learning rates for MiniLM, whose best is above those of the paper."""

TASKS = ("sentiment", "paraphrase", "similarity")
PAIRS = ("paraphrase", "similarity")
SINGLE = {"SST only": "sentiment", "Paraphrase only": "paraphrase", "STS only": "similarity"}
INTERACTION = "table3-contrastive-interaction"
ON_PAIR = "table3-contrastive-pair"
STS_ONLY = "table1-sts-only"
_OPTIONS = ("encoder.name", "train.seed", "train.epochs", "train.steps")
"""Keys that options of `comity paper` or the rows set."""
_OF_ALL_ROWS = (
    *("train.task_sampling", "train.balancer", "train.select_by", "stages"),
    *("tasks.*.kind", "tasks.*.metric", "tasks.*.eval_only"),
)
"""Keys that would make any row differ from the paper's, whatever keys the row sets."""


@dataclass(frozen=True)
class PaperRow:
    """One row of one table.

    `name` and the seed name the run's folder. `keys` are overrides of the base recipe, as
    `comity train --set` takes them. `reported` is the row's name in reported.toml, None if the
    paper has no such row.
    """

    table: str
    name: str
    label: str
    keys: tuple[str, ...]
    reported: str | None = None


def setting(encoder: str) -> Path:
    """The base recipe of the rows: MiniLM's, or the paper's own for any other encoder."""
    return HERE / ("minilm.toml" if encoder == MINILM else "bert-base.toml")


def default_epochs(encoder: str) -> float:
    """The default number of epochs."""
    return 2.0 if encoder == MINILM else 3.0


def check_tables(tables: Sequence[str]) -> tuple[str, ...]:
    """The requested tables in the paper's order; all of the paper's if none is named.

    Raises:
        ComityError: an unknown table.
    """
    known = (*TABLES, OTHER_READING)
    for table in tables:
        if table not in known:
            hint = nearest(table, known) or f"; choose from {', '.join(known)}"
            raise ComityError(f'--table: unknown table "{table}"{hint}')
    return tuple(table for table in known if table in (tables or TABLES))


def all_rows(base: Recipe, counts: Mapping[str, int], epochs: float) -> list[PaperRow]:
    """Every row of the tables.

    `counts` are the training rows by task. All table rows with several tasks train on the same
    number of examples: `epochs` times the rows of the three tasks (Table 2: once). After a first
    stage of in-domain training, the last stage has the rest of them.
    """
    minilm = base.encoder.name == MINILM
    with_surgery = 'task_sampling = "round-robin", balancer = "pcgrad", '
    sequential = _stages(base, counts, epochs, "")
    surgery = _stages(base, counts, epochs, with_surgery)
    one_epoch = _stages(base, counts, 1.0, with_surgery)
    pooling = "mean" if minilm else "pooler"
    on_pair = _contrastive(f"embedding_pooling={pooling}")
    apart = _contrastive(f"pooling={pooling}", "interaction=true")
    lost = "Multiple Negative Loss"
    return [
        *(
            PaperRow("1", f"table1-{_slug(label)}", label, _only(task, epochs), label)
            for label, task in SINGLE.items()
        ),
        PaperRow("1", "table1-base", "Base all data", (f"train.epochs={epochs}",), "Base all data"),
        *(
            PaperRow(
                "2",
                f"table2-lr-{rate}",
                f"LR={rate}",
                (one_epoch, *apart, f"train.lr={rate}"),
                f"LR={rate}" if rate in RATES else None,
            )
            for rate in (*RATES, *(MINILM_RATES if minilm else ()))
        ),
        PaperRow(
            "3", "table3-in-domain", "In-domain Training", (sequential,), "In-domain Training"
        ),
        PaperRow("3", "table3-surgery", "Gradient Surgery", (surgery,), "Gradient Surgery"),
        PaperRow("3", INTERACTION, f"{lost} (interaction heads)", (surgery, *apart), lost),
        PaperRow("3", ON_PAIR, f"{lost} (heads on the pair)", (surgery, *on_pair), lost),
        PaperRow(
            "figure",
            "figure-sts-truncated",
            "STS only, scores truncated",
            (*_only("similarity", epochs), "tasks.similarity.rounding=down"),
        ),
        *(
            PaperRow(
                "surgery",
                f"surgery-{balancer}",
                f"Round-robin, {balancer}",
                (
                    "train.task_sampling=round-robin",
                    f"train.balancer={balancer}",
                    f"train.epochs={epochs}",
                    "train.conflict_every=25",  # with `sum`, a verdict needs 20 probes
                ),
            )
            for balancer in ("sum", "pcgrad")
        ),
        PaperRow(
            OTHER_READING,
            OTHER_READING,
            "All data, one task after the other",
            (_one_task_per_stage(epochs),),
        ),
    ]


def _slug(label: str) -> str:
    return label.lower().replace(" ", "-")


def _only(task: str, epochs: float) -> tuple[str, ...]:
    """Train one task and select the best model by it; evaluate all three, as in Table 1."""
    others = tuple(f"tasks.{other}.eval_only=true" for other in TASKS if other != task)
    return (*others, f"train.select_by={task}", f"train.epochs={epochs}")


def _contrastive(*keys: str) -> tuple[str, ...]:
    """The paper's contrastive objective and more keys on both tasks of text pairs."""
    keys = ("objectives=[{loss = 'contrastive'}]", *keys)
    return tuple(f"tasks.{task}.{key}" for task in PAIRS for key in keys)


def _stages(base: Recipe, counts: Mapping[str, int], epochs: float, then: str) -> str:
    """In-domain training of similarity on the paraphrase rows, then `then` on all three tasks."""
    passes = min(1.0, epochs / 2)
    left = epochs - passes * counts["paraphrase"] / sum(counts.values())
    source = base.tasks["paraphrase"]
    low, high = base.tasks["similarity"].scale
    data = (
        f"{{file = {json.dumps(source.train)}, label = {json.dumps(source.label)}, "
        f'label_map = {{"0" = {low:g}, "1" = {high:g}}}}}'
    )
    return (
        f'stages=[{{name = "in-domain", tasks = ["similarity"], epochs = {passes}, '
        f"data = {{similarity = {data}}}}}, "
        f'{{name = "all tasks", {then}epochs = {math.floor(left * 1e6) / 1e6}}}]'
    )


def _one_task_per_stage(epochs: float) -> str:
    stages = [f'{{name = "{task}", tasks = ["{task}"], epochs = {epochs}}}' for task in TASKS]
    return f"stages=[{', '.join(stages)}]"


def runs_of(
    rows: Sequence[PaperRow], tables: Sequence[str], seeds: int
) -> list[tuple[PaperRow, int]]:
    """The rows and seeds to train: Table 2 with one seed, the others with `seeds`.

    The figure needs the last row of Table 3 with its first seed, and the row "STS only", which it
    compares with truncated scores.
    """
    wanted = []
    for row in rows:
        count = 1 if row.table == "2" else seeds
        if row.table not in tables:
            of_figure = {INTERACTION: 1, ON_PAIR: 1, STS_ONLY: seeds}
            count = of_figure.get(row.name, 0) if "figure" in tables else 0
        wanted.extend((row, seed) for seed in range(count))
    return wanted


def row_recipe(encoder: str, row: PaperRow, seed: int, overrides: Sequence[str]) -> Recipe:
    """The recipe of one run.

    Raises:
        ComityError: an invalid override, or one of a key that the row sets.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        for keys, why in (
            (_OF_ALL_ROWS, "defines the rows of the paper; leave it out"),
            (_OPTIONS, "is set by comity paper; leave it out"),
            (row.keys, f'is set by the row "{row.label}"; leave it out, or name other tables'),
        ):
            if any(_covers(key, own.partition("=")[0]) for own in keys):
                raise ComityError(f'--set "{override}": {key} {why}')
    name = f"encoder.name={json.dumps(encoder)}"
    return Recipe.load(setting(encoder), [*overrides, name, f"train.seed={seed}", *row.keys])


def _covers(one: str, other: str) -> bool:
    """Whether two keys are equal or one is a table that holds the other; `*` is any name."""
    parts = zip(one.split("."), other.split("."), strict=False)
    return all(mine == theirs or theirs == "*" for mine, theirs in parts)
