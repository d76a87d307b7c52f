"""Pooling: vectors compared with transformers, and the pooling that a checkpoint declares."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import transformers
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from tests.model.test_bert import padded, random_batch
from torch import Tensor
from torch.testing import assert_close

from comity.errors import ComityError
from comity.model.checkpoint import load_encoder, save_encoder
from comity.model.encoder import Packed
from comity.model.heads import make_head
from comity.model.multitask import ModelInput, MultiTaskModel, PooledGroup
from comity.model.pooling import WIDTHS, mean_pool
from comity.targets import HeadSpec, Target

POOLINGS = list(WIDTHS)
MOOD = Target("classification", "linear", ("a", "b", "c"))
ALIKE = Target("similarity", "cosine", scale=(0.0, 5.0))


@pytest.mark.parametrize("gpu", [False, True])
def test_mean_pool_equals_the_mean_of_each_sequence(
    monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr(Tensor, "is_cuda", gpu)  # the sum that runs on GPUs, here on the CPU
    hidden = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = mean_pool(hidden, torch.tensor([0, 2, 2, 9]))
    nothing = torch.zeros(4)
    assert_close(found, torch.stack([hidden[:2].mean(0), nothing, hidden[2:].mean(0)]))
    (found * torch.tensor([[1.0], [5.0], [2.0]])).sum().backward()
    expected = torch.tensor([1 / 2] * 2 + [2 / 7] * 7)[:, None].expand(9, 4)
    assert_close(hidden.grad, expected)


def expected_vectors(folder: Path, batch: Packed, pooling: str) -> Tensor:
    """From transformers' hidden states of the padded batch."""
    bert = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids, segments, mask = padded(batch)
    with torch.no_grad():
        found = bert(input_ids=ids, token_type_ids=segments, attention_mask=mask)
    hidden, tokens = found.last_hidden_state, mask[..., None].float()
    cls, mean = hidden[:, 0], (hidden * tokens).sum(1) / tokens.sum(1)
    vectors = {"cls": cls, "mean": mean, "pooler": found.pooler_output}
    return vectors[pooling] if pooling in vectors else torch.cat([cls, mean], dim=1)


@settings(max_examples=5)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5))
@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_equal_those_of_transformers(
    tiny_checkpoint: Path, pooling: str, lengths: list[int]
) -> None:
    model = MultiTaskModel(load_encoder(str(tiny_checkpoint)).encoder, {})
    batch = random_batch(lengths, 100, 2)
    with torch.no_grad():
        found = model.embed(batch, pooling)
    assert_close(found, expected_vectors(tiny_checkpoint, batch, pooling), atol=2e-5, rtol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_heads_read_the_pooled_vectors(tiny_checkpoint: Path, pooling: str) -> None:
    """A linear head, an interaction head and a cosine head, by their formulas."""
    tasks = {
        "one": HeadSpec(MOOD, ("first",), pooling),
        "both": HeadSpec(MOOD, ("first", "second"), pooling, interaction=True),
        "cosine": HeadSpec(ALIKE, ("first", "second"), pooling),
    }
    model = MultiTaskModel(load_encoder(str(tiny_checkpoint)).encoder, tasks)
    batch = random_batch([5, 9, 4, 7], 100, 2)
    inputs = [ModelInput("one", batch, 4), *(ModelInput(t, batch, 2) for t in ("both", "cosine"))]
    with torch.no_grad():
        one, both, cosine = model(inputs)
    vectors = expected_vectors(tiny_checkpoint, batch, pooling)
    u, v = vectors.split(2)
    weights = {}
    for name in ("one", "both"):
        parameters = dict(model.head(name).named_parameters())
        weights[name] = [parameters[f"output.{key}"].detach() for key in ("weight", "bias")]
    tolerance: dict[str, Any] = {"atol": 2e-5, "rtol": 0}
    assert_close(one, torch.nn.functional.linear(vectors, *weights["one"]), **tolerance)
    wide = torch.cat([u, v, (u - v).abs(), u * v], dim=1)
    assert wide.shape[1] == 4 * (64 if pooling == "cls+mean" else 32)
    assert_close(both, torch.nn.functional.linear(wide, *weights["both"]), **tolerance)
    dots = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
    assert_close(cosine[:, 0], dots, **tolerance)


def test_hidden_layers_of_a_head_keep_the_hidden_size() -> None:
    head = make_head(32, HeadSpec(MOOD, ("first",), "cls+mean", layers=2, add_norm=True))
    shapes = [tuple(p.shape) for name, p in head.named_parameters() if name.endswith("weight")]
    assert shapes == [(32, 64), (32,), (32, 32), (32,), (3, 32)]
    assert head(  # the first layer has no residual connection: 64 inputs, 32 outputs
        [torch.zeros(2, 64)], None
    ).shape == (2, 3)


@pytest.mark.parametrize(
    ("pooling", "read"), [("cls", "cls"), ("pooler", "cls"), ("mean", "all"), ("cls+mean", "all")]
)
def test_the_last_layer_is_pruned_only_where_cls_alone_is_read(pooling: str, read: str) -> None:
    assert PooledGroup(random_batch([3], 10, 2), pooling).group.read == read


# --- what a checkpoint declares -------------------------------------------------------------------


def declaring(folder: Path, target: Path, config: Any, kind: str = "models.Pooling") -> Path:
    """A copy of a checkpoint with the files of a sentence-transformers model."""
    copy = shutil.copytree(folder, target / "copy")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"sentence_transformers.{kind}"},
    ]
    (copy / "modules.json").write_text(json.dumps(modules))
    if config is not None:
        (copy / "1_Pooling").mkdir()
        (copy / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return copy


FLAGS = {"word_embedding_dimension": 32, "pooling_mode_max_tokens": False}


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "cls+mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["mean", "cls"]}, "cls+mean"),
    ],
)
def test_a_declared_pooling_is_the_default(
    tiny_checkpoint: Path, tmp_path: Path, config: dict[str, Any], pooling: str
) -> None:
    loaded = load_encoder(str(declaring(tiny_checkpoint, tmp_path, FLAGS | config)))
    assert (loaded.encoder.pooling, loaded.notes) == (pooling, [])
    assert loaded.encoder.text_pooling == pooling


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, "is not implemented"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": 3}, "is not implemented"),
        ({}, "is not implemented"),
        (None, "is missing"),
    ],
)
def test_a_pooling_that_is_not_implemented_gives_the_mean_and_a_note(
    tiny_checkpoint: Path, tmp_path: Path, config: Any, said: str
) -> None:
    loaded = load_encoder(str(declaring(tiny_checkpoint, tmp_path, config)))
    assert loaded.encoder.pooling == "mean"
    (note,) = loaded.notes
    assert said in note
    assert "1_Pooling" in note


@pytest.mark.parametrize("content", ["{", "{}", '"a"', ""])
def test_damaged_modules_are_an_error(tiny_checkpoint: Path, tmp_path: Path, content: str) -> None:
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (copy / "modules.json").write_text(content)
    with pytest.raises(ComityError, match=r"modules\.json") as caught:
        load_encoder(str(copy))
    assert len(caught.value.messages) == 1


def test_modules_without_a_pooling_declare_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = declaring(tiny_checkpoint, tmp_path, None, kind="models.Dense")
    loaded = load_encoder(str(copy))
    assert (loaded.encoder.pooling, loaded.notes) == ("pooler", [])


def test_defaults_of_checkpoints_that_declare_nothing(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The pooler where there is one; it was trained on pairs, so a text alone gets the mean."""
    encoder = load_encoder(str(tiny_checkpoint)).encoder
    assert (encoder.pooling, encoder.text_pooling) == ("pooler", "mean")
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("pooler")}
    save_file(kept, copy / "model.safetensors")
    assert load_encoder(str(copy)).encoder.pooling == "mean"


def test_minilm_is_read_with_its_own_pooling(minilm: Path) -> None:
    loaded = load_encoder("minilm")
    assert (loaded.encoder.pooling, loaded.notes) == ("mean", [])


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean", "cls+mean"])
def test_a_saved_encoder_keeps_its_pooling(
    tiny_checkpoint: Path, tmp_path: Path, pooling: str
) -> None:
    """Also for sentence-transformers, whose vectors are the same."""
    loaded = load_encoder(str(tiny_checkpoint))
    loaded.encoder.pooling = pooling
    save_encoder(tmp_path / "saved", loaded.encoder, loaded.tokenizer)
    again = load_encoder(str(tmp_path / "saved"))
    assert (again.encoder.pooling, again.notes) == (pooling, [])
    assert (tmp_path / "saved" / "modules.json").exists() == (pooling != "pooler")
    if pooling != "cls+mean":  # one is enough: the library takes seconds to import
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("sentence_transformers")
        theirs = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
        expected = theirs.encode(["the good house", "a bad and a poor film"])
    batch = _packed(loaded, ["the good house", "a bad and a poor film"])
    with torch.no_grad():
        found = MultiTaskModel(loaded.encoder, {}).embed(batch, pooling)
    assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=0)


def _packed(loaded: Any, texts: list[str]) -> Packed:
    template = loaded.template
    rows = [[template.cls_id, *ids, template.sep_id] for ids in loaded.tokenizer.encode(texts)]
    ids = torch.tensor([number for row in rows for number in row])
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    return Packed(ids, torch.zeros_like(ids), offsets, max(map(len, rows)))
