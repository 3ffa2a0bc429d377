"""Runge-Kutta methods: Heun, midpoint (DPM2, DPM++ 2S and SDE), singlestep DPM-Solver."""

import itertools
import math
from typing import Any

from .first_order import churn, churns, exact_churn
from .formulas import (
    SOLVER_TYPES,
    ancestral,
    ddim_step,
    differences,
    eps_step,
    flow_coordinates,
    history,
    ratio_coordinates,
    weights,
    x0_step,
)
from .registry import register
from .requests import Store

VARIABLES = {"ratio": ratio_coordinates, "flow": flow_coordinates}


@register(
    "heun",
    paper="arXiv:2206.00364, algorithm 2",
    order=2,
    stored=lambda o: 1 + o["from_start"],
    evaluations=2,
    stochastic=churns,
    exact=exact_churn,
    choices={"variable": tuple(VARIABLES)},
    variants=({}, {"s_churn": 5.0}, {"variable": "flow"}, {"from_start": True}),
)
def heun(
    x,
    grid,
    noise,
    *,
    s_churn=0.0,
    s_tmin=0.0,
    s_tmax=math.inf,
    s_noise=1.0,
    variable="ratio",
    from_start=False,
):
    """Heun: trapezoidal rule in sigma / alpha, or in a flow's time, s = sigma / (alpha + sigma).

    The slope at the base is read back out of Euler's y, or kept, for a step that is `from_start`
    whatever y has become since. A step to sigma = 0, or from alpha = 0 where sigma / alpha is
    infinite, is Euler's.
    """
    coordinates = VARIABLES[variable]
    for a, b in grid.steps():
        x, a = churn(x, a, grid, noise, s_churn, s_tmin, s_tmax, s_noise)
        x, x0 = yield x, a
        y = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)
        (ca, sa), (cb, sb) = coordinates(a), coordinates(b)
        if sb > 0 and sa < math.inf:
            if from_start:
                slope = yield Store((x - ca * x0) / (ca * sa))
            y, y0 = yield y, b
            if from_start:
                mean = 0.5 * (slope + (y - cb * y0) / (cb * sb))
                y = cb * (x / ca + (sb - sa) * mean)
            else:
                y = 0.5 * ((cb / ca) * x + y) + 0.5 * (1 - sa / sb) * (y - cb * y0)
        x = y
    return x


def middle(grid, a, b, sigma):
    """The middle in lam of a step from a to sigma at b."""
    return grid.at(ratio=math.sqrt(a.ratio * sigma / b.alpha))


@register(
    "dpm2",
    paper="DPM-Solver-2, arXiv:2206.00927, section 3.2, in ratio; churn arXiv:2206.00364",
    order=2,
    stored=1,
    evaluations=2,
    stochastic=churns,
    exact=exact_churn,
    variants=({}, {"s_churn": 5.0}),
)
def dpm2(x, grid, noise, *, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
    """DPM2: Euler to the middle in lam, then the whole step along the middle's eps.

    A step to sigma = 0, or from alpha = 0, is Euler's.
    """
    for a, b in grid.steps():
        x, a = churn(x, a, grid, noise, s_churn, s_tmin, s_tmax, s_noise)
        x, x0 = yield x, a
        eps = (x - a.alpha * x0) / a.sigma
        if b.sigma == 0 or a.alpha == 0:
            x = b.alpha * x0 + b.sigma * eps
        else:
            mid = middle(grid, a, b, b.sigma)
            y, y0 = yield mid.alpha * x0 + mid.sigma * eps, mid
            x = ddim_step(x, (y - mid.alpha * y0) / mid.sigma, a, b)
    return x


ANCESTRAL = {
    "order": lambda o: 1 if o["eta"] else 2,
    "stored": 1,
    "evaluations": 2,
    "stochastic": lambda o: o["eta"] > 0,
    "exact": lambda o: o["s_noise"] == 1 or not o["eta"],
}


@register(
    "dpm2_ancestral",
    paper="k-diffusion sample_dpm_2_ancestral",
    **ANCESTRAL,
    variants=({}, {"eta": 0.5}),
)
def dpm2_ancestral(x, grid, noise, *, eta=1.0, s_noise=1.0):
    """DPM2 a: DPM2 down to the ancestral level, and noise up again.

    A step to sigma = 0, or from alpha = 0, is Euler's.
    """
    for a, b in grid.steps():
        down, up = ancestral(a, b, eta)
        x, x0 = yield x, a
        eps = (x - a.alpha * x0) / a.sigma
        if down == 0 or a.alpha == 0:
            x = b.alpha * x0 + down * eps
        else:
            mid = middle(grid, a, b, down)
            y, y0 = yield mid.alpha * x0 + mid.sigma * eps, mid
            x = ddim_step(x, (y - mid.alpha * y0) / mid.sigma, a, b, down)
        if up > 0:
            x = x + (up * s_noise) * noise(a, b)
    return x


@register(
    "dpmpp_2s_ancestral",
    paper="DPM-Solver++(2S), arXiv:2211.01095, algorithm 1; k-diffusion sample_dpmpp_2s_ancestral",
    **ANCESTRAL,
    variants=({}, {"eta": 0.0}),
)
def dpmpp_2s_ancestral(x, grid, noise, *, eta=1.0, s_noise=1.0):
    """DPM++ 2S a: Euler to the middle in lam, the whole step with the middle's x0; then noise.

    The step is down to the ancestral level, and noise brings it up again. One to sigma = 0, or
    from alpha = 0, is Euler's.
    """
    for a, b in grid.steps():
        down, up = ancestral(a, b, eta)
        x, x0 = yield x, a
        eps = (x - a.alpha * x0) / a.sigma
        if down == 0 or a.alpha == 0:
            x = b.alpha * x0 + down * eps
        else:
            mid = middle(grid, a, b, down)
            _, y0 = yield mid.alpha * x0 + mid.sigma * eps, mid
            part = down / a.sigma
            x = part * x + (b.alpha - part * a.alpha) * y0
        if up > 0:
            x = x + (up * s_noise) * noise(a, b)
    return x


@register(
    "dpmpp_sde",
    paper="DPM-Solver++ SDE in two stages: k-diffusion sample_dpmpp_sde",
    order=lambda o: 1 if o["eta"] else 2,
    stored=1,
    evaluations=2,
    stochastic=lambda o: o["eta"] > 0,
    exact=lambda o: o["s_noise"] == 1 or not o["eta"],
    variants=({}, {"eta": 0.0}, {"eta": 0.5, "r": 0.4}),
)
def dpmpp_sde(x, grid, noise, *, eta=1.0, s_noise=1.0, r=0.5):
    """DPM++ SDE: an ancestral step to the part r of the way in lam, then one with both estimates.

    The noises of both stages are increments of one Brownian path in sigma / alpha: that over the
    whole step is made of the stage's own and one over the rest.
    """
    if not 0 < r <= 1:
        raise ValueError(f"r is the part of a step at which its stage stands, in (0, 1], got {r:g}")
    for a, b in grid.steps():
        x, x0 = yield x, a
        if b.sigma == 0 or a.alpha == 0:
            down, up = ancestral(a, b, eta)
            x = b.alpha * x0 + down * ((x - a.alpha * x0) / a.sigma)
            x = x + (up * s_noise) * noise(a, b) if up > 0 else x
            continue
        mid = grid.at(ratio=math.exp((1 - r) * math.log(a.ratio) + r * math.log(b.ratio)))
        down, up = ancestral(a, mid, eta)
        y = (down / a.sigma) * x + (mid.alpha - a.alpha * down / a.sigma) * x0
        first = noise(a, mid) if up > 0 else None
        y = y if first is None else y + (up * s_noise) * first
        down, up = ancestral(a, b, eta)
        part = down / a.sigma
        whole = b.alpha - a.alpha * part
        x = part * x + ((1 - 0.5 / r) * whole) * x0
        if first is not None:
            share = (a.ratio - mid.ratio) / (a.ratio - b.ratio)
            x = x + (up * s_noise * math.sqrt(share)) * first
        x = yield Store(x)
        _, y0 = yield y, mid
        x = x + ((0.5 / r) * whole) * y0
        if first is not None:
            x = x + (up * s_noise * math.sqrt(1 - share)) * noise(mid, b)
    return x


def group_sizes(grid: Any, solver_order: int, lower_order_final: bool, begun: int = 0) -> list[int]:
    """Return the number of grid steps in each step of a singlestep method.

    A step from alpha = 0 or to sigma = 0 is one of order 1. LuChengTHU/dpm-solver,
    get_orders_and_timesteps_for_singlestep_solver. The grid may be what is left of one of which so
    many steps were taken (begun), in the groups of which it then goes on.
    """
    first = [1] if grid.points[0].alpha == 0 else []
    last = grid.points[-1].sigma == 0
    n = begun + len(grid) - len(first)
    sizes = [solver_order] * (n // solver_order) + [n % solver_order]
    if sizes[-1] == 0 and (last or lower_order_final) and n:
        sizes[-2:] = [solver_order - 1, 1]
    elif sizes[-1] > 1 and last:
        sizes[-1:] = [sizes[-1] - 1, 1]
    sizes = [*first, *(size for size in sizes if size)]
    ends = itertools.accumulate(sizes)
    return [min(size, end - begun) for size, end in zip(sizes, ends, strict=True) if end > begun]


def singlestep_order(options):
    """A whole group reaches its order; a shorter last step lowers it by one."""
    order, lower = options["solver_order"], options["lower_order_final"]
    return 1 if options["eta"] else min(order, 2) if lower else order


SINGLESTEP = {
    "order": singlestep_order,
    "smooth": lambda o: o["solver_order"] == 3,
    "stored": lambda o: o["solver_order"] if o["solver_order"] > 1 else 0,
    "stochastic": lambda o: o["eta"] > 0,
    "correctable": False,
    "choices": {
        "solver_order": (1, 2, 3),
        "solver_type": tuple(SOLVER_TYPES),
        "lower_order_final": (True, False),
    },
}


def stage_nodes(nodes, solver_type, h):
    """The estimates that a stage uses: its step's first, with the newest or (heun) all others."""
    *later, first = nodes
    if h == 0:
        return [first]
    return [first, *(later if solver_type == "heun" else later[:1])]


@register(
    "dpmpp_singlestep",
    paper="arXiv:2211.01095, algorithm 1; SDE its eq. 16",
    **SINGLESTEP,
    variants=(
        {"solver_order": 1},
        {"solver_order": 2, "lower_order_final": False},
        {"solver_order": 3},
        {"solver_order": 3, "lower_order_final": False},
        {"solver_order": 3, "solver_type": "heun", "lower_order_final": False},
        {"solver_order": 2, "eta": 1.0},
        {"solver_order": 3, "eta": 1.0},
    ),
)
def dpmpp_singlestep(
    x,
    grid,
    noise,
    *,
    solver_order=2,
    eta=0.0,
    solver_type="midpoint",
    lower_order_final=True,
    aligned=False,
):
    """DPM-Solver++ singlestep (2S, 3S): groups of up to three grid steps, whose points are stages.

    Stage k goes from the group's base to its k-th point with all k estimates of x0 in the group.
    Order 3 needs stages near a third and two thirds of the way. A run that is taken up later begins
    a group there, or is in the groups of the whole run, the rest of one first (aligned).
    """
    walk, begun = grid.steps(), grid.total - len(grid) if aligned else 0
    for size in group_sizes(grid, solver_order, lower_order_final, begun):
        nodes = []
        for stage in range(size):
            a, b = next(walk)
            x, x0 = yield x, a
            if stage == 0:
                base, first = x, a
            if stage < size - 1:
                base = yield Store(base)
            nodes = history(3, [(a.lam, x0), *nodes])
            h = b.lam - first.lam
            D = differences(stage_nodes(nodes, solver_type, h), h)
            w = weights(len(D), (1 + eta) * h, solver_type if stage == 1 else "heun", "exact")
            x, std = x0_step(base, D, w, first, b, eta)
            if std > 0:
                x = x + std * noise(first, b)
    return x


@register(
    "dpm_singlestep",
    paper="arXiv:2206.00927, algorithms 1, 4 and 5",
    **SINGLESTEP,
    exact=lambda o: not o["eta"],
    singular=False,
    variants=(
        {"solver_order": 2, "solver_type": "heun", "lower_order_final": False},
        {"solver_order": 3, "lower_order_final": False},
        {"solver_order": 3, "solver_type": "heun", "lower_order_final": False},
    ),
)
def dpm_singlestep(
    x,
    grid,
    noise,
    *,
    solver_order=2,
    eta=0.0,
    solver_type="midpoint",
    lower_order_final=True,
    aligned=False,
):
    """DPM-Solver singlestep: `dpmpp_singlestep` with the estimates of eps."""
    walk, begun = grid.steps(), grid.total - len(grid) if aligned else 0
    for size in group_sizes(grid, solver_order, lower_order_final, begun):
        nodes = []
        for stage in range(size):
            a, b = next(walk)
            x, x0 = yield x, a
            if stage == 0:
                base, first = x, a
            eps = (x - a.alpha * x0) / a.sigma
            if stage < size - 1:
                base = yield Store(base)
                eps = yield Store(eps)
            nodes = history(3, [(a.lam, eps), *nodes])
            h = b.lam - first.lam
            D = differences(stage_nodes(nodes, solver_type, h), h)
            w = weights(len(D), -h, solver_type if stage == 1 else "heun", "exact")
            x, std = eps_step(base, D, w, first, b, eta)
            if std > 0:
                x = x + std * noise(first, b)
    return x
