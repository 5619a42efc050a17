"""What ``fit``, ``evaluate`` and ``predict`` do before the first batch: look at the arguments, build, check."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinydl import devices
from tinydl.arguments import whole_number
from tinydl.distributed.strategy import SingleProcess
from tinydl.losses import (
    CategoricalCrossentropy,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
)
from tinydl.losses.elementwise import ElementwiseLoss
from tinydl.training import evaluation
from tinydl.training.batches import (
    IterableSource,
    LoaderSource,
    Source,
    as_arrays,
    count_samples,
    is_arrays,
    is_loader,
    make_source,
    split_validation,
)
from tinydl.training.callbacks.base import Callback
from tinydl.training.callbacks.checkpoint import Checkpoint
from tinydl.training.callbacks.progress import ProgressBar, duration
from tinydl.training.checks import check_inputs, check_targets, refuse_missing_targets
from tinydl.training.class_weights import ClassWeights
from tinydl.training.history import History
from tinydl.training.loop import TrainingLoop
from tinydl.training.memory import keep_freed_memory
from tinydl.training.objectives import SeveralLosses
from tinydl.training.placement import placed, refuse_layers_for_the_host

if TYPE_CHECKING:
    from tinydl.training.checkpoints import SavedTraining
    from tinydl.training.model import BaseModel


@dataclass
class FitRequest:
    """The arguments of ``fit``; see there."""

    x: Any
    y: Any
    sample_weight: Any
    epochs: int
    batch_size: int
    validation_data: Any
    validation_split: float
    callbacks: list[Callback]
    verbose: int
    seed: int | None
    class_weight: dict[int, float] | None
    shuffle: bool
    initial_epoch: int
    steps_per_epoch: int | None
    resume: bool
    strategy: SingleProcess | None = None
    accumulate_steps: int = 1
    device: str | None = None


def fit(model: BaseModel, request: FitRequest) -> History:
    require_compiled(model)
    keep_freed_memory()
    check_epochs(request)
    check_verbose(request.verbose)
    strategy = choose_strategy(request)
    many = strategy.world.size > 1
    check_device(model, request.device, strategy.world.local_rank if many else None)
    callbacks, checkpoint = take_checkpoint(request)
    strategy.compare(asked_for(model, request, checkpoint))
    saved = strategy.in_turn(lambda: checkpoint.prepare(request.resume)) if checkpoint else None
    seed, order_epoch = choose_order(model, request, saved)
    seed = strategy.agree(seed)
    training, validation = make_sources(model, request, seed, order_epoch)
    training = strategy.part_of(training)
    if validation is not None:
        validation = strategy.part_of_validation(validation)
    prepare(model, training, request.seed)
    check_source(model, training)
    if validation is not None:
        check_source(model, validation, "validation_data: ")

    if request.verbose:
        callbacks = [*callbacks, ProgressBar(request.verbose)]
    loop = TrainingLoop(
        model,
        training,
        epochs=request.epochs,
        initial_epoch=request.initial_epoch,
        validation=validation,
        class_weights=make_class_weights(model, request.class_weight),
        callbacks=callbacks,
        checkpoint=checkpoint,
        seed=seed,
        order_epoch=order_epoch,
        verbose=request.verbose,
        strategy=strategy,
        accumulate_steps=request.accumulate_steps,
    )
    with placed(model, request.device, training=True):
        return loop.run(saved)


def check_device(model: BaseModel, device: str | None, local_rank: int | None = None) -> None:
    """What is known before the data: is there such a device, and can it compute the model?"""
    devices.require(device, local_rank)
    if device == "cuda":
        refuse_layers_for_the_host(model)


def choose_strategy(request: FitRequest) -> SingleProcess:
    """The one given. On a GPU a strategy of many has no use where there is one process."""
    strategy = request.strategy or SingleProcess()
    if not isinstance(strategy, SingleProcess):
        raise TypeError(
            f"strategy must be a strategy such as tl.distributed.DataParallel(), got {strategy!r}"
        )
    if getattr(strategy, "deterministic", False) and request.accumulate_steps > 1:
        raise ValueError(
            "deterministic=True computes a batch in shards already: raise shards instead of accumulate_steps"
        )
    alone = request.device == "cuda" and strategy.world.size == 1
    return SingleProcess() if alone else strategy


def evaluate(
    model: BaseModel,
    x: Any,
    y: Any,
    batch_size: int,
    sample_weight: Any,
    verbose: int,
    device: str | None = None,
) -> dict[str, Any]:
    require_compiled(model)
    check_verbose(verbose)
    check_device(model, device)
    began = time.perf_counter()
    source = make_source(
        x, y, sample_weight, batch_size=fitting_batch(x, batch_size), dtype=model.parameter_dtype
    )
    build_for(model, source)
    check_source(model, source)
    with placed(model, device):
        measured = evaluation.evaluate(model, source)
    assert measured is not None
    if verbose:
        values = [f"{name} {v:.4f}" for name, v in measured.items() if isinstance(v, float)]
        print("  ".join([*values, duration(time.perf_counter() - began)]))
    return measured


def predict(
    model: BaseModel, x: Any, batch_size: int, verbose: int, device: str | None = None
) -> Any:
    check_verbose(verbose)
    check_device(model, device)
    began = time.perf_counter()
    if is_loader(x) and getattr(x, "shuffle", False):
        raise ValueError(
            "predict gives its outputs in the order of the batches, and this DataLoader shuffles them: "
            "make it with shuffle=False"
        )
    if isinstance(x, list) and not is_arrays(x) and x and not isinstance(x[0], tuple):
        x = as_arrays(x)  # a list of numbers
    source = make_source(x, batch_size=fitting_batch(x, batch_size), dtype=model.parameter_dtype)
    build_for(model, source)
    check_source(model, source, targets=False)
    with placed(model, device):
        predicted = evaluation.predict(model, source)
    if verbose:
        print(f"{count_samples(predicted):,} samples  {duration(time.perf_counter() - began)}")
    return predicted


def require_compiled(model: BaseModel) -> None:
    if model.optimizer is None or model.loss is None:
        raise RuntimeError(
            f"model '{model.name}' is not compiled: call model.compile(optimizer=…, loss=…, metrics=[…]) first"
        )


def check_epochs(request: FitRequest) -> None:
    for name, least in (("epochs", 1), ("initial_epoch", 0), ("accumulate_steps", 1)):
        whole_number(name, getattr(request, name), least)


def check_verbose(verbose: Any) -> None:
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose must be 0, 1 or 2, got {verbose!r}")


def take_checkpoint(request: FitRequest) -> tuple[list[Callback], Checkpoint | None]:
    """The callbacks without the ``Checkpoint``, which the loop calls after all others."""
    checkpoints = [c for c in request.callbacks if isinstance(c, Checkpoint)]
    if len(checkpoints) > 1:
        raise ValueError("give one Checkpoint, not several")
    if request.resume and not checkpoints:
        raise ValueError("resume=True needs a tl.callbacks.Checkpoint(folder) among the callbacks")
    others = [c for c in request.callbacks if not isinstance(c, Checkpoint)]
    return others, checkpoints[0] if checkpoints else None


def asked_for(
    model: BaseModel, request: FitRequest, checkpoint: Checkpoint | None
) -> dict[str, Any]:
    """What processes that train together must be asked for alike: one that validates alone would wait for ever."""
    names = ("epochs", "initial_epoch", "steps_per_epoch", "validation_split", "class_weight")
    return {
        **{name: getattr(request, name) for name in (*names, "resume", "device")},
        "validation_data": "none" if request.validation_data is None else "given",
        "Checkpoint": "none" if checkpoint is None else f"every_steps={checkpoint.every_steps}",
        "optimizer": model.optimizer,
        "loss": getattr(model.loss, "losses", model.loss),
        "metrics": model.metrics,
    }


def choose_order(
    model: BaseModel, request: FitRequest, saved: SavedTraining | None
) -> tuple[int, int]:
    """(seed, number that the order of the samples has for epoch 0).

    The order is a function of seed and epoch. A second call of ``fit`` must not repeat the orders of the first:
    its epochs are counted on, unless the user numbers them with ``initial_epoch`` or gives a seed of their own.
    """
    if saved is not None:
        return saved.seed, saved.order_epoch
    if request.seed is not None:
        return request.seed, 0
    seed = np.random.SeedSequence().entropy if model.seed is None else model.seed
    assert isinstance(seed, int)
    return seed, 0 if request.initial_epoch else model.epochs_trained


def make_sources(
    model: BaseModel, request: FitRequest, seed: int, order_epoch: int
) -> tuple[Source, Source | None]:
    """Batches to train on and batches to validate on."""
    x, y, weight = request.x, request.y, request.sample_weight
    validation = request.validation_data
    if request.validation_split:
        if validation is not None:
            raise ValueError("give validation_data or validation_split, not both")
        (x, y, weight), validation = split_validation(x, y, weight, request.validation_split)
    training = make_source(
        x,
        y,
        weight,
        batch_size=request.batch_size,
        shuffle=request.shuffle,
        seed=seed,
        dtype=model.parameter_dtype,
        steps=request.steps_per_epoch,
        initial_epoch=request.initial_epoch,
        order_epoch=order_epoch,
    )
    if validation is None:
        return training, None
    parts = validation if isinstance(validation, tuple) else (validation,)
    batch_size = fitting_batch(parts[0], request.batch_size)
    measured = make_source(
        *parts, batch_size=batch_size, dtype=model.parameter_dtype, label="validation_data: "
    )
    if isinstance(measured, IterableSource) and measured.read_once and request.epochs > 1:
        raise ValueError(
            "validation_data is read in every epoch, and this iterator can be read once only: "
            "give a list of batches, a DataLoader or arrays"
        )
    return training, measured


def fitting_batch(x: Any, batch_size: int) -> int:
    """Where nothing is trained, a batch may be larger than the data: it is made to fit."""
    batch_size = whole_number("batch_size", batch_size)
    if is_arrays(x):
        return min(batch_size, max(count_samples(as_arrays(x)), 1))
    return batch_size


def prepare(model: BaseModel, source: Source, seed: int | None) -> None:
    """Build the model for the data, and the optimizer for the model, where that has not been done."""
    build_for(model, source)
    if not model.store.owns_parameters():  # another model with the same layers was built since
        model.build_model(model.input_shape)
    if model.optimizer.store is not model.store:
        model.optimizer.build(model.store)
    if seed is not None:
        model.seed_dropout(seed)


def build_for(model: BaseModel, source: Source) -> None:
    if not model.built:
        x, _, _ = source.first()
        shape = [np.shape(array)[1:] for array in x] if isinstance(x, list) else np.shape(x)[1:]
        model.build_model(shape)


def check_source(model: BaseModel, source: Source, label: str = "", targets: bool = True) -> None:
    """Hold the data against the model before anything is computed, as far as they are known."""
    if isinstance(source, LoaderSource) and hasattr(source.loader, "y"):
        x, _, _ = source.first()
        y = source.loader.y
    else:
        x, y, _ = source.first()
    check_inputs(model, x, label)
    if targets:
        refuse_missing_targets(y, label)
        check_targets(model, y, label)


def make_class_weights(model: BaseModel, weights: dict[int, float] | None) -> ClassWeights | None:
    if weights is None:
        return None
    if isinstance(model.loss, SeveralLosses):
        raise ValueError("class_weight needs one output; give sample_weight for a model of several")
    several = isinstance(model.loss, ElementwiseLoss) and model.output_shape[-1] > 1
    if several or isinstance(model.loss, MeanSquaredError | MeanAbsoluteError | Huber):
        raise ValueError(
            "class_weight needs a loss for which every sample is of one class, not "
            f"{type(model.loss).__name__} of {model.output_shape[-1]} outputs: give sample_weight"
        )
    one_hot = isinstance(model.loss, CategoricalCrossentropy)
    return ClassWeights(weights, one_hot, classes=max(model.output_shape[-1], 2))
