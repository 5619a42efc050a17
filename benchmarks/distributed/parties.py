"""Processes that take part in a measurement or a test: they wait for a word, run a function all at once, wait again.

    with Party(mpi_ranks(python, 2)) as party:
        party.ask("training:build", "a", …)          # the function of that name, in every process; one result each
        party.ask("training:steps", "a", 20)

What is compared stays alive together and takes turns, so whatever slows the machine for a while slows all alike.
Who waits for a word sleeps in a socket, and takes no processor from the others; inside an MPI call it would spin.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Container, Mapping, Sequence
from multiprocessing.connection import Client, Connection, wait
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SECONDS = 120.0  # for one function; a party that takes longer hangs
AFTER_AN_ERROR = 2.0  # seconds in which the others, too, may say what happened to them
ONE_THREAD = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Where a process finds its number: as told below, by MPICH, by Open MPI.
RANK_VARIABLES = ("TINYDL_PARTY_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")


class PartyError(RuntimeError):
    """A process raised, ended, or did not answer in time."""


def alone(python: str, copies: int = 1) -> list[list[str]]:
    """Command lines of processes that know nothing of each other."""
    return [["env", f"TINYDL_PARTY_RANK={k}", python] for k in range(copies)]


def mpi_ranks(python: str, ranks: int = 2) -> list[list[str]]:
    """The command line of one job with so many ranks on this machine, a thread each."""
    return [[python, "-m", "tinydl", "launch", "-n", str(ranks), "--threads", "1", "--", python]]


def on_hosts(lab: Any, python: str) -> list[list[str]]:
    """The same with one rank on each of the lab's emulated hosts."""
    return [lab.launch(python, [python])]


def torch_ranks(python: str, ranks: int = 2, lab: Any = None) -> list[list[str]]:
    """PyTorch's processes, which find each other by address; one on each host where there is a lab."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = lab.address(0) if lab else "127.0.0.1"
    lines = []
    for k in range(ranks):
        about = {"RANK": k, "WORLD_SIZE": ranks, "MASTER_ADDR": address, "MASTER_PORT": port}
        about |= {"TINYDL_PARTY_RANK": k, "GLOO_SOCKET_IFNAME": "eth0" if lab else "lo"}
        line = ["env", *(f"{name}={value}" for name, value in about.items()), python]
        lines.append(lab.on(lab.hosts[k], line) if lab else line)
    return lines


class Party:
    """The processes of some command lines, each of which ends in a Python. Use it in a ``with`` statement.

    Args:
        commands: what starts them; this file and an address are put behind each.
        size: how many processes that makes.
    """

    def __init__(self, commands: Sequence[list[str]], size: int, **environment: str) -> None:
        self.size = size
        self._folder = tempfile.TemporaryDirectory(prefix="tinydl-party-")
        self._log = open(Path(self._folder.name) / "output", "w+")  # noqa: SIM115
        address = str(Path(self._folder.name) / "socket")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(address)
            server.listen(size)
            server.settimeout(SECONDS)
            self._processes = [self._start(line, address, environment) for line in commands]
            self._connections = self._meet(server)

    def _start(self, line: list[str], address: str, environment: Mapping[str, str]) -> Any:
        return subprocess.Popen(
            [*line, str(HERE / "parties.py"), address],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**environment_of_ranks(), **environment},
            start_new_session=True,
        )

    def _meet(self, server: socket.socket) -> list[Connection]:
        by_rank: dict[int, Connection] = {}
        try:
            while len(by_rank) < self.size:
                connection = Connection(server.accept()[0].detach())
                by_rank[connection.recv()] = connection
        except (TimeoutError, EOFError):
            self._end()
            raise PartyError(f"the processes did not start; they said:\n{self.output()}") from None
        return [by_rank[rank] for rank in range(self.size)]

    def ask(self, function: str, *arguments: Any, **named: Any) -> list[Any]:
        """The result of "module:function" with these arguments in every process, in the order of ranks.

        Raises:
            PartyError: with what each process that raised, ended or did not answer in time has said.
        """
        for connection in self._connections:
            connection.send((function, arguments, named))
        results: dict[int, Any] = {}
        errors: dict[int, str] = {}
        until = time.monotonic() + SECONDS
        while waiting := self._connections_but(results | errors):
            ready = wait(waiting, max(until - time.monotonic(), 0))
            if not ready:
                break
            for connection in ready:
                rank = self._connections.index(connection)
                good, value = heard(connection) or (False, "it ended")
                (results if good else errors)[rank] = value
                if not good:
                    until = min(until, time.monotonic() + AFTER_AN_ERROR)
        if len(results) < self.size:
            said = [
                f"rank {k}: {errors.get(k, 'no answer')}"
                for k in range(self.size)
                if k not in results
            ]
            raise PartyError("\n".join([function, *said, "output:", self.output()]))
        return [results[rank] for rank in range(self.size)]

    def _connections_but(self, ranks: Container[int]) -> list[Connection]:
        return [c for rank, c in enumerate(self._connections) if rank not in ranks]

    def output(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()[-4000:]

    def __enter__(self) -> Party:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self, seconds: float = 5.0) -> None:
        """End the processes; those that do not end by themselves in this time hang."""
        for connection in self._connections:
            connection.close()
        self._end(seconds)
        self._log.close()
        self._folder.cleanup()

    def _end(self, seconds: float = 0.5) -> None:
        until = time.monotonic() + seconds
        for process in self._processes:
            try:
                process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.terminate()  # a launcher then ends the ranks that it started elsewhere
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def environment_of_ranks() -> dict[str, str]:
    """They find the packages, and one thread computes in each."""
    paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    threads = dict.fromkeys(ONE_THREAD, "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def heard(connection: Any) -> Any:
    """The next message; None where the other side is gone."""
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        return None


def serve(address: str) -> None:
    """What a process does: run what it is told to, until nobody is there any more."""
    connection = Client(address)
    rank = next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0")
    connection.send(int(rank))
    while (task := heard(connection)) is not None:
        function, arguments, named = task
        module, _, name = function.partition(":")
        try:
            result = (True, getattr(importlib.import_module(module), name)(*arguments, **named))
        except BaseException:  # also pytest's
            result = (False, traceback.format_exc())
        connection.send(result)


if __name__ == "__main__":
    serve(sys.argv[1])
