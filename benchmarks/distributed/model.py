"""What a step costs on N ranks, as the alpha-beta model has it: the equations of benchmarks/scaling.md.

    t(n) = α + β n        a message of n bytes; γ n adds them up

An allreduce of n bytes over N ranks (Thakur, Rabenseifner, Gropp 2005, "Optimization of collective communication
operations in MPICH", International Journal of High Performance Computing Applications 19:1, sections 4.5 and 4.6, for N
a power of two):

    recursive doubling:        log₂N (α + n β + n γ)
    Rabenseifner (halving, then doubling):  2 log₂N α + (N-1)/N n (2 β + γ)
    ring (Patarasu, Yuan 2009, Journal of Parallel and Distributed Computing 69:2): 2 (N-1) α + (N-1)/N n (2 β + γ)
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """α in seconds, β and γ in seconds a byte."""

    alpha: float
    beta: float
    gamma: float


@dataclass(frozen=True)
class Training:
    """Of one model on one rank: seconds of forward pass and update, and of backward; bytes of its gradients."""

    name: str
    forward: float
    backward: float
    bytes: float


def recursive_doubling(net: Network, size: float, ranks: int) -> float:
    return math.log2(ranks) * (net.alpha + size * (net.beta + net.gamma))


def halving_doubling(net: Network, size: float, ranks: int) -> float:
    share = (ranks - 1) / ranks
    return 2 * math.log2(ranks) * net.alpha + share * size * (2 * net.beta + net.gamma)


def ring(net: Network, size: float, ranks: int) -> float:
    share = (ranks - 1) / ranks
    return 2 * (ranks - 1) * net.alpha + share * size * (2 * net.beta + net.gamma)


ALGORITHMS = {
    "recursive doubling": recursive_doubling,
    "halving, doubling": halving_doubling,
    "ring": ring,
}


def allreduce(net: Network, size: float, ranks: int) -> float:
    """Seconds with the algorithm that is best for this size: MPI libraries choose by it, too."""
    if ranks == 1:
        return 0.0
    return min(algorithm(net, size, ranks) for algorithm in ALGORITHMS.values())


def step(
    net: Network,
    training: Training,
    ranks: int,
    overlap: float = 0.0,
    wire: float = 1.0,
    every: int = 1,
    buckets: int = 1,
) -> float:
    """Seconds of a step, with the same batch on every rank.

    Args:
        overlap: share of what can be hidden behind the backward pass that is.
        wire: bytes that travel, as a share of all (0.5: 16 bits). Less than all travel in an all-to-all and an
            all-gather of N - 1 messages each: as many as a ring has.
        every: steps between two synchronizations (local SGD).
        buckets: allreduces into which a sum is cut.
    """
    compute = training.forward + training.backward
    if ranks == 1:
        return compute
    numbers = allreduce(net, 8 * 5, ranks)  # loss, counts and a metric: in every step
    size = training.bytes * wire
    sum_of = allreduce if wire == 1.0 else ring
    gradients = buckets * sum_of(net, size / buckets, ranks)
    if every > 1:
        return compute + gradients / every
    return compute + numbers + gradients - overlap * min(gradients, training.backward)


def efficiency(net: Network, training: Training, ranks: int, **remedies: float) -> float:
    """Of weak scaling: the time of one process over the time of a step on ``ranks``."""
    return step(net, training, 1) / step(net, training, ranks, **remedies)  # type: ignore[arg-type]
