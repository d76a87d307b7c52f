"""`comity.train`: training from Python, with progress shown as on the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from comity.runs.directory import RunDirectory
from comity.terminal.progress import Display
from comity.terminal.views import tell
from comity.training.arguments import RecipeLike
from comity.training.events import Event, Listener, ignore
from comity.training.launch import launched
from comity.training.train import train as train_run


def train(
    recipe: RecipeLike,
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    resume: bool | Literal["auto"] = False,
    extend: Mapping[str, float] | None = None,
    overwrite: bool = False,
    drop_leaks: bool = False,
    quiet: bool = False,
    on_event: Listener = ignore,
) -> RunDirectory:
    """Train a recipe and keep the run in a directory.

    Progress is printed on standard error: a live table on a terminal, lines elsewhere (in a
    notebook, in a log file).

    Args:
        recipe: what to train: the path of a TOML file, a dict as in TOML, or a `Recipe`. In a dict,
            a DataFrame may be in place of a file. A resumed run needs the recipe and the tables it
            was started with.
        data: the folder where the recipe's relative paths start (default: the folder of the
            recipe's file, or the working directory; a resumed run has its own).
        out: the run directory: new or empty, or with `resume` an existing run.
        resume: continue from the last checkpoint of `out`. A finished run is returned as it is.
            "auto": resume if `out` holds a run, else start one.
        extend: with `resume`, how much longer to train a finished run: {"epochs": 1} or
            {"steps": 500}. This adds a stage like the last one, with its own rate schedule.
        overwrite: delete the run in `out`, once the recipe and all files have been checked.
        drop_leaks: leave out training rows that also appear in a dev set. A resumed run keeps the
            setting it was started with.
        quiet: show no progress, only notes and warnings.
        on_event: called with each event of `comity.training.events`.

    Returns:
        The run, which `load` takes. Its `warnings` name tasks of which the kept model predicts
        nothing but one class.

    Raises:
        ComityError: with every error in the recipe, its files or the checkpoint.
        Interrupted: a `KeyboardInterrupt` after Ctrl-C or SIGTERM; a checkpoint has been written.

    Example:
        run = train("recipe.toml", data="data", out="runs/first")
    """
    first = launched().is_first  # with torchrun, only this process shows what all of them do
    with Display(quiet or not first) as display:

        def both(event: Event) -> None:
            display(event)
            on_event(event)

        run = train_run(
            recipe,
            data,
            out,
            resume=resume,
            extend=extend,
            overwrite=overwrite,
            drop_leaks=drop_leaks,
            estimate_time=not quiet,
            on_event=both,
        )
    for sentence in run.warnings if first else []:
        tell(f"Warning: {sentence}")
    return run
