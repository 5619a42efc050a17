"""``tinydl train``: one run from data to a folder with the trained model and its record."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tinydl import devices
from tinydl.cli.config import ConfigError, RunConfig, check_config, read_config
from tinydl.cli.errors import say
from tinydl.cli.runs import (
    create_run_folder,
    plot_curves,
    provenance,
    read_metrics,
    run_of_restarted_job,
    write_json,
)
from tinydl.devices import DeviceError
from tinydl.distributed import world
from tinydl.distributed.faults import speaks
from tinydl.distributed.launch import RESTART
from tinydl.distributed.launchers import LaunchError

DEFAULTS = RunConfig()
console = Console()


def option(section: str, key: str, *flags: str) -> Any:
    """A flag that overrides the configuration's ``section.key``; its help and default come from there."""
    config = getattr(DEFAULTS, section)
    field = type(config).model_fields[key]
    default = getattr(config, key)
    unset = {"root": "TINYDL_DATA", "label": "label"}
    shown = unset.get(key, "as they are") if default is None else str(default)
    return typer.Option(*flags, help=field.description, show_default=shown)


def train(
    architecture: Annotated[
        str | None,
        typer.Argument(
            help="mlp, cnn, lenet, resnet8, resnet20, or a Python file of your own as FILE.py:FUNCTION.",
            show_default=DEFAULTS.model.architecture,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file that describes the run; flags override it.", show_default="none"
        ),
    ] = None,
    dataset: Annotated[str | None, option("data", "dataset", "--dataset")] = None,
    root: Annotated[Path | None, option("data", "root", "--root")] = None,
    validation_split: Annotated[
        float | None, option("data", "validation_split", "--validation-split")
    ] = None,
    image_size: Annotated[int | None, option("data", "image_size", "--image-size")] = None,
    color: Annotated[str | None, option("data", "color", "--color")] = None,
    label: Annotated[str | None, option("data", "label", "--label")] = None,
    augment: Annotated[bool | None, option("data", "augment", "--augment/--no-augment")] = None,
    optimizer: Annotated[str | None, option("optimizer", "name", "--optimizer")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate.", show_default="0.003 for adam, else the optimizer's own"
        ),
    ] = None,
    schedule: Annotated[str | None, option("training", "schedule", "--schedule")] = None,
    epochs: Annotated[int | None, option("training", "epochs", "--epochs")] = None,
    batch_size: Annotated[int | None, option("training", "batch_size", "--batch-size")] = None,
    seed: Annotated[int | None, option("training", "seed", "--seed")] = None,
    device: Annotated[str | None, option("training", "device", "--device")] = None,
    checkpoint_steps: Annotated[
        int | None, option("training", "checkpoint_steps", "--checkpoint-steps")
    ] = None,
    deterministic: Annotated[
        bool | None, option("distributed", "deterministic", "--deterministic/--no-deterministic")
    ] = None,
    runs: Annotated[
        Path, typer.Option(help="Folder in which the run's own folder is made.")
    ] = Path("runs"),
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a run that was stopped: go on where it was.", show_default="none"
        ),
    ] = None,
) -> None:
    """Train a network on images and test it: data, model, optimizer and training are all set by flags or by a file.

    Without arguments: a small CNN on scikit-learn's 1,797 handwritten digits. Leaves a folder with the
    configuration, metrics, weights, curves and the commit of the code; Ctrl-C saves a checkpoint first.

    Started by mpirun, all processes train together: each takes its part of every batch.
    """
    flags: dict[str, dict[str, Any]] = {
        "data": {
            "dataset": dataset,
            "root": root,
            "validation_split": validation_split,
            "image_size": image_size,
            "color": color,
            "label": label,
            "augment": augment,
        },
        "model": {"architecture": architecture},
        "optimizer": {"name": optimizer, "learning_rate": learning_rate},
        "training": {
            "schedule": schedule,
            "epochs": epochs,
            "batch_size": batch_size,
            "seed": seed,
            "device": device,
            "checkpoint_steps": checkpoint_steps,
        },
        "distributed": {"deterministic": deterministic},
    }
    try:
        world()  # from here on, an error on one of several ranks ends all
        folder = resume or find_restarted(runs)
        if resume is not None:
            run = merge(read_run(resume), flags)
            refuse_other_settings(resume, config, run)
        else:
            asked = read_config(config) if config else RunConfig()
            run = read_run(folder) if folder else merge(asked, flags)
        execute(run, runs, folder)
    except (
        ConfigError,
        DeviceError,
        LaunchError,
        ValueError,
        TypeError,
        OSError,
        ImportError,
        FloatingPointError,
    ) as error:
        if speaks(f"{error}"):
            say(error)
        raise typer.Exit(1) from None


def find_restarted(runs: Path) -> Path | None:
    """The run's folder where ``tinydl launch`` starts a job again: rank 0 looks, and all do as it found."""
    if os.environ.get(RESTART, "0") == "0":
        return None
    found = run_of_restarted_job(runs) if world().rank == 0 else None
    text = world().broadcast_text(str(found or ""))
    return Path(text) if text else None


def read_run(folder: Path) -> RunConfig:
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(f"{folder} is not the folder of a run: it has no config.json")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON: {error}") from None
    return check_config(data, source=str(file))


def refuse_other_settings(folder: Path, config: Path | None, run: RunConfig) -> None:
    """A run that goes on keeps its settings: ``run`` is what the flags ask for, ``config`` what they were read from."""
    if config is not None:
        raise ConfigError(f"--resume takes the settings from {folder}: leave --config out")
    saved = read_run(folder).model_dump()
    for section, values in run.model_dump().items():
        for key, value in values.items():
            if saved[section].get(key) != value:
                raise ConfigError(
                    f"{folder} was started with {section}.{key} = {saved[section].get(key)}, and goes on with it: "
                    f"{value} needs a run of its own"
                )


def merge(config: RunConfig, flags: dict[str, dict[str, Any]]) -> RunConfig:
    """``config`` with every flag that was given in place of its value."""
    data = config.model_dump()
    for section, values in flags.items():
        given = {k: v for k, v in values.items() if v is not None}
        if section == "optimizer" and "name" in given and given["name"] != data[section]["name"]:
            data[section] = {}  # the arguments in the file were the other optimizer's
        data[section].update(given)
    return check_config(data, source="command line")


def execute(run: RunConfig, runs: Path, folder: Path | None) -> None:
    """Load, build, fit, test; write everything into the run's folder (``folder`` when resuming)."""
    import tinydl as tl
    from tinydl.training.checkpoints import list_checkpoints

    strategy = tl.distributed.DataParallel(**run.distributed.model_dump())
    world = strategy.world
    devices.require(run.training.device, world.local_rank if world.size > 1 else None)
    console.quiet = world.rank != 0
    data = strategy.in_turn(lambda: load_data(run))
    x_train, y_train = data.x_train, data.y_train
    validation = None
    if run.data.validation_split:
        x_train, x_val, y_train, y_val = tl.data.stratified_split(
            x_train, y_train, test_fraction=run.data.validation_split, seed=run.training.seed
        )
    standardize = tl.data.Standardize.fit(x_train)
    if run.data.validation_split:
        validation = (standardize(x_val), y_val)

    model = build_model(run, data)
    loader = tl.data.DataLoader(
        x_train,
        y_train,
        batch_size=run.training.batch_size,
        seed=run.training.seed,
        transform=standardize,
        augment=augmentation(run),
    )
    model.compile(
        optimizer=make_optimizer(run, steps=len(loader) * run.training.epochs),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )

    resuming = folder is not None
    if folder is None and world.rank == 0:
        folder = start_record(run, runs, data.name, standardize.config())
    folder = Path(world.broadcast_text(str(folder)))
    processes = f"{world.size} processes, " if world.size > 1 else ""
    console.print(
        f"[bold]{run.model.architecture}[/] ({model.store.size:,} parameters) on [bold]{data.name}[/] "
        f"({len(x_train):,} training and {len(data.x_test):,} test samples), "
        f"{run.optimizer.name}, {processes}seed {run.training.seed}; folder {folder}",
        soft_wrap=True,
    )

    if resuming and not list_checkpoints(folder / "checkpoints"):
        console.print("no checkpoint was written before: training begins anew")
    checkpoints = tl.callbacks.Checkpoint(
        folder / "checkpoints", every_steps=run.training.checkpoint_steps or None
    )
    history = model.fit(
        loader,
        epochs=run.training.epochs,
        validation_data=validation,
        callbacks=[tl.callbacks.JSONLogger(folder / "metrics.jsonl"), checkpoints],
        resume=resuming,
        strategy=strategy,
        accumulate_steps=run.training.accumulate_steps,
        device=run.training.device,
    )
    if history.interrupted:
        console.print(f"stopped; go on with: tinydl train --resume {folder}", soft_wrap=True)
        raise typer.Exit(130)
    if world.rank == 0:
        finish_record(run, model, standardize, data, folder)


def load_data(run: RunConfig) -> Any:
    """The data set that the run names: one to classify."""
    import tinydl as tl

    given = {"size": run.data.image_size, "color": run.data.color, "label": run.data.label}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if options and run.data.dataset in tl.data.names():
        raise ConfigError(
            "image_size, color and label say how to read data of your own, given by their path; "
            f"{run.data.dataset} is read as it is"
        )
    if "size" in options:
        options["size"] = (run.data.image_size, run.data.image_size)
    data = tl.data.load(run.data.dataset, root=run.data.root, **options)
    if data.y_train.ndim != 1 or len(data.class_names) < 2:
        raise ConfigError(
            f"{data}: tinydl train needs one label a sample, of two classes or more; "
            "other tasks are trained from Python, with model.fit"
        )
    return data


def build_model(run: RunConfig, data: Any) -> Any:
    """The network, with one output for each class."""
    import tinydl as tl

    classes = len(data.class_names)
    architecture = run.model.architecture
    model = tl.architectures.build(
        architecture, data.x_train.shape[1:], classes, seed=run.training.seed
    )
    if model.output_shape != (classes,):
        raise ConfigError(
            f"{architecture} gives outputs of shape {model.output_shape}: the {classes} classes of "
            f"{data.name} need ({classes},)"
        )
    return model


def start_record(run: RunConfig, runs: Path, data_name: str, preprocessing: dict[str, Any]) -> Path:
    """A new folder with what is known before training."""
    label = Path(run.model.architecture.partition(":")[0]).stem
    folder = create_run_folder(runs, f"{data_name}-{label}")
    write_json(folder / "config.json", run.model_dump(mode="json"))
    write_json(folder / "preprocessing.json", preprocessing)
    # Written last: a run that a restarted job can find by it is complete.
    write_json(folder / "provenance.json", provenance())
    return folder


def finish_record(run: RunConfig, model: Any, standardize: Any, data: Any, folder: Path) -> None:
    """Weights, curves and test results."""
    model.save(folder / "model.safetensors")
    if find_spec("matplotlib") is None:
        console.print(escape("no picture of the curves: pip install 'tinydl[plots]' for one"))
    else:
        plot_curves(
            read_metrics(folder / "metrics.jsonl"),
            folder / "curves.png",
            f"{run.model.architecture} on {data.name}, {run.optimizer.name}",
        )
    report(model, standardize(data.x_test), data, folder, run.training.device)


def make_optimizer(run: RunConfig, steps: int) -> Any:
    """The optimizer with its learning rate, or with a schedule that ends when the run does."""
    import tinydl as tl
    from tinydl.configs import lookup

    arguments = run.optimizer.arguments()
    cls = lookup(run.optimizer.name, tl.optimizers.OPTIMIZERS, "optimizer")
    if run.training.schedule != "constant":
        peak = arguments.get("learning_rate", cls().learning_rate)
        schedules = {"cosine": tl.schedules.CosineDecay, "one_cycle": tl.schedules.OneCycle}
        arguments["learning_rate"] = schedules[run.training.schedule](peak, steps)
    return cls(**arguments)


def augmentation(run: RunConfig) -> list | None:
    """Shifts for all images; mirror images only where they still show the same thing (not for digits)."""
    import tinydl as tl

    if not run.data.augment:
        return None
    digits = run.data.dataset in ("digits", "mnist")
    return (
        [tl.data.RandomCrop(padding=2)]
        if digits
        else [tl.data.RandomCrop(padding=4), tl.data.RandomFlip()]
    )


def report(model: Any, x_test: np.ndarray, data: Any, folder: Path, device: str) -> None:
    """Test accuracy and the confusion matrix, on the screen and in result.json."""
    import tinydl as tl

    confusion = tl.metrics.ConfusionMatrix(len(data.class_names))
    predicted = model.predict(x_test, batch_size=256, device=device)
    confusion.update(predicted, data.y_test)
    matrix = confusion.result().astype(int)
    accuracy = float(np.trace(matrix) / len(data.y_test))
    write_json(
        folder / "result.json",
        {
            "test_accuracy": accuracy,
            "class_names": list(data.class_names),
            "confusion_matrix": matrix.tolist(),
        },
    )
    console.print("confusion matrix: rows are true classes, columns are predictions")
    table = Table(box=None)
    table.add_column("", style="bold")
    long_names = max(map(len, data.class_names)) > 3
    for i, name in enumerate(data.class_names):
        header = str(i) if long_names else name
        table.add_column(header, justify="right", header_style="bold")
    for i, name in enumerate(data.class_names):
        name = f"{i} {name}" if long_names else name
        cells = [
            f"[green]{n}[/]" if i == j else (f"[red]{n}[/]" if n else "[dim]·[/]")
            for j, n in enumerate(matrix[i])
        ]
        table.add_row(name, *cells)
    console.print(table)
    console.print(f"test accuracy {100 * accuracy:.2f} %", highlight=False)
