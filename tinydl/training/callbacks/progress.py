"""How training is going, on the terminal."""

from __future__ import annotations

import time
from typing import Any

from tinydl.training.callbacks.base import Callback, Logs

REFRESH_SECONDS = 0.2  # drawing costs milliseconds, which training would otherwise have


class ProgressBar(Callback):
    """A bar that moves, on a terminal; elsewhere (a file, a pipe, a notebook) one line an epoch.

    Epoch, step, loss and metrics so far, learning rate, samples a second, time left until the last epoch.

    Args:
        verbose: 1 as above; 2 one line an epoch everywhere.
        unit: what a sample is called; None: "images" where it has three axes, else "samples".
        console: a ``rich.console.Console`` to write to.
    """

    writes = True

    def __init__(self, verbose: int = 1, unit: str | None = None, console: Any = None) -> None:
        self.verbose = verbose
        self.unit = unit
        self.console = console
        self.bar: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        from rich.console import Console

        self.console = self.console or Console(highlight=False, soft_wrap=True)
        self.moves = self.verbose == 1 and self.console.is_terminal and not self.console.is_jupyter
        if self.unit is None:
            self.unit = "images" if len(self.model.input_shape) == 3 else "samples"
        self.began = time.perf_counter()
        self.steps_done = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch
        self.rate = Rate()
        self.drawn = 0.0
        if self.moves:
            self.bar = make_bar(self.console)
            self.bar.start()
            self.task = self.bar.add_task(self._title(), total=self.params["steps"], text="")

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        self.steps_done += 1
        self.rate.add(logs["batch_size"])
        if self.bar is not None and time.perf_counter() - self.drawn >= REFRESH_SECONDS:
            self._draw(batch + 1, self._text(logs, self._time_left(batch + 1)))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        text = self._text(logs or {}, time.perf_counter() - self.rate.began)
        self._remove_bar()
        self.console.print(f"{self._title()}  {text}")

    def close(self) -> None:
        self._remove_bar()

    def _draw(self, step: int, text: str) -> None:
        self.bar.update(self.task, completed=step, text=text)
        self.bar.refresh()
        self.drawn = time.perf_counter()

    def _remove_bar(self) -> None:
        """The finished epoch's line takes the bar's place."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _title(self) -> str:
        width = len(str(self.params["epochs"]))
        return f"epoch {self.epoch + 1:{width}d}/{self.params['epochs']}"

    def _text(self, logs: Logs, seconds: float | None) -> str:
        measured = [
            f"{name} {value:.4f}"
            for name, value in logs.items()
            if isinstance(value, int | float) and name not in ("learning_rate", "batch_size")
        ]
        parts = [
            *measured,
            f"lr {logs['learning_rate']:.3g}",
            f"{self.rate.value():,.0f} {self.unit}/s",
        ]
        if seconds is not None:
            parts.append(duration(seconds))
        return "  ".join(parts)

    def _time_left(self, step: int) -> float | None:
        """Of all epochs, validation included, at the pace so far."""
        steps = self.params["steps"]
        if steps is None:
            return None
        left = (self.params["epochs"] - self.epoch) * steps - step
        return (time.perf_counter() - self.began) / self.steps_done * left


class Rate:
    """Samples a second in this epoch. The first step is left out: kernels may be compiled in it."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.since = self.began
        self.samples = 0
        self.steps = 0

    def add(self, samples: int) -> None:
        self.last = time.perf_counter()
        self.steps += 1
        if self.steps == 1:
            self.first_samples, self.first_seconds = samples, self.last - self.began
            self.since = self.last
        else:
            self.samples += samples

    def value(self) -> float:
        if self.steps < 1:
            return 0.0
        if self.steps == 1:
            return self.first_samples / max(self.first_seconds, 1e-9)
        return self.samples / max(self.last - self.since, 1e-9)


def make_bar(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
        auto_refresh=False,  # a drawing thread would take the interpreter from the training loop
        transient=True,
    )


def duration(seconds: float) -> str:
    """4.2 s, 3:05, 2:03:05."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
