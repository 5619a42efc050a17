"""The plain recurrent layer: h_t = f(x_t W + h_(t-1) U + b)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.layers.activations import ActivationFunction
from tinydl.layers.recurrent import Recurrent, hand_over


class SimpleRNN(Recurrent):
    """h_t = f(x_t W + h_(t-1) U + b), y_t = h_t.

    Shapes: x (N, T, D), W (D, H), U (H, H), b (H,), h_t (N, H); y as in ``Recurrent``, where the arguments stand.

        z_t = x_t W + h_(t-1) U + b                    h_t = f(z_t)
        dL/dz_t     = dL/dh_t ⊙ f'(z_t)
        dL/dh_(t-1) = dL/dz_t Uᵀ  (+ dL/dy_(t-1))

    and the gradients of W, U, b and x in one product each, after the loop: see tinydl/layers/recurrent.py. A gradient
    that goes back k steps is multiplied by U k times: it vanishes or grows exponentially (Bengio, Simard, Frasconi
    1994, "Learning long-term dependencies with gradient descent is difficult", section IV), which LSTM and GRU are made
    against. U starts orthogonal, which keeps lengths for a while.

    Source: Elman 1990, "Finding Structure in Time".
    """

    def __init__(self, units: int, activation: str | None = "tanh", **arguments: Any) -> None:
        super().__init__(units, **arguments)
        self.activation = ActivationFunction(activation)
        if self.activation.name == "softmax":
            raise ValueError(
                "SimpleRNN: activation must work on each element alone, softmax does not"
            )

    def run(self, z: NDArray, states: list[NDArray]) -> list[NDArray]:
        self.h = h = self.states_from(states[0])
        u = self.recurrent_weight.value
        fused = self.activation.fused
        self.z = z
        for t in range(len(z)):
            kernels.matmul(h[t], u, out=z[t], beta=1.0, activation=fused)
            if fused or self.activation.name == "linear":
                h[t + 1] = z[t]
            else:
                kernels.activation(self.activation.name, z[t], out=h[t + 1])
            hand_over(self.skip_at(t), (h[t + 1], h[t]))
        return [h[-1].copy()]

    def run_back(
        self, dy: NDArray | None, dstates: list[NDArray]
    ) -> tuple[NDArray, NDArray, list[NDArray]]:
        h, u = self.h, self.recurrent_weight.value
        dz = np.empty_like(h[1:])
        dh = dstates[0].copy()
        for t in reversed(range(len(dz))):
            if dy is not None:
                dh += dy[t]
            skip = self.skip_at(t)
            kernels.activation_grad(self.activation.name, dh, self.z[t], h[t + 1], out=dz[t])
            if skip is not None:
                np.copyto(dz[t], 0, where=skip)
            dh_before = kernels.matmul(dz[t], u.T)
            hand_over(skip, (dh_before, dh))
            dh = dh_before
        return dz, dz, [dh]

    def config(self) -> dict[str, Any]:
        return {**super().config(), "activation": self.activation.name}
