"""What a model knows of itself: weights, states, its table."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import tinydl as tl


def built(**arguments):
    layers = tl.layers
    model = tl.Sequential(
        [
            layers.Dense(8, activation="relu"),
            layers.BatchNorm(),
            tl.Sequential([layers.Dropout(0.5), layers.Dense(4)], name="head"),
        ],
        **arguments,
    )
    model.build_model((6,))
    return model


def test_weights_go_out_and_in():
    a, b = built(seed=0), built(seed=1)
    assert [w.shape for w in a.get_weights()] == [
        (6, 8),
        (8,),
        (8,),
        (8,),
        (8, 4),
        (4,),
        (8,),
        (8,),
    ]
    assert not np.array_equal(a.get_weights()[0], b.get_weights()[0])
    b.set_weights(a.get_weights())
    for u, v in zip(a.get_weights(), b.get_weights(), strict=True):
        assert np.array_equal(u, v)


def test_weights_that_do_not_fit_change_nothing():
    model = built()
    before = model.get_weights()
    with pytest.raises(ValueError, match="8 arrays, set_weights got 7"):
        model.set_weights(before[1:])
    ones = [np.ones_like(w) for w in before]
    ones[-1] = np.ones(9)
    with pytest.raises(ValueError, match=r"'batch_norm.running_var' has shape \(8,\), got \(9,\)"):
        model.set_weights(ones)
    for u, v in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(u, v)


def test_parameters_are_views_of_the_flat_buffer_and_stay_so():
    model = built()
    model.compile("adam", "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    model.fit(x, np.arange(16) % 4, batch_size=8, verbose=0)
    model.set_weights(model.get_weights())
    for p in model.parameters():
        assert np.shares_memory(p.value, model.store.values)
        assert np.shares_memory(p.grad, model.store.grads)


def test_the_seed_decides_the_initial_weights():
    for u, v in zip(built(seed=7).get_weights(), built(seed=7).get_weights(), strict=True):
        assert np.array_equal(u, v)
    assert not np.array_equal(built(seed=7).get_weights()[0], built(seed=8).get_weights()[0])
    assert not np.array_equal(built(seed=None).get_weights()[0], built(seed=None).get_weights()[0])


def test_a_snapshot_brings_states_and_dropout_back():
    model = built()
    x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    before = model.snapshot()
    first = model.forward(x, training=True)
    assert not np.array_equal(first, model.forward(x, training=True))
    model.restore(before)
    assert np.array_equal(model.named_states().__next__()[1], np.zeros(8))
    assert np.array_equal(first, model.forward(x, training=True))


def test_summary_shows_layers_shapes_parameters_and_memory(capsys):
    model = built()
    model.sublayers[0].trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    model.summary()
    text = capsys.readouterr().out
    for part in (
        "dense (Dense, frozen)",
        "(N, 8)",
        "head (Sequential)",
        "  dense (Dense)",
        "(N, 4)",
        "108 parameters: 52 trainable, 56 frozen; 16 state values",
        "values ",
        "gradients ",
        "states 64 B",
    ):
        assert part in text, part


def test_an_input_in_front_builds_the_model():
    model = tl.Sequential([tl.Input((6,)), tl.layers.Dense(4), tl.layers.Dense(3)])
    assert (model.input_shape, model.output_shape) == ((6,), (3,))
    expected = tl.Sequential([tl.layers.Dense(4), tl.layers.Dense(3)])
    expected.build_model((6,))
    assert model.config() == expected.config()
    for u, v in zip(model.get_weights(), expected.get_weights(), strict=True):
        assert np.array_equal(u, v)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": tl.layers.Dense(2)}, "takes a list of layers"),
        ({"layers": [tl.Input((2,))]}, "at least one layer"),
        ({"dtype": "float16"}, "float32 or float64, got float16"),
        ({"seed": -1}, "seed must be a whole number >= 0 or None, got -1"),
        ({"seed": "a"}, "got 'a'"),
    ],
)
def test_sequential_refuses(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tl.Sequential(**{"layers": [tl.layers.Dense(2)], **arguments})


def test_numpys_integers_are_whole_numbers(tmp_path):
    model = tl.Sequential([tl.layers.Dense(np.int64(3))], seed=np.int64(7))
    model.build_model((2,))
    model.save(tmp_path / "m")
    assert tl.load(tmp_path / "m").config() == model.config()


def test_what_needs_a_built_model_says_so():
    model = tl.Sequential([tl.layers.Dense(2)], name="mine")
    for call in (model.get_weights, model.summary, lambda: model.set_weights([])):
        with pytest.raises(RuntimeError, match="model 'mine' is not built"):
            call()


def test_importing_tinydl_imports_next_to_nothing():
    program = (
        "import sys, tinydl as tl; print(tl.__version__, 'numpy' in sys.modules); "
        "tl.Sequential; tl.layers; tl.callbacks; tl.optimizers; "
        "print(sorted({'numba', 'rich', 'safetensors', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    first, second = result.stdout.splitlines()
    assert first == f"{tl.__version__} False"
    assert second == "[]"


def test_public_names():
    assert {"Sequential", "layers", "callbacks", "load", "schedules"} <= set(dir(tl))
    with pytest.raises(AttributeError, match="no attribute 'Sequental'"):
        tl.Sequental  # noqa: B018
