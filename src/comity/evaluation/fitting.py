"""Fits on dev what the tasks ask for: first the mix of two heads, then a calibration."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from comity.data.splits import Split
from comity.evaluation.calibration import calibrate
from comity.evaluation.mixing import fit_mix
from comity.recipe.schema import TaskSection
from comity.runs.calibration import DevFit
from comity.targets import HeadSpec


def fit_on_dev(
    sections: Mapping[str, TaskSection],
    heads: Mapping[str, HeadSpec],
    splits: Mapping[str, Split],
    outputs: Mapping[str, Any],
) -> DevFit:
    """What `mix = "dev"` and `calibrate` fit, for each task that has them.

    A temperature and a threshold are those of the mixed probabilities, so the mix comes first and
    is fitted on probabilities as trained.

    Args:
        sections: the tasks as the recipe declares them.
        heads: as trained.
        splits: the dev rows.
        outputs: of the heads for these rows, `[n, outputs]` each.
    """
    fit = DevFit()
    for name, section in sections.items():
        target, gold = heads[name].target, splits[name].targets
        if section.mix == "dev":
            fit.mixes[name] = fit_mix(name, target, section.metric_name, gold, outputs[name])
            target = replace(target, mix=fit.mixes[name].mix)
        if section.calibrate:
            fit.calibration[name] = calibrate(
                name, target, section.metric_name, gold, outputs[name]
            )
    return fit
