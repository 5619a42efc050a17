"""Who takes part, and who shares a process."""

import pytest

from tinydl.bench import contenders as c
from tinydl.bench.runner import chosen_core_type


def names(groups):
    return [(core, [member.name for member in members]) for core, members in groups]


def test_one_thread_shares_processes_that_load_the_same_blas():
    parties = c.contenders("matmul", ["openblas", "numpy", "torch"], "SkylakeX")
    assert names(c.group(parties, threads=1)) == [
        ("SkylakeX", ["tinydl", "openblas", "torch"]),
        ("", ["numpy"]),
    ]


def test_more_threads_share_nothing():
    parties = c.contenders("conv2d", ["torch"], "SkylakeX")
    assert names(c.group(parties, threads=2)) == [
        ("", ["tinydl"]),
        ("", ["torch:nchw"]),
        ("", ["torch:channels-last"]),
    ]


def test_who_has_nothing_to_offer_does_not_take_part():
    assert [p.name for p in c.contenders("conv2d", ["openblas", "numpy"], "")] == ["tinydl"]
    assert [p.name for p in c.contenders("passes", ["openblas", "numpy"], "")] == [
        "tinydl",
        "numpy",
    ]
    assert names(c.group(c.contenders("step", [], ""), 1)) == [("", ["tinydl"])]


def test_environment_sets_every_pool_and_the_core_type():
    variables = c.environment(3, "SkylakeX")
    assert {variables[name] for name in c.THREAD_VARIABLES} == {"3"}
    assert variables["OPENBLAS_CORETYPE"] == "SkylakeX"
    assert "OPENBLAS_CORETYPE" not in c.environment(1)


def test_avx2_holds_everyone_back():
    variables = c.environment(1, "SkylakeX", "avx2")
    assert variables["OPENBLAS_CORETYPE"] == "Haswell"
    assert (
        "avx512" not in variables["NUMBA_CPU_FEATURES"]
        and "+fma" in variables["NUMBA_CPU_FEATURES"]
    )
    assert chosen_core_type("avx2") == "Haswell"
    assert chosen_core_type("host", "Zen") == "Zen"


@pytest.mark.parametrize(
    ("features", "core"),
    [({"avx2", "fma", "avx512f"}, "SkylakeX"), ({"avx2", "fma"}, "Haswell"), ({"neon"}, "")],
)
def test_best_core_type(features, core):
    assert c.best_core_type(frozenset(features)) == core


def test_host_features_are_those_of_the_processor(monkeypatch):
    before = c.host_features()
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+sse2")
    assert c.host_features() == before
