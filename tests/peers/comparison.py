"""A layer beside the same mathematics written with PyTorch, in float32."""

import numpy as np
import torch

from tests.layers.contract import few_examples, same_numbers

__all__ = [
    "assert_close", "channels_first", "channels_last", "compare", "few_examples", "pads_for", "same_numbers",
]  # fmt: skip

TOLERANCE = 1e-5  # of the largest element: some hundred roundings of float32


def assert_close(ours, theirs, what, tolerance=TOLERANCE):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, PyTorch {theirs.shape}"
    largest = max(1.0, np.abs(theirs).max(initial=0))
    error = np.abs(ours - theirs).max(initial=0) / largest
    assert error <= tolerance, f"{what} differ by {error:.1e} of the largest element"


def compare(layer, peer, x, *, training=True, tolerance=TOLERANCE):
    """Outputs, input gradients and parameter gradients of ``layer`` and of ``peer(x, **parameters)``.

    The layer is built for ``x`` (float32 or integers), with noise on all parameters; ``peer`` gets the
    input and the parameters, by their names, as tensors. Returns the layer and the peer's input.
    """
    rng = np.random.default_rng(0)
    layer.initialize(x.shape[1:], rng, np.float32)
    for p in layer.parameters():
        p.value += rng.normal(0.0, 0.3, size=p.shape).astype(np.float32)
    y = layer.forward(x, training)
    grad = rng.normal(size=y.shape).astype(np.float32)
    dx = layer.backward(grad)

    is_float = x.dtype.kind == "f"
    x_peer = torch.tensor(x, requires_grad=is_float)
    parameters = {p.name: torch.tensor(p.value, requires_grad=True) for p in layer.parameters()}
    y_peer = peer(x_peer, **parameters)
    y_peer.backward(torch.tensor(grad))

    assert_close(y, y_peer, "outputs", tolerance)
    if is_float:
        assert_close(dx, x_peer.grad, "input gradients", tolerance)
    for p in layer.parameters():
        assert_close(p.grad, parameters[p.name].grad, f"gradients of {p.name}", tolerance)
    return layer


def channels_first(x):
    return x.permute(0, 3, 1, 2)


def channels_last(y):
    return y.permute(0, 2, 3, 1)


def pads_for(layer, x):
    """The layer's padding of x (N, H, W, C) as ``torch.nn.functional.pad`` wants it: the last axis first."""
    from tinydl_kernels.windows import resolve_padding

    window = getattr(layer, "kernel_size", None) or layer.pool_size
    dilation = getattr(layer, "dilation_rate", 1)
    (top, bottom), (left, right) = resolve_padding(
        layer.padding, x.shape[1:3], window, layer.strides, dilation
    )
    return left, right, top, bottom
