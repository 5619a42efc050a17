"""Models that are a graph of layers: several inputs, several outputs, tensors used twice, layers called twice.

    image, size = tl.Input((28, 28, 1)), tl.Input((1,))
    features = tl.layers.Flatten()(image)
    joined = tl.layers.Concatenate()([features, size])
    model = tl.Model(inputs=[image, size], outputs=tl.layers.Dense(10)(joined))

The graph is made once, when the model is; nothing is recorded while it runs. Forward goes through the calls of layers
in the order in which they were made (each comes after those that it needs), backward in reverse. Where a tensor has
several readers, each hands back a gradient, and they add up (the chain rule of a function of several variables):

    t read by f_1 … f_k:        dL/dt = Σ_i J_iᵀ dL/df_i
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinydl.layers import register
from tinydl.layers.base import Layer, make_names_unique
from tinydl.layers.containers import configs_of, layers_of
from tinydl.layers.merging import check_shapes
from tinydl.layers.symbolic import Input, Node, SymbolicTensor
from tinydl.randomness import checked_seed
from tinydl.training.model import BaseModel, checked_dtype


@dataclass
class Call:
    """One call of a layer. ``inputs`` and ``outputs`` are numbers of tensors in the model's graph.

    Attributes:
        layer: what runs: the layer itself, or from its second call on a twin that shares its weights.
        original: the layer itself.
        y: what a layer of several outputs gave in the last forward pass.
    """

    layer: Layer
    original: Layer
    inputs: list[int]
    outputs: list[int]
    takes_list: bool
    gives_list: bool
    y: list[NDArray] | None = None


@register
class Model(BaseModel):
    """The graph that leads from ``inputs`` to ``outputs``, with everything a model has.

    A single input or output goes in and comes out as an array, several as lists in the order given here. A layer that
    is called several times has one set of weights, whose gradients add up. A model can itself be called on symbolic
    tensors: it is then a layer of another.

    Args:
        inputs: what ``tl.Input`` gave, or a list of such.
        outputs: what layers called on them gave, or a list of such.
        seed: makes initial weights, dropout and the order of samples repeatable; ``None`` draws fresh numbers.
        dtype: of the parameters, float32 or float64.

    Raises:
        ValueError: outputs that need an input which is not among ``inputs``; an input that no output needs; shapes
            that do not fit.
    """

    uses_mask = True

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        seed: int | None = 0,
        dtype: DTypeLike = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.seed = checked_seed(seed)
        self.parameter_dtype = checked_dtype(dtype)
        input_tensors = as_tensors(inputs, "inputs")
        output_tensors = as_tensors(outputs, "outputs")
        nodes = nodes_between(input_tensors, output_tensors)

        # From here on tensors are numbers: the inputs, then what each call gives.
        tensors = [*input_tensors, *(tensor for node in nodes for tensor in node.outputs)]
        number = {tensor: i for i, tensor in enumerate(tensors)}
        self.calls = [as_call(node, number) for node in nodes]
        self.outputs = [number[tensor] for tensor in output_tensors]
        self.input_names = [tensor.node.name for tensor in input_tensors]
        self.input_shapes = [tensor.shape for tensor in input_tensors]
        self.sublayers = list({id(call.original): call.original for call in self.calls}.values())
        make_names_unique(self.sublayers)
        self.build_model(one_or_all(self.input_shapes))

    # ---- build --------------------------------------------------------------------------------------------

    def build(self, input_shape: Any, rng: np.random.Generator) -> None:
        shapes: dict[int, Any] = dict(enumerate(self.input_shapes))
        called: set[int] = set()
        for call in self.calls:
            call.original.initialize(pick(shapes, call.inputs, call.takes_list), rng, self.dtype)
            put(shapes, call.outputs, call.original.output_shape, call.gives_list)
            if id(call.original) in called:
                call.layer = call.original.share()
            called.add(id(call.original))

    def compute_output_shape(self, input_shape: Any) -> Any:
        given = input_shape if isinstance(input_shape, list) else [input_shape]
        if given != self.input_shapes:
            raise ValueError(
                f"model '{self.name}' takes inputs of shape {self.input_shapes}, got {given}"
            )
        shapes: dict[int, Any] = dict(enumerate(given))
        for call in self.calls:
            shape = call.layer.compute_output_shape(pick(shapes, call.inputs, call.takes_list))
            put(shapes, call.outputs, shape, call.gives_list)
        return pick(shapes, self.outputs, len(self.outputs) > 1)

    def layers_in_order(self) -> Iterator[Layer]:
        """Every call's layer, the twins of a shared one too."""
        yield self
        for call in self.calls:
            yield from call.layer.layers_in_order()

    def _named_layers(self, prefix: str) -> Iterator[tuple[str, Layer]]:
        yield prefix, self
        for call in self.calls:
            yield from call.layer._named_layers(f"{prefix}{call.original.name}.")

    def output_layers(self) -> list[Layer]:
        maker = {i: call.layer for call in self.calls for i in call.outputs}
        return [maker.get(i, self) for i in self.outputs]

    # ---- forward and backward -----------------------------------------------------------------------------

    def forward(self, x: Any, training: bool = False, mask: Any = None) -> Any:
        values = dict(enumerate(self._read_inputs(x)))
        masks = dict(enumerate(mask if isinstance(mask, list) else [mask] * len(values)))
        for call in self.calls:
            self._run(call, values, masks, training)
        self.output_mask = joined(pick(masks, self.outputs, len(self.outputs) > 1))
        return pick(values, self.outputs, len(self.outputs) > 1)

    def _run(self, call: Call, values: dict, masks: dict, training: bool) -> None:
        layer = call.layer
        if layer is not call.original:
            follow_trainable(layer, call.original)
        x = pick(values, call.inputs, call.takes_list)
        mask = joined(pick(masks, call.inputs, call.takes_list))
        y: Any = layer.forward(x, training, mask) if layer.uses_mask else layer.forward(x, training)  # type: ignore[call-arg]
        put(values, call.outputs, y, call.gives_list)
        mask = layer.compute_mask(x, mask)
        if call.gives_list:
            call.y = y
            mask = [None] * len(y) if mask is None else mask
        put(masks, call.outputs, mask, call.gives_list)

    def _read_inputs(self, x: Any) -> list[NDArray]:
        if len(self.input_shapes) > 1:
            check_shapes(self, x)
            return list(x)
        self.check_shape(x)
        return [x]

    def backward(self, grad_output: Any) -> Any:
        grads: dict[
            int, NDArray
        ] = {}  # dL/dt of tensors t, as far as their readers have handed it back
        add_up(grads, self.outputs, grad_output if len(self.outputs) > 1 else [grad_output])
        for call in reversed(self.calls):
            self._run_back(call, grads)
            if self.after_backward is not None:
                self.after_backward(call.layer)
        if not self.needs_input_grad:
            return None
        return one_or_all([grads.get(i) for i in range(len(self.input_shapes))])

    def _run_back(self, call: Call, grads: dict[int, NDArray]) -> None:
        """From the gradients of a call's outputs, which are complete, to those of its inputs."""
        grad: Any = [grads.pop(i, None) for i in call.outputs]
        if all(g is None for g in grad):
            return  # nobody reads this gradient: no parameters from here down
        if call.gives_list:
            assert call.y is not None
            pairs = zip(grad, call.y, strict=True)
            grad = [np.zeros_like(y) if g is None else g for g, y in pairs]
        else:
            grad = grad[0]
        handed_back: Any = call.layer.backward(grad)
        if handed_back is not None:
            add_up(grads, call.inputs, handed_back if call.takes_list else [handed_back])

    def compute_mask(self, x: Any, mask: Any) -> Any:
        return self.output_mask  # found during forward

    def set_needs_input_grad(self, flag: bool) -> None:
        """A tensor's gradient is needed if there are parameters before it, or the inputs' gradients are needed."""
        self.needs_input_grad = flag
        needed = dict.fromkeys(range(len(self.input_shapes)), flag)
        for call in self.calls:
            before = any(needed[i] for i in call.inputs)
            call.layer.set_needs_input_grad(before)
            needed.update(dict.fromkeys(call.outputs, before or bool(call.layer.parameters())))

    # ---- config -------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        position = {id(layer): k for k, layer in enumerate(self.sublayers)}
        return {
            "inputs": [
                {"shape": list(shape), "name": name}
                for shape, name in zip(self.input_shapes, self.input_names, strict=True)
            ],
            "layers": configs_of(self.sublayers),
            "calls": [
                {
                    "layer": position[id(call.original)],
                    "inputs": list(call.inputs) if call.takes_list else call.inputs[0],
                }
                for call in self.calls
            ],
            "outputs": list(self.outputs),
            "seed": self.seed,
            "dtype": self.parameter_dtype.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Model:
        """Calls the layers again, in the same order."""
        inputs = [Input(tuple(one["shape"]), name=one["name"]) for one in config["inputs"]]
        layers = layers_of(config["layers"])
        tensors = list(inputs)
        for call in config["calls"]:
            numbers = call["inputs"]
            several = isinstance(numbers, list)
            y = layers[call["layer"]](
                [tensors[i] for i in numbers] if several else tensors[numbers]
            )
            tensors += y if isinstance(y, list) else [y]
        outputs = [tensors[i] for i in config["outputs"]]
        return cls(inputs, outputs, seed=config["seed"], dtype=config["dtype"])

    def __repr__(self) -> str:
        return f"Model('{self.name}', {len(self.sublayers)} layers, {self.input_shapes} -> {self.output_shape})"


# ---- from nodes to calls ---------------------------------------------------------------------------------


def as_tensors(given: Any, what: str) -> list[SymbolicTensor]:
    """A symbolic tensor, or a list of such, as a list."""
    tensors = list(given) if isinstance(given, list | tuple) else [given]
    for tensor in tensors:
        if not isinstance(tensor, SymbolicTensor):
            raise TypeError(
                f"Model: {what} must be symbolic tensors (from tl.Input, and layers called on it), "
                f"got {type(tensor).__name__}"
            )
    if not tensors:
        raise ValueError(f"Model: {what} is empty")
    return tensors


def nodes_between(inputs: list[SymbolicTensor], outputs: list[SymbolicTensor]) -> list[Node]:
    """The calls of layers that the outputs need, each after those that it needs itself."""
    for i, tensor in enumerate(inputs):
        if tensor.node.layer is not None:
            raise ValueError(f"Model: input {i} is {tensor!r}: inputs must come from tl.Input")
        if any(tensor is other for other in inputs[:i]):
            raise ValueError(f"Model: input '{tensor.node.name}' stands twice among the inputs")

    found: set[Node] = set()
    pending = [tensor.node for tensor in outputs]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += [tensor.node for tensor in node.inputs]

    given = {tensor.node for tensor in inputs}
    for node in sorted(found | given, key=lambda node: node.number):
        if node.layer is None and node not in given:
            raise ValueError(
                f"Model: the outputs need the input '{node.name}', which is not among the inputs"
            )
        if node not in found:
            raise ValueError(
                f"Model: no output depends on the input '{node.name}'; leave it out, or connect it"
            )
    calls = [node for node in found if node.layer is not None]
    if not calls:
        raise ValueError("Model: there is no layer between inputs and outputs")
    return sorted(calls, key=lambda node: node.number)


def as_call(node: Node, number: dict[SymbolicTensor, int]) -> Call:
    assert node.layer is not None
    inputs, outputs = [number[t] for t in node.inputs], [number[t] for t in node.outputs]
    return Call(node.layer, node.layer, inputs, outputs, node.takes_list, node.gives_list)


# ---- tables of what belongs to each tensor -----------------------------------------------------------------


def pick(table: dict[int, Any], numbers: list[int], several: bool) -> Any:
    """The entries of these tensors: a list, or the one alone."""
    return [table[i] for i in numbers] if several else table[numbers[0]]


def put(table: dict[int, Any], numbers: list[int], value: Any, several: bool) -> None:
    table.update(zip(numbers, value if several else [value], strict=True))


def add_up(
    grads: dict[int, NDArray], numbers: list[int], handed_back: list[NDArray | None]
) -> None:
    """Add a reader's gradients to what other readers gave. Not in place: layers may share what they return."""
    for i, grad in zip(numbers, handed_back, strict=True):
        if grad is not None:
            grads[i] = grads[i] + grad if i in grads else grad


def joined(masks: Any) -> Any:
    """A list of masks of which none masks anything is no mask."""
    return None if isinstance(masks, list) and all(m is None for m in masks) else masks


def one_or_all(items: list[Any]) -> Any:
    return items if len(items) > 1 else items[0]


def follow_trainable(twin: Layer, original: Layer) -> None:
    """Freezing a layer freezes its twins; they share parameters, but each has a flag of its own."""
    for ours, theirs in zip(twin.layers_in_order(), original.layers_in_order(), strict=True):
        ours._trainable = theirs._trainable
