"""On a link of 1 Gbit/s: how much faster are gradients summed with 16 bits on the wire?

sudo python benchmarks/distributed/wire.py [--mpi-python PYTHON] [mlp-5m:32 …]
"""

from __future__ import annotations

from typing import Annotated

import typer
from lab_options import Rate, laboratory
from measuring import bars, in_turns, mean_step, middle, milliseconds, ratio, save, table
from options import MPI_PYTHON, MpiPython, Seconds, cases
from parties import Party, on_hosts

DEFAULT = ["mlp-5m:32"]
WIRES = {"float32": None, "bfloat16": "bfloat16", "float16": "float16"}


def main(
    networks: Annotated[list[str] | None, typer.Argument(help="NETWORK:BATCH…")] = None,
    mpi_python: MpiPython = MPI_PYTHON,
    seconds: Seconds = 25.0,
    rate: Rate = "1gbit",
    name: str = "wire",
) -> None:
    """Synchronization of gradients with 16 bits on the wire."""
    found = []
    with laboratory(rate) as lab, Party(on_hosts(lab, mpi_python), 2) as ranks:
        about = ranks.ask("training:about")[0]
        for network, batch in cases(networks or DEFAULT):
            for wire, compression in WIRES.items():
                strategy = {"compression": compression}
                parameters = ranks.ask("training:build", wire, network, batch, strategy=strategy)[0]

            def ask(function: str, wire: str):
                return lambda: mean_step(ranks.ask(f"training:{function}", wire, 2))

            turns = {f"{wire} sum": ask("communicate", wire) for wire in WIRES}
            turns |= {f"{wire} step": ask("steps", wire) for wire in WIRES}
            times = in_turns(turns, seconds)
            found.append(
                {
                    "network": network,
                    "batch": batch,
                    "parameters": parameters,
                    "seconds": times,
                    "faster sums": {w: ratio(times, f"{w} sum", "float32 sum") for w in WIRES},
                    "faster steps": {w: ratio(times, f"{w} step", "float32 step") for w in WIRES},
                }
            )
            for wire in WIRES:
                ranks.ask("training:forget", wire)
    rows = [
        [
            f"{f['network']} b{f['batch']} {wire}",
            milliseconds(middle(f["seconds"][f"{wire} sum"])),
            str(f["faster sums"][wire]),
            milliseconds(middle(f["seconds"][f"{wire} step"])),
            str(f["faster steps"][wire]),
        ]
        for f in found
        for wire in WIRES
    ]
    columns = ["", "synchronization, ms", "times faster", "step, ms", "times faster"]
    table(f"bits on the wire over {rate}, two hosts, {about['mpi']}", columns, rows)
    save(name, {"about": about, "rate": rate, "cases": found})
    labels = [f"{f['network']} b{f['batch']}" for f in found]
    groups = {f"{w} sum": [f["faster sums"][w].value for f in found] for w in WIRES}
    groups |= {f"{w} step": [f["faster steps"][w].value for f in found] for w in WIRES}
    bars(name, f"16 bits on the wire, {rate}", "times faster than float32", labels, groups, 1.8)


if __name__ == "__main__":
    typer.run(main)
