"""The cases MF-01 to MF-09 of the shared folder, on their own files, and similar inputs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.encoders import load_bert
from torch.testing import assert_close

from comity.errors import ComityError
from comity.model.checkpoint import load_encoder
from comity.model.encoder import Encoder, Group, Packed


def errors_of(name: str | Path, **options: Any) -> list[str]:
    with pytest.raises(ComityError) as caught:
        load_encoder(str(name), **options)
    for message in caught.value.messages:
        assert "\n" not in message
    return caught.value.messages


@pytest.fixture(scope="module")
def cases(shared: Path) -> Path:
    return shared / "cases" / "files"


def expected_of(case: Path) -> dict[str, Any]:
    return json.loads((case / "expected.json").read_text(encoding="utf-8"))


def assert_case_outputs(encoder: Encoder, inputs: list[dict], wanted: list[dict]) -> None:
    """Hidden states and pooled vectors of both inputs in one packed call, to 1e-5."""
    ids = torch.tensor([token for item in inputs for token in item["ids"]])
    segments = torch.tensor([token for item in inputs for token in item["segments"]])
    lengths = [len(item["ids"]) for item in inputs]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    packed = Packed(ids, segments, offsets, max(lengths))
    (hidden,) = encoder([Group(packed)])
    (first,) = encoder([Group(packed, "cls")])
    pooled = encoder.pool(first)
    for number, (rows, want) in enumerate(zip(hidden.split(lengths), wanted, strict=True)):
        found = {
            "hidden_first_token": rows[0],
            "hidden_last_token": rows[-1],
            "hidden_sum": rows.sum(),
            "pooled": pooled[number],
        }
        for key, value in want.items():
            if value is not None:
                # The files give six digits of each number, and of the sum of many.
                allowed = 5e-5 if key == "hidden_sum" else 1e-5
                assert_close(found[key], torch.tensor(value), atol=allowed, rtol=0)


def test_case_mf_01_encoder_without_a_pooler(cases: Path) -> None:
    case = cases / "MF-01"
    expected = expected_of(case)
    loaded = load_encoder(str(case), seed=4)
    assert_case_outputs(loaded.encoder, expected["inputs"], expected["expect"]["outputs"])
    (note,) = loaded.notes
    assert "pooler.dense.weight" in note
    assert "pooler.dense.bias" in note
    for item in expected["inputs"]:
        tokenizer = loaded.tokenizer
        first, *rest = tokenizer.encode([item["text"], *filter(None, [item.get("text_b")])])
        ids = [tokenizer.cls_id, *first, tokenizer.sep_id]
        for second in rest:
            ids += [*second, tokenizer.sep_id]
        assert ids == item["ids"]


@pytest.mark.parametrize("folder", ["extras", "only-decoder"])
def test_case_mf_03_more_or_other_tensors(cases: Path, folder: str) -> None:
    expected = expected_of(cases / "MF-03")
    loaded = load_encoder(str(cases / "MF-03" / folder))
    wanted = expected["expect"]["extras"]
    assert_case_outputs(loaded.encoder, expected["inputs"], wanted["outputs"])
    (note,) = loaded.notes
    assert f"{wanted['unused_tensors']} tensors" in note
    assert {value.dtype for value in loaded.encoder.state_dict().values()} == {torch.float32}


def test_case_mf_05_one_segment_type_or_four(cases: Path) -> None:
    expected = expected_of(cases / "MF-05")
    four = load_encoder(str(cases / "MF-05" / "four-types"))
    wanted = expected["expect"]["four-types"]["outputs"]
    assert_case_outputs(four.encoder, expected["inputs"], wanted)
    assert (four.encoder.segment_types, four.notes) == (4, [])

    one = load_encoder(str(cases / "MF-05" / "one-type"))
    wanted = expected["expect"]["one-type"]["pair_with_all_segments_0"]
    assert_case_outputs(one.encoder, [expected["inputs"][1]], [wanted])
    assert one.encoder.segment_types == 1
    (note,) = one.notes
    assert "segment 0" in note


def test_one_segment_type_trains_on_a_pair(write_checkpoint: Any, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, type_vocab_size=1)
    bert = load_bert(folder)
    ids = torch.tensor([2, 40, 41, 42, 3, 43, 44, 3])
    segments = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    offsets = torch.tensor([0, 8])
    (hidden,) = bert([Group(Packed(ids, segments, offsets, 8))])
    (plain,) = bert([Group(Packed(ids, torch.zeros_like(segments), offsets, 8))])
    assert torch.equal(hidden, plain)
    hidden.sum().backward()
    assert bert.segment_embeddings.grad is not None
    assert bert.segment_embeddings.grad.isfinite().all()


def test_case_mf_07_vocabularies_of_other_sizes(cases: Path) -> None:
    expected = expected_of(cases / "MF-07")["expect"]
    (message,) = errors_of(cases / "MF-07" / "bigger-vocab")
    assert f"{expected['bigger-vocab']['vocabulary']} tokens" in message
    assert f"{expected['bigger-vocab']['embedding_rows']} rows" in message
    smaller = load_encoder(str(cases / "MF-07" / "smaller-vocab"))
    assert smaller.tokenizer.size == expected["smaller-vocab"]["vocabulary"]
    assert len(smaller.encoder.word_embeddings) == expected["smaller-vocab"]["embedding_rows"]
    assert smaller.tokenizer.encode(["a zebra"])[0]
    (message,) = errors_of(cases / "MF-07" / "no-unk")
    assert "[UNK]" in message
    assert "vocab.txt" in message


@pytest.mark.parametrize("name", ["gelu", "relu", "gelu_new", "eps", "defaults"])
def test_case_mf_09_config_decides(cases: Path, tmp_path: Path, name: str) -> None:
    expected = expected_of(cases / "MF-09")
    folder = config_of_case(cases / "MF-09", tmp_path, name)
    wanted = expected["expect"]["outputs"]["gelu" if name == "defaults" else name]
    assert_case_outputs(load_encoder(str(folder)).encoder, expected["inputs"], wanted)


def test_case_mf_09_what_is_not_implemented(cases: Path, tmp_path: Path) -> None:
    (message,) = errors_of(config_of_case(cases / "MF-09", tmp_path / "1", "unknown"))
    assert "hidden_act" in message
    assert "swash" in message
    (message,) = errors_of(config_of_case(cases / "MF-09", tmp_path / "2", "heads"))
    assert "got 8 and 3" in message


def config_of_case(case: Path, target: Path, name: str) -> Path:
    target.mkdir(exist_ok=True)
    for file in ("model.safetensors", "vocab.txt"):
        shutil.copyfile(case / file, target / file)
    shutil.copyfile(case / f"config-{name}.json", target / "config.json")
    return target
