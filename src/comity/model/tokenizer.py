"""BERT's WordPiece tokenizer, from texts to token ids, on the `tokenizers` library.

The ids are those of transformers' BertTokenizer without special tokens. [CLS], [SEP] and truncation
are added when rows are packed (`data/packing.py`).
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from comity.errors import ComityError, ErrorList
from comity.files import LARGEST_JSON, read_text, write_atomically
from comity.format import plural
from comity.model.checkpoint_files import read_json_object
from comity.tables.rows import shortened

FILE = "tokenizer.json"
VOCABULARY = "vocab.txt"
CONFIG = "tokenizer_config.json"
OLDER_NAMES = "special_tokens_map.json"  # the special tokens of older checkpoints
OLDER_ADDED = "added_tokens.json"

_NAMES = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
_NEEDED = ("cls", "sep", "unk")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

MOST_TOKENS = 10_000_000
MOST_STEPS = 100
"""Steps that change or split a text before its words are looked up."""

LARGEST_GROWTH = 1_000
"""How many times longer the steps of a tokenizer may make a text; NFKC makes it 18 times longer at
most."""

LONGEST_WORD = 1_000
"""Characters of a word that is split into pieces, which takes quadratic time; usual are 100."""

# Settings of tokenizer_config.json, their names in the library's BertNormalizer, and defaults.
_SETTINGS = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


class Tokenizer:
    """Splits texts into tokens and returns their ids. Load one with `Tokenizer.from_folder`."""

    def __init__(self, backend: tokenizers.Tokenizer, names: dict[str, str], source: Path):
        """Wrap `backend`, which was loaded from the file `source`.

        `names` are the special tokens by role (cls, sep, pad, unk, mask).

        Raises:
            ComityError: [CLS], [SEP] or [UNK] is not in the vocabulary.
        """
        self._source = source
        self._backend = backend
        with _library_errors(source):
            self._set_up(names)

    def _set_up(self, names: dict[str, str]) -> None:
        """Find the special tokens `names`, by role, and prepare `encode` and `save`."""
        backend, source = self._backend, self._source
        missing = [role for role in _NEEDED if backend.token_to_id(names[role]) is None]
        if missing:
            keys = ", ".join(f'"{role}_token"' for role in missing)
            raise ComityError(
                f"{source}: the vocabulary has no {', '.join(names[role] for role in missing)}, "
                f"which BERT needs; use the tokenizer of a BERT, or set {keys} in {CONFIG}"
            )
        self.notes: list[str] = []  # sentences that the user should see
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
        # Only for other programs that load what `save` writes; `encode` adds no special tokens.
        backend.post_processor = processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(cls, self.cls_id), (sep, self.sep_id)],
        )

    @classmethod
    def from_folder(cls, folder: Path, lower_case: bool | None = None) -> "Tokenizer":
        """Load tokenizer.json, or vocab.txt with the settings in tokenizer_config.json.

        Args:
            folder: the checkpoint.
            lower_case: replaces the checkpoint's setting, unless None.

        Raises:
            ComityError: the folder has neither file, a file is damaged, or `lower_case` has no
                effect on this kind of tokenizer.
        """
        config = read_json_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        _check_settings(config, folder / CONFIG)
        older = folder / OLDER_NAMES
        declared = (read_json_object(older) if older.is_file() else {}) | config
        names = {role: _name(declared, role) for role in _NAMES}
        if (folder / FILE).is_file():
            backend = _from_json(folder / FILE, config, lower_case)
            unknown = getattr(backend.model, "unk_token", None)
            names |= {"unk": unknown} if isinstance(unknown, str) and unknown else {}
            tokenizer = cls(backend, names, folder / FILE)
            tokenizer.notes = _case_notes(folder / FILE, tokenizer, lower_case)
            return tokenizer
        if (folder / VOCABULARY).is_file():
            if lower_case is not None:
                config |= {"do_lower_case": lower_case}
            vocabulary, notes = _read_vocabulary(folder / VOCABULARY)
            with _library_errors(folder / VOCABULARY):
                backend = _word_piece(vocabulary, config, names["unk"])
                _add_tokens(backend, folder, config, set(names.values()))
            tokenizer = cls(backend, names, folder / VOCABULARY)
            notes += _case_notes(folder / VOCABULARY, tokenizer, lower_case)
            tokenizer.notes = notes
            return tokenizer
        raise ComityError(f"{folder}: no {FILE} and no {VOCABULARY}; copy one of them there")

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, not truncated and without special tokens; may be empty.

        The name of a special token in a text ("[SEP]") becomes that token, as in transformers. A
        lone surrogate, which is not a character, is read as U+FFFD.

        Raises:
            ComityError: the tokenizer is damaged and fails on a text.
        """
        with _library_errors(self._source):
            try:
                encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
            except TypeError:  # the library rejects texts that cannot be written as UTF-8
                valid = [_without_surrogates(text) for text in texts]
                encodings = self._backend.encode_batch_fast(valid, add_special_tokens=False)
            return [encoding.ids for encoding in encodings]

    @property
    def cls_id(self) -> int:
        """The id of [CLS]."""
        return self._ids["cls"]

    @property
    def sep_id(self) -> int:
        """The id of [SEP]."""
        return self._ids["sep"]

    @property
    def unk_id(self) -> int:
        """The id of [UNK]."""
        return self._ids["unk"]

    @property
    def pad_id(self) -> int:
        """The id of [PAD], or 0 if the vocabulary has none (padding has no effect)."""
        return self._ids.get("pad", 0)

    @property
    def mask_id(self) -> int | None:
        """The id of [MASK], if the vocabulary has one."""
        return self._ids.get("mask")

    @property
    def lower_cases(self) -> bool:
        """Whether texts are lower-cased."""
        normalizer = self._backend.normalizer
        return isinstance(normalizer, normalizers.BertNormalizer) and normalizer.lowercase

    @cached_property
    def capitals(self) -> int:
        """How many words and pieces of the vocabulary have a capital letter."""
        names = self._backend.get_vocab(with_added_tokens=False)
        special = re.compile(r"\[.*\]|<.*>")  # such as [CLS]
        return sum(name != name.lower() and not special.fullmatch(name) for name in names)

    @cached_property
    def size(self) -> int:
        """The number of embeddings needed: the largest id, including added tokens, plus one."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that affects ids, for caches and run.json."""
        state = json.loads(self._backend.to_str())
        keys = ("added_tokens", "normalizer", "pre_tokenizer", "model")
        parts = {key: state[key] for key in keys} | {"special": self._ids}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path, max_length: int, segment_types: int = 2) -> None:
        """Write tokenizer.json, tokenizer_config.json and, for WordPiece, vocab.txt.

        transformers and `Tokenizer.from_folder` get the same ids from them. `max_length` is the
        most tokens that the model takes, including special tokens. With one segment type,
        transformers is told not to number the segments of a pair.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = json.loads(self._backend.to_str())
        config: dict[str, Any] = {"model_max_length": max_length}
        config |= {f"{role}_token": name for role, name in self._names.items()}
        if segment_types == 1:
            config["model_input_names"] = ["input_ids", "attention_mask"]
        if _is_plain_bert(state):
            config["tokenizer_class"] = "BertTokenizer"
            for setting, (key, _) in _SETTINGS.items():
                config[setting] = state["normalizer"][key]
        else:  # loads tokenizer.json as it is; BertTokenizer would rebuild it from vocab.txt
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        # Written here: the library takes no path whose characters the locale does not have.
        write_atomically(folder / FILE, self._backend.to_str(pretty=True))
        write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        if isinstance(self._backend.model, models.WordPiece):
            write_atomically(folder / VOCABULARY, self._vocabulary())

    def _vocabulary(self) -> str:
        """The content of vocab.txt: on line n, from 0, the token with the id n."""
        vocabulary = self._backend.get_vocab(with_added_tokens=False)
        names = {id: name for name, id in vocabulary.items()}
        return "".join(f"{names.get(id, '')}\n" for id in range(max(names) + 1))


@contextmanager
def _library_errors(path: Path) -> Iterator[None]:
    """Turn what the tokenizers library raises into a ComityError.

    It raises no narrower class than Exception. Where its Rust code panics, it raises pyo3's
    PanicException, which is not even an Exception and can be told by its name only.
    """
    try:
        yield
    except ComityError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = shortened(str(error) or type(error).__name__, 160)
        raise ComityError(
            f"{path}: not a tokenizer that the tokenizers library can use ({reason}); copy the "
            "file again, or use the tokenizer of a BERT"
        ) from None


def _check_work(path: Path, state: dict[str, Any]) -> None:
    """Raise a ComityError if a tokenizer.json makes texts much longer, or takes very long.

    A few steps of "replace a by aaaaaaaaaa" would fill the memory with one short text.
    """
    growth, count = 1, 0
    steps = [state.get("normalizer"), state.get("pre_tokenizer")]
    while steps:
        step = steps.pop()
        if not isinstance(step, dict):
            continue
        count += 1
        for inner in ("normalizers", "pretokenizers"):
            steps += step[inner] if isinstance(step.get(inner), list) else []
        growth = min(growth * max(1, _growth(path, step)), LARGEST_GROWTH + 1)
    model = state.get("model")
    word = model.get("max_input_chars_per_word") if isinstance(model, dict) else None
    if count > MOST_STEPS:
        problem = f"it has {count:,} steps that change texts, and at most {MOST_STEPS} are used"
    elif growth > LARGEST_GROWTH:
        problem = f"it can make a text more than {LARGEST_GROWTH:,} times longer"
    elif isinstance(word, int) and word > LONGEST_WORD:
        problem = f"max_input_chars_per_word may be at most {LONGEST_WORD:,}"
    else:
        return
    raise ComityError(f"{path}: {problem}; use the tokenizer of a BERT")


def _growth(path: Path, step: dict[str, Any]) -> int:
    """How many times longer a step can make a text."""
    kind = step.get("type")
    if kind == "ByteLevel":
        return 2  # a letter for each byte
    if kind in ("Replace", "Prepend"):
        return len(str(step.get("content", step.get("prepend", ""))))
    if kind != "Precompiled":
        return 1
    try:
        table = base64.b64decode(step["precompiled_charsmap"])
    except (KeyError, TypeError, ValueError):
        table = b""
    # The size of a trie in four bytes, the trie, and the replacements, each with a zero at its end.
    size = int.from_bytes(table[:4], "little")
    if not 0 < size <= len(table) - 4:  # the library would take memory for this size
        raise ComityError(f"{path}: precompiled_charsmap is damaged; copy the file again")
    return max(map(len, table[4 + size :].split(b"\0")))


def _from_json(path: Path, config: dict[str, Any], lower_case: bool | None) -> tokenizers.Tokenizer:
    """Load a tokenizer.json, with its BertNormalizer set as in tokenizer_config.json.

    If the two files disagree, tokenizer_config.json wins, as in transformers. Settings that it does
    not contain are taken from tokenizer.json.
    """
    state = read_json_object(path)
    _check_work(path, state)
    normalizer = state.get("normalizer") or {}
    is_bert = str(config.get("tokenizer_class", "BertTokenizer")).startswith("BertTokenizer")
    has_settings = isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer"
    if is_bert and has_settings:
        for setting, (key, _) in _SETTINGS.items():
            if setting in config:
                normalizer[key] = config[setting]
    if lower_case is not None and not has_settings:
        raise ComityError(
            f"{path}: encoder.lower_case has no effect, because this tokenizer has no "
            "BertNormalizer; remove the key"
        )
    if lower_case is not None:
        normalizer["lowercase"] = lower_case
    with _library_errors(path):
        return tokenizers.Tokenizer.from_str(json.dumps(state))


def _read_vocabulary(path: Path) -> tuple[dict[str, int], list[str]]:
    """The ids of a vocab.txt, which are line numbers from 0, and notes for the user."""
    vocabulary: dict[str, int] = {}
    repeated = []
    try:
        text = read_text(path, LARGEST_JSON)
    except UnicodeDecodeError:
        raise ComityError(f"{path}: not UTF-8 text; copy the file again") from None
    except OSError as error:
        raise ComityError(f"{path}: cannot be read ({error.strerror}); copy it again") from None
    if text.count("\n") > MOST_TOKENS:
        raise ComityError(
            f"{path}: has more than {MOST_TOKENS:,} lines; use the vocabulary of a BERT"
        )
    for number, token in enumerate(text.split("\n")):
        if token in vocabulary:
            repeated.append((token, vocabulary[token] + 1, number + 1))
        if token:  # an empty token never occurs
            vocabulary[token] = number
    if not vocabulary:
        raise ComityError(f"{path}: is empty; copy the file again")
    if not repeated:
        return vocabulary, []
    token, first, second = repeated[0]
    verb = "occurs" if len(repeated) == 1 else "occur"
    return vocabulary, [
        f"{path}: {plural(len(repeated), 'token')} {verb} twice, and the last id counts as in "
        f"transformers (first: {token}, lines {first} and {second})"
    ]


def _word_piece(
    vocabulary: dict[str, int], config: dict[str, Any], unknown: str
) -> tokenizers.Tokenizer:
    """A WordPiece tokenizer with the settings of tokenizer_config.json."""
    settings = {key: config.get(name, default) for name, (key, default) in _SETTINGS.items()}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(clean_text=True, **settings)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _case_notes(path: Path, tokenizer: Tokenizer, lower_case: bool | None) -> list[str]:
    """A sentence if the vocabulary and the lower-casing of texts do not fit together."""
    capitals = tokenizer.capitals
    if tokenizer.lower_cases and capitals and lower_case is None:
        verb = "has" if capitals == 1 else "have"
        return [
            f"{path}: texts are lower-cased, but {plural(capitals, 'token')} of the vocabulary "
            f"{verb} capital letters; set encoder.lower_case to false if the model is cased, or to "
            "true if it is not"
        ]
    if lower_case is False and not capitals:
        return [
            f"{path}: no token has a capital letter, so with lower_case = false every word that "
            "has one is unknown"
        ]
    return []


def _add_tokens(
    backend: tokenizers.Tokenizer, folder: Path, config: dict[str, Any], special: set[str]
) -> None:
    """Add the tokens of tokenizer_config.json, or of an older added_tokens.json, to vocab.txt's."""
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
        raise ComityError(f"{source}: invalid added tokens; copy the file again") from None
    errors = ErrorList()
    for key, token in sorted(added.items(), key=lambda item: item[0]):
        add = backend.add_special_tokens if token.special else backend.add_tokens
        add([token])
        if backend.token_to_id(token.content) != key:
            errors.add(
                f"{source}: the added token {token.content} has id {key}, but after {VOCABULARY} "
                f"it gets {backend.token_to_id(token.content)}; use files of the same model"
            )
    errors.check()


def _name(config: dict[str, Any], role: str) -> str:
    """The special token of a role, which a config gives as a string or an object."""
    value = config.get(f"{role}_token")
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else _NAMES[role]


def _check_settings(config: dict[str, Any], path: Path) -> None:
    errors = ErrorList()
    for setting, (_, default) in _SETTINGS.items():
        value = config.get(setting, default)
        if not isinstance(value, bool) and not (value is None and default is None):
            allowed = "true, false or null" if default is None else "true or false"
            errors.add(f'{path}: "{setting}" must be {allowed}, got {shortened(json.dumps(value))}')
    errors.check()


def _is_plain_bert(state: dict[str, Any]) -> bool:
    """Whether a BertTokenizer of transformers, which has few settings, gives the same ids."""
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
    """Join surrogate pairs, and replace lone surrogates by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
