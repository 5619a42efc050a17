"""Contenders take turns: round after round, each once, in an order drawn anew.

A turn is as many calls as fill a few milliseconds, so that the clock's resolution does not matter, after one that is
not timed and brings the contender's own data back into the caches, or with several threads after as many as it takes
until each thread has a core.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from tinydl.bench.contenders import Contender, environment, group
from tinydl.bench.operations import operation
from tinydl.bench.processes import Worker, WorkerError
from tinydl.bench.results import Measurement

TURN = 0.01  # seconds that a turn fills
LONG_CALL = 0.02  # seconds above which a call needs no untimed one before it
REST = 0.1  # seconds in which the idle threads of the last contender's pool fall asleep
# Seconds of calls that are not timed. One thread: a single call, for the caches. More: the system wakes threads on
# whatever core it likes, even both on one, and takes some milliseconds to part them.
WARM, WARM_THREADS = 1e-9, 0.03
MIN_ROUNDS, MAX_ROUNDS = 5, 60
TOLERANCE = {"float32": 1e-3, "float64": 1e-10}


@dataclass(frozen=True)
class Settings:
    dtype: str = "float32"
    threads: int = 1
    seconds: float = 0.4  # for each contender and case
    instructions: str = "host"
    # or "cpu": the time of this process alone, on a machine that others use too
    clock: str = "wall"

    def __post_init__(self) -> None:
        if self.clock == "cpu" and self.threads > 1:
            raise ValueError(
                "the processor's time adds up over threads: --clock cpu is for one thread"
            )


@dataclass
class Party:
    """A contender at work in a process."""

    name: str
    worker: Worker
    calls: int = 1
    warm: float = WARM

    def turn(self, clock: str) -> float:
        return self.worker.ask(
            "turn", contender=self.name, calls=self.calls, warm=self.warm, clock=clock
        )


class WrongResult(RuntimeError):
    """A contender computed something else than tinydl did."""


class Arena:
    """The processes of all contenders, for any number of cases. Use it in a ``with`` statement."""

    def __init__(self, name: str, parties: list[Contender], settings: Settings) -> None:
        self.operation, self.settings = name, settings
        self.contenders = parties
        self.stack = ExitStack()
        self.workers: dict[str, Worker] = {}
        for core_type, members in group(parties, settings.threads):
            variables = environment(settings.threads, core_type, settings.instructions)
            worker = self.stack.enter_context(Worker(variables))
            self.workers.update({c.name: worker for c in members})

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def measure(self, case: str, note: Callable[[str, dict], None] | None = None) -> Measurement:
        """Times of all contenders for one case; ``note`` is told what each said when it was prepared."""
        parties = self.prepare(case, note)
        times: dict[str, list[float]] = {party.name: [] for party in parties}
        order = random.Random(0)
        for _ in range(self.rounds(parties)):
            for party in order.sample(parties, len(parties)):
                if self.settings.threads > 1:
                    time.sleep(REST)
                times[party.name].append(party.turn(self.settings.clock))
        for worker in set(self.workers.values()):
            worker.ask("forget")
        parsed = operation(self.operation).parse(case)
        return Measurement(
            operation=self.operation,
            case=str(parsed),
            dtype=self.settings.dtype,
            threads=self.settings.threads,
            flops=parsed.flops,
            bytes=parsed.bytes(4 if self.settings.dtype == "float32" else 8),
            seconds={c.name: times[c.name] for c in self.contenders if c.name in times},
        )

    def prepare(self, case: str, note: Callable[[str, dict], None] | None) -> list[Party]:
        parties, reference = [], None
        for c in self.contenders:
            worker = self.workers[c.name]
            answer = worker.ask(
                "prepare",
                contender=c.name,
                name=self.operation,
                case=case,
                library=c.library,
                dtype=self.settings.dtype,
                threads=self.settings.threads,
                warm=self.warm,
            )
            if "missing" in answer:
                continue
            if note is not None:
                note(c.name, answer)
            reference = reference or answer["fingerprint"]
            self.compare(case, c.name, answer["fingerprint"], reference)
            seconds = max(answer["seconds"], 1e-9)
            calls = max(1, math.ceil(TURN / seconds))
            warm = self.warm if seconds < LONG_CALL or self.settings.threads > 1 else 0.0
            parties.append(Party(c.name, worker, calls, warm))
        if not parties:
            raise WorkerError(f"no contender can do {self.operation} {case}")
        return parties

    @property
    def warm(self) -> float:
        return WARM if self.settings.threads == 1 else WARM_THREADS

    def compare(
        self, case: str, name: str, found: list[float] | None, expected: list[float] | None
    ) -> None:
        """Whoever computes something else is not compared for speed."""
        if found is None or expected is None:
            return
        scale = max(expected[1], 1e-30)
        error = max(abs(f - e) for f, e in zip(found, expected, strict=True)) / scale
        if not error < TOLERANCE[self.settings.dtype]:
            raise WrongResult(
                f"{self.operation} {case}: {name} and {self.contenders[0].name} got different results "
                f"(relative difference {error:.1e})"
            )

    def rounds(self, parties: list[Party]) -> int:
        """As many as fit into the time given, but enough for a median."""
        together = sum(whole_turn(party) for party in parties)
        budget = self.settings.seconds * len(parties)
        return min(MAX_ROUNDS, max(MIN_ROUNDS, int(budget / together)))


def whole_turn(party: Party) -> float:
    """Seconds of a turn with all that belongs to it."""
    start = time.perf_counter()
    party.turn("wall")
    return time.perf_counter() - start
