"""EDM (arXiv:2206.00364): noise levels without a table, preconditioned networks."""

import math
from typing import Any, ClassVar

import numpy as np

from .. import engine, spacings
from .._messages import choose
from ..backends import resolve
from ..plan import Plan, make_plan
from ..predictions import Prediction
from ..schedules import Logarithmic, Point
from .config import FrozenDict
from .outputs import OriginalSampleOutput
from .variance_exploding import Churned

__all__ = ["EDMEulerScheduler", "EDMEulerSchedulerOutput"]

Array = Any
# c_out > 0, as in the paper, and c_out < 0
PREDICTIONS = {"epsilon": "edm", "v_prediction": "edm_v"}


def number(sigma: Any) -> Any:
    """Return a NumPy number as a float, which keeps an array's dtype; others as they are."""
    return float(sigma) if isinstance(sigma, np.generic) else sigma


class EDMEulerSchedulerOutput(OriginalSampleOutput):
    """Output of `EDMEulerScheduler.step`."""


class EDMEulerScheduler(Churned):
    """Euler's method with EDM's preconditioning (arXiv:2206.00364, table 1 and algorithm 2).

    The network sees c_in x and log(sigma) / 4, and says (x0 - c_skip x) / c_out ("epsilon", as in
    the paper) or the negative of it ("v_prediction").

    Churn is given to `plan` or `set_timesteps`, and noise is added before each evaluation. With
    compatibility="diffusers" it is added after the evaluation, as in the reference, and may be
    given to `step` too; and `sigmas` are then what the reference takes them for: places between 0
    and 1, increasing, on the ramp from sigma_max to sigma_min.
    """

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
    step_options: ClassVar = {**Churned.step_options, "pred_original_sample": None}
    timesteps_options: ClassVar = {"num_inference_steps": None, "device": None, "sigmas": None}
    output_class = EDMEulerSchedulerOutput
    whole_times = False
    limited = False

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        choose("sigma_schedule", config.sigma_schedule, ("karras", "exponential"))
        choose("prediction_type", config.prediction_type, PREDICTIONS)
        choose("final_sigmas_type", config.final_sigmas_type, ("zero", "sigma_min"))
        for name in ("sigma_min", "sigma_data", "rho"):
            if not config[name] > 0:
                raise ValueError(f"{name} must be positive, got {config[name]}")
        if not config.sigma_max > config.sigma_min:
            raise ValueError(
                f"sigma_max={config.sigma_max} must be above sigma_min={config.sigma_min}"
            )

    def _schedule(self, config: FrozenDict) -> Logarithmic:
        return Logarithmic(frame="ve", sigma_data=float(config.sigma_data), factor=0.25)

    def _prediction(self, config: FrozenDict) -> Prediction:
        return Prediction(PREDICTIONS[config.prediction_type], sigma_data=float(config.sigma_data))

    def _init_scale(self, config: FrozenDict, first: Point) -> float:
        return math.hypot(config.sigma_max if self._copies else first.sigma, 1.0)

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        schedule = self._schedule(config)
        if config.final_sigmas_type == "zero":
            return schedule.point(0.0, 0.0)
        return schedule.at(ratio=float(config.sigma_min))

    def _levels_at(self, config: FrozenDict, places: np.ndarray) -> list[float]:
        """Return the levels at places on the ramp, 0 at sigma_max and 1 at sigma_min."""
        high, low = float(config.sigma_max), float(config.sigma_min)
        if config.sigma_schedule == "karras":
            levels = spacings.ramp(places, high, low, rho=config.rho)
        else:
            levels = high * (low / high) ** places
        out: list[float] = np.where(places == 0, high, np.where(places == 1, low, levels)).tolist()
        return out

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        places = np.linspace(0, 1, n)
        if n == 1 and config.sigma_schedule == "exponential" and self._copies:
            places = np.ones(1)  # the reference's one exponential level is the least noisy
        return [self._schedule(config).at(ratio=s) for s in self._levels_at(config, places)]

    def _entries(self, name: str, values: Any) -> list[float]:
        if name != "sigmas" or not self._copies:
            return super()._entries(name, values)
        table = np.asarray(spacings.host(values), dtype=np.float64)
        up = table.ndim == 1 and table.size > 0 and bool(np.all(np.diff(table) > 0))
        if not up or not 0 <= table[0] <= table[-1] <= 1:
            raise ValueError(
                'sigmas, with compatibility="diffusers", are places on the ramp, increasing from 0'
                f' to 1, got {values!r}; compatibility="paper" takes noise levels'
            )
        return self._levels_at(self._options, table)

    def _at_timesteps(
        self, config: FrozenDict, timesteps: list[float], **options: Any
    ) -> list[Point]:
        low, high = (0.25 * math.log(config[name]) for name in ("sigma_min", "sigma_max"))
        if not low - 1e-6 <= timesteps[-1] <= timesteps[0] <= high + 1e-6:
            raise ValueError(
                f"timesteps={timesteps} lie outside [{low:g}, {high:g}]: they are log(sigma) / 4"
                " from sigma_min to sigma_max; pass sigmas for other levels"
            )
        return super()._at_timesteps(config, timesteps, **options)

    def _at_sigmas(
        self, config: FrozenDict, sigmas: list[float], last: Point, **options: Any
    ) -> list[Point]:
        if not self._copies:
            return super()._at_sigmas(config, sigmas, last, **options)
        return [self._schedule(config).at(ratio=s) for s in sigmas]  # the end comes after them

    def _training_points(self) -> list[Point]:
        return self._points(self._options, len(self))

    def _training_times(self) -> np.ndarray:
        return np.array([p.t for p in self._training_points()])

    def _heard(self, model_output: Array, sample: Array, options: dict[str, Any]) -> Array:
        """`pred_original_sample`, like sample, is the estimate of x0 whatever the network says."""
        given = options.pop("pred_original_sample", None)
        if given is None:
            return model_output
        engine.check_like(resolve(sample), sample, "pred_original_sample", given)
        options["pred_original_sample"] = True
        return given

    def _changed(self, plan: Plan, options: dict[str, Any]) -> Plan:
        if not options.pop("pred_original_sample", False):
            return super()._changed(plan, options)
        changed = {"prediction_type": "sample"} if self._copies else {}
        plan = make_plan(plan.sampler, plan.grid, Prediction("sample"), {**plan.options, **changed})
        return super()._changed(plan, options) if options else plan

    # the preconditioning in parts

    def precondition_inputs(self, sample: Array, sigma: Any) -> Array:
        """Return c_in x = x / sqrt(sigma^2 + sigma_data^2), what the network sees.

        sigma: a number, or an array that broadcasts against sample, which may be of any framework.
        """
        return sample * (1 / (number(sigma) ** 2 + self._options.sigma_data**2) ** 0.5)

    def precondition_noise(self, sigma: Any) -> Array:
        """Return c_noise = log(sigma) / 4 of an array, or of a number as an array of shape (1,)."""
        if hasattr(number(sigma), "shape"):
            return 0.25 * resolve(sigma).xp.log(sigma)
        return self._shown(np.array([0.25 * math.log(sigma)]))

    def precondition_outputs(self, sample: Array, model_output: Array, sigma: Any) -> Array:
        """Return the estimate x0 = c_skip x + c_out m; sigma as in `precondition_inputs`."""
        config, sigma = self._options, number(sigma)
        data = config.sigma_data
        size = sigma**2 + data**2
        sign = -1 if config.prediction_type == "v_prediction" else 1
        return (data**2 / size) * sample + (sign * sigma * data / size**0.5) * model_output
