"""What the classes trained on a table of betas share."""

from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .. import spacings
from .._messages import choose
from ..predictions import Prediction
from ..schedules import BETA_SCHEDULES, Betas, Point, Schedule, check_betas
from .base import LevelsMixin, SchedulerMixin
from .config import FrozenDict

__all__ = [
    "BETA_OPTIONS",
    "EXCHANGEABLE",
    "BetaMixin",
    "BetaScheduler",
    "KarrasDiffusionSchedulers",
]

BETA_OPTIONS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
}


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


class BetaMixin(LevelsMixin):
    """What a table of betas says, for the classes trained on one."""

    beta_schedules: ClassVar[tuple[str, ...]] = ("linear", "scaled_linear", "squaredcos_cap_v2")
    prediction_types: ClassVar[tuple[str, ...]] = ("epsilon", "sample", "v_prediction")
    frame: ClassVar[str] = "vp"
    sigma_data: ClassVar[float] = 0.0
    terminal: ClassVar[float] = 0.0  # alpha_bar of the last step under rescale_betas_zero_snr

    def _validate(self, config: FrozenDict) -> None:
        """Check the options that these classes share."""
        super()._validate(config)
        train = config.num_train_timesteps
        if config.trained_betas is None:
            choose("beta_schedule", config.beta_schedule, self.beta_schedules)
            for name in ("beta_start", "beta_end"):
                if not 0.0 < config[name] < 1.0:
                    raise ValueError(f"{name} must lie in (0, 1), got {config[name]}")
        elif (count := len(check_betas(config.trained_betas))) != train:
            raise ValueError(
                f"trained_betas has {count} entries but num_train_timesteps={train}; pass"
                f" num_train_timesteps={count}"
            )
        choose("prediction_type", config.prediction_type, self.prediction_types)
        if "timestep_spacing" in self.options:
            choose("timestep_spacing", config.timestep_spacing, spacings.TIMESTEPS)
        if config.get("steps_offset", 0) < 0:
            raise ValueError(f"steps_offset must be at least 0, got {config.steps_offset}")
        if config.get("clip_sample") and not config.clip_sample_range > 0:
            raise ValueError(f"clip_sample_range must be positive, got {config.clip_sample_range}")
        if config.get("thresholding"):
            ratio, largest = config.dynamic_thresholding_ratio, config.sample_max_value
            if not 0.0 < ratio <= 1.0:
                raise ValueError(f"dynamic_thresholding_ratio must lie in (0, 1], got {ratio}")
            if not largest > 0:
                raise ValueError(f"sample_max_value must be positive, got {largest}")

    @property
    def _table(self) -> Betas:
        """The schedule of the betas, also where the samples follow another one."""
        return self._betas(self._options)

    def _betas(self, config: FrozenDict) -> Betas:
        rescale = bool(config.get("rescale_betas_zero_snr"))
        known = config.beta_schedule in BETA_SCHEDULES  # unused beside trained_betas
        return betas_schedule(
            frame=self.frame,
            sigma_data=self.sigma_data,
            num_train_timesteps=config.num_train_timesteps,
            beta_start=float(config.beta_start),
            beta_end=float(config.beta_end),
            beta_schedule=config.beta_schedule if known else "linear",
            trained_betas=None if config.trained_betas is None else tuple(config.trained_betas),
            rescale_betas_zero_snr=rescale,
            terminal=self.terminal if rescale else 0.0,
            snr_shift_scale=float(config.get("snr_shift_scale", 1.0)),
        )

    def _schedule(self, config: FrozenDict) -> Schedule:
        return self._betas(config)

    def _prediction(self, config: FrozenDict) -> Prediction:
        threshold = clip = None
        if config.get("thresholding"):
            threshold = (float(config.dynamic_thresholding_ratio), float(config.sample_max_value))
        elif config.get("clip_sample"):
            clip = float(config.clip_sample_range)
        kind = config.prediction_type
        return Prediction(
            "sample" if kind == "original_sample" else kind,
            clip,
            threshold,
            variance_head=str(config.get("variance_type")).startswith("learned"),
        )

    def _points(
        self,
        config: FrozenDict,
        n: int,
        *,
        num_train_timesteps: int | None = None,
        **options: Any,
    ) -> list[Point]:
        """num_train_timesteps: spread the steps over only so many of the first training steps."""
        schedule, train = self._schedule(config), config.num_train_timesteps
        if num_train_timesteps is not None:
            train = spacings.check_count("num_train_timesteps", num_train_timesteps, train)
        if n == 1 and config.timestep_spacing == "linspace" and self._copies:
            return [schedule.at(t=0.0)]  # the reference's one point of linspace is the least noisy
        times = spacings.timesteps(
            config.timestep_spacing, n, train, offset=config.steps_offset, whole=self.whole_times
        )
        return [schedule.at(t=t) for t in times]

    @property
    def alphas_cumprod(self) -> Any:
        """Cumulative product of 1 - beta, shape (num_train_timesteps,)."""
        return self._shown(self._table.alphas_cumprod)

    @property
    def alphas(self) -> Any:
        """1 - beta of the training steps, after rescaling."""
        bar = self._table.alphas_cumprod.copy()
        if self._options.get("rescale_betas_zero_snr"):
            bar[-1] = 0.0  # even where sigmas need an alpha
        return self._shown(bar / np.concatenate([[1.0], bar[:-1]]))

    @property
    def betas(self) -> Any:
        """Betas of the training steps, after rescaling."""
        return 1.0 - self.alphas


class BetaScheduler(BetaMixin, SchedulerMixin):
    """Base of the classes trained on a table of betas that have the stateful habit."""

    def previous_timestep(self, timestep: Any) -> int:
        """Return the timestep that the step from this one goes to, -1 after the last.

        Before `set_timesteps` it is one less.
        """
        if self._plan is None:
            return int(timestep) - 1
        after = self.index_for_timestep(timestep) + 1
        return int(self._plan.timesteps[after]) if after < len(self._plan) else -1
