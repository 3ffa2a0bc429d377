"""The embedded example: handwritten digits with their exact networks, on any framework.

The data are the 8x8 digits that ship inside scikit-learn, in [-1, 1], smoothed by a Gaussian of
bandwidth b: x0 = image_k + b eps. So samples are new digits, and a sampler's error shows in them.
Everything follows from one function, the mean of a posterior over the images alone,

    mean(w, kappa) = E[image | w = kappa image + eps],

because smoothed images seen through x = alpha x0 + sigma eps are bare images seen through more
noise, s^2 = sigma^2 + alpha^2 b^2, w = x / s, kappa = alpha / s:

    denoiser       E[x0 | x] = m + (alpha b^2 / s^2) (x - alpha m),    m = mean(x / s, alpha / s)
    consistency    dw / dkappa = mean(w, kappa), the probability-flow ODE, down to sigma_min

As tokens, for samplers of such, pixels are their 17 levels; those of a digit are the image's, but
for one in a hundred, which is any.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import samplers
from ..backends import resolve
from ..discrete import TokenPlan
from ..plan import Plan
from ..predictions import output_from_x0
from ..schedules import Point

__all__ = ["LEVELS", "STEPS", "Denoiser", "images", "labels", "network", "token_network"]

Array = Any
Host = npt.NDArray[np.float64]

LEVELS = 17  # of a pixel
STEPS = 40  # of the solver that is the consistency function


@lru_cache
def _load() -> tuple[Host, npt.NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is missing: pip install scikit-learn"
        ) from error
    data = load_digits()
    pixels, classes = data.images[:, None] / 8.0 - 1.0, data.target.astype(np.int64)
    pixels.flags.writeable = classes.flags.writeable = False
    return pixels, classes


def images() -> Host:
    """Return the training images, (1797, 1, 8, 8) float64 in [-1, 1], read-only."""
    return _load()[0]


def labels() -> npt.NDArray[np.int64]:
    """Return the digit that each training image shows, (1797,), read-only."""
    return _load()[1]


class _Constants:
    """Host arrays, placed beside an array once per framework, dtype and device."""

    def __init__(self, *host: Host) -> None:
        self.host = host
        self.placed: dict[Any, tuple[Array, ...]] = {}

    def beside(self, x: Array) -> tuple[Array, ...]:
        """Return the arrays in the dtype that x is computed in: half precision is too coarse."""
        backend = resolve(x)
        dtype = backend.accumulation(x.dtype)
        key = (backend.name, str(dtype), str(backend.device(x)))
        if key not in self.placed:
            arrays = tuple(backend.to_device_of(host, x, dtype) for host in self.host)
            if backend.traced(*arrays):  # made inside a trace: must not outlive it
                return arrays
            self.placed[key] = arrays
        return self.placed[key]


class Denoiser:
    """The exact clean-sample estimate E[x0 | x = alpha x0 + sigma eps] of the smoothed digits."""

    def __init__(self, bandwidth: float = 0.1) -> None:
        if not bandwidth > 0.0:
            raise ValueError(f"bandwidth={bandwidth!r} must be positive")
        self.bandwidth = float(bandwidth)
        flat = images().reshape(len(images()), -1)
        centre = flat.mean(0)
        centred = flat - centre
        square = np.sum(centred**2, 1)
        distance = np.maximum(square[:, None] + square - 2.0 * centred @ centred.T, 0.0)
        self._constants = _Constants(centre, centred, square / 2.0, distance / 2.0)

    def mean(self, w: Array, kappa: Array) -> Array:
        """Return E[image | w = kappa image + eps]: w is (batch, pixels), kappa () or (batch, 1).

        In float32 squared distances |w - kappa image|^2 of thousands would lose the digits that
        decide between two near images, so they are taken relative to the nearest image: the
        residual from that one is small, and distances between images are known beforehand.
        """
        xp = resolve(w).xp
        centre, centred, square, distance = self._constants.beside(w)
        w = w - kappa * centre
        nearest = xp.argmax(w @ centred.T - kappa * square, axis=1)
        overlap = (w - kappa * xp.take(centred, nearest, axis=0)) @ centred.T
        logits = kappa * (overlap - kappa * xp.take(distance, nearest, axis=0))
        weights = xp.exp(logits - xp.max(logits, axis=1, keepdims=True))
        return centre + (weights @ centred) / xp.sum(weights, axis=1, keepdims=True)

    def __call__(self, x: Array, alpha: Array, sigma: Array) -> Array:
        """Return E[x0 | x]; alpha and sigma are numbers or arrays of shape () or (batch,)."""
        flat, alpha, sigma = _prepare(x, alpha, sigma)
        s2 = sigma**2 + (alpha * self.bandwidth) ** 2
        s = s2**0.5
        m = self.mean(flat / s, alpha / s)
        return _restore(m + (alpha * self.bandwidth**2 / s2) * (flat - alpha * m), x)

    def consistency(
        self, sigma_min: float = 0.002, steps: int = STEPS
    ) -> Callable[[Array, Array, Array], Array]:
        """Return the exact consistency function (x, alpha, sigma) -> x0 at noise level sigma_min.

        It follows the probability-flow ODE with `steps` Runge-Kutta steps of order 4; noise levels
        are those of x / alpha.
        """
        end = (sigma_min**2 + self.bandwidth**2) ** -0.5

        def consistent(x: Array, alpha: Array, sigma: Array) -> Array:
            xp = resolve(x).xp
            flat, alpha, sigma = _prepare(x, alpha, sigma)
            s = (sigma**2 + (alpha * self.bandwidth) ** 2) ** 0.5
            w = flat / s
            # Even in log kappa, but for noise so large that nothing of an image is left in it.
            floor = 0.05
            start, stop = xp.asinh(alpha / s / floor), float(np.arcsinh(end / floor))
            grid = [floor * xp.sinh(start + (stop - start) * (j / steps)) for j in range(steps + 1)]
            for a, b in pairwise(grid):
                h, half = b - a, (a + b) / 2.0
                m1 = self.mean(w, a)
                m2 = self.mean(w + h / 2.0 * m1, half)
                m3 = self.mean(w + h / 2.0 * m2, half)
                m4 = self.mean(w + h * m3, b)
                w = w + h / 6.0 * (m1 + 2.0 * m2 + 2.0 * m3 + m4)
            return _restore(w / end, x)

        return consistent


def _prepare(x: Array, alpha: Array, sigma: Array) -> tuple[Array, Array, Array]:
    """Return x as (batch, pixels), alpha and sigma as () or (batch, 1), in the working dtype."""
    if tuple(x.shape[-3:]) != (1, 8, 8):
        raise ValueError(f"x has shape {tuple(x.shape)}: digits are (batch, 1, 8, 8)")
    backend = resolve(x)
    dtype = backend.accumulation(x.dtype)

    def number(value: Array) -> Array:
        if isinstance(value, int | float):
            return backend.to_device_of(np.asarray(value, np.float64), x, dtype)
        return _column(backend.astype(value, dtype), 2)

    flat = backend.astype(backend.xp.reshape(x, (-1, 64)), dtype)
    return flat, number(alpha), number(sigma)


def _column(numbers: Array, ndim: int) -> Array:
    """Return one number per sample with as many axes as the samples; a single one as it is."""
    xp = resolve(numbers).xp
    return xp.reshape(numbers, (-1,) + (1,) * (ndim - 1)) if numbers.ndim else numbers


def _restore(flat: Array, x: Array) -> Array:
    backend = resolve(x)
    return backend.astype(backend.xp.reshape(flat, x.shape), x.dtype)


def network(plan: Plan, denoiser: Denoiser | None = None) -> Callable[[Array, Array], Array]:
    """Return the exact network `model(x, t)` for a plan: its raw output gives the exact estimate.

    Samplers that jump to the end of the trajectory (consistency models, order 0) get the
    consistency function, all others the denoiser. Like a trained network it sees only its scaled
    input and the model time t, () or (batch,): the noise level is found by t among the plan's
    evaluations, with array operations, so nothing is read back to the host. Where a sampler chooses
    its levels as it goes along, t is read and the level is the schedule's.
    """
    denoiser = denoiser or Denoiser()
    estimate: Callable[[Array, Array, Array], Array] = denoiser
    if samplers.get(plan.sampler).trait("order", plan.options) == 0:
        low = plan.prediction.sigma_min or plan.grid.schedule.ratio_at(0)
        estimate = denoiser.consistency(sigma_min=low)
    known = _levels(plan, plan.points) if plan.traced else None

    def model(x: Array, t: Array) -> Array:
        constants = known or _levels(plan, [plan.grid.schedule.at(t=float(t))])
        backend, (times, *numbers) = resolve(x), constants.beside(x)
        xp = backend.xp
        t = xp.reshape(backend.astype(t, times.dtype), (-1, 1))
        index = xp.argmin(xp.abs(t - times), axis=1)
        alpha, sigma, scale, of_x, of_x0 = (xp.take(number, index, axis=0) for number in numbers)
        sample = backend.astype(x, times.dtype) / _column(scale, x.ndim)
        x0 = estimate(sample, alpha, sigma)
        output = _column(of_x, x.ndim) * sample + _column(of_x0, x.ndim) * x0
        if plan.prediction.variance_head:  # half-way between the two bounds of the variance
            output = xp.concat([output, xp.zeros_like(output)], axis=1)
        return backend.astype(output, x.dtype)

    return model


def _levels(plan: Plan, points: Sequence[Point]) -> _Constants:
    """Return what a network needs to know of each level, as columns."""
    rows = []
    for point in points:
        try:
            of_x = output_from_x0(plan.prediction, point, 1.0, 0.0)
            of_x0 = output_from_x0(plan.prediction, point, 0.0, 1.0)
        except ValueError:  # the estimate is x itself here, whatever the network says
            of_x = of_x0 = 0.0
        rows.append((point.t, point.alpha, point.sigma, point.scale, of_x, of_x0))
    return _Constants(*np.array(rows, dtype=np.float64).T)


def token_network(
    plan: TokenPlan, blur: float = 0.01, dtype: Any = "float32"
) -> Callable[[Array, Array], Array]:
    """Return the exact network `model(tokens, t)` of the digits as tokens (batch, 64).

    It gives log p(x_0 | x_t), (batch, 17, 64): each pixel's over the images that the tokens leave.

    Args:
        plan: the plan.
        blur: probability that a pixel is any level and not its image's.
        dtype: of the output.
    """
    levels = np.round((images().reshape(-1, 64) + 1) * 8).astype(np.int64)
    hot = np.eye(LEVELS)[levels].reshape(len(levels), -1)
    rows = []
    for t in plan.timesteps:
        alpha, beta, _ = plan.cumulative(t)
        other = alpha * blur / LEVELS + beta  # p(x_t | image) of a level that is not the image's
        rows.append((t, alpha, beta, alpha * (1 - blur) + other, other))
    constants = _Constants(
        hot, np.arange(LEVELS, dtype=float)[:, None], *np.array(rows, np.float64).T
    )

    def model(tokens: Array, t: Array) -> Array:
        backend = resolve(tokens)
        xp = backend.xp
        like = backend.to_device_of(np.zeros(()), tokens, getattr(xp, dtype))
        hot, classes, times, *numbers = constants.beside(like)
        index = xp.argmin(xp.abs(backend.astype(t, times.dtype) - times))
        alpha, beta, same, other = (number[index] for number in numbers)
        seen = backend.astype(tokens, times.dtype)[:, None, :] == classes
        seen = backend.astype(seen, times.dtype)  # (batch, levels, 64)
        matches = xp.reshape(xp.matrix_transpose(seen), (-1, 64 * LEVELS)) @ hot.T
        logits = xp.log(same / other) * matches
        weights = xp.exp(logits - xp.max(logits, axis=1, keepdims=True))
        weights = weights / xp.sum(weights, axis=1, keepdims=True)
        share = xp.matrix_transpose(xp.reshape(weights @ hot, (-1, 64, LEVELS)))
        # given an image, p(x_0 | x_t) is p(x_t | x_0) p(x_0) / p(x_t), and masks tell nothing
        hidden = 1 - xp.sum(seen, axis=1, keepdims=True)
        said = xp.sum(seen * share, axis=1, keepdims=True)
        over = seen / same + (1 - hidden - seen) / other + hidden
        rest = said / same + (1 - hidden - said) / other + hidden
        at = alpha * seen + (1 - hidden) * beta + hidden
        return backend.astype(
            xp.log(at * ((1 - blur) * share * over + blur / LEVELS * rest)), like.dtype
        )

    return model
