"""Random numbers by purpose: one seed, several independent streams, nothing global.

A seed makes a ``SeedSequence``; each purpose gets its own child, so that drawing more numbers for one purpose
(say, a further dropout layer) leaves the others (say, the order of the samples) as they were.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

PURPOSES = ("initialization", "dropout", "shuffling", "augmentation")


def checked_seed(seed: Any) -> int | None:
    """``seed`` as an ``int``; None stays None, for fresh numbers."""
    try:
        number = None if seed is None else operator.index(seed)
    except TypeError:
        number = -1
    if number is not None and number < 0:
        raise ValueError(f"seed must be a whole number >= 0 or None, got {seed!r}")
    return number


def stream(seed: int | None, purpose: str, *path: int) -> np.random.Generator:
    """The generator of ``purpose`` under ``seed``; ``path`` tells apart uses of one purpose (a layer, an epoch).

    The same (seed, purpose, path) always gives the same numbers. ``seed=None`` draws fresh entropy.
    """
    key = (PURPOSES.index(purpose), *path)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def get_state(rng: np.random.Generator) -> dict:
    """The generator's state as plain numbers, fit for a checkpoint (JSON can hold it)."""
    return dict(rng.bit_generator.state)


def set_state(rng: np.random.Generator, state: dict) -> None:
    rng.bit_generator.state = state
