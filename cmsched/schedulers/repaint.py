"""RePaint: inpainting by going back and forth."""

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .. import engine
from ..backends import resolve
from ..engine.checks import check_given, check_output
from ..frozen import FrozenDict
from ..grids import Grid
from ..plan import Plan, make_plan
from ..recipe import Recipe
from ..samplers.formulas import forward_kernel
from ..schedules import Betas
from .base import UNSET
from .betas import BETA_CHOICES, BETA_OPTIONS, said, spaced, tables_of, vp_betas
from .outputs import RePaintSchedulerOutput
from .parts import PartsMixin
from .timeline import Timeline, one_time

__all__ = ["RePaintScheduler"]

Array = Any


@dataclass(frozen=True)
class Late:
    """How many training steps late the reference adds the noise of a jump."""

    train: int

    def __call__(self, grid: Grid) -> float:
        """Return it."""
        return float(self.train // len(grid) - 1)


def repaint_betas(c: FrozenDict, reference: bool) -> Betas:
    """Return the schedule of the betas; trained ones are of float64 in the reference too."""
    return vp_betas(c, reference and c.trained_betas is None)


def repaint(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of RePaint mean."""
    table = repaint_betas(c, reference)
    where = spaced(
        c, table, table.point(0.0, 0.0), reference, spacing="leading", whole=True, limited=True
    )
    late = Late(c.num_train_timesteps) if reference else 0.0
    return Recipe("repaint", where, said(c), {"eta": float(c.eta), "late": late})


@lru_cache(maxsize=64)
def one_step(plan: Plan, entry: int, eta: float) -> Plan:
    """Return the plan of one step down."""
    grid = plan.grid
    one = Grid(grid.points[entry : entry + 2], grid.schedule, integral=grid.integral)
    options = {**plan.options, "eta": eta, "jump_n_sample": 1}
    return make_plan("repaint", one, plan.prediction, options)


class RePaintScheduler(PartsMixin):
    """Inpainting with any diffusion model (arXiv:2201.09865, algorithm 1).

    `timesteps` go up again now and then, by single steps of noise without the network:

        last = scheduler.timesteps[0] + 1
        for t in scheduler.timesteps:
            if t < last:
                x = scheduler.step(model(x, t), t, x, image, mask).prev_sample
            else:
                x = scheduler.undo_step(x, last)
            last = t

    `cmsched.sample(model, plan, noise, given={"image": image, "mask": mask}, rng=0)` is that loop;
    a jump up is one draw there. With compatibility="diffusers" `undo_step` adds the noise of the
    step after, by the single betas of the training steps.

    Options of `set_timesteps` and `plan`: jump_length, how many steps a jump goes up;
    jump_n_sample, how often each part is gone through.
    """

    options: ClassVar = {
        **{name: BETA_OPTIONS[name] for name in list(BETA_OPTIONS)[:4]},
        "eta": 0.0,
        "trained_betas": None,
        "clip_sample": True,
    }
    hidden_options: ClassVar = {"prediction_type": "epsilon", "clip_sample_range": 1.0}
    timesteps_options: ClassVar = {
        "num_inference_steps": UNSET,
        "jump_length": 10,
        "jump_n_sample": 10,
        "device": None,
    }
    choices: ClassVar = {
        **BETA_CHOICES,
        "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
    }
    meaning = staticmethod(repaint)

    alphas_cumprod, alphas, betas = tables_of(repaint_betas)

    def timeline_of(self, plan: Plan) -> Timeline:
        """Return the entries of all steps, down and up."""
        down, steps = Timeline.of_steps(plan).times, list[int]()
        for k, following in itertools.zip_longest(plan.steps, plan.steps[1:], fillvalue=len(down)):
            # after step k to k + 1, up to where `following` begins
            steps += [k, *range(k - 1, following - 2, -1)]
        return Timeline(plan, down[steps], tuple(steps))

    @property
    def eta(self) -> float:
        """The part of the ancestral noise in a step: the option, or what it was set to since."""
        return float(self.changed_since.get("eta", self.filled_config.eta))

    @eta.setter
    def eta(self, value: float) -> None:
        self.check(FrozenDict({**self.filled_config, "eta": value}))
        self.changed_since = {"eta": value}

    @property
    def final_alpha_cumprod(self) -> Any:
        """alpha_bar where the last step ends."""
        return self.show(np.array(1.0))

    def step(
        self,
        model_output: Array,
        timestep: Any,
        sample: Array,
        original_image: Array,
        mask: Array,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Take a step down: the image with noise inside the mask's 1, DDIM's step inside its 0.

        Args:
            model_output: the network's output, like sample.
            timestep: an entry of `timesteps`.
            sample: the present sample, of any framework.
            original_image: the given image, like sample.
            mask: 1 (or parts of it) where the image is given, of a shape that broadcasts to it.
            generator: where noise comes from; see `SchedulerMixin.step`.
            return_dict: False for a tuple.
        """
        backend, given = resolve(sample), {"image": original_image, "mask": mask}
        plan = self.required().plan
        plan = one_step(plan, self.step_at(sample, one_time(timestep)), self.eta)
        check_output(backend, sample, model_output, plan.prediction)
        check_given(backend, sample, {*given}, given)
        state = engine.State(sample, (), 0)
        draws = bool(plan.rows[0].draws)
        # the reference draws at the end of a run too, which jumps go up from
        noise = self.normal(sample, generator) if draws or self.as_reference else None
        noise = noise if draws else None
        after, x0 = engine.step_and_x0(plan, state, model_output, noise=noise, given=given)
        return RePaintSchedulerOutput(after.sample, x0) if return_dict else (after.sample, x0)

    def undo_step(self, sample: Array, timestep: Any, generator: Any = None) -> Array:
        """Return the sample noised up to the level of a timestep, from where its step has led.

        generator: where noise comes from; see `SchedulerMixin.step`.
        """
        grid, backend = self.required().plan.grid, resolve(sample)
        entry = self.step_at(sample, one_time(timestep))
        path = [grid.points[entry + 1], grid.points[entry]]
        if self.as_reference:
            t, stride = path[1].t, len(self) // len(grid)
            path = [grid.at(t=t + i) for i in range(-1 if t else 0, stride)]
            path = path if t else [grid.points[-1], *path]
        acc = backend.accumulation(sample.dtype)
        x = backend.astype(sample, acc)
        for a, b in itertools.pairwise(path):
            part, std = forward_kernel(a, b)
            x = part * x + std * backend.astype(self.normal(sample, generator), acc)
        return backend.astype(x, sample.dtype)
