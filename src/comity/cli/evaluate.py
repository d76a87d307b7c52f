"""`comity evaluate`: evaluate a run on its dev sets or another labelled file."""

import argparse
from pathlib import Path

from comity.cli.options import Commands, add_command, add_json, print_json


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
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.inference.model import load
    from comity.terminal.views import show_evaluation, show_scores, tell
    from comity.terminal.waiting import Waiting

    model = load(options.run_directory)
    with Waiting("evaluating"):
        if options.task is not None:
            evaluations = {options.task: model.evaluate(options.task, options.file)}
            skipped = {}
        else:
            found = model.evaluate_all(options.file)
            evaluations, skipped = found.tasks, found.skipped
    if options.json:
        tasks = {task: evaluation.to_dict() for task, evaluation in evaluations.items()}
        print_json(tasks[options.task] if options.task else {"tasks": tasks, "skipped": skipped})
        return 0
    what = options.file or "dev set"
    show_scores(f"{options.run_directory}, {what}", {"score": evaluations})
    for evaluation in evaluations.values():
        show_evaluation(evaluation)
    for sentence in skipped.values():
        tell(sentence)
    return 0
