"""Imports run one way, and `import tinydl` stays light."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"numba", "sklearn", "matplotlib", "pyarrow", "PIL", "rich", "typer", "pydantic", "torch"}


def python(program: str) -> subprocess.CompletedProcess:
    """Run ``program`` in a fresh interpreter, at the root of the repository."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment
    )


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after ``statement``."""
    run = python(f"{statement}\nimport sys\nprint(*{{n.partition('.')[0] for n in sys.modules}})")
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_import_contracts_hold():
    """The layers of pyproject.toml: nothing below imports anything above."""
    pytest.importorskip("importlinter")
    run = python(
        "from importlinter.cli import lint_imports\n"
        "raise SystemExit(lint_imports(no_cache=True, no_logo=True))"
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 kept, 0 broken" in run.stdout


def test_import_tinydl_is_light():
    loaded = loaded_after("import tinydl")
    assert "tinydl" in loaded
    assert not loaded & (HEAVY | {"numpy"})


@pytest.mark.parametrize(
    "module", ["layers", "losses", "metrics", "optimizers", "schedules", "initializers", "training"]
)
def test_a_part_of_tinydl_imports_no_heavy_package(module):
    loaded = loaded_after(f"import tinydl\ntinydl.{module}")
    assert not loaded & HEAVY


def test_every_public_name_is_found():
    import tinydl

    for name in tinydl.__all__:
        assert getattr(tinydl, name) is not None
    assert set(tinydl.__all__) <= set(dir(tinydl))
    with pytest.raises(AttributeError, match="no attribute 'optimisers'"):
        tinydl.optimisers  # noqa: B018


def test_torch_is_for_comparison_only():
    """No module imports PyTorch, at whatever depth of a function, but for the benchmarks' peers."""
    for file in [*ROOT.glob("tinydl/**/*.py"), *ROOT.glob("kernels/**/*.py")]:
        if file.is_relative_to(ROOT / "tinydl" / "bench"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] == "torch" for name in names), file
