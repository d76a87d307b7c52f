"""Sends a run's entries to a tracker in a thread, so that training never waits for a network.

RUN/track/wandb.json   the run's id in the tracker, and the last step of each value it has
"""

import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comity.files import read_record, write_record
from comity.recipe.schema import TrackSection
from comity.runs.directory import TRACK, RunDirectory
from comity.runs.entries import EndEntry, Entry
from comity.runs.facts import RunFacts, new_run_id
from comity.track.trackers import THREAD, TRACKERS, Status, TrackedRun
from comity.track.values import kept_values, values_of

LONGEST_REASON = 300
"""Characters of a library's error that are shown."""


def start_senders(track: TrackSection, directory: RunDirectory) -> "list[Sender]":
    """Start or continue a run in each tracker; what it lacks of metrics.jsonl is sent first."""
    facts = directory.facts()
    run = TrackedRun(
        id=facts.id or new_run_id(),
        name=directory.path.resolve().name,
        project=track.project,
        folder=directory.path / TRACK,
        config=_config(facts, directory.path),
    )
    return [Sender(name, run, directory, directory.metrics()) for name in track.to]


def _config(facts: RunFacts, path: Path) -> dict[str, Any]:
    """The recipe, and what is not in a recipe."""
    recipe = {key: value for key, value in (facts.recipe or {}).items() if key != "track"}
    about = {
        "directory": str(path),
        "steps": facts.steps,
        "seed": facts.seed,
        "precision": facts.precision,
        "device": facts.machine.device,
        "comity": facts.versions.get("comity"),
    }
    return {**recipe, "run": about}


class Sender:
    """One tracker of one run. A failure turns it off and is one of its `notes`."""

    def __init__(
        self, name: str, run: TrackedRun, directory: RunDirectory, entries: Sequence[Entry]
    ):
        self.name = name
        self.run = run
        self.directory = directory
        self.steps: dict[str, int] = {}  # the last step of each value that the tracker has
        self.queue: queue.SimpleQueue[Entry | Status] = queue.SimpleQueue()
        self.notes: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()
        """Sentences for the user, and whether they are about a failure."""
        self.thread = threading.Thread(target=self._work, name=f"{THREAD}{name}", daemon=True)
        for entry in entries:
            self.queue.put(entry)
        try:
            self.tracker = TRACKERS[name]()
            self.thread.start()
        except Exception as error:
            self._turn_off(error)

    def send(self, entry: Entry) -> None:
        """Send an entry when those before it have been sent."""
        if self.thread.is_alive():
            self.queue.put(entry)

    def finish(self, status: Status) -> None:
        """End the tracker's run when everything has been sent."""
        self.queue.put(status)

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the tracker's run; returns whether it has come."""
        if self.thread.is_alive():
            self.thread.join(max(seconds, 0.0))
        return not self.thread.is_alive()

    def _work(self) -> None:
        try:
            self._send_all()
        except BaseException as error:  # a library may raise SystemExit too
            self._turn_off(error)

    def _turn_off(self, error: BaseException) -> None:
        reason = " ".join(str(error).split())[:LONGEST_REASON].rstrip(".") or repr(error)
        self.notes.put((f"{self.name} is turned off: {reason}; training is not affected", True))

    def _send_all(self) -> None:
        self.run.folder.mkdir(exist_ok=True)
        path = self.run.folder / f"{self.name}.json"
        earlier = read_record(path) if path.is_file() else {}
        self.steps = earlier.get("steps", {})
        run = self.tracker.start(self.run, earlier.get("run"))
        self.notes.put((f"{self.name}: {self.tracker.where}", False))
        write_record(path, {"run": run, "steps": self.steps})
        while not isinstance(item := self.queue.get(), str):
            self._log(item)
            write_record(path, {"run": run, "steps": self.steps})
        self.tracker.finish(item)

    def _log(self, entry: Entry) -> None:
        """Log the values of an entry that the tracker does not have yet."""
        values = values_of(entry)
        if isinstance(entry, EndEntry) and self.directory.has_best():
            values = kept_values(self.directory.best())
        new = {name: v for name, v in values.items() if entry.step > self.steps.get(name, -1)}
        if new:
            self.tracker.log(entry.step, new)
            self.steps |= dict.fromkeys(new, entry.step)
