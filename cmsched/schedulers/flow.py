"""Flow matching: samples (1 - sigma) x0 + sigma eps, conditioned on sigma num_train_timesteps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from .. import checks, spacings
from ..backends import resolve
from ..discretizations import FlowSigmas
from ..engine.checks import backend_of, check_like
from ..frozen import FrozenDict
from ..grids import Grid
from ..noise import standard_normal
from ..plan import Plan
from ..predictions import Prediction
from ..recipe import Recipe
from ..schedules import Flow, Identity, Point, Schedule
from ..spacings import SHIFTS
from .base import TIMES, like_single
from .habit import Run, SchedulerMixin
from .options import in_order
from .outputs import FlowMatchEulerDiscreteSchedulerOutput, FlowMatchHeunDiscreteSchedulerOutput
from .sigma import (
    CHURN_OPTIONS,
    RAMP_OPTIONS,
    chosen_ramp,
    one_ramp,
    state_in_first_order,
    without_ramp,
)

__all__ = ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"]

Array = Any


@dataclass(frozen=True, kw_only=True)
class FlowMatch(FlowSigmas):
    """Sigmas even from 1 to the lowest training level, then shifted.

    Args:
        table_shift: of the training levels.
        even_to_shifted: whether the even sigmas end at the shifted level, which is shifted again,
            as in the reference.
        rule: a ramp between the ends of the shifted sigmas, by its name in `spacings.SPACINGS`.
        high: the first level of the ramp, in place of that.
        low: the last one.
        shifts_times: whether explicit timesteps are shifted, and the network told them as they
            were, as in the reference.
    """

    table_shift: float = 1.0
    even_to_shifted: bool = False
    rule: str | None = None
    high: float | None = None
    low: float | None = None
    shifts_times: bool = False

    def even(self, n: int) -> np.ndarray:
        """Return n sigmas before the shift."""
        low = 1 / self.train
        if self.even_to_shifted:
            low = float(spacings.shifted([low], self.table_shift)[0])
        return np.linspace(1.0, low, n)

    def training(self) -> list[Point]:
        """Return the points of the training levels."""
        levels = np.arange(self.train, 0, -1) / self.train
        return self.at_sigmas(spacings.shifted(levels, self.table_shift))

    def moved(self, sigmas: np.ndarray) -> np.ndarray:
        """Return sigmas shifted, stretched, and laid on the ramp."""
        if self.terminal and sigmas[-1] == 1.0:
            raise ValueError(
                f"shift_terminal={self.terminal} is where the last of several steps starts; use at"
                " least two steps"
            )
        sigmas = super().moved(sigmas)
        if self.rule is None:
            return sigmas
        ends = self.high or sigmas[0], self.low or sigmas[-1]
        return spacings.SPACINGS[self.rule].rule(len(sigmas), *ends)

    def at_levels(self, levels: list[float], end: Point) -> list[Point]:
        """Return the points at sigmas before the shift, or at the levels of a list to 0."""
        if levels[-1] < 0.0 or levels == [0.0]:
            raise ValueError(f"sigmas must end above 0, where the sample ends; got {levels}")
        if levels[-1] > 0.0 or self.repeats_end:
            return self.at_sigmas(self.moved(np.array(levels)))
        return self.at_sigmas(np.array(levels[:-1]))

    def at_times(self, times: list[float]) -> list[Point]:
        """Return the points at explicit model times."""
        if not 0.0 < times[-1] <= times[0] <= self.train:
            raise ValueError(
                f"timesteps must lie in (0, {self.train}], none outside, got {times}; pass sigmas"
                " where they count upward"
            )
        sigmas = np.array(times) / self.train
        if not self.shifts_times:
            return self.at_sigmas(sigmas)
        points = self.at_sigmas(self.moved(sigmas))
        if self.rises:
            return points
        return [replace(p, t=t) for p, t in zip(points, times, strict=True)]

    def ignored(self, timesteps: Any = None, sigmas: Any = None) -> tuple[str, ...]:
        """Return what has no effect on the grid of these lists, one sentence each."""
        said = []
        shifts = sigmas is not None and self.unsaid is not None and not self.repeats_end
        if shifts and self.listed(sigmas)[0][-1] == 0.0:
            text = "has no effect on sigmas that end at 0, which are the levels themselves"
            said.append(f"{self.unsaid} {text}")
        times = timesteps is not None and sigmas is None
        if self.mu is not None and times and not self.shifts_times:
            said.append("mu has no effect on explicit timesteps; pass sigmas")
        if self.rises and timesteps is not None and sigmas is not None:
            said.append("timesteps has no effect beside sigmas with invert_sigmas")
        return tuple(said)

    @property
    def rises(self) -> bool:
        """Whether the network is told 1 - sigma."""
        return bool(getattr(self.schedule, "rising", False))

    def entries(self, name: str, values: Any) -> list[float]:
        """Return an explicit list from noise to data, also where it rises.

        Of sigmas from 0 up, where a ramp has its own ends, the length counts (Cosmos 2).
        """
        table = np.asarray(checks.host(values))
        rises = name == "sigmas" and table.ndim == 1 and table.size and table[0] == 0.0
        if rises and self.schedule.frame != "flow":
            values = np.linspace(1.0, 1.0 / table.size, table.size)
        elif self.rises and table.ndim == 1 and table[:1] < table[-1:]:
            values = (1.0 if name == "sigmas" else float(self.train)) - table.astype(np.float64)
        return super().entries(name, values)

    def grid(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
    ) -> Grid:
        """Return the grid of a run.

        A list may come with its length; with both, the network is told the timesteps at the levels
        of sigmas. The rest is as in `Discretization.grid`.
        """
        lists = {"timesteps": timesteps, "sigmas": sigmas}
        given = {name: values for name, values in lists.items() if values is not None}
        if len(given) + (num_inference_steps is not None) < 2:
            return super().grid(num_inference_steps, **lists)
        entries = {name: self.entries(name, values) for name, values in given.items()}
        past = not self.repeats_end  # a list to 0 has one more than there are steps
        sizes = {k: len(values) - (past and values[-1] == 0.0) for k, values in entries.items()}
        if num_inference_steps is not None:
            sizes = {"num_inference_steps": num_inference_steps, **sizes}
        if len({*sizes.values()}) > 1:
            raise ValueError(
                f"{' and '.join(sizes)} disagree on the number of steps: {[*sizes.values()]}; leave"
                " one of them out"
            )
        timesteps = timesteps if sigmas is None else None
        grid = super().grid(timesteps=timesteps, sigmas=sigmas)
        if len(given) == 1:
            return grid
        if self.rises:
            return grid
        told = [replace(p, t=t) for p, t in zip(grid.points, entries["timesteps"], strict=False)]
        return replace(grid, points=(*told, grid.points[-1]))


def dynamic_shift(c: Mapping[str, Any], mu: float) -> float:
    """Return the shift that mu stands for."""
    shift = SHIFTS[c["time_shift_type"]](mu)
    if not shift > 0:
        raise ValueError(f'mu must be positive with time_shift_type="linear", got {mu}')
    return shift


def run_shift(c: FrozenDict, mu: float | None) -> float | None:
    """Return the shift of a run; None where it is dynamic and mu is not known yet."""
    if not c.use_dynamic_shifting:
        return float(c.get("set_shift", c.shift))
    return None if mu is None else dynamic_shift(c, mu)


def wide(c: FrozenDict) -> bool:
    """Return whether a ramp begins above 1, where samples are x0 + sigma eps."""
    return chosen_ramp(c) is not None and (c.sigma_max or 0.0) > 1.0


def flow_euler(c: FrozenDict, reference: bool, *, mu: float | None = None) -> Recipe:
    """Return what the options of Euler's method on a flow mean; mu is the dynamic shift."""
    train, rising, dynamic = c.num_train_timesteps, bool(c.invert_sigmas), c.use_dynamic_shifting
    schedule: Schedule = Flow(num_train_timesteps=train, rising=rising)
    prediction = Prediction("data_flow_prediction" if rising else "flow_prediction")
    if wide(c):
        schedule, prediction = Identity(factor=float(train)), Prediction("epsilon")
    idle = without_ramp(c) if chosen_ramp(c) is None else ()
    if mu is not None and not dynamic:
        idle, mu = (*idle, "mu has no effect without use_dynamic_shifting"), None
    where = FlowMatch(
        schedule=schedule,
        end=schedule.point(0.0, 0.0),
        train=train,
        repeats_end=reference,
        shift=run_shift(c, mu),
        terminal=c.shift_terminal,
        mu=mu,
        table_shift=1.0 if dynamic else float(c.shift),
        even_to_shifted=reference,
        rule=chosen_ramp(c),
        high=c.sigma_max,
        low=c.sigma_min,
        shifts_times=reference,
    )
    if c.sde_eta:
        return Recipe("flow_sde", where, prediction, {"eta": float(c.sde_eta)}, idle=idle)
    sampler = "lcm" if c.stochastic_sampling else "euler"
    return Recipe(sampler, where, prediction, idle=idle)


def flow_heun(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options of Heun's method on a flow mean."""
    schedule = Flow(num_train_timesteps=c.num_train_timesteps)
    where = FlowMatch(
        schedule=schedule,
        end=schedule.point(0.0, 0.0),
        train=c.num_train_timesteps,
        repeats_end=reference,
        evaluations=2,
        shift=float(c.get("set_shift", c.shift)),
        table_shift=float(c.shift),
        even_to_shifted=reference,
    )
    return Recipe("heun", where, Prediction("flow_prediction"), {"variable": "flow"})


def one_stochastic(c: FrozenDict) -> None:
    """Raise where two samplers are asked for, or one of a flow where there is none."""
    if c.sde_eta and c.stochastic_sampling:
        raise ValueError("stochastic_sampling and sde_eta are two samplers; choose one")
    others = [k for k in ("invert_sigmas", "stochastic_sampling", "sde_eta") if c[k]]
    if wide(c) and others:
        raise ValueError(f"{others[0]} is for a flow, and at sigma_max={c.sigma_max} there is none")


# attributes and methods that both classes have


def replan_flow(self: Any, plan: Plan, options: dict[str, Any]) -> Plan:
    """Raise: it is too late for churn."""
    raise ValueError(
        f"{', '.join(options)}: at step() the network has already seen the sample, so it is too"
        " late to add noise; give these options to plan()"
    )


def present_shift(self: Any) -> float:
    """The shift of the next `set_timesteps`."""
    return float(self.changed_since.get("set_shift", self.filled_config.shift))


def lowest_sigma(self: Any) -> float:
    """The lowest level before `set_timesteps`."""
    c = self.filled_config
    table_shift = 1.0 if c.get("use_dynamic_shifting") else c.shift
    return float(spacings.shifted([1 / c.num_train_timesteps], table_shift)[0])


def highest_sigma(self: Any) -> float:
    """The highest level before `set_timesteps`, which no shift moves."""
    return 1.0


shift, sigma_min, sigma_max = map(property, (present_shift, lowest_sigma, highest_sigma))


class FlowMatchEulerDiscreteScheduler(SchedulerMixin):
    """Euler's method on a flow, and stochastic variants of it (arXiv:2209.03003, 2210.02747).

    n steps start at sigmas even from 1 to 1 / num_train_timesteps, then shifted to more noise:
    shift sigma / (1 + (shift - 1) sigma) (arXiv:2403.03206, eq. 23). The reference takes the last
    of these from a table that is shifted already, so its shift counts twice there. Explicit sigmas
    are those before the shift, as pipelines pass them; a list that ends at 0, as `sigmas` does, has
    the levels themselves. Explicit timesteps are what the network is told.

    use_dynamic_shifting: the shift is e^mu, or mu (time_shift_type="linear"), of `set_timesteps`;
    base_shift, max_shift, base_image_seq_len and max_image_seq_len are for pipelines, which compute
    mu from them. shift_terminal stretches the levels to end there. sigma_max and sigma_min are the
    ends of a ramp in place of those of the list; where sigma_max is above 1 there is no flow, but
    samples are x0 + sigma eps, and the network says eps (Cosmos 2). invert_sigmas: the network is
    told 1 - sigma and says x0 - eps, and `sigmas` shows 1 - sigma (Mochi). stochastic_sampling: to
    the end in one jump, then noised up again (arXiv:2303.01469, algorithm 1). sde_eta > 0: the SDE
    with the flow's law (arXiv:2505.05470, eq. 9), whose steps have a density: `cmsched.transition`.

    Churn (s_churn, s_tmin, s_tmax, s_noise; levels sigma / alpha) is an option of `plan`, and noise
    is added before each evaluation (arXiv:2206.00364, algorithm 2); at `step` it is too late.

    per_token_timesteps of `step`, shape (batch, tokens): each token's own time; it goes to the next
    level of the run below that. As in the reference the network's output then is x0 - eps with
    compatibility="diffusers" (LTX-Video negates it); by default it is eps - x0 as ever.
    """

    meanings: ClassVar = {
        "num_train_timesteps": "the time at sigma = 1: the network is told sigma "
        "num_train_timesteps.",
        "sigma_min": "lowest level of a ramp, in place of that of the list.",
        "sigma_max": "highest level of a ramp, in place of that of the list; above 1 there is "
        "no flow, but "
        "samples are x0 + sigma eps, and the network says eps (Cosmos 2).",
    }
    options: ClassVar = {
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": False,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": False,
        "shift_terminal": None,
        **RAMP_OPTIONS,
        "time_shift_type": "exponential",
        "stochastic_sampling": False,
    }
    hidden_options: ClassVar = {"sde_eta": 0.0, "sigma_min": None, "sigma_max": None}
    relations = (one_ramp, in_order("sigma_min", "sigma_max"), one_stochastic)
    step_options: ClassVar = {
        **CHURN_OPTIONS,
        "generator": None,
        "per_token_timesteps": None,
        "return_dict": True,
    }
    timesteps_options: ClassVar = {**TIMES, "sigmas": None, "mu": None, "timesteps": None}
    single_noise = True
    output_class = FlowMatchEulerDiscreteSchedulerOutput
    meaning = staticmethod(flow_euler)

    replan = replan_flow
    shift, sigma_min, sigma_max = shift, sigma_min, sigma_max

    def set_shift(self, shift: float) -> None:
        """Use another shift from the next `set_timesteps` on; the configuration stays as it is."""
        self.check(FrozenDict({**self.filled_config, "shift": shift}))
        self.changed_since = {"set_shift": float(shift)}

    def time_shift(self, mu: float, sigma: float, t: Any) -> Any:
        """Return times t in [0, 1], numbers or an array, shifted: e / (e + (1 / t - 1)^sigma).

        e is exp(mu), or mu with time_shift_type="linear".
        """
        top = dynamic_shift(self.filled_config, mu) * t**sigma
        return top / (top + (1 - t) ** sigma)

    def stretch_shift_to_terminal(self, t: Any) -> Any:
        """Return an array of times stretched about 1 so that the last one is shift_terminal."""
        terminal = self.filled_config.shift_terminal
        if terminal is None:
            raise ValueError("stretch_shift_to_terminal needs a scheduler with shift_terminal")
        return 1 - (1 - t) * ((1 - terminal) / (1 - t[-1]))

    def scale_noise(self, sample: Array, timestep: Any, noise: Array | None = None) -> Array:
        """Return (1 - sigma) sample + sigma noise at one timestep, or one per row."""
        if noise is None:
            raise TypeError("scale_noise needs noise=, unit normals like sample")
        return self.add_noise(sample, noise, timestep)

    def special_step(
        self,
        run: Run,
        model_output: Array,
        sample: Array,
        generator: Any,
        noise: Array | None,
        options: dict[str, Any],
    ) -> Array | None:
        """Take a step whose tokens are each at their own time, where `per_token_timesteps` is."""
        times = options.pop("per_token_timesteps", None)
        if times is None:
            return None
        if options:
            self.replan(run.plan, options)
        if self.filled_config.sde_eta:
            raise ValueError("per_token_timesteps cannot be used with sde_eta")
        backend, acc = resolve(sample), resolve(sample).accumulation(sample.dtype)
        check_like(backend, sample, "model_output", model_output)
        now, then = self._token_levels(run.plan, sample, times)
        rising, again = self.filled_config.invert_sigmas, self.filled_config.stochastic_sampling
        x, v = backend.astype(sample, acc), backend.astype(model_output, acc)
        v = -v if (self.as_reference and not again) or rising else v
        if not again:
            return backend.astype(x + (then - now) * v, sample.dtype)
        if noise is None:
            if generator is None:
                raise ValueError("stochastic_sampling with per_token_timesteps needs generator=")
            like = like_single(sample) if self.as_reference else sample
            noise = standard_normal(generator, like, run.entry + 1)
        check_like(backend, sample, "variance_noise", noise)
        x = (1 - then) * (x - now * v) + then * backend.astype(noise, acc)
        return backend.astype(x, sample.dtype)

    def _token_levels(self, plan: Plan, sample: Array, times: Array) -> tuple[Array, Array]:
        """Return sigma of each token, and the next level of the run below that."""
        backend = resolve(sample)
        other, tokens = backend_of("per_token_timesteps", times), tuple(sample.shape[:2])
        real = "complex" not in other.dtype_name(times.dtype)
        if other is not backend or tuple(times.shape) != tokens or not real:
            raise ValueError(
                f"per_token_timesteps must be a real array of {backend.name} of shape {tokens}"
                f" (batch, tokens), got {tuple(times.shape)} of {other.name}"
            )
        _, now = plan.grid.schedule.on(sample).alpha_sigma(times)
        ones = (1,) * (len(sample.shape) - 2)
        now = backend.xp.reshape(now, (*times.shape, *ones))
        levels = self.required().plan.on(sample).sigmas
        levels = backend.xp.reshape(levels, (-1, *(1,) * len(sample.shape)))
        levels = levels + backend.zeros_like(now)
        below = backend.where(levels < now - 1e-6, levels, backend.zeros_like(levels))
        return now, backend.xp.max(below, axis=0)  # 0, the end, where no level of the run is


class FlowMatchHeunDiscreteScheduler(SchedulerMixin):
    """Heun's method on a flow, in sigma: two evaluations a step, one for the last.

    Levels and churn are as in `FlowMatchEulerDiscreteScheduler`.
    """

    meanings: ClassVar = {
        "num_train_timesteps": "the time at sigma = 1: the network is told sigma "
        "num_train_timesteps.",
    }
    options: ClassVar = {"num_train_timesteps": 1000, "shift": 1.0}
    step_options: ClassVar = {**CHURN_OPTIONS, "generator": None, "return_dict": True}
    order = 2
    output_class = FlowMatchHeunDiscreteSchedulerOutput
    meaning = staticmethod(flow_heun)

    replan = replan_flow
    shift, sigma_min, sigma_max = shift, sigma_min, sigma_max
    state_in_first_order = state_in_first_order

    def scale_noise(self, sample: Array, timestep: Any, noise: Array) -> Array:
        """Return (1 - sigma) sample + sigma noise at one timestep, or one per row."""
        return self.add_noise(sample, noise, timestep)
