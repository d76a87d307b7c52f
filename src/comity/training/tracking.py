"""Passes the records of a run to the experiment trackers of its recipe."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from comity.recipe.schema import TrackSection
from comity.runs.directory import RunDirectory
from comity.track.sender import Sender, start_senders
from comity.track.trackers import Status
from comity.training.events import Event, Listener, Logged, RunStarted, TrackerNote

SOON = 2.0
"""Seconds at the end of a run after which the user is told that it waits for trackers."""

PATIENCE = 60.0
"""Seconds after which the end of a run no longer waits for trackers."""


@contextmanager
def tracked(track: TrackSection, out: Path, on_event: Listener) -> Iterator[Listener]:
    """A listener that also passes what the run in `out` records to its trackers.

    Trackers work in threads of their own. When the run is over, they get `PATIENCE` seconds.
    """
    senders: list[Sender] = []

    def listen(event: Event) -> None:
        on_event(event)
        if isinstance(event, RunStarted):
            senders.extend(start_senders(track, RunDirectory(out)))
        elif isinstance(event, Logged):
            for sender in senders:
                sender.send(event.entry)
        _report(senders, on_event)

    status: Status = "failed"
    try:
        yield listen
        status = "finished"
    except KeyboardInterrupt:
        status = "stopped"
        raise
    finally:
        for sender in senders:
            sender.finish(status)
        _wait(senders, on_event)


def _report(senders: Sequence[Sender], on_event: Listener) -> None:
    """Send the notes of the trackers as events, from the thread that trains."""
    for sender in senders:
        while not sender.notes.empty():
            on_event(TrackerNote(*sender.notes.get()))


def _wait(senders: Sequence[Sender], on_event: Listener) -> None:
    began = time.monotonic()
    for limit, sentence, failed in (
        (SOON, f"gets up to {PATIENCE:.0f} s to send the last values", False),
        (
            PATIENCE,
            f"has not finished after {PATIENCE:.0f} s, so it may lack values",
            True,
        ),
    ):
        late = [s for s in senders if not s.wait(began + limit - time.monotonic())]
        _report(senders, on_event)
        for sender in late:
            on_event(TrackerNote(f"{sender.name} {sentence}", failed))
