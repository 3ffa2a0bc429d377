"""UniPC: predictor and corrector of any order."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from .. import checks, samplers, spacings
from ..discretizations import Ramp
from ..frozen import FrozenDict
from ..recipe import Recipe
from ..samplers.adams import ORDERS
from ..spacings import SHIFTS
from . import solvers
from .base import TIMES, PlanMixin
from .betas import said, tables_of, vp_betas_finite
from .habit import Run
from .sigma import chosen_ramp
from .solver_parts import SolverScheduler, integrates_x0

__all__ = ["UniPCMultistepScheduler"]

AWAY = 1e-6  # how far from 1 the reference begins a flow


@dataclass(frozen=True, kw_only=True)
class UniPCFlow(solvers.SolverFlow):
    """Sigmas of a flow, even from 1, of which the one after the last is 1 / num_train_timesteps.

    Args:
        away: how far below 1 a run begins, for an alpha above 0 as in the reference.
    """

    away: float = 0.0

    def even(self, n: int) -> np.ndarray:
        """Return n sigmas before the shift."""
        return np.linspace(1, 1 / self.train, n + 1)[:-1]

    def moved(self, sigmas: np.ndarray) -> np.ndarray:
        """Return sigmas shifted and stretched."""
        sigmas = super().moved(sigmas)
        if abs(sigmas[0] - 1.0) < self.away:
            sigmas[0] -= self.away
        return sigmas


def unipc(c: FrozenDict, reference: bool, *, mu: float | None = None) -> Recipe:
    """Return what the options of UniPC mean; mu is a flow's dynamic shift."""
    idle = solvers.idle_options(c)
    dynamic = c.use_dynamic_shifting and c.use_flow_sigmas
    if mu is not None and not dynamic:
        text = "mu has no effect without use_dynamic_shifting and use_flow_sigmas"
        idle, mu = (*idle, text), None
    rounds = chosen_ramp(c) == "karras" and not c.use_flow_sigmas
    where = solvers.steps(
        c, reference, vp_betas_finite(c, reference), mu, rounds=rounds, doubles=True
    )
    schedule, last = where.schedule, c.final_sigmas_type == "sigma_min"
    if isinstance(where, Ramp) and last:
        where = replace(where, end=schedule.at(ratio=where.low))
    elif isinstance(where, solvers.SolverFlow):
        shift = where.shift if mu is not None or not dynamic else None
        flow = {name: getattr(where, name) for name in where.__dataclass_fields__}
        flow |= {"shift": shift, "terminal": c.shift_terminal, "away": AWAY if reference else 0.0}
        if last:
            low = [1 / c.num_train_timesteps]
            end = c.shift_terminal or spacings.shifted(low, solvers.shift_of(c, mu))[0]
            flow["end"] = schedule.at(sigma=end)
        where = UniPCFlow(**flow)
    own = {
        "solver_order": c.solver_order,
        "solver_type": c.solver_type,
        "predict_x0": bool(c.predict_x0),
        "disable_corrector": tuple(c.disable_corrector),
        "ramp_down": bool(c.lower_order_final),
    }
    if c.solver_p is None:
        return Recipe("unipc", where, said(c), own, idle=idle)
    other = c.solver_p.recipe()
    options = {**other.options, "corrector": tuple(own.items())}
    return Recipe(other.sampler, where, said(c), options, idle=idle)


def corrects(c: FrozenDict) -> None:
    """Raise where disable_corrector is no list of steps, or solver_p cannot be corrected."""
    off, other = c.disable_corrector, c.solver_p
    if not isinstance(off, list | tuple) or not all(type(i) is int and i >= 0 for i in off):
        raise TypeError(f"disable_corrector must be a list of step numbers, got {off!r}")
    if c.shift_terminal is not None and not c.use_flow_sigmas:
        raise ValueError("shift_terminal needs use_flow_sigmas=True")
    if other is None:
        return
    if not isinstance(other, PlanMixin):
        raise TypeError(f"solver_p must be a scheduler of cmsched, got {other!r}")
    recipe = other.recipe()
    options = {name: v for name, v in recipe.options.items() if not callable(v)}
    try:
        samplers.get(recipe.sampler).complete({**options, "corrector": "unic"})
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"solver_p={type(other).__name__} cannot be corrected ({error}); use one with a"
            " deterministic sampler of one evaluation a step"
        ) from error


class UniPCMultistepScheduler(SolverScheduler):
    """UniPC (arXiv:2302.04867): a multistep predictor, corrected once the network has seen it.

    disable_corrector: numbers of the steps after which to leave the prediction as it is. solver_p:
    another scheduler, whose sampler is the predictor, along the levels of this one. Flows are as in
    `DPMSolverMultistepScheduler`; shift_terminal stretches their levels to end there.
    """

    meanings: ClassVar = {
        "lower_order_final": "lower the order towards the end, to 1 in the last step.",
        "solver_type": 'the function B(h) of the paper: "bh1", h; "bh2", e^h - 1, better but '
        "on very few "
        "steps.",
    }
    options: ClassVar = {
        **solvers.OPTIONS,
        "predict_x0": True,
        "solver_type": "bh2",
        "lower_order_final": True,
        "disable_corrector": [],
        "solver_p": None,
        **solvers.FLOW_OPTIONS,
        **solvers.SPACING_OPTIONS,
        "final_sigmas_type": "zero",
        "rescale_betas_zero_snr": False,
        **solvers.SHIFT_OPTIONS,
        "sigma_min": None,
        "sigma_max": None,
        "shift_terminal": None,
    }
    choices: ClassVar = {
        **solvers.CHOICES,
        "solver_order": ORDERS,
        "solver_type": ("bh1", "bh2"),
    }
    aliases: ClassVar = dict.fromkeys(("midpoint", "heun", "logrho"), "bh2")
    relations = (*solvers.RELATIONS, corrects)
    step_options: ClassVar = {"return_dict": True}
    timesteps_options: ClassVar = {**TIMES, "sigmas": None, "mu": None}
    meaning = staticmethod(unipc)

    alphas_cumprod, alphas, betas = tables_of(vp_betas_finite)
    alpha_t, sigma_t, lambda_t = solvers.lambda_table(vp_betas_finite)

    def time_shift(self, mu: float, sigma: float, t: Any) -> Any:
        """Return s / (s + (1 / t - 1)^sigma), s = e^mu, or mu ("linear"); t may be an array."""
        shift = SHIFTS[self.filled_config.time_shift_type](mu)
        return shift / (shift + (1 / t - 1) ** sigma)

    def stretch_shift_to_terminal(self, t: Any) -> Any:
        """Return levels stretched about 1 so that the last one is shift_terminal; t is an array."""
        away = 1 - t
        return 1 - away * ((1 - self.filled_config.shift_terminal) / away[-1])

    # one step in parts

    @property
    def predict_x0(self) -> bool:
        """Whether x0 is integrated, not eps."""
        return integrates_x0(self.filled_config)

    @property
    def disable_corrector(self) -> list[int]:
        """The steps after which the prediction is left as it is."""
        return list(self.filled_config.disable_corrector)

    @property
    def solver_p(self) -> Any:
        """The scheduler whose sampler predicts, if it is another."""
        return self.filled_config.solver_p

    def multistep_uni_p_bh_update(self, model_output: Any, *, sample: Any, order: int) -> Any:
        """Return the prediction at the next point from the network's output at `sample`."""
        self._parts(order)
        history = self.model_outputs[len(self.model_outputs) + 1 - order :]
        present = self.convert_model_output(model_output, sample=sample)
        return self.update_of([*history, present], sample)

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
        return self.replay(
            (*points[i - order : i + 1], points[i]),  # a last step of length zero
            [*((last_sample, m) for m in history), (None, this_model_output)],
            None,
            solver_order=order,
            disable_corrector=tuple(range(order - 1)),
        )

    def _parts(self, order: int) -> Run:
        """Return the run whose step of this order is taken apart."""
        run = self.run_at(None)
        if run.plan.sampler != "unipc":
            raise ValueError("with solver_p the predictor is a step of that scheduler")
        checks.check_count("order", order, self.filled_config.solver_order, ", the solver_order")
        return run
