"""From what a user writes in ``compile`` to optimizer, loss and metrics, and mistakes that show already then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinydl import losses, metrics
from tinydl.layers.base import Layer
from tinydl.layers.containers import Chain
from tinydl.losses import Loss
from tinydl.metrics import Metric
from tinydl.training.objectives import SeveralLosses

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel

# Layers that hand on what a softmax before them gave.
TRANSPARENT = ("Flatten", "Reshape", "Dropout", "Ensemble")


def make_loss(loss: Any, loss_weights: list[float] | None) -> Loss | SeveralLosses | None:
    """The loss, or one that adds up a list of losses for a model of several outputs."""
    if isinstance(loss, list | tuple):
        return SeveralLosses([losses.get(item) for item in loss], loss_weights)
    if loss_weights is not None:
        raise ValueError("loss_weights goes with a list of losses, one for each output")
    return None if loss is None else losses.get(loss)


def make_metrics(wanted: Any, loss: Any) -> list[Metric]:
    """Metric objects with different names; those given by name learn from the loss what the outputs are."""
    if isinstance(wanted, str | Metric):
        raise TypeError(f"metrics must be a list, got {wanted!r}")
    from_logits = getattr(loss, "takes_logits", True)
    made = [metrics.get(item, from_logits=from_logits) for item in wanted]
    names = [metric.name for metric in made]
    for name in names:
        if names.count(name) > 1 or name == "loss":
            raise ValueError(f"two metrics are called {name!r}: give one of them another name")
    return made


def refuse_softmax_before_logits(model: BaseModel, loss: Any) -> None:
    """The commonest silent mistake: probabilities where the loss expects logits.

    The loss would apply softmax a second time. Training then still runs, but its gradients are small and the
    probabilities never come near 0 or 1.
    """
    pairs = (
        zip(loss.losses, model.output_layers(), strict=False)
        if isinstance(loss, SeveralLosses)
        else ((loss, layer) for layer in model.output_layers())
    )
    for one_loss, output in pairs:
        layer, activation = final_activation(output)
        if getattr(one_loss, "takes_logits", False) and activation in ("softmax", "sigmoid"):
            name = type(one_loss).__name__
            raise ValueError(
                f"{name} takes logits and applies {'sigmoid' if 'Binary' in name else 'softmax'} itself, but the "
                f"model ends in a {activation} (layer '{layer.name}'). Remove it (recommended: the loss of logits is "
                f"exact), or pass loss=tl.losses.{name}(from_logits=False)"
            )


def final_activation(layer: Layer) -> tuple[Layer, str | None]:
    """The layer that gives the last values under ``layer``, and the name of the function that made them."""
    own = getattr(layer, "activation", None)
    name = own if isinstance(own, str) else getattr(own, "name", None)
    if name not in (None, "linear"):
        return layer, name
    if isinstance(layer, Chain):
        for sublayer in reversed(layer.sublayers):
            if type(sublayer).__name__ not in TRANSPARENT:
                return final_activation(sublayer)
    return layer, None
