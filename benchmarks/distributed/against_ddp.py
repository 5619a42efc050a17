"""Step times of two ranks against PyTorch's DistributedDataParallel over gloo: same network, batch, optimizer.

Two processes with one thread each, for both; in shared memory, or (--rate) on two emulated hosts.

    python benchmarks/distributed/against_ddp.py --peer-python PYTHON [--rate 1gbit] [lenet:64 …]
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

import typer
from lab_options import Rate, laboratory
from measuring import bars, in_turns, mean_step, middle, milliseconds, ratio, save, steps_for, table
from options import MPI_PYTHON, SECONDS, MpiPython, PeerPython, Seconds, cases
from parties import Party, mpi_ranks, on_hosts, torch_ranks

DEFAULT = ["lenet:64", "cnn:64", "mlp-5m:256", "mlp-5m:32"]


def main(
    peer_python: PeerPython,
    networks: Annotated[list[str] | None, typer.Argument(help="NETWORK:BATCH…")] = None,
    mpi_python: MpiPython = MPI_PYTHON,
    seconds: Seconds = SECONDS,
    rate: Rate = "",
    name: str = "",
) -> None:
    """Training steps against PyTorch DDP."""
    found = []
    where: Any = laboratory(rate) if rate else nullcontext()
    with where as lab:
        ours = on_hosts(lab, mpi_python) if lab else mpi_ranks(mpi_python)
        theirs = torch_ranks(peer_python, lab=lab)
        with Party(ours, 2) as tinydl, Party(theirs, 2) as torch:
            about = tinydl.ask("training:about")[0]
            for network, batch in cases(networks or DEFAULT):
                counts = tinydl.ask("training:build", "a", network, batch, strategy={})
                counts += torch.ask("torch_training:build", "a", network, batch)
                if len(set(counts)) != 1:
                    raise RuntimeError(f"{network}: the networks differ: {counts} parameters")
                number = steps_for(mean_step(tinydl.ask("training:steps", "a", 3)))

                def turn(party: Party, module: str, number: int = number):
                    return lambda: mean_step(party.ask(f"{module}:steps", "a", number))

                turns = {"tinydl": turn(tinydl, "training"), "ddp": turn(torch, "torch_training")}
                times = in_turns(turns, seconds)
                found.append(
                    {
                        "network": network,
                        "batch": batch,
                        "parameters": counts[0],
                        "seconds": times,
                        "faster": ratio(times, "tinydl", "ddp"),
                    }
                )
                tinydl.ask("training:forget", "a")
                torch.ask("torch_training:forget", "a")
    place = rate or "shared memory"
    rows = [
        [
            f"{f['network']} b{f['batch']}",
            milliseconds(middle(f["seconds"]["tinydl"])),
            milliseconds(middle(f["seconds"]["ddp"])),
            str(f["faster"]),
        ]
        for f in found
    ]
    columns = ["", "tinydl, ms", "DDP (gloo), ms", "times faster"]
    table(f"a training step on two processes, {place}, {about['mpi']}", columns, rows)
    save(name or f"ddp-{rate or 'shared-memory'}", {"about": about, "place": place, "cases": found})
    labels = [f"{f['network']} b{f['batch']}" for f in found]
    faster = {place: [f["faster"].value for f in found]}
    title = "training steps of two processes against PyTorch DDP (gloo)"
    bars(name or f"ddp-{rate or 'shared-memory'}", title, "times faster", labels, faster, 1.0)


if __name__ == "__main__":
    typer.run(main)
