"""From what a user writes in ``compile`` to optimizer, loss and metrics, and mistakes that show already then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinydl import losses, metrics
from tinydl.layers.base import Layer
from tinydl.layers.containers import Chain
from tinydl.losses import Loss
from tinydl.metrics import Metric
from tinydl.training.objectives import MetricOfOutput, SeveralLosses

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel

# Layers that hand on what a softmax before them gave.
TRANSPARENT = ("Flatten", "Reshape", "Dropout")


def make_loss(loss: Any, loss_weights: list[float] | None) -> Loss | SeveralLosses | None:
    """The loss, or one that adds up a list of losses for a model of several outputs."""
    if isinstance(loss, list | tuple):
        return SeveralLosses([losses.get(item) for item in loss], loss_weights)
    if loss_weights is not None:
        raise ValueError("loss_weights goes with a list of losses, one for each output")
    return None if loss is None else losses.get(loss)


def make_metrics(wanted: Any, loss: Any, outputs: list[Layer]) -> list[Metric]:
    """Metric objects, all with different names, made from what ``compile`` was given.

    With several losses ``wanted`` is a list of lists, one for each output.
    """
    if isinstance(loss, SeveralLosses):
        made = metrics_of_outputs(list(wanted), loss, outputs)
    else:
        made = metrics_of_loss(wanted, loss)
    names = [metric.name for metric in made]
    for name in names:
        if names.count(name) > 1 or name == "loss":
            raise ValueError(f"two metrics are called {name!r}: give one of them another name")
    return made


def metrics_of_loss(wanted: Any, loss: Any) -> list[Metric]:
    """Metrics given by name learn from the loss whether the outputs are logits."""
    if isinstance(wanted, str | Metric):
        raise TypeError(f"metrics must be a list, got {wanted!r}")
    return [metrics.get(m, from_logits=getattr(loss, "takes_logits", True)) for m in wanted]


def metrics_of_outputs(
    wanted: list[Any], loss: SeveralLosses, outputs: list[Layer]
) -> list[Metric]:
    number = len(loss.losses)
    if len(outputs) != number:
        raise ValueError(f"the model has {len(outputs)} outputs, compile was given {number} losses")
    if not wanted:
        return []
    if len(wanted) != number or not all(isinstance(item, list | tuple) for item in wanted):
        raise ValueError(
            f"the model has {number} outputs: metrics must be a list of {number} lists, got {wanted!r}"
        )
    made: list[Metric] = []
    for k, (own, one_loss, layer) in enumerate(zip(wanted, loss.losses, outputs, strict=True)):
        for metric in metrics_of_loss(own, one_loss):
            made.append(MetricOfOutput(metric, k, layer.name))
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
    if hasattr(layer, "output_layers") and layer.output_layers() != [layer]:
        return final_activation(layer.output_layers()[0])
    if isinstance(layer, Chain):
        for sublayer in reversed(layer.sublayers):
            if type(sublayer).__name__ not in TRANSPARENT:
                return final_activation(sublayer)
    return layer, None
