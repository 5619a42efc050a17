"""The command line: ``tinydl train``, ``tinydl data``, …"""

from __future__ import annotations

import typer

from tinydl.cli.bench import app as bench_app
from tinydl.cli.compare import app as compare_app
from tinydl.cli.data import app as data_app
from tinydl.cli.doctor import doctor
from tinydl.cli.launch import launch
from tinydl.cli.train import train
from tinydl.cli.warmup import warmup

app = typer.Typer(
    help="Neural networks from scratch: train, look inside, measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command()(warmup)
app.command()(doctor)
app.command()(launch)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(compare_app, name="compare")
