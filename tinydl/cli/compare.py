"""``tinydl compare``: the optimizer study, from tuning to the report."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from tinydl.cli.errors import say

if TYPE_CHECKING:
    from tinydl.study.protocol import Protocol
    from tinydl.study.records import Record
    from tinydl.study.tables import Table

app = typer.Typer(
    help="Compare optimizers: tune each, judge all from several seeds, write the report.",
    no_args_is_help=True,
)
console = Console(width=None if Console().is_terminal else 160)

Output = Annotated[Path, typer.Option(help="Folder of the results and the report.")]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        help="Names of tasks, with commas between, or FILE.py:FUNCTION that returns one of your own.",
        show_default="all",
    ),
]
Optimizers = Annotated[
    list[str] | None,
    typer.Option(
        "--optimizer",
        help="Names of optimizers, with commas between, or FILE.py:FUNCTION that makes one of a learning rate.",
        show_default="all; peers where PyTorch is installed",
    ),
]
Subject = Annotated[str, typer.Option(help="The optimizer that is judged without tuning.")]
RESULTS = Path("runs/study")


@app.command()
def run(
    task: Tasks = None,
    optimizer: Optimizers = None,
    schedule: Annotated[
        Literal["all", "constant", "cosine"], typer.Option(help="Schedules of the learning rate.")
    ] = "all",
    rates: Annotated[
        str | None,
        typer.Option(
            help="Learning rates for all optimizers, e.g. 0.001,0.01.",
            show_default="each optimizer's own grid",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds judge.")] = 5,
    tuning_seeds: Annotated[int, typer.Option(help="How many seeds tune.")] = 1,
    scale: Annotated[
        float, typer.Option(help="Length of the runs: 0.1 makes a tenth of the steps.")
    ] = 1.0,
    stage: Annotated[
        Literal["all", "tune", "judge"],
        typer.Option(help="tune: find the rates; judge: run those tuned so far."),
    ] = "all",
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at the same time, one thread each.")
    ] = os.cpu_count() or 1,
    again: Annotated[
        list[str] | None,
        typer.Option(help="Optimizers whose code has changed: forget their runs."),
    ] = None,
    output: Output = RESULTS,
) -> None:
    """Do the study, or go on where it was stopped; then write the report.

    Every run is kept as soon as it ends, so Ctrl-C loses nothing: the same command goes on.
    """
    with clear_errors():
        from tinydl.study.records import Results
        from tinydl.study.session import STAGES

        check_scale(scale)
        protocol = make_protocol(task, optimizer, schedule, rates, seeds, tuning_seeds)
        check_data(protocol)
        check_peers(protocol)
        results = Results(output, scale)
        results.check(protocol.tables)
        results.begin_session(session())
        for name in split(again or []):
            results.forget(name)
        stages = STAGES if stage == "all" else (stage,)
        with display() as shown:
            follow(protocol, results, stages, jobs, shown)
        show(output, task, optimizer, schedule, rates, seeds, tuning_seeds, "das")


@app.command()
def report(
    task: Tasks = None,
    optimizer: Optimizers = None,
    schedule: Annotated[
        Literal["all", "constant", "cosine"], typer.Option(help="As given to run.")
    ] = "all",
    rates: Annotated[
        str | None,
        typer.Option(help="As given to run.", show_default="each optimizer's own grid"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds judge.")] = 5,
    tuning_seeds: Annotated[int, typer.Option(help="How many seeds tune.")] = 1,
    subject: Subject = "das",
    output: Output = RESULTS,
) -> None:
    """Write the report of the runs that there are: REPORT.md with pictures, and report.html."""
    with clear_errors():
        show(output, task, optimizer, schedule, rates, seeds, tuning_seeds, subject)


@app.command("list")
def list_() -> None:
    """The tasks, and the optimizers with their rates."""
    from rich.table import Table

    from tinydl.study.contenders import KINDS
    from tinydl.study.tasks import TASKS

    table = Table("task", "what it is", "batch", "epochs", "metric", "target loss", "DAS is")
    for t in TASKS.values():
        role = "developed" if t.development else "judged"
        table.add_row(
            *(t.name, t.summary, str(t.batch_size), str(t.epochs), t.metric),
            *(f"{t.target_loss:g}", role),
        )
    console.print(table)
    table = Table("optimizer", "rates", "default", "schedules", "judged at")
    for name, kind in KINDS.items():
        rates = f"{kind.rates[0]:g} … {kind.rates[-1]:g} ({len(kind.rates)})"
        how = "its tuned rate" if kind.tuned else "its default"
        table.add_row(name, rates, f"{kind.default:g}", ", ".join(kind.schedules), how)
    console.print(table)


# ---- what was asked for -------------------------------------------------------------------------------------


def make_protocol(
    task: list[str] | None,
    optimizer: list[str] | None,
    schedule: str,
    rates: str | None,
    seeds: int,
    tuning_seeds: int,
) -> Protocol:
    from tinydl.study import peers
    from tinydl.study.contenders import KINDS, PEERS, SCHEDULES
    from tinydl.study.protocol import Protocol
    from tinydl.study.tasks import TASKS

    default = [name for name in KINDS if name not in PEERS or peers.missing() is None]
    return Protocol(
        tasks=tuple(split(task) if task is not None else TASKS),
        optimizers=tuple(split(optimizer) if optimizer is not None else default),
        schedules=SCHEDULES if schedule == "all" else (schedule,),
        rates=parse_rates(rates),
        seeds=seeds,
        tuning_seeds=tuning_seeds,
    )


def split(values: list[str]) -> list[str]:
    """Names of repeated options, each of which may hold several with commas between."""
    names = [name.strip() for value in values for name in value.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def parse_rates(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise ValueError(f"--rates: expected numbers with commas between, got {text!r}") from None


def check_scale(scale: float) -> None:
    if not 0 < scale <= 100:
        raise ValueError(f"--scale must be positive (and at most 100), got {scale:g}")


def check_data(protocol: Protocol) -> None:
    """Missing files are told before anything is run, not by each run."""
    for task in protocol.tables.values():
        task.data()


def check_peers(protocol: Protocol) -> None:
    from tinydl.study import peers
    from tinydl.study.contenders import PEERS

    asked = [name for name in protocol.optimizers if name in PEERS]
    if asked and (package := peers.missing()):
        raise ValueError(
            f"{' and '.join(asked)} cannot run: the package {package} is not installed "
            "(pip install torch prodigyopt schedulefree)"
        )


@contextmanager
def clear_errors() -> Iterator[None]:
    """One line in place of a traceback, where the user can do something about it."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        say(error)
        raise typer.Exit(1) from None


def session() -> dict[str, Any]:
    """Which code, started how: kept beside the runs."""
    from tinydl.bench.machine import processor_name
    from tinydl.cli.runs import git_commit

    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": git_commit(),
        "python": platform.python_version(),
        "processor": processor_name(),
        "arguments": ["tinydl", *sys.argv[1:]],
    }


# ---- what is shown ------------------------------------------------------------------------------------------


@contextmanager
def display() -> Iterator[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield progress


def follow(protocol: Protocol, results: Any, stages: tuple[str, ...], jobs: int, bars: Any) -> None:
    """The study under a progress bar; Ctrl-C, or a job's time that is over, ends it with a word on how to go on."""
    from tinydl.study.session import run_study

    bar: Any = None
    count = {"done": 0, "failed": 0}

    def begin(stage: str, runs: int) -> None:
        nonlocal bar
        if bar is not None:
            bars.remove_task(bar)
        bar = bars.add_task(stage, total=runs)

    def done(found: Record) -> None:
        count["done"] += 1
        name = f"{found.task} {found.run.contender} {found.rate:g} seed {found.seed}"
        if found.error is not None:
            count["failed"] += 1
            bars.console.print(f"[red]failed:[/] {name}: {escape(found.error)}", highlight=False)
        bars.update(bar, advance=1, description=name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        run_study(protocol, results, stages, jobs, begin, done)
    except KeyboardInterrupt:
        console.print(f"stopped after {count['done']} runs; the same command goes on")
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
        if bar is not None:
            bars.remove_task(bar)
    console.print(f"{count['done']} runs done, {count['failed']} of them failed")


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def show(
    output: Path,
    task: list[str] | None,
    optimizer: list[str] | None,
    schedule: str,
    rates: str | None,
    seeds: int,
    tuning_seeds: int,
    subject: str,
) -> None:
    """Write the report of what a folder holds, and print its tables."""
    from tinydl.study.analysis import Study
    from tinydl.study.records import Results
    from tinydl.study.report import write_report
    from tinydl.study.tables import all_tables

    results = Results(output)
    if not results.records:
        raise ValueError(f"{output} holds no runs: begin with tinydl compare run --output {output}")
    results.checks_versions = False
    ran = list(results.records)
    protocol = make_protocol(
        task or in_order([r.task for r in ran], "task"),
        optimizer or in_order([r.contender.optimizer for r in ran], "optimizer"),
        schedule,
        rates,
        seeds,
        tuning_seeds,
    )
    results.check(protocol.tables)
    study = Study(protocol, results, subject)
    for table in all_tables(study):
        print_table(table)
    for path in write_report(study, output):
        console.print(f"written: {path}", highlight=False, soft_wrap=True)


def in_order(names: list[str], kind: str) -> list[str]:
    """Those that were run, in the order of the study's own table, then those of the user's."""
    from tinydl.study.contenders import KINDS
    from tinydl.study.tasks import TASKS

    usual = list(TASKS if kind == "task" else KINDS)
    present = dict.fromkeys(names)
    return [*(n for n in usual if n in present), *(n for n in present if n not in usual)]


def print_table(table: Table) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(*map(str, table.header), title=table.title, title_justify="left")
    for i, row in enumerate(table.rows):
        shown.add_row(
            *(Text(t, style="bold" if (i, k) in table.strong else "") for k, t in enumerate(row))
        )
    console.print(shown)
    if table.note:
        console.print(table.note, style="dim", highlight=False)
