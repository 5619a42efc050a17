"""Where data sets and decoded copies lie on disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_root() -> Path:
    """The folder of downloads and decoded arrays: ``TINYDL_CACHE``, else the user's cache."""
    if configured := os.environ.get("TINYDL_CACHE"):
        return Path(configured).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tinydl"


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of data sets: the argument, else ``TINYDL_DATA``, else one in the user's cache."""
    if root is not None:
        return Path(root).expanduser()
    if configured := os.environ.get("TINYDL_DATA"):
        return Path(configured).expanduser()
    return cache_root() / "data"
