"""What can be measured. Each module here has:

    parse(text) -> Case        a case is known by one line of text, which names it in tables, files and requests
    make(case, library, dtype, threads) -> Job

A case knows the floating-point operations of one call and the bytes it must move at least. Libraries are
``tinydl``, ``numpy``, ``torch`` (``torch:nchw`` and ``torch:channels-last`` where the layout matters) and
``ladder:RUNG``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from numpy.typing import NDArray

OPERATIONS = ("matmul", "conv2d", "passes", "step")


class Case(Protocol):
    """One thing to compute; ``str`` of it is the text that ``parse`` reads."""

    @property
    def flops(self) -> float: ...

    def bytes(self, itemsize: int) -> float: ...


@dataclass
class Job:
    """One case as one library does it: ``call`` is what is timed, ``result`` gives its last result.

    Results of all libraries have the same shape and layout, so that they can be compared.
    """

    call: Callable[[], Any]
    result: Callable[[], NDArray] | None = None
    details: Any = None


class UnknownCase(ValueError):
    """Text that describes no case."""


class NotOffered(ValueError):
    """The library has nothing to compare for this case."""


def operation(name: str) -> ModuleType:
    if name not in OPERATIONS:
        raise ValueError(f"unknown operation {name!r}: expected one of {', '.join(OPERATIONS)}")
    return importlib.import_module(f"{__name__}.{name}")
