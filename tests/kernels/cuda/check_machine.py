"""The kernels' PTX, run: by a machine in C that stands for the GPU (see `machine`), on the tiles that a GPU has.

The simulator runs the kernels' Python. Here what the compiler made of it runs, and the instructions that are written
as text; a barrier that is missing between two threads shows, and so do accesses outside of arrays or not aligned.
"""

from __future__ import annotations

import copy
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.cuda import ALL
from tests.kernels.cuda.check_training import compare
from tests.kernels.cuda.machine.running import Wrong
from tests.kernels.cuda.machine.translate import NotKnown, translate
from tests.kernels.cuda.training_cases import cases
from tests.training.stand_in_cupy import LIBRARY, DeviceArray
from tinydl_kernels import cuda, reference
from tinydl_kernels.cuda import device, ladder, products, tiles
from tinydl_kernels.cuda.device import cuda as gpu
from tinydl_kernels.cuda.device import kernel
from tinydl_kernels.cuda.instructions import pointer

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
import gpu_right
import gpu_steps

assert not device.SIMULATED


# In most kernels each thread is by itself. In these they meet:
MEET = ("softmax", "softmax_cross_entropy", "batch_moments", "batch_norm_grad_sums", "layer_norm_grad",
        "squared_norm", "das_moments", "embedding_grad")  # fmt: skip
TRAINING = list(cases(np.random.default_rng(5), "float32"))
if not ALL:
    TRAINING = list({case.name: case for case in TRAINING if case.name in MEET}.values())
PACKED = list(itertools.product(tiles.WARPGROUP_TILES, ("tf32", "bf16")))
TILES = [(kind, name) for kind, table in tiles.TILES.items() for name in table]


def on_device(given, name):
    """Arrays; of pieces of parameters, the kernels of DAS take tables on the host."""
    if isinstance(given, tuple):
        return tuple(on_device(x, name) for x in given)
    if isinstance(given, dict):
        return {key: on_device(x, name) for key, x in given.items()}
    on_host = name.startswith("das") and getattr(given, "dtype", None) != np.float32
    return LIBRARY.asarray(given) if isinstance(given, np.ndarray) and not on_host else given


def on_host(given):
    if isinstance(given, tuple):
        return tuple(map(on_host, given))
    return given.host if isinstance(given, DeviceArray) else given


def random(*shape, seed=0, dtype="float32"):
    return LIBRARY.asarray(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


# --- results --------------------------------------------------------------------------------------


def check(how, case):
    """By the same checks as on a GPU."""
    limit = gpu_right.LIMITS[case.get("precision") or case["dtype"]]
    assert how(LIBRARY, np.random.default_rng(0), case) <= limit


PRODUCTS = list(gpu_right.products_to_check([(65, 130, 70)]))
SOME_PRODUCTS = [case for case in PRODUCTS[4:8] if case["dtype"] == "float32"]
CONVOLUTIONS = list(gpu_right.convolutions_to_check())


@pytest.mark.parametrize("case", PRODUCTS if ALL else SOME_PRODUCTS, ids=str)
def test_products(machine, case):
    check(gpu_right.check_product, case)


@pytest.mark.parametrize(("kind", "name"), TILES if ALL else [])
def test_tiles(machine, monkeypatch, kind, name):
    """Products and convolutions by each tile, the sum cut into parts where it may be."""
    tile, choose = tiles.TILES[kind][name], products.choose
    kinds = ("tf32", "bf16") if kind == "tensor cores" else (kind,)

    def forced(*arguments):
        may_split = arguments[7]
        return (tile, 3 if may_split else 1) if {*kinds} & {*arguments} else choose(*arguments)

    monkeypatch.setattr(products, "choose", forced)
    for case in PRODUCTS:
        if (case["precision"] or case["dtype"]) in kinds:
            check(gpu_right.check_product, case)
    if kind != "tensor cores" and tiles.suits_images(tile, None):
        check(gpu_right.check_convolution, CONVOLUTIONS[0] | {"dtype": kind})


@pytest.mark.parametrize(("name", "precision"), PACKED if ALL else PACKED[:1])
def test_packed_products(machine, hopper, name, precision):
    case = {"dtype": "float32", "precision": precision, "tile": name, "parts": 3}
    for shape, turned in ((130, 600, 140), (False, True)), ((5, 3, 7), (True, False)):
        check(gpu_right.check_packed_product, {**case, "shape": shape, "turned": turned})


@pytest.mark.parametrize("rung", (*ladder.RUNGS, *ladder.TENSOR_CORES), ids=lambda rung: rung.name)
def test_rungs(machine, rung):
    if not rung.runs_here():
        pytest.skip("only Hopper has wgmma")
    for shape in ((140, 300, 130), (5, 3, 7)):
        case = {"rung": rung, "dtype": "float32", "precision": rung.reduced, "shape": shape}
        check(gpu_right.check_rung, case)


@pytest.mark.parametrize("case", CONVOLUTIONS if ALL else CONVOLUTIONS[2:3], ids=str)
def test_convolutions(machine, case):
    check(gpu_right.check_convolution, case)


@pytest.mark.parametrize("case", TRAINING, ids=lambda case: case.name)
def test_training_kernels(machine, case):
    expected, arguments = copy.deepcopy(case.arguments), on_device(case.arguments, case.name)
    keywords = on_device(case.keywords, case.name)
    expected_keywords = copy.deepcopy(case.keywords)
    right = getattr(reference, case.name)(*expected, **expected_keywords)
    compare(on_host(getattr(cuda, case.name)(*arguments, **keywords)), right, "float32")
    compare(on_host(arguments), expected, "float32")  # what is updated in place is an argument
    compare(on_host(tuple(keywords.values())), tuple(expected_keywords.values()), "float32")


def test_the_order_of_threads_does_not_show(machine):
    """In no bit: each launch runs them in another."""
    a, b, x = random(70, 900), random(900, 40), random(3000, 40)
    found = []
    for _ in range(4):
        sums, means, variances = (LIBRARY.zeros(40, "float32") for _ in range(3))
        product = cuda.matmul(a, b, bias_grad=sums)
        moments = cuda.batch_moments(x, means, variances, 0.9, 1e-5)
        found.append([y.host.tobytes() for y in (product, sums, *moments, means, variances)])
    assert found[0] == found[1] == found[2] == found[3]
    assert "add" in machine.started, "the product's sum is not cut into parts"


def test_training(machine):
    """The losses of resnet8's first steps are those of the CPU but for rounding: as `gpu_check.py` asks it."""
    steps, batch = (5, gpu_steps.BATCH) if ALL else (2, 1)
    found = [gpu_steps.trainings(*where, 0, steps, batch) for where in gpu_steps.TRAININGS]
    assert len(found[0][0]) == steps
    compared = gpu_steps.compare(*found)
    assert compared["right"], compared


# --- what is noticed ------------------------------------------------------------------------------


@kernel(64)
def shift(x, y):
    memory, i = gpu.shared.array(64, np.float32), gpu.threadIdx.x
    memory[i] = pointer(x, np.float32(0))[i]
    gpu.syncthreads()
    pointer(y, np.float32(0))[i] = memory[(i + 1) % 64]


def changed(machine, monkeypatch, call, pattern, which=0, to=""):
    """What the machine says of kernels in whose PTX a piece is replaced."""
    replaced = 0

    def edited(ptx):
        nonlocal replaced
        places = list(re.finditer(pattern, ptx))
        if which >= len(places):
            return ptx
        replaced += 1
        return ptx[: places[which].start()] + to + ptx[places[which].end() :]

    call()  # is right
    monkeypatch.setattr(machine, "edited", edited)
    machine.replace()
    try:
        with pytest.raises(Wrong) as found:
            for _ in range(4):  # each time in another order
                call()
    finally:
        machine.replace()
    assert replaced
    return str(found.value)


def rung(name):
    wanted = next(rung for rung in (*ladder.RUNGS, *ladder.TENSOR_CORES) if rung.name == name)
    return lambda: wanted(random(140, 600), random(600, 130))


def moments():
    cuda.batch_moments(random(3000, 40), random(40), random(40), 0.9, 1e-3)


BARRIER, RACE = r"bar\.sync\s+0;", "no barrier is between"
MISTAKES = [
    (rung("shared_tile"), BARRIER, 0, RACE),  # before the tiles are read
    (rung("shared_tile"), BARRIER, 1, RACE),  # and before they are written again
    (rung("double_buffered"), BARRIER, 0, RACE),
    (rung("double_buffered"), r"cp\.async\.wait_group 0;", 0, "to which a copy is under way"),
    (rung("double_buffered"), r"cp\.async\.wait_group 0;", 1, "ends before its copies"),
    (rung("bf16"), r"cp\.async\.commit_group;", 0, "to which a copy is under way"),
    (rung("wgmma_tf32"), r"fence\.proxy\.async\.shared::cta;", 0, "a barrier that was not fenced"),
    (rung("wgmma_tf32"), r"mbarrier\.arrive[^;]*;", 0, "waits for ever"),
    (rung("wgmma_tf32"), r"wgmma\.wait_group\.sync\.aligned 1;", 0, "which a product under way reads"),
    (rung("wgmma_tf32"), BARRIER, 1, f"{RACE}|a product under way reads"),  # before a stage's place is filled again
    (moments, r"fence\.acq_rel\.gpu;", 0, r"reads memory at .* of block \d+ writes"),
    (moments, r"fence\.acq_rel\.gpu;", 1, r"memory at .* of block \d+ (writes|reads)"),
    (moments, BARRIER, 0, RACE),
]  # fmt: skip


@pytest.mark.parametrize(("call", "pattern", "which", "words"), MISTAKES)
def test_what_is_left_out_is_noticed(machine, hopper, monkeypatch, call, pattern, which, words):
    assert re.search(words, changed(machine, monkeypatch, call, pattern, which))


def test_who_does_not_wait_is_noticed(machine, hopper, monkeypatch):
    pattern, went_on = r"mbarrier\.try_wait[^;]*ended[^;]*;", "setp.eq.u32 ended, 0, 0;"
    words = changed(machine, monkeypatch, rung("wgmma_tf32"), pattern, to=went_on)
    assert re.search("to which a copy is under way|waited for its copy", words)


def test_bad_addresses_are_noticed(machine):
    x, y = random(64), LIBRARY.zeros(64, "float32")
    a, b = machine.address(x), machine.address(y)
    device.launch(shift, (1,), 64, a, b)
    np.testing.assert_array_equal(y.host, np.roll(x.host, -1))
    for addresses, words in (
        ((a + 2, b), "4 bytes at .*: not aligned"),
        ((a, b + 4), "4 bytes at .*: 4 bytes beyond an array of 256"),
        ((0, b), "4 bytes at .*: no array is there"),
    ):
        with pytest.raises(Wrong, match=words):
            device.launch(shift, (1,), 64, *addresses)
    with pytest.raises(Wrong, match=r"writes memory at .*, and so does thread \d+ of block"):
        device.launch(shift, (2,), 64, a, b)
    with pytest.raises(Wrong, match="ndarray is not in the device's memory"):
        machine.address(x.host)


def test_an_instruction_that_the_machine_does_not_have_is_named():
    ptx = ".visible .entry f(\n.param .u64 a\n)\n{ .reg .b32 %r<3>; bfind.u32 %r1, %r2; ret; }"
    with pytest.raises(NotKnown, match=r"bfind\.u32 %r1, %r2"):
        translate(ptx)
