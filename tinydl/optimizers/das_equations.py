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

    scalings: int = 0
    S: float = 0.0
    sized: bool = False
    t: int = 0
    eta: float = 0.0
    q: float = 0.0
    c: float = 1.0
    bounded: bool = False
    R: dict[int, float] = field(default_factory=dict)
    e: dict[int, float] = field(default_factory=dict)
    m: dict[int, NDArray] = field(default_factory=dict)
    v: dict[int, NDArray] = field(default_factory=dict)
    d: dict[int, NDArray] = field(default_factory=dict)
    x: dict[int, NDArray] = field(default_factory=dict)


def rms(x: NDArray) -> float:
    return math.sqrt(np.mean(np.square(x)))


def adjusted_size(
    weights: list[NDArray], gradients: list[NDArray], f: float, state: State
) -> list[NDArray] | None:
    """Equation 0: the weights with all matrices scaled, or None where they have their size."""
    matrices = [(w, g) for w, g in zip(weights, gradients, strict=True) if w.ndim > 1]
    shares: list[float] = []
    slopes: list[float] = []
    k, asked = state.scalings, 0
    for w, g in matrices:
        slope = math.sqrt(np.sum(g * g)) * math.sqrt(np.sum(w * w))
        if slope > 0 and f > 0:
            shares.append(np.sum(g * w) / f)
            slopes.append(slope / f)
    if slopes and abs(k) < 100:
        S = min(slopes)
        if k == 0:
            state.S = S
        if min(shares) > 1 / 2:
            asked = -1 if k <= 0 else 0
        elif S < 1 / 10:
            asked = 1 if k >= 0 and state.S * math.exp(k / 4) <= S else 0
    state.scalings += asked
    state.sized = asked == 0
    if asked == 0:
        return None
    return [math.exp(asked / len(matrices)) * w if w.ndim > 1 else w for w in weights]


def das_step(
    weights: list[NDArray], gradients: list[NDArray], f: float, state: State, das: Any
) -> list[NDArray]:
    """New weights; their average is in ``state.x``. ``das`` has the hyperparameters (a ``DAS`` object)."""
    # 0 size
    if not state.sized:
        resized = adjusted_size(weights, gradients, f - das.lower_bound, state)
        if resized is not None:
            state.x = dict(enumerate(resized))
            return resized
    state.t += 1
    t, rho, rho_2 = state.t, 1 - das.beta_1**state.t, 1 - das.beta_2**state.t
    directions, q, slope_after = {}, 0.0, 0.0
    for k, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        # 1 outliers
        n = rms(g)
        R = state.R.get(k, 0.0)
        usual = math.sqrt(R / (1 - das.beta_2 ** (t - 1))) if t > 1 else 0.0
        a = min(1.0, das.kappa * usual / n) if usual > 0 and n > 0 else 1.0
        state.R[k] = das.beta_2 * R + (1 - das.beta_2) * (a * n) ** 2
        e = state.e[k] = state.e.get(k, 0.0) or n
        scaled = a * g / e if e > 0 else np.zeros_like(g)
        # 2 direction
        state.m[k] = das.beta_1 * state.m.get(k, np.zeros_like(w)) + (1 - das.beta_1) * scaled
        state.v[k] = das.beta_2 * state.v.get(k, np.zeros_like(w)) + (1 - das.beta_2) * scaled**2
        m_hat = state.m[k] / rho
        u = m_hat / (np.sqrt(state.v[k] / rho_2) + das.epsilon)
        # 3 relative
        floor = 1 / math.sqrt(math.prod(w.shape[:-1])) if w.ndim > 1 else 0.1
        d = directions[k] = math.sqrt(max(rms(w), floor)) * u / max(1.0, rms(u))
        # 4 slope
        q += e * float(np.sum(m_hat * d))
        slope_after += e * float(np.sum(scaled * state.d.get(k, np.zeros_like(w))))
    # 5 polyak
    P = max(f - das.lower_bound, 0.0) / q if q > 0 else 0.0
    # 6 agreement
    if state.q > 0:
        A = min(1.0, max(-1.0, slope_after / state.q))
        change = das.gamma * (A + das.tau / das.epoch)
        if change < 0 or state.bounded:
            state.c = min(1.0, max(1e-3, state.c * math.exp(change)))
    # 7 rate
    eta, L = (
        min(max(das.learning_rate, das.s_min * P), das.s_max * P),
        sum(w.ndim > 1 for w in weights),
    )
    state.bounded = L > 0 and state.c * das.H / L**1.5 < eta
    if state.bounded:
        eta = state.c * das.H / L**1.5
    state.eta, state.q, state.d = eta, q, directions
    # 8 update
    decay = eta * das.weight_decay
    new = [(1 - decay) * w - eta * directions[k] for k, w in enumerate(weights)]
    # 9 average
    for k, w in enumerate(new):
        x = state.x.get(k, np.zeros_like(w))
        state.x[k] = x + (das.r + 1) / (t + das.r) * (w - x)
    return new
