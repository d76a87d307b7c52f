"""Data sets of the Hugging Face hub: names, loading without a network, and their rows."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from tests.helpers import mood_rows

from comity import ComityError, Recipe, load, train
from comity.errors import ErrorList
from comity.tables.hub import HubName, HubPath
from comity.tables.parts import table_path
from comity.tables.reader import open_table, table_digest
from comity.tables.rows import NoValue, TableFormat

datasets = pytest.importorskip("datasets")

COMMIT = "0123abcd" * 5
COLUMNS = ["text", "label", "tags", "score", "about.year"]


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of `datasets` is empty."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub-cache")
    return tmp_path / "hub-cache"


def moods(start: int, count: int) -> Any:
    """Rows with a label that has names."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "mood": datasets.ClassLabel(names=["down", "up"])}
    )
    rows = [{"text": text, "mood": mood} for text, mood in mood_rows(start, count)]
    return datasets.Dataset.from_list(rows, features=features)


def many_types() -> Any:
    features = {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["no", "yes", "perhaps"]),
        "tags": datasets.List(datasets.ClassLabel(names=["red", "blue"])),
        "score": datasets.Value("float32"),
        "about": {"year": datasets.Value("int64")},
    }
    rows = {
        "text": ["one", "", None, "four"],
        "label": [1, 0, -1, 2],
        "tags": [[0, 1], [], [1], [0]],
        "score": [0.1, None, 2.0, -1.5],
        "about": [{"year": 1}, {"year": None}, {"year": 3}, {"year": 4}],
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def rows_of(path: Path, columns: list[str]) -> list[Any]:
    found = ErrorList()
    rows = list(open_table(path, TableFormat(), columns).rows(found))
    found.check()
    return rows


def error_of(name: str, folder: Path = Path()) -> str:
    with pytest.raises(ComityError) as caught:
        table_path(name, folder)
    (message,) = caught.value.messages
    assert "\n" not in message
    return message.removeprefix(f"{name}: ")


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "repository", "config", "revision", "split"),
    [
        ("owner/name:train", "owner/name", None, None, "train"),
        ("name:train", "name", None, None, "train"),
        ("owner/name/a b:train", "owner/name", "a b", None, "train"),
        ("owner/name@v1.0:train[:10%]", "owner/name", None, "v1.0", "train[:10%]"),
        ("owner/na-me@main/config:dev", "owner/na-me", "config", "main", "dev"),
        ("o/n@refs/convert/parquet/c:dev", "o/n", "c", "refs/convert/parquet", "dev"),
    ],
)
def test_the_parts_of_a_name(name, repository, config, revision, split):
    found = HubName.parse(f"hf://{name}")
    assert (found.repository, found.config, found.revision) == (repository, config, revision)
    assert (found.split, found.folder) == (split, "")


def test_the_parts_of_a_folder():
    for folder in ("./a/b", "/a/b", "~/a", "../a"):
        found = HubName.parse(f"hf://{folder}:train")
        assert (found.folder, found.split, found.repository) == (folder, "train", "")


@pytest.mark.parametrize("name", ["", "owner/name", "owner/name:", "a b/c:train", "a/b/c/d:train"])
def test_names_of_another_form(name, tmp_path):
    task = {"kind": "classification", "train": f"hf://{name}", "dev": 0.1, "text": "t"}
    with pytest.raises(ComityError) as caught:
        Recipe.from_dict({"tasks": {"t": {**task, "label": "l"}}})
    (message,) = caught.value.messages
    assert message == (
        f'recipe: tasks.t.train: "hf://{name}" names no data set and split; write '
        "hf://OWNER/NAME:SPLIT, hf://OWNER/NAME/CONFIG:SPLIT or hf://./FOLDER:SPLIT"
    )


def test_keys_on_text_files_have_no_effect():
    task = {"kind": "classification", "train": "hf://a/b:train", "dev": "hf://a/b:dev"}
    columns = {"text": "t", "label": "l", "delimiter": ",", "encoding": "utf-8"}
    with pytest.raises(ComityError) as caught:
        Recipe.from_dict({"tasks": {"t": {**task, **columns}}})
    assert [message.split(": ")[1] for message in caught.value.messages] == [
        "tasks.t.delimiter",
        "tasks.t.encoding",
    ]


# --- folders --------------------------------------------------------------------------------------


def test_rows_of_a_saved_data_set(tmp_path):
    many_types().save_to_disk(tmp_path / "saved")
    path = table_path("hf://./saved:train", tmp_path)
    assert str(path) == "hf://./saved:train"
    rows = rows_of(path, COLUMNS)
    assert [row.line for row in rows] == [0, 1, 2, 3]
    assert [row.values for row in rows] == [
        ("one", "yes", ["red", "blue"], "0.1", "1"),
        ("", "no", [], None, None),
        (None, None, ["blue"], "2.0", "3"),
        ("four", "perhaps", ["red"], "-1.5", "4"),
    ]
    assert open_table(path, TableFormat()).columns == COLUMNS


def test_rows_of_a_view_and_of_data_files(tmp_path):
    """A saved selection has its own order; a folder of Parquet files keeps the names of labels."""
    many_types().select([3, 0]).save_to_disk(tmp_path / "view")
    values = [row.values for row in rows_of(table_path("hf://./view:train", tmp_path), COLUMNS)]
    assert [value[1] for value in values] == ["perhaps", "yes"]
    (tmp_path / "files").mkdir()
    many_types().to_parquet(tmp_path / "files" / "validation.parquet")
    path = table_path("hf://./files:validation", tmp_path)
    assert [row.values[1] for row in rows_of(path, COLUMNS)] == ["yes", "no", None, "perhaps"]


def test_a_label_without_a_name_has_no_value(tmp_path):
    saved = many_types()
    wrong = saved.cast_column("label", datasets.Value("int64"))
    wrong = wrong.map(lambda row: {"label": 7})
    wrong.info.features["label"] = saved.features["label"]
    wrong.save_to_disk(tmp_path / "wrong")
    path = table_path("hf://./wrong:train", tmp_path)
    (value,) = rows_of(path, ["label"])[0].values
    assert value == NoValue("the label 7 has no name in the data set")


def test_the_digest_is_that_of_the_rows(tmp_path):
    def digest(data: Any) -> str:
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
        data.save_to_disk(tmp_path / "d")
        return table_digest(table_path("hf://./d:train", tmp_path))

    data = many_types()
    same = datasets.concatenate_datasets([data.select([0, 1]), data.select([2, 3])])
    names = datasets.ClassLabel(names=["no", "yes", "maybe"])
    images = data.add_column("image", [b"a", b"b", b"c", b"d"])
    assert digest(data) == digest(same) == digest(images)
    others = [data.select([0]), data.rename_column("text", "t"), data.cast_column("label", names)]
    assert len({digest(data), *map(digest, others)}) == 4


def test_what_is_not_there(tmp_path):
    saved = datasets.DatasetDict({"train": moods(0, 4), "validation": moods(4, 2)})
    saved.save_to_disk(tmp_path / "moods")
    assert error_of("hf://./moods:trian", tmp_path) == (
        'no split "trian" (the splits are "train", "validation"); did you mean "train"?'
    )
    assert error_of("hf://./mood:train", tmp_path) == (
        f"there is no folder {tmp_path}/mood; check the path"
    )
    (tmp_path / "empty").mkdir()
    assert error_of("hf://./empty:train", tmp_path).startswith("cannot be loaded (")
    (tmp_path / "moods" / "train" / "state.json").write_text("{")
    assert error_of("hf://./moods:train", tmp_path).startswith("cannot be read (")


def test_no_code_of_a_folder_is_run(tmp_path):
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "scripts are no longer supported" in error_of("hf://./script:train", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ComityError) as caught:
        table_path("hf://owner/name:train", tmp_path)
    assert caught.value.messages == [
        "data sets of the Hugging Face hub need datasets, which is not installed; run "
        'pip install "comity[hub]"'
    ]


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path: Path, hub_cache: Path) -> Path:
    """The data set owner/name in the cache, as `datasets` leaves it after a download."""
    folder = tmp_path / "name"
    folder.mkdir()
    moods(0, 36).to_parquet(folder / "train.parquet")
    moods(1000, 12).to_parquet(folder / "validation.parquet")
    builder = datasets.load_dataset_builder(str(folder))
    builder.download_and_prepare()
    (version,) = (hub_cache / "name" / "default").iterdir()
    target = hub_cache / "owner___name" / "default" / version.name / COMMIT
    target.parent.mkdir(parents=True)
    shutil.move(version / builder.hash, target)
    shutil.rmtree(hub_cache / "name")
    return target


class FakeHub:
    """Answers with a commit, or an error."""

    def __init__(self, answer: Any):
        self.answer = answer

    def dataset_info(self, *_: Any, **__: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(sha=self.answer)


def test_a_data_set_in_the_cache_is_read_without_a_network(cached):
    path = table_path("hf://owner/name:train", Path())
    assert isinstance(path, HubPath)
    assert path.loaded.revision == COMMIT
    assert [row.values for row in rows_of(path, ["text", "mood"])] == mood_rows(0, 36)
    assert len(rows_of(table_path(f"hf://owner/name@{COMMIT}:train[:25%]", Path()), ["text"])) == 9
    assert error_of("hf://owner/other:train").startswith("the data set is not in the cache, and")


def test_no_other_revision_than_the_one_named_is_read(cached):
    assert error_of("hf://owner/name@v2:train") == (
        f"the Hugging Face hub cannot be reached, and the cached copy is of the commit {COMMIT}; "
        "go online, or name that commit"
    )
    assert "name that commit" in error_of(f"hf://owner/name@{'f' * 40}:train")


def test_the_commit_is_the_one_that_the_hub_gives_for_a_revision(cached, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: FakeHub(COMMIT))
    asked = []
    real = datasets.load_dataset_builder

    def asking(*words: Any, revision: str | None) -> Any:
        asked.append(revision)
        return real(*words, revision=revision)

    monkeypatch.setattr(datasets, "load_dataset_builder", asking)
    assert len(rows_of(table_path("hf://owner/name@v2:train", Path()), ["text"])) == 36
    assert asked == [COMMIT]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("GatedRepoError", "is gated; request access on its page"),
        ("RepositoryNotFoundError", "is not on the Hugging Face hub, or it is private"),
        ("RevisionNotFoundError", 'has no revision "v2"; correct it'),
        ("HFValidationError", "is no valid name of a data set"),
    ],
)
def test_what_the_hub_answers(monkeypatch, kind, sentence):
    error_type = getattr(errors, kind)
    answer = error_type.__new__(error_type)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: FakeHub(answer))
    assert error_of("hf://owner/name@v2:train").startswith(f"the data set owner/name {sentence}")


def test_a_folder_of_the_same_name_is_not_read(cached, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    message = error_of("hf://owner/name:train")
    assert message.startswith("the working directory has a folder owner/name; write hf://./owner/")


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture
def job(cached, tiny_checkpoint) -> dict[str, Any]:
    task = {"kind": "classification", "text": "text", "label": "mood"}
    files = {"train": "hf://owner/name:train", "dev": "hf://owner/name:validation"}
    settings = {"steps": 1, "batch_size": 8, "precision": "float32"}
    encoder = {"name": str(tiny_checkpoint)}
    return {"encoder": encoder, "train": settings, "tasks": {"mood": {**task, **files}}}


def test_a_run_records_the_commit_and_is_evaluated_and_extended(job, tmp_path):
    run = train(job, out=tmp_path / "run", quiet=True)
    inputs = json.loads((run.path / "run.json").read_text())["inputs"]
    facts = inputs["hub"]["mood dev"]
    assert (facts["name"], facts["revision"]) == ("hf://owner/name:validation", COMMIT)
    assert inputs["hub"]["mood train"]["fingerprint"] != facts["fingerprint"]
    assert inputs["files"].keys() == {"mood train", "mood dev"}
    assert inputs["in_memory"] == []
    model = load(run)
    assert run.facts().tasks["mood"].head.target.classes == ("down", "up")
    own, named = model.evaluate("mood"), model.evaluate("mood", "hf://owner/name:validation")
    assert own.to_dict() == named.to_dict()
    longer = train(job, out=run.path, resume=True, extend={"steps": 1}, quiet=True)
    assert longer.facts().steps == 2


def test_errors_come_with_those_of_files_and_name_the_row(job, tmp_path):
    job["tasks"]["mood"]["classes"] = ["up", "sideways"]
    job["tasks"]["other"] = job["tasks"]["mood"] | {"train": "none.csv", "classes": ["down", "up"]}
    job["tasks"]["third"] = job["tasks"]["mood"] | {"train": "hf://owner/none:train"}
    with pytest.raises(ComityError) as caught:
        train(job, out=tmp_path / "run", quiet=True)
    messages = "\n".join(caught.value.messages)
    assert 'hf://owner/name:train, row 3: the label "down" is not a class' in messages
    assert "none.csv: there is no such file" in messages
    assert "hf://owner/none:train: the data set is not in the cache" in messages


def test_a_changed_data_set_is_noticed(job, tmp_path, cached):
    run = train(job, out=tmp_path / "run", quiet=True)
    moods(0, 30).to_parquet(tmp_path / "name" / "train.parquet")
    builder = datasets.load_dataset_builder(str(tmp_path / "name"), cache_dir=tmp_path / "new")
    builder.download_and_prepare()
    shutil.rmtree(cached)
    shutil.move(next((tmp_path / "new").rglob(builder.hash)), cached)
    with pytest.raises(ComityError, match="hf://owner/name:train: has changed since the run was"):
        train(job, out=run.path, resume=True, extend={"steps": 1}, quiet=True)
