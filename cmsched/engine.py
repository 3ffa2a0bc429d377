"""Running a plan on arrays: pure functions over any framework.

`step` has two executions. With an int index it follows that row's own terms with Python floats (eager code: no zero
terms, nothing moves to the device). With an array index it gathers weights from the plan's table (compiled code, and
batches whose rows are at different steps). Nothing here depends on the sampler.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import noise as noise_source
from . import samplers
from .backends import Backend, resolve
from .plan import EVERYWHERE, INSIDE, OUTPUT, SAMPLE, Layout, Plan, Row, Table
from .samplers import Keep, Raw
from .schedules import Point
from .spacings import Walk
from .tracing import MASK

__all__ = ["Estimate", "State", "check_like", "draw", "estimate", "estimate_x0", "init", "model_input", "run", "sample", "step"]

Array = Any
Model = Callable[[Array, Array], Array]
Recipe = Plan | Table


class State(NamedTuple):
    """Where a loop stands: a pytree, picklable, storable, resumable."""

    sample: Array  # any shape, batch first; in the frame of the plan's schedule
    memory: tuple[Array, ...]  # the plan's stored arrays, each like sample
    index: Any  # evaluations done: an int, or an integer array of shape (), (batch,) or (batch, frames)


class Estimate(NamedTuple):
    """What the network's output says at one step, after projection; arrays like the sample."""

    x0: Array
    eps: Array
    v: Array


def init(
    plan: Recipe,
    noise: Array,
    *,
    x0: Array | None = None,
    given: Mapping[str, Array] | None = None,
    rng: Any = None,
    index: Any = None,
) -> State:
    """Return the state before the first evaluation.

    Args:
        noise: unit normals of the sample's shape, floating dtype and device.
        x0: a clean sample like noise: start from alpha x0 + sigma noise at the plan's first point (image to image).
        given: arrays the sampler asks for, {"image": ..., "mask": ...}.
        rng: where a plan that draws before its first evaluation takes its noise, see `draw`.
        index: 0 or an integer array to choose the execution; by default an int, on concrete JAX arrays and tables a
            device array.

    Raises:
        TypeError: noise is not a floating array, or x0 is of another framework.
        ValueError: another shape, device or dtype; missing rng.
    """
    layout = plan.check_traced()
    backend = resolve(noise)
    backend.accumulation(noise.dtype)
    if x0 is not None:
        check_like(backend, noise, "x0", x0)
    _check_given(layout, given)
    if index is None:
        index = 0
        if isinstance(plan, Table) or backend.index_on_device:
            index = _device_index(plan, noise, backend)
    elif isinstance(index, int) and isinstance(plan, Table):
        raise TypeError("a table needs an array index; pass the plan itself for an int index")
    z = _start_noise(layout, noise, rng, backend, plan)
    if isinstance(plan, Table) or not isinstance(index, int):
        table = plan if isinstance(plan, Table) else plan.on(noise)
        start = backend.execute(_table_start, None, table, noise, x0, z)
    else:
        first = plan.grid.points[0]
        acc = backend.accumulation(noise.dtype)
        if x0 is None:
            start = backend.combine([noise], [plan.grid.init_scale], acc)
        else:
            start = backend.combine([x0, noise], [first.alpha, first.sigma], acc)
        if z:
            values = [start, *z]
            terms = plan.start.terms
            start = backend.combine([values[v] for v, _, _ in terms], [c for _, c, _ in terms], acc)
        start = backend.astype(start, noise.dtype)
    return State(start, tuple(backend.zeros_like(noise) for _ in layout.slots), index)


def model_input(plan: Recipe, state: State) -> tuple[Array, Array]:
    """Return what the network is given: the scaled sample, and the time as an array of shape () or of the index.

    The time has the framework's default integer dtype where times are integral, otherwise float32 (float64 for a
    float64 sample).
    """
    index = state.index
    if type(index) is int:
        row = _row(plan, index)
        x = state.sample
        if row.point.scale != 1.0:
            backend = resolve(x)
            x = backend.astype(backend.combine([x], [row.point.scale], backend.accumulation(x.dtype)), x.dtype)
        return x, plan.times_on(state.sample)[index]  # type: ignore[union-attr]
    backend = resolve(state.sample)
    table = plan if isinstance(plan, Table) else plan.on(state.sample)
    x, t = backend.execute(_table_input, None, table, state)
    return x, t


def draw(plan: Recipe, state: State, rng: Any) -> tuple[Array, ...] | None:
    """Return the unit normals this step needs, one array per draw, or None if it needs none.

    Args:
        rng: an int or `Rng` (the same noise on every framework, device and batch split), a native generator or key, a
            list with one per sample, or a callable (shape, dtype, interval).

    Raises:
        ValueError: rng is None and the step draws.
    """
    sample, index = state.sample, state.index
    if type(index) is int:
        wanted = [(d.rank, d.interval) for _, d in _row(plan, index).draws]
        row: Any = index + 1
    else:
        layout = plan.check_traced()
        wanted = [(rank, None) for rank, _ in layout.draws]
        row = _gather_rows(plan, state) if wanted else None
    if not wanted:
        return None
    if rng is None:
        raise ValueError(
            "this step draws noise: pass rng= (an int, cmsched.Rng, a generator or key, a list with one per sample, or"
            " a callable), or noise=cmsched.draw(plan, state, rng)"
        )
    return tuple(
        noise_source.standard_normal(
            rng, tuple(sample.shape), sample.dtype, sample, row=row, rank=rank, interval=interval
        )
        for rank, interval in wanted
    )


def step(
    plan: Recipe,
    state: State,
    output: Array,
    *,
    rng: Any = None,
    noise: Array | Sequence[Array] | None = None,
    given: Mapping[str, Array] | None = None,
) -> State:
    """Return the state after the network's output: one linear combination of arrays per stored result.

    Args:
        output: the network's output at `model_input(plan, state)`, like the sample (with twice its channels if the
            prediction has a variance head).
        rng: see `draw`; ignored by steps that draw nothing.
        noise: the draws themselves, one array or a tuple.

    Raises:
        TypeError: output of another framework.
        ValueError: output of another shape or device; missing or superfluous noise; index past the end (int index).
    """
    sample, index = state.sample, state.index
    backend = resolve(sample)
    layout = plan.check_traced()
    if len(state.memory) != len(layout.slots):
        raise ValueError(
            f"the state holds {len(state.memory)} stored arrays, this plan's are {layout.slots}; states pass between"
            " plans only when these agree"
        )
    if output.shape != sample.shape or type(output) is not type(sample):
        _check_output(backend, sample, output, layout)
    elif backend.device(output) != backend.device(sample):
        check_like(backend, sample, "output", output)
    if layout.given or layout.masked or given:
        _check_given(layout, given)
    if type(index) is not int:
        table = plan if isinstance(plan, Table) else plan.on(sample)
        z = _noise(backend, sample, len(layout.draws), noise) if rng is None or noise is not None else None
        if z is None:
            z = draw(plan, state, rng) or ()
        return backend.execute(_table_step, None, table, state, output, z, given)  # type: ignore[no-any-return]
    row = _row(plan, index)
    if row.draws and noise is None:
        z = draw(plan, state, rng) or ()
    else:
        z = _noise(backend, sample, len(row.draws), noise)
    values = _values(backend, layout, row, state, output, z, given)
    dtype = sample.dtype
    if backend.accumulation(dtype) is not dtype:
        values = [v if v is None or v.dtype == dtype else backend.astype(v, dtype) for v in values]
    memory = tuple([values[v] for v in row.picks])
    return State(values[layout.following], memory, index + 1)


def estimate(
    plan: Recipe, state: State, output: Array, *, given: Mapping[str, Array] | None = None
) -> Estimate:
    """Return x0 (after projection), eps and v that the output implies, arrays like the sample (for previews).

    v is a eps - s x0 in the frame the network sees, divided by sqrt(a^2 + s^2).
    """
    sample = state.sample
    backend = resolve(sample)
    layout = plan.check_traced()
    _check_output(backend, sample, output, layout)
    if type(state.index) is not int:
        table = plan if isinstance(plan, Table) else plan.on(sample)
        return backend.execute(_table_estimate, None, table, state, output)  # type: ignore[no-any-return]
    row = _row(plan, state.index)
    acc = backend.accumulation(sample.dtype)
    x0 = _estimate_x0(backend, layout, row.estimate, sample, _mean(layout, sample, output), acc)
    at, size = row.point, math.hypot(row.point.alpha, row.point.sigma)
    eps = backend.combine([sample, x0], [1 / at.sigma, -at.alpha / at.sigma], acc)
    v = backend.combine([eps, x0], [at.alpha / size, -at.sigma / size], acc)
    return Estimate(*(backend.astype(a, sample.dtype) for a in (x0, eps, v)))


def estimate_x0(plan: Plan, index: int, sample: Array, output: Array) -> Array:
    """Return only x0 of `estimate`, for an int index."""
    backend = resolve(sample)
    layout = plan.check_traced()
    acc = backend.accumulation(sample.dtype)
    mean = _mean(layout, sample, output)
    x0 = _estimate_x0(backend, layout, plan.rows[index].estimate, sample, mean, acc)
    return backend.astype(x0, sample.dtype)


def sample(
    model: Model,
    plan: Recipe,
    noise: Array,
    *,
    x0: Array | None = None,
    given: Mapping[str, Array] | None = None,
    rng: Any = None,
    callback: Callable[[int, State, Array], None] | None = None,
    progress: bool = False,
    unroll: bool = False,
) -> Array:
    """Return the sample that the whole loop makes of unit normal noise.

    A Python loop on concrete arrays. Traced by JAX it is a `scan` (on CPU a scan around a convolutional network can be
    20 times slower than unrolling), or a loop written out with `unroll=True`.

    Args:
        model: `model(x, t) -> output`.
        x0, given, rng: see `init` and `draw`.
        callback: called as `callback(i, state, x0)` after evaluation i with the state before the step.
        progress: show a bar (tqdm if installed).

    Raises:
        ValueError: callback or progress inside a trace.
    """
    if isinstance(plan, Plan) and plan.layout is None:
        return run(model, plan, noise, x0=x0, given=given, rng=rng, callback=callback, progress=progress)
    backend = resolve(noise)
    traced = backend.traced(noise, *([x0] if x0 is not None else []))
    if isinstance(plan, Table):
        traced = traced or backend.traced(plan.numbers)
    if traced and (callback is not None or progress):
        raise ValueError("callback and progress need concrete arrays; call sample outside jit, or remove them")
    index = None
    if traced and unroll and isinstance(plan, Plan):
        index = 0
    elif traced:
        index = _device_index(plan, noise, backend)
    state = init(plan, noise, x0=x0, given=given, rng=rng, index=index)

    def body(state: State) -> State:
        output = model(*model_input(plan, state))
        return step(plan, state, output, rng=rng, given=given)

    if traced and not unroll:
        return backend.scan(body, state, len(plan)).sample
    for i in _progress(len(plan), progress):
        if callback is None:
            state = body(state)
            continue
        output = model(*model_input(plan, state))
        callback(i, state, estimate(plan, state, output, given=given).x0)
        state = step(plan, state, output, rng=rng, given=given)
    return state.sample


def run(
    model: Model,
    plan: Plan,
    noise: Array,
    *,
    x0: Array | None = None,
    given: Mapping[str, Array] | None = None,
    rng: Any = None,
    callback: Callable[[int, State, Array], None] | None = None,
    progress: bool = False,
) -> Array:
    """Return the sample, running the sampler's own loop on arrays: the reference path, and the only one for samplers
    whose control flow depends on data. Arguments as in `sample`.
    """
    backend = resolve(noise)
    backend.accumulation(noise.dtype)
    entry = samplers.get(plan.sampler)
    prediction, grid = plan.prediction, plan.grid
    missing = set(entry.given) - set(given or {})
    if missing:
        raise ValueError(f"sampler {entry.name!r} needs given={{...}} with {sorted(missing)}")
    evaluation, rank = -1, -1
    variance: Array | None = None

    def noise_of(
        a: Point | None = None, b: Point | None = None, *, log_range: tuple[float, float] | None = None
    ) -> Array:
        nonlocal rank
        rank += 1
        if rng is None:
            raise ValueError("this sampler draws noise: pass rng=")
        interval = None if a is None or b is None else (a.lam, b.lam)
        z = noise_source.standard_normal(
            rng, tuple(noise.shape), noise.dtype, noise, row=evaluation + 1, rank=rank, interval=interval
        )
        return z if log_range is None else z * _learned_std(backend, variance, *log_range)

    first = grid.points[0]
    x = noise * grid.init_scale if x0 is None else x0 * first.alpha + noise * first.sigma
    loop = entry.loop(x, Walk(grid), noise_of, **(given or {}), **plan.options)
    bar = iter(_progress(len(plan) or len(grid), progress))
    reply: Any = None
    while True:
        try:
            asked = loop.send(reply)
        except StopIteration as end:
            return end.value
        if isinstance(asked, Keep):
            reply = asked.x
            continue
        x, at = asked
        evaluation, rank = evaluation + 1, -1
        next(bar, None)
        acc = backend.accumulation(noise.dtype)
        kind = backend.default_int if grid.integral else acc
        time = backend.put(np.asarray(at.t), noise, kind)
        output = model(x * at.scale if at.scale != 1.0 else x, time)
        mean = output
        if prediction.variance_head and output.shape != x.shape:
            channels = x.shape[1]
            mean, variance = output[:, :channels, ...], output[:, channels:, ...]
        p, q = prediction.linear(at)
        skip, out = prediction.boundary(at)
        raw = x * p + mean * q
        estimated = _project(backend, prediction, raw)
        if (skip, out) != (0.0, 1.0):
            raw, estimated = x * skip + raw * out, x * skip + estimated * out
        if callback is not None:
            callback(evaluation, State(x, (), evaluation), estimated)
        reply = (x, estimated, raw) if isinstance(asked, Raw) else (x, estimated)


# int index


def _row(plan: Recipe, index: int) -> Row:
    if isinstance(plan, Table):
        raise TypeError("a table needs an array index; pass the plan itself for an int index")
    if not 0 <= index < len(plan.rows):
        raise ValueError(
            f"the loop is over: index {index} of a plan with {len(plan.rows)} evaluations"
            if index >= 0
            else f"index must not be negative, got {index}"
        )
    return plan.rows[index]


def _values(
    backend: Backend,
    layout: Layout,
    row: Row,
    state: State,
    output: Array,
    z: Sequence[Array],
    given: Mapping[str, Array] | None,
) -> list[Any]:
    """Compute a row: every value by its number, those of other rows None."""
    sample = state.sample
    acc = backend.accumulation(sample.dtype)
    values: list[Any] = [None] * (layout.following + 1)
    mean = _mean(layout, sample, output)
    values[SAMPLE], values[OUTPUT] = sample, mean
    values[2 : layout.first_draw] = state.memory
    for (value, wanted), drawn in zip(row.draws, z, strict=True):
        if wanted.log_range is not None:
            drawn = drawn * _learned_std(backend, _variance(sample, output), *wanted.log_range)
        values[value] = drawn
    for k, name in enumerate(layout.given):
        values[layout.first_given + k] = given[name]  # type: ignore[index]
    if row.estimates:
        values[layout.estimate] = _estimate_x0(backend, layout, row.estimate, sample, mean, acc)
    for value, terms in row.statements:
        values[value] = backend.combine(
            [values[v] if region == EVERYWHERE else _masked(values[v], given, region) for v, _, region in terms],
            [c for _, c, _ in terms],
            acc,
        )
    return values


def _masked(value: Array, given: Mapping[str, Array] | None, region: int) -> Array:
    mask = given[MASK]  # type: ignore[index]
    return value * mask if region == INSIDE else value * (1 - mask)


def _mean(layout: Layout, sample: Array, output: Array) -> Array:
    if layout.prediction.variance_head and output.shape != sample.shape:
        return output[:, : sample.shape[1], ...]
    return output


def _variance(sample: Array, output: Array) -> Array:
    if output.shape == sample.shape:
        raise ValueError(
            f"a learned variance needs an output with twice the sample's channels, got the sample's shape {output.shape};"
            " use a fixed variance_type"
        )
    return output[:, sample.shape[1] :, ...]


def _learned_std(backend: Backend, v: Array, low: Any, high: Any) -> Array:
    """exp(log variance / 2), the log variance lying (v + 1) / 2 of the way from low to high (arXiv:2102.09672, eq. 15)."""
    return backend.xp.exp(v * (0.25 * (high - low)) + 0.25 * (high + low))


def _estimate_x0(
    backend: Backend, layout: Layout, numbers: Sequence[Any], sample: Array, mean: Array, dtype: Any
) -> Array:
    """x0 = skip x + out project(p x + q m), in `dtype`; numbers are floats or gathered arrays."""
    prediction = layout.prediction
    p, q, skip, out = numbers
    if not prediction.projects:
        return backend.combine([sample, mean], [skip + out * p, out * q], dtype)
    x0 = _project(backend, prediction, backend.combine([sample, mean], [p, q], dtype))
    if prediction.timestep_scaling is None:
        return x0
    return backend.combine([sample, x0], [skip, out], dtype)


def _project(backend: Backend, prediction: Any, x0: Array) -> Array:
    """Clip, or threshold dynamically (arXiv:2205.11487, section 2.3), or nothing."""
    if prediction.threshold is not None:
        xp = backend.xp
        ratio, largest = prediction.threshold
        shape = tuple(x0.shape)
        flat = xp.sort(xp.reshape(xp.abs(x0), (shape[0], math.prod(shape[1:]))), axis=1)
        place = ratio * (flat.shape[1] - 1)
        low = math.floor(place)
        high = min(low + 1, flat.shape[1] - 1)
        level = flat[:, low] * (1 - (place - low)) + flat[:, high] * (place - low)
        level = xp.reshape(xp.clip(level, 1.0, max(largest, 1.0)), (shape[0],) + (1,) * (len(shape) - 1))
        if largest < 1.0:
            level = xp.full_like(level, largest)
        return xp.minimum(xp.maximum(x0, -level), level) / level
    return x0 if prediction.clip is None else backend.clip(x0, -prediction.clip, prediction.clip)


# array index; these run inside jit


def _columns(backend: Backend, numbers: Array, state: State, axis: int = 1) -> Array:
    """Gather the columns of a table at the state's index, broadcast against the sample: (numbers, *index, 1, ...)."""
    xp, index = backend.xp, state.index
    if len(index.shape) > len(state.sample.shape):
        raise ValueError(f"index of shape {tuple(index.shape)} does not fit a sample of shape {state.sample.shape}")
    picked = xp.take(numbers, xp.reshape(index, (-1,)), axis=axis)
    ones = (1,) * (len(state.sample.shape) - len(index.shape))
    return xp.reshape(picked, (numbers.shape[0], *index.shape, *ones))


def _table_input(_: None, table: Table, state: State) -> tuple[Array, Array]:
    backend = resolve(state.sample)
    xp, index = backend.xp, state.index
    layout = table.layout
    column = _columns(backend, table.numbers[:2, ...], state)
    x = backend.combine([state.sample], [column[0, ...]], table.numbers.dtype)
    time = xp.reshape(column[1, ...], tuple(index.shape))
    if layout.integral:
        time = backend.astype(time, backend.default_int)
    return backend.astype(x, state.sample.dtype), time


def _gather_rows(plan: Recipe, state: State) -> Array:
    """Return the row number that each row of the batch is at, which names its draws."""
    backend = resolve(state.sample)
    table = plan if isinstance(plan, Table) else plan.on(state.sample)
    rows: Array = backend.xp.take(table.where[1, ...], backend.xp.reshape(state.index, (-1,)), axis=0)
    return backend.xp.reshape(rows, tuple(state.index.shape))


def _table_start(_: None, table: Table, noise: Array, x0: Array | None, z: Sequence[Array]) -> Array:
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


def _table_step(
    _: None, table: Table, state: State, output: Array, z: Sequence[Array], given: Mapping[str, Array] | None
) -> State:
    backend = resolve(state.sample)
    layout, sample = table.layout, state.sample
    acc, dtype = table.numbers.dtype, sample.dtype
    column = _columns(backend, table.numbers, state)
    mean = _mean(layout, sample, output)
    values: list[Any] = [None] * (layout.following + 1)
    values[SAMPLE], values[OUTPUT] = sample, mean
    values[2 : layout.first_draw] = state.memory
    at = 8
    for k, ((_, learned), drawn) in enumerate(zip(layout.draws, z, strict=True)):
        if learned:
            drawn = drawn * _learned_std(
                backend, backend.astype(_variance(sample, output), acc), column[at, ...], column[at + 1, ...]
            )
            at += 2
        values[layout.first_draw + k] = drawn
    for k, name in enumerate(layout.given):
        values[layout.first_given + k] = given[name]  # type: ignore[index]
    if layout.estimates:
        numbers = [column[i, ...] for i in range(2, 6)]
        values[layout.estimate] = _estimate_x0(backend, layout, numbers, sample, mean, acc)
    for value, sources in enumerate(layout.pattern, start=layout.raw):
        if sources:
            parts = [values[v] if region == EVERYWHERE else _masked(values[v], given, region) for v, region in sources]
            weights = [column[at + i, ...] for i in range(len(sources))]
            values[value] = backend.combine(parts, weights, acc)
        at += len(sources)
    index = state.index
    where = _columns(backend, table.where[:1, ...], state)[0, ...]
    following = backend.xp.reshape(where, tuple(index.shape))
    # a row past the end keeps its sample whatever the network says there: selected, not multiplied by zero
    ones = (1,) * (len(sample.shape) - len(index.shape))
    finished = backend.xp.reshape(following == index, (*index.shape, *ones))
    new = backend.astype(values[layout.following], dtype)
    memory = tuple(
        backend.astype(values[v], dtype) if v != SAMPLE else sample for v in layout.picks
    )
    return State(backend.where(finished, sample, new), memory, backend.astype(following, index.dtype))


def _table_estimate(_: None, table: Table, state: State, output: Array) -> Estimate:
    backend = resolve(state.sample)
    layout, sample = table.layout, state.sample
    acc = table.numbers.dtype
    column = _columns(backend, table.numbers, state)
    numbers = [column[i, ...] for i in range(2, 6)]
    x0 = _estimate_x0(backend, layout, numbers, sample, _mean(layout, sample, output), acc)
    alpha, sigma = column[6, ...], column[7, ...]
    eps = (backend.astype(sample, acc) - alpha * x0) / sigma
    v = (alpha * eps - sigma * x0) / backend.xp.sqrt(alpha * alpha + sigma * sigma)
    return Estimate(*(backend.astype(a, sample.dtype) for a in (x0, eps, v)))


# checks


def check_like(backend: Backend, sample: Array, name: str, x: Array) -> None:
    """Raise unless x is an array of the sample's framework, shape and device."""
    if resolve(x) is not backend:
        raise TypeError(
            f"{name} is an array of {resolve(x).name}, the sample one of {backend.name}; convert one of them"
        )
    if tuple(x.shape) != tuple(sample.shape):
        raise ValueError(f"{name} has shape {tuple(x.shape)}, the sample {tuple(sample.shape)}; they must be equal")
    here, there = backend.device(sample), backend.device(x)
    if here is not None and there is not None and here != there:
        raise ValueError(f"{name} is on {there}, the sample on {here}; move one of them")


def _check_output(backend: Backend, sample: Array, output: Array, layout: Layout) -> None:
    if layout.prediction.variance_head and len(sample.shape) > 1:
        shape = tuple(sample.shape)
        if tuple(output.shape) == (shape[0], 2 * shape[1], *shape[2:]) and resolve(output) is backend:
            return
    check_like(backend, sample, "output", output)


def _check_given(layout: Layout, given: Mapping[str, Array] | None) -> None:
    wanted = {*layout.given, *([MASK] if layout.masked else [])}
    have = set(given or {})
    if wanted != have:
        raise ValueError(f"given must have the arrays {sorted(wanted)}, got {sorted(have)}")


def _noise(
    backend: Backend, sample: Array, count: int, noise: Array | Sequence[Array] | None
) -> tuple[Array, ...]:
    """Return noise= as a tuple of `count` arrays like the sample."""
    if noise is None:
        if count:
            raise ValueError(
                "this step draws noise: pass rng= (an int, cmsched.Rng, a generator or key, a list with one per sample,"
                " or a callable), or noise=cmsched.draw(plan, state, rng)"
            )
        return ()
    drawn = tuple(noise) if isinstance(noise, tuple | list) else (noise,)
    if len(drawn) != count:
        rule = "draws none; leave noise out, cmsched.draw gives None" if not count else f"draws {count}"
        raise ValueError(f"noise has {len(drawn)} arrays, but this step {rule}")
    for z in drawn:
        check_like(backend, sample, "noise", z)
    return drawn


def _start_noise(layout: Layout, noise: Array, rng: Any, backend: Backend, plan: Recipe) -> tuple[Array, ...]:
    if not layout.start_draws:
        return ()
    if rng is None:
        raise ValueError("this plan draws noise before its first evaluation: pass rng= to init")
    return tuple(
        noise_source.standard_normal(rng, tuple(noise.shape), noise.dtype, noise, row=0, rank=rank)
        for rank in layout.start_draws
    )


def _device_index(plan: Recipe, noise: Array, backend: Backend) -> Array:
    table = plan if isinstance(plan, Table) else plan.on(noise)
    return table.where[0, 0] * 0


def _progress(count: int, show: bool) -> Any:
    if not show:
        return range(count)
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError('progress=True needs tqdm: pip install "cmsched[demo]", or pass progress=False') from None
    return tqdm(range(count))

