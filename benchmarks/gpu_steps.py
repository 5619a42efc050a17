"""Whole training steps on a GPU, for gpu_check.py: is the loss what the CPU computes, and how many images a second?

Right: resnet8 is trained for 50 steps on the GPU in float32, on the CPU in float32, and on the CPU in float64. Rounding
grows from step to step, so no fixed limit fits. The GPU's losses may be ten times as far from those in float64 as the
CPU's have been at most up to that step.

Fast: images a second in ``fit``, from arrays in the host's memory to updated weights, against the same network in
PyTorch (eager, float32 without TF32, channels last), which reads the same batches from the same loader and copies them
from pinned memory. Epochs take turns; the first of each does not count. Medians.

State: written without a GPU, and never run on one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gpu_jobs import UNLIMITED, Allowance

SHAPE, CLASSES = (32, 32, 3), 10
STEPS, BATCH = 50, 64
STARTS, SLACK = (
    5,
    10.0,
)  # trainings on the CPU that tell how far rounding goes, and times as far is allowed
BATCHES = (128, 512, 2048)
EPOCHS, EPOCH_IMAGES = 4, 16384
RATE, MOMENTUM = 0.05, 0.9


def images(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a pattern of its class: something that can be learned."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=number)
    patterns = rng.standard_normal((CLASSES, *SHAPE), dtype=np.float32)
    return patterns[labels] + 2 * rng.standard_normal((number, *SHAPE), dtype=np.float32), labels


def network(dtype: str = "float32", start: int = 0) -> Any:
    """start: another number than 0 moves each weight by about the error of its rounding."""
    import tinydl as tl

    model = tl.architectures.build("resnet8", SHAPE, CLASSES, seed=0)
    weights = model.get_weights()
    if start:
        rng, error = np.random.default_rng(start), np.finfo(np.float32).eps / 2
        weights = [w * (1 + error * rng.standard_normal(w.shape)) for w in weights]
    if dtype != "float32":
        model = tl.Sequential.from_config({**model.config(), "dtype": dtype})
        model.build_model(SHAPE)
    model.set_weights([w.astype(dtype) for w in weights])
    optimizer = tl.optimizers.SGD(RATE, momentum=MOMENTUM)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


TRAININGS = ("cuda", "float32"), ("cpu", "float32"), ("cpu", "float64")


# --- right ----------------------------------------------------------------------------------------


def trainings(
    device: str, dtype: str, seed: int, steps: int = STEPS, batch: int = BATCH
) -> list[list[float]]:
    """The losses of one training; on the CPU in float32 of one from each start."""
    starts = STARTS if (device, dtype) == ("cpu", "float32") else 1
    return [losses(device, dtype, seed, steps, batch, start) for start in range(starts)]


def losses(
    device: str, dtype: str, seed: int, steps: int = STEPS, batch: int = BATCH, start: int = 0
) -> list[float]:
    """The loss at each of the first steps."""
    import tinydl as tl

    x, y = images(steps * batch, seed)
    means: list[float] = []
    callback = tl.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: means.append(logs["loss"])
    )
    network(dtype, start).fit(
        x.astype(dtype), y, batch_size=batch, shuffle=False, verbose=0, callbacks=callback, device=device
    )  # fmt: skip
    sums = np.arange(1, steps + 1) * np.array(means)  # logs hold means over the epoch so far
    return np.diff(sums, prepend=0.0).tolist()


def compare(
    found: list[list[float]], narrow: list[list[float]], wide: list[list[float]]
) -> dict[str, Any]:
    """Are the GPU's losses those of the CPU but for rounding?

    Rounding errors grow from step to step, and jump where one of a million ReLUs is 0 in one training and not in
    the other, sooner or later. So they are measured: by how far float32 is from float64 on the CPU, at
    worst until then, from starts that differ by no more than the rounding of the weights.

    Args:
        found, narrow, wide: `trainings` on the GPU; on the CPU in float32; and in float64.
    """
    (a,), b, (c,) = map(np.array, (found, narrow, wide))
    rounding = np.maximum.accumulate(np.maximum(abs(b - c).max(axis=0), 1e-6 * abs(c)))
    allowed = SLACK * rounding
    excess = abs(a - c) / allowed
    right = bool(np.isfinite(a).all() and (excess <= 1).all())
    return {
        "right": right,
        "worst": float(excess.max()),
        "gpu": a.tolist(),
        "cpu": b[0].tolist(),
        "float64": c.tolist(),
        "allowed": allowed.tolist(),
    }


def report_losses(compared: dict[str, Any]) -> None:
    verdict = "right" if compared["right"] else "WRONG"
    worst = f"at worst {compared['worst']:.2f} of the error allowed"
    print(f"losses of the first {STEPS} steps: {verdict}, {worst}")


# --- fast -----------------------------------------------------------------------------------------


def epoch_seconds(loader: Any, device: str) -> Callable[[], float]:
    """A call that trains for an epoch, and says how long its steps took."""
    import tinydl as tl

    model, began = network(), [0.0]

    def start(epoch: int) -> None:
        began[0] = time.perf_counter()

    # on_epoch_end is called when the last step's gradient norm has come back from the device.
    seconds: list[float] = []
    callback = tl.callbacks.LambdaCallback(
        on_epoch_begin=start,
        on_epoch_end=lambda epoch, logs: seconds.append(time.perf_counter() - began[0]),
    )

    def run() -> float:
        model.fit(loader, verbose=0, callbacks=callback, device=device)
        return seconds[-1]

    return run


def torch_epoch_seconds(torch: Any, loader: Any) -> Callable[[], float]:
    from tinydl.bench.operations.torch_step import resnet8

    model = resnet8().cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM)
    criterion = torch.nn.CrossEntropyLoss()

    def there(array: np.ndarray) -> Any:
        return torch.from_numpy(array).pin_memory().to("cuda", non_blocking=True)

    def run() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for x, y in loader:
            inputs = there(x).permute(0, 3, 1, 2)  # as it lies: channels last
            optimizer.zero_grad()
            criterion(model(inputs), there(y)).backward()
            optimizer.step()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    return run


def prepare(seed: int, allowance: Allowance) -> None:
    """Steps with each size of a batch, so that what they need is compiled."""
    for batch in BATCHES:
        if not allowance.over:
            losses("cuda", "float32", seed, steps=2, batch=batch)


def speeds(
    torch: Any, seed: int, allowance: Allowance = UNLIMITED, device: str = "cuda"
) -> list[dict[str, Any]]:
    """Images a second of each contender, for each size of a batch."""
    import tinydl as tl

    x, y = images(EPOCH_IMAGES, seed)
    found = []
    for i, batch in enumerate(BATCHES):
        if allowance.over:
            allowance.leave_out(f"batches of {', '.join(map(str, BATCHES[i:]))}")
            break
        loader = tl.data.DataLoader(x, y, batch_size=batch, seed=0)
        contenders = {"tinydl": epoch_seconds(loader, device)}
        if torch is not None:
            contenders["torch"] = torch_epoch_seconds(torch, loader)
        share = allowance.share(1, len(BATCHES) - i, f"batches of {batch}")
        found.append({"batch": batch, "images_per_second": race(contenders, share)})
        report(found[-1])
    return found


def race(
    contenders: dict[str, Callable[[], float]], allowance: Allowance = UNLIMITED
) -> dict[str, float]:
    """Each trains for an epoch in turn; fewer epochs, but two at least, where there is no time for all."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(EPOCHS):
        if turn >= 2 and allowance.over:
            allowance.leave_out(f"{EPOCHS - turn} of {EPOCHS} epochs")
            break
        for name, run in contenders.items():
            seconds[name].append(run())
    return {name: EPOCH_IMAGES / statistics.median(values[1:]) for name, values in seconds.items()}


def report(case: dict[str, Any]) -> None:
    values = case["images_per_second"]
    text = ", ".join(f"{name} {value:,.0f}" for name, value in values.items())
    if "torch" in values:
        text += f": {values['tinydl'] / values['torch']:.2f} of PyTorch"
    print(f"resnet8, batches of {case['batch']:>4}, images/s: {text}")
