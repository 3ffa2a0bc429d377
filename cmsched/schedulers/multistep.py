"""Multistep solvers: DPM-Solver and DPM-Solver++, also upward in noise, and DEIS."""

import itertools
import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from ..discretizations import Discretization, Ramp, TrainingSteps
from ..frozen import FrozenDict
from ..recipe import OnShortRuns, Recipe
from ..samplers.adams import ORDERS
from ..samplers.formulas import SOLVER_TYPES
from ..schedules import Point
from . import solvers
from .base import TIMES
from .betas import said, table_of, tables_of, vp_betas, vp_betas_finite
from .sigma import (
    RAMP_ENDS,
    RAMP_OPTIONS,
    chosen_ramp,
    use_beta_sigmas,
    use_exponential_sigmas,
    use_karras_sigmas,
)
from .solver_parts import SolverScheduler

__all__ = [
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverse",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
]

ALGORITHM_OPTIONS = {
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
}
SHORT = 15  # steps, below which lower_order_final lowers the order


def short_runs(c: FrozenDict) -> OnShortRuns | bool:
    """Return whether the order goes down at the end: in short runs, if lower_order_final is on."""
    return OnShortRuns(SHORT) if c.lower_order_final else False


def dpm_sampler(c: FrozenDict, reference: bool) -> tuple[str, dict[str, Any]]:
    """Return the multistep sampler of the options, and its own."""
    sde, third = c.algorithm_type.startswith("sde-"), c.get("third_order", "published")
    if sde and reference and third == "published":
        third = "reference"
    data = c.algorithm_type.endswith("++")
    return "dpmpp_multistep" if data else "dpm_multistep", {
        "solver_order": c.solver_order,
        "eta": 1.0 if sde else 0.0,
        "solver_type": c.solver_type,
        "third_order": third,
        "ramp_down": short_runs(c),
        "euler_at_final": bool(c.euler_at_final),
    }


def dpm_multistep(c: FrozenDict, reference: bool, *, mu: float | None = None) -> Recipe:
    """Return what the options of multistep DPM-Solver mean; mu is a flow's dynamic shift."""
    rounds = chosen_ramp(c) in ("karras", "lu") and c.beta_schedule != "squaredcos_cap_v2"
    where = solvers.steps(c, reference, vp_betas_finite(c, reference), mu, rounds=rounds)
    sampler, options = dpm_sampler(c, reference)
    return Recipe(sampler, where, said(c), options, idle=solvers.idle_options(c, mu))


def deis(c: FrozenDict, reference: bool, *, mu: float | None = None) -> Recipe:
    """Return what the options of DEIS mean; mu is a flow's dynamic shift."""
    rounds = chosen_ramp(c) == "karras" and not c.use_flow_sigmas
    where = solvers.steps(c, reference, vp_betas(c, reference), mu, rounds=rounds, doubles=True)
    options = {"solver_order": c.solver_order, "ramp_down": short_runs(c)}
    return Recipe("deis", where, said(c), options, idle=solvers.idle_options(c, mu))


# the inversion


@dataclass(frozen=True, kw_only=True)
class UpwardFrom(Discretization):
    """The starts of a run downwards, taken upwards: from the least noisy one to the noisiest level.

    Args:
        down: the discretization of that run.
    """

    down: Discretization

    def points(self, n: int) -> list[Point]:
        """Return the n points where steps up start."""
        if not isinstance(self.down, TrainingSteps):
            return self.down.points(max(n, 2))[::-1][:n]
        if self.down.spacing == "trailing":
            return self.down.points(n)[::-1]
        points = self.down.points(n + 1)[::-1]
        once = [a for a, b in itertools.pairwise(points) if a.t != b.t]
        return once or points[:-1]  # the noisiest is where the last step ends

    def training(self) -> list[Point]:
        """Return the points of all training steps, increasing."""
        return super().training()[::-1]

    def training_points(self) -> list[Point]:
        """Return these and the end, above which a ramp's may lie."""
        points = self.training()
        return [*points, max(points[-1], self.end, key=lambda p: p.ratio)]

    def at_times(self, times: list[float]) -> list[Point]:
        """Return the points at explicit model times, increasing."""
        return self.down.at_times(times)[::-1]

    def at_levels(self, levels: list[float], end: Point) -> list[Point]:
        """Return the points at explicit levels, increasing; a last entry at the end is left out."""
        top = self.level(end)
        values = levels[1:] if math.isclose(levels[0], top, rel_tol=1e-6) else levels
        if not values or not 0.0 < values[-1] <= values[0] < top:
            raise ValueError(
                f"sigmas must start above 0 and end below {top:g}, where the sample ends; got"
                f" {levels[::-1]}"
            )
        return [self.at_level(s) for s in reversed(values)]


def dpm_inverse(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of the inversion mean."""
    table = vp_betas(c, reference)
    down = solvers.steps(c, reference, table, rounds=chosen_ramp(c) == "karras", doubles=True)
    schedule = down.schedule
    if isinstance(down, TrainingSteps):
        down = replace(down, extra=False)
        end = schedule.at(t=float(solvers.noisiest(c, table)))
    elif isinstance(down, Ramp):
        end = schedule.at(ratio=solvers.ends_of_ramp(c, reference, table)[0])
    else:
        assert isinstance(down, solvers.SolverFlow)
        end = schedule.at(sigma=down.moved(down.even(1))[0])
    shared = {f.name: getattr(down, f.name) for f in fields(Discretization)}
    where = UpwardFrom(**{**shared, "end": end, "upward": True}, down=down)
    sampler, options = dpm_sampler(c, reference)
    return Recipe(sampler, where, said(c), options, idle=solvers.idle_options(c))


def has_formula(c: FrozenDict) -> None:
    """Raise where the third-order SDE solver for eps is asked for."""
    if c.solver_order == 3 and c.algorithm_type == "sde-dpmsolver":
        raise ValueError(
            'solver_order=3 has no formula with algorithm_type="sde-dpmsolver"; use'
            ' "sde-dpmsolver++" or solver_order=2'
        )


def deterministic(c: FrozenDict) -> None:
    """Raise where an inversion would add noise."""
    if c.algorithm_type.startswith("sde-"):
        raise ValueError(
            f'algorithm_type="{c.algorithm_type}" adds noise on the way down; inversion needs'
            ' "dpmsolver++" or "dpmsolver"'
        )


DPM_CHOICES = {
    **solvers.CHOICES,
    "solver_order": (1, 2, 3),
    "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
    "solver_type": tuple(SOLVER_TYPES),
}


class DPMSolverMultistepScheduler(SolverScheduler):
    """DPM-Solver (arXiv:2206.00927) and DPM-Solver++ (arXiv:2211.01095), multistep, ODE and SDE.

    use_flow_sigmas: samples are (1 - sigma) x0 + sigma eps, and levels are even in sigma, then
    shifted by flow_shift, or by e^mu (use_dynamic_shifting, mu of `set_timesteps`). With a ramp as
    well, its levels of sigma / alpha are those of the flow. Explicit sigmas of a flow are those
    before the shift, as pipelines pass them; a list to the end, as `sigmas` is, has the levels
    themselves.

    third_order="published" is the order-3 formula in use everywhere, which is second order; "exact"
    doubles the weight of its second difference and is third order.
    """

    meanings: ClassVar = {
        "variance_type": "a learned one says that the network has a second half of channels, "
        "which is left "
        "out.",
    }
    options: ClassVar = {
        **solvers.OPTIONS,
        **ALGORITHM_OPTIONS,
        "euler_at_final": False,
        **RAMP_OPTIONS,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "flow_shift": 1.0,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
        **solvers.SPACING_OPTIONS,
        "rescale_betas_zero_snr": False,
        **solvers.SHIFT_OPTIONS,
    }
    hidden_options: ClassVar = {"third_order": "published", **RAMP_ENDS}
    choices: ClassVar = DPM_CHOICES
    aliases: ClassVar = solvers.FOREIGN
    relations = (*solvers.RELATIONS, has_formula)
    step_options: ClassVar = {"generator": None, "variance_noise": None, "return_dict": True}
    timesteps_options: ClassVar = {**TIMES, "mu": None, "timesteps": None}
    single_noise = True
    meaning = staticmethod(dpm_multistep)

    alphas_cumprod, alphas, betas = tables_of(vp_betas_finite)
    alpha_t, sigma_t, lambda_t = solvers.lambda_table(vp_betas_finite)

    def dpm_solver_first_order_update(
        self, model_output: Any, *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after a first-order step from a converted output."""
        return self.update_of([model_output], sample, noise)

    def multistep_dpm_solver_second_order_update(
        self, model_output_list: list[Any], *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after a second-order step from the last two converted outputs."""
        return self.update_of(model_output_list[-2:], sample, noise)

    def multistep_dpm_solver_third_order_update(
        self, model_output_list: list[Any], *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after a third-order step from the last three converted outputs."""
        return self.update_of(model_output_list[-3:], sample, noise)


class DPMSolverMultistepInverseScheduler(SolverScheduler):
    """The same upward in noise: a clean sample back to the noise it would come from (inversion).

    `timesteps` increase. The sample given stands at the first of them, and the last step ends at
    the noisiest level.
    """

    meanings: ClassVar = {
        "variance_type": "a learned one says that the network has a second half of channels, "
        "which is left "
        "out.",
    }
    options: ClassVar = {
        **solvers.OPTIONS,
        **ALGORITHM_OPTIONS,
        "euler_at_final": False,
        **solvers.FLOW_OPTIONS,
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
        **solvers.SPACING_OPTIONS,
    }
    hidden_options: ClassVar = {"third_order": "published", **RAMP_ENDS}
    choices: ClassVar = DPM_CHOICES
    aliases: ClassVar = solvers.FOREIGN
    relations = (*solvers.RELATIONS, has_formula, deterministic)
    step_options: ClassVar = DPMSolverMultistepScheduler.step_options
    timesteps_options: ClassVar = TIMES
    meaning = staticmethod(dpm_inverse)

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    alpha_t, sigma_t, lambda_t = solvers.lambda_table(vp_betas)
    use_karras_sigmas = use_karras_sigmas
    use_exponential_sigmas = use_exponential_sigmas
    use_beta_sigmas = use_beta_sigmas
    dpm_solver_first_order_update = DPMSolverMultistepScheduler.dpm_solver_first_order_update
    multistep_dpm_solver_second_order_update = (
        DPMSolverMultistepScheduler.multistep_dpm_solver_second_order_update
    )
    multistep_dpm_solver_third_order_update = (
        DPMSolverMultistepScheduler.multistep_dpm_solver_third_order_update
    )

    @property
    def noisiest_timestep(self) -> int:
        """The training step where a run ends that no ramp or flow places."""
        return solvers.noisiest(self.filled_config, table_of(self, vp_betas))


DPMSolverMultistepInverse = DPMSolverMultistepInverseScheduler  # its former name


class DEISMultistepScheduler(SolverScheduler):
    """DEIS with its polynomial in log rho (arXiv:2204.13902), multistep.

    Flows are as in `DPMSolverMultistepScheduler`.
    """

    meanings: ClassVar = {
        "algorithm_type": "DEIS; others of files mean it as well.",
        "solver_type": "its polynomial is in log rho; others of files mean it as well.",
        "solver_order": "order of the solver: how many estimates a step is made from.",
    }
    options: ClassVar = {
        **solvers.OPTIONS,
        "algorithm_type": "deis",
        "solver_type": "logrho",
        "lower_order_final": True,
        **solvers.FLOW_OPTIONS,
        **solvers.SPACING_OPTIONS,
        **solvers.SHIFT_OPTIONS,
    }
    hidden_options: ClassVar = RAMP_ENDS
    choices: ClassVar = {
        **solvers.CHOICES,
        "solver_order": ORDERS,
        "algorithm_type": ("deis",),
        "solver_type": ("logrho",),
    }
    aliases: ClassVar = {
        **dict.fromkeys(("dpmsolver", "dpmsolver++"), "deis"),
        **dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"),
    }
    relations = solvers.RELATIONS
    step_options: ClassVar = {"return_dict": True}
    timesteps_options: ClassVar = {**SolverScheduler.timesteps_options, "mu": None}
    meaning = staticmethod(deis)

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    alpha_t, sigma_t, lambda_t = solvers.lambda_table(vp_betas)

    def deis_first_order_update(self, model_output: Any, *, sample: Any) -> Any:
        """Return the sample after a first-order step from a converted output."""
        return self.update_of([model_output], sample)

    def multistep_deis_second_order_update(
        self, model_output_list: list[Any], *, sample: Any
    ) -> Any:
        """Return the sample after a second-order step from the last two converted outputs."""
        return self.update_of(model_output_list[-2:], sample)

    def multistep_deis_third_order_update(
        self, model_output_list: list[Any], *, sample: Any
    ) -> Any:
        """Return the sample after a third-order step from the last three converted outputs."""
        return self.update_of(model_output_list[-3:], sample)
