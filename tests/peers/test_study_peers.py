"""PyTorch's optimizers behind tinydl's interface: they see our weights and gradients, and nothing else changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("prodigyopt")
pytest.importorskip("schedulefree")

from tinydl.layers import BatchNorm, Dense, Flatten  # noqa: E402
from tinydl.optimizers import Adam  # noqa: E402
from tinydl.study import TASKS, run_task  # noqa: E402
from tinydl.study.contenders import PEERS, Contender  # noqa: E402
from tinydl.study.peers import TorchOptimizer  # noqa: E402
from tinydl.study.tasks import built  # noqa: E402

TASK = dataclasses.replace(TASKS["digits"], epochs=3)


def test_torchs_adam_trains_as_ours_does():
    def make(tensors):
        return torch.optim.Adam(tensors, eps=1e-7)

    theirs = run_task(TASK, TorchOptimizer(0.003, make, "torch"), seed=0)
    ours = run_task(TASK, Adam(0.003), seed=0)
    np.testing.assert_allclose(theirs.losses[:40], ours.losses[:40], rtol=1e-3)
    assert abs(theirs.metric - ours.metric) < 1


@pytest.mark.parametrize("name", PEERS)
def test_peers_learn(name):
    contender = Contender(name)
    rate = 0.01 if name == "schedulefree" else 1.0
    result = run_task(TASK, contender.make(rate, TASK.steps()), seed=0)
    assert result.metric > 90 and set(result.rates) == {rate}


def test_schedule_free_is_tested_at_its_average_and_trains_on_where_it_was():
    optimizer = Contender("schedulefree").make(0.01, 96)
    model = TASK.model(0)
    optimizer.build(model.store)
    for _ in range(20):
        model.store.grads[...] = 0.01
        optimizer.step(1.0)
    before = model.store.values.copy()
    with optimizer.evaluating():
        assert not np.allclose(model.store.values, before)
    np.testing.assert_allclose(model.store.values, before, atol=1e-6)


def test_batch_norm_learns_the_averages_statistics():
    def model(seed):
        body = [Dense(32, "relu"), BatchNorm(), Dense(10)]
        return built([Flatten(), *body], (8, 8, 1), seed)

    task = dataclasses.replace(TASK, model=model)
    assert run_task(task, Contender("schedulefree").make(0.01, task.steps()), seed=0).metric > 90


def test_a_cosine_rate_reaches_the_peer():
    result = run_task(TASK, Contender("prodigy", "cosine").make(1.0, TASK.steps()), seed=0)
    assert result.rates[0] == 1 and result.rates[-1] < 0.01


def test_a_gradient_that_is_no_number_ends_the_run():
    task = dataclasses.replace(TASKS["nan-batch"], epochs=1)
    assert run_task(task, Contender("prodigy").make(1.0, 32), seed=0).non_finite
