"""Comparisons of runs against arithmetic by hand, and refused comparisons."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from rich.console import Console
from tests.evaluation.helpers import alike, mood, seeds, write_run
from tests.helpers import two_tasks, write_two_tasks

from comity import ComityError, train
from comity.evaluation.bootstrap import resampled
from comity.evaluation.compare import (
    Comparison,
    compare,
    compare_groups,
    same_recipes,
    score_tables,
)
from comity.inference.model import load
from comity.runs.directory import RunDirectory
from comity.terminal.views import comparison_table, show_comparison


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


def test_evaluate_and_compare_give_one_score_one_interval(trained):
    comparison = compare([trained.path])
    model = load(trained.path)
    for task in trained.best().tasks:
        found, evaluation = entry(comparison, task, 0), model.evaluate(task)
        assert found.value == pytest.approx(evaluation.score.value, rel=1e-6)
        ends = [found.interval.low, found.interval.high]
        assert evaluation.interval is not None
        expected = [evaluation.interval.low, evaluation.interval.high]
        assert ends == pytest.approx(expected, rel=1e-5)
        assert found.interval.skipped == evaluation.interval.skipped


def test_a_run_is_neither_better_nor_worse_than_itself(tmp_path):
    run = write_run(tmp_path / "a", mood(120), alike(1))
    comparison = compare([run, run])
    for task in ("mood", "alike", "mean"):
        verdict = entry(comparison, task).verdict
        assert (verdict.difference, verdict.low, verdict.high) == (0, 0, 0)
    for task in ("mood", "alike", "mean"):
        verdict = entry(compare_groups([run, run], [run, run]), task).verdict
        assert (verdict.p, verdict.verdict) == (1, "undecided")


def test_single_runs_have_intervals_over_rows_and_no_verdict(tmp_path):
    runs = [write_run(tmp_path / name, mood(n)) for name, n in (("a", 120), ("b", 180), ("c", 60))]
    comparison = compare(runs)
    assert comparison.mean is None  # of a single task
    # 120, 180 and 60 of 200 are right.
    assert [e.value for e in comparison.tasks[0].entries] == [0.6, 0.9, 0.3]
    assert [e.spread for e in comparison.tasks[0].entries] == [None] * 3
    verdicts = [entry(comparison, "mood", number).verdict for number in (1, 2)]
    assert [v.difference for v in verdicts] == pytest.approx([0.3, -0.3])
    assert [(v.p, v.verdict) for v in verdicts] == [(None, None)] * 2
    # 30% of the rows gain 1: the mean of 200 has the standard deviation sqrt(0.3 * 0.7 / 200).
    deviation = (0.3 * 0.7 / 200) ** 0.5
    assert verdicts[0].high - verdicts[0].low == pytest.approx(2 * 1.96 * deviation, rel=0.15)


def test_a_side_is_the_mean_of_the_scores_of_its_runs(tmp_path):
    sides = [seeds(tmp_path / "a", (110, 120, 130)), seeds(tmp_path / "b", (170, 180))]
    comparison = compare_groups(*sides)
    first, other = comparison.tasks[0].entries
    assert first.of_runs == [0.55, 0.6, 0.65]
    assert first.value == pytest.approx(0.6)
    assert first.spread == pytest.approx(0.05)
    assert other.verdict is not None
    assert other.verdict.difference == pytest.approx(0.875 - 0.6)
    assert other.verdict.verdict == "higher"
    assert entry(compare_groups(*reversed(sides)), "mood").verdict.verdict == "lower"


def test_the_interval_is_that_of_the_formula(tmp_path):
    sides = [seeds(tmp_path / "a", (110, 120, 126)), seeds(tmp_path / "b", (121, 135))]
    found = entry(compare_groups(*sides), "mood").verdict
    gold = np.arange(200) % 2
    predicted = [(mood(right) > 0.5).astype(int) for right in (110, 120, 126, 121, 135)]
    draws = resampled("accuracy", gold, predicted, "mood")
    y = [np.array([110, 120, 126]) / 200, np.array([121, 135]) / 200]
    c, s2 = 1 / 3 + 1 / 2, (2 * y[0].var(ddof=1) + y[1].var(ddof=1)) / 3
    one, two = draws[:3], draws[3:]
    v_row = np.var(two.mean(axis=0) - one.mean(axis=0), ddof=1)
    apart = [np.var(of - of.mean(axis=0), axis=1, ddof=1).sum() for of in (one, two)]
    variance = c * s2 + max(0, v_row - c * (2 * apart[0] / 2 + apart[1] / 1) / 3)
    t = scipy.stats.t.isf(0.025, variance**2 / ((c * s2) ** 2 / 3))
    assert found.high - found.low == pytest.approx(2 * t * np.sqrt(variance))


def test_p_values_are_adjusted_for_all_differences_of_a_comparison(tmp_path):
    first = seeds(tmp_path / "a", (110, 120))
    others = [seeds(tmp_path / n, r) for n, r in (("b", (127, 137)), ("c", (113, 120)))]
    (table,) = score_tables([first, *others])
    estimates: list[Any] = [table.difference(0, index) for index in (1, 2)]
    plain = [estimate.p for estimate in estimates]
    found = [verdict.p for verdict in compare_groups(first, *others).verdicts]
    assert plain[0] < 0.4 < plain[1]
    assert found == pytest.approx([2 * plain[0], plain[1]])


def test_an_untrained_head_is_compared_but_not_pooled(tmp_path):
    runs = [seeds(tmp_path / n, r) for n, r in (("a", (110, 120)), ("b", (125, 137)))]
    wild = seeds(tmp_path / "c", (5, 190), eval_only=("mood",))
    alone, beside = compare_groups(*runs), compare_groups(*runs, wild)
    verdicts = [entry(comparison, "mood").verdict for comparison in (alone, beside)]
    assert (verdicts[0].low, verdicts[0].high) == (verdicts[1].low, verdicts[1].high)
    pooled = compare_groups(*runs, seeds(tmp_path / "d", (5, 190)))
    assert entry(pooled, "mood").verdict.high > 2 * verdicts[0].high
    assert entry(beside, "mood", 2).verdict.high > 1


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
    assert entry(comparison, "mood").verdict.difference == pytest.approx(0.3)
    assert comparison.mean is None


def test_a_lower_rmse_is_lower(tmp_path):
    near, far = (
        [
            write_run(tmp_path / name / str(n), alike=alike(noise, n), metric="rmse", seed=n)
            for n in range(2)
        ]
        for name, noise in (("near", 0.5), ("far", 2))
    )
    assert entry(compare_groups(far, near), "alike").verdict.verdict == "lower"


def test_the_mean_of_a_side_is_over_tasks_and_runs(tmp_path):
    low, high = (
        [
            write_run(tmp_path / name / str(n), mood(right + n), alike(noise, n), seed=n)
            for n in range(2)
        ]
        for name, right, noise in (("low", 120, 2.0), ("high", 170, 1.0))
    )
    comparison = compare_groups(low, high)
    found = entry(comparison, "mean")
    parts = [entry(comparison, task).of_runs for task in ("mood", "alike")]
    assert found.of_runs == pytest.approx([sum(scores) / 2 for scores in zip(*parts, strict=True)])
    assert found.spread == pytest.approx(np.std(found.of_runs, ddof=1))
    assert found.verdict.verdict == "higher"


def not_finite(folder: Path) -> Path:
    """A run whose probabilities are NaN in one row."""
    run = write_run(folder, mood(120), alike(1))
    path = run / "predictions" / "000007" / "mood.csv"
    path.write_text(path.read_text().replace("0.9,", "nan,", 1))
    return run


def test_predictions_that_evaluate_refuses_have_no_score(tmp_path):
    runs = [write_run(tmp_path / "a", mood(120), alike(1)), not_finite(tmp_path / "b")]
    comparison = compare(runs)
    found = entry(comparison, "mood")
    assert (found.value, found.interval, found.verdict.difference) == (None, None, None)
    assert found.reason == "the model's output is not finite for 1 of 200 rows"
    assert entry(comparison, "mean").value is None
    grouped = entry(compare_groups(runs[:1], runs), "mood")
    assert (grouped.value, grouped.spread, grouped.of_runs) == (None, None, [0.6, None])
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_a_constant_prediction_is_reported_and_decides_nothing(tmp_path):
    runs = [
        write_run(tmp_path / "a", mood(120), alike=alike(1)),
        write_run(tmp_path / "b", mood(120), alike=np.full(200, 2.0)),
    ]
    comparison = compare(runs)
    found = entry(comparison, "alike")
    assert (found.value, found.reason) == (None, "all 200 predictions are equal")
    assert (found.verdict.difference, found.verdict.verdict) == (None, None)
    mean = entry(comparison, "mean")
    assert (mean.value, mean.verdict.verdict) == (None, None)
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


def shown_lines(comparison: Comparison, width: int) -> list[str]:
    shown = io.StringIO()
    Console(file=shown, width=width).print(comparison_table(comparison))
    return shown.getvalue().splitlines()


def test_the_table_shows_scores_intervals_p_and_words(tmp_path):
    sides = [seeds(tmp_path / "a", (118, 122)), seeds(tmp_path / "b", (178, 182))]
    comparison = compare_groups(*sides)
    first, other = (
        line for line in shown_lines(comparison, 300) if str(tmp_path) in line and "│" in line
    )
    assert "0.6000 ± 0.0141 (0." in first
    assert "0.9000 ± 0.0141 (0." in other
    assert "+0.3000 (+0." in other
    verdict = entry(comparison, "mood").verdict
    assert verdict.p < 0.0005
    assert " <0.001 " in other
    assert "higher" in other
    for width in (80, 60):
        words = " ".join(shown_lines(comparison, width)).split()
        for number in ("0.6000", "0.0141", "+0.3000", "<0.001", "higher"):
            assert number in words
        for end in (verdict.low, verdict.high):
            assert any(f"{end:+.4f}" in word for word in words)


def test_what_the_table_means_is_said_below_it(tmp_path, capsys):
    sides = [seeds(tmp_path / "a", (118, 122)), seeds(tmp_path / "b", (178, 182))]
    show_comparison(compare_groups(*sides))
    assert "adjusted for 1 difference (Holm)" in capsys.readouterr().out
    show_comparison(compare([sides[0][0], sides[1][0]]))
    shown = capsys.readouterr().out
    assert "train at least two seeds of each recipe and use --group-seeds" in shown
    assert "Holm" not in shown
    assert "undecided" not in shown
