"""Score SDEs (arXiv:2011.13456) and stochastic Heun on EDM's VE levels (arXiv:2206.00364)."""

import copy
from typing import Any, ClassVar

import numpy as np

from .. import engine
from ..backends import resolve
from ..engine.checks import check_like
from ..engine.rows import size_of
from ..plan import Plan, make_plan
from ..predictions import Prediction
from ..samplers.first_order import churn
from ..samplers.formulas import langevin
from ..schedules import VESDE, VPSDE, Identity, Point, Schedule
from ..spacings import Walk
from .base import UNSET, LevelsMixin, one_time, times_beside
from .config import FrozenDict
from .outputs import SchedulerOutput
from .parts import PartsMixin
from .plans import check_kind

__all__ = [
    "KarrasVeOutput",
    "KarrasVeScheduler",
    "ScoreSdeVeScheduler",
    "ScoreSdeVpScheduler",
    "SdeVeOutput",
]

Array = Any


class KarrasVeOutput(SchedulerOutput):
    """Output of `KarrasVeScheduler.step` and `step_correct`.

    Args:
        prev_sample: the sample at the next level.
        derivative: d x / d sigma at the first evaluation, like the sample.
        pred_original_sample: the estimate x0, like the sample.
    """

    fields = ("prev_sample", "derivative", "pred_original_sample")


class SdeVeOutput(SchedulerOutput):
    """Output of `ScoreSdeVeScheduler.step_pred`.

    Args:
        prev_sample: the sample at the next level.
        prev_sample_mean: the same without the noise of this step.
    """

    fields = ("prev_sample", "prev_sample_mean")


def positive(config: FrozenDict, *names: str) -> None:
    """Raise unless these options are positive and in order."""
    for name in names:
        if not config[name] > 0:
            raise ValueError(f"{name} must be positive, got {config[name]}")
    low, high = names[:2]
    if not config[low] < config[high]:
        raise ValueError(f"{high}={config[high]} must be above {low}={config[low]}")


def number_or_rows(like: Array, name: str, value: Any) -> Any:
    """Return a number, or an array of one number or one per row shaped to multiply `like`."""
    if not hasattr(value, "shape") or isinstance(value, np.generic):
        number = one_time(value, name)
        check_kind(name, number, 1.0)
        return number
    rows = times_beside(like, value, lambda host: None, name)
    return resolve(like).xp.reshape(rows, (-1, *(1,) * (len(like.shape) - 1)) if like.shape else ())


class KarrasVeScheduler(PartsMixin):
    """Heun's method with churn on EDM's VE levels (arXiv:2206.00364, table 1, algorithm 2).

    The network says sigma times the score, which is minus the noise, and is told the level sigma;
    `plan` gives it that as the time. `timesteps` count down to 0 and number entries of `schedule`:

        for t in scheduler.timesteps:
            sigma, following = schedule[t], schedule[t - 1] if t > 0 else 0
            hat, sigma_hat = scheduler.add_noise_to_input(x, sigma)
            out = scheduler.step(model(hat, sigma_hat), sigma_hat, following, hat)
            x = out.prev_sample
            if t > 0:
                out = scheduler.step_correct(
                    model(x, following), sigma_hat, following, hat, x, out.derivative
                )
                x = out.prev_sample

    With compatibility="diffusers" the levels are the squares of the paper's.

    Options:
        sigma_min, sigma_max: ends of the levels, geometric between.
        s_churn, s_noise: amount and size of the noise added before a step.
        s_min, s_max: levels between which it is added.
    """

    order = 2
    options: ClassVar = {
        "sigma_min": 0.02,
        "sigma_max": 100.0,
        "s_noise": 1.007,
        "s_churn": 80.0,
        "s_min": 0.05,
        "s_max": 50.0,
    }
    whole_times = False
    limited = False

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        positive(config, "sigma_min", "sigma_max")
        for name in ("s_noise", "s_churn", "s_min", "s_max"):
            if not config[name] >= 0:
                raise ValueError(f"{name} must not be negative, got {config[name]}")

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "heun", {
            "s_churn": config.s_churn,
            "s_tmin": config.s_min,
            "s_tmax": config.s_max,
            "s_noise": config.s_noise,
        }

    def _schedule(self, config: FrozenDict) -> Identity:
        return Identity()

    def _prediction(self, config: FrozenDict) -> Prediction:
        return Prediction("scaled_score")

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        levels = np.geomspace(config.sigma_max, config.sigma_min, n)
        levels = levels**2 if self._copies else levels
        return [self._schedule(config).at(sigma=s) for s in levels.tolist()]

    def _init_scale(self, config: FrozenDict, first: Point) -> float:
        whole = first.sigma == self._points(config, 1)[0].sigma
        return float(config.sigma_max) if whole else first.sigma

    def _times_of(self, plan: Plan) -> np.ndarray:
        return np.arange(len(plan.grid) - 1, -1, -1)

    def _exposed(self, point: Point) -> float:
        return point.sigma

    @property
    def _table(self) -> np.ndarray:
        return np.array([p.sigma for p in self._set().grid.points[-2::-1]])

    @property
    def schedule(self) -> Any:
        """The levels of a run, increasing: entry t is where timestep t starts; None before."""
        return None if self._plan is None else self._shown(self._table)

    def add_noise_to_input(
        self, sample: Array, sigma: Any, generator: Any = None
    ) -> tuple[Array, Any]:
        """Return the sample noised up from level sigma, and the level it is then at.

        sigma: a number or an array of one, such as an entry of `schedule`; the level returned is
        alike, since networks are told it.
        generator: where noise comes from; see `SchedulerMixin.step`. Outside [s_min, s_max] nothing
        is added, and nothing drawn, except with compatibility="diffusers".
        """
        config, backend = self._options, resolve(sample)
        x = backend.astype(sample, backend.accumulation(sample.dtype))
        point = self._schedule(config).at(sigma=one_time(sigma, "sigma"))
        walk = Walk(self._set().grid)
        chosen = self._sampler(config, walk.total)[1]
        # the reference always draws, which what a generator gives next depends on
        drawn = self._normal(x, generator) if self._copies else None

        def normal() -> Array:
            return self._normal(x, generator) if drawn is None else drawn

        hat, top = churn(x, point, walk, normal, **chosen)  # type: ignore[no-untyped-call]
        level = top.sigma
        if hasattr(sigma, "shape") and not isinstance(sigma, np.generic):
            level = resolve(sigma).put(np.full(tuple(sigma.shape), level), sigma, sigma.dtype)
        return backend.astype(hat, sample.dtype), level

    def step(
        self,
        model_output: Array,
        sigma_hat: Any,
        sigma_prev: Any,
        sample_hat: Array,
        return_dict: bool = True,
    ) -> Any:
        """Take Euler's step from level sigma_hat to sigma_prev, the first part of Heun's.

        Args:
            model_output: the network's output at (sample_hat, sigma_hat), like sample_hat.
            sigma_hat: a number, or an array of one number or one per row.
            sigma_prev: the level to go to, likewise.
            sample_hat: what `add_noise_to_input` returned.
            return_dict: False for the tuple (prev_sample, derivative).
        """
        derivative, x0 = self._slope(model_output, sigma_hat, sample_hat)
        return self._moved(
            sample_hat, sigma_hat, sigma_prev, derivative, derivative, x0, return_dict
        )

    def step_correct(
        self,
        model_output: Array,
        sigma_hat: Any,
        sigma_prev: Any,
        sample_hat: Array,
        sample_prev: Array,
        derivative: Array,
        return_dict: bool = True,
    ) -> Any:
        """Take the step again with the mean of both derivatives.

        model_output is the network's at (sample_prev, sigma_prev); sample_prev and derivative are
        what `step` returned; the others as there.
        """
        check_like(resolve(sample_hat), sample_hat, "sample_prev", sample_prev)
        check_like(resolve(sample_hat), sample_hat, "derivative", derivative)
        other, x0 = self._slope(model_output, sigma_prev, sample_prev)
        mean = 0.5 * derivative + 0.5 * other
        return self._moved(sample_hat, sigma_hat, sigma_prev, mean, derivative, x0, return_dict)

    def _slope(self, output: Array, sigma: Any, sample: Array) -> tuple[Array, Array]:
        """Return d x / d sigma = eps and x0 = x - sigma eps, in the accumulation dtype."""
        backend = resolve(sample)
        acc = backend.accumulation(sample.dtype)
        check_like(backend, sample, "model_output", output)
        eps = -backend.astype(output, acc)
        return eps, backend.astype(sample, acc) - number_or_rows(sample, "sigma", sigma) * eps

    def _moved(
        self, x: Array, a: Any, b: Any, eps: Array, derivative: Array, x0: Array, return_dict: bool
    ) -> Any:
        """Return x moved from level a to b along eps, as an output."""
        backend = resolve(x)
        step = number_or_rows(x, "sigma_prev", b) - number_or_rows(x, "sigma_hat", a)
        moved = backend.astype(x, backend.accumulation(x.dtype)) + step * eps
        values = [backend.astype(v, x.dtype) for v in (moved, derivative, x0)]
        return KarrasVeOutput(*values) if return_dict else tuple(values[:2])

    def add_noise(self, original_samples: Array, noise: Array, timesteps: Any) -> Array:
        """Return x0 + sigma noise at timesteps: one for all rows, or one per row."""
        sigma = self._at_number(original_samples, "sigmas", self._table, timesteps)
        return exploded(original_samples, noise, sigma)


def exploded(x0: Array, noise: Array, sigma: Array) -> Array:
    """Return x0 + sigma noise, in the dtype of x0."""
    backend = resolve(x0)
    check_like(backend, x0, "noise", noise)
    acc = backend.accumulation(x0.dtype)
    return backend.astype(backend.astype(x0, acc) + sigma * backend.astype(noise, acc), x0.dtype)


class ScoreSde(PartsMixin, LevelsMixin):
    """Base of the SDE classes: times from 1 to sampling_eps, and a predictor step at any of them.

    At an array of times, one per row, each row takes its own step.
    """

    whole_times = False
    limited = False

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        self._times(config, 1)

    def _times(self, config: FrozenDict, n: int, sampling_eps: Any = None) -> np.ndarray:
        eps = config.sampling_eps if sampling_eps is None else sampling_eps
        check_kind("sampling_eps", eps, 0.5)
        if not 0 < eps < 1:
            raise ValueError(f"sampling_eps must lie in (0, 1), got {eps!r}")
        return np.linspace(1.0, float(eps), n)

    def _training_times(self) -> np.ndarray:
        return self._times(self._options, len(self))

    def _predictor(self) -> Plan:
        """Return the plan whose rows are the predictor's steps."""
        return self._set()

    def _predicted(
        self, output: Array, timestep: Any, sample: Array, generator: Any
    ) -> tuple[Array, Array]:
        """Return the sample after the step from a time, and its mean."""
        backend, state = resolve(sample), engine.State(sample, (), self._entry(sample, timestep))
        mean, std = engine.transition(self._predictor(), state, output)
        last = isinstance(std, float) and std == 0.0
        x = (
            mean
            if last
            else mean + std * backend.astype(self._normal(sample, generator), mean.dtype)
        )
        return backend.astype(x, sample.dtype), backend.astype(mean, sample.dtype)


class ScoreSdeVeScheduler(ScoreSde):
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

    Options:
        snr: of the corrector, the size of its steps.
        sigma_min, sigma_max: ends of the levels, geometric between.
        sampling_eps: the last time (the reference repeats levels where it is not below 1 / n).
        correct_steps: Langevin steps at each level.
        per_sample: let each sample have a step of its own length, instead of one for the batch as
            published.
    """

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
    grid_options = ("sampling_eps",)
    _steps: Plan | None = None

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        positive(config, "sigma_min", "sigma_max", "snr")
        if config.correct_steps < 0:
            raise ValueError(f"correct_steps must not be negative, got {config.correct_steps}")

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        if config.correct_steps == 0:
            return "ddpm", {"variance": "fixed_large"}
        chosen = {name: config[name] for name in ("snr", "correct_steps", "per_sample")}
        return "predictor_corrector", chosen

    def _schedule(self, config: FrozenDict) -> VESDE:
        return VESDE(sigma_min=float(config.sigma_min), sigma_max=float(config.sigma_max))

    def _prediction(self, config: FrozenDict) -> Prediction:
        return Prediction("score")

    def _points(
        self, config: FrozenDict, n: int, *, sampling_eps: Any = None, **options: Any
    ) -> list[Point]:
        """Return levels geometric from end to end (eq. 47), at times that go to sampling_eps."""
        times = self._times(config, n, sampling_eps).tolist()
        levels = np.geomspace(config.sigma_max, config.sigma_min, n).tolist()
        if n == 1 and self._copies:
            levels = [config.sigma_min]  # the reference's one level is the least noisy
        return [self._schedule(config).point(s, t) for s, t in zip(levels, times, strict=True)]

    def _init_scale(self, config: FrozenDict, first: Point) -> float:
        return float(config.sigma_max) if first.t == 1.0 else first.sigma

    def _set(self) -> Plan:
        if self._plan is None:  # as in the reference, a new object is ready for the longest run
            self.set_timesteps(len(self))
        return super()._set()

    def _predictor(self) -> Plan:
        plan = self._set()
        if self._steps is None or self._steps.grid is not plan.grid:
            options = {"variance": "fixed_large"}
            self._steps = make_plan("ddpm", plan.grid, plan.prediction, options)
        return self._steps

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
        have = self._plan
        if have and sampling_eps is None and len(have.grid) == num_inference_steps > 1:
            sampling_eps = have.grid.points[-2].t
        ends = {"sigma_min": sigma_min, "sigma_max": sigma_max}
        ends = {name: value for name, value in ends.items() if value is not None}
        other = copy.copy(self)
        other.register_to_config(**ends)
        plan = other.plan(num_inference_steps, sampling_eps=sampling_eps)
        self._set_on(resolve(self.timesteps), self._times_of(plan), None)
        self._plan, self.num_inference_steps = plan, num_inference_steps
        self._restart()

    @property
    def _table(self) -> np.ndarray:
        return np.array([p.sigma for p in self._set().grid.points[-2::-1]])

    @property
    def sigmas(self) -> Array:
        """The level of every time, decreasing, which networks of the field are told."""
        plan = self._set()
        if len(plan.grid) == 1:
            return self._shown(self._table)
        low, high = self._table[[0, -1]]
        return self._shown(low * (high / low) ** np.array([p.t for p in plan.grid.points[:-1]]))

    @property
    def discrete_sigmas(self) -> Array:
        """The levels of the steps, increasing."""
        return self._shown(self._table)

    def get_adjacent_sigma(self, timesteps: Array, t: Array) -> Array:
        """Return the level below each of these numbers of levels, 0 below number 0, beside t."""
        backend = resolve(t)
        below = backend.put(np.array([0.0, *self._table]), t, backend.accumulation(t.dtype))
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
        both = self._predicted(model_output, timestep, sample, generator)
        return SdeVeOutput(*both) if return_dict else both

    def step_correct(
        self, model_output: Array, sample: Array, generator: Any = None, return_dict: bool = True
    ) -> Any:
        """Take a Langevin step at the present level (algorithm 4); arguments as in `step_pred`."""
        self._set()
        backend, config = resolve(sample), self._options
        check_like(backend, sample, "model_output", model_output)
        acc = backend.accumulation(sample.dtype)
        over = "sample" if config.per_sample else "batch"
        score = backend.astype(model_output, acc)
        z = backend.astype(self._normal(sample, generator), acc)
        size = config.snr * size_of(backend, z, over) / size_of(backend, score, over)
        x = backend.astype(langevin(backend.astype(sample, acc), score, z, size), sample.dtype)
        return SchedulerOutput(x) if return_dict else (x,)

    def add_noise(self, original_samples: Array, noise: Array, timesteps: Any) -> Array:
        """Return x0 + sigma noise; timesteps are numbers of `discrete_sigmas`, one or one per row.

        With noise=None it is drawn from fresh entropy.
        """
        sigma = self._at_number(original_samples, "sigmas", self._table, timesteps)
        noise = self._normal(original_samples, None) if noise is None else noise
        return exploded(original_samples, noise, sigma)


class ScoreSdeVpScheduler(ScoreSde):
    """Euler-Maruyama for the variance-preserving SDE (arXiv:2011.13456, appendix E).

    The network says the noise. Steps go from each time to the next and the last to 0, without
    noise; with compatibility="diffusers" they are all 1 / n long, wherever the times lie.
    """

    options: ClassVar = {
        "num_train_timesteps": 2000,
        "beta_min": 0.1,
        "beta_max": 20.0,
        "sampling_eps": 1e-3,
    }

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        positive(config, "beta_min", "beta_max")

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "euler_maruyama", {"dt": 1 / n} if self._copies else {}

    def _schedule(self, config: FrozenDict) -> Schedule:
        return VPSDE(beta_min=float(config.beta_min), beta_max=float(config.beta_max))

    def _prediction(self, config: FrozenDict) -> Prediction:
        return Prediction("epsilon")

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        return [self._schedule(config).at(t=t) for t in self._times(config, n).tolist()]

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
        return self._predicted(score, t, x, generator)
