"""Which files belong together, by their names."""

from pathlib import Path

import pytest

from comity.draft.files import group_files, role_of


def write(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("text,label\n")
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train.csv", ("train", "")),
        ("ids-sst-train.csv", ("train", "ids-sst")),
        ("ids_sst_dev.csv", ("dev", "ids-sst")),
        ("Valid.Questions.jsonl", ("dev", "Questions")),
        ("validation-00000-of-00001.parquet", ("dev", "")),
        ("sts-test-student.csv", ("test", "sts-student")),
        ("reviews.csv", (None, "reviews")),
        ("training_2.tsv", ("train", "2")),
        ("development.csv", ("dev", "")),
        ("trainers.csv", (None, "trainers")),  # a word of its own
    ],
)
def test_roles(name, role):
    assert role_of(Path(name)) == role


def test_files_are_grouped_by_the_rest_of_their_names(tmp_path):
    files = write(
        tmp_path, "a-dev.csv", "a-train.csv", "b.csv", "b-dev.csv", "c-dev.csv", "a-test.csv"
    )
    groups, left = group_files(files)
    assert [(g.name, g.train.name) for g in groups] == [("a", "a-train.csv"), ("b", "b.csv")]
    assert [[path.name for path in g.dev] for g in groups] == [["a-dev.csv"], ["b-dev.csv"]]
    assert [[path.name for path in g.test] for g in groups] == [["a-test.csv"], []]
    assert [path.name for path in left] == ["c-dev.csv"]


def test_a_dev_file_beside_the_training_file_is_found(tmp_path):
    write(tmp_path, "mood-valid.csv", "mood-test.csv", "mood-valid.tsv", "other-dev.csv")
    (group,), _ = group_files(write(tmp_path, "mood-train.csv"))
    assert [path.name for path in group.dev] == ["mood-valid.csv"]
    assert group.test == []


def test_a_test_file_is_looked_for_only_if_there_is_no_dev_file(tmp_path):
    write(tmp_path, "mood-test.csv")
    (group,), _ = group_files(write(tmp_path, "mood-train.csv"))
    assert (group.dev, [path.name for path in group.test]) == ([], ["mood-test.csv"])


def test_files_named_only_by_their_role_are_named_by_their_folder(tmp_path):
    groups, _ = group_files(write(tmp_path, "Moods!/train.csv", "b/train.csv", "b/dev.csv"))
    assert [group.name for group in groups] == ["moods", "b"]
    assert [len(group.dev) for group in groups] == [0, 1]


def test_two_formats_of_one_table_have_their_own_dev_files(tmp_path):
    files = write(tmp_path, "a-train.csv", "a-train.jsonl", "a-dev.jsonl", "a-dev.csv")
    groups, left = group_files(files)
    assert [[path.suffix for path in (g.train, *g.dev)] for g in groups] == [
        [".csv", ".csv"],
        [".jsonl", ".jsonl"],
    ]
    assert left == []
