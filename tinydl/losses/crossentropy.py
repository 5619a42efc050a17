"""Cross-entropies: -log of the probability that the model gives to what was observed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.arguments import fraction
from tinydl.devices import namespace
from tinydl.losses.base import Loss
from tinydl.losses.elementwise import ElementwiseLoss

# Probabilities are kept this far from 0 and 1 before their logarithm is taken (from_logits=False only). The
# same number as Keras'; the float32 next below 1 is 1 - 6e-8, so that 1 - CLIP differs from 1 in float32 too.
CLIP = 1e-7


class _CrossEntropy(Loss):
    """What all of them are told: whether predictions are logits, and how targets are smoothed."""

    def __init__(self, from_logits: bool = True, label_smoothing: float = 0.0) -> None:
        self.from_logits = bool(from_logits)
        self.label_smoothing = fraction(
            f"{self.label}: label_smoothing", label_smoothing, below_one=True
        )
        self.takes_logits = self.from_logits

    def config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits, "label_smoothing": self.label_smoothing}


class _ClassLoss(_CrossEntropy):
    """Cross-entropy over K classes; the two public losses differ in how targets are written."""

    def weighted(self, predictions, targets, weight):
        rows = predictions.reshape(-1, predictions.shape[-1])  # (M, K)
        if self.from_logits:
            losses = namespace(rows).empty((), np.float64)
            _, grad = kernels.softmax_cross_entropy(
                rows, targets, weight, label_smoothing=self.label_smoothing, total=losses
            )
        else:
            losses, grad = self._of_probabilities(rows, targets, weight)
        return losses, grad.reshape(predictions.shape)

    def _of_probabilities(self, p, targets, weight):
        """ℓ_i = -Σ_k t_ik log clip(p_ik),  dℓ_i/dp_ik = -t_ik / p_ik where p is not clipped, else 0."""
        check_probabilities(self, p)
        classes = p.shape[1]
        if targets.ndim == 1:
            one_hot = np.zeros_like(p)
            one_hot[namespace(p).arange(len(targets)), targets] = 1
            targets = one_hot
        t = (1 - self.label_smoothing) * targets + self.label_smoothing / classes
        clipped = np.clip(p, CLIP, 1 - CLIP)
        losses = -np.sum(t * np.log(clipped), axis=1, dtype=np.float64)
        grad = np.where(clipped == p, -t / clipped, 0)
        if weight is not None:
            losses, grad = weight * losses, weight[:, None] * grad
        return losses, grad.astype(p.dtype, copy=False)


class SparseCategoricalCrossentropy(_ClassLoss):
    """Softmax cross-entropy against class numbers.

    Shapes: predictions (N, K) with labels (N,), or (N, T, K) with (N, T); labels are integers in [0, K).
    With logits z_i and label y_i:

        p_ik = exp(z_ik) / Σ_j exp(z_ij)
        t_ik = (1 - s) [k = y_i] + s / K           s = label_smoothing
        ℓ_i = -Σ_k t_ik log p_ik
        dℓ_i/dz_ik = p_ik - t_ik

    log p is computed as z_k - max z - log Σ exp(z - max z), which neither overflows nor cancels at |z| = 1e4.
    With ``from_logits=False`` the predictions are the probabilities p, and are clipped to [1e-7, 1 - 1e-7]
    first; gradients of clipped ones are 0. Prefer logits: a softmax layer of its own loses digits twice.

    Sources: Bishop 2006, Pattern Recognition and Machine Learning, eqs. 4.108-4.109; label smoothing: Szegedy
    et al. 2015, arXiv 1512.00567, section 7.
    """

    def check_targets(self, predictions, targets, keep):
        shape, classes = predictions.shape[:-1], predictions.shape[-1]
        if targets.shape == (*shape, 1):
            targets = targets[..., 0]
        if targets.shape != shape:
            hint = ""
            if targets.shape == predictions.shape:
                hint = "; one-hot targets go with 'categorical_crossentropy'"
            raise ValueError(
                f"{self.label}: predictions {predictions.shape} need labels of shape {shape}, "
                f"got {targets.shape}{hint}"
            )
        if targets.dtype.kind not in "iub":
            raise TypeError(f"{self.label}: labels must be integers, got {targets.dtype}")
        labels = targets if keep is None else np.where(keep, targets, 0)
        self.refuse((labels < 0) | (labels >= classes), labels, f"label outside [0, {classes})")
        return labels.astype(np.int64, copy=False).ravel()


class CategoricalCrossentropy(_ClassLoss):
    """Softmax cross-entropy against a distribution over classes (one-hot, or soft).

    Shapes: predictions and targets (N, K) or (N, T, K). With logits z_i and target t_i, after label smoothing
    t ← (1 - s) t + s / K:

        ℓ_i = -Σ_k t_ik log p_ik,        p_i = softmax(z_i)
        dℓ_i/dz_ik = p_ik Σ_j t_ij - t_ik          (the sum is 1 for a distribution)

    Probabilities as predictions and sources: see :class:`SparseCategoricalCrossentropy`.
    """

    def check_targets(self, predictions, targets, keep):
        if targets.shape != predictions.shape:
            hint = ""
            if targets.shape == predictions.shape[:-1]:
                hint = "; class numbers go with 'sparse_categorical_crossentropy'"
            raise ValueError(
                f"{self.label}: targets must have the predictions' shape {predictions.shape}, "
                f"got {targets.shape}{hint}"
            )
        targets = self.as_numbers(targets, predictions.dtype)
        if keep is not None:
            targets = np.where(keep[..., None], targets, 0)
        self.refuse(~np.isfinite(targets), targets, "target is not finite")
        self.refuse(targets < 0, targets, "target is not a probability")
        return targets.reshape(-1, targets.shape[-1])


class BinaryCrossentropy(_CrossEntropy, ElementwiseLoss):
    """Cross-entropy of independent yes/no outputs, for two classes or for many labels at once.

    Shapes: predictions (N, K), targets (N, K) in [0, 1]; (N, T, K) likewise; K = 1 takes targets (N,) too.
    With logits z, targets t ← (1 - s) t + s / 2 and s = label_smoothing:

        ℓ_i = (1/K) Σ_k -(t_ik log p_ik + (1 - t_ik) log(1 - p_ik)),        p = 1 / (1 + exp(-z))
            = (1/K) Σ_k max(z_ik, 0) - z_ik t_ik + log(1 + exp(-|z_ik|))
        dℓ_i/dz_ik = (p_ik - t_ik) / K

    The second form neither overflows nor cancels. With ``from_logits=False`` the predictions are p, clipped to
    [1e-7, 1 - 1e-7]; then dℓ_i/dp_ik = (p - t) / (p (1 - p)) / K, and 0 where clipped.

    Source: Bishop 2006, Pattern Recognition and Machine Learning, eqs. 4.90-4.91.
    """

    def check_targets(self, predictions, targets, keep):
        targets = super().check_targets(predictions, targets, keep)
        self.refuse((targets < 0) | (targets > 1), targets, "target outside [0, 1]")
        return targets

    def elementwise(self, predictions, targets):
        t = (1 - self.label_smoothing) * targets + self.label_smoothing / 2
        if self.from_logits:
            return kernels.binary_cross_entropy(predictions, t)
        check_probabilities(self, predictions)
        p = np.clip(predictions, CLIP, 1 - CLIP)
        losses = -(t * np.log(p) + (1 - t) * np.log1p(-p))
        return losses, np.where(p == predictions, (p - t) / (p * (1 - p)), 0)


def check_probabilities(loss: Loss, p: NDArray) -> None:
    """Logits handed to a loss that expects probabilities would train, and badly: refuse them."""
    loss.refuse(
        (p < -1e-6) | (p > 1 + 1e-6),
        p,
        "from_logits=False takes probabilities in [0, 1] (for logits leave from_logits=True), got",
    )
