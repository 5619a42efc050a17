"""Were all ranks asked for the same? Ranks that were not would wait for each other for ever, or train something wrong.

Two ranks of which one validates and the other does not soon call different collectives: one with numbers of the loss,
the other with numbers of the next step. What the MPI library does then is anything: hang, end with words of its own, or
go on with the wrong numbers. So before training ranks compare, in a few words, what each is about to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

import numpy as np

from tinydl.distributed.world import World


def check_alike(many: World, own: Iterable[str], advice: str) -> None:
    """All ranks call this together; one ``ValueError`` on all of them names the first rank whose lines differ."""
    lines = list(own)
    first = many.broadcast_text("\n".join(lines)).split("\n")
    differs = np.zeros(many.size)
    differs[many.rank] = lines != first
    many.allreduce(differs)
    if not differs.any():
        return
    culprit = int(np.argmax(differs))
    text = None
    if many.rank == culprit:
        pairs = zip_longest(lines, first, fillvalue="nothing more")
        here, there = next((a, b) for a, b in pairs if a != b)
        text = f"rank {culprit} has '{here}' where rank 0 has '{there}': {advice}"
    raise ValueError(many.broadcast_text(text, culprit))


def described(values: dict[str, Any]) -> list[str]:
    """A line for each value, without the addresses of functions and the like, which differ between processes."""
    lines = (f"{name} = {value}" for name, value in values.items())
    return [re.sub(" at 0x[0-9a-f]+", "", line).replace("\n", " ") for line in lines]


def describe_data(source: Any) -> list[str]:
    """What makes a source's batches: the samples, and how they are cut into batches.

    Of the samples only the first and the last one are compared, which tells parts of a data set from all of it; and
    only their size in three digits: computers may differ in the last ones.
    """
    loader: Any = getattr(source, "loader", None)
    names = ("samples", "batch_size", "shuffle", "drop_last")
    known = {name: getattr(loader, name) for name in names if hasattr(loader, name)}
    lines = described({"batches an epoch": source.steps, **known})
    for name in ("x", "y", "sample_weight"):
        data = getattr(loader, name, None)
        for array in data if isinstance(data, list) else [data]:
            if isinstance(array, np.ndarray) and array.size:
                first, last = (f"{np.abs(sample).mean():.3g}" for sample in (array[0], array[-1]))
                lines.append(
                    f"{name} {array.shape[1:]} from {first} to {last} (mean |{name}| of a sample)"
                )
    return lines
