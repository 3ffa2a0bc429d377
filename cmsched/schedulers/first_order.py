"""DDIM, DDPM and LCM: conditioned on whole timesteps, samples with alpha^2 + sigma^2 = 1."""

import warnings
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from .. import spacings
from .._messages import choose
from ..predictions import Prediction
from ..samplers.first_order import VARIANCES
from ..schedules import Point
from ..spacings import Grid
from .betas import BETA_OPTIONS, EXCHANGEABLE, BetaScheduler
from .config import FrozenDict
from .outputs import OriginalSampleOutput, SchedulerOutput

__all__ = [
    "DDIMScheduler",
    "DDIMSchedulerOutput",
    "DDPMScheduler",
    "DDPMSchedulerOutput",
    "LCMScheduler",
    "LCMSchedulerOutput",
]


class DDIMSchedulerOutput(OriginalSampleOutput):
    """Output of `DDIMScheduler.step`."""


class DDPMSchedulerOutput(OriginalSampleOutput):
    """Output of `DDPMScheduler.step`."""


class LCMSchedulerOutput(SchedulerOutput):
    """Output of `LCMScheduler.step`.

    Args:
        prev_sample: the sample at the next point.
        denoised: the consistency function's value, like the sample.
    """

    fields = ("prev_sample", "denoised")


class DDIMScheduler(BetaScheduler):
    """Denoising diffusion implicit models (arXiv:2010.02502).

    Args of `step` and `plan`: eta, the part of the ancestral noise; use_clipped_model_output,
    whether eps is that of the clipped estimate.
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        "clip_sample": True,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "epsilon",
        "thresholding": False,
        "dynamic_thresholding_ratio": 0.995,
        "clip_sample_range": 1.0,
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "rescale_betas_zero_snr": False,
    }
    step_options: ClassVar = {
        "eta": 0.0,
        "use_clipped_model_output": False,
        "generator": None,
        "variance_noise": None,
        "return_dict": True,
    }
    output_class = DDIMSchedulerOutput
    _compatibles: ClassVar = EXCHANGEABLE

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "ddim", {}

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        schedule = self._schedule(config)
        return schedule.point(0.0, 0.0) if config.set_alpha_to_one else schedule.at(t=0.0)

    def _finish(self, config: FrozenDict, grid: Grid) -> Grid:
        """In the reference a step ends a fixed stride below its timestep, whatever comes next."""
        if not self._copies:
            return grid
        stride = config.num_train_timesteps // len(grid)
        ends = [p.t - stride for p in grid.points[:-1]]
        arrivals = tuple(grid.at(t=t) if t >= 0 else grid.points[-1] for t in ends)
        return grid if arrivals == grid.points[1:] else replace(grid, arrivals=arrivals)

    @property
    def final_alpha_cumprod(self) -> Any:
        """alpha_bar where the last step ends."""
        return self._shown(np.array(self._last(self._options).alpha ** 2))


class DDPMScheduler(BetaScheduler):
    """Denoising diffusion models (arXiv:2006.11239), learned variances (arXiv:2102.09672)."""

    options: ClassVar = {
        **BETA_OPTIONS,
        "variance_type": "fixed_small",
        "clip_sample": True,
        "prediction_type": "epsilon",
        "thresholding": False,
        "dynamic_thresholding_ratio": 0.995,
        "clip_sample_range": 1.0,
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    }
    timesteps_options: ClassVar = {"num_inference_steps": None, "device": None, "timesteps": None}
    output_class = DDPMSchedulerOutput
    beta_schedules = ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid")
    _compatibles: ClassVar = EXCHANGEABLE

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        choose("variance_type", config.variance_type, VARIANCES)

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "ddpm", {"variance": config.variance_type, "draw_last": self._copies}

    @property
    def variance_type(self) -> str:
        """The configured variance."""
        return str(self._options.variance_type)


IDLE = ("timestep_spacing", "steps_offset")  # what LCM keeps in its configuration and never reads


class LCMScheduler(BetaScheduler):
    """Latent consistency models, multistep and one step (arXiv:2310.04378, algorithm 3).

    timestep_spacing and steps_offset are kept in the configuration and have no effect, as in the
    reference.
    """

    options: ClassVar = {
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
    timesteps_options: ClassVar = {
        "num_inference_steps": None,
        "device": None,
        "original_inference_steps": None,
        "timesteps": None,
        "strength": 1.0,
    }
    grid_options = ("original_inference_steps",)
    output_class = LCMSchedulerOutput

    @classmethod
    def _bind(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        given = super()._bind(args, kwargs)
        for name in IDLE:
            if given[name] != cls.options[name]:
                text = f"{name} has no effect; timesteps follow original_inference_steps"
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
            idle = {name: config[name] for name in IDLE if name in config and name not in left_out}
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

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "lcm", {}

    def _prediction(self, config: FrozenDict) -> Prediction:
        return replace(super()._prediction(config), timestep_scaling=float(config.timestep_scaling))

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

    def get_scalings_for_boundary_condition_discrete(self, timestep: float) -> tuple[float, float]:
        """Return c_skip and c_out at a timestep."""
        return self.prediction.boundary(Point(float(timestep), 1.0, 0.0))

    @property
    def final_alpha_cumprod(self) -> Any:
        """alpha_bar after timestep 0, which no step of this class goes to."""
        bar = self._table.alphas_cumprod
        return self._shown(np.array(1.0 if self._options.set_alpha_to_one else bar[0]))
