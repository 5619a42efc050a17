"""Two ranks on two cores against one process on one core, the same batch a rank: how much is lost?

Two cores of one processor share a cache and the way to memory. So two processes that do not talk to each other run,
too: what they lose is the machine's. And ranks wait for each other in every step, so the slower one of each pair of
steps counts; where the machine has other things to do now and then, that alone costs. "ceiling" is the time of one
process over the mean of the slower steps of two silent ones: what is left for two ranks that communicate in no time.

    python benchmarks/distributed/weak_scaling.py [--mpi-python PYTHON] [lenet:64 mlp-5m:256 …]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer
from measuring import (
    bars,
    console,
    in_turns,
    mean_step,
    middle,
    milliseconds,
    percent,
    ratio,
    save,
    steps_for,
    table,
)
from options import MPI_PYTHON, SECONDS, MpiPython, Seconds, cases
from parties import Party, alone, mpi_ranks

from tinydl.bench.statistics import Interval

SHARDED = {"shard_optimizer": True}
DEFAULT = ["lenet:64", "lenet:256", "cnn:64", "mlp-5m:256", "mlp-5m:1024"]


def mean_slower(answers: Sequence[Sequence[float]]) -> float:
    """Seconds of a step where all processes wait for the slowest one in each."""
    return float(np.mean(np.max(answers, axis=0)))


def without_memory(one: Party, two: Party, seconds: float) -> Interval:
    """What is left to each of two busy cores of the speed of one, where memory plays no part."""
    number = steps_for(mean_step(one.ask("training:products_in_cache", 3)))

    def turn(party: Party):
        return lambda: mean_slower(party.ask("training:products_in_cache", number))

    return ratio(in_turns({"one": turn(one), "two": turn(two)}, seconds), "two", "one")


def main(
    networks: Annotated[list[str] | None, typer.Argument(help="NETWORK:BATCH…")] = None,
    mpi_python: MpiPython = MPI_PYTHON,
    seconds: Seconds = SECONDS,
    way: Annotated[
        list[str] | None, typer.Option(help="How to overlap: auto, thread, poll, none; or sharded.")
    ] = None,
    name: str = "weak-scaling",
) -> None:
    """Weak scaling from one process to two ranks."""
    ways = way or ["auto", "sharded"]
    one, two = Party(alone(mpi_python), 1), Party(alone(mpi_python, 2), 2)
    ranks = Party(mpi_ranks(mpi_python), 2)
    found = []
    with one, two, ranks:
        about = ranks.ask("training:about")[0]
        clock = without_memory(one, two, seconds)
        console.print(f"products in the cache, two cores: {percent(clock)} of one's speed each\n")
        for network, batch in cases(networks or DEFAULT):
            parameters = one.ask("training:build", "alone", network, batch)[0]
            two.ask("training:build", "alone", network, batch)
            for way in ways:
                strategy = SHARDED if way == "sharded" else {"overlap": way}
                ranks.ask("training:build", way, network, batch, strategy=strategy)
            number = steps_for(mean_step(one.ask("training:steps", "alone", 5)))

            def turn(party: Party, which: str, number: int = number):
                return lambda: mean_step(party.ask("training:steps", which, number))

            slower: list[float] = []

            def silent(number: int = number, slower: list[float] = slower) -> float:
                answers = two.ask("training:steps", "alone", number)
                slower.append(mean_slower(answers))
                return mean_step(answers)

            turns = {"one": turn(one, "alone"), "two, silent": silent}
            turns |= {way: turn(ranks, way) for way in ways}
            times = in_turns(turns, seconds)
            times["two, slower"] = slower
            found.append(
                {
                    "network": network,
                    "batch": batch,
                    "parameters": parameters,
                    "steps a turn": number,
                    "seconds": times,
                    "silent": ratio(times, "two, silent", "one"),
                    "ceiling": ratio(times, "two, slower", "one"),
                    "efficiency": {way: ratio(times, way, "one") for way in ways},
                    "of the ceiling": {way: ratio(times, way, "two, slower") for way in ways},
                }
            )
            one.ask("training:forget", "alone")
            two.ask("training:forget", "alone")
            for way in ways:
                ranks.ask("training:forget", way)
    rows = []
    for f in found:
        for way in ways:
            t = {k: milliseconds(middle(v)) for k, v in f["seconds"].items()}
            rows.append(
                [
                    f"{f['network']} b{f['batch']} {way}",
                    t["one"],
                    t["two, silent"],
                    t["two, slower"],
                    t[way],
                    percent(f["silent"]),
                    percent(f["ceiling"]),
                    percent(f["efficiency"][way]),
                    percent(f["of the ceiling"][way]),
                ]
            )
    columns = ["ms a step", "one", "two silent", "slower one", "two ranks"]
    columns += ["silent", "ceiling", "efficiency", "of ceiling"]
    table(f"weak scaling to two ranks, one thread each, {about['mpi']}", columns, rows)
    save(name, {"about": about, "without memory": clock, "cases": found})
    labels = [f"{f['network']} b{f['batch']}" for f in found]
    groups = {"two silent processes": [f["silent"].value for f in found]}
    groups |= {"the slower of each two steps": [f["ceiling"].value for f in found]}
    groups |= {f"two ranks ({w})": [f["efficiency"][w].value for f in found] for w in ways}
    bars(
        name,
        "weak scaling from one process to two",
        "time of one / time of two",
        labels,
        groups,
        0.95,
    )


if __name__ == "__main__":
    typer.run(main)
