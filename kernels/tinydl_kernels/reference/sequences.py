"""All time steps of an LSTM or a GRU, forward and back through time: definitions in plain NumPy.

Sources: Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000;
GRU: Cho et al. 2014, section 2.3;
backpropagation through time: Werbos 1990, section III.
"""

import numpy as np

from .recurrent import gru_cell, gru_cell_grad, lstm_cell, lstm_cell_grad


def lstm_sequence(z, u, h0, c0, skip=None):
    """z_t + h_(t-1) U through `lstm_cell`, for t = 1 ... T; h_0 and c_0 are given.

    z: (T, N, 4H) = x W + b for all steps, in the order i, f, g, o: overwritten by the gates.
    u: (H, 4H); h0, c0: (N, H). skip: (T, N), True where a sample passes a step over: its h and c stay.
    Returns gates (T, N, 4H), which is z; c (T+1, N, H) with c0 in front, tanh_c (T, N, H) and
    h (T+1, N, H) with h0 in front. Where a step is passed over, gates and tanh_c mean nothing.
    """
    steps, samples, _ = z.shape
    h, c = (np.empty((steps + 1, samples, len(u)), z.dtype) for _ in range(2))
    tanh_c = np.empty((steps, samples, len(u)), z.dtype)
    h[0], c[0] = h0, c0
    for t in range(steps):
        z[t], c[t + 1], tanh_c[t], h[t + 1] = lstm_cell(z[t] + h[t] @ u, c[t])
        if skip is not None:
            h[t + 1][skip[t]], c[t + 1][skip[t]] = h[t][skip[t]], c[t][skip[t]]
    return z, c, tanh_c, h


def lstm_sequence_grad(grad_h, grad_c, u, gates, c, tanh_c, *, grad_y=None, skip=None):
    """Gradients of `lstm_sequence` by z, h0 and c0.

    grad_h, grad_c: (N, H), gradients of the last h and c; grad_y: (T, N, H), those of every step's h
    besides, None if there are none. u, skip: as given to `lstm_sequence`; gates, c, tanh_c: its results.
    At step t, dz_t follows by `lstm_cell_grad`, and dh_(t-1) = dz_t U^T. Where a step is passed over,
    dz_t = 0, and dh and dc stay.
    Returns dz (T, N, 4H), dh0 (N, H), dc0 (N, H).
    """
    dz = np.empty_like(gates)
    dh, dc = grad_h, grad_c
    for t in reversed(range(len(dz))):
        if grad_y is not None:
            dh = dh + grad_y[t]
        dz[t], dc_before = lstm_cell_grad(dh, dc, gates[t], c[t], tanh_c[t])
        dh_before = dz[t] @ u.T
        if skip is not None:
            dz[t][skip[t]], dh_before[skip[t]], dc_before[skip[t]] = 0, dh[skip[t]], dc[skip[t]]
        dh, dc = dh_before, dc_before
    return dz, dh, dc


def gru_sequence(zx, u, bias, h0, skip=None):
    """h_t = `gru_cell`(zx_t, h_(t-1) U + bias, h_(t-1)), for t = 1 ... T; h_0 is given.

    zx: (T, N, 3H) = x W + b for all steps, in the order z, r, n: overwritten by the gates.
    u: (H, 3H); bias: (3H,), or None for zeros; h0: (N, H); skip: as in `lstm_sequence`.
    Returns gates (T, N, 3H), which is zx; zh = h_(t-1) U + bias, (T, N, 3H); h (T+1, N, H) with h0 in
    front. Where a step is passed over, gates and zh mean nothing.
    """
    steps, samples, _ = zx.shape
    zh = np.empty_like(zx)
    h = np.empty((steps + 1, samples, len(u)), zx.dtype)
    h[0] = h0
    for t in range(steps):
        zh[t] = h[t] @ u + (0 if bias is None else bias)
        zx[t], h[t + 1] = gru_cell(zx[t], zh[t], h[t])
        if skip is not None:
            h[t + 1][skip[t]] = h[t][skip[t]]
    return zx, zh, h


def gru_sequence_grad(grad_h, u, gates, zh, h, *, grad_y=None, skip=None):
    """Gradients of `gru_sequence` by zx, zh and h0.

    grad_h: (N, H), gradient of the last h; grad_y: (T, N, H), those of every step's h besides, None if
    there are none. u, skip: as given to `gru_sequence`; gates, zh, h: its results.
    At step t, dzx_t and dzh_t follow by `gru_cell_grad`, and dh_(t-1) = dh_t z_t + dzh_t U^T. Where a
    step is passed over, dzx_t = dzh_t = 0, and dh stays.
    Returns dzx, dzh (T, N, 3H), dh0 (N, H).
    """
    dzx, dzh = np.empty_like(gates), np.empty_like(gates)
    dh = grad_h
    for t in reversed(range(len(dzx))):
        if grad_y is not None:
            dh = dh + grad_y[t]
        dzx[t], dzh[t], direct = gru_cell_grad(dh, gates[t], zh[t], h[t])
        dh_before = direct + dzh[t] @ u.T
        if skip is not None:
            dzx[t][skip[t]], dzh[t][skip[t]], dh_before[skip[t]] = 0, 0, dh[skip[t]]
        dh = dh_before
    return dzx, dzh, dh
