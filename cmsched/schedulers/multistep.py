"""Multistep DPM-Solver and DPM-Solver++."""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from .. import engine, samplers, spacings
from .._messages import choose
from ..samplers import multistep
from ..schedules import Flow, Point, Schedule
from ..spacings import RAMPS, Grid, Walk
from .betas import BETA_OPTIONS, EXCHANGEABLE, BetaScheduler
from .config import FrozenDict
from .outputs import SchedulerOutput
from .variance_exploding import RAMP_OPTIONS, chosen_ramp

__all__ = ["DPMSolverMultistepScheduler"]

ALGORITHMS = ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")
# names of other solvers' options that mean one of these when a config is handed over
FOREIGN = {"deis": "dpmsolver++", "logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"}


class DPMSolverMultistepScheduler(BetaScheduler):
    """DPM-Solver (arXiv:2206.00927) and DPM-Solver++ (arXiv:2211.01095), multistep, ODE and SDE.

    third_order="published" is the order-3 formula in use everywhere, which is second order; "exact"
    doubles the weight of its second difference and is third order.
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        "solver_order": 2,
        "prediction_type": "epsilon",
        "thresholding": False,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 1.0,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
        **RAMP_OPTIONS,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "flow_shift": 1.0,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -math.inf,
        "variance_type": None,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "use_dynamic_shifting": False,
        "time_shift_type": "exponential",
    }
    hidden_options: ClassVar = {"third_order": "published"}
    step_options: ClassVar = {"generator": None, "variance_noise": None, "return_dict": True}
    timesteps_options: ClassVar = {
        "num_inference_steps": None,
        "device": None,
        "mu": None,
        "timesteps": None,
    }
    grid_options = ("mu",)
    prediction_types = ("epsilon", "sample", "v_prediction", "flow_prediction")
    terminal = 2.0**-24
    limited = False
    output_class = SchedulerOutput
    _compatibles: ClassVar = EXCHANGEABLE

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        algorithm, order = config.algorithm_type, config.solver_order
        choose("algorithm_type", FOREIGN.get(algorithm, algorithm), ALGORITHMS)
        choose(
            "solver_type", FOREIGN.get(config.solver_type, config.solver_type), multistep.SOLVERS
        )
        choose("final_sigmas_type", config.final_sigmas_type, ("zero", "sigma_min"))
        choose("third_order", config.third_order, ("published", "exact"))
        choose("time_shift_type", config.time_shift_type, ("exponential",))
        choose("variance_type", config.variance_type, (None, "learned", "learned_range"))
        if order not in (1, 2, 3) or isinstance(order, bool):
            raise ValueError(f"solver_order must be 1, 2 or 3, got {order!r}")
        if order == 3 and algorithm == "sde-dpmsolver":
            raise ValueError(
                'solver_order=3 has no formula with algorithm_type="sde-dpmsolver"; use'
                ' "sde-dpmsolver++" or solver_order=2'
            )
        if algorithm in ("dpmsolver", "sde-dpmsolver"):
            if config.final_sigmas_type == "zero":
                raise ValueError(
                    f'algorithm_type="{algorithm}" cannot end at sigma = 0, where its formula is'
                    ' infinite; use final_sigmas_type="sigma_min" or the "++" algorithm'
                )
            if config.prediction_type == "flow_prediction" and not config.use_flow_sigmas:
                raise ValueError(
                    f'prediction_type="flow_prediction" with algorithm_type="{algorithm}" needs'
                    " use_flow_sigmas"
                )
        if chosen_ramp(config) and config.use_flow_sigmas:
            raise ValueError("use_flow_sigmas cannot be combined with another way to place sigmas")
        if not config.flow_shift > 0:
            raise ValueError(f"flow_shift must be positive, got {config.flow_shift}")

    def _schedule(self, config: FrozenDict) -> Schedule:
        if config.use_flow_sigmas:
            return Flow(num_train_timesteps=config.num_train_timesteps)
        return super()._schedule(config)

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        algorithm = FOREIGN.get(config.algorithm_type, config.algorithm_type)
        sde, third = algorithm.startswith("sde-"), config.third_order
        if sde and self._copies and third == "published":
            third = "reference"
        return "dpmpp_multistep" if algorithm.endswith("++") else "dpm_multistep", {
            "solver_order": config.solver_order,
            "eta": 1.0 if sde else 0.0,
            "solver_type": FOREIGN.get(config.solver_type, config.solver_type),
            "third_order": third,
            "ramp_down": bool(config.lower_order_final) and n < 15,
            "euler_at_final": bool(config.euler_at_final),
        }

    def _last(self, config: FrozenDict) -> Point:
        schedule = self._schedule(config)
        if config.final_sigmas_type == "zero":
            return schedule.point(0.0, 0.0)
        lowest = self._betas(config).at(t=0.0)
        return schedule.at(sigma=lowest.ratio) if config.use_flow_sigmas else lowest

    def _points(
        self, config: FrozenDict, n: int, *, mu: float | None = None, **options: Any
    ) -> list[Point]:
        """mu: the dynamic shift of flow sigmas, shift = e^mu."""
        schedule, train = self._schedule(config), config.num_train_timesteps
        if mu is not None and not (config.use_dynamic_shifting and config.use_flow_sigmas):
            raise ValueError("mu needs use_dynamic_shifting=True and use_flow_sigmas=True")
        if config.use_flow_sigmas:
            shift = config.flow_shift if mu is None else math.exp(mu)
            sigmas = (1.0 - np.linspace(1, 1 / train, n + 1))[:0:-1]
            points = [
                schedule.at(sigma=s) for s in (shift * sigmas / (1 + (shift - 1) * sigmas)).tolist()
            ]
            return [self._truncated(p) for p in points]
        ramp = chosen_ramp(config)
        if ramp is None:
            return [schedule.at(t=t) for t in self._times(config, n)]
        first, last = schedule.at(t=train - 1.0), schedule.at(t=0.0)
        points = [schedule.at(ratio=r) for r in RAMPS[ramp](n, first.ratio, last.ratio).tolist()]
        rounds = ramp in ("karras", "lu") and config.beta_schedule != "squaredcos_cap_v2"
        return [self._truncated(p, rounds=rounds) for p in points]

    def _truncated(self, point: Point, *, rounds: bool = False) -> Point:
        """Return the point at a whole timestep, as the reference has it beside the level."""
        if not self._copies:
            return point
        return dataclasses.replace(
            point, t=float(round(point.t) if rounds else math.trunc(point.t))
        )

    def _times(self, config: FrozenDict, n: int) -> list[float]:
        """Return n of n + 1 spaced timesteps, none below lambda_min_clipped."""
        schedule, train = self._betas(config), config.num_train_timesteps
        lams = -np.log(schedule.ratios)
        last = int(np.count_nonzero(lams >= config.lambda_min_clipped))
        arguments = (config.timestep_spacing, n, train)
        options = {"last": last, "extra": True, "offset": config.steps_offset}
        try:
            return spacings.timesteps(*arguments, **options)
        except ValueError:
            # more steps than whole numbers: go between them
            if config.timestep_spacing != "linspace" or self._copies or n > 10 * train:
                raise
            return spacings.timesteps(*arguments, **options, whole=False)

    def _at_timesteps(self, config: FrozenDict, timesteps: list[float]) -> list[Point]:
        if chosen_ramp(config) or config.use_flow_sigmas:
            raise ValueError(
                "timesteps cannot be set with sigmas placed by a ramp or a flow; pass sigmas, or"
                " leave it out"
            )
        return super()._at_timesteps(config, timesteps)

    @property
    def alpha_t(self) -> Any:
        """Alpha of the training steps."""
        return self._shown(np.sqrt(self._table.alphas_cumprod))

    @property
    def sigma_t(self) -> Any:
        """Sigma of the training steps."""
        return self._shown(np.sqrt(-np.expm1(self._table.log_alphas_cumprod)))

    @property
    def lambda_t(self) -> Any:
        """log(alpha / sigma) of the training steps."""
        return self._shown(-np.log(self._table.ratios))

    # one step in parts, for code that takes it apart

    @property
    def lower_order_nums(self) -> int:
        """How many outputs the run has seen, at most solver_order."""
        run = self._run
        return 0 if run is None else min(run.entry - run.first, self._options.solver_order)

    @property
    def model_outputs(self) -> list[Any]:
        """The converted outputs that the next step needs, the newest last, and None for others."""
        run = self._run
        kept = [] if run is None else run.memory[: run.entry - run.first]
        return [None] * (self._options.solver_order - len(kept)) + [*reversed(kept)]

    def convert_model_output(self, model_output: Any, *, sample: Any) -> Any:
        """Return what the solver integrates: the estimate of x0 ("++"), otherwise that of eps."""
        run = self._at(None)
        i = run.entry - run.first
        x0, at = engine.estimate_x0(run.plan, i, sample, model_output), run.plan.points[i]
        return x0 if run.plan.sampler == "dpmpp_multistep" else (sample - at.alpha * x0) / at.sigma

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

    def _update(self, outputs: list[Any], sample: Any, noise: Any) -> Any:
        """Run the sampler's own loop over the last steps, each given what it saw."""
        run, order = self._at(None), len(outputs)
        plan, i = run.plan, run.entry - run.first
        if i + 1 < order or any(m is None for m in outputs):
            raise ValueError(f"a step of order {order} needs {order} outputs, this run has {i + 1}")
        if plan.options["eta"] and noise is None:
            raise ValueError(f'algorithm_type="{self._options.algorithm_type}" needs noise=')
        grid = Grid(plan.grid.points[i + 1 - order : i + 2], plan.grid.schedule)
        options = {"solver_order": order, "ramp_down": False, "euler_at_final": False}
        loop = samplers.get(plan.sampler).loop(
            sample, Walk(grid), lambda *_: noise, **{**plan.options, **options}
        )
        given, reply = iter(outputs), None
        while True:
            try:
                asked = loop.send(reply)
            except StopIteration as end:
                return end.value
            if isinstance(asked, samplers.Keep):
                reply = asked.x
                continue
            m, at = next(given), asked[1]
            if plan.sampler != "dpmpp_multistep":
                m = (sample - at.sigma * m) / at.alpha
            reply = (sample, m)
