"""The arithmetic of sliding windows: padding rules, output sizes, and the checks of convolution
and pooling arguments. Plain Python, shared by every implementation; nothing here touches data.

Sizes along one axis (Dumoulin & Visin, "A guide to convolution arithmetic for deep learning",
2016): a window of `r` taps, `d` apart, covers `e = (r - 1) d + 1` elements, and with stride `s`
and padding `p` before and after it fits

    o = floor((h + p_before + p_after - e) / s) + 1

times. "same" is TensorFlow's and Keras' rule: o = ceil(h / s), and an odd element of padding goes
AFTER the data.
"""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import Any, NamedTuple

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


class ConvGeometry(NamedTuple):
    """Everything a convolution kernel needs to know about its loops."""

    batch: int
    height: int
    width: int
    channels: int
    filters: int
    kernel: Pair  # (R, S)
    strides: Pair
    dilation: Pair
    padding: Padding  # ((top, bottom), (left, right))
    groups: int
    out_height: int
    out_width: int

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.height, self.width, self.channels

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        return *self.kernel, self.channels // self.groups, self.filters

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.out_height, self.out_width, self.filters


class PoolGeometry(NamedTuple):
    """Everything a pooling kernel needs to know about its loops."""

    batch: int
    height: int
    width: int
    channels: int
    size: Pair
    strides: Pair
    padding: Padding
    out_height: int
    out_width: int

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.height, self.width, self.channels

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.out_height, self.out_width, self.channels


def as_pair(name: str, value: Any, minimum: int = 1) -> Pair:
    """`value` as (along height, along width): an int counts for both.

    Raises:
        ValueError: not an int or a pair of ints, or below `minimum`.
    """
    try:
        pair = _both(value)
    except (TypeError, ValueError):
        pair = (-1, -1)
    if min(pair) < minimum:
        raise ValueError(f"{name} must be an int or a pair of ints >= {minimum}, got {value!r}")
    return pair


def _both(value: Any) -> Pair:
    try:
        return (operator.index(value),) * 2
    except TypeError:
        first, second = map(operator.index, value)
        return first, second


def span(taps: int, dilation: int) -> int:
    """Elements that `taps` taps, `dilation` apart, cover."""
    return (taps - 1) * dilation + 1


def resolve_padding(
    padding: Any,
    input_size: Pair,
    kernel_size: Pair,
    strides: Any = 1,
    dilation: Any = 1,
) -> Padding:
    """Padding as ((top, bottom), (left, right)).

    Args:
        padding: "valid" (none), "same" (output = ceil(input / stride), the odd element goes
            after), an int (on all four sides), a pair (height, width) or a pair of pairs.
        input_size: (H, W) of the input.
        kernel_size: (R, S) of the window.

    Raises:
        ValueError: an unknown name, a negative or malformed amount.
    """
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding == "same":
            strides, dilation = as_pair("strides", strides), as_pair("dilation", dilation)
            return tuple(map(_same_padding, input_size, kernel_size, strides, dilation))
    else:
        try:
            vertical, horizontal = padding if hasattr(padding, "__len__") else _both(padding)
            pads = _both(vertical), _both(horizontal)
            if min(map(min, pads)) >= 0:
                return pads
        except (TypeError, ValueError):
            pass
    raise ValueError(
        "padding must be 'valid', 'same', an int >= 0, a pair (height, width) or "
        f"((top, bottom), (left, right)), got {padding!r}"
    )


def _same_padding(size: int, taps: int, stride: int, dilation: int) -> Pair:
    outputs = -(-size // stride)
    total = max(0, (outputs - 1) * stride + span(taps, dilation) - size)
    return total // 2, total - total // 2


def output_size(size: int, taps: int, stride: int, dilation: int, padding: Pair) -> int:
    """How many windows fit along one axis; zero or less when not even one does."""
    return (size + sum(padding) - span(taps, dilation)) // stride + 1


def conv2d_output_shape(
    input_shape: tuple[int, ...],
    kernel_shape: tuple[int, int, int, int],
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
) -> tuple[int, ...]:
    """Shape of `conv2d`'s output.

    Args:
        input_shape: (N, H, W, C), or (H, W, C) for one without its batch.
        kernel_shape: (R, S, C // groups, K).

    Returns:
        (N, OH, OW, K), or (OH, OW, K).

    Raises:
        ValueError: the kernel does not fit into the padded input.
    """
    *batch, height, width, channels = input_shape
    groups = max(1, channels // max(1, kernel_shape[2]))
    geometry = conv_geometry(
        (1, height, width, channels), kernel_shape, strides, padding, dilation, groups
    )
    return (*batch, geometry.out_height, geometry.out_width, geometry.filters)


def conv_geometry(
    input_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    strides: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> ConvGeometry:
    """Check a convolution's arguments against one another and work out its sizes.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    # Training calls with the same few geometries over and over: the checks run once for each.
    try:
        return _conv_geometry(input_shape, kernel_shape, strides, padding, dilation, groups)
    except TypeError:  # lists cannot be looked up
        return _conv_geometry(
            tuple(input_shape),
            tuple(kernel_shape),
            _hashable(strides),
            _hashable(padding),
            _hashable(dilation),
            groups,
        )


def _hashable(value: Any) -> Any:
    is_sequence = hasattr(value, "__len__") and not isinstance(value, str)
    return tuple(map(_hashable, value)) if is_sequence else value


@lru_cache(maxsize=1024)
def _conv_geometry(input_shape, kernel_shape, strides, padding, dilation, groups):
    if len(input_shape) != 4:
        raise ValueError(f"x must have shape (N, H, W, C), got {input_shape}")
    if len(kernel_shape) != 4:
        raise ValueError(f"w must have shape (R, S, C // groups, K), got {kernel_shape}")
    batch, height, width, channels = input_shape
    rows, columns, group_channels, filters = kernel_shape
    if rows < 1 or columns < 1:
        raise ValueError(f"w must have at least one tap along R and S, got shape {kernel_shape}")
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups must be an int >= 1, got {groups!r}")
    if channels % groups:
        raise ValueError(f"groups must divide the {channels} channels of x, got {groups}")
    if filters % groups:
        raise ValueError(f"groups must divide the {filters} filters of w, got {groups}")
    if group_channels * groups != channels:
        raise ValueError(
            f"w must have C // groups = {channels // groups} input channels for an x of "
            f"{channels} channels and groups={groups}, got shape {kernel_shape}"
        )
    strides, dilation = as_pair("strides", strides), as_pair("dilation", dilation)
    padding = resolve_padding(padding, (height, width), (rows, columns), strides, dilation)
    out_height, out_width = _output_sizes(
        "w", (height, width), (rows, columns), strides, dilation, padding
    )
    return ConvGeometry(
        batch, height, width, channels, filters, (rows, columns), strides, dilation, padding,
        groups, out_height, out_width,
    )  # fmt: skip


def _output_sizes(name, sizes, kernel, strides, dilation, padding) -> Pair:
    outputs = tuple(map(output_size, sizes, kernel, strides, dilation, padding))
    for axis, size, taps, d, pads, out in zip(
        ("height", "width"), sizes, kernel, dilation, padding, outputs, strict=True
    ):
        if out < 1:
            raise ValueError(
                f"{name} does not fit into x along its {axis}: the window covers "
                f"{span(taps, d)} elements, x has {size} + padding {sum(pads)}"
            )
    return outputs


def pool_geometry(
    input_shape: tuple[int, ...], pool_size: Any, strides: Any, padding: Any
) -> PoolGeometry:
    """Check pooling arguments and work out sizes. `strides=None` means `pool_size`.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    try:
        return _pool_geometry(input_shape, pool_size, strides, padding)
    except TypeError:
        return _pool_geometry(
            tuple(input_shape), _hashable(pool_size), _hashable(strides), _hashable(padding)
        )


@lru_cache(maxsize=1024)
def _pool_geometry(input_shape, pool_size, strides, padding):
    if len(input_shape) != 4:
        raise ValueError(f"x must have shape (N, H, W, C), got {input_shape}")
    batch, height, width, channels = input_shape
    size = as_pair("pool_size", pool_size)
    strides = size if strides is None else as_pair("strides", strides)
    padding = resolve_padding(padding, (height, width), size, strides)
    for axis, pads, taps in zip(("height", "width"), padding, size, strict=True):
        if max(pads) >= taps:  # a window of padding alone would have no maximum and no mean
            raise ValueError(
                f"padding along the {axis} must be smaller than the pool size {taps}, got {pads}"
            )
    out_height, out_width = _output_sizes(
        "pool_size", (height, width), size, strides, (1, 1), padding
    )
    return PoolGeometry(
        batch, height, width, channels, size, strides, padding, out_height, out_width
    )


@lru_cache(maxsize=256)
def transposed_size(
    input_size: Pair,
    kernel_size: Pair,
    strides: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    output_padding: Any = 0,
) -> Pair:
    """Output (H, W) of a transposed convolution: the input size of the convolution it reverses.

    Several input sizes share one output size when the stride is larger than one; "same" and
    "valid" choose as Keras does (stride * input, and the largest that is not zero by
    construction); for explicit padding `output_padding` chooses.
    """
    strides, dilation = as_pair("strides", strides), as_pair("dilation", dilation)
    extra = as_pair("output_padding", output_padding, minimum=0)
    if isinstance(padding, str) and any(extra):
        raise ValueError(
            f"output_padding is for explicit padding only, got {output_padding!r} with {padding!r}"
        )
    if any(e and e >= s for e, s in zip(extra, strides, strict=True)):
        raise ValueError(
            f"output_padding must be smaller than strides {strides}, got {output_padding!r}"
        )
    if padding == "same":
        return tuple(s * n for n, s in zip(input_size, strides, strict=True))
    spans = tuple(map(span, kernel_size, dilation))
    if padding == "valid":
        return tuple(
            (n - 1) * s + max(e, s) for n, s, e in zip(input_size, strides, spans, strict=True)
        )
    pads = resolve_padding(padding, input_size, kernel_size, strides, dilation)
    return tuple(
        (n - 1) * s + e - sum(p) + more
        for n, s, e, p, more in zip(input_size, strides, spans, pads, extra, strict=True)
    )
