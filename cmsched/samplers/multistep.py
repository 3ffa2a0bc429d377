"""Multistep DPM-Solver and DPM-Solver++, ODE and SDE, orders 1 to 3."""

import math

from . import Keep, register

SOLVERS = ("midpoint", "heun")
THIRD_ORDERS = ("published", "exact", "reference")
CHOICES = {"solver_order": (1, 2, 3), "solver_type": SOLVERS, "third_order": THIRD_ORDERS}


def remainder(m, k):
    """1 - (1 - e^-k) / k for m = 1, 1/2 - that / k for m = 2: -sum of (-k)^j / (j + m)!, j >= 1."""
    if abs(k) < 0.5:  # the closed forms cancel
        return -sum((-k) ** j / math.factorial(j + m) for j in range(1, 16))
    first = 1.0 + math.expm1(-k) / k
    return first if m == 1 else 0.5 - first / k


def weights(order, k, solver_type="midpoint", third_order="published"):
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


def differences(nodes, h):
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


def newest(count, nodes):
    """At most count nodes, newest first; an older one where lam is -inf, or the same, is no use."""
    (lam, _), *older = nodes
    return [nodes[0], *(node for node in older if -math.inf < node[0] < lam)][:count]


def orders(grid, solver_order, ramp_down, euler_at_final):
    """The two ends of every step and the order it may have.

    Lower at the end if asked for; first where a step has no length in lam, or no end.
    """
    n = len(grid)
    for left, (a, b) in zip(range(n, 0, -1), grid.steps(), strict=True):
        order = min(solver_order, left) if ramp_down else solver_order
        if (left == 1 and euler_at_final) or not 0 < b.lam - a.lam < math.inf:
            order = 1
        yield a, b, order


def measured_order(options):
    """Order 3 as published is second order; with noise all are first.

    The reference's sign keeps a part of the second difference, which for a noisy sample is not
    small: its error grows with the square root of the number of steps.
    """
    order, third = options["solver_order"], options["third_order"]
    if order == 3 and third == "reference":
        return -0.5 if options["eta"] else 1
    if options["eta"]:
        return 1
    return 2 if order == 3 and third == "published" else order


VARIANTS = (
    {"solver_order": 1},
    {"solver_order": 2},
    {"solver_order": 2, "solver_type": "heun"},
    {"solver_order": 3},
    {"solver_order": 3, "third_order": "exact"},
    {"solver_order": 1, "eta": 0.5},
    {"solver_order": 2, "eta": 1.0},
    {"solver_order": 2, "eta": 1.0, "solver_type": "heun"},
    {"solver_order": 3, "eta": 1.0, "third_order": "exact"},
)


@register(
    "dpmpp_multistep",
    paper="arXiv:2211.01095, algorithm 2 and appendix B; SDE its eq. 16",
    order=measured_order,
    stored=lambda o: o["solver_order"] - 1,
    stochastic=lambda o: o["eta"] > 0,
    choices=CHOICES,
    variants=(
        *VARIANTS,
        {"solver_order": 3, "eta": 1.0},
        {"solver_order": 3, "eta": 1.0, "third_order": "reference"},
    ),
)
def dpmpp_multistep(
    x,
    grid,
    noise,
    *,
    solver_order=2,
    eta=0.0,
    solver_type="midpoint",
    third_order="published",
    ramp_down=False,
    euler_at_final=False,
):
    """x_b = (sigma_b / sigma_a) e^(-eta h) x + alpha_b (w0 D0 + w1 D1 + w2 D2) + std z.

    D are differences of the estimates x0, h = lam_b - lam_a, std = sigma_b sqrt(1 - e^(-2 eta h)).
    """
    nodes = []
    for a, b, order in orders(grid, solver_order, ramp_down, euler_at_final):
        x, x0 = yield x, a
        h = b.lam - a.lam
        nodes = newest(solver_order, [(a.lam, x0), *nodes])
        terms = differences(nodes[:order], h)
        x = (b.sigma / a.sigma * (math.exp(-eta * h) if eta else 1.0)) * x
        factors = weights(len(terms), (1 + eta) * h, solver_type, third_order)
        for w, d in zip(factors, terms, strict=True):
            x = x + (b.alpha * w) * d
        if eta and b.sigma > 0:
            x = x + (b.sigma * math.sqrt(-math.expm1(-2 * eta * h))) * noise(a, b)
    return x


@register(
    "dpm_multistep",
    paper="arXiv:2206.00927, section 3; SDE arXiv:2211.01095, eq. 15",
    order=measured_order,
    stored=lambda o: o["solver_order"] - 1,
    stochastic=lambda o: o["eta"] > 0,
    exact=lambda o: not o["eta"],
    singular=False,
    choices=CHOICES,
    variants=VARIANTS,
)
def dpm_multistep(
    x,
    grid,
    noise,
    *,
    solver_order=2,
    eta=0.0,
    solver_type="midpoint",
    third_order="published",
    ramp_down=False,
    euler_at_final=False,
):
    """x_b = (alpha_b / alpha_a) x + (1 + eta) sigma_b (w0 D0 + w1 D1 + w2 D2) + std z.

    D are differences of the estimates eps, the weights those of -h, std^2 = eta sigma_b^2
    (e^(2 h) - 1). It cannot start where alpha = 0 or end where sigma = 0.
    """
    nodes = []
    for a, b, order in orders(grid, solver_order, ramp_down, euler_at_final):
        if a.alpha == 0.0 or b.sigma == 0.0:
            raise ValueError(
                f"dpm_multistep cannot step from sigma/alpha = {a.ratio:g} to {b.ratio:g}, where"
                " its formula is infinite; use dpmpp_multistep, or a grid between finite levels"
            )
        x, x0 = yield x, a
        eps = (x - a.alpha * x0) / a.sigma
        if solver_order > 1:
            eps = yield Keep(eps)
        h = b.lam - a.lam
        nodes = newest(solver_order, [(a.lam, eps), *nodes])
        terms = differences(nodes[:order], h)
        x = (b.alpha / a.alpha) * x
        factors = weights(len(terms), -h, solver_type, third_order)
        for w, d in zip(factors, terms, strict=True):
            x = x + ((1 + eta) * b.sigma * w) * d
        if eta:
            x = x + (b.sigma * math.sqrt(eta * math.expm1(2 * h))) * noise(a, b)
    return x
