"""The trackers: each starts or continues a run, logs values by step, and finishes.

Every method may raise anything its library raises. Libraries are imported when a run starts.
"""

import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import tomli_w

from comity.errors import ErrorList
from comity.recipe.differences import flat
from comity.track.values import Values

Status = Literal["finished", "stopped", "failed"]

PROJECT = "comity"
"""The project of a run for which neither the recipe nor the library's own variable names one."""

FINISH_SECONDS = 45.0
"""How long wandb may upload at the end of a run, after which `wandb sync` uploads the rest."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run."""

    id: str
    name: str
    project: str | None  # as the recipe says
    folder: Path  # where a tracker may keep files
    config: dict[str, Any]  # nested


class Tracker(Protocol):
    """One run in one tracker."""

    where: str  # how to see the run: an address or a command

    def start(self, run: TrackedRun, earlier: str | None) -> str:
        """Start the run, or continue the one whose id is `earlier`; returns its id."""
        ...

    def log(self, step: int, values: Values) -> None:
        """Add the values of a step."""
        ...

    def finish(self, status: Status) -> None:
        """End the run."""
        ...


def check_installed(names: Sequence[str]) -> None:
    """Raise a ComityError for trackers whose packages are not installed."""
    errors = ErrorList()
    for name in names:
        found = find_spec(name)
        if found is None or found.origin is None:  # a mere folder of that name, as wandb makes one
            errors.add(
                f'tracker "{name}" needs {name}, which is not installed; install it with '
                f'pip install "comity[{name}]"'
            )
    errors.check()


class TensorBoard:
    """Event files in the run directory."""

    def start(self, run: TrackedRun, earlier: str | None) -> str:
        """Open a new event file; TensorBoard shows all those of a folder as one run."""
        from torch.utils.tensorboard import SummaryWriter

        self.where = f"tensorboard --logdir {shlex.quote(str(run.folder.parent))}"
        self.writer = SummaryWriter(str(run.folder))
        if earlier is None:
            code = "".join(f"    {line}\n" for line in tomli_w.dumps(run.config).splitlines())
            self.writer.add_text("config", code, 0)
        return run.id

    def log(self, step: int, values: Values) -> None:
        """Write the values to disk."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self, status: Status) -> None:
        """Close the event file."""
        self.writer.close()


class Wandb:
    """A run in Weights & Biases. Its environment variables apply, such as WANDB_MODE=offline.

    The step is a value of its own, "step", and the x axis of all others: wandb's own steps cannot
    go back, so a continued run could not add a score to the last step that it has seen.
    """

    def start(self, run: TrackedRun, earlier: str | None) -> str:
        """Start or continue the run."""
        import wandb

        mode = wandb.setup().settings.mode
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("no API key; run `wandb login`, or set WANDB_MODE=offline")
        self.run = wandb.init(
            project=_project(run, "WANDB_PROJECT"),
            id=earlier or run.id,
            name=run.name,
            resume="allow",
            dir=None if "WANDB_DIR" in os.environ else run.folder,
            config=run.config,
            settings=wandb.Settings(
                console="off",  # the terminal is not logged
                silent=True,
                reinit="create_new",  # leaves a run of the user's own alone
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        self.run.define_metric("*", step_metric="step")
        if self.run.offline:
            folder = Path(self.run.dir).parents[1]
            self.where = f"wandb sync {shlex.quote(str(folder))}/offline-run-*"
        else:
            self.where = self.run.url or mode
        return self.run.id

    def log(self, step: int, values: Values) -> None:
        """Add the values to the queue of wandb's own process."""
        self.run.log({"step": step, **values})

    def finish(self, status: Status) -> None:
        """Upload what is left."""
        self.run.finish(exit_code=0 if status == "finished" else 1)


class Trackio:
    """A run in Trackio: on this machine, or where its environment variables say."""

    def start(self, run: TrackedRun, earlier: str | None) -> str:
        """Start or continue the run."""
        import trackio

        _do_not_print("trackio")
        project = _project(run)
        self.run = trackio.init(
            project=project, name=run.name, config=run.config, resume="allow", embed=False
        )
        self.run.id = earlier or run.id  # by the name alone, it would continue any run called so
        self.where = f"trackio show --project {shlex.quote(project)}"
        return self.run.id

    def log(self, step: int, values: Values) -> None:
        """Add the values to the queue of Trackio's own thread."""
        self.run.log(values, step=step)

    def finish(self, status: Status) -> None:
        """Write or send what is left."""
        self.run.finish()


class Mlflow:
    """A run on the MLflow server in MLFLOW_TRACKING_URI, or in a local database without one."""

    def start(self, run: TrackedRun, earlier: str | None) -> str:
        """Start or continue the run."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # reports of use to its makers
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.client = MlflowClient()
        self.id = earlier or self._create(run)
        if earlier:
            self.client.update_run(self.id, status="RUNNING")
        known = self.client.get_run(self.id).data.params  # they cannot be changed
        params = [Param(n, _text(v)) for n, v in flat(run.config).items() if n not in known]
        self.client.log_batch(self.id, params=params)
        self.where = f"run {self.id} in {get_tracking_uri()}"
        return self.id

    def _create(self, run: TrackedRun) -> str:
        name = _project(run, "MLFLOW_EXPERIMENT_NAME")
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self.client.create_experiment(name)
        return self.client.create_run(number, run_name=run.name).info.run_id

    def log(self, step: int, values: Values) -> None:
        """Send the values."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def finish(self, status: Status) -> None:
        """Set the run's status."""
        states = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
        self.client.set_terminated(self.id, states[status])


TRACKERS: Mapping[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": Mlflow,
}
"""The trackers by the name of their package."""


def _project(run: TrackedRun, variable: str = "") -> str:
    """The recipe's project, else the library's own variable, else `PROJECT`."""
    return run.project or os.environ.get(variable) or PROJECT


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _do_not_print(package: str) -> None:
    """Replace `print` in a package's modules: it would print on standard output."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == package:
            module.print = lambda *_, **__: None  # type: ignore[attr-defined]
