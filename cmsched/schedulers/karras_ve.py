"""Stochastic Heun on EDM's VE levels (arXiv:2206.00364)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..backends import resolve
from ..discretizations import Discretization
from ..engine.checks import check_like
from ..frozen import FrozenDict
from ..grids import GridRun
from ..plan import Plan
from ..predictions import Prediction
from ..recipe import Fixed, Recipe
from ..samplers.first_order import churn
from ..schedules import Identity, Point
from .options import check_kind, in_order
from .outputs import KarrasVeOutput
from .parts import PartsMixin, exploded, increasing_levels
from .timeline import Timeline, along, one_time, times_beside

__all__ = ["KarrasVeScheduler"]

Array = Any


@dataclass(frozen=True, kw_only=True)
class GeometricLevels(Discretization):
    """Levels geometric from one end to the other.

    Args:
        high: the first level.
        low: the last one.
        power: to which each is raised, 2 in the reference.
    """

    high: float
    low: float
    power: int = 1

    def points(self, n: int) -> list[Point]:
        """Return the points at n levels."""
        levels = np.geomspace(self.high, self.low, n) ** self.power
        return [self.schedule.at(sigma=s) for s in levels.tolist()]

    def training(self) -> list[Point]:
        """Return the points of as many levels as there are training steps."""
        return self.points(self.train)


def karras_ve(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of stochastic Heun on EDM's VE levels mean."""
    schedule, power = Identity(), 2 if reference else 1
    where = GeometricLevels(
        schedule=schedule,
        end=schedule.point(0.0, 0.0),
        repeats_end=reference,
        high=c.sigma_max,
        low=c.sigma_min,
        power=power,
    )
    options = {
        "s_churn": c.s_churn,
        "s_tmin": c.s_min,
        "s_tmax": c.s_max,
        "s_noise": c.s_noise,
    }
    start = Fixed(float(c.sigma_max), where.points(1)[0].sigma)
    return Recipe("heun", where, Prediction("scaled_score"), options, start)


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
    """

    order = 2
    meanings: ClassVar = {
        "sigma_min": "lowest level; others are geometric between the two.",
        "sigma_max": "highest level, where runs start.",
        "s_noise": "factor of the noise that churn adds.",
    }
    options: ClassVar = {
        "sigma_min": 0.02,
        "sigma_max": 100.0,
        "s_noise": 1.007,
        "s_churn": 80.0,
        "s_min": 0.05,
        "s_max": 50.0,
    }
    relations = (in_order("sigma_min", "sigma_max"),)
    meaning = staticmethod(karras_ve)

    def timeline_of(self, plan: Plan) -> Timeline:
        """Return the entries that count down to 0."""
        n = len(plan.grid)
        return Timeline(plan, np.arange(n - 1, -1, -1), tuple(range(n)))

    @property
    def schedule(self) -> Any:
        """The levels of a run, increasing: entry t is where timestep t starts; None before."""
        return None if self.timeline is None else self.show(increasing_levels(self))

    def add_noise_to_input(
        self, sample: Array, sigma: Any, generator: Any = None
    ) -> tuple[Array, Any]:
        """Return the sample noised up from level sigma, and the level it is then at.

        sigma: a number or an array of one, such as an entry of `schedule`; the level returned is
        alike, since networks are told it.
        generator: where noise comes from; see `SchedulerMixin.step`. Outside [s_min, s_max] nothing
        is added, and nothing drawn, except with compatibility="diffusers".
        """
        backend, grid = resolve(sample), self.required().plan.grid
        x = backend.astype(sample, backend.accumulation(sample.dtype))
        point = grid.schedule.at(sigma=one_time(sigma, "sigma"))
        walk, chosen = GridRun(grid), self.recipe().options
        # the reference always draws, which what a generator gives next depends on
        drawn = self.normal(x, generator) if self.as_reference else None

        def normal() -> Array:
            return self.normal(x, generator) if drawn is None else drawn

        hat, top = churn(x, point, walk, normal, **chosen)  # type: ignore[no-untyped-call]
        level = top.sigma
        if hasattr(sigma, "shape") and not isinstance(sigma, np.generic):
            level = resolve(sigma).to_device_of(
                np.full(tuple(sigma.shape), level), sigma, sigma.dtype
            )
        hat = backend.astype(hat, sample.dtype)
        return backend.copy(hat) if hat is sample else hat, level

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
        derivative = resolve(sample_hat).copy(derivative)
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
        sigma = self.numbered(original_samples, "sigmas", increasing_levels(self), timesteps)
        return exploded(original_samples, noise, sigma)


def number_or_rows(like: Array, name: str, value: Any) -> Any:
    """Return a number, or an array of one number or one per row shaped to multiply `like`."""
    if not hasattr(value, "shape") or isinstance(value, np.generic):
        number = one_time(value, name)
        check_kind(name, number, 1.0)
        return number
    rows = times_beside(like, value, lambda host: None, name)
    return along(like, rows)
