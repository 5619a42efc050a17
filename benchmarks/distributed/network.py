"""The alpha-beta model of a network: how long does a message take, how long an allreduce?

Half of a round trip of n bytes takes t(n) = α + β n: α seconds until anything arrives, β seconds for each byte after
it. Both are fitted to what two ranks measure with MPI's Send and Recv, in shared memory and (as root) over links of the
given rate. γ, the seconds that adding up costs for each byte, is measured too.

    sudo python benchmarks/distributed/network.py [--mpi-python PYTHON] [--rate 1gbit]
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

import numpy as np
import typer
from lab_options import laboratory
from measuring import RESULTS, console, in_turns, middle, save, table
from options import MPI_PYTHON, MpiPython, Seconds
from parties import Party, mpi_ranks, on_hosts

from tinydl.bench.pictures import canvas
from tinydl.bench.pictures import save as save_picture

SIZES = [8, 512, 4 << 10, 32 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20]


def fit(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """(α, β): the time of the smallest message, and the slope between the two largest.

    Sizes between are left out, because no line fits them: protocols change, caches help, and the lab's link lets
    128 KB pass at once after each pause.
    """
    order = np.argsort(sizes)
    first, second, last = order[0], order[-2], order[-1]
    beta = (seconds[last] - seconds[second]) / (sizes[last] - sizes[second])
    return seconds[first], beta


def measure(commands: list[list[str]], seconds: float) -> dict[str, Any]:
    with Party(commands, 2) as ranks:
        about = ranks.ask("training:about")[0]

        def turn(size: int):
            number = max(2, min(50, (1 << 20) // size))
            return lambda: middle(ranks.ask("training:one_way", size, number)[0])

        def sums(size: int):
            number = max(2, min(50, (1 << 20) // size))
            return lambda: middle(ranks.ask("training:allreduces", size, number, True)[0])

        turns = {f"message {n}": turn(n) for n in SIZES} | {f"sum {n}": sums(n) for n in SIZES}
        times = in_turns(turns, seconds, least=5)
        gamma = min(min(x) for x in ranks.ask("training:adding", 16 << 20, 5)) / (16 << 20)
    medians = {name: middle(values) for name, values in times.items()}
    alpha, beta = fit(SIZES, [medians[f"message {n}"] for n in SIZES])
    return {"about": about, "alpha": alpha, "beta": beta, "gamma": gamma, "seconds": times}


def main(
    mpi_python: MpiPython = MPI_PYTHON,
    seconds: Seconds = 15.0,
    rate: Annotated[
        str, typer.Option(help="Of the lab's links; empty: shared memory only.")
    ] = "1gbit",
    name: str = "network",
) -> None:
    """Latency and bandwidth between two ranks."""
    found = {"shared memory": measure(mpi_ranks(mpi_python), seconds)}
    where: Any = laboratory(rate) if rate else nullcontext()
    with where as lab:
        if lab:
            found[rate] = measure(on_hosts(lab, mpi_python), seconds)
    rows = [
        [
            place,
            f"{1e6 * f['alpha']:.2f}",
            f"{1e9 * f['beta']:.3f}",
            f"{1e-6 / f['beta']:.0f}",
            f"{1e9 * f['gamma']:.3f}",
        ]
        for place, f in found.items()
    ]
    columns = ["", "α, µs", "β, ns a byte", "1/β, MB/s", "γ, ns a byte"]
    table(
        f"t(n) = α + β n between two ranks, {found['shared memory']['about']['mpi']}", columns, rows
    )
    save(name, {"sizes": SIZES, "places": found})
    draw(found, name)
    console.print(f"drawn in {name}.png")


def draw(found: dict[str, Any], name: str) -> None:
    """Messages and sums as measured, messages as the model has them."""
    plt, figure, axes = canvas(7, 4.5)
    n = np.array(SIZES, float)
    for k, (place, f) in enumerate(found.items()):
        color = f"C{k}"
        for kind, marker in (("message", "o"), ("sum", "s")):
            measured = [middle(f["seconds"][f"{kind} {size}"]) for size in SIZES]
            label = f"{place}: {'a message' if kind == 'message' else 'an allreduce of two'}"
            axes.plot(n, measured, marker, color=color, mfc="none", label=label)
        axes.plot(n, f["alpha"] + f["beta"] * n, color=color, lw=1, label=f"{place}: α + β n")
    axes.set(
        xscale="log", yscale="log", xlabel="bytes", ylabel="seconds", title="the network's model"
    )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.2)
    save_picture(plt, figure, RESULTS / f"{name}.png")


if __name__ == "__main__":
    typer.run(main)
