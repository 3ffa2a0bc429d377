"""MaxDiffusion's scheduler of flows: where its steps lie, and the class around that."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from .. import spacings
from ..discretizations import Discretization
from ..entries import entry_table
from ..frozen import FrozenDict
from ..plan import make_plan
from ..predictions import Prediction
from ..recipe import Recipe
from ..schedulers import SchedulerMixin
from ..schedulers.options import RULES, Rule
from ..schedules import Flow, Point
from .flax_base import count_of, unlisted
from .flax_state import FlaxSchedulerState
from .flax_step import FlaxStepScheduler, placed

__all__ = ["FlaxFlowMatchScheduler"]

Array = Any


@dataclass(frozen=True, kw_only=True)
class FlowMatchSteps(Discretization):
    """Sigmas even between two levels, then shifted, turned round and stretched, in this order.

    Args:
        high: the first sigma before the shift.
        low: the last one.
        shift: to more noise, shift s / (1 + (shift - 1) s).
        extra: leave out the lowest of n + 1 sigmas.
        reverse: take 1 - sigma of the shifted ones; with `upward` alone their order turns.
        terminal: stretch the sigmas about 1 to end there.
        moves_lists: whether explicit lists are sigmas before the shift, and not the levels.
    """

    high: float
    low: float
    shift: float
    extra: bool = False
    reverse: bool = False
    terminal: float | None = None
    moves_lists: bool = False

    def points(self, n: int) -> list[Point]:
        """Return the n points where steps start."""
        sigmas = np.linspace(self.high, self.low, n + self.extra)[:n]
        return self.at_sigmas(self.moved(sigmas))

    def moved(self, sigmas: np.ndarray) -> np.ndarray:
        """Return sigmas shifted, turned round and stretched."""
        sigmas = spacings.shifted(sigmas, self.shift)
        if self.reverse:
            sigmas = 1 - sigmas
        elif self.upward:
            sigmas = sigmas[::-1]
        return spacings.stretched(sigmas, self.terminal) if self.terminal else sigmas

    def at_sigmas(self, sigmas: np.ndarray) -> list[Point]:
        """Return the points at these sigmas."""
        return [self.schedule.at(sigma=s) for s in sigmas.tolist()]

    def training(self) -> list[Point]:
        """Return the points of as many steps as there are training steps."""
        return self.points(self.train)

    def at_times(self, times: list[float]) -> list[Point]:
        """Return the points at explicit model times."""
        return self.at_levels([t / self.train for t in times], self.end)

    def at_levels(self, levels: list[float], end: Point) -> list[Point]:
        """Return the points at explicit sigmas, from noise to data."""
        sigmas = np.array(levels)
        if not 0.0 <= sigmas[-1] <= sigmas[0] <= 1.0:
            raise ValueError(f"sigmas of a flow lie in [0, 1], got {levels}")
        if self.moves_lists:
            return self.at_sigmas(self.moved(sigmas))
        return self.at_sigmas(sigmas[::-1] if self.upward else sigmas)


def flow_match(
    c: FrozenDict,
    reference: bool,
    *,
    shift: float | None = None,
    denoising_strength: float = 1.0,
    moves_lists: bool = False,
) -> Recipe:
    """Return what the options mean; shift is in place of the option, or with dynamic shifts mu."""
    train = c.num_train_timesteps
    schedule = Flow(num_train_timesteps=train)
    shift = float(c.shift if shift is None else shift)
    if c.use_dynamic_shifting:
        shift = spacings.SHIFTS[c.time_shift_type](shift)
    upward = bool(c.inverse_timesteps or c.reverse_sigmas)
    where = FlowMatchSteps(
        schedule=schedule,
        end=schedule.at(sigma=1.0) if upward else schedule.point(0.0, 0.0),
        train=train,
        upward=upward,
        repeats_end=True,
        high=c.sigma_min + (c.sigma_max - c.sigma_min) * denoising_strength,
        low=float(c.sigma_min),
        shift=shift,
        extra=bool(c.extra_one_step),
        reverse=bool(c.reverse_sigmas),
        terminal=c.shift_terminal,
        moves_lists=moves_lists,
    )
    # DDIM's step is Euler's along a flow, and begins at sigma = 0 as well
    return Recipe("ddim", where, Prediction("flow_prediction"))


def one_turn(c: FrozenDict) -> None:
    """Raise where the order of the levels is turned twice, or stretched where it is turned."""
    if c.inverse_timesteps and c.reverse_sigmas:
        raise ValueError(
            "inverse_timesteps and reverse_sigmas both turn the levels round; use one of them"
        )
    if c.shift_terminal and (c.inverse_timesteps or c.reverse_sigmas):
        raise ValueError(
            "shift_terminal stretches levels that go down; leave inverse_timesteps and"
            " reverse_sigmas out"
        )
    if not c.sigma_min < c.sigma_max:
        raise ValueError(f"sigma_max={c.sigma_max} must be above sigma_min={c.sigma_min}")


@unlisted
class FlowMatchScheduler(SchedulerMixin):
    """Euler's method on a flow, with MaxDiffusion's placement of sigmas; see the Flax class."""

    options: ClassVar = {
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "sigma_max": 1.0,
        "sigma_min": 0.003 / 1.002,
        "inverse_timesteps": False,
        "extra_one_step": False,
        "reverse_sigmas": False,
        "use_dynamic_shifting": False,
        "time_shift_type": "exponential",
        "shift_terminal": None,
        "base_shift": 0.95,
        "max_shift": 2.05,
        "base_image_seq_len": 1024,
        "max_image_seq_len": 4096,
    }
    rules: ClassVar = {
        **RULES,
        "sigma_min": Rule(least=0.0, most=1.0),
        "sigma_max": Rule(above=0.0, most=1.0),
    }
    relations = (one_turn,)
    step_options: ClassVar = {"return_dict": True}
    meaning = staticmethod(flow_match)


class FlaxFlowMatchScheduler(FlaxStepScheduler):
    """MaxDiffusion's scheduler of flows (Wan, LTX-2, Flux.2): x + v (sigma' - sigma).

    n steps start at sigmas even from sigma_max (with denoising_strength, from that part of the way
    to it) to sigma_min, with extra_one_step before it, then shifted: shift s / (1 + (shift - 1) s).
    The last step ends at 0. reverse_sigmas takes 1 - sigma of these, inverse_timesteps turns their
    order: both go up to 1 (data to noise). use_dynamic_shifting: the shift is e^shift
    ("exponential") of the `shift` that `set_timesteps` is given. shift_terminal stretches the
    levels about 1 to end there. base_shift, max_shift, base_image_seq_len and max_image_seq_len
    are for pipelines, which compute that shift from them.
    """

    named = FlowMatchScheduler
    shown = ()
    step_options: ClassVar = {"to_final": False, "return_dict": True, "step_index": None}

    def create_state(self, common: Any = None) -> FlaxSchedulerState:
        """Return a state without timesteps; this class has no `common`."""
        if common is not None:
            self._check_common(common, None)
        return FlaxSchedulerState.create(init_noise_sigma=jnp.ones((), self.dtype))

    def set_timesteps(  # type: ignore[override]
        self,
        state: FlaxSchedulerState,
        num_inference_steps: int | None = 100,
        shape: tuple[int, ...] | None = None,
        denoising_strength: float = 1.0,
        training: bool = False,
        shift: float | None = None,
        timesteps: Array | None = None,
        sigmas: Array | None = None,
        *,
        moves_lists: bool = False,
    ) -> FlaxSchedulerState:
        """Return the state at the start of a run.

        Args:
            state: any state of this scheduler.
            num_inference_steps: the number of steps; without effect beside a list.
            shape: not used, nothing is stored.
            denoising_strength: in (0, 1], how far up from sigma_min to sigma_max to begin.
            training: whether to make the weights of the loss, `linear_timesteps_weights`.
            shift: in place of the option.
            timesteps: explicit times, num_train_timesteps sigma; beside sigmas what the network is
                told at these.
            sigmas: explicit levels as they are.
            moves_lists: whether these are sigmas before the shift (`set_timesteps_ltx2`).

        Raises:
            ValueError, TypeError: lists that do not go one way within [0, 1], or differ in length.
        """
        if not 0.0 < denoising_strength <= 1.0:
            raise ValueError(f"denoising_strength must lie in (0, 1], got {denoising_strength}")
        run = {
            "shift": None if shift is None else float(shift),
            "denoising_strength": float(denoising_strength),
            "moves_lists": moves_lists,
        }
        if sigmas is not None:
            plan = self._named.plan(sigmas=sigmas, **run)
        elif timesteps is not None:
            plan = self._named.plan(timesteps=timesteps, **run)
        else:
            plan = self._named.plan(count_of(num_inference_steps), **run)
        points = plan.grid.points[:-1]
        levels = jnp.array([p.sigma for p in points], self.dtype)
        times = jnp.array([p.t for p in points], self.dtype)
        if timesteps is not None and (sigmas is not None or moves_lists):
            times = jnp.asarray(timesteps, self.dtype)
            if times.shape != levels.shape:
                raise ValueError(
                    f"timesteps has shape {times.shape}, sigmas {levels.shape}: give one each step"
                )
        weights = self._calculate_training_weights(times, len(points)) if training else None
        made = self._state(plan, None)
        return made.replace(
            sigmas=levels,
            timesteps=times,
            linear_timesteps_weights=weights,
            training=bool(training),
        )

    def set_timesteps_ltx2(
        self, state: FlaxSchedulerState, *args: Any, **kwargs: Any
    ) -> FlaxSchedulerState:
        """Do what `set_timesteps` does, where explicit lists are sigmas before the shift.

        The network is told timesteps as they are given.
        """
        return self.set_timesteps(state, *args, **kwargs, moves_lists=True)

    # what a step is at

    def _find_timestep_id(self, state: FlaxSchedulerState, timestep: Any) -> Array:
        """Return the number of the nearest timestep, of shape () or (batch,)."""
        if state.timesteps is None:
            raise ValueError(
                "the state has no timesteps yet: call state = scheduler.set_timesteps(state,"
                " num_inference_steps) before"
            )
        times = jnp.asarray(timestep, state.timesteps.dtype)
        if times.ndim > 1:
            raise ValueError(f"timestep must be one number or one per row, got {times.shape}")
        return jnp.argmin(jnp.abs(state.timesteps - times[..., None]), axis=-1)

    def step(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        timestep: Any,
        sample: Array,
        to_final: bool = False,
        return_dict: bool = True,
        step_index: Any = None,
    ) -> Any:
        """Take one step from the nearest timestep, one for all rows or one per row.

        Args:
            state: the present state; only `timestep` says where it is.
            model_output: the network's velocity, noise - data.
            timestep: a number, or an array of shape () or (batch,).
            sample: the present sample.
            to_final: whether to go to the end at once.
            return_dict: whether to return an object, or (prev_sample, state).
            step_index: the number of the entry, in place of timestep.

        Raises:
            ValueError, TypeError: `set_timesteps` was not called; shapes.
        """
        index = step_index
        if index is None:
            index = self._find_timestep_id(state, timestep)
        index = jnp.asarray(index, jnp.int32)
        sample, model_output = self._widened(sample, model_output)
        table, _ = self._time_table(state, sample)
        if to_final:
            table = self._to_final(state.plan, table.numbers.dtype)
        after = self._advance(table, (), index, None, sample, model_output, None)
        if index.ndim == 0:
            state = state.replace(index=after.index)
        out = self.output_class(after.sample, state)
        return out if return_dict else out.to_tuple()

    def _to_final(self, plan: Any, acc: Any) -> Any:
        """Return the table whose steps all end where the run does."""
        grid = plan.grid
        ends = grid.points[-1:] * len(grid)
        whole = make_plan(plan.sampler, replace(grid, ends=ends), plan.prediction, {})
        return placed(entry_table(whole), acc)

    def return_to_timestep(
        self, state: FlaxSchedulerState, timestep: Any, sample: Array, sample_stablized: Array
    ) -> Array:
        """Return the velocity that leads from a cleaner sample back to this one."""
        sigma = self._sigma(state, timestep, sample)
        return (sample - sample_stablized) / sigma

    def _sigma(self, state: FlaxSchedulerState, timesteps: Any, like: Array) -> Array:
        """Return sigma at the nearest timesteps, shaped to multiply `like`."""
        number = self._find_timestep_id(state, timesteps)
        return beside(state.sigmas[number], like)  # type: ignore[index]

    # training

    def add_noise(
        self, state: FlaxSchedulerState, original_samples: Array, noise: Array, timesteps: Any
    ) -> Array:
        """Return (1 - sigma) x0 + sigma noise at the nearest timesteps: one, or one per row."""
        sigma = self._sigma(state, timesteps, original_samples)
        return (1 - sigma) * original_samples + sigma * noise

    def training_target(self, sample: Array, noise: Array, *args: Any, **kwargs: Any) -> Array:
        """Return what the network is to say: noise - sample."""
        return noise - sample

    def training_weight(self, state: FlaxSchedulerState, timestep: Any) -> Array:
        """Return the weights of the loss at the nearest timesteps.

        Raises:
            ValueError: `set_timesteps` was called without training=True.
        """
        number = self._find_timestep_id(state, timestep)
        if state.linear_timesteps_weights is None:
            raise ValueError("there are no weights: call set_timesteps(..., training=True)")
        return state.linear_timesteps_weights[number]

    def sample_timesteps(self, timestep_rng: Array, batch_size: int) -> Array:
        """Return times uniform in [0, 1], shifted, in training steps, (batch,); () for one."""
        t = jax.random.uniform(timestep_rng, (batch_size,))
        shift = self.config.shift
        return (t * shift / (1 + (shift - 1) * t)).squeeze() * self.config.num_train_timesteps

    def apply_flow_match(
        self, noise: Array, batch_images: Array, timesteps: Array
    ) -> tuple[Array, Array, Array]:
        """Return the noisy samples, the targets and the weights of the loss, without a state.

        sigma is t / num_train_timesteps between sigma_min and sigma_max.
        """
        config, train = self.config, self.config.num_train_timesteps
        part = beside(jnp.asarray(timesteps).astype(jnp.float32) / train, batch_images)
        sigma = (1 - part) * config.sigma_min + part * config.sigma_max
        noisy = (1 - sigma) * batch_images + sigma * noise
        weights = self._calculate_training_weights(timesteps, train)
        return noisy, self.training_target(batch_images, noise), weights

    def _calculate_training_weights(self, timesteps: Array, num_inference_steps: int) -> Array:
        """Return weights of mean 1 that follow a bell over times, from 0 at the least of them."""
        n = num_inference_steps
        bell = jnp.exp(-2 * ((timesteps - n / 2) / n) ** 2)
        bell = bell - jnp.min(bell)
        return bell * (n / jnp.sum(bell))


def beside(values: Array, like: Array) -> Array:
    """Return values, one or one per row, shaped to multiply an array."""
    return values.reshape(-1, *(1,) * (like.ndim - 1)) if values.ndim else values
