"""Which slices go out, and when: properties that hold for any model."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tinydl as tl
from tinydl.distributed.buckets import Buckets, cut, stretches
from tinydl.layers.base import Layer
from tinydl.parameters import Parameter, ParameterStore

few = settings(max_examples=40, deadline=None)
sizes = st.lists(st.integers(1, 70), min_size=1, max_size=8)


def a_store(lengths, trainable=None):
    store = ParameterStore(Parameter(f"p{k}", np.ones(n)) for k, n in enumerate(lengths))
    for parameter, flag in zip(store, trainable or [], strict=False):
        parameter.trainable = flag
    return store


@few
@given(lengths=sizes, flags=st.lists(st.booleans(), min_size=8, max_size=8), data=st.data())
def test_buckets_cover_what_is_trained_and_nothing_else(lengths, flags, data):
    store = a_store(lengths, flags)
    bucket = data.draw(st.integers(1, 2000), label="bucket_bytes")
    first = data.draw(st.integers(1, 2000), label="first_bytes")
    slices = cut(stretches(store), 8, bucket, first)
    covered = np.zeros(store.grads.size, int)
    for part in slices:
        covered[part] += 1
    assert covered.max(initial=0) <= 1
    for s in store.segments:
        assert (covered[s.start : s.stop] == s.parameter.trainable).all()
    assert all(a.stop <= b.start for a, b in pairwise(slices))
    assert all(s.start % 8 == 0 for s in slices)  # 64 bytes
    assert all((s.stop - s.start) * 8 <= max(bucket, 64) for s in slices)
    if slices:
        for end in (slices[0], slices[-1]):
            assert (end.stop - end.start) * 8 <= max(min(first, bucket), 64)


@few
@given(lengths=sizes, data=st.data())
def test_a_bucket_goes_out_when_all_layers_that_write_into_it_are_done(lengths, data):
    """Layers, each with some of the parameters, some of them shared, finish in any order."""
    store = a_store(lengths)
    parameters = list(store)
    users = data.draw(
        st.lists(st.sets(st.sampled_from(range(len(lengths)))), min_size=1, max_size=6),
        label="parameters of each layer",
    )
    layers = []
    for mine in users:
        layer = Layer()
        layer.own_parameters = [parameters[k] for k in mine]
        layers.append(layer)
    slices = cut(stretches(store), 8, data.draw(st.integers(8, 600)), 64)
    buckets = Buckets(store, layers, slices)

    for _ in range(2):  # two steps
        buckets.restart()
        went_out, waiting = [], list(data.draw(st.permutations(layers)))
        while waiting:
            layer = waiting.pop()
            went_out += buckets.finished(layer)
            unfinished = {id(p) for other in waiting for p in other.own_parameters}
            final_up_to = next(
                (s.start for s in store.segments if id(s.parameter) in unfinished),
                store.grads.size,
            )
            assert [s for s in slices[:-1] if s.stop <= final_up_to] == went_out
        assert went_out + buckets.rest() == slices
        assert buckets.rest() == []


def test_layers_in_containers_are_done_once():
    """A container tells of each of its layers, and its own container tells of it: all is out before the end."""
    block = tl.layers.Residual([tl.layers.Dense(4), tl.layers.Chain([tl.layers.Dense(4)])])
    model = tl.Sequential([tl.layers.Dense(4), block, tl.layers.Dense(3)], dtype="float64")
    model.build_model((4,))
    layers = list(model.layers_in_order())
    buckets = Buckets(model.store, layers, cut(stretches(model.store), 8, 64, 64))
    went_out = []

    def note(layer):
        went_out.append(buckets.finished(layer))

    for layer in layers:
        layer.after_backward = note
    model.backward(np.ones_like(model.forward(np.ones((2, 4)), training=True)))
    assert [s for out in went_out for s in out] == buckets.slices[:-1]
    assert len([out for out in went_out if out]) == 4  # one word for each Dense
    assert buckets.rest() == buckets.slices[-1:]


def test_nothing_to_train_is_nothing_to_send():
    store = a_store([5, 6], [False, False])
    buckets = Buckets(store, [], cut(stretches(store), 8, 100, 100))
    assert buckets.slices == buckets.rest() == []
