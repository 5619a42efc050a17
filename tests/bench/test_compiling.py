"""What counts as compiled, and which jobs stand behind a name."""

import numba
import pytest

from tinydl.bench import compiling


def test_compilation_is_seen_once_and_for_the_outermost_kernel():
    @numba.njit
    def inner(x):
        return x + 1

    @numba.njit
    def outer(x):
        return inner(x) * 2

    with compiling.watch_compilation() as watch:
        assert outer(3) == 8
        assert outer(4) == 10
    (only,) = watch.compiled
    assert only.kernel.endswith("outer") and only.types == "int64"
    assert 0 < only.seconds == watch.seconds
    with compiling.watch_compilation() as watch:
        outer(5)
    assert watch.compiled == []


def test_a_callback_is_seen_and_its_cache_is_not(tmp_path, monkeypatch):
    from numba.core.ccallback import CFunc

    original = CFunc.compile
    with compiling.watch_compilation() as watch:

        @numba.cfunc("int64(int64)")
        def double(x):
            return 2 * x

    assert [c.kernel.rpartition(".")[2] for c in watch.compiled] == ["double"]
    assert CFunc.compile is original


def test_nothing_is_recorded_where_it_was_in_the_cache():
    watch = compiling.Watch()
    with watch.compilation("a", "int64") as nothing:
        nothing()
    with watch.compilation("b", "int64"), watch.compilation("c", "int64"):
        pass
    assert [c.kernel for c in watch.compiled] == ["b"]


def test_groups_and_names():
    assert compiling.jobs(["train"]) == list(compiling.ARCHITECTURES)
    assert compiling.jobs(["adam", "mlp", "adam"]) == ["adam", "mlp"]
    assert compiling.jobs(["all", "mlp"]) == list(compiling.GROUPS["all"])
    with pytest.raises(ValueError, match="did you mean 'lenet'"):
        compiling.jobs(["lennet"])


def test_every_architecture_of_training_is_warmed():
    from tinydl.architectures import ARCHITECTURES

    assert set(compiling.ARCHITECTURES) == set(ARCHITECTURES)


@pytest.mark.parametrize("job", ["sgd", "simple_rnn"])
def test_a_job_trains_and_predicts(job):
    result = compiling.warm(job, "float32", batch_size=4)
    assert result.first > 0 and result.again > 0
    assert compiling.warm(job, "float32", batch_size=4).compiled == []
