"""CogVideoX: DDIM and SDE-DPM-Solver++ on shifted signal-to-noise ratios."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .. import engine
from ..backends import resolve
from ..engine.checks import check_like, check_output
from ..frozen import FrozenDict
from ..grids import Grid
from ..plan import Plan
from ..recipe import Recipe
from .betas import BETA_CHOICES, BETA_OPTIONS, EXCHANGEABLE, data_alpha, tables_of, vp_betas
from .first_order import DDIMScheduler, ddim
from .habit import SchedulerMixin, with_options
from .options import check_step_option
from .outputs import DDIMSchedulerOutput
from .parts import PartsMixin
from .timeline import one_time

__all__ = ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"]

Array = Any

OPTIONS = {
    **BETA_OPTIONS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": True,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "clip_sample_range": 1.0,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 3.0,
}


def cogvideox_ddim(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of CogVideoX's DDIM mean: those of DDIM, but that it never clips.

    That is the reference; in the paper's sense it clips as asked. Signal-to-noise ratios are
    divided by snr_shift_scale, then shifted to a zero terminal one if rescale_betas_zero_snr.
    """
    recipe = ddim(c, reference)
    if reference:
        recipe = replace(recipe, prediction=replace(recipe.prediction, clip=None))
    return recipe


@dataclass(frozen=True)
class LeavesTable:
    """Whether the last step of a run leaves the table, where the reference's is of first order.

    That of a list always does.
    """

    train: int

    def __call__(self, grid: Grid) -> bool:
        """Return it."""
        return grid.ends is None or grid.points[-2].t < self.train // len(grid)


def cogvideox_dpm(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of CogVideoX's SDE-DPM-Solver++ mean, on the steps of its DDIM.

    The last step is of first order; in the reference only where it leaves the table.
    """
    recipe = cogvideox_ddim(c, reference)
    first = LeavesTable(c.num_train_timesteps) if reference else True
    options = {"solver_order": 2, "eta": 1.0, "euler_at_final": first}
    return replace(recipe, sampler="dpmpp_multistep", options=options)


class CogVideoXDDIMScheduler(SchedulerMixin):
    """DDIM (arXiv:2010.02502) on the noise levels of CogVideoX (arXiv:2408.06072).

    With compatibility="diffusers" eta and use_clipped_model_output have no effect at `step`, as in
    the reference. sample_max_value is of a thresholding that there is not.
    """

    meanings: ClassVar = {
        "sample_max_value": "of a thresholding that there is not: without effect.",
    }
    options: ClassVar = OPTIONS
    choices: ClassVar = BETA_CHOICES
    step_options: ClassVar = DDIMScheduler.step_options
    output_class = DDIMSchedulerOutput
    meaning = staticmethod(cogvideox_ddim)
    _compatibles: ClassVar = EXCHANGEABLE

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    final_alpha_cumprod = property(data_alpha)
    _get_variance = DDIMScheduler._get_variance

    def replan(self, plan: Plan, options: dict[str, Any]) -> Plan:
        """Return the plan with other options, which have no effect in the reference."""
        if not self.as_reference:
            return with_options(plan, tuple(options.items()))
        for name in (name for name, value in options.items() if value):
            self.say_once(f"{name} has no effect")
        return plan


class CogVideoXDPMScheduler(PartsMixin):
    """SDE-DPM-Solver++ of order 2 (arXiv:2211.01095) on the noise levels of CogVideoX.

    The caller keeps the last estimate of x0, and says where it was made:

        old, back = None, None
        for t in scheduler.timesteps:
            x, old = scheduler.step(model(x, t), old, t, back, x)
            back = t

    `cmsched.sample(model, plan, noise, rng=0)` is that loop. With compatibility="diffusers" a step
    from an earlier estimate draws twice and uses the second, so that a generator gives the same.
    """

    meanings: ClassVar = {
        "sample_max_value": "of a thresholding that there is not: without effect.",
    }
    options: ClassVar = OPTIONS
    choices: ClassVar = BETA_CHOICES
    meaning = staticmethod(cogvideox_dpm)
    _compatibles: ClassVar = EXCHANGEABLE

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    final_alpha_cumprod = property(data_alpha)

    def step(
        self,
        model_output: Array,
        old_pred_original_sample: Array | None,
        timestep: Any,
        timestep_back: Any,
        sample: Array,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Any = None,
        variance_noise: Array | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Take one step: of second order, or of first without an earlier estimate.

        Args:
            model_output: the network's output, like sample.
            old_pred_original_sample: the estimate of x0 that the step before returned; None in the
                first one, at any entry of `timesteps`.
            timestep: an entry of `timesteps`.
            timestep_back: the entry before it; None in the first step.
            sample: the present sample, of any framework.
            eta: without effect, for there is no other amount of noise; any but 0 warns.
            use_clipped_model_output: the same.
            generator: where noise comes from; see `SchedulerMixin.step`.
            variance_noise: the noise itself, like sample.
            return_dict: True for an object in place of a tuple.

        Returns:
            prev_sample and pred_original_sample, the estimate for the next step.

        Raises:
            ValueError, TypeError: a time that is no entry, or not the one before; shapes.
        """
        given = {"eta": eta, "use_clipped_model_output": use_clipped_model_output}
        for name, default in (("eta", 0.0), ("use_clipped_model_output", False)):
            check_step_option(name, given[name], default)
            if given[name]:
                warnings.warn(f"{type(self).__name__}: {name} has no effect", stacklevel=2)
        plan, backend, old = self.required().plan, resolve(sample), old_pred_original_sample
        entry = self.step_at(sample, one_time(timestep))
        self._check_back(sample, entry, old, timestep_back)
        check_output(backend, sample, model_output, plan.prediction)
        last = plan.options["euler_at_final"] and entry == len(plan) - 1
        if old is None:  # the rest of the run as one of its own
            plan, entry = plan.skip(entry) if entry else plan, 0
        noise = variance_noise
        if noise is not None:
            if generator is not None:
                raise ValueError("pass either generator or variance_noise, not both")
            check_like(backend, sample, "variance_noise", noise)
        if not plan.rows[entry].draws:
            generator = noise = None
        elif noise is None:
            if self.as_reference and old is not None and not last:
                self.normal(sample, generator)
            noise = self.normal(sample, None) if generator is None else None
        memory = (sample if old is None else old,) * len(plan.layout.slots)
        state = engine.State(sample, memory, entry)
        after, x0 = engine.step_and_x0(plan, state, model_output, rng=generator, noise=noise)
        fields = after.sample, x0
        return DDIMSchedulerOutput(*fields) if return_dict else fields

    def _check_back(self, sample: Array, entry: int, old: Array | None, back: Any) -> None:
        """Raise unless an earlier estimate is of the entry before, and has a time."""
        if (old is None) != (back is None):
            raise ValueError(
                "old_pred_original_sample and timestep_back belong together: give both, or None for"
                " both in the first step"
            )
        if old is None:
            return
        check_like(resolve(sample), sample, "old_pred_original_sample", old)
        if self.step_at(sample, one_time(back, "timestep_back")) != entry - 1:
            raise ValueError(
                f"timestep_back={one_time(back):g} is not the entry of timesteps before this one;"
                " pass the timestep of the step before"
            )
