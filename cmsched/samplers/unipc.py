"""UniPC: a predictor of any order, and a corrector that any deterministic sampler can have."""

import math

import numpy as np

from . import Keep, Raw, register
from .adams import ORDERS
from .formulas import bend, integrals, newest, orders


def unified(x, nodes, a, b, *, predict_x0=True, **options):
    """Return x at b from x at a and (lam, estimate) nodes, the first of them at a.

    arXiv:2302.04867, eq. 3 and 5, for x0 (or eps): the polynomial through the nodes, integrated
    with the exponential of the ODE.
    """
    if predict_x0:
        part = b.sigma / a.sigma
        whole = b.alpha - a.alpha * part
    else:
        part = b.alpha / a.alpha
        whole = b.sigma - a.sigma * part
    y = part * x + whole * nodes[0][1]
    return y + bent(nodes, a, b, predict_x0=predict_x0, **options) if len(nodes) > 1 else y


def bent(nodes, a, b, *, solver_type="bh2", predict_x0=True):
    """Return what two nodes or more add to the step of the first one.

    With one difference only, its weight is B(h) / 2 as published.
    """
    h = b.lam - a.lam
    sign, scale = (-1.0, b.alpha) if predict_x0 else (1.0, -b.sigma)
    if len(nodes) == 2:
        size = h if solver_type == "bh1" else sign * math.expm1(sign * h)
        share = 1.0 if nodes[1][0] == b.lam else h / (nodes[1][0] - a.lam)
        return bend(nodes, [0.5 * scale * size * share])
    levels = [level for level, _ in nodes]
    exact = integrals(levels, a.lam, b.lam, lambda u: np.exp(sign * (b.lam - u)))
    return bend(nodes, [scale * w for w in exact[1:]])


def corrects(a, b, *, solver_type="bh2", predict_x0=True):
    """Whether a step has a corrected end: it has a length, and B(h) is finite."""
    h = b.lam - a.lam
    limit = a.alpha == 0 and b.sigma > 0 and solver_type == "bh2" and predict_x0
    return h != 0 and (math.isfinite(h) or limit)


def check_steps(disable_corrector):
    """Raise unless these are numbers of steps, or True."""
    listed = isinstance(disable_corrector, tuple) and all(type(k) is int for k in disable_corrector)
    if not listed and disable_corrector is not True:
        raise ValueError(
            "disable_corrector must list step numbers, or be True for all steps, got"
            f" {disable_corrector!r}"
        )


def corrected(loop, grid, *, solver_order, solver_type, predict_x0, disable_corrector, ramp_down):
    """Correct each sample of another loop once the network has seen it: UniC (eq. 5, B2).

    The options are those of "unipc". What the network said of x0 (or of eps) holds for the
    corrected sample too. What the correction takes from the step before is one array, kept with
    the estimates.
    """
    check_steps(disable_corrector)
    options = {"solver_type": solver_type, "predict_x0": predict_x0}
    reply, start, nodes, a, order = None, None, [], None, 0
    done, step = grid.total - len(grid), 0
    while True:
        try:
            asked = loop.send(reply)
        except StopIteration as end:
            return end.value
        if isinstance(asked, Keep):
            reply = yield asked
            continue
        predicted, b = asked
        off = disable_corrector is True or done + step - 1 in disable_corrector
        known = None
        if a is not None and not off and corrects(a, b, **options):
            (level, value), *older = nodes[:order]
            unseen = [(level, value), (b.lam, 0.0 * value), *older]
            known = yield Keep(unified(start, unseen, a, b, **options) - predicted)
            ones = [(at, float(i == 1)) for i, (at, _) in enumerate(unseen)]
            own = unified(0.0, ones, a, b, **options)
        x, x0, *eps = yield asked
        m = x0 if predict_x0 else (yield Keep((x - b.alpha * x0) / b.sigma))
        if known is not None:
            change = known + own * m
            x = x + change
            if predict_x0:
                eps = [e + change / b.sigma for e in eps]
            else:
                x0 = x0 + change / b.alpha
        x0 = x0 if predict_x0 else (yield Keep(x0))
        start, a = x, b
        nodes = newest(solver_order, [(b.lam, m), *nodes])
        left = len(grid) - step
        order = min(solver_order, len(nodes), left) if ramp_down else len(nodes)
        step += 1
        reply = (x, x0, *eps)


@register(
    "unipc",
    paper="arXiv:2302.04867, algorithms 1 to 4",
    order=lambda o: o["solver_order"] + (o["disable_corrector"] is not True),
    stored=lambda o: o["solver_order"] - (o["disable_corrector"] is True),
    choices={"solver_order": ORDERS, "solver_type": ("bh1", "bh2"), "predict_x0": (True, False)},
    correctable=False,
    variants=(
        *({"solver_order": k} for k in (1, 2, 3, 4)),
        {"solver_order": 2, "solver_type": "bh1"},
        {"solver_order": 2, "predict_x0": False},
        {"solver_order": 3, "predict_x0": False},
        {"solver_order": 3, "disable_corrector": True},
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
):
    """Predict with the newest estimates; correct with the one made of the prediction as well.

    disable_corrector: the steps after which to leave the prediction as it is, or True for all.
    """
    check_steps(disable_corrector)
    options = {"solver_type": solver_type, "predict_x0": predict_x0}
    done = grid.total - len(grid)
    nodes, last, order = [], None, 0
    for step, (a, b, most) in enumerate(orders(grid, solver_order, ramp_down), start=done):
        x, x0, eps = yield Raw(x, a)
        m = x0 if predict_x0 else (yield Keep((x - a.alpha * x0) / a.sigma))
        off = disable_corrector is True or step - 1 in disable_corrector
        if last is not None and not off and corrects(last, a, **options):
            used = [nodes[0], (a.lam, m), *nodes[1:order]]
            x = x + bent(used, last, a, **options)  # in place of what the prediction took:
            x = x - bent(nodes[:order], last, a, **options) if order > 1 else x
        nodes = newest(solver_order, [(a.lam, m), *nodes])
        last, order = a, min(most, len(nodes))
        if predict_x0 or (a.alpha > 0 and b.sigma > 0):
            x = unified(x, nodes[:order], a, b, **options)
        else:
            x = b.alpha * x0 + b.sigma * eps  # to 0 what the network says, which is exact there
    return x
