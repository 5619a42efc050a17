"""Where the time of an epoch goes: computing, waiting for data, waiting for other processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tinydl.distributed.strategy import SingleProcess

T = TypeVar("T")


class Clock:
    """Runs from the beginning of an epoch's steps.

    Attributes:
        strategy: it knows how long this process waited for others.
    """

    def __init__(self, strategy: SingleProcess) -> None:
        self.strategy = strategy
        self.restart()

    def restart(self) -> None:
        self._began = time.perf_counter()
        self._waited_before = self.strategy.seconds_waited
        self._data = 0.0

    def waiting_for_data(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time that each takes to come is counted."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._data += time.perf_counter() - began
            yield batch

    def shares(self) -> dict[str, float]:
        """Shares of the time so far, from 0 to 1, which add up to 1."""
        total = max(time.perf_counter() - self._began, 1e-9)
        data = self._data / total
        communication = (self.strategy.seconds_waited - self._waited_before) / total
        computing = max(1.0 - data - communication, 0.0)
        return {"computing": computing, "data": data, "communication": communication}
