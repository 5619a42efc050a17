"""DAS: dynamic adjustment of the learning rate from the loss (动态调整学习率).

**Why a loss and an inner product give a rate.** Let f be the loss at w, and d a direction of descent. Along w - η d
the loss falls at first with slope <g, d>, so its tangent reaches a level f_lb after the rate

    η = (f - f_lb) / <g, d>                                                                     (Polyak 1987)

A loss that is convex along d lies above its tangent: no smaller rate can reach f_lb. For d = g this is Polyak's
step size; Loizou et al. 2021 (SPS, arXiv 2002.10542) take it with a minibatch's f and g. One minibatch is noisy, so
MoMo (Schaipp et al. 2024, arXiv 2305.07583) forecasts the loss from all past tangents, weighted as momentum weighs
the gradients; with d a momentum direction the averages of <g, d> and of f then belong together.

That rate asks for too much where f_lb cannot be reached and where d is long, so DAS takes a share of it, between
s_min and s_max, and bounds it where the network is deep.

**Equations.** Layers l are parameter tensors, L counts those of two or more dimensions, f_t and g_t are the mean loss
and its gradient over the whole batch (of all processes), ρ_t = 1 - β1^t. All state starts at 0, c at 1.

    1 outliers     n_l = RMS(g_l);   a_l = min(1, κ r_l / n_l) with the r_l of the step before (1 at first)
    2 layer_scale  R_l ← β2 R_l + (1 - β2) (a_l n_l)²;   r_l = √(R_l / (1 - β2^t));   g̃_l = a_l g_l / r_l
    3 direction    m ← β1 m + (1 - β1) g̃;   v ← β2 v + (1 - β2) g̃²;   u = (m / ρ_t) / (√(v / (1 - β2^t)) + ε)
    4 relative     φ_l = max(RMS(w_l), F_l), F_l = 1/√fan_in (0.1 for vectors);   d_l = φ_l u_l / max(1, RMS(u_l))
    5 slope        q = Σ_l r_l <m_l / ρ_t, d_l>
    6 forecast     h_t = β1 (h_{t-1} - ρ_{t-1} η_{t-1} q_{t-1}) + (1 - β1) f_t;   ĥ = h_t / ρ_t
    7 polyak       P = max(ĥ - f_lb, 0) / q;   where q ≤ 0 there is no descent, and η = 0
    8 plateau      c is halved when the mean loss has not fallen by the share δ on a path of length B (see ``Plateau``)
    9 rate         η = min{ clip(lr, s_min c P, s_max c P), c H / L }
   10 update       w ← (1 - η λ) w - η d
   11 guard        a loss or gradient that is not finite: three quarters of the last step are taken back, c is halved

Sources of the parts: 1 AdaGC, Wang et al. 2025, arXiv 2502.11034; 2 NovoGrad, Ginsburg et al. 2019, arXiv 1905.11286;
3 Adam, Kingma & Ba 2014, arXiv 1412.6980; 4 Adafactor, Shazeer & Stern 2018, arXiv 1804.04235, with a floor by fan-in
after Yang et al. 2023, arXiv 2310.17813; 6, 7 MoMo; 9, the share c H / L: Bernstein et al. 2020, arXiv 2002.03432;
8 after the bold driver (Vogl et al. 1988). The floor s_min, the plateau's constants and the combination are this
project's own: MoMo's convergence theorem does not carry over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinydl_kernels as kernels
from tinydl.initializers import fans
from tinydl.optimizers.base import Optimizer, StepInfo, check_positive, check_range
from tinydl.optimizers.schedules import Schedule
from tinydl.parameters import Segment

PARTS = ("outliers", "layer_scale", "relative", "forecast", "polyak", "plateau", "depth", "guard")
VECTOR_SIZE = 0.1  # F_l of biases and scales
WARM_UP = 20  # steps in which the plateau only watches
PATIENCE = 10  # unusable steps in a row after which the guard gives up


@dataclass
class Direction:
    """What one layer contributes to a step: d_l = scale · u_l, r_l, and the slope r_l <m_l / ρ, d_l>."""

    segment: Segment
    scale: float
    norm: float
    slope: float


class DAS(Optimizer):
    """See the module's text for the equations; the arguments carry their symbols' names.

    Args:
        learning_rate: lr, without a unit: it is clipped into a window around the Polyak rate, which the loss sets.
        beta_1, beta_2, epsilon: β1, β2, ε of the direction.
        lower_bound: f_lb, a value that the loss cannot fall below: 0 for cross-entropy and squared errors.
        s_min, s_max: the smallest and largest share of the Polyak rate.
        H: bound of the rate times depth.
        kappa: κ, how far a gradient may exceed its layer's usual size.
        B, delta, beta_s: path length, share of decrease and averaging of the plateau.
        weight_decay: λ, apart from the gradient.
        without: names of parts to switch off, to see what they do: any of ``PARTS``.

    Attributes:
        report: of the last step: rate, polyak_rate, c, predicted and real decrease of the loss, which bound was
            active ("lr", "s_min", "s_max", "depth", "none" or "guard"), and the gradient's norm of each layer.
    """

    guards = True

    def __init__(
        self,
        learning_rate: float | Schedule = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        lower_bound: float = 0.0,
        s_min: float = 0.05,
        s_max: float = 0.15,
        H: float = 0.3,
        kappa: float = 10.0,
        B: float = 2.0,
        delta: float = 0.01,
        beta_s: float = 0.98,
        weight_decay: float = 0.0,
        without: tuple[str, ...] = (),
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        self.beta_1 = check_range(self, "beta_1", beta_1, 0, 1)
        self.beta_2 = check_range(self, "beta_2", beta_2, 0, 1)
        self.epsilon = check_positive(self, "epsilon", epsilon)
        self.lower_bound = check_range(self, "lower_bound", lower_bound, -np.inf, np.inf)
        self.s_min = check_range(self, "s_min", s_min, 0, np.inf)
        self.s_max = check_range(self, "s_max", s_max, self.s_min, np.inf)
        self.H = check_positive(self, "H", H)
        self.kappa = check_positive(self, "kappa", kappa)
        self.B = check_positive(self, "B", B)
        self.delta = check_range(self, "delta", delta, 0, 1)
        self.beta_s = check_range(self, "beta_s", beta_s, 0, 1)
        unknown = [part for part in without if part not in PARTS]
        if unknown:
            raise ValueError(f"DAS: unknown part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
        self.without = tuple(without)
        self.report: dict[str, Any] = {}

    @property
    def slot_names(self):
        return ("m", "v")

    def initial_scalars(self):
        state = dict.fromkeys(("t", "h", "eta", "q", "S", "S_ref", "path", "bad", "f"), 0.0)
        state["c"] = 1.0
        for s in self.built_store().segments:
            state[f"R:{s.parameter.name}"] = 0.0  # mean square of the layer's gradient
            state[f"d:{s.parameter.name}"] = 0.0  # scale of its last direction, to take a step back
        return state

    # ---- a step -------------------------------------------------------------------------------------------

    def step(self, loss: float | None = None) -> StepInfo:
        if loss is None:
            raise ValueError("DAS sets its rate from the loss: call step(loss)")
        self.iterations += 1
        segments = [s for s in self.built_store().segments if s.parameter.trainable]
        norms = {s.parameter.name: self.gradient_norm(s) for s in segments}
        total = math.sqrt(sum(n * n for n in norms.values()))
        if not (math.isfinite(loss) and math.isfinite(total)):
            return self.take_back(loss, total, segments)
        if loss < self.lower_bound:
            raise ValueError(
                f"DAS: the loss is {loss}, below lower_bound={self.lower_bound}: "
                "give a lower_bound that the loss cannot fall below"
            )
        state = self.scalars
        state["t"] += 1
        state["bad"] = 0.0
        directions = [self.direction(s, norms[s.parameter.name]) for s in segments]
        q = sum(d.slope for d in directions)
        forecast = self.forecast(loss)
        polyak = max(forecast - self.lower_bound, 0.0) / q if q > 0 else 0.0
        self.watch_plateau(loss)
        depth = sum(len(s.parameter.shape) > 1 for s in segments)
        rate, bound = self.rate(polyak, depth)
        for d in directions:
            self.apply(d, rate)
        self.walk(rate, polyak, depth)
        self.report = {
            "rate": rate,
            "polyak_rate": polyak,
            "c": state["c"],
            "predicted_decrease": state["eta"] * state["q"],  # of the step before, to compare with
            "real_decrease": state["f"] - loss if state["t"] > 1 else math.nan,
            "bound": bound,
            "layer_norms": norms,
        }
        state["eta"], state["q"], state["f"] = rate, q, loss
        extras = {k: v for k, v in self.report.items() if isinstance(v, float)}
        return StepInfo(rate, total, extras)

    def gradient_norm(self, s: Segment) -> float:
        return math.sqrt(kernels.squared_norm(self.built_store().grads[s.start : s.stop]))

    def direction(self, s: Segment, norm: float) -> Direction:
        """Equations 1 to 5 for one layer: its moments are updated, its parameters are not."""
        store, state, name = self.built_store(), self.scalars, s.parameter.name
        step, size = int(state["t"]), s.stop - s.start
        n = norm / math.sqrt(size)
        a = self.outlier_share(n, state[f"R:{name}"])
        r = 1.0
        if "layer_scale" not in self.without:
            state[f"R:{name}"] = self.beta_2 * state[f"R:{name}"] + (1 - self.beta_2) * (a * n) ** 2
            r = math.sqrt(state[f"R:{name}"] / (1 - self.beta_2**step))
        g_scale = a / r if r > 0 else 0.0
        part = slice(s.start, s.stop)
        u_squares, m_times_u, w_squares = kernels.das_moments(
            store.values[part],
            store.grads[part],
            self.slots["m"][part],
            self.slots["v"][part],
            g_scale,
            self.beta_1,
            self.beta_2,
            self.epsilon,
            step,
        )
        scale = 1.0
        if "relative" not in self.without:
            size_of_w = max(math.sqrt(w_squares / size), self.smallest_size(s))
            scale = size_of_w / max(1.0, math.sqrt(u_squares / size))
        state[f"d:{name}"] = scale
        return Direction(s, scale, norm, r * scale * m_times_u)

    def outlier_share(self, n: float, R: float) -> float:
        """Equation 1: what part of the gradient counts."""
        t = self.scalars["t"]
        if t <= 1 or R == 0 or n == 0 or "outliers" in self.without:
            return 1.0
        usual = math.sqrt(R / (1 - self.beta_2 ** (t - 1)))
        return min(1.0, self.kappa * usual / n)

    @staticmethod
    def smallest_size(s: Segment) -> float:
        """F_l: the size below which a layer's weights do not count as smaller (they may start at 0)."""
        shape = s.parameter.shape
        return 1 / math.sqrt(fans(shape)[0]) if len(shape) > 1 else VECTOR_SIZE

    def forecast(self, loss: float) -> float:
        """Equation 6: the loss at w as all past tangents foresee it."""
        state, t = self.scalars, self.scalars["t"]
        if "forecast" in self.without:
            return loss
        fallen = (1 - self.beta_1 ** (t - 1)) * state["eta"] * state["q"]
        state["h"] = self.beta_1 * (state["h"] - fallen) + (1 - self.beta_1) * loss
        return state["h"] / (1 - self.beta_1**t)

    def rate(self, polyak: float, depth: int) -> tuple[float, str]:
        """Equation 9, and which bound decided."""
        lr, c = self.learning_rate, self.scalars["c"]
        rate, bound = c * lr, "lr"
        if "polyak" not in self.without:
            low, high = self.s_min * c * polyak, self.s_max * c * polyak
            rate = min(max(lr, low), high)
            bound = (
                "none" if polyak == 0 else "s_min" if lr < low else "s_max" if lr > high else "lr"
            )
        if depth and "depth" not in self.without and c * self.H / depth < rate:
            rate, bound = c * self.H / depth, "depth"
        return rate, bound

    def apply(self, d: Direction, rate: float, decays: bool = True) -> None:
        """Equation 10 for one layer."""
        s, store = d.segment, self.built_store()
        part = slice(s.start, s.stop)
        decay = rate * self.weight_decay if decays and s.parameter.decay else 0.0
        kernels.das_apply(
            store.values[part],
            self.slots["m"][part],
            self.slots["v"][part],
            rate * d.scale,
            self.beta_1,
            self.beta_2,
            self.epsilon,
            int(self.scalars["t"]),
            decay,
        )

    # ---- plateau and guard --------------------------------------------------------------------------------

    def watch_plateau(self, loss: float) -> None:
        """Equation 8. S is the bias-corrected mean of the loss; when the path since the last look is B long:

        c ← min(1, √2 c)  if S < (1 - δ) S_ref,  else  c / 2;      S_ref = S, path = 0
        """
        state, t = self.scalars, self.scalars["t"]
        state["S"] = self.beta_s * state["S"] + (1 - self.beta_s) * loss
        mean = state["S"] / (1 - self.beta_s**t) - self.lower_bound
        if t <= WARM_UP:
            state["S_ref"], state["path"] = mean, 0.0
        elif state["path"] >= self.B and "plateau" not in self.without:
            fell = mean < (1 - self.delta) * state["S_ref"]
            state["c"] = min(1.0, math.sqrt(2) * state["c"]) if fell else state["c"] / 2
            state["S_ref"], state["path"] = mean, 0.0

    def walk(self, rate: float, polyak: float, depth: int) -> None:
        """The path is counted in Polyak rates: B of them should have brought the loss to its bound."""
        share = rate / polyak if polyak > 0 else 0.0
        bounded = self.s_min * rate * depth / self.H
        self.scalars["path"] += max(share, bounded)

    def take_back(self, loss: float, norm: float, segments: list[Segment]) -> StepInfo:
        """Equation 11. The moments have not seen this gradient; the last direction follows from them."""
        state = self.scalars
        state["bad"] += 1
        if "guard" in self.without or state["t"] == 0 or state["bad"] > PATIENCE:
            raise FloatingPointError(
                f"DAS: loss {loss}, gradient norm {norm}: not finite "
                + ("in the first step" if state["t"] == 0 else f"{state['bad']:.0f} times in a row")
            )
        back = 0.75 * state["eta"]
        for s in segments:
            self.apply(Direction(s, state[f"d:{s.parameter.name}"], 0.0, 0.0), -back, decays=False)
        state["eta"] -= back
        state["c"] /= 2
        self.report = {"rate": -back, "c": state["c"], "bound": "guard"}
        return StepInfo(-back, norm, {"c": state["c"]})
