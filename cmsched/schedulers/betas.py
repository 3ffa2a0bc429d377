"""What the classes trained on a table of betas share: their noise levels, and what is said."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np

from ..discretizations import TrainingSteps
from ..frozen import FrozenDict
from ..predictions import Prediction
from ..schedules import BETA_SCHEDULES, Betas, Point, Schedule

__all__ = ["KarrasDiffusionSchedulers"]

BETA_OPTIONS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
}
BETA_CHOICES: Mapping[str, Any] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
}
Table = Callable[[FrozenDict, bool], Betas]  # of the options, and whether as the reference
FINITE = 2.0**-24  # alpha_bar of the last step where sigma / alpha may not be infinite


class KarrasDiffusionSchedulers(Enum):
    """Schedulers that can stand in for one another in a pipeline, with the field's numbering."""

    DDIMScheduler = 1
    DDPMScheduler = 2
    PNDMScheduler = 3
    LMSDiscreteScheduler = 4
    EulerDiscreteScheduler = 5
    HeunDiscreteScheduler = 6
    EulerAncestralDiscreteScheduler = 7
    DPMSolverMultistepScheduler = 8
    DPMSolverSinglestepScheduler = 9
    KDPM2DiscreteScheduler = 10
    KDPM2AncestralDiscreteScheduler = 11
    DEISMultistepScheduler = 12
    UniPCMultistepScheduler = 13
    DPMSolverSDEScheduler = 14
    EDMEulerScheduler = 15


EXCHANGEABLE = [member.name for member in KarrasDiffusionSchedulers]


@lru_cache(maxsize=64)
def betas_schedule(**fields: Any) -> Betas:
    """Return a schedule whose tables are computed once."""
    return Betas(**fields)


def in_single(c: FrozenDict, reference: bool) -> bool:
    """Return whether alpha_bar has float32's values, as in the reference.

    CogVideoX's scaled_linear betas are of float64 there.
    """
    cogvideox = "snr_shift_scale" in c and c.trained_betas is None
    return reference and not (cogvideox and c.beta_schedule == "scaled_linear")


def vp_betas(
    c: FrozenDict,
    reference: bool,
    *,
    terminal: float = 0.0,
    frame: str = "vp",
    sigma_data: float = 0.0,
) -> Betas:
    """Return the schedule of the betas that options describe, alpha^2 + sigma^2 = 1.

    reference: whether alpha_bar has the reference's values, of float32.
    terminal: alpha_bar of the last step under rescale_betas_zero_snr.
    """
    rescale = bool(c.get("rescale_betas_zero_snr"))
    known = c.beta_schedule in BETA_SCHEDULES  # unused beside trained_betas
    return betas_schedule(
        frame=frame,
        sigma_data=sigma_data,
        num_train_timesteps=c.num_train_timesteps,
        beta_start=float(c.beta_start),
        beta_end=float(c.beta_end),
        beta_schedule=c.beta_schedule if known else "linear",
        trained_betas=None if c.trained_betas is None else tuple(c.trained_betas),
        rescale_betas_zero_snr=rescale,
        terminal=terminal if rescale else 0.0,
        snr_shift_scale=float(c.get("snr_shift_scale", 1.0)),
        single=in_single(c, reference),
    )


def vp_betas_finite(c: FrozenDict, reference: bool) -> Betas:
    """Return the same for solvers that need a finite log-SNR everywhere."""
    return vp_betas(c, reference, terminal=FINITE)


def ve_betas(c: FrozenDict, reference: bool) -> Betas:
    """Return the same levels for samples x0 + sigma eps and networks that see them scaled."""
    return vp_betas(c, reference, terminal=FINITE, frame="ve", sigma_data=1.0)


def said(c: FrozenDict, **fields: Any) -> Prediction:
    """Return what the network says, and how the estimate is clipped; fields of it by name."""
    threshold = clip = None
    if c.get("thresholding"):
        threshold = (float(c.dynamic_thresholding_ratio), float(c.sample_max_value))
    elif c.get("clip_sample"):
        clip = float(c.clip_sample_range)
    kind = "sample" if c.prediction_type == "original_sample" else c.prediction_type
    head = str(c.get("variance_type")).startswith("learned")
    return replace(Prediction(kind, clip, threshold, variance_head=head), **fields)


def data_end(c: FrozenDict, schedule: Schedule) -> Point:
    """Return where set_alpha_to_one lets the sample end: at the data, or at timestep 0."""
    return schedule.point(0.0, 0.0) if c.set_alpha_to_one else schedule.at(t=0.0)


def data_alpha(scheduler: Any) -> Any:
    """alpha_bar at the end where the data are."""
    return scheduler.show(np.array(scheduler.recipe().discretization.end.alpha ** 2))


def spaced(
    c: FrozenDict, schedule: Schedule, end: Point, reference: bool, **fields: Any
) -> TrainingSteps:
    """Return the discretization by timestep_spacing over the training steps."""
    return TrainingSteps(
        schedule=schedule,
        end=end,
        train=c.num_train_timesteps,
        repeats_end=reference,
        **{
            "one_is_least": reference,
            "spacing": c.get("timestep_spacing", "linspace"),
            "offset": c.get("steps_offset", 0),
            **fields,
        },
    )


def table_of(scheduler: Any, table: Table) -> Betas:
    """Return the schedule of a scheduler's options."""
    return table(scheduler.filled_config, scheduler.as_reference)


def tables_of(table: Table) -> tuple[property, property, property]:
    """Return the attributes alphas_cumprod, alphas and betas of a class with this schedule."""

    def alphas_cumprod(self: Any) -> Any:
        """Cumulative product of 1 - beta, shape (num_train_timesteps,)."""
        return self.show(table_of(self, table).alphas_cumprod)

    def alphas(self: Any) -> Any:
        """1 - beta of the training steps, after rescaling."""
        return self.show(1.0 - table_of(self, table).betas)

    def betas(self: Any) -> Any:
        """Betas of the training steps, after rescaling."""
        return self.show(table_of(self, table).betas)

    return property(alphas_cumprod), property(alphas), property(betas)


def previous_timestep(self: Any, timestep: Any) -> int:
    """Return the timestep that the step from this one goes to, -1 after the last.

    Before `set_timesteps` it is one less.
    """
    if self.timeline is None:
        return int(timestep) - 1
    after = self.timeline.entry(timestep) + 1
    return int(self.timeline.times[after]) if after < len(self.timeline) else -1
