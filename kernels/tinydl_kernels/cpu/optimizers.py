"""Updates of the optimizers for NumPy arrays, in place; definitions in `reference.optimizers`.

Each is ONE pass: value, gradient and slots are read once and written once, and all factors that do
not depend on the element are worked out before, in float64. The passes over gradients that clipping
needs are here too.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from ._passes import BLOCK, Pass, blocks, check_floats, check_shape, part
from .elementary import bits, elementary

# --- loops ------------------------------------------------------------------------------------------
# Scalars arrive as float64 and are rounded to the arrays' precision once: in mixed arithmetic every
# element would be converted to float64 and back. `decay` is lr * weight_decay.


def _sgd(value, grad, lr, decay):
    real = value.dtype.type
    lr, decay = real(lr), real(decay)
    for block in prange(blocks(value.size)):
        w, g = part(value, block), part(grad, block)
        for k in range(w.size):
            w[k] -= lr * g[k] + decay * w[k]


def _momentum(value, grad, velocity, lr, momentum, of_velocity, of_grad, decay):
    """value += of_velocity * velocity + of_grad * grad after the velocity's update."""
    real = value.dtype.type
    lr, momentum, decay = real(lr), real(momentum), real(decay)
    of_velocity, of_grad = real(of_velocity), real(of_grad)
    for block in prange(blocks(value.size)):
        w, g, speed = part(value, block), part(grad, block), part(velocity, block)
        for k in range(w.size):
            v = momentum * speed[k] - lr * g[k]
            speed[k] = v
            kept = w[k] - decay * w[k]
            w[k] = kept + (of_velocity * v + of_grad * g[k])


def _adam(value, grad, m, v, beta_1, beta_2, rate, grad_rate, root, epsilon, decay):
    """value -= (rate * m + grad_rate * grad) / (root * sqrt(v) + epsilon)."""
    real = value.dtype.type
    new_1, new_2 = real(1 - beta_1), real(1 - beta_2)
    beta_1, beta_2, rate, grad_rate = real(beta_1), real(beta_2), real(rate), real(grad_rate)
    root, epsilon, decay = real(root), real(epsilon), real(decay)
    for block in prange(blocks(value.size)):
        w, gradient = part(value, block), part(grad, block)
        mean, square = part(m, block), part(v, block)
        for k in range(w.size):
            g = gradient[k]
            first = beta_1 * mean[k] + new_1 * g
            second = beta_2 * square[k] + new_2 * g * g
            mean[k] = first
            square[k] = second
            kept = w[k] - decay * w[k]
            divisor = root * np.sqrt(second) + epsilon
            w[k] = kept - (rate * first + grad_rate * g) / divisor


def _rmsprop(centered, with_velocity):
    """The loop of one variant; what it gets for a slot that it does not have, it leaves alone."""

    def rmsprop(value, grad, square, average, velocity, lr, rho, epsilon, momentum, decay):
        real = value.dtype.type
        new = real(1 - rho)
        lr, rho, epsilon, momentum, decay = (
            real(lr),
            real(rho),
            real(epsilon),
            real(momentum),
            real(decay),
        )
        for block in prange(blocks(value.size)):
            w, gradient, squares = part(value, block), part(grad, block), part(square, block)
            means, speed = part(average, block), part(velocity, block)
            for k in range(w.size):
                g = gradient[k]
                variance = rho * squares[k] + new * g * g
                squares[k] = variance
                if centered:
                    mean = rho * means[k] + new * g
                    means[k] = mean
                    variance -= mean * mean
                    variance = real(0) if variance < real(0) else variance
                step = -lr * g / (np.sqrt(variance) + epsilon)
                if with_velocity:
                    step += momentum * speed[k]
                    speed[k] = step
                w[k] = w[k] - decay * w[k] + step

    return rmsprop


# Sums are kept in lanes: element i goes into lane i % LANES, so that neighbours are added as vectors,
# and in an order that is written here, not left to the compiler: it is the same everywhere.
LANES = 64
BLOCK_ROWS = BLOCK // LANES


def _squared_norm(x, rest, sums):
    """Each block's sum of squares in float64; x (rows, LANES), what is left over in `rest`."""
    for block in prange(sums.size):
        lanes = np.zeros(LANES)
        first, last = block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, x.shape[0])
        fours = first + (last - first) // 4 * 4
        for r in range(first, fours, 4):  # the lanes are fetched and stored once for four rows
            for j in range(LANES):
                a, b = np.float64(x[r, j]), np.float64(x[r + 1, j])
                c, d = np.float64(x[r + 2, j]), np.float64(x[r + 3, j])
                lanes[j] += (a * a + b * b) + (c * c + d * d)
        for r in range(fours, last):
            for j in range(LANES):
                lanes[j] += np.float64(x[r, j]) * np.float64(x[r, j])
        if block == sums.size - 1:
            for j in range(rest.size):
                lanes[j] += np.float64(rest[j]) * np.float64(rest[j])
        total = 0.0
        for j in range(LANES):
            total += lanes[j]
        sums[block] = total


@elementary
def _exponent_bits(fmt):
    """The exponent field of x alone; all ones, its largest value, for NaN and infinity only."""
    integer, mask = fmt.integer, fmt.exponent_mask
    return lambda x: integer(bits(x) & mask)


@elementary
def _exponent_mask(fmt):
    mask = fmt.exponent_mask
    return lambda x: mask


def _all_finite(x, finite):
    for block in prange(finite.size):
        here = part(x, block)
        largest = _exponent_bits(here[0])
        for k in range(here.size):
            exponent = _exponent_bits(here[k])
            largest = exponent if exponent > largest else largest
        finite[block] = largest != _exponent_mask(here[0])


def _clip(x, limit):
    limit = x.dtype.type(limit)
    for block in prange(blocks(x.size)):
        here = part(x, block)
        for k in range(here.size):
            y = limit if here[k] > limit else here[k]
            here[k] = -limit if y < -limit else y


def _scale(x, factor):
    factor = x.dtype.type(factor)
    for block in prange(blocks(x.size)):
        here = part(x, block)
        for k in range(here.size):
            here[k] *= factor


_SGD, _MOMENTUM, _ADAM = Pass(_sgd), Pass(_momentum), Pass(_adam)
_RMSPROP = {
    (centered, with_velocity): Pass(_rmsprop(centered, with_velocity))
    for centered in (False, True)
    for with_velocity in (False, True)
}
_SQUARED_NORM, _ALL_FINITE = Pass(_squared_norm), Pass(_all_finite)
_CLIP, _SCALE = Pass(_clip), Pass(_scale)


# --- kernels ----------------------------------------------------------------------------------------


def sgd_step(value: np.ndarray, grad: np.ndarray, lr: float, weight_decay: float = 0.0) -> None:
    """value -= lr * grad. See `reference.sgd_step`."""
    _update("sgd_step", _SGD, {"value": value, "grad": grad}, lr, lr * weight_decay)


def momentum_step(
    value: np.ndarray,
    grad: np.ndarray,
    velocity: np.ndarray,
    lr: float,
    momentum: float,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """SGD with momentum, plain or Nesterov's. See `reference.momentum_step`."""
    arrays = {"value": value, "grad": grad, "velocity": velocity}
    of_velocity, of_grad = (momentum, -lr) if nesterov else (1.0, 0.0)
    decay = lr * weight_decay
    _update("momentum_step", _MOMENTUM, arrays, lr, momentum, of_velocity, of_grad, decay)


def rmsprop_step(
    value: np.ndarray,
    grad: np.ndarray,
    square: np.ndarray,
    lr: float,
    rho: float,
    epsilon: float,
    weight_decay: float = 0.0,
    *,
    momentum: float = 0.0,
    velocity: np.ndarray | None = None,
    average: np.ndarray | None = None,
) -> None:
    """RMSprop, centered if there is an average, with momentum if there is a velocity.
    See `reference.rmsprop_step`."""
    loop = _RMSPROP[average is not None, velocity is not None]
    arrays = {
        "value": value,
        "grad": grad,
        "square": square,
        "average": average,
        "velocity": velocity,
    }
    _update("rmsprop_step", loop, arrays, lr, rho, epsilon, momentum, lr * weight_decay)


def adam_step(
    value: np.ndarray,
    grad: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    lr: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
    weight_decay: float = 0.0,
) -> None:
    """Adam; step counts from 1. See `reference.adam_step`."""
    _check_step("adam_step", step)
    arrays = {"value": value, "grad": grad, "m": m, "v": v}
    rate = lr / (1 - beta_1**step)
    root = 1 / math.sqrt(1 - beta_2**step)
    decay = lr * weight_decay
    _update("adam_step", _ADAM, arrays, beta_1, beta_2, rate, 0.0, root, epsilon, decay)


def nadam_step(
    value: np.ndarray,
    grad: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    lr: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    step: int,
    weight_decay: float,
    mu: float,
    mu_next: float,
    mu_product: float,
) -> None:
    """Adam with Nesterov momentum; step counts from 1. See `reference.nadam_step`."""
    _check_step("nadam_step", step)
    arrays = {"value": value, "grad": grad, "m": m, "v": v}
    rate = lr * mu_next / (1 - mu_product * mu_next)
    grad_rate = lr * (1 - mu) / (1 - mu_product)
    root = 1 / math.sqrt(1 - beta_2**step)
    decay = lr * weight_decay
    _update("nadam_step", _ADAM, arrays, beta_1, beta_2, rate, grad_rate, root, epsilon, decay)


def squared_norm(x: np.ndarray) -> float:
    """Sum of squares in float64; the same bits for any number of threads."""
    check_floats("squared_norm", x=x)
    flat = x.ravel()
    split = flat.size // LANES * LANES
    sums = np.empty(max(1, -(-split // BLOCK)))
    _SQUARED_NORM(x.size, flat[:split].reshape(-1, LANES), flat[split:], sums)
    return float(sums[0]) if sums.size == 1 else math.fsum(sums)


def all_finite(x: np.ndarray) -> bool:
    """Whether no element is NaN or infinite."""
    check_floats("all_finite", x=x)
    finite = np.empty(-(-x.size // BLOCK), np.bool_)
    _ALL_FINITE(x.size, x.ravel(), finite)
    return bool(finite.all())


def clip_(x: np.ndarray, limit: float) -> np.ndarray:
    """Clip into [-limit, limit] in place; NaN stays NaN. Returns x."""
    if math.isnan(limit) or limit < 0:
        raise ValueError(f"clip_: limit must not be negative, but is {limit!r}")
    _update("clip_", _CLIP, {"x": x}, limit)
    return x


def scale_(x: np.ndarray, factor: float) -> np.ndarray:
    """x *= factor in place. Returns x."""
    _update("scale_", _SCALE, {"x": x}, factor)
    return x


def _update(name: str, loop: Pass, slots: dict[str, np.ndarray | None], *scalars: float) -> None:
    """Run a loop that changes arrays in place; `grad`, where there is one, is only read.

    A slot that is None is not read or written by the loop, which is given the first array instead.
    """
    arrays = {argument: array for argument, array in slots.items() if array is not None}
    check_floats(name, **arrays)
    first = next(iter(arrays.values()))
    contiguous = True
    for argument, array in arrays.items():
        check_shape(name, argument, array, first.shape)
        contiguous &= array.flags.c_contiguous
        if argument != "grad" and not array.flags.writeable:
            raise ValueError(f"{name}: {argument} is read-only")
    flat = {argument: array.ravel() for argument, array in arrays.items()}
    spare = next(iter(flat.values()))
    loop(first.size, *[flat.get(slot, spare) for slot in slots], *map(float, scalars))
    if not contiguous:  # then ravel made copies
        for argument, array in arrays.items():
            if argument != "grad":
                array[...] = flat[argument].reshape(array.shape)


def _check_step(name: str, step: int) -> None:
    if step < 1:
        raise ValueError(f"{name}: step counts from 1, but is {step}")
