"""The gated recurrent unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.layers.recurrent import Recurrent
from tinydl.parameters import Parameter


class GRU(Recurrent):
    """A state that is a moving mean of candidates n_t, with a rate z_t of its own for each unit and step.

    Shapes: x (N, T, D), W (D, 3H), U (H, 3H), b and b' (3H,), h_t (N, H); y = h as in ``Recurrent``, where the
    arguments stand. The columns are three blocks, in the order update, reset, candidate (Keras'; PyTorch puts reset
    first). With σ(a) = 1 / (1 + e⁻ᵃ):

        a_t = x_t W + b                                (N, 3H), cut into a_z, a_r, a_n
        s_t = h_(t-1) U + b'                           (N, 3H), cut into s_z, s_r, s_n
        z = σ(a_z + s_z)    r = σ(a_r + s_r)    n = tanh(a_n + r ⊙ s_n)
        h_t = z ⊙ h_(t-1) + (1 - z) ⊙ n

    The reset gate r acts after the product with U (Keras' ``reset_after=True``), so that all of h_(t-1) U is one
    product; this is why the two biases do not simply add up. Backward in time, with dh_t for dL/dh_t:

        dh_t  += dL/dy_t
        da_n   = dh_t ⊙ (1 - z) ⊙ (1 - n²)             ds_n = da_n ⊙ r
        da_z   = ds_z = dh_t ⊙ (h_(t-1) - n) ⊙ z (1 - z)
        da_r   = ds_r = da_n ⊙ s_n ⊙ r (1 - r)
        dh_(t-1) = dh_t ⊙ z + ds_t Uᵀ

    W, b and x take their gradients from da, U and b' from ds, after the loop, in one product each: see
    tinydl/layers/recurrent.py.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder", arXiv 1406.1078, section 2.3.
    """

    blocks = 3

    def build(self, input_shape: Any, rng: np.random.Generator) -> None:
        super().build(input_shape, rng)
        self.recurrent_bias: Parameter | None = None
        if self.use_bias:
            self.recurrent_bias = self.add_parameter(
                "recurrent_bias", (3 * self.units,), self.bias_initializer, rng, decay=False
            )

    # The loop over time is in the kernels: tinydl_kernels/reference/sequences.py has it in plain NumPy.

    def run(self, z: NDArray, states: list[NDArray]) -> list[NDArray]:
        u = self.recurrent_weight.value
        bias = None if self.recurrent_bias is None else self.recurrent_bias.value
        self.gates, self.s, self.h = kernels.gru_sequence(z, u, bias, *states, skip=self.skip)
        return [self.h[-1].copy()]

    def run_back(
        self, dy: NDArray | None, dstates: list[NDArray]
    ) -> tuple[NDArray, NDArray, list[NDArray]]:
        u = self.recurrent_weight.value
        da, ds, *dstates = kernels.gru_sequence_grad(
            *dstates, u, self.gates, self.s, self.h, grad_y=dy, skip=self.skip
        )
        if self.recurrent_bias is not None:
            self.recurrent_bias.grad += ds.sum(axis=(0, 1))
        return da, ds, dstates
