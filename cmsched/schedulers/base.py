"""What every named scheduler shares: plans from a configuration, and the stateful habit around one plan.

A named class declares its options and says which sampler, grid and prediction they mean; everything else is here.
"""

import inspect
import math
import secrets
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .. import engine, spacings
from .._messages import choose, nearest
from ..backends import Backend, from_device, named, resolve
from ..plan import Plan, make_plan
from ..predictions import Prediction
from ..schedules import BETA_SCHEDULES, Betas, Point, Schedule, check_betas
from ..spacings import Grid
from .config import ConfigMixin, FrozenDict
from .outputs import OriginalSampleOutput, SchedulerOutput

__all__ = ["BetaScheduler", "KarrasDiffusionSchedulers", "SchedulerMixin"]

Array = Any
UNSET = inspect.Parameter.empty


class KarrasDiffusionSchedulers(Enum):
    """Schedulers that can be exchanged for one another in a pipeline, with the field's numbering."""

    DDIMScheduler = 1
    DDPMScheduler = 2
    PNDMScheduler = 3
    LMSDiscreteScheduler = 4
    EulerDiscreteScheduler = 5
    HeunDiscreteScheduler = 6
    EulerAncestralDiscreteScheduler = 7
    DPMSolverMultistepScheduler = 8
    DPMSolverSinglestepScheduler = 9
    KDPM2DiscreteScheduler = 10
    KDPM2AncestralDiscreteScheduler = 11
    DEISMultistepScheduler = 12
    UniPCMultistepScheduler = 13
    DPMSolverSDEScheduler = 14
    EDMEulerScheduler = 15


EXCHANGEABLE = [member.name for member in KarrasDiffusionSchedulers]


def _signed(function: Callable[..., Any], names: Sequence[str], options: Mapping[str, Any], extra: Sequence[str]) -> Any:
    """Return a copy of a method whose signature shows these parameters, for code that looks there."""
    kind = inspect.Parameter
    shown = [kind("self", kind.POSITIONAL_OR_KEYWORD)]
    shown += [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in names]
    shown += [kind(name, kind.POSITIONAL_OR_KEYWORD, default=value) for name, value in options.items()]
    shown += [kind(name, kind.KEYWORD_ONLY, default=None) for name in extra if name not in options]
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__doc__, copy.__qualname__ = function.__doc__, function.__qualname__
    copy.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return copy


class SchedulerMixin(ConfigMixin):
    """Base of the named schedulers.

    Class attributes of a scheduler:
        options: constructor options and defaults, in the reference's order.
        step_options: what `step` takes after (model_output, timestep, sample), in the reference's order.
        timesteps_options: what `set_timesteps` takes, in the reference's order.
        grid_options: those of them that shape the grid and `plan` takes as keywords.
        order: evaluations per requested step, as the reference counts them.
    """

    order: ClassVar[int] = 1
    step_options: ClassVar[Mapping[str, Any]] = {"generator": None, "return_dict": True}
    timesteps_options: ClassVar[Mapping[str, Any]] = {"num_inference_steps": UNSET, "device": None}
    grid_options: ClassVar[tuple[str, ...]] = ()
    output_class: ClassVar[type[SchedulerOutput]] = OriginalSampleOutput
    whole_times: ClassVar[bool] = True  # the network is conditioned on integers, if the grid has only such
    limited: ClassVar[bool] = True  # cannot take more steps than it was trained with

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class `step` and `set_timesteps` with its own signatures."""
        super().__init_subclass__(**kwargs)
        cls.step = _signed(  # type: ignore[method-assign]
            SchedulerMixin.step, ("model_output", "timestep", "sample"), cls.step_options, ()
        )
        cls.set_timesteps = _signed(  # type: ignore[method-assign]
            SchedulerMixin.set_timesteps, (), cls.timesteps_options, ("timesteps", "sigmas", "xp")
        )

    # what a named class says

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        """Return the sampler's registered name and its options for n steps."""
        raise NotImplementedError

    def _schedule(self, config: FrozenDict) -> Schedule:
        """Return the noise schedule."""
        raise NotImplementedError

    def _prediction(self, config: FrozenDict) -> Prediction:
        """Return what the network's output means."""
        raise NotImplementedError

    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        """Return the n points where steps start."""
        raise NotImplementedError

    def _last(self, config: FrozenDict) -> Point:
        """Return the point where the sample ends."""
        return self._schedule(config).point(0.0, 0.0)

    def _init_scale(self, config: FrozenDict, first: Point) -> float:
        """Return the scale of the noise a run starts from."""
        return 1.0

    # plans

    @property
    def _options(self) -> FrozenDict:
        return self._filled(self.config)

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of the present configuration."""
        return self._schedule(self._options)

    @property
    def prediction(self) -> Prediction:
        """What the network's output means, of the present configuration."""
        return self._prediction(self._options)

    def grid(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
        **options: Any,
    ) -> Grid:
        """Return the grid of a run, from exactly one of a number of steps, timesteps, or sigmas (both decreasing)."""
        config = self._options
        given = {"num_inference_steps": num_inference_steps, "timesteps": timesteps, "sigmas": sigmas}
        have = [name for name, value in given.items() if value is not None]
        if len(have) != 1:
            found = " and ".join(have) or "none"
            raise ValueError(f"pass exactly one of num_inference_steps, timesteps and sigmas; got {found}")
        last = self._last(config)
        if num_inference_steps is not None:
            train = config.get("num_train_timesteps") if self.limited else None
            why = ", the number of training steps" if train else ""
            n = spacings.check_count("num_inference_steps", num_inference_steps, train, why)
            points = self._points(config, n, **options)
            if not self._copies and last.ratio > 0 and math.isclose(points[-1].ratio, last.ratio, rel_tol=1e-9):
                points = self._points(config, n + 1, **options)[:-1]  # no step of length zero at the end
        elif timesteps is not None:
            points = self._at_timesteps(config, spacings.decreasing("timesteps", timesteps))
        else:
            points = self._at_sigmas(config, sigmas, last)
        integral = self.whole_times and all(p.t == int(p.t) for p in points)
        return self._finish(config, Grid((*points, last), self._schedule(config), self._init_scale(config, points[0]), integral))

    def _finish(self, config: FrozenDict, grid: Grid) -> Grid:
        """Return the grid with what only this class knows of it."""
        return grid

    def _at_timesteps(self, config: FrozenDict, timesteps: list[float]) -> list[Point]:
        """Return the points at explicit timesteps."""
        if self.whole_times and any(t != int(t) for t in timesteps):
            raise ValueError(f"timesteps of {type(self).__name__} must be integers, got {timesteps}; pass sigmas for levels between")
        schedule = self._schedule(config)
        return [schedule.at(t=t) for t in timesteps]

    def _at_sigmas(self, config: FrozenDict, sigmas: Any, last: Point) -> list[Point]:
        """Return the points at explicit sigmas; a last entry equal to the terminal one is not doubled."""
        values = [float(s) for s in np.asarray(spacings.host(sigmas), dtype=np.float64).ravel()]
        if self.order > 1:  # the exposed list names the points of both evaluations
            values = list(dict.fromkeys(values))
        if len(values) > 1 and math.isclose(values[-1], self._exposed(last), rel_tol=1e-6):
            values.pop()
        values = spacings.decreasing("sigmas", values)
        if values[-1] <= self._exposed(last):
            raise ValueError(f"sigmas must end above {self._exposed(last):g}, where the sample ends; got {values[-1]:g}")
        schedule = self._schedule(config)
        if schedule.frame == "flow":
            return [schedule.at(sigma=s) for s in values]
        return [schedule.at(ratio=s) for s in values]

    def _exposed(self, point: Point) -> float:
        """Return a point's level as `sigmas` lists it: sigma / alpha, and sigma itself in the flow frame."""
        return point.sigma if point.alpha + point.sigma == 1.0 else point.ratio

    @property
    def _copies(self) -> bool:
        return bool(self.compatibility == "diffusers")

    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
        strength: float = 1.0,
        **options: Any,
    ) -> Plan:
        """Return the plan of a run: from a number of steps, or from explicit decreasing timesteps or sigmas.

        Args:
            strength: the part of the steps to take, the last int(n * strength) (image to image; start with
                `init(plan, noise, x0=image)`).
            options: the sampler's own (eta, s_churn, ...) and the grid's (as in `set_timesteps`).

        Raises:
            ValueError: not exactly one of the three; too many or too few steps; an order that is not decreasing.
            TypeError: an unknown option.
        """
        shaping = {name: options.pop(name) for name in self.grid_options if options.get(name) is not None}
        for name in self.grid_options:
            options.pop(name, None)
        if isinstance(strength, bool) or not 0.0 < strength <= 1.0:
            raise ValueError(f"strength must lie in (0, 1], got {strength}")
        if "strength" in self.timesteps_options:
            shaping["strength"] = strength
        grid = self.grid(num_inference_steps, timesteps=timesteps, sigmas=sigmas, **shaping)
        n = len(grid)
        if strength < 1.0 and not self._takes_strength(timesteps, sigmas):
            kept = int(n * strength)
            if kept == 0:
                raise ValueError(f"strength={strength} of {n} steps leaves none; use more steps or a larger strength")
            grid = grid.skip(n - kept)
        config = self._options
        sampler, fixed = self._sampler(config, n)
        return make_plan(sampler, grid, self._prediction(config), {**fixed, **options})

    def _takes_strength(self, timesteps: Any, sigmas: Any) -> bool:
        """Whether this class's own spacing has used strength already."""
        return False

    # the stateful habit

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set the discrete times of a run, before the loop.

        Args:
            num_inference_steps, timesteps, sigmas: exactly one; the lists are decreasing.
            device: where `timesteps` go; a string or torch.device means PyTorch, a JAX or CuPy device its framework.
            xp: the framework of `timesteps` (a name or namespace); by default that of the constructor, the device, NumPy.
            kwargs: further options of `plan`.

        Raises:
            ValueError, TypeError: see `plan`; the scheduler is unchanged then.
        """
        kwargs = self._named(args, kwargs, tuple(self.timesteps_options), "set_timesteps")
        device, xp = kwargs.pop("device", None), kwargs.pop("xp", None)
        backend = self._framework(device, xp)
        if kwargs.get("num_inference_steps") is None:
            kwargs.pop("num_inference_steps", None)
        explicit = kwargs.get("timesteps") is not None
        plan = self.plan(kwargs.pop("num_inference_steps", None), **kwargs)
        timesteps = backend.at(plan.timesteps, device)
        self._plan, self._timesteps, self._backend = plan, timesteps, backend
        self.num_inference_steps, self.custom_timesteps = len(plan.grid), explicit
        self._begin_index = None
        self._rewind()

    _plan: Plan | None = None
    _timesteps: Array = None
    _begin_index: int | None = None
    _backend: Backend | None = None
    num_inference_steps: int | None = None
    last_seed: int | None = None
    custom_timesteps: bool = False
    _step_index: int | None = None
    _running: Plan | None = None
    _first: int = 0

    def _rewind(self) -> None:
        """Forget where the loop was."""
        self._step_index = None  # counts entries of timesteps
        self._first = 0  # the entry the running plan starts from
        self._running = None  # the plan for the rest of the entries
        self._variants: dict[Any, Plan] = {}  # the same with options given to step
        self._memory: tuple[Array, ...] | None = None
        self._index: Any = None  # the index as the engine wants it
        self._generator: Any = None

    @staticmethod
    def _named(args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str], method: str) -> dict[str, Any]:
        """Return positional arguments under their names."""
        if len(args) > len(names):
            raise TypeError(f"{method}() takes {len(names)} arguments, got {len(args)}")
        for name, value in zip(names, args, strict=False):
            if name in kwargs:
                raise TypeError(f"{method}() got {name} twice")
            kwargs[name] = value
        return kwargs

    def _framework(self, device: Any, xp: Any) -> Backend:
        if xp is not None:
            return named(xp)
        if device is not None:
            return from_device(device)
        return named(self.xp if self.xp is not None else "numpy")

    def _shown(self, host: np.ndarray) -> Array:
        """Return a host table in the framework of the timesteps, in float64 where it has that."""
        backend = self._backend or self._framework(None, None)
        return backend.at(host, None)

    @property
    def timesteps(self) -> Array:
        """Model times, one per network evaluation; before `set_timesteps` all training steps, from the last one down."""
        if self._timesteps is None:
            return self._shown(self._training_times())
        return self._timesteps

    def _training_times(self) -> np.ndarray:
        n = int(self._options["num_train_timesteps"])
        return np.arange(n)[::-1].astype(np.int64 if self.whole_times else np.float64)

    @property
    def sigmas(self) -> Array:
        """Noise levels (sigma / alpha; sigma for flow schedules) of all evaluations, and the last one."""
        if self._plan is None:
            table = [self._exposed(p) for p in self._training_points()]
            return self._shown(np.array([*table, self._exposed(self._last(self._options))]))
        points = [*self._plan.points, self._plan.grid.points[-1]]
        return self._shown(np.array([self._exposed(p) for p in points]))

    def _training_points(self) -> list[Point]:
        schedule = self.schedule
        return [schedule.at(t=float(t)) for t in self._training_times()]

    @property
    def init_noise_sigma(self) -> float:
        """The scale of the unit normal noise a run starts from."""
        if self._plan is None:
            return self._init_scale(self._options, self._training_points()[0])
        start = [c for _, c, _ in self._plan.start.terms]
        return math.hypot(self._plan.grid.init_scale * start[0], *start[1:])

    @property
    def step_index(self) -> int | None:
        """The entry of `timesteps` the next step is at; None before the first one."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The entry of `timesteps` to start from, if it was set."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start from this entry of `timesteps` (image to image)."""
        if isinstance(begin_index, bool) or not isinstance(begin_index, int | np.integer) or begin_index < 0:
            raise ValueError(f"begin_index must be an integer of at least 0, got {begin_index!r}")
        if self._plan is not None:
            self._entry_step(int(begin_index))
        self._begin_index = int(begin_index)
        self._rewind()

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Any = None) -> int:
        """Return the entry of `timesteps` with this value; where two are equal, the one that begins a step.

        Raises:
            ValueError: no entry has this value.
        """
        plan = self._set()
        times = plan.timesteps if schedule_timesteps is None else np.asarray(spacings.host(schedule_timesteps), dtype=np.float64)
        t = float(timestep)
        near = np.abs(times - t)
        found = np.flatnonzero(near <= 1e-6 * max(1.0, abs(t)))
        if found.size == 0:
            entries = ", ".join(f"{v:g}" for v in times[:8]) + (", ..." if len(times) > 8 else "")
            raise ValueError(f"timestep {t:g} is not one of the scheduler's timesteps [{entries}]; pass one of scheduler.timesteps")
        begins = [i for i in found if i < len(plan) and (i == 0 or plan.steps[i] != plan.steps[i - 1])]
        return int(begins[0] if begins else found[0])

    def _set(self) -> Plan:
        if self._plan is None:
            raise ValueError("the scheduler has no timesteps yet: call set_timesteps(num_inference_steps) before the loop")
        return self._plan

    def _entry_step(self, entry: int) -> int:
        """Return the grid step that begins at this entry of timesteps."""
        plan = self._set()
        if entry >= len(plan):
            raise ValueError(f"begin_index={entry} is past the {len(plan)} timesteps")
        if entry and plan.steps[entry] == plan.steps[entry - 1]:
            raise ValueError(
                f"entry {entry} of timesteps is inside a step of {self.order} evaluations; start at an entry that begins"
                f" one, such as {entry - 1}"
            )
        return plan.steps[entry]

    def _begin(self, timestep: Any) -> tuple[Plan, int]:
        """Return the plan of the entries from here on, and the entry: the only time a timestep is looked up."""
        plan = self._set()
        if self._running is not None:
            return self._running, self._first
        entry = self._begin_index if self._begin_index is not None else self.index_for_timestep(timestep)
        skipped = self._entry_step(entry)
        return (plan.skip(skipped) if skipped else plan), entry

    def scale_model_input(self, sample: Array, timestep: Any = None) -> Array:
        """Return the network's input at the present step: the sample, scaled where this class's network wants that."""
        if not self._schedule_scales():
            return sample
        plan, first = self._begin(timestep)
        entry = first if self._step_index is None else self._step_index
        state = engine.State(sample, (), entry - first)
        if self._running is None:
            self._running, self._first, self._step_index = plan, first, first
        return engine.model_input(plan, state)[0]

    def _schedule_scales(self) -> bool:
        return self.schedule.sigma_data != 0.0

    def step(self, model_output: Array, timestep: Any, sample: Array, *args: Any, **kwargs: Any) -> Any:
        """Take one step: the sample at the next point from the network's output at this one.

        Args:
            model_output: the network's output, like sample.
            timestep: the entry of `timesteps` this step is at. It is looked up at the first step after `set_timesteps`
                (without `set_begin_index`); after that steps are counted.
            sample: the present sample, an array of any framework.
            generator: where noise comes from: a native generator or key, a list with one per sample, an int or
                `cmsched.Rng`. None draws from fresh entropy (kept as `last_seed`; an error under JAX).
            variance_noise: the noise itself, where the class takes it.
            return_dict: False returns a tuple.

        Returns:
            An object with prev_sample (and the class's estimate of x0), or a tuple.

        Raises:
            ValueError, TypeError: wrong order of calls, shapes, frameworks; the scheduler is unchanged then.
        """
        if args:
            kwargs = self._named(args, kwargs, tuple(self.step_options), "step")
        generator, noise = kwargs.pop("generator", None), kwargs.pop("variance_noise", None)
        return_dict = kwargs.pop("return_dict", True)
        plan, first = self._begin(timestep)
        entry = first if self._step_index is None else self._step_index
        entry = self._checked_entry(plan, first, entry, timestep)
        i = entry - first
        if kwargs:
            plan = self._with_options(plan, kwargs)
        if i >= len(plan):
            raise ValueError(
                f"the loop is over: all {len(plan)} steps are taken; call set_timesteps again before another loop"
            )
        backend = resolve(sample)
        memory = self._memory
        if memory is None or not i:
            memory = tuple([sample] * len(plan.layout.slots)) if plan.layout else ()
        index = self._index
        if index is None or not backend.index_on_device:
            index = i
            if backend.index_on_device and not backend.traced(sample):
                index = plan.on(sample).where[1, i] - 1
        row = plan.rows[i]
        made = None
        if not row.draws:
            if noise is not None or generator is not None:
                self._unused(plan, noise)
            generator = noise = None
        elif noise is not None:
            if generator is not None:
                raise ValueError("pass either generator or variance_noise, not both")
        elif generator is None:
            made = generator = self._fresh(backend, sample)
        state = engine.State(sample, memory, index)
        if noise is not None and not isinstance(index, int):
            noise = (noise,) * len(plan.layout.draws)  # type: ignore[union-attr]
        after = engine.step(plan, state, model_output, rng=generator, noise=noise)
        self._running, self._first, self._step_index = self._running or self._begin(timestep)[0], first, entry + 1
        self._memory, self._index = after.memory, after.index
        if made is not None:
            self._generator = made
        output = self.output_class
        if len(output.fields) == 1:
            return output(after.sample) if return_dict else (after.sample,)

        def estimated() -> Array:
            if isinstance(index, int):
                return engine.estimate_x0(plan, i, sample, model_output)
            return engine.estimate(plan, state, model_output).x0

        if return_dict:
            return output(after.sample, estimated)
        return (after.sample, estimated())

    def _checked_entry(self, plan: Plan, first: int, entry: int, timestep: Any) -> int:
        """Compare a timestep that is on the host with the entry counted; loops without memory may jump."""
        if not isinstance(timestep, int | float | np.generic) or entry - first >= len(plan):
            return entry
        expected = plan.rows[entry - first].point.t
        if abs(expected - timestep) <= 1e-6 * max(1.0, abs(expected)):
            return entry
        if isinstance(timestep, int) and not self.whole_times:
            raise ValueError(
                f"timestep {timestep} is an integer, this step is at {expected:g}; pass entries of scheduler.timesteps, not"
                " their numbers"
            )
        if self._step_index is None or (plan.layout and plan.layout.slots):
            raise ValueError(
                f"timestep {timestep:g} is not the one this step is at ({expected:g}, entry {entry}); call"
                " set_timesteps or set_begin_index to start elsewhere"
            )
        return max(self.index_for_timestep(timestep), first)

    def _with_options(self, plan: Plan, options: dict[str, Any]) -> Plan:
        """Return the plan with sampler options given to step, traced once per set of values."""
        for name in options:
            if name not in self.step_options:
                raise TypeError(f"step() has no option {name!r}{nearest(name, self.step_options)}")
        changed = {k: v for k, v in options.items() if plan.options.get(k, self.step_options[k]) != v}
        if not changed:
            return plan
        key = tuple(sorted(changed.items()))
        if key not in self._variants:
            self._variants[key] = self._changed(plan, changed)
        return self._variants[key]

    def _changed(self, plan: Plan, options: dict[str, Any]) -> Plan:
        return make_plan(plan.sampler, plan.grid, plan.prediction, {**plan.options, **options})

    def _unused(self, plan: Plan, noise: Any) -> None:
        """Say once that noise given to a deterministic run has no effect."""
        if noise is not None and plan.layout and not plan.layout.stochastic:
            self._once("variance_noise has no effect: this configuration draws no noise")

    def _once(self, text: str) -> None:
        said = self.__dict__.setdefault("_said", set())
        if text not in said:
            said.add(text)
            warnings.warn(f"{type(self).__name__}: {text}", stacklevel=4)

    def _fresh(self, backend: Backend, sample: Array) -> Any:
        """Return a generator from fresh entropy, one per run; its seed is kept."""
        if self._generator is None:
            seed = secrets.randbits(63)
            generator = backend.fresh(seed, backend.device(sample))
            self.last_seed = seed
            return generator
        return self._generator

    # noise levels as a function of time, on any framework

    def _levels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Times, alphas and sigmas of the training steps, with the present grid's points among them."""
        levels = {p.t: p for p in self._training_points()}
        if self._plan is not None:
            levels.update({p.t: p for p in self._plan.points})
        table = np.array([(t, p.alpha, p.sigma) for t, p in sorted(levels.items())])
        return table[:, 0], table[:, 1], table[:, 2]

    def _alpha_sigma(self, like: Array, timesteps: Any) -> tuple[Array, Array]:
        """Return alpha and sigma at timesteps (a number or an array, one per row), shaped to multiply `like`."""
        backend = resolve(like)
        xp, acc = backend.xp, backend.accumulation(like.dtype)
        times, alphas, sigmas = (backend.put(a, like, acc) for a in self._levels())
        if not hasattr(timesteps, "shape") or (isinstance(timesteps, np.generic | np.ndarray) and backend.name != "numpy"):
            timesteps = backend.put(np.asarray(timesteps), like)
        t = xp.reshape(backend.astype(timesteps, acc), (-1,))
        high = xp.clip(xp.searchsorted(times, t), 1, times.shape[0] - 1)
        t0, t1 = xp.take(times, high - 1), xp.take(times, high)
        w = (t - t0) / (t1 - t0)
        shape = (-1,) + (1,) * (len(like.shape) - 1) if len(like.shape) else ()
        a = xp.take(alphas, high - 1) * (1 - w) + xp.take(alphas, high) * w
        s = xp.take(sigmas, high - 1) * (1 - w) + xp.take(sigmas, high) * w
        return xp.reshape(a, shape), xp.reshape(s, shape)

    def add_noise(self, original_samples: Array, noise: Array, timesteps: Any) -> Array:
        """Return alpha x0 + sigma noise at timesteps: one number or array entry for all rows, or one per row.

        Any framework, inside jit too; arrays like original_samples.
        """
        backend = resolve(original_samples)
        engine.check_like(backend, original_samples, "noise", noise)
        alpha, sigma = self._alpha_sigma(original_samples, timesteps)
        acc = backend.accumulation(original_samples.dtype)
        mixed = backend.combine([original_samples, noise], [alpha, sigma], acc)
        return backend.astype(mixed, original_samples.dtype)

    def get_velocity(self, sample: Array, noise: Array, timesteps: Any) -> Array:
        """Return v = alpha noise - sigma sample at timesteps, with alpha^2 + sigma^2 = 1; arguments as in `add_noise`."""
        backend = resolve(sample)
        engine.check_like(backend, sample, "noise", noise)
        alpha, sigma = self._alpha_sigma(sample, timesteps)
        size = backend.xp.sqrt(alpha * alpha + sigma * sigma)
        acc = backend.accumulation(sample.dtype)
        v = backend.combine([noise, sample], [alpha / size, -sigma / size], acc)
        return backend.astype(v, sample.dtype)

    def __len__(self) -> int:
        """Return the number of training steps."""
        return int(self._options["num_train_timesteps"])

    def __bool__(self) -> bool:
        """Return True."""
        return True


BETA_OPTIONS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
}


@lru_cache(maxsize=64)
def betas_schedule(**fields: Any) -> Betas:
    """Return a schedule whose tables are computed once."""
    return Betas(**fields)


class BetaScheduler(SchedulerMixin):
    """Base of the classes trained on a table of betas."""

    beta_schedules: ClassVar[tuple[str, ...]] = ("linear", "scaled_linear", "squaredcos_cap_v2")
    prediction_types: ClassVar[tuple[str, ...]] = ("epsilon", "sample", "v_prediction")
    frame: ClassVar[str] = "vp"
    sigma_data: ClassVar[float] = 0.0
    terminal: ClassVar[float] = 0.0  # alpha_bar of the last step under rescale_betas_zero_snr

    def _validate(self, config: FrozenDict) -> None:
        """Check the options that these classes share."""
        spacings.check_count("num_train_timesteps", config.num_train_timesteps)
        if config.trained_betas is None:
            choose("beta_schedule", config.beta_schedule, self.beta_schedules)
            for name in ("beta_start", "beta_end"):
                if not 0.0 < config[name] < 1.0:
                    raise ValueError(f"{name} must lie in (0, 1), got {config[name]}")
        else:
            count = len(check_betas(config.trained_betas))
            if count != config.num_train_timesteps:
                raise ValueError(
                    f"trained_betas has {count} entries but num_train_timesteps={config.num_train_timesteps}; pass"
                    f" num_train_timesteps={count}"
                )
        choose("prediction_type", config.prediction_type, self.prediction_types)
        if "timestep_spacing" in config:
            choose("timestep_spacing", config.timestep_spacing, spacings.TIMESTEPS)
        offset = config.get("steps_offset", 0)
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise ValueError(f"steps_offset must be an integer of at least 0, got {offset!r}")
        if config.get("clip_sample") and not config.clip_sample_range > 0:
            raise ValueError(f"clip_sample_range must be positive, got {config.clip_sample_range}")
        if config.get("thresholding"):
            if not 0.0 < config.dynamic_thresholding_ratio <= 1.0:
                raise ValueError(f"dynamic_thresholding_ratio must lie in (0, 1], got {config.dynamic_thresholding_ratio}")
            if not config.sample_max_value > 0:
                raise ValueError(f"sample_max_value must be positive, got {config.sample_max_value}")

    def _schedule(self, config: FrozenDict) -> Betas:
        rescale = bool(config.get("rescale_betas_zero_snr"))
        return betas_schedule(
            frame=self.frame,
            sigma_data=self.sigma_data,
            num_train_timesteps=config.num_train_timesteps,
            beta_start=float(config.beta_start),
            beta_end=float(config.beta_end),
            beta_schedule=config.beta_schedule if config.beta_schedule in BETA_SCHEDULES else "linear",
            trained_betas=None if config.trained_betas is None else tuple(config.trained_betas),
            rescale_betas_zero_snr=rescale,
            terminal=self.terminal if rescale else 0.0,
        )

    def _prediction(self, config: FrozenDict) -> Prediction:
        threshold = clip = None
        if config.get("thresholding"):
            threshold = (float(config.dynamic_thresholding_ratio), float(config.sample_max_value))
        elif config.get("clip_sample"):
            clip = float(config.clip_sample_range)
        kind = config.prediction_type
        return Prediction(
            "sample" if kind == "original_sample" else kind,
            clip,
            threshold,
            variance_head=str(config.get("variance_type")).startswith("learned"),
        )

    def _points(
        self, config: FrozenDict, n: int, *, num_train_timesteps: int | None = None, **options: Any
    ) -> list[Point]:
        """num_train_timesteps: spread the steps over only so many of the first training steps."""
        schedule, train = self._schedule(config), config.num_train_timesteps
        if num_train_timesteps is not None:
            train = spacings.check_count("num_train_timesteps", num_train_timesteps, train)
        if n == 1 and config.timestep_spacing == "linspace" and self._copies:
            return [schedule.at(t=0.0)]  # the reference's one point of linspace is its least noisy end
        times = spacings.timesteps(
            config.timestep_spacing, n, train, offset=config.steps_offset, whole=self.whole_times
        )
        return [schedule.at(t=t) for t in times]

    def previous_timestep(self, timestep: Any) -> int:
        """Return the timestep that the step from this one goes to, -1 after the last; before `set_timesteps` one less."""
        if self.num_inference_steps is None:
            return int(timestep) - 1
        plan = self._set()
        after = self.index_for_timestep(timestep) + 1
        return int(plan.timesteps[after]) if after < len(plan) else -1

    @property
    def alphas_cumprod(self) -> Array:
        """Cumulative product of 1 - beta, shape (num_train_timesteps,)."""
        return self._shown(self._schedule(self._options).alphas_cumprod)

    @property
    def betas(self) -> Array:
        """Betas of the training steps, after rescaling."""
        bar = self._schedule(self._options).alphas_cumprod
        return self._shown(1.0 - bar / np.concatenate([[1.0], bar[:-1]]))

    @property
    def alphas(self) -> Array:
        """1 - beta of the training steps."""
        bar = self._schedule(self._options).alphas_cumprod
        return self._shown(bar / np.concatenate([[1.0], bar[:-1]]))

