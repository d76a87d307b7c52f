"""The batcher: what shares a pass, turns, errors, limits. The model is a stand-in that waits."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from comity.inference.answers import Answer, Query, TokenizedQuery
from comity.serve.batcher import Answers, Batcher, Failed
from comity.serve.limits import Limits, RequestError


class StandIn:
    """Answers with the text itself, which has one token for each character.

    "bad" raises an error, "panic" one in the tokenizer. Passes wait while `open` is not set.
    """

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.passes: list[list[str]] = []

    def tokenize(self, queries: list[Query]) -> list[TokenizedQuery]:
        if any("panic" in query.texts[0] for query in queries):
            raise BaseException("a panic of the tokenizer")
        return [TokenizedQuery(query, ([],), {}, len(query.texts[0])) for query in queries]

    def answer(self, batch: list[TokenizedQuery]) -> list[Answer]:
        texts = [item.query.texts[0] for item in batch]
        self.passes.append(texts)
        assert self.open.wait(20)
        if "bad" in texts:
            raise RuntimeError("bad text")
        found: Any = [{"text": text} for text in texts]
        return [Answer(own, None, frozenset(), False) for own in found]


def queries(*texts: str) -> list[Query]:
    return [Query((text,)) for text in texts]


def texts_of(answers: Answers) -> list[str]:
    return [str(answer.predictions["text"]) for answer in answers.answers]


def run(test: Callable[[StandIn, Batcher], Coroutine[Any, Any, None]], **limits: Any) -> StandIn:
    """Run a test with a batcher, and stop the batcher."""
    model = StandIn()

    async def whole() -> None:
        batcher = Batcher(model, Limits(**limits), lambda *_: None)  # type: ignore[arg-type]
        batcher.start()
        try:
            await asyncio.wait_for(test(model, batcher), 20)
        finally:
            model.open.set()
            await asyncio.to_thread(batcher.stop)
        assert batcher.waiting == 0
        assert not batcher.alive

    asyncio.run(whole())
    return model


async def passes(model: StandIn, count: int) -> None:
    """Wait until the model has begun this many passes."""
    while len(model.passes) < count:
        await asyncio.sleep(0.001)


def test_requests_that_arrive_during_a_pass_share_the_next_one():
    async def test(model: StandIn, batcher: Batcher) -> None:
        model.open.clear()
        first = asyncio.create_task(batcher.answer(queries("first")))
        await passes(model, 1)
        others = [asyncio.create_task(batcher.answer(queries(f"n{n}", "x"))) for n in range(5)]
        await asyncio.sleep(0)
        assert batcher.waiting == 11
        model.open.set()
        assert texts_of(await first) == ["first"]
        found = [texts_of(await other) for other in others]
        assert found == [[f"n{n}", "x"] for n in range(5)]

    model = run(test)
    assert [len(texts) for texts in model.passes] == [1, 10]


def test_a_pass_has_at_most_its_tokens_and_order_is_kept():
    texts = ["aaaa", "bb", "c" * 25, "dddddd", "eeeee", "f"]

    async def test(model: StandIn, batcher: Batcher) -> None:
        answers = await batcher.answer(queries(*texts))
        assert texts_of(answers) == texts
        assert answers.tokens == sum(map(len, texts))

    model = run(test, batch_tokens=10)
    assert model.passes == [texts[:2], texts[2:3], texts[3:4], texts[4:]]  # a long text is alone


def test_a_small_request_does_not_wait_for_all_of_a_large_one():
    async def test(model: StandIn, batcher: Batcher) -> None:
        model.open.clear()
        large = asyncio.create_task(batcher.answer(queries(*["large"] * 20)))
        await passes(model, 1)
        small = asyncio.create_task(batcher.answer(queries("small")))
        await asyncio.sleep(0)
        model.open.set()
        await small
        assert texts_of(await large) == ["large"] * 20

    model = run(test, batch_tokens=20)
    assert "small" in model.passes[1]
    assert all(sum(map(len, texts)) <= 20 for texts in model.passes)
    assert len(model.passes) == 6  # (20 + 1) texts of 5 tokens, 4 in a pass


@pytest.mark.parametrize("poison", ["bad", "panic"])
def test_one_bad_request_fails_alone(poison, caplog):
    async def test(model: StandIn, batcher: Batcher) -> None:
        model.open.clear()
        first = asyncio.create_task(batcher.answer(queries("first")))
        await passes(model, 1)
        texts = ["one", poison, "two"]
        tasks = [asyncio.create_task(batcher.answer(queries(text))) for text in texts]
        await asyncio.sleep(0)
        model.open.set()
        await first
        with pytest.raises(Failed):
            await tasks[1]
        assert texts_of(await tasks[0]) == ["one"]
        assert texts_of(await tasks[2]) == ["two"]
        assert texts_of(await batcher.answer(queries("later"))) == ["later"]

    run(test)
    assert "failed on a request" in caplog.text
    assert poison in caplog.text  # the traceback


def test_a_request_without_an_answer_in_time_is_given_up():
    async def test(model: StandIn, batcher: Batcher) -> None:
        model.open.clear()
        first = asyncio.create_task(batcher.answer(queries("first")))
        await passes(model, 1)
        with pytest.raises(RequestError, match=r"no answer within 0\.05 seconds") as error:
            await batcher.answer(queries("late"))
        assert error.value.status == 504
        assert batcher.waiting == 0
        with pytest.raises(RequestError):
            await first
        model.open.set()
        assert texts_of(await batcher.answer(queries("next"))) == ["next"]

    model = run(test, seconds=0.05)
    assert model.passes == [["first"], ["next"]]  # nobody waited for "late"


def test_a_full_queue_is_refused():
    async def test(model: StandIn, batcher: Batcher) -> None:
        model.open.clear()
        first = asyncio.create_task(batcher.answer(queries("one", "two")))
        await passes(model, 1)
        assert not batcher.full
        second = asyncio.create_task(batcher.answer(queries("three")))
        await asyncio.sleep(0)
        assert batcher.full
        with pytest.raises(RequestError, match="3 texts are waiting") as error:
            await batcher.answer(queries("four"))
        assert (error.value.status, error.value.headers) == (503, {"Retry-After": "1"})
        model.open.set()
        await first
        await second
        assert texts_of(await batcher.answer(queries("five"))) == ["five"]

    run(test, waiting=3)


def test_stopping_answers_what_is_waiting():
    async def test(model: StandIn, batcher: Batcher) -> None:
        model.open.clear()
        tasks = [asyncio.create_task(batcher.answer(queries(f"n{n}"))) for n in range(3)]
        await passes(model, 1)
        stop = asyncio.create_task(asyncio.to_thread(batcher.stop))
        await asyncio.sleep(0.01)
        model.open.set()
        assert [texts_of(await task) for task in tasks] == [["n0"], ["n1"], ["n2"]]
        await stop
        with pytest.raises(RequestError, match="has stopped") as error:
            await batcher.answer(queries("late"))
        assert error.value.status == 503

    run(test)
