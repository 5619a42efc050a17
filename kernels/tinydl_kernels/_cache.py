"""Machine code that is kept on disk, for the next process: compiling takes a thousand times as long as reading.

Numba's own cache asks only whether the file of the compiled function changed. Our kernels are built
from functions and intrinsics of other modules, so an edit there would meet stale machine code. Here
an entry's name contains a hash of everything the machine code depends on: the sources of all modules
of this package that the kernel's module imports, directly or not, what it was made with, the versions of
Python, Numba and LLVM, and what else the compiler for CPUs (`cpu._jit`) or for GPUs (`cuda.compiling`) puts into
the key: the argument types, the processor. Names that hash their content need no index file, so
processes that start at once have nothing to overwrite for each other: each writes a complete file of
its own and renames it into place, which is atomic.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import pickle
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PACKAGE = __name__.split(".")[0]
FOLDER = Path(__file__).parent


@functools.cache
def cache_folder() -> Path | None:
    """Where machine code is kept: NUMBA_CACHE_DIR, else the user's cache folder, else a private
    temporary one. None when nothing is writable: kernels are then compiled in every process."""
    # The package's path is part of the name: two copies must not delete each other's old entries.
    home = hashlib.sha256(str(FOLDER).encode()).hexdigest()[:12]
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    candidates = [Path(config.CACHE_DIR)] if config.CACHE_DIR else []
    candidates += [
        Path(AppDirs(appname="tinydl", appauthor=False).user_cache_dir),
        Path(tempfile.gettempdir()) / f"tinydl-{user}",
    ]
    for candidate in candidates:
        folder = candidate / f"kernels-{home}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        # Entries are unpickled: never read what another user may have put into a shared folder.
        if not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid():
            return folder
    return None


# The locks that this process holds, by path. They vanish with the process, however it ends.
_locks: dict[Path, Any] = {}
LONGEST_WAIT = 60.0  # seconds, after which a process compiles for itself


class Entries:
    """The files of one function: `<name>-<hash of the key>-<hash of the sources>.bin`."""

    def __init__(self, function: Callable, folder: Path) -> None:
        self._module = function.__module__
        self._folder = folder
        name = f"{function.__module__.removeprefix(PACKAGE + '.')}.{function.__qualname__}"
        self._name = name.replace("<", "").replace(">", "")
        # Where `inspect` finds the file of a module that is run as a script.
        self._file = function.__code__.co_filename

    def _path(self, key: str) -> Path:
        versions = (numba.__version__, llvmlite.__version__, sys.version)
        key_hash = hashlib.sha256(repr((versions, key)).encode()).hexdigest()[:16]
        return (
            self._folder / f"{self._name}-{key_hash}-{source_stamp(self._module, self._file)}.bin"
        )

    def load(self, key: str) -> Any:
        """The stored object, or None. A damaged file (a full disk, a crash) counts as absent."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        digest, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        return pickle.loads(payload)

    def save(self, key: str, value: Any) -> None:
        path = self._path(key)
        payload = dumps(value)
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".tmp", delete=False) as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(file.name, path)
            self._remove_outdated(path)
        except OSError:
            pass  # A cache that cannot be written costs time in the next process, nothing else.

    def lock(self, key: str = "") -> bool:
        """Wait until no other process compiles this function, or, with a key, compiles it for that; False if there is
        nothing to wait for (no file locks here, or this process has the lock from an attempt that failed)."""
        path = self._lock_path(key)
        if fcntl is None or path in _locks:
            return False
        try:
            file = path.open("w")
            deadline = time.monotonic() + LONGEST_WAIT
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        return False
                    time.sleep(0.02)
        except OSError:  # a file system without locks
            return False
        _locks[path] = file
        return True

    def unlock(self, key: str = "") -> None:
        file = _locks.pop(self._lock_path(key), None)
        if file is not None:
            file.close()  # which gives up the lock

    def _lock_path(self, key: str) -> Path:
        name = (
            f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}" if key else self._name
        )
        return self._folder / f"{name}.lock"

    def _remove_outdated(self, current: Path) -> None:
        """Entries with the same key but other sources can never be asked for again."""
        stem = current.name.rsplit("-", 1)[0]
        for path in self._folder.glob(f"{stem}-*.bin"):
            if path != current:
                path.unlink(missing_ok=True)

    def flush(self) -> None:
        for path in self._folder.glob(f"{self._name}-*.bin"):
            path.unlink(missing_ok=True)


@functools.cache
def source_stamp(module: str, file: str | None = None) -> str:
    """A hash over the source of `module` and of every module of this package that it imports,
    directly or through others."""
    digest = hashlib.sha256()
    for name, path in sorted(_package_sources(module, file).items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _package_sources(module: str, file: str | None) -> dict[str, Path]:
    found: dict[str, Path] = {}
    pending = [(module, Path(file) if file else _source_of(module))]
    while pending:
        name, path = pending.pop()
        if path is None or name in found or not path.exists():
            continue
        found[name] = path
        pending += [(imported, _source_of(imported)) for imported in _imports(name, path)]
    return found


# An import statement, with or without parentheses. Found by its text: to parse every file would take more time than to
# read the machine code. Words that only look like an import name no module here, or one too many, which is safe.
_IMPORT = re.compile(
    r"(?:^|[;:])[ \t]*(?:from[ \t]+([.\w]+)[ \t]+)?import\b[ \t]*(\([^)]*\)|[^\n;]+)", re.MULTILINE
)


@functools.cache
def _imports(module: str, path: Path) -> tuple[str, ...]:
    """Names that `module` imports from this package. `from .simd import fma` gives both `…cpu.simd`
    and `…cpu.simd.fma`, since the syntax does not tell modules from functions."""
    names: list[str] = []
    parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
    text = re.sub(r"#[^\n]*|\\\n", " ", path.read_text(encoding="utf-8"))
    for source, imported in _IMPORT.findall(text):
        words = re.findall(r"[\w.]+", imported)
        if source:
            level = len(source) - len(source.lstrip("."))
            origin = importlib.util.resolve_name(source, parent) if level else source
            words = [origin, *(f"{origin.rstrip('.')}.{word}" for word in words)]
        names += words
    return tuple(name for name in names if name.split(".")[0] == PACKAGE)


@functools.cache
def _source_of(module: str) -> Path | None:
    """The file of a module of this package; None for the name of something inside a module."""
    base = FOLDER.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def identity_of(value: Any) -> Any:
    """A function, and what the factory that made it made it with, as text equal in every process."""
    if value is None or isinstance(value, int | float | str | bytes | np.generic | np.dtype):
        return repr(value)
    if isinstance(value, type | ModuleType):
        return value.__name__
    if isinstance(value, tuple):
        return tuple(identity_of(item) for item in value)
    function = getattr(value, "py_func", None) or getattr(value, "__wrapped__", value)
    if hasattr(function, "__code__"):
        code, cells = function.__code__, function.__closure__ or ()
        made_with = (*(cell.cell_contents for cell in cells), *(function.__defaults__ or ()))
        place = (function.__module__, function.__qualname__, code.co_firstlineno)
        return (*place, hashlib.sha256(code.co_code).hexdigest(), identity_of(made_with))
    if isinstance(value, numba.types.Type):
        return repr(value)
    raise TypeError(
        "a kernel's closure may hold numbers, text, types, tuples and functions, "
        f"not {type(value).__name__}"
    )
