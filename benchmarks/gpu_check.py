"""Everything that needs a GPU, in one run of a few minutes: are the CUDA kernels right, and how fast are they?

    python benchmarks/gpu_check.py                    # writes gpu-check.json and gpu-check.png
    python benchmarks/gpu_check.py --only right       # or ladder, matmul, conv2d, steps

Needs numba-cuda and CuPy (pip install 'tinydl[cuda]'); PyTorch takes part where it can be imported, and brings
cuDNN and products in TF32 and bfloat16. Exit code 0: all results are right. 1: some are wrong. 2: there is no GPU.

Right: gpu_right.py. Fast: gpu_speeds.py. Whole training steps, right and fast: gpu_steps.py. Each part's results are
written when it ends.

State: written without a GPU. The checks were tried in Numba's simulator; nothing here was measured yet.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
from pathlib import Path
from typing import Any

import gpu_right
import gpu_speeds
import gpu_steps
import numpy as np

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
    parts = {
        "ladder": gpu_speeds.ladder_speeds,
        "matmul": gpu_speeds.matmul_speeds,
        "conv2d": gpu_speeds.conv2d_speeds,
    }
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
    torch = gpu_speeds.torch_or_none()
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

    def store() -> None:
        """What is there so far: a later part that fails takes nothing with it."""
        arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1))

    if "right" in arguments.only:
        results["right"] = gpu_right.right(cupy, [(257, 129, 131), (64, 1000, 48), (5, 3, 7)], seed)
        wrong = [case for case in results["right"] if not case["right"]]
        print(f"right: {len(results['right']) - len(wrong)} of {len(results['right'])}")
        for case in wrong:
            print(f"  WRONG {case}")
        store()
    for name, measure in parts.items():
        if name in arguments.only:
            results[name] = measure(cupy, torch)
            store()
    if "steps" in arguments.only:
        results["steps"] = gpu_steps.measure(torch, seed % 2**32)
        wrong += [] if results["steps"]["losses"]["right"] else ["losses"]
        store()
    summary(results)
    picture(results, arguments.out.with_suffix(".png"))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
