"""Learning rates as functions of the number of steps done: η(t), t = 0 for the first step.

Schedules hold no state. What a run needs to go on is the number of steps alone, and a schedule can be drawn,
``[schedule(t) for t in range(steps)]``, before anything is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinydl.arguments import finite_number, fraction
from tinydl.configs import as_config, from_config


class Schedule:
    """Called with the number of steps done, gives the rate of the next step.

    A subclass writes ``__call__``; every argument of its constructor is an attribute of the same name.
    """

    def __call__(self, step: int) -> float:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(step)")

    def config(self) -> dict[str, Any]:
        return {k: as_config(v) if isinstance(v, Schedule) else v for k, v in vars(self).items()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class Constant(Schedule):
    """η(t) = value."""

    def __init__(self, value: float) -> None:
        self.value = check_rate(self, "value", value)

    def __call__(self, step):
        return self.value


class StepDecay(Schedule):
    """η(t) = η_0 · factor^⌊t / every⌋: multiplied by ``factor`` after each ``every`` steps."""

    def __init__(self, initial_learning_rate: float, every: int, factor: float = 0.1) -> None:
        self.initial_learning_rate = check_rate(
            self, "initial_learning_rate", initial_learning_rate
        )
        self.every = check_steps(self, "every", every)
        self.factor = check_rate(self, "factor", factor)

    def __call__(self, step):
        return self.initial_learning_rate * self.factor ** (step // self.every)


class PiecewiseConstant(Schedule):
    """η(t) = values[i] for boundaries[i-1] ≤ t < boundaries[i]: each rate holds until its boundary is reached.

    ``values`` has one entry more than ``boundaries``, which increase.
    """

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        self.boundaries = [check_steps(self, "boundaries", b) for b in boundaries]
        self.values = [check_rate(self, "values", v) for v in values]
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"PiecewiseConstant: {len(self.boundaries)} boundaries need "
                f"{len(self.boundaries) + 1} values, got {len(self.values)}"
            )
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"PiecewiseConstant: boundaries must increase, got {self.boundaries}")

    def __call__(self, step):
        return self.values[sum(step >= b for b in self.boundaries)]


class ExponentialDecay(Schedule):
    """η(t) = η_0 · decay_rate^(t / decay_steps), the exponent rounded down if ``staircase``."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
    ) -> None:
        self.initial_learning_rate = check_rate(
            self, "initial_learning_rate", initial_learning_rate
        )
        self.decay_steps = check_steps(self, "decay_steps", decay_steps)
        self.decay_rate = check_rate(self, "decay_rate", decay_rate)
        self.staircase = bool(staircase)

    def __call__(self, step):
        exponent = step // self.decay_steps if self.staircase else step / self.decay_steps
        return self.initial_learning_rate * self.decay_rate**exponent


class CosineDecay(Schedule):
    """η(t) = η_0 (α + (1 - α) (1 + cos(π t / T)) / 2) for t < T = decay_steps, then α η_0.

    Source: Loshchilov & Hutter 2016, arXiv 1608.03983, eq. 5, one period without restart; α = η_min / η_max.
    """

    def __init__(self, initial_learning_rate: float, decay_steps: int, alpha: float = 0.0) -> None:
        self.initial_learning_rate = check_rate(
            self, "initial_learning_rate", initial_learning_rate
        )
        self.decay_steps = check_steps(self, "decay_steps", decay_steps)
        self.alpha = fraction("CosineDecay: alpha", alpha)

    def __call__(self, step):
        progress = min(step / self.decay_steps, 1.0)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return self.initial_learning_rate * (self.alpha + (1 - self.alpha) * cosine)


class Warmup(Schedule):
    """A linear rise from ``start`` over W = warmup_steps steps, then another schedule from its own beginning.

        η(t) = start + (then(0) - start) (t + 1) / W    for t < W
        η(t) = then(t - W)                              for t ≥ W

    Source: Goyal et al. 2017, arXiv 1706.02677, section 2.2 ("gradual warmup").
    """

    def __init__(
        self, warmup_steps: int, then: float | Schedule | dict[str, Any], start: float = 0.0
    ) -> None:
        self.warmup_steps = check_steps(self, "warmup_steps", warmup_steps)
        self.then = get(then)
        self.start = check_rate(self, "start", start)

    def __call__(self, step):
        if step >= self.warmup_steps:
            return self.then(step - self.warmup_steps)
        return self.start + (self.then(0) - self.start) * (step + 1) / self.warmup_steps


class OneCycle(Schedule):
    """Up from η_max / div_factor to η_max, then down to η_max / (div_factor · final_div_factor), in T steps.

    With the rise ending at r = pct_start · T - 1 and the run at T - 1, both parts are half a cosine:

        c(a, b, x) = b + (a - b) (1 + cos(π x)) / 2          from a at x = 0 to b at x = 1
        η(t) = c(η_max / div, η_max, t / r)                  for t ≤ r
        η(t) = c(η_max, η_end, (t - r) / (T - 1 - r))        for r < t < T, then η_end

    Source: Smith & Topin 2017, arXiv 1708.07120, section 3 ("1cycle"), with cosines in place of straight lines
    (Howard & Gugger 2020, arXiv 2002.04688).
    """

    def __init__(
        self,
        max_learning_rate: float,
        steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        self.max_learning_rate = check_rate(self, "max_learning_rate", max_learning_rate)
        self.steps = check_steps(self, "steps", steps)
        self.pct_start = fraction("OneCycle: pct_start", pct_start)
        self.div_factor = finite_number("OneCycle: div_factor", div_factor, 1)
        self.final_div_factor = finite_number("OneCycle: final_div_factor", final_div_factor, 1)

    def __call__(self, step):
        peak = self.max_learning_rate
        begin = peak / self.div_factor
        end = begin / self.final_div_factor
        rise = max(self.pct_start * self.steps - 1, 0.0)
        if step < rise:
            return half_cosine(begin, peak, step / rise)
        fall = self.steps - 1 - rise
        return half_cosine(peak, end, min((step - rise) / fall, 1.0) if fall > 0 else 1.0)


def half_cosine(a: float, b: float, x: float) -> float:
    """From a at x = 0 to b at x = 1."""
    return b + (a - b) * (1 + math.cos(math.pi * x)) / 2


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "step_decay": StepDecay,
    "piecewise_constant": PiecewiseConstant,
    "exponential_decay": ExponentialDecay,
    "cosine_decay": CosineDecay,
    "warmup": Warmup,
    "one_cycle": OneCycle,
}


def get(rate: float | Schedule | dict[str, Any]) -> Schedule:
    """A schedule, its config, or a number (a constant rate)."""
    if isinstance(rate, Schedule):
        return rate
    if isinstance(rate, dict):
        return from_config(rate, SCHEDULES, "schedule")
    try:
        return Constant(rate)
    except ValueError:
        raise ValueError(
            f"learning_rate must be a finite number >= 0 or a schedule, got {rate!r}"
        ) from None


def check_rate(owner: Schedule, name: str, value: float) -> float:
    return finite_number(f"{type(owner).__name__}: {name}", value, 0)


def check_steps(owner: Schedule, name: str, value: int) -> int:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not (whole and value >= 1):
        raise ValueError(
            f"{type(owner).__name__}: {name} must be a positive integer, got {value!r}"
        )
    return int(value)
