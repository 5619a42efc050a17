"""One time step of LSTM and GRU cells, behind their matrix products: definitions in plain NumPy.

Sources: Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000
(LSTM); Cho et al. 2014, section 2.3 (GRU), with the reset gate applied after the product, as in
its fused implementations.
"""

import numpy as np

from .activations import sigmoid


def lstm_cell(z, c_prev):
    """c = f c_prev + i g, h = o tanh(c), with i, f, o = sigmoid(z_i, z_f, z_o), g = tanh(z_g).

    z: (N, 4H) pre-activations in the order i, f, g, o; c_prev: (N, H).
    Returns gates (N, 4H) activated in the same order, c, tanh_c = tanh(c), h: (N, H) each.
    """
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=1)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    c = f * c_prev + i * g
    tanh_c = np.tanh(c)
    return np.concatenate([i, f, g, o], axis=1), c, tanh_c, o * tanh_c


def lstm_cell_grad(grad_h, grad_c, gates, c_prev, tanh_c):
    """Gradients of one step by z and c_prev, from those by h and c (of this step).

    All (N, H), gates (N, 4H). dc = grad_c + grad_h o (1 - tanh_c^2), then
    dz_i = dc g i(1-i), dz_f = dc c_prev f(1-f), dz_g = dc i (1-g^2),
    dz_o = grad_h tanh_c o(1-o), dc_prev = dc f.
    Returns dz (N, 4H), dc_prev (N, H).
    """
    i, f, g, o = np.split(gates, 4, axis=1)
    dc = grad_c + grad_h * o * (1 - tanh_c**2)
    dz_i = dc * g * i * (1 - i)
    dz_f = dc * c_prev * f * (1 - f)
    dz_g = dc * i * (1 - g**2)
    dz_o = grad_h * tanh_c * o * (1 - o)
    return np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1), dc * f


def gru_cell(zx, zh, h_prev):
    """h = z h_prev + (1 - z) n, with z, r = sigmoid(zx + zh), n = tanh(zx_n + r zh_n).

    zx = x W + b: (N, 3H) in the order z, r, n; zh = h_prev U + b_h: (N, 3H); h_prev: (N, H).
    Returns gates (N, 3H) activated [z, r, n], h (N, H).
    """
    zx_z, zx_r, zx_n = np.split(zx, 3, axis=1)
    zh_z, zh_r, zh_n = np.split(zh, 3, axis=1)
    z, r = sigmoid(zx_z + zh_z), sigmoid(zx_r + zh_r)
    n = np.tanh(zx_n + r * zh_n)
    return np.concatenate([z, r, n], axis=1), z * h_prev + (1 - z) * n


def gru_cell_grad(grad_h, gates, zh, h_prev):
    """Gradients of one step by zx, zh and h_prev, from grad_h = dL/dh (N, H).

    gates, zh: (N, 3H) as in gru_cell. With dn = grad_h (1 - z)(1 - n^2):
    dzx = [grad_h (h_prev - n) z(1-z), dn zh_n r(1-r), dn], dzh the same but dn r in the last part,
    dh_prev = grad_h z: the direct path only, the caller adds dzh U^T.
    Returns dzx (N, 3H), dzh (N, 3H), dh_prev (N, H).
    """
    z, r, n = np.split(gates, 3, axis=1)
    zh_n = np.split(zh, 3, axis=1)[2]
    dn = grad_h * (1 - z) * (1 - n**2)
    dz_z = grad_h * (h_prev - n) * z * (1 - z)
    dz_r = dn * zh_n * r * (1 - r)
    dzx = np.concatenate([dz_z, dz_r, dn], axis=1)
    dzh = np.concatenate([dz_z, dz_r, dn * r], axis=1)
    return dzx, dzh, grad_h * z
