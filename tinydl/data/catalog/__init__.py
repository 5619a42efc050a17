"""Data sets by name: what they are, where their files lie and come from, how they are read."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydl.configs import near
from tinydl.data.dataset import Dataset
from tinydl.data.errors import DataError, MissingDataError
from tinydl.data.folders import data_root


@dataclass(frozen=True)
class RemoteFile:
    """A file that ``tinydl data fetch`` downloads.

    Attributes:
        path: where it is put, relative to the data folder.
        urls: its official home first, then mirrors of the same bytes.
        sha256: of its bytes.
        size: in bytes.
    """

    path: str
    urls: tuple[str, ...]
    sha256: str
    size: int


@dataclass(frozen=True)
class Entry:
    """One named data set; ``load(root, **options)`` of its ``module`` reads it."""

    name: str
    summary: str
    home: str
    citation: str
    module: str
    files: tuple[RemoteFile, ...] = ()


MNIST_HOMES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def _mnist_file(name: str, sha256: str, size: int) -> RemoteFile:
    return RemoteFile(f"mnist/{name}", tuple(home + name for home in MNIST_HOMES), sha256, size)


CATALOG = {
    entry.name: entry
    for entry in (
        Entry(
            "digits",
            "1,797 handwritten digits, 8 x 8 pixels of 0 to 16; comes with scikit-learn",
            "https://archive.ics.uci.edu/dataset/80",
            "Alpaydin, Kaynak 1998, Optical Recognition of Handwritten Digits",
            "tinydl.data.catalog.digits",
        ),
        Entry(
            "mnist",
            "70,000 handwritten digits, 28 x 28 pixels",
            "http://yann.lecun.com/exdb/mnist/",
            "LeCun, Cortes, Burges 1998, The MNIST database of handwritten digits",
            "tinydl.data.catalog.mnist",
            (
                _mnist_file(
                    "train-images-idx3-ubyte.gz",
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                    9_912_422,
                ),
                _mnist_file(
                    "train-labels-idx1-ubyte.gz",
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                    28_881,
                ),
                _mnist_file(
                    "t10k-images-idx3-ubyte.gz",
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                    1_648_877,
                ),
                _mnist_file(
                    "t10k-labels-idx1-ubyte.gz",
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                    4_542,
                ),
            ),
        ),
        Entry(
            "cifar10",
            "60,000 photographs in 10 classes, 32 x 32 pixels, RGB",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            "Krizhevsky 2009, Learning multiple layers of features from tiny images",
            "tinydl.data.catalog.cifar10",
            (
                RemoteFile(
                    "cifar-10-binary.tar.gz",
                    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    170_052_171,
                ),
            ),
        ),
        Entry(
            "cifar100",
            "60,000 photographs in 100 classes, 32 x 32 pixels, RGB",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            "Krizhevsky 2009, Learning multiple layers of features from tiny images",
            "tinydl.data.catalog.cifar100",
            (
                RemoteFile(
                    "cifar-100-binary.tar.gz",
                    ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
                    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                    168_513_733,
                ),
            ),
        ),
        Entry(
            "names",
            "32,033 first names, to be spelled character by character",
            "https://github.com/karpathy/makemore",
            "Names of the US Social Security Administration, as collected for makemore",
            "tinydl.data.catalog.first_names",
            (
                RemoteFile(
                    "names.txt",
                    ("https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",),
                    "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
                    228_145,
                ),
            ),
        ),
        Entry(
            "shakespeare",
            "1,115,394 characters of Shakespeare's plays",
            "https://github.com/karpathy/char-rnn",
            "Karpathy 2015, The unreasonable effectiveness of recurrent neural networks",
            "tinydl.data.catalog.shakespeare",
            (
                RemoteFile(
                    "tinyshakespeare.txt",
                    (
                        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
                        "tinyshakespeare/input.txt",
                    ),
                    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                    1_115_394,
                ),
            ),
        ),
    )
}


def names() -> list[str]:
    """The names that ``load`` knows."""
    return list(CATALOG)


def info(name: str) -> Entry:
    """What is known of a data set without reading it."""
    if name in CATALOG:
        return CATALOG[name]
    raise DataError(
        f"unknown data set {name!r}{near(name.lower(), CATALOG)}: expected one of {', '.join(CATALOG)}"
    )


def load(name: str, root: str | os.PathLike[str] | None = None, **options: Any) -> Dataset:
    """Read a data set by its name, or one of your own by its path.

    Args:
        name: one of ``names()``; or the path of a folder or .zip of images (``load_image_folder``), of
            an .npz file (``load_npz``), of a .csv or .parquet file (``load_table``; its label column
            is called "label" unless ``label=`` says otherwise).
        root: the folder with the files of a named data set; by default ``TINYDL_DATA``, else the folder
            into which ``tinydl data fetch`` downloads.
        options: keyword arguments of the function that reads this data set.

    Raises:
        DataError: an unknown name, or a corrupt file.
        MissingDataError: files that are not there; the message says where they were looked for and
            what to do.
    """
    if name not in CATALOG and (Path(name).exists() or Path(name).name != name):
        return _load_path(Path(name), **options)
    return importlib.import_module(info(name).module).load(data_root(root), **options)


def _load_path(path: Path, **options: Any) -> Dataset:
    """A data set of the user's own, told by what is at the path."""
    if not path.exists():
        raise MissingDataError(f"no file or folder at {path}")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".zip":
        from tinydl.data.images import load_image_folder

        return load_image_folder(path, **options)
    if suffix == ".npz":
        from tinydl.data.arrays import load_npz

        return load_npz(path, **options)
    if suffix in (".csv", ".parquet", ".pq"):
        from tinydl.data.tables import load_table

        return load_table(path, **({"label": "label"} | options))
    raise DataError(
        f"{path}: expected a folder or .zip of images, or an .npz, .csv or .parquet file"
    )
