"""`comity demo --files`: the files are those of the package, and nothing is overwritten."""

from pathlib import Path

import pytest

from comity.cli.main import main
from comity.demo.corpus import corpus
from comity.demo.files import HERE
from comity.recipe.recipe import Recipe


def test_the_recipe_finds_its_files(tmp_path, capsys):
    assert main(["demo", "--files", str(tmp_path / "demo")]) == 0
    printed = {Path(line) for line in capsys.readouterr().out.splitlines()}
    assert printed == set((tmp_path / "demo").iterdir())
    recipe = Recipe.load(tmp_path / "demo" / "recipe.toml")
    assert recipe.to_dict() == Recipe.load(HERE / "demo.toml").to_dict()
    wanted = {file for task in recipe.tasks.values() for file in (task.train, task.dev)}
    assert wanted == set(corpus())
    for name, text in corpus().items():
        assert (tmp_path / "demo" / name).read_bytes() == text.encode()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "{folder}/recipe.toml: already exists; name another folder with --files"),
        (["--set", "train.lr=1"], "--files trains nothing; remove --out and --set"),
    ],
)
def test_nothing_is_overwritten(tmp_path, capsys, more, message):
    (tmp_path / "recipe.toml").write_text("mine")
    assert main(["demo", "--files", str(tmp_path), *more]) == 2
    assert capsys.readouterr().err == f"error: {message.format(folder=tmp_path)}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]
    assert (tmp_path / "recipe.toml").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["demo", "--files", str(tmp_path / "file")]) == 2
    assert "the files cannot be written" in capsys.readouterr().err
