"""What kernels ask of memory, counted on the machine in C: what each rung of the ladder saves, and that the tiles which
are used waste nothing. Times are another matter; these numbers are the same on every GPU."""

from __future__ import annotations

import pytest

from tests.kernels.cuda import ALL
from tests.kernels.cuda.machine.traffic import SECTOR, Traffic, sectors, traffic, turns
from tests.training.stand_in_cupy import LIBRARY
from tinydl_kernels import cuda
from tinydl_kernels.cuda import ladder, products, tiles

M, K, N = 128, 32, 256


@pytest.fixture
def traffic_of(machine):
    """traffic_of(call): that of a warp of the kernel that the call starts last."""

    def found(call):
        call()
        return traffic(machine.accesses[machine.started[-1]])

    machine.room = 500_000  # accesses
    yield found
    machine.room = 0


def zeros(*shape, dtype="float32"):
    return LIBRARY.zeros(shape, dtype)


def of(found: list[Traffic], **wanted: bool) -> tuple[int, int]:
    """What was needed, and the least that there could be, where the traffic is as wanted."""
    chosen = [x for x in found if all(getattr(x, name) == value for name, value in wanted.items())]
    return sum(x.needed for x in chosen), sum(x.least for x in chosen)


# For 100 multiply-adds of a warp: bytes that come from the device's memory, in whole sectors, and turns of the banks
# of shared memory in which is read. benchmarks/README.md shows them.
RUNGS = {
    "naive": (1700, 0),
    "coalesced": (500, 0),
    "shared_tile": (25, 6.25),
    "register_column": (12.5, 3.52),
    "register_tile": (6.25, 2.34),
    "vectorized": (6.25, 0.78),
    "double_buffered": (6.25, 0.78),
    "warp_tiles": (6.25, 0.78),
}


@pytest.mark.parametrize("rung", ladder.RUNGS, ids=lambda rung: rung.name)
def test_what_a_rung_asks_for(traffic_of, rung):
    found = traffic_of(lambda: rung(zeros(M, K), zeros(K, N)))
    elements = sum(x.requests * 32 * x.size / 4 for x in found if x.writes and not x.shared)
    hundreds = K * elements / 100
    read, turned = (of(found, shared=x, writes=False)[0] / hundreds for x in (False, True))
    assert (SECTOR * read, turned) == pytest.approx(RUNGS[rung.name], rel=2e-3)


LARGE = [("float32", "128x256"), ("float32", "128x128"), ("float64", "64x64")]


@pytest.mark.parametrize(("dtype", "name"), LARGE if ALL else LARGE[:1])
@pytest.mark.parametrize("turned", [False, True] if ALL else [False])
def test_tiles_waste_nothing(traffic_of, monkeypatch, dtype, name, turned):
    monkeypatch.setattr(products, "choose", lambda *a: (tiles.TILES[dtype][name], 1))
    a, b = zeros(*(K, M)[:: 1 if turned else -1], dtype=dtype), zeros(K, N, dtype=dtype)
    found = traffic_of(lambda: cuda.matmul(a.T if turned else a, b))
    for shared, writes in ((False, False), (True, False), (True, True)):
        needed, least = of(found, shared=shared, writes=writes)
        assert needed == least > 0


def test_products_by_warpgroups_waste_nothing(traffic_of, hopper, monkeypatch):
    monkeypatch.setattr(products, "choose", lambda *a: (tiles.WARPGROUP_TILES["w128x256"], 1))
    found = traffic_of(lambda: cuda.matmul(zeros(M, K), zeros(K, N), precision="tf32"))
    assert all(x.needed == x.least for x in found)


@pytest.mark.parametrize("which", ["forward", "input", "weight"] if ALL else ["input"])
def test_convolutions_waste_little(traffic_of, monkeypatch, which):
    monkeypatch.setattr(products, "choose", lambda *a: (tiles.TILES["float32"]["128x128"], 1))
    x, y, w = zeros(2, 16, 16, 64), zeros(2, 16, 16, 128), zeros(3, 3, 64, 128)
    calls = {
        "forward": lambda: cuda.conv2d(x, w, padding="same"),
        "input": lambda: cuda.conv2d_grad_input(y, w, x.shape, padding="same"),
        "weight": lambda: cuda.conv2d_grad_weight(x, y, w.shape, padding="same"),
    }
    found = traffic_of(calls[which])
    for shared, writes in ((False, False), (True, False), (False, True)):
        needed, least = of(found, shared=shared, writes=writes)
        assert needed == least > 0
    needed, least = of(found, shared=True, writes=True)
    assert needed <= 1.15 * least


def test_turns_and_sectors():
    """Of accesses for which they are known: side by side, one word for all, in the same bank, and twice as far
    apart as need be."""
    lanes = range(32)
    assert turns({i: 4 * i for i in lanes}, 4) == (1, 1)
    assert turns({i: 128 for i in lanes}, 4) == (1, 1)
    assert turns({i: 128 * i for i in lanes}, 4) == (32, 1)
    assert turns({i: 8 * i for i in lanes}, 4) == (2, 1)
    assert turns({i: 16 * i for i in lanes}, 16) == (4, 4)
    assert turns({i: 32 * i for i in lanes}, 16) == (8, 4)
    assert sectors({i: 4 * i for i in lanes}, 4) == (4, 4)
    assert sectors({i: 8 * i for i in lanes}, 4) == (8, 4)
    assert sectors({i: 1000 * i for i in lanes}, 4) == (32, 4)
