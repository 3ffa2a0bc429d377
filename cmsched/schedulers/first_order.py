"""DDIM, its inversion, and DDPM: conditioned on whole timesteps, alpha^2 + sigma^2 = 1."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from .. import engine
from ..backends import resolve
from ..changes import Strided, Upward
from ..checks import check_choice
from ..discretizations import Discretization
from ..frozen import FrozenDict
from ..recipe import Recipe
from ..samplers.first_order import VARIANCES, variance_bounds
from ..samplers.formulas import ancestral
from ..schedules import Point
from .base import TIMES
from .betas import (
    BETA_CHOICES,
    BETA_OPTIONS,
    EXCHANGEABLE,
    data_alpha,
    data_end,
    previous_timestep,
    said,
    spaced,
    tables_of,
    vp_betas,
)
from .habit import SchedulerMixin, with_options
from .options import check_step_option
from .outputs import (
    DDIMParallelSchedulerOutput,
    DDIMSchedulerOutput,
    DDPMParallelSchedulerOutput,
    DDPMSchedulerOutput,
)
from .timeline import Timeline, one_time

__all__ = [
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
]

Array = Any


def ddim(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of DDIM mean."""
    table = vp_betas(c, reference)
    where: Discretization = spaced(
        c, table, data_end(c, table), reference, whole=True, limited=True
    )
    if reference:
        where = where.with_quirk(Strided(c.num_train_timesteps))
    return Recipe("ddim", where, said(c))


def ddim_inverse(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of DDIM's inversion mean: the steps of DDIM, turned round."""
    recipe = ddim(c, reference)
    where = replace(recipe.discretization.then(Upward()), upward=True)
    return Recipe("ddim", where, recipe.prediction)


def ddpm(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of DDPM mean."""
    table = vp_betas(c, reference)
    where = spaced(c, table, table.point(0.0, 0.0), reference, whole=True, limited=True)
    options = {"variance": c.variance_type, "draw_last": reference}
    return Recipe("ddpm", where, said(c), options)


def known_noise(c: FrozenDict) -> None:
    """Raise where nothing says what the noise of clean data is."""
    if c.prediction_type == "sample" and c.set_alpha_to_one:
        raise ValueError(
            'prediction_type="sample" says nothing about the noise of clean data, where the'
            " inversion starts with set_alpha_to_one=True; use set_alpha_to_one=False"
        )


def ends_of(scheduler: Any, timestep: Any, previous: Any = None) -> tuple[Point, Point]:
    """Return the two ends of the step at a timestep: the run's own, or to another timestep."""
    if previous is None:
        timeline: Timeline = scheduler.required()
        return [*timeline.plan.grid.steps()][timeline.entry(timestep)]
    where, before = scheduler.recipe().discretization, one_time(previous)
    after = where.schedule.at(t=before) if before >= 0 else where.end
    return where.schedule.at(t=one_time(timestep)), after


class DDIMScheduler(SchedulerMixin):
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
    choices: ClassVar = BETA_CHOICES
    step_options: ClassVar = {
        "eta": 0.0,
        "use_clipped_model_output": False,
        "generator": None,
        "variance_noise": None,
        "return_dict": True,
    }
    output_class = DDIMSchedulerOutput
    meaning = staticmethod(ddim)
    _compatibles: ClassVar = EXCHANGEABLE

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    final_alpha_cumprod = property(data_alpha)

    def _get_variance(self, timestep: Any, prev_timestep: Any = None) -> float:
        """Return the variance that a step adds with eta = 1 (eq. 16); -1 is the end."""
        return ancestral(*ends_of(self, timestep, prev_timestep), 1.0)[1] ** 2


class DDIMInverseScheduler(SchedulerMixin):
    """DDIM from data to noise (arXiv:2010.02502, section 4.3, eq. 14 walked backwards).

    The timesteps increase. A step goes to the level of its timestep from that of the one before,
    and the network is told where it goes: inversion and DDIM ask it the same times. The first step
    starts from the data, or with set_alpha_to_one=False from the level of timestep 0.
    """

    meanings: ClassVar = {
        "set_alpha_to_one": "whether the first step starts from the data; else from the level "
        "of timestep 0.",
    }
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
    choices: ClassVar = BETA_CHOICES
    relations = (known_noise,)
    step_options: ClassVar = {"return_dict": True}
    output_class = DDIMSchedulerOutput
    meaning = staticmethod(ddim_inverse)

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    initial_alpha_cumprod = property(data_alpha)


class DDPMScheduler(SchedulerMixin):
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
    choices: ClassVar = {
        **BETA_CHOICES,
        "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"),
        "variance_type": VARIANCES,
    }
    timesteps_options: ClassVar = {**TIMES, "timesteps": None}
    output_class = DDPMSchedulerOutput
    meaning = staticmethod(ddpm)
    _compatibles: ClassVar = EXCHANGEABLE

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    previous_timestep = previous_timestep

    @property
    def variance_type(self) -> str:
        """The configured variance."""
        return str(self.filled_config.variance_type)

    def _get_variance(
        self, t: Any, predicted_variance: Array = None, variance_type: str | None = None
    ) -> Any:
        """Return the variance of the step at a timestep: a number, or of a learned kind an array.

        Before `set_timesteps` the step goes to the training step before.
        """
        kind = self.variance_type if variance_type is None else variance_type
        check_choice("variance_type", kind, VARIANCES)
        before = None if self.timeline else one_time(t) - 1
        small, large = variance_bounds(*ends_of(self, t, before))
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


def batch_step(
    scheduler: Any, output: Array, timesteps: Any, sample: Array, options: Mapping[str, Any]
) -> Array:
    """Return for every row, at its own entry of `timesteps`, the mean of `step`.

    It is for concrete arrays of any framework and inside jit; nothing is remembered. A row whose
    timestep is no entry is NaN if timesteps cannot be looked at without a wait for the device.
    """
    timeline = scheduler.required()
    plan = timeline.plan
    if changed := tuple(item for item in options.items() if plan.options[item[0]] != item[1]):
        plan = with_options(plan, changed)
    index, found = timeline.entries(sample, timesteps)
    backend = resolve(sample)
    zeros = tuple([backend.zeros_like(sample)] * len(plan.layout.draws))
    state = engine.State(sample, (), index)
    following = engine.step(plan, state, output, noise=zeros or None).sample
    found = backend.xp.reshape(found, (*found.shape, *(1,) * (len(sample.shape) - found.ndim)))
    return backend.where(found, following, following * math.nan)


class DDIMParallelScheduler(SchedulerMixin):
    """DDIM, also for many rows at once, each at its own timestep (arXiv:2305.16317)."""

    options: ClassVar = DDIMScheduler.options
    choices: ClassVar = BETA_CHOICES
    step_options: ClassVar = DDIMScheduler.step_options
    output_class = DDIMParallelSchedulerOutput
    meaning = staticmethod(ddim)
    _compatibles: ClassVar = EXCHANGEABLE
    _is_ode_scheduler = True

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    final_alpha_cumprod = property(data_alpha)
    _get_variance = DDIMScheduler._get_variance

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
        check_step_option("eta", eta, 0.0)
        check_step_option("use_clipped_model_output", use_clipped_model_output, False)
        options = {"eta": float(eta), "use_clipped_model_output": use_clipped_model_output}
        return batch_step(self, model_output, timesteps, sample, options)


class DDPMParallelScheduler(SchedulerMixin):
    """DDPM, also for many rows at once, each at its own timestep (arXiv:2305.16317)."""

    options: ClassVar = DDPMScheduler.options
    choices: ClassVar = DDPMScheduler.choices
    timesteps_options: ClassVar = DDPMScheduler.timesteps_options
    output_class = DDPMParallelSchedulerOutput
    meaning = staticmethod(ddpm)
    _compatibles: ClassVar = EXCHANGEABLE
    _is_ode_scheduler = False

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    previous_timestep = previous_timestep
    variance_type = DDPMScheduler.variance_type
    _get_variance = DDPMScheduler._get_variance

    def batch_step_no_noise(self, model_output: Array, timesteps: Any, sample: Array) -> Array:
        """Return the mean of the next sample of every row; see `DDIMParallelScheduler`."""
        return batch_step(self, model_output, timesteps, sample, {})
