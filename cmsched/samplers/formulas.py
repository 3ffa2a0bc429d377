"""What loops share: the ancestral split, exact steps, exponential-integrator and Adams weights."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..schedules import Point

Nodes = list[tuple[float, Any]]  # (lam or ratio, value), newest first

# noise


def decay(a: Point, b: Point) -> tuple[float, float]:
    """Return rho = e^(lam_a - lam_b), the share of the noise that a step keeps, and 1 - rho^2."""
    gap = 0.0 if a.lam == b.lam else min(a.lam - b.lam, 0.0)  # both may be infinite
    return math.exp(gap), -math.expm1(2 * gap)


def ancestral(a: Point, b: Point, eta: float) -> tuple[float, float]:
    """Split sigma_b^2 into what a step goes down to and what noise brings up: (down, up).

    up = eta sigma_b sqrt(1 - rho^2), at most sigma_b (arXiv:2010.02502, eq. 16, in any frame).
    """
    rho, fresh = decay(a, b)
    up = b.sigma * min(eta * math.sqrt(fresh), 1.0)
    # sigma_b^2 - up^2 without its cancellation
    return b.sigma * math.sqrt(max((1 - eta) * (1 + eta) + (eta * rho) ** 2, 0.0)), up


def forward_kernel(a: Point, b: Point) -> tuple[float, float]:
    """Return part and std of x_b = part x_a + std z, the forward process from a up to b."""
    part = b.alpha / a.alpha
    return part, math.sqrt(max(b.sigma**2 - (part * a.sigma) ** 2, 0.0))


def langevin_step(x: Any, score: Any, z: Any, size: Any) -> Any:
    """Return x + 2 size^2 score + 2 size z, Langevin's step (arXiv:2011.13456, algorithm 4)."""
    return x + 2 * size * size * score + 2 * size * z


# first order


def ddim_step(x: Any, eps: Any, a: Point, b: Point, sigma: float | None = None) -> Any:
    """Move x from a to b (or to another sigma there) along a constant eps: DDIM's exact step.

    It is written without x0, which a combination of several eps does not have; not from alpha = 0.
    """
    sigma = b.sigma if sigma is None else sigma
    return (b.alpha / a.alpha) * x + (sigma - a.sigma * (b.alpha / a.alpha)) * eps


def ratio_coordinates(at: Point) -> tuple[float, float]:
    """Return (c, s) of u = x / c = x0 + s eps, s = sigma / alpha: du/ds = (u - x0) / s."""
    return at.alpha, at.ratio


def flow_coordinates(at: Point) -> tuple[float, float]:
    """Return (c, s) of u = x / c = (1 - s) x0 + s eps, the time of a flow: du/ds = (u - x0) / s."""
    return at.alpha + at.sigma, at.sigma / (at.alpha + at.sigma)


# DPM-Solver: an exponential integrator over lam, by differences of the latest estimates


def phi_1(k: float) -> float:
    """Return e^-k - 1."""
    return math.expm1(-k)


def phi_2(k: float) -> float:
    """Return phi_1 / k + 1."""
    if abs(k) < 0.5:  # where the closed form cancels
        return -sum((-k) ** j / math.factorial(j + 1) for j in range(1, 16))
    return phi_1(k) / k + 1.0


def phi_3(k: float) -> float:
    """Return phi_2 / k - 1/2."""
    if abs(k) < 0.5:
        return sum((-k) ** j / math.factorial(j + 2) for j in range(1, 16))
    return phi_2(k) / k - 0.5


# The weight of D1 in a step of order 2, and of D2 in one of order 3. As published the latter is
# half of what the second difference needs, so the method is second order; "exact" doubles it.
# "reference" repeats a sign that is wrong in diffusers' SDE.
SOLVER_TYPES: dict[str, Callable[[float], float]] = {
    "midpoint": lambda k: -0.5 * phi_1(k),
    "heun": phi_2,
}
THIRD_ORDERS: dict[str, Callable[[float], float]] = {
    "published": lambda k: -phi_3(k),
    "exact": lambda k: -2 * phi_3(k),
    "reference": lambda k: -phi_3(k) - 1.0,
}


def weights(
    order: int, k: float, solver_type: str = "midpoint", third_order: str = "published"
) -> tuple[float, ...]:
    """Return the weights of D0, D1, D2: k = (1 + eta) h where they are of x0, k = -h of eps.

    arXiv:2211.01095, appendix B.
    """
    if order == 1:
        return (-phi_1(k),)
    if order == 2:
        return -phi_1(k), SOLVER_TYPES[solver_type](k)
    return -phi_1(k), phi_2(k), THIRD_ORDERS[third_order](k)


def differences(nodes: Nodes, h: float) -> tuple[Any, ...]:
    """Return D0, D1, D2 of the newest one to three estimates over lam, for a step of length h.

    arXiv:2211.01095, appendix B.
    """
    (l0, m0), *older = nodes
    if not older:
        return (m0,)
    (l1, m1), *older = older
    r0 = (l0 - l1) / h
    D1_0 = (m0 - m1) / r0
    if not older:
        return m0, D1_0
    ((l2, m2),) = older
    r1 = (l1 - l2) / h
    D1_1 = (m1 - m2) / r1
    D2 = (D1_0 - D1_1) / (r0 + r1)
    return m0, D1_0 + r0 * D2, D2


def x0_step(
    x: Any, D: Sequence[Any], w: Sequence[float], a: Point, b: Point, eta: float
) -> tuple[Any, float]:
    """Return the sample that DPM-Solver++ goes to before its noise, and the std of that.

    (sigma_b / sigma_a) e^(-eta h) x + alpha_b sum w D, and sigma_b sqrt(1 - e^(-2 eta h)), where
    h = lam_b - lam_a and D are the differences of x0 (arXiv:2211.01095, appendix B; SDE eq. 16).
    """
    h = b.lam - a.lam
    part = b.sigma / a.sigma * (math.exp(-eta * h) if eta else 1.0)
    std = b.sigma * math.sqrt(-math.expm1(-2 * eta * h)) if eta else 0.0
    if h == -math.inf:  # up to alpha = 0, where alpha_b w is a limit
        return part * x + (b.alpha - a.alpha * part) * D[0], std
    return sum(((b.alpha * wj) * Dj for wj, Dj in zip(w, D, strict=True)), part * x), std


def eps_step(
    x: Any, D: Sequence[Any], w: Sequence[float], a: Point, b: Point, eta: float
) -> tuple[Any, float]:
    """Return the sample that DPM-Solver goes to before its noise, and the std of that.

    (alpha_b / alpha_a) x + (1 + eta) sigma_b sum w D, and sigma_b sqrt(eta (e^(2 h) - 1)), where
    h = lam_b - lam_a and D are the differences of eps (arXiv:2206.00927, section 3; SDE
    arXiv:2211.01095, eq. 15).
    """
    if a.alpha == 0 or b.sigma == 0:
        raise ValueError(
            f"a solver for eps cannot step from sigma/alpha = {a.ratio:g} to {b.ratio:g}, where its"
            " formula is infinite; use the ++ solver, or a grid between finite levels"
        )
    h = b.lam - a.lam
    std = b.sigma * math.sqrt(eta * math.expm1(2 * h)) if eta else 0.0
    scale = (1 + eta) * b.sigma
    terms = ((scale * wj) * Dj for wj, Dj in zip(w, D, strict=True))
    return sum(terms, (b.alpha / a.alpha) * x), std


# multistep methods


def history(count: int, nodes: Nodes) -> Nodes:
    """Return the newest nodes, at most count, up to one at an infinite level or the one before's.

    What is older than a step of length zero is left out with it: it would have to be kept longer.
    """
    kept = nodes[:1]
    for level, value in nodes[1:count]:
        if not math.isfinite(level) or level == kept[-1][0]:
            break
        kept.append((level, value))
    return kept


def steps_and_orders(
    grid: Any,
    solver_order: int,
    ramp_down: bool = False,
    euler_at_final: bool = False,
    level: Callable[[Point], float] = lambda p: p.lam,
) -> Iterator[tuple[Point, Point, int]]:
    """Yield the two ends of every step, and the order that it may have.

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


def lagrange_integrals(
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


def higher_order_terms(nodes: Nodes, factors: Sequence[float]) -> Any:
    """Return sum of factor_j (value_j - value_0), j >= 1: what a method adds to first order.

    The weights of a consistent method sum to that of the first-order one, so this is all of it.
    """
    newest = nodes[0][1]
    terms = [w * (value - newest) for w, (_, value) in zip(factors, nodes[1:], strict=True)]
    return sum(terms[1:], terms[0])
