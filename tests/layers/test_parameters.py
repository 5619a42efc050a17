import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.contract import few_examples, same_numbers
from tinydl.parameters import ALIGNMENT, Parameter, ParameterStore, aligned_zeros

shapes = st.lists(st.lists(st.integers(1, 9), max_size=3).map(tuple), min_size=1, max_size=6)
dtypes = st.sampled_from([np.float32, np.float64])


def make(shapes, dtype=np.float32):
    rng = same_numbers()
    return [Parameter(f"p{i}", rng.normal(size=s).astype(dtype)) for i, s in enumerate(shapes)]


@few_examples
@given(shapes, dtypes)
def test_values_survive_and_live_in_the_flat_buffers(shapes, dtype):
    parameters = make(shapes, dtype)
    values = [p.value.copy() for p in parameters]
    store = ParameterStore(parameters)
    assert list(store) == parameters
    for parameter, value in zip(parameters, values, strict=True):
        np.testing.assert_array_equal(parameter.value, value)
        assert np.shares_memory(parameter.value, store.values)
        assert np.shares_memory(parameter.grad, store.grads)
        assert parameter.value.dtype == parameter.grad.dtype == dtype
    assert store.size == sum(v.size for v in values)


@few_examples
@given(shapes, dtypes)
def test_segments_are_aligned_in_reverse_order_and_disjoint(shapes, dtype):
    parameters = make(shapes, dtype)
    store = ParameterStore(parameters)
    assert [s.parameter for s in store.segments] == parameters[::-1]
    end = 0
    for segment in store.segments:
        assert segment.start >= end
        assert segment.start * store.dtype.itemsize % ALIGNMENT == 0
        end = segment.stop
        for buffer, view in (
            (store.values, segment.parameter.value),
            (store.grads, segment.parameter.grad),
        ):
            assert view.ctypes.data % ALIGNMENT == 0
            assert view.ctypes.data == buffer[segment.start :].ctypes.data


@few_examples
@given(shapes)
def test_gaps_hold_zeros(shapes):
    store = ParameterStore(make(shapes))
    gaps = np.ones(len(store.values), bool)
    for segment in store.segments:
        gaps[segment.start : segment.stop] = False
    assert not store.values[gaps].any()


def test_gradients_seen_from_both_sides():
    weight, bias = parameters = make([(3, 4), (4,)])
    store = ParameterStore(parameters)
    weight.grad += 2
    bias.grad += 3
    assert store.grads.sum() == 2 * 12 + 3 * 4
    store.zero_grad()
    assert not weight.grad.any() and not bias.grad.any()


def test_no_parameters():
    store = ParameterStore([])
    assert (len(store), store.size, store.values.size) == (0, 0, 0)


def test_one_dtype():
    with pytest.raises(TypeError, match=r"share one dtype, got \['float32', 'float64'\]"):
        ParameterStore([*make([(2,)], np.float32), *make([(2,)], np.float64)])


@few_examples
@given(st.integers(0, 100), dtypes)
def test_aligned_zeros(size, dtype):
    array = aligned_zeros(size, np.dtype(dtype))
    assert array.shape == (size,) and array.dtype == dtype and not array.any()
    assert size == 0 or array.ctypes.data % ALIGNMENT == 0
