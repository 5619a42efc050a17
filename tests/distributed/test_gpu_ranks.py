"""Ranks on GPUs, with stand-ins for CuPy and the kernels: gradients travel by way of the host, or as they are."""

from __future__ import annotations

import numpy as np
import pytest

import tinydl as tl
from tests.distributed.models import train, weights
from tests.training.stand_in_cupy import Device
from tests.training.test_devices import make_stand_ins
from tinydl.devices import DeviceError
from tinydl.distributed.gpu_ranks import reads_gpu_memory

SMALL = {"bucket_bytes": 512, "first_bucket_bytes": 64, "check_every": 1}
STRATEGIES = {
    "thread": lambda: tl.distributed.DataParallel(**SMALL),
    "none": lambda: tl.distributed.DataParallel(overlap="none", **SMALL),
    "bfloat16": lambda: tl.distributed.DataParallel(compression="bfloat16", **SMALL),
    "top_k": lambda: tl.distributed.DataParallel(compression="top_k", **SMALL),
    "power_sgd": lambda: tl.distributed.DataParallel(compression="power_sgd", **SMALL),
    "local": lambda: tl.distributed.LocalSGD(every=2),
}


@pytest.fixture(autouse=True)
def few_ranks(job):
    if job.ranks > 2:
        pytest.skip(
            "two ranks show it, and threads of more than there are cores wait for each other"
        )


def there_and_here(name, strategy, **arguments):
    """Weights and losses of the same training on GPUs and on CPUs, and the GPU that this rank chose."""
    with pytest.MonkeyPatch.context() as patch:
        make_stand_ins(patch)
        Device.used.clear()
        rank = tl.distributed.world().rank
        there, lost = train(name, STRATEGIES[strategy](), seed=rank, device="cuda", **arguments)
    here, expected = train(name, STRATEGIES[strategy](), seed=rank, **arguments)
    return weights(there), weights(here), lost, expected, list(Device.used)


def check(job, *arguments, **named):
    for rank, (got, want, lost, expected, used) in enumerate(
        job.run(there_and_here_with, arguments, named)
    ):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(lost["loss"], expected["loss"], rtol=1e-9)
        np.testing.assert_allclose(lost["val_accuracy"], expected["val_accuracy"])
        assert used == ([rank % 2] if job.ranks > 1 else [])


def there_and_here_with(arguments, named):
    return there_and_here(*arguments, **named)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gpus_train_as_cpus_do(job, strategy):
    check(job, "mlp", strategy)


@pytest.mark.parametrize("name", ["cnn", "recurrent", "frozen"])
def test_other_models(job, name):
    check(job, name, "thread")


def test_accumulated_gradients(job):
    check(job, "mlp", "thread", accumulate_steps=3)


def refused():
    errors = []
    with pytest.MonkeyPatch.context() as patch:
        make_stand_ins(patch)
        for options in ({"deterministic": True, "shards": 12}, {"shard_optimizer": True}):
            try:
                train("mlp", tl.distributed.DataParallel(**options), device="cuda")
            except DeviceError as error:
                errors.append(str(error))
    return errors


def test_what_needs_the_host_is_refused(job):
    for errors in job.run(refused):
        if job.ranks > 1:
            first, second = errors
            assert first.endswith("device='cuda' cannot be had with deterministic=True yet")
            assert second.endswith("device='cuda' cannot be had with shard_optimizer=True yet")


def what_mpi_says():
    from mpi4py import MPI

    return reads_gpu_memory(MPI)


def test_mpi_is_asked_whether_it_reads_the_memory_of_gpus(job):
    assert set(job.run(what_mpi_says)) <= {True, False}


def in_place():
    """An MPI that reads the GPU's memory is given the bucket itself, when all that was ordered before is done."""
    from tests.training.stand_in_cupy import DeviceArray
    from tinydl.distributed.world import MPIWorld

    seen = []

    def allreduce(self, array, op="sum"):
        seen.append(type(array) is DeviceArray)
        host = array.host if type(array) is DeviceArray else array
        plain(self, host, op)

    with pytest.MonkeyPatch.context() as patch:
        plain = MPIWorld.allreduce
        patch.setattr(MPIWorld, "allreduce", allreduce)
        patch.setattr(tl.distributed.world().side, "reads_gpu_memory", True)
        got, want, *_ = there_and_here("mlp", "thread")
    return got, want, any(seen)


def test_memory_of_the_gpu_is_given_to_an_mpi_that_reads_it(job):
    for got, want, given in job.run(in_place):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
        assert given == (job.ranks > 1)
