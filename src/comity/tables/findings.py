"""What looks wrong in texts without being an error: zero bytes, and text decoded wrongly."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from comity.tables.locations import FramePath, row_list

Kind = Literal["zero byte", "wrong encoding", "lost characters", "spreadsheet mark"]

_CONTINUATION = "".join(
    re.escape(bytes([byte]).decode("cp1252", "ignore") or chr(byte)) + re.escape(chr(byte))
    for byte in range(0x80, 0xC0)
)

# UTF-8 that was decoded as cp1252 or latin-1: "Ã¨" for è, "â€™" for a quote, "ðŸ" for an emoji.
# After a capital letter "Ã" and "Â" may be letters of a word in capitals. Then cp1252 that was
# decoded as latin-1: control characters, of which U+0085 is left out because some files end lines
# with it.
_MISDECODED = re.compile(
    rf"(?<![A-ZÀ-Þ])[ÂÃ][{_CONTINUATION}]"
    rf"|â[€‚„†\x80\x82\x84\x86][{_CONTINUATION}]"
    rf"|ð(?:Ÿ|\x9f)[{_CONTINUATION}]|ï»¿"
    rf"|(?:[ÎÏÐÑ][{_CONTINUATION}]){{2}}|(?:[ä-é][{_CONTINUATION}]{{2}}){{2}}"
    "|[\x80-\x84\x86-\x9f]"
)


@dataclass(frozen=True)
class Finding:
    """How many values show something, the line of the first, and an example of it."""

    kind: Kind
    count: int
    line: int
    example: str


class Findings:
    """Counts what looks wrong, value by value."""

    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {}
        self._first: dict[Kind, tuple[int, str]] = {}

    def look(self, line: int, value: str) -> None:
        """Look at one value of a row."""
        if "\0" in value:
            self.add("zero byte", line, "")
        if value.isascii():
            return
        if match := _MISDECODED.search(value):
            self.add("wrong encoding", line, _around(value, match.start(), match.end()))
        if "\ufffd" in value:
            start = value.index("\ufffd")
            self.add("lost characters", line, _around(value, start, start + 1))

    def add(self, kind: Kind, line: int, example: str) -> None:
        """Count one value."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._first.setdefault(kind, (line, example))

    def found(self) -> list[Finding]:
        """What was found, one entry per kind."""
        return [Finding(kind, count, *self._first[kind]) for kind, count in self._counts.items()]


def finding_notes(path: Path, findings: Iterable[Finding]) -> list[str]:
    """One sentence for each finding."""
    return [f"{path}: {_sentence(path, finding)}" for finding in findings]


def _sentence(path: Path, finding: Finding) -> str:
    count, example = f"{finding.count:,}", finding.example
    one, first = finding.count == 1, row_list(path, [finding.line])
    values, first = ("value", first) if one else ("values", f"first in {first}")
    in_memory = isinstance(path, FramePath)
    again = "read its source again" if in_memory else "save the file again from its source"
    match finding.kind:
        case "zero byte":
            verb = "contains" if one else "contain"
            return f"{count} {values} {verb} a zero byte ({first}); remove it if it is not text"
        case "wrong encoding":
            verb = "looks" if one else "look"
            return (
                f'{count} {values} {verb} like text decoded with the wrong encoding ("{example}", '
                f"{first}); if so, {'' if in_memory else 'correct `encoding`, or '}{again} as UTF-8"
            )
        case "lost characters":
            verb = "contains" if one else "contain"
            return (
                f'{count} {values} {verb} U+FFFD, which replaces a lost character ("{example}", '
                f"{first}); if it was another one, {again} as UTF-8"
            )
        case "spreadsheet mark":
            verb = "begins" if one else "begin"
            return (
                f"{count} {values} {verb} with an apostrophe that protects spreadsheets, which is "
                f'not read as text ("{example}", {first})'
            )


def _around(text: str, start: int, end: int, reach: int = 12) -> str:
    """The word around a place, on one line."""
    left, right = text[max(0, start - reach) : start], text[end : end + reach]
    left = left[max((left.rfind(c) for c in " \t\r\n"), default=-1) + 1 :]
    right = re.split(r"[ \t\r\n]", right, maxsplit=1)[0]
    word = left + text[start:end] + right
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in word)
