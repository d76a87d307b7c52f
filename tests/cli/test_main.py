"""The command line as a whole: help, completion, options, errors, and unusual environments."""

import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w
from tests.helpers import mood_rows, two_tasks, write_csv, write_jsonl, write_two_tasks

import comity
from comity import ComityError, Recipe, load, train
from comity.cli.examples import EXAMPLES
from comity.cli.main import COMMANDS, EPILOG, main, make_parser
from comity.cli.options import Parser
from comity.data.token_cache import cache_folder

NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]


@pytest.fixture
def recipe(tmp_path, tiny_checkpoint) -> Path:
    """A recipe of two tasks beside its data."""
    write_two_tasks(tmp_path)
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(two_tasks(tiny_checkpoint).to_dict()))
    return path


def python(
    code: str, *arguments: str, cwd: str | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run some code in a new process without other environment variables."""
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
    )


def bash(command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)


# --- help, version, completion --------------------------------------------------------------------


@pytest.mark.parametrize("words", [["help"], ["--help"], ["help", "help"]])
def test_help(capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: comity")


def test_help_lists_the_commands_and_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["help"])
    out = capsys.readouterr().out
    for name in NAMES:
        assert f"\n    {name} " in out
    for code in ("0    ", "1    ", "2    ", "130  "):
        assert f"\n  {code}" in out


def test_the_examples_of_the_help_are_valid():
    examples = [line.split()[1:] for line in EPILOG.splitlines() if line.startswith("  comity ")]
    assert len(examples) > 5
    for words in examples:
        assert make_parser().parse_args(words).run


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_has_examples_that_are_valid(capsys, name):
    with pytest.raises(SystemExit):
        main(["help", name])
    out = capsys.readouterr().out
    assert f"usage: comity {name}" in out
    assert "\nexamples:\n" in out
    for example in EXAMPLES[name]:
        assert example.partition("\n")[0] in out
        assert max(map(len, example.splitlines())) <= 78  # with the indent, 80
        words = shlex.split(example.replace("\\\n", " ").replace("<(", "").replace(")", ""))
        start = words.index("comity") + 1
        stop = words.index(">") if ">" in words else len(words)
        assert make_parser().parse_args(words[start:stop]).run


def test_the_examples_of_the_general_help_are_valid():
    lines = EPILOG.partition("\n\n")[0].splitlines()[1:]
    examples = [shlex.split(line)[1:] for line in lines]
    assert len(examples) > 5
    for words in examples:
        if words[0] == "help":
            assert words[1] in NAMES
        else:
            _, unknown = make_parser().parse_known_args(words)
            assert not unknown, words


def test_a_system_error_about_a_file_is_reported_as_json(capsys, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr("comity.cli.main._run", fail)
    assert main(["info", "runs/x", "--json"]) == 2
    out, err = capsys.readouterr()
    message = json.loads(out)["errors"][0]
    assert message.startswith("runs/x: No space left on device") and err == f"error: {message}\n"


def test_help_of_an_unknown_command(capsys):
    assert main(["help", "trian"]) == 2
    assert capsys.readouterr().err == 'error: unknown command "trian"; did you mean "train"?\n'


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(capsys, option):
    with pytest.raises(SystemExit):
        main([option])
    assert capsys.readouterr().out == f"comity {comity.__version__}\n"


def test_bash_completes_commands_options_and_files(capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "comity.sh"
    (tmp_path / "recipe.toml").touch()
    program = """
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    $(complete -p comity | sed 's/.*-F \\([^ ]*\\).*/\\1/') comity "${!#}" ""
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    script.write_text(capsys.readouterr().out + program)

    def completed(*words: str) -> list[str]:
        command = ["bash", str(script), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        return done.stdout.split()

    assert completed("comity", "tr") == ["train"]
    assert completed("comity", "train", "--dr") == ["--drop-leaks", "--dry-run"]
    assert "recipe.toml" in completed("comity", "check", "rec")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_for_other_shells_name_every_command(capsys, shell):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES)


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "r.toml --set a=1 b.c=2 --only mood alike",
        "--set a=1 b.c=2 r.toml --only mood alike",
        "--set a=1 --set b.c=2 --only mood alike r.toml",
        "--set=a=1 --only mood --only=alike --set b.c=2 r.toml",
        "--only mood alike --set a=1 b.c=2 r.toml",
    ],
)
@pytest.mark.parametrize("command", ["check", "train"])
def test_a_recipe_may_follow_the_values_of_an_option(command, words):
    options = make_parser().parse_args([command, *words.split()])
    assert options.recipe == Path("r.toml")
    assert options.set == ["a=1", "b.c=2"]
    assert options.only == ["mood", "alike"]


def test_an_only_that_takes_no_tasks_is_left_alone():
    parser = Parser()
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--only", choices=["a", "b"], nargs="+")
    assert parser.parse_args(["x", "y", "--only", "a", "b"]).only == ["a", "b"]


def test_a_recipe_may_follow_the_values_of_a_sweep():
    words = ["sweep", "--set", "a=1,2", "b=[1,2]", "r.toml", "--out", "o"]
    options = make_parser().parse_args(words)
    assert (options.recipe, options.set) == (Path("r.toml"), ["a=1,2", "b=[1,2]"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "--jsn"], 'unknown argument "--jsn"; did you mean "--json"?'),
        (["train", "--zzz=3"], 'unknown argument "--zzz"; comity train --help lists the options'),
        (["--jsn"], 'unknown argument "--jsn"; comity --help lists the options'),
        (
            ["check", "--set"],
            "argument --set: expected at least one argument; comity check --help lists the options",
        ),
        (
            ["compare"],
            "the following arguments are required: RUN; comity compare --help lists the options",
        ),
        (["check", "--set", "lr", "r.toml"], "r.toml: there is no such recipe; check the path"),
    ],
)
def test_wrong_options_are_errors_like_others(capsys, words, message):
    assert main(words) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_only_some_tasks_are_read_and_trained(recipe, tmp_path, capsys):
    (tmp_path / "alike.csv").unlink()
    assert main(["check", "--only", "mood", str(recipe), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["tasks"]) == ["mood"]
    run = tmp_path / "run"
    command = ["train", str(recipe), "--only", "mood", "--out", str(run), "--json"]
    assert main([*command, "--set", "train.steps=1"]) == 0
    assert list(json.loads(capsys.readouterr().out)["best"]["tasks"]) == ["mood"]
    assert "alike" not in (run / "recipe.toml").read_text()
    assert main(["check", str(recipe), "--only", "moood"]) == 2
    assert capsys.readouterr().err == 'error: --only: unknown task "moood"; did you mean "mood"?\n'


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["check", "none.toml", "--json"],
        ["train", "{recipe}", "--set", "lr=1", "sead=2", "--out", "x", "--json"],
        ["info", "nowhere", "--json"],
        ["compare", "nowhere", "neither", "--json"],
        ["evaluate", "--json"],
        ["predict", "--json"],
    ],
)
def test_errors_are_json_too(recipe, capsys, words):
    assert main([word.format(recipe=recipe) for word in words]) == 2
    out, err = capsys.readouterr()
    errors = json.loads(out)["errors"]
    assert [f"error: {error}" for error in errors] == err.splitlines()
    assert out.count("\n") == 1


def test_ctrl_c_is_json_too(recipe, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("comity.cli.check.load_recipe", stop)
    assert main(["check", str(recipe), "--json"]) == 130
    assert capsys.readouterr() == ('{"errors": ["stopped"]}\n', "stopped\n")


def test_a_message_cannot_control_the_terminal(recipe, capsys):
    assert main(["check", str(recipe), "--set", "tasks.mood.train=\x1b[31m.csv"]) == 2
    assert "\x1b" not in capsys.readouterr().err


BROKEN = {"torch", "sklearn", "scipy", "pandas", "pyarrow", "transformers", "rich"}


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["check", "{recipe}", "--set", "lr=1"], BROKEN),
        (["train", "{recipe}", "--set", "train.lr=fast", "--out", "x"], BROKEN),
        (["info", "nowhere"], {*BROKEN, "numpy"}),
        (["compare", "nowhere", "neither"], {*BROKEN, "numpy"}),
    ],
)
def test_a_quick_error_loads_no_large_package(recipe, words, absent):
    words = [word.format(recipe=recipe) for word in words]
    code = f"import sys; from comity.cli.main import main; assert main({words}) == 2; "
    done = python(code + "print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert "error: " in done.stderr
    assert not absent & set(done.stdout.split())


def test_all_errors_of_files_come_together_before_the_encoder_is_loaded(
    recipe, tmp_path, capsys, monkeypatch
):
    def never(*_, **__):
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr("comity.training.setup.load_as_declared", never)
    (tmp_path / "mood-dev.csv").unlink()
    write_csv(tmp_path / "alike.csv", ["a", "b", "grade"], [("x", "y", 1.0)])
    write_csv(tmp_path / "mood.csv", ["text", "mood"], [*mood_rows(0, 6), ("bad", "")])
    (tmp_path / "new.jsonl").write_text('{"a": "x", "b": "y"}\n{"a": "x", "b": "z"}\n')
    stages = 'stages=[{data={alike="new.jsonl"}}, {data={mood="none.csv"}}]'
    assert main(["check", str(recipe), "--set", stages]) == 2
    err = capsys.readouterr().err
    for words in (
        "mood-dev.csv: there is no such file",
        "none.csv: there is no such file",
        "mood.csv:8: ",
        "alike.csv",
        "new.jsonl",
    ):
        assert words in err
    assert "AssertionError" not in err


@pytest.mark.parametrize("how", ["check", "train", "dry run", "python"])
def test_errors_of_rows_come_before_the_encoder_is_loaded(
    recipe, tmp_path, capsys, monkeypatch, how
):
    """Every file and column exists, and the first rows are right."""

    def never(*_, **__):
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr("comity.training.setup.load_as_declared", never)
    write_csv(tmp_path / "mood-dev.csv", ["text", "mood"], [*mood_rows(0, 6), ("t", "sideways")])
    pairs = [("x", "y", 1), ("short",), ("x", "z", "high"), (" ", "y", 1)]
    write_csv(tmp_path / "alike.csv", ["a", "b", "score"], pairs)
    rows = [{"a": "x", "b": "y", "score": 1}, {"a": "x", "score": 1}, {"a": "x", "b": "y"}]
    write_jsonl(tmp_path / "dev.jsonl", rows)
    settings = ['tasks.alike.dev="dev.jsonl"', "tasks.alike.empty_texts=error"]
    if how == "python":
        with pytest.raises(ComityError) as caught:
            train(Recipe.load(recipe, settings), tmp_path, tmp_path / "run", quiet=True)
        err = "\n".join(caught.value.messages)
    else:
        out = ["--dry-run"] if how == "dry run" else ["--out", str(tmp_path / "run")]
        words = ["check"] if how == "check" else ["train", *out]
        assert main([*words, str(recipe), "--set", *settings]) == 2
        err = capsys.readouterr().err
    for words in (
        'mood-dev.csv:8: the label "sideways" is not a class',
        "alike.csv:3: 1 field, but the header has 3",
        "dev.jsonl:2: no key 'b'",
        "dev.jsonl:3: no key 'score'",
    ):
        assert words in err
    assert not (tmp_path / "run").exists()


def test_errors_of_the_encoder_and_of_rows_come_together(recipe, tmp_path, capsys):
    write_csv(tmp_path / "mood.csv", ["text", "mood"], [*mood_rows(0, 6), ("bad", "")])
    assert main(["check", str(recipe), "--set", "encoder.name=./none"]) == 2
    err = capsys.readouterr().err
    assert "./none" in err
    assert "mood.csv:8: " in err


def test_a_frozen_encoder_replaces_an_inherited_balancer_with_a_note(recipe, capsys):
    settings = ["train.freeze=encoder", "train.balancer=pcgrad"]
    assert main(["check", str(recipe), "--json", "--set", *settings]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert (
        'stage 1: the whole encoder is frozen, so it uses the balancer "sum" instead of "pcgrad"'
        in notes
    )


# --- unusual environments -------------------------------------------------------------------------


@pytest.fixture
def no_cache(monkeypatch) -> None:
    """The token cache is where a user's would be."""
    monkeypatch.delenv("COMITY_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_a_user_without_a_home(recipe, capsys, monkeypatch, no_cache):
    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert main(["check", str(recipe)]) == 0
    assert "no errors found" in capsys.readouterr().out
    assert not cache_folder().exists()


def test_a_home_that_cannot_be_written(recipe, tmp_path, capsys, monkeypatch, no_cache):
    (tmp_path / "home").write_text("a file, so that not even root can write in it")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["check", str(recipe)]) == 0
    assert "no errors found" in capsys.readouterr().out


def test_an_empty_environment_an_ascii_locale_and_no_temporary_folder(recipe, tmp_path):
    write_csv(tmp_path / "mood.csv", ["text", "mood"], [*mood_rows(0, 6), ("bien", "très")])
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ["train", str(recipe), "--out", str(tmp_path / "run"), "--set", "train.steps=1"]
    code = f"from comity.cli.main import main; raise SystemExit(main({words}))"
    done = python(code, TMPDIR="/nowhere", **locale)
    assert done.returncode == 0, done.stderr
    assert "kept model" in done.stdout


def test_names_outside_ascii_in_an_ascii_locale(recipe, tmp_path):
    """Files and folders of every kind are read and written, and messages say so."""
    base = tmp_path / "bäse"
    base.mkdir()
    encoder = shutil.copytree(two_tasks_encoder(recipe), base / "encöder")
    write_two_tasks(base / "dätä")
    pandas = pytest.importorskip("pandas")
    pandas.read_csv(base / "dätä" / "mood.csv").to_parquet(base / "dätä" / "möod.parquet")
    values = tomllib.loads(recipe.read_text())
    values["encoder"]["name"] = encoder.name
    values["train"] |= {"steps": 1}
    del values["train"]["epochs"]
    values["tasks"]["alike"]["dev"] = "älike-dev.csv"
    (base / "dätä" / "alike-dev.csv").rename(base / "dätä" / "älike-dev.csv")
    (base / "rezept.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    run, mood = ["rün"], "tasks.mood.train=möod.parquet"
    commands = [
        ["train", "rezept.toml", "--data", "dätä", "--out", *run, "--quiet", "--set", mood],
        ["evaluate", *run],
        ["evaluate", *run, "dätä/möod.parquet"],
        ["predict", *run, "--input", "dätä/möod.parquet", "--output", "ä.parquet"],
        ["analyse", *run, "--task", "alike", "--out", "bïlder"],
        ["train", "--resume", *run, "--extend", "steps=1", "--quiet"],
        ["sweep", "rezept.toml", "--data", "dätä", "--out", "swëep", "--set", "train.seed=0,1"],
        ["compare", *run, "swëep/train.seed=1"],
    ]
    code = "import json, os, sys; from comity.cli.main import main\n"
    code += "for words in json.loads(sys.argv[1]):\n"
    # As a shell passes them: bytes, which Python decodes with the encoding of the locale.
    code += "    words = [os.fsdecode(word.encode()) for word in words]\n"
    code += "    assert main(words) == 0, words\n"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = python(code, json.dumps(commands), cwd=str(base), **locale)
    assert done.returncode == 0, done.stderr
    # The files have the names and the content that any other program expects.
    assert Recipe.load(base / "rün" / "recipe.toml").tasks["mood"].train == "möod.parquet"
    assert load(base / "rün").evaluate("alike").n == 10
    assert pandas.read_parquet(base / "ä.parquet")["mood_prediction"].isin(["up", "down"]).all()
    assert json.loads((base / "bïlder" / "alike.json").read_text("utf-8"))["run"] == "rün"
    assert "swëep/train.seed=0" in (base / "swëep" / "sweep.csv").read_text("utf-8")


def two_tasks_encoder(recipe: Path) -> str:
    return tomllib.loads(recipe.read_text())["encoder"]["name"]


@pytest.mark.parametrize("key", ["tasks.mood.train", "encoder.name", "tasks.mood.label"])
def test_a_recipe_cannot_hold_what_is_not_utf_8(recipe, tmp_path, capsys, key):
    value = os.fsdecode(b"caf\xe9")
    command = ["train", str(recipe), "--out", str(tmp_path / "x"), "--set", f"{key}={value}"]
    assert main(command) == 2
    message = f'{recipe}: {key}: "caf\\udce9" is not UTF-8, which a recipe has to be'
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_paths_with_spaces_signs_and_bytes_that_are_not_utf_8(recipe, tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"d\xc3\xa4ta \xff")
    write_two_tasks(folder)
    moved = recipe.rename(folder / "rezept ü.toml")
    assert main(["check", str(moved)]) == 0
    assert "no errors found" in capsys.readouterr().out
    (folder / "mood.csv").unlink()
    assert main(["check", str(moved), "--json"]) == 2
    assert "mood.csv" in json.loads(capsys.readouterr().out)["errors"][0]


@pytest.mark.parametrize("name", ["a\0.csv", "a" * 300 + ".csv", "\ud800.csv"])
def test_names_that_no_file_can_have(recipe, capsys, name):
    value = json.dumps(name) if name.isprintable() or "\0" in name else f"'{name}'"
    assert main(["check", str(recipe), "--set", f"tasks.mood.train={value}"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_working_directory_that_was_deleted(recipe, tmp_path, capsys, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["check", str(recipe)]) == 2
    monkeypatch.chdir(tmp_path)
    assert "the working directory no longer exists" in capsys.readouterr().err


@pytest.mark.parametrize("closed", [["stdout"], ["stdin", "stdout", "stderr"]])
def test_closed_streams(recipe, monkeypatch, closed):
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    assert main(["check", str(recipe)]) == 0
    assert main(["check", "none.toml"]) == 2


def test_a_reader_that_stops_is_no_error():
    command = f"{sys.executable} -m comity recipe --markdown; echo $? >&2"
    assert bash(f"({command}) | (exec 0<&-)").stderr == "1\n"


def test_a_full_disk_is_one_sentence():
    done = bash(f"{sys.executable} -m comity recipe lr > /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("error: No space left on device; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("columns", ["1", "0", "60", "x"])
def test_a_terminal_of_any_width(recipe, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")
    assert main(["check", str(recipe)]) == 0
    out = capsys.readouterr().out
    if columns == "60":
        assert max(map(len, out.splitlines()[:-1])) <= 60
