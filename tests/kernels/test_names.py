"""One table of names, the same kernels everywhere."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import tinydl_kernels
from tinydl_kernels import cpu, reference
from tinydl_kernels._table import MODULE_OF


@pytest.mark.parametrize("name", sorted(MODULE_OF))
def test_a_kernel_takes_what_its_definition_takes(name):
    definition, kernel = getattr(reference, name), getattr(cpu, name)
    assert callable(getattr(tinydl_kernels, name))
    if kernel is not definition:  # pure shape arithmetic may be shared
        taken = inspect.signature(kernel).parameters.values()
        defined = inspect.signature(definition).parameters.values()
        assert [(p.name, p.kind, p.default) for p in taken] == [
            (p.name, p.kind, p.default) for p in defined
        ]


def test_the_first_array_decides(monkeypatch):
    class DeviceArray:
        __cuda_array_interface__ = {}  # noqa: RUF012

    found = []
    monkeypatch.setattr(tinydl_kernels, "_find", lambda place, name: lambda *a, **k: place)
    call = tinydl_kernels._dispatcher("activation")
    host = np.ones(2)
    found += [call("relu", host), call("relu", DeviceArray()), call("relu", host)]
    found += [call(name="relu", x=DeviceArray()), call(3)]
    assert found == ["cpu", "cuda", "cpu", "cuda", "cpu"]


def test_unknown_names():
    with pytest.raises(AttributeError, match="no attribute 'matmull'"):
        _ = cpu.matmull
    assert "matmul" in dir(cpu)
    assert "matmul" in dir(reference)
