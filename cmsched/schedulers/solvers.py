"""What the exponential integrators share: where their steps lie."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..discretizations import Discretization, FlowSigmas, Ramp, no_times, retold
from ..frozen import FrozenDict
from ..grids import Grid
from ..samplers.first_order import VARIANCES
from ..schedules import Betas, Flow, Point, Schedule
from .betas import BETA_CHOICES, BETA_OPTIONS, Table, spaced, table_of
from .flow import dynamic_shift
from .sigma import RAMP_OPTIONS, chosen_ramp, ends_given, lower_end, one_ramp, without_ramp

OPTIONS: Mapping[str, Any] = {
    **BETA_OPTIONS,
    "solver_order": 2,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
FLOW_OPTIONS: Mapping[str, Any] = {**RAMP_OPTIONS, "use_flow_sigmas": False, "flow_shift": 1.0}
SPACING_OPTIONS: Mapping[str, Any] = {"timestep_spacing": "linspace", "steps_offset": 0}
SHIFT_OPTIONS: Mapping[str, Any] = {
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
CHOICES: Mapping[str, Any] = {
    **BETA_CHOICES,
    "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
    "variance_type": (None, *VARIANCES),  # of DDPM, where fixed ones have no head
}
# what DEIS's and UniPC's options mean to DPM-Solver
FOREIGN: Mapping[str, str] = {
    "deis": "dpmsolver++",
    "logrho": "midpoint",
    "bh1": "midpoint",
    "bh2": "midpoint",
}


@dataclass(frozen=True)
class RepeatedLast:
    """Runs end where their last step starts, as the reference's ramps and flows do."""

    def __call__(self, grid: Grid, asked: str) -> Grid:
        """Return the grid with its end at the last start."""
        return replace(grid, points=(*grid.points[:-1], grid.points[-2]))


@dataclass(frozen=True, kw_only=True)
class SolverFlow(FlowSigmas):
    """Sigmas of a flow that are even before the shift, the one after the last being 0.

    Args:
        told: how the time num_train_timesteps sigma is made whole; None leaves it.
    """

    told: str | None = None

    def even(self, n: int) -> np.ndarray:
        """Return n sigmas before the shift."""
        return np.asarray(1 - np.linspace(1, 1 / self.train, n + 1))[:0:-1]

    def at_sigmas(self, sigmas: np.ndarray) -> list[Point]:
        """Return the points at these sigmas; their times are cut, and so not to be rounded."""
        points = [replace(self.schedule.at(sigma=s), t=self.train * s) for s in sigmas.tolist()]
        return retold(points, self.told)

    def ignored(self, timesteps: Any = None, sigmas: Any = None) -> tuple[str, ...]:
        """Return what has no effect on the grid of these lists, one sentence each."""
        if self.unsaid is None or sigmas is None:
            return ()
        levels, twice = self.listed(sigmas)
        itself = twice or self.is_whole(levels)
        text = f"{self.unsaid} has no effect on sigmas that are the levels themselves"
        return (text,) if itself else ()

    def is_whole(self, levels: list[float]) -> bool:
        """Return whether a list goes to the end: to 0 it does not in the reference."""
        if levels[-1] == 0.0:
            return not self.repeats_end
        return math.isclose(levels[-1], self.level(self.end), rel_tol=1e-6)

    def at_times(self, times: list[float]) -> list[Point]:
        """Raise: the flow places the levels."""
        raise no_times("flow")

    def at_levels(self, levels: list[float], end: Point) -> list[Point]:
        """Return the points at sigmas before the shift, or at the levels of a list to the end."""
        if self.is_whole(levels):
            return super().at_levels(levels, end)
        moved = self.moved(np.array(levels)).tolist()
        if math.isclose(moved[-1], end.sigma, rel_tol=1e-9) and not self.repeats_end:
            moved = moved[:-1]
        return self.at_sigmas(np.array(moved))


def least_noisy(c: FrozenDict, table: Betas) -> int:
    """Return how many training steps lambda_min_clipped leaves."""
    least = c.get("lambda_min_clipped", -math.inf)
    return int(np.count_nonzero(-table.log_ratios >= least))


def noisiest(c: FrozenDict, table: Betas) -> int:
    """Return the last training step that lambda_min_clipped leaves."""
    return least_noisy(c, table) - 1


def ends_of_ramp(c: FrozenDict, reference: bool, table: Betas) -> tuple[float, float]:
    """Return the most and the least sigma / alpha of a ramp."""
    high, low = ends_given(c, reference, ("lu",))
    return high or table.ratio_at(table.span[0]), low or table.ratio_at(table.span[1])


def shift_of(c: FrozenDict, mu: float | None) -> float:
    """Return the shift of a flow's sigmas."""
    if mu is None:
        return float(c.flow_shift)
    if not (c.get("use_dynamic_shifting") and c.use_flow_sigmas):
        raise ValueError("mu needs use_dynamic_shifting=True and use_flow_sigmas=True")
    return dynamic_shift(c, mu)


def last_point(c: FrozenDict, schedule: Schedule, table: Betas) -> Point:
    """Return where the sample ends.

    Without final_sigmas_type a flow ends at 0, others at the first training step.
    """
    if c.get("final_sigmas_type", "zero" if c.use_flow_sigmas else "sigma_min") == "zero":
        return schedule.point(0.0, 0.0)
    lowest = table.at(t=0.0)
    if not c.use_flow_sigmas:
        return lowest
    return schedule.at(**{"ratio" if chosen_ramp(c) else "sigma": lowest.ratio})


def idle_options(c: FrozenDict, mu: float | None = None) -> tuple[str, ...]:
    """Say which options have no effect on where steps lie."""
    rule = chosen_ramp(c)
    idle: tuple[str, ...] = ()
    if not c.use_flow_sigmas or rule is not None:
        names = ("flow_shift", "shift_terminal")
        given = [name for name in names if c.get(name) not in (None, 1.0)]
        idle = tuple(
            f"{name} has no effect without use_flow_sigmas, or beside a ramp" for name in given
        )
    if rule is None:
        return (*idle, *without_ramp(c))
    return idle if mu is None else (*idle, "mu has no effect beside a ramp")


def steps(
    c: FrozenDict,
    reference: bool,
    table: Betas,
    mu: float | None = None,
    *,
    rounds: bool = False,
    doubles: bool = False,
) -> Discretization:
    """Return where the exponential integrators step: at spaced times, on a ramp, or along a flow.

    Args:
        c: the options.
        reference: whether as in the reference.
        table: the schedule of the betas.
        mu: the dynamic shift of flow sigmas.
        rounds: whether the reference rounds the times of a ramp, which it cuts otherwise.
        doubles: whether the reference's ramps and flows end where their last step starts.
    """
    train, rule = c.num_train_timesteps, chosen_ramp(c)
    schedule: Schedule = Flow(num_train_timesteps=train) if c.use_flow_sigmas else table
    end, shift = last_point(c, schedule, table), shift_of(c, mu)
    common = {"schedule": schedule, "end": end, "train": train, "repeats_end": reference}
    common["whole"] = True
    if rule is None and not c.use_flow_sigmas:
        chosen: dict[str, Any] = {
            "below": least_noisy(c, table),
            "extra": True,
            "one_is_least": False,
        }
        if c.get("timestep_spacing", "linspace") == "linspace":
            chosen["crowded"] = "repeat" if reference else "between"
        return spaced(c, schedule, end, reference, whole=True, **chosen)
    where: Discretization
    if rule is not None:
        high, low = ends_of_ramp(c, reference, table)
        common["end"] = lower_end(end, schedule, low)
        told = ("rounded" if rounds else "cut") if reference else None
        where = Ramp(**common, rule=rule, high=high, low=low, told=told)
    else:
        told = "cut" if reference else None
        where = SolverFlow(**common, shift=shift, mu=mu, told=told)
    if reference and doubles and c.get("final_sigmas_type") != "zero":
        where = where.with_quirk(RepeatedLast())
    return where


def finite_ends(c: FrozenDict) -> None:
    """Raise where a solver for eps would step to sigma = 0 or from alpha = 0."""
    algorithm = c.get("algorithm_type", "++")
    if algorithm.endswith("++"):
        return
    if c.get("final_sigmas_type") == "zero":
        raise ValueError(
            f'algorithm_type="{algorithm}" cannot end at sigma = 0, where its formula is infinite;'
            ' use final_sigmas_type="sigma_min" or the "++" algorithm'
        )
    flow = c.prediction_type == "flow_prediction" and not c.use_flow_sigmas
    if algorithm != "deis" and flow:
        raise ValueError(
            f'prediction_type="flow_prediction" with algorithm_type="{algorithm}" needs'
            " use_flow_sigmas"
        )


RELATIONS = (one_ramp, finite_ends)


def lambda_table(table: Table) -> tuple[property, property, property]:
    """Return the attributes alpha_t, sigma_t and lambda_t of a class with this schedule."""

    def alpha_t(self: Any) -> Any:
        """Alpha of the training steps."""
        return self.show(np.sqrt(table_of(self, table).alphas_cumprod))

    def sigma_t(self: Any) -> Any:
        """Sigma of the training steps."""
        return self.show(np.sqrt(-np.expm1(table_of(self, table).log_alphas_cumprod)))

    def lambda_t(self: Any) -> Any:
        """log(alpha / sigma) of the training steps."""
        return self.show(-table_of(self, table).log_ratios)

    return property(alpha_t), property(sigma_t), property(lambda_t)
