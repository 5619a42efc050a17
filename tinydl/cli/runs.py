"""The folder that a run leaves behind: what was asked, what came out, and the code that did it.

runs/2026-01-31T12-00-00-mnist-lenet/
    config.json        the whole configuration, defaults included
    provenance.json    git commit of the code, versions, command line
    metrics.jsonl      one line an epoch
    checkpoints/       everything to go on from
    model.safetensors  the trained model
    preprocessing.json mean and standard deviation that inputs were standardized with
    curves.png         loss and learning rate
    result.json        test accuracy and confusion matrix
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tinydl
from tinydl.distributed.launch import JOB, RESTART
from tinydl.training.files import write_atomically


def create_run_folder(root: Path, label: str) -> Path:
    """A new, empty folder ``root/TIME-label``; a number is added where two runs start in one second."""
    stamp = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    for number in range(1000):
        folder = root / (f"{stamp}-{label}" + (f"-{number}" if number else ""))
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f"{root} has a thousand runs of this second")


def run_of_restarted_job(root: Path) -> Path | None:
    """The folder that an earlier start of this job made, where ``tinydl launch`` starts it again; else None."""
    job = os.environ.get(JOB)
    if job is None or os.environ.get(RESTART, "0") == "0":
        return None
    for file in root.glob("*/provenance.json"):
        with contextlib.suppress(OSError, ValueError):  # cut off: that start had not trained yet
            if json.loads(file.read_text(encoding="utf-8")).get("job") == job:
                return file.parent
    return None


def write_json(path: Path, data: Any) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def provenance() -> dict[str, Any]:
    """Which code, on which Python, was started how: enough to find the way back to it."""
    return {
        "commit": git_commit(),
        "tinydl": tinydl.__version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("numpy", "numba", "scikit-learn")},
        "platform": platform.platform(),
        "command": sys.argv,
        "job": os.environ.get(JOB),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def git_commit() -> str | None:
    """The commit of tinydl's code, with ``+changes`` where files differ from it; None outside a git checkout."""
    here = Path(tinydl.__file__).parent

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        )
        return result.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def read_metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def plot_curves(metrics: list[dict[str, float]], path: Path, title: str) -> None:
    """Loss (training, and validation where there is one) and learning rate over the epochs, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    epochs = [row["epoch"] + 1 for row in metrics]  # counted from 1 for people
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(7, 6), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    for key, label in (("loss", "training loss"), ("val_loss", "validation loss")):
        if all(key in row for row in metrics):
            top.plot(epochs, [row[key] for row in metrics], marker="o", markersize=3, label=label)
    top.set_ylabel("loss")
    if all(row["loss"] > 0 for row in metrics):
        top.set_yscale("log")
    top.set_title(title)
    top.legend()
    top.grid(alpha=0.3)
    bottom.plot(epochs, [row["learning_rate"] for row in metrics], color="tab:green")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("epoch")
    bottom.grid(alpha=0.3)
    bottom.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
