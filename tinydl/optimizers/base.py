"""What every optimizer is: flat slots beside the flat parameters, and one step over all of them.

A step has four parts, each a method, so that an optimizer that needs another order (one that derives its rate
from the loss, say) overrides ``step`` and uses them as they are:

    1. the gradients are checked and clipped              ``prepare_gradients``
    2. one place decides the learning rate                ``learning_rate``
    3. the step is counted                                ``iterations``, ``advance``
    4. each stretch of the buffer is updated, in place    ``update``, over ``ranges()``
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.arguments import finite_number
from tinydl.configs import as_config
from tinydl.devices import assign, host_copy
from tinydl.optimizers import schedules
from tinydl.optimizers.clipping import check_finite, clip_by_norm, clip_by_value, global_norm
from tinydl.optimizers.schedules import Constant, Schedule
from tinydl.parameters import ParameterStore, aligned_zeros


@dataclass(frozen=True)
class StepInfo:
    """What a step did: the rate really used, the gradient's norm before clipping, and what else there is to log."""

    learning_rate: float
    grad_norm: float
    extras: Mapping[str, float] = field(default_factory=dict)


class Optimizer:
    """Base of all optimizers.

    A subclass names its slots in ``slot_names`` and writes its update twice: ``equations``, which reads like
    its docstring, and ``update``, one fused pass. Every argument of its constructor is an attribute of the same
    name (``config`` relies on it).

    Arguments that all of them take:
        learning_rate: a number, or a schedule (``tl.schedules``): a function of the number of steps done.
        weight_decay: λ ≥ 0. w ← (1 - η λ) w before the step, apart from the gradient, for parameters with
            ``decay`` only: no biases, no scales (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithms 1
            and 2, with λ times the rate as has become usual). A penalty inside the gradient is a
            regularizer's work (``kernel_regularizer="l2"``).
        clipvalue: c > 0. Every element of the gradient is clipped to [-c, c].
        clipnorm: c > 0. Each parameter's gradient is scaled to a norm of at most c.
        global_clipnorm: c > 0. All gradients together are scaled to a norm of at most c (Pascanu et al. 2013,
            arXiv 1211.5063, algorithm 1). At most one of the three may be given.

    Parameters that are frozen (``trainable`` False) keep their values, and count in no norm.

    Attributes:
        iterations: the number of steps done.
        epoch: the pass over the samples that is under way, from 1 on; ``fit`` sets it.
        slots: name -> flat array, laid out as the parameters are (momentum and the like).
        scalars: name -> float, further state of one number each. Slots and scalars are what checkpoints hold.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.01,
        weight_decay: float = 0.0,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:
        self.learning_rate = learning_rate
        self.weight_decay = check_range(self, "weight_decay", weight_decay, 0, np.inf)
        self.clipvalue = check_limit(self, "clipvalue", clipvalue)
        self.clipnorm = check_limit(self, "clipnorm", clipnorm)
        self.global_clipnorm = check_limit(self, "global_clipnorm", global_clipnorm)
        if sum(c is not None for c in (clipvalue, clipnorm, global_clipnorm)) > 1:
            raise ValueError(
                f"{self.label}: give one of clipvalue, clipnorm, global_clipnorm, not several"
            )
        self.store: ParameterStore | None = None
        self.iterations = 0
        self.slots: dict[str, NDArray] = {}
        self.scalars: dict[str, float] = {}

    epoch = 1
    # Whether BatchNorm's running statistics must be taken anew for the weights to evaluate.
    renews_statistics = False
    guards = False  # True: ``step`` copes with a loss or gradient that is not finite

    # ---- what a subclass defines --------------------------------------------------------------------------

    @property
    def slot_names(self) -> tuple[str, ...]:
        return ()

    def initial_scalars(self) -> dict[str, float]:
        return {}

    def advance(self) -> None:
        """Change ``scalars`` from one step to the next; ``iterations`` already counts the step at hand."""

    def equations(
        self, w: NDArray, g: NDArray, slots: Mapping[str, NDArray], rate: float
    ) -> tuple[NDArray, dict[str, NDArray]]:
        """The update in NumPy: new (w, slots), nothing in place. Weight decay is not part of it."""
        raise NotImplementedError(f"{self.label} must define equations(w, g, slots, rate)")

    def update(
        self, w: NDArray, g: NDArray, slots: Mapping[str, NDArray], rate: float, weight_decay: float
    ) -> None:
        """The same in one pass over memory: w and slots are changed in place, w decayed first."""
        raise NotImplementedError(
            f"{self.label} must define update(w, g, slots, rate, weight_decay)"
        )

    # ---- a step -------------------------------------------------------------------------------------------

    def build(self, store: ParameterStore) -> None:
        """Take a model's parameters over: fresh slots of zeros, no steps done."""
        epsilon = getattr(self, "epsilon", None)
        if epsilon is not None and store.dtype.type(epsilon) == 0:
            raise ValueError(f"{self.label}: epsilon={epsilon} is 0 in {store.dtype}")
        self.store = store
        self.iterations, self.epoch = 0, 1
        self.slots = {
            name: aligned_zeros(len(store.values), store.dtype) for name in self.slot_names
        }
        self.scalars = self.initial_scalars()

    def step(self, loss: float | None = None) -> StepInfo:
        """Update all trainable parameters from their gradients, which clipping may change.

        ``loss`` is the value that the gradients belong to; most optimizers have no use for it. A gradient
        that is not finite is a ``FloatingPointError`` that names the parameter; nothing is updated then.
        """
        store = self.built_store()
        grad_norm = self.prepare_gradients()
        rate = self.learning_rate
        self.iterations += 1
        self.advance()
        for part, weight_decay in self.ranges():
            slots = {name: slot[part] for name, slot in self.slots.items()}
            self.update(store.values[part], store.grads[part], slots, rate, weight_decay)
        return StepInfo(rate, grad_norm)

    def prepare_gradients(self) -> float:
        """Clip the gradients as asked; their global norm from before. Refuses what is not finite."""
        store = self.built_store()
        gradients = [store.grads[part] for part, _ in self.ranges(by_decay=False)]
        norm = self.norm(gradients)
        if not np.isfinite(norm):
            check_finite(store)
        if self.global_clipnorm is not None:
            clip_by_norm(gradients, self.global_clipnorm, norm)
        elif self.clipnorm is not None:
            for s in store.segments:
                if s.parameter.trainable:
                    own = [store.grads[s.start : s.stop]]
                    clip_by_norm(own, self.clipnorm, self.norm(own))
        elif self.clipvalue is not None:
            clip_by_value(gradients, self.clipvalue)
        return norm

    def norm(self, arrays: list[NDArray]) -> float:
        """Of all these gradients together. Where processes share them out among each other, of all their parts."""
        return global_norm(arrays)

    def ranges(self, by_decay: bool = True) -> list[tuple[slice, float]]:
        """(part of the buffers, its weight decay): the longest stretches that are updated alike.

        Frozen parameters lie in none. The gaps between parameters hold zeros and stay zero under every
        update, so a stretch runs across them; without weight decay a model is one single stretch, and so it
        is with ``by_decay=False``, for passes that have nothing to do with decay.
        """
        found: list[tuple[slice, float]] = []
        start, stop, decay = 0, 0, 0.0  # of the stretch so far
        for s in self.built_store().segments:
            p = s.parameter
            own = self.weight_decay if by_decay and p.decay else 0.0
            if stop and p.trainable and own == decay:
                stop = s.stop
                continue
            if stop:
                found.append((slice(start, stop), decay))
            start, stop, decay = s.start, s.stop if p.trainable else 0, own
        if stop:
            found.append((slice(start, stop), decay))
        return found

    # ---- weights to train and weights to use --------------------------------------------------------------

    def to_evaluation_weights(self) -> None:
        """Give the model the weights to evaluate and to keep, where these are others than those being trained.

        ``fit`` calls it at the end, for validation and for checkpoints; calling it twice does no harm.
        """

    def to_training_weights(self) -> None:
        """The reverse: ``fit`` calls it before the first step, and to go on."""

    # ---- the learning rate --------------------------------------------------------------------------------

    @property
    def learning_rate(self) -> float:
        """The rate of the next step, a number. Set it to a number or a schedule; ``schedule`` is what was set."""
        return self.schedule(self.iterations)

    @learning_rate.setter
    def learning_rate(self, rate: float | Schedule) -> None:
        self.schedule = schedules.get(rate)

    # ---- state and configuration --------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: plain data, but for the copies of the flat arrays in ``"slots"``."""
        return {
            "optimizer": self.label,
            "iterations": self.iterations,
            "learning_rate": self.config()["learning_rate"],
            "scalars": dict(self.scalars),
            "slots": {name: host_copy(slot) for name, slot in self.slots.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()`` of an optimizer of the same kind; nothing is changed unless all fits."""
        self.built_store()
        if state["optimizer"] != self.label:
            raise ValueError(
                f"this is the state of {state['optimizer']}, the optimizer is {self.label}"
            )
        for kind, own in (("slots", self.slots), ("scalars", self.scalars)):
            if set(state[kind]) != set(own):
                raise ValueError(
                    f"{self.label} has the {kind} {sorted(own)}, the state holds {sorted(state[kind])}"
                )
        for name, slot in self.slots.items():
            came = state["slots"][name]
            if came.shape != slot.shape or came.dtype != slot.dtype:
                raise ValueError(
                    f"{self.label}: slot '{name}' is {slot.dtype} {slot.shape}, "
                    f"the state holds {came.dtype} {came.shape}"
                )
        # A schedule of one's own, which no table knows, is kept where it is the one that was saved.
        if state["learning_rate"] != self.config()["learning_rate"]:
            self.schedule = schedules.get(state["learning_rate"])
        self.iterations = int(state["iterations"])
        self.scalars = {name: float(x) for name, x in state["scalars"].items()}
        for name, slot in self.slots.items():
            assign(slot, state["slots"][name])

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain data."""
        arguments = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        rate = self.schedule
        arguments["learning_rate"] = rate.value if isinstance(rate, Constant) else as_config(rate)
        return arguments

    def built_store(self) -> ParameterStore:
        if self.store is None:
            raise RuntimeError(f"{self.label} has no parameters yet: call build(store) first")
        return self.store

    @property
    def label(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{self.label}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


def check_range(owner: object, name: str, value: float, low: float, high: float) -> float:
    """``value`` as a float if it is a finite number in [low, high), else an error that says so."""
    return finite_number(f"{type(owner).__name__}: {name}", value, low, high)


def check_positive(owner: object, name: str, value: float) -> float:
    return finite_number(f"{type(owner).__name__}: {name}", value, 0, above=True)


def check_limit(owner: object, name: str, value: float | None) -> float | None:
    return None if value is None else check_positive(owner, name, value)
