"""Runge-Kutta methods: Heun, midpoint (DPM2, DPM++ 2S and SDE), singlestep DPM-Solver."""

import itertools
import math
from typing import Any

from . import Keep, register
from .first_order import churn, churned, unchanged
from .formulas import ancestral, carry, coordinates, differences, exponential_step, newest

VARIABLES = ("ratio", "flow")


@register(
    "heun",
    paper="arXiv:2206.00364, algorithm 2",
    order=2,
    stored=1,
    evaluations=2,
    stochastic=churned,
    exact=unchanged,
    choices={"variable": VARIABLES},
    variants=({}, {"s_churn": 5.0}, {"variable": "flow"}),
)
def heun(
    x, grid, noise, *, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0, variable="ratio"
):
    """Trapezoidal rule in r = sigma / alpha, or in the time of a flow, s = sigma / (alpha + sigma).

    The slope at the base is read back out of Euler's y. A step to sigma = 0, or from alpha = 0
    where r is infinite, is Euler's.
    """
    for a, b in grid.steps():
        x, a = churn(x, a, grid, noise, s_churn, s_tmin, s_tmax, s_noise)
        x, x0 = yield x, a
        y = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)
        (ca, sa), (cb, sb) = coordinates(a, variable), coordinates(b, variable)
        if sb > 0 and sa < math.inf:
            y, y0 = yield y, b
            y = 0.5 * ((cb / ca) * x + y) + 0.5 * (1 - sa / sb) * (y - cb * y0)
        x = y
    return x


ANCESTRAL = {
    "order": lambda o: 1 if o["eta"] else 2,
    "stored": 1,
    "evaluations": 2,
    "stochastic": lambda o: o["eta"] > 0,
    "exact": lambda o: o["s_noise"] == 1 or not o["eta"],
    "defaults": {"eta": 1.0},
}
CALM = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf}


@register(
    "dpmpp_2s_ancestral",
    paper="DPM-Solver++(2S), arXiv:2211.01095, algorithm 1; k-diffusion sample_dpmpp_2s_ancestral",
    **ANCESTRAL,
    fixed={"predict_x0": True, **CALM},
    variants=({}, {"eta": 0.0}),
)
@register(
    "dpm2_ancestral",
    paper="k-diffusion sample_dpm_2_ancestral",
    **ANCESTRAL,
    fixed={"predict_x0": False, **CALM},
    variants=({}, {"eta": 0.5}),
)
@register(
    "dpm2",
    paper="DPM-Solver-2, arXiv:2206.00927, section 3.2, in ratio; churn arXiv:2206.00364",
    order=2,
    stored=1,
    evaluations=2,
    stochastic=churned,
    exact=unchanged,
    fixed={"predict_x0": False, "eta": 0.0},
    variants=({}, {"s_churn": 5.0}),
)
def midpoint(
    x,
    grid,
    noise,
    *,
    eta=0.0,
    predict_x0=False,
    s_churn=0.0,
    s_tmin=0.0,
    s_tmax=math.inf,
    s_noise=1.0,
):
    """Euler to the middle in lam, then a whole step with the middle's eps (or its x0).

    With eta the step goes down to the ancestral level and noise brings it up again. A step to
    sigma = 0, or from alpha = 0, is Euler's.
    """
    for a, b in grid.steps():
        x, a = churn(x, a, grid, noise, s_churn, s_tmin, s_tmax, s_noise)
        down, up = ancestral(a, b, eta)
        x, x0 = yield x, a
        eps = (x - a.alpha * x0) / a.sigma
        if down == 0 or a.alpha == 0:
            x = b.alpha * x0 + down * eps
        else:
            mid = grid.at(ratio=math.sqrt(a.ratio * down / b.alpha))
            y, y0 = yield mid.alpha * x0 + mid.sigma * eps, mid
            if predict_x0:
                part = down / a.sigma
                x = part * x + (b.alpha - part * a.alpha) * y0
            else:
                x = carry(x, (y - mid.alpha * y0) / mid.sigma, a, b, down)
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
    """Ancestral step to the part r of the way in lam, then one with both estimates.

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
        x = yield Keep(x)
        _, y0 = yield y, mid
        x = x + ((0.5 / r) * whole) * y0
        if first is not None:
            x = x + (up * s_noise * math.sqrt(1 - share)) * noise(mid, b)
    return x


def groups(grid: Any, solver_order: int, lower_order_final: bool, begun: int = 0) -> list[int]:
    """The number of grid steps that each step of a singlestep method takes.

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
        "solver_type": ("midpoint", "heun"),
        "lower_order_final": (True, False),
    },
}


@register(
    "dpmpp_singlestep",
    paper="arXiv:2211.01095, algorithm 1; SDE its eq. 16",
    **SINGLESTEP,
    fixed={"predict_x0": True},
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
@register(
    "dpm_singlestep",
    paper="arXiv:2206.00927, algorithms 1, 4 and 5",
    **SINGLESTEP,
    exact=lambda o: not o["eta"],
    singular=False,
    fixed={"predict_x0": False},
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
    predict_x0,
    solver_order=2,
    eta=0.0,
    solver_type="midpoint",
    lower_order_final=True,
    aligned=False,
):
    """Steps over groups of up to three grid points; the points inside a group are its stages.

    Stage k goes from the group's base to its k-th point with all k estimates of the group. Order 3
    needs stages near a third and two thirds of the way. A run that is taken up later begins a group
    there, or is in the groups of the whole run, the rest of one first (aligned).
    """
    walk, begun = grid.steps(), grid.total - len(grid) if aligned else 0
    for size in groups(grid, solver_order, lower_order_final, begun):
        base, nodes = None, []
        for stage in range(size):
            a, b = next(walk)
            x, m = yield x, a
            if stage == 0:
                base, first = x, a
            if not predict_x0:
                m = (x - a.alpha * m) / a.sigma
            if size > 1 and stage < size - 1:
                base = yield Keep(base)
                m = m if predict_x0 else (yield Keep(m))
            nodes = newest(3, [(a.lam, m), *nodes])
            used = nodes[-1:] + (nodes[:-1] if solver_type == "heun" else nodes[:-1][:1])
            h = b.lam - first.lam
            x, std = exponential_step(
                base,
                differences(used if h else used[:1], h),
                first,
                b,
                eta=eta,
                predict_x0=predict_x0,
                solver_type=solver_type if stage == 1 else "heun",
                third_order="exact",
            )
            if std > 0:
                x = x + std * noise(first, b)
    return x
