"""The passes of DAS over all layers at once, in plain NumPy.

    m <- β1 m + (1 - β1) s g        v <- β2 v + (1 - β2) (s g)²        s = g_scale of the layer
    m̂ = m / (1 - β1^t)              u = m̂ / (√(v / (1 - β2^t)) + ε)

Arrays are flat. ``pieces`` (pieces, 3) says in whole numbers where layers lie: its rows are (layer, start, stop), in
ascending order; a layer has one or more of them. What belongs to no piece is left alone. What the passes are for is
told in `tinydl.optimizers.das`.
"""

import numpy as np

SMALLEST_UNIT = 1e-30  # of a gradient: its reciprocal is still a float32


def das_norms(grad, pieces, layers):
    """Σ grad² of each layer, (layers,) in float64."""
    squares = np.zeros(layers)
    for layer, start, stop in pieces:
        squares[layer] += np.sum(np.square(grad[start:stop], dtype=np.float64))
    return squares


def das_sizes(value, grad, pieces, layers):
    """Σ value² and Σ value grad of each layer, (layers, 2) in float64."""
    sums = np.zeros((layers, 2))
    for layer, start, stop in pieces:
        w, g = value[start:stop].astype(np.float64), grad[start:stop].astype(np.float64)
        sums[layer] += w @ w, w @ g
    return sums


def das_units(squares, sizes, state, kappa, beta_2, step):
    """What each layer's gradient is to be multiplied by, (layers,).

    All arrays are float64 and have a number for each layer: ``squares`` is Σ grad², ``sizes`` counts elements, the
    rows of ``state`` (3, layers) are R, e and the scale of the last direction. R and e are updated in place.
    """
    R, e, _ = state
    n = np.sqrt(squares / sizes)
    share = np.ones(len(n))
    if step > 1:
        usual = np.sqrt(R / (1 - beta_2 ** (step - 1)))
        outliers = (R > 0) & (n / kappa > usual)
        share[outliers] = kappa * usual[outliers] / n[outliers]
    R[:] = beta_2 * R + (1 - beta_2) * (share * n) ** 2
    e[:] = np.where(e > 0, e, np.where(n > 0, np.maximum(n, SMALLEST_UNIT), 0))
    return np.divide(share, e, out=np.zeros(len(n)), where=e > 0)


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


def das_slopes(sums, sizes, floors, state, relative):
    """(slope along the direction, slope along the one before), from what `das_moments` summed up.

    The last row of ``state`` gets what each layer's u is to be multiplied by: √max(RMS(value), floor) over
    max(1, RMS(u)), or 1 if not ``relative``.
    """
    _, e, scale = state
    u_squares, m_times_u, w_squares, g_times_before = sums.T
    after = np.sum(e * scale * g_times_before)
    scale[:] = 1.0
    if relative:
        size = np.maximum(np.sqrt(w_squares / sizes), floors)
        scale[:] = np.sqrt(size) / np.maximum(1, np.sqrt(u_squares / sizes))
    return np.sum(e * scale * m_times_u), after


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
