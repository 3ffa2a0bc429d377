"""CogVideoX: DDIM and SDE-DPM-Solver++ on shifted signal-to-noise ratios."""

import warnings
from dataclasses import replace
from typing import Any, ClassVar

from .. import engine
from ..backends import resolve
from ..engine.checks import check_like, check_output
from ..predictions import Prediction
from .base import Run, one_time
from .betas import BETA_OPTIONS, EXCHANGEABLE, BetaMixin
from .config import FrozenDict
from .first_order import DDIMScheduler, DDIMSchedulerOutput, StrideMixin
from .parts import PartsMixin
from .plans import check_option

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


class ShiftMixin(BetaMixin):
    """What the two classes share.

    Signal-to-noise ratios are divided by snr_shift_scale, then shifted to a zero terminal one if
    rescale_betas_zero_snr. sample_max_value is of a thresholding that they do not have.
    """

    _compatibles: ClassVar = EXCHANGEABLE

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        if not config.snr_shift_scale > 0:
            raise ValueError(f"snr_shift_scale must be positive, got {config.snr_shift_scale}")

    def _prediction(self, config: FrozenDict) -> Prediction:
        found = super()._prediction(config)
        return replace(found, clip=None) if self._copies else found  # the reference never clips


class CogVideoXDDIMScheduler(ShiftMixin, DDIMScheduler):
    """DDIM (arXiv:2010.02502) on the noise levels of CogVideoX (arXiv:2408.06072).

    With compatibility="diffusers" eta and use_clipped_model_output have no effect at `step`, as in
    the reference.
    """

    options: ClassVar = OPTIONS

    def _with_options(self, run: Run, options: dict[str, Any]) -> Run:
        if not self._copies:
            return super()._with_options(run, options)
        for name in (name for name, value in options.items() if value):
            self._once(f"{name} has no effect")
        return super()._with_options(run, {})._replace(options=options)


class CogVideoXDPMScheduler(ShiftMixin, StrideMixin, PartsMixin):
    """SDE-DPM-Solver++ of order 2 (arXiv:2211.01095) on the noise levels of CogVideoX.

    The caller keeps the last estimate of x0, and says where it was made:

        old, back = None, None
        for t in scheduler.timesteps:
            x, old = scheduler.step(model(x, t), old, t, back, x)
            back = t

    `cmsched.sample(model, plan, noise, rng=0)` is that loop. With compatibility="diffusers" a step
    from an earlier estimate draws twice and uses the second, so that a generator gives the same.
    """

    options: ClassVar = OPTIONS

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        """The last step is of first order; in the reference only where it leaves the table."""
        first = not self._copies
        first = first or self._points(config, n)[-1].t < config.num_train_timesteps // n
        return "dpmpp_multistep", {"solver_order": 2, "eta": 1.0, "euler_at_final": first}

    @property
    def final_alpha_cumprod(self) -> Array:
        """alpha_bar where the last step ends."""
        return self._data_alpha()

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
            check_option(name, given[name], default)
            if given[name]:
                warnings.warn(f"{type(self).__name__}: {name} has no effect", stacklevel=2)
        plan, backend, old = self._set(), resolve(sample), old_pred_original_sample
        entry = self._entry(sample, one_time(timestep))
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
            if self._copies and old is not None and not last:
                self._normal(sample, generator)
            noise = self._normal(sample, None) if generator is None else None
        memory = (sample if old is None else old,) * len(plan.check_traced().slots)
        state = engine.State(sample, memory, entry)
        after = engine.step(plan, state, model_output, rng=generator, noise=noise)
        fields = after.sample, engine.estimate_x0(plan, entry, sample, model_output)
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
        if self._entry(sample, one_time(back, "timestep_back")) != entry - 1:
            raise ValueError(
                f"timestep_back={one_time(back):g} is not the entry of timesteps before this one;"
                " pass the timestep of the step before"
            )
