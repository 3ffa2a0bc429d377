"""The array form of plans: a table with a column for every evaluation of one plan or of several."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .backends import pytree, resolve
from .backends.brownian import cell
from .predictions import Prediction
from .rows import (
    EVERYWHERE,
    SAMPLE,
    Layout,
    Row,
    implied,
    renumbered,
    row_weights,
)

__all__ = [
    "ALPHA",
    "ALPHA_SIGMA",
    "COLUMNS",
    "ESTIMATE",
    "FIRST",
    "FIRST_INTERVAL",
    "FIRST_LEARNED",
    "FIRST_WEIGHT",
    "IMPLIED",
    "INIT_SCALE",
    "LEFT",
    "NEXT",
    "NOBODY",
    "ROW",
    "SCALE",
    "SIGMA",
    "TIME",
    "Table",
    "host_table",
    "to_device",
]

Array = Any

# What the rows of `Table.numbers` are, see `column_of`: then come learned ranges, then weights.
SCALE, TIME = 0, 1
ESTIMATE = range(2, 7)  # p, q, c_skip, c_out, the bound of clipping
ALPHA, SIGMA = 7, 8
IMPLIED = range(9, 14)  # of eps and v, see `rows.implied`
FIRST_LEARNED = 14
# And those of `Table.where`: then come two rows a draw, where its interval begins and ends.
NEXT, ROW, FIRST, LEFT = 0, 1, 2, 3
FIRST_INTERVAL = 4
# And those of `Table.start`: then come the weights of the start and its draws.
INIT_SCALE = 0
ALPHA_SIGMA = range(1, 3)
FIRST_WEIGHT = 3
# An index of a stack is COLUMNS mark + column, where the mark says which plan begins where: a state
# that is used with another stack than its own does not take its numbers for those of its plan.
COLUMNS = 1 << 18
MARKS = (1 << 13) - 2  # 0 is the index that somebody wrote, NOBODY one that no plan has
NOBODY = MARKS + 1


class Table:
    """Plans' numbers as arrays on one device; a pytree whose layout is static.

    `numbers` has a column an evaluation, see `column_of`, and one more a plan for its end, which
    repeats the sample. `where` holds whole numbers: the next column; the row number that names the
    draws; the column where plan k begins, in place k (-1: there is none); how many evaluations are
    left; the times at which each draw's interval begins and ends (see `brownian`), equal where it
    has none. Columns that indices name are marked where the layout is stacked. `start` holds, in
    the columns of a plan: init scale, alpha, sigma, then the weights of the start and its draws.
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


def host_table(layout: Layout, plans: Sequence[Any], capacity: int) -> Table:
    """Return the table of plans (or of what has rows, grid and start as they have) in NumPy."""
    firsts = np.cumsum([0, *(len(plan.rows) + 1 for plan in plans)])
    used = int(firsts[-1])
    start = np.zeros((FIRST_WEIGHT + 1 + len(layout.start_draws), capacity))
    where = np.zeros((FIRST_INTERVAL + 2 * len(layout.draws), capacity), np.int32)
    where[NEXT] = np.arange(capacity)  # a column after the last plan leads nowhere
    where[FIRST, : len(plans)], where[FIRST, len(plans) :] = firsts[:-1], -1
    blocks = []
    for k, (plan, first) in enumerate(zip(plans, firsts.tolist(), strict=False)):
        n, here = len(plan.rows), slice(first, first + len(plan.rows) + 1)
        block, begin, intervals = _block(layout, plan)
        blocks.append(block)
        start[:, here] = begin[:, None]  # wherever a row starts in it
        where[NEXT, first : first + n] += 1
        where[ROW, here] = np.arange(1, n + 2)
        where[LEFT, here] = np.arange(n, -1, -1)
        where[FIRST_INTERVAL:, here] = intervals
        if layout.stacked:
            where[NEXT, here] += COLUMNS * _mark(plan, first)
            where[FIRST, k] += COLUMNS * _mark(plan, first)
    spare = np.repeat(blocks[-1][:, -1:], capacity - used, axis=1)
    found = Table(layout, np.concatenate([*blocks, spare], axis=1), where, start)
    for array in (found.numbers, found.where, found.start):
        array.flags.writeable = False
    return found


def _block(layout: Layout, plan: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a plan's columns: of the numbers, of the start, and of the intervals of draws.

    A plan keeps those of the last layouts, as servers stack the same plans again and again.
    """
    kept = getattr(plan, "_blocks", {})
    if layout in kept:
        return kept[layout]  # type: ignore[no-any-return]
    own: Layout = getattr(plan, "layout", layout)
    rows = plan.rows if own.sized_as(layout) else renumbered(plan.rows, own, layout)
    columns = [column_of(layout, row, own.prediction) for row in rows]
    intervals = np.zeros((2 * len(layout.draws), len(rows) + 1), np.int32)
    for i, row in enumerate(rows):
        for value, draw in row.draws:
            if draw.interval is not None:
                k = 2 * (value - layout.first_draw)
                intervals[k : k + 2, i] = [cell(lam) for lam in draw.interval]
    at = plan.grid.points[0]
    ranks = [0, *(1 + layout.start_draws.index(rank) for rank in own.start_draws)]
    weights = np.zeros(1 + len(layout.start_draws))
    for value, c, _ in plan.start.terms:
        weights[ranks[value]] = c
    begin = np.array([plan.grid.init_scale, at.alpha, at.sigma, *weights])
    made = np.stack([*columns, _end(layout, columns[-1])], axis=1), begin, intervals
    if len(kept) >= 4:
        del kept[next(iter(kept))]
    kept[layout] = made
    return made


def _mark(plan: Any, first: int) -> int:
    """Return the mark of a plan that begins at a column, the same in every process.

    Of its loop in six digits: another machine's rounding is no other plan.
    """
    return 1 + zlib.crc32(f"{first} {plan.fingerprint}".encode()) % MARKS


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


def column_of(layout: Layout, row: Row, prediction: Prediction) -> np.ndarray:
    """Return a row as the column of a table.

    Scale, t, the estimate's four numbers, the bound of clipping, alpha, sigma, the five weights of
    eps and v (nan where the output says nothing about eps), learned ranges, the weights of all
    sums.
    """
    at = row.point
    try:
        said = implied(prediction, at)
    except ValueError:
        said = (math.nan, math.nan, math.nan, math.nan, math.nan)
    ranges = {v: d.log_range for v, d in row.draws}
    learned = [
        number
        for k, (_, is_learned) in enumerate(layout.draws)
        if is_learned
        for number in ranges.get(layout.first_draw + k) or (0.0, 0.0)
    ]
    bound = math.inf if prediction.clip is None else prediction.clip
    numbers = at.scale, at.t, *row.estimate, bound, at.alpha, at.sigma, *said
    return np.array([*numbers, *learned, *row_weights(layout, row)])


def _end(layout: Layout, last: np.ndarray) -> np.ndarray:
    """Return the column of the end: the next sample is the sample, nothing else is looked at."""
    column = last.copy()
    repeat = (layout.next_sample, SAMPLE, EVERYWHERE)
    column[len(column) - len(layout.terms) :] = [float(term == repeat) for term in layout.terms]
    return column
