"""Real jobs of several ranks, as their user starts them: `tinydl launch` with each MPI at hand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).parent / "programs"
VARIABLE = "TINYDL_MPI_PYTHONS"  # `make test` sets it: a Python with MPICH, one with Open MPI
PYTHONS = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]


def with_each(pythons: list[str]) -> pytest.MarkDecorator:
    """The test gets each of these as ``python``; without any it is skipped, saying so."""
    absent = pytest.mark.skip(f"{VARIABLE} names no Python with an MPI (make test does)")
    return pytest.mark.parametrize(
        "python",
        pythons or [pytest.param("", marks=absent)],
        ids=lambda python: Path(python).parts[-3] if python else "no MPI",
    )


each_mpi = with_each(PYTHONS)
one_mpi = with_each(PYTHONS[:1])  # for what does not depend on the MPI: starting jobs takes seconds


def environment() -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("TINYDL_JOB", "TINYDL_R"))}
    paths = [str(REPOSITORY), str(REPOSITORY / "kernels"), own.get("PYTHONPATH", "")]
    return {**own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def start(python: str, *arguments: object, ranks: int = 2, **options: object) -> subprocess.Popen:
    """`tinydl launch -n RANKS … -- python ARGUMENTS`; ``max_restarts=3`` becomes --max-restarts 3."""
    flags: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        flags += [flag] if value is True else [flag, str(value)]
    line = [
        python,
        "-m",
        "tinydl",
        "launch",
        "-n",
        ranks,
        "--threads",
        1,
        *flags,
        "--",
        python,
        *arguments,
    ]
    return subprocess.Popen(
        list(map(str, line)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(job: subprocess.Popen, seconds: float = 90) -> tuple[int, str]:
    """(exit code, everything that it printed); a job that hangs is a failure."""
    try:
        output, _ = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        job.send_signal(signal.SIGTERM)
        job.send_signal(signal.SIGTERM)
        job.kill()
        output, _ = job.communicate()
        pytest.fail(f"the job did not end within {seconds} seconds; it printed:\n{output}")
    return job.returncode, output


def run(python: str, *arguments: object, **options: object) -> tuple[int, str]:
    return finish(start(python, *arguments, **options))


def weights(output: str) -> str | None:
    """The hash of the weights that programs/training.py printed."""
    found = re.search(r"^weights (\w+)$", output, re.MULTILINE)
    return found[1] if found else None
