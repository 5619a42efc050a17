"""One run: a task trained by an optimizer from a seed, with everything about it that the study looks at."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tinydl.data import DataLoader
from tinydl.optimizers import Optimizer, StepInfo
from tinydl.study.tasks import Task
from tinydl.training.model import BaseModel
from tinydl.training.statistics import batch_norms, renew_statistics
from tinydl.training.steps import as_inputs, backward, compute_loss, forward, regularization

WINDOW = 10  # steps over whose median loss the target is looked for: one lucky or spoiled batch does not count
CURVE_POINTS = 100  # at which gradients are looked at layer by layer


@dataclass
class RunResult:
    """What came out of a run.

    Attributes:
        metric: on the test samples: accuracy in percent, or loss. That of guessing where the run ended non-finite.
        losses: of each step's batch, before the step.
        rates: learning rate that each step used.
        step_seconds: processor time of a step, the median; update_seconds: of the optimizer's part in it.
        non_finite: loss, gradients or weights became NaN or infinite, and training ended there.
        steps_to_target: steps until the target loss was reached, the median of the last ten; None if it was not.
        extras: name -> one number a step, what the optimizer reported besides.
        layer_norms: parameter -> RMS of its gradient, at ``layer_steps``; kept only where asked for.
    """

    metric: float = math.nan
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    step_seconds: float = math.nan
    update_seconds: float = math.nan
    non_finite: bool = False
    steps_to_target: int | None = None
    extras: dict[str, list[float]] = field(default_factory=dict)
    layer_steps: list[int] = field(default_factory=list)
    layer_norms: dict[str, list[float]] = field(default_factory=dict)

    @property
    def seconds_to_target(self) -> float | None:
        """At the median step's pace, so that compiling in the first step does not count."""
        if self.steps_to_target is None:
            return None
        return self.steps_to_target * self.step_seconds


def run_task(
    task: Task, optimizer: Optimizer, seed: int, scale: float = 1.0, watch_layers: bool = False
) -> RunResult:
    """Train ``task`` with ``optimizer`` (a fresh one) from ``seed``, for ``scale`` times its steps, and test it.

    A loss, gradient or weight that is not finite ends the run, unless the optimizer guards against it (``guards``):
    then training goes on, and BatchNorm's running means forget the batch.
    """
    steps = task.steps(scale)
    model = task.model(seed)
    model.compile(optimizer, task.loss, ["accuracy"] if task.metric == "accuracy" else [])
    model.set_needs_input_grad(False)
    optimizer.build(model.store)
    result = RunResult()
    # One thread: NumPy's idle ones would take the processor from other runs.
    with threadpool_limits(limits=1, user_api="blas"), np.errstate(all="ignore"):
        try:
            train(task, model, steps, seed, result, watch_layers)
            measured = evaluate(task, model, seed)
        except FloatingPointError:
            measured = math.nan
    result.non_finite = not math.isfinite(measured)
    result.metric = task.chance if result.non_finite else measured
    result.steps_to_target = steps_to_target(result.losses, task.target_loss)
    return result


def train(
    task: Task, model: BaseModel, steps: int, seed: int, result: RunResult, watch_layers: bool
) -> None:
    whole, updates = [], []
    watched = set(thinned(steps, CURVE_POINTS)) if watch_layers else set()
    for step, (epoch, x, y) in enumerate(islice(batches(task, seed), steps)):
        model.optimizer.epoch = epoch + 1
        if task.disturb is not None:
            x = task.disturb(step, steps, x)
        begin = time.process_time()
        loss = gradients(model, x, y)
        computed = time.process_time()
        result.losses.append(loss)
        if step in watched:
            watch(model, step, result)
        update = time.process_time()
        info = model.optimizer.step(loss)
        end = time.process_time()
        updates.append(end - update)
        whole.append(computed - begin + end - update)
        note(info, result)
    result.step_seconds = float(np.median(whole))
    result.update_seconds = float(np.median(updates))


def batches(task: Task, seed: int) -> Iterator[tuple[int, NDArray, NDArray]]:
    """(epoch, x, y), batch after batch without end; each epoch has an order of its own, which the seed decides."""
    data = task.data()
    loader = DataLoader(
        data.x_train, data.y_train, batch_size=task.batch_size, seed=seed, prefetch=0, check=False
    )
    for epoch in count():
        yield from ((epoch, x, y) for x, y in loader.batches(epoch))


def gradients(model: BaseModel, x: NDArray, y: NDArray) -> float:
    """The batch's loss; its gradients stand in the model's flat buffer afterwards."""
    before = model.snapshot()
    model.store.zero_grad()
    predictions, mask = forward(model, as_inputs(model, x), training=True)
    loss = compute_loss(model, predictions, y, None, mask) + regularization(model)
    if not math.isfinite(loss):
        if not model.optimizer.guards:
            raise FloatingPointError(f"the loss became {loss}")
        model.restore(before)
        return loss
    for p, r in model.regularized:
        p.grad += r.gradient(p.value)
    backward(model, model.loss.count)
    return loss


def watch(model: BaseModel, step: int, result: RunResult) -> None:
    result.layer_steps.append(step)
    for name, p in model.named_parameters():
        rms = float(np.sqrt(np.mean(np.square(p.grad, dtype=np.float64))))
        result.layer_norms.setdefault(name, []).append(rms)


def note(info: StepInfo, result: RunResult) -> None:
    result.rates.append(info.learning_rate)
    for name, value in info.extras.items():
        # A step without this number (one that a guard refused) leaves a gap.
        series = result.extras.setdefault(name, [])
        series += [math.nan] * (len(result.rates) - 1 - len(series))
        series.append(float(value))


def evaluate(task: Task, model: BaseModel, seed: int) -> float:
    """The task's metric on the test samples; NaN where the model's outputs are not finite."""
    data = task.data()
    # An optimizer that trains other weights than it recommends (schedule-free ones) changes over meanwhile.
    evaluating = getattr(model.optimizer, "evaluating", None)
    with contextlib.nullcontext() if evaluating is None else evaluating():
        if model.optimizer.renews_statistics and batch_norms(model):
            renew_statistics(model, (x for _, x, _ in batches(task, seed)))
        measured = model.evaluate(data.x_test, data.y_test, batch_size=256)
    if not math.isfinite(measured["loss"]):
        return math.nan
    return 100 * measured["accuracy"] if task.metric == "accuracy" else measured["loss"]


def steps_to_target(losses: list[float], target: float) -> int | None:
    """The first step count n ≥ 10 with median(losses of the steps n-10 … n-1) ≤ target."""
    if len(losses) < WINDOW:
        return None
    medians = np.median(np.lib.stride_tricks.sliding_window_view(losses, WINDOW), axis=1)
    reached = np.flatnonzero(medians <= target)
    return int(reached[0]) + WINDOW if reached.size else None


def thinned(length: int, points: int) -> list[int]:
    """At most ``points`` of the positions 0 … length - 1, evenly spread, the first and the last among them."""
    if length <= points:
        return list(range(length))
    return [round(i * (length - 1) / (points - 1)) for i in range(points)]
