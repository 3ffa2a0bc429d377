"""Running a sampler once on symbols: a loop becomes rows of float64 coefficients.

Every array a loop handles is a linear combination of leaves, named (kind, row, rank):

    x   the sample an evaluation stands on        d   its estimate x0        r   its unprojected estimate
    k   what a Keep stored                        z   a draw                 g   a given array (rank is its name)
    s   the start

A row is what happens between two evaluations: row -1 before the first one, row i after evaluation i.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .samplers import Keep, Raw, Sampler
from .schedules import Point
from .spacings import Grid, Walk

__all__ = ["MASK", "Draw", "Form", "Leaf", "Trace", "trace"]

Leaf = tuple[str, int, Any]
MASK = "mask"
ROUNDING = 8 * sys.float_info.epsilon


class Draw(NamedTuple):
    """One unit normal: the interval (in lam) it belongs to, if any, and the range of its learned log variance."""

    rank: int
    interval: tuple[float, float] | None = None
    log_range: tuple[float, float] | None = None


class Form:
    """A linear form {leaf: (coefficient, sum of magnitudes)}; the second number tells rounding residue from a term.

    A coefficient is a float, or a pair (inside the mask, outside) once a mask has entered.
    """

    __array_ufunc__ = None  # array * Form is Form's business
    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Leaf, tuple[Any, Any]]) -> None:
        self.terms = dict(terms)

    @classmethod
    def leaf(cls, *leaf: Any) -> "Form":
        """Return 1 * leaf."""
        return cls({leaf: (1.0, 1.0)})  # type: ignore[dict-item]

    def __add__(self, other: "Form") -> "Form":
        """Return the sum of two forms."""
        if not isinstance(other, Form):
            raise TypeError(f"a sampler is linear: cannot add {other!r} to an array; multiply arrays by numbers and add")
        terms = dict(self.terms)
        for leaf, (c, m) in other.terms.items():
            c0, m0 = terms.get(leaf, (0.0, 0.0))
            terms[leaf] = (c0 + c, m0 + m)
        return Form(terms)

    def __mul__(self, number: Any) -> "Form":
        """Return the form times a number, or times a mask."""
        if isinstance(number, Form):
            raise TypeError("a sampler is linear: the product of two arrays cannot be traced; register it traced=False")
        if not isinstance(number, np.ndarray):
            number = float(number)
        return Form({leaf: (number * c, abs(number) * m) for leaf, (c, m) in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, number: Any) -> "Form":
        """Return the form divided by a number."""
        return Form({leaf: (c / number, m / abs(number)) for leaf, (c, m) in self.terms.items()})

    def __neg__(self) -> "Form":
        """Return minus the form."""
        return self * -1.0

    def __sub__(self, other: "Form") -> "Form":
        """Return the difference of two forms."""
        return self + -1.0 * other

    def clean(self, where: str) -> dict[Leaf, Any]:
        """Return {leaf: coefficient} without rounding residue; a coefficient that is not finite raises ValueError."""
        out = {}
        for leaf, (c, m) in self.terms.items():
            if not np.all(np.isfinite(c)):
                raise ValueError(
                    f"{where}: the coefficient of {leaf[0]}{leaf[1]} is {c}; this sampler cannot take this step (a step"
                    " to sigma = 0 or from alpha = 0, or two equal points)"
                )
            if np.any(np.abs(c) > ROUNDING * m):
                out[leaf] = c
        return out


@dataclass
class TracedRow:
    """What a loop did between two evaluations; `point` is where the evaluation before it stood."""

    point: Point | None
    step: int = 0
    keeps: list[Form] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    following: Form | None = None


class Trace(NamedTuple):
    """All rows of a loop, the first one before the first evaluation."""

    rows: list[TracedRow]

    @property
    def points(self) -> list[Point]:
        """Where the network is evaluated."""
        return [row.point for row in self.rows[1:] if row.point is not None]


def trace(sampler: Sampler, grid: Grid, options: Mapping[str, Any], *, projects: bool) -> Trace:
    """Run a sampler's loop on linear forms.

    Args:
        projects: whether raw and projected estimates differ.
    """
    rows = [TracedRow(None)]
    walk = Walk(grid)

    def noise(
        a: Point | None = None, b: Point | None = None, *, log_range: tuple[float, float] | None = None
    ) -> Form:
        row = rows[-1]
        interval = None if a is None or b is None else (a.lam, b.lam)
        row.draws.append(Draw(len(row.draws), interval, log_range))
        return Form.leaf("z", len(rows) - 2, len(row.draws) - 1)

    given: dict[str, Any] = {name: Form.leaf("g", -1, name) for name in sampler.given}
    if MASK in given:
        given[MASK] = np.array([1.0, 0.0])
    loop = sampler.loop(Form.leaf("s", -1, 0), walk, noise, **given, **options)

    reply: Any = None
    while True:
        try:
            asked = loop.send(reply)
        except StopIteration as end:
            rows[-1].following = end.value
            return Trace(rows)
        except (ZeroDivisionError, OverflowError) as error:
            raise ValueError(
                f"sampler {sampler.name!r} cannot take step {walk.step} of this grid ({error}): a step to sigma = 0 or from"
                " alpha = 0 that its formula does not have, or two equal points"
            ) from error
        if isinstance(asked, Keep):
            rows[-1].keeps.append(asked.x)
            reply = Form.leaf("k", len(rows) - 2, len(rows[-1].keeps) - 1)
            continue
        x, point = asked
        rows[-1].following = x
        rows.append(TracedRow(point, walk.step))
        i = len(rows) - 2
        sample, x0 = Form.leaf("x", i, 0), Form.leaf("d", i, 0)
        reply = (sample, x0)
        if isinstance(asked, Raw):
            reply = (sample, x0, Form.leaf("r", i, 0) if projects else x0)

