"""Tables from CSV and Parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tinydl.data import DataError, MissingDataError, load_table, read_table

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

IRIS = "width,length,kind\n1.5,2,b\n3,4.25,a\n-1e3,0,b\n"


def csv(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_features_and_classes(tmp_path):
    table = read_table(csv(tmp_path, IRIS), "kind")
    np.testing.assert_array_equal(table.x, [[1.5, 2], [3, 4.25], [-1000, 0]])
    assert table.feature_names == ("width", "length") and table.class_names == ("a", "b")
    assert table.y.tolist() == [1, 0, 1] and table.x.dtype == np.float64
    only = read_table(tmp_path / "table.csv", "kind", features=["length"])
    np.testing.assert_array_equal(only.x, [[2], [4.25], [0]])


def test_parquet_gives_the_same(tmp_path):
    columns = {"width": [1.5, 3, -1e3], "length": [2.0, 4.25, 0], "kind": ["b", "a", "b"]}
    parquet.write_table(arrow.table(columns), tmp_path / "table.parquet", row_group_size=2)
    one = read_table(tmp_path / "table.parquet", "kind")
    other = read_table(csv(tmp_path, IRIS), "kind")
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.y, other.y)
    assert one.class_names == other.class_names


def test_kinds_of_columns(tmp_path):
    columns = {
        "flag": [True, False, None],
        "small": arrow.array([1, 2, 3], arrow.int8()),
        "label": arrow.array(["x", "y", "x"]).dictionary_encode(),
    }
    parquet.write_table(arrow.table(columns), tmp_path / "table.parquet")
    table = read_table(tmp_path / "table.parquet", "label", missing="mean")
    np.testing.assert_array_equal(table.x, [[1, 1], [0, 2], [0.5, 3]])
    assert table.y.tolist() == [0, 1, 0]


def test_labels_that_are_numbers(tmp_path):
    path = csv(tmp_path, "x,whole,real\n1,10,0.5\n2,2,1.5\n3,10,2.5\n")
    classes = read_table(path, "whole", features=["x"])
    assert classes.class_names == ("2", "10") and classes.y.tolist() == [1, 0, 1]
    values = read_table(path, "whole", features=["x"], classes=False)
    assert values.class_names == () and values.y.tolist() == [10, 2, 10]
    assert read_table(path, "real", features=["x"]).y.tolist() == [0.5, 1.5, 2.5]
    text = csv(tmp_path, "x,kind\n1,a\n")
    with pytest.raises(DataError, match="labels in column 'kind' are string, not numbers"):
        read_table(text, "kind", classes=False)


HOLES = "a,b,kind\n1,10,x\n,20,y\n3,nan,x\n5,30,\n"


def test_missing_cells_are_named_dropped_or_filled(tmp_path):
    path = csv(tmp_path, HOLES)
    with pytest.raises(DataError, match="row 4 has no label in column 'kind'"):
        read_table(path, "kind")
    dropped = read_table(path, "kind", missing="drop")
    assert dropped.x.tolist() == [[1, 10]] and dropped.class_names == ("x",)
    path = csv(tmp_path, HOLES.rsplit("\n", 2)[0] + "\n")
    with pytest.raises(DataError, match=r"table\.csv: row 2, column 'a' is missing"):
        read_table(path, "kind")
    filled = read_table(path, "kind", missing="mean")
    assert filled.x.tolist() == [[1, 10], [2, 20], [3, 15]]
    with pytest.raises(ValueError, match="missing must be one of"):
        read_table(path, "kind", missing="zero")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,kind\n1,x\ntwo,y\n", "row 2, column 'a': 'two' is not a number"),
        ("a,kind\n1,x\ninf,y\n", "row 2, column 'a': inf is not finite"),
        ("a,b\n1,2\n", "no column 'kind': it has 'a', 'b'"),
        ("a,kind\n1,x\n2\n", "not a readable csv file.*Expected 2 columns"),
        ("a,a,kind\n1,2,x\n", "two columns are called 'a'"),
        ("a,kind\n", "the table has no rows"),
        ("", "not a readable csv file"),
        ("kind\nx\n", "no feature columns"),
        ("a,b,kind\n1,,x\n2,,y\n", "row 1, column 'b' is missing"),
    ],
)
def test_bad_tables_are_refused_with_the_culprit(tmp_path, text, message):
    with pytest.raises(DataError, match=rf"table\.csv: {message}"):
        read_table(csv(tmp_path, text), "kind")


def test_a_label_that_is_nan_is_missing(tmp_path):
    columns = {"a": [1.0, 2.0, 3.0], "value": [0.5, float("nan"), 1.5]}
    parquet.write_table(arrow.table(columns), tmp_path / "table.parquet")
    with pytest.raises(DataError, match="row 2 has no label in column 'value'"):
        read_table(tmp_path / "table.parquet", "value")
    assert read_table(tmp_path / "table.parquet", "value", missing="drop").y.tolist() == [0.5, 1.5]


def test_text_that_is_none_is_refused(tmp_path):
    bytes_that_are_no_text = arrow.array([b"good", b"\xff\xfe"], arrow.binary())
    column = arrow.Array.from_buffers(arrow.string(), 2, bytes_that_are_no_text.buffers())
    parquet.write_table(arrow.table({"a": [1, 2], "kind": column}), tmp_path / "table.parquet")
    with pytest.raises(DataError, match=r"table\.parquet: not a readable parquet file: .*UTF8"):
        read_table(tmp_path / "table.parquet", "kind")


def test_an_empty_column_has_no_mean_and_dropping_may_leave_nothing(tmp_path):
    path = csv(tmp_path, "a,b,kind\n1,,x\n2,,y\n")
    with pytest.raises(DataError, match="column 'b' has no values to take a mean of"):
        read_table(path, "kind", missing="mean")
    with pytest.raises(DataError, match="none is left after dropping"):
        read_table(path, "kind", missing="drop")


def test_arguments_that_do_not_fit(tmp_path):
    path = csv(tmp_path, IRIS)
    with pytest.raises(DataError, match="cannot be a feature as well"):
        read_table(path, "kind", features=["kind"])
    with pytest.raises(MissingDataError, match="no file at"):
        read_table(tmp_path / "nothing.csv", "kind")
    other = tmp_path / "table.xls"
    other.write_bytes(b"")
    with pytest.raises(DataError, match=r"expected a \.csv or \.parquet file"):
        read_table(other, "kind")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_damaged_files_never_crash(tmp_path, broken_copies, suffix):
    path = tmp_path / f"table.{suffix}"
    if suffix == "csv":
        path.write_text(IRIS, encoding="utf-8")
    else:
        parquet.write_table(arrow.table({"a": [1.0, 2.0], "kind": ["x", "y"]}), path)
    refused = 0
    for _, copy in broken_copies(path, cuts=200, flips=200):
        try:
            table = read_table(copy, "kind")
            assert np.isfinite(table.x).all() and len(table.x) == len(table.y)
        except DataError as error:
            assert f"broken.{suffix}" in str(error)
            refused += 1
    assert refused > 20


def test_data_set_of_classes_and_of_values(tmp_path):
    rows = "\n".join(f"{k},{k * 0.5},{'ab'[k % 2]}" for k in range(20))
    path = csv(tmp_path, f"x,half,kind\n{rows}\n")
    data = load_table(path, "kind", test_fraction=0.3)
    assert data.class_names == ("a", "b") and np.bincount(data.y_test).tolist() == [3, 3]
    data = load_table(path, "half", features=["x"], test_fraction=0.3, seed=1)
    assert len(data.x_test) == 6 and data.class_names == ()
    np.testing.assert_array_equal(data.x_test[:, 0], 2 * data.y_test)
    rest = np.sort(np.r_[data.x_train[:, 0], data.x_test[:, 0]])
    np.testing.assert_array_equal(rest, np.arange(20))
    with pytest.raises(DataError, match="cannot be split"):
        load_table(path, "half", features=["x"], test_fraction=0.0)
