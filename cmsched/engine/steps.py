"""One evaluation of a loop, on arrays: what the network is given, and what its output leads to."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..backends import A, Backend, resolve
from ..plan import Plan
from ..predictions import Prediction
from ..rows import Work, implied
from .checks import (
    check_given,
    check_like,
    check_output,
    check_rows,
    checked_noise,
    given_names,
    row_at,
)
from .draws import draw
from .table import stepped, table_estimate, table_input
from .values import (
    Estimate,
    Program,
    State,
    estimated,
    estimates,
    learned_std,
    masked,
    mean_channels,
    scaled,
    variance_channels,
)

Array = Any


def model_input(plan: Program, state: State[A]) -> tuple[A, A]:
    """Return what the network is given: the scaled sample, and the time.

    The network must not write into them: where nothing is scaled the first is the state's own
    sample, and the time is kept by the plan.

    The time is an array of shape () or of the index, of the framework's default integer dtype where
    times are integral, otherwise float32 (float64 for a float64 sample).
    """
    index = state.index
    if type(index) is int:
        x, row = state.sample, row_at(plan, index)
        time = plan.time_on(x, index)  # type: ignore[union-attr]
        return scaled(resolve(x), x, row.point.scale), time
    backend = resolve(state.sample)
    check_rows(backend, plan, state.sample, index)
    x, t = backend.execute(table_input, None, plan.on(state.sample), state)
    return state.sample if x is None else x, t


def step(
    plan: Program,
    state: State[A],
    output: A,
    *,
    rng: Any = None,
    noise: A | Sequence[A] | None = None,
    given: Mapping[str, A] | None = None,
) -> State[A]:
    """Return the state after the network's output: one linear combination per stored result.

    Its arrays are nobody else's: what is given here may be overwritten later.

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
    return _stepped(plan, state, output, rng, noise, given, False)[0]


def step_and_x0(
    plan: Program,
    state: State[A],
    output: A,
    *,
    rng: Any = None,
    noise: A | Sequence[A] | None = None,
    given: Mapping[str, A] | None = None,
) -> tuple[State[A], A]:
    """Return what `step` returns and x0 of `estimate`, computed together."""
    return _stepped(plan, state, output, rng, noise, given, True)


def _stepped(
    plan: Program,
    state: State,
    output: Array,
    rng: Any,
    noise: Array | Sequence[Array] | None,
    given: Mapping[str, Array] | None,
    estimate: bool,
) -> tuple[State, Any]:
    """Return the next state and, if asked for, the estimate x0."""
    sample, index = state.sample, state.index
    backend = resolve(sample)
    layout = plan.layout
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
        mean = unlike(backend, layout.prediction, sample, output)
    elif backend.device(output) != backend.device(sample):
        check_like(backend, sample, "output", output)
    if layout.given or layout.masked or given:
        given = check_given(backend, sample, given_names(layout), given)
    if rng is not None and noise is not None:
        raise ValueError("pass either rng or noise, not both")
    row = row_at(plan, index) if type(index) is int else None
    draws = layout.draws if row is None else row.draws
    z: Sequence[Array] = ()
    if noise is not None:
        z = checked_noise(backend, sample, len(draws), noise)
    elif draws:
        z = draw(plan, state, rng) or ()
    if row is None:
        check_rows(backend, plan, sample, index)
        return stepped(plan.on(sample), state, output, z, given, estimate)
    assert isinstance(plan, Plan)  # else there is no row
    arrays = sample, state.memory, output, mean, z, given
    following, memory, x0 = take_row(backend, plan, index, *arrays, estimate)
    return State(following, memory, index + 1), x0


def take_row(
    backend: Backend,
    plan: Plan,
    index: int,
    sample: Array,
    memory: tuple[Array, ...],
    output: Array,
    mean: Array,
    z: Sequence[Array],
    given: Mapping[str, Array] | None,
    estimate: bool,
    owned: bool = True,
) -> tuple[Array, tuple[Array, ...], Array | None]:
    """Return the next sample, what is stored and, if asked for, x0, of arguments that are checked.

    Args:
        backend: that of the arrays.
        plan: the plan.
        index: the number of the row.
        sample: the present sample.
        memory: what is stored.
        output: the network's output.
        mean: the part of it that is not about the variance.
        z: the draws of the row.
        given: the arrays that the sampler takes.
        estimate: whether x0 is asked for.
        owned: whether what is stored may not be the sample itself.
    """
    layout, dtype = plan.layout, sample.dtype
    values = [sample, mean, *memory, *layout.placeholders]
    if z:
        for (value, wanted), drawn in zip(plan.rows[index].draws, z, strict=True):
            if wanted.log_range is not None:
                variance = variance_channels(backend, sample, output)
                std = learned_std(backend, variance, *wanted.log_range)
                drawn = drawn * std
            values[value] = drawn
    if given:
        for k, name in enumerate(layout.given):
            values[layout.first_given + k] = given[name]
    if layout.prediction.projects and (estimate or plan.rows[index].needs_x0):
        acc, numbers = backend.accumulation(dtype), plan.rows[index].estimate
        values[layout.x0] = estimated(backend, layout, numbers, sample, mean, acc)
    work, kernel = plan.work(backend, index, dtype, estimate, owned)
    if kernel is None or not backend.kernel_applies(sample) or (done := kernel(values)) is None:
        done = by_hand(backend, work, values, dtype, given)
    return done  # type: ignore[no-any-return]


def by_hand(
    backend: Backend,
    work: Work,
    values: list[Any],
    dtype: Any,
    given: Mapping[str, Array] | None,
) -> tuple[Array, tuple[Array, ...], Array | None]:
    """Return the results of a row, sum by sum."""
    acc = backend.accumulation(dtype)
    for value, sources, weights, regions in work.program:
        parts = [values[v] for v in sources]
        if regions is not None:
            parts = [masked(v, given, r) for v, r in zip(parts, regions, strict=True)]
        values[value] = backend.combine(parts, weights, acc)
    if acc != dtype:
        values = [v if v is None or v.dtype == dtype else backend.astype(v, dtype) for v in values]
    for value, source in work.copies:
        values[value] = backend.copy(values[source])
    return work.taken(values)


def unlike(backend: Backend, prediction: Prediction, sample: Array, output: Array) -> Array:
    """Return the mean of an output that has another dtype or more channels than the sample."""
    check_output(backend, sample, output, prediction)
    mean = mean_channels(prediction, sample, output)
    if mean.dtype == sample.dtype:
        return mean
    return backend.astype(mean, backend.accumulation(sample.dtype))


def estimate(
    plan: Program, state: State[A], output: A, *, given: Mapping[str, A] | None = None
) -> Estimate[A]:
    """Return x0 (after projection), eps and v that the output implies, arrays like the sample.

    Where sigma is 0, x0 is the sample, and eps is what the output says, whatever is projected.
    v is a eps - s x0 in the frame the network sees, divided by sqrt(a^2 + s^2).

    Args:
        plan: the plan, its table, or a stack of plans.
        state: where the network was evaluated.
        output: what it said there, like the sample.
        given: the arrays that `init` got.

    Raises:
        ValueError, TypeError: what `step` raises of these.
    """
    sample = state.sample
    backend = resolve(sample)
    layout = plan.layout
    check_output(backend, sample, output, layout.prediction)
    if layout.given or layout.masked or given:
        check_given(backend, sample, given_names(layout), given)
    if type(state.index) is not int:
        return backend.execute(table_estimate, None, plan.on(sample), state, output)  # type: ignore[no-any-return]
    row = row_at(plan, state.index)
    weights = implied(layout.prediction, row.point)
    acc = backend.accumulation(sample.dtype)
    return estimates(backend, layout, row.estimate, weights, sample, output, acc)


def estimate_x0(plan: Plan, index: int, sample: Array, output: Array) -> Array:
    """Return only x0 of `estimate`, for an int index."""
    backend = resolve(sample)
    layout = plan.layout
    acc = backend.accumulation(sample.dtype)
    mean = mean_channels(layout.prediction, sample, output)
    x0 = estimated(backend, layout, plan.rows[index].estimate, sample, mean, acc)
    return backend.astype(x0, sample.dtype)
