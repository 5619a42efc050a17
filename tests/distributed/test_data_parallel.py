"""N ranks train as one process would, whatever the model, the data and the way of communicating."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import tinydl as tl
from tests.distributed.models import (
    MODELS,
    SAMPLES,
    alone,
    compiled,
    digest,
    mlp,
    rows,
    train,
    weights,
)
from tests.distributed.models import classes as labels
from tests.distributed.mpi import PartyError, environment_of_ranks

# So that buckets are many, and run beside the backward pass though all ranks are on one computer.
SMALL = {"bucket_bytes": 512, "first_bucket_bytes": 64, "check_every": 2, "overlap": "thread"}


def parallel_and_alone(name, options, arguments):
    """Ranks begin with different weights: rank 0's, as those of the single process, become everyone's."""
    rank = tl.distributed.world().rank
    model, history = train(
        name, tl.distributed.DataParallel(**{**SMALL, **options}), seed=rank, **arguments
    )
    single, expected = train(name, None)
    return weights(model), weights(single), history, expected


def check_like_one_process(results, tolerance=1e-9):
    for got, want, history, expected in results:
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(got, results[0][0])  # all ranks alike
        assert history.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(history[name], values, rtol=1e-7, err_msg=name)


@pytest.mark.parametrize("overlap", ["auto", "thread", "poll", "none"])
def test_many_ranks_follow_one_process(job, overlap):
    check_like_one_process(job.run(parallel_and_alone, "mlp", {"overlap": overlap}, {}))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "mlp"])
def test_every_kind_of_model(job, name):
    check_like_one_process(job.run(parallel_and_alone, name, {}, {}))


@pytest.mark.parametrize("name", ["cnn", "recurrent", "shared"])
def test_accumulated_gradients(job, name):
    """Four passes, some of them empty, are one."""
    check_like_one_process(job.run(parallel_and_alone, name, {}, {"accumulate_steps": 4}))


@pytest.mark.parametrize("options", [{"shard_optimizer": True}, {"overlap": "poll"}])
def test_accumulated_gradients_with_other_options(job, options):
    check_like_one_process(job.run(parallel_and_alone, "mlp", options, {"accumulate_steps": 3}))


@pytest.mark.parametrize("name", ["mlp", "cnn", "recurrent"])
def test_accumulated_gradients_in_one_process(name):
    """Losses, metrics and weights of one pass; a BatchNorm would see the parts of the batch."""
    model, history = train(name, None, accumulate_steps=4)
    single, expected = train(name, None)
    np.testing.assert_allclose(weights(model), weights(single), rtol=1e-9, atol=1e-9)
    for key, values in expected.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-9)


def test_accumulation_runs_in_as_many_passes():
    sizes = []

    class Spy(tl.layers.Layer):
        def forward(self, x, training=False):
            sizes.extend([len(x)] if training else [])
            return x

        def backward(self, grad):
            return grad

    model = compiled(tl.Sequential([Spy(), tl.layers.Dense(4)], dtype="float64"))
    model.fit(rows(6), labels(), batch_size=10, verbose=0, accumulate_steps=4)
    assert sizes == [2, 3, 2, 3] * 2 + [0, 1, 1, 1]
    with pytest.raises(ValueError, match="accumulate_steps must be a whole number >= 1, got 0"):
        model.fit(rows(6), labels(), batch_size=10, verbose=0, accumulate_steps=0)


def deterministic(name, virtual_shards):
    strategy = tl.distributed.DataParallel(deterministic=True, shards=virtual_shards)
    model, history = train(name, strategy, seed=tl.distributed.world().rank)
    with alone():
        strategy = tl.distributed.DataParallel(deterministic=True, shards=virtual_shards)
        single, expected = train(name, strategy)
    plain, _ = train(name, None)
    return digest(model), digest(single), history, expected, weights(model), weights(plain)


@pytest.mark.parametrize("name", ["mlp", "recurrent"])
def test_deterministic_is_equal_to_the_last_bit(job, name):
    """Shards outnumber the samples of the last batch."""
    for got, want, history, expected, many, plain in job.run(deterministic, name, 12):
        assert got == want
        assert history == expected
        np.testing.assert_allclose(many, plain, rtol=1e-9, atol=1e-9)


def deterministic_with_random_layers():
    def model(seed):
        layers = [
            tl.layers.Dense(8, "relu"),
            tl.layers.BatchNorm(),
            tl.layers.Dropout(0.4),
            tl.layers.Dense(4),
        ]
        return compiled(tl.Sequential(layers, seed=seed), "adam")

    def fit(seed):
        strategy = tl.distributed.DataParallel(deterministic=True, shards=12)
        one = model(seed)
        one.fit(rows(6), labels(), epochs=3, batch_size=10, verbose=0, seed=1, strategy=strategy)
        return digest(one)

    got = fit(seed=tl.distributed.world().rank)
    with alone():
        return got, fit(seed=0)


def test_deterministic_dropout_and_running_means(job):
    for got, want in job.run(deterministic_with_random_layers):
        assert got == want


def dropout_masks():
    """What each rank's dropout layer draws in the same step."""
    model = tl.Sequential([tl.layers.Dense(50), tl.layers.Dropout(0.5), tl.layers.Dense(4)])
    seen = []

    class Watch(tl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.sublayers[1].rng.random())

    compiled(model).fit(
        rows(6),
        labels(),
        batch_size=10,
        verbose=0,
        callbacks=[Watch()],
        strategy=tl.distributed.DataParallel(),
    )
    return seen


def test_ranks_draw_different_dropout(job):
    results = job.run(dropout_masks)
    assert len({draws[0] for draws in results}) == job.ranks
    assert all(draws[0] != draws[1] for draws in results)


def fresh_seeds():
    """A model and a loader without a seed: each rank would draw its own."""
    x = np.arange(23.0)[:, None]
    seen = []

    class Spy(tl.layers.Layer):
        def forward(self, x, training=False):
            seen.extend(x[:, 0] if training else [])
            return x

        def backward(self, grad):
            return grad

    for data in ((x, x), (tl.data.DataLoader(x, x, batch_size=5, seed=None, dtype="float64"),)):
        model = tl.Sequential([Spy(), tl.layers.Dense(1)], seed=None, dtype="float64")
        model.compile(tl.optimizers.SGD(0.0), "mse")
        model.fit(*data, epochs=2, batch_size=5, verbose=0, strategy=tl.distributed.DataParallel())
    return seen


def test_no_sample_is_lost_or_seen_twice_even_without_a_seed(job):
    seen = np.concatenate(job.run(fresh_seeds))
    values, counts = np.unique(seen, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(23))
    assert set(counts) == {4}  # two loaders, two epochs


def frozen_and_thawed():
    """A callback thaws a layer in the middle of training."""
    rank = tl.distributed.world().rank

    class Thaw(tl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 4:
                self.model.sublayers[1].trainable = True

    options = {"callbacks": [Thaw()]}
    model, _ = train("frozen", tl.distributed.DataParallel(**SMALL), seed=rank, **options)
    single, _ = train("frozen", None, **options)
    return weights(model), weights(single)


def test_a_layer_that_is_thawed_during_training(job):
    for got, want in job.run(frozen_and_thawed):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def synchronized_and_saved(path):
    model, _ = train("synchronized", tl.distributed.DataParallel())
    if tl.distributed.world().rank == 0:
        model.save(path)
    x = MODELS["synchronized"]()[1]
    return model.predict(x, batch_size=23)


def test_a_synchronized_batch_norm_is_loaded_in_a_process_alone(job, tmp_path):
    want = job.run(synchronized_and_saved, str(tmp_path / "model.safetensors"))[0]
    program = (
        "import sys, numpy as np, tinydl as tl\n"
        "from tests.distributed.models import synchronized\n"
        "np.save(sys.argv[2], tl.load(sys.argv[1]).predict(synchronized()[1], batch_size=23))"
    )
    arguments = [str(tmp_path / "model.safetensors"), str(tmp_path / "predicted.npy")]
    subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment_of_ranks(), check=True
    )
    np.testing.assert_allclose(np.load(arguments[1]), want, rtol=1e-9)


def deterministic_with_sync():
    return error_of(
        lambda: train("synchronized", tl.distributed.DataParallel(deterministic=True, shards=12))
    )


def test_deterministic_refuses_synchronized_batch_norm(job):
    for error in job.run(deterministic_with_sync):
        assert error.startswith("ValueError: SyncBatchNorm needs all of a batch at once")


def error_of(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def different(what):
    """The last rank does, or is given, something else than the others; the error."""
    many = tl.distributed.world()
    odd = many.rank == many.size - 1 > 0
    model, x, y = mlp(dtype="float32" if odd and what == "dtype" else "float64")
    if odd and what == "layer":
        model.sublayers[2].units = 5
    rate = 0.2 if odd and what == "rate" else 0.1
    compiled(model, "adam" if odd and what == "optimizer" else tl.optimizers.SGD(rate))
    if odd and what == "frozen":
        model.build_model((6,))
        model.sublayers[1].trainable = False
    if odd and what == "metrics":
        model.metrics = []
    arguments = {"batch_size": 6, "verbose": 0, "strategy": tl.distributed.DataParallel()}
    if odd:
        arguments |= {
            "batch size": {"batch_size": 7},  # as many batches
            "epochs": {"epochs": 2},
            "validation": {"validation_data": (x, y)},
            "Checkpoint": {"callbacks": [tl.callbacks.Checkpoint("never made")]},
            "strategy": {"strategy": tl.distributed.LocalSGD(3)},
            "sharding": {"strategy": tl.distributed.DataParallel(shard_optimizer=True)},
            "compression": {"strategy": tl.distributed.DataParallel(compression="top_k")},
        }.get(what, {})
        n = {"fewer batches": 15, "fewer samples": 22}.get(what, SAMPLES)
        x, y = (x[::-1], y[::-1]) if what == "own samples" else (x[:n], y[:n])
    return error_of(lambda: model.fit(x, y, **arguments))


def a_drifting_rank():
    """Rank 1 changes one number by its last bit."""
    model, x, y = mlp()

    class Spoil(tl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if tl.distributed.world().rank == 1 and batch == 2:
                bias = self.model.sublayers[1].own_parameters[1].value
                bias[3] = np.nextafter(bias[3], 9)

    strategy = tl.distributed.DataParallel(check_every=2)
    fit = compiled(model).fit
    return error_of(
        lambda: fit(x, y, batch_size=4, verbose=0, callbacks=[Spoil()], strategy=strategy)
    )


DIFFERENT = {
    "layer": "'dense_2.weight float64 (7, 5)' where rank 0 has 'dense_2.weight float64 (7, 4)'",
    "dtype": "'dense.weight float32 (6, 13)' where rank 0 has 'dense.weight float64 (6, 13)'",
    "frozen": "'dense_1.weight float64 (13, 7) (frozen)'",
    "rate": "'optimizer = SGD(learning_rate=0.2,",
    "optimizer": "'optimizer = Adam(",
    "metrics": "'metrics = []' where rank 0 has 'metrics = [Accuracy(",
    "batch size": "'batch_size = 7' where rank 0 has 'batch_size = 6'",
    "fewer batches": "'batches an epoch = 3' where rank 0 has 'batches an epoch = 4'",
    "fewer samples": "'samples = 22' where rank 0 has 'samples = 23'",
    "own samples": "'x (6,) from ",
    "epochs": "'epochs = 2' where rank 0 has 'epochs = 1'",
    "validation": "'validation_data = given' where rank 0 has 'validation_data = none'",
    "Checkpoint": "'Checkpoint = every_steps=None' where rank 0 has 'Checkpoint = none'",
    "strategy": "'strategy = LocalSGD' where rank 0 has 'strategy = DataParallel'",
    "sharding": "'reduction = ShardedUpdate()' where rank 0 has 'reduction = AllReduce()'",
    "compression": "'reduction = TopK({'ratio': 0.01})'",
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_between_ranks_is_one_error_that_names_the_rank(job, what):
    """Not a hang, no words of the MPI library's own, and no training of something else than was asked for."""
    errors = job.run(different, what)
    if job.ranks == 1:
        assert errors == ["no error"]
        return
    assert f"ValueError: rank {job.ranks - 1} has {DIFFERENT[what]}" in errors[0]
    assert set(errors) == {errors[0]}


def test_a_drifting_rank_is_an_error_on_all(job):
    name = "the first one that does is 'dense_1.bias'"
    for error in job.run(a_drifting_rank):
        assert (f"after step 4 the parameters differ between ranks; {name}" in error) == (
            job.ranks > 1
        )


def own_batches(deterministic):
    """Iterables give every rank its own batches; here of different lengths."""
    many = tl.distributed.world()
    model, x, y = mlp(seed=many.rank)
    parts = np.array_split(np.arange(20), [3, 9, 11][: many.size - 1])
    mine = parts[many.rank]
    batches = [(x[mine], y[mine])] * 3
    strategy = tl.distributed.DataParallel(deterministic=deterministic, shards=12)
    compiled(model).fit(batches, epochs=2, verbose=0, strategy=strategy)
    single, _, _ = mlp()
    compiled(single).fit([(x[:20], y[:20])] * 3, epochs=2, verbose=0)
    return weights(model), weights(single)


def test_iterables_give_every_rank_its_own_batches(job):
    for got, want in job.run(own_batches, False):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def own_batches_deterministic():
    return error_of(own_batches, True)


def test_deterministic_refuses_batches_that_are_not_shared_out_evenly(job):
    for error in job.run(own_batches_deterministic):
        assert ("needs arrays or a DataLoader" in error) == (job.ranks > 1)


def an_iterator_that_ends_early():
    model, x, y = mlp()
    batches = iter([(x, y)] * (3 if tl.distributed.world().rank else 2))
    strategy = tl.distributed.DataParallel()
    compiled(model).fit(batches, steps_per_epoch=3, verbose=0, strategy=strategy)


def test_an_iterator_that_ends_early_is_an_error_and_no_hang(job):
    """One rank has fewer batches than it said; in a program of its own the error would end the others too."""
    if job.ranks != 2:
        pytest.skip("two ranks show it, and jobs that fail take seconds")
    with pytest.raises(PartyError, match="the data ended after 2 of 3 batches"):
        job.run(an_iterator_that_ends_early)


def interrupted():
    """Ctrl-C reaches one rank in its second step: all stop after the same one."""
    many = tl.distributed.world()
    model, x, y = mlp()

    class Press(tl.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1 and many.rank == many.size - 1:
                import signal

                signal.raise_signal(signal.SIGTERM)

    history = compiled(model).fit(
        x, y, batch_size=5, verbose=0, callbacks=[Press()], strategy=tl.distributed.DataParallel()
    )
    return model.optimizer.iterations, history.interrupted


def test_a_request_to_stop_on_one_rank_stops_all_after_the_same_step(job):
    assert job.run(interrupted) == [(2, True)] * job.ranks


def who_writes():
    calls = []

    class Writer(tl.callbacks.Callback):
        writes = True

        def on_epoch_end(self, epoch, logs=None):
            calls.append(epoch)

    train("mlp", tl.distributed.DataParallel(), callbacks=[Writer()])
    return calls


def test_only_rank_0_writes(job):
    assert job.run(who_writes) == [[0, 1, 2]] + [[]] * (job.ranks - 1)


def progress_line():
    import io

    from rich.console import Console

    text = io.StringIO()
    bar = tl.training.callbacks.ProgressBar(console=Console(file=text, width=200))
    train("mlp", tl.distributed.DataParallel(), callbacks=[bar])
    return text.getvalue()


def test_the_progress_line_says_where_the_time_goes(job):
    first, *others = job.run(progress_line)
    assert others == [""] * (job.ranks - 1)
    assert ("communication" in first) == (job.ranks > 1)
    if job.ranks > 1:
        assert "% computing, " in first and "% data, " in first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"overlap": "sometimes"},
            "overlap must be 'auto', 'thread', 'poll' or 'none', got 'sometimes'",
        ),
        ({"bucket_bytes": 0}, "bucket_bytes must be a whole number >= 1, got 0"),
        ({"check_every": -1}, "check_every must be a whole number >= 0, got -1"),
        ({"deterministic": "a"}, "DataParallel: deterministic must be True or False, got 'a'"),
        ({"shard_optimizer": 2}, "DataParallel: shard_optimizer must be True or False, got 2"),
        ({"compression": "bfloat"}, "unknown compression 'bfloat' .did you mean 'bfloat16'"),
        ({"compression": "float16", "overlap": "poll"}, "overlap='poll' is for plain sums"),
        ({"compression": "float16", "deterministic": True}, "deterministic and compression cannot"),
        ({"shard_optimizer": True, "deterministic": True}, "deterministic and shard_optimizer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tl.distributed.DataParallel(**arguments)


def a_fit_inside_of_a_fit(same_strategy):
    """Each epoch of one model another one is trained, whose gradients lie in memory that all ranks see, too."""
    strategy = tl.distributed.DataParallel()

    class Inner(tl.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            train("mlp", strategy if same_strategy else tl.distributed.DataParallel(), epochs=1)

    model, _ = train("mlp", strategy, callbacks=[Inner()])
    single, _ = train("mlp", None)
    return weights(model), weights(single)


def a_strategy_used_twice():
    return error_of(a_fit_inside_of_a_fit, True)


def test_a_fit_inside_of_a_fit(job):
    for got, want in job.run(a_fit_inside_of_a_fit, False):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    for error in job.run(a_strategy_used_twice):
        assert error.startswith("RuntimeError: this DataParallel is at work in another training")


def gradients_kept(shard_optimizer):
    """A callback keeps what it was shown, and reads it when training is over."""
    kept = []

    class Keep(tl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kept.extend(a for p in self.model.store for a in (p.grad, p.value))

    strategy = tl.distributed.DataParallel(shard_optimizer=shard_optimizer)
    train("mlp", strategy, callbacks=[Keep()])
    readable = bool(np.isfinite([array.sum() for array in kept]).all())
    kept.clear()
    train("mlp", strategy)
    return readable, len(getattr(strategy.world.side, "_shared", []))


@pytest.mark.parametrize("shard_optimizer", [False, True])
def test_gradients_that_a_callback_keeps_can_be_read_after_training(job, shard_optimizer):
    """Memory that ranks share is given back only when nobody refers to it: to read it then would end the process."""
    assert job.run(gradients_kept, shard_optimizer) == [(True, 0)] * job.ranks


def stopped_by_a_callback(hook, ranks):
    """(steps that were done, weights) where ``ranks`` set ``stop_training`` when the second epoch has begun."""
    many = tl.distributed.world()

    class Stop(tl.callbacks.Callback):
        def now(self, number, logs=None):
            if self.model.optimizer.iterations >= 4 and (ranks == "all" or many.rank in ranks):
                self.model.stop_training = True

    setattr(Stop, hook, Stop.now)
    model, _ = train("mlp", tl.distributed.DataParallel(), callbacks=[Stop()])
    return model.optimizer.iterations, weights(model)


@pytest.mark.parametrize(
    ("hook", "ranks", "steps"),
    [("on_epoch_end", "all", 6), ("on_epoch_end", [0], 6), ("on_train_batch_end", "all", 4)],
)
def test_a_callback_that_stops_training_stops_all_ranks(job, hook, ranks, steps):
    """At the end of an epoch it is enough that one does."""
    results = job.run(stopped_by_a_callback, hook, ranks)
    for done, got in results:
        assert done == steps
        np.testing.assert_array_equal(got, results[0][1])
