"""Derivatives from function values alone, accurate to about ten digits, and honest about kinks.

A function gives the terms of a scalar L as an array v, L = Σ v. With e_i a step in element i alone:

    D(h) = Σ (v(x + h e_i) - v(x - h e_i)) / 2h  =  dL/dx_i + O(h²)

The difference is taken before the sum, so that terms that do not depend on x_i add no rounding error.

**Accuracy.** Both D(h) and D(h/2) are evaluated. Where L is smooth, (4 D(h/2) - D(h)) / 3 cancels
the error term in h² (Richardson 1911; Press et al., Numerical Recipes, section 5.7).

**Kinks** (ReLU at 0, ties under a maximum). Near one, central differences give a mix of the slopes
on both sides. A kink inside (-h, h) shows as D(h) ≠ D(h/2), except exactly in the middle, where it
shows in the second difference

    S(h) = Σ (v(x + h e_i) - 2 v(x) + v(x - h e_i)) / h  =  h L'' + O(h³)

for a smooth L, hence S(h) - 2 S(h/2) = O(h³); at a kink S stays the jump of the slope, whatever h.
Where either test fails, h is made ten times smaller, up to three times. Where one still fails, the
derivative is called not smooth. Analytic gradients have no say in this.

**Rounding.** Each term is taken to be wrong by forty units in its last place, terms independently (the
root of the sum of squares over those that x_i changed; at least the error of one average term). The
error of a slope is that, divided by h.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SMALLER_STEPS = 3  # how many times the step may shrink by ten to get off a kink
ROUNDING = 40 * np.finfo(np.float64).eps


def numeric_gradient(
    function: Callable[[], NDArray],
    array: NDArray,
    chosen: NDArray,
    epsilon: float,
    tolerance: float,
) -> tuple[NDArray, NDArray, NDArray]:
    """For each chosen (flat) index of ``array``: dL/dx_i, its rounding error, and whether L is smooth there.

    Args:
        function: gives the terms of L for what is in ``array`` at the moment.
        array: changed one element at a time, and restored.
        epsilon: the first step h, in proportion to elements that are larger than 1.
        tolerance: relative accuracy that is wanted.
    """
    center = function()
    numeric, rounding = np.zeros(len(chosen)), np.zeros(len(chosen))
    smooth = np.zeros(len(chosen), bool)
    for step in epsilon * 0.1 ** np.arange(1 + SMALLER_STEPS):
        pending = np.flatnonzero(~smooth)
        trials = [_differences(function, array, chosen[k], step, center) for k in pending]
        if not trials:
            break
        slope_1, slope_2, bend, noise = np.transpose(trials)
        numeric[pending] = (4 * slope_2 - slope_1) / 3
        rounding[pending] = noise
        scale = np.sqrt(np.mean(numeric**2))
        # Ten times stricter than the verdict: what is left of a kink's error must not decide it.
        # S rounds four times worse than D: its four terms are divided by half the step.
        threshold = np.maximum(0.1 * tolerance * np.maximum(np.abs(slope_2), scale), 4 * noise)
        off = np.maximum(np.abs(slope_1 - slope_2), np.abs(bend))
        smooth[pending] = ~(off > threshold)  # a NaN is no kink: it goes on to be reported
    return numeric, rounding, smooth


def _differences(
    function: Callable[[], NDArray], array: NDArray, index: int, step: float, center: NDArray
) -> tuple[float, float, float, float]:
    """At one element: D(h), D(h/2), S(h) - 2 S(h/2) and the rounding error of a slope."""
    value = array.flat[index]
    h = step * max(1.0, abs(value))
    f = {}
    for k in (-1.0, -0.5, 0.5, 1.0):
        array.flat[index] = value + k * h
        f[k] = function()
    array.flat[index] = value
    slope_1 = (f[1.0] - f[-1.0]).sum() / (2 * h)
    slope_2 = (f[0.5] - f[-0.5]).sum() / h
    bend_1 = ((f[1.0] - center) + (f[-1.0] - center)).sum() / h
    bend_2 = ((f[0.5] - center) + (f[-0.5] - center)).sum() / (h / 2)
    changed = np.any([y != center for y in f.values()], axis=0)
    average = np.sqrt(np.mean(center**2))
    noise = ROUNDING * max(np.linalg.norm(center[changed]), average) / h
    return slope_1, slope_2, bend_1 - 2 * bend_2, noise
