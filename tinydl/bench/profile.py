"""Where a training step spends its time: every layer's forward and backward, the loss, the update, the rest.

The clock is read around each call, which costs about 0.2 µs; layers inside layers count for themselves, not for
what contains them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tinydl.bench.operations import step as steps
from tinydl.bench.results import LayerTime
from tinydl.bench.statistics import median

WARM_UP, MEASURED = 5, 30


class Stopwatch:
    """Own time of nested calls: what they take, less what is spent in watched calls inside them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.totals: dict[tuple[str, str], float] = defaultdict(float)
        self.inner = [0.0]  # time of watched calls inside each call that is under way

    def watch(self, owner: Any, method: str, label: str, kind: str) -> None:
        """Replace ``owner.method`` by one that adds its own time to ``totals[label, kind]``."""
        function = getattr(owner, method)
        clock, totals, inner = self.clock, self.totals, self.inner

        def watched(*arguments: Any, **keywords: Any) -> Any:
            inner.append(0.0)
            start = clock()
            try:
                return function(*arguments, **keywords)
            finally:
                spent = clock() - start
                totals[label, kind] += spent - inner.pop()
                inner[-1] += spent

        setattr(owner, method, watched)


def profile_step(
    case: str, dtype: str, clock: Callable[[], float] = time.perf_counter
) -> list[LayerTime]:
    """Medians over many steps, in forward order; "(rest)" is the loop around them."""
    parsed = steps.parse(case)
    x, y = steps.batch_of(parsed, dtype)
    loop = steps.tinydl_loop(parsed, x, y, dtype)
    watch = Stopwatch(clock)
    watch_model(watch, loop.model)
    watch.watch(loop.model.store, "zero_grad", "(zero gradients)", "backward")
    watch.watch(loop.model.loss, "forward", "(loss)", "forward")
    watch.watch(loop.model.loss, "backward", "(loss)", "backward")
    watch.watch(loop.model.optimizer, "step", "(optimizer)", "backward")
    watch.watch(loop, "train_step", "(rest)", "forward")
    return collect(watch, lambda: loop.train_step(x, y, None))


def watch_model(watch: Stopwatch, model: Any) -> None:
    for path, layer in model._named_layers(""):
        label = path.rstrip(".") or "(containers)"
        if layer is not model and layer.sublayers:
            label += " (own)"
        watch.watch(layer, "forward", label, "forward")
        watch.watch(layer, "backward", label, "backward")


def collect(watch: Stopwatch, step: Callable[[], Any]) -> list[LayerTime]:
    for _ in range(WARM_UP):
        step()
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(MEASURED):
        watch.totals.clear()
        step()
        for key, seconds in watch.totals.items():
            times[key].append(seconds)
    labels = dict.fromkeys(label for label, _ in times)
    rows = []
    for label in sorted(labels, key=lambda name: name.startswith("(")):
        forward, backward = (
            1e3 * median(times[label, kind]) if (label, kind) in times else 0.0
            for kind in ("forward", "backward")
        )
        rows.append(LayerTime(layer=label, forward=forward, backward=backward))
    return rows
