"""The paper's tables with its results and ours side by side, as results.json and results.md."""

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comity.errors import ComityError
from comity.evaluation.analysis import draw_analysis
from comity.evaluation.compare import MEAN
from comity.experiments.slim import weight_digests
from comity.format import markdown_table, or_dash, p_value, plural
from comity.paper.claims import check_claims
from comity.paper.reported import Reported, read_reported
from comity.paper.rows import INTERACTION, MINILM, ON_PAIR, OTHER_READING, TABLES, TASKS, PaperRow
from comity.paper.run import RESULTS, Call, Kept, read_kept, run_name
from comity.runs.directory import RunDirectory, is_finished
from comity.runs.summary import reached, stage_conflicts

PRETRAINED = {
    MINILM: "all-MiniLM-L6-v2 was trained on over a billion pairs of related texts, including "
    "Quora's duplicate questions (see its model card). The contrastive rows can therefore not show "
    "here what they showed for BERT-base.",
    "bert-base-uncased": "BERT-base was pre-trained on BooksCorpus and English Wikipedia "
    "(Devlin et al. 2019).",
}
TITLES = {
    "1": "Table 1: single-task and multi-task baselines",
    "2": "Table 2: learning rates, one epoch of the last row of Table 3",
    "3": "Table 3: each row adds to the one before",
    "figure": "Not in the tables",
    "surgery": "Is surgery worth it? From the same start, with no other difference",
    OTHER_READING: 'The other reading of "one dataset at a time"',
}
METRIC_OF = {"sentiment": "accuracy", "paraphrase": "accuracy", "similarity": "Pearson", MEAN: ""}
ON_PAGE = (*TASKS, MEAN)


def write_results(out: Path, results: Path | None = None) -> dict[str, Any]:
    """Write results.json, results.md and the figures into `out`, from all slim runs.

    The slim runs are in `results`, or in the folder results/ of `out`. Returns the content of
    results.json.

    Raises:
        ComityError: `results` has no slim runs, or one of them is damaged.
    """
    found = _results(results or out / RESULTS, out)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2, allow_nan=False) + "\n"
    (out / "results.json").write_text(text, encoding="utf-8")
    (out / "results.md").write_text(page(found), encoding="utf-8")
    return found


def show_paper(results: Mapping[str, Any]) -> None:
    """Print the page, results.md."""
    print(page(results), end="")


# --- results.json ---------------------------------------------------------------------------------


def _results(folder: Path, out: Path) -> dict[str, Any]:
    kept = read_kept(folder)
    rows = kept.rows()
    runs = {row.name: _finished(folder, row) for row in rows}
    reported = read_reported()
    facts = [RunDirectory.open(path).facts() for found in runs.values() for path in found.values()]
    if not facts:
        raise ComityError(f"{folder}: contains no finished run; train one with comity paper")
    encoder = {k: v for k, v in asdict(facts[0].inputs.encoder).items() if v and k != "folder"}
    finished = {path.name for found in runs.values() for path in found.values()}
    asked = kept.asked()
    if asked:
        finished &= asked
    return {
        "commands": _commands(kept, runs),
        "runs": {"asked": len(asked) or None, "finished": len(finished)},
        "encoder": {**encoder, "pretrained_on": pretrained_on(encoder["name"])},
        "data": {name: asdict(sizes) for name, sizes in kept.data.items()},
        "machines": _distinct([asdict(fact.machine) for fact in facts]),
        "precision": sorted({fact.precision for fact in facts}),
        "versions": _distinct([fact.versions for fact in facts]),
        "commits": sorted({fact.commit for fact in facts if fact.commit}),
        "rows": [
            _row(row, runs[row.name], reported.get((row.table, row.reported or "")))
            for row in rows
            if runs[row.name] or row.reported
        ],
        "claims": check_claims(rows, runs, reported),
        "untouched": kept.untouched,
        "conflict": _conflict(runs),
        "figures": _figures(runs, out),
    }


def _finished(folder: Path, row: PaperRow) -> dict[int, Path]:
    """The slim runs of a row by seed, sorted by seed."""
    found = {}
    for path in folder.glob(f"{row.name}-seed*"):
        seed = path.name.removeprefix(f"{row.name}-seed")
        if seed.isdigit() and path.name == run_name(row, int(seed)) and is_finished(path):
            found[int(seed)] = path
    return dict(sorted(found.items()))


def _row(row: PaperRow, runs: Mapping[int, Path], printed: Reported | None) -> dict[str, Any]:
    of_runs = [_of_run(seed, path) for seed, path in runs.items()]
    return {
        "table": row.table,
        "row": row.label,
        "name": row.name,
        "paper": _printed(printed),
        "ours": {task: _spread([run["scores"][task] for run in of_runs]) for task in ON_PAGE},
        "runs": of_runs,
    }


def _printed(printed: Reported | None) -> dict[str, Any] | None:
    """The paper's numbers as text, so that they keep their digits."""
    if printed is None:
        return None
    return {
        **{task: str(score) for task, score in printed.scores.items()},
        MEAN: str(printed.mean),
        "mean_recomputed": str(printed.recomputed),
        "mean_follows": printed.follows,
        "mean_within_rounding": printed.within_rounding,
    }


def _of_run(seed: int, path: Path) -> dict[str, Any]:
    found = reached(RunDirectory.open(path))
    return {
        "run": path.name,
        "seed": seed,
        "step": found.step,
        "scores": {**{task: found.tasks[task] for task in TASKS}, MEAN: found.mean},
        "weights_sha256": weight_digests(path),
    }


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds; None if a seed has no value."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return {"mean": None, "spread": None, "seeds": len(values)}
    spread = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "spread": spread, "seeds": len(known)}


def _conflict(runs: Mapping[str, Mapping[int, Path]]) -> list[dict[str, Any]]:
    """How the task gradients of each run relate, for stages that measured a pair of tasks."""
    return [
        {"row": name, "seed": seed, **asdict(entry)}
        for name, of_row in runs.items()
        for seed, path in of_row.items()
        for entry in stage_conflicts(RunDirectory.open(path))
        if any(pair.observed for pair in entry.pairs)
    ]


def _figures(runs: Mapping[str, Mapping[int, Path]], out: Path) -> list[dict[str, Any]]:
    """The analysis of similarity for the last rows, first seed; without texts of the data."""
    found = []
    for name in (INTERACTION, ON_PAIR):
        for path in list(runs[name].values())[:1]:
            try:
                analysis = draw_analysis(path, "similarity", out / "figures" / name).to_dict()
            except ComityError as error:
                found.append({"row": name, "note": str(error)})
                continue
            kept = ("scores", "rows", "smallest", "largest", "bands")
            found.append({"row": name, **{key: analysis[key] for key in kept}})
    return found


def _commands(kept: Kept, runs: Mapping[str, Mapping[int, Path]]) -> list[str]:
    """The commands for a shell, without the names of the data and output folders."""
    calls = kept.calls or [Call(TABLES, max(len(found) for found in runs.values()))]
    return [_command(kept, call) for call in calls]


def _command(kept: Kept, call: Call) -> str:
    words = ["comity", "paper", "--data", "DIR", "--encoder", kept.encoder]
    words += ["--epochs", f"{kept.epochs:g}", "--seeds", str(call.seeds), "--out", "OUT"]
    if call.tables != TABLES:
        words += ["--table", *call.tables]
    if kept.drop_leaks:
        words.append("--drop-leaks")
    if kept.overrides:
        words += ["--set", *kept.overrides]
    return shlex.join(words)


def pretrained_on(encoder: str) -> str:
    """A sentence on the data an encoder was pre-trained on, if its name is known."""
    if "all-minilm" in encoder.lower():
        encoder = MINILM
    known = PRETRAINED.get(encoder.rstrip("/").rpartition("/")[2])
    return known or f"For the pre-training data of {encoder}, see its model card."


def _distinct(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for index, entry in enumerate(entries) if entry not in entries[:index]]


# --- results.md -----------------------------------------------------------------------------------


def page(results: Mapping[str, Any]) -> str:
    """The content of results.md, from that of results.json."""
    lines = ["# The paper's tables, reproduced", "", *_about(results), ""]
    for table in (*TABLES, OTHER_READING):
        rows = [row for row in results["rows"] if row["table"] == table]
        if rows:
            untouched = results["untouched"].get("pearson")
            lines += [f"## {TITLES[table]}", "", *_table(rows, untouched), ""]
    lines += ["## Does the order hold?", "", *_claims(results["claims"]), ""]
    if results["conflict"]:
        lines += ["## Do the tasks conflict?", "", *_conflict_lines(results), ""]
    if results["figures"]:
        lines += ["## Predicted against true similarity", "", *_figure_lines(results), ""]
    lines += ["## Runs", "", *_runs(results["rows"])]
    return "\n".join(lines) + "\n"


def _about(results: Mapping[str, Any]) -> list[str]:
    sizes = ", ".join(
        f"{task} {rows['train']:,} for training and {rows['dev']:,} for evaluation"
        for task, rows in results["data"].items()
    )
    left_out = " and ".join(
        f"{rows['left_out']:,} of {task}"
        for task, rows in results["data"].items()
        if rows["left_out"]
    )
    leaks = f" Training rows that also appear in a dev set are left out: {left_out}."
    machines = "; ".join(
        f"{m.get('card') or m['processor']} ({m['processor_class']}), threads: {m['threads']}"
        for m in results["machines"]
    )
    versions = "; ".join(
        f"comity {v['comity']}, torch {v['torch']}, Python {v['python']}"
        for v in results["versions"]
    )
    commits = ", ".join(commit[:7] for commit in results["commits"])
    asked, finished = results["runs"]["asked"], results["runs"]["finished"]
    progress = [] if asked is None else [f"Finished: {finished:,} of {plural(asked, 'run')}.", ""]
    return [
        *(f"    {command}" for command in results["commands"]),
        "",
        *progress,
        f"Encoder: {results['encoder']['name']}. {results['encoder']['pretrained_on']}",
        "",
        f"Data, in rows: {sizes}.{leaks if left_out else ''}",
        "",
        f"Machine: {machines}; {', '.join(results['precision'])}. {versions}."
        f"{f' Trained at commit {commits}.' if commits else ''}",
        "",
        "Scores are those of each run's best model on dev (from the evaluation with the best mean; "
        "for a single-task row, with the best score on its task): accuracy, accuracy, Pearson and "
        "their mean. Ours: mean over seeds ± sample standard deviation (number of seeds).",
    ]


def _table(rows: Sequence[Mapping[str, Any]], untouched: float | None) -> list[str]:
    """One table; `untouched` is the similarity that the encoder scores without training."""
    header = ["", *(f"{task}, {source}" for task in ON_PAGE for source in ("paper", "ours"))]
    lines, notes = [], []
    for row in rows:
        cells = [row["row"]]
        for task in ON_PAGE:
            printed = row["paper"][task] if row["paper"] else "-"
            if task == MEAN and row["paper"] and not row["paper"]["mean_follows"]:
                printed += " (!)"
                notes.append(_mean_note(row))
            cells += [printed, _ours(row["ours"][task])]
        lines.append(cells)
    if untouched is not None:
        cells = {task: f"{untouched:.3f}" if task == "similarity" else "-" for task in ON_PAGE}
        label = "No training: cosine of the embeddings"
        lines.append([label, *(cell for task in ON_PAGE for cell in ("-", cells[task]))])
    table = markdown_table(header, lines, "l" + "r" * (len(header) - 1))
    return [*table, *(["", *dict.fromkeys(notes)] if notes else [])]


def _mean_note(row: Mapping[str, Any]) -> str:
    printed = row["paper"]
    why = (
        "which the rounding of its scores may explain"
        if printed["mean_within_rounding"]
        else "which no rounding of its scores explains"
    )
    name = row["row"].partition(" (")[0]
    return (
        f'- (!) "{name}": the paper prints the mean {printed[MEAN]}, its scores give '
        f"{printed['mean_recomputed']}, {why}."
    )


def _ours(found: Mapping[str, Any]) -> str:
    if not found["seeds"]:
        return "not run"
    if found["mean"] is None:
        return "no value"
    spread = "" if found["spread"] is None else f" ± {found['spread']:.3f}"
    return f"{found['mean']:.3f}{spread} ({found['seeds']})"


def _claims(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    header = ["claim", "metric", "paper's difference", "ours", "95%", "p", "seeds", ""]
    tested = sum(claim["p"] is not None for claim in claims)
    about = "Ours: the difference of the means over seeds"
    if tested:
        about += (
            ", with an interval that covers other seeds and other dev rows; p is two-sided and "
            f"adjusted for {plural(tested, 'claim')} (Holm). "
            '"holds": p is below 0.05; "reversed": the same in the other direction; otherwise '
            '"undecided"'
        )
    about += "."
    if any(claim["verdict"] == "one seed" for claim in claims):
        about += ' With "one seed", the interval covers dev rows alone, and there is no verdict.'
    return [about, "", *markdown_table(header, map(_claim_cells, claims), "llrrrrrl")]


def _claim_cells(claim: Mapping[str, Any]) -> list[str]:
    interval = "-" if claim["low"] is None else f"{claim['low']:+.3f} to {claim['high']:+.3f}"
    counts = dict.fromkeys(len(seeds) for seeds in claim["seeds"].values())
    return [
        claim["claim"],
        f"{claim['task']} {METRIC_OF[claim['task']]}".strip(),
        or_dash(claim["paper"], "+.3f"),
        or_dash(claim["ours"], "+.3f"),
        interval,
        p_value(claim["p"]),
        " and ".join(map(str, counts)),
        claim["verdict"],
    ]


def _conflict_lines(results: Mapping[str, Any]) -> list[str]:
    """A table of the pairs of tasks in the first seed of each row."""
    labels = {row["name"]: row["row"] for row in results["rows"]}
    first: dict[str, int] = {}
    for entry in results["conflict"]:
        first.setdefault(entry["row"], entry["seed"])
    shown = [entry for entry in results["conflict"] if entry["seed"] == first[entry["row"]]]
    header = ["row", "stage", "tasks", "measured in", "mean cosine", "without noise", ""]
    lines = [
        [
            labels[entry["row"]],
            entry["name"],
            " / ".join(pair["tasks"]),
            f"{pair['observed']:,} {'steps' if entry['from_steps'] else 'probes'}",
            _with_interval(pair["cosine"], pair["low"], pair["high"]),
            _with_interval(pair["expected_cosine"], pair["expected_low"], pair["expected_high"]),
            {True: "conflict", False: "none found", None: "too few"}[pair["conflicts"]],
        ]
        for entry in shown
        for pair in entry["pairs"]
    ]
    return [
        "The first seed of each row; `results.json` has all seeds. Two tasks conflict where the "
        "95% interval of their mean cosine, adjusted for the number of pairs, is below 0. The "
        "column without noise has the cosine of the expected gradients.",
        "",
        *markdown_table(header, lines, "lllrrrl"),
    ]


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    shown = or_dash(value, "+.3f")
    return shown if low is None else f"{shown} ({low:+.3f} to {high:+.3f})"


def _figure_lines(results: Mapping[str, Any]) -> list[str]:
    labels = {row["name"]: row["row"] for row in results["rows"]}
    lines = []
    for figure in results["figures"]:
        label = labels[figure["row"]]
        if "note" in figure:
            lines += [f"{label}: no figure ({figure['note']}).", ""]
            continue
        shares = [band["below"] for band in figure["bands"] if band["high"] == 2]
        share = ""
        if shares and shares[0] is not None:
            share = f" Of the rows truly below 2, {shares[0]:.0%} are predicted below 2."
        folder = f"figures/{figure['row']}"
        lines += [
            f"{label}: predictions range from {figure['smallest']:.2f} to {figure['largest']:.2f} "
            f"(in the paper, none is below 2).{share}",
            "",
            f"![{label}: predicted against true similarity]({folder}/similarity-scatter.png)",
            f"![{label}: predictions by true band]({folder}/similarity-histogram.png)",
            "",
        ]
    return lines[:-1]


def _runs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    header = ["run", "seed", "best step", "SHA-256 of encoder", "of heads"]
    lines = [
        [
            run["run"],
            str(run["seed"]),
            f"{run['step']:,}",
            *(f"`{digest[:12]}`" for digest in run["weights_sha256"].values()),
        ]
        for row in rows
        for run in row["runs"]
    ]
    return markdown_table(header, lines, "lrrll")
