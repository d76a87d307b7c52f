"""Breaks every kind of file, guided by the lines of Comity that each try reaches (atheris).

    python -m tests.hostile.guided [--seconds 5] [--seed 1] [FILE ...]

Prints one line for each file: how many contents were tried, or what was neither read nor refused.
Exit code 1: there was such a content.
"""

import argparse
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path
from random import Random

import atheris
import torch

with atheris.instrument_imports(include=["comity"]):  # pyright: ignore[reportAttributeAccessIssue]
    from tests.hostile.damage import broken, suffix_of
    from tests.hostile.readers import READERS, Reader, filled
    from tests.hostile.sandbox import limit_memory

MEGABYTES = 2048
"""Memory that a reader may take, besides what the process has already."""


def fuzz(reader: Reader, folder: Path, seconds: int, seed: int) -> None:
    """Break the file of one reader for some seconds. Ends the process, as libFuzzer does."""

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            return atheris.Mutate(data, size)
        return broken(data, suffix_of(reader.file), random)[:size]

    corpus = folder.parent / f"corpus-{READERS.index(reader)}"
    corpus.mkdir()
    content = (folder / reader.file).read_bytes()
    (corpus / "whole").write_bytes(content)
    arguments = [
        f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=0", f"-seed={seed}",
        f"-max_len={2 * len(content) + 1000}", f"-artifact_prefix={corpus}/", str(corpus),
    ]  # fmt: skip
    atheris.Setup(
        ["guided", *arguments],
        lambda data: reader.try_content(folder, data),
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def outcome(reader: Reader, folder: Path, seconds: int, seed: int) -> tuple[bool, str]:
    """Whether the reader has read or refused all contents, and the line to print."""
    log = folder.parent / "log"
    child = os.fork()
    if child == 0:
        try:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            limit_memory(MEGABYTES)
            fuzz(reader, folder, seconds, seed)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # libFuzzer has ended the process if all went well
    _, status = os.waitpid(child, 0)
    text = log.read_text(errors="replace")
    done = re.search(r"Done (\d+) runs", text)
    if status == 0 and done:
        return True, f"{reader.file}: {done[1]} contents read or refused"
    error = re.search(r"=== Uncaught Python exception: ===\s*(.*)", text)
    places = re.findall(r"(\S*/comity/\S*), line (\d+)", text)
    where = " at {}:{}".format(*places[-1]) if places else ""
    return False, f"{reader.file}: {error[1] if error else text[-2000:]}{where}"


def main() -> int:
    """Break the file of each reader."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="parts of names (default: all)")
    parser.add_argument("--seconds", type=int, default=5, help="for each file (default: 5)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a forked process waits for ever for the threads of its parent
    survived = True
    with tempfile.TemporaryDirectory(prefix="guided-") as parent:
        for reader in READERS:
            if options.files and not any(part in reader.file for part in options.files):
                continue
            folder = filled(reader.write, Path(parent))
            good, line = outcome(reader, folder, options.seconds, options.seed)
            survived &= good
            print(line, flush=True)
    return int(not survived)


if __name__ == "__main__":
    sys.exit(main())
