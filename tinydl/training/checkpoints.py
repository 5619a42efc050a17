"""Everything that the rest of a training depends on, in one file.

A checkpoint is a model file (``tl.load`` reads it) with more in it: the optimizer's slots and step, every random
generator, the position in the epoch, the sums of loss and metrics so far, the history, the callbacks' states.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydl.randomness import get_state, set_state
from tinydl.training.files import SavedFileError, read_arrays, write_arrays
from tinydl.training.saving import fill, model_content
from tinydl.training.state_tree import join, split

if TYPE_CHECKING:
    from tinydl.training.loop import TrainingLoop
    from tinydl.training.model import BaseModel

PREFIX = "checkpoint-"
SUFFIX = ".safetensors"


def write_checkpoint(
    path: str | os.PathLike, loop: TrainingLoop, training_state: dict[str, Any]
) -> None:
    """``training_state`` is what the strategy gave: the optimizer's state, and its own."""
    model = loop.model
    arrays, metadata = model_content(model)
    state = {
        "loop": loop.state_dict(),
        **training_state,
        "optimizer_class": type(model.optimizer).__name__,
        "random": {str(k): get_state(rng) for k, rng in enumerate(model.generators())},
        "epochs_trained": model.epochs_trained,
        "seed": loop.seed,
        "order_epoch": loop.order_epoch,
    }
    tree, extra = split(state, "training")
    write_arrays(path, {**arrays, **extra}, {**metadata, "training": tree})


class SavedTraining:
    """A checkpoint that was read: ``seed`` and ``order_epoch`` to make the data with, the rest to restore."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays, metadata = read_arrays(path)
        if "training" not in metadata:
            raise SavedFileError(f"{path} is a model file, not a checkpoint")
        self.state: dict[str, Any] = join(metadata["training"], self.arrays)
        self.seed: int = self.state["seed"]
        self.order_epoch: int = self.state["order_epoch"]

    def restore(self, loop: TrainingLoop) -> None:
        """Put model, optimizer, generators and loop where they were."""
        model, state = loop.model, self.state
        optimizer = type(model.optimizer).__name__
        if state["optimizer_class"] != optimizer:
            raise SavedFileError(
                f"{self.path} was trained with {state['optimizer_class']}, the model is compiled with {optimizer}"
            )
        fill(model, self.arrays, self.path)
        model.optimizer.load_state_dict(state["optimizer"])
        self._restore_generators(model)
        model.epochs_trained = state["epochs_trained"]
        loop.load_state_dict(state["loop"])

    def _restore_generators(self, model: BaseModel) -> None:
        generators, saved = model.generators(), self.state["random"]
        if len(generators) != len(saved):
            raise SavedFileError(
                f"{self.path} has {len(saved)} random generators, the model has {len(generators)}"
            )
        for k, rng in enumerate(generators):
            set_state(rng, saved[str(k)])


def checkpoint_path(folder: Path, total_steps: int) -> Path:
    return folder / f"{PREFIX}{total_steps:010d}{SUFFIX}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first (their names hold the number of steps)."""
    return sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))


def newest_checkpoint(folder: Path) -> SavedTraining | None:
    """The newest whole checkpoint, or None where there is none at all.

    A damaged one (a disk that failed, a copy that was cut off) is set aside with a warning, under its name plus
    ``.damaged``, and the next older one is taken.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            return SavedTraining(path)
        except SavedFileError as error:
            aside = path.with_name(path.name + ".damaged")
            os.replace(path, aside)
            warnings.warn(
                f"{error}; set aside as {aside.name}, trying the one before it", stacklevel=2
            )
    if paths:
        raise SavedFileError(f"none of the {len(paths)} checkpoints in {folder} is whole")
    return None
