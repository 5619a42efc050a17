"""``tinydl launch``: a command on many ranks, without knowing the MPI launcher's flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinydl.cli.errors import say
from tinydl.distributed.launch import Launch, usable_cores
from tinydl.distributed.launchers import LaunchError


def launch(
    command: Annotated[
        list[str], typer.Argument(help="The command to run on every rank, after two dashes.")
    ],
    ranks: Annotated[
        int | None,
        typer.Option("-n", "--ranks", help="Number of processes.", show_default="one a core"),
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option(help="Names of machines, with commas between; reached through ssh."),
    ] = None,
    agent: Annotated[
        Path | None,
        typer.Option(help="Program in place of ssh, called as: AGENT HOST COMMAND…"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of each rank.", show_default="cores / ranks"),
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(help="How often a job that lost a rank is started again.")
    ] = 0,
    elastic: Annotated[
        bool,
        typer.Option(
            "--elastic", help="Start again on fewer ranks: without the one that was lost."
        ),
    ] = False,
) -> None:
    """Run a command on many ranks that train together: tinydl launch -n 4 -- tinydl train

    Finds Open MPI's or MPICH's mpiexec in the Python environment or on the PATH and speaks its language. Each rank
    gets its share of the cores. Ctrl-C or SIGTERM lets all ranks save a checkpoint and stop.

    With --max-restarts, a job that loses a rank (killed, out of memory) goes on from its newest whole checkpoint.
    The command must be able to: tinydl train is; a program of your own is with
    model.fit(…, callbacks=[tl.callbacks.Checkpoint(folder)], resume=True).
    """
    try:
        job = Launch(
            command,
            usable_cores() if ranks is None else ranks,
            threads=threads,
            hosts=[host for host in (hosts or "").split(",") if host],
            agent=agent.resolve() if agent else None,
            max_restarts=max_restarts,
            elastic=elastic,
        )
        code = job.run()
    except LaunchError as error:
        say(error)
        raise typer.Exit(2) from None
    raise typer.Exit(code)
