"""A data set that is ready to train on: samples and labels, split into training and test."""

from __future__ import annotations

from dataclasses import dataclass, field

from numpy.typing import NDArray


@dataclass(frozen=True)
class Dataset:
    """Training and test samples with their labels.

    Attributes:
        name: as given to ``tinydl.data.load``.
        x_train, x_test: samples along the first axis. Images: uint8, (N, H, W, C). Text: int64, (N,
            T).
        y_train, y_test: class labels int64 (N,), or targets of another shape (text: (N, T)).
        class_names: ``class_names[label]`` is what the label means; empty for a regression.
        source: where the samples were read from.
    """

    name: str
    x_train: NDArray = field(repr=False)
    y_train: NDArray = field(repr=False)
    x_test: NDArray = field(repr=False)
    y_test: NDArray = field(repr=False)
    class_names: tuple[str, ...] = ()
    source: str = ""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.x_train.shape[1:]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __str__(self) -> str:
        shape = " x ".join(str(n) for n in self.input_shape) or "scalar"
        classes = f", {self.num_classes} classes" if self.class_names else ""
        return (
            f"{self.name}: {len(self.x_train)} training and {len(self.x_test)} test samples "
            f"of {shape} ({self.x_train.dtype}){classes}"
        )
