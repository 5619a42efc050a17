"""``tinydl warmup``: compile now what training will use, so that no run waits for it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tinydl.cli.errors import say

console = Console(width=None if Console().is_terminal else 160)


def warmup(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="train (all architectures), recurrent, optimizers, all; or single ones: mlp, lenet, lstm, adam, …",
            show_default="train",
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="float32 or float64; give it again for both.", show_default="float32"),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Samples in one step: large products take other kernels.")
    ] = 32,
    slowest: Annotated[
        int, typer.Option(min=0, help="How many kernels to list, slowest first; 0 for all.")
    ] = 15,
) -> None:
    """Compile the kernels that training uses and keep them on disk; a second time there is nothing to do.

    Each job is trained for a few steps on random data. Kernels for several threads are compiled only where several
    are in use (NUMBA_NUM_THREADS).
    """
    from tinydl.bench import compiling

    try:
        jobs = compiling.jobs(what or ["train"])
        dtypes = dtype or ["float32"]
        for name in dtypes:
            if name not in ("float32", "float64"):
                raise ValueError(f"unknown element type {name!r}: expected float32 or float64")
        results = run(jobs, dtypes, batch_size)
    except (ValueError, ImportError, OSError) as error:
        say(error)
        raise typer.Exit(1) from None
    show(results, slowest)


def run(jobs: list[str], dtypes: list[str], batch_size: int) -> list:
    from tinydl.bench import compiling

    results = []
    seconds = compiling.import_compiler()
    console.print(f"importing the compiler took {seconds:.2f} s", highlight=False)
    with console.status("") as status:
        for dtype in dtypes:
            for job in jobs:
                status.update(f"{job}, {dtype}")
                results.append(compiling.warm(job, dtype, batch_size))
    return results


def show(results: list, slowest: int) -> None:
    from tinydl_kernels._cache import cache_folder

    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(("", "compiled", "seconds", "first run, s", "second run, s")):
        table.add_column(name, justify="right" if i else "left")
    for r in results:
        spent = sum(c.seconds for c in r.compiled)
        table.add_row(
            f"{r.job}, {r.dtype}",
            str(len(r.compiled)),
            f"{spent:.2f}",
            f"{r.first:.2f}",
            f"{r.again:.2f}",
        )
    console.print(table)
    compiled = sorted(
        (c for r in results for c in r.compiled), key=lambda c: c.seconds, reverse=True
    )
    if not compiled:
        console.print(
            f"everything was compiled already; kept in {cache_folder()}",
            highlight=False,
            soft_wrap=True,
        )
        return
    kernels = Table(box=None, pad_edge=False)
    kernels.add_column("kernel", no_wrap=True)
    kernels.add_column("seconds", justify="right", no_wrap=True)
    kernels.add_column("argument types", no_wrap=True)
    for c in compiled[: slowest or None]:
        kernels.add_row(c.kernel, f"{c.seconds:.2f}", shortened(c.types))
    console.print(kernels)
    console.print(
        f"compiled {len(compiled)} kernels in {sum(c.seconds for c in compiled):.1f} s; "
        f"kept in {cache_folder()}",
        highlight=False,
        soft_wrap=True,
    )


def shortened(types: str) -> str:
    """Argument types on one line of a terminal."""
    short = types.replace("array(", "(")
    return short if len(short) <= 70 else f"{short[:69]}…"
