"""What the exponential integrators share: where their steps lie, and one step taken apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from .. import engine, samplers, spacings
from .._messages import choose
from ..backends import resolve
from ..engine.checks import check_like, check_output
from ..samplers.first_order import VARIANCES
from ..schedules import Flow, Point, Schedule
from ..spacings import RAMPS, SHIFTS, Grid, Walk
from .base import Run
from .betas import BETA_OPTIONS, EXCHANGEABLE, BetaScheduler
from .config import FrozenDict
from .outputs import SchedulerOutput
from .variance_exploding import RAMP_OPTIONS, chosen_ramp

__all__ = ["FINAL_SIGMAS", "FLOW_OPTIONS", "SOLVER_OPTIONS", "SPACING_OPTIONS", "SolverScheduler"]

SOLVER_OPTIONS: Mapping[str, Any] = {
    **BETA_OPTIONS,
    "solver_order": 2,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
FLOW_OPTIONS: Mapping[str, Any] = {**RAMP_OPTIONS, "use_flow_sigmas": False, "flow_shift": 1.0}
SPACING_OPTIONS: Mapping[str, Any] = {"timestep_spacing": "linspace", "steps_offset": 0}
SHIFT_OPTIONS: Mapping[str, Any] = {
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
FINAL_SIGMAS = ("zero", "sigma_min")


class SolverScheduler(BetaScheduler):
    """Base of the solvers that integrate the ODE's exponential and estimates of x0, or of eps.

    use_flow_sigmas: samples are (1 - sigma) x0 + sigma eps, and levels are even in sigma, then
    shifted by flow_shift, or by e^mu (use_dynamic_shifting, mu of `set_timesteps`). With a ramp as
    well, its levels of sigma / alpha are those of the flow. Explicit sigmas of a flow are those
    before the shift, as pipelines pass them; a list to the end, as `sigmas` is, has the levels
    themselves.

    Class attributes of a scheduler:
        choices: the values of its options that have few.
        foreign: names of other solvers' options that mean one of these when a config is handed
            over.
        kept: kind and rank of the plan's slots that hold estimates of eps.
        doubles: whether the reference's ramps and flows end where their last step starts.
    """

    prediction_types = ("epsilon", "sample", "v_prediction", "flow_prediction")
    choices: ClassVar[Mapping[str, Sequence[Any]]] = {}
    foreign: ClassVar[Mapping[str, str]] = {}
    kept: ClassVar[tuple[str, int]] = ("k", 0)
    doubles: ClassVar[bool] = False
    grid_options: ClassVar[tuple[str, ...]] = ("mu",)
    limited = False
    output_class = SchedulerOutput
    _compatibles: ClassVar = EXCHANGEABLE

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        common = {
            "final_sigmas_type": FINAL_SIGMAS,
            "time_shift_type": tuple(SHIFTS),
            "variance_type": (None, *VARIANCES),  # of DDPM, where fixed ones have no head
        }
        for name, values in {**common, **self.choices}.items():
            if name in config:
                choose(name, self._own(config, name), values)
        chosen_ramp(config)
        for name in ("flow_shift", "sigma_min", "sigma_max"):
            if config.get(name) is not None and not config[name] > 0:
                raise ValueError(f"{name} must be positive, got {config[name]}")
        if "algorithm_type" in config and not self._data(config):
            algorithm, kind = self._own(config, "algorithm_type"), config.prediction_type
            if config.get("final_sigmas_type") == "zero":
                raise ValueError(
                    f'algorithm_type="{algorithm}" cannot end at sigma = 0, where its formula is'
                    ' infinite; use final_sigmas_type="sigma_min" or the "++" algorithm'
                )
            if algorithm != "deis" and kind == "flow_prediction" and not config.use_flow_sigmas:
                raise ValueError(
                    f'prediction_type="flow_prediction" with algorithm_type="{algorithm}" needs'
                    " use_flow_sigmas"
                )

    def _own(self, config: FrozenDict, name: str) -> Any:
        """Return an option's value, or what another solver's name for it means here."""
        value = config[name]
        return self.foreign.get(value, value) if isinstance(value, str) else value

    def _data(self, config: FrozenDict) -> bool:
        """Whether x0 is integrated, not eps."""
        return str(self._own(config, "algorithm_type")).endswith("++")

    # where

    def _schedule(self, config: FrozenDict) -> Schedule:
        if config.use_flow_sigmas:
            return Flow(num_train_timesteps=config.num_train_timesteps)
        return super()._schedule(config)

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        """Without final_sigmas_type a flow ends at 0, others at the first training step."""
        schedule, zero = self._schedule(config), "zero" if config.use_flow_sigmas else "sigma_min"
        if config.get("final_sigmas_type", zero) == "zero":
            return schedule.point(0.0, 0.0)
        lowest = self._betas(config).at(t=0.0)
        if not config.use_flow_sigmas:
            return lowest
        return schedule.at(**{"ratio" if chosen_ramp(config) else "sigma": lowest.ratio})

    def _points(
        self, config: FrozenDict, n: int, *, mu: float | None = None, **options: Any
    ) -> list[Point]:
        """mu: the dynamic shift of flow sigmas."""
        schedule, ramp = self._schedule(config), chosen_ramp(config)
        shift, flow = self._shift(config, mu), config.use_flow_sigmas and ramp is None
        for name in ("flow_shift", "shift_terminal"):
            if not flow and config.get(name) not in (None, self.options.get(name)):
                self._once(f"{name} has no effect without use_flow_sigmas, or beside a ramp")
        for name in ("sigma_min", "sigma_max"):
            if ramp is None and config.get(name) is not None:
                self._once(f"{name} has no effect without a ramp of sigmas")
        if flow:
            sigmas = self._flow_sigmas(config, n, shift)
            return self._at_flow_sigmas(config, sigmas)
        if ramp is None:
            return [schedule.at(t=t) for t in self._times(config, n)]
        levels = RAMPS[ramp](n, *self._ends(config)).tolist()
        rounds = self._rounds(config, ramp)
        return [self._truncated(schedule.at(ratio=r), rounds=rounds) for r in levels]

    def _finish(self, config: FrozenDict, grid: Grid) -> Grid:
        placed = config.use_flow_sigmas or chosen_ramp(config) is not None
        doubles = self.doubles and placed and config.get("final_sigmas_type") != "zero"
        if not (self._copies and doubles):
            return grid
        return replace(grid, points=(*grid.points[:-1], grid.points[-2]))

    def _shift(self, config: FrozenDict, mu: float | None) -> float:
        """Return the shift of flow sigmas."""
        if mu is None:
            return float(config.flow_shift)
        if not (config.get("use_dynamic_shifting") and config.use_flow_sigmas):
            raise ValueError("mu needs use_dynamic_shifting=True and use_flow_sigmas=True")
        shift = SHIFTS[config.time_shift_type](mu)
        if not shift > 0:
            raise ValueError(
                f'mu must be positive with time_shift_type="{config.time_shift_type}", got {mu}'
            )
        return shift

    def _flow_sigmas(self, config: FrozenDict, n: int, shift: float) -> np.ndarray:
        """Return n shifted sigmas; before the shift they are even, and the next one is 0."""
        even = 1 - np.linspace(1, 1 / config.num_train_timesteps, n + 1)
        return self._moved(config, even[:0:-1], shift)

    def _moved(self, config: FrozenDict, sigmas: np.ndarray, shift: float) -> np.ndarray:
        """Return flow sigmas shifted."""
        return spacings.shifted(sigmas, shift)

    def _at_flow_sigmas(self, config: FrozenDict, sigmas: np.ndarray) -> list[Point]:
        """Return the points at levels of a flow; their times are cut, and so not to be rounded."""
        schedule, train = self._schedule(config), config.num_train_timesteps
        points = [replace(schedule.at(sigma=s), t=train * s) for s in sigmas.tolist()]
        return [self._truncated(p) for p in points]

    def _ends(self, config: FrozenDict) -> tuple[float, float]:
        """Return the most and the least sigma / alpha of a ramp."""
        table = self._betas(config)
        high, low = map(table.ratio_at, table.span)
        return config.get("sigma_max") or high, config.get("sigma_min") or low

    def _rounds(self, config: FrozenDict, ramp: str) -> bool:
        """Whether the reference rounds the times of a ramp; others it cuts."""
        return ramp == "karras" and not config.use_flow_sigmas

    def _truncated(self, point: Point, *, rounds: bool = False) -> Point:
        """Return the point at a whole timestep, as the reference has it beside the level."""
        if not self._copies:
            return point
        return replace(point, t=float(round(point.t) if rounds else math.trunc(point.t)))

    def _noisiest(self, config: FrozenDict) -> int:
        """Return the last training step that lambda_min_clipped leaves."""
        least = config.get("lambda_min_clipped", -math.inf)
        return int(np.count_nonzero(-np.log(self._betas(config).ratios) >= least)) - 1

    def _times(self, config: FrozenDict, n: int, *, extra: bool = True) -> list[float]:
        """Return n of n + extra spaced timesteps, none below lambda_min_clipped."""
        train, spacing = config.num_train_timesteps, config.get("timestep_spacing", "linspace")
        arguments, offset = (spacing, n, train), config.get("steps_offset", 0)
        options = {"last": self._noisiest(config) + 1, "extra": extra, "offset": offset}
        try:
            return spacings.timesteps(*arguments, **options)
        except ValueError:
            # more steps than whole numbers: go between them
            if spacing != "linspace" or self._copies or n > 10 * train:
                raise
            return spacings.timesteps(*arguments, **options, whole=False)

    def _at_timesteps(
        self, config: FrozenDict, timesteps: list[float], **options: Any
    ) -> list[Point]:
        if chosen_ramp(config) or config.use_flow_sigmas:
            raise ValueError(
                "timesteps cannot be set with sigmas placed by a ramp or a flow; pass sigmas, or"
                " leave it out"
            )
        return super()._at_timesteps(config, timesteps)

    def _at_sigmas(
        self,
        config: FrozenDict,
        sigmas: list[float],
        last: Point,
        *,
        mu: float | None = None,
        **options: Any,
    ) -> list[Point]:
        whole = math.isclose(sigmas[-1], self._exposed(last), rel_tol=1e-6)
        if not config.use_flow_sigmas or chosen_ramp(config) or whole:
            if mu is not None:
                self._once("mu has no effect on sigmas that are the levels themselves")
            return super()._at_sigmas(config, sigmas, last)
        moved = self._moved(config, np.array(sigmas), self._shift(config, mu)).tolist()
        if math.isclose(moved[-1], last.sigma, rel_tol=1e-9) and not self._copies:
            moved = moved[:-1]
        return self._at_flow_sigmas(config, np.array(moved))

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

    def _held(self, run: Run) -> Sequence[int]:
        """Return the ages of the outputs that the next step may need."""
        return range(1, run.entry - run.first + 1)

    @property
    def model_outputs(self) -> list[Any]:
        """The converted outputs that the next step may need, the newest last; None for others."""
        outputs = [None] * self._options.solver_order
        if (run := self._run) is not None:
            slots = zip(run.plan.check_traced().slots, run.memory, strict=False)
            held = self._held(run)
            for (*kind, age), array in slots:
                if (*kind,) == self._place and age in held:
                    outputs[-age] = array
        return outputs

    @property
    def _place(self) -> tuple[str, int]:
        """Kind and rank of the slots that hold the converted outputs."""
        return ("d", 0) if self._data(self._options) else self.kept

    def convert_model_output(self, model_output: Any, *, sample: Any) -> Any:
        """Return what the solver integrates: the estimate of x0, or that of eps."""
        run = self._at(None)
        i = run.entry - run.first
        check_output(resolve(sample), sample, model_output, run.plan.prediction)
        x0, at = engine.estimate_x0(run.plan, i, sample, model_output), run.plan.points[i]
        return x0 if self._data(self._options) else (sample - at.alpha * x0) / at.sigma

    def _update(self, outputs: Sequence[Any], sample: Any, noise: Any = None) -> Any:
        """Return the sample after a step of the order len(outputs) from converted outputs."""
        run, order = self._at(None), len(outputs)
        plan, i = run.plan, run.entry - run.first
        if i + 1 < order or any(m is None for m in outputs):
            raise ValueError(f"a step of order {order} needs {order} outputs, this run has {i + 1}")
        if plan.options.get("eta") and noise is None:
            raise ValueError(f'algorithm_type="{self._options.algorithm_type}" needs noise=')
        for m in outputs:
            check_like(resolve(sample), sample, "model_output", m)
        points = plan.grid.points[i + 1 - order : i + 2]
        return self._replay(points, [(sample, m) for m in outputs], noise)

    def _replay(
        self, points: Sequence[Point], seen: Sequence[tuple[Any, Any]], noise: Any, **options: Any
    ) -> Any:
        """Run the sampler's own loop along points, told at each (sample, converted output).

        In place of a sample None leaves the loop's own.
        """
        plan = self._at(None).plan
        whole = {"ramp_down": False, "euler_at_final": False, "lower_order_final": False}
        changed = {"solver_order": len(points) - 1, "disable_corrector": True, **whole, **options}
        known = {k: changed.get(k, value) for k, value in plan.options.items()}
        walk, given, reply = Walk(Grid(tuple(points), plan.grid.schedule)), iter(seen), None
        loop = samplers.get(plan.sampler).start(seen[0][0], walk, lambda *_: noise, known)
        data = self._data(self._options)
        while True:
            try:
                asked = loop.send(reply)
            except StopIteration as end:
                return end.value
            if isinstance(asked, samplers.Keep):
                reply = asked.x
                continue
            (x, m), at = next(given), asked[1]
            x = asked[0] if x is None else x
            x0 = m if data else (x - at.sigma * m) / at.alpha
            eps = (x - at.alpha * m) / at.sigma if data else m
            reply = (x, x0, eps) if isinstance(asked, samplers.Raw) else (x, x0)
