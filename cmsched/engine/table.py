"""The execution with an array index: weights gathered from a table. These run inside jit.

Their first argument is static and unused, see `Backend.execute`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..backends import Backend, resolve
from ..tables import FIRST_LEARNED, OUTPUT, SAMPLE, Table
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


def gathered(backend: Backend, numbers: Array, index: Array, like: Array) -> Array:
    """Gather a table's columns at an index: (numbers, *index, 1, ...), the axes of `like`."""
    xp = backend.xp
    check_index(backend, like, index)
    picked = xp.take(numbers, xp.reshape(index, (-1,)), axis=1)
    ones = (1,) * (len(like.shape) - len(index.shape))
    return xp.reshape(picked, (numbers.shape[0], *index.shape, *ones))


def table_input(_: None, table: Table, state: State) -> tuple[Array | None, Array]:
    """Return the network's input, None where that is the sample itself, and the time."""
    backend = resolve(state.sample)
    xp, index = backend.xp, state.index
    layout = table.layout
    column = gathered(backend, table.numbers[:2, ...], index, state.sample)
    x = None  # what passes through a compiled function may be copied
    if layout.scaled:
        x = backend.combine([state.sample], [column[0, ...]], table.numbers.dtype)
        x = backend.astype(x, state.sample.dtype)
    time = xp.reshape(column[1, ...], tuple(index.shape))
    if layout.integral:
        time = backend.astype(time, backend.default_int)
    return x, time


def table_rows(_: None, table: Table, state: State) -> tuple[Array, ...]:
    """Return the row number, which names the draws, and the times of each draw: like the index."""
    backend = resolve(state.sample)
    rows = gathered(backend, table.where, state.index, state.sample)
    shape = tuple(state.index.shape)
    numbers = [1, *range(3, rows.shape[0])]
    return tuple(backend.xp.reshape(rows[i, ...], shape) for i in numbers)


def table_begins(_: None, table: Table, plan: Array) -> Array:
    """Return the index at which each row's plan begins."""
    xp = resolve(plan).xp
    first = xp.take(table.where[2, ...], xp.reshape(plan, (-1,)), axis=0)
    return xp.reshape(first, tuple(plan.shape))


def table_start(
    _: None, table: Table, index: Array, noise: Array, x0: Array | None, z: Sequence[Array]
) -> Array:
    """Return the first sample."""
    backend = resolve(noise)
    acc = table.start.dtype
    column = gathered(backend, table.start, index, noise)
    weights = [column[i, ...] for i in range(column.shape[0])]
    if x0 is None:
        start = backend.combine([noise], weights[:1], acc)
    else:
        start = backend.combine([x0, noise], weights[1:3], acc)
    if z:
        start = backend.combine([start, *z], weights[3:], acc)
    return backend.astype(start, noise.dtype)


def stepped(
    table: Table,
    state: State,
    output: Array,
    z: Sequence[Array],
    given: Mapping[str, Array] | None,
) -> State:
    """Return the state after the network's output; what is only renamed is not passed through."""
    backend, layout = resolve(state.sample), table.layout
    new, made, index = backend.execute(table_step, None, table, state, output, z, given)
    held = {SAMPLE: state.sample, **dict(enumerate(state.memory, start=2)), **made}
    return State(new, tuple([held[v] for v in layout.picks]), index)


def table_step(
    _: None,
    table: Table,
    state: State,
    output: Array,
    z: Sequence[Array],
    given: Mapping[str, Array] | None,
) -> tuple[Array, dict[int, Array], Array]:
    """Return the next sample, the values made here that are stored, and the next index."""
    backend = resolve(state.sample)
    layout, sample = table.layout, state.sample
    acc, dtype = table.numbers.dtype, sample.dtype
    column = gathered(backend, table.numbers, state.index, sample)
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
    if layout.estimates and layout.prediction.projects:
        numbers = [column[i, ...] for i in range(2, 6)]
        values[layout.estimate] = estimated(backend, layout, numbers, sample, mean, acc)
    if layout.masked:
        for value, sources in enumerate(layout.pattern, start=layout.estimate):
            parts = [masked(values[v], given, region) for v, region in sources]
            if parts:
                weights = [column[at + i, ...] for i in range(len(parts))]
                values[value] = backend.combine(parts, weights, acc)
            at += len(parts)
    else:
        weights = column[at:, ...]
        backend.combinations(layout.statements, layout.wanted, values, weights, acc)
    # the column of the end repeats the sample, whatever the network says
    where = gathered(backend, table.where[:1, ...], state.index, sample)
    following = backend.xp.reshape(where, tuple(state.index.shape))
    made = [v for v in layout.picks if v == OUTPUT or v >= layout.first_draw]
    stored = {v: backend.astype(values[v], dtype) for v in made}
    new = backend.astype(values[layout.following], dtype)
    return new, stored, backend.astype(following, state.index.dtype)


def table_estimate(_: None, table: Table, state: State, output: Array) -> Estimate:
    """Return x0, eps and v."""
    backend = resolve(state.sample)
    layout, sample = table.layout, state.sample
    acc = table.numbers.dtype
    column = gathered(backend, table.numbers, state.index, sample)
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
    column = gathered(backend, table.numbers, state.index, state.sample)
    at = FIRST_LEARNED
    draws: list[tuple[int, tuple[Any, Any] | None]] = []
    for k, (_rank, learned) in enumerate(layout.draws):
        log_range = (column[at, ...], column[at + 1, ...]) if learned else None
        draws.append((layout.first_draw + k, log_range))
        at += 2 * learned
    statements = []
    for value, sources in enumerate(layout.pattern, start=layout.estimate):
        terms = [(v, column[at + i, ...], region) for i, (v, region) in enumerate(sources)]
        statements.append((value, terms))
        at += len(sources)
    return root_of_squares(backend, layout, state.sample, output, draws, statements, given)
