"""Options and output that several commands share."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from comity.cli.examples import EXAMPLES
from comity.errors import ComityError, nearest

if TYPE_CHECKING:
    from comity.recipe.recipe import Recipe

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

_KEY_VALUE = re.compile(r"[\w.-]+\s*=")


class Parser(argparse.ArgumentParser):
    """Reports errors as the commands do, and lets a recipe follow the values of --set or --only."""

    def __init__(self, **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does, with one value for each --set and --only that can be repeated."""
        words = list(sys.argv[1:] if args is None else args)
        for option in ("--set", "--only"):
            if isinstance(self._option_string_actions.get(option), argparse._ExtendAction):
                words = one_value_each(option, words)
        return super().parse_known_args(words, namespace or argparse.Namespace())

    def error(self, message: str) -> NoReturn:
        """Raise a ComityError."""
        raise ComityError(f"{message}; {self.prog} --help lists the options")


def one_value_each(option: str, arguments: Sequence[str]) -> list[str]:
    """Repeat --set or --only for each of its values, so that it does not take the recipe too.

    >>> one_value_each("--set", ["check", "--set", "a=1", "b=2", "recipe.toml"])
    ['check', '--set=a=1', '--set=b=2', 'recipe.toml']
    """
    words: list[str] = []
    values: int | None = None  # how many values have followed the option; None: not in them
    for word in arguments:
        if word == option:
            words.append(word)
            values = 0
        elif values == 0 and not word.startswith("-"):
            words[-1] = f"{option}={word}"
            values = 1
        elif values and not word.startswith("-") and _more(option, word):
            words.append(f"{option}={word}")
        else:
            words.append(word)
            values = None
    return words


def _more(option: str, word: str) -> bool:
    """Whether a word that follows a value of --set or --only is another one, not a recipe."""
    return not word.endswith(".toml") if option == "--only" else bool(_KEY_VALUE.match(word))


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], help: str
) -> Parser:
    """Add a command's parser; `help` is a short phrase without a capital or full stop.

    Its examples come from `comity.cli.examples`.
    """
    command = commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name]),
    )
    command.set_defaults(run=run, command=command)
    return command


def check_command(name: str) -> None:
    """Raise a ComityError if there is no such command."""
    if name not in EXAMPLES:
        hint = nearest(name, EXAMPLES) or "; comity help lists the commands"
        raise ComityError(f'unknown command "{name}"{hint}')


def add_data(command: argparse.ArgumentParser) -> None:
    """Add --data and --drop-leaks."""
    command.add_argument(
        "--data", type=Path, help="folder of the data files (default: the recipe's folder)"
    )
    add_drop_leaks(command)


def add_drop_leaks(command: argparse.ArgumentParser) -> None:
    """Add --drop-leaks."""
    command.add_argument(
        "--drop-leaks",
        action="store_true",
        help="leave out training rows that are also in a dev set",
    )


def add_set(command: argparse.ArgumentParser) -> None:
    """Add --set for single values."""
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change keys of the recipe, such as train.lr=3e-5",
    )


def add_only(command: argparse.ArgumentParser) -> None:
    """Add --only."""
    command.add_argument(
        "--only",
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK",
        help="use only these tasks of the recipe",
    )


def add_dry_run(command: argparse.ArgumentParser) -> None:
    """Add --dry-run."""
    command.add_argument("--dry-run", action="store_true", help="print the plan and do not train")


def add_json(command: argparse.ArgumentParser) -> None:
    """Add --json."""
    command.add_argument("--json", action="store_true", help="print the result as JSON")


def add_quiet(command: argparse.ArgumentParser) -> None:
    """Add --quiet."""
    command.add_argument("--quiet", action="store_true", help="do not show progress")


def add_series(command: argparse.ArgumentParser) -> None:
    """Add the options of commands that train several runs."""
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the runs; repeat the command to continue where it stopped",
    )
    command.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="runs to train at once, each in a process with its share of the threads; N runs need "
        "N times the memory of one (default: 1)",
    )
    add_dry_run(command)
    add_json(command)
    add_quiet(command)


def _jobs(text: str) -> int:
    """The number in --jobs."""
    if not text.isdecimal() or int(text) < 1:
        raise ComityError(f"--jobs must be a whole number of at least 1, got {text}")
    return int(text)


def check_exist(runs: Sequence[Path]) -> None:
    """Raise a ComityError for run directories that do not exist, before numpy is loaded."""
    missing = [run for run in runs if not run.exists()]
    if missing:
        what = "no such directory; name a directory written by comity train"
        raise ComityError(*(f"{run}: {what}" for run in missing))


def load_recipe(options: argparse.Namespace) -> "tuple[Recipe, Path]":
    """The recipe with its overrides, and the folder of its files."""
    from comity.recipe.recipe import Recipe

    if options.recipe is None:
        raise ComityError("the recipe is missing; name a TOML file (README.md has an example)")
    recipe = Recipe.load(options.recipe, options.set)
    if options.only:
        recipe = recipe.only(options.only)
    return recipe, options.data or options.recipe.parent


def add_reading(command: argparse.ArgumentParser, file: str, default: str) -> None:
    """Add options for how a file is read; `file` is its name in the help."""
    command.add_argument(
        "--delimiter", help=f'delimiter of {file}: one character or "tab" (default: {default})'
    )
    command.add_argument(
        "--encoding", help=f"encoding of {file}, such as cp1252 (default: {default})"
    )
    command.add_argument(
        "--quoting",
        action=argparse.BooleanOptionalAction,
        help=f"whether quotes enclose values of {file} or are text (default: {default})",
    )


_NO_HEADER = ", or set header = false if this line is already a row"
_KEYS_OF_READING = (
    (r"\bset (header|quoting) = false\b", r"use --no-\1"),
    (r"\bset (header|quoting) = true\b", r"use --\1"),
    (r"\b(header|quoting) = true\b", r"--\1"),
    (r"\bset (delimiter|encoding)( =)?", r"set --\1"),
)
"""What the readers of tables advise, as patterns, and the same with options."""


@contextmanager
def naming_options(header: bool = True) -> Iterator[None]:
    """Errors on how a file is read name options instead of the keys of a recipe.

    `header` says whether the command has --no-header.
    """
    try:
        yield
    except ComityError as error:
        messages = error.messages
        if not header:
            messages = [message.replace(_NO_HEADER, "") for message in messages]
        raise ComityError(*map(with_options, messages)) from None


def with_options(message: str) -> str:
    """A message of a reader with options in place of a recipe's keys.

    >>> with_options('set header = false if this line is already a row')
    'use --no-header if this line is already a row'
    >>> with_options('set encoding = "utf-16-le" or save the file as UTF-8')
    'set --encoding "utf-16-le" or save the file as UTF-8'
    """
    for key, option in _KEYS_OF_READING:
        message = re.sub(key, option, message)
    return message


def print_json(value: Any) -> None:
    """Print a dataclass or a plain value as one line of JSON."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    print(json.dumps(plain, allow_nan=False))


def show(value: Any, show_table: Callable[[Any], None], as_json: bool) -> int:
    """Print a result as JSON, or with `show_table`; returns the exit code 0."""
    if as_json:
        print_json(value)
    else:
        show_table(value)
    return 0
