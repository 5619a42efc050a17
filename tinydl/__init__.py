"""tinydl: neural networks from scratch, with every forward and backward pass written by hand.

    import tinydl as tl

Submodules are imported when first used, so that ``import tinydl`` itself takes a moment only.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that it is: tl.callbacks is tinydl.training.callbacks.
SUBMODULES = {
    "architectures": "tinydl.architectures",
    "callbacks": "tinydl.training.callbacks",
    "data": "tinydl.data",
    "distributed": "tinydl.distributed",
    "initializers": "tinydl.initializers",
    "inspect": "tinydl.inspect",
    "layers": "tinydl.layers",
    "losses": "tinydl.losses",
    "metrics": "tinydl.metrics",
    "optimizers": "tinydl.optimizers",
    "regularizers": "tinydl.regularizers",
    "schedules": "tinydl.optimizers.schedules",
    "training": "tinydl.training",
}
# Public name -> the module that it lives in: tl.Sequential is tinydl.training.model.Sequential.
NAMES = {
    "Ensemble": "tinydl.training.ensemble",
    "Input": "tinydl.layers.symbolic",
    "Model": "tinydl.training.functional",
    "Sequential": "tinydl.training.model",
    "gradcheck": "tinydl.inspect",
    "load": "tinydl.training.saving",
}
__all__ = [*SUBMODULES, *NAMES]


def __getattr__(name: str) -> Any:
    if name in SUBMODULES:
        value = importlib.import_module(SUBMODULES[name])
    elif name in NAMES:
        value = getattr(importlib.import_module(NAMES[name]), name)
    else:
        raise AttributeError(f"module 'tinydl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
