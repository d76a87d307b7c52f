"""Sweeps: the grid, which runs are trained, skipped or resumed, and the files written."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import tomli_w
from safetensors.torch import load_file
from tests.evaluation.helpers import alike, seeds, write_run
from tests.helpers import (
    alike_rows,
    mood_rows,
    stop_after_step,
    stop_at_evaluation,
    two_tasks,
    write_csv,
    write_two_tasks,
)
from torch import equal

from comity import ComityError, train
from comity.cli.main import main
from comity.experiments.runner import Series
from comity.experiments.sweep import (
    PointMean,
    PointResult,
    Spread,
    Sweep,
    SweepResults,
    _means,
    _winner,
    grid,
    split_values,
    write_sweep,
)
from comity.runs.directory import RunDirectory, is_finished
from comity.runs.facts import Machine
from comity.runs.summary import Reached
from comity.terminal.progress import SeriesDisplay

RATES = "train.lr=1e-3,3e-3"


@pytest.fixture
def recipe(tmp_path, tiny_checkpoint):
    """A recipe on disk, its data beside it."""
    write_two_tasks(tmp_path / "data")
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(two_tasks(tiny_checkpoint, train__epochs=2).to_dict()))
    return path


def sweep(recipe, *settings) -> Sweep:
    """A sweep into the folder `out` beside the recipe."""
    return Sweep(recipe, settings or [RATES], recipe.parent / "data", recipe.parent / "out")


def command(recipe, *settings, out=None) -> list[str]:
    """The same sweep as a command line."""
    data, out = recipe.parent / "data", out or recipe.parent / "out"
    folders = [str(recipe), "--data", str(data), "--out", str(out)]
    return ["sweep", *folders, "--quiet", "--set", *settings]


def csv_rows(recipe) -> list[dict[str, str]]:
    """The rows of sweep.csv."""
    with (recipe.parent / "out" / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- the grid -------------------------------------------------------------------------------------


def test_every_combination_is_a_point_and_the_last_key_is_the_fastest(recipe):
    points = grid(recipe, ["train.lr=8e-6,2e-5", "train.seed=7", "train.batch_size=8,32"])
    assert [point.name for point in points] == [
        "train.lr=8e-06,train.batch_size=8",
        "train.lr=8e-06,train.batch_size=32",
        "train.lr=2e-05,train.batch_size=8",
        "train.lr=2e-05,train.batch_size=32",
    ]
    settings = [(p.recipe.train.lr, p.recipe.train.batch_size, p.recipe.train.seed) for p in points]
    assert settings == [(8e-6, 8, 7), (8e-6, 32, 7), (2e-5, 8, 7), (2e-5, 32, 7)]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", ["1", "2"]),
        ("[0, 5],[0, 4]", ["[0, 5]", "[0, 4]"]),
        ("{a = 1, b = 2},3", ["{a = 1, b = 2}", "3"]),
        ("'a,b',\"c,d\"", ["'a,b'", '"c,d"']),
        ("[1, 2]", ["[1, 2]"]),
    ],
)
def test_a_comma_within_brackets_or_quotes_belongs_to_its_value(text, values):
    assert split_values(text) == values


def test_values_that_a_file_name_cannot_contain_stay_distinct(recipe):
    points = grid(recipe, ["tasks.mood.train=a/b.csv,a-b.csv"])
    first, second = (point.name for point in points)
    assert first != second
    assert "/" not in first
    assert second == "tasks.mood.train=a-b.csv"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.lrr=1e-3,3e-3"], 'train.lrr: unknown key "lrr" in [train]; did you mean "lr"?'),
        (["train.lr=1e-3"], "no key has several values"),
        (["train.lr=1e-3,"], "a value is missing"),
        (["train.lr=1e-3,0.001"], "train.lr=0.001 is given twice"),
        (["train.lr=1e-3,3e-3", "train.lr=1"], "train.lr is set twice"),
        (["train.lr=1e-3,fast"], 'train.lr: expected a number, got "fast"'),
        (["train.steps=4,6", "train.epochs=1,2"], "another setting replaces train.steps"),
        (["train.steps=4,6", "train.epochs=1"], "another setting replaces train.steps"),
    ],
)
def test_an_error_in_a_grid_is_one_sentence(recipe, settings, message):
    with pytest.raises(ComityError) as caught:
        grid(recipe, settings)
    (sentence,) = caught.value.messages
    assert message in sentence


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (
            ["train.lr=1e-3,-1", "tasks.alike.head=bins,bin"],
            [
                "train.lr=1e-3,tasks.alike.head=bin and 1 more: {}: tasks.alike.head: expected",
                "train.lr=-1,tasks.alike.head=bins and 1 more: {}: train.lr: expected",
            ],
        ),
        (["train.lr=1e-3,3e-3,fast"], ["train.lr=fast: {}: train.lr: expected a number"]),
        (["train.lr=1e-3,3e-3", "train.balancer=x"], ["{}: train.balancer: expected one of"]),
        (  # with seeds that read the same data
            ["tasks.mood.train=mood.csv,none.csv", "train.seed=0,1,2"],
            ["tasks.mood.train=none.csv,train.seed=0 and 2 more: {data}/none.csv: there is no"],
        ),
        (["train.seed=0,1", "tasks.mood.train=none.csv"], ["{data}/none.csv: there is no such"]),
        (
            ["tasks.mood.max_length=64,500"],
            ["tasks.mood.max_length=500: tasks.mood.max_length: 500 is more than"],
        ),
    ],
)
def test_an_error_names_its_point_unless_all_have_it(recipe, settings, messages):
    with pytest.raises(ComityError) as caught:
        sweep(recipe, *settings)
    found = caught.value.messages
    for message, start in zip(found, messages, strict=True):
        start = start.format(recipe, data=recipe.parent / "data")
        assert message.startswith(start), message


# --- several runs ---------------------------------------------------------------------------------


def test_an_error_in_the_last_point_is_found_before_the_first_is_trained(recipe, tmp_path):
    with pytest.raises(ComityError, match=r"none\.csv"):
        sweep(recipe, "tasks.mood.train=mood.csv,none.csv")
    assert not (tmp_path / "out").exists()


def test_a_point_is_the_run_that_train_would_have_made(recipe, tmp_path):
    points = sweep(recipe)
    points.train(quiet=True)
    alone = train(points.points[1].recipe, recipe.parent / "data", tmp_path / "alone")
    run = RunDirectory.open(tmp_path / "out" / "train.lr=0.003")
    assert is_finished(run.path)
    assert not list(run.path.glob("checkpoint-*"))  # a finished run needs none
    assert run.best() == alone.best()
    ours, theirs = (load_file(r.path / r.best().folder / "heads.safetensors") for r in (run, alone))
    assert all(equal(ours[name], theirs[name]) for name in theirs)


def test_a_second_call_skips_finished_runs_and_resumes_an_interrupted_one(recipe, tmp_path):
    points = sweep(recipe)
    first, second = points.points
    data, out = recipe.parent / "data", tmp_path / "out"
    train(first.recipe, data, out / first.name)
    before = (out / first.name / "metrics.jsonl").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        train(second.recipe, data, out / second.name, on_event=stop_at_evaluation(1))
    started = RunDirectory.open(out / second.name).metrics()
    points.train(quiet=True)
    assert (out / first.name / "metrics.jsonl").read_bytes() == before
    metrics = RunDirectory.open(out / second.name).metrics()
    assert metrics[: len(started)] == started  # resumed, not started again
    assert is_finished(out / second.name)
    alone = train(second.recipe, data, tmp_path / "alone")
    assert alone.best().tasks == RunDirectory.open(out / second.name).best().tasks


def test_a_run_without_a_checkpoint_starts_again(recipe, tmp_path):
    points = sweep(recipe)
    directory = tmp_path / "out" / points.points[0].name
    with pytest.raises(KeyboardInterrupt):
        train(
            points.points[0].recipe, recipe.parent / "data", directory, on_event=stop_after_step(1)
        )
    (directory / ".checkpoint-000001-xyz").mkdir()  # a write that was killed
    points.train(quiet=True)
    assert is_finished(directory)


def test_only_files_of_a_run_are_deleted(recipe, tmp_path):
    points = sweep(recipe)
    directory = tmp_path / "out" / points.points[0].name
    with pytest.raises(KeyboardInterrupt):
        train(
            points.points[0].recipe, recipe.parent / "data", directory, on_event=stop_after_step(1)
        )
    (directory / "thesis.tex").write_text("years of work")
    with pytest.raises(ComityError, match=r"thesis\.tex: does not belong to a run"):
        points.train(quiet=True)
    assert (directory / "thesis.tex").read_text() == "years of work"
    assert (directory / "recipe.toml").is_file()


def test_runs_of_another_recipe_are_refused_and_kept(recipe, tmp_path):
    out = tmp_path / "out"
    sweep(recipe).train(quiet=True)
    with pytest.raises(
        ComityError, match=r"another recipe \(train\.epochs is 2 there and 3 here\)"
    ):
        sweep(recipe, RATES, "train.epochs=3").train(quiet=True)
    with pytest.raises(ComityError, match=r"train\.lr=0\.003: contains a run that is not a point"):
        sweep(recipe, "train.lr=1e-3,5e-3").train(quiet=True)
    write_two_tasks(recipe.parent / "data", mood=30)
    with pytest.raises(ComityError, match="the file of mood train has changed"):
        sweep(recipe).train(quiet=True)
    assert all(is_finished(path.parent) for path in out.glob("*/recipe.toml"))


def test_a_point_that_diverges_stops_no_other_and_can_be_left_out(recipe, tmp_path, capsys):
    epochs = "train.epochs=6"  # enough steps for 10 without a finite loss
    assert main(command(recipe, "train.lr=1e-3,1e30,3e-3", epochs)) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert error.startswith("error: train.lr=1e+30: ")
    assert "the weights are no longer finite" in error
    assert not is_finished(tmp_path / "out" / "train.lr=1e+30")
    assert [row["train.lr"] for row in csv_rows(recipe)] == ["0.001", "0.003"]
    assert main(command(recipe, RATES, epochs)) == 0  # its folder is still there


def test_an_interrupted_sweep_writes_the_points_that_are_finished(recipe, monkeypatch):
    evaluations = []

    def stop(self, event):
        evaluations.append(event)
        if len(evaluations) == 3:  # in the second run: each run is evaluated after both epochs
            raise KeyboardInterrupt

    monkeypatch.setattr(SeriesDisplay, "evaluated", stop)
    assert main(command(recipe, RATES)) == 130
    assert [row["train.lr"] for row in csv_rows(recipe)] == ["0.001"]


def test_runs_of_another_recipe_are_in_no_table(recipe, tmp_path):
    sweep(recipe).train(quiet=True)
    assert main(command(recipe, RATES, "train.epochs=3")) == 2
    assert not (tmp_path / "out" / "sweep.csv").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_file_for_a_folder_is_one_sentence(recipe, tmp_path, capsys, dry):
    (tmp_path / "notes.txt").write_text("mine")
    assert main([*command(recipe, RATES, out=tmp_path / "notes.txt"), *dry]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "notes.txt is a file; name a folder" in line


def test_leaks_are_dropped_where_asked_and_both_ways_are_kept_apart(recipe, tmp_path):
    data, out = recipe.parent / "data", tmp_path / "out"
    rows = [*mood_rows(0, 36), *mood_rows(1000, 4)]  # the last four are in dev too
    write_csv(data / "mood.csv", ["text", "mood"], rows)
    dropped = Sweep(recipe, [RATES], data, out, drop_leaks=True)
    write_two_tasks(tmp_path / "clean")
    clean = Sweep(recipe, [RATES], tmp_path / "clean", out)
    assert [run.tokens for run in dropped.series.runs] == [run.tokens for run in clean.series.runs]
    dropped.train(quiet=True)
    assert RunDirectory(out / "train.lr=0.001").facts().inputs.drop_leaks is True
    dropped.check()
    with pytest.raises(ComityError, match="was trained with --drop-leaks"):
        sweep(recipe).train(quiet=True)


def test_a_sweep_may_grow(recipe, tmp_path):
    out = tmp_path / "out"
    sweep(recipe).train(quiet=True)
    before = (out / "train.lr=0.001" / "metrics.jsonl").read_bytes()
    sweep(recipe, "train.lr=1e-3,3e-3,5e-3").train(quiet=True)
    assert (out / "train.lr=0.001" / "metrics.jsonl").read_bytes() == before
    assert is_finished(out / "train.lr=0.005")


def test_the_plan_counts_what_is_left(recipe, tmp_path):
    points = sweep(recipe)
    train(points.points[0].recipe, recipe.parent / "data", tmp_path / "out" / points.points[0].name)
    plan = points.plan()
    assert [run.state for run in plan.runs] == ["finished", "to train"]
    # Round-robin in batches of 8 over 36 + 20 rows, until 2 x 56 examples are seen: a pass over
    # mood is 8 + 8 + 8 + 8 + 4 rows, over alike 8 + 8 + 4. The first 7 batches of each hold 52 and
    # 48 examples, the eighths 8 and 8: 116 in 8 steps.
    assert [(run.steps, run.examples) for run in plan.runs] == [(8, 116)] * 2


def test_progress_names_the_run_and_the_time_left_for_all(recipe, monkeypatch, capsys):
    monkeypatch.setattr("comity.terminal.progress.PLAIN_EVERY", 0.0)
    sweep(recipe).train()
    shown = capsys.readouterr().err
    assert "run 1 of 2: train.lr=0.001\n" in shown
    assert "run 2 of 2, step 1 of 8" in shown
    assert "left, 0 s for all runs" in shown.splitlines()[-2]  # before the last evaluation


def test_notes_about_the_data_are_given_once(recipe):
    data = recipe.parent / "data"
    lines = (data / "mood.csv").read_text().splitlines()
    (data / "mood.csv").write_text("\n".join([*lines, ",up"]) + "\n")
    series = Series({p.name: p.recipe for p in sweep(recipe).points}, data, recipe.parent / "out")
    assert len([note for note in series.notes if "empty text" in note]) == 1


def test_a_note_that_not_all_runs_have_names_its_run(recipe):
    series = sweep(recipe, "train.max_length=64,6,5", "train.lr=1e-3,1e-2").series
    cut = [note for note in series.notes if "truncated" in note]
    first = [note.partition(": ")[0] for note in cut]
    assert set(first) == {"train.max_length=6,train.lr=0.001", "train.max_length=5,train.lr=0.001"}
    sentences = [note.partition(": ")[2] for note in cut]
    assert len(set(sentences)) == len(sentences)


# --- what is written ------------------------------------------------------------------------------


def test_results_are_those_of_the_runs(recipe, tmp_path):
    points, out = sweep(recipe), tmp_path / "out"
    points.train(quiet=True)
    write_sweep(points.results(), out)
    written = json.loads((out / "sweep.json").read_text())
    with (out / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["train.lr"] for row in rows] == ["0.001", "0.003"]
    for row, point, name in zip(
        rows, written["points"], ("train.lr=0.001", "train.lr=0.003"), strict=True
    ):
        best = json.loads((out / name / "best.json").read_text())
        for task in ("mood", "alike"):
            value = best["tasks"][task]["value"]
            assert point["tasks"][task] == value
            assert float(row[task]) == pytest.approx(value)
        assert point["mean"] == pytest.approx(sum(point["tasks"].values()) / 2)
        assert point["step"] == best["step"]


def test_a_grid_of_words_and_numbers_is_drawn(recipe, tmp_path):
    pytest.importorskip("matplotlib")
    points, out = sweep(recipe, "train.lr_schedule=linear,constant", RATES), tmp_path / "out"
    points.train(quiet=True)
    write_sweep(points.results(), out)
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_plots_library_the_rest_is_written(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    points, out = sweep(recipe), tmp_path / "out"
    points.train(quiet=True)
    write_sweep(points.results(), out)
    assert "comity[plots]" in capsys.readouterr().err
    assert (out / "sweep.csv").is_file()
    assert not (out / "sweep.png").exists()


def test_a_point_with_a_task_without_a_value_has_no_mean(recipe):
    rows = [(first, second, 4.0) for first, second, _ in alike_rows(1000, 10)]
    write_csv(recipe.parent / "data" / "alike-dev.csv", ["a", "b", "score"], rows)  # no Pearson
    points = sweep(recipe)
    points.train(quiet=True)
    for point in points.results().points:
        assert point.reached.tasks["mood"] is not None
        assert point.reached.tasks["alike"] is None
        assert point.reached.mean is None


def table_of(shown: str) -> list[dict[str, str]]:
    """The rows of a printed table by column."""
    cells = [
        [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]
        for line in shown.splitlines()
        if line[:1] in "┃│"
    ]
    header, *rows = cells
    return [dict(zip(header, row, strict=True)) for row in rows]


ONE = {"tasks__alike": ...}
RMSE = {"tasks__alike__metric": "rmse", "train__select_by": "alike"}


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        (ONE, ["mood"]),
        ({"tasks__mood": ..., **RMSE}, ["alike"]),
        (RMSE, ["mood", "alike", "mean"]),
        ({"train__select_by": "mood"}, ["mood", "alike", "mean"]),
        ({"tasks__alike__eval_only": True, "train__select_by": "mood"}, ["mood", "alike", "mean"]),
    ],
)
def test_every_kind_of_recipe_has_its_scores_under_its_columns(
    recipe, tiny_checkpoint, tmp_path, capsys, changes, columns
):
    recipe.write_text(tomli_w.dumps(two_tasks(tiny_checkpoint, **changes).to_dict()))
    assert main(command(recipe, RATES, "train.steps=2")) == 0
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "sweep.json").read_text())["points"]
    for row, point, line in zip(table_of(shown), written, csv_rows(recipe), strict=True):
        assert list(row) == ["train.lr", *columns, "at step"]
        assert row["train.lr"] == line["train.lr"] == str(point["values"]["train.lr"])
        for task in point["tasks"]:
            assert row[task] == f"{point['tasks'][task]:.4f}"
            assert float(line[task]) == point["tasks"][task]
        assert row["at step"] == line["step"] == str(point["step"])
    assert "One seed says little, so no point is marked as the best." in shown
    assert "*" not in shown
    # The folder has points without a seed in their names, so the advice names another.
    assert "add train.seed=0,1,2 to --set and name another --out." in shown
    assert main(command(recipe, RATES, "train.seed=0,1,2", "train.steps=2")) == 2
    assert "keep its keys and values in --set, or choose another --out" in capsys.readouterr().err


def test_points_that_differ_only_in_the_seed_are_one_row(recipe, tmp_path, capsys):
    more = ("train.steps=2", "train.select_by=mood")
    assert main(command(recipe, RATES, "train.seed=0,1,2", *more)) == 0
    shown = capsys.readouterr().out
    rows = table_of(shown)
    assert [(row["train.lr"], row["seeds"]) for row in rows] == [("0.001", "3"), ("0.003", "3")]
    written = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert len(written["points"]) == 6
    scores = [point["tasks"]["mood"] for point in written["points"][:3]]
    assert rows[0]["mood"].startswith(f"{np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f}")
    assert written["means"][0]["scores"]["mood"]["mean"] == pytest.approx(np.mean(scores))
    assert len(csv_rows(recipe)) == 6
    assert "(p < 0.05" in shown


def test_a_sweep_of_seeds_alone_has_one_mean(recipe, tmp_path, capsys):
    assert main(command(recipe, "train.seed=0,1", "train.steps=2")) == 0
    (row,) = table_of(capsys.readouterr().out)
    assert "±" in row["mean"]
    assert not (tmp_path / "out" / "sweep.png").exists()


def point(folder, name: str, rights: tuple[int, ...], **options) -> PointMean:
    """A point whose runs have this many of 200 rows right."""
    runs = seeds(folder / name, rights, **options)
    mean = {"mood": Spread(float(np.mean(rights)) / 200, None)}
    return PointMean({"train.lr": name}, list(map(str, runs)), [7] * len(runs), mean)


def test_the_winner_beats_every_other_point(tmp_path):
    low, high = point(tmp_path, "low", (100, 104)), point(tmp_path, "high", (180, 182))
    near = point(tmp_path, "near", (178, 181))
    winner, note = _winner([low, high], "mood", False)
    assert (winner, note[0]) == (1, "*")
    winner, note = _winner([low, high, near], "mood", False)
    assert (winner, note) == (None, "No point is better than all others beyond chance (p < 0.05).")


def test_points_that_cannot_be_compared_have_a_reason_and_no_winner(tmp_path):
    low, high = point(tmp_path, "low", (100, 104)), point(tmp_path, "high", (180, 182))
    other = point(tmp_path, "other", (180, 182), file="other")
    one = point(tmp_path, "one", (180,))
    without = replace(high, scores={"mood": Spread(None, None)})
    for points, note in (
        ([low, other], "The points cannot be compared: "),
        ([low, one], "One seed says little"),
        ([low, without], "Fewer than two points have a score to compare (mood)."),
        ([low], "Mean over seeds"),
    ):
        winner, found = _winner(points, "mood", False)
        assert winner is None
        assert found.startswith(note)


def test_the_lowest_rmse_wins(tmp_path):
    means = []
    for name, noise in (("far", 2.0), ("near", 0.5)):
        runs = [
            write_run(tmp_path / name / str(seed), alike=alike(noise, seed), metric="rmse")
            for seed in range(2)
        ]
        means.append(PointMean({}, list(map(str, runs)), [7, 7], {"alike": Spread(noise, None)}))
    assert _winner(means, "alike", True)[0] == 1


def test_a_star_marks_the_winner():
    results = made(["train.lr"], ([1e-3], 0.1), ([3e-3], 0.2))
    results = replace(results, winner=1, ranked_by="mood")
    assert results.rows() == [["0.001", "0.1000", "1"], ["0.003", "0.2000 *", "1"]]


def made(swept, *points) -> SweepResults:
    """Results of a sweep that was never trained; each point is its values and its score."""
    found = [
        PointResult("r", dict(zip(swept, values, strict=True)), Reached(1, score, {"mood": score}))
        for values, score in points
    ]
    return SweepResults(
        recipe="recipe.toml",
        swept=swept,
        ranked_by="mean",
        lower_is_better=False,
        machine=Machine("cpu", "processor", "other", 1),
        versions={},
        points=found,
        means=_means(found),
        winner=None,
        note="",
    )


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of each call of the plot: x values, lines, and label of the x axis."""
    calls = []
    monkeypatch.setattr(
        "comity.experiments.sweep.line_plot",
        lambda path, x, lines, label, *rest, **options: calls.append((list(x), lines, label)),
    )
    return calls


def test_the_picture_of_several_seeds_shows_their_deviation(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        "comity.experiments.sweep.line_plot",
        lambda path, x, lines, *labels, **options: found.append((labels[-1], options)),
    )
    keys = ["train.lr", "train.seed"]
    points = [([1e-3, 0], 0.1), ([1e-3, 1], 0.3), ([3e-3, 0], 0.2)]
    write_sweep(made(keys, *points), tmp_path)
    write_sweep(made(["train.lr"], ([1e-3], 0.1), ([3e-3], 0.2)), tmp_path)
    (title, several), (one_title, one) = found
    assert title == "Sweep of train.lr, mean over seeds ± sample standard deviation"
    (bars,) = several["deviations"].values()
    assert bars == [pytest.approx(0.02**0.5), None]  # of 0.1 and 0.3: the root of 2 · 0.1²
    assert (one_title, one["deviations"]) == ("Sweep of train.lr", None)


def test_true_and_false_are_words(tmp_path, drawn):
    write_sweep(made(["train.group_by_length"], ([True], 0.5), ([False], 0.25)), tmp_path)
    assert drawn == [
        (
            [1, 2],
            {"mood": [0.5, 0.25]},  # one task is its own mean
            "train.group_by_length: 1 true, 2 false",
        )
    ]
    with (tmp_path / "sweep.csv").open(newline="") as file:
        assert [row["train.group_by_length"] for row in csv.DictReader(file)] == ["true", "false"]


def test_a_point_that_is_not_finished_is_a_gap(tmp_path, drawn):
    keys = ["train.lr", "train.batch_size"]
    results = made(keys, ([1e-3, 8], 0.1), ([3e-3, 8], 0.2), ([3e-3, 9], 0.3))
    write_sweep(replace(results, ranked_by="mood"), tmp_path)
    ((x, lines, _),) = drawn
    assert x == [1e-3, 3e-3]
    assert lines == {"train.batch_size 8": [0.1, 0.2], "train.batch_size 9": [None, 0.3]}


def test_a_point_with_several_seeds_is_drawn_as_its_mean(tmp_path, drawn):
    keys = ["train.lr", "train.seed"]
    points = [([1e-3, 0], 0.1), ([1e-3, 1], 0.3), ([3e-3, 0], 0.2), ([3e-3, 1], 0.4)]
    write_sweep(made(keys, *points), tmp_path)
    ((x, lines, _),) = drawn
    assert (x, list(lines)) == ([1e-3, 3e-3], ["mood"])
    assert lines["mood"] == pytest.approx([0.2, 0.3])
