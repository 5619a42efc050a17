"""The study's results as blocks, from which the Markdown, HTML and terminal forms are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tinydl.study.analysis import Judged, Study
from tinydl.study.contenders import Contender
from tinydl.study.tasks import LARGE_BATCH_TASKS
from tinydl.study.verdicts import large_batch, verdicts

BUDGETS = (1, 2, 3, 5, 7)
NOT_YET = "–"


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first column names the rows. ``strong``: (row, column) to be set in bold."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    strong: frozenset[tuple[int, int]] = frozenset()


def all_tables(study: Study) -> list[Table]:
    tables = [
        claims(study),
        metrics(study),
        untuned(study),
        targets(study),
        windows(study),
        budgets(study),
    ]
    if any(task in study.protocol.tasks for task in LARGE_BATCH_TASKS):
        tables += [large_batches(study, retuned) for retuned in (False, True)]
    tables.append(troubles(study))
    return [table for table in tables if table.rows]


def claims(study: Study) -> Table:
    rows = [(v.claim, v.word, v.figures) for v in verdicts(study)]
    return Table(f"What {study.subject} is claimed to do", ("claim", "verdict", "measured"), rows)


def everyone(study: Study) -> list[Contender]:
    return [study.subject, *study.baselines, *study.others]


def metrics(study: Study) -> Table:
    """Tasks × optimizers: the test metric."""
    who = [c for c in everyone(study) if any(study.judged(t, c) for t in study.tasks)]
    rows, strong = [], set()
    for i, task in enumerate(study.tasks):
        found = [study.judged(task, c) for c in who]
        rows.append((task, *(cell(study, task, j) for j in found)))
        values = [(j.metric.value, k) for k, j in enumerate(found, 1) if j is not None]
        if len({value for value, _ in values}) > 1:
            best = max(values) if study.task(task).higher_is_better else min(values)
            strong.add((i, best[1]))
    note = (
        f"{study.subject} at its default rate, the others at the rate tuned for the task (in brackets); means over "
        f"{study.protocol.seeds} seeds with 95 % confidence intervals. Accuracy in percent, more is better; for "
        "character models the loss in nats, less is better. ✗: runs that ended non-finite, counted as guessing."
    )
    return Table("Test results", ("task", *map(str, who)), rows, note, frozenset(strong))


def cell(study: Study, task: str, judged: Judged | None) -> str:
    if judged is None:
        return NOT_YET
    digits = 1 if study.task(task).higher_is_better else 3
    seeds = judged.metric.n
    few = f" ({seeds} of {study.protocol.seeds})" if seeds < study.protocol.seeds else ""
    trouble = f" ✗{judged.non_finite}" if judged.non_finite else ""
    return f"{judged.metric.text(digits)}{few} [{judged.rate:g}]{trouble}"


def untuned(study: Study) -> Table:
    """Tasks × optimizers: the test metric at the rate that stands in an optimizer's own arguments."""
    who = [c for c in study.baselines if any(study.by_rate(t, c) for t in study.tasks)]
    rows = []
    for task in study.tasks if who else []:
        digits = 1 if study.task(task).higher_is_better else 3
        ours = study.ours(task)
        found = [study.by_rate(task, c).get(c.kind.default) for c in who]
        cells = [NOT_YET if m is None else m.text(digits) for m in found]
        rows.append((task, NOT_YET if ours is None else ours.metric.text(digits), *cells))
    defaults = ", ".join(f"{c} {c.kind.default:g}" for c in who)
    note = f"Defaults: {defaults}; from the tuning seeds, those of {study.subject} from the judging ones."
    header = ("task", str(study.subject), *map(str, who))
    return Table("Without tuning: each at its default rate", header, rows, note)


def targets(study: Study) -> Table:
    """Tasks × optimizers: steps and seconds to the target loss."""
    who = [
        c for c in [study.subject, *study.baselines] if any(study.judged(t, c) for t in study.tasks)
    ]
    rows = []
    for task in study.tasks:
        found = [study.judged(task, c) for c in who]
        cells = [NOT_YET if j is None else reach(j) for j in found]
        rows.append((task, f"{study.task(task).target_loss:g}", *cells))
    note = (
        "Steps until the training loss is at the target, the median over seeds, and processor seconds on one thread. "
        "∞: not reached."
    )
    return Table(
        "Steps (seconds) to the target loss", ("task", "target", *map(str, who)), rows, note
    )


def reach(judged: Judged) -> str:
    if math.isinf(judged.steps):
        return "∞"
    return f"{judged.steps:.0f} ({judged.seconds:.2f} s)"


def windows(study: Study) -> Table:
    """Tasks × optimizers: decades of good rates."""
    who = [
        c
        for c in [study.subject, *study.baselines]
        if any(study.window(t, c) is not None for t in study.tasks)
    ]
    rows = []
    for task in study.tasks:
        decades = [study.window(task, c) for c in who]
        rows.append((task, *(NOT_YET if d is None else f"{d:.1f}" for d in decades)))
    note = "Decades of neighboring rates with a result within two points (for a loss: 2 %) of the optimizer's best."
    return Table("How wide the window of good rates is", ("task", *map(str, who)), rows, note)


def budgets(study: Study) -> Table:
    """Tasks × budgets: what to expect of the best of k random rates."""
    who = [c for c in study.baselines if any(study.draws(t, c) for t in study.tasks)]
    rows = []
    for task in study.tasks:
        ours = study.ours(task)
        digits = 1 if study.task(task).higher_is_better else 3
        for contender in who:
            expected = [study.expected(task, contender, k) for k in BUDGETS]
            if ours is None or None in expected:
                continue
            overtaken = study.overtaking_budget(task, contender)
            rows.append(
                (
                    task,
                    f"{ours.metric.value:.{digits}f}",
                    str(contender),
                    *(f"{x:.{digits}f}" for x in expected if x is not None),
                    "never" if overtaken is None else str(overtaken),
                )
            )
    header = ("task", str(study.subject), "baseline", *map(str, BUDGETS), "overtakes at")
    note = (
        "The metric to expect of the best of k rates drawn at random from the baseline's grid (Dodge et al. 2019, "
        f"arXiv 1909.03004), and the number of runs from which on it is better than {study.subject} at its default."
    )
    return Table("Expected result against tuning budget", header, rows, note)


def large_batches(study: Study, retuned: bool) -> Table:
    sizes = [task for task in LARGE_BATCH_TASKS if task in study.protocol.tasks]
    rows = []
    for contender in everyone(study):
        found = [large_batch(study, contender, task, retuned) for task in sizes]
        if any(j is not None for j in found):
            cells = [cell(study, t, j) for t, j in zip(sizes, found, strict=True)]
            rows.append((str(contender), *cells))
    how = "each size at its own tuned rate" if retuned else "all sizes at the rate tuned for 64"
    return Table(f"Large batches, the epochs held: {how}", ("optimizer", *sizes), rows)


def troubles(study: Study) -> Table:
    """Runs without a result."""
    failed = [r for r in study.results.records.values() if r.error is not None]
    rows = [
        (r.task, str(r.run.contender), f"{r.rate:g}", str(r.seed), r.error or "") for r in failed
    ]
    return Table("Runs that failed", ("task", "optimizer", "rate", "seed", "error"), rows)
