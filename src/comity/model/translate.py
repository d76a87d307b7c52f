"""Translation with any sequence-to-sequence checkpoint of `transformers`, for back-translation.

The search is greedy or a beam search, never random: the same batch gives the same result. Weights
must be safetensors, and nothing in a checkpoint runs as code.
"""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from comity.errors import ComityError
from comity.files import sha256_of
from comity.format import missing_extra
from comity.hardware import choose_device
from comity.model.checkpoint import DOWNLOADED, find_checkpoint
from comity.model.checkpoint_files import INDEX, WEIGHTS, TensorFiles, read_json_object

# Vocabulary files of tokenizers.
VOCABULARIES = ["tokenizer.json", "*.spm", "*.model", "vocab.txt", "vocab.json"]
FILES = [
    *DOWNLOADED,
    *VOCABULARIES,
    "target_vocab.json",
    "merges.txt",
    "generation_config.json",
]
EXTRA = ("transformers", "sentencepiece")
EXAMPLE = "Helsinki-NLP/opus-mt-en-fr"
LONGEST = 512
"""The most tokens of a text if neither the model nor its tokenizer has a limit."""


class Translator:
    """Translates texts with a checkpoint.

    The constructor checks everything but the weights, which are loaded for the first batch.

    Args:
        checkpoint: a folder, or an id of the Hugging Face hub.
        beams: hypotheses in the beam search; 1 is greedy search.
        device: "auto" uses a GPU if there is one.

    Raises:
        ComityError: the extra `augment` is not installed; or the checkpoint is missing, is not a
            sequence-to-sequence model, or has no safetensors or no tokenizer.
    """

    def __init__(self, checkpoint: str, *, beams: int = 1, device: str = "auto"):
        if beams < 1:
            raise ComityError(f"--beams must be at least 1, got {beams}")
        _check_extra()
        self.name = checkpoint
        self.beams = beams
        self.device = choose_device(device)
        self.folder = find_checkpoint(checkpoint, files=FILES)
        self._check_kind()
        self._check_weights()
        self.tokenizer = self._load_tokenizer()

    def _check_kind(self) -> None:
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as KINDS,
        )

        kind = read_json_object(self.folder / "config.json").get("model_type")
        if kind not in KINDS:
            what = f'the model_type "{kind}" is' if kind else "there is no model_type, so this is"
            raise ComityError(
                f"{self.folder / 'config.json'}: {what} not a sequence-to-sequence model that can "
                f"translate; use one such as {EXAMPLE}"
            )

    def _check_weights(self) -> None:
        if not any((self.folder / name).is_file() for name in (WEIGHTS, INDEX)):
            raise ComityError(
                f"{self.name}: no {WEIGHTS} (only safetensors can be loaded); on a machine you "
                f'trust run AutoModelForSeq2SeqLM.from_pretrained("{self.name}")'
                f'.save_pretrained("DIR") and AutoTokenizer.from_pretrained("{self.name}")'
                '.save_pretrained("DIR") of transformers, then use DIR'
            )
        with TensorFiles(self.folder):
            pass  # checks that the files are complete

    def _load_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        advice = "copy the checkpoint's tokenizer files to this folder"
        if not any(any(self.folder.glob(pattern)) for pattern in VOCABULARIES):
            # The library would load an empty vocabulary without an error.
            raise ComityError(f"{self.folder}: no tokenizer; {advice}")
        with silent():
            try:
                tokenizer = AutoTokenizer.from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:  # its class depends on the tokenizer
                raise ComityError(
                    f"{self.folder}: the tokenizer cannot be loaded ({_reason(error)}); {advice}"
                ) from None
        if tokenizer.pad_token_id is None:
            raise ComityError(f"{self.folder}: the tokenizer has no padding token; {advice}")
        return tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that affects results: the checkpoint's files and `beams`."""
        digest = hashlib.sha256(f"beams {self.beams}\n".encode())
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and any(fnmatch(path.name, pattern) for pattern in FILES):
                digest.update(f"{path.name} {sha256_of(path)}\n".encode())
        return digest.hexdigest()

    @cached_property
    def model(self) -> Any:
        """The model, in float32 on the device."""
        from transformers import AutoModelForSeq2SeqLM

        with silent():
            try:
                model, loading = AutoModelForSeq2SeqLM.from_pretrained(
                    self.folder,
                    dtype=torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
            except Exception as error:  # its class depends on the model
                raise ComityError(
                    f"{self.folder}: the model cannot be loaded ({_reason(error)}); copy the "
                    "checkpoint again"
                ) from None
        if loading["missing_keys"]:
            raise ComityError(
                f"{self.folder}: the tensor {min(loading['missing_keys'])} is missing from the "
                f"weights; use a complete checkpoint such as {EXAMPLE}"
            )
        return model.eval().to(self.device)

    @cached_property
    def longest(self) -> int:
        """The most tokens of a text; longer texts are truncated."""
        config = read_json_object(self.folder / "config.json")
        parts = [config, config.get("encoder"), config.get("decoder")]
        keys = ("max_position_embeddings", "n_positions")
        limits = [part.get(key) for part in parts if isinstance(part, dict) for key in keys]
        limits.append(self.tokenizer.model_max_length)  # 1e30 if it has none
        return min([n for n in limits if isinstance(n, int) and n < 10**9], default=LONGEST)

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are truncated."""
        if not texts:
            return 0
        with silent():
            return sum(len(ids) > self.longest for ids in self.tokenizer(list(texts))["input_ids"])

    def __call__(self, texts: list[str]) -> list[str]:
        """The translation of each text, which may be empty."""
        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        )
        ids = batch["input_ids"]
        count = self.model.get_input_embeddings().num_embeddings
        if int(ids.max()) >= count:
            raise ComityError(
                f"{self.folder}: the tokenizer gives id {int(ids.max())}, but the model has "
                f"{count} embeddings; use the tokenizer and the weights of the same model"
            )
        try:
            generated = self._generate(ids, batch["attention_mask"])
        except torch.OutOfMemoryError:
            raise ComityError(
                f"{self.device}: not enough memory to translate {len(texts)} texts at a time; "
                "use a smaller --batch-size"
            ) from None
        translations = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [text.strip() for text in translations]

    def _generate(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids `[B, T]` of the translations of `ids [B, S]`; `mask [B, S]`: 0 for padding."""
        with silent(), torch.inference_mode():
            return self.model.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                num_beams=self.beams,
                do_sample=False,
                num_return_sequences=1,
                return_dict_in_generate=False,
                # Enough for any translation, and a limit for one that repeats itself.
                max_new_tokens=min(self.longest - 1, 2 * ids.shape[1] + 32),
            )


def _check_extra() -> None:
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ComityError(missing_extra("translation needs", missing, "augment"))


@contextmanager
def silent() -> Iterator[None]:
    """Suppress the progress bars and warnings of `transformers`."""
    import warnings

    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    """The first line of an error of `transformers`, at most 160 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
