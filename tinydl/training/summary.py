"""A model as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinydl.layers.base import Layer, shape_text

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel


def print_summary(model: BaseModel, console: Any = None) -> None:
    """Layers with their output shapes, parameters and memory, nested layers indented, then the totals."""
    from rich.console import Console

    model._require_built()
    console = console or Console(highlight=False)
    console.print(make_table(model))
    for line in totals(model):
        console.print(line)


def make_table(model: BaseModel) -> Any:
    from rich.table import Table

    table = Table(title=f"{type(model).__name__} '{model.name}'", title_justify="left")
    table.add_column("layer")
    table.add_column("output shape")
    for heading in ("parameters", "memory"):
        table.add_column(heading, justify="right")
    add_rows(table, model, 0)
    return table


def add_rows(table: Any, layer: Layer, depth: int) -> None:
    members = getattr(layer, "models", [])  # of an ensemble, which does not train them
    for sublayer in [*members, *layer.sublayers]:
        count = sum(p.size for p in sublayer.parameters())
        size = sum(2 * p.value.nbytes for p in sublayer.parameters())  # values and gradients
        size += sum(array.nbytes for _, array in sublayer.named_states())
        frozen = "" if sublayer.trainable else ", frozen"
        table.add_row(
            f"{'  ' * depth}{sublayer.name} ({type(sublayer).__name__}{frozen})",
            shapes_text(sublayer.output_shape),
            f"{count:,}",
            memory(size) if size else "",
        )
        add_rows(table, sublayer, depth + 1)


def totals(model: BaseModel) -> list[str]:
    """Numbers of parameters, and the memory of values, gradients, states and optimizer slots."""
    parameters = model.parameters()
    total = sum(p.size for p in parameters)
    trainable = sum(p.size for p in parameters if p.trainable)
    states = [array for _, array in model.named_states()]
    slots = list(model.optimizer.slots.values()) if model.optimizer else []
    parts = [
        f"values {memory(model.store.values.nbytes)}",
        f"gradients {memory(model.store.grads.nbytes)}",
    ]
    if states:
        parts.append(f"states {memory(sum(a.nbytes for a in states))}")
    if slots:
        parts.append(f"optimizer {memory(sum(a.nbytes for a in slots))}")
    return [
        f"{total:,} parameters: {trainable:,} trainable, {total - trainable:,} frozen; "
        f"{sum(a.size for a in states):,} state values",
        f"memory: {', '.join(parts)}",
    ]


def shapes_text(shape: Any) -> str:
    """Of one output, or of a list of several."""
    return ", ".join(map(shape_text, shape)) if isinstance(shape, list) else shape_text(shape)


def memory(size: int) -> str:
    """In units of 1024."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
