"""`Texts`: every form of rows gives the same texts, and a wrong one is one sentence."""

from collections import deque

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity import ComityError
from comity.inference.texts import Texts

pandas = pytest.importorskip("pandas")

ONE, TWO = ["review"], ["a", "b"]
TEXTS = ["good", "bad tea", ""]
PAIRS = [("a", "b"), ("c d", ""), ("e", "f")]


def table(index=None):
    first, second = zip(*PAIRS, strict=True)
    return pandas.DataFrame({"a": first, "b": second, "review": TEXTS, "stars": [1, 2, 3]}, index)


@pytest.mark.parametrize(
    "rows",
    [
        TEXTS,
        tuple(TEXTS),
        iter(TEXTS),
        deque(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        np.array(TEXTS).reshape(3, 1),
        [[text] for text in TEXTS],
        [{"review": text, "stars": 5} for text in TEXTS],
        {"review": TEXTS, "stars": [1, 2, 3]},
        {"review": np.array(TEXTS)},
        pyarrow.array(TEXTS),
        pyarrow.table({"review": TEXTS}),
        table(),
        table([5, 7, 9])["review"],
        table().to_dict("records"),
        table()[["review"]].values,
        list(table()[["review"]].itertuples(index=False)),
        [row for _, row in table()[["review"]].iterrows()],
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_every_form_of_texts(rows):
    texts = Texts(rows, "mood")
    assert texts.columns(ONE) == [TEXTS]
    assert not texts.one


@pytest.mark.parametrize(
    "rows",
    [
        PAIRS,
        iter(PAIRS),
        [list(pair) for pair in PAIRS],
        np.array(PAIRS),
        zip(*zip(*PAIRS, strict=True), strict=True),
        table(),
        table(["x", "y", "z"]),
        table().to_dict("records"),
        pandas.Series(PAIRS, index=[7, 8, 9]),
        {"b": [b for _, b in PAIRS], "a": [a for a, _ in PAIRS]},
        [{"a": a, "b": b} for a, b in PAIRS],
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_every_form_of_pairs(rows):
    assert Texts(rows, "alike").columns(TWO) == [
        list(column) for column in zip(*PAIRS, strict=True)
    ]


@pytest.mark.parametrize("rows", [[], iter([]), np.array([]), table().iloc[:0], {"a": [], "b": []}])
def test_no_rows(rows):
    assert Texts(rows, "alike").columns(TWO) == [[], []]


def test_one_text_and_dotted_names():
    assert Texts("good", "mood").one
    assert Texts("good", "mood").columns(ONE) == [["good"]]
    assert Texts([{"data": {"text": "good"}}], "mood").columns(["data.text"]) == [["good"]]
    assert Texts(table().set_axis([0, 1, 2, 3], axis=1), "mood").columns([2]) == [TEXTS]


@pytest.mark.parametrize(
    ("rows", "names", "sentence"),
    [
        (["a", None], ONE, 'mood: row 1 has no text (None); leave it out, or write ""'),
        (["a", float("nan")], ONE, 'mood: row 1 has no text (nan); leave it out, or write ""'),
        (
            pandas.Series(["a", None, "b", pandas.NA], index=[7, 8, 9, 10], dtype=object),
            ONE,
            "mood: row 1 (index 8) has no text (None) (and 1 more like it); leave it out, "
            'or write ""',
        ),
        ([("a", None)], TWO, 'mood: row 0 has no text (None); leave it out, or write ""'),
        ([{"review": None}], ONE, 'mood: row 0 has no text (None); leave it out, or write ""'),
        ([b"a"], ONE, "mood: row 0 must be one text, got b'a'; decode it: text.decode(\"utf-8\")"),
        (
            b"abc",
            ONE,
            "mood: expected a text or a list of rows, got b'abc'; decode it: "
            'text.decode("utf-8")',
        ),
        (5, ONE, "mood: expected a text or a list of rows, got 5"),
        (None, ONE, "mood: expected a text or a list of rows, got None"),
        (
            np.array("a"),
            ONE,
            "mood: expected a text or a list of rows, got array('a', dtype='<U1')",
        ),
        ([1, 2], ONE, "mood: row 0 must be one text, got 1 (and 1 more like it)"),
        (["a", ("b", "c")], ONE, "mood: row 1 must be one text, got ('b', 'c')"),
        ([[["a"]]], ONE, "mood: row 0 must be one text, got ['a']"),
        ([{"a"}], ONE, "mood: row 0 must be one text, got {'a'}"),
        ({"a"}, ONE, "mood: a set has no order; give a list of texts"),
        (
            [{"text": "a"}],
            ONE,
            'mood: row 0: no column "review" (the columns are "text"); correct the name',
        ),
        (
            {"text": ["a"]},
            ONE,
            'mood: no column "review" (the columns are "text"); correct the name',
        ),
        (
            {"review": "abc"},
            ONE,
            "mood: expected a list of texts under \"review\", got 'abc'; write one row as [{...}]",
        ),
        (
            {"a": ["x"], "b": ["y", "z"]},
            TWO,
            'mood: the columns "a" and "b" have 1 and 2 rows; give each row both texts',
        ),
        (
            pandas.DataFrame([["a", "b"]], columns=["review", "review"]),
            ONE,
            'mood: the column "review" occurs twice; rename one',
        ),
        (
            ("x", "y"),
            TWO,
            "mood: row 0 must be a pair of texts, got 'x' (and 1 more like it); write one pair as "
            "[(first, second)]",
        ),
        ([("a", "b", "c")], TWO, "mood: row 0 must be a pair of texts, got ('a', 'b', 'c')"),
        (
            pandas.Series([("a", "b"), "alone", ("c", "d")], index=[7, 8, 9]),
            TWO,
            "mood: row 1 (index 8) must be a pair of texts, got 'alone'",
        ),
    ],
)
def test_a_wrong_form_is_one_sentence(rows, names, sentence):
    with pytest.raises(ComityError) as error:
        Texts(rows, "mood").columns(names)
    assert error.value.messages == [sentence]


def test_a_path_is_not_a_text(tmp_path):
    path = tmp_path / "data.csv"
    assert Texts(str(path), "mood").columns(ONE) == [[str(path)]]
    path.write_text("review\ngood\n")
    with pytest.raises(
        ComityError, match=r"data.csv\" is a file, not a text; run \"comity predict"
    ):
        Texts(str(path), "mood")
    with pytest.raises(ComityError, match="expected a text or a list of rows, got PosixPath"):
        Texts(path, "mood")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


@given(st.lists(anything, max_size=4) | anything, st.sampled_from([ONE, TWO, [0]]))
def test_rows_out_equal_rows_in_or_it_is_an_error(rows, names):
    """Nothing else is raised, and no text is made up."""
    try:
        columns = Texts(rows, "mood").columns(names)
    except ComityError as error:
        assert len(error.messages) == 1
        return
    count = 1 if isinstance(rows, str) else len(rows)
    if not isinstance(rows, dict):
        assert [len(column) for column in columns] == [count] * len(names)
    assert all(isinstance(text, str) for column in columns for text in column)
