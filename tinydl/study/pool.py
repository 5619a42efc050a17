"""Several worker processes at once: runs are handed out one by one, and what comes back is handed on at once."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator

from tinydl.study import tasks
from tinydl.study.records import Record, Run, record

ONE_THREAD = {
    name: "1" for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
}


class Worker:
    """One process of worker.py, started when it is first needed, and anew after it died."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None

    def do(self, run: Run, scale: float, watch_layers: bool) -> Record:
        """The run's record. A process that dies of it (out of memory, say) makes a record of a failed run."""
        if self.process is None:
            self.process = start()
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {
            "task": run.task,
            "optimizer": run.contender.optimizer,
            "schedule": run.contender.schedule,
            "rate": run.rate,
            "seed": run.seed,
            "scale": scale,
            "watch_layers": watch_layers,
        }
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.process = None
            return record(run, tasks.get(run.task), None, f"its process ended with status {status}")
        return Record(**json.loads(line))

    def stop(self) -> None:
        """Ends the process, in the middle of a run if need be."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


def start() -> subprocess.Popen:
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, "-m", "tinydl.study.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the parent alone, which then ends its workers
    )


def execute(runs: Iterable[tuple[Run, bool]], scale: float, jobs: int) -> Iterator[Record]:
    """Records as runs end, in any order; ``runs`` are (run, whether to watch its layers).

    Leaving the iteration early ends the workers.
    """
    waiting: queue.SimpleQueue[tuple[Run, bool]] = queue.SimpleQueue()
    total = 0
    for job in runs:
        waiting.put(job)
        total += 1
    ended: queue.SimpleQueue[Record | BaseException] = queue.SimpleQueue()
    workers = [Worker() for _ in range(min(jobs, total))]
    stopping = threading.Event()

    def work(worker: Worker) -> None:
        try:
            while not stopping.is_set():
                run, watch_layers = waiting.get_nowait()
                ended.put(worker.do(run, scale, watch_layers))
        except queue.Empty:
            pass
        except BaseException as error:
            ended.put(error)

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        for _ in range(total):
            came = ended.get()
            if isinstance(came, BaseException):
                raise came
            yield came
    finally:
        stopping.set()
        for worker in workers:
            worker.stop()
