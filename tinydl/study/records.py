"""Results on disk: one run a line of JSON, appended at once, so that a stopped study loses nothing.

    runs.jsonl   {"study": "tinydl compare", "format": 1, "scale": 1.0}          what all runs in it have in common
                 {"session": {"started": …, "commit": …, …}}                     each start of the command
                 {"task": "digits", "optimizer": "adam", "rate": 0.001, …}       each run
                 {"forget": "das"}                                               its runs so far no longer count

Where a run stands twice, the later line counts.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinydl.study.contenders import Contender
from tinydl.study.runs import RunResult
from tinydl.study.tasks import Task

FORMAT = 1
POINTS = 60  # of a curve that is kept
FILE = "runs.jsonl"


class Run(NamedTuple):
    """What tells runs apart."""

    task: str
    contender: Contender
    rate: float
    seed: int


@dataclass
class Record:
    """A run and what came out, as it is kept.

    Attributes:
        task, optimizer, schedule, rate, seed: what was run.
        settings: of the task at that time; runs under others do not compare.
        version: of the optimizer's arguments (``Contender.version``).
        error: why there is no result, or None.
        metric, non_finite, steps_to_target, step_ms, update_ms: see ``RunResult``; times in milliseconds.
        steps: that were done.
        losses: median loss in up to 60 equal stretches of the run.
        rates: the same of the rates, where the optimizer chose them itself.
        layers: parameter -> RMS of its gradient at as many steps; of some runs only.
    """

    task: str
    optimizer: str
    schedule: str
    rate: float
    seed: int
    settings: str
    version: str = ""
    error: str | None = None
    metric: float | None = None
    non_finite: bool = False
    steps: int = 0
    steps_to_target: int | None = None
    step_ms: float | None = None
    update_ms: float | None = None
    losses: list[float | None] = field(default_factory=list)
    rates: list[float | None] = field(default_factory=list)
    layers: dict[str, list[float | None]] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        return Run(self.task, Contender(self.optimizer, self.schedule), self.rate, self.seed)


def settings(task: Task) -> str:
    """What a task's results depend on, as text: where it has changed, old results are no longer its own."""
    return f"batches of {task.batch_size}, {task.epochs} epochs, {task.metric}, target {task.target_loss:g}"


def record(run: Run, task: Task, result: RunResult | None, error: str | None = None) -> Record:
    """``result`` as it is kept; None where the run failed with ``error``."""
    contender = run.contender
    made = Record(
        run.task,
        contender.optimizer,
        contender.schedule,
        run.rate,
        run.seed,
        settings(task),
        contender.version,
        error,
    )
    if result is None:
        return made
    made.metric, made.non_finite = result.metric, result.non_finite
    made.steps, made.steps_to_target = len(result.losses), result.steps_to_target
    made.step_ms, made.update_ms = (
        short(1e3 * result.step_seconds),
        short(1e3 * result.update_seconds),
    )
    made.losses = stretches(result.losses)
    if not contender.kind.tuned:
        made.rates = stretches(result.rates)
    made.layers = {name: stretches(norms) for name, norms in result.layer_norms.items()}
    return made


def stretches(series: list[float]) -> list[float | None]:
    """The median of each of up to ``POINTS`` neighbouring stretches, NaN left aside."""
    if not series:
        return []
    parts = np.array_split(np.asarray(series, np.float64), min(POINTS, len(series)))
    with np.errstate(all="ignore"):
        return [
            short(float(np.median(p[np.isfinite(p)]))) if np.isfinite(p).any() else None
            for p in parts
        ]


def short(x: float) -> float | None:
    """Four digits, which is more than two runs have in common; None for what JSON has no number for."""
    return float(f"{x:.4g}") if math.isfinite(x) else None


class ResultsError(ValueError):
    """A results file that cannot be used."""


class Results:
    """The runs in a folder's file; new ones are appended.

    Args:
        folder: made when the first run is added.
        scale: of all runs in it; None takes that of the file.
    """

    def __init__(self, folder: Path, scale: float | None = None) -> None:
        self.path = folder / FILE
        self.scale = 1.0 if scale is None else scale
        self.records: dict[Run, Record] = {}
        self.sessions: list[dict[str, Any]] = []
        self.checks_versions = True  # False: for a report, which takes the results as they are
        if self.path.exists():
            self.read(scale)

    def read(self, scale: float | None) -> None:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ResultsError(f"{self.path}: cannot be read: {error}") from None
        header = self.parse(lines, 0) if lines else {}
        if header.get("study") != "tinydl compare":
            raise ResultsError(f"{self.path} is not a results file of tinydl compare")
        if header.get("format") != FORMAT:
            raise ResultsError(
                f"{self.path} has format {header.get('format')}, this version reads {FORMAT}: choose another folder"
            )
        if scale is not None and header["scale"] != scale:
            raise ResultsError(
                f"{self.path} holds runs of {header['scale']:g} times the steps, not of {scale:g}: they do not "
                "compare; choose another folder"
            )
        self.scale = header["scale"]
        known = {f.name for f in fields(Record)}
        for number in range(1, len(lines)):
            if number == len(lines) - 1 and not is_json(lines[number]):
                continue  # cut off in the middle of the last line
            data = self.parse(lines, number)
            if "session" in data:
                self.sessions.append(data["session"])
            elif "forget" in data:
                self.drop(data["forget"])
            elif set(data) <= known and "task" in data:
                found = Record(**data)
                self.records[found.run] = found
            else:
                raise ResultsError(f"{self.path}:{number + 1}: not a run of tinydl compare")

    def parse(self, lines: list[str], number: int) -> dict[str, Any]:
        try:
            data = json.loads(lines[number])
        except ValueError as error:
            raise ResultsError(f"{self.path}:{number + 1}: not valid JSON: {error}") from None
        if not isinstance(data, dict):
            raise ResultsError(f"{self.path}:{number + 1}: expected an object")
        return data

    def check(self, tasks: dict[str, Task]) -> None:
        """Refuse results of tasks that have been changed since."""
        for found in self.records.values():
            task = tasks.get(found.task)
            if task is not None and found.settings != settings(task):
                raise ResultsError(
                    f"{self.path} holds runs of {found.task} with {found.settings}; the task now has {settings(task)}: "
                    "choose another folder"
                )

    def finished(self, run: Run) -> Record | None:
        """The run's record if it came to a result with these arguments; one that failed may be tried again."""
        found = self.records.get(run)
        if found is None or found.error is not None:
            return None
        if self.checks_versions and found.version != run.contender.version:
            return None
        return found

    def begin_session(self, session: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self.append({"study": "tinydl compare", "format": FORMAT, "scale": self.scale})
        self.mend()
        self.append({"session": session})
        self.sessions.append(session)

    def mend(self) -> None:
        """Remove a last line that was cut off, so that the next one is not glued to it."""
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            end = data.rfind(b"\n") + 1
            os.truncate(self.path, end)

    def add(self, found: Record) -> None:
        self.records[found.run] = found
        data = asdict(found)
        empty = asdict(Record("", "", "", 0.0, 0, ""))
        needed = tuple(data)[:6]
        self.append({k: v for k, v in data.items() if k in needed or v != empty[k]})

    def forget(self, optimizer: str) -> None:
        """Its runs so far no longer count."""
        self.drop(optimizer)
        self.append({"forget": optimizer})

    def drop(self, optimizer: str) -> None:
        self.records = {
            run: r for run, r in self.records.items() if run.contender.optimizer != optimizer
        }

    def append(self, data: dict[str, Any]) -> None:
        """One line in one write: another process that reads sees all of it or nothing."""
        line = json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)


def is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
