"""Ctrl-C as a request to stop after the current step, not in the middle of it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class InterruptGuard:
    """While entered, the first Ctrl-C (SIGINT) sets ``requested``; a second one raises KeyboardInterrupt at once.

    Python lets only the main thread handle signals: in another thread this changes nothing, and Ctrl-C goes
    where it went before. So it does where the program has a handler of its own.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> InterruptGuard:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # os.write, since print could be in the middle of printing when the signal comes.
        os.write(2, b"\nstopping after this step (Ctrl-C again: at once)\n")
