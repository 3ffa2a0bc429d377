"""The execution with an array index: weights gathered from a table. These run inside jit.

Their first argument is static and unused, see `Backend.execute`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..backends import Backend, resolve
from ..plan import OUTPUT, SAMPLE, Table
from .checks import check_index
from .rows import (
    Estimate,
    State,
    estimated,
    learned_std,
    masked,
    mean_channels,
    root_of_squares,
    variance_channels,
)

Array = Any

FIRST_LEARNED = 8  # row of a table where learned ranges begin, then weights (see `row_numbers`)


def columns(backend: Backend, numbers: Array, state: State) -> Array:
    """Gather a table's columns at the state's index: (numbers, *index, 1, ...), as the sample."""
    xp, index = backend.xp, state.index
    check_index(backend, state.sample, index)
    picked = xp.take(numbers, xp.reshape(index, (-1,)), axis=1)
    ones = (1,) * (len(state.sample.shape) - len(index.shape))
    return xp.reshape(picked, (numbers.shape[0], *index.shape, *ones))


def table_input(_: None, table: Table, state: State) -> tuple[Array, Array]:
    """Return the network's input and time."""
    backend = resolve(state.sample)
    xp, index = backend.xp, state.index
    layout = table.layout
    column = columns(backend, table.numbers[:2, ...], state)
    x = state.sample
    if layout.scaled:
        x = backend.combine([x], [column[0, ...]], table.numbers.dtype)
    time = xp.reshape(column[1, ...], tuple(index.shape))
    if layout.integral:
        time = backend.astype(time, backend.default_int)
    return backend.astype(x, state.sample.dtype), time


def table_rows(_: None, table: Table, state: State) -> tuple[Array, ...]:
    """Return the row number, which names the draws, and the times of each draw: like the index."""
    backend = resolve(state.sample)
    rows = columns(backend, table.where[1:, ...], state)
    shape = tuple(state.index.shape)
    return tuple(backend.xp.reshape(rows[i, ...], shape) for i in range(rows.shape[0]))


def table_start(_: None, table: Table, noise: Array, x0: Array | None, z: Sequence[Array]) -> Array:
    """Return the first sample."""
    backend = resolve(noise)
    acc = table.start.dtype
    weights = [table.start[i, ...] for i in range(table.start.shape[0])]
    if x0 is None:
        start = backend.combine([noise], weights[:1], acc)
    else:
        start = backend.combine([x0, noise], weights[1:3], acc)
    if z:
        start = backend.combine([start, *z], weights[3:], acc)
    return backend.astype(start, noise.dtype)


def table_step(
    _: None,
    table: Table,
    state: State,
    output: Array,
    z: Sequence[Array],
    given: Mapping[str, Array] | None,
) -> State:
    """Return the state after the network's output."""
    backend = resolve(state.sample)
    layout, sample = table.layout, state.sample
    acc, dtype = table.numbers.dtype, sample.dtype
    column = columns(backend, table.numbers, state)
    mean = mean_channels(layout.prediction, sample, output)
    values: list[Any] = [None] * (layout.following + 1)
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
    if layout.estimates:
        numbers = [column[i, ...] for i in range(2, 6)]
        values[layout.estimate] = estimated(backend, layout, numbers, sample, mean, acc)
    for value, sources in enumerate(layout.pattern, start=layout.raw):
        if sources:
            parts = [masked(values[v], given, region) for v, region in sources]
            weights = [column[at + i, ...] for i in range(len(sources))]
            values[value] = backend.combine(parts, weights, acc)
        at += len(sources)
    index = state.index
    where = columns(backend, table.where[:1, ...], state)[0, ...]
    following = backend.xp.reshape(where, tuple(index.shape))
    # a row past the end stays as it is whatever the network says: selected, not multiplied by zero
    ones = (1,) * (len(sample.shape) - len(index.shape))
    finished = backend.xp.reshape(following == index, (*index.shape, *ones))
    new = backend.astype(values[layout.following], dtype)
    memory = tuple(
        backend.where(finished, old, backend.astype(values[v], dtype))
        for old, v in zip(state.memory, layout.picks, strict=True)
    )
    return State(
        backend.where(finished, sample, new), memory, backend.astype(following, index.dtype)
    )


def table_estimate(_: None, table: Table, state: State, output: Array) -> Estimate:
    """Return x0, eps and v."""
    backend = resolve(state.sample)
    layout, sample = table.layout, state.sample
    acc = table.numbers.dtype
    column = columns(backend, table.numbers, state)
    numbers = [column[i, ...] for i in range(2, 6)]
    mean = mean_channels(layout.prediction, sample, output)
    x0 = estimated(backend, layout, numbers, sample, mean, acc)
    alpha, sigma = column[6, ...], column[7, ...]
    x = backend.astype(sample, acc)
    if layout.clean:
        c, d = layout.prediction.output(alpha, sigma, column[0, ...])
        said = (alpha * backend.astype(mean, acc) - c * x) / (alpha * d - sigma * c)
        safe = backend.where(sigma > 0, sigma, backend.xp.ones_like(sigma))
        eps = backend.where(sigma > 0, (x - alpha * x0) / safe, said)
    else:
        eps = (x - alpha * x0) / sigma
    v = (alpha * eps - sigma * x0) / backend.xp.sqrt(alpha * alpha + sigma * sigma)
    return Estimate(*(backend.astype(a, sample.dtype) for a in (x0, eps, v)))


def table_std(
    _: None, table: Table, state: State, output: Array, given: Mapping[str, Array]
) -> Array:
    """Return the standard deviation of the next sample."""
    backend = resolve(state.sample)
    layout = table.layout
    column = columns(backend, table.numbers, state)
    at = FIRST_LEARNED
    draws: list[tuple[int, tuple[Any, Any] | None]] = []
    for k, (_rank, learned) in enumerate(layout.draws):
        log_range = (column[at, ...], column[at + 1, ...]) if learned else None
        draws.append((layout.first_draw + k, log_range))
        at += 2 * learned
    statements = []
    for value, sources in enumerate(layout.pattern, start=layout.raw):
        terms = [(v, column[at + i, ...], region) for i, (v, region) in enumerate(sources)]
        statements.append((value, terms))
        at += len(sources)
    return root_of_squares(backend, layout, state.sample, output, draws, statements, given)
