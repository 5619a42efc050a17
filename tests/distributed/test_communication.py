"""Who sums which bucket, when, and how it waits: without MPI, with a world that takes notes."""

from __future__ import annotations

import threading

import pytest

from tinydl.distributed.communication import BlockingSums, ThreadedSums
from tinydl.distributed.world import World

A, B, LAST = slice(0, 4), slice(4, 8), slice(8, 10)


class Request:
    """Of a sum that is done after so many looks, or when somebody waits for it."""

    def __init__(self, looks: int | None) -> None:
        self.looks = looks
        self.seen = 0
        self.waited = False

    def Test(self) -> bool:
        self.seen += 1
        return self.looks is not None and self.seen >= self.looks

    def Wait(self) -> None:
        self.waited = True


class Notes:
    """Sums buckets through ``world``: notes which, in which thread, and whether it was one to be looked at."""

    def __init__(self, looks: int | None) -> None:
        self.world = World()
        self.looks = looks
        self.done: list[
            tuple[slice, bool, bool]
        ] = []  # bucket, in the training thread?, looked at?
        self.requests: list[Request] = []

    def total(self, bucket: slice) -> None:
        here = threading.current_thread() is threading.main_thread()
        self.done.append((bucket, here, self.world.wait is not None))
        if self.world.wait is not None:
            self.requests.append(Request(self.looks))
            self.world.wait(self.requests[-1])


@pytest.mark.parametrize("looks", [1, 35])
def test_a_thread_looks_in_on_all_but_the_last(looks):
    notes = Notes(looks)
    sums = ThreadedSums(notes.total, notes.world)
    for _ in range(2):  # two steps
        notes.done.clear()
        sums.start(A)
        sums.start(B)
        while len(notes.done) < 2 or notes.world.wait is not None:
            pass  # the backward pass goes on, longer than the sums
        sums.finish([LAST])
        assert notes.done == [(A, False, True), (B, False, True), (LAST, True, False)]
    assert all(request.seen == looks and not request.waited for request in notes.requests)
    sums.close()


def test_when_backward_is_over_it_waits_inside_the_library():
    notes = Notes(looks=None)
    sums = ThreadedSums(notes.total, notes.world)
    sums.start(A)
    sums.start(B)
    sums.finish([LAST])
    assert [request.waited for request in notes.requests] == [True, True]
    assert notes.done[-1] == (LAST, True, False)
    sums.close()


def test_an_error_in_the_thread_is_raised_in_training_and_ends_its_sums():
    def total(bucket: slice) -> None:
        done.append(bucket)
        raise OverflowError("too much")

    done: list[slice] = []
    sums = ThreadedSums(total, World())
    sums.start(A)
    sums.start(B)
    with pytest.raises(OverflowError, match="too much"):
        sums.finish([LAST])
    assert done == [A]
    sums.close()


def test_without_overlap_each_is_summed_at_once():
    done: list[slice] = []
    sums = BlockingSums(done.append)
    sums.start(A)
    assert done == [A]
    sums.finish([LAST])
    assert done == [A, LAST]
