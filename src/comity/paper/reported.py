"""The paper's results, read from reported.toml digit for digit, and the check of its means."""

import tomllib
from dataclasses import dataclass
from decimal import Decimal

from comity.paper.rows import HERE, TASKS


@dataclass(frozen=True)
class Reported:
    """One table row as printed in the paper."""

    scores: dict[str, Decimal]  # by task
    mean: Decimal

    @property
    def recomputed(self) -> Decimal:
        """The mean of the row's three scores, with as many digits as the printed mean.

        >>> row = {"sentiment": "0.474", "paraphrase": "0.886", "similarity": "0.579"}
        >>> scores = {task: Decimal(text) for task, text in row.items()}
        >>> Reported(scores, Decimal("0.647")).recomputed
        Decimal('0.646')
        """
        return self._exact.quantize(self.mean)

    @property
    def follows(self) -> bool:
        """Whether the printed mean is the mean of the printed scores."""
        return self.recomputed == self.mean

    @property
    def within_rounding(self) -> bool:
        """Whether scores that round to the printed ones can have the printed mean."""
        slack = sum((_half_a_digit(score) for score in self.scores.values()), Decimal(0)) / 3
        return abs(self._exact - self.mean) <= slack + _half_a_digit(self.mean)

    @property
    def _exact(self) -> Decimal:
        return sum(self.scores.values(), Decimal(0)) / len(self.scores)


def read_reported() -> dict[tuple[str, str], Reported]:
    """Every row of the paper's tables, by table and row name."""
    text = (HERE / "reported.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text, parse_float=Decimal)["rows"]
    return {
        (row["table"], row["row"]): Reported({task: row[task] for task in TASKS}, row["mean"])
        for row in rows
    }


def _half_a_digit(printed: Decimal) -> Decimal:
    """Half a unit of the last digit: how far rounding may have changed a number."""
    exponent = printed.as_tuple().exponent
    assert isinstance(exponent, int)
    return Decimal(5).scaleb(exponent - 1)
