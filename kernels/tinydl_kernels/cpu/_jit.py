"""The one place that asks Numba to compile, and the on-disk cache that goes with it.

Every kernel is decorated with `jit` from here, so that compiler options are decided once:

* `nogil`: a kernel touches no Python object, so it gives the interpreter's lock away.
* `error_model="numpy"`: x / 0 is inf or nan as IEEE 754 says, and no branch guards each division.
* fast-math only as a named subset: `fastmath=True` would let LLVM assume that no NaN exists, and a
  NaN in the data would then vanish silently. `REASSOCIATE` allows what speed needs (sums in vector
  lanes, fused multiply-add) and nothing else.

Numba's own cache asks only whether the file of the compiled function changed. Our kernels are built
from functions and intrinsics of other modules, so an edit there would meet stale machine code. Here
an entry's name contains a hash of everything the machine code depends on: the sources of all modules
of this package that the kernel's module imports, directly or not, the argument types, the processor
and the versions of Python, Numba and LLVM. Names that hash their content need no index file, so
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
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite
import numba
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature
from numba.misc.appdirs import AppDirs

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PACKAGE = __name__.split(".")[0]
REASSOCIATE = frozenset({"reassoc", "contract", "nsz"})


def jit(
    function: Callable | None = None,
    *,
    fastmath: frozenset[str] = frozenset(),
    parallel: bool = False,
    cache: bool = True,
) -> Any:
    """Compile `function` with Numba; usable as `@jit` and as `@jit(fastmath=REASSOCIATE)`.

    Compilation happens at the first call with each combination of argument types, or not at all when
    the cache holds the machine code. Globals are frozen into it, so a kernel must not read globals
    that depend on environment variables of the running process. `cache=False` is for functions that
    only other kernels call: their code is kept as part of their callers' (`Part`).
    """
    if function is None:
        return functools.partial(jit, fastmath=fastmath, parallel=parallel, cache=cache)
    options = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": set(fastmath),
        "parallel": parallel,
    }
    if config.DISABLE_JIT:
        return function
    if not cache:
        return Part(numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)(function))
    dispatcher = numba.njit(**options)(function)
    folder = cache_folder()
    if folder is not None:
        dispatcher._cache = KernelCache(function, folder)
    return OneAtATime(dispatcher) if parallel else dispatcher


class Part:
    """A function that only kernels call, and Python never.

    Numba makes every function callable from Python and from C, and compiles that code, too: an eighth
    of the time that a program's first run spends compiling. Parts go without.
    """

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        self._numba_type_ = numba.types.Dispatcher(dispatcher)  # what kernels take it for
        self.py_func = dispatcher.py_func

    def __call__(self, *arguments: Any) -> Any:
        name = self.py_func.__qualname__
        raise TypeError(
            f"{name} is compiled as a part of kernels only: from Python, call {name}.py_func"
        )


class OneAtATime:
    """A parallel kernel, called from Python only, that two Python threads may call at once.

    Of the layers under which Numba runs its threads, `workqueue` (used where there is neither OpenMP
    nor TBB) ends the whole process when that happens. Which one is in use is known only after the
    first call, so until then, and with that layer always, calls wait for each other.
    """

    _lock = threading.Lock()
    _may_overlap = False

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher

    def __call__(self, *arguments: Any) -> Any:
        if OneAtATime._may_overlap:
            return self.dispatcher(*arguments)
        with self._lock:
            result = self.dispatcher(*arguments)
            OneAtATime._may_overlap = numba.threading_layer() != "workqueue"
        return result


def native(signature: Any) -> Callable[[Callable], NativeKernel]:
    """Compile a function for ONE signature of pointers and numbers, to be called by its address.

    A compiled function that calls another is compiled together with a copy of it. For a kernel that
    takes a second to compile, one copy for each memory layout of its arrays would be too much. So
    such a kernel takes pointers, is compiled once, and thin functions for each layout jump to its
    address (`simd.call_native`).
    """
    return lambda function: NativeKernel(function, signature)


class NativeKernel:
    def __init__(self, function: Callable, signature: Any) -> None:
        self.function = function
        self.signature = signature

    @functools.cached_property
    def address(self) -> int:
        """Where the machine code begins; compiled or read from the cache when first asked for."""
        arguments, result = normalize_signature(self.signature)
        options = {"nogil": True, "error_model": "numpy"}
        self._compiled = CFunc(self.function, (arguments, result), locals={}, options=options)
        folder = cache_folder()
        if folder is not None:
            self._compiled._cache = KernelCache(self.function, folder)
        self._compiled.compile()
        return self._compiled.address


@functools.cache
def cache_folder() -> Path | None:
    """Where machine code is kept: NUMBA_CACHE_DIR, else the user's cache folder, else a private
    temporary one. None when nothing is writable: kernels are then compiled in every process."""
    # The package's path is part of the name: two copies must not delete each other's old entries.
    home = hashlib.sha256(str(Path(__file__).parent).encode()).hexdigest()[:12]
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


class KernelCache(FunctionCache):
    """Numba's per-function cache with entries that are named by what they depend on."""

    def __init__(self, function: Callable, folder: Path) -> None:
        # Numba's constructor would pick a locator by its own rules; everything it sets is set here.
        self._name = repr(function)
        self._py_func = function
        self._impl = _CompileResult(function)
        self._cache_path = str(folder)
        self._cache_file = _Entries(function, folder)
        self.enable()

    def _index_key(self, signature: Any, codegen: Any) -> str:
        # The text of the types stands for them: unlike their pickles it is equal in every process.
        code = hashlib.sha256(self._py_func.__code__.co_code).hexdigest()
        options = (config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.BOUNDSCHECK)
        return repr((signature, codegen.magic_tuple(), code, str(options), _closure(self._py_func)))

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled function, or None. After None, other processes that want the same wait until
        this one has saved it: eight ranks that start at once compile once, not eight times."""
        result = super().load_overload(signature, target_context)
        if result is None and self._cache_file.lock():
            result = super().load_overload(signature, target_context)
            if result is not None:
                self._cache_file.unlock()
        return result

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            super().save_overload(signature, result)
        finally:
            self._cache_file.unlock()

    def _save_overload(self, signature: Any, result: Any) -> None:
        if self._enabled and self._impl.check_cachable(result):
            key = self._index_key(signature, result.codegen)
            self._cache_file.save(key, self._impl.reduce(result))


class _CompileResult(CompileResultCacheImpl):
    """How a compiled function becomes bytes and back: Numba's way, without its choice of a file."""

    def __init__(self, function: Callable) -> None:
        self._lineno = function.__code__.co_firstlineno
        self._locator = _Source(function.__code__.co_filename)


# The locks that this process holds, by path. They vanish with the process, however it ends.
_locks: dict[Path, Any] = {}
LONGEST_WAIT = 60.0  # seconds, after which a process compiles for itself


class _Source:
    def __init__(self, path: str) -> None:
        self._py_file = path  # named in Numba's warning about a function that cannot be cached


class _Entries:
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

    def lock(self) -> bool:
        """Wait until no other process compiles this function; False if there is nothing to wait for
        (no file locks here, or this process has the lock from an attempt that failed)."""
        path = self._folder / f"{self._name}.lock"
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

    def unlock(self) -> None:
        file = _locks.pop(self._folder / f"{self._name}.lock", None)
        if file is not None:
            file.close()  # which gives up the lock

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
    base = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def _closure(function: Callable) -> tuple:
    """What a kernel made by a factory function was made with, as text equal in every process."""
    cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    return tuple(_identity(value) for value in cells + (function.__defaults__ or ()))


def _identity(value: Any) -> Any:
    if value is None or isinstance(value, int | float | str | bytes | numba.types.Type):
        return repr(value)
    if isinstance(value, type | ModuleType):
        return value.__name__
    if isinstance(value, tuple):
        return tuple(_identity(item) for item in value)
    function = getattr(value, "py_func", None) or getattr(value, "__wrapped__", value)
    if hasattr(function, "__code__"):
        return (function.__module__, function.__qualname__, _closure(function))
    raise TypeError(
        "a kernel's closure may hold numbers, text, types, tuples and functions, "
        f"not {type(value).__name__}"
    )
