"""Linear multistep methods in eps: PNDM and its kin."""

import numpy as np

from ..grid import (
    BETAS,
    BOTH,
    GIVEN,
    LATER,
    OFFSET,
    OFFSETS,
    RUN,
    SMALL,
    SPACINGS,
    TRAIN,
    WHOLE,
    Case,
    Rule,
    Space,
    count,
)


def levels(case: Case) -> list[float]:
    """Sigma of every step and of the end."""
    return np.linspace(0.98, 0.01, count(case) + 1).tolist()


SPACES = [
    Space(
        "PNDMScheduler",
        {
            **RUN,
            # begun later, the reference mistakes where it is: a declared difference
            "start": ("whole", "begin"),
            **BETAS,
            "skip_prk_steps": BOTH,
            "set_alpha_to_one": BOTH,
            "prediction_type": ("epsilon", "v_prediction"),
            "timestep_spacing": SPACINGS,
            "steps_offset": OFFSETS,
        },
        [
            WHOLE,
            Rule(
                ("n", "timestep_spacing", "steps_offset"),
                lambda n, spacing, offset: n != TRAIN or spacing != "leading" or not offset,
                OFFSET.rejected,
            ),
            # the reference cannot: a declared difference
            Rule(("n", "skip_prk_steps"), lambda n, skip: skip or n not in (1, 2, 3)),
        ],
        tables=("alphas_cumprod", "betas", "alphas", "final_alpha_cumprod"),
        reference_only={
            name: "what its loop remembers"
            for name in ("counter", "cur_model_output", "cur_sample", "ets")
        },
    ),
    Space(
        "IPNDMScheduler",
        {
            **RUN,
            "num_train_timesteps": (1000, SMALL),
            "trained_betas": (None, GIVEN),
        },
        [WHOLE, LATER],
        tables=("betas", "alphas", "timesteps"),
        add_noise=None,
        reference_only={"ets": "what its loop remembers"},
        making={"trained_betas": levels},
    ),
]
