"""Classes that evaluate a second time inside a step: DPM-Solver-2 and DPM-Solver++ SDE."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from .. import checks
from ..backends import Backend
from ..discretizations import Discretization, RampOfSteps
from ..frozen import FrozenDict
from ..noise import Rng
from ..recipe import Recipe
from ..schedules import Point, Schedule
from .base import UNSET
from .betas import BETA_OPTIONS
from .outputs import (
    DPMSolverSDESchedulerOutput,
    KDPM2AncestralDiscreteSchedulerOutput,
    KDPM2DiscreteSchedulerOutput,
)
from .sigma import (
    RAMP_ENDS,
    RAMP_OPTIONS,
    LevelsOnly,
    SigmaScheduler,
    one_ramp,
    sigma_recipe,
    some_of,
    state_in_first_order,
)

__all__ = [
    "DPMSolverSDEScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
]

Middle = Callable[[Point, Point], float]


def half_way(a: Point, b: Point) -> float:
    """Return sigma / alpha half way between two points in its logarithm."""
    return math.sqrt(a.ratio * b.ratio)


def half_way_down(a: Point, b: Point) -> float:
    """Return the same to where an ancestral step goes down, b.ratio^2 / a.ratio: it is b's own."""
    return b.ratio


@dataclass(frozen=True)
class Starts:
    """Reads explicit timesteps of all evaluations, a start and a middle in turn, as the starts."""

    schedule: Schedule
    middle: Middle

    def __call__(self, name: str, values: Any) -> Any:
        """Return a list of starts."""
        table = np.asarray(checks.host(values))
        if name != "timesteps" or table.ndim != 1 or table.size % 2 == 0 or table.dtype.kind != "f":
            return values
        starts = table[::2]
        try:
            points = [self.schedule.at(t=t) for t in starts.tolist()]
        except ValueError:  # no such times: the discretization says so
            return values
        middles = [self.schedule.time_at(self.middle(a, b)) for a, b in itertools.pairwise(points)]
        times = np.array([*np.ravel([*zip(starts, middles, strict=False)]), starts[-1]])
        # whole numbers are starts: middles lie between training steps
        same = np.any(table % 1) and np.allclose(times, table, rtol=1e-7, atol=1e-9)
        return starts if same else values


def two_stage(
    c: FrozenDict,
    reference: bool,
    sampler: str,
    middle: Middle,
    num_train_timesteps: int | None,
    told: str | None = None,
    deaf: tuple[str, ...] = (),
) -> Recipe:
    """Return the recipe of a sampler whose second evaluation lies between the ends of a step."""
    among = some_of(c, num_train_timesteps)
    recipe = sigma_recipe(c, reference, sampler, among=among, evaluations=2, deaf=deaf)
    where: Discretization = recipe.discretization
    if not isinstance(where, RampOfSteps):
        where = replace(where, reading=Starts(where.schedule, middle))
    else:
        where = replace(where, reading=LevelsOnly(where.rule))
        if where.rule == "karras" and reference:
            where = replace(where, told=told)
    return replace(recipe, discretization=where)


def kdpm2(c: FrozenDict, reference: bool, *, num_train_timesteps: int | None = None) -> Recipe:
    """Return what the options of DPM-Solver-2 mean; see `heun`."""
    return two_stage(c, reference, "dpm2", half_way, num_train_timesteps, "rounded")


def kdpm2_ancestral(
    c: FrozenDict, reference: bool, *, num_train_timesteps: int | None = None
) -> Recipe:
    """Return the same with ancestral noise."""
    return two_stage(c, reference, "dpm2_ancestral", half_way_down, num_train_timesteps, "rounded")


def dpmpp_sde(c: FrozenDict, reference: bool, *, num_train_timesteps: int | None = None) -> Recipe:
    """Return what the options of DPM-Solver++ SDE mean; see `heun`."""
    return two_stage(c, reference, "dpmpp_sde", half_way, num_train_timesteps, deaf=("karras",))


KDPM2_OPTIONS = {
    **BETA_OPTIONS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    **RAMP_OPTIONS,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}
TIMESTEPS_OPTIONS = {"num_inference_steps": UNSET, "device": None, "num_train_timesteps": None}


class KDPM2DiscreteScheduler(SigmaScheduler):
    """DPM-Solver-2 in sigma (k-diffusion, sample_dpm_2): the middle in log sigma says the slope.

    `timesteps` has the times of all evaluations, a start and a middle in turn; beside an entry of
    `timesteps` that begins a step stands its own level in `sigmas`, beside the next one that which
    the step goes to (the levels of all evaluations are in `plan(n).points`). With
    compatibility="diffusers" the times of Karras sigmas are rounded, as in the reference.
    """

    options: ClassVar = KDPM2_OPTIONS
    hidden_options: ClassVar = RAMP_ENDS
    step_options: ClassVar = {"return_dict": True}
    timesteps_options: ClassVar = TIMESTEPS_OPTIONS
    order = 2
    training_entries_are = "evaluations"
    sigmas_are = "ends"
    output_class = KDPM2DiscreteSchedulerOutput
    meaning = staticmethod(kdpm2)
    state_in_first_order = state_in_first_order


class KDPM2AncestralDiscreteScheduler(SigmaScheduler):
    """DPM-Solver-2 with ancestral noise (k-diffusion, sample_dpm_2_ancestral).

    Times and levels are listed as by `KDPM2DiscreteScheduler`.
    """

    options: ClassVar = KDPM2_OPTIONS
    hidden_options: ClassVar = RAMP_ENDS
    step_options: ClassVar = {"generator": None, "return_dict": True}
    timesteps_options: ClassVar = TIMESTEPS_OPTIONS
    order = 2
    training_entries_are = "evaluations"
    sigmas_are = "ends"
    output_class = KDPM2AncestralDiscreteSchedulerOutput
    meaning = staticmethod(kdpm2_ancestral)
    state_in_first_order = state_in_first_order


def paths(seed: Any) -> Rng | list[Rng] | None:
    """Return the Brownian paths of a seed, one for each sample of a list; none of None."""
    if seed is None:
        return None
    try:
        many = isinstance(seed, list | tuple)
        return [Rng(s, path=True) for s in seed] if many else Rng(seed, path=True)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"noise_sampler_seed={seed!r} must be None, an integer from 0 to 2**64 - 1, or a list"
            " with one for each sample"
        ) from error


def has_paths(c: FrozenDict) -> None:
    """Raise where the seed is none."""
    paths(c.noise_sampler_seed)


class DPMSolverSDEScheduler(SigmaScheduler):
    """DPM-Solver++ SDE in two stages (k-diffusion, sample_dpmpp_sde).

    Without `generator=` the stateful habit takes its noise from `noise_sampler_seed`: the
    increments of one Brownian path, `cmsched.Rng(noise_sampler_seed, path=True)`, or of one for
    each sample if that is a list; if it is None, from fresh entropy. The reference's path of the
    same seed is another one. Times and levels are listed as by `KDPM2DiscreteScheduler`.
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "epsilon",
        **RAMP_OPTIONS,
        "noise_sampler_seed": None,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
    }
    hidden_options: ClassVar = RAMP_ENDS
    relations = (one_ramp, has_paths)
    step_options: ClassVar = {"return_dict": True, "s_noise": 1.0}
    timesteps_options: ClassVar = TIMESTEPS_OPTIONS
    order = 2
    training_entries_are = "evaluations"
    sigmas_are = "ends"
    output_class = DPMSolverSDESchedulerOutput
    meaning = staticmethod(dpmpp_sde)
    state_in_first_order = state_in_first_order

    @property
    def noise_sampler_seed(self) -> int | list[int] | None:
        """The seed of the noise that `step` adds if it is given no other."""
        seed: int | list[int] | None = self.filled_config.noise_sampler_seed
        return seed

    def noise_source(self, backend: Backend, device: Any) -> tuple[Any, int | None]:
        """Return the Brownian paths of the seed, if there is one."""
        own = paths(self.noise_sampler_seed)
        return self.fresh_noise(backend, device) if own is None else (own, None)
