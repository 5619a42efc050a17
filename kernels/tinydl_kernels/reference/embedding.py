"""The backward pass of a table look-up: its definition in plain NumPy."""

import numpy as np


def embedding_grad(indices, grad, out):
    """out[indices] += grad, where an index that occurs several times adds every time.

    indices: integers (...), each in [0, V); grad: indices.shape + (D,); out: (V, D), in place.
    Returns out.
    """
    rows = len(out)
    if indices.size and (indices.min() < 0 or indices.max() >= rows):
        raise IndexError(f"embedding_grad: indices must lie in [0, {rows}), the rows of out")
    np.add.at(out, indices, grad)
    return out
