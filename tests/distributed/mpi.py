"""Tests on many ranks: functions of a test module, run by all ranks of a job that stays for the next test.

    def add(array):                                     # runs on every rank
        many = tl.distributed.world()
        ...
        return array

    def test_sums(job):                                 # runs once; ``job`` is a fixture of conftest.py
        results = job.run(add, np.ones(3))              # one result a rank

TINYDL_MPI_PYTHONS lists Python interpreters (separated by colons) that have mpi4py and, beside them, an mpiexec:
each is another MPI to test with. Without it this interpreter's is taken, if it has one.

Ranks wait for work in a socket, not in MPI, where they would keep the processor busy.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 120.0  # for one function; a job that takes longer hangs


@dataclass(frozen=True)
class MPI:
    """An MPI library with the Python that has its mpi4py."""

    name: str
    python: Path
    mpiexec: Path

    def command(self, ranks: int) -> list[str]:
        """The start of a command line: what comes behind it runs on so many ranks of this machine."""
        flags = []
        if self.name == "openmpi":
            flags = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
        return [str(self.mpiexec), *flags, "-n", str(ranks)]


def installations() -> tuple[list[MPI], str]:
    """The MPIs to test with; where there is none, why."""
    listed = os.environ.get("TINYDL_MPI_PYTHONS", "")
    pythons = [Path(p) for p in listed.split(":") if p] or [Path(sys.executable)]
    found, reasons = [], []
    for python in pythons:
        mpiexec = python.parent / "mpiexec"
        if not mpiexec.exists():
            reasons.append(f"no mpiexec beside {python}")
            continue
        if subprocess.run([python, "-c", "import mpi4py"], capture_output=True).returncode:
            reasons.append(f"{python} has no mpi4py")
            continue
        version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True).stdout
        is_open_mpi = "open" in version.lower() or "prte" in version.lower()
        found.append(MPI("openmpi" if is_open_mpi else "mpich", python, mpiexec))
    return found, "; ".join(reasons) + " (list interpreters that have both in TINYDL_MPI_PYTHONS)"


def environment(**more: str) -> dict[str, str]:
    """That of a rank: it finds the packages, and does not take the cores from the others."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return {**os.environ, "PYTHONPATH": paths, "NUMBA_NUM_THREADS": "1", **more}


class JobFailed(AssertionError):
    """A rank raised, or did not come back in time."""


class Job:
    """Ranks that wait for functions to run."""

    def __init__(self, mpi: MPI, ranks: int) -> None:
        self.mpi, self.ranks = mpi, ranks
        self._process: subprocess.Popen | None = None

    def run(self, function: Callable, *arguments: Any) -> list[Any]:
        """``function(*arguments)`` on every rank, at once; what each returned, in the order of ranks.

        It is found by its name in its module, and arguments and results are pickled.
        """
        if self._process is None:
            self._start()
        for connection in self._connections:
            connection.send((function.__module__, function.__qualname__, arguments))
        replies = self._replies()
        errors = [f"rank {r}:\n{value}" for r, (ok, value) in sorted(replies.items()) if not ok]
        missing = sorted(set(range(self.ranks)) - replies.keys())
        if errors or missing:
            self.close(seconds=0.5)
            late = f"no answer from ranks {missing}\n" if missing else ""
            raise JobFailed(late + "\n".join(errors) + self._output())
        return [replies[rank][1] for rank in range(self.ranks)]

    def _replies(self) -> dict[int, tuple[bool, Any]]:
        """What came back; when one rank has failed the others are waited for only a moment."""
        replies: dict[int, tuple[bool, Any]] = {}
        until = time.monotonic() + SECONDS
        while len(replies) < self.ranks and time.monotonic() < until:
            waiting = [c for r, c in enumerate(self._connections) if r not in replies]
            for connection in wait(waiting, 0.5):
                rank = self._connections.index(connection)
                replies[rank] = heard(connection) or (False, "the process ended")
                if not replies[rank][0]:
                    until = min(until, time.monotonic() + 2.0)
        return replies

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tinydl-job-")
        address = str(Path(self._folder.name) / "socket")
        self._log = open(Path(self._folder.name) / "output", "w+")  # noqa: SIM115
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(address)
            server.listen(self.ranks)
            server.settimeout(SECONDS)
            self._process = subprocess.Popen(
                [*self.mpi.command(self.ranks), self.mpi.python, "-m", __name__, address],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=environment(),
                cwd=ROOT,
                start_new_session=True,
            )
            by_rank = {}
            try:
                for _ in range(self.ranks):
                    connection = Connection(server.accept()[0].detach())
                    by_rank[connection.recv()] = connection
            except (TimeoutError, EOFError):
                raise JobFailed("the ranks did not start" + self._output()) from None
        self._connections = [by_rank[rank] for rank in range(self.ranks)]

    def _output(self) -> str:
        self._log.seek(0)
        return "\n--- output of the ranks:\n" + self._log.read()[-4000:]

    def close(self, seconds: float = 5.0) -> None:
        """End the ranks; those that do not end by themselves in this time hang."""
        if self._process is None:
            return
        for connection in self._connections:
            connection.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._process = None


def heard(connection: Any) -> Any:
    """The next message; None where the other side is gone."""
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        return None


def serve(address: str) -> None:
    """What a rank does: run the functions that it is told to, until nobody is there any more."""
    import tinydl as tl

    connection = Client(address)
    connection.send(tl.distributed.world().rank)
    while (task := heard(connection)) is not None:
        module, name, arguments = task
        try:
            result = (True, getattr(importlib.import_module(module), name)(*arguments))
        except BaseException:
            result = (False, traceback.format_exc())
        connection.send(result)


if __name__ == "__main__":
    serve(sys.argv[1])
