"""What stands for CuPy in tests without a GPU: arrays that mix with NumPy's as little as CuPy's do.

A ``DeviceArray`` holds its elements in the host's memory, but gives them away only where CuPy would: by ``get``, and by
the conversions that wait for the device. Copies that would run by themselves are done when somebody waits for them, so
that what reads too early, or gives memory up too early, shows.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

COUNTS: Counter[str] = Counter()  # "waits", "launches", "to device", "to host"
USED: set[str] = set()  # names of CuPy's functions that were called


def poisoned(shape: Any, dtype: Any) -> np.ndarray:
    """What memory holds before anybody writes to it."""
    array = np.empty(shape, dtype)
    array.fill(np.nan if array.dtype.kind == "f" else 77 if array.dtype.kind in "iu" else True)
    return array


def bare(x: Any) -> Any:
    """``x`` with the host arrays within; host arrays themselves are refused, as CuPy does."""
    if isinstance(x, DeviceArray):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, list | tuple):
        return type(x)(map(bare, x))
    return x


def wrapped(x: Any) -> Any:
    if isinstance(x, np.ndarray | np.generic):
        return DeviceArray(np.asarray(x))
    if isinstance(x, list | tuple):
        return type(x)(map(wrapped, x))
    return x


def computed(name: str, function: Any, args: Any, kwargs: Any) -> Any:
    """function(*args, **kwargs) on the device."""
    COUNTS["launches"] += 1
    USED.add(name)
    return wrapped(function(*bare(list(args)), **{key: bare(x) for key, x in kwargs.items()}))


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that only the device can read."""

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    # ---- what NumPy asks of arrays that are not its own ----

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            return NotImplemented  # as CuPy: np.add.reduce and the like
        (out,) = kwargs.pop("out", (None,))
        if out is None:
            return computed(ufunc.__name__, ufunc, inputs, kwargs)
        computed(ufunc.__name__, ufunc, inputs, {**kwargs, "out": out})
        return out

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.may_share_memory:
            return function(*bare(list(args)))
        if function is np.shape:
            return args[0].shape
        return computed(function.__name__, function, args, kwargs)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.host.__array_interface__

    # ---- what needs no device ----

    dtype = property(lambda self: self.host.dtype)
    shape = property(lambda self: self.host.shape)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    itemsize = property(lambda self: self.host.itemsize)
    nbytes = property(lambda self: self.host.nbytes)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    T = property(lambda self: DeviceArray(self.host.T))

    def __len__(self) -> int:
        return len(self.host)

    def reshape(self, *shape: Any) -> DeviceArray:
        return DeviceArray(self.host.reshape(*shape))

    def transpose(self, *axes: Any) -> DeviceArray:
        return DeviceArray(self.host.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> DeviceArray:
        return DeviceArray(self.host.swapaxes(a, b))

    # ---- what the device does ----

    def _does(name: str) -> Any:  # type: ignore[misc]
        def method(self: DeviceArray, *args: Any, **kwargs: Any) -> Any:
            return computed(name, getattr(np.ndarray, name), (self, *args), kwargs)

        return method

    sum, mean, max, min, any, all = map(_does, ("sum", "mean", "max", "min", "any", "all"))
    argsort, ravel, copy = map(_does, ("argsort", "ravel", "copy"))

    def astype(self, dtype: Any, copy: bool = True) -> DeviceArray:
        if not copy and self.dtype == dtype:
            return self
        return computed("astype", np.ndarray.astype, (self, dtype), {})

    def fill(self, value: Any) -> None:
        computed("fill", np.ndarray.fill, (self, value), {})

    def __getitem__(self, key: Any) -> DeviceArray:
        where = bare(key if isinstance(key, tuple) else (key,))
        COUNTS["launches"] += any(isinstance(part, np.ndarray) for part in where)
        return wrapped(self.host[where])

    def __setitem__(self, key: Any, value: Any) -> None:
        COUNTS["launches"] += 1
        self.host[bare(key if isinstance(key, tuple) else (key,))] = bare(value)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    # ---- what goes from one side to the other ----

    def get(self, out: np.ndarray | None = None, blocking: bool = True) -> np.ndarray:
        COUNTS["to host"] += 1
        value = self.host.copy()
        if blocking:
            COUNTS["waits"] += 1
            assert out is None
            return value
        assert out is not None and out.shape == value.shape and out.dtype == value.dtype
        out.fill(np.nan if out.dtype.kind == "f" else 0)
        target = Lent(out)
        current_stream().orders.append(lambda: target.memory().__setitem__(..., value))
        return out

    def set(self, array: np.ndarray, stream: Stream | None = None) -> None:
        COUNTS["to device"] += 1
        assert array.shape == self.shape and array.dtype == self.dtype
        if stream is None:
            self.host[...] = array
            return
        source = Lent(array)
        stream.orders.append(lambda: self.host.__setitem__(..., source.memory()))

    def item(self) -> Any:
        COUNTS["waits"] += 1
        return self.host.item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __format__(self, how: str) -> str:
        return format(self.item(), how)


# ---- streams, events and pinned memory -----------------------------------------------------------------------


class Pinned(bytearray):
    """Host memory that the device can reach."""


class Lent:
    """Pinned memory that a copy still needs; it is an error to have given it up when the copy is done."""

    def __init__(self, array: np.ndarray) -> None:
        owner: Any = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        owner = owner.obj if isinstance(owner, memoryview) else owner
        assert isinstance(owner, Pinned), "copies run by themselves only with pinned memory"
        self.owner, self.shape, self.dtype = weakref.ref(owner), array.shape, array.dtype
        self.offset = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data

    def memory(self) -> np.ndarray:
        owner = self.owner()
        assert owner is not None, "memory was given up while it was copied"
        count = math.prod(self.shape)
        return np.frombuffer(owner, self.dtype, count, self.offset).reshape(self.shape)


class Stream:
    """Orders in a row, done when somebody waits for them."""

    def __init__(self, non_blocking: bool = False) -> None:
        self.orders: list[Any] = []
        self.ptr = 0  # the handle

    def record(self) -> Event:
        return Event(self, len(self.orders))

    def wait_event(self, event: Event) -> None:
        event.reach()

    def synchronize(self) -> None:
        COUNTS["waits"] += 1
        self.record().reach()

    def __enter__(self) -> Stream:
        ENTERED.streams = [*getattr(ENTERED, "streams", []), self]
        return self

    def __exit__(self, *error: object) -> None:
        ENTERED.streams.pop()


class Event:
    def __init__(self, stream: Stream, place: int) -> None:
        self.stream, self.place = stream, place

    def reach(self) -> None:
        for k in range(self.place):
            order, self.stream.orders[k] = self.stream.orders[k], None
            if order is not None:
                order()

    def synchronize(self) -> None:
        COUNTS["waits"] += 1
        self.reach()


class Device:
    """The only one; as it is the current one, entering it changes nothing."""

    used: ClassVar[list[int]] = []

    def __init__(self, number: int | None = None) -> None:
        self.number = number

    def use(self) -> None:
        self.used.append(self.number or 0)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None: ...


CURRENT = Stream()
ENTERED = threading.local()  # the streams that a thread has entered


def current_stream() -> Stream:
    inner = getattr(ENTERED, "streams", [])
    return inner[-1] if inner else CURRENT


def asarray(x: Any, dtype: Any = None) -> DeviceArray:
    if isinstance(x, DeviceArray):
        return x
    COUNTS["to device"] += 1
    return DeviceArray(np.array(x, dtype))


class Library:
    """The module ``cupy``, as far as it is used."""

    ndarray = DeviceArray
    asarray = staticmethod(asarray)
    cuda = SimpleNamespace(
        Stream=Stream,
        get_current_stream=current_stream,
        Device=Device,
        runtime=SimpleNamespace(getDeviceCount=lambda: 2),
        alloc_pinned_memory=lambda size: Pinned(size),
    )

    def empty(self, shape: Any, dtype: Any = "float64") -> DeviceArray:
        return DeviceArray(poisoned(shape, dtype))

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if not callable(function):
            return function
        return lambda *args, **kwargs: computed(name, function, args, kwargs)


LIBRARY = Library()
