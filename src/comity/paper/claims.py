"""The paper's claims about the order of its rows, and the check of each against our runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comity.evaluation.compare import MEAN, holds
from comity.paper.reported import Reported
from comity.paper.rows import INTERACTION, ON_PAIR, STS_ONLY, PaperRow

BASE = "table1-base"
IN_DOMAIN = "table3-in-domain"
SURGERY = "table3-surgery"
TRUNCATED = "figure-sts-truncated"


@dataclass(frozen=True)
class Claim:
    """A claim that row `better` scores higher than row `worse` on a task, or on the "mean"."""

    sentence: str
    better: str
    worse: str
    task: str


CLAIMS = (
    Claim("SST only beats the shared model on sentiment", "table1-sst-only", BASE, "sentiment"),
    Claim(
        "the shared model beats Paraphrase only on paraphrase",
        BASE,
        "table1-paraphrase-only",
        "paraphrase",
    ),
    Claim("STS only beats the shared model on similarity", STS_ONLY, BASE, "similarity"),
    Claim("SST only falls short on the mean", BASE, "table1-sst-only", MEAN),
    Claim("Paraphrase only falls short on the mean", BASE, "table1-paraphrase-only", MEAN),
    Claim("STS only falls short on the mean", BASE, STS_ONLY, MEAN),
    Claim("the rate 1e-5 is better than 8e-6", "table2-lr-1e-5", "table2-lr-8e-6", MEAN),
    Claim("the rate 1e-5 is better than 2e-5", "table2-lr-1e-5", "table2-lr-2e-5", MEAN),
    Claim("in-domain training improves similarity", IN_DOMAIN, BASE, "similarity"),
    Claim("in-domain training hurts sentiment", BASE, IN_DOMAIN, "sentiment"),
    Claim("round-robin with surgery beats sequential training", SURGERY, IN_DOMAIN, MEAN),
    Claim("surgery restores sentiment", SURGERY, IN_DOMAIN, "sentiment"),
    Claim("surgery improves paraphrase", SURGERY, IN_DOMAIN, "paraphrase"),
    # The paper's text says that surgery improves similarity too; its table has .389 after .43.
    Claim("surgery lowers similarity (as the table has it)", IN_DOMAIN, SURGERY, "similarity"),
    *(
        claim
        for name, row in (("interaction heads", INTERACTION), ("heads on the pair", ON_PAIR))
        for claim in (
            Claim(f"the contrastive variant ({name}) is the best row", row, SURGERY, MEAN),
            Claim(f"with it ({name}) similarity is above surgery's", row, SURGERY, "similarity"),
            Claim(
                f"with it ({name}) similarity is above in-domain training's",
                row,
                IN_DOMAIN,
                "similarity",
            ),
        )
    ),
    # Not a claim of the paper: what its data loader may have cost.
    Claim("truncated scores cost similarity (our guess)", STS_ONLY, TRUNCATED, "similarity"),
)


def check_claims(
    rows: Sequence[PaperRow],
    runs: Mapping[str, Mapping[int, Path]],
    reported: Mapping[tuple[str, str], Reported],
) -> list[dict[str, Any]]:
    """Check each claim: the paper's difference, ours with its 95% interval, and a verdict.

    `runs` are the finished runs by row and seed. Both rows of a claim are compared on the seeds
    that both have. The verdict (`word`) is "not run" where there are none.
    """
    printed = {row.name: reported.get((row.table, row.reported or "")) for row in rows}
    return [
        {
            "claim": claim.sentence,
            "better": claim.better,
            "worse": claim.worse,
            "task": claim.task,
            "paper": _paper_difference(claim, printed),
            **_verdict(claim, runs.get(claim.better, {}), runs.get(claim.worse, {})),
        }
        for claim in CLAIMS
    ]


def _paper_difference(claim: Claim, printed: Mapping[str, Reported | None]) -> float | None:
    better, worse = printed.get(claim.better), printed.get(claim.worse)
    if better is None or worse is None:
        return None
    if claim.task == MEAN:
        return float(better.mean - worse.mean)
    return float(better.scores[claim.task] - worse.scores[claim.task])


def _verdict(claim: Claim, better: Mapping[int, Path], worse: Mapping[int, Path]) -> dict[str, Any]:
    seeds = sorted(better.keys() & worse.keys())
    if not seeds:
        return {"seeds": [], "ours": None, "low": None, "high": None, "word": "not run"}
    found = holds([better[s] for s in seeds], [worse[s] for s in seeds], claim.task)
    return {
        "seeds": seeds,
        "ours": found.difference,
        "low": found.low,
        "high": found.high,
        "word": found.word,
    }
