"""The `comity` command: parses arguments, calls the library, prints results."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import comity
from comity.cli import (
    analyse,
    augment,
    check,
    clean,
    compare,
    demo,
    evaluate,
    info,
    paper,
    predict,
    recipe,
    sweep,
    train,
)
from comity.errors import ComityError, nearest
from comity.training.interrupts import Interrupted

COMMANDS = (
    demo,
    check,
    train,
    recipe,
    info,
    evaluate,
    predict,
    compare,
    sweep,
    analyse,
    augment,
    paper,
    clean,
)
"""The modules of the commands, in the order of `comity --help`."""

EPILOG = """\
examples:
  comity demo                                    train three small tasks and print their scores
  comity recipe lr                               describe a key of the recipe
  comity check recipe.toml --data data           report every error before training
  comity train recipe.toml --data data --out runs/first
  comity evaluate runs/first --task mood --file unseen.csv --json
  comity predict runs/first --task mood --input new.csv --output labelled.csv
  comity sweep recipe.toml --data data --out runs/rates --set train.lr=1e-5,2e-5,5e-5
  comity compare runs/mood-only runs/first       measure what sharing gained or cost
"""

DONE, STOPPED, ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: STOPPED if the output is closed early, ERROR if the user can fix the cause."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (by default the one in `sys.argv`) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape what the terminal cannot display
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments)
    except ComityError as error:
        for message in error.messages:
            print(f"error: {message}", file=sys.stderr)
        return ERROR
    except BrokenPipeError:  # the reader of the output has stopped, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STOPPED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or error
        print(
            f"error: {where}{reason}; free some space or choose another location", file=sys.stderr
        )
        return ERROR


def _run(arguments: list[str]) -> int:
    parser = make_parser()
    if arguments:
        _check_command(arguments[0])
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        command = f"comity {arguments[0]}" if hasattr(options, "run") else "comity"
        raise ComityError(f'unknown argument "{unknown[0]}"; {command} --help lists the options')
    if not hasattr(options, "run"):
        parser.print_help()
        return ERROR
    options.command_line = ["comity", *arguments]
    try:
        return options.run(options)
    except KeyboardInterrupt as stop:
        print(f"{str(stop) or 'stopped'}{_how_to_resume(options)}", file=sys.stderr)
        return stop.exit_code if isinstance(stop, Interrupted) else INTERRUPTED


def _check_command(word: str) -> None:
    names = [command.__name__.rpartition(".")[2] for command in COMMANDS]
    if not word.startswith("-") and word not in names:
        hint = nearest(word, names) or "; comity --help lists the commands"
        raise ComityError(f'unknown command "{word}"{hint}')


def _how_to_resume(options: argparse.Namespace) -> str:
    """How to continue an interrupted `comity train`, if it has written a checkpoint."""
    run: Path | None = getattr(options, "out", None) or getattr(options, "resume", None)
    if run is None or not any(run.glob("checkpoint-*")):
        return ""
    from comity.runs import RunDirectory

    return f"; continue with {RunDirectory(run).resume_command}"


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="comity",
        description="Fine-tune one BERT encoder on several text tasks at once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


class _Version(argparse.Action):
    """Looks up the version only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"comity {comity.__version__}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
