"""Worker processes and whole studies: what is stopped goes on, what fails is kept."""

import itertools
import json
import subprocess
import sys

import pytest

from tinydl.study import pool, worker
from tinydl.study.contenders import Contender
from tinydl.study.protocol import Protocol
from tinydl.study.records import Results, Run
from tinydl.study.session import run_study

OWN = """
import os
from dataclasses import replace
from tinydl.study import TASKS


def short():
    return replace(TASKS["digits"], name="short", epochs=1)


def breaks():
    def model(seed):
        if seed == 1:
            raise MemoryError("seed 1 is too much")
        if seed == 2:
            os._exit(3)
        return TASKS["digits"].model(seed)

    return replace(short(), model=model)
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    return file


@pytest.fixture
def protocol(own):
    return Protocol((f"{own}:short",), ("adam",), ("constant",), rates=(0.001, 0.01), seeds=2)


def test_a_study_is_tuned_and_judged_and_resumed(tmp_path, protocol):
    results = Results(tmp_path)
    results.begin_session({})
    seen = []
    run_study(protocol, results, jobs=1, begin=lambda *a: seen.append(a), done=seen.append)
    assert seen[0] == ("tune", 2) and seen[3] == ("judge", 2) and len(seen) == 6
    again = Results(tmp_path)
    assert len(again.records) == 4 and not protocol.tuning(again) + protocol.judging(again)
    assert all(r.metric > 50 and r.steps == 32 for r in again.records.values())
    judged = next(r for run, r in again.records.items() if run.seed == 0)
    assert set(judged.layers) == {
        f"{n}.{p}" for n in ("dense", "dense_1", "dense_2") for p in ("weight", "bias")
    }
    run_study(protocol, again, begin=lambda *a: pytest.fail("nothing is left to do"))
    run = judged.run
    here = worker.execute(run, 1.0, watch_layers=True)  # the same as in a process of its own
    assert (here.losses, here.metric, here.layers) == (judged.losses, judged.metric, judged.layers)


def test_runs_that_fail_are_kept_with_their_error_and_tried_again_later(tmp_path, own):
    protocol = Protocol((f"{own}:breaks",), ("das",), rates=(0.1,), seeds=3)
    results = Results(tmp_path)
    results.begin_session({})
    run_study(protocol, results, jobs=1)
    errors = [r.error for r in results.records.values()]
    assert errors == [None, "MemoryError: seed 1 is too much", "its process ended with status 3"]
    assert [run.seed for run in protocol.judging(Results(tmp_path))] == [1, 2]


def test_leaving_early_ends_the_workers(protocol, monkeypatch):
    """Workers that answer the first request and then are busy for ever."""
    reply = json.dumps(
        {"task": "t", "optimizer": "o", "schedule": "s", "rate": 1, "seed": 0, "settings": ""}
    )
    program = f"import time\ninput()\nprint('{reply}', flush=True)\ntime.sleep(1000)"
    started = []

    def start():
        pipe = subprocess.PIPE
        command = [sys.executable, "-S", "-c", program]
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    monkeypatch.setattr(pool, "start", start)
    runs = [(Run(protocol.tasks[0], Contender("adam"), 0.001, seed), False) for seed in range(50)]
    records = pool.execute(runs, 1.0, jobs=2)
    assert len(list(itertools.islice(records, 2))) == 2
    records.close()
    assert len(started) == 2 and all(p.wait(timeout=20) is not None for p in started)


def test_workers_have_one_thread(monkeypatch):
    seen = {}

    class Stop(Exception):
        pass

    def popen(command, **arguments):
        seen.update(arguments["env"])
        assert command[0] == sys.executable
        raise Stop

    monkeypatch.setattr(pool.subprocess, "Popen", popen)
    with pytest.raises(Stop):
        pool.start()
    assert seen["NUMBA_NUM_THREADS"] == seen["OPENBLAS_NUM_THREADS"] == "1"
