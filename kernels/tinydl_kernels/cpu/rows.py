"""Maximum, sum and product sum of one row of a matrix, for the loops over rows."""

import numpy as np

from ._jit import REASSOCIATE, jit
from ._passes import BLOCK
from .elementary import bits, elementary, number


@jit(cache=False)
def rows_per_block(columns):
    """How many rows of so many columns make up a block; at least one."""
    return max(1, BLOCK // columns)


@elementary
def order(fmt):
    """An integer that grows as x does; `from_order` gives x back.

    The bits of positive numbers, read as an integer, are in order already; those of negative ones
    run backwards until all bits but the sign are flipped. Flipping twice undoes it.
    """
    integer, all_but_sign, sign_place = fmt.integer, fmt.all_but_sign, fmt.sign_place

    def code(x):
        pattern = bits(x)
        return integer(pattern ^ ((pattern >> sign_place) & all_but_sign))

    return code


@elementary
def from_order(fmt):
    integer, all_but_sign, sign_place = fmt.integer, fmt.all_but_sign, fmt.sign_place

    def code(like, key):
        return number(integer(key ^ ((key >> sign_place) & all_but_sign)))

    return code


@jit(cache=False)
def row_max(x, row):
    """Largest of a row. NaN may or may not win: the sums behind it are NaN anyway.

    A maximum of floating-point numbers is not vectorized, since NaN makes it depend on the order; one
    of integers is.
    """
    largest = order(x[row, 0])
    for k in range(x.shape[1]):
        key = order(x[row, k])
        largest = key if key > largest else largest
    return from_order(x[row, 0], largest)


@jit(fastmath=REASSOCIATE, cache=False)
def row_sum(x, row):
    """Sum of a row, in float64: a float32 sum would lose digits with every term."""
    total = 0.0
    for k in range(x.shape[1]):
        total += np.float64(x[row, k])
    return total


@jit(fastmath=REASSOCIATE, cache=False)
def row_dot(x, y, row):
    """Sum of a row of x * y, in float64."""
    total = 0.0
    for k in range(x.shape[1]):
        total += np.float64(x[row, k] * y[row, k])
    return total
