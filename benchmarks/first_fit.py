"""How long the first `fit` of the MNIST CNN compiles where nothing was compiled before, and on the day after.

    python benchmarks/first_fit.py [--threads 2]

Two fresh processes with one cache folder, empty at first. Each makes two equal trainings: what the first takes longer
than the second is compiling, or loading what was compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

GOALS = {"never run here before": 15.0, "afterwards": 0.5}  # seconds


def train_twice() -> None:
    import numpy as np

    from tinydl.architectures.convolutional import lenet

    rng = np.random.default_rng(0)
    x = rng.standard_normal((640, 28, 28, 1)).astype(np.float32)  # as MNIST's images, standardized
    y = rng.integers(0, 10, 640)

    def seconds() -> float:
        model = lenet((28, 28, 1), 10)
        model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
        began = time.perf_counter()
        model.fit(x, y, epochs=1, batch_size=64, validation_split=0.1, verbose=0)
        return time.perf_counter() - began

    print(json.dumps([seconds(), seconds()]))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.child:
        train_twice()
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "NUMBA_CACHE_DIR": folder,
            "NUMBA_NUM_THREADS": str(chosen.threads),
        }
        for when, goal in GOALS.items():
            command = [sys.executable, __file__, "--child"]
            answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            first, second = json.loads(answer.stdout)
            print(f"{when:22}  {first - second:6.2f} s of compiling and loading (goal: {goal} s)")


if __name__ == "__main__":
    main()
