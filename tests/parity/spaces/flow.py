"""Flow matching."""

from typing import Any

import numpy as np
import torch

import cmsched

from ..grid import (
    BOTH,
    GIVEN,
    LATER,
    RAMPS,
    RUN,
    SMALL,
    WHOLE,
    Case,
    Rule,
    Space,
    count,
    one_of,
)


def levels(case: Case) -> list[float]:
    """Levels of a curve, as pipelines pass them: before the shift, without the end."""
    return np.geomspace(0.95, 0.06, count(case)).tolist()


def times(case: Case) -> list[float]:
    """Times of another curve."""
    return (case["num_train_timesteps"] * np.linspace(0.97, 0.02, count(case)) ** 2).tolist()


def noised(scheduler: Any, x0: torch.Tensor, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """`scale_noise`, where the reference mistakes inverted levels: a declared difference."""
    theirs = not isinstance(scheduler, cmsched.schedulers.SchedulerMixin)
    if scheduler.config.invert_sigmas and theirs:
        x0, z = z, x0
    return scheduler.scale_noise(x0, t, z)


# a declared difference: the reference ignores these, or adds noise that is not a flow's
CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")

SPACES = [
    Space(
        "FlowMatchEulerDiscreteScheduler",
        {
            **RUN,
            "num_train_timesteps": (1000, SMALL),
            "shift": (1.0, 3.0, 0.6),
            "use_dynamic_shifting": BOTH,
            "base_shift": (0.5, None),
            "max_shift": (1.15, None),
            "base_image_seq_len": (256,),
            "max_image_seq_len": (4096,),
            "invert_sigmas": BOTH,
            "shift_terminal": (None, 0.1),
            **RAMPS,
            "time_shift_type": ("exponential", "linear"),
            "stochastic_sampling": BOTH,
            "set.sigmas": (None, GIVEN),
            "set.mu": (None, 0.8),
            "set.timesteps": (None, GIVEN),
        },
        [
            WHOLE,
            LATER,
            *one_of(list(RAMPS)),
            Rule(
                ("use_dynamic_shifting", "set.mu"),
                lambda dynamic, mu: not dynamic or mu is not None,
                {"use_dynamic_shifting": True},
            ),
            Rule(
                ("n", "shift_terminal", "set.sigmas", "set.timesteps"),
                lambda n, terminal, *lists: n != 1 or not terminal or GIVEN in lists,
                {"n": 1, "shift_terminal": 0.1},
            ),
        ],
        step_draws_last=True,
        tables=("timesteps",),
        sigmas=True,
        add_noise=noised,
        fresh={"invert_sigmas": False},
        loop_gives=(*CHURN, "per_token_timesteps"),
        making={"set.sigmas": levels, "set.timesteps": times},
    ),
    Space(
        "FlowMatchHeunDiscreteScheduler",
        {
            **RUN,
            "num_train_timesteps": (1000, SMALL),
            "shift": (1.0, 3.0, 0.6),
        },
        [WHOLE, LATER],
        tables=("timesteps",),
        sigmas=True,
        add_noise=None,
        loop_gives=CHURN,
        reference_only={
            name: "what its loop remembers" for name in ("dt", "prev_derivative", "sample")
        },
    ),
]
