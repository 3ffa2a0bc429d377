"""Our samplers and k-diffusion's: every evaluation, step and draw, in float64, 1e-9."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import cmsched
from cmsched.plan import make_plan

from . import kdiffusion, runs
from .lifted import Draws

pytestmark = pytest.mark.peers

BOUND = 1e-9
SHAPE = (2, 3, 4)
LEVELS = (10.0, 7.5, 4.0, 3.3, 1.2, 0.5, 0.1)  # uneven; the end is added
TO_ZERO, ABOVE_ZERO = (*LEVELS, 0.0), LEVELS

Drawn = list[list[torch.Tensor]]  # before the first evaluation, between two, after the last


def all_of(drawn: Drawn) -> list[torch.Tensor]:
    """Every draw is used, in turn."""
    return [z for group in drawn for z in group]


def none_of(drawn: Drawn) -> list[torch.Tensor]:
    """The reference draws, and multiplies by zero."""
    return []


def from_to(first: int, last: int) -> Callable[[Drawn], list[torch.Tensor]]:
    """Only the steps with these numbers use what they draw: s_tmin and s_tmax."""
    return lambda drawn: all_of(drawn)[first : last + 1]


@dataclass(frozen=True)
class Match:
    """One function of k-diffusion and one sampler of ours.

    Args:
        theirs: the name after `sample_`.
        ours: a registered sampler.
        options: what both are called with.
        more: what ours takes besides.
        draws: those that ours needs, of what theirs drew.
        levels: noise levels of the run, its end with them.
        call: what theirs takes after the sample, instead of the levels.
    """

    theirs: str
    ours: str
    options: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    draws: Callable[[Drawn], list[torch.Tensor]] = all_of
    levels: Sequence[float] = TO_ZERO
    call: tuple[Any, ...] = ()

    def __str__(self) -> str:
        chosen = [f"{key}={value}" for key, value in (self.options | self.more).items()]
        return "-".join([self.theirs, *chosen])


CHURN = {"s_churn": 3.0, "s_noise": 1.01}
RANGE = {"s_churn": 30.0, "s_tmin": 1.0, "s_tmax": 8.0}  # 7.5 to 1.2
ETA = {"eta": 0.6}
SECOND = {"solver_order": 2, "euler_at_final": True}
THIRD = {"solver_order": 3, "euler_at_final": True, "solver_type": "heun"}
SDE = ({"eta": 1.0}, ETA)

FAST = (LEVELS[-1], LEVELS[0], len(LEVELS) - 1)
ADAPTIVE = {"draws": none_of, "levels": ABOVE_ZERO, "call": FAST[:2]}

MATCHES = [
    Match("euler", "euler", draws=none_of),
    Match("euler", "euler", CHURN),
    Match("euler", "euler", RANGE, draws=from_to(1, 4)),
    *(Match("euler_ancestral", "euler_ancestral", o) for o in SDE),
    Match("heun", "heun", draws=none_of),
    Match("heun", "heun", CHURN),
    Match("heun", "heun", RANGE, draws=from_to(1, 4)),
    Match("dpmpp_2m", "dpmpp_multistep", {}, SECOND),
    *(
        Match("dpmpp_2m_sde", "dpmpp_multistep", {"solver_type": solver, **o}, SECOND)
        for o in (*SDE, {"eta": 0.0})
        for solver in ("midpoint", "heun")
    ),
    *(Match("dpmpp_3m_sde", "dpmpp_multistep", o, THIRD) for o in (*SDE, {"eta": 0.0})),
    Match("dpm_2", "dpm2", draws=none_of),
    Match("dpm_2", "dpm2", CHURN),
    Match("dpm_2", "dpm2", RANGE, draws=from_to(1, 4)),
    *(Match("dpm_2_ancestral", "dpm2_ancestral", o) for o in SDE),
    *(Match("dpmpp_2s_ancestral", "dpmpp_2s_ancestral", o) for o in SDE),
    *(Match("dpmpp_sde", "dpmpp_sde", o) for o in (*SDE, {**ETA, "r": 0.4})),
    *(
        Match("dpm_fast", "dpm_fast", {"eta": eta}, draws=draws, levels=ABOVE_ZERO, call=FAST)
        for eta, draws in ((0.0, none_of), (0.5, from_to(0, -2)))
    ),
    *(
        Match(
            "dpm_adaptive",
            "dpm_adaptive",
            {"order": n, "eta": eta},
            {"solver_order": n},
            **{**ADAPTIVE, "draws": draws},
        )
        for n in (2, 3)
        for eta, draws in ((0.0, none_of), (0.5, from_to(0, -2)))
    ),
    *(Match("lms", "lms", {"order": order}, {"solver_order": order}) for order in (4, 2)),
]


def ours(match: Match) -> cmsched.Plan:
    """Our plan, in the frame of k-diffusion: x = x0 + sigma eps."""
    options = {key: value for key, value in match.options.items() if key != "order"}
    scheduler = cmsched.Scheduler(
        sampler=match.ours,
        sampler_options=options | match.more,
        schedule="logarithmic",  # of which the level of a time is known exactly
        spacing="karras",
        prediction_type="sample",
    )
    plan = scheduler.plan(sigmas=[s for s in match.levels if s > 0])
    if match.levels[-1] == 0:
        return plan
    grid = dataclasses.replace(plan.grid, points=plan.grid.points[:-1])
    return make_plan(match.ours, grid, plan.prediction, plan.options)


def told(model: kdiffusion.Seen, plan: cmsched.Plan) -> Callable[..., torch.Tensor]:
    """The denoiser as our network: its input not scaled, and the level that belongs to the time."""

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        point = plan.grid.schedule.at(t=float(t))
        return model(x / point.scale, torch.tensor([point.ratio], dtype=torch.float64))

    return network


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, relative to the second's largest magnitude."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("match", MATCHES, ids=str)
def test_parity(match: Match) -> None:
    """The denoiser sees the same samples at the same levels, and the end is the same."""
    draws, plan = Draws(seed=4), ours(match)
    z = runs.normal(SHAPE, torch.float64, 0)
    sigmas = torch.tensor(match.levels, dtype=torch.float64)
    end, theirs, steps = kdiffusion.through(
        match.theirs, z * match.levels[0], match.call or (sigmas,), draws, **match.options
    )
    wanted = match.draws(theirs.drawn)
    for run in (cmsched.run, cmsched.sample) if plan.traced else (cmsched.run,):
        model, used = kdiffusion.Seen(), []
        sample = run(told(model, plan), plan, z, rng=runs.queue(wanted, used))
        assert len(used) == len(wanted)
        assert len(model.inputs) == len(theirs.inputs)
        assert model.sigmas == pytest.approx(theirs.sigmas, rel=BOUND)
        for i, (mine, expected) in enumerate(zip(model.inputs, theirs.inputs, strict=True)):
            assert error(mine, expected) <= BOUND, f"evaluation {i}"
        assert error(sample, end) <= BOUND
    assert len(steps) > 1
    estimates = iter(theirs.estimates)
    for step in steps:  # its callback shows the first estimate of each step
        assert any(error(step["denoised"], x0) <= BOUND for x0 in estimates)


def test_nothing_is_left_behind() -> None:
    """The stubs of what is not installed are gone, and its own noise is back."""
    before = {name for name in kdiffusion.ABSENT if name in sys.modules}
    with kdiffusion.noise(Draws()) as sampling:
        x = torch.zeros(2, 3)
        assert sampling.torch is not torch
        assert sampling.default_noise_sampler(x)(1.0, 0.5).shape == x.shape
    assert sampling.torch is torch
    assert isinstance(sampling.BrownianTreeNoiseSampler, type)
    assert before == {name for name in kdiffusion.ABSENT if name in sys.modules}
    assert kdiffusion.load("utils").append_dims(x, 3).ndim == 3
    assert hasattr(kdiffusion.load("external"), "VDenoiser")
