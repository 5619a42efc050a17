"""The cache of decoded arrays: whole or absent, dropped when the source changes, never in the way."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from tinydl.data.cache import cached_arrays
from tinydl.data.folders import cache_root


class Build:
    """Makes arrays and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"x": np.arange(6).reshape(2, 3), "y": np.array([0.5])}, {"names": ["a", "b"]}


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "source.zip"
    path.write_bytes(b"first")
    return path


def entries() -> list[Path]:
    return list((cache_root() / "decoded").iterdir())


def check(result) -> None:
    arrays, data = result
    np.testing.assert_array_equal(arrays["x"], [[0, 1, 2], [3, 4, 5]])
    assert arrays["y"].tolist() == [0.5] and data == {"names": ["a", "b"]}


def test_the_second_time_nothing_is_built(source):
    build = Build()
    for _ in range(3):
        check(cached_arrays(source, build))
    assert build.calls == 1 and len(entries()) == 1


def test_a_changed_source_or_option_is_built_again_and_the_old_entry_goes(source):
    build = Build()
    cached_arrays(source, build)
    source.write_bytes(b"second")
    check(cached_arrays(source, build))
    assert build.calls == 2 and len(entries()) == 1
    os.utime(source, ns=(0, 0))
    cached_arrays(source, build)
    assert build.calls == 3 and len(entries()) == 1
    cached_arrays(source, build, {"size": 32})
    assert build.calls == 4 and len(entries()) == 2


def test_a_folder_changes_with_any_file_below_it(tmp_path):
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    build = Build()
    for k in range(3):
        (folder / "a" / f"{k}.png").write_bytes(b"x")
        cached_arrays(folder, build)
        cached_arrays(folder, build)
        assert build.calls == k + 1


@pytest.mark.parametrize("damage", ["cut", "other shape", "no content", "bad json", "lost array"])
def test_a_damaged_entry_is_built_again(source, damage):
    build = Build()
    cached_arrays(source, build)
    (entry,) = entries()
    if damage == "cut":
        data = (entry / "x.npy").read_bytes()
        (entry / "x.npy").write_bytes(data[:-1])
    elif damage == "other shape":
        np.save(entry / "x.npy", np.arange(6).reshape(3, 2))
    elif damage == "lost array":
        (entry / "y.npy").unlink()
    else:
        (entry / "content.json").write_text("{" if damage == "bad json" else "{}")
    check(cached_arrays(source, build))
    check(cached_arrays(source, build))
    assert build.calls == 2


def test_an_interrupted_write_leaves_nothing(source, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cached_arrays(source, Build())
    assert entries() == []
    build = Build()
    check(cached_arrays(source, build))
    assert build.calls == 1


def test_a_full_disk_costs_a_warning_not_the_run(source, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="not cached in .* No space left on device"):
        check(cached_arrays(source, Build()))
    assert entries() == []


def test_a_folder_that_cannot_be_made_costs_a_warning(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TINYDL_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not cached"):
        check(cached_arrays(source, Build()))


def test_another_process_may_be_first(source):
    def build():
        check(cached_arrays(source, Build()))  # what another process does meanwhile
        return Build()()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(cached_arrays(source, build))
    build_again = Build()
    check(cached_arrays(source, build_again))
    assert build_again.calls == 0 and len(entries()) == 1


def write_many_times(source: Path) -> None:
    for _ in range(30):
        check(cached_arrays(source, Build()))
        shutil.rmtree(cache_root() / "decoded", ignore_errors=True)


def test_processes_that_write_at_once_do_not_harm_each_other(source):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_many_times, args=(source,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
