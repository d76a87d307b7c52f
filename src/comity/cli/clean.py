"""`comity clean`: list and delete checkpoints, leftovers and cached token ids."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import Commands, add_command, add_json, print_json
from comity.format import clock, plural

if TYPE_CHECKING:
    from comity.experiments.cleaning import Found

_KINDS = ("checkpoints", "leftovers", "cache")


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "list what can be deleted: checkpoints of finished runs, leftovers, cached token ids"
    command = add_command(commands, "clean", run, help)
    command.description = (
        "List the checkpoints of runs, what killed processes left behind, and the cache of token "
        "ids, and delete them with --yes. Kept models, scores and predictions are never deleted, "
        "nor are the checkpoints of unfinished runs. A finished run without checkpoints can be "
        "used as before, but no longer extended."
    )
    command.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="DIR",
        help="folders to search for runs (default: the working directory, and the cache)",
    )
    command.add_argument(
        "--only",
        choices=_KINDS,
        nargs="+",
        help="what to list and delete (default: all; with DIR, all but the cache)",
    )
    command.add_argument("--yes", action="store_true", help="delete what is listed as deletable")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from comity.experiments.cleaning import delete, find

    # The cache serves all runs, so whoever names folders does not expect it to be deleted.
    kinds = options.only or (_KINDS[:2] if options.folders else _KINDS)
    found = find(options.folders or [Path()], kinds)
    if options.yes:
        delete(found)
    if options.json:
        deleted = [options.yes and one.kept is None for one in found]
        rows = zip(found, deleted, strict=True)
        print_json([vars(one) | {"path": str(one.path), "deleted": gone} for one, gone in rows])
    else:
        _show(found, options.yes)
    return 0


def _show(found: "list[Found]", deleted: bool) -> None:
    """Print a table of everything that was found, and the total of what is deletable."""
    from rich.table import Table

    from comity.terminal.views import console

    table = Table("what", "path", title_justify="left")
    for column in ("size", "age"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    done = "deleted" if deleted else "can be deleted"
    for one in _cache_as_one(found):
        note = done if one.kept is None else f"kept: {one.kept}"
        table.add_row(one.kind, str(one.path), _size(one.bytes), _age(one.seconds), note)
    if found:
        console().print(table)
    deletable = [one for one in found if one.kept is None]
    hint = "; add --yes to delete them" if deletable and not deleted else ""
    total = _size(sum(one.bytes for one in deletable))
    print(f"{plural(len(deletable), 'entry', 'entries')} ({total}) {done}{hint}")


def _cache_as_one(found: "list[Found]") -> "list[Found]":
    """What was found, with all entries of the cache that can be deleted as one, their folder."""
    cached = [one for one in found if one.kind == "cache" and one.kept is None]
    if len(cached) < 2:
        return found
    folder = replace(
        cached[0],
        path=cached[0].path.parent,
        bytes=sum(one.bytes for one in cached),
        seconds=max(one.seconds for one in cached),
    )
    return [*(one for one in found if one not in cached), folder]


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def _age(seconds: float) -> str:
    days = int(seconds // 86400)
    return f"{days} days" if days > 1 else clock(seconds)
