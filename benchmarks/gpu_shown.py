"""What gpu_check.py has measured, beside the goals and as a picture."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

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
    for case in results.get("steps", []):
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


def show_times(results: dict[str, Any]) -> None:
    """How long each part took, and what was left out."""
    for part, seconds in results["seconds"].items():
        print(f"  {part:28} {seconds:6.1f} s")
    print(f"  {'in all':28} {results['in_all']:6.1f} s")
    for part, words in results["left_out"].items():
        print(f"  {part}: for lack of time without {'; '.join(words)}")


def picture(results: dict[str, Any], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is missing (pip install 'tinydl[plots]')", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = [part for part in ("ladder", "matmul", "conv2d") if results.get(part)]
    rows = len(parts) + ("losses" in results)
    if not rows:
        return
    figure, axes = pyplot.subplots(rows, 1, figsize=(11, 4 * rows), squeeze=False)
    if "losses" in results:
        steps_picture(results["losses"], results.get("steps", []), axes[-1, 0])
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
    pyplot.close(figure)


def steps_picture(losses: dict[str, Any], speeds: list[dict[str, Any]], axis: Any) -> None:
    middle, allowed = losses["float64"], losses["allowed"]
    low, high = (
        [x + sign * slack for x, slack in zip(middle, allowed, strict=True)] for sign in (-1, 1)
    )
    axis.fill_between(
        range(len(middle)), low, high, alpha=0.3, label="float64, and how far rounding may lead"
    )
    for name, line in (("gpu", "-"), ("cpu", ":")):
        axis.plot(losses[name], label=f"loss, {name}", linestyle=line)
    axis.set_ylim(0, 1.1 * max(middle))
    axis.set_xlabel("step")
    texts = (
        f"{case['batch']}: "
        + ", ".join(f"{k} {v:,.0f}" for k, v in case["images_per_second"].items())
        for case in speeds
    )
    axis.set_title(f"resnet8, images/s by batch size: {'; '.join(texts)}", fontsize=8)
    axis.legend(fontsize=7)
