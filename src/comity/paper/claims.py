"""The paper's claims about the order of its rows, and the check of each against our runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comity.evaluation.compare import LEVEL, MEAN, ScoreTable, score_tables
from comity.evaluation.seeds import Estimate, holm
from comity.paper.reported import Reported
from comity.paper.rows import INTERACTION, ON_PAIR, STS_ONLY, TASKS, PaperRow

BASE = "table1-base"
IN_DOMAIN = "table3-in-domain"
SURGERY = "table3-surgery"
TRUNCATED = "figure-sts-truncated"
SUM, PCGRAD = "surgery-sum", "surgery-pcgrad"


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
    Claim("the shared model beats SST only on the mean", BASE, "table1-sst-only", MEAN),
    Claim(
        "the shared model beats Paraphrase only on the mean", BASE, "table1-paraphrase-only", MEAN
    ),
    Claim("the shared model beats STS only on the mean", BASE, STS_ONLY, MEAN),
    Claim("the rate 1e-5 beats 8e-6", "table2-lr-1e-5", "table2-lr-8e-6", MEAN),
    Claim("the rate 1e-5 beats 2e-5", "table2-lr-1e-5", "table2-lr-2e-5", MEAN),
    Claim("in-domain training beats the shared model on similarity", IN_DOMAIN, BASE, "similarity"),
    Claim("the shared model beats in-domain training on sentiment", BASE, IN_DOMAIN, "sentiment"),
    Claim("surgery beats in-domain training on the mean", SURGERY, IN_DOMAIN, MEAN),
    Claim("surgery beats in-domain training on sentiment", SURGERY, IN_DOMAIN, "sentiment"),
    Claim("surgery beats in-domain training on paraphrase", SURGERY, IN_DOMAIN, "paraphrase"),
    # The paper's text says that surgery improves similarity too; its table has .389 after .43.
    Claim(
        "in-domain training beats surgery on similarity (as the table has it)",
        IN_DOMAIN,
        SURGERY,
        "similarity",
    ),
    *(
        claim
        for name, row in (("interaction heads", INTERACTION), ("heads on the pair", ON_PAIR))
        for claim in (
            Claim(
                f"the contrastive variant ({name}) beats surgery on the mean", row, SURGERY, MEAN
            ),
            Claim(
                f"the contrastive variant ({name}) beats surgery on similarity",
                row,
                SURGERY,
                "similarity",
            ),
            Claim(
                f"the contrastive variant ({name}) beats in-domain training on similarity",
                row,
                IN_DOMAIN,
                "similarity",
            ),
        )
    ),
    # Not a claim of the paper: what its data loader may have cost.
    Claim(
        "rounded scores beat truncated ones on similarity (our guess)",
        STS_ONLY,
        TRUNCATED,
        "similarity",
    ),
    # Nor is this: two rows that differ in nothing but the balancer.
    *(
        Claim(f"pcgrad beats sum on {'the mean' if task == MEAN else task}", PCGRAD, SUM, task)
        for task in (*TASKS, MEAN)
    ),
)


def check_claims(
    rows: Sequence[PaperRow],
    runs: Mapping[str, Mapping[int, Path]],
    reported: Mapping[tuple[str, str], Reported],
) -> list[dict[str, Any]]:
    """Check each claim: the paper's difference, ours with interval and p-value, and a verdict.

    `runs` are the finished runs by row and seed. A difference is one of means over seeds, as in
    `comity.evaluation.seeds`; the variance over seeds is pooled over all rows, and the p-values are
    adjusted for the number of claims (Holm). Intervals have a level of 95%. The verdict is "holds",
    "reversed" (significant in the other direction) or "undecided"; "one seed" where a row has a
    single run, "not run" where one has none, and "no score" where a run has none.
    """
    printed = {row.name: reported.get((row.table, row.reported or "")) for row in rows}
    finished = [row.name for row in rows if runs.get(row.name)]
    groups = [list(runs[name].values()) for name in finished]
    tables = {table.task: table for table in score_tables(groups)} if groups else {}
    found = [_difference(claim, tables, finished) for claim in CLAIMS]
    known = {i: e.p for i, e in enumerate(found) if e is not None and e.p is not None}
    p_values = dict(zip(known, holm(list(known.values())), strict=True))
    return [
        {
            "claim": claim.sentence,
            "better": claim.better,
            "worse": claim.worse,
            "task": claim.task,
            "paper": _paper_difference(claim, printed),
            "seeds": {row: sorted(runs.get(row, ())) for row in (claim.better, claim.worse)},
            "ours": estimate and estimate.value,
            "low": estimate and estimate.interval.low,
            "high": estimate and estimate.interval.high,
            "p": p_values.get(index),
            "verdict": _verdict(claim, runs, estimate, p_values.get(index)),
        }
        for index, (claim, estimate) in enumerate(zip(CLAIMS, found, strict=True))
    ]


def _paper_difference(claim: Claim, printed: Mapping[str, Reported | None]) -> float | None:
    better, worse = printed.get(claim.better), printed.get(claim.worse)
    if better is None or worse is None:
        return None
    if claim.task == MEAN:
        return float(better.mean - worse.mean)
    return float(better.scores[claim.task] - worse.scores[claim.task])


def _difference(
    claim: Claim, tables: Mapping[str, ScoreTable], finished: Sequence[str]
) -> Estimate | None:
    if claim.better not in finished or claim.worse not in finished or claim.task not in tables:
        return None
    worse, better = (finished.index(row) for row in (claim.worse, claim.better))
    return tables[claim.task].difference(worse, better)


def _verdict(
    claim: Claim,
    runs: Mapping[str, Mapping[int, Path]],
    found: Estimate | None,
    p: float | None,
) -> str:
    if not runs.get(claim.better) or not runs.get(claim.worse):
        return "not run"
    if found is None:
        return "no score"
    if p is None:
        return "one seed"
    return "undecided" if p >= LEVEL else "holds" if found.value > 0 else "reversed"
