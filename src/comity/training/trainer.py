"""The training loop: batches, task gradients, Gramian, balancer weights, update, evaluation.

Reads from top to bottom: `Trainer.run` goes through the stages, `Trainer.run_stage` through the
steps, and `Trainer.step` is one update of the weights.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comity import hardware
from comity.data.splits import Split
from comity.data.task_sampling import PlannedBatch, SampledTask, count
from comity.errors import ComityError
from comity.evaluation.evaluate import Evaluation, evaluate_outputs, scores_of, task_outputs
from comity.evaluation.fitting import fit_on_dev
from comity.evaluation.metrics import Score, mean_score
from comity.evaluation.predictions import write_predictions
from comity.files import WriteError
from comity.format import plural
from comity.model.checkpoint import save_model
from comity.model.multitask import MASKED
from comity.model.parameters import SHARED, FlatParameters
from comity.rng import PROBE, SAMPLE, TIMING, generator, name_key
from comity.runs.calibration import DevFit, fitted_heads
from comity.runs.directory import RunDirectory
from comity.runs.entries import BestModel, Entry, SkippedEntry
from comity.runs.facts import RunFacts, current_commit, new_run_id, versions
from comity.tables.locations import locations, row_name
from comity.targets import HeadSpec
from comity.training.averaging import make_average
from comity.training.balancers import BALANCERS, Orders, draw_orders
from comity.training.checkpoint import CheckpointWriter, Progress, read_checkpoint
from comity.training.conflict import ConflictMonitor
from comity.training.data_summary import data_summary
from comity.training.events import (
    Evaluated,
    Listener,
    Logged,
    Planned,
    Resumed,
    RowsEncoded,
    RunStarted,
    StepDone,
    StepSkipped,
    StopRequested,
    ignore,
)
from comity.training.frozen import FrozenEncoder, encoded_bytes
from comity.training.gradients import Gradients
from comity.training.interrupts import Interrupted, Interrupts
from comity.training.optim import FlatAdamW, schedule_factor, segment_rates
from comity.training.plan import PlanSummary, StagePlan, memory, plan_stages, plan_summary
from comity.training.ranks import ALONE, ProcessLost, Ranks
from comity.training.records import (
    best_model,
    end_entry,
    evaluation_entry,
    train_entry,
)
from comity.training.saving import Saving, Write
from comity.training.selection import BestScore, selected
from comity.training.setup import Prepared, describe_machine
from comity.training.tally import Tally
from comity.training.task_gradients import Batch, TaskGradients
from comity.training.teachers import with_soft_labels

MOST_SKIPPED = 10
"""Consecutive skipped steps (a loss or gradient is not finite) after which the run stops."""

TIMED_ROWS = 64
"""Dev rows of each task from which the time of an evaluation is estimated."""

LOG_EVERY = 50
"""Steps between two train entries in metrics.jsonl."""


class Trainer:
    """The model as one flat vector, its optimizer, the plan, and how far the run has come."""

    directory: RunDirectory  # set by `run`

    def __init__(
        self,
        prepared: Prepared,
        on_event: Listener = ignore,
        precision: str | None = None,
        ranks: Ranks = ALONE,
    ):
        """`precision` is "float32" or "bfloat16" for a resumed run; None takes the recipe's.

        `ranks` are the processes that share the run; by default it is this one alone.
        """
        hardware.keep_freed_memory()
        recipe = prepared.recipe
        self.settings = recipe.train
        self.on_event = on_event
        self.ranks = ranks
        self.device = hardware.choose_device(recipe.train.device)
        self.dtype = hardware.choose_precision(recipe.train.precision, self.device)
        if precision is not None:
            self.dtype = getattr(torch, precision)
        tasks = with_soft_labels(prepared.tasks, prepared.teachers, recipe.train.device, on_event)
        self.prepared = prepared = replace(prepared, tasks=tasks)
        self.model = prepared.model().to(self.device)
        self.flat = FlatParameters(self.model.owned_parameters(), self.dtype, self.device)
        self.optimizer = FlatAdamW(
            self.flat, recipe.train.betas, recipe.train.eps, recipe.train.weight_decay
        )
        self.average = make_average(recipe.train, self.flat)
        self.gradients = Gradients(self.flat, 0)  # `start_stage` allocates the rows
        self.frozen: FrozenEncoder | None = None  # in a stage that freezes the whole encoder
        self.plans = plan_stages(recipe.stages, prepared.tasks, recipe.train)
        self.task_gradients = [
            TaskGradients(
                self.model,
                prepared.tasks,
                {task.name: split for task, split in zip(plan.tasks, plan.splits, strict=True)},
                prepared.template,
                recipe.train.seed,
                self.device,
                prepared.masking,
                self.ranks,
            )
            for plan in self.plans
        ]
        self.train_samples = {
            name: _sample(name, data.train, recipe.train.eval_train_rows, recipe.train.seed)
            for name, data in prepared.tasks.items()
        }
        self.progress = Progress()
        self.balancer_state: dict[str, Tensor] = {}  # [K, K] each, for the K tasks of the stage
        self.saving = Saving(on_event)
        self.unlogged: list[Entry] = []  # not in metrics.jsonl yet
        self.interrupts = Interrupts(lambda name: on_event(StopRequested(name)))

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(len(plan.steps) for plan in self.plans)

    def plan(self, estimate_time: bool = False) -> PlanSummary:
        """The plan of the whole run, also sent as an event."""
        summary = plan_summary(
            self.plans,
            self.prepared.tasks,
            self.settings.average,
            self._memory(),
            _name(self.dtype),
            str(self.device),
            self.time_left() if estimate_time else None,
            self.ranks.size,
        )
        self.on_event(Planned(summary))
        return summary

    def _memory(self) -> dict[str, int]:
        rows = {n: len(d.dev) + len(self.train_samples[n]) for n, d in self.prepared.tasks.items()}
        encoded = max(
            encoded_bytes(
                plan,
                self.model,
                self.prepared.tasks,
                rows if plan.evaluates_frozen(self.settings.average) else {},
            )
            for plan in self.plans
        )
        vectors = self.average.vectors
        return memory(self.flat, self.plans, self.settings.conflict_every, vectors, encoded)

    def run(
        self,
        directory: RunDirectory,
        resume: bool = False,
        extend: bool = False,
        command: list[str] | None = None,
    ) -> None:
        """Train all stages, or stop early after `patience` evaluations without a gain.

        Args:
            directory: of the run.
            resume: continue from the run's last checkpoint.
            extend: the recipe's last stage is new, and starts where the resumed run has stopped.
            command: the command line to record.

        Raises:
            Interrupted: a signal has stopped the run, after a checkpoint.
            ProcessLost: another process has failed or does not answer.
        """
        self.directory = directory
        self.checkpoints = CheckpointWriter(directory, self.settings.keep_checkpoints)
        self.saved_at = time.monotonic()
        if resume:
            self._restore()
            if extend:
                self._extend()
        elif self.ranks.is_first:
            directory.write_facts(self._facts(command))
            directory.write_recipe(self.prepared.recipe)
            directory.write_data(data_summary(self.prepared).recorded)
            directory.write_skipped_rows(self.prepared.skipped_rows())
        self.ranks.wait()
        tasks = tuple(self.prepared.tasks)
        self.on_event(RunStarted(tasks, self.progress.step, self.total_steps))
        try:
            with self.interrupts:
                while not (self.progress.selection.stopped_early or self._is_over()):
                    self.run_stage(self.plans[self.progress.stage])
            self._finish()
            self.ranks.wait()
        except ProcessLost as error:
            how_to_resume = [directory.status().sentence] if self.ranks.is_first else []
            raise ProcessLost(*error.messages, *how_to_resume) from None
        except OSError as error:
            where, reason = error.filename or directory.path, error.strerror or error
            raise ComityError(f"{where}: {reason}; {directory.advice_after_failed_write}") from None
        finally:
            self.checkpoints.close()

    def _finish(self) -> None:
        """Mark the run as finished once everything is written."""
        if not self.ranks.is_first:
            return
        late = not self.saving.complete
        self.saving.finish()
        if late:  # the last evaluation has left out its checkpoint
            self._start_checkpoint()
        self.checkpoints.wait()
        entry = end_entry(self.progress)
        self.directory.log(entry)
        self.on_event(Logged(entry))

    def _is_over(self) -> bool:
        return self.progress.stage >= len(self.plans)

    def run_stage(self, plan: StagePlan) -> None:
        """Take the remaining steps of one stage; a stage ends with an evaluation."""
        self.start_stage(plan)
        progress = self.progress
        while progress.stage == plan.number and not progress.selection.stopped_early:
            if not progress.evaluation_due:  # it is where an interrupt came before the evaluation
                done = self.step(plan, plan.steps[progress.stage_step])
                progress.stage_step += 1
                progress.step += 1
                progress.evaluation_due = progress.stage_step in plan.evaluations
                self.on_event(done)
                if self._probe_is_due(plan):
                    self.probe(plan)
                if progress.evaluation_due or progress.step % LOG_EVERY == 0:
                    self._log_training()
            self._stop_if_asked()
            if progress.evaluation_due:
                self._evaluate_and_keep(plan)
            elif self._checkpoint_is_due():
                self._start_checkpoint()

    def start_stage(
        self, plan: StagePlan, steps: Sequence[Sequence[PlannedBatch]] | None = None
    ) -> None:
        """Allocate the stage's gradients; reset the optimizer and the average of the weights unless
        the stage keeps their state; encode the training rows if the encoder is frozen.

        `steps` are those that will be taken, all of the stage by default.

        The balancer's state describes the stage's tasks, so it is kept with the optimizer's only
        where the stage before had the same tasks and balancer.
        """
        del self.gradients  # free the previous stage's rows before new ones are allocated
        frozen = frozen_layers(plan.stage.freeze, self.flat)
        rows = plan.allocated_rows(self.settings.conflict_every)
        self.gradients = Gradients(self.flat, rows, frozen)
        if self.progress.stage_step == 0:
            self.progress.conflict = self._conflict_monitor(plan)
            self.progress.selection.without_gain = 0
            if not plan.stage.keep_optimizer_state:
                self.optimizer.reset()
                self.average.restart()
            if not self._keeps_balancer_state(plan):
                self.balancer_state = {}
        depth = self.prepared.encoder.depth
        self.progress.conflict.layers = [layer_name(n, depth) for n in self.gradients.layers]
        self._start_frozen(plan, steps)

    def _start_frozen(
        self, plan: StagePlan, steps: Sequence[Sequence[PlannedBatch]] | None = None
    ) -> None:
        """Encode the training rows of a stage that freezes the encoder; forget those of others."""
        self.frozen = None
        for each in self.task_gradients:
            each.frozen = {}
        if plan.freezes_encoder:
            self.frozen = FrozenEncoder(self.model, self.prepared.tasks, self.prepared.template)
            self.task_gradients[plan.number].frozen = (
                self.frozen.training_rows(plan, plan.steps, self._rows_encoded)
                if steps is None
                else self.frozen.training_rows(plan, steps)
            )
            if not plan.evaluates_frozen(self.settings.average):
                self.frozen = None

    def _rows_encoded(self, task: str, done: int, rows: int) -> None:
        self.on_event(RowsEncoded(task, done, rows))
        self._stop_if_asked()

    def _keeps_balancer_state(self, plan: StagePlan) -> bool:
        if not plan.stage.keep_optimizer_state:  # as in any first stage
            return False
        before, stage = self.plans[plan.number - 1].stage, plan.stage
        return (before.balancer, before.tasks) == (stage.balancer, stage.tasks)

    def step(self, plan: StagePlan, planned: Sequence[PlannedBatch]) -> StepDone:
        """One update of the weights from the planned batches."""
        started = time.perf_counter()
        batches = self._batches(plan, planned)
        with hardware.memory_errors(lambda: self._too_large(batches)):
            losses, tasks, gramian = self._fill(plan, batches, self.progress.step)
        self.progress.conflict.observe_step(tasks, gramian)
        # Processors may round differently, so one process decides for all.
        weights, norm = self.ranks.from_first(self._weigh(plan, tasks, gramian))
        self.progress.conflict.observe_weights(tasks, gramian, weights)
        if all(map(math.isfinite, (*losses, norm))):
            self.progress.skipped_in_a_row = 0
            self._update(plan, set(tasks), weights, norm)
        else:
            self._skip(batches, losses, tasks, gramian)
        done = StepDone(
            step=self.progress.step + 1,
            losses=tuple((batch.task, loss) for batch, loss in zip(batches, losses, strict=True)),
            examples=sum(batch.rows for batch in batches),
            tokens=sum(batch.tokens for batch in batches),
            seconds=time.perf_counter() - started,
            stage=plan.number,
        )
        self.progress.examples += done.examples
        self.progress.tally.add(done)
        return done

    def _batches(self, plan: StagePlan, planned: Sequence[PlannedBatch]) -> list[Batch]:
        chosen = []
        for batch in planned:
            task = plan.tasks[batch.task]
            _, indices = task.batches.batch(batch.number)
            chosen.append((task.name, indices))
        masked = plan.stage.train_on != "labels"
        return self.task_gradients[plan.number].batches(chosen, masked, self._done(plan))

    def _done(self, plan: StagePlan) -> float:
        """The share of a stage's steps that are done."""
        return self.progress.stage_step / len(plan.steps)

    def _fill(
        self, plan: StagePlan, batches: Sequence[Batch], *keys: int
    ) -> tuple[list[float], list[str], Tensor]:
        """Losses of the batches, tasks of the gradient rows, and Gramian of the rows."""
        task_gradients = self.task_gradients[plan.number]
        if plan.stage.train_on == "labels":
            together = plan.stage.balancer == "sum"
            losses, tasks = task_gradients.fill(self.gradients, batches, together, *keys)
        else:
            losses, tasks = task_gradients.fill_masked(self.gradients, batches, *keys)
        return losses, tasks, self.gradients.gramian()

    def _weigh(
        self, plan: StagePlan, tasks: Sequence[str], gramian: Tensor
    ) -> tuple[list[float], float]:
        """The balancer's weight of each row, and the norm of the combined gradient.

        No weights and a norm of NaN where a gradient is not finite.
        """
        if not bool(torch.isfinite(gramian).all()):
            return [], math.nan
        heads = sum(self.gradients.squared_norm(task) for task in tasks)
        if not math.isfinite(heads):
            return [], math.nan
        orders = draw_orders(self.settings.seed, self.progress.step, len(gramian))
        weights = self._balance(plan, tasks, gramian, orders)
        shared = float(weights @ gramian @ weights)
        norm = math.sqrt(max(shared, 0) + heads) if math.isfinite(shared + heads) else math.nan
        return weights.tolist(), norm

    def _balance(
        self, plan: StagePlan, tasks: Sequence[str], gramian: Tensor, orders: Orders
    ) -> Tensor:
        """The balancer's weights. It reads and updates its state for the present tasks only."""
        names = [task.name for task in plan.tasks]
        indices = [names.index(task) for task in tasks if task in names]
        rows, columns = np.ix_(indices, indices)
        present = {name: whole[rows, columns] for name, whole in self.balancer_state.items()}
        weights, new = BALANCERS[plan.stage.balancer](gramian, orders, present)
        for name, part in new.items():
            empty = torch.zeros(len(names), len(names), dtype=part.dtype)
            self.balancer_state.setdefault(name, empty)[rows, columns] = part
        return weights

    def _update(
        self, plan: StagePlan, present: set[str], weights: list[float], norm: float
    ) -> None:
        """Clip the combined gradient, take one AdamW step, and update the average."""
        stage, max_norm = plan.stage, self.settings.max_grad_norm
        factor = schedule_factor(
            self.progress.stage_step, len(plan.steps), stage.warmup, stage.lr_schedule
        )
        head_lr = {
            name: factor * (data.task.head_lr or self.settings.head_lr or stage.lr)
            for name, data in self.prepared.tasks.items()
        }
        rates = segment_rates(
            lr=factor * stage.lr,
            head_lr=head_lr | {MASKED: factor * stage.lr},
            present=present,
            frozen_layers=self.gradients.frozen_layers,
            top_layer=top_layer(self.flat),
            lr_layer_decay=stage.lr_layer_decay,
        )
        clip = max_norm / norm if 0 < max_norm < norm else 1.0
        self.optimizer.update(self.gradients, weights, clip, rates)
        self.average.after_update()
        self.progress.norm, self.progress.lr = norm, factor * stage.lr

    def _skip(
        self,
        batches: Sequence[Batch],
        losses: Sequence[float],
        tasks: Sequence[str],
        gramian: Tensor,
    ) -> None:
        """Leave the weights unchanged; stop the run after too many such steps in a row."""
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        finite = torch.isfinite(gramian.diagonal()).tolist()
        bad = {b.task for b, loss in zip(batches, losses, strict=True) if not math.isfinite(loss)}
        if not bad and len(finite) == len(tasks):
            bad = {task for task, good in zip(tasks, finite, strict=True) if not good}
        batch = next((b for b in batches if b.task in bad), batches[0])
        step, lines = self.progress.step + 1, batch.lines_by_file
        where = " and ".join(locations(path, own, len(own), 8) for path, own in lines.items())
        path = batch.split.table.path
        labelled = [row_name(path, line) for line in lines.get(path, [])]
        self._log(SkippedEntry(step=step, task=batch.task, lines=labelled))
        self.on_event(StepSkipped(step, batch.task, where))
        if self.progress.skipped_in_a_row >= MOST_SKIPPED:
            self._check_weights()  # if these are not finite, the rows are not the cause
            raise ComityError(
                f"{where}: the loss of {batch.task} or its "
                f"gradient was not finite in {MOST_SKIPPED} steps in a row, so the run stops; "
                "lower the learning rate or check these rows"
            )

    def _too_long(self, task: str) -> str:
        """What to do if there is not enough memory for an evaluation."""
        return (
            f"{self.directory.path}: out of memory in the evaluation of {task} after step "
            f"{self.progress.step:,}; free some memory and run {self.directory.next_command}, "
            f"or start a run with a lower tasks.{task}.max_length"
        )

    def _too_large(self, batches: Sequence[Batch]) -> str:
        """What to do if there is not enough memory for a step."""
        batch = max(batches, key=lambda batch: batch.tokens)
        rows, tokens = plural(batch.rows, "row"), plural(batch.tokens, "token")
        return (
            f"{self.directory.path}: out of memory in step {self.progress.step + 1:,}, whose "
            f"largest batch has {rows} and {tokens} of {batch.task}; start a run with "
            f"tasks.{batch.task}.micro_batches = 2, or a lower batch_size or max_length, or free "
            f"some memory and run {self.directory.next_command}"
        )

    def time_left(self, steps: int = 4) -> float | None:
        """Estimate the seconds of all steps, conflict probes and evaluations by timing a few.

        Their effects are undone. None for a plan so short that timing it would take as long as
        running it.
        """
        if sum(len(plan.steps) for plan in self.plans) < 20 * steps:
            return None
        masters = self.flat.masters.clone()
        total, before, evaluations = 0.0, 0, 0
        for plan in self.plans:
            total += self._time_steps(plan, steps)
            probes = plan.probes(before, self.settings.conflict_every)
            total += probes * self._time_probe(plan) if probes else 0
            before += len(plan.steps)
            frozen = plan.evaluates_frozen(self.settings.average)
            evaluations += 1 if frozen else len(plan.evaluations)
        total += evaluations * self._time_evaluation()
        self.flat.masters.copy_(masters)
        self.flat.refresh(0, len(masters))
        self.optimizer.reset()
        self.average.restart()
        self.progress, self.balancer_state = Progress(), {}
        return total

    def _time_steps(self, plan: StagePlan, steps: int) -> float:
        """Seconds for a stage, encoding its rows included, from those for some of its steps."""
        chosen = [plan.steps[int(i)] for i in np.linspace(0, len(plan.steps) - 1, steps)]
        self.start_stage(plan, chosen)
        started = time.perf_counter()
        self._start_frozen(plan, chosen)  # once more: the first time also fills caches
        encoding = time.perf_counter() - started
        tokens, seconds = 0, 0.0
        for number, planned in enumerate(chosen):
            started = time.perf_counter()
            batches = self._batches(plan, planned)
            _, tasks, gramian = self._fill(plan, batches, TIMING, 0)
            weights, norm = self._weigh(plan, tasks, gramian)
            self._update(plan, set(tasks), weights, norm)
            if number:  # the first step also fills caches
                tokens += sum(batch.tokens for batch in batches)
                seconds += time.perf_counter() - started
        all_tokens = sum(count.tokens for count in plan.counts)
        if not plan.freezes_encoder:
            return seconds / tokens * all_tokens
        encoded = sum(each.tokens for each in count(chosen, plan.tasks, encoded_once=True))
        return encoding / encoded * all_tokens + seconds / (steps - 1) * len(plan.steps)

    def _time_probe(self, plan: StagePlan) -> float:
        """Seconds for one probe."""
        started = time.perf_counter()
        self._measure(plan)
        return time.perf_counter() - started

    def _time_evaluation(self) -> float:
        """Seconds for one evaluation, from those for a few rows of each task."""
        total = 0.0
        for name, data in self.prepared.tasks.items():
            few = data.dev.take(np.arange(min(TIMED_ROWS, len(data.dev))))
            seconds = 0.0
            for _ in range(2):  # the first pass also fills caches
                started = time.perf_counter()
                task_outputs(self.model, name, few, self.prepared.template, data.max_length)
                seconds = time.perf_counter() - started
            views = self.model.tasks[name].views
            tokens, dev, train = (
                int(split.lengths(views, data.max_length).sum())
                for split in (few, data.dev, self.train_samples[name])
            )
            total += seconds / tokens * (dev + train)
        return total / self.ranks.size

    # --- conflict -------------------------------------------------------------------------------

    def _conflict_monitor(self, plan: StagePlan) -> ConflictMonitor:
        return ConflictMonitor.of_stage(plan.compared_tasks, from_steps=plan.gradient_rows > 1)

    def _probe_is_due(self, plan: StagePlan) -> bool:
        """Probes come after a stage's first step and every `conflict_every` steps of the run."""
        every, progress = self.settings.conflict_every, self.progress
        if not plan.is_probed(every):
            return False
        return progress.stage_step == 1 or progress.step % every == 0

    def probe(self, plan: StagePlan) -> None:
        """Compare the gradients of two random batches of each task, without an update."""
        step = self.progress.step
        products, norms, other_norms = self._measure(plan)
        self._log(self.progress.conflict.observe_probe(step, products, norms, other_norms))

    def _measure(self, plan: StagePlan) -> tuple[Tensor, Tensor, Tensor]:
        """What a probe observes in each layer: products `[L, K, K]` of the tasks' first and second
        gradients, and the squared norms `[L, K]` of both.
        """
        task_gradients, step = self.task_gradients[plan.number], self.progress.step
        chosen = [self._probe_batches(task) for task in plan.tasks]
        done = self._done(plan)
        first = task_gradients.batches([(name, b[0]) for name, b in chosen], done=done)
        task_gradients.fill(self.gradients, first, False, PROBE, step, 0)
        norms = self.gradients.products(self.gradients).diagonal(dim1=1, dim2=2)
        other = Gradients(self.flat, 1, self.gradients.frozen_layers)
        columns, other_norms = [], []
        for name, batches in chosen:  # one by one, to need memory for one more row only
            second = task_gradients.batches([(name, batches[1])], done=done)
            task_gradients.fill(other, second, True, PROBE, step, 1)
            columns.append(self.gradients.products(other))
            other_norms.append(other.products(other).squeeze(2))
        return torch.cat(columns, dim=2), norms, torch.cat(other_norms, dim=1)

    def _probe_batches(self, task: SampledTask) -> tuple[str, list[NDArray[np.integer]]]:
        """The task and the rows of two of its batches, drawn without replacement."""
        draws = generator(PROBE, self.settings.seed, self.progress.step, name_key(task.name))
        numbers = draws.choice(task.batches.per_pass(0), size=2, replace=False).tolist()
        return task.name, [task.batches.batch(number)[1] for number in numbers]

    def _log_stage_conflict(self, plan: StagePlan) -> None:
        if plan.shares:
            reason = plan.unprobed(self.settings.conflict_every)
            stage = plan.number, plan.stage.name, reason, plan.stage.balancer
            self._log(self.progress.conflict.summary(self.progress.step, *stage))

    def _log(self, entry: Entry | None) -> None:
        if entry is not None and self.ranks.is_first:
            self.unlogged.append(entry)
            self.saving.write("metrics", self._write_entries)
            self.on_event(Logged(entry))

    def _write_entries(self) -> None:
        self.directory.log(*self.unlogged)
        self.unlogged = []

    # --- evaluation -----------------------------------------------------------------------------

    def evaluate(self, splits: Mapping[str, Split]) -> tuple[dict[str, Evaluation], dict[str, Any]]:
        """Evaluate one split per task with the current weights; the processes share its rows.

        Returns the evaluation and the raw outputs `[n, outputs]` of each task.
        """
        evaluations, outputs = {}, {}
        for name, split in splits.items():
            self._stop_if_asked()
            with hardware.memory_errors(lambda task=name: self._too_long(task)):
                outputs[name] = self._outputs(name, split)
            evaluations[name] = self._scored(name, self.model.tasks, splits, outputs)
        return evaluations, outputs

    def _outputs(self, task: str, split: Split) -> NDArray[np.float64]:
        """The raw outputs of all rows, of which each process computes some of the batches."""
        if self.frozen is not None:  # heads alone take little time
            return self.frozen.outputs(task, split)
        template, max_length = self.prepared.template, self.prepared.tasks[task].max_length
        own = slice(self.ranks.rank, None, self.ranks.size)
        found = task_outputs(self.model, task, split, template, max_length, batches=own)
        self.ranks.sum(torch.from_numpy(found))  # each row is 0 in all but one of them
        return found

    def _scored(
        self,
        task: str,
        heads: Mapping[str, HeadSpec],
        splits: Mapping[str, Split],
        outputs: Mapping[str, Any],
    ) -> Evaluation:
        metric = self.prepared.tasks[task].task.metric_name
        return evaluate_outputs(task, heads[task], metric, splits[task], outputs[task])

    def _evaluate_and_keep(self, plan: StagePlan) -> None:
        """Evaluate dev and a sample of training, keep the best model, write a checkpoint.

        The averaged weights are evaluated and kept; the checkpoint has the trained ones too.
        """
        self._check_weights()
        self._align()
        self.average.swap_in()
        dev = {name: data.dev for name, data in self.prepared.tasks.items()}
        evaluations, outputs = self.evaluate(dev)
        on_train, _ = self.evaluate(self.train_samples)
        scores = scores_of(evaluations)
        is_best = self._select(plan, scores)
        self._log(evaluation_entry(self.progress, evaluations, on_train))
        self._log_stage_conflict(plan)
        sections = {name: data.task for name, data in self.prepared.tasks.items()}
        fit = DevFit()
        if is_best:
            fit = fit_on_dev(sections, self.model.tasks, dev, outputs)
        heads = fitted_heads(self.model.tasks, fit)
        self._write_predictions(dev, outputs, heads)
        if is_best:
            own = {name: self._scored(name, heads, dev, outputs) for name in fit.tasks}
            self._write_best({**evaluations, **own}, fit)
        self.average.swap_out()
        self.average.after_evaluation()
        selection = self.progress.selection
        selection.stopped_early = self.ranks.from_first(selection.stopped_early)
        self._end_evaluation(plan)
        self._start_checkpoint()
        self.on_event(Evaluated(self.progress.step, evaluations, mean_score(scores).value))

    def _align(self) -> None:
        """Take the state of the first process: processors of other kinds may round differently."""
        state = [self.flat.masters, self.optimizer.first, self.optimizer.second]
        for tensor in (*state, *self.average.tensors().values()):
            self.ranks.take_first(tensor)
        self.flat.refresh(0, len(self.flat.masters))

    def _end_evaluation(self, plan: StagePlan) -> None:
        """Note that the evaluation is done: next comes a step of this stage, or the next stage."""
        self.progress.evaluation_due = False
        if self.progress.stage_step == len(plan.steps):
            self.progress.stage += 1
            self.progress.stage_step = 0

    def _select(self, plan: StagePlan, scores: Mapping[str, Score]) -> bool:
        """Whether the current model is the best so far; otherwise count towards `patience`."""
        selection, trained = self.progress.selection, self._of_trained(scores)
        if selection.update(self.progress.step, scores, trained, self.settings.select_by):
            return True
        if plan.stage.train_on == "labels":  # masked words may well gain a task nothing
            selection.count_without_gain(self.settings.patience)
        return False

    def _of_trained(self, scores: Mapping[str, Score]) -> dict[str, Score]:
        """The scores of the tasks that are not `eval_only`."""
        tasks = self.prepared.tasks
        return {name: s for name, s in scores.items() if not tasks[name].task.eval_only}

    # --- the run directory ----------------------------------------------------------------------

    def _write_best(self, evaluations: Mapping[str, Evaluation], fit: DevFit) -> None:
        """Keep the current model; the evaluations are with what was fitted on dev."""
        if not self.ranks.is_first:
            return
        select_by, scores = self.settings.select_by, scores_of(evaluations)
        score = selected(scores, self._of_trained(scores), select_by)
        best = BestScore(score, self.progress.step)
        own = {name: evaluations[name] for name in fit.tasks}
        record = best_model(best, scores, select_by, fit, own)
        self.saving.write(
            "best model",
            lambda: self.directory.write_best(record, self._save_model),
            later=lambda: self._best_with_copies(record),
        )

    def _best_with_copies(self, record: BestModel) -> Write:
        weights = {name: weight.clone() for name, weight in self.flat.masters_by_name().items()}
        return lambda: self.directory.write_best(record, partial(self._save_model, weights=weights))

    def _save_model(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the present weights, or copies of earlier ones."""
        prepared = self.prepared
        masters = self.flat.masters_by_name() if weights is None else weights
        save_model(folder, prepared.encoder, prepared.loaded.tokenizer, masters)

    def _write_predictions(
        self,
        splits: Mapping[str, Split],
        outputs: Mapping[str, Any],
        heads: Mapping[str, HeadSpec],
    ) -> None:
        def save(folder: Path) -> None:
            for name, split in splits.items():
                separator = self.prepared.tasks[name].task.separator
                target = heads[name].target
                write_predictions(folder / f"{name}.csv", target, split, outputs[name], separator)

        if self.ranks.is_first:
            step = self.progress.step
            self.saving.write(
                f"predictions at step {step}", lambda: self.directory.write_predictions(step, save)
            )

    def _checkpoint_is_due(self) -> bool:
        """Checkpoints come every `checkpoint_every` steps of the run, or minutes."""
        minutes = self.settings.checkpoint_minutes
        if minutes is None:
            return self.progress.step % int(self.settings.checkpoint_every) == 0
        return time.monotonic() - self.saved_at >= 60 * minutes

    def _start_checkpoint(self) -> None:
        """Copy the state of training; it is written while training continues.

        If a part of the run waits to be written there is no checkpoint, because a resumed run
        would not write that part again.
        """
        self._check_weights()
        self.saved_at = time.monotonic()
        if not self.ranks.is_first or not self.saving.retry():
            return
        try:
            self.checkpoints.wait()
            self.saving.worked()
        except WriteError as error:
            self.saving.failed(error)
        self.checkpoints.start(
            self.progress, self.flat, self.optimizer, self.average, self.balancer_state
        )

    def _finish_checkpoint(self) -> None:
        """Write what is left and a checkpoint, and wait for it.

        Raises:
            OSError, WriteError: a file cannot be written.
        """
        self.saving.finish()
        self._start_checkpoint()
        self.checkpoints.wait()
        self.ranks.wait()

    def _check_weights(self) -> None:
        """Raise a ComityError if a weight is not finite: such a model is worth nothing."""
        if not bool(torch.isfinite(self.flat.masters).all()):
            raise ComityError(
                f"{self.directory.path}: the weights are no longer finite after step "
                f"{self.progress.step:,}, so the run stops; start a new run with a lower learning "
                "rate (lr, head_lr)"
            )

    def _stop_if_asked(self) -> None:
        """If a signal has arrived at any process, write a checkpoint and raise `Interrupted`."""
        number = self.ranks.highest(self.interrupts.received or 0)
        if number:
            self.average.swap_out()  # the signal may have come during an evaluation
            self._finish_checkpoint()
            step, total = self.progress.step, self.total_steps
            raise Interrupted(f"stopped at step {step:,} of {total:,}", number)

    def _log_training(self) -> None:
        if self.progress.tally.seconds > 0:
            self._log(self.progress.conflict.steps_entry(self.progress.step))
            self._log(train_entry(self.progress))
        self.progress.tally = Tally()

    def _facts(self, command: list[str] | None) -> RunFacts:
        return RunFacts(
            seed=self.settings.seed,
            precision=_name(self.dtype),
            inputs=self.prepared.inputs(),
            tasks=self.prepared.task_facts(self.model.tasks),
            machine=replace(describe_machine(self.device), processes=self.ranks.size),
            versions=versions(),
            command=command,
            commit=current_commit(),
            id=new_run_id(),
            recipe=self.prepared.recipe.to_dict(),
            steps=self.total_steps,
        )

    def _restore(self) -> None:
        """Continue from the last checkpoint, provided that the run's inputs are unchanged."""
        if self.ranks.is_first:
            self.directory.remove_unfinished_writes()
        self.prepared.check_unchanged(self.directory.facts().inputs)
        restored = read_checkpoint(
            self.directory, self.plans, self.flat, self.optimizer, self.average
        )
        self.progress, self.balancer_state = restored.progress, restored.balancer_state
        if self.ranks.is_first:
            self.directory.forget_after(self.progress.step)
        self.on_event(Resumed(self.progress.step, tuple(restored.notes)))

    def _extend(self) -> None:
        """Start the new last stage if the stages before it are over; record the new recipe."""
        if self.progress.selection.stopped_early:
            self.progress.selection.stopped_early = False
            self.progress.stage, self.progress.stage_step = len(self.plans) - 1, 0
        self._finish_checkpoint()  # first: without the new recipe it is the end of the run
        if not self.ranks.is_first:
            return
        recipe = self.prepared.recipe
        facts = replace(self.directory.facts(), recipe=recipe.to_dict(), steps=self.total_steps)
        self.directory.write_facts(facts)
        self.directory.write_recipe(recipe)


def _name(dtype: torch.dtype) -> str:
    """A dtype's name in run.json: "float32" or "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def _sample(name: str, split: Split, size: int, seed: int) -> Split:
    """Training rows to evaluate; the same ones each time, to show over-fitting."""
    draws = generator(SAMPLE, seed, name_key(name))
    return split.take(np.sort(draws.permutation(len(split))[:size]))


def frozen_layers(freeze: str | int, flat: FlatParameters) -> int:
    """How many layers a recipe's `freeze` freezes, counted from the embeddings."""
    if isinstance(freeze, int):
        return freeze + 1
    return {"nothing": 0, "embeddings": 1, "encoder": top_layer(flat) + 1}[freeze]


def top_layer(flat: FlatParameters) -> int:
    """The number of the highest shared layer: the pooler."""
    return max(segment.layer for segment in flat.segments if segment.owner == SHARED)


def layer_name(layer: int, depth: int) -> str:
    """The name of a shared layer of an encoder with `depth` layers.

    >>> [layer_name(layer, 2) for layer in range(4)]
    ['embeddings', 'layer 1', 'layer 2', 'pooler']
    """
    return {0: "embeddings", depth + 1: "pooler"}.get(layer, f"layer {layer}")
