"""Models in files: they come back the same, and nothing is lost when something goes wrong."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import resource
import signal
import stat

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import tinydl as tl
from tinydl.layers.base import Layer
from tinydl.training.files import SavedFileError, read_arrays, write_arrays
from tinydl.training.state_tree import join, split

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(12, 8, 8, 2)).astype(np.float32)
LABELS = RNG.integers(0, 3, 12)


def cnn(dtype="float32"):
    layers = tl.layers
    model = tl.Sequential(
        [
            layers.Conv2D(4, 3, activation="relu", kernel_regularizer=tl.regularizers.L2(0.01)),
            layers.BatchNorm(),
            layers.MaxPool2D(2),
            tl.Sequential([layers.Flatten(), layers.Dropout(0.25)], name="inner"),
            layers.Dense(3, kernel_initializer=tl.initializers.RandomNormal(stddev=0.1)),
        ],
        seed=3,
        dtype=dtype,
    )
    model.compile(
        tl.optimizers.Adam(tl.schedules.CosineDecay(0.01, 50), beta_1=0.8),
        tl.losses.SparseCategoricalCrossentropy(label_smoothing=0.1),
        ["accuracy", tl.metrics.TopKAccuracy(k=2)],
    )
    return model


@pytest.fixture(scope="module")
def trained():
    model = cnn()
    model.fit(IMAGES, LABELS, batch_size=4, verbose=0)
    return model


@pytest.fixture
def saved(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    trained.save(path)
    return path


def test_a_model_comes_back_the_same(trained, saved):
    loaded = tl.load(saved)
    assert loaded.config() == trained.config()
    for a, b in zip(trained.get_weights(), loaded.get_weights(), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(trained.predict(IMAGES), loaded.predict(IMAGES))
    assert loaded.optimizer.config() == trained.optimizer.config()
    assert loaded.evaluate(IMAGES, LABELS) == trained.evaluate(IMAGES, LABELS)
    assert loaded.regularized[0][1].l2 == 0.01
    loaded.fit(IMAGES, LABELS, batch_size=4, verbose=0)


def test_float64_models_come_back_as_such(tmp_path):
    model = cnn("float64")
    model.build_model((8, 8, 2))
    model.save(tmp_path / "m")
    loaded = tl.load(tmp_path / "m")
    assert loaded.predict(IMAGES).dtype == np.float64
    assert np.array_equal(loaded.predict(IMAGES), model.predict(IMAGES))


def test_frozen_layers_come_back_frozen(tmp_path):
    model = cnn()
    model.build_model((8, 8, 2))
    model.sublayers[0].trainable = False
    model.save(tmp_path / "m")
    loaded = tl.load(tmp_path / "m")
    assert [p.trainable for p in loaded.parameters()] == [p.trainable for p in model.parameters()]
    assert not loaded.sublayers[0].trainable
    assert loaded.sublayers[1].trainable


def test_other_programs_can_read_the_arrays(trained, saved):
    with safe_open(saved, framework="np") as file:
        names = set(file.keys())
        metadata = json.loads(file.metadata()["tinydl"])
        weight = file.get_tensor("conv2d.weight")
    assert names == {
        "conv2d.weight", "conv2d.bias", "batch_norm.gamma", "batch_norm.beta", "batch_norm.running_mean",
        "batch_norm.running_var", "dense.weight", "dense.bias",
    }  # fmt: skip
    assert np.array_equal(weight, trained.get_weights()[0])
    assert metadata["model"]["class"] == "Sequential"


class Scale(Layer):
    """y = s x, with one s per feature."""

    def __init__(self, start=1.0, name=None):
        super().__init__(name)
        self.start = start

    def build(self, input_shape, rng):
        self.scale = self.add_parameter(
            "scale", input_shape[-1:], tl.initializers.Constant(self.start), rng
        )

    def forward(self, x, training=False):
        self.x = x
        return self.scale.value * x

    def backward(self, grad_output):
        self.scale.grad += (grad_output * self.x).sum(axis=0)
        return self.scale.value * grad_output

    def config(self):
        return {"start": self.start}


def test_a_layer_of_ones_own_is_loaded_once_it_is_registered(tmp_path, monkeypatch):
    monkeypatch.setattr("tinydl.layers.LAYERS", dict(tl.layers.LAYERS))
    model = tl.Sequential([Scale(2.0), tl.layers.Dense(3)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = IMAGES.reshape(12, -1)
    model.fit(x, LABELS, batch_size=4, verbose=0)
    model.save(tmp_path / "m")
    with pytest.raises(SavedFileError, match=r"unknown layer 'Scale'.*register"):
        tl.load(tmp_path / "m")
    tl.layers.register(Scale)
    assert np.array_equal(tl.load(tmp_path / "m").predict(x), model.predict(x))


def test_a_loss_of_ones_own_leaves_the_loaded_model_uncompiled(tmp_path):
    class MyLoss(tl.losses.MeanSquaredError):
        pass

    model = tl.Sequential([tl.layers.Dense(3)])
    model.compile("sgd", MyLoss())
    model.build_model((4,))
    model.save(tmp_path / "m")
    with pytest.warns(UserWarning, match="not compiled.*MyLoss"):
        loaded = tl.load(tmp_path / "m")
    assert loaded.optimizer is None


def test_an_unbuilt_model_cannot_be_saved(tmp_path):
    with pytest.raises(RuntimeError, match="not built"):
        cnn().save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# ---- what cannot be read ----------------------------------------------------------------------------------


def test_cut_off_files_are_refused_wherever_the_cut_is(saved):
    data = saved.read_bytes()
    for length in (0, 5, 8, 100, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:length])
        with pytest.raises(SavedFileError, match="cut off"):
            tl.load(saved)


def test_a_flipped_bit_anywhere_in_the_arrays_is_noticed(saved):
    data = bytearray(saved.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for position in (header, header + 101, len(data) - 1):
        damaged = data.copy()
        damaged[position] ^= 4
        saved.write_bytes(damaged)
        with pytest.raises(SavedFileError, match="checksum"):
            tl.load(saved)


def rewrite(path, change):
    """Change arrays and metadata of a file, and write them as a sound file."""
    arrays, metadata = read_arrays(path)
    change(arrays, metadata)
    write_arrays(path, arrays, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, m: a.update({"dense.bias": np.zeros(4, "f")}), r"'dense.bias' has shape \(4,\), .* \(3,\)"),
        (lambda a, m: a.update({"dense.bias": np.zeros(3)}), "'dense.bias' is float64, the model's is float32"),
        (lambda a, m: a.pop("dense.bias"), "lacks 'dense.bias'"),
        (lambda a, m: a.update({"dense.extra": np.zeros(3)}), "unknown 'dense.extra'"),
        (lambda a, m: m["model"]["config"]["layers"][0].update({"class": "Conv2"}), "'Conv2' .did you mean 'conv2d'"),
        (lambda a, m: m["model"]["config"]["layers"][0]["config"].update({"filters": -1}), "filters"),
        (lambda a, m: m["model"]["config"]["layers"][0]["config"].update({"colour": 1}), "colour"),
        (lambda a, m: m["model"].update({"class": "os.system"}), "unknown layer 'os.system'"),
        (lambda a, m: m["model"].update({"class": "Dense", "config": {"units": 3}}), "Dense is a layer, not a model"),
        (lambda a, m: m.update({"version": 99}), "has format 99"),
        (lambda a, m: m.pop("model"), "holds no model"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(SavedFileError, match=message):
        tl.load(saved)


def places(node, path=()):
    """The path of every value in nested dictionaries and lists."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield (*path, key)
            yield from places(value, (*path, key))


@pytest.mark.filterwarnings("ignore:.*not compiled")
def test_whatever_stands_in_the_metadata_is_loaded_or_refused(saved):
    """Each of many values in turn replaced by something else, or taken away: never another error."""
    rng = np.random.default_rng(0)
    arrays, metadata = read_arrays(saved)
    loaded = refused = 0
    junk = [None, -1, 10**14, "x", [], {}, {"class": "Dense"}, [None], 1.5, True]
    for path in places(metadata):
        changed = copy.deepcopy(metadata)
        *parents, last = path
        node = changed
        for key in parents:
            node = node[key]
        choice = rng.integers(0, len(junk) + 1)
        if choice == len(junk):
            del node[last]
        else:
            node[last] = junk[choice]
        write_arrays(saved, arrays, changed)
        try:
            tl.load(saved)
            loaded += 1
        except SavedFileError:
            refused += 1
    assert loaded and refused  # names may be anything, shapes may not


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        tl.load(tmp_path / "none")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        tl.load(tmp_path)
    (tmp_path / "text").write_text("hello, this is a text and not a model\n" * 10)
    with pytest.raises(SavedFileError, match="no safetensors file"):
        tl.load(tmp_path / "text")
    save_file({"a": np.zeros(3)}, tmp_path / "foreign")
    with pytest.raises(SavedFileError, match="not one that tinydl wrote"):
        tl.load(tmp_path / "foreign")


# ---- what cannot be written -------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 4 KiB: what a full disk looks like to the one that writes.

    The limit holds for the whole process, the test run's own log included: not a fixture, which would still be in
    force when the result is reported.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(saved):
    before = saved.read_bytes()
    model = tl.Sequential([tl.layers.Dense(64)])
    model.build_model((64,))
    with full_disk(), pytest.raises(OSError, match=r"cannot write .*safetensors .*nothing was ch"):
        model.save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_places_where_nothing_can_be_written(trained, saved, tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        trained.save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"cannot write to .*nowhere"):
        trained.save(tmp_path / "nowhere" / "m")
    with pytest.raises(NotADirectoryError, match="cannot write to"):
        trained.save(saved / "m")
    assert os.listdir(tmp_path) == [saved.name]


def test_a_crash_while_writing_leaves_the_old_file(trained, saved, monkeypatch):
    before = saved.read_bytes()

    def crash(handle):
        raise RuntimeError("power")

    monkeypatch.setattr("tinydl.training.files.os.fsync", crash)
    with pytest.raises(RuntimeError, match="power"):
        cnn_of_other_weights().save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def cnn_of_other_weights():
    model = tl.Sequential([tl.layers.Dense(2)])
    model.build_model((3,))
    return model


def test_a_reader_of_the_old_file_is_not_disturbed(trained, saved):
    before = saved.read_bytes()
    with saved.open("rb") as reader:
        cnn_of_other_weights().save(saved)
        assert reader.read() == before
    assert saved.read_bytes() != before


def test_files_get_the_usual_permissions(trained, tmp_path):
    old = os.umask(0o027)
    try:
        trained.save(tmp_path / "m")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640


def test_state_trees_round_trip():
    tree = {
        "a": np.arange(3.0),
        "b": [1, "x", None, {"c": np.zeros((2, 0), np.int64)}],
        "big": 2**100,
        "nan": float("inf"),
        "scalar": np.float32(0.5),
    }
    text, arrays = split(tree, "t")
    back = join(json.loads(json.dumps(text)), arrays)
    assert np.array_equal(back["a"], tree["a"])
    assert back["b"][3]["c"].shape == (2, 0)
    assert (back["big"], back["nan"], back["scalar"]) == (2**100, float("inf"), 0.5)
