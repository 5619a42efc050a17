"""Learning rates that depend on the epoch, or on progress.

A rate that is a function of the step alone is given to the optimizer itself: ``tl.schedules``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinydl.arguments import finite_number, whole_number
from tinydl.optimizers.schedules import Constant
from tinydl.training.callbacks.base import Callback, Logs
from tinydl.training.callbacks.monitor import Monitor


def get_rate(callback: Callback) -> float:
    """The optimizer's learning rate, which must be constant: a schedule would be lost by changing it."""
    optimizer = callback.model.optimizer
    if not isinstance(optimizer.schedule, Constant):
        raise ValueError(
            f"{type(callback).__name__} sets the learning rate, but the optimizer follows "
            f"{type(optimizer.schedule).__name__}: use one of the two"
        )
    return optimizer.learning_rate


class LearningRateScheduler(Callback):
    """``rate = schedule(epoch, rate)`` at the beginning of every epoch.

    Args:
        schedule: takes the number of the epoch (from 0) and the present rate.
        verbose: 1 prints each new rate.
    """

    def __init__(self, schedule: Callable[[int, float], float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise TypeError(
                f"LearningRateScheduler: schedule must be a function of epoch and rate, got {schedule!r}"
            )
        self.schedule = schedule
        self.verbose = verbose
        self.set_for_epoch: int | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        get_rate(self)
        self.set_for_epoch = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch == self.set_for_epoch:  # resumed in the middle of the epoch
            return
        rate = float(self.schedule(epoch, get_rate(self)))
        if not rate >= 0:
            raise ValueError(
                f"LearningRateScheduler: schedule({epoch}, …) gave {rate}: expected a rate >= 0"
            )
        self.model.optimizer.learning_rate = rate
        self.set_for_epoch = epoch
        if self.verbose:
            print(f"epoch {epoch + 1}: learning rate {rate:.4g}")

    def state_dict(self) -> dict[str, Any]:
        return {"set_for_epoch": self.set_for_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.set_for_epoch = state["set_for_epoch"]


class ReduceLROnPlateau(Monitor):
    """Multiplies the learning rate by ``factor`` once the monitored value has not improved for ``patience`` epochs.

    Args:
        monitor, mode, min_delta: what counts as an improvement (see ``Monitor``).
        factor: in (0, 1).
        cooldown: epochs after a reduction that are not counted.
        min_lr: the rate never falls below this.
        verbose: 1 prints each new rate.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = finite_number("ReduceLROnPlateau: factor", factor, 0, 1, above=True)
        self.patience = whole_number("ReduceLROnPlateau: patience", patience, least=0)
        self.verbose = verbose
        self.cooldown = whole_number("ReduceLROnPlateau: cooldown", cooldown, least=0)
        self.min_lr = finite_number("ReduceLROnPlateau: min_lr", min_lr, low=0)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        get_rate(self)
        self.wait = 0
        self.cooling = 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.value(logs)
        cooling = self.cooling > 0
        self.cooling -= cooling
        if self.is_improvement(value):
            self.best, self.wait = value, 0
        elif not cooling:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        rate = get_rate(self)
        reduced = max(rate * self.factor, self.min_lr)
        if reduced < rate:
            self.model.optimizer.learning_rate = reduced
            self.cooling, self.wait = self.cooldown, 0
            if self.verbose:
                print(
                    f"epoch {epoch + 1}: {self.monitor} has not improved, learning rate {reduced:.4g}"
                )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "wait": self.wait, "cooling": self.cooling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.wait, self.cooling = state["best"], state["wait"], state["cooling"]
