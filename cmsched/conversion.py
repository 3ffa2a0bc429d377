"""What a network says in other terms: x0, eps, v, flow and score from one another."""

from typing import Any

from .backends import A, Backend
from .engine.checks import backend_of, check_kind, check_like
from .predictions import Prediction
from .schedules import Point

__all__ = ["convert"]

Array = Any


def convert(
    output: A,
    sample: A,
    at: Point | tuple[A, A],
    source: str | Prediction,
    target: str | Prediction,
) -> A:
    """Return an output of one prediction type as another's, for any schedule and framework.

    With x = alpha x0 + sigma eps known, each of x0 ("sample"), eps ("epsilon"), "v_prediction",
    "flow_prediction", "score" and the others tells all the rest:

        x0 = cmsched.convert(eps, x, scheduler.schedule.at(t=500), "epsilon", "sample")

    Args:
        output: what the network said, like sample.
        sample: x, noisy.
        at: where: a point (`schedule.at(t=)`), or (alpha, sigma) as arrays of shape (), or (batch,)
            for a time per sample, or (batch, frames), or whatever broadcasts to the sample.
        source: what the output is, a name in `cmsched.predictions.PREDICTION_TYPES`; a `Prediction`
            where sigma_data is not 0.5 or sigma_min not 0. Its projection plays no part.
        target: what to return, likewise.

    Returns:
        An array of the sample's shape, dtype and device; half precision is computed in float32.

    Raises:
        TypeError: mixed frameworks, arrays that are not floating.
        ValueError: shapes that do not fit; a point where the source does not determine the target
            (x0 from eps where alpha is 0). Of arrays alpha and sigma this is not known before they
            are computed: there the result is not finite.
    """
    backend = backend_of("sample", sample)
    check_like(backend, sample, "output", output)
    acc = backend.accumulation(sample.dtype)
    a, b = (p if isinstance(p, Prediction) else Prediction(p) for p in (source, target))
    if isinstance(at, Point):
        weights = a.conversion(b, at)
    elif not isinstance(at, tuple | list) or len(at) != 2:
        raise TypeError(f"at must be a point (schedule.at(t=)) or (alpha, sigma), got {at!r}")
    else:
        levels = zip(("alpha", "sigma"), at, strict=True)
        weights = a.weights(b, *(_spread(backend, sample, name, v) for name, v in levels))
    said: A = backend.astype(backend.combine([output, sample], weights, acc), sample.dtype)
    return said


def _spread(backend: Backend, sample: Array, name: str, level: Array) -> Array:
    """Return alpha or sigma in the accumulation dtype, in a shape that multiplies the sample."""
    check_kind(backend, sample, name, level)
    shape, whole = tuple(level.shape), tuple(sample.shape)
    if shape and shape == whole[: len(shape)]:
        shape = (*shape, *(1 for _ in whole[len(shape) :]))
    fits = zip(reversed(shape), reversed(whole), strict=False)
    if len(shape) > len(whole) or any(part not in (1, size) for part, size in fits):
        raise ValueError(
            f"{name} has shape {tuple(level.shape)}, which fits no sample of shape {whole}; give"
            f" one number, shape (), one per row, shape {whole[:1]}, or frame, {whole[:2]}"
        )
    level = backend.astype(level, backend.accumulation(sample.dtype))
    return backend.xp.reshape(level, shape)
