"""The training loop: batches, task gradients, Gramian, weights, one update; evaluate and keep.

Reads from top to bottom like the data-flow picture of the documentation: `train` prepares,
`Trainer.run` walks the stages, `Trainer.step` is one update of the weights.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comity import hardware
from comity.data.splits import Split
from comity.data.task_sampling import PlannedBatch
from comity.errors import ComityError
from comity.evaluation.evaluate import Evaluation, evaluate_outputs, scores_of, task_outputs
from comity.evaluation.metrics import Score, better, mean_score
from comity.evaluation.predictions import write_predictions
from comity.model.checkpoint import save_model
from comity.model.multitask import MASKED
from comity.model.parameters import SHARED, FlatParameters
from comity.recipe.recipe import Recipe
from comity.rng import PROBE, SAMPLE, generator, name_key
from comity.runs import FORMAT, RunDirectory, versions
from comity.training.balancers import BALANCERS, Orders, conflicts, cosines, draw_orders
from comity.training.events import Listener, Progress, Tally
from comity.training.gradients import Gradients
from comity.training.optim import FlatAdamW, schedule_factor, segment_rates
from comity.training.plan import StagePlan, plan_stage
from comity.training.setup import Prepared, prepare
from comity.training.task_gradients import Batch, TaskGradients

MOST_SKIPPED = 10
"""Steps in a row whose loss or gradient is not finite before the run stops."""

LOG_EVERY = 50
"""Steps between two lines of training loss (or of cosines) in the metrics."""


@hardware.flushed_denormals()  # before torch starts its threads, where it can be
def train(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    drop_leaks: bool = False,
    listener: Listener | None = None,
) -> RunDirectory:
    """Train a recipe and keep the run.

    Args:
        data: the folder where the recipe's relative paths start.
        out: the run directory, new or empty; with `resume` one that exists.
        resume: go on from the last checkpoint of `out`.
        drop_leaks: leave training rows out that stand in a dev split; a resumed run does as before.

    Raises:
        ComityError: with everything that is wrong with recipe, files or checkpoint.

    Example:
        run = train(Recipe.load("recipe.toml"), data="data", out="runs/first")
    """
    run = RunDirectory.open(Path(out)) if resume else None
    if run is None:
        RunDirectory.check_new(Path(out))
    elif run.recipe() != recipe:
        raise ComityError(f"{out}: was started with another recipe; resume with {run.path}'s own")
    else:
        drop_leaks = run.facts()["drop_leaks"]
    trainer = Trainer(prepare(recipe, Path(data), drop_leaks), listener, run)
    run = run or RunDirectory.create(Path(out))
    trainer.run(run, resume)
    return run


class Trainer:
    """The model in its flat vector, the plan, and where the run stands."""

    directory: RunDirectory  # set by `run`

    def __init__(
        self,
        prepared: Prepared,
        listener: Listener | None = None,
        resumed: RunDirectory | None = None,
    ):
        """`resumed`: the run that is gone on with; it computes in the dtype that it recorded."""
        hardware.keep_freed_memory()
        recipe = prepared.recipe
        self.prepared = prepared
        self.settings = recipe.train
        self.listener = listener or Listener()
        self.device = hardware.choose_device(recipe.train.device)
        self.dtype = hardware.choose_precision(recipe.train.precision, self.device)
        if resumed is not None:
            self.dtype = getattr(torch, resumed.facts()["precision"])
        self.model = prepared.model().to(self.device)
        self.flat = FlatParameters(self.model.owned_parameters(), self.dtype, self.device)
        self.optimizer = FlatAdamW(
            self.flat, recipe.train.betas, recipe.train.eps, recipe.train.weight_decay
        )
        self.plans = [
            plan_stage(number, stage, prepared.tasks, recipe.train)
            for number, stage in enumerate(recipe.stages)
        ]
        self.task_gradients = [
            TaskGradients(
                self.model,
                prepared.tasks,
                {task.name: split for task, split in zip(plan.tasks, plan.splits, strict=True)},
                prepared.template,
                recipe.train.seed,
                self.device,
                prepared.masking,
            )
            for plan in self.plans
        ]
        self.train_samples = {
            name: _sample(name, data.train, recipe.train.eval_train_rows, recipe.train.seed)
            for name, data in prepared.tasks.items()
        }
        self.progress = Progress()
        self.tally = Tally()
        self.balancer_state: dict[str, Tensor] = {}  # [K, K] each, K tasks of the stage
        self.norm: float | None = None  # of the last step's gradient, before clipping
        self.conflict: tuple[list[str], Tensor] | None = None  # the cosines seen last

    # --- the loop -------------------------------------------------------------------------------

    def run(self, directory: RunDirectory, resume: bool = False) -> None:
        """Walk the stages to the end, or until evaluations have not gained `patience` times."""
        self.directory = directory
        if resume:
            self._restore()
        else:
            directory.write_recipe(self.prepared.recipe)
            directory.write_facts(self._facts())
        self.listener.planned(self)
        while self.progress.stage < len(self.plans) and not self.progress.stopped_early:
            self.run_stage(self.plans[self.progress.stage])
        entries = directory.metrics()
        if not entries or entries[-1]["type"] != "end":
            directory.log("end", **asdict(self.progress))

    def run_stage(self, plan: StagePlan) -> None:
        """Take the steps of one stage that are not done yet."""
        self.start_stage(plan)
        while self.progress.stage_step < len(plan.steps):
            self.step(plan, plan.steps[self.progress.stage_step])
            self.progress.stage_step += 1
            self.progress.step += 1
            self.listener.stepped(self)
            self._watch(plan)
            judged = self.progress.stage_step in plan.evaluations
            if judged or self.progress.step % LOG_EVERY == 0:
                self._log_training()
            if self.progress.stage_step == len(plan.steps):
                self.progress.stage += 1  # before the checkpoint, which then starts the next one
                self.progress.stage_step = 0
            if judged:
                self._judge_and_keep(plan)
            if self.progress.stopped_early or self.progress.stage_step == 0:
                return

    def start_stage(self, plan: StagePlan) -> None:
        """Room for the stage's gradients; new moments unless it carries on."""
        frozen = frozen_layers(plan.stage.freeze, self.flat)
        self.__dict__.pop("gradients", None)  # the old ones go before the new ones come
        self.gradients = Gradients(self.flat, plan.rows_needed, frozen)
        if self.progress.stage_step == 0:
            self.balancer_state = {}
            self.progress.without_gain = 0
            if not plan.stage.keep_optimizer_state:
                self.optimizer.reset()

    def step(self, plan: StagePlan, turns: Sequence[PlannedBatch]) -> None:
        """One update of the weights from the batches of `turns`."""
        started = time.perf_counter()
        batches = self._batches(plan, turns)
        losses, tasks, gramian = self._fill(plan, batches, self.progress.step)
        if plan.stage.balancer != "sum":
            self._note_conflict(tasks, gramian)
        weights, norm = self._weigh(plan, tasks, gramian)
        if all(map(math.isfinite, (*losses, norm))):
            self.progress.skipped_in_a_row = 0
            self._update(plan, set(tasks), weights, norm)
        else:
            self._skip(batches, losses, tasks, gramian)
        self.progress.examples += sum(batch.rows for batch in batches)
        self.tally.add(batches, losses, time.perf_counter() - started)

    def _fill(
        self, plan: StagePlan, batches: Sequence[Batch], *keys: int
    ) -> tuple[list[float], list[str], Tensor]:
        """Losses of the batches, the tasks of the gradient rows, and the rows' Gramian."""
        if plan.stage.train_on == "labels":
            together = plan.stage.balancer == "sum"
            losses, tasks = self.task_gradients[plan.number].fill(
                self.gradients, batches, together, *keys
            )
        else:
            losses, tasks = self.task_gradients[plan.number].fill_masked(
                self.gradients, batches, *keys
            )
        return losses, tasks, self.gradients.gramian()

    def _batches(self, plan: StagePlan, planned: Sequence[PlannedBatch]) -> list[Batch]:
        chosen = []
        for batch in planned:
            task = plan.tasks[batch.task]
            _, indices = task.batches.batch(batch.number)
            chosen.append((task.name, indices))
        masked = plan.stage.train_on != "labels"
        return self.task_gradients[plan.number].batches(chosen, masked)

    def _weigh(
        self, plan: StagePlan, tasks: Sequence[str], gramian: Tensor
    ) -> tuple[list[float], float]:
        """The balancer's weight of each row, and the norm of what they and the heads come to."""
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
        """The balancer's weights; of its state it sees the part of the tasks that are present."""
        names = [task.name for task in plan.tasks]
        places = [names.index(task) for task in tasks if task in names]
        rows, columns = np.ix_(places, places)
        present = {name: whole[rows, columns] for name, whole in self.balancer_state.items()}
        weights, new = BALANCERS[plan.stage.balancer](gramian, orders, present)
        for name, part in new.items():
            empty = torch.zeros(len(names), len(names), dtype=part.dtype)
            self.balancer_state.setdefault(name, empty)[rows, columns] = part
        return weights

    def _update(
        self, plan: StagePlan, present: set[str], weights: list[float], norm: float
    ) -> None:
        """Clip once, after the balancer, then AdamW."""
        stage, clip = plan.stage, self.settings.max_grad_norm
        shape = schedule_factor(
            self.progress.stage_step, len(plan.steps), stage.warmup, stage.lr_schedule
        )
        rates = segment_rates(
            lr=shape * stage.lr,
            head_lr={
                name: shape * (data.task.head_lr or self.settings.head_lr or stage.lr)
                for name, data in self.prepared.tasks.items()
            }
            | {MASKED: shape * stage.lr},
            present=present,
            frozen_layers=self.gradients.frozen_layers,
            top_layer=top_layer(self.flat),
            lr_layer_decay=stage.lr_layer_decay,
        )
        factor = clip / norm if 0 < clip < norm else 1.0
        self.optimizer.update(self.gradients, weights, factor, rates)
        self.norm = norm

    def _skip(
        self,
        batches: Sequence[Batch],
        losses: Sequence[float],
        tasks: Sequence[str],
        gramian: Tensor,
    ) -> None:
        """Leave the weights as they are; give up after too many such steps in a row."""
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        finite = torch.isfinite(gramian.diagonal()).tolist()
        bad = {b.task for b, loss in zip(batches, losses, strict=True) if not math.isfinite(loss)}
        if not bad and len(finite) == len(tasks):
            bad = {task for task, good in zip(tasks, finite, strict=True) if not good}
        batch = next((b for b in batches if b.task in bad), batches[0])
        self.directory.log(
            "skipped", step=self.progress.step + 1, task=batch.task, lines=batch.lines
        )
        if self.progress.skipped_in_a_row >= MOST_SKIPPED:
            lines = ", ".join(str(line) for line in batch.lines[:8])
            raise ComityError(
                f"{batch.split.table.path}: lines {lines}: the loss of {batch.task} or its "
                f"gradient was not finite in {MOST_SKIPPED} steps in a row, so the run stops; "
                "lower the learning rate or look at these rows"
            )

    def time_left(self, steps: int = 4) -> float | None:
        """Seconds that all stages will take, from a few timed steps that leave no trace.

        None for a plan so short that timing it would cost as much as running it.
        """
        if sum(len(plan.steps) for plan in self.plans) < 20 * steps:
            return None
        masters = self.flat.masters.clone()
        total = 0.0
        for plan in self.plans:
            self.start_stage(plan)
            chosen = [plan.steps[int(i)] for i in np.linspace(0, len(plan.steps) - 1, steps)]
            tokens, seconds = 0, 0.0
            for number, turns in enumerate(chosen):
                started = time.perf_counter()
                batches = self._batches(plan, turns)
                _, tasks, gramian = self._fill(plan, batches, PROBE)
                weights, norm = self._weigh(plan, tasks, gramian)
                self._update(plan, set(tasks), weights, norm)
                if number:  # the first step also fills caches
                    tokens += sum(batch.tokens for batch in batches)
                    seconds += time.perf_counter() - started
            total += seconds / tokens * sum(count.tokens for count in plan.counts)
        self.flat.masters.copy_(masters)
        self.flat.refresh(0, len(masters))
        self.optimizer.reset()
        self.progress = Progress()
        return total

    # --- conflict -------------------------------------------------------------------------------

    def _watch(self, plan: StagePlan) -> None:
        """Where a stage keeps no task gradients apart, probe for conflict every so often."""
        every = self.settings.conflict_every
        if plan.rows_of_a_probe(every) and (
            self.progress.step == 1 or not self.progress.step % every
        ):
            self.probe(plan)

    def probe(self, plan: StagePlan) -> None:
        """The Gramian of one batch of each task, from draws of its own and without an update."""
        apart = Gradients(self.flat, len(plan.tasks), self.gradients.frozen_layers)
        chosen = []
        for task in plan.tasks:
            draws = generator(PROBE, self.settings.seed, self.progress.step, name_key(task.name))
            _, places = task.batches.batch(int(draws.integers(task.batches.per_pass(0))))
            chosen.append((task.name, places))
        batches = self.task_gradients[plan.number].batches(chosen)
        _, tasks = self.task_gradients[plan.number].fill(
            apart, batches, False, PROBE, self.progress.step
        )
        self._note_conflict(tasks, apart.gramian())
        self._log_conflict()

    def _note_conflict(self, tasks: Sequence[str], gramian: Tensor) -> None:
        if len(tasks) > 1 and bool(torch.isfinite(gramian).all()):
            self.progress.watched += 1
            self.progress.conflicted += conflicts(gramian) > 0
            self.conflict = (list(tasks), cosines(gramian))

    def _log_conflict(self) -> None:
        """The cosines that were seen last, and the share of watched steps with a conflict."""
        if self.conflict is None:
            return
        tasks, last = self.conflict
        self.directory.log(
            "conflict",
            step=self.progress.step,
            tasks=tasks,
            cosines=[[round(float(cosine), 6) for cosine in row] for row in last],
            share_of_steps=self.progress.conflicted / self.progress.watched,
        )

    # --- evaluation -----------------------------------------------------------------------------

    def evaluate(self, splits: dict[str, Split]) -> tuple[dict[str, Evaluation], dict[str, Any]]:
        """Judge splits with the model as it is: evaluations and raw outputs of each task."""
        evaluations, outputs = {}, {}
        for name, split in splits.items():
            data = self.prepared.tasks[name]
            outputs[name] = task_outputs(
                self.model, name, split, self.prepared.template, data.max_length
            )
            spec, metric = self.model.tasks[name], data.task.metric_name
            evaluations[name] = evaluate_outputs(name, spec, metric, split, outputs[name])
        return evaluations, outputs

    def _judge_and_keep(self, plan: StagePlan) -> None:
        """Judge dev and a sample of training, keep the best model, write a checkpoint."""
        dev = {name: data.dev for name, data in self.prepared.tasks.items()}
        evaluations, outputs = self.evaluate(dev)
        on_train, _ = self.evaluate(self.train_samples)
        step = self.progress.step
        scores = scores_of(evaluations)
        mean = mean_score(scores)
        self.directory.log(
            "evaluation",
            step=step,
            examples=self.progress.examples,
            mean=mean.value,
            **({"mean_reason": mean.reason} if mean.reason else {}),
            tasks={name: evaluation.to_dict() for name, evaluation in evaluations.items()},
            train={name: evaluation.to_dict() for name, evaluation in on_train.items()},
        )
        for name, split in dev.items():
            path = self.directory.path / "predictions" / f"{step:06d}" / f"{name}.csv"
            separator = self.prepared.tasks[name].task.separator
            target = self.model.tasks[name].target
            write_predictions(path, target, split, outputs[name], separator)
        self._keep_best(scores, plan.stage.train_on == "labels")
        self.directory.write_checkpoint(
            step, self.flat, self.optimizer, self.balancer_state, asdict(self.progress)
        )
        self.listener.evaluated(self, evaluations)

    def _keep_best(self, scores: dict[str, Score], trains_tasks: bool) -> None:
        """Keep the model if it is the best so far; else count towards `patience`.

        A head that is judged only says nothing of how good the model is, and a stage that trains
        no task may well gain nothing.
        """
        progress = self.progress
        tasks = self.prepared.tasks
        trained = {n: s for n, s in scores.items() if not tasks[n].task.eval_only}
        mean = mean_score(trained)
        for name, score in scores.items():
            known = progress.best_of_task.get(name)
            if better(score, _score(known)):
                progress.best_of_task[name] = {**asdict(score), "step": progress.step}
        chosen = mean if self.settings.select_by == "mean" else scores[self.settings.select_by]
        newest = progress.best is None or not trained
        if better(chosen, _score(progress.best)) or newest:
            progress.best = {**asdict(chosen), "step": progress.step}
            progress.without_gain = 0
            about = {
                "by": self.settings.select_by,
                "score": asdict(chosen),
                "tasks": {name: asdict(score) for name, score in scores.items()},
            }
            self.directory.write_best(progress.step, self._save_model, about)
        else:
            progress.without_gain += trains_tasks
            patience = self.settings.patience
            progress.stopped_early = 0 < patience <= progress.without_gain

    # --- what the run directory holds -----------------------------------------------------------

    def _save_model(self, folder: Path) -> None:
        prepared = self.prepared
        masters = self.flat.masters_by_name()
        save_model(folder, prepared.encoder, prepared.loaded.tokenizer, masters)

    def _log_training(self) -> None:
        tally, self.tally = self.tally, Tally()
        if tally.seconds == 0:
            return
        self._log_conflict()
        self.directory.log(
            "train",
            step=self.progress.step,
            examples=self.progress.examples,
            loss=tally.means(),
            gradient_norm=self.norm,
            skipped=self.progress.skipped,
            examples_per_second=round(tally.examples / tally.seconds, 2),
            tokens_per_second=round(tally.tokens / tally.seconds, 1),
        )

    def _facts(self) -> dict[str, Any]:
        """What the run is made of, for run.json."""
        return {
            "format": FORMAT,
            "seed": self.settings.seed,
            "precision": str(self.dtype).removeprefix("torch."),
            **self.prepared.facts(self.model.tasks),
            "machine": hardware.describe(self.device),
            "versions": versions(),
        }

    def _restore(self) -> None:
        """Go on where the last checkpoint stands, if the data is still what it was."""
        facts = self.directory.facts()
        now = self._facts()
        self.directory.sweep()
        if (facts["encoder"]["sha256"], facts["tokenizer"]) != (
            now["encoder"]["sha256"],
            now["tokenizer"],
        ):
            raise ComityError(
                f"{self.prepared.recipe.encoder.name}: the encoder or its tokenizer has changed "
                "since the run was started; put the old one back, or start a new run"
            )
        for role, digest in now["files"].items():
            if facts["files"].get(role) != digest:
                name, _, which = role.partition(" ")
                raise ComityError(
                    f"{self._path_of(name, which)}: has changed since the run was started; put "
                    "the old file back, or start a new run"
                )
        state, self.balancer_state = self.directory.read_checkpoint(self.flat, self.optimizer)
        names = Progress.__dataclass_fields__
        self.progress = Progress(**{key: state[key] for key in names})
        self.directory.forget_after(self.progress.step)

    def _path_of(self, task: str, which: str) -> Path:
        data = self.prepared.tasks[task]
        splits = {"train": data.train, "dev": data.dev, **data.stage_train}
        return splits[which].table.path


def _score(kept: dict[str, Any] | None) -> Score | None:
    """A kept score as an object again."""
    if kept is None:
        return None
    return Score(**{key: kept[key] for key in Score.__dataclass_fields__})


def _sample(name: str, split: Split, size: int, seed: int) -> Split:
    """The same rows of training at each evaluation, so that over-fitting shows."""
    draws = generator(SAMPLE, seed, name_key(name))
    return split.take(np.sort(draws.permutation(len(split))[:size]))


def frozen_layers(freeze: str | int, flat: FlatParameters) -> int:
    """How many layers, counted from the embeddings, a recipe's `freeze` holds still."""
    if isinstance(freeze, int):
        return freeze + 1
    return {"nothing": 0, "embeddings": 1, "encoder": top_layer(flat) + 1}[freeze]


def top_layer(flat: FlatParameters) -> int:
    """The number of the shared layer that stands highest: the pooler."""
    return max(segment.layer for segment in flat.segments if segment.owner == SHARED)
