"""The doctor's judgements: which facts are odd, and what is said about them."""

import pytest

from tinydl.bench import diagnosis as d


def hint(fact):
    return fact[1] if len(fact) > 1 else ""


def test_a_narrower_vector_than_the_processor_has():
    avx512 = frozenset({"avx2", "fma", "avx512f"})
    assert "NUMBA_CPU" in hint(d.vector_width(256, avx512))
    assert not hint(d.vector_width(512, avx512))
    assert not hint(d.vector_width(256, frozenset({"avx2", "fma"})))
    assert not hint(d.vector_width(128, frozenset({"neon"})))


@pytest.mark.parametrize(
    ("count", "cores", "environment", "words"),
    [
        (8, 4, {}, "NUMBA_NUM_THREADS=4"),
        (4, 4, {"OMP_NUM_THREADS": "1"}, "OMP_NUM_THREADS is set"),
        (4, 4, {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "4"}, ""),
        (1, 4, {"NUMBA_NUM_THREADS": "1"}, ""),
        (4, 4, {}, ""),
    ],
)
def test_threads(count, cores, environment, words):
    found = hint(d.threads_fact(count, cores, environment))
    assert words in found and bool(words) == bool(found)


def test_threading_layers():
    assert "no threads" in hint(d.layer_fact([], "default"))
    assert "two Python threads" in hint(d.layer_fact(["workqueue"], "default"))
    assert d.layer_fact(["omp", "workqueue"], "default") == ("omp (there are omp, workqueue)",)
    assert hint(d.layer_fact(["omp", "workqueue"], "workqueue"))


def test_a_container_that_limits_time():
    assert "NUMBA_NUM_THREADS=1" in hint(d.cores_fact(8, 8, 1.5))
    assert d.cores_fact(8, 16, 8.0) == ("8 usable of 16",)
    assert d.cores_fact(8, 8, None) == ("8 usable",)


def test_load():
    assert "other programs" in hint(d.load_fact(3.0, 4))
    assert not hint(d.load_fact(1.0, 4))
    assert d.load_fact(None, 4) == ("unknown",)


def test_blas_below_the_processor():
    pool = {
        "internal_api": "openblas",
        "version": "0.3",
        "architecture": "Haswell",
        "num_threads": 2,
    }
    assert "OPENBLAS_CORETYPE=SkylakeX" in hint(d.blas_fact(pool, "SkylakeX"))
    assert not hint(d.blas_fact(pool, "Haswell"))
    assert not hint(d.blas_fact({**pool, "architecture": "SkylakeX"}, "SkylakeX"))


@pytest.mark.parametrize(
    ("package", "launcher", "odd"),
    [
        ("4.1", None, "there is no mpirun"),
        (None, "/bin/true", "not mpi4py"),
        (None, None, ""),
        ("4.1", "/bin/true", ""),
    ],
)
def test_mpi(monkeypatch, package, launcher, odd):
    monkeypatch.setattr(d, "version", lambda name: package)
    monkeypatch.setattr(d, "find_tool", lambda name: launcher)
    hints = " ".join(fact[2] for fact in d.mpi() if len(fact) > 2)
    assert odd in hints and bool(odd) == bool(hints)


def test_a_gpu_without_cupy(monkeypatch):
    monkeypatch.setattr(d, "find_tool", lambda name: "nvidia-smi")
    monkeypatch.setattr(d, "first_line", lambda command: "Abacus 9000, 1 MiB, 1.0")
    monkeypatch.setattr(d, "version", lambda name: None)
    assert any("no CuPy" in fact[-1] for fact in d.gpu())
    monkeypatch.setattr(d, "version", lambda name: "14.0" if name == "cupy-cuda12x" else None)
    assert not any("no CuPy" in fact[-1] for fact in d.gpu())


def test_numba_settings(monkeypatch):
    for name in ("NUMBA_DISABLE_JIT", "NUMBA_OPT", "NUMBA_BOUNDSCHECK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "0")
    facts = {fact[0]: fact for fact in d.numba_settings()}
    assert "plain Python" in facts["NUMBA_DISABLE_JIT"][2]
    assert facts["NUMBA_BOUNDSCHECK"][2] == ""


def test_data_folder_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYDL_DATA", str(tmp_path / "absent"))
    assert d.data()[0][2] == "there is no such folder"
    monkeypatch.setenv("TINYDL_DATA", str(tmp_path))
    assert len(d.data()[0]) == 2


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def broken():
        raise OSError("no such thing")

    monkeypatch.setattr(d, "SECTIONS", {"Broken": broken, "Whole": lambda: [("a", "b")]})
    failed, whole = d.examine()
    assert failed.value == "OSError: no such thing" and failed.hint
    assert whole == d.Finding("Whole", "a", "b")


def test_programs_that_fail_say_nothing(tmp_path):
    assert d.first_line([str(tmp_path / "absent")]) == ""
    assert d.first_line(["false"]) == ""
    assert d.first_line(["printf", "\\n  one\\ntwo\\n"]) == "one"
    assert d.first_line(["printf", "details:\\n  Version:   1.2\\nmore"]) == "details: Version: 1.2"
