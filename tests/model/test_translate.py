"""Translators compared with a greedy search in plain Python, and the errors of checkpoints."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import WORDS
from tests.helpers import mood_rows, write_csv
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GenerationMixin,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    PreTrainedTokenizerFast,
)

from comity.data.augment import augment
from comity.errors import ComityError
from comity.model.translate import Translator

TEXTS = ["the good film", "a bad book is not good", "tea", "the dog and the cat like the garden"]
pytestmark = pytest.mark.filterwarnings("ignore:Recommended")  # from MarianTokenizer
LIMIT = 48  # positions of the tiny models
SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": LIMIT,
    "init_std": 1.0,
}


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Marian of one layer with random weights and subwords learned from a few words."""
    return write_marian(tmp_path_factory.mktemp("marian"), seed=2)


def write_marian(folder: Path, seed: int) -> Path:
    words = WORDS.split()
    sentences = [" ".join(words[start : start + 6]) for start in range(len(words))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "source"),
        vocab_size=200,
        minloglevel=2,
    )
    (folder / "source.vocab").unlink()
    (folder / "source.model").rename(folder / "source.spm")
    shutil.copy(folder / "source.spm", folder / "target.spm")
    subwords = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    names = [subwords.id_to_piece(number) for number in range(subwords.get_piece_size())]
    # In the order of Marian: the end of a text first, padding last.
    tokens = ["</s>", "<unk>", *[n for n in names if n not in ("<s>", "</s>", "<unk>")], "<pad>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = MarianTokenizer(
        str(folder / "source.spm"),
        str(folder / "target.spm"),
        str(folder / "vocab.json"),
        model_max_length=512,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    padding = vocabulary["<pad>"]
    config = MarianConfig(
        vocab_size=len(tokens),
        **SIZES,
        pad_token_id=padding,
        decoder_start_token_id=padding,
        eos_token_id=0,
        forced_eos_token_id=0,
    )
    MarianMTModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BART with a fast word tokenizer, which returns token types that BART does not take."""
    folder = tmp_path_factory.mktemp("bart")
    tokens = {
        t: n for n, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys(WORDS.split())])
    }
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    torch.manual_seed(3)
    config = BartConfig(
        vocab_size=len(tokens),
        **SIZES,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(marian: Path, tmp_path: Path) -> Path:
    """A Marian that a test may damage."""
    return Path(shutil.copytree(marian, tmp_path / "copy"))


def error_of(checkpoint: Path | str, **options: Any) -> str:
    with pytest.raises(ComityError) as caught:
        Translator(str(checkpoint), **options)
    (error,) = caught.value.messages
    assert "\n" not in error
    return error


def greedy_search(folder: Path, ids: list[int]) -> list[int]:
    """The most likely token at each position, up to the end token or the last position."""
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    output = [model.config.decoder_start_token_id]
    banned = [model.config.pad_token_id] if model.config.model_type == "marian" else []
    with torch.inference_mode():
        while len(output) < LIMIT - 1 and output[1:][-1:] != [model.config.eos_token_id]:
            logits = model(
                input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([output])
            ).logits[0, -1]
            logits[banned] = -torch.inf
            output.append(int(logits.argmax()))
    return output


def test_a_batch_of_marian_equals_a_greedy_search_of_each_text(marian):
    translator = Translator(str(marian))
    found = translator(TEXTS)
    tokenizer = MarianTokenizer.from_pretrained(marian)
    for text, result in zip(TEXTS, found, strict=True):
        output = greedy_search(marian, tokenizer(text)["input_ids"])
        assert result == tokenizer.decode(output, skip_special_tokens=True).strip()
    assert len(set(found)) == len(TEXTS)
    assert translator(TEXTS) == found == Translator(str(marian))(TEXTS)


def test_any_sequence_to_sequence_model_works(bart):
    translator = Translator(str(bart))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bart)
    for text, result in zip(TEXTS, translator(TEXTS), strict=True):
        output = greedy_search(bart, tokenizer(text)["input_ids"])
        assert result == tokenizer.decode(output, skip_special_tokens=True).strip()


def test_beam_search_equals_that_of_transformers(marian):
    model: Any = MarianMTModel.from_pretrained(marian)
    tokenizer = MarianTokenizer.from_pretrained(marian)
    expected = []
    for text in TEXTS:
        inputs = tokenizer([text], return_tensors="pt")
        output = model.generate(**inputs, num_beams=4, do_sample=False, max_new_tokens=LIMIT - 1)
        expected.append(tokenizer.decode(output[0], skip_special_tokens=True).strip())
    found = Translator(str(marian), beams=4)(TEXTS)
    assert found == expected
    assert found != Translator(str(marian))(TEXTS)


def test_nothing_is_sampled_whatever_the_checkpoint_sets(copy, marian):
    settings = json.loads((copy / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "num_return_sequences": 2, "num_beams": 2}
    settings |= {"return_dict_in_generate": True}
    (copy / "generation_config.json").write_text(json.dumps(settings))
    assert Translator(str(copy))(TEXTS) == Translator(str(marian))(TEXTS)


def test_a_long_text_is_truncated_and_counted(marian):
    translator = Translator(str(marian))
    tokenizer = MarianTokenizer.from_pretrained(marian)
    single = next(word for word in WORDS.split() if len(tokenizer(word)["input_ids"]) == 2)
    fits, long = " ".join([single] * (LIMIT - 1)), " ".join([single] * LIMIT)
    assert [len(ids) for ids in tokenizer([fits, long])["input_ids"]] == [LIMIT, LIMIT + 1]
    assert translator.count_cut([fits, long, "tea", long]) == 2
    end = tokenizer.eos_token_id
    for text in (f"good film {long}", long):
        ids = [*tokenizer(text)["input_ids"][: LIMIT - 1], end]
        output = greedy_search(marian, ids)
        assert translator([text]) == [tokenizer.decode(output, skip_special_tokens=True).strip()]
    assert translator.count_cut([]) == 0


def test_the_fingerprint_changes_with_everything_that_affects_results(marian, copy, tmp_path):
    prints = {Translator(str(marian)).fingerprint, Translator(str(copy)).fingerprint}
    assert len(prints) == 1  # the path does not matter
    prints.add(Translator(str(marian), beams=2).fingerprint)
    tensors = load_file(copy / "model.safetensors")
    tensors["final_logits_bias"] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    prints.add(Translator(str(copy)).fingerprint)
    (copy / "source.spm").write_bytes((copy / "source.spm").read_bytes() + b"\x00")
    (tmp_path / "copy" / "README.md").write_text("not part of the model")
    changed = Translator.__new__(Translator)
    changed.folder, changed.beams = copy, 1
    prints.add(changed.fingerprint)
    assert len(prints) == 4


def test_back_translation_resumes_after_an_interruption(marian, tmp_path, monkeypatch, capfd):
    (tmp_path / "back").mkdir()
    checkpoints = [str(marian), str(write_marian(tmp_path / "back", seed=1))]
    source = write_csv(tmp_path / "in.csv", ["text", "mood"], mood_rows(0, 12))
    capfd.readouterr()
    forward, back = map(Translator, checkpoints)
    report = augment(source, ["text"], tmp_path / "out.csv", forward, back, batch_size=4)
    assert report.rows == 12
    assert report.augmented + report.without_result == 12  # random weights never give the text back
    assert capfd.readouterr() == ("", "")  # no progress bars and no warnings of transformers

    batches = 0
    generate = vars(GenerationMixin)["generate"]

    def stopping(*arguments: Any, **options: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 5:  # of 3 forward and 3 back
            raise KeyboardInterrupt
        return generate(*arguments, **options)

    monkeypatch.setattr(MarianMTModel, "generate", stopping)
    second = tmp_path / "second.csv"
    with pytest.raises(KeyboardInterrupt):
        augment(source, ["text"], second, *map(Translator, checkpoints), batch_size=4)
    assert augment(source, ["text"], second, *map(Translator, checkpoints), batch_size=4) == report
    assert batches == 7
    assert second.read_bytes() == (tmp_path / "out.csv").read_bytes()


# --- errors ---------------------------------------------------------------------------------------


def test_a_bert_is_an_error(tiny_checkpoint):
    error = error_of(tiny_checkpoint)
    assert 'the model_type "bert" is not a sequence-to-sequence model' in error


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./none", 'the folder "./none" does not exist'),
        ("some/model", "cannot be reached"),  # the tests are offline
        ("", "correct the name"),
    ],
)
def test_a_missing_checkpoint_is_an_error(name, message):
    assert message in error_of(name)


@pytest.mark.parametrize("beams", [0, -1])
def test_beams_below_1_are_an_error(marian, beams):
    assert f"--beams must be at least 1, got {beams}" in error_of(marian, beams=beams)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_kind(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def unknown_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "esperanto"}')


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def half_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_subwords(folder: Path) -> None:
    (folder / "source.spm").unlink()


def no_tokenizer(folder: Path) -> None:
    for name in ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_config, "config.json: cannot be read"),
        (no_kind, "there is no model_type"),
        (unknown_kind, 'the model_type "esperanto" is not'),
        (pickled, "no model.safetensors (only safetensors can be loaded)"),
        (half_weights, "not a complete safetensors file"),
        (no_subwords, "the tokenizer cannot be loaded"),
        (no_tokenizer, "no tokenizer"),
    ],
)
def test_a_damaged_checkpoint_is_an_error_at_once(copy: Path, damage: Callable, message: str):
    damage(copy)
    assert message in error_of(copy)


@pytest.mark.parametrize("hub_id", ["some/model", None])
def test_the_advice_for_pickled_weights_works(copy, marian, tmp_path, monkeypatch, hub_id):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    name = hub_id or str(copy)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(copy))
    error = error_of(name)  # for a hub id, only safetensors are downloaded
    assert error.startswith(f"{name}: no model.safetensors")
    torch.save(weights, copy / "pytorch_model.bin")
    lines = re.findall(r"Auto\w+\.from_pretrained\(\S+?\)\.save_pretrained\(\S+?\)", error)
    assert len(lines) == 2
    assert all(f'from_pretrained("{name}")' in line for line in lines)
    classes = {"AutoModelForSeq2SeqLM": AutoModelForSeq2SeqLM, "AutoTokenizer": AutoTokenizer}
    for line in lines:
        in_folders = line.replace(f'"{name}"', repr(str(copy)))
        eval(in_folders.replace('"DIR"', repr(str(tmp_path / "DIR"))), classes)  # noqa: S307
    assert Translator(str(tmp_path / "DIR"))(TEXTS) == Translator(str(marian))(TEXTS)


def test_a_missing_tensor_is_an_error_and_not_drawn_at_random(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.decoder.layers.0.fc1.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ComityError, match=r"the tensor model\.decoder\.layers\.0\.fc1\.weight is missing"
    ):
        Translator(str(copy))(["tea"])


def test_a_tokenizer_of_another_model_is_an_error(copy):
    vocabulary = json.loads((copy / "vocab.json").read_text())
    vocabulary |= {token: number + 1000 for token, number in vocabulary.items() if number > 1}
    (copy / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ComityError, match="use the tokenizer and the weights of the same model"):
        Translator(str(copy))(TEXTS)


def test_too_little_memory_is_an_error_with_advice(marian, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory\nand more")

    monkeypatch.setattr(MarianMTModel, "generate", full)
    with pytest.raises(ComityError, match="not enough memory to translate 4 texts at a time; use"):
        Translator(str(marian))(TEXTS)


def test_code_in_a_checkpoint_never_runs(copy):
    mark = copy / "ran"
    (copy / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: ...\n")
    for name, key in (("tokenizer_config.json", "AutoTokenizer"), ("config.json", "AutoConfig")):
        about = json.loads((copy / name).read_text())
        value = ["own.Own", None] if key == "AutoTokenizer" else "own.Own"
        (copy / name).write_text(json.dumps(about | {"auto_map": {key: value}}))
    try:
        Translator(str(copy))(["tea"])
    except ComityError as error:  # an error, or the library's own class: both are safe
        assert len(error.messages) == 1
    assert not mark.exists()


@pytest.mark.parametrize("package", ["transformers", "sentencepiece"])
def test_a_missing_package_is_an_error_with_the_command(marian, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    error = error_of(marian)
    assert f"translation needs {package}, which is not installed" in error
    assert 'pip install "comity[augment]"' in error


def test_sentencepiece_models_are_downloaded_too(marian, monkeypatch):
    asked: list[str] = []

    def download(hub_id: str, **options: Any) -> str:
        asked.extend(options["allow_patterns"])
        return str(marian)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert Translator("some/model").folder == marian
    assert {"*.spm", "vocab.json", "config.json", "*.safetensors"} <= set(asked)
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked)
