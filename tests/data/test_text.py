"""Vocabulary, padding, windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydl.data import (
    DataError,
    MissingDataError,
    Vocabulary,
    next_step_pairs,
    pad_sequences,
    read_text,
    windows,
)


@given(text=st.text(max_size=30))
@settings(max_examples=30, deadline=None)
def test_decode_inverts_encode_and_padding_is_silent(text):
    vocabulary = Vocabulary.of(text)
    indices = vocabulary.encode(text)
    assert indices.dtype == np.int64 and (indices > 0).all()
    assert len(vocabulary) == len(set(text)) + 1 == len(vocabulary.class_names)
    assert vocabulary.decode(np.r_[0, indices, 0]) == text


def test_unknown_characters_and_indices():
    vocabulary = Vocabulary.of("abc")
    with pytest.raises(DataError, match="character 'x' at position 2 is not in the vocabulary"):
        vocabulary.encode("abx")
    for indices in ([4], [-1]):
        with pytest.raises(DataError, match="indices must be in 0 to 3"):
            vocabulary.decode(indices)
    with pytest.raises(ValueError, match="single characters, each once"):
        Vocabulary(["a", "a"])


def test_padding():
    padded = pad_sequences([[1, 2, 3], [], [4]])
    assert padded.tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]] and padded.dtype == np.int64
    assert pad_sequences([[1]], length=2).tolist() == [[1, 0]]
    with pytest.raises(DataError, match="sequence 1 has 3 steps, more than length=2"):
        pad_sequences([[1], [1, 2, 3]], length=2)
    with pytest.raises(DataError, match=r"sequence 1 must hold whole numbers, got \[1\.5\]"):
        pad_sequences([[1], [1.5]])


def test_windows_and_next_steps():
    pieces = windows(np.arange(11), 4, 3)
    assert pieces.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert windows(np.arange(5), 2).tolist() == [[0, 1], [2, 3]]
    x, y = next_step_pairs(pieces)
    assert x.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    np.testing.assert_array_equal(y, x + 1)
    with pytest.raises(
        DataError, match=r"windows of length 9 do not fit a sequence of shape \(3,\)"
    ):
        windows(np.arange(3), 9)
    with pytest.raises(ValueError, match="stride"):
        windows(np.arange(3), 1, 0)
    with pytest.raises(DataError, match=r"expected sequences \(N, T \+ 1\), got shape \(3,\)"):
        next_step_pairs(np.arange(3))


def test_text_files(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_bytes("añ\r\nb".encode())
    assert read_text(path) == "añ\nb"
    path.write_bytes("añ".encode()[:-1])
    with pytest.raises(DataError, match=r"text\.txt: not UTF-8 at byte 1"):
        read_text(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        read_text(path)
    with pytest.raises(MissingDataError, match="no file at"):
        read_text(tmp_path / "other")
