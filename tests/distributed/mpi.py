"""Tests on many ranks: functions of a test module, run by all ranks of a job that stays for the next test.

    def add(array):                                     # runs on every rank
        many = tl.distributed.world()
        ...
        return array

    def test_sums(job):                                 # runs once; ``job`` is a fixture of conftest.py
        results = job.run(add, np.ones(3))              # one result a rank

TINYDL_MPI_PYTHONS lists Python interpreters (separated by colons) that have mpi4py and, beside them, an mpiexec:
each is another MPI to test with. Without it this interpreter's is taken, if it has one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "distributed"))
from parties import Party, PartyError, environment_of_ranks

__all__ = ["MPI", "Job", "PartyError", "environment_of_ranks", "installations"]


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


class Job:
    """Ranks that wait for functions to run: they stay until one of them fails, then others take their place."""

    def __init__(self, mpi: MPI, ranks: int) -> None:
        self.mpi, self.ranks = mpi, ranks
        self._party: Party | None = None

    def run(self, function: Callable, *arguments: Any) -> list[Any]:
        """``function(*arguments)`` on every rank, at once; what each returned, in the order of ranks.

        It is found by its name in its module, and arguments and results are pickled.

        Raises:
            PartyError: a rank raised, or did not come back in time.
        """
        if self._party is None:
            self._party = Party([[*self.mpi.command(self.ranks), str(self.mpi.python)]], self.ranks)
        try:
            return self._party.ask(f"{function.__module__}:{function.__qualname__}", *arguments)
        except PartyError:
            self.close(seconds=0.5)
            raise

    def close(self, seconds: float = 5.0) -> None:
        """End the ranks; those that do not end by themselves in this time hang."""
        if self._party is not None:
            self._party.close(seconds)
        self._party = None
