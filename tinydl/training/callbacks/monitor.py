"""Is a measured value better than the best so far?"""

from __future__ import annotations

import math
from typing import Any

from tinydl.arguments import finite_number
from tinydl.training.callbacks.base import Callback, Logs

HIGHER_IS_BETTER = ("acc", "auc", "precision", "recall", "f1")


class Monitor(Callback):
    """Base of the callbacks that watch one value of the epoch's logs.

    Args:
        monitor: name in the logs, e.g. "val_loss".
        mode: "min" or "max": which is better; "auto" says max for accuracy, precision, recall, F1 and AUC.
        min_delta: a change smaller than this is no improvement.
    """

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        kind = type(self).__name__
        if not isinstance(monitor, str):
            raise TypeError(
                f"{kind}: monitor must be a name in the logs such as 'val_loss', got {monitor!r}"
            )
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"{kind}: mode must be auto, min or max, got {mode!r}")
        if mode == "auto":
            mode = "max" if any(name in monitor.lower() for name in HIGHER_IS_BETTER) else "min"
        self.monitor = monitor
        self.mode = mode
        self.min_delta = finite_number(f"{kind}: min_delta", min_delta, low=0)
        self.best: float = self.worst()

    def worst(self) -> float:
        return math.inf if self.mode == "min" else -math.inf

    def is_improvement(self, value: float) -> bool:
        """A value that is not a number is never one."""
        if self.mode == "min":
            return value < self.best - self.min_delta
        return value > self.best + self.min_delta

    def value(self, logs: Logs | None) -> float:
        return float((logs or {})[self.monitor])

    def on_train_begin(self, logs: Logs | None = None) -> None:
        known = self.params["logs"]
        if self.monitor not in known:
            hint = ": give fit validation data" if self.monitor.startswith("val_") else ""
            raise ValueError(
                f"{type(self).__name__} watches {self.monitor!r}, which this training does not measure{hint}; "
                f"it measures {', '.join(known)}"
            )
        self.best = self.worst()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
