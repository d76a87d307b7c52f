"""The paper's tables: rows as recipes, the reported results, and a complete small run."""

import hashlib
import json
import random
import re
import shlex
import shutil
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from comity import ComityError, Recipe
from comity.cli.main import main
from comity.evaluation.compare import compare
from comity.evaluation.floors import untouched_cosine
from comity.evaluation.predictions import kept_predictions
from comity.paper.claims import CLAIMS, TRUNCATED, check_claims
from comity.paper.page import _commands, page, pretrained_on, write_results
from comity.paper.reported import read_reported
from comity.paper.rows import TABLES, all_rows, check_tables, row_recipe, runs_of, setting
from comity.paper.run import Call, Kept, Paper, check_options
from comity.runs.directory import RunDirectory, is_finished
from comity.terminal.progress import SeriesDisplay
from comity.training.setup import prepare

SIZES = {"ids-sst": 40, "quora": 48, "sts": 24}
COUNTS = {"sentiment": 40, "paraphrase": 48, "similarity": 24}
BATCH = 8
WORDS = ["house", "book", "film", "train", "street", "garden", "tea", "river", "car", "bread"]


def write_class_data(folder: Path) -> Path:
    """Write files with the names and columns of the class's data and generated texts."""
    draws = random.Random(0)
    folder.mkdir()

    def text() -> str:
        return " ".join(draws.choices(WORDS, k=4)) + f" {draws.randrange(10**6)}"

    def write(name: str, columns: list[str], rows: list[list[str]]) -> None:
        lines = ["\t".join(["", "id", *columns])]
        lines += ["\t".join([str(n), f"{name}-{n}", *row]) for n, row in enumerate(rows)]
        (folder / name).write_text("\n".join(lines) + "\n")

    for split in ("train", "dev"):
        sizes = SIZES if split == "train" else dict.fromkeys(SIZES, 15)
        write(
            f"ids-sst-{split}.csv",
            ["sentence", "sentiment"],
            [[text(), str(n % 5)] for n in range(sizes["ids-sst"])],
        )
        pair = ["sentence1", "sentence2"]
        write(
            f"quora-{split}.csv",
            [*pair, "is_duplicate"],
            [[text(), text(), f"{n % 2}.0"] for n in range(sizes["quora"])],
        )
        write(
            f"sts-{split}.csv",
            [*pair, "similarity"],
            [[text(), text(), f"{n % 26 / 5}"] for n in range(sizes["sts"])],
        )
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_class_data(tmp_path_factory.mktemp("paper") / "data")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory, tiny_checkpoint):
    """Every row of the tables and the figure: two seeds, one epoch, a tiny random encoder."""
    out = tmp_path_factory.mktemp("paper-out") / "out"
    paper = Paper(check_options(data, out, str(tiny_checkpoint), epochs=1.0, seeds=2))
    paper.train(quiet=True)
    return paper, write_results(out)


# --- the rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["minilm", "bert-base-uncased"])
def test_every_row_is_a_valid_recipe(encoder):
    base = Recipe.load(setting(encoder))
    rows = all_rows(base, {"sentiment": 8544, "paraphrase": 14167, "similarity": 6040}, 3.0)
    recipes = {row.name: row_recipe(encoder, row, 1, []) for row in rows}
    assert len(recipes) == (17 if encoder == "minilm" else 15)
    assert {recipe.train.seed for recipe in recipes.values()} == {1}
    assert {recipe.encoder.name for recipe in recipes.values()} == {encoder}


def test_both_settings_have_the_papers_tasks_and_heads():
    base = Recipe.load(setting("bert-base-uncased"))
    assert base.tasks == Recipe.load(setting("minilm")).tasks
    # The paper could not go beyond a batch size of 8; 1e-5 is the best rate of its Table 2.
    assert (base.train.batch_size, base.train.lr) == (8, 1e-5)


def test_rows_differ_from_the_base_as_the_paper_says():
    base = Recipe.load(setting("bert-base-uncased"))
    rows = {row.name: row for row in all_rows(base, COUNTS, 3.0)}
    recipes = {name: row_recipe("bert-base-uncased", row, 0, []) for name, row in rows.items()}
    sst = recipes["table1-sst-only"]
    assert [name for name, task in sst.tasks.items() if task.eval_only] == [
        "paraphrase",
        "similarity",
    ]
    assert sst.stages[0].tasks == ("sentiment",)
    assert sst.train.select_by == "sentiment"
    first, last = recipes["table3-in-domain"].stages
    assert (first.tasks, first.epochs) == (("similarity",), 1.0)
    assert first.data["similarity"].file == "quora-train.csv"
    assert (last.task_sampling, last.balancer) == ("sequential", "sum")
    surgery = recipes["table3-surgery"].stages[1]
    assert (surgery.task_sampling, surgery.balancer) == ("round-robin", "pcgrad")
    views = {
        name: recipes[f"table3-{name}"].tasks["similarity"].views
        for name in ("in-domain", "surgery", "contrastive-interaction", "contrastive-pair")
    }
    assert views == {
        "in-domain": ("pair",),
        "surgery": ("pair",),
        "contrastive-interaction": ("first", "second"),
        "contrastive-pair": ("pair",),
    }
    for name in ("contrastive-interaction", "contrastive-pair"):
        tasks = recipes[f"table3-{name}"].tasks
        losses = {n: [objective.loss for objective in t.objectives] for n, t in tasks.items()}
        assert losses == {
            "sentiment": [],
            "paraphrase": ["contrastive"],
            "similarity": ["contrastive"],
        }
    assert [s.tasks for s in recipes["other-reading"].stages] == [
        ("sentiment",),
        ("paraphrase",),
        ("similarity",),
    ]


def test_table_2_is_the_last_row_of_table_3_for_one_epoch_at_each_rate():
    base = Recipe.load(setting("minilm"))
    swept = [row for row in all_rows(base, COUNTS, 2.0) if row.table == "2"]
    (last,) = (r for r in all_rows(base, COUNTS, 1.0) if r.name == "table3-contrastive-interaction")
    for row, rate in zip(swept, (8e-6, 1e-5, 2e-5, 5e-5, 1e-4), strict=True):
        own = row_recipe("minilm", row, 0, []).to_dict()
        assert own["train"]["lr"] == rate
        own["train"]["lr"] = Recipe.load(setting("minilm")).train.lr
        assert own == row_recipe("minilm", last, 0, []).to_dict()


def test_the_figure_needs_the_last_row_and_the_rows_it_compares():
    rows = all_rows(Recipe.load(setting("minilm")), COUNTS, 2.0)
    assert [(row.name, seed) for row, seed in runs_of(rows, ("figure",), 2)] == [
        ("table1-sts-only", 0),
        ("table1-sts-only", 1),
        ("table3-contrastive-interaction", 0),
        ("table3-contrastive-pair", 0),
        ("figure-sts-truncated", 0),
        ("figure-sts-truncated", 1),
    ]
    names = [f"{row.name} {seed}" for row, seed in runs_of(rows, check_tables([]), 2)]
    assert len(names) == len(set(names)) == 4 * 2 + 5 + 4 * 2 + 2 + 2 * 2


def test_all_rows_with_several_tasks_see_the_same_number_of_examples(
    data, tmp_path, tiny_checkpoint
):
    options = check_options(data, tmp_path / "out", str(tiny_checkpoint), epochs=3.0)
    plan = Paper(options).plan()
    seen = {run.name: run.examples for run in plan.runs if run.name.endswith("seed0")}
    total = 40 + 48 + 24
    for name in ("1-base", "3-in-domain", "3-surgery", "3-contrastive-interaction",
                 "3-contrastive-pair"):  # fmt: skip
        # The last step of a stage is complete, with at most one batch of each task.
        assert 3 * total <= seen[f"table{name}-seed0"] < 3 * total + 4 * BATCH, name
    for rate in ("8e-6", "1e-5", "2e-5"):
        assert total <= seen[f"table2-lr-{rate}-seed0"] < total + 4 * BATCH
    assert seen["table1-sst-only-seed0"] == 3 * 40
    assert seen["table1-paraphrase-only-seed0"] == 3 * 48
    assert seen["table1-sts-only-seed0"] == seen["figure-sts-truncated-seed0"] == 3 * 24


def test_paraphrase_labels_become_the_ends_of_the_scale(data, tiny_checkpoint):
    base = Recipe.load(setting("bert-base-uncased"))
    (row,) = (row for row in all_rows(base, COUNTS, 3.0) if row.name == "table3-in-domain")
    prepared = prepare(row_recipe(str(tiny_checkpoint), row, 0, []), data)
    (targets,) = (split.targets for split in prepared.tasks["similarity"].stage_train.values())
    assert targets.tolist() == [5.0 * (n % 2) for n in range(48)]


# --- the reported results -------------------------------------------------------------------------


def test_the_reported_results_are_those_of_the_papers_text(shared):
    text = (shared / "paper.txt").read_text(encoding="utf-8").replace("<b>", "").replace("</b>", "")
    for (_, name), row in read_reported().items():
        numbers = [*row.scores.values(), row.mean]
        assert f"{name}\t" + "\t".join(map(str, numbers)) in text
    assert len(read_reported()) == 10


def test_three_of_the_papers_means_do_not_follow_from_their_rows():
    # By hand: (.52 + .53 - .09) / 3 = .320, (.48 + .88 + .35) / 3 = .570,
    # (.474 + .886 + .579) / 3 = .6463.
    wrong = {
        name: (row.mean, row.recomputed, row.within_rounding)
        for (_, name), row in read_reported().items()
        if not row.follows
    }
    assert wrong == {
        # Two digits allow .005 on either side, three allow .0005.
        "SST only": (Decimal("0.322"), Decimal("0.320"), True),
        "Base all data": (Decimal("0.576"), Decimal("0.570"), False),
        "Multiple Negative Loss": (Decimal("0.647"), Decimal("0.646"), True),
    }


def test_every_claim_is_supported_by_the_papers_own_results():
    rows = all_rows(Recipe.load(setting("minilm")), COUNTS, 2.0)
    found = check_claims(rows, {}, read_reported())
    assert {claim["verdict"] for claim in found} == {"not run"}
    ours = [claim["worse"] for claim in found if claim["paper"] is None]
    assert ours == [TRUNCATED, *["surgery-sum"] * 4]
    assert all(claim["paper"] > 0 for claim in found if claim["paper"] is not None)
    names = {row.name for row in rows}
    assert all({claim.better, claim.worse} <= names for claim in CLAIMS)


# --- a complete small run -------------------------------------------------------------------------


def test_every_run_is_finished_and_keeps_only_its_best_model(finished):
    paper, _ = finished
    assert (
        len(list(paper.runs.iterdir())) == len(paper.series.runs) == 4 * 2 + 3 + 4 * 2 + 2 + 2 * 2
    )
    for run in paper.series.runs:
        assert is_finished(paper.runs / run.name)
        assert not list((paper.runs / run.name).glob("checkpoint-*"))


def test_paper_json_names_run_seed_and_weights_of_each_row(finished):
    paper, _ = finished
    written = json.loads((paper.options.out / "results.json").read_text())
    rows = {row["name"]: row for row in written["rows"]}
    seeds = {name: [run["seed"] for run in row["runs"]] for name, row in rows.items()}
    assert all(s == ([0] if name.startswith("table2") else [0, 1]) for name, s in seeds.items())
    for row in rows.values():
        for run in row["runs"]:
            directory = paper.runs / run["run"]
            best = json.loads((directory / "best.json").read_text())
            assert run["scores"]["sentiment"] == best["tasks"]["sentiment"]["value"]
            for file, digest in run["weights_sha256"].items():
                content = (directory / best["folder"] / file).read_bytes()
                assert digest == hashlib.sha256(content).hexdigest()
    assert written["data"]["similarity"] == {"train": 24, "dev": 15, "left_out": 0}
    assert written["encoder"]["pretrained_on"]
    assert written["machines"][0]["processor_class"]


def test_ours_are_mean_and_spread_over_the_seeds(finished):
    _, results = finished
    (row,) = (row for row in results["rows"] if row["name"] == "table1-base")
    scores = [run["scores"]["sentiment"] for run in row["runs"]]
    assert row["ours"]["sentiment"]["mean"] == pytest.approx(np.mean(scores))
    assert row["ours"]["sentiment"]["spread"] == pytest.approx(np.std(scores, ddof=1))


def test_the_page_has_the_untouched_encoder_next_to_each_table(finished):
    paper, results = finished
    prepared = prepare(paper.series.runs[0].recipe, paper.options.data)
    task = prepared.tasks["similarity"]
    pearson = untouched_cosine(prepared.loaded, task.dev, task.max_length)["pearson"].value
    assert results["untouched"]["pearson"] == pearson
    line = f"| No training: cosine of the embeddings | - | - | - | - | - | {pearson:.3f} | - | - |"
    assert page(results).count(line) == 5


def test_the_page_has_the_conflict_of_each_pair(finished):
    _, results = finished
    part = page(results).partition("## Do the tasks conflict?")[2].partition("\n## ")[0]
    of_pcgrad = [line for line in part.splitlines() if line.startswith("| Round-robin, pcgrad |")]
    assert [line.split(" | ")[2] for line in of_pcgrad] == [
        "sentiment / paraphrase",
        "sentiment / similarity",
        "paraphrase / similarity",
    ]
    assert {entry["seed"] for entry in results["conflict"]} == {0, 1}


def test_the_page_has_every_row_claim_and_run(finished):
    paper, results = finished
    text = (paper.options.out / "results.md").read_text()
    assert text == page(results)
    tables = text.partition("## Does the order hold?")[0]
    assert len(re.findall(r"^\| [A-Z]", tables, re.MULTILINE)) == 4 + 3 + 4 + 1 + 2 + 5
    assert "| Base all data | 0.48 | " in text
    assert "prints the mean 0.576, its scores give 0.570" in text
    assert text.count("| mean |") == sum(claim.task == "mean" for claim in CLAIMS)
    verdicts = {claim["claim"]: claim["verdict"] for claim in results["claims"]}
    of_rates = {verdicts.pop(f"the rate 1e-5 beats {rate}") for rate in ("8e-6", "2e-5")}
    assert of_rates == {"one seed"}
    assert set(verdicts.values()) <= {"holds", "reversed", "undecided"}
    assert text.count("| table3-surgery-seed") == 2


def test_the_results_contain_no_text_of_the_data(finished, data):
    paper, _ = finished
    written = (paper.options.out / "results.md").read_text()
    written += (paper.options.out / "results.json").read_text()
    for line in (data / "sts-dev.csv").read_text().splitlines()[1:]:
        assert line.split("\t")[2] not in written


def test_a_second_call_trains_nothing_and_writes_the_same(finished, monkeypatch):
    paper, _ = finished
    before = (paper.options.out / "results.md").read_text()
    kept = (paper.results / "options.json").stat()
    monkeypatch.setattr("comity.experiments.runner.train", None)  # calling it would fail
    again = Paper(paper.options)
    again.train(quiet=True)
    write_results(paper.options.out)
    assert (paper.options.out / "results.md").read_text() == before
    assert (paper.results / "options.json").stat().st_mtime_ns == kept.st_mtime_ns


def test_runs_on_other_data_are_refused_whatever_is_trained_next(finished, data, tmp_path):
    paper, _ = finished
    shutil.copytree(data, tmp_path / "data")
    with (tmp_path / "data" / "sts-dev.csv").open("a") as file:
        file.write("99\tmore\ta house\ta garden\t1.0\n")
    old = paper.options
    other = check_options(tmp_path / "data", old.out, old.encoder, ["other-reading"], 1.0)
    with pytest.raises(ComityError, match="the file of similarity dev has changed since this run"):
        Paper(other)


def test_the_printed_command_is_what_a_shell_takes():
    kept = Kept("my model", 1.5, ['train.device="cpu"'], True, {})
    words = [
        *["comity", "paper", "--data", "DIR", "--encoder", "my model", "--epochs", "1.5"],
        *["--seeds", "2", "--out", "OUT", "--drop-leaks", "--set", 'train.device="cpu"'],
    ]
    assert [shlex.split(c) for c in _commands(kept, {"row": {0: Path(), 2: Path()}})] == [words]
    kept = replace(kept, calls=[Call(TABLES, 2), Call(("1", "figure"), 5)])
    other = [*words[:9], "5", "--out", "OUT", "--table", "1", "figure", *words[12:]]
    assert [shlex.split(command) for command in _commands(kept, {})] == [words, other]


# --- slim runs ------------------------------------------------------------------------------------


def test_a_slim_run_has_no_weights_no_texts_and_no_paths(finished, data):
    paper, _ = finished
    slim = sorted(path for path in paper.results.rglob("*") if path.is_file())
    assert not [path for path in slim if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in slim) < 20_000 * len(paper.series.runs)
    texts = {line.split("\t")[2] for line in (data / "sts-dev.csv").read_text().splitlines()[1:]}
    for path in slim:
        content = path.read_text(encoding="utf-8")
        assert not any(text in content for text in texts)
        if path.name == "run.json":
            assert str(data) not in content


def test_a_slim_run_has_the_scores_and_predictions_of_its_run(finished):
    paper, _ = finished
    run, slim = (RunDirectory.open(f / "table3-surgery-seed1") for f in (paper.runs, paper.results))
    assert slim.best() == run.best()
    assert slim.recipe() == run.recipe()
    for task in ("sentiment", "similarity"):
        mine, whole = (kept_predictions(directory, task) for directory in (slim, run))
        assert mine.gold.tolist() == whole.gold.tolist()
        assert mine.predicted.tolist() == whole.predicted.tolist()
    compared = [compare([f / "table1-base-seed0", f / "table3-surgery-seed0"])
                for f in (paper.runs, paper.results)]  # fmt: skip
    values = [[[e.value for e in task.entries] for task in found.tasks] for found in compared]
    assert values[0] == values[1]


def test_the_page_is_made_again_from_the_slim_runs_alone(finished, tmp_path, capsys):
    paper, _ = finished
    shutil.copytree(paper.results, tmp_path / "results")
    assert main(["paper", "--from", str(tmp_path / "results"), "--out", str(tmp_path)]) == 0
    text = (paper.options.out / "results.md").read_text()
    assert capsys.readouterr().out == text
    for name in ("results.md", "results.json"):
        assert (tmp_path / name).read_bytes() == (paper.options.out / name).read_bytes()


def test_a_page_of_unfinished_runs_says_what_was_asked_for(finished, tmp_path, capsys):
    results = shutil.copytree(finished[0].results, tmp_path / "results")
    for run in results.glob("*-seed1"):
        shutil.rmtree(run)
    assert main(["paper", "--from", str(results), "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == {"asked": 25, "finished": 14}  # Table 2 has one seed
    assert found["commands"][0].endswith(" --seeds 2 --out OUT")
    assert "Finished: 14 of 25 runs." in (tmp_path / "results.md").read_text()
    # Options of an earlier version do not say it.
    assert "Finished:" not in page({**found, "runs": {"asked": None, "finished": 14}})


def test_later_calls_add_to_what_was_asked_for(finished):
    old, own = finished[0].options, Call(TABLES, 2)
    options = check_options(old.data, old.out, old.encoder, ["1"], 1.0, seeds=3)
    kept = Paper(options).kept
    assert kept.calls == [own, Call(("1",), 3)]
    assert len(kept.asked()) == 25 + 4
    for calls, expected in (
        ([Call(("1",), 2)], [own]),
        ([Call(TABLES, 3)], [Call(TABLES, 3)]),
        ([Call(("figure",), 2)], [own]),
        ([Call(("other-reading",), 1)], [own, Call(("other-reading",), 1)]),
    ):
        assert replace(kept, calls=calls).after(finished[0].kept).calls == expected


@pytest.mark.parametrize(
    "option", ["--seeds 3", "--epochs 3", "--encoder minilm", "--table 1", "--drop-leaks"]
)
def test_an_option_of_training_is_an_error_if_nothing_is_trained(
    finished, tmp_path, capsys, option
):
    results, out = str(finished[0].results), str(tmp_path / "out")
    assert main(["paper", "--from", results, "--out", out, *option.split()]) == 2
    assert f"{option.split()[0]}: has no effect without --data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_slim_run_cannot_predict_and_says_why(finished, data, capsys):
    run = next(path for path in sorted(finished[0].results.iterdir()) if path.is_dir())
    arguments = ["--input", data / "ids-sst-dev.csv", "--output", data / "out.csv"]
    assert main(["predict", str(run), "--task", "sentiment", *map(str, arguments)]) == 2
    assert f"{run}: is a slim copy without weights" in capsys.readouterr().err


def test_the_page_is_not_written_among_the_slim_runs(finished, tmp_path, capsys):
    results = shutil.copytree(finished[0].results, tmp_path / "results")
    before = sorted(results.iterdir())
    assert main(["paper", "--from", str(results), "--out", str(results)]) == 2
    assert "--out is the folder of the slim runs" in capsys.readouterr().err
    assert sorted(results.iterdir()) == before


def test_slim_runs_count_as_finished(finished, data, tmp_path, monkeypatch):
    paper, results = finished
    shutil.copytree(paper.results, tmp_path / "results")
    shutil.rmtree(tmp_path / "results" / "table2-lr-1e-5-seed0")
    old = paper.options
    options = check_options(
        data, tmp_path / "out", old.encoder, epochs=1.0, seeds=2, earlier=tmp_path / "results"
    )
    again = Paper(options)
    assert [run.name for run in again.series.unfinished()] == ["table2-lr-1e-5-seed0"]
    again.train(quiet=True)
    assert [path.name for path in again.runs.iterdir()] == ["table2-lr-1e-5-seed0"]
    assert write_results(options.out)["rows"] == results["rows"]


def test_slim_runs_of_other_data_or_options_are_refused(finished, data, tmp_path):
    paper, _ = finished
    old = paper.options
    with pytest.raises(ComityError, match="--epochs is 1 there and 2 here"):
        check_options(data, tmp_path / "out", old.encoder, epochs=2.0, earlier=paper.results)
    shutil.copytree(data, tmp_path / "data")
    with (tmp_path / "data" / "sts-dev.csv").open("a") as file:
        file.write("99\tmore\ta house\ta garden\t1.0\n")
    options = check_options(
        tmp_path / "data", tmp_path / "out", old.encoder, epochs=1.0, earlier=paper.results
    )
    with pytest.raises(ComityError, match="the file of similarity dev has changed since this run"):
        Paper(options)


@pytest.mark.parametrize("folder", ["none", "data"])
def test_a_folder_without_results_is_one_sentence(folder, data, tmp_path, capsys):
    source = data if folder == "data" else tmp_path / folder
    assert main(["paper", "--from", str(source), "--out", str(tmp_path / "out")]) == 2
    assert "name the folder results/ that comity paper wrote" in capsys.readouterr().err
    assert main(["paper", "--out", str(tmp_path / "out")]) == 2
    assert "--data is missing" in capsys.readouterr().err


def test_an_interrupted_run_resumes_where_it_stopped(
    finished, data, tmp_path, tiny_checkpoint, monkeypatch
):
    options = check_options(data, tmp_path / "out", str(tiny_checkpoint), ["3"], 1.0, seeds=1)
    evaluations = []

    def stop(self, event):
        evaluations.append(event)
        if len(evaluations) == 4:  # in the second run: each has two stages with one evaluation each
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SeriesDisplay, "evaluated", stop)
        arguments = ["--data", data, "--encoder", tiny_checkpoint, "--out", options.out]
        arguments += ["--table", 3, "--epochs", 1, "--seeds", 1, "--quiet"]
        assert main(["paper", *map(str, arguments)]) == 130
    written = (options.out / "results.md").read_text()
    assert written.count("table3-in-domain-seed0") == 1
    assert "--seeds 1 --out OUT --table 3\n\nFinished: 1 of 4 runs.\n" in written
    runs = tmp_path / "out" / "runs"
    assert is_finished(runs / "table3-in-domain-seed0")
    kept = (runs / "table3-in-domain-seed0" / "metrics.jsonl").read_bytes()
    assert list((runs / "table3-surgery-seed0").glob("checkpoint-*"))
    paper = Paper(options)
    paper.train(quiet=True)
    assert (runs / "table3-in-domain-seed0" / "metrics.jsonl").read_bytes() == kept
    # The best models are those of an uninterrupted run.
    whole, _ = finished
    for name in ("table3-surgery-seed0", "table3-contrastive-pair-seed0"):
        assert RunDirectory(runs / name).best() == RunDirectory(whole.runs / name).best()
    results = write_results(options.out)
    verdicts = {claim["claim"]: claim["verdict"] for claim in results["claims"]}
    # It needs Table 1.
    assert verdicts["the shared model beats in-domain training on sentiment"] == "not run"
    assert verdicts["surgery beats in-domain training on sentiment"] == "one seed"


def test_the_plan_of_the_papers_own_setting(data, tmp_path, tiny_checkpoint):
    options = check_options(data, tmp_path / "out", str(tiny_checkpoint))
    assert options.epochs == 3
    paper = Paper(options)
    plan = paper.plan()
    assert {run.state for run in plan.runs} == {"to train"}
    assert not (tmp_path / "out").exists()
    trains = [run.recipe.train for run in paper.series.runs]
    assert {train.batch_size for train in trains} == {8}
    assert {train.lr for train in trains} == {8e-6, 1e-5, 2e-5}


# --- errors of the user ---------------------------------------------------------------------------


def test_an_unknown_table_is_one_sentence():
    with pytest.raises(ComityError, match=r'unknown table "4".*choose from 1, 2, 3, figure'):
        check_tables(["4"])
    assert check_tables(["3", "1"]) == ("1", "3")


def test_a_missing_data_file_is_named(data, tmp_path, tiny_checkpoint):
    with pytest.raises(ComityError, match=r"ids-sst-train\.csv"):
        Paper(check_options(tmp_path / "none", tmp_path / "out", str(tiny_checkpoint)))
    assert not (tmp_path / "out").exists()


def test_a_wrong_encoder_is_one_sentence(data, tmp_path):
    with pytest.raises(ComityError, match="no-such-folder") as caught:
        Paper(check_options(data, tmp_path / "out", "./no-such-folder"))
    assert len(caught.value.messages) == 1


def test_a_folder_made_with_other_options_is_refused(finished):
    paper, _ = finished
    old = paper.options
    with pytest.raises(ComityError, match="--epochs is 1 there and 2 here"):
        check_options(old.data, old.out, old.encoder, epochs=2.0)
    with pytest.raises(ComityError, match=r"--encoder is .* there and minilm here"):
        check_options(old.data, old.out, "minilm", epochs=1.0)
    with pytest.raises(ComityError, match="was not made by comity paper"):
        check_options(old.data, old.data, old.encoder)
    with pytest.raises(ComityError, match="--drop-leaks is not set there and true here"):
        check_options(old.data, old.out, old.encoder, epochs=1.0, drop_leaks=True)
    kept = json.loads((old.out / "results" / "options.json").read_text())
    assert kept["data"]["sentiment"] == {"train": 40, "dev": 15, "left_out": 0}


def test_a_file_for_a_folder_is_one_sentence(data):
    with pytest.raises(ComityError, match=r"sts-dev\.csv is a file; name a folder"):
        check_options(data, data / "sts-dev.csv")


@pytest.mark.parametrize("key", ["train.lr", "train.seed", "encoder.name", "tasks.similarity"])
def test_a_key_that_a_row_sets_cannot_be_overridden(data, tmp_path, tiny_checkpoint, key):
    options = check_options(
        data, tmp_path / "out", str(tiny_checkpoint), ["2"], overrides=[f"{key}=1e-3"]
    )
    with pytest.raises(ComityError, match=key):
        Paper(options)


@pytest.mark.parametrize(
    "override",
    [
        "train.task_sampling=round-robin",
        "train.balancer=pcgrad",
        "train.select_by=similarity",
        "stages=[]",
        "tasks.sentiment.metric=macro_f1",
        "tasks.similarity.kind=regression",
        "tasks.paraphrase.eval_only=true",
    ],
)
def test_a_key_that_defines_a_row_cannot_be_overridden(override):
    rows = all_rows(Recipe.load(setting("minilm")), COUNTS, 2.0)
    (base,) = (row for row in rows if row.name == "table1-base")
    with pytest.raises(ComityError, match=re.escape(override)):
        row_recipe("minilm", base, 0, [override])
    assert row_recipe("minilm", base, 0, ["tasks.sentiment.head_dropout=0.1"])


def test_the_error_of_a_fixed_key_says_what_sets_it():
    (row,) = (r for r in all_rows(Recipe.load(setting("minilm")), COUNTS, 2.0)
              if r.name == "table2-lr-1e-5")  # fmt: skip
    for override, why in (
        ("train.balancer=sum", "train.balancer defines the rows of the paper; leave it out"),
        ("train.seed=1", "train.seed is set by comity paper; leave it out"),
        ("train.lr=1", f'train.lr is set by the row "{row.label}"; leave it out, or name other'),
    ):
        with pytest.raises(ComityError, match=re.escape(f'--set "{override}": {why}')):
            row_recipe("minilm", row, 0, [override])


def test_the_pre_training_data_of_a_known_encoder_is_named():
    assert "Quora" in pretrained_on("minilm")
    assert "Quora" in pretrained_on("sentence-transformers/all-MiniLM-L6-v2")
    assert "BooksCorpus" in pretrained_on("google-bert/bert-base-uncased")
    assert "model card" in pretrained_on("./mine")
