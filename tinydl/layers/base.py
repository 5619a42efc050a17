"""What every layer is: told its input shape once, then forward and backward, by hand.

A reader follows a gradient through a layer's file with a finger: ``forward`` keeps on ``self`` exactly what
``backward`` needs, under the names that the equations use; ``backward`` takes dL/dy, ADDS dL/dw into its
parameters' ``grad`` and returns dL/dx. There is no tape and no graph.

A new layer in ten lines:

    class Scale(Layer):                                          # y = s * x, with one s per feature
        def build(self, input_shape, rng):
            self.scale = self.add_parameter("scale", input_shape[-1:], "ones", rng)

        def forward(self, x, training=False):
            self.x = x                                           # (N, ..., C)
            return self.scale.value * x

        def backward(self, grad_output):
            self.scale.grad += (grad_output * self.x).reshape(-1, self.x.shape[-1]).sum(axis=0)
            return self.scale.value * grad_output

With ``device="cuda"`` the same code is given CuPy's arrays, which operators and NumPy's functions take as well. Only
what makes an array from nothing must ask which kind is wanted: ``devices.namespace(x).zeros(…)``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.initializers import Initializer
from tinydl.initializers import get as get_initializer
from tinydl.parameters import Parameter
from tinydl.regularizers import Regularizer

Shape = tuple[int | None, ...]


class Layer:
    """Base of all layers.

    A subclass writes ``forward`` and ``backward``; ``build`` where it has parameters; ``compute_output_shape``
    where the shape changes; ``config`` where its constructor takes arguments (so that a model can be saved).

    Attributes:
        input_shape, output_shape: shapes of one sample, without the batch axis (a list of them for a layer
            with several inputs). ``None`` stands for a length that may vary, e.g. of a sequence.
        state: arrays that are not trained but belong to the model (a BatchNorm's running mean), by name,
            updated in place.
        needs_input_grad: False where nobody reads dL/dx, as for the first layer of a model in training;
            ``backward`` then returns None and skips that work.
        rng: source of random numbers for a layer with ``is_random = True``; set by the model.
    """

    uses_mask = False  # True: forward(x, training, mask) receives the (N, T) mask of steps to keep
    is_random = False  # True: forward draws from self.rng when training
    # False: forward or backward needs the host's arrays, and device="cuda" is refused
    runs_on_cuda = True

    input_shape: Any
    output_shape: Any
    dtype: np.dtype

    def __init__(self, name: str | None = None) -> None:
        self.name = name or default_name(type(self))
        self.sublayers: list[Layer] = []
        self.own_parameters: list[Parameter] = []
        self.state: dict[str, NDArray] = {}
        self.built = False
        self.needs_input_grad = True
        self.rng: np.random.Generator | None = None
        self.after_backward: Callable[[Layer], None] | None = None
        self._trainable = True

    # ---- what a subclass defines --------------------------------------------------------------------------

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        """Make parameters (with ``add_parameter``) for inputs of ``input_shape``. Nothing to do by default."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        raise NotImplementedError(f"{type(self).__name__} must define forward(x, training)")

    def backward(self, grad_output: NDArray) -> NDArray | None:
        raise NotImplementedError(f"{type(self).__name__} must define backward(grad_output)")

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> NDArray | None:
        """The mask for the next layer. Layers that act on each time step alone pass it on."""
        return mask

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain data that JSON can hold."""
        return {}

    # ---- what the base gives ------------------------------------------------------------------------------

    def initialize(
        self, input_shape: Any, rng: np.random.Generator, dtype: Any = np.float32
    ) -> None:
        """Build the layer, once; a container calls this. A second call with another shape is an error."""
        if self.built:
            if input_shape != self.input_shape:
                raise ValueError(
                    f"layer '{self.name}' was built for inputs of shape {self.input_shape}, "
                    f"it cannot take {input_shape} as well"
                )
            return
        self.input_shape = input_shape
        self.dtype = np.dtype(dtype)
        self.build(input_shape, rng)
        self.output_shape = self.compute_output_shape(input_shape)
        self.built = True

    def add_parameter(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: str | Initializer,
        rng: np.random.Generator,
        *,
        decay: bool = True,
        regularizer: Regularizer | None = None,
    ) -> Parameter:
        """A new trainable array of this layer; biases and scales pass ``decay=False``."""
        value = get_initializer(initializer)(shape, rng).astype(self.dtype)
        parameter = Parameter(name, value, decay=decay, regularizer=regularizer)
        parameter.trainable = self._trainable
        self.own_parameters.append(parameter)
        return parameter

    def layers_in_order(self) -> Iterator[Layer]:
        """This layer and all below it, in forward order."""
        yield self
        for layer in self.sublayers:
            yield from layer.layers_in_order()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) in forward order, e.g. ``("residual.conv2d.weight", …)``; a shared one once."""
        seen: set[int] = set()
        for path, layer in self._named_layers(prefix):
            for p in layer.own_parameters:
                if id(p) not in seen:
                    seen.add(id(p))
                    # A model renames its parameters to their paths: the last part is the layer's own name.
                    yield path + p.name.rpartition(".")[2], p

    def named_states(self, prefix: str = "") -> Iterator[tuple[str, NDArray]]:
        seen: set[int] = set()
        for path, layer in self._named_layers(prefix):
            for name, array in layer.state.items():
                if id(array) not in seen:
                    seen.add(id(array))
                    yield f"{path}{name}", array

    def _named_layers(self, prefix: str) -> Iterator[tuple[str, Layer]]:
        yield prefix, self
        for layer in self.sublayers:
            yield from layer._named_layers(f"{prefix}{layer.name}.")

    def parameters(self) -> list[Parameter]:
        return [p for _, p in self.named_parameters()]

    @property
    def trainable(self) -> bool:
        return self._trainable

    @trainable.setter
    def trainable(self, flag: bool) -> None:
        """Freezing a layer freezes all below it: their parameters keep their values."""
        self._trainable = bool(flag)
        for p in self.own_parameters:
            p.trainable = self._trainable
        for layer in self.sublayers:
            layer.trainable = flag

    def set_needs_input_grad(self, flag: bool) -> None:
        """Containers pass this on to their first layers."""
        self.needs_input_grad = flag

    def share(self) -> Layer:
        """A second call of this layer: the same parameters and state, but a place of its own for what
        forward keeps.

        A layer that is called twice in one forward pass would overwrite its cached inputs; each further
        call goes through such a twin, and both add into the same gradients. Random layers go on drawing
        from one stream, so that twins do not repeat each other's numbers.
        """
        shared = {
            id(thing): thing
            for layer in self.layers_in_order()
            for thing in (*layer.own_parameters, *layer.state.values(), layer.rng)
        }
        return copy.deepcopy(self, shared)

    def check_input(self, x: NDArray) -> None:
        """Refuse an input of another shape or number type than this layer was built for."""
        shape = x.shape
        if shape[1:] != self.input_shape or not shape:
            self.check_shape(x)
        if x.dtype != self.dtype:
            raise TypeError(
                f"layer '{self.name}' computes in {self.dtype}, got an input of {x.dtype}"
                f" (convert it: x.astype({self.dtype.name!r}))"
            )

    def check_shape(self, x: NDArray) -> None:
        shape = x.shape
        if not shape or not fits(shape[1:], self.input_shape):
            raise ValueError(
                f"layer '{self.name}' expected an input of shape {shape_text(self.input_shape)}, "
                f"got {x.shape}"
            )

    def __call__(self, inputs: Any) -> Any:
        """On symbolic inputs (``tl.Input``): a node of a graph, for ``tl.Model``. On an array: forward."""
        from tinydl.layers.symbolic import SymbolicTensor, add_node

        several = isinstance(inputs, list | tuple)
        if all(isinstance(i, SymbolicTensor) for i in (inputs if several else [inputs])):
            return add_node(self, inputs)
        if not self.built:
            x = inputs[0] if several else inputs
            shape = [i.shape[1:] for i in inputs] if several else x.shape[1:]
            self.initialize(
                shape, np.random.default_rng(), x.dtype if x.dtype.kind == "f" else np.float32
            )
        return self.forward(inputs)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.config().items())
        return f"{type(self).__name__}({arguments})"


def fits(shape: tuple[int, ...], expected: Shape) -> bool:
    """Whether a sample of ``shape`` will do where ``expected`` is; None there stands for any length."""
    return len(shape) == len(expected) and all(
        want is None or want == got for got, want in zip(shape, expected, strict=True)
    )


def shape_text(shape: Shape, batch: int | str = "N") -> str:
    """(28, 28, 1) as (N, 28, 28, 1), for messages; None, a length that may vary, as "any"."""
    return "(" + ", ".join("any" if n is None else str(n) for n in (batch, *shape)) + ")"


def default_name(cls: type) -> str:
    """``Conv2D`` -> ``conv2d``, ``GlobalAvgPool2D`` -> ``global_avg_pool2d``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


def make_names_unique(layers: list[Layer]) -> None:
    """Give siblings of one name a number: dense, dense_1, dense_2. Names are parts of parameters' paths."""
    taken: set[str] = set()
    for layer in layers:
        name, number = layer.name, 0
        while layer.name in taken:
            number += 1
            layer.name = f"{name}_{number}"
        taken.add(layer.name)
