"""config.json: BERT's defaults, and a sentence for each value that is not implemented."""

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
    ("key", "value", "told"),
    [
        ("hidden_act", "swash", '"hidden_act" is "swash"'),
        ("hidden_act", 3, '"hidden_act" is 3'),
        ("model_type", "roberta", '"model_type" is "roberta"'),
        ("position_embedding_type", "relative_key", '"position_embedding_type" is "relative_key"'),
        ("is_decoder", True, '"is_decoder" is true'),
        ("add_cross_attention", True, '"add_cross_attention" is true'),
        ("pruned_heads", {"0": [1]}, '"pruned_heads"'),
        ("quantization_config", {"bits": 8}, '"quantization_config"'),
        ("hidden_size", -8, '"hidden_size" is -8, but must be a whole number above 0'),
        ("vocab_size", 0, '"vocab_size" is 0'),
        ("vocab_size", "82", '"vocab_size" is "82"'),
        ("num_hidden_layers", 2.5, '"num_hidden_layers" is 2.5'),
        ("num_hidden_layers", True, '"num_hidden_layers" is true'),
        ("type_vocab_size", None, '"type_vocab_size" is null'),
        ("layer_norm_eps", -1e-12, '"layer_norm_eps" is -1e-12'),
        ("layer_norm_eps", "1e-12", '"layer_norm_eps" is "1e-12"'),
        ("layer_norm_eps", float("nan"), '"layer_norm_eps" is NaN'),
        ("hidden_dropout_prob", 1.0, '"hidden_dropout_prob" is 1.0, but must be from 0 to 0.99'),
        ("attention_probs_dropout_prob", -0.1, '"attention_probs_dropout_prob" is -0.1'),
        ("pad_token_id", "0", '"pad_token_id" is "0"'),
        ("tie_word_embeddings", "yes", '"tie_word_embeddings" is "yes"'),
    ],
)
def test_a_value_that_is_not_implemented_is_named(
    tmp_path: Path, key: str, value: Any, told: str
) -> None:
    path = config_file(tmp_path, **{key: value})
    with pytest.raises(ComityError) as caught:
        BertConfig.from_json_file(path)
    (fault,) = caught.value.messages
    assert fault.startswith(f"{path}: ")
    assert told in fault


def test_values_that_change_nothing_are_taken(tmp_path: Path) -> None:
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


def test_all_faults_of_a_config_are_told_at_once(tmp_path: Path) -> None:
    path = config_file(tmp_path, hidden_act="gleu", vocab_size=-1, is_decoder=True)
    with pytest.raises(ComityError) as caught:
        BertConfig.from_json_file(path)
    assert len(caught.value.messages) == 3
    assert 'did you mean "gelu"?' in str(caught.value)


def test_heads_must_divide_the_width(tmp_path: Path) -> None:
    path = config_file(tmp_path, hidden_size=10, num_attention_heads=4)
    with pytest.raises(ComityError, match="10 is not a multiple of 4 heads"):
        BertConfig.from_json_file(path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", '{"hidden_size": 8,}', "[" * 100_000])
def test_a_config_that_is_no_object_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ComityError) as caught:
        BertConfig.from_json_file(path)
    assert len(caught.value.messages) == 1
    assert str(path) in str(caught.value)
