"""Tables at every width."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from comity.terminal.table import Table

WORDS = st.text("abcxyz-", min_size=1, max_size=30)
NUMBERS = st.integers(0, 10**9).map("{:,}".format) | st.floats(-1, 1).map("{:.4f}".format)
INTERVALS = st.tuples(NUMBERS, NUMBERS, NUMBERS).map("{0[0]} ({0[1]} to {0[2]})".format)
ROWS = st.lists(st.tuples(WORDS, NUMBERS, INTERVALS), min_size=1, max_size=4)


def rendered(rows, width: int) -> list[str]:
    table = Table(title="Scores", title_justify="left")
    table.add_column("task")
    table.add_column("best score", justify="right")
    table.add_column("with an interval", justify="right")
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=width, markup=False, highlight=False).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@given(ROWS, st.integers(24, 120))
def test_no_number_is_cut_and_no_line_too_long(rows, width):
    lines = rendered(rows, width)
    assert max(map(len, lines)) <= width
    words = "\n".join(lines).replace("│", " ").split()
    for _, number, interval in rows:
        assert number in words
        assert all(word in words for word in interval.split())


def test_long_words_are_folded_and_long_numbers_are_not():
    number, word, folded = f"{10**23:,}", 20 * "ab", 0
    for width in range(36, 120):
        words = "\n".join(rendered([(word, number, "0.5")], width)).split()
        assert number in words
        folded += word not in words
    assert folded


def test_a_table_that_fits_is_a_table():
    lines = rendered([("mood", "0.5000", "0.5000 (0.4000 to 0.6000)")], 80)
    assert lines[0] == "Scores"
    assert lines[4] == "│ mood │     0.5000 │ 0.5000 (0.4000 to 0.6000) │"


def test_columns_are_narrowed_first():
    lines = rendered([("mood", "0.5000", "0.5000 (0.4000 to 0.6000)")], 40)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [
        ["mood", "0.5000", "0.5000 (0.4000"],
        ["", "", "to 0.6000)"],
    ]


def test_rows_are_printed_below_each_other_where_columns_do_not_fit():
    rows = [("mood", "0.5000", "0.5000 (0.4 to 0.6)"), ("", "12,345", Text("-"))]
    assert rendered(rows, 43) != rendered(rows, 25)
    assert rendered([(12 * "ab", *row[1:]) for row in rows], 38) == [
        "Scores",
        "task              abababababababababab",
        "                  abab",
        "best score        0.5000",
        "with an interval  0.5000 (0.4 to 0.6)",
        "",
        "task              abababababababababab",
        "                  abab",
        "best score        12,345",
        "with an interval  -",
    ]


def test_each_cell_below_its_heading_where_even_that_is_too_wide():
    assert rendered([("mood", "0.5000", "0.5000 (0.4 to 0.6)")], 24)[:5] == [
        "Scores",
        "task",
        "  mood",
        "best score",
        "  0.5000",
    ]
