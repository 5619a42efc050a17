"""Initial values of parameters.

The scaled ones keep the variance of activations (forward) or of gradients (backward) from layer to layer:
for y = Σ_i w_i x_i over ``fan_in`` independent terms, Var(y) = fan_in · Var(w) · Var(x), which asks for
Var(w) = 1 / fan_in; backward asks for 1 / fan_out.

    LeCun   Var = 1 / fan_in                 LeCun et al. 1998, "Efficient BackProp", section 4.6
    Glorot  Var = 2 / (fan_in + fan_out)     Glorot & Bengio 2010, eq. 12 (a compromise between both directions)
    He      Var = 2 / fan_in                 He et al. 2015, arXiv 1502.01852, eq. 10 (ReLU halves the variance)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import finite_number
from tinydl.configs import from_config


class Initializer:
    """Called with a shape and a generator, gives a float64 array (a layer casts it to its own dtype)."""

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(shape, rng)")

    def config(self) -> dict[str, Any]:
        return dict(vars(self))


class Zeros(Initializer):
    def __call__(self, shape, rng):
        return np.zeros(shape)


class Ones(Initializer):
    def __call__(self, shape, rng):
        return np.ones(shape)


class Constant(Initializer):
    def __init__(self, value: float = 0.0) -> None:
        self.value = finite_number("Constant: value", value)

    def __call__(self, shape, rng):
        return np.full(shape, self.value)


class RandomNormal(Initializer):
    """w ~ N(mean, stddev²)."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05) -> None:
        self.mean = finite_number("RandomNormal: mean", mean)
        self.stddev = finite_number("RandomNormal: stddev", stddev, 0)

    def __call__(self, shape, rng):
        return rng.normal(self.mean, self.stddev, shape)


class RandomUniform(Initializer):
    """w ~ U(minval, maxval)."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05) -> None:
        self.minval = finite_number("RandomUniform: minval", minval)
        self.maxval = finite_number("RandomUniform: maxval", maxval, self.minval)

    def __call__(self, shape, rng):
        return rng.uniform(self.minval, self.maxval, shape)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out): how many inputs a unit sums over, and how many units an input reaches.

    A dense weight is (in, out); a convolution's is (R, S, C, K), where each output sums over R·S·C inputs and
    each input reaches R·S·K outputs.
    """
    if len(shape) == 0:
        return 1, 1
    if len(shape) == 1:
        return shape[0], shape[0]
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


class VarianceScaling(Initializer):
    """Var(w) = scale / n with n = fan_in, fan_out or their mean; normal or uniform (limit = √(3 Var))."""

    def __init__(
        self, scale: float = 1.0, mode: str = "fan_in", distribution: str = "uniform"
    ) -> None:
        if mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ValueError(
                f"VarianceScaling: mode must be fan_in, fan_out or fan_avg, got {mode!r}"
            )
        if distribution not in ("normal", "uniform"):
            raise ValueError(
                f"VarianceScaling: distribution must be normal or uniform, got {distribution!r}"
            )
        self.scale = finite_number("VarianceScaling: scale", scale, 0, above=True)
        self.mode = mode
        self.distribution = distribution

    def __call__(self, shape, rng):
        fan_in, fan_out = fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(n, 1)
        if self.distribution == "normal":
            return rng.normal(0.0, math.sqrt(variance), shape)
        limit = math.sqrt(3 * variance)
        return rng.uniform(-limit, limit, shape)


class _NamedScaling(VarianceScaling):
    """A variance scaling with everything fixed by its name."""

    def config(self):
        return {}


class GlorotUniform(_NamedScaling):
    def __init__(self) -> None:
        super().__init__(1.0, "fan_avg", "uniform")


class GlorotNormal(_NamedScaling):
    def __init__(self) -> None:
        super().__init__(1.0, "fan_avg", "normal")


class HeUniform(_NamedScaling):
    def __init__(self) -> None:
        super().__init__(2.0, "fan_in", "uniform")


class HeNormal(_NamedScaling):
    def __init__(self) -> None:
        super().__init__(2.0, "fan_in", "normal")


class LecunUniform(_NamedScaling):
    def __init__(self) -> None:
        super().__init__(1.0, "fan_in", "uniform")


class LecunNormal(_NamedScaling):
    def __init__(self) -> None:
        super().__init__(1.0, "fan_in", "normal")


class Orthogonal(Initializer):
    """A random (semi-)orthogonal matrix times ``gain``: Saxe et al. 2013, arXiv 1312.6120.

    From the QR decomposition of a Gaussian matrix; multiplying Q's columns by the signs of R's diagonal makes it
    uniform over orthogonal matrices (Mezzadri 2007, arXiv math-ph/0609050). Axes but the last are flattened.
    """

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = finite_number("Orthogonal: gain", gain)

    def __call__(self, shape, rng):
        if len(shape) < 2:
            raise ValueError(f"Orthogonal needs two or more dimensions, got shape {shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        gaussian = rng.normal(size=(max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(gaussian)
        q *= np.where(np.diag(r) < 0, -1.0, 1.0)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)


INITIALIZERS: dict[str, type[Initializer]] = {
    "zeros": Zeros,
    "ones": Ones,
    "constant": Constant,
    "normal": RandomNormal,
    "random_normal": RandomNormal,
    "uniform": RandomUniform,
    "random_uniform": RandomUniform,
    "variance_scaling": VarianceScaling,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LecunUniform,
    "lecun_normal": LecunNormal,
    "orthogonal": Orthogonal,
}


def get(initializer: Initializer | str | dict) -> Initializer:
    """An initializer, its name, or its config."""
    if isinstance(initializer, Initializer):
        return initializer
    return from_config(initializer, INITIALIZERS, "initializer")
