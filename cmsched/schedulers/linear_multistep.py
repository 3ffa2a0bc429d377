"""PNDM and iPNDM: linear multistep methods in eps with the weights of equal steps."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from .. import checks, ramps
from ..changes import Strided
from ..discretizations import Discretization
from ..frozen import FrozenDict
from ..grids import Grid
from ..plan import Plan
from ..predictions import Prediction
from ..recipe import Recipe
from ..schedules import Cosine, Point
from .betas import (
    BETA_CHOICES,
    BETA_OPTIONS,
    EXCHANGEABLE,
    data_alpha,
    data_end,
    said,
    spaced,
    tables_of,
    vp_betas,
)
from .habit import Run, SchedulerMixin, with_options
from .outputs import SchedulerOutput

__all__ = ["IPNDMScheduler", "PNDMScheduler"]

Array = Any


@dataclass(frozen=True)
class WarmUp:
    """Reads an explicit list of all evaluations, of PNDM or of PLMS, as the steps."""

    plms: bool

    def __call__(self, name: str, values: Any) -> Any:
        """Return the list of steps."""
        table = np.asarray(checks.host(values))
        if table.ndim != 1 or len(table) <= 2:
            return values
        same = table[1:] == table[:-1]
        if len(table) > 12 and not self.plms and same[1:13:2].all():
            return np.concatenate([table[:12:4], table[12:]])
        return np.delete(table, 1) if same[1] else table


@dataclass(frozen=True)
class HalfStride:
    """Half the reference's stride of a run: where the middle of its Runge-Kutta steps lies.

    The steps of a list have none, and their middle in the middle.
    """

    train: int

    def __call__(self, grid: Grid) -> int | None:
        """Return it, in training steps."""
        return None if grid.ends is None else self.train // len(grid) // 2


@dataclass(frozen=True)
class OnSeveralSteps:
    """A sampler's option that is on in runs of more than one step."""

    def __call__(self, grid: Grid) -> bool:
        """Return whether there is more than one."""
        return len(grid) > 1


def pndm(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of PNDM mean.

    In the reference a step of a number of steps ends a fixed stride below its timestep, but for the
    Runge-Kutta steps; those of a list go to its next entry.
    """
    table, plms = vp_betas(c, reference), bool(c.skip_prk_steps)
    where: Discretization = spaced(
        c, table, data_end(c, table), reference, whole=True, limited=True, reading=WarmUp(plms)
    )
    of_v = reference and c.prediction_type == "v_prediction"
    options: dict[str, Any] = {"predict_v": OnSeveralSteps() if of_v else False}
    if reference:
        where = where.with_quirk(Strided(c.num_train_timesteps, warm=0 if plms else 3))
    if plms:
        return Recipe("plms", where, said(c), options)
    options["half_step"] = HalfStride(c.num_train_timesteps) if reference else None
    return Recipe("pndm", where, said(c), options)


def warm(plan: Plan) -> int:
    """Return how many evaluations are Runge-Kutta's: those of three steps, four each."""
    return 12 if plan.sampler == "pndm" and plan.steps.count(0) == 4 else 0


def seconds(plan: Plan, entry: int) -> bool:
    """Return whether this evaluation is the second one that begins PLMS."""
    return plan.sampler == "plms" and entry == 1 and plan.steps[:2] == (0, 0) and len(plan) > 2


class PNDMScheduler(SchedulerMixin):
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
    choices: ClassVar = BETA_CHOICES
    step_options: ClassVar = {"return_dict": True}
    output_class = SchedulerOutput
    meaning = staticmethod(pndm)
    pndm_order = 4
    _compatibles: ClassVar = EXCHANGEABLE

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    final_alpha_cumprod = property(data_alpha)

    def begin_run(self, entry: int) -> Run:
        """Return a new run, also from the second evaluation of PLMS.

        Pipelines count entries as if each were a step, and begin there.
        """
        plan = self.required().plan
        if seconds(plan, entry):
            rest = with_options(plan.skip(1), (("idle", True),))
            return Run(rest, rest, {}, entry, entry)
        try:
            return super().begin_run(entry)
        except ValueError as error:
            if entry < warm(plan):
                error.add_note("with skip_prk_steps=True a run may begin at any entry")
            raise

    @property
    def prk_timesteps(self) -> Any:
        """Timesteps of the Runge-Kutta steps; None before `set_timesteps`."""
        return None if self.timeline is None else self.timesteps[: warm(self.timeline.plan)]

    @property
    def plms_timesteps(self) -> Any:
        """Timesteps after them; None before `set_timesteps`."""
        return None if self.timeline is None else self.timesteps[warm(self.timeline.plan) :]

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
        entry, count = self.run_at(timestep).entry, warm(self.required().plan)
        if (entry < count) != warming:
            names = ("step_prk", "step_plms") if warming else ("step_plms", "step_prk")
            raise ValueError(
                f"{names[0]} at entry {entry} of timesteps, of which the first {count} are"
                f" Runge-Kutta's; use {names[1]}, or step, which knows"
            )


@dataclass(frozen=True, kw_only=True)
class SquaredSines(Discretization):
    """Levels sigma = sin(pi s / 2)^2, s even from 1 to 0, or given ones.

    Args:
        given: sigma of every step, and of the end.
    """

    given: tuple[float, ...] | None = None

    def points(self, n: int) -> list[Point]:
        """Return the points where n steps start."""
        if self.given is None:
            return [self.schedule.at(ratio=r) for r in ramps.ipndm(n).tolist()]
        count = len(self.given)
        if n != count - 1:
            raise ValueError(
                f"num_inference_steps={n}, but trained_betas has the {count} levels of"
                f" {count - 1} steps; set_timesteps({count - 1})"
            )
        return [self.schedule.at(sigma=s) for s in self.given[:-1]]

    def training(self) -> list[Point]:
        """Return the points of as many steps as there are training steps, or given levels."""
        return self.points(self.train if self.given is None else len(self.given) - 1)


@dataclass(frozen=True)
class NoSignal:
    """A first step without signal goes to x0 = 0, as in the reference; its eps is remembered."""

    def __call__(self, grid: Grid, asked: str) -> Grid:
        """Return the grid with that step."""
        first, then, *rest = grid.points
        if first.alpha > 0 or not rest:
            return grid
        points = (Point(first.t, 1e-30, first.sigma), then, *rest)
        return replace(grid, points=points, ends=(Point(then.t, 0.0, then.sigma), *rest))


def ipndm(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of iPNDM mean."""
    schedule, given = Cosine(), c.trained_betas
    where: Discretization = SquaredSines(
        schedule=schedule,
        end=schedule.at(sigma=0.0 if given is None else given[-1]),
        train=c.num_train_timesteps,
        repeats_end=reference,
        given=None if given is None else tuple(given),
    )
    if reference:
        where = where.with_quirk(NoSignal())
    return Recipe("ipndm_v" if c.variable_step else "ipndm", where, Prediction("v_prediction"))


def levels_given(c: FrozenDict) -> None:
    """Raise where trained_betas are no levels of a run."""
    if c.trained_betas is None:
        return
    levels = checks.check_decreasing("trained_betas", c.trained_betas)
    if len(levels) < 2 or not 0.0 <= levels[-1] < levels[0] <= 1.0:
        raise ValueError(
            "trained_betas of IPNDMScheduler are the noise levels sigma of every step and of the"
            f" end, at least two of them in [0, 1]; got {c.trained_betas}"
        )


class IPNDMScheduler(SchedulerMixin):
    """Improved PNDM (arXiv:2204.13902, section 3.2): Adams-Bashforth from the first step on.

    Its noise levels are sigma = sin(pi s / 2)^2, s even from 1 to 0, or trained_betas: those of all
    steps and of the end. The network says v and is told 2 / pi atan(sigma / alpha).

    variable_step: the weights of the steps as they are in sigma / alpha ("ipndm_v"), fourth order.
    """

    meanings: ClassVar = {
        "num_train_timesteps": "steps of the training; levels depend on the number of steps of "
        "a run alone.",
        "trained_betas": "the betas of all steps of a run and of the end, in place of its own "
        "levels.",
    }
    options: ClassVar = {"num_train_timesteps": 1000, "trained_betas": None}
    hidden_options: ClassVar = {"variable_step": False}
    relations = (levels_given,)
    step_options: ClassVar = {"return_dict": True}
    output_class = SchedulerOutput
    meaning = staticmethod(ipndm)
    pndm_order = 4

    def _walked(self) -> tuple[Point, ...]:
        """Return the points of the run and the end."""
        if self.timeline is not None:
            return self.timeline.plan.grid.points
        where = self.recipe().discretization
        return (*where.training(), where.end)

    @property
    def betas(self) -> Any:
        """Sigma of every step and of the end."""
        return self.show(np.array([p.sigma for p in self._walked()]))

    @property
    def alphas(self) -> Any:
        """Alpha of every step and of the end."""
        return self.show(np.array([p.alpha for p in self._walked()]))
