"""`comity push`, and models from the hub, against a local server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from tests.export import hub as fake
from tests.export.conftest import recipe

from comity import ComityError, Model, load, train
from comity.cli.main import main
from comity.export.export import export
from comity.export.push import push
from comity.runs.directory import RunDirectory


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[fake.Hub]:
    """The server, which this process takes for the hub."""
    with fake.running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        resolve = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", fake.TOKEN)
        yield server


@pytest.fixture(scope="module")
def run(data, tmp_path_factory, tiny_checkpoint) -> RunDirectory:
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(recipe(tiny_checkpoint, "two", "same", epochs=0.1), data, out, quiet=True)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "transformers"
    export(run.path, "transformers", out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_the_command_uploads_a_folder(folder):
    """As a user runs it: only the environment says where the hub is."""
    with fake.running() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": fake.TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [sys.executable, "-m", "comity", "push", str(folder), "me/model", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert done.stderr == ""  # progress is for terminals
    assert printed["repository"] == "me/model"
    assert printed["url"] == f"{hub.url}/me/model/commit/{fake.COMMIT}"
    assert hub.files == contents(folder)
    assert sorted(printed["files"]) == sorted(hub.files)
    assert len(hub.objects) == 3  # the weights of the encoder and of two tasks went to LFS
    assert hub.commits == ["main"]
    assert [created.get("visibility") for created in hub.created] == [None]


def test_a_run_is_uploaded_as_its_export_and_loads_from_the_hub(hub, run, pairs, capsys):
    assert main(["push", str(run.path), "me/model", "--private", "--revision", "a/branch"]) == 0
    assert "files uploaded: http://127.0.0.1" in capsys.readouterr().out
    assert hub.created == [{"name": "model", "organization": "me", "visibility": "private"}]
    assert hub.branches == ["a/branch"]
    assert hub.commits == ["a/branch"]
    assert {"comity.json", "heads.safetensors", "README.md"} <= hub.files.keys()
    assert not any("recipe" in name or "metrics" in name for name in hub.files)
    hub.files["evil.bin"] = b"pickle"
    model = Model.from_pretrained("me/model", revision="a/branch")
    assert np.array_equal(model.outputs("same", pairs), load(run).outputs("same", pairs))
    assert repr(model).startswith("<Model of me/model: ")
    downloaded = {path.name for path in Path(constants.HF_HUB_CACHE).rglob("*")}
    assert "heads.safetensors" in downloaded
    assert "evil.bin" not in downloaded


def test_a_name_alone_is_a_model_of_the_user(hub, folder):
    assert push(folder / "tasks" / "two", "two").repository == "me/two"
    assert hub.files == contents(folder / "tasks" / "two")


@pytest.mark.parametrize(
    ("refuse", "sentence"),
    [
        ({"/api/": 401}, "the hub does not accept the token; log in again"),
        ({"/api/repos": 403, "/api/models": 403}, "the token may not write there"),
        ({"/commit/": 500}, r"not uploaded \(the hub answered 500: no <b>way</b>\); try again"),
        ({"/preupload/": 404}, r"not uploaded \(the hub answered 404"),
        ({"/lfs/": 400}, r"not uploaded \(the hub answered 400"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(hub, folder, refuse, sentence):
    hub.refuse = refuse
    with pytest.raises(ComityError, match=sentence) as error:
        push(folder, "me/model")
    (message,) = error.value.messages
    assert "\n" not in message
    assert hub.files == {}


def test_what_is_wrong_here_is_one_sentence(folder, tmp_path, monkeypatch, hub, capsys):
    (tmp_path / "notes").mkdir()
    for source, name, sentence in [
        (tmp_path / "none", "me/model", "no such folder; name a run or what comity export wrote"),
        (tmp_path / "notes", "me/model", "has no model card"),
        (folder, "me//model", '"me//model" is not a model id'),
        (folder, "a/b/c", '"a/b/c" is not a model id'),
    ]:
        with pytest.raises(ComityError, match=sentence):
            push(source, name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ComityError, match="HF_HUB_OFFLINE is set; unset it"):
        push(folder, "me/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ComityError, match=r"http://127.0.0.1:9 cannot be reached .*; go online"):
        push(folder, "me/model")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(["push", str(folder), "me/model"]) == 2
    assert "there is no token for the Hugging Face hub; log in" in capsys.readouterr().err
    assert hub.created == []
