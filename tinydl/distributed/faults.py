"""When one rank fails, all ranks stop, within seconds and with the failed rank's own error.

Otherwise the others would wait for ever: their next collective needs the rank that is gone. So a rank that ends with
an error first looks whether the others end too. Where all of them fail alike (bad input), the error is printed
once and all end in order. Where they do not come, it prints its error and ends the whole job.

The exit code says whether it would help to start the job again.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import time
import traceback
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

FAILED = 1  # the program's own error: it would fail again
LOST_A_RANK = 75  # another rank is gone, or memory ran out; EX_TEMPFAIL of sysexits.h: "try again"
STOPPED = 130  # by a signal, after a checkpoint

SECONDS_TO_WAIT = 1.0  # for other ranks that fail too


_faults: Faults | None = None  # of this process, where it is a rank of many


def watch(communicator: Any) -> None:
    """Begin to watch over this rank; called once, by ``tinydl.distributed.world``."""
    global _faults
    _faults = Faults(communicator)


def speaks(error: str) -> bool:
    """Should this process show ``error``? Only one rank does where all of them end with the same one."""
    return _faults is None or _faults.speaks(error)


def all_come(seconds: float) -> bool:
    """Wait until all ranks call this, but no longer than ``seconds``: did they all come?"""
    return _faults is None or _faults.meet(seconds)


def exits_early(error: SystemExit) -> None:
    """This rank leaves a training by ``sys.exit``. Others wait for it there: even code 0 is no good end."""
    if _faults is not None:
        _faults.code = error.code if isinstance(error.code, int) and error.code else FAILED


class Faults:
    """Watches over the ways in which this process can end.

    Takes over ``sys.excepthook`` (uncaught errors) and ``sys.exit`` (errors that were caught and shown, as command
    lines do).

    Args:
        communicator: mpi4py's, of all ranks and for nothing else.
    """

    def __init__(self, communicator: Any) -> None:
        self._comm = communicator
        self.rank: int = communicator.rank
        self.code = 0
        self._all_end: bool | None = None  # not known yet
        self._process = os.getpid()
        self._exit = sys.exit
        sys.excepthook = self.on_uncaught
        sys.exit = self.on_exit
        atexit.register(self.at_end)

    def on_uncaught(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Print the traceback, each line with this rank's number, unless a lower rank prints the same error."""
        self.code = code_of(error)
        if self.speaks(f"{kind.__name__}: {error}"):
            lines = "".join(traceback.format_exception(kind, error, trace)).splitlines()
            sys.stderr.write("".join(f"[rank {self.rank}] {line}\n" for line in lines))
        self.at_end()

    def on_exit(self, code: str | int | None = None) -> NoReturn:
        """``sys.exit`` that remembers its code: Python shows it to nobody before the process ends."""
        self.code = code if isinstance(code, int) else int(code is not None)
        self._exit(code)

    def speaks(self, error: str) -> bool:
        """Should this rank print ``error``? Yes, unless all ranks fail and a lower one has the same to say."""
        if os.getpid() != self._process or not self.all_end():
            return True
        digest = np.frombuffer(hashlib.sha256(error.encode()).digest(), np.uint8)
        digests = np.empty((self._comm.size, digest.size), np.uint8)
        self._comm.Allgather(digest, digests)
        first = int(np.argmax((digests == digest).all(axis=1)))
        return first == self.rank

    def at_end(self) -> None:
        """The last thing a rank does. One that ends with an error, alone, ends all."""
        if self.code == 0 or os.getpid() != self._process or self.all_end():
            return
        sys.stderr.write(
            f"[rank {self.rank}] ends with code {self.code} while other ranks are at work: all are stopped\n"
        )
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(self.code)

    def all_end(self) -> bool:
        """Do all ranks end with an error now? Asked once: the answer stays."""
        if self._all_end is None:
            self._all_end = self.meet(SECONDS_TO_WAIT)
        return self._all_end

    def meet(self, seconds: float) -> bool:
        """Wait until all ranks call this, but no longer than ``seconds``: did they all come?"""
        arrived = self._comm.Ibarrier()
        until = time.monotonic() + seconds
        while not arrived.Test():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True


def code_of(error: BaseException) -> int:
    """The exit code of a rank that ends with ``error``."""
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    # What the surviving ranks get to see when another one is killed is an error of the MPI library.
    if isinstance(error, MemoryError) or type(error).__module__.startswith("mpi4py"):
        return LOST_A_RANK
    return FAILED
