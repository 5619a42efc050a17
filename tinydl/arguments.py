"""Arguments of constructors, checked in one place, as plain numbers that JSON can hold."""

from __future__ import annotations

import operator
from typing import Any


def positive_integer(owner: str, name: str, value: Any) -> int:
    """``value`` as an ``int``, NumPy's integers too; the error names ``owner`` (a class) and the argument."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{owner}: {name} must be a positive integer, got {value!r}")
    return number
