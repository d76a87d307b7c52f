"""Comparisons of runs against hand arithmetic, and what is refused."""

import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.helpers import run_facts, two_tasks, write_two_tasks

from comity import ComityError, train
from comity.data.splits import Split
from comity.data.token_cache import TokenTable
from comity.evaluation.compare import Comparison, compare, compare_groups, holds, same_recipes
from comity.evaluation.predictions import kept_predictions, write_predictions
from comity.runs import BestModel, RecordedScore, RunDirectory
from comity.targets import HeadSpec, Target
from comity.terminal.views import comparison_table

MOOD = Target("classification", "linear", classes=("down", "up"))
ALIKE = Target("similarity", "regression", scale=(0.0, 5.0))
STEP = 7


def write_run(
    path: Path,
    mood: np.ndarray | None = None,
    alike: np.ndarray | None = None,
    seed: int = 0,
    metric: str = "pearson",
    file: str = "abc",
    lr: float = 1e-3,
    weights: str = "def",
) -> Path:
    """A run directory as far as a comparison reads it.

    `mood: [n]` is the probability of "up" of each row, `alike: [n]` its score. The gold of mood is
    "up" in every other row, that of alike 0, 1, 2, 3, 4, 5, 0, ...
    """
    directory = RunDirectory.create(path)
    directory.write_recipe(two_tasks(Path("encoder"), train__seed=seed, train__lr=lr))
    heads = {}
    if mood is not None:
        heads["mood"] = HeadSpec(MOOD, ("first",))
        rows = [
            (("down", "up")[n % 2], ("down", "up")[int(p > 0.5)], 1 - p, p)
            for n, p in enumerate(mood)
        ]
        write_csv(path, "mood", ["gold", "prediction", "p_down", "p_up"], rows)
    if alike is not None:
        heads["alike"] = HeadSpec(ALIKE, ("pair",))
        rows = [(float(n % 6), score) for n, score in enumerate(alike)]
        write_csv(path, "alike", ["gold", "prediction"], rows)
    metrics = {"mood": "accuracy", "alike": metric}
    directory.write_facts(run_facts(heads, metrics, seed, weights, file))
    best = BestModel("best-000007", STEP, "mean", RecordedScore("mean", 0.0), {})
    (path / "best.json").write_text(json.dumps(asdict(best)))
    return path


def write_csv(run: Path, task: str, header: list[str], rows: list) -> None:
    path = run / "predictions" / f"{STEP:06d}" / f"{task}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["line", *header])
        writer.writerows((line, *row) for line, row in enumerate(rows, start=2))


def mood(right: int, count: int = 200, sure: float = 0.9) -> np.ndarray:
    """Probabilities of "up" that are right in the first `right` rows."""
    ups = np.arange(count) % 2 == 1
    said = np.where(np.arange(count) < right, ups, ~ups)
    return np.where(said, sure, 1 - sure)


def alike(noise: float, seed: int = 0, count: int = 200) -> np.ndarray:
    return np.arange(count) % 6 + noise * np.random.default_rng(seed).normal(size=count)


def entry(comparison: Comparison, task: str, number: int = 1) -> Any:
    """The entry of a side; its values may be None for the type checker, which no test needs."""
    found = [comparison.mean] if task == "mean" else comparison.tasks
    (table,) = [compared for compared in found if compared is not None and compared.task == task]
    return table.entries[number]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> RunDirectory:
    folder = tmp_path_factory.mktemp("compare")
    write_two_tasks(folder)
    return train(two_tasks(tiny_checkpoint), folder, folder / "run")


def test_a_trained_run_has_the_scores_that_it_was_kept_for(trained):
    comparison = compare([trained.path])
    best = trained.best()
    for task, score in best.tasks.items():
        found = entry(comparison, task, 0)
        assert found.value == pytest.approx(score.value)
        assert found.of_runs == [found.value]
        assert found.verdict is None
        assert found.interval.low <= found.value <= found.interval.high
    assert entry(comparison, "mean", 0).value == pytest.approx(best.score.value)
    assert [compared.rows for compared in comparison.tasks] == [12, 10]


def test_a_run_is_neither_better_nor_worse_than_itself(tmp_path):
    run = write_run(tmp_path / "a", mood(120), alike(1))
    comparison = compare([run, run])
    for task in ("mood", "alike", "mean"):
        verdict = entry(comparison, task).verdict
        assert (verdict.difference, verdict.low, verdict.high) == (0, 0, 0)
        assert verdict.word == "undecided"


def test_a_clear_gain_a_clear_loss_and_a_draw(tmp_path):
    runs = [
        write_run(tmp_path / name, mood(right))
        for name, right in zip("abcd", (120, 180, 60, 121), strict=True)
    ]
    comparison = compare(runs)
    assert comparison.mean is None  # of one task there is none
    # 120, 180, 60 and 121 of 200 are right.
    assert [e.value for e in comparison.tasks[0].entries] == [0.6, 0.9, 0.3, 0.605]
    verdicts = [entry(comparison, "mood", number).verdict for number in (1, 2, 3)]
    assert [v.difference for v in verdicts] == pytest.approx([0.3, -0.3, 0.005])
    assert [v.word for v in verdicts] == ["higher", "lower", "undecided"]
    # The gain of one row in 200 varies as a mean of 200 does: deviation sqrt(0.3 * 0.7 / 200).
    deviation = (0.3 * 0.7 / 200) ** 0.5
    assert verdicts[0].high - verdicts[0].low == pytest.approx(2 * 1.96 * deviation, rel=0.15)


def test_the_mean_is_over_all_tasks_and_only_for_runs_that_have_them(tmp_path):
    both = write_run(tmp_path / "both", mood(120), alike(1))
    more = write_run(tmp_path / "more", mood(180), alike(3))
    alone = write_run(tmp_path / "alone", mood(150))
    comparison = compare([both, more, alone])
    assert [e.name for e in comparison.tasks[0].entries] == [str(both), str(more), str(alone)]
    assert [e.name for e in comparison.tasks[1].entries] == [str(both), str(more)]
    assert comparison.mean is not None
    assert [e.name for e in comparison.mean.entries] == [str(both), str(more)]
    verdict = entry(comparison, "mean").verdict
    parts = [entry(comparison, task).verdict for task in ("mood", "alike")]
    assert verdict.difference == pytest.approx(np.mean([part.difference for part in parts]))
    # Rows of the tasks are drawn apart, so the deviation of the mean is sqrt(a^2 + b^2) / 2.
    widths = [part.high - part.low for part in parts]
    expected = np.sqrt(np.square(widths).sum()) / 2
    assert verdict.high - verdict.low == pytest.approx(expected, rel=0.15)


def test_a_single_task_run_beside_the_run_of_both(tmp_path):
    alone = write_run(tmp_path / "alone", mood(100))
    both = write_run(tmp_path / "both", mood(160), alike(1))
    comparison = compare([alone, both])
    assert [compared.task for compared in comparison.tasks] == ["mood"]
    assert entry(comparison, "mood").verdict.word == "higher"
    assert comparison.mean is None


def test_probabilities_are_averaged_before_the_class_is_taken(tmp_path):
    # "up" at 0.4 and 0.9 is 0.65 on average; at 0.45 and 0.1, 0.275. Gold: down, up.
    runs = [
        write_run(tmp_path / "a", np.array([0.45, 0.4]), seed=0),
        write_run(tmp_path / "b", np.array([0.10, 0.9]), seed=1),
    ]
    found = compare_groups(runs).tasks[0].entries[0]
    assert (found.of_runs, found.value) == ([0.5, 1.0], 1.0)
    wrong = [
        write_run(tmp_path / "c", np.array([0.45, 0.4]), seed=0),
        write_run(tmp_path / "d", np.array([0.70, 0.55]), seed=1),
    ]
    # (0.45 + 0.7) / 2 = 0.575 says up for down, 0.475 down for up.
    assert compare_groups(wrong).tasks[0].entries[0].value == 0.0


def test_scores_are_averaged(tmp_path):
    noise = np.random.default_rng(3).normal(size=200)
    runs = [
        write_run(tmp_path / name, alike=np.arange(200) % 6 + sign * noise)
        for name, sign in (("a", 1), ("b", -1))
    ]
    found = entry(compare_groups(runs), "alike", 0)
    assert found.value == pytest.approx(1)  # the noise is gone
    assert max(found.of_runs) < 0.95


def test_it_holds_only_where_the_seeds_agree(tmp_path):
    noise = 2 * np.random.default_rng(3).normal(size=200)
    gold = np.arange(200) % 6
    worse = [write_run(tmp_path / f"w{n}", alike=alike(0.6, seed=8), seed=n) for n in range(2)]
    opposed = [
        write_run(tmp_path / f"o{n}", alike=gold + (-1) ** n * noise, seed=n) for n in range(2)
    ]
    # Averaged they are perfect, but each by itself is worse than what it is compared with.
    verdict = holds(opposed, worse, "alike")
    assert verdict.low is not None
    assert verdict.low > 0
    assert (verdict.seeds_agree, verdict.word) == (False, "undecided")
    better = [write_run(tmp_path / f"b{n}", alike=alike(0.2, seed=n), seed=n) for n in range(2)]
    verdict = holds(better, worse, "alike")
    assert (verdict.seeds_agree, verdict.word) == (True, "holds")
    assert holds(worse, better, "alike").word == "reversed"


def test_of_an_error_the_lower_is_the_better(tmp_path):
    near = [write_run(tmp_path / "near", alike=alike(0.5), metric="rmse")]
    far = [write_run(tmp_path / "far", alike=alike(2), metric="rmse")]
    verdict = holds(near, far, "alike")
    assert verdict.difference is not None
    assert verdict.difference < 0
    assert verdict.word == "holds"
    assert holds(far, near, "alike").word == "reversed"
    assert entry(compare([*far, *near]), "alike").verdict.word == "lower"


def test_it_holds_on_the_mean(tmp_path):
    low = [write_run(tmp_path / "low", mood(120), alike(2))]
    high = [write_run(tmp_path / "high", mood(170), alike(1))]
    assert holds(high, low, "mean").word == "holds"
    alone = [write_run(tmp_path / "alone", mood(170))]
    with pytest.raises(ComityError, match="has no mean to compare"):
        holds(alone, low, "mean")


def test_a_constant_prediction_is_told_and_decides_nothing(tmp_path):
    runs = [
        write_run(tmp_path / "a", mood(120), alike=alike(1)),
        write_run(tmp_path / "b", mood(120), alike=np.full(200, 2.0)),
    ]
    comparison = compare(runs)
    found = entry(comparison, "alike")
    assert (found.value, found.reason) == (None, "all 200 predictions are equal")
    assert (found.verdict.difference, found.verdict.word) == (None, "undecided")
    mean = entry(comparison, "mean")
    assert (mean.value, mean.verdict.word) == (None, "undecided")
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_other_rows_are_refused(tmp_path):
    first = write_run(tmp_path / "first", mood(100))
    other = write_run(tmp_path / "other", mood(100), file="def")
    fewer = write_run(tmp_path / "fewer", mood(100)[:-1])
    relabelled = write_run(tmp_path / "relabelled", mood(100))
    path = relabelled / "predictions" / "000007" / "mood.csv"
    path.write_text(path.read_text().replace("2,down", "2,up", 1))
    for run in (other, fewer, relabelled):
        with pytest.raises(ComityError, match=rf"{run.name}: its dev rows of mood are not those"):
            compare([first, run])


def test_what_cannot_be_compared_is_refused_in_one_sentence(tmp_path):
    runs = [write_run(tmp_path / name, mood(100), seed=n) for n, name in enumerate("abc")]
    alone = write_run(tmp_path / "alike", alike=alike(1))
    for arguments, message in (
        (lambda: compare([runs[0], alone]), "has none of the tasks mood of"),
        (lambda: compare([tmp_path / "none"]), "no such directory"),
        (lambda: holds(runs[:1], runs[1:], "mood"), "1 runs cannot be paired with the 2"),
        (lambda: holds(runs[:1], runs[1:2], "mod"), 'no task "mod", did you mean "mood"'),
    ):
        with pytest.raises(ComityError, match=message) as caught:
            arguments()
        assert len(caught.value.messages) == 1
    (runs[1] / "predictions" / "000007" / "mood.csv").write_text("line,gold\n2,up\n")
    with pytest.raises(ComityError, match=r"mood\.csv: cannot be read as predictions"):
        compare([runs[0], runs[1]])
    (runs[2] / "best.json").unlink()
    with pytest.raises(ComityError, match="has not kept a model yet"):
        compare([runs[0], runs[2]])


def test_runs_of_one_recipe_are_grouped_by_seed(tmp_path):
    names = {"a1": (1, 1e-3), "b0": (0, 1e-4), "a0": (0, 1e-3), "b1": (1, 1e-4)}
    runs = [write_run(tmp_path / name, mood(100), seed=s, lr=lr) for name, (s, lr) in names.items()]
    grouped = [[run.name for run in group] for group in same_recipes(runs)]
    assert grouped == [["a0", "a1"], ["b0", "b1"]]
    comparison = compare(runs, group_seeds=True)
    assert [e.name for e in comparison.tasks[0].entries] == [
        f"{tmp_path / 'a0'} and 1 more",
        f"{tmp_path / 'b0'} and 1 more",
    ]


def test_runs_of_other_weights_or_files_are_not_of_one_group(tmp_path):
    runs = [
        write_run(tmp_path / "a0", mood(100), seed=0),
        write_run(tmp_path / "b1", mood(100), seed=1, weights="other"),
        write_run(tmp_path / "c1", mood(100), seed=1, file="other"),
        write_run(tmp_path / "a1", mood(100), seed=1),
    ]
    grouped = [[run.name for run in group] for group in same_recipes(runs)]
    assert grouped == [["a0", "a1"], ["b1"], ["c1"]]


def test_a_seed_that_stands_twice_in_a_group_is_refused(tmp_path):
    runs = [write_run(tmp_path / name, mood(100), seed=3) for name in "ab"]
    with pytest.raises(ComityError, match=r"b: has the seed 3, as .*a of the same") as caught:
        compare(runs, group_seeds=True)
    assert len(caught.value.messages) == 1
    with pytest.raises(ComityError, match="has the seed 3"):
        compare([runs[0], runs[0]], group_seeds=True)


def set_target(directory: RunDirectory, task: str, target: Target) -> None:
    """Replace a task's target in run.json."""
    facts = directory.facts()
    task_facts = facts.tasks[task]
    changed = replace(task_facts, head=replace(task_facts.head, target=target))
    directory.write_facts(replace(facts, tasks={**facts.tasks, task: changed}))


def written(path: Path, gold: np.ndarray, predicted: np.ndarray) -> Path:
    """A run whose regression `alike` was judged on the rows `gold: [n]`."""
    target = Target("regression", "regression", mean=0.0, deviation=1.0)
    run = write_run(path, alike=gold)
    directory = RunDirectory.open(run)
    set_target(directory, "alike", target)
    rows, keys = len(gold), np.zeros((len(gold), 0), np.uint64)
    table = TokenTable(Path("dev.csv"), (), (), np.arange(2, rows + 2), keys, {}, "abc")
    csv_path = run / "predictions" / f"{STEP:06d}" / "alike.csv"
    write_predictions(csv_path, target, Split(table, np.arange(rows), gold), predicted[:, None])
    return run


@pytest.mark.parametrize("unit", [1e-6, 1 / 3, 1e12])
def test_scores_of_any_size_are_kept_to_the_last_digit(tmp_path, unit):
    draws = np.random.default_rng(5)
    gold, predicted = unit * draws.normal(size=(2, 50))
    run = written(tmp_path / "run", gold, predicted)
    judged = kept_predictions(RunDirectory.open(run), "alike")
    assert judged.gold.tolist() == gold.tolist()
    assert judged.predicted.tolist() == predicted.tolist()
    found = entry(compare([run]), "alike", 0)
    assert found.value == pytest.approx(np.corrcoef(gold, predicted)[0, 1])


@pytest.mark.parametrize("separator", [None, ";"])
def test_labels_are_read_as_they_were_written(tmp_path, separator):
    target = Target("multi-label", "linear", classes=("a|b", "c", "[d]"))
    rows = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1]])
    table = TokenTable(
        Path("dev.csv"), (), (), np.arange(2, 6), np.zeros((4, 0), np.uint64), {}, "abc"
    )
    run = write_run(tmp_path / "run", mood(100))
    path = run / "predictions" / "000007" / "mood.csv"
    split = Split(table, np.arange(4), rows)
    write_predictions(path, target, split, np.where(rows[::-1], 2.0, -2.0), separator)
    directory = RunDirectory.open(run)
    set_target(directory, "mood", target)
    recipe = directory.recipe().to_dict()
    if separator:
        recipe["tasks"]["mood"] |= {"kind": "multi-label", "separator": separator}
        directory.write_recipe(type(directory.recipe()).from_dict(recipe))
    judged = kept_predictions(directory, "mood")
    assert judged.gold.tolist() == rows.tolist()
    assert judged.predicted.tolist() == rows[::-1].tolist()
    assert judged.lines == [2, 3, 4, 5]
    assert judged.probabilities is not None
    assert judged.probabilities[2] == pytest.approx(
        1 / (1 + np.exp(-np.where(rows[1], 2.0, -2.0))), abs=1e-6
    )


def test_the_table_shows_scores_intervals_and_words(tmp_path):
    runs = [
        write_run(tmp_path / "a", mood(120), alike(1)),
        write_run(tmp_path / "b", mood(180), alike(1)),
    ]
    comparison = compare(runs)
    shown = io.StringIO()
    Console(file=shown, width=300).print(comparison_table(comparison))
    lines = [line for line in shown.getvalue().splitlines() if str(tmp_path / "b") in line]
    assert [word for line in lines for word in ("higher", "undecided") if word in line] == [
        "higher",
        "undecided",
        "higher",
    ]
    assert "0.9000" in lines[0]
    assert "+0.3000" in lines[0]
