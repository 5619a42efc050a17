"""How long a training step with DAS takes beside one with fused Adam, on the networks of the optimizer study.

    python benchmarks/das_time.py [TASK…]

Both train in one process with one thread and take turns, a few dozen steps each; the figure is the median over the
turns' ratios of processor time a step (forward, loss, backward, update).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from itertools import islice
from typing import Any

from threadpoolctl import threadpool_limits

from tinydl.optimizers import DAS, Adam
from tinydl.study.runs import batches, gradients
from tinydl.study.tasks import MAIN_TASKS, Task, get

TURNS, SECONDS = 15, 0.15  # of each turn


class Training:
    """A model with its optimizer that makes steps on batches of the task, over and over."""

    def __init__(self, task: Task, optimizer: Any) -> None:
        self.model = task.model(0)
        self.model.compile(optimizer, task.loss, [])
        self.model.set_needs_input_grad(False)
        optimizer.build(self.model.store)
        self.batches = [(x, y) for _, x, y in islice(batches(task, 0), 20)]
        self.turn(40)  # compiles, and lets DAS set the weights' size

    def turn(self, steps: int) -> float:
        """Seconds of processor time a step."""
        began = time.process_time()
        for k in range(steps):
            loss = gradients(self.model, *self.batches[k % len(self.batches)])
            self.model.optimizer.step(loss)
        return (time.process_time() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "tasks", nargs="*", help="default: those of the study without large batches"
    )
    chosen = parser.parse_args().tasks or MAIN_TASKS
    ratios = {}
    with threadpool_limits(limits=1, user_api="blas"):
        for name in chosen:
            adam, das = Training(get(name), Adam(1e-4)), Training(get(name), DAS())
            steps = max(3, round(SECONDS / adam.turn(10)))
            pairs = [(adam.turn(steps), das.turn(steps)) for _ in range(TURNS)]
            ratios[name] = statistics.median(d / a for a, d in pairs)
            a, d = (1e6 * statistics.median(times) for times in zip(*pairs, strict=True))
            print(f"{name:16} Adam {a:7.0f} µs   DAS {d:7.0f} µs   {ratios[name]:.2f}", flush=True)
    mean = math.exp(statistics.mean(map(math.log, ratios.values())))
    print(f"geometric mean {mean:.2f} (goal: at most 1.20)")


if __name__ == "__main__":
    main()
