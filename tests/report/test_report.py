"""The numbers of a report against other libraries, and reports of runs that lack something."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from tests.evaluation.helpers import alike, mood, seeds, write_csv, write_run
from tests.helpers import run_facts, stop_after_step, two_tasks, write_two_tasks
from tests.report.conftest import ATTACKS, CLASSES, STAGE
from tests.report.helpers import Page

from comity import ComityError, train
from comity.evaluation.compare import compare, compare_groups
from comity.experiments.slim import write_slim_run
from comity.report.write import write_report
from comity.runs.directory import RunDirectory
from comity.runs.entries import ConflictEntry, EvaluationEntry, StageConflictEntry
from comity.targets import HeadSpec, Target
from comity.training.data_summary import data_summary
from comity.training.setup import prepare
from comity.training.trainer import Trainer

TASKS = ["classes", "labels", "number", "bins", "score", "cosine"]


def report_of(*runs: Path, out: Path, **options: Any) -> dict[str, Any]:
    """The content of report.json."""
    written = write_report(runs, out, **options)
    found = json.loads(written.numbers.read_text())
    assert found == json.loads(json.dumps(written.to_dict()))
    return found


def page_of(out: Path) -> Page:
    return Page((out / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(every_run, tmp_path_factory) -> dict[str, Any]:
    return report_of(every_run.path, out=tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def views(found) -> dict[str, Any]:
    return {view["task"]: view for view in found["tasks"]}


def predictions(run: RunDirectory, task: str) -> list[dict[str, str]]:
    path = run.path / "predictions" / f"{run.best().step:06d}" / f"{task}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


# --- numbers --------------------------------------------------------------------------------------


def test_scores_are_those_that_the_run_recorded(every_run, views, found):
    evaluations = every_run.entries(EvaluationEntry)
    kept = next(e for e in evaluations if e.step == every_run.best().step)
    for task in TASKS:
        recorded = kept.tasks[task]
        assert views[task]["scores"][recorded.metric] == pytest.approx(recorded.value)
        for name, value in recorded.others.items():
            if name != "calibration_error":
                assert views[task]["scores"][name] == pytest.approx(value)
    of_tasks = {table["task"]: table["entries"][0]["value"] for table in found["scores"]["tasks"]}
    assert of_tasks == pytest.approx({task: kept.tasks[task].value for task in TASKS})


def test_the_confusion_matrix_equals_scikit_learn(every_run, views):
    rows = predictions(every_run, "classes")
    names = views["classes"]["names"]
    assert sorted(names) == sorted(CLASSES)
    expected = sklearn.metrics.confusion_matrix(
        [row["gold"] for row in rows], [row["prediction"] for row in rows], labels=names
    )
    assert views["classes"]["confusion"] == expected.tolist()
    scores: Any = sklearn.metrics.precision_recall_fscore_support(
        [row["gold"] for row in rows],
        [row["prediction"] for row in rows],
        labels=names,
        zero_division=np.nan,  # pyright: ignore[reportArgumentType]
    )
    precision, recall, f1, support = scores
    for n, one in enumerate(views["classes"]["classes"]):
        for name, value in (("precision", precision[n]), ("recall", recall[n])):
            assert (one[name] is None) == np.isnan(value)
            assert one[name] is None or one[name] == pytest.approx(value)
        assert (one["f1"] or 0) == pytest.approx(f1[n])
        assert one["rows"] == support[n]


def test_the_confusion_of_levels_rounds_to_the_nearest(every_run, views):
    rows = predictions(every_run, "bins")
    gold = np.floor(column(rows, "gold") + 0.5).astype(int)
    predicted = np.floor(column(rows, "prediction") + 0.5).astype(int)
    expected = sklearn.metrics.confusion_matrix(gold, predicted, labels=range(6))
    assert views["bins"]["confusion"] == expected.tolist()


def expected_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The sum over bins of |rows| / n times the gap, in a loop (Guo et al. 2017)."""
    error = 0.0
    for number in range(15):
        within = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if within.any():
            error += within.mean() * abs(right[within].mean() - confidence[within].mean())
    return error


def test_calibration_by_hand(every_run, views):
    for task in ("classes", "bins"):
        rows = predictions(every_run, task)
        names = views[task]["names"]
        table = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
        best = [names[n] for n in table.argmax(axis=1)]
        gold = [row["gold"] for row in rows]
        if task == "bins":
            gold = [str(int(np.floor(float(value) + 0.5))) for value in gold]
        right = np.array([a == b for a, b in zip(best, gold, strict=True)], dtype=float)
        calibration = views[task]["calibration"]
        assert calibration["error"] == pytest.approx(expected_error(table.max(axis=1), right))
        assert sum(one["rows"] for one in calibration["bins"]) == len(rows)
        for one in calibration["bins"]:
            assert one["low"] <= one["confidence"] <= one["high"]


def test_calibration_of_classes_is_the_recorded_error(every_run, views):
    kept = next(e for e in every_run.entries(EvaluationEntry) if e.step == every_run.best().step)
    recorded = kept.tasks["classes"].others["calibration_error"]
    assert views["classes"]["calibration"]["error"] == pytest.approx(recorded, abs=1e-5)


def test_calibration_of_labels_is_over_all_labels(every_run, views):
    rows = predictions(every_run, "labels")
    names = views["labels"]["names"]
    table = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
    has = np.array([[name in row["gold"].split("|") for name in names] for row in rows])
    expected = expected_error(table.ravel(), has.ravel().astype(float))
    assert views["labels"]["calibration"]["error"] == pytest.approx(expected)
    assert views["labels"]["confusion"] is None


@pytest.mark.parametrize("task", ["number", "score", "cosine"])
def test_heads_that_give_a_number_have_bands_and_no_calibration(every_run, views, task):
    rows = predictions(every_run, task)
    gold, predicted = column(rows, "gold"), column(rows, "prediction")
    numbers = views[task]["numbers"]
    assert views[task]["calibration"] is None
    assert numbers["points"] == [list(p) for p in zip(gold, predicted, strict=True)]
    assert sum(band["rows"] for band in numbers["bands"]) == len(rows)
    for number, (band, counts) in enumerate(
        zip(numbers["bands"], numbers["histograms"], strict=True)
    ):
        last = number == len(numbers["bands"]) - 1
        within = (gold >= band["low"]) & ((gold <= band["high"]) if last else gold < band["high"])
        assert sum(counts) == band["rows"] == within.sum()
        assert counts == np.histogram(predicted[within], numbers["edges"])[0].tolist()
        if within.any():
            assert band["mean"] == pytest.approx(predicted[within].mean())


def test_the_worst_errors_come_first_with_their_texts(every_run, views):
    rows = predictions(every_run, "number")
    errors = {int(r["line"]): abs(float(r["gold"]) - float(r["prediction"])) for r in rows}
    worst = views["number"]["worst"]
    assert [miss["line"] for miss in worst] == sorted(errors, key=lambda line: -errors[line])
    texts = {miss["line"]: miss["texts"] for miss in worst}
    assert [texts[line] for line in range(2, 2 + len(ATTACKS))] == [[text] for text in ATTACKS]
    wrong = [r for r in predictions(every_run, "classes") if r["gold"] != r["prediction"]]
    sure = {int(r["line"]): float(r[f"p_{r['prediction']}"]) for r in wrong}
    listed = views["classes"]["worst"]
    assert views["classes"]["wrong"] == len(wrong)
    assert {miss["line"]: miss["probability"] for miss in listed} == pytest.approx(sure)
    assert [m["probability"] for m in listed] == sorted(sure.values(), reverse=True)
    assert all(len(miss["texts"]) == 2 for miss in views["score"]["worst"])
    for miss in views["labels"]["worst"]:
        assert miss["gold"] != miss["predicted"]


# --- conflict, curves, data -----------------------------------------------------------------------


def test_conflict_is_what_the_run_recorded(every_run, found):
    summaries = {e.stage: e for e in every_run.entries(StageConflictEntry)}
    first, second = found["conflict"]
    assert (first["name"], second["name"]) == (STAGE, "second")
    for stage, view in enumerate((first, second)):
        recorded = summaries[stage]
        assert view["summary"]["probes"] == recorded.probes == (22, 2)[stage]
        pairs = {tuple(pair["tasks"]): pair for pair in view["summary"]["pairs"]}
        for pair in recorded.pairs:
            layers = pairs[pair.tasks]["layers"]
            assert [layer["layer"] for layer in layers] == [
                "embeddings", "layer 1", "layer 2", "pooler",
            ]  # fmt: skip
            assert [layer["cosine"] for layer in layers] == [n.cosine for n in pair.layers]
    entries = every_run.entries(ConflictEntry)
    assert len(first["probes"]) + len(second["probes"]) == sum(e.steps is None for e in entries)
    assert [entry["step"] for entry in first["steps"]] == [11, 22]
    assert not second["steps"]


def test_parts_of_layers_add_up_to_the_cosine_of_the_probes(found):
    (pair,) = found["conflict"][1]["summary"]["pairs"]
    assert sum(layer["part"] for layer in pair["layers"]) == pytest.approx(pair["cosine"], abs=1e-5)


def test_curves_are_the_recorded_losses_and_scores(every_run, found):
    evaluations = every_run.entries(EvaluationEntry)
    for curve in found["curves"]:
        task = curve["task"]
        assert curve["dev_score"] == [[e.step, e.tasks[task].value] for e in evaluations]
        assert curve["sample_loss"] == [[e.step, e.train[task].loss] for e in evaluations]
        assert curve["train_loss"]


def test_the_data_is_what_check_reports(every_run, found):
    recipe, folder = every_run.recipe(), Path(every_run.facts().inputs.data)
    expected = data_summary(prepare(recipe, folder)).recorded
    assert every_run.data() == expected
    split = found["data"]["tasks"]["classes"]["dev"]
    assert split["rows"] == 18
    assert sum(split["counts"].values()) == 18


def test_speed_adds_up(found):
    speed = found["speed"]
    assert speed["examples"] == 22 * 6 * 4 + 2 * 2 * 4
    assert speed["examples_per_second"] == pytest.approx(speed["examples"] / speed["seconds"])


# --- baselines ------------------------------------------------------------------------------------


def test_a_difference_is_the_run_minus_the_baseline(tmp_path):
    run = write_run(tmp_path / "run", mood(150), alike(1.0))
    other = write_run(tmp_path / "base", mood(90), lr=1e-2)
    report = report_of(run, other, out=tmp_path / "out")
    (table,) = [t for t in report["scores"]["tasks"] if t["task"] == "mood"]
    ours, theirs = table["entries"]
    verdict = theirs["verdict"]
    assert ours["verdict"] is None
    assert verdict["difference"] == pytest.approx(ours["value"] - theirs["value"])
    expected = compare([other, run]).tasks[0].entries[1].verdict
    assert expected is not None
    for name in ("difference", "low", "high"):
        assert verdict[name] == pytest.approx(getattr(expected, name))
    assert (verdict["p"], verdict["verdict"]) == (None, None)
    page = page_of(tmp_path / "out")
    assert "A single run says nothing about other seeds" in page.text
    for word in ("higher", "lower", "undecided"):
        assert not [row for row in page.rows if word in row]


def test_seeds_have_a_verdict(tmp_path):
    good = seeds(tmp_path / "good", (150, 152))
    bad = seeds(tmp_path / "bad", (90, 91), lr=1e-2)
    report = report_of(*good, *bad, out=tmp_path / "out", group_seeds=True)
    (table,) = report["scores"]["tasks"]
    verdict = table["entries"][1]["verdict"]
    expected = compare_groups(bad, good).tasks[0].entries[1].verdict
    assert expected is not None
    assert (verdict["verdict"], verdict["p"]) == (expected.verdict, pytest.approx(expected.p))
    assert verdict["verdict"] == "higher"
    assert [row for row in page_of(tmp_path / "out").rows if row[-1] == "higher"]


def test_a_baseline_without_a_common_task_is_refused(tmp_path):
    run = write_run(tmp_path / "run", mood(80))
    other = write_run(tmp_path / "other", None, alike(1.0))
    with pytest.raises(ComityError, match="has none of the tasks of"):
        write_report([run, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- runs that lack something ---------------------------------------------------------------------


def test_without_texts_no_text_is_in_either_file(every_run, tmp_path):
    report = report_of(every_run.path, out=tmp_path, texts=False)
    assert all(m["texts"] is None for view in report["tasks"] for m in view["worst"])
    files = [(tmp_path / name).read_text() for name in ("report.html", "report.json")]
    for text in ("onerror", "alert", "broken", "the tea is"):
        assert not [1 for content in files if text in content]
    assert "The texts were left out (--no-texts)." in page_of(tmp_path).text


def test_a_data_file_that_moved_is_a_sentence(every_run, tmp_path):
    path = Path(every_run.facts().inputs.data) / "dev <u>&.csv"
    moved = path.with_suffix(".moved")
    path.rename(moved)
    try:
        report = report_of(every_run.path, out=tmp_path)
    finally:
        moved.rename(path)
    notes = {view["texts_note"] for view in report["tasks"]}
    assert notes == {f"The texts are not shown because {path} no longer exists."}
    assert page_of(tmp_path).text.count("no longer exists") == len(TASKS)


def test_a_slim_run_has_a_report(every_run, tmp_path):
    write_slim_run(every_run.path, tmp_path / "slim")
    report = report_of(tmp_path / "slim", out=tmp_path / "out")
    views = {view["task"]: view for view in report["tasks"]}
    assert views["classes"]["calibration"] is None
    assert views["classes"]["confusion"] is not None
    assert views["classes"]["texts_note"].endswith("because a slim copy of a run has none.")
    assert report["speed"] is None
    assert report["conflict"][0]["summary"]["pairs"][0]["layers"]
    assert report["data"] is None
    assert every_run.facts().inputs.data not in (tmp_path / "out" / "report.html").read_text()
    page_of(tmp_path / "out")


def test_a_run_of_an_earlier_version_says_what_it_lacks(every_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(every_run.path, run)
    (run / "data.json").unlink()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for key in ("layers", "weights", "balancer", "effects", "changed", "turned"):
            line.pop(key, None)
        for pair in line.get("pairs", ()):
            del pair["layers"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = report_of(run, out=tmp_path / "out")
    assert report["data"] is None
    text = page_of(tmp_path / "out").text
    assert "Conflict by layer was not recorded: the run is of an earlier version." in text
    assert "It was not recorded: the run is of an earlier version." in text
    assert "This run has no counts of its data" in text


def test_an_unfinished_run_has_what_there_is(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path / "data")
    changes = {"train__steps": 60, "train__epochs": ..., "train__conflict_every": 10}
    recipe = two_tasks(tiny_checkpoint, train__evaluate_every=55, **changes)
    run = RunDirectory.create(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        Trainer(prepare(recipe, tmp_path / "data"), stop_after_step(52)).run(run)
    report = report_of(run.path, out=tmp_path / "out")
    assert (report["scores"], report["tasks"]) == (None, [])
    assert report["run"]["finished"] is False
    assert report["conflict"][0]["summary"] is None
    assert len(report["conflict"][0]["probes"]) == 6  # after steps 1, 10, 20, ... 50
    text = page_of(tmp_path / "out").text
    assert "No model has been evaluated and kept yet." in text
    assert "unfinished" in text
    assert "Verdicts come with the first evaluation of the stage." in text


def test_a_run_of_one_task_has_no_conflict(tmp_path, tiny_checkpoint):
    write_two_tasks(tmp_path / "data")
    recipe = two_tasks(tiny_checkpoint, tasks__alike=..., train__steps=2, train__epochs=...)
    run = train(recipe, tmp_path / "data", tmp_path / "run", quiet=True)
    assert report_of(run.path, out=tmp_path / "out")["conflict"] == []
    assert "The run has one task, so there is no conflict." in page_of(tmp_path / "out").text


def test_data_in_memory_is_a_sentence(tmp_path, tiny_checkpoint):
    pandas = pytest.importorskip("pandas")
    write_two_tasks(tmp_path / "data")
    values = two_tasks(tiny_checkpoint, train__steps=2, train__epochs=...).to_dict()
    for name in ("train", "dev"):
        file = values["tasks"]["mood"][name]
        values["tasks"]["mood"][name] = pandas.read_csv(tmp_path / "data" / file)
    run = train(values, tmp_path / "data", tmp_path / "run", quiet=True)
    notes = [v["texts_note"] for v in report_of(run.path, out=tmp_path / "out")["tasks"]]
    assert notes == ["The texts are not shown because the data was in memory.", None]


def test_predictions_that_are_not_finite_are_counted(tmp_path):
    scores = alike(1.0)
    scores[3] = np.nan
    run = write_run(tmp_path / "run", mood(80), scores)
    report = report_of(run, out=tmp_path / "out")
    view = report["tasks"][1]
    assert (view["rows"], view["not_finite"]) == (len(scores), 1)
    assert len(view["numbers"]["points"]) == len(scores) - 1
    assert "1 row with a prediction that is not a finite number left out." in (
        page_of(tmp_path / "out").text
    )


def test_many_classes_have_a_list_of_confusions(tmp_path):
    run = write_run(tmp_path / "run", mood(80))
    classes = tuple(f"class {n:02d}" for n in range(30))
    head = HeadSpec(Target("classification", "linear", classes=classes), ("first",))
    directory = RunDirectory(run)
    directory.write_facts(run_facts({"mood": head}, {"mood": "accuracy"}))
    gold = [classes[n % 30] for n in range(90)]
    predicted = [classes[(n + (n % 30 == 7) + 2 * (n == 8)) % 30] for n in range(90)]
    write_csv(run, "mood", ["gold", "prediction"], list(zip(gold, predicted, strict=True)))
    report = report_of(run, out=tmp_path / "out")
    (view,) = report["tasks"]
    assert view["confusion"][7][8] == 3
    page = page_of(tmp_path / "out")
    wrong = (["class 07", "class 08"], ["class 08", "class 10"])
    rows = [row for row in page.rows if row[:2] in wrong]
    assert rows == [["class 07", "class 08", "3"], ["class 08", "class 10", "1"]]
    assert "The most frequent confusions of mood, of 2 kinds" in page.text
    assert "across" not in page.text
