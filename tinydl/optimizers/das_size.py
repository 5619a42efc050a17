"""DAS, equation 0: the size of the weights, before the first step.

**Why.** A network of L layers without biases, with ReLU, multiplies its output by αᴸ when each layer's weights are
multiplied by α. Weights that are too large by a constant factor make outputs, loss and gradients explode with depth,
and weights that are too small make them vanish. No step along a gradient cures the first: where outputs are a
million times too large, changing the weights by a millionth fits any data, and nothing is learned that holds for
others ("lazy training", Chizat, Oyallon & Bach 2019, arXiv 1812.07956). And the second hides the gradient.

**What the optimizer sees of it.** Let w_l and g_l be a layer's weights and their gradient, f the loss above its lower
bound. Multiplying w_l by 1 + δ changes f by δ <g_l, w_l>, to first order.

- Too large: f is mostly size. Where outputs are large, cross-entropy grows in proportion to them, and they to every
  layer's weights: then <g_l, w_l> = f for every l, which is Euler's theorem on homogeneous functions. So
  E = min_l <g_l, w_l> / f is near 1, and 0 or less where only the right direction of the weights helps.
- Too small: by Cauchy and Schwarz, changing w_l by a share δ of its norm changes f by at most δ |g_l| |w_l|, again to
  first order. S = min_l |g_l| |w_l| / f is of the order of 1 in a network that is fit to learn; with twenty layers
  of half the size it is a millionth.

**What it does.** It takes no other step while

    E > 1/2:     w_l ← w_l exp(-1 / L)   in all L matrices, which shrinks a homogeneous network's output by e
    S < 1/10:    w_l ← w_l exp(+1 / L),  as long as k scalings made S at least exp(k / 4) times as large

and ends for good when it asks for neither, or for the other one. (Before BatchNorm the loss does not depend on the
weights' size: growing is in vain.) Layers whose weights or gradients are all 0 have no say. Both bounds are this
project's own, found by measuring (benchmarks/das_log.md); from 0.3 to 0.6 and from 0.05 to 0.3 little changes. That
the size of the first weights decides what can be learned, and can be set from what a network does with
data: Mishkin & Matas 2016 (LSUV, arXiv 1511.06422); from its gradients: Zhu et al. 2021 (GradInit, arXiv 2102.08098).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LARGEST_SHARE = 0.5  # of the loss that may be due to the size of every layer
SMALLEST_SLOPE = 0.1  # relative to the loss
LEAST_RISE = 0.25  # of log S in a scaling
MOST = 100  # scalings: exp(100) is more than float32 holds


def initial_state() -> dict[str, float]:
    """scalings: how often the matrices grew (or shrank, if negative); S: what it was at first; sized: whether done."""
    return {"scalings": 0.0, "S": 0.0, "sized": 0.0}


def asked(
    g_squares: NDArray, w_squares: NDArray, products: NDArray, f: float, state: dict[str, float]
) -> int:
    """1 where the matrices are to grow, -1 where to shrink, 0 where they have their size.

    Of each matrix: Σ g², Σ w², Σ g w. f is the loss above its lower bound.
    """
    slopes = np.sqrt(g_squares) * np.sqrt(w_squares)
    products, slopes = products[slopes > 0], slopes[slopes > 0]
    k = state["scalings"]
    if not len(slopes) or f <= 0 or abs(k) >= MOST:
        return 0
    smallest = float(slopes.min()) / f
    if k == 0:
        state["S"] = smallest
    if products.min() / f > LARGEST_SHARE:
        return -1 if k <= 0 else 0
    grows = smallest >= state["S"] * math.exp(LEAST_RISE * k)
    return int(smallest < SMALLEST_SLOPE and k >= 0 and grows)
