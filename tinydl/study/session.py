"""A study from its beginning, or from where it was stopped, to its end."""

from __future__ import annotations

from collections.abc import Callable

from tinydl.study import pool
from tinydl.study.protocol import Protocol
from tinydl.study.records import Record, Results, Run
from tinydl.study.tasks import LARGE_BATCH_TASKS

STAGES = ("tune", "judge")
Plan = Callable[[Protocol, Results], list[Run]]


def run_study(
    protocol: Protocol,
    results: Results,
    stages: tuple[str, ...] = STAGES,
    jobs: int = 1,
    begin: Callable[[str, int], None] = lambda stage, runs: None,
    done: Callable[[Record], None] = lambda found: None,
) -> None:
    """Do what is still to be done, and keep each run as soon as it ends.

    Args:
        stages: "tune", "judge". Judging takes the rates that are tuned by then, and leaves out what has none.
        jobs: runs at the same time, each in a process of one thread.
        begin, done: told of each round of runs, and of each run, for a display.
    """
    plans: dict[str, Plan] = {"tune": Protocol.tuning, "judge": Protocol.judging}
    failed: set[Run] = set()  # not tried twice in one session
    for stage in stages:
        # Tuning has several rounds: where the best rate is at a grid's edge, the grid grows.
        while runs := [run for run in plans[stage](protocol, results) if run not in failed]:
            begin(stage, len(runs))
            watched = [(run, watches_layers(protocol, results, run)) for run in runs]
            for found in pool.execute(watched, results.scale, jobs):
                results.add(found)
                if found.error is not None:
                    failed.add(found.run)
                done(found)


def watches_layers(protocol: Protocol, results: Results, run: Run) -> bool:
    """One run of each task and optimizer, at the rate that it is judged at, keeps its gradients layer by layer."""
    if run.seed != 0 or run.contender.schedule != "constant" or run.task in LARGE_BATCH_TASKS:
        return False
    return run.rate == protocol.judged_rates(results, run.task, run.contender)[0]
