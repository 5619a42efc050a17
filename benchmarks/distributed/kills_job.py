"""The training that kills.py disturbs: deterministic, with a checkpoint every 10 steps.

usage: kills_job.py FOLDER        Each rank leaves its process number there when its training begins.
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np

import tinydl as tl

folder = Path(sys.argv[1])
world = tl.distributed.world()
start = os.environ.get("TINYDL_RESTART", "0")


class Started(tl.callbacks.Callback):
    writes = False  # on every rank

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        place = folder / f"started-{start}-{world.rank}"
        if not place.exists():
            place.write_text(str(os.getpid()))


rng = np.random.default_rng(0)
x = rng.standard_normal((4096, 28, 28, 1)).astype(np.float32)
y = rng.integers(10, size=4096)
model = tl.architectures.build("lenet", (28, 28, 1), 10, seed=0)
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(
    x,
    y,
    epochs=40,
    batch_size=64,
    callbacks=[Started(), tl.callbacks.Checkpoint(folder / "checkpoints", every_steps=10)],
    verbose=0,
    seed=0,
    resume=True,
    strategy=tl.distributed.DataParallel(deterministic=True, shards=4),
)
if world.rank == 0:
    print("weights", hashlib.sha256(model.store.values.tobytes()).hexdigest(), flush=True)
