"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

import tinydl_kernels as kernels
from tinydl.optimizers.base import Optimizer, check_range
from tinydl.optimizers.schedules import Schedule


class SGD(Optimizer):
    """Stochastic gradient descent. With the gradient g_t, the rate η and momentum μ:

        w ← w - η g_t                            μ = 0 (Robbins & Monro 1951)

        v_t = μ v_{t-1} - η g_t                  v_0 = 0
        w ← w + v_t                              momentum (Polyak 1964, "Some methods of speeding up the
                                                 convergence of iteration methods", the heavy ball)
        w ← w + μ v_t - η g_t                    nesterov: the gradient is taken where momentum is about to
                                                 lead (Sutskever et al. 2013, "On the importance of
                                                 initialization and momentum in deep learning", section 2),
                                                 with w standing for that look-ahead point

    The rate is inside v, as in Keras: after a change of the rate, old steps keep the size they were taken with.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:
        super().__init__(learning_rate, weight_decay, clipvalue, clipnorm, global_clipnorm)
        self.momentum = check_range(self, "momentum", momentum, 0, 1)
        self.nesterov = bool(nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError(f"{self.label}: nesterov needs a momentum above 0")

    @property
    def slot_names(self):
        return ("velocity",) if self.momentum else ()

    def equations(self, w, g, slots, rate):
        if not self.momentum:
            return w - rate * g, {}
        v = self.momentum * slots["velocity"] - rate * g
        if self.nesterov:
            return w + self.momentum * v - rate * g, {"velocity": v}
        return w + v, {"velocity": v}

    def update(self, w, g, slots, rate, weight_decay):
        if not self.momentum:
            kernels.sgd_step(w, g, rate, weight_decay)
        else:
            kernels.momentum_step(
                w, g, slots["velocity"], rate, self.momentum, self.nesterov, weight_decay
            )


class Momentum(SGD):
    """SGD with momentum 0.9."""

    def __init__(
        self,
        learning_rate: float | Schedule = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate, momentum, False, weight_decay, clipvalue, clipnorm, global_clipnorm
        )


class Nesterov(SGD):
    """SGD with Nesterov momentum 0.9."""

    def __init__(
        self,
        learning_rate: float | Schedule = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:
        super().__init__(
            learning_rate, momentum, True, weight_decay, clipvalue, clipnorm, global_clipnorm
        )
