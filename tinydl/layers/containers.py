"""Layers made of layers: a chain, a residual block, parallel branches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.devices import namespace
from tinydl.layers.activations import LEAKY_SLOPE, ActivationFunction
from tinydl.layers.base import Layer, Shape, make_names_unique
from tinydl.layers.conv2d import Conv2D
from tinydl.layers.merging import Concatenate, all_masks


class Chain(Layer):
    """Layers one after another: forward runs them in order, backward in reverse.

        y = f_n(… f_2(f_1(x)))        dL/dx = J_1ᵀ J_2ᵀ … J_nᵀ dL/dy        (the chain rule)

    where multiplying by J_kᵀ is what layer k's ``backward`` does.
    """

    uses_mask = True

    def __init__(self, layers: list[Layer], name: str | None = None) -> None:
        super().__init__(name)
        self.sublayers = checked_layers(self, layers)
        make_names_unique(self.sublayers)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        build_branch(self, self.sublayers, input_shape, rng)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return shape_after(self.sublayers, input_shape)

    def forward(self, x: NDArray, training: bool = False, mask: NDArray | None = None) -> NDArray:
        x, self.output_mask = run(self.sublayers, x, training, mask)
        return x

    def backward(self, grad_output: NDArray) -> NDArray | None:
        return run_back(self, self.sublayers, grad_output)

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> NDArray | None:
        return self.output_mask  # found during forward

    def set_needs_input_grad(self, flag: bool) -> None:
        self.needs_input_grad = flag
        mark_needs_input_grad(self.sublayers, flag)

    def config(self) -> dict[str, Any]:
        return {"layers": configs_of(self.sublayers)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Chain:
        return cls(**{**config, "layers": layers_of(config["layers"])})

    def __repr__(self) -> str:
        return f"{type(self).__name__}([{', '.join(map(repr, self.sublayers))}])"


class Residual(Layer):
    """y = a(F(x) + S(x)): the layers F only learn what is to be added to their input.

    F is a chain of ``layers``; S, the shortcut, is x itself or a chain of its own where shapes change; a is the
    ``activation``, by default none.

        s = F(x) + S(x)                                dL/ds = dL/dy ⊙ a'(s)
        dL/dx = J_Fᵀ dL/ds + J_Sᵀ dL/ds                with J_S = I for the plain shortcut

    So every block hands dL/ds back whole, beside what comes through F: gradients reach the first layers of deep
    networks.

    Source: He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv 1512.03385, eqs. 1 and 2.
    """

    uses_mask = True

    def __init__(
        self,
        layers: list[Layer],
        shortcut: list[Layer] | None = None,
        activation: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.layers = list(layers)
        self.shortcut = list(shortcut or [])
        self.activation = ActivationFunction(activation)
        # Backward goes through them in reverse: first the shortcut, then F.
        self.sublayers = checked_layers(self, [*self.layers, *self.shortcut])
        make_names_unique(self.sublayers)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        build_branch(self, self.layers, input_shape, rng)
        build_branch(self, self.shortcut, input_shape, rng)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        body = shape_after(self.layers, input_shape)
        shortcut = shape_after(self.shortcut, input_shape)
        if body != shortcut:
            hint = "" if self.shortcut else "; give layers for the shortcut that make it fit"
            raise ValueError(
                f"layer '{self.name}' adds its layers' output, of shape {body}, to its shortcut's, "
                f"of shape {shortcut}: they must be alike{hint}"
            )
        return body

    def forward(self, x: NDArray, training: bool = False, mask: NDArray | None = None) -> NDArray:
        body, body_mask = run(self.layers, x, training, mask)
        shortcut, shortcut_mask = run(self.shortcut, x, training, mask)
        self.output_mask = all_masks([body_mask, shortcut_mask])
        if not self.activation.fused:
            return self.activation.forward(body + shortcut)
        y = kernels.activation(self.activation.name, body, alpha=LEAKY_SLOPE, plus=shortcut)
        return self.activation.forward(y)

    def backward(self, grad_output: NDArray) -> NDArray | None:
        ds = self.activation.backward(grad_output)
        through_shortcut = run_back(self, self.shortcut, ds)
        ours = through_shortcut if ds is not grad_output else None  # an array that may be changed
        dx = run_back(self, self.layers, ds, ours)
        if not self.needs_input_grad or dx is None or through_shortcut is None:
            return None
        return dx + through_shortcut if ours is None else dx

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> NDArray | None:
        return self.output_mask  # found during forward

    def set_needs_input_grad(self, flag: bool) -> None:
        self.needs_input_grad = flag
        mark_needs_input_grad(self.layers, flag)
        mark_needs_input_grad(self.shortcut, flag)

    def config(self) -> dict[str, Any]:
        return {
            "layers": configs_of(self.layers),
            "shortcut": configs_of(self.shortcut) if self.shortcut else None,
            "activation": self.activation.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Residual:
        parts = {k: layers_of(config[k]) for k in ("layers", "shortcut") if config.get(k)}
        return cls(**{**config, **parts})


class Concat(Layer):
    """y = [F_1(x), F_2(x), …, F_k(x)]: branches that all see x, joined along the last axis.

    Each branch is a layer or a list of layers; an empty list passes x itself on.

        dL/dx = Σ_i J_iᵀ dL/dy_i                       dL/dy_i: the part of dL/dy that branch i made

    Source: the Inception module of Szegedy et al. 2014, "Going Deeper with Convolutions", arXiv 1409.4842, section 4.
    """

    uses_mask = True

    def __init__(self, branches: list[Layer | list[Layer]], name: str | None = None) -> None:
        super().__init__(name)
        if not isinstance(branches, list | tuple) or len(branches) < 2:
            raise ValueError(f"Concat needs a list of two or more branches, got {branches!r}")
        self.branches = [[b] if isinstance(b, Layer) else list(b) for b in branches]
        self.sublayers = checked_layers(self, [layer for b in self.branches for layer in b])
        make_names_unique(self.sublayers)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> None:
        for branch in self.branches:
            build_branch(self, branch, input_shape, rng)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shapes = [shape_after(branch, input_shape) for branch in self.branches]
        return Concatenate(name=self.name).compute_output_shape(shapes)

    def forward(self, x: NDArray, training: bool = False, mask: NDArray | None = None) -> NDArray:
        results = [run(branch, x, training, mask) for branch in self.branches]
        self.output_mask = all_masks([branch_mask for _, branch_mask in results])
        outputs = [y for y, _ in results]
        self.cuts = np.cumsum([y.shape[-1] for y in outputs[:-1]]).tolist()
        return np.concatenate(outputs, axis=-1)

    def backward(self, grad_output: NDArray) -> NDArray | None:
        dx: NDArray | None = None
        parts = np.split(grad_output, self.cuts, axis=-1)
        for branch, part in reversed(list(zip(self.branches, parts, strict=True))):
            through = run_back(self, branch, namespace(part).ascontiguousarray(part))
            if through is not None:
                dx = through if dx is None else dx + through
        return dx if self.needs_input_grad else None

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> NDArray | None:
        return self.output_mask  # found during forward

    def set_needs_input_grad(self, flag: bool) -> None:
        self.needs_input_grad = flag
        for branch in self.branches:
            mark_needs_input_grad(branch, flag)

    def config(self) -> dict[str, Any]:
        return {"branches": [configs_of(branch) for branch in self.branches]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Concat:
        return cls(**{**config, "branches": [layers_of(branch) for branch in config["branches"]]})


# ---- what containers do with a list of layers ------------------------------------------------------------


def checked_layers(container: Layer, layers: list[Layer]) -> list[Layer]:
    """The layers as a list, after a look that they are some, and each there once."""
    if not isinstance(layers, list | tuple):
        raise TypeError(f"{type(container).__name__} takes a list of layers, got {layers!r}")
    places: dict[int, int] = {}
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"item {i} of {container.name} is not a layer: {layer!r}")
        if id(layer) in places:
            raise ValueError(
                f"items {places[id(layer)]} and {i} of {container.name} are one and the same layer "
                f"'{layer.name}': make two, or call it twice in a tl.Model to share its weights"
            )
        places[id(layer)] = i
    if not layers:
        raise ValueError(f"{type(container).__name__} needs at least one layer")
    return list(layers)


def build_branch(
    container: Layer, layers: list[Layer], shape: Shape, rng: np.random.Generator
) -> None:
    for layer in layers:
        layer.initialize(shape, rng, container.dtype)
        shape = layer.output_shape


def shape_after(layers: list[Layer], shape: Shape) -> Shape:
    for layer in layers:
        shape = layer.compute_output_shape(shape)
    return shape


def run(
    layers: list[Layer], x: NDArray, training: bool, mask: NDArray | None
) -> tuple[NDArray, NDArray | None]:
    """Forward through all layers: (y, mask of y)."""
    for layer in layers:
        y = layer.forward(x, training, mask) if layer.uses_mask else layer.forward(x, training)  # type: ignore[call-arg]
        mask = layer.compute_mask(x, mask)
        x = y
    return x, mask


def run_back(
    container: Layer, layers: list[Layer], grad: NDArray | None, plus: NDArray | None = None
) -> NDArray | None:
    """Backward through all layers, telling the container's listener of each that is done. Then ``plus`` is added, by
    the first layer itself if it can: into that array, without a pass of its own."""
    for layer in reversed(layers):
        if grad is None:  # nobody reads this gradient: no parameters from here down
            break
        if plus is not None and layer is layers[0] and isinstance(layer, Conv2D):
            grad, plus = layer.backward(grad, plus), None
        else:
            grad = layer.backward(grad)
        if container.after_backward is not None:
            container.after_backward(layer)
    return grad if grad is None or plus is None else grad + plus


def mark_needs_input_grad(layers: list[Layer], flag: bool) -> None:
    """Without a reader for dL/dx, every layer up to the first that has parameters can skip it."""
    for layer in layers:
        layer.set_needs_input_grad(flag)
        if layer.parameters():
            break


def configs_of(layers: list[Layer]) -> list[dict[str, Any]]:
    from tinydl.layers import layer_config

    return [layer_config(layer) for layer in layers]


def layers_of(configs: list[dict[str, Any]]) -> list[Layer]:
    from tinydl.layers import layer_from_config

    return [layer_from_config(config) for config in configs]
