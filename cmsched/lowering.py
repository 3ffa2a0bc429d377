"""A trace written as rows: values get numbers, and every row becomes a program over them.

What a trace names (kind, row, rank) has, in row i, the number of

    its stored array     where it is of an earlier row j: that of (kind, rank, age i - j)
    sample, output       x and m of row i
    draw, given array    z of row i; g
    estimates            d and r of row i, before and after projection, where they are arrays
    stored sums          k of row i

so a value that is stored for two evaluations has three numbers in turn: the one where it is made,
then those of its stored arrays of age 1 and 2. A step moves it from one to the next by renaming.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .grids import Grid
from .predictions import Prediction
from .rows import EVERYWHERE, INSIDE, OUTPUT, OUTSIDE, SAMPLE, Layout, Row, Start, Term, program_of
from .samplers import Sampler
from .schedules import Point
from .tracing import MASK, NOTHING, Draw, Form, Leaf, Trace

__all__ = ["lower", "union_of_terms"]

Coefficients = dict[Leaf, Any]
Linear = tuple[float, float, float, float]  # p, q, c_skip, c_out of an estimate


def lower(
    traced: Trace, entry: Sampler, options: Mapping[str, Any], grid: Grid, prediction: Prediction
) -> tuple[Layout, Start, tuple[Row, ...]]:
    """Return the layout, the start row and the rows of a trace.

    Raises:
        ValueError: a coefficient is not finite; more is stored than the registry says.
    """
    linear = [(*prediction.linear(p), *prediction.boundary(p)) for p in traced.points]
    forms = _written_out(traced, entry, linear, prediction)
    last_use: dict[Leaf, int] = {}
    for i, row in enumerate(forms, start=-1):
        for leaf in (leaf for form in row for leaf in form if leaf[0] != "g"):
            last_use[leaf] = i
    draws = [
        [d for d in row.draws if ("z", i, d.rank) in last_use]
        for i, row in enumerate(traced.rows, start=-1)
    ]
    slots = _slots(last_use, entry, options)
    numbers = Numbering(_layout(traced, entry, grid, prediction, slots, draws, last_use), last_use)
    rows = tuple(
        _row(i, point, linear[i], forms[i + 1], draws[i + 1], numbers)
        for i, point in enumerate(traced.points)
    )
    layout = dataclasses.replace(
        numbers.layout,
        sums=union_of_terms(numbers.layout, rows),
        stores_from=numbers.stores_from,
    )
    return layout, _start(forms[0][-1], draws[0]), rows


def _written_out(
    traced: Trace, entry: Sampler, linear: list[Linear], prediction: Prediction
) -> list[list[Coefficients]]:
    """Return what every row, from -1 on, stores and makes the next sample of.

    An estimate is an array of its own if it is stored or not linear; else it folds away.
    """
    forms = [[*row.keeps, row.following] for row in traced.rows]
    folded = {"r"} if prediction.projects else {"d", "r"}
    folded -= {
        kind
        for i, row in enumerate(forms, start=-1)
        for form in row
        for kind, j, _ in form.terms
        if j < i
    }
    return [
        [_fold(form, i, linear, folded).clean(f"{entry.name}, evaluation {i}") for form in row]
        for i, row in enumerate(forms, start=-1)
    ]


def _fold(form: Form, i: int, linear: list[Linear], folded: set[str]) -> Form:
    """Return a form with row i's own estimate written out as skip x + out (p x + q m)."""
    own = [leaf for leaf in form.terms if leaf[1] == i and leaf[0] in folded]
    if not own:
        return form
    p, q, skip, last = linear[i]
    terms = form.terms.copy()
    for leaf in own:
        c, _ = terms.pop(leaf)
        x, m = terms.get(("x", i, 0), NOTHING), terms.get(("m", i, 0), NOTHING)
        sizes = abs(c) * (abs(skip) + abs(last * p)), abs(c) * abs(last * q)
        terms["x", i, 0] = (x[0] + c * (skip + last * p), x[1] + sizes[0])
        terms["m", i, 0] = (m[0] + c * (last * q), m[1] + sizes[1])
    return Form(terms)


def _slots(
    last_use: Mapping[Leaf, int], entry: Sampler, options: Mapping[str, Any]
) -> tuple[tuple[str, int, int], ...]:
    """Return the stored arrays (kind, rank, age); more than the registry says raise."""
    slots = set()
    for (kind, j, rank), last in last_use.items():
        if last > j:
            if j < 0:
                raise ValueError(
                    f"sampler {entry.name!r} uses an array from before its first evaluation; use"
                    " the x that the first yield gives back"
                )
            slots |= {(kind, rank, age) for age in range(1, last - j + 1)}
    allowed = entry.trait("stored", options)
    if len(slots) > allowed:
        found = ", ".join(f"{kind}[-{age}]" for kind, _, age in sorted(slots))
        raise ValueError(
            f"sampler {entry.name!r} is registered with stored={allowed} but needs {len(slots)}"
            f" arrays between evaluations ({found}); carry a combination as one array with"
            " `x = yield Store(x)`, or raise stored"
        )
    return tuple(sorted(slots))


def _layout(
    traced: Trace,
    entry: Sampler,
    grid: Grid,
    prediction: Prediction,
    slots: tuple[tuple[str, int, int], ...],
    draws: list[list[Draw]],
    last_use: Mapping[Leaf, int],
) -> Layout:
    """Return the layout but for its sums and stores_from, which are read from the rows."""
    learned: dict[int, bool] = {}
    for draw in (d for row in draws[1:] for d in row):
        learned[draw.rank] = learned.get(draw.rank, False) or draw.log_range is not None
    return Layout(
        slots=slots,
        draws=tuple(sorted(learned.items())),
        given=tuple(sorted(name for name in entry.given if name != MASK)),
        n_stored_sums=max(len(row.keeps) for row in traced.rows),
        needs_x0=any(leaf[0] == "d" for leaf in last_use),
        sums=(),
        stores_from=(),
        start_draws=tuple(d.rank for d in draws[0]),
        integral=grid.integral,
        prediction=prediction,
        masked=MASK in entry.given,
        scaled=any(p.scale != 1.0 for p in traced.points),
    )


class Numbering:
    """Which number a leaf has in a row, and how long it is needed."""

    def __init__(self, layout: Layout, last_use: Mapping[Leaf, int]) -> None:
        self.layout, self.last_use = layout, last_use
        self.stored = {slot: number for number, slot in enumerate(layout.slots, start=2)}
        ranks = enumerate(layout.draws, start=layout.first_draw)
        self.draws = {rank: number for number, (rank, _) in ranks}
        self.own = {"x": SAMPLE, "m": OUTPUT, "d": layout.x0, "r": layout.raw_x0}
        # a step later, what was made here has age 1, and what had an age is one older
        self.stores_from = tuple(
            self.number((kind, 1 - age, rank), 0) for kind, rank, age in layout.slots
        )

    def number(self, leaf: Leaf, i: int) -> int:
        """Return the number of a leaf in row i."""
        kind, j, rank = leaf
        if kind == "g":
            return self.layout.first_given + self.layout.given.index(rank)
        if j < i:
            return self.stored[kind, rank, i - j]
        if kind == "z":
            return self.draws[rank]
        return self.own[kind] if kind in self.own else self.layout.raw_x0 + 1 + int(rank)

    def needed(self, leaf: Leaf, i: int) -> bool:
        """Tell whether a leaf is used after row i."""
        return self.last_use.get(leaf, i) > i

    def terms(self, form: Coefficients, i: int) -> tuple[Term, ...]:
        """Return a form of row i as terms, those of a mask inside and outside."""
        out: list[Term] = []
        for leaf, c in form.items():
            v = self.number(leaf, i)
            pair = c if isinstance(c, np.ndarray) else (c, c)
            if pair[0] == pair[1]:
                out.append((v, float(pair[0]), EVERYWHERE))
            else:
                both = zip(pair, (INSIDE, OUTSIDE), strict=True)
                out += [(v, float(w), region) for w, region in both if w != 0.0]
        return tuple(sorted(out))


def _row(
    i: int,
    point: Point,
    linear: Linear,
    forms: list[Coefficients],
    draws: list[Draw],
    numbers: Numbering,
) -> Row:
    """Return row i: what is computed in turn, and what each stored array is then filled from."""
    layout, last_use = numbers.layout, numbers.last_use
    p, q, skip, out = linear
    written = (SAMPLE, skip + out * p, EVERYWHERE), (OUTPUT, out * q, EVERYWHERE)
    estimated, projects = ("d", i, 0) in last_use, layout.prediction.projects
    sums: list[tuple[int, tuple[Term, ...]]] = []
    if estimated and not projects:  # linear: a sum like the rest
        sums.append((layout.x0, tuple(term for term in written if term[1] != 0.0)))
    if numbers.needed(("r", i, 0), i):
        sums.append((layout.raw_x0, written))
    for rank, form in enumerate(forms[:-1]):
        if ("k", i, rank) in last_use:
            sums.append((layout.raw_x0 + 1 + rank, numbers.terms(form, i)))
    sums.append((layout.next_sample, numbers.terms(forms[-1], i)))
    stores_from = tuple(
        source if numbers.needed((kind, i - age + 1, rank), i) else place
        for place, (source, (kind, rank, age)) in enumerate(
            zip(numbers.stores_from, layout.slots, strict=True), start=2
        )
    )
    return Row(
        point,
        linear,
        estimated,
        tuple((numbers.draws[d.rank], d) for d in draws),
        stores_from,
        tuple(program_of(value, terms) for value, terms in sums),
    )


def union_of_terms(layout: Layout, rows: Iterable[Row]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return the terms (source, region) that each computed value has in some row.

    The end of a table repeats the sample, so the next sample has it as a term.
    """
    union: dict[int, set[tuple[int, int]]] = {
        value: set() for value in range(layout.x0, layout.next_sample + 1)
    }
    union[layout.next_sample].add((SAMPLE, EVERYWHERE))
    distinct = {(value, s, regions) for row in rows for value, s, _, regions in row.program}
    for made, sources, regions in distinct:  # one for many rows
        union[made] |= set(zip(sources, regions or (EVERYWHERE,) * len(sources), strict=True))
    return tuple(tuple(sorted(terms)) for terms in union.values())


def _start(form: Coefficients, draws: list[Draw]) -> Start:
    """Return the start row: value 0 is the start, then its draws."""
    ranks = [d.rank for d in draws]
    terms = []
    for (kind, _, rank), c in form.items():
        if kind == "g" or isinstance(c, np.ndarray):
            raise ValueError(
                "a sampler cannot use given arrays or a mask before its first evaluation"
            )
        terms.append((0 if kind == "s" else 1 + ranks.index(rank), float(c), EVERYWHERE))
    return Start(tuple(sorted(terms)), tuple((1 + k, d) for k, d in enumerate(draws)))
