"""What the check for drift costs: a checksum of all parameters, compared across ranks every 100 steps.

    python benchmarks/distributed/drift.py [--mpi-python PYTHON] [--every 100] [mlp-5m:256 …]

One check is timed by itself, beside steps that make none, and spread over the steps between two checks: a percent
of a percent cannot be seen in the difference of two step times.
"""

from __future__ import annotations

from typing import Annotated

import typer
from measuring import bars, in_turns, mean_step, middle, milliseconds, save, steps_for, table
from options import MPI_PYTHON, MpiPython, Seconds, cases
from parties import Party, mpi_ranks

DEFAULT = ["mlp-small:32", "lenet:64", "cnn:64", "mlp-5m:32", "mlp-5m:256"]


def main(
    networks: Annotated[list[str] | None, typer.Argument(help="NETWORK:BATCH…")] = None,
    mpi_python: MpiPython = MPI_PYTHON,
    seconds: Seconds = 6.0,
    every: Annotated[int, typer.Option(help="Steps between two checks.")] = 100,
    name: str = "drift",
) -> None:
    """The share of a step that the check for drift takes."""
    found = []
    with Party(mpi_ranks(mpi_python), 2) as ranks:
        about = ranks.ask("training:about")[0]
        for network, batch in cases(networks or DEFAULT):
            parameters = ranks.ask(
                "training:build", "a", network, batch, strategy={"check_every": 0}
            )
            number = steps_for(mean_step(ranks.ask("training:steps", "a", 5)))

            def step(number: int = number) -> float:
                return mean_step(ranks.ask("training:steps", "a", number))

            def check() -> float:
                answers = ranks.ask("training:drift_checks", "a", 10)
                return middle([max(pair) for pair in zip(*answers, strict=True)])

            times = in_turns({"step": step, "check": check}, seconds)
            share = middle(times["check"]) / every / middle(times["step"])
            found.append(
                {
                    "network": network,
                    "batch": batch,
                    "parameters": parameters[0],
                    "seconds": times,
                    "share": share,
                }
            )
            ranks.ask("training:forget", "a")
    rows = [
        [
            f"{f['network']} b{f['batch']}",
            f"{f['parameters']:,}",
            milliseconds(middle(f["seconds"]["step"])),
            f"{1e6 * middle(f['seconds']['check']):.0f}",
            f"{100 * f['share']:.3f} %",
        ]
        for f in found
    ]
    columns = ["", "parameters", "step, ms", "check, µs", f"share, every {every} steps"]
    table(f"check for drift, two ranks, {about['mpi']}", columns, rows)
    save(name, {"about": about, "every": every, "cases": found})
    labels = [f"{f['network']} b{f['batch']}" for f in found]
    shares = {f"every {every} steps": [100 * f["share"] for f in found]}
    bars(name, "cost of the check for drift", "% of the step time", labels, shares, 1.0)


if __name__ == "__main__":
    typer.run(main)
