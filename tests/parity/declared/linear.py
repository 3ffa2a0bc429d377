"""Linear multistep methods in eps."""

from typing import Any

import pytest
import torch

from .. import runs
from ..declaring import EPS, X, both, close, differs, ours, quick, theirs, zero_length
from ..grid import TRAIN, Case, Space, count
from .first_order import DDIM_STRIDE, off_the_list
from .shared import (
    LAST_STEP_OF_LENGTH_ZERO,
    LIMITS,
    ONE_LINSPACE_STEP,
    REJECTED_OPTIONS,
    WHICH_STEP,
)

PNDM, IPNDM = ("PNDMScheduler",), ("IPNDMScheduler",)


ONE_LINSPACE_STEP.concerns(
    PNDM, where=lambda space, case: case["n"] == 1 and case["timestep_spacing"] == "linspace"
)
LAST_STEP_OF_LENGTH_ZERO.concerns(
    PNDM,
    where=lambda space, case: case["n"] != TRAIN and zero_length(space, case),
)
DDIM_STRIDE.concerns(PNDM, where=off_the_list)


@DDIM_STRIDE.proves
def pndm_stride() -> None:
    """PNDM steps as DDIM does."""
    options = {"timestep_spacing": "linspace", "skip_prk_steps": True, "set_alpha_to_one": True}
    with theirs(PNDM, **options) as scheduler:
        scheduler.set_timesteps(7)
        bar = scheduler.alphas_cumprod
        out = quick(scheduler, 7)
        assert scheduler.timesteps[1] == 832
        assert close(out, ddim_step(bar[999], bar[999 - 142]))
    for mode, end in (("paper", 832), ("diffusers", 999 - 142)):
        assert close(quick(ours(PNDM, mode, **options), 7), ddim_step(bar[999], bar[end]))


def ddim_step(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """DDIM's step of X and EPS between two alpha_bar (arXiv:2010.02502, eq. 12)."""
    return b.sqrt() * (X - (1 - a).sqrt() * EPS) / a.sqrt() + (1 - b).sqrt() * EPS


def off_middle(space: Space, case: Case) -> bool:
    """Whether a Runge-Kutta step's middle is not in the middle of its times."""
    plan = runs.plan_of(space, case)
    if plan.steps.count(0) != 4:
        return False
    half = plan.options["half_step"]
    ends = [(plan.grid.points[i].t, plan.grid.points[i + 1].t) for i in range(3)]
    return any({a - half, b + half} != {(a + b) // 2} for a, b in ends)


MIDDLE = differs(
    "middle of a Runge-Kutta step",
    "the timestep in the middle",
    "half a stride below the beginning, and evaluated half a stride above the end",
    right="arXiv:2202.09778, eq. 13: one time, t + delta / 2",
).concerns(PNDM, where=off_middle)


@MIDDLE.proves
def middle() -> None:
    with theirs(PNDM) as scheduler:  # a stride of 111
        scheduler.set_timesteps(9)
        bar = scheduler.alphas_cumprod
        assert scheduler.timesteps[:2].tolist() == [888, 832]
        assert close(quick(scheduler, 9), ddim_step(bar[888], bar[833]))
    for mode, end in (("paper", 832), ("diffusers", 833)):
        scheduler = ours(PNDM, mode, set_alpha_to_one=True)
        out = quick(scheduler, 9)
        assert scheduler.timesteps[:2].tolist() == [888, 832]
        assert close(out, ddim_step(bar[888], bar[end]))


COMBINED_V = differs(
    "combinations of v",
    "of the eps that each output means at its own level",
    "of the outputs, turned into eps at the level and the sample of the step",
    right="arXiv:2202.09778, eq. 12, combines eps; of v at different levels it is first order",
).concerns(
    PNDM,
    where=lambda space, case: case["prediction_type"] == "v_prediction" and count(case) > 1,
)


@COMBINED_V.proves
def combined_v() -> None:
    def error(scheduler: Any, n: int) -> float:
        """How far from the exact solution of unit normal data, whose v is 0 and eps sigma x."""
        scheduler.set_timesteps(n)
        x = torch.ones(1, 1, dtype=torch.float64)
        for t in scheduler.timesteps:
            x = scheduler.step(0 * x, t, x).prev_sample
        return abs(float(x) - 1.0)

    options = {"prediction_type": "v_prediction", "set_alpha_to_one": True, "skip_prk_steps": True}
    with theirs(PNDM, **options) as scheduler:
        reference = [error(scheduler, n) for n in (50, 250)]
    copy, paper = (
        [error(ours(PNDM, m, **options), n) for n in (50, 250)] for m in reversed(both())
    )
    assert close(copy, reference)
    assert 4 < copy[0] / copy[1] < 6, "first order: five times the steps"
    assert paper[0] / paper[1] > 10
    assert paper[1] < 1e-4 < 5e-3 < copy[1]


X0_LOST = differs(
    "a first step without signal",
    "to where v says that x0 is; its eps is no part of later combinations",
    "to x0 = 0; its eps, the start itself, is remembered",
    right="at alpha = 0 v is -x0 (arXiv:2202.00512, section 4)",
).concerns(
    IPNDM,
    where=lambda space, case: case["trained_betas"] is None and count(case) > 1,
)


@X0_LOST.proves
def x0_lost() -> None:
    with theirs(IPNDM) as scheduler:
        out = quick(scheduler, 4)
        sigma, alpha = scheduler.betas[1], scheduler.alphas[1]
        assert scheduler.alphas[0] == 0
        assert close(out, sigma * X)
    assert close(quick(ours(IPNDM), 4), sigma * X)
    assert close(quick(ours(IPNDM, "paper"), 4), sigma * X - alpha * EPS)


LIMITS.concerns(
    IPNDM,
    where=lambda space, case: case["trained_betas"] is None and case["n"] == 1,
    scope="none",
)


@LIMITS.proves
def one_step_from_no_signal() -> None:
    """One step of v from alpha = 0 gives -v; the reference's gives 0, whatever the network says.

    ArXiv:2202.00512, section 4.
    """
    with theirs(IPNDM) as scheduler:
        assert close(quick(scheduler, 1), 0 * X)
    for mode in both():
        assert close(quick(ours(IPNDM, mode), 1), -EPS)


REJECTED_OPTIONS.concerns(PNDM)


@REJECTED_OPTIONS.proves
def few_steps() -> None:
    """Fewer than four steps of PNDM are steps of PLMS; the reference fails on an index.

    They have no room for three Runge-Kutta steps and one more.
    """
    for n in (1, 2, 3):
        with theirs(PNDM) as scheduler, pytest.raises(ValueError, match="broadcast"):
            scheduler.set_timesteps(n)
        for mode in both():
            scheduler = ours(PNDM, mode, set_alpha_to_one=True)
            scheduler.set_timesteps(n)
            assert len(scheduler.timesteps) == n + (n > 1)


WHICH_STEP.concerns(PNDM)


@WHICH_STEP.proves
def begun_later() -> None:
    """A run taken up at a later timestep begins there with a first-order step and goes through
    every level; the reference takes its second timestep for the second evaluation of its first,
    and leaves a level out.

    A sample stands at the level that the network is told.
    """
    options = {"skip_prk_steps": True, "set_alpha_to_one": True}
    with theirs(PNDM, **options) as scheduler:
        scheduler.set_timesteps(10)
        bar, times = scheduler.alphas_cumprod, scheduler.timesteps[6:]
        x = walk(scheduler, times, bar)
        assert times.tolist() == [400, 300, 200, 100, 0]
        assert x > 1e-2, "a sample at 300 goes to 100 as if it were at 200"
    for mode in both():
        scheduler = ours(PNDM, mode, **options)
        scheduler.set_timesteps(10)
        assert scheduler.timesteps[6:].tolist() == times.tolist()
        assert walk(scheduler, scheduler.timesteps[6:], bar) < 1e-12


def walk(scheduler: Any, times: torch.Tensor, bar: torch.Tensor) -> float:
    """How far from x0 a network that says the very eps ends."""
    x = bar[times[0]].sqrt() * X + (1 - bar[times[0]]).sqrt() * EPS
    for t in times:
        x = scheduler.step(EPS, t, x).prev_sample
    return float((x - X).abs().max())
