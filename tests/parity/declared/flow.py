"""Flow matching."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import cmsched

from .. import runs
from ..declaring import EPS, X, both, close, differs, ours, quick, ramped, theirs
from ..grid import GIVEN, Case, Space, count
from .shared import NO_SUCH_RUN, PRECISION, PREDICTIONS, REJECTED_OPTIONS, UNNEEDED_NOISE
from .sigma import BEFORE_SET_TIMESTEPS

FLOW_EULER, FLOW_HEUN = ("FlowMatchEulerDiscreteScheduler",), ("FlowMatchHeunDiscreteScheduler",)
FLOWS = (*FLOW_EULER, *FLOW_HEUN)
UNIPC = ("UniPCMultistepScheduler",)


def shifted_twice(space: Space, case: Case) -> bool:
    """Whether a shifted lowest level is shifted again, and other steps follow from it."""
    if GIVEN in (case.get("set.sigmas"), case.get("set.timesteps")):
        return False
    stretched = case.get("shift_terminal") and (count(case) == 2 or ramped(case))
    return bool(
        case["shift"] != 1.0
        and not case.get("use_dynamic_shifting")
        and count(case) > 1
        and not stretched  # between its ends are placed anew
    )


SHIFTS = differs(
    "shifted levels of a flow",
    "a level is shifted once; explicit timesteps are those of the levels, and a list of sigmas "
    "that ends at 0 has the levels themselves",
    "a run begins with levels even between ends that are shifted already; explicit timesteps are "
    "shifted, and the network is told them as they were; a list of sigmas that ends at 0 is "
    "shifted, and the network is asked there too",
    right="arXiv:2403.03206, eq. 23, maps the levels of an unshifted run; arXiv:2209.03003, eq. 1: "
    "the network is told the level of its sample",
).concerns(FLOWS, where=shifted_twice)


@SHIFTS.proves
def shift_twice() -> None:
    """The lowest level counts its shift once.

    ArXiv:2403.03206, eq. 23.
    """
    once, twice = 3 * 0.001 / 1.002, 3 * (3 * 0.001 / 1.002) / (1 + 2 * (3 * 0.001 / 1.002))
    for names in (FLOW_EULER, FLOW_HEUN):
        with theirs(names, shift=3.0) as scheduler:
            scheduler.set_timesteps(4)
            assert close(scheduler.sigmas[-2], twice)
        for mode, expected in (("paper", once), ("diffusers", twice)):
            scheduler = ours(names, mode, shift=3.0)
            scheduler.set_timesteps(4)
            assert close(scheduler.sigmas[-2], expected)


SHIFTS.concerns(UNIPC)


@SHIFTS.proves
def list_to_zero() -> None:
    """Sigmas with their end are what a run shows, and the levels themselves.

    ArXiv:2403.03206, eq. 23: the end stays where it is.
    """
    given, shifted = np.array([1.0, 0.75, 0.5, 0.25, 0.0]), [1.0, 0.9, 0.75, 0.5, 0.0, 0.0]
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    for names, options in ((FLOW_EULER, {"shift": 3.0}), (UNIPC, flow)):
        with theirs(names, **options) as scheduler:
            scheduler.set_timesteps(sigmas=given)
            assert close(scheduler.sigmas, shifted, 1e-5)
            times = scheduler.timesteps
        for mode, expected in (("diffusers", shifted), ("paper", given)):
            scheduler = ours(names, mode, **options)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                scheduler.set_timesteps(sigmas=given)
            assert close(scheduler.sigmas, expected, 1e-5)
            assert bool(said) == (mode == "paper")
            if mode == "diffusers":
                assert close(scheduler.timesteps, times)


def bent(space: Space, case: Case) -> bool:
    """Whether explicit timesteps are not those of the levels."""
    moved = case["shift"] != 1.0 or case["use_dynamic_shifting"] or case["shift_terminal"]
    alone = case["set.timesteps"] == GIVEN and case["set.sigmas"] is None
    return bool(alone and (moved or (ramped(case) and count(case) > 2)))


SHIFTS.concerns(FLOW_EULER, where=bent)


@SHIFTS.proves
def told() -> None:
    """Explicit timesteps are those of the levels.

    ArXiv:2209.03003, eq. 1.
    """
    times = [900.0, 400.0]
    with theirs(FLOW_EULER, shift=3.0) as scheduler:
        scheduler.set_timesteps(timesteps=times)
        assert close(scheduler.timesteps, times)
        assert not close(scheduler.sigmas[:-1] * 1000, times, 1e-2)
    for mode in both():
        scheduler = ours(FLOW_EULER, mode, shift=3.0)
        scheduler.set_timesteps(timesteps=times)
        assert close(scheduler.timesteps, times)
        assert close(scheduler.sigmas[:-1] * 1000, times) == (mode == "paper")


TOKENS = differs(
    "output where tokens have their own times",
    "eps - x0, as in every step",
    "x0 - eps, where the sampling is not stochastic",
    right="one network has one meaning; LTX-Video's pipeline turns the sign to suit the reference",
).concerns(FLOW_EULER)


@TOKENS.proves
def tokens() -> None:
    x, m = (runs.normal((2, 3, 4), torch.float64, seed) for seed in (0, 1))
    with theirs(FLOW_EULER, shift=3.0) as scheduler:
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[1]
        sigma = scheduler.sigmas[1:3]
        theirs_out = scheduler.step(m, t, x, per_token_timesteps=t.expand(2, 3)).prev_sample
    assert close(theirs_out, x + (sigma[0] - sigma[1]) * m)
    for mode in both():
        scheduler = ours(FLOW_EULER, mode, shift=3.0)
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[1]
        out = scheduler.step(m, t, x, per_token_timesteps=t.expand(2, 3)).prev_sample
        scheduler.set_timesteps(4)
        whole = scheduler.step(m if mode == "paper" else -m, t, x).prev_sample
        assert close(out, whole)
        assert close(out, theirs_out) == (mode == "diffusers")


REJECTED_OPTIONS.concerns(FLOWS)


@REJECTED_OPTIONS.proves
def churn_of_a_flow() -> None:
    """`plan` noises up before an evaluation, `step`, where it is too late, raises; the reference's
    Euler ignores it, its Heun adds the noise of another frame after each evaluation.

    ArXiv:2206.00364, algorithm 2, lines 4 to 6, in sigma / alpha.
    """
    with theirs(FLOW_EULER) as scheduler:
        assert close(quick(scheduler, 4, s_churn=3.0), quick(scheduler, 4))
    with theirs(FLOW_HEUN) as scheduler:
        noisy = quick(scheduler, 4, s_churn=3.0)
        sigma, after = scheduler.sigmas[:2]
        hat = sigma * (1 + min(3 / 7, 2**0.5 - 1))
        assert hat > 1, "a flow has no such level"
        assert not close(noisy, X + (after - sigma) * EPS, 0.1)
    for names in (FLOW_EULER, FLOW_HEUN):
        for mode in both():
            with pytest.raises(ValueError, match="already seen"):
                quick(ours(names, mode), 4, s_churn=3.0)
            scheduler = ours(names, mode)
            plan = scheduler.plan(20, s_churn=4.0)
            assert plan.layout.stochastic
            # of data that are one point an exact network makes that point
            out = cmsched.sample(lambda x, t: (x - 0.3) / (t / 1000), plan, X, rng=0)
            assert close(out, torch.full_like(X, 0.3), 1e-9)


PREDICTIONS.concerns(
    FLOW_EULER,
    where=lambda space, case: case["invert_sigmas"] and case["stochastic_sampling"],
    scope="none",
)


@PREDICTIONS.proves
def inverted_and_stochastic() -> None:
    """With invert_sigmas the network says x0 - eps in the time 1 - sigma; the reference's
    stochastic step takes that output for eps - x0, and ends at the noise.

    What it calls the clean sample is eps.
    """
    options = {"invert_sigmas": True, "stochastic_sampling": True}
    x0, eps = X, EPS
    with theirs(FLOW_EULER, **options) as scheduler:
        scheduler.set_timesteps(4)
        x = (1 - scheduler.sigmas[3]) * eps + scheduler.sigmas[3] * x0
        out = scheduler.step(x0 - eps, scheduler.timesteps[3], x).prev_sample
        assert not close(out, x0, 0.1)
    for mode in both():
        scheduler = ours(FLOW_EULER, mode, **options)
        scheduler.set_timesteps(4)
        x = (1 - scheduler.sigmas[3]) * eps + scheduler.sigmas[3] * x0
        assert close(scheduler.step(x0 - eps, scheduler.timesteps[3], x).prev_sample, x0)


@PREDICTIONS.proves
def noise_of_inverted_levels() -> None:
    """scale_noise gives the sample at a timestep's level; with invert_sigmas the reference's gives
    noise where there is none, and none at the start.

    ArXiv:2209.03003, eq. 1.
    """
    for scheduler, first in (
        *((ours(FLOW_EULER, mode, invert_sigmas=True), EPS) for mode in both()),
        (inverted_reference(), X),
    ):
        scheduler.set_timesteps(4)
        assert close(scheduler.scale_noise(X, scheduler.timesteps[:1], EPS), first)


def inverted_reference() -> Any:
    """A scheduler of the reference."""
    with theirs(FLOW_EULER, invert_sigmas=True) as scheduler:
        return scheduler


UNNEEDED_NOISE.concerns(FLOW_EULER)


@UNNEEDED_NOISE.proves
def last_jump_of_a_flow() -> None:
    """The last jump of stochastic sampling ends at x0 itself.

    The reference draws, and multiplies by zero.
    """
    for mode in both():
        plan = ours(FLOW_EULER, mode, stochastic_sampling=True).plan(4)
        assert [len(row.draws) for row in plan.rows] == [1, 1, 1, 0]


BEFORE_SET_TIMESTEPS.concerns(FLOW_EULER)


@BEFORE_SET_TIMESTEPS.proves
def inverted_before() -> None:
    """With invert_sigmas they are inverted, as in a run; the reference's are not yet.

    One rule for both.
    """
    with theirs(FLOW_EULER, invert_sigmas=True) as scheduler:
        assert scheduler.timesteps[0] == 1000
        scheduler.set_timesteps(4)
        assert scheduler.timesteps[0] == 0
    for mode in both():
        scheduler = ours(FLOW_EULER, mode, invert_sigmas=True)
        assert scheduler.timesteps[0] == 0
        scheduler.set_timesteps(4)
        assert scheduler.timesteps[0] == 0


NO_SUCH_RUN.concerns(FLOW_EULER)


@NO_SUCH_RUN.proves
def stretched_to_nothing() -> None:
    """One step cannot start at 1 and at shift_terminal; the reference's level is NaN.

    A stretch needs two ends.
    """
    with theirs(FLOW_EULER, shift_terminal=0.1) as scheduler, np.errstate(all="ignore"):
        scheduler.set_timesteps(1)
        assert torch.isnan(scheduler.sigmas[0])
    for mode in both():
        with pytest.raises(ValueError, match=r"shift_terminal=0\.1"):
            ours(FLOW_EULER, mode, shift_terminal=0.1).set_timesteps(1)


PRECISION.concerns(FLOWS)


@PRECISION.proves
def tables_of_a_flow() -> None:
    """The levels of a flow are float64, and a result has the sample's dtype; the reference's levels
    are float32, and a result has the output's dtype, or float32 where tokens have their own times.

    Rounding is not part of any paper.
    """

    def half(scheduler: Any) -> torch.Tensor:
        scheduler.set_timesteps(3)
        x = runs.normal((2, 3, 4), torch.float16, 0)
        t = scheduler.timesteps[0]
        return scheduler.step(x, t, x, per_token_timesteps=t.expand(2, 3)).prev_sample

    with theirs(FLOW_EULER, lifted=False) as scheduler:
        assert half(scheduler).dtype == torch.float32
    for mode in both():
        scheduler = ours(FLOW_EULER, mode)
        assert half(scheduler).dtype == torch.float16
        assert scheduler.sigmas.dtype == torch.float64
