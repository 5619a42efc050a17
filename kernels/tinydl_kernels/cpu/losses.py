"""Cross-entropies fused with softmax and sigmoid for NumPy arrays; definitions in `reference.losses`.

Loss and gradient share the exponentials, so both come from one call. The gradient's own memory holds
the exponentials on the way: no other buffer is needed.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from . import elementary
from ._jit import REASSOCIATE, jit
from ._passes import CONTRACT, Pass, blocks, check_floats, check_shape, part
from .elementary import elementary as elementary_function
from .rows import row_max, row_sum, rows_per_block


@jit(fastmath=CONTRACT, cache=False)
def _shifted_powers(logits, powers, flat_powers, largest, first, last):
    """powers = e^(logits - largest) for rows first:last, with largest[row] the row's maximum."""
    for row in range(first, last):
        row_largest = row_max(logits, row)
        largest[row] = row_largest
        for k in range(logits.shape[1]):
            powers[row, k] = logits[row, k] - row_largest
    # Over the block as one piece: rows may be too short for vectors.
    piece = flat_powers[first * logits.shape[1] : last * logits.shape[1]]
    for i in range(piece.size):
        piece[i] = elementary.exp(piece[i])


@jit(fastmath=REASSOCIATE, cache=False)
def _shifted_sum(logits, row, largest):
    """Sum of a row of logits - largest."""
    total = 0.0
    for k in range(logits.shape[1]):
        total += logits[row, k] - largest
    return total


@jit(fastmath=REASSOCIATE, cache=False)
def _expected_loss(logits, targets, row, offset, smoothing, spread):
    """(sum_k t_k (offset - logits_k), sum_k t_k) with t = (1 - smoothing) targets + spread.

    offset = largest + log sum e^(logits - largest), so that offset - logits = -log p. Where t is 0
    the term is 0 even if log p is -inf; NaN in the row has made the offset NaN.
    """
    loss, mass = 0.0, 0.0
    zero = logits.dtype.type(0)
    for k in range(logits.shape[1]):
        target = targets[row, k] - smoothing * targets[row, k] + spread
        logit = offset if target == zero else logits[row, k]
        loss += target * (offset - logit)
        mass += target
    return loss, mass


def _class_numbers(logits, labels, weights, smoothing, losses, grad, flat_grad):
    """Labels are class numbers; weights is empty or holds one number a row."""
    real = logits.dtype.type
    rows, columns = logits.shape
    smoothing, spread = real(smoothing), real(smoothing / columns)
    step = rows_per_block(columns)
    for block in prange((rows + step - 1) // step):
        first, last = block * step, min((block + 1) * step, rows)
        _shifted_powers(logits, grad, flat_grad, losses, first, last)
        for row in range(first, last):
            largest, total = losses[row], real(row_sum(grad, row))
            log_total = elementary.log(total)
            loss = log_total - (logits[row, labels[row]] - largest)
            if smoothing > 0:  # (1 - s) a + s / K sum b, without 0 * inf when s = 0
                tail = columns * log_total - _shifted_sum(logits, row, largest)
                loss = (real(1) - smoothing) * loss + real(spread * tail)
            weight = weights[row] if weights.size > 0 else real(1)
            losses[row] = weight * loss
            scale, offset = weight / total, weight * spread
            for k in range(columns):
                grad[row, k] = grad[row, k] * scale - offset
            grad[row, labels[row]] -= weight - weight * smoothing


def _distributions(logits, targets, weights, smoothing, losses, grad, flat_grad):
    """Each row of targets is a distribution over the classes; weights as above."""
    real = logits.dtype.type
    rows, columns = logits.shape
    smoothing, spread = real(smoothing), real(smoothing / columns)
    step = rows_per_block(columns)
    for block in prange((rows + step - 1) // step):
        first, last = block * step, min((block + 1) * step, rows)
        _shifted_powers(logits, grad, flat_grad, losses, first, last)
        for row in range(first, last):
            total = real(row_sum(grad, row))
            log_total = losses[row] + elementary.log(total)
            loss, mass = _expected_loss(logits, targets, row, log_total, smoothing, spread)
            weight = weights[row] if weights.size > 0 else real(1)
            losses[row] = weight * real(loss)
            scale = real(mass) / total
            for k in range(columns):
                target = targets[row, k] - smoothing * targets[row, k] + spread
                grad[row, k] = weight * (grad[row, k] * scale - target)


def _outside(labels, classes):
    """Whether a label is no class number."""
    found = False
    for i in range(labels.size):
        found |= (labels[i] < 0) | (labels[i] >= classes)
    return found


@elementary_function
def _logistic_loss(fmt):
    """(loss, gradient) of one logit z and target t; the equations stand in the reference."""
    zero, one = fmt.real(0), fmt.real(1)

    def code(z, t):
        magnitude = abs(z)
        e = elementary.exp(-magnitude)
        against = t if z < zero else one - t
        wrong = against * magnitude
        wrong = zero if against == zero else wrong  # not 0 * inf
        p = (e if z < zero else one) / (one + e)
        return wrong + elementary.log1p(e), p - t

    return code


def _logistic(logits, targets, losses, grad):
    for block in prange(blocks(logits.size)):
        z, t = part(logits, block), part(targets, block)
        loss, slope = part(losses, block), part(grad, block)
        for k in range(z.size):
            loss[k], slope[k] = _logistic_loss(z[k], t[k])


_CLASS_NUMBERS, _DISTRIBUTIONS = Pass(_class_numbers), Pass(_distributions)
_LOGISTIC, _OUTSIDE = Pass(_logistic), jit(_outside)


def softmax_cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    sample_weight: np.ndarray | None = None,
    *,
    label_smoothing: float = 0.0,
    total: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """losses (N,) and gradients (N, K), weighted, not averaged. See
    `reference.softmax_cross_entropy`."""
    name = "softmax_cross_entropy"
    check_floats(name, logits=logits)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"{name}: logits must have shape (N, K) with K > 0, not {logits.shape}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{name}: label_smoothing must lie in [0, 1), not {label_smoothing!r}")
    rows, columns = logits.shape
    losses, grad = np.empty(rows, logits.dtype), np.empty((rows, columns), logits.dtype)
    weights = _row_weights(name, sample_weight, losses)
    if labels.ndim == 1:
        targets, loop = _checked_labels(name, labels, rows, columns), _CLASS_NUMBERS
    else:
        check_floats(name, logits=logits, labels=labels)
        check_shape(name, "labels", labels, logits.shape)
        targets, loop = np.ascontiguousarray(labels), _DISTRIBUTIONS
    if rows:
        smoothing = float(label_smoothing)
        logits = np.ascontiguousarray(logits)
        loop(logits.size, logits, targets, weights, smoothing, losses, grad, grad.ravel())
    if total is not None:
        total[...] = losses.sum(dtype=np.float64)
    return losses, grad


def binary_cross_entropy(
    logits: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """losses and gradients of the shape of logits. See `reference.binary_cross_entropy`."""
    name = "binary_cross_entropy"
    check_floats(name, logits=logits, targets=targets)
    check_shape(name, "targets", targets, logits.shape)
    losses, grad = np.empty(logits.shape, logits.dtype), np.empty(logits.shape, logits.dtype)
    _LOGISTIC(logits.size, logits.ravel(), targets.ravel(), losses.ravel(), grad.ravel())
    if sample_weight is not None:
        weight = np.asarray(sample_weight, logits.dtype)
        if weight.ndim == 1 and logits.ndim > 1:
            check_shape(name, "sample_weight", weight, logits.shape[:1])
            weight = weight.reshape(-1, *[1] * (logits.ndim - 1))
        else:
            check_shape(name, "sample_weight", weight, logits.shape)
        losses *= weight
        grad *= weight
    return losses, grad


def _row_weights(name: str, sample_weight: np.ndarray | None, losses: np.ndarray) -> np.ndarray:
    """One weight a row, contiguous, in the dtype of the losses; an empty array stands for none."""
    if sample_weight is None:
        return losses[:0]
    weights = np.ascontiguousarray(sample_weight, losses.dtype)
    check_shape(name, "sample_weight", weights, losses.shape)
    return weights


def _checked_labels(name: str, labels: np.ndarray, rows: int, classes: int) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name}: labels of shape (N,) must be integers, not {labels.dtype}")
    check_shape(name, "labels", labels, (rows,))
    numbers = np.ascontiguousarray(labels, np.int64)
    if _OUTSIDE(numbers, classes):
        raise ValueError(f"{name}: labels must lie in [0, {classes}), the columns of logits")
    return numbers
