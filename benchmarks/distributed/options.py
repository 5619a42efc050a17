"""Options that the measurements share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

MPI_PYTHON = sys.executable
SECONDS = 12.0

MpiPython = Annotated[
    str,
    typer.Option(
        help="Python that has mpi4py and, beside it, an mpiexec.", show_default="this one"
    ),
]
PeerPython = Annotated[str, typer.Option(help="Python that has PyTorch.")]
Seconds = Annotated[float, typer.Option(help="Time for each case, for all contenders together.")]


def cases(words: Sequence[str]) -> list[tuple[str, int]]:
    """("lenet", 64) from "lenet:64"."""
    from networks import NETWORKS

    found = []
    for word in words:
        network, _, batch = word.partition(":")
        if network not in NETWORKS or not batch.isdigit():
            raise typer.BadParameter(
                f"{word!r}: expected NETWORK:BATCH with one of {', '.join(NETWORKS)}, as lenet:64"
            )
        found.append((network, int(batch)))
    return found
