"""Open MPI's and MPICH's ``mpiexec``: different words for the same wishes.

How many ranks, on which hosts, started by which program instead of ssh, with which environment; more ranks than
cores; as root in a container; free to run on any core. This file holds that knowledge, so that nobody else needs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# What a rank on another machine needs of the environment besides what the job itself sets.
PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TINYDL_DATA")

NO_MPI = (
    "no MPI was found: there is no mpiexec beside {python} or on the PATH. "
    "pip install 'tinydl[mpi]' brings one, or load your cluster's module"
)


class LaunchError(RuntimeError):
    """The job cannot be started as asked."""


@dataclass(frozen=True)
class Launcher:
    """An ``mpiexec`` and its dialect."""

    program: Path
    version: str

    def arguments(
        self,
        ranks: int,
        hosts: Sequence[str] = (),
        agent: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The command line up to the program that is to run on ``ranks`` ranks.

        Args:
            hosts: names of machines, which get equal shares of the ranks; none: this machine.
            agent: starts a command on a host, called as ``agent HOST COMMAND…``, in place of ssh.
            environment: variables that every rank gets, wherever it runs.
        """
        raise NotImplementedError


class Mpich(Launcher):
    """MPICH's Hydra, and the launchers made from it (Intel MPI, MVAPICH)."""

    def arguments(
        self,
        ranks: int,
        hosts: Sequence[str] = (),
        agent: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> list[str]:
        line = [str(self.program)]
        if agent is not None:
            line += ["-launcher", "ssh", "-launcher-exec", str(agent)]
        if hosts:
            line += ["-hosts", ",".join(hosts), "-ppn", str(share(ranks, hosts))]
        for name, value in (environment or {}).items():
            line += ["-genv", name, value]
        return [*line, "-n", str(ranks)]


class OpenMPI(Launcher):
    """Open MPI's ``mpirun``, since 5.0 PRRTE's ``prterun``."""

    def arguments(
        self,
        ranks: int,
        hosts: Sequence[str] = (),
        agent: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> list[str]:
        # Bound to a core, all threads of a rank would share it.
        line = [str(self.program), "--oversubscribe", "--bind-to", "none"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            line += ["--allow-run-as-root"]
        if agent is not None:
            line += ["--mca", "plm_rsh_agent", str(agent)]
        if hosts:
            slots = share(ranks, hosts)
            line += ["--host", ",".join(f"{host}:{slots}" for host in hosts)]
        for name, value in (environment or {}).items():
            line += ["-x", f"{name}={value}"]
        return [*line, "-n", str(ranks)]


def share(ranks: int, hosts: Sequence[str]) -> int:
    """Ranks on each host, the last one perhaps fewer."""
    return -(-ranks // max(len(hosts), 1))


def find_launcher() -> Launcher:
    """The ``mpiexec`` beside the running Python (of its environment), else the first on the PATH.

    Raises:
        LaunchError: there is none, or it is neither Open MPI's nor MPICH's.
    """
    found = find_program("mpiexec") or find_program("mpirun")
    if found is None:
        raise LaunchError(NO_MPI.format(python=sys.executable))
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.strip()
    return recognize(found, version)


def recognize(program: Path, version: str) -> Launcher:
    """Whose launcher it is, by what it says of its ``version``."""
    if any(name in version for name in ("Open MPI", "OpenRTE", "PRRTE")):
        return OpenMPI(program, version)
    if any(name in version for name in ("HYDRA", "Hydra", "MPICH", "Intel(R) MPI")):
        return Mpich(program, version)
    said = version.splitlines()[0] if version else "nothing"
    raise LaunchError(
        f"{program} is neither Open MPI's launcher nor MPICH's: its --version says '{said}'. "
        "Start the command with it by hand, as its manual says"
    )


def find_program(name: str) -> Path | None:
    """``name`` beside the running Python, else on the PATH."""
    beside = os.fspath(Path(sys.executable).parent)
    path = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=path)
    return Path(found) if found else None
