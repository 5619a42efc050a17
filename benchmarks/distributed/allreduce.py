"""Sums over ranks through tinydl's world against bare MPI_Allreduce on the same bytes, in shared memory.

python benchmarks/distributed/allreduce.py [--mpi-python PYTHON]
"""

from __future__ import annotations

from typing import Annotated

import typer
from measuring import bars, in_turns, middle, percent, ratio, save, table
from options import MPI_PYTHON, MpiPython, Seconds
from parties import Party, mpi_ranks

KIB = 1024
SIZES = [64 * KIB, 256 * KIB, 1024 * KIB, 4096 * KIB, 16384 * KIB, 65536 * KIB]


def main(
    mpi_python: MpiPython = MPI_PYTHON,
    seconds: Seconds = 5.0,
    size: Annotated[list[int] | None, typer.Option(help="Bytes.")] = None,
    name: str = "allreduce",
) -> None:
    """Allreduce through tinydl against the MPI library's own."""
    found = []
    with Party(mpi_ranks(mpi_python), 2) as ranks:
        about = ranks.ask("training:about")[0]
        for bytes_ in size or SIZES:
            number = max(3, min(200, (32 << 20) // bytes_))

            def turn(ours: bool, bytes_: int = bytes_, number: int = number):
                def run() -> float:
                    answers = ranks.ask("training:allreduces", bytes_, number, ours)
                    return middle([max(pair) for pair in zip(*answers, strict=True)])

                return run

            times = in_turns({"tinydl": turn(True), "bare": turn(False)}, seconds, least=15)
            found.append(
                {"bytes": bytes_, "seconds": times, "ratio": ratio(times, "tinydl", "bare")}
            )
    rows = [
        [
            f"{f['bytes'] // KIB} KiB",
            f"{1e6 * middle(f['seconds']['tinydl']):.1f}",
            f"{1e6 * middle(f['seconds']['bare']):.1f}",
            f"{f['bytes'] / middle(f['seconds']['tinydl']) / 1e9:.2f}",
            percent(f["ratio"]),
        ]
        for f in found
    ]
    columns = ["", "tinydl, µs", "bare, µs", "tinydl, GB/s", "of bare"]
    table(f"allreduce of two ranks in shared memory, {about['mpi']}", columns, rows)
    save(name, {"about": about, "cases": found})
    labels = [f"{f['bytes'] // KIB} KiB" for f in found]
    heights = {"speed against bare MPI": [f["ratio"].value for f in found]}
    bars(name, "allreduce through tinydl", "time of bare / time of tinydl", labels, heights, 0.95)


if __name__ == "__main__":
    typer.run(main)
