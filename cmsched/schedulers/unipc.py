"""UniPC: predictor and corrector of any order."""

from typing import Any, ClassVar

import numpy as np

from .. import samplers, spacings
from ..samplers.adams import ORDERS
from ..schedules import Point
from ..spacings import SHIFTS
from .base import Run
from .config import FrozenDict
from .plans import PlanMixin
from .solvers import FLOW_OPTIONS, SHIFT_OPTIONS, SOLVER_OPTIONS, SPACING_OPTIONS, SolverScheduler
from .variance_exploding import chosen_ramp

__all__ = ["UniPCMultistepScheduler"]

AWAY = 1e-6  # how far from 1 the reference begins a flow


class UniPCMultistepScheduler(SolverScheduler):
    """UniPC (arXiv:2302.04867): a multistep predictor, corrected once the network has seen it.

    disable_corrector: numbers of the steps after which to leave the prediction as it is. solver_p:
    another scheduler, whose sampler is the predictor, along the levels of this one.
    """

    options: ClassVar = {
        **SOLVER_OPTIONS,
        "predict_x0": True,
        "solver_type": "bh2",
        "lower_order_final": True,
        "disable_corrector": [],
        "solver_p": None,
        **FLOW_OPTIONS,
        **SPACING_OPTIONS,
        "final_sigmas_type": "zero",
        "rescale_betas_zero_snr": False,
        **SHIFT_OPTIONS,
        "sigma_min": None,
        "sigma_max": None,
        "shift_terminal": None,
    }
    step_options: ClassVar = {"return_dict": True}
    timesteps_options: ClassVar = {
        "num_inference_steps": None,
        "device": None,
        "sigmas": None,
        "mu": None,
    }
    choices: ClassVar = {
        "solver_order": ORDERS,
        "solver_type": ("bh1", "bh2"),
    }
    foreign: ClassVar = dict.fromkeys(("midpoint", "heun", "logrho"), "bh2")
    terminal = 2.0**-24
    doubles = True

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        off, other, end = config.disable_corrector, config.solver_p, config.shift_terminal
        if not isinstance(off, list | tuple) or not all(type(i) is int and i >= 0 for i in off):
            raise TypeError(f"disable_corrector must be a list of step numbers, got {off!r}")
        if end is not None and not 0.0 <= end < 1.0:
            raise ValueError(f"shift_terminal must lie in [0, 1), got {end}")
        if end is not None and not config.use_flow_sigmas:
            raise ValueError("shift_terminal needs use_flow_sigmas=True")
        if other is None:
            return
        if not isinstance(other, PlanMixin):
            raise TypeError(f"solver_p must be a scheduler of cmsched, got {other!r}")
        name, options = other._sampler(other._options, 1)
        try:
            samplers.get(name).complete({**options, "corrector": "unic"})
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"solver_p={type(other).__name__} cannot be corrected ({error}); use one with a"
                " deterministic sampler of one evaluation a step"
            ) from error

    def _data(self, config: FrozenDict) -> bool:
        return bool(config.predict_x0)

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        own = {
            "solver_order": config.solver_order,
            "solver_type": self._own(config, "solver_type"),
            "predict_x0": bool(config.predict_x0),
            "disable_corrector": tuple(config.disable_corrector),
            "ramp_down": bool(config.lower_order_final),
        }
        if config.solver_p is None:
            return "unipc", own
        name, options = config.solver_p._sampler(config.solver_p._options, n)
        return name, {**options, "corrector": tuple(own.items())}

    def _shift(self, config: FrozenDict, mu: float | None) -> float:
        dynamic = config.use_dynamic_shifting and config.use_flow_sigmas
        if dynamic and mu is None:
            raise ValueError("use_dynamic_shifting=True needs mu; pass it to set_timesteps or plan")
        if mu is not None and not dynamic:
            self._once("mu has no effect without use_dynamic_shifting and use_flow_sigmas")
            mu = None
        return super()._shift(config, mu)

    def _last(self, config: FrozenDict, *, mu: float | None = None, **options: Any) -> Point:
        """With "sigma_min" the least level of the ramp, or of the flow."""
        schedule, flow = self._schedule(config), config.use_flow_sigmas
        if config.final_sigmas_type == "zero" or not (flow or chosen_ramp(config)):
            return super()._last(config)
        if chosen_ramp(config):
            return schedule.at(ratio=self._ends(config)[1])
        if config.shift_terminal:
            return schedule.at(sigma=config.shift_terminal)
        shift = config.flow_shift if mu is None else self._shift(config, mu)
        return schedule.at(sigma=spacings.shifted([1 / config.num_train_timesteps], shift)[0])

    def _flow_sigmas(self, config: FrozenDict, n: int, shift: float) -> np.ndarray:
        even = np.linspace(1, 1 / config.num_train_timesteps, n + 1)
        return self._moved(config, even[:-1], shift)

    def _moved(self, config: FrozenDict, sigmas: np.ndarray, shift: float) -> np.ndarray:
        """Return sigmas shifted and stretched."""
        sigmas = spacings.shifted(sigmas, shift)
        if config.shift_terminal:
            sigmas = spacings.stretched(sigmas, config.shift_terminal)
        if self._copies and abs(sigmas[0] - 1.0) < AWAY:
            sigmas[0] -= AWAY
        return sigmas

    def time_shift(self, mu: float, sigma: float, t: Any) -> Any:
        """Return s / (s + (1 / t - 1)^sigma), s = e^mu, or mu ("linear"); t may be an array."""
        shift = SHIFTS[self._options.time_shift_type](mu)
        return shift / (shift + (1 / t - 1) ** sigma)

    def stretch_shift_to_terminal(self, t: Any) -> Any:
        """Return levels stretched about 1 so that the last one is shift_terminal; t is an array."""
        away = 1 - t
        return 1 - away * ((1 - self._options.shift_terminal) / away[-1])

    # one step in parts

    @property
    def predict_x0(self) -> bool:
        """Whether x0 is integrated, not eps."""
        return self._data(self._options)

    @property
    def disable_corrector(self) -> list[int]:
        """The steps after which the prediction is left as it is."""
        return list(self._options.disable_corrector)

    @property
    def solver_p(self) -> Any:
        """The scheduler whose sampler predicts, if it is another."""
        return self._options.solver_p

    def multistep_uni_p_bh_update(self, model_output: Any, *, sample: Any, order: int) -> Any:
        """Return the prediction at the next point from the network's output at `sample`."""
        self._parts(order)
        history = self.model_outputs[len(self.model_outputs) + 1 - order :]
        present = self.convert_model_output(model_output, sample=sample)
        return self._update([*history, present], sample)

    def multistep_uni_c_bh_update(
        self, this_model_output: Any, *, last_sample: Any, this_sample: Any = None, order: int
    ) -> Any:
        """Return the corrected sample at the present point from the converted output there.

        last_sample is the corrected one of the step before; this_sample, the prediction, follows
        from it and plays no part, as in the reference.
        """
        run = self._parts(order)
        i, points = run.entry - run.first, run.plan.grid.points
        history = self.model_outputs[-order:]
        if i < order or len(history) < order or any(m is None for m in history):
            raise ValueError(f"a correction of order {order} needs {order} steps before, not {i}")
        return self._replay(
            (*points[i - order : i + 1], points[i]),  # a last step of length zero
            [*((last_sample, m) for m in history), (None, this_model_output)],
            None,
            solver_order=order,
            disable_corrector=tuple(range(order - 1)),
        )

    def _parts(self, order: int) -> Run:
        """Return the run whose step of this order is taken apart."""
        run = self._at(None)
        if run.plan.sampler != "unipc":
            raise ValueError("with solver_p the predictor is a step of that scheduler")
        spacings.check_count("order", order, self._options.solver_order, ", the solver_order")
        return run
