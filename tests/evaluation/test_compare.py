"""Comparisons of runs against arithmetic by hand, and refused comparisons."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.helpers import run_facts, two_tasks, write_two_tasks

from comity import ComityError, train
from comity.evaluation.compare import Comparison, compare, compare_groups, holds, same_recipes
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
    """A run directory with the files that a comparison reads.

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
    predicted = np.where(np.arange(count) < right, ups, ~ups)
    return np.where(predicted, sure, 1 - sure)


def alike(noise: float, seed: int = 0, count: int = 200) -> np.ndarray:
    return np.arange(count) % 6 + noise * np.random.default_rng(seed).normal(size=count)


def entry(comparison: Comparison, task: str, number: int = 1) -> Any:
    """The entry of a side, untyped: its optional values are never None in these tests."""
    found = [comparison.mean] if task == "mean" else comparison.tasks
    (table,) = [compared for compared in found if compared is not None and compared.task == task]
    return table.entries[number]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> RunDirectory:
    folder = tmp_path_factory.mktemp("compare")
    write_two_tasks(folder)
    return train(two_tasks(tiny_checkpoint), folder, folder / "run")


def test_a_trained_run_has_the_scores_recorded_for_its_best_model(trained):
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


def test_a_clear_gain_a_clear_loss_and_a_tie(tmp_path):
    runs = [
        write_run(tmp_path / name, mood(right))
        for name, right in zip("abcd", (120, 180, 60, 121), strict=True)
    ]
    comparison = compare(runs)
    assert comparison.mean is None  # of a single task
    # 120, 180, 60 and 121 of 200 are right.
    assert [e.value for e in comparison.tasks[0].entries] == [0.6, 0.9, 0.3, 0.605]
    verdicts = [entry(comparison, "mood", number).verdict for number in (1, 2, 3)]
    assert [v.difference for v in verdicts] == pytest.approx([0.3, -0.3, 0.005])
    assert [v.word for v in verdicts] == ["higher", "lower", "undecided"]
    # 30% of the rows gain 1: the mean of 200 has the standard deviation sqrt(0.3 * 0.7 / 200).
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
    # The rows of each task are drawn separately, so the mean has the deviation sqrt(a^2 + b^2) / 2.
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


def test_a_difference_holds_only_where_the_seeds_agree(tmp_path):
    noise = 2 * np.random.default_rng(3).normal(size=200)
    gold = np.arange(200) % 6
    worse = [write_run(tmp_path / f"w{n}", alike=alike(0.6, seed=8), seed=n) for n in range(2)]
    opposed = [
        write_run(tmp_path / f"o{n}", alike=gold + (-1) ** n * noise, seed=n) for n in range(2)
    ]
    # Their average is perfect, but each run alone is worse than the run it is paired with.
    verdict = holds(opposed, worse, "alike")
    assert verdict.low is not None
    assert verdict.low > 0
    assert (verdict.seeds_agree, verdict.word) == (False, "undecided")
    better = [write_run(tmp_path / f"b{n}", alike=alike(0.2, seed=n), seed=n) for n in range(2)]
    verdict = holds(better, worse, "alike")
    assert (verdict.seeds_agree, verdict.word) == (True, "holds")
    assert holds(worse, better, "alike").word == "reversed"


def test_a_lower_rmse_is_better(tmp_path):
    near = [write_run(tmp_path / "near", alike=alike(0.5), metric="rmse")]
    far = [write_run(tmp_path / "far", alike=alike(2), metric="rmse")]
    verdict = holds(near, far, "alike")
    assert verdict.difference is not None
    assert verdict.difference < 0
    assert verdict.word == "holds"
    assert holds(far, near, "alike").word == "reversed"
    assert entry(compare([*far, *near]), "alike").verdict.word == "lower"


def test_a_difference_holds_on_the_mean(tmp_path):
    low = [write_run(tmp_path / "low", mood(120), alike(2))]
    high = [write_run(tmp_path / "high", mood(170), alike(1))]
    assert holds(high, low, "mean").word == "holds"
    alone = [write_run(tmp_path / "alone", mood(170))]
    with pytest.raises(ComityError, match="has no mean to compare"):
        holds(alone, low, "mean")


def test_a_constant_prediction_is_reported_and_decides_nothing(tmp_path):
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


def test_different_rows_are_refused(tmp_path):
    first = write_run(tmp_path / "first", mood(100))
    other = write_run(tmp_path / "other", mood(100), file="def")
    fewer = write_run(tmp_path / "fewer", mood(100)[:-1])
    relabelled = write_run(tmp_path / "relabelled", mood(100))
    path = relabelled / "predictions" / "000007" / "mood.csv"
    path.write_text(path.read_text().replace("2,down", "2,up", 1))
    for run in (other, fewer, relabelled):
        with pytest.raises(
            ComityError, match=rf"{run.name}: the dev rows of mood differ from those"
        ):
            compare([first, run])


def test_runs_that_cannot_be_compared_are_refused_in_one_sentence(tmp_path):
    runs = [write_run(tmp_path / name, mood(100), seed=n) for n, name in enumerate("abc")]
    alone = write_run(tmp_path / "alike", alike=alike(1))
    for arguments, message in (
        (lambda: compare([runs[0], alone]), r"has none of the tasks of .*\(mood\)"),
        (lambda: compare([tmp_path / "none"]), "no such directory"),
        (
            lambda: holds(runs[:1], runs[1:], "mood"),
            r"a: this group has 1 run, but the group of .* has 2; ",
        ),
        (
            lambda: holds(runs[:1], runs[1:2], "mod"),
            'unknown task "mod"; did you mean "mood"\\?$',
        ),
    ):
        with pytest.raises(ComityError, match=message) as caught:
            arguments()
        assert len(caught.value.messages) == 1
    (runs[1] / "predictions" / "000007" / "mood.csv").write_text("line,gold\n2,up\n")
    with pytest.raises(ComityError, match=r"mood\.csv: cannot be read as predictions"):
        compare([runs[0], runs[1]])
    (runs[2] / "best.json").unlink()
    with pytest.raises(ComityError, match="has no saved model yet"):
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


def test_runs_with_other_weights_or_files_are_in_different_groups(tmp_path):
    runs = [
        write_run(tmp_path / "a0", mood(100), seed=0),
        write_run(tmp_path / "b1", mood(100), seed=1, weights="other"),
        write_run(tmp_path / "c1", mood(100), seed=1, file="other"),
        write_run(tmp_path / "a1", mood(100), seed=1),
    ]
    grouped = [[run.name for run in group] for group in same_recipes(runs)]
    assert grouped == [["a0", "a1"], ["b1"], ["c1"]]


def test_two_runs_with_one_seed_in_a_group_are_refused(tmp_path):
    runs = [write_run(tmp_path / name, mood(100), seed=3) for name in "ab"]
    with pytest.raises(
        ComityError, match=r"b: has the same recipe and seed \(3\) as .*a; leave"
    ) as caught:
        compare(runs, group_seeds=True)
    assert len(caught.value.messages) == 1
    with pytest.raises(ComityError, match="same recipe and seed"):
        compare([runs[0], runs[0]], group_seeds=True)


def test_scores_of_a_very_small_unit_are_compared_to_the_last_digit(tmp_path):
    scores = alike(1)
    run = write_run(tmp_path / "run", alike=1e-9 * scores)
    gold = np.arange(200) % 6
    found = entry(compare([run]), "alike", 0)
    assert found.value == pytest.approx(np.corrcoef(gold, scores)[0, 1], abs=1e-12)


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
