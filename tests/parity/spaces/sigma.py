"""Samplers in the frame of k-diffusion: consistency models, Euler, Heun, DPM-Solver-2, LMS."""

import math
from typing import Any

import torch

from ..grid import (
    BETAS,
    BOTH,
    CLIPPING,
    GIVEN,
    LATER,
    OFFSETS,
    PAST,
    PREDICTIONS,
    RAMPS,
    RUN,
    SMALL,
    SPACINGS,
    TRAIN,
    WHOLE,
    Rule,
    Space,
    one_of,
    rampless,
)

TABLES = ("alphas_cumprod", "betas", "alphas", "timesteps", "sigmas")
RAMPLESS = {**dict.fromkeys(RAMPS, False), "final_sigmas_type": "zero", "steps_offset": 0}

# what the classes with sigmas of a table of betas share
LEVELS = {
    **RUN,
    **BETAS,
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    **RAMPS,
    "timestep_spacing": SPACINGS,
    "steps_offset": OFFSETS,
}
PAST_ALWAYS = Rule(  # PAST where no timesteps are given
    ("n", "timestep_spacing", "steps_offset"),
    lambda n, spacing, offset: n != TRAIN or spacing != "leading" or not offset,
)
FEWER = {"set.num_train_timesteps": (None, 45)}
FEW = Rule(("n", "set.num_train_timesteps"), lambda n, train: n != TRAIN or train is None)
WITHIN = dict.fromkeys(
    (
        *("sample", "dt", "log_sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down"),
        *("mid_point_sigma", "noise_sampler"),
    ),
    "kept between the two evaluations of a step, or for them: the rows of a plan have it",
)


def starts(scheduler: Any, t: torch.Tensor) -> torch.Tensor:
    """The times where the steps begin that evaluate at these, up to interpolation."""
    times = scheduler.timesteps
    near = [((times - each).abs() < 1e-3).nonzero() for each in t.reshape(-1)]
    return times[[int(entries[-1]) // 2 * 2 for entries in near]]


def noise_at_starts(
    scheduler: Any, x0: torch.Tensor, z: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """`add_noise` at times where steps begin; the reference's own levels beside the others."""
    return scheduler.add_noise(x0, z, starts(scheduler, t))


SPACES = [
    Space(
        "CMStochasticIterativeScheduler",
        {
            **RUN,
            "num_train_timesteps": (40, SMALL),
            "sigma_min": (0.002, 0.01),
            "sigma_max": (80.0, 20.0),
            "sigma_data": (0.5, 1.0),
            "s_noise": (1.0, 1.007),
            "rho": (7.0, 3.0),
            "clip_denoised": BOTH,
            "set.timesteps": (None, GIVEN),
        },
        [WHOLE, LATER],
        step_draws_last=True,
        tables=("timesteps",),
        sigmas=True,
    ),
    Space(
        "EulerDiscreteScheduler",
        {
            **RUN,
            **BETAS,
            "prediction_type": (*PREDICTIONS, "original_sample"),
            "interpolation_type": ("linear", "log_linear"),
            **RAMPS,
            "sigma_min": (None, 0.05),
            "sigma_max": (None, 0.9),
            "timestep_spacing": SPACINGS,
            "timestep_type": ("discrete", "continuous"),
            "steps_offset": OFFSETS,
            "rescale_betas_zero_snr": BOTH,
            "final_sigmas_type": ("zero", "sigma_min"),
            "set.timesteps": (None, GIVEN),
            "set.sigmas": (None, GIVEN),
            "step.s_churn": (0.0, 5.0, 40.0),
            "step.s_tmin": (0.0, 0.5),
            "step.s_tmax": (math.inf, 8.0),
            "step.s_noise": (1.0, 1.007),
        },
        [
            WHOLE,
            LATER,
            *one_of(tuple(RAMPS)),
            PAST,
            *rampless("set.timesteps"),
            Rule(
                ("set.timesteps", "set.sigmas"),
                lambda times, sigmas: times is None or sigmas is None,
                {"set.timesteps": GIVEN, "set.sigmas": GIVEN},
            ),
            Rule(
                ("set.timesteps", "timestep_type", "prediction_type"),
                lambda times, kind, prediction: (
                    times is None or kind == "discrete" or prediction != "v_prediction"
                ),
                {
                    "set.timesteps": GIVEN,
                    "timestep_type": "continuous",
                    "prediction_type": "v_prediction",
                },
            ),
        ],
        step_draws_last=True,
        tables=TABLES,
        sigmas=True,
        fresh=RAMPLESS,
        velocity=True,
    ),
    Space(
        "EulerAncestralDiscreteScheduler",
        {
            **RUN,
            **BETAS,
            "prediction_type": ("epsilon", "v_prediction", "sample"),
            "timestep_spacing": SPACINGS,
            "steps_offset": OFFSETS,
            "rescale_betas_zero_snr": BOTH,
        },
        [
            WHOLE,
            LATER,
            PAST_ALWAYS,
        ],
        step_draws_last=True,
        tables=TABLES,
        sigmas=True,
        fresh=RAMPLESS,
    ),
    Space(
        "HeunDiscreteScheduler",
        {
            **RUN,
            **BETAS,
            "beta_schedule": (*BETAS["beta_schedule"], "exp"),
            "prediction_type": PREDICTIONS,
            **RAMPS,
            **CLIPPING,
            "timestep_spacing": SPACINGS,
            "steps_offset": OFFSETS,
            "set.num_train_timesteps": (None, 45),
            "set.timesteps": (None, GIVEN),
        },
        [
            WHOLE,
            LATER,
            *one_of(tuple(RAMPS)),
            PAST,
            *rampless("set.timesteps"),
            Rule(
                ("n", "set.num_train_timesteps", "set.timesteps"),
                lambda n, train, given: n != TRAIN or train is None or given == GIVEN,
            ),
        ],
        tables=TABLES,
        sigmas=True,
        fresh=RAMPLESS,
        reference_only=dict.fromkeys(
            ("dt", "prev_derivative", "sample"), "kept between the two evaluations of a step"
        ),
    ),
    *(
        Space(
            name,
            {**LEVELS, **FEWER},
            [WHOLE, LATER, FEW, *one_of(tuple(RAMPS)), PAST_ALWAYS],
            tables=TABLES[:-1],  # sigmas: a declared difference
            fresh=RAMPLESS,
            reference_only=WITHIN,
            add_noise=noise_at_starts,
        )
        for name in ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
    ),
    Space(
        "DPMSolverSDEScheduler",
        {
            **LEVELS,
            "noise_sampler_seed": (None, 7),
            **FEWER,
            "step.s_noise": (1.0, 1.007),
        },
        [WHOLE, LATER, FEW, *one_of(tuple(RAMPS)), PAST_ALWAYS],
        tables=TABLES,
        sigmas=True,
        fresh=RAMPLESS,
        reference_only=WITHIN,
        add_noise=noise_at_starts,
    ),
    Space(
        "LMSDiscreteScheduler",
        {**LEVELS, "step.order": (4, 1, 2, 3, 6)},
        [
            WHOLE,
            LATER,
            *one_of(tuple(RAMPS)),
            PAST_ALWAYS,
            # a declared difference
            Rule(
                ("start", "step.order"),
                lambda start, order: start in ("whole", "begin") or order == 1,
            ),
        ],
        tables=TABLES,
        sigmas=True,
        fresh=RAMPLESS,
        reference_only={"derivatives": "the history, which a run keeps"},
    ),
    Space(
        "EDMEulerScheduler",
        {
            **RUN,
            "sigma_min": (0.002, 0.01),
            "sigma_max": (80.0, 20.0),
            "sigma_data": (0.5, 1.0),
            "sigma_schedule": ("karras", "exponential"),
            "num_train_timesteps": (1000, SMALL),
            "prediction_type": ("epsilon", "v_prediction"),
            "rho": (7.0, 3.0),
            "final_sigmas_type": ("zero", "sigma_min"),
            "set.sigmas": (None,),  # places, not levels: tests/parity/test_sigma.py
            "step.s_churn": (0.0, 5.0, 40.0),
            "step.s_tmin": (0.0, 0.5),
            "step.s_tmax": (math.inf, 8.0),
            "step.s_noise": (1.0, 1.007),
        },
        [WHOLE, LATER],
        step_draws_last=True,
        tables=(),  # a declared difference
        sigmas=True,
        loop_gives=("pred_original_sample",),  # tests/parity/test_sigma.py
    ),
]
