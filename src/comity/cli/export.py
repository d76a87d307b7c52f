"""`comity export`: write a run's model for other libraries."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.options import Commands, add_command, add_json, add_quiet, check_exist, show
from comity.format import precision_name

if TYPE_CHECKING:
    from comity.export.export import Export
    from comity.export.onnx import OnnxExport
    from comity.terminal.table import Table


def add_parser(commands: Commands) -> None:
    """Add the command's parser."""
    command = add_command(commands, "export", run, "write a run's model for other libraries")
    command.add_argument("run_directory", type=Path, metavar="RUN", help="a finished run")
    command.add_argument(
        "--to",
        required=True,
        metavar="TARGET",
        help="comity, transformers, sentence-transformers or onnx",
    )
    command.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    command.add_argument(
        "--overwrite", action="store_true", help="replace the export that is in --out"
    )
    command.add_argument(
        "--int8", action="store_true", help="with --to onnx: also write a graph with 8-bit weights"
    )
    add_quiet(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    check_exist([options.run_directory])
    from comity.export.export import export
    from comity.terminal.waiting import Waiting

    with Waiting("exporting", options.quiet):
        found = export(
            options.run_directory, options.to, options.out, options.overwrite, options.int8
        )
    return show(found, _show, options.json)


def _show(found: "Export") -> None:
    """Print what was written, what is not expressible, and how far the outputs are from ours."""
    from comity.tables.rows import shown
    from comity.terminal.table import Table
    from comity.terminal.views import console

    out = console()
    table = Table(title=f"{found.out} ({found.target})", title_justify="left")
    for column in ("folder", "contains", "loads with"):
        table.add_column(column)
    table.add_column("difference", justify="right")
    table.add_column("note")
    for part in found.parts:
        difference = "-" if part.difference is None else f"{part.difference:.1e}"
        if part.difference == 0:
            difference = "0"
        contains = " of ".join(filter(None, (part.what, ", ".join(part.tasks))))
        table.add_row(part.folder, contains, part.loads_with, difference, shown(part.note))
    out.print(table)
    if found.omitted:
        omitted = Table(title=f"Not expressible in {found.target}", title_justify="left")
        for column in ("task", "reason", "targets that have it"):
            omitted.add_column(column)
        for head in found.omitted:
            omitted.add_row(head.task, head.why, ", ".join(head.targets))
        out.print(omitted)
    if found.int8 is not None:
        out.print(_int8_table(found.int8))
    for sentence in (*_sentences(found), *(found.int8.notes if found.int8 else ())):
        print(sentence)


def _int8_table(found: "OnnxExport") -> "Table":
    """The dev score of each task with float32 and with 8-bit weights."""
    from comity.format import or_dash
    from comity.terminal.table import Table

    sizes = " and ".join(
        f"{name} {size / 1e6:.1f} MB" for name, size in found.files.items() if ".onnx" in name
    )
    table = Table(title=f"Dev scores with 8-bit weights; {sizes}", title_justify="left")
    for column in ("task", "metric"):
        table.add_column(column)
    for column in ("rows", "float32", "int8", "difference"):
        table.add_column(column, justify="right")
    for score in found.scores:
        table.add_row(
            score.task,
            score.metric,
            f"{score.rows:,}",
            or_dash(score.float32.value),
            or_dash(score.int8.value),
            or_dash(score.difference, "+.4f"),
        )
    return table


def _sentences(found: "Export") -> list[str]:
    if found.unchecked:
        return [f"{found.unchecked[0].upper()}{found.unchecked[1:]}."]
    folders = "The folder was" if len(found.parts) == 1 else "All folders were"
    if found.target == "comity":
        precision = precision_name(found.precision)
        return [f"{folders} loaded again: the outputs in {precision} are those of the run."]
    packages = ", ".join(f"{name} {version}" for name, version in found.checked_with.items())
    sentences = [
        f"{folders} loaded with {packages}; the difference is the largest from Comity's outputs in "
        "float32."
    ]
    if found.float32_differences:
        each = [f"{task} {value:.1e}" for task, value in found.float32_differences.items()]
        sentences.append(
            f"The run computes in {precision_name(found.precision)}. Its outputs differ from those "
            f"in float32 by up to: {', '.join(each)}."
        )
    return sentences
