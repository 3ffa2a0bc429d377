"""Linear multistep methods: LMS, iPNDM, DEIS, PNDM and its PLMS half."""

import numpy as np

from . import Keep, Raw, register
from .formulas import bend, carry, integrals, newest, orders

ORDERS = tuple(range(1, 10))
# Adams-Bashforth of equal steps (arXiv:2202.09778, eq. 12)
EQUAL = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def linear_multistep(x, grid, solver_order, level, factors, **ends):
    """First-order steps, bent by the differences of the newest eps at their levels."""
    nodes = []
    for a, b, order in orders(grid, solver_order, level=level, **ends):
        x, x0, eps = yield Raw(x, a)
        if a.sigma > 0:  # as x0 was clipped; in clean data there is only the network's own
            eps = (x - a.alpha * x0) / a.sigma
        if solver_order > 1:
            eps = yield Keep(eps)
        nodes = newest(solver_order, [(level(a), eps), *nodes])
        y = carry(x, eps, a, b) if a.alpha > 0 else b.alpha * x0 + b.sigma * eps
        used = nodes[:order]
        if len(used) > 1:
            y = y + bend(used, factors([at for at, _ in used], a, b)[1:])
        x = y
    return x


def kept(options):
    """A method of order p keeps the p - 1 eps before the newest."""
    return options["solver_order"] - 1


def whole(options):
    """The order asked for."""
    return options["solver_order"]


@register(
    "ipndm_v",
    paper="arXiv:2204.13902, Adams-Bashforth with the weights of uneven steps",
    order=whole,
    stored=kept,
    choices={"solver_order": ORDERS},
    variants=({},),
)
@register(
    "lms",
    paper="k-diffusion sample_lms: Adams-Bashforth in sigma / alpha, exact weights",
    order=whole,
    stored=kept,
    variants=(
        *({"solver_order": k} for k in (1, 2, 3, 4)),
        {"solver_order": 2, "corrector": "unic"},
    ),
)
def lms(x, grid, noise, *, solver_order=4, euler_at_final=False):
    """The polynomial through the newest eps, integrated over sigma / alpha without error."""

    def factors(levels, a, b):
        return [b.alpha * w for w in integrals(levels, a.ratio, b.ratio)]

    ends = {"euler_at_final": euler_at_final}
    return (yield from linear_multistep(x, grid, solver_order, lambda p: p.ratio, factors, **ends))


@register(
    "ipndm",
    paper="arXiv:2204.13902, section 3.2: Adams-Bashforth weights of equal steps",
    order=lambda o: min(o["solver_order"], 2),
    smooth=True,
    stored=kept,
    choices={"solver_order": (1, 2, 3, 4)},
    variants=({"solver_order": 2}, {"solver_order": 4}),
)
def ipndm(x, grid, noise, *, solver_order=4, euler_at_final=False):
    """The weights of equal steps whatever the steps are; of its own order where they are equal."""

    def factors(levels, a, b):
        return [b.alpha * (b.ratio - a.ratio) * w for w in EQUAL[len(levels) - 1]]

    ends = {"euler_at_final": euler_at_final}
    return (yield from linear_multistep(x, grid, solver_order, lambda p: p.ratio, factors, **ends))


@register(
    "deis",
    paper="arXiv:2204.13902, eq. 15, the polynomial in log rho",
    order=whole,
    stored=kept,
    choices={"solver_order": ORDERS},
    variants=(
        *({"solver_order": k} for k in (1, 2, 3, 4)),
        {"solver_order": 3, "corrector": "unic"},
    ),
)
def deis(x, grid, noise, *, solver_order=2, ramp_down=False):
    """The polynomial in lam through the newest eps, integrated with the exponential of the ODE."""

    def factors(levels, a, b):
        exact = integrals(levels, a.lam, b.lam, lambda u: np.exp(b.lam - u))
        return [-b.sigma * w for w in exact]

    ends = {"ramp_down": ramp_down}
    return (yield from linear_multistep(x, grid, solver_order, lambda p: p.lam, factors, **ends))


def combined(past):
    """The Adams-Bashforth combination of up to four slopes, newest first."""
    parts = [w * m for w, m in zip(EQUAL[len(past) - 1], past, strict=True)]
    return sum(parts[1:], parts[0])


def slope(x, eps, at, predict_v):
    """What PNDM combines: eps, or (the published code) v, where alpha^2 + sigma^2 = 1."""
    return (eps - at.sigma * x) / at.alpha if predict_v else eps


def moved(x, m, a, b, predict_v):
    """Return x moved from a to b along a combination of these, v turned into eps by a and x."""
    return carry(x, a.alpha * m + a.sigma * x if predict_v else m, a, b)


def moved_back(y, m, a, b, predict_v):
    """The x at a which m moved to y at b."""
    part = b.alpha / a.alpha
    gap = b.sigma - a.sigma * part
    p, q = (a.alpha, a.sigma) if predict_v else (1.0, 0.0)
    return (y - gap * p * m) / (part + gap * q)


@register(
    "plms",
    paper="arXiv:2202.09778, algorithm 2 after a Heun step; CompVis/latent-diffusion plms",
    order=2,
    smooth=True,
    stored=3,
    correctable=False,
)
def plms(x, grid, noise, *, predict_v=False, idle=False):
    """Adams-Bashforth combinations of eps, moved as DDIM does; the first step evaluates twice.

    Where a run is taken up later, its first step is DDIM's: the loop has no second evaluation left.
    Where that is at the second evaluation itself, it is at the next step already, and waits (idle).
    Published code combines v where the network says it, and not the eps of these (predict_v).
    """
    past, whole_run = [], grid.total == len(grid)
    if idle:
        x, *_ = yield Raw(x, grid.points[0])
    for step, (a, b) in enumerate(grid.steps()):
        x, x0, eps = yield Raw(x, a)
        if a.alpha == 0:
            x = b.alpha * x0 + b.sigma * eps
            continue
        m = yield Keep(slope(x, eps, a, predict_v))
        if whole_run and not past and step < len(grid) - 1:
            at = grid.points[step + 1]  # of arrivals, beside b
            y, _, eps = yield Raw(moved(x, m, a, b, predict_v), at)
            ahead = slope(y, eps, at, predict_v)
            m = yield Keep(m)  # in the place of `ahead`, which is not remembered
            base = a if at == b else grid.at_time(at.t + a.t - b.t)
            x = moved_back(y, m, a, b, predict_v)
            x = moved(x, 0.5 * (m + ahead), base, at, predict_v)
        else:
            x = moved(x, combined([m, *past]), a, b, predict_v)
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
def pndm(x, grid, noise, *, half_step=None, predict_v=False):
    """PLMS after three Runge-Kutta steps of four evaluations; PLMS alone on fewer than four steps.

    The middle of a step is in the middle of its times. Published code goes half_step below its
    beginning, and evaluates half_step above its end; predict_v is that of `plms`.
    """
    done = grid.total - len(grid)
    if grid.total < 4 or grid.points[0].alpha == 0 or (not done and grid.points[3].sigma == 0):
        return (yield from plms(x, grid, noise, predict_v=predict_v))
    past = []
    for step, (a, b) in enumerate(grid.steps(), start=done):
        if step < 3:
            mid = first = grid.at_time(0.5 * (a.t + b.t))
            if half_step is not None:
                first, mid = grid.at(t=a.t - half_step), grid.at(t=b.t + half_step)
            base, total = x, None
            stages = ((a, first, 1 / 6), (mid, mid, 1 / 3), (mid, b, 1 / 3), (b, b, 1 / 6))
            for k, (at, to, weight) in enumerate(stages):
                x, _, eps = yield Raw(x, at)
                m = slope(x, eps, at, predict_v)
                if total is None:
                    base, past = x, [m, *past]
                total = weight * m if total is None else total + weight * m
                x = moved(base, total if k == 3 else m, a, to, predict_v)
                *past, base, total = yield from hold(past, base, total)
        else:
            x, _, eps = yield Raw(x, a)
            m = slope(x, eps, a, predict_v)
            x = moved(x, combined([m, *past]), a, b, predict_v)
            past = yield from hold([m, *past[:2]])
    return x


def hold(past, *others):
    """Keep up to three past eps and others, each in a place of its own whatever their number."""
    out = []
    for value in (*past, *past[:1] * (3 - len(past)), *others):
        out.append((yield Keep(value)))
    return out[: len(past)] + out[3:]
