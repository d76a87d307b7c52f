"""Task sampling: which tasks contribute batches to each step, and what a plan contains."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.data.batches import TaskBatches
from comity.data.task_sampling import SAMPLINGS, PlannedBatch, SampledTask, count, plan_steps
from comity.errors import ComityError

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "files"
needs_cases = pytest.mark.skipif(
    not CASES.is_dir(), reason="shared/cases is not beside the checkout"
)

quick = settings(max_examples=30)


def make(rows: dict[str, int], weights=None, *, seed=0, batch_size: int | None = 4, **more):
    """Tasks of so many rows, whose lengths go from 3 to 13 tokens."""
    return [
        SampledTask(
            name,
            TaskBatches(
                name, 3 + np.arange(n) % 11, seed=seed, stage=0, batch_size=batch_size, **more
            ),
            n,
            (weights or {}).get(name, 1.0),
        )
        for name, n in rows.items()
    ]


def plan_of(task_sampling, tasks, seed=0, stage=0, **more):
    return plan_steps(task_sampling, tasks, seed=seed, stage=stage, **more)


def batches_of(plan):
    return [batch for step in plan for batch in step]


def seen(plan, tasks):
    """How often the plan contains each row, counted without `count`."""
    rows = [Counter() for _ in tasks]
    for batch in batches_of(plan):
        rows[batch.task].update(tasks[batch.task].batches.batch(batch.number)[1].tolist())
    return rows


def examples(plan, tasks):
    return sum(sum(rows.values()) for rows in seen(plan, tasks))


THREE = {"big": 40, "mid": 10, "small": 3}


def case_rows():
    folder = CASES / "TR-06"
    return {
        name: len((folder / f"{name}.csv").read_text().splitlines()) - 1
        for name in ("big", "mid", "small")
    }


@needs_cases
@pytest.mark.parametrize("grouped", [False, True])
def test_case_tr_06_three_tasks_of_unequal_size(grouped):
    case = json.loads((CASES / "TR-06" / "expected.json").read_text())["expect"]
    rows = case_rows()
    assert rows == case["rows"]
    tasks = make(rows, batch_size=4, group_by_length=grouped)
    wanted = case["round_robin_10_steps"]
    assert [task.batches.per_pass(0) for task in tasks] == [*case["batches_per_own_pass"].values()]
    for plan in (
        plan_of("round-robin", tasks, steps=10),
        plan_of("round-robin", tasks, epochs=1, epoch_ends="longest"),
    ):
        assert len(plan) == 10
        for k, counted in enumerate(count(plan, tasks)):
            assert counted.batches == wanted["turns_each"]
            assert counted.examples in np.ravel(wanted["rows_seen"][counted.name])
            assert counted.examples == sum(seen(plan, tasks)[k].values())
            assert counted.rows_never_seen == 0
    for task_sampling in ("proportional", "sequential"):
        plan = plan_of(task_sampling, tasks, epochs=1)
        assert examples(plan, tasks) == case["proportional_one_pass"]["rows_seen_total"]
        assert [(c.repeats_min, c.repeats_max) for c in count(plan, tasks)] == [(1, 1)] * 3


def test_ten_steps_of_round_robin_by_hand():
    tasks = make(THREE, group_by_length=False, batch_size=4)
    plan = plan_of("round-robin", tasks, steps=10)
    assert plan == [[PlannedBatch(k, n) for k in range(3)] for n in range(10)]
    big, mid, small = count(plan, tasks)
    # mid: passes of 4 + 4 + 2; ten batches are three passes and the first four of the fourth.
    assert (big.batches, big.examples, big.passes, big.repeats_min, big.repeats_max) == (
        10,
        40,
        1,
        1,
        1,
    )
    assert (mid.batches, mid.examples, mid.passes, mid.repeats_min, mid.repeats_max) == (
        10,
        34,
        3.4,
        3,
        4,
    )
    assert (small.batches, small.examples, small.passes) == (10, 30, 10)
    assert (small.repeats_min, small.repeats_max) == (10, 10)
    assert big.tokens == sum(3 + row % 11 for row in range(40))
    assert small.tokens == 10 * (3 + 4 + 5)


def test_each_pass_has_another_order():
    tasks = make({"big": 40, "mid": 23, "small": 7})
    for task_sampling in ("round-robin", "proportional", "sequential"):
        plan = plan_of(task_sampling, tasks, epochs=4)
        orders = {}
        for batch in batches_of(plan):
            epoch, rows = tasks[batch.task].batches.batch(batch.number)
            orders.setdefault((batch.task, epoch), []).extend(rows.tolist())
        for k, task in enumerate(tasks):
            whole = [
                tuple(o) for (owner, _), o in orders.items() if owner == k and len(o) == task.rows
            ]
            assert len(whole) >= 2
            assert len(set(whole)) == len(whole)


sizes = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 40), min_size=1)


@given(sizes, st.sampled_from(SAMPLINGS), st.integers(1, 3), st.floats(0.1, 3), st.integers(1, 9))
@quick
def test_an_epoch_is_as_many_examples_as_there_are_rows(
    rows, task_sampling, per_step, epochs, size
):
    tasks = make(rows, batch_size=size)
    per_step = 1 if task_sampling == "round-robin" else per_step
    plan = plan_of(task_sampling, tasks, epochs=epochs, batches_per_step=per_step)
    target = epochs * sum(rows.values())
    assert examples(plan, tasks) >= target - 1e-6
    if task_sampling == "round-robin":
        assert examples(plan[:-1], tasks) < target
        assert {len(step) for step in plan} == {len(tasks)}
    else:
        flat = batches_of(plan)
        if (
            task_sampling == "sequential"
        ):  # every task has its share, less than a batch more at most
            for counted in count(plan, tasks):
                assert -1e-6 <= counted.examples - epochs * counted.rows < size
        else:
            assert examples([flat[:-1]], tasks) < target
        assert {len(step) for step in plan[:-1]} <= {per_step}
        assert 1 <= len(plan[-1]) <= per_step


@given(sizes, st.sampled_from(SAMPLINGS), st.integers(0, 5))
@quick
def test_batches_count_up_from_0_and_a_plan_depends_on_its_arguments_only(
    rows, task_sampling, seed
):
    tasks = make(rows)
    plan = plan_of(task_sampling, tasks, epochs=2, seed=seed)
    assert plan == plan_of(task_sampling, make(rows), epochs=2, seed=seed)
    for k in range(len(tasks)):
        numbers = [batch.number for batch in batches_of(plan) if batch.task == k]
        assert numbers == [*range(len(numbers))]


@pytest.mark.parametrize("task_sampling", ["proportional", "temperature", "annealed"])
def test_seed_and_stage_change_what_is_drawn(task_sampling):
    tasks = make({"big": 60, "mid": 50, "small": 40})
    plans = {
        str(plan_of(task_sampling, tasks, epochs=2, seed=seed, stage=stage))
        for seed in range(3)
        for stage in range(3)
    }
    assert len(plans) == 9


def test_a_shorter_plan_is_the_start_of_a_longer_one():
    tasks = make(THREE)
    for task_sampling in SAMPLINGS:
        if task_sampling != "annealed":
            assert plan_of(task_sampling, tasks, steps=60)[:9] == plan_of(
                task_sampling, tasks, steps=9
            )


def test_longest_lasts_until_every_task_has_made_its_passes():
    tasks = make({"one": 21, "two": 50, "three": 3}, batch_size=5)
    for epochs, steps in ((1, 10), (2, 20), (0.5, 5), (1.25, 13)):
        plan = plan_of("round-robin", tasks, epochs=epochs, epoch_ends="longest")
        assert len(plan) == steps
    assert all(counted.rows_never_seen == 0 for counted in count(plan, tasks))


def test_longest_is_the_task_with_most_batches_not_most_rows():
    few = SampledTask("few", TaskBatches("few", [5] * 12, seed=0, stage=0, batch_size=1), 12)
    many = SampledTask("many", TaskBatches("many", [5] * 100, seed=0, stage=0, batch_size=50), 100)
    assert len(plan_of("round-robin", [few, many], epochs=1, epoch_ends="longest")) == 12


def test_longest_with_token_budgets():
    tasks = make({"one": 37, "two": 50}, batch_size=None, batch_tokens=30)
    plan = plan_of("round-robin", tasks, epochs=2, epoch_ends="longest")
    counted = count(plan, tasks)
    assert min(each.repeats_min for each in counted) == 2
    last = max(
        (task.batches.per_pass(0) + task.batches.per_pass(1) for task in tasks),
    )
    assert len(plan) == last


def test_sequential_runs_every_batch_of_each_task_in_recipe_order():
    tasks = make(THREE)
    plan = plan_of("sequential", tasks, epochs=2)
    assert [batch.task for batch in batches_of(plan)] == ([0] * 10 + [1] * 3 + [2]) * 2
    assert {len(step) for step in plan} == {1}
    assert [(t.repeats_min, t.repeats_max) for t in count(plan, tasks)] == [(2, 2)] * 3
    backwards = plan_of("sequential", tasks[::-1], epochs=1)
    assert [batch.task for batch in batches_of(backwards)] == [0] + [1] * 3 + [2] * 10


def test_a_fraction_of_a_sequential_epoch_has_every_task():
    tasks = make({"one": 40, "two": 20, "three": 8})
    plan = plan_of("sequential", tasks, epochs=1.5)
    # Ten, five and two batches of four; then half of each, 2.5 rounded up.
    expected = [0] * 10 + [1] * 5 + [2] * 2 + [0] * 5 + [1] * 3 + [2]
    assert [batch.task for batch in batches_of(plan)] == expected


def test_every_task_of_a_fraction_of_an_epoch_has_its_share():
    tasks = make({"one": 24, "two": 24, "three": 8}, batch_size=8)
    plan = plan_of("sequential", tasks, epochs=0.5)
    assert [batch.task for batch in batches_of(plan)] == [0, 0, 1, 1, 2]


def test_a_step_of_several_batches_may_have_several_tasks():
    tasks = make(THREE)
    plan = plan_of("sequential", tasks, epochs=1, batches_per_step=4)
    assert [[batch.task for batch in step] for step in plan] == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 1],
        [1, 2],
    ]


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_proportional_with_equal_weights_takes_every_batch_once_in_random_order(weight):
    tasks = make(THREE, dict.fromkeys(THREE, weight))
    plan = plan_of("proportional", tasks, epochs=3)
    assert [(t.repeats_min, t.repeats_max, t.examples) for t in count(plan, tasks)] == [
        (3, 3, 120),
        (3, 3, 30),
        (3, 3, 9),
    ]
    owners = [batch.task for batch in batches_of(plan)]
    epochs = [owners[:14], owners[14:28], owners[28:]]
    assert [Counter(epoch) for epoch in epochs] == [{0: 10, 1: 3, 2: 1}] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(epoch != sorted(epoch) for epoch in epochs)


def shares(plan, tasks):
    counts = Counter(batch.task for batch in batches_of(plan))
    return [counts[k] / counts.total() for k in range(len(tasks))]


def normalised(numbers):
    return (np.array(numbers) / np.sum(numbers)).tolist()


# 4000 draws: the standard error of a share is at most 0.008, so 0.03 is four of them.
@pytest.mark.parametrize(
    ("task_sampling", "weights", "more", "expected"),
    [
        ("proportional", {"mid": 4.0}, {}, [160, 4 * 40, 10]),
        ("temperature", {}, {}, [160**0.5, 40**0.5, 10**0.5]),
        ("temperature", {}, {"temperature": 1.0}, [160, 40, 10]),
        ("temperature", {}, {"temperature": 1e9}, [1, 1, 1]),
        ("temperature", {"small": 3.0}, {"temperature": 4.0}, [160**0.25, 40**0.25, 3 * 10**0.25]),
    ],
)
def test_drawn_batches_have_their_probabilities(task_sampling, weights, more, expected):
    tasks = make({"big": 160, "mid": 40, "small": 10}, weights, batch_size=10)
    plan = plan_of(task_sampling, tasks, steps=4000, **more)
    assert shares(plan, tasks) == pytest.approx(normalised(expected), abs=0.03)
    owners = [batch.task for batch in batches_of(plan)]
    # No period, neither that of the epochs nor that of the draws made at once.
    starts = range(1, 2001)
    assert all(owners[start : start + 1000] != owners[:1000] for start in starts)


def test_annealed_falls_from_proportional_to_nearly_even():
    # Batches of one row, so that an epoch has exactly so many batches.
    rows = {"big": 3200, "mid": 640, "small": 160}
    tasks = make(rows, batch_size=1)
    batches = batches_of(plan_of("annealed", tasks, epochs=3))
    assert len(batches) == 3 * 4000
    for epoch, exponent in enumerate([1.0, 0.6, 0.2]):
        part = [batches[4000 * epoch : 4000 * (epoch + 1)]]
        expected = normalised([n**exponent for n in rows.values()])
        assert shares(part, tasks) == pytest.approx(expected, abs=0.03)
    alone = plan_of("annealed", tasks, epochs=1)
    assert shares(alone, tasks) == pytest.approx(normalised([*rows.values()]), abs=0.03)


def test_annealed_keeps_the_weights():
    tasks = make({"big": 2000, "small": 200}, {"small": 5.0}, batch_size=1)
    plan = plan_of("annealed", tasks, epochs=1)
    assert shares(plan, tasks) == pytest.approx([2 / 3, 1 / 3], abs=0.04)


@given(sizes, st.sampled_from(SAMPLINGS), st.integers(1, 40), st.booleans())
@quick
def test_count_equals_counting_the_rows(rows, task_sampling, size, by_tokens):
    tasks = make(
        rows, batch_size=None if by_tokens else size, batch_tokens=3 * size if by_tokens else None
    )
    plan = plan_of(task_sampling, tasks, epochs=1.5)
    for k, (counted, found) in enumerate(zip(count(plan, tasks), seen(plan, tasks), strict=True)):
        repeats = [found[row] for row in range(tasks[k].rows)]
        assert counted.name == tasks[k].name
        assert counted.rows == len(repeats)
        assert counted.batches == sum(batch.task == k for batch in batches_of(plan))
        assert counted.examples == sum(repeats)
        assert counted.passes == pytest.approx(sum(repeats) / len(repeats))
        assert (counted.repeats_min, counted.repeats_max) == (min(repeats), max(repeats))
        assert counted.rows_never_seen == repeats.count(0)
        assert counted.tokens == sum(n * (3 + row % 11) for row, n in enumerate(repeats))


def test_rows_that_are_never_seen_are_counted():
    tasks = make({"big": 100, "small": 4}, batch_size=4)
    big, small = count(plan_of("round-robin", tasks, steps=5), tasks)
    assert (big.examples, big.rows_never_seen, big.repeats_min) == (20, 80, 0)
    assert (small.examples, small.rows_never_seen, small.repeats_max) == (20, 0, 5)


def test_the_last_step_of_round_robin_is_whole():
    # 11 + 11 rows, 4 of big and 2 of mid are 28 of the 27 wanted; small still has a batch.
    tasks = make(THREE, group_by_length=False)
    assert [len(step) for step in plan_of("round-robin", tasks, epochs=0.5)] == [3, 3, 3]
    assert [len(step) for step in plan_of("sequential", tasks, epochs=0.5, batches_per_step=3)] == [
        3,
        3,
        2,
    ]


def test_rounding_adds_no_step():
    # 0.07 x 100 is 7.000000000000001 in floating point.
    assert len(plan_of("sequential", make({"a": 100}, batch_size=1), epochs=0.07)) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task_sampling": "round-robbin", "epochs": 1}, 'did you mean "round-robin"'),
        ({"task_sampling": "sequential"}, "exactly one"),
        ({"task_sampling": "sequential", "epochs": 1, "steps": 2}, "exactly one"),
        ({"task_sampling": "sequential", "epochs": 0}, "epochs must be greater than 0, got 0"),
        (
            {"task_sampling": "sequential", "epochs": float("nan")},
            "epochs must be greater than 0, got nan",
        ),
        ({"task_sampling": "sequential", "steps": 0}, "steps must be greater than 0, got 0"),
        (
            {"task_sampling": "sequential", "steps": 3, "batches_per_step": 0},
            "batches_per_step must be greater than 0, got 0",
        ),
        (
            {"task_sampling": "round-robin", "steps": 3, "batches_per_step": 2},
            "batches_per_step has no effect",
        ),
        (
            {"task_sampling": "temperature", "steps": 3, "temperature": 0.0},
            "temperature must be greater than 0, got 0.0",
        ),
        ({"task_sampling": "annealed", "steps": 3}, "set epochs"),
        (
            {"task_sampling": "proportional", "epochs": 1, "epoch_ends": "longest"},
            '"longest" needs',
        ),
        ({"task_sampling": "round-robin", "steps": 3, "epoch_ends": "longest"}, '"longest" needs'),
        (
            {"task_sampling": "round-robin", "epochs": 1, "epoch_ends": "shortest"},
            'epoch_ends must be "examples" or "longest", got "shortest"',
        ),
    ],
)
def test_wrong_arguments_are_errors(arguments, message):
    with pytest.raises(ComityError, match=message):
        plan_of(tasks=make(THREE), **arguments)


@pytest.mark.parametrize("task_sampling", ["round-robin", "sequential"])
def test_a_weight_without_effect_is_an_error(task_sampling):
    with pytest.raises(ComityError, match='task "mid": sampling_weight has no effect'):
        plan_of(task_sampling, make(THREE, {"mid": 2.0}), epochs=1)


def test_all_errors_are_reported_together():
    tasks = make(THREE, {"mid": -1.0, "small": 0.0})
    with pytest.raises(ComityError) as caught:
        plan_of("temperature", tasks, epochs=1, steps=1, temperature=-1.0)
    assert len(caught.value.messages) == 4
    with pytest.raises(ComityError, match="no tasks"):
        plan_of("sequential", [], epochs=1)
