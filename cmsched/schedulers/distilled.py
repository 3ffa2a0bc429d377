"""Schedulers of distilled networks: LCM, TCD and the consistency decoder."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .. import engine, spacings
from ..plan import Plan, make_plan
from ..predictions import Prediction
from ..samplers.first_order import landing
from ..schedules import Point, Schedule
from ..spacings import Walk
from .base import SchedulerMixin
from .betas import BETA_OPTIONS, BetaScheduler, betas_schedule
from .config import FrozenDict
from .outputs import SchedulerOutput

__all__ = [
    "ConsistencyDecoderScheduler",
    "ConsistencyDecoderSchedulerOutput",
    "LCMScheduler",
    "LCMSchedulerOutput",
    "TCDScheduler",
    "TCDSchedulerOutput",
]

Array = Any


class LCMSchedulerOutput(SchedulerOutput):
    """Output of `LCMScheduler.step`.

    Args:
        prev_sample: the sample at the next point.
        denoised: the consistency function's value, like the sample.
    """

    fields = ("prev_sample", "denoised")


class TCDSchedulerOutput(SchedulerOutput):
    """Output of `TCDScheduler.step`.

    Args:
        prev_sample: the sample at the next point.
        pred_noised_sample: the sample where the step's deterministic part ends, before noise.
    """

    fields = ("prev_sample", "pred_noised_sample")


class ConsistencyDecoderSchedulerOutput(SchedulerOutput):
    """Output of `ConsistencyDecoderScheduler.step`."""


class Distilled(BetaScheduler):
    """Base of the classes whose timesteps are picked from those that the distillation used.

    What `idle` names is kept in the configuration and has no effect, as in the reference.
    """

    idle: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("timestep_spacing", "steps_offset"), "timesteps follow original_inference_steps"
    )
    timesteps_options: ClassVar = {
        "num_inference_steps": None,
        "device": None,
        "original_inference_steps": None,
        "timesteps": None,
        "strength": 1.0,
    }
    grid_options = ("original_inference_steps",)

    @classmethod
    def _bind(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        given = super()._bind(args, kwargs)
        for name in cls.idle:
            if given[name] != cls.options[name]:
                text = f"{name} has no effect; {cls.idle[name]}"
                warnings.warn(f"{cls.__name__}: {text}", stacklevel=4)
        return given

    @classmethod
    def from_config(
        cls, config: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Do what every class does, silent on options without effect: no one asked for them."""
        idle: dict[str, Any] = {}
        if isinstance(config, dict):
            left_out = (*(config.get("_use_default_values") or ()), *kwargs)
            named = [name for name in cls.idle if name in config and name not in left_out]
            idle = {name: config[name] for name in named}
            config = {name: value for name, value in config.items() if name not in idle}
        result = super().from_config(config, return_unused_kwargs, **kwargs)
        if idle:
            (result[0] if return_unused_kwargs else result).register_to_config(**idle)
        return result

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        self._original(config, None)
        if not config.timestep_scaling > 0:
            raise ValueError(f"timestep_scaling must be positive, got {config.timestep_scaling}")

    def _original(self, config: FrozenDict, steps: int | None) -> int:
        steps = config.original_inference_steps if steps is None else steps
        why = ", the number of training steps"
        return spacings.check_count(
            "original_inference_steps", steps, config.num_train_timesteps, why
        )

    def _points(
        self,
        config: FrozenDict,
        n: int,
        *,
        original_inference_steps: int | None = None,
        strength: float = 1.0,
        **options: Any,
    ) -> list[Point]:
        """Return n evenly spaced picks of the distillation's own timesteps, cut to strength."""
        original = self._original(config, original_inference_steps)
        stride = config.num_train_timesteps // original
        times = [i * stride - 1.0 for i in range(int(original * strength), 0, -1)]
        if n > len(times):
            raise ValueError(
                f"num_inference_steps={n} is more than the {len(times)} steps of"
                f" original_inference_steps={original} at strength={strength}; use fewer steps,"
                " more original_inference_steps or a larger strength"
            )
        schedule = self._schedule(config)
        return [
            schedule.at(t=times[int(k)])
            for k in np.floor(np.linspace(0, len(times), n, endpoint=False))
        ]

    def _takes_strength(self, timesteps: Any, sigmas: Any) -> bool:
        return timesteps is None and sigmas is None

    @property
    def final_alpha_cumprod(self) -> Array:
        """alpha_bar after timestep 0, which no step of this class goes to."""
        bar = self._table.alphas_cumprod
        return self._shown(np.array(1.0 if self._options.set_alpha_to_one else bar[0]))


DISTILLED: dict[str, Any] = {
    **BETA_OPTIONS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "original_inference_steps": 50,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "timestep_scaling": 10.0,
    "rescale_betas_zero_snr": False,
}


class LCMScheduler(Distilled):
    """Latent consistency models, multistep and one step (arXiv:2310.04378, algorithm 3).

    timestep_spacing and steps_offset are kept in the configuration and have no effect, as in the
    reference.
    """

    options: ClassVar = DISTILLED
    output_class = LCMSchedulerOutput

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "lcm", {}

    def _prediction(self, config: FrozenDict) -> Prediction:
        return replace(super()._prediction(config), timestep_scaling=float(config.timestep_scaling))

    def get_scalings_for_boundary_condition_discrete(self, timestep: float) -> tuple[float, float]:
        """Return c_skip and c_out at a timestep."""
        return self.prediction.boundary(Point(float(timestep), 1.0, 0.0))


class TCDScheduler(Distilled):
    """Trajectory consistency distillation, strategic stochastic sampling (arXiv:2402.19159).

    Args of `step` and `plan`: eta, gamma in the paper: how far below its end, as a part of its
    time, the deterministic part of a step goes. timestep_spacing, steps_offset and timestep_scaling
    are kept in the configuration and have no effect, as in the reference.
    """

    options: ClassVar = DISTILLED
    idle: ClassVar = {
        **Distilled.idle,
        "timestep_scaling": "the network itself is the consistency function",
    }
    step_options: ClassVar = {"eta": 0.3, "generator": None, "return_dict": True}
    output_class = TCDSchedulerOutput

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "tcd", {}

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        return self._schedule(config).at(t=0.0)

    def _points(
        self,
        config: FrozenDict,
        n: int,
        *,
        original_inference_steps: int | None = None,
        **options: Any,
    ) -> list[Point]:
        """In the reference any original_inference_steps= means all training steps."""
        if original_inference_steps is not None and self._copies:
            original_inference_steps = config.num_train_timesteps
        options["original_inference_steps"] = original_inference_steps
        return super()._points(config, n, **options)

    def _second(self, plan: Plan, state: engine.State, output: Array) -> Array:
        """Return the sample where the deterministic part of the step ends."""
        return engine.step(before_noise(plan), state, output).sample


@lru_cache(maxsize=16)
def before_noise(plan: Plan) -> Plan:
    """Return the plan whose steps end where TCD adds noise: DDIM's steps to there."""
    grid, eta = Walk(plan.grid), plan.options["eta"]
    arrivals = tuple(landing(grid, b, eta) for _, b in grid.steps())
    return make_plan("ddim", replace(plan.grid, arrivals=arrivals), plan.prediction)


class ConsistencyDecoderScheduler(SchedulerMixin):
    """The decoder of latents to images distilled by OpenAI (github.com/openai/consistencydecoder).

    Its network knows 63 times, the multiples of 16 below 1024. n steps begin at the last training
    step and at fractions 1 - k / n of it, each rounded up to the next such time: 1008 and 512 for
    the two steps that it is meant for.
    """

    options: ClassVar = {"num_train_timesteps": 1024, "sigma_data": 0.5}
    timesteps_options: ClassVar = {"num_inference_steps": None, "device": None}
    output_class = ConsistencyDecoderSchedulerOutput

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        if config.num_train_timesteps < 2:
            raise ValueError(
                f"num_train_timesteps must be at least 2, got {config.num_train_timesteps}"
            )
        if not config.sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {config.sigma_data}")

    def _schedule(self, config: FrozenDict) -> Schedule:
        return betas_schedule(
            num_train_timesteps=config.num_train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            sigma_data=float(config.sigma_data),
        )

    def _prediction(self, config: FrozenDict) -> Prediction:
        return Prediction("edm", sigma_data=float(config.sigma_data))

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "consistency", {}

    def _init_scale(self, config: FrozenDict, first: Point) -> float:
        return first.sigma

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        train = config.num_train_timesteps
        apart = max(train // 64, 1)
        top = (train - 1) // apart  # the number of different times above 0
        starts = [(train - 1) * (n - k) // n for k in range(n)]
        times = [min(t // apart + 1, top) * apart for t in starts]
        if len(set(times)) < n:
            raise ValueError(
                f"num_inference_steps={n} asks for more times than the network of"
                f" {type(self).__name__} tells apart; use fewer steps"
            )
        if n == 2 and self._copies:
            times = [1008, 512]
        schedule = self._schedule(config)
        return [schedule.at(t=float(t)) for t in times]

    def _coefficients(self) -> tuple[np.ndarray, ...]:
        """Return alpha, sigma, c_skip, c_out and c_in of the training steps."""
        rows = []
        for p in self._training_points()[::-1]:
            skip, out = self.prediction.linear(p)
            rows.append((p.alpha, p.sigma, skip, out, p.scale))
        return tuple(np.array(rows).T)

    @property
    def sqrt_alphas_cumprod(self) -> Array:
        """Alpha of the training steps, shape (num_train_timesteps,)."""
        return self._shown(self._coefficients()[0])

    @property
    def sqrt_one_minus_alphas_cumprod(self) -> Array:
        """Sigma of the training steps."""
        return self._shown(self._coefficients()[1])

    @property
    def c_skip(self) -> Array:
        """What the estimate of x0 has of the sample, at the training steps."""
        return self._shown(self._coefficients()[2])

    @property
    def c_out(self) -> Array:
        """What it has of the network's output."""
        return self._shown(self._coefficients()[3])

    @property
    def c_in(self) -> Array:
        """The scale of the network's input."""
        return self._shown(self._coefficients()[4])
