"""Multistep DPM-Solver and DPM-Solver++, ODE and SDE, orders 1 to 3."""

import math

from . import Keep, register

SOLVERS = ("midpoint", "heun")
THIRD_ORDERS = ("published", "exact", "reference")


def remainder(m, k):
    """Sum over j >= 1 of -(-k)^j / (j + m)!: (1 - (1 - e^-k) / k) for m = 1, (1/2 - that / k) for m = 2."""
    if abs(k) < 0.5:  # the closed forms cancel
        return -sum((-k) ** j / math.factorial(j + m) for j in range(1, 16))
    first = 1.0 + math.expm1(-k) / k
    return first if m == 1 else 0.5 - first / k


def weights(order, k, solver_type, third_order):
    """Weights of D0, D1, D2 (arXiv:2211.01095, appendix B) for k = (1 + eta) h; noise prediction has k = -h.

    The published third-order weight is half of what the second difference needs, so the method is second order;
    "exact" doubles it. "reference" repeats a sign that is wrong in diffusers' SDE variant.
    """
    f = -math.expm1(-k)
    if order == 1:
        return (f,)
    if order == 2:
        return (f, 0.5 * f if solver_type == "midpoint" else remainder(1, k))
    bend = remainder(2, k)
    return (f, remainder(1, k), {"published": bend, "exact": 2 * bend, "reference": bend - 1.0}[third_order])


def differences(nodes, h):
    """D0, D1, D2 of arXiv:2211.01095, appendix B, from the newest 1 to 3 (lam, value) nodes; steps relative to h."""
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


def orders(grid, solver_order, ramp_down, euler_at_final):
    """The order each step may have: lower at the end if asked for, first where lam is infinite."""
    n = len(grid)
    for i, (a, b) in enumerate(grid.steps()):
        left = n - i
        order = min(solver_order, left) if ramp_down else solver_order
        if (left == 1 and euler_at_final) or math.isinf(b.lam) or math.isinf(a.lam) or a.lam == b.lam:
            order = 1
        yield a, b, order


def _order(options):
    """Measured: order 3 as published is second order."""
    order = options["solver_order"]
    if options["eta"]:
        return 1
    return 2 if order == 3 and options["third_order"] == "published" else order


VARIANTS = (
    {"solver_order": 1},
    {"solver_order": 2},
    {"solver_order": 2, "solver_type": "heun"},
    {"solver_order": 3},
    {"solver_order": 3, "third_order": "exact"},
    {"solver_order": 2, "eta": 1.0},
    {"solver_order": 2, "eta": 1.0, "solver_type": "heun"},
)


@register(
    "dpmpp_multistep",
    paper="arXiv:2211.01095, algorithm 2 and appendix B; SDE its eq. 16",
    order=_order,
    stored=lambda o: o["solver_order"] - 1,
    stochastic=lambda o: o["eta"] > 0,
    variants=(*VARIANTS, {"solver_order": 3, "eta": 1.0}),
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
    """x_b = (sigma_b / sigma_a) e^(-eta h) x + alpha_b (w0 D0 + w1 D1 + w2 D2) + sigma_b sqrt(1 - e^(-2 eta h)) z.

    D are differences of the estimates x0, h = lam_b - lam_a.
    """
    nodes = []
    for a, b, order in orders(grid, solver_order, ramp_down, euler_at_final):
        x, x0 = yield x, a
        h = b.lam - a.lam
        nodes = [(a.lam, x0), *nodes][: max(solver_order, 1)]
        known = [node for node in nodes if math.isfinite(node[0])] or nodes[:1]
        order = min(order, len(known))
        decay = math.exp(-eta * h) if eta else 1.0
        x = (b.sigma / a.sigma * decay) * x
        terms = differences(known[:order], h)
        for w, d in zip(weights(order, (1 + eta) * h, solver_type, third_order), terms, strict=True):
            x = x + (b.alpha * w) * d
        if eta and b.sigma > 0:
            x = x + (b.sigma * math.sqrt(-math.expm1(-2 * eta * h))) * noise(a, b)
    return x


@register(
    "dpm_multistep",
    paper="arXiv:2206.00927, section 3; SDE arXiv:2211.01095, eq. 15",
    order=_order,
    stored=lambda o: o["solver_order"] - 1,
    stochastic=lambda o: o["eta"] > 0,
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
    """x_b = (alpha_b / alpha_a) x + sigma_b (1 + eta) (w0 D0 + w1 D1 + w2 D2) + sigma_b sqrt(e^(2 eta h) - 1) z.

    D are differences of the estimates eps, the weights those of -h. It cannot end at sigma = 0 or start at alpha = 0.
    """
    nodes = []
    for a, b, order in orders(grid, solver_order, ramp_down, euler_at_final):
        x, x0 = yield x, a
        eps = yield Keep((x - a.alpha * x0) / a.sigma)
        h = b.lam - a.lam
        nodes = [(a.lam, eps), *nodes][:solver_order]
        order = min(order, len(nodes))
        x = (b.alpha / a.alpha) * x
        terms = differences(nodes[:order], h)
        for w, d in zip(weights(order, -h, solver_type, third_order), terms, strict=True):
            x = x + (b.sigma * (1 + eta) * w) * d
        if eta:
            x = x + (b.sigma * math.sqrt(math.expm1(2 * eta * h))) * noise(a, b)
    return x
