"""Losses fused with the function that makes their probabilities: definitions in plain NumPy."""

import numpy as np

from .activations import log_softmax, sigmoid


def softmax_cross_entropy(logits, labels, sample_weight=None, *, label_smoothing=0.0, total=None):
    """Cross-entropy of softmax(logits) against labels, and its gradient by the logits.

    Args:
        logits: (N, K) scores before softmax.
        labels: (N,) integers in [0, K), or (N, K) a distribution per row.
        sample_weight: (N,) or None.
        label_smoothing: in [0, 1); the target becomes (1 - s) t + s / K (Szegedy et al. 2016,
            "Rethinking the Inception Architecture", section 7).
        total: float64 array of shape (), or None; it becomes the sum of the losses.

    Returns:
        losses: (N,), w_i * -sum_k t_ik log p_ik, with p = softmax(logits).
        grad: (N, K), w_i * (p_ik sum_j t_ij - t_ik); the sum is 1 for a distribution. Not divided
            by N.

    Where a target is 0 its term is 0, even if log p is -inf.
    """
    samples, classes = logits.shape
    if labels.ndim == 1:
        if labels.size and (labels.min() < 0 or labels.max() >= classes):
            raise ValueError(f"labels must lie in [0, {classes}), the columns of logits")
        target = np.zeros_like(logits)
        target[np.arange(samples), labels] = 1
    else:
        target = labels
    target = (1 - label_smoothing) * target + label_smoothing / classes
    weight = np.ones(samples) if sample_weight is None else sample_weight

    log_p = log_softmax(logits)
    with np.errstate(invalid="ignore", under="ignore"):
        no_term = (target == 0) & ~np.isnan(log_p)  # 0 * -inf counts as 0, NaN goes through
        losses = -np.sum(np.where(no_term, 0, target * log_p), axis=1)
        grad = np.exp(log_p) * np.sum(target, axis=1, keepdims=True) - target
        losses = (weight * losses).astype(logits.dtype)
        if total is not None:
            total[...] = losses.sum(dtype=np.float64)
        return losses, (weight[:, None] * grad).astype(logits.dtype)


def binary_cross_entropy(logits, targets, sample_weight=None):
    """Cross-entropy of sigmoid(logits) against targets in [0, 1], and its gradient.

    Args:
        logits, targets: the same shape (N, ...).
        sample_weight: None, (N,) for one weight per row, or the shape of logits.

    Returns:
        losses, grad: both of the shape of logits, w * -(t log p + (1 - t) log(1 - p)) and
            w * (p - t), with p = sigmoid(z). With q the target's share on the side that z speaks
            against (q = t for z < 0, else 1 - t) the loss is q |z| + log(1 + e^-|z|): no overflow,
            no cancellation.
    """
    weight = np.ones(()) if sample_weight is None else np.asarray(sample_weight)
    if weight.ndim == 1 and logits.ndim > 1:
        weight = weight.reshape((-1,) + (1,) * (logits.ndim - 1))
    magnitude = np.abs(logits)
    against = np.where(logits < 0, targets, 1 - targets)
    with np.errstate(invalid="ignore", under="ignore"):
        losses = np.where(against == 0, 0, against * magnitude) + np.log1p(np.exp(-magnitude))
        grad = sigmoid(logits) - targets
        return (weight * losses).astype(logits.dtype), (weight * grad).astype(logits.dtype)
