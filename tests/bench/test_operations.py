"""Cases as text, their counts, and that what is timed is the right computation."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinydl.bench.operations import NotOffered, UnknownCase, conv2d, matmul, operation, passes, step
from tinydl_kernels import reference

sizes = st.integers(1, 300)


@given(sizes, sizes, sizes, st.sampled_from(matmul.TRANSPOSES))
def test_matmul_text_round_trip(m, k, n, transposes):
    case = matmul.Case(m, k, n, transposes)
    assert matmul.parse(str(case)) == case


def test_matmul_short_forms():
    assert matmul.parse("512") == matmul.Case(512, 512, 512)
    assert matmul.parse("2x3x4 TN") == matmul.Case(2, 3, 4, "TN")


@st.composite
def conv_cases(draw):
    g, h, w = draw(st.integers(1, 3)), draw(st.integers(3, 9)), draw(st.integers(3, 9))
    case = conv2d.Case(
        n=draw(st.integers(1, 2)),
        c=g * draw(st.integers(1, 3)),
        h=h,
        w=w,
        k=g * draw(st.integers(1, 3)),
        r=draw(st.integers(1, 3)),
        s=draw(st.integers(1, 2)),
        p=draw(st.integers(0, 2)),
        d=draw(st.integers(1, 2)),
        g=g,
        direction=draw(st.sampled_from(conv2d.PASSES)),
    )
    assume(min(case.output_shape) >= 1)
    return case


@given(conv_cases())
def test_conv2d_text_round_trip(case):
    assert conv2d.parse(str(case)) == case


@settings(max_examples=25, deadline=None)
@given(conv_cases())
def test_conv2d_counts_match_the_definition(case):
    """One multiply-add for each output element and tap: counted by convolving ones without padding."""
    x, w, grad, _ = conv2d.operands(case, "float64")
    window = {"strides": case.s, "padding": case.p, "dilation": case.d, "groups": case.g}
    y = reference.conv2d(x, w, **window)
    assert y.shape == case.output_shape == grad.shape
    assert case.flops == 2 * y.size * w.shape[0] * w.shape[1] * w.shape[2]
    assert case.bytes(8) == x.nbytes + w.nbytes + y.nbytes


@settings(max_examples=15, deadline=None)
@given(conv_cases())
def test_conv2d_job_computes_the_pass(case):
    x, w, grad, bias = conv2d.operands(case, "float32")
    window = {"strides": case.s, "padding": case.p, "dilation": case.d, "groups": case.g}
    expected = {
        "forward": lambda: reference.conv2d(x, w, bias=bias, **window),
        "grad-input": lambda: reference.conv2d_grad_input(grad, w, x.shape, **window),
        "grad-weight": lambda: reference.conv2d_grad_weight(x, grad, w.shape, **window),
    }[case.direction]()
    job = conv2d.make(case, "tinydl", "float32", 1)
    job.call()
    np.testing.assert_allclose(job.result(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transposes", matmul.TRANSPOSES)
@pytest.mark.parametrize("library", ["tinydl", "numpy"])
def test_matmul_job_multiplies_what_is_stored_as_asked(library, transposes):
    case = matmul.Case(5, 7, 6, transposes)
    a, b = matmul.operands(case, "float32")
    assert (a.flags.f_contiguous, b.flags.f_contiguous) == tuple(t == "T" for t in transposes)
    job = matmul.make(case, library, "float32", 1)
    job.call()
    np.testing.assert_allclose(job.result(), reference.matmul(a, b), rtol=1e-5, atol=1e-5)


def test_all_transposes_multiply_the_same_numbers():
    a, b = matmul.operands(matmul.Case(3, 4, 5, "NN"), "float64")
    for transposes in matmul.TRANSPOSES:
        other = matmul.operands(matmul.Case(3, 4, 5, transposes), "float64")
        np.testing.assert_array_equal(a, other[0])
        np.testing.assert_array_equal(b, other[1])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("matmul", "12y3", "MxKxN"),
        ("matmul", "0x3x4", "MxKxN"),
        ("matmul", "2x3", "MxKxN"),
        ("matmul", "2x3x4 NX", "MxKxN"),
        ("conv2d", "n2c3h8k4", "n32c64"),
        ("conv2d", "n2c3h8k4r3q5", "n32c64"),
        ("conv2d", "n2c3h8k4r3 sideways", "forward, grad-input"),
        ("conv2d", "n2c3h2k4r3", "larger than the padded image"),
        ("conv2d", "n2c3h8k4r3g2", "2 groups do not divide"),
        ("conv2d", "n0c3h8k4r3", "at least 1"),
        ("passes", "rellu 5", "relu, relu-grad"),
        ("passes", "relu 5x5", "1 size"),
        ("passes", "softmax 8", "2 size"),
        ("step", "vgg", "mlp, lenet"),
        ("step", "mlp b0", "at least 1"),
        ("step", "mlp b8 adan", "sgd, momentum, adam"),
    ],
)
def test_text_that_describes_no_case(name, text, words):
    with pytest.raises(UnknownCase, match=words):
        operation(name).parse(text)


@pytest.mark.parametrize("kind", passes.PASSES)
def test_every_pass_runs_and_counts_bytes(kind):
    text = f"{kind} 8x4" if "x" in passes.PASSES[kind].usual else f"{kind} 32"
    case = passes.parse(text)
    assert passes.parse(str(case)) == case
    assert case.bytes(4) == 4 * 32 * passes.PASSES[kind].moves
    passes.make(case, "tinydl", "float32", 1).call()


@pytest.mark.parametrize("name", ["matmul", "conv2d", "passes", "step"])
def test_a_library_that_has_nothing_to_offer(name):
    text = {"matmul": "4", "conv2d": "n1c1h4k1r1", "passes": "relu 8", "step": "mlp b2"}[name]
    module = operation(name)
    with pytest.raises(NotOffered):
        module.make(module.parse(text), "abacus", "float32", 1)


@pytest.mark.parametrize("network", step.NETWORKS)
def test_step_text(network):
    case = step.parse(network, "momentum")
    assert case == step.parse(str(case))
    assert case.optimizer == "momentum"
    assert case.batch == step.NETWORKS[network][1]


def test_a_step_is_a_training_step():
    """Loss falls over steps on one batch, as in fit."""
    case = step.parse("mlp b8 sgd")
    x, y = step.batch_of(case, "float32")
    loop = step.tinydl_loop(case, x, y, "float32")
    loop.model.optimizer.learning_rate = 0.1

    def loss():
        return loop.model.loss.forward(loop.model.forward(x), y)

    before = loss()
    for _ in range(5):
        loop.train_step(x, y, None)
    assert loss() < before / 2
