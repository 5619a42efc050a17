"""Ranks that take steps alone and meet now and then."""

from __future__ import annotations

import numpy as np
import pytest

import tinydl as tl
from tests.distributed.models import (
    compiled,
    digest,
    mlp,
    train,
    weights,
    whole_and_resumed,
)

LocalSGD = tl.distributed.LocalSGD


def always_together(name):
    rank = tl.distributed.world().rank
    model, history = train(name, LocalSGD(every=1, check_every=1), seed=rank)
    single, expected = train(name, None)
    return weights(model), weights(single), history, expected


@pytest.mark.parametrize("name", ["mlp", "recurrent", "frozen"])
def test_meeting_after_every_step_is_one_process(job, name):
    """For an update that is linear in the gradient; parts of a batch are uneven, some are empty."""
    for got, want, history, expected in job.run(always_together, name):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
        for key, values in expected.items():
            np.testing.assert_allclose(history[key], values, rtol=1e-7, err_msg=key)


def apart(every):
    """Hashes of the weights after each step, and the weights that this rank would have come to alone."""
    many = tl.distributed.world()
    hashes = []

    class Watch(tl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            hashes.append(digest(self.model))

    model, x, y = mlp(seed=many.rank)
    compiled(model)
    options = {"batch_size": 12, "verbose": 0, "shuffle": False}
    model.fit(x[:12], y[:12], epochs=1, steps_per_epoch=1, strategy=LocalSGD(every=1), **options)
    start = model.get_weights()
    model.fit(x, y, epochs=4, callbacks=[Watch()], strategy=LocalSGD(every=every), **options)
    return hashes, start


def test_ranks_are_equal_when_they_meet_and_only_then(job):
    """Two batches an epoch; all meet at its end too."""
    results = job.run(apart, 4)
    for step, hashes in enumerate(zip(*(h for h, _ in results), strict=True), start=1):
        # After an odd number of steps an epoch is under way.
        if step % 2 == 1:
            assert len(set(hashes)) == job.ranks
        elif step % 4 == 0:
            assert len(set(hashes)) == 1


def one_round(steps):
    """From one start, ``steps`` steps alone and a meeting: against the mean of what the ranks come to by hand."""
    many = tl.distributed.world()
    model, x, y = mlp()
    compiled(model)
    model.fit(
        x[:20], y[:20], batch_size=5, verbose=0, shuffle=False, strategy=LocalSGD(every=steps)
    )
    ends, counts = [], []
    for rank in range(many.size):
        one, x, y = mlp()
        compiled(one)
        part = tl.data.DataLoader(x[:20], y[:20], batch_size=5, shuffle=False, dtype="float64")
        one.fit(part.part(rank, many.size), verbose=0)
        ends.append(weights(one))
        counts.append(sum(len(xb) for xb, _ in part.part(rank, many.size).batches(0)))
    return weights(model), np.average(ends, axis=0, weights=counts)


def test_a_meeting_takes_the_mean_weighed_by_samples(job):
    """Of 5 samples a batch, ranks have 5; 2, 3; 1, 2, 2; 1, 1, 1, 2."""
    for got, want in job.run(one_round, 4):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def resumed(folder, every):
    return np.array_equal(*whole_and_resumed(folder, lambda: LocalSGD(every), every_steps=5))


def test_a_resumed_run_gives_the_same_weights(job, tmp_path):
    """Checkpoints fall between meetings, in the middle of an epoch."""
    assert job.run(resumed, str(tmp_path), 4) == [True] * job.ranks


def averaged_state():
    """Adam's moments and DAS's scalars are equal after the last meeting."""
    found = []
    for name in ("adam", "das"):
        model, _ = train("mlp", LocalSGD(3), optimizer=tl.optimizers.get(name))
        found += [slot.copy() for slot in model.optimizer.slots.values()]
        found.append(np.array(list(model.optimizer.scalars.values())))
    return np.concatenate(found)


def test_slots_and_scalars_meet_too(job):
    results = job.run(averaged_state)
    for got in results:
        np.testing.assert_array_equal(got, results[0])
        assert np.isfinite(got).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="LocalSGD: every must be a whole number >= 1, got 0"):
        LocalSGD(every=0)


def test_linear_scaling():
    peak = tl.distributed.linear_scaling(0.1, 1024, 256, warmup_steps=5)
    np.testing.assert_allclose([peak(t) for t in (0, 4, 5, 99)], [0.16, 0.4, 0.4, 0.4])
    cosine = tl.distributed.linear_scaling(
        0.1, 512, 256, warmup_steps=10, then=lambda r: tl.schedules.CosineDecay(r, 100)
    )
    np.testing.assert_allclose([cosine(9), cosine(10), cosine(110)], [0.2, 0.2, 0], atol=1e-12)
    with pytest.raises(ValueError, match="base_batch_size must be a whole number >= 1, got 0"):
        tl.distributed.linear_scaling(0.1, 8, 0, warmup_steps=1)
