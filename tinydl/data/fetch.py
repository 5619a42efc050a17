"""Downloading a data set from its official home, checked by SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from tinydl.data.catalog import RemoteFile, info
from tinydl.data.errors import DataError, require
from tinydl.data.folders import data_root


def fetch(
    name: str,
    root: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = print,
    progress: bool = False,
) -> list[Path]:
    """Download the files of a data set into the data folder; right ones already there are kept.

    A file appears under its name only when it is complete and its checksum is right.

    Args:
        name: one of ``tinydl.data.names()``.
        root: the data folder; by default ``TINYDL_DATA``, else one in the user's cache.
        report: told a line about every file.
        progress: show a progress bar for each download.

    Returns:
        The paths of the files.

    Raises:
        DataError: no home answered, or what came has another checksum; the message says how to
            get the file by hand.
    """
    entry, folder = info(name), data_root(root)
    if not entry.files:
        report(f"{name} comes with its package: nothing to download")
    return [_fetch_file(file, folder, report, progress) for file in entry.files]


def _fetch_file(
    file: RemoteFile, folder: Path, report: Callable[[str], None], progress: bool
) -> Path:
    path = folder / file.path
    if path.is_file():
        if sha256(path) == file.sha256:
            report(f"{path}: already there")
            return path
        raise DataError(
            f"{path} is there, but is not the original: its SHA-256 is not {file.sha256}. "
            "Move it away to download the original; the data set can be used as it is otherwise"
        )
    pooch = require("pooch", "downloading data")
    pooch.get_logger().setLevel("WARNING")  # `report` says what happens
    failures = []
    for url in file.urls:
        report(f"downloading {url} ({file.size / 1e6:.1f} MB)")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pooch.retrieve(
                url,
                known_hash=f"sha256:{file.sha256}",
                fname=path.name,
                path=path.parent,
                downloader=pooch.HTTPDownloader(progressbar=progress, timeout=30),
            )
            return path
        except (OSError, ValueError) as error:  # no answer; another checksum
            failures.append(f"  {url}: {_reason(error)}")
    raise DataError(
        f"could not download {file.path}:\n" + "\n".join(failures) + "\n"
        f"By hand: download it where there is a network, put it at {path} "
        f"(its SHA-256 is {file.sha256}), or set TINYDL_DATA to a folder that holds {file.path}."
    )


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    """One line: what really failed, without the layers of the HTTP library around it."""
    inner = getattr(error.args[0], "reason", error) if error.args else error
    return str(inner).splitlines()[0].rpartition("): ")[2] or type(error).__name__
