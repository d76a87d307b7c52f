"""`comity completion`: a script that completes commands and options in a shell."""

import argparse
from pathlib import Path

from comity.cli.options import Commands, add_command

SHELLS = ("bash", "zsh", "fish")


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    help = "print a script that completes commands and options in a shell"
    command = add_command(commands, "completion", run, help)
    command.add_argument("shell", choices=SHELLS, help="your shell")
    command.set_defaults(commands=commands)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    import shtab

    for command in options.commands.choices.values():
        for action in command._actions:
            if action.type is Path or action.metavar == "FILE":
                action.complete = shtab.FILE
    print(shtab.complete(options.parser, shell=options.shell))
    return 0
