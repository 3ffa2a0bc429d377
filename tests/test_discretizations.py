"""Where the steps of a run lie: frozen values that make grids, and what is done to these."""

import itertools
import math
from dataclasses import replace

import pytest

import cmsched
from cmsched.changes import Strided, Upward
from cmsched.discretizations import FlowSigmas, Ramp, TrainingSteps
from cmsched.grids import Grid
from cmsched.recipe import Fixed, Start
from cmsched.schedules import VESDE, Betas, Flow

pytestmark = pytest.mark.host

COUNT, TABLE = "num_inference_steps", Betas()
END = TABLE.point(0.0, 0.0)


def ramp(**fields):
    schedule = VESDE()
    rest = {"end": schedule.at(ratio=0.1), **fields}
    return Ramp(schedule=schedule, rule="exponential", high=8.0, low=0.1, **rest)


def levels(points):
    return [p.ratio for p in points]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_n_steps_lead_to_the_last_level(n):
    """One level more is placed, and that is where the sample ends."""
    grid = ramp().grid(n)
    assert len(grid) == n
    assert levels(grid.points) == pytest.approx([8.0 * 80.0 ** (-i / n) for i in range(n + 1)])


def test_a_last_step_of_length_zero_is_exactly_that():
    """Also where the last level is rounded, as of sigmas that are stretched to end there."""
    flow = Flow()
    for low, n in itertools.product((0.02, 0.1, 0.3), (2, 3, 7)):
        end = flow.at(sigma=low)
        stretched = FlowSigmas(schedule=flow, end=end, shift=3.0, terminal=low, repeats_end=True)
        for where in (stretched, ramp(repeats_end=True)):
            *_, last, to = where.grid(n).points
            assert to == where.end == replace(last, t=to.t)
            assert last.t == pytest.approx(to.t)


def test_no_level_is_left_out_on_the_way_to_zero():
    grid = ramp(end=VESDE().point(0.0, 0.0)).grid(4)
    assert levels(grid.points) == pytest.approx([8.0 * 80.0 ** (-i / 3) for i in range(4)] + [0.0])


def test_steps_of_a_fixed_stride():
    """From t to t - train // n; below timestep 0 they end where the sample ends."""
    times = (900.0, 700.0, 250.0, 249.0)
    grid = Grid((*(TABLE.at(t=t) for t in times), END), TABLE)
    ends = [b for _, b in Strided(1000)(grid, COUNT).steps()]
    assert ends == [*(TABLE.at(t=t - 250) for t in times[:3]), END]
    assert ends[2] == TABLE.at(t=0.0) != END
    for warm, kept in ((2, 2), (3, 3), (4, 0), (9, 0)):
        found = [b for _, b in Strided(1000, warm=warm)(grid, COUNT).steps()]
        assert found == [*grid.points[1 : 1 + kept], *ends[kept:]]
    even = Grid((*(TABLE.at(t=t) for t in (750.0, 500.0, 250.0)), TABLE.at(t=0.0)), TABLE)
    assert Strided(750)(even, COUNT).ends == even.points[1:]
    for asked in ("timesteps", "sigmas"):
        assert Strided(1000)(grid, asked) is grid


def test_upward_is_the_same_steps_turned_round():
    """The network is told where each one goes."""
    where = TrainingSteps(schedule=TABLE, end=END, whole=True, spacing="leading")
    for down in (where, where.with_quirk(Strided(1000))):
        a, b = down.grid(7), down.then(Upward()).grid(7)
        assert levels(x for x, _ in b.steps()) == levels(y for _, y in a.steps())[::-1]
        assert [y for _, y in b.steps()] == [x for x, _ in a.steps()][::-1]
        assert [x.t for x, _ in b.steps()] == [x.t for x, _ in a.steps()][::-1]
    points, turned = where.training_points(), where.then(Upward()).training_points()
    assert levels(turned) == levels(points)[::-1]
    assert [p.t for p in turned[:-1]] == [p.t for p in points[:-1]][::-1]


def test_a_part_of_a_run():
    where = TrainingSteps(schedule=TABLE, end=END, whole=True, spacing="leading")
    grid = where.grid(10)
    assert where.part(grid, 0.39).points == grid.points[-4:]
    assert replace(where, upward=True).part(grid, 0.39).points == grid.points[:4]
    assert where.part(grid, 1.0) is grid
    with pytest.raises(ValueError, match=r"strength=0.09 of 10 steps leaves none"):
        where.part(grid, 0.09)


def test_an_option_that_depends_on_the_run_is_that_of_the_whole_run():
    """A part of a run takes the steps that the whole one would."""
    scheduler = cmsched.DPMSolverMultistepScheduler()
    assert scheduler.plan(10).options["ramp_down"] is True
    assert scheduler.plan(20).options["ramp_down"] is False
    assert scheduler.plan(20, strength=0.5).options["ramp_down"] is False
    half = cmsched.ScoreSdeVpScheduler(compatibility="diffusers").plan(8, strength=0.5)
    assert half.options["dt"] == 1 / 8


def test_scales_that_a_run_starts_from():
    noisy, pure = Flow().at(sigma=0.5), Flow().at(sigma=1.0)
    wide = VESDE().at(ratio=3.0)
    for rule, expected in {
        "unit": (1.0, 1.0, 1.0),
        "sigma": (0.5, 1.0, 3.0),
        "spread": (math.sqrt(0.5), 1.0, math.sqrt(10.0)),
        "native": (math.sqrt(0.5), 1.0, 3.0),
    }.items():
        assert [Start(rule)(p) for p in (noisy, pure, wide)] == pytest.approx(list(expected)), rule
    assert [Fixed(7.0)(p) for p in (noisy, wide)] == [7.0, 7.0]
    assert [Fixed(7.0, wide.sigma)(p) for p in (noisy, wide)] == [0.5, 7.0]
    euler = cmsched.EulerDiscreteScheduler()
    part = euler.plan(10, strength=0.4).grid
    assert part.init_scale == part.points[0].sigma < euler.plan(10).grid.init_scale
