"""tinydl: neural networks from scratch, with every forward and backward pass written by hand.

    import tinydl as tl

Submodules are imported when first used, so that ``import tinydl`` itself takes a moment only.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

SUBMODULES = (
    "callbacks",
    "data",
    "distributed",
    "initializers",
    "inspect",
    "layers",
    "losses",
    "metrics",
    "optimizers",
    "regularizers",
    "schedules",
    "training",
)
# Public names that live in a submodule: tl.Sequential is tinydl.training.model.Sequential.
NAMES = {
    "Sequential": "training.model",
}
__all__ = [*SUBMODULES, *NAMES]


def __getattr__(name: str) -> Any:
    if name in SUBMODULES:
        return importlib.import_module(f"tinydl.{name}")
    if name in NAMES:
        value = getattr(importlib.import_module(f"tinydl.{NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'tinydl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
