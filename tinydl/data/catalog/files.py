"""Finding a data set's files, and saying well what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinydl.data.errors import MissingDataError


def first_complete(
    name: str, folders: Sequence[Path], files: Sequence[Sequence[str]]
) -> list[Path]:
    """The files of a data set, from the first folder that has all of them.

    Args:
        name: of the data set, for the error.
        folders: where to look, in this order.
        files: for each file its possible names, the preferred one first.

    Raises:
        MissingDataError: no folder has all files.
    """
    incomplete = []
    for folder in folders:
        found = [
            next((folder / n for n in names if (folder / n).is_file()), None) for names in files
        ]
        if all(found):
            return [path for path in found if path is not None]
        if any(found):
            missing = [names[0] for names, path in zip(files, found, strict=True) if path is None]
            incomplete.append(f"{folder} lacks {', '.join(missing)}")
    raise MissingDataError(
        missing_message(name, folders, [" or ".join(n) for n in files], "; ".join(incomplete))
    )


def missing_message(
    name: str, folders: Sequence[Path], files: Sequence[str], incomplete: str = ""
) -> str:
    """What was looked for, where, and what to do now."""
    looked = "\n".join(
        f"  {folder}{'' if folder.is_dir() else '  (no such folder)'}" for folder in folders
    )
    wanted = "\n".join(f"  {file}" for file in files)
    return (
        f"the files of data set '{name}' were not found. Wanted:\n{wanted}\nLooked in:\n{looked}\n"
        + (f"({incomplete})\n" if incomplete else "")
        + f"Download them with 'tinydl data fetch {name}', or set TINYDL_DATA to their folder."
    )
