"""benchmarks/gpu_check.py, as far as it can be tried without a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_check

    return gpu_check


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
        "steps": {"speeds": [{"batch": 128, "images_per_second": {"tinydl": 60.0, "torch": 80.0}}]},
    }
    found = {name: ratio for name, ratio, least in gpu_check.goals(results)}
    assert found == pytest.approx(
        {
            "float32 at 4096^3, of cuBLAS": 0.8,
            "float32, all products, of cuBLAS": 1.0,
            "bfloat16 at 4096^3, of cuBLAS in bfloat16": 0.7,
            "resnet8, batches of 128, of PyTorch's images/s": 0.75,
        }
    )
    gpu_check.show_goals(results)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["MISSED", "reached", "reached", "reached"]


@pytest.mark.parametrize(
    ("program", "what"),
    [
        ("pass", None),
        ("import time; time.sleep(60)", "it had not ended after 0.5 s"),
        ("raise RuntimeError('the device fell off')", "RuntimeError: the device fell off"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_a_part_that_hangs_or_fails_is_told_of(gpu_check, program, what):
    assert gpu_check.run([sys.executable, "-c", program], 0.5 if "sleep" in program else 30) == what


def test_a_failure_costs_its_part_alone(gpu_check, monkeypatch, tmp_path, capsys):
    def measure_apart(part, seed):
        if part in ("right conv2d", "matmul"):
            raise RuntimeError("an illegal address")
        return [{"right": True}] if part.startswith("right") else []

    monkeypatch.setattr(gpu_check, "about", lambda: {"device": "none", "date": "2026-11-24"})
    monkeypatch.setattr(gpu_check, "measure_apart", measure_apart)
    out = tmp_path / "check"
    monkeypatch.setattr(
        sys, "argv", ["gpu_check.py", "--only", "right", "matmul", "--out", str(out)]
    )
    assert gpu_check.main() == 1
    results = gpu_check.json.loads(out.with_suffix(".json").read_text())
    assert results["right"] == [{"right": True}] * (len(gpu_check.gpu_right.CHECKS) - 1)
    assert results["failed"] == dict.fromkeys(("right conv2d", "matmul"), "an illegal address")
    assert "right conv2d FAILED: an illegal address" in capsys.readouterr().out
