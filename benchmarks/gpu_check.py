"""Everything that needs a GPU, in one run of a few minutes: are the CUDA kernels right, and how fast are they?

    python benchmarks/gpu_check.py                    # writes gpu-check.json and gpu-check.png
    python benchmarks/gpu_check.py --only right       # or ladder, matmul, conv2d, steps

Needs numba-cuda and CuPy (pip install 'tinydl[cuda]'); PyTorch takes part where it can be imported, and brings
cuDNN and products in TF32 and bfloat16. Exit code 0: all results are right. 1: some are wrong. 2: there is no GPU.

Right: against float64 computed by the GPU's own library (convolutions: by the definition, on the CPU), on fresh
random numbers, into memory full of NaN, with what lies around the result guarded.

Steps: the losses of resnet8's first 50 steps against the CPU's, and images a second against PyTorch (gpu_steps.py).

Fast: against cuBLAS and cuDNN in the same run, on the same random numbers, in float32 without TF32. Contenders
take turns; each turn is a graph of several calls, replayed between two events, so that what Python needs to start a
kernel does not count. Where one contender cannot be captured, the calls of all are timed as they come, and the table
says so: small products then tell how fast Python starts them, no more. CuPy refuses to capture cuBLAS, so PyTorch
calls it where PyTorch is there. Medians. What fits into the L2 cache is read from there, by all contenders alike.

State: written without a GPU. The checks were tried in Numba's simulator; nothing here was measured yet.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu_steps
import numpy as np

# Largest ||result - expected|| / ||expected||.
LIMITS = {"float32": 1e-5, "float64": 1e-13, "tf32": 1e-3, "bf16": 1e-2}
SQUARES = [(n, n, n) for n in (512, 1024, 2048, 4096, 8192)]
LADDER_SIZE = 2048
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
TURNS, TURN_SECONDS, MOST_CALLS = 15, 0.004, 50


# --- right ----------------------------------------------------------------------------------------


def relative_error(result: Any, expected: Any) -> float:
    """||result - expected|| / ||expected||; infinite if anything is not finite."""
    difference = float(((result.astype("f8") - expected) ** 2).sum()) ** 0.5
    scale = float((expected**2).sum()) ** 0.5
    return difference / (scale or 1.0) if math.isfinite(difference) else math.inf


def guarded(xp: Any, shape: tuple[int, ...], dtype: str) -> tuple[Any, Callable[[], bool]]:
    """An array of NaN amid other memory, and whether that is still what it was."""
    margin, size = 1024, math.prod(shape)
    buffer = xp.full(size + 2 * margin, xp.nan, dtype)
    buffer[:margin] = buffer[margin + size :] = -1234.5
    edges = buffer[:margin], buffer[margin + size :]
    return buffer[margin : margin + size].reshape(shape), lambda: all(
        bool((edge == -1234.5).all()) for edge in edges
    )


def products_to_check(sizes: list[tuple[int, int, int]]) -> Iterator[dict[str, Any]]:
    """All layouts and types, on sizes that are no multiples of a tile."""
    layouts = itertools.product((False, True), (False, True))
    for (m, k, n), (a_turned, b_turned) in itertools.product(sizes, layouts):
        for dtype, precision in (
            ("float32", None), ("float64", None), ("float32", "tf32"), ("float32", "bf16"),
        ):  # fmt: skip
            yield {
                "shape": (m, k, n), "turned": (a_turned, b_turned), "dtype": dtype, "precision": precision,
            }  # fmt: skip


def check_product(xp: Any, rng: Any, case: dict[str, Any]) -> float:
    from tinydl_kernels.cuda import matmul

    (m, k, n), dtype = case["shape"], case["dtype"]
    a, b = (xp.asarray(rng.standard_normal(s).astype(dtype)) for s in ((m, k), (k, n)))
    a, b = (
        xp.ascontiguousarray(x.T).T if turned else x
        for x, turned in zip((a, b), case["turned"], strict=True)
    )
    bias = xp.asarray(rng.standard_normal(n).astype(dtype))
    sums = xp.zeros(n, dtype)
    out, untouched = guarded(xp, (m, n), dtype)
    matmul(
        a, b, out, bias=bias, activation="leaky_relu", bias_grad=sums, precision=case["precision"]
    )
    z = a.astype("f8") @ b.astype("f8") + bias
    error = relative_error(out, xp.where(z < 0, 0.2 * z, z))
    # Cancellation makes the norm of column sums small: compare with that of their terms.
    scale = float((b.astype("f8") ** 2).sum()) ** 0.5
    sums_error = relative_error(sums, b.astype("f8").sum(axis=0)) if scale else 0.0
    wrong = not untouched() or sums_error > 100 * LIMITS[dtype]
    return math.inf if wrong else error


def convolutions_to_check() -> Iterator[dict[str, Any]]:
    for dtype, groups, strides, dilation, padding in itertools.product(
        ("float32", "float64"), (1, 2, 12), (1, 2), (1, 2), ("same", "valid")
    ):
        options = {"groups": groups, "strides": strides, "dilation": dilation, "padding": padding}
        yield {"dtype": dtype, **options}


def check_convolution(xp: Any, rng: Any, case: dict[str, Any]) -> float:
    """The largest error of the forward pass and both gradients."""
    from tinydl_kernels import cuda, reference

    options = {name: value for name, value in case.items() if name != "dtype"}
    dtype, groups = case["dtype"], case["groups"]
    x = rng.standard_normal((3, 19, 17, 12)).astype(dtype)
    w = rng.standard_normal((3, 3, 12 // groups, 24)).astype(dtype)
    wide_x, wide_w = x.astype("f8"), w.astype("f8")
    y = reference.conv2d(wide_x, wide_w, **options)
    grad = rng.standard_normal(y.shape).astype(dtype)
    expected = (
        y,
        reference.conv2d_grad_input(grad.astype("f8"), wide_w, x.shape, **options),
        reference.conv2d_grad_weight(wide_x, grad.astype("f8"), w.shape, **options),
    )
    on_x, on_w, on_grad = map(xp.asarray, (x, w, grad))
    outs = [guarded(xp, values.shape, dtype) for values in expected]
    cuda.conv2d(on_x, on_w, out=outs[0][0], **options)
    cuda.conv2d_grad_input(on_grad, on_w, x.shape, out=outs[1][0], **options)
    cuda.conv2d_grad_weight(on_x, on_grad, w.shape, out=outs[2][0], **options)
    errors = [
        relative_error(out, xp.asarray(values)) if untouched() else math.inf
        for (out, untouched), values in zip(outs, expected, strict=True)
    ]
    return max(errors)


def check_rung(xp: Any, rng: Any, case: dict[str, Any]) -> float:
    m, k, n = case["shape"]
    a, b = (xp.asarray(rng.standard_normal(s).astype(case["dtype"])) for s in ((m, k), (k, n)))
    return relative_error(case["rung"](a, b), a.astype("f8") @ b.astype("f8"))


def right(xp: Any, sizes: list[tuple[int, int, int]], seed: int) -> list[dict[str, Any]]:
    """All checks: what was computed, its error, the limit and whether it holds."""
    from tinydl_kernels.cuda import ladder

    rungs = [
        {"rung": rung, "dtype": dtype, "precision": rung.reduced, "shape": shape}
        for rung in (*ladder.RUNGS, *ladder.TENSOR_CORES)
        for dtype in ("float32", "float64")[: 1 if rung.reduced else 2]
        for shape in sizes
    ]
    groups = (
        ("matmul", check_product, list(products_to_check(sizes))),
        ("conv2d", check_convolution, list(convolutions_to_check())),
        ("ladder", check_rung, rungs),
    )
    rng, found = np.random.default_rng(seed), []
    for operation, check, cases in groups:
        for case in cases:
            error = check(xp, rng, case)
            limit = LIMITS[case.get("precision") or case["dtype"]]
            named = {key: getattr(value, "name", value) for key, value in case.items()}
            found.append(
                {
                    "operation": operation,
                    **named,
                    "error": error,
                    "limit": limit,
                    "right": error <= limit,
                }
            )
    return found


# --- fast -----------------------------------------------------------------------------------------


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
        except Exception as error:  # libraries differ in what they allow while capturing
            self.graph, self.why = None, f"{type(error).__name__}: {error}"
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


def race(cupy: Any, calls: dict[str, Callable[[], Any]], work: float) -> dict[str, dict[str, Any]]:
    """TFLOP/s of each contender, in turns; `work` in floating-point operations."""
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
    for _ in range(TURNS):
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


def ladder_speeds(cupy: Any, torch: Any) -> list[dict[str, Any]]:
    from tinydl_kernels.cuda import ladder

    n = LADDER_SIZE
    a, b, c = matrices(cupy, n, n, n)
    calls: dict[str, Callable[[], Any]] = {"cublas": cublas(cupy, torch, a, b, c)}
    for rung in (*ladder.RUNGS, *ladder.TENSOR_CORES):
        calls[rung.name] = lambda rung=rung: rung(a, b)
    return [{"shape": (n, n, n), "contenders": race(cupy, calls, 2.0 * n**3)}]


def matmul_speeds(cupy: Any, torch: Any) -> list[dict[str, Any]]:
    found = []
    for m, k, n in (*SQUARES, *LAYERS):
        calls = matmul_calls(cupy, torch, m, k, n)
        found.append({"shape": (m, k, n), "contenders": race(cupy, calls, 2.0 * m * k * n)})
        report(found[-1])
    return found


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


def conv2d_speeds(cupy: Any, torch: Any) -> list[dict[str, Any]]:
    if torch is None:
        print("conv2d: not measured, PyTorch (which brings cuDNN) cannot be imported")
        return []
    found = []
    for case in CONVOLUTIONS:
        images, size, channels, filters, taps, stride = case
        outputs = -(-size // stride)
        work = 2.0 * images * outputs**2 * filters * channels * taps**2
        for name, calls in convolution_calls(cupy, torch, case).items():
            found.append({"shape": case, "pass": name, "contenders": race(cupy, calls, work)})
            report(found[-1])
    return found


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
    tx, ty = (torch.as_tensor(z, device="cuda").permute(0, 3, 1, 2) for z in (x, dy))
    tw = torch.as_tensor(w, device="cuda").permute(3, 2, 0, 1)
    tw = tw.contiguous(memory_format=torch.channels_last)
    conv = {"stride": stride, "padding": around}

    def backward(*wanted: bool) -> Any:
        return torch.ops.aten.convolution_backward(
            ty, tx, tw, None, [stride] * 2, [around] * 2, [1, 1], False, [0, 0], 1, [*wanted, False]
        )

    calls = {
        "forward": (lambda: cuda.conv2d(x, w, **options), lambda: torch.nn.functional.conv2d(tx, tw, **conv)),
        "grad input": (lambda: cuda.conv2d_grad_input(dy, w, x.shape, **options), lambda: backward(True, False)),
        "grad weight": (lambda: cuda.conv2d_grad_weight(x, dy, w.shape, **options), lambda: backward(False, True)),
    }  # fmt: skip
    return {
        name: {"tinydl": ours, "cudnn": in_stream(torch, cupy, theirs)}
        for name, (ours, theirs) in calls.items()
    }


# --- results --------------------------------------------------------------------------------------

PEERS = {
    "tinydl": ("cublas", "cudnn"),
    "tinydl tf32": ("cublas tf32",),
    "tinydl bf16": ("cublas bf16",),
}


def ratios(cases: list[dict[str, Any]], ours: str) -> list[float]:
    """Our speed over the peer's, case by case."""
    found = []
    for case in cases:
        speeds = {name: values["tflops"] for name, values in case["contenders"].items()}
        peer = next((speeds[name] for name in PEERS[ours] if name in speeds), None)
        if peer and ours in speeds:
            found.append(speeds[ours] / peer)
    return found


def report(case: dict[str, Any]) -> None:
    shape = "x".join(map(str, case["shape"]))
    speeds = ", ".join(
        f"{name} {values['tflops']:.1f}{'' if values['graph'] else ' (calls)'}"
        for name, values in case["contenders"].items()
    )
    print(f"{shape:>24} {case.get('pass', ''):12} TFLOP/s: {speeds}")


def summary(results: dict[str, Any]) -> None:
    for operation in ("matmul", "conv2d"):
        for ours in PEERS:
            found = ratios(results.get(operation, []), ours)
            if found:
                mean = math.exp(sum(map(math.log, found)) / len(found))
                print(
                    f"{operation}, {ours}: geometric mean {mean:.2f} of the peer, worst {min(found):.2f}"
                )


def picture(results: dict[str, Any], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is missing (pip install 'tinydl[plots]')", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = [part for part in ("ladder", "matmul", "conv2d") if results.get(part)]
    rows = len(parts) + ("steps" in results)
    if not rows:
        return
    figure, axes = pyplot.subplots(rows, 1, figsize=(11, 4 * rows), squeeze=False)
    if "steps" in results:
        steps_picture(results["steps"], axes[-1, 0])
    for part, axis in zip(parts, axes[:, 0], strict=False):
        cases = results[part]
        names = list(dict.fromkeys(name for case in cases for name in case["contenders"]))
        labels = ["x".join(map(str, c["shape"])) + " " + c.get("pass", "") for c in cases]
        for i, name in enumerate(names):
            places = [j + i * 0.8 / len(names) for j in range(len(cases))]
            speeds = [case["contenders"].get(name, {}).get("tflops", 0.0) for case in cases]
            axis.bar(places, speeds, 0.8 / len(names), label=name)
        axis.set_xticks(range(len(cases)), labels, rotation=30, ha="right", fontsize=7)
        axis.set_ylabel("TFLOP/s")
        axis.set_title(f"{part}, float32, {results['device']}, {results['date']}")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def steps_picture(steps: dict[str, Any], axis: Any) -> None:
    for name in ("gpu", "cpu"):
        axis.plot(
            steps["losses"][name], label=f"loss, {name}", linestyle="-" if name == "gpu" else ":"
        )
    axis.set_xlabel("step")
    speeds = "; ".join(
        f"{case['batch']}: "
        + ", ".join(f"{k} {v:,.0f}" for k, v in case["images_per_second"].items())
        for case in steps["speeds"]
    )
    axis.set_title(f"resnet8, images/s by batch size: {speeds}", fontsize=8)
    axis.legend(fontsize=7)


def main() -> int:
    parts = {"ladder": ladder_speeds, "matmul": matmul_speeds, "conv2d": conv2d_speeds}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choices = ["right", *parts, "steps"]
    parser.add_argument("--only", nargs="+", choices=choices, default=choices)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="name of the results")
    parser.add_argument("--seed", type=int, help="of the random numbers; drawn anew if not given")
    arguments = parser.parse_args()
    try:
        from tinydl_kernels.cuda import device

        device.require()
        cupy = device.namespace()
    except (ImportError, RuntimeError) as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    torch = torch_or_none()
    seed = np.random.SeedSequence().entropy if arguments.seed is None else arguments.seed
    results: dict[str, Any] = {
        "device": properties["name"].decode(),
        "date": datetime.date.today().isoformat(),
        "cupy": cupy.__version__,
        "torch": torch and torch.__version__,
        "seed": str(seed),
    }
    print(f"{results['device']}, {results['date']}")
    wrong = []
    if "right" in arguments.only:
        results["right"] = right(cupy, [(257, 129, 131), (64, 1000, 48), (5, 3, 7)], seed)
        wrong = [case for case in results["right"] if not case["right"]]
        print(f"right: {len(results['right']) - len(wrong)} of {len(results['right'])}")
        for case in wrong:
            print(f"  WRONG {case}")
    for name, measure in parts.items():
        if name in arguments.only:
            results[name] = measure(cupy, torch)
    if "steps" in arguments.only:
        results["steps"] = gpu_steps.measure(torch, seed % 2**32)
        wrong += [] if results["steps"]["losses"]["right"] else ["losses"]
    for case in results.get("ladder", []):
        report(case)
    summary(results)
    arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1))
    picture(results, arguments.out.with_suffix(".png"))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
