"""The demo's corpus: the promises of its generator, checked on the shipped files."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from comity.demo import corpus, corpus_paraphrase, corpus_sentiment, corpus_words
from comity.demo.corpus import Event
from comity.demo.corpus_words import DOMAINS, Words

TASKS = {
    "sentiment": {"negative": (500, 100), "mixed": (500, 100), "positive": (500, 100)},
    "paraphrase": {"no": (700, 150), "yes": (700, 150)},
    "similarity": {
        f"{score:.1f}": (60, 22) for score in (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)
    },
}
FILES = [(task, split) for task in TASKS for split in ("train", "dev")]
LABEL = {"sentiment": "sentiment", "paraphrase": "same", "similarity": "score"}
TEXTS = {
    "sentiment": ["text"],
    "paraphrase": ["first", "second"],
    "similarity": ["first", "second"],
}


def read(task: str, split: str) -> list[dict[str, str]]:
    with open(corpus.FOLDER / f"{task}-{split}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def texts(task: str, split: str) -> list[str]:
    return [row[column] for row in read(task, split) for column in TEXTS[task]]


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.lower()).strip()


def test_shipped_files_are_those_that_the_generator_writes(tmp_path: Path):
    assert corpus.main(["--out", str(tmp_path / "new" / "folder")]) == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "new" / "folder").iterdir()}
    shipped = {path.name: path.read_bytes() for path in corpus.FOLDER.iterdir()}
    assert written == shipped
    assert sorted(shipped) == sorted(f"{task}-{split}.csv" for task, split in FILES)


def test_another_seed_gives_other_rows():
    assert corpus.rows("sentiment", "dev", seed=1) != corpus.rows("sentiment", "dev", seed=2)


def test_a_folder_that_cannot_be_written_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert corpus.main(["--out", str(blocked)]) == 1
    message = capsys.readouterr().err.strip()
    assert str(blocked) in message
    assert "--out" in message
    assert "\n" not in message


@pytest.mark.parametrize(("task", "split"), FILES)
def test_columns_sizes_and_balance(task: str, split: str):
    rows = read(task, split)
    assert list(rows[0]) == ["id", *TEXTS[task], LABEL[task]]
    wanted = {label: counts[split == "dev"] for label, counts in TASKS[task].items()}
    assert Counter(row[LABEL[task]] for row in rows) == wanted
    assert len({row["id"] for row in rows}) == len(rows)


def test_labels_are_spread_over_the_file():
    first_rows = Counter(row["sentiment"] for row in read("sentiment", "train")[:150])
    assert all(first_rows[label] > 25 for label in TASKS["sentiment"])


def test_train_and_dev_share_no_sentence_across_all_tasks():
    train, dev = (
        {plain(text) for task in TASKS for text in texts(task, split)} for split in ("train", "dev")
    )
    assert len(train) > 3000
    assert not train & dev


@pytest.mark.parametrize(("task", "split"), FILES)
def test_no_row_occurs_twice_in_either_order(task: str, split: str):
    rows = [frozenset(plain(row[column]) for column in TEXTS[task]) for row in read(task, split)]
    assert len(set(rows)) == len(rows)
    assert {len(row) for row in rows} == {len(TEXTS[task])}


@pytest.mark.parametrize(("task", "split"), FILES)
def test_texts_are_clean_sentences(task: str, split: str):
    for text in texts(task, split):
        assert re.fullmatch(r"[A-Z][A-Za-z ,;']+[.?]", text), text
        assert "  " not in text
        assert not re.search(r"\b[Aa] (?!used\b)[AEIOUaeiou]", text), text
        assert not re.search(r"\b[Aa]n (?![AEIOUaeiou])", text), text
        assert not re.search(r"\b(\w+) \1\b", text.lower()), text


def test_nouns_names_and_locations_of_dev_occur_in_no_training_text():
    lists = [words for words in vars(corpus_words).values() if isinstance(words, Words)]
    lists += [domain.objects for domain in DOMAINS]
    held_out = {word for words in lists for word in re.split("[,;] |/", words.dev)}
    for setting in corpus_sentiment.SETTINGS["dev"]:
        held_out |= {thing.split(":")[0] for thing in setting.split(", ")}
    train = " ".join(plain(text) for task in TASKS for text in texts(task, "train"))
    dev = " ".join(plain(text) for task in TASKS for text in texts(task, "dev"))
    assert len(held_out) > 100
    for word in held_out:
        singular_or_plural = re.escape(word.lower().removesuffix("s")) + "(e?s)?"
        assert re.search(rf"\b{singular_or_plural}\b", dev), word
        assert not re.search(rf"\b{singular_or_plural}\b", train), word


# --- the labels, checked against the texts without the generator ----------------------------------

GOOD_WORDS = """
    tasty delicious wholesome satisfying clean cozy quiet tidy friendly polite helpful competent
    sturdy reliable practical excellent gripping clever inspiring funny smooth pleasant relaxing
    comfortable superb appealing spotless inviting courteous attentive dependable robust
    captivating witty enjoyable delightful
"""
BAD_WORDS = """
    bland awful greasy disappointing dirty gloomy noisy messy rude surly unhelpful careless flimsy
    unreliable impractical worthless dull silly tedious tiresome bumpy miserable stressful
    exhausting horrible revolting filthy dingy insolent indifferent defective shoddy boring dreary
    dreadful wretched
"""
GOOD, BAD = set(GOOD_WORDS.split()), set(BAD_WORDS.split())
AGREES = (r"called the .* (\w+), and he was right", r"and now it is (\w+)", r"turned out (\w+)")
TURNS = (r"was not (\w+) at all", r"called the .* (\w+), and he was wrong", r"longer (\w+)")


@pytest.mark.parametrize("split", ["train", "dev"])
def test_opinions_follow_from_the_words_and_their_reversals(split: str):
    found = Counter()
    for row in read("sentiment", split):
        for pattern in (*AGREES, *TURNS):
            match = re.search(pattern, row["text"])
            if match:
                word = match[1]
                assert word in GOOD | BAD
                good = (word in GOOD) == (pattern in AGREES)
                assert row["sentiment"] == ("positive" if good else "negative"), row
                found[pattern] += 1
    assert len(found) == len(AGREES) + len(TURNS)


def test_good_and_bad_words_alone_do_not_reveal_the_opinion():
    tally = Counter()
    for row in read("sentiment", "train"):
        words = set(re.findall(r"\w+", row["text"].lower()))
        tally[row["sentiment"], len(words & GOOD) > len(words & BAD)] += 1
    right = tally["positive", True] + tally["negative", False]
    wrong = tally["positive", False] + tally["negative", True]
    assert right / (right + wrong) < 0.7


@pytest.mark.parametrize("split", ["train", "dev"])
def test_questions_are_the_same_where_their_roles_are(split: str):
    elder_first = (r"Is (\w+) older than (\w+)\?", r"Was (\w+) born before (\w+)\?")
    younger_first = (r"Is (\w+) younger than (\w+)\?", r"Was (\w+) born after (\w+)\?")

    def elder_and_younger(text: str) -> tuple[str, ...] | None:
        for pattern in (*elder_first, *younger_first):
            if match := re.fullmatch(pattern, text):
                return match.groups() if pattern in elder_first else match.groups()[::-1]
        return None

    seen = Counter()
    for row in read("paraphrase", split):
        first, second = (elder_and_younger(row[column]) for column in ("first", "second"))
        assert (first is None) == (second is None)
        if first:
            assert row["same"] == ("yes" if first == second else "no"), row
            seen[row["same"]] += 1
    assert min(seen["yes"], seen["no"]) > 1


def test_different_questions_share_more_words_than_paraphrases():
    shared = {"yes": [], "no": []}
    for row in read("paraphrase", "train"):
        first, second = (set(re.findall(r"\w+", row[key].lower())) for key in ("first", "second"))
        shared[row["same"]].append(len(first & second) / len(first | second))
    mean = {label: sum(values) / len(values) for label, values in shared.items()}
    assert mean["no"] > mean["yes"]


def test_every_frame_can_be_filled_and_names_both_of_its_things():
    for frame in corpus_paraphrase.FRAMES:
        assert len(frame.other) in (0, len(frame.same))
        assert all("{a}" in text and "{b}" in text for text in frame.same + frame.other)
        assert frame.a.of("dev") != frame.a.of("train")


FIRST = Event("doctor", "fix fixed", "bicycle", "in the garden", "at dawn")


@pytest.mark.parametrize(
    ("second", "score"),
    [
        (FIRST, 5.0),
        # the same event in synonyms
        (Event("physician", "repair repaired", "bike", "in the yard", "at sunrise"), 5.0),
        # a related actor; a related actor and object; another location as well
        (Event("nurse", "fix fixed", "bicycle", "in the garden", "at dawn"), 4.5),
        (Event("nurse", "fix fixed", "scooter", "in the garden", "at dawn"), 4.0),
        (Event("nurse", "fix fixed", "scooter", "on the beach", "at dawn"), 3.0),
        # denied; denied, with little in common: never below 0
        (Event("doctor", "fix fixed", "bike", "in the garden", "at dawn", denied=True), 3.0),
        (Event("judge", "feed fed", "dog", "in the garden", "on Monday", denied=True), 0.0),
        (Event("judge", "feed fed", "dog", "near the school", "on Monday"), 0.0),
    ],
)
def test_score_follows_the_rule_by_hand(second: Event, score: float):
    assert corpus.score(FIRST, second) == score
    assert corpus.score(second, FIRST) == score


def test_two_denied_events_agree():
    denied = Event("doctor", "fix fixed", "bike", "in the garden", "at dawn", denied=True)
    assert corpus.score(denied, denied) == 5.0


def families_of_parts(split: str) -> list[list[list[list[str]]]]:
    """Families of members of synonyms, for actor, action, object, location and time."""
    parts = [
        corpus_words.ACTORS.of(split),
        # "fix fixed" becomes the pattern "fix|fixed"
        re.sub(r"(\w) (\w)", r"\1|\2", "; ".join(domain.actions for domain in DOMAINS)),
        "; ".join(domain.objects.of(split) for domain in DOMAINS),
        corpus_words.PLACES.of(split),
        corpus_words.TIMES,
    ]
    return [
        [[member.split("/") for member in family.split(", ")] for family in part.split("; ")]
        for part in parts
    ]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_scores_follow_from_the_sentences(split: str):
    parts = families_of_parts(split)

    def mentioned(text: str, part: list[list[list[str]]]) -> tuple[int, int]:
        """Family and member of the one word of `part` that occurs in `text`."""
        (found,) = {
            (family_number, member_number)
            for family_number, family in enumerate(part)
            for member_number, member in enumerate(family)
            for word in member
            if re.search(rf"\b({word})\b", text, re.IGNORECASE)
        }
        return found

    for row in read("similarity", split):
        points = 0.0
        for part in parts:
            one, other = mentioned(row["first"], part), mentioned(row["second"], part)
            points += 1.0 if one == other else 0.5 if one[0] == other[0] else 0.0
        if (" not " in row["first"]) != (" not " in row["second"]):
            points -= 2.0
        assert float(row["score"]) == max(points, 0.0), row
