"""Train the variants of recipes/cs224n.toml in tuning.toml, on a split of the training files.

    python benchmarks/tuning.py --data DIR --out OUT [NAME ...]
    python benchmarks/tuning.py --table

The first command trains each variant once. docs/scores/tuning keeps a slim copy of each run, and a
variant with one is not trained again. Several processes with the same OUT share the work: each
takes the next variant that no other one trains. The second command prints what each is worth.
"""

import argparse
import fcntl
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from comity.evaluation.compare import compare_groups
from comity.experiments.runner import Series
from comity.experiments.slim import keep_slim_runs
from comity.format import markdown_table
from comity.recipe.recipe import Recipe
from comity.runs.directory import is_finished

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "cs224n.toml"
SLIM = ROOT / "docs" / "scores" / "tuning"


def recipes() -> Mapping[str, Recipe]:
    """The recipe of each variant, in the order of tuning.toml; the first has no change."""
    read = tomllib.loads((ROOT / "benchmarks" / "tuning.toml").read_text())
    shared: Sequence[str] = read["all"]["set"]
    return {
        name: Recipe.load(RECIPE, [*shared, *changes]) for name, changes in read["variants"].items()
    }


@contextmanager
def claimed(lock: Path) -> Iterator[bool]:
    """Whether this process alone holds the lock of a file. The lock ends with the process."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def train(known: Mapping[str, Recipe], names: Sequence[str], data: Path, out: Path) -> None:
    """Train the variants that are neither finished nor in work."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        with claimed(out / f"{name}.lock") as mine:
            if mine:
                Series({name: known[name]}, data, out, slim=SLIM).train(quiet=True)
                keep_slim_runs([name], out, SLIM)


def table(names: Sequence[str]) -> list[str]:
    """Scores of the finished variants, and the intervals (over rows) of the differences."""
    finished = [name for name in names if is_finished(SLIM / name)]
    found = compare_groups(*([SLIM / name] for name in finished), names=finished)
    tables = [*found.tasks, *([found.mean] if found.mean else [])]
    rows = []
    for position, name in enumerate(finished):
        cells = [name]
        for one in tables:
            entry = one.entries[position]
            verdict = entry.verdict
            difference = ""
            if verdict is not None and verdict.low is not None and verdict.high is not None:
                difference = f" ({verdict.low:+.3f} to {verdict.high:+.3f})"
            cells.append(f"{entry.value:.3f}{difference}")
        rows.append(cells)
    return markdown_table(["variant", *(one.task for one in tables)], rows, "l" + "r" * len(tables))


def main() -> None:
    """Train what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the data files")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--table", action="store_true", help="print the finished variants")
    parser.add_argument("names", nargs="*", metavar="NAME", help="variants (default: all)")
    options = parser.parse_args()
    known = recipes()
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"unknown variant {', '.join(sorted(unknown))}; choose of {', '.join(known)}")
    names = options.names or list(known)
    if options.table:
        print("\n".join(table(names)))
    elif options.data is None or options.out is None:
        parser.error("--data and --out are missing; or print the finished variants with --table")
    else:
        train(known, names, options.data, options.out)


if __name__ == "__main__":
    main()
