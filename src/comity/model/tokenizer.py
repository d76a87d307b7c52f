"""Text to token ids: BERT's WordPiece, on the `tokenizers` library, without special tokens.

Templates ([CLS] ... [SEP]), truncation and padding belong to the batches; here a text becomes the
ids of its own tokens and nothing else. Ids equal those of transformers' BertTokenizer.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from comity.errors import ComityError, ErrorList
from comity.model.checkpoint_files import read_json_object

FILE = "tokenizer.json"
VOCABULARY = "vocab.txt"
CONFIG = "tokenizer_config.json"
OLDER_NAMES = "special_tokens_map.json"  # what older checkpoints name special tokens in
OLDER_ADDED = "added_tokens.json"

_NAMES = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
_NEEDED = ("cls", "sep", "unk")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

# Settings of tokenizer_config.json, what the library's BertNormalizer calls them, their defaults.
_SETTINGS = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


class Tokenizer:
    """Token ids of texts; make one with `Tokenizer.from_folder`."""

    def __init__(self, backend: tokenizers.Tokenizer, names: dict[str, str], source: Path):
        """Wrap `backend`; `names` are the special tokens (cls, sep, pad, unk, mask) of `source`.

        Raises ComityError where [CLS], [SEP] or [UNK] is not in the vocabulary.
        """
        errors = ErrorList()
        for role in _NEEDED:
            if backend.token_to_id(names[role]) is None:
                errors.add(
                    f"{source}: the vocabulary has no {names[role]}, which a BERT needs; add it, "
                    f'or name the token that takes its place as "{role}_token" in {CONFIG}'
                )
        errors.check()
        self._backend = backend
        ids = {role: backend.token_to_id(name) for role, name in names.items()}
        self._ids = {role: id for role, id in ids.items() if id is not None}
        self._names = {role: names[role] for role in self._ids}
        present = {token.content for token in backend.get_added_tokens_decoder().values()}
        backend.add_special_tokens(
            [
                AddedToken(name, special=True, normalized=False)
                for name in self._names.values()
                if name not in present
            ]
        )
        backend.no_truncation()
        backend.no_padding()
        cls, sep = names["cls"], names["sep"]
        # Only for other programs that read what `save` writes: `encode` adds no special tokens.
        backend.post_processor = processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(cls, self.cls_id), (sep, self.sep_id)],
        )

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Read tokenizer.json, or vocab.txt with the settings of tokenizer_config.json.

        Raises ComityError where neither is there, or where one is not what it should be.
        """
        config = read_json_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        _check_settings(config, folder / CONFIG)
        older = folder / OLDER_NAMES
        given = (read_json_object(older) if older.is_file() else {}) | config
        names = {role: _name(given, role) for role in _NAMES}
        if (folder / FILE).is_file():
            backend = _from_json(folder / FILE, config)
            unknown = getattr(backend.model, "unk_token", None)
            return cls(backend, names | ({"unk": unknown} if unknown else {}), folder / FILE)
        if (folder / VOCABULARY).is_file():
            backend = _from_vocabulary(folder / VOCABULARY, config, names["unk"])
            _add_tokens(backend, folder, config, set(names.values()))
            return cls(backend, names, folder / VOCABULARY)
        raise ComityError(f"{folder}: there is neither {FILE} nor {VOCABULARY}; copy one there")

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, whole and without special tokens; a text may have none.

        A special token's name that stands in a text ("[SEP]") becomes that token, as it does in
        transformers. Half a surrogate pair, which is no character, reads as U+FFFD.
        """
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:  # the library takes no text that UTF-8 cannot write
            whole = [_without_surrogates(text) for text in texts]
            encodings = self._backend.encode_batch_fast(whole, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @property
    def cls_id(self) -> int:
        return self._ids["cls"]

    @property
    def sep_id(self) -> int:
        return self._ids["sep"]

    @property
    def unk_id(self) -> int:
        return self._ids["unk"]

    @property
    def pad_id(self) -> int:
        """The id of [PAD], or 0 in a vocabulary without one; nothing reads padding."""
        return self._ids.get("pad", 0)

    @property
    def mask_id(self) -> int | None:
        return self._ids.get("mask")

    @cached_property
    def size(self) -> int:
        """Rows that an embedding table needs: the largest id, added tokens included, plus one."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides ids, for caches and for a run's record."""
        state = json.loads(self._backend.to_str())
        deciding = ("added_tokens", "normalizer", "pre_tokenizer", "model")
        parts = {key: state[key] for key in deciding} | {"special": self._ids}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path, max_length: int) -> None:
        """Write tokenizer.json, tokenizer_config.json and, for WordPiece, vocab.txt.

        transformers and `Tokenizer.from_folder` read them back to the same ids. `max_length`:
        the tokens that the model takes, special ones counted.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = json.loads(self._backend.to_str())
        config: dict[str, Any] = {"model_max_length": max_length}
        config |= {f"{role}_token": name for role, name in self._names.items()}
        if _is_plain_bert(state):
            config["tokenizer_class"] = "BertTokenizer"
            for setting, (key, _) in _SETTINGS.items():
                config[setting] = state["normalizer"][key]
        else:  # read as it stands, where BertTokenizer would be built anew
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        self._backend.save(str(folder / FILE))
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if isinstance(self._backend.model, models.WordPiece):
            self._backend.model.save(str(folder))


def _from_json(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """A tokenizer.json, its BertNormalizer set as tokenizer_config.json says.

    Where the two disagree transformers follows tokenizer_config.json, and so do we; a setting
    that it does not name stays as tokenizer.json has it.
    """
    state = read_json_object(path)
    normalizer = state.get("normalizer") or {}
    by_bert = str(config.get("tokenizer_class", "BertTokenizer")).startswith("BertTokenizer")
    if by_bert and isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        for setting, (key, _) in _SETTINGS.items():
            if setting in config:
                normalizer[key] = config[setting]
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(state))
    except Exception as error:  # the library raises nothing narrower
        raise ComityError(
            f"{path}: the file is not a tokenizer that the tokenizers library reads "
            f"({str(error).splitlines()[0]}); copy it again"
        ) from None


def _from_vocabulary(path: Path, config: dict[str, Any], unknown: str) -> tokenizers.Tokenizer:
    """WordPiece over the lines of a vocab.txt, an id being the number of its line from 0."""
    vocabulary: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                if line.rstrip("\n"):  # an empty token can never be met
                    vocabulary[line.rstrip("\n")] = number
    except UnicodeDecodeError:
        raise ComityError(f"{path}: the file is not UTF-8 text; copy it again") from None
    settings = {key: config.get(name, default) for name, (key, default) in _SETTINGS.items()}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(clean_text=True, **settings)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _add_tokens(
    backend: tokenizers.Tokenizer, folder: Path, config: dict[str, Any], special: set[str]
) -> None:
    """The tokens beyond vocab.txt that tokenizer_config.json or an older added_tokens.json adds."""
    added: dict[int, AddedToken] = {}
    source, older = folder / CONFIG, folder / OLDER_ADDED
    try:
        if "added_tokens_decoder" in config:
            for key, value in config["added_tokens_decoder"].items():
                flags = {flag: value[flag] for flag in _FLAGS if flag in value}
                added[int(key)] = AddedToken(value["content"], **flags)
        elif older.is_file():
            source = older
            for name, key in read_json_object(older).items():
                is_special = name in special
                added[int(key)] = AddedToken(name, special=is_special, normalized=not is_special)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ComityError(f"{source}: the added tokens are not readable; copy it again") from None
    errors = ErrorList()
    for key, token in sorted(added.items(), key=lambda item: item[0]):
        add = backend.add_special_tokens if token.special else backend.add_tokens
        add([token])
        if backend.token_to_id(token.content) != key:
            errors.add(
                f"{source}: added token {token.content} has id {key}, but {VOCABULARY} makes it "
                f"{backend.token_to_id(token.content)}; use files of one model"
            )
    errors.check()


def _name(config: dict[str, Any], role: str) -> str:
    """The special token in a role, which a config gives as a text or as an object."""
    value = config.get(f"{role}_token")
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else _NAMES[role]


def _check_settings(config: dict[str, Any], path: Path) -> None:
    errors = ErrorList()
    for setting, (_, default) in _SETTINGS.items():
        value = config.get(setting, default)
        if not isinstance(value, bool) and not (value is None and default is None):
            allowed = "true, false or null" if default is None else "true or false"
            errors.add(f'{path}: "{setting}" is {json.dumps(value)}; make it {allowed}')
    errors.check()


def _is_plain_bert(state: dict[str, Any]) -> bool:
    """Whether transformers' BertTokenizer, which keeps only its few settings, does the same."""
    normalizer, model = state["normalizer"] or {}, state["model"]
    return (
        normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text") is True
        and (state["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
        and model.get("type") == "WordPiece"
        and model.get("continuing_subword_prefix") == "##"
        and model.get("max_input_chars_per_word") == 100
    )


def _without_surrogates(text: str) -> str:
    """Joined where two halves of a surrogate pair meet, U+FFFD where half of one stands alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
