"""Adam and its kin: momentum, divided by the root of the gradient's mean square."""

from __future__ import annotations

import numpy as np

import tinydl_kernels as kernels
from tinydl.optimizers.base import Optimizer, check_positive, check_range
from tinydl.optimizers.schedules import Schedule


class Adam(Optimizer):
    """Adaptive moment estimation. With the gradient g_t and the rate η, t = 1, 2, …, elementwise:

        m_t = β1 m_{t-1} + (1 - β1) g_t                m_0 = 0     mean
        v_t = β2 v_{t-1} + (1 - β2) g_t²               v_0 = 0     mean square
        m̂ = m_t / (1 - β1^t)                           averages that begin at 0 are too small at first:
        v̂ = v_t / (1 - β2^t)                           dividing by the weights' sum undoes that
        w ← w - η m̂ / (√v̂ + ε)

    Source: Kingma & Ba 2014, arXiv 1412.6980, algorithm 1. (Keras adds ε to √v_t instead of to √v̂, which makes
    it larger early on.)
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay, clipvalue, clipnorm, global_clipnorm)
        self.beta_1 = check_range(self, "beta_1", beta_1, 0, 1)
        self.beta_2 = check_range(self, "beta_2", beta_2, 0, 1)
        self.epsilon = check_positive(self, "epsilon", epsilon)

    @property
    def slot_names(self):
        return ("m", "v")

    def equations(self, w, g, slots, rate):
        t = self.iterations
        m = self.beta_1 * slots["m"] + (1 - self.beta_1) * g
        v = self.beta_2 * slots["v"] + (1 - self.beta_2) * g**2
        m_hat = m / (1 - self.beta_1**t)
        v_hat = v / (1 - self.beta_2**t)
        return w - rate * m_hat / (np.sqrt(v_hat) + self.epsilon), {"m": m, "v": v}

    def update(self, w, g, slots, rate, weight_decay):
        kernels.adam_step(
            w,
            g,
            slots["m"],
            slots["v"],
            rate,
            self.beta_1,
            self.beta_2,
            self.epsilon,
            self.iterations,
            weight_decay,
        )


class AdamW(Adam):
    """Adam with weight decay by default: w ← (1 - η λ) w before each step, λ = weight_decay.

    Apart from the gradient, so that the decay is not divided by √v̂: Loshchilov & Hutter 2019, arXiv 1711.05101,
    algorithm 2.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
            clipvalue,
            clipnorm,
            global_clipnorm,
        )


class NAdam(Adam):
    """Adam with Nesterov momentum. m_t, v_t and v̂ as in :class:`Adam`; with momentum that warms up,

        μ_t = β1 (1 - 0.96^(0.004 t) / 2)
        m̂ = μ_{t+1} m_t / (1 - Π_{i≤t+1} μ_i) + (1 - μ_t) g_t / (1 - Π_{i≤t} μ_i)
        w ← w - η m̂ / (√v̂ + ε)

    Source: Dozat 2016, "Incorporating Nesterov Momentum into Adam", algorithm 2, with its schedule for μ_t.
    """

    def initial_scalars(self):
        return {"mu_product": 1.0}

    def mu(self, t: int) -> float:
        return self.beta_1 * (1 - 0.96 ** (0.004 * t) / 2)

    def advance(self):
        self.scalars["mu_product"] *= self.mu(self.iterations)

    def equations(self, w, g, slots, rate):
        t = self.iterations
        mu, mu_next, product = self.mu(t), self.mu(t + 1), self.scalars["mu_product"]
        m = self.beta_1 * slots["m"] + (1 - self.beta_1) * g
        v = self.beta_2 * slots["v"] + (1 - self.beta_2) * g**2
        m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
        v_hat = v / (1 - self.beta_2**t)
        return w - rate * m_hat / (np.sqrt(v_hat) + self.epsilon), {"m": m, "v": v}

    def update(self, w, g, slots, rate, weight_decay):
        kernels.nadam_step(
            w,
            g,
            slots["m"],
            slots["v"],
            rate,
            self.beta_1,
            self.beta_2,
            self.epsilon,
            self.iterations,
            weight_decay,
            self.mu(self.iterations),
            self.mu(self.iterations + 1),
            self.scalars["mu_product"],
        )
