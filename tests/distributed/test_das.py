"""DAS on several ranks: the loss travels with the gradients, so that all come to the same rates and averages."""

from __future__ import annotations

import numpy as np
import pytest

import tinydl as tl
from tests.distributed.models import train, weights


def trained(name, strategy):
    """(weights to use, weights that were trained, all scalars) here, and of one process alone."""
    found = []
    for chosen in (strategy, None):
        model, _ = train(name, chosen and chosen(), optimizer=tl.optimizers.DAS(weight_decay=0.1))
        used = weights(model).copy()
        das = model.optimizer
        found.append((used, das.average().copy(), np.array(list(das.scalars.values()))))
    return found


def several(name):
    return trained(name, tl.distributed.DataParallel)


@pytest.mark.parametrize("name", ["mlp", "frozen"])
def test_ranks_are_identical_and_follow_one_process(job, name):
    results = job.run(several, name)
    for together, alone in results:
        for own, first in zip(together, results[0][0], strict=True):
            np.testing.assert_array_equal(own, first)
            assert np.isfinite(own).all()
        for own, single in zip(together[:2], alone[:2], strict=True):
            np.testing.assert_allclose(own, single, rtol=1e-6, atol=1e-8)
