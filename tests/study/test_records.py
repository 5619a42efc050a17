"""Results on disk: what comes back, what a stopped study leaves, and files that do not fit."""

import dataclasses
import json
import math

import pytest

from tinydl.study import TASKS, RunResult
from tinydl.study.contenders import Contender
from tinydl.study.records import POINTS, Results, ResultsError, Run, record, stretches

RUN = Run("digits", Contender("adam"), 0.003, 0)
RESULT = RunResult(
    metric=97.5,
    losses=[2.0, math.nan] + [0.5] * 998,
    rates=[0.003] * 1000,
    step_seconds=0.0001,
    update_seconds=0.00002,
    steps_to_target=120,
    layer_norms={"dense.weight": [0.1, 0.2]},
)


def kept(tmp_path, *records):
    results = Results(tmp_path)
    results.begin_session({"started": "now"})
    for r in records:
        results.add(r)
    return results


def test_a_run_comes_back_as_it_was_kept(tmp_path):
    made = record(RUN, TASKS["digits"], RESULT)
    kept(tmp_path, made)
    again = Results(tmp_path)
    assert again.records == {RUN: made} and again.finished(RUN) == made
    assert again.sessions == [{"started": "now"}]
    assert (made.metric, made.steps, made.steps_to_target, made.step_ms) == (97.5, 1000, 120, 0.1)
    assert made.rates == []  # they were given: a constant


def test_curves_are_thin_and_leave_nan_aside():
    made = record(RUN, TASKS["digits"], RESULT)
    assert len(made.losses) == POINTS and made.losses[0] == made.losses[1] == 0.5
    assert stretches([1.0, math.nan, 3.14159265]) == [1.0, None, 3.142]
    assert stretches([]) == []


def test_rates_that_an_optimizer_chose_are_kept():
    das = Run("digits", Contender("das"), 0.1, 0)
    result = dataclasses.replace(RESULT, rates=[0.1] * 500 + [0.2] * 500)
    assert set(record(das, TASKS["digits"], result).rates) == {0.1, 0.2}
    bounded = dataclasses.replace(RESULT, rates=[0.05] * 1000)
    assert set(record(das, TASKS["digits"], bounded).rates) == {0.05}


def test_a_failed_run_is_kept_and_not_finished(tmp_path):
    kept(tmp_path, record(RUN, TASKS["digits"], None, "MemoryError: no"))
    again = Results(tmp_path)
    assert again.records[RUN].error == "MemoryError: no" and again.finished(RUN) is None


def test_the_later_of_two_lines_counts(tmp_path):
    failed = record(RUN, TASKS["digits"], None, "no")
    made = record(RUN, TASKS["digits"], RESULT)
    kept(tmp_path, failed, made)
    assert Results(tmp_path).records == {RUN: made}


def test_a_line_that_was_cut_off_is_forgotten_and_replaced(tmp_path):
    made = record(RUN, TASKS["digits"], RESULT)
    results = kept(tmp_path, made, record(RUN._replace(seed=1), TASKS["digits"], RESULT))
    text = results.path.read_text()
    results.path.write_text(text[:-30])
    again = Results(tmp_path)
    assert list(again.records) == [RUN]
    again.begin_session({})
    again.add(record(RUN._replace(seed=2), TASKS["digits"], RESULT))
    assert [run.seed for run in Results(tmp_path).records] == [0, 2]


def test_runs_of_an_optimizer_are_forgotten_for_good(tmp_path):
    results = kept(tmp_path, record(RUN, TASKS["digits"], RESULT))
    results.forget("adam")
    assert results.records == {} and Results(tmp_path).records == {}


def test_only_what_was_measured_takes_space(tmp_path):
    results = kept(tmp_path, record(RUN, TASKS["digits"], RESULT))
    line = json.loads(results.path.read_text().splitlines()[-1])
    assert "error" not in line and "rates" not in line and line["seed"] == 0
    assert results.path.stat().st_size < 1200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a results file of tinydl compare"),
        ("hello\n", "not valid JSON"),
        ('{"a": 1}\n', "is not a results file"),
        ('{"study": "tinydl compare", "format": 99, "scale": 1}\n', "has format 99"),
        (
            '{"study": "tinydl compare", "format": 1, "scale": 1}\nno\n{}\n',
            "runs.jsonl:2: not valid",
        ),
        (
            '{"study": "tinydl compare", "format": 1, "scale": 1}\n{"x": 1}\n',
            "runs.jsonl:2: not a run",
        ),
        ('{"study": "tinydl compare", "format": 1, "scale": 1}\n[]\n', "expected an object"),
    ],
)
def test_files_that_are_none_of_ours(tmp_path, text, words):
    (tmp_path / "runs.jsonl").write_text(text)
    with pytest.raises(ResultsError, match=words):
        Results(tmp_path)


def test_runs_of_another_length_are_refused(tmp_path):
    kept(tmp_path, record(RUN, TASKS["digits"], RESULT))
    with pytest.raises(ResultsError, match=r"holds runs of 1 times the steps, not of 0\.5"):
        Results(tmp_path, scale=0.5)
    assert Results(tmp_path).scale == 1


def test_runs_of_a_task_that_was_changed_are_refused(tmp_path):
    results = kept(tmp_path, record(RUN, TASKS["digits"], RESULT))
    changed = dataclasses.replace(TASKS["digits"], epochs=99)
    with pytest.raises(ResultsError, match="the task now has batches of 32, 99 epochs"):
        results.check({"digits": changed})
    results.check({"digits": TASKS["digits"]})
