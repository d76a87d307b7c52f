"""Claims on rows: differences of means over seeds, their verdicts, and what the page shows."""

from pathlib import Path

import pytest
from tests.evaluation.helpers import mood, seeds, write_run

from comity.evaluation.compare import score_tables
from comity.paper.claims import CLAIMS, Claim, check_claims
from comity.paper.page import _claims
from comity.paper.rows import PaperRow

RIGHT = {
    "low": (100, 103, 106),
    "high": (150, 154, 152),
    "near": (104, 108),
    "single": (150,),
    "wide": (99, 104, 108),
}
"""Rows of a table, and how many of 200 dev rows each seed gets right."""

ROWS = [PaperRow("3", name, name, ()) for name in [*RIGHT, "missing"]]


@pytest.fixture
def runs(tmp_path) -> dict[str, dict[int, Path]]:
    return {name: dict(enumerate(seeds(tmp_path / name, right))) for name, right in RIGHT.items()}


def checked(monkeypatch, runs, *pairs):
    """The checked claims that the first of each pair of rows beats the second."""
    claims = [Claim(f"{better} beats {worse}", better, worse, "mood") for better, worse in pairs]
    monkeypatch.setattr("comity.paper.claims.CLAIMS", claims)
    monkeypatch.setattr("comity.paper.page.METRIC_OF", {"mood": "accuracy"})
    return check_claims(ROWS, runs, {})


def test_the_words_of_claims(monkeypatch, runs):
    found = checked(
        monkeypatch,
        runs,
        ("high", "low"),
        ("low", "high"),
        ("near", "low"),
        ("single", "low"),
        ("high", "missing"),
    )
    verdicts = [claim["verdict"] for claim in found]
    assert verdicts == ["holds", "reversed", "undecided", "one seed", "not run"]
    assert [claim["ours"] for claim in found[:3]] == pytest.approx([0.245, -0.245, 0.015])
    assert found[2]["seeds"] == {"near": [0, 1], "low": [0, 1, 2]}
    one_seed, not_run = found[3:]
    assert one_seed["low"] < one_seed["ours"] < one_seed["high"]
    assert (one_seed["p"], not_run["p"], not_run["ours"]) == (None, None, None)


def test_p_values_are_adjusted_for_the_claims_of_the_page(monkeypatch, runs):
    alone = checked(monkeypatch, runs, ("near", "low"))[0]["p"]
    pairs = [("near", "low"), ("high", "low"), ("high", "near"), ("single", "low")]
    found = [claim["p"] for claim in checked(monkeypatch, runs, *pairs)]
    assert found[0] == pytest.approx(alone)  # the largest of three
    pages = [checked(monkeypatch, runs, pair)[0]["p"] for pair in pairs[1:3]]
    assert sorted(found[1:3]) == pytest.approx(
        [3 * min(pages), max(3 * min(pages), 2 * max(pages))]
    )
    assert found[3] is None


def test_the_variance_over_seeds_is_pooled_over_the_rows_of_the_page(monkeypatch, runs):
    two = {name: runs[name] for name in ("low", "near")}
    few, many = (checked(monkeypatch, found, ("near", "low"))[0] for found in (two, runs))
    assert few["ours"] == many["ours"]
    assert few["p"] != many["p"]
    groups = [list(of_row.values()) for of_row in runs.values()]
    estimate = score_tables(groups)[0].difference(0, 2)
    assert estimate is not None
    assert (many["low"], many["high"]) == (estimate.interval.low, estimate.interval.high)


def test_a_run_without_a_score_has_no_verdict(monkeypatch, runs, tmp_path):
    bad = write_run(tmp_path / "bad", mood(150), seed=3)
    path = bad / "predictions" / "000007" / "mood.csv"
    path.write_text(path.read_text().replace("0.9,", "nan,", 1))
    runs["high"][3] = bad
    (claim,) = checked(monkeypatch, runs, ("high", "low"))
    assert (claim["verdict"], claim["p"], claim["ours"]) == ("no score", None, None)


def test_the_page_shows_p_and_the_seeds_of_both_rows(monkeypatch, runs):
    found = checked(monkeypatch, runs, ("near", "low"), ("single", "low"), ("wide", "low"))
    about, _, _, _, near, single, wide = _claims(found)
    assert "adjusted for 2 claims (Holm)" in about
    assert 'With "one seed"' in about
    assert f"| {found[0]['p']:.3f} | 2 and 3 | undecided |" in near
    assert "| - | 1 and 3 | one seed |" in single
    assert "| 3 | undecided |" in wide
    assert 'With "one seed"' not in _claims(checked(monkeypatch, runs, ("wide", "low")))[0]


def test_a_page_without_a_test_does_not_speak_of_p(monkeypatch, runs):
    about = _claims(checked(monkeypatch, runs, ("single", "low")))[0]
    assert about.startswith('Ours: the difference of the means over seeds. With "one seed"')
    assert "Holm" not in about


def test_every_sentence_names_what_is_compared():
    for claim in CLAIMS:
        assert " beats " in claim.sentence or " beat " in claim.sentence
        assert "best row" not in claim.sentence
        if claim.task != "mean":
            assert claim.task in claim.sentence


def test_the_p_of_a_claim_by_hand(monkeypatch, tmp_path):
    # All 200 rows of a run are right or wrong together, so rows add no variance. The variances over
    # seeds are 0.5 and 0: t = 0.5 / sqrt(0.5 / 2) = 1 with one degree of freedom, where p = 1 / 2.
    right = {"low": (0, 200), "high": (200, 200)}
    runs = {name: dict(enumerate(seeds(tmp_path / name, r))) for name, r in right.items()}
    (claim,) = checked(monkeypatch, runs, ("high", "low"))
    assert claim["p"] == pytest.approx(0.5)
