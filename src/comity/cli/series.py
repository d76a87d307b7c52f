"""Training in the commands that train several runs."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from comity.errors import ComityError

if TYPE_CHECKING:
    from comity.experiments.ablation import Ablation
    from comity.experiments.baseline import Baseline
    from comity.experiments.sweep import Sweep
    from comity.paper.run import Paper


def train_series(
    series: "Ablation | Baseline | Sweep | Paper",
    options: argparse.Namespace,
    write: Callable[[], object],
) -> None:
    """Train all runs; if training stops early, call `write` for the finished ones."""
    from comity.terminal.views import tell

    series.check()
    try:
        series.train(options.quiet or options.json, options.jobs or 1)
    except (KeyboardInterrupt, ComityError):
        tell(f"finished runs are kept in {options.out}; repeat the command to continue from there")
        if series.series.finished():
            write()
        raise
