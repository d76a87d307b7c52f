"""Model cards: their metadata, their numbers, and the code in them."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from tests.export.conftest import LABELS, recipe

from comity import train
from comity.evaluation.predictions import kept_predictions
from comity.export import card
from comity.export.export import export
from comity.runs.entries import EvaluationEntry

TARGETS = ("comity", "transformers", "sentence-transformers")


def front(path: Path) -> dict:
    """The metadata of a card, as a YAML parser reads it."""
    opening, metadata, _ = path.read_text(encoding="utf-8").split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(metadata)


@pytest.mark.parametrize("target", TARGETS)
def test_every_folder_has_a_card_that_the_hub_can_read(target, exported):
    found = exported(target)
    folders = {Path(found.out), *(Path(found.out) / part.folder for part in found.parts)}
    for folder in folders:
        metadata = ModelCard.load(folder / "README.md").data.to_dict()
        assert metadata["library_name"] == target
        assert "comity" in metadata["tags"]
        assert metadata["pipeline_tag"]
        assert "license" not in metadata  # the encoder's is not recorded
        assert front(folder / "README.md") == metadata


def test_the_scores_are_those_of_the_run(exported, run, data):
    metadata = front(Path(exported("comity").out) / "README.md")
    (index,) = metadata["model-index"]
    results = {result["dataset"]["name"]: result for result in index["results"]}
    assert results.keys() == {f"dev set of {task}" for task in run.facts().tasks} - {
        "dev set of never"
    }
    kept = [e for e in run.entries(EvaluationEntry) if e.step == run.best().step][-1]
    for task in ("two", "length", "tags", "cosine"):
        result = results[f"dev set of {task}"]
        metrics = {metric["name"]: metric["value"] for metric in result["metrics"]}
        recorded = kept.tasks[task]
        expected = {recorded.metric: recorded.value, **recorded.others}
        assert metrics == {
            name: pytest.approx(value, abs=1e-6)
            for name, value in expected.items()
            if value is not None
        }
        assert result["dataset"]["args"]["sha256"] == run.facts().inputs.files[f"{task} dev"]
    (accuracy,) = [m for m in results["dev set of two"]["metrics"] if m["name"] == "accuracy"]
    low, high = accuracy["args"]["interval"]
    assert low <= accuracy["value"] <= high
    text = (Path(exported("comity").out) / "README.md").read_text(encoding="utf-8")
    rows = len(kept_predictions(run, "two").gold)
    value = run.best().tasks["two"].value
    assert f"| two | accuracy | {value:.4f} | {low:.4f} to {high:.4f} | {rows} |" in text
    assert "computed by Comity in bf16; in float32 they can differ slightly" in text
    for digest in run.facts().inputs.files.values():
        assert f"`{digest}`" in text


def test_labels_cannot_break_a_card(exported):
    folder = Path(exported("transformers").out) / "tasks" / "odd"
    text = (folder / "README.md").read_text(encoding="utf-8")
    for label in LABELS:
        assert label not in text.replace("not: good", "").replace('so-so, "perhaps"', "")
    assert r"\<b\>\*very\*\|good\</b\> # {x}" in text
    assert "<b>" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| odd | classification")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 6  # five cells
    front(folder / "README.md")


@pytest.mark.parametrize("target", TARGETS)
def test_the_code_in_a_card_runs(target, exported, tmp_path):
    """And gives what Comity gives, which the tests of the targets compare."""
    folder = Path(exported(target).out)
    text = (folder / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(exported(target).parts)
    assert all('"FOLDER' in block for block in blocks)
    script = tmp_path / "card.py"
    script.write_text("\n".join(blocks).replace('"FOLDER', f'"{folder}'), encoding="utf-8")
    runpy.run_path(str(script))


@pytest.mark.parametrize("target", TARGETS)
def test_no_file_has_a_path_or_a_text_of_the_user(target, exported, data, run, tiny_checkpoint):
    folder = Path(exported(target).out)
    files = [file for file in folder.rglob("*") if file.is_file()]
    everything = b"\n".join(file.read_bytes() for file in files)
    for secret in (data, data.name, run.path, run.path.parent.name, tiny_checkpoint, Path.home()):
        assert str(secret).encode() not in everything
    for line in (data / "texts-dev.csv").read_text(encoding="utf-8").splitlines()[1:]:
        assert line.partition(",")[0].encode() not in everything


def test_minilm_is_named_with_its_training_data_and_licence(
    exported, run, tmp_path, monkeypatch, tiny_checkpoint, data
):
    """MiniLM is known by the SHA-256 of its weights, wherever they were found."""
    text = (Path(exported("comity").out) / "README.md").read_text(encoding="utf-8")
    assert "What it was pre-trained on, and its licence, are not recorded." in text
    small = train(recipe(tiny_checkpoint, "two", epochs=0.1), data, tmp_path / "run", quiet=True)
    digest = small.facts().inputs.encoder.sha256["model.safetensors"]
    monkeypatch.setattr(card, "MINILM_SHA256", digest)
    export(small.path, "comity", tmp_path / "out")
    metadata = front(tmp_path / "out" / "README.md")
    assert metadata["license"] == "apache-2.0"
    assert metadata["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "S2ORC" in text
    assert "not recorded." not in text.partition("## The encoder")[2].partition("## Intended")[0]


def test_stages_are_listed_without_the_folders_of_their_data(data, tmp_path, tiny_checkpoint):
    values: dict[str, Any] = recipe(tiny_checkpoint, "two", "same") | {
        "stages": [
            {"steps": 1, "train_on": "masked-words", "lr": 1e-4},
            {"epochs": 1, "tasks": ["two"], "data": {"two": str(data / "texts-dev.csv")}},
            {"epochs": 0.5, "balancer": "pcgrad"},
        ]
    }
    del values["train"]["epochs"]
    run = train(values, data, tmp_path / "run", quiet=True)
    export(run.path, "comity", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    lines = text.partition("## Training\n\n")[2].splitlines()
    assert lines[:3] == [
        "- masked words of two, same: 1 step, round-robin sampling, balancer sum, "
        "learning rate 0.0001",
        "- two: 1 epoch, round-robin sampling, balancer sum, learning rate 0.003",
        "- two, same: 0.5 epochs, round-robin sampling, balancer pcgrad, learning rate 0.003",
    ]
    assert "| two | texts-dev.csv | `" in text
    assert str(data) not in text


def test_what_the_hub_shows_first(exported):
    def tag(target: str, part: str = "") -> str:
        return front(Path(exported(target).out) / part / "README.md")["pipeline_tag"]

    assert tag("comity") == "text-classification"
    assert tag("transformers", "encoder") == "feature-extraction"
    assert tag("transformers", "tasks/score") == "text-classification"
    assert tag("sentence-transformers", "embeddings/cosine") == "sentence-similarity"
    assert tag("sentence-transformers", "cross-encoders/score") == "text-ranking"
    assert tag("sentence-transformers", "cross-encoders/same") == "text-classification"
    # The embeddings of a task are not its head.
    ranked = front(
        Path(exported("sentence-transformers").out) / "embeddings" / "ranked" / "README.md"
    )
    assert "model-index" not in ranked


def test_the_card_says_what_is_not_in_the_folder(exported):
    text = (Path(exported("transformers").out) / "README.md").read_text(encoding="utf-8")
    assert "| interaction | the head reads two texts that are encoded separately |" in text
