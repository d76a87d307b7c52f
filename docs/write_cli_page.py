"""Writes docs/cli.md, the reference of the command line, from the parsers of the commands.

python docs/write_cli_page.py
"""

import argparse
import re
from pathlib import Path

from comity.cli.examples import EXAMPLES
from comity.cli.main import EPILOG, make_parser
from comity.format import markdown_table

OUTPUT = Path(__file__).parent / "cli.md"

_HEAD = """\
<!-- Generated from the parsers by `python docs/write_cli_page.py`; do not edit. -->

# The command line

`comity help COMMAND` prints what this page says about a command. `comity` and `python -m comity`
are the same command. `comity completion` prints a script that completes commands and options in a
shell.
"""


def page() -> str:
    """The text of docs/cli.md."""
    parser = make_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    phrases = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    index = [[f"[`comity {name}`](#comity-{name})", phrase] for name, phrase in phrases.items()]
    parts = [_HEAD, "\n".join([*markdown_table(["command", "what it does"], index), ""])]
    parts += [_section(name, command) for name, command in commands.choices.items()]
    return "\n".join([*parts, _general()])


def _section(name: str, command: argparse.ArgumentParser) -> str:
    """The section of one command."""
    arguments = [a for a in command._actions if not isinstance(a, argparse._HelpAction)]
    lines = [f"## `comity {name}`", "", _escaped(command.description or ""), ""]
    lines += ["```", _usage(name, arguments), "```", ""]
    if arguments:
        rows = [[_cell(action), _escaped(action.help or "")] for action in arguments]
        lines += [*markdown_table(["argument", "meaning"], rows), ""]
    lines += ["<!-- not run: examples -->", "```sh", *EXAMPLES[name], "```", ""]
    return "\n".join(lines)


def _usage(name: str, arguments: list[argparse.Action]) -> str:
    """One line. argparse writes more, and differently in each version of Python."""
    forms = {None: "{}", "?": "[{}]", "*": "[{} ...]", "+": "{} ..."}
    positional = [a for a in arguments if not a.option_strings]
    words = [forms[a.nargs].format(a.metavar or a.dest) for a in positional]  # pyright: ignore
    required = [_written(a) for a in arguments if a.option_strings and a.required]
    optional = ["[OPTIONS]"] if len(positional) + len(required) < len(arguments) else []
    return " ".join(["comity", name, *words, *required, *optional])


def _written(action: argparse.Action) -> str:
    """An argument as it is written: `--data DATA`, `--json`, or `RUN`."""
    value = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
    assert isinstance(value, str)
    if not action.option_strings:
        return str(action.metavar or action.dest)
    if action.nargs == 0:
        value = ""
    elif action.nargs == "+":
        value += " ..."
    return f"{', '.join(action.option_strings)} {value}".strip()


def _cell(action: argparse.Action) -> str:
    return f"`{_written(action)}`".replace("|", "\\|")


def _escaped(text: str) -> str:
    """Help as Markdown, with options as code; argparse prints `%%` as `%`."""
    text = re.sub(r"([|<>*])", r"\\\1", text.replace("%%", "%"))
    return re.sub(r"(?<![\w`-])(--[a-z][\w-]*)", r"`\1`", text)


def _general() -> str:
    """Exit codes and environment variables, from the help of `comity` itself."""
    sections = dict(re.findall(r"^([a-z ]+):\n((?:  .*\n)+)", EPILOG, flags=re.MULTILINE))
    lines = []
    for title, head in (("exit codes", "code"), ("environment variables", "variable")):
        rows = [line.split(None, 1) for line in sections[title].splitlines()]
        table = markdown_table([head, "meaning"], [[f"`{n}`", _escaped(t)] for n, t in rows])
        lines += [f"## {title.capitalize()}", "", *table, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    OUTPUT.write_text(page(), encoding="utf-8")
