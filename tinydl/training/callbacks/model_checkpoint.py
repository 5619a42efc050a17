"""Save the model as training goes on, or only while it gets better."""

from __future__ import annotations

import os

from tinydl.training.callbacks.base import Logs
from tinydl.training.callbacks.monitor import Monitor


class ModelCheckpoint(Monitor):
    """Saves the model (as ``model.save`` does) at the end of epochs.

    For going on with a training that was stopped, use ``Checkpoint``: it also holds the optimizer's state.

    Args:
        filepath: file to write; may hold fields of the logs, e.g. ``"best-{epoch:02d}-{val_loss:.3f}.safetensors"``,
            where ``epoch`` counts from 1.
        monitor, mode: what decides which epoch is better (see ``Monitor``).
        save_best_only: write only when the monitored value improves.
        save_freq: look every so many epochs.
        verbose: 1 says when something is saved.
    """

    writes = True

    def __init__(
        self,
        filepath: str | os.PathLike,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        mode: str = "auto",
        save_freq: int | str = "epoch",
    ) -> None:
        super().__init__(monitor, mode)
        every = 1 if save_freq == "epoch" else save_freq
        if not isinstance(every, int) or every < 1:
            raise ValueError(
                f"ModelCheckpoint: save_freq must be 'epoch' or a number of epochs, got {every!r}"
            )
        self.filepath = os.fspath(filepath)
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.every = every

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.save_best_only:
            super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        if self.save_best_only:
            value = self.value(logs)
            if not self.is_improvement(value):
                return
            self.best = value
        path = self._path(epoch, logs or {})
        self.model.save(path)
        if self.verbose:
            print(f"epoch {epoch + 1}: saved {path}")

    def _path(self, epoch: int, logs: Logs) -> str:
        try:
            return self.filepath.format(**{**logs, "epoch": epoch + 1})
        except KeyError as error:
            raise ValueError(
                f"ModelCheckpoint: {self.filepath!r} asks for {error}, which this training does not measure; "
                f"it measures {', '.join(logs)}"
            ) from None
