"""Loading and saving checkpoints of every form, and the errors of damaged ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.encoders import load_bert
from torch import Tensor
from torch.testing import assert_close

from comity.errors import ComityError
from comity.model.bert import Bert
from comity.model.checkpoint import LoadedEncoder, load_encoder, save_encoder
from comity.model.encoder import Encoder
from comity.model.reference import padded_forward
from comity.model.tokenizer import Tokenizer

Tensors = dict[str, Tensor]
IDS = torch.tensor([[2, 40, 41, 42, 3, 43, 44, 3]])
SEGMENTS = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])


def outputs(encoder: Encoder) -> tuple[Tensor, Tensor]:
    assert isinstance(encoder, Bert)
    return padded_forward(encoder, IDS, SEGMENTS, torch.ones_like(IDS))


def assert_same(found: Encoder, expected: Encoder) -> None:
    for have, want in zip(outputs(found), outputs(expected), strict=True):
        assert_close(have, want, atol=1e-6, rtol=0)


def errors_of(name: str | Path, **options: Any) -> list[str]:
    with pytest.raises(ComityError) as caught:
        load_encoder(str(name), **options)
    for error in caught.value.messages:
        assert "\n" not in error
    return caught.value.messages


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path) -> LoadedEncoder:
    return load_encoder(str(tiny_checkpoint))


def rewritten(folder: Path, target: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a checkpoint with its tensors changed."""
    copy = shutil.copytree(folder, target / "copy")
    tensors = load_file(copy / "model.safetensors")
    save_file(change(tensors), copy / "model.safetensors")
    return copy


def old_names(tensors: Tensors) -> Tensors:
    def old(name: str) -> str:
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return name.replace("LayerNorm.bias", "LayerNorm.beta")

    return {old(name): value for name, value in tensors.items()}


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def with_head(tensors: Tensors) -> Tensors:
    """As saved from a masked-language model or a classifier."""
    return {"bert." + name: value for name, value in tensors.items()} | {
        "bert.embeddings.position_ids": torch.arange(128)[None],
        "cls.predictions.bias": torch.zeros(9),
        "cls.predictions.transform.dense.weight": torch.zeros(32, 32),
        "classifier.weight": torch.zeros(2, 32),
    }


FORMS: dict[str, Callable[[Tensors], Tensors]] = {
    "unchanged": dict,
    "bert. prefix": prefixed("bert."),
    "sentence-transformers prefix": prefixed("0.auto_model."),
    "model. prefix": prefixed("model."),
    "gamma and beta": old_names,
    "gamma and beta under bert.": lambda tensors: prefixed("bert.")(old_names(tensors)),
    "with heads": with_head,
    "float64": lambda tensors: {name: value.double() for name, value in tensors.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_encoder(
    tiny_checkpoint: Path, tmp_path: Path, plain: LoadedEncoder, form: str
) -> None:
    loaded = load_encoder(str(rewritten(tiny_checkpoint, tmp_path, FORMS[form])))
    assert_same(loaded.encoder, plain.encoder)
    assert {value.dtype for value in loaded.encoder.parameters()} == {torch.float32}
    assert not list(loaded.encoder.buffers())
    if form == "with heads":
        (note,) = loaded.notes
        assert "4 tensors are not part of the encoder" in note
    else:
        assert loaded.notes == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_as_float32(
    tiny_checkpoint: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    def narrow(tensors: Tensors) -> Tensors:
        return {name: value.to(dtype) for name, value in tensors.items()}

    loaded = load_encoder(str(rewritten(tiny_checkpoint, tmp_path, narrow)))
    original = load_file(tiny_checkpoint / "model.safetensors")
    expected = original["embeddings.word_embeddings.weight"].to(dtype).float()
    assert torch.equal(loaded.encoder.word_embeddings, expected)
    assert {value.dtype for value in loaded.encoder.parameters()} == {torch.float32}


def test_position_ids_give_no_note(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def with_buffer(tensors: Tensors) -> Tensors:
        return tensors | {"embeddings.position_ids": torch.arange(128)[None]}

    assert load_encoder(str(rewritten(tiny_checkpoint, tmp_path, with_buffer))).notes == []


def test_layers_that_the_config_leaves_out_give_a_note(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    config = json.loads((copy / "config.json").read_text()) | {"num_hidden_layers": 1}
    (copy / "config.json").write_text(json.dumps(config))
    (note,) = load_encoder(str(copy)).notes
    assert "16 tensors are not part of the encoder (encoder.layer.1." in note


def test_tied_word_embeddings_are_taken_from_the_decoder(
    tiny_checkpoint: Path, tmp_path: Path, plain: LoadedEncoder
) -> None:
    def tied(tensors: Tensors) -> Tensors:
        table = tensors.pop("embeddings.word_embeddings.weight")
        return prefixed("bert.")(tensors) | {"cls.predictions.decoder.weight": table}

    copy = rewritten(tiny_checkpoint, tmp_path, tied)
    loaded = load_encoder(str(copy))
    assert_same(loaded.encoder, plain.encoder)
    assert loaded.notes == []

    config = json.loads((copy / "config.json").read_text()) | {"tie_word_embeddings": False}
    (copy / "config.json").write_text(json.dumps(config))
    (error,) = errors_of(copy)
    assert "tensor bert.embeddings.word_embeddings.weight is missing" in error
    assert str(copy / "model.safetensors") in error


def shard(folder: Path) -> list[str]:
    """Split a checkpoint's tensors over three files with an index, as transformers does."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    files = {name: names[number % 3] for number, name in enumerate(tensors)}
    for file in names:
        part = {name: value for name, value in tensors.items() if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


def test_shards_are_read_through_their_index(
    tiny_checkpoint: Path, tmp_path: Path, plain: LoadedEncoder
) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    names = shard(copy)
    loaded = load_encoder(str(copy))
    assert_same(loaded.encoder, plain.encoder)
    assert sorted(loaded.source["sha256"]) == names

    for name in names[1:]:
        (copy / name).unlink()
    errors = errors_of(copy)
    assert len(errors) == 2
    for name, error in zip(names[1:], errors, strict=True):
        assert f"shard {name} is missing" in error


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_an_index_with_a_path_is_an_error(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    (copy / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"weight_map": {"embeddings.word_embeddings.weight": name}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (error,) = errors_of(copy)
    assert "model.safetensors.index.json" in error


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "{"])
def test_an_invalid_index_is_an_error(tiny_checkpoint: Path, tmp_path: Path, content: str) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(content)
    (error,) = errors_of(copy)
    assert str(copy / "model.safetensors.index.json") in error


# --- errors ---------------------------------------------------------------------------------------


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if name not in names}


def test_every_missing_tensor_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    names = [
        "embeddings.LayerNorm.bias",
        "encoder.layer.0.attention.self.key.bias",
        "encoder.layer.1.output.dense.weight",
    ]
    copy = rewritten(tiny_checkpoint, tmp_path, without(*names))
    errors = errors_of(copy)
    assert len(errors) == 3
    for name, error in zip(names, errors, strict=True):
        assert error.startswith(f"{copy / 'model.safetensors'}: the tensor {name} is missing")


def test_half_a_pooler_is_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, without("pooler.dense.bias"))
    (error,) = errors_of(copy)
    assert "pooler.dense.bias is missing" in error


def test_weights_of_another_model_are_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, lambda _: {"roberta.lm.weight": torch.zeros(3)})
    (error,) = errors_of(copy)
    assert "use the checkpoint of a BERT" in error


def test_several_encoders_in_one_file_are_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def two(tensors: Tensors) -> Tensors:
        other = {name: value.clone() for name, value in tensors.items()}
        return prefixed("question.")(tensors) | prefixed("context.")(other)

    (error,) = errors_of(rewritten(tiny_checkpoint, tmp_path, two))
    assert "several encoders (context., question.)" in error


def test_a_wrong_shape_is_an_error_with_both_shapes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def changed(tensors: Tensors) -> Tensors:
        return tensors | {
            "encoder.layer.1.attention.self.value.weight": torch.zeros(31, 32),
            "pooler.dense.bias": torch.zeros(32, 1),
        }

    copy = rewritten(tiny_checkpoint, tmp_path, changed)
    first, second = errors_of(copy)
    assert str(copy / "model.safetensors") in first
    assert "encoder.layer.1.attention.self.value.weight has shape [31, 32]" in first
    assert "[32, 32]" in first
    assert "pooler.dense.bias has shape [32, 1]" in second


def test_integer_weights_are_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def quantised(tensors: Tensors) -> Tensors:
        name = "encoder.layer.0.output.dense.weight"
        return tensors | {name: torch.zeros(32, 64, dtype=torch.int8)}

    (error,) = errors_of(rewritten(tiny_checkpoint, tmp_path, quantised))
    assert "encoder.layer.0.output.dense.weight has the dtype I8, not a float" in error


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_an_error(
    tiny_checkpoint: Path, tmp_path: Path, bad: float
) -> None:
    def poisoned(tensors: Tensors) -> Tensors:
        tensors["encoder.layer.0.attention.self.key.weight"][3, 4] = bad
        return tensors

    (error,) = errors_of(rewritten(tiny_checkpoint, tmp_path, poisoned))
    assert "encoder.layer.0.attention.self.key.weight contains values that are not finite" in error


@pytest.mark.parametrize("part", [0, 4, 8, 200, 5_000, -1])
def test_a_truncated_file_is_an_error(tiny_checkpoint: Path, tmp_path: Path, part: int) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:part])
    (error,) = errors_of(copy)
    assert error.startswith(f"{path}: not a complete safetensors file")
    assert "download or copy the file again" in error


def test_a_git_lfs_pointer_is_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (copy / "model.safetensors").write_text(pointer)
    (error,) = errors_of(copy)
    assert "Git LFS pointer" in error


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "epoch=3.ckpt"])
def test_pickles_are_an_error_that_says_how_to_convert(
    tiny_checkpoint: Path, tmp_path: Path, file: str
) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    (copy / "model.safetensors").rename(copy / file)
    (error,) = errors_of(copy)
    assert f"{file} is a pickle" in error
    assert "AutoModel.from_pretrained(folder).save_pretrained(folder, safe_serialization=" in error


def test_a_folder_without_weights_is_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    (copy / "model.safetensors").unlink()
    (error,) = errors_of(copy)
    assert f"{copy}: no model.safetensors" in error


def test_a_tokenizer_larger_than_the_table_is_an_error(
    write_checkpoint: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    with (folder / "vocab.txt").open("a") as file:
        file.write("zebra\nquagga\n")
    (error,) = errors_of(folder)
    assert str(folder) in error
    assert f"{rows + 2} tokens" in error
    assert f"{rows} rows" in error


def test_spare_rows_of_the_table_are_allowed(write_checkpoint: Any, tmp_path: Path) -> None:
    loaded = load_encoder(str(write_checkpoint(tmp_path, vocab_size=512)))
    assert len(loaded.encoder.word_embeddings) == 512
    assert loaded.tokenizer.size < 512


def test_errors_of_config_and_tokenizer_are_reported_together(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    (copy / "config.json").unlink()
    (copy / "vocab.txt").unlink()
    first, second = errors_of(copy)
    assert first.startswith(f"{copy / 'config.json'}: ")
    assert "no tokenizer.json and no vocab.txt" in second


def test_an_index_that_names_another_shard_is_an_error(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    names = shard(copy)
    path = copy / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name, right = next(iter(index["weight_map"].items()))
    wrong = next(file for file in names if file != right)
    index["weight_map"][name] = wrong
    path.write_text(json.dumps(index))
    (error,) = errors_of(copy)
    assert error.startswith(f"{path}: the tensor {name} should be in {wrong}, but it is in {right}")

    index["weight_map"] |= {name: right, "extra": right, "more": wrong}
    path.write_text(json.dumps(index))
    (error,) = errors_of(copy)
    assert f"the tensor extra should be in {right}, but no shard has it (and 1 other" in error


@pytest.mark.parametrize("change", ["shape", "dtype", "nan", "missing"])
def test_an_error_of_every_tensor_is_one_sentence(
    tiny_checkpoint: Path, tmp_path: Path, change: str
) -> None:
    def changed(tensors: Tensors) -> Tensors:
        position = "embeddings.position_embeddings.weight"  # by which a BERT is known
        changes: dict[str, Callable[[Tensor], Tensor]] = {
            "shape": lambda value: torch.zeros(2, *value.shape),
            "dtype": lambda value: value.to(torch.int8),
            "nan": lambda value: value * float("nan"),
        }
        if change == "missing":
            return {position: tensors[position]}
        return {name: changes[change](value) for name, value in tensors.items()}

    (error,) = errors_of(rewritten(tiny_checkpoint, tmp_path, changed))
    assert "more tensors have such an error)" in error


@pytest.mark.parametrize("file", ["model.onnx", "onnx/model.onnx", "tf_model.h5", "model.gguf"])
def test_weights_of_another_format_are_an_error(
    tiny_checkpoint: Path, tmp_path: Path, file: str
) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    (copy / file).parent.mkdir(exist_ok=True)
    (copy / "model.safetensors").rename(copy / file)
    (error,) = errors_of(copy)
    assert f"no model.safetensors, and {file} is " in error
    assert "use a checkpoint with safetensors" in error


def test_a_snapshot_of_links_is_loaded_and_a_broken_link_is_an_error(
    tiny_checkpoint: Path, tmp_path: Path, plain: LoadedEncoder
) -> None:
    """As in the hub's cache."""
    blobs = rewritten(tiny_checkpoint, tmp_path, dict)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert_same(load_encoder(str(snapshot)).encoder, plain.encoder)
    (blobs / "model.safetensors").unlink()
    (error,) = errors_of(snapshot)
    assert f"is a link to {blobs / 'model.safetensors'}, which does not exist" in error


@pytest.mark.parametrize(
    ("key", "value"), [("num_hidden_layers", 10**9), ("vocab_size", 10**30), ("hidden_size", 10**9)]
)
def test_a_huge_size_is_an_error_before_memory_is_taken(
    tiny_checkpoint: Path, tmp_path: Path, key: str, value: int
) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    config = json.loads((copy / "config.json").read_text()) | {key: value}
    (copy / "config.json").write_text(json.dumps(config))
    (error,) = errors_of(copy)
    assert f'"{key}" must be at most' in error


# --- a missing pooler -----------------------------------------------------------------------------


def test_a_missing_pooler_is_drawn_from_the_seed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, without("pooler.dense.weight", "pooler.dense.bias"))
    before = torch.get_rng_state()
    loaded = load_encoder(str(copy), seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    first, again, other = (load_bert(copy, seed=seed) for seed in (7, 7, 8))
    (note,) = loaded.notes
    assert "pooler.dense.weight and pooler.dense.bias" in note
    assert "seed 7" in note
    assert note.count(".safetensors") == 1
    weight = first.pooler.weight
    assert torch.equal(weight, again.pooler.weight)
    assert not torch.equal(weight, other.pooler.weight)
    assert not first.pooler.bias.any()
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert abs(weight.mean().item()) < 0.003

    save_encoder(tmp_path / "run", loaded.encoder, loaded.tokenizer)
    assert load_encoder(str(tmp_path / "run"), seed=99).notes == []
    assert torch.equal(load_bert(tmp_path / "run", seed=99).pooler.weight, weight)


# --- saving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [{}, {"type_vocab_size": 4}, {"hidden_act": "relu", "layer_norm_eps": 0.01}]
)
def test_transformers_loads_saved_encoders(
    write_checkpoint: Any, tmp_path: Path, config: dict[str, Any]
) -> None:
    loaded = load_encoder(str(write_checkpoint(tmp_path / "from", **config)))
    save_encoder(tmp_path / "to", loaded.encoder.to(torch.float32), loaded.tokenizer)
    loading: Any = transformers.BertModel.from_pretrained(tmp_path / "to", output_loading_info=True)
    theirs, report = loading
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    result = theirs.eval()(input_ids=IDS, token_type_ids=SEGMENTS)
    hidden, pooled = outputs(loaded.encoder)
    assert_close(hidden, result.last_hidden_state, atol=1e-5, rtol=0)
    assert_close(pooled, result.pooler_output, atol=1e-5, rtol=0)
    with safe_open(tmp_path / "to" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    auto = transformers.AutoModel.from_pretrained(tmp_path / "to")
    assert isinstance(auto, transformers.BertModel)

    again = load_encoder(str(tmp_path / "to"))
    assert again.encoder.checkpoint_config() == loaded.encoder.checkpoint_config()
    assert again.tokenizer.fingerprint == loaded.tokenizer.fingerprint
    for name, value in again.encoder.named_parameters():
        assert torch.equal(value, loaded.encoder.get_parameter(name)), name


def test_saved_tensors_equal_the_loaded_ones(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_encoder(str(tiny_checkpoint))
    save_encoder(tmp_path, loaded.encoder.to(torch.bfloat16), loaded.tokenizer)
    original = load_file(tiny_checkpoint / "model.safetensors")
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == original.keys()
    for name, value in saved.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, original[name].to(torch.bfloat16).float()), name


def test_masters_are_saved_instead_of_a_rounded_copy(
    tiny_checkpoint: Path, tmp_path: Path, plain: LoadedEncoder
) -> None:
    masters = dict(plain.encoder.named_parameters())
    rounded = load_encoder(str(tiny_checkpoint)).encoder.to(torch.bfloat16)
    save_encoder(tmp_path, rounded, plain.tokenizer, masters)
    original = load_file(tiny_checkpoint / "model.safetensors")
    for name, value in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(value, original[name]), name


def test_a_loaded_encoder_does_not_depend_on_its_file(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = rewritten(tiny_checkpoint, tmp_path, dict)
    loaded = load_encoder(str(copy))
    expected = [value.clone() for value in loaded.encoder.parameters()]
    size = (copy / "model.safetensors").stat().st_size
    with (copy / "model.safetensors").open("r+b") as file:
        file.write(b"\xff" * size)
    for value, want in zip(loaded.encoder.parameters(), expected, strict=True):
        assert torch.equal(value, want)


def test_a_loaded_encoder_has_the_tokenizer_of_its_folder(tiny_checkpoint: Path) -> None:
    loaded = load_encoder(str(tiny_checkpoint))
    assert loaded.tokenizer.fingerprint == Tokenizer.from_folder(tiny_checkpoint).fingerprint
