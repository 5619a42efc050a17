"""The roofline and the ladder as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinydl.bench.results import OURS, Measurement, Peaks
from tinydl.bench.runner import threads_text

COLORS = {"tinydl": "tab:red", "openblas": "tab:blue", "numpy": "tab:cyan", "torch": "tab:orange"}
MARKERS = {"matmul": "o", "conv2d": "s", "passes": "^"}


def canvas(width: float, height: float) -> tuple[Any, Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    return plt, figure, axes


def draw_roofline(measurements: list[Measurement], peak: Peaks, path: Path) -> None:
    """Speed over arithmetic intensity, under what the machine allows.

    A kernel that does I operations for each byte it moves can at best do min(peak, I · bandwidth) operations a
    second: the roof. Points near the slope wait for memory, points near the flat part for the arithmetic units.

    Source: Williams, Waterman, Patterson 2009, "Roofline: an insightful visual performance model for multicore
    architectures", Communications of the ACM 52:4.
    """
    plt, figure, axes = canvas(9, 6)
    intensity = np.logspace(-2, 3.5, 200)
    for i, (level, bandwidth) in enumerate(peak.bandwidth.items()):
        roof = np.minimum(peak.gflops, intensity * bandwidth)
        axes.plot(intensity, roof, color="gray", lw=2 if level == "memory" else 0.8, zorder=1)
        # Each label a little lower than the last, left of its slope.
        speed = peak.gflops / 3 / 2.2**i
        axes.annotate(
            f"{level} {bandwidth:.0f} GB/s",
            (speed / bandwidth, speed),
            xytext=(-5, 0),
            textcoords="offset points",
            fontsize=8,
            color="gray",
            ha="right",
            bbox={"color": "white", "pad": 0.5},
        )
    axes.annotate(
        f"{peak.gflops:.0f} GFLOP/s",
        (10**3.45, peak.gflops * 1.08),
        fontsize=8,
        ha="right",
        color="gray",
    )
    labeled: set[str] = set()
    for m in measurements:
        for name in m.seconds:
            peer = name.partition(":")[0]
            if peer != OURS and m.best(peer) != name:
                continue
            label = f"{peer}, {m.operation}"
            axes.scatter(
                m.flops / m.bytes,
                m.gflops(name),
                marker=MARKERS.get(m.operation, "o"),
                facecolor=COLORS.get(peer, "gray") if peer == OURS else "none",
                edgecolor=COLORS.get(peer, "gray"),
                s=36,
                zorder=3 if peer == OURS else 2,
                label=None if label in labeled else label,
            )
            labeled.add(label)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="floating-point operations for each byte that must move",
        ylabel="GFLOP/s",
        title=f"roofline, {peak.dtype}, {threads_text(peak.threads)}",
        ylim=(peak.gflops / 3000, peak.gflops * 2),
    )
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.2, which="both")
    save(plt, figure, path)


def draw_speeds(measurements: list[Measurement], peak: Peaks | None, path: Path) -> None:
    """Bars of all contenders for each case, under the machine's peak."""
    names = list(dict.fromkeys(name for m in measurements for name in m.seconds))
    plt, figure, axes = canvas(max(8, 0.5 * len(measurements) + 3), 5)
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        present = [(k, m) for k, m in enumerate(measurements) if name in m.seconds]
        axes.bar(
            [k + (i - (len(names) - 1) / 2) * width for k, _ in present],
            [m.gflops(name) for _, m in present],
            width,
            label=name,
            color=COLORS.get(name),
        )
    if peak is not None:
        axes.axhline(peak.gflops, color="gray", lw=1, label="peak")
    axes.set_xticks(
        range(len(measurements)), [m.case for m in measurements], rotation=60, ha="right"
    )
    axes.tick_params(axis="x", labelsize=7)
    first = measurements[0]
    axes.set(
        ylabel="GFLOP/s",
        title=f"{first.operation}, {first.dtype}, {threads_text(first.threads)}",
    )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.2, axis="y")
    save(plt, figure, path)


def draw_ladder(measurement: Measurement, peak: Peaks | None, path: Path) -> None:
    """One bar a rung, lowest first, then the kernel that people call, then the peers."""
    rungs = [n for n in measurement.seconds if n.startswith("ladder:")]
    others = [n for n in measurement.seconds if n not in rungs]
    names = [*rungs, *others]
    plt, figure, axes = canvas(8, 0.45 * len(names) + 1.8)
    speeds = [measurement.gflops(name) for name in names]
    colors = ["tab:green"] * len(rungs) + [COLORS.get(n.partition(":")[0], "gray") for n in others]
    axes.barh(range(len(names)), speeds, color=colors)
    for i, speed in enumerate(speeds):
        axes.annotate(f" {speed:.3g}", (speed, i), va="center", fontsize=8)
    if peak is not None:
        axes.axvline(peak.gflops, color="gray", lw=1)
        axes.annotate("peak ", (peak.gflops, -0.4), ha="right", fontsize=8, color="gray")
    axes.set_yticks(range(len(names)), [n.removeprefix("ladder:") for n in names])
    axes.invert_yaxis()
    axes.set(
        xscale="log",
        xlabel="GFLOP/s",
        title=f"{measurement.operation} {measurement.case}, {measurement.dtype}, "
        f"{threads_text(measurement.threads)}",
    )
    axes.grid(alpha=0.2, axis="x")
    save(plt, figure, path)


def save(plt: Any, figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
