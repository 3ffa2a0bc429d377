"""What the two executions of a row share: states, estimates, projection."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple

from ..backends import A, Backend
from ..plan import Plan
from ..predictions import Prediction
from ..rows import EVERYWHERE, INSIDE, Layout
from ..stacks import Stack
from ..tables import Table
from ..tracing import MASK

Array = Any
Program = Plan | Stack | Table


class State(NamedTuple, Generic[A]):
    """Where a loop stands: a pytree, picklable, storable, resumable."""

    sample: A  # any shape, batch first; in the frame of the plan's schedule
    memory: tuple[A, ...]  # the plan's stored arrays, each like sample
    index: Any  # evaluations done: an int, or integers of shape (), (batch,) or (batch, frames)


class Estimate(NamedTuple, Generic[A]):
    """What the network's output says at one step, after projection; arrays like the sample."""

    x0: A
    eps: A
    v: A


def scaled(backend: Backend, x: Array, scale: float) -> Array:
    """Return x times a host number, in the dtype of x."""
    if scale == 1.0:
        return x
    acc = backend.accumulation(x.dtype)
    if acc == x.dtype:
        return backend.multiply(x, scale)
    return backend.astype(backend.combine([x], [scale], acc), x.dtype)


def masked(value: Array, given: Mapping[str, Array] | None, region: int) -> Array:
    """Return a value in its region of the mask."""
    if region == EVERYWHERE:
        return value
    mask = given[MASK]  # type: ignore[index]
    return value * mask if region == INSIDE else value * (1 - mask)


def mean_channels(prediction: Prediction, sample: Array, output: Array) -> Array:
    """Return the half of an output that is not about the variance."""
    if prediction.variance_head and output.shape != sample.shape:
        return output[:, : sample.shape[1], ...]
    return output


def variance_channels(backend: Backend, sample: Array, output: Array) -> Array:
    """Return the variance channels of an output, in the accumulation dtype."""
    if output.shape == sample.shape:
        raise ValueError(
            "a learned variance needs an output with twice the sample's channels, got the sample's"
            f" shape {tuple(output.shape)}; use a fixed variance_type"
        )
    variance = output[:, sample.shape[1] :, ...]
    return backend.astype(variance, backend.accumulation(sample.dtype))


def learned_std(backend: Backend, v: Array, low: Any, high: Any) -> Array:
    """Return exp(log variance / 2), at (v + 1) / 2 from low to high (arXiv:2102.09672, eq. 15)."""
    return backend.xp.exp(v * (0.25 * (high - low)) + 0.25 * (high + low))


def estimated(
    backend: Backend, layout: Layout, numbers: Sequence[Any], sample: Array, mean: Array, dtype: Any
) -> Array:
    """x0 = skip x + out project(p x + q m), in `dtype`; numbers are floats or gathered arrays.

    Those of a table have a fifth, the bound of clipping, for plans that differ in it.
    """
    prediction = layout.prediction
    p, q, skip, out, *bound = numbers
    if not prediction.projects:
        return backend.combine([sample, mean], [skip + out * p, out * q], dtype)
    x0 = backend.combine([sample, mean], [p, q], dtype)
    if layout.clips_by_row:
        x0 = backend.xp.minimum(backend.xp.maximum(x0, -bound[0]), bound[0])
    else:
        x0 = project(backend, prediction, x0)
    if prediction.timestep_scaling is None:
        return x0
    return backend.combine([sample, x0], [skip, out], dtype)


def estimates(
    backend: Backend,
    layout: Layout,
    numbers: Sequence[Any],
    weights: Sequence[Any],
    sample: Array,
    output: Array,
    dtype: Any,
) -> Estimate:
    """x0 as in `estimated`, eps = a x + b m + c x0, v = d eps + e x0; weights as in `implied`."""
    mean = mean_channels(layout.prediction, sample, output)
    x0 = estimated(backend, layout, numbers, sample, mean, dtype)
    a, b, c, d, e = weights
    eps = backend.combine([sample, x0], [a, c], dtype)
    if not isinstance(b, float) or b != 0.0:
        eps = eps + backend.combine([mean], [b], dtype)
    v = backend.combine([eps, x0], [d, e], dtype)
    return Estimate(*(backend.astype(found, sample.dtype) for found in (x0, eps, v)))


def project(backend: Backend, prediction: Any, x0: Array) -> Array:
    """Clip, or threshold dynamically (arXiv:2205.11487, section 2.3), or nothing."""
    shape = tuple(x0.shape)
    if prediction.threshold is not None and 0 not in shape:
        xp = backend.xp
        ratio, largest = prediction.threshold
        count = math.prod(shape[1:])
        flat = xp.reshape(xp.abs(x0), (-1, count))  # the batch may be of unknown length
        flat = xp.sort(flat, axis=1)
        place = ratio * (count - 1)
        low = math.floor(place)
        high = min(low + 1, count - 1)
        level = flat[:, low] * (1 - (place - low)) + flat[:, high] * (place - low)
        level = xp.reshape(
            xp.clip(level, 1.0, max(largest, 1.0)), (-1, *(1,) * (len(shape) - 1))[: len(shape)]
        )
        if largest < 1.0:
            level = xp.full_like(level, largest)
        return xp.minimum(xp.maximum(x0, -level), level) / level
    return x0 if prediction.clip is None else backend.clip(x0, -prediction.clip, prediction.clip)


def size_of(backend: Backend, x: Array, over: str) -> Array:
    """Return the root mean square of all of x, of each sample, or the mean of these.

    Of no elements it is 1, which may be divided by.
    """
    xp, axes = backend.xp, tuple(range(1, len(x.shape)))
    if 0 in tuple(x.shape):
        return xp.exp(xp.sum(x))
    if over == "all":
        return xp.sqrt(xp.mean(x * x))
    each = xp.sqrt(xp.mean(x * x, axis=axes, keepdims=True)) if axes else xp.abs(x)
    return each if over == "sample" else xp.mean(each)


def root_of_squares(
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
            own = learned_std(backend, variance_channels(backend, sample, output), *log_range)
        reached = {draw_number: own}
        for value, terms in statements:
            parts = [masked(c * reached[v], given, r) for v, c, r in terms if v in reached]
            if parts:
                reached[value] = sum(parts)
        coefficient = reached.get(layout.next_sample, 0.0)
        total = total + coefficient * coefficient
    return math.sqrt(total) if isinstance(total, float) else backend.xp.sqrt(total)
