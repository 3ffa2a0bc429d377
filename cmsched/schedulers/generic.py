"""Any sampler with any schedule, spacing and prediction."""

import math
from typing import Any, ClassVar

import numpy as np

from .. import samplers, spacings
from .._messages import choose
from ..predictions import PREDICTION_TYPES, Prediction
from ..schedules import BETA_SCHEDULES, SCHEDULES, Point, Schedule, make_schedule
from ..spacings import RAMPS, TIMESTEPS
from .base import SchedulerMixin
from .config import FrozenDict

__all__ = ["Scheduler"]


class Scheduler(SchedulerMixin):
    """A scheduler put together from its parts; the named classes are presets of these.

    Options:
        sampler: a registered name (`cmsched.samplers.REGISTRY`); sampler_options: its keywords.
        schedule: a name of `cmsched.schedules`: betas ("scaled_linear", ...), "flow", "vp_sde",
            "ve_sde", "logarithmic"; schedule_options: its fields (frame, beta_start, sigma_max,
            ...).
        spacing: "linspace", "leading" or "trailing" in time; "karras", "exponential" or "beta"
            between two noise levels.
        prediction_type: what the network's output is; clip_sample_range and
            dynamic_thresholding_ratio with sample_max_value project the estimate, each where it is
            given.
        sigma_min, sigma_max, rho: ends and exponent of the noise-level spacings (by default the
            schedule's ends).
        shift: sigma -> shift sigma / (1 + (shift - 1) sigma) of flow schedules.
    """

    options: ClassVar = {
        "sampler": "dpmpp_multistep",
        "schedule": "scaled_linear",
        "spacing": "trailing",
        "prediction_type": "epsilon",
        "num_train_timesteps": 1000,
        "sampler_options": None,
        "schedule_options": None,
        "steps_offset": 0,
        "sigma_min": None,
        "sigma_max": None,
        "rho": 7.0,
        "shift": 1.0,
        "clip_sample_range": None,
        "dynamic_thresholding_ratio": None,
        "sample_max_value": 1.0,
    }
    whole_times = False
    limited = False

    @property
    def order(self) -> int:  # type: ignore[override]
        """Evaluations per step."""
        return samplers.get(self._options.sampler).evaluations

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        choose("sampler", config.sampler, samplers.REGISTRY)
        choose("schedule", config.schedule, (*BETA_SCHEDULES, *SCHEDULES))
        choose("spacing", config.spacing, (*TIMESTEPS, *RAMPS))
        choose("prediction_type", config.prediction_type, PREDICTION_TYPES)
        samplers.get(config.sampler).complete(config.sampler_options or {})
        schedule = self._schedule(config)
        if config.shift != 1.0 and schedule.frame != "flow":
            raise ValueError(
                f"shift={config.shift} is for flow schedules, not for {config.schedule!r}"
            )

    def _schedule(self, config: FrozenDict) -> Schedule:
        options = dict(config.schedule_options or {})
        if config.schedule in BETA_SCHEDULES or config.schedule in ("betas", "flow"):
            options.setdefault("num_train_timesteps", config.num_train_timesteps)
        return make_schedule(config.schedule, **options)

    def _prediction(self, config: FrozenDict) -> Prediction:
        ratio = config.dynamic_thresholding_ratio
        threshold = None if ratio is None else (float(ratio), float(config.sample_max_value))
        clip = None if config.clip_sample_range is None else float(config.clip_sample_range)
        return Prediction(config.prediction_type, clip, threshold)

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return config.sampler, dict(config.sampler_options or {})

    def _init_scale(self, config: FrozenDict, first: Point) -> float:
        return math.hypot(first.alpha, first.sigma) if first.alpha < 1.0 else first.sigma

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        schedule = self._schedule(config)
        top, low = schedule.span
        if config.spacing in RAMPS:
            flow = schedule.frame == "flow"
            ends = [self._exposed(schedule.at(t=t)) for t in (top, low)]
            high = config.sigma_max or ends[0]
            bottom = config.sigma_min or ends[1]
            more = {"rho": float(config.rho)} if config.spacing == "karras" else {}
            levels = RAMPS[config.spacing](n, high, bottom, **more).tolist()
            points = [schedule.at(sigma=s) if flow else schedule.at(ratio=s) for s in levels]
        elif hasattr(schedule, "num_train_timesteps") and schedule.frame != "flow":
            train = config.num_train_timesteps
            times = spacings.timesteps(
                config.spacing,
                n,
                train,
                extra=config.spacing == "linspace",
                offset=config.steps_offset,
                whole=False,
            )
            points = [schedule.at(t=t) for t in times]
        else:
            points = [schedule.at(t=t) for t in np.linspace(top, low, n).tolist()]
        if config.shift == 1.0:
            return points
        s = float(config.shift)
        return [schedule.at(sigma=s * p.sigma / (1 + (s - 1) * p.sigma)) for p in points]
