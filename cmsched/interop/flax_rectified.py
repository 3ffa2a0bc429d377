"""MaxDiffusion's scheduler of rectified flows: where its steps lie, and the class around that."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from .. import ramps, spacings
from ..discretizations import Discretization
from ..frozen import FrozenDict
from ..predictions import Prediction
from ..recipe import Recipe
from ..schedulers import SchedulerMixin
from ..schedulers.betas import BETA_OPTIONS, tables_of, vp_betas
from ..schedulers.options import RULES, Rule
from ..schedules import Flow, Point
from .flax_base import JAX, count_of, unlisted
from .flax_state import FlaxSchedulerState
from .flax_step import FlaxStepScheduler

__all__ = ["FlaxRectifiedFlowMultistepScheduler"]

Array = Any
SD3_TOKENS, SD3_SHIFTS = (1024, 4096), (0.95, 2.05)  # mu of as many tokens


def tokens_of(shape: Sequence[int] | None) -> int | None:
    """Return the number of tokens of samples (batch, tokens, channels) or (batch, channels, ...).

    Raises:
        ValueError: a shape of another length.
    """
    if shape is None:
        return None
    if len(shape) not in (3, 4, 5):
        raise ValueError(
            "samples_shape must be (batch, tokens, channels), (batch, channels, height, width) or"
            f" (batch, channels, frames, height, width), got {tuple(shape)}"
        )
    return int(shape[1]) if len(shape) == 3 else int(np.prod(shape[2:]))


@dataclass(frozen=True, kw_only=True)
class RectifiedSteps(Discretization):
    """Times from 1 to 1 / n by a rule, then shifted by the number of tokens.

    Args:
        rule: "Uniform", "LinearQuadratic" or "Constant".
        constant: e^this is the shift of "Constant".
        shift: of the resolution.
        terminal: stretch the shifted times about 1 to end there.
    """

    rule: str
    constant: float | None = None
    shift: float = 1.0
    terminal: float | None = None

    def points(self, n: int) -> list[Point]:
        """Return the n points where steps start."""
        n = min(n, self.train)
        times = np.linspace(1.0, 1.0 / n, n)
        if self.rule == "LinearQuadratic":
            times = ramps.linear_quadratic(n, 1.0)
        elif self.rule == "Constant":
            times = spacings.shifted(times, math.exp(self.constant or 0.0))
        times = spacings.shifted(times, self.shift)
        if self.terminal is not None:
            times = spacings.stretched(times, self.terminal)
        return [self.schedule.at(sigma=t) for t in times.tolist()]

    def training(self) -> list[Point]:
        """Return the points of as many steps as there are training steps."""
        return self.points(self.train)


def rectified_flow(
    c: FrozenDict, reference: bool, *, samples_shape: Sequence[int] | None = None
) -> Recipe:
    """Return what the options mean; samples_shape says the shift of the resolution."""
    schedule = Flow(num_train_timesteps=1)
    tokens, shift, terminal = tokens_of(samples_shape), 1.0, None
    if tokens is not None and c.shifting == "SD3":
        low, high, terminal = SD3_TOKENS, SD3_SHIFTS, c.target_shift_terminal
        slope = (high[1] - high[0]) / (low[1] - low[0])
        shift = math.exp(high[0] + slope * (tokens - low[0]))
    elif tokens is not None and c.shifting == "SimpleDiffusion":
        shift = tokens / c.base_resolution
    where = RectifiedSteps(
        schedule=schedule,
        end=schedule.point(0.0, 0.0),
        train=c.num_train_timesteps,
        repeats_end=True,
        rule=c.sampler,
        constant=c.shift,
        shift=shift,
        terminal=terminal,
    )
    return Recipe("euler", where, Prediction("flow_prediction"))


def has_shift(c: FrozenDict) -> None:
    """Raise where a rule misses what it needs."""
    if c.sampler == "Constant" and c.shift is None:
        raise ValueError('sampler="Constant" needs shift=')
    terminal = c.target_shift_terminal
    if terminal is not None and not 0.0 < terminal < 1.0:
        raise ValueError(f"target_shift_terminal must lie in (0, 1), got {terminal}")


@unlisted
class RectifiedFlowScheduler(SchedulerMixin):
    """Euler's method on a flow, with LTX-Video's placement of times; see the Flax class."""

    options: ClassVar = {
        **BETA_OPTIONS,
        "rescale_betas_zero_snr": False,
        "shifting": None,
        "base_resolution": 32**2,
        "target_shift_terminal": None,
        "sampler": "Uniform",
        "shift": None,
    }
    rules: ClassVar = {
        **RULES,
        "base_resolution": Rule(above=0.0),
        "shift": Rule(kind=1.0),
        "target_shift_terminal": Rule(kind=0.1),
    }
    choices: ClassVar = {
        "sampler": ("Uniform", "LinearQuadratic", "Constant"),
        "shifting": (None, "SD3", "SimpleDiffusion"),
        "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    }
    relations = (has_shift,)
    step_options: ClassVar = {"return_dict": True}
    meaning = staticmethod(rectified_flow)

    alphas_cumprod, alphas, betas = tables_of(vp_betas)


class FlaxRectifiedFlowMultistepScheduler(FlaxStepScheduler):
    """MaxDiffusion's scheduler of LTX-Video: x - (t - t') v, each token at a time of its own.

    sampler: where n times lie, "Uniform" from 1 to 1 / n, "LinearQuadratic" (even to 0.975, then
    quadratic), "Constant" (uniform, then shifted by e^shift). shifting: by the number of tokens of
    the `samples_shape` of `set_timesteps`, "SD3" (arXiv:2403.03206, section 5.3.2, then stretched
    to end at target_shift_terminal) or "SimpleDiffusion" (arXiv:2301.11093, of base_resolution
    tokens). The betas are for `state.common`; no step looks at them.
    """

    named = RectifiedFlowScheduler
    shown = ()
    order = 1
    step_options: ClassVar = {
        "return_dict": True,
        "stochastic_sampling": False,
        "generator": None,
    }

    @classmethod
    def _renewed(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options without those that files write null for."""
        renewed = super()._renewed(options)
        if renewed.get("base_resolution", 0) is None:
            del renewed["base_resolution"]
        return renewed

    @staticmethod
    def from_pretrained_jax(
        pretrained_model_path: str | Path,
    ) -> "FlaxRectifiedFlowMultistepScheduler":
        """Return the scheduler, without a state, of a model's folder or its safetensors file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file has no configuration of a scheduler.
        """
        path, cls = Path(pretrained_model_path), FlaxRectifiedFlowMultistepScheduler
        if path.is_dir():
            made: Any = cls.from_pretrained(path, subfolder="scheduler")[0]
        else:
            made = cls.from_config(scheduler_config(path))
        return made  # type: ignore[no-any-return]

    def create_state(self, common: Any = None) -> FlaxSchedulerState:
        """Return a state without timesteps; see `FlaxScheduler.create_state`."""
        return super().create_state(common).replace(timesteps=None)

    def set_timesteps(  # type: ignore[override]
        self,
        state: FlaxSchedulerState,
        num_inference_steps: int | None = None,
        samples_shape: tuple[int, ...] | None = None,
        timesteps: Array | None = None,
        device: Any = None,
    ) -> FlaxSchedulerState:
        """Return the state at the start of a run.

        Args:
            state: any state of this scheduler.
            num_inference_steps: the number of steps, at most num_train_timesteps.
            samples_shape: of the samples, by which `shifting` shifts.
            timesteps: explicit times in (0, 1], in place of the number.
            device: not used; arrays are where JAX puts them.

        Raises:
            ValueError: not exactly one of the number and timesteps; a shape of another length.
        """
        shape = None if samples_shape is None else tuple(samples_shape)
        run: Mapping[str, Any] = {"timesteps": timesteps, "samples_shape": shape}
        plan = self._named.plan(count_of(num_inference_steps), **run)
        times = jnp.array([p.t for p in plan.grid.points[:-1]], self.dtype)
        made = self._state(plan, state.common)
        return made.replace(timesteps=times, sigmas=jnp.array(times))

    def step(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        timestep: Any,
        sample: Array,
        return_dict: bool = True,
        stochastic_sampling: bool = False,
        generator: Any = None,
    ) -> Any:
        """Take one step: from any time to the next listed one below it.

        Args:
            state: the present state; only `timestep` says where it is.
            model_output: the network's velocity, noise - data.
            timestep: a number, or an array of shape (), (batch,) or (batch, tokens).
            sample: the present sample.
            return_dict: whether to return an object, or (prev_sample, state).
            stochastic_sampling: whether to go to the data at once, and noise up to the next time.
            generator: the JAX key of that noise.

        Raises:
            ValueError: `set_timesteps` was not called; shapes; no generator for the noise.
        """
        if state.plan is None or state.timesteps is None:
            raise ValueError(
                "the state has no timesteps yet: call state = scheduler.set_timesteps(state,"
                " num_inference_steps) before the loop"
            )
        self._with(state.plan)
        sample, output = self._widened(sample, model_output)
        if output.shape != sample.shape:
            raise ValueError(f"model_output has shape {output.shape}, the sample {sample.shape}")
        now = jnp.asarray(timestep, JAX.accumulation(sample.dtype))
        if now.shape != sample.shape[: now.ndim]:
            raise ValueError(
                "timestep must be one number, one per row or one per token"
                f" {tuple(sample.shape[:2])}, got shape {now.shape}"
            )
        if stochastic_sampling and generator is None:
            raise ValueError("stochastic_sampling needs generator=, a JAX key of this step")
        now, then = (_ahead(t, sample) for t in (now, _below(state.timesteps, now)))
        if stochastic_sampling:
            noise = jax.random.normal(generator, sample.shape, self.dtype)
            x = (1 - then) * (sample - now * output) + then * noise
        else:
            x = sample - (now - then) * output
        out = self.output_class(x.astype(sample.dtype), state)
        return out if return_dict else out.to_tuple()

    def add_noise(self, state: Any, original_samples: Array, noise: Array, timesteps: Any) -> Array:
        """Return (1 - t) x0 + t noise at times in [0, 1]: one, one per row or per token."""
        x, noise = self._widened(original_samples, noise)
        t = _ahead(jnp.asarray(timesteps, JAX.accumulation(x.dtype)), x)
        return ((1 - t) * x + t * noise).astype(x.dtype)


def _below(times: Array, now: Array) -> Array:
    """Return the highest of the times below each of `now`, 0 where there is none."""
    lower = times.astype(now.dtype) < now[..., None] - 1e-6
    return jnp.max(jnp.where(lower, times.astype(now.dtype), 0), axis=-1)


def _ahead(values: Array, like: Array) -> Array:
    """Return an array shaped to multiply another one, of which it has the first axes."""
    return values.reshape(*values.shape, *(1,) * (like.ndim - values.ndim))


def scheduler_config(path: Path) -> dict[str, Any]:
    """Return the scheduler's configuration in the metadata of a safetensors file.

    Raises:
        ValueError: there is none.
    """
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(size)).get("__metadata__", {})
    config = json.loads(metadata.get("config", "{}")).get("scheduler")
    if config is None:
        raise ValueError(f"{path} has no configuration of a scheduler in its metadata")
    return config  # type: ignore[no-any-return]
