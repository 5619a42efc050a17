"""Models in files: the architecture as plain data, the arrays beside it, no code.

A model file is a safetensors file. Its arrays are the parameters and states by their paths (``conv2d.weight``),
which any program that reads safetensors can use; its metadata hold the architecture, layer by layer, as class names
and constructor arguments. Loading looks the names up in the table of known layers and runs nothing from the file.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tinydl.configs import as_config
from tinydl.devices import assign, to_host
from tinydl.layers import layer_config, layer_from_config
from tinydl.layers.base import Shape
from tinydl.training.files import Arrays, SavedFileError, read_arrays, write_arrays
from tinydl.training.objectives import MetricOfOutput, SeveralLosses

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel

VERSION = 1
KEYS = {"version", "model", "input_shape", "frozen", "compile"}


def save_model(model: BaseModel, path: str | os.PathLike) -> None:
    """Write architecture, parameters, states and compile settings to ``path``. See ``write_arrays`` for errors."""
    arrays, metadata = model_content(model)
    write_arrays(path, arrays, metadata)


def model_content(model: BaseModel) -> tuple[Arrays, dict[str, Any]]:
    """(arrays, metadata) from which ``load`` makes the model again."""
    model._require_built()
    frozen = [path for path, layer in model._named_layers("") if not layer.trainable]
    metadata = {
        "version": VERSION,
        "model": layer_config(model),
        "input_shape": model.input_shape,
        "frozen": frozen,
        "compile": compile_settings(model),
    }
    return {name: to_host(array) for name, array in named_arrays(model).items()}, metadata


def named_arrays(model: BaseModel) -> Arrays:
    """Path -> array itself, not a copy, of every parameter and state."""
    pairs = [(name, p.value) for name, p in model.named_parameters()] + list(model.named_states())
    arrays = dict(pairs)
    if len(arrays) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            f"two arrays of model '{model.name}' have the path {twice[0]!r}: rename a layer"
        )
    return arrays


def compile_settings(model: BaseModel) -> dict[str, Any] | None:
    """Optimizer, loss and metrics as plain data, or None before ``compile``.

    A loss or metric of one's own that has no ``config`` is left out: the loaded model is to be compiled again.
    """
    if model.optimizer is None:
        return None
    settings: dict[str, Any] = {}
    try:
        settings["optimizer"] = as_config(model.optimizer)
        if isinstance(model.loss, SeveralLosses):
            settings["loss"] = [as_config(loss) for loss in model.loss.losses]
            settings["loss_weights"] = model.loss.weights
            settings["metrics"] = [[] for _ in model.loss.losses]
            for metric in model.metrics:
                assert isinstance(metric, MetricOfOutput)
                settings["metrics"][metric.output].append(as_config(metric.metric))
        else:
            settings["loss"] = as_config(model.loss)
            settings["metrics"] = [as_config(metric) for metric in model.metrics]
    except (AttributeError, NotImplementedError):
        return None
    return settings


def load(path: str | os.PathLike) -> BaseModel:
    """The model that ``model.save`` wrote (or that a checkpoint holds), with its weights, ready to predict.

    It is compiled as it was; the optimizer starts afresh (a ``Checkpoint`` keeps its state too). A model with layers
    of one's own needs them known first: ``@tl.layers.register`` on their class.

    Raises:
        FileNotFoundError, IsADirectoryError: ``path`` is no file.
        SavedFileError: damaged or cut off, not a model, an unknown layer, arrays that do not fit the architecture.
    """
    path = Path(path)
    arrays, metadata = read_arrays(path)
    described = isinstance(metadata, dict) and metadata.keys() >= KEYS
    if not described or not isinstance(metadata["frozen"], list):
        raise SavedFileError(f"{path} holds no model")
    if metadata["version"] != VERSION:
        raise SavedFileError(
            f"{path} has format {metadata['version']}, this tinydl reads format {VERSION}"
        )
    model = build_from_config(path, metadata)
    fill(model, arrays, path)
    for layer_path, layer in model._named_layers(""):
        if layer_path in metadata["frozen"]:
            layer.trainable = False
    restore_compile(model, metadata["compile"], path)
    return model


def build_from_config(path: Path, metadata: dict[str, Any]) -> BaseModel:
    """The architecture, built, with fresh weights."""
    import tinydl.training.ensemble
    import tinydl.training.functional  # noqa: F401  (they add their models to the table of layers)
    from tinydl.training.model import BaseModel

    try:
        model = layer_from_config(metadata["model"])
        if not isinstance(model, BaseModel):
            raise ValueError(f"{type(model).__name__} is a layer, not a model")
        model.build_model(as_shape(metadata["input_shape"]))
    except Exception as error:  # whatever the names and numbers in the file led to
        raise SavedFileError(
            f"{path}: the architecture cannot be rebuilt: {error} "
            "(a layer of your own must be registered first: @tl.layers.register)"
        ) from error
    return model


def as_shape(data: Any) -> Any:
    """JSON turns tuples into lists: (28, 28, 1) of one input, or a list of such for several."""
    if any(isinstance(item, list) for item in data):
        return [as_shape(item) for item in data]
    shape: Shape = tuple(data)
    return shape


def fill(model: BaseModel, arrays: Arrays, path: Path) -> None:
    """Copy the file's arrays into the model's; nothing is written unless all of them fit."""
    targets = named_arrays(model)
    own = {name: array for name, array in arrays.items() if not name.startswith("training/")}
    for problem, names in (("lacks", targets.keys() - own), ("has unknown", own.keys() - targets)):
        if names:
            raise SavedFileError(f"{path} does not fit this model: it {problem} {listed(names)}")
    for name, target in targets.items():
        check_fits(path, name, target, own[name])
    for name, target in targets.items():
        assign(target, own[name])


def check_fits(path: Path, name: str, target: NDArray, array: NDArray) -> None:
    if array.shape != target.shape:
        raise SavedFileError(
            f"{path}: '{name}' has shape {array.shape}, the model's has {target.shape}"
        )
    if array.dtype != target.dtype:
        raise SavedFileError(f"{path}: '{name}' is {array.dtype}, the model's is {target.dtype}")


def listed(names: Iterable[str]) -> str:
    """The first few names in quotes."""
    ordered = sorted(names)
    shown = ", ".join(f"'{name}'" for name in ordered[:3])
    return shown + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def restore_compile(model: BaseModel, settings: dict[str, Any] | None, path: Path) -> None:
    if settings is None:
        return
    try:
        model.compile(**settings)
    except (ValueError, TypeError) as error:
        warnings.warn(
            f"{path}: the model is loaded but not compiled ({error}): call compile before fit or evaluate",
            stacklevel=3,
        )
