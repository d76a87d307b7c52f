"""Token ids compared with transformers' BertTokenizer, and the errors of damaged folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import tokenizers
import transformers
from hypothesis import given, settings

from comity.errors import ComityError
from comity.model.tokenizer import Tokenizer

AWKWARD = [
    "",
    " ",
    "\t\r\n",
    "The garden is green.",
    "É è ñ ü ß Ł İstanbul ıı ŒUVRE naïve café cafe\u0301 Å A\u030a",
    "学校で犬を見た 한국어 ภาษาไทย עברית العربية हिन्दी",
    "𠀀 ｆｕｌｌ ﬁ ligature",
    "I love 🍜👩‍👩‍👧 🇫🇷 ☕️!",
    "a\x00b \x07 \x1f \x7f \x85 \x9f",
    "zero\u200bwidth\u200djoin\ufeff\u2060 soft\u00adhyphen",
    "left\u200eright\u202e \u2028 \u2029 no\u00a0break\u3000wide",
    "\u0301 \ufffd \ufffe \U000e0001",
    "don't can't http://a.b/c?d=e&f=g#h x@y.z $5.00 50% -- ... ~`^|<>{}[]()\\",
    "[CLS] [SEP]x[MASK] [UNK][PAD] [sep] [ SEP ] [unused1] ##ing",
    "a" * 100 + " " + "b" * 101,
    "x" * 10_000,
    "good soup, warm rain! " * 500,
    "".join(chr(code) for code in range(32, 10_000, 7)),
]


def their_ids(folder: Path) -> Any:
    theirs = transformers.BertTokenizer.from_pretrained(folder)
    assert isinstance(theirs, transformers.BertTokenizer)
    return lambda texts: [theirs(text, add_special_tokens=False)["input_ids"] for text in texts]


CASED = {"do_lower_case": False}
VARIANTS: list[dict[str, Any]] = [
    {},
    CASED,
    {"strip_accents": False},
    CASED | {"strip_accents": True},
    {"tokenize_chinese_chars": False},
    CASED | {"strip_accents": None, "tokenize_chinese_chars": True},
    {"unk_token": "[MASK]"},
    {"sep_token": {"content": "good", "__type": "AddedToken", "lstrip": False}},
]


@pytest.fixture(scope="module")
def vocabulary_folder(tmp_path_factory: pytest.TempPathFactory, write_checkpoint: Any) -> Any:
    """A function that writes a vocab.txt with capitals, accents and CJK characters."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "good", "Good", "soup"]
    tokens += ["é", "É", "e", "E", "##é", "caf", "##e", "犬", "学校", "##校", "🍜", "ı", "i"]
    tokens += [
        *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
        *"abcdfgABCDFGS",
        "##a",
        "##b",
        "##x",
        "##ing",
    ]

    def write(settings: dict[str, Any]) -> Path:
        return write_checkpoint(tmp_path_factory.mktemp("vocabulary"), tokens, tokenizer=settings)

    return write


def test_minilm_ids_equal_transformers(minilm: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(minilm)
    ours = Tokenizer.from_folder(minilm)
    for text, ids in zip(AWKWARD, ours.encode(AWKWARD), strict=True):
        assert ids == theirs(text, add_special_tokens=False)["input_ids"], text[:80]
    assert (ours.cls_id, ours.sep_id, ours.pad_id, ours.unk_id, ours.mask_id) == (
        theirs.cls_token_id,
        theirs.sep_token_id,
        theirs.pad_token_id,
        theirs.unk_token_id,
        theirs.mask_token_id,
    )
    assert ours.size == len(theirs) == 30522


@pytest.fixture(scope="module")
def minilm_pair(minilm: Path) -> tuple[Tokenizer, Any]:
    return Tokenizer.from_folder(minilm), their_ids(minilm)


@settings(max_examples=200)
@given(text=st.text())
def test_any_text_equals_transformers(minilm_pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, theirs = minilm_pair
    assert ours.encode([text]) == theirs([text])


@pytest.mark.parametrize("variant", VARIANTS, ids=json.dumps)
def test_vocabulary_ids_equal_transformers(vocabulary_folder: Any, variant: dict) -> None:
    folder = vocabulary_folder(variant)
    texts = [*AWKWARD, "Good gOOd GOOD Soup éÉ Café CAFÉ 学校犬犬 abing Aing a,b"]
    ours = Tokenizer.from_folder(folder)
    assert ours.encode(texts) == their_ids(folder)(texts)


def test_default_settings_are_those_of_bert(vocabulary_folder: Any) -> None:
    folder = vocabulary_folder({})
    (folder / "tokenizer_config.json").unlink()
    ours = Tokenizer.from_folder(folder)
    assert ours.encode(["Good É"]) == their_ids(folder)(["Good É"]) == ours.encode(["good é"])


@pytest.mark.parametrize("lower", [True, False])
def test_tokenizer_config_wins_over_tokenizer_json(vocabulary_folder: Any, lower: bool) -> None:
    folder = vocabulary_folder({"do_lower_case": not lower})
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.txt").unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    texts = ["Good good GOOD É é"]
    assert Tokenizer.from_folder(folder).encode(texts) == their_ids(folder)(texts)
    (folder / "tokenizer_config.json").write_text("{}")  # now only tokenizer.json matters
    upper, small = Tokenizer.from_folder(folder).encode(["GOOD", "good"])
    assert (upper == small) is not lower


def test_truncation_and_padding_of_tokenizer_json_are_ignored(tiny_checkpoint: Path, tmp_path):
    plain = Tokenizer.from_folder(tiny_checkpoint)
    plain.save(tmp_path, 128)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.enable_truncation(4)
    library.enable_padding(length=16)
    library.save(str(tmp_path / "tokenizer.json"))
    text = "the good soup is warm and the bad soup is cold"
    assert Tokenizer.from_folder(tmp_path).encode([text, "a"]) == plain.encode([text, "a"])
    assert len(plain.encode([text])[0]) == 11


def test_a_lone_surrogate_is_read_as_a_replacement_character(
    minilm_pair: tuple[Tokenizer, Any],
) -> None:
    ours, _ = minilm_pair
    broken = ["good\ud800 soup", "\udfff", "fine", "\ud83c\udf5c"]
    assert ours.encode(broken) == ours.encode(["good\ufffd soup", "\ufffd", "fine", "🍜"])


def test_added_tokens_have_the_ids_in_the_config(vocabulary_folder: Any) -> None:
    added = {
        str(number): {"content": name, "special": special, "normalized": not special}
        for number, name, special in [(79, "<user>", True), (78, "hotpot", False)]
    }
    folder = vocabulary_folder({"added_tokens_decoder": added})
    rows = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    added = {str(rows + int(key) - 78): value for key, value in added.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    ours = Tokenizer.from_folder(folder)
    texts = ["a <user> hotpot HOTPOT <USER>"]
    assert ours.size == rows + 2
    assert ours.encode(texts) == their_ids(folder)(texts)

    (folder / "tokenizer_config.json").unlink()
    (folder / "added_tokens.json").write_text(json.dumps({"hotpot": rows}))
    assert Tokenizer.from_folder(folder).encode(texts) == their_ids(folder)(texts)

    (folder / "added_tokens.json").write_text(json.dumps({"hotpot": rows + 5}))
    with pytest.raises(ComityError, match="the added token hotpot has id"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("variant", VARIANTS, ids=json.dumps)
def test_saved_tokenizers_give_the_same_ids(
    vocabulary_folder: Any, variant: dict, tmp_path: Path
) -> None:
    ours = Tokenizer.from_folder(vocabulary_folder(variant))
    ours.save(tmp_path, 64)
    expected = ours.encode(AWKWARD)
    again = Tokenizer.from_folder(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode(AWKWARD) == expected
    assert again.fingerprint == ours.fingerprint
    assert their_ids(tmp_path)(AWKWARD) == expected
    assert theirs.model_max_length == 64
    pair = theirs("good", "soup")
    first, second = ours.encode(["good", "soup"])
    assert pair["input_ids"] == [
        ours.cls_id,
        *first,
        ours.sep_id,
        *second,
        ours.sep_id,
    ]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(
        "good", "soup"
    )
    assert library.ids == pair["input_ids"]
    assert library.type_ids == pair["token_type_ids"]
    (tmp_path / "tokenizer.json").unlink()  # vocab.txt alone gives the same ids
    assert Tokenizer.from_folder(tmp_path).encode(AWKWARD) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "WhitespaceSplit"}},
        {
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": False,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            }
        },
    ],
)
def test_a_tokenizer_of_another_model_is_saved_unchanged(
    tiny_checkpoint: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    Tokenizer.from_folder(tiny_checkpoint).save(tmp_path, 128)
    state = json.loads((tmp_path / "tokenizer.json").read_text()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = Tokenizer.from_folder(tmp_path)
    texts = ["Good SOUP, café\x07 犬犬"]
    expected = ours.encode(texts)
    assert expected != Tokenizer.from_folder(tiny_checkpoint).encode(texts)
    ours.save(tmp_path / "again", 128)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert theirs(texts[0], add_special_tokens=False)["input_ids"] == expected[0]
    assert Tokenizer.from_folder(tmp_path / "again").encode(texts) == expected


def test_special_tokens_may_have_other_names(tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = (tiny_checkpoint / "vocab.txt").read_text(encoding="utf-8")
    words = words.replace("[CLS]", "<s>").replace("[UNK]", "<unk>")
    (tmp_path / "vocab.txt").write_text(words, encoding="utf-8")
    names = {"cls_token": "<s>", "unk_token": {"content": "<unk>", "lstrip": False}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    ours = Tokenizer.from_folder(tmp_path)
    assert (ours.unk_id, ours.cls_id, ours.encode(["犬 <s>"])) == (1, 2, [[1, 2]])

    ours.save(tmp_path, 128)
    (tmp_path / "special_tokens_map.json").unlink()
    assert Tokenizer.from_folder(tmp_path).fingerprint == ours.fingerprint
    config = {"cls_token": "<s>"}  # tokenizer.json contains the unknown token
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.from_folder(tmp_path).unk_id == 1


def test_the_fingerprint_changes_with_everything_that_affects_ids(
    vocabulary_folder: Any, tmp_path: Path
) -> None:
    folders = [vocabulary_folder(variant) for variant in VARIANTS]
    seen = [Tokenizer.from_folder(folder).fingerprint for folder in folders]
    assert len(set(seen)) == len(VARIANTS) - 1  # the sixth equals the second
    assert seen[1] == seen[5]
    copy = shutil.copytree(folders[0], tmp_path / "copy")
    assert Tokenizer.from_folder(copy).fingerprint == seen[0]
    words = (copy / "vocab.txt").read_text(encoding="utf-8")
    (copy / "vocab.txt").write_text(words.replace("soup", "stew"), encoding="utf-8")
    assert Tokenizer.from_folder(copy).fingerprint != seen[0]

    roles = {"cls_token": "[SEP]", "sep_token": "[CLS]"}
    swapped = Tokenizer.from_folder(vocabulary_folder(roles))
    assert (swapped.cls_id, swapped.sep_id) == (3, 2)
    assert swapped.fingerprint != seen[0]


def test_the_size_is_the_largest_id_plus_one(vocabulary_folder: Any) -> None:
    folder = vocabulary_folder({})
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert Tokenizer.from_folder(folder).size == len(lines)
    # In transformers, a token that occurs twice has the number of its last line.
    (folder / "vocab.txt").write_text("\n".join([*lines, "soup"]) + "\n\n", encoding="utf-8")
    ours = Tokenizer.from_folder(folder)
    assert ours.encode(["soup"]) == their_ids(folder)(["soup"]) == [[len(lines)]]
    assert ours.size == len(lines) + 1


def test_lines_may_end_with_crlf(vocabulary_folder: Any) -> None:
    folder = vocabulary_folder({})
    expected = Tokenizer.from_folder(folder).encode(AWKWARD)
    content = (folder / "vocab.txt").read_bytes().replace(b"\n", b"\r\n")
    (folder / "vocab.txt").write_bytes(content)
    assert Tokenizer.from_folder(folder).encode(AWKWARD) == expected


def test_a_vocabulary_may_lack_pad_and_mask(vocabulary_folder: Any) -> None:
    folder = vocabulary_folder({})
    words = (folder / "vocab.txt").read_text(encoding="utf-8")
    words = words.replace("[PAD]", "pad").replace("[MASK]", "mask")
    (folder / "vocab.txt").write_text(words, encoding="utf-8")
    ours = Tokenizer.from_folder(folder)
    assert (ours.pad_id, ours.mask_id) == (0, None)
    assert ours.size == len(words.splitlines())


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize("missing", [["[UNK]"], ["[CLS]"], ["[SEP]"], ["[CLS]", "[UNK]"]])
def test_a_missing_special_token_is_an_error(
    tiny_checkpoint: Path, tmp_path: Path, form: str, missing: list[str]
) -> None:
    Tokenizer.from_folder(tiny_checkpoint).save(tmp_path, 128)
    if form == "vocab.txt":
        (tmp_path / "tokenizer.json").unlink()
    else:
        (tmp_path / "vocab.txt").unlink()
    content = (tmp_path / form).read_text(encoding="utf-8")
    state = json.loads(content) if form == "tokenizer.json" else None
    for name in missing:
        content = content.replace(name, "[XXX]" + name[1])
        if state:
            state["model"]["vocab"]["[XXX]" + name] = state["model"]["vocab"].pop(name)
            state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] != name]
    (tmp_path / form).write_text(json.dumps(state) if state else content, encoding="utf-8")
    with pytest.raises(ComityError) as caught:
        Tokenizer.from_folder(tmp_path)
    (error,) = caught.value.messages
    assert f"{tmp_path / form}: the vocabulary has no {', '.join(missing)}, which" in error


def test_a_folder_without_tokenizer_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ComityError, match=r"no tokenizer\.json and no vocab\.txt"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("tokenizer.json", b"not json", "not valid JSON"),
        ("tokenizer.json", b'{"model": {"type": "WordPiece"}}', "not a tokenizer"),
        ("vocab.txt", b"[PAD]\n\xff\xfe\n", "not UTF-8"),
        ("tokenizer_config.json", b"[]", "not a JSON object"),
        (
            "tokenizer_config.json",
            b'{"do_lower_case": "yes"}',
            '"do_lower_case" must be true or false, got "yes"',
        ),
        (
            "tokenizer_config.json",
            b'{"strip_accents": 1}',
            '"strip_accents" must be true, false or null, got 1',
        ),
        ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}', "added tokens"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"5": {"x": 1}}}', "added tokens"),
        (
            "tokenizer_config.json",
            b'{"added_tokens_decoder": {"5": {"content": 3}}}',
            "added tokens",
        ),
    ],
)
def test_a_broken_file_is_one_message(
    tiny_checkpoint: Path, tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (folder / file).write_bytes(content)
    with pytest.raises(ComityError) as caught:
        Tokenizer.from_folder(folder)
    (error,) = caught.value.messages
    assert error.startswith(f"{folder / file}")
    assert message in error
    assert "\n" not in error


# --- texts without tokens -------------------------------------------------------------------------


def test_case_tx_02_texts_without_tokens(shared: Path) -> None:
    case = shared / "cases" / "files" / "TX-02"
    tokenizer = Tokenizer.from_folder(case)
    texts = [json.loads(line)["text"] for line in (case / "blank.jsonl").open(encoding="utf-8")]
    expected = json.loads((case / "expected.json").read_text())["expect"]
    counts = [len(ids) for ids in tokenizer.encode(texts)]
    assert counts == expected["tokens_without_cls_sep"]


def test_texts_without_tokens_do_not_shift_the_others(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_folder(tiny_checkpoint)
    blank = ["", "\n", "\u200c", "\u2062\u200e", "\x01", "\u00a0\u2003", "\ufffd", "\U000e0020"]
    mixed = [text for empty in blank for text in (empty, "good soup")]
    ids = tokenizer.encode(mixed)
    assert ids[0::2] == [[]] * len(blank)
    assert ids[1::2] == tokenizer.encode(["good soup"]) * len(blank)
    assert len(ids[1]) == 2
    assert tokenizer.encode([]) == []


# --- case and repeated tokens ---------------------------------------------------------------------

CAPITALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Paris", "paris", "in", "##s"]


@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json"])
def test_a_cased_vocabulary_is_read_as_set(
    write_checkpoint: Any, tmp_path: Path, form: str
) -> None:
    """Lower-cased as in transformers where nothing is set, with a note."""
    folder = write_checkpoint(tmp_path / "cased", tokens=CAPITALS)
    (folder / "tokenizer_config.json").unlink()
    if form == "tokenizer.json":
        Tokenizer.from_folder(folder).save(folder, 128)
        (folder / "tokenizer_config.json").unlink()
        (folder / "vocab.txt").unlink()
    plain, cased, lower = (Tokenizer.from_folder(folder, value) for value in (None, False, True))
    assert plain.encode(["Paris in"]) == lower.encode(["Paris in"]) == [[6, 7]]
    assert cased.encode(["Paris in"]) == [[5, 7]]
    (note,) = plain.notes
    assert f"{folder / form}: texts are lower-cased, but 1 token" in note
    assert cased.notes == lower.notes == []
    assert plain.fingerprint == lower.fingerprint != cased.fingerprint
    cased.save(tmp_path / "saved", 128)
    assert Tokenizer.from_folder(tmp_path / "saved").fingerprint == cased.fingerprint


def test_the_files_are_those_that_the_library_writes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    Tokenizer.from_folder(tiny_checkpoint).save(tmp_path / "ours", 128)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    backend.save(str(tmp_path / "tokenizer.json"))
    backend.model.save(str(tmp_path))
    for name in ("tokenizer.json", "vocab.txt"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert (tmp_path / "vocab.txt").read_bytes() == (tiny_checkpoint / "vocab.txt").read_bytes()


def test_a_vocabulary_with_an_empty_line_keeps_its_ids(
    write_checkpoint: Any, tmp_path: Path
) -> None:
    tokens = [*CAPITALS[:5], "", "paris", "in"]
    folder = write_checkpoint(tmp_path / "gap", tokens=tokens)
    Tokenizer.from_folder(folder).save(tmp_path / "saved", 128)
    assert (tmp_path / "saved" / "vocab.txt").read_text().split("\n") == [*tokens, ""]
    loaded = transformers.BertTokenizer(str(tmp_path / "saved" / "vocab.txt"))
    assert loaded.convert_tokens_to_ids(["paris", "in"]) == [6, 7]


def test_an_uncased_vocabulary_that_is_not_lower_cased_gives_a_note(tiny_checkpoint: Path) -> None:
    (note,) = Tokenizer.from_folder(tiny_checkpoint, lower_case=False).notes
    assert "every word that has one is unknown" in note
    assert Tokenizer.from_folder(tiny_checkpoint).notes == []


def test_lower_case_without_effect_is_an_error(tmp_path: Path) -> None:
    vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "a": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_folder(tmp_path).encode(["a"]) == [[3]]
    with pytest.raises(ComityError, match=r"encoder\.lower_case has no effect"):
        Tokenizer.from_folder(tmp_path, lower_case=True)


def test_repeated_tokens_give_a_note(write_checkpoint: Any, tmp_path: Path) -> None:
    """The id is that of transformers."""
    folder = write_checkpoint(tmp_path, tokens=[*CAPITALS[:5], "a", "b", "a"])
    tokenizer = Tokenizer.from_folder(folder)
    (note,) = tokenizer.notes
    assert "1 token occurs twice" in note
    assert "first: a, lines 6 and 8" in note
    assert tokenizer.encode(["a"]) == [[7]]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_vocabulary_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "vocab.txt").write_text(content)
    with pytest.raises(ComityError, match=r"vocab\.txt: is empty"):
        Tokenizer.from_folder(tmp_path)
