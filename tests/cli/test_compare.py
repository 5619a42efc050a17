"""`tinydl compare` from the command line to its report, and what it says of bad input."""

import json
import os
import signal
import time

import pytest
from typer.testing import CliRunner

from tinydl.cli import compare
from tinydl.cli.main import app
from tinydl.study import peers, pool
from tinydl.study.records import Record

runner = CliRunner()


def tinydl(*arguments):
    return runner.invoke(app, ["compare", *map(str, arguments)])


SMALL = ("--task", "digits", "--optimizer", "adam,das", "--schedule", "constant", "--seeds", 1)
QUICK = (*SMALL, "--rates", "0.01", "--scale", 0.05, "--jobs", 1)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    result = tinydl("run", *QUICK, "--output", folder)
    assert result.exit_code == 0, result.output
    return result.output, folder


def lines(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_the_report_is_shown_and_written(first_run):
    output, folder = first_run
    for words in ("4 runs done, 0 of them failed", "claim", "Test results", "digits", "written:"):
        assert words in output
    assert (folder / "REPORT.md").is_file() and (folder / "report.html").is_file()
    assert (folder / "sensitivity.png").is_file()


def test_the_file_tells_what_was_run(first_run):
    _, folder = first_run
    header, session, *runs = lines(folder)
    assert header == {"study": "tinydl compare", "format": 1, "scale": 0.05}
    assert {"started", "commit", "arguments"} <= set(session["session"])
    assert [(r["optimizer"], r["rate"], r["seed"]) for r in runs] == [
        *(("adam", 0.01, 100), ("adam", 0.01, 0), ("das", 0.1, 0), ("das", 0.01, 0))
    ]
    assert all(r["steps"] == 48 for r in runs)


def test_it_goes_on_where_it_was(first_run):
    _, folder = first_run
    before = len(lines(folder))
    result = tinydl("run", *QUICK, "--output", folder)
    assert result.exit_code == 0 and "0 runs done" in result.output
    assert len(lines(folder)) == before + 1  # the session


def test_again_forgets_the_runs_of_an_optimizer(first_run, monkeypatch):
    _, folder = first_run
    done = []

    def execute(runs, scale, jobs):
        for run, _ in runs:
            done.append(run.contender.optimizer)
            yield Record(run.task, "das", "constant", run.rate, run.seed, "", error="no time")

    monkeypatch.setattr(pool, "execute", execute)
    (folder / "runs.jsonl").rename(folder / "kept")
    (folder / "runs.jsonl").write_bytes((folder / "kept").read_bytes())
    result = tinydl("run", *QUICK, "--again", "das", "--output", folder)
    assert done == ["das", "das"]
    assert "2 of them failed" in result.output and "no time" in result.output
    (folder / "kept").replace(folder / "runs.jsonl")


def test_report_alone(first_run):
    _, folder = first_run
    (folder / "REPORT.md").unlink()
    result = tinydl("report", "--output", folder, "--subject", "das")
    assert result.exit_code == 0, result.output
    assert (folder / "REPORT.md").is_file()


def test_another_length_is_refused(first_run):
    _, folder = first_run
    result = tinydl("run", *SMALL, "--scale", 0.1, "--output", folder)
    assert result.exit_code == 1
    assert "0.05 times the steps, not of 0.1" in " ".join(result.output.split())


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_the_end_of_a_jobs_time_say_how_to_go_on(tmp_path, monkeypatch, signal_number):
    def stopped(*_):
        os.kill(os.getpid(), signal_number)
        time.sleep(10)
        yield

    monkeypatch.setattr(pool, "execute", stopped)
    # A shell starts what it runs in the background with Ctrl-C ignored, and its children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = tinydl("run", *QUICK, "--output", tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130 and "the same command goes on" in result.output


def test_list():
    result = tinydl("list")
    assert result.exit_code == 0
    for words in ("cifar-resnet8", "judged", "developed", "schedulefree", "its default"):
        assert words in result.output


def test_a_task_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom tinydl.study import TASKS\n"
        "def task():\n    return replace(TASKS['digits'], epochs=1, summary='mine')\n"
    )
    asked = []
    monkeypatch.setattr(
        compare, "follow", lambda protocol, results, *_: asked.extend(protocol.judging(results))
    )
    result = tinydl(
        "run", "--task", f"{tmp_path}/mine.py:task", "--optimizer", "das", "--output", tmp_path
    )
    assert "holds no runs" in result.output  # nothing was done here
    assert {run.task for run in asked} == {f"{tmp_path}/mine.py:task"} and len(asked) == 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--task", "digit"], "unknown task 'digit' (did you mean 'digits'?)"),
        (["run", "--task", ","], "at least one task"),
        (["run", "--task", "absent.py:task"], "there is no file absent.py"),
        (["run", "--optimizer", "adan"], "unknown optimizer 'adan' (did you mean 'adam'?)"),
        (["run", "--task", "digits", "--seeds", "0"], "seeds must be at least 1, got 0"),
        (["run", "--task", "digits", "--rates", "0.1,fast"], "expected numbers with commas"),
        (["run", "--task", "digits", "--rates", "0"], "must be positive and finite, got 0.0"),
        (["run", "--task", "digits", "--scale", "0"], "--scale must be positive"),
        (["run", "--task", "mnist-lenet"], "set TINYDL_DATA to their folder"),
        (["report", "--output", "absent"], "holds no runs: begin with tinydl compare run"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, words, tmp_path, monkeypatch):
    from tinydl.study import tasks

    tasks.mnist.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYDL_DATA", str(tmp_path / "nowhere"))
    result = tinydl(*arguments)
    assert result.exit_code == 1, result.output
    assert words in " ".join(result.output.split()) and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_peers_that_are_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "missing", lambda: "prodigyopt")
    result = tinydl("run", "--task", "digits", "--optimizer", "prodigy", "--output", tmp_path)
    assert result.exit_code == 1
    assert "the package prodigyopt is not installed" in " ".join(result.output.split())
    # Without them all is well.
    result = tinydl("run", *QUICK, "--stage", "tune", "--output", tmp_path)
    assert result.exit_code == 0, result.output
