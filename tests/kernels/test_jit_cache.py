"""The compile cache never gives stale, foreign or damaged machine code, and saves compiling."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tinydl_kernels

# Three small modules in a copy of the package: a kernel, which imports a function, which imports an
# intrinsic; and one that nobody imports.
FILES = {
    "probe.py": """
from . import probe_function
from ._jit import jit

@jit
def kernel(x):
    return probe_function.twice(x)
""",
    "probe_function.py": """
from ._jit import jit
from .probe_intrinsic import constant

@jit(cache=False)
def twice(x):
    return 2 * constant(x)
""",
    "probe_intrinsic.py": """
from .simd import I64, intrinsic

@intrinsic(returns="int")
def constant(e, x):
    return I64(21)
""",
    "probe_unrelated.py": "",
}
PROGRAM = """
import ast
import importlib.util
import json
import numpy as np
from tinydl_kernels.cpu.probe import kernel
result = kernel(np.ones(3, np.float32))
print(json.dumps([result, sum(kernel.stats.cache_hits.values())]))
"""


@pytest.fixture
def package(tmp_path):
    shutil.copytree(Path(tinydl_kernels.__file__).parent, tmp_path / "tinydl_kernels")
    for name, text in FILES.items():
        (tmp_path / "tinydl_kernels" / "cpu" / name).write_text(text)
    return tmp_path


def start(package: Path, program: str = PROGRAM, **environment: str) -> subprocess.Popen:
    variables = os.environ | {
        "PYTHONPATH": str(package),
        "NUMBA_CACHE_DIR": str(package / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> list:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output)


def edit(package: Path, name: str, old: str, new: str) -> None:
    path = package / "tinydl_kernels" / "cpu" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def entries(package: Path) -> list[Path]:
    return sorted((package / "cache").rglob("*.bin"))


def test_an_edit_anywhere_below_the_kernel_is_seen(package):
    assert finish(start(package)) == [42, 0]
    assert finish(start(package)) == [42, 1]
    edit(package, "probe_intrinsic.py", "21", "31")
    assert finish(start(package)) == [62, 0]
    assert len(entries(package)) == 1  # the outdated one is gone
    edit(package, "probe_function.py", "2 *", "3 *")
    assert finish(start(package)) == [93, 0]
    (package / "tinydl_kernels" / "cpu" / "probe_unrelated.py").write_text("changed = True")
    assert finish(start(package)) == [93, 1]


def test_another_processor_gets_code_of_its_own(package):
    """Globals like the shape of the register tile are frozen into the code."""
    edit(package, "probe_intrinsic.py", "I64(21)", "I64(e.lanes)")
    ours, _ = finish(start(package))
    narrow = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    assert finish(start(package, **narrow)) == [8, 0]  # twice the four lanes of 128 bits
    assert finish(start(package, **narrow)) == [8, 1]
    assert ours >= 8
    assert len(entries(package)) == 2  # neither took the other's place


@pytest.mark.skipif(os.name != "posix", reason="files cannot be locked")
def test_with_a_key_only_the_same_is_waited_for(tmp_path):
    from tinydl_kernels import _cache

    entries = _cache.Entries(imports_in_tree, tmp_path)
    try:
        assert entries.lock("one") and entries.lock("another") and entries.lock()
        assert not entries.lock("one"), "already locked"
        entries.unlock("one")
        assert entries.lock("one")
    finally:
        for key in ("one", "another", ""):
            entries.unlock(key)


def test_processes_that_start_at_once(package):
    processes = [start(package) for _ in range(4)]
    results = [finish(process) for process in processes]
    assert [result for result, _ in results] == [42] * 4
    if os.name == "posix":  # where files can be locked: one compiled, and the others waited
        assert sorted(hits for _, hits in results) == [0, 1, 1, 1]
    assert len(entries(package)) == 1
    assert not list((package / "cache").rglob("*.tmp"))


def test_a_damaged_entry_is_replaced(package):
    finish(start(package))
    for damage in ("empty", "short", "one bit"):
        (path,) = entries(package)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes({"empty": b"", "short": b"short", "one bit": bytes(content)}[damage])
        assert finish(start(package)) == [42, 0]


def test_a_failed_compilation_holds_up_nobody(package):
    edit(package, "probe_intrinsic.py", "return I64(21)", "raise ValueError('broken')")
    program = PROGRAM.replace(
        "result = ", "try: kernel(np.ones(3))\nexcept Exception: pass\nresult = "
    )
    broken = start(package, program)
    broken.communicate(timeout=120)
    assert broken.returncode != 0
    edit(package, "probe_intrinsic.py", "raise ValueError('broken')", "return I64(4)")
    assert finish(start(package)) == [8, 0]


def test_without_a_folder_to_write_to(package):
    """A read-only installation of a user without a home: slower, not broken."""
    nowhere = {
        "NUMBA_CACHE_DIR": os.devnull + "/x",
        "XDG_CACHE_HOME": os.devnull + "/x",
        "HOME": os.devnull + "/x",
    }
    program = PROGRAM.replace("import json", "import json, tempfile; tempfile.tempdir='/dev/null'")
    assert finish(start(package, program, **nowhere)) == [42, 0]


def test_importing_the_package_does_not_import_numba(package):
    program = "import sys, tinydl_kernels, json; print(json.dumps(['numba' in sys.modules]))"
    assert finish(start(package, program)) == [False]


def test_parts_of_kernels_say_so_when_python_calls_them():
    from tinydl_kernels.cpu._jit import jit

    part = jit(lambda x: x + 1, cache=False)
    whole = jit(lambda x: 2 * part(x))
    assert whole(3) == 8
    with pytest.raises(TypeError, match="part of kernels only"):
        part(3)


def test_imports_are_found_by_their_text(tmp_path):
    """As the syntax tree has them, for every module of the package and for each way to write an import."""
    from tinydl_kernels import _cache

    ways = tmp_path / "ways.py"
    ways.write_text(
        "from . import (a,  # (see b)\n  b as c)\n"
        "from .d import e; from ..f import g\n"
        "import tinydl_kernels.h, tinydl_kernels.i as j\n"
        "if True: import tinydl_kernels.k\n"
        "def f():\n    from tinydl_kernels.cpu \\\n        import l\n"
    )
    folder = Path(tinydl_kernels.__file__).parent
    paths = {
        path: ("tinydl_kernels", *path.relative_to(folder).parts) for path in folder.rglob("*.py")
    }
    for path, parts in {**paths, ways: ("tinydl_kernels", "cpu", "ways.py")}.items():
        module = ".".join(parts).removesuffix(".py").removesuffix(".__init__")
        missed = imports_in_tree(module, path) - set(_cache._imports(module, path))
        assert not missed, f"{module}: {missed}"


def imports_in_tree(module: str, path: Path) -> set[str]:
    parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), parent)
            names |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("tinydl_kernels")}
