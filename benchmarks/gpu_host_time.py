"""What a training step with device="cuda" costs the host: counted and measured without a GPU.

    python benchmarks/gpu_host_time.py               # resnet8, LeNet and the MLP, batches of 128
    python benchmarks/gpu_host_time.py --profile     # and which functions take the time

Small steps are bound by the host: a GPU is done with most kernels before Python has ordered the next. So it counts how
many orders a step gives, and how long Python thinks between them. Needs numba-cuda, neither CuPy nor a GPU.

Counted, in ``fit``, for one step in the middle of an epoch:

    kernels         of ours that would be launched
    CuPy's          calls that launch a kernel of CuPy's (a + b, fill, astype, sum), by name
    allocations     new arrays on the device, from ``empty`` and as results of CuPy's
    views           of arrays (reshaped, transposed, parts)
    waits           for something that the device has to do first

Measured: microseconds of one step, the fastest of some epochs, in which nothing is computed: processor time of the
thread that trains. ``ours`` is the time outside of launches and of CuPy; ``data`` is what it takes to fetch the next
batch and to copy it to pinned memory.

Not measured, as only a GPU can show it: what a launch itself costs, and a call of CuPy. Both are replaced by functions
that only count; the arrays have shapes and addresses, and no content.

PyTorch, where it is installed: how many ATen operations the same network's step calls, eagerly, views left out, and
how long a step takes on the CPU with two images, where little is computed. That time has some arithmetic in it and
leaves out launches: a rough peer. (On the device ``meta``, where nothing is computed at all, a step takes many times
as long: there PyTorch works out shapes in Python.)
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(
    0, str(Path(__file__).parents[1])
)  # for the stand-in for CuPy, which tests use as well

BATCH, STEPS, EPOCHS = 128, 10, 40
SHAPES = {"resnet8": (32, 32, 3), "lenet": (28, 28, 1), "mlp": (28, 28, 1)}
CLASSES = 10
IN_PLACE = ("fill", "set", "copyto")  # what CuPy's functions return without an array of their own


# --- a device without content ---------------------------------------------------------------------


class Device:
    """The stand-in for CuPy, without its arithmetic, and launches that are only counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds = 0.0  # inside of what stands for CuPy, and timing that
        self.timing = 0.0
        self.timing = self.seconds_of_timing()
        self.results: dict[Any, Any] = {}

    def install(self) -> None:
        from tests.training import stand_in_cupy as cupy
        from tinydl.training import clock
        from tinydl_kernels.cuda import device, tiles

        if device.SIMULATED:
            raise SystemExit("gpu_host_time: not with NUMBA_ENABLE_CUDASIM=1")

        class Array(cupy.DeviceArray):
            """One whose properties are as quick to read as CuPy's."""

            __slots__ = ("dtype", "ndim", "pointer", "shape", "size", "strides")

            def __init__(self, host: np.ndarray) -> None:
                self.host, self.pointer = host, host.__array_interface__["data"][0]
                self.dtype, self.ndim, self.size = host.dtype, host.ndim, host.size
                self.shape, self.strides = host.shape, host.strides

        array = cupy.DeviceArray = cupy.Library.ndarray = Array

        def launch(function: Any, grid: Any, *arguments: Any) -> None:
            if 0 not in grid:
                self.counts["kernels"] += 1
                self.counts[f"kernel {function.py_func.__name__}"] += 1

        def launch_again(known: Any, *addresses: int) -> None:
            launch(known.dispatcher, known.grid)

        def address(x: Any) -> int:
            return x.pointer

        def empty(library: Any, shape: Any, dtype: Any = "float64") -> Any:
            self.counts["allocations"] += 1
            return array(np.empty(shape, dtype))

        def get(x: Any, out: Any = None, blocking: bool = True) -> Any:
            self.counts["waits"] += blocking
            if out is None:
                return np.zeros(x.shape, x.dtype)
            out.fill(0)
            return out

        def view(name: str) -> Callable:
            make = getattr(cupy.DeviceArray, name)

            def counted(x: Any, *arguments: Any) -> Any:
                self.counts["views"] += 1
                return make(x, *arguments)

            return counted

        def setitem(x: Any, key: Any, value: Any) -> None:
            self.counts["CuPy setitem"] += 1

        for where, name, function in (
            (cupy, "computed", self.computed),
            (cupy.Library, "empty", empty),
            (array, "get", get),
            (array, "set", lambda x, host, stream=None: None),
            (array, "__setitem__", setitem),
            (array, "__getitem__", view("__getitem__")),
            (array, "reshape", view("reshape")),
            (array, "transpose", view("transpose")),
        ):
            setattr(where, name, self.timed(function))
        array.T = property(lambda x: x.transpose())
        cupy.Event.reach = lambda event: None
        clock.time = SimpleNamespace(perf_counter=time.thread_time)
        cupy.COUNTS = self.counts
        device.launch, device.launch_again = launch, launch_again
        device.address = device.memory = address
        device.namespace, device.require = lambda: cupy.LIBRARY, lambda: None
        device.check_array, device.current = lambda where, name, x: None, lambda: 0
        device.multiprocessors = lambda: tiles.H200_MULTIPROCESSORS
        device.name = lambda: tiles.H200
        self.wrapped = cupy.wrapped

    def computed(self, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        """One of CuPy's kernels: the first of each kind is computed, for the shape of its result."""
        self.counts["CuPy's"] += 1
        self.counts[f"CuPy {name}"] += 1
        key = (name, *map(described, args), *map(described, kwargs.values()))
        if key not in self.results:
            from tests.training.stand_in_cupy import bare

            with np.errstate(all="ignore"):
                self.results[key] = function(
                    *bare(list(args)), **{k: bare(v) for k, v in kwargs.items()}
                )
        if "out" in kwargs or name in IN_PLACE:
            return None
        self.counts["allocations"] += 1
        found = self.results[key]
        return self.wrapped(np.empty_like(found) if isinstance(found, np.ndarray) else found)

    def seconds_of_timing(self, calls: int = 20000) -> float:
        """What it takes to time a call, beside what is noted of it."""
        call = self.timed(lambda x: None)
        noted, began = self.seconds, time.thread_time()
        for _ in range(calls):
            call(0)
        return (time.thread_time() - began - (self.seconds - noted)) / calls

    def timed(self, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - began + self.timing

        return call


def described(x: Any) -> Any:
    if hasattr(x, "__cuda_array_interface__") and not isinstance(x, type):
        return x.shape, x.strides, x.dtype.str
    return str(x)


# --- ours -----------------------------------------------------------------------------------------


def arrays(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH * STEPS, *SHAPES[name]), dtype=np.float32)
    return images, rng.integers(CLASSES, size=BATCH * STEPS)


def compiled(name: str) -> Any:
    import tinydl as tl

    model = tl.architectures.build(name, SHAPES[name], CLASSES, seed=0)
    model.compile(tl.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    return model


def counts_of_step(device: Device, name: str) -> Counter[str]:
    """Of one step, in the middle of an epoch."""
    import tinydl as tl

    found: list[Counter[str]] = []
    callback = tl.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: found.append(device.counts.copy())
    )
    x, y = arrays(name)
    model = compiled(name)
    model.fit(
        x[: 4 * BATCH], y[: 4 * BATCH], batch_size=BATCH, verbose=0, callbacks=callback, device="cuda"
    )  # fmt: skip
    return found[2] - found[1]


def seconds_of_step(device: Device, name: str, profile: Any) -> dict[str, float]:
    """The fastest epoch's, for each step."""
    import tinydl as tl

    found: list[dict[str, float]] = []
    began: list[float] = []

    def begin(epoch: int) -> None:
        if epoch == EPOCHS - 1 and profile is not None:
            profile.enable()
        began[:] = [time.thread_time(), device.seconds]

    class Notes(tl.callbacks.Callback):
        def on_epoch_begin(self, epoch: int) -> None:
            begin(epoch)

        def on_epoch_end(self, epoch: int, logs: Any) -> None:
            total = time.thread_time() - began[0]
            data = self.params["clock"].shares()["data"] * total
            cupy = device.seconds - began[1]
            found.append({"ours": total - data - cupy, "data": data, "stand-in": cupy})

    x, y = arrays(name)
    compiled(name).fit(
        x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=Notes(), device="cuda"
    )
    if profile is not None:
        profile.disable()
        found.pop()
    fastest = min(found[1:], key=lambda times: times["ours"])
    return {part: seconds / STEPS for part, seconds in fastest.items()}


def show(device: Device, name: str, with_profile: bool) -> None:
    counts = counts_of_step(device, name)
    print(f"{name}, batches of {BATCH}, one step")
    for part in ("kernels", "CuPy's", "allocations", "views", "waits"):
        print(f"    {part:12}{counts[part]:6}")
    for kind in ("kernel", "CuPy"):
        each = [part.split() for part in counts if part.startswith(f"{kind} ")]
        names = sorted((name for _, name in each), key=lambda name: -counts[f"{kind} {name}"])
        print(f"    {kind}: " + ", ".join(f"{counts[f'{kind} {name}']} {name}" for name in names))
    profile = cProfile.Profile() if with_profile else None
    for part, seconds in seconds_of_step(device, name, profile).items():
        print(f"    {part:12}{1e6 * seconds:6.0f} us")
    if profile is not None:
        pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(40)


# --- PyTorch --------------------------------------------------------------------------------------


def show_torch(torch: Any, name: str) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    from tinydl.bench.operations.torch_step import NETWORKS

    class Count(TorchDispatchMode):
        orders = 0

        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.orders += not function.is_view and "empty" not in str(function)
            return function(*args, **(kwargs or {}))

    torch.set_num_threads(1)
    model = NETWORKS[name]()
    height, width, channels = SHAPES[name]
    inputs = torch.zeros(2, channels, height, width)
    inputs = inputs.flatten(1) if name == "mlp" else inputs.to(memory_format=torch.channels_last)
    labels = torch.zeros(2, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, foreach=True)
    criterion = torch.nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(inputs), labels).backward()
        optimizer.step()

    times = []
    for _ in range(5 * EPOCHS):
        began = time.thread_time()
        step()
        times.append(time.thread_time() - began)
    with Count() as count:
        step()
    print(f"{name} in PyTorch {torch.__version__}, one step")
    print(f"    operations  {count.orders:6}")
    print(f"    two images  {1e6 * min(times):6.0f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(SHAPES)}; all if none is given")
    parser.add_argument("--profile", action="store_true", help="where the time goes, by cProfile")
    given = parser.parse_args()
    names = given.networks or list(SHAPES)
    try:
        device = Device()
        device.install()
    except ImportError as error:
        print(f"gpu_host_time: {error}", file=sys.stderr)
    else:
        for name in names:
            show(device, name, given.profile)
    try:
        import torch
    except ImportError:
        return
    for name in names:
        show_torch(torch, name)


if __name__ == "__main__":
    main()
