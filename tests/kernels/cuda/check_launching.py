"""Starting kernels, through the real bindings of CUDA's driver to a stand-in for it, `stand_in_driver.c`: each gets
the arguments it was started with, and what goes wrong is said."""

from __future__ import annotations

import ctypes
import struct
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from tests.kernels.cuda.stand_ins import OnDevice, on_device, parameters_of
from tinydl_kernels.cuda import arrivals, compiling, device, launching, linear
from tinydl_kernels.cuda.device import cuda, kernel

DRIVER = ctypes.CDLL("libcuda.so.1")
require = device.require


class Last(ctypes.Structure):
    """The last launch."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint),
        ("function", ctypes.c_void_p), ("stream", ctypes.c_void_p),
        ("size", ctypes.c_size_t), ("parameters", ctypes.c_char * 32764),
    )  # fmt: skip


def driver(name, kind=ctypes.c_int):
    return kind.in_dll(DRIVER, name)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """CuPy, as far as a launch needs it, and arrays on a device."""
    runtime = SimpleNamespace(getDevice=lambda: 0, free=lambda _: DRIVER.make_context_current())
    stream = SimpleNamespace(ptr=0x7F0000001230)
    library = SimpleNamespace(
        cuda=SimpleNamespace(runtime=runtime, get_current_stream=lambda: stream),
        empty=lambda shape, dtype: np.empty(shape, dtype).view(OnDevice),
    )
    monkeypatch.setattr(device, "_cupy", lambda: library)
    monkeypatch.setattr(device, "require", lambda: None)
    yield
    driver("result_of_launches").value = driver("pause_of_launches").value = 0


@pytest.fixture
def compiled(monkeypatch):
    """The PTX of the kernels that a test compiles."""
    found = []

    def compile_ptx(*arguments):
        found.append(device.compile_ptx(*arguments))
        return found[-1]

    monkeypatch.setattr(compiling, "compile_ptx", compile_ptx)
    return found


def received(ptx):
    """The parameters of the last launch as its kernel reads them."""
    last = driver("last", Last)
    memory = ctypes.string_at(ctypes.addressof(last) + Last.parameters.offset, last.size)
    found = parameters_of(ptx)
    assert last.size == found[-1][1] + struct.calcsize(found[-1][0])
    return [struct.unpack_from(code, memory, place)[0] for code, place in found]


@kernel(64)
def takes_all(x, small, flag, sizes, half, number, one, other, nothing, pairs):
    if flag:
        return


def test_every_kind_of_argument_arrives(compiled):
    given = (
        2**63 - 1, np.int32(-5), True, (1, -2, 3), np.float32(0.5), 1e300, np.bool_(False), np.int64(7), (),
        ((8, 9), (10,)),
    )  # fmt: skip
    for _ in range(2):
        device.launch(takes_all, (3, 2), 64, *given)
    (ptx,) = compiled  # once
    assert received(ptx) == [2**63 - 1, -5, True, 1, -2, 3, 0.5, 1e300, False, 7, 8, 9, 10]
    last = driver("last", Last)
    assert list(last.grid) == [3, 2, 1] and list(last.block) == [64, 1, 1]
    assert last.stream == 0x7F0000001230 and last.shared == 0
    assert "sm_90a" in ptx


def test_what_is_laid_out_already_arrives_with_new_addresses(compiled):
    @kernel(64)
    def takes_two_addresses(one, flag, number, two, sizes):
        if flag:
            return

    known = launching.Launch(
        takes_two_addresses, (3, 2), 64, ((True, np.float32(0.5)), ((np.int32(-5), 7),))
    )
    for one, two in ((2**63 - 1, 16), (32, 48)):
        device.launch_again(known, one, two)
        (ptx,) = compiled  # once
        assert received(ptx) == [one, True, 0.5, two, -5, 7]
        last = driver("last", Last)
        assert list(last.grid) == [3, 2, 1] and list(last.block) == [64, 1, 1]
        assert last.stream == 0x7F0000001230 and last.shared == 0
    driver("result_of_launches").value = 1
    with pytest.raises(RuntimeError, match="starting takes_two_addresses with"):
        device.launch_again(known, 0, 0)


def test_a_product(compiled):
    a, b, bias = on_device(70, 30), on_device(30, 50), on_device(50)
    c = linear.matmul(a, b, bias=bias, activation="leaky_relu")
    (ptx,) = compiled
    values = received(ptx)
    for x in (a, b, c, bias):
        assert values.count(device.address(x)) == 1
    assert np.float32(0.2) in values and values[-3:-1] == [1, 0]  # alpha and beta
    sizes = values.index(70, -20)
    assert values[sizes : sizes + 3] == [70, 50, 30]


def test_other_types_are_another_kernel(compiled):
    @kernel(32)
    def takes_two(x, y):
        pass

    for arguments in ((1, (2,)), (1, (2, 3)), (np.float32(1), (2,)), (1, (2,))):
        device.launch(takes_two, (1,), 32, *arguments)
        assert len(received(compiled[-1])) == 1 + len(arguments[1]) or arguments == (1, (2,))
    assert len(compiled) == 3


def test_the_next_process_compiles_nothing(compiled, monkeypatch):
    def scaler(factor):
        @kernel(32)
        def scaled(x):
            cuda.shared.array(factor, np.float32)[cuda.threadIdx.x] = x * factor

        return scaled

    for factor in (32, 64, 32):
        monkeypatch.setattr(launching, "_loaded", {})  # what is in memory is gone
        device.launch(scaler(factor), (1,), 32, np.float32(1))
    assert len(compiled) == 2
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "_file_of", lambda library: ("of another version", 0, 0))
        device.launch(scaler(32), (1,), 32, np.float32(1))
    assert len(compiled) == 3
    monkeypatch.setattr(compiling.config, "OPT", 0)
    device.launch(scaler(32), (1,), 32, np.float32(1))
    assert len(compiled) == 4


def test_a_grid_of_no_blocks_starts_nothing():
    before = driver("launches").value
    device.launch(takes_all, (5, 0, 2), 64, "is not even looked at")
    assert driver("launches").value == before
    with pytest.raises(ValueError, match=r"takes_all: a grid of \(1, 65536\) blocks is larger"):
        device.launch(takes_all, (1, 65536), 64)


@kernel(32)
def sums(x):
    memory = cuda.shared.array(0, np.float32)
    memory[cuda.threadIdx.x] = x


def test_much_shared_memory_is_asked_for_once():
    before = driver("attributes_set").value
    for size in (1000, 100 * 1024, 100 * 1024, 64 * 1024):
        device.launch(sums, (1,), 32, np.float32(1), shared=size)
        assert driver("last", Last).shared == size
    assert driver("attributes_set").value == before + 2
    with pytest.raises(RuntimeError, match=r"asking for 300000 bytes of shared memory.* of sums"):
        device.launch(sums, (1,), 32, np.float32(1), shared=300_000)


def test_shared_memory_is_not_taken_back():
    """Two threads find at once that a kernel may not have as much as they need; the larger one is served first."""

    @kernel(32)
    def asked(x):
        cuda.shared.array(0, np.float32)[cuda.threadIdx.x] = x

    device.launch(asked, (1,), 32, np.float32(1))
    loaded = next(value for key, value in launching._loaded.items() if key[0] is asked)
    for size in (100 * 1024, 64 * 1024):
        launching._allow_shared(asked, loaded, size)
    before = driver("attributes_set").value
    device.launch(asked, (1,), 32, np.float32(1), shared=100 * 1024)
    assert driver("attributes_set").value == before


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (np.float16(1), TypeError, r"plain: argument 1 is a numpy\.float16; kernels take"),
        ("text", TypeError, "plain: argument 1 is a builtins.str"),
        (None, TypeError, "plain: argument 1 is a builtins.NoneType"),
        (2**63, ValueError, "plain: argument 1 is 9223372036854775808"),
        ((1, -(2**63) - 1), ValueError, r"plain: argument 1 is \(1, -9223372036854775809\)"),
        ((1, 2.5), ValueError, r"plain: argument 1 is \(1, 2\.5\): required argument is not"),
        (((1, 2), 3), ValueError, r"plain: argument 1 is \(\(1, 2\), 3\)"),
        ((1, (2, 3)), ValueError, r"plain: argument 1 is \(1, \(2, 3\)\)"),
    ],
)
def test_an_argument_that_no_kernel_takes(wrong, error, words):
    @kernel(32)
    def plain(x, y):
        pass

    before = driver("launches").value
    with pytest.raises(error, match=words):
        device.launch(plain, (1,), 32, 1, wrong)
    assert driver("launches").value == before


def test_errors_of_the_driver():
    driver("result_of_launches").value = 1
    doing = r"starting sums with \(4, 2\) blocks of 32 threads"
    with pytest.raises(RuntimeError, match=rf"^{doing} failed: CUDA_ERROR_\w+1, invalid argument$"):
        device.launch(sums, (4, 2), 32, np.float32(1))
    driver("result_of_launches").value = 700
    earlier = rf"a kernel started earlier failed, as showed when {doing}: \w+700, an illegal memory"
    with pytest.raises(RuntimeError, match=earlier):
        device.launch(sums, (4, 2), 32, np.float32(1))


def test_threads_have_the_context_and_memory_of_their_own():
    """The stand-in, like the driver, refuses a thread that no context was made current for. It takes the parameters
    only after a while, in which other threads lay out theirs."""

    @kernel(32)
    def takes_one(x):
        pass

    errors, numbers = [], range(1, 33)

    def work(number):
        try:
            device.launch(takes_one, (1,), 32, number)
        except Exception as error:
            errors.append(error)

    total = driver("first_parameters", ctypes.c_longlong)
    before, driver("pause_of_launches").value = total.value, 20_000
    workers = [threading.Thread(target=work, args=(number,)) for number in numbers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert not errors and total.value == before + sum(numbers)


def test_what_is_kept_on_a_device_is_one_streams_own(monkeypatch):
    """Another stream does not wait until it is written."""
    library, found = device._cupy(), []
    library.ones = lambda size, dtype: np.ones(size, dtype).view(OnDevice)
    for stream in (1, 2, 1):
        at = SimpleNamespace(ptr=stream)
        monkeypatch.setattr(library.cuda, "get_current_stream", lambda at=at: at)
        linear.add_column_sums(on_device(4, 4), on_device(4))
        ones = ctypes.string_at(ctypes.addressof(driver("last", Last)) + Last.parameters.offset, 8)
        found.append({ones, device.address(arrivals.counters(3))})
    assert found[0] == found[2] and not found[0] & found[1]


def test_what_the_driver_says_of_a_device():
    assert device.multiprocessors() == 132 and device.name() == "NVIDIA H200"
    with pytest.raises(RuntimeError, match=r"asking device 7 for COMPUTE_CAPABILITY_MAJOR failed"):
        launching.capability(7)


def test_a_driver_older_than_cupys_runtime(monkeypatch):
    def count():
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    runtime = SimpleNamespace(getDeviceCount=count)
    library = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setattr(device, "_cupy", lambda: library)
    with pytest.raises(RuntimeError, match=r"^no CUDA device can be used here: CuPy finds cudaErr"):
        require()
