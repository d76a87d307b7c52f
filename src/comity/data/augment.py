"""Back-translation (paper, section 4.3, part 4): new training rows from those of a table.

A text is translated to another language and back. The result says the same in other words, so the
row's label is still right. Rows that come back unchanged are left out, as in the paper. The two
translators are functions, so this module needs no model.
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
from comity.tables.reader import check_format, open_table
from comity.tables.rows import (
    CHUNK,
    ArrowValue,
    Table,
    TableFormat,
    WholeRow,
    row_texts,
)
from comity.tables.writer import check_output, new_file, table_writer

Translate = Callable[[list[str]], list[str]]
"""Translates a list of texts one by one; none of them is empty.

Two attributes are used where a translator has them: `fingerprint: str`, which differs between
translators whose results differ, and `count_cut(texts) -> int`, the number of texts that are too
long for it.
"""

Rows = list[tuple[tuple[str, ...], WholeRow]]
"""The texts to translate of each row, and the whole row."""

Progress = Callable[[str, int, int], None]
"""Called after each batch with "forward" or "back", the texts done, and the number of texts."""


@dataclass(frozen=True)
class AugmentReport:
    """How many rows and texts had which result.

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
    empty_texts: int  # not translated
    cut_texts: int  # different texts that were too long for their translator, in both directions


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
    """Write new rows: those of a table with the texts of `columns` translated to and fro.

    All other columns stay as they are. Use the new rows for training only: if a source row is in
    the dev set, its new row would leak it into training.

    Args:
        path: CSV, TSV, JSON Lines or Parquet; `format` says how to read it, None finds out.
        output: a new file; its extension sets the format. Finished translations are kept next to it
            in `OUTPUT.cache.jsonl`, so that the same call resumes where an earlier one stopped.
        forward, back: see `Translate`; each different text is translated once.
        batch_size: texts of similar length that are translated together.
        drop_similar: also leave out rows whose texts are all at least this similar to their source,
            above 0 and at most 1 (difflib's ratio).
        with_source: write the source's rows first, so that one file is the whole training set.
        progress: see `Progress`.

    Raises:
        ComityError: wrong arguments, an error of the table, or no new row left.
    """
    table, rows = _checked(path, columns, output, batch_size, drop_similar, format)
    names = table.names  # read now: the file may change while the translators run
    texts = {text for texts, _ in rows for text in texts if text.strip()}
    with TranslationCache(cache_path(output)) as cache:
        there = _translate("forward", texts, forward, cache, batch_size, progress)
        pivots = {text for text in there.values() if text.strip()}
        again = _translate("back", pivots, back, cache, batch_size, progress)
    results = {text: again.get(pivot, "") for text, pivot in there.items()}

    outcomes: Counter[str] = Counter()
    new: list[WholeRow] = []
    for row, own in rows:
        outcome = _outcome([(text, results[text]) for text in row if text.strip()], drop_similar)
        outcomes[outcome] += 1
        if outcome == "augmented":
            for text, name in zip(row, table.chosen_names, strict=True):
                own = _replaced(own, name, results[text]) if text.strip() else own
            new.append(own)
    if not new:
        counts = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in outcomes.items())
        raise ComityError(
            f"{path}: no new row is left of {len(rows):,} ({counts}), so nothing was written; use "
            "other checkpoints or raise --drop-similar"
        )
    written = [own for _, own in rows] + new if with_source else new
    _write(written, table, names, output)
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
    """Check the arguments and the table as `augment` does, before any translator is loaded.

    Raises:
        ComityError: every error of the arguments and the table.
    """
    _checked(path, columns, output, batch_size, drop_similar, format)


def _checked(
    path: Path,
    columns: Sequence[str | int],
    output: Path,
    batch_size: int,
    drop_similar: float | None,
    format: TableFormat | None,
) -> tuple[Table, Rows]:
    """The table and its rows. Raises `ComityError` with every error of them and the arguments."""
    format = format or TableFormat()
    errors = ErrorList()
    _check_arguments(columns, batch_size, drop_similar, errors)
    for check in (lambda: check_format(path, format), lambda: _check_new(path, output)):
        try:
            check()
        except ComityError as error:
            errors.extend(error)
    try:
        table = open_table(path, format, columns)
        found = table.whole_rows(errors)
        rows = [(row_texts(path, row, errors), own) for row, own in found]
    except ComityError as error:
        errors.extend(error)
        errors.stop()
    errors.check()
    return table, rows


def _check_arguments(
    columns: Sequence[str | int], batch_size: int, drop_similar: float | None, errors: ErrorList
) -> None:
    if not columns:
        errors.add("--column is missing; name at least one column to translate")
    for column, times in Counter(str(column).strip() for column in columns).items():
        if times > 1:
            errors.add(f'--column "{column}" is given {times} times; give it once')
    if batch_size < 1:
        errors.add(f"--batch-size must be at least 1, got {batch_size}")
    if drop_similar is not None and not 0 < drop_similar <= 1:
        errors.add(f"--drop-similar must be above 0 and at most 1, got {drop_similar}")


def _check_new(path: Path, output: Path) -> None:
    check_output(path, output)
    if output.exists():
        raise ComityError(
            f"{output}: already exists and is not overwritten; remove it or name another file"
        )


# --- translating ----------------------------------------------------------------------------------


def cache_path(output: Path) -> Path:
    """The file that keeps the finished translations of an output."""
    return output.with_name(f"{output.name}.cache.jsonl")


class TranslationCache:
    """Finished translations in a file of JSON Lines, each batch written as soon as it is done.

    An incomplete last line, of a call that was stopped while writing, is dropped.
    """

    def __init__(self, path: Path):
        self.found: dict[str, str] = {}
        end = 0  # of the last complete line, in bytes
        if path.is_file():
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        end += len(line)
                        self._read_line(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("ab")
        self.file.truncate(end)

    def _read_line(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self.found[entry["key"]] = entry["text"]
        except (ValueError, KeyError, TypeError):
            pass  # damaged, so its text is translated again

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
    """Each text's translation, from the cache or made now.

    Batches are cut from all texts, the longest first, whether cached or not: a call that resumes
    translates the same batches as one that was not stopped.
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


# --- comparing ------------------------------------------------------------------------------------


def _outcome(pairs: Sequence[tuple[str, str]], drop_similar: float | None) -> str:
    """The field of `AugmentReport` that counts a row.

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
    """A text as it is compared: case folded, with single spaces."""
    return " ".join(text.casefold().split())


def _similar(text: str, result: str, share: float) -> bool:
    """Whether difflib's ratio, 2 * matching characters / all characters, is at least `share`."""
    matcher = SequenceMatcher(None, text, result, autojunk=False)
    # The quick ratios are upper bounds.
    return (
        matcher.real_quick_ratio() >= share
        and matcher.quick_ratio() >= share
        and matcher.ratio() >= share
    )


# --- writing --------------------------------------------------------------------------------------


def _replaced(own: WholeRow, name: str, text: str) -> WholeRow:
    """A copy of the row with another text; dots lead into objects, as in the readers."""
    if name in own:
        return own | {name: text}
    for dot in (i for i, character in enumerate(name) if character == "."):
        first, rest = name[:dot], name[dot + 1 :]
        nested = own.get(first)
        if isinstance(nested, ArrowValue):
            nested = _object(nested, first)
        if isinstance(nested, dict):
            changed = _replaced(nested, rest, text)
            if changed is not nested:
                return own | {first: changed}
    return own


def _object(value: ArrowValue, name: str) -> Any:
    try:
        return value.column.array[value.position].as_py()
    except (ValueError, OverflowError) as error:
        raise ComityError(
            f'the column "{name}" holds other values than texts, which cannot be copied ({error}); '
            "write its texts to a column of their own"
        ) from None


def _write(rows: Sequence[WholeRow], table: Table, names: Sequence[str], output: Path) -> None:
    """Write all rows, or leave no file."""
    extension = output.suffix.lower()
    types = table.arrow_types()
    for name in table.chosen_names:
        types.pop(name, None)  # translated columns are texts, even if the source has numbers
    with new_file(output) as partial:
        writer = table_writer(partial, extension, names, types)
        try:
            for start in range(0, len(rows), CHUNK):
                writer.write(rows[start : start + CHUNK])
        finally:
            writer.close()
