"""EDM (arXiv:2206.00364): noise levels without a table, preconditioned networks."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import checks, ramps
from ..backends import resolve
from ..discretizations import Discretization
from ..engine.checks import check_like
from ..frozen import FrozenDict
from ..plan import Plan, make_plan
from ..predictions import Prediction
from ..recipe import Fixed, Recipe, Start
from ..schedules import Logarithmic, Point
from .base import TIMES
from .habit import SchedulerMixin
from .options import in_order
from .outputs import EDMEulerSchedulerOutput
from .sigma import CHURN_OPTIONS, churned, is_scale_input_called, replan_churn

__all__ = ["EDMEulerScheduler"]

Array = Any
# c_out > 0, as in the paper, and c_out < 0
PREDICTIONS = {"epsilon": "edm", "v_prediction": "edm_v"}


@dataclass(frozen=True, kw_only=True)
class Between(Discretization):
    """Levels at places on a ramp, 0 at its highest and 1 at its lowest.

    Args:
        high: the highest level.
        low: the lowest one.
        rho: of EDM's ramp (arXiv:2206.00364, eq. 5); None for one even in log sigma.
        takes_places: whether explicit sigmas are places on the ramp, as in the reference.
    """

    high: float
    low: float
    rho: float | None
    takes_places: bool = False

    def points(self, n: int) -> list[Point]:
        """Return the points at n even places."""
        places = np.linspace(0, 1, n)
        if n == 1 and self.rho is None and self.takes_places:
            places = np.ones(1)  # the reference's one exponential level is the least noisy
        return [self.schedule.at(ratio=s) for s in self.levels(places)]

    def training(self) -> list[Point]:
        """Return the points of as many as there are training steps."""
        return self.points(self.train)

    def levels(self, places: np.ndarray) -> list[float]:
        """Return the levels at places."""
        if self.rho is None:
            levels = self.high * (self.low / self.high) ** places
        else:
            levels = ramps.ramp(places, self.high, self.low, rho=self.rho)
        ends = np.where(places == 0, self.high, np.where(places == 1, self.low, levels))
        out: list[float] = ends.tolist()
        return out

    def entries(self, name: str, values: Any) -> list[float]:
        """Return an explicit list of levels; in the reference it is one of places."""
        if name != "sigmas" or not self.takes_places:
            return super().entries(name, values)
        table = np.asarray(checks.host(values), dtype=np.float64)
        up = table.ndim == 1 and table.size > 0 and bool(np.all(np.diff(table) > 0))
        if not up or not 0 <= table[0] <= table[-1] <= 1:
            raise ValueError(
                'sigmas, with compatibility="diffusers", are places on the ramp, increasing from 0'
                f' to 1, got {values!r}; compatibility="paper" takes noise levels'
            )
        return self.levels(table)

    def at_times(self, times: list[float]) -> list[Point]:
        """Return the points at times log(sigma) / 4 between the ends."""
        low, high = (0.25 * math.log(end) for end in (self.low, self.high))
        if not low - 1e-6 <= times[-1] <= times[0] <= high + 1e-6:
            raise ValueError(
                f"timesteps={times} lie outside [{low:g}, {high:g}]: they are log(sigma) / 4"
                " from sigma_min to sigma_max; pass sigmas for other levels"
            )
        return super().at_times(times)

    def at_levels(self, levels: list[float], end: Point) -> list[Point]:
        """Return the points at levels; the end comes after those at places."""
        if not self.takes_places:
            return super().at_levels(levels, end)
        return [self.schedule.at(ratio=s) for s in levels]


def edm_euler(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of Euler's method with EDM's preconditioning mean."""
    data = float(c.sigma_data)
    schedule = Logarithmic(frame="ve", sigma_data=data, factor=0.25)
    zero = c.final_sigmas_type == "zero"
    where = Between(
        schedule=schedule,
        end=schedule.point(0.0, 0.0) if zero else schedule.at(ratio=float(c.sigma_min)),
        train=c.num_train_timesteps,
        repeats_end=reference,
        high=float(c.sigma_max),
        low=float(c.sigma_min),
        rho=c.rho if c.sigma_schedule == "karras" else None,
        takes_places=reference,
    )
    prediction = Prediction(PREDICTIONS[c.prediction_type], sigma_data=data)
    sampler, options = churned(reference, str(prediction.type), data)
    start: Fixed | Start = Fixed(math.hypot(c.sigma_max, 1.0)) if reference else Start("spread")
    return Recipe(sampler, where, prediction, options, start)


def number(sigma: Any) -> Any:
    """Return a NumPy number as a float, which keeps an array's dtype; others as they are."""
    return float(sigma) if isinstance(sigma, np.generic) else sigma


class EDMEulerScheduler(SchedulerMixin):
    """Euler's method with EDM's preconditioning (arXiv:2206.00364, table 1 and algorithm 2).

    The network sees c_in x and log(sigma) / 4, and says (x0 - c_skip x) / c_out ("epsilon", as in
    the paper) or the negative of it ("v_prediction").

    Churn is given to `plan` or `set_timesteps`, and noise is added before each evaluation. With
    compatibility="diffusers" it is added after the evaluation, as in the reference, and may be
    given to `step` too; and `sigmas` are then what the reference takes them for: places between 0
    and 1, increasing, on the ramp from sigma_max to sigma_min.
    """

    meanings: ClassVar = {
        "sigma_min": "lowest level of the ramp.",
        "sigma_max": "highest level of the ramp.",
        "num_train_timesteps": "levels that `sigmas` shows before `set_timesteps`; no run "
        "depends on it.",
        "prediction_type": '"epsilon", the network says (x0 - c_skip x) / c_out, as in the paper; '
        '"v_prediction", the negative of it.',
        "final_sigmas_type": 'the level after the last step: "zero", a clean sample; '
        '"sigma_min", that level.',
    }
    options: ClassVar = {
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "sigma_data": 0.5,
        "sigma_schedule": "karras",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "rho": 7.0,
        "final_sigmas_type": "zero",
    }
    choices: ClassVar = {"prediction_type": tuple(PREDICTIONS)}
    relations = (in_order("sigma_min", "sigma_max"),)
    step_options: ClassVar = {
        **CHURN_OPTIONS,
        "generator": None,
        "return_dict": True,
        "pred_original_sample": None,
    }
    timesteps_options: ClassVar = {**TIMES, "sigmas": None}
    output_class = EDMEulerSchedulerOutput
    meaning = staticmethod(edm_euler)

    is_scale_input_called = is_scale_input_called

    def read_output(self, model_output: Array, sample: Array, options: dict[str, Any]) -> Array:
        """Return `pred_original_sample`, which is x0 whatever the network says, if it is given."""
        given = options.pop("pred_original_sample", None)
        if given is None:
            return model_output
        check_like(resolve(sample), sample, "pred_original_sample", given)
        options["pred_original_sample"] = True
        return given

    def replan(self, plan: Plan, options: dict[str, Any]) -> Plan:
        """Return the plan with other options, or for an output that is x0 itself."""
        if options.pop("pred_original_sample", False):
            changed = {"prediction_type": "sample"} if self.as_reference else {}
            said = Prediction("sample")
            plan = make_plan(plan.sampler, plan.grid, said, {**plan.options, **changed})
        return replan_churn(self, plan, options) if options else plan

    # the preconditioning in parts

    def precondition_inputs(self, sample: Array, sigma: Any) -> Array:
        """Return c_in x = x / sqrt(sigma^2 + sigma_data^2), what the network sees.

        sigma: a number, or an array that broadcasts against sample, which may be of any framework.
        """
        return sample * (1 / (number(sigma) ** 2 + self.filled_config.sigma_data**2) ** 0.5)

    def precondition_noise(self, sigma: Any) -> Array:
        """Return c_noise = log(sigma) / 4 of an array, or of a number as an array of shape (1,)."""
        if hasattr(number(sigma), "shape"):
            return 0.25 * resolve(sigma).xp.log(sigma)
        return self.show(np.array([0.25 * math.log(sigma)]))

    def precondition_outputs(self, sample: Array, model_output: Array, sigma: Any) -> Array:
        """Return the estimate x0 = c_skip x + c_out m; sigma as in `precondition_inputs`."""
        config, sigma = self.filled_config, number(sigma)
        data = config.sigma_data
        size = sigma**2 + data**2
        sign = -1 if config.prediction_type == "v_prediction" else 1
        return (data**2 / size) * sample + (sign * sigma * data / size**0.5) * model_output
