"""What is run: grids, how they grow, tuned rates, what is judged; and the order of it all."""

import math

import pytest

from tests.study.made_up import made_up, study_of
from tinydl.study.contenders import BASELINES, KINDS, Contender, get
from tinydl.study.protocol import Protocol, neighbor
from tinydl.study.records import Results, Run

ADAM = Contender("adam")


def peak_at(best):
    """Accuracy that falls off by 20 points a decade on both sides of a rate."""
    return lambda run: max(10.0, 90 - 20 * abs(math.log10(run.rate / best)))


def test_grids_are_seven_rates_over_three_decades():
    for name in BASELINES:
        rates = KINDS[name].rates
        assert len(rates) == 7 and rates[-1] / rates[0] == pytest.approx(1000)
    assert KINDS["das"].rates[0] == 1e-6 and KINDS["das"].rates[-1] == 10
    assert [neighbor(0.001, k) for k in (-2, -1, 0, 1, 2)] == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert neighbor(0.3, 1) == 1.0 and neighbor(3e-5, -1) == 1e-5


def test_every_baseline_takes_part_with_both_schedules_and_das_with_a_constant_rate():
    found = Protocol(("digits",), ("adam", "das")).contenders
    assert found == [ADAM, Contender("adam", "cosine"), Contender("das")]
    assert Contender("adam", "cosine").make(0.1, 10).schedule(10) == 0


def test_tuning_uses_seeds_that_judging_does_not(tmp_path):
    protocol = Protocol(("digits",), ("adam",), ("constant",), tuning_seeds=2)
    runs = protocol.tuning(Results(tmp_path))
    assert len(runs) == 14 and {r.seed for r in runs} == {100, 101}
    assert {r.rate for r in runs} == set(KINDS["adam"].rates)
    assert protocol.judging(Results(tmp_path)) == []  # nothing is tuned yet


def test_the_tuned_rate_is_judged_from_five_seeds(tmp_path):
    protocol = Protocol(("digits",), ("adam",), ("constant",))
    results = study_of(tmp_path, protocol, peak_at(0.003), stages=("tune",))
    assert protocol.tuned_rate(results, "digits", ADAM) == 0.003
    assert protocol.judging(results) == [Run("digits", ADAM, 0.003, s) for s in range(5)]


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (0.003, 0.003),
        (0.3, 0.3),  # beyond the grid's edge, 0.1
        (1e-5, 1e-5),  # below it, 1e-4
        (1e3, 10.0),  # four half decades beyond, no more
        (1e-9, 1e-6),
    ],
)
def test_a_grid_grows_where_the_best_rate_lies_at_its_edge(tmp_path, best, expected):
    protocol = Protocol(("digits",), ("adam",), ("constant",))
    metric = lambda run: 90 - abs(math.log10(run.rate / best))  # noqa: E731
    results = study_of(tmp_path, protocol, metric, stages=("tune",))
    assert protocol.tuned_rate(results, "digits", ADAM) == expected
    assert len(results.records) <= 7 + 4 + 1


def test_a_grid_on_which_nothing_learns_does_not_grow(tmp_path):
    protocol = Protocol(("relu-12",), ("sgd",), ("constant",))
    results = study_of(tmp_path, protocol, 10.0, stages=("tune",))
    assert len(results.records) == 7


def test_equal_metrics_go_to_the_smaller_last_loss(tmp_path):
    protocol = Protocol(("digits",), ("adam",), ("constant",), rates=(0.1, 0.2, 0.3))
    results = study_of(
        *(tmp_path, protocol, 99.0),
        stages=("tune",),
        losses=lambda run: [1.0, abs(run.rate - 0.2)],
    )
    assert protocol.tuned_rate(results, "digits", ADAM) == 0.2


def test_of_a_loss_less_is_better(tmp_path):
    protocol = Protocol(("names-lstm",), ("adam",), ("constant",))
    metric = lambda run: 2 + abs(math.log10(run.rate / 0.01))  # noqa: E731
    results = study_of(tmp_path, protocol, metric, stages=("tune",))
    assert protocol.tuned_rate(results, "names-lstm", ADAM) == 0.01


def test_rates_that_were_asked_for_are_the_only_ones(tmp_path):
    protocol = Protocol(("digits",), ("adam",), ("constant",), rates=(0.1, 0.2))
    results = study_of(tmp_path, protocol, lambda run: 100 * run.rate)
    assert {run.rate for run in results.records} == {0.1, 0.2}


def test_das_is_judged_at_its_default_and_over_all_rates_without_tuning(tmp_path):
    protocol = Protocol(("digits",), ("das",))
    assert protocol.tuning(Results(tmp_path)) == []
    runs = protocol.judging(Results(tmp_path))
    assert {r.rate for r in runs} == {10.0**k for k in range(-6, 2)}
    assert len(runs) == 40 and runs[0].rate == get("das").default


def test_large_batches_are_judged_with_and_without_retuning(tmp_path):
    protocol = Protocol(("batch-64", "batch-1024"), ("adam",), ("constant",), seeds=1)
    best = {"batch-64": 0.001, "batch-1024": 0.01}
    results = study_of(tmp_path, protocol, lambda run: peak_at(best[run.task])(run))
    judged = {(r.task, r.rate) for r in results.records if r.seed == 0}
    assert judged == {("batch-64", 0.001), ("batch-1024", 0.01), ("batch-1024", 0.001)}


def test_a_finished_study_has_nothing_left(tmp_path):
    protocol = Protocol(("digits",), ("adam", "das"), seeds=2)
    results = study_of(tmp_path, protocol, peak_at(0.003))
    assert protocol.tuning(results) == protocol.judging(results) == []


def test_runs_of_changed_arguments_are_done_again(tmp_path):
    protocol = Protocol(("digits",), ("das",), seeds=1)
    results = study_of(tmp_path, protocol, 90.0)
    run = next(iter(results.records))
    results.records[run] = made_up(run, protocol, 90.0, version="00000000")
    assert protocol.judging(results) == [run]


def test_optimizers_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from tinydl.optimizers import Adam, DAS\n"
        "def fast(learning_rate):\n    return Adam(learning_rate, beta_1=0.5)\n"
        "def other(learning_rate=0.2):\n    return DAS(learning_rate, H=0.5)\n"
        "def wrong(learning_rate=0.2):\n    return 'adam'\n"
    )
    fast, other = get(f"{file}:fast"), get(f"{file}:other")
    assert fast.tuned and fast.make(0.5, 1).beta_1 == 0.5
    assert not other.tuned and other.default == 0.2 and other.make(3.0, 1).learning_rate == 3
    with pytest.raises(TypeError, match="must return a tinydl optimizer, got str"):
        get(f"{file}:wrong")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tasks": ("digit",)}, r"unknown task 'digit' \(did you mean 'digits'\?\)"),
        ({"tasks": ()}, "at least one task"),
        ({"optimizers": ("adan",)}, r"unknown optimizer 'adan' \(did you mean 'adam'\?\)"),
        ({"optimizers": ()}, "at least one optimizer"),
        ({"schedules": ("linear",)}, "unknown schedule 'linear'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"tuning_seeds": 0}, "tuning_seeds must be at least 1, got 0"),
        ({"rates": (0.1, -1.0)}, "a learning rate must be positive and finite, got -1.0"),
        ({"optimizers": ("das",), "schedules": ("cosine",)}, "none of das takes part"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(ValueError, match=words):
        Protocol(**{"tasks": ("digits",), **arguments})
