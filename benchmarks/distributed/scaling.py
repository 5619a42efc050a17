"""From the measured network to 1,024 ranks: what the alpha-beta model predicts, and what helps.

Measures forward pass, backward pass and update of one process, takes α and β from what network.py wrote and the share
that overlap hides from what overlap.py wrote, and puts them into the equations of model.py.

    python benchmarks/distributed/scaling.py [--mpi-python PYTHON]
"""

from __future__ import annotations

import json
import math
from typing import Any

import typer
from measuring import RESULTS, in_turns, mean_step, middle, milliseconds, save, steps_for, table
from model import Network, Training, efficiency
from options import MPI_PYTHON, MpiPython, Seconds, cases
from parties import Party, alone

from tinydl.bench.pictures import canvas
from tinydl.bench.pictures import save as save_picture

MODELS = ["lenet:64", "cnn-wide:128", "mlp-5m:32", "mlp-5m:256", "mlp-5m:2048"]
RANKS = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
SHOWN = [8, 64, 1024]
BUCKET = 4 << 20
# Not measured here: what such networks have by their data sheets and the usual ping-pong tests.
ASSUMED = {"25 Gbit/s": (20e-6, 1 / 3.0e9), "200 Gbit/s": (2e-6, 1 / 23e9)}


def measured(python: str, seconds: float) -> list[Training]:
    """Forward, backward and size of each model, in one process."""
    found = []
    with Party(alone(python), 1) as one:
        for network, batch in cases(MODELS):
            parameters = one.ask("training:build", "a", network, batch)[0]
            number = steps_for(mean_step(one.ask("training:steps", "a", 3)))
            turns = {
                "step": lambda number=number: mean_step(one.ask("training:steps", "a", number)),
                "backward": lambda number=number: mean_step(
                    one.ask("training:backwards", "a", number)
                ),
            }
            times = in_turns(turns, seconds, least=5)
            step, backward = middle(times["step"]), middle(times["backward"])
            name = f"{network} b{batch}"
            found.append(Training(name, max(step - backward, 0.0), backward, 4.0 * parameters))
            one.ask("training:forget", "a")
    return found


def networks() -> dict[str, Network]:
    places = json.loads((RESULTS / "network.json").read_text())["places"]
    gamma = places["shared memory"]["gamma"]
    found = {
        f"{place} (measured)": Network(f["alpha"], f["beta"], gamma)
        for place, f in places.items()
        if place != "shared memory"
    }
    found |= {f"{name} (assumed)": Network(*ab, gamma) for name, ab in ASSUMED.items()}
    return found


def remedies(training: Training, hidden: float) -> dict[str, dict[str, Any]]:
    buckets = math.ceil(training.bytes / BUCKET) + 1
    return {
        "none": {},
        "overlap": {"overlap": hidden, "buckets": buckets},
        "bfloat16": {"wire": 0.5},
        "both": {"overlap": hidden, "wire": 0.5, "buckets": buckets},
        "local SGD, every 8": {"every": 8},
    }


def main(mpi_python: MpiPython = MPI_PYTHON, seconds: Seconds = 4.0, name: str = "scaling") -> None:
    """Efficiency of weak scaling that the model predicts."""
    overlap = json.loads((RESULTS / "overlap.json").read_text())["cases"][0]["hidden"]["thread"]
    hidden = min(overlap["value"], 1.0)
    trainings, places = measured(mpi_python, seconds), networks()
    predicted: dict[str, Any] = {}
    for place, net in places.items():
        rows = []
        for training in trainings:
            ways = remedies(training, hidden)
            predicted.setdefault(place, {})[training.name] = {
                way: {n: efficiency(net, training, n, **options) for n in RANKS}
                for way, options in ways.items()
            }
            cells = [
                " / ".join(f"{100 * predicted[place][training.name][way][n]:.0f}" for n in SHOWN)
                for way in ways
            ]
            compute = milliseconds(training.forward + training.backward)
            rows.append([training.name, f"{training.bytes / 1e6:.2f}", compute, *cells])
        title = f"{place}: α = {1e6 * net.alpha:.1f} µs, {1e-6 / net.beta:.0f} MB/s; "
        title += f"predicted efficiency in % on {' / '.join(map(str, SHOWN))} ranks"
        table(title, ["", "MB", "compute, ms", *ways], rows)
    about = {"hidden": hidden, "trainings": [t.__dict__ for t in trainings]}
    save(
        name,
        {**about, "networks": {k: v.__dict__ for k, v in places.items()}, "efficiency": predicted},
    )
    draw(predicted, name)


def draw(predicted: dict[str, Any], name: str) -> None:
    """Efficiency over ranks: a color for each model; plain, and with its best remedy that keeps every step exact."""
    plt, figure, _ = canvas(4.5 * len(predicted), 4.5)
    figure.clear()
    axes = figure.subplots(1, len(predicted), sharey=True)
    for place, plot in zip(predicted, axes, strict=True):
        for k, (training, ways) in enumerate(predicted[place].items()):
            best = max(("overlap", "both"), key=lambda way, ways=ways: ways[way][64])
            plot.plot(RANKS, ways["none"].values(), color=f"C{k}", lw=1, ls="--")
            label = f"{training}: {'overlap' if best == 'overlap' else 'overlap, bfloat16'}"
            plot.plot(RANKS, ways[best].values(), color=f"C{k}", marker=".", label=label)
        plot.set(xscale="log", xlabel="ranks", title=place, ylim=(0, 1.02))
        plot.set_xscale("log", base=2)
        plot.grid(alpha=0.2)
        plot.legend(fontsize=7)
    axes[0].set_ylabel("predicted efficiency (dashed: nothing done)")
    save_picture(plt, figure, RESULTS / f"{name}.png")


if __name__ == "__main__":
    typer.run(main)
