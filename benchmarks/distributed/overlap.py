"""On a link of 1 Gbit/s: how much of the communication hides behind the backward pass?

Two emulated hosts (benchmarks/lab.py), one rank each. What could be hidden is the shorter of both, communication and
backward pass; hidden is what a step gains over one that computes first and communicates then:

    hidden = (step without overlap - step with overlap) / min(communication, backward)

    sudo python benchmarks/distributed/overlap.py [--mpi-python PYTHON] [cnn-wide:128 …]
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from lab_options import Rate, laboratory
from measuring import (
    bars,
    in_turns,
    mean_step,
    middle,
    milliseconds,
    percent,
    save,
    steps_for,
    table,
)
from options import MPI_PYTHON, SECONDS, MpiPython, Seconds, cases
from parties import Party, on_hosts

from tinydl.bench.statistics import RESAMPLES, Interval

DEFAULT = ["cnn-wide:192"]
WAYS = ("none", "poll", "thread")


def hidden(times: dict[str, list[float]], way: str, possible: float) -> Interval:
    """The share of ``possible`` by which a step is shorter; pairs of rounds are drawn anew for the interval."""
    gains = (np.array(times["none"]) - np.array(times[way])) / possible
    rng = np.random.default_rng(0)
    draws = np.median(gains[rng.integers(gains.size, size=(RESAMPLES, gains.size))], axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(np.median(gains)), float(low), float(high))


def main(
    networks: Annotated[list[str] | None, typer.Argument(help="NETWORK:BATCH…")] = None,
    mpi_python: MpiPython = MPI_PYTHON,
    seconds: Seconds = SECONDS,
    rate: Rate = "1gbit",
    bucket_bytes: int = 4 << 20,
    name: str = "overlap",
) -> None:
    """Communication beside the backward pass, over a slow link."""
    found = []
    with laboratory(rate) as lab, Party(on_hosts(lab, mpi_python), 2) as ranks:
        about = ranks.ask("training:about")[0]
        for network, batch in cases(networks or DEFAULT):
            for way in WAYS:
                strategy = {"overlap": way, "bucket_bytes": bucket_bytes}
                parameters = ranks.ask("training:build", way, network, batch, strategy=strategy)[0]
            number = steps_for(mean_step(ranks.ask("training:steps", "none", 3)), 0.4)

            def ask(function: str, way: str, number: int):
                return lambda: mean_step(ranks.ask(f"training:{function}", way, number))

            turns = {way: ask("steps", way, number) for way in WAYS}
            turns["communication"] = ask("communicate", "none", 4)
            turns["backward"] = ask("backwards", "none", 4)
            times = in_turns(turns, seconds)
            possible = min(middle(times["communication"]), middle(times["backward"]))
            found.append(
                {
                    "network": network,
                    "batch": batch,
                    "parameters": parameters,
                    "seconds": times,
                    "hidden": {way: hidden(times, way, possible) for way in WAYS[1:]},
                }
            )
            for way in WAYS:
                ranks.ask("training:forget", way)
    rows = []
    for f in found:
        t = {key: milliseconds(middle(value)) for key, value in f["seconds"].items()}
        for way in WAYS[1:]:
            label = f"{f['network']} b{f['batch']} {way}"
            shown = [t["communication"], t["backward"], t["none"], t[way]]
            rows.append([label, *shown, percent(f["hidden"][way])])
    columns = [
        "",
        "communication, ms",
        "backward, ms",
        "step without, ms",
        "step with, ms",
        "hidden",
    ]
    table(f"overlap over {rate}, two hosts, one thread each, {about['mpi']}", columns, rows)
    save(name, {"about": about, "rate": rate, "cases": found})
    labels = [f"{f['network']} b{f['batch']}" for f in found]
    shares = {way: [f["hidden"][way].value for f in found] for way in WAYS[1:]}
    bars(name, f"communication hidden behind backward, {rate}", "share", labels, shares, 0.7)


if __name__ == "__main__":
    typer.run(main)
