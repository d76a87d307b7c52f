"""Plots written to files: scatter, histogram by band, and lines.

matplotlib is an extra; it is imported when the first plot is drawn, and needs no display.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from comity.errors import ComityError
from comity.format import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers can tell apart (Okabe & Ito 2008)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
DOTS_PER_INCH = 150
MOST_BINS = 200

_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "figure.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar sign in a user's name is not mathematics
    "svg.hashsalt": "comity",  # equal plots are equal files
}


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """Yield a figure of `width` by `height` inches, then write it to `path` (.png, .svg, .pdf).

    Raises:
        ComityError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ComityError(missing_extra(f"{path}: plots need", ["matplotlib"], "plots")) from None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)
        except OSError as error:
            raise ComityError(
                f"{path}: cannot be written ({error.strerror or error}); name another folder"
            ) from None


def line_plot(
    path: Path,
    x: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    x_label: str,
    y_label: str,
    title: str,
    log_x: bool = False,
    deviations: Mapping[str, Sequence[float | None]] | None = None,
) -> None:
    """Draw one line per entry of `series` over `x` (in any order); a value of None is a gap.

    `deviations` has the half length of the error bar of each value; None is no bar.
    """
    order = np.argsort(x, kind="stable")
    with picture(path, 7.2, 4.2) as figure:
        axes = figure.add_subplot()
        for number, (name, values) in enumerate(series.items()):
            colour = COLOURS[number % len(COLOURS)]
            marker = MARKERS[number % len(MARKERS)]
            at, y = np.asarray(x)[order], _floats(values)[order]
            axes.plot(at, y, label=name, color=colour, marker=marker)
            if deviations is not None:
                bars = _floats(deviations[name])[order]
                axes.errorbar(at, y, bars, fmt="none", ecolor=colour, capsize=3, alpha=0.6)
        if log_x:
            axes.set_xscale("log")
        if len(set(x)) <= 8:  # few enough to label each
            ticks = sorted(set(x))
            axes.set_xticks(ticks, [f"{value:g}" for value in ticks], rotation=30)
            axes.minorticks_off()
        axes.set(xlabel=x_label, ylabel=y_label, title=title)
        if len(series) > 1:
            figure.legend(loc="outside right upper")


def _floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def scatter(
    path: Path,
    gold: NDArray[np.float64],
    predicted: NDArray[np.float64],
    edges: ArrayLike,
    labels: tuple[str, str],
    title: str,
) -> None:
    """Draw predicted against true values, both `[n]`, with the line on which they are equal.

    A diamond shows the mean prediction of each band of true values between two `edges`. `labels`
    name the axes, true values first.
    """
    edges = np.asarray(edges, dtype=np.float64)
    low = min(gold.min(), predicted.min(), edges[0])
    high = max(gold.max(), predicted.max(), edges[-1])
    margin = 0.03 * (high - low)
    with picture(path, 5.6, 5.8) as figure:
        axes = figure.add_subplot()
        axes.plot([low, high], [low, high], color=GREY, linestyle="--", label="predicted = true")
        # Points of many rows overlap; transparency shows their density.
        alpha = float(np.clip(300 / len(gold), 0.08, 0.7))
        axes.scatter(gold, predicted, s=16, color=COLOURS[0], alpha=alpha, linewidths=0)
        bands = band_numbers(gold, edges)
        present = np.unique(bands)
        axes.plot(
            [gold[bands == band].mean() for band in present],
            [predicted[bands == band].mean() for band in present],
            color=COLOURS[1],
            marker="D",
            markeredgecolor="white",
            linestyle="none",
            label="mean of a band",
        )
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(low - margin, high + margin)
        axes.set_aspect("equal")
        axes.set_xticks(edges, [f"{edge:g}" for edge in edges])
        axes.set_yticks(edges, [f"{edge:g}" for edge in edges])
        axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
        axes.legend(loc="upper left")


def histogram_by_band(
    path: Path,
    gold: NDArray[np.float64],
    predicted: NDArray[np.float64],
    edges: ArrayLike,
    labels: tuple[str, str],
    title: str,
) -> None:
    """Draw a histogram of the predictions for each band of true values, one above another.

    The band itself is shaded: a prediction outside it is too low or too high.
    """
    edges = np.asarray(edges, dtype=np.float64)
    bands = band_numbers(gold, edges)
    bins = _bins(edges, predicted)
    with picture(path, 6.4, 1.0 + 1.05 * (len(edges) - 1)) as figure:
        panels = figure.subplots(len(edges) - 1, 1, sharex=True, squeeze=False)[:, 0]
        # The highest band is on top, as on the axis of the scatter plot.
        for band, axes in zip(reversed(range(len(edges) - 1)), panels, strict=True):
            _panel(axes, predicted[bands == band], bins, (edges[band], edges[band + 1]))
        panels[-1].set_xlabel(labels[1])
        panels[-1].set_xticks(edges, [f"{edge:g}" for edge in edges])
        figure.supylabel(f"rows, by {labels[0]}", fontsize="medium")
        figure.suptitle(f"{title}\nshaded: predicted within the true band", x=0.01, ha="left")


def _bins(edges: NDArray, predicted: NDArray) -> NDArray[np.float64]:
    """Bin edges: ten bins per band, aligned with the bands, and more to cover all predictions.

    Bins are wider where predictions are so far off that there would be too many to see.
    """
    low, high = min(predicted.min(), edges[0]), max(predicted.max(), edges[-1])
    width = max((edges[1] - edges[0]) / 10, (high - low) / MOST_BINS)
    before, after = np.ceil((edges[0] - low) / width), np.ceil((high - edges[0]) / width)
    bins = edges[0] + width * np.arange(-before, after + 1)
    bins[0], bins[-1] = min(bins[0], low), max(bins[-1], high)  # so that rounding loses no row
    return bins


def _panel(axes: "Axes", predicted: NDArray, bins: NDArray, band: tuple[float, float]) -> None:
    axes.axvspan(*band, color=COLOURS[4], alpha=0.25, linewidth=0)
    axes.hist(predicted, bins=bins.tolist(), color=COLOURS[0])
    axes.set_title(f"true {band[0]:g} to {band[1]:g}, n = {len(predicted):,}", fontsize=9, pad=2)
    axes.grid(visible=False, axis="x")
    axes.locator_params(axis="y", nbins=3, integer=True)


def band_numbers(values: ArrayLike, edges: ArrayLike) -> NDArray[np.int64]:
    """The band `[n]` of each value: band i is from edge i to below edge i + 1, the last is closed.

    >>> band_numbers([0.0, 0.99, 1.0, 2.0], [0, 1, 2]).tolist()
    [0, 0, 1, 1]
    """
    inner = np.asarray(edges)[1:-1]
    return np.searchsorted(inner, np.asarray(values), side="right")
