"""CIFAR-10: photographs of ten kinds of things, from the official binaries or from image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinydl.data.cache import cached_arrays
from tinydl.data.catalog.files import missing_message
from tinydl.data.cifar import decode_class_names, decode_records, read_members
from tinydl.data.dataset import Dataset
from tinydl.data.errors import DataError, MissingDataError
from tinydl.data.images import load_image_folder

TRAIN_FILES = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
TEST_FILE = "test_batch.bin"
NAMES_FILE = "batches.meta.txt"
# The exact pixels first: the images were coded as JPEG, which loses a little.
BINARIES = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz")
IMAGES = ("cifar10-images.zip", "cifar10-images", "cifar10.zip", "cifar10")


def locate(root: Path) -> Path:
    """The folder or file to read: official binaries where they are there, else images."""
    for folder in (root, root / "cifar10"):
        for name in BINARIES:
            if (path := folder / name).exists():
                return path
        if (folder / TEST_FILE).is_file():
            return folder
    for name in IMAGES:
        path = root / name
        if path.is_file() or (path / "train").is_dir():
            return path
    raise MissingDataError(
        missing_message("cifar10", [root, root / "cifar10"], [" or ".join((*BINARIES, *IMAGES))])
    )


def load(root: Path) -> Dataset:
    """50,000 training and 10,000 test images (N, 32, 32, 3), uint8. Decoded images are cached."""
    path = locate(root)
    if path.name in BINARIES or (path / TEST_FILE).is_file():
        return _load_binaries(path)

    def decode() -> tuple[dict, dict]:
        data = load_image_folder(path, size=(32, 32), color="RGB")
        arrays = {part: getattr(data, part) for part in ("x_train", "y_train", "x_test", "y_test")}
        return arrays, {"class_names": data.class_names}

    arrays, data = cached_arrays(path, decode)
    class_names = tuple(data["class_names"])
    if len(class_names) != 10:
        raise DataError(f"{path}: expected 10 classes, found {len(class_names)}")
    return Dataset("cifar10", **arrays, class_names=class_names, source=str(path))


def _load_binaries(path: Path) -> Dataset:
    members = read_members(path, [*TRAIN_FILES, TEST_FILE, NAMES_FILE])
    class_names = decode_class_names(members[NAMES_FILE], f"{path}: {NAMES_FILE}", 10)
    parts = [
        decode_records(members[name], f"{path}: {name}", 1, 10)
        for name in (*TRAIN_FILES, TEST_FILE)
    ]
    x_train = np.concatenate([images for images, _ in parts[:-1]])
    y_train = np.concatenate([labels for _, labels in parts[:-1]])
    return Dataset("cifar10", x_train, y_train, *parts[-1], class_names, str(path))
