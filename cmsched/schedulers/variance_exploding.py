"""Euler, Euler ancestral, Heun, consistency models: samples x0 + sigma eps, scaled inputs."""

import math
from typing import Any, ClassVar

import numpy as np

from .. import spacings
from .._messages import choose
from ..plan import Plan
from ..predictions import Prediction
from ..samplers.formulas import integrals
from ..schedules import Logarithmic, Point
from ..spacings import RAMPS, Grid
from .base import UNSET, SchedulerMixin, begins_step
from .betas import BETA_OPTIONS, EXCHANGEABLE, BetaScheduler
from .config import FrozenDict
from .outputs import OriginalSampleOutput, SchedulerOutput

__all__ = [
    "CMStochasticIterativeScheduler",
    "CMStochasticIterativeSchedulerOutput",
    "EulerAncestralDiscreteScheduler",
    "EulerAncestralDiscreteSchedulerOutput",
    "EulerDiscreteScheduler",
    "EulerDiscreteSchedulerOutput",
    "HeunDiscreteScheduler",
    "HeunDiscreteSchedulerOutput",
    "LMSDiscreteScheduler",
    "LMSDiscreteSchedulerOutput",
]


class EulerDiscreteSchedulerOutput(OriginalSampleOutput):
    """Output of `EulerDiscreteScheduler.step`."""


class EulerAncestralDiscreteSchedulerOutput(OriginalSampleOutput):
    """Output of `EulerAncestralDiscreteScheduler.step`."""


class HeunDiscreteSchedulerOutput(OriginalSampleOutput):
    """Output of `HeunDiscreteScheduler.step`."""


class LMSDiscreteSchedulerOutput(OriginalSampleOutput):
    """Output of `LMSDiscreteScheduler.step`."""


class CMStochasticIterativeSchedulerOutput(SchedulerOutput):
    """Output of `CMStochasticIterativeScheduler.step`."""


RAMP_OPTIONS = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}


def chosen_ramp(config: FrozenDict) -> str | None:
    """Return the name in RAMPS that the configuration asks for; two at once raise ValueError."""
    names = {
        "use_karras_sigmas": "karras",
        "use_exponential_sigmas": "exponential",
        "use_beta_sigmas": "beta",
    }
    names["use_lu_lambdas"] = "lu"
    asked = [name for name in names if config.get(name)]
    if len(asked) > 1:
        raise ValueError(f"only one of {', '.join(asked)} can be used")
    return names[asked[0]] if asked else None


class ScaledInput(SchedulerMixin):
    """Base of the classes whose network sees a scaled sample."""

    @property
    def is_scale_input_called(self) -> bool:
        """Whether the loop has begun."""
        return self._run is not None


class SigmaScheduler(ScaledInput, BetaScheduler):
    """Base of the classes that walk over sigmas in the variance-exploding frame."""

    frame = "ve"
    sigma_data = 1.0
    terminal = 2.0**-24  # sigma would be infinite
    whole_times = False
    limited = False

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        chosen_ramp(config)
        if "final_sigmas_type" in config:
            choose("final_sigmas_type", config.final_sigmas_type, ("zero", "sigma_min"))
        for name in ("sigma_min", "sigma_max"):
            if config.get(name) is not None and not config[name] > 0:
                raise ValueError(f"{name} must be positive, got {config[name]}")

    @property
    def use_karras_sigmas(self) -> bool:
        """Whether sigmas follow the ramp of arXiv:2206.00364."""
        return chosen_ramp(self._options) == "karras"

    def _init_scale(self, config: FrozenDict, first: Point) -> float:
        if config.timestep_spacing == "leading":
            return math.hypot(first.sigma, 1.0)
        return first.sigma

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        schedule = self._schedule(config)
        return (
            schedule.at(t=0.0)
            if config.get("final_sigmas_type") == "sigma_min"
            else schedule.point(0.0, 0.0)
        )

    def _at_timesteps(
        self, config: FrozenDict, timesteps: list[float], **options: Any
    ) -> list[Point]:
        ramp = chosen_ramp(config)
        if ramp is not None:
            raise ValueError(
                f"timesteps cannot be set with {ramp} sigmas; pass sigmas, or leave the ramp out"
            )
        return super()._at_timesteps(config, timesteps)

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        points, schedule = super()._points(config, n, **options), self._schedule(config)
        high, low, ramp = points[0].sigma, points[-1].sigma, chosen_ramp(config)
        if config.get("interpolation_type") == "log_linear":  # of all training steps
            high, low = schedule.at(t=config.num_train_timesteps - 1).sigma, schedule.at(t=0).sigma
        elif ramp is None:
            for name in ("sigma_min", "sigma_max"):
                if config.get(name):
                    self._once(f"{name} has no effect without a ramp of sigmas")
            return points
        if ramp is not None:
            high, low = config.get("sigma_max") or high, config.get("sigma_min") or low
        levels = RAMPS[ramp or "exponential"](n, high, low)
        return [schedule.at(ratio=s) for s in levels.tolist()]


class Churned(ScaledInput):
    """Base of the classes with Euler's steps, whose churn may be given to `step`.

    With compatibility="diffusers" noise is added after the evaluation, otherwise before it.
    """

    step_options: ClassVar = {
        "s_churn": 0.0,
        "s_tmin": 0.0,
        "s_tmax": math.inf,
        "s_noise": 1.0,
        "generator": None,
        "return_dict": True,
    }

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        if not self._copies:
            return "euler", {}
        says = self._prediction(config)
        return "euler_late_churn", {"prediction_type": says.type, "sigma_data": says.sigma_data}

    def _changed(self, plan: Plan, options: dict[str, Any]) -> Plan:
        if self._copies:
            return super()._changed(plan, options)
        raise ValueError(
            f"{', '.join(options)}: at step() the network has already seen the sample, so noise can"
            " only be added after the evaluation, as the reference does; give these options to"
            " set_timesteps() or plan() for the paper's order, or construct the scheduler with"
            ' compatibility="diffusers" for the reference\'s'
        )


class EulerDiscreteScheduler(Churned, SigmaScheduler):
    """Euler's method in sigma (arXiv:2206.00364, algorithm 2 without its second stage).

    Churn (s_churn, s_tmin, s_tmax, s_noise) is given to `plan` or `set_timesteps`, and noise is
    added before each evaluation, as in the paper. With compatibility="diffusers" it is added after
    the evaluation, as in the reference, and may be given to `step` too.
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        "prediction_type": "epsilon",
        "interpolation_type": "linear",
        **RAMP_OPTIONS,
        "sigma_min": None,
        "sigma_max": None,
        "timestep_spacing": "linspace",
        "timestep_type": "discrete",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "final_sigmas_type": "zero",
    }
    timesteps_options: ClassVar = {
        "num_inference_steps": None,
        "device": None,
        "timesteps": None,
        "sigmas": None,
    }
    prediction_types = ("epsilon", "sample", "original_sample", "v_prediction")
    output_class = EulerDiscreteSchedulerOutput
    _compatibles: ClassVar = EXCHANGEABLE

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        choose("interpolation_type", config.interpolation_type, ("linear", "log_linear"))
        choose("timestep_type", config.timestep_type, ("discrete", "continuous"))

    @property
    def use_exponential_sigmas(self) -> bool:
        """Whether sigmas are even in their logarithm."""
        return chosen_ramp(self._options) == "exponential"

    @property
    def use_beta_sigmas(self) -> bool:
        """Whether sigmas are quantiles of a beta distribution."""
        return chosen_ramp(self._options) == "beta"

    def _continuous(self, config: FrozenDict) -> bool:
        return bool(
            config.timestep_type == "continuous" and config.prediction_type == "v_prediction"
        )

    def _at_timesteps(
        self, config: FrozenDict, timesteps: list[float], **options: Any
    ) -> list[Point]:
        if self._continuous(config):
            raise ValueError(
                'timesteps cannot be set with timestep_type="continuous" and v_prediction;'
                " pass sigmas"
            )
        return super()._at_timesteps(config, timesteps)

    def _finish(self, config: FrozenDict, grid: Grid) -> Grid:
        """With continuous times the network is conditioned on log(sigma) / 4."""
        if not self._continuous(config):
            return grid
        return continuous(grid)

    def _training_times(self) -> np.ndarray:
        return np.array([p.t for p in self._training_points()])

    def _training_points(self) -> list[Point]:
        schedule = self.schedule
        points = [schedule.at(t=float(t)) for t in super()._training_times()]
        return [timed(p) for p in points] if self._continuous(self._options) else points


class EulerAncestralDiscreteScheduler(SigmaScheduler):
    """Ancestral sampling with Euler steps (k-diffusion, sample_euler_ancestral)."""

    options: ClassVar = {
        **BETA_OPTIONS,
        "prediction_type": "epsilon",
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    }
    output_class = EulerAncestralDiscreteSchedulerOutput
    _compatibles: ClassVar = EXCHANGEABLE

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "euler_ancestral", {}


class TwoEvaluations(SigmaScheduler):
    """Base of the classes that evaluate twice in every step but the last one."""

    step_options: ClassVar = {"return_dict": True}
    timesteps_options: ClassVar = {
        "num_inference_steps": UNSET,
        "device": None,
        "num_train_timesteps": None,
    }
    grid_options = ("num_train_timesteps",)
    order = 2
    _compatibles: ClassVar = EXCHANGEABLE

    @property
    def state_in_first_order(self) -> bool:
        """Whether the next evaluation is the first one of its step."""
        i = self.step_index
        return not i or self._plan is None or i >= len(self._plan) or begins_step(self._plan, i)


class HeunDiscreteScheduler(TwoEvaluations):
    """Heun's method (arXiv:2206.00364, algorithm 2): two evaluations a step, one for the last."""

    options: ClassVar = {
        **BETA_OPTIONS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "epsilon",
        **RAMP_OPTIONS,
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
    }
    timesteps_options: ClassVar = {
        "num_inference_steps": None,
        "device": None,
        "num_train_timesteps": None,
        "timesteps": None,
    }
    beta_schedules = ("linear", "scaled_linear", "squaredcos_cap_v2", "exp")
    output_class = HeunDiscreteSchedulerOutput

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "heun", {}

    def _training_times(self) -> np.ndarray:
        """Every step has two evaluations, but the last one."""
        return np.repeat(super()._training_times(), 2)[np.r_[0, 2 : 2 * len(self)]]


class LMSDiscreteScheduler(SigmaScheduler):
    """Linear multistep: Adams-Bashforth in sigma with exact weights (k-diffusion, sample_lms).

    `order` is given to `step`, the same in every step or lower in later ones, or to `plan` or
    `set_timesteps`. A run that starts later begins at order 1 as any does; the reference begins at
    the order of that entry, without the history that it needs.
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        **RAMP_OPTIONS,
        "prediction_type": "epsilon",
        "timestep_spacing": "linspace",
        "steps_offset": 0,
    }
    step_options: ClassVar = {"order": 4, "return_dict": True}
    renamed: ClassVar = {"order": "solver_order"}
    output_class = LMSDiscreteSchedulerOutput
    _compatibles: ClassVar = EXCHANGEABLE

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "lms", {}

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        """Return the weight of the slope at entry t - current_order in the step from entry t.

        That is the integral from sigmas[t] to sigmas[t + 1] of the polynomial that is 1 at that
        entry and 0 at the others of the newest `order`; a Gauss rule gives it exactly.
        """
        sigmas = [self._exposed(p) for p in self._sigma_points()]
        if not 0 <= current_order < order <= t + 1 < len(sigmas):
            raise ValueError(
                f"order={order}, t={t}, current_order={current_order}: needs 0 <= current_order <"
                f" order <= t + 1 < {len(sigmas)}, the number of sigmas"
            )
        nodes = [sigmas[t - k] for k in range(order)]
        return integrals(nodes, sigmas[t], sigmas[t + 1])[current_order]


def timed(point: Point) -> Point:
    """Return the point conditioned on log(sigma) / 4."""
    return Point(
        0.25 * math.log(point.sigma) if point.sigma else 0.0, point.alpha, point.sigma, point.scale
    )


def continuous(grid: Grid) -> Grid:
    """Return the grid with times log(sigma) / 4."""
    schedule = Logarithmic(frame="ve", sigma_data=grid.schedule.sigma_data, factor=0.25)
    return Grid(tuple(timed(p) for p in grid.points), schedule, grid.init_scale)


class CMStochasticIterativeScheduler(ScaledInput):
    """Consistency models, multistep and one step (arXiv:2303.01469, algorithm 1 and appendix C).

    `timesteps` are step numbers of the training grid, 0 ... num_train_timesteps - 1, decreasing.
    """

    options: ClassVar = {
        "num_train_timesteps": 40,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "sigma_data": 0.5,
        "s_noise": 1.0,
        "rho": 7.0,
        "clip_denoised": True,
    }
    timesteps_options: ClassVar = {"num_inference_steps": None, "device": None, "timesteps": None}
    output_class = CMStochasticIterativeSchedulerOutput
    whole_times = False

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        spacings.check_count("num_train_timesteps", config.num_train_timesteps)
        for name in ("sigma_min", "sigma_data", "rho"):
            if not config[name] > 0:
                raise ValueError(f"{name} must be positive, got {config[name]}")
        if not config.sigma_max > config.sigma_min:
            raise ValueError(
                f"sigma_max={config.sigma_max} must be above sigma_min={config.sigma_min}"
            )

    def _schedule(self, config: FrozenDict) -> Logarithmic:
        return Logarithmic(frame="ve", sigma_data=float(config.sigma_data), factor=250.0)

    def _prediction(self, config: FrozenDict) -> Prediction:
        return Prediction(
            "consistency",
            clip=1.0 if config.clip_denoised else None,
            sigma_data=float(config.sigma_data),
            sigma_min=float(config.sigma_min),
        )

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "consistency", {"s_noise": float(config.s_noise)}

    def _init_scale(self, config: FrozenDict, first: Point) -> float:
        return float(config.sigma_max)

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        return self._schedule(config).at(ratio=config.sigma_min)

    def _levels_at(self, config: FrozenDict, steps: list[float]) -> list[Point]:
        fractions = np.array(steps) / max(config.num_train_timesteps - 1, 1)
        levels = spacings.ramp(fractions, config.sigma_max, config.sigma_min, rho=config.rho)
        return [self._schedule(config).at(ratio=s) for s in levels.tolist()]

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        train = config.num_train_timesteps
        why = ", the number of training steps"
        stride = train // spacings.check_count("num_inference_steps", n, train, why)
        return self._levels_at(config, [float(i * stride) for i in range(n)])

    def _at_timesteps(
        self, config: FrozenDict, timesteps: list[float], **options: Any
    ) -> list[Point]:
        top = config.num_train_timesteps - 1
        if any(t != int(t) or not 0 <= t <= top for t in timesteps):
            raise ValueError(
                f"timesteps must be step numbers from 0 to num_train_timesteps - 1 = {top}, got"
                f" {timesteps}"
            )
        return self._levels_at(config, timesteps[::-1])

    def _training_times(self) -> np.ndarray:
        return np.array([p.t for p in self._training_points()])

    def _training_points(self) -> list[Point]:
        config = self._options
        return self._levels_at(config, [float(i) for i in range(config.num_train_timesteps)])

    def sigma_to_t(self, sigmas: Any) -> Any:
        """Return the time 250 log(sigma + 1e-44) that the network is told; a number or an array."""
        return 250.0 * np.log(np.asarray(sigmas, dtype=np.float64) + 1e-44)

    def get_scalings(self, sigma: Any) -> tuple[Any, Any]:
        """Return EDM's c_skip and c_out at sigma (arXiv:2206.00364, table 1)."""
        return self._scalings(sigma, 0.0)

    def get_scalings_for_boundary_condition(self, sigma: Any) -> tuple[Any, Any]:
        """Return c_skip and c_out at sigma, 1 and 0 at sigma_min (arXiv:2303.01469, appendix C)."""
        return self._scalings(sigma, self._options.sigma_min)

    def _scalings(self, sigma: Any, low: float) -> tuple[Any, Any]:
        data = self._options.sigma_data
        return data**2 / ((sigma - low) ** 2 + data**2), (sigma - low) * data / (
            sigma**2 + data**2
        ) ** 0.5
