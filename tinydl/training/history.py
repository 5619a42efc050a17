"""What a training run measured, epoch by epoch."""

from __future__ import annotations

from typing import Any


class History:
    """Result of ``fit``.

    Attributes:
        epoch: numbers of the epochs that were finished, e.g. [0, 1, 2].
        history: name -> list of values, one an epoch: "loss", each metric, "learning_rate" (the one used in the
            epoch's last step), and the same with "val_" where there was validation data.
        interrupted: Ctrl-C ended the training early.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}
        self.interrupted = False

    def append(self, epoch: int, logs: dict[str, float]) -> None:
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": list(self.epoch), "history": {k: list(v) for k, v in self.history.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = list(state["epoch"])
        self.history = {name: list(values) for name, values in state["history"].items()}

    def __repr__(self) -> str:
        last = ", ".join(f"{k}={v[-1]:.4g}" for k, v in self.history.items() if _is_number(v[-1]))
        return f"History({len(self.epoch)} epochs{': ' + last if last else ''})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
