"""Results that nobody measured: records from a function of (task, optimizer, rate, seed)."""

from __future__ import annotations

from tinydl.study.protocol import Protocol
from tinydl.study.records import Record, Results, settings
from tinydl.study.session import STAGES


def made_up(run, protocol, metric, **rest):
    """``metric`` is a number, or a function of the run."""
    task = protocol.tables[run.task]
    value = metric(run) if callable(metric) else metric
    fields = {k: v(run) if callable(v) else v for k, v in rest.items()}
    return Record(
        *(run.task, run.contender.optimizer, run.contender.schedule, run.rate, run.seed),
        **{
            "settings": settings(task),
            "version": run.contender.version,
            "metric": value,
            "steps": 10,
            "step_ms": 1.0,
            "losses": [1.0, 0.5],
            **fields,
        },
    )


def study_of(folder, protocol: Protocol, metric, stages=STAGES, **rest) -> Results:
    """A whole study as ``run_study`` does it, with made-up results."""
    results = Results(folder)
    plans = {"tune": protocol.tuning, "judge": protocol.judging}
    for stage in stages:
        while runs := plans[stage](results):
            for run in runs:
                found = made_up(run, protocol, metric, **rest)
                results.records[found.run] = found
    return results
