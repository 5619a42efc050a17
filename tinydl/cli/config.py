"""A run described by one TOML file, checked before anything starts.

    [data]
    dataset = "mnist"
    augment = false

    [model]
    architecture = "lenet"           # or "my_model.py:build"

    [optimizer]
    name = "adam"
    learning_rate = 0.001            # any argument of that optimizer

    [training]
    epochs = 10
    batch_size = 64
    seed = 0

Every key has a default; unknown keys and bad values are refused with their line, what was expected and the
nearest right name.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tinydl.configs import lookup, near
from tinydl.optimizers import OPTIMIZERS


class Section(BaseModel):
    # strict: `epochs = true` is no number of epochs, nor is "3"
    model_config = ConfigDict(extra="forbid", validate_assignment=True, strict=True)


class DataConfig(Section):
    dataset: str = Field(
        "digits",
        description="Name of a data set (see `tinydl data list`); or the path of your own: a folder or "
        ".zip of images, a folder for each class, or an .npz, .csv or .parquet file.",
    )
    root: Path | None = Field(
        None, strict=False, description="Folder of the files; by default TINYDL_DATA."
    )
    validation_split: float = Field(
        0.0, ge=0, lt=1, description="Share of the training data held out to watch the loss on."
    )
    image_size: int | None = Field(
        None, ge=1, description="Height and width to which images of your own are resized."
    )
    color: Literal["RGB", "L"] | None = Field(
        None, description="RGB or L (gray): to which images of your own are converted."
    )
    label: str | None = Field(None, description="Column to predict in a table of your own.")
    augment: bool = Field(
        False, description="Random crops and flips (flips only for natural images)."
    )


class ModelConfig(Section):
    architecture: str = Field(
        "cnn", description="Name of an architecture, or FILE.py:FUNCTION that builds a model."
    )


class OptimizerConfig(BaseModel):
    """``name`` and any argument of that optimizer's constructor."""

    model_config = ConfigDict(extra="allow")
    name: str = Field("adam", description="Name of the optimizer.")

    @model_validator(mode="after")
    def arguments_fit_the_optimizer(self) -> OptimizerConfig:
        try:
            cls = lookup(self.name, OPTIMIZERS, "optimizer")
        except ValueError as error:
            raise PydanticCustomError(
                "optimizer_argument", "{error}", {"key": "name", "error": str(error)}
            ) from None
        known = list(inspect.signature(cls).parameters)
        for key in self.arguments():
            if key not in known:
                raise PydanticCustomError(
                    "optimizer_argument",
                    "{cls} has no argument '{key}'{hint}; it takes {known}",
                    {
                        "cls": cls.__name__,
                        "key": key,
                        "hint": near(key, known),
                        "known": ", ".join(known),
                    },
                )
        try:
            cls(**self.arguments())
        except (TypeError, ValueError) as error:
            key = next((key for key in self.arguments() if key in str(error)), "name")
            raise PydanticCustomError(
                "optimizer_argument", "{error}", {"key": key, "error": str(error)}
            ) from None
        return self

    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class TrainingConfig(Section):
    epochs: int = Field(15, ge=1, description="Passes over the training data.")
    batch_size: int = Field(32, ge=1, description="Samples in one step.")
    seed: int = Field(0, ge=0, description="Fixes initial weights, order of samples, dropout.")
    schedule: Literal["constant", "cosine", "one_cycle"] = Field(
        "one_cycle", description="Learning rate over the run: constant, cosine or one_cycle."
    )
    accumulate_steps: int = Field(
        1, ge=1, description="Passes in which a batch is computed, one part of it after another."
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="Where to compute: cpu, or cuda for an NVIDIA GPU (each process takes one).",
    )
    checkpoint_steps: int = Field(
        0, ge=0, description="Write a checkpoint every so many steps (0: at each epoch's end)."
    )


Compression = Literal["bfloat16", "float16", "top_k", "power_sgd"]


class DistributedConfig(Section):
    """How several processes share the work; without effect on one alone."""

    deterministic: bool = Field(
        False, description="The same weights to the last bit for every number of processes."
    )
    shards: int = Field(8, ge=1, description="Virtual shards of a batch, when deterministic.")
    bucket_bytes: int = Field(4 << 20, ge=64, description="Size of a slice of gradients.")
    overlap: Literal["auto", "thread", "poll", "none"] = Field(
        "auto", description="How communication runs beside the backward pass."
    )
    compression: Compression | dict | None = Field(
        None, description="Less traffic for less exact gradients (default: as they are)."
    )
    shard_optimizer: bool = Field(
        False, description="Share out the optimizer's slots among the processes."
    )
    check_every: int = Field(
        100, ge=0, description="Steps between comparisons of the parameters across processes."
    )

    @field_validator("compression", mode="before")
    @classmethod
    def name_or_table(cls, value: Any) -> Any:
        """One error for what is neither, where pydantic has one for each."""
        names = get_args(Compression)
        if value is None or value in names or isinstance(value, dict):
            return value
        raise PydanticCustomError(
            "compression",
            "expected one of {names}, or a table such as {table}",
            {
                "names": ", ".join(names),
                "table": '{ class = "top_k", config = { ratio = 0.01 } }',
            },
        )


class RunConfig(Section):
    """Everything that one run of `tinydl train` depends on."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", learning_rate=0.003)
    training: TrainingConfig = TrainingConfig()
    distributed: DistributedConfig = DistributedConfig()


class ConfigError(ValueError):
    """A run's description that cannot be used; the message lists every problem, a line each."""


def read_config(path: Path) -> RunConfig:
    """The run described by the TOML file at ``path``; ``ConfigError`` lists all that is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return check_config(data, text, str(path))


def check_config(data: dict[str, Any], text: str = "", source: str = "run") -> RunConfig:
    """``data`` as a ``RunConfig``; ``text`` is the TOML it came from, to find lines in."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        problems = [f"{source}:{explain(e, text)}" for e in error.errors()]
        raise ConfigError("\n".join(problems)) from None


def explain(error: ErrorDetails, text: str) -> str:
    """One problem in one line: where, what came, what was expected, the nearest right name."""
    path = [str(part) for part in error["loc"]]
    if error["type"] == "optimizer_argument":
        path.append(error["ctx"]["key"])
    line = line_of(path, text)
    place = f"{f'{line}: ' if line else ' '}{'.'.join(path)}: "
    if error["type"] == "extra_forbidden":
        known = known_keys(path[:-1])
        return f"{place}unknown key{near(path[-1], known)}; expected one of {', '.join(known)}"
    message = error["msg"].removeprefix("Value error, ")
    got = "" if isinstance(error["input"], dict) else f", got {error['input']!r}"
    return f"{place}{message}{got}"


def known_keys(path: list[str]) -> list[str]:
    """The keys that the section at ``path`` may have."""
    section: Any = RunConfig
    for key in path:
        section = section.model_fields[key].annotation
    return list(section.model_fields)


def line_of(path: list[str], text: str) -> int | None:
    """The line on which the key at ``path`` stands in TOML ``text``; the table's line if the key is not found."""
    table: list[str] = []
    table_line = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("["):
            table = [part.strip(" \"'") for part in line.strip("[] ").split("]")[0].split(".")]
            if table == path[: len(table)]:
                table_line = number
            if table == path:
                return number
        elif "=" in line and not line.startswith("#"):
            key = [part.strip(" \"'") for part in line.split("=", 1)[0].split(".")]
            full = table + key
            if full == path or full == path[: len(full)]:
                return number
    return table_line
