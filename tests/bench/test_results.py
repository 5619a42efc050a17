"""Results files: what is written is read back; what is no results file is refused; comparison of two runs."""

import json

import pytest

from tinydl.bench import results
from tinydl.bench.results import LayerTime, Measurement, Peaks, Report, ResultsError, StepDetails


def measurement(seconds, case="4x4x4 NN", **changes):
    fields = {"operation": "matmul", "dtype": "float32", "threads": 1, "flops": 128, "bytes": 192}
    return Measurement(case=case, seconds=seconds, **{**fields, **changes})


def report(*measurements, **fields):
    return Report(
        command="tinydl bench matmul 4",
        started="2026-01-31T12:00:00+00:00",
        machine={"processor": "abacus", "target": {"vector_bytes": 64}},
        measurements=list(measurements),
        **fields,
    )


def test_round_trip(tmp_path):
    whole = report(
        measurement({"tinydl": [1e-7, 2e-7], "openblas": [0.1, 0.30000000000000004]}),
        peaks=[Peaks(dtype="float32", threads=1, gflops=250.5, bandwidth={"L1": 700.0})],
        steps=[
            StepDetails(
                case="mlp b8 adam",
                threads=1,
                parameters={"tinydl": 10},
                peak_memory={"tinydl": 1 << 30},
                profile=[LayerTime(layer="dense", forward=0.1, backward=0.2)],
            )
        ],
    )
    results.write(whole, tmp_path / "deep" / "r.json")
    assert results.read(tmp_path / "deep" / "r.json") == whole


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not a results file"),
        ("{}", "command Field required"),
        ('{"a": 1', "not a results file"),
        ("[1, 2]", "not a results file"),
    ],
)
def test_other_files_are_refused(tmp_path, content, words):
    file = tmp_path / "r.json"
    file.write_text(content)
    with pytest.raises(ResultsError, match=words) as info:
        results.read(file)
    assert str(file) in str(info.value)


def test_unknown_format_and_absent_file(tmp_path):
    file = tmp_path / "r.json"
    file.write_text(json.dumps({**json.loads(report().model_dump_json()), "format": 99}))
    with pytest.raises(ResultsError, match="format 99"):
        results.read(file)
    with pytest.raises(ResultsError, match="cannot be read"):
        results.read(tmp_path / "absent.json")


def test_of_two_layouts_the_better_counts():
    m = measurement(
        {"tinydl": [1.0, 1.0], "torch:nchw": [3.0, 3.0], "torch:channels-last": [2.0, 2.0]}
    )
    assert m.best("torch") == "torch:channels-last"
    assert m.ratio("torch").value == pytest.approx(2)
    assert m.best("numpy") is None and m.ratio("numpy") is None
    assert results.peers_of([m]) == ["torch"]


def test_rungs_are_no_peers():
    m = measurement({"tinydl": [1.0], "ladder:naive": [9.0], "numpy": [1.0]})
    assert results.peers_of([m]) == ["numpy"]


def test_gflops_of_the_median():
    assert measurement({"tinydl": [1e-6, 2e-6, 9e-6]}).gflops("tinydl") == pytest.approx(0.064)


def test_comparison_pairs_equal_cases_only():
    before = report(
        measurement({"tinydl": [4.0] * 5, "numpy": [4.0] * 5}),
        measurement({"tinydl": [1.0] * 5, "numpy": [2.0] * 5}, case="8x8x8 NN"),
        measurement({"tinydl": [1.0] * 5, "numpy": [1.0] * 5}, threads=2),
    )
    now = report(
        measurement({"tinydl": [2.0] * 5, "numpy": [4.0] * 5}),
        measurement({"tinydl": [2.0] * 5, "numpy": [2.0] * 5}, case="8x8x8 NN"),
        measurement({"tinydl": [1.0] * 5, "numpy": [1.0] * 5}, dtype="float64"),
    )
    first, second = results.compare(now, before)
    assert first.speed == pytest.approx(2) and second.speed == pytest.approx(0.5)
    then, later = first.ratios["numpy"]
    assert (then.value, later.value) == (pytest.approx(1), pytest.approx(2))
    assert (first.verdict(), second.verdict()) == ("faster", "slower")


def test_overlapping_intervals_give_no_verdict():
    noisy = [1.0, 2.0, 0.5, 1.5, 0.8]
    before = report(measurement({"tinydl": noisy, "numpy": [1.0] * 5}))
    now = report(measurement({"tinydl": noisy[::-1], "numpy": [1.1] * 5}))
    (change,) = results.compare(now, before)
    assert change.verdict() == ""


def test_a_machine_that_is_slower_as_a_whole_is_no_change_of_ratio():
    before = report(measurement({"tinydl": [1.0] * 5, "numpy": [2.0] * 5}))
    now = report(measurement({"tinydl": [3.0] * 5, "numpy": [6.0] * 5}))
    (change,) = results.compare(now, before)
    assert change.speed == pytest.approx(1 / 3) and change.verdict() == ""
