"""benchmarks/gpu_check.py, as far as it can be tried without a GPU."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_check

    return gpu_check


@pytest.fixture
def gpu_jobs(gpu_check):
    return sys.modules["gpu_jobs"]


# --- what is shown --------------------------------------------------------------------------------


def case(*shape, **tflops):
    return {"shape": list(shape), "contenders": {k: {"tflops": v} for k, v in tflops.items()}}


def test_goals_are_ratios_to_the_peer_in_the_same_precision(gpu_check, capsys):
    large = case(4096, 4096, 4096, cublas=50.0, tinydl=40.0)
    large["contenders"] |= {
        "cublas bf16": {"tflops": 700.0}, "tinydl bf16": {"tflops": 490.0}, "cublas tf32": {"tflops": 1.0},
    }  # fmt: skip
    results = {
        "matmul": [large, case(512, 512, 512, cublas=20.0, tinydl=25.0)],
        "conv2d": [case(1, 2, tinydl=5.0)],  # no peer: no goal
        "steps": [{"batch": 128, "images_per_second": {"tinydl": 60.0, "torch": 80.0}}],
    }
    found = {name: ratio for name, ratio, least in gpu_check.gpu_shown.goals(results)}
    assert found == pytest.approx(
        {
            "float32 at 4096^3, of cuBLAS": 0.8,
            "float32, all products, of cuBLAS": 1.0,
            "bfloat16 at 4096^3, of cuBLAS in bfloat16": 0.7,
            "resnet8, batches of 128, of PyTorch's images/s": 0.75,
        }
    )
    gpu_check.gpu_shown.show_goals(results)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["MISSED", "reached", "reached", "reached"]


def test_the_picture_takes_what_there_is(gpu_check, tmp_path):
    pytest.importorskip("matplotlib")
    about = {"device": "none", "date": "2026-11-24"}
    curves = {"gpu": [2.0, 1.0], "cpu": [2.0, 1.1], "float64": [2.0, 1.1], "allowed": [0.1, 0.2]}
    losses = {"losses": curves}
    steps = {"steps": [{"batch": 128, "images_per_second": {"tinydl": 60.0}}]}
    products = {"matmul": [case(2, 2, 2, tinydl=5.0)], "ladder": []}
    for i, found in enumerate((losses, products | losses | steps, products | steps)):
        gpu_check.gpu_shown.picture(about | found, tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").stat().st_size > 1000
    gpu_check.gpu_shown.picture(about, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


# --- processes of their own -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "seconds", "what"),
    [
        ("print('so far', flush=True)", 30, None),
        ("print('so far', flush=True); import time; time.sleep(60)", 0.5, "it had not ended after 0.5 s"),
        ("print('so far'); raise RuntimeError('the device fell off')", 30, "RuntimeError: the device fell off"),
        ("import os; print('so far', flush=True); os._exit(3)", 30, "so far"),
        ("import os; os._exit(3)", 30, "exit code 3"),
        ("print('never')", 0, "there was no time left to begin"),
    ],
)  # fmt: skip
def test_a_part_that_hangs_or_fails_is_told_of(gpu_jobs, program, seconds, what):
    words, failure = gpu_jobs.run([sys.executable, "-c", program], time.time() + seconds)
    assert failure == what
    assert words.startswith("so far") == ("so far" in program)


PART = """
import argparse, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from gpu_jobs import write
parser = argparse.ArgumentParser()
for name, kind in (("part", str), ("until", float), ("out", Path), ("seed", int)):
    parser.add_argument("--" + name, type=kind)
given = parser.parse_args()

def measure(allowance):
    print("measuring", given.part)
    if given.part == "b":
        raise ValueError("b cannot be measured")
    allowance.leave_out("half of it")
    return [given.part, given.seed, allowance.seconds() > 10]

write(given.out, measure, given.until)
"""


def test_parts_run_in_processes_of_their_own(gpu_jobs, tmp_path, capfd):
    script = tmp_path / "part.py"
    script.write_text(PART.format(folder=str(FOLDER)))
    allowance = gpu_jobs.Allowance(time.time() + 60)
    found = dict(gpu_jobs.together(str(script), ["a", "b", "c"], ["--seed", "7"], allowance))
    assert sorted(found) == ["a", "b", "c"]
    assert found["a"].found == ["a", 7, True] and found["c"].found == ["c", 7, True]
    assert found["a"].left_out == ["half of it"] and found["a"].failure is None
    assert found["b"].found is None and found["b"].failure == "ValueError: b cannot be measured"
    said = capfd.readouterr().out
    assert all(f"measuring {part}" in said for part in "abc")


# --- keeping to the time --------------------------------------------------------------------------


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self):
        self.now = 1000.0

    def time(self):
        return self.now


@pytest.fixture
def clock(gpu_check, gpu_jobs, monkeypatch):
    clock = Clock()
    for module in (gpu_jobs, gpu_check):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def check(gpu_check, gpu_jobs, clock, monkeypatch, tmp_path):
    """check(needs, *options): main() where each part needs so many seconds and finds what it needs, on one processor;
    gives the exit code and what was written."""
    found = {"right": [{"right": True}], "losses": [[1.0]], "steps": [], "prepare": None}

    def run_with(needs, *options, wrong=(), left_out=()):
        def run(command, until):
            given = dict(zip(command[3::2], command[4::2], strict=True))
            part, seconds = given["--part"], until - clock.now
            if seconds <= 0:
                return "", "there was no time left to begin"
            clock.now += min(needs(part), seconds)
            if needs(part) > seconds:
                return "", f"it had not ended after {seconds:.1f} s"
            results = found.get(part.split()[0], [])
            if part in wrong:
                results = [{"right": False}]
            words = {"found": results, "left_out": ["3 checks"] if part in left_out else []}
            Path(given["--out"]).write_text(json.dumps(words))
            return "", None

        out = tmp_path / "check"
        monkeypatch.setattr(gpu_jobs, "run", run)
        monkeypatch.setattr(gpu_jobs.os, "cpu_count", lambda: 1)
        monkeypatch.setattr(gpu_check, "about", lambda: {"device": "none", "date": "2026-11-24"})
        monkeypatch.setattr(gpu_check.gpu_shown, "picture", lambda *a: None)
        monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(out), *options])
        code = gpu_check.main()
        return code, json.loads(out.with_suffix(".json").read_text())

    return run_with


def parts_of(gpu_check):
    return [job for _, jobs in gpu_check.stages(["right", *gpu_check.SPEEDS]) for job in jobs]


def test_all_is_well_where_there_is_time_enough(gpu_check, check, clock, capsys):
    code, results = check(lambda part: 2.0)
    assert code == 0 and not results["failed"] and not results["left_out"]
    assert results["seconds"] == dict.fromkeys(parts_of(gpu_check), 2.0)
    assert results["in_all"] == clock.now - 1000 == 2.0 * len(parts_of(gpu_check))
    assert len(results["right"]) == len(gpu_check.RIGHT) and results["losses"]["right"]
    assert "right conv2d                    2.0 s" in capsys.readouterr().out


def test_eight_minutes_are_kept_whatever_hangs(gpu_check, check, clock):
    """What is right comes first; and what hangs there leaves all parts that follow their share."""
    code, results = check(lambda part: math.inf)
    assert code == 1
    in_all = clock.now - 1000 + gpu_check.ENDING
    assert in_all == pytest.approx(60 * gpu_check.MINUTES) and in_all < 8 * 60
    first, *others = parts_of(gpu_check)
    assert first.startswith("right") and sorted(results["failed"]) == sorted([first, *others])
    seconds = {part: results["seconds"][part] for part in gpu_check.SPEEDS}
    total = gpu_check.FIRST + sum(gpu_check.SPEEDS.values())
    for part, weight in gpu_check.SPEEDS.items():
        share = (60 * gpu_check.MINUTES - gpu_check.ENDING) * weight / total
        assert seconds[part] == pytest.approx(share)


def test_what_a_part_does_not_use_is_left_for_those_after_it(check, clock):
    code, results = check(lambda part: math.inf if part == "steps" else 1.0, "--minutes", "5")
    assert code == 1 and list(results["failed"]) == ["steps"]
    assert results["seconds"]["steps"] == pytest.approx(
        285 - (results["in_all"] - results["seconds"]["steps"])
    )
    assert results["seconds"]["steps"] > 200


def test_only_some(gpu_check, check):
    code, results = check(lambda part: 1.0, "--only", "matmul")
    assert code == 0 and list(results["seconds"]) == ["prepare matmul", "matmul"]
    code, results = check(lambda part: 1.0, "--only", "right")
    assert code == 0 and sorted(results["seconds"]) == sorted(gpu_check.RIGHT)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"wrong": ["right huge"]}, 1),
        ({"left_out": ["right huge"]}, 1),  # not checked is not right
        ({"left_out": ["matmul"]}, 0),
    ],
)
def test_what_is_wrong_or_was_not_checked_shows_in_the_exit_code(check, how, code, capsys):
    found, results = check(lambda part: 1.0, **how)
    assert found == code
    if "left_out" in how:
        ((part, words),) = results["left_out"].items()
        assert f"{part}: for lack of time without {words[0]}" in capsys.readouterr().out


def test_a_failure_costs_its_part_alone(gpu_check, check, capsys):
    code, results = check(lambda part: 1000.0 if part == "matmul" else 1.0)
    assert code == 1 and list(results["failed"]) == ["matmul"]
    assert "matmul FAILED: it had not ended after" in capsys.readouterr().out
    assert {"ladder", "conv2d", "steps", "losses"} <= set(results)


def test_checks_that_there_is_no_time_for_are_left_out(gpu_check, gpu_jobs, clock, monkeypatch):
    def slow(xp, rng, case):
        clock.now += 10
        return 0.0

    cases = [{"dtype": "float32", "number": i} for i in range(5)]
    monkeypatch.setitem(gpu_check.gpu_right.CHECKS, "slow", (slow, lambda: iter(cases)))
    allowance = gpu_jobs.Allowance(clock.now + 25)
    found = gpu_check.gpu_right.right(None, "slow", 0, allowance)
    assert [case["number"] for case in found] == [0, 1, 2]
    assert allowance.left_out == ["2 of 5 checks"]


def test_a_check_that_does_not_end_is_named(gpu_check, monkeypatch):
    said, told = [], threading.Event()

    def say(words):
        said.append(words)
        told.set()

    gpu_right = gpu_check.gpu_right
    check = lambda xp, rng, case: 0.0 if told.wait(60) else math.inf  # noqa: E731
    monkeypatch.setattr(gpu_right, "PATIENCE", 0.01)
    monkeypatch.setattr(gpu_right, "print", say, raising=False)
    monkeypatch.setitem(gpu_right.CHECKS, "slow", (check, lambda: iter([{"dtype": "float32"}])))
    (found,) = gpu_right.right(None, "slow", 0)
    assert found["right"] and said[0] == "  after 0.01 s still at slow {'dtype': 'float32'}"


@pytest.fixture
def timed(gpu_check, clock, monkeypatch):
    """Two contenders for each of four shapes; timed(seconds) lets a turn take so long."""
    speeds, turn_seconds = gpu_check.gpu_speeds, []

    class Turn:
        graph = "captured"

        def __init__(self, cupy, call):
            self.seconds = []

        def take(self):
            clock.now += turn_seconds[-1]
            self.seconds.append(turn_seconds[-1])

    def cases(cupy, torch):
        for n in (1, 2, 3, 4):
            yield {"shape": (n, n, n)}, {"ours": None, "theirs": None}, 1e12

    monkeypatch.setattr(speeds, "Turn", Turn)
    monkeypatch.setitem(speeds.CASES, "matmul", cases)
    monkeypatch.setitem(speeds.NUMBER, "matmul", 4)
    device = SimpleNamespace(Device=lambda: SimpleNamespace(synchronize=lambda: None))
    cupy = SimpleNamespace(cuda=device)

    def run(seconds, allowance):
        turn_seconds.append(seconds)
        return speeds.speeds(cupy, None, "matmul", allowance)

    return run


def test_speeds_are_measured_less_often_where_there_is_no_time(gpu_jobs, timed, clock):
    allowance = gpu_jobs.Allowance(clock.now + 200)
    found = timed(1.0, allowance)  # 4 shapes x 2 contenders x 15 turns
    assert [case["shape"][0] for case in found] == [1, 2, 3, 4]
    assert not allowance.left_out and clock.now == 1120

    allowance = gpu_jobs.Allowance(clock.now + 64)  # 8 turns each
    found = timed(1.0, allowance)
    assert len(found) == 4 and clock.now == 1184
    assert allowance.left_out == [f"{n}x{n}x{n}: 7 of 15 turns" for n in (1, 2, 3, 4)]
    assert found[0]["contenders"]["ours"]["tflops"] == 1.0


def test_shapes_are_left_out_where_three_turns_are_too_many(gpu_jobs, timed, clock):
    allowance = gpu_jobs.Allowance(clock.now + 100)
    found = timed(10.0, allowance)
    assert len(found) == 2 and clock.now == 1120  # one shape's turns too late, at most
    assert allowance.left_out[-1] == "2 of 4 shapes"


def test_each_part_is_measured_by_its_module(gpu_check, monkeypatch):
    called = []

    def stand_in(name):
        return lambda *given: called.append((name, *given))

    library = SimpleNamespace(namespace=lambda: "CuPy")
    monkeypatch.setitem(sys.modules, "tinydl_kernels.cuda.device", library)
    for module, name in (
        ("gpu_right", "right"), ("gpu_speeds", "speeds"), ("gpu_speeds", "prepare"), ("gpu_steps", "trainings"),
        ("gpu_steps", "speeds"), ("gpu_steps", "prepare"),
    ):  # fmt: skip
        monkeypatch.setattr(getattr(gpu_check, module), name, stand_in(f"{module}.{name}"))
    monkeypatch.setattr(gpu_check.gpu_speeds, "torch_or_none", lambda: "PyTorch")
    seed = 2**32 + 7
    for part in parts_of(gpu_check):
        gpu_check.measure(part, seed, "so long")
    right = [
        ("gpu_right.right", "CuPy", name, seed, "so long") for name in gpu_check.gpu_right.CHECKS
    ]
    losses = [("cuda", "float32"), ("cpu", "float32"), ("cpu", "float64")]
    shapes = ("ladder", "matmul", "conv2d")
    assert called == [
        *right,
        *(("gpu_steps.trainings", device, dtype, 7) for device, dtype in losses),
        *(("gpu_speeds.prepare", "CuPy", part, "so long") for part in shapes),
        ("gpu_steps.prepare", 7, "so long"),
        *(("gpu_speeds.speeds", "CuPy", "PyTorch", part, "so long") for part in shapes),
        ("gpu_steps.speeds", "PyTorch", 7, "so long"),
    ]
