"""Activations and their gradients as functions of numbers, for the loops in `activations`.

Equations and sources stand in `reference.activations`. alpha is the slope of leaky_relu; all
functions take it so that one loop serves all. Comparisons are written so that NaN, for which every
comparison is false, comes out again.
"""

from ..reference.activations import GELU_CUBIC, GELU_TANH_FLAT, SQRT_2_OVER_PI
from . import elementary as e
from .elementary import elementary


@elementary
def linear(fmt):
    return lambda x, alpha: x


@elementary
def relu(fmt):
    zero = fmt.real(0)
    return lambda x, alpha: zero if x <= zero else x


@elementary
def leaky_relu(fmt):
    zero = fmt.real(0)

    def code(x, alpha):
        scaled = alpha * x
        return x if x > zero else scaled

    return code


@elementary
def sigmoid(fmt):
    return lambda x, alpha: e.sigmoid(x)


@elementary
def tanh(fmt):
    return lambda x, alpha: e.tanh(x)


@elementary
def gelu(fmt):
    return lambda x, alpha: x * e.normal(x)[0]


@elementary
def gelu_tanh(fmt):
    """(1 + tanh u) / 2 = sigmoid(2 u), which needs one function less."""
    scale, cubic = fmt.real(2 * SQRT_2_OVER_PI), fmt.real(GELU_CUBIC)
    return lambda x, alpha: x * e.quick_sigmoid(scale * (x + cubic * x * x * x))


@elementary
def silu(fmt):
    return lambda x, alpha: x * e.quick_sigmoid(x)


@elementary
def exp(fmt):
    return lambda x, alpha: e.exp(x)


@elementary
def log(fmt):
    return lambda x, alpha: e.log(x)


@elementary
def erf(fmt):
    return lambda x, alpha: e.erf(x)


# Gradients: `known` is the output y or the input x, whichever the function reads.


@elementary
def linear_grad(fmt):
    return lambda grad, known, alpha: grad


@elementary
def relu_grad(fmt):
    zero = fmt.real(0)
    return lambda grad, y, alpha: zero if y <= zero else grad


@elementary
def leaky_relu_grad(fmt):
    zero = fmt.real(0)

    def code(grad, y, alpha):
        scaled = alpha * grad
        return grad if y > zero else scaled

    return code


@elementary
def sigmoid_grad(fmt):
    one = fmt.real(1)
    return lambda grad, y, alpha: grad * y * (one - y)


@elementary
def tanh_grad(fmt):
    one = fmt.real(1)
    return lambda grad, y, alpha: grad * (one - y * y)


@elementary
def gelu_grad(fmt):
    def code(grad, x, alpha):
        integral, density = e.normal(x)
        return grad * (integral + x * density)

    return code


@elementary
def gelu_tanh_grad(fmt):
    """With s = sigmoid(2 u): s + x s (1 - s) 2 u'."""
    one, scale, cubic = fmt.real(1), fmt.real(2 * SQRT_2_OVER_PI), fmt.real(GELU_CUBIC)
    three, limit = fmt.real(3), fmt.real(GELU_TANH_FLAT)

    def code(grad, x, alpha):
        s = e.quick_sigmoid(scale * (x + cubic * x * x * x))
        # Where the curve is straight, 1 - s is 0 and must not meet an infinite u'.
        z = limit if x > limit else x
        z = -limit if z < -limit else z
        slope = scale * (one + three * cubic * z * z)
        return grad * (s + z * s * (one - s) * slope)

    return code


@elementary
def silu_grad(fmt):
    one = fmt.real(1)

    def code(grad, x, alpha):
        s = e.quick_sigmoid(x)
        return grad * (s + x * s * (one - s))

    return code
