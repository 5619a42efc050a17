"""The laboratory of emulated hosts, for measurements that need it: they say why where there can be none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.append(str(Path(__file__).resolve().parents[1]))
import lab

Rate = Annotated[str, typer.Option(help="Of each link, as tc writes it.")]


def laboratory(rate: str) -> Any:
    """Two hosts behind links of this rate, for a ``with`` statement."""
    if reason := lab.missing():
        print(reason, file=sys.stderr)
        raise typer.Exit(2)
    return lab.Lab(2, rate)
