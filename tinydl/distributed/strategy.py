"""How the gradients of a step come about: by this process alone, or by all ranks together.

The training loop hands a strategy the batch and a function ``gradients(batch, share, regularize)`` that runs
forward, loss and backward on it:

    sums = [samples, stop?, Σ loss, count, the metrics' sums …]     float64, of this batch
    share(sums)                                                     in place: the sums over all ranks
    gradient of Σ loss / (shared count)                             left in the flat gradient buffer

``count`` is what the loss divides by: samples, or time steps that no mask drops. "stop?" is 1 on a rank that was
told to stop (Ctrl-C): every rank sees the sum and stops after the same step.

Since every rank divides by the count of ALL ranks, the plain sum of the ranks' gradients is the exact
gradient of the mean over all samples, whatever share of them each rank had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numpy.typing import NDArray

from tinydl.distributed.world import World

SAMPLES, STOP, TOTAL, COUNT = range(4)  # positions in the sums

Sums = NDArray
T = TypeVar("T")
Share = Callable[[Sums], None]
Gradients = Callable[[Any, Share, bool], Sums]  # (batch, share, regularize) -> shared sums


def keep(sums: Sums) -> None:
    """Share with nobody."""


class SingleProcess:
    """This process alone: the gradient of its own batch."""

    def __init__(self) -> None:
        self.world = World()

    def attach(self, model: Any, seed: int) -> None:
        """Training of ``model`` begins: it is built, compiled, and where a resumed run left it."""

    def detach(self) -> None:
        """Training is over."""

    def part_of(self, source: Any) -> Any:
        """What this process reads of the data."""
        return source

    def in_turn(self, prepare: Callable[[], T]) -> T:
        """Run on rank 0 first, then on the others: for what touches files that they share."""
        return prepare()

    def gradients(self, compute: Gradients, batch: Any, step: int) -> Sums:
        """The gradient of the whole step's batch, left in the flat buffer; the sums over all of it."""
        return compute(batch, keep, True)

    def after_update(self, step: int) -> None:
        """The optimizer has updated the parameters."""

    def synchronize_states(self) -> None:
        """Make states that are not trained (a BatchNorm's running mean) equal on all ranks."""
