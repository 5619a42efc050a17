"""Ctrl-C, or a cluster that ends the job, as a request to stop after the current step, not in the middle of it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# SIGTERM comes from a cluster that needs the machine, or from a shutdown; SIGUSR1 from `tinydl launch`, which got
# one of the others and asks all ranks, or from a cluster that announces its SIGTERM (Slurm's --signal=USR1@60).
REQUESTS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class InterruptGuard:
    """While entered, Ctrl-C (SIGINT), SIGTERM or SIGUSR1 sets ``requested``; a second Ctrl-C raises KeyboardInterrupt.

    Python lets only the main thread handle signals: in another thread this changes nothing, and signals go where
    they went before. So they do where the program has a handler of its own, and in processes that are forked meanwhile
    (a pool of workers is ended by SIGTERM).
    """

    def __init__(self) -> None:
        self.requested = False
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            self._take(signal.SIGINT, signal.default_int_handler, self._on_ctrl_c)
            for number in REQUESTS:
                self._take(number, signal.SIG_DFL, self._on_request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _take(self, number: int, default: Any, handler: Any) -> None:
        if signal.getsignal(number) is default:
            self._previous[number] = signal.signal(number, handler)

    def _on_request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if os.getpid() != self._process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _on_ctrl_c(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # os.write, since print could be in the middle of printing when the signal comes.
        os.write(2, b"\nstopping after this step (Ctrl-C again: at once)\n")
