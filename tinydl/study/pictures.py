"""The study's pictures, as Matplotlib figures: one panel a task."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinydl.study.analysis import Judged, Study
from tinydl.study.contenders import Contender
from tinydl.study.tasks import LARGE_BATCH_TASKS
from tinydl.study.verdicts import large_batch

COLORS = {
    "das": "tab:red",
    "sgd": "tab:gray",
    "momentum": "tab:brown",
    "nesterov": "tab:olive",
    "rmsprop": "tab:purple",
    "adam": "tab:blue",
    "adamw": "tab:cyan",
    "nadam": "tab:green",
    "prodigy": "tab:orange",
    "schedulefree": "tab:pink",
}
PANEL = (3.6, 2.7)  # inches
DEEPEST = 3  # tasks whose gradients are shown layer by layer


def all_pictures(study: Study) -> dict[str, tuple[str, Any]]:
    """file stem -> (caption, figure), of what there are runs for."""
    makers: dict[str, tuple[str, Callable[[Study], Any]]] = {
        "loss-curves": (
            "Training loss over the run, each at the rate that it is judged at; the median over seeds. "
            "Dotted: the target.",
            loss_curves,
        ),
        "sensitivity": (
            "Test result against the learning rate: how much depends on choosing it well. Filled: the judged rate.",
            sensitivity,
        ),
        "budget": (
            "Expected test result of the best of k random rates. The subject is at its default, without tuning.",
            budget,
        ),
        "rates": ("The learning rate that it chose, from each seed.", chosen_rates),
        "gradients": (
            "Size (RMS) of the gradient of each weight matrix over the run, from the input (dark) to the output.",
            gradients,
        ),
        "large-batches": (
            "Accuracy against the batch size, the epochs held. Dashed: at the rate tuned for a batch of 64.",
            large_batches,
        ),
    }
    found = {name: (caption, draw(study)) for name, (caption, draw) in makers.items()}
    return {name: picture for name, picture in found.items() if picture[1] is not None}


def color(contender: Contender) -> str:
    return COLORS.get(contender.optimizer, "black")


def panels(tasks: list[str], rows_of: int = 4) -> tuple[Any, list[Any]]:
    """A figure with one panel for each task."""
    from matplotlib.figure import Figure

    columns = min(rows_of, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, task in zip(axes, tasks, strict=False):
        axis.set_title(task, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    for axis in axes[len(tasks) :]:
        axis.set_visible(False)
    return figure, list(axes[: len(tasks)])


def legend(figure: Any, axes: list[Any]) -> None:
    """One for all panels, above them."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", ncols=10, fontsize=9
        )


def median_curve(judged: Judged, total: int) -> tuple[np.ndarray, np.ndarray]:
    """(share of the run, median loss over seeds); ``total`` steps are a whole run, of which some end early."""
    series = [r.losses for r in judged.records]
    longest = max((len(s) for s in series), default=0)
    curves = np.array([s + [None] * (longest - len(s)) for s in series], np.float64)
    known = [np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in curves.T]
    done = max(r.steps for r in judged.records) / max(total, 1)
    return done * (np.arange(longest) + 0.5) / max(longest, 1), np.array(known)


def loss_curves(study: Study) -> Any:
    tasks = [t for t in study.tasks if study.ours(t) or study.best_baseline(t)]
    if not tasks:
        return None
    figure, axes = panels(tasks)
    for axis, task in zip(axes, tasks, strict=True):
        total = max(r.steps for r in study.results.records.values() if r.task == task)
        floor, largest = study.task(task).target_loss / 30, 0.0
        for contender in [*study.baselines, study.subject]:
            judged = study.judged(task, contender)
            if judged is None:
                continue
            x, y = median_curve(judged, total)
            ours = contender == study.subject
            if ours and np.isfinite(y).any():
                largest = float(np.nanmax(y))
            axis.plot(
                x,
                np.maximum(y, floor),
                color=color(contender),
                lw=2 if ours else 1,
                label=str(contender),
                zorder=3 if ours else 2,
            )
        axis.axhline(study.task(task).target_loss, color="black", ls=":", lw=0.8)
        axis.set_yscale("log")
        # A rate at which losses grow beyond all bounds must not squeeze the others flat.
        low, high = axis.get_ylim()
        axis.set_ylim(low, min(high, max(300 * study.task(task).target_loss, 2 * largest)))
    axes[0].set_ylabel("training loss", fontsize=9)
    figure.supxlabel("share of the run", fontsize=9)
    legend(figure, axes)
    return figure


def sensitivity(study: Study) -> Any:
    who = [*study.baselines, study.subject]
    tasks = [t for t in study.tasks if any(len(study.by_rate(t, c)) > 1 for c in who)]
    if not tasks:
        return None
    figure, axes = panels(tasks)
    for axis, task in zip(axes, tasks, strict=True):
        shown: list[float] = []
        for contender in who:
            means = study.by_rate(task, contender)
            if not means:
                continue
            rates, ours = list(means), contender == study.subject
            values = [means[r].value for r in rates]
            axis.plot(
                rates,
                values,
                color=color(contender),
                lw=2 if ours else 1,
                marker=".",
                ms=3,
                label=str(contender),
                zorder=3 if ours else 2,
            )
            shown += values
            half = [means[r].half_width for r in rates]
            if ours and None not in half:
                bands = np.array(half, np.float64)
                axis.fill_between(
                    rates, values - bands, values + bands, color=color(contender), alpha=0.2, lw=0
                )
            judged = study.judged(task, contender)
            if judged is not None and judged.rate in means:
                axis.plot(judged.rate, means[judged.rate].value, "o", color=color(contender), ms=5)
        axis.set_xscale("log")
        # Without the bands, which may be wide where seeds are few.
        low, high = min(shown), max(shown)
        if not study.task(task).higher_is_better:
            axis.set_ylabel("loss, nats", fontsize=8)
            high = min(high, study.task(task).chance)
        margin = 0.06 * max(high - low, 0.01)
        axis.set_ylim(low - margin, high + margin)
        if not study.task(task).higher_is_better:
            axis.invert_yaxis()
    axes[0].set_ylabel("accuracy, %", fontsize=9)
    figure.supxlabel("learning rate", fontsize=9)
    legend(figure, axes)
    return figure


def budget(study: Study) -> Any:
    tasks = [t for t in study.tasks if any(len(study.draws(t, c)) > 1 for c in study.baselines)]
    if not tasks:
        return None
    figure, axes = panels(tasks)
    budgets = np.arange(1, 11)
    for axis, task in zip(axes, tasks, strict=True):
        for contender in [*study.baselines, study.subject]:
            expected = [study.expected(task, contender, int(k)) for k in budgets]
            if None in expected:
                continue
            ours = contender == study.subject
            axis.plot(
                budgets,
                expected,
                color=color(contender),
                lw=2 if ours else 1,
                marker=None if ours else ".",
                ms=4,
                label=str(contender),
                zorder=3 if ours else 2,
            )
        axis.set_xticks([1, 4, 7, 10])
        if not study.task(task).higher_is_better:
            axis.set_ylabel("loss, nats", fontsize=8)
            axis.invert_yaxis()
    axes[0].set_ylabel("accuracy, %", fontsize=9)
    figure.supxlabel("runs spent on tuning", fontsize=9)
    legend(figure, axes)
    return figure


def chosen_rates(study: Study) -> Any:
    found = {t: j for t in study.tasks if (j := study.ours(t)) and any(r.rates for r in j.records)}
    if not found:
        return None
    figure, axes = panels(list(found))
    for axis, judged in zip(axes, found.values(), strict=True):
        for r in judged.records:
            y = np.array([np.nan if v is None or v <= 0 else v for v in r.rates], np.float64)
            x = (np.arange(len(y)) + 0.5) / max(len(y), 1)
            axis.plot(x, y, color=color(study.subject), lw=1, alpha=0.6)
        axis.set_yscale("log")
    axes[0].set_ylabel("learning rate", fontsize=9)
    figure.supxlabel("share of the run", fontsize=9)
    return figure


def gradients(study: Study) -> Any:
    """Rows: the tasks with most layers; columns: SGD with momentum, Adam, and the subject."""
    from matplotlib.figure import Figure

    who = [c for c in (Contender("momentum"), Contender("adam"), study.subject)]
    depth = {t: len(weight_norms(study, t, study.subject)) for t in study.tasks}
    tasks = sorted((t for t in depth if depth[t]), key=lambda t: -depth[t])[:DEEPEST]
    if not tasks:
        return None
    size = (PANEL[0] * len(who), PANEL[1] * len(tasks) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(tasks), len(who), squeeze=False, sharex=True, sharey="row")
    for row, task in zip(axes, tasks, strict=True):
        for axis, contender in zip(row, who, strict=True):
            draw_layers(axis, weight_norms(study, task, contender))
            axis.set_title(f"{task}, {contender}", fontsize=10)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.25)
            axis.set_yscale("log")
    for row in axes:
        row[0].set_ylabel("RMS of the gradient", fontsize=9)
    figure.supxlabel("share of the run", fontsize=9)
    return figure


def weight_norms(study: Study, task: str, contender: Contender) -> list[list[float | None]]:
    """Of the parameters with most layers to go through: weights, in forward order; empty where none were kept."""
    judged = study.judged(task, contender)
    layers = next((r.layers for r in judged.records if r.layers), {}) if judged else {}
    return [norms for name, norms in layers.items() if name.endswith("weight")]


def draw_layers(axis: Any, norms: list[list[float | None]]) -> None:
    import matplotlib

    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, max(len(norms), 1)))
    for shade, series in zip(shades, norms, strict=False):
        y = np.array([v if v else np.nan for v in series], np.float64)  # 0 has no logarithm
        x = (np.arange(len(y)) + 0.5) / max(len(y), 1)
        axis.plot(x, y, color=shade, lw=1)


def large_batches(study: Study) -> Any:
    sizes = [task for task in LARGE_BATCH_TASKS if task in study.protocol.tasks]
    who = [*study.baselines, study.subject]
    if len(sizes) < 2:
        return None
    figure, (axis,) = panels(["accuracy by batch size"])
    figure.set_size_inches(7, 4.5)
    drawn = False
    for contender in who:
        for retuned in (True, False):
            if not retuned and not contender.kind.tuned:
                continue
            found = [large_batch(study, contender, task, retuned) for task in sizes]
            points = [
                (study.task(t).batch_size, j.metric.value)
                for t, j in zip(sizes, found, strict=True)
                if j is not None
            ]
            if not points:
                continue
            drawn = True
            axis.plot(
                *zip(*points, strict=True),
                color=color(contender),
                ls="-" if retuned else "--",
                lw=2 if contender == study.subject else 1,
                marker=".",
                label=str(contender) if retuned else None,
            )
    axis.set_xscale("log", base=4)
    axis.set_xticks([study.task(t).batch_size for t in sizes], [t.split("-")[1] for t in sizes])
    axis.set(xlabel="batch size", ylabel="accuracy, %")
    legend(figure, [axis])
    return figure if drawn else None
