"""The `comity` command: parses arguments, calls the library, prints results."""

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import comity
from comity.cli import (
    ablate,
    analyse,
    augment,
    baseline,
    check,
    clean,
    compare,
    completion,
    demo,
    evaluate,
    export,
    help,
    info,
    init,
    paper,
    predict,
    push,
    recipe,
    report,
    serve,
    soup,
    sweep,
    train,
)
from comity.cli.options import Parser, check_command
from comity.errors import ComityError, nearest
from comity.terminal.colour import red
from comity.training.interrupts import Interrupted
from comity.training.launch import launched

COMMANDS = (
    demo,
    init,
    check,
    train,
    recipe,
    info,
    evaluate,
    predict,
    export,
    push,
    serve,
    compare,
    report,
    sweep,
    baseline,
    ablate,
    soup,
    analyse,
    augment,
    paper,
    clean,
    completion,
    help,
)
"""The modules of the commands, in the order of `comity --help`."""

EPILOG = """\
examples:
  comity demo
  comity init reviews.csv pairs.jsonl
  comity check recipe.toml --data data
  comity train recipe.toml --data data --out runs/first
  comity evaluate runs/first unseen.csv --task mood
  comity predict runs/first --task mood --input new.csv --output labelled.csv
  comity compare runs/mood-only runs/first
  comity help train

Errors, notes and progress go to standard error. With --json, standard output is
one line of JSON: the result or, if there are errors, {"errors": ["...", ...]}.

exit codes:
  0    done, also when Ctrl-C or SIGTERM stops comity serve
  1    the output was closed early, as by `| head`
  2    an error that you can fix, with a message
  130  stopped by Ctrl-C; 143 by SIGTERM, 129 by SIGHUP

environment variables:
  COMITY_CACHE    folder of the cached token ids
  COMITY_API_KEY  the key that clients of comity serve must send
  COMITY_TIMEOUT  seconds after which torchrun's processes no longer wait for a silent one
  HF_HOME         folder of the encoders downloaded from the Hugging Face hub
"""

DONE, STOPPED, ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit codes; EPILOG says what they mean."""

LEAVE = 3.0
"""Seconds that a process of torchrun waits with an error for the one that reports it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (by default the one in `sys.argv`) and return its exit code."""
    _open_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in arguments
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here, where an error can still be reported
        return code
    except ComityError as error:
        _print_errors(error.messages, as_json)
        _leave_last()
        return ERROR
    except BrokenPipeError:  # the reader of the output has stopped, as `| head` does
        _discard_output()
        return STOPPED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or error
        named = error.filename is not None  # otherwise it may be standard output that failed
        if not named:
            _discard_output()
        message = f"{where}{reason}; free some space or choose another location"
        _print_errors([message], as_json and named)
        return ERROR


def _open_streams() -> None:
    """Replace closed standard streams, and escape what the terminal cannot display."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave_last() -> None:
    """Let the process of this machine that reports errors end first.

    torchrun stops all processes as soon as one has failed, and this one could be the first.
    """
    if not launched().reports_errors:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(LEAVE)


def _discard_output() -> None:
    """Send what is still buffered for standard output nowhere."""
    with contextlib.suppress(OSError, ValueError):  # it may be no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_errors(messages: Sequence[str], as_json: bool) -> None:
    from comity.tables.rows import shown  # what comes from a file may not control the terminal

    if not launched().reports_errors:
        return
    for message in messages:
        print(f"{red('error:', sys.stderr)} {shown(message)}", file=sys.stderr)
    if as_json:
        print(json.dumps({"errors": list(messages)}), flush=True)


def _run(arguments: list[str]) -> int:
    parser = make_parser()
    if arguments and not arguments[0].startswith("-"):
        check_command(arguments[0])
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise ComityError(_unknown_argument(unknown[0], options))
    if not hasattr(options, "run"):
        parser.print_help()
        return ERROR
    options.command_line = ["comity", *arguments]
    _check_working_directory()
    if launched().size > 1 and options.run is not train.run:
        raise ComityError(
            f"{options.command.prog}: only comity train works in several processes; run this "
            "command without torchrun"
        )
    try:
        return options.run(options)
    except KeyboardInterrupt as stop:
        stopped = f"{str(stop) or 'stopped'}{_how_to_resume(options)}"
        if launched().reports_errors:
            print(stopped, file=sys.stderr)
            if "--json" in arguments:
                print(json.dumps({"errors": [stopped]}))
        _leave_last()
        return stop.exit_code if isinstance(stop, Interrupted) else INTERRUPTED


def _check_working_directory() -> None:
    """Raise a ComityError if the working directory was deleted: torch would end the process."""
    try:
        os.getcwd()
    except OSError:
        raise ComityError(
            "the working directory no longer exists; change to another directory"
        ) from None


def _unknown_argument(word: str, options: argparse.Namespace) -> str:
    """The message about an argument that a command does not have."""
    name = word.partition("=")[0]
    if not hasattr(options, "run"):
        return f'unknown argument "{name}"; comity --help lists the options'
    known = options.command._option_string_actions
    hint = nearest(name, known) if name.startswith("--") else ""
    hint = hint or f"; {options.command.prog} --help lists the options"
    return f'unknown argument "{name}"{hint}'


def _how_to_resume(options: argparse.Namespace) -> str:
    """How to continue an interrupted `comity train`, if it has written a checkpoint."""
    run: Path | None = getattr(options, "out", None) or getattr(options, "resume", None)
    if run is None or not any(run.glob("checkpoint-*")):
        return ""
    from comity.runs.directory import RunDirectory

    return f"; continue with {RunDirectory(run).resume_command}"


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="comity",
        description="Fine-tune one BERT encoder on several text tasks at once.",
        epilog=EPILOG,
    )
    parser.add_argument("-V", "--version", action=_Version, nargs=0, help="print the version")
    parser.set_defaults(parser=parser)
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
