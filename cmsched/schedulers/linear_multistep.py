"""PNDM and iPNDM: linear multistep methods in eps with the weights of equal steps."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from .. import spacings
from ..plan import Plan
from ..predictions import Prediction
from ..ramps import RAMPS
from ..schedules import Cosine, Point
from ..spacings import Grid
from .base import UNSET, Run, SchedulerMixin
from .betas import BETA_OPTIONS, EXCHANGEABLE, BetaScheduler
from .config import FrozenDict
from .outputs import SchedulerOutput

__all__ = ["IPNDMScheduler", "PNDMScheduler"]

Array = Any


class PNDMScheduler(BetaScheduler):
    """Pseudo numerical methods for diffusion models (arXiv:2202.09778, algorithm 2).

    Three Runge-Kutta steps of four evaluations, then four-step Adams-Bashforth. With
    skip_prk_steps, and on fewer than four steps, a second evaluation in the first step begins it
    (PLMS).
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        "skip_prk_steps": False,
        "set_alpha_to_one": False,
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": 0,
    }
    step_options: ClassVar = {"return_dict": True}
    timesteps_options: ClassVar = {"num_inference_steps": UNSET, "device": None}
    output_class = SchedulerOutput
    pndm_order = 4
    _compatibles: ClassVar = EXCHANGEABLE

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        of_v = self._copies and n > 1 and config.prediction_type == "v_prediction"
        copied = {"predict_v": of_v}
        if config.skip_prk_steps:
            return "plms", copied
        half = config.num_train_timesteps // n // 2
        return "pndm", {"half_step": half if self._copies else None, **copied}

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        schedule = self._schedule(config)
        return schedule.point(0.0, 0.0) if config.set_alpha_to_one else schedule.at(t=0.0)

    def _finish(self, config: FrozenDict, grid: Grid) -> Grid:
        """In the reference a step ends a fixed stride below its timestep, whatever comes next."""
        if not self._copies:
            return grid
        ends = strided(grid, config.num_train_timesteps // len(grid))
        if not config.skip_prk_steps and len(grid) > 3:  # but for the Runge-Kutta steps
            ends = grid.points[1:4] + ends[3:]
        return grid if ends == grid.points[1:] else replace(grid, arrivals=ends)

    def _entries(self, name: str, values: Any) -> list[float]:
        """Return an explicit list; one of all evaluations becomes the steps."""
        table = np.asarray(spacings.host(values))
        if table.ndim == 1 and len(table) > 2:
            same = table[1:] == table[:-1]
            if len(table) > 12 and not self._options.skip_prk_steps and same[1:13:2].all():
                table = np.concatenate([table[:12:4], table[12:]])
            elif same[1]:
                table = np.delete(table, 1)
            values = table
        return super()._entries(name, values)

    def _step_at(self, plan: Plan, entry: int) -> int:
        """Return also the step which the second evaluation of PLMS is level with.

        Pipelines count entries as if each were a step, and begin there.
        """
        if seconds(plan, entry):
            return 1
        try:
            return super()._step_at(plan, entry)
        except ValueError as error:
            if entry < warm(plan):
                error.add_note("with skip_prk_steps=True a run may begin at any entry")
            raise

    def _from(self, plan: Plan, entry: int) -> Run:
        run = super()._from(plan, entry)
        if seconds(plan, entry):
            rest = self._changed(run.plan, {"idle": True})
            run = run._replace(plan=rest, base=rest)
        return run

    @property
    def final_alpha_cumprod(self) -> Any:
        """alpha_bar where the last step ends."""
        return self._shown(np.array(self._last(self._options).alpha ** 2))

    @property
    def prk_timesteps(self) -> Any:
        """Timesteps of the Runge-Kutta steps; None before `set_timesteps`."""
        return None if self._plan is None else self.timesteps[: warm(self._plan)]

    @property
    def plms_timesteps(self) -> Any:
        """Timesteps after them; None before `set_timesteps`."""
        return None if self._plan is None else self.timesteps[warm(self._plan) :]

    def step_prk(
        self, model_output: Array, timestep: Any, sample: Array, return_dict: bool = True
    ) -> Any:
        """Take a step of the Runge-Kutta part; `step` does so by itself.

        Raises:
            ValueError: the run is past it, or has none; and as `step`.
        """
        self._expect(timestep, warming=True)
        return self.step(model_output, timestep, sample, return_dict=return_dict)

    def step_plms(
        self, model_output: Array, timestep: Any, sample: Array, return_dict: bool = True
    ) -> Any:
        """Take a step of the multistep part; `step` does so by itself.

        Raises:
            ValueError: the run is not there yet; and as `step`.
        """
        self._expect(timestep, warming=False)
        return self.step(model_output, timestep, sample, return_dict=return_dict)

    def _expect(self, timestep: Any, *, warming: bool) -> None:
        entry, count = self._at(timestep).entry, warm(self._set())
        if (entry < count) != warming:
            names = ("step_prk", "step_plms") if warming else ("step_plms", "step_prk")
            raise ValueError(
                f"{names[0]} at entry {entry} of timesteps, of which the first {count} are"
                f" Runge-Kutta's; use {names[1]}, or step, which knows"
            )


def strided(grid: Grid, stride: int) -> tuple[Point, ...]:
    """Return the ends of steps of a fixed stride; past timestep 0 that of the grid."""
    ends = [p.t - stride for p in grid.points[:-1]]
    return tuple(grid.at(t=t) if t >= 0 else grid.points[-1] for t in ends)


def warm(plan: Plan) -> int:
    """Return how many evaluations are Runge-Kutta's: those of three steps, four each."""
    return 12 if plan.sampler == "pndm" and plan.steps.count(0) == 4 else 0


def seconds(plan: Plan, entry: int) -> bool:
    """Return whether this evaluation is the second one that begins PLMS."""
    return plan.sampler == "plms" and entry == 1 and plan.steps[:2] == (0, 0) and len(plan) > 2


class IPNDMScheduler(SchedulerMixin):
    """Improved PNDM (arXiv:2204.13902, section 3.2): Adams-Bashforth from the first step on.

    Its noise levels are sigma = sin(pi s / 2)^2, s even from 1 to 0, or trained_betas: those of all
    steps and of the end. The network says v and is told 2 / pi atan(sigma / alpha).

    variable_step: the weights of the steps as they are in sigma / alpha ("ipndm_v"), fourth order.
    """

    options: ClassVar = {"num_train_timesteps": 1000, "trained_betas": None}
    hidden_options: ClassVar = {"variable_step": False}
    step_options: ClassVar = {"return_dict": True}
    timesteps_options: ClassVar = {"num_inference_steps": UNSET, "device": None}
    output_class = SchedulerOutput
    whole_times = False
    limited = False
    pndm_order = 4

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        if config.trained_betas is not None:
            levels = spacings.decreasing("trained_betas", config.trained_betas)
            if len(levels) < 2 or not 0.0 <= levels[-1] < levels[0] <= 1.0:
                raise ValueError(
                    "trained_betas of IPNDMScheduler are the noise levels sigma of every step and"
                    f" of the end, at least two of them in [0, 1]; got {config.trained_betas}"
                )

    def _schedule(self, config: FrozenDict) -> Cosine:
        return Cosine()

    def _prediction(self, config: FrozenDict) -> Prediction:
        return Prediction("v_prediction")

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "ipndm_v" if config.variable_step else "ipndm", {}

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        given = config.trained_betas
        return self._schedule(config).at(sigma=0.0 if given is None else given[-1])

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        schedule, given = self._schedule(config), config.trained_betas
        if given is None:
            return [schedule.at(ratio=r) for r in RAMPS["ipndm"](n).tolist()]
        if n != len(given) - 1:
            raise ValueError(
                f"num_inference_steps={n}, but trained_betas has the {len(given)} levels of"
                f" {len(given) - 1} steps; set_timesteps({len(given) - 1})"
            )
        return [schedule.at(sigma=s) for s in given[:-1]]

    def _finish(self, config: FrozenDict, grid: Grid) -> Grid:
        """The reference's step from alpha = 0 takes x0 = 0, and its eps is remembered."""
        first, then, *rest = grid.points
        if not self._copies or first.alpha > 0 or not rest:
            return grid
        points = (Point(first.t, 1e-30, first.sigma), then, *rest)
        return replace(grid, points=points, arrivals=(Point(then.t, 0.0, then.sigma), *rest))

    def _training_points(self) -> list[Point]:
        config = self._options
        given = config.trained_betas
        return self._points(config, len(self) if given is None else len(given) - 1)

    def _training_times(self) -> np.ndarray:
        return np.array([p.t for p in self._training_points()])

    def _walked(self) -> list[Point]:
        """Return the points of the run and the end."""
        if self._plan is not None:
            return [*self._plan.grid.points]
        return [*self._training_points(), self._last(self._options)]

    @property
    def betas(self) -> Any:
        """Sigma of every step and of the end."""
        return self._shown(np.array([p.sigma for p in self._walked()]))

    @property
    def alphas(self) -> Any:
        """Alpha of every step and of the end."""
        return self._shown(np.array([p.alpha for p in self._walked()]))
