"""Flow matching: samples (1 - sigma) x0 + sigma eps, conditioned on sigma num_train_timesteps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from .. import engine, spacings
from .. import noise as noise_source
from .._messages import choose
from ..backends import resolve
from ..engine.checks import backend_of
from ..plan import Plan
from ..predictions import Prediction
from ..ramps import RAMPS
from ..schedules import Flow, Identity, Point, Schedule
from ..spacings import SHIFTS, Grid
from .base import UNSET, Run, SchedulerMixin
from .config import FrozenDict
from .outputs import SchedulerOutput
from .variance_exploding import RAMP_OPTIONS, HeunDiscreteScheduler, chosen_ramp

__all__ = [
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchEulerDiscreteSchedulerOutput",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchHeunDiscreteSchedulerOutput",
    "FlowScheduler",
]

Array = Any
SIGMAS = 7  # the row of a plan's table that has sigma, see `plan.row_numbers`
CHURN = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": float("inf"), "s_noise": 1.0}


class FlowMatchEulerDiscreteSchedulerOutput(SchedulerOutput):
    """Output of `FlowMatchEulerDiscreteScheduler.step`."""


class FlowMatchHeunDiscreteSchedulerOutput(SchedulerOutput):
    """Output of `FlowMatchHeunDiscreteScheduler.step`."""


class FlowScheduler(SchedulerMixin):
    """Base of the flow-matching classes (arXiv:2209.03003, 2210.02747).

    n steps start at sigmas even from 1 to 1 / num_train_timesteps, then shifted to more noise:
    shift sigma / (1 + (shift - 1) sigma) (arXiv:2403.03206, eq. 23). The reference takes the last
    of these from a table that is shifted already, so its shift counts twice there.

    Explicit sigmas are those before the shift, as pipelines pass them; a list that ends at 0, as
    `sigmas` does, has the levels themselves. Explicit timesteps are what the network is told.
    """

    whole_times = False
    limited = False

    _shift: float | None = None  # what `set_shift` set

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        if not config.shift > 0:
            raise ValueError(f"shift must be positive, got {config.shift}")

    def _schedule(self, config: FrozenDict) -> Schedule:
        return Flow(num_train_timesteps=config.num_train_timesteps)

    def _prediction(self, config: FrozenDict) -> Prediction:
        return Prediction("flow_prediction")

    def _moved(self, config: FrozenDict, sigmas: np.ndarray, mu: float | None) -> np.ndarray:
        """Return shifted levels."""
        return spacings.shifted(sigmas, self.shift)

    def _table_shift(self, config: FrozenDict) -> float:
        """Return the shift of the levels before `set_timesteps`."""
        return float(config.shift)

    def _points(
        self, config: FrozenDict, n: int, *, mu: float | None = None, **options: Any
    ) -> list[Point]:
        shift = self._table_shift(config) if self._copies else 1.0
        low = spacings.shifted([1 / config.num_train_timesteps], shift)[0]
        return self._at_levels(config, self._moved(config, np.linspace(1.0, low, n), mu))

    def _at_sigmas(
        self,
        config: FrozenDict,
        sigmas: list[float],
        last: Point,
        *,
        mu: float | None = None,
        **options: Any,
    ) -> list[Point]:
        if sigmas[-1] > 0.0:
            return self._at_levels(config, self._moved(config, np.array(sigmas), mu))
        if mu is not None:
            self._once("mu has no effect on sigmas that end at 0, which are the levels themselves")
        if sigmas[-1] < 0.0 or len(sigmas) == 1:
            raise ValueError(f"sigmas must end above 0, where the sample ends; got {sigmas}")
        return self._at_levels(config, np.array(sigmas[:-1]))

    def _at_levels(self, config: FrozenDict, sigmas: np.ndarray) -> list[Point]:
        schedule = self._schedule(config)
        return [schedule.at(sigma=s) for s in sigmas.tolist()]

    def _training_points(self) -> list[Point]:
        config = self._options
        n = config.num_train_timesteps
        sigmas = spacings.shifted(np.arange(n, 0, -1) / n, self._table_shift(config))
        return self._at_levels(config, sigmas)

    def _training_times(self) -> np.ndarray:
        return np.array([p.t for p in self._training_points()])

    def _visited(self, plan: Plan | None) -> tuple[Point, ...]:
        """Noise can be added at every time, down to where there is none."""
        return (self.schedule.at(sigma=0.0), *super()._visited(plan))

    def _changed(self, plan: Plan, options: dict[str, Any]) -> Plan:
        raise ValueError(
            f"{', '.join(options)}: at step() the network has already seen the sample, so it is too"
            " late to add noise; give these options to plan()"
        )

    @property
    def shift(self) -> float:
        """The shift of the next `set_timesteps`."""
        return float(self._options.shift if self._shift is None else self._shift)

    @property
    def sigma_min(self) -> float:
        """The lowest level before `set_timesteps`."""
        low = 1 / self._options.num_train_timesteps
        return float(spacings.shifted([low], self._table_shift(self._options))[0])

    @property
    def sigma_max(self) -> float:
        """The highest level before `set_timesteps`, which no shift moves."""
        return 1.0

    def scale_noise(self, sample: Array, timestep: Any, noise: Array) -> Array:
        """Return (1 - sigma) sample + sigma noise at one timestep, or one per row."""
        return self.add_noise(sample, noise, timestep)


class FlowMatchEulerDiscreteScheduler(FlowScheduler):
    """Euler's method on a flow, and stochastic variants of it.

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
    step_options: ClassVar = {
        **CHURN,
        "generator": None,
        "per_token_timesteps": None,
        "return_dict": True,
    }
    timesteps_options: ClassVar = {
        "num_inference_steps": None,
        "device": None,
        "sigmas": None,
        "mu": None,
        "timesteps": None,
    }
    grid_options = ("mu",)
    output_class = FlowMatchEulerDiscreteSchedulerOutput

    def _validate(self, config: FrozenDict) -> None:
        pipelines = {k: 0.0 for k in ("base_shift", "max_shift") if config[k] is None}
        super()._validate(FrozenDict({**config, **pipelines}))
        chosen_ramp(config)
        choose("time_shift_type", config.time_shift_type, SHIFTS)
        if not 0.0 <= (config.shift_terminal or 0.0) < 1.0:
            raise ValueError(f"shift_terminal must lie in [0, 1), got {config.shift_terminal}")
        if config.sde_eta < 0:
            raise ValueError(f"sde_eta must not be negative, got {config.sde_eta}")
        if config.sde_eta and config.stochastic_sampling:
            raise ValueError("stochastic_sampling and sde_eta are two samplers; choose one")
        low, high = config.sigma_min, config.sigma_max
        for name, end in (("sigma_min", low), ("sigma_max", high)):
            if end is not None and not end > 0:
                raise ValueError(f"{name} must be positive, got {end}")
        if None not in (low, high) and not high > low:
            raise ValueError(f"sigma_max={high} must be above sigma_min={low}")
        if self._wide(config) and (
            others := [k for k in ("invert_sigmas", "stochastic_sampling", "sde_eta") if config[k]]
        ):
            raise ValueError(f"{others[0]} is for a flow, and at sigma_max={high} there is none")

    def _wide(self, config: FrozenDict) -> bool:
        """Whether a ramp begins above 1, where samples are x0 + sigma eps."""
        return chosen_ramp(config) is not None and (config.sigma_max or 0.0) > 1.0

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        if config.sde_eta:
            return "flow_sde", {"eta": float(config.sde_eta)}
        return "lcm" if config.stochastic_sampling else "euler", {}

    def _schedule(self, config: FrozenDict) -> Schedule:
        if self._wide(config):
            return Identity(factor=float(config.num_train_timesteps))
        rising = bool(config.invert_sigmas)
        return Flow(num_train_timesteps=config.num_train_timesteps, rising=rising)

    def _prediction(self, config: FrozenDict) -> Prediction:
        if self._wide(config):
            return Prediction("epsilon")
        return Prediction("data_flow_prediction" if config.invert_sigmas else "flow_prediction")

    def _exposed(self, point: Point) -> float:
        return point.alpha if self._options.invert_sigmas else point.sigma

    def grid(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
        **options: Any,
    ) -> Grid:
        """Return the grid of a run.

        A list may come with its length; with both, the network is told the timesteps at the levels
        of sigmas. The rest is as in `plan`.
        """
        lists = {"timesteps": timesteps, "sigmas": sigmas}
        given = {name: values for name, values in lists.items() if values is not None}
        if len(given) + (num_inference_steps is not None) < 2:
            return super().grid(num_inference_steps, **lists, **options)
        entries = {name: self._entries(name, values) for name, values in given.items()}
        sizes = {name: len(values) - (values[-1] == 0.0) for name, values in entries.items()}
        if num_inference_steps is not None:
            sizes = {"num_inference_steps": num_inference_steps, **sizes}
        if len({*sizes.values()}) > 1:
            raise ValueError(
                f"{' and '.join(sizes)} disagree on the number of steps: {[*sizes.values()]}; leave"
                " one of them out"
            )
        timesteps = timesteps if sigmas is None else None
        grid = super().grid(timesteps=timesteps, sigmas=sigmas, **options)
        if len(given) == 1:
            return grid
        if self._options.invert_sigmas:
            self._once("timesteps has no effect beside sigmas with invert_sigmas")
            return grid
        told = [replace(p, t=t) for p, t in zip(grid.points, entries["timesteps"], strict=False)]
        return replace(grid, points=(*told, grid.points[-1]))

    def _entries(self, name: str, values: Any) -> list[float]:
        """Return an explicit list from noise to data, also where it rises (`invert_sigmas`).

        Of sigmas from 0 up, where a ramp has its own ends, the length counts (Cosmos 2).
        """
        table = np.asarray(spacings.host(values))
        rises = name == "sigmas" and table.ndim == 1 and table.size and table[0] == 0.0
        if rises and self._wide(self._options):
            values = np.linspace(1.0, 1.0 / table.size, table.size)
        elif self._options.invert_sigmas and table.ndim == 1 and table[:1] < table[-1:]:
            top = 1.0 if name == "sigmas" else float(self._options.num_train_timesteps)
            values = top - table.astype(np.float64)
        return super()._entries(name, values)

    def _at_timesteps(
        self,
        config: FrozenDict,
        timesteps: list[float],
        *,
        mu: float | None = None,
        **options: Any,
    ) -> list[Point]:
        """With compatibility="diffusers" the levels are shifted, and the network is not told."""
        train = config.num_train_timesteps
        if not 0.0 < timesteps[-1] <= timesteps[0] <= train:
            raise ValueError(
                f"timesteps must lie in (0, {train}], none outside, got {timesteps}; pass sigmas"
                " where they count upward"
            )
        sigmas = np.array(timesteps) / train
        if self._copies:
            points = self._at_levels(config, self._moved(config, sigmas, mu))
            if config.invert_sigmas:
                return points
            return [replace(p, t=t) for p, t in zip(points, timesteps, strict=True)]
        if mu is not None:
            self._once("mu has no effect on explicit timesteps; pass sigmas")
        return self._at_levels(config, sigmas)

    def _table_shift(self, config: FrozenDict) -> float:
        return 1.0 if config.use_dynamic_shifting else super()._table_shift(config)

    def _moved(self, config: FrozenDict, sigmas: np.ndarray, mu: float | None) -> np.ndarray:
        shift = self.shift
        if config.use_dynamic_shifting:
            shift = self._dynamic(config, mu)
        elif mu is not None:
            self._once("mu has no effect without use_dynamic_shifting")
        sigmas = spacings.shifted(sigmas, shift)
        if config.shift_terminal:
            if sigmas[-1] == 1.0:
                raise ValueError(
                    f"shift_terminal={config.shift_terminal} is where the last of several steps"
                    " starts; use at least two steps"
                )
            sigmas = spacings.stretched(sigmas, config.shift_terminal)
        ramp = chosen_ramp(config)
        if ramp is None:
            for name in ("sigma_min", "sigma_max"):
                if config[name] is not None:
                    self._once(f"{name} has no effect without a ramp of sigmas")
            return sigmas
        high, low = config.sigma_max or sigmas[0], config.sigma_min or sigmas[-1]
        return RAMPS[ramp](len(sigmas), high, low)

    def _dynamic(self, config: FrozenDict, mu: float | None) -> float:
        """Return the shift that mu stands for."""
        if mu is None:
            raise ValueError(
                "use_dynamic_shifting needs mu=, the shift of this resolution; pipelines compute it"
                " from the image's size with base_shift and max_shift"
            )
        shift = SHIFTS[config.time_shift_type](mu)
        if not shift > 0:
            raise ValueError(f'mu must be positive with time_shift_type="linear", got {mu}')
        return shift

    def set_shift(self, shift: float) -> None:
        """Use another shift from the next `set_timesteps` on; the configuration stays as it is."""
        self._validate(FrozenDict({**self._options, "shift": shift}))
        self._shift = float(shift)

    def time_shift(self, mu: float, sigma: float, t: Any) -> Any:
        """Return times t in [0, 1], numbers or an array, shifted: e / (e + (1 / t - 1)^sigma).

        e is exp(mu), or mu with time_shift_type="linear".
        """
        top = self._dynamic(self._options, mu) * t**sigma
        return top / (top + (1 - t) ** sigma)

    def stretch_shift_to_terminal(self, t: Any) -> Any:
        """Return an array of times stretched about 1 so that the last one is shift_terminal."""
        terminal = self._options.shift_terminal
        if terminal is None:
            raise ValueError("stretch_shift_to_terminal needs a scheduler with shift_terminal")
        return 1 - (1 - t) * ((1 - terminal) / (1 - t[-1]))

    def scale_noise(self, sample: Array, timestep: Any, noise: Array | None = None) -> Array:
        """Return (1 - sigma) sample + sigma noise at one timestep, or one per row."""
        if noise is None:
            raise TypeError("scale_noise needs noise=, unit normals like sample")
        return self.add_noise(sample, noise, timestep)

    def _own_step(
        self,
        run: Run,
        model_output: Array,
        sample: Array,
        generator: Any,
        noise: Array | None,
        options: dict[str, Any],
    ) -> Array | None:
        """Take a step whose tokens are each at their own time."""
        times = options.pop("per_token_timesteps", None)
        if times is None:
            return None
        if options:
            self._changed(run.plan, options)
        backend, config = resolve(sample), self._options
        engine.check_like(backend, sample, "model_output", model_output)
        other, tokens = backend_of("per_token_timesteps", times), tuple(sample.shape[:2])
        real = "complex" not in other.dtype_name(times.dtype)
        if other is not backend or tuple(times.shape) != tokens or not real:
            raise ValueError(
                f"per_token_timesteps must be a real array of {backend.name} of shape {tokens}"
                f" (batch, tokens), got {tuple(times.shape)} of {other.name}"
            )
        if config.sde_eta:
            raise ValueError("per_token_timesteps cannot be used with sde_eta")
        acc = backend.accumulation(sample.dtype)
        ones = (1,) * (len(sample.shape) - 2)
        now = backend.xp.reshape(backend.astype(times, acc), (*times.shape, *ones))
        now = now / config.num_train_timesteps
        now = 1.0 - now if config.invert_sigmas else now
        levels = self._set().on(sample).numbers[SIGMAS, :]
        levels = backend.xp.reshape(levels, (-1, *(1,) * len(sample.shape)))
        levels = levels + backend.zeros_like(now)
        below = backend.where(levels < now - 1e-6, levels, backend.zeros_like(levels))
        then = backend.xp.max(below, axis=0)  # 0, the end, where no level of the run is
        x, v = backend.astype(sample, acc), backend.astype(model_output, acc)
        copied = self._copies and not config.stochastic_sampling
        v = -v if copied or config.invert_sigmas else v
        if not config.stochastic_sampling:
            return backend.astype(x + (then - now) * v, sample.dtype)
        if noise is None:
            if generator is None:
                raise ValueError("stochastic_sampling with per_token_timesteps needs generator=")
            noise = noise_source.standard_normal(
                generator, tuple(sample.shape), sample.dtype, sample, row=run.entry + 1, rank=0
            )
        engine.check_like(backend, sample, "variance_noise", noise)
        x = (1 - then) * (x - now * v) + then * backend.astype(noise, acc)
        return backend.astype(x, sample.dtype)


class FlowMatchHeunDiscreteScheduler(FlowScheduler):
    """Heun's method on a flow, in sigma: two evaluations a step, one for the last.

    Churn is as in `FlowMatchEulerDiscreteScheduler`.
    """

    options: ClassVar = {"num_train_timesteps": 1000, "shift": 1.0}
    step_options: ClassVar = {**CHURN, "generator": None, "return_dict": True}
    timesteps_options: ClassVar = {"num_inference_steps": UNSET, "device": None}
    order = 2
    output_class = FlowMatchHeunDiscreteSchedulerOutput
    state_in_first_order = HeunDiscreteScheduler.state_in_first_order

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return "heun", {"variable": "flow"}
