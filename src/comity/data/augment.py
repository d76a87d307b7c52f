"""Back-translation (paper, section 4.3, part 4): new training rows out of a table's own.

A text is translated to another language and back; what comes back says the same in other words, so
the row's label still holds. Rows that come back unchanged are left out, as in the paper. This room
knows tables and no models: the two translators are functions.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from comity.errors import ComityError, ErrorList
from comity.tables.reader import Own, column_names, own_names, row_texts, whole_rows
from comity.tables.rows import CHUNK, DELIMITED, JSON_LINES, PARQUET, TableFormat
from comity.tables.writer import check_output, table_writer

Translate = Callable[[list[str]], list[str]]
"""Translates a batch of texts, none of them empty, each by itself.

Two attributes are used where a translator has them: `fingerprint: str`, which tells apart
translators whose results differ, and `count_cut(texts) -> int`, how many texts are too long for it.
"""

Rows = list[tuple[tuple[str, ...], Own]]
"""The texts to translate of each row, and the row as it came."""

Progress = Callable[[str, int, int], None]
"""Told after each batch: the direction, how many texts are done, of how many."""


@dataclass(frozen=True)
class AugmentReport:
    """What became of the rows and their texts, in counts.

    `rows` is the sum of `without_text` and `translated`; `translated` that of `without_result`,
    `identical`, `near_identical` and `augmented`.
    """

    rows: int  # read
    without_text: int  # empty in every column
    translated: int
    without_result: int  # came back without any text in a column
    identical: int
    near_identical: int
    augmented: int  # new rows
    written: int  # rows of the output: the new ones, after the source's where asked for
    empty_texts: int  # kept out of translation
    cut_texts: int  # different texts, there and back, that were too long for their translator


def augment(
    path: Path,
    columns: Sequence[str | int],
    output: Path,
    forward: Translate,
    back: Translate,
    *,
    batch_size: int = 32,
    drop_similar: float | None = None,
    with_source: bool = False,
    format: TableFormat | None = None,
    progress: Progress | None = None,
) -> AugmentReport:
    """Write a table's rows once more with the texts of `columns` translated there and back.

    All other columns stay as they are. The new rows are for training only: one beside its own
    source in dev would be judged on what it was trained on.

    Args:
        path: CSV, TSV, JSON lines or Parquet; read as `format` says, which is found out if None.
        output: a new file, in the format of its ending. Finished translations are kept beside it
            in `OUTPUT.cache.jsonl`, so that the same call goes on where an earlier one stopped.
        forward, back: see `Translate`; each different text is translated once.
        batch_size: texts of about equal length that are translated together.
        drop_similar: leave out also rows that share at least this much of their characters with
            their source in every column, from 0 to 1 (difflib's ratio).
        with_source: write the source's rows first, so that one file is the whole training set.
        progress: see `Progress`.

    Raises:
        ComityError: a fault of the arguments or the table, and where no new row is left.
    """
    read_as = format or TableFormat()
    names, rows = _checked(path, columns, output, batch_size, drop_similar, read_as)
    texts = {text for texts, _ in rows for text in texts if text.strip()}
    with TranslationCache(cache_path(output)) as cache:
        there = _translate("forward", texts, forward, cache, batch_size, progress)
        pivots = {text for text in there.values() if text.strip()}
        again = _translate("back", pivots, back, cache, batch_size, progress)
    results = {text: again.get(pivot, "") for text, pivot in there.items()}

    places = _places(path, columns, names, read_as)
    outcomes: Counter[str] = Counter()
    new: list[Own] = []
    for row, own in rows:
        outcome = _outcome([(text, results[text]) for text in row if text.strip()], drop_similar)
        outcomes[outcome] += 1
        if outcome == "augmented":
            for text, place in zip(row, places, strict=True):
                own = _replaced(own, place, results[text]) if text.strip() else own
            new.append(own)
    if not new:
        counts = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in outcomes.items())
        raise ComityError(
            f"{path}: no new row is left of {len(rows):,} ({counts}), so nothing was written; take "
            "other checkpoints or drop less"
        )
    written = [own for _, own in rows] + new if with_source else new
    _write(written, path, output, names, places)
    return AugmentReport(
        rows=len(rows),
        without_text=outcomes["without_text"],
        translated=len(rows) - outcomes["without_text"],
        without_result=outcomes["without_result"],
        identical=outcomes["identical"],
        near_identical=outcomes["near_identical"],
        augmented=len(new),
        written=len(written),
        empty_texts=sum(not text.strip() for row, _ in rows for text in row),
        cut_texts=_count_cut(forward, texts) + _count_cut(back, pivots),
    )


# --- checking and reading -------------------------------------------------------------------------


def check_augment(
    path: Path,
    columns: Sequence[str | int],
    output: Path,
    *,
    batch_size: int = 32,
    drop_similar: float | None = None,
    format: TableFormat | None = None,
) -> None:
    """All that `augment` checks before it translates; so no translator is needed yet.

    Raises:
        ComityError: with everything that is wrong with the arguments and the table.
    """
    _checked(path, columns, output, batch_size, drop_similar, format or TableFormat())


def _checked(
    path: Path,
    columns: Sequence[str | int],
    output: Path,
    batch_size: int,
    drop_similar: float | None,
    format: TableFormat,
) -> tuple[list[str], Rows]:
    """The table's column names and rows, once nothing is wrong with them or the arguments."""
    errors = ErrorList()
    _check_arguments(columns, batch_size, drop_similar, errors)
    _check_format(path, format, errors)
    try:
        _check_new(path, output)
    except ComityError as error:
        errors.extend(error)
    names, rows = _read(path, columns, format, errors)
    errors.check()
    return names, rows


def _check_arguments(
    columns: Sequence[str | int], batch_size: int, drop_similar: float | None, errors: ErrorList
) -> None:
    if not columns:
        errors.add("--column: name at least one column to translate")
    for column, times in Counter(str(column).strip() for column in columns).items():
        if times > 1:
            errors.add(f'--column: "{column}" is named {times} times; name it once')
    if batch_size < 1:
        errors.add(f"--batch-size: {batch_size} is no number of texts; give 1 or more")
    if drop_similar is not None and not 0 < drop_similar <= 1:
        errors.add(f"--drop-similar: {drop_similar} is no share; give more than 0 and at most 1")


def _check_format(path: Path, format: TableFormat, errors: ErrorList) -> None:
    """How text is read has no effect on a file that is none."""
    ending = path.suffix.lower()
    idle = ["delimiter", "header", "quoting"] if ending in JSON_LINES + PARQUET else []
    idle += ["encoding"] if ending in PARQUET else []
    for key in idle:
        if getattr(format, key) != getattr(TableFormat(), key):
            option = key if key in ("delimiter", "encoding") else f"no-{key}"
            errors.add(f"--{option}: has no effect on {path}; remove it")


def _check_new(path: Path, output: Path) -> None:
    check_output(path, output)
    if output.exists():
        raise ComityError(
            f"{output}: exists already, and nothing is overwritten; remove it or name another file"
        )


def _read(
    path: Path, columns: Sequence[str | int], format: TableFormat, errors: ErrorList
) -> tuple[list[str], Rows]:
    """The table's column names and rows; none where it cannot be read."""
    try:
        names = own_names(path, format, columns)
    except ComityError as error:
        errors.extend(error)
        return [], []
    whole = whole_rows(path, columns, names, format, errors)
    return names, [(row_texts(path, row, errors), own) for row, own in whole]


def _places(
    path: Path, columns: Sequence[str | int], names: Sequence[str], format: TableFormat
) -> list[str]:
    """The keys of a whole row under which the columns stand."""
    wanted = [str(column) for column in columns]
    if path.suffix.lower() not in DELIMITED:
        return wanted
    header = column_names(path, format, columns)
    return [names[header.index(column.strip())] for column in wanted]


# --- translating ----------------------------------------------------------------------------------


def cache_path(output: Path) -> Path:
    """Where the finished translations of an output are kept."""
    return output.with_name(f"{output.name}.cache.jsonl")


class TranslationCache:
    """Finished translations in a file of JSON lines, each written as soon as it is there.

    A last line that was cut when its writer was stopped is dropped.
    """

    def __init__(self, path: Path):
        self.found: dict[str, str] = {}
        end = 0  # of the last whole line, in bytes
        if path.is_file():
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        end += len(line)
                        self._take(line)
        self.file = path.open("ab")
        self.file.truncate(end)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self.found[entry["key"]] = entry["text"]
        except (ValueError, KeyError, TypeError):
            pass  # damaged: its text is translated again

    def __enter__(self) -> "TranslationCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, entries: Sequence[tuple[str, str]]) -> None:
        """Keep translations by key."""
        for key, text in entries:
            self.found[key] = text
            self.file.write(json.dumps({"key": key, "text": text}).encode() + b"\n")
        self.file.flush()


def _translate(
    direction: str,
    texts: Iterable[str],
    translate: Translate,
    cache: TranslationCache,
    batch_size: int,
    progress: Progress | None,
) -> dict[str, str]:
    """Each text's translation, from the cache where it is there.

    Batches are cut from all texts, the longest first, whatever the cache holds: a call that goes on
    translates the batches that the first one would have.
    """
    fingerprint = getattr(translate, "fingerprint", direction)
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    keys = {text: _key(fingerprint, text) for text in ordered}
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        missing = [text for text in batch if keys[text] not in cache.found]
        if missing:
            results = zip(missing, translate(missing), strict=True)
            cache.add([(keys[text], result) for text, result in results])
        if progress is not None:
            progress(direction, start + len(batch), len(ordered))
    return {text: cache.found[keys[text]] for text in ordered}


def _key(fingerprint: str, text: str) -> str:
    return hashlib.sha256(f"{fingerprint}\n{text}".encode()).hexdigest()


def _count_cut(translate: Translate, texts: Iterable[str]) -> int:
    count = getattr(translate, "count_cut", None)
    return 0 if count is None else count(sorted(texts))


# --- judging --------------------------------------------------------------------------------------


def _outcome(pairs: Sequence[tuple[str, str]], drop_similar: float | None) -> str:
    """What becomes of a row: the field of `AugmentReport` that counts it.

    `pairs` are the texts of the row that are not empty, each with its back-translation.
    """
    plain = [(_plain(text), _plain(result)) for text, result in pairs]
    if not plain:
        return "without_text"
    if not all(result for _, result in plain):
        return "without_result"
    if all(text == result for text, result in plain):
        return "identical"
    if drop_similar is not None and all(_similar(*pair, drop_similar) for pair in plain):
        return "near_identical"
    return "augmented"


def _plain(text: str) -> str:
    """A text for comparing: without its case, and with single spaces."""
    return " ".join(text.casefold().split())


def _similar(text: str, result: str, share: float) -> bool:
    """Whether difflib's ratio, twice the matching characters over all, reaches `share`."""
    matcher = SequenceMatcher(None, text, result, autojunk=False)
    # The quick ones are upper bounds.
    return (
        matcher.real_quick_ratio() >= share
        and matcher.quick_ratio() >= share
        and matcher.ratio() >= share
    )


# --- writing --------------------------------------------------------------------------------------


def _replaced(own: Own, name: str, text: str) -> Own:
    """A copy of the row with another text; dots lead into objects, as the readers have it."""
    if name in own:
        return own | {name: text}
    for dot in (i for i, character in enumerate(name) if character == "."):
        outer, inner = name[:dot], name[dot + 1 :]
        if isinstance(below := own.get(outer), dict):
            changed = _replaced(below, inner, text)
            if changed is not below:
                return own | {outer: changed}
    return own


def _write(
    rows: Sequence[Own], path: Path, output: Path, names: Sequence[str], places: Sequence[str]
) -> None:
    """Write all rows, or leave nothing behind."""
    partial = output.with_name(f".{output.name}.part")
    ending = output.suffix.lower()
    types = _text_types(names, places) if ending in PARQUET else {}
    try:
        writer = table_writer(partial, ending, path, names, types)
        try:
            for start in range(0, len(rows), CHUNK):
                writer.write(rows[start : start + CHUNK])
        finally:
            writer.close()
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _text_types(names: Sequence[str], places: Sequence[str]) -> dict[str, Any]:
    """Translated columns of Parquet are texts, also where the source held numbers."""
    import pyarrow

    return {place: pyarrow.string() for place in places if place in names}
