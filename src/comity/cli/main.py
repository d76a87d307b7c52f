"""The terminal door: arguments in, sentences out; no logic of its own."""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comity
from comity.cli import recipe as recipe_command
from comity.errors import ComityError

EPILOG = """\
examples:
  comity demo                                    train three small tasks and look at the result
  comity check recipe.toml --data data           find every fault before training
  comity train recipe.toml --data data --out runs/first
  comity evaluate runs/first --task mood --file unseen.csv --json
  comity predict runs/first --task mood --input new.csv --output labelled.csv
  comity sweep recipe.toml --data data --out runs/rates --set train.lr=1e-5,2e-5,5e-5
  comity paper --data data --out runs/paper      the paper's tables again
  comity compare runs/mood-only runs/first       what sharing gained or cost, with intervals
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 2 a fault the user can mend, 130 stopped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter shows its code
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    if not hasattr(options, "run"):
        _parser().print_help()
        return 2
    try:
        return options.run(options)
    except ComityError as error:
        for fault in error.messages:
            print(f"error: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        run = getattr(options, "out", None) or getattr(options, "resume", None)
        kept = run is not None and any(run.glob("checkpoint-*"))
        print(f"stopped{f'; go on with --resume {run}' if kept else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror or error}; free space or pick another place",
            file=sys.stderr,
        )
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="comity",
        description="Fine-tune one BERT encoder on several text tasks at once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"comity {comity.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "train three small tasks that come with comity")
    demo.add_argument("--out", type=Path, help="keep the run here (default: a temporary folder)")
    _add_set(demo)

    train = _command(commands, "train", _train, "train a recipe")
    _add_recipe(train)
    train.add_argument("--out", type=Path, help="the run directory, new or empty")
    train.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run")
    train.add_argument("--dry-run", action="store_true", help="print the plan, train nothing")
    train.add_argument("--json", action="store_true", help="print results as one JSON object")
    train.add_argument("--quiet", action="store_true", help="show no progress")

    check = _command(commands, "check", _check, "find every fault of a recipe and its files")
    _add_recipe(check)
    check.add_argument("--json", action="store_true", help="print what was found as JSON")

    evaluate = _command(commands, "evaluate", _evaluate, "judge a run on its dev or another file")
    evaluate.add_argument("run_directory", type=Path, metavar="RUN")
    evaluate.add_argument("--task", help="only this task")
    evaluate.add_argument("--file", type=Path, help="a labelled file (default: the dev file)")
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    predict = _command(commands, "predict", _predict, "label a file with a run's model")
    predict.add_argument("run_directory", type=Path, metavar="RUN")
    predict.add_argument("--task", required=True)
    predict.add_argument("--input", type=Path, required=True, help="CSV, TSV, JSON lines, Parquet")
    predict.add_argument("--output", type=Path, required=True, help="written; its ending decides")
    predict.add_argument(
        "--format",
        choices=("table", "cs224n"),
        default="table",
        help="cs224n: the class's leaderboard format",
    )

    compare = _command(commands, "compare", _compare, "set runs side by side, with intervals")
    compare.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="the first is the measure"
    )
    compare.add_argument(
        "--group-seeds", action="store_true", help="runs that differ in the seed alone count as one"
    )
    compare.add_argument("--json", action="store_true", help="print JSON")

    analyse = _command(commands, "analyse", _analyse, "draw and list what a graded task predicts")
    analyse.add_argument("run_directory", type=Path, metavar="RUN")
    analyse.add_argument("--task", required=True, help="a similarity or regression task")
    analyse.add_argument("--out", type=Path, required=True, help="a folder for pictures and page")
    analyse.add_argument("--json", action="store_true", help="print JSON")

    sweep = _command(commands, "sweep", _sweep, "train a grid over any keys of a recipe")
    sweep.add_argument("recipe", type=Path, help="a TOML recipe")
    sweep.add_argument(
        "--data", type=Path, help="where the recipe's files stand (default: beside the recipe)"
    )
    sweep.add_argument(
        "--set",
        nargs="+",
        action="extend",
        required=True,
        metavar="KEY=VALUE,VALUE",
        help="keys of the recipe; those with several values are swept (a list in brackets)",
    )
    _add_series(sweep)

    paper = _command(commands, "paper", _paper, "train the rows of the paper's tables again")
    paper.add_argument(
        "--table",
        nargs="+",
        default=[],
        help="1, 2, 3, figure or other-reading (default: all but the last)",
    )
    paper.add_argument("--data", type=Path, required=True, help="where the class's files stand")
    paper.add_argument("--encoder", default="minilm", help="minilm, a folder or a hub id")
    paper.add_argument(
        "--epochs", type=float, help="passes over all rows (default: minilm 2, else 3)"
    )
    paper.add_argument("--seeds", type=int, default=2, help="runs of each row (default: 2)")
    _add_set(paper)
    _add_series(paper)

    augment = _command(
        commands, "augment", _augment, "add training rows: texts translated there and back"
    )
    augment.add_argument("file", type=Path, metavar="FILE", help="CSV, TSV, JSON lines, Parquet")
    augment.add_argument(
        "--column",
        action="append",
        required=True,
        metavar="NAME",
        help="a text column to translate; give it twice for a pair",
    )
    augment.add_argument("--delimiter", help='of FILE: one character or "tab" (default: found out)')
    augment.add_argument("--encoding", help="of FILE, such as cp1252 (default: found out)")
    augment.add_argument(
        "--no-header", action="store_true", help="FILE has none; columns are numbers from 0"
    )
    augment.add_argument(
        "--no-quoting", action="store_true", help="quote characters of FILE are ordinary text"
    )
    for name, way in (("--to", "to the other language"), ("--back", "back")):
        augment.add_argument(
            name, required=True, metavar="CHECKPOINT", help=f"translates {way}: a folder or hub id"
        )
    augment.add_argument("--output", type=Path, required=True, help="written; its ending decides")
    augment.add_argument("--batch-size", type=int, default=32, help="texts translated together")
    augment.add_argument("--beams", type=int, default=1, help="of the search (default: 1, greedy)")
    augment.add_argument(
        "--drop-similar",
        type=float,
        metavar="SHARE",
        help="drop rows that share this much of their characters with their source, such as 0.95",
    )
    augment.add_argument(
        "--with-source", action="store_true", help="write the file's own rows first"
    )
    augment.add_argument("--json", action="store_true", help="print the counts as JSON")

    recipe_command.add_parser(commands)

    info = _command(commands, "info", _info, "say what a run is and how well it did")
    info.add_argument("run_directory", type=Path, metavar="RUN")
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _command(commands: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    command.set_defaults(run=run)
    return command


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, nargs="?", help="a TOML recipe")
    command.add_argument(
        "--data", type=Path, help="where the recipe's files stand (default: beside the recipe)"
    )
    command.add_argument(
        "--drop-leaks", action="store_true", help="leave out training rows that stand in dev"
    )
    _add_set(command)


def _add_series(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out", type=Path, required=True, help="a folder; the same command goes on there"
    )
    command.add_argument(
        "--drop-leaks", action="store_true", help="leave out training rows that stand in dev"
    )
    command.add_argument("--dry-run", action="store_true", help="print the plan, train nothing")
    command.add_argument("--json", action="store_true", help="print results as one JSON object")
    command.add_argument("--quiet", action="store_true", help="show no progress")


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override keys of the recipe, such as train.lr=3e-5",
    )


def _load_recipe(options: argparse.Namespace) -> tuple[Any, Path]:
    from comity.recipe.recipe import Recipe

    if options.recipe is None:
        raise ComityError(
            "recipe: name a TOML file, before --set (README.md has one to start from)"
        )
    recipe = Recipe.load(options.recipe, options.set)
    return recipe, options.data or options.recipe.parent


def _check(options: argparse.Namespace) -> int:
    from comity.terminal.views import show_data
    from comity.training.setup import data_summary, prepare

    recipe, folder = _load_recipe(options)
    summary = data_summary(prepare(recipe, folder, options.drop_leaks))
    if options.json:
        print(json.dumps(summary, allow_nan=False))
    else:
        show_data(summary)
        print(f"{options.recipe}: no errors found")
    return 0


def _train(options: argparse.Namespace) -> int:
    from comity.hardware import flushed_denormals

    with flushed_denormals():
        return _train_recipe(options)


def _train_recipe(options: argparse.Namespace) -> int:
    from comity.runs import RunDirectory
    from comity.terminal.progress import Display
    from comity.terminal.views import show_plan, tell
    from comity.training.plan import plan_summary
    from comity.training.setup import prepare
    from comity.training.trainer import Trainer

    directory = None
    if options.resume is not None:
        directory = RunDirectory.open(options.resume)
        facts = directory.facts()
        recipe, folder = directory.recipe(), options.data or Path(facts["data"])
        if options.recipe is not None or options.set or options.out or options.drop_leaks:
            raise ComityError("--resume: goes on with the run's own recipe; give nothing else")
        options.drop_leaks = facts["drop_leaks"]
    else:
        recipe, folder = _load_recipe(options)
        if options.out is None and not options.dry_run:
            raise ComityError("--out: name a directory for the run")
        if options.out is not None:
            RunDirectory.check_new(options.out)
    prepared = prepare(recipe, folder, options.drop_leaks)
    for sentence in (*prepared.notes, *prepared.leaks):
        tell(sentence)
    with Display(quiet=options.quiet or options.json) as display:
        trainer = Trainer(prepared, display, directory)
        if options.dry_run:
            return _show_plan(trainer, options.json)
        if directory is None:
            directory = RunDirectory.create(Path(str(options.out)))
        if not options.quiet and not options.json:
            show_plan(plan_summary(trainer, trainer.time_left()), stderr=True)
        trainer.run(directory, resume=options.resume is not None)
    return _show_run(directory, options.json)


def _show_plan(trainer: Any, as_json: bool) -> int:
    from comity.terminal.views import show_plan
    from comity.training.plan import plan_summary

    return _show(plan_summary(trainer, trainer.time_left()), show_plan, as_json)


def _show_run(directory: Any, as_json: bool) -> int:
    from comity.runs import run_summary
    from comity.terminal.views import show_run

    return _show(run_summary(directory), show_run, as_json)


def _show(values: Any, show: Any, as_json: bool) -> int:
    """Values as JSON, or as `show` prints them."""
    if as_json:
        print(json.dumps(values, allow_nan=False))
    else:
        show(values)
    return 0


def _info(options: argparse.Namespace) -> int:
    from comity.runs import RunDirectory

    return _show_run(RunDirectory.open(options.run_directory), options.json)


def _evaluate(options: argparse.Namespace) -> int:
    from comity.inference.model import load
    from comity.terminal.views import show_scores

    model = load(options.run_directory)
    if options.file is not None and options.task is None:
        raise ComityError("--file: name the task that the file is for with --task")
    tasks = [options.task] if options.task else model.tasks
    evaluations = {task: model.evaluate(task, options.file) for task in tasks}
    if options.json:
        found = {task: evaluation.to_dict() for task, evaluation in evaluations.items()}
        print(json.dumps(found[options.task] if options.task else {"tasks": found}))
        return 0
    show_scores(f"{options.run_directory}", {"score": evaluations})
    for task, evaluation in evaluations.items():
        for what, count in evaluation.rows.items():
            if count:
                print(f"{task}: {count} rows {what}")
        if evaluation.score.reason:
            print(f"{task}: {evaluation.score.name} has no value ({evaluation.score.reason})")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from comity.inference.model import load
    from comity.inference.predict_file import predict_file

    rows = predict_file(
        load(options.run_directory), options.task, options.input, options.output, options.format
    )
    print(f"{options.output}: {rows:,} rows")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from comity.evaluation.compare import compare
    from comity.terminal.views import comparison_table, console

    comparison = compare(options.runs, options.group_seeds)
    if options.json:
        print(json.dumps(comparison.to_dict(), allow_nan=False))
    else:
        console().print(comparison_table(comparison))
    return 0


def _analyse(options: argparse.Namespace) -> int:
    from comity.evaluation.analysis import analyse

    analysis = analyse(options.run_directory, options.task, options.out)
    if options.json:
        print(json.dumps(analysis.to_dict(), allow_nan=False))
        return 0
    print(
        f"{options.task}: {analysis.rows:,} predictions from {analysis.smallest:.4g} to "
        f"{analysis.largest:.4g}"
    )
    for path in analysis.written:
        print(path)
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from comity.experiments.sweep import Sweep, write_sweep
    from comity.hardware import flushed_denormals
    from comity.terminal.views import show_series, show_sweep, tell

    def write() -> dict[str, Any]:
        results = sweep.results()
        write_sweep(results, options.out)
        return results

    with flushed_denormals():
        sweep = Sweep(
            options.recipe,
            options.set,
            options.data or options.recipe.parent,
            options.out,
            options.drop_leaks,
        )
        for sentence in sweep.series.notes:
            tell(sentence)
        if options.dry_run:
            return _show(sweep.plan(), show_series, options.json)
        _train_series(sweep, options, write)
    return _show(write(), show_sweep, options.json)


def _paper(options: argparse.Namespace) -> int:
    from comity.hardware import flushed_denormals
    from comity.paper.page import show_paper, write_results
    from comity.paper.run import Paper, check_options
    from comity.terminal.views import show_series, tell

    checked = check_options(
        options.data,
        options.out,
        options.encoder,
        options.table,
        options.epochs,
        options.seeds,
        options.set,
        options.drop_leaks,
    )
    if not options.quiet and not options.json:
        tell("reading the data and checking every run")
    with flushed_denormals():
        paper = Paper(checked)
        for sentence in paper.series.notes:
            tell(sentence)
        if options.dry_run:
            return _show(paper.plan(), show_series, options.json)
        _train_series(paper, options, lambda: write_results(paper))
    return _show(write_results(paper), show_paper, options.json)


def _train_series(sweep_or_paper: Any, options: argparse.Namespace, write: Any) -> None:
    """Train; where that stops before its end, `write` what is finished all the same."""
    from comity.terminal.views import tell

    sweep_or_paper.check()
    try:
        sweep_or_paper.train(options.quiet or options.json)
    except (KeyboardInterrupt, ComityError):
        tell(f"what is finished is kept in {options.out}; the same command goes on from there")
        if sweep_or_paper.series.finished():
            write()
        raise


def _augment(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from comity.data.augment import augment, check_augment
    from comity.model.translate import Translator
    from comity.tables.rows import TableFormat
    from comity.terminal.progress import Advance
    from comity.terminal.views import show_augmented, tell

    columns = [
        int(column) if options.no_header and column.isdecimal() else column
        for column in options.column
    ]
    quoting = False if options.no_quoting else None
    about: dict[str, Any] = {
        "batch_size": options.batch_size,
        "drop_similar": options.drop_similar,
        "format": TableFormat(options.delimiter, not options.no_header, quoting, options.encoding),
    }
    # Before the translators, which may have to be downloaded.
    check_augment(options.file, columns, options.output, **about)
    forward = Translator(options.to, beams=options.beams)
    back = Translator(options.back, beams=options.beams)
    try:
        with Advance() as progress:
            report = augment(
                options.file,
                columns,
                options.output,
                forward,
                back,
                with_source=options.with_source,
                progress=progress,
                **about,
            )
    except KeyboardInterrupt:
        tell("what is translated so far is kept; the same command goes on from there")
        raise
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        show_augmented(options.output, report)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from comity.demo.show import run_demo

    run_demo(options.out, options.set)
    return 0


if __name__ == "__main__":
    sys.exit(main())
