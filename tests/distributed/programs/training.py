"""A deterministic training whose ranks kill themselves, as a plan says; prints a hash of the weights.

usage: training.py FOLDER [PLAN]    PLAN: "RANK:STEP,RANK:WRITE…", the n-th entry is for the n-th start of the job.
                                    A number is a step after which the rank dies; "write" kills it in the middle of
                                    writing a checkpoint, "slow" makes steps take long.
"""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import tinydl as tl
from tinydl.training import files

folder, plan = Path(sys.argv[1]), [entry.split(":") for entry in "".join(sys.argv[2:]).split(",")]
world = tl.distributed.world()
start = int(os.environ.get("TINYDL_RESTART", "0"))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Die(tl.callbacks.Callback):
    def __init__(self, when: str) -> None:
        self.when = when
        self.steps = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.steps += 1
        if self.when == "slow":
            print("step", flush=True)
            time.sleep(0.05)
        elif self.steps == int(self.when):
            die()


class DieWriting:
    """In place of ``os``, for the module that writes files: the file is half written, and then…"""

    def __getattr__(self, name: str):
        return getattr(os, name)

    def fsync(self, handle: int) -> None:
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        die()


callbacks: list = [tl.callbacks.Checkpoint(folder, every_steps=3)]
if start < len(plan) and plan[start][0] == str(world.rank):
    if plan[start][1] == "write":
        files.os = DieWriting()
    else:
        callbacks.append(Die(plan[start][1]))

rng = np.random.default_rng(0)
x = rng.normal(size=(120, 6)).astype(np.float32)
y = (x[:, 0] > x[:, 1]).astype(np.int64)
model = tl.Sequential([tl.layers.Dense(8, activation="relu"), tl.layers.Dense(2)], seed=0)
model.compile("adam", "sparse_categorical_crossentropy")
history = model.fit(
    x,
    y,
    epochs=3,
    batch_size=24,
    callbacks=callbacks,
    verbose=0,
    resume=True,
    strategy=tl.distributed.DataParallel(deterministic=True, shards=6),
)
if world.rank == 0:
    print(
        "start",
        start,
        "ranks",
        world.size,
        "stopped" if history.interrupted else "ended",
        flush=True,
    )
    print("weights", hashlib.sha256(model.store.values.tobytes()).hexdigest(), flush=True)
