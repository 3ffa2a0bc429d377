"""Heun's method."""

import math

from . import register
from .first_order import churn, churned


@register(
    "heun",
    paper="arXiv:2206.00364, algorithm 2",
    order=2,
    stored=1,
    evaluations=2,
    stochastic=churned,
    exact=False,
    variants=({}, {"s_churn": 5.0}),
)
def heun(x, grid, noise, *, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
    """Trapezoidal rule in r = sigma / alpha after an Euler step to y; the slope at the base is read back out of y.

    A step to sigma = 0, or from alpha = 0 where r is infinite, is Euler's.
    """
    for a, b in grid.steps():
        x, a = churn(
            x, a, grid, noise, steps=len(grid), s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise
        )
        x, x0 = yield x, a
        y = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)
        if b.sigma > 0 and a.alpha > 0:
            y, y0 = yield y, b
            y = 0.5 * ((b.alpha / a.alpha) * x + y) + 0.5 * (1 - a.ratio / b.ratio) * (y - b.alpha * y0)
        x = y
    return x
