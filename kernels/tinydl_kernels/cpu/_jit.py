"""The one place that asks Numba to compile for CPUs.

Every kernel is decorated with `jit` from here, so that compiler options are decided once:

* `nogil`: a kernel touches no Python object, so it gives the interpreter's lock away.
* `error_model="numpy"`: x / 0 is inf or nan as IEEE 754 says, and no branch guards each division.
* fast-math only as a named subset: `fastmath=True` would let LLVM assume that no NaN exists, and a
  NaN in the data would then vanish silently. `REASSOCIATE` allows what speed needs (sums in vector
  lanes, fused multiply-add) and nothing else.

Machine code is kept for the next process, in files that `_cache` names by all that it depends on.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

from .._cache import Entries, cache_folder, identity_of

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


def native_for_floats(function: Callable) -> dict[np.dtype, NativeKernel]:
    """`function(fields, memory)` for each element type of `memory`; `fields` is a table of integers.

    Each is compiled when its address is first asked for.
    """
    table = numba.types.CPointer(numba.types.int64)
    return {
        np.dtype(str(element)): native(numba.types.int64(table, numba.types.CPointer(element)))(
            function
        )
        for element in (numba.types.float32, numba.types.float64)
    }


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


class KernelCache(FunctionCache):
    """Numba's per-function cache with entries that are named by what they depend on."""

    def __init__(self, function: Callable, folder: Path) -> None:
        # Numba's constructor would pick a locator by its own rules; everything it sets is set here.
        self._name = repr(function)
        self._py_func = function
        self._impl = _CompileResult(function)
        self._cache_path = str(folder)
        self._cache_file = Entries(function, folder)
        self.enable()

    def _index_key(self, signature: Any, codegen: Any) -> str:
        # The text of the types stands for them: unlike their pickles it is equal in every process.
        options = (config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.BOUNDSCHECK)
        return repr((signature, codegen.magic_tuple(), str(options), identity_of(self._py_func)))

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


class _Source:
    def __init__(self, path: str) -> None:
        self._py_file = path  # named in Numba's warning about a function that cannot be cached
