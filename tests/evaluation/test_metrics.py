"""Metrics against their formulas, and the reason of a score without a value."""

import csv
import json
import math
import subprocess
import sys
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
from comity.evaluation.evaluate import evaluate_outputs
from comity.evaluation.metrics import (
    METRICS,
    ClassScore,
    Score,
    accuracy,
    balanced_accuracy,
    better,
    calibration_error,
    class_scores,
    confusion_matrix,
    f1_per_class,
    higher_is_better,
    macro_f1,
    mae,
    mcc,
    mean_score,
    metrics_of,
    micro_f1,
    pearson,
    rmse,
    spearman,
)
from comity.recipe.schema import METRICS_OF
from comity.targets import HeadSpec, Target

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "files"
needs_cases = pytest.mark.skipif(
    not CASES.is_dir(), reason="shared/cases is not next to the checkout"
)

quick = settings(max_examples=60)
labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)
reals = st.floats(-1e6, 1e6)


def columns(case: str) -> dict[str, list[str]]:
    with (CASES / case / "gold-and-pred.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def value(score: Score) -> float:
    assert score.value is not None
    return score.value


def confusions(gold, predicted, classes):
    """How often each class of gold was predicted as each class, by counting rows one by one."""
    pairs = [*zip(gold.tolist(), predicted.tolist(), strict=True)]
    return [[pairs.count((row, column)) for column in classes] for row in classes]


@given(labels)
@quick
def test_classification_scores_follow_their_formulas(pairs):
    gold, predicted = np.array(pairs).T
    f1 = f1_per_class(gold, predicted)
    assert [*f1] == sorted({*gold.tolist(), *predicted.tolist()})
    for label, found in f1.items():
        right = np.sum((gold == label) & (predicted == label))
        wrong = np.sum((gold == label) != (predicted == label))  # false positives and negatives
        assert found == pytest.approx(2 * right / (2 * right + wrong))
    assert value(accuracy(gold, predicted)) == pytest.approx(np.mean(gold == predicted))
    assert value(macro_f1(gold, predicted)) == pytest.approx(sum(f1.values()) / len(f1))
    assert confusion_matrix(gold, predicted, 5).tolist() == confusions(gold, predicted, range(5))


@given(labels)
@quick
def test_class_names_score_as_class_numbers_do(pairs):
    gold, predicted = np.array(pairs).T
    names = np.array(["b", "", "a|b", "10", "9"])
    for metric in (accuracy, macro_f1):
        by_name = value(metric(names[gold], names[predicted]))
        assert by_name == pytest.approx(value(metric(gold, predicted)))


@pytest.mark.parametrize("labels", [1, 2, 3])
@given(st.data())
@quick
def test_micro_f1_follows_its_formula(labels, data):
    indicators = arrays.arrays(np.int64, (2, 6, labels), elements=st.integers(0, 1))
    gold, predicted = data.draw(indicators)
    assume(gold.any() or predicted.any())
    right, wrong = np.sum(gold & predicted), np.sum(gold != predicted)
    assert value(micro_f1(gold, predicted)) == pytest.approx(2 * right / (2 * right + wrong))
    assert micro_f1(gold.astype(bool), predicted.astype(bool)) == micro_f1(gold, predicted)


@given(st.lists(st.tuples(reals, reals), min_size=2, max_size=40))
@quick
def test_pearson_and_rmse_follow_their_formulas(pairs):
    gold, predicted = np.array(pairs).T
    expected = math.sqrt(math.fsum((g - p) ** 2 for g, p in pairs) / len(pairs))
    assert value(rmse(gold, predicted)) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assume(
        min(np.ptp(column) / np.abs(column).max(initial=1e-9) for column in (gold, predicted))
        > 1e-4
    )
    x, y = gold - gold.mean(), predicted - predicted.mean()
    expected = np.sum(x * y) / math.sqrt(np.sum(x * x) * np.sum(y * y))
    assert value(pearson(gold, predicted)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("gold", [[0.0, 1.0, 2.5, 4.0, 5.0], [0.1, 0.7, 0.30000000000000004]])
def test_pearson_of_a_line_is_one(gold):
    gold = np.array(gold)
    assert value(pearson(gold, gold)) == pytest.approx(1, abs=1e-15)
    assert value(pearson(gold, 1 + 0.1 * gold)) == pytest.approx(1, abs=1e-15)
    assert value(pearson(gold, -gold)) == pytest.approx(-1, abs=1e-15)
    for scale in (1e-300, 1e300):
        assert value(pearson(gold, scale * gold)) == pytest.approx(1, abs=1e-15)


def test_pearson_of_near_constant_numbers_keeps_its_digits():
    gold = np.array([0.0, 1.0, 3.0, 2.0])
    assert value(pearson(gold, 1e8 + gold)) == pytest.approx(1, abs=1e-15)
    assert value(pearson(gold, 1e12 - gold)) == pytest.approx(-1, abs=1e-15)
    # Both far from zero, with a mean that is not a float64.
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
def test_a_correlation_without_a_value_says_why(gold, predicted, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pearson(gold, predicted) == Score("pearson", None, reason, True)
        assert spearman(gold, predicted) == Score("spearman", None, reason, True)


def test_libraries_are_imported_only_when_a_score_needs_them():
    code = "import sys, comity.evaluation.bootstrap; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "comity.evaluation.metrics" in output.split()
    assert not {"torch", "scipy", "sklearn"} & set(output.split())


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_without_rows_has_no_value(metric):
    empty = np.zeros((0, 3)) if metric == "micro_f1" else []
    score = METRICS[metric](empty, empty)
    assert (score.name, score.value, score.reason) == (metric, None, "no rows")


def test_a_lower_value_is_better_for_errors_alone():
    assert [name for name in METRICS if not higher_is_better(name)] == ["rmse", "mae"]
    assert rmse([1.0], [2.0]).higher_is_better is False
    assert accuracy([1], [2]).higher_is_better is True


def test_the_recipe_accepts_the_metrics_of_the_table():
    # The first is the default of a kind, so the order matters too.
    found = {kind: tuple(m.name for m in metrics_of(kind)) for kind in METRICS_OF}
    assert found == METRICS_OF


@pytest.mark.parametrize(
    ("metric", "gold", "predicted"),
    [
        # A class that is never predicted, one that is never in gold, one class alone, and more
        # classes than half of the rows: each could make scikit-learn warn.
        (accuracy, ["a", "b"], ["a", "a"]),
        (macro_f1, ["a", "b"], ["a", "a"]),
        (macro_f1, ["a", "a"], ["a", "b"]),
        (macro_f1, ["a", "a"], ["a", "a"]),
        (macro_f1, np.arange(30), np.arange(30)[::-1]),
        (accuracy, np.arange(30), np.arange(30)),
        (micro_f1, [[0, 0], [0, 1]], [[0, 0], [0, 0]]),
        (micro_f1, [[0, 0], [0, 0]], [[1, 0], [0, 0]]),
        (balanced_accuracy, ["a", "b"], ["a", "a"]),
        (balanced_accuracy, ["a", "a"], ["a", "b"]),
        (mcc, ["a", "b"], ["a", "a"]),
        (mcc, ["a", "a"], ["a", "a"]),
        (rmse, [1e300, 0.0], [-1e300, 0.0]),
        (mae, [1e308, 0.0], [-1e308, 0.0]),
        (spearman, [1.0, 2.0, 2.0], [1e-300, 2e-300, 1e300]),
        (pearson, [1.0, 2.0], [1e12, 1e12 + 1]),
    ],
)
def test_no_score_warns(metric, gold, predicted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric(gold, predicted)
        if metric in (accuracy, macro_f1) and isinstance(gold, np.ndarray):
            confusion_matrix(gold, predicted, 30)


@pytest.mark.parametrize("metric", METRICS)
def test_shapes_that_would_broadcast_are_refused(metric):
    for gold, predicted in (([[1.0], [0.0]], [1.0, 0.0]), ([1.0, 0.0], [1.0]), (1.0, 1.0)):
        with pytest.raises(ValueError, match="must have equal shapes"):
            METRICS[metric](gold, predicted)


def test_micro_f1_without_any_positive_has_no_value():
    nothing = np.zeros((4, 3), dtype=bool)
    score = micro_f1(nothing, nothing)
    assert score.value is None
    assert score.reason == "no label in gold or prediction in any of 4 rows"
    assert micro_f1(nothing, ~nothing).value == 0.0


def test_balanced_accuracy_and_mcc_by_hand():
    # Six a of which five are right, two b of which one is: recalls 5/6 and 1/2.
    gold, predicted = list("aaaaaabb"), list("aaaaabba")
    assert value(balanced_accuracy(gold, predicted)) == pytest.approx((5 / 6 + 1 / 2) / 2)
    # tp = 1, tn = 5, fp = 1, fn = 1: (1 * 5 - 1 * 1) / sqrt(2 * 2 * 6 * 6).
    assert value(mcc(gold, predicted)) == pytest.approx(4 / 12)
    # A majority classifier: the accuracy is 0.75, and these two show that it knows nothing.
    assert value(balanced_accuracy(gold, ["a"] * 8)) == 0.5
    assert value(mcc(gold, ["a"] * 8)) == 0.0
    assert mcc(["a", "a"], ["a", "b"]).reason == "all 2 gold labels are one class"
    # A class that is only predicted has no recall and does not count.
    assert value(balanced_accuracy(["a", "b"], ["a", "c"])) == 0.5


@given(labels)
@quick
def test_balanced_accuracy_is_the_mean_of_the_recalls(pairs):
    gold, predicted = np.array(pairs).T
    recalls = [np.mean(predicted[gold == name] == name) for name in np.unique(gold)]
    assert value(balanced_accuracy(gold, predicted)) == pytest.approx(np.mean(recalls))


@given(labels)
@quick
def test_mcc_is_the_correlation_of_the_indicators(pairs):
    """Gorodkin 2004, equation 8: the covariances are summed over the classes."""
    gold, predicted = np.array(pairs).T
    assume((gold != gold[0]).any() and (predicted != predicted[0]).any())
    classes = np.unique(np.concatenate([gold, predicted]))
    x, y = ((a[:, None] == classes).astype(float) for a in (gold, predicted))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    expected = (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())
    assert value(mcc(gold, predicted)) == pytest.approx(expected, abs=1e-12)


def test_scores_of_each_class_by_hand():
    # a: two of three found, one b taken for it. b: one of two. c: never in gold, predicted once.
    # d: neither.
    scores = class_scores([0, 0, 0, 1, 1], [0, 0, 2, 1, 0], 4)
    assert scores[0] == ClassScore(2 / 3, 2 / 3, 2 / 3, rows=3, predicted=3)
    assert scores[1] == ClassScore(1.0, 0.5, 2 / 3, rows=2, predicted=1)
    assert scores[2] == ClassScore(0.0, None, 0.0, rows=0, predicted=1)
    assert scores[3] == ClassScore(None, None, None, rows=0, predicted=0)
    assert class_scores([], [], 2) == [ClassScore(None, None, None, 0, 0)] * 2


def test_scores_of_each_label_by_hand():
    gold = np.array([[1, 0], [1, 0], [0, 0]])
    predicted = np.array([[1, 0], [0, 1], [1, 0]])
    up, down = class_scores(gold, predicted, 2)
    assert up == ClassScore(0.5, 0.5, 0.5, rows=2, predicted=2)
    assert down == ClassScore(0.0, None, 0.0, rows=0, predicted=1)
    (alone,) = class_scores(gold[:, :1], predicted[:, :1], 1)
    assert alone == up


@pytest.mark.parametrize("shape", [(30,), (30, 3)])
@given(st.integers(0, 10_000))
@quick
def test_scores_of_each_class_agree_with_scikit_learn(shape, seed):
    gold, predicted = np.random.default_rng(seed).integers(0, 2 if shape[1:] else 4, (2, *shape))
    count = 3 if shape[1:] else 5
    found = class_scores(gold, predicted, count)
    expected = sklearn.metrics.precision_recall_fscore_support(
        gold,
        predicted,
        labels=range(count),
        zero_division=np.nan,  # pyright: ignore[reportArgumentType]
    )
    columns = ([getattr(s, n) for s in found] for n in ("precision", "recall", "f1", "rows"))
    for column, theirs in zip(columns, expected, strict=True):
        numbers = [math.nan if number is None else number for number in column]
        assert numbers == pytest.approx(np.asarray(theirs).tolist(), nan_ok=True)
    assert [s.predicted for s in found] == (
        predicted.sum(axis=0).tolist()
        if shape[1:]
        else np.bincount(predicted, minlength=5).tolist()
    )


def test_mae_by_hand_and_where_it_has_no_value():
    assert mae([1.0, 2.0], [4.0, 6.0]) == Score("mae", 3.5, None, False)
    assert mae([1.0, 2.0], [math.inf, 2.0]).reason == "1 of 2 predictions are not finite"
    assert mae([1e308], [-1e308]).reason == "the errors are too large to add"


def test_rmse_by_hand_and_where_it_has_no_value():
    assert rmse([1.0, 2.0], [4.0, 6.0]).value == pytest.approx(math.sqrt(12.5))
    assert rmse([1.0], [1.5]) == Score("rmse", 0.5, None, False)
    assert rmse([1.0, 2.0], [math.nan, 2.0]).reason == "1 of 2 predictions are not finite"
    assert rmse([1e300], [-1e300]).reason == "the errors are too large to square"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=40))
@quick
def test_spearman_is_pearson_of_the_ranks_with_many_ties(pairs):
    gold, predicted = np.array(pairs).T
    assume(np.ptp(gold) and np.ptp(predicted))
    # Twice the mean rank of a number: how many are smaller, and how many are not larger.
    ranks = [
        [np.sum(column < number) + np.sum(column <= number) for number in column]
        for column in (gold, predicted)
    ]
    expected = np.corrcoef(ranks)[0, 1]
    assert value(spearman(gold, predicted)) == pytest.approx(expected, abs=1e-12)


def test_spearman_depends_on_the_order_alone():
    # Ranks 1, 2, 3, 4 and 2, 1, 3, 4: 1 - 6 (1 + 1) / (4 (16 - 1)) = 0.8.
    gold = np.array([0.0, 1.0, 2.5, 5.0])
    assert value(spearman(gold, [2.0, 1.0, 3.0, 400.0])) == pytest.approx(0.8)
    assert value(spearman(gold, np.exp(gold))) == pytest.approx(1, abs=1e-15)
    assert value(spearman(gold, -(gold**3))) == pytest.approx(-1, abs=1e-15)
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


def evaluated(target: Target, metric: str, targets: list, outputs: list, **how):
    count = len(targets)
    table = TokenTable(
        Path("dev.csv"), (), (), np.arange(count), np.zeros((count, 0), np.uint64), {}, ""
    )
    split = Split(table, np.arange(count), np.array(targets))
    spec = HeadSpec(target, ("first",))
    return evaluate_outputs("task", spec, metric, split, np.array(outputs, dtype=np.float64), **how)


def test_confidence_of_one_logit_is_that_of_the_predicted_class():
    # Logits ln 3 and -ln 3: both confidences are 0.75. One is right.
    target = Target("classification", "linear", classes=("no", "yes"))
    evaluation = evaluated(target, "accuracy", [1, 1], [[math.log(3)], [-math.log(3)]])
    assert evaluation.others["calibration_error"].value == pytest.approx(0.25)
    assert evaluation.to_dict()["others"]["calibration_error"] == pytest.approx(0.25)
    assert evaluation.confusion == [[0, 0], [1, 1]]
    assert "interval" not in evaluation.to_dict()


def test_scores_of_the_bins_head_count_as_the_nearest_level():
    # Scale 1 to 3. Outputs (0, 0, 20) predict 3 and zeros predict 2; gold 2.5 counts as level 3.
    target = Target("similarity", "bins", scale=(1.0, 3.0), rounding="down")
    outputs = [[0, 0, 20], [0, 0, 0], [20, 0, 0]]
    evaluation = evaluated(target, "pearson", [2.5, 2.4, 1.0], outputs, intervals=True)
    assert evaluation.confusion == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert evaluation.others["spearman"].value == pytest.approx(1)
    low, high = evaluation.to_dict()["interval"]
    assert -1 <= low <= value(evaluation.score) + 1e-9 <= high <= 1


def test_outputs_that_are_not_finite_have_no_confusion_matrix_and_no_interval():
    target = Target("similarity", "bins", scale=(0.0, 1.0))
    outputs = [[math.nan, 0], [0, 0], [0, 1]]
    evaluation = evaluated(target, "pearson", [0.0, 1.0, 0.5], outputs, intervals=True)
    assert (evaluation.confusion, evaluation.interval) == (None, None)
    assert evaluation.score.reason == "the model's output is not finite for 1 of 3 rows"


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


def test_the_mean_names_the_tasks_it_leaves_out():
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


def test_a_mean_of_no_tasks_has_no_value():
    assert mean_score({}) == Score("mean", None, "no tasks", True)
    none = mean_score({"alike": Score("pearson", None, "one row", True)})
    assert (none.value, none.reason) == (None, "without alike: one row")


def test_a_score_without_a_value_is_never_better():
    none = Score("pearson", None, "one row", True)
    low = Score("pearson", -0.9, None, True)
    assert better(low, none)
    assert better(low, None)
    assert not better(none, low)
    assert not better(none, none)
    assert not better(none, None)


def test_better_follows_the_metric_and_a_tie_is_not_better():
    assert better(Score("accuracy", 0.6, None, True), Score("accuracy", 0.5, None, True))
    assert not better(Score("accuracy", 0.5, None, True), Score("accuracy", 0.6, None, True))
    assert not better(Score("accuracy", 0.5, None, True), Score("accuracy", 0.5, None, True))
    assert better(Score("rmse", 0.5, None, False), Score("rmse", 0.6, None, False))
    assert not better(Score("rmse", 0.6, None, False), Score("rmse", 0.5, None, False))
    with pytest.raises(ValueError, match="cannot be compared"):
        better(Score("rmse", 0.5, None, False), Score("accuracy", 0.6, None, True))


def test_a_mean_that_loses_the_worst_task_is_not_better():
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
