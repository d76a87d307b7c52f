"""`comity evaluate`: evaluate a run on its dev sets or another labelled file."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comity.cli.options import (
    Commands,
    add_command,
    add_json,
    add_reading,
    naming_options,
    print_json,
)
from comity.errors import ComityError

if TYPE_CHECKING:
    from comity.inference.model import Evaluations


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "evaluate a run on its dev sets or another labelled file"
    command = add_command(commands, "evaluate", run, help)
    command.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    command.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a labelled file or hf://OWNER/NAME:SPLIT, for every task whose columns it has "
        "(default: the dev sets)",
    )
    command.add_argument("--task", help="evaluate only this task (default: all)")
    add_reading(command, "FILE", "the recipe's")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.evaluation.evaluate import trained_on
    from comity.runs.calibration import DevFit
    from comity.runs.directory import RunDirectory
    from comity.terminal.views import (
        show_calibration,
        show_evaluation,
        show_mixes,
        show_scores,
        tell,
    )
    from comity.terminal.waiting import Waiting

    with naming_options(header=False), Waiting("evaluating"):
        found = _evaluations(options)
    notes = []
    is_run = (options.run_directory / "run.json").is_file()  # not an exported model
    if options.file is not None and is_run:
        warning = trained_on(RunDirectory.open(options.run_directory), options.file)
        notes += [warning] if warning else []
    fit = RunDirectory.open(options.run_directory).best().fit if is_run else DevFit()
    mixes = {task: one for task, one in fit.mixes.items() if task in found.tasks}
    calibration = {task: one for task, one in fit.calibration.items() if task in found.tasks}
    if options.json:
        tasks = {task: evaluation.to_dict() for task, evaluation in found.tasks.items()}
        for task, mixed in mixes.items():
            tasks[task]["mix"] = asdict(mixed)
        for task, one in calibration.items():
            tasks[task]["calibration"] = asdict(one)
        values = tasks[options.task] if options.task else {"tasks": tasks, "skipped": found.skipped}
        print_json({**values, "notes": notes})
        return 0
    what = options.file or "dev set"
    show_scores(f"{options.run_directory}, {what}", {"score": found.tasks})
    for evaluation in found.tasks.values():
        show_evaluation(evaluation)
    show_mixes(mixes)
    show_calibration(calibration)
    for sentence in (*found.skipped.values(), *(f"Warning: {note}" for note in notes)):
        tell(sentence)
    return 0


def _evaluations(options: argparse.Namespace) -> "Evaluations":
    from comity.inference.model import Evaluations, load
    from comity.tables.hub import is_hub_name
    from comity.tables.reader import check_format
    from comity.tables.rows import TableFormat

    settings: dict[str, Any] = {
        "delimiter": options.delimiter,
        "quoting": options.quoting,
        "encoding": options.encoding,
    }
    if options.file is not None and not is_hub_name(options.file):
        check_format(Path(options.file), TableFormat(**settings))
    elif options.file is None and any(value is not None for value in settings.values()):
        raise ComityError(
            "--delimiter, --quoting and --encoding are for FILE; name a labelled file, or leave "
            "them out"
        )
    model = load(options.run_directory).reading(**settings)
    if options.task is None:
        return model.evaluate_all(options.file)
    return Evaluations({options.task: model.evaluate(options.task, options.file)}, {})
