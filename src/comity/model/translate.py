"""Translation by any sequence-to-sequence checkpoint of `transformers`, for back-translation.

Nothing here is random: greedy or beam search, and the same texts in one batch give the same
result. Weights are read from safetensors, and nothing in a checkpoint runs as code.
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
from comity.hardware import choose_device
from comity.model.checkpoint import DOWNLOADED, find_checkpoint
from comity.model.checkpoint_files import INDEX, WEIGHTS, TensorFiles, read_json_object

# What tokenizers keep their vocabulary in: one file, sentencepiece models, pieces or byte pairs.
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
"""Tokens of a text where neither the model nor its tokenizer has a limit."""


class Translator:
    """A checkpoint as a function from texts to translations.

    What can be told without its weights is checked at once; they are loaded at the first batch.

    Args:
        checkpoint: a folder, or an id of the Hugging Face hub.
        beams: how many hypotheses are kept; 1 is greedy search.
        device: "auto" takes a GPU where there is one.

    Raises:
        ComityError: the extra `augment` is not installed, or the checkpoint is missing, is no
            sequence-to-sequence model, or lacks safetensors or a tokenizer.
    """

    def __init__(self, checkpoint: str, *, beams: int = 1, device: str = "auto"):
        if beams < 1:
            raise ComityError(f"--beams: {beams} is no number of hypotheses; give 1 or more")
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
            what = f'is of the kind "{kind}"' if kind else "does not say its model_type"
            raise ComityError(
                f"{self.folder / 'config.json'}: the checkpoint {what}, not a sequence-to-sequence "
                f"model that can translate; name one such as {EXAMPLE}"
            )

    def _check_weights(self) -> None:
        if not any((self.folder / name).is_file() for name in (WEIGHTS, INDEX)):
            raise ComityError(
                f"{self.name}: there is no {WEIGHTS} (only safetensors are read); in a place you "
                f'trust run AutoModelForSeq2SeqLM.from_pretrained("{self.name}")'
                f'.save_pretrained("DIR") and AutoTokenizer.from_pretrained("{self.name}")'
                '.save_pretrained("DIR") of transformers, then name DIR'
            )
        with TensorFiles(self.folder):
            pass  # whole files, and every shard there

    def _load_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        advice = "copy the checkpoint's tokenizer files beside its weights"
        if not any(any(self.folder.glob(pattern)) for pattern in VOCABULARIES):
            # The library would go on with an empty vocabulary.
            raise ComityError(f"{self.folder}: there is no tokenizer; {advice}")
        with _silent():
            try:
                tokenizer = AutoTokenizer.from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:  # of many kinds, by the tokenizer
                raise ComityError(
                    f"{self.folder}: the tokenizer cannot be loaded ({_reason(error)}); {advice}"
                ) from None
        if tokenizer.pad_token_id is None:
            raise ComityError(f"{self.folder}: the tokenizer has no token for padding; {advice}")
        return tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """What the results depend on, the checkpoint's files and the search, as a SHA-256."""
        about = hashlib.sha256(f"beams {self.beams}\n".encode())
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and any(fnmatch(path.name, pattern) for pattern in FILES):
                about.update(f"{path.name} {sha256_of(path)}\n".encode())
        return about.hexdigest()

    @cached_property
    def model(self) -> Any:
        """The model in float32, ready to generate."""
        from transformers import AutoModelForSeq2SeqLM

        with _silent():
            try:
                model, loading = AutoModelForSeq2SeqLM.from_pretrained(
                    self.folder,
                    dtype=torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
            except Exception as error:  # of many kinds, by the model
                raise ComityError(
                    f"{self.folder}: the model cannot be loaded ({_reason(error)}); copy the "
                    "checkpoint again"
                ) from None
        if loading["missing_keys"]:
            raise ComityError(
                f"{self.folder}: the weights lack {min(loading['missing_keys'])}, so the model "
                f"cannot translate; name a whole checkpoint such as {EXAMPLE}"
            )
        return model.eval().to(self.device)

    @cached_property
    def longest(self) -> int:
        """The most tokens of a text; what is longer is cut."""
        config = read_json_object(self.folder / "config.json")
        parts = [config, config.get("encoder"), config.get("decoder")]
        keys = ("max_position_embeddings", "n_positions")
        limits = [part.get(key) for part in parts if isinstance(part, dict) for key in keys]
        limits.append(self.tokenizer.model_max_length)  # 1e30 where it has none
        return min([n for n in limits if isinstance(n, int) and n < 10**9], default=LONGEST)

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the model can read."""
        if not texts:
            return 0
        with _silent():
            return sum(len(ids) > self.longest for ids in self.tokenizer(list(texts))["input_ids"])

    def __call__(self, texts: list[str]) -> list[str]:
        """The translation of each text; one that the model says nothing to is empty."""
        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        )
        ids = batch["input_ids"]
        known = self.model.get_input_embeddings().num_embeddings
        if int(ids.max()) >= known:
            raise ComityError(
                f"{self.folder}: the tokenizer gives token {int(ids.max())}, but the model knows "
                f"{known}; use the tokenizer and the weights of one model"
            )
        try:
            generated = self._generate(ids, batch["attention_mask"])
        except torch.OutOfMemoryError:
            raise ComityError(
                f"{self.device}: not enough memory to translate {len(texts)} texts at a time; "
                "take a smaller --batch-size"
            ) from None
        found = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [text.strip() for text in found]

    def _generate(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids `[B, T]` for the texts `ids: [B, S]`; `mask: [B, S]` is 0 on padding."""
        with _silent(), torch.inference_mode():
            return self.model.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                num_beams=self.beams,
                do_sample=False,
                num_return_sequences=1,
                return_dict_in_generate=False,
                # Room for any translation, and an end to one that repeats itself.
                max_new_tokens=min(self.longest - 1, 2 * ids.shape[1] + 32),
            )


def _check_extra() -> None:
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ComityError(
            f"translating needs {' and '.join(missing)}, not installed here; run "
            'pip install "comity[augment]"'
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Without the progress bars and advice of `transformers`, which are for its own users."""
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
    """The first line of an error of `transformers`, cut where it is long."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
