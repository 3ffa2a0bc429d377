"""What the former Flax classes mean where PyTorch's mean something else; recipes, no arrays."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..discretizations import TrainingSteps
from ..frozen import FrozenDict
from ..grids import Grid
from ..plan import Plan, make_plan
from ..recipe import Recipe
from ..schedulers import linear_multistep, multistep, sigma, solvers
from ..schedulers import unipc as own_unipc
from ..schedules import Point

__all__ = ["ddim_anywhere", "ddpm_anywhere", "dpm_solver", "euler", "lms", "pndm", "unipc"]


def from_the_top(recipe: Recipe) -> Recipe:
    """Return a recipe whose run of one step starts at the noisiest time, not at the cleanest."""
    where = recipe.discretization
    if isinstance(where, TrainingSteps):
        where = replace(where, one_is_least=False)
    return replace(recipe, discretization=where)


def euler(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of Euler's method mean."""
    return from_the_top(sigma.euler(c, reference))


def lms(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of the linear multistep method mean."""
    return from_the_top(sigma.lms(c, reference))


def pndm(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of PNDM mean: steps below timestep 0 end there."""
    if reference:
        c = FrozenDict({**c, "set_alpha_to_one": False})
    return linear_multistep.pndm(c, reference)


def dpm_solver(c: FrozenDict, reference: bool, *, mu: float | None = None) -> Recipe:
    """Return what the options of multistep DPM-Solver mean; see `unipc`."""
    return between(multistep.dpm_multistep(c, reference, mu=mu))


def between(recipe: Recipe) -> Recipe:
    """Return a recipe whose steps lie between whole times where these do not suffice."""
    where: Any = recipe.discretization
    if isinstance(where, TrainingSteps):
        where = replace(where, crowded="between")
    return replace(recipe, discretization=where)


def unipc(c: FrozenDict, reference: bool, *, mu: float | None = None) -> Recipe:
    """Return what the options of UniPC mean.

    A flow's sigmas are those of DPM-Solver, which begin a training step below 1; and where whole
    times do not suffice for the steps, they lie between.
    """
    recipe = own_unipc.unipc(c, reference, mu=mu)
    where: Any = recipe.discretization
    if reference and isinstance(where, own_unipc.UniPCFlow):
        names = solvers.SolverFlow.__dataclass_fields__
        where = solvers.SolverFlow(**{name: getattr(where, name) for name in names})
    return between(replace(recipe, discretization=where))


# steps from every training step


def ddim_anywhere(recipe: Recipe, plan: Plan, reference: bool) -> Plan:
    """Return the plan of DDIM's steps from every training step, as far down as a plan's go."""
    train, n = recipe.discretization.train, plan.grid.first_step + len(plan.grid)
    return anywhere(recipe, plan, train // n if reference else None)


def ddpm_anywhere(recipe: Recipe, plan: Plan, reference: bool) -> Plan:
    """Return the plan of DDPM's steps from every training step to the one below."""
    return anywhere(recipe, plan, 1 if reference else None)


def anywhere(recipe: Recipe, plan: Plan, stride: int | None) -> Plan:
    """Return the plan of steps from every training step, one after the other.

    stride: how far down they go; None to the plan's next point below.
    """
    where, last = recipe.discretization, plan.grid.points[-1]
    points = where.training()
    listed = [*plan.grid.points[:-1]]

    def ends() -> Iterable[Point]:
        for p in points:
            if stride is None:
                yield next((q for q in listed if q.t < p.t), last)
            else:
                yield where.schedule.at(t=p.t - stride) if p.t >= stride else last

    whole = replace(plan.grid, points=(*points, last), ends=tuple(ends()), first_step=0)
    assert isinstance(whole, Grid)
    return make_plan(plan.sampler, whole, plan.prediction, dict(plan.options))
