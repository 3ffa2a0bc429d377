"""Heun's method."""

import math

from . import register
from .first_order import churn, churned, unchanged


@register(
    "heun",
    paper="arXiv:2206.00364, algorithm 2",
    order=2,
    stored=1,
    evaluations=2,
    stochastic=churned,
    exact=unchanged,
    variants=({}, {"s_churn": 5.0}),
)
def heun(x, grid, noise, *, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
    """Trapezoidal rule in r = sigma / alpha; the slope at the base is read back out of Euler's y.

    A step to sigma = 0, or from alpha = 0 where r is infinite, is Euler's.
    """
    for a, b in grid.steps():
        x, a = churn(x, a, grid, noise, s_churn, s_tmin, s_tmax, s_noise)
        x, x0 = yield x, a
        y = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)
        if b.sigma > 0 and a.alpha > 0:
            y, y0 = yield y, b
            bend = 0.5 * (1 - a.ratio / b.ratio) * (y - b.alpha * y0)
            y = 0.5 * ((b.alpha / a.alpha) * x + y) + bend
        x = y
    return x
