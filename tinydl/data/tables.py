"""Tables with named columns, from CSV and Parquet files: features (N, D) and a label for each row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import fraction
from tinydl.data.dataset import Dataset
from tinydl.data.errors import DataError, existing, named, require
from tinydl.data.labels import encode_labels
from tinydl.data.splitting import stratified_split
from tinydl.randomness import stream

MISSING = ("error", "drop", "mean")


@dataclass(frozen=True)
class Table:
    """Rows of numbers with a label each.

    Attributes:
        x: (N, D) float64, column j is ``feature_names[j]``.
        y: (N,) int64 class labels 0 … K-1, or float64 values where ``class_names`` is empty.
        class_names: what the labels stood for in the file, in sorted order.
    """

    x: NDArray[np.float64] = field(repr=False)
    y: NDArray = field(repr=False)
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]


def read_table(
    path: str | os.PathLike[str],
    label: str,
    *,
    features: Sequence[str] | None = None,
    missing: str = "error",
    classes: bool | None = None,
) -> Table:
    """Read a .csv (with a header line) or .parquet file.

    Args:
        label: name of the column to predict.
        features: names of the columns to predict it from; by default all others.
        missing: what to do with empty cells, nulls and NaN among the features: "error" names the
            first one, "drop" leaves the row out, "mean" fills in the mean of the column's other
            rows. A row without a label is an error, or left out with "drop".
        classes: whether the labels are classes; by default they are, unless they are fractional
            numbers.

    Raises:
        DataError: no such column, a cell that is no finite number (row and column are named), a row
            with too few or too many cells, a corrupt file. Rows count from 1, the first below the
            header.
    """
    if missing not in MISSING:
        raise ValueError(f"missing must be one of {', '.join(MISSING)}, got {missing!r}")
    path = existing(path)
    columns = _read_columns(path)
    names = [name for name in columns if name != label] if features is None else list(features)
    for name in (label, *names):
        if name not in columns:
            raise DataError(f"{path}: no column {name!r}: it has {', '.join(map(repr, columns))}")
    if label in names:
        raise DataError(f"{path}: the label {label!r} cannot be a feature as well")
    if not names:
        raise DataError(f"{path}: no feature columns besides the label {label!r}")
    x = np.stack([_numbers(columns[name], name, path) for name in names], axis=1)
    x, kept = _treat_missing(x, _is_null(columns[label]), names, label, missing, path)
    y, class_names = _labels(columns[label].filter(_mask(kept)), classes, label, path)
    return Table(x, y, tuple(names), class_names)


def load_table(
    path: str | os.PathLike[str],
    label: str,
    *,
    features: Sequence[str] | None = None,
    missing: str = "error",
    classes: bool | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str | None = None,
) -> Dataset:
    """A data set from a table, split at random into training and test rows (stratified over
    classes).

    With ``missing="mean"`` the means are those of the whole file, test rows among them. To keep
    test rows out of every statistic, split the file first, or drop the rows.

    Args:
        label, features, missing, classes: as of ``read_table``.

    Raises:
        DataError: rows that cannot be split so, or as of ``read_table``.
    """
    share = fraction("load_table: test_fraction", test_fraction)
    table = read_table(path, label, features=features, missing=missing, classes=classes)
    if table.class_names:
        with named(path):
            parts = stratified_split(table.x, table.y, share, seed, table.class_names)
    else:
        order = stream(seed, "shuffling").permutation(len(table.y))
        test = round(share * len(order))
        if not 0 < test < len(order):
            raise DataError(f"{path}: {len(order)} rows cannot be split by {share}")
        held_out, kept = np.sort(order[:test]), np.sort(order[test:])
        parts = table.x[kept], table.x[held_out], table.y[kept], table.y[held_out]
    x_train, x_test, y_train, y_test = parts
    source = str(path)
    return Dataset(
        name or Path(path).stem, x_train, y_train, x_test, y_test, table.class_names, source
    )


def _read_columns(path: Path) -> dict[str, Any]:
    """The columns of the file by name, as Arrow arrays in one piece."""
    arrow = require("pyarrow", "reading tables")
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            csv = require("pyarrow.csv", "reading tables")
            # An empty cell of text is missing too, not a class called "".
            options = csv.ConvertOptions(strings_can_be_null=True)
            table = csv.read_csv(path, convert_options=options)
        elif suffix in (".parquet", ".pq"):
            table = require("pyarrow.parquet", "reading tables").read_table(path)
        else:
            raise DataError(f"{path}: expected a .csv or .parquet file")
        # A damaged Parquet file may hold offsets out of range, and bytes that are no characters.
        table.validate(full=True)
        names = table.column_names
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable {suffix[1:]} file: {error}") from error
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: two columns are called {repeated[0]!r}")
    if table.num_rows == 0:
        raise DataError(f"{path}: the table has no rows")
    return {name: table.column(name).combine_chunks() for name in names}


def _numbers(column: Any, name: str, path: Path) -> NDArray[np.float64]:
    """A column as float64, missing cells as NaN; the first cell that is no number is named."""
    arrow = require("pyarrow", "reading tables")
    types = arrow.types
    if not (
        types.is_integer(column.type)
        or types.is_floating(column.type)
        or types.is_boolean(column.type)
        or types.is_decimal(column.type)
        or types.is_null(column.type)
    ):
        row, cell = next(
            (k, value)
            for k, value in enumerate(column.to_pylist(), start=1)
            if value is not None and not _is_number(value)
        )
        raise DataError(
            f"{path}: row {row}, column {name!r}: {cell!r} is not a number: leave the column out with "
            "features=, or encode it as numbers first"
        )
    if types.is_null(column.type):
        return np.full(len(column), np.nan)
    values = column.cast(arrow.float64(), safe=False).to_numpy(zero_copy_only=False)
    if (bad := np.flatnonzero(np.isinf(values))).size:
        raise DataError(
            f"{path}: row {bad[0] + 1}, column {name!r}: {values[bad[0]]} is not finite"
        )
    return values.astype(np.float64)


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _treat_missing(
    x: NDArray[np.float64],
    no_label: NDArray[np.bool_],
    names: Sequence[str],
    label: str,
    missing: str,
    path: Path,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Features without NaN, and which rows of the file they are."""
    holes = np.isnan(x)
    kept = np.ones(len(x), bool)
    if missing == "drop":
        kept = ~(holes.any(axis=1) | no_label)
        if not kept.any():
            raise DataError(
                f"{path}: every row has a missing cell: none is left after dropping them"
            )
        return x[kept], kept
    if no_label.any():
        row = int(np.flatnonzero(no_label)[0]) + 1
        raise DataError(
            f"{path}: row {row} has no label in column {label!r} (missing='drop' drops it)"
        )
    if holes.any() and missing == "error":
        row, column = (int(k) for k in np.argwhere(holes)[0])
        raise DataError(
            f"{path}: row {row + 1}, column {names[column]!r} is missing: pass missing='drop' to leave "
            "such rows out, or 'mean' to fill them"
        )
    if empty := [name for name, hole in zip(names, holes.T, strict=True) if hole.all()]:
        raise DataError(f"{path}: column {empty[0]!r} has no values to take a mean of")
    if holes.any():
        x = np.where(holes, np.nanmean(x, axis=0), x)
    return x, kept


def _labels(
    column: Any, classes: bool | None, label: str, path: Path
) -> tuple[NDArray, tuple[str, ...]]:
    """Class labels and their names, or values and no names."""
    types = require("pyarrow", "reading tables").types
    is_number = types.is_integer(column.type) or types.is_floating(column.type)
    if classes is None:
        classes = not types.is_floating(column.type)
    if not classes:
        if not is_number:
            raise DataError(
                f"{path}: the labels in column {label!r} are {column.type}, not numbers"
            )
        return _numbers(column, label, path), ()
    values = column.to_pylist()
    # Numbers sort as numbers: 2 before 10.
    names = np.array(values if is_number else [str(value) for value in values])
    return encode_labels(names)


def _is_null(column: Any) -> NDArray[np.bool_]:
    return column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)


def _mask(kept: NDArray[np.bool_]) -> Any:
    return require("pyarrow", "reading tables").array(kept)
