"""Whole networks: every gradient, through all of their layers at once."""

import numpy as np
import pytest

import tinydl as tl

SMALL_IMAGES = {"mlp": (4, 4, 1), "cnn": (6, 6, 1), "lenet": (12, 12, 1), "resnet8": (8, 8, 3)}


@pytest.mark.parametrize("name", SMALL_IMAGES)
def test_gradients(name):
    shape = SMALL_IMAGES[name]
    model = tl.architectures.build(name, shape, 10)
    x = np.random.default_rng(0).normal(size=(3, *shape))
    report = tl.gradcheck(model, x, max_elements=4, noise=0.05)
    report.assert_ok()
    assert len(report.arrays) == len(model.parameters()) + 1
