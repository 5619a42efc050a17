"""Elementary functions, activations and softmax: their definitions in plain NumPy."""

import math

import numpy as np

ACTIVATIONS = (
    "linear",
    "relu",
    "leaky_relu",
    "sigmoid",
    "tanh",
    "gelu",
    "gelu_tanh",
    "silu",
)

SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715  # Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", section 2
GELU_TANH_FLAT = 10.0  # beyond it gelu_tanh is x or 0 to the last digit, and its slope 1 or 0

_erf = np.vectorize(math.erf, otypes=[np.float64])


def exp(x, out=None):
    """e^x, element by element."""
    with np.errstate(over="ignore", under="ignore"):
        return _give(np.exp(x), x, out)


def log(x, out=None):
    """Natural logarithm; log(0) = -inf, log of a negative number is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _give(np.log(x), x, out)


def tanh(x, out=None):
    """Hyperbolic tangent."""
    return _give(np.tanh(x), x, out)


def sigmoid(x, out=None):
    """1 / (1 + e^-x), written with e^-|x| so that nothing overflows."""
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
    return _give(np.where(x >= 0, 1, e) / (1 + e), x, out)


def erf(x, out=None):
    """2 / sqrt(pi) * integral of e^(-t^2) from 0 to x (computed in float64)."""
    return _give(_erf(x) if np.size(x) else np.array(x), x, out)


def activation(name, x, out=None, *, alpha=0.2, plus=None):
    """y = name(x), or name(x + plus), element by element.

    Args:
        name: one of ``ACTIVATIONS``.
        x: array of any shape.
        out: array like x, or None to allocate.
        alpha: slope of leaky_relu for x < 0; must be positive.
        plus: array like x, or None: a residual connection's other branch.

    Equations: relu max(x, 0); leaky_relu x or alpha x; sigmoid 1/(1+e^-x); tanh;
    gelu x Phi(x) with Phi the normal distribution's integral; gelu_tanh its approximation
    x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel 2016); silu x sigmoid(x).
    """
    _check_activation(name, alpha)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if plus is not None:
            x = x + plus
        if name == "linear":
            y = x
        elif name == "relu":
            y = np.maximum(x, 0)
        elif name == "leaky_relu":
            y = np.where(x > 0, x, alpha * x)
        elif name == "sigmoid":
            y = sigmoid(x)
        elif name == "tanh":
            y = np.tanh(x)
        elif name == "gelu":
            y = 0.5 * x * (1 + erf(x / math.sqrt(2.0)))
        elif name == "gelu_tanh":
            y = 0.5 * x * (1 + np.tanh(SQRT_2_OVER_PI * (x + GELU_CUBIC * x**3)))
        else:
            y = x * sigmoid(x)
    return _give(y, x, out)


def activation_grad(name, grad, x, y, out=None, *, alpha=0.2):
    """dL/dx from grad = dL/dy, the input x and the output y = activation(name, x).

    relu, leaky_relu, sigmoid and tanh read only y (x may be None); gelu, gelu_tanh and silu read
    only x (y may be None); linear reads neither. At 0, relu has slope 0 and leaky_relu alpha.
    """
    _check_activation(name, alpha)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if name == "linear":
            dx = grad
        elif name == "relu":
            dx = np.where(y <= 0, 0, grad)  # a NaN output lets the gradient pass
        elif name == "leaky_relu":
            dx = np.where(y > 0, grad, alpha * grad)
        elif name == "sigmoid":
            dx = grad * y * (1 - y)
        elif name == "tanh":
            dx = grad * (1 - y * y)
        elif name == "gelu":  # (x Phi(x))' = Phi(x) + x phi(x)
            density = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
            dx = grad * (0.5 * (1 + erf(x / math.sqrt(2.0))) + x * density)
        elif name == "gelu_tanh":
            t = np.tanh(SQRT_2_OVER_PI * (x + GELU_CUBIC * x**3))
            z = np.clip(x, -GELU_TANH_FLAT, GELU_TANH_FLAT)  # where 1 - t^2 is 0, z^2 is finite
            inner = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * z * z)
            dx = grad * (0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner)
        else:  # (x s)' = s + x s (1 - s)
            s = sigmoid(x)
            dx = grad * (s + x * s * (1 - s))
    return _give(dx, grad, out)


def softmax(x, out=None):
    """y_k = e^(x_k) / sum_j e^(x_j) over the last axis.

    The maximum is subtracted first, which leaves the quotient as it is and keeps e^x from
    overflowing.
    """
    with np.errstate(under="ignore", invalid="ignore"):
        e = np.exp(x - np.max(x, axis=-1, keepdims=True))
        return _give(e / np.sum(e, axis=-1, keepdims=True), x, out)


def softmax_grad(grad, y, out=None):
    """dL/dx of y = softmax(x): y * (grad - sum_k grad_k y_k) over the last axis."""
    inner = np.sum(grad * y, axis=-1, keepdims=True)
    return _give(y * (grad - inner), grad, out)


def log_softmax(x, out=None):
    """x_k - log sum_j e^(x_j) over the last axis, with the maximum taken out of the sum."""
    with np.errstate(under="ignore", invalid="ignore"):
        shifted = x - np.max(x, axis=-1, keepdims=True)
        log_sum = np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))
        return _give(shifted - log_sum, x, out)


def _check_activation(name, alpha):
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, not {alpha!r}")


def _give(result, like, out):
    """The result in the dtype of `like`, in `out` if there is one, else in fresh memory."""
    if out is None:
        return np.array(result, dtype=np.asarray(like).dtype)
    out[...] = result
    return out
