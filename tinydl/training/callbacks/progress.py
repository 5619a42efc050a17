"""How training is going, on the terminal."""

from __future__ import annotations

import time
from typing import Any

from tinydl.training.callbacks.base import Callback, Logs

REFRESH_SECONDS = 0.2  # drawing costs milliseconds, which training would otherwise have
FIRST_STEP = "first step: kernels that no earlier run has compiled are compiled now"
BAR_WIDTH = range(6, 25)  # characters; where the line has no room for the least there is no bar


class ProgressBar(Callback):
    """A line that moves, on a terminal; elsewhere (a file, a pipe, a notebook) one line an epoch.

    Epoch, step, loss and metrics so far, learning rate, samples a second, time left until the last epoch; with several
    processes also the shares of the first one's time that went to computing, to data and to communication.

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
        self.live: Any = None  # rich's moving line, during an epoch

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
            from rich.live import Live
            from rich.text import Text

            # No drawing thread: it would take the interpreter from the training loop.
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
            if not self.steps_done:
                line = Text(f"{self._title()}  {FIRST_STEP}", no_wrap=True, overflow="ellipsis")
                self.live.update(line, refresh=True)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        self.steps_done += 1
        self.rate.add(logs["batch_size"])
        if self.live is not None and time.perf_counter() - self.drawn >= REFRESH_SECONDS:
            self.live.update(self._moving_line(batch + 1, logs), refresh=True)
            self.drawn = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        seconds = time.perf_counter() - self.rate.began
        self.close()
        self.console.print(f"{self._title()}  {self._numbers(logs or {})}  {duration(seconds)}")

    def close(self) -> None:
        """The moving line disappears; the finished epoch's takes its place."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _title(self) -> str:
        width = len(str(self.params["epochs"]))
        return f"epoch {self.epoch + 1:{width}d}/{self.params['epochs']}"

    def _numbers(self, logs: Logs) -> str:
        measured = [
            f"{name} {value:.4f}"
            for name, value in logs.items()
            if isinstance(value, int | float)
            and name not in ("learning_rate", "batch_size")
            and "/" not in name  # of single parameters: for files, too many for a line
        ]
        rate = f"{self.rate.value():,.0f} {self.unit}/s"
        return "  ".join([*measured, f"lr {logs['learning_rate']:.3g}", rate, *self._shares()])

    def _shares(self) -> list[str]:
        """Where the time goes, of this process among several."""
        clock = self.params.get("clock")
        if clock is None or clock.strategy.world.size == 1:
            return []
        return [", ".join(f"{share:.0%} {name}" for name, share in clock.shares().items())]

    def _moving_line(self, step: int, logs: Logs) -> Any:
        """epoch 2/5 ━━━━━━━━━ 120/480  loss …  1,234 images/s  1:05 left"""
        from rich.text import Text

        steps = self.params["steps"]
        before, after = f"{self._title()} ", f"{step}  {self._numbers(logs)}"
        line = Text(before, no_wrap=True, overflow="ellipsis")
        if steps is not None:
            after = (
                f"{step}/{steps}  {self._numbers(logs)}  {duration(self._seconds_left(step))} left"
            )
            room = min(self.console.width - len(before) - len(after) - 2, BAR_WIDTH[-1])
            if room in BAR_WIDTH:
                done = room * step // steps
                line.append("━" * done, "green").append("━" * (room - done), "bright_black")
                line.append(" ")
        return line.append(after)

    def _seconds_left(self, step: int) -> float:
        """Until the end of all epochs, validation included, at the pace so far."""
        left = (self.params["epochs"] - self.epoch) * self.params["steps"] - step
        return (time.perf_counter() - self.began) / self.steps_done * left


class Rate:
    """Samples a second in this epoch. The first step is left out: kernels may be compiled in it."""

    def __init__(self) -> None:
        self.began = self.first = self.last = time.perf_counter()
        self.steps = 0
        self.first_samples = 0  # of the first step
        self.samples = 0  # of the others

    def add(self, samples: int) -> None:
        self.last = time.perf_counter()
        self.steps += 1
        if self.steps == 1:
            self.first, self.first_samples = self.last, samples
        else:
            self.samples += samples

    def value(self) -> float:
        if self.steps < 2:
            return self.first_samples / max(self.first - self.began, 1e-9)
        return self.samples / max(self.last - self.first, 1e-9)


def duration(seconds: float) -> str:
    """4.2 s, 3:05, 2:03:05."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
