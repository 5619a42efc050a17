"""Running the parts of gpu_check.py so that all of it ends in time.

Each part runs in a process of its own: a kernel that never ends, or an access after which the GPU refuses all that the
process asks for, costs that part alone. Each is told how long it may take, and sees to it: it repeats less often, and
then leaves cases out, and says so (`Allowance`). Should it hang, it is killed when its time is over.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

WRITING = 3.0  # seconds before its end, in which a part writes down what it has found
DYING = 5.0  # seconds that a process is waited for that was killed


class Allowance:
    """How long something may take, and what was left out to keep to that."""

    def __init__(self, until: float, left_out: list[str] | None = None, whose: str = "") -> None:
        """
        Args:
            until: as `time.time` tells it, which is the same clock in all processes.
            whose: what it is for, in words.
        """
        self.until, self.whose = until, whose
        self.left_out: list[str] = [] if left_out is None else left_out

    def seconds(self) -> float:
        return max(0.0, self.until - time.time())

    @property
    def over(self) -> bool:
        return time.time() >= self.until

    def share(self, weight: float, of: float, whose: str = "") -> Allowance:
        """For the next one, of this weight, where all that are still to come have `of` together. What it does not use
        is left for those after it."""
        return Allowance(time.time() + self.seconds() * weight / of, self.left_out, whose)

    def leave_out(self, words: str) -> None:
        words = f"{self.whose}: {words}" if self.whose else words
        print(f"  left out for lack of time: {words}")
        self.left_out.append(words)


UNLIMITED = Allowance(math.inf)


class Outcome(NamedTuple):
    found: Any
    left_out: list[str]
    seconds: float
    failure: str | None = None  # in words


def together(
    script: str, jobs: list[str], options: list[str], allowance: Allowance
) -> Iterator[tuple[str, Outcome]]:
    """Run jobs at the same time, as many as there are processors. Gives each when it has ended.

    Args:
        script: that takes --part and --until, and writes what it has found to --out (`write`).
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        running = {pool.submit(apart, script, job, options, allowance): job for job in jobs}
        for ended in concurrent.futures.as_completed(running):
            yield running[ended], ended.result()


def apart(script: str, job: str, options: list[str], allowance: Allowance) -> Outcome:
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.json"
        given = ["--part", job, "--until", str(allowance.until - WRITING), "--out", str(path)]
        words, failure = run([sys.executable, "-u", script, *given, *options], allowance.until)
        sys.stdout.write(words)
        written = {} if failure else json.loads(path.read_text())
    return Outcome(written.get("found"), written.get("left_out", []), time.time() - began, failure)


def write(path: Path, measure: Callable[[Allowance], Any], until: float) -> None:
    """What `apart` reads, in the process that it has started."""
    allowance = Allowance(until)
    found = measure(allowance)
    path.write_text(json.dumps({"found": found, "left_out": allowance.left_out}))


AT_ONCE = {"PYTHONUNBUFFERED": "1"}  # what is printed, so that it is there when a process is killed


def run(command: list[str], until: float) -> tuple[str, str | None]:
    """Run a command, until that time at the latest.

    Returns:
        what it printed, and None if it went well, else what happened to it.
    """
    seconds = until - time.time()
    if seconds <= 0:
        return "", "there was no time left to begin"
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | AT_ONCE
        )
        try:
            code = process.wait(seconds)
            failure = f"exit code {code}" if code else None
        except subprocess.TimeoutExpired:
            failure = f"it had not ended after {seconds:.1f} s"
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # the GPU's driver may hold it
                process.wait(DYING)
        output.seek(0)
        words = output.read()
    if failure and failure.startswith("exit"):
        failure = (words.strip().splitlines() or [failure])[-1]
    return words, failure
