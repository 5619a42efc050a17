"""One row an epoch, for spreadsheets."""

from __future__ import annotations

import csv
import io
import os
from typing import Any

from tinydl.training.callbacks.base import Logs
from tinydl.training.callbacks.line_file import LineFile


class CSVLogger(LineFile):
    """Writes the logs of each epoch as a row of a CSV file, under a header."""

    def __init__(
        self, filename: str | os.PathLike, separator: str = ",", append: bool = False
    ) -> None:
        super().__init__(filename, append)
        self.separator = separator

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        row = {"epoch": epoch, **(logs or {})}
        if self.size == 0:
            self.write(self._line(row))
        self.write(self._line(row.values()))

    def _line(self, cells: Any) -> str:
        text = io.StringIO()
        csv.writer(text, delimiter=self.separator, lineterminator="\n").writerow(cells)
        return text.getvalue()
