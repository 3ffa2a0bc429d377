"""The array form of plans: a table with a column for every evaluation of one plan or of several."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .backends import pytree, resolve
from .backends.brownian import cell
from .rows import EVERYWHERE, SAMPLE, Layout, Row, implied, row_weights

__all__ = [
    "ALPHA",
    "ALPHA_SIGMA",
    "ESTIMATE",
    "FIRST",
    "FIRST_INTERVAL",
    "FIRST_LEARNED",
    "FIRST_WEIGHT",
    "IMPLIED",
    "INIT_SCALE",
    "NEXT",
    "ROW",
    "SCALE",
    "SIGMA",
    "TIME",
    "Stack",
    "Table",
    "host_table",
    "stack",
    "to_device",
]

Array = Any

# What the rows of `Table.numbers` are, see `column_of`: then come learned ranges, then weights.
SCALE, TIME = 0, 1
ESTIMATE = range(2, 6)  # p, q, c_skip, c_out
ALPHA, SIGMA = 6, 7
IMPLIED = range(8, 13)  # of eps and v, see `rows.implied`
FIRST_LEARNED = 13
# And those of `Table.where`: then come two rows a draw, where its interval begins and ends.
NEXT, ROW, FIRST = 0, 1, 2
FIRST_INTERVAL = 3
# And those of `Table.start`: then come the weights of the start and its draws.
INIT_SCALE = 0
ALPHA_SIGMA = range(1, 3)
FIRST_WEIGHT = 3


class Table:
    """Plans' numbers as arrays on one device; a pytree whose layout is static.

    `numbers` has a column an evaluation, see `column_of`, and one more a plan for its end, which
    repeats the sample. `where` holds whole numbers: the next column; the row number that names the
    draws; the column where plan k begins, in place k (-1: there is none); the times at which each
    draw's interval begins and ends (see `brownian`), equal where it has none. `start` holds, in the
    columns of a plan: init scale, alpha, sigma, then the weights of the start and its draws.
    """

    __slots__ = ("layout", "numbers", "start", "where")

    def __init__(self, layout: Layout, numbers: Array, where: Array, start: Array) -> None:
        self.layout, self.numbers, self.where, self.start = layout, numbers, where, start

    def __len__(self) -> int:
        """Return after how many evaluations the loop is over, whatever plan a row runs."""
        return int(self.numbers.shape[1]) - 1

    def on(self, like: Array) -> "Table":
        """Return the table itself, which is on a device."""
        return self

    @property
    def times(self) -> Array:
        """Model time of every column."""
        return self.numbers[TIME, ...]

    @property
    def alphas(self) -> Array:
        """Alpha of every column."""
        return self.numbers[ALPHA, ...]

    @property
    def sigmas(self) -> Array:
        """Sigma of every column."""
        return self.numbers[SIGMA, ...]

    @property
    def next_columns(self) -> Array:
        """The column that follows each one; an end is followed by itself."""
        return self.where[NEXT, ...]

    @property
    def row_numbers(self) -> Array:
        """The number of each column that names its draws: 1 for the first evaluation."""
        return self.where[ROW, ...]

    @property
    def first_columns(self) -> Array:
        """In place k the column where plan k begins; -1 where there is no such plan."""
        return self.where[FIRST, ...]


pytree(
    Table,
    lambda table: ((table.numbers, table.where, table.start), table.layout),
    lambda layout, children: Table(layout, *children),
)


@dataclass(frozen=True, eq=False)
class Stack:
    """Several plans as one table, for a batch whose rows run different ones; see `stack`.

    Args:
        plans: in the order of the numbers that `init` takes as `which`.
        layout: what their rows compute and store, the same for all.
        capacity: columns of the table, of which the plans need one per evaluation.
    """

    plans: tuple[Any, ...]
    layout: Layout
    capacity: int  # columns of the table

    def __post_init__(self) -> None:
        """Make what is filled later now, as a plan does."""
        _ = self._host, self._tables

    def __len__(self) -> int:
        """Return the number of network evaluations of the longest plan."""
        return max(map(len, self.plans))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the plans, and none of what is on devices."""
        return stack, (self.plans, self.capacity)

    def __repr__(self) -> str:
        """Return the stack in a line, with the first plans."""
        shown = ", ".join(map(repr, self.plans[:3])) + ", ..." * (len(self.plans) > 3)
        return f"Stack({len(self.plans)} plans, capacity {self.capacity}: {shown})"

    def on(self, like: Array) -> Table:
        """Return the table on the device of `like`, as `Plan.on` does."""
        return to_device(self._host, like, self._tables)

    @cached_property
    def _host(self) -> Table:
        return host_table(self.layout, self.plans, self.capacity)

    @cached_property
    def _tables(self) -> dict[Any, Table]:
        return {}


def stack(plans: Sequence[Any], capacity: int | None = None) -> Stack:
    """Return plans as one, which goes wherever a plan goes with an array index.

    `init(stack([a, b]), noise, which=k)` starts each row on the plan that the integers k name, of
    shape (batch,); rows may come and go at any time (`take`, `join`). A stack that begins with the
    same plans continues the same states. Where rows draw noise, give `rng=` a list with one
    `cmsched.Rng` per row, or noise follows the place in the batch instead of the request.

    Args:
        plans: plans of one layout: the same sampler, prediction and stored arrays.
        capacity: columns that the table is padded to, one an evaluation and one more a plan. Within
            it, another stack of the same layout does not recompile what took this one.

    Raises:
        TypeError: an entry is no plan, or one without a table.
        ValueError: no plans; layouts differ; capacity is too small.
    """
    if not isinstance(plans, Iterable):
        raise TypeError(
            f"plans is {type(plans).__name__}: pass a sequence, such as [scheduler.plan(n)]"
        )
    plans = tuple(plans)
    if not plans:
        raise ValueError("plans is empty: a stack needs at least one plan")
    for i, plan in enumerate(plans):
        if not hasattr(plan, "rows"):
            raise TypeError(f"plans[{i}] is {type(plan).__name__}: make it with scheduler.plan(n)")
        _ = plan.layout  # which raises where there is none
    layout = plans[0].layout
    for i, plan in enumerate(plans[1:], 1):
        layout = _merged(layout, plan.layout, i)
    need = sum(len(plan) + 1 for plan in plans)
    if capacity is not None and (not isinstance(capacity, int | np.integer) or capacity < need):
        raise ValueError(
            f"capacity={capacity!r}: these plans need {need} columns, one an evaluation and one"
            " more a plan; pass an int of at least that"
        )
    return Stack(plans, layout, int(capacity or need))


MUST_MATCH = {
    "slots": "stored arrays",
    "draws": "draws",
    "start_draws": "draws before the first evaluation",
    "given": "given arrays",
    "masked": "mask",
    "n_stored_sums": "kept combinations",
    "integral": "kind of model time (integral or not)",
    "prediction": "prediction",
}


def _merged(one: Layout, other: Layout, i: int) -> Layout:
    """Return the layout of both: the union of their terms, or raise where they store others."""
    for name, what in MUST_MATCH.items():
        a, b = getattr(one, name), getattr(other, name)
        if a != b:
            raise ValueError(
                f"plans[{i}] has another layout than plans[0]: its {what} differ ({b!r}, not"
                f" {a!r}); it stores {_stored(other)}, plans[0] {_stored(one)}. Stack plans of one"
                " sampler and configuration (those of very few steps may store less: give them"
                " more steps), and batch others apart"
            )
    pairs = zip(one.sums, other.sums, strict=True)
    return dataclasses.replace(
        one,
        needs_x0=one.needs_x0 or other.needs_x0,
        scaled=one.scaled or other.scaled,
        sums=tuple(tuple(sorted({*a, *b})) for a, b in pairs),
    )


def _stored(layout: Layout) -> str:
    """Return the names of the stored arrays."""
    names = [f"{kind}{rank}" if kind == "k" else kind for kind, rank, _ in layout.slots]
    ages = [age for _, _, age in layout.slots]
    return ", ".join(f"{name}[-{age}]" for name, age in zip(names, ages, strict=True)) or "nothing"


def host_table(layout: Layout, plans: Sequence[Any], capacity: int) -> Table:
    """Return the table of plans (or of what has rows, grid and start as they have) in NumPy."""
    firsts = np.cumsum([0, *(len(plan.rows) + 1 for plan in plans)])
    blocks, used = [], int(firsts[-1])
    start = np.zeros((FIRST_WEIGHT + 1 + len(layout.start_draws), capacity))
    where = np.zeros((FIRST_INTERVAL + 2 * len(layout.draws), capacity), np.int32)
    where[NEXT] = np.arange(capacity)  # a column after the last plan leads nowhere
    where[FIRST, : len(plans)], where[FIRST, len(plans) :] = firsts[:-1], -1
    for plan, first in zip(plans, firsts.tolist(), strict=False):
        n = len(plan.rows)
        rows = [column_of(layout, row) for row in plan.rows]
        blocks.append(np.stack([*rows, _end(layout, rows[-1])], axis=1))
        where[NEXT, first : first + n] += 1
        where[ROW, first : first + n + 1] = np.arange(1, n + 2)
        for i, row in enumerate(plan.rows):
            for value, draw in row.draws:
                if draw.interval is not None:
                    k = FIRST_INTERVAL + 2 * (value - layout.first_draw)
                    where[k : k + 2, first + i] = [cell(lam) for lam in draw.interval]
        at = plan.grid.points[0]
        weights = {value: c for value, c, _ in plan.start.terms}
        weighted = [weights.get(value, 0.0) for value in range(1 + len(layout.start_draws))]
        numbers = [plan.grid.init_scale, at.alpha, at.sigma, *weighted]
        start[:, first : first + n + 1] = np.array(numbers)[:, None]  # wherever a row starts in it
    spare = np.repeat(blocks[-1][:, -1:], capacity - used, axis=1)
    found = Table(layout, np.concatenate([*blocks, spare], axis=1), where, start)
    for array in (found.numbers, found.where, found.start):
        array.flags.writeable = False
    return found


def to_device(host: Table, like: Array, cache: dict[Any, Table]) -> Table:
    """Return a table on the device of `like`, in its accumulation dtype; made once, then kept."""
    backend = resolve(like)
    dtype = backend.accumulation(like.dtype)
    key = (backend.name, str(dtype), str(backend.device(like)))
    if key not in cache:
        table = Table(
            host.layout,
            backend.to_device_of(host.numbers, like, dtype),
            backend.to_device_of(host.where, like),
            backend.to_device_of(host.start, like, dtype),
        )
        if backend.traced(table.numbers):
            return table  # made inside a trace: must not outlive it
        cache[key] = table
    return cache[key]


def column_of(layout: Layout, row: Row) -> np.ndarray:
    """Return a row as the column of a table.

    Scale, t, the estimate's four numbers, alpha, sigma, the five weights of eps and v (nan where
    the output says nothing about eps), learned ranges, the weights of all sums.
    """
    at = row.point
    try:
        said = implied(layout.prediction, at)
    except ValueError:
        said = (math.nan, math.nan, math.nan, math.nan, math.nan)
    ranges = {v: d.log_range for v, d in row.draws}
    learned = [
        number
        for k, (_, is_learned) in enumerate(layout.draws)
        if is_learned
        for number in ranges.get(layout.first_draw + k) or (0.0, 0.0)
    ]
    numbers = at.scale, at.t, *row.estimate, at.alpha, at.sigma, *said
    return np.array([*numbers, *learned, *row_weights(layout, row)])


def _end(layout: Layout, last: np.ndarray) -> np.ndarray:
    """Return the column of the end: the next sample is the sample, nothing else is looked at."""
    column = last.copy()
    repeat = (layout.next_sample, SAMPLE, EVERYWHERE)
    column[len(column) - len(layout.terms) :] = [float(term == repeat) for term in layout.terms]
    return column
