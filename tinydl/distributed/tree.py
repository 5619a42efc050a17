"""One fixed binary tree of additions, whoever computes its leaves: sums that are equal to the last bit.

Floating-point addition is not associative: (a + b) + c and a + (b + c) differ in their last bits, so a sum over
ranks depends on how many ranks there are and on the order in which the library adds. Here a step's batch is cut
into V virtual shards whatever the number of ranks; the gradient of each is a leaf, and the leaves are added in one
balanced binary tree over 0 … V-1. A rank computes V / N neighbouring leaves and adds up those subtrees that lie
wholly within its own; the rest of the tree is added by whoever holds the pieces, in the same places.

                     [0, 4)                    N = 2 ranks, V = 4 shards:
                  /          \\                 rank 0 has leaves 0, 1 and the subtree [0, 2),
             [0, 2)          [2, 4)            rank 1 has leaves 2, 3 and the subtree [2, 4);
             /    \\          /    \\            the root is added last, the same way for N = 1, 2 or 4.
            0      1        2      3
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from tinydl.distributed.world import World

Node = tuple[int, int]  # leaves first … last - 1


def children(node: Node) -> tuple[Node, Node]:
    first, last = node
    middle = (first + last) // 2
    return (first, middle), (middle, last)


def cover(node: Node, leaves: Node) -> list[Node]:
    """The largest subtrees below ``node`` that lie within ``leaves``, from left to right."""
    if leaves[0] <= node[0] and node[1] <= leaves[1]:
        return [node]
    if node[1] <= leaves[0] or leaves[1] <= node[0]:
        return []
    left, right = children(node)
    return cover(left, leaves) + cover(right, leaves)


def add_up(node: Node, leaf: Callable[[int], NDArray]) -> NDArray:
    """The sum of the subtree ``node``; ``leaf(k)`` computes leaf k, and gives an array that may be added into."""
    if node[1] - node[0] == 1:
        return leaf(node[0])
    left, right = children(node)
    total = add_up(left, leaf)
    total += add_up(right, leaf)
    return total


def combine(node: Node, known: Mapping[Node, NDArray]) -> NDArray:
    """The sum of ``node`` from subtrees whose sums are known."""
    if node in known:
        return known[node]
    left, right = children(node)
    return combine(left, known) + combine(right, known)


def leaves_of(rank: int, size: int, shards: int) -> Node:
    """The leaves that a rank computes."""
    each = shards // size
    return rank * each, (rank + 1) * each


def tree_sum(world: World, shards: int, leaf: Callable[[int], NDArray]) -> NDArray:
    """The sum of all leaves, the same bits on every rank and for every number of ranks that divides ``shards``.

    ``leaf(k)`` is called for this rank's leaves, in order; each gives a flat array of one length and dtype. Every
    rank then adds one slice of the arrays for all (as in a reduce-scatter), and the slices are gathered. What
    travels is 2 (N - 1) / N times the array's bytes where V / N is a power of two, as in the usual allreduce.
    """
    root = (0, shards)
    nodes = {r: cover(root, leaves_of(r, world.size, shards)) for r in range(world.size)}
    own = [add_up(node, leaf) for node in nodes[world.rank]]
    if world.size == 1:
        return own[0]
    length = own[0].size
    width = -(-length // world.size)
    rows = max(map(len, nodes.values()))

    # One row a rank: its slice of my subtrees.
    pieces = np.zeros((world.size, rows, width), own[0].dtype)
    for k, total in enumerate(own):
        for r in range(world.size):
            part = total[r * width : (r + 1) * width]
            pieces[r, k, : part.size] = part
    received = np.empty_like(pieces)
    world.all_to_all(pieces, received)

    known = {n: received[r, k] for r in nodes for k, n in enumerate(nodes[r])}
    mine = np.ascontiguousarray(combine(root, known))
    whole = np.empty(world.size * width, own[0].dtype)
    world.all_gather(mine, whole)
    return whole[:length]
