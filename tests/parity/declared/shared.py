"""Themes that several families share; a class is added to one from its own family's file."""

import warnings
from typing import Any

import diffusers
import pytest
import torch

import cmsched

from .. import runs
from ..declaring import (
    ANCESTRAL,
    CM,
    DDIM,
    DDPM,
    DPM,
    EPS,
    EULER,
    HEUN,
    LCM,
    X,
    both,
    close,
    differs,
    ours,
    quick,
    theirs,
    zero_length,
)
from ..grid import GIVEN, TRAIN
from ..lifted import Draws, own_tables, reference
from ..spaces import SPACES

ONE_LINSPACE_STEP = differs(
    "one linspace step",
    "starts at the noisiest timestep",
    "starts at timestep 0, the least noisy",
    right="a sample starts from noise (arXiv:2006.11239, algorithm 2)",
).concerns(
    (*DDIM, *DDPM, *EULER, *ANCESTRAL, *HEUN),
    where=lambda space, case: (
        case["n"] == 1
        and case["timestep_spacing"] == "linspace"
        and GIVEN not in (case.get("set.timesteps"), case.get("set.sigmas"))
        and case.get("interpolation_type") != "log_linear"
    ),
)


@ONE_LINSPACE_STEP.proves
def linspace_one() -> None:
    """The last timestep of one spaced linearly; the reference takes the first of two.

    A sample starts from noise (arXiv:2006.11239, algorithm 2).
    """
    for name in ("DDIMScheduler", "HeunDiscreteScheduler"):
        options = {"timestep_spacing": "linspace"}
        for scheduler, first in (
            (ours((name,), **options), 0),
            (ours((name,), "paper", **options), 999),
        ):
            scheduler.set_timesteps(1)
            assert scheduler.timesteps.tolist() == [first]
        with theirs((name,), **options) as scheduler:
            scheduler.set_timesteps(1)
            assert scheduler.timesteps.tolist() == [0]


LAST_STEP_OF_LENGTH_ZERO = differs(
    "last step of length zero",
    "the last level is the end, and n steps lead there",
    "n - 1 steps lead there, the last network call changes nothing",
    right='final_sigmas_type="sigma_min", and set_alpha_to_one=False, ask for another end only',
).concerns(
    (*DDIM, *EULER, *DPM),
    where=lambda space, case: (
        zero_length(space, case)
        and case.get("set.timesteps") is None
        and (case["n"] != TRAIN or space.name not in DDIM)
    ),
)


@LAST_STEP_OF_LENGTH_ZERO.proves
def step_of_length_zero() -> None:
    """The levels of a ramp end at the last level, which would be visited twice."""
    options = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
    with theirs(EULER, **options) as scheduler:
        scheduler.set_timesteps(5)
        assert close(scheduler.sigmas[-1], scheduler.sigmas[-2])
    for mode in both():
        scheduler = ours(EULER, mode, **options)
        scheduler.set_timesteps(5)
        assert close(scheduler.sigmas[-1], scheduler.sigmas[-2]) == (mode == "diffusers")


UNNEEDED_NOISE = differs(
    "noise that no step needs",
    "a step draws only where its noise has a coefficient; the reference draws in the last "
    "step too, and throws it away or, in a cut LCM run, adds it",
    right="the result does not need it, and a stream of noise shared with other code is not "
    "shifted",
)


UNNEEDED_NOISE.concerns((*CM, *DDIM, *EULER, *ANCESTRAL, *DPM))


@UNNEEDED_NOISE.proves
def thrown_away() -> None:
    """A step draws only where the noise has a coefficient; the reference draws in the last step
    too.

    The result is the same; a stream of noise shared with other code is not shifted.
    """
    for name, options in (
        ("CMStochasticIterativeScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ):
        draws = Draws()
        with reference(name, draws, lifted=True) as cls:
            scheduler = cls(**options)
            scheduler.set_timesteps(4)
            for t in scheduler.timesteps:
                scheduler.step(EPS, t, X)
        assert len(draws.handed_over()) == 4
        for mode in both():
            assert sum(len(row.draws) for row in ours((name,), mode, **options).plan(4).rows) == 3


WHICH_STEP = differs(
    "the step that a timestep means",
    "steps are counted, the first of equal timesteps begins the run, and one that is not in "
    "the list raises; the reference takes the second of equal ones, skips a step and reads "
    "past the end, and takes the last step for an unknown one",
    right="a loop goes through every step, and a timestep that is in no list is a mistake of the "
    "caller",
)


WHICH_STEP.concerns((*EULER, *ANCESTRAL, *HEUN, *DPM))


@WHICH_STEP.proves
def equal_times() -> None:
    """The first of equal timesteps begins the run; the reference takes the second, skips a step
    and then reads past the end.

    Steps are counted; levels that differ may have times that are equal once cut.
    """
    options = {
        "use_beta_sigmas": True,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    }
    with theirs(DPM, lifted=False, **options) as scheduler:
        scheduler.set_timesteps(32)
        assert scheduler.timesteps[0] == scheduler.timesteps[1]
        quick(scheduler, 32)
        assert scheduler.step_index == 2
    for mode in both():
        scheduler = ours(DPM, mode, **options)
        quick(scheduler, 32)
        assert scheduler.step_index == 1


WHICH_STEP.concerns(DPM)


@WHICH_STEP.proves
def unknown() -> None:
    """Raises; the reference silently takes the last step.

    A timestep that is not in the list is a mistake of the caller.
    """
    with theirs(DPM) as scheduler:
        scheduler.set_timesteps(10)
        assert scheduler.index_for_timestep(123) == 9
    for mode in both():
        scheduler = ours(DPM, mode)
        scheduler.set_timesteps(10)
        with pytest.raises(ValueError, match="not one of"):
            scheduler.step(EPS, 123, X)


PREDICTIONS = differs(
    "what a prediction means",
    "x0, eps and v are solved from x = alpha x0 + sigma eps at the level that the network "
    "saw; the reference takes other levels, or leaves a division out",
    right="arXiv:2202.00512, section 4, and arXiv:2210.02747: the definitions, solved for x0",
)


LIST_OF_LEVELS = differs(
    "the levels of a run and their end",
    "n explicit levels are those of n steps, which go to the end; the reference's last explicit "
    "sigma is always the end",
    right="one rule for every class: a terminal entry is recognised and not doubled",
)


LIMITS = differs(
    "coefficients in their limit",
    "where alpha, sigma or the length of a step is 0, the limit; the reference divides zero "
    "by zero or takes the root of a rounding residue",
    right="the limit of the published formula",
)


NO_SUCH_RUN = differs(
    "runs that do not exist",
    "raises, naming the option; the reference goes up in noise, past its last training "
    "step, or to NaN",
    right="a sampler goes from noise to data along levels that the schedule has",
)


NO_SUCH_RUN.concerns((*EULER, *ANCESTRAL, *HEUN, *DPM))


@NO_SUCH_RUN.proves
def past_the_end() -> None:
    """Raises; the reference tells the network a time it was not trained with, at the level
    before.

    There is no training step num_train_timesteps.
    """
    for name in (*EULER, *ANCESTRAL, "HeunDiscreteScheduler"):
        options = {"num_train_timesteps": 60, "timestep_spacing": "leading", "steps_offset": 1}
        with theirs((name,), **options) as scheduler:
            scheduler.set_timesteps(60)
            assert scheduler.timesteps[0] == 60
            assert scheduler.sigmas[0] == scheduler.sigmas[1]
        for mode in both():
            with pytest.raises(ValueError, match="last training step"):
                ours((name,), mode, **options).set_timesteps(60)


NO_SUCH_RUN.concerns((*EULER, *ANCESTRAL, *DPM))


@NO_SUCH_RUN.proves
def rising() -> None:
    """A run that visits the last two training steps raises; the reference gives the last one
    sigma = 4096, less than the one before it, and goes up in noise.

    A sampler goes from noise to data.
    """
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    for names in (EULER, ANCESTRAL, DPM):
        with theirs(names, **options) as scheduler:
            scheduler.set_timesteps(1000)
            assert scheduler.sigmas[1] > scheduler.sigmas[0]
        for mode in both():
            with pytest.raises(ValueError, match="from noise to data"):
                ours(names, mode, **options).set_timesteps(1000)


NO_SUCH_RUN.concerns((*DDIM, *DDPM, *LCM))


@NO_SUCH_RUN.proves
def zero_snr() -> None:
    """Raises; in the reference the sample becomes NaN or infinite.

    ArXiv:2305.08891, section 3.1: at alpha = 0 epsilon says nothing about x0.
    """
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
    with theirs(DDIM, **options) as scheduler:
        assert not torch.isfinite(quick(scheduler, 4)).any()
    for mode in both():
        with pytest.raises(ValueError, match="zero terminal"):
            ours(DDIM, mode, **options).set_timesteps(4)


REJECTED_OPTIONS = differs(
    "options that the reference rejects or ignores",
    "they work as they are documented; the reference raises, or heeds them nowhere",
    right="nothing in the method forbids them",
)


VARIANCES = differs(
    "variances that are not the small one",
    "the log variance of the network's second half, or beta; the reference takes the root "
    "of a log or of a bare head, or keeps three channels",
    right="arXiv:2102.09672, section 3.1, and its published code",
)


PRECISION = differs(
    "precision",
    "coefficients are float64 and a result has the sample's dtype; the reference computes in "
    "float32, and dtypes change along its formulas",
    right="rounding is not part of any paper, and a loop keeps the dtype that it was given",
)


PRECISION.concerns(tuple(SPACES))
SINGLE = differs(
    "tables and noise of float32",
    "tables are float64, and noise has the sample's dtype",
    "alpha_bar has the reference's float32 values, and what is made of it is float64; the noise of "
    "DPMSolverMultistep, of FlowMatchEulerDiscrete and of ScoreSdeVe's corrector is drawn in "
    "float32",
    right="rounding is not part of any paper",
).concerns(tuple(name for name in SPACES if hasattr(getattr(cmsched, name), "alphas_cumprod")))


@SINGLE.proves
def float32() -> None:
    """Betas near 1 or 0 lose four digits in the reference."""
    exact = ours(EULER, "paper").sigmas
    with own_tables(lifted=False):
        copied = ours(EULER).sigmas
    with theirs(EULER, lifted=False) as scheduler:
        assert 1e-6 < float((scheduler.sigmas[:-1] / exact[:-1] - 1).abs().max()) < 1e-2
        assert close(scheduler.sigmas[:-1] / copied[:-1], 1.0, 3e-7)
    with theirs(EULER) as scheduler:
        assert close(scheduler.sigmas, exact, 1e-10)


@SINGLE.proves
def noise_of_float32() -> None:
    """A generator gives other numbers in float64."""
    options = {"algorithm_type": "sde-dpmsolver++"}
    x, generator = runs.normal((2, 3, 4, 5), torch.float64, 10), torch.Generator

    def step(scheduler: Any) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reference's own
            scheduler.set_timesteps(4)
        t, m = scheduler.timesteps[0], torch.tanh(x)
        return scheduler.step(m, t, x, generator=generator().manual_seed(3)).prev_sample

    expected = step(diffusers.DPMSolverMultistepScheduler(**options))
    with own_tables(lifted=False):
        copied, exact = (step(ours(DPM, mode, **options)) for mode in ("diffusers", "paper"))
    assert close(copied, expected, 1e-6)
    assert not close(exact, expected, 1e-1)


PRECISION.concerns((*EULER, *ANCESTRAL, *DPM, *HEUN))


@PRECISION.proves
def dtype() -> None:
    """The sample's; the reference gives the model output's, and Euler's estimate in float32.

    A loop keeps the dtype that it was given.
    """
    half = X.to(torch.float16)
    with theirs(EULER, lifted=False) as scheduler:
        scheduler.set_timesteps(4)
        out = scheduler.step(half, scheduler.timesteps[0], half)
        assert out.pred_original_sample.dtype == torch.float32
        assert (
            torch.float32
            == scheduler.step(half.float(), scheduler.timesteps[1], half).prev_sample.dtype
        )
    for mode in both():
        scheduler = ours(EULER, mode)
        scheduler.set_timesteps(4)
        out = scheduler.step(half, scheduler.timesteps[0], half)
        assert out.pred_original_sample.dtype == out.prev_sample.dtype == torch.float16
