"""Multistep DPM-Solver and DPM-Solver++, ODE and SDE, orders 1 to 3."""

from . import Keep, register
from .formulas import differences, exponential_step, newest, orders

SOLVERS = ("midpoint", "heun")
THIRD_ORDERS = ("published", "exact", "reference")
CHOICES = {"solver_order": (1, 2, 3), "solver_type": SOLVERS, "third_order": THIRD_ORDERS}


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
    fixed={"predict_x0": True},
    choices=CHOICES,
    variants=(
        *VARIANTS,
        {"solver_order": 3, "eta": 1.0},
        {"solver_order": 3, "eta": 1.0, "third_order": "reference"},
        {"solver_order": 2, "corrector": "unic"},
        {"solver_order": 2, "corrector": (("solver_order", 1), ("predict_x0", False))},
    ),
)
@register(
    "dpm_multistep",
    paper="arXiv:2206.00927, section 3; SDE arXiv:2211.01095, eq. 15",
    order=measured_order,
    stored=lambda o: o["solver_order"] - 1,
    stochastic=lambda o: o["eta"] > 0,
    exact=lambda o: not o["eta"],
    singular=False,
    fixed={"predict_x0": False},
    choices=CHOICES,
    variants=VARIANTS,
)
def dpm_multistep(
    x,
    grid,
    noise,
    *,
    predict_x0,
    solver_order=2,
    eta=0.0,
    solver_type="midpoint",
    third_order="published",
    ramp_down=False,
    euler_at_final=False,
):
    """Differences of the newest estimates, of x0 (++) or of eps, in `exponential_step`."""
    nodes = []
    for a, b, order in orders(grid, solver_order, ramp_down, euler_at_final):
        x, m = yield x, a
        if not predict_x0:
            m = (x - a.alpha * m) / a.sigma
            m = (yield Keep(m)) if solver_order > 1 else m
        nodes = newest(solver_order, [(a.lam, m), *nodes])
        x, std = exponential_step(
            x,
            differences(nodes[:order], b.lam - a.lam),
            a,
            b,
            eta=eta,
            predict_x0=predict_x0,
            solver_type=solver_type,
            third_order=third_order,
        )
        if std > 0:
            x = x + std * noise(a, b)
    return x
