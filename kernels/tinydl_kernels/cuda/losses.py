"""Losses fused with the function that makes their probabilities, for device arrays; see `reference.losses`."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from . import device
from .arrays import check_floats, check_vector, name_of, packed, plain
from .arrivals import arrive, counters
from .device import ALIGNED, cuda, device_function, kernel
from .instructions import pointer
from .operands import divisor
from .passes import THREADS, add_up, check_alike, divide, each
from .rows import LANES, SIZE, TEAMS, launch_rows

INDICES = (np.int8, np.int16, np.int32, np.int64, np.uint8)


def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    sample_weight: Any = None,
    *,
    label_smoothing: float = 0.0,
    total: Any = None,
) -> tuple[Any, Any]:
    """See `reference.softmax_cross_entropy`.

    Whether labels lie in [0, K) could be told only by waiting for the device: a row whose label does not
    gets the loss and the gradient NaN instead of an error.
    """
    name = "softmax_cross_entropy"
    check_floats(name, logits=logits)
    samples, classes = logits.shape
    dtype, xp = logits.dtype, device.namespace()
    logits, labels = plain(logits), plain(labels)
    device.check_array(name, "labels", labels)
    weight = _checked_weight(name, sample_weight, samples, dtype)
    if labels.ndim == 1:
        if labels.dtype not in INDICES or labels.shape != (samples,):
            raise TypeError(
                f"{name}: labels must be integers of shape {(samples,)}, got {labels.dtype} {labels.shape}"
            )
        labels = labels.astype(np.int64, copy=False)
    else:
        check_floats(name, logits=logits, labels=labels)
        check_alike(name, logits=logits, labels=labels)
    losses, grad = xp.empty((samples,), dtype), xp.empty((samples, classes), dtype)
    function = cross_entropy_kernel(name_of(dtype), labels.ndim == 1, total is not None)
    weights, sums = logits if weight is None else weight, (losses,) * 3
    if total is not None:
        sums = _places_of_sums(name, total, samples)
    launch_rows(
        function, samples, classes, (logits, labels, weights, losses, grad, *sums),
        0 if weight is None else 1, dtype.type(1 - label_smoothing), dtype.type(label_smoothing / classes),
    )  # fmt: skip
    return losses, grad


def _places_of_sums(name: str, total: Any, samples: int) -> tuple[Any, Any, Any]:
    """For the sum of all losses, those of each block, and the counter of blocks."""
    device.check_array(name, "total", total)
    if total.shape != () or total.dtype != np.float64:
        raise TypeError(
            f"{name}: total must be float64 of shape (), got {total.dtype} {total.shape}"
        )
    if samples == 0:
        total.fill(0)
    return total, device.namespace().empty((-(-samples // TEAMS),), np.float64), counters(1)


def _checked_weight(name: str, weight: Any, samples: int, dtype: Any) -> Any:
    if weight is not None:
        weight = packed(weight.astype(dtype, copy=False))
        check_vector(name, "sample_weight", weight, samples, dtype)
    return weight


@functools.cache
def cross_entropy_kernel(dtype: str, by_number: bool, with_total: bool) -> Any:
    """One row of logits at a time: its maximum, the sum of exponentials, then loss and gradient.

    With the total of all losses: each block leaves that of its rows, and the last one to end (`arrivals`) adds them
    up in their order.
    """
    element = np.dtype(dtype)
    lowest, zero, nan = element.type(-np.inf), element.type(0), element.type(np.nan)
    one, zero_64 = element.type(1), np.int64(0)
    finish = add_to_total() if with_total else no_total

    @kernel(SIZE)
    def cross_entropy(
        rows, columns, logits, labels, weights, losses, grad, whole, parts, counter,
        has_weight, share, smooth,
    ):  # fmt: skip
        shared = cuda.shared.array(SIZE, element, ALIGNED)
        sums = cuda.shared.array(SIZE, element, ALIGNED)
        lane, team = cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES
        row = cuda.blockIdx.x * TEAMS + team
        memory, result = pointer(logits, share), pointer(grad, share)
        start = row * columns
        largest = lowest
        if row < rows:
            for k in range(lane, columns, LANES):
                value = memory[start + k]
                if value > largest or value != value:
                    largest = value
        shared[cuda.threadIdx.x] = largest
        cuda.syncthreads()
        for other in range(LANES):
            value = shared[team * LANES + other]
            if value > largest or value != value:
                largest = value
        cuda.syncthreads()

        total, target_sum = zero, zero
        if row < rows:
            for k in range(lane, columns, LANES):
                total += math.exp(memory[start + k] - largest)
                if not by_number:
                    target_sum += share * pointer(labels, share)[start + k] + smooth
        shared[cuda.threadIdx.x], sums[cuda.threadIdx.x] = total, target_sum
        cuda.syncthreads()
        total, target_sum = zero, zero
        for other in range(LANES):
            total += shared[team * LANES + other]
            target_sum += sums[team * LANES + other]
        cuda.syncthreads()

        label, weight, loss = zero_64, one, zero
        if row < rows:
            log_total = math.log(total)
            if has_weight != 0:
                weight = pointer(weights, share)[row]
            if by_number:
                target_sum = one
                label = pointer(labels, zero_64)[row]
                if label < 0 or label >= columns:
                    weight = nan
            for k in range(lane, columns, LANES):
                if by_number:
                    target = smooth
                    if k == label:
                        target += share
                else:
                    target = share * pointer(labels, share)[start + k] + smooth
                log_p = memory[start + k] - largest - log_total
                if target != zero or log_p != log_p:  # 0 * -inf counts as 0, NaN goes through
                    loss -= target * log_p
                result[start + k] = weight * (math.exp(log_p) * target_sum - target)
        shared[cuda.threadIdx.x] = loss
        cuda.syncthreads()
        mine = zero
        if row < rows and lane == 0:
            for other in range(1, LANES):
                loss += shared[team * LANES + other]
            mine = weight * loss
            pointer(losses, share)[row] = mine
        finish(mine, whole, parts, counter)

    return cross_entropy


@device_function
def no_total(loss, total, parts, counter):
    pass


@functools.cache
def add_to_total() -> Any:
    """The device function add(loss, total, parts, counter), which all threads of all blocks call: total becomes the
    sum of the losses that the first lanes of teams give. The order does not depend on which block ends last."""
    zero, integer, wide = np.float64(0), np.int32(0), np.dtype("float64")

    @device_function
    def add(loss, total, parts, counter):
        shared = cuda.shared.array((1, SIZE), wide, ALIGNED)
        before = cuda.shared.array(1, np.int32, ALIGNED)
        thread, blocks, memory = cuda.threadIdx.x, cuda.gridDim.x, pointer(parts, zero)
        shared[0, thread] = loss
        cuda.syncthreads()
        if thread == 0:
            found = zero
            for team in range(TEAMS):
                found += shared[0, team * LANES]
            memory[cuda.blockIdx.x] = found
            before[0] = arrive(pointer(counter, integer), 0, blocks - 1)
        cuda.syncthreads()
        if before[0] < blocks - 1:
            return
        found = zero
        for block in range(thread, blocks, SIZE):
            found += memory[block]
        shared[0, thread] = found
        add_up(shared, thread, 1, cuda.syncthreads)
        if thread == 0:
            pointer(total, zero)[0] = shared[0, 0]

    return add


def binary_cross_entropy(logits: Any, targets: Any, sample_weight: Any = None) -> tuple[Any, Any]:
    """See `reference.binary_cross_entropy`."""
    name = "binary_cross_entropy"
    check_floats(name, logits=logits, targets=targets)
    check_alike(name, logits=logits, targets=targets)
    logits, targets = plain(logits), plain(targets)
    xp, dtype = device.namespace(), logits.dtype
    losses, grad = xp.empty(logits.shape, dtype), xp.empty(logits.shape, dtype)
    weight, columns = logits, logits.size + 1
    if sample_weight is not None:
        weight = plain(sample_weight.astype(dtype, copy=False))
        if weight.ndim == 1 and len(weight) == len(logits):
            columns = max(1, logits.size // max(1, len(weight)))  # that share a weight
        elif weight.shape == logits.shape:
            columns = 1
        else:
            raise ValueError(
                f"{name}: sample_weight of shape {weight.shape} for logits {logits.shape}"
            )
        device.check_array(name, "sample_weight", weight)
    arrays = (logits, targets, weight, losses, grad)
    has_weight = 0 if sample_weight is None else 1
    each(
        binary_kernel(name_of(dtype)),
        logits.size,
        arrays,
        has_weight,
        divisor(columns),
        dtype.type(1),
    )
    return losses, grad


@functools.cache
def binary_kernel(dtype: str) -> Any:
    zero = np.dtype(dtype).type(0)

    @kernel(THREADS)
    def binary(elements, logits, targets, weights, losses, grad, has_weight, by, one):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i >= elements:
            return
        z, t, weight = pointer(logits, one)[i], pointer(targets, one)[i], one
        if has_weight != 0:
            row, _ = divide(i, by)
            weight = pointer(weights, one)[row]
        e = math.exp(-abs(z))
        against = t if z < zero else one - t
        loss = math.log1p(e)
        if against != zero:
            loss += against * abs(z)
        p = (one if z >= zero else e) / (one + e)
        pointer(losses, one)[i] = weight * loss
        pointer(grad, one)[i] = weight * (p - t)

    return binary
