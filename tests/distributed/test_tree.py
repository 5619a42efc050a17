"""Sums in one fixed tree: the same bits, whoever has the leaves."""

from __future__ import annotations

from functools import reduce

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tinydl as tl
from tinydl.distributed.tree import add_up, children, combine, cover, leaves_of, tree_sum
from tinydl.distributed.world import World, share

few = settings(max_examples=40, deadline=None)


def leaf(k, size=37):
    """Numbers of very different sizes, so that the order of additions shows in the last bits."""
    rng = np.random.default_rng(k)
    return (rng.standard_normal(size) * 10.0 ** rng.integers(-6, 6, size)).astype(np.float32)


@few
@given(ranks=st.integers(1, 8), each=st.integers(1, 6))
def test_the_ranks_pieces_make_up_the_tree(ranks, each):
    shards = ranks * each
    root = (0, shards)
    nodes = [cover(root, leaves_of(r, ranks, shards)) for r in range(ranks)]
    flat = [k for own in nodes for node in own for k in range(*node)]
    assert flat == list(range(shards))  # every leaf once, in order
    known = {node: add_up(node, leaf) for own in nodes for node in own}
    np.testing.assert_array_equal(combine(root, known), add_up(root, leaf))


@few
@given(shards=st.integers(1, 40), sample=st.integers(0, 200))
def test_leaves_of_a_rank_are_its_rows(shards, sample):
    """Neighbouring shards of a batch are the rows that a rank was given, for every number of ranks that divides."""
    for ranks in (r for r in range(1, shards + 1) if shards % r == 0):
        for rank in range(ranks):
            first, last = leaves_of(rank, ranks, shards)
            own = share(sample, rank, ranks)
            assert share(sample, first, shards).start == own.start
            assert share(sample, last - 1, shards).stop == own.stop


def test_children_halve():
    assert children((0, 5)) == ((0, 2), (2, 5))


def sum_of(shards):
    return tree_sum(tl.distributed.world(), shards, leaf)


def test_every_number_of_ranks_gives_the_same_bits(job):
    for shards in (12, 24, 60):
        want = tree_sum(World(), shards, leaf)
        for got in job.run(sum_of, shards):
            np.testing.assert_array_equal(got, want)
        in_a_row = reduce(np.add, (leaf(k) for k in range(shards)))
        assert (in_a_row != want).any()  # the order of additions does show
        np.testing.assert_allclose(
            want, sum(leaf(k).astype(float) for k in range(shards)), rtol=1e-4, atol=10
        )
