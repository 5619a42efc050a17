"""What is run, fixed before there are results.

**Tuning.** Every baseline (SGD, momentum, Nesterov, RMSProp, Adam, AdamW, NAdam; each with a constant and with a cosine
rate) and every outside peer is tried on every task at seven rates, half a decade apart, over three decades that hold
its usual ones (``contenders.py``), with a seed of its own (100, and 101 … where more are asked for). Where the best
rate lies at an edge, the next half decade is tried too, up to four times. Its tuned rate on the task is the one with
the best mean metric. Ties go to the smaller training loss at the end, then to the smaller rate.

**Judging.** At its tuned rate each is run from seeds 0 to 4, which tuning has not seen. DAS is never tuned: it is run
from the same seeds at its default and at nominal rates from 1e-6 to 10, a decade apart.

**Large batches.** The same network is trained for ten epochs in batches of 64, 256, 1024 and 4096: each optimizer at
the rate tuned for 64 ("without retuning"), and at the one tuned for each size ("with").

**What counts.** The metric on the test samples after the last step: accuracy in percent, or for character models the
loss in nats. A run whose loss, gradients or weights become non-finite counts as guessing. Means over seeds come with
95 % confidence intervals (Student's t). Differences are in points: of accuracy, or of 1 % of the loss. A loss target
is reached when the median of the last ten batches' losses is at or below it; the targets are those of ``tasks.py``.

**On what DAS may be developed:** digits, sigmoid-6, cifar-cnn, names-lstm and label-noise; later tanh-20 and relu-12
were taken for it, too. The other tasks judge.

**The tuning budget** (Dodge et al. 2019, arXiv 1909.03004): with k rates drawn at random from the seven of the grid,
the metric that a user can expect of the best of them. DAS at its default needs one run.

**"Trains"** means more than three times the accuracy of guessing, for every seed; **"stays at chance"** less than
twice, in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tinydl.study.contenders import KINDS, SCHEDULES, Contender
from tinydl.study.contenders import get as get_kind
from tinydl.study.records import Record, Results, Run
from tinydl.study.tasks import LARGE_BATCH_TASKS, Task
from tinydl.study.tasks import get as get_task

FIRST_TUNING_SEED = 100
EXTENSIONS = 4  # half decades that a grid may grow by on either side


@dataclass(frozen=True)
class Protocol:
    """Which tasks, optimizers, rates and seeds; names are checked when it is made.

    Attributes:
        rates: in place of every optimizer's own grid; None keeps those.
        seeds: how many judge. tuning_seeds: how many tune.
    """

    tasks: tuple[str, ...]
    optimizers: tuple[str, ...] = tuple(KINDS)
    schedules: tuple[str, ...] = SCHEDULES
    rates: tuple[float, ...] | None = None
    seeds: int = 5
    tuning_seeds: int = 1
    tables: dict[str, Task] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, values in (("task", self.tasks), ("optimizer", self.optimizers)):
            if not values:
                raise ValueError(f"a study needs at least one {name}")
        for name in ("seeds", "tuning_seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for schedule in self.schedules:
            if schedule not in SCHEDULES:
                raise ValueError(
                    f"unknown schedule {schedule!r}: expected {' or '.join(SCHEDULES)}"
                )
        for rate in self.rates or ():
            if not 0 < rate < math.inf:
                raise ValueError(f"a learning rate must be positive and finite, got {rate!r}")
        object.__setattr__(self, "tables", {name: get_task(name) for name in self.tasks})
        if not self.contenders:
            raise ValueError(
                f"none of {', '.join(self.optimizers)} takes part with the schedule {', '.join(self.schedules)}"
            )

    @property
    def contenders(self) -> list[Contender]:
        return [
            Contender(optimizer, schedule)
            for optimizer in self.optimizers
            for schedule in get_kind(optimizer).schedules
            if schedule in self.schedules
        ]

    def grid(self, contender: Contender) -> tuple[float, ...]:
        return self.rates or contender.kind.rates

    # ---- what is still to be run ------------------------------------------------------------------------------

    def tuning(self, results: Results) -> list[Run]:
        """Runs that tuning lacks. Ask again when they are done: a grid may have to grow."""
        return [
            run
            for task in self.tasks
            for contender in self.contenders
            if contender.kind.tuned
            for rate in self.tuning_rates(results, task, contender)
            for run in self.runs(task, contender, rate, tuning=True)
            if results.finished(run) is None
        ]

    def tuning_rates(self, results: Results, task: str, contender: Contender) -> list[float]:
        """The grid, the rates it grew by so far, and beyond an edge at which the best rate lies the next one."""
        grid = sorted(self.grid(contender))
        tried = self.tried(results, task, contender)
        if self.rates is not None or not set(grid) <= set(
            tried
        ):  # asked for by the user: no others
            return grid
        rates = sorted(tried)
        best = best_rate(tried, self.tables[task])
        if not learns(mean_metric(tried[best]), self.tables[task]):
            return rates
        if best == rates[0] and best > neighbor(grid[0], -EXTENSIONS):
            rates.insert(0, neighbor(best, -1))
        if best == rates[-1] and best < neighbor(grid[-1], EXTENSIONS):
            rates.append(neighbor(best, 1))
        return rates

    def tried(self, results: Results, task: str, contender: Contender) -> dict[float, list[Record]]:
        """rate -> the records of its tuning runs, of those rates for which all are there."""
        found: dict[float, list[Record]] = {}
        for run in results.records:
            if (run.task, run.contender) == (task, contender) and run.rate not in found:
                records = [results.finished(r) for r in self.runs(*run[:3], tuning=True)]
                if all(r is not None for r in records):
                    found[run.rate] = [r for r in records if r is not None]
        return found

    def tuned_rate(self, results: Results, task: str, contender: Contender) -> float | None:
        """The best rate of tuning; None while there is none."""
        tried = self.tried(results, task, contender)
        if self.rates is not None:
            tried = {rate: records for rate, records in tried.items() if rate in self.rates}
        return best_rate(tried, self.tables[task]) if tried else None

    def judging(self, results: Results) -> list[Run]:
        """Runs that judging lacks, for all that is tuned."""
        return [
            run
            for task in self.tasks
            for contender in self.contenders
            for rate in self.judged_rates(results, task, contender)
            for run in self.runs(task, contender, rate, tuning=False)
            if results.finished(run) is None
        ]

    def judged_rates(self, results: Results, task: str, contender: Contender) -> list[float]:
        kind = contender.kind
        if not kind.tuned:
            return list(dict.fromkeys([kind.default, *self.grid(contender)]))
        rates = [self.tuned_rate(results, task, contender)]
        if task in LARGE_BATCH_TASKS and LARGE_BATCH_TASKS[0] in self.tasks:
            rates.append(self.tuned_rate(results, LARGE_BATCH_TASKS[0], contender))
        return list(dict.fromkeys(rate for rate in rates if rate is not None))

    def runs(self, task: str, contender: Contender, rate: float, *, tuning: bool) -> Iterator[Run]:
        first, count = (FIRST_TUNING_SEED, self.tuning_seeds) if tuning else (0, self.seeds)
        for seed in range(first, first + count):
            yield Run(task, contender, rate, seed)


def neighbor(rate: float, places: int) -> float:
    """The rate so many half decades further on: 1e-3, 3e-3, 1e-2, 3e-2 …"""
    position = round(2 * math.log10(rate)) + places
    return float(f"{3 if position % 2 else 1}e{position // 2}")


def mean_metric(records: Iterable[Record]) -> float:
    return float(np.mean([r.metric for r in records]))


def learns(metric: float, task: Task) -> bool:
    """Clearly better than guessing: half as accurate again, or a loss less by a twentieth."""
    return metric > 1.5 * task.chance if task.higher_is_better else metric < 0.95 * task.chance


def best_rate(tried: dict[float, list[Record]], task: Task) -> float:
    """The rate with the best mean metric; of equals the one with the smaller last loss, then the smaller rate."""
    sign = -1 if task.higher_is_better else 1

    def order(rate: float) -> tuple[float, float, float]:
        last = [r.losses[-1] if r.losses and not r.non_finite else None for r in tried[rate]]
        loss = math.inf if None in last else float(np.mean([x for x in last if x is not None]))
        return sign * mean_metric(tried[rate]), loss, rate

    return min(tried, key=order)
