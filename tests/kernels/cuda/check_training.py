"""The kernels of a training step, in the simulator, against their definitions in NumPy."""

from __future__ import annotations

import copy
from inspect import signature

import numpy as np
import pytest

from tests.kernels.cuda.training_cases import cases
from tinydl_kernels import cuda, reference
from tinydl_kernels._table import MODULES
from tinydl_kernels.cuda import arrivals

TOLERANCE = {"float32": 2e-5, "float64": 1e-11}
CASES = [
    pytest.param(case, dtype, id=f"{case.name}-{k}-{dtype}")
    for dtype in TOLERANCE
    for k, case in enumerate(cases(np.random.default_rng(5), dtype))
]


@pytest.mark.parametrize(("case", "dtype"), CASES)
def test_kernel_equals_its_definition(case, dtype):
    expected_arguments, arguments = copy.deepcopy(case.arguments), copy.deepcopy(case.arguments)
    expected_keywords, keywords = copy.deepcopy(case.keywords), copy.deepcopy(case.keywords)
    expected = getattr(reference, case.name)(*expected_arguments, **expected_keywords)
    result = getattr(cuda, case.name)(*arguments, **keywords)
    compare(result, expected, dtype)
    # What is updated in place is an argument.
    compare(arguments, expected_arguments, dtype)
    compare(tuple(keywords.values()), tuple(expected_keywords.values()), dtype)


def compare(result, expected, dtype):
    if isinstance(expected, tuple):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            compare(one, other, dtype)
    elif isinstance(expected, np.ndarray):
        assert result.shape == expected.shape
        assert result.dtype == expected.dtype
        finite = expected[np.isfinite(expected)]
        scale = np.abs(finite).max(initial=1) if expected.dtype.kind == "f" else 1
        np.testing.assert_allclose(
            result, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale
        )
    elif isinstance(expected, float):
        np.testing.assert_allclose(result, expected, rtol=TOLERANCE[dtype])
    else:
        assert result == expected


def test_the_last_block_that_sums_columns_leaves_all_ready_for_the_next():
    x = np.random.default_rng(0).standard_normal((1100, 40))  # 3 parts of 2 groups of columns
    first = cuda.column_moments(x)
    assert not arrivals.counters(2).any()
    np.testing.assert_array_equal(cuda.column_moments(x), first)
    np.testing.assert_allclose(first, (x.mean(axis=0), x.var(axis=0)), rtol=1e-12, atol=1e-14)


def test_what_batch_normalization_changes_in_place_must_fit():
    x, vector = np.ones((4, 3)), np.ones(3)
    wide = np.ones(6)[::2]
    with pytest.raises(ValueError, match="batch_moments: running_var must lie in one piece"):
        cuda.batch_moments(x, vector, wide, 0.9, 1e-3)
    with pytest.raises(ValueError, match=r"running_mean must have shape \(3,\), got \(4,\)"):
        cuda.batch_moments(x, np.ones(4), vector, 0.9, 1e-3)
    sums = (x, x, vector, vector)
    with pytest.raises(ValueError, match="batch_norm_grad_sums: gamma_grad must lie in one piece"):
        cuda.batch_norm_grad_sums(*sums, wide)
    with pytest.raises(TypeError, match="beta_grad must be an array of float64, not float32"):
        cuda.batch_norm_grad_sums(*sums, beta_grad=np.ones(3, np.float32))


def test_labels_outside_the_classes_give_nan():
    """An error would have to wait for the device; the loop refuses a loss that is NaN."""
    logits = np.zeros((3, 4), np.float32)
    losses, grad = cuda.softmax_cross_entropy(logits, np.array([0, 4, -1]))
    assert np.isnan(losses).tolist() == [False, True, True]
    assert np.isnan(grad).all(axis=1).tolist() == [False, True, True]


def test_the_total_of_losses():
    """The last block leaves the counter ready for the next; no rows have the total 0; another type is an error."""
    logits, labels = np.random.default_rng(0).standard_normal((27, 3)), np.arange(27) % 3
    totals = [np.empty(()) for _ in range(3)]
    for total in totals:
        losses, _ = cuda.softmax_cross_entropy(logits, labels, total=total)
        assert not arrivals.counters(1).any()
    assert totals[0] == totals[1] == totals[2]
    np.testing.assert_allclose(totals[0], losses.sum(), rtol=1e-14)
    cuda.softmax_cross_entropy(logits[:0], labels[:0], total=totals[0])
    assert totals[0] == 0
    with pytest.raises(TypeError, match=r"total must be float64 of shape \(\), got float32 \(\)"):
        cuda.softmax_cross_entropy(logits, labels, total=np.empty((), np.float32))


def test_nan_goes_through():
    x = np.array([[1.0, np.nan, 3.0]], np.float32)
    for name in ("relu", "leaky_relu", "sigmoid", "silu"):
        assert np.isnan(cuda.activation(name, x)).tolist() == [[False, True, False]]
    assert np.isnan(cuda.softmax(x)).all()
    assert np.isnan(cuda.squared_norm(x))
    y, argmax = cuda.max_pool2d(x.reshape(1, 1, 3, 1), (1, 3))
    assert np.isnan(y).all()
    assert argmax.ravel().tolist() == [1]


def test_bad_arguments_name_the_culprit():
    x = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"activation: plus has shape \(3,\), but x has \(4,\)"):
        cuda.activation("relu", x, plus=x[:3])
    with pytest.raises(ValueError, match=r"adam_step: v must have shape \(4,\), got \(3,\)"):
        cuda.adam_step(x, x, x, np.zeros(3, np.float32), 0.1, 0.9, 0.99, 1e-7, 1)
    with pytest.raises(TypeError, match="sgd_step: grad is float64"):
        cuda.sgd_step(x, np.zeros(4), 0.1)
    matrix, vector = np.zeros((2, 3)), np.ones(3)
    with pytest.raises(ValueError, match="batch_norm_grad: the slope of 'gelu' does not follow"):
        cuda.batch_norm_grad(*[matrix] * 2, *[vector] * 3, activation="gelu", y=matrix)
    with pytest.raises(TypeError, match="softmax_cross_entropy: labels must be integers"):
        cuda.softmax_cross_entropy(np.zeros((2, 3), np.float32), np.zeros(2))


def test_indices_outside_the_table_add_nothing():
    """An error would have to wait for the device."""
    out = cuda.embedding_grad(np.array([2, 1, -1]), np.ones((3, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(out, [[0, 0, 0], [1, 1, 1]])


def test_kernels_take_what_their_definitions_take():
    modules = (
        "activations",
        "losses",
        "normalization",
        "pooling",
        "optimizers",
        "das",
        "embedding",
        "half",
    )
    for module in (*modules, "recurrent", "sequences"):
        for name in MODULES[module]:
            taken, defined = (signature(getattr(place, name)) for place in (cuda, reference))
            assert [(p.name, p.kind, p.default) for p in taken.parameters.values()] == [
                (p.name, p.kind, p.default) for p in defined.parameters.values()
            ], name
