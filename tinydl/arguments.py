"""Arguments of constructors, checked in one place, as plain numbers that JSON can hold."""

from __future__ import annotations

import math
import numbers
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


def finite_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False
) -> float:
    """``value`` as a ``float``, if it is a finite number in [low, high); with ``above``, in (low, high).

    Raises:
        ValueError: no number, NaN or infinity, or outside.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and low <= value < high and not (above and value == low):
        return float(value)
    if high < math.inf:
        bounds = f" in {'(' if above else '['}{low}, {high})"
    else:
        bounds = f" {'>' if above else '>='} {low}" if low > -math.inf else ""
    raise ValueError(f"{name} must be a finite number{bounds}, got {value!r}")


def fraction(name: str, value: Any, *, below_one: bool = False) -> float:
    """``value`` as a ``float``, if it is a number in [0, 1]; in [0, 1) where 1 would be one too many.

    Raises:
        ValueError: no number, or outside.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= 1) or (below_one and value == 1):
        raise ValueError(f"{name} must lie in [0, 1{')' if below_one else ']'}, got {value!r}")
    return float(value)
