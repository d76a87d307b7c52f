"""`Answerer`: answers equal those of `Model`, and everything is encoded once."""

import numpy as np
import pytest
from tests.serve.helpers import many_heads

from comity import Model, load, train
from comity.inference.answers import Query

TEXTS = ["the film is good", "soup", "", "the book " * 60, "a bad film about a train " * 25]
PAIRS = [("a house", "the old house"), ("soup", ""), ("the film " * 40, "a river"), ("", "soup")]
SINGLE, PAIRED = ("mood", "topic", "tags", "stars"), ("alike", "close")


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_checkpoint) -> Model:
    folder = tmp_path_factory.mktemp("answers")
    recipe = many_heads(tiny_checkpoint, folder / "data")
    return load(train(recipe, folder / "data", folder / "run", quiet=True), device="cpu")


def test_one_pass_for_all_tasks_gives_what_predict_gives(model):
    answerer = model.answerer()
    embedding = answerer.embeddings()["close"]
    queries = [Query((text,), SINGLE, embedding) for text in TEXTS]
    queries += [Query(pair, PAIRED) for pair in PAIRS]
    answers = answerer.answer(answerer.tokenize(queries))
    for tasks, rows, own in [(SINGLE, TEXTS, answers[:5]), (PAIRED, PAIRS, answers[5:])]:
        for task in tasks:
            for found, wanted in zip(own, model.predict(task, rows), strict=True):
                prediction = found.predictions[task]
                if isinstance(wanted.label, float):
                    assert prediction.label == pytest.approx(wanted.label, rel=0, abs=1e-6)
                else:
                    assert prediction.label == wanted.label
                assert prediction.probabilities == pytest.approx(wanted.probabilities, abs=1e-6)
            cut = [model.count_truncated(task, [row]) for row in rows]
            assert [task in found.truncated for found in own] == list(map(bool, cut))
    embeddings = np.stack([np.asarray(answer.embedding) for answer in answers[:5]])
    np.testing.assert_allclose(embeddings, model.encode(TEXTS), rtol=0, atol=1e-6)
    cut = [answer.embedding_truncated for answer in answers[:5]]
    assert cut == [False, False, False, False, True]
    assert {answer.embedding is None for answer in answers[5:]} == {True}


def test_every_text_is_encoded_once_in_one_pass(model, monkeypatch):
    """For three heads on a text, its embedding, and the same text in a pair that is read apart."""
    read = []
    encode = model._model.encoder.forward

    def counted(groups, *args):
        read.append(sum(len(group.packed.offsets) - 1 for group in groups))
        return encode(groups, *args)

    monkeypatch.setattr(model._model.encoder, "forward", counted)
    answerer = model.answerer()
    embedding = answerer.embeddings()["close"]
    queries = [
        Query(("soup",), ("mood", "topic", "tags"), embedding),
        Query(("soup",), ("mood",)),
        Query(("soup", "tea"), ("close",)),
        Query(("tea", "soup"), ("close",)),
    ]
    tokenized = answerer.tokenize(queries)
    answerer.answer(tokenized)
    assert read == [2]  # "soup" and "tea"
    assert [item.tokens for item in tokenized] == [3, 3, 6, 6]
    answerer.answer(answerer.tokenize([Query(("soup", "tea"), ("alike", "close"))]))
    assert read == [2, 3]  # the pair as one sequence too


def test_a_long_text_does_not_pad_short_ones(model, monkeypatch):
    longest = []
    encode = model._model.encoder.forward

    def seen(groups, *args):
        longest.extend((len(g.packed.offsets) - 1, g.packed.longest) for g in groups)
        return encode(groups, *args)

    monkeypatch.setattr(model._model.encoder, "forward", seen)
    answerer = model.answerer()
    texts = ["soup", "the book " * 60, "tea", "a good film"]
    answerer.answer(answerer.tokenize([Query((text,), ("mood",)) for text in texts]))
    assert sorted(longest) == [(1, 122), (3, 5)]


def test_a_run_that_trains_no_embeddings_pools_as_its_encoder(model):
    answerer = model.answerer()
    embedding = answerer.encoder_embedding()
    (answer,) = answerer.answer(answerer.tokenize([Query(("soup",), embedding=embedding)]))
    assert answer.embedding is not None
    np.testing.assert_allclose(answer.embedding, model.encode("soup", raw=True), atol=1e-6)
