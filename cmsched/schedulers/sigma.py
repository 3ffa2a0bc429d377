"""Euler, Euler ancestral, Heun, LMS: samples x0 + sigma eps, networks that see them scaled."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..checks import check_count
from ..discretizations import Discretization, Ramp, RampOfSteps, no_times
from ..frozen import FrozenDict
from ..grids import Grid
from ..plan import Plan
from ..recipe import Recipe, Start
from ..samplers.formulas import lagrange_integrals
from ..schedules import Logarithmic, Point, Schedule
from .base import TIMES
from .betas import BETA_CHOICES, BETA_OPTIONS, EXCHANGEABLE, said, spaced, tables_of, ve_betas
from .habit import SchedulerMixin, with_options
from .outputs import (
    EulerAncestralDiscreteSchedulerOutput,
    EulerDiscreteSchedulerOutput,
    HeunDiscreteSchedulerOutput,
    LMSDiscreteSchedulerOutput,
)

__all__ = [
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
]

RAMPS_OF: Mapping[str, str] = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
    "use_lu_lambdas": "lu",
}
RAMP_OPTIONS: Mapping[str, Any] = dict.fromkeys(list(RAMPS_OF)[:3], False)
RAMP_ENDS: Mapping[str, Any] = {"sigma_min": None, "sigma_max": None}  # in files of other classes
CHURN_OPTIONS: Mapping[str, Any] = {
    "s_churn": 0.0,
    "s_tmin": 0.0,
    "s_tmax": math.inf,
    "s_noise": 1.0,
}


def chosen_ramp(c: Mapping[str, Any]) -> str | None:
    """Return the spacing that the options ask for."""
    return next((rule for name, rule in RAMPS_OF.items() if c.get(name)), None)


def one_ramp(c: FrozenDict) -> None:
    """Raise where the options ask for two ramps."""
    asked = [name for name in RAMPS_OF if c.get(name)]
    if len(asked) > 1:
        raise ValueError(f"only one of {', '.join(asked)} can be used")


def without_ramp(c: Mapping[str, Any]) -> tuple[str, ...]:
    """Say which options have no effect beside levels that no ramp places."""
    given = [name for name in ("sigma_min", "sigma_max") if c.get(name) is not None]
    return tuple(f"{name} has no effect without a ramp of sigmas" for name in given)


@dataclass(frozen=True, kw_only=True)
class ToldRamp(Ramp):
    """The reference's log_linear levels: one more than it takes steps, beside times of a spacing.

    Explicit times say how many there are.

    Args:
        times: the discretization that has these times; None where the network is told the levels,
            and the reference steps from each of them.
    """

    times: Discretization | None

    def points(self, n: int) -> list[Point]:
        """Return the points at the levels, told the times."""
        levels = super().points(n + 1)
        return levels if self.times is None else told(levels, self.times.points(n))

    def at_times(self, times: list[float]) -> list[Point]:
        """Return the points at as many levels, told these times."""
        levels = super().points(len(times) + 1)
        return [replace(p, t=t) for p, t in zip(levels, times, strict=False)]


def told(points: list[Point], others: list[Point]) -> list[Point]:
    """Return as many points as there are others, at the times of these."""
    return [replace(p, t=other.t) for p, other in zip(points, others, strict=False)]


@dataclass(frozen=True)
class StopsBefore:
    """Runs end at the level after their last one in place of their end, as in the reference."""

    end: Point

    def __call__(self, grid: Grid, asked: str) -> Grid:
        """Return the grid with that end."""
        if asked == "sigmas":
            return grid
        return replace(grid, points=(*grid.points[:-1], self.end))


@dataclass(frozen=True)
class Spare:
    """How many levels a run has beside its steps: one where it stops before its end."""

    end: Point

    def __call__(self, grid: Grid) -> float:
        """Return it."""
        return float(grid.points[-1] == self.end)


def ends_given(
    c: FrozenDict, reference: bool, deaf: Sequence[str]
) -> tuple[float | None, float | None]:
    """Return the most and the least level that the options give a ramp, or files of other classes.

    deaf: the ramps whose ends are those of the schedule in the reference.
    """
    if reference and chosen_ramp(c) in deaf:
        return None, None
    return c.get("sigma_max"), c.get("sigma_min")


def lower_end(end: Point, schedule: Schedule, low: float | None) -> Point:
    """Return where a run ends whose ramp goes down to `low`: nowhere above that."""
    return end if low is None or low >= end.ratio else schedule.at(ratio=low)


def sigma_steps(
    c: FrozenDict, reference: bool, deaf: Sequence[str] = (), **fields: Any
) -> tuple[Discretization, tuple[str, ...]]:
    """Return where steps over sigmas lie, spaced in time or on a ramp, and what has no effect.

    deaf: see `ends_given`.
    """
    schedule, rule = ve_betas(c, reference), chosen_ramp(c)
    high, low = ends_given(c, reference, deaf)
    last = c.get("final_sigmas_type") == "sigma_min"
    end = schedule.at(t=0.0) if last else schedule.point(0.0, 0.0)
    end = lower_end(end, schedule, low) if rule else end
    where = spaced(c, schedule, end, reference, **fields)
    of_steps: dict[str, Any] = {name: getattr(where, name) for name in where.__dataclass_fields__}
    if c.get("interpolation_type") == "log_linear":  # between all training steps
        first, lowest = (schedule.at(t=float(t)) for t in (c.num_train_timesteps - 1, 0))
        common = {name: of_steps[name] for name in Ramp.__dataclass_fields__ if name in of_steps}
        if rule is not None:
            common |= {"high": high or first.ratio, "low": low or lowest.ratio}
            return Ramp(**common, rule=rule), ()
        common |= {"rule": "exponential", "high": first.ratio, "low": lowest.ratio}
        if not reference:
            return Ramp(**common), without_ramp(c)
        if tells_log_sigma(c):
            return ToldRamp(**common, times=None), without_ramp(c)
        ramp = ToldRamp(**common, times=where).with_quirk(StopsBefore(lowest))
        return ramp, without_ramp(c)
    if rule is None:
        return where, without_ramp(c)
    return RampOfSteps(**of_steps, rule=rule, high=high, low=low), ()


def sigma_recipe(
    c: FrozenDict,
    reference: bool,
    sampler: str,
    options: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Recipe:
    """Return the recipe of a sampler over sigmas."""
    where, idle = sigma_steps(c, reference, **fields)
    start = Start("spread" if c.timestep_spacing == "leading" else "sigma")
    return Recipe(sampler, where, said(c), options or {}, start, idle)


def euler(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of Euler's method mean."""
    prediction = said(c)
    sampler, options = churned(reference, str(prediction.type), prediction.sigma_data)
    recipe = sigma_recipe(c, reference, sampler, options)
    if (quirks := recipe.discretization.quirks) and isinstance(quirks[-1], StopsBefore):
        recipe = replace(recipe, options={**options, "spare": Spare(quirks[-1].end)})
    if not tells_log_sigma(c):
        return recipe
    only = LevelsOnly('timestep_type="continuous" and v_prediction:')
    where = replace(recipe.discretization.then(LogSigma()), reading=only)
    return replace(recipe, discretization=where)


@dataclass(frozen=True)
class LevelsOnly:
    """Reads explicit levels, and raises for times, which are none of the training's, or of a rule.

    Args:
        rule: what places the levels.
    """

    rule: str

    def __call__(self, name: str, values: Any) -> Any:
        """Return the list."""
        if name == "timesteps":
            raise no_times(self.rule)
        return values


def churned(reference: bool, kind: str, sigma_data: float) -> tuple[str, dict[str, Any]]:
    """Return Euler's sampler and its options: noise is added before, in the reference after."""
    if not reference:
        return "euler", {}
    return "euler_late_churn", {"prediction_type": kind, "sigma_data": sigma_data}


def euler_ancestral(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of ancestral Euler steps mean."""
    return sigma_recipe(c, reference, "euler_ancestral")


def heun(c: FrozenDict, reference: bool, *, num_train_timesteps: int | None = None) -> Recipe:
    """Return what the options of Heun's method mean.

    num_train_timesteps: spread the steps over only so many of the first training steps.
    """
    among = some_of(c, num_train_timesteps)
    return sigma_recipe(c, reference, "heun", among=among, evaluations=2)


def some_of(c: FrozenDict, num_train_timesteps: int | None) -> int | None:
    """Return a number of training steps, at most all of them."""
    if num_train_timesteps is None:
        return None
    return check_count("num_train_timesteps", num_train_timesteps, c.num_train_timesteps)


def lms(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of the linear multistep method mean."""
    return sigma_recipe(c, reference, "lms", deaf=("karras",))


# EDM's way of telling the network the level


def tells_log_sigma(c: FrozenDict) -> bool:
    """Return whether the network is conditioned on log(sigma) / 4."""
    return bool(c.timestep_type == "continuous" and c.prediction_type == "v_prediction")


@dataclass(frozen=True)
class LogSigma:
    """The network is told log(sigma) / 4 in place of the time."""

    def __call__(self, grid: Grid) -> Grid:
        """Return the grid with these times."""
        schedule = Logarithmic(frame="ve", sigma_data=grid.schedule.sigma_data, factor=0.25)
        return Grid(tuple(self.listed([*grid.points])), schedule, grid.init_scale)

    def listed(self, points: list[Point]) -> list[Point]:
        """Return points with these times."""
        return [replace(p, t=0.25 * math.log(p.sigma) if p.sigma else 0.0) for p in points]


# attributes that several classes have


def has_begun(self: Any) -> bool:
    """Whether the loop has begun."""
    return self.run is not None


def is_at_step(self: Any) -> bool:
    """Whether the next evaluation is the first one of its step."""
    i, timeline = self.step_index, self.timeline
    return not i or timeline is None or i >= len(timeline) or timeline.begins(i)


is_scale_input_called = property(has_begun)
state_in_first_order = property(is_at_step)


def switch(rule: str, what: str) -> property:
    """Return the attribute that says whether a ramp places the sigmas."""

    def chosen(self: Any) -> bool:
        return chosen_ramp(self.filled_config) == rule

    return property(chosen, doc=f"Whether sigmas {what}.")


use_karras_sigmas = switch("karras", "follow the ramp of arXiv:2206.00364")
use_exponential_sigmas = switch("exponential", "are even in their logarithm")
use_beta_sigmas = switch("beta", "are quantiles of a beta distribution")


def replan_churn(self: Any, plan: Plan, options: dict[str, Any]) -> Plan:
    """Return the plan with churn that is given to `step`, which only the reference can add."""
    if self.as_reference:
        return with_options(plan, tuple(options.items()))
    raise ValueError(
        f"{', '.join(options)}: at step() the network has already seen the sample, so noise can"
        " only be added after the evaluation, as the reference does; give these options to"
        " set_timesteps() or plan() for the paper's order, or construct the scheduler with"
        ' compatibility="diffusers" for the reference\'s'
    )


class SigmaScheduler(SchedulerMixin):
    """Base of the classes over a table of betas whose samples are x0 + sigma eps."""

    choices: ClassVar = BETA_CHOICES
    relations: ClassVar[Any] = (one_ramp,)
    _compatibles: ClassVar = EXCHANGEABLE

    alphas_cumprod, alphas, betas = tables_of(ve_betas)
    is_scale_input_called = is_scale_input_called
    use_karras_sigmas = use_karras_sigmas


class EulerDiscreteScheduler(SigmaScheduler):
    """Euler's method in sigma (arXiv:2206.00364, algorithm 2 without its second stage).

    Churn (s_churn, s_tmin, s_tmax, s_noise) is given to `plan` or `set_timesteps`, and noise is
    added before each evaluation, as in the paper. With compatibility="diffusers" it is added after
    the evaluation, as in the reference, and may be given to `step` too.
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        "prediction_type": "epsilon",
        "interpolation_type": "linear",
        **RAMP_OPTIONS,
        "sigma_min": None,
        "sigma_max": None,
        "timestep_spacing": "linspace",
        "timestep_type": "discrete",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "final_sigmas_type": "zero",
    }
    choices: ClassVar = {
        **BETA_CHOICES,
        "prediction_type": ("epsilon", "sample", "original_sample", "v_prediction"),
    }
    step_options: ClassVar = {**CHURN_OPTIONS, "generator": None, "return_dict": True}
    timesteps_options: ClassVar = {**TIMES, "timesteps": None, "sigmas": None}
    output_class = EulerDiscreteSchedulerOutput
    meaning = staticmethod(euler)

    use_exponential_sigmas = use_exponential_sigmas
    use_beta_sigmas = use_beta_sigmas
    replan = replan_churn


class EulerAncestralDiscreteScheduler(SigmaScheduler):
    """Ancestral sampling with Euler steps (k-diffusion, sample_euler_ancestral)."""

    options: ClassVar = {
        **BETA_OPTIONS,
        "prediction_type": "epsilon",
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    }
    output_class = EulerAncestralDiscreteSchedulerOutput
    meaning = staticmethod(euler_ancestral)


class HeunDiscreteScheduler(SigmaScheduler):
    """Heun's method (arXiv:2206.00364, algorithm 2): two evaluations a step, one for the last."""

    options: ClassVar = {
        **BETA_OPTIONS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "epsilon",
        **RAMP_OPTIONS,
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
    }
    hidden_options: ClassVar = RAMP_ENDS
    choices: ClassVar = {
        **BETA_CHOICES,
        "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "exp"),
    }
    step_options: ClassVar = {"return_dict": True}
    timesteps_options: ClassVar = {**TIMES, "num_train_timesteps": None, "timesteps": None}
    order = 2
    training_entries_are = "evaluations"
    output_class = HeunDiscreteSchedulerOutput
    meaning = staticmethod(heun)

    state_in_first_order = state_in_first_order


class LMSDiscreteScheduler(SigmaScheduler):
    """Linear multistep: Adams-Bashforth in sigma with exact weights (k-diffusion, sample_lms).

    `order` is given to `step`, the same in every step or lower in later ones, or to `plan` or
    `set_timesteps`. A run that starts later begins at order 1 as any does; the reference begins at
    the order of that entry, without the history that it needs.
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        **RAMP_OPTIONS,
        "prediction_type": "epsilon",
        "timestep_spacing": "linspace",
        "steps_offset": 0,
    }
    hidden_options: ClassVar = RAMP_ENDS
    step_options: ClassVar = {"order": 4, "return_dict": True}
    renamed: ClassVar = {"order": "solver_order"}
    output_class = LMSDiscreteSchedulerOutput
    meaning = staticmethod(lms)

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        """Return the weight of the slope at entry t - current_order in the step from entry t.

        That is the integral from sigmas[t] to sigmas[t + 1] of the polynomial that is 1 at that
        entry and 0 at the others of the newest `order`; a Gauss rule gives it exactly.
        """
        where, timeline = self.recipe().discretization, self.timeline
        points = where.training_points() if timeline is None else timeline.plan.grid.points
        sigmas = [where.level(p) for p in points]
        if not 0 <= current_order < order <= t + 1 < len(sigmas):
            raise ValueError(
                f"order={order}, t={t}, current_order={current_order}: needs 0 <= current_order <"
                f" order <= t + 1 < {len(sigmas)}, the number of sigmas"
            )
        nodes = [sigmas[t - k] for k in range(order)]
        return lagrange_integrals(nodes, sigmas[t], sigmas[t + 1])[current_order]
