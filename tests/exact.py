"""Problems with known answers, and a plain reading of a plan's rows; NumPy in float64, no engine.

What a plan computes is linear, so `interpret` takes samples as arrays of any meaning: numbers, or
the coefficients of a sample over independent unit normals, which carries means and variances
through a loop exactly.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from conftest import few

from cmsched.grids import Grid
from cmsched.plan import Plan, make_plan
from cmsched.predictions import Prediction, output_from_x0
from cmsched.samplers import REGISTRY, Sampler
from cmsched.schedules import VESDE, VPSDE, Betas, Flow, Point, Schedule

# one smooth continuous schedule and one prediction type for each frame, and the lam to step between
FRAMES: dict[str, tuple[Schedule, Prediction]] = {
    "vp": (VPSDE(), Prediction("epsilon")),
    "ve": (VESDE(sigma_data=0.5), Prediction("v_prediction")),
    "flow": (Flow(), Prediction("flow_prediction")),
}
ENDS = {"vp": (-2.5, 2.5), "ve": (-3.0, 2.0), "flow": (-2.0, 3.0)}


def variants(**traits: Any) -> list[tuple[str, dict[str, Any]]]:
    """Every registered sampler with every option set it lists, those with the given traits."""
    return [
        (name, options)
        for name, entry in REGISTRY.items()
        for options in (few(entry.variants) if entry.traced else ())
        if all(entry.trait(trait, options) == value for trait, value in traits.items())
    ]


def label(value: Any) -> str:
    """A readable test id for a name or an option set."""
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"
    return str(value)


def uneven(n: int, *, smooth: bool = False) -> np.ndarray:
    """n + 1 numbers from 0 to 1: a smooth map of steps that are long and short in turn.

    Neighbouring steps keep their ratio of about 1 to 2 however fine the grid is, so a multistep
    formula that takes it for 1 loses its order. With `smooth` they are alike.
    """
    u = np.concatenate([[0.0], np.cumsum(np.resize([1.0, 1.0 if smooth else 2.0], n))])
    u /= u[-1]
    return u + 0.1 * np.sin(2 * np.pi * u) / (2 * np.pi)


def grid_between(
    schedule: Schedule, n: int, low: float = -2.5, high: float = 2.5, *, smooth: bool = False
) -> Grid:
    """n uneven steps between two finite lam; no rounding of times, no terminal step."""
    lams = low + (high - low) * uneven(n, smooth=smooth)
    points = tuple(schedule.at(lam=lam) for lam in lams.tolist())
    return Grid(points, schedule, points[0].sigma)


def grid_singular(schedule: Schedule, n: int, *, start: bool = True, end: bool = True) -> Grid:
    """n steps that begin where alpha = 0 (`start`) and stop where sigma = 0 (`end`)."""
    lams = np.linspace(-3, 3, n + 1).tolist()
    points = [schedule.at(lam=lam) for lam in lams]
    if start:
        points[0] = schedule.point(math.inf, schedule.time_at(math.inf))
    if end:
        points[-1] = schedule.point(0.0, 0.0)
    return Grid(tuple(points), schedule, points[0].sigma)


@cache
def plan_between(name: str, options: tuple[tuple[str, Any], ...], frame: str, n: int) -> Plan:
    """The plan of a sampler on `grid_between`, made once."""
    schedule, prediction = FRAMES[frame]
    if any(key == "prediction_type" for key, _ in options):
        prediction = Prediction(dict(options)["prediction_type"])
    smooth = REGISTRY[name].trait("smooth", dict(options))
    grid = grid_between(schedule, n, *ENDS[frame], smooth=smooth)
    return make_plan(name, grid, prediction, dict(options))


def arrivals(plan: Plan) -> list[Point]:
    """Where the sample stands after every evaluation: the next evaluation's point, then the end."""
    return [*plan.points[1:], plan.grid.points[-1]]


def interpret(
    plan: Plan,
    estimate: Callable[[np.ndarray, Point], np.ndarray],
    start: np.ndarray,
    normal: Callable[[int, int], np.ndarray] | None = None,
    *,
    pin: Callable[[int], np.ndarray | None] = lambda i: None,
    head: Callable[[int, float, float], float] = lambda i, low, high: 0.5 * (low + high),
    given: Mapping[str, np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Follow a plan's rows and return the sample before every evaluation and at the end.

    Args:
        estimate: what a network would say of x0, given (sample, point).
        start: the sample at the grid's first point.
        normal: the unit normal of (row, draw); the start row is -1.
        pin: a sample to put in place of the one that row i computed, or None.
        head: the log variance that the network states at row i, within (low, high).
        given: the arrays that the sampler takes; by default zeros, and a mask of zeros.
    """
    layout = plan.layout
    assert layout is not None
    arrays = given or {}
    mask = arrays.get("mask", np.zeros_like(start))
    regions = (1.0, mask, 1.0 - mask)

    def combine(values: dict[int, np.ndarray], terms: Any) -> np.ndarray:
        return sum((c * values[v] * regions[r] for v, c, r in terms), np.zeros_like(start))

    def drawn(i: int, draws: Any) -> dict[int, np.ndarray]:
        out = {}
        for value, draw in draws:
            assert normal is not None, f"row {i} draws"
            std = math.exp(0.5 * head(i, *draw.log_range)) if draw.log_range else 1.0
            out[value] = std * normal(i, draw.rank)
        return out

    x = combine({0: start, **drawn(-1, plan.start.draws)}, plan.start.terms)
    memory = [np.zeros_like(start) for _ in layout.slots]
    path = [x]
    for i, row in enumerate(plan.rows):
        output = output_from_x0(plan.prediction, row.point, x, estimate(x, row.point))
        values = {0: x, 1: output, **dict(enumerate(memory, start=2)), **drawn(i, row.draws)}
        for k, name in enumerate(layout.given):
            values[layout.first_given + k] = arrays.get(name, np.zeros_like(start))
        if row.needs_x0:
            p, q, skip, out = row.estimate
            values[layout.x0] = skip * x + out * (p * x + q * output)
        for value, terms in row.statements:
            values[value] = combine(values, terms)
        pinned = pin(i)
        x = values[layout.next_sample] if pinned is None else pinned
        memory = [values[pick] for pick in row.stores_from]
        path.append(x)
    return path


@dataclass(frozen=True)
class Mixture:
    """A one-dimensional Gaussian mixture as data; its probability-flow ODE keeps quantiles."""

    weights: tuple[float, ...] = (0.35, 0.65)
    means: tuple[float, ...] = (-1.1, 0.9)
    stds: tuple[float, ...] = (0.5, 0.35)

    def _parts(self, x: np.ndarray, at: Point) -> tuple[np.ndarray, ...]:
        w, mean, std = (np.array(v)[:, None] for v in (self.weights, self.means, self.stds))
        return w, mean, std, x - at.alpha * mean, np.hypot(at.alpha * std, at.sigma)

    def estimate(self, x: np.ndarray, at: Point) -> np.ndarray:
        """E[x0 | x], the perfect network's clean sample."""
        w, mean, std, away, spread = self._parts(x, at)
        density = w / spread * np.exp(-0.5 * (away / spread) ** 2)
        means = mean + at.alpha * (std / spread) ** 2 * away
        return (density * means).sum(0) / density.sum(0)

    def quantiles(self, q: np.ndarray, at: Point) -> np.ndarray:
        """The q quantiles of the marginal at a point, by bisection to the last digit."""
        low, high = np.full(q.shape, -60.0), np.full(q.shape, 60.0)
        for _ in range(64):
            x = 0.5 * (low + high)
            w, _, _, away, spread = self._parts(x, at)
            below = (w * np.vectorize(math.erfc)(-away / spread / math.sqrt(2)) / 2).sum(0) < q
            low, high = np.where(below, x, low), np.where(below, high, x)
        return 0.5 * (low + high)


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, std^2). Samples are coefficients over (1, the start's normal, draws ...)."""

    mean: float = 0.7
    std: float = 0.6

    def spread(self, at: Point) -> float:
        """Standard deviation of the marginal."""
        return math.hypot(at.alpha * self.std, at.sigma)

    def marginal(self, at: Point, size: int) -> np.ndarray:
        """The exact marginal, from the start's normal."""
        out = np.zeros(size)
        out[:2] = at.alpha * self.mean, self.spread(at)
        return out

    def estimate(self, x: np.ndarray, at: Point) -> np.ndarray:
        """E[x0 | x], affine in x."""
        gain = at.alpha * self.std**2 / self.spread(at) ** 2
        out = gain * x
        out[0] += self.mean * (1 - gain * at.alpha)
        return out

    def consistency(self, x: np.ndarray, at: Point, end: Point) -> np.ndarray:
        """The exact consistency function: the probability-flow ODE to `end`, over alpha."""
        away = x.copy()
        away[0] -= at.alpha * self.mean
        away *= self.spread(end) / self.spread(at) / end.alpha
        away[0] += self.mean
        return away


def normals(size: int) -> Callable[[int, int], np.ndarray]:
    """A new unit vector for every draw, from the third one on."""
    known: dict[tuple[int, int], int] = {}

    def normal(row: int, draw: int) -> np.ndarray:
        out = np.zeros(size)
        out[known.setdefault((row, draw), 2 + len(known))] = 1.0
        return out

    return normal


__all__ = [
    "FRAMES",
    "Betas",
    "Gaussian",
    "Mixture",
    "Sampler",
    "arrivals",
    "grid_between",
    "grid_singular",
    "interpret",
    "label",
    "normals",
    "plan_between",
    "variants",
]
