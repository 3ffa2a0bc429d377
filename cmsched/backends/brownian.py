"""Brownian paths at a few chosen times, of a dyadic tree that is never stored.

Lévy's construction (Karatzas and Shreve, Brownian Motion and Stochastic Calculus, section 2.3): on
[0, 1] the path is t z_0 + sum over l of 2^(-l/2 - 1) hat_(l, k)(t) z_(l, k), where hat_(l, k) rises
to 1 in the middle of the k-th of 2^l equal cells and is 0 outside. A node's normal is made from its
number alone, so a time needs only the nodes above it, one a level. Times are rounded to the ends of
the 2^DEPTH finest cells; at these the finite sum is exact.

The clock is atan(sigma / alpha), from 0 to pi / 2 whatever the schedule and its frame.
"""

import math
from collections.abc import Iterator
from typing import Any

DEPTH = 20  # one finest cell is 1.5e-6 of the clock; heights are exact in float32


def cell(lam: float) -> int:
    """Give the time of a noise level in finest cells: 0 at sigma = 0, 2^DEPTH at alpha = 0."""
    part = math.atan(math.exp(-abs(lam))) * 2 / math.pi
    return round(math.ldexp(part if lam >= 0 else 1 - part, DEPTH))


def increment(a: Any, b: Any) -> Iterator[tuple[Any, Any, float]]:
    """Yield (node, height, factor): W(b) - W(a), in root cells, sums height factor z_node.

    Times are Python ints, or int32 arrays, and so are nodes and heights. There are 1 + 2 DEPTH
    nodes; one above both times comes with the difference of its heights, which is exact, and again
    with 0. Without those, a step of a loop of 5 to 1000 takes 35 to 29 normals.
    """
    yield a - a, b - a, 2.0 ** (-DEPTH / 2)
    for level in range(DEPTH):
        shift, half = DEPTH - level, 1 << DEPTH - level - 1
        above_a, above_b = ((1 << level) + (t >> shift) for t in (a, b))
        high_a, high_b = (half - abs((t & 2 * half - 1) - half) for t in (a, b))
        apart = differs(above_b - above_a)
        factor = 2.0 ** ((level - DEPTH) / 2)
        yield above_a, high_b * (1 - apart) - high_a, factor
        yield above_b, high_b * apart, factor


def cells(a: Any, b: Any) -> Any:
    """Give the number of cells between two times, or 1 where there are none."""
    return abs(b - a) + 1 - differs(b - a)


def differs(n: Any) -> Any:
    """Give 1 where an int or int32 is not 0."""
    return (n | -n) >> 31 & 1
