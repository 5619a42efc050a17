"""A text file to which lines are added, and which can go back to how it was at a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tinydl.training.callbacks.base import Callback, Logs


class LineFile(Callback):
    """Base of the loggers. Training that starts anew replaces the file; training that is resumed continues it.

    Args:
        path: its folder is made if needed.
        append: keep what is in the file already, and add below it.
    """

    writes = True

    def __init__(self, path: str | os.PathLike, append: bool = False) -> None:
        self.path = Path(path)
        self.append = append
        self.size = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.size = self.path.stat().st_size if self.append and self.path.exists() else 0

    def write(self, text: str) -> None:
        """Add ``text`` after the first ``size`` bytes; what a stopped run wrote after its checkpoint goes."""
        with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
            file.truncate(self.size)
            file.seek(self.size)
            file.write(text.encode())
            self.size = file.tell()

    def state_dict(self) -> dict[str, Any]:
        return {"size": self.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        exists = self.path.exists()
        self.size = min(state["size"], self.path.stat().st_size if exists else 0)
