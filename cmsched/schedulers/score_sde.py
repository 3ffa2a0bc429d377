"""The score SDEs (arXiv:2011.13456)."""

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .. import engine
from ..backends import resolve
from ..discretizations import Discretization
from ..engine.checks import check_like
from ..engine.values import size_of
from ..frozen import FrozenDict
from ..grids import Grid
from ..plan import Plan, make_plan
from ..predictions import Prediction
from ..recipe import Recipe
from ..samplers.formulas import langevin_step
from ..schedules import VESDE, VPSDE, Point
from .base import UNSET, like_single
from .options import in_order
from .outputs import SchedulerOutput, SdeVeOutput
from .parts import PartsMixin, exploded, increasing_levels

__all__ = ["ScoreSdeVeScheduler", "ScoreSdeVpScheduler"]

Array = Any


@dataclass(frozen=True, kw_only=True)
class EvenTimes(Discretization):
    """Times even from 1 to the last one, at the schedule's levels.

    Args:
        last: the time where the last step starts.
    """

    last: float

    def times(self, n: int) -> list[float]:
        """Return n times."""
        found: list[float] = np.linspace(1.0, self.last, n).tolist()
        return found

    def points(self, n: int) -> list[Point]:
        """Return the points at n times."""
        return [self.schedule.at(t=t) for t in self.times(n)]

    def training(self) -> list[Point]:
        """Return the points of as many times as there are training steps."""
        return self.points(self.train)


@dataclass(frozen=True, kw_only=True)
class LevelsAtTimes(EvenTimes):
    """Levels geometric from end to end (arXiv:2011.13456, eq. 47), at even times.

    Args:
        high: the first level.
        low: the last one.
        one_is_least: whether one level is the least noisy, as in the reference.
    """

    high: float
    low: float
    one_is_least: bool = False

    def points(self, n: int) -> list[Point]:
        """Return the points at n levels."""
        levels = np.geomspace(self.high, self.low, n).tolist()
        if n == 1 and self.one_is_least:
            levels = [self.low]
        pairs = zip(levels, self.times(n), strict=True)
        return [self.schedule.point(s, t) for s, t in pairs]


@dataclass(frozen=True)
class OneOverN:
    """The length of a step that is one part of n, wherever the times lie, as in the reference."""

    def __call__(self, grid: Grid) -> float:
        """Return it."""
        return 1 / len(grid)


def score_sde_ve(c: FrozenDict, reference: bool, *, sampling_eps: float | None = None) -> Recipe:
    """Return what the options of the variance-exploding SDE mean.

    sampling_eps: the last time, in place of the configured one.
    """
    high, low = float(c.sigma_max), float(c.sigma_min)
    schedule = VESDE(sigma_min=low, sigma_max=high)
    where = LevelsAtTimes(
        schedule=schedule,
        end=schedule.point(0.0, 0.0),
        train=c.num_train_timesteps,
        repeats_end=reference,
        last=last_time(c, sampling_eps),
        high=c.sigma_max,
        low=c.sigma_min,
        one_is_least=reference,
    )
    start = AtTimeOne(high)
    if c.correct_steps == 0:
        return Recipe("ddpm", where, Prediction("score"), {"variance": "fixed_large"}, start)
    options = {name: c[name] for name in ("snr", "correct_steps", "per_sample")}
    return Recipe("predictor_corrector", where, Prediction("score"), options, start)


def last_time(c: FrozenDict, sampling_eps: float | None = None) -> float:
    """Return the time where the last step starts."""
    eps = c.sampling_eps if sampling_eps is None else sampling_eps
    if not 0 < eps < 1:
        raise ValueError(f"sampling_eps must lie in (0, 1), got {eps!r}")
    return float(eps)


@dataclass(frozen=True)
class AtTimeOne:
    """The scale of the noise that a run from time 1 starts from; others start from sigma."""

    scale: float

    def __call__(self, first: Point) -> float:
        """Return the scale."""
        return self.scale if first.t == 1.0 else first.sigma


def score_sde_vp(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of the variance-preserving SDE mean."""
    schedule = VPSDE(beta_min=float(c.beta_min), beta_max=float(c.beta_max))
    where = EvenTimes(
        schedule=schedule,
        end=schedule.point(0.0, 0.0),
        train=c.num_train_timesteps,
        repeats_end=reference,
        last=last_time(c),
    )
    options = {"dt": OneOverN()} if reference else {}
    return Recipe("euler_maruyama", where, Prediction("epsilon"), options)


@lru_cache(maxsize=16)
def predictor(plan: Plan) -> Plan:
    """Return the plan whose rows are the predictor's steps, with a corrector or without."""
    if plan.sampler != "predictor_corrector":
        return plan
    return make_plan("ddpm", plan.grid, plan.prediction, {"variance": "fixed_large"})


def predicted(
    scheduler: PartsMixin, output: Array, timestep: Any, sample: Array, generator: Any
) -> tuple[Array, Array]:
    """Return the sample after the step from a time, and its mean.

    At an array of times, one per row, each row takes its own step.
    """
    backend = resolve(sample)
    state = engine.State(sample, (), scheduler.step_at(sample, timestep))
    mean, std = engine.transition(predictor(scheduler.required().plan), state, output)
    if isinstance(std, float) and std == 0.0:
        x = backend.copy(mean)
    else:
        x = mean + std * backend.astype(scheduler.normal(sample, generator), mean.dtype)
    return backend.astype(x, sample.dtype), backend.astype(mean, sample.dtype)


class ScoreSdeVeScheduler(PartsMixin):
    """Predictor and Langevin corrector of the variance-exploding SDE (arXiv:2011.13456, alg. 2).

    The network says the score. Those of the field are told the level, `sigmas`, and `plan` gives
    them the time t in [sampling_eps, 1]: sigma_min (sigma_max / sigma_min)^t. At each time:

        for _ in range(scheduler.config.correct_steps):
            x = scheduler.step_correct(model(x, sigma), x).prev_sample
        out = scheduler.step_pred(model(x, sigma), t, x)
        x = out.prev_sample

    The last step draws nothing: what remains to be added there is noise of the data's own.
    `plan` has no rows where correct_steps > 0, since Langevin steps are as long as the network
    says; `cmsched.sample` runs it.
    """

    meanings: ClassVar = {
        "num_train_timesteps": "steps of the training; only `len(scheduler)` and tables show it.",
        "sigma_min": "level at time 0; levels are geometric between the two.",
        "sigma_max": "level at time 1, where runs start: the largest distance of two data.",
        "sampling_eps": "the last time, in (0, 1); the reference repeats levels where it is "
        "not below 1 / n.",
    }
    options: ClassVar = {
        "num_train_timesteps": 2000,
        "snr": 0.15,
        "sigma_min": 0.01,
        "sigma_max": 1348.0,
        "sampling_eps": 1e-5,
        "correct_steps": 1,
    }
    hidden_options: ClassVar = {"per_sample": False}
    timesteps_options: ClassVar = {
        "num_inference_steps": UNSET,
        "sampling_eps": None,
        "device": None,
    }
    relations = (in_order("sigma_min", "sigma_max"),)
    ready = True  # as in the reference, a new object is ready for the longest run
    meaning = staticmethod(score_sde_ve)

    def set_sigmas(
        self,
        num_inference_steps: int,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sampling_eps: float | None = None,
    ) -> None:
        """Set the levels of a run, where they are not those of the configuration.

        `set_timesteps` has set these already; here the times of a run of as many steps stay.
        """
        have = None if self.timeline is None else self.timeline.plan.grid
        if have and sampling_eps is None and len(have) == num_inference_steps > 1:
            sampling_eps = have.points[-2].t
        ends = {"sigma_min": sigma_min, "sigma_max": sigma_max}
        ends = {name: value for name, value in ends.items() if value is not None}
        other = copy.copy(self)
        other.register_to_config(**ends)
        timeline = self.timeline_of(other.plan(num_inference_steps, sampling_eps=sampling_eps))
        self.set_times(resolve(self.timesteps), timeline.times, None)
        self.restart(timeline)

    @property
    def sigmas(self) -> Array:
        """The level of every time, decreasing, which networks of the field are told."""
        levels, times = increasing_levels(self), self.required().times
        if len(levels) > 1:
            low, high = levels[[0, -1]]
            levels = low * (high / low) ** times
        return self.show(levels)

    @property
    def discrete_sigmas(self) -> Array:
        """The levels of the steps, increasing."""
        return self.show(increasing_levels(self))

    def get_adjacent_sigma(self, timesteps: Array, t: Array) -> Array:
        """Return the level below each of these numbers of levels, 0 below number 0, beside t."""
        backend = resolve(t)
        levels = np.array([0.0, *increasing_levels(self)])
        below = backend.to_device_of(levels, t, backend.accumulation(t.dtype))
        found = backend.xp.take(below, backend.xp.reshape(timesteps, (-1,)))
        return backend.xp.reshape(found, tuple(timesteps.shape))

    def step_pred(
        self,
        model_output: Array,
        timestep: Any,
        sample: Array,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Take the predictor's step from a time to the next (eq. 46).

        Args:
            model_output: the network's output, like sample.
            timestep: an entry of `timesteps`, or an array of them, one per row.
            sample: the present sample, of any framework.
            generator: where noise comes from; see `SchedulerMixin.step`.
            return_dict: False for a tuple.
        """
        both = predicted(self, model_output, timestep, sample, generator)
        return SdeVeOutput(*both) if return_dict else both

    def step_correct(
        self, model_output: Array, sample: Array, generator: Any = None, return_dict: bool = True
    ) -> Any:
        """Take a Langevin step at the present level (algorithm 4); arguments as in `step_pred`."""
        self.required()
        backend, config = resolve(sample), self.filled_config
        check_like(backend, sample, "model_output", model_output)
        acc = backend.accumulation(sample.dtype)
        over = "sample" if config.per_sample else "batch"
        score = backend.astype(model_output, acc)
        like = like_single(sample) if self.as_reference else sample  # its noise is of float32
        z = backend.astype(self.normal(like, generator), acc)
        size = config.snr * size_of(backend, z, over) / size_of(backend, score, over)
        x = backend.astype(langevin_step(backend.astype(sample, acc), score, z, size), sample.dtype)
        return SchedulerOutput(x) if return_dict else (x,)

    def add_noise(self, original_samples: Array, noise: Array, timesteps: Any) -> Array:
        """Return x0 + sigma noise; timesteps are numbers of `discrete_sigmas`, one or one per row.

        With noise=None it is drawn from fresh entropy.
        """
        sigma = self.numbered(original_samples, "sigmas", increasing_levels(self), timesteps)
        noise = self.normal(original_samples, None) if noise is None else noise
        return exploded(original_samples, noise, sigma)


class ScoreSdeVpScheduler(PartsMixin):
    """Euler-Maruyama for the variance-preserving SDE (arXiv:2011.13456, appendix E).

    The network says the noise. Steps go from each time to the next and the last to 0, without
    noise; with compatibility="diffusers" they are all 1 / n long, wherever the times lie.
    """

    meanings: ClassVar = {
        "num_train_timesteps": "steps of the training; only `len(scheduler)` and tables show it.",
    }
    options: ClassVar = {
        "num_train_timesteps": 2000,
        "beta_min": 0.1,
        "beta_max": 20.0,
        "sampling_eps": 1e-3,
    }

    relations = (in_order("beta_min", "beta_max"),)
    meaning = staticmethod(score_sde_vp)

    def step_pred(
        self, score: Array, x: Array, t: Any, generator: Any = None
    ) -> tuple[Array, Array]:
        """Take a step from a time to the next; return the sample and its mean.

        Args:
            score: the network's output, like x: the noise, minus the score times sigma.
            x: the present sample, of any framework.
            t: an entry of `timesteps`, or an array of them, one per row.
            generator: where noise comes from; see `SchedulerMixin.step`.
        """
        return predicted(self, score, t, x, generator)
