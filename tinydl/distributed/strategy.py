"""How the gradients of a step come about: by this process alone, or by all ranks together.

The training loop hands a strategy the batch and a function ``compute(batch, share)`` that runs forward, loss and
backward on it, and adds into the flat gradient buffer:

    sums = [samples, stop?, Σ loss, count, the metrics' sums …]     float64, of this batch
    share(sums)                                                     in place: the sums over all ranks
    add the gradient of Σ loss / (shared count)                     to the flat gradient buffer

``count`` is what the loss divides by: samples, or time steps that no mask drops. "stop?" is 1 on a rank that was
told to stop (Ctrl-C): every rank sees the sum and stops after the same step.

Since every rank divides by the count of ALL ranks, the plain sum of the ranks' gradients is the exact
gradient of the mean over all samples, whatever share of them each rank had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.distributed.world import World, share

SAMPLES, STOP, TOTAL, COUNT = range(4)  # positions in the sums

Sums = NDArray
T = TypeVar("T")
Share = Callable[[Sums], None]
Compute = Callable[[Any, Share], Sums]  # (batch, share) -> shared sums


class SingleProcess:
    """This process alone. Strategies for many replace what they do differently.

    Attributes:
        world: the processes that train together.
        model: set by ``attach``.
    """

    def __init__(self) -> None:
        self.world = World()

    # ---- beginning and end --------------------------------------------------------------------------------

    def attach(self, model: Any, seed: int) -> None:
        """Training of ``model`` begins: it is built, compiled, and where a resumed run left it."""
        self.model = model

    def finish(self) -> None:
        """Training came to its end on all ranks, which call this together."""

    def detach(self) -> None:
        """Training is over, at its end or by an error: let go of what this process holds, and wait for nobody."""

    def compare(self, asked: dict[str, Any]) -> None:
        """An error where other ranks were asked for something else (name -> value)."""

    def anywhere(self, so: bool) -> bool:
        """Whether it is so in any of the processes, which all ask."""
        return so

    def leave_epoch(self) -> None:
        """This process ends training before the epoch's last step, as all must, or none."""

    def part_of(self, source: Any) -> Any:
        """What this process reads of the training data."""
        return source

    def part_of_validation(self, source: Any) -> Any:
        """What this process measures of the validation data."""
        return source

    def in_turn(self, prepare: Callable[[], T]) -> T:
        """Run on rank 0 first, then on the others: for what touches files that they share."""
        return prepare()

    def agree(self, number: int) -> int:
        """Rank 0's number, on all ranks: for what each draws afresh (a seed)."""
        return number

    # ---- a step -------------------------------------------------------------------------------------------

    def gradients(self, compute: Compute, batch: Any, step: int, passes: int = 1) -> Sums:
        """Leave the gradient of the mean loss over the step's batch in the flat buffer; return the sums over it.

        With several ``passes`` the batch is cut into that many parts, one after another, so that what layers
        keep between forward and backward is that much smaller. All but the last leave gradients of the SUM of
        losses; when the last one's forward pass has made the count known, they are divided by it.
        """
        *first, last = pieces(batch, passes)
        earlier: list[Sums] = []
        self.model.store.zero_grad()
        for part in first:
            compute(part, remember(earlier))

        def total(sums: Sums) -> None:
            for other in earlier:
                sums += other
            self.share(sums)
            if earlier:
                kernels.scale_(self.model.store.grads, 1.0 / max(sums[COUNT], 1.0))
            if self.regularizes:
                add_regularization(self.model)
            self.last_backward_begins()

        return compute(last, total)

    @property
    def regularizes(self) -> bool:
        """Whether this process adds the gradient of penalties: one does where gradients are summed over ranks."""
        return True

    def share(self, sums: Sums) -> None:
        """In place: the sums over all ranks whose gradients will be summed."""

    def last_backward_begins(self) -> None:
        """From here on gradients become final, from one end of the buffer to the other."""

    def update(self, loss: float) -> float:
        """The optimizer's step; the learning rate that it used."""
        return self.model.optimizer.step(loss).learning_rate

    def after_update(self, step: int, sums: Sums) -> Sums:
        """``step`` steps are done. Returns the sums over all ranks that became known with it."""
        return sums

    # ---- between steps ------------------------------------------------------------------------------------

    def synchronize(self) -> Sums | None:
        """Make the model equal on all ranks, its states too (a BatchNorm's running mean).

        Returns sums over all ranks that ``after_update`` did not give yet, if there are any.
        """
        return None

    def training_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the model; complete on rank 0. All ranks call this together."""
        return {"optimizer": self.model.optimizer.state_dict()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from ``training_state()``, after ``attach``; the optimizer has its own part already."""

    def add_up(self, sums: NDArray) -> None:
        """In place: the sums over all ranks of what each measured of its part of the validation data."""

    @property
    def seconds_waited(self) -> float:
        """Time in which this process did nothing but communicate, or wait for others."""
        return self.world.seconds


def remember(kept: list[Sums]) -> Share:
    """Keep the sums, and have the gradient of Σ loss computed, undivided."""

    def keep(sums: Sums) -> None:
        kept.append(sums.copy())
        sums[COUNT] = 1.0

    return keep


def add_regularization(model: Any) -> None:
    """dR/dw of the penalties on weights.

    It is done before backward, not after, so that a layer's gradients are final as soon as its backward returns
    and can be sent to other processes while the layers before it are still at work.
    """
    for p, r in model.regularized:
        p.grad += r.gradient(p.value)


def length(batch: Any) -> int:
    """Samples in a batch (x, y, weight)."""
    x = batch[0]
    return len(x[0] if isinstance(x, list) else x)


def rows(batch: Any, which: slice) -> Any:
    """Some samples of (x, y, weight), each an array, a list of arrays, or None."""

    def take(data: Any) -> Any:
        if data is None:
            return None
        return [array[which] for array in data] if isinstance(data, list) else data[which]

    return tuple(take(data) for data in batch)


def pieces(batch: Any, number: int) -> list[Any]:
    """The batch in ``number`` neighbouring parts; some are empty where there are fewer samples."""
    if number == 1:
        return [batch]
    n = length(batch)
    return [rows(batch, share(n, k, number)) for k in range(number)]
