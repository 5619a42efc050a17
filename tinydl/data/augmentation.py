"""Random changes of training images that leave their class as it is.

Each works on a whole batch (B, H, W, C) at once and draws its numbers from ``SampleRandom``: a pure
function of (seed, epoch, sample). Of uint8 images the result is uint8, so that augmenting costs a
quarter of the memory traffic that floats would.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import fraction, whole_number
from tinydl.data.sampling import SampleRandom


class RandomCrop:
    """Shift each image by up to ``padding`` pixels each way: pad on all sides, cut the old size at
    random.

    Source: Krizhevsky, Sutskever, Hinton 2012, "ImageNet classification with deep convolutional
    neural networks", section 4.1; with padding, He et al. 2016, "Deep residual learning", section
    4.2.

    Args:
        padding: pixels added on each side.
        fill: value of the added pixels, one number or one per channel.
    """

    def __init__(self, padding: int = 4, fill: float | list[float] = 0) -> None:
        self.padding = whole_number("RandomCrop: padding", padding, least=0)
        self.fill = fill

    def __call__(self, x: NDArray, random: SampleRandom) -> NDArray:
        b, h, w, c = _check_images(self, x)
        p = self.padding
        padded = np.empty((b, h + 2 * p, w + 2 * p, c), x.dtype)
        padded[...] = self.fill
        padded[:, p : p + h, p : p + w] = x
        # windows[i, r, s] is the crop of image i whose corner is at (r, s): a view, nothing is
        # copied until one crop of each image is chosen.
        windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), axis=(1, 2))
        top, left = random.integers(0, 2 * p + 1), random.integers(0, 2 * p + 1)
        crops = windows[np.arange(b), top, left]  # (B, C, H, W)
        return np.ascontiguousarray(crops.transpose(0, 2, 3, 1))

    def __repr__(self) -> str:
        return f"RandomCrop(padding={self.padding}, fill={self.fill})"


class RandomFlip:
    """Mirror each image left to right with the given probability. Not for digits or text."""

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = fraction("RandomFlip: probability", probability)

    def __call__(self, x: NDArray, random: SampleRandom) -> NDArray:
        _check_images(self, x)
        flip = random.uniform() < self.probability
        flipped = x.copy()
        flipped[flip] = x[flip][:, :, ::-1]
        return flipped

    def __repr__(self) -> str:
        return f"RandomFlip(probability={self.probability})"


class Cutout:
    """Overwrite a square at a random place of each image; near the border a part of it falls
    outside.

    Source: DeVries, Taylor 2017, "Improved regularization of convolutional neural networks with
    cutout", section 3: the square's center is uniform over the image's pixels.

    Args:
        size: side of the square.
        fill: value written, one number or one per channel. The paper fills with the mean of the
            data, which is 0 after standardization: pass the channels' means here, where images are
            not standardized yet.
        probability: share of images that are changed.
    """

    def __init__(self, size: int, fill: float | list[float] = 0, probability: float = 1.0) -> None:
        self.size = whole_number("Cutout: size", size)
        self.fill = fill
        self.probability = fraction("Cutout: probability", probability)

    def __call__(self, x: NDArray, random: SampleRandom) -> NDArray:
        _, h, w, _ = _check_images(self, x)
        rows = self._covered(h, random.integers(0, h))  # (B, H)
        columns = self._covered(w, random.integers(0, w))  # (B, W)
        chosen = (random.uniform() < self.probability)[:, None, None]
        hole = rows[:, :, None] & columns[:, None, :] & chosen  # (B, H, W)
        result = x.copy()
        result[hole] = np.asarray(self.fill).astype(x.dtype)
        return result

    def _covered(self, length: int, center: NDArray) -> NDArray[np.bool_]:
        """Which pixels along one axis the square covers, (B, length)."""
        first = center[:, None] - self.size // 2
        pixel = np.arange(length)
        return (pixel >= first) & (pixel < first + self.size)

    def __repr__(self) -> str:
        return f"Cutout(size={self.size}, fill={self.fill}, probability={self.probability})"


def _check_images(augmentation: Any, x: NDArray) -> tuple[int, int, int, int]:
    if x.ndim != 4:
        name = type(augmentation).__name__
        raise ValueError(f"{name} takes images (N, H, W, C), got an array of shape {x.shape}")
    return x.shape  # type: ignore[return-value]
