"""What DAS is claimed to do, each claim with what was measured: holds, does not hold, or cannot be said yet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinydl.study.analysis import Judged, Study
from tinydl.study.contenders import Contender
from tinydl.study.statistics import geometric_mean
from tinydl.study.tasks import LARGE_BATCH_TASKS

WORST_GAP = -1.0  # points behind the best tuned baseline on any task
STEP_RATIO = 1.1
TIME_RATIO = 1.2
WINDOW = 4.0  # decades
FIRST_SHARE = 2 / 3
BAD_BATCH_COST = 0.5  # points
BREAKS = 2.0  # points below the accuracy at the smallest batch: there an optimizer is said to break
HARD_TASKS = ("sigmoid-6", "tanh-20", "relu-12")
BAD_BATCH_TASKS = ("outlier-batch", "nan-batch")


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds (None: it cannot be said from these runs), and the figures."""

    claim: str
    holds: bool | None
    figures: str

    @property
    def word(self) -> str:
        return {True: "holds", False: "does not hold", None: "not measured"}[self.holds]


def verdicts(study: Study) -> list[Verdict]:
    return [judge(study) for judge in JUDGES]


def close_to_best(study: Study) -> Verdict:
    claim = f"On every task at most {-WORST_GAP:g} point behind the best baseline at its tuned rate"
    gaps = known({task: study.gap(task) for task in study.tasks})
    if not gaps:
        return Verdict(claim, None, "")
    behind = {task: gap for task, gap in gaps.items() if gap < WORST_GAP}
    worst = min(gaps, key=lambda task: gaps[task])
    figures = f"worst {gaps[worst]:+.2f} ({worst}); {len(gaps) - len(behind)} of {len(gaps)} tasks"
    if behind:
        figures += "; behind on " + listed(behind, "{:+.2f}")
    return Verdict(claim, not behind, figures)


def above_on_the_mean(study: Study) -> Verdict:
    claim = "Above the best tuned baseline on the mean over tasks"
    gaps = known({task: study.gap(task) for task in study.tasks})
    if not gaps:
        return Verdict(claim, None, "")
    lead = float(np.mean(list(gaps.values())))
    figures = f"{lead:+.2f} points against the best of each task"
    # A NaN ends every baseline: that task alone must not decide.
    others = [gap for task, gap in gaps.items() if task != "nan-batch"]
    if others and len(others) < len(gaps):
        rest = float(np.mean(others))
        figures += f" ({rest:+.2f} without nan-batch, which ends every baseline)"
        lead = min(lead, rest)
    leads = {}
    for contender in study.baselines:
        each = [lead_over(study, task, contender) for task in study.tasks]
        if each and None not in each:
            leads[str(contender)] = float(np.mean([x for x in each if x is not None]))
    if leads:
        figures += "; against one baseline for all tasks: " + listed(leads, "{:+.2f}")
    return Verdict(claim, lead > 0, figures)


def lead_over(study: Study, task: str, contender: Contender) -> float | None:
    ours, other = study.ours(task), study.judged(task, contender)
    if ours is None or other is None:
        return None
    return study.points(task, ours.metric.value, other.metric.value)


def quick(study: Study) -> Verdict:
    claim = (
        f"Steps to the target loss at most {STEP_RATIO:g} of the quickest tuned baseline's, "
        "geometric mean over tasks"
    )
    ratios = known({task: study.step_ratio(task) for task in study.tasks})
    alone = [task for task, ratio in ratios.items() if ratio == 0]
    never = [task for task, ratio in ratios.items() if math.isinf(ratio)]
    both = {task: r for task, r in ratios.items() if 0 < r < math.inf}
    if not ratios:
        return Verdict(claim, None, "")
    figures = []
    if both:
        figures.append(f"{geometric_mean(list(both.values())):.2f}: {listed(both, '{:.2f}')}")
    if alone:
        figures.append(f"it alone gets there on {', '.join(alone)}")
    if never:
        figures.append(f"it does not get there on {', '.join(never)}")
    holds = not never and (not both or geometric_mean(list(both.values())) <= STEP_RATIO)
    return Verdict(claim, holds, "; ".join(figures))


def cheap(study: Study) -> Verdict:
    claim = f"Time of a step at most {TIME_RATIO:g} of that of fused Adam"
    ratios = {}
    for task in study.tasks:
        ours, adam = study.ours(task), study.judged(task, Contender("adam"))
        if ours is not None and adam is not None and adam.step_ms > 0 and ours.step_ms > 0:
            ratios[task] = ours.step_ms / adam.step_ms
    if not ratios:
        return Verdict(claim, None, "")
    mean = geometric_mean(list(ratios.values()))
    figures = f"geometric mean {mean:.2f}: {listed(ratios, '{:.2f}')}"
    return Verdict(claim, mean <= TIME_RATIO, figures)


def wide_window(study: Study) -> Verdict:
    claim = (
        f"Nominal rates within two points of its best: at least {WINDOW:g} decades on every task"
    )
    windows = known({task: study.window(task, study.subject) for task in study.tasks})
    if not windows:
        return Verdict(claim, None, "")
    holds = min(windows.values()) >= WINDOW - 1e-9
    return Verdict(claim, holds, listed(windows, "{:.1f}"))


def first_at_a_budget_of_one(study: Study) -> Verdict:
    claim = "First at a tuning budget of one run on at least two thirds of the tasks"
    first, seen = [], []
    for task in study.tasks:
        ours = study.ours(task)
        expected = [study.expected(task, c, 1) for c in study.baselines]
        others = [x for x in expected if x is not None]
        if ours is None or not others:
            continue
        seen.append(task)
        if all(study.points(task, ours.metric.value, x) >= 0 for x in others):
            first.append(task)
    if not seen:
        return Verdict(claim, None, "")
    overtaken = {t: study.overtaking_budget(t, Contender("adam")) for t in seen}
    figures = f"first on {len(first)} of {len(seen)}; tuned Adam overtakes it at a budget of " + (
        ", ".join(f"{t} {'never' if k is None else k}" for t, k in overtaken.items())
    )
    return Verdict(claim, len(first) >= FIRST_SHARE * len(seen), figures)


def trains_where_others_do_not(study: Study) -> Verdict:
    claim = (
        "sigmoid-6, tanh-20, relu-12: trains from all seeds where SGD and momentum stay at chance"
    )
    parts, holds = [], True
    for name in HARD_TASKS:
        ours = study.ours(name) if name in study.tasks else None
        others = [
            study.judged(name, Contender(c)) for c in ("sgd", "momentum") if name in study.tasks
        ]
        if ours is None or not others or None in others:
            continue
        chance = study.task(name).chance
        trained = sum(metric > 3 * chance for metric in ours.metrics)
        best = max(j.metric.value for j in others if j is not None)
        holds = holds and trained == len(ours.metrics) and best < 2 * chance
        parts.append(
            f"{name}: {trained} of {len(ours.metrics)} seeds (mean {ours.metric.value:.1f}), others at most {best:.1f}"
        )
    return Verdict(claim, holds if parts else None, "; ".join(parts))


def bears_bad_batches(study: Study) -> Verdict:
    claim = f"One NaN batch or one batch times 10,000 costs at most {BAD_BATCH_COST:g} point"
    clean = study.ours("digits") if "digits" in study.tasks else None
    costs = {}
    for name in BAD_BATCH_TASKS:
        ours = study.ours(name) if name in study.tasks else None
        if clean is not None and ours is not None:
            costs[name] = clean.metric.value - ours.metric.value
    if clean is None or not costs:
        return Verdict(claim, None, "")
    return Verdict(claim, max(costs.values()) <= BAD_BATCH_COST, listed(costs, "{:.2f}"))


def stays_finite(study: Study) -> Verdict:
    claim = "No run of it ends non-finite, at any rate"
    records = [r for run, r in study.results.records.items() if run.contender == study.subject]
    records = [r for r in records if r.error is None]
    if not records:
        return Verdict(claim, None, "")
    bad = sum(r.non_finite for r in records)
    return Verdict(claim, bad == 0, f"{bad} of {len(records)} runs")


def bears_large_batches(study: Study) -> Verdict:
    claim = "Large batches, epochs held: breaks no earlier than any baseline without retuning"
    if not set(LARGE_BATCH_TASKS) <= set(study.protocol.tasks):
        return Verdict(claim, None, "")
    ours = breaking_batch(study, study.subject, retuned=True)
    if ours is None:
        return Verdict(claim, None, "")
    without = {str(c): breaking_batch(study, c, retuned=False) for c in study.baselines}
    retuned = {str(c): breaking_batch(study, c, retuned=True) for c in study.baselines}
    known_ones = known(without)
    if not known_ones:
        return Verdict(claim, None, "")
    figures = (
        f"{BREAKS:g} points lost at batch: {study.subject} {batch(ours)}; without retuning "
        f"{', '.join(f'{c} {batch(b)}' for c, b in known_ones.items())}; with retuning "
        f"{', '.join(f'{c} {batch(b)}' for c, b in known(retuned).items())}"
    )
    return Verdict(claim, ours >= max(known_ones.values()), figures)


def large_batch(study: Study, contender: Contender, task: str, retuned: bool) -> Judged | None:
    """``retuned``: at the rate tuned for this batch size, else at the one tuned for the smallest."""
    if retuned or not contender.kind.tuned:
        return study.judged(task, contender)
    if LARGE_BATCH_TASKS[0] not in study.protocol.tasks:
        return None
    rate = study.protocol.tuned_rate(study.results, LARGE_BATCH_TASKS[0], contender)
    return None if rate is None else study.judged(task, contender, rate)


def breaking_batch(study: Study, contender: Contender, retuned: bool) -> float | None:
    """The smallest batch at which accuracy falls behind that of the first by two points; infinite if none does."""
    found = [large_batch(study, contender, task, retuned) for task in LARGE_BATCH_TASKS]
    if None in found:
        return None
    accuracies = [j.metric.value for j in found if j is not None]
    for task, accuracy in zip(LARGE_BATCH_TASKS, accuracies, strict=True):
        if accuracy < accuracies[0] - BREAKS:
            return study.task(task).batch_size
    return math.inf


def batch(size: float) -> str:
    return "none" if math.isinf(size) else f"{size:.0f}"


def known(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def listed(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in values.items())


JUDGES: tuple[Callable[[Study], Verdict], ...] = (
    close_to_best,
    above_on_the_mean,
    quick,
    cheap,
    wide_window,
    first_at_a_budget_of_one,
    trains_where_others_do_not,
    bears_bad_batches,
    stays_finite,
    bears_large_batches,
)
