"""DPM-Solver that chooses its own steps: "fast" by a budget, "adaptive" by its error."""

import math

from .formulas import ancestral, ddim_step, phi_2
from .registry import register
from .requests import Rms, Store, Trial


def noise_estimate(x, a, grid):
    """One evaluation at a, the next of the grid: the sample there, and eps."""
    grid.step += 1
    x, x0 = yield x, a
    return x, (x - a.alpha * x0) / a.sigma


def dpm_solver_1(x, grid, a, b, sigma):
    """DPM-Solver-1, which is DDIM, from a to b, arriving at sigma; twice, having no lower order."""
    x, eps = yield from noise_estimate(x, a, grid)
    first = ddim_step(x, eps, a, b, sigma)
    return first, first


def dpm_solver_2(x, grid, a, b, sigma):
    """DPM-Solver-2 (arXiv:2206.00927, algorithm 4): (the sample of order 1, of order 2).

    Its stage is half of the way in lam.
    """
    x, eps = yield from noise_estimate(x, a, grid)
    first = ddim_step(x, eps, a, b, sigma)
    h = math.log(a.ratio) - math.log(sigma / b.alpha)
    mid = grid.at(lam=a.lam + 0.5 * h)
    weight = -sigma * math.expm1(h)
    second = yield Store(first - weight * eps)
    _, eps_mid = yield from noise_estimate(ddim_step(x, eps, a, mid), mid, grid)
    return first, second + weight * eps_mid


def dpm_solver_3(x, grid, a, b, sigma):
    """DPM-Solver-3 (arXiv:2206.00927, algorithm 5): (the sample of order 2, of order 3).

    Its stages are a third and two thirds of the way in lam.
    """
    x, eps = yield from noise_estimate(x, a, grid)
    first = ddim_step(x, eps, a, b, sigma)
    h = math.log(a.ratio) - math.log(sigma / b.alpha)
    one, two = grid.at(lam=a.lam + 1 / 3 * h), grid.at(lam=a.lam + 2 / 3 * h)
    second_weight = -sigma * math.expm1(h) / (2 / 3)
    third_weight = sigma * 1.5 * phi_2(-h)
    stage_weight = two.sigma * 2 * phi_2(-2 / 3 * h)
    third = yield Store(first - third_weight * eps)
    y_two = yield Store(ddim_step(x, eps, a, two) - stage_weight * eps)
    _, eps_one = yield from noise_estimate(ddim_step(x, eps, a, one), one, grid)
    second = first + second_weight * (eps_one - eps)
    third = yield Store(third)
    _, eps_two = yield from noise_estimate(y_two + stage_weight * eps_one, two, grid)
    return second, third + third_weight * eps_two


DPM_SOLVERS = {1: dpm_solver_1, 2: dpm_solver_2, 3: dpm_solver_3}


def finite_ends(grid, name):
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


def euler_step(x, a, b):
    """One evaluation at a, and Euler's step to b."""
    x, x0 = yield x, a
    return b.alpha * x0 + b.sigma * ((x - a.alpha * x0) / a.sigma)


def ancestral_above(a, b, eta, low):
    """The ancestral split of a step, going down no lower than to the whole run's end."""
    down = max(ancestral(a, b, eta)[0], b.alpha * low.ratio if eta else 0.0)
    return down, math.sqrt(max(b.sigma**2 - down**2, 0.0)) if eta else 0.0


def dpm_fast_orders(budget: int) -> list[int]:
    """Return the orders of so many evaluations: 3, ..., 3, 2, 1, or 3, ..., 3 and the rest."""
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
    """DPM fast: as many evaluations as the grid has steps, in DPM-Solver-3s uniform in lam."""
    top, low, ends = finite_ends(grid, "dpm_fast")
    orders = dpm_fast_orders(len(grid) - ends)
    gap = (low.lam - top.lam) / len(orders)
    inner = [grid.at(lam=top.lam + k * gap) for k in range(1, len(orders))]
    grid.step = -1
    for a, b, order in zip([top, *inner], [*inner, low], orders, strict=True):
        down, up = ancestral_above(a, b, eta, low)
        _, x = yield from DPM_SOLVERS[order](x, grid, a, b, down)
        if up > 0:
            x = x + (up * s_noise) * noise(a, b)
    if ends:
        grid.step += 1
        x = yield from euler_step(x, low, grid.points[-1])
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
    """DPM adaptive: steps as long as the error allows, the difference to one order lower.

    The grid gives the two ends. A PID controller proposes the next step in lam; rejected steps are
    taken again, shorter.
    """
    top, low, ends = finite_ends(grid, "dpm_adaptive")
    if not h_init > 0 or not accept_safety < 1 + math.pi / 2:
        raise ValueError(
            f"dpm_adaptive would never take a step with h_init={h_init:g}, which must be above 0,"
            f" and accept_safety={accept_safety:g}, which must be below 2.57"
        )
    solver, control = DPM_SOLVERS[solver_order], 1.5 if eta else solver_order
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
        down, up = ancestral_above(a, b, eta, low)
        lower, higher = yield from solver(x, grid, a, b, down)
        larger = 0.5 * (abs(lower) + abs(before) + abs(abs(lower) - abs(before)))
        allowed = 0.5 * (rtol * larger + atol + abs(rtol * larger - atol))
        error = float((yield Rms((lower - higher) / allowed)))
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
        yield Trial(x, a, error, sign * h, accepted)
    if ends:
        x = yield from euler_step(x, low, grid.points[-1])
    return x
