"""The register tile on processors that are not at hand: compiled for them, and the assembly read.

A tile is worth its name if the loop over k does nothing but load, multiply and add: one fused
multiply-add for each vector of the tile, and not one sum that moves to the stack and back.
"""

from __future__ import annotations

import re

import llvmlite.binding as llvm
import pytest
from llvmlite import ir
from numba import types

from tinydl_kernels.cpu.matmul_tile import make_tile, tile_shape
from tinydl_kernels.cpu.simd import I64, Emitter

# (triple, processor, features, bytes of a vector register, number of them, names of a fused
# multiply-add, what a reference to the stack looks like)
TARGETS = {
    "avx512": ("x86_64-linux-gnu", "skylake-avx512", "", 64, 32, r"vfn?madd\w+", r"\(%rsp|%rbp\)"),
    "avx2": ("x86_64-linux-gnu", "haswell", "", 32, 16, r"vfn?madd\w+", r"\(%rsp|%rbp\)"),
    "neon": ("aarch64-linux-gnu", "cortex-a76", "+neon", 16, 32, r"fmla", r"\[sp"),
}


def assembly_of_tile(target_name: str, dtype: types.Float) -> tuple[str, int]:
    """(assembly of a packed tile of this target's shape, its number of vectors)"""
    triple, cpu, features, width, registers, *_ = TARGETS[target_name]
    heights, vectors = tile_shape(registers, width)
    module = ir.Module()
    module.triple = triple
    element = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
    pointer = element.as_pointer()
    # k, a, a_row, a_step, b, b_step, c, c_row, m, n, mode, alpha, beta, bias, slope
    kinds = [I64, pointer, I64, I64, pointer, I64, pointer, *[I64] * 4, element, element, pointer]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [*kinds, element]), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    emit = make_tile(heights[0], vectors).emit
    emit(Emitter(builder, dtype, width // (dtype.bitwidth // 8)), *function.args)
    builder.ret_void()

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3
    )
    compiled = llvm.parse_assembly(str(module))
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    llvm.create_pass_builder(machine, options).getModulePassManager().run(
        compiled, llvm.create_pass_builder(machine, options)
    )
    return machine.emit_assembly(compiled), heights[0] * vectors


def loops(assembly: str) -> list[list[str]]:
    """Bodies of innermost loops: what lies between a label and a jump back to it."""
    lines = [line.split("#")[0].split("//")[0].strip() for line in assembly.splitlines()]
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.match(r"[.\w]+:$", line)}
    bodies = []
    for i, line in enumerate(lines):
        jump = re.match(r"(?:j\w+|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.\w+)$", line)
        if jump and labels.get(jump.group(1), i) < i:
            body = lines[labels[jump.group(1)] + 1 : i]
            if not any(re.match(r"[.\w]+:$", inner) for inner in body):
                bodies.append(body)
    return bodies


@pytest.mark.parametrize("dtype", [types.float32, types.float64], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_sums_stay_in_registers(target, dtype):
    fused, stack = TARGETS[target][-2:]
    assembly, sums = assembly_of_tile(target, dtype)
    multiplying = [body for body in loops(assembly) if any(re.match(fused, x) for x in body)]
    assert multiplying, "no loop with a fused multiply-add"
    for body in multiplying:
        count = sum(bool(re.match(fused, line)) for line in body)
        assert count > 0 and count % sums == 0, f"{count} multiply-adds for {sums} sums"
        spilled = [line for line in body if re.search(stack, line)]
        assert not spilled, f"spilled: {spilled}"


def test_a_tile_that_is_too_large_would_be_found(monkeypatch):
    """The check can fail: the tile for 32 registers does not fit into 16."""
    wide = (*TARGETS["avx2"][:4], 32, *TARGETS["avx2"][5:])
    monkeypatch.setitem(TARGETS, "avx2", wide)
    monkeypatch.setattr(f"{__name__}.tile_shape", lambda *_: ((14, 8, 4), 2))
    with pytest.raises(AssertionError, match="spilled"):
        test_sums_stay_in_registers("avx2", types.float32)
