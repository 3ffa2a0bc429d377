"""Singlestep DPM-Solver and DPM-Solver++."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from .._messages import check_count
from ..plan import Plan
from ..samplers import multistep
from ..samplers.runge_kutta import groups
from ..spacings import Grid
from .base import Run
from .config import FrozenDict
from .multistep import FOREIGN
from .plans import MOST
from .solvers import FLOW_OPTIONS, SHIFT_OPTIONS, SOLVER_OPTIONS, SolverScheduler

__all__ = ["DPMSolverSinglestepScheduler"]


class DPMSolverSinglestepScheduler(SolverScheduler):
    """DPM-Solver (arXiv:2206.00927) and DPM-Solver++ (arXiv:2211.01095) in steps of 1 to 3 stages.

    Each of num_inference_steps is one stage. Where their number is no multiple of solver_order, or
    the run ends at sigma = 0, the last steps are of lower order, as with lower_order_final=True. A
    run that begins later begins a step there; with compatibility="diffusers" it goes on with the
    steps of the whole run, the rest of one first.
    """

    options: ClassVar = {
        **SOLVER_OPTIONS,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": False,
        **FLOW_OPTIONS,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
        **SHIFT_OPTIONS,
    }
    timesteps_options: ClassVar = {
        "num_inference_steps": None,
        "device": None,
        "mu": None,
        "timesteps": None,
    }
    choices: ClassVar = {
        "solver_order": (1, 2, 3),
        "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver++"),
        "solver_type": multistep.SOLVERS,
    }
    foreign = FOREIGN
    kept = ("k", 1)

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "dpmpp_singlestep" if self._data(config) else "dpm_singlestep", {
            "solver_order": config.solver_order,
            "eta": 1.0 if config.algorithm_type.startswith("sde-") else 0.0,
            "solver_type": self._own(config, "solver_type"),
            "lower_order_final": bool(config.lower_order_final),
            "aligned": self._copies,
        }

    def _stages(self, grid: Grid) -> list[int]:
        """Return for each stage its number within its step, from 1: the order it is taken with."""
        config = self._options
        begun = grid.skipped if self._copies else 0
        sizes = groups(grid, config.solver_order, bool(config.lower_order_final), begun)
        return [stage for size in sizes for stage in range(1, size + 1)]

    def get_order_list(self, num_inference_steps: int) -> list[int]:
        """Return the order of every stage of a run with so many."""
        config, n = self._options, check_count("num_inference_steps", num_inference_steps, MOST)
        ends = (*self._points(config, 1) * n, self._last(config))  # what lies between is the same
        return self._stages(Grid(ends, self._schedule(config)))

    @property
    def order_list(self) -> list[int]:
        """The order of every stage of the run, before `set_timesteps` of one over all steps."""
        plan: Plan | None = self._plan
        return self.get_order_list(len(self)) if plan is None else self._stages(plan.grid)

    def _held(self, run: Run) -> Sequence[int]:
        stage = [*self._stages(run.plan.grid), 1][run.entry - run.first]
        midpoint = run.plan.options["solver_type"] == "midpoint"
        return (2,) if stage == 3 and midpoint else range(1, stage)

    def dpm_solver_first_order_update(
        self, model_output: Any, *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after a first-order step from a converted output."""
        return self._update([model_output], sample, noise)

    def singlestep_dpm_solver_second_order_update(
        self, model_output_list: Sequence[Any], *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after the second stage; `sample` is that of the first one."""
        return self._update(model_output_list[-2:], sample, noise)

    def singlestep_dpm_solver_third_order_update(
        self, model_output_list: Sequence[Any], *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after the third stage; `sample` is that of the first one."""
        return self._update(model_output_list[-3:], sample, noise)

    def singlestep_dpm_solver_update(
        self, model_output_list: Sequence[Any], *, sample: Any, order: int, noise: Any = None
    ) -> Any:
        """Return the sample after the stage of this number; `sample` is that of the first one."""
        if order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, got {order!r}")
        return self._update(model_output_list[-order:], sample, noise)
