"""A process that does what it is asked, one line of JSON at a time: prepare a job, time it, say what it is.

It is started as ``python -m tinydl.bench.worker`` with its threads and its BLAS set in the environment, since
libraries read these when they are loaded. Only contenders run in it; who runs when is decided by ``rounds``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from tinydl.bench.operations import Job, NotOffered, operation

JOBS: dict[str, Job] = {}
# The processor's time leaves out the moments in which other programs had the core; for one thread only.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def prepare(
    contender: str, name: str, case: str, library: str, dtype: str, threads: int, warm: float = 0.0
) -> dict:
    """Make a job and call it: to compile, for ``warm`` seconds, and to see how long a call takes."""
    set_threads(library, threads)
    module = operation(name)
    try:
        job = module.make(module.parse(case), library, dtype, threads)
    except NotOffered as reason:
        return {"missing": str(reason)}
    start = time.perf_counter()
    job.call()
    first = time.perf_counter() - start
    fingerprint = None if job.result is None else fingerprint_of(job.result())
    JOBS[contender] = job
    warm_up(job, warm)
    return {
        "first": first,
        "seconds": timed(job, 1),
        "fingerprint": fingerprint,
        "details": job.details,
    }


def set_threads(library: str, threads: int) -> None:
    if library.startswith("torch"):
        import torch

        torch.set_num_threads(threads)


def fingerprint_of(result: np.ndarray) -> list[float]:
    """(projection on a random vector, norm): equal results have equal ones, up to rounding."""
    flat = np.asarray(result, np.float64).ravel()
    direction = np.random.default_rng(1).standard_normal(flat.size)
    return [float(flat @ direction), float(np.linalg.norm(flat))]


def turn(contender: str, calls: int, warm: float, clock: str) -> float:
    """Seconds of one call, over ``calls`` of them, after ``warm`` seconds of calls that are not timed (see there)."""
    job = JOBS[contender]
    warm_up(job, warm)
    return timed(job, calls, CLOCKS[clock])


def warm_up(job: Job, seconds: float) -> None:
    """Call until so many seconds are over: at least once, or not at all if there are none."""
    if seconds == 0:
        return
    end = time.perf_counter() + seconds
    job.call()
    while time.perf_counter() < end:
        job.call()


def timed(job: Job, calls: int, clock: Callable[[], float] = time.perf_counter) -> float:
    call = job.call
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls


def forget() -> None:
    JOBS.clear()
    gc.collect()


def importable(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def blas() -> list[dict]:
    from threadpoolctl import threadpool_info

    return [dict(pool) for pool in threadpool_info() if pool["user_api"] == "blas"]


def peaks(dtype: str, threads: int, seconds: float) -> dict:
    from tinydl.bench.peaks import measure_peaks

    return measure_peaks(dtype, threads, seconds).model_dump()


def profile(case: str, dtype: str, clock: str) -> list[dict]:
    from tinydl.bench.profile import profile_step

    return [row.model_dump() for row in profile_step(case, dtype, CLOCKS[clock])]


def memory() -> int:
    from tinydl.bench.memory import peak_memory

    return peak_memory()


DUTIES = (prepare, turn, forget, importable, blas, peaks, profile, memory)


def answer(request: dict[str, Any]) -> dict:
    duties = {duty.__name__: duty for duty in DUTIES}
    try:
        return {"result": duties[request.pop("do")](**request)}
    except Exception as error:
        last = "".join(traceback.format_exception(error))
        return {"error": f"{type(error).__name__}: {error}", "traceback": last}


def serve(requests: TextIO, replies: TextIO) -> None:
    for line in requests:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    # Whatever a library prints must not get between the answers.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    gc.disable()  # no collection in the middle of a timed call, as in timeit
    serve(sys.stdin, replies)
