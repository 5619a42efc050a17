"""``tinydl data``: which data sets there are, what is in them, and how they get here."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tinydl.cli.errors import say
from tinydl.data import DataError, MissingDataError, class_histogram, info, load, names
from tinydl.data.fetch import fetch as fetch_files
from tinydl.data.folders import data_root

app = typer.Typer(help="Data sets by name: list, look into, download.", no_args_is_help=True)
console = Console()

Name = Annotated[str, typer.Argument(help="Name of the data set, as `tinydl data list` shows it.")]
NameOrPath = Annotated[str, typer.Argument(help="Name of the data set, or the path of your own.")]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the data sets.", show_default="TINYDL_DATA, else the user's cache"
    ),
]


@app.command("list")
def list_names(root: Root = None) -> None:
    """List the data sets that are known by name, and say which of them are here."""
    table = Table(box=None)
    for column in ("name", "here", "what"):
        table.add_column(column, style="bold" if column == "name" else None)
    for name in names():
        table.add_row(name, "yes" if _is_here(name, root) else "no", info(name).summary)
    console.print(table)
    console.print(f"looked in {data_root(root)}", highlight=False, soft_wrap=True)


@app.command("info")
def show_info(name: NameOrPath, root: Root = None) -> None:
    """Read a data set and show its shapes, classes and source."""
    try:
        if name in names():
            entry = info(name)
            console.print(f"[bold]{entry.name}[/]: {entry.summary}", highlight=False)
            console.print(f"{entry.citation}\n{entry.home}", highlight=False, soft_wrap=True)
        data = load(name, root)
    except (DataError, ImportError, OSError) as error:
        raise _fail(error) from None
    console.print(f"{data}\nread from {data.source}", highlight=False, soft_wrap=True)
    if data.class_names and data.y_train.ndim == 1:
        table = Table(box=None)
        for column in ("class", "training", "test"):
            table.add_column(column, justify="left" if column == "class" else "right")
        test = class_histogram(data.y_test, data.class_names)
        for label, count in class_histogram(data.y_train, data.class_names).items():
            table.add_row(label, f"{count:,}", f"{test[label]:,}")
        console.print(table)


@app.command("fetch")
def fetch(name: Name, root: Root = None) -> None:
    """Download a data set from its official home and check it against its SHA-256."""
    try:
        fetch_files(name, root, report=_say)
    except (DataError, ImportError, OSError) as error:
        raise _fail(error) from None


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def _is_here(name: str, root: Path | None) -> bool:
    """Whether the files are found; asks the data set's own rule, without reading them."""
    locate = getattr(importlib.import_module(info(name).module), "locate", None)
    try:
        return locate is None or bool(locate(data_root(root)))
    except MissingDataError:
        return False


def _fail(error: Exception) -> typer.Exit:
    say(error)
    return typer.Exit(1)
