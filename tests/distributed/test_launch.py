"""`tinydl launch` without an MPI: the launchers' dialects, restarts, signals, with a stand-in for mpiexec."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed.jobs import environment
from tinydl.distributed import launch, left_over
from tinydl.distributed.launch import Launch
from tinydl.distributed.launchers import LaunchError, Mpich, OpenMPI, find_launcher, recognize

HYDRA = "HYDRA build details:\n    Version:                                 5.0.2"
PYTHON = sys.executable
PRRTE = "mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/"


def test_launchers_are_known_by_their_version():
    assert isinstance(recognize(Path("mpiexec"), HYDRA), Mpich)
    assert isinstance(recognize(Path("mpiexec"), PRRTE), OpenMPI)
    assert isinstance(recognize(Path("mpiexec"), "mpirun (Open MPI) 4.1.4"), OpenMPI)
    assert isinstance(recognize(Path("mpiexec"), "Intel(R) MPI Library for Linux* OS"), Mpich)
    with pytest.raises(
        LaunchError, match=r"neither Open MPI's launcher nor MPICH's.*'LAM 7\.1\.4'"
    ):
        recognize(Path("mpiexec"), "LAM 7.1.4")


def test_the_dialect_of_mpich():
    line = Mpich(Path("mpiexec"), HYDRA).arguments(5, ["a", "b"], Path("/agent"), {"X": "1 2"})
    words = "mpiexec -launcher ssh -launcher-exec /agent -hosts a,b -ppn 3 -genv X VALUE -n 5"
    assert line == [word.replace("VALUE", "1 2") for word in words.split()]
    assert Mpich(Path("mpiexec"), HYDRA).arguments(2) == ["mpiexec", "-n", "2"]


def test_the_dialect_of_open_mpi(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    mpirun = OpenMPI(Path("mpirun"), PRRTE)
    line = mpirun.arguments(4, ["a", "b"], Path("/agent"), {"X": "1 2"})
    words = "--mca plm_rsh_agent /agent --host a:2,b:2 -x X=VALUE -n 4"
    assert line[-9:] == [word.replace("VALUE", "1 2") for word in words.split()]
    assert " ".join(mpirun.arguments(2)) == "mpirun --oversubscribe --bind-to none -n 2"
    monkeypatch.setattr(os, "geteuid", lambda: 0)  # in a container
    assert "--allow-run-as-root" in mpirun.arguments(2)


# ---- a stand-in for MPICH's mpiexec: runs the command once, as the only rank ------------------------------


@pytest.fixture
def mpiexec(tmp_path, monkeypatch):
    """Beside the running Python: prints as Hydra does, keeps its command line in `starts`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    file = folder / "mpiexec"
    (folder / "stand_in.py").write_text(
        "import json, os, signal, subprocess, sys, time\n"
        "if '--version' in sys.argv: print('HYDRA build details:'); sys.exit()\n"
        f"with open({str(tmp_path / 'starts')!r}, 'a') as f: f.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "at = sys.argv.index('-n')\n"
        "asked = []\n"  # before there is a rank, too
        "signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))\n"
        "rank = subprocess.Popen(sys.argv[at + 2:])\n"
        "while (code := rank.poll()) is None:\n"
        "    while asked: rank.send_signal(asked.pop())\n"
        "    time.sleep(0.01)\n"
        "sys.exit(code if code >= 0 else -code)\n"
    )
    # A first line "#!python" must hold no space, a path may.
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/stand_in.py" "$@"\n')
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return tmp_path / "starts"


def starts(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def value_after(line, flag):
    return line[line.index(flag) + 1]


def variable(line, name):
    return next(line[i + 1] for i in range(len(line)) if line[i] == name and line[i - 1] == "-genv")


def shell(text):
    return ["sh", "-c", text]


def test_the_mpiexec_beside_python_comes_first(mpiexec, tmp_path):
    assert find_launcher().program == tmp_path / "bin" / "mpiexec"


def test_without_mpi_the_error_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"pip install 'tinydl\[mpi\]'"):
        find_launcher()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"command": [], "ranks": 2}, "no command"),
        ({"command": ["nosuchprogram"], "ranks": 2}, "no program 'nosuchprogram'"),
        ({"command": ["train.py"], "ranks": 2}, "python train.py"),
        ({"command": ["true"], "ranks": 0}, "ranks must be at least 1"),
        ({"command": ["true"], "ranks": 1, "threads": 0}, "threads must be at least 1"),
        ({"command": ["true"], "ranks": 1, "max_restarts": -1}, "max_restarts must be at least 0"),
    ],
)
def test_bad_input_is_one_clear_error(mpiexec, arguments, words):
    with pytest.raises(LaunchError, match=words):
        Launch(**arguments)


def test_cores_are_shared_among_the_ranks_of_a_machine(mpiexec, monkeypatch):
    monkeypatch.setattr(launch, "usable_cores", lambda: 8)
    command = ["true"]
    for job, threads in (
        (Launch(command, 2), "4"),
        (Launch(command, 3), "2"),
        (Launch(command, 20), "1"),
        (Launch(command, 8, hosts=["a", "b"]), "2"),
        (Launch(command, 2, threads=3), "3"),
    ):
        assert job.environment(0)["NUMBA_NUM_THREADS"] == threads
        assert job.environment(0)["OPENBLAS_NUM_THREADS"] == "1"


def test_a_job_that_lost_a_rank_is_started_again_as_the_same_job(mpiexec):
    ends_with = 'test "$TINYDL_RESTART" = 2 || kill -9 $$'
    assert Launch(shell(ends_with), 3, max_restarts=5).run() == 0
    lines = starts(mpiexec)
    assert [variable(line, "TINYDL_RESTART") for line in lines] == ["0", "1", "2"]
    assert len({variable(line, "TINYDL_JOB") for line in lines}) == 1
    assert [value_after(line, "-n") for line in lines] == ["3", "3", "3"]


def test_two_jobs_have_two_names(mpiexec):
    assert Launch(["true"], 1).job != Launch(["true"], 1).job


def test_no_more_restarts_than_allowed(mpiexec):
    assert Launch(shell("kill -9 $$"), 2, max_restarts=2).run() == 9
    assert len(starts(mpiexec)) == 3


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_what_the_program_decided_is_final(mpiexec, code):
    """Finished, its own error, wrong usage, stopped on request: it would end the same way again."""
    assert Launch(shell(f"exit {code}"), 2, max_restarts=3).run() == code
    assert len(starts(mpiexec)) == 1


def test_elastic_goes_on_with_one_rank_fewer_but_one_at_least(mpiexec):
    assert Launch(shell("exit 75"), 3, max_restarts=3, elastic=True).run() == 75
    assert [value_after(line, "-n") for line in starts(mpiexec)] == ["3", "2", "1", "1"]


def test_elastic_goes_on_without_hosts_that_do_not_answer(mpiexec, tmp_path, capfd):
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\ntest "$1" != b\n')
    agent.chmod(0o755)
    job = Launch(
        shell("exit 75"), 6, hosts=["a", "b", "c"], agent=agent, max_restarts=1, elastic=True
    )
    assert job.run() == 75
    first, second = starts(mpiexec)
    assert (value_after(first, "-hosts"), value_after(first, "-n")) == ("a,b,c", "6")
    assert (value_after(second, "-hosts"), value_after(second, "-n")) == ("a,c", "4")
    assert "no answer from b" in capfd.readouterr().err


@pytest.mark.parametrize("code", [1, 255])
def test_a_job_that_failed_names_the_hosts_that_do_not_answer(mpiexec, tmp_path, capfd, code):
    agent = tmp_path / "agent"
    agent.write_text('#!/bin/sh\ntest "$1" = a\n')
    agent.chmod(0o755)
    assert Launch(shell(f"exit {code}"), 3, hosts=["a", "b", "c"], agent=agent).run() == code
    assert (
        f"no answer from b, c: is the name right, and does '{agent} b true' work"
        in capfd.readouterr().err
    )


def wait_for(file, seconds=20):
    until = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < until, f"{file} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_ranks_to_stop_and_prevents_a_restart(mpiexec, tmp_path, number):
    """The rank gets SIGUSR1, saves what it wants to save, and ends."""
    (tmp_path / "rank.py").write_text(
        "import pathlib, signal, sys, time\n"
        "here = pathlib.Path(sys.argv[0]).parent\n"
        "def stop(*_): (here / 'saved').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGUSR1, stop)\n"
        "(here / 'running').touch()\n"
        "while True: time.sleep(0.01)\n"
    )
    program = (
        "import sys; from tinydl.distributed.launch import Launch; sys.executable = sys.argv[1];"
        "sys.exit(Launch(sys.argv[2:], 1, max_restarts=3).run())"
    )
    line = [PYTHON, "-c", program, sys.executable, PYTHON, str(tmp_path / "rank.py")]
    job = subprocess.Popen(line, env=environment())
    wait_for(tmp_path / "running")
    job.send_signal(number)
    assert job.wait(20) == 128 + number
    assert (tmp_path / "saved").exists()
    assert len(starts(mpiexec)) == 1


# ---- what killed ranks leave behind ------------------------------------------------------------------------


def test_left_over_shared_memory_is_removed_but_not_that_of_others(tmp_path, monkeypatch):
    """One rank is still ending when its files are looked for the first time; another job's goes on."""
    monkeypatch.setattr(left_over, "FOLDER", tmp_path)
    mapped, ending = tmp_path / "mpich_shm_mapped", tmp_path / "sm_segment.ending"
    looks = iter([{mapped, ending}])
    monkeypatch.setattr(left_over, "mapped_files", lambda: next(looks, {mapped}))
    (tmp_path / "mpich_shm_before").touch()
    shared = left_over.SharedMemory()
    for name in ("mpich_shm_mapped", "mpich_shm_orphan", "sm_segment.ending", "something_else"):
        (tmp_path / name).touch()
    shared.remove(seconds=0.3)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"mpich_shm_before", "mpich_shm_mapped", "something_else"}
