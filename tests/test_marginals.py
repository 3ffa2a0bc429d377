"""Rows keep the marginals x = alpha x0 + sigma eps, by exact propagation of joint moments.

A sample is carried as its coefficients over (x0, eps, draws ...), all independent; the network
knows x0. What arrives at a level must have alpha of x0 and sigma^2 of the rest, whatever memory
and noise the row mixed, and the correlations between them are counted.
"""

import math

import numpy as np
import pytest
from exact import (
    ENDS,
    FRAMES,
    arrivals,
    grid_between,
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
from cmsched.rows import INSIDE, OUTSIDE
from cmsched.samplers import REGISTRY, get
from cmsched.samplers.first_order import VARIANCES
from cmsched.schedules import VPSDE, Betas, Flow

pytestmark = pytest.mark.host

SIZE = 200


def moments(plan):
    """The (x0 coefficient, rest's standard deviation) of the sample before evaluations and last."""
    first, last = plan.grid.points[0], plan.grid.points[-1]
    jumps = get(plan.sampler).jumps

    def estimate(x, at):
        out = np.zeros(SIZE)
        out[0] = 1.0
        if jumps:  # a consistency function stops at the last level, on the way that x came
            rest = x / at.sigma
            rest[0] = 0.0
            out = out + last.ratio * rest
        return out

    start = np.zeros(SIZE)
    start[:2] = first.alpha, first.sigma
    path = interpret(plan, estimate, start, normals(SIZE))
    return [(x[0], math.sqrt(np.sum(x[1:] ** 2))) for x in path]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(("name", "options"), variants(exact=True), ids=label)
def test_marginals_are_kept(name, options, frame):
    plan = plan_between(name, tuple(options.items()), frame, 12)
    points = [plan.points[0], *arrivals(plan)]
    for (alpha, sigma), at in zip(moments(plan), points, strict=True):
        assert alpha == pytest.approx(at.alpha, rel=1e-12)
        assert sigma == pytest.approx(at.sigma, rel=1e-12)


@pytest.mark.parametrize(
    "schedule", [Flow(), Betas(rescale_betas_zero_snr=True)], ids=["flow", "vp"]
)
@pytest.mark.parametrize(("name", "options"), variants(exact=True), ids=label)
def test_marginals_are_kept_at_singular_ends(name, options, schedule):
    """From alpha = 0 to sigma = 0, or between finite levels for a sampler that needs them."""
    ends = get(name).trait("singular", options)
    for n in (1, 2, 7):
        grid = grid_singular(schedule, n, start=ends, end=ends)
        plan = make_plan(name, grid, Prediction("v_prediction"), options)
        points = [plan.points[0], *arrivals(plan)]
        for (alpha, sigma), at in zip(moments(plan), points, strict=True):
            assert alpha == pytest.approx(at.alpha, rel=1e-12)
            assert sigma == pytest.approx(at.sigma, rel=1e-12, abs=1e-12)


UPWARDS = {"ddim", "euler", "deis", "dpmpp_multistep", "dpm_multistep"}


@pytest.mark.parametrize(
    "schedule", [Flow(), Betas(rescale_betas_zero_snr=True)], ids=["flow", "vp"]
)
@pytest.mark.parametrize(("name", "options"), variants(exact=True, stochastic=False), ids=label)
def test_marginals_are_kept_up_to_pure_noise(name, options, schedule):
    """An inversion that ends where alpha = 0 keeps the marginals there too, or is refused."""
    for n in (1, 2, 7):
        down = grid_singular(schedule, n, end=False)
        grid = Grid(down.points[::-1], schedule)
        try:
            plan = make_plan(name, grid, Prediction("v_prediction"), options)
        except ValueError:
            assert name not in UPWARDS
            continue
        points = [plan.points[0], *arrivals(plan)]
        for (alpha, sigma), at in zip(moments(plan), points, strict=True):
            assert alpha == pytest.approx(at.alpha, rel=1e-12, abs=1e-12)
            assert sigma == pytest.approx(at.sigma, rel=1e-12)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(("name", "options"), variants(exact=True), ids=label)
def test_rows_sum_to_the_next_level(name, options, frame):
    """(coefficient of x) alpha + sum of (those of x0) = alpha of the next point, row by row.

    With x0 as the output these are plain sums; where no estimate carries noise also (coefficient
    of x)^2 sigma^2 + noise^2 = sigma^2 of the next.
    """
    if get(name).jumps:
        return  # its estimates carry the noise of the last level
    schedule, _ = FRAMES[frame]
    options = {**options, "prediction_type": "sample"} if "prediction_type" in options else options
    plan = make_plan(name, grid_between(schedule, 9, *ENDS[frame]), Prediction("sample"), options)
    layout = plan.layout
    held = {2 + i: kind for i, (kind, _, _) in enumerate(layout.slots)}
    for row, b in zip(plan.rows, arrivals(plan), strict=True):
        terms = dict(row.statements)[layout.next_sample]
        if set(held.values()) - {"d"}:
            continue  # stored samples and eps are the business of the propagation above
        a = row.point
        clean = {1, layout.x0, *(v for v, kind in held.items() if kind == "d")}
        clean |= {layout.first_given + k for k in range(len(layout.given))}
        for other in (INSIDE, OUTSIDE):  # one side of a mask after the other
            here = [(v, c) for v, c, region in terms if region != other]
            x = sum(c for v, c in here if v == 0)
            noise = [c for v, c in here if layout.first_draw <= v < layout.first_given]
            x0 = sum(c for v, c in here if v in clean)
            assert x * a.alpha + x0 == pytest.approx(b.alpha, rel=1e-12)
            variance = (x * a.sigma) ** 2 + sum(c * c for c in noise)
            assert variance == pytest.approx(b.sigma**2, rel=1e-12)


@pytest.mark.parametrize(("name", "options"), variants(exact=False), ids=label)
def test_what_is_not_exact_says_so(name, options):
    """A sampler that is registered as inexact is (else it should be registered as exact)."""
    if any(
        d.log_range
        for row in plan_between(name, (*options.items(),), "vp", 12).rows
        for _, d in row.draws
    ):
        return  # its variance is the network's
    plan = plan_between(name, tuple(options.items()), "vp", 12)
    points = [plan.points[0], *arrivals(plan)]
    off = [abs(sigma / at.sigma - 1) for (_, sigma), at in zip(moments(plan), points, strict=True)]
    assert max(off) > 1e-6


def test_every_sampler_has_an_exact_or_inexact_variant():
    listed = {name for exact in (True, False) for name, _ in variants(exact=exact)}
    assert listed == {name for name, entry in REGISTRY.items() if entry.traced}


# noise against closed forms written another way


def ends(n=8):
    return [(a, b) for a, b in grid_between(VPSDE(), n).steps()]


def noise_of(name, options, n=8):
    """The coefficient of every row's draw."""
    plan = make_plan(name, grid_between(VPSDE(), n), Prediction("sample"), options)
    draw = plan.layout.first_draw
    return [
        sum(c for v, c, _ in dict(row.statements)[plan.layout.next_sample] if v == draw)
        for row in plan.rows
    ]


@pytest.mark.parametrize("eta", [0.2, 0.7, 1.0])
def test_ddim_noise(eta):
    """Equation 16 of arXiv:2010.02502, in its alpha_bar."""
    for got, (a, b) in zip(noise_of("ddim", {"eta": eta}), ends(), strict=True):
        bar_a, bar_b = a.alpha**2, b.alpha**2
        paper = eta * math.sqrt((1 - bar_b) / (1 - bar_a)) * math.sqrt(1 - bar_a / bar_b)
        assert got == pytest.approx(paper, rel=1e-12)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_noise_and_mean(variance):
    """Equations 6 and 7 of arXiv:2006.11239."""
    grid = grid_between(VPSDE(), 8)
    plan = make_plan("ddpm", grid, Prediction("sample"), {"variance": variance})
    for got, row, (a, b) in zip(
        noise_of("ddpm", {"variance": variance}), plan.rows, ends(), strict=True
    ):
        bar_a, bar_b = a.alpha**2, b.alpha**2
        alpha, beta = bar_a / bar_b, 1 - bar_a / bar_b
        small = (1 - bar_b) / (1 - bar_a) * beta
        assert got**2 == pytest.approx(small if variance == "fixed_small" else beta, rel=1e-12)
        terms = {v: c for v, c, _ in dict(row.statements)[plan.layout.next_sample]}
        x0 = math.sqrt(bar_b) * beta / (1 - bar_a)
        assert terms[1] == pytest.approx(x0, rel=1e-12)
        x = math.sqrt(alpha) * (1 - bar_b) / (1 - bar_a)
        assert terms[0] == pytest.approx(x, rel=1e-12)


def test_ddpm_learned_ranges():
    """Equation 15 of arXiv:2102.09672: between the posterior's log variance and log beta."""
    grid = grid_between(VPSDE(), 8)
    plan = make_plan("ddpm", grid, Prediction("sample"), {"variance": "learned_range"})
    for row, (a, b) in zip(plan.rows, ends(), strict=True):
        beta = 1 - (a.alpha / b.alpha) ** 2
        low, high = row.draws[0][1].log_range
        assert high == pytest.approx(math.log(beta), rel=1e-12)
        assert low == pytest.approx(math.log(beta * b.sigma**2 / a.sigma**2), rel=1e-12)
    plan = make_plan("ddpm", grid, Prediction("sample"), {"variance": "learned"})
    assert {d.log_range for row in plan.rows for _, d in row.draws} == {(-1.0, 1.0)}


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_sde_noise(eta):
    """Noise of the two SDE forms as integrals over the step, by quadrature."""
    from scipy.integrate import quad

    data = noise_of("dpmpp_multistep", {"solver_order": 1, "eta": eta})
    eps = noise_of("dpm_multistep", {"solver_order": 1, "eta": eta})
    for z0, z1, (a, b) in zip(data, eps, ends(), strict=True):
        # sqrt(2 eta) sigma dW at lam, carried to b by the part of the drift that is linear in x

        def with_x0(lam, b=b):
            return 2 * eta * (b.sigma * math.exp(-eta * (b.lam - lam))) ** 2

        def with_eps(lam, b=b):
            return 2 * eta * (b.alpha * math.exp(-lam)) ** 2

        assert z0**2 == pytest.approx(quad(with_x0, a.lam, b.lam)[0], rel=1e-9)
        assert z1**2 == pytest.approx(quad(with_eps, a.lam, b.lam)[0], rel=1e-9)


def test_consistency_noise_stops_at_the_last_level():
    """Between levels above sigma_min, so that x0 at sigma_min plus noise is at the level."""
    points = [Flow(frame="ve").at(sigma=s) for s in (80.0, 10.0, 0.5, 0.002)]
    plan = make_plan("consistency", Grid(tuple(points), Flow(frame="ve")), Prediction("sample"))
    draws = [{v: c for v, c, _ in terms} for row in plan.rows for _, terms in row.statements]
    assert [d.get(plan.layout.first_draw, 0.0) for d in draws] == pytest.approx(
        [math.sqrt(10.0**2 - 0.002**2), math.sqrt(0.5**2 - 0.002**2), 0.0], rel=1e-13
    )


def test_churn_levels():
    """Levels are raised by gamma inside [s_tmin, s_tmax] alone, with the noise that takes."""
    options = {"s_churn": 3.0, "s_tmin": 0.3, "s_tmax": 4.0, "s_noise": 1.1}
    grid = grid_between(VPSDE(frame="ve"), 10)
    plan = make_plan("euler", grid, Prediction("sample"), options)
    gamma = min(3.0 / 10, math.sqrt(2) - 1)
    draws = [plan.start.terms, *(dict(r.statements)[plan.layout.next_sample] for r in plan.rows)]
    first = [1, *[plan.layout.first_draw] * len(plan.rows)]
    for a, hat, terms, z in zip(grid.points, plan.points, draws, first, strict=False):
        raised = 0.3 <= a.sigma <= 4.0
        assert hat.sigma == pytest.approx(a.sigma * (1 + gamma * raised), rel=1e-13)
        noise = sum(c for v, c, _ in terms if v == z)
        assert noise == pytest.approx(
            1.1 * math.sqrt(max(hat.sigma**2 - a.sigma**2, 0.0)), rel=1e-9
        )
    capped = make_plan("euler", grid, Prediction("sample"), {"s_churn": 1e3})
    assert capped.points[0].sigma == pytest.approx(grid.points[0].sigma * math.sqrt(2), rel=1e-13)


def test_variances_are_all_visited():
    assert {o["variance"] for n, o in variants() if n == "ddpm"} == set(VARIANCES)
