"""The call shape of diffusers' former Flax schedulers, over plans; see flax.md beside this file.

    scheduler, state = FlaxDDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    state = scheduler.set_timesteps(state, 50, shape=x.shape)
    for t in state.timesteps:
        output = model(scheduler.scale_model_input(state, x, t), t)
        x, state = scheduler.step(state, output, t, x).to_tuple()

A scheduler here is a named class without its cursor: that is in the state, a pytree whose structure
never changes, for `jit`, `fori_loop`, `scan`, `pmap` and donated arguments. Flax is not needed.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

try:
    import jax
    import jax.numpy as jnp
    import numpy as np
except ImportError as error:
    raise ImportError("cmsched.interop.flax needs JAX: pip install jax") from error

from .. import schedulers
from ..checks import check_choice
from ..noise import standard_normal
from ..plan import Plan
from ..samplers.first_order import VARIANCES
from ..schedules import Schedule
from .flax_base import JAX, FlaxScheduler, adapted
from .flax_flow import FlaxFlowMatchScheduler
from .flax_meanings import ddim_anywhere, ddpm_anywhere, dpm_solver, euler, lms, pndm, unipc
from .flax_rectified import FlaxRectifiedFlowMultistepScheduler
from .flax_state import (
    CommonSchedulerState,
    FlaxKarrasVeOutput,
    FlaxSchedulerOutput,
    FlaxSchedulerState,
    FlaxSdeVeOutput,
)
from .flax_step import FlaxStepScheduler

__all__ = [
    "CommonSchedulerState",
    "FlaxDDIMScheduler",
    "FlaxDDPMScheduler",
    "FlaxDPMSolverMultistepScheduler",
    "FlaxEulerDiscreteScheduler",
    "FlaxFlowMatchScheduler",
    "FlaxKarrasVeOutput",
    "FlaxKarrasVeScheduler",
    "FlaxLMSDiscreteScheduler",
    "FlaxPNDMScheduler",
    "FlaxRectifiedFlowMultistepScheduler",
    "FlaxSchedulerMixin",
    "FlaxSchedulerOutput",
    "FlaxSchedulerState",
    "FlaxScoreSdeVeScheduler",
    "FlaxSdeVeOutput",
    "FlaxUniPCMultistepScheduler",
]

Array = Any
FlaxSchedulerMixin = FlaxScheduler  # its former name


class FlaxDDIMScheduler(FlaxStepScheduler):
    """See `DDIMScheduler`; eta > 0 draws its noise, and needs a key.

    A timestep that is not listed goes as far down as a listed one does, whatever comes next.
    """

    named = schedulers.DDIMScheduler
    shown = ("sigmas", "final_alpha_cumprod")
    step_options: ClassVar = {"eta": 0.0, "return_dict": True, "key": None}
    anywhere = True

    def _elsewhere(self, plan: Plan) -> Plan:
        return ddim_anywhere(self._named.recipe(), plan, self.as_reference)

    def _get_variance(self, state: FlaxSchedulerState, timestep: Any, prev_timestep: Any) -> Array:
        """Return the variance that a step adds with eta = 1 (arXiv:2010.02502, eq. 16).

        prev_timestep below 0 is the end of a run.
        """
        table = state.common.alphas_cumprod  # type: ignore[union-attr]
        now, before = (jnp.asarray(t) for t in (timestep, prev_timestep))
        then = jnp.where(before >= 0, table[before], state.final_alpha_cumprod)
        return (1 - then) / (1 - table[now]) * (1 - table[now] / then)


class FlaxDDPMScheduler(FlaxStepScheduler):
    """See `DDPMScheduler`. A timestep that is not listed goes to the training step below it.

    A JAX key gives the noise that it gave in MaxDiffusion: another one is needed at every step.
    With compatibility="paper" it may be the same, and is folded with the number of the step.
    """

    named = schedulers.DDPMScheduler
    step_options: ClassVar = {"key": None, "return_dict": True}
    anywhere, own_noise = True, True

    @classmethod
    def _renewed(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options, a variance that there is not as the one that it was taken for."""
        renewed = super()._renewed(options)
        kind = renewed.get("variance_type", "fixed_small")
        if isinstance(kind, str) and kind not in VARIANCES:
            renewed["variance_type"] = "fixed_small"
            warnings.warn(
                f"variance_type={kind!r} is none of {', '.join(VARIANCES)}, and taken for"
                " 'fixed_small', as it was",
                stacklevel=3,
            )
        return renewed

    def _elsewhere(self, plan: Plan) -> Plan:
        return ddpm_anywhere(self._named.recipe(), plan, self.as_reference)

    def _no_key(self) -> Any:
        """Return the key that the former class took where none was given."""
        if not self.as_reference:
            return super()._no_key()
        self._named.say_once(
            "no key was given, so that the noise is the same at every step; pass key="
        )
        return jax.random.key(0)

    def _get_variance(
        self,
        state: FlaxSchedulerState,
        t: Any,
        predicted_variance: Array | None = None,
        variance_type: str | None = None,
    ) -> Array | None:
        """Return the variance of the step to the training step below, or its log ("..._log").

        Raises:
            ValueError: there is no such variance_type; a learned one without predicted_variance.
        """
        kind = self.config.variance_type if variance_type is None else variance_type
        check_choice("variance_type", kind, VARIANCES)
        if kind.startswith("learned") and predicted_variance is None:
            raise ValueError(
                f'variance_type="{kind}" is what the network says: pass predicted_variance, the'
                " second half of its output's channels"
            )
        if kind == "learned":
            return predicted_variance
        common: Any = state.common
        t = jnp.asarray(t)
        before = jnp.where(t > 0, common.alphas_cumprod[t - 1], 1.0)
        small = (1 - before) / (1 - common.alphas_cumprod[t]) * common.betas[t]
        large = common.betas[t]
        if kind == "learned_range":
            part = (predicted_variance + 1) / 2  # type: ignore[operator]
            return part * large + (1 - part) * small
        variance = jnp.maximum(small, 1e-20) if kind.startswith("fixed_small") else large
        return jnp.log(variance) if kind.endswith("_log") else variance


class FlaxDPMSolverMultistepScheduler(FlaxStepScheduler):
    """See `DPMSolverMultistepScheduler`; a run ends at the level of timestep 0, not at sigma 0."""

    named = adapted(
        schedulers.DPMSolverMultistepScheduler, dpm_solver, final_sigmas_type="sigma_min"
    )
    shown = ("sigmas", "alpha_t", "sigma_t", "lambda_t")


class FlaxUniPCMultistepScheduler(FlaxStepScheduler):
    """See `UniPCMultistepScheduler`; sigmas of a flow begin below 1, at 1 - 1 / 1000 shifted."""

    named = adapted(schedulers.UniPCMultistepScheduler, unipc)
    shown = ("sigmas", "alpha_t", "sigma_t", "lambda_t")
    step_options: ClassVar = {"return_dict": True, "generator": None}

    def set_begin_index(
        self, state: FlaxSchedulerState, begin_index: int = 0
    ) -> FlaxSchedulerState:
        """Return the state where a run begins at this entry of `timesteps` (image to image).

        Raises:
            ValueError: `set_timesteps` was not called, or there is no such entry.
        """
        if state.plan is None or state.table is None:
            raise ValueError("set_begin_index needs timesteps: call set_timesteps before")
        if not 0 <= begin_index < len(state.plan.grid):
            raise ValueError(
                f"begin_index={begin_index} is none of the {len(state.plan.grid)} timesteps"
            )
        return state.replace(index=state.table.first_columns[begin_index])

    def step(self, *args: Any, generator: Any = None, **kwargs: Any) -> Any:
        """Take one step; see `FlaxStepScheduler.step`. `generator` plays no part: no noise."""
        if len(args) == 6:
            args = args[:5]
        return super().step(*args, **kwargs)


class FlaxEulerDiscreteScheduler(FlaxStepScheduler):
    """See `EulerDiscreteScheduler`; "leading" timesteps are one higher, a single step starts last.

    Where the PyTorch class has steps_offset=0 for its default, this one has 1.
    """

    named = adapted(schedulers.EulerDiscreteScheduler, euler, steps_offset=1)

    def _times(self, times: Any, training: bool = False) -> Array | None:
        shown = super()._times(times, training)
        return shown if training else as_summed(self, times, shown)


def as_summed(scheduler: FlaxScheduler, times: Any, shown: Array | None) -> Array | None:
    """Return even times as the former classes had them, who computed them in single precision."""
    if times is None or not scheduler.as_reference:
        return shown
    top = scheduler.config.num_train_timesteps - 1
    if not np.allclose(times, np.linspace(top, 0, len(times)), rtol=1e-9):
        return shown
    return jnp.linspace(top, 0, len(times), dtype=scheduler._acc)


class FlaxLMSDiscreteScheduler(FlaxStepScheduler):
    """See `LMSDiscreteScheduler`; `timesteps` are the whole parts of the times of its levels."""

    named = adapted(schedulers.LMSDiscreteScheduler, lms)
    step_options: ClassVar = {"order": 4, "return_dict": True}

    def _times(self, times: Any, training: bool = False) -> Array | None:
        shown = super()._times(times, training)
        if training or not self.as_reference or shown is None:
            return shown
        return as_summed(self, times, shown).astype(jnp.int32)  # type: ignore[union-attr]

    def _asked(self, plan: Plan | None, timesteps: Any) -> Any:
        timesteps = super()._asked(plan, timesteps)
        if plan is None or not self.as_reference:
            return timesteps
        times = jnp.asarray(plan.timesteps, self._acc)  # of which the state has the whole parts
        apart = jnp.abs(jnp.asarray(timesteps)[..., None] - self._times(plan.timesteps))
        entry = times[jnp.argmin(apart, axis=-1)]
        return jnp.where(jnp.min(apart, axis=-1) == 0, entry, timesteps)

    def create_state(self, common: CommonSchedulerState | None = None) -> FlaxSchedulerState:
        """Return a state without timesteps, whose sigmas are those of the training, increasing."""
        state = super().create_state(common)
        if not self.as_reference:
            return state
        return state.replace(sigmas=state.sigmas[-2::-1])  # type: ignore[index]


class FlaxPNDMScheduler(FlaxStepScheduler):
    """See `PNDMScheduler`. A run ends at timestep 0, whatever set_alpha_to_one says.

    `state.prk_timesteps` and `plms_timesteps` are the two parts of `timesteps`; `counter` is how
    many steps were taken, and `ets` the past outputs.
    """

    named = adapted(schedulers.PNDMScheduler, pndm)
    pndm_order = 4

    def _state(self, plan: Plan | None, *args: Any, **kwargs: Any) -> FlaxSchedulerState:
        state, at = super()._state(plan, *args, **kwargs), self._with(plan)
        last = 1.0 if self.config.set_alpha_to_one else at.alphas_cumprod[0]
        parts = {k: self._times(getattr(at, k)) for k in ("prk_timesteps", "plms_timesteps")}
        return state.replace(final_alpha_cumprod=jnp.array(last, self._acc), **parts)

    def step_prk(
        self, state: FlaxSchedulerState, model_output: Array, timestep: Any, sample: Array
    ) -> tuple[Array, FlaxSchedulerState]:
        """Take a step of the Runge-Kutta part, and return (prev_sample, state).

        Which part a step is of follows from where the state is, here and in `step` and
        `step_plms`.
        """
        return self.step(state, model_output, timestep, sample, False)  # type: ignore[no-any-return]

    def step_plms(
        self, state: FlaxSchedulerState, model_output: Array, timestep: Any, sample: Array
    ) -> tuple[Array, FlaxSchedulerState]:
        """Take a step of the multistep part, and return (prev_sample, state); see `step_prk`."""
        return self.step(state, model_output, timestep, sample, False)  # type: ignore[no-any-return]


class FlaxKarrasVeScheduler(FlaxScheduler):
    """See `KarrasVeScheduler`: its loop, with the state before the other arguments.

    `state.schedule[t]` is the level at which timestep t starts.
    """

    named = schedulers.KarrasVeScheduler
    shown = ("schedule",)

    def add_noise_to_input(
        self, state: FlaxSchedulerState, sample: Array, sigma: Any, key: Any
    ) -> tuple[Array, Array]:
        """Return the sample noised up from level sigma, and the level it is then at.

        gamma = min(s_churn / n, sqrt 2 - 1) in [s_min, s_max]: arXiv:2206.00364, algorithm 2. Here
        sigma may be traced, and another key is to be given at every step.
        """
        config, n = self.config, self._steps(state)
        acc = JAX.accumulation(sample.dtype)
        sigma = jnp.asarray(sigma, acc)
        inside = (config.s_min <= sigma) & (sigma <= config.s_max)
        gamma = jnp.where(inside, min(config.s_churn / n, 2**0.5 - 1), 0.0).astype(acc)
        z = standard_normal(key, sample, 0).astype(acc)
        std = config.s_noise * sigma * jnp.sqrt(gamma * (2 + gamma))
        return (sample.astype(acc) + std * z).astype(sample.dtype), sigma * (1 + gamma)

    def step(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        sigma_hat: Any,
        sigma_prev: Any,
        sample_hat: Array,
        return_dict: bool = True,
    ) -> Any:
        """Take Euler's step from level sigma_hat to sigma_prev; see `KarrasVeScheduler.step`.

        Returns prev_sample, derivative and state, or the tuple of these.
        """
        self._steps(state)
        both = self._named.step(model_output, sigma_hat, sigma_prev, sample_hat, False)
        return FlaxKarrasVeOutput(*both, state) if return_dict else (*both, state)

    def step_correct(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        sigma_hat: Any,
        sigma_prev: Any,
        sample_hat: Array,
        sample_prev: Array,
        derivative: Array,
        return_dict: bool = True,
    ) -> Any:
        """Take the step again with the mean of both derivatives; returns what `step` does."""
        self._steps(state)
        given = (model_output, sigma_hat, sigma_prev, sample_hat, sample_prev, derivative)
        both = self._named.step_correct(*given, False)
        return FlaxKarrasVeOutput(*both, state) if return_dict else (*both, state)

    def _steps(self, state: FlaxSchedulerState) -> int:
        if state.num_inference_steps is None:
            raise ValueError(
                "the state has no timesteps yet: call state = scheduler.set_timesteps(state,"
                " num_inference_steps) before the loop"
            )
        self._with(state.plan)
        return state.num_inference_steps


class FlaxScoreSdeVeScheduler(FlaxScheduler):
    """See `ScoreSdeVeScheduler`: its loop, with the state before the other arguments.

    A new state is ready for num_train_timesteps steps. Every call needs a key of its own.
    """

    named = schedulers.ScoreSdeVeScheduler
    shown = ("sigmas", "discrete_sigmas")

    def create_state(self, common: CommonSchedulerState | None = None) -> FlaxSchedulerState:
        """Return a state of num_train_timesteps steps; this class has no `common`."""
        if common is not None:
            self._check_common(common, None)
        return self._state(self._named.plan(len(self)), None)

    def set_timesteps(
        self,
        state: FlaxSchedulerState,
        num_inference_steps: int | None = None,
        shape: tuple[int, ...] | None = (),
        sampling_eps: float | None = None,
        **options: Any,
    ) -> FlaxSchedulerState:
        """Return the state of a run, at times from 1 to sampling_eps."""
        options["sampling_eps"] = sampling_eps
        return super().set_timesteps(state, num_inference_steps, shape, **options)

    def set_sigmas(
        self,
        state: FlaxSchedulerState,
        num_inference_steps: int,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sampling_eps: float | None = None,
    ) -> FlaxSchedulerState:
        """Return the state with other levels than the configuration's, at times that stay."""
        at = copy.copy(self._with(state.plan))
        at.set_sigmas(num_inference_steps, sigma_min, sigma_max, sampling_eps)
        return self._state(at.timeline.plan, None)

    def _agree(self, own: Schedule, given: Schedule) -> bool:
        return type(given) is type(own)  # whose ends `set_sigmas` may have changed

    def get_adjacent_sigma(self, state: FlaxSchedulerState, timesteps: Array, t: Array) -> Array:
        """Return the level below each of these numbers of levels, 0 below number 0, beside t."""
        return self._with(state.plan).get_adjacent_sigma(timesteps, t)

    def step_pred(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        timestep: Any,
        sample: Array,
        key: Any,
        return_dict: bool = True,
    ) -> Any:
        """Take the predictor's step from a time, or a time for each row, to the next.

        Returns prev_sample, prev_sample_mean and state, or the tuple of these.
        """
        both = self._once(state).step_pred(model_output, timestep, sample, key, False)
        x, mean = both
        return FlaxSdeVeOutput(x, state, mean) if return_dict else (x, mean, state)

    def step_correct(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        sample: Array,
        key: Any,
        return_dict: bool = True,
    ) -> Any:
        """Take a Langevin step at the present level; returns prev_sample and state."""
        (x,) = self._once(state).step_correct(model_output, sample, key, False)
        return FlaxSdeVeOutput(x, state) if return_dict else (x, state)

    def _once(self, state: FlaxSchedulerState) -> Any:
        """Return the named class for one call: what it counts is not kept."""
        return copy.copy(self._with(state.plan))

    def __len__(self) -> int:
        """Return the number of training steps."""
        return len(self._named)


# every class's output, and states under the names that they had
for _cls in (
    FlaxDDIMScheduler,
    FlaxDDPMScheduler,
    FlaxDPMSolverMultistepScheduler,
    FlaxEulerDiscreteScheduler,
    FlaxFlowMatchScheduler,
    FlaxLMSDiscreteScheduler,
    FlaxPNDMScheduler,
    FlaxRectifiedFlowMultistepScheduler,
    FlaxUniPCMultistepScheduler,
):
    _name = _cls.__name__.removeprefix("Flax").replace("FlowMultistep", "Flow")
    globals()[_cls.output_class.__name__] = _cls.output_class
    globals()[f"{_name}State"] = FlaxSchedulerState
    __all__ += [_cls.output_class.__name__, f"{_name}State"]
for _name in __all__:
    globals()[_name].__module__ = __name__  # where users import it from, and pickles look for it
KarrasVeSchedulerState = ScoreSdeVeSchedulerState = FlaxSchedulerState
