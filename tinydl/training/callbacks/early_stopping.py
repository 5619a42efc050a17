"""Stop when there is no more progress."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tinydl.arguments import finite_number, whole_number
from tinydl.training.callbacks.base import Logs
from tinydl.training.callbacks.monitor import Monitor


class EarlyStopping(Monitor):
    """Ends training once the monitored value has not improved for ``patience`` epochs.

    Source: Prechelt 1998, "Early Stopping - But When?", the criterion UP counted in epochs.

    Args:
        monitor, mode, min_delta: what counts as an improvement (see ``Monitor``).
        patience: epochs without improvement that are borne; 0 stops at the first.
        baseline: a value that has to be beaten too.
        restore_best_weights: at the end of training, go back to the weights of the best epoch.
        start_from_epoch: epochs before this one are not looked at.
        verbose: 1 says when training is stopped.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = whole_number("EarlyStopping: patience", patience, least=0)
        self.verbose = verbose
        self.baseline = (
            None if baseline is None else finite_number("EarlyStopping: baseline", baseline)
        )
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = whole_number(
            "EarlyStopping: start_from_epoch", start_from_epoch, least=0
        )

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.wait = 0
        self.stopped_epoch: int | None = None
        self.best_epoch: int | None = None
        self.best_weights: list[NDArray] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch < self.start_from_epoch:
            return
        value = self.value(logs)
        self.wait += 1
        if self.is_improvement(value):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self._beats_baseline(value):
                self.wait = 0
        if self.wait > 0 and self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _beats_baseline(self, value: float) -> bool:
        if self.baseline is None:
            return True
        return value < self.baseline if self.mode == "min" else value > self.baseline

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch is not None and self.verbose:
            print(
                f"epoch {self.stopped_epoch + 1}: stopped early, {self.monitor} was best "
                f"({self.best:.4g}) in epoch {(self.best_epoch or 0) + 1}"
            )
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "wait": self.wait,
            "stopped_epoch": self.stopped_epoch,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update({name: state[name] for name in EarlyStopping.state_dict(self)})
