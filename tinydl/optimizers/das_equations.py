"""DAS as its equations, in plain NumPy, one after another: the numbers are those of tinydl/optimizers/das.py.

Nothing is fused or in place; everything is float64. For reading, and for the test that holds the fast version to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class State:
    """Everything that DAS remembers from step to step."""

    t: int = 0
    h: float = 0.0
    eta: float = 0.0
    q: float = 0.0
    S: float = 0.0
    S_ref: float = 0.0
    path: float = 0.0
    c: float = 1.0
    R: dict[int, float] = field(default_factory=dict)
    m: dict[int, NDArray] = field(default_factory=dict)
    v: dict[int, NDArray] = field(default_factory=dict)


def rms(x: NDArray) -> float:
    return math.sqrt(np.mean(np.square(x)))


def das_step(
    weights: list[NDArray], gradients: list[NDArray], f: float, state: State, das: Any
) -> list[NDArray]:
    """New weights. ``das`` has the hyperparameters (a ``DAS`` object, without its guard)."""
    state.t += 1
    t, c1, c2 = state.t, 1 - das.beta_1**state.t, 1 - das.beta_2**state.t
    directions, q = [], 0.0
    for k, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        # 1 outliers
        n = rms(g)
        R = state.R.get(k, 0.0)
        usual = math.sqrt(R / (1 - das.beta_2 ** (t - 1))) if t > 1 else 0.0
        a = min(1.0, das.kappa * usual / n) if usual > 0 and n > 0 else 1.0
        # 2 layer_scale
        state.R[k] = das.beta_2 * R + (1 - das.beta_2) * (a * n) ** 2
        r = math.sqrt(state.R[k] / c2)
        scaled = a * g / r if r > 0 else np.zeros_like(g)
        # 3 direction
        state.m[k] = das.beta_1 * state.m.get(k, np.zeros_like(w)) + (1 - das.beta_1) * scaled
        state.v[k] = das.beta_2 * state.v.get(k, np.zeros_like(w)) + (1 - das.beta_2) * scaled**2
        m_hat = state.m[k] / c1
        u = m_hat / (np.sqrt(state.v[k] / c2) + das.epsilon)
        # 4 relative
        floor = 1 / math.sqrt(math.prod(w.shape[:-1])) if w.ndim > 1 else 0.1
        d = max(rms(w), floor) * u / max(1.0, rms(u))
        directions.append(d)
        # 5 slope
        q += r * float(np.sum(m_hat * d))
    # 6 forecast
    fallen = (1 - das.beta_1 ** (t - 1)) * state.eta * state.q
    state.h = das.beta_1 * (state.h - fallen) + (1 - das.beta_1) * f
    # 7 polyak
    P = max(state.h / c1 - das.lower_bound, 0.0) / q if q > 0 else 0.0
    # 8 plateau
    state.S = das.beta_s * state.S + (1 - das.beta_s) * f
    mean = state.S / (1 - das.beta_s**t) - das.lower_bound
    if t <= 20:
        state.S_ref, state.path = mean, 0.0
    elif state.path >= das.B:
        fell = mean < (1 - das.delta) * state.S_ref
        state.c = min(1.0, math.sqrt(2) * state.c) if fell else state.c / 2
        state.S_ref, state.path = mean, 0.0
    # 9 rate
    c, L = state.c, sum(w.ndim > 1 for w in weights)
    eta = min(max(das.learning_rate, das.s_min * c * P), das.s_max * c * P)
    if L:
        eta = min(eta, c * das.H / L)
    state.path += max(eta / P if P > 0 else 0.0, das.s_min * eta * L / das.H)
    state.eta, state.q = eta, q
    # 10 update
    decay = eta * das.weight_decay
    return [(1 - decay) * w - eta * d for w, d in zip(weights, directions, strict=True)]
