"""``tinydl bench``: how fast is it here, against what this machine can do and against other libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from tinydl.cli.errors import say

app = typer.Typer(
    help="Measure kernels and training steps against the machine's peak and against other libraries.",
    no_args_is_help=True,
)
# Where the output goes into a file or a pipe, tables need not be cut to the width of a terminal.
console = Console(width=None if Console().is_terminal else 160)

Dtypes = Annotated[
    list[str], typer.Option("--dtype", help="Element type; give it again for several.")
]
Threads = Annotated[
    list[int],
    typer.Option("--threads", min=1, help="Number of threads; give it again for several."),
]
Peers = Annotated[
    list[str] | None,
    typer.Option(
        "--peer",
        help="openblas (NumPy with OpenBLAS' best kernels for this processor), numpy (as installed), torch, "
        "or none; give it again for several.",
        show_default="all that are installed",
    ),
]
Seconds = Annotated[
    float,
    typer.Option(min=0.0, help="Time for each contender and case; more narrows the intervals."),
]
Clock = Annotated[
    Literal["wall", "cpu"],
    typer.Option(
        help="cpu: this program's time alone, where others use the machine; for one thread."
    ),
]
Instructions = Annotated[
    Literal["host", "avx2"], typer.Option(help="Instruction set that all contenders may use.")
]
CoreType = Annotated[
    str,
    typer.Option(help="OpenBLAS core type of the peer openblas.", show_default="the host's best"),
]
Output = Annotated[Path, typer.Option(help="Folder for JSON, pictures and tables.")]
Name = Annotated[
    str | None, typer.Option(help="Name of the files.", show_default="time and command")
]
Against = Annotated[
    Path | None, typer.Option(help="JSON of an earlier run to compare with.", dir_okay=False)
]
RESULTS = Path("runs/bench")
FLOAT32 = ["float32"]
ONE = [1]


@app.command()
def matmul(
    shapes: Annotated[
        list[str] | None,
        typer.Argument(
            help="MxKxN, or one size for a cube.", show_default="128 to 2048, and three layers'"
        ),
    ] = None,
    transposes: Annotated[
        list[str] | None,
        typer.Option(
            help="NN, TN, NT, TT: which operand is stored transposed.", show_default="all"
        ),
    ] = None,
    dtype: Dtypes = FLOAT32,
    threads: Threads = ONE,
    peer: Peers = None,
    seconds: Seconds = 0.3,
    clock: Clock = "wall",
    instructions: Instructions = "host",
    core_type: CoreType = "",
    output: Output = RESULTS,
    name: Name = None,
    against: Against = None,
) -> None:
    """Matrix products: GFLOP/s, share of the peak, ratio to NumPy's BLAS and PyTorch."""
    from tinydl.bench.operations import matmul as operation

    def cases() -> list[str]:
        wanted = [operation.parse(text) for text in shapes or operation.DEFAULT_SHAPES]
        return [
            f"{c.m}x{c.k}x{c.n} {t}" for c in wanted for t in transposes or operation.TRANSPOSES
        ]

    measure(
        Request("matmul", cases, dtype, threads, peer, seconds, clock, instructions, core_type),
        Files("matmul", output, name, against),
    )


@app.command()
def conv2d(
    shapes: Annotated[
        list[str] | None,
        typer.Argument(
            help="nNcChHkKrR with sSTRIDE, pPADDING, dDILATION, gGROUPS, wWIDTH, e.g. n32c64h28k64r3s2p1.",
            show_default="ten layers' shapes",
        ),
    ] = None,
    direction: Annotated[
        list[str] | None,
        typer.Option("--pass", help="forward, grad-input, grad-weight.", show_default="all"),
    ] = None,
    dtype: Dtypes = FLOAT32,
    threads: Threads = ONE,
    peer: Peers = None,
    seconds: Seconds = 0.3,
    clock: Clock = "wall",
    instructions: Instructions = "host",
    output: Output = RESULTS,
    name: Name = None,
    against: Against = None,
) -> None:
    """Convolutions and their gradients, against PyTorch in the better of its two layouts."""
    from tinydl.bench.operations import conv2d as operation

    def cases() -> list[str]:
        shown = [str(operation.parse(text)) for text in shapes or operation.DEFAULT_SHAPES]
        wanted = direction or operation.PASSES
        return [f"{text.partition(' ')[0]} {d}" for d in wanted for text in shown]

    measure(
        Request("conv2d", cases, dtype, threads, peer, seconds, clock, instructions),
        Files("conv2d", output, name, against),
    )


@app.command()
def passes(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(help="Names, or 'NAME SIZE', e.g. 'adam 1000000'.", show_default="all"),
    ] = None,
    dtype: Dtypes = FLOAT32,
    threads: Threads = ONE,
    peer: Peers = None,
    seconds: Seconds = 0.3,
    clock: Clock = "wall",
    instructions: Instructions = "host",
    output: Output = RESULTS,
    name: Name = None,
    against: Against = None,
) -> None:
    """Passes over memory (activations, normalizations, losses, optimizers) in GB/s."""
    from tinydl.bench.operations import passes as operation

    measure(
        Request(
            "passes",
            lambda: [str(operation.parse(text)) for text in kinds or operation.PASSES],
            dtype,
            threads,
            peer,
            seconds,
            clock,
            instructions,
        ),
        Files("passes", output, name, against),
    )


@app.command()
def step(
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            help="mlp, lenet, resnet8, lstm, or 'NAME bBATCH OPTIMIZER'.", show_default="all four"
        ),
    ] = None,
    optimizer: Annotated[str, typer.Option(help="sgd, momentum or adam.")] = "adam",
    dtype: Dtypes = FLOAT32,
    threads: Threads = ONE,
    peer: Peers = None,
    seconds: Seconds = 2.0,
    clock: Clock = "wall",
    instructions: Instructions = "host",
    output: Output = RESULTS,
    name: Name = None,
    against: Against = None,
) -> None:
    """Whole training steps against PyTorch eager: time, peak memory, and the time of each layer."""
    from tinydl.bench.operations import step as operation

    def cases() -> list[str]:
        wanted = [operation.parse(text, optimizer) for text in networks or operation.NETWORKS]
        return [str(case) for case in wanted]

    measure(
        Request("step", cases, dtype, threads, peer, seconds, clock, instructions),
        Files("step", output, name, against),
    )


@app.command()
def ladder(
    operation: Annotated[
        Literal["matmul", "conv2d"], typer.Argument(help="Which ladder to climb.")
    ] = "matmul",
    shape: Annotated[
        str | None,
        typer.Option(help="Shape, as for the operation itself.", show_default="a middling one"),
    ] = None,
    rung: Annotated[
        list[str] | None, typer.Option(help="Only these rungs.", show_default="all")
    ] = None,
    dtype: Dtypes = FLOAT32,
    threads: Threads = ONE,
    peer: Peers = None,
    seconds: Seconds = 0.3,
    clock: Clock = "wall",
    output: Output = RESULTS,
    name: Name = None,
    against: Against = None,
) -> None:
    """The rungs from the naive loop to the fast kernel, one after the other."""
    usual = {"matmul": "512x512x512", "conv2d": "n8c32h28k64r3"}

    def cases() -> list[str]:
        from tinydl.bench.operations import operation as module

        return [str(module(operation).parse(shape or usual[operation]))]

    measure(
        Request(operation, cases, dtype, threads, peer, seconds, clock, rungs=rung or []),
        Files(f"ladder-{operation}", output, name, against),
    )


@app.command()
def roofline(
    dtype: Dtypes = FLOAT32,
    threads: Threads = ONE,
    peer: Peers = None,
    seconds: Seconds = 0.2,
    clock: Clock = "wall",
    instructions: Instructions = "host",
    output: Output = RESULTS,
    name: Name = None,
) -> None:
    """Peak arithmetic, bandwidth of each cache and of memory, and where the kernels stand under that roof."""
    from tinydl.bench.operations import passes as memory_passes

    common = (dtype, threads, peer, seconds, clock, instructions)
    chosen = {
        "matmul": ["128x128x128 NN", "1024x1024x1024 NN", "128x784x512 NN", "64x1024x10 NN"],
        "conv2d": [
            f"{shape} forward"
            for shape in (
                "n32c64h32k64r3p1",
                "n64c3h32k32r3p1",
                "n32c64h28k128r1",
                "n32c128h28k128r3p1g128",
            )
        ],
        "passes": [str(memory_passes.parse(kind)) for kind in memory_passes.PASSES],
    }
    requests = [Request(kind, cases.copy, *common) for kind, cases in chosen.items()]
    measure_all(requests, Files("roofline", output, name, None))


# ---- what all of them do -------------------------------------------------------------------------------------


@dataclass
class Request:
    """One operation as asked for on the command line; ``cases`` is called where its errors are shown."""

    operation: str
    cases: Callable[[], list[str]]
    dtypes: list[str]
    threads: list[int]
    peers: list[str] | None
    seconds: float
    clock: str
    instructions: str = "host"
    core_type: str = ""
    rungs: list[str] | None = None


@dataclass
class Files:
    command: str
    folder: Path
    name: str | None
    against: Path | None
    stem: str = field(init=False)

    def __post_init__(self) -> None:
        self.stem = self.name or f"{datetime.now():%Y-%m-%dT%H-%M-%S}-{self.command}"

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.stem}{suffix}"


def measure(request: Request, files: Files) -> None:
    measure_all([request], files)


def measure_all(requests: list[Request], files: Files) -> None:
    from tinydl.bench.operations import NotOffered, UnknownCase
    from tinydl.bench.processes import WorkerError
    from tinydl.bench.results import ResultsError
    from tinydl.bench.rounds import WrongResult

    known = (ValueError, UnknownCase, NotOffered, WorkerError, WrongResult, ResultsError, OSError)
    try:
        run(requests, files)
    except known as error:
        say(error)
        raise typer.Exit(1) from None


def run(requests: list[Request], files: Files) -> None:
    from tinydl.bench import results, runner
    from tinydl.bench.session import Session

    earlier = results.read(files.against) if files.against else None
    plans = [make_plan(request) for request in requests]
    report = runner.new_report()
    warn_of_company(max(n for request in requests for n in request.threads), requests[0].clock)
    with console.status("measuring") as status:
        session = Session(report, lambda text: status.update(f"measuring {text}"), console.print)
        for plan in plans:
            session.peaks(plan)
        for request, plan in zip(requests, plans, strict=True):
            session.measure(plan, request.rungs)
    if all(plan.operation != "step" for plan in plans) and len(session.report.measurements) > 1:
        session.draw_rooflines()
    session.show_means()
    if earlier is not None:
        session.show_changes(earlier)
    written = session.write(files.path)
    console.print("written: " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)


def warn_of_company(threads: int, clock: str) -> None:
    """Other programs on the same cores: a thread that waits for its turn makes all others of its pool wait."""
    from tinydl.bench.machine import busy_cores, usable_cores

    load, cores = busy_cores(), usable_cores()
    if load is None or load < cores / 2 or clock == "cpu":
        return
    advice = (
        "with several threads, these figures will mean little"
        if threads > 1
        else "--clock cpu leaves out the time in which they run"
    )
    console.print(
        f"[yellow]other programs are at work here (about {load:.1f} of {cores} cores in the last minute): {advice}[/]",
        highlight=False,
        soft_wrap=True,
    )


def make_plan(request: Request) -> Any:
    """The request with its cases and peers looked at: whatever is wrong with them shows here."""
    from tinydl.bench import ladders, runner
    from tinydl.bench.machine import usable_cores
    from tinydl.bench.operations import operation
    from tinydl.bench.rounds import Settings

    for dtype in request.dtypes:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"unknown element type {dtype!r}: expected float32 or float64")
    peers = list(runner.PEERS) if request.peers is None else request.peers
    unknown = [peer for peer in peers if peer not in (*runner.PEERS, "none")]
    if unknown:
        raise ValueError(f"unknown peer {unknown[0]!r}: expected {', '.join(runner.PEERS)} or none")
    if request.rungs is not None:
        ladders.climbers(request.operation, request.rungs)
    parse = operation(request.operation).parse
    cases = [str(parse(case)) for case in request.cases()]
    settings = Settings(
        threads=max(request.threads),
        seconds=request.seconds,
        instructions=request.instructions,
        clock=request.clock,
    )
    if settings.threads > usable_cores():
        raise ValueError(
            f"{settings.threads} threads are more than the {usable_cores()} cores that can be used here"
        )
    core_type = runner.chosen_core_type(request.instructions, request.core_type)
    present = runner.present_peers([p for p in peers if p != "none"], core_type)
    if "torch" in (request.peers or []) and "torch" not in present:
        console.print("[yellow]torch takes no part: it is not installed here[/]")
    return runner.Plan(
        operation=request.operation,
        cases=cases,
        peers=present,
        dtypes=request.dtypes,
        threads=request.threads,
        settings=settings,
        core_type=core_type,
    )
