"""RMSProp: each element's rate divided by the size that its gradient has had lately."""

from __future__ import annotations

import numpy as np

import tinydl_kernels as kernels
from tinydl.optimizers.base import Optimizer, check_positive, check_range
from tinydl.optimizers.schedules import Schedule


class RMSProp(Optimizer):
    """With the gradient g_t, the rate η, decay ρ, momentum μ, all elementwise:

        s_t = ρ s_{t-1} + (1 - ρ) g_t²                 s_0 = 0     "square"
        a_t = ρ a_{t-1} + (1 - ρ) g_t                  a_0 = 0     "average", only if centered
        d_t = g_t / (√s_t + ε)                         centered: g_t / (√(s_t - a_t²) + ε)
        v_t = μ v_{t-1} - η d_t                        v_0 = 0     "velocity", only if μ > 0
        w ← w + v_t

    Sources: Tieleman & Hinton 2012, Coursera "Neural networks for machine learning", lecture 6e; centered and
    with momentum: Graves 2013, arXiv 1308.0850, eqs. 38-41, who has ε inside the root. Here it stands outside.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float = 0.0,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay, clipvalue, clipnorm, global_clipnorm)
        self.rho = check_range(self, "rho", rho, 0, 1)
        self.momentum = check_range(self, "momentum", momentum, 0, 1)
        self.epsilon = check_positive(self, "epsilon", epsilon)
        self.centered = bool(centered)

    @property
    def slot_names(self):
        return (
            "square",
            *(["average"] if self.centered else []),
            *(["velocity"] if self.momentum else []),
        )

    def equations(self, w, g, slots, rate):
        s = self.rho * slots["square"] + (1 - self.rho) * g**2
        new = {"square": s}
        if self.centered:
            a = new["average"] = self.rho * slots["average"] + (1 - self.rho) * g
            s = np.maximum(s - a**2, 0)  # a variance; rounding may push it below 0
        d = g / (np.sqrt(s) + self.epsilon)
        if not self.momentum:
            return w - rate * d, new
        v = new["velocity"] = self.momentum * slots["velocity"] - rate * d
        return w + v, new

    def update(self, w, g, slots, rate, weight_decay):
        kernels.rmsprop_step(
            w,
            g,
            slots["square"],
            rate,
            self.rho,
            self.epsilon,
            weight_decay,
            momentum=self.momentum,
            velocity=slots.get("velocity"),
            average=slots.get("average"),
        )
