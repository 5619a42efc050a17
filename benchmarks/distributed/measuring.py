"""Turns, medians, a table, a JSON file and a picture: what all measurements of many processes share."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tinydl.bench.machine import describe_machine
from tinydl.bench.statistics import Interval, speed_ratio

RESULTS = Path(__file__).resolve().parents[1] / "results"
REST = 0.02  # seconds between turns, in which the last party's threads fall asleep
console = Console(width=170)
Times = dict[str, list[float]]


def in_turns(turns: dict[str, Callable[[], float]], seconds: float, least: int = 7) -> Times:
    """Every round calls each of ``turns`` once, in an order drawn anew; what they return, round by round.

    As many rounds as fit into ``seconds``, but at least ``least``.
    """
    times: Times = {name: [] for name in turns}
    order = random.Random(0)
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(next(iter(times.values()))) < least:
        for name in order.sample(list(turns), len(turns)):
            time.sleep(REST)
            times[name].append(turns[name]())
    return times


def mean_step(results: Sequence[Sequence[float]]) -> float:
    """Seconds of a step: the mean over a turn's steps, of the slowest process."""
    return max(float(np.mean(seconds)) for seconds in results)


def steps_for(seconds: float, turn: float = 0.25, least: int = 3) -> int:
    """Steps that fill a turn."""
    return max(least, round(turn / max(seconds, 1e-6)))


def ratio(times: Times, ours: str, other: str) -> Interval:
    """How many times faster ``ours`` is than ``other``: the median over rounds, with its 95 % interval."""
    return speed_ratio(times[ours], times[other])


def middle(seconds: Sequence[float]) -> float:
    return float(np.median(seconds))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for k, name in enumerate(columns):
        shown.add_column(name, justify="right" if k else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*map(str, row))
    console.print(shown, "", highlight=False)


def percent(value: float | Interval) -> str:
    if isinstance(value, Interval):
        return f"{100 * value.value:.1f} % ({100 * value.low:.1f}–{100 * value.high:.1f})"
    return f"{100 * value:.1f} %"


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def save(name: str, data: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``name``.json: the data, with what machine and which command they come from."""
    command = " ".join([Path(sys.argv[0]).name, *shown_arguments()])
    about = {
        "command": f"benchmarks/distributed/{command}",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "threads": "one a process",
        "machine": describe_machine(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**about, **data}, indent=1, default=as_plain) + "\n")
    console.print(f"written to {path}", highlight=False, soft_wrap=True)
    return path


def shown_arguments() -> list[str]:
    """The command's words, without the folders of this machine."""
    return [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]


def as_plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return {"value": value.value, "low": value.low, "high": value.high}
    return float(value)


def bars(
    name: str,
    title: str,
    label: str,
    labels: Sequence[str],
    groups: dict[str, Sequence[float]],
    line: float | None = None,
    folder: Path = RESULTS,
) -> None:
    """``name``.png: for each of ``labels`` one bar of every group, and a line where the bar to be reached is."""
    from tinydl.bench.pictures import canvas, save

    plt, figure, axes = canvas(max(5, 1.3 * len(labels) + 2.5), 4)
    width = 0.8 / len(groups)
    for k, (group, heights) in enumerate(groups.items()):
        places = np.arange(len(labels)) + (k - (len(groups) - 1) / 2) * width
        drawn = axes.bar(places, heights, width, label=group)
        axes.bar_label(drawn, fmt="%.3g", fontsize=7)
    if line is not None:
        axes.axhline(line, color="gray", lw=1)
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set(ylabel=label, title=title)
    axes.margins(y=0.15)
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    save(plt, figure, folder / f"{name}.png")
