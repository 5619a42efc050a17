"""One JSON object a line and epoch, for programs."""

from __future__ import annotations

import json

from tinydl.training.callbacks.base import Logs
from tinydl.training.callbacks.line_file import LineFile


class JSONLogger(LineFile):
    """Writes the logs of each epoch as a line of a JSON Lines file: ``{"epoch": 0, "loss": 0.41, …}``."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.write(json.dumps({"epoch": epoch, **(logs or {})}) + "\n")
