"""The Checkpoint callback: when it writes, what it keeps, and what it does about damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import tinydl as tl
from tinydl.training.checkpoints import SavedTraining, write_checkpoint
from tinydl.training.files import SavedFileError

X = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def classifier(optimizer="adam", units=2):
    model = tl.Sequential([tl.layers.Dense(units)])
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
    return model


def fit(checkpoint, model=None, epochs=3, batch_size=8, callbacks=(), **arguments):
    model = model or classifier()
    history = model.fit(
        X,
        Y,
        epochs=epochs,
        batch_size=batch_size,
        callbacks=[checkpoint, *callbacks],
        verbose=0,
        **arguments,
    )
    return model, history


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def steps(folder):
    return [int(name.split("-")[1].split(".")[0]) for name in names(folder)]


def test_at_the_end_of_each_epoch(tmp_path):
    fit(tl.callbacks.Checkpoint(tmp_path / "a", keep=None))
    assert steps(tmp_path / "a") == [3, 6, 9]
    fit(tl.callbacks.Checkpoint(tmp_path / "b", keep=2), epochs=5)
    assert steps(tmp_path / "b") == [12, 15]


def test_after_so_many_steps_and_at_the_end(tmp_path):
    fit(tl.callbacks.Checkpoint(tmp_path, every_steps=2, keep=None))
    assert steps(tmp_path) == [2, 4, 6, 8, 9]


def test_none_is_written_twice_and_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    written = []

    def note(path, loop, state):
        written.append(path.name)
        write_checkpoint(path, loop, state)

    monkeypatch.setattr("tinydl.training.callbacks.checkpoint.write_checkpoint", note)
    (tmp_path / ".checkpoint-0000000001.safetensors.12ab.tmp").write_bytes(b"half of it")
    fit(tl.callbacks.Checkpoint(tmp_path))
    assert written == names(tmp_path)
    assert steps(tmp_path) == [3, 6, 9]


def test_a_checkpoint_is_a_model_file(tmp_path):
    model, _ = fit(tl.callbacks.Checkpoint(tmp_path, keep=1))
    loaded = tl.load(tmp_path / names(tmp_path)[0])
    assert np.array_equal(loaded.predict(X), model.predict(X))


def test_ctrl_c_writes_a_checkpoint_of_that_step(tmp_path):
    def press(batch, logs=None):
        if batch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    model, history = fit(
        tl.callbacks.Checkpoint(tmp_path),
        callbacks=[tl.callbacks.LambdaCallback(on_train_batch_begin=press)],
    )
    assert history.interrupted and history.epoch == []
    assert steps(tmp_path) == [2]
    loaded = tl.load(tmp_path / names(tmp_path)[0])
    assert np.array_equal(loaded.predict(X), model.predict(X))


def test_resume_starts_where_there_is_no_checkpoint_yet_and_does_nothing_when_all_is_done(tmp_path):
    checkpoint = tl.callbacks.Checkpoint(tmp_path / "c")
    first, history = fit(checkpoint, resume=True)
    assert len(history.epoch) == 3
    again, same = fit(checkpoint, resume=True)
    assert same.history == history.history
    assert np.array_equal(again.predict(X), first.predict(X))
    longer, history = fit(checkpoint, epochs=5, resume=True)
    unbroken = classifier()
    unbroken.fit(X, Y, epochs=5, batch_size=8, verbose=0)
    assert history.epoch == [0, 1, 2, 3, 4]
    assert np.array_equal(longer.predict(X), unbroken.predict(X))


def test_a_new_training_does_not_overwrite_the_checkpoints_of_another(tmp_path):
    fit(tl.callbacks.Checkpoint(tmp_path))
    before = names(tmp_path)
    with pytest.raises(FileExistsError, match="resume=True"):
        fit(tl.callbacks.Checkpoint(tmp_path))
    assert names(tmp_path) == before


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(tmp_path, damage):
    fit(tl.callbacks.Checkpoint(tmp_path, keep=None), epochs=2)
    newest = tmp_path / names(tmp_path)[-1]
    data = bytearray(newest.read_bytes())
    if damage == "bit":
        data[-3] ^= 1
    newest.write_bytes({"cut": data[:-7], "bit": data, "empty": b""}[damage])
    with pytest.warns(UserWarning, match=f"{newest.name}.*set aside"):
        model, history = fit(tl.callbacks.Checkpoint(tmp_path), resume=True)
    unbroken = classifier()
    unbroken.fit(X, Y, epochs=3, batch_size=8, verbose=0)
    assert np.array_equal(model.predict(X), unbroken.predict(X))
    assert history.epoch == [0, 1, 2]
    assert f"{newest.name}.damaged" in names(tmp_path)


def test_if_no_checkpoint_is_whole_nothing_starts_silently_from_zero(tmp_path):
    fit(tl.callbacks.Checkpoint(tmp_path, keep=1))
    (tmp_path / names(tmp_path)[0]).write_bytes(b"dust")
    with pytest.warns(UserWarning), pytest.raises(SavedFileError, match="none of the 1"):
        fit(tl.callbacks.Checkpoint(tmp_path), resume=True)


def test_checkpoints_of_another_training_are_refused(tmp_path):
    fit(tl.callbacks.Checkpoint(tmp_path / "a"))
    resumed = tl.callbacks.Checkpoint(tmp_path / "a")
    with pytest.raises(SavedFileError, match=r"trained with Adam, .* compiled with SGD"):
        fit(resumed, classifier("sgd"), resume=True)
    with pytest.raises(SavedFileError, match=r"'dense.weight' has shape \(4, 2\)"):
        fit(resumed, classifier(units=3), resume=True)

    stopper = tl.callbacks.LambdaCallback()
    stopper.on_train_batch_begin = lambda batch, logs=None: (
        batch and os.kill(os.getpid(), signal.SIGINT)
    )
    fit(tl.callbacks.Checkpoint(tmp_path / "b"), callbacks=[stopper])
    with pytest.raises(ValueError, match="epoch of 3 steps, this training has 6"):
        fit(tl.callbacks.Checkpoint(tmp_path / "b"), batch_size=4, resume=True)


def test_a_model_file_is_no_checkpoint(tmp_path):
    model, _ = fit(tl.callbacks.Checkpoint(tmp_path))
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(SavedFileError, match="not a checkpoint"):
        SavedTraining(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "value"), [("every_steps", 0), ("keep", 0), ("every_steps", "all")]
)
def test_arguments_are_checked(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        tl.callbacks.Checkpoint(tmp_path, **{name: value})


def test_a_process_killed_at_any_moment_leaves_whole_checkpoints_only(tmp_path):
    """kill -9 while checkpoints are written as fast as possible: the run goes on from a whole one."""
    program = textwrap.dedent("""
        import sys, numpy as np, tinydl as tl
        x = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
        y = (x[:, 0] > 0).astype(np.int64)
        model = tl.Sequential([tl.layers.Dense(128), tl.layers.Dense(2)])
        model.compile("sgd", "sparse_categorical_crossentropy")
        saver = tl.callbacks.Checkpoint(sys.argv[1], every_steps=1, keep=2)
        tell = tl.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: print(b, flush=True))
        model.fit(x, y, batch_size=1, epochs=1000, verbose=0, callbacks=[saver, tell])
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    )
    for _ in range(8):
        process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    found = sorted(tmp_path.glob("checkpoint-*.safetensors"))
    assert 1 <= len(found) <= 3
    for path in found:
        assert SavedTraining(path).state["loop"]["total_steps"] >= 1
