"""Symbolic tensors: what layers are called on to describe a graph, before there are any arrays.

    x = tl.Input((28, 28, 1))
    y = tl.layers.Dense(10)(tl.layers.Flatten()(x))

``y`` holds no numbers. It knows its shape and the node that will compute it: a layer and the symbolic tensors it was
called on. ``tl.Model(inputs=x, outputs=y)`` walks back from ``y`` along the nodes and makes a model of what it finds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from tinydl.layers.base import Layer, Shape

_numbers = itertools.count()


@dataclass(eq=False)
class Node:
    """One call of a layer; ``layer`` is None for an input of the graph.

    ``number`` counts calls in the order in which they were made. A call needs its inputs, so they have smaller
    numbers: sorted by number, nodes are in an order in which they can be computed, and no cycle can exist.
    """

    layer: Layer | None
    inputs: list[SymbolicTensor]
    takes_list: bool = False
    gives_list: bool = False
    name: str = ""
    outputs: list[SymbolicTensor] = field(default_factory=list)
    number: int = field(default_factory=lambda: next(_numbers))


@dataclass(eq=False, repr=False)
class SymbolicTensor:
    """The ``index``-th output of a node. ``shape`` is that of one sample, without the batch axis."""

    shape: Shape
    node: Node
    index: int = 0

    def __repr__(self) -> str:
        origin = self.node.layer.name if self.node.layer else self.node.name
        return f"SymbolicTensor(shape={self.shape}, from '{origin}')"

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self!r} stands for an array that does not exist yet: only layers take it"
        )


def Input(shape: Shape | list[int | None], name: str | None = None) -> SymbolicTensor:
    """An input of a graph: the shape of one sample, without the batch axis; None for a length that may vary."""
    if isinstance(shape, int) or not all(
        n is None or (isinstance(n, int) and n > 0) for n in shape
    ):
        raise ValueError(
            "Input: shape is a tuple of positive integers (or None), without the batch axis, "
            f"got {shape!r}"
        )
    node = Node(None, [])
    node.name = name or f"input_{node.number}"
    node.outputs = [SymbolicTensor(tuple(shape), node)]
    return node.outputs[0]


def add_node(layer: Layer, inputs: Any) -> Any:
    """The symbolic output (or list of outputs) of ``layer`` called on symbolic inputs."""
    takes_list = isinstance(inputs, list | tuple)
    tensors: list[SymbolicTensor] = list(inputs) if takes_list else [inputs]
    if not tensors:
        raise ValueError(f"layer '{layer.name}' was called on an empty list of inputs")
    shapes = [tensor.shape for tensor in tensors]
    output_shape: Any = layer.compute_output_shape(shapes if takes_list else shapes[0])  # type: ignore[arg-type]
    gives_list = isinstance(output_shape, list)
    node = Node(layer, tensors, takes_list, gives_list)
    output_shapes = output_shape if gives_list else [output_shape]
    node.outputs = [SymbolicTensor(shape, node, i) for i, shape in enumerate(output_shapes)]
    return node.outputs if gives_list else node.outputs[0]
