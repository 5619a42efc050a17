"""`tinydl bench` from the command line to its files, with cases so small that nothing takes time."""

import json

import pytest
from typer.testing import CliRunner

from tinydl.bench import peaks, results
from tinydl.cli.main import app

runner = CliRunner()


def bench(*arguments):
    return runner.invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    result = bench(
        *("matmul", "16", "8x6x4", "--transposes", "NN", "--peer", "numpy"),
        *("--seconds", 0, "--output", folder, "--name", "first"),
    )
    assert result.exit_code == 0, result.output
    return result.output, folder


def test_tables_show_every_case_and_the_mean(first_run):
    output, _ = first_run
    for words in ("16x16x16 NN", "8x6x4 NN", "of peak", "× numpy", "geometric means", "lowest"):
        assert words in output


def test_files(first_run):
    output, folder = first_run
    report = results.read(folder / "first.json")
    assert [m.case for m in report.measurements] == ["16x16x16 NN", "8x6x4 NN"]
    (peak,) = report.peaks
    assert set(peak.bandwidth) == {*peaks.cache_levels(), "memory"} and peak.gflops > 1
    assert report.machine["target"]["vector_bytes"] in (16, 32, 64)
    pictures = sorted(p.name for p in folder.glob("first*.png"))
    assert pictures == ["first-roofline.png", "first-speeds.png"]
    assert all((folder / p).read_bytes().startswith(b"\x89PNG") for p in pictures)
    text = (folder / "first.txt").read_text()
    assert "16x16x16 NN" in text and "\x1b" not in text
    assert all(name in output for name in ("first.json", *pictures))


def test_comparison_with_the_earlier_file(first_run, tmp_path):
    _, folder = first_run
    arguments = ["--peer", "numpy", "--seconds", 0, "--output", tmp_path]
    result = bench(
        "matmul", "16", "--transposes", "NN", *arguments, "--against", folder / "first.json"
    )
    assert result.exit_code == 0, result.output
    assert "matmul 16x16x16 NN, float32, 1 thread" in result.output and "→" in result.output
    other = bench(
        "matmul", "4", "--transposes", "NN", *arguments, "--against", folder / "first.json"
    )
    assert "holds none of these cases" in other.output


def test_a_peer_that_was_asked_for_and_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tinydl.bench.runner.present_peers", lambda wanted, core_type: [])
    arguments = ["--peer", "torch", "--transposes", "NN", "--seconds", 0, "--output", tmp_path]
    result = bench("matmul", "4", *arguments)
    assert result.exit_code == 0 and "torch takes no part" in result.output


def test_step_shows_memory_and_each_layer(tmp_path):
    result = bench(
        *("step", "mlp b4", "--peer", "none", "--optimizer", "sgd"),
        *("--seconds", 0, "--output", tmp_path, "--name", "s"),
    )
    assert result.exit_code == 0, result.output
    for words in ("mlp b4 sgd", "dense_2", "(optimizer)", "share"):
        assert words in result.output
    (step,) = results.read(tmp_path / "s.json").steps
    assert step.parameters == {"tinydl": 784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10}
    assert 16 << 20 < step.peak_memory["tinydl"] < 4 << 30
    assert json.loads((tmp_path / "s.json").read_text())["command"].startswith("tinydl")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["matmul", "12y3"], "MxKxN"),
        (["matmul", "16", "--transposes", "NX"], "MxKxN"),
        (["matmul", "16", "--peer", "abacus"], "openblas, numpy, torch or none"),
        (["matmul", "16", "--dtype", "int8"], "float32 or float64"),
        (["matmul", "16", "--clock", "cpu", "--threads", "2"], "one thread"),
        (["matmul", "16", "--threads", "9999"], "9999 threads are more than the"),
        (["matmul", "16", "--against", "absent.json"], "absent.json"),
        (["conv2d", "n2c3h2k4r3"], "larger than the padded image"),
        (["conv2d", "n1c1h4k1r1", "--pass", "sideways"], "grad-weight"),
        (["step", "vgg"], "mlp, lenet"),
        (["passes", "rellu"], "relu"),
        (["ladder", "matmul", "--rung", "elevator"], "elevator"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = bench(*arguments)
    assert result.exit_code == 1, result.output
    assert words in result.output and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
