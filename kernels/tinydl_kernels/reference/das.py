"""The passes of DAS over the parameters of one layer, in plain NumPy.

    m <- β1 m + (1 - β1) s g        v <- β2 v + (1 - β2) (s g)²        s = g_scale
    m̂ = m / (1 - β1^t)              u = m̂ / (√(v / (1 - β2^t)) + ε)

What they are for is told in `tinydl.optimizers.das`.
"""

import numpy as np


def das_moments(value, grad, m, v, g_scale, beta_1, beta_2, epsilon, step):
    """Update m and v in place. Returns (Σ u², Σ m̂ u, Σ value²) in float64."""
    g = value.dtype.type(g_scale) * grad
    m *= beta_1
    m += (1 - beta_1) * g
    v *= beta_2
    v += (1 - beta_2) * g * g
    u = _direction(m, v, beta_1, beta_2, epsilon, step).astype(np.float64)
    m_hat = m.astype(np.float64) / (1 - beta_1**step)
    w = value.astype(np.float64)
    return float(u @ u), float(m_hat @ u), float(w @ w)


def das_apply(value, m, v, rate, beta_1, beta_2, epsilon, step, decay=0.0):
    """value = (1 - decay) value - rate u, in place."""
    value -= decay * value
    value -= rate * _direction(m, v, beta_1, beta_2, epsilon, step)


def _direction(m, v, beta_1, beta_2, epsilon, step):
    return m / (1 - beta_1**step) / (np.sqrt(v / (1 - beta_2**step)) + epsilon)
