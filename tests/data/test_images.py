"""Images in folders and zip files: order, classes, colors, sizes; every kind of damage is named."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from tinydl.data import DataError, MissingDataError, load_image_folder
from tinydl.data import images as images_module

Image = pytest.importorskip("PIL.Image")


def coded(pixels: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def random_pixels(k: int, shape=(5, 4, 3)) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, shape).astype(np.uint8)


NAMES = [
    f"{part}/{c}/{k}.png" for part in ("train", "test") for c in ("bee", "ant") for k in (2, 10, 1)
]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("prefix", ["", "photos/v1/"])
@pytest.mark.parametrize("threads", [False, True])
def test_folder_and_zip_give_the_same_in_sorted_order(tmp_path, monkeypatch, prefix, threads):
    if threads:
        monkeypatch.setattr(images_module, "THREADS_FROM_BYTES", 0)
    pixels = {name: random_pixels(k) for k, name in enumerate(NAMES)}
    files = {prefix + name: coded(p) for name, p in pixels.items()}
    files |= {f"{prefix}train/readme.txt": b"no image", "__MACOSX/train/ant/._1.png": b"fork"}
    folder = write(tmp_path / "folder", files)
    archive = write_zip(tmp_path / "archive.zip", files)
    for source in (folder, archive):
        data = load_image_folder(source)
        assert data.class_names == ("ant", "bee") and data.source == str(source)
        assert data.x_train.shape == (6, 5, 4, 3) and data.x_train.dtype == np.uint8
        for part, x, y in (
            ("train", data.x_train, data.y_train),
            ("test", data.x_test, data.y_test),
        ):
            expected = sorted(name for name in NAMES if name.startswith(part))
            np.testing.assert_array_equal(x, [pixels[name] for name in expected])
            assert y.tolist() == [data.class_names.index(n.split("/")[1]) for n in expected]


def test_without_parts_the_images_are_split(tmp_path):
    files = {f"{c}/{k}.png": coded(random_pixels(k)) for c in "ab" for k in range(10)}
    data = load_image_folder(write(tmp_path / "set", files), test_fraction=0.3, name="mine")
    assert data.name == "mine" and len(data.x_train) == 14 and len(data.x_test) == 6
    assert np.bincount(data.y_test).tolist() == [3, 3]


def test_gray_color_and_alpha(tmp_path):
    gray = random_pixels(0, (3, 2))
    folder = write(tmp_path / "gray", {f"a/{k}.png": coded(gray) for k in range(4)})
    assert load_image_folder(folder, test_fraction=0.5).x_train.shape == (2, 3, 2, 1)
    x = load_image_folder(folder, color="RGB", test_fraction=0.5).x_train
    np.testing.assert_array_equal(x[0], np.repeat(gray[..., None], 3, axis=-1))
    write(folder, {"a/9.png": coded(random_pixels(0, (3, 2, 4)))})
    with pytest.raises(
        DataError, match=r"a/9\.png is 3 x 2 RGB, a/0\.png is 3 x 2 gray: pass size.*--image-size"
    ):
        load_image_folder(folder)
    assert load_image_folder(folder, color="L").x_train.shape[-1] == 1
    with pytest.raises(ValueError, match="color must be"):
        load_image_folder(folder, color="BGR")
    with pytest.raises(ValueError, match=r"size must be \(height, width\) or None, got 8"):
        load_image_folder(folder, size=8)


def test_sizes_must_agree_or_are_resized(tmp_path):
    files = {"a/1.png": coded(random_pixels(1)), "a/2.png": coded(random_pixels(2, (6, 4, 3)))}
    folder = write(tmp_path / "set", files)
    with pytest.raises(DataError, match=r"a/2\.png is 6 x 4 RGB, a/1\.png is 5 x 4 RGB"):
        load_image_folder(folder)
    x = load_image_folder(folder, size=(8, 3), test_fraction=0.5).x_train
    assert x.shape == (1, 8, 3, 3)


def test_photographs_are_turned_upright(tmp_path):
    pixels = np.zeros((4, 2, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", exif=exif)
    image = images_module.decode_image(buffer.getvalue(), None, None)
    np.testing.assert_array_equal(image, np.rot90(pixels, 3))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b""}, "no images"),
        ({"1.png": b""}, r"expected CLASS/FILE, found 1\.png"),
        (
            {"train/a/1.png": b"", "test/1.png": b""},
            r"expected train/CLASS/FILE and test/CLASS/FILE",
        ),
        ({"a/1.png": b"", "a/b/2.png": b""}, r"expected CLASS/FILE, found a/b/2\.png"),
        ({"test/a/1.png": coded(random_pixels(0))}, "none in 'train'"),
        (
            {"train/a/1.png": coded(random_pixels(0)), "test/b/1.png": coded(random_pixels(1))},
            "class 'b' is in 'test' only",
        ),
        ({"a/1.png": b"no image"}, r"a/1\.png is not a readable image: in no format"),
    ],
)
def test_wrong_layouts_are_refused(tmp_path, files, message):
    for source in (write(tmp_path / "folder", files), write_zip(tmp_path / "set.zip", files)):
        with pytest.raises(DataError, match=message):
            load_image_folder(source)


def test_missing_path(tmp_path):
    with pytest.raises(MissingDataError, match="no image folder or zip file at"):
        load_image_folder(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["../a/1.png", "/a/1.png", "train/../../a/1.png", "a\\..\\1.png"])
def test_paths_that_lead_out_of_the_archive_are_refused(tmp_path, name):
    path = tmp_path / "slip.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("x")
        member.filename = name
        archive.writestr(member, coded(random_pixels(0)))
    with pytest.raises(DataError, match=r"unsafe path in the archive|expected CLASS/FILE"):
        load_image_folder(path)
    assert not (tmp_path.parent / "a").exists()


def test_absurd_sizes_are_refused(tmp_path, monkeypatch):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    folder = write(tmp_path / "bomb", {"a/1.png": png})
    with (
        pytest.raises(DataError, match=r"1\.png is not a readable image: 12000 x 12000 pixels"),
        pytest.warns(Image.DecompressionBombWarning),
    ):
        load_image_folder(folder)
    monkeypatch.setattr(images_module, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match=r"1\.png has \d+ bytes, more than 10"):
        load_image_folder(folder)


def test_sixteen_bit_pixels_are_not_clipped_silently(tmp_path):
    folder = write(tmp_path / "deep", {"a/1.png": coded(np.full((2, 2), 1000, np.uint16))})
    with pytest.raises(DataError, match="more than 8 bits"):
        load_image_folder(folder, color="L")


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp"])
def test_damaged_image_files_never_crash(tmp_path, broken_copies, kind):
    path = tmp_path / f"one.{kind}"
    path.write_bytes(coded(random_pixels(0, (8, 8, 3)), kind))
    refused = 0
    for _, copy in broken_copies(path, cuts=60, flips=60):
        folder = write(tmp_path / "set", {f"a/{k}.{kind}": copy.read_bytes() for k in (1, 2)})
        try:
            load_image_folder(folder, test_fraction=0.5)
        except DataError as error:
            assert f"1.{kind}" in str(error)
            refused += 1
    assert refused > 40


def test_damaged_zip_files_never_crash(tmp_path, broken_copies):
    files = {f"{c}/{k}.bmp": coded(random_pixels(k), "bmp") for c in "ab" for k in range(2)}
    path = write_zip(tmp_path / "good.zip", files)
    whole = load_image_folder(path, test_fraction=0.5)
    refused = 0
    for what, copy in broken_copies(path, cuts=80, flips=150):
        try:
            data = load_image_folder(copy, test_fraction=0.5)
        except DataError as error:
            assert "broken.zip" in str(error), what
            refused += 1
        else:  # the damage was in a name or a date: what the checksums cover is as it was
            assert what.startswith("byte")
            assert data.x_train.shape[1:] == whole.x_train.shape[1:], what
    assert refused > 150
