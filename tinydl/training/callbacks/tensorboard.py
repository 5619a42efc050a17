"""Curves and histograms for TensorBoard."""

from __future__ import annotations

import os
from typing import Any

from tinydl.devices import to_host
from tinydl.training.callbacks.base import Callback, Logs


class TensorBoard(Callback):
    """Writes event files that TensorBoard reads. Needs the package tensorboardX.

    Args:
        log_dir: a folder for each run lets TensorBoard compare runs.
        update_freq: "epoch", or a number of steps: then also the running means after every so many steps.
        histogram_freq: every so many epochs, histograms of all parameters; 0 for none.
    """

    writes = True

    def __init__(
        self,
        log_dir: str | os.PathLike = "logs",
        update_freq: str | int = "epoch",
        histogram_freq: int = 0,
    ) -> None:
        if update_freq != "epoch" and not (isinstance(update_freq, int) and update_freq > 0):
            raise ValueError(
                f"TensorBoard: update_freq must be 'epoch' or a number of steps, got {update_freq!r}"
            )
        self.log_dir = os.fspath(log_dir)
        self.every = 0 if update_freq == "epoch" else int(update_freq)
        self.histogram_freq = histogram_freq
        self.step = 0
        self._writer: Any = None

    @property
    def writer(self) -> Any:
        """Opened at the first event, so that a resumed run can say first from where on it replaces events."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(self.log_dir, purge_step=self.step or None)
        return self._writer

    def on_train_begin(self, logs: Logs | None = None) -> None:
        try:
            import tensorboardX  # noqa: F401
        except ImportError:
            raise ImportError(
                "the TensorBoard callback needs the package tensorboardX: pip install 'tinydl[tensorboard]'"
            ) from None
        self.step = 0

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.step += 1
        if self.every and self.step % self.every == 0:
            self._write(logs or {}, "batch_")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._write(logs or {}, "epoch_")
        if self.histogram_freq and (epoch + 1) % self.histogram_freq == 0:
            for name, parameter in self.model.named_parameters():
                self.writer.add_histogram(name, to_host(parameter.value), self.step)
        self.writer.flush()

    def _write(self, logs: Logs, prefix: str) -> None:
        """Training and validation go into one chart: loss/train beside loss/validation."""
        for name, value in logs.items():
            if isinstance(value, int | float):
                metric = name.removeprefix("val_")
                curve = "validation" if name.startswith("val_") else "train"
                self.writer.add_scalar(f"{prefix}{metric}/{curve}", value, self.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
