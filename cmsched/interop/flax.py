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
from typing import Any, ClassVar

try:
    import jax.numpy as jnp
except ImportError as error:
    raise ImportError('cmsched.interop.flax needs JAX: pip install "cmsched[jax]"') from error

from .. import schedulers
from ..noise import standard_normal
from ..schedules import Schedule
from .flax_base import JAX, FlaxScheduler, FlaxStepScheduler
from .flax_state import (
    CommonSchedulerState,
    FlaxKarrasVeOutput,
    FlaxSchedulerOutput,
    FlaxSchedulerState,
    FlaxSdeVeOutput,
)

__all__ = [
    "CommonSchedulerState",
    "FlaxDDIMScheduler",
    "FlaxDDPMScheduler",
    "FlaxDPMSolverMultistepScheduler",
    "FlaxEulerDiscreteScheduler",
    "FlaxKarrasVeOutput",
    "FlaxKarrasVeScheduler",
    "FlaxLMSDiscreteScheduler",
    "FlaxPNDMScheduler",
    "FlaxSchedulerOutput",
    "FlaxSchedulerState",
    "FlaxScoreSdeVeScheduler",
    "FlaxSdeVeOutput",
]

Array = Any

for _value in (
    CommonSchedulerState,
    FlaxKarrasVeOutput,
    FlaxSchedulerOutput,
    FlaxSchedulerState,
    FlaxSdeVeOutput,
):
    _value.__module__ = __name__  # where users import it from, and pickles look for it


class FlaxDDIMScheduler(FlaxStepScheduler):
    """See `DDIMScheduler`; eta > 0 draws its noise, and needs a key."""

    named = schedulers.DDIMScheduler
    shown = ("sigmas", "final_alpha_cumprod")
    step_options: ClassVar = {"eta": 0.0, "return_dict": True, "key": None}


class FlaxDDPMScheduler(FlaxStepScheduler):
    """See `DDPMScheduler`; there is no key that is used where none is given."""

    named = schedulers.DDPMScheduler
    step_options: ClassVar = {"key": None, "return_dict": True}


class FlaxDPMSolverMultistepScheduler(FlaxStepScheduler):
    """See `DPMSolverMultistepScheduler`."""

    named = schedulers.DPMSolverMultistepScheduler


class FlaxEulerDiscreteScheduler(FlaxStepScheduler):
    """See `EulerDiscreteScheduler`."""

    named = schedulers.EulerDiscreteScheduler


class FlaxLMSDiscreteScheduler(FlaxStepScheduler):
    """See `LMSDiscreteScheduler`."""

    named = schedulers.LMSDiscreteScheduler
    step_options: ClassVar = {"order": 4, "return_dict": True}


class FlaxPNDMScheduler(FlaxStepScheduler):
    """See `PNDMScheduler`."""

    named = schedulers.PNDMScheduler
    shown = ("sigmas", "final_alpha_cumprod")


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
        return FlaxSdeVeOutput(*both, state) if return_dict else (*both, state)

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
        return FlaxSchedulerOutput(x, state) if return_dict else (x, state)

    def _once(self, state: FlaxSchedulerState) -> Any:
        """Return the named class for one call: what it counts is not kept."""
        return copy.copy(self._with(state.plan))

    def __len__(self) -> int:
        """Return the number of training steps."""
        return len(self._named)
