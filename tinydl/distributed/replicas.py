"""What all strategies for many processes share: every rank has the whole model and a part of the data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import whole_number
from tinydl.distributed.alike import check_alike, describe_data, described
from tinydl.distributed.drift import check_equal
from tinydl.distributed.faults import all_come, exits_early
from tinydl.distributed.gpu_ranks import through_host
from tinydl.distributed.strategy import SingleProcess, Sums, T
from tinydl.distributed.sync_batch_norm import SyncBatchNorm
from tinydl.distributed.world import World, world
from tinydl.randomness import stream

SECONDS_TO_STOP = 30.0  # between the first and the last rank that stops in the middle of an epoch


class Replicas(SingleProcess):
    """Equal models on all ranks of the world, and a way to keep them equal, which subclasses write.

    Args:
        check_every: compare the parameters across ranks every so many steps; 0 never.
    """

    def __init__(self, check_every: int = 100) -> None:
        self.world = world()
        self.check_every = whole_number(f"{type(self).__name__}: check_every", check_every, least=0)

    # ---- beginning and end --------------------------------------------------------------------------------

    def attach(self, model: Any, seed: int) -> None:
        """Rank 0's parameters, states and optimizer slots become everyone's."""
        if hasattr(self, "model"):
            raise RuntimeError(
                f"this {type(self).__name__} is at work in another training: a fit inside of a fit needs a strategy "
                "of its own"
            )
        super().attach(model, seed)
        self.seed = seed
        self.store = model.store
        check_same_model(self.world, model)
        for array in (self.store.values, *model.states, *model.optimizer.slots.values()):
            through_host(array, self.world.broadcast)
        for layer in self.synchronized_layers():
            layer.world = self.world

    def detach(self) -> None:
        if hasattr(self, "model"):
            for layer in self.synchronized_layers():
                layer.world = World()
            del self.model
        if isinstance(error := sys.exc_info()[1], SystemExit):
            exits_early(error)

    def synchronized_layers(self) -> list[SyncBatchNorm]:
        return [x for x in self.model.layers_in_order() if isinstance(x, SyncBatchNorm)]

    def options(self) -> dict[str, Any]:
        """What all ranks must have chosen alike."""
        return {"check_every": self.check_every}

    def compare(self, asked: dict[str, Any]) -> None:
        own = {"strategy": type(self).__name__, **self.options(), **asked}
        check_alike(self.world, described(own), "fit must be called alike on all ranks")

    def part_of(self, source: Any) -> Any:
        """Each rank reads its own rows of a loader's batches. Other iterables must give each rank its own batches."""
        if self.world.size == 1:
            return source
        part = part_of(source, self.world)
        check_same_data(self.world, part)
        loader: Any = getattr(part, "loader", None)
        if isinstance(getattr(loader, "seed", None), int):
            loader.seed = self.agree(loader.seed)  # one order of the samples for all
        return part

    def part_of_validation(self, source: Any) -> Any:
        return part_of(source, self.world)

    def in_turn(self, prepare: Callable[[], T]) -> T:
        if self.world.rank == 0:
            result = prepare()
        self.world.barrier()
        if self.world.rank != 0:
            result = prepare()
        return result

    def agree(self, number: int) -> int:
        return int(self.world.broadcast_text(str(number)))

    def anywhere(self, so: bool) -> bool:
        count = np.array([float(so)])
        self.world.allreduce(count)
        return bool(count[0])

    def leave_epoch(self) -> None:
        """Those that did not stop wait in their next step for this rank: it can only say so, and end all."""
        if self.world.size > 1 and not all_come(SECONDS_TO_STOP):
            raise RuntimeError(
                f"rank {self.world.rank} stops in the middle of an epoch (model.stop_training), and others do not: "
                "all must after the same step, or one in on_epoch_end"
            )

    # ---- in and between steps -----------------------------------------------------------------------------

    def reseed_dropout(self, step: int, part: int) -> None:
        """Random numbers that depend on the step and on the part of the batch, not on what was drawn before."""
        for k, layer in enumerate(self.model.random_layers):
            layer.rng = stream(self.seed, "dropout", k, step, part)

    def after_update(self, step: int, sums: Sums) -> Sums:
        if self.check_every and step % self.check_every == 0:
            check_equal(self.world, self.store, step)
        return sums

    def synchronize(self) -> Sums | None:
        """The mean of the ranks' running statistics."""
        for state in self.model.states:
            through_host(state, self.world.allreduce)
            state /= self.world.size
        return None

    def add_up(self, sums: NDArray) -> None:
        self.world.allreduce(sums)


def part_of(source: Any, many: World) -> Any:
    """This rank's part of each batch; a loader of one's own must be able to tell it."""
    loader = getattr(source, "loader", None)
    if many.size > 1 and loader is not None and not hasattr(loader, "part"):
        raise TypeError(
            f"several processes share out each batch, and {type(loader).__name__} does not say how: give it a method "
            "part(rank, size), as DataLoader has, which returns a loader of that rank's rows of every batch"
        )
    return source.part(many.rank, many.size)


def check_same_model(many: World, model: Any) -> None:
    """All ranks have built the same model, and stand at the same step."""
    own = [
        f"{p.name} {p.value.dtype} {p.shape}{'' if p.trainable else ' (frozen)'}"
        for p in model.store
    ]
    own += [f"{type(model.optimizer).__name__} after {model.optimizer.iterations} steps"]
    advice = (
        "all ranks must build the same model, and resume from the same checkpoint (in a folder that all of them can "
        "read)"
    )
    check_alike(many, own, advice)


def check_same_data(many: World, source: Any) -> None:
    """Ranks cut the same data into the same batches, and an epoch has as many steps on each."""
    if source.steps is None:
        raise ValueError(
            "with several processes every one must know how many batches an epoch has: give a DataLoader, arrays, or "
            "steps_per_epoch"
        )
    advice = (
        "all ranks must be given equal data, all of it, or lists of as many batches (steps_per_epoch), which are each "
        "rank's own"
    )
    check_alike(many, describe_data(source), advice)
