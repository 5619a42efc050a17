"""The optimizer study: what ``tinydl compare`` runs, and how it judges.

from tinydl.study import TASKS, run_task

result = run_task(TASKS["digits"], tl.optimizers.Adam(0.003), seed=0)
print(result.metric, result.steps_to_target)
"""

from __future__ import annotations

from tinydl.study.runs import RunResult, run_task
from tinydl.study.tasks import LARGE_BATCH_TASKS, MAIN_TASKS, TASKS, Arrays, Task

__all__ = ["LARGE_BATCH_TASKS", "MAIN_TASKS", "TASKS", "Arrays", "RunResult", "Task", "run_task"]
