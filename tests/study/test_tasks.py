"""The tasks: their data, networks and bad batches; and that tasks of one's own are found."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from tinydl.optimizers import Momentum
from tinydl.study import LARGE_BATCH_TASKS, MAIN_TASKS, TASKS, Task, run_task
from tinydl.study import tasks as tasks_module
from tinydl.study.contenders import get as get_kind
from tinydl.study.tasks import get

DIGITS = (tasks_module.digits, tasks_module.noisy_digits)  # what is at hand without any files
ON_DIGITS = [name for name, task in TASKS.items() if task.data in DIGITS]


def test_the_twelve_tasks_of_the_study_and_the_batch_sizes():
    assert len(MAIN_TASKS) == 12 and len(LARGE_BATCH_TASKS) == 4
    assert [n for n in MAIN_TASKS if TASKS[n].development] == [
        *("digits", "sigmoid-6", "cifar-cnn", "names-lstm", "label-noise"),
        *("tanh-20", "relu-12"),
    ]
    assert [TASKS[n].batch_size for n in LARGE_BATCH_TASKS] == [64, 256, 1024, 4096]
    assert len({TASKS[n].epochs for n in LARGE_BATCH_TASKS}) == 1


def test_digits_are_split_without_overlap_and_standardized_by_the_training_part():
    data = TASKS["digits"].data()
    assert data.x_train.shape == (1000, 8, 8, 1) and data.x_test.shape == (797, 8, 8, 1)
    assert abs(data.x_train.mean()) < 1e-5 and abs(data.x_train.std() - 1) < 1e-5
    rows = {x.tobytes() for x in data.x_train}
    assert not any(x.tobytes() in rows for x in data.x_test)


def test_label_noise_changes_27_percent_of_the_training_labels_and_none_of_the_test():
    clean, noisy = TASKS["digits"].data(), TASKS["label-noise"].data()
    changed = (clean.y_train != noisy.y_train).mean()
    assert 0.23 < changed < 0.31  # 30 % drawn anew, a tenth of them as before
    assert (clean.y_test == noisy.y_test).all() and (clean.x_train == noisy.x_train).all()


@pytest.mark.parametrize(("name", "size"), [("outlier-batch", 1e4), ("nan-batch", np.nan)])
def test_one_batch_a_tenth_into_training_is_spoiled(name, size):
    task, x = TASKS[name], np.ones((2, 3), np.float32)
    changed = [s for s in range(40) if not np.array_equal(task.disturb(s, 40, x), x)]
    assert changed == [4]
    np.testing.assert_array_equal(task.disturb(4, 40, x), np.full((2, 3), size, np.float32))


def test_the_outlier_does_harm():
    """Its loss is many times what it was before, and so is the next ones'."""
    result = run_task(TASKS["outlier-batch"], Momentum(0.01), seed=0, scale=0.2)
    (before, at, after), step = result.losses[18:21], 19
    assert len(result.losses) // 10 == step and at > 100 * before and after > 10 * before


@pytest.mark.parametrize("name", ON_DIGITS)
def test_networks_come_from_the_seed_alone(name):
    first, again, other = (TASKS[name].model(seed).store.values for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_signals_vanish_and_explode_where_the_tasks_say_so():
    x = TASKS["digits"].data().x_train[:100]
    size = {n: TASKS[n].model(0).forward(x).std() for n in ("digits", "tanh-20", "relu-12")}
    assert size["tanh-20"] < 1e-5 and 0.1 < size["digits"] < 10 and size["relu-12"] > 1e4


def test_steps():
    task = TASKS["digits"]
    assert task.steps() == 32 * task.epochs
    assert task.steps(0.5) == 16 * task.epochs and task.steps(1e-9) == 1


def test_a_task_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import replace\nfrom tinydl.study import TASKS\n"
        "def short():\n    return replace(TASKS['digits'], name='short', epochs=1)\n"
        "def wrong():\n    return 3\n"
    )
    assert get(f"{file}:short").steps() == 32
    with pytest.raises(TypeError, match=r"must return a tinydl.study.Task, got int"):
        get(f"{file}:wrong")
    with pytest.raises(ValueError, match="defines no function 'absent'"):
        get(f"{file}:absent")
    broken = tmp_path / "broken.py"
    broken.write_text("def short(:\n    pass\n")
    with pytest.raises(ValueError, match=r"broken\.py cannot be imported: .*line 1"):
        get(f"{broken}:short")


def test_an_unknown_task_is_an_error_that_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"unknown task 'sigmoid6' \(did you mean 'sigmoid-6'\?\)"):
        get("sigmoid6")


def test_a_metric_that_is_none_is_refused():
    with pytest.raises(ValueError, match="metric must be 'accuracy' or 'loss', got 'speed'"):
        dataclasses.replace(TASKS["digits"], metric="speed")


def test_data_are_read_once():
    calls = []
    task = dataclasses.replace(
        TASKS["digits"], data=lambda: calls.append(1) or tasks_module.digits()
    )
    assert task.data() is task.data() and calls == [1]
    assert tasks_module.digits() is TASKS["digits"].data()
    assert isinstance(TASKS["digits"], Task)


def test_the_task_in_the_readme_runs(tmp_path):
    """What the text tells people to write is what works."""
    text = (Path(tasks_module.__file__).parent / "README.md").read_text(encoding="utf-8")
    mytasks, mine = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mytasks.py").write_text(mytasks, encoding="utf-8")
    (tmp_path / "mine.py").write_text(mine, encoding="utf-8")
    task = get(f"{tmp_path}/mytasks.py:sign_of_product")
    for optimizer in ("careful", "lively"):
        kind = get_kind(f"{tmp_path}/mine.py:{optimizer}")
        made = kind.make(0.01, task.steps())
        assert run_task(task, made, seed=0).metric > 80
