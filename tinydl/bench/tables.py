"""Measurements as tables for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from tinydl.bench.results import OURS, Change, Measurement, Peaks, StepDetails
from tinydl.bench.runner import threads_text
from tinydl.bench.statistics import Interval, geometric_mean, median


def new_table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


def peaks_table(peaks: list[Peaks]) -> Table:
    levels = list(dict.fromkeys(level for p in peaks for level in p.bandwidth))
    table = new_table(
        "what this machine can do at most", ["", "GFLOP/s", *[f"{x}, GB/s" for x in levels]]
    )
    for p in peaks:
        cells = [f"{p.bandwidth[x]:.0f}" if x in p.bandwidth else "" for x in levels]
        table.add_row(f"{p.dtype}, {threads_text(p.threads)}", f"{p.gflops:.0f}", *cells)
    return table


def colored(ratio: Interval | None) -> str:
    """Green where surely faster than the peer, red where surely slower."""
    if ratio is None:
        return ""
    color = "green" if ratio.low >= 1 else "red" if ratio.high < 1 else "yellow"
    text = f"{ratio.value:.2f} [dim]({ratio.low:.2f}–{ratio.high:.2f})[/]"
    return f"[{color}]{text}[/]"


def speed_table(measurements: list[Measurement], peak: Peaks | None, peers: list[str]) -> Table:
    """GFLOP/s (GB/s for passes over memory) of everyone, our share of the peak, our ratio to each peer."""
    first = measurements[0]
    counts_bytes = first.operation == "passes"
    names = [name for name in first.seconds if not name.startswith("ladder:")]
    title = f"{first.operation}, {first.dtype}, {threads_text(first.threads)}, "
    title += "GB/s" if counts_bytes else "GFLOP/s"
    share = [] if counts_bytes else ["of peak"]
    table = new_table(title, ["", *names, *share, *[f"× {peer}" for peer in peers]])
    for m in measurements:
        speeds = [amount(m, name, counts_bytes) if name in m.seconds else "" for name in names]
        part = [] if counts_bytes else [share_of_peak(m, peak)]
        table.add_row(m.case, *speeds, *part, *[colored(m.ratio(peer)) for peer in peers])
    return table


def ladder_table(m: Measurement, peak: Peaks | None) -> Table:
    """Each rung, then everyone else: GFLOP/s, share of the peak, and how many times the rung below."""
    table = new_table(
        f"{m.operation} {m.case}, {m.dtype}, {threads_text(m.threads)}",
        ["", "GFLOP/s", "of peak", "× the one before"],
    )
    names = sorted(m.seconds, key=lambda name: not name.startswith("ladder:"))
    before: float | None = None
    for name in names:
        speed = m.gflops(name)
        is_ours = name == OURS or name.startswith("ladder:")
        step = f"{speed / before:.1f}" if before and is_ours else ""
        table.add_row(
            name.removeprefix("ladder:"), f"{speed:.3g}", share_of_peak(m, peak, name), step
        )
        before = speed
    return table


def amount(m: Measurement, name: str, counts_bytes: bool) -> str:
    value = m.bytes / median(m.seconds[name]) / 1e9 if counts_bytes else m.gflops(name)
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def share_of_peak(m: Measurement, peak: Peaks | None, name: str = OURS) -> str:
    return f"{100 * m.gflops(name) / peak.gflops:.0f} %" if peak else ""


def means_table(measurements: list[Measurement], peers: list[str]) -> Table:
    """For each peer the geometric mean of the ratios with its interval, and the lowest of them."""
    table = new_table(
        "geometric means (how many times faster)", ["", "peer", "mean", "cases", "lowest", "where"]
    )
    for label, members in groups(measurements).items():
        for peer in peers:
            found = [(m, pair) for m in members if (pair := m.pair(peer)) is not None]
            if not found:
                continue
            mean = geometric_mean([pair for _, pair in found])
            ratios = {m.case: m.ratio(peer) for m, _ in found}
            lowest = min(ratios, key=lambda case: ratios[case].value)  # type: ignore[union-attr]
            table.add_row(
                label,
                peer,
                colored(mean),
                str(len(found)),
                f"{ratios[lowest].value:.2f}",  # type: ignore[union-attr]
                lowest,
            )
    return table


def groups(measurements: list[Measurement]) -> dict[str, list[Measurement]]:
    """What a mean is taken over: matmul as a whole, the three passes of conv2d each, each kind of step by itself."""
    found: dict[str, list[Measurement]] = {}
    for m in measurements:
        kind = m.case.partition(" ")[2] if m.operation == "conv2d" else m.operation
        found.setdefault(f"{kind}, {m.dtype}, {threads_text(m.threads)}", []).append(m)
    return found


def step_table(
    measurements: list[Measurement], details: list[StepDetails], peers: list[str]
) -> Table:
    first = measurements[0]
    names = list(first.seconds)
    table = new_table(
        f"training step, {first.dtype}, {threads_text(first.threads)}, milliseconds (peak memory, MiB)",
        ["", *names, *[f"× {peer}" for peer in peers]],
    )
    for m, d in zip(measurements, details, strict=True):
        cells = [
            f"{1e3 * median(m.seconds[n]):.2f} ({d.peak_memory[n] / 2**20:.0f})" for n in names
        ]
        table.add_row(m.case, *cells, *[colored(m.ratio(peer)) for peer in peers])
    return table


def profile_table(details: StepDetails) -> Table:
    """Where the time of our step goes, each layer by itself."""
    table = new_table(
        f"{details.case}, {threads_text(details.threads)}: milliseconds by layer",
        ["", "forward", "backward", "share"],
    )
    total = sum(row.forward + row.backward for row in details.profile)
    for row in details.profile:
        spent = row.forward + row.backward
        table.add_row(
            row.layer, f"{row.forward:.3f}", f"{row.backward:.3f}", f"{100 * spent / total:.0f} %"
        )
    return table


def changes_table(changes: list[Change], peers: list[str]) -> Table:
    """Now against an earlier file; a verdict only where no interval overlaps its earlier self."""
    columns = ["", "faster than then", *[f"× {peer} then → now" for peer in peers], ""]
    table = new_table("compared with the earlier file", columns)
    for change in changes:
        operation, case, dtype, threads = change.key
        cells = []
        for peer in peers:
            pair = change.ratios.get(peer)
            cells.append(f"{pair[0].value:.2f} → {pair[1].value:.2f}" if pair else "")
        verdict = change.verdict()
        color = {"faster": "green", "slower": "red"}.get(verdict, "")
        shown = f"[{color}]{verdict}[/]" if verdict else ""
        name = f"{operation} {case}, {dtype}, {threads_text(threads)}"
        table.add_row(name, f"{change.speed:.2f} times", *cells, shown)
    return table
