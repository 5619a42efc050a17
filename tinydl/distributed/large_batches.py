"""The learning rate for a batch that grew with the number of processes."""

from __future__ import annotations

from collections.abc import Callable

from tinydl.arguments import whole_number
from tinydl.optimizers.schedules import Constant, Schedule, Warmup


def linear_scaling(
    learning_rate: float,
    batch_size: int,
    base_batch_size: int,
    warmup_steps: int,
    then: Callable[[float], float | Schedule] = float,
) -> Schedule:
    """A schedule for ``batch_size``, from a ``learning_rate`` that was found with ``base_batch_size``.

    k small steps at rate η move about as far as one step at rate kη with the mean of their gradients, as long as
    the gradients hardly change in between. So with k = batch_size / base_batch_size

        η(t) rises from η to kη in the first ``warmup_steps`` steps, where gradients change quickly, then stays,

    or follows ``then(kη)``, a schedule with kη as its peak:

        per_rank, ranks = 64, tl.distributed.world().size
        rate = tl.distributed.linear_scaling(
            0.1, per_rank * ranks, 64, warmup_steps=500, then=lambda peak: tl.schedules.CosineDecay(peak, 10_000)
        )
        model.compile(tl.optimizers.Momentum(rate), …)
        model.fit(x, y, batch_size=per_rank * ranks, strategy=tl.distributed.DataParallel())

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", arXiv 1706.02677, sections 2.1 and 2.2. Found for SGD
    with momentum; for Adam's kin the root of k often serves better (Malladi et al. 2022, arXiv 2205.10287).
    """
    for name, value in (("batch_size", batch_size), ("base_batch_size", base_batch_size)):
        whole_number(f"linear_scaling: {name}", value)
    peak = Constant(learning_rate).value * batch_size / base_batch_size
    return Warmup(warmup_steps, then(peak), start=learning_rate)
