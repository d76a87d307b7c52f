"""The analysis of a task with scores: statistics by hand, texts from the file, and plots."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from tests.helpers import alike_rows, two_tasks, write_csv, write_two_tasks

from comity import ComityError, train
from comity.evaluation.analysis import Analysis, analyse, band_edges, markdown
from comity.evaluation.plots import histogram_by_band, line_plot, scatter
from comity.runs.directory import RunDirectory
from comity.targets import Target

matplotlib = pytest.importorskip("matplotlib")
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> RunDirectory:
    folder = tmp_path_factory.mktemp("analysis")
    write_two_tasks(folder)
    return train(two_tasks(tiny_checkpoint), folder, folder / "run")


def predict(run: RunDirectory, rows: list[tuple[int, float, float]]) -> None:
    """Replace the run's predictions by `rows` of line, gold and prediction."""
    old = run.path / "predictions" / f"{run.best().step:06d}"

    def save(folder: Path) -> None:
        shutil.copy(old / "mood.csv", folder)
        write_csv(folder / "alike.csv", ["line", "gold", "prediction"], rows)

    run.write_predictions(run.best().step, save)


def test_bands_by_hand(run, tmp_path):
    rows = [(2, 0.0, 2.5), (3, 0.9, 0.5), (4, 1.0, 1.5), (5, 4.0, 4.5), (6, 5.0, 2.0)]
    predict(run, rows)
    analysis = analyse(run.path, "alike", tmp_path)
    found = [
        (b.low, b.high, b.rows, b.mean, b.smallest, b.largest, b.below) for b in analysis.bands
    ]
    assert found == [
        (0, 1, 2, 1.5, 0.5, 2.5, 0.5),  # of two rows truly below 1, one is predicted below 1
        (1, 2, 1, 1.5, 1.5, 1.5, 2 / 3),  # of three rows truly below 2, two are predicted below 2
        (2, 3, 0, None, None, None, 1.0),
        (3, 4, 0, None, None, None, 1.0),
        (4, 5, 2, 3.25, 2.0, 4.5, None),  # the last band includes its upper end
    ]
    assert (analysis.smallest, analysis.largest, analysis.rows) == (0.5, 4.5, 5)
    # Errors 2.5, 0.4, 0.5, 0.5, 3.0: the largest first, equal errors in the order of the file.
    assert [miss.line for miss in analysis.worst] == [6, 2, 4, 5, 3]


def test_worst_errors_show_the_texts_of_their_lines(run, tmp_path):
    predict(run, [(n, 0.0, float(n)) for n in range(2, 12)])
    analysis = analyse(run.path, "alike", tmp_path)
    texts = [list(row[:2]) for row in alike_rows(1000, 10)]
    assert [miss.texts for miss in analysis.worst] == texts[::-1]
    page = (tmp_path / "alike.md").read_text()
    assert f"| 11 | 0 | 11 | {texts[-1][0]} | {texts[-1][1]} |" in page


def test_scores_equal_scipy_and_the_files_agree(run, tmp_path):
    draws = np.random.default_rng(0)
    gold = draws.integers(0, 26, 60) / 5
    predicted = np.clip(gold + draws.normal(size=60), 0, 5)
    predict(run, [(2 + n % 10, g, p) for n, (g, p) in enumerate(zip(gold, predicted, strict=True))])
    analysis = analyse(run.path, "alike", tmp_path)
    assert analysis.scores == pytest.approx(
        {
            "pearson": scipy.stats.pearsonr(gold, predicted)[0],
            "spearman": scipy.stats.spearmanr(gold, predicted)[0],
            "rmse": np.sqrt(np.mean((gold - predicted) ** 2)),
            "mae": np.mean(np.abs(gold - predicted)),
        }
    )
    assert len(analysis.worst) == 20
    assert sum(band.rows for band in analysis.bands) == 60
    assert json.loads((tmp_path / "alike.json").read_text()) == analysis.to_dict()
    assert markdown(analysis) == (tmp_path / "alike.md").read_text()
    assert sorted(analysis.written) == sorted(str(path) for path in tmp_path.iterdir())
    for name in ("alike-scatter.png", "alike-histogram.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)
        assert f"({name})" in markdown(analysis)


def test_texts_of_a_file_that_changed_are_not_shown(run, tmp_path):
    predict(run, [(2, 0.0, 1.0), (3, 2.0, 1.5)])
    path = Path(run.facts().inputs.data) / "alike-dev.csv"
    kept = path.read_bytes()
    try:
        path.write_bytes(kept + b"a,b,1.5\n")
        changed = analyse(run.path, "alike", tmp_path)
        path.unlink()
        gone = analyse(run.path, "alike", tmp_path)
    finally:
        path.write_bytes(kept)
    for analysis, why in ((changed, "has changed since the run"), (gone, "no longer exists")):
        assert analysis.note == f"The texts are not shown because {path} {why}."
        assert [miss.texts for miss in analysis.worst] == [None, None]
        assert "| 2 | 0 | 1 |\n" in markdown(analysis)


def test_a_text_cannot_break_the_table(run, tmp_path):
    predict(run, [(2, 0.0, 1.0)])
    analysis = analyse(run.path, "alike", tmp_path)
    worst = analysis.worst[0].__class__(2, 0.0, 1.0, ["a | b\n<i>", "*c*"])
    page = markdown(Analysis(**{**vars(analysis), "worst": [worst]}))
    assert r"| 2 | 0 | 1 | a \| b \<i\> | \*c\* |" in page


def test_tasks_that_cannot_be_analysed_are_refused(run, tmp_path):
    with pytest.raises(ComityError, match="mood: a classification task does not predict a number"):
        analyse(run.path, "mood", tmp_path)
    with pytest.raises(ComityError, match='unknown task "alik"; did you mean "alike"'):
        analyse(run.path, "alik", tmp_path)
    predict(run, [(2, 0.0, float("nan")), (3, 1.0, 1.0)])
    with pytest.raises(ComityError, match="1 of 2 predictions of alike are not finite"):
        analyse(run.path, "alike", tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_small_numbers_are_shown_with_their_digits(run, tmp_path):
    predict(run, [(2, 1e-6, 1.234e-6), (3, 2e-6, 2.5e-6)])
    page = markdown(analyse(run.path, "alike", tmp_path))
    assert "Predictions range from 1.234e-06 to 2.5e-06." in page
    assert "| 2 | 1e-06 | 1.234e-06 |" in page


@pytest.mark.parametrize(
    ("name", "text"),
    [("alike.json", '{"mine": 1}'), ("alike.json", "[1]"), ("alike.json", "{"), ("alike.md", "x")],
)
def test_a_file_not_from_an_analysis_is_left_alone(run, tmp_path, name, text):
    predict(run, [(2, 0.0, 1.0), (3, 1.0, 1.0)])
    (tmp_path / name).write_text(text)
    with pytest.raises(ComityError, match=rf"{name}: exists and is not from an analysis") as caught:
        analyse(run.path, "alike", tmp_path)
    assert len(caught.value.messages) == 1
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, text)]


def test_an_earlier_analysis_is_overwritten(run, tmp_path):
    predict(run, [(2, 0.0, 1.0), (3, 1.0, 1.0)])
    analyse(run.path, "alike", tmp_path)
    (tmp_path / "alike.md").unlink()  # as if it had been interrupted before the page
    predict(run, [(2, 0.0, 3.0), (3, 1.0, 1.0)])
    assert analyse(run.path, "alike", tmp_path).largest == 3
    assert "to 3." in (tmp_path / "alike.md").read_text()


def test_without_matplotlib_one_sentence_says_what_to_install(run, tmp_path, monkeypatch):
    predict(run, [(2, 0.0, 1.0), (3, 1.0, 1.0)])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ComityError, match=r'pip install "comity\[plots\]"') as caught:
        analyse(run.path, "alike", tmp_path)
    assert len(caught.value.messages) == 1


@pytest.mark.parametrize(
    ("target", "edges"),
    [
        (Target("similarity", "bins", scale=(0.0, 5.0)), [0, 1, 2, 3, 4, 5]),
        (Target("similarity", "bins", scale=(1.0, 3.0)), [1, 2, 3]),
        (Target("similarity", "cosine", scale=(0.0, 1.0)), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Target("similarity", "cosine", scale=(0.0, 100.0)), [0, 20, 40, 60, 80, 100]),
        (Target("regression", "regression"), [-1, 1, 3, 5, 7, 9]),
    ],
)
def test_bands_are_the_whole_numbers_of_a_scale_or_five_equal_ones(target, edges):
    assert band_edges(target, np.array([9.0, -1.0, 3.0])).tolist() == pytest.approx(edges)


def test_a_regression_with_a_single_value_has_a_band():
    edges = band_edges(Target("regression", "regression"), np.array([2.0, 2.0]))
    assert (edges[0], edges[-1], (np.diff(edges) > 0).all()) == (2.0, 3.0, True)


def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """The figures that would be written, so that a test can look at what they show."""
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    return figures


def test_the_scatter_plot_has_equal_scales_the_line_of_equality_and_each_row(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    gold, predicted = np.array([0.0, 1.5, 5.0]), np.array([2.0, -0.5, 4.0])
    labels = ("true", "predicted")
    scatter(tmp_path / "a.png", gold, predicted, [0, 1, 2, 3, 4, 5], labels, "title")
    (axes,) = figures[0].axes
    assert axes.get_aspect() == 1
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_ylim()[0] < -0.5
    equal, means = axes.lines
    assert list(equal.get_xdata()) == list(equal.get_ydata())
    assert axes.collections[0].get_offsets().tolist() == [[0, 2], [1.5, -0.5], [5, 4]]
    assert np.column_stack([means.get_xdata(), means.get_ydata()]).tolist() == [
        [0, 2],
        [1.5, -0.5],
        [5, 4],
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == labels


@pytest.mark.parametrize(
    "predicted", [[1.9, 0.1, 1.5, 0.0], [2.0, -0.7, 1.0, 0.3], [1e9, 0.1, -1e6, 2.0]]
)
def test_the_histogram_counts_each_row_in_the_panel_of_its_band(predicted, tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    gold = np.array([0.0, 0.5, 1.0, 2.0])
    labels = ("true", "predicted")
    histogram_by_band(tmp_path / "a.png", gold, np.array(predicted), [0, 1, 2], labels, "title")
    counts = [sum(bar.get_height() for bar in axes.patches[1:]) for axes in figures[0].axes]
    titles = [axes.get_title(loc="left") for axes in figures[0].axes]
    assert titles == ["true 1 to 2, n = 2", "true 0 to 1, n = 2"]
    assert counts == [2, 2]


def test_lines_have_gaps_and_ticks_where_the_values_are(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    x, series = [1e-5, 2e-5, 8e-6], {"sentiment": [0.4, None, 0.5], "cost $": [0.1, 0.2, 0.3]}
    line_plot(tmp_path / "a.png", x, series, "learning rate", "accuracy", "Sweep", log_x=True)
    (axes,) = figures[0].axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8e-06", "1e-05", "2e-05"]
    first, second = axes.lines
    assert first.get_xdata().tolist() == [8e-6, 1e-5, 2e-5]
    assert first.get_ydata().tolist() == pytest.approx([0.5, 0.4, np.nan], nan_ok=True)
    assert second.get_ydata().tolist() == [0.3, 0.1, 0.2]
    assert first.get_color() != second.get_color()
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [*series]


def test_error_bars_are_where_a_deviation_is_known(tmp_path, monkeypatch):
    figures = drawn(monkeypatch)
    bars = {"a": [None, 0.25]}
    line_plot(tmp_path / "a.png", [2, 1], {"a": [0.5, 0.75]}, "x", "y", "t", deviations=bars)
    (axes,) = figures[0].axes
    (drawn_bars,) = axes.collections
    ends = [segment.tolist() for segment in drawn_bars.get_segments() if len(segment)]
    assert ends == [[[1.0, 0.5], [1.0, 1.0]]]


def test_equal_plots_are_equal_files(tmp_path):
    for name in ("a.svg", "b.svg"):
        line_plot(tmp_path / name, [1, 2], {"a $x$ b": [1.0, 2.0]}, "x", "y", "$ in a title $")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "<!-- $ in a title $ -->" in text  # not set as mathematics


def test_a_plot_that_cannot_be_written_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ComityError, match="cannot be written"):
        line_plot(tmp_path / "file" / "a.png", [1], {"a": [1.0]}, "x", "y", "title")
