"""Scores against scikit-learn and scipy, and what a score says where there is no value."""

import csv
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from comity.data.splits import Split
from comity.data.token_cache import TokenTable
from comity.evaluation.evaluate import judge
from comity.evaluation.metrics import (
    METRICS,
    Score,
    accuracy,
    better,
    calibration_error,
    confusion_matrix,
    f1_per_class,
    macro_f1,
    mean_score,
    micro_f1,
    pearson,
    ranks,
    rmse,
    spearman,
)
from comity.targets import HeadSpec, Target

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "files"
needs_cases = pytest.mark.skipif(
    not CASES.is_dir(), reason="shared/cases is not beside the checkout"
)

quick = settings(deadline=None, max_examples=60)
labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)
reals = st.floats(-1e6, 1e6)


def columns(case: str) -> dict[str, list[str]]:
    with (CASES / case / "gold-and-pred.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def value(score: Score) -> float:
    assert score.value is not None
    return score.value


@given(labels)
@quick
def test_classification_scores_equal_scikit_learn(pairs):
    gold, predicted = np.array(pairs).T
    f1 = f1_per_class(gold, predicted)
    expected = sklearn.metrics.f1_score(gold, predicted, labels=[*f1], average=None)  # pyright: ignore[reportArgumentType]
    assert [*f1] == sorted({*gold.tolist(), *predicted.tolist()})
    assert [*f1.values()] == pytest.approx(expected)
    assert value(accuracy(gold, predicted)) == pytest.approx(np.mean(gold == predicted))
    assert value(macro_f1(gold, predicted)) == pytest.approx(
        sklearn.metrics.f1_score(gold, predicted, average="macro")
    )
    matrix = sklearn.metrics.confusion_matrix(gold, predicted, labels=range(5))
    assert confusion_matrix(gold, predicted, 5).tolist() == matrix.tolist()


@given(arrays.arrays(np.int64, (2, 6, 3), elements=st.integers(0, 1)))
@quick
def test_micro_f1_equals_scikit_learn(pair):
    gold, predicted = pair
    assume(pair.any())
    expected = sklearn.metrics.f1_score(gold, predicted, average="micro")
    assert value(micro_f1(gold, predicted)) == pytest.approx(expected)
    assert micro_f1(gold.astype(bool), predicted.astype(bool)) == micro_f1(gold, predicted)


@given(st.lists(st.tuples(reals, reals), min_size=2, max_size=40))
@quick
def test_pearson_and_rmse_equal_scipy_and_scikit_learn(pairs):
    gold, predicted = np.array(pairs).T
    expected = sklearn.metrics.root_mean_squared_error(gold, predicted)
    assert value(rmse(gold, predicted)) == pytest.approx(expected, abs=1e-12)
    assume(
        min(np.ptp(column) / np.abs(column).max(initial=1e-9) for column in (gold, predicted))
        > 1e-4
    )
    expected = scipy.stats.pearsonr(gold, predicted)[0]
    assert value(pearson(gold, predicted)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("gold", [[0.0, 1.0, 2.5, 4.0, 5.0], [0.1, 0.7, 0.30000000000000004]])
def test_pearson_of_a_line_is_one(gold):
    gold = np.array(gold)
    assert value(pearson(gold, gold)) == 1.0
    assert value(pearson(gold, 1 + 0.1 * gold)) == pytest.approx(1, abs=1e-15)
    assert value(pearson(gold, -gold)) == -1.0
    for scale in (1e-300, 1e300):
        assert value(pearson(gold, scale * gold)) == pytest.approx(1, abs=1e-15)


def test_pearson_of_near_constant_numbers_keeps_its_digits():
    gold = np.array([0.0, 1.0, 3.0, 2.0])
    assert value(pearson(gold, 1e8 + gold)) == pytest.approx(1, abs=1e-15)
    assert value(pearson(gold, 1e12 - gold)) == pytest.approx(-1, abs=1e-15)
    # Both far from zero, with a mean that no float holds.
    gold, predicted = np.array([0.0, 4, 9, 11, 20]), np.array([7.0, 0, 5, 22, 14])
    expected = scipy.stats.pearsonr(gold, predicted)[0]
    assert value(pearson(2.0**49 + gold, 2.0**49 + predicted)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("gold", "predicted", "reason"),
    [
        ([], [], "no rows"),
        ([3.0], [2.0], "one row"),
        ([3.0, 3.0, 3.0], [1.0, 2.0, 4.0], "all 3 gold scores are 3.0"),
        ([0.25, 0.25], [7.0, 7.0], "all 2 gold scores are 0.25"),
        ([0.0, 0.0], [7.0, 8.0], "all 2 gold scores are 0.0"),
        ([1.0, 2.0, 5.0], [2.5, 2.5, 2.5], "all 3 predictions are equal"),
        ([1.0, 2.0, 5.0, 4.0], [0.3, 0.1 + 0.2, 0.3, 0.3], "all 4 predictions are equal"),
        ([1.0, 2.0, 5.0], [0.0, 0.0, 0.0], "all 3 predictions are equal"),
        ([1.0, 2.0], [math.nan, 1.0], "1 of 2 predictions are not finite"),
        ([1.0, math.inf], [0.5, 1.0], "1 of 2 gold scores are not finite"),
    ],
)
def test_pearson_without_a_value_says_why(gold, predicted, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pearson(gold, predicted) == Score("pearson", None, reason, True)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_without_rows_has_no_value(metric):
    empty = np.zeros((0, 3)) if metric == "micro_f1" else []
    score = METRICS[metric](empty, empty)
    assert (score.name, score.value, score.reason) == (metric, None, "no rows")
    assert score.higher_is_better == (metric != "rmse")


@pytest.mark.parametrize("metric", METRICS)
def test_shapes_that_would_broadcast_are_refused(metric):
    for gold, predicted in (([[1.0], [0.0]], [1.0, 0.0]), ([1.0, 0.0], [1.0]), (1.0, 1.0)):
        with pytest.raises(ValueError, match="equal shapes"):
            METRICS[metric](gold, predicted)


def test_micro_f1_without_any_positive_has_no_value():
    nothing = np.zeros((4, 3), dtype=bool)
    score = micro_f1(nothing, nothing)
    assert score.value is None
    assert score.reason == "no label in gold or prediction in any of 4 rows"
    assert micro_f1(nothing, ~nothing).value == 0.0


def test_rmse_by_hand_and_where_it_has_no_value():
    assert rmse([1.0, 2.0], [4.0, 6.0]).value == pytest.approx(math.sqrt(12.5))
    assert rmse([1.0], [1.5]) == Score("rmse", 0.5, None, False)
    assert rmse([1.0, 2.0], [math.nan, 2.0]).reason == "1 of 2 predictions are not finite"
    assert rmse([1e300], [-1e300]).reason == "the errors are too large to square"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=40))
@quick
def test_spearman_and_ranks_equal_scipy_with_many_ties(pairs):
    gold, predicted = np.array(pairs).T
    assert ranks(gold).tolist() == scipy.stats.rankdata(gold).tolist()
    assume(np.ptp(gold) and np.ptp(predicted))
    expected = scipy.stats.spearmanr(gold, predicted)[0]
    assert value(spearman(gold, predicted)) == pytest.approx(expected, abs=1e-12)


def test_spearman_sees_the_order_alone():
    # Ranks 1, 2, 3, 4 and 2, 1, 3, 4: 1 - 6 (1 + 1) / (4 (16 - 1)) = 0.8.
    gold = np.array([0.0, 1.0, 2.5, 5.0])
    assert value(spearman(gold, [2.0, 1.0, 3.0, 400.0])) == pytest.approx(0.8)
    assert value(spearman(gold, np.exp(gold))) == 1.0
    assert value(spearman(gold, -(gold**3))) == -1.0
    assert spearman([3.0, 3.0], [1.0, 2.0]).reason == "all 2 gold scores are 3.0"
    assert spearman([1.0, 2.0], [math.nan, 1.0]).reason == "1 of 2 predictions are not finite"


def test_calibration_error_by_hand():
    # Two rows at 0.95, one of them right: |0.5 - 0.95| = 0.45. One at 0.55, right: 0.45.
    probabilities = [[0.95, 0.05], [0.05, 0.95], [0.55, 0.45]]
    error = calibration_error([0, 0, 0], probabilities)
    assert error.value == pytest.approx(0.45)
    assert (error.name, error.higher_is_better) == ("calibration_error", False)
    # 0.95 and 0.45 of three classes, both right: (0.05 + 0.55) / 2. Certain and right: nothing.
    assert calibration_error([2, 0], [[0, 0.05, 0.95], [0.45, 0.3, 0.25]]).value == pytest.approx(
        0.3
    )
    assert calibration_error([0, 1], np.eye(2)).value == 0
    assert calibration_error([1, 0], np.eye(2)).value == 1


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(2, 5))
@quick
def test_calibration_error_is_the_published_sum_over_bins(seed, rows, classes):
    draws = np.random.default_rng(seed)
    probabilities = draws.dirichlet(np.ones(classes), size=rows)
    gold = draws.integers(classes, size=rows)
    total = 0.0
    for m in range(1, 16):  # Guo et al. 2017: the interval ((m - 1) / M, m / M]
        in_bin = [i for i in range(rows) if (m - 1) / 15 < probabilities[i].max() <= m / 15]
        if in_bin:
            right = np.mean([probabilities[i].argmax() == gold[i] for i in in_bin])
            confidence = np.mean([probabilities[i].max() for i in in_bin])
            total += len(in_bin) / rows * abs(right - confidence)
    assert value(calibration_error(gold, probabilities)) == pytest.approx(total, abs=1e-12)


def test_calibration_error_without_a_value_says_why():
    assert calibration_error([], np.zeros((0, 2))).reason == "no rows"
    error = calibration_error([0, 1], [[math.nan, 0.5], [0.5, 0.5]])
    assert error.reason == "the probabilities of 1 of 2 rows are not finite"
    with pytest.raises(ValueError, match="one class number for each row"):
        calibration_error([0], np.eye(2))


def judged(target: Target, metric: str, targets: list, outputs: list, **how):
    count = len(targets)
    table = TokenTable(
        Path("dev.csv"), (), (), np.arange(count), np.zeros((count, 0), np.uint64), {}, ""
    )
    split = Split(table, np.arange(count), np.array(targets))
    spec = HeadSpec(target, ("first",))
    return judge("task", spec, metric, split, np.array(outputs, dtype=np.float64), **how)


def test_one_logit_is_as_sure_as_its_predicted_class():
    # Logits ln 3 and -ln 3: probabilities 0.75 and 0.25, so both rows are 0.75 sure; one is right.
    target = Target("classification", "linear", classes=("no", "yes"))
    evaluation = judged(target, "accuracy", [1, 1], [[math.log(3)], [-math.log(3)]])
    assert evaluation.others["calibration_error"].value == pytest.approx(0.25)
    assert evaluation.to_dict()["calibration_error"] == pytest.approx(0.25)
    assert evaluation.confusion == [[0, 0], [1, 1]]
    assert "interval" not in evaluation.to_dict()


def test_scores_of_the_bins_head_are_matched_with_the_nearest_level():
    # Scale 1 to 3; the softmax of (0, 0, 20) expects 3, of zeros 2; gold 2.5 is nearest to 3.
    target = Target("similarity", "bins", scale=(1.0, 3.0), rounding="down")
    outputs = [[0, 0, 20], [0, 0, 0], [20, 0, 0]]
    evaluation = judged(target, "pearson", [2.5, 2.4, 1.0], outputs, intervals=True)
    assert evaluation.confusion == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert evaluation.others["spearman"].value == pytest.approx(1)
    low, high = evaluation.to_dict()["interval"]
    assert -1 <= low <= value(evaluation.score) + 1e-9 <= high <= 1


def test_numbers_that_are_not_finite_have_no_level_and_no_interval():
    target = Target("similarity", "bins", scale=(0.0, 1.0))
    outputs = [[math.nan, 0], [0, 0], [0, 1]]
    evaluation = judged(target, "pearson", [0.0, 1.0, 0.5], outputs, intervals=True)
    assert (evaluation.confusion, evaluation.interval) == (None, None)
    assert evaluation.score.reason == "the model's output is not finite for 1 rows"


def test_confusion_matrix_has_a_row_for_each_class_of_the_run():
    assert confusion_matrix([0, 0, 2], [0, 2, 2], 4).tolist() == [
        [1, 0, 1, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 0],
    ]
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]
    for wrong in (3, -1):
        with pytest.raises(ValueError, match="do not fit 3 classes"):
            confusion_matrix([0, 1], [wrong, 1], 3)


def test_macro_f1_counts_a_class_that_is_only_predicted():
    # a: TP 1, FN 1; b: right; c: never right.
    gold, predicted = ["a", "a", "b"], ["a", "c", "b"]
    assert f1_per_class(gold, predicted) == pytest.approx({"a": 2 / 3, "b": 1.0, "c": 0.0})
    assert macro_f1(gold, predicted).value == pytest.approx(5 / 9)
    assert macro_f1(["a", "b"], ["a", "b"]).value == 1.0


def test_mean_leaves_out_what_has_no_value_and_says_so():
    scores = {
        "mood": Score("accuracy", 0.5, None, True),
        "topic": Score("macro_f1", 0.75, None, True),
        "alike": Score("pearson", None, "one row", True),
        "price": Score("rmse", 12.5, None, False),
    }
    mean = mean_score(scores)
    assert mean.value == 0.625
    assert mean.reason == "without alike: one row; without price: rmse is better when lower"
    assert (mean.name, mean.higher_is_better, mean.left_out) == ("mean", True, 2)
    whole = mean_score({name: scores[name] for name in ("mood", "topic")})
    assert whole == Score("mean", 0.625, None, True)


def test_mean_of_nothing_has_no_value():
    assert mean_score({}) == Score("mean", None, "no tasks", True)
    none = mean_score({"alike": Score("pearson", None, "one row", True)})
    assert (none.value, none.reason) == (None, "without alike: one row")


def test_a_score_without_a_value_never_wins():
    none = Score("pearson", None, "one row", True)
    low = Score("pearson", -0.9, None, True)
    assert better(low, none)
    assert better(low, None)
    assert not better(none, low)
    assert not better(none, none)
    assert not better(none, None)


def test_better_follows_the_metric_and_a_draw_is_no_win():
    assert better(Score("accuracy", 0.6, None, True), Score("accuracy", 0.5, None, True))
    assert not better(Score("accuracy", 0.5, None, True), Score("accuracy", 0.6, None, True))
    assert not better(Score("accuracy", 0.5, None, True), Score("accuracy", 0.5, None, True))
    assert better(Score("rmse", 0.5, None, False), Score("rmse", 0.6, None, False))
    assert not better(Score("rmse", 0.6, None, False), Score("rmse", 0.5, None, False))
    with pytest.raises(ValueError, match="cannot be compared"):
        better(Score("rmse", 0.5, None, False), Score("accuracy", 0.6, None, True))


def test_losing_the_worst_task_from_a_mean_is_no_progress():
    def mean(alike: Score) -> Score:
        return mean_score({"mood": Score("accuracy", 0.8, None, True), "alike": alike})

    early = mean(Score("pearson", 0.2, None, True))
    collapsed = mean(Score("pearson", None, "all 9 predictions are equal", True))
    assert value(collapsed) > value(early)
    assert not better(collapsed, early)
    assert better(early, collapsed)
    again = mean_score(
        {
            "mood": Score("accuracy", 0.9, None, True),
            "alike": Score("pearson", None, "one row", True),
        }
    )
    assert better(again, collapsed)


@needs_cases
def test_case_lb_09_macro_f1_with_a_class_missing_from_dev():
    expected = json.loads((CASES / "LB-09" / "expected.json").read_text())["expect"]
    column = columns("LB-09")
    assert accuracy(column["gold"], column["pred_a"]).value == expected["pred_a"]["accuracy"]
    assert macro_f1(column["gold"], column["pred_a"]).value == expected["pred_a"]["macro_f1"]
    wanted = expected["pred_b"]
    assert accuracy(column["gold"], column["pred_b"]).value == pytest.approx(
        wanted["accuracy"], abs=1e-6
    )
    assert f1_per_class(column["gold"], column["pred_b"]) == pytest.approx(wanted["f1"], abs=1e-6)
    assert macro_f1(column["gold"], column["pred_b"]).value == pytest.approx(
        wanted["macro_f1_over_classes_in_gold_or_pred"], abs=1e-6
    )
    gold, predicted = (["abc".index(c) for c in column[name]] for name in ("gold", "pred_a"))
    assert list(confusion_matrix(gold, predicted, 3).shape) == expected["confusion_matrix_shape"]


@needs_cases
def test_case_tr_02_pearson_of_a_constant():
    expected = json.loads((CASES / "TR-02" / "expected.json").read_text())["expect"]
    for name in ("dev-constant.tsv", "dev-one-row.tsv"):
        with (CASES / "TR-02" / name).open(newline="") as file:
            gold = [float(row["score"]) for row in csv.DictReader(file, delimiter="\t")]
        score = pearson(gold, np.linspace(0, 1, len(gold)))
        assert {"pearson": score.value, "reason": score.reason} == expected[name]
    column = columns("TR-02")
    gold = np.array(column["gold"], dtype=float)
    for name, wanted in expected["gold-and-pred.csv"].items():
        measured = pearson(gold, np.array(column[name], dtype=float)).value
        assert measured == (wanted if wanted is None else pytest.approx(wanted, abs=1e-12))
