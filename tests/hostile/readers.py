"""Every reader of files from others, with the valid files that the tests break."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.parquet
import pytest

from comity import load, train
from comity.data.soft_labels import read_soft_labels, write_soft_labels
from comity.errors import ComityError, ErrorList
from comity.evaluation.predictions import kept_predictions
from comity.files import MANIFEST, files_in, read_record, sha256_of, write_record
from comity.model.checkpoint import load_encoder, masked_lm_tensors
from comity.recipe.recipe import Recipe
from comity.runs.directory import RunDirectory
from comity.serve.bodies import EmbeddingsBody, PredictBody, TextsBody, parse
from comity.serve.limits import Limits, RequestError
from comity.tables.hub import HubName
from comity.tables.reader import open_table
from comity.tables.rows import TableFormat
from comity.training.interrupts import Interrupted
from tests.conftest import write_encoder
from tests.helpers import signal_after_step, three_soft_labels, two_tasks, write_two_tasks
from tests.hostile.damage import broken, suffix_of


@dataclass(frozen=True)
class Reader:
    """A file that Comity reads: `read` is given the folder that `write` has filled."""

    file: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    seal: Callable[[Path], None] | None = None  # makes the digests in the folder fit again

    def try_broken(self, folder: Path, random: Random) -> None:
        """Break the file, read it, and restore it.

        Raises:
            Exception: whatever the reader raised, unless it is a ComityError.
        """
        content = (folder / self.file).read_bytes()
        self.try_content(folder, broken(content, suffix_of(self.file), random))

    def try_content(self, folder: Path, content: bytes) -> None:
        """As `try_broken`, with other content in the file."""
        path = folder / self.file
        whole = path.read_bytes()
        digests = {file: file.read_bytes() for file in folder.rglob(MANIFEST)}
        try:
            path.write_bytes(content)
            if self.seal is not None:
                self.seal(path)
            self.read(folder)
        except (ComityError, RequestError):
            pass
        finally:
            path.write_bytes(whole)
            for file, text in digests.items():
                file.write_bytes(text)


# --- tables and recipes ---------------------------------------------------------------------------

ROWS = [
    {"text": "the dog runs", "label": "good", "n": 1},
    {"text": 'a "bad" film, long', "label": "bad", "n": 2.5},
    {"text": "caf\u00e9", "label": "good", "n": None},
]


def write_tables(folder: Path) -> None:
    """The same small table in each format."""
    lines = [json.dumps(row) for row in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "array.json").write_text(json.dumps(ROWS))
    text = 'text,label,n\nthe dog runs,good,1\n"a ""bad"" film, long",bad,2.5\ncaf\u00e9,good,\n'
    (folder / "rows.csv").write_text(text, encoding="utf-8")
    (folder / "rows.tsv").write_text("text\tlabel\nthe dog\tgood\na cat\tbad\n")
    (folder / "wide.csv").write_text(text, encoding="utf-16")
    rows = [{**row, "list": ["a", "b"], "in": {"a": "x"}} for row in ROWS]
    table = pyarrow.Table.from_pylist(rows)
    for name in ("snappy", "zstd", "none"):
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet", compression=name)


def _read_table(file: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        for lenient in (False, True):
            errors = ErrorList()
            table = open_table(folder / file, TableFormat(), ("text", "label"), lenient=lenient)
            assert table.names is not None and table.columns is not None
            list(table.rows(errors))
            list(table.whole_rows(errors))
            errors.check()

    return read


TABLES = [
    Reader(file, write_tables, _read_table(file))
    for file in (
        "rows.csv", "wide.csv", "rows.tsv", "rows.jsonl", "array.json",
        "snappy.parquet", "zstd.parquet", "none.parquet",
    )
]  # fmt: skip


def write_recipe(folder: Path) -> None:
    """A recipe of two tasks."""
    RunDirectory(folder).write_recipe(two_tasks(Path("encoder")))


RECIPES = [Reader("recipe.toml", write_recipe, lambda folder: Recipe.load(folder / "recipe.toml"))]


# --- checkpoints ----------------------------------------------------------------------------------


def write_old_checkpoint(folder: Path) -> None:
    """A checkpoint with vocab.txt, and the files of a sentence-transformers model."""
    write_encoder(folder)
    (folder / "special_tokens_map.json").write_text(json.dumps({"cls_token": "[CLS]"}))
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')


def write_new_checkpoint(folder: Path) -> None:
    """A checkpoint with tokenizer.json, and its weights in a shard with an index."""
    write_encoder(folder)
    loaded = load_encoder(str(folder))
    loaded.tokenizer.save(folder, 128)
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    with (folder / "model-1.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    names = [name for name in header if name != "__metadata__"]
    index = {"weight_map": dict.fromkeys(names, "model-1.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _read_checkpoint(folder: Path) -> None:
    loaded = load_encoder(str(folder))
    loaded.tokenizer.encode(["the dog runs", "caf\u00e9 \ud800", "a" * 500, ""])
    masked_lm_tensors(str(folder))


CHECKPOINTS = [
    *(
        Reader(file, write_old_checkpoint, _read_checkpoint)
        for file in (
            "config.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json",
            "modules.json", "1_Pooling/config.json", "model.safetensors",
        )
    ),
    *(
        Reader(file, write_new_checkpoint, _read_checkpoint)
        for file in ("tokenizer.json", "model.safetensors.index.json")
    ),
]  # fmt: skip


# --- runs and exported models ---------------------------------------------------------------------


def write_run(folder: Path) -> None:
    """A finished run."""
    data = folder.parent / f"{folder.name}-data"
    write_two_tasks(data)
    encoder = write_encoder(folder.parent / f"{folder.name}-encoder")
    recipe = two_tasks(encoder, tasks__mood__calibrate=True)
    run = train(recipe, data, folder / "run", quiet=True).path
    load(run, "cpu").save_pretrained(folder / "saved")
    for name, pattern in (("best", "best-*"), ("predictions", "predictions/*")):
        found = max(run.glob(pattern))
        (folder / name).symlink_to(found, target_is_directory=True)


def _seal_record(path: Path) -> None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            values.pop("sha256", None)
            write_record(path, values)
    except (ValueError, RecursionError):
        pass  # it is no record any more


def seal_manifest(path: Path) -> None:
    """Write the digest of a broken file to the manifest, or the comity.json, of its folder."""
    folder = path.parent.resolve()
    values = read_record(folder / MANIFEST)
    for file in files_in(folder):
        if file.name != MANIFEST:
            size = [file.stat().st_size, sha256_of(file)]
            values["files"][file.relative_to(folder).as_posix()] = size
    write_record(folder / MANIFEST, values)


def _seal_state(path: Path) -> None:
    """Write the digest of a record, and that of its file."""
    _seal_record(path)
    seal_manifest(path)


def _read_run(folder: Path) -> None:
    run = RunDirectory.open(folder / "run")
    run.metrics()
    run.data()
    run.status()
    recipe = run.recipe()
    for task in run.facts().tasks:
        kept_predictions(run, task)
    run.kept_evaluation()
    model = load(run, "cpu")
    task = model.tasks[0]
    model.predict(task, [("a dog", "a cat") if recipe.tasks[task].texts else "a dog"])


def write_stopped_run(folder: Path) -> None:
    """A run that was stopped after its second step, with the state of everything it can have."""
    data = folder.parent / f"{folder.name}-data"
    write_two_tasks(data)
    encoder = write_encoder(folder.parent / f"{folder.name}-encoder")
    recipe = two_tasks(
        encoder, train__average="ema", train__balancer="gradvac", train__conflict_every=1
    )
    with pytest.raises(Interrupted):
        train(recipe, data, folder / "run", quiet=True, on_event=signal_after_step(2))
    checkpoint = max((folder / "run").glob("checkpoint-*"))
    (folder / "checkpoint").symlink_to(checkpoint, target_is_directory=True)


def resume(folder: Path) -> None:
    """Resume a copy of the stopped run."""
    copy, data = folder / "copy", folder.parent / f"{folder.name}-data"
    shutil.copytree(folder / "run", copy)
    try:
        train(RunDirectory(copy).recipe(), data, copy, resume=True, quiet=True)
    finally:
        shutil.rmtree(copy)


def _read_saved(folder: Path) -> None:
    model = load(folder / "saved", "cpu")
    if "mood" in model.tasks:
        model.predict("mood", ["a dog"])


RUNS = [
    *(
        Reader(f"run/{name}", write_run, _read_run, _seal_record)
        for name in ("run.json", "best.json", "data.json", f"../best/{MANIFEST}")
    ),
    Reader("run/metrics.jsonl", write_run, _read_run),
    Reader("run/recipe.toml", write_run, _read_run),
    Reader("predictions/mood.csv", write_run, _read_run, seal_manifest),
    Reader("predictions/alike.csv", write_run, _read_run, seal_manifest),
    Reader("best/heads.safetensors", write_run, _read_run, seal_manifest),
    Reader("saved/comity.json", write_run, _read_saved, _seal_record),
    Reader("checkpoint/state.json", write_stopped_run, resume, _seal_state),
    Reader("checkpoint/state.safetensors", write_stopped_run, resume, seal_manifest),
]


# --- other files, and texts -----------------------------------------------------------------------


def write_labels(folder: Path) -> None:
    """Soft labels of three rows."""
    write_soft_labels(folder / "labels.safetensors", three_soft_labels())


def write_texts(folder: Path) -> None:
    """The body of a request, and the name of a data set."""
    (folder / "texts.json").write_text('{"texts": ["a dog", "a cat"]}')
    (folder / "pairs.json").write_text('{"pairs": [["a", "b"], ["c", "d"]], "tasks": ["mood"]}')
    (folder / "input.json").write_text('{"input": ["a"], "model": "comity", "user": 1}')
    (folder / "name").write_text("hf://owner/name@main#config:train")


def _parse_body(file: str, kind: type) -> Callable[[Path], object]:
    return lambda folder: parse((folder / file).read_bytes(), kind).rows(Limits())


OTHERS = [
    Reader(
        "labels.safetensors",
        write_labels,
        lambda folder: read_soft_labels(folder / "labels.safetensors"),
    ),
    Reader("texts.json", write_texts, _parse_body("texts.json", TextsBody)),
    Reader("pairs.json", write_texts, _parse_body("pairs.json", PredictBody)),
    Reader("input.json", write_texts, _parse_body("input.json", EmbeddingsBody)),
    Reader(
        "name",
        write_texts,
        lambda folder: HubName.parse((folder / "name").read_bytes().decode("utf-8", "replace")),
    ),
]

READERS = [*RECIPES, *TABLES, *CHECKPOINTS, *RUNS, *OTHERS]


@cache
def filled(write: Callable[[Path], object], parent: Path) -> Path:
    """A folder in `parent` with the files that `write` writes."""
    folder = parent / f"{write.__name__}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write(folder)
    return folder
