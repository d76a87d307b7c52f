"""Collects the queries of all requests and answers them in shared passes of the encoder.

Requests wait on the event loop. One thread runs the model: it takes what is waiting, up to a number
of tokens, answers it in one pass and takes what has arrived in the meantime. So a request that
comes alone is answered at once, and under load the passes fill up by themselves.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from comity.inference.answers import Answer, Answerer, Query, TokenizedQuery
from comity.serve.limits import Limits, RequestError

LOG = logging.getLogger("comity.serve")

TURNS = 4
"""A request with many texts fills a pass only up to 1/TURNS while other requests are waiting."""

PassListener = Callable[[int, int, float], None]


class Failed(Exception):
    """The model could not answer a request; the log has the reason."""


@dataclass(eq=False)
class _Job:
    """A request's queries and the answers so far. The thread changes all but `abandoned`."""

    queries: Sequence[Query]
    future: "asyncio.Future[_Job]"
    tokenized: list[TokenizedQuery] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    taken: int = 0  # queries that are in a pass or answered
    failed: bool = False
    abandoned: bool = False  # nobody waits for it any more

    @property
    def tokens(self) -> int:
        """Tokens that the encoder reads for all queries."""
        return sum(query.tokens for query in self.tokenized)


@dataclass(frozen=True)
class _Part:
    """Some of a job's queries, in one pass."""

    job: _Job
    queries: list[TokenizedQuery]


@dataclass(frozen=True)
class Answers:
    """The answers to a request, and the tokens that the encoder read for it."""

    answers: list[Answer]
    tokens: int


class Batcher:
    """Answers queries with one thread that runs the model.

    Args:
        answerer: the model.
        limits: `waiting`, `seconds` and `batch_tokens` are used here.
        on_pass: called in the thread after each pass, with its queries, tokens and seconds.
    """

    def __init__(self, answerer: Answerer, limits: Limits, on_pass: PassListener):
        self._answerer = answerer
        self._limits = limits
        self._on_pass = on_pass
        self._arrived: list[_Job] = []  # not tokenized yet; guarded by the condition
        self._condition = threading.Condition()
        self._line: deque[_Job] = deque()  # of the thread alone
        self._stopping = False
        self._jobs: set[_Job] = set()  # that are not answered yet; of the event loop alone
        self._thread = threading.Thread(target=self._run, name="comity-model", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.waiting = 0
        """Queries that are not answered yet. Changed on the event loop alone."""

    def start(self) -> None:
        """Start the thread. Call this on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Answer what is waiting, then end the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the model can answer."""
        return self._thread.is_alive()

    @property
    def full(self) -> bool:
        """Whether as many queries wait as may."""
        return self.waiting >= self._limits.waiting

    async def answer(self, queries: Sequence[Query]) -> Answers:
        """The answers to the queries of one request, in their order.

        Raises:
            RequestError: too many queries are waiting, or the answer takes too long.
            Failed: the model raised an error.
        """
        if not self.alive:
            raise RequestError(503, "the model has stopped; restart the server")
        if self.waiting and self.waiting + len(queries) > self._limits.waiting:
            raise RequestError(
                503, f"{self.waiting:,} texts are waiting already; try again later", retry_after=1
            )
        assert self._loop is not None
        job = _Job(queries, self._loop.create_future())
        self.waiting += len(queries)
        self._jobs.add(job)
        try:
            with self._condition:
                self._arrived.append(job)
                self._condition.notify()
            async with asyncio.timeout(self._limits.seconds):
                await job.future
        except TimeoutError:
            raise RequestError(
                504,
                f"no answer within {self._limits.seconds:g} seconds; send fewer texts, or try "
                "again later",
                retry_after=1,
            ) from None
        finally:
            job.abandoned = True
            self._jobs.discard(job)
            self.waiting -= len(queries)
        if job.failed:
            raise Failed
        return Answers(job.answers, job.tokens)

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._take_arrived():
                batch = self._next_batch()
                if batch:
                    self._compute(batch)
                self._deliver({part.job for part in batch})
        except BaseException:
            LOG.exception("the thread of the model has stopped; restart the server")
            self._call_loop(self._fail_all)

    def _take_arrived(self) -> bool:
        """Wait until there is work, and put new jobs into the line; False: stop."""
        with self._condition:
            while not self._arrived and not self._line:
                if self._stopping:
                    return False
                self._condition.wait()
            arrived, self._arrived = self._arrived, []
        if arrived:
            self._tokenize(arrived)
        return True

    def _tokenize(self, jobs: list[_Job]) -> None:
        """Tokenize the texts of new jobs together; one that fails does not fail the others."""
        try:
            found = iter(self._answerer.tokenize([q for job in jobs for q in job.queries]))
        except BaseException:  # a panic of the tokenizer is not an Exception
            if len(jobs) > 1:
                for job in jobs:
                    self._tokenize([job])
                return
            self._fail(jobs[0])
            self._deliver({jobs[0]})
            return
        for job in jobs:
            job.tokenized = [next(found) for _ in job.queries]
            self._line.append(job)

    def _next_batch(self) -> list[_Part]:
        """The next queries of the jobs in the line, in turns, up to the tokens of a pass."""
        batch: list[_Part] = []
        left = self._limits.batch_tokens
        while self._line and left > 0:
            job = self._line[0]
            if job.abandoned or job.failed:
                self._line.popleft()
                continue
            turn = self._limits.batch_tokens // TURNS if len(self._line) > 1 else left
            queries = _next_queries(job, min(turn, left), left, bool(batch))
            if not queries:
                break
            batch.append(_Part(job, queries))
            job.taken += len(queries)
            left -= sum(query.tokens for query in queries)
            self._line.rotate(-1)
            if job.taken == len(job.tokenized):
                self._line.pop()
        return batch

    def _compute(self, batch: list[_Part]) -> None:
        """Answer a batch; if the model fails, each request's part alone."""
        queries = [query for part in batch for query in part.queries]
        started = time.perf_counter()
        try:
            answers = iter(self._answerer.answer(queries))
        except BaseException:  # so that one request never ends the thread
            if len(batch) > 1:
                for part in batch:
                    self._compute([part])
            else:
                self._fail(batch[0].job)
            return
        tokens = sum(query.tokens for query in queries)
        self._on_pass(len(queries), tokens, time.perf_counter() - started)
        for part in batch:
            part.job.answers += [next(answers) for _ in part.queries]

    def _fail(self, job: _Job) -> None:
        LOG.exception("the model failed on a request with %d texts", len(job.queries))
        job.failed = True

    def _deliver(self, jobs: set[_Job]) -> None:
        """Wake the requests whose jobs are done."""
        done = [job for job in jobs if job.failed or len(job.answers) == len(job.queries)]
        if done:
            self._call_loop(_wake, done)

    def _call_loop(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function on the event loop."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)

    # --- on the event loop ------------------------------------------------------------------------

    def _fail_all(self) -> None:
        """Fail every request that waits."""
        for job in self._jobs:
            job.failed = True
        _wake(list(self._jobs))


def _next_queries(job: _Job, turn: int, left: int, started: bool) -> list[TokenizedQuery]:
    """A job's next queries, of at most `turn` tokens.

    The first of them may have up to `left` tokens, and any number if the pass has not `started`.
    """
    stop, tokens = job.taken, 0
    while stop < len(job.tokenized):
        query = job.tokenized[stop]
        tokens += query.tokens
        is_first = stop == job.taken
        if tokens > turn and not (is_first and (tokens <= left or not started)):
            break
        stop += 1
    return job.tokenized[job.taken : stop]


def _wake(jobs: list[_Job]) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_result(job)
