"""Running a plan on arrays: pure functions over any framework.

`step` has two executions. With an int index it follows that row's own terms with Python floats
(eager code: no zero terms, nothing moves to the device). With an array index it gathers weights
from the plan's table (compiled code, and batches whose rows are at different steps). Nothing here
depends on the sampler.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import noise as noise_source
from .. import samplers
from .._messages import choose
from ..backends import Backend, resolve
from ..plan import Plan
from ..samplers import Keep, Raw, Report, Size
from ..schedules import Point
from ..spacings import Walk
from ..tables import Layout, Row, Stack, Table
from .batches import join, take
from .checks import (
    backend_of,
    check_given,
    check_index,
    check_like,
    check_output,
    checked_noise,
    given_names,
)
from .rows import (
    Estimate,
    State,
    estimated,
    learned_std,
    masked,
    mean_channels,
    project,
    root_of_squares,
    scaled,
    size_of,
    variance_channels,
)
from .table import (
    stepped,
    table_begins,
    table_estimate,
    table_input,
    table_rows,
    table_start,
    table_std,
)

__all__ = [
    "Estimate",
    "State",
    "Transition",
    "check_like",
    "draw",
    "estimate",
    "estimate_x0",
    "init",
    "join",
    "model_input",
    "run",
    "sample",
    "scaled",
    "step",
    "take",
    "transition",
]

Array = Any
Model = Callable[[Array, Array], Array]
Recipe = Plan | Stack | Table


def init(
    recipe: Recipe,
    noise: Array,
    /,
    *,
    x0: Array | None = None,
    given: Mapping[str, Array] | None = None,
    rng: Any = None,
    index: Any = None,
    plan: Any = None,
) -> State:
    """Return the state before the first evaluation.

    Args:
        recipe: the plan, its table (`plan.on(noise)`), or a stack of plans.
        noise: unit normals of the sample's shape, floating dtype and device.
        x0: a clean sample like noise: start from alpha x0 + sigma noise at the plan's first point
            (image to image).
        given: arrays the sampler asks for, {"image": ..., "mask": ...}.
        rng: where a plan that draws before its first evaluation takes its noise, see `draw`.
        index: 0, or an array of zeros, to choose the execution; by default an int, for JAX arrays,
            tables and stacks an array.
        plan: which plan of a stack each row runs: integers of shape (batch,), (batch, frames) or
            (). Integers on the host are checked, an array on a device is not looked at.

    Raises:
        TypeError: noise is not a floating array, or x0 is of another framework.
        ValueError: another shape, device or dtype; missing rng; no such plan in the stack.
    """
    layout = recipe.check_traced()
    backend = backend_of("noise", noise)
    backend.accumulation(noise.dtype)
    if x0 is not None:
        check_like(backend, noise, "x0", x0)
    check_given(backend, noise, given_names(layout), given)
    index = _first_index(recipe, noise, backend, index, plan)
    z = _start_noise(layout, noise, rng, backend)
    if not isinstance(index, int):
        table = recipe if isinstance(recipe, Table) else recipe.on(noise)
        start = backend.execute(table_start, None, table, index, noise, x0, z)
    else:
        assert isinstance(recipe, Plan)
        first = recipe.grid.points[0]
        acc = backend.accumulation(noise.dtype)
        if x0 is None:
            start = backend.combine([noise], [recipe.grid.init_scale], acc)
        else:
            start = backend.combine([x0, noise], [first.alpha, first.sigma], acc)
        if z:
            values = [start, *z]
            terms = recipe.start.terms
            start = backend.combine([values[v] for v, _, _ in terms], [c for _, c, _ in terms], acc)
        start = backend.astype(start, noise.dtype)
    memory = tuple(backend.zeros_like(noise) for _ in layout.slots)
    return State(start, memory, index)


def model_input(plan: Recipe, state: State) -> tuple[Array, Array]:
    """Return what the network is given: the scaled sample, and the time.

    The network must not write into them: where nothing is scaled the first is the state's own
    sample, and the time is kept by the plan.

    The time is an array of shape () or of the index, of the framework's default integer dtype where
    times are integral, otherwise float32 (float64 for a float64 sample).
    """
    index = state.index
    if type(index) is int:
        x, row = state.sample, _row(plan, index)
        time = plan.time_on(x, index)  # type: ignore[union-attr]
        return scaled(resolve(x), x, row.point.scale), time
    backend = resolve(state.sample)
    table = plan if isinstance(plan, Table) else plan.on(state.sample)
    x, t = backend.execute(table_input, None, table, state)
    return state.sample if x is None else x, t


def draw(plan: Recipe, state: State, rng: Any) -> tuple[Array, ...] | None:
    """Return the unit normals this step needs, one array per draw, or None if it needs none.

    Args:
        plan: the plan, its table, or a stack of plans.
        state: what `init` or `step` returned.
        rng: an int or `Rng` (the same noise on every framework, device and batch split), a native
            generator or key, a list with one per sample, or a callable (shape, dtype, interval).

    Raises:
        ValueError: rng is None and the step draws.
    """
    sample, index = state.sample, state.index
    on_host = type(index) is int
    draws: Sequence[Any] = _row(plan, index).draws if on_host else plan.check_traced().draws
    if not draws:
        return None
    if rng is None:
        raise ValueError(
            "this step draws noise: pass rng= (an int, cmsched.Rng, a generator or key, a list with"
            " one per sample, or a callable), or noise=cmsched.draw(plan, state, rng)"
        )
    each: list[dict[str, Any]]
    if on_host:
        each = [{"row": index + 1, "rank": d.rank, "interval": d.interval} for _, d in draws]
    else:
        table = plan if isinstance(plan, Table) else plan.on(sample)
        row, *times = resolve(sample).execute(table_rows, None, table, state)
        each = [
            {"row": row, "rank": rank, "times": (times[2 * k], times[2 * k + 1])}
            for k, (rank, _) in enumerate(draws)
        ]
    return tuple(
        noise_source.standard_normal(rng, tuple(sample.shape), sample.dtype, sample, **one)
        for one in each
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
        plan: the plan, its table, or a stack of plans.
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
        check_output(backend, sample, output, layout.prediction)
        mean = mean_channels(layout.prediction, sample, output)
        if mean.dtype != sample.dtype:
            mean = backend.astype(mean, backend.accumulation(sample.dtype))
    elif backend.device(output) != backend.device(sample):
        check_like(backend, sample, "output", output)
    if layout.given or layout.masked or given:
        given = check_given(backend, sample, given_names(layout), given)
    if rng is not None and noise is not None:
        raise ValueError("pass either rng or noise, not both")
    row = _row(plan, index) if type(index) is int else None
    draws = layout.draws if row is None else row.draws
    z: Sequence[Array] = ()
    if noise is not None:
        z = checked_noise(backend, sample, len(draws), noise)
    elif draws:
        z = draw(plan, state, rng) or ()
    if row is None:
        table = plan if isinstance(plan, Table) else plan.on(sample)
        return stepped(table, state, output, z, given)
    dtype = sample.dtype
    acc = backend.accumulation(dtype)
    values = [sample, mean, *state.memory, *layout.blank]
    if z:
        for (value, wanted), drawn in zip(row.draws, z, strict=True):
            if wanted.log_range is not None:
                variance = variance_channels(backend, sample, output)
                std = learned_std(backend, variance, *wanted.log_range)
                drawn = drawn * std
            values[value] = drawn
    if given:
        for k, name in enumerate(layout.given):
            values[layout.first_given + k] = given[name]
    if row.estimates and layout.prediction.projects:
        values[layout.estimate] = estimated(backend, layout, row.estimate, sample, mean, acc)
    kernel = plan.kernel(backend, index, dtype) if acc == dtype else None  # type: ignore[union-attr]
    if kernel is not None and backend.plain(sample) and (done := kernel(values)) is not None:
        return State(done[0], done[1], index + 1)
    for value, sources, weights, regions in row.program:
        parts = [values[v] for v in sources]
        if regions is not None:
            parts = [masked(v, given, r) for v, r in zip(parts, regions, strict=True)]
        values[value] = backend.combine(parts, weights, acc)
    if acc != dtype:
        values = [v if v is None or v.dtype == dtype else backend.astype(v, dtype) for v in values]
    memory = tuple([values[v] for v in row.picks]) if row.picks else ()
    return State(values[layout.following], memory, index + 1)


def estimate(
    plan: Recipe, state: State, output: Array, *, given: Mapping[str, Array] | None = None
) -> Estimate:
    """Return x0 (after projection), eps and v that the output implies, arrays like the sample.

    Where sigma is 0, x0 is the sample, and eps is what the output says, whatever is projected.
    v is a eps - s x0 in the frame the network sees, divided by sqrt(a^2 + s^2).
    """
    sample = state.sample
    backend = resolve(sample)
    layout = plan.check_traced()
    check_output(backend, sample, output, layout.prediction)
    if layout.given or layout.masked or given:
        check_given(backend, sample, given_names(layout), given)
    if type(state.index) is not int:
        table = plan if isinstance(plan, Table) else plan.on(sample)
        return backend.execute(table_estimate, None, table, state, output)  # type: ignore[no-any-return]
    row = _row(plan, state.index)
    acc = backend.accumulation(sample.dtype)
    mean = mean_channels(layout.prediction, sample, output)
    x0 = estimated(backend, layout, row.estimate, sample, mean, acc)
    at, size = row.point, math.hypot(row.point.alpha, row.point.sigma)
    if at.sigma > 0.0:
        eps = backend.combine([sample, x0], [1 / at.sigma, -at.alpha / at.sigma], acc)
    else:
        eps = backend.combine([sample, mean], layout.prediction.noise(at), acc)
    v = backend.combine([eps, x0], [at.alpha / size, -at.sigma / size], acc)
    return Estimate(*(backend.astype(a, sample.dtype) for a in (x0, eps, v)))


def estimate_x0(plan: Plan, index: int, sample: Array, output: Array) -> Array:
    """Return only x0 of `estimate`, for an int index."""
    backend = resolve(sample)
    layout = plan.check_traced()
    acc = backend.accumulation(sample.dtype)
    mean = mean_channels(layout.prediction, sample, output)
    x0 = estimated(backend, layout, plan.rows[index].estimate, sample, mean, acc)
    return backend.astype(x0, sample.dtype)


class Transition(NamedTuple):
    """The distribution of the next sample: normal, the same or another std in every element.

    In the accumulation dtype: the mean of a half precision sample is not rounded to it.
    """

    mean: Array
    std: Any  # a float, or an array that broadcasts to the mean (array index, learned variance)

    def log_prob(self, next_sample: Array, *, sum: bool = True, zero_std: str = "raise") -> Array:
        """Return the log density of a next sample, in the mean's dtype.

        It has a gradient with respect to the network's output, and to next_sample: detach that.

        Args:
            next_sample: what `step` returned, like the sample.
            sum: over all axes but the first, so one number a sample; else of every element.
            zero_std: "raise" where the std is 0, or "skip", to count 0 there. An array of stds is
                looked at on the host, unless skipped; inside `jit` it cannot be, and gives nan.

        Raises:
            TypeError: next_sample is not a floating array of the mean's framework.
            ValueError: another shape or device; a std of 0, which has no density.
        """
        mean, std = self
        backend = resolve(mean)
        check_like(backend, mean, "next_sample", next_sample)
        choose("zero_std", zero_std, ("raise", "skip"))
        xp, skip, one = backend.xp, zero_std == "skip", isinstance(std, float)
        zero = std == 0.0
        if not skip and (zero if one else not backend.traced(std) and bool(xp.any(zero))):
            raise ValueError(
                "this step draws no noise (std = 0), so its next sample has no density: leave it"
                ' out, or pass zero_std="skip", which counts 0'
            )
        keep: Any = 1.0
        if one:
            keep, std = float(not zero), std or 1.0
        elif skip:
            keep = 1.0 - backend.astype(zero, std.dtype)
            std = backend.where(zero, xp.ones_like(std), std)
        log_std = math.log(std) if one else xp.log(std)
        off = (backend.astype(next_sample, mean.dtype) - mean) / std
        density = (-0.5 * (off * off) - (log_std + 0.5 * math.log(2 * math.pi))) * keep
        axes = tuple(range(1, len(density.shape)))
        return xp.sum(density, axis=axes) if sum and axes else density


def transition(
    plan: Recipe, state: State, output: Array, *, given: Mapping[str, Array] | None = None
) -> Transition:
    """Return mean and standard deviation of the sample that `step` makes of random noise.

    Arguments and errors as in `step`. Where a row draws several times, the std is of their sum; a
    loop that is over, and a step that draws nothing, have std 0.
    """
    sample, index, layout = state.sample, state.index, plan.check_traced()
    backend = resolve(sample)
    check_output(backend, sample, output, layout.prediction)
    acc = backend.accumulation(sample.dtype)
    sample, output = backend.astype(sample, acc), backend.astype(output, acc)
    state = State(sample, tuple(backend.astype(m, acc) for m in state.memory), index)
    row = _row(plan, index) if type(index) is int else None
    zero = backend.zeros_like(sample)
    zeros = tuple([zero] * len(layout.draws if row is None else row.draws))
    following = step(plan, state, output, noise=zeros or None, given=given)
    if not zeros:
        return Transition(following.sample, 0.0)
    given = check_given(backend, sample, given_names(layout), given)
    if row is None:
        table = plan if isinstance(plan, Table) else plan.on(sample)
        std = backend.execute(table_std, None, table, state, output, given)
        ones = (1,) * (len(sample.shape) - len(index.shape))
        over = backend.xp.reshape(following.index == index, (*index.shape, *ones))
        return Transition(following.sample, backend.where(over, backend.zeros_like(std), std))
    draws = [(value, drawn.log_range) for value, drawn in row.draws]
    std = root_of_squares(backend, layout, sample, output, draws, row.statements, given)
    return Transition(following.sample, std)


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
    convolutional network can be many times slower than unrolling), or a loop written out with
    `unroll=True`.

    Args:
        model: `model(x, t) -> output`.
        plan: the plan, its table, or a stack of plans.
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
    backend = backend_of("noise", noise)
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
    return_info: bool = False,
    report: Callable[[Report], None] | None = None,
) -> Any:
    """Return the sample, running the sampler's own loop on arrays; arguments as in `sample`.

    The reference path, and the only one for samplers whose control flow depends on data. The loop's
    arrays have the accumulation dtype, the network's the sample's. With return_info the result is
    (sample, info): the evaluations taken, and what the loop counted (accepted and rejected steps).
    `report` is called with what an adaptive loop says of each step it tried.
    """
    if not isinstance(plan, Plan):
        raise TypeError("run executes the sampler itself: pass a plan, no table and no stack")
    backend = backend_of("noise", noise)
    dtype, acc = noise.dtype, backend.accumulation(noise.dtype)
    entry = samplers.get(plan.sampler)
    prediction, grid = plan.prediction, plan.grid
    if x0 is not None:
        check_like(backend, noise, "x0", x0)
    check_given(backend, noise, set(entry.given), given)
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
        return z * learned_std(backend, variance_channels(backend, noise, output), *log_range)

    first = grid.points[0]
    x = backend.astype(noise, acc)
    if x0 is None:
        x = x * grid.init_scale
    else:
        x = backend.astype(x0, acc) * first.alpha + x * first.sigma
    arrays = {name: backend.astype(array, acc) for name, array in (given or {}).items()}
    walk = Walk(grid)
    loop = entry.start(x, walk, noise_of, plan.options, **arrays)
    bar = iter(_progress(len(plan) or len(grid), progress))
    reply: Any = None
    while True:
        try:
            asked = loop.send(reply)
        except StopIteration as end:
            for _ in bar:  # let it finish its line
                pass
            final = backend.astype(end.value, dtype)
            info = {"evaluations": evaluation + 1, **walk.counts}
            return (final, info) if return_info else final
        if isinstance(asked, Keep):
            reply = asked.x
            continue
        if isinstance(asked, Size):
            reply = size_of(backend, *asked)
            continue
        if isinstance(asked, Report):
            if report is not None:
                report(asked._replace(x=backend.astype(asked.x, dtype)))
            reply = None
            continue
        x, at = asked
        evaluation, rank = evaluation + 1, -1
        next(bar, None)
        if plan.rows:
            time = plan.time_on(noise, evaluation)
        else:
            number = backend.default_int if grid.integral else acc
            time = backend.put(np.asarray(at.t), noise, number)
        output = model(backend.astype(x * at.scale if at.scale != 1.0 else x, dtype), time)
        check_output(backend, noise, output, prediction)
        p, q = prediction.linear(at)
        skip, out = prediction.boundary(at)
        raw = x * p + backend.astype(mean_channels(prediction, noise, output), acc) * q
        estimated = project(backend, prediction, raw)
        if (skip, out) != (0.0, 1.0):
            raw, estimated = x * skip + raw * out, x * skip + estimated * out
        if callback is not None:
            state = State(backend.astype(x, dtype), (), evaluation)
            callback(evaluation, state, backend.astype(estimated, dtype))
        reply = (x, estimated)
        if isinstance(asked, Raw) and at.sigma > 0.0 and (skip, out) != (0.0, 1.0):
            reply = (x, estimated, (x - raw * at.alpha) * (1.0 / at.sigma))
        elif isinstance(asked, Raw):  # not through x0, where a small sigma would be lost
            p, q = prediction.noise(at)
            reply = (
                x,
                estimated,
                x * p + backend.astype(mean_channels(prediction, noise, output), acc) * q,
            )


def _row(plan: Recipe, index: int) -> Row:
    """Return the row at an int index, or say why there is none."""
    if not isinstance(plan, Plan):
        raise TypeError(
            "a table or a stack needs an array index; pass the plan itself for an int index"
        )
    rows = plan.rows
    if 0 <= index < len(rows):
        return rows[index]
    raise ValueError(
        f"the loop is over: index {index} of a plan with {len(rows)} evaluations"
        if index >= 0
        else f"index must not be negative, got {index}"
    )


def _first_index(recipe: Recipe, noise: Array, backend: Backend, index: Any, plan: Any) -> Any:
    """Return the index a loop starts with: 0, or an array."""
    if plan is not None:
        if index is not None:
            raise ValueError("pass either plan= or index=: rows of a stack start by plan=")
        return _begins(recipe, noise, backend, plan)
    if isinstance(recipe, Stack) and len(recipe.plans) > 1:
        raise ValueError(
            f"a stack of {len(recipe.plans)} plans starts by init(stack, noise, plan=k), where"
            " integers k of shape (batch,) say which one each row runs"
        )
    if index is None:
        if isinstance(recipe, Plan) and not backend.index_on_device:
            return 0
        return backend.put(np.zeros((), np.int32), noise)
    if isinstance(index, int):
        if not isinstance(recipe, Plan):
            raise TypeError(
                "a table or a stack needs an array index; pass the plan itself for an int index"
            )
        if index != 0 or isinstance(index, bool):
            raise ValueError(
                f"index={index!r}: a loop starts at 0; plan.skip(k) starts it at a later grid step"
            )
        return 0
    if backend_of("index", index) is not backend or "int" not in backend.dtype_name(index.dtype):
        raise TypeError(
            f"index must be an int or an integer array of {backend.name}, got"
            f" {type(index).__name__} of dtype {index.dtype}"
        )
    check_index(backend, noise, index)
    return index


def _begins(recipe: Recipe, noise: Array, backend: Backend, plan: Any) -> Array:
    """Return the index at which the plan of each row begins."""
    if isinstance(recipe, Plan):
        raise TypeError("plan= names a plan of a stack: pass cmsched.stack([...]) or its table")
    if isinstance(plan, bool | int | Sequence | np.ndarray | np.generic):
        host = np.asarray(plan)
        if host.dtype.kind not in "iu" and host.shape != (0,):  # [] is of floats to NumPy
            raise TypeError(f"plan must hold integers, the numbers of plans, got {plan!r}")
        count = _plans_of(recipe, backend)
        if host.size and not 0 <= host.min() <= host.max() < count:
            raise ValueError(f"plan={plan!r} names a plan that is not there: use 0 to {count - 1}")
        plan = backend.put(host.astype(np.int32), noise)
    elif backend_of("plan", plan) is not backend or "int" not in backend.dtype_name(plan.dtype):
        raise TypeError(
            "plan must hold integers, the numbers of plans, on the host or in an array of"
            f" {backend.name}; got {type(plan).__name__} of dtype {plan.dtype}"
        )
    check_index(backend, noise, plan, "plan")
    table = recipe if isinstance(recipe, Table) else recipe.on(noise)
    return backend.execute(table_begins, None, table, plan)


def _plans_of(recipe: Stack | Table, backend: Backend) -> int:
    """Return how many plans there are; for a table this looks at the device, if it can."""
    if isinstance(recipe, Stack):
        return len(recipe.plans)
    begins = recipe.where[2, ...]
    if backend.traced(begins):
        return int(begins.shape[0])
    return int(backend.xp.sum(backend.astype(begins >= 0, begins.dtype)))


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
