"""Tables in which a run may begin at any step, as compiled stateful loops need them."""

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import samplers
from .lowering import lower, union_of_terms
from .plan import PLAN_CACHE_SIZE, Plan
from .rows import Layout, Row, Start, renumbered, value_keys
from .schedules import Point
from .tables import FIRST, LEFT, NEXT, ROW, Table, host_table
from .tracing import trace

__all__ = ["entry_table"]


class Beginning(NamedTuple):
    """Where a run begins, as a grid says it."""

    points: tuple[Point, ...]
    init_scale: float


class Head(NamedTuple):
    """The first rows of a run that begins late, up to where they are those of the whole run."""

    rows: tuple[Row, ...]
    start: Start
    grid: Beginning


@lru_cache(maxsize=PLAN_CACHE_SIZE)
def entry_table(plan: Plan, beside: Plan | None = None) -> Table:
    """Return a table, in NumPy, in which a run may begin at any step of the plan's grid.

    `first_columns[k]` is the column where a run from grid step k begins. Where the sampler
    remembers, the first rows of such a run are its own (those of `plan.skip(k)`), and lead into the
    plan's.

    Args:
        plan: the plan.
        beside: another plan of a sampler that remembers nothing; a run may also begin with any of
            its rows, and goes on with the plan's that are below it.

    Raises:
        ValueError: a run cannot begin at one of the steps, or has other values or evaluations.
    """
    if beside is not None:
        return _with_rows_of(plan, beside)
    n, capacity = len(plan.grid), len(plan) + 1
    firsts = {step: entry for entry, step in reversed([*enumerate(plan.steps)])}
    begins = [firsts[k] for k in range(n)]
    heads: list[Plan | Head] = [plan]
    leads = []  # (column of the first row of a head, row of the plan that it stands for, length)
    for k in range(1, n) if plan.layout.slots else ():
        head, first = _head(plan, k, begins[k]), begins[k]
        if head.rows:
            heads.append(head)
            leads.append((capacity, first, len(head.rows)))
            begins[k], capacity = capacity, capacity + len(head.rows) + 1
    host = _joined(plan.layout, heads, capacity)
    where = host.where
    where[FIRST], where[FIRST, :n] = -1, begins
    for column, first, count in leads:
        where[NEXT, column + count - 1] = first + count
        where[ROW, column : column + count] = np.arange(first, first + count) + 1  # draws as there
        where[LEFT, column : column + count] = where[LEFT, first : first + count]
    return host


def _joined(layout: Layout, heads: Sequence[Plan | Head], capacity: int) -> Table:
    """Return the table of several heads in turn, whose `where` may be written into."""
    rows = (row for head in heads for row in head.rows)
    layout = dataclasses.replace(layout, sums=union_of_terms(layout, rows))
    host = host_table(layout, heads, capacity)
    return Table(layout, host.numbers, host.where.copy(), host.start)


def _with_rows_of(plan: Plan, beside: Plan) -> Table:
    """Return the table of a plan that remembers nothing, and of another one's rows beside."""
    if plan.layout.slots:
        raise ValueError(f"a run of {plan.sampler!r} cannot begin anywhere: it remembers")
    one, other = plan.layout, beside.layout
    needs_x0, scaled = one.needs_x0 or other.needs_x0, one.scaled or other.scaled
    layout = dataclasses.replace(other, needs_x0=needs_x0, scaled=scaled)
    heads = [
        Head(in_numbers_of(p.rows, p.layout, layout), p.start, Beginning(p.grid.points[:1], scale))
        for p in (plan, beside)
        for scale in [p.grid.init_scale]
    ]
    n, first = len(plan), len(plan) + 1
    host = _joined(layout, heads, first + len(beside) + 1)
    where, times = host.where, plan.timesteps
    where[FIRST] = -1
    where[FIRST, : n + len(beside)] = [*range(n), *range(first, first + len(beside))]
    below = [int(np.count_nonzero(times >= row.point.t)) for row in beside.rows]
    where[NEXT, first : first + len(beside)] = below  # n, the end, where there is none
    where[LEFT, first : first + len(beside)] = where[LEFT, below] + 1
    return host


def _head(plan: Plan, k: int, first: int) -> Head:
    """Return the rows of the run from grid step k that are not the plan's, from row `first` on.

    A loop knows the past by what it stores. Once as many rows in turn are the plan's as the oldest
    of that is old, and one more, so are all that follow: no more than these need be traced. What a
    row stores shows as many rows later.
    """
    entry, grid, left = samplers.get(plan.sampler), plan.grid, len(plan) - first
    oldest = max(age for _, _, age in plan.layout.slots)
    limit = 3 * oldest + 2
    while True:
        whole = limit >= left
        most = None if whole else limit
        traced = trace(entry, grid, plan.options, plan.prediction, most, first=k)
        layout, start, rows = lower(traced, entry, plan.options, grid, plan.prediction)
        if whole and len(rows) != left:
            raise ValueError(
                f"a run from step {k} takes {len(rows)} evaluations, the whole run {left} from"
                " there: one table cannot hold both; begin with plan.skip(k)"
            )
        rows = in_numbers_of(rows if whole else rows[:-oldest], layout, plan.layout)
        there = plan.rows[first : None if whole else first + len(rows)]
        pairs = zip(rows, there, strict=True)
        own = [i for i, (row, same) in enumerate(pairs, start=1) if _work(row) != _work(same)]
        count = own[-1] if own else 0
        if whole or len(rows) - count > oldest:
            point = grid.points[k]  # as `Grid.skip` begins, which copies and checks the rest
            scale = grid.init_scale if grid.upward else point.sigma
            return Head(rows[:count], start, Beginning((point,), scale))
        limit *= 2


def _work(row: Row) -> tuple[Any, ...]:
    """Return what a row does, whatever is stored of it."""
    return row.point, row.estimate, row.draws, row.program


def in_numbers_of(rows: tuple[Row, ...], old: Layout, new: Layout) -> tuple[Row, ...]:
    """Return rows with the value numbers of a layout that has the same values and more."""
    places = set(value_keys(new))
    if more := [name for name in value_keys(old) if name not in places]:
        raise ValueError(
            f"a run that begins later has values that the whole run has not ({more}): one table"
            " cannot hold both; begin with plan.skip(k)"
        )
    return renumbered(rows, old, new)
