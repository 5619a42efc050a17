"""Measuring for real, in child processes: small, and judged by what comes back, not by how fast it was."""

import io
import json
import os

import pytest

from tinydl.bench import ladders, rounds, worker
from tinydl.bench.contenders import Contender, contenders, environment
from tinydl.bench.operations import Job
from tinydl.bench.processes import Worker, WorkerError, search_path
from tinydl.bench.rounds import Arena, Settings, WrongResult

QUICK = Settings(dtype="float32", threads=1, seconds=0.0)


@pytest.fixture(scope="module")
def plain():
    with Worker(environment(1)) as process:
        yield process


def test_measurement_of_two_contenders():
    with Arena("matmul", contenders("matmul", ["openblas"], ""), QUICK) as arena:
        heard = {}
        m = arena.measure("8x6x4", heard.__setitem__)
        again = arena.measure("4 TT")
    assert list(m.seconds) == list(heard) == ["tinydl", "openblas"]
    assert {len(times) for times in m.seconds.values()} == {rounds.MIN_ROUNDS}
    assert all(t > 0 for times in m.seconds.values() for t in times)
    assert (m.flops, m.bytes, m.case) == (2 * 8 * 6 * 4, 4 * (48 + 24 + 32), "8x6x4 NN")
    assert again.case == "4x4x4 TT"


def test_two_threads_take_two_processes():
    settings = Settings(threads=2, seconds=0.0)
    with Arena("matmul", contenders("matmul", ["numpy"], ""), settings) as arena:
        assert len({w.process.pid for w in arena.workers.values()}) == 2
        assert arena.measure("8").threads == 2
    assert all(w.process.poll() == 0 for w in arena.workers.values())


def test_a_worker_has_the_environment_it_was_given(plain):
    assert plain.ask("importable", module="json") is True
    assert plain.ask("importable", module="no_such_module") is False
    assert all(pool["num_threads"] == 1 for pool in plain.ask("blas"))


def test_an_error_in_a_worker_is_told_and_ends_nothing(plain):
    with pytest.raises(WorkerError, match="UnknownCase"):
        plain.ask(
            "prepare",
            contender="x",
            name="matmul",
            case="?",
            library="tinydl",
            dtype="f",
            threads=1,
        )
    assert plain.ask("memory") > 1 << 20


def test_a_worker_that_dies_is_reported():
    process = Worker(environment(1))
    process.process.kill()
    with pytest.raises(WorkerError, match="ended during 'memory'"):
        process.ask("memory")
        process.ask("memory")
    process.close()


def test_prints_of_a_library_do_not_get_between_the_answers(tmp_path):
    (tmp_path / "chatty").mkdir()
    program = "import os\nprint('hello', flush=True)\nos.write(1, b'from C')\n"
    (tmp_path / "chatty" / "__init__.py").write_text(program)
    variables = {**environment(1), "PYTHONPATH": f"{tmp_path}{os.pathsep}{search_path()}"}
    with Worker(variables) as process:
        assert process.ask("importable", module="chatty.part") is False  # imports chatty to see


def test_settings_refuse_processor_time_over_threads():
    with pytest.raises(ValueError, match="one thread"):
        Settings(threads=2, clock="cpu")


def test_serve_answers_each_line(monkeypatch):
    monkeypatch.setattr(worker, "JOBS", {"a": Job(lambda: None)})
    requests = [
        {"do": "turn", "contender": "a", "calls": 3, "warm": 1e-9, "clock": "cpu"},
        {"do": "turn", "contender": "b", "calls": 3, "warm": 1e-9, "clock": "cpu"},
    ]
    replies = io.StringIO()
    worker.serve(io.StringIO("\n".join(map(json.dumps, requests))), replies)
    first, second = map(json.loads, replies.getvalue().splitlines())
    assert first["result"] >= 0
    assert second["error"].startswith("KeyError")


def test_turn_counts_its_calls():
    calls = []
    worker.JOBS["count"] = Job(lambda: calls.append(1))
    try:
        worker.turn("count", 5, 1e-9, "wall")
        assert len(calls) == 6
        worker.turn("count", 5, 0.0, "wall")
        assert len(calls) == 11
        worker.turn("count", 5, 0.01, "wall")
        assert len(calls) > 17
    finally:
        worker.forget()
    assert not worker.JOBS


def test_a_wrong_result_is_no_contender():
    arena = Arena.__new__(Arena)
    arena.operation, arena.settings = "matmul", QUICK
    arena.contenders = [Contender("tinydl", "tinydl"), Contender("numpy", "numpy")]
    arena.compare("8", "numpy", [10.0, 5.0], [10.001, 5.0])
    arena.compare("8", "numpy", None, [10.0, 5.0])
    for found in ([10.1, 5.0], [10.0, 5.1], [float("nan"), 5.0]):
        with pytest.raises(WrongResult, match="numpy and tinydl"):
            arena.compare("8", "numpy", found, [10.0, 5.0])


def test_fingerprints_tell_transposed_results_apart():
    import numpy as np

    x = np.arange(6.0).reshape(2, 3)
    assert worker.fingerprint_of(x) == worker.fingerprint_of(x.copy())
    assert worker.fingerprint_of(x)[0] != worker.fingerprint_of(x.T)[0]


@pytest.mark.parametrize("operation, case", [("matmul", "40x7x35"), ("conv2d", "n1c3h9k5r3")])
def test_every_rung_of_the_ladder_takes_part(operation, case):
    rungs = ladders.climbers(operation, [])
    with Arena(operation, contenders(operation, [], "") + rungs, QUICK) as arena:
        m = arena.measure(case)  # tiles do not fit: all rungs have edges to do, and are right
    assert list(m.seconds) == ["tinydl", *[f"ladder:{name}" for name in ladders.rungs(operation)]]
    assert len(rungs) >= 5
