"""Schedulers of distilled networks: consistency models, LCM, TCD and the consistency decoder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .. import checks, engine, ramps
from ..discretizations import Discretization
from ..frozen import FrozenDict
from ..grids import GridRun
from ..plan import Plan, make_plan
from ..predictions import Prediction
from ..recipe import Fixed, Recipe, Start
from ..samplers.first_order import tcd_target
from ..schedules import Logarithmic, Point
from .base import TIMES
from .betas import (
    BETA_CHOICES,
    BETA_OPTIONS,
    previous_timestep,
    said,
    table_of,
    tables_of,
    vp_betas,
)
from .habit import SchedulerMixin
from .options import in_order
from .outputs import (
    CMStochasticIterativeSchedulerOutput,
    ConsistencyDecoderSchedulerOutput,
    LCMSchedulerOutput,
    TCDSchedulerOutput,
)
from .sigma import is_scale_input_called

__all__ = [
    "CMStochasticIterativeScheduler",
    "ConsistencyDecoderScheduler",
    "LCMScheduler",
    "TCDScheduler",
]

Array = Any


# consistency models


@dataclass(frozen=True, kw_only=True)
class TrainingLevels(Discretization):
    """EDM's ramp of training levels (arXiv:2206.00364, eq. 5), in multiples of an integer stride.

    Explicit timesteps are step numbers of the ramp.

    Args:
        high: the first level.
        low: the last one.
        rho: of the ramp.
    """

    high: float
    low: float
    rho: float

    def points(self, n: int) -> list[Point]:
        """Return n points, a stride of training levels apart."""
        why = ", the number of training steps"
        n = checks.check_count("num_inference_steps", n, self.train, why)
        return self.numbered([float(i * (self.train // n)) for i in range(n)])

    def training(self) -> list[Point]:
        """Return the points of all training levels."""
        return self.numbered([float(i) for i in range(self.train)])

    def at_times(self, times: list[float]) -> list[Point]:
        """Return the points of training levels that are numbered from the least noisy one."""
        top = self.train - 1
        if any(t != int(t) or not 0 <= t <= top for t in times):
            raise ValueError(
                f"timesteps must be step numbers from 0 to num_train_timesteps - 1 = {top}, got"
                f" {times}"
            )
        return self.numbered(times[::-1])

    def numbered(self, steps: list[float]) -> list[Point]:
        """Return the points at numbers of the ramp."""
        fractions = np.array(steps) / max(self.train - 1, 1)
        levels = ramps.ramp(fractions, self.high, self.low, rho=self.rho)
        return [self.schedule.at(ratio=s) for s in levels.tolist()]


def consistency(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of a consistency model mean."""
    schedule = Logarithmic(frame="ve", sigma_data=float(c.sigma_data), factor=250.0)
    where = TrainingLevels(
        schedule=schedule,
        end=schedule.at(ratio=c.sigma_min),
        train=c.num_train_timesteps,
        limited=True,
        repeats_end=reference,
        high=c.sigma_max,
        low=c.sigma_min,
        rho=c.rho,
    )
    prediction = Prediction(
        "consistency",
        clip=1.0 if c.clip_denoised else None,
        sigma_data=float(c.sigma_data),
        sigma_min=float(c.sigma_min),
    )
    options = {"s_noise": float(c.s_noise)}
    return Recipe("consistency", where, prediction, options, Fixed(float(c.sigma_max)))


class CMStochasticIterativeScheduler(SchedulerMixin):
    """Consistency models, multistep and one step (arXiv:2303.01469, algorithm 1 and appendix C).

    `timesteps` are step numbers of the training grid, 0 ... num_train_timesteps - 1, decreasing.
    """

    meanings: ClassVar = {
        "num_train_timesteps": "levels of the training ramp, which `timesteps` number.",
        "sigma_min": "lowest level, epsilon of the paper, where the network's function is the "
        "identity.",
        "sigma_max": "highest level, T of the paper, where runs start.",
        "s_noise": "factor of the noise that is added between steps; 1 in the paper.",
    }
    options: ClassVar = {
        "num_train_timesteps": 40,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "sigma_data": 0.5,
        "s_noise": 1.0,
        "rho": 7.0,
        "clip_denoised": True,
    }
    relations = (in_order("sigma_min", "sigma_max"),)
    timesteps_options: ClassVar = {**TIMES, "timesteps": None}
    output_class = CMStochasticIterativeSchedulerOutput
    meaning = staticmethod(consistency)

    is_scale_input_called = is_scale_input_called

    def sigma_to_t(self, sigmas: Any) -> Any:
        """Return the time 250 log(sigma + 1e-44) that the network is told; a number or an array."""
        return 250.0 * np.log(np.asarray(sigmas, dtype=np.float64) + 1e-44)

    def get_scalings(self, sigma: Any) -> tuple[Any, Any]:
        """Return EDM's c_skip and c_out at sigma (arXiv:2206.00364, table 1)."""
        return self._scalings(sigma, 0.0)

    def get_scalings_for_boundary_condition(self, sigma: Any) -> tuple[Any, Any]:
        """Return c_skip and c_out at sigma, 1 and 0 at sigma_min (arXiv:2303.01469, appendix C)."""
        return self._scalings(sigma, self.filled_config.sigma_min)

    def _scalings(self, sigma: Any, low: float) -> tuple[Any, Any]:
        data = self.filled_config.sigma_data
        return data**2 / ((sigma - low) ** 2 + data**2), (sigma - low) * data / (
            sigma**2 + data**2
        ) ** 0.5


# latent consistency models, and trajectory consistency distillation


@dataclass(frozen=True, kw_only=True)
class Picked(Discretization):
    """Evenly spaced picks of the timesteps that the distillation used.

    Args:
        original: their number, `original_inference_steps`.
        strength: pick among the last part of them only.
    """

    original: int
    strength: float = 1.0

    def points(self, n: int) -> list[Point]:
        """Return the points at n picks."""
        stride = self.train // self.original
        times = [i * stride - 1.0 for i in range(int(self.original * self.strength), 0, -1)]
        if n > len(times):
            raise ValueError(
                f"num_inference_steps={n} is more than the {len(times)} steps of"
                f" original_inference_steps={self.original} at strength={self.strength}; use fewer"
                " steps, more original_inference_steps or a larger strength"
            )
        picks = np.floor(np.linspace(0, len(times), n, endpoint=False))
        return [self.schedule.at(t=times[int(k)]) for k in picks]


def original_steps(c: FrozenDict, steps: int | None = None) -> int:
    """Return the number of timesteps that the distillation used."""
    steps = c.original_inference_steps if steps is None else steps
    why = ", the number of training steps"
    return checks.check_count("original_inference_steps", steps, c.num_train_timesteps, why)


def has_original_steps(c: FrozenDict) -> None:
    """Raise where they are more than the training steps."""
    original_steps(c)


def picked(
    c: FrozenDict, reference: bool, end: Point, steps: int | None, strength: float
) -> Discretization:
    """Return where the steps of LCM and TCD lie."""
    return Picked(
        schedule=vp_betas(c, reference),
        end=end,
        train=c.num_train_timesteps,
        whole=True,
        limited=True,
        repeats_end=reference,
        original=original_steps(c, steps),
        strength=strength,
    )


def lcm(
    c: FrozenDict,
    reference: bool,
    *,
    original_inference_steps: int | None = None,
    strength: float = 1.0,
) -> Recipe:
    """Return what the options of LCM mean.

    original_inference_steps: in place of the configured number.
    strength: pick among the last part of the distillation's timesteps only.
    """
    end = vp_betas(c, reference).point(0.0, 0.0)
    where = picked(c, reference, end, original_inference_steps, strength)
    return Recipe("lcm", where, said(c, timestep_scaling=float(c.timestep_scaling)))


def tcd(
    c: FrozenDict,
    reference: bool,
    *,
    original_inference_steps: int | None = None,
    strength: float = 1.0,
) -> Recipe:
    """Return what the options of TCD mean; see `lcm`.

    In the reference any original_inference_steps= means all training steps.
    """
    if original_inference_steps is not None and reference:
        original_inference_steps = c.num_train_timesteps
    end = vp_betas(c, reference).at(t=0.0)
    where = picked(c, reference, end, original_inference_steps, strength)
    return Recipe("tcd", where, said(c))


DISTILLED: dict[str, Any] = {
    **BETA_OPTIONS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "original_inference_steps": 50,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "timestep_scaling": 10.0,
    "rescale_betas_zero_snr": False,
}
IDLE: Mapping[str, str] = dict.fromkeys(
    ("timestep_spacing", "steps_offset"), "timesteps follow original_inference_steps"
)


class DistilledScheduler(SchedulerMixin):
    """Base of the classes that step between the timesteps that a distillation used."""

    choices: ClassVar = BETA_CHOICES
    relations = (has_original_steps,)
    timesteps_options: ClassVar = {
        **TIMES,
        "original_inference_steps": None,
        "timesteps": None,
        "strength": 1.0,
    }

    alphas_cumprod, alphas, betas = tables_of(vp_betas)
    previous_timestep = previous_timestep

    @property
    def final_alpha_cumprod(self) -> Array:
        """alpha_bar after timestep 0, which no step of these classes goes to."""
        bar = table_of(self, vp_betas).alphas_cumprod
        return self.show(np.array(1.0 if self.filled_config.set_alpha_to_one else bar[0]))


class LCMScheduler(DistilledScheduler):
    """Latent consistency models, multistep and one step (arXiv:2310.04378, algorithm 3).

    timestep_spacing and steps_offset are kept in the configuration and have no effect, as in the
    reference.
    """

    options: ClassVar = DISTILLED
    idle: ClassVar = IDLE
    output_class = LCMSchedulerOutput
    meaning = staticmethod(lcm)

    def get_scalings_for_boundary_condition_discrete(self, timestep: float) -> tuple[float, float]:
        """Return c_skip and c_out at a timestep."""
        return self.prediction.boundary(Point(float(timestep), 1.0, 0.0))


class TCDScheduler(DistilledScheduler):
    """Trajectory consistency distillation, strategic stochastic sampling (arXiv:2402.19159).

    Args of `step` and `plan`: eta, gamma in the paper: how far below its end, as a part of its
    time, the deterministic part of a step goes. timestep_spacing, steps_offset and timestep_scaling
    are kept in the configuration and have no effect, as in the reference.
    """

    options: ClassVar = DISTILLED
    idle: ClassVar = {**IDLE, "timestep_scaling": "the network itself is the consistency function"}
    step_options: ClassVar = {"eta": 0.3, "generator": None, "return_dict": True}
    output_class = TCDSchedulerOutput
    meaning = staticmethod(tcd)

    def step_and_second(
        self, plan: Plan, state: engine.State, output: Array, **noise: Any
    ) -> tuple[engine.State, Array]:
        """Return the state after a step, and the sample where its deterministic part ends."""
        after = engine.step(plan, state, output, **noise)
        return after, engine.step(before_noise(plan), state, output).sample


@lru_cache(maxsize=16)
def before_noise(plan: Plan) -> Plan:
    """Return the plan whose steps end where TCD adds noise: DDIM's steps to there."""
    grid, eta = GridRun(plan.grid), plan.options["eta"]
    arrivals = tuple(tcd_target(grid, b, eta) for _, b in grid.steps())
    return make_plan("ddim", replace(plan.grid, ends=arrivals), plan.prediction)


# the consistency decoder


@dataclass(frozen=True, kw_only=True)
class DecoderTimes(Discretization):
    """Times that the consistency decoder's network tells apart: the multiples of a 64th of all.

    Args:
        always: the times of every run, as in the reference; by default they depend on its steps.
    """

    always: tuple[float, ...] = ()

    def points(self, n: int) -> list[Point]:
        """Return the points at fractions 1 - k / n of the training, rounded up."""
        apart = max(self.train // 64, 1)
        top = (self.train - 1) // apart  # the number of different times above 0
        starts = [(self.train - 1) * (n - k) // n for k in range(n)]
        times = [float(min(t // apart + 1, top) * apart) for t in starts]
        if len(set(times)) < n:
            raise ValueError(
                f"num_inference_steps={n} asks for more times than the network of the consistency"
                " decoder tells apart; use fewer steps"
            )
        times = [*self.always] if n == len(self.always) else times
        return [self.schedule.at(t=t) for t in times]


def decoder(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of the consistency decoder mean."""
    cosine = FrozenDict({**BETA_OPTIONS, **c, "beta_schedule": "squaredcos_cap_v2"})
    schedule = vp_betas(cosine, reference, sigma_data=float(c.sigma_data))
    where = DecoderTimes(
        schedule=schedule,
        end=schedule.point(0.0, 0.0),
        train=c.num_train_timesteps,
        whole=True,
        limited=True,
        repeats_end=reference,
        always=(1008.0, 512.0) if reference else (),
    )
    prediction = Prediction("edm", sigma_data=float(c.sigma_data))
    return Recipe("consistency", where, prediction, start=Start("sigma"))


def several_steps(c: FrozenDict) -> None:
    """Raise where there is but one training step."""
    if c.num_train_timesteps < 2:
        raise ValueError(f"num_train_timesteps must be at least 2, got {c.num_train_timesteps}")


def coefficient(place: int, what: str) -> property:
    """Return the attribute with one of alpha, sigma, c_skip, c_out, c_in of the training steps."""

    def shown(self: Any) -> Array:
        recipe, rows = self.recipe(), []
        for p in recipe.discretization.training()[::-1]:
            skip, out = recipe.prediction.linear(p)
            rows.append((p.alpha, p.sigma, skip, out, p.scale))
        return self.show(np.array(rows).T[place])

    return property(shown, doc=what)


class ConsistencyDecoderScheduler(SchedulerMixin):
    """The decoder of latents to images distilled by OpenAI (github.com/openai/consistencydecoder).

    Its network knows 63 times, the multiples of 16 below 1024. n steps begin at the last training
    step and at fractions 1 - k / n of it, each rounded up to the next such time: 1008 and 512 for
    the two steps that it is meant for.
    """

    meanings: ClassVar = {
        "num_train_timesteps": "training steps of the cosine schedule; the network knows 63 of "
        "1024.",
    }
    options: ClassVar = {"num_train_timesteps": 1024, "sigma_data": 0.5}
    relations = (several_steps,)
    timesteps_options: ClassVar = TIMES
    output_class = ConsistencyDecoderSchedulerOutput
    meaning = staticmethod(decoder)

    sqrt_alphas_cumprod = coefficient(0, "Alpha of the training steps.")
    sqrt_one_minus_alphas_cumprod = coefficient(1, "Sigma of the training steps.")
    c_skip = coefficient(2, "What x0 has of the sample, at the training steps.")
    c_out = coefficient(3, "What x0 has of the network's output.")
    c_in = coefficient(4, "The scale of the network's input.")
