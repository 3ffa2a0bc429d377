"""Samplers in the frame of k-diffusion: consistency models, Euler, Heun."""

import math

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
            Rule(
                ("n", "timestep_spacing", "steps_offset"),
                lambda n, spacing, offset: n != TRAIN or spacing != "leading" or not offset,
            ),
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
]
