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
    DPM,
    EDM,
    EPS,
    EULER,
    HEUN,
    KDPM,
    LMS,
    SDE,
    X,
    both,
    close,
    differs,
    ours,
    quick,
    ramped,
    theirs,
    zero_length,
)
from ..lifted import Draws, reference
from ..spaces import SPACES
from .shared import (
    LAST_STEP_OF_LENGTH_ZERO,
    LIST_OF_LEVELS,
    NO_SUCH_RUN,
    ONE_LINSPACE_STEP,
    PRECISION,
    PREDICTIONS,
    REJECTED_OPTIONS,
)
from .solvers import TIMES_BETWEEN


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
    (*EULER, *EDM),
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
    for names, data in ((EULER, 1.0), (EDM, 0.5)):
        with theirs(names) as scheduler:
            scheduler.set_timesteps(5)
            t = scheduler.timesteps[0]
            seen = scheduler.scale_model_input(X, t)
            assert close(seen, X / math.hypot(scheduler.sigmas[0], data)), "it sees no churn"
        with pytest.raises(ValueError, match="already seen"):
            quick(ours(names, "paper"), 5, s_churn=1.0)


RAMP_ENDS = differs(
    "ends of a ramp in a file of another class",
    "every ramp goes between sigma_min and sigma_max, the inversion's upward",
    "the same, but for the Karras ramps of LMS and DPMSolverSDE, and Lu's, which have the "
    "schedule's own ends; the reference's inversion goes down between them",
    right="arXiv:2206.00364, eq. 5: the first level is sigma_max, the last one sigma_min",
).concerns((*LMS, *SDE, *DPM, "DPMSolverMultistepInverseScheduler"))
ENDS = {"_class_name": "EulerDiscreteScheduler", "sigma_min": 0.05, "sigma_max": 10.0}


def handed(cls: type, ramp: str, **options: Any) -> Any:
    """A scheduler that is handed the file of another class, set to 8 steps."""
    scheduler = cls.from_config(ENDS, **{ramp: True}, **options)
    scheduler.set_timesteps(8)
    return scheduler


@RAMP_ENDS.proves
def deaf_ramps() -> None:
    """LMS's, DPMSolverSDE's and Lu's take them of the levels that they are given.

    The file says where its model's noise levels end.
    """
    cases = ((*LMS, "use_karras_sigmas"), (*SDE, "use_karras_sigmas"), (*DPM, "use_lu_lambdas"))
    for name, ramp in cases:
        with reference(name, Draws(), lifted=True) as cls:
            highest = float(handed(cls, ramp).sigmas.max())
        assert abs(highest - 10.0) > 1.0
        for mode, expected in (("diffusers", highest), ("paper", 10.0)):
            scheduler = handed(getattr(cmsched, name), ramp, compatibility=mode)
            assert close(scheduler.sigmas[0], expected)


@RAMP_ENDS.proves
def inversion_between_ends() -> None:
    """Upward; the reference names the ends by their places among increasing levels.

    An inversion goes from data to noise.
    """
    name, ramp = "DPMSolverMultistepInverseScheduler", "use_karras_sigmas"
    with reference(name, Draws(), lifted=True) as cls:
        levels = handed(cls, ramp).sigmas
    assert close(levels[[0, -1]], [10.0, 0.05])
    for mode in both():
        scheduler = handed(getattr(cmsched, name), ramp, compatibility=mode)
        assert close(scheduler.sigmas[[0, -1]], [0.05, 10.0])


LOG_LINEAR = differs(
    "interpolation_type=log_linear",
    "n levels even in their logarithm, at the times that belong to them, and the end",
    "n + 1 levels beside n times of the spacing, so that a run stops at the last of them; explicit "
    "times say how many there are",
    right="arXiv:2206.00364, section 2: a network is told the level that its sample has",
).concerns(
    EULER,
    where=lambda space, case: (
        case["interpolation_type"] == "log_linear"
        and not ramped(case)
        and case["set.sigmas"] is None
    ),
)


@LOG_LINEAR.proves
def log_linear() -> None:
    """A step of the loop goes from one level to the next, and the network is told which."""
    options = {"interpolation_type": "log_linear"}
    with theirs(EULER, **options) as scheduler:
        scheduler.set_timesteps(10)
        levels, times = scheduler.sigmas, scheduler.timesteps
        assert len(times) == 10
        assert len(levels) == 12
        assert levels[10] > 0
    copied = ours(EULER, **options).plan(10)
    assert close([p.ratio for p in copied.grid.points], levels[:-1])
    assert close(copied.timesteps, times)
    points = ours(EULER, "paper", **options).plan(10).grid.points
    assert len(points) == 11
    assert points[-1].sigma == 0
    assert close(np.diff(np.log([p.ratio for p in points[:-1]]), 2), 0, 1e-10)
    schedule = ours(EULER).schedule
    assert close([p.t for p in points[:-1]], [schedule.time_at(p.ratio) for p in points[:-1]])


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
    (*EULER, *EDM), where=lambda space, case: case["step.s_churn"] > 0, scope="but the estimate"
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
    (*ANCESTRAL, *KDPM, *SDE),
    where=lambda space, case: case["prediction_type"] == "sample",
    scope="none",
)


@REJECTED_OPTIONS.proves
def sample_prediction() -> None:
    """Works; the reference raises NotImplementedError.

    X0 = m needs nothing else.
    """
    for name in (*ANCESTRAL, *KDPM, *SDE):
        with (
            theirs((name,), prediction_type="sample") as scheduler,
            pytest.raises(NotImplementedError),
        ):
            quick(scheduler, 4)
        for mode in both():
            plan = ours((name,), mode, prediction_type="sample").plan(3)
            assert close(cmsched.sample(lambda x, t: EPS, plan, X, rng=0), EPS)


BEFORE_SET_TIMESTEPS = differs(
    "before set_timesteps",
    "timesteps and sigmas of the training steps, to the configured end; the reference's "
    "Heun shows a run of as many steps placed by its ramp and spacing, its Euler always "
    "ends at 0",
    right="one rule for every class",
).concerns((*EULER, *HEUN, *KDPM, *SDE, *LMS, *EDM))


@BEFORE_SET_TIMESTEPS.proves
def fresh() -> None:
    """Heun's levels are those of the training steps, Euler's go to the configured end."""
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


@BEFORE_SET_TIMESTEPS.proves
def fresh_edm() -> None:
    """As many levels as training steps; the reference's EDM has one more.

    `len(scheduler)` and `num_train_timesteps` say how many there are.
    """
    with theirs(EDM) as scheduler:
        assert len(scheduler.timesteps) == 1001
        ends = scheduler.sigmas[[0, -2, -1]]
    for mode in both():
        scheduler = ours(EDM, mode)
        assert len(scheduler.timesteps) == scheduler.config.num_train_timesteps == 1000
        assert close(scheduler.sigmas[[0, -2, -1]], ends)


ONE_LINSPACE_STEP.concerns(
    (*KDPM, *SDE, *LMS),
    where=lambda space, case: case["n"] == 1 and case["timestep_spacing"] == "linspace",
)
ONE_LINSPACE_STEP.concerns(
    EDM,
    where=lambda space, case: case["n"] == 1 and case["sigma_schedule"] == "exponential",
)


@ONE_LINSPACE_STEP.proves
def one_step() -> None:
    """The noisiest level; the reference takes the least noisy one, also of exponential sigmas.

    A sample starts from noise (arXiv:2206.00364, algorithm 1).
    """
    for name in (*KDPM, *SDE, *LMS, *EDM):
        options = {"sigma_schedule": "exponential"} if name in EDM else {}
        plans = [ours((name,), mode, **options).plan(1) for mode in both()]
        with theirs((name,), **options) as scheduler:
            first, last = scheduler.sigmas[0], scheduler.sigmas[scheduler.sigmas > 0].min()
            scheduler.set_timesteps(1)
            assert close(scheduler.sigmas[0], last)
        assert close(plans[0].points[0].sigma, first)
        assert close(plans[1].points[0].sigma, last)


TIMES_BETWEEN.concerns(
    KDPM,
    where=lambda space, case: (
        case["use_karras_sigmas"]
        and bool(np.any(runs.plan_of(space, case, "paper").timesteps[::2] % 1))
    ),
)


@TIMES_BETWEEN.proves
def rounded() -> None:
    """The reference's KDPM2 classes round the times of Karras sigmas, Euler's and Heun's do not.

    ArXiv:2206.00364, algorithm 2: the network is told the level that it sees.
    """
    for name in KDPM:
        with theirs((name,), use_karras_sigmas=True) as scheduler:
            scheduler.set_timesteps(5)
            times, level = scheduler.timesteps, float(scheduler.sigmas[2])
            exact = scheduler._sigma_to_t(np.array(level), scheduler.log_sigmas.numpy())
        assert times[2] == np.round(exact) != exact
        for mode, t in (("diffusers", times[2]), ("paper", exact)):
            assert close(ours((name,), mode, use_karras_sigmas=True).plan(5).timesteps[2], t)


LIST_OF_LEVELS.concerns(KDPM)


@LIST_OF_LEVELS.proves
def levels_of_steps() -> None:
    """As many levels as evaluations and the end; the reference's KDPM2 classes have two more zeros.

    `sigmas` is one longer than `timesteps`, as in every other class.
    """
    for name in KDPM:
        for options in ({}, {"use_karras_sigmas": True}, {"timestep_spacing": "leading"}):
            with theirs((name,), **options) as scheduler:
                scheduler.set_timesteps(7)
                assert len(scheduler.timesteps) == 13
                assert len(scheduler.sigmas) == 16
            for mode in both():
                mine = ours((name,), mode, **options)
                mine.set_timesteps(7)
                assert len(mine.sigmas) == 14
                assert close(mine.sigmas, scheduler.sigmas[:14])


LIST_OF_LEVELS.concerns((*KDPM, *SDE))


@LIST_OF_LEVELS.proves
def noise_in_the_middle() -> None:
    """A time in the middle of a step has its own level; the reference adds noise of the next one.

    The level at a time is what a sample at that time has.
    """
    for name in (KDPM[0], *SDE):
        with theirs((name,)) as scheduler:
            scheduler.set_timesteps(5)
            t, level = scheduler.timesteps[1:2].repeat(2), scheduler.sigmas[2]
            assert close(scheduler.add_noise(0 * X, EPS, t), level * EPS)
            middle = (scheduler.sigmas[0] * level).sqrt()
        for mode in both():
            mine = ours((name,), mode)
            mine.set_timesteps(5)
            assert close(mine.add_noise(0 * X, EPS, mine.timesteps[1:2]), middle * EPS)


NO_SUCH_RUN.concerns((*KDPM, *SDE, *LMS))


@NO_SUCH_RUN.proves
def past_the_end_of_others() -> None:
    """Raises; the reference tells the network a time it was not trained with.

    There is no training step num_train_timesteps.
    """
    options = {"num_train_timesteps": 60, "timestep_spacing": "leading", "steps_offset": 1}
    for name in (*KDPM, *SDE, *LMS):
        with theirs((name,), **options) as scheduler:
            scheduler.set_timesteps(60)
            assert scheduler.timesteps[0] == 60
        for mode in both():
            with pytest.raises(ValueError, match="last training step"):
                ours((name,), mode, **options).set_timesteps(60)


PRECISION.concerns(
    (KDPM[1], *SDE),
    where=lambda space, case: (
        case["n"] == 20
        and case["beta_schedule"] == "squaredcos_cap_v2"
        and case["trained_betas"] is None
        and case["timestep_spacing"] == "linspace"
    ),
    scope="none as installed",
)


@PRECISION.proves
def small_levels() -> None:
    """Computed from float64 tables; in single precision the reference is as far from its own double
    precision as from us.

    1 - alpha_bar of a cosine schedule's first steps, and the ancestral sigma_b^2 - up^2, cancel.
    """
    for name in (KDPM[1], *SDE):
        case = {**SPACES[name].default, "n": 20, "beta_schedule": "squaredcos_cap_v2"}
        case |= {"use_exponential_sigmas": True, "prediction_type": "v_prediction"}
        case |= {"timestep_spacing": "linspace"}
        exact, single = (
            runs.through_diffusers(SPACES[name], case, lifted=lifted) for lifted in (True, False)
        )
        off = [
            float((a - b).abs().max() / max(1.0, float(a.abs().max())))
            for a, b in zip(exact.estimates, single.estimates, strict=True)
        ]
        assert max(off) > 1e-4, name
        mine = runs.through_plan(SPACES[name], case, exact.draws, lifted=True)
        assert close(mine.samples[-1], exact.samples[-1])


LAST_STEP_OF_LENGTH_ZERO.concerns(EDM, where=zero_length)


@LAST_STEP_OF_LENGTH_ZERO.proves
def step_of_length_zero_edm() -> None:
    """The reference's last two sigmas are equal.

    N steps need n + 1 different levels.
    """
    with theirs(EDM, final_sigmas_type="sigma_min") as scheduler:
        scheduler.set_timesteps(5)
        assert scheduler.sigmas[-1] == scheduler.sigmas[-2]
    for mode in both():
        levels = ours(EDM, mode, final_sigmas_type="sigma_min").plan(5).grid.points
        assert (levels[-1].sigma == levels[-2].sigma) == (mode == "diffusers")
        assert close(levels[-1].sigma, 0.002)


PLACES_OR_LEVELS = differs(
    "sigmas of EDMEuler",
    "noise levels, decreasing, as in every class",
    "places on the ramp, increasing from 0 to 1",
    right="they are called sigmas, and documented as such",
).concerns(EDM)


@PLACES_OR_LEVELS.proves
def places_or_levels() -> None:
    levels = torch.tensor([80.0, 10.0, 1.0])
    with theirs(EDM) as scheduler:
        scheduler.set_timesteps(sigmas=levels)
        assert scheduler.sigmas[0] < 0, "no noise level"
        scheduler.set_timesteps(sigmas=torch.tensor([0.0, 0.3, 1.0]))
        expected = scheduler.sigmas
    scheduler = ours(EDM, "paper")
    scheduler.set_timesteps(sigmas=levels)
    assert close(scheduler.sigmas, [*levels, 0.0])
    scheduler = ours(EDM, "diffusers")
    scheduler.set_timesteps(sigmas=torch.tensor([0.0, 0.3, 1.0]))
    assert close(scheduler.sigmas, expected, 1e-6)
    with pytest.raises(ValueError, match="places on the ramp"):
        scheduler.set_timesteps(sigmas=levels)


LIST_OF_LEVELS.concerns(EDM)


@LIST_OF_LEVELS.proves
def exponential_places() -> None:
    """Places on an exponential ramp are where the levels are; the reference only counts them.

    Places on a Karras ramp are heeded by both.
    """
    options = {"sigma_schedule": "exponential"}
    given = torch.tensor([0.0, 0.9, 1.0])
    with theirs(EDM, **options) as scheduler:
        scheduler.set_timesteps(sigmas=given)
        assert close(scheduler.sigmas[1], math.sqrt(0.002 * 80.0), 1e-6)
    scheduler = ours(EDM, "diffusers", **options)
    scheduler.set_timesteps(sigmas=given)
    assert close(scheduler.sigmas[1], 80.0**0.1 * 0.002**0.9, 1e-6)


LATER_HISTORY = differs(
    "order of a run that starts later",
    "1 at its first step, and so on, as in any run; the reference's LMS takes the order of the "
    "entry, and leaves out the terms whose history is missing",
    right="the weights of a consistent formula add up to the step; terms that are missing do not",
).concerns(LMS)


@LATER_HISTORY.proves
def later_history() -> None:
    """With one slope everywhere every order is exact; the reference's first step is not."""

    def first(scheduler: Any) -> tuple[torch.Tensor, float]:
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(5)
        length = float(scheduler.sigmas[6] - scheduler.sigmas[5])
        return scheduler.step(EPS, scheduler.timesteps[5], X).prev_sample, length

    with theirs(LMS) as scheduler:
        found, length = first(scheduler)
        assert not close(found, X + length * EPS, 1e-2)
    for mode in both():
        found, length = first(ours(LMS, mode))
        assert close(found, X + length * EPS)
