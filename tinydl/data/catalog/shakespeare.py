"""A megabyte of Shakespeare, for character-level language models."""

from __future__ import annotations

from pathlib import Path

from tinydl.data.catalog.files import first_complete
from tinydl.data.dataset import Dataset
from tinydl.data.errors import named
from tinydl.data.text import Vocabulary, next_step_pairs, read_text, windows


def locate(root: Path) -> Path:
    folders = [root, root / "shakespeare"]
    return first_complete("shakespeare", folders, [("tinyshakespeare.txt", "input.txt")])[0]


def load(root: Path, length: int = 100, test_fraction: float = 0.1) -> Dataset:
    """Windows of text: x (N, length) characters, y (N, length) the ones that follow them.

    The test windows are the end of the text, so that no test character was seen in training.
    ``Vocabulary(data.class_names[1:])`` decodes them.
    """
    path = locate(root)
    text = read_text(path)
    vocabulary = Vocabulary.of(text)
    indices = vocabulary.encode(text)
    cut = round((1 - test_fraction) * len(indices))
    with named(path):
        parts = [windows(part, length + 1, length) for part in (indices[:cut], indices[cut:])]
    x_train, y_train = next_step_pairs(parts[0])
    x_test, y_test = next_step_pairs(parts[1])
    return Dataset(
        "shakespeare", x_train, y_train, x_test, y_test, vocabulary.class_names, str(path)
    )
