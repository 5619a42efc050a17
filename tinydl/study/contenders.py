"""Who is compared: optimizers by name, with a constant or a cosine rate, and the rates that each is tuned over."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinydl.architectures.catalog import from_file
from tinydl.configs import near
from tinydl.optimizers import OPTIMIZERS, Optimizer
from tinydl.optimizers.schedules import CosineDecay, Schedule

SCHEDULES = ("constant", "cosine")


def half_decades(low: int, high: int) -> tuple[float, ...]:
    """10^low, 3 · 10^low, 10^(low + 1), … 10^high: evenly spread on the logarithmic axis, nearly, and readable."""
    rates = [float(f"{digit}e{k}") for k in range(low, high) for digit in (1, 3)]
    return (*rates, float(f"1e{high}"))


def decades(low: int, high: int) -> tuple[float, ...]:
    return tuple(float(f"1e{k}") for k in range(low, high + 1))


@dataclass(frozen=True)
class Kind:
    """An optimizer of the study.

    Attributes:
        make: (rate or schedule, steps of the run) -> a fresh optimizer.
        rates: that it is tuned over; for one that is judged at its default, the rates at which it is tried.
        schedules: those it takes part with.
        tuned: whether it is judged at its tuned rate; else at its default.
        default: its default rate.
        peer: it runs through PyTorch.
    """

    make: Callable[[float | Schedule, int], Optimizer]
    rates: tuple[float, ...]
    default: float
    schedules: tuple[str, ...] = SCHEDULES
    tuned: bool = True
    peer: bool = False


def ours(name: str, rates: tuple[float, ...], **rest: Any) -> Kind:
    cls = OPTIMIZERS[name]
    return Kind(lambda rate, steps: cls(learning_rate=rate), rates, cls().learning_rate, **rest)


def peer(name: str) -> Callable[[float | Schedule, int], Optimizer]:
    def make(rate: float | Schedule, steps: int) -> Optimizer:
        from tinydl.study import peers

        return getattr(peers, name)(rate, steps)

    return make


KINDS: dict[str, Kind] = {
    "sgd": ours("sgd", half_decades(-3, 0)),
    "momentum": ours("momentum", half_decades(-4, -1)),
    "nesterov": ours("nesterov", half_decades(-4, -1)),
    "rmsprop": ours("rmsprop", half_decades(-4, -1)),
    "adam": ours("adam", half_decades(-4, -1)),
    "adamw": ours("adamw", half_decades(-4, -1)),
    "nadam": ours("nadam", half_decades(-4, -1)),
    "das": ours("das", decades(-6, 1), schedules=("constant",), tuned=False),
    # Prodigy finds the size of its steps itself; its authors advise a rate of 1 for every network.
    "prodigy": Kind(peer("prodigy"), half_decades(-1, 1), 1.0, peer=True),
    "schedulefree": Kind(
        peer("schedule_free"), half_decades(-4, -1), 0.0025, ("constant",), peer=True
    ),
}
BASELINES = tuple(name for name, kind in KINDS.items() if kind.tuned and not kind.peer)
PEERS = tuple(name for name, kind in KINDS.items() if kind.peer)


@dataclass(frozen=True, order=True)
class Contender:
    """An optimizer with a schedule."""

    optimizer: str
    schedule: str = "constant"

    def __str__(self) -> str:
        return (
            self.optimizer if self.schedule == "constant" else f"{self.optimizer} {self.schedule}"
        )

    @property
    def kind(self) -> Kind:
        return get(self.optimizer)

    def make(self, rate: float, steps: int) -> Optimizer:
        """A fresh optimizer for a run of ``steps``; a cosine ends with it."""
        scheduled = CosineDecay(rate, steps) if self.schedule == "cosine" else rate
        return self.kind.make(scheduled, steps)

    @functools.cached_property
    def version(self) -> str:
        """Eight digits that change when the optimizer's arguments do: old results are then no longer its own."""
        config = self.make(self.kind.default, 1).config()
        del config["learning_rate"]
        return f"{zlib.crc32(repr(sorted(config.items())).encode()):08x}"


def get(name: str) -> Kind:
    """The optimizer called ``name``, or the one that FUNCTION in ``FILE.py:FUNCTION`` makes of a learning rate.

    One of the user's own is judged at its default rate and tried at those of DAS; without a default, as baselines are.
    """
    if name in KINDS:
        return KINDS[name]
    if ".py" not in name:
        raise ValueError(
            f"unknown optimizer {name!r}{near(name, KINDS)}: expected one of {', '.join(KINDS)}, or a "
            "function in a file of your own as FILE.py:FUNCTION"
        )
    return own(name)


@functools.cache
def own(reference: str) -> Kind:
    function: Callable[..., Any] = from_file(reference)
    try:
        made, has_default = function(), True
    except TypeError:  # it must be told a rate
        made, has_default = function(0.001), False
    if not isinstance(made, Optimizer):
        raise TypeError(f"{reference} must return a tinydl optimizer, got {type(made).__name__}")
    if not has_default:
        return Kind(lambda rate, steps: function(rate), half_decades(-4, -1), 0.001)
    rate = made.learning_rate
    return Kind(
        lambda rate, steps: function(rate), decades(-6, 1), rate, ("constant",), tuned=False
    )
