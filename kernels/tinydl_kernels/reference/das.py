"""The passes of DAS over all layers at once, in plain NumPy.

    m <- β1 m + (1 - β1) s g        v <- β2 v + (1 - β2) (s g)²        s = g_scale of the layer
    m̂ = m / (1 - β1^t)              u = m̂ / (√(v / (1 - β2^t)) + ε)

Arrays are flat. ``pieces`` (pieces, 3) says in whole numbers where layers lie: its rows are (layer, start, stop), in
ascending order; a layer has one or more of them. What belongs to no piece is left alone. What the passes are for is
told in `tinydl.optimizers.das`.
"""

import numpy as np


def das_norms(grad, pieces, layers):
    """Σ grad² of each layer, (layers,) in float64."""
    squares = np.zeros(layers)
    for layer, start, stop in pieces:
        squares[layer] += np.sum(np.square(grad[start:stop], dtype=np.float64))
    return squares


def das_moments(value, grad, m, v, pieces, g_scale, beta_1, beta_2, epsilon, step):
    """Update m and v in place. Returns (layers, 4) in float64: Σ u², Σ m̂ u, Σ value², Σ s g u before the update."""
    sums = np.zeros((len(g_scale), 4))
    for layer, start, stop in pieces:
        part = slice(start, stop)
        g = value.dtype.type(g_scale[layer]) * grad[part]
        if step > 1:
            before = _direction(m[part], v[part], beta_1, beta_2, epsilon, step - 1)
            sums[layer, 3] += g.astype(np.float64) @ before
        m[part] = beta_1 * m[part] + (1 - beta_1) * g
        v[part] = beta_2 * v[part] + (1 - beta_2) * g * g
        u = _direction(m[part], v[part], beta_1, beta_2, epsilon, step).astype(np.float64)
        m_hat = m[part].astype(np.float64) / (1 - beta_1**step)
        w = value[part].astype(np.float64)
        sums[layer, :3] += u @ u, m_hat @ u, w @ w
    return sums


def das_apply(value, average, m, v, pieces, rates, decays, share, beta_1, beta_2, epsilon, step):
    """value = (1 - decay) value - rate u, then average += share (value - average), in place.

    ``rates`` and ``decays`` have one number for each layer.
    """
    for layer, start, stop in pieces:
        part = slice(start, stop)
        u = _direction(m[part], v[part], beta_1, beta_2, epsilon, step)
        value[part] = (1 - decays[layer]) * value[part] - rates[layer] * u
        average[part] += share * (value[part] - average[part])


def _direction(m, v, beta_1, beta_2, epsilon, step):
    return m / (1 - beta_1**step) / (np.sqrt(v / (1 - beta_2**step)) + epsilon)
