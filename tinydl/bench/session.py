"""A run as a person sees it: each block's table when it is measured, then means, comparison, files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tinydl.bench import ladders, pictures, results, runner, tables
from tinydl.bench.results import Measurement, Peaks, Report
from tinydl.bench.rounds import Settings
from tinydl.bench.runner import Plan, Say


class Session:
    """Adds to ``report`` what plans measure; tells ``say`` what is under way and gives tables to ``show``."""

    def __init__(self, report: Report, say: Say, show: Callable[[Any], None]) -> None:
        self.report, self.say = report, say
        self.shown: list[Any] = []
        self._show = show
        self.drawings: list[tuple[str, str, Settings, Callable[[Path], None]]] = []

    def show(self, table: Any) -> None:
        """A table's title goes above it: inside, it would be folded to the table's width."""
        if isinstance(table, Table):
            title, table.title = str(table.title), None
            table = Group("", Text(title, style="italic"), table)
        self.shown.append(table)
        self._show(table)

    def peaks(self, plan: Plan) -> None:
        """Measure what the machine can do, for each block of the plan that is not known yet."""
        new: list[Peaks] = []
        for settings in plan.blocks():
            if self.report.peak(settings.dtype, settings.threads) is None:
                self.say("peaks of the machine")
                new.append(runner.measure_peaks(settings))
                self.report.peaks.append(new[-1])
        if new:
            self.show(tables.peaks_table(new))

    def measure(self, plan: Plan, rungs: list[str] | None = None) -> None:
        """All blocks of a plan; ``rungs`` (all, if empty) of the ladder take part unless it is None."""
        for settings in plan.blocks():
            if plan.operation == "step":
                self._measure_steps(plan, settings)
            else:
                self._measure_block(plan, settings, rungs)

    def _measure_block(self, plan: Plan, settings: Settings, rungs: list[str] | None) -> None:
        climbers = None if rungs is None else ladders.climbers(plan.operation, rungs)
        block = list(runner.measure_cases(plan, settings, self.say, climbers))
        self.report.measurements += block
        peak = self.report.peak(settings.dtype, settings.threads)
        if rungs is not None:
            for m in block:
                self.show(tables.ladder_table(m, peak))
                self._draw(settings, "ladder", partial(pictures.draw_ladder, m, peak))
            return
        self.show(tables.speed_table(block, peak, results.peers_of(block)))
        if plan.operation != "passes":
            self._draw(
                settings, "speeds", partial(pictures.draw_speeds, block, peak), plan.operation
            )

    def _measure_steps(self, plan: Plan, settings: Settings) -> None:
        block: list[Measurement] = []
        details = []
        for measurement, detail in runner.measure_steps(plan, settings, self.say):
            block.append(measurement)
            details.append(detail)
        self.report.measurements += block
        self.report.steps += details
        self.show(tables.step_table(block, details, results.peers_of(block)))
        for detail in details:
            self.show(tables.profile_table(detail))

    def _draw(
        self, settings: Settings, kind: str, draw: Callable[[Path], None], operation: str = ""
    ) -> None:
        self.drawings.append((kind, operation, settings, draw))

    def draw_rooflines(self) -> None:
        """One picture for each element type and number of threads, with everything that was measured in it."""
        for peak in self.report.peaks:
            block = [
                m
                for m in self.report.measurements
                if (m.dtype, m.threads) == (peak.dtype, peak.threads)
            ]
            self._draw(
                Settings(dtype=peak.dtype, threads=peak.threads),
                "roofline",
                partial(pictures.draw_roofline, block, peak),
            )

    def show_means(self) -> None:
        peers = self.report.peers()
        if peers and len(self.report.measurements) > 1:
            self.show(tables.means_table(self.report.measurements, peers))

    def show_changes(self, earlier: Report) -> None:
        changes = results.compare(self.report, earlier)
        if changes:
            self.show(tables.changes_table(changes, self.report.peers()))
        else:
            self.show("the earlier file holds none of these cases")

    def write(self, path: Callable[[str], Path]) -> list[Path]:
        """JSON, the tables as text, the pictures; ``path`` makes a file's path of its suffix."""
        written = [path(".json"), path(".txt")]
        results.write(self.report, written[0])
        with written[1].open("w", encoding="utf-8") as file:
            plain = Console(file=file, width=200, color_system=None)
            plain.print(self.report.command, highlight=False, soft_wrap=True)
            for table in self.shown:
                plain.print(table)
        if self.drawings and find_spec("matplotlib") is None:
            self._show(escape("no pictures: they need matplotlib (pip install 'tinydl[plots]')"))
            return written
        for suffix, draw in self.pictures().items():
            draw(path(suffix))
            written.append(path(suffix))
        return written

    def pictures(self) -> dict[str, Callable[[Path], None]]:
        """How each file ends: by what it shows, and by operation, element type and threads where there are several."""
        blocks = {(settings.dtype, settings.threads) for _, _, settings, _ in self.drawings}
        operations = {operation for _, operation, _, _ in self.drawings if operation}
        endings = {}
        for kind, operation, settings, draw in self.drawings:
            which = f"-{operation}" if operation and len(operations) > 1 else ""
            block = f"-{settings.dtype}-{runner.threads_text(settings.threads)}".replace(" ", "-")
            endings[f"{which}-{kind}{block if len(blocks) > 1 else ''}.png"] = draw
        return endings
