"""The collectives, against what they are defined to do."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import tinydl as tl
from tests.distributed.mpi import environment_of_ranks
from tinydl.distributed.launchers import LaunchError
from tinydl.distributed.shared_memory import SharedArray
from tinydl.distributed.world import SIZE_VARIABLES, World, require_all, share


def own_numbers(rank, size=10):
    return np.random.default_rng(rank).integers(-9, 9, size).astype(np.float32)


def collectives(length):
    many = tl.distributed.world()
    own = own_numbers(many.rank, length)
    part = share(length, many.rank, many.size)

    total, low, high = own.copy(), own.copy(), own.copy()
    many.allreduce(total)
    many.allreduce(low, "min")
    many.allreduce(high, "max")
    beside = own.copy()
    many.side.allreduce(beside)
    started = own.copy()
    request = many.start_allreduce(started)
    many.finish([request])

    scattered = np.empty(part.stop - part.start, np.float32)
    many.reduce_scatter(own, scattered)
    gathered = np.empty(length, np.float32)
    many.all_gather(own[part], gathered)
    at_root = np.empty(length, np.float32) if many.rank == 0 else None
    many.gather(own[part], at_root)
    rows = np.stack([own + r for r in range(many.size)])
    received = np.empty_like(rows)
    many.all_to_all(rows, received)
    first = own.copy()
    many.broadcast(first)
    half = many.split(many.rank % 2)
    in_half = own.copy()
    half.allreduce(in_half)
    return {
        "place": (many.rank, many.size, half.rank, half.size),
        "total": total,
        "low": low,
        "high": high,
        "beside": beside,
        "started": started,
        "scattered": scattered,
        "gathered": gathered,
        "at_root": at_root,
        "received": received,
        "first": first,
        "in_half": in_half,
        "text": many.broadcast_text("of rank 0: ∑" if many.rank == 0 else None),
    }


def shared_arrays(length):
    """The same collectives, of arrays that all ranks see, and of a part of one."""
    many = tl.distributed.world()
    own = own_numbers(many.rank, length)
    array, other = (many.shared_array(length, own.dtype) for _ in range(2))
    if array is None or other is None:
        return None
    assert not array.any() and not many.shares(own)
    assert many.shares(array) and many.shares(array[length // 2 :]) and many.shares(other[:1])
    array[...] = own
    many.allreduce(array)
    other[...] = own
    many.allreduce(other[1:])
    total, behind = array.copy(), other.copy()

    part = share(length, many.rank, many.size)
    array[...] = own
    scattered = np.empty(part.stop - part.start, np.float32)
    many.reduce_scatter(array, scattered)
    array[...] = 0
    many.all_gather(scattered, array)
    gathered = array.copy()
    array[...] = own
    many.barrier()
    many.reduce_scatter(array, array[part])  # in place
    many.all_gather(array[part], array)
    in_place = array.copy()
    low = own.copy()
    many.allreduce(low, "min")  # arrays of one's own take part as before
    del array, other
    many.free_unused_arrays()
    assert many.shared_array(length, own.dtype) is not None
    kept = many._shared[0].own[length // 2 :] if many.rank == 1 else None
    many.free_unused_arrays()
    assert len(many._shared) == 1, "somebody could still read it"
    del kept
    many.free_unused_arrays()
    assert not many._shared
    return {
        "total": total,
        "behind": behind,
        "gathered": gathered,
        "in_place": in_place,
        "low": low,
    }


@pytest.mark.parametrize("length", [10, 2, 100_000])
def test_arrays_that_all_ranks_see(job, length):
    everyone = [own_numbers(rank, length) for rank in range(job.ranks)]
    total = np.sum(everyone, axis=0)
    for rank, got in enumerate(job.run(shared_arrays, length)):
        if job.ranks == 1:
            assert got is None  # nobody to share with
            continue
        for name in ("total", "gathered", "in_place"):
            np.testing.assert_array_equal(got[name], total)
        np.testing.assert_array_equal(got["behind"][1:], total[1:])
        assert got["behind"][0] == everyone[rank][0]
        np.testing.assert_array_equal(got["low"], np.min(everyone, axis=0))


def test_shared_memory_must_have_room(tmp_path):
    """A process that writes to shared memory which is not there dies without a word."""
    fits = SharedArray.fits
    assert fits(2, 1000, np.dtype("f4"), folder=str(tmp_path))
    assert not fits(2, 10**15, np.dtype("f4"), folder=str(tmp_path))
    assert fits(2, 10**15, np.dtype("f4"), folder=str(tmp_path / "not there"))


@pytest.mark.parametrize("length", [10, 2])  # 2: shares of nothing, on four ranks
def test_collectives(job, length):
    n = job.ranks
    everyone = [own_numbers(rank, length) for rank in range(n)]
    for rank, got in enumerate(job.run(collectives, length)):
        same_half = [r for r in range(n) if r % 2 == rank % 2] if n > 1 else [0]
        part = share(length, rank, n)
        assert got["place"] == (rank, n, same_half.index(rank), len(same_half))
        for name in ("total", "beside", "started"):
            np.testing.assert_array_equal(got[name], np.sum(everyone, axis=0))
        np.testing.assert_array_equal(got["low"], np.min(everyone, axis=0))
        np.testing.assert_array_equal(got["high"], np.max(everyone, axis=0))
        np.testing.assert_array_equal(got["scattered"], np.sum(everyone, axis=0)[part])
        parts = [everyone[r][share(length, r, n)] for r in range(n)]
        np.testing.assert_array_equal(got["gathered"], np.concatenate(parts))
        if rank == 0:
            np.testing.assert_array_equal(got["at_root"], np.concatenate(parts))
        np.testing.assert_array_equal(got["received"], [everyone[r] + rank for r in range(n)])
        np.testing.assert_array_equal(got["first"], everyone[0])
        np.testing.assert_array_equal(got["in_half"], sum(everyone[r] for r in same_half))
        assert got["text"] == "of rank 0: ∑"


def seconds_of_a_barrier():
    many = tl.distributed.world()
    before = many.seconds
    many.barrier()
    return many.seconds - before


def test_time_in_collectives_is_counted(job):
    for seconds in job.run(seconds_of_a_barrier):
        assert (seconds > 0) == (job.ranks > 1)


def test_a_world_of_one_changes_nothing():
    alone, x = World(), np.arange(5.0)
    for call in (alone.allreduce, alone.broadcast):
        y = x.copy()
        call(y)
        np.testing.assert_array_equal(y, x)
    for call in (alone.reduce_scatter, alone.all_gather, alone.gather):
        y = np.zeros(5)
        call(x, y)
        np.testing.assert_array_equal(y, x)
    assert (alone.rank, alone.size, alone.local_rank) == (0, 1, 0)
    assert alone.side is alone and alone.split(3) is alone
    assert alone.broadcast_text("x") == "x"


def run_alone(program, **variables):
    launcher = ("OMPI_", "PMI_", "PMIX_", "MPI_")
    clean = {k: v for k, v in environment_of_ranks().items() if not k.startswith(launcher)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**clean, **variables}
    )


def test_a_process_alone_never_imports_mpi4py():
    program = (
        "import sys, numpy as np, tinydl as tl\n"
        "sys.modules['mpi4py'] = None\n"  # an import of it would raise
        "model = tl.Sequential([tl.layers.Dense(2), tl.distributed.SyncBatchNorm()])\n"
        "model.compile('sgd', 'mse')\n"
        "model.fit(np.ones((4, 3)), np.ones((4, 2)), batch_size=4, verbose=0,\n"
        "          strategy=tl.distributed.DataParallel(compression='bfloat16'))\n"
        "print(tl.distributed.world().size)"
    )
    run = run_alone(program)
    assert run.stdout.split() == ["1"], run.stderr
    assert run.stderr == ""


def test_a_launcher_without_mpi4py_is_an_error_that_says_what_to_install():
    program = "import sys, tinydl as tl\nsys.modules['mpi4py'] = None\ntl.distributed.world()"
    run = run_alone(program, PMI_SIZE="2")
    assert run.returncode != 0
    assert "PMI_SIZE is set" in run.stderr and "pip install 'tinydl[mpi]'" in run.stderr


@pytest.mark.parametrize("variable", ["TINYDL_RANKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_the_mpi_of_another_launcher_is_an_error(monkeypatch, variable):
    """Each rank would find itself alone, and train by itself."""
    for name in SIZE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    alone = SimpleNamespace(size=1)
    mpi = SimpleNamespace(COMM_WORLD=alone, Get_library_version=lambda: "Some MPI 1.0\nmore")
    require_all(mpi)
    monkeypatch.setenv(variable, "1")
    require_all(mpi)
    monkeypatch.setenv(variable, "4")
    with pytest.raises(LaunchError, match=r"4 ranks were launched.*sees 1: .*\(Some MPI 1.0\)"):
        require_all(mpi)
