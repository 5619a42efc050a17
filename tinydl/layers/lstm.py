"""Long short-term memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.layers.recurrent import Recurrent


class LSTM(Recurrent):
    """A cell c_t that is kept by adding to it, behind gates that say what enters, what stays and what shows.

    Shapes: x (N, T, D), W (D, 4H), U (H, 4H), b (4H,), h_t and c_t (N, H); y = h as in ``Recurrent``, where the
    arguments stand. The columns of W, U and b are four blocks, in the order input, forget, cell, output (Keras' and
    PyTorch's). With σ(z) = 1 / (1 + e⁻ᶻ):

        z_t = x_t W + h_(t-1) U + b                    (N, 4H), cut into z_i, z_f, z_g, z_o
        i = σ(z_i)    f = σ(z_f)    g = tanh(z_g)    o = σ(z_o)
        c_t = f ⊙ c_(t-1) + i ⊙ g
        h_t = o ⊙ tanh(c_t)

    Backward in time, with dc_t and dh_t for dL/dc_t and dL/dh_t (dc_T = 0 and dh_T = 0 unless the layer returns them):

        dh_t   += dL/dy_t
        dc_t   += dh_t ⊙ o ⊙ (1 - tanh²(c_t))
        dz_i    = dc_t ⊙ g ⊙ i (1 - i)                 dz_f = dc_t ⊙ c_(t-1) ⊙ f (1 - f)
        dz_g    = dc_t ⊙ i ⊙ (1 - g²)                  dz_o = dh_t ⊙ tanh(c_t) ⊙ o (1 - o)
        dc_(t-1) = dc_t ⊙ f
        dh_(t-1) = dz_t Uᵀ

    From c_t to c_(t-1) the gradient is multiplied by f alone: where the forget gate stays near 1 it neither
    vanishes nor grows. That is why the forget gate's bias starts at 1 (``unit_forget_bias``). The gradients of W, U, b
    and x come after the loop, in one product each: see tinydl/layers/recurrent.py.

    Sources: Hochreiter, Schmidhuber 1997, "Long Short-Term Memory"; the forget gate: Gers, Schmidhuber, Cummins 2000,
    "Learning to Forget: Continual Prediction with LSTM", eqs. 3-6; its bias of 1: Jozefowicz, Zaremba, Sutskever 2015,
    "An Empirical Exploration of Recurrent Network Architectures", section 2.2.
    """

    blocks = 4
    state_count = 2  # h and c

    def __init__(self, units: int, *, unit_forget_bias: bool = True, **arguments: Any) -> None:
        super().__init__(units, **arguments)
        self.unit_forget_bias = bool(unit_forget_bias)

    def build(self, input_shape: Any, rng: np.random.Generator) -> None:
        super().build(input_shape, rng)
        if self.bias is not None and self.unit_forget_bias:
            self.bias.value[self.units : 2 * self.units] = 1

    # The loop over time is in the kernels: tinydl_kernels/reference/sequences.py has it in plain NumPy.

    def run(self, z: NDArray, states: list[NDArray]) -> list[NDArray]:
        u = self.recurrent_weight.value
        self.gates, self.c, self.tanh_c, self.h = kernels.lstm_sequence(
            z, u, *states, skip=self.skip
        )
        return [self.h[-1].copy(), self.c[-1].copy()]

    def run_back(
        self, dy: NDArray | None, dstates: list[NDArray]
    ) -> tuple[NDArray, NDArray, list[NDArray]]:
        u = self.recurrent_weight.value
        dz, *dstates = kernels.lstm_sequence_grad(
            *dstates, u, self.gates, self.c, self.tanh_c, grad_y=dy, skip=self.skip
        )
        return dz, dz, dstates

    def config(self) -> dict[str, Any]:
        return {**super().config(), "unit_forget_bias": self.unit_forget_bias}
