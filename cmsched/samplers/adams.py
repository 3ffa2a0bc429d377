"""Linear multistep methods: LMS, iPNDM, DEIS, PNDM and its PLMS half."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..schedules import Point
from .formulas import ddim_step, higher_order_terms, history, lagrange_integrals, steps_and_orders
from .registry import register
from .requests import Evaluate, Store

ORDERS = tuple(range(1, 10))
# the weights of equal steps, newest first (arXiv:2202.09778, eq. 12)
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def linear_multistep(x, grid, solver_order, level, factors, **ends):
    """A DDIM step and the higher-order terms of the latest eps, by their levels.

    factors(levels, a, b) are the weights of eps at these levels in the step from a to b.
    """
    nodes = []
    for a, b, order in steps_and_orders(grid, solver_order, level=level, **ends):
        x, x0, eps = yield Evaluate(x, a, eps=True)
        if a.sigma > 0:  # as x0 was clipped; in clean data there is only the network's own
            eps = (x - a.alpha * x0) / a.sigma
        if solver_order > 1:
            eps = yield Store(eps)
        nodes = history(solver_order, [(level(a), eps), *nodes])
        y = ddim_step(x, eps, a, b) if a.alpha > 0 else b.alpha * x0 + b.sigma * eps
        used = nodes[:order]
        if len(used) > 1:
            y = y + higher_order_terms(used, factors([at for at, _ in used], a, b)[1:])
        x = y
    return x


def stored_eps(options):
    """A method of order p stores the p - 1 eps before the newest."""
    return options["solver_order"] - 1


def full_order(options):
    """The order asked for."""
    return options["solver_order"]


@register(
    "ipndm_v",
    paper="arXiv:2204.13902, Adams-Bashforth with the weights of uneven steps",
    order=full_order,
    stored=stored_eps,
    choices={"solver_order": ORDERS},
    variants=({},),
)
@register(
    "lms",
    paper="k-diffusion sample_lms: Adams-Bashforth in sigma / alpha, exact weights",
    order=full_order,
    stored=stored_eps,
    variants=(
        *({"solver_order": k} for k in (1, 2, 3, 4)),
        {"solver_order": 2, "corrector": "unic"},
    ),
)
def lms(x, grid, noise, *, solver_order=4, euler_at_final=False):
    """LMS: the polynomial through the latest eps, integrated over sigma / alpha without error."""

    def factors(levels, a, b):
        return [b.alpha * w for w in lagrange_integrals(levels, a.ratio, b.ratio)]

    ends = {"euler_at_final": euler_at_final}
    return (yield from linear_multistep(x, grid, solver_order, lambda p: p.ratio, factors, **ends))


@register(
    "ipndm",
    paper="arXiv:2204.13902, section 3.2: Adams-Bashforth weights of equal steps",
    order=lambda o: min(o["solver_order"], 2),
    smooth=True,
    stored=stored_eps,
    choices={"solver_order": (1, 2, 3, 4)},
    variants=({"solver_order": 2}, {"solver_order": 4}),
)
def ipndm(x, grid, noise, *, solver_order=4, euler_at_final=False):
    """iPNDM: the weights of equal steps whatever the steps are, of their order where these are."""

    def factors(levels, a, b):
        return [b.alpha * (b.ratio - a.ratio) * w for w in ADAMS_BASHFORTH[len(levels) - 1]]

    ends = {"euler_at_final": euler_at_final}
    return (yield from linear_multistep(x, grid, solver_order, lambda p: p.ratio, factors, **ends))


@register(
    "deis",
    paper="arXiv:2204.13902, eq. 15, the polynomial in log rho",
    order=full_order,
    stored=stored_eps,
    choices={"solver_order": ORDERS},
    variants=(
        *({"solver_order": k} for k in (1, 2, 3, 4)),
        {"solver_order": 3, "corrector": "unic"},
    ),
)
def deis(x, grid, noise, *, solver_order=2, ramp_down=False):
    """DEIS: the polynomial in lam through the latest eps, integrated with the ODE's exponential."""

    def factors(levels, a, b):
        exact = lagrange_integrals(levels, a.lam, b.lam, lambda u: np.exp(b.lam - u))
        return [-b.sigma * w for w in exact]

    ends = {"ramp_down": ramp_down}
    return (yield from linear_multistep(x, grid, solver_order, lambda p: p.lam, factors, **ends))


def adams_bashforth(slopes):
    """The combination of up to four slopes for an equal step, newest first."""
    weights = ADAMS_BASHFORTH[len(slopes) - 1]
    terms = [w * m for w, m in zip(weights, slopes, strict=True)]
    return sum(terms[1:], terms[0])


class Slope(NamedTuple):
    """What PNDM combines, m with eps = p m + q x: how to come from eps at x to it, and back."""

    from_eps: Callable[..., Any]  # of (x, eps, at)
    to_eps: Callable[..., Any]  # of (x, m, at)
    factors: Callable[[Point], tuple[float, float]]  # p and q


EPS = Slope(lambda x, eps, at: eps, lambda x, m, at: m, lambda at: (1.0, 0.0))
V = Slope(  # where alpha^2 + sigma^2 = 1
    lambda x, eps, at: (eps - at.sigma * x) / at.alpha,
    lambda x, v, at: at.alpha * v + at.sigma * x,
    lambda at: (at.alpha, at.sigma),
)


def step_along(x, m, a, b, slope):
    """DDIM's step from a to b along a combination m of slopes, made eps by a and x."""
    return ddim_step(x, slope.to_eps(x, m, a), a, b)


def step_back(y, m, a, b, slope):
    """The x at a from which `step_along` m led to y at b."""
    p, q = slope.factors(a)
    part = b.alpha / a.alpha
    gap = b.sigma - a.sigma * part
    return (y - gap * p * m) / (part + gap * q)


def store_all(past, *others):
    """Store up to three past slopes, and others, in places that do not depend on their number."""
    out = []
    for value in (*past, *past[:1] * (3 - len(past)), *others):
        out.append((yield Store(value)))
    return out[: len(past)] + out[3:]


@register(
    "plms",
    paper="arXiv:2202.09778, algorithm 2 after a Heun step; CompVis/latent-diffusion plms",
    order=2,
    smooth=True,
    stored=lambda o: 3 + o["from_start"],
    correctable=False,
    variants=({}, {"from_start": True}),
)
def plms(x, grid, noise, *, predict_v=False, idle=False, from_start=False):
    """PLMS: DDIM steps along Adams-Bashforth combinations of eps; the first step evaluates twice.

    Where a run is taken up later, its first step is DDIM's: the loop has no second evaluation left.
    Where that is at the second evaluation itself, it is at the next step already, and waits (idle).
    Published code combines v where the network says it, and not the eps of these (predict_v), and
    keeps the sample that the run began with for its second evaluation (from_start).
    """
    slope = V if predict_v else EPS
    past, whole_run = [], grid.total == len(grid)
    if idle:
        x, *_ = yield Evaluate(x, grid.points[0], eps=True)
    for step, (a, b) in enumerate(grid.steps()):
        x, x0, eps = yield Evaluate(x, a, eps=True)
        if a.alpha == 0:
            x = b.alpha * x0 + b.sigma * eps
            continue
        m = yield Store(slope.from_eps(x, eps, a))
        if whole_run and not past and step < len(grid) - 1:
            at = grid.points[step + 1]  # of arrivals, beside b
            start = (yield Store(x)) if from_start else None
            y, _, eps = yield Evaluate(step_along(x, m, a, b, slope), at, eps=True)
            ahead = slope.from_eps(y, eps, at)
            m = yield Store(m)  # in the place of `ahead`, which is not remembered
            base = a if at == b else grid.at_time(at.t + a.t - b.t)
            x = start if from_start else step_back(y, m, a, b, slope)
            x = step_along(x, 0.5 * (m + ahead), base, at, slope)
        else:
            x = step_along(x, adams_bashforth([m, *past]), a, b, slope)
        past = [m, *past][:3]
    return x


@register(
    "pndm",
    paper="arXiv:2202.09778, algorithm 2, Runge-Kutta for the first three steps",
    order=2,
    smooth=True,
    stored=5,
    correctable=False,
)
def pndm(x, grid, noise, *, half_step=None, predict_v=False, from_start=False):
    """PLMS after three Runge-Kutta steps of four evaluations; PLMS alone on fewer than four steps.

    The middle of a step is in the middle of its times. Published code goes half_step below its
    beginning, and evaluates half_step above its end; predict_v and from_start are those of `plms`.
    """
    done = grid.total - len(grid)
    if grid.total < 4 or grid.points[0].alpha == 0 or (not done and grid.points[3].sigma == 0):
        return (yield from plms(x, grid, noise, predict_v=predict_v, from_start=from_start))
    slope = V if predict_v else EPS
    past = []
    for step, (a, b) in enumerate(grid.steps(), start=done):
        if step < 3:
            mid = first = grid.at_time(0.5 * (a.t + b.t))
            if half_step is not None:
                first, mid = grid.at(t=a.t - half_step), grid.at(t=b.t + half_step)
            base, total = x, None
            stages = ((a, first, 1 / 6), (mid, mid, 1 / 3), (mid, b, 1 / 3), (b, b, 1 / 6))
            for k, (at, to, weight) in enumerate(stages):
                x, _, eps = yield Evaluate(x, at, eps=True)
                m = slope.from_eps(x, eps, at)
                if total is None:
                    base, past = x, [m, *past]
                total = weight * m if total is None else total + weight * m
                x = step_along(base, total if k == 3 else m, a, to, slope)
                *past, base, total = yield from store_all(past, base, total)
        else:
            x, _, eps = yield Evaluate(x, a, eps=True)
            m = slope.from_eps(x, eps, a)
            x = step_along(x, adams_bashforth([m, *past]), a, b, slope)
            past = yield from store_all([m, *past[:2]])
    return x
