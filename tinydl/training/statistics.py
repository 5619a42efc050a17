"""BatchNorm's running statistics for weights that were not trained with.

An optimizer that recommends an average of weights (DAS) trains w and gives the model x. The running mean and variance
were gathered at w; at x the activations have others. So some batches go forward once more, with x, and the statistics
become the mean over them (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima", arXiv 1803.05407, section
3.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from tinydl.layers import BatchNorm
from tinydl.training.steps import as_inputs, forward

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel

BATCHES = 50  # enough for the mean of a few thousand samples


def batch_norms(model: BaseModel) -> list[BatchNorm]:
    return [layer for layer in model.layers_in_order() if isinstance(layer, BatchNorm)]


def renew_statistics(model: BaseModel, inputs: Iterable[Any]) -> None:
    """Make the statistics those of the first ``inputs``, a batch each; one that is not finite does not count.

    Dropout goes on as if nothing had been computed.
    """
    layers = batch_norms(model)
    momenta = [layer.momentum for layer in layers]
    states, generators = model.snapshot()
    counted = 0
    try:
        for x in islice(inputs, BATCHES):
            for layer in layers:  # running <- k/(k+1) running + 1/(k+1) batch: the plain mean
                layer.momentum = counted / (counted + 1)
            forward(model, as_inputs(model, x), training=True)
            if all(np.isfinite(state).all() for state in model.states):
                states = [state.copy() for state in model.states]
                counted += 1
            else:
                model.restore((states, generators))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.restore((states, generators))
