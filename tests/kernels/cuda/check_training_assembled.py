"""The kernels of a training step, assembled without a GPU: see `check_assembled`."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.cuda import ALL
from tests.kernels.cuda.check_assembled import assemble
from tests.kernels.cuda.stand_ins import OnDevice
from tests.kernels.cuda.training_cases import cases
from tinydl_kernels import cuda

# These start no kernel of their own: they are made of others, or of CuPy's.
MADE_OF_OTHERS = ("all_finite", "clip_", "scale_", "linear")


def one_of_each(dtype):
    """A call for each name, but for activations, which are a kernel each."""
    found = {}
    for case in cases(np.random.default_rng(5), dtype):
        kinds = [a for a in case.arguments if isinstance(a, str)]
        name = "-".join(
            [case.name, *kinds, *(k for k in case.keywords if k in ("plus", "total", "activation"))]
        )
        if case.name not in MADE_OF_OTHERS and not case.name.endswith(
            ("sequence", "sequence_grad")
        ):
            found[name] = case
    return found


DTYPES = ("float32", "float64") if ALL else ("float32",)


@pytest.mark.parametrize(("dtype", "name"), [(d, name) for d in DTYPES for name in one_of_each(d)])
def test_assembled(name, dtype):
    case = one_of_each(dtype)[name]
    arguments, keywords = on_device(case.arguments), on_device(case.keywords)
    ptx = assemble(lambda: getattr(cuda, case.name)(*arguments, **keywords))
    if dtype == "float32" and case.name not in IN_FLOAT64 and "total" not in keywords:
        assert ".f64" not in ptx, "a constant of Python's makes float32 kernels compute in float64"


def test_a_block_counts_itself_after_its_part_is_written_and_before_others_are_read():
    x, vectors = on_device(np.zeros((600, 40), np.float32)), np.zeros((2, 40), np.float32)
    ptx = assemble(lambda: cuda.batch_moments(x, *map(on_device, vectors), 0.9, 1e-3))
    written, barrier, counted, again, read = (
        ptx.rindex("st.global.f64"),
        ptx.index("bar.sync", ptx.rindex("st.global.f64")),
        ptx.index("fence.acq_rel.gpu; atom.inc.u32"),
        ptx.index("bar.sync", ptx.index("atom.inc.u32")),
        ptx.index("ld.global.f64"),
    )
    assert written < barrier < counted < again < read
    assert "ld.global.nc" not in ptx


# Sums over many elements.
IN_FLOAT64 = (
    "column_moments", "batch_moments", "batch_norm", "batch_norm_grad", "batch_norm_grad_sums", "layer_norm",
    "layer_norm_grad", "squared_norm", "das_norms", "das_sizes", "das_moments",
)  # fmt: skip


def on_device(given):
    """Floats lie on the device, and indices that are not a table of pieces."""
    if isinstance(given, tuple):
        return tuple(map(on_device, given))
    if isinstance(given, dict):
        return {name: on_device(value) for name, value in given.items()}
    return given.view(OnDevice) if isinstance(given, np.ndarray) else given
