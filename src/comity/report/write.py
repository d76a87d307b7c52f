"""Writes the report of a run: report.html and report.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comity.errors import ComityError
from comity.files import write_atomically
from comity.report.content import Report, collect
from comity.report.page import page

PAGE, NUMBERS = "report.html", "report.json"


@dataclass(frozen=True)
class Written:
    """A report and its two files."""

    report: Report
    page: Path
    numbers: Path

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: the content of report.json."""
        return self.report.to_dict()


def write_report(
    runs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    group_seeds: bool = False,
    texts: bool = True,
    overwrite: bool = False,
) -> Written:
    """Write the report of a run, next to baselines if there are further runs.

    Args:
        runs: run directories; the first is the one that the report is about.
        out: the folder for report.html and report.json (default: the first run).
        group_seeds: runs whose recipes differ only in their seed form one side of the comparison.
        texts: whether to show texts of the data, next to the worst errors.
        overwrite: replace an existing report.

    Raises:
        ComityError: not a run, a damaged run, baselines that cannot be compared with the run, or
            the files exist.
    """
    paths = [Path(run) for run in runs]
    if not paths:
        raise ComityError("no run to report on; name a run directory")
    folder = Path(out) if out is not None else paths[0]
    if folder.exists() and not folder.is_dir():
        raise ComityError(f"{folder}: is a file; name a folder with --out")
    written = folder / PAGE, folder / NUMBERS
    for path in written:
        if path.exists() and not overwrite:
            raise ComityError(
                f"{path}: already exists; use --overwrite to replace it, or name another folder "
                "with --out"
            )
    report = collect(paths, group_seeds, texts)
    html = page(report)
    numbers = json.dumps(report.to_dict(), indent=1, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(written[1], numbers + "\n")
    write_atomically(written[0], html)
    return Written(report, *written)
