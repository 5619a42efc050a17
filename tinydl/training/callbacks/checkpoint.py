"""Checkpoints to go on from, written while training runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tinydl.training.callbacks.base import Callback
from tinydl.training.checkpoints import (
    SavedTraining,
    checkpoint_path,
    list_checkpoints,
    newest_checkpoint,
    write_checkpoint,
)

if TYPE_CHECKING:
    from tinydl.training.loop import TrainingLoop


class Checkpoint(Callback):
    """Writes checkpoints into a folder; with ``resume=True`` training goes on from the newest.

        model.fit(x, y, epochs=20, callbacks=[tl.callbacks.Checkpoint("run/checkpoints")], resume=True)

    does the right thing however often it is started: the first time it begins, after a crash or Ctrl-C it goes on
    where the newest checkpoint is, and the weights come out as if nothing had happened, bit for bit.

    Checkpoints are written after every ``every_steps`` steps (or epoch), when training ends, and on Ctrl-C. Each
    appears as a whole or not at all.

    It stands among the callbacks, but the loop calls it itself, after all others have seen the step or the epoch:
    what it writes must include what they did.

    Args:
        folder: made if needed. It must hold no checkpoints unless training is resumed from them.
        every_steps: write after every so many steps, over all epochs; None: at the end of each epoch.
        keep: how many of the newest to keep; None keeps all.
    """

    writes = True

    def __init__(
        self, folder: str | os.PathLike, every_steps: int | None = None, keep: int | None = 3
    ) -> None:
        for name, value in (("every_steps", every_steps), ("keep", keep)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(
                    f"Checkpoint: {name} must be a positive whole number or None, got {value!r}"
                )
        self.folder = Path(folder)
        self.every_steps = every_steps
        self.keep = keep
        self.written: tuple[int, int] | None = None  # position of the newest, to write none twice

    def prepare(self, resume: bool) -> SavedTraining | None:
        """Before training: make the folder; the checkpoint to resume from, if there is one."""
        self.written = None
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.folder.glob(".*.tmp"):  # a process was killed while it wrote
            left_over.unlink(missing_ok=True)
        if resume:
            return newest_checkpoint(self.folder)
        if list_checkpoints(self.folder):
            raise FileExistsError(
                f"{self.folder} holds checkpoints of an earlier training: fit(…, resume=True) goes on from them; "
                "else choose another folder or remove them"
            )
        return None

    def after_step(self, loop: TrainingLoop) -> None:
        if self.every_steps and loop.total_steps % self.every_steps == 0:
            self.save(loop)

    def after_epoch(self, loop: TrainingLoop) -> None:
        if self.every_steps is None:
            self.save(loop)

    def save(self, loop: TrainingLoop) -> None:
        """Write a checkpoint of this moment, and remove those that are too many."""
        position = (loop.epoch, loop.step)
        if position == self.written:
            return
        self.written = position
        optimizer = loop.model.optimizer
        loop.synchronize()
        optimizer.to_evaluation_weights()  # a checkpoint is a model to use, too
        try:
            self.write(loop)
        finally:
            optimizer.to_training_weights()

    def write(self, loop: TrainingLoop) -> None:
        state = loop.strategy.training_state()  # of all processes, which meet here
        if loop.strategy.world.rank != 0:
            return
        write_checkpoint(checkpoint_path(self.folder, loop.total_steps), loop, state)
        for old in list_checkpoints(self.folder)[: -self.keep] if self.keep else []:
            old.unlink(missing_ok=True)
