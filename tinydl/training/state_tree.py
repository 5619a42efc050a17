"""Nested state (dictionaries, lists, numbers, arrays) as flat named arrays plus JSON, and back.

{"step": 3, "m": array}    <->    {"step": 3, "m": {"$array": "optimizer/m"}},  {"optimizer/m": array}
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MARK = "$array"


def split(tree: Any, prefix: str) -> tuple[Any, dict[str, NDArray]]:
    """``tree`` with each array replaced by a reference, and the arrays by name."""
    arrays: dict[str, NDArray] = {}

    def visit(node: Any, path: str) -> Any:
        if isinstance(node, np.ndarray):
            arrays[path] = node
            return {MARK: path}
        if isinstance(node, dict):
            return {str(key): visit(value, f"{path}/{key}") for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [visit(value, f"{path}/{i}") for i, value in enumerate(node)]
        return node.item() if isinstance(node, np.generic) else node

    return visit(tree, prefix), arrays


def join(tree: Any, arrays: dict[str, NDArray]) -> Any:
    """What ``split`` took apart. Tuples come back as lists."""
    if isinstance(tree, dict):
        if MARK in tree:
            return arrays[tree[MARK]]
        return {key: join(value, arrays) for key, value in tree.items()}
    if isinstance(tree, list):
        return [join(value, arrays) for value in tree]
    return tree
