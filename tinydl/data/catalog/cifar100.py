"""CIFAR-100: small photographs of a hundred kinds of things, from the official binaries."""

from __future__ import annotations

from pathlib import Path

from tinydl.data.catalog.files import missing_message
from tinydl.data.cifar import decode_class_names, decode_records, read_members
from tinydl.data.dataset import Dataset
from tinydl.data.errors import MissingDataError

TRAIN_FILE, TEST_FILE, NAMES_FILE = "train.bin", "test.bin", "fine_label_names.txt"
BINARIES = ("cifar-100-binary", "cifar-100-binary.tar.gz")


def locate(root: Path) -> Path:
    """The folder or tar file with the official binaries."""
    for folder in (root, root / "cifar100"):
        for name in BINARIES:
            if (path := folder / name).exists():
                return path
    raise MissingDataError(
        missing_message("cifar100", [root, root / "cifar100"], [" or ".join(BINARIES)])
    )


def load(root: Path) -> Dataset:
    """50,000 training and 10,000 test images (N, 32, 32, 3), uint8, with fine labels."""
    path = locate(root)
    members = read_members(path, [TRAIN_FILE, TEST_FILE, NAMES_FILE])
    class_names = decode_class_names(members[NAMES_FILE], f"{path}: {NAMES_FILE}", 100)
    train = decode_records(members[TRAIN_FILE], f"{path}: {TRAIN_FILE}", 2, 100)
    test = decode_records(members[TEST_FILE], f"{path}: {TEST_FILE}", 2, 100)
    return Dataset("cifar100", *train, *test, class_names, str(path))
