"""`comity evaluate`: evaluate a run on its dev set or another labelled file."""

import argparse
from pathlib import Path

from comity.cli.options import Commands, add_command, add_json, print_json
from comity.errors import ComityError
from comity.format import plural


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "evaluate a run on its dev set or another labelled file"
    command = add_command(commands, "evaluate", run, help)
    command.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    command.add_argument("--task", help="evaluate only this task (default: all)")
    command.add_argument(
        "--file", type=Path, help="a labelled file for --task (default: the dev set)"
    )
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.inference.model import load
    from comity.terminal.views import show_scores
    from comity.terminal.waiting import Waiting

    model = load(options.run_directory)
    if options.file is not None and options.task is None:
        raise ComityError("--file: set --task to the task of this file")
    tasks = [options.task] if options.task else model.tasks
    with Waiting("evaluating"):
        evaluations = {task: model.evaluate(task, options.file) for task in tasks}
    if options.json:
        found = {task: evaluation.to_dict() for task, evaluation in evaluations.items()}
        print_json(found[options.task] if options.task else {"tasks": found})
        return 0
    what = options.file or "dev set"
    show_scores(f"{options.run_directory}, {what}", {"score": evaluations})
    for task, evaluation in evaluations.items():
        for what, count in evaluation.rows.items():
            if count:
                print(f"{task}: {plural(count, 'row')} {what}")
        if evaluation.score.reason:
            print(f"{task}: {evaluation.score.name} has no value ({evaluation.score.reason})")
    return 0
