"""One update of each optimizer over flat buffers, in place: definitions in plain NumPy.

value, grad and the slots (velocity, m, v, ...) are 1-D arrays of one length and dtype; the scalars
are Python floats. Weight decay is decoupled from the gradient as in Loshchilov & Hutter 2019,
"Decoupled Weight Decay Regularization", algorithm 2: value -= lr * weight_decay * value, before the
step. grad is only read.
"""

import math

import numpy as np


def sgd_step(value, grad, lr, weight_decay=0.0):
    """value -= lr * grad."""
    _decay(value, lr, weight_decay)
    value -= lr * grad


def momentum_step(value, grad, velocity, lr, momentum, nesterov=False, weight_decay=0.0):
    """velocity = momentum * velocity - lr * grad; value += velocity.

    With nesterov: value += momentum * velocity - lr * grad, using the new velocity
    (Sutskever et al. 2013, section 2, in the form that keeps the look-ahead point as the value).
    """
    _decay(value, lr, weight_decay)
    velocity *= momentum
    velocity -= lr * grad
    value += momentum * velocity - lr * grad if nesterov else velocity


def rmsprop_step(
    value,
    grad,
    square,
    lr,
    rho,
    epsilon,
    weight_decay=0.0,
    *,
    momentum=0.0,
    velocity=None,
    average=None,
):
    """square = rho * square + (1 - rho) * grad^2; value -= lr * grad / (sqrt(square) + epsilon).

    Tieleman & Hinton 2012, lecture 6e. With `average` (a slot, the centered form of Graves 2013,
    section 4.2): average = rho * average + (1 - rho) * grad, and sqrt(square - average^2) divides.
    With `velocity` (a slot): velocity = momentum * velocity - the step; value += velocity.
    """
    _decay(value, lr, weight_decay)
    square *= rho
    square += (1 - rho) * grad * grad
    variance = square
    if average is not None:
        average *= rho
        average += (1 - rho) * grad
        variance = np.maximum(square - average * average, 0)  # rounding may push it below 0
    step = -lr * grad / (np.sqrt(variance) + epsilon)
    if velocity is not None:
        velocity *= momentum
        velocity += step
        step = velocity
    value += step


def adam_step(value, grad, m, v, lr, beta_1, beta_2, epsilon, step, weight_decay=0.0):
    """Adam (Kingma & Ba 2015, algorithm 1); step counts from 1.

    m = beta_1 m + (1 - beta_1) grad; v = beta_2 v + (1 - beta_2) grad^2
    value -= lr * m_hat / (sqrt(v_hat) + epsilon)
    with m_hat = m / (1 - beta_1^step), v_hat = v / (1 - beta_2^step).
    """
    _decay(value, lr, weight_decay)
    _adam_moments(m, v, grad, beta_1, beta_2)
    m_hat = m / (1 - beta_1**step)
    v_hat = v / (1 - beta_2**step)
    value -= lr * m_hat / (np.sqrt(v_hat) + epsilon)


def nadam_step(
    value, grad, m, v, lr, beta_1, beta_2, epsilon, step, weight_decay, mu, mu_next, mu_product
):
    """Adam with Nesterov momentum (Dozat 2016, algorithm 2); step counts from 1.

    m and v as in Adam; v_hat = v / (1 - beta_2^step), and
    m_hat = mu_next m / (1 - mu_product mu_next) + (1 - mu) grad / (1 - mu_product)
    value -= lr * m_hat / (sqrt(v_hat) + epsilon)
    mu = mu_t and mu_next = mu_(t+1) follow the schedule mu_t = beta_1 (1 - 0.96^(0.004 t) / 2),
    mu_product = mu_1 ... mu_t; the optimizer keeps them.
    """
    _decay(value, lr, weight_decay)
    _adam_moments(m, v, grad, beta_1, beta_2)
    m_hat = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * grad / (1 - mu_product)
    v_hat = v / (1 - beta_2**step)
    value -= lr * m_hat / (np.sqrt(v_hat) + epsilon)


def squared_norm(x):
    """Sum of squares of all elements, as a Python float, in float64."""
    return float(np.sum(np.square(x, dtype=np.float64)))


def all_finite(x):
    """Whether no element is NaN or infinite."""
    return bool(np.isfinite(x).all())


def clip_(x, limit):
    """Clip x into [-limit, limit] in place; NaN stays NaN. Returns x."""
    if math.isnan(limit) or limit < 0:
        raise ValueError(f"clip_: limit must not be negative, but is {limit!r}")
    return np.clip(x, -limit, limit, out=x)


def scale_(x, factor):
    """x *= factor in place. Returns x."""
    x *= factor
    return x


def _decay(value, lr, weight_decay):
    if weight_decay:
        value -= lr * weight_decay * value


def _adam_moments(m, v, grad, beta_1, beta_2):
    m *= beta_1
    m += (1 - beta_1) * grad
    v *= beta_2
    v += (1 - beta_2) * grad * grad
