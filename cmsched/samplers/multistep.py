"""Multistep DPM-Solver and DPM-Solver++, ODE and SDE, orders 1 to 3."""

from .formulas import (
    SOLVER_TYPES,
    THIRD_ORDERS,
    differences,
    eps_step,
    history,
    steps_and_orders,
    weights,
    x0_step,
)
from .registry import register
from .requests import Store


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


MULTISTEP = {
    "order": measured_order,
    "stored": lambda o: o["solver_order"] - 1,
    "stochastic": lambda o: o["eta"] > 0,
    "choices": {
        "solver_order": (1, 2, 3),
        "solver_type": tuple(SOLVER_TYPES),
        "third_order": tuple(THIRD_ORDERS),
    },
}
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
    **MULTISTEP,
    variants=(
        *VARIANTS,
        {"solver_order": 3, "eta": 1.0},
        {"solver_order": 3, "eta": 1.0, "third_order": "reference"},
        {"solver_order": 2, "corrector": "unic"},
        {"solver_order": 2, "corrector": (("solver_order", 1), ("predict_x0", False))},
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
    """DPM-Solver++ multistep (2M, 3M) and its SDE: differences of the latest x0 in lam.

    x_b = (sigma_b / sigma_a) e^(-eta h) x + alpha_b (w0 D0 + w1 D1 + w2 D2) + std z, where
    h = lam_b - lam_a and std = sigma_b sqrt(1 - e^(-2 eta h)).
    """
    nodes = []
    for a, b, order in steps_and_orders(grid, solver_order, ramp_down, euler_at_final):
        x, x0 = yield x, a
        nodes = history(solver_order, [(a.lam, x0), *nodes])
        h = b.lam - a.lam
        D = differences(nodes[:order], h)
        w = weights(len(D), (1 + eta) * h, solver_type, third_order)
        x, std = x0_step(x, D, w, a, b, eta)
        if std > 0:
            x = x + std * noise(a, b)
    return x


@register(
    "dpm_multistep",
    paper="arXiv:2206.00927, section 3; SDE arXiv:2211.01095, eq. 15",
    **MULTISTEP,
    exact=lambda o: not o["eta"],
    singular=False,
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
    """DPM-Solver multistep and its SDE: differences of the latest eps in lam.

    x_b = (alpha_b / alpha_a) x + (1 + eta) sigma_b (w0 D0 + w1 D1 + w2 D2) + std z, where
    h = lam_b - lam_a and std = sigma_b sqrt(eta (e^(2 h) - 1)).
    """
    nodes = []
    for a, b, order in steps_and_orders(grid, solver_order, ramp_down, euler_at_final):
        x, x0 = yield x, a
        eps = (x - a.alpha * x0) / a.sigma
        if solver_order > 1:
            eps = yield Store(eps)
        nodes = history(solver_order, [(a.lam, eps), *nodes])
        h = b.lam - a.lam
        D = differences(nodes[:order], h)
        w = weights(len(D), -h, solver_type, third_order)
        x, std = eps_step(x, D, w, a, b, eta)
        if std > 0:
            x = x + std * noise(a, b)
    return x
