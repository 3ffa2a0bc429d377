"""Running a plan on arrays: pure functions over any framework.

`step` has two executions. With an int index it follows that row's own terms with Python floats
(eager code: no zero terms, nothing moves to the device). With an array index it gathers weights
from the plan's table (compiled code, and batches whose rows are at different steps). Nothing here
depends on the sampler.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import noise as noise_source
from . import samplers
from .backends import Backend, resolve
from .plan import EVERYWHERE, INSIDE, OUTPUT, SAMPLE, Layout, Plan, Row, Table
from .predictions import Prediction
from .samplers import Keep, Raw
from .schedules import Point
from .spacings import Walk
from .tracing import MASK

__all__ = [
    "Estimate",
    "State",
    "Transition",
    "check_like",
    "draw",
    "estimate",
    "estimate_x0",
    "init",
    "model_input",
    "run",
    "sample",
    "step",
    "transition",
]

Array = Any
Model = Callable[[Array, Array], Array]
Recipe = Plan | Table
FIRST_LEARNED = 8  # row of a table where learned ranges begin, then weights (see `row_numbers`)


class State(NamedTuple):
    """Where a loop stands: a pytree, picklable, storable, resumable."""

    sample: Array  # any shape, batch first; in the frame of the plan's schedule
    memory: tuple[Array, ...]  # the plan's stored arrays, each like sample
    index: Any  # evaluations done: an int, or integers of shape (), (batch,) or (batch, frames)


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
        plan: the plan, or its table (`plan.on(noise)`).
        noise: unit normals of the sample's shape, floating dtype and device.
        x0: a clean sample like noise: start from alpha x0 + sigma noise at the plan's first point
            (image to image).
        given: arrays the sampler asks for, {"image": ..., "mask": ...}.
        rng: where a plan that draws before its first evaluation takes its noise, see `draw`.
        index: 0, or an array of zeros, to choose the execution; by default an int, for JAX arrays
            and for tables an array.

    Raises:
        TypeError: noise is not a floating array, or x0 is of another framework.
        ValueError: another shape, device or dtype; missing rng.
    """
    layout = plan.check_traced()
    backend = _backend("noise", noise)
    backend.accumulation(noise.dtype)
    if x0 is not None:
        check_like(backend, noise, "x0", x0)
    _check_given(backend, noise, _wanted(layout), given)
    index = _first_index(plan, noise, backend, index)
    z = _start_noise(layout, noise, rng, backend)
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
    memory = tuple(backend.zeros_like(noise) for _ in layout.slots)
    return State(start, memory, index)


def model_input(plan: Recipe, state: State) -> tuple[Array, Array]:
    """Return what the network is given: the scaled sample, and the time.

    The time is an array of shape () or of the index, of the framework's default integer dtype where
    times are integral, otherwise float32 (float64 for a float64 sample).
    """
    index = state.index
    if type(index) is int:
        row = _row(plan, index)
        x = state.sample
        if row.point.scale != 1.0:
            backend = resolve(x)
            acc = backend.accumulation(x.dtype)
            if acc == x.dtype:
                x = x * row.point.scale
            else:
                x = backend.astype(backend.combine([x], [row.point.scale], acc), x.dtype)
        return x, plan.time_on(state.sample, index)  # type: ignore[union-attr]
    backend = resolve(state.sample)
    table = plan if isinstance(plan, Table) else plan.on(state.sample)
    x, t = backend.execute(_table_input, None, table, state)
    return x, t


def draw(plan: Recipe, state: State, rng: Any) -> tuple[Array, ...] | None:
    """Return the unit normals this step needs, one array per draw, or None if it needs none.

    Args:
        plan: the plan, or its table.
        state: what `init` or `step` returned.
        rng: an int or `Rng` (the same noise on every framework, device and batch split), a native
            generator or key, a list with one per sample, or a callable (shape, dtype, interval).

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
        row = None
    if not wanted:
        return None
    if rng is None:
        raise ValueError(
            "this step draws noise: pass rng= (an int, cmsched.Rng, a generator or key, a list with"
            " one per sample, or a callable), or noise=cmsched.draw(plan, state, rng)"
        )
    if row is None:
        if len(index.shape) > 1:
            raise ValueError(
                f"index has shape {tuple(index.shape)}, but a draw is numbered per row of the"
                " batch: pass noise= yourself, or use an index of shape () or (batch,)"
            )
        backend = resolve(sample)
        table = plan if isinstance(plan, Table) else plan.on(sample)
        row = backend.execute(_table_rows, None, table, state)
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
    """Return the state after the network's output: one linear combination per stored result.

    Args:
        plan: the plan, or its table.
        state: what `init` or `step` returned; it is not changed.
        output: the network's output at `model_input(plan, state)`, like the sample (with twice its
            channels if the prediction has a variance head).
        rng: see `draw`; not used by steps that draw nothing.
        noise: the draws themselves, one array or a tuple.
        given: the arrays that `init` got.

    Raises:
        TypeError: output of another framework, or not floating.
        ValueError: output of another shape or device; missing or superfluous noise; an int index
            past the end (an array index stays there, and nothing changes).
    """
    sample, index = state.sample, state.index
    backend = resolve(sample)
    layout = plan.check_traced()
    if len(state.memory) != len(layout.slots):
        raise ValueError(
            f"the state holds {len(state.memory)} stored arrays, this plan's are {layout.slots};"
            " states pass between plans only when these agree"
        )
    mean = output
    if (
        type(output) is not type(sample)
        or output.shape != sample.shape
        or output.dtype is not sample.dtype
    ):
        _check_output(backend, sample, output, layout.prediction)
        mean = _mean(layout.prediction, sample, output)
        if mean.dtype != sample.dtype:
            mean = backend.astype(mean, backend.accumulation(sample.dtype))
    elif backend.device(output) != backend.device(sample):
        check_like(backend, sample, "output", output)
    if layout.given or layout.masked or given:
        given = _check_given(backend, sample, _wanted(layout), given)
    if rng is not None and noise is not None:
        raise ValueError("pass either rng or noise, not both")
    row = _row(plan, index) if type(index) is int else None
    draws = layout.draws if row is None else row.draws
    z: Sequence[Array] = ()
    if noise is not None:
        z = _checked_noise(backend, sample, len(draws), noise)
    elif draws:
        z = draw(plan, state, rng) or ()
    if row is None:
        table = plan if isinstance(plan, Table) else plan.on(sample)
        return backend.execute(_table_step, None, table, state, output, z, given)  # type: ignore[no-any-return]
    dtype = sample.dtype
    acc = backend.accumulation(dtype)
    values = [sample, mean, *state.memory, *layout.blank]
    if z:
        for (value, wanted), drawn in zip(row.draws, z, strict=True):
            if wanted.log_range is not None:
                variance = _variance(backend, sample, output)
                std = _learned_std(backend, variance, *wanted.log_range)
                drawn = drawn * std
            values[value] = drawn
    if given:
        for k, name in enumerate(layout.given):
            values[layout.first_given + k] = given[name]
    if row.estimates and layout.prediction.projects:
        values[layout.estimate] = _estimate_x0(backend, layout, row.estimate, sample, mean, acc)
    kernel = plan.kernel(backend, index) if acc == dtype else None  # type: ignore[union-attr]
    if kernel is not None and backend.plain(sample):
        following, memory = kernel(values)
        return State(following, memory, index + 1)
    for value, sources, weights, regions in row.program:
        parts = [values[v] for v in sources]
        if regions is not None:
            parts = [_masked(v, given, r) for v, r in zip(parts, regions, strict=True)]
        values[value] = backend.combine(parts, weights, acc)
    if acc != dtype:
        values = [v if v is None or v.dtype == dtype else backend.astype(v, dtype) for v in values]
    memory = tuple([values[v] for v in row.picks]) if row.picks else ()
    return State(values[layout.following], memory, index + 1)


def estimate(
    plan: Recipe, state: State, output: Array, *, given: Mapping[str, Array] | None = None
) -> Estimate:
    """Return x0 (after projection), eps and v that the output implies, arrays like the sample.

    v is a eps - s x0 in the frame the network sees, divided by sqrt(a^2 + s^2).
    """
    sample = state.sample
    backend = resolve(sample)
    layout = plan.check_traced()
    _check_output(backend, sample, output, layout.prediction)
    if layout.given or layout.masked or given:
        _check_given(backend, sample, _wanted(layout), given)
    if type(state.index) is not int:
        table = plan if isinstance(plan, Table) else plan.on(sample)
        return backend.execute(_table_estimate, None, table, state, output)  # type: ignore[no-any-return]
    row = _row(plan, state.index)
    acc = backend.accumulation(sample.dtype)
    mean = _mean(layout.prediction, sample, output)
    x0 = _estimate_x0(backend, layout, row.estimate, sample, mean, acc)
    at, size = row.point, math.hypot(row.point.alpha, row.point.sigma)
    if at.sigma == 0.0:
        raise ValueError(f"index {state.index} is at sigma = 0, where eps and v are not determined")
    eps = backend.combine([sample, x0], [1 / at.sigma, -at.alpha / at.sigma], acc)
    v = backend.combine([eps, x0], [at.alpha / size, -at.sigma / size], acc)
    return Estimate(*(backend.astype(a, sample.dtype) for a in (x0, eps, v)))


def estimate_x0(plan: Plan, index: int, sample: Array, output: Array) -> Array:
    """Return only x0 of `estimate`, for an int index."""
    backend = resolve(sample)
    layout = plan.check_traced()
    acc = backend.accumulation(sample.dtype)
    mean = _mean(layout.prediction, sample, output)
    x0 = _estimate_x0(backend, layout, plan.rows[index].estimate, sample, mean, acc)
    return backend.astype(x0, sample.dtype)


class Transition(NamedTuple):
    """The distribution of the next sample: normal, the same or another std in every element."""

    mean: Array
    std: Any  # a float, or an array that broadcasts to the mean (array index, learned variance)

    def log_prob(self, next_sample: Array) -> Array:
        """Return the log density of a next sample, summed over all axes but the first."""
        backend = resolve(self.mean)
        check_like(backend, self.mean, "next_sample", next_sample)
        if isinstance(self.std, float) and self.std == 0.0:
            raise ValueError(
                "this step draws no noise (std = 0), so its next sample has no density"
            )
        xp, acc = backend.xp, backend.accumulation(self.mean.dtype)
        off = (backend.astype(next_sample, acc) - backend.astype(self.mean, acc)) / self.std
        log_std = math.log(self.std) if isinstance(self.std, float) else xp.log(self.std)
        density = -0.5 * (off * off) - (log_std + 0.5 * math.log(2 * math.pi))
        axes = tuple(range(1, len(density.shape)))
        return xp.sum(density, axis=axes) if axes else density


def transition(
    plan: Recipe, state: State, output: Array, *, given: Mapping[str, Array] | None = None
) -> Transition:
    """Return mean and standard deviation of the sample that `step` makes of random noise."""
    sample, index, layout = state.sample, state.index, plan.check_traced()
    backend = resolve(sample)
    row = _row(plan, index) if type(index) is int else None
    zero = backend.zeros_like(sample)
    zeros = tuple([zero] * len(layout.draws if row is None else row.draws))
    mean = step(plan, state, output, noise=zeros or None, given=given).sample
    if not zeros:
        return Transition(mean, 0.0)
    given = _check_given(backend, sample, _wanted(layout), given)
    if row is None:
        table = plan if isinstance(plan, Table) else plan.on(sample)
        std = backend.execute(_table_std, None, table, state, output, given)
        return Transition(mean, std)
    draws = [(value, drawn.log_range) for value, drawn in row.draws]
    return Transition(mean, _std(backend, layout, sample, output, draws, row.statements, given))


def _std(
    backend: Backend,
    layout: Layout,
    sample: Array,
    output: Array,
    draws: Sequence[tuple[int, tuple[Any, Any] | None]],
    statements: Iterable[tuple[int, Iterable[tuple[int, Any, int]]]],
    given: Mapping[str, Array],
) -> Any:
    """Root of the sum of squares of what the draws (number, learned range) have as coefficients."""
    total: Any = 0.0
    for draw_number, log_range in draws:
        own: Any = 1.0
        if log_range is not None:
            own = _learned_std(backend, _variance(backend, sample, output), *log_range)
        reached = {draw_number: own}
        for value, terms in statements:
            parts = [_masked(c * reached[v], given, r) for v, c, r in terms if v in reached]
            if parts:
                reached[value] = sum(parts)
        coefficient = reached.get(layout.following, 0.0)
        total = total + coefficient * coefficient
    return math.sqrt(total) if isinstance(total, float) else backend.xp.sqrt(total)


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

    A Python loop on concrete arrays. Traced by JAX it is a `scan` (on CPU a scan around a
    convolutional network can be 20 times slower than unrolling), or a loop written out with
    `unroll=True`.

    Args:
        model: `model(x, t) -> output`.
        plan: the plan, or its table.
        noise: see `init`.
        x0: see `init`.
        given: see `init`.
        rng: see `draw`.
        callback: called as `callback(i, state, x0)` after evaluation i, with the state before the
            step.
        progress: show a bar (needs tqdm).
        unroll: write the loop out where JAX traces it.

    Raises:
        ValueError: callback or progress inside a trace.
    """
    if isinstance(plan, Plan) and plan.layout is None:
        return run(
            model, plan, noise, x0=x0, given=given, rng=rng, callback=callback, progress=progress
        )
    backend = _backend("noise", noise)
    traced = backend.traced(noise, x0, plan.numbers if isinstance(plan, Table) else None)
    if traced and (callback is not None or progress):
        raise ValueError(
            "callback and progress need concrete arrays; call sample outside jit, or remove them"
        )
    index = 0 if traced and unroll and isinstance(plan, Plan) else None
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
        if backend.traced(output):
            raise ValueError(
                "callback needs concrete arrays; call sample outside jit, or remove it"
            )
        if isinstance(plan, Plan) and type(state.index) is int:
            x0 = estimate_x0(plan, state.index, state.sample, output)
        else:
            x0 = estimate(plan, state, output, given=given).x0
        callback(i, state, x0)
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
    """Return the sample, running the sampler's own loop on arrays; arguments as in `sample`.

    The reference path, and the only one for samplers whose control flow depends on data. The loop's
    arrays have the accumulation dtype, the network's the sample's.
    """
    if not isinstance(plan, Plan):
        raise TypeError("run executes the sampler itself: pass the plan, not its table")
    backend = _backend("noise", noise)
    dtype, acc = noise.dtype, backend.accumulation(noise.dtype)
    entry = samplers.get(plan.sampler)
    prediction, grid = plan.prediction, plan.grid
    if x0 is not None:
        check_like(backend, noise, "x0", x0)
    _check_given(backend, noise, set(entry.given), given)
    evaluation, rank = -1, -1
    x: Array = noise
    output: Array = noise

    def noise_of(
        a: Point | None = None,
        b: Point | None = None,
        *,
        log_range: tuple[float, float] | None = None,
    ) -> Array:
        nonlocal rank
        rank += 1
        if rng is None:
            raise ValueError("this sampler draws noise: pass rng=")
        interval = None if a is None or b is None else (a.lam, b.lam)
        shape, row = tuple(noise.shape), evaluation + 1
        z = noise_source.standard_normal(
            rng, shape, dtype, noise, row=row, rank=rank, interval=interval
        )
        z = backend.astype(z, acc)
        if log_range is None:
            return z
        return z * _learned_std(backend, _variance(backend, noise, output), *log_range)

    first = grid.points[0]
    x = backend.astype(noise, acc)
    if x0 is None:
        x = x * grid.init_scale
    else:
        x = backend.astype(x0, acc) * first.alpha + x * first.sigma
    arrays = {name: backend.astype(array, acc) for name, array in (given or {}).items()}
    loop = entry.loop(x, Walk(grid), noise_of, **arrays, **plan.options)
    bar = iter(_progress(len(plan) or len(grid), progress))
    reply: Any = None
    while True:
        try:
            asked = loop.send(reply)
        except StopIteration as end:
            for _ in bar:  # let it finish its line
                pass
            return backend.astype(end.value, dtype)
        if isinstance(asked, Keep):
            reply = asked.x
            continue
        x, at = asked
        evaluation, rank = evaluation + 1, -1
        next(bar, None)
        time = backend.put(np.asarray(at.t), noise, backend.default_int if grid.integral else acc)
        output = model(backend.astype(x * at.scale if at.scale != 1.0 else x, dtype), time)
        _check_output(backend, noise, output, prediction)
        p, q = prediction.linear(at)
        skip, out = prediction.boundary(at)
        raw = x * p + backend.astype(_mean(prediction, noise, output), acc) * q
        estimated = _project(backend, prediction, raw)
        if (skip, out) != (0.0, 1.0):
            raw, estimated = x * skip + raw * out, x * skip + estimated * out
        if callback is not None:
            state = State(backend.astype(x, dtype), (), evaluation)
            callback(evaluation, state, backend.astype(estimated, dtype))
        reply = (x, estimated, raw) if isinstance(asked, Raw) else (x, estimated)


# int index


def _row(plan: Recipe, index: int) -> Row:
    """Return the row at an int index, or say why there is none."""
    if isinstance(plan, Table):
        raise TypeError("a table needs an array index; pass the plan itself for an int index")
    rows = plan.rows
    if 0 <= index < len(rows):
        return rows[index]
    raise ValueError(
        f"the loop is over: index {index} of a plan with {len(rows)} evaluations"
        if index >= 0
        else f"index must not be negative, got {index}"
    )


def _masked(value: Array, given: Mapping[str, Array] | None, region: int) -> Array:
    if region == EVERYWHERE:
        return value
    mask = given[MASK]  # type: ignore[index]
    return value * mask if region == INSIDE else value * (1 - mask)


def _mean(prediction: Prediction, sample: Array, output: Array) -> Array:
    if prediction.variance_head and output.shape != sample.shape:
        return output[:, : sample.shape[1], ...]
    return output


def _variance(backend: Backend, sample: Array, output: Array) -> Array:
    """Return the variance channels of an output, in the accumulation dtype."""
    if output.shape == sample.shape:
        raise ValueError(
            "a learned variance needs an output with twice the sample's channels, got the sample's"
            f" shape {tuple(output.shape)}; use a fixed variance_type"
        )
    variance = output[:, sample.shape[1] :, ...]
    return backend.astype(variance, backend.accumulation(sample.dtype))


def _learned_std(backend: Backend, v: Array, low: Any, high: Any) -> Array:
    """Return exp(log variance / 2), at (v + 1) / 2 from low to high (arXiv:2102.09672, eq. 15)."""
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
    shape = tuple(x0.shape)
    if prediction.threshold is not None and 0 not in shape:
        xp = backend.xp
        ratio, largest = prediction.threshold
        flat = xp.reshape(xp.abs(x0), (shape[0] if shape else 1, math.prod(shape[1:])))
        flat = xp.sort(flat, axis=1)
        place = ratio * (flat.shape[1] - 1)
        low = math.floor(place)
        high = min(low + 1, flat.shape[1] - 1)
        level = flat[:, low] * (1 - (place - low)) + flat[:, high] * (place - low)
        level = xp.reshape(
            xp.clip(level, 1.0, max(largest, 1.0)), shape[:1] + (1,) * (len(shape) - 1)
        )
        if largest < 1.0:
            level = xp.full_like(level, largest)
        return xp.minimum(xp.maximum(x0, -level), level) / level
    return x0 if prediction.clip is None else backend.clip(x0, -prediction.clip, prediction.clip)


# array index; these run inside jit


def _columns(backend: Backend, numbers: Array, state: State) -> Array:
    """Gather a table's columns at the state's index: (numbers, *index, 1, ...), as the sample."""
    xp, index = backend.xp, state.index
    _check_index(backend, state.sample, index)
    picked = xp.take(numbers, xp.reshape(index, (-1,)), axis=1)
    ones = (1,) * (len(state.sample.shape) - len(index.shape))
    return xp.reshape(picked, (numbers.shape[0], *index.shape, *ones))


def _table_input(_: None, table: Table, state: State) -> tuple[Array, Array]:
    backend = resolve(state.sample)
    xp, index = backend.xp, state.index
    layout = table.layout
    column = _columns(backend, table.numbers[:2, ...], state)
    x = state.sample
    if layout.scaled:
        x = backend.combine([x], [column[0, ...]], table.numbers.dtype)
    time = xp.reshape(column[1, ...], tuple(index.shape))
    if layout.integral:
        time = backend.astype(time, backend.default_int)
    return backend.astype(x, state.sample.dtype), time


def _table_rows(_: None, table: Table, state: State) -> Array:
    """Return the row number that each row of the batch is at, which names its draws."""
    backend = resolve(state.sample)
    rows = _columns(backend, table.where[1:, ...], state)
    return backend.xp.reshape(rows, tuple(state.index.shape))


def _table_start(
    _: None, table: Table, noise: Array, x0: Array | None, z: Sequence[Array]
) -> Array:
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
    _: None,
    table: Table,
    state: State,
    output: Array,
    z: Sequence[Array],
    given: Mapping[str, Array] | None,
) -> State:
    backend = resolve(state.sample)
    layout, sample = table.layout, state.sample
    acc, dtype = table.numbers.dtype, sample.dtype
    column = _columns(backend, table.numbers, state)
    mean = _mean(layout.prediction, sample, output)
    values: list[Any] = [None] * (layout.following + 1)
    values[SAMPLE], values[OUTPUT] = sample, mean
    values[2 : layout.first_draw] = state.memory
    at = FIRST_LEARNED
    for k, ((_rank, learned), drawn) in enumerate(zip(layout.draws, z, strict=True)):
        if learned:
            variance = _variance(backend, sample, output)
            drawn = drawn * _learned_std(backend, variance, column[at, ...], column[at + 1, ...])
            at += 2
        values[layout.first_draw + k] = drawn
    for k, name in enumerate(layout.given):
        values[layout.first_given + k] = given[name]  # type: ignore[index]
    if layout.estimates:
        numbers = [column[i, ...] for i in range(2, 6)]
        values[layout.estimate] = _estimate_x0(backend, layout, numbers, sample, mean, acc)
    for value, sources in enumerate(layout.pattern, start=layout.raw):
        if sources:
            parts = [_masked(values[v], given, region) for v, region in sources]
            weights = [column[at + i, ...] for i in range(len(sources))]
            values[value] = backend.combine(parts, weights, acc)
        at += len(sources)
    index = state.index
    where = _columns(backend, table.where[:1, ...], state)[0, ...]
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


def _table_estimate(_: None, table: Table, state: State, output: Array) -> Estimate:
    backend = resolve(state.sample)
    layout, sample = table.layout, state.sample
    acc = table.numbers.dtype
    column = _columns(backend, table.numbers, state)
    numbers = [column[i, ...] for i in range(2, 6)]
    mean = _mean(layout.prediction, sample, output)
    x0 = _estimate_x0(backend, layout, numbers, sample, mean, acc)
    alpha, sigma = column[6, ...], column[7, ...]
    eps = (backend.astype(sample, acc) - alpha * x0) / sigma
    v = (alpha * eps - sigma * x0) / backend.xp.sqrt(alpha * alpha + sigma * sigma)
    return Estimate(*(backend.astype(a, sample.dtype) for a in (x0, eps, v)))


def _table_std(
    _: None, table: Table, state: State, output: Array, given: Mapping[str, Array]
) -> Array:
    backend = resolve(state.sample)
    layout = table.layout
    column = _columns(backend, table.numbers, state)
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
    return _std(backend, layout, state.sample, output, draws, statements, given)


# checks


def check_like(backend: Backend, sample: Array, name: str, x: Array) -> None:
    """Raise unless x is a floating array of the sample's framework, shape and device."""
    _check_kind(backend, sample, name, x)
    if tuple(x.shape) != tuple(sample.shape):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, the sample {tuple(sample.shape)}: they must be"
            " equal (broadcasting would hide a mistake)"
        )


def _backend(name: str, x: Array) -> Backend:
    """Return the backend of an argument, or raise naming it."""
    try:
        return resolve(x)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _check_kind(backend: Backend, sample: Array, name: str, x: Array) -> None:
    """Raise unless x is a floating array of the sample's framework and device."""
    if (other := _backend(name, x)) is not backend:
        raise TypeError(
            f"{name} is an array of {other.name}, the sample one of {backend.name}: convert one"
        )
    try:
        backend.accumulation(x.dtype)
    except TypeError:
        raise TypeError(
            f"{name} has dtype {x.dtype}, the sample {sample.dtype}: convert it to a floating dtype"
        ) from None
    here, there = backend.device(sample), backend.device(x)
    if here is not None and there is not None and here != there:
        raise ValueError(f"{name} is on {there}, the sample on {here}: move one of them")


def _check_output(backend: Backend, sample: Array, output: Array, prediction: Prediction) -> None:
    """Raise unless output is like the sample, or has twice its channels for a variance head."""
    _check_kind(backend, sample, "output", output)
    shape, found = tuple(sample.shape), tuple(output.shape)
    if found == shape:
        return
    twice = (shape[0], 2 * shape[1], *shape[2:]) if len(shape) > 1 else shape
    if not prediction.variance_head or found != twice:
        also = f" or {twice}" if prediction.variance_head else ""
        raise ValueError(
            f"output has shape {found}, the sample {shape}: they must be equal{also} (broadcasting"
            " would hide a mistake)"
        )


def _wanted(layout: Layout) -> set[str]:
    return {*layout.given, *([MASK] if layout.masked else [])}


def _check_given(
    backend: Backend, sample: Array, wanted: set[str], given: Mapping[str, Array] | None
) -> dict[str, Array]:
    """Return given, the mask in the accumulation dtype; raise unless it holds what is wanted."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f'given must be a mapping such as {{"image": array}}, got {type(given)}')
    have = dict(given or {})
    if wanted != set(have):
        raise ValueError(
            f"given must hold the arrays {sorted(wanted)} of this sampler, got {sorted(have)}"
        )
    for name, x in have.items():
        if name != MASK:
            check_like(backend, sample, f"given[{name!r}]", x)
            have[name] = backend.astype(x, sample.dtype)
            continue
        _check_kind(backend, sample, "given['mask']", x)
        shape, fits = tuple(x.shape), tuple(sample.shape)
        pairs = zip(shape[::-1], fits[::-1], strict=False)
        if len(shape) > len(fits) or not all(m in (1, n) for m, n in pairs):
            raise ValueError(
                f"given['mask'] has shape {shape}, which does not broadcast to the sample's {fits}"
            )
        have[name] = backend.astype(x, backend.accumulation(sample.dtype))
    return have


def _check_index(backend: Backend, sample: Array, index: Array) -> None:
    """Raise unless index is an array whose shape begins the sample's."""
    shape, fits = tuple(index.shape), tuple(sample.shape)
    if shape != fits[: len(shape)]:
        raise ValueError(
            f"index has shape {shape}, which does not begin the sample's {fits}: use (), (batch,)"
            " or (batch, frames)"
        )


def _first_index(plan: Recipe, noise: Array, backend: Backend, index: Any) -> Any:
    """Return the index a loop starts with: 0, or an array."""
    if index is None:
        if not isinstance(plan, Table) and not backend.index_on_device:
            return 0
        return backend.put(np.zeros((), np.int32), noise)
    if isinstance(index, int):
        if isinstance(plan, Table):
            raise TypeError("a table needs an array index; pass the plan itself for an int index")
        if index != 0 or isinstance(index, bool):
            raise ValueError(
                f"index={index!r}: a loop starts at 0; plan.skip(k) starts it at a later grid step"
            )
        return 0
    if _backend("index", index) is not backend or "int" not in backend.dtype_name(index.dtype):
        raise TypeError(
            f"index must be an int or an integer array of {backend.name}, got"
            f" {type(index).__name__} of dtype {index.dtype}"
        )
    _check_index(backend, noise, index)
    return index


def _checked_noise(
    backend: Backend, sample: Array, count: int, noise: Array | Sequence[Array]
) -> tuple[Array, ...]:
    """Return noise= as a tuple of `count` arrays like the sample."""
    drawn = tuple(noise) if isinstance(noise, tuple | list) else (noise,)
    if len(drawn) != count:
        rule = (
            f"draws {count}" if count else "draws none: leave noise out (cmsched.draw gives None)"
        )
        raise ValueError(f"noise has {len(drawn)} arrays, but this step {rule}")
    for z in drawn:
        check_like(backend, sample, "noise", z)
    return tuple(backend.astype(z, sample.dtype) for z in drawn)


def _start_noise(layout: Layout, noise: Array, rng: Any, backend: Backend) -> tuple[Array, ...]:
    if not layout.start_draws:
        return ()
    if rng is None:
        raise ValueError("this plan draws noise before its first evaluation: pass rng= to init")
    return tuple(
        noise_source.standard_normal(rng, tuple(noise.shape), noise.dtype, noise, row=0, rank=rank)
        for rank in layout.start_draws
    )


def _progress(count: int, show: bool) -> Any:
    if not show:
        return range(count)
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError(
            'progress=True needs tqdm: pip install "cmsched[demo]", or pass progress=False'
        ) from None
    return tqdm(range(count))
