"""Everything that needs a GPU, in under eight minutes: are the CUDA kernels right, and how fast are they?

    python benchmarks/gpu_check.py                    # writes gpu-check.json and gpu-check.png
    python benchmarks/gpu_check.py --only right       # or ladder, matmul, conv2d, steps
    python benchmarks/gpu_check.py --out DIR/NAME     # DIR/NAME.json and DIR/NAME.png
    python benchmarks/gpu_check.py --minutes 20       # on a slower machine; 7.5 if not given

Needs numba-cuda and CuPy (pip install 'tinydl[cuda]'); PyTorch takes part where it can be imported, and brings
cuDNN and products in TF32 and bfloat16. Exit code 0: all results are right. 1: some are wrong or were not checked, or
a part failed. 2: there is no GPU.

Right: gpu_right.py. Fast: gpu_speeds.py. Whole training steps, right and fast: gpu_steps.py. What is right is asked
first, in several processes at once; meanwhile others call what is to be timed, so that its kernels are compiled by
then. Speeds are measured one part after another, with the machine to themselves. No part can overrun its share of the
minutes: gpu_jobs.py. Results are written whenever a part ends. In the end each part's time is printed, and each goal
with the figure that was reached.

State: written without a GPU. The checks were tried in Numba's simulator; nothing here was measured yet.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

import gpu_right
import gpu_shown
import gpu_speeds
import gpu_steps
import numpy as np
from gpu_jobs import Allowance, together, write

# --- parts ----------------------------------------------------------------------------------------

# What is left of the time is dealt out in these proportions: to all that comes first, then to each part after it. Each
# number is more than the seconds that README.md derives from counts; what a part does not use is left for the others.
FIRST, SPEEDS = 200, {"ladder": 30, "matmul": 40, "conv2d": 60, "steps": 80}
MINUTES = 7.5  # in all
ENDING = 15.0  # seconds of these, for the picture and for killing what hangs

RIGHT = [f"right {operation}" for operation in gpu_right.CHECKS]
LOSSES = [f"losses {device} {dtype}" for device, dtype in gpu_steps.TRAININGS]
PREPARE = {part: f"prepare {part}" for part in SPEEDS}


def stages(only: list[str]) -> list[tuple[float, list[str]]]:
    """(weight, jobs that run at the same time), one stage after another."""
    speeds = [part for part in SPEEDS if part in only]
    first = (
        RIGHT * ("right" in only) + LOSSES * ("steps" in only) + [PREPARE[part] for part in speeds]
    )
    return [(FIRST, first), *((SPEEDS[part], [part]) for part in speeds)]


def measure(job: str, seed: int, allowance: Allowance) -> Any:
    """The results of one job, in this process."""
    kind, _, what = job.partition(" ")
    small_seed = seed % 2**32
    if kind == "losses":
        device, dtype = what.split()
        return gpu_steps.trainings(device, dtype, small_seed)
    if job == "prepare steps":
        return gpu_steps.prepare(small_seed, allowance)
    if job == "steps":
        return gpu_steps.speeds(gpu_speeds.torch_or_none(), small_seed, allowance)

    from tinydl_kernels.cuda import device as gpu

    cupy = gpu.namespace()
    if kind == "right":
        return gpu_right.right(cupy, what, seed, allowance)
    if kind == "prepare":
        return gpu_speeds.prepare(cupy, what, allowance)
    return gpu_speeds.speeds(cupy, gpu_speeds.torch_or_none(), job, allowance)


def about() -> dict[str, Any]:
    """Where the results come from.

    Raises:
        ImportError, RuntimeError: there is no GPU, or something to use it.
    """
    from tinydl_kernels.cuda import device

    if device.SIMULATED:
        raise RuntimeError("NUMBA_ENABLE_CUDASIM is set, which simulates a GPU")
    device.require()
    torch = gpu_speeds.torch_or_none()
    return {
        "device": device.name(),
        "date": datetime.date.today().isoformat(),
        "cupy": device.namespace().__version__,
        "torch": torch and torch.__version__,
    }


# --- all of it ------------------------------------------------------------------------------------


class Results:
    """What has been found so far; written to a file after each part."""

    def __init__(self, about: dict[str, Any], path: Path) -> None:
        self.all: dict[str, Any] = {**about, "seconds": {}, "left_out": {}, "failed": {}}
        self._path = path
        self._losses: dict[str, list[list[float]]] = {}

    def add(self, job: str, found: Any) -> None:
        kind = job.split()[0]
        if kind == "right":
            self.all["right"] = self.all.get("right", []) + found
        elif kind == "losses":
            self._losses[job] = found
            if len(self._losses) == len(LOSSES):
                self.all["losses"] = gpu_steps.compare(*(self._losses[each] for each in LOSSES))
                gpu_steps.report_losses(self.all["losses"])
        elif kind != "prepare":
            self.all[job] = found

    def write(self) -> None:
        self._path.write_text(json.dumps(self.all, indent=1))

    @property
    def right(self) -> bool:
        """Whether all was checked, nothing is wrong, and nothing failed."""
        unchecked = any(job.startswith("right") for job in self.all["left_out"])
        cases = [*self.all.get("right", []), self.all.get("losses", {"right": True})]
        return not unchecked and not self.all["failed"] and all(case["right"] for case in cases)


def check(only: list[str], seed: int, allowance: Allowance, results: Results) -> None:
    """All parts, one stage after another, until the allowance is used up at the latest."""
    began, to_come = time.time(), stages(only)
    while to_come:
        share = allowance.share(to_come[0][0], sum(weight for weight, _ in to_come))
        _, jobs = to_come.pop(0)
        for job, outcome in together(__file__, jobs, ["--seed", str(seed)], share):
            results.all["seconds"][job] = outcome.seconds
            if outcome.left_out:
                results.all["left_out"][job] = outcome.left_out
            if outcome.failure is None:
                results.add(job, outcome.found)
            else:
                results.all["failed"][job] = outcome.failure
                print(f"{job} FAILED: {outcome.failure}", flush=True)
            results.all["in_all"] = time.time() - began
            results.write()


def main() -> int:
    began = time.time()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words = ["right", *SPEEDS]
    parser.add_argument("--only", nargs="+", choices=words, default=words)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="name of the results")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="that all may take")
    parser.add_argument("--seed", type=int, help="of the random numbers; drawn anew if not given")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    seed = np.random.SeedSequence().entropy if given.seed is None else given.seed
    if given.part:
        write(given.out, lambda allowance: measure(given.part, seed, allowance), given.until)
        return 0
    try:
        found = about() | {"seed": str(seed)}
    except (ImportError, RuntimeError) as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    print(f"{found['device']}, {found['date']}", flush=True)
    results = Results(found, given.out.with_suffix(".json"))
    check(given.only, seed, Allowance(began + 60 * given.minutes - ENDING), results)
    gpu_shown.show_times(results.all)
    gpu_shown.show_goals(results.all)
    gpu_shown.picture(results.all, given.out.with_suffix(".png"))
    return 0 if results.right else 1


if __name__ == "__main__":
    raise SystemExit(main())
