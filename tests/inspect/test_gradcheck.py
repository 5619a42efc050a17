"""gradcheck finds what is wrong, and nothing where all is right."""

import numpy as np
import pytest

import tinydl as tl
from tinydl.layers import BatchNorm, Dense, Dropout, Embedding, Layer, ReLU, Softmax

rng = np.random.default_rng(0)


class Wrong(Dense):
    """A dense layer whose backward has one mistake."""

    def __init__(self, mistake):
        super().__init__(3, name="wrong")
        self.mistake = mistake

    def config(self):
        return {"mistake": self.mistake}

    def backward(self, grad_output):
        if self.mistake == "overwrites":
            self.weight.grad[...] = self.bias.grad[...] = 0
        dx = super().backward(grad_output)
        if self.mistake == "weight":
            self.weight.grad[1, 2] += 1e-4
        elif self.mistake == "bias":
            self.bias.grad *= 1 + 1e-5
        elif self.mistake == "input":
            dx[1, 0] *= -1
        elif self.mistake == "nan":
            self.weight.grad[0, 0] = np.nan
        return None if self.mistake == "none" else dx


@pytest.mark.parametrize(
    ("mistake", "arrays"),
    [
        ("weight", {"weight"}),
        ("bias", {"bias"}),
        ("input", {"input"}),
        ("overwrites", {"weight", "bias"}),
        ("nan", {"weight"}),
        ("none", {"input"}),
    ],
)
def test_finds_each_mistake(mistake, arrays):
    report = tl.gradcheck(Wrong(mistake), rng.normal(size=(4, 5)))
    assert not report.ok
    assert {a.name for a in report.arrays if a.relative_error > report.tolerance} == arrays


def test_worst_element_and_printout():
    report = tl.gradcheck(Wrong("weight"), rng.normal(size=(4, 5)))
    assert report.worst.name == "weight" and report.worst.index == (1, 2)
    # Two passes add 1e-4 each, and the gradient of one pass is reported.
    assert report.worst.analytic - report.worst.numeric == pytest.approx(1e-4, rel=1e-5)
    text = str(report)
    assert text.startswith("Wrong 'wrong': backward DIFFERS FROM central differences")
    assert [line.split()[0] for line in text.splitlines() if "WRONG" in line] == ["weight"]
    with pytest.raises(AssertionError, match="DIFFERS FROM"):
        report.assert_ok()


def test_a_right_layer():
    report = tl.gradcheck(Dense(3, "gelu"), rng.normal(size=(4, 5)))
    report.assert_ok()
    assert [(a.name, a.checked) for a in report.arrays] == [
        ("weight", 15),
        ("bias", 3),
        ("input", 20),
    ]
    assert report.worst.relative_error < 1e-9
    assert str(report).startswith("Dense 'dense': backward agrees with central differences")


def test_a_missing_scale_shows_although_it_starts_at_one():
    class WithoutGamma(BatchNorm):
        def backward(self, grad_output):
            gamma = self.gamma.value.copy()
            self.gamma.value[...] = 1
            dx = super().backward(grad_output)
            self.gamma.value[...] = gamma
            return dx

    report = tl.gradcheck(WithoutGamma(), rng.normal(size=(6, 3)))
    assert report.worst.name == "input" and not report.ok


def test_noise_on_a_layer_that_is_built():
    layer = Dense(3)
    layer.initialize((4,), rng)
    x = rng.normal(size=(2, 4))
    biases = [tl.gradcheck(layer, x, noise=noise) for noise in (None, 0.0, 0.5)]
    assert biases[0] == biases[1] != biases[2]
    assert not layer.bias.value.any()


def test_a_graph_with_a_layer_called_twice():
    left, right = tl.Input((4,)), tl.Input((4,))
    shared = tl.Sequential([Dense(5, "tanh"), BatchNorm(), Dropout(0.3)])
    joined = tl.layers.Concatenate()([shared(left), shared(right)])
    model = tl.Model([left, right], Dense(2)(joined))
    report = tl.gradcheck(model, [rng.normal(size=(6, 4)), rng.normal(size=(6, 4))], noise=0.3)
    report.assert_ok()
    assert {a.shape for a in report.arrays} == {(4, 5), (5,), (10, 2), (2,), (6, 4)}


def test_a_plain_sum_would_not_see_this():
    """Softmax outputs sum to one: any constant backward would pass under a cotangent of ones."""

    class Zero(Softmax):
        def backward(self, grad_output):
            return np.zeros_like(grad_output)

    assert not tl.gradcheck(Zero(), rng.normal(size=(2, 5))).ok


def test_the_subject_does_not_change():
    x = rng.normal(size=(6, 4)).astype(np.float32)
    model = tl.Sequential([Dense(5), BatchNorm(), Dropout(0.5)])
    model.build_model((4,))
    model.store.grads[...] = 7
    before = [w.copy() for w in model.get_weights()]
    random_state = model.sublayers[2].rng.bit_generator.state
    tl.gradcheck(model, x).assert_ok()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
        assert new.dtype == np.float32
    assert (model.store.grads == 7).all()
    assert model.sublayers[2].rng.bit_generator.state == random_state
    fresh = Dense(3)
    tl.gradcheck(fresh, x)
    assert not fresh.built


def test_same_seed_same_report():
    x = rng.normal(size=(4, 5))
    first, again, other = (tl.gradcheck(Dense(3, "tanh"), x, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_steps_get_smaller_next_to_a_kink():
    """0.3 of the first step away from a kink, where the central difference is a mix of slopes."""
    x = np.array([[3e-4, -3e-4, 1e-3 / 3, -2e-6, 1.0, 0.5, 2.0]])
    report = tl.gradcheck(ReLU(), x)
    report.assert_ok()
    assert (report.arrays[0].checked, report.arrays[0].skipped) == (7, 0)


def test_exactly_at_a_kink_is_skipped_and_said():
    x = np.array([[0.0, 1.0, -1.0, 2.0]])
    report = tl.gradcheck(ReLU(), x)
    report.assert_ok()
    assert (report.arrays[0].checked, report.arrays[0].skipped) == (3, 1)
    assert "3 (1 at kinks)" in str(report)


def test_mostly_at_kinks_is_no_success():
    assert not tl.gradcheck(ReLU(), np.array([[0.0, 0.0, 0.0, 1.0]])).ok
    assert not tl.gradcheck(ReLU(), np.zeros((2, 3))).ok


def test_a_wrong_gradient_is_no_kink():
    class Half(ReLU):
        def backward(self, grad_output):
            return 0.5 * super().backward(grad_output)

    report = tl.gradcheck(Half(), np.array([[1.0, 2.0, -3.0]]))
    assert not report.ok and report.arrays[0].skipped == 0
    assert report.worst.relative_error == pytest.approx(0.5)


def test_a_gradient_that_is_zero():
    """A bias in front of BatchNorm has no effect: both gradients are rounding errors, and agree."""
    report = tl.gradcheck(tl.Sequential([Dense(3), BatchNorm()]), rng.normal(size=(6, 4)))
    report.assert_ok()
    (bias,) = [a for a in report.arrays if a.name == "dense.bias"]
    assert abs(bias.numeric) < 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_a_shift_under_softmax_is_no_kink(seed):
    """softmax(x + b) does not depend on b: whatever differs is rounding, at some steps and not at others."""

    class Shifted(Softmax):
        def build(self, input_shape, rng):
            self.b = self.add_parameter("b", (1,), "zeros", rng)

        def forward(self, x, training=False):
            return super().forward(x + self.b.value)

        def backward(self, grad_output):
            dx = super().backward(grad_output)
            self.b.grad += dx.sum()
            return dx

    x = np.random.default_rng(seed).normal(size=(2, 3))
    report = tl.gradcheck(Shifted(), x, seed=seed)
    report.assert_ok()
    assert report.arrays[0].skipped == 0


def test_large_arrays_by_sample():
    report = tl.gradcheck(Dense(40), rng.normal(size=(3, 50)), max_elements=17)
    assert [a.checked for a in report.arrays] == [17, 17, 17]


def test_integer_input_has_no_gradient():
    report = tl.gradcheck(Embedding(5, 2), rng.integers(5, size=(3, 4)))
    report.assert_ok()
    assert [a.name for a in report.arrays] == ["weight"]


def test_frozen_parameters_are_left_out():
    layer = Dense(3)
    layer.trainable = False
    assert [a.name for a in tl.gradcheck(layer, rng.normal(size=(2, 4))).arrays] == ["input"]


class Product(Layer):
    """y = a ⊙ b, and with it an example of several inputs and outputs: returns [y, a + b]."""

    def compute_output_shape(self, input_shape):
        return [input_shape[0], input_shape[0]]

    def forward(self, x, training=False):
        self.a, self.b = x
        return [self.a * self.b, self.a + self.b]

    def backward(self, grad_output):
        dy, ds = grad_output
        return [dy * self.b + ds, dy * self.a + ds]


def test_several_inputs_and_outputs():
    report = tl.gradcheck(Product(), [rng.normal(size=(2, 3)), rng.normal(size=(2, 3))])
    report.assert_ok()
    assert [(a.name, a.checked) for a in report.arrays] == [("input 0", 6), ("input 1", 6)]


class MaskedSum(Layer):
    """y = Σ_t m_t x_t."""

    uses_mask = True

    def compute_output_shape(self, input_shape):
        return input_shape[1:]

    def forward(self, x, training=False, mask=None):
        self.m = mask[..., None]
        return np.where(self.m, x, 0).sum(axis=1)

    def backward(self, grad_output):
        return self.m * grad_output[:, None]


def test_mask_reaches_the_layer():
    mask = np.array([[True, True, False], [False, False, False]])
    x = rng.normal(size=(2, 3, 2))
    tl.gradcheck(MaskedSum(), x, mask=mask).assert_ok()


class HalfSquares:
    """A loss: 1/2N Σ w (p - t)²."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def forward(self, predictions, targets, sample_weight=None, mask=None):
        w = np.ones(len(predictions)) if sample_weight is None else sample_weight
        self.grad = w[:, None] * (predictions - targets) / len(predictions)
        return float(0.5 * np.sum(self.grad * (predictions - targets)))

    def backward(self):
        return self.factor * self.grad


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.00001, False)])
def test_losses_alone_and_behind_a_model(factor, right):
    x, targets = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    weights = np.array([1.0, 0.0, 2.0, 0.5, 1.0])
    alone = tl.gradcheck(HalfSquares(factor), targets + 1, targets, sample_weight=weights)
    behind = tl.gradcheck(
        Dense(3, "tanh"), x, targets, loss=HalfSquares(factor), sample_weight=weights
    )
    assert alone.ok is behind.ok is right
    assert [a.name for a in alone.arrays] == ["input"]
    assert [a.name for a in behind.arrays] == ["weight", "bias", "input"]


def test_a_loss_without_targets():
    with pytest.raises(ValueError, match="needs targets"):
        tl.gradcheck(HalfSquares(), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="needs targets"):
        tl.gradcheck(Dense(3), np.zeros((2, 3)), loss=HalfSquares())


def test_a_loss_by_its_name():
    x, targets = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    assert tl.gradcheck("mse", targets + 1, targets).ok
    assert tl.gradcheck(Dense(3), x, targets, loss="mse").ok


@pytest.mark.parametrize(
    ("subject", "x", "error", "words"),
    [
        (Dense, np.ones((2, 3)), TypeError, r"a loss \(not its class\), got <class"),
        ("Dense", np.ones((2, 3)), ValueError, "unknown loss 'Dense'"),
        (Dense(3), np.array([[1.0, np.nan]]), ValueError, "the input holds nan in sample 0"),
        (Dense(3), "text", ValueError, "the input has dtype <U4"),
        (Dense(3), np.ones((0, 3)), ValueError, r"an input with elements, got shape \(0, 3\)"),
    ],
)
def test_what_cannot_be_checked(subject, x, error, words):
    with pytest.raises(error, match=words):
        tl.gradcheck(subject, x)


def test_one_input_may_be_a_list_of_rows():
    assert tl.gradcheck(Dense(3), [[1.0, 2.0], [3.0, 4.0]]).arrays[-1].shape == (2, 2)


def test_a_gradient_of_another_shape():
    class Transposed(Dense):
        def backward(self, grad_output):
            return super().backward(grad_output).T

    with pytest.raises(ValueError, match=r"input has shape \(2, 4\), its gradient \(4, 2\)"):
        tl.gradcheck(Transposed(3), rng.normal(size=(2, 4)))
