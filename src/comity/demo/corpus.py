"""Generates the demo's corpus: three small tasks that counting words does not solve.

`python -m comity.demo.corpus` writes `{sentiment,paraphrase,similarity}-{train,dev}.csv` into the
folder `corpus` next to this file (or into `--out DIR`), the same bytes each time.

**sentiment** (`id,text,sentiment`): is the writer's opinion `negative`, `mixed` or `positive`?
Each template is filled with good and with bad words equally often, so the label depends on
negation, contrast, changed expectations, comparisons and whose opinion the writer shares.

**paraphrase** (`id,first,second,same`): do two questions or requests ask for the same, `yes` or
`no`? A `yes` is reworded; a `no` has two roles exchanged, asks the opposite, or names another
thing.

**similarity** (`id,first,second,score`): how similar are two reported events, from 0 to 5? Each of
actor, action, object, location and time gives 1 point if both sentences name the same (or a
synonym), 0.5 if they name related ones (doctor and nurse), and 0 otherwise. If one sentence says
that the event happened and the other that it did not, 2 points are subtracted, but the score is
never below 0. Word order, passive voice and clefts do not count.

The splits share no sentence. Nouns, names and locations occur in one split only, and dev also has
adjectives, templates and kinds of question of its own.
"""

import argparse
import csv
import functools
import io
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from comity.demo import corpus_sentiment, corpus_words
from comity.demo.corpus_paraphrase import FRAMES, Frame
from comity.demo.corpus_words import Domain
from comity.errors import ComityError

T = TypeVar("T")
Row = tuple[str, ...]

FOLDER = Path(__file__).parent / "corpus"
SEED = 2022
SPLITS = ("train", "dev")
COLUMNS = {
    "sentiment": ("text", "sentiment"),
    "paraphrase": ("first", "second", "same"),
    "similarity": ("first", "second", "score"),
}
LABELS = {
    "sentiment": ("negative", "mixed", "positive"),
    "paraphrase": ("no", "yes"),
    "similarity": tuple(f"{half / 2:.1f}" for half in range(11)),
}
ROWS_PER_LABEL = {
    "sentiment": {"train": 500, "dev": 100},
    "paraphrase": {"train": 700, "dev": 150},
    "similarity": {"train": 60, "dev": 22},
}

# Groups of review templates to draw from. "plain" is listed twice: if half of the opinions were
# reversed, single words would carry no information and a model could not start to learn.
OPINION_GROUPS = ("plain", "plain", "turned", "both")

# Shares of rows: dev reviews from templates that only dev has; differing questions that name
# another thing, and of the rest those that repeat the first question's wording; events denied in
# the first sentence, and pairs with one event denied and the other not.
DEV_ONLY_SHARE = 0.1
OTHER_THING_SHARE = 0.2
SAME_WORDING_SHARE = 0.4
DENIED_SHARE = 0.25
OPPOSED_SHARE = 0.25


class Draw:
    """Random choices built on `random()` alone, which Python promises never to change."""

    def __init__(self, *keys: object):
        self._random = random.Random("/".join(map(str, keys))).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def one(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def two(self, items: Sequence[T]) -> tuple[T, T]:
        """Two different items."""
        first, second = self.shuffled(items)[:2]
        return first, second

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return sorted(items, key=lambda _: self._random())


def capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def normalized(text: str) -> str:
    """`text` without differences in case and space, to compare texts."""
    return " ".join(text.casefold().split())


def with_articles(text: str) -> str:
    """`text` with "an" for "a" before a vowel ("used" begins with a consonant sound)."""
    return re.sub(r"\b([Aa]) (?=(?!used)[aeiouAEIOU])", r"\1n ", text)


# --- sentiment -----------------------------------------------------------------------------------


def review(split: str, label: str, draw: Draw) -> Row:
    """One text in which the writer's opinion is `label`."""
    source = corpus_sentiment.TEMPLATES
    if split == "dev" and draw.chance(DEV_ONLY_SHARE):
        source = corpus_sentiment.DEV_ONLY_TEMPLATES
    group = "mixed" if label == "mixed" else draw.one((*OPINION_GROUPS, label))
    template = draw.one(source[group])

    # The side of x: 0 is good, 1 is bad. In the groups "positive" and "negative", x is good.
    if group == "mixed":
        side = int(draw.chance(0.5))
    else:
        side = int(group in OPINION_GROUPS and label == "negative")
    setting = draw.one(corpus_sentiment.SETTINGS[split]).split(", ")
    (part, kind), (other, other_kind) = (thing.split(":") for thing in draw.two(setting))
    pair, second_pair = draw.two(adjectives(kind, split))
    other_pair = draw.one(adjectives(other_kind, split))
    text = template.format(
        part=part,
        other=other,
        x=pair[side],
        y=pair[1 - side],
        xx=second_pair[side],
        ox=other_pair[side],
        oy=other_pair[1 - side],
    )
    return (with_articles(text),)


def adjectives(kind: str, split: str) -> list[list[str]]:
    """The pairs (good, bad) of adjectives for one kind of thing."""
    return [pair.split("/") for pair in corpus_sentiment.ADJECTIVES[kind].of(split).split(", ")]


# --- paraphrase ----------------------------------------------------------------------------------


def question_pair(split: str, label: str, draw: Draw) -> Row:
    """Two questions or requests that ask for the same (`yes`) or not (`no`)."""
    frame = draw.one([frame for frame in FRAMES if split == "dev" or not frame.dev_only])
    a, b, third = fillers(frame, split, draw)
    this, opposite = draw.two((frame.same, frame.other or exchanged(frame.same)))
    first, second = draw.two(this)
    if label == "no" and draw.chance(OTHER_THING_SHARE):
        second = second.replace("{b}", third)
    elif label == "no" and draw.chance(SAME_WORDING_SHARE):
        second = opposite[this.index(first)]
    elif label == "no":
        second = draw.one(opposite)
    first, second = (with_articles(text.format(a=a, b=b)) for text in (first, second))
    return capitalized(first), capitalized(second)


def fillers(frame: Frame, split: str, draw: Draw) -> tuple[str, str, str]:
    """Words for {a} and {b} of `frame`, and a third to replace {b}; all different."""
    a = draw.one(frame.a.of(split).split(", "))
    b, third = draw.two([word for word in frame.b.of(split).split(", ") if word != a])
    return a, b, third


def exchanged(phrasings: tuple[str, ...]) -> tuple[str, ...]:
    """The phrasings with {a} and {b} exchanged."""
    return tuple(text.format(a="{b}", b="{a}") for text in phrasings)


# --- similarity ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """An event in words of `corpus_words` (an action is written "fix fixed")."""

    actor: str
    action: str
    object: str
    place: str
    time: str
    denied: bool = False

    @property
    def parts(self) -> tuple[str, str, str, str, str]:
        return self.actor, self.action, self.object, self.place, self.time


def families(text: str) -> list[list[list[str]]]:
    """Families of members, each a list of synonyms.

    >>> families("cook/chef, baker; judge, lawyer")
    [[['cook', 'chef'], ['baker']], [['judge'], ['lawyer']]]
    """
    return [[member.split("/") for member in family.split(", ")] for family in text.split("; ")]


@functools.cache
def meanings() -> dict[str, tuple[int, int]]:
    """The numbers of the family, and of the member in it, for each word of an event."""
    texts = [corpus_words.TIMES, *(domain.actions for domain in corpus_words.DOMAINS)]
    for words in (
        corpus_words.ACTORS,
        corpus_words.PLACES,
        *(domain.objects for domain in corpus_words.DOMAINS),
    ):
        texts += [words.train, words.dev]
    every = [family for text in texts for family in families(text)]
    return {
        word: (family_number, member_number)
        for family_number, family in enumerate(every)
        for member_number, member in enumerate(family)
        for word in member
    }


def agreement(first: str, second: str) -> float:
    """1 for the same word or a synonym, 0.5 for another member of its family, else 0."""
    one, other = meanings()[first], meanings()[second]
    return 1.0 if one == other else 0.5 if one[0] == other[0] else 0.0


def score(first: Event, second: Event) -> float:
    """How similar two events are, from 0 to 5, by the rule at the top of this file."""
    points = sum(agreement(*words) for words in zip(first.parts, second.parts, strict=True))
    return max(0.0, points - 2.0 * (first.denied != second.denied))


def event_pair(split: str, label: str, draw: Draw) -> Row:
    """Two reports of events whose score is `label`."""
    wanted = float(label)
    opposed = wanted <= 3.0 and draw.chance(OPPOSED_SHARE)
    while True:
        agreements = [draw.one((0.0, 0.5, 1.0)) for _ in range(5)]
        if max(0.0, sum(agreements) - 2.0 * opposed) == wanted:
            break
    domain, other_domain = draw.two(corpus_words.DOMAINS)
    words = [draw.one(draw.one(draw.one(part))) for part in event_parts(domain, split)]
    # An action fits only objects of its own domain, so both change the domain or neither does.
    changes = agreements[1] == agreements[2] == 0.0 and draw.chance(0.5)
    choices = event_parts(other_domain if changes else domain, split)
    changed = [counterpart(*each, draw) for each in zip(words, agreements, choices, strict=True)]
    denied = draw.chance(DENIED_SHARE)
    first, second = Event(*words, denied=denied), Event(*changed, denied=denied != opposed)
    return sentence(first, draw), sentence(second, draw)


def event_parts(domain: Domain, split: str) -> list[list[list[list[str]]]]:
    """The families for actor, action, object, location and time."""
    texts = (
        corpus_words.ACTORS.of(split),
        domain.actions,
        domain.objects.of(split),
        corpus_words.PLACES.of(split),
        corpus_words.TIMES,
    )
    return [families(text) for text in texts]


def counterpart(word: str, wanted: float, choices: list[list[list[str]]], draw: Draw) -> str:
    """A word from `choices` whose agreement with `word` is `wanted`."""
    every = [other for family in choices for member in family for other in member]
    return draw.one([other for other in every if agreement(word, other) == wanted])


def sentence(event: Event, draw: Draw) -> str:
    """A sentence that reports the event, in one of several forms."""
    base, past = event.action.split(" ")
    form = draw.one(corpus_words.DENIED_FORMS if event.denied else corpus_words.FORMS)
    text = form.format(
        actor=event.actor,
        base=base,
        past=past,
        object=event.object,
        place=event.place,
        time=event.time,
    )
    return capitalized(text)


# --- the files -----------------------------------------------------------------------------------

MAKERS = {"sentiment": review, "paraphrase": question_pair, "similarity": event_pair}


def rows(task: str, split: str, seed: int = SEED) -> list[Row]:
    """The rows of one file: balanced labels, random order, no two rows with the same texts."""
    draw = Draw(seed, task, split)
    seen: set[frozenset[str]] = set()
    made: list[Row] = []
    for label in LABELS[task]:
        left = ROWS_PER_LABEL[task][split]
        while left:
            texts = MAKERS[task](split, label, draw)
            key = frozenset(map(normalized, texts))
            if len(key) == len(texts) and key not in seen:
                seen.add(key)
                made.append((*texts, label))
                left -= 1
    return [(f"{split}-{number:04}", *row) for number, row in enumerate(draw.shuffled(made), 1)]


def corpus(seed: int = SEED) -> dict[str, str]:
    """The content of each file by name."""
    files = {}
    for task, columns in COLUMNS.items():
        for split in SPLITS:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(("id", *columns))
            writer.writerows(rows(task, split, seed))
            files[f"{task}-{split}.csv"] = text.getvalue()
    return files


def write(folder: Path) -> None:
    """Write the files into `folder`.

    Raises:
        ComityError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in corpus().items():
            (folder / name).write_bytes(text.encode())
    except OSError as error:
        raise ComityError(
            f"{folder}: the corpus cannot be written ({error.strerror}); name another folder with "
            "--out"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description="Write the demo's corpus.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the CSV files")
    try:
        write(parser.parse_args(arguments).out)
    except ComityError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
