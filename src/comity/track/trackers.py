"""The trackers: each starts or continues a run, logs values by step, and finishes.

Every method may raise anything its library raises. The library is imported when the tracker is
created, in the thread that trains: elsewhere, code that looks into `sys.modules` while it runs (as
scikit-learn does) would find modules that are not yet complete.
"""

import json
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import tomli_w

from comity.errors import ErrorList
from comity.format import missing_extra
from comity.recipe.differences import flat
from comity.track.values import Values

Status = Literal["finished", "stopped", "failed"]

PROJECT = "comity"
"""The project of a run for which neither the recipe nor the library's own variable names one."""

THREAD = "tracker "
"""What the names of the threads of trackers begin with."""

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

    where: str  # an address, or how to see the run

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
            errors.add(missing_extra(f'tracker "{name}" needs', [name], name))
    errors.check()


class TensorBoard:
    """Event files in the run directory."""

    def __init__(self) -> None:
        self.tensorboard = import_module("torch.utils.tensorboard")

    def start(self, run: TrackedRun, earlier: str | None) -> str:
        """Open a new event file; TensorBoard shows all those of a folder as one run."""
        self.where = f"show it with tensorboard --logdir {shlex.quote(str(run.folder.parent))}"
        self.writer = self.tensorboard.SummaryWriter(str(run.folder))
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

    def __init__(self) -> None:
        self.wandb = import_module("wandb")

    def start(self, run: TrackedRun, earlier: str | None) -> str:
        """Start or continue the run."""
        mode = self.wandb.setup().settings.mode
        if mode == "online" and not self.wandb.login(prompt=False, verify=False):
            raise RuntimeError("no API key; run `wandb login`, or set WANDB_MODE=offline")
        self.run = self.wandb.init(
            project=_project(run, "WANDB_PROJECT"),
            id=earlier or run.id,
            name=run.name,
            resume="allow",
            dir=None if "WANDB_DIR" in os.environ else run.folder,
            config=run.config,
            settings=self.wandb.Settings(
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
            self.where = f"upload it with wandb sync {shlex.quote(str(folder))}/offline-run-*"
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

    def __init__(self) -> None:
        self.trackio = import_module("trackio")
        _print_nothing("trackio")

    def start(self, run: TrackedRun, earlier: str | None) -> str:
        """Start or continue the run."""
        project = _project(run)
        self.run = self.trackio.init(
            project=project, name=run.name, config=run.config, resume="allow", embed=False
        )
        self.run.id = earlier or run.id  # by the name alone, it would continue any run called so
        self.where = f"show it with trackio show --project {shlex.quote(project)}"
        return self.run.id

    def log(self, step: int, values: Values) -> None:
        """Add the values to the queue of Trackio's own thread."""
        self.run.log(values, step=step)

    def finish(self, status: Status) -> None:
        """Write or send what is left."""
        self.run.finish()


class Mlflow:
    """A run on the MLflow server in MLFLOW_TRACKING_URI, or in a local database without one."""

    def __init__(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # reports of use to its makers
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self.mlflow = import_module("mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)

    def start(self, run: TrackedRun, earlier: str | None) -> str:
        """Start or continue the run."""
        self.client = self.mlflow.MlflowClient()
        self.id = earlier or self._create(run)
        if earlier:
            self.client.update_run(self.id, status="RUNNING")
        known = self.client.get_run(self.id).data.params  # they cannot be changed
        values = {n: _text(v) for n, v in flat(run.config).items() if n not in known}
        params = [self.mlflow.entities.Param(name, value) for name, value in values.items()]
        self.client.log_batch(self.id, params=params)
        self.where = f"run {self.id} in {self.mlflow.get_tracking_uri()}"
        return self.id

    def _create(self, run: TrackedRun) -> str:
        name = _project(run, "MLFLOW_EXPERIMENT_NAME")
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self.client.create_experiment(name)
        return self.client.create_run(number, run_name=run.name).info.run_id

    def log(self, step: int, values: Values) -> None:
        """Send the values."""
        now = int(time.time() * 1000)
        new = self.mlflow.entities.Metric
        metrics = [new(name, value, now, step) for name, value in values.items()]
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


def _print_nothing(package: str) -> None:
    """Keep a package's `print` calls in a tracker's thread off standard output."""

    def print_elsewhere(*values: Any, **options: Any) -> None:
        if not threading.current_thread().name.startswith(THREAD):
            print(*values, **options)

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == package:
            module.print = print_elsewhere  # type: ignore[attr-defined]
