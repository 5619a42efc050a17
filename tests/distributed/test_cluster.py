"""Jobs on several computers: emulated hosts behind a link of 1 Gbit/s. `make test-cluster` runs this."""

import os
import subprocess
import sys
import time

import pytest

from tests.distributed.jobs import PROGRAMS, REPOSITORY, each_mpi, environment, weights

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import lab

WANTED = "TINYDL_TEST_CLUSTER" in os.environ
REASON = lab.missing() if WANTED else "emulated hosts are for `make test-cluster`"
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

LAUNCH = """
import sys
from pathlib import Path
from tinydl.distributed.launch import Launch
hosts, agent, *command = sys.argv[1:]
hosts = hosts.split(",")
job = Launch(command, len(hosts), threads=1, hosts=hosts, agent=Path(agent), max_restarts=1, elastic=True, heartbeat=3)
sys.exit(job.run())
"""


@pytest.fixture
def two_hosts():
    with lab.Lab(2) as cluster:
        yield cluster


def run(line, seconds=90):
    result = subprocess.run(
        line,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    return result.returncode, result.stdout


@each_mpi
def test_ranks_run_on_both_hosts_and_talk_over_the_link(python, two_hosts):
    code, output = run(two_hosts.launch(python, [python, str(PROGRAMS / "where.py")]))
    assert code == 0, output
    assert "rank 0 of 2 on h0: True" in output
    assert "rank 1 of 2 on h1: True" in output
    for host in two_hosts.hosts:  # each has to send half of 4 MB twice, at the least
        assert two_hosts.bytes_sent(host) > 4_000_000


@each_mpi
def test_training_across_hosts_gives_the_weights_of_one_process(
    python, two_hosts, undisturbed, tmp_path
):
    program = [python, str(PROGRAMS / "training.py"), str(tmp_path)]
    code, output = run(two_hosts.launch(python, program))
    assert code == 0, output
    assert "ranks 2 ended" in output
    assert weights(output) == undisturbed


@each_mpi
def test_a_host_that_falls_silent_is_left_behind(python, two_hosts, undisturbed, tmp_path):
    """Its power fails in the middle of training: the other one goes on from the newest checkpoint, alone."""
    program = [python, str(PROGRAMS / "training.py"), str(tmp_path / "run"), "0:slow"]
    hosts = ",".join(two_hosts.hosts)
    line = two_hosts.on("h0", [python, "-c", LAUNCH, hosts, str(two_hosts.agent), *program])
    # Into a file: the silent host's processes are on this machine in truth, and would keep a pipe open.
    log = tmp_path / "log"
    with log.open("w") as file:
        job = subprocess.Popen(line, env=environment(), stdout=file, stderr=subprocess.STDOUT)
    until = time.monotonic() + 60
    while log.read_text().count("step") < 5:
        assert time.monotonic() < until and job.poll() is None, log.read_text()
        time.sleep(0.02)
    two_hosts.switch_off("h1")
    job.wait(90)
    output = log.read_text()
    assert job.returncode == 0, output
    assert "no answer from h1" in output
    assert "start 1 ranks 1 ended" in output
    assert weights(output) == undisturbed
