"""The execution with an array index: weights gathered from a table. These run inside jit.

Their first argument is static, see `Backend.execute`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..backends import Backend, resolve
from ..rows import OUTPUT, SAMPLE
from ..tables import (
    ALPHA_SIGMA,
    COLUMNS,
    ESTIMATE,
    FIRST_INTERVAL,
    FIRST_LEARNED,
    FIRST_WEIGHT,
    IMPLIED,
    INIT_SCALE,
    LEFT,
    ROW,
    SCALE,
    TIME,
    Table,
)
from .checks import check_index
from .values import (
    Estimate,
    State,
    estimated,
    estimates,
    learned_std,
    masked,
    mean_channels,
    root_of_squares,
    variance_channels,
)

Array = Any


def gathered(backend: Backend, numbers: Array, index: Array, like: Array) -> Array:
    """Gather a table's columns at an index: (numbers, *index, 1, ...), the axes of `like`."""
    xp = backend.xp
    check_index(backend, like, index)
    picked = xp.take(numbers, xp.reshape(index, (-1,)), axis=1)
    ones = (1,) * (len(like.shape) - len(index.shape))
    return xp.reshape(picked, (numbers.shape[0], *index.shape, *ones))


def columns_at(table: Table, index: Array) -> Array:
    """Return the columns that an index names: without the marks of a stack, and within the table.

    One that lies outside is of another stack, and `_told` that.
    """
    if not table.layout.stacked:
        return index
    column = index - index // COLUMNS * COLUMNS
    return resolve(index).clip(column, 0, table.numbers.shape[1] - 1)


def table_left(_: None, table: Table, index: Array) -> Array:
    """Return how many evaluations are left of each row, like the index."""
    xp = resolve(index).xp
    at = xp.reshape(columns_at(table, index), (-1,))
    return xp.reshape(xp.take(table.where[LEFT, ...], at, axis=0), tuple(index.shape))


def _told(table: Table, index: Array, column: Array) -> Array:
    """Return a column, as NaN where the index has the mark of another plan."""
    if not table.layout.stacked:
        return column
    backend = resolve(index)
    at = backend.xp.reshape(columns_at(table, index), (-1,))
    marks = backend.xp.take(table.next_columns, at, axis=0) // COLUMNS
    own = backend.xp.reshape(index, (-1,)) // COLUMNS
    right = backend.xp.reshape(own * (own - marks), column.shape[1:]) == 0
    return backend.where(right, column, column * math.nan)


def table_input(_: None, table: Table, state: State) -> tuple[Array | None, Array]:
    """Return the network's input, None where that is the sample itself, and the time."""
    backend = resolve(state.sample)
    xp, index = backend.xp, state.index
    layout = table.layout
    column = gathered(
        backend, table.numbers[: TIME + 1, ...], columns_at(table, index), state.sample
    )
    x = None  # what passes through a compiled function may be copied
    if layout.scaled:
        x = backend.combine([state.sample], [column[SCALE, ...]], table.numbers.dtype)
        x = backend.astype(x, state.sample.dtype)
    time = xp.reshape(column[TIME, ...], tuple(index.shape))
    if layout.integral:
        time = backend.astype(time, backend.default_int)
    return x, time


def table_rows(_: None, table: Table, state: State) -> tuple[Array, ...]:
    """Return the row number, which names the draws, and the times of each draw: like the index."""
    backend = resolve(state.sample)
    rows = gathered(backend, table.where, columns_at(table, state.index), state.sample)
    shape = tuple(state.index.shape)
    numbers = [ROW, *range(FIRST_INTERVAL, rows.shape[0])]
    return tuple(backend.xp.reshape(rows[i, ...], shape) for i in numbers)


def first_columns(_: None, table: Table, which: Array) -> Array:
    """Return the column at which the plan of each row begins."""
    xp = resolve(which).xp
    first = xp.take(table.first_columns, xp.reshape(which, (-1,)), axis=0)
    return xp.reshape(first, tuple(which.shape))


def table_start(
    _: None, table: Table, index: Array, noise: Array, x0: Array | None, z: Sequence[Array]
) -> Array:
    """Return the first sample."""
    backend = resolve(noise)
    acc = table.start.dtype
    column = gathered(backend, table.start, columns_at(table, index), noise)
    if x0 is None:
        start = backend.combine([noise], [column[INIT_SCALE, ...]], acc)
    else:
        start = backend.combine([x0, noise], [column[i, ...] for i in ALPHA_SIGMA], acc)
    if z:
        weights = [column[i, ...] for i in range(FIRST_WEIGHT, column.shape[0])]
        start = backend.combine([start, *z], weights, acc)
    return backend.astype(start, noise.dtype)


def stepped(
    table: Table,
    state: State,
    output: Array,
    z: Sequence[Array],
    given: Mapping[str, Array] | None,
    estimate: bool,
) -> tuple[State, Array | None]:
    """Return the state after the network's output and, if asked for, the estimate x0.

    What is only renamed is not passed through; what was given is copied where it is stored.
    """
    backend, layout = resolve(state.sample), table.layout
    new, made, index, x0 = backend.execute(table_step, estimate, table, state, output, z, given)
    held = {SAMPLE: state.sample, **dict(enumerate(state.memory, start=2)), **made}
    ours = (*range(OUTPUT + 1, layout.first_draw), *range(layout.x0, layout.next_sample))
    memory = [held[v] if v in ours else backend.copy(held[v]) for v in layout.stores_from]
    return State(new, tuple(memory), index), x0


def table_step(
    estimate: bool,
    table: Table,
    state: State,
    output: Array,
    z: Sequence[Array],
    given: Mapping[str, Array] | None,
) -> tuple[Array, dict[int, Array], Array, Array | None]:
    """Return the next sample, the values made here that are stored, the next index, and x0."""
    backend = resolve(state.sample)
    layout, sample = table.layout, state.sample
    acc, dtype = table.numbers.dtype, sample.dtype
    at_column = columns_at(table, state.index)
    column = _told(table, state.index, gathered(backend, table.numbers, at_column, sample))
    mean = mean_channels(layout.prediction, sample, output)
    values: list[Any] = [None] * (layout.next_sample + 1)
    values[SAMPLE], values[OUTPUT] = sample, mean
    values[2 : layout.first_draw] = state.memory
    at = FIRST_LEARNED
    for k, ((_rank, learned), drawn) in enumerate(zip(layout.draws, z, strict=True)):
        if learned:
            variance = variance_channels(backend, sample, output)
            drawn = drawn * learned_std(backend, variance, column[at, ...], column[at + 1, ...])
            at += 2
        values[layout.first_draw + k] = drawn
    for k, name in enumerate(layout.given):
        values[layout.first_given + k] = given[name]  # type: ignore[index]
    if layout.needs_x0 and layout.prediction.projects:
        numbers = [column[i, ...] for i in ESTIMATE]
        values[layout.x0] = estimated(backend, layout, numbers, sample, mean, acc)
    if layout.masked:
        for value, sources in enumerate(layout.sums, start=layout.x0):
            parts = [masked(values[v], given, region) for v, region in sources]
            if parts:
                weights = [column[at + i, ...] for i in range(len(parts))]
                values[value] = backend.combine(parts, weights, acc)
            at += len(parts)
    else:
        weights = column[at:, ...]
        backend.combinations(layout.statements, layout.results, values, weights, acc)
    # the column of the end repeats the sample, whatever the network says
    columns = backend.xp.take(table.next_columns, backend.xp.reshape(at_column, (-1,)), axis=0)
    next_index = backend.xp.reshape(columns, tuple(state.index.shape))
    made = [v for v in layout.stores_from if v == OUTPUT or v >= layout.first_draw]
    stored = {v: backend.astype(values[v], dtype) for v in made}
    new = backend.astype(values[layout.next_sample], dtype)
    x0 = None
    if estimate:
        x0 = values[layout.x0] if layout.prediction.projects else None
        if x0 is None:
            numbers = [column[i, ...] for i in ESTIMATE]
            x0 = estimated(backend, layout, numbers, sample, mean, acc)
        x0 = backend.astype(x0, dtype)
        x0 = backend.copy(x0) if x0 is stored.get(layout.x0) else x0
    return new, stored, backend.astype(next_index, state.index.dtype), x0


def table_estimate(_: None, table: Table, state: State, output: Array) -> Estimate:
    """Return x0, eps and v."""
    backend, sample = resolve(state.sample), state.sample
    column = gathered(backend, table.numbers, columns_at(table, state.index), sample)
    numbers, weights = ([column[i, ...] for i in rows] for rows in (ESTIMATE, IMPLIED))
    acc = table.numbers.dtype
    return estimates(backend, table.layout, numbers, weights, sample, output, acc)


def table_std(
    _: None, table: Table, state: State, output: Array, given: Mapping[str, Array]
) -> Array:
    """Return the standard deviation of the next sample."""
    backend = resolve(state.sample)
    layout = table.layout
    column = gathered(backend, table.numbers, columns_at(table, state.index), state.sample)
    at = FIRST_LEARNED
    draws: list[tuple[int, tuple[Any, Any] | None]] = []
    for k, (_rank, learned) in enumerate(layout.draws):
        log_range = (column[at, ...], column[at + 1, ...]) if learned else None
        draws.append((layout.first_draw + k, log_range))
        at += 2 * learned
    statements = []
    for value, sources in enumerate(layout.sums, start=layout.x0):
        terms = [(v, column[at + i, ...], region) for i, (v, region) in enumerate(sources)]
        statements.append((value, terms))
        at += len(sources)
    return root_of_squares(backend, layout, state.sample, output, draws, statements, given)
