"""What the runs say: each optimizer at the rate that it is judged at, rates, budgets, steps to the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tinydl.study import statistics
from tinydl.study.contenders import BASELINES, Contender
from tinydl.study.protocol import FIRST_TUNING_SEED, Protocol, learns, mean_metric
from tinydl.study.records import Record, Results
from tinydl.study.statistics import Mean
from tinydl.study.tasks import LARGE_BATCH_TASKS, Task

TOLERANCE = 2.0  # points from the best within which a rate still counts as good
LARGEST_BUDGET = 1000


@dataclass(frozen=True)
class Judged:
    """An optimizer on a task at one rate, from all judging seeds."""

    contender: Contender
    rate: float
    records: list[Record]

    @cached_property
    def metrics(self) -> list[float]:
        """In the order of the seeds."""
        return [r.metric for r in self.records if r.metric is not None]

    @cached_property
    def metric(self) -> Mean:
        return statistics.mean(self.metrics)

    @property
    def steps(self) -> float:
        """Steps to the target loss, the median over seeds; infinite where most did not reach it."""
        reached = [
            math.inf if r.steps_to_target is None else r.steps_to_target for r in self.records
        ]
        return float(np.median(reached))

    @property
    def step_ms(self) -> float:
        """Milliseconds a step; NaN where no run came far enough."""
        times = [r.step_ms for r in self.records if r.step_ms is not None]
        return float(np.median(times)) if times else math.nan

    @property
    def seconds(self) -> float:
        """To the target loss."""
        return self.steps * self.step_ms / 1e3

    @property
    def non_finite(self) -> int:
        return sum(r.non_finite for r in self.records)


class Study:
    """The results of a folder, as the protocol reads them.

    Args:
        subject: the optimizer that is judged without tuning.
    """

    def __init__(self, protocol: Protocol, results: Results, subject: str = "das") -> None:
        self.protocol = protocol
        self.results = results
        self.subject = Contender(subject)
        self._judged: dict[tuple, list[Record]] = {}
        for run, found in results.records.items():
            if found.error is None and run.seed < FIRST_TUNING_SEED:
                key = run.task, run.contender, run.rate
                self._judged.setdefault(key, []).append(found)
        for records in self._judged.values():
            records.sort(key=lambda r: r.seed)

    # ---- who and what -----------------------------------------------------------------------------------------

    @property
    def tasks(self) -> list[str]:
        """All but those of large batches, which are looked at by themselves."""
        return [name for name in self.protocol.tasks if name not in LARGE_BATCH_TASKS]

    def task(self, name: str) -> Task:
        return self.protocol.tables[name]

    @property
    def baselines(self) -> list[Contender]:
        """With a constant rate, as the subject has."""
        return [
            Contender(name) for name in BASELINES if Contender(name) in self.protocol.contenders
        ]

    @property
    def others(self) -> list[Contender]:
        """Baselines with a cosine rate, outside peers, and optimizers of the user's own."""
        named = {self.subject, *self.baselines}
        return [contender for contender in self.protocol.contenders if contender not in named]

    # ---- at the judged rate -----------------------------------------------------------------------------------

    def judged(self, task: str, contender: Contender, rate: float | None = None) -> Judged | None:
        """At ``rate``; else at the tuned one, or at the default of one that is not tuned. None: not run yet."""
        if rate is None:
            kind = contender.kind
            tuned = self.protocol.tuned_rate(self.results, task, contender) if kind.tuned else None
            rate = tuned if kind.tuned else kind.default
        records = self._judged.get((task, contender, rate))
        return Judged(contender, rate, records) if records and rate is not None else None

    def ours(self, task: str) -> Judged | None:
        return self.judged(task, self.subject)

    def best_baseline(self, task: str) -> Judged | None:
        """That with the best mean over the judging seeds: chosen after the fact, in favor of the baselines."""
        found = [j for c in self.baselines if (j := self.judged(task, c)) is not None]
        sign = 1 if self.task(task).higher_is_better else -1
        return max(found, key=lambda j: sign * j.metric.value, default=None)

    def points(self, task: str, ours: float, other: float) -> float:
        """By how much we are better: points of accuracy, or percents of the other's loss."""
        if self.task(task).higher_is_better:
            return ours - other
        return 100 * (other - ours) / other

    def gap(self, task: str) -> float | None:
        """Our lead over the best baseline."""
        ours, best = self.ours(task), self.best_baseline(task)
        if ours is None or best is None:
            return None
        return self.points(task, ours.metric.value, best.metric.value)

    def step_ratio(self, task: str) -> float | None:
        """Our steps to the target over those of the quickest baseline.

        Infinite where we do not get there and a baseline does; 0 where we alone do; None where nobody does.
        """
        ours = self.ours(task)
        others = [j.steps for c in self.baselines if (j := self.judged(task, c)) is not None]
        if ours is None or not others:
            return None
        if math.isinf(min(others)):
            return None if math.isinf(ours.steps) else 0.0
        return ours.steps / min(others)

    # ---- over rates -------------------------------------------------------------------------------------------

    def by_rate(self, task: str, contender: Contender) -> dict[float, Mean]:
        """rate -> metric: of the tuning runs, or of the judging runs of one that is not tuned."""
        if contender.kind.tuned:
            tried = self.protocol.tried(self.results, task, contender)
            found = {rate: [mean_metric([r]) for r in records] for rate, records in tried.items()}
        else:
            found = {
                rate: [mean_metric([r]) for r in records]
                for (name, who, rate), records in self._judged.items()
                if (name, who) == (task, contender)
            }
        return {rate: statistics.mean(found[rate]) for rate in sorted(found)}

    def window(self, task: str, contender: Contender) -> float | None:
        """Decades of rates within two points of the best; None where too few were tried; 0 where none learns."""
        means = {rate: m.value for rate, m in self.by_rate(task, contender).items()}
        if len(means) < 2:
            return None
        higher = self.task(task).higher_is_better
        best = max(means.values()) if higher else min(means.values())
        if not learns(best, self.task(task)):
            return 0.0
        tolerance = TOLERANCE if higher else TOLERANCE / 100 * best
        return statistics.window(means, tolerance, higher)

    def draws(self, task: str, contender: Contender) -> list[float]:
        """The metrics of the grid's rates, among which a tuning budget draws."""
        by_rate, grid = self.by_rate(task, contender), self.protocol.grid(contender)
        return [by_rate[rate].value for rate in grid if rate in by_rate]

    def expected(self, task: str, contender: Contender, budget: int) -> float | None:
        """The metric to expect of the best of so many random rates; the subject's default where it is one run."""
        if contender == self.subject:
            ours = self.ours(task)
            return None if ours is None else ours.metric.value
        values = self.draws(task, contender)
        if len(values) < 2:
            return None
        return statistics.expected_best(values, budget, self.task(task).higher_is_better)

    def overtaking_budget(self, task: str, contender: Contender) -> int | None:
        """The smallest budget at which it does better than the subject at its default; None: at no budget."""
        ours, values = self.ours(task), self.draws(task, contender)
        if ours is None or not values:
            return None
        higher = self.task(task).higher_is_better
        for budget in range(1, LARGEST_BUDGET + 1):
            expected = statistics.expected_best(values, budget, higher)
            if self.points(task, expected, ours.metric.value) > 0:
                return budget
        return None
