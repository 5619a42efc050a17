""".npy and .npz files."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl.data import DataError, MissingDataError, load_npz, read_npy, read_npz


@given(
    shape=st.lists(st.integers(0, 3), max_size=3),
    dtype=st.sampled_from(["<f4", ">f8", "i1", "<u2", "?", "<U3"]),
    fortran=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_reads_what_numpy_wrote(tmp_path_factory, shape, dtype, fortran):
    folder = tmp_path_factory.mktemp("npy")
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    array = np.asfortranarray(array) if fortran else array
    np.save(folder / "a.npy", array)
    np.savez_compressed(folder / "a.npz", one=array, two=array)
    for read in (read_npy(folder / "a.npy"), *read_npz(folder / "a.npz").values()):
        assert (
            read.dtype == array.dtype.newbyteorder("=")
            and read.dtype.isnative
            and read.flags.c_contiguous
        )
        np.testing.assert_array_equal(read, array)


class Exploit:
    """An object whose unpickling runs code."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def test_pickles_are_never_loaded(tmp_path):
    array = np.array([Exploit()], object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=array)
    with pytest.raises(DataError, match=r"a\.npy: holds Python objects, which could run code"):
        read_npy(tmp_path / "a.npy")
    with pytest.raises(DataError, match="holds Python objects"):
        read_npz(tmp_path / "a.npz")


def test_an_absurd_header_allocates_nothing(tmp_path):
    buffer = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**31, 2)}
    np.lib.format.write_array_header_1_0(buffer, header)
    data = buffer.getvalue() + bytes(80)
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data)
    tracemalloc.start()
    try:
        for read in (lambda: read_npy(tmp_path / "a.npy"), lambda: read_npz(tmp_path / "a.npz")):
            with pytest.raises(DataError, match="truncated or corrupt: shape"):
                read()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_damaged_files_never_crash(tmp_path, broken_copies):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "a.npy", array)
    for what, copy in broken_copies(tmp_path / "a.npy", cuts=500, flips=200):
        try:
            read = read_npy(copy)
            assert what.startswith("byte"), what
            assert read.nbytes <= array.nbytes
        except DataError as error:
            assert "broken.npy" in str(error)
    np.savez_compressed(tmp_path / "b.npz", x=array, y=np.arange(3))
    for what, copy in broken_copies(tmp_path / "b.npz", cuts=500, flips=200):
        try:
            read = read_npz(copy)
            assert what.startswith("byte"), what
        except DataError as error:
            assert "broken.npz" in str(error)


def test_data_sets(tmp_path):
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    np.savez(tmp_path / "parts.npz", x_train=x[:15], y_train=y[:15], x_test=x[15:], y_test=y[15:])
    data = load_npz(tmp_path / "parts.npz")
    assert data.class_names == ("0", "1") and data.name == "parts" and len(data.x_test) == 5
    np.savez(tmp_path / "whole.npz", x=x, y=y)
    data = load_npz(tmp_path / "whole.npz", test_fraction=0.5)
    assert len(data.x_train) == 10 and data.y_test.sum() == 5
    np.savez(tmp_path / "values.npz", x_train=x, y_train=x[:, 0], x_test=x, y_test=x[:, 1])
    assert load_npz(tmp_path / "values.npz").class_names == ()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "expected the arrays x_train.* found a"),
        ({"x": np.zeros(3), "y": np.zeros(2, int)}, "x has 3 samples, y has 2"),
        ({"x": np.array([1, np.nan]), "y": np.zeros(2, int)}, "x holds nan in sample 1"),
        ({"x": np.zeros(0), "y": np.zeros(0, int)}, "data set is empty"),
        ({"x": np.array(["a"]), "y": np.zeros(1, int)}, "expected integers or floats"),
        ({"x": np.zeros(4), "y": np.array([0, 1, 1, 1])}, "class 0 has only one sample"),
        ({"x": np.zeros(20), "y": np.arange(20) % 2 - 1}, "label -1 of sample 0 is out of range"),
    ],
)
def test_bad_data_sets_are_refused_with_the_file_named(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=rf"bad\.npz: .*{message}"):
        load_npz(tmp_path / "bad.npz")


def test_missing_files(tmp_path):
    for read in (read_npy, read_npz, load_npz):
        with pytest.raises(MissingDataError, match="no file at"):
            read(tmp_path / "nothing")
