"""First-order samplers on training steps: DDIM, DDPM, and those of distilled networks."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..grid import (
    BETAS,
    BOTH,
    CLIPPING,
    GIVEN,
    LATER,
    OFFSET,
    OFFSETS,
    PREDICTIONS,
    RUN,
    SMALL,
    SPACINGS,
    THRESHOLDING,
    TRAIN,
    WHOLE,
    ZERO_SNR,
    Case,
    Rule,
    Space,
)

FINAL = ("alphas_cumprod", "betas", "alphas", "timesteps", "final_alpha_cumprod")

SPACES = [
    Space(
        "LCMScheduler",
        {
            **RUN,
            **BETAS,
            "original_inference_steps": (50, 40),
            **CLIPPING,
            "set_alpha_to_one": BOTH,
            "steps_offset": OFFSETS,
            "prediction_type": PREDICTIONS,
            **THRESHOLDING,
            "timestep_spacing": SPACINGS,
            "timestep_scaling": (10.0, 1.0),
            "rescale_betas_zero_snr": BOTH,
            "set.original_inference_steps": (None, 30, SMALL),
            "set.timesteps": (None, GIVEN),
            "set.strength": (1.0, 0.8),
        },
        [
            WHOLE,
            LATER,
            ZERO_SNR,
            Rule(
                ("n", "set.original_inference_steps", "set.timesteps"),
                lambda n, original, given: n != TRAIN or given == GIVEN or original == SMALL,
                {"n": TRAIN, "num_train_timesteps": SMALL},
            ),
            Rule(
                ("n", "set.strength", "set.timesteps"),
                lambda n, strength, given: strength == 1.0 or (n != TRAIN and n != 1),
                {"n": TRAIN, "num_train_timesteps": SMALL, "set.strength": 0.8},
            ),
        ],
        tables=FINAL,
        velocity=True,
        reference_only={"sigma_data": "a constant, 0.5, set when first used"},
    ),
    Space(
        "DDIMScheduler",
        {
            **RUN,
            **BETAS,
            "clip_sample": BOTH,
            "set_alpha_to_one": BOTH,
            "steps_offset": OFFSETS,
            "prediction_type": PREDICTIONS,
            **THRESHOLDING,
            "clip_sample_range": (1.0, 0.7),
            "timestep_spacing": SPACINGS,
            "rescale_betas_zero_snr": BOTH,
            "step.eta": (0.0, 0.5, 1.0),
            "step.use_clipped_model_output": BOTH,
            "step.variance_noise": (None, GIVEN),
        },
        [
            WHOLE,
            LATER,
            ZERO_SNR,
            Rule(
                ("n", "timestep_spacing", "steps_offset"),
                lambda n, spacing, offset: n != TRAIN or spacing != "leading" or not offset,
                OFFSET.rejected,
            ),
            Rule(
                ("step.variance_noise", "step.eta"),
                lambda noise, eta: noise is None or eta > 0,
            ),
            # where a coefficient is zero, the reference takes the root of a rounding residue
            Rule(
                ("rescale_betas_zero_snr", "step.eta", "timestep_spacing", "n"),
                lambda rescale, eta, spacing, n: (
                    not rescale or eta < 1 or (spacing == "leading" and n != TRAIN)
                ),
            ),
        ],
        step_draws_last=True,
        tables=FINAL,
        velocity=True,
    ),
    Space(
        "DDPMScheduler",
        {
            **RUN,
            **BETAS,
            "beta_schedule": (*BETAS["beta_schedule"], "laplace", "sigmoid"),
            "variance_type": (
                "fixed_small",
                "fixed_small_log",
                "fixed_large",
                "fixed_large_log",
                "learned",
                "learned_range",
            ),
            **CLIPPING,
            "prediction_type": PREDICTIONS,
            **THRESHOLDING,
            "timestep_spacing": SPACINGS,
            "steps_offset": OFFSETS,
            "rescale_betas_zero_snr": BOTH,
            "set.timesteps": (None, GIVEN),
        },
        [WHOLE, LATER, ZERO_SNR, OFFSET],
        doubled=lambda case: case["variance_type"].startswith("learned"),
        velocity=True,
    ),
]

LCM, DDIM, DDPM = SPACES


def carrying(
    scheduler: Any, case: Case, x: Any, start: int, says: Any, options: Any
) -> Iterator[tuple[torch.Tensor, Mapping[str, torch.Tensor]]]:
    """The loop of the CogVideoX pipeline, which keeps the last estimate of x0."""
    old = back = None
    for i, t in enumerate(scheduler.timesteps[start:]):
        seen = x
        x, old = scheduler.step(says(i, x), old, t, back, x, **options(i))
        back = t
        yield seen, {"prev_sample": x, "pred_original_sample": old}


DDIM_STEP = ("eta", "use_clipped_model_output", "variance_noise")
COGVIDEOX = {
    **{name: values for name, values in DDIM.factors.items() if name not in THRESHOLDING},
    "beta_start": (0.00085, 0.0001),
    "beta_end": (0.012, 0.02),
    "beta_schedule": ("scaled_linear", "linear", "squaredcos_cap_v2"),
    "clip_sample": (True, False),
    "set_alpha_to_one": (True, False),
    "sample_max_value": (1.0, 1.5),
    "snr_shift_scale": (3.0, 1.0, 0.5),
    "step.eta": (0.0,),  # of step the reference heeds nothing else
    "step.use_clipped_model_output": (False,),
    "step.variance_noise": (None,),
}

SPACES += [
    dataclasses.replace(
        DDIM,
        name="CogVideoXDDIMScheduler",
        factors=COGVIDEOX,
        rules=[rule for rule in DDIM.rules if not any("step." in name for name in rule.names)],
        tables=("alphas_cumprod", "timesteps", "final_alpha_cumprod"),
    ),
    dataclasses.replace(
        DDIM,
        name="CogVideoXDPMScheduler",
        factors={name: values for name, values in COGVIDEOX.items() if "step." not in name},
        rules=[rule for rule in DDIM.rules if not any("step." in name for name in rule.names)],
        tables=("alphas_cumprod", "timesteps", "final_alpha_cumprod"),
        reference_only={"get_variables": "a part of its step", "get_mult": "a part of its step"},
        loop_gives=("old_pred_original_sample", "timestep_back", *DDIM_STEP),  # heeds none of these
        draws=lambda case, draws: [drawn[-1:] for drawn in draws],  # the first of two is unused
        loop=carrying,
    ),
    dataclasses.replace(DDIM, name="DDIMParallelScheduler"),
    dataclasses.replace(DDPM, name="DDPMParallelScheduler"),
    Space(
        "DDIMInverseScheduler",
        {
            **RUN,
            **BETAS,
            "clip_sample": BOTH,
            "set_alpha_to_one": BOTH,
            "steps_offset": OFFSETS,
            "prediction_type": PREDICTIONS,
            "clip_sample_range": (1.0, 0.7),
            "timestep_spacing": ("leading", "trailing"),
            "rescale_betas_zero_snr": BOTH,
        },
        [
            WHOLE,
            LATER,
            Rule(
                ("n", "timestep_spacing", "steps_offset"),
                lambda n, spacing, offset: n != TRAIN or spacing != "leading" or not offset,
                OFFSET.rejected,
            ),
            Rule(
                ("prediction_type", "set_alpha_to_one"),
                lambda kind, clean: kind != "sample" or not clean,
                {"prediction_type": "sample", "set_alpha_to_one": True, "n": 3},
            ),
        ],
        tables=("alphas_cumprod", "betas", "alphas", "timesteps", "initial_alpha_cumprod"),
        add_noise=None,
    ),
    Space(
        "TCDScheduler",
        {
            **LCM.factors,
            "set.original_inference_steps": (None, 32, SMALL),
            "step.eta": (0.3, 0.0, 1.0),
        },
        [
            *LCM.rules,
            # few cases, for the reference heeds neither
            Rule(("clip_sample", "n"), lambda clip, n: not clip or n == 3),
            Rule(("thresholding", "n"), lambda threshold, n: not threshold or n == 3),
        ],
        step_draws_last=True,
        tables=FINAL,
        velocity=True,
    ),
    Space(
        "ConsistencyDecoderScheduler",
        {
            **RUN,
            "n": (2,),
            "num_train_timesteps": (1024, 1200),
            "sigma_data": (0.5, 1.0),
        },
        tables=("sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "c_skip", "c_out", "c_in"),
        add_noise=None,
        usual=2,
    ),
]
