"""What was measured, as plain data: written to JSON, read back, compared with an earlier file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tinydl.bench.statistics import Interval, median, speed_ratio

FORMAT = 1
OURS = "tinydl"


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Peaks(Record):
    """What the machine can do at most, for one element type and number of threads."""

    dtype: str
    threads: int
    gflops: float
    bandwidth: dict[str, float]  # "L1", "L2", "L3", "memory" -> GB/s of a triad


class Measurement(Record):
    """One case, done by all contenders in turns."""

    operation: str
    case: str
    dtype: str
    threads: int
    flops: float  # of one call
    bytes: float  # that one call must read and write at least
    seconds: dict[str, list[float]]  # contender -> seconds of one call, for each round

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.operation, self.case, self.dtype, self.threads

    def gflops(self, contender: str) -> float:
        return self.flops / median(self.seconds[contender]) / 1e9

    def best(self, peer: str) -> str | None:
        """The fastest contender of a peer: of "torch" its better memory layout. None where it did not take part."""
        names = [name for name in self.seconds if name.partition(":")[0] == peer]
        return min(names, key=lambda name: median(self.seconds[name]), default=None)

    def pair(self, peer: str, ours: str = OURS) -> tuple[list[float], list[float]] | None:
        name = self.best(peer)
        return None if name is None else (self.seconds[ours], self.seconds[name])

    def ratio(self, peer: str, ours: str = OURS) -> Interval | None:
        """How many times faster than the peer's best."""
        pair = self.pair(peer, ours)
        return None if pair is None else speed_ratio(*pair)


class LayerTime(Record):
    """Median milliseconds that a training step spends in one layer, sublayers not counted."""

    layer: str
    forward: float
    backward: float


class StepDetails(Record):
    """What is known of a training step besides its time."""

    case: str
    threads: int
    parameters: dict[str, int]  # contender -> how many
    # contender -> bytes resident at most, of a process that does nothing else
    peak_memory: dict[str, int]
    profile: list[LayerTime]


class Report(Record):
    """One run of `tinydl bench`."""

    format: int = FORMAT
    command: str
    started: str
    machine: dict[str, Any]
    peaks: list[Peaks] = []
    measurements: list[Measurement] = []
    steps: list[StepDetails] = []

    def peak(self, dtype: str, threads: int) -> Peaks | None:
        found = [p for p in self.peaks if (p.dtype, p.threads) == (dtype, threads)]
        return found[0] if found else None

    def peers(self) -> list[str]:
        return peers_of(self.measurements)


def peers_of(measurements: list[Measurement]) -> list[str]:
    """Peers that took part anywhere, in the order of their first appearance."""
    names = (name.partition(":")[0] for m in measurements for name in m.seconds)
    return [name for name in dict.fromkeys(names) if name not in (OURS, "ladder")]


class ResultsError(ValueError):
    """A results file that cannot be used."""


def write(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Report:
    """The report in a file that ``write`` wrote; ``ResultsError`` says what is wrong with any other."""
    try:
        report = Report.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValidationError, UnicodeDecodeError) as error:
        problem = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))} {first['msg']}"
        raise ResultsError(f"{path} is not a results file of tinydl bench: {problem}") from None
    if report.format != FORMAT:
        raise ResultsError(
            f"{path} has format {report.format}, this version reads {FORMAT}: measure again"
        )
    return report


@dataclass(frozen=True)
class Change:
    """One case now and before. ``speed`` compares our own times, ``ratios`` those to each peer, which also
    hold on a machine that was busier or clocked otherwise that day."""

    key: tuple[str, str, str, int]
    speed: float  # before / now: above 1 is faster now
    ratios: dict[str, tuple[Interval, Interval]]  # peer -> (before, now)

    def verdict(self) -> str:
        """Whether intervals of before and now part: "faster", "slower", or "" where they overlap."""
        lower = [now.high < before.low for before, now in self.ratios.values()]
        higher = [now.low > before.high for before, now in self.ratios.values()]
        if not self.ratios:
            return ""
        return "slower" if all(lower) else "faster" if all(higher) else ""


def compare(now: Report, before: Report, ours: str = OURS) -> list[Change]:
    """Cases that both reports hold, in the order of the new one."""
    old = {m.key: m for m in before.measurements}
    changes = []
    for m in now.measurements:
        was = old.get(m.key)
        if was is None or ours not in m.seconds or ours not in was.seconds:
            continue
        ratios = {}
        for peer in now.peers():
            earlier, later = was.ratio(peer, ours), m.ratio(peer, ours)
            if earlier is not None and later is not None:
                ratios[peer] = (earlier, later)
        speed = median(was.seconds[ours]) / median(m.seconds[ours])
        changes.append(Change(key=m.key, speed=speed, ratios=ratios))
    return changes
