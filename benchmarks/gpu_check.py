"""Everything that needs a GPU, in one run of a few minutes: are the CUDA kernels right, and how fast are they?

    python benchmarks/gpu_check.py                    # writes gpu-check.json and gpu-check.png
    python benchmarks/gpu_check.py --only right       # or ladder, matmul, conv2d, steps
    python benchmarks/gpu_check.py --out DIR/NAME     # DIR/NAME.json and DIR/NAME.png

Needs numba-cuda and CuPy (pip install 'tinydl[cuda]'); PyTorch takes part where it can be imported, and brings
cuDNN and products in TF32 and bfloat16. Exit code 0: all results are right. 1: some are wrong, or a part failed.
2: there is no GPU.

Right: gpu_right.py. Fast: gpu_speeds.py. Whole training steps, right and fast: gpu_steps.py. Each part runs in a
process of its own, for so long at most: a kernel that never ends, or an access after which the GPU refuses all that
the process asks for, costs that part alone. Results are written whenever a part ends. In the end each goal is printed
with the figure that was reached.

State: written without a GPU. The checks were tried in Numba's simulator; nothing here was measured yet.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gpu_right
import gpu_speeds
import gpu_steps
import numpy as np

# --- goals ----------------------------------------------------------------------------------------

PEERS = {
    "tinydl": ("cublas", "cudnn"),
    "tinydl tf32": ("cublas tf32",),
    "tinydl bf16": ("cublas bf16",),
}
LARGE = [4096, 4096, 4096]
AT_4096, MEAN, CONVOLUTION, TENSOR_CORES, STEP = 0.90, 0.85, 0.7, 0.6, 0.7  # the goals


def ratios(cases: list[dict[str, Any]], ours: str) -> list[float]:
    """Our speed over the peer's, case by case."""
    found = []
    for case in cases:
        speeds = {name: values["tflops"] for name, values in case["contenders"].items()}
        peer = next((speeds[name] for name in PEERS[ours] if name in speeds), None)
        if peer and ours in speeds:
            found.append(speeds[ours] / peer)
    return found


def goals(results: dict[str, Any]) -> list[tuple[str, float, float]]:
    """What was to be reached: (in words, the ratio that was measured, the least it should be)."""
    products = results.get("matmul", [])
    large = [case for case in products if list(case["shape"]) == LARGE]
    found = []
    for name, cases, ours, least in (
        ("float32 at 4096^3, of cuBLAS", large, "tinydl", AT_4096),
        ("float32, all products, of cuBLAS", products, "tinydl", MEAN),
        ("TF32 at 4096^3, of cuBLAS in TF32", large, "tinydl tf32", TENSOR_CORES),
        ("bfloat16 at 4096^3, of cuBLAS in bfloat16", large, "tinydl bf16", TENSOR_CORES),
        ("convolutions, of cuDNN", results.get("conv2d", []), "tinydl", CONVOLUTION),
    ):
        each = ratios(cases, ours)
        if each:
            found.append((name, math.exp(sum(map(math.log, each)) / len(each)), least))
    for case in results.get("steps", {}).get("speeds", []):
        speeds = case["images_per_second"]
        if "torch" in speeds:
            name = f"resnet8, batches of {case['batch']}, of PyTorch's images/s"
            found.append((name, speeds["tinydl"] / speeds["torch"], STEP))
    return found


def show_goals(results: dict[str, Any]) -> None:
    print("geometric means; each goal is the least that should be reached")
    for name, ratio, least in goals(results):
        verdict = "reached" if ratio >= least else "MISSED"
        print(f"  {name:48} {ratio:5.2f}   goal {least:.2f} {verdict}")


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


# --- parts ----------------------------------------------------------------------------------------

# Seconds, most of which kernels are compiled in.
PARTS = {
    **{f"right {operation}": 100 for operation in gpu_right.CHECKS},
    "ladder": 60,
    "matmul": 100,
    "conv2d": 120,
    "steps": 150,
}


def measure(part: str, seed: int) -> Any:
    """The results of one part, in this process."""
    from tinydl_kernels.cuda import device

    cupy = device.namespace()
    if part.startswith("right "):
        return gpu_right.right(cupy, part.removeprefix("right "), seed)
    torch = gpu_speeds.torch_or_none()
    if part == "steps":
        return gpu_steps.measure(torch, seed % 2**32)
    return getattr(gpu_speeds, f"{part}_speeds")(cupy, torch)


def run(command: list[str], seconds: float) -> str | None:
    """Run a command. None if it went well, else what happened to it."""
    try:
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"it had not ended after {seconds} s"
    sys.stderr.write(result.stderr)
    if result.returncode == 0:
        return None
    return (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]


def measure_apart(part: str, seed: int) -> Any:
    """The results of one part, computed in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.json"
        options = ["--part", part, "--seed", str(seed), "--out", str(path)]
        failure = run([sys.executable, __file__, *options], PARTS[part])
        if failure is not None:
            raise RuntimeError(failure)
        return json.loads(path.read_text())


def about() -> dict[str, Any]:
    """Where the results come from.

    Raises:
        ImportError, RuntimeError: there is no GPU, or something to use it.
    """
    from tinydl_kernels.cuda import device

    device.require()
    cupy, torch = device.namespace(), gpu_speeds.torch_or_none()
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    return {
        "device": properties["name"].decode(),
        "date": datetime.date.today().isoformat(),
        "cupy": cupy.__version__,
        "torch": torch and torch.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words = list(dict.fromkeys(part.split()[0] for part in PARTS))
    parser.add_argument("--only", nargs="+", choices=words, default=words)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="name of the results")
    parser.add_argument("--seed", type=int, help="of the random numbers; drawn anew if not given")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    seed = np.random.SeedSequence().entropy if given.seed is None else given.seed
    if given.part:
        given.out.write_text(json.dumps(measure(given.part, seed)))
        return 0
    try:
        results = about() | {"seed": str(seed)}
    except (ImportError, RuntimeError) as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    print(f"{results['device']}, {results['date']}", flush=True)
    failed: dict[str, str] = {}
    for part in PARTS:
        word = part.split()[0]
        if word not in given.only:
            continue
        try:
            found = measure_apart(part, seed)
            results[word] = results.get(word, []) + found if word == "right" else found
        except RuntimeError as error:
            failed[part] = str(error)
            print(f"{part} FAILED: {error}", flush=True)
        given.out.with_suffix(".json").write_text(
            json.dumps(results | {"failed": failed}, indent=1)
        )
    show_goals(results)
    picture(results, given.out.with_suffix(".png"))
    wrong = not all(case["right"] for case in results.get("right", []))
    wrong = wrong or ("steps" in results and not results["steps"]["losses"]["right"])
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
