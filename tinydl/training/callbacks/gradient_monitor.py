"""Which layers learn: gradients that vanish or explode on their way back through the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydl.training.callbacks.base import Callback, Logs

VANISHING = 1e-3
EXPLODING = 10.0
STALLED = 1e-6
OVERSHOOTING = 0.1
NAMED = 8  # layers of one trouble; ``findings`` has all

WHAT = {
    "vanishing": "gradients vanish: below a thousandth of the largest in the network",
    "exploding": "gradients explode: more than 10 times as large as the weights themselves",
    "stalled": "weights stand still: a step changes less than a millionth of their size",
    "overshooting": "steps are too long: each changes the weights by more than a tenth of their size",
}
REMEDIES = {
    "vanishing": "ReLU or GELU in place of sigmoid and tanh, initial weights that keep the signal (he_normal, "
    "glorot_uniform), BatchNorm or LayerNorm between the layers, Residual connections; LSTM or GRU where SimpleRNN "
    "forgets; or an optimizer that goes by each layer's own gradient size (adam, das)",
    "exploding": "smaller initial weights (he_normal, glorot_uniform), inputs and targets of size one, BatchNorm or "
    "LayerNorm, clipping (global_clipnorm=1.0); or an optimizer that goes by each layer's gradient size (adam, das)",
    "stalled": "a larger learning rate; if the gradients vanish, what helps against that",
    "overshooting": "a smaller learning rate, or one that is warmed up",
}


@dataclass(frozen=True)
class Finding:
    """What is wrong with a parameter: a key of ``WHAT``, the epoch it was seen in, and the figure that says so."""

    kind: str
    parameter: str
    epoch: int
    value: float


class GradientMonitor(Callback):
    """Measures each parameter's gradient and update at every ``every``-th step, and names layers in trouble.

    With g_l the gradient of parameter l as the optimizer used it (clipped, where it clips), w_l its value before the
    step and Δw_l its change,

        n_l = RMS(g_l)        u_l = RMS(Δw_l) / RMS(w_l)

    An epoch is judged by the medians over its measured steps, so that one bad batch raises no alarm. Matrices and
    kernels (two dimensions and more) are judged, biases and scales are only measured:

    - vanishing: n_l < 1e-3 · max_k n_k. Over a few healthy layers gradients differ by a factor of ten or so. At a
      thousandth, under one rate for all, a layer learns a thousand times slower than another (Hochreiter 1991;
      Glorot & Bengio 2010, section 4: a factor in each layer, so a power of it with depth).
    - exploding: n_l > 10 · RMS(w_l). Losses are usually of size one, and gradients well below the weights; here a step
      of even a tenth of the gradient would replace the weights by something else (Pascanu et al. 2013, arXiv
      1211.5063, section 2).
    - stalled: u_l < 1e-6, near the resolution of float32 (6e-8): the sum no longer sees the step.
    - overshooting: u_l > 0.1. A thousandth is usual; tens of percents unlearn what was there.

    What it measures goes into the logs as "gradient/NAME" and "update/NAME", so that callbacks behind it in the list
    (CSVLogger, JSONLogger, TensorBoard) write it down:

        model.fit(x, y, callbacks=[tl.callbacks.GradientMonitor(), tl.callbacks.CSVLogger("log.csv")])

    Args:
        every: steps between measurements; each takes a copy of the parameters.
        verbose: 1 prints what is found, each layer's trouble once; 0 only keeps it.

    Attributes:
        steps: the steps that were measured, over all epochs.
        gradients, updates: parameter -> n_l and u_l at those steps.
        findings: of all epochs.
    """

    writes = True  # gradients are the same in all processes: one measures

    def __init__(self, every: int = 50, verbose: int = 1) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(
                f"GradientMonitor: every must be a positive whole number, got {every!r}"
            )
        self.every = every
        self.verbose = verbose
        self.findings: list[Finding] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.step = 0
        self.epoch = 0
        self.judged = 0  # measurements that a verdict has been given on
        self.steps: list[int] = []
        self.gradients: dict[str, list[float]] = {}
        self.updates: dict[str, list[float]] = {}
        self.findings = []
        self.before: NDArray | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if self.model.optimizer.store is not self.model.store:
            raise ValueError(
                "GradientMonitor needs whole gradients, and shard_optimizer=True leaves each process with a part: "
                "train with one of them"
            )
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.before = self.model.store.values.copy() if self.step % self.every == 0 else None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self.before is not None:
            self.measure(self.before)
            if logs is not None:
                logs.update(self.latest())
            self.before = None
        self.step += 1

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.judge()
        if logs is not None:
            logs.update(self.latest())

    def close(self) -> None:
        """Training may have ended by an error in the middle of an epoch: then what was seen is said here."""
        self.judge()

    # ---- measuring ----------------------------------------------------------------------------------------

    def measure(self, before: NDArray) -> None:
        store = self.model.store
        self.steps.append(self.step)
        for s in reversed(store.segments):  # forward order
            if not s.parameter.trainable:
                continue
            name, part = s.parameter.name, slice(s.start, s.stop)
            size = rms(before[part])
            change = rms(store.values[part].astype(np.float64) - before[part])
            ratio = change / size if size > 0 else float("nan")  # a bias begins at 0
            self.gradients.setdefault(name, []).append(rms(store.grads[part]))
            self.updates.setdefault(name, []).append(ratio)

    def latest(self) -> Logs:
        """The last measurement, as logs."""
        measured = {f"gradient/{name}": values[-1] for name, values in self.gradients.items()}
        return measured | {f"update/{name}": values[-1] for name, values in self.updates.items()}

    # ---- judging ------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Look at the measurements since the last verdict."""
        since, self.judged = self.judged, len(self.steps)
        if since == len(self.steps):
            return
        gradients = {name: median(values[since:]) for name, values in self.gradients.items()}
        largest = max(gradients.values())
        known = {(f.kind, f.parameter) for f in self.findings}
        found = []
        for name, parameter in self.model.named_parameters():
            if name not in gradients or len(parameter.shape) < 2:
                continue
            size, n = rms(parameter.value), gradients[name]
            u = median(self.updates[name][since:])
            for kind, holds, value in (
                ("vanishing", n < VANISHING * largest, n / largest if largest > 0 else 0.0),
                ("exploding", n > EXPLODING * size, n / size if size > 0 else np.inf),
                ("stalled", u < STALLED, u),
                ("overshooting", u > OVERSHOOTING, u),
            ):
                if holds:
                    found.append(Finding(kind, name, self.epoch, float(value)))
        self.findings += found
        new = [f for f in found if (f.kind, f.parameter) not in known]
        if new and self.verbose:
            print(self.advice(new))

    def advice(self, findings: list[Finding]) -> str:
        """What was found, layer by layer, and what helps."""
        lines = []
        for kind in WHAT:
            layers = [f for f in findings if f.kind == kind]
            if layers:
                named = ", ".join(f"{f.parameter} ({f.value:.1e})" for f in layers[:NAMED])
                if len(layers) > NAMED:
                    named += f" and {len(layers) - NAMED} more"
                lines.append(f"epoch {layers[0].epoch + 1}: {WHAT[kind]}\n  in {named}")
                lines.append(f"  what helps: {REMEDIES[kind]}")
        return "\n".join(lines)

    # ---- resuming -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "judged": self.judged,
            "steps": list(self.steps),
            "gradients": {name: list(values) for name, values in self.gradients.items()},
            "updates": {name: list(values) for name, values in self.updates.items()},
            "findings": [[f.kind, f.parameter, f.epoch, f.value] for f in self.findings],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.judged = state["step"], state["judged"]
        self.steps = list(state["steps"])
        self.gradients = {name: list(values) for name, values in state["gradients"].items()}
        self.updates = {name: list(values) for name, values in state["updates"].items()}
        self.findings = [Finding(*f) for f in state["findings"]]


def rms(x: NDArray) -> float:
    """√(mean x²), in float64 so that small numbers do not underflow when squared."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if x.size else 0.0


def median(values: list[float]) -> float:
    """NaN where a value is not a number (nothing is less or greater than that, so it raises no alarm)."""
    return float(np.median(values))
