"""config.json: its defaults, and an error for each invalid or unsupported value."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from comity.errors import ComityError
from comity.model.bert_config import BertConfig


def config_file(folder: Path, **values: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


def test_absent_keys_are_berts_defaults(tmp_path: Path) -> None:
    config = BertConfig.from_json_file(config_file(tmp_path, hidden_size=24))
    reference = transformers.BertConfig(hidden_size=24)
    for key, value in config.to_dict().items():
        if key != "architectures":
            assert value == getattr(reference, key), key


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_act", "swash", '"hidden_act" must be one of gelu'),
        ("hidden_act", 3, "got 3"),
        ("model_type", "roberta", '"model_type" is "roberta"'),
        ("position_embedding_type", "relative_key", '"position_embedding_type" is "relative_key"'),
        ("is_decoder", True, '"is_decoder" is true'),
        ("add_cross_attention", True, '"add_cross_attention" is true'),
        ("pruned_heads", {"0": [1]}, '"pruned_heads"'),
        ("quantization_config", {"bits": 8}, '"quantization_config"'),
        ("hidden_size", -8, '"hidden_size" must be a whole number above 0, got -8'),
        ("vocab_size", 0, '"vocab_size" must be a whole number above 0, got 0'),
        ("vocab_size", "82", 'got "82"'),
        ("num_hidden_layers", 2.5, '"num_hidden_layers" must be a whole number above 0, got 2.5'),
        ("num_hidden_layers", True, "got true"),
        ("type_vocab_size", None, '"type_vocab_size" must be a whole number above 0, got null'),
        ("layer_norm_eps", -1e-12, '"layer_norm_eps" must be a number above 0, got -1e-12'),
        ("layer_norm_eps", "1e-12", 'got "1e-12"'),
        ("layer_norm_eps", float("nan"), "got NaN"),
        ("hidden_dropout_prob", 1.0, '"hidden_dropout_prob" must be from 0 to 0.99, got 1.0'),
        (
            "attention_probs_dropout_prob",
            -0.1,
            '"attention_probs_dropout_prob" must be from 0 to 0.99, got -0.1',
        ),
        ("pad_token_id", "0", '"pad_token_id" must be a token id or null, got "0"'),
        ("tie_word_embeddings", "yes", '"tie_word_embeddings" must be true or false, got "yes"'),
    ],
)
def test_an_invalid_or_unsupported_value_is_an_error(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    path = config_file(tmp_path, **{key: value})
    with pytest.raises(ComityError) as caught:
        BertConfig.from_json_file(path)
    (error,) = caught.value.messages
    assert error.startswith(f"{path}: ")
    assert message in error


def test_values_without_effect_are_accepted(tmp_path: Path) -> None:
    path = config_file(
        tmp_path,
        position_embedding_type=None,
        quantization_config=None,
        is_decoder=False,
        pad_token_id=None,
        hidden_dropout_prob=0,
        use_cache=True,
        id2label={"0": "LABEL_0"},
        torch_dtype="float32",
    )
    assert BertConfig.from_json_file(path).hidden_dropout_prob == 0


def test_all_errors_of_a_config_are_reported_together(tmp_path: Path) -> None:
    path = config_file(tmp_path, hidden_act="gleu", vocab_size=-1, is_decoder=True)
    with pytest.raises(ComityError) as caught:
        BertConfig.from_json_file(path)
    assert len(caught.value.messages) == 3
    assert 'did you mean "gelu"?' in str(caught.value)


def test_the_hidden_size_must_be_a_multiple_of_the_heads(tmp_path: Path) -> None:
    path = config_file(tmp_path, hidden_size=10, num_attention_heads=4)
    with pytest.raises(ComityError, match="got 10 and 4"):
        BertConfig.from_json_file(path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", '{"hidden_size": 8,}', "[" * 100_000])
def test_a_config_that_is_not_an_object_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ComityError) as caught:
        BertConfig.from_json_file(path)
    assert len(caught.value.messages) == 1
    assert str(path) in str(caught.value)
