"""Running a sampler once on symbols: a loop becomes rows of float64 coefficients.

Every array a loop handles is a linear combination of leaves, named (kind, row, rank):

    x   the sample an evaluation stands on    d   its estimate x0    r   its unprojected estimate
    k   what a Store stored                   z   a draw             g   a given array (rank: name)
    s   the start

A row is what happens between two evaluations: row -1 before the first, row i after evaluation i.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .grids import Grid, GridRun
from .predictions import Prediction
from .samplers import Evaluate, Rms, Sampler, Store
from .schedules import Point

__all__ = ["MASK", "Draw", "Form", "Leaf", "Trace", "trace"]

Leaf = tuple[str, int, Any]
MASK = "mask"
ROUNDING = 8 * sys.float_info.epsilon
NOTHING = (0.0, 0.0)
SINGULAR = (
    "a step to sigma = 0 or from alpha = 0 that its formula does not have, or two equal points"
)


class Draw(NamedTuple):
    """One unit normal: its interval (in lam), if any, and the range of its learned log variance."""

    rank: int
    interval: tuple[float, float] | None = None
    log_range: tuple[float, float] | None = None


class Form:
    """A linear form {leaf: (coefficient, sum of magnitudes)}.

    The second number tells rounding residue from a term. A coefficient is a float, or a pair
    (inside the mask, outside) once a mask has entered.
    """

    __array_ufunc__ = None  # array * Form is Form's business
    __slots__ = ("terms",)

    def __init__(self, terms: dict[Leaf, tuple[Any, Any]]) -> None:
        self.terms = terms

    @classmethod
    def leaf(cls, *leaf: Any) -> "Form":
        """Return 1 * leaf."""
        return cls({leaf: (1.0, 1.0)})

    def __add__(self, other: "Form") -> "Form":
        """Return the sum of two forms."""
        if not isinstance(other, Form):
            raise TypeError(
                f"a sampler is linear: cannot add {other!r} to an array; multiply arrays by numbers"
                " and add the products"
            )
        return self._plus(other, 1.0)

    def _plus(self, other: "Form", sign: float) -> "Form":
        """Return the sum or the difference."""
        terms = self.terms.copy()
        for leaf, (c, m) in other.terms.items():
            c0, m0 = terms.get(leaf, NOTHING)
            terms[leaf] = (c0 + sign * c, m0 + m)
        return Form(terms)

    def __radd__(self, other: Any) -> "Form":
        """Return the sum; 0 is what the built-in sum() starts from."""
        return self if type(other) is int and other == 0 else Form.__add__(self, other)

    def __mul__(self, number: Any) -> "Form":
        """Return the form times a number, or times a mask."""
        number = _factor(number, "product")
        return Form({leaf: (number * c, abs(number) * m) for leaf, (c, m) in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, number: Any) -> "Form":
        """Return the form divided by a number."""
        number = _factor(number, "quotient")
        return Form({leaf: (c / number, m / abs(number)) for leaf, (c, m) in self.terms.items()})

    def __rtruediv__(self, number: Any) -> "Form":
        """Refuse: dividing by an array is not linear."""
        _factor(self, "quotient")
        raise AssertionError

    def __neg__(self) -> "Form":
        """Return minus the form."""
        return self * -1.0

    def __sub__(self, other: "Form") -> "Form":
        """Return the difference of two forms."""
        return self._plus(_form(other), -1.0)

    def __rsub__(self, other: Any) -> "Form":
        """Refuse: two forms subtract by `__sub__`, and nothing else can be subtracted from."""
        return _form(other) - self

    def clean(self, where: str) -> dict[Leaf, Any]:
        """Return {leaf: coefficient} but for what rounding left; raise where one is not finite."""
        out = {}
        for leaf, (c, m) in self.terms.items():
            masked = isinstance(c, np.ndarray)
            if not (np.isfinite(c).all() if masked else math.isfinite(c)):
                raise ValueError(
                    f"{where}: the coefficient of {leaf[0]}{leaf[1]} is {c}; this sampler cannot"
                    f" take this step ({SINGULAR})"
                )
            term = abs(c) > ROUNDING * m
            if term.any() if masked else term:
                out[leaf] = 1.0 if not masked and abs(c - 1.0) <= ROUNDING * m else c
        return out


def _form(value: Any) -> Form:
    """Return a form unchanged; anything else cannot be added to one."""
    return value if isinstance(value, Form) else Form({}) + value


def _factor(value: Any, what: str) -> Any:
    """Return what may multiply a form: a float, or the two values of a mask."""
    if isinstance(value, Form):
        raise TypeError(
            f"a sampler is linear: the {what} of two arrays cannot be traced; compute the factor on"
            " the host, or register the sampler with traced=False"
        )
    return value if isinstance(value, np.ndarray) else float(value)


@dataclass(slots=True)
class TracedRow:
    """What a loop did between two evaluations; `point` is where the evaluation before it stood."""

    point: Point | None
    step: int = 0
    keeps: list[Form] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    following: Form = field(default_factory=lambda: Form({}))


class Trace(NamedTuple):
    """All rows of a loop, the first one before the first evaluation."""

    rows: list[TracedRow]

    @property
    def points(self) -> list[Point]:
        """Where the network is evaluated."""
        return [row.point for row in self.rows[1:] if row.point is not None]


def _array(sampler: Sampler, verb: str, value: Any) -> Form:
    """Return a form that a loop handed out; anything else raises."""
    if not isinstance(value, Form):
        raise TypeError(f"sampler {sampler.name!r} {verb} {value!r} where an array is expected")
    return value


def _noise(i: int, at: Point, prediction: Prediction) -> Form:
    """Return eps before projection; where sigma is 0 it is not determined by x and x0."""
    if at.sigma > 0.0:
        p, q, kind = 1.0 / at.sigma, -at.alpha / at.sigma, "r" if prediction.projects else "d"
    else:
        (p, q), kind = prediction.noise(at), "m"
    return Form({("x", i, 0): (p, abs(p)), (kind, i, 0): (q, abs(q))})


def trace(
    sampler: Sampler,
    grid: Grid,
    options: Mapping[str, Any],
    prediction: Prediction,
    limit: int | None = None,
    first: int = 0,
) -> Trace:
    """Run a sampler's loop on linear forms from step `first`, to its end or `limit` evaluations.

    Raises:
        ValueError: a step that the loop cannot take, or a loop without evaluations.
        TypeError: arithmetic that is not linear, or something yielded that is no request.
    """
    rows = [TracedRow(None)]
    # evaluations in clean data, where nothing is left to do: no loop has a formula for these
    idle = [] if grid.upward else [p for p in grid.points[:-1] if p.sigma == 0.0]
    walk = GridRun(grid.until(len(grid) - len(idle)) if idle else grid, first)

    def noise(
        a: Point | None = None,
        b: Point | None = None,
        *,
        log_range: tuple[float, float] | None = None,
    ) -> Form:
        row = rows[-1]
        interval = None if a is None or b is None else (a.lam, b.lam)
        row.draws.append(Draw(len(row.draws), interval, log_range))
        return Form.leaf("z", len(rows) - 2, len(row.draws) - 1)

    given: dict[str, Any] = {name: Form.leaf("g", -1, name) for name in sampler.given}
    if MASK in given:
        given[MASK] = np.array([1.0, 0.0])
    loop = sampler.start(Form.leaf("s", -1, 0), walk, noise, options, **given)

    reply: Any = None
    while True:
        try:
            asked = loop.send(reply)
        except StopIteration as end:
            if len(rows) == 1:
                raise ValueError(f"sampler {sampler.name!r} never evaluates the network") from None
            left = _array(sampler, "returned", end.value)
            for i, point in enumerate(idle):
                rows[-1].following = left
                if len(rows) - 1 == limit:
                    break
                rows.append(TracedRow(point, walk.step + 1 + i))
                left = Form.leaf("x", len(rows) - 2, 0)
            rows[-1].following = left
            return Trace(rows)
        except (ValueError, ArithmeticError) as error:
            why = "" if len(str(error)) > 30 else f": {SINGULAR}"  # Python's own are short
            raise ValueError(
                f"sampler {sampler.name!r} cannot take step {walk.step} of this grid ({error}){why}"
            ) from error
        if isinstance(asked, Rms):
            raise TypeError(
                f"sampler {sampler.name!r} asks for the size of an array, which a trace does not"
                " know; register it with traced=False"
            )
        if isinstance(asked, Store):
            stored = _array(sampler, "stored", asked.x)
            if len(rows) == 1:  # nothing is stored before the first evaluation
                reply = stored
                continue
            rows[-1].keeps.append(stored)
            reply = Form.leaf("k", len(rows) - 2, len(rows[-1].keeps) - 1)
            continue
        short = isinstance(asked, tuple) and len(asked) == 2
        if not (short or isinstance(asked, Evaluate)) or not isinstance(asked[1], Point):
            raise TypeError(
                f"sampler {sampler.name!r} yielded {asked!r}; yield x, point (or Evaluate(x, point,"
                " eps=True), or Store(x))"
            )
        x, point, eps = Evaluate(*asked)
        rows[-1].following = _array(sampler, "yielded", x)
        if len(rows) - 1 == limit:
            return Trace(rows)
        rows.append(TracedRow(point, walk.step))
        i = len(rows) - 2
        sample, x0 = Form.leaf("x", i, 0), Form.leaf("d", i, 0)
        reply = (sample, x0)
        if eps:
            reply = (sample, x0, _noise(i, point, prediction))
