"""Delimited text: quotes that enclose fields or are text, delimiters, headers, ragged rows."""

import csv
import io
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.errors import ComityError, ErrorList
from comity.tables.csv_reader import DelimitedTable
from comity.tables.reader import open_table
from comity.tables.rows import Row, TableFormat

Read = tuple[list[Row], list[str]]


def read(path: Path, content: str, columns: Any = ("text", "label"), **format: Any) -> Read:
    """Rows of a file with `content`, and the messages of all errors."""
    path.write_bytes(content.encode())
    errors = ErrorList(limit=100)
    rows: list[Row] = []
    try:
        rows.extend(DelimitedTable(path, TableFormat(**format), columns).rows(errors))
        errors.check()
    except ComityError as error:
        return rows, error.messages
    return rows, []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


# --- whether quotes enclose fields ----------------------------------------------------------------


def news(first: str, second: str, delimiter: str = "\t") -> str:
    """Lines of an unquoted file in which two fields hold the given texts."""
    rows = [("a", first, "1"), ("b", "Fog.", "2"), ("c", second, "3"), ("d", "Sun.", "4")]
    return "".join(delimiter.join(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('"Frost tonight', "Rain."),  # never closes
        ('"Frost tonight', 'they say "rain"'),  # the next quote is followed by text
        ('"Frost" tonight', "Rain."),  # text follows the closing quote
        ('"Frost"', '12" of snow'),  # one well-formed field beside a plain quote
        ("Frost", 'They say "rain"'),  # no field opens with a quote
        ('"', "Rain."),
        ('""Frost"" tonight', "Rain."),
    ],
)
@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_quotes_as_text_in_lines_of_one_width(path: Path, first: str, second: str, delimiter: str):
    content = news(first, second, delimiter)
    for quoting in (None, False):
        rows, messages = read(path, content, [1, 2], header=False, quoting=quoting)
        assert messages == []
        want = [(first, "1"), ("Fog.", "2"), (second, "3"), ("Sun.", "4")]
        assert rows == list(enumerate(want, 1))
    path = path.with_name("headed.tsv")
    rows, _ = read(path, delimiter.join(["id", "text", "label"]) + "\n" + content)
    assert [row for _, row in rows] == want


@pytest.mark.parametrize(
    ("first", "second"),
    [('"Frost tonight', "Rain."), ('"Frost" tonight', "Rain."), ('"Frost', 'say "rain"')],
)
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_broken_quotes_next_to_commas_are_errors(
    path: Path, first: str, second: str, delimiter: str
):
    content = news(first, second, delimiter)
    rows, messages = read(path, content, [1, 2], header=False)
    if messages[0].startswith(f"{path}:1: a quoted field starts here and is not closed by the end"):
        assert rows == []  # all lines may belong to the field
    else:
        assert [line for line, _ in rows] == [2, 3, 4]  # no other line is lost
    assert len(messages) == 1 and messages[0].startswith(f"{path}:1: a quoted field starts")
    assert "quoting = false" in messages[0]
    rows, messages = read(path, content, [1, 2], header=False, quoting=False)
    assert messages == [] and rows[0] == (1, (first, "1")) and len(rows) == 4


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
def test_joined_lines_that_look_well_formed_are_ambiguous(path: Path, delimiter: str):
    # With quotes this is a clean table of three rows, without a table of four.
    content = news('"Frost tonight', 'and rain."', delimiter)
    content = content.replace("Fog.", "Fog")
    rows, messages = read(path, content, [1, 2], header=False)
    assert rows == [] and len(messages) == 1
    assert messages[0].startswith(f"{path}:1: a quoted field starts here and ends on line 3")
    assert "quoting = false" in messages[0] and "quoting = true" in messages[0]
    rows, messages = read(path, content, [1, 2], header=False, quoting=False)
    assert len(rows) == 4 and messages == []


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ('text,label\n"Hail, then\nsleet.",x\n"Dew.",y\n', {2: "Hail, then\nsleet.", 4: "Dew."}),
        ('text,label\n"Hail\r\n\r\nor fog",x\nDew.,y\n', {2: "Hail\r\n\r\nor fog", 5: "Dew."}),
        ('text\tlabel\n"Hail\nsleet"\tx\nDew.\ty\n', {2: "Hail\nsleet", 4: "Dew."}),
        ('text\tlabel\n"Hail\tor sleet"\tx\nDew.\ty\n', {2: "Hail\tor sleet", 3: "Dew."}),
        ('text,label\n"""hail""\nor, fog",x\nDew.,y', {2: '"hail"\nor, fog', 4: "Dew."}),
        ('"text","label"\n"Hail","x"\n"","y"\n', {2: "Hail", 3: ""}),
        ('"text";"label"\n"Hail";"x"\n', {2: "Hail"}),
        ('text,label\n12" of hail,x\n"Dew, cold",y\n', {2: '12" of hail', 3: "Dew, cold"}),
        ('text,label\n"""Hail""",x\n', {2: '"Hail"'}),
    ],
)
def test_quotes_that_enclose(path: Path, content: str, want: dict[int, str]):
    rows, messages = read(path, content)
    assert messages == []
    assert {line: row[0] for line, row in rows} == want


@pytest.mark.parametrize(
    "content",
    [
        'text\tlabel\n"Frost\t 1\nand rain."\t 2\n',  # a space after a tab does not make it prose
        'text, label\n"Frost, 1\nand rain.", 2\n',  # here a space follows each delimiter
        'text\n"Frost\nand rain."\nFog.\n',  # one column
        'text\tlabel\n"a ""b"" c"\tx\n"Frost\ty\nand rain."\tz\n',  # evidence for both
    ],
)
def test_more_joined_lines_that_are_ambiguous(path: Path, content: str):
    rows, messages = read(path, content, ["text"])
    assert rows == [] and len(messages) == 1 and "quoting = true" in messages[0]


def test_quotes_that_would_join_fields_are_text(path: Path):
    rows, messages = read(path, 'text\tlabel\n"Frost\train"\n\nFog.\t"x"\nDew.\ty\n')
    assert messages == [] and [row for _, row in rows][:2] == [
        ('"Frost', 'rain"'),
        ("Fog.", '"x"'),
    ]


def test_most_rows_in_quotes(path: Path):
    rows, messages = read(path, '"text"\t"label"\n' + '"Hail"\t"x"\n' * 3 + '"open\t"y"\n')
    assert [row for _, row in rows] == [("Hail", "x")] * 3
    assert len(messages) == 1 and messages[0].startswith(f"{path}:5: a quoted field starts")


@pytest.mark.parametrize("line", ['"Frost"\tx\tz', '""""\tx'])
def test_lines_that_are_no_evidence(path: Path, line: str):
    rows, messages = read(path, f'text\tlabel\n{line}\n"open\ty\nFog.\tz\nDew.\tz\n')
    assert rows[-3] == (3, ('"open', "y"))
    assert len(rows) + len(messages) == 4 and all(f"{path}:2: " in s for s in messages)


def test_enough_well_formed_rows_decide_where_one_does_not(path: Path):
    doubt = '"Frost,x\nand rain.",y\n'
    rows, messages = read(path, "text,label\n" + doubt + '"Hail, snow",x\n' * 2)
    assert messages == [] and rows[0] == (2, ("Frost,x\nand rain.", "y")) and len(rows) == 3


@pytest.mark.parametrize("field", ['"say ""hail"" thrice"', '"hail\tand fog"', '"hail\nand fog"'])
def test_one_field_that_needs_its_quotes_decides(path: Path, field: str):
    want = field[1:-1].replace('""', '"')
    head = f'text\tlabel\n{field}\tx\n12" of dew\ty\n' + "Fog.\tz\n" * 5
    rows, messages = read(path, head)
    assert messages == [] and [row[0] for _, row in rows[:3]] == [want, '12" of dew', "Fog."]
    rows, messages = read(path, head + '"open\tz\n')  # then an unclosed quote is an error
    assert len(rows) == 7 and len(messages) == 1 and "a quoted field starts" in messages[0]


def test_errors_of_quotes_name_where_they_opened(path: Path):
    content = 'text,label\n"a, b",1\n"open, wrongly\nc,3\n"d" e,4\n"f, g",5\n'
    rows, messages = read(path, content)
    assert [line for line, _ in rows] == [2, 4, 6]
    assert [message.split(": ")[0] for message in messages] == [f"{path}:3", f"{path}:5"]
    assert all("quoting = false" in message for message in messages)


def test_a_doubtful_quote_far_down_is_still_found(path: Path):
    head = "id\ttext\tlabel\n" + "1\tplain words\tx\n" * 30_000
    rows, messages = read(path, head + '2\t"open\ty\n3\tsnow\ty\n')
    assert messages == [] and rows[-2] == (30_002, ('"open', "y")) and len(rows) == 30_002
    head = head.replace("\t", ",")
    rows, messages = read(path, head + '2,"open,y\n3,snow,y\n')
    assert len(rows) == 30_000 and len(messages) == 1 and f"{path}:30002: " in messages[0]


@pytest.mark.parametrize("quoting", [None, True])
def test_an_unclosed_quote_is_one_error_whatever_follows(path: Path, quoting: bool | None):
    # The lines after it have another number of fields, as those of a long text.
    content = 'text,label\n"a, b",0\n"open,1\n' + "long line of words\n" * 100_000
    rows, messages = read(path, content, quoting=quoting)
    assert rows == [(2, ("a, b", "0"))]
    assert len(messages) == 1
    assert messages[0].startswith(
        f"{path}:3: a quoted field starts here and is not closed by the end of the file"
    )


def test_after_a_quote_closed_in_the_wrong_place_lines_are_not_errors(path: Path):
    body = "a line of prose\n" * 500
    content = f'text,label\n"A, b",1\n"{body}they say "no" to it\n{body}",2\n"C, d",3\n'
    _, messages = read(path, content)
    assert messages[0].startswith(f"{path}:3: a quoted field starts here, and its closing quote on")
    assert "line 503" in messages[0]
    # Where the text really ends, another quoted field seems to start.
    assert [message.split(": ")[0] for message in messages[1:]] == [f"{path}:1004"]


@pytest.mark.parametrize("header", [True, False])
def test_texts_have_no_limit_but_memory(path: Path, header: bool):
    # Longer than the lines that are looked at first, on many lines and on one, and doubled quotes.
    texts = ["word " * 400_000, 'many "quoted" words\n' * 60_000, "\r\n\t;," * 300_000, "short"]
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerows([["text", "label"]] * header + [[text, "x"] for text in texts])
    rows, messages = read(
        path, content.getvalue(), ["text", "label"] if header else [0, 1], header=header
    )
    assert messages == []
    assert [row for _, row in rows] == [(text, "x") for text in texts]


def test_a_long_text_is_not_an_error(path: Path):
    text = "word, " * 100_000
    rows, messages = read(path, f'text,label\n"{text}",x\n')
    assert messages == [] and rows == [(2, (text, "x"))]


def test_a_broken_header(path: Path):
    rows, messages = read(path, 'text,"label\na,b\n"c, d",e\n')
    assert rows == [] and len(messages) == 1
    assert messages[0].startswith(f"{path}:1: a quoted field starts")


# --- which delimiter ------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_delimiters_are_detected_whatever_the_ending(path: Path, delimiter: str, name: str):
    noise = [mark + " " for mark in ",;|" if mark != delimiter]
    texts = ["".join(["Oats", *noise, "rye"]), "".join(["Two", *noise, *noise, "swans"]), "Fog"]
    want = [(text, "3,5" if delimiter != "," else "35") for text in texts]
    lines = ["text" + delimiter + "label", *(delimiter.join(row) for row in want)]
    path = path.with_name(name)
    rows, messages = read(path, "\n".join(lines))
    assert messages == [] and [row for _, row in rows] == want
    rows, messages = read(path, "\n".join(lines[1:]), [0, 1], header=False)
    assert messages == [] and [row for _, row in rows] == want


@pytest.mark.parametrize("spelling", ["tab", "\t", "\\t"])
def test_a_delimiter_that_is_set(path: Path, spelling: str):
    content = "text,label\tscore\na,b\t1\n"
    rows, _ = read(path, content, ["text,label", "score"], delimiter=spelling)
    assert rows == [(2, ("a,b", "1"))]
    _, messages = read(path, content, ["text"], delimiter=spelling)
    assert '"text,label"' in messages[0]


@pytest.mark.parametrize("wrong", ["", ",,", '"', "\n", "tabs"])
def test_invalid_delimiters(path: Path, wrong: str):
    _, messages = read(path, "text,label\na,b\n", delimiter=wrong)
    assert len(messages) == 1 and "delimiter =" in messages[0]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["sep", "SEP"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "~"])
def test_the_line_that_tells_excel_the_delimiter(path: Path, delimiter, name, end, mark):
    lines = [f"{name}={delimiter}", "text,label", "a;b~c|d,up", '"e,f\tg",x,down', '"h', 'i",up']
    content = mark + end.join(lines[:1] + [line.replace(",", delimiter) for line in lines[1:]])
    rows, errors = read(path, content)
    assert rows[-1] == Row(5, (f"h{end}i", "up"))
    if delimiter in ",\t":
        assert rows[0] == Row(3, ("a;b~c|d", "up"))
        (error,) = errors
        assert f"{path}:4: 3 fields, but the header has 2" in error


def test_a_delimiter_that_is_set_differs_from_that_for_excel(path: Path):
    assert read(path, "sep=;\na;b,1\nc;d,2\n", ["a;b"], delimiter=",") == ([Row(3, ("c;d",))], [])


@pytest.mark.parametrize(("content", "lines"), [("sep=;\na\n\nb\n", [2, 3, 4]), ("a\nb\n", [1, 2])])
def test_the_line_for_excel_is_no_row_without_a_header(path: Path, content, lines):
    rows, errors = read(path, content, [0], header=False, delimiter=";")
    assert ([row.line for row in rows], errors) == (lines, [])


def test_doubts_about_quotes_name_the_line_after_that_for_excel(path: Path):
    content = "sep=|\ntext|label\n" + '"a|b\nc"|d\n' * 3
    (error,) = read(path, content)[1]
    assert error.startswith(f"{path}:3: a quoted field starts here and ends on line 4")


@pytest.mark.parametrize("first", ["sep=a", "sep=;;", "separator=;", 'sep="'])
def test_other_first_lines_are_headers(path: Path, first: str):
    (error,) = read(path, f"{first},label\nx,up\n", ["text"])[1]
    assert error.startswith(f"{path}:1: no column")


def test_ambiguous_delimiters(path: Path):
    content = "Yes;no,x\nOn;off,y\n"
    rows, messages = read(path, content, [0, 1], header=False)
    assert rows == [] and len(messages) == 1 and "set delimiter" in messages[0]
    rows, _ = read(path, content, [0, 1], header=False, delimiter=",")
    assert rows == [(1, ("Yes;no", "x")), (2, ("On;off", "y"))]


def test_quotes_decide_between_delimiters(path: Path):
    content = 'fog;"say\t""ho"""\nsun;"say\t""hi"""\n'
    rows, messages = read(path, content, [1], header=False)
    assert messages == [] and rows == [(1, ('say\t"ho"',)), (2, ('say\t"hi"',))]


def test_a_column_of_texts_is_not_split_at_commas(path: Path):
    rows, messages = read(path, "text\nHello, you\n\nno mark\nend; of it\n\n\n", ["text"])
    assert messages == []
    assert rows == [(2, ("Hello, you",)), (3, ("",)), (4, ("no mark",)), (5, ("end; of it",))]
    # A comma in every line could be a delimiter, so this is an error.
    rows, messages = read(path, "text\nHello, you\nBye, then\n", ["text"])
    assert rows == [] and ":2: 2 fields, but the header has 1" in messages[0]
    assert 'delimiter = "tab"' in messages[0]
    rows, messages = read(path, "Hello, you\nBye, then\n", [0], header=False)
    assert rows == [] and len(messages) == 1 and '"tab"' in messages[0]
    rows, _ = read(path, "Hello, you\nBye, then\n", [0], header=False, delimiter="tab")
    assert rows == [(1, ("Hello, you",)), (2, ("Bye, then",))]


# --- headers and ragged rows ----------------------------------------------------------------------


def test_missing_columns_are_all_named_with_the_nearest(path: Path):
    rows, messages = read(path, "text,label,score\na,b,1\n", ["txet", "zebra", "score"])
    assert rows == [] and len(messages) == 2
    assert 'did you mean "text"?' in messages[0]
    assert 'no column "zebra" (' in messages[1] and "did you mean" not in messages[1]
    for message in messages:
        assert '"text", "label", "score"' in message
    assert "header = false" in messages[1]


def test_names_in_the_header_may_have_spaces_or_marks(path: Path):
    content = '\ufeff\ufefftext , " label"\t,\ufeffscore\na,b,1\n'
    rows, messages = read(path, content, ["text", " score"])
    assert messages == [] and rows == [(2, ("a", "1"))]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_compared_in_one_unicode_form(path: Path, forms: tuple[Any, Any]):
    written, asked = (unicodedata.normalize(form, "r\u00e9sum\u00e9") for form in forms)
    assert written != asked
    assert read(path, f"{written}\tlabel\na\tb\n", [asked]) == ([(2, ("a",))], [])
    table = DelimitedTable(path, TableFormat(), [asked])
    assert table.names == [written, "label"] and table.chosen_names == [written]


@pytest.mark.parametrize("name", ["my\u00a0text", "my  text", "my\u200btext", "mytext"])
def test_a_name_with_other_spaces_is_suggested(path: Path, name: str):
    rows, messages = read(path, f"{name},label\na,b\n", ["my text"])
    assert rows == [] and len(messages) == 1
    assert "with other spaces" in messages[0] and messages[0].isprintable()


def test_a_message_is_one_line(path: Path):
    rows, messages = read(path, '"te\nxt",lab\x07el\na,b\n', ["text", "label"])
    assert rows == [] and len(messages) == 2
    for message in messages:
        assert message.isprintable() and '"te\\nxt", "lab\\x07el"' in message


def test_json_lines_are_one_error(path: Path):
    rows, messages = read(path, '{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n')
    assert rows == [] and len(messages) == 1 and ".jsonl" in messages[0]


def test_a_repeated_name(path: Path):
    rows, messages = read(path, "text,label,text\na,b,c\n", ["label", "text"])
    assert rows == [] and len(messages) == 1 and '"text" occurs 2 times' in messages[0]
    assert read(path, "text,label,text\na,b,c\n", ["label"]) == ([(2, ("b",))], [])


def test_columns_by_index(path: Path):
    content = "a,b,c\nd,e,f\n"
    assert read(path, content, [2, "0"], header=False)[0] == [(1, ("c", "a")), (2, ("f", "d"))]
    rows, messages = read(path, content, [0, 3, -1, "text"], header=False)
    assert rows == [] and len(messages) == 3 and all("from 0 to 2" in s for s in messages)
    rows, messages = read(path, content, [0])
    assert rows == [] and len(messages) == 1
    assert "column 0 is an index" in messages[0] and "header = false" in messages[0]
    assert read(path, "0,1\na,b\n", [1])[0] == [(2, ("b",))]  # names that are numbers


def test_a_repeated_header(path: Path):
    rows, messages = read(path, "label,text\nx,a\nlabel,text\ny,label\nlabel,text\n")
    assert rows == [(2, ("a", "x")), (4, ("label", "y"))]
    assert [f"{path}:3: " in messages[0], f"{path}:5: " in messages[1]] == [True, True]


def test_byte_order_marks_of_joined_files(path: Path):
    mark = "\ufeff"
    rows, messages = read(path, f'{mark}text,label\na,1\n{mark}"b, c",2\n{mark}d{mark},3\n')
    assert messages == []
    assert [row for _, row in rows] == [("a", "1"), ("b, c", "2"), (f"d{mark}", "3")]
    rows, messages = read(path, f"{mark}text,label\na,1\n{mark}text,label\nb,2\n")
    assert len(rows) == 2 and len(messages) == 1 and f"{path}:3: the header is" in messages[0]


def test_a_header_and_no_rows(path: Path):
    for content in ("text,label", "text,label\n\n\n"):
        rows, messages = read(path, content)
        assert rows == [] and len(messages) == 1
        assert messages[0].startswith(f"{path}: the file has a header but no rows")


def test_ragged_rows_are_errors_and_the_others_are_read(path: Path):
    content = "text,label\na,1\n\nb\nc,2,3\nd,4\n,\ne,5,\n   \n"
    rows, messages = read(path, content)
    assert rows == [(2, ("a", "1")), (6, ("d", "4")), (7, ("", ""))]
    lines = [(4, "1 field,"), (5, "3 fields,"), (8, "3 fields,"), (9, "1 field,")]
    assert len(messages) == len(lines)
    for message, (line, count) in zip(messages, lines, strict=True):
        assert message.startswith(f"{path}:{line}: {count} but the header has 2")
    _, messages = read(path, "a,b,c\nd,e\nf,g\nh,i\n", [0, 1], header=False)
    assert len(messages) == 1 and messages[0].startswith(
        f"{path}:1: 3 fields, but most lines have 2"
    )


def test_blank_lines(path: Path):
    rows, messages = read(path, "\n\r\ntext,label\n\na,1\n\n\nb,2\n\n")
    assert messages == [] and rows == [(5, ("a", "1")), (8, ("b", "2"))]
    rows, messages = read(path, '\na\n\n""\nb\n\n', [0], header=False)
    assert messages == []
    assert rows == [(1, ("",)), (2, ("a",)), (3, ("",)), (4, ("",)), (5, ("b",))]
    rows, _ = read(path, "\n\ntext\n\na\n", ["text"])
    assert rows == [(4, ("",)), (5, ("a",))]


def test_many_errors_are_counted_but_not_kept(path: Path):
    path.write_text("text,label\n" + "a\n" * 1000)
    errors = ErrorList(limit=20)
    assert list(DelimitedTable(path, TableFormat(), ["text"]).rows(errors)) == []
    assert errors.total == 1000
    with pytest.raises(ComityError, match="and 995 more") as caught:  # five of one kind are shown
        errors.check()
    assert len(caught.value.messages) == 6


# --- cells that a spreadsheet would run -----------------------------------------------------------


def test_the_mark_for_spreadsheets_is_removed_and_counted(path: Path):
    content = "'=x,text,label\n'=1+2,'@home,1\n'quoted,'-5,2\n''+a,'\tb,3\n"
    path.write_text(content)
    table = DelimitedTable(path, TableFormat(), ["=x", "text"])
    rows = [row.values for row in table.rows(ErrorList())]
    assert rows == [("=1+2", "@home"), ("'quoted", "'-5"), ("'+a", "\tb")]
    (finding,) = table.findings()
    assert (finding.kind, finding.count, finding.line) == ("spreadsheet mark", 4, 2)


# --- whole rows -----------------------------------------------------------------------------------


def whole(path: Path, content: str, columns: Any, **format: Any) -> list[Any]:
    """The whole rows of a table without errors."""
    path.write_bytes(content.encode())
    errors = ErrorList()
    rows = list(DelimitedTable(path, TableFormat(**format), columns).whole_rows(errors))
    errors.check()
    return rows


def test_whole_rows_have_every_column(path: Path):
    content = 'id,text,note\n1,"a, ""b""","x\ny"\n2,c,\n'
    assert whole(path, content, ["text"]) == [
        ((2, ('a, "b"',)), {"id": "1", "text": 'a, "b"', "note": "x\ny"}),
        ((4, ("c",)), {"id": "2", "text": "c", "note": ""}),
    ]
    assert whole(path, "1\t'a\n", [1], header=False) == [((1, ("'a",)), {"0": "1", "1": "'a"})]


def test_repeated_and_empty_names_are_made_different(path: Path):
    content = "a,,a,a_\n1,2,3,4\n"
    ((row, own),) = whole(path, content, ["a_", ""])
    assert row == (2, ("4", "2"))
    assert own == {"a": "1", "column 1": "2", "a_": "3", "a__": "4"}
    table = DelimitedTable(path, TableFormat(), ["a_", ""])
    assert table.names == list(own)
    assert table.chosen_names == ["a__", "column 1"]


def test_whole_rows_leave_out_bad_lines_too(path: Path):
    path.write_text('text,label\na,1\nb\n"c" x,2\nd,4\n')
    errors = ErrorList()
    table = DelimitedTable(path, TableFormat(), ["label"])
    rows = list(table.whole_rows(errors))
    assert [(row.line, row.values[0], own["text"]) for row, own in rows] == [
        (2, "1", "a"),
        (5, "4", "d"),
    ]
    assert errors.total == 2


# --- any text -------------------------------------------------------------------------------------

PIECES = [*",;|\t\"'\n\r ", "\r\n", '""', ", ", "a", "word", "é", "雪", "\x0b", "\x85", "\u2028"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00\ufeff"), max_size=8
)


@settings(max_examples=200)
@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(TEXTS, min_size=width, max_size=width), min_size=1, max_size=5
        )
    ),
    delimiter=st.sampled_from(",;|\t"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quotes=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_what_python_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[list[str]],
    delimiter: str,
    end: str,
    quotes: Any,
):
    if quotes == csv.QUOTE_MINIMAL and end != "\r\n":
        # Python leaves the other line end unquoted, and then not even Python reads it back.
        table = [[field.replace("\r", "").replace("\n", "") for field in row] for row in table]
    names = [f"column {index}" for index in range(len(table[0]))]
    content = io.StringIO()
    csv.writer(content, delimiter=delimiter, lineterminator=end, quoting=quotes).writerows(
        [names, *table]
    )
    path = tmp_path_factory.mktemp("written") / "table.csv"
    # An apostrophe before =, +, -, @, a tab or a carriage return protects spreadsheets.
    want = [tuple(re.sub(r"\A'(?='*[\t\r])", "", field) for field in row) for row in table]
    rows, messages = read(path, content.getvalue(), names, delimiter=delimiter, quoting=True)
    assert messages == [] and [row for _, row in rows] == want
    # With nothing set it is read back or an error, but never read differently without one.
    rows, messages = read(path, content.getvalue(), names)
    assert messages or [row for _, row in rows] == want


@settings(max_examples=200)
@given(lines=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_an_unquoted_file_never_loses_a_line_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]]
):
    table = [tuple("".join(c for c in f if c not in "\t\n\r") for f in row) for row in lines]
    content = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in table)
    path = tmp_path_factory.mktemp("unquoted") / "table.tsv"
    rows, messages = read(path, content)
    assert messages or len(rows) == len(table)
    rows, messages = read(path, content, quoting=False)
    assert messages == [] and [row for _, row in rows] == table


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("header", [True, False])
def test_byte_order_marks_and_nothing_else(tmp_path, encoding, header):
    path = tmp_path / "table.csv"
    path.write_text("\ufeff\ufeff\n", encoding=encoding)
    for delimiter in (None, ","):
        with pytest.raises(ComityError, match="the file is empty"):
            open_table(path, TableFormat(header=header, delimiter=delimiter), (0,))
