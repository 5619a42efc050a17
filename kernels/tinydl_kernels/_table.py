"""Which module holds which kernel: the same names and modules in `reference`, `cpu` and `cuda`.

Each module is imported when the first of its kernels is asked for, so that a program compiles (and
waits for) only what it uses.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

MODULES = {
    "linear": ("matmul",),
    "convolution": (
        "conv1d",
        "conv2d",
        "conv2d_grad_input",
        "conv2d_grad_weight",
        "conv2d_transpose",
        "conv2d_output_shape",
        "resolve_padding",
    ),
    "pooling": ("max_pool2d", "max_pool2d_grad", "avg_pool2d", "avg_pool2d_grad"),
    "activations": (
        "activation",
        "activation_grad",
        "softmax",
        "softmax_grad",
        "log_softmax",
        "exp",
        "log",
        "tanh",
        "sigmoid",
        "erf",
    ),
    "losses": ("softmax_cross_entropy", "binary_cross_entropy"),
    "normalization": (
        "column_moments",
        "running_moments",
        "batch_moments",
        "batch_norm",
        "batch_norm_grad",
        "batch_norm_apply",
        "batch_norm_grad_sums",
        "batch_norm_grad_input",
        "layer_norm",
        "layer_norm_grad",
    ),
    "recurrent": ("lstm_cell", "lstm_cell_grad", "gru_cell", "gru_cell_grad"),
    "sequences": ("lstm_sequence", "lstm_sequence_grad", "gru_sequence", "gru_sequence_grad"),
    "embedding": ("embedding_grad",),
    "half": ("pack_bfloat16", "unpack_bfloat16"),
    "optimizers": (
        "sgd_step",
        "momentum_step",
        "rmsprop_step",
        "adam_step",
        "nadam_step",
        "squared_norm",
        "all_finite",
        "clip_",
        "scale_",
    ),
    "das": (
        "das_norms",
        "das_sizes",
        "das_units",
        "das_moments",
        "das_slopes",
        "das_apply",
    ),
}
MODULE_OF = {name: module for module, names in MODULES.items() for name in names}


def lazy_module(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` (PEP 562) for a package that holds the modules of the table."""

    def get(name: str) -> Any:
        if name not in MODULE_OF:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{MODULE_OF[name]}"), name)

    return get, lambda: sorted(MODULE_OF)
