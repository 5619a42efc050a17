"""Every kernel, compiled and assembled for sm_80 and sm_90 without a GPU: nothing is spilled, no array fell
out of the registers, and as many blocks fit on a multiprocessor as the kernel promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.kernels.cuda import ALL
from tests.kernels.cuda.stand_ins import OnDevice, check_layout, launches, on_device
from tinydl_kernels.cuda import convolution, device, ladder, linear, products, tiles
from tinydl_kernels.cuda.occupancy import blocks_at_once

RUNGS = [rung for rung in (*ladder.RUNGS, *ladder.TENSOR_CORES) if rung.compute is None]
TILES = [(kind, name) for kind, table in tiles.TILES.items() for name in table]
FULL = [
    ("float32", "128x256"),
    ("float64", "64x64"),
    ("tensor cores", "64x64"),
]
IMAGE_TILES = [tile for tile in TILES if tile[1] != "4x128"] if ALL else FULL  # of registers
MATRIX_TILES = (
    TILES if ALL else [t for t in TILES if t[1] not in ("128x32", "32x128", "64x16", "4x128")]
)
LAYOUTS = ["nn", "tt", "nt", "tn"] if ALL else ["nt"]
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SM80, SM90 = device.COMPUTE
SM90A = (*SM90, "a")


def assemble(call, compile_for=SM80, shared=0):
    """Assemble all kernels that a call would start, check them, and give the PTX of the last.

    PTX for sm_80 is assembled for sm_90, too: later GPUs understand it. `shared`: bytes that are asked for at
    launch, by a kernel that uses such.
    """
    started = launches(call)
    assert started
    for kernel, signature in started:
        ptx = device.compile_ptx(kernel, signature, compile_for)
        check_layout(ptx, signature)
        if ALL and compile_for == SM80:  # what an H200 runs
            check(kernel, device.compile_ptx(kernel, signature, SM90A), SM90A, shared)
        for compute in (SM80, SM90) if len(compile_for) == 2 else (compile_for,):
            if compute >= compile_for:
                check(kernel, ptx, compute, shared)
    return ptx


def check(kernel, ptx, compute, shared):
    usage = device.assemble(ptx, compute)[1]
    if "extern .shared" in ptx:
        usage = usage._replace(shared=usage.shared + shared)
    threads, blocks = kernel.targetoptions["launch_bounds"][:2]
    name = kernel.py_func.__name__
    assert usage.spills == 0, f"{name} spills: {usage}"
    assert usage.stack == 0, f"{name} has arrays in memory: {usage}"
    assert not usage.warnings, f"{name}: {usage.warnings}"
    fit = blocks_at_once(usage, threads, compute)
    assert fit >= blocks, (
        f"{name} promises {blocks} blocks of {threads} threads, {fit} fit: {usage}"
    )


@pytest.mark.parametrize("compute", [SM80, SM90])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_rungs(rung, dtype, compute):
    if dtype == "float64" and (rung.reduced or (rung is not RUNGS[7] and not ALL)):
        return
    a, b = on_device(64, 64, dtype=dtype), on_device(64, 64, dtype=dtype)
    ptx = assemble(lambda: rung(a, b), compute)
    wanted = {
        "vectorized": "ld.shared.v4.f32" if dtype == "float32" else "ld.shared.v2.f64",
        "double_buffered": "cp.async.cg.shared.global",
        "tf32": "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        "bf16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    }
    assert wanted.get(rung.name, "") in ptx


@pytest.mark.parametrize("tile", tiles.WARPGROUP_TILES.values(), ids=tiles.WARPGROUP_TILES)
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_warpgroups(monkeypatch, precision, tile):
    """By warpgroups, and by no other multiplication, all of a stage in flight at once.

    That the assembler gives no warning (see `check`) means here that it lets wgmma run by itself.
    """
    monkeypatch.setattr(products, "choose", lambda *a: (tile, 1))
    a, bias = on_device(256, 256), on_device(256)
    every = [
        (256, None),
        (256, "sigmoid"),
        (255, "tanh"),
    ]  # 16 bytes at a time, and element by element
    for n, activation in every if ALL or precision == "tf32" else every[:1]:
        b, options = on_device(n, 256).T, {"bias": bias[:n], "activation": activation}
        ptx = assemble(
            lambda b=b, o=options: linear.matmul(a, b, precision=precision, **o), SM90A, tile.shared
        )
        step = ptx.split("mbarrier.try_wait.parity")[1]  # of the loop over stages
        depth = {"tf32": "k8.f32.tf32.tf32", "bf16": "k16.f32.bf16.bf16"}[precision]
        multiply = f"wgmma.mma_async.sync.aligned.m64n{tile.width}{depth}"
        assert step.count(multiply) == step.count("wgmma.mma_async") == 4
        assert step.count("cp.async.bulk.shared") == 2
        order = [
            "wgmma.fence", multiply, "wgmma.commit_group", "wgmma.wait_group.sync.aligned 1", "bar.sync",
            "mbarrier.arrive.expect_tx", "cp.async.bulk.shared",
        ]  # fmt: skip
        places = [step.index(instruction) for instruction in order]
        assert places == sorted(places)
        assert "div" not in ptx and "mma.sync" not in ptx
        assert ".extern .shared .align 128" in ptx, "no core matrix lies across two rows of banks"


def chosen(monkeypatch, kind, name):
    """Let a tile be chosen, and give the type and the precisions it is for."""
    monkeypatch.setattr(products, "choose", lambda *a, **k: (tiles.TILES[kind][name], 1))
    return ("float32", ("tf32", "bf16")) if kind == "tensor cores" else (kind, (None,))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kind", "name"), MATRIX_TILES)
def test_matmul(monkeypatch, kind, name, layout):
    dtype, precisions = chosen(monkeypatch, kind, name)
    a, b = on_device(256, 256, dtype=dtype), on_device(256, 256, dtype=dtype)
    a, b = a.T if layout[0] == "t" else a, b.T if layout[1] == "t" else b
    bias = on_device(256, dtype=dtype)
    for precision in precisions:
        ptx = assemble(lambda p=precision: linear.matmul(a, b, bias=bias, precision=p))
        assert dtype == "float64" or ".f64" not in ptx
        if layout == "nt":  # read element by element
            check_unrolled(ptx, tiles.TILES[kind][name])


def check_unrolled(ptx, tile):
    """Each copy of a thread is an instruction of its own, with constants for its place."""
    copies = (tile.height + tile.width) * tile.depth // tile.threads
    _, loop, _ = ptx.split("bar.sync")
    assert loop.count("cp.async.ca") == copies


@pytest.mark.parametrize("which", ["forward", "input", "weight"] if ALL else ["input"])
@pytest.mark.parametrize(("kind", "name"), IMAGE_TILES)
def test_convolutions(monkeypatch, kind, name, which):
    """The gradient by the input reads both operands from images, and needs most registers."""
    dtype, precisions = chosen(monkeypatch, kind, name)
    x, w = on_device(2, 16, 16, 64, dtype=dtype), on_device(3, 3, 64, 64, dtype=dtype)
    calls = {
        "forward": lambda p: convolution.conv2d(x, w, padding="same", precision=p),
        "input": lambda p: convolution.conv2d_grad_input(
            x, w, x.shape, padding="same", precision=p
        ),
        "weight": lambda p: convolution.conv2d_grad_weight(
            x, x, w.shape, padding="same", precision=p
        ),
    }
    for precision in precisions:
        if tiles.suits_images(tiles.TILES[kind][name], precision):
            ptx = assemble(lambda p=precision: calls[which](p))
            assert dtype == "float64" or ".f64" not in ptx
            if which == "input":
                check_unrolled(ptx, tiles.TILES[kind][name])


def test_places_in_images_are_found_once(monkeypatch):
    """A compiler that is short of registers computes what was noted again, in every step: then the loop over the
    sum would divide for each copy, not just for what is new in a step."""
    tile = tiles.TILES["float32"]["128x128"]
    monkeypatch.setattr(products, "choose", lambda *a, **k: (tile, 1))
    x, w = on_device(2, 16, 16, 64), on_device(3, 3, 64, 64)
    ((kernel, signature),) = launches(lambda: convolution.conv2d(x, w, padding="same"))
    _, loop, _ = device.compile_ptx(kernel, signature, SM90).split("bar.sync")
    copying, rest = loop.split("cp.async.commit_group", 1)
    divisions = 2  # of an index to row, column and channel
    assert copying.count("mul.hi.u32") == divisions * tile.depth // 8  # 8 neighbors at a time
    assert "mul.hi.u32" not in rest.split("cp.async.wait_group")[0]
    assert "div." not in copying


@pytest.mark.parametrize("dtype", ["float32", "float64"] if ALL else ["float64"])
def test_small_kernels(monkeypatch, dtype):
    """Depthwise convolutions, sums of parts, and activations that are compiled in."""
    x, w = on_device(2, 16, 16, 64, dtype=dtype), on_device(3, 3, 1, 64, dtype=dtype)
    options = {"padding": "same", "groups": 64}
    assemble(lambda: convolution.conv2d(x, w, activation="tanh", bias=x[0, 0, 0], **options))
    assemble(lambda: convolution.conv2d_grad_input(x, w, x.shape, **options))
    assemble(lambda: convolution.conv2d_grad_weight(x, x, w.shape, **options))
    tile = next(iter(tiles.TILES[dtype].values()))
    monkeypatch.setattr(products, "choose", lambda *a, **k: (tile, 4))
    a = on_device(64, 256, dtype=dtype)
    assemble(lambda: linear.matmul(a, a.T, activation="sigmoid"))
    monkeypatch.setattr(products, "choose", lambda *a, **k: (tile, 1))
    assemble(lambda: linear.matmul(a, a.T, activation="sigmoid"))


class Numbers:
    """Of CuPy what benchmarks/gpu_speeds.py asks for, where nothing is computed."""

    def __init__(self):
        self.random = SimpleNamespace(default_rng=lambda: self)
        self.cuda = SimpleNamespace(Device=lambda: SimpleNamespace(synchronize=lambda: None))

    def standard_normal(self, shape, dtype):
        return np.empty(shape, dtype).view(OnDevice)

    empty = standard_normal

    def matmul(self, a, b, out):
        pass


@pytest.mark.parametrize("part", ["ladder", "matmul", "conv2d"])
def test_what_is_timed_is_compiled_before(monkeypatch, part):
    """By benchmarks/gpu_check.py: all kernels that it will start, and as many cases as the time is shared by."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_jobs
    import gpu_speeds

    monkeypatch.setattr(device, "capability", lambda: SM90)
    cupy, of_cases, number = Numbers(), [], 0
    for _, calls, work in gpu_speeds.CASES[part](cupy, None):
        number += 1
        assert work > 0
        for call in calls.values():
            of_cases += launches(call)
    assert number == gpu_speeds.NUMBER[part]
    assert launches(lambda: gpu_speeds.prepare(cupy, part, gpu_jobs.UNLIMITED)) == of_cases
    assert launches(lambda: gpu_speeds.prepare(cupy, part, gpu_jobs.Allowance(0.0))) == []


def test_the_check_for_gpus_needs_one():
    script = BENCHMARKS / "gpu_check.py"
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script)]
    result = subprocess.run(command, env=hidden, capture_output=True, text=True)
    assert result.returncode == 2
    assert "no CUDA device can be used here" in result.stderr


def test_a_gpu_is_asked_for_by_name():
    """Without one, the error says so, and arrays in host memory are not taken for device arrays."""
    a = on_device(3, 3)
    for call in (linear.matmul, ladder.RUNGS[0]):
        with pytest.raises(RuntimeError, match="no CUDA device can be used here"):
            call(a, a)
    with pytest.raises(RuntimeError, match="no CUDA device can be used here"):
        convolution.conv2d(on_device(1, 3, 3, 1), on_device(1, 1, 1, 1))
    with pytest.raises(TypeError, match=r"a is a numpy.ndarray, which is not in the GPU's memory"):
        linear.matmul(a.__array__().view(type(a.base)), a)
