"""Where a file may be written."""

from pathlib import Path

import pytest

from comity.errors import ComityError
from comity.tables.writer import check_output


@pytest.mark.parametrize("way", ["same", "indirect", "symbolic link", "hard link"])
def test_the_input_is_never_the_output_whatever_its_name(tmp_path: Path, way: str):
    source = tmp_path / "in.csv"
    source.write_text("text\ngood\n")
    output = tmp_path / "out.csv"
    if way == "symbolic link":
        output.symlink_to(source)
    elif way == "hard link":
        output.hardlink_to(source)
    else:
        (tmp_path / "folder").mkdir()
        output = source if way == "same" else tmp_path / "folder" / ".." / "in.csv"
    with pytest.raises(ComityError, match="is the input itself"):
        check_output(source, output)


def test_other_outputs(tmp_path: Path):
    source = tmp_path / "in.csv"
    source.write_text("text\ngood\n")
    check_output(source, tmp_path / "new" / "folder" / "out.JSONL")
    check_output(source, tmp_path / "out.dat", any_extension=True)
    for name, message in (
        (".", "is a directory"),
        ("in.csv/out.csv", "is not a directory"),
        ("out.dat", "the extension sets the format"),
    ):
        with pytest.raises(ComityError, match=message):
            check_output(source, tmp_path / name)
