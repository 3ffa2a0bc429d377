"""UniC, the corrector of UniPC, which any deterministic sampler can have."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..schedules import Point
from .formulas import higher_order_terms, history, lagrange_integrals
from .requests import Evaluate, Store


class Integrator(NamedTuple):
    """The variation of constants for x0 (data prediction) or eps (noise prediction), called m.

    x_b = part x_a + scale int e^(sign (lam_b - lam)) m(lam) dlam, which is part x_a + whole m for a
    constant m (arXiv:2302.04867, eq. 3 and 5).
    """

    sign: float
    coefficients: Callable[[Point, Point], tuple[float, float, float]]  # part, whole, scale


def data_coefficients(a: Point, b: Point) -> tuple[float, float, float]:
    """Return part, whole and scale for x0."""
    part = b.sigma / a.sigma
    return part, b.alpha - a.alpha * part, b.alpha


def noise_coefficients(a: Point, b: Point) -> tuple[float, float, float]:
    """Return part, whole and scale for eps."""
    part = b.alpha / a.alpha
    return part, b.sigma - a.sigma * part, -b.sigma


DATA, NOISE = Integrator(-1.0, data_coefficients), Integrator(1.0, noise_coefficients)
B_FUNCTIONS: dict[str, Callable[[float], float]] = {"bh1": lambda h: h, "bh2": math.expm1}


def unipc_step(x, nodes, a, b, integrator, B):
    """Return x at b from x at a and (lam, estimate) nodes, the first of them at a."""
    part, whole, _ = integrator.coefficients(a, b)
    y = part * x + whole * nodes[0][1]
    return y + unipc_terms(nodes, a, b, integrator, B) if len(nodes) > 1 else y


def unipc_terms(nodes, a, b, integrator, B):
    """Return what two nodes or more add to the step of the first one.

    With one difference only, its weight is B(h) / 2 as published.
    """
    h, sign = b.lam - a.lam, integrator.sign
    *_, scale = integrator.coefficients(a, b)
    if len(nodes) == 2:
        share = 1.0 if nodes[1][0] == b.lam else h / (nodes[1][0] - a.lam)
        return higher_order_terms(nodes, [0.5 * scale * (sign * B(sign * h)) * share])
    levels = [level for level, _ in nodes]
    exact = lagrange_integrals(levels, a.lam, b.lam, lambda u: np.exp(sign * (b.lam - u)))
    return higher_order_terms(nodes, [scale * w for w in exact[1:]])


def has_corrected_end(a, b, integrator, B):
    """Whether the end of a step can be corrected: it has a length, and B(h) is finite."""
    h = b.lam - a.lam
    if a.alpha == 0 and b.sigma > 0:
        return math.isfinite(B(integrator.sign * h))
    return h != 0 and math.isfinite(h)


def check_steps(disable_corrector):
    """Raise unless these are numbers of steps, or True."""
    listed = isinstance(disable_corrector, tuple) and all(type(k) is int for k in disable_corrector)
    if not listed and disable_corrector is not True:
        raise ValueError(
            "disable_corrector must list step numbers, or be True for all steps, got"
            f" {disable_corrector!r}"
        )


def corrected(
    loop,
    grid,
    *,
    solver_order,
    solver_type,
    predict_x0,
    disable_corrector,
    ramp_down,
    from_start,
):
    """Correct each sample of another loop once the network has seen it: UniC (eq. 5, B2).

    The options are those of "unipc". What the network said of x0 (or of eps) holds for the
    corrected sample too. What the correction takes from the step before is one array, stored with
    the estimates.
    """
    check_steps(disable_corrector)
    integrator, B = DATA if predict_x0 else NOISE, B_FUNCTIONS[solver_type]
    reply, start, nodes, a, order = None, None, [], None, 0
    done, step = grid.total - len(grid), 0
    while True:
        try:
            asked = loop.send(reply)
        except StopIteration as end:
            return end.value
        if isinstance(asked, Store):
            reply = yield asked
            continue
        predicted, b, _ = Evaluate(*asked)
        off = disable_corrector is True or done + step - 1 in disable_corrector
        rest = None  # of the correction: all but the weight of the estimate that is not there yet
        if a is not None and not off and has_corrected_end(a, b, integrator, B):
            (level, value), *older = nodes[:order]
            unseen = [(level, value), (b.lam, 0.0 * value), *older]
            rest = unipc_step(start, unseen, a, b, integrator, B)
            rest = yield Store(rest if from_start else rest - predicted)
            ones = [(at, float(i == 1)) for i, (at, _) in enumerate(unseen)]
            weight = unipc_step(0.0, ones, a, b, integrator, B)
        x, x0, *eps = yield asked
        m = x0 if predict_x0 else (yield Store((x - b.alpha * x0) / b.sigma))
        if rest is not None:
            change = rest + weight * m - x if from_start else rest + weight * m
            x = x + change
            if predict_x0:
                eps = [e + change / b.sigma for e in eps]
            else:
                x0 = x0 + change / b.alpha
        x0 = x0 if predict_x0 else (yield Store(x0))
        start, a = x, b
        nodes = history(solver_order, [(b.lam, m), *nodes])
        left = len(grid) - step
        order = min(solver_order, len(nodes), left) if ramp_down else len(nodes)
        step += 1
        reply = (x, x0, *eps)
