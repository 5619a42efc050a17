import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.layers.contract import built, check_layer, few_examples, same_numbers
from tinydl.layers import Conv2D
from tinydl.layers.activations import NAMES

rng = np.random.default_rng(0)
PADDINGS = ["valid", "same", 1, (0, 2), ((0, 1), (2, 0))]


@st.composite
def windows(draw):
    """Window arguments, and image sizes into which the window fits."""
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.sampled_from([1, 1, 2, (1, 3)]))
    strides = draw(st.sampled_from([1, 1, 2, 5, (3, 1)]))  # 5: larger than any kernel
    rates = (dilation, dilation) if isinstance(dilation, int) else dilation
    spans = [(taps - 1) * d + 1 for taps, d in zip(kernel, rates, strict=True)]
    height, width = (draw(st.integers(span, span + 4)) for span in spans)
    arguments = {"kernel_size": kernel, "dilation_rate": dilation, "strides": strides}
    arguments["padding"] = draw(st.sampled_from(PADDINGS))
    return arguments, (height, width)


@few_examples
@given(
    windows(), st.integers(1, 3), st.sampled_from([(1, 1, 1), (3, 4, 1), (4, 6, 2), (3, 3, 3)]),
    st.sampled_from([*NAMES, None]), st.booleans(),
)  # fmt: skip
def test_contract(window, batch, sizes, activation, use_bias):
    arguments, (height, width) = window
    channels, filters, groups = sizes
    layer = Conv2D(filters, groups=groups, activation=activation, use_bias=use_bias, **arguments)
    check_layer(layer, same_numbers().normal(size=(batch, height, width, channels)))


def test_equation():
    """Written out for one output element, with strides, padding and dilation."""
    x = rng.normal(size=(2, 7, 6, 3))
    layer = Conv2D(4, (3, 2), (2, 3), ((1, 0), (2, 1)), (1, 2), bias_initializer="normal")
    layer = built(layer, x, np.float64)
    n, i, j, k = 1, 2, 1, 3
    z = layer.bias.value[k]
    for r in range(3):
        for s in range(2):
            h, w = 2 * i + r - 1, 3 * j + 2 * s - 2
            if 0 <= h < 7 and 0 <= w < 6:
                z += x[n, h, w] @ layer.weight.value[r, s, :, k]
    assert layer.forward(x)[n, i, j, k] == pytest.approx(z, rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("strides", [1, 2, 3])
def test_same_padding_keeps_ceil_of_size_over_stride(size, strides):
    layer = Conv2D(2, 3, strides, "same")
    assert layer.compute_output_shape((size, size, 4)) == (-(-size // strides),) * 2 + (2,)


def test_explicit_and_same_padding_agree():
    x = rng.normal(size=(1, 5, 5, 2))
    layers = [Conv2D(3, 3, padding=p) for p in ("same", 1, (1, 1), [[1, 1], [1, 1]])]
    first, *others = (built(layer, x, np.float64).forward(x) for layer in layers)
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0, "kernel_size": 3}, "Conv2D: filters must be a whole number >= 1, got 0"),
        ({"filters": 4, "kernel_size": 0}, "Conv2D: kernel_size must be .* >= 1, got 0"),
        ({"filters": 4, "kernel_size": (3, 3, 3)}, r"kernel_size must be .* got \(3, 3, 3\)"),
        ({"filters": 4, "kernel_size": 3, "strides": 0}, "Conv2D: strides must be"),
        ({"filters": 4, "kernel_size": 3, "padding": "sane"}, "Conv2D: padding must be 'valid'"),
        ({"filters": 4, "kernel_size": 3, "groups": 3}, "groups=3 must divide filters=4"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Conv2D(**arguments)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Conv2D(4, 3, name="stem"), (8, 8), r"'stem' expected images .* got \(8, 8\)"),
        (Conv2D(4, 3, name="stem"), (None, 8, 3), r"'stem' expected images .* got \(None, 8, 3\)"),
        (Conv2D(4, 3, name="stem"), (8, 2, 3), r"'stem', input \(8, 2, 3\): .* along its width"),
        (Conv2D(4, 3, groups=2, name="stem"), (8, 8, 3), "'stem': groups=2 must divide the 3 ch"),
    ],
)
def test_input_that_does_not_fit(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer.initialize(shape, rng)
    assert layer.parameters() == []


def test_wrong_image_at_run_time():
    layer = Conv2D(4, 3, name="stem")
    layer.initialize((8, 8, 3), rng)
    with pytest.raises(ValueError, match=r"'stem' expected .* \(N, 8, 8, 3\), got \(1, 3, 8, 8\)"):
        layer.forward(np.zeros((1, 3, 8, 8), np.float32))
