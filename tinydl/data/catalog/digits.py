"""scikit-learn's handwritten digits: real, small, and always at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinydl.data.dataset import Dataset
from tinydl.data.splitting import stratified_split

TEST_FRACTION = 0.2
SPLIT_SEED = 0  # fixed, so that accuracies of different runs are on the same test images


def load(root: Path) -> Dataset:
    """1,437 training and 360 test images (N, 8, 8, 1), uint8, 0 to 16. ``root`` is not needed."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype(np.uint8)
    labels = digits.target.astype(np.int64)
    class_names = tuple(str(name) for name in digits.target_names)
    x_train, x_test, y_train, y_test = stratified_split(
        images, labels, TEST_FRACTION, SPLIT_SEED, class_names
    )
    return Dataset("digits", x_train, y_train, x_test, y_test, class_names, "scikit-learn")
