"""First names, one a line, for recurrent networks that spell new ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinydl.data.catalog.files import first_complete
from tinydl.data.dataset import Dataset
from tinydl.data.errors import DataError
from tinydl.data.text import Vocabulary, next_step_pairs, pad_sequences, read_text
from tinydl.randomness import stream

BOUNDARY = "\n"  # begins and ends every name
SPLIT_SEED = 0


def locate(root: Path) -> Path:
    return first_complete("names", [root, root / "names"], [("names.txt",)])[0]


def load(root: Path, test_fraction: float = 0.1) -> Dataset:
    """Names as padded sequences: x (N, T) characters so far, y (N, T) the next one, both 0 after
    the end.

    A name "ab" is x = [\\n, a, b], y = [a, b, \\n]. ``Vocabulary(data.class_names[1:])`` decodes
    them.
    """
    path = locate(root)
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if len(names) < 2:
        raise DataError(f"{path}: expected names, one a line, found {len(names)}")
    vocabulary = Vocabulary.of(BOUNDARY + "".join(names))
    padded = pad_sequences([vocabulary.encode(f"{BOUNDARY}{name}{BOUNDARY}") for name in names])
    x, y = next_step_pairs(padded)
    x[y == 0] = 0  # the boundary that ends a shorter name is a target, not an input
    order = stream(SPLIT_SEED, "shuffling").permutation(len(names))
    test = max(1, round(test_fraction * len(names)))
    held_out, kept = np.sort(order[:test]), np.sort(order[test:])
    return Dataset(
        "names", x[kept], y[kept], x[held_out], y[held_out], vocabulary.class_names, str(path)
    )
