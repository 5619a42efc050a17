"""Ranks are killed at random while they train; does the job end, and with the same weights to the last bit?

One deterministic training under ``tinydl launch --max-restarts`` writes a checkpoint every few steps. Whenever it
has made some more of them, a random one of its ranks gets ``kill -9``, again and again. Afterwards the same training
runs with nobody killed, and then in one process.

    python benchmarks/distributed/kills.py [--mpi-python PYTHON] [--kills 20]
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from measuring import console, save, table
from options import MPI_PYTHON, MpiPython
from parties import HERE, environment_of_ranks

LIMIT = 600.0  # seconds after which a job hangs


def command(python: str, folder: Path, ranks: int, restarts: int) -> list[str]:
    flags = ["-n", str(ranks), "--threads", "1", "--max-restarts", str(restarts)]
    program = [python, str(HERE / "kills_job.py"), str(folder)]
    return [python, "-m", "tinydl", "launch", *flags, "--", *program]


def undisturbed(python: str, folder: Path, ranks: int) -> str:
    """The hash of the weights when nobody is killed."""
    line = command(python, folder, ranks, 0)
    done = subprocess.run(
        line, env=environment_of_ranks(), capture_output=True, text=True, timeout=LIMIT
    )
    return weights(done.stdout + done.stderr)


def weights(output: str) -> str:
    found = re.search(r"^weights (\w+)$", output, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the job did not end as it should; it said:\n{output[-3000:]}")
    return found[1]


def victims(folder: Path, start: int) -> dict[int, int]:
    """Rank -> process of the n-th start of the job: those that have begun to train."""
    found = {}
    for file in folder.glob(f"started-{start}-*"):
        if text := file.read_text():
            found[int(file.name.rpartition("-")[2])] = int(text)
    return found


def killed_job(python: str, folder: Path, ranks: int, kills: int, seed: int) -> tuple[str, list]:
    """(what the job printed, [(rank, seconds it had trained), …])."""
    rng = random.Random(seed)
    log = folder / "output"
    done: list[tuple[int, float]] = []
    with log.open("w") as file:
        line = command(python, folder, ranks, kills + 2)
        job = subprocess.Popen(
            line, env=environment_of_ranks(), stdout=file, stderr=subprocess.STDOUT
        )
    until = time.monotonic() + LIMIT
    while len(done) < kills and job.poll() is None:
        if time.monotonic() > until:
            job.kill()
            raise RuntimeError(f"the job hangs after {len(done)} kills:\n{log.read_text()[-3000:]}")
        training = victims(folder, len(done))
        if len(training) < ranks:
            time.sleep(0.02)
            continue
        # Anything may be under way then: a step, a sum, a checkpoint that is being written.
        seconds = rng.uniform(0.05, 1.0)
        time.sleep(seconds)
        rank = rng.randrange(ranks)
        os.kill(training[rank], signal.SIGKILL)
        done.append((rank, seconds))
    job.wait(LIMIT)
    return log.read_text(), done


def main(
    mpi_python: MpiPython = MPI_PYTHON,
    kills: Annotated[int, typer.Option(min=1)] = 20,
    ranks: Annotated[int, typer.Option(min=1)] = 2,
    seed: int = 0,
    name: str = "kills",
) -> None:
    """Random kill -9 of random ranks during one training."""
    with tempfile.TemporaryDirectory(prefix="tinydl-kills-") as text:
        folders = [Path(text) / which for which in ("killed", "whole", "alone")]
        for folder in folders:
            folder.mkdir()
        began = time.monotonic()
        output, done = killed_job(mpi_python, folders[0], ranks, kills, seed)
        seconds = time.monotonic() - began
        hashes = {
            f"{ranks} ranks, {len(done)} killed": weights(output),
            f"{ranks} ranks, none killed": undisturbed(mpi_python, folders[1], ranks),
            "1 process": undisturbed(mpi_python, folders[2], 1),
        }
    restarts = len(re.findall(r"restart \d+ of", output))
    table(
        f"{len(done)} ranks killed in one job, {restarts} restarts, {seconds:.0f} s",
        ["", "weights (SHA-256)"],
        [[which, digest[:16]] for which, digest in hashes.items()],
    )
    equal = len(set(hashes.values())) == 1
    console.print("equal to the last bit" if equal else "[red]the weights differ[/]")
    about = {"kills": done, "restarts": restarts, "seconds": seconds, "weights": hashes}
    save(name, {**about, "equal": equal})
    if not equal or len(done) < kills:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
