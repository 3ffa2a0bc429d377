"""DPM-Solver that chooses its own steps: "fast" by a budget, "adaptive" by its error."""

import math

from . import Keep, Report, Size, register
from .formulas import ancestral, carry, remainder


def dpm_step(x, grid, a, b, sigma, order):
    """DPM-Solver-1 to -3 from a to b, arriving at sigma: (one order lower, of this order).

    arXiv:2206.00927, algorithms 1, 4 and 5; stages at a third and two thirds of the way in lam.
    """
    grid.step += 1
    x, x0 = yield x, a
    eps = (x - a.alpha * x0) / a.sigma
    euler = carry(x, eps, a, b, sigma)
    if order == 1:
        return euler, euler
    h = math.log(a.ratio) - math.log(sigma / b.alpha)
    first = 1 / order
    one = grid.at(lam=a.lam + first * h)
    slope = -sigma * math.expm1(h) / (2 * first)
    if order == 2:
        higher, ahead = (yield Keep(euler - slope * eps)), None
    else:
        two, bent = grid.at(lam=a.lam + 2 / 3 * h), sigma * 1.5 * remainder(1, -h)
        higher = yield Keep(euler - bent * eps)
        turn = two.sigma * 2 * remainder(1, -2 / 3 * h)
        ahead = yield Keep(carry(x, eps, a, two) - turn * eps)
    y = carry(x, eps, a, one)
    grid.step += 1
    y, y0 = yield y, one
    eps_one = (y - one.alpha * y0) / one.sigma
    second = euler + slope * (eps_one - eps)
    if order == 2:
        return euler, higher + slope * eps_one
    higher = yield Keep(higher)
    grid.step += 1
    y, y0 = yield ahead + turn * eps_one, two
    return second, higher + bent * ((y - two.alpha * y0) / two.sigma)


def finite(grid, name):
    """The first point, the last one above sigma = 0, and whether one more step goes to 0."""
    top, low = grid.points[0], grid.points[-1]
    if low.sigma == 0 and len(grid) > 1:
        low = grid.points[-2]
    if top.alpha * top.sigma * low.alpha * low.sigma == 0:
        raise ValueError(
            f"{name} is uniform in log(alpha / sigma) and cannot step from sigma/alpha ="
            f" {top.ratio:g} to {low.ratio:g}; use a grid with two finite levels above 0"
        )
    return top, low, low is not grid.points[-1]


def clean(x, a, b):
    """One evaluation at a, and the first-order step to b."""
    x, x0 = yield x, a
    return b.alpha * x0 + b.sigma * ((x - a.alpha * x0) / a.sigma)


def arrive(a, b, eta, low):
    """The ancestral split of a step, its lower end no lower than the whole run's."""
    down = max(ancestral(a, b, eta)[0], b.alpha * low.ratio if eta else 0.0)
    return down, math.sqrt(max(b.sigma**2 - down**2, 0.0)) if eta else 0.0


def orders_of(budget: int) -> list[int]:
    """The orders 3, ..., 3, 2, 1 or 3, ..., 3 and the rest, of so many evaluations."""
    full, rest = divmod(budget, 3)
    return [3] * full + [rest] if rest else [3] * (full - 1) + [2, 1]


@register(
    "dpm_fast",
    paper="arXiv:2206.00927, section 3.4; k-diffusion sample_dpm_fast",
    order=lambda o: 1 if o["eta"] else 2,
    stored=2,
    stochastic=lambda o: o["eta"] > 0,
    singular=False,
    correctable=False,
    variants=({}, {"eta": 1.0}),
)
def dpm_fast(x, grid, noise, *, eta=0.0, s_noise=1.0):
    """As many evaluations as the grid has steps, uniform in lam between its ends, in threes."""
    top, low, ends = finite(grid, "dpm_fast")
    sizes = orders_of(len(grid) - ends)
    gap = (low.lam - top.lam) / len(sizes)
    inner = [grid.at(lam=top.lam + k * gap) for k in range(1, len(sizes))]
    grid.step = -1
    for a, b, order in zip([top, *inner], [*inner, low], sizes, strict=True):
        down, up = arrive(a, b, eta, low)
        _, x = yield from dpm_step(x, grid, a, b, down, order)
        if up > 0:
            x = x + (up * s_noise) * noise(a, b)
    if ends:
        grid.step += 1
        x = yield from clean(x, low, grid.points[-1])
    return x


@register(
    "dpm_adaptive",
    paper="arXiv:2206.00927, appendix C; step control of k-diffusion sample_dpm_adaptive",
    order=lambda o: 1 if o["eta"] else o["solver_order"],
    stochastic=lambda o: o["eta"] > 0,
    exact=False,
    singular=False,
    traced=False,
    correctable=False,
    choices={"solver_order": (2, 3)},
    variants=({}, {"solver_order": 2}, {"eta": 1.0}),
)
def dpm_adaptive(
    x,
    grid,
    noise,
    *,
    solver_order=3,
    rtol=0.05,
    atol=0.0078,
    h_init=0.05,
    pcoeff=0.0,
    icoeff=1.0,
    dcoeff=0.0,
    accept_safety=0.81,
    eta=0.0,
    s_noise=1.0,
):
    """Steps as long as the difference to one order lower allows; the grid gives the two ends.

    A PID controller proposes the next step in lam; rejected steps are taken again, shorter.
    """
    top, low, ends = finite(grid, "dpm_adaptive")
    if not h_init > 0 or not accept_safety < 1 + math.pi / 2:
        raise ValueError(
            f"dpm_adaptive would never take a step with h_init={h_init:g}, which must be above 0,"
            f" and accept_safety={accept_safety:g}, which must be below 2.57"
        )
    control = 1.5 if eta else solver_order
    gains = [pcoeff + icoeff + dcoeff, -(pcoeff + 2 * dcoeff), dcoeff]
    sign = math.copysign(1.0, low.lam - top.lam)
    a, before, h, errors = top, x, h_init, None
    while sign * (low.lam - a.lam) > 1e-5:
        near = sign * (low.lam - a.lam) <= h
        b = low if near else grid.at(lam=a.lam + sign * h)
        if h < 1e-9 * abs(low.lam - top.lam):
            raise ValueError(
                f"dpm_adaptive cannot meet rtol={rtol:g} and atol={atol:g} at sigma/alpha ="
                f" {a.ratio:g}: no step is short enough; allow a larger error"
            )
        down, up = arrive(a, b, eta, low)
        lower, higher = yield from dpm_step(x, grid, a, b, down, solver_order)
        larger = 0.5 * (abs(lower) + abs(before) + abs(abs(lower) - abs(before)))
        allowed = 0.5 * (rtol * larger + atol + abs(rtol * larger - atol))
        error = float((yield Size((lower - higher) / allowed)))
        inverse = 1 / (error + 1e-8)
        errors = [inverse, *(errors or [inverse] * 3)[1:]]
        pairs = zip(errors, gains, strict=True)
        factor = 1 + math.atan(math.prod(e ** (g / control) for e, g in pairs) - 1)
        h *= factor
        accepted = factor >= accept_safety
        grid.counts["accepted" if accepted else "rejected"] += 1
        if accepted:
            errors = [errors[0], errors[0], errors[1]]
            x = higher + (up * s_noise) * noise(a, b) if up > 0 else higher
            a, before = b, lower
        yield Report(x, a, error, sign * h, accepted)
    if ends:
        x = yield from clean(x, low, grid.points[-1])
    return x
