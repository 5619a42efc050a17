"""The table of architectures, and models from a file of one's own."""

from __future__ import annotations

import importlib.util
import inspect
import os
import traceback
from collections.abc import Callable
from pathlib import Path

from tinydl.architectures.convolutional import cnn, lenet
from tinydl.architectures.mlp import mlp
from tinydl.architectures.resnet import resnet8, resnet20
from tinydl.configs import near
from tinydl.layers.base import Shape
from tinydl.training.model import BaseModel

Builder = Callable[..., BaseModel]

ARCHITECTURES: dict[str, Builder] = {
    "mlp": mlp,
    "cnn": cnn,
    "lenet": lenet,
    "resnet8": resnet8,
    "resnet20": resnet20,
}


def build(architecture: str, input_shape: Shape, classes: int, *, seed: int = 0) -> BaseModel:
    """The network called ``architecture``, or what FUNCTION in ``FILE.py:FUNCTION`` returns, built.

    A function of one's own is called as ``function(input_shape, classes, seed=seed)``.
    """
    own = ".py" in architecture
    builder = from_file(architecture) if own else by_name(architecture)
    try:
        inspect.signature(builder).bind(input_shape, classes, seed=seed)
    except TypeError as error:
        raise TypeError(
            f"{architecture} is called as function(input_shape, classes, seed=seed), and cannot be: {error}"
        ) from None
    expected = (
        Exception if own else (TypeError, ValueError)
    )  # a mistake of ours keeps its traceback
    try:
        model = builder(input_shape, classes, seed=seed)
        if isinstance(model, BaseModel) and not model.built:
            model.build_model(input_shape)
    except expected as error:
        file = architecture.partition(":")[0]
        raise ValueError(
            f"{architecture}, for input {input_shape}: {with_line(error, file)}"
        ) from error
    if not isinstance(model, BaseModel):
        raise TypeError(
            f"{architecture} must return a model (tl.Sequential or tl.Model), got {type(model).__name__}"
        )
    return model


def by_name(name: str) -> Builder:
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise ValueError(
        f"unknown architecture {name!r}{near(name, ARCHITECTURES)}: expected one of {', '.join(ARCHITECTURES)}, "
        "or a file of your own as FILE.py:FUNCTION"
    )


def from_file(reference: str) -> Builder:
    """The function that ``FILE.py:FUNCTION`` names. This runs the file: it is the user's own program."""
    file, _, function = reference.partition(":")
    path = Path(file)
    if not function:
        raise ValueError(f"{reference}: name the function too, as {reference}:build")
    if not path.is_file():
        raise ValueError(f"{reference}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be imported: {with_line(error, file)}") from error
    if not callable(getattr(module, function, None)):
        raise ValueError(f"{path} defines no function {function!r}")
    return getattr(module, function)


def with_line(error: Exception, file: str) -> str:
    """The error's message, with its kind and the line of ``file`` where it went through that."""
    path = os.path.abspath(file)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == path]
    return f"{type(error).__name__}: {error} (line {lines[-1]})" if lines else str(error)
