"""Slots shared out among the ranks: the same training, 1/N of the memory, whole checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

import tinydl as tl
from tests.distributed.models import (
    BATCH,
    compiled,
    mlp,
    train,
    weights,
    whole_and_resumed,
)
from tinydl.distributed.buckets import cut
from tinydl.distributed.sharding import Shard
from tinydl.parameters import Parameter, ParameterStore

O = tl.optimizers  # noqa: E741
OPTIMIZERS = {
    "momentum": lambda: O.SGD(0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda: O.AdamW(0.01, weight_decay=0.1),
    "global norm": lambda: O.Adam(0.01, global_clipnorm=0.1),
    "norm of each": lambda: O.NAdam(0.01, clipnorm=0.05),
    "value": lambda: O.RMSProp(0.01, clipvalue=0.01, centered=True),
}


WAYS = ["thread", "none"]  # with copies that travel; in memory that all ranks see


def sharded(**options):
    small = {"bucket_bytes": 512, "first_bucket_bytes": 64, "check_every": 1, "overlap": "thread"}
    return tl.distributed.DataParallel(shard_optimizer=True, **{**small, **options})


def sharded_and_alone(model, optimizer, overlap):
    rank = tl.distributed.world().rank
    sizes = []

    class Measure(tl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            optimizer = self.model.optimizer
            sizes.append(sum(slot.size for slot in optimizer.slots.values()))
            in_place = np.may_share_memory(optimizer.store.values, self.model.store.values)
            assert tl.distributed.world().size == 1 or in_place == (overlap == "none")

    strategy = sharded(overlap=overlap)
    many, history = train(
        model, strategy, seed=rank, optimizer=OPTIMIZERS[optimizer](), callbacks=[Measure()]
    )
    assert not tl.distributed.world().side.shares(many.store.values)
    single, expected = train(model, None, optimizer=OPTIMIZERS[optimizer]())
    slots = [one.optimizer.state_dict()["slots"] for one in (many, single)]
    return weights(many), weights(single), history, expected, sizes, slots


@pytest.mark.parametrize("overlap", WAYS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_sharded_slots_change_nothing_but_the_memory(job, optimizer, overlap):
    results = job.run(sharded_and_alone, "mlp", optimizer, overlap)
    whole = sum(slot.size for slot in results[0][5][1].values())
    for got, want, history, expected, sizes, (slots, single_slots) in results:
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-7)
        for name, slot in single_slots.items():  # afterwards every rank has all of them again
            np.testing.assert_allclose(slots[name], slot, rtol=1e-7, atol=1e-9)
        number, buckets = len(slots), 20
        assert all(abs(size - whole / job.ranks) <= number * buckets for size in sizes)
    assert sum(sizes[0] for *_, sizes, _ in results) == whole


@pytest.mark.parametrize("overlap", WAYS)
def test_frozen_layers(job, overlap):
    for got, want, *_ in job.run(sharded_and_alone, "frozen", "global norm", overlap):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)


def stopped_and_resumed(folder, overlap):
    """The optimizer is sharded before and after; the checkpoints are whole."""
    return whole_and_resumed(folder, lambda: sharded(overlap=overlap), every_steps=4, keep=None)


@pytest.mark.parametrize("overlap", WAYS)
def test_checkpoints_hold_everything(job, tmp_path, overlap):
    """A run that is resumed gives the same bits; so it does, but for rounding, in one process without shards."""
    for whole, resumed in job.run(stopped_and_resumed, str(tmp_path), overlap):
        np.testing.assert_array_equal(whole, resumed)
    for later in sorted((tmp_path / "whole").glob("*"))[1:]:
        later.unlink()
    model, x, y = mlp()
    compiled(model, O.Adam(0.01)).fit(
        x,
        y,
        epochs=4,
        batch_size=BATCH,
        verbose=0,
        callbacks=[tl.callbacks.Checkpoint(tmp_path / "whole")],
        resume=True,
    )
    np.testing.assert_allclose(weights(model), whole, rtol=1e-8, atol=1e-8)


def fit_again():
    """A second training, with and without shards, goes on with the slots of the first."""
    results = []
    for strategy in (sharded, tl.distributed.DataParallel):
        model, x, y = mlp()
        compiled(model, O.Adam(0.01))
        model.fit(x, y, batch_size=BATCH, verbose=0, strategy=strategy())
        model.fit(x, y, batch_size=BATCH, verbose=0, strategy=tl.distributed.DataParallel())
        results.append(weights(model))
        assert model.optimizer.iterations == 6
    return results


def test_after_training_the_optimizer_is_whole_again(job):
    for got, want in job.run(fit_again):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)


def a_bad_gradient(rank_of_it):
    """On one rank the gradient of one parameter becomes infinite."""
    model, x, y = mlp()

    class Spoil(tl.layers.Layer):
        def forward(self, x, training=False):
            return x

        def backward(self, grad):
            if tl.distributed.world().rank == rank_of_it:
                model.sublayers[2].own_parameters[0].grad[3, 2] = np.inf
            return grad

    model.sublayers.append(Spoil())
    try:
        compiled(model).fit(x, y, batch_size=BATCH, verbose=0, strategy=sharded())
    except FloatingPointError as error:
        return str(error), bool(np.isfinite(weights(model)).all())


def test_a_gradient_that_is_not_finite_is_the_same_error_on_all_ranks(job):
    for message, finite in job.run(a_bad_gradient, job.ranks - 1):
        assert "the gradient of 'dense_2.weight' is " in message
        assert finite


def an_optimizer_that_needs_whole_layers():
    model, x, y = mlp()
    try:
        compiled(model, "das").fit(x, y, batch_size=BATCH, verbose=0, strategy=sharded())
    except ValueError as error:
        return str(error)


def test_an_optimizer_that_needs_whole_layers_is_refused(job):
    for error in job.run(an_optimizer_that_needs_whole_layers):
        assert (error is None) == (job.ranks == 1)
        assert job.ranks == 1 or "DAS looks at whole layers" in error


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shards_are_a_partition_in_which_parameters_keep_together(size):
    shapes = [(3, 5), (1,), (40,), (17, 2), (5,)]
    store = ParameterStore(
        Parameter(str(k), np.random.default_rng(k).random(shape)) for k, shape in enumerate(shapes)
    )
    buckets = cut([slice(0, store.values.size)], 8, 192, 64)
    shards = [Shard(store, buckets, rank, size) for rank in range(size)]
    whole = np.zeros(store.values.size)
    for shard in shards:
        shard.take(store.values, shard.values)
        for source, place in zip(shard.sources, shard.places, strict=True):
            whole[source] += shard.values[place]
    np.testing.assert_array_equal(whole, store.values)
    for k, segment in enumerate(store.segments):
        parts = [s.values[s.segments[k].start : s.segments[k].stop] for s in shards]
        together = np.sort(np.concatenate(parts))
        np.testing.assert_array_equal(together, np.sort(segment.parameter.value.ravel()))
        assert all(s.segments[k].parameter is segment.parameter for s in shards)
