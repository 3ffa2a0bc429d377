"""The array form of plans: a table of numbers, one column an evaluation, and what its rows mean.

Both executions of a plan share one numbering of values (see `Layout`). A row is a short
straight-line program over them: a few linear combinations, then which values become
(sample, *memory).
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .backends import pytree, resolve
from .backends.brownian import cell
from .predictions import Prediction
from .schedules import Point
from .tracing import Draw

Array = Any
EVERYWHERE, INSIDE, OUTSIDE = 0, 1, 2  # regions of a mask
Term = tuple[int, float, int]  # value number, coefficient, region
SAMPLE, OUTPUT = 0, 1
FIRST_LEARNED = 8  # row of a table where learned ranges begin, then weights (see `row_numbers`)


@dataclass(frozen=True)
class Layout:
    """The static structure of a plan: what is stored, drawn and given, and which values exist.

    Values are numbered: 0 sample, 1 output, memory, draws, given arrays, the estimate, the raw
    estimate, what each Keep stores, the next sample. In the start row value 0 is the start, and its
    draws follow.
    """

    slots: tuple[tuple[str, int, int], ...]  # (kind, rank, age in evaluations) of each stored array
    draws: tuple[tuple[int, bool], ...]  # (rank, is its variance learned)
    given: tuple[str, ...]
    keeps: int
    estimates: bool  # whether the estimate is computed as an array of its own
    pattern: tuple[tuple[tuple[int, int], ...], ...]  # (value, region) of x0, raw, keeps, next
    picks: tuple[int, ...]  # the value each slot is filled from
    start_draws: tuple[int, ...]
    integral: bool  # whether the network is conditioned on integers
    masked: bool  # whether a mask is given
    scaled: bool  # whether the network's input is scaled anywhere
    clean: bool  # whether sigma is 0 at an evaluation, where an inversion starts
    prediction: Prediction

    def __post_init__(self) -> None:
        """Count now: torch.compile cannot trace the lock that a cached property takes."""
        _ = self.blank, self.terms, self.statements, self.wanted

    @cached_property
    def first_draw(self) -> int:
        """Number of the first drawn value."""
        return 2 + len(self.slots)

    @cached_property
    def first_given(self) -> int:
        """Number of the first given array."""
        return self.first_draw + len(self.draws)

    @cached_property
    def estimate(self) -> int:
        """Number of the estimate."""
        return self.first_given + len(self.given)

    @cached_property
    def raw(self) -> int:
        """Number of the unprojected estimate."""
        return self.estimate + 1

    @cached_property
    def following(self) -> int:
        """Number of the next sample."""
        return self.raw + self.keeps + 1

    @cached_property
    def terms(self) -> tuple[tuple[int, int, int], ...]:
        """The pattern, one (value, source, region) per weight."""
        return tuple(
            (value, source, region)
            for value, sources in enumerate(self.pattern, start=self.estimate)
            for source, region in sources
        )

    @cached_property
    def statements(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The pattern as (value, sources), where no mask is; see `backends.fused`."""
        pattern = enumerate(self.pattern, start=self.estimate)
        return tuple((value, tuple(v for v, _ in terms)) for value, terms in pattern if terms)

    @cached_property
    def wanted(self) -> tuple[int, ...]:
        """The values that statements make and a state holds."""
        made = {value for value, _ in self.statements}
        return tuple(sorted({*self.picks, self.following} & made))

    @cached_property
    def blank(self) -> tuple[None, ...]:
        """Places of the values that a step computes, draws or is given."""
        return (None,) * (self.following + 1 - self.first_draw)

    @property
    def stochastic(self) -> bool:
        """Whether any row draws."""
        return bool(self.draws or self.start_draws)


class Row(NamedTuple):
    """One step: where the network is evaluated and what is done with its output."""

    point: Point
    estimate: tuple[float, float, float, float]  # p, q, c_skip, c_out
    estimates: bool  # whether this row needs the estimate as an array
    draws: tuple[tuple[int, Draw], ...]  # (value number, draw)
    statements: tuple[tuple[int, tuple[Term, ...]], ...]  # (value number, its terms)
    picks: tuple[int, ...]
    program: tuple[tuple[Any, ...], ...]  # the statements as the engine reads them, see `_program`


class Start(NamedTuple):
    """The start row: terms of the first sample over the start (value 0) and draws."""

    terms: tuple[Term, ...]
    draws: tuple[tuple[int, Draw], ...]


class Table:
    """Plans' numbers as arrays on one device; a pytree whose layout is static.

    `numbers` has a column an evaluation, see `row_numbers`, and one more a plan for its end, which
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

    def check_traced(self) -> Layout:
        """Return the layout, as a plan does."""
        return self.layout


pytree(
    Table,
    lambda table: ((table.numbers, table.where, table.start), table.layout),
    lambda layout, children: Table(layout, *children),
)


@dataclass(frozen=True, eq=False)
class Stack:
    """Several plans as one table, for a batch whose rows run different ones; see `stack`."""

    plans: tuple[Any, ...]
    layout: Layout
    capacity: int  # columns of the table

    def __post_init__(self) -> None:
        """Make what is filled later now, as a plan does."""
        _ = self._columns, self._placed

    def __len__(self) -> int:
        """Return the number of network evaluations of the longest plan."""
        return max(map(len, self.plans))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the plans, and none of what is on devices."""
        return stack, (self.plans, self.capacity)

    def check_traced(self) -> Layout:
        """Return the layout, as a plan does."""
        return self.layout

    def on(self, like: Array) -> Table:
        """Return the table on the device of `like`, as `Plan.on` does."""
        return placed(self.layout, self._columns, like, self._placed)

    @cached_property
    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return columns(self.layout, self.plans, self.capacity)

    @cached_property
    def _placed(self) -> dict[Any, Table]:
        return {}


def stack(plans: Sequence[Any], capacity: int | None = None) -> Stack:
    """Return plans as one, which goes wherever a plan goes with an array index.

    `init(stack([a, b]), noise, plan=k)` starts each row on the plan that the integers k name, of
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
        if not hasattr(plan, "rows") or not hasattr(plan, "check_traced"):
            raise TypeError(f"plans[{i}] is {type(plan).__name__}: make it with scheduler.plan(n)")
        plan.check_traced()
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


ALIKE = {
    "slots": "stored arrays",
    "draws": "draws",
    "start_draws": "draws before the first evaluation",
    "given": "given arrays",
    "masked": "mask",
    "keeps": "kept combinations",
    "integral": "kind of model time (integral or not)",
    "prediction": "prediction",
}


def _merged(one: Layout, other: Layout, i: int) -> Layout:
    """Return the layout of both: the union of their terms, or raise where they store others."""
    for name, what in ALIKE.items():
        a, b = getattr(one, name), getattr(other, name)
        if a != b:
            raise ValueError(
                f"plans[{i}] has another layout than plans[0]: its {what} differ ({b!r}, not"
                f" {a!r}); it stores {_stored(other)}, plans[0] {_stored(one)}. Stack plans of one"
                " sampler and configuration (those of very few steps may store less: give them"
                " more steps), and batch others apart"
            )
    pairs = zip(one.pattern, other.pattern, strict=True)
    return dataclasses.replace(
        one,
        estimates=one.estimates or other.estimates,
        scaled=one.scaled or other.scaled,
        clean=one.clean or other.clean,
        pattern=tuple(tuple(sorted({*a, *b})) for a, b in pairs),
    )


def _stored(layout: Layout) -> str:
    """Return the names of the stored arrays."""
    names = [f"{kind}{rank}" if kind == "k" else kind for kind, rank, _ in layout.slots]
    ages = [age for _, _, age in layout.slots]
    return ", ".join(f"{name}[-{age}]" for name, age in zip(names, ages, strict=True)) or "nothing"


def columns(
    layout: Layout, plans: Sequence[Any], capacity: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return numbers (float64), where (int32) and start of a table, on the host."""
    begins = np.cumsum([0, *(len(plan) + 1 for plan in plans)])
    used = int(begins[-1])
    blocks = []
    start = np.zeros((4 + len(layout.start_draws), capacity))
    where = np.zeros((3 + 2 * len(layout.draws), capacity), np.int32)
    where[0] = np.arange(capacity)  # a column after the last plan leads nowhere
    where[2, : len(plans)], where[2, len(plans) :] = begins[:-1], -1
    for plan, begin in zip(plans, begins.tolist(), strict=False):
        n = len(plan)
        rows = [row_numbers(layout, row) for row in plan.rows]
        blocks.append(np.stack([*rows, _end(layout, rows[-1])], axis=1))
        where[0, begin : begin + n] += 1
        where[1, begin : begin + n + 1] = np.arange(1, n + 2)
        for i, row in enumerate(plan.rows):
            for value, draw in row.draws:
                if draw.interval is not None:
                    k = 3 + 2 * (value - layout.first_draw)
                    where[k : k + 2, begin + i] = [cell(lam) for lam in draw.interval]
        first = plan.grid.points[0]
        weights = {value: c for value, c, _ in plan.start.terms}
        weighted = [weights.get(value, 0.0) for value in range(1 + len(layout.start_draws))]
        numbers = [plan.grid.init_scale, first.alpha, first.sigma, *weighted]
        start[:, begin : begin + n + 1] = np.array(numbers)[:, None]  # wherever a row starts in it
    spare = np.repeat(blocks[-1][:, -1:], capacity - used, axis=1)
    found = np.concatenate([*blocks, spare], axis=1), where, start
    for array in found:
        array.flags.writeable = False
    return found


def placed(
    layout: Layout,
    host: tuple[np.ndarray, np.ndarray, np.ndarray],
    like: Array,
    kept: dict[Any, Table],
) -> Table:
    """Return a table on the device of `like`, in its accumulation dtype; made once, then kept."""
    backend = resolve(like)
    dtype = backend.accumulation(like.dtype)
    key = (backend.name, str(dtype), str(backend.device(like)))
    if key not in kept:
        numbers, where, start = host
        table = Table(
            layout,
            backend.put(numbers, like, dtype),
            backend.put(where, like),
            backend.put(start, like, dtype),
        )
        if backend.traced(table.numbers):
            return table  # made inside a trace: must not outlive it
        kept[key] = table
    return kept[key]


def row_numbers(layout: Layout, row: Row) -> np.ndarray:
    """Return a row as the column of a table.

    Scale, t, the estimate's four numbers, alpha, sigma, learned ranges, the pattern's weights.
    """
    at = row.point
    ranges = {v: d.log_range for v, d in row.draws}
    learned = [
        number
        for k, (_, is_learned) in enumerate(layout.draws)
        if is_learned
        for number in ranges.get(layout.first_draw + k) or (0.0, 0.0)
    ]
    weights = row_weights(layout, row)
    return np.array([at.scale, at.t, *row.estimate, at.alpha, at.sigma, *learned, *weights])


def row_weights(layout: Layout, row: Row) -> list[float]:
    """Return a row's weight of each of the layout's terms."""
    have = {
        (value, v, region): c
        for value, sources, weights, regions in row.program
        for v, c, region in zip(
            sources, weights, regions or (EVERYWHERE,) * len(sources), strict=True
        )
    }
    return [have.get(term, 0.0) for term in layout.terms]


def _end(layout: Layout, last: np.ndarray) -> np.ndarray:
    """Return the column of the end: the next sample is the sample, nothing else is looked at."""
    column = last.copy()
    repeat = (layout.following, SAMPLE, EVERYWHERE)
    column[len(column) - len(layout.terms) :] = [float(term == repeat) for term in layout.terms]
    return column
