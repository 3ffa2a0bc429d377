"""Euler, Heun, consistency models and their kin."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import cmsched

from .. import runs
from ..declaring import (
    ANCESTRAL,
    EPS,
    EULER,
    HEUN,
    X,
    both,
    close,
    differs,
    ours,
    quick,
    ramped,
    theirs,
)
from .shared import PREDICTIONS, REJECTED_OPTIONS


def final_std(plan: cmsched.Plan) -> float:
    """The exact spread of the samples where the data are one point and the network is exact."""
    variance = sum(
        c**2 * (plan.grid.init_scale**2 if v == 0 else 1) for v, c, _ in plan.start.terms
    )
    for row in plan.rows:
        c = {v: number for v, number, _ in row.statements[-1][1]}
        gain = c.get(0, 0.0) + c.get(1, 0.0) / row.point.sigma  # it says x / sigma
        variance = gain**2 * variance + sum(w**2 for v, w in c.items() if v > 1)
    return math.sqrt(variance)


CHURN = differs(
    "order of churn",
    "noise is added, then the network sees the sample; at `step` it is too late for that",
    "the network sees the sample, then noise is added",
    right="arXiv:2206.00364, algorithm 2, lines 5 to 7: the denoiser is evaluated at x-hat",
).concerns(
    EULER,
    where=lambda space, case: (
        case["step.s_churn"] > 0
        and any(
            case["step.s_tmin"] <= p.ratio <= case["step.s_tmax"]
            for p in runs.plan_of(space, case).points
        )
    ),
)


@CHURN.proves
def churn() -> None:
    spread = {mode: final_std(ours(EULER, mode).plan(20, s_churn=5.0)) for mode in both()}
    assert spread["paper"] < 1e-7, "all data are one point, so all samples are"
    assert spread["diffusers"] > 0.01
    with theirs(EULER) as scheduler:
        scheduler.set_timesteps(5)
        t = scheduler.timesteps[0]
        seen = scheduler.scale_model_input(X, t)
        assert close(seen, X / math.hypot(scheduler.sigmas[0], 1)), "the network sees no churn"
    with pytest.raises(ValueError, match="already seen"):
        quick(ours(EULER, "paper"), 5, s_churn=1.0)


LIST_OF_LEVELS = differs(
    "the levels of a run and their end",
    "n steps go along n levels to the end, at the times that belong to them; the "
    "reference's interpolation_type=log_linear stops before the end, and its last explicit "
    "sigma is always the end",
    right="a step of the loop goes from one level to the next, the network is told which, and a "
    "terminal entry is recognised and not doubled",
)


LIST_OF_LEVELS.concerns(
    EULER,
    where=lambda space, case: (
        case["interpolation_type"] == "log_linear"
        and not ramped(case)
        and case["set.sigmas"] is None
    ),
    scope="none",
)


@LIST_OF_LEVELS.proves
def log_linear() -> None:
    """N levels, and the times that belong to them; the reference makes n + 1 levels beside n
    times of another spacing, so the loop stops before the end.

    A step of the loop goes from one level to the next, and the network is told which.
    """
    with theirs(EULER, interpolation_type="log_linear") as scheduler:
        scheduler.set_timesteps(10)
        assert len(scheduler.timesteps) == 10
        assert len(scheduler.sigmas) == 12
        assert scheduler.sigmas[10] > 0
    for mode in both():
        scheduler = ours(EULER, mode, interpolation_type="log_linear")
        scheduler.set_timesteps(10)
        assert len(scheduler.sigmas) == 11
        assert scheduler.sigmas[-1] == 0
        assert close(np.diff(np.log(scheduler.sigmas[:-1].numpy()), 2), 0, 1e-10)


LIST_OF_LEVELS.concerns(EULER)


@LIST_OF_LEVELS.proves
def explicit_sigmas() -> None:
    """A list without its end gets it; in the reference the last entry always is the end.

    One rule for every class: a terminal entry is recognised and not doubled.
    """
    with theirs(EULER) as scheduler:
        scheduler.set_timesteps(sigmas=[10.0, 1.0])
        assert len(scheduler.timesteps) == 1
    for mode in both():
        scheduler = ours(EULER, mode)
        for given in ([10.0, 1.0], [10.0, 1.0, 0.0]):
            scheduler.set_timesteps(sigmas=given)
            assert close(scheduler.sigmas, [10.0, 1.0, 0.0])


PREDICTIONS.concerns(EULER)


@PREDICTIONS.proves
def velocity() -> None:
    """Alpha of the timestep; the reference indexes its training table by the number of the step.

    ArXiv:2202.00512, section 4: v = alpha_t eps - sigma_t x at the same t.
    """
    with theirs(EULER) as scheduler:
        scheduler.set_timesteps(10)
        t = scheduler.timesteps[:1].repeat(2)
        wrong = scheduler.get_velocity(X, EPS, t)
        bar = scheduler.alphas_cumprod
    assert close(wrong, bar[0].sqrt() * EPS - (1 - bar[0]).sqrt() * X)
    for mode in both():
        scheduler = ours(EULER, mode)
        scheduler.set_timesteps(10)
        v = scheduler.get_velocity(X, EPS, scheduler.timesteps[:1])
        assert close(v, bar[-1].sqrt() * EPS - (1 - bar[-1]).sqrt() * X)


PREDICTIONS.concerns(
    EULER, where=lambda space, case: case["step.s_churn"] > 0, scope="but the estimate"
)


@PREDICTIONS.proves
def churned_estimate() -> None:
    """What the network says at the sample it saw; the reference mixes in the noise added after
    it.

    ArXiv:2206.00364, algorithm 2, line 7: D(x; sigma) of what was evaluated.
    """

    def estimate(scheduler: Any) -> torch.Tensor:
        scheduler.set_timesteps(4)
        t, s = scheduler.timesteps[0], scheduler.sigmas[0]
        x = X + s * EPS
        noise = {"generator": lambda shape, *_: torch.ones(shape, dtype=X.dtype)}
        noise = {} if type(scheduler).__module__.startswith("diffusers") else noise
        return scheduler.step(EPS, t, x, s_churn=4.0, **noise).pred_original_sample

    with theirs(EULER) as scheduler:
        assert not close(estimate(scheduler), X, 1e-3)
    assert close(estimate(ours(EULER)), X)


REJECTED_OPTIONS.concerns(
    ANCESTRAL, where=lambda space, case: case["prediction_type"] == "sample", scope="none"
)


@REJECTED_OPTIONS.proves
def ancestral_sample() -> None:
    """Works; the reference raises NotImplementedError.

    X0 = m needs nothing else.
    """
    with (
        theirs(ANCESTRAL, prediction_type="sample") as scheduler,
        pytest.raises(NotImplementedError),
    ):
        quick(scheduler, 4)
    for mode in both():
        plan = ours(ANCESTRAL, mode, prediction_type="sample").plan(3)
        assert close(cmsched.sample(lambda x, t: EPS, plan, X, rng=0), EPS)


BEFORE_SET_TIMESTEPS = differs(
    "before set_timesteps",
    "timesteps and sigmas of the training steps, to the configured end; the reference's "
    "Heun shows a run of as many steps placed by its ramp and spacing, its Euler always "
    "ends at 0",
    right="one rule for every class",
).concerns((*EULER, *HEUN))


@BEFORE_SET_TIMESTEPS.proves
def fresh() -> None:
    with theirs(("HeunDiscreteScheduler",), use_karras_sigmas=True) as scheduler:
        bar, run = scheduler.alphas_cumprod, scheduler.sigmas
    table = ((1 - bar) / bar).sqrt().flip(0)
    assert not close(run[0:-1:2], table, 1e-3)
    with theirs(EULER, final_sigmas_type="sigma_min") as scheduler:
        assert scheduler.sigmas[-1] == 0
        scheduler.set_timesteps(5)
        assert scheduler.sigmas[-1] > 0
    for mode in both():
        scheduler = ours(("HeunDiscreteScheduler",), mode, use_karras_sigmas=True)
        assert close(scheduler.sigmas[0:-1:2], table)
        assert ours(EULER, mode, final_sigmas_type="sigma_min").sigmas[-1] > 0
