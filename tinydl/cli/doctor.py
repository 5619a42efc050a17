"""``tinydl doctor``: what this machine offers, what is used of it, and what looks odd."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

console = Console(width=None if Console().is_terminal else 160)


def doctor(
    json: Annotated[
        bool, typer.Option("--json", help="Print it as JSON, to send to somebody.")
    ] = False,
) -> None:
    """Show processor, threads, caches, BLAS, MPI, GPU, memory, data and versions, and say what looks odd.

    The first thing to look at when something is slower than it should be. Nothing is changed.
    """
    from tinydl.bench.diagnosis import examine

    findings = examine()
    if json:
        console.print_json(data=[vars(f) for f in findings])
        return
    for section in dict.fromkeys(f.section for f in findings):
        table = Table(
            title=section, title_justify="left", box=None, show_header=False, pad_edge=False
        )
        table.add_column(style="bold", min_width=22)
        table.add_column(overflow="fold")
        for f in findings:
            if f.section == section:
                table.add_row(f.item, f.value)
        console.print(table)
        console.print()
    hints = [f for f in findings if f.hint]
    if not hints:
        console.print("nothing looks odd")
    for f in hints:
        console.print(
            f"[yellow]• {f.section}, {f.item}:[/] {f.hint}", highlight=False, soft_wrap=True
        )
