"""Data sets by name: where they are looked for, what is said when they are not there, what is in them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from test_idx import idx_bytes

from tinydl.data import DataError, MissingDataError, Vocabulary, class_histogram, load, names
from tinydl.data.folders import cache_root, data_root


def test_digits_are_always_there_and_always_split_alike():
    data, again = load("digits"), load("digits", "/nowhere")
    assert (data.x_train.shape, data.x_test.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    assert data.x_train.dtype == np.uint8 and data.x_train.max() == 16
    assert data.y_train.dtype == np.int64 and data.num_classes == 10
    np.testing.assert_array_equal(data.x_test, again.x_test)
    both = class_histogram(np.r_[data.y_train, data.y_test], data.class_names)
    for name, count in class_histogram(data.y_test, data.class_names).items():
        assert abs(count - 0.2 * both[name]) <= 1
    assert "1437 training and 360 test samples of 8 x 8 x 1 (uint8), 10 classes" in str(data)


def write_mnist(folder: Path, zipped: bool = True, count: int = 3) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for part, seed in (("train", 0), ("t10k", 1)):
        images = np.random.default_rng(seed).integers(0, 256, (count, 28, 28)).astype("u1")
        for name, array in (
            (f"{part}-images-idx3-ubyte", images),
            (f"{part}-labels-idx1-ubyte", np.arange(count).astype("u1")),
        ):
            path = folder / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
            paths[name] = path
    return paths


@pytest.mark.parametrize("place", ["mnist", "mnist-10k", "."])
@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_is_found(tmp_path, monkeypatch, place, zipped):
    write_mnist(tmp_path / place, zipped)
    monkeypatch.setenv("TINYDL_DATA", str(tmp_path))
    for data in (load("mnist"), load("mnist", tmp_path)):
        assert data.x_train.shape == (3, 28, 28, 1) and data.y_test.tolist() == [0, 1, 2]
        assert data.source == str(tmp_path / place) and data.y_train.dtype == np.int64


def test_the_whole_of_mnist_comes_before_a_part_of_it(tmp_path):
    write_mnist(tmp_path / "mnist-10k", count=2)
    write_mnist(tmp_path / "mnist", count=5)
    assert len(load("mnist", tmp_path).x_train) == 5


def test_missing_files_say_what_where_and_what_to_do(tmp_path):
    write_mnist(tmp_path / "mnist")["t10k-images-idx3-ubyte"].unlink()
    with pytest.raises(MissingDataError) as caught:
        load("mnist", tmp_path)
    message = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    for part in (
        f"{tmp_path / 'mnist-10k'}  (no such folder)",
        f"{tmp_path / 'mnist'} lacks t10k-images-idx3-ubyte.gz",
        "tinydl data fetch mnist",
        "TINYDL_DATA",
    ):
        assert part in message
    for name in set(names()) - {"digits"}:
        with pytest.raises(MissingDataError, match=f"tinydl data fetch {name}"):
            load(name, tmp_path / "empty")


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(2, "u1"), "expected 3 labels"),
        ("t10k-labels-idx1-ubyte", np.full(3, 10, "u1"), "label 10 of sample 0 is out of range"),
        ("train-images-idx3-ubyte", np.zeros((3, 28), "u1"), "expected uint8 images"),
        ("train-images-idx3-ubyte", np.zeros((3, 2, 2), "f4"), "expected uint8 images"),
    ],
)
def test_files_that_do_not_fit_together_are_named(tmp_path, file, array, message):
    path = write_mnist(tmp_path, zipped=False)[file]
    path.write_bytes(idx_bytes(array))
    with pytest.raises(DataError, match=f"{file}: {message}"):
        load("mnist", tmp_path)


def test_names_are_sequences_of_next_characters(tmp_path):
    (tmp_path / "names.txt").write_text("ann\nbo\n\neve\n" * 10, encoding="utf-8")
    data = load("names", tmp_path, test_fraction=0.2)
    vocabulary = Vocabulary(data.class_names[1:])
    assert len(data.x_train) == 24 and len(data.x_test) == 6 and data.x_train.shape[1] == 4
    for x, y in zip(
        np.r_[data.x_train, data.x_test], np.r_[data.y_train, data.y_test], strict=True
    ):
        name = vocabulary.decode(y)
        assert name in ("ann\n", "bo\n", "eve\n")
        assert vocabulary.decode(x) == "\n" + name[:-1]
        np.testing.assert_array_equal(x == 0, y == 0)


def test_shakespeare_keeps_its_end_for_the_test(tmp_path):
    text = "".join(chr(97 + k % 26) for k in range(1000))
    (tmp_path / "tinyshakespeare.txt").write_text(text, encoding="utf-8")
    data = load("shakespeare", tmp_path, length=10)
    decode = Vocabulary(data.class_names[1:]).decode
    assert data.x_train.shape == (89, 10) and data.x_test.shape == (9, 10)
    assert decode(data.x_train) == text[:890] and decode(data.y_train[0]) == text[1:11]
    assert decode(data.x_test) == text[900:990]
    with pytest.raises(DataError, match=r"tinyshakespeare\.txt: windows of length 2001 do not fit"):
        load("shakespeare", tmp_path, length=2000)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(DataError, match=r"unknown data set 'cifar' \(did you mean 'cifar10"):
        load("cifar")


def test_folders_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("TINYDL_DATA", raising=False)
    monkeypatch.setenv("TINYDL_CACHE", str(tmp_path))
    assert data_root() == tmp_path / "data" and data_root("x") == Path("x")
    monkeypatch.setenv("TINYDL_DATA", "~/sets")
    assert data_root() == Path.home() / "sets"
    monkeypatch.delenv("TINYDL_CACHE")
    assert cache_root().name == "tinydl" and cache_root().is_absolute()


def test_own_data_by_its_path(tmp_path):
    labels = np.arange(20) % 2
    np.savez(tmp_path / "own.npz", x=np.zeros((20, 3)), y=labels)
    rows = "".join(f"{k},{label}\n" for k, label in enumerate(labels))
    (tmp_path / "own.csv").write_text(f"size,label\n{rows}", encoding="utf-8")
    (tmp_path / "other.csv").write_text(f"size,kind\n{rows}", encoding="utf-8")
    assert load(str(tmp_path / "own.npz")).input_shape == (3,)
    assert load(str(tmp_path / "own.csv"), test_fraction=0.5).y_test.tolist().count(1) == 5
    assert load(str(tmp_path / "other.csv"), label="kind").name == "other"
    with pytest.raises(DataError, match=r"other\.csv: no column 'label': it has 'size', 'kind'"):
        load(str(tmp_path / "other.csv"))
    with pytest.raises(DataError, match="no images"):
        load(str(tmp_path))
    with pytest.raises(MissingDataError, match="no file or folder at"):
        load(str(tmp_path / "gone.npz"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt: expected a folder or \.zip of images"):
        load(str(tmp_path / "notes.txt"))


# ---- the real data -------------------------------------------------------------------------------


def read_or_skip(name: str, root: Path):
    try:
        return load(name, root)
    except MissingDataError as error:
        pytest.skip(f"TINYDL_DATA has no {name}: {str(error).splitlines()[0]}")


def test_real_mnist(real_data):
    data = read_or_skip("mnist", real_data)
    assert data.x_test.shape == (10_000, 28, 28, 1) and data.x_train.shape[1:] == (28, 28, 1)
    # The test set is the official one: its labels begin 7 2 1 0 4 and its classes have known sizes.
    assert data.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    sizes = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.y_test).tolist() == sizes
    # Digits are bright strokes in the middle of a dark square.
    mean = data.x_train.mean(axis=(0, 3))
    assert mean[10:18, 10:18].mean() > 60 and mean[:2].max() < 1


def test_real_cifar10_is_the_same_from_the_cache(real_data):
    data = read_or_skip("cifar10", real_data)
    assert data.x_train.shape == (50_000, 32, 32, 3) and data.x_test.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.y_train).tolist() == [5000] * 10
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    assert data.class_names[0] == "airplane" and data.class_names[9] == "truck"
    means = data.x_train.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(means, [125.3, 123.0, 113.9], atol=1)  # as published for CIFAR-10
    again = load("cifar10", real_data)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(again, part), getattr(data, part))


def test_real_texts(real_data):
    data = read_or_skip("names", real_data)
    assert len(data.x_train) + len(data.x_test) == 32_033 and data.num_classes == 28
    assert data.x_train.shape[1] == 16  # the longest name has 15 letters
    data = read_or_skip("shakespeare", real_data)
    assert data.num_classes == 66
    assert Vocabulary(data.class_names[1:]).decode(data.x_train[0]).startswith("First Citizen:")
