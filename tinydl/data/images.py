"""Images in folders or zip files, one folder a class: ``…/cat/0001.jpg`` shows a cat.

Files are read in sorted order, whatever order the disk or the archive lists them in. Pillow decodes
them. Nothing is ever unpacked to disk.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import whole_number
from tinydl.data.dataset import Dataset
from tinydl.data.errors import DataError, MissingDataError, named, require
from tinydl.data.splitting import stratified_split

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
PARTS = ("train", "test")
MAX_FILE_BYTES = 1 << 28
MAX_PIXELS = 1 << 26  # of one image: 67 megapixels
ORIENTATION = 0x0112  # the EXIF tag that says which way up a camera was held
# Threads help where decoding a file takes longer than handing it over: not for thumbnails.
THREADS_FROM_BYTES = 16_384


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder or archive: relative names in sorted order, and how to read one."""

    source: Path
    names: tuple[str, ...]
    total_bytes: int
    read: Callable[[str], bytes]


def load_image_folder(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    color: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str | None = None,
) -> Dataset:
    """A data set from ``train/CLASS/*`` and ``test/CLASS/*``, or from ``CLASS/*``, which is then
    split.

    Args:
        path: a folder or a zip file.
        size: (height, width) to which every image is resized; without it all must have one size.
        color: "RGB" or "L" (gray) to convert every image; without it all must be of one kind.
        test_fraction, seed: of the stratified split, where there is no folder ``test``.
        name: of the data set; by default the file's.

    Returns:
        Images uint8 (N, H, W, C), C = 3 or 1; classes are sorted by name.

    Raises:
        MissingDataError: no such file or folder.
        DataError: no images, a file that is not an image (named), images of different sizes or
            kinds, a class that occurs in ``test`` only.
    """
    path = Path(path)
    name = name or path.stem
    if size is not None:
        size = _checked_size(size)
    with open_images(path) as files:
        images, labels, class_names, parts = _read_classes(files, size, color)
    if "test" in parts:
        train, test = parts == "train", parts == "test"
        if not train.any():
            raise DataError(f"{path}: there are images in 'test', but none in 'train'")
        if unseen := sorted(set(labels[test]) - set(labels[train])):
            raise DataError(f"{path}: class '{class_names[unseen[0]]}' is in 'test' only")
        split = images[train], images[test], labels[train], labels[test]
    else:
        with named(path):
            split = stratified_split(images, labels, test_fraction, seed, class_names)
    x_train, x_test, y_train, y_test = split
    return Dataset(name, x_train, y_train, x_test, y_test, class_names, str(path))


def _checked_size(size: Any) -> tuple[int, int]:
    try:
        height, width = size
    except (TypeError, ValueError):
        raise ValueError(f"size must be (height, width) or None, got {size!r}") from None
    return whole_number("size: height", height), whole_number("size: width", width)


@contextmanager
def open_images(path: Path) -> Iterator[ImageFiles]:
    """The image files below a folder, or in a zip file, which stays open inside the ``with``."""
    if path.is_dir():
        found = sorted(
            (file.relative_to(path).as_posix(), file.stat().st_size)
            for file in path.rglob("*")
            if _is_image(file.relative_to(path).as_posix()) and file.is_file()
        )
        yield _image_files(path, found, lambda name: (path / name).read_bytes())
    elif path.is_file():
        with _bad_zip_named(path), zipfile.ZipFile(path) as archive:
            found = sorted(
                (i.filename, i.file_size) for i in archive.infolist() if _is_image(i.filename)
            )
            for name, _ in found:
                if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
                    raise DataError(f"{path}: unsafe path in the archive: {name!r}")
            yield _image_files(path, found, archive.read)
    else:
        raise MissingDataError(f"no image folder or zip file at {path}")


def decode_image(data: bytes, size: tuple[int, int] | None, color: str | None) -> NDArray[np.uint8]:
    """(H, W, 1) or (H, W, 3) from an image file's bytes; arguments as of ``load_image_folder``."""
    Image = require("PIL.Image", "reading images")
    try:
        opened = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:  # its own message names a buffer in memory
        raise DataError("in no format that Pillow knows") from None
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
        if image.mode.startswith(("I", "F")):
            raise DataError(
                f"its pixels have more than 8 bits (mode {image.mode}): convert it first"
            )
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = require("PIL.ImageOps", "reading images").exif_transpose(image)
        wanted = color or ("L" if image.mode in ("1", "L", "LA") else "RGB")
        if image.mode != wanted:
            image = image.convert(wanted)
        if size is not None and (image.height, image.width) != tuple(size):
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _read_classes(
    files: ImageFiles, size: tuple[int, int] | None, color: str | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...], NDArray[np.str_]]:
    """All images with labels, class names, and the part ("train", "test" or "") of each."""
    if color not in (None, "L", "RGB"):
        raise ValueError(f"color must be 'RGB', 'L' (gray) or None, got {color!r}")
    folders = _without_common_parent([PurePosixPath(name).parts[:-1] for name in files.names])
    has_parts = all(folder and folder[0] in PARTS for folder in folders)
    for name, folder in zip(files.names, folders, strict=True):
        if len(folder) != 1 + has_parts:
            wanted = "train/CLASS/FILE and test/CLASS/FILE" if has_parts else "CLASS/FILE"
            raise DataError(f"{files.source}: expected {wanted}, found {name}")
    class_names, labels = np.unique([folder[-1] for folder in folders], return_inverse=True)
    parts = np.array([folder[0] if has_parts else "" for folder in folders])
    images = _decode_all(files, size, color)
    return images, labels.astype(np.int64), tuple(str(c) for c in class_names), parts


def _without_common_parent(folders: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Drop leading folders that all files share (an archive of one folder), but never the class."""
    while all(len(f) > 1 and f[0] == folders[0][0] and f[0] not in PARTS for f in folders):
        folders = [f[1:] for f in folders]
    return folders


def _decode_all(
    files: ImageFiles, size: tuple[int, int] | None, color: str | None
) -> NDArray[np.uint8]:
    """(N, H, W, C): the first image says what the others must look like."""
    first = _decode_named(files, files.names[0], size, color)
    shape = (len(files.names), *first.shape)
    try:
        images = np.empty(shape, np.uint8)
    except MemoryError:
        raise DataError(f"{files.source}: images of shape {shape} do not fit into memory") from None

    def decode(positions: Sequence[int]) -> None:
        for k in positions:
            image = _decode_named(files, files.names[k], size, color)
            if image.shape != first.shape:
                raise DataError(
                    f"{files.source}: {files.names[k]} is {_describe(image)}, {files.names[0]} is "
                    f"{_describe(first)}: pass size=(height, width) and color='RGB' or 'L' "
                    "to make them alike (tinydl train: --image-size and --color)"
                )
            images[k] = image

    chunks = [range(k, min(k + 64, len(images))) for k in range(0, len(images), 64)]
    if files.total_bytes < THREADS_FROM_BYTES * len(images):
        for chunk in chunks:
            decode(chunk)
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                for _ in pool.map(decode, chunks):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return images


def _decode_named(
    files: ImageFiles, name: str, size: tuple[int, int] | None, color: str | None
) -> NDArray[np.uint8]:
    """Decode one file; whatever is wrong with it is said with its name."""
    data = files.read(name)
    try:
        return decode_image(data, size, color)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on corrupt bytes
        raise DataError(f"{files.source}: {name} is not a readable image: {error}") from error


def _image_files(
    source: Path, found: list[tuple[str, int]], read: Callable[[str], bytes]
) -> ImageFiles:
    if not found:
        raise DataError(f"{source}: no images: expected files {', '.join(sorted(SUFFIXES))}")
    for name, size in found:
        if size > MAX_FILE_BYTES:
            raise DataError(f"{source}: {name} has {size} bytes, more than {MAX_FILE_BYTES}")
    return ImageFiles(source, tuple(n for n, _ in found), sum(s for _, s in found), read)


def _is_image(name: str) -> bool:
    """By its suffix; hidden files and the resource forks that macOS puts into archives are not."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(
        part.startswith((".", "__MACOSX")) and part != ".." for part in path.parts
    )


def _describe(image: NDArray) -> str:
    height, width, channels = image.shape
    return f"{height} x {width} {'RGB' if channels == 3 else 'gray'}"


@contextmanager
def _bad_zip_named(path: Path) -> Iterator[Any]:
    """Errors of truncated and corrupt archives as one kind, with the file's name."""
    try:
        yield
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: not a readable zip file: {error}") from error
