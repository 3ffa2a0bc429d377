"""Singlestep DPM-Solver and DPM-Solver++."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from ..checks import check_count
from ..discretizations import MOST
from ..frozen import FrozenDict
from ..grids import Grid
from ..plan import Plan
from ..recipe import Recipe
from ..samplers.formulas import SOLVER_TYPES
from ..samplers.runge_kutta import group_sizes
from . import solvers
from .base import TIMES
from .betas import said, tables_of, vp_betas
from .habit import Run
from .sigma import RAMP_ENDS, chosen_ramp
from .solver_parts import SolverScheduler

__all__ = ["DPMSolverSinglestepScheduler"]


def dpm_singlestep(c: FrozenDict, reference: bool, *, mu: float | None = None) -> Recipe:
    """Return what the options of singlestep DPM-Solver mean; mu is a flow's dynamic shift."""
    rounds = chosen_ramp(c) == "karras" and not c.use_flow_sigmas
    where = solvers.steps(c, reference, vp_betas(c, reference), mu, rounds=rounds)
    options = {
        "solver_order": c.solver_order,
        "eta": 1.0 if c.algorithm_type.startswith("sde-") else 0.0,
        "solver_type": c.solver_type,
        "lower_order_final": bool(c.lower_order_final),
        "aligned": reference,
    }
    sampler = "dpmpp_singlestep" if c.algorithm_type.endswith("++") else "dpm_singlestep"
    return Recipe(sampler, where, said(c), options, idle=solvers.idle_options(c, mu))


def stages(grid: Grid, options: Any) -> list[int]:
    """Return for each stage its number within its step, from 1: the order it is taken with."""
    begun = grid.first_step if options["aligned"] else 0
    sizes = group_sizes(grid, options["solver_order"], options["lower_order_final"], begun)
    return [stage for size in sizes for stage in range(1, size + 1)]


def stage_ages(run: Run) -> Sequence[int]:
    """Return the ages of the outputs that the next stage may need: those of its step."""
    plan: Plan = run.plan
    stage = [*stages(plan.grid, plan.options), 1][run.entry - run.first]
    midpoint = plan.options["solver_type"] == "midpoint"
    return (2,) if stage == 3 and midpoint else range(1, stage)


class DPMSolverSinglestepScheduler(SolverScheduler):
    """DPM-Solver (arXiv:2206.00927) and DPM-Solver++ (arXiv:2211.01095) in steps of 1 to 3 stages.

    Each of num_inference_steps is one stage. Where their number is no multiple of solver_order, or
    the run ends at sigma = 0, the last steps are of lower order, as with lower_order_final=True. A
    run that begins later begins a step there; with compatibility="diffusers" it goes on with the
    steps of the whole run, the rest of one first. Flows are as in `DPMSolverMultistepScheduler`.
    """

    meanings: ClassVar = {
        "lower_order_final": "lower the order of the last steps where the number of "
        "evaluations is no multiple of "
        "solver_order, or the run ends at sigma = 0; both need it, and then it is done "
        "anyway.",
        "variance_type": "a learned one says that the network has a second half of channels, "
        "which is left "
        "out.",
    }
    options: ClassVar = {
        **solvers.OPTIONS,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": False,
        **solvers.FLOW_OPTIONS,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
        **solvers.SHIFT_OPTIONS,
    }
    hidden_options: ClassVar = RAMP_ENDS
    choices: ClassVar = {
        **solvers.CHOICES,
        "solver_order": (1, 2, 3),
        "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver++"),
        "solver_type": tuple(SOLVER_TYPES),
    }
    aliases: ClassVar = solvers.FOREIGN
    relations = solvers.RELATIONS
    timesteps_options: ClassVar = {**TIMES, "mu": None, "timesteps": None}
    eps_slot = ("k", 1)
    ages = staticmethod(stage_ages)
    meaning = staticmethod(dpm_singlestep)

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    alpha_t, sigma_t, lambda_t = solvers.lambda_table(vp_betas)

    def get_order_list(self, num_inference_steps: int) -> list[int]:
        """Return the order of every stage of a run with so many."""
        n = check_count("num_inference_steps", num_inference_steps, MOST)
        recipe = self.recipe()
        where = recipe.discretization
        ends = (*where.points(1) * n, where.end)  # what lies between is the same
        return stages(Grid(ends, where.schedule), recipe.options)

    @property
    def order_list(self) -> list[int]:
        """The order of every stage of the run, before `set_timesteps` of one over all steps."""
        if self.timeline is None:
            return self.get_order_list(len(self))
        return stages(self.timeline.plan.grid, self.recipe().options)

    def dpm_solver_first_order_update(
        self, model_output: Any, *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after a first-order step from a converted output."""
        return self.update_of([model_output], sample, noise)

    def singlestep_dpm_solver_second_order_update(
        self, model_output_list: Sequence[Any], *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after the second stage; `sample` is that of the first one."""
        return self.update_of(model_output_list[-2:], sample, noise)

    def singlestep_dpm_solver_third_order_update(
        self, model_output_list: Sequence[Any], *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after the third stage; `sample` is that of the first one."""
        return self.update_of(model_output_list[-3:], sample, noise)

    def singlestep_dpm_solver_update(
        self, model_output_list: Sequence[Any], *, sample: Any, order: int, noise: Any = None
    ) -> Any:
        """Return the sample after the stage of this number; `sample` is that of the first one."""
        if order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, got {order!r}")
        return self.update_of(model_output_list[-order:], sample, noise)
