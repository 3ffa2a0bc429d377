"""Stochastic samplers on Gaussian data: mean and variance by exact propagation, nothing sampled."""

import math

import numpy as np
import pytest
from exact import (
    FRAMES,
    Gaussian,
    arrivals,
    grid_singular,
    interpret,
    label,
    normals,
    plan_between,
    variants,
)

from cmsched.grids import Grid
from cmsched.plan import make_plan
from cmsched.predictions import Prediction
from cmsched.ramps import karras
from cmsched.samplers import get
from cmsched.schedules import VPSDE, Flow, Logarithmic

pytestmark = pytest.mark.host

DATA = Gaussian()
# an error may pass through zero for one width, not for all
WIDTHS = (Gaussian(-0.4, 0.2), DATA, Gaussian(0.1, 1.4))


def converges(options):
    """Whether the option set adds the noise that its level asks for."""
    return options.get("s_noise", 1.0) == 1.0


def final(plan, estimate=None, data=DATA):
    """Mean and standard deviation at the end, from the exact marginal at the start."""
    size = 3 + 2 * len(plan)
    ends = arrivals(plan)

    def head(i, low, high):
        """The network's log variance: anywhere in a range; itself where it says it directly."""
        if (low, high) != (-1.0, 1.0):
            return 0.7 * low + 0.3 * high
        a, b = plan.points[i], ends[i]
        return math.log(b.sigma**2 * -math.expm1(2 * (a.lam - b.lam)))

    start = data.marginal(plan.grid.points[0], size)
    x = interpret(plan, estimate or data.estimate, start, normals(size), head=head)[-1]
    return x[0], math.sqrt(np.sum(x[1:] ** 2))


def off(plan, data=DATA):
    """Relative errors of mean and standard deviation."""
    end = plan.grid.points[-1]
    mean, std = final(plan, data=data)
    return np.abs([mean / (end.alpha * data.mean) - 1, std / data.spread(end) - 1])


def worst(plan):
    """The larger error of both, over data of several widths."""
    return max(off(plan, data).max() for data in WIDTHS)


STOCHASTIC = [
    (name, options)
    for name, options in variants(stochastic=True)
    if converges(options) and get(name).trait("order", options) > 0
]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(("name", "options"), STOCHASTIC, ids=label)
def test_converges_to_the_data(name, options, frame):
    """Four times the steps, about a quarter of the error or less."""
    coarse, fine = (worst(plan_between(name, (*options.items(),), frame, n)) for n in (64, 256))
    assert fine < 0.4 * coarse
    assert fine < 0.15


@pytest.mark.parametrize(
    ("name", "options"),
    [v for v in variants(stochastic=True) if get(v[0]).trait("order", v[1]) < 0],
    ids=label,
)
def test_what_is_registered_as_divergent_is(name, options):
    """Kept only to agree with another library: more steps make it worse."""
    errors = [off(plan_between(name, tuple(options.items()), "vp", n))[1] for n in (48, 96, 192)]
    assert 0.3 < errors[0] < errors[1] < errors[2], errors


@pytest.mark.parametrize(("name", "options"), variants(stochastic=False), ids=label)
def test_deterministic_samplers_keep_the_distribution_too(name, options):
    errors = [np.abs(off(plan_between(name, tuple(options.items()), "vp", n))) for n in (96, 192)]
    assert np.all(errors[1] < 0.6 * errors[0] + 1e-12)


@pytest.mark.parametrize(("name", "options"), STOCHASTIC, ids=label)
def test_down_to_the_data(name, options):
    """A grid that ends at sigma = 0 ends in the data's own mean and variance."""
    if not get(name).trait("singular", options):
        return  # it ends above 0, see test_order
    tolerance = 0.05 if get(name).trait("exact", options) else 0.25
    schedule = VPSDE()
    n = 450 if "singlestep" in name else 150  # a step takes up to three points
    points = [schedule.at(ratio=r) for r in karras(n, 80.0, 0.01).tolist()]
    grid = Grid((*points, schedule.point(0.0, 0.0)), schedule)
    mean, std = final(make_plan(name, grid, Prediction("sample"), options))
    assert mean == pytest.approx(DATA.mean, rel=0.05)
    assert std == pytest.approx(DATA.std, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "options"),
    [v for v in variants(stochastic=True) if not converges(v[1]) and get(v[0]).order != 0],
    ids=label,
)
def test_more_noise_is_more_variance(name, options):
    """s_noise other than 1 scales what is added: it shifts the variance, in proportion."""
    n = 200
    plain = plan_between(name, (*{**options, "s_noise": 1.0}.items(),), "vp", n)
    louder = plan_between(name, tuple(options.items()), "vp", n)
    mean, std = final(plain)
    assert final(louder)[0] == pytest.approx(mean, rel=1e-12)
    assert std < final(louder)[1] < std * options["s_noise"] ** 8


CONSISTENCY = [v for v in variants() if get(v[0]).jumps]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(("name", "options"), CONSISTENCY, ids=label)
def test_the_exact_consistency_function(name, options, steps, frame):
    """With it any number of steps gives the data's distribution, at sigma_min and at 0."""
    schedule = FRAMES[frame][0]
    levels = [*karras(steps, 20.0, 0.4).tolist()]
    for last in (schedule.at(ratio=0.05), schedule.point(0.0, 0.0)):
        grid = Grid((*(schedule.at(ratio=r) for r in levels), last), schedule)
        plan = make_plan(name, grid, Prediction("sample"), options)
        mean, std = final(plan, lambda x, at, last=last: DATA.consistency(x, at, last))
        assert mean == pytest.approx(last.alpha * DATA.mean, rel=1e-12)
        if converges(options) or steps == 1:
            assert std == pytest.approx(DATA.spread(last), rel=1e-12)
        else:
            assert DATA.spread(last) < std < DATA.spread(last) * options["s_noise"]


def test_consistency_scalings_give_that_function():
    """c_skip x + c_out m with the network output that the exact function asks for."""
    schedule = Logarithmic(factor=250.0)
    points = [schedule.at(ratio=r) for r in (80.0, 3.0, 0.002)]
    grid = Grid(tuple(points), schedule, 80.0)
    plan = make_plan("consistency", grid, Prediction("consistency", sigma_min=0.002))
    mean, std = final(plan, lambda x, at: DATA.consistency(x, at, points[-1]))
    assert mean == pytest.approx(DATA.mean, rel=1e-10)
    assert std == pytest.approx(DATA.spread(points[-1]), rel=1e-10)


@pytest.mark.parametrize(("name", "options"), STOCHASTIC, ids=label)
def test_from_alpha_zero(name, options):
    """A start of pure noise (flow at sigma = 1) has no error of its own: mean 0 and variance 1."""
    if not get(name).trait("singular", options):
        return  # it cannot start there, see test_order
    if name == "flow_sde":
        return  # its diffusion is infinite there, and its published first step approximate
    if "prediction_type" in options:
        options = {**options, "prediction_type": "sample"}
    errors = []
    for n in (50, 200):
        grid = grid_singular(Flow(), n, end=False)
        errors.append(off(make_plan(name, grid, Prediction("sample"), options)))
    assert np.all(errors[1] < np.maximum(errors[0], 1e-3)), errors
    assert np.all(errors[1] < 0.06), errors
