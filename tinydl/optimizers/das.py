"""DAS: dynamic adjustment of the learning rate from the loss (动态调整学习率).

**Why a loss and an inner product give a rate.** Let f be the loss at w, and d a direction of descent. Along w - η d
the loss falls at first with slope <g, d>, so its tangent reaches a level f_lb after the rate

    η = (f - f_lb) / <g, d>                                                                     (Polyak 1987)

A loss that is convex along d lies above its tangent: no smaller rate can reach f_lb. For d = g this is Polyak's
step size; Loizou et al. 2021 (SPS, arXiv 2002.10542) take it with a minibatch's f and g. Here d is a momentum
direction, and the slope along it is taken of the averaged gradient. (MoMo, Schaipp et al. 2024, arXiv 2305.07583, then
averages f likewise, each past loss continued along its tangent. Tangents promise more than the steps of DAS keep, and
that forecast falls to half of the loss or less: with it, everything learns more slowly.)

**Where the tangent ends.** A tangent foresees a small step only, and f_lb may be out of reach. How far one can trust it
shows a step later: the slope along d has changed from <g, d> to <g', d>, with g' the next gradient. Their quotient
is near 1 after a step that was far too short, 0 where the step ended at the minimum along d, and -1 where it climbed
as far up the other side. DAS lets its bound of the rate grow or shrink by this agreement (equation 6).

**How far is too far.** Batches differ, so g' disagrees with a step that the batches before it asked for. Where every
sample is new, going too far costs what the average of equation 9 evens out, and long steps are fast. Samples that are
seen again and again can be learned by heart instead, their noise with them: the same steps at which g' disagrees do
that. So what DAS tolerates falls with the number of passes over the data, as τ / p.

**Where the weights end.** A rate that stays large leaves the weights shaking about the valley's floor, and their mean
lies on it. So DAS trains one set of weights and recommends another, the average of late steps (equation 9). That takes
the place of a schedule, which would have to know when training ends.

**Where the weights begin.** Weights that are too large by a factor make the loss explode with depth, and then almost
any small change fits all data; too small ones make gradients vanish. Before its first step DAS scales all matrices
until neither is the case (equation 0, derived in `das_size.py`).

**Equations.** Layers l are parameter tensors, L counts those of two or more dimensions, f_t and g_t are the mean loss
and its gradient over the whole batch (of all processes), ρ_t = 1 - β1^t. All state starts at 0, c at 1.

    0 size         before the first step, with S and E the smallest over all matrices of |g_l| |w_l| / (f - f_lb) and of
                   <g_l, w_l> / (f - f_lb): w_l ← w_l exp(1 / L) while S < 1/10, w_l ← w_l exp(-1 / L) while E > 1/2
    1 outliers     n_l = RMS(g_l);   a_l = min(1, κ r_l / n_l), r_l² the mean of (a_l n_l)² in the steps before;
                   g̃_l = a_l g_l / e_l, e_l the first n_l that is not 0: numbers near 1, far from under- and overflow
    2 direction    m ← β1 m + (1 - β1) g̃;   v ← β2 v + (1 - β2) g̃²;   u = (m / ρ_t) / (√(v / (1 - β2^t)) + ε)
    3 relative     φ_l = max(RMS(w_l), F_l), F_l = 1/√fan_in (0.1 for vectors);   d_l = √φ_l u_l / max(1, RMS(u_l))
    4 slope        q = Σ_l e_l <m_l / ρ_t, d_l>
    5 polyak       P = max(f_t - f_lb, 0) / q;   where q ≤ 0 there is no descent, and η = 0
    6 agreement    A = Σ_l e_l <g̃_l, d_{l,t-1}> / q_{t-1} in [-1, 1];   c ← c exp(γ (A + τ / p)) in [c_min, 1], on the
                   p-th pass over the samples, and c grows only where the bound c H / √L³ decided the step before
    7 rate         η = min{ clip(lr, s_min P, s_max P), c H / √L³ }
    8 update       w ← (1 - η λ) w - η d
    9 average      x ← x + k (w - x), k = (r + 1) / (t + r): x weighs step s about as s^r, whatever t is
   10 guard        a loss or gradient that is not finite: three quarters of the last step are taken back, c is halved

Sources of the parts: 0 in `das_size.py`; 1 AdaGC, Wang et al. 2025, arXiv 2502.11034; 2 Adam, Kingma & Ba 2014, arXiv
1412.6980; 3 Adafactor, Shazeer & Stern 2018, arXiv 1804.04235, with a floor by fan-in after Yang et al. 2023, arXiv
2310.17813; 5 as above; 6 the slope a step later is the hypergradient of Baydin et al. 2018, arXiv 1703.04782; 7, a
bound that falls with depth: Bernstein et al. 2020, arXiv 2002.03432; 9 Shamir & Zhang 2013, arXiv 1212.1824
(polynomial-decay averaging). The bounds of 0, the root of φ, √L³ for L, the shares s and the constants of 6 are this
project's own, found by measuring (benchmarks/das_log.md): the convergence theorems of the sources do not carry over.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.devices import to_host
from tinydl.initializers import fans
from tinydl.optimizers import das_size
from tinydl.optimizers.base import Optimizer, StepInfo, check_positive, check_range
from tinydl.optimizers.schedules import Schedule
from tinydl.parameters import ParameterStore, Segment

PARTS = (
    "size",
    "outliers",
    "relative",
    "polyak",
    "agreement",
    "depth",
    "average",
    "guard",
)
VECTOR_SIZE = 0.1  # F_l of biases and scales
C_MIN = 1e-3  # from here c finds back to 1 within some 100 steps
PATIENCE = 10  # unusable steps in a row after which the guard gives up
PIECE = 8192  # elements that one thread passes over at a time: 32 KiB of float32
KINDS = "Red"  # R: mean of (a n)²; e: unit of the gradient; d: scale of the last direction, √φ / max(1, RMS(u))


class DAS(Optimizer):
    """See the module's text for the equations; the arguments carry their symbols' names.

    While it trains, the model has the weights w; at all other times, the average x (``to_evaluation_weights``). ``fit``
    takes BatchNorm's running statistics anew for x at the end of each epoch.

    Args:
        learning_rate: lr, without a unit: it is clipped into a window around the Polyak rate, which the loss sets.
        beta_1, beta_2, epsilon: β1, β2, ε of the direction.
        lower_bound: f_lb, a value that the loss cannot fall below, 0 for cross-entropy and squared errors; or a level
            below which it should not be driven, because the rest is noise (Ishida et al. 2020, arXiv 2002.08709).
        s_min, s_max: the smallest and largest share of the Polyak rate.
        H: bound of the rate, for a network of one layer.
        kappa: κ, how far a gradient may exceed its layer's usual size.
        gamma, tau: γ, how fast the bound moves, and τ, how far steps may go too far on the first pass over the samples.
            ``fit`` counts passes; in a loop of your own set the attribute ``epoch``.
        r: how much the average favours late steps; it spans about the last t / (r + 1) of them.
        weight_decay: λ, apart from the gradient.
        without: names of parts to switch off, to see what they do: any of ``PARTS``.

    Attributes:
        report: of the last step: rate, polyak_rate, c, agreement, predicted and real decrease of the loss, which bound
            was active ("lr", "s_min", "s_max", "depth", "none", "size" or "guard"), each layer's norm of the gradient.
    """

    guards = True

    def __init__(
        self,
        learning_rate: float | Schedule = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        epsilon: float = 1e-12,
        lower_bound: float = 0.0,
        s_min: float = 0.1,
        s_max: float = 0.3,
        H: float = 0.2,
        kappa: float = 10.0,
        gamma: float = 0.2,
        tau: float = 0.25,
        r: float = 8.0,
        weight_decay: float = 0.0,
        without: str | Sequence[str] = (),
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
        self.gamma = check_range(self, "gamma", gamma, 0, np.inf)
        self.tau = check_range(self, "tau", tau, 0, 1)
        self.r = check_range(self, "r", r, 0, np.inf)
        without = (without,) if isinstance(without, str) else tuple(without)
        unknown = [part for part in without if part not in PARTS]
        if unknown:
            raise ValueError(f"DAS: unknown part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
        self.without = without
        self.seen: dict[str, Any] = {}

    @property
    def renews_statistics(self) -> bool:  # type: ignore[override]
        return "average" not in self.without

    # ---- state --------------------------------------------------------------------------------------------

    @property
    def slot_names(self):
        return ("m", "v") if "average" in self.without else ("m", "v", "average")

    def initial_scalars(self):
        names = ("t", "eta", "q", "f", "bounded", "bad", "shown", "checksum")
        state = {**dict.fromkeys(names, 0.0), "c": 1.0, **das_size.initial_state()}
        for s in self.built_store().segments:
            state.update({f"{kind}:{s.parameter.name}": 0.0 for kind in KINDS})
        return state

    def build(self, store: ParameterStore) -> None:
        super().build(store)
        self.seen = {}
        self.layout: tuple[Segment, ...] = ()  # the trainable layers, as of the last step
        self.average()[...] = store.values

    def average(self) -> NDArray:
        """x, laid out as the parameters are; without the part "average" these themselves."""
        return self.slots.get("average", self.built_store().values)

    def lay_out(self) -> None:
        """What the passes need to know of the trainable layers: made again when one is frozen or thawed."""
        layout = tuple(s for s in self.built_store().segments if s.parameter.trainable)
        if layout == self.layout:
            return
        self.layout = layout
        self.names = [s.parameter.name for s in layout]
        self.keys = [f"{kind}:{name}" for kind in KINDS for name in self.names]
        self.sizes = np.array([s.stop - s.start for s in layout], np.float64)
        self.floors = np.array([smallest_size(s) for s in layout])
        self.decays = np.array([self.weight_decay * s.parameter.decay for s in layout])
        self.matrices = np.array([len(s.parameter.shape) > 1 for s in layout], bool)
        self.depth = int(self.matrices.sum())
        self.pieces = np.array(
            [
                (layer, start, min(start + PIECE, s.stop))
                for layer, s in enumerate(layout)
                for start in range(s.start, s.stop, PIECE)
            ],
            np.int64,
        ).reshape(-1, 3)

    def of_layers(self) -> NDArray:
        """R, e and d of the trainable layers, (3, layers)."""
        scalars = self.scalars
        return np.array([scalars[key] for key in self.keys]).reshape(3, -1)

    # ---- a step -------------------------------------------------------------------------------------------

    def step(self, loss: float | None = None) -> StepInfo:
        if loss is None:
            raise ValueError("DAS sets its rate from the loss: call step(loss)")
        store, state = self.built_store(), self.scalars
        if state["shown"]:
            self.go_on_from_here()
        self.iterations += 1
        self.lay_out()
        squares = kernels.das_norms(store.grads, self.pieces, len(self.layout))
        total = math.sqrt(squares.sum())
        if not (math.isfinite(loss) and math.isfinite(total)):
            return self.take_back(loss, total)
        if loss < min(self.lower_bound, 0.0):
            raise ValueError(
                f"DAS: the loss is {loss}, below lower_bound={self.lower_bound}: "
                "give a lower_bound that the loss cannot fall below"
            )
        state["bad"] = 0.0
        self.squares = squares
        if not state["sized"] and self.adjust_size(loss):
            self.seen = {"rate": 0.0, "bound": "size", "scalings": state["scalings"]}
            return StepInfo(0.0, total)
        state["t"] += 1
        scales, q, slope_after = self.directions(squares)
        polyak = max(loss - self.lower_bound, 0.0) / q if q > 0 else 0.0
        agreement = self.watch_agreement(slope_after)
        rate, bound = self.rate(polyak)
        self.apply(rate * scales, rate * self.decays, self.share)
        extras = {
            "rate": rate,
            "polyak_rate": polyak,
            "c": state["c"],
            "agreement": agreement,
            "predicted_decrease": state["eta"] * state["q"],  # of the step before, to compare with
            "real_decrease": state["f"] - loss if state["t"] > 1 else math.nan,
        }
        self.seen = {**extras, "bound": bound}
        state["eta"], state["q"], state["f"] = rate, q, loss
        state["bounded"] = float(bound == "depth")
        return StepInfo(rate, total, extras)

    @property
    def report(self) -> dict[str, Any]:
        if not self.seen or self.seen["bound"] == "guard":
            return dict(self.seen)
        norms = np.sqrt(self.squares).tolist()
        return {**self.seen, "layer_norms": dict(zip(self.names, norms, strict=True))}

    def adjust_size(self, loss: float) -> bool:
        """Equation 0: whether the matrices were scaled; otherwise they have their size from now on."""
        asked = 0
        if "size" not in self.without and self.depth:
            store = self.built_store()
            sums = kernels.das_sizes(store.values, store.grads, self.pieces, len(self.layout))
            g_squares, (w_squares, products) = self.squares[self.matrices], sums[self.matrices].T
            excess = loss - self.lower_bound
            asked = das_size.asked(g_squares, w_squares, products, excess, self.scalars)
        if asked:
            self.scale(asked)
        else:
            self.scalars["sized"] = 1.0
        return bool(asked)

    def scale(self, asked: int) -> None:
        """Multiply the matrices by exp(±1 / L), and with them their average."""
        self.scalars["scalings"] += asked
        shrunk_by = np.where(self.matrices, 1 - math.exp(asked / self.depth), 0.0)
        self.apply(np.zeros(len(self.layout)), shrunk_by, 1.0)

    def directions(self, squares: NDArray) -> tuple[NDArray, float, float]:
        """Equations 1 to 4. Each layer's factor of u, the slope q, and the slope along the step before."""
        store, step, layers = self.built_store(), int(self.scalars["t"]), self.of_layers()
        kappa = math.inf if "outliers" in self.without else self.kappa
        units = kernels.das_units(squares, self.sizes, layers, kappa, self.beta_2, step)
        sums = kernels.das_moments(
            store.values,
            store.grads,
            self.slots["m"],
            self.slots["v"],
            self.pieces,
            units,
            self.beta_1,
            self.beta_2,
            self.epsilon,
            step,
        )
        relative = "relative" not in self.without
        slope, after = kernels.das_slopes(sums, self.sizes, self.floors, layers, relative)
        self.scalars.update(zip(self.keys, layers.ravel().tolist(), strict=True))
        return layers[2], slope, after

    def watch_agreement(self, slope_after: float) -> float:
        """Equation 6: A, and what follows from it for c."""
        state = self.scalars
        if state["q"] <= 0 or "agreement" in self.without:
            return 0.0
        agreement = min(1.0, max(-1.0, slope_after / state["q"]))
        change = self.gamma * (agreement + self.tau / self.epoch)
        if change < 0 or state["bounded"]:
            state["c"] = min(1.0, max(C_MIN, state["c"] * math.exp(change)))
        return agreement

    def rate(self, polyak: float) -> tuple[float, str]:
        """Equation 7, and which bound decided."""
        lr, c = self.learning_rate, self.scalars["c"]
        rate, bound = lr, "lr"
        if "polyak" not in self.without:
            low, high = self.s_min * polyak, self.s_max * polyak
            rate = min(max(lr, low), high)
            bound = (
                "none" if polyak == 0 else "s_min" if lr < low else "s_max" if lr > high else "lr"
            )
        if self.depth and "depth" not in self.without:
            largest = c * self.H / self.depth**1.5
            if largest < rate:
                rate, bound = largest, "depth"
        return rate, bound

    @property
    def share(self) -> float:
        """k of equation 9."""
        return (self.r + 1) / (self.scalars["t"] + self.r)

    def apply(self, rates: NDArray, decays: NDArray, share: float) -> None:
        """Equations 8 and 9, with each layer's factors of u and of w."""
        kernels.das_apply(
            self.built_store().values,
            self.average(),
            self.slots["m"],
            self.slots["v"],
            self.pieces,
            rates,
            decays,
            share,
            self.beta_1,
            self.beta_2,
            self.epsilon,
            max(1, int(self.scalars["t"])),
        )

    def take_back(self, loss: float, norm: float) -> StepInfo:
        """Equation 10. The moments have not seen this gradient; the last direction follows from them."""
        state, values = self.scalars, self.built_store().values
        state["bad"] += 1
        started = state["t"] or state["scalings"]
        if "guard" in self.without or not started or state["bad"] > PATIENCE:
            raise FloatingPointError(
                f"DAS: loss {loss}, gradient norm {norm}: not finite "
                + (f"{state['bad']:.0f} times in a row" if started else "in the first step")
            )
        if state["t"] == 0:
            if state["scalings"] > 0:
                self.scale(-1)
            self.seen = {"rate": 0.0, "bound": "guard"}
            return StepInfo(0.0, norm)
        back, before = 0.75 * state["eta"], values.copy()
        self.apply(-back * self.of_layers()[2], np.zeros(len(self.layout)), 0.0)
        if "average" in self.slots:
            self.slots["average"] += values.dtype.type(self.share) * (values - before)
        state["eta"] -= back
        state["c"] = max(C_MIN, state["c"] / 2)
        self.seen = {"rate": -back, "c": state["c"], "bound": "guard"}
        return StepInfo(-back, norm, {"c": state["c"]})

    # ---- weights to train and weights to use --------------------------------------------------------------

    def to_evaluation_weights(self) -> None:
        """The average and the weights change places."""
        if "average" in self.slots and self.scalars["t"] and not self.scalars["shown"]:
            self.exchange()
            self.scalars["shown"] = 1.0
            self.scalars["checksum"] = self.checksum()

    def to_training_weights(self) -> None:
        """They change back; but where somebody has set other weights meanwhile, training goes on from those."""
        if not self.scalars["shown"]:
            return
        if self.scalars["checksum"] == self.checksum():
            self.exchange()
            self.scalars["shown"] = self.scalars["checksum"] = 0.0
        else:
            self.go_on_from_here()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model has the average within; afterwards, the weights that it had."""
        shown = bool(self.scalars["shown"])
        self.to_evaluation_weights()
        try:
            yield
        finally:
            if not shown:
                self.to_training_weights()

    def go_on_from_here(self) -> None:
        self.average()[...] = self.built_store().values
        self.scalars["shown"] = self.scalars["checksum"] = 0.0

    def exchange(self) -> None:
        values, average = self.built_store().values, self.average()
        for s in self.built_store().segments:
            part = slice(s.start, s.stop)
            if s.parameter.trainable:
                values[part], average[part] = average[part].copy(), values[part].copy()
            else:
                average[part] = values[part]

    def checksum(self) -> float:
        return float(zlib.crc32(to_host(self.built_store().values).data))


def smallest_size(s: Segment) -> float:
    """F_l: the size below which a layer's weights do not count as smaller (they may start at 0)."""
    shape = s.parameter.shape
    return 1 / math.sqrt(fans(shape)[0]) if len(shape) > 1 else VECTOR_SIZE
