"""How often a difference between two recipes is called real, where it is and where it is not.

    python benchmarks/verdicts.py [--replications 4000] [--rows 500 2000 20000]
    python benchmarks/verdicts.py --runs [--encoder minilm] [--steps 40]

The first command simulates scores and prints three tables: false positives, false positives where
one recipe is less stable than the others, and power. The second one trains 8 seeds of the demo's
recipe and compares every 4 of them with the other 4: in none of the 35 splits is there a
difference to find.

A row i counts as right in seed s of recipe g if

    b_i + u_gi + a_gs + e_gsi > 0

where b_i is how easy the row is, u_gi how much easier it is for this recipe, a_gs the luck of the
seed and e_gsi chance, all normal. Scores are accuracies.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comity.evaluation.bootstrap import RESAMPLES
from comity.evaluation.seeds import Group, difference
from comity.format import markdown_table

SEEDS = (2, 3, 5)
GROUPS = (2, 11)


def simulate(
    rng: np.random.Generator,
    rows: int,
    seeds: int,
    groups: int,
    noise: float,
    of_seed: float | Sequence[float],
    of_recipe: float = 0.0,
    shift: float = 0.0,
    resamples: int = RESAMPLES,
) -> list[Group]:
    """The scores of `groups` recipes with `seeds` seeds each, on one dev set.

    Args:
        noise: standard deviation of e_gsi; that of b_i is 1.
        of_seed: standard deviation of a_gs, for all recipes or for each.
        of_recipe: standard deviation of u_gi.
        shift: mean of u_gi in every other recipe, starting with the second.
    """
    luck = np.broadcast_to(np.asarray(of_seed, dtype=np.float32), (groups,))
    easy = rng.standard_normal(rows, dtype=np.float32)
    right = np.empty((groups, seeds, rows), dtype=np.float32)
    for g in range(groups):
        own = easy + np.float32(shift * (g % 2))
        if of_recipe:
            own = own + np.float32(of_recipe) * rng.standard_normal(rows, dtype=np.float32)
        level = luck[g] * rng.standard_normal((seeds, 1), dtype=np.float32)
        chance = np.float32(noise) * rng.standard_normal((seeds, rows), dtype=np.float32)
        right[g] = own + level + chance > 0
    flat = right.reshape(groups * seeds, rows)
    scores = flat.mean(axis=1, dtype=np.float64)
    draws = _resampled(rng, flat, scores, resamples).reshape(groups, seeds, resamples)
    return [Group(*pair) for pair in zip(scores.reshape(groups, seeds), draws, strict=True)]


def _resampled(
    rng: np.random.Generator, right: NDArray[np.float32], scores: NDArray, resamples: int
) -> NDArray[np.float64]:
    """Accuracies on resamples of the rows: `[runs, resamples]`.

    An accuracy is a mean over rows, so those of a bootstrap are normal with the covariance of the
    rows over their number. Drawing them directly takes the same time for any number of rows.
    """
    rows = right.shape[1]
    covariance = (right @ right.T).astype(np.float64) / rows - np.outer(scores, scores)
    values, vectors = np.linalg.eigh(covariance / rows)
    root = vectors * np.sqrt(values.clip(min=0))
    return scores[:, None] + root @ rng.standard_normal((len(scores), resamples))


def p_values(groups: Sequence[Group], pairs: Sequence[tuple[int, int]]) -> Iterator[float]:
    """The p-value of each pair, pooled over all groups."""
    for first, other in pairs:
        found = difference(groups, first, other)
        assert found is not None
        assert found.p is not None
        yield found.p


def rejected(
    replications: int,
    seed: int,
    pairs: Sequence[tuple[int, int]] | None,
    rows: int,
    seeds: int,
    groups: int,
    noise: float,
    of_seed: float | Sequence[float],
    of_recipe: float = 0.0,
    shift: float = 0.0,
) -> float:
    """The share of at least `replications` comparisons whose p-value is below 0.05.

    `pairs` are the recipes to compare in each simulated page; None: 0 with 1, 2 with 3, and so on.
    """
    pairs = pairs or [(index, index + 1) for index in range(0, groups - 1, 2)]
    rng = np.random.default_rng(seed)
    found: list[float] = []
    while len(found) < replications:
        simulated = simulate(rng, rows, seeds, groups, noise, of_seed, of_recipe, shift)
        found.extend(p_values(simulated, pairs))
    return float(np.mean(np.array(found) < 0.05))


# --- tables ---------------------------------------------------------------------------------------


def false_positives(replications: int, rows: Sequence[int]) -> None:
    """Print the rates for recipes that differ in nothing but the seed."""
    header = ["rows", "groups", "noise", "luck of the seed", *(f"{n} seeds" for n in SEEDS)]
    print("\nFalse positives in %: recipes that do not differ\n")
    _print_header(header)
    for count, groups, noise, of_seed in itertools.product(
        rows, GROUPS, (0.3, 0.7), (0.0, 0.02, 0.1)
    ):
        cells = [rejected(replications, 0, None, count, n, groups, noise, of_seed) for n in SEEDS]
        _print_row([f"{count:,}", str(groups), f"{noise}", f"{of_seed}"], cells)


def unequal(replications: int, rows: int) -> None:
    """Print the rates where the luck of the seed is 0.1 for some recipes and 0.02 for the rest."""
    header = ["unstable recipes", "compared", *(f"{n} seeds" for n in SEEDS)]
    print(f"\nFalse positives in %: unstable recipes (0.1; the others 0.02), {rows:,} rows\n")
    _print_header(header)
    for label, of_seed, pairs, compared in (
        ("1 of 2", [0.1, 0.02], [(0, 1)], "with the stable one"),
        ("1 of 11", [0.1, *[0.02] * 10], [(0, 1)], "with a stable one"),
        ("2 of 11", [0.1, 0.1, *[0.02] * 9], [(0, 1)], "with each other"),
        ("2 of 11", [0.1, 0.1, *[0.02] * 9], [(2, 3), (4, 5), (6, 7)], "two stable ones"),
    ):
        cells = [
            rejected(replications, 0, pairs, rows, n, len(of_seed), 0.3, of_seed) for n in SEEDS
        ]
        _print_row([label, compared], cells)


def power(replications: int, rows: Sequence[int]) -> None:
    """Print the rates for recipes that differ, in which rows they get right and how many."""
    header = ["rows", "groups", "accuracy higher by", *(f"{n} seeds" for n in SEEDS)]
    print("\nPower in %: rows are easier for one recipe (0.3), luck of the seed 0.02, noise 0.3\n")
    _print_header(header)
    for count, groups, shift in itertools.product(rows, GROUPS, (0.0, 0.02, 0.05, 0.1, 0.2)):
        cells = [
            rejected(replications, 0, None, count, n, groups, 0.3, 0.02, 0.3, shift) for n in SEEDS
        ]
        _print_row([f"{count:,}", str(groups), f"{_gain(shift):.3f}"], cells)


def _gain(shift: float) -> float:
    """The accuracy that `shift` adds, at 50%, noise 0.3, rows 0.3 and luck 0.02."""
    from scipy.stats import norm

    return float(norm.cdf(shift / np.sqrt(1 + 0.3**2 + 0.3**2 + 0.02**2)) - 0.5)


def _print_header(header: Sequence[str]) -> None:
    print("\n".join(markdown_table(header, [], "r" * len(header))))


def _print_row(labels: Sequence[str], shares: Sequence[float]) -> None:
    print(f"| {' | '.join([*labels, *(f'{100 * share:.1f}' for share in shares)])} |", flush=True)


# --- real runs ------------------------------------------------------------------------------------


def of_runs(out: Path, encoder: str, steps: int) -> None:
    """Train 8 seeds of the demo's recipe, compare all splits into 4 and 4, and print the shares."""
    import comity.demo
    from comity.evaluation.compare import compare_groups
    from comity.experiments.sweep import Sweep

    demo = Path(comity.demo.__path__[0])
    seeds = "train.seed=0,1,2,3,4,5,6,7"
    settings = [seeds, f"train.steps={steps}", f"encoder.name={json.dumps(encoder)}"]
    sweep = Sweep(demo / "demo.toml", settings, demo / "corpus", out)
    sweep.train()
    runs = [out / point.name for point in sweep.points]
    called: dict[str, list[float]] = {}
    # The first run is always on the first side: each split occurs once.
    for others in itertools.combinations(runs[1:], 3):
        first = [runs[0], *others]
        comparison = compare_groups(first, [run for run in runs if run not in first])
        tables = [*comparison.tasks, *([comparison.mean] if comparison.mean else [])]
        for table in tables:
            verdict = table.entries[1].verdict
            assert verdict is not None
            assert verdict.low is not None
            assert verdict.high is not None
            called.setdefault(table.task, []).append(not verdict.low <= 0 <= verdict.high)
    print(f"\n8 seeds of the demo's recipe, {steps} steps: splits told apart at 5%, unadjusted\n")
    for task, found in called.items():
        print(f"{task}: {sum(found):.0f} of {len(found)} ({np.mean(found):.0%})")


def main() -> None:
    """Print the tables, or the shares of real runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore[reportOptionalMemberAccess]
    parser.add_argument("--replications", type=int, default=4000)
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 2000, 20000])
    parser.add_argument("--runs", action="store_true", help="train real runs instead")
    parser.add_argument("--encoder", default="minilm", help="of the real runs")
    parser.add_argument("--steps", type=int, default=40, help="of each real run")
    options = parser.parse_args()
    if options.runs:
        with tempfile.TemporaryDirectory(prefix="comity-verdicts-") as folder:
            of_runs(Path(folder), options.encoder, options.steps)
        return
    false_positives(options.replications, options.rows)
    unequal(options.replications, options.rows[len(options.rows) // 2])
    power(options.replications // 4, options.rows)


if __name__ == "__main__":
    main()
