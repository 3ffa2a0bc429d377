"""DDIM, DDPM, LCM and their kin."""

import functools
import math
from typing import Any

import torch

from .. import runs
from ..declaring import DDIM, DDPM, EPS, LCM, X, both, close, constant, differs, ours, quick, theirs
from ..grid import GIVEN, Case
from ..lifted import Draws, reference
from .shared import LIMITS, UNNEEDED_NOISE, VARIANCES

DDIM_STRIDE = differs(
    "end of a DDIM step",
    "the next timestep of the list",
    "num_train_timesteps // n below the timestep, whatever the next one is",
    right="arXiv:2010.02502, eq. 12: x at tau_(i-1) is made of alpha at tau_(i-1)",
).concerns(DDIM, where=lambda space, case: runs.plan_of(space, case).grid.arrivals is not None)


@DDIM_STRIDE.proves
def ddim_stride() -> None:
    def misses(scheduler: Any) -> float:
        """How far from the next marginal a step of an exact network ends."""
        scheduler.set_timesteps(30)
        t, following = scheduler.timesteps[20:22]
        x = scheduler.add_noise(X, EPS, t[None])
        after = scheduler.step(EPS, t, x).prev_sample
        return float((after - scheduler.add_noise(X, EPS, following[None])).abs().max())

    options = {"timestep_spacing": "linspace", "clip_sample": False}
    with theirs(DDIM, **options) as scheduler:
        assert misses(scheduler) > 1e-3
    assert misses(ours(DDIM, **options)) > 1e-3
    assert misses(ours(DDIM, "paper", **options)) < 1e-12


DDPM_LAST_NOISE = differs(
    "noise of DDPM's last step",
    "none",
    "drawn wherever the last timestep is not 0: of variance 1e-20, where large or learned of more",
    right="arXiv:2006.11239, algorithm 2, line 3: z = 0 in the last step",
).concerns(DDPM, where=lambda space, case: runs.plan_of(space, case).points[-1].t > 0)


@DDPM_LAST_NOISE.proves
def ddpm_last() -> None:
    options = {"timestep_spacing": "trailing", "variance_type": "fixed_large"}
    draws = Draws()
    with reference("DDPMScheduler", draws, lifted=True) as cls:
        quick(cls(**options), 1)
    assert len(draws.handed_over()) == 1
    assert len(ours(DDPM, **options).plan(1).rows[-1].draws) == 1
    assert len(ours(DDPM, "paper", **options).plan(1).rows[-1].draws) == 0


def without_log(case: Case) -> Case:
    """The variance that the reference means by fixed_large_log."""
    return {**case, "variance_type": "fixed_large"}


VARIANCES.concerns(
    DDPM,
    where=lambda space, case: case["variance_type"] == "fixed_large_log",
    translate=without_log,
)


@VARIANCES.proves
def fixed_large_log() -> None:
    """The variance is beta; the reference takes the root of log beta, NaN.

    ArXiv:2102.09672, section 3.1: beta_t is the upper bound of the variance.
    """
    with theirs(DDPM, variance_type="fixed_large_log") as scheduler:
        assert not torch.isfinite(quick(scheduler, 4)).any()
    for mode in both():
        log, plain = (
            ours(DDPM, mode, variance_type=kind).plan(4).rows
            for kind in ("fixed_large_log", "fixed_large")
        )
        assert log == plain


VARIANCES.concerns(
    DDPM,
    where=lambda space, case: case["variance_type"] == "learned",
    translate=lambda case: {**case, "as.head": "variance"},
)


@VARIANCES.proves
def learned() -> None:
    """The head is the log variance; the reference takes the root of the bare head, NaN below 0.

    ArXiv:2102.09672 and its published code: p_theta's log variance is what is learned.
    """
    doubled = torch.cat([EPS, -torch.ones_like(EPS)], dim=1)
    with theirs(DDPM, variance_type="learned") as scheduler:
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[0]
        assert not torch.isfinite(scheduler.step(doubled, t, X).prev_sample).any()
    for mode in both():
        after = []
        for z in (0.0, 1.0):
            scheduler = ours(DDPM, mode, variance_type="learned")
            scheduler.set_timesteps(4)
            noise = functools.partial(constant, z)
            after.append(scheduler.step(doubled, 750, X, generator=noise).prev_sample)
        assert close(after[1] - after[0], math.exp(-0.5))


UNNEEDED_NOISE.concerns(
    LCM,
    where=lambda space, case: case["set.timesteps"] == GIVEN and case["set.strength"] < 1,
    translate=lambda case: {**case, "set.strength": 1.0, "as.cut": case["set.strength"]},
)


@UNNEEDED_NOISE.proves
def lcm_strength() -> None:
    """The last step draws nothing; the reference counts to the length before the cut and adds
    noise.

    ArXiv:2310.04378, algorithm 3: noise is added only while steps are left.
    """
    draws = Draws()
    chosen = {"timesteps": [999, 759, 499, 259], "strength": 0.5}
    with reference("LCMScheduler", draws, lifted=True) as cls:
        scheduler = cls()
        scheduler.set_timesteps(**chosen)
        for t in scheduler.timesteps:
            scheduler.step(EPS, t, X)
    assert len(draws.handed_over()) == 2
    for mode in both():
        assert [len(row.draws) for row in ours(LCM, mode).plan(**chosen).rows] == [1, 0]


LIMITS.concerns(DDIM)


@LIMITS.proves
def residue() -> None:
    """The coefficient of eps is 0; in the reference it is the root of a residue, 1e-8 or NaN.

    ArXiv:2010.02502, eq. 16: at alpha = 0 and eta = 1 std^2 = 1 - alpha_(t-1).
    """
    options = {
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
        "prediction_type": "v_prediction",
        "clip_sample": False,
    }
    with theirs(DDIM, **options) as scheduler:
        scheduler.set_timesteps(7)
        t = scheduler.timesteps[0]
        zero = torch.zeros_like(X)
        after = scheduler.step(zero, t, X, eta=1.0, variance_noise=zero).prev_sample
        assert not (float(after.abs().max()) < 1e-12)
    for mode in both():
        terms = ours(DDIM, mode, **options).plan(7, eta=1.0).rows[0].statements[-1][1]
        assert 0 not in [value for value, _, _ in terms], "the sample is not read"
