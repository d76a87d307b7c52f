"""Tables on standard output."""

import pytest

from comity.data.task_sampling import PlanCounts
from comity.runs.entries import (
    BestModel,
    BestOfTask,
    EvaluationEntry,
    PairConflict,
    RecordedEvaluation,
    RecordedScore,
    StageConflictEntry,
)
from comity.runs.facts import Machine
from comity.runs.summary import RunSummary
from comity.terminal.views import show_plan, show_run, show_series, show_sweep
from comity.training.plan import PlannedRun, PlanSummary, SeriesPlan, StageSummary


def lines_of(capsys) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("steps", "evaluations", "title"),
    [(1, 1, "1 step, 1 evaluation"), (1000, 2, "1,000 steps, 2 evaluations")],
)
def test_the_plan_counts_in_singular_and_plural(capsys, steps, evaluations, title):
    # Name, batches, examples, rows, passes, fewest and most repeats, rows never seen, tokens.
    counts = PlanCounts("mood", steps, 16, 8, 2.0, 1, 2, 0, 300)
    stage = StageSummary(
        "stage 1", "labels", "round-robin", "sum", steps, evaluations, {"mood": counts}
    )
    show_plan(PlanSummary([stage], {"parameters": 5_000_000}, "bfloat16", "cpu", [], 75.0))
    lines = lines_of(capsys)
    assert lines[0] == f"Plan, stage 1: round-robin sampling, balancer sum, {title}"
    (row,) = [line for line in lines if "mood" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "mood", "8", "16", "300", "1 to 2 times", "0"
    ]  # fmt: skip
    assert lines[-1] == "Memory: parameters 5 MB; bf16 on cpu; about 1 min 15 s"


def evaluation(step: int, dev: float) -> EvaluationEntry:
    """An evaluation whose score on training rows is 0.125 higher than on dev."""
    tasks, train = (
        {"mood": RecordedEvaluation("accuracy", value, loss=0.7, n=8, others={})}
        for value in (dev, dev + 0.125)
    )
    return EvaluationEntry(
        step=step,
        examples=0,
        mean=dev,
        mean_reason=None,
        tasks=tasks,
        train=train,
        best_of_task={},
    )


def summary_of(conflict: list[StageConflictEntry]) -> RunSummary:
    score = RecordedScore("accuracy", 0.5)
    return RunSummary(
        run="runs/first",
        finished=True,
        step=2000,
        steps=2000,
        status="finished: step 2,000 of 2,000",
        encoder="minilm",
        precision="bfloat16",
        seed=0,
        machine=Machine("cpu", "processor", "other", 2),
        versions={},
        best=BestModel("best-001000", 1000, "mood", score, {"mood": score}),
        best_of_task={"mood": BestOfTask("accuracy", 0.75, 2000)},
        evaluations=[evaluation(1000, 0.5), evaluation(2000, 0.25)],
        conflict=conflict,
        skipped=2,
    )


def test_a_run_shows_the_kept_model_and_each_tasks_own_best(capsys):
    show_run(summary_of([]))
    lines = lines_of(capsys)
    assert lines[0] == "runs/first: minilm, bf16, kept step 1,000 (selected by mood)"
    (row,) = [line for line in lines if "accuracy" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "mood", "accuracy", "0.5000", "0.7500", "2,000", "0.6250"
    ]  # fmt: skip
    assert lines[-1] == "2 steps skipped, because a loss or gradient was not finite."


def pair(tasks: tuple[str, str], conflicts: bool | None, expected: float | None) -> PairConflict:
    """A pair whose cosine is -0.1, with an interval if there is a verdict."""
    low, high = (None, None) if conflicts is None else (-0.2, -0.05 if conflicts else 0.1)
    least, most = (None, None) if expected is None else (expected - 0.2, expected + 0.2)
    return PairConflict(tasks, 1200, -0.1, low, high, conflicts, expected, least, most)


def test_a_run_shows_each_pair_of_tasks_in_each_stage(capsys):
    pairs = [
        pair(("mood", "alike"), True, -0.5),
        pair(("mood", "same"), False, None),
        pair(("alike", "same"), None, None),
    ]
    reliability = {"mood": 0.25, "alike": 0.5, "same": None}
    steps, probes, none = (
        StageConflictEntry(
            step=9,
            stage=0,
            name=name,
            from_steps=from_steps,
            probes=12,
            pairs=[] if unprobed else pairs,
            reliability=reliability,
            unprobed=unprobed,
        )
        for name, from_steps, unprobed in (
            ("surgery", True, None),
            ("sum", False, None),
            ("heads", False, "nothing is shared: the encoder is frozen"),
        )
    )
    show_run(summary_of([steps, probes, none]))
    lines = lines_of(capsys)
    title = lines.index("Cosines between task gradients, surgery; in parentheses: 95% intervals")
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in lines[title:] if "│" in line
    ]
    assert cells[:3] == [
        ["mood / alike", "1,200", "-0.100 (-0.200 to -0.050)",
         "-0.500 (-0.700 to -0.300)", "yes"],
        ["mood / same", "1,200", "-0.100 (-0.200 to 0.100)", "-", "not found"],
        ["alike / same", "1,200", "-0.100", "-", "too few steps"],
    ]  # fmt: skip
    assert cells[5][-1] == "too few probes"
    between = "Cosine between two batches of one task (mean of 12 probes): "
    assert lines.count(between + "mood 0.250, alike 0.500, same -") == 2
    assert lines[-1] == "heads: nothing is shared: the encoder is frozen"


def test_series_count_the_runs_that_are_left(capsys):
    runs = [
        PlannedRun("one", "finished", 10, 80, 1000),
        PlannedRun("two", "to resume", 10, 80, 1000),
    ]
    show_series(SeriesPlan(runs, 60.0))
    assert lines_of(capsys)[-1] == "1 of 2 runs to train; about 1 min 00 s in total"
    show_series(SeriesPlan(runs[1:], None))
    assert lines_of(capsys)[-1] == "1 of 1 run to train"


def test_a_sweep_prints_its_rows_under_its_columns(capsys):
    show_sweep("r.toml", ["train.lr", "mood"], [["0.001", "0.5000 *"], ["0.002", "-"]])
    lines = lines_of(capsys)
    assert lines[0] == "Sweep of r.toml"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [["0.001", "0.5000 *"], ["0.002", "-"]]


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_tables_keep_to_the_width_of_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    runs = [PlannedRun("balancer=pcgrad-lr=1e-05", "to resume", 12345, 678901, 23456789)]
    show_series(SeriesPlan(runs, 60.0))
    lines = lines_of(capsys)
    assert max(map(len, lines)) <= columns
    words = " ".join(lines).replace("│", " ").split()
    assert {"12,345", "678,901", "23,456,789"} <= set(words)
