"""What the processes of a party run: training steps of tinydl, as ``fit`` makes them, and their parts."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
from networks import batch_of, tinydl_model
from threadpoolctl import threadpool_limits

import tinydl as tl
from tinydl.training.batches import make_source
from tinydl.training.loop import TrainingLoop
from tinydl.training.memory import keep_freed_memory
from tinydl.training.steps import backward, compute_loss, forward
from tinydl_kernels import matmul

LOOPS: dict[str, tuple[TrainingLoop, Any, Any]] = {}


def build(
    name: str, network: str, batch: int, optimizer: str = "adam", strategy: dict | None = None
) -> int:
    """Make a training ready for its steps, ``batch`` samples in each process; the number of parameters.

    Args:
        strategy: arguments of ``DataParallel``; None trains each process by itself.
    """
    threadpool_limits(limits=1, user_api="blas")
    keep_freed_memory()
    model = tinydl_model(network, optimizer)
    many = None if strategy is None else tl.distributed.DataParallel(**strategy)
    x, y = batch_of(network, batch, seed=tl.distributed.world().rank)
    source = make_source(x, y, None, batch_size=batch, dtype=model.parameter_dtype)
    loop = TrainingLoop(model, source, epochs=1, strategy=many)
    # What fit and TrainingLoop.run do before the first step.
    model.set_needs_input_grad(False)
    model.optimizer.build(model.store)
    loop.strategy.attach(model, loop.seed)
    loop.tracker.reset()
    LOOPS[name] = (loop, x, y)
    steps(name, 3)
    return sum(p.size for p in model.parameters())


def forget(name: str) -> None:
    loop, *_ = LOOPS.pop(name)
    loop.strategy.detach()


def steps(name: str, number: int, warm: int = 2) -> list[float]:
    """Seconds of each of so many steps, after some that do not count."""
    loop, x, y = LOOPS[name]
    seconds = []
    for k in range(warm + number):
        began = time.perf_counter()
        loop.train_step(x, y, None)
        loop.total_steps += 1
        if k >= warm:
            seconds.append(time.perf_counter() - began)
    return seconds


def waited(name: str) -> float:
    """Seconds in which the training thread waited for others, so far."""
    return LOOPS[name][0].strategy.seconds_waited


def communicate(name: str, number: int) -> list[float]:
    """Seconds of each synchronization of all gradients, with no computation beside it."""
    loop, *_ = LOOPS[name]
    many: Any = loop.strategy
    many.store.grads[...] = 1e-3
    seconds = []
    for _ in range(number):
        many.world.barrier()
        many.last_backward_begins()
        began = time.perf_counter()
        many._finish_sums()
        seconds.append(time.perf_counter() - began)
    return seconds


def backwards(name: str, number: int) -> list[float]:
    """Seconds of each backward pass, without communication."""
    loop, x, y = LOOPS[name]
    model = loop.model
    hooks = {layer: layer.after_backward for layer in model.layers_in_order()}
    seconds = []
    for layer in hooks:
        layer.after_backward = None
    for _ in range(number):
        predictions, mask = forward(model, x, training=True)
        compute_loss(model, predictions, y, None, mask)
        began = time.perf_counter()
        backward(model, float(len(x)))
        seconds.append(time.perf_counter() - began)
    for layer, hook in hooks.items():
        layer.after_backward = hook
    return seconds


def products_in_cache(number: int, products: int = 1000, size: int = 48) -> list[float]:
    """Seconds of each so many products of matrices that stay in the first-level cache: work without memory."""
    a, b = np.ones((2, size, size), np.float32)
    out = np.empty_like(a)
    seconds = []
    for _ in range(number):
        began = time.perf_counter()
        for _ in range(products):
            matmul(a, b, out)
        seconds.append(time.perf_counter() - began)
    return seconds


def drift_checks(name: str, number: int) -> list[float]:
    """Seconds of each comparison of all parameters across ranks."""
    from tinydl.distributed.drift import check_equal

    loop, *_ = LOOPS[name]
    many: Any = loop.strategy
    seconds = []
    for k in range(number):
        many.world.barrier()
        began = time.perf_counter()
        check_equal(many.world, many.store, k)
        seconds.append(time.perf_counter() - began)
    return seconds


@functools.cache
def bare_communicator() -> Any:
    from mpi4py import MPI

    return MPI.COMM_WORLD.Dup()


def allreduces(size: int, number: int, ours: bool) -> list[float]:
    """Seconds of each in-place sum of so many bytes, through tinydl's world or through mpi4py alone."""
    from mpi4py import MPI

    world = tl.distributed.world()
    bare = bare_communicator()
    array = np.ones(size // 4, np.float32)
    seconds = []
    for _ in range(number):
        array *= 0.5  # stays finite
        world.barrier()
        began = time.perf_counter()
        if ours:
            world.allreduce(array)
        else:
            bare.Allreduce(MPI.IN_PLACE, array, MPI.SUM)
        seconds.append(time.perf_counter() - began)
    return seconds


def one_way(size: int, number: int) -> list[float]:
    """Seconds of each message of so many bytes between ranks 0 and 1: half of a round trip, on rank 0."""
    from mpi4py import MPI

    communicator = bare_communicator()
    array = np.ones(size, np.uint8)
    seconds = []
    tl.distributed.world().barrier()
    for _ in range(number + 1):
        began = time.perf_counter()
        if MPI.COMM_WORLD.rank == 0:
            communicator.Send(array, 1)
            communicator.Recv(array, 1)
        else:
            communicator.Recv(array, 0)
            communicator.Send(array, 0)
        seconds.append((time.perf_counter() - began) / 2)
    return seconds[1:]


def adding(size: int, number: int) -> list[float]:
    """Seconds of each addition of an array of so many bytes to another."""
    total, part = np.ones(size // 4, np.float32), np.ones(size // 4, np.float32)
    seconds = []
    for _ in range(number):
        began = time.perf_counter()
        total += part
        seconds.append(time.perf_counter() - began)
    return seconds


def about() -> dict[str, Any]:
    """Versions of what these processes use."""
    from mpi4py import MPI

    library = MPI.Get_library_version().strip("\0").splitlines()[0]
    return {"mpi": " ".join(library.replace(":", " ").split()), "ranks": MPI.COMM_WORLD.size}
