"""Arguments of constructors, checked in one place, as plain numbers that JSON can hold."""

from __future__ import annotations

import operator
from typing import Any


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """``value`` as an ``int``, NumPy's integers too; the error says what it is called, as "Dense: units".

    Raises:
        ValueError: not an integer, or below ``least``.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    return number
