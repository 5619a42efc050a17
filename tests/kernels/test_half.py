"""bfloat16: all 2^16 patterns, all roundings at their edges, random bits."""

import numpy as np
import pytest

import tinydl_kernels as kernels
from tinydl_kernels import reference

PATTERNS = np.arange(1 << 16, dtype=np.uint16)


def unpacked(bits, module=kernels):
    return module.unpack_bfloat16(bits, np.empty(bits.size, np.float32))


def packed(x, module=kernels):
    return module.pack_bfloat16(x, np.empty(x.size, np.uint16))


@pytest.mark.parametrize("module", [kernels, reference])
def test_every_bfloat16_there_and_back(module):
    x = unpacked(PATTERNS, module)
    np.testing.assert_array_equal(x.view(np.uint32), PATTERNS.astype(np.uint32) << 16)
    is_nan = np.isnan(x)
    back = packed(x, module)
    np.testing.assert_array_equal(back[~is_nan], PATTERNS[~is_nan])
    assert np.isnan(unpacked(back, module)[is_nan]).all()


def test_rounds_to_the_nearest_with_ties_to_even():
    """Between two neighbours: at, just below and just above the middle; from subnormal to overflow, both signs."""
    finite = PATTERNS[np.isfinite(unpacked(PATTERNS))].astype(np.uint32)
    for offset in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = ((finite << 16) + offset).astype(np.uint32).view(np.float32)
        want = finite + (finite & 1 if offset == 0x8000 else offset > 0x8000)
        np.testing.assert_array_equal(packed(x), want.astype(np.uint16))


def test_equals_the_reference_on_random_bits():
    x = np.random.default_rng(0).integers(0, 1 << 32, 100_003, np.uint32).view(np.float32)
    x[:4] = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    got, want = packed(x), packed(x, reference)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.isnan(unpacked(got)), np.isnan(x))


@pytest.mark.parametrize("module", [kernels, reference])
def test_accumulates(module):
    bits = packed(np.arange(5, dtype=np.float32))
    out = np.full(5, 0.5, np.float32)
    assert module.unpack_bfloat16(bits, out, accumulate=True) is out
    np.testing.assert_array_equal(out, np.arange(5) + 0.5)


def test_relative_error_is_at_most_2_to_the_minus_8():
    x = np.random.default_rng(1).standard_normal(10_000).astype(np.float32)
    assert np.max(np.abs(unpacked(packed(x)) / x - 1)) <= 2.0**-8


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (np.zeros(3), np.zeros(3, np.uint16)),
            TypeError,
            "x must be an array of float32, not float64",
        ),
        ((np.zeros(3, "f"), np.zeros(3, "f")), TypeError, "out must be an array of uint16"),
        ((np.zeros(3, "f"), np.zeros(4, np.uint16)), ValueError, "x has 3 elements, out has 4"),
        ((np.zeros(6, "f")[::2], np.zeros(3, np.uint16)), ValueError, "x must be contiguous"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"pack_bfloat16: {message}"):
        kernels.pack_bfloat16(*arguments)
