"""RePaint: inpainting by going back and forth."""

import itertools
from typing import Any, ClassVar

import numpy as np

from .. import engine, spacings
from ..backends import resolve
from ..engine.checks import check_given, check_output
from ..plan import Plan, make_plan
from ..samplers.formulas import noised
from ..schedules import Point
from ..spacings import Grid
from .base import UNSET, one_time
from .betas import BETA_OPTIONS, BetaMixin
from .config import FrozenDict
from .outputs import OriginalSampleOutput
from .parts import PartsMixin

__all__ = ["RePaintScheduler", "RePaintSchedulerOutput"]

Array = Any


class RePaintSchedulerOutput(OriginalSampleOutput):
    """Output of `RePaintScheduler.step`."""


class RePaintScheduler(PartsMixin, BetaMixin):
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
    beta_schedules = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")

    _eta: float | None = None
    _singles: dict[int, Plan]

    def _restart(self) -> None:
        super()._restart()
        self._singles = {}

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        if not config.eta >= 0:
            raise ValueError(f"eta must not be negative, got {config.eta}")

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        late = config.num_train_timesteps // n - 1 if self._copies else 0
        return "repaint", {"eta": self.eta, "late": float(late)}

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        schedule = self._schedule(config)
        times = spacings.timesteps("leading", n, config.num_train_timesteps)
        return [schedule.at(t=t) for t in times]

    def _times_of(self, plan: Plan) -> np.ndarray:
        """Return the times of all steps, down and up."""
        down, listed = super()._times_of(plan), []
        for k, following in itertools.zip_longest(plan.steps, plan.steps[1:], fillvalue=len(down)):
            # after step k to k + 1, up to where `following` begins
            listed += [k, *range(k - 1, following - 2, -1)]
        return down[listed]

    @property
    def eta(self) -> float:
        """The part of the ancestral noise in a step: the option, or what it was set to since."""
        return float(self._options.eta if self._eta is None else self._eta)

    @eta.setter
    def eta(self, value: float) -> None:
        self._validate(FrozenDict({**self._options, "eta": value}))
        self._eta, self._singles = value, {}

    @property
    def final_alpha_cumprod(self) -> Any:
        """alpha_bar where the last step ends."""
        return self._shown(np.array(1.0))

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
        plan = self._single(self._entry(sample, one_time(timestep)))
        check_output(backend, sample, model_output, plan.prediction)
        check_given(backend, sample, {*given}, given)
        state = engine.State(sample, (), 0)
        draws = bool(plan.rows[0].draws)
        # the reference draws at the end of a run too, which jumps go up from
        noise = self._normal(sample, generator) if draws or self._copies else None
        after = engine.step(plan, state, model_output, noise=noise if draws else None, given=given)
        x0 = engine.estimate_x0(plan, 0, sample, model_output)
        return RePaintSchedulerOutput(after.sample, x0) if return_dict else (after.sample, x0)

    def _single(self, entry: int) -> Plan:
        """Return the plan of one step down."""
        plan = self._set()
        if entry not in self._singles:
            grid = plan.grid
            one = Grid(grid.points[entry : entry + 2], grid.schedule, integral=grid.integral)
            options = {**plan.options, "eta": self.eta, "jump_n_sample": 1}
            self._singles[entry] = make_plan("repaint", one, plan.prediction, options)
        return self._singles[entry]

    def undo_step(self, sample: Array, timestep: Any, generator: Any = None) -> Array:
        """Return the sample noised up to the level of a timestep, from where its step has led.

        generator: where noise comes from; see `SchedulerMixin.step`.
        """
        grid, backend = self._set().grid, resolve(sample)
        entry = self._entry(sample, one_time(timestep))
        path = [grid.points[entry + 1], grid.points[entry]]
        if self._copies:
            t, stride = path[1].t, len(self) // len(grid)
            path = [grid.at(t=t + i) for i in range(-1 if t else 0, stride)]
            path = path if t else [grid.points[-1], *path]
        acc = backend.accumulation(sample.dtype)
        x = backend.astype(sample, acc)
        for a, b in itertools.pairwise(path):
            part, std = noised(a, b)
            x = part * x + std * backend.astype(self._normal(sample, generator), acc)
        return backend.astype(x, sample.dtype)
