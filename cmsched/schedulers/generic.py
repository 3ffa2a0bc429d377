"""Any sampler with any schedule, spacing and prediction."""

import math
from typing import Any, ClassVar

from .. import samplers, spacings
from .._messages import choose
from ..predictions import PREDICTION_TYPES, Prediction
from ..schedules import BETA_SCHEDULES, SCHEDULES, Point, Schedule, make_schedule
from .base import SchedulerMixin
from .config import FrozenDict

__all__ = ["Scheduler"]


class Scheduler(SchedulerMixin):
    """A scheduler put together from its parts; the named classes are presets of these.

    Options:
        sampler: a registered name (`cmsched.samplers.REGISTRY`); sampler_options: its keywords.
        schedule: a name of `cmsched.schedules`: betas ("scaled_linear", ...), "flow", "vp_sde",
            "ve_sde", "cosine", "trigflow", "logarithmic"; schedule_options: its fields (frame,
            beta_start, sigma_max, ...).
        spacing: which levels to visit: in time ("linspace", "leading", "trailing", "simple",
            "normal", ...), between two levels ("karras", "exponential", "kl_optimal", ...), or from
            a table ("ays_sdxl", ...), all in `cmsched.spacings`; spacing_options: its keywords
            (rho, mu, ...).
        prediction_type: what the network's output is; clip_sample_range and
            dynamic_thresholding_ratio with sample_max_value project the estimate, each where it is
            given.
        sigma_min, sigma_max: ends of the spacings between two levels (by default the schedule's).
        final_sigmas_type: "zero", or "sigma_min" to end at that level, for samplers that cannot
            reach sigma = 0.
        steps_offset: of the "leading" spacing.
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
        "spacing_options": None,
        "steps_offset": 0,
        "sigma_min": None,
        "sigma_max": None,
        "final_sigmas_type": "zero",
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
        spacings.check_spacing(config.spacing, config.spacing_options or {})
        choose("prediction_type", config.prediction_type, PREDICTION_TYPES)
        choose("final_sigmas_type", config.final_sigmas_type, ("zero", "sigma_min"))
        samplers.get(config.sampler).complete(self._sampler(config, 1)[1])
        schedule = self._schedule(config)
        if config.shift != 1.0 and schedule.frame != "flow":
            raise ValueError(
                f"shift={config.shift} is for flow schedules, not for {config.schedule!r}"
            )
        for name in ("shift", "sigma_min", "sigma_max"):
            if config[name] is not None and not config[name] > 0:
                raise ValueError(f"{name} must be positive, got {config[name]}")
        if config.steps_offset < 0:
            raise ValueError(f"steps_offset must be at least 0, got {config.steps_offset}")

    def _schedule(self, config: FrozenDict) -> Schedule:
        options = dict(config.schedule_options or {})
        if config.schedule in BETA_SCHEDULES or config.schedule in ("betas", "flow"):
            options.setdefault("num_train_timesteps", config.num_train_timesteps)
        return make_schedule(config.schedule, **options)

    def _prediction(self, config: FrozenDict) -> Prediction:
        ratio = config.dynamic_thresholding_ratio
        threshold = None if ratio is None else (float(ratio), float(config.sample_max_value))
        clip = None if config.clip_sample_range is None else float(config.clip_sample_range)
        data = self._schedule(config).sigma_data or Prediction.sigma_data
        head = str((config.sampler_options or {}).get("variance")).startswith("learned")
        kind = config.prediction_type
        return Prediction(kind, clip, threshold, sigma_data=data, variance_head=head)

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        options = dict(config.sampler_options or {})
        if "prediction_type" in samplers.get(config.sampler).options:
            options.setdefault("prediction_type", config.prediction_type)
        return config.sampler, options

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        schedule = self._schedule(config)
        if config.final_sigmas_type == "zero":
            return schedule.point(0.0, 0.0)
        if config.sigma_min is None:
            return schedule.at(t=schedule.span[1])
        if schedule.frame == "flow":
            return schedule.at(sigma=config.sigma_min)
        return schedule.at(ratio=config.sigma_min)

    def _init_scale(self, config: FrozenDict, first: Point) -> float:
        return math.hypot(first.alpha, first.sigma) if first.alpha < 1.0 else first.sigma

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        schedule, ends = self._schedule(config), {}
        ends_there = config.final_sigmas_type == "sigma_min"
        heeds = spacings.check_spacing(config.spacing, config.spacing_options or {})
        for name in ("sigma_max", "sigma_min", "steps_offset"):
            if name in heeds:
                ends[name] = config[name]
            elif config[name] and not (name == "sigma_min" and ends_there):
                self._once(f"{name} has no effect with spacing={config.spacing!r}")
        points = spacings.place(
            config.spacing,
            n,
            schedule,
            train=config.num_train_timesteps,
            **ends,
            **(config.spacing_options or {}),
        )
        if config.shift != 1.0:
            levels = spacings.shifted([p.sigma for p in points], config.shift)
            points = [schedule.at(sigma=s) for s in levels.tolist()]
        last, end = points[-1].ratio, self._last(config).ratio
        if last < end * (1 - 1e-9):
            raise ValueError(
                f"{n} {config.spacing} steps go to sigma/alpha = {last:g}, below the {end:g} where"
                ' final_sigmas_type="sigma_min" ends; use fewer steps, a smaller sigma_min or'
                " another spacing"
            )
        return points
