"""Trajectories of two numbers on Rosenbrock's valley, from each optimizer's definition in another form.

The optimizers update averages step by step; here every average is written out as the sum over all gradients so
far, in Python's own floats. Nesterov's momentum is taken in its first form, with the gradient at the point ahead.
"""

import math

import numpy as np
import pytest

from tinydl.optimizers import SGD, Adam, AdamW, Momentum, NAdam, Nesterov, RMSProp
from tinydl.parameters import Parameter, ParameterStore

START = (-1.2, 1.0)
STEPS = 30


def rosenbrock(x, y):
    """(1 - x)² + 10 (y - x²)²"""
    return (1 - x) ** 2 + 10 * (y - x * x) ** 2


def slope(x, y):
    return [-2 * (1 - x) - 40 * x * (y - x * x), 20 * (y - x * x)]


def weighted_sum(decay, numbers):
    """Σ_i decay^(t - i) numbers_i"""
    last = len(numbers) - 1
    return math.fsum(decay ** (last - i) * x for i, x in enumerate(numbers))


def walk(move):
    """Points of w_{t+1} = w_t + move(t, w_t, [g_1 … g_t]), each coordinate for itself; t from 1."""
    path, gradients = [list(START)], ([], [])
    for t in range(1, STEPS + 1):
        point = path[-1]
        for past, g in zip(gradients, slope(*point), strict=True):
            past.append(g)
        path.append([w + move(t, w, past) for w, past in zip(point, gradients, strict=True)])
    return path[1:]


def sgd(rate):
    return walk(lambda t, w, g: -rate * g[-1])


def momentum(rate, mu):
    return walk(lambda t, w, g: -rate * weighted_sum(mu, g))


def nesterov(rate, mu):
    """θ_{t+1} = θ_t + v_{t+1} with v_{t+1} = μ v_t - η g(θ_t + μ v_t); the weights are the points ahead."""
    theta, v, path = list(START), [0.0, 0.0], []
    for _ in range(STEPS):
        ahead = [a + mu * b for a, b in zip(theta, v, strict=True)]
        v = [mu * b - rate * g for b, g in zip(v, slope(*ahead), strict=True)]
        theta = [a + b for a, b in zip(theta, v, strict=True)]
        path.append([a + mu * b for a, b in zip(theta, v, strict=True)])
    return path


def rmsprop(rate, rho, epsilon, mu=0.0, centered=False):
    def size(g):
        square = (1 - rho) * weighted_sum(rho, [x * x for x in g])
        mean = (1 - rho) * weighted_sum(rho, g) if centered else 0.0
        return math.sqrt(square - mean * mean) + epsilon

    def move(t, w, g):
        scaled = [g[i] / size(g[: i + 1]) for i in range(t)]
        return -rate * weighted_sum(mu, scaled) if mu else -rate * scaled[-1]

    return walk(move)


def adam(rate, beta_1, beta_2, epsilon, decay=0.0):
    """Bias correction is a division by the sum of the weights: m̂ is a weighted mean, v̂ likewise."""

    def move(t, w, g):
        m_hat = weighted_sum(beta_1, g) / weighted_sum(beta_1, [1.0] * t)
        v_hat = weighted_sum(beta_2, [x * x for x in g]) / weighted_sum(beta_2, [1.0] * t)
        return -rate * decay * w - rate * m_hat / (math.sqrt(v_hat) + epsilon)

    return walk(move)


def nadam(rate, beta_1, beta_2, epsilon):
    def move(t, w, g):
        mu = [beta_1 * (1 - 0.5 * 0.96 ** (i / 250)) for i in range(1, t + 2)]  # μ_1 … μ_{t+1}
        m = (1 - beta_1) * weighted_sum(beta_1, g)
        v_hat = weighted_sum(beta_2, [x * x for x in g]) / weighted_sum(beta_2, [1.0] * t)
        m_hat = mu[t] * m / (1 - math.prod(mu)) + (1 - mu[t - 1]) * g[-1] / (1 - math.prod(mu[:t]))
        return -rate * m_hat / (math.sqrt(v_hat) + epsilon)

    return walk(move)


CASES = {
    "sgd": (SGD(0.005), sgd(0.005)),
    "momentum": (Momentum(0.002), momentum(0.002, 0.9)),
    "sgd with momentum": (SGD(0.002, momentum=0.5), momentum(0.002, 0.5)),
    "nesterov": (Nesterov(0.002), nesterov(0.002, 0.9)),
    "rmsprop": (RMSProp(0.02), rmsprop(0.02, 0.9, 1e-7)),
    "rmsprop, momentum": (RMSProp(0.01, 0.8, 0.7, 1e-3), rmsprop(0.01, 0.8, 1e-3, 0.7)),
    "rmsprop, centered": (
        RMSProp(0.01, centered=True, epsilon=1e-2),
        rmsprop(0.01, 0.9, 1e-2, centered=True),
    ),
    "adam": (Adam(0.05), adam(0.05, 0.9, 0.999, 1e-7)),
    "adam, other betas": (Adam(0.05, 0.5, 0.9, 0.1), adam(0.05, 0.5, 0.9, 0.1)),
    "adamw": (AdamW(0.05, weight_decay=0.1), adam(0.05, 0.9, 0.999, 1e-7, decay=0.1)),
    "nadam": (NAdam(0.05), nadam(0.05, 0.9, 0.999, 1e-7)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 3e-4)])
def test_the_path_is_the_one_of_the_definition(case, dtype, tolerance):
    optimizer, path = CASES[case]
    x, y = (Parameter(name, np.array([w], dtype)) for name, w in zip("xy", START, strict=True))
    optimizer.build(ParameterStore([x, y]))
    for expected in path:
        g = slope(float(x.value[0]), float(y.value[0]))
        x.grad[0], y.grad[0] = g
        info = optimizer.step(rosenbrock(float(x.value[0]), float(y.value[0])))
        assert info.grad_norm == pytest.approx(math.hypot(*g), rel=1e-6)
        assert [x.value[0], y.value[0]] == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert optimizer.iterations == STEPS
    assert rosenbrock(*path[-1]) < rosenbrock(*START)


def test_first_steps_by_hand():
    """One weight w = 1, gradient 4: numbers that can be worked out on paper."""

    def first(optimizer):
        p = Parameter("w", np.array([1.0]))
        optimizer.build(ParameterStore([p]))
        p.grad[0] = 4.0
        optimizer.step(0.0)
        return p.value[0]

    assert first(SGD(0.1)) == pytest.approx(0.6)
    assert first(Momentum(0.1)) == pytest.approx(0.6)
    assert first(Nesterov(0.1)) == pytest.approx(1 - 0.1 * 4 * 1.9)
    # Adam's first step is the rate, whatever the size.
    assert first(Adam(0.1)) == pytest.approx(0.9)
    assert first(AdamW(0.1, weight_decay=0.5)) == pytest.approx(0.95 - 0.1)
    assert first(RMSProp(0.1)) == pytest.approx(1 - 0.1 / math.sqrt(0.1))
