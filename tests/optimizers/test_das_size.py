"""DAS, equation 0: weights that are too large or too small get their size before the first step."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinydl as tl
from tinydl.optimizers import DAS
from tinydl.optimizers.das_size import MOST
from tinydl.parameters import Parameter, ParameterStore


class Product:
    """A chain of 1 × 1 layers: f = base + slope * product of all weights; and a bias that plays no part."""

    def __init__(self, weights, base, slope=1.0):
        self.layers = [
            Parameter(f"w{k}", np.array([[w]], np.float64)) for k, w in enumerate(weights)
        ]
        self.bias = Parameter("bias", np.array([0.5]))
        self.store = ParameterStore([*self.layers, self.bias])
        self.base, self.slope = base, slope

    @property
    def weights(self):
        return np.array([p.value[0, 0] for p in self.layers])

    def loss(self):
        w = self.weights
        for k, p in enumerate(self.layers):
            p.grad[...] = self.slope * math.prod(np.delete(w, k))
        return self.base + self.slope * math.prod(w)

    def steps(self, das, count):
        for _ in range(count):
            das.step(self.loss())


def built(net, **arguments):
    das = DAS(**arguments)
    das.build(net.store)
    return das


def test_weights_that_are_too_large_shrink_until_half_the_loss_is_something_else():
    net = Product([2.0, 3.0, 4.0, 5.0], base=1.0)  # E = p / (1 + p) > 1/2 while the product p > 1
    das, before = built(net), net.weights
    needed = math.ceil(math.log(120))
    for k in range(1, needed + 1):
        info = das.step(net.loss())
        assert (info.learning_rate, das.report["bound"]) == (0.0, "size")
        assert_allclose(net.weights, before * math.exp(-k / 4), rtol=1e-12)
        assert_allclose(das.average(), net.store.values)
    assert das.scalars["t"] == 0 and net.bias.value[0] == 0.5
    das.step(net.loss())
    assert das.scalars["t"] == 1 and das.scalars["scalings"] == -needed
    assert das.report["bound"] != "size"


def test_weights_that_are_too_small_grow_until_each_layer_matters():
    net = Product([0.1, 0.02, 0.05], base=2.0, slope=-1.0)
    das, before = built(net), net.weights
    slopes = []
    while not das.scalars["sized"]:
        f = net.loss()
        slopes.append(abs(float(net.layers[0].grad[0, 0]) * net.weights[0]) / f)
        das.step(f)
    assert max(slopes[:-1]) < 0.1 <= slopes[-1]
    grown = das.scalars["scalings"]
    assert grown == len(slopes) - 1 > 5
    assert_allclose(net.weights, before * math.exp(grown / 3), rtol=0.5)  # and one step


def test_good_weights_are_left_alone_and_so_is_everything_without_the_part():
    for weights, arguments in (([1.0, 1.1], {}), ([50.0, 60.0], {"without": ("size",)})):
        net = Product(weights, base=2.0)
        das = built(net, **arguments)
        das.step(net.loss())
        assert das.scalars["t"] == 1 and das.scalars["scalings"] == 0


def test_what_happens_later_does_not_start_it_again():
    net = Product([1.0, 1.1], base=2.0)
    das = built(net)
    das.step(net.loss())
    net.base, net.slope = 0.0, 1e6  # as an outlier would look
    das.step(net.loss())
    assert das.scalars["t"] == 2 and das.scalars["scalings"] == 0


def test_growing_in_vain_ends():
    """As before a normalization, where the gradient is as small as the weights are large."""
    net = Product([0.5, 0.5], base=1.0)
    das = built(net)
    for _ in range(4):
        for p in net.layers:
            p.grad[...] = 1e-3 / p.value
        das.step(1.0)
    assert das.scalars["scalings"] == 1 and das.scalars["t"] == 3


def test_it_never_turns_round():
    net = Product([0.01, 0.01], base=1e-3)
    das = built(net)
    das.step(net.loss())
    assert das.scalars["scalings"] == 1
    net.base = 0.0  # now all of the loss is size
    das.step(net.loss())
    assert das.scalars["scalings"] == 1 and das.scalars["sized"] and das.scalars["t"] == 1


def test_a_loss_that_is_all_size_ends_it_at_last():
    net = Product([1.0], base=0.0)
    das = built(net)
    net.steps(das, MOST + 1)
    assert das.scalars["scalings"] == -MOST and das.scalars["t"] == 1


def test_layers_without_weights_or_gradient_have_no_say():
    # The last one begins at 0, as ends of residual branches do.
    net = Product([2.0, 3.0, 0.0], base=1.0)
    das = built(net)
    das.step(net.loss())  # its product is 0: no layer has both
    assert das.scalars["t"] == 1 and das.scalars["scalings"] == 0

    net = Product([2.0, 3.0, 4.0], base=1.0)
    das = built(net)
    f = net.loss()
    net.layers[2].grad[...] = 0
    das.step(f)
    assert das.scalars["scalings"] == -1


def test_vectors_alone_have_no_size():
    bias = Parameter("bias", np.array([1e-3, 1e-3]))
    das = DAS()
    das.build(ParameterStore([bias]))
    bias.grad[...] = 1e-3
    das.step(1.0)
    assert das.scalars["t"] == 1 and das.scalars["sized"]


def test_frozen_layers_keep_their_size():
    net = Product([2.0, 3.0, 4.0], base=1.0)
    net.layers[1].trainable = False
    das = built(net)
    das.step(net.loss())
    assert_allclose(net.weights, [2 * math.exp(-1 / 2), 3.0, 4 * math.exp(-1 / 2)])


def test_a_loss_above_its_lower_bound_counts():
    net = Product([2.0, 3.0], base=-9.0)
    das = built(net, lower_bound=-10.0)
    das.step(net.loss())  # f - f_lb = 7, of which 6 are size
    assert das.scalars["scalings"] == -1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_meanwhile(bad):
    """Growing is taken back, as it may have been too much; shrinking waits for the next batch."""
    small, large = Product([0.01, 0.01], base=1.0), Product([30.0, 40.0], base=1.0)
    for net, left in ((small, 1), (large, -2)):
        das = built(net)
        net.steps(das, 2)
        net.loss()
        das.step(bad)
        assert das.scalars["scalings"] == left and das.report["bound"] == "guard"
        assert np.isfinite(das.average()).all() and das.scalars["t"] == 0
        net.loss()
        with pytest.raises(FloatingPointError, match=r"11 times in a row|in the first step"):
            for _ in range(10):
                das.step(bad)
    with pytest.raises(FloatingPointError, match="in the first step"):
        built(large).step(bad)


def test_a_checkpoint_in_between():
    net = Product([5.0, 6.0, 7.0], base=1.0)
    das = built(net)
    net.steps(das, 2)
    values, state = net.store.values.copy(), das.state_dict()
    net.steps(das, 10)
    end = net.store.values.copy()
    net.store.values[...] = values
    again = built(net)
    again.load_state_dict(state)
    net.steps(again, 10)
    assert np.array_equal(net.store.values, end)


@pytest.mark.parametrize(("activation", "factor"), [("tanh", 0.4), ("relu", 5.0)])
def test_a_deep_network_learns_whatever_its_weights_size(activation, factor):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype("f4")
    y = (x[:, :4] + x[:, 4:]).argmax(axis=1)
    he = tl.initializers.RandomNormal(stddev=factor * math.sqrt(2 / 16))
    body = [tl.layers.Dense(16, activation, kernel_initializer=he) for _ in range(12)]
    found = []
    for without in ((), ("size",)):
        model = tl.Sequential([tl.Input((8,)), *body, tl.layers.Dense(4)], seed=1)
        body = [tl.layers.Dense(16, activation, kernel_initializer=he) for _ in range(12)]
        model.compile(DAS(without=without), "sparse_categorical_crossentropy", ["accuracy"])
        model.fit(x, y, epochs=30, batch_size=32, verbose=0, seed=0)
        found.append(model.evaluate(x, y)["accuracy"])
    assert found[0] > max(0.7, found[1] + 0.15)
