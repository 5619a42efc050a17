"""Do the hand-written gradients agree with central differences?

Let f be what is checked, x an input or a parameter, and r a random cotangent: fixed random numbers
of the shape of f(x). The scalar L = <r, f(x)> has dL/df = r, so ``backward(r)`` must give dL/dx,
and element by element

    dL/dx_i  =  D(h) + O(h²),      D(h) = <r, f(x + h e_i) - f(x - h e_i)> / 2h

A random r matters: with r = 1 (a plain sum) errors cancel wherever a layer's outputs have a fixed
sum, as those of softmax and of normalization have.

Everything is computed in float64 on a deep copy: the layer that was given keeps its values,
gradients, running statistics and random state. Every evaluation starts from the same random state
(one dropout mask for all) and the same running statistics.

How the numeric gradient is found, to about ten digits and off the kinks of functions such as ReLU,
stands in ``central_differences.py``. Elements exactly at a kink are counted as skipped, and an array
with fewer than half of its elements resolved does not pass.

**Relative error** of an element with analytic gradient a and numeric gradient n:

    |a - n| / max(|a|, |n|, s, rounding / tolerance)

    s         root mean square of n over the array's checked elements
    rounding  what rounding does to n itself, and 1e-14 for what it does to a. It decides only where
              the true gradient is zero, or as good as zero (a bias in front of a normalization).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinydl.arguments import finite_number, whole_number
from tinydl.data.validation import check_finite, check_numbers
from tinydl.inspect.central_differences import numeric_gradient
from tinydl.layers.base import Layer
from tinydl.losses import get as get_loss
from tinydl.randomness import get_state, set_state

SMALLEST = 1e-14  # a gradient that cancels to zero may come out this large, for cotangents about 1


@dataclass(frozen=True)
class ArrayCheck:
    """The worst element of one parameter or input.

    Attributes:
        name: the parameter's path, or "input" ("input 0", … where there are several).
        checked, skipped: how many elements were compared, and how many lay at a kink.
        index, analytic, numeric, relative_error: of the worst element.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    skipped: int
    index: tuple[int, ...]
    analytic: float
    numeric: float
    relative_error: float


@dataclass(frozen=True)
class GradientReport:
    """One :class:`ArrayCheck` for each parameter and input; ``print`` shows them as a table."""

    subject: str
    arrays: list[ArrayCheck]
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every array agrees, at no fewer than half of the elements that were tried."""
        return all(self._passes(array) for array in self.arrays)

    @property
    def worst(self) -> ArrayCheck | None:
        return max(self.arrays, key=lambda array: array.relative_error, default=None)

    def assert_ok(self) -> None:
        """Raise an AssertionError that shows the table unless all is well."""
        if not self.ok:
            raise AssertionError(str(self))

    def _passes(self, array: ArrayCheck) -> bool:
        return array.relative_error <= self.tolerance and array.checked >= array.skipped

    def __str__(self) -> str:
        rows = [("array", "shape", "checked", "worst at", "analytic", "numeric", "rel. error", "")]
        for a in self.arrays:
            checked = f"{a.checked}" + (f" ({a.skipped} at kinks)" if a.skipped else "")
            values = (f"{a.analytic:.9g}", f"{a.numeric:.9g}", f"{a.relative_error:.1e}")
            verdict = "" if self._passes(a) else "<- WRONG"
            rows.append((a.name, str(a.shape), checked, str(a.index), *values, verdict))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        verdict = "agrees with" if self.ok else "DIFFERS FROM"
        title = f"{self.subject}: backward {verdict} central differences"
        title += f" (tolerance {self.tolerance:g})"
        return "\n".join([title, *("  " + line for line in lines)])


def gradcheck(
    subject: Any,
    x: Any,
    targets: ArrayLike | None = None,
    *,
    loss: Any = None,
    training: bool = True,
    mask: NDArray | None = None,
    sample_weight: ArrayLike | None = None,
    seed: int = 0,
    epsilon: float = 1e-3,
    tolerance: float = 1e-6,
    max_elements: int = 100,
    noise: float | None = None,
) -> GradientReport:
    """Compare the gradients that ``subject.backward`` computes with central differences in float64.

        print(tl.gradcheck(tl.layers.Dense(3), np.random.randn(4, 5)))

    Args:
        subject: a layer or model, or a loss or its name. A fresh layer is built for ``x``. The
            subject itself does not change.
        x: the input with its batch axis; a list of arrays for a layer with several inputs; for a
            loss the predictions. Arrays of integers (indices) are inputs without a gradient.
        targets: what a loss compares with; needed for a loss, and with ``loss``.
        loss: checks the whole of loss(model(x), targets) in place of a random projection.
        training: forward's mode. BatchNorm and dropout differ in it.
        mask: (N, T), for layers that use one.
        sample_weight: handed to the loss.
        seed: of the projection, the noise, the random layers and the choice of elements.
        epsilon: the first step h, in proportion to elements that are larger than 1.
        tolerance: for the relative error (defined at the top of this file).
        max_elements: arrays with more elements are checked at that many, chosen at random.
        noise: standard deviation of what is added to all parameters, since biases of 0 and scales of
            1 hide mistakes. None: 0.1 for a layer that is not built yet, 0 for one that is.

    Returns:
        A report: ``print(report)``, ``report.ok``, ``report.worst``, ``report.assert_ok()``.

    Raises:
        TypeError: neither a layer nor a loss.
        ValueError: an input that holds nothing, or anything but finite numbers; a loss without targets.
    """
    epsilon = finite_number("gradcheck: epsilon", epsilon, 0, above=True)
    max_elements = whole_number("gradcheck: max_elements", max_elements)
    rng = np.random.default_rng(seed)
    several = isinstance(x, list | tuple) and any(isinstance(array, np.ndarray) for array in x)
    inputs = [_as_float64(array) for array in (x if several else [x])]
    function: _Scalar
    if isinstance(subject, Layer):
        layer = _prepare(subject, inputs, several, noise, rng)
        function = projected = _Projected(layer, inputs, several, training, mask)
        if loss is not None:
            function = _WithLoss(projected, _as_loss(loss), targets, sample_weight)
        parameters = [(n, p) for n, p in layer.named_parameters() if p.trainable]
        name = f"{type(subject).__name__} '{subject.name}'"
    else:
        alone = _as_loss(subject)
        function = _LossAlone(alone, inputs[0], targets, sample_weight, mask)
        parameters = []
        name = type(alone).__name__
    function.choose_cotangent(rng)

    input_grads = function.gradients()
    for _, parameter in parameters:
        parameter.grad[...] = 0
    # backward ADDS into the gradients of parameters: after two passes they hold twice the gradient.
    # A layer that overwrites them shows here as a gradient of half the size.
    function.gradients()
    function.gradients()

    to_check = [(n, p.value, p.grad / 2) for n, p in parameters]
    for i, (array, grad) in enumerate(zip(inputs, input_grads, strict=True)):
        if array.dtype.kind == "f":
            grad = np.full(array.shape, np.nan) if grad is None else grad
            to_check.append((f"input {i}" if len(inputs) > 1 else "input", array, grad))
    checks = [
        _check_array(n, array, grad, function, rng, epsilon, tolerance, max_elements)
        for n, array, grad in to_check
    ]
    return GradientReport(name, checks, tolerance)


# ---- the scalar function that is differentiated --------------------------------------------------


class _Scalar(Protocol):
    """L, as the terms that it is the sum of, and its gradients according to backward."""

    def choose_cotangent(self, rng: np.random.Generator) -> None: ...

    def __call__(self) -> NDArray: ...

    def gradients(self) -> list[NDArray | None]:
        """Adds into the parameters' gradients, and gives those of the inputs."""


class _Projected:
    """r ⊙ layer(x), whose sum is L; and the gradients that the layer's backward computes from r."""

    def __init__(
        self, layer: Any, inputs: list[NDArray], several: bool, training: bool, mask: Any
    ) -> None:
        self.layer, self.inputs, self.several = layer, inputs, several
        self.training, self.mask = training, mask
        self.random_layers = [sub for sub in layer.layers_in_order() if sub.rng is not None]
        self.rng_states = [copy.deepcopy(get_state(sub.rng)) for sub in self.random_layers]
        self.states = [(array, array.copy()) for _, array in layer.named_states()]

    def outputs(self) -> list[NDArray]:
        for sub, state in zip(self.random_layers, self.rng_states, strict=True):
            set_state(sub.rng, state)
        for array, value in self.states:
            array[...] = value
        x = self.inputs if self.several else self.inputs[0]
        if self.layer.uses_mask:
            y = self.layer.forward(x, self.training, self.mask)
        else:
            y = self.layer.forward(x, self.training)
        self.several_outputs = isinstance(y, list | tuple)
        return list(y) if self.several_outputs else [y]

    def choose_cotangent(self, rng: np.random.Generator) -> None:
        self.r = [rng.normal(size=y.shape) for y in self.outputs()]

    def __call__(self) -> NDArray:
        terms = [(r * y).ravel() for r, y in zip(self.r, self.outputs(), strict=True)]
        return np.concatenate(terms)

    def gradients(self) -> list[NDArray | None]:
        self.outputs()
        return self.pull_back([r.copy() for r in self.r])

    def pull_back(self, cotangents: list[NDArray]) -> list[NDArray | None]:
        grads = self.layer.backward(cotangents if self.several_outputs else cotangents[0])
        if self.several:
            grads = [None] * len(self.inputs) if grads is None else grads
            return [None if g is None else np.array(g) for g in grads]
        return [None if grads is None else np.array(grads)]


class _WithLoss:
    """loss(model(x), targets), already a scalar."""

    def __init__(self, model: _Projected, loss: Any, targets: Any, sample_weight: Any) -> None:
        _require_targets(targets)
        self.model, self.loss = model, copy.deepcopy(loss)
        self.targets, self.sample_weight = targets, sample_weight

    def choose_cotangent(self, rng: np.random.Generator) -> None:
        """The loss is a scalar: its cotangent is 1."""

    def __call__(self) -> NDArray:
        (predictions,) = self.model.outputs()
        return np.array([self.loss.forward(predictions, self.targets, self.sample_weight)])

    def gradients(self) -> list[NDArray | None]:
        self()
        return self.model.pull_back([self.loss.backward()])


class _LossAlone:
    """loss(predictions, targets), with its gradient with respect to the predictions."""

    def __init__(
        self, loss: Any, predictions: NDArray, targets: Any, sample_weight: Any, mask: Any
    ) -> None:
        _require_targets(targets)
        self.loss, self.predictions = copy.deepcopy(loss), predictions
        self.arguments = [targets, sample_weight] + ([] if mask is None else [mask])

    def choose_cotangent(self, rng: np.random.Generator) -> None:
        """The loss is a scalar: its cotangent is 1."""

    def __call__(self) -> NDArray:
        return np.array([self.loss.forward(self.predictions, *self.arguments)])

    def gradients(self) -> list[NDArray | None]:
        self()
        return [np.array(self.loss.backward())]


def _require_targets(targets: Any) -> None:
    if targets is None:
        raise ValueError("gradcheck of a loss needs targets to compare the predictions with")


def _as_loss(loss: Any) -> Any:
    """Also one that is no ``Loss`` of ours: forward and backward are enough."""
    if isinstance(loss, str):
        return get_loss(loss)
    if isinstance(loss, type) or not (hasattr(loss, "forward") and hasattr(loss, "backward")):
        raise TypeError(f"gradcheck takes a layer, a model or a loss (not its class), got {loss!r}")
    return loss


def _as_float64(x: ArrayLike) -> NDArray:
    """A copy of our own to step through; integers and booleans keep their type."""
    array = np.array(x)
    check_numbers(array, "the input")
    check_finite(array, "the input")
    if array.size == 0:
        raise ValueError(f"gradcheck needs an input with elements, got shape {array.shape}")
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _prepare(
    layer: Layer,
    inputs: list[NDArray],
    several: bool,
    noise: float | None,
    rng: np.random.Generator,
) -> Layer:
    """A copy of the layer in float64, built, without side effects on the one given."""
    layer = copy.deepcopy(layer)
    if noise is None:
        noise = 0.0 if layer.built else 0.1
    if not layer.built:
        shapes = [array.shape[1:] for array in inputs]
        layer.initialize(shapes if several else shapes[0], rng, np.float64)
    for parameter in layer.parameters():
        parameter.value = np.array(parameter.value, np.float64)
        parameter.value += noise * rng.normal(size=parameter.shape)
        parameter.grad = np.zeros(parameter.shape)
    to_float64: dict[int, NDArray] = {}  # a shared layer's twins must go on sharing one array
    for sub in layer.layers_in_order():
        sub.dtype = np.dtype(np.float64)
        sub.after_backward = None
        for name, array in sub.state.items():
            if array.dtype.kind == "f":
                sub.state[name] = to_float64.setdefault(id(array), array.astype(np.float64))
        if sub.is_random and sub.rng is None:
            sub.rng = np.random.default_rng(rng.integers(2**63))
    layer.set_needs_input_grad(True)
    return layer


# ---- the comparison -------------------------------------------------------------------------------


def _check_array(
    name: str,
    array: NDArray,
    analytic: NDArray,
    function: Callable[[], NDArray],
    rng: np.random.Generator,
    epsilon: float,
    tolerance: float,
    max_elements: int,
) -> ArrayCheck:
    if analytic.shape != array.shape:
        raise ValueError(f"{name} has shape {array.shape}, its gradient {analytic.shape}")
    chosen = np.arange(array.size)
    if array.size > max_elements:
        chosen = np.sort(rng.choice(array.size, max_elements, replace=False))
    numeric, rounding, smooth = numeric_gradient(function, array, chosen, epsilon, tolerance)
    skipped = int(np.count_nonzero(~smooth))
    if skipped == len(chosen):  # nothing to compare, or nothing that could be
        return ArrayCheck(name, array.shape, 0, skipped, (), np.nan, np.nan, 0.0)

    a, n, noise = analytic.reshape(-1)[chosen[smooth]], numeric[smooth], rounding[smooth]
    scale = np.full_like(n, np.sqrt(np.mean(n * n)))
    size = np.maximum.reduce([np.abs(a), np.abs(n), scale, (noise + SMALLEST) / tolerance])
    error = np.abs(a - n) / size
    error[~np.isfinite(error)] = np.inf
    k = int(np.argmax(error))
    index = tuple(int(i) for i in np.unravel_index(chosen[smooth][k], array.shape))
    worst = float(a[k]), float(n[k]), float(error[k])
    return ArrayCheck(name, array.shape, len(n), skipped, index, *worst)
