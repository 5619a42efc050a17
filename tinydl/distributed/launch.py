"""Start a command on many ranks; start it again when a rank is lost; pass signals on.

A job that ends with an error of the program itself would end so again: its code is handed back. A job that ended in
any other way has lost a rank (killed, out of memory, a machine that went down) and is started again, from its newest
whole checkpoint: ``tinydl train`` finds its folder by the job's name in the environment, a program of one's own goes
on with ``fit(…, callbacks=[Checkpoint(folder)], resume=True)``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tinydl.distributed.faults import FAILED, LOST_A_RANK, STOPPED
from tinydl.distributed.launchers import (
    PASSED_ON,
    Launcher,
    LaunchError,
    find_launcher,
    find_program,
    share,
)
from tinydl.distributed.left_over import SharedMemory

# What a rank learns about its job from its environment.
JOB = "TINYDL_JOB"  # the same name in all starts of the job
RESTART = "TINYDL_RESTART"  # 0 in the first start
RANKS = "TINYDL_RANKS"  # how many there should be

USAGE_ERROR = 2
FINAL = (0, FAILED, USAGE_ERROR, STOPPED)  # codes after which another start would change nothing

# Both launchers pass SIGUSR1 on to every rank and wait, whereas Open MPI's kills the ranks on SIGTERM.
PLEASE_STOP = getattr(signal, "SIGUSR1", signal.SIGTERM)


@dataclass
class Launch:
    """A job: ``command`` on ``ranks`` ranks.

    Args:
        threads: of each rank's kernels; None: the machine's cores, shared among its ranks.
        hosts: names of machines, reached through ssh; none: this machine.
        agent: program that starts a command on a host, called as ``agent HOST COMMAND…``, in place of ssh.
        max_restarts: how often a job that lost a rank is started again.
        elastic: start again without the ranks of hosts that do not answer, or else with one rank fewer.
        heartbeat: seconds between looks at the hosts, where the job may be started again; one that is switched off
            closes no connection, and its silence looks to the others like a long computation.

    Raises:
        LaunchError: no MPI, no such command, or numbers that make no sense.
    """

    command: Sequence[str]
    ranks: int
    threads: int | None = None
    hosts: Sequence[str] = ()
    agent: Path | None = None
    max_restarts: int = 0
    elastic: bool = False
    heartbeat: float = 60.0

    def __post_init__(self) -> None:
        for name, least in (("ranks", 1), ("max_restarts", 0)):
            if getattr(self, name) < least:
                raise LaunchError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise LaunchError(f"threads must be at least 1, got {self.threads}")
        self.command = find_command(self.command)
        self.launcher: Launcher = find_launcher()
        self.job = uuid.uuid4().hex[:12]
        self._process: subprocess.Popen | None = None
        self._stop_signal: int | None = None

    def run(self) -> int:
        """Run to the end, with as many restarts as allowed and needed. Returns the code to exit with."""
        handled = [
            getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)
        ]
        previous = {number: signal.signal(number, self._on_signal) for number in handled}
        try:
            return self._run()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _run(self) -> int:
        for restart in range(self.max_restarts + 1):
            code = self._start(restart)
            if self._stop_signal is not None:
                return 128 + self._stop_signal
            if code in FINAL or restart == self.max_restarts:
                self._name_silent_hosts(code)
                return code
            if self.elastic:
                self._shrink()
            say(
                f"the job lost a rank (code {code}): restart {restart + 1} of {self.max_restarts} "
                f"on {self.ranks} ranks"
            )
        return code

    def _start(self, restart: int) -> int:
        """One start of the job; the code of its ``mpiexec``."""
        environment = self.environment(restart)
        line = [
            *self.launcher.arguments(self.ranks, self.hosts, self.agent, environment),
            *self.command,
        ]
        left_over = SharedMemory()
        # A group of its own: Ctrl-C reaches this process alone, which passes it on as a request.
        self._process = subprocess.Popen(
            line,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        if self._stop_signal is not None:  # it came just before
            self._process.send_signal(PLEASE_STOP)
        code = self._wait(self._process)
        if code != 0:
            left_over.remove()
        return 128 - code if code < 0 else code

    def _wait(self, process: subprocess.Popen) -> int:
        """The code with which ``process`` ends. A host that falls silent ends it: the others would wait for ever."""
        seconds = self.heartbeat if self.max_restarts and self.hosts else None
        while True:
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                if silent := self._silent_hosts():
                    say(f"no answer from {', '.join(silent)}: the job is ended")
                    kill_group(process)
                    process.wait()
                    return LOST_A_RANK

    def environment(self, restart: int) -> dict[str, str]:
        """What every rank gets. Numba reads its number of threads when it is imported, so it is set before."""
        threads = str(self.threads or max(1, usable_cores() // share(self.ranks, self.hosts)))
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return {
            **(passed_on if self.hosts else {}),
            "NUMBA_NUM_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": "1",  # its idle threads would take the cores from our kernels
            JOB: self.job,
            RESTART: str(restart),
            RANKS: str(self.ranks),
        }

    def _silent_hosts(self) -> list[str]:
        """The hosts on which no command can be started; all are asked at once."""
        if not self.hosts:
            return []
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            answered = pool.map(lambda host: answers(host, self.agent), self.hosts)
            return [host for host, there in zip(self.hosts, answered, strict=True) if not there]

    def _name_silent_hosts(self, code: int) -> None:
        """A job that could not reach a host ends with words of the MPI launcher's own: say what they mean."""
        if code not in (0, STOPPED) and (silent := self._silent_hosts()):
            way = self.agent or "ssh"
            say(
                f"no answer from {', '.join(silent)}: is the name right, and does '{way} {silent[0]} true' "
                "work without a password?"
            )

    def _shrink(self) -> None:
        """Go on without the hosts that do not answer, else with one rank fewer."""
        gone = self._silent_hosts()
        alive = [host for host in self.hosts if host not in gone]
        if self.hosts and not alive:
            raise LaunchError(f"none of the hosts {', '.join(self.hosts)} answers any more")
        if gone:
            say(f"no answer from {', '.join(gone)}: going on without")
            self.ranks = max(1, min(self.ranks, share(self.ranks, self.hosts) * len(alive)))
            self.hosts = alive
        else:
            self.ranks = max(1, self.ranks - 1)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """First SIGINT or SIGTERM: ask all ranks to save a checkpoint and stop. Second: end them."""
        again = self._stop_signal is not None
        self._stop_signal = number
        if not again:
            os.write(2, b"\ntinydl launch: stopping all ranks after this step (again: at once)\n")
        if self._process is None or self._process.poll() is not None:
            return
        if again:
            kill_group(self._process)
        else:
            self._process.send_signal(PLEASE_STOP)


def end_with_parent() -> None:
    """In the launcher's process, before it begins: get SIGTERM if the parent is killed (Linux)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def kill_group(process: subprocess.Popen) -> None:
    """End ``process``, which leads a group, and what it started: its connections to other hosts would outlive it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def find_command(command: Sequence[str]) -> list[str]:
    """``command`` with its program found: beside the running Python (as ``tinydl`` itself), or on the PATH."""
    if not command:
        raise LaunchError(
            "no command: tinydl launch -n N -- COMMAND, as in tinydl launch -n 2 -- tinydl train"
        )
    program = find_program(command[0])
    if program is None:
        hint = f"; start it as: python {command[0]}" if command[0].endswith(".py") else ""
        raise LaunchError(f"there is no program '{command[0]}'{hint}")
    return [str(program), *command[1:]]


def answers(host: str, agent: Path | None, seconds: float = 15) -> bool:
    """Can a command be started on ``host``?"""
    line = [str(agent), host, "true"] if agent else ["ssh", "-oBatchMode=yes", host, "true"]
    try:
        quiet = subprocess.DEVNULL
        result = subprocess.run(line, timeout=seconds, stdin=quiet, stdout=quiet, stderr=quiet)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0


def usable_cores() -> int:
    """Those that this process may use: fewer than there are in containers and batch systems."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def say(text: str) -> None:
    print(f"tinydl launch: {text}", file=sys.stderr, flush=True)
