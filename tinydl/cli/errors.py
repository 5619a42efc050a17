"""An error in one line, as all commands say it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape


def say(error: Exception) -> None:
    """On standard error, word for word: Rich would take a ``[mpi]`` in it for a style."""
    stderr = Console(stderr=True)
    stderr.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
