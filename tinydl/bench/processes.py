"""Workers from the outside: start one in its environment, ask, and end it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import Any


class WorkerError(RuntimeError):
    """A worker could not do what it was asked, or is gone."""


class Worker:
    """A child process that answers requests (see worker.py). Use it in a ``with`` statement."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tinydl.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": search_path(), **variables},
        )

    def ask(self, do: str, **request: Any) -> Any:
        """The result of duty ``do``; ``WorkerError`` where it failed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps({"do": do, **request}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(
                f"a measuring process ended during {do!r} with status {self.process.wait()}"
            )
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply["result"]

    def close(self) -> None:
        """Its input ends, and so does it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died before it read what was asked last
            self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def search_path() -> str:
    """Where this process finds its modules, so that a worker finds the same."""
    return os.pathsep.join(path for path in sys.path if path)
