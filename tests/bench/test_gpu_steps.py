"""benchmarks/gpu_steps.py, as far as it can be tried without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def gpu_steps(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    import gpu_steps

    return gpu_steps


def test_losses_are_those_of_each_step(gpu_steps):
    x, y = gpu_steps.images(24, 7)
    model, expected = gpu_steps.network(), []
    for k in range(3):
        batch = slice(8 * k, 8 * k + 8)
        expected.append(
            model.fit(x[batch], y[batch], batch_size=8, shuffle=False, verbose=0).history["loss"][0]
        )
    found = {
        dtype: gpu_steps.losses("cpu", dtype, 7, steps=3, batch=8)
        for dtype in ("float32", "float64")
    }
    np.testing.assert_allclose(found["float32"], expected, rtol=1e-12)
    np.testing.assert_allclose(found["float64"], expected, rtol=1e-4)
    assert found["float64"] != found["float32"]


def test_what_passes_for_rounding(gpu_steps):
    wide = np.linspace(2.3, 0.5, 50)
    growing = 1e-7 * 1.2 ** np.arange(50)
    narrow = [(wide * (1 + growing)).tolist(), wide.tolist()]

    def right(found):
        return gpu_steps.compare([list(found)], narrow, [wide.tolist()])["right"]

    assert right(narrow[0]) and right(wide * (1 - 5 * growing))
    for step, wrong in ((3, 1e-3), (49, 0.1), (0, np.nan)):
        found = list(narrow[0])
        found[step] += wrong
        assert not right(found)


def test_starts_differ_by_rounding(gpu_steps):
    weights = [gpu_steps.network(start=start).get_weights() for start in range(3)]
    for one, other in ((1, 0), (1, 2)):
        kernels = [(u, v) for u, v in zip(weights[one], weights[other], strict=True) if u.ndim > 1]
        assert all((u != v).any() for u, v in kernels)
        for u, v in kernels:
            np.testing.assert_allclose(u, v, rtol=1e-6)
    assert len(gpu_steps.trainings("cpu", "float32", 0, steps=1, batch=2)) == gpu_steps.STARTS
    assert len(gpu_steps.trainings("cpu", "float64", 0, steps=1, batch=2)) == 1


def test_contenders_take_turns_and_the_first_epoch_does_not_count(gpu_steps):
    turns = []

    def contender(name, seconds):
        def run():
            turns.append(name)
            return seconds[turns.count(name) - 1]

        return run

    contenders = {
        "a": contender("a", [9.0, 1.0, 2.0, 3.0]),
        "b": contender("b", [9.0, 4.0, 4.0, 4.0]),
    }
    found = gpu_steps.race(contenders)
    assert turns == ["a", "b"] * 4
    assert found == {"a": gpu_steps.EPOCH_IMAGES / 2, "b": gpu_steps.EPOCH_IMAGES / 4}


def test_without_time_two_epochs_are_enough_and_batches_are_left_out(gpu_steps, monkeypatch):
    import gpu_jobs

    now, contenders = [100.0], []
    monkeypatch.setattr(gpu_jobs, "time", SimpleNamespace(time=lambda: now[0]))

    def epoch():
        now[0] += 10
        return 10.0

    def epochs(loader, device):
        contenders.append(loader.batch_size)
        return epoch

    monkeypatch.setattr(gpu_steps, "epoch_seconds", epochs)
    monkeypatch.setattr(gpu_steps, "EPOCH_IMAGES", 16)
    monkeypatch.setattr(gpu_steps, "BATCHES", (2, 4, 8))
    allowance = gpu_jobs.Allowance(now[0] + 30)
    found = gpu_steps.speeds(None, 0, allowance)
    assert contenders == [2, 4] == [case["batch"] for case in found]
    left_out = ["batches of 2: 2 of 4 epochs", "batches of 4: 2 of 4 epochs", "batches of 8"]
    assert allowance.left_out == left_out


def test_speeds_are_measured_in_fit(gpu_steps, monkeypatch, capsys):
    monkeypatch.setattr(gpu_steps, "EPOCH_IMAGES", 16)
    monkeypatch.setattr(gpu_steps, "BATCHES", (8,))
    ((case),) = gpu_steps.speeds(None, 0, device="cpu")
    assert case["batch"] == 8
    assert case["images_per_second"]["tinydl"] > 0
    assert "images/s: tinydl" in capsys.readouterr().out
