"""Classes that evaluate a second time inside a step: DPM-Solver-2 and DPM-Solver++ SDE."""

import dataclasses
import itertools
import math
from typing import Any, ClassVar

import numpy as np

from .. import spacings
from ..backends import Backend
from ..noise import Rng
from ..schedules import Point
from .betas import BETA_OPTIONS
from .config import FrozenDict
from .outputs import OriginalSampleOutput
from .variance_exploding import RAMP_OPTIONS, TwoEvaluations, chosen_ramp

__all__ = [
    "DPMSolverSDEScheduler",
    "DPMSolverSDESchedulerOutput",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteSchedulerOutput",
    "KDPM2DiscreteScheduler",
    "KDPM2DiscreteSchedulerOutput",
]


class KDPM2DiscreteSchedulerOutput(OriginalSampleOutput):
    """Output of `KDPM2DiscreteScheduler.step`."""


class KDPM2AncestralDiscreteSchedulerOutput(OriginalSampleOutput):
    """Output of `KDPM2AncestralDiscreteScheduler.step`."""


class DPMSolverSDESchedulerOutput(OriginalSampleOutput):
    """Output of `DPMSolverSDEScheduler.step`."""


class MidpointScheduler(TwoEvaluations):
    """Base of the classes whose second evaluation lies between the ends of a step.

    `timesteps` has the times of all evaluations, a start and a middle in turn.
    """

    def _middle(self, a: Point, b: Point) -> float:
        """Return sigma / alpha of the second evaluation between a and b, half way in its log."""
        return math.sqrt(a.ratio * b.ratio)

    def _all_times(self, starts: np.ndarray) -> np.ndarray:
        """Return the times of all evaluations of a run whose steps start at these times."""
        schedule = self.schedule
        points = [schedule.at(t=t) for t in starts.tolist()]
        middles = [schedule.time_at(self._middle(a, b)) for a, b in itertools.pairwise(points)]
        return np.array([*np.ravel([*zip(starts, middles, strict=False)]), starts[-1]])

    def _entries(self, name: str, values: Any) -> list[float]:
        """Return an explicit list; timesteps of all evaluations are reduced to the starts."""
        table = np.asarray(spacings.host(values))
        if name == "timesteps" and table.ndim == 1 and table.size % 2 and table.dtype.kind == "f":
            try:
                times = self._all_times(table[::2])
            except ValueError:  # no such times: said below
                times = np.full(table.shape, math.nan)
            # whole numbers are starts: middles lie between training steps
            if np.any(table % 1) and np.allclose(times, table, rtol=1e-7, atol=1e-9):
                values = table[::2]
        return super()._entries(name, values)

    def _training_times(self) -> np.ndarray:
        return self._all_times(super()._training_times())

    def _sigma_points(self) -> list[Point]:
        """Return the ends of every step.

        Beside an entry of `timesteps` that begins a step stands its own level, beside the next one
        that which the step goes to. The levels of all evaluations are in `plan(n).points`.
        """
        if self._plan is None:
            schedule, train = self.schedule, range(len(self))[::-1]
            points = [*(schedule.at(t=float(t)) for t in train), self._last(self._options)]
        else:
            points = [*self._plan.grid.points]
        return [point for point in points for _ in range(2)][1:-1]


KDPM2_OPTIONS = {
    **BETA_OPTIONS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    **RAMP_OPTIONS,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}


class KDPM2Scheduler(MidpointScheduler):
    """Base of the two classes of DPM-Solver-2.

    With compatibility="diffusers" the times of Karras sigmas are rounded, as in the reference.
    """

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        points = super()._points(config, n, **options)
        if self._copies and chosen_ramp(config) == "karras":
            return [dataclasses.replace(p, t=float(round(p.t))) for p in points]
        return points


class KDPM2DiscreteScheduler(KDPM2Scheduler):
    """DPM-Solver-2 in sigma (k-diffusion, sample_dpm_2): the middle in log sigma says the slope."""

    options: ClassVar = KDPM2_OPTIONS
    output_class = KDPM2DiscreteSchedulerOutput

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "dpm2", {}


class KDPM2AncestralDiscreteScheduler(KDPM2Scheduler):
    """DPM-Solver-2 with ancestral noise (k-diffusion, sample_dpm_2_ancestral)."""

    step_options: ClassVar = {"generator": None, "return_dict": True}
    options: ClassVar = KDPM2_OPTIONS
    output_class = KDPM2AncestralDiscreteSchedulerOutput

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "dpm2_ancestral", {}

    def _middle(self, a: Point, b: Point) -> float:
        """Half way to the level that the step goes down to, b.ratio^2 / a.ratio, is b's own."""
        return b.ratio


class DPMSolverSDEScheduler(MidpointScheduler):
    """DPM-Solver++ SDE in two stages (k-diffusion, sample_dpmpp_sde).

    Without `generator=` the stateful habit takes its noise from `noise_sampler_seed`: the
    increments of one Brownian path, `cmsched.Rng(noise_sampler_seed, path=True)`, or of one for
    each sample if that is a list; if it is None, from fresh entropy. The reference's path of the
    same seed is another one.
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "epsilon",
        **RAMP_OPTIONS,
        "noise_sampler_seed": None,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
    }
    step_options: ClassVar = {"return_dict": True, "s_noise": 1.0}
    output_class = DPMSolverSDESchedulerOutput

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        self._paths(config)

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "dpmpp_sde", {}

    @property
    def noise_sampler_seed(self) -> int | list[int] | None:
        """The seed of the noise that `step` adds if it is given no other."""
        seed: int | list[int] | None = self._options.noise_sampler_seed
        return seed

    def _paths(self, config: FrozenDict) -> Rng | list[Rng] | None:
        """Return the Brownian paths of the configured seed; one that is none raises."""
        seed = config.noise_sampler_seed
        if seed is None:
            return None
        try:
            many = isinstance(seed, list | tuple)
            return [Rng(s, path=True) for s in seed] if many else Rng(seed, path=True)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"noise_sampler_seed={seed!r} must be None, an integer from 0 to 2**64 - 1, or a"
                " list with one for each sample"
            ) from error

    def _source(self, backend: Backend, device: Any) -> tuple[Any, int | None]:
        paths = self._paths(self._options)
        return super()._source(backend, device) if paths is None else (paths, None)
