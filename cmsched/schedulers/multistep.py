"""Multistep solvers: DPM-Solver and DPM-Solver++, also upward in noise, and DEIS."""

import math
from typing import Any, ClassVar

from ..samplers import multistep
from ..samplers.adams import ORDERS
from ..schedules import Point
from .config import FrozenDict
from .solvers import FLOW_OPTIONS, SHIFT_OPTIONS, SOLVER_OPTIONS, SPACING_OPTIONS, SolverScheduler
from .variance_exploding import RAMP_OPTIONS, chosen_ramp

__all__ = [
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverse",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
]

ALGORITHMS = ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")
FOREIGN = {"deis": "dpmsolver++", "logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"}
ALGORITHM_OPTIONS = {
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
}


class DPMSolverMultistepScheduler(SolverScheduler):
    """DPM-Solver (arXiv:2206.00927) and DPM-Solver++ (arXiv:2211.01095), multistep, ODE and SDE.

    third_order="published" is the order-3 formula in use everywhere, which is second order; "exact"
    doubles the weight of its second difference and is third order.
    """

    options: ClassVar = {
        **SOLVER_OPTIONS,
        **ALGORITHM_OPTIONS,
        "euler_at_final": False,
        **RAMP_OPTIONS,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "flow_shift": 1.0,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
        **SPACING_OPTIONS,
        "rescale_betas_zero_snr": False,
        **SHIFT_OPTIONS,
    }
    hidden_options: ClassVar = {"third_order": "published"}
    step_options: ClassVar = {"generator": None, "variance_noise": None, "return_dict": True}
    timesteps_options: ClassVar = {
        "num_inference_steps": None,
        "device": None,
        "mu": None,
        "timesteps": None,
    }
    choices: ClassVar = {
        "solver_order": (1, 2, 3),
        "algorithm_type": ALGORITHMS,
        "solver_type": multistep.SOLVERS,
        "third_order": ("published", "exact"),
    }
    foreign = FOREIGN
    terminal = 2.0**-24

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        if config.solver_order == 3 and config.algorithm_type == "sde-dpmsolver":
            raise ValueError(
                'solver_order=3 has no formula with algorithm_type="sde-dpmsolver"; use'
                ' "sde-dpmsolver++" or solver_order=2'
            )

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        sde, third = config.algorithm_type.startswith("sde-"), config.third_order
        if sde and self._copies and third == "published":
            third = "reference"
        return "dpmpp_multistep" if self._data(config) else "dpm_multistep", {
            "solver_order": config.solver_order,
            "eta": 1.0 if sde else 0.0,
            "solver_type": self._own(config, "solver_type"),
            "third_order": third,
            "ramp_down": bool(config.lower_order_final) and n < 15,
            "euler_at_final": bool(config.euler_at_final),
        }

    def _rounds(self, config: FrozenDict, ramp: str) -> bool:
        return ramp in ("karras", "lu") and config.beta_schedule != "squaredcos_cap_v2"

    def dpm_solver_first_order_update(
        self, model_output: Any, *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after a first-order step from a converted output."""
        return self._update([model_output], sample, noise)

    def multistep_dpm_solver_second_order_update(
        self, model_output_list: list[Any], *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after a second-order step from the last two converted outputs."""
        return self._update(model_output_list[-2:], sample, noise)

    def multistep_dpm_solver_third_order_update(
        self, model_output_list: list[Any], *, sample: Any, noise: Any = None
    ) -> Any:
        """Return the sample after a third-order step from the last three converted outputs."""
        return self._update(model_output_list[-3:], sample, noise)


class DPMSolverMultistepInverseScheduler(DPMSolverMultistepScheduler):
    """The same upward in noise: a clean sample back to the noise it would come from (inversion).

    `timesteps` increase. The sample given stands at the first of them, and the last step ends at
    the noisiest level.
    """

    options: ClassVar = {
        **SOLVER_OPTIONS,
        **ALGORITHM_OPTIONS,
        "euler_at_final": False,
        **FLOW_OPTIONS,
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
        **SPACING_OPTIONS,
    }
    timesteps_options: ClassVar = {"num_inference_steps": None, "device": None}
    grid_options = ()
    terminal = 0.0
    upward = True
    doubles = True

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        if config.algorithm_type.startswith("sde-"):
            raise ValueError(
                f'algorithm_type="{config.algorithm_type}" adds noise on the way down; inversion'
                ' needs "dpmsolver++" or "dpmsolver"'
            )

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        schedule = self._schedule(config)
        if chosen_ramp(config):
            return schedule.at(ratio=self._ends(config)[0])
        if config.use_flow_sigmas:
            return schedule.at(sigma=self._flow_sigmas(config, 1, config.flow_shift)[0])
        return schedule.at(t=float(self._noisiest(config)))

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        placed = config.use_flow_sigmas or chosen_ramp(config) is not None
        points = super()._points(config, max(n, 2) if placed else n, **options)
        return points[::-1][:n]

    def _rounds(self, config: FrozenDict, ramp: str) -> bool:
        return ramp == "karras"

    def _times(self, config: FrozenDict, n: int, *, extra: bool = False) -> list[float]:
        """Return times of which the noisiest is left out, but for trailing ones."""
        if config.timestep_spacing == "trailing":
            return super()._times(config, n, extra=False)
        return super()._times(config, n + 1, extra=False)[1:]

    def _at_timesteps(
        self, config: FrozenDict, timesteps: list[float], **options: Any
    ) -> list[Point]:
        return super()._at_timesteps(config, timesteps)[::-1]

    def _at_sigmas(
        self, config: FrozenDict, sigmas: list[float], last: Point, **options: Any
    ) -> list[Point]:
        end = self._exposed(last)
        values = sigmas[1:] if math.isclose(sigmas[0], end, rel_tol=1e-6) else sigmas
        if not values or not 0.0 < values[-1] <= values[0] < end:
            raise ValueError(
                f"sigmas must start above 0 and end below {end:g}, where the sample ends; got"
                f" {sigmas[::-1]}"
            )
        schedule = self._schedule(config)
        name = "sigma" if schedule.frame == "flow" else "ratio"
        return [schedule.at(**{name: s}) for s in reversed(values)]

    def _sigma_points(self) -> list[Point]:
        if self._plan is not None:
            return super()._sigma_points()
        return [*self._training_points(), self._last(self._options)]

    @property
    def noisiest_timestep(self) -> int:
        """The training step where a run ends that no ramp or flow places."""
        return self._noisiest(self._options)

    @property
    def use_karras_sigmas(self) -> bool:
        """Whether sigmas follow the ramp of arXiv:2206.00364."""
        return chosen_ramp(self._options) == "karras"

    @property
    def use_exponential_sigmas(self) -> bool:
        """Whether sigmas are even in their logarithm."""
        return chosen_ramp(self._options) == "exponential"

    @property
    def use_beta_sigmas(self) -> bool:
        """Whether sigmas are quantiles of a beta distribution."""
        return chosen_ramp(self._options) == "beta"


DPMSolverMultistepInverse = DPMSolverMultistepInverseScheduler  # its former name


class DEISMultistepScheduler(SolverScheduler):
    """DEIS with its polynomial in log rho (arXiv:2204.13902), multistep."""

    options: ClassVar = {
        **SOLVER_OPTIONS,
        "algorithm_type": "deis",
        "solver_type": "logrho",
        "lower_order_final": True,
        **FLOW_OPTIONS,
        **SPACING_OPTIONS,
        **SHIFT_OPTIONS,
    }
    step_options: ClassVar = {"return_dict": True}
    timesteps_options: ClassVar = {
        **SolverScheduler.timesteps_options,
        "mu": None,
    }
    choices: ClassVar = {
        "solver_order": ORDERS,
        "algorithm_type": ("deis",),
        "solver_type": ("logrho",),
    }
    foreign: ClassVar = {
        **dict.fromkeys(("dpmsolver", "dpmsolver++"), "deis"),
        **dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"),
    }
    doubles = True

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        ramp_down = bool(config.lower_order_final) and n < 15
        return "deis", {"solver_order": config.solver_order, "ramp_down": ramp_down}

    def deis_first_order_update(self, model_output: Any, *, sample: Any) -> Any:
        """Return the sample after a first-order step from a converted output."""
        return self._update([model_output], sample)

    def multistep_deis_second_order_update(
        self, model_output_list: list[Any], *, sample: Any
    ) -> Any:
        """Return the sample after a second-order step from the last two converted outputs."""
        return self._update(model_output_list[-2:], sample)

    def multistep_deis_third_order_update(
        self, model_output_list: list[Any], *, sample: Any
    ) -> Any:
        """Return the sample after a third-order step from the last three converted outputs."""
        return self._update(model_output_list[-3:], sample)
