"""The confusion matrix, and what is read off it: precision, recall, F1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import whole_number
from tinydl.metrics.base import Metric
from tinydl.metrics.classes import class_numbers, is_binary

AVERAGES = ("binary", "macro", "micro")


class ConfusionMatrix(Metric):
    """C[a, b] = Σ w_i over the samples of true class a that were predicted as class b; (K, K) float64.

    Args:
        classes: K. By default the number of outputs, known with the first batch (2 for a single output); until
            then the state is empty, (0, 0), and cannot be added to that of a process that has seen a batch.
        from_logits: for a single output: yes is above 0 (True) or above 1/2 (False).
    """

    has_threshold = True

    def __init__(
        self, classes: int | None = None, from_logits: bool = True, name: str | None = None
    ) -> None:
        kind = type(self).__name__
        self.classes = None if classes is None else whole_number(f"{kind}: classes", classes, 2)
        self.from_logits = bool(from_logits)
        super().__init__(name)

    def sums(self, predictions, targets, weight):
        outputs = 2 if is_binary(predictions) else predictions.shape[-1]
        classes = self.classes or outputs
        if outputs > classes:
            raise ValueError(f"{self.name}: classes={classes}, but the predictions have {outputs}")
        predicted, true = class_numbers(predictions, targets, self.from_logits, self.name)
        w = weight.ravel()
        counted = w != 0  # what a mask drops may hold any label
        for what, numbers in (("label", true), ("prediction", predicted)):
            bad = np.flatnonzero(counted & ((numbers < 0) | (numbers >= classes)))
            if bad.size:
                got = "NaN" if what == "prediction" else numbers[bad[0]]
                raise ValueError(
                    f"{self.name}: {what} outside [0, {classes}): {got} for sample {bad[0]}"
                )
        cell = (true * classes + predicted)[counted]
        return np.bincount(cell, weights=w[counted], minlength=classes**2).reshape(classes, classes)

    def empty_state(self):
        return np.zeros((self.classes or 0, self.classes or 0))

    def value(self, state):
        return state.copy()

    def config(self) -> dict[str, Any]:
        return {"classes": self.classes, "from_logits": self.from_logits, **super().config()}


class _FromConfusion(ConfusionMatrix):
    """A score between 0 and 1 from the counts of each class. With C the confusion matrix, for class k:

        TP_k = C[k, k]        FP_k = Σ_a C[a, k] - TP_k        FN_k = Σ_b C[k, b] - TP_k

    ``average``: "binary" is the score of class 1; "macro" the mean over the classes that occur, as a label or
    as a prediction; "micro" the score of the summed counts. By default "binary" for two classes, else "macro".
    A score whose denominator is 0 counts as 0. Source: Sokolova & Lapalme 2009, "A systematic analysis of
    performance measures for classification tasks", tables 2 and 3.

    A subclass writes ``score``.
    """

    def __init__(
        self,
        average: str | None = None,
        classes: int | None = None,
        from_logits: bool = True,
        name: str | None = None,
    ) -> None:
        if average is not None and average not in AVERAGES:
            raise ValueError(
                f"{type(self).__name__}: average must be one of {', '.join(AVERAGES)}, got {average!r}"
            )
        super().__init__(classes, from_logits, name)
        self.average = average

    def score(self, tp: NDArray, fp: NDArray, fn: NDArray) -> NDArray:
        raise NotImplementedError(f"{type(self).__name__} must define score(tp, fp, fn)")

    def value(self, state):
        classes = len(state)
        if classes == 0:  # no batch seen
            return 0.0
        average = self.average or ("binary" if classes == 2 else "macro")
        if average == "binary" and classes != 2:
            raise ValueError(
                f"{self.name}: average='binary' needs two classes, there are {classes}"
            )
        tp = np.diag(state)
        fp = state.sum(axis=0) - tp
        fn = state.sum(axis=1) - tp
        if average == "micro":
            return float(self.score(tp.sum(), fp.sum(), fn.sum()))
        scores = self.score(tp, fp, fn)
        if average == "binary":
            return float(scores[1])
        occurs = tp + fp + fn > 0
        return float(scores[occurs].mean()) if occurs.any() else 0.0

    def config(self) -> dict[str, Any]:
        return {"average": self.average, **super().config()}


class Precision(_FromConfusion):
    """TP / (TP + FP): of what was called k, the share that is k."""

    def score(self, tp, fp, fn):
        return ratios(tp, tp + fp)


class Recall(_FromConfusion):
    """TP / (TP + FN): of what is k, the share that was called k."""

    def score(self, tp, fp, fn):
        return ratios(tp, tp + fn)


class F1(_FromConfusion):
    """2 TP / (2 TP + FP + FN): the harmonic mean of precision and recall."""

    def score(self, tp, fp, fn):
        return ratios(2 * tp, 2 * tp + fp + fn)


F1Score = F1  # Keras' name


def ratios(numerator: NDArray, denominator: NDArray) -> NDArray:
    """numerator / denominator, and 0 where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.zeros_like(numerator, np.float64), where=denominator != 0
    )
