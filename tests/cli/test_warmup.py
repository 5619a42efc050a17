"""`tinydl warmup`: the second process finds everything compiled."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tinydl.bench.processes import search_path
from tinydl.cli.main import app


def warmup(cache, *arguments):
    environment = {
        **os.environ,
        "PYTHONPATH": search_path(),
        "NUMBA_CACHE_DIR": str(cache),
        "NUMBA_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tinydl", "warmup", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_warmed_process_compiles_nothing(tmp_path):
    first = warmup(tmp_path, "sgd")
    assert "compiled 0" not in first and "cpu.optimizers._sgd" in first
    files = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.bin")}
    assert files
    second = warmup(tmp_path, "sgd")
    assert "everything was compiled already" in second
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.bin")} == files


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["lennet"], "did you mean 'lenet'"), (["sgd", "--dtype", "float16"], "float32 or float64")],
)
def test_bad_input_is_one_clear_error(arguments, words):
    result = CliRunner().invoke(app, ["warmup", *arguments])
    assert result.exit_code == 1 and words in result.output and "Traceback" not in result.output
