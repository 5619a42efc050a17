"""A process that does runs, one line of JSON at a time. It is started as ``python -m tinydl.study.worker``.

One run has one thread: a study has many runs, and runs side by side share a machine better than threads do. Data sets
stay in memory from one run to the next.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any, TextIO

from tinydl.study import tasks
from tinydl.study.contenders import Contender
from tinydl.study.records import Record, Run, record
from tinydl.study.runs import run_task


def execute(run: Run, scale: float, watch_layers: bool) -> Record:
    """The run's record; one that fails says why."""
    task = tasks.get(run.task)
    try:
        optimizer = run.contender.make(run.rate, task.steps(scale))
        result = run_task(task, optimizer, run.seed, scale, watch_layers)
    except Exception as error:
        return record(run, task, None, f"{type(error).__name__}: {error}")
    return record(run, task, result)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    contender = Contender(request["optimizer"], request["schedule"])
    run = Run(request["task"], contender, request["rate"], request["seed"])
    return asdict(execute(run, request["scale"], request["watch_layers"]))


def serve(requests: TextIO, replies: TextIO) -> None:
    for line in requests:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    # Whatever a library prints must not get between the answers.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, out)
