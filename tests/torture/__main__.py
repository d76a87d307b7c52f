"""Kills training, breaks checkpoints and injects faults; prints what survived.

    python -m tests.torture [--kills 50] [--corruptions 200] [--files 60] [--seconds 5] [--seed 0]

Every run that was killed or broken has to end with the result, to the bit, of a run that was not,
or with one sentence that says why it cannot be resumed. Every broken file from someone else has to
be read, or refused with one sentence. Exit code 1: something was lost.
"""

import argparse
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from comity.runs.directory import RunDirectory
from comity.tables.rows import shortened
from tests.conftest import write_encoder
from tests.helpers import write_two_tasks
from tests.hostile.readers import READERS, Reader, filled
from tests.hostile.sandbox import ENDED, outcome
from tests.torture import faults
from tests.torture.cover import FEATURES, TEACHER, Choice, cover, recipe_of
from tests.torture.kill import PLACES, Stop, digest, leftovers, start, trained

STOPS = [
    Stop(1),
    Stop(3),
    # The first evaluation keeps a model in every run, and a later one in some.
    *(Stop(1 if where == "in the best model" else 4, where) for where in PLACES),
]
"""Where the runs of the cover are killed; steps 3 and 4 are beside the border of two stages."""

MIXED: Choice = {name: values[0] for name, values in FEATURES.items()} | {
    "balancer": "gradvac",
    "average": "ema",
    "stages": "two",
}


@dataclass
class Total:
    """How many runs were broken, and how many of them survived."""

    name: str
    tried: int = 0
    survived: int = 0

    def count(self, survived: bool) -> bool:
        """Count one; returns whether it survived."""
        self.tried += 1
        self.survived += survived
        return survived


class Torture:
    """The parts, each with its total."""

    def __init__(self, folder: Path, seed: int):
        self.folder = folder
        self.data = folder / "data"
        self.random = random.Random(seed)
        self.encoder = write_encoder(folder / "encoder")
        self.totals: list[Total] = []
        write_two_tasks(self.data)
        assert (
            trained(recipe_of(MIXED, self.encoder, self.data), self.data, self.data / TEACHER) == 0
        )

    def total(self, name: str) -> Total:
        """A new total."""
        self.totals.append(Total(name))
        return self.totals[-1]

    def matrix(self) -> Table:
        """Every feature, killed at every stop: a cell is a count of equal digests."""
        total = self.total("features by stop point")
        cells: dict[tuple[str, str], list[bool]] = {}
        choices = cover()
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # each run is a process with one thread
            found = pool.map(self._killed_at_every_stop, range(len(choices)), choices)
            for number, (choice, of_stops) in enumerate(zip(choices, found, strict=True), start=1):
                say(f"recipe {number} of {len(choices)}")
                for stop, same in zip(STOPS, of_stops, strict=True):
                    total.count(same)
                    for feature, value in choice.items():
                        name = f"{stop.where}, step {stop.step}"
                        cells.setdefault((f"{feature}: {value}", name), []).append(same)
        return _matrix(cells)

    def _killed_at_every_stop(self, number: int, choice: Choice) -> list[bool]:
        """For each stop, whether the resumed run ended with the digest of a whole one."""
        folder = self.folder / f"recipe-{number}"
        recipe = recipe_of(choice, self.encoder, self.data)
        assert trained(recipe, self.data, folder / "whole") == 0
        whole = digest(folder / "whole")
        found = []
        for stop in STOPS:
            run = folder / "run"
            killed = trained(recipe, self.data, run, stop)
            resumed = killed == -9 and trained(recipe, self.data, run) == 0
            found.append(resumed and digest(run) == whole)
            shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(folder)
        return found

    def kills(self, count: int) -> None:
        """Kill at random instants; every second time while a checkpoint is being written."""
        recipe = recipe_of(MIXED | {"stages": "long"}, self.encoder, self.data)
        whole = self.folder / "whole"
        assert trained(recipe, self.data, whole) == 0
        started = time.monotonic()
        shutil.copytree(whole, self.folder / "timed")  # so that both times include a new process
        shutil.rmtree(whole)
        assert trained(recipe, self.data, whole) == 0
        seconds = time.monotonic() - started
        anywhere, inside = self.total("random instants"), self.total("inside a checkpoint")
        for number in range(count):
            say(f"kill {number + 1} of {count}")
            run = self.folder / "run"
            process = start(recipe, self.data, run)
            total = inside if number % 2 else anywhere
            time.sleep(self.random.uniform(0, seconds))
            if number % 2:
                while process.is_alive() and not list(run.glob(".checkpoint-*")):
                    time.sleep(0.0005)
            process.kill()
            process.join()
            same = trained(recipe, self.data, run) == 0 and digest(run) == digest(whole)
            total.count(same and leftovers(run) == [])
            shutil.rmtree(run)
        shutil.rmtree(whole)

    def corruptions(self, count: int) -> None:
        """Break checkpoints of a stopped run; one that is left whole has to be used."""
        recipe = recipe_of(MIXED, self.encoder, self.data)
        whole, stopped = self.folder / "whole-6", self.folder / "stopped"
        assert trained(recipe, self.data, whole) == 0
        assert trained(recipe, self.data, stopped, Stop(5)) == -9
        total, refused = self.total("corrupt checkpoints"), self.total("all corrupt: refused")
        for number in range(count):
            say(f"corruption {number + 1} of {count}")
            run = shutil.copytree(stopped, self.folder / "run", dirs_exist_ok=True)
            folders = RunDirectory(run).checkpoints()
            every = number % 10 == 9
            for folder in folders if every else folders[:1]:
                self._corrupt(folder)
            code = trained(recipe, self.data, run)
            if every:
                refused.count(code == 2 and not RunDirectory(run).is_finished())
            else:
                total.count(code == 0 and digest(run) == digest(whole))
            shutil.rmtree(run)

    def _corrupt(self, folder: Path) -> None:
        """Change, cut, lengthen, empty, delete or exchange one of the files of a checkpoint."""
        file = self.random.choice([path for path in sorted(folder.iterdir()) if path.is_file()])
        content = bytearray(file.read_bytes())
        position = self.random.randrange(len(content))
        how: list[Callable[[], object]] = [
            lambda: file.write_bytes(_flipped(content, position, 1 << self.random.randrange(8))),
            lambda: file.write_bytes(bytes(content[:position])),
            lambda: file.write_bytes(bytes(content) + self.random.randbytes(9)),
            lambda: file.write_bytes(b""),
            lambda: file.unlink(),
            lambda: file.write_bytes(self.random.randbytes(len(content))),
        ]
        self.random.choice(how)()

    def hostile(self, count: int) -> Table:
        """Break each kind of file from someone else this many times, and read it.

        Each kind has a process of its own, with little memory and a minute for ten files.
        """
        total = self.total("hostile input, ten files each")
        title = "Hostile input that was neither read nor refused"
        table = Table("file", "seed", "what happened", title=title, title_justify="left")
        for number, reader in enumerate(READERS, start=1):
            say(f"file {number} of {len(READERS)}: {reader.file}")
            folder = filled(reader.write, self.folder / "hostile")
            for _ in range(0, count, 10):
                seed = self.random.randrange(1 << 30)
                wrong = outcome(partial(_read_broken, reader, folder, seed, 10), megabytes=2048)
                if not total.count(wrong == ENDED):
                    table.add_row(reader.file, str(seed), shortened(wrong, 90))
        return table

    def guided(self, seconds: int, table: Table) -> None:
        """Break each kind of file for some seconds, guided by the code that the tries reach.

        Adds to the table of `hostile`.
        """
        total = self.total("hostile input, guided by coverage")
        say(f"each file for {seconds} seconds, guided by coverage")
        command = [sys.executable, "-m", "tests.hostile.guided"]
        options = [f"--seconds={seconds}", f"--seed={self.random.randrange(1, 1 << 30)}"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        for reader, line in itertools.zip_longest(READERS, lines, fillvalue=""):
            if not total.count(line.endswith("read or refused")):
                name = reader.file if isinstance(reader, Reader) else reader
                table.add_row(name, options[1], shortened(line or done.stderr[-90:], 90))

    def faults(self) -> Table:
        """Every fault of `tests.torture.faults`."""
        total = self.total("faults")
        table = Table("fault", "what happened", "", title="Faults", title_justify="left")
        for fault in faults.FAULTS:
            say(fault.__doc__ or fault.__name__)
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                found = fault(Path(folder), self.encoder)
            if found.tried:
                total.count(found.survived)
            mark = "-" if not found.tried else "survived" if found.survived else "LOST"
            table.add_row((fault.__doc__ or "").rstrip("."), found.sentence, mark)
        return table


def _read_broken(reader: Reader, folder: Path, seed: int, count: int) -> None:
    for number in range(count):
        reader.try_broken(folder, random.Random(seed + number))


def _flipped(content: bytearray, position: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= bit
    return bytes(changed)


def _matrix(cells: dict[tuple[str, str], list[bool]]) -> Table:
    """Rows are values of features, columns are stops; a cell is "equal digests/runs"."""
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    title = "Runs that ended with the digest of an uninterrupted one / runs that were killed"
    table = Table("", *columns, title=title, title_justify="left")
    for row in rows:
        found = [cells[row, column] for column in columns]
        table.add_row(row, *(f"{sum(cell)}/{len(cell)}" for cell in found))
    return table


def say(sentence: str) -> None:
    """Print progress."""
    print(f"\r{sentence:<78}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--corruptions", type=int, default=200)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a forked process waits for ever for the threads of its parent
    started = time.monotonic()
    out = Console(width=140)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        torture = Torture(Path(folder), options.seed)
        hostile = torture.hostile(options.files)
        torture.guided(options.seconds, hostile)
        torture.kills(options.kills)
        torture.corruptions(options.corruptions)
        faults = torture.faults()
        matrix = torture.matrix()
    say("")
    out.print(matrix, faults, hostile)
    table = Table("", "tried", "survived", "lost")
    for total in torture.totals:
        lost = total.tried - total.survived
        table.add_row(total.name, str(total.tried), str(total.survived), str(lost))
    out.print(table)
    out.print(f"{time.monotonic() - started:.0f} s")
    return int(any(total.tried != total.survived for total in torture.totals))


if __name__ == "__main__":
    sys.exit(main())
