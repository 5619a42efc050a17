"""Several trained models combined into one.

    ensemble = tl.Ensemble([a, b, c])                            # the mean of what they say
    ensemble.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    ensemble.evaluate(x_test, y_test)

Models that were trained from different initial weights, or on different data, make different mistakes; some of them
cancel when the models are combined. The members stay as they are; what an ensemble itself can learn, from data that its
members were not trained on, are the weights of a weighted mean or a layer on top of their outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.layers import Dense, layer_config, layer_from_config, register
from tinydl.layers.base import Layer, Shape, make_names_unique
from tinydl.layers.containers import configs_of, layers_of
from tinydl.losses import BinaryCrossentropy
from tinydl.randomness import checked_seed
from tinydl.training.compiling import final_activation
from tinydl.training.history import History
from tinydl.training.model import BaseModel

COMBINATIONS = ("mean", "weighted", "vote", "stacking")
KINDS = ("logits", "binary_logits", "values")


@register
class Ensemble(BaseModel):
    """M models as one: ``predict``, ``evaluate``, ``save`` and ``tl.load`` as for any model.

    **What is combined** depends on what the members give (``outputs``). Of "logits" z_m (N, K), for losses with a
    softmax, and "binary_logits", for losses with a sigmoid, it is the probabilities p_m; "values" (of a regression;
    probabilities, if the members end in a softmax) are combined as they are. **What comes out** is of the same kind as
    what the members give: of logits, log p̄, which are logits again (softmax(log p̄) = p̄), so that the same losses and
    metrics apply; of binary logits, log(p̄ / (1 - p̄)).

        mean      p̄ = 1/M Σ_m p_m
        weighted  p̄ = Σ_m w_m p_m, w_m ≥ 0, Σ w_m = 1: ``weights``, or learned by ``fit`` on data new to the members
        vote      p̄_k = (v_k + q_k / 2) / (M + 1/2): v_k members have class k as their likeliest; their mean
                  probability q has half a vote, which settles ties and nothing else
        stacking  ``head`` (N, M·K) → output, trained by ``fit`` on the members' log p_m (binary logits and values:
                  z_m), side by side. The default, Dense(K), begins as their mean: as the geometric mean of the p_m

    The mean of probabilities is at least as likely as the average member: -log of a mean ≤ mean of the -log (Jensen).

    Backward, for the learned weights w = softmax(θ), the head, and dL/dx. With g_k = dL/dlog p̄_k and the share
    r_mk = w_m p_mk / p̄_k of member m in p̄_k:

        dL/dlog p_mk = g_k r_mk                        dL/dz_m = g r_m - p_m Σ_k g_k r_mk
        dL/dθ_m = d_m - w_m Σ_j d_j                    with d_m = Σ_nk g_k r_mk (summed over the batch)

    and for a weighted mean of values dL/dz_m = w_m g, dL/dθ_m = w_m (d_m - Σ_j w_j d_j), d_m = Σ_nk g_k z_mk.

    Members run in inference mode and are not trained: their weights count as states of the ensemble, not as parameters.

    Args:
        models: trained models that take the same inputs and give outputs of one shape and kind.
        combine: "mean", "weighted", "vote" or "stacking".
        weights: of "weighted", one a model, in any scale; None: learned by ``fit``, from equal ones on.
        head: of "stacking", a layer or model.
        outputs: "logits", "binary_logits" or "values"; None: told by the losses that the members were compiled with.

    Sources: Wolpert 1992, "Stacked Generalization"; Breiman 1996, "Stacked Regressions"; Lakshminarayanan, Pritzel,
    Blundell 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", section 2.4.
    """

    uses_mask = True
    runs_on_cuda = False  # its members can be trained and asked there one by one

    def __init__(
        self,
        models: list[BaseModel],
        combine: str = "mean",
        weights: list[float] | None = None,
        head: Layer | None = None,
        outputs: str | None = None,
        seed: int | None = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.models = checked_models(models)
        make_names_unique(list(self.models))
        check_arguments(len(models), combine, weights, head, outputs)
        self.combine = combine
        self.given_weights = None if weights is None else normalized(weights)
        self.outputs = outputs or common_kind(self.models)
        if combine == "vote" and self.outputs == "values":
            raise ValueError(
                "Ensemble: models vote for classes; combine values by 'mean' or 'weighted'"
            )
        self.seed = checked_seed(seed)
        self.parameter_dtype = self.models[0].parameter_dtype
        self.head = head
        self.own_head = combine == "stacking" and head is None
        if all(model.built for model in self.models):
            self.build_model(self.models[0].input_shape)

    # ---- build --------------------------------------------------------------------------------------------

    def build(self, input_shape: Any, rng: np.random.Generator) -> None:
        for model in self.models:
            if not model.built:  # read from a file: its weights are filled in afterwards
                model.build_model(input_shape)
        check_shapes_alike(self.models)
        if self.combine == "weighted" and self.given_weights is None:
            shape = (len(self.models),)
            self.theta = self.add_parameter("theta", shape, "zeros", rng, decay=False)
        if self.combine == "stacking":
            self._build_head(rng)

    def _build_head(self, rng: np.random.Generator) -> None:
        *leading, classes = self.models[0].output_shape
        members = len(self.models)
        if self.own_head:
            self.head = Dense(classes, name="head")
        assert self.head is not None
        self.sublayers = [self.head]
        self.head.initialize((*leading, members * classes), rng, self.dtype)
        if self.own_head:  # begins as the mean of the members' outputs
            self.head.own_parameters[0].value[...] = np.tile(
                np.eye(classes) / members, (members, 1)
            )

    def build_model(self, input_shape: Any) -> None:
        super().build_model(input_shape)
        # What a step of training may change: not the members, which run in inference mode.
        self.states = [] if self.head is None else [array for _, array in self.head.named_states()]

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return self.models[0].output_shape if self.head is None else self.head.output_shape

    @property
    def state(self) -> dict[str, NDArray]:
        """The members' arrays by their paths: they belong to the ensemble, which does not train them."""
        arrays: dict[str, NDArray] = {}
        for model in getattr(self, "models", ()):
            prefix = f"{model.name}."
            arrays.update((name, p.value) for name, p in model.named_parameters(prefix))
            arrays.update(model.named_states(prefix))
        return arrays

    @state.setter
    def state(self, arrays: dict[str, NDArray]) -> None:
        """The base begins with no states of its own."""

    def output_layers(self) -> list[Layer]:
        if self.head is not None:
            return [self.head]
        return self.models[0].output_layers() if self.outputs == "values" else [self]

    # ---- use ----------------------------------------------------------------------------------------------

    def fit(self, *arguments: Any, **options: Any) -> History:
        """Trains the weights of "weighted" or the head of "stacking"; see ``Sequential.fit`` for the arguments.

        Take data that the members were not trained on: on their training data the most overfitted looks best.
        """
        learns_weights = self.combine == "weighted" and self.given_weights is None
        if self.combine != "stacking" and not learns_weights:
            given = " with given weights" if self.given_weights is not None else ""
            raise ValueError(
                f"an ensemble that combines by '{self.combine}'{given} has nothing to train: evaluate and predict "
                "work as it is; fit trains combine='stacking', and 'weighted' without weights"
            )
        return super().fit(*arguments, **options)

    @property
    def weights(self) -> NDArray:
        """w (M,): the members' shares, which sum to 1."""
        if self.given_weights is not None:
            return self.given_weights.astype(self.parameter_dtype)
        if self.combine == "weighted":
            self._require_built()
            return kernels.softmax(self.theta.value[None])[0]
        return np.full(len(self.models), 1 / len(self.models), self.parameter_dtype)

    # ---- forward ------------------------------------------------------------------------------------------

    def forward(self, x: Any, training: bool = False, mask: Any = None) -> NDArray:
        outputs = [model.forward(x, False, mask) for model in self.models]  # type: ignore[call-arg]
        z = np.stack(outputs)  # (M, N, …, K)
        self.output_mask = self.models[0].output_mask
        if self.combine == "stacking":
            return self._forward_stacking(z, training)
        self.w = self.weights.reshape(-1, *[1] * (z.ndim - 1))
        if self.outputs == "values":
            self.z = z
            return (self.w * z).sum(axis=0)
        if self.outputs == "binary_logits":  # z against 0: two classes, along an axis of their own
            z = np.stack([z, np.zeros_like(z)], axis=-1)
            self.w = self.w[..., None]
        self.log_p = kernels.log_softmax(z)
        with np.errstate(divide="ignore"):  # a weight may be 0
            self.log_mean = np.logaddexp.reduce(np.log(self.w) + self.log_p, axis=0)
        self.y = self._count_votes() if self.combine == "vote" else self.log_mean
        if self.outputs == "binary_logits":
            return self.y[..., 0] - self.y[..., 1]
        return self.y

    def _count_votes(self) -> NDArray:
        """log p̄ with p̄ = (v + q / 2) / (M + 1/2), q the mean probabilities."""
        classes = np.arange(self.log_p.shape[-1])
        votes = (self.log_p.argmax(axis=-1)[..., None] == classes).sum(
            axis=0, dtype=self.log_p.dtype
        )
        with np.errstate(divide="ignore"):  # a class may have no vote
            counted = np.logaddexp(np.log(votes), self.log_mean - np.log(2.0))
        total = np.log(len(self.models) + 0.5)
        return (counted - total).astype(self.log_p.dtype, copy=False)

    def _forward_stacking(self, z: NDArray, training: bool) -> NDArray:
        """The head applied to the members' outputs side by side."""
        assert self.head is not None
        if self.outputs == "logits":
            z = self.log_p = kernels.log_softmax(z)
        return self.head.forward(np.concatenate(list(z), axis=-1), training)

    def compute_mask(self, x: Any, mask: Any) -> Any:
        return self.output_mask  # found during forward

    # ---- backward -----------------------------------------------------------------------------------------

    def backward(self, grad_output: NDArray) -> Any:
        if self.combine == "stacking":
            dz = self._backward_stacking(grad_output)
        elif self.outputs == "values":
            dz = self.w * grad_output
            self._add_weight_gradient(self.weights * sums(grad_output * self.z))
        else:
            dz = self._backward_mean(grad_output)
        if not self.needs_input_grad or dz is None:
            return None
        dx = [model.backward(part) for model, part in zip(self.models, dz, strict=True)]
        if isinstance(self.input_shape, list):
            return [total(parts) for parts in zip(*dx, strict=True)]
        return total(dx)

    def _backward_mean(self, g: NDArray) -> NDArray:
        """dL/dz of all members, from g = dL/dy."""
        if self.outputs == "binary_logits":
            g = np.stack([g, -g], axis=-1)
        if self.combine == "vote":  # the votes are constant; q / 2 is what moves in v + q / 2
            g = g * np.exp(self.log_mean - np.log(2 * len(self.models) + 1.0) - self.y)
        with np.errstate(divide="ignore"):
            r = np.exp(np.log(self.w) + self.log_p - self.log_mean)
        dlog_p = (g * r).astype(self.log_p.dtype, copy=False)
        self._add_weight_gradient(sums(dlog_p))
        dz = dlog_p - np.exp(self.log_p) * dlog_p.sum(axis=-1, keepdims=True)
        return np.ascontiguousarray(dz[..., 0]) if self.outputs == "binary_logits" else dz

    def _backward_stacking(self, g: NDArray) -> NDArray | None:
        assert self.head is not None
        d = self.head.backward(g)
        if self.after_backward is not None:
            self.after_backward(self.head)
        if d is None:
            return None
        d = np.stack(np.split(d, len(self.models), axis=-1))
        if self.outputs == "logits":
            d = d - np.exp(self.log_p) * d.sum(axis=-1, keepdims=True)
        return d

    def _add_weight_gradient(self, d: NDArray) -> None:
        """dL/dθ from d_m = dL/dlog w_m."""
        if self.combine == "weighted" and self.given_weights is None:
            self.theta.grad += d - self.weights * d.sum()

    def set_needs_input_grad(self, flag: bool) -> None:
        self.needs_input_grad = flag
        if self.head is not None:
            self.head.set_needs_input_grad(flag)

    # ---- config -------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        return {
            "models": configs_of(list(self.models)),
            "combine": self.combine,
            "weights": None if self.given_weights is None else self.given_weights.tolist(),
            "head": None if self.head is None or self.own_head else layer_config(self.head),
            "outputs": self.outputs,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Ensemble:
        head = None if config["head"] is None else layer_from_config(config["head"])
        return cls(**{**config, "models": layers_of(config["models"]), "head": head})


def sums(x: NDArray) -> NDArray:
    """(M, …) -> (M,)."""
    return x.reshape(len(x), -1).sum(axis=1)


def total(gradients: Any) -> Any:
    """Σ over the members; None where none gives a gradient, as for indices."""
    given = [g for g in gradients if g is not None]
    return sum(given[1:], start=given[0]) if given else None


# ---- checks ----------------------------------------------------------------------------------------------


def checked_models(models: Any) -> list[BaseModel]:
    if not isinstance(models, list | tuple) or len(models) < 2:
        raise ValueError(f"Ensemble needs a list of two or more models, got {models!r}")
    for i, model in enumerate(models):
        if not isinstance(model, BaseModel):
            raise TypeError(f"Ensemble: item {i} is not a model: {model!r}")
        if any(model is other for other in models[:i]):
            raise ValueError(
                f"Ensemble: model '{model.name}' stands there twice; give it a weight of 2"
            )
        if model.parameter_dtype != models[0].parameter_dtype:
            raise TypeError(
                f"Ensemble: '{model.name}' computes in {model.parameter_dtype}, "
                f"'{models[0].name}' in {models[0].parameter_dtype}: members need one dtype"
            )
    return list(models)


def check_arguments(
    members: int, combine: str, weights: Any, head: Layer | None, outputs: str | None
) -> None:
    if combine not in COMBINATIONS:
        raise ValueError(
            f"Ensemble: combine must be one of {', '.join(COMBINATIONS)}, got {combine!r}"
        )
    if outputs is not None and outputs not in KINDS:
        raise ValueError(f"Ensemble: outputs must be one of {', '.join(KINDS)}, got {outputs!r}")
    if weights is not None and combine != "weighted":
        raise ValueError(f"Ensemble: weights go with combine='weighted', not {combine!r}")
    if head is not None and combine != "stacking":
        raise ValueError(f"Ensemble: a head goes with combine='stacking', not {combine!r}")
    if weights is not None and len(weights) != members:
        raise ValueError(f"Ensemble: {members} models need {members} weights, got {len(weights)}")


def normalized(weights: list[float]) -> NDArray:
    w = np.array(weights, np.float64)
    if not np.isfinite(w).all() or (w < 0).any() or w.sum() == 0:
        raise ValueError(f"Ensemble: weights must be numbers >= 0, not all 0, got {weights}")
    return w / w.sum()


def check_shapes_alike(models: list[BaseModel]) -> None:
    first = models[0]
    for model in models:
        for what, ours, theirs in (
            ("takes inputs", model.input_shape, first.input_shape),
            ("gives outputs", model.output_shape, first.output_shape),
        ):
            if ours != theirs:
                raise ValueError(
                    f"Ensemble: '{model.name}' {what} of shape {ours}, '{first.name}' of {theirs}: "
                    "they must be alike"
                )
    if isinstance(first.output_shape, list):
        raise ValueError(f"Ensemble: '{first.name}' has several outputs; members need a single one")


def common_kind(models: list[BaseModel]) -> str:
    """What the members' outputs are; an error where they differ, or where nothing tells."""
    kinds = [kind_of_outputs(model) for model in models]
    for model, kind in zip(models, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(
                f"Ensemble: '{models[0].name}' gives {kinds[0]}, '{model.name}' gives {kind}: "
                "members must give the same"
            )
    return kinds[0]


def kind_of_outputs(model: BaseModel) -> str:
    if isinstance(model, Ensemble):
        return model.outputs
    if any(final_activation(layer)[1] in ("softmax", "sigmoid") for layer in model.output_layers()):
        return "values"
    if model.loss is None:
        raise ValueError(
            f"Ensemble: nothing tells whether '{model.name}' gives logits or values (it is not compiled): "
            "say outputs='logits', 'binary_logits' or 'values'"
        )
    if not getattr(model.loss, "takes_logits", False):
        return "values"
    return "binary_logits" if isinstance(model.loss, BinaryCrossentropy) else "logits"
