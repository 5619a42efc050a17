"""Objects to plain data and back, by checked tables of known classes.

An object with a ``config()`` (its constructor's arguments) becomes ``{"class": "L2", "config": {"l2": 0.01}}``.
Reading it back looks the class up in a table that the caller names: nothing is imported or run because a file
says so (the way in which Keras' model files were exploited, CVE-2025-1550).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def as_config(thing: Any) -> Any:
    """Plain data stays as it is; an object becomes its class name and its ``config()``."""
    if thing is None or isinstance(thing, str | int | float | bool):
        return thing
    return {"class": type(thing).__name__, "config": thing.config()}


def from_config(data: Any, table: Mapping[str, type[T]], kind: str) -> T:
    """The object that ``as_config`` described: ``data`` is a name in ``table``, or a class with arguments.

    ``kind`` ("layer", "initializer", …) is for the error messages. A name matches a key of the table, or its
    class's name, in any case.
    """
    if isinstance(data, str):
        return lookup(data, table, kind)()
    if not (isinstance(data, dict) and isinstance(data.get("class"), str)):
        raise ValueError(
            f"expected the name of the {kind}, the {kind} itself or {{'class': …, 'config': …}}, got {data!r}"
        )
    arguments = data.get("config", {})
    cls = lookup(data["class"], table, kind)
    reader = getattr(cls, "from_config", None)
    try:
        return reader(arguments) if reader else cls(**arguments)
    except TypeError as error:
        raise ValueError(f"{kind} {cls.__name__}: {error}") from None


def lookup(name: str, table: Mapping[str, type[T]], kind: str) -> type[T]:
    """The class called ``name``; an unknown name is an error that suggests the nearest right one."""
    by_name = {key.lower(): cls for key, cls in table.items()}
    by_name.update({cls.__name__.lower(): cls for cls in table.values()})
    if name.lower() in by_name:
        return by_name[name.lower()]
    raise ValueError(
        f"unknown {kind} {name!r}{near(name.lower(), by_name)}: expected one of {', '.join(sorted(table))}"
    )


def near(name: str, known: Iterable[str]) -> str:
    """The ``known`` name that was probably meant, as the words for an error message; "" where none is alike."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""
