"""The mathematics that loops share: ancestral split, exponential-integrator and Adams weights."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..schedules import Point

Nodes = list[tuple[float, Any]]  # (lam or ratio, value), newest first


def shrink(a: Point, b: Point) -> tuple[float, float]:
    """Return rho = e^(lam_a - lam_b), the share of the noise that a step keeps, and 1 - rho^2."""
    gap = min(a.lam - b.lam, 0.0)
    return math.exp(gap), -math.expm1(2 * gap)


def ancestral(a: Point, b: Point, eta: float) -> tuple[float, float]:
    """Split sigma_b^2 into what a step goes down to and what noise brings up: (down, up).

    up = eta sigma_b sqrt(1 - rho^2), at most sigma_b (arXiv:2010.02502, eq. 16, in any frame).
    """
    rho, fresh = shrink(a, b)
    up = b.sigma * min(eta * math.sqrt(fresh), 1.0)
    # sigma_b^2 - up^2 without its cancellation
    return b.sigma * math.sqrt(max((1 - eta) * (1 + eta) + (eta * rho) ** 2, 0.0)), up


def carry(x: Any, eps: Any, a: Point, b: Point, sigma: float | None = None) -> Any:
    """Move x from a to b (or to another sigma there) along a constant eps: DDIM's exact step.

    It is written without x0, which a combination of several eps does not have; not from alpha = 0.
    """
    sigma = b.sigma if sigma is None else sigma
    return (b.alpha / a.alpha) * x + (sigma - a.sigma * (b.alpha / a.alpha)) * eps


def noised(a: Point, b: Point) -> tuple[float, float]:
    """Return part and std of x_b = part x_a + std z, the forward process from a up to b."""
    part = b.alpha / a.alpha
    return part, math.sqrt(max(b.sigma**2 - (part * a.sigma) ** 2, 0.0))


def langevin(x: Any, score: Any, z: Any, size: Any) -> Any:
    """Return x + 2 size^2 score + 2 size z, Langevin's step (arXiv:2011.13456, algorithm 4)."""
    return x + 2 * size * size * score + 2 * size * z


def coordinates(at: Point, variable: str) -> tuple[float, float]:
    """Return (c, s) of the form u = x / c = (..) x0 + s eps with du/ds = (u - x0) / s.

    "ratio": u = x0 + s eps, s = sigma / alpha; "flow": u = (1 - s) x0 + s eps.
    """
    if variable == "ratio":
        return at.alpha, at.ratio
    return at.alpha + at.sigma, at.sigma / (at.alpha + at.sigma)


def remainder(m: int, k: float) -> float:
    """1 - (1 - e^-k) / k for m = 1, 1/2 - that / k for m = 2: -sum of (-k)^j / (j + m)!, j >= 1."""
    if abs(k) < 0.5:  # the closed forms cancel
        return -sum((-k) ** j / math.factorial(j + m) for j in range(1, 16))
    first = 1.0 + math.expm1(-k) / k
    return first if m == 1 else 0.5 - first / k


def weights(
    order: int, k: float, solver_type: str = "midpoint", third_order: str = "published"
) -> tuple[float, ...]:
    """Weights of D0, D1, D2 (arXiv:2211.01095, appendix B), k = (1 + eta) h; for noise k = -h.

    The published third-order weight is half of what the second difference needs, so the method is
    second order; "exact" doubles it. "reference" repeats a sign that is wrong in diffusers' SDE.
    """
    f = -math.expm1(-k)
    if order == 1:
        return (f,)
    if order == 2:
        return (f, 0.5 * f if solver_type == "midpoint" else remainder(1, k))
    bend = remainder(2, k)
    bends = {"published": bend, "exact": 2 * bend, "reference": bend - 1.0}
    return (f, remainder(1, k), bends[third_order])


def differences(nodes: Nodes, h: float) -> tuple[Any, ...]:
    """D0, D1, D2 (arXiv:2211.01095, appendix B) from the newest 1 to 3 (lam, value) nodes."""
    (l0, m0), *older = nodes
    if not older:
        return (m0,)
    (l1, m1), *older = older
    r0 = (l0 - l1) / h
    first = (m0 - m1) / r0
    if not older:
        return m0, first
    ((l2, m2),) = older
    r1 = (l1 - l2) / h
    bend = (first - (m1 - m2) / r1) / (r0 + r1)
    return m0, first + r0 * bend, bend


def exponential_step(
    x: Any,
    terms: Sequence[Any],
    a: Point,
    b: Point,
    *,
    eta: float,
    predict_x0: bool,
    solver_type: str,
    third_order: str,
) -> tuple[Any, float]:
    """Return (x at b without its noise, std of that) of DPM-Solver from D0, D1, D2 of the estimate.

    ++: (sigma_b / sigma_a) e^(-eta h) x + alpha_b sum w D, std = sigma_b sqrt(1 - e^(-2 eta h));
    for eps: (alpha_b / alpha_a) x + (1 + eta) sigma_b sum w D, std^2 = eta sigma_b^2 (e^(2 h) - 1).
    """
    h = b.lam - a.lam
    if predict_x0:
        k, scale, part = (
            (1 + eta) * h,
            b.alpha,
            b.sigma / a.sigma * (math.exp(-eta * h) if eta else 1.0),
        )
        std = b.sigma * math.sqrt(-math.expm1(-2 * eta * h)) if eta else 0.0
    elif a.alpha > 0 and b.sigma > 0:
        k, scale, part = -h, (1 + eta) * b.sigma, b.alpha / a.alpha
        std = b.sigma * math.sqrt(eta * math.expm1(2 * h)) if eta else 0.0
    else:
        raise ValueError(
            f"a solver for eps cannot step from sigma/alpha = {a.ratio:g} to {b.ratio:g}, where its"
            " formula is infinite; use the ++ solver, or a grid between finite levels"
        )
    x = part * x
    if h == -math.inf:  # up to alpha = 0, where the weight is a limit
        return x + (b.alpha - a.alpha * part) * terms[0], std
    for w, d in zip(weights(len(terms), k, solver_type, third_order), terms, strict=True):
        x = x + (scale * w) * d
    return x, std


def newest(count: int, nodes: Nodes) -> Nodes:
    """At most count nodes, newest first, without older ones at an infinite or the same level."""
    kept = nodes[:1]
    for level, value in nodes[1:]:
        if math.isfinite(level) and level != kept[-1][0]:
            kept.append((level, value))
    return kept[:count]


def orders(
    grid: Any,
    solver_order: int,
    ramp_down: bool = False,
    euler_at_final: bool = False,
    level: Callable[[Point], float] = lambda p: p.lam,
) -> Iterator[tuple[Point, Point, int]]:
    """The two ends of every step and the order it may have.

    Lower at the end if asked for; first where a step has no length in its level, or no end.
    """
    n = len(grid)
    for left, (a, b) in zip(range(n, 0, -1), grid.steps(), strict=True):
        order = min(solver_order, left) if ramp_down else solver_order
        if (left == 1 and euler_at_final) or not 0 < abs(level(b) - level(a)) < math.inf:
            order = 1
        yield a, b, order


@cache
def _gauss(count: int) -> tuple[np.ndarray, np.ndarray]:
    points, masses = np.polynomial.legendre.leggauss(count)
    return points, masses


def integrals(
    levels: Sequence[float],
    start: float,
    end: float,
    weight: Callable[[np.ndarray], Any] = lambda u: 1.0,
) -> list[float]:
    """Return the integral of weight(u) L_j(u) from start to end for each Lagrange polynomial L_j.

    By Gauss quadrature of 24 points or more: exact for Adams weights, to rounding for exponential
    ones.
    """
    points, masses = _gauss(max(24, len(levels)))
    half, nodes, own = 0.5 * (end - start), np.array(levels), np.eye(len(levels), dtype=bool)
    u = 0.5 * (start + end) + half * points
    gaps = np.where(own, 1.0, nodes[:, None] - nodes)
    lagrange = np.where(own, 1.0, (u[:, None, None] - nodes) / gaps).prod(axis=2)
    out: list[float] = (half * masses * weight(u) @ lagrange).tolist()
    return out


def bend(nodes: Nodes, factors: Sequence[float]) -> Any:
    """Return sum of factor_j (value_j - value_0), j >= 1: a formula's departure from first order.

    The weights of a consistent formula sum to that of the first-order one, so this is all of it.
    """
    newest_value = nodes[0][1]
    parts = [w * (value - newest_value) for w, (_, value) in zip(factors, nodes[1:], strict=True)]
    return sum(parts[1:], parts[0])
