"""A rank that fails ends all ranks, within seconds and with its own error. None of these jobs may hang."""

import os
import signal
import time

from tests.distributed.jobs import PROGRAMS, each_mpi, finish, one_mpi, run, start, weights
from tinydl.training.interrupt import InterruptGuard

ENDING = PROGRAMS / "ending.py"

STOPS_SOON = """
import runpy, sys
from tinydl.distributed import replicas
replicas.SECONDS_TO_STOP = 1.0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0])
"""


@each_mpi
def test_an_error_on_one_rank_ends_all_with_its_traceback(python):
    code, output = run(python, ENDING, "raise", ranks=3)
    assert code == 1
    assert "[rank 1] ValueError: rank one has had enough" in output
    assert '[rank 1]     raise ValueError("rank one has had enough")' in output
    assert "[rank 0]" not in output and "[rank 2]" not in output


@each_mpi
def test_an_exit_with_an_error_code_on_one_rank_ends_all(python):
    """Command lines catch errors, show them, and exit: no traceback, but as final."""
    code, output = run(python, ENDING, "exit")
    assert code == 3
    assert "[rank 1] ends with code 3 while other ranks are at work" in output


@each_mpi
def test_an_error_of_all_ranks_is_shown_once(python):
    code, output = run(python, ENDING, "all alike", ranks=3)
    assert code == 1
    assert output.count("ValueError: nobody can do this") == 1
    assert "[rank 0] ValueError" in output


@one_mpi
def test_different_errors_are_all_shown(python):
    code, output = run(python, ENDING, "all differ")
    assert code == 1
    assert "[rank 0] ValueError: reason 0" in output
    assert "[rank 1] ValueError: reason 1" in output


@one_mpi
def test_a_rank_that_leaves_fit_by_an_exit_ends_all(python):
    """Even with code 0: the others wait for it in their next step."""
    for how, expected in (("exit", 1), ("SystemExit", 4)):
        code, output = run(python, PROGRAMS / "leaving.py", how)
        assert code == expected
        assert f"[rank 1] ends with code {expected} while other ranks are at work" in output
        assert "trained" not in output


@one_mpi
def test_one_rank_cannot_stop_in_the_middle_of_an_epoch(python):
    code, output = run(python, "-c", STOPS_SOON, PROGRAMS / "leaving.py", "stop")
    assert code == 1
    assert "[rank 1] RuntimeError: rank 1 stops in the middle of an epoch (model.stop_tr" in output
    assert "trained" not in output


@one_mpi
def test_ranks_that_all_exit_with_a_code_hand_it_on(python):
    code, output = run(python, ENDING, "all exit")
    assert code == 5
    assert "other ranks are at work" not in output


@each_mpi
def test_a_killed_rank_ends_all_with_a_code_that_means_try_again(python):
    code, output = run(python, ENDING, "kill")
    assert "now" in output
    assert code not in (0, 1, 2, 130)


@one_mpi
def test_memory_that_runs_out_means_try_again(python):
    code, output = run(python, ENDING, "memory", max_restarts=1)
    assert code == 75
    assert output.count("[rank 1] MemoryError") == 2  # once in each start


@one_mpi
def test_bad_input_to_tinydl_train_is_one_line(python):
    code, output = run(python, "-m", "tinydl", "train", "lenett", max_restarts=2)
    assert code == 1
    assert output.count("unknown architecture 'lenett'") == 1
    assert "Traceback" not in output and "restart" not in output


@one_mpi
def test_an_error_of_one_rank_in_tinydl_train_ends_all(python, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import tinydl as tl\n"
        "def build(input_shape, classes, seed):\n"
        "    if tl.distributed.world().rank == 1: raise ValueError('not on this machine')\n"
        "    return tl.Sequential([tl.layers.Flatten(), tl.layers.Dense(classes)], seed=seed)\n"
    )
    model = f"{tmp_path}/mine.py:build"
    code, output = run(python, "-m", "tinydl", "train", model, "--runs", tmp_path / "runs")
    assert code == 1
    assert f"error: {model}, for input (8, 8, 1): ValueError: not on this machine" in output
    assert "[rank 1] ends with code 1" in output


def read_until(job, word):
    """The output up to a line with ``word``."""
    for line in job.stdout:
        if word in line:
            return
    raise AssertionError(f"the job ended before it printed '{word}'")


@each_mpi
def test_sigterm_writes_a_checkpoint_and_ends_all_ranks_after_the_same_step(
    python, tmp_path, undisturbed
):
    """The signal goes to the launcher, as a cluster sends it. Going on from there gives the usual weights."""
    program = PROGRAMS / "training.py"
    job = start(python, program, tmp_path, "0:slow", max_restarts=2)
    read_until(job, "step")
    job.send_signal(signal.SIGTERM)
    code, output = finish(job)
    assert code == 128 + signal.SIGTERM
    assert "start 0 ranks 2 stopped" in output and "lost a rank" not in output
    assert list(tmp_path.glob("checkpoint-*.safetensors"))
    _, resumed = run(python, program, tmp_path)
    assert weights(resumed) == undisturbed != weights(output)


@one_mpi
def test_sigterm_to_one_rank_stops_all(python, tmp_path):
    """A cluster that takes one machine away: its rank is told, all save and end."""
    job = start(python, PROGRAMS / "training.py", tmp_path, "1:slow")
    read_until(job, "step")
    os.kill(rank_of(job, 1), signal.SIGTERM)
    code, output = finish(job)
    assert code == 0, output  # the program itself went on after fit, and ended
    assert "start 0 ranks 2 stopped" in output


def rank_of(job, rank):
    """The process of a rank, found below the launcher by its environment."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ") as file:
                variables = file.read().split("\0")
            with open(f"/proc/{pid}/cmdline") as file:
                words = file.read()
        except OSError:
            continue
        if job.args[-2] in words and {f"PMI_RANK={rank}", f"OMPI_COMM_WORLD_RANK={rank}"} & set(
            variables
        ):
            return int(pid)
    raise AssertionError(f"there is no process of rank {rank}")


def test_a_worker_forked_during_training_is_ended_by_sigterm():
    """As multiprocessing ends its pools. To training itself it is a request, which a worker would not answer."""
    guard, (reading, writing) = InterruptGuard(), os.pipe()
    with guard:
        worker = os.fork()
        while worker == 0:
            os.write(writing, b"here")  # before, Python forgets signals of the process that it was
            time.sleep(0.01)  # signal.pause() would miss one that comes just before it
        os.read(reading, 4)
        os.kill(worker, signal.SIGTERM)
        until = time.monotonic() + 20
        while (ended := os.waitpid(worker, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
            time.sleep(0.01)
    if ended == (0, 0):
        os.kill(worker, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(ended[1]) == -signal.SIGTERM
    assert not guard.requested
