"""One run: what is recorded, and how a run ends that goes wrong."""

import dataclasses
import math

import numpy as np
import pytest

from tinydl.layers import BatchNorm, Dense, Flatten
from tinydl.optimizers import DAS, SGD, Adam
from tinydl.study import TASKS, Arrays, Task, run_task
from tinydl.study.runs import steps_to_target, thinned
from tinydl.study.tasks import built

DIGITS = dataclasses.replace(TASKS["digits"], epochs=3)


def test_a_run_learns_and_records_every_step():
    result = run_task(DIGITS, Adam(0.003), seed=0)
    assert result.metric > 90 and not result.non_finite
    assert len(result.losses) == len(result.rates) == 96
    assert result.losses[0] > 2 > result.losses[-1]
    assert set(result.rates) == {0.003}
    assert 0 < result.update_seconds < result.step_seconds < 1


def test_the_same_seed_gives_the_same_run():
    first, again, other = (run_task(DIGITS, Adam(0.003), seed, scale=0.2) for seed in (1, 1, 2))
    assert first.losses == again.losses and first.metric == again.metric
    assert first.losses != other.losses


def test_it_trains_as_fit_does():
    """The same losses, step for step, as ``model.fit`` on the same batches."""
    import tinydl as tl

    task = dataclasses.replace(DIGITS, epochs=1)
    data, model = task.data(), task.model(3)
    model.compile(Adam(0.003), task.loss)
    seen = []

    class Steps(tl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((logs["loss"], logs["batch_size"]))

    model.fit(
        data.x_train, data.y_train, epochs=1, batch_size=32, seed=3, verbose=0, callbacks=Steps()
    )
    losses = run_task(task, Adam(0.003), seed=3).losses
    sizes = [size for _, size in seen]
    means = np.cumsum(np.multiply(losses, sizes)) / np.cumsum(sizes)
    np.testing.assert_allclose([loss for loss, _ in seen], means, rtol=1e-12)


def test_an_optimizer_without_a_guard_ends_at_the_nan_batch_and_counts_as_guessing():
    task = dataclasses.replace(TASKS["nan-batch"], epochs=1)
    result = run_task(task, Adam(0.003), seed=0)
    assert result.non_finite and result.metric == task.chance
    assert len(result.losses) == 3 and result.steps_to_target is None


def test_das_goes_on_after_the_nan_batch():
    task = dataclasses.replace(TASKS["nan-batch"], epochs=2)
    result = run_task(task, DAS(), seed=0)
    assert not result.non_finite and len(result.losses) == 64 and result.metric > 80
    assert [step for step, loss in enumerate(result.losses) if math.isnan(loss)] == [6]


def test_batch_norm_forgets_a_batch_that_is_not_finite():
    def model(seed):
        return built([Flatten(), BatchNorm(), Dense(10)], (8, 8, 1), seed)

    task = dataclasses.replace(TASKS["nan-batch"], model=model, epochs=2)
    assert run_task(task, DAS(), seed=0).metric > 50


def test_a_rate_far_too_large_ends_non_finite():
    result = run_task(TASKS["relu-12"], SGD(1e3), seed=0)
    assert result.non_finite and result.metric == 10.0


def test_gradients_of_layers_are_kept_where_asked_for():
    result = run_task(DIGITS, DAS(), seed=0, watch_layers=True)
    assert set(result.layer_norms) == {n for n, _ in DIGITS.model(0).named_parameters()}
    assert {len(v) for v in result.layer_norms.values()} == {len(result.layer_steps)} == {96}
    assert all(len(series) == 96 for series in result.extras.values())
    assert "polyak_rate" in result.extras


def test_a_task_whose_metric_is_the_loss():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    y = x @ rng.normal(size=(4, 1)).astype(np.float32)

    def model(seed):
        return built([Dense(1)], (4,), seed)

    task = Task(
        *("line", "a line", lambda: Arrays(x, y, x, y), model),
        batch_size=16,
        epochs=100,
        target_loss=0.01,
        chance=float(np.mean(y**2)),
        metric="loss",
        loss="mse",
    )
    result = run_task(task, Adam(0.05), seed=0)
    assert result.metric < 0.01 and 10 < result.steps_to_target < 400
    assert result.seconds_to_target == result.steps_to_target * result.step_seconds


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0] * 9, None),
        ([0.0] * 10, 10),
        ([1.0] * 10 + [0.0] * 10, 16),  # five of ten: the median is the mean of 0 and 1
        ([0.0] * 4 + [1.0] * 30, None),  # a few lucky batches do not count
        ([0.0, 1e9, 0.0, 0.0] * 3, 10),  # nor do a few spoiled ones
    ],
)
def test_steps_to_target(losses, expected):
    assert steps_to_target(losses, 0.1) == expected


def test_thinned():
    assert thinned(3, 10) == [0, 1, 2]
    assert thinned(101, 11) == list(range(0, 101, 10))
