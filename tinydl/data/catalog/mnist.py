"""MNIST: handwritten digits in four IDX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinydl.data.catalog.files import first_complete
from tinydl.data.dataset import Dataset
from tinydl.data.errors import DataError, named
from tinydl.data.idx import read_idx
from tinydl.data.validation import check_labels

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CLASS_NAMES = tuple(str(digit) for digit in range(10))


def locate(root: Path) -> list[Path]:
    """The four files, in ``root/mnist``, ``root`` or ``root/mnist-10k`` (fewer training images)."""
    folders = [root / "mnist", root, root / "mnist-10k"]
    return first_complete("mnist", folders, [(f"{name}.gz", name) for name in FILES])


def load(root: Path) -> Dataset:
    """Images (N, 28, 28, 1), uint8, and labels 0 to 9, from the four files, gzipped or not."""
    paths = locate(root)
    x_train, y_train = _read_part(paths[0], paths[1])
    x_test, y_test = _read_part(paths[2], paths[3])
    return Dataset("mnist", x_train, y_train, x_test, y_test, CLASS_NAMES, str(paths[0].parent))


def _read_part(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise DataError(
            f"{images_path}: expected uint8 images (N, 28, 28), got {images.dtype} {images.shape}"
        )
    if labels.shape != (len(images),):
        raise DataError(
            f"{labels_path}: expected {len(images)} labels, one for each image of "
            f"{images_path.name}, got an array of shape {labels.shape}"
        )
    with named(labels_path):
        check_labels(labels, len(CLASS_NAMES))
    return images[..., None], labels.astype(np.int64)
