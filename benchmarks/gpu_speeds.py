"""How fast are the CUDA kernels beside cuBLAS and cuDNN? For gpu_check.py.

In the same run, on the same random numbers, in float32 without TF32. Contenders take turns; each turn is a graph
of several calls, replayed between two events, so that what Python needs to start a kernel does not count. Where one
contender cannot be captured, the calls of all are timed as they come, and the table says so: small products then
tell how fast Python starts them, no more. CuPy refuses to capture cuBLAS, so PyTorch calls it where PyTorch is
there. Medians. What fits into the L2 cache is read from there, by all contenders alike.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

from gpu_jobs import UNLIMITED, Allowance

SQUARES = [(n, n, n) for n in (512, 1024, 2048, 4096, 8192)]
LADDER_SIZE, TENSOR_CORE_SIZE = 2048, 4096
# (M, K, N): dense layers and their gradients, attention, the convolutions of a small network as products
LAYERS = [
    (128, 784, 512), (784, 128, 512), (256, 4096, 1024), (4096, 256, 1024), (16384, 64, 256),
    (576, 32768, 64), (1, 4096, 4096), (2048, 512, 2048),
]  # fmt: skip
# (images, height and width, channels, filters, taps, stride)
CONVOLUTIONS = [
    (128, 32, 16, 16, 3, 1), (128, 32, 64, 64, 3, 1), (128, 16, 64, 128, 3, 2), (64, 56, 64, 64, 3, 1),
    (64, 28, 128, 128, 3, 1), (64, 14, 256, 256, 3, 1), (64, 56, 256, 64, 1, 1),
]  # fmt: skip
TURNS, LEAST_TURNS, TURN_SECONDS, MOST_CALLS = 15, 3, 0.004, 50

# What tells it from others of its part; the contenders; and floating-point operations of each.
Case = tuple[dict[str, Any], dict[str, Callable[[], Any]], float]


class Turn:
    """Calls of one contender, to be timed again and again."""

    def __init__(self, cupy: Any, call: Callable[[], Any]) -> None:
        self._cupy, self._call = cupy, call
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self.graph: Any = None
        with self._stream:
            for _ in range(2):  # compile, warm up, fill the memory pool
                call()
            self._stream.synchronize()
            once = self._events(call)
            self.calls = max(1, min(MOST_CALLS, round(TURN_SECONDS / max(once, 1e-6))))
            self._capture()
        self.seconds: list[float] = []

    def _capture(self) -> None:
        try:
            self._stream.begin_capture()
            for _ in range(self.calls):
                self._call()
            self.graph = self._stream.end_capture()
        except Exception:  # libraries differ in what they allow while capturing
            self.graph = None
            with contextlib.suppress(Exception):
                self._stream.end_capture()

    def _events(self, call: Callable[[], Any]) -> float:
        start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        start.record(self._stream)
        call()
        end.record(self._stream)
        end.synchronize()
        return self._cupy.cuda.get_elapsed_time(start, end) / 1e3

    def take(self) -> None:
        with self._stream:
            if self.graph is not None:
                whole = self._events(lambda: self.graph.launch(self._stream))
            else:
                whole = self._events(lambda: [self._call() for _ in range(self.calls)])
        self.seconds.append(whole / self.calls)


def race(
    cupy: Any, calls: dict[str, Callable[[], Any]], work: float, allowance: Allowance = UNLIMITED
) -> dict[str, dict[str, Any]]:
    """TFLOP/s of each contender, in turns; `work` in floating-point operations. Fewer turns where there is no time
    for all."""
    cupy.cuda.Device().synchronize()  # the operands are there for streams that do not wait for others
    turns = {}
    for name, call in calls.items():
        try:
            turns[name] = Turn(cupy, call)
        except Exception as error:
            print(f"  {name}: {type(error).__name__}: {error}", file=sys.stderr)
    if any(turn.graph is None for turn in turns.values()):
        for turn in turns.values():
            turn.graph = None
    for taken in range(TURNS):
        if taken >= LEAST_TURNS and allowance.over:
            allowance.leave_out(f"{TURNS - taken} of {TURNS} turns")
            break
        for turn in turns.values():
            turn.take()
    return {
        name: {
            "tflops": work / statistics.median(turn.seconds) / 1e12,
            "seconds": statistics.median(turn.seconds),
            "spread": (max(turn.seconds) - min(turn.seconds)) / statistics.median(turn.seconds),
            "graph": turn.graph is not None,
        }
        for name, turn in turns.items()
    }


def named(case: dict[str, Any]) -> str:
    return f"{'x'.join(map(str, case['shape']))} {case.get('pass', '')}".rstrip()


def report(case: dict[str, Any]) -> None:
    speeds = ", ".join(
        f"{name} {values['tflops']:.1f}{'' if values['graph'] else ' (calls)'}"
        for name, values in case["contenders"].items()
    )
    print(f"{named(case):>34} TFLOP/s: {speeds}")


def torch_or_none() -> Any:
    try:
        import torch
    except ImportError:
        return None
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    return torch if torch.cuda.is_available() else None


def in_stream(torch: Any, cupy: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    """PyTorch's call, in CuPy's current stream."""

    def called() -> Any:
        with torch.cuda.stream(torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr)):
            return call()

    return called


def matrices(cupy: Any, m: int, k: int, n: int) -> tuple[Any, Any, Any]:
    random = cupy.random.default_rng()
    shapes = (m, k), (k, n)
    return *(random.standard_normal(s, dtype="f4") for s in shapes), cupy.empty((m, n), "f4")


def ladder_cases(cupy: Any, torch: Any) -> Iterator[Case]:
    """All rungs, then those on tensor cores for products that are large enough for them."""
    from tinydl_kernels.cuda import ladder

    for n, rungs in (
        (LADDER_SIZE, (*ladder.RUNGS, *ladder.TENSOR_CORES)),
        (TENSOR_CORE_SIZE, ladder.TENSOR_CORES),
    ):
        a, b, c = matrices(cupy, n, n, n)
        calls = {"cublas": cublas(cupy, torch, a, b, c)}
        calls |= {} if torch is None else tensor_core_peers(torch, cupy, a, b)
        for rung in filter(ladder.Rung.runs_here, rungs):
            calls[rung.name] = functools.partial(rung, a, b)
            if rung.compute:
                calls[f"{rung.name}, packed before"] = packed_before(rung, a, b)
        yield {"shape": (n, n, n)}, calls, 2.0 * n**3


def packed_before(rung: Any, a: Any, b: Any) -> Callable[[], Any]:
    """A call of a rung that packs its factors first, without the time for that."""
    from tinydl_kernels.cuda import warpgroups

    pack, packed = warpgroups.pack, {}

    def pack_once(x: Any, *how: Any) -> Any:
        if id(x) not in packed:
            packed[id(x)] = pack(x, *how)
        return packed[id(x)]

    def call() -> Any:
        with unittest.mock.patch.object(warpgroups, "pack", pack_once):
            return rung(a, b)

    return call


def matmul_cases(cupy: Any, torch: Any) -> Iterator[Case]:
    for m, k, n in (*SQUARES, *LAYERS):
        yield {"shape": (m, k, n)}, matmul_calls(cupy, torch, m, k, n), 2.0 * m * k * n


def matmul_calls(cupy: Any, torch: Any, m: int, k: int, n: int) -> dict[str, Callable[[], Any]]:
    from tinydl_kernels.cuda import matmul

    a, b, c = matrices(cupy, m, k, n)
    calls: dict[str, Callable[[], Any]] = {
        "cublas": cublas(cupy, torch, a, b, c),
        "tinydl": lambda: matmul(a, b, c),
        "tinydl tf32": lambda: matmul(a, b, c, precision="tf32"),
        "tinydl bf16": lambda: matmul(a, b, c, precision="bf16"),
    }
    return calls if torch is None else calls | tensor_core_peers(torch, cupy, a, b)


def cublas(cupy: Any, torch: Any, a: Any, b: Any, c: Any) -> Callable[[], Any]:
    """The call c = a b."""
    if torch is None:
        return lambda: cupy.matmul(a, b, out=c)
    x, y, z = (torch.as_tensor(array, device="cuda") for array in (a, b, c))
    return in_stream(torch, cupy, lambda: torch.mm(x, y, out=z))


def tensor_core_peers(torch: Any, cupy: Any, a: Any, b: Any) -> dict[str, Callable[[], Any]]:
    x, y = torch.as_tensor(a, device="cuda"), torch.as_tensor(b, device="cuda")
    x_bf16, y_bf16 = x.bfloat16(), y.bfloat16()

    def tf32() -> Any:
        torch.backends.cuda.matmul.allow_tf32 = True
        result = x @ y
        torch.backends.cuda.matmul.allow_tf32 = False
        return result

    calls = {"cublas tf32": tf32, "cublas bf16": lambda: x_bf16 @ y_bf16}
    return {name: in_stream(torch, cupy, call) for name, call in calls.items()}


def conv2d_cases(cupy: Any, torch: Any) -> Iterator[Case]:
    if torch is None:
        print("conv2d: without a peer, PyTorch (which brings cuDNN) cannot be imported")
    for case in CONVOLUTIONS:
        images, size, channels, filters, taps, stride = case
        outputs = -(-size // stride)
        work = 2.0 * images * outputs**2 * filters * channels * taps**2
        for name, calls in convolution_calls(cupy, torch, case).items():
            yield {"shape": case, "pass": name}, calls, work


def convolution_calls(
    cupy: Any, torch: Any, case: tuple[int, ...]
) -> dict[str, dict[str, Callable]]:
    """For the forward pass and both gradients, tinydl's call and cuDNN's, channels last in both."""
    from tinydl_kernels import cuda

    images, size, channels, filters, taps, stride = case
    outputs, around = -(-size // stride), taps // 2
    random = cupy.random.default_rng()
    x = random.standard_normal((images, size, size, channels), dtype="f4")
    w = random.standard_normal((taps, taps, channels, filters), dtype="f4")
    dy = random.standard_normal((images, outputs, outputs, filters), dtype="f4")
    options = {"strides": stride, "padding": around}
    calls: dict[str, dict[str, Callable]] = {
        "forward": {"tinydl": lambda: cuda.conv2d(x, w, **options)},
        "grad input": {"tinydl": lambda: cuda.conv2d_grad_input(dy, w, x.shape, **options)},
        "grad weight": {"tinydl": lambda: cuda.conv2d_grad_weight(x, dy, w.shape, **options)},
    }
    if torch is None:
        return calls
    tx, ty = (torch.as_tensor(z, device="cuda").permute(0, 3, 1, 2) for z in (x, dy))
    tw = torch.as_tensor(w, device="cuda").permute(3, 2, 0, 1)
    tw = tw.contiguous(memory_format=torch.channels_last)

    def backward(*wanted: bool) -> Any:
        return torch.ops.aten.convolution_backward(
            ty, tx, tw, None, [stride] * 2, [around] * 2, [1, 1], False, [0, 0], 1, [*wanted, False]
        )

    peers = {
        "forward": lambda: torch.nn.functional.conv2d(tx, tw, stride=stride, padding=around),
        "grad input": lambda: backward(True, False),
        "grad weight": lambda: backward(False, True),
    }
    for name, call in peers.items():
        calls[name]["cudnn"] = in_stream(torch, cupy, call)
    return calls


# --- all cases of a part --------------------------------------------------------------------------

CASES: dict[str, Callable[[Any, Any], Iterator[Case]]] = {
    "ladder": ladder_cases,
    "matmul": matmul_cases,
    "conv2d": conv2d_cases,
}
NUMBER = {"ladder": 2, "matmul": len(SQUARES) + len(LAYERS), "conv2d": 3 * len(CONVOLUTIONS)}


def speeds(
    cupy: Any, torch: Any, part: str, allowance: Allowance = UNLIMITED
) -> list[dict[str, Any]]:
    """Each case has an equal share of the time that is left."""
    found: list[dict[str, Any]] = []
    for case, calls, work in CASES[part](cupy, torch):
        to_come = NUMBER[part] - len(found)
        share = allowance.share(1, to_come, named(case))
        found.append(case | {"contenders": race(cupy, calls, work, share)})
        report(found[-1])
        if allowance.over and to_come > 1:
            allowance.leave_out(f"{to_come - 1} of {NUMBER[part]} shapes")
            break
    return found


def prepare(cupy: Any, part: str, allowance: Allowance) -> None:
    """Call what is to be timed, so that it is compiled by then."""
    for _, calls, _ in CASES[part](cupy, None):
        for call in calls.values():
            if allowance.over:
                return
            call()
    cupy.cuda.Device().synchronize()
