"""DDIM, its inversion, and DDPM: conditioned on whole timesteps, alpha^2 + sigma^2 = 1."""

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .. import engine
from .._messages import choose
from ..backends import resolve
from ..plan import Plan, make_plan
from ..samplers.first_order import VARIANCES, variances
from ..samplers.formulas import ancestral
from ..schedules import Point
from ..spacings import Grid
from .base import SchedulerMixin, one_time, times_beside, tolerance
from .betas import BETA_OPTIONS, EXCHANGEABLE, BetaMixin, BetaScheduler
from .config import FrozenDict
from .outputs import OriginalSampleOutput
from .plans import check_option

__all__ = [
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMParallelSchedulerOutput",
    "DDIMScheduler",
    "DDIMSchedulerOutput",
    "DDPMParallelScheduler",
    "DDPMParallelSchedulerOutput",
    "DDPMScheduler",
    "DDPMSchedulerOutput",
    "StrideMixin",
]

Array = Any


class DDIMSchedulerOutput(OriginalSampleOutput):
    """Output of `DDIMScheduler.step` and `DDIMInverseScheduler.step`."""


class DDIMParallelSchedulerOutput(DDIMSchedulerOutput):
    """Output of `DDIMParallelScheduler.step`."""


class DDPMSchedulerOutput(OriginalSampleOutput):
    """Output of `DDPMScheduler.step`."""


class DDPMParallelSchedulerOutput(DDPMSchedulerOutput):
    """Output of `DDPMParallelScheduler.step`."""


class WholeSteps(BetaScheduler):
    """Base of the classes whose steps go from one timestep to another."""

    def _ends(self, timestep: Any, previous: Any = None) -> tuple[Point, Point]:
        """Return the two ends of the step at a timestep: the run's own, or to another timestep."""
        if previous is None:
            return [*self._set().grid.steps()][self.index_for_timestep(timestep)]
        schedule, before = self.schedule, one_time(previous)
        after = schedule.at(t=before) if before >= 0 else self._last(self._options)
        return schedule.at(t=one_time(timestep)), after


class StrideMixin(BetaMixin):
    """Between which levels a step goes, for DDIM and its kin."""

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

    def _data_alpha(self) -> Array:
        """Return alpha_bar at the end where the data are."""
        return self._shown(np.array(self._last(self._options).alpha ** 2))


class DDIMSteps(StrideMixin, WholeSteps):
    """What DDIM and its inversion share."""

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "ddim", {}


class DDIMScheduler(DDIMSteps):
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

    @property
    def final_alpha_cumprod(self) -> Array:
        """alpha_bar where the last step ends."""
        return self._data_alpha()

    def _get_variance(self, timestep: Any, prev_timestep: Any = None) -> float:
        """Return the variance that a step adds with eta = 1 (eq. 16); -1 is the end."""
        return ancestral(*self._ends(timestep, prev_timestep), 1.0)[1] ** 2


class DDIMInverseScheduler(DDIMSteps):
    """DDIM from data to noise (arXiv:2010.02502, section 4.3, eq. 14 walked backwards).

    The timesteps increase. A step goes to the level of its timestep from that of the one before,
    and the network is told where it goes: inversion and DDIM ask it the same times. The first step
    starts from the data, or with set_alpha_to_one=False from the level of timestep 0.
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        "clip_sample": True,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "epsilon",
        "clip_sample_range": 1.0,
        "timestep_spacing": "leading",
        "rescale_betas_zero_snr": False,
    }
    step_options: ClassVar = {"return_dict": True}
    output_class = DDIMSchedulerOutput
    upward = True

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        if config.prediction_type == "sample" and config.set_alpha_to_one:
            raise ValueError(
                'prediction_type="sample" says nothing about the noise of clean data, where the'
                " inversion starts with set_alpha_to_one=True; use set_alpha_to_one=False"
            )

    def _finish(self, config: FrozenDict, grid: Grid) -> Grid:
        steps = [*super()._finish(config, grid).steps()][::-1]
        starts = [replace(low, t=high.t) for high, low in steps]
        arrivals = tuple(high for high, _ in steps)
        return replace(grid, points=(*starts, arrivals[-1]), arrivals=arrivals)

    def _visited(self, plan: Plan | None) -> tuple[Point, ...]:
        return ()  # their times are those of other levels

    @property
    def initial_alpha_cumprod(self) -> Array:
        """alpha_bar where the first step starts."""
        return self._data_alpha()


class DDPMScheduler(WholeSteps):
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

    def _get_variance(
        self, t: Any, predicted_variance: Array = None, variance_type: str | None = None
    ) -> Any:
        """Return the variance of the step at a timestep: a number, or of a learned kind an array.

        Before `set_timesteps` the step goes to the training step before.
        """
        kind = self.variance_type if variance_type is None else variance_type
        choose("variance_type", kind, VARIANCES)
        small, large = variances(*self._ends(t, None if self._plan else one_time(t) - 1))
        if kind.startswith("fixed"):
            return small if kind.startswith("fixed_small") else large
        if predicted_variance is None:
            raise ValueError(
                f'variance_type="{kind}" is what the network says: pass predicted_variance, the'
                " second half of its output's channels"
            )
        middle, half = 0.0, 1.0
        if kind == "learned_range":
            middle, half = (0.5 * (math.log(large) + s * math.log(small)) for s in (1, -1))
        return resolve(predicted_variance).xp.exp(middle + half * predicted_variance)


class Parallel(SchedulerMixin):
    """Base of the classes that step many rows at once, parallel in time (arXiv:2305.16317)."""

    def _batch_step(
        self, output: Array, timesteps: Any, sample: Array, options: dict[str, Any]
    ) -> Array:
        """Return for every row, at its own entry of `timesteps`, the mean of `step`.

        It is for concrete arrays of any framework and inside jit; nothing is remembered. A row
        whose timestep is no entry is NaN if timesteps cannot be looked at without a wait for the
        device.
        """
        plan = self._set()
        if changed := tuple(item for item in options.items() if plan.options[item[0]] != item[1]):
            plan = with_options(plan, changed)
        entries = plan.timesteps
        near = tolerance(float(np.abs(entries).max()))

        def check(host: np.ndarray) -> None:
            rows = host.reshape(-1, 1)
            for t in rows[np.abs(rows - entries).min(axis=1) > near].ravel():
                self.index_for_timestep(t)  # raises

        t = times_beside(sample, timesteps, check)
        backend = resolve(sample)
        xp, dtype = backend.xp, sample.dtype
        there = plan.on(sample).numbers[1, : len(plan)]  # the entries, on the sample's device
        off = xp.abs(xp.expand_dims(t, axis=-1) - there)
        shape = t.shape if tuple(t.shape) == tuple(sample.shape[:1]) else ()
        index = xp.reshape(xp.argmin(off, axis=-1), shape)
        missed = xp.min(off, axis=-1) > near
        state = engine.State(sample, (), index)
        zeros = tuple([backend.zeros_like(sample)] * len(plan.check_traced().draws))
        following = engine.step(plan, state, output, noise=zeros or None).sample
        mark = backend.where(missed, xp.full_like(t, math.nan), xp.zeros_like(t))
        ones = (1,) * (len(sample.shape) - len(shape))
        return following + backend.astype(xp.reshape(mark, (*shape, *ones)), dtype)


@lru_cache(maxsize=16)
def with_options(plan: Plan, options: tuple[tuple[str, Any], ...]) -> Plan:
    """Return a plan with other options of its sampler."""
    changed = {**plan.options, **dict(options)}
    return make_plan(plan.sampler, plan.grid, plan.prediction, changed)


class DDIMParallelScheduler(Parallel, DDIMScheduler):
    """DDIM, also for many rows at once, each at its own timestep (arXiv:2305.16317)."""

    output_class = DDIMParallelSchedulerOutput
    _is_ode_scheduler = True

    def batch_step_no_noise(
        self,
        model_output: Array,
        timesteps: Any,
        sample: Array,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
    ) -> Array:
        """Return the sample after the step of every row, without the noise that eta adds.

        Args:
            model_output: the network's output, like sample.
            timesteps: one entry of `timesteps` for all rows or one per row, on the host or an array
                of the sample's framework; there a row with another timestep becomes NaN.
            sample: the samples, batch first.
            eta: as in `step`.
            use_clipped_model_output: as in `step`.

        Raises:
            ValueError, TypeError: see `step`.
        """
        check_option("eta", eta, 0.0)
        check_option("use_clipped_model_output", use_clipped_model_output, False)
        options = {"eta": float(eta), "use_clipped_model_output": use_clipped_model_output}
        return self._batch_step(model_output, timesteps, sample, options)


class DDPMParallelScheduler(Parallel, DDPMScheduler):
    """DDPM, also for many rows at once, each at its own timestep (arXiv:2305.16317)."""

    output_class = DDPMParallelSchedulerOutput
    _is_ode_scheduler = False

    def batch_step_no_noise(self, model_output: Array, timesteps: Any, sample: Array) -> Array:
        """Return the mean of the next sample of every row; see `DDIMParallelScheduler`."""
        return self._batch_step(model_output, timesteps, sample, {})
