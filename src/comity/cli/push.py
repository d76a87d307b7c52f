"""`comity push`: upload a model to the Hugging Face hub."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import Commands, add_command, add_json, add_quiet, show
from comity.format import plural

if TYPE_CHECKING:
    from comity.export.push import Push


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(commands, "push", run, "upload a model to the Hugging Face hub")
    command.add_argument(
        "source",
        type=Path,
        metavar="FOLDER",
        help="a folder that comity export wrote, or a run, which is exported to comity first",
    )
    command.add_argument(
        "repository", metavar="REPO_ID", help="the model on the hub, such as name/model"
    )
    command.add_argument(
        "--private",
        action="store_true",
        help="make a new repository private (by default the hub makes it public)",
    )
    command.add_argument("--revision", metavar="BRANCH", help="the branch (default: main)")
    add_quiet(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from huggingface_hub.utils import disable_progress_bars

    from comity.export.push import push

    if options.quiet or not sys.stderr.isatty():
        disable_progress_bars()
    found = push(options.source, options.repository, options.private, options.revision)
    return show(found, _show, options.json)


def _show(found: "Push") -> None:
    print(f"{plural(len(found.files), 'file')} uploaded: {found.url}")
