"""A whole run of `tinydl bench`: peaks, then every case in every element type and number of threads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime

from tinydl.bench.contenders import (
    INSTRUCTIONS,
    Contender,
    best_core_type,
    contenders,
    environment,
    host_features,
)
from tinydl.bench.machine import describe_machine
from tinydl.bench.processes import Worker
from tinydl.bench.results import LayerTime, Measurement, Peaks, Report, StepDetails
from tinydl.bench.rounds import Arena, Settings

PEERS = ("openblas", "numpy", "torch")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What the command line asked for."""

    operation: str
    cases: list[str]
    peers: list[str]
    dtypes: list[str]
    threads: list[int]
    settings: Settings
    core_type: str = ""

    def blocks(self) -> Iterator[Settings]:
        """The settings of each combination of element type and threads."""
        for dtype in self.dtypes:
            for threads in self.threads:
                yield replace(self.settings, dtype=dtype, threads=threads)


def new_report() -> Report:
    return Report(
        command=" ".join(["tinydl", *sys.argv[1:]]),
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=describe_machine(),
    )


def chosen_core_type(instructions: str, asked: str = "") -> str:
    """The OpenBLAS core type of the peer "openblas": as asked, else the best for the instructions allowed."""
    if asked:
        return asked
    forced = INSTRUCTIONS[instructions].get("OPENBLAS_CORETYPE")
    return forced or best_core_type(host_features())


def present_peers(wanted: list[str], core_type: str) -> list[str]:
    """Those that can take part here: torch where it is installed, "numpy" where it differs from "openblas"."""
    with closing(Worker(environment(1))) as plain:
        found = [p for p in wanted if p != "torch" or plain.ask("importable", module="torch")]
        if {"numpy", "openblas"} <= set(found):
            pools = plain.ask("blas")
            if any(pool.get("architecture") == core_type for pool in pools):
                found.remove("numpy")
    return found


def measure_peaks(settings: Settings) -> Peaks:
    variables = environment(settings.threads, instructions=settings.instructions)
    with closing(Worker(variables)) as worker:
        found = worker.ask(
            "peaks",
            dtype=settings.dtype,
            threads=settings.threads,
            seconds=min(1.0, settings.seconds),
        )
    return Peaks(**found)


def measure_cases(
    plan: Plan, settings: Settings, say: Say, more: list[Contender] | None = None
) -> Iterator[Measurement]:
    """One block of a plan, case by case. ``more`` contenders may take part, such as the rungs of a ladder."""
    parties = contenders(plan.operation, plan.peers, plan.core_type) + (more or [])
    with Arena(plan.operation, parties, settings) as arena:
        for case in plan.cases:
            say(f"{plan.operation} {case}, {settings.dtype}, {threads_text(settings.threads)}")
            yield arena.measure(case)


def measure_steps(
    plan: Plan, settings: Settings, say: Say
) -> Iterator[tuple[Measurement, StepDetails]]:
    """Training steps, with the memory that each library needs and the time of each of our layers."""
    parties = contenders("step", plan.peers, plan.core_type)
    for case in plan.cases:
        parameters: dict[str, int] = {}

        def note(name: str, answer: dict, counts: dict[str, int] = parameters) -> None:
            counts[name] = answer["details"]["parameters"]

        say(f"step {case}, {settings.dtype}, {threads_text(settings.threads)}")
        with Arena("step", parties, settings) as arena:
            measurement = arena.measure(case, note)
        say(f"step {case}: memory")
        memory = {c.name: step_memory(case, c, settings) for c in parties}
        say(f"step {case}: time of each layer")
        yield (
            measurement,
            StepDetails(
                case=measurement.case,
                threads=settings.threads,
                parameters=parameters,
                peak_memory=memory,
                profile=step_profile(case, settings),
            ),
        )


def step_memory(case: str, contender: Contender, settings: Settings) -> int:
    """Peak resident bytes of a fresh process that does some steps and nothing else."""
    variables = environment(settings.threads, instructions=settings.instructions)
    with closing(Worker(variables)) as worker:
        worker.ask(
            "prepare",
            contender=contender.name,
            name="step",
            case=case,
            library=contender.library,
            dtype=settings.dtype,
            threads=settings.threads,
        )
        worker.ask("turn", contender=contender.name, calls=20, warm=0.0, clock="wall")
        return worker.ask("memory")


def step_profile(case: str, settings: Settings) -> list[LayerTime]:
    variables = environment(settings.threads, instructions=settings.instructions)
    with closing(Worker(variables)) as worker:
        rows = worker.ask("profile", case=case, dtype=settings.dtype, clock=settings.clock)
    return [LayerTime(**row) for row in rows]


def threads_text(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
