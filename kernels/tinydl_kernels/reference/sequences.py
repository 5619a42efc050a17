"""All time steps of an LSTM, forward and back through time: definitions in plain NumPy.

Sources: Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000;
backpropagation through time: Werbos 1990, section III.
"""

import numpy as np

from .recurrent import lstm_cell, lstm_cell_grad


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
