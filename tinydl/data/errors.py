"""Errors about data: each names the culprit (file, sample, row) and says what would be right."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


class DataError(ValueError):
    """Data that cannot be used: a corrupt file, a NaN, a label out of range."""


class MissingDataError(DataError, FileNotFoundError):
    """Files that are not where they were looked for; the message says where, and what to do."""


@contextmanager
def named(source: object) -> Iterator[None]:
    """Put a file's name before errors about what was read from it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{source}: {error}") from None


def existing(path: str | os.PathLike[str]) -> Path:
    """The path of a file that is there."""
    if not Path(path).is_file():
        raise MissingDataError(f"no file at {path}")
    return Path(path)


def require(module: str, purpose: str) -> ModuleType:
    """Import an optional package when it is first needed, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = {"PIL": "pillow"}.get(module.split(".")[0], module.split(".")[0])
        raise ModuleNotFoundError(
            f"{purpose} needs the package '{package}': pip install 'tinydl[data]'"
        ) from error
