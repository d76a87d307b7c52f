"""`comity help`: the help of comity or of one command."""

import argparse

from comity.cli.options import Commands, add_command, check_command


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(commands, "help", run, "show this help, or the help of a command")
    command.add_argument("topic", nargs="?", metavar="COMMAND", help="a command")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.topic:
        check_command(options.topic)
    words = [options.topic] if options.topic else []
    options.parser.parse_args([*words, "--help"])  # prints the help and exits
    return 0
