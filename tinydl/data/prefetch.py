"""Preparing the next items in a background thread while the present one is being used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


class _Failure:
    """An exception on its way from the background thread to the consumer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


def prefetch(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items in the same order, up to ``depth`` of them prepared ahead by one thread.

    An exception in ``items`` is raised here, in the consumer, in its place in the order. However
    the consumer stops (at the end, by ``break``, by an exception, by Ctrl-C, by ``close()``), the
    thread ends with it. With ``depth=0`` there is no thread.

    NumPy's loops release the interpreter's lock, so that augmentation and copying really run beside
    training.
    """
    if depth == 0:
        yield from items
        return

    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                ready.put(item)
                if stopped.is_set():
                    return
            ready.put(_END)
        except BaseException as error:  # travels to the consumer, whatever it is
            ready.put(_Failure(error))

    thread = threading.Thread(target=produce, name="tinydl-prefetch", daemon=True)
    try:
        thread.start()  # inside `try`: Ctrl-C may come while this waits for the thread to begin
        while (item := ready.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stopped.set()
        # The producer may be waiting for a free place: make one. It then sees `stopped` after at
        # most one more put, for which there is a place too, since nobody else fills the queue.
        while True:
            try:
                ready.get_nowait()
            except queue.Empty:
                break
        if thread.ident is not None:
            thread.join()
