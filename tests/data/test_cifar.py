"""CIFAR's binary files, in a folder or in the tar file they come in."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tinydl.data import DataError, MissingDataError, load
from tinydl.data import cifar as cifar_module
from tinydl.data.cifar import decode_records

CLASS_NAMES = [f"class {k}" for k in range(10)]


def records(seed: int, count: int = 2) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Bytes of a batch with its images and labels, pixel by pixel as the format describes them."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, count)
    data = b"".join(
        bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        for image, label in zip(images, labels, strict=True)
    )
    return data, images, labels


def cifar10_files() -> dict[str, bytes]:
    names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
    files = {name: records(seed)[0] for seed, name in enumerate(names)}
    return files | {"batches.meta.txt": "\n".join([*CLASS_NAMES, "", ""]).encode()}


def write_tar(path: Path, files: dict[str, bytes], folder: str = "cifar-10-batches-bin") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def check_cifar10(data) -> None:
    assert data.class_names == tuple(CLASS_NAMES)
    np.testing.assert_array_equal(data.x_train, np.concatenate([records(k)[1] for k in range(5)]))
    np.testing.assert_array_equal(data.y_train, np.concatenate([records(k)[2] for k in range(5)]))
    np.testing.assert_array_equal(data.x_test, records(5)[1])
    np.testing.assert_array_equal(data.y_test, records(5)[2])


@pytest.mark.parametrize(
    "place", ["cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "cifar10", "."]
)
def test_binaries_in_a_folder(tmp_path, place):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in cifar10_files().items():
        (folder / name).write_bytes(data)
    check_cifar10(load("cifar10", tmp_path))
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(MissingDataError, match=r"does not hold data_batch_3\.bin"):
        load("cifar10", tmp_path)


def test_binaries_in_a_tar_file_whatever_its_paths(tmp_path):
    write_tar(tmp_path / "cifar-10-binary.tar.gz", cifar10_files(), folder="../../etc")
    check_cifar10(load("cifar10", tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cifar-10-binary.tar.gz"]


def test_cifar100_has_the_fine_labels(tmp_path):
    files = {}
    for seed, name in enumerate(["train.bin", "test.bin"]):
        data, _, _ = records(seed)
        rows = np.frombuffer(data, np.uint8).reshape(2, -1)
        coarse, fine = [[19], [19]], [[99], [seed]]
        both = np.concatenate([coarse, fine, rows[:, 1:]], axis=1).astype(np.uint8)
        files[name] = both.tobytes()
    files["fine_label_names.txt"] = "\n".join(f"fine {k}" for k in range(100)).encode()
    write_tar(tmp_path / "cifar-100-binary.tar.gz", files, "cifar-100-binary")
    data = load("cifar100", tmp_path)
    assert data.y_train.tolist() == [99, 0] and data.y_test.tolist() == [99, 1]
    np.testing.assert_array_equal(data.x_test, records(1)[1])
    assert data.class_names[99] == "fine 99"


def test_every_truncation_of_a_batch_is_refused():
    data, _, _ = records(0)
    for length in (0, 1, 3072, 3074, len(data) - 1):
        with pytest.raises(DataError, match="here: truncated or not a CIFAR file"):
            decode_records(data[:length], "here", 1, 10)


def test_a_label_out_of_range_is_named():
    data = bytearray(records(0)[0])
    data[3073] = 10
    with pytest.raises(DataError, match="here: label 10 of sample 1 is out of range"):
        decode_records(bytes(data), "here", 1, 10)


def test_damaged_archives_never_crash(tmp_path, broken_copies):
    path = write_tar(tmp_path / "cifar-10-binary.tar.gz", cifar10_files())
    root = tmp_path / "root"
    root.mkdir()
    refused = 0
    for what, copy in broken_copies(path, cuts=60, flips=40):
        copy.rename(root / "cifar-10-binary.tar.gz")
        try:
            check_cifar10(load("cifar10", root))  # only bytes that carry no content may change
        except DataError as error:
            assert "cifar-10-binary.tar.gz" in str(error), what
            refused += 1
    assert refused > 90


def test_absurd_members_and_wrong_names_are_refused(tmp_path, monkeypatch):
    files = cifar10_files()
    files["batches.meta.txt"] = b"one\ntwo\n"
    write_tar(tmp_path / "cifar-10-binary.tar.gz", files)
    with pytest.raises(DataError, match=r"batches\.meta\.txt: expected 10 class names, found 2"):
        load("cifar10", tmp_path)
    monkeypatch.setattr(cifar_module, "MAX_MEMBER_BYTES", 5000)
    with pytest.raises(DataError, match=r"data_batch_1\.bin has 6146 bytes, more than any CIFAR"):
        load("cifar10", tmp_path)
