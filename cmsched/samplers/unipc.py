"""UniPC, a predictor of any order with its corrector."""

from .adams import ORDERS
from .formulas import history, steps_and_orders
from .registry import register
from .requests import Evaluate, Store
from .unic import (
    B_FUNCTIONS,
    DATA,
    NOISE,
    check_steps,
    has_corrected_end,
    unipc_step,
    unipc_terms,
)


@register(
    "unipc",
    paper="arXiv:2302.04867, algorithms 1 to 4",
    order=lambda o: o["solver_order"] + (o["disable_corrector"] is not True),
    stored=lambda o: o["solver_order"] - (o["disable_corrector"] is True) + o["from_start"],
    choices={
        "solver_order": ORDERS,
        "solver_type": tuple(B_FUNCTIONS),
        "predict_x0": (True, False),
    },
    correctable=False,
    variants=(
        *({"solver_order": k} for k in (1, 2, 3, 4)),
        {"solver_order": 2, "solver_type": "bh1"},
        {"solver_order": 2, "predict_x0": False},
        {"solver_order": 3, "predict_x0": False},
        {"solver_order": 3, "disable_corrector": True},
        {"solver_order": 2, "from_start": True},
    ),
)
def unipc(
    x,
    grid,
    noise,
    *,
    solver_order=2,
    solver_type="bh2",
    predict_x0=True,
    disable_corrector=(),
    ramp_down=False,
    from_start=False,
):
    """UniPC: predict with the latest estimates; correct with that of the prediction as well.

    disable_corrector: the steps after which to leave the prediction as it is, or True for all. A
    correction is added to the prediction, or takes the step again `from_start`, whatever the
    prediction has become since.
    """
    check_steps(disable_corrector)
    integrator, B = DATA if predict_x0 else NOISE, B_FUNCTIONS[solver_type]
    done = grid.total - len(grid)
    nodes, last, order, start = [], None, 0, None
    for step, (a, b, most) in enumerate(
        steps_and_orders(grid, solver_order, ramp_down), start=done
    ):
        x, x0, eps = yield Evaluate(x, a, eps=True)
        m = x0 if predict_x0 else (yield Store((x - a.alpha * x0) / a.sigma))
        off = disable_corrector is True or step - 1 in disable_corrector
        if last is not None and not off and has_corrected_end(last, a, integrator, B):
            used = [nodes[0], (a.lam, m), *nodes[1:order]]
            if from_start:
                x = unipc_step(start, used, last, a, integrator, B)
            else:
                x = x + unipc_terms(used, last, a, integrator, B)
                if order > 1:  # what the prediction took in their place
                    x = x - unipc_terms(nodes[:order], last, a, integrator, B)
        nodes = history(solver_order, [(a.lam, m), *nodes])
        last, order = a, min(most, len(nodes))
        if from_start:
            start = x = yield Store(x)
        if predict_x0 or (a.alpha > 0 and b.sigma > 0):
            x = unipc_step(x, nodes[:order], a, b, integrator, B)
        else:
            x = b.alpha * x0 + b.sigma * eps  # to 0 what the network says, which is exact there
    return x
