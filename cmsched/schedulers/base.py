"""The stateful habit around a plan, the same for every named scheduler."""

import inspect
import math
import os
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import engine, spacings
from .._messages import nearest
from ..backends import Backend, from_device, named, resolve
from ..plan import Plan, make_plan
from ..schedules import Point
from .outputs import OriginalSampleOutput, SchedulerOutput
from .plans import PlanMixin, check_kind, check_option

__all__ = ["LevelsMixin", "PlannedMixin", "SchedulerMixin"]

Array = Any
UNSET = inspect.Parameter.empty
ON_HOST = (int, float, np.generic)  # timesteps that can be compared without a device
ARRAYS = (np.ndarray, np.generic)  # a tuple, because torch.compile follows no union


def by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str], method: str
) -> dict[str, Any]:
    """Return positional arguments under their names."""
    if len(args) > len(names):
        raise TypeError(f"{method}() takes {len(names)} arguments by position, got {len(args)}")
    given = dict(zip(names, args, strict=False))
    if twice := given.keys() & kwargs.keys():
        raise TypeError(f"{method}() got {', '.join(sorted(twice))} both by position and by name")
    return given | kwargs


def signed(
    function: Callable[..., Any],
    names: Sequence[str],
    options: Mapping[str, Any],
    extra: Sequence[str],
) -> Any:
    """Return a copy of a method whose signature shows these parameters, for code that looks."""
    p = inspect.Parameter
    shown = [p(name, p.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
    shown += [p(k, p.POSITIONAL_OR_KEYWORD, default=v) for k, v in options.items()]
    shown += [p(k, p.KEYWORD_ONLY, default=None) for k in extra if k not in options]
    parts = function.__code__, function.__globals__, function.__name__
    copy = types.FunctionType(*parts, function.__defaults__, function.__closure__)
    copy.__doc__, copy.__qualname__ = function.__doc__, function.__qualname__
    copy.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return copy


class Run(NamedTuple):
    """Where a stateful loop stands; replaced as a whole, so that a failed call changes nothing."""

    plan: Plan  # of the entries of `timesteps` from `first` on, with the options given to step
    base: Plan  # the same without these options
    options: dict[str, Any]
    first: int
    entry: int  # the next one
    memory: tuple[Array, ...] = ()
    index: Any = None  # `entry - first` as the engine counts it: under JAX on the device
    generator: Any = None  # the one made of fresh entropy


class TimesMixin:
    """Timesteps in the framework and on the device that is wanted, for a class with a config."""

    xp: Any
    num_inference_steps: int | None = None
    last_seed: int | None = None
    _timesteps: Array = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.xp is not None:
            named(self.xp)

    def _framework(self, device: Any = None, xp: Any = None) -> Backend:
        xp = self.xp if xp is None else xp
        if xp is not None:
            return named(xp)
        return from_device(device)

    def _set_on(self, backend: Backend, host: np.ndarray, device: Any) -> None:
        """Set the timesteps, on a device."""
        try:
            self._timesteps = backend.at(host, device)
        except (RuntimeError, AssertionError) as error:  # PyTorch's: no such device
            raise ValueError(f"device={device!r} cannot be used: {error}") from error

    def _shown(self, host: np.ndarray) -> Array:
        """Return a host table in the framework of the timesteps."""
        given = self._timesteps
        return (self._framework() if given is None else resolve(given)).at(host, None)

    def _source(self, backend: Backend, device: Any) -> tuple[Any, int | None]:
        """Return where a run's noise comes from if none is given, and the seed if it is new."""
        seed = int.from_bytes(os.urandom(8)) >> 1
        return backend.fresh(seed, device), seed

    def __bool__(self) -> bool:
        return True


class PlannedMixin(TimesMixin, PlanMixin):
    """A plan and its times.

    Class attributes of a scheduler:
        timesteps_options: what `set_timesteps` takes, in the reference's order.
        order: evaluations per requested step, as the reference counts them.
    """

    order: ClassVar[int] = 1
    timesteps_options: ClassVar[Mapping[str, Any]] = {"num_inference_steps": UNSET, "device": None}

    custom_timesteps: bool = False
    _plan: Plan | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class `set_timesteps` with its own signature."""
        super().__init_subclass__(**kwargs)
        base = PlannedMixin  # a method of the class's own, or of a parent, stays as it is
        if cls.set_timesteps.__code__ is base.set_timesteps.__code__:
            options, extra = cls.timesteps_options, ["timesteps", "sigmas", "xp"]
            cls.set_timesteps = signed(base.set_timesteps, (), options, extra)  # type: ignore[method-assign]

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set the discrete times of a run, before the loop.

        Exactly one of `num_inference_steps`, `timesteps` and `sigmas`, the lists decreasing;
        `device`: where `timesteps` go (a string or torch.device means PyTorch, a JAX or CuPy device
        its framework); `xp`: their framework, a name or namespace, by default the constructor's,
        else the device's, else NumPy; and the options of `plan`.

        Raises:
            ValueError, TypeError: see `plan`; the scheduler is unchanged then.
        """
        kwargs = by_name(args, kwargs, tuple(self.timesteps_options), "set_timesteps")
        device, xp = kwargs.pop("device", None), kwargs.pop("xp", None)
        backend = self._framework(device, xp)
        plan = self.plan(kwargs.pop("num_inference_steps", None), **kwargs)
        self._set_on(backend, self._times_of(plan), device)
        self._plan = plan
        self._restart()
        self.num_inference_steps = len(plan.grid)
        self.custom_timesteps = kwargs.get("timesteps") is not None

    def _times_of(self, plan: Plan) -> np.ndarray:
        """Return what `timesteps` shows of a plan."""
        return plan.timesteps

    def _restart(self) -> None:
        """Forget an earlier run."""

    @property
    def timesteps(self) -> Array:
        """Model times, of the steps; None before `set_timesteps`."""
        return self._timesteps

    def _set(self) -> Plan:
        if self._plan is None:
            raise ValueError(
                "the scheduler has no timesteps yet: call set_timesteps(num_inference_steps) before"
                " the loop"
            )
        return self._plan


class LevelsMixin(PlannedMixin):
    """Training steps, and noise levels at any time."""

    _tables: tuple[Any, ...] = (None, None, None, {})

    @property
    def timesteps(self) -> Array:
        """Model times, one per evaluation; before `set_timesteps` all training steps."""
        return self._shown(self._training_times()) if self._plan is None else self._timesteps

    def _training_times(self) -> np.ndarray:
        n = int(self._options.num_train_timesteps)
        times = np.arange(n) if self.upward else np.arange(n)[::-1]
        return times.astype(np.int64 if self.whole_times else np.float64)

    def _training_points(self) -> list[Point]:
        schedule = self.schedule
        return [schedule.at(t=float(t)) for t in self._training_times()]

    def _levels(self) -> tuple[np.ndarray, dict[Any, tuple[Array, ...]]]:
        """Return rows of times, alphas and sigmas, increasing, and their copies on devices.

        They are the training steps, with the present grid's points among them.
        """
        config, plan, table, placed = self._tables
        if config is not self._internal_dict or plan is not self._plan:
            config, plan, placed = self._internal_dict, self._plan, {}
            levels = {p.t: p for p in (*self._training_points(), *self._visited(plan))}
            rows = [(t, p.alpha, p.sigma) for t, p in sorted(levels.items())]
            table = np.array([*rows, (rows[-1][0] + 1.0, *rows[-1][1:])]).T
            self._tables = config, plan, table, placed
        return table, placed

    def _visited(self, plan: Plan | None) -> tuple[Point, ...]:
        """Return a plan's points, which are noise levels of their times."""
        return plan.points if plan else ()

    def _alpha_sigma(self, like: Array, timesteps: Any) -> tuple[Array, Array]:
        """Return alpha and sigma at timesteps, one or one per row, shaped to multiply `like`."""
        backend = resolve(like)
        xp, acc = backend.xp, backend.accumulation(like.dtype)
        table, placed = self._levels()
        place = backend.name, str(acc), str(backend.device(like))
        if place not in placed:
            placed[place] = tuple(backend.put(row, like, acc) for row in table)
        times, alphas, sigmas = placed[place]
        batch, ones = tuple(like.shape[:1]), (1,) * (len(like.shape) - 1)
        low, high = table[0, 0], table[0, -2]

        def check(host: np.ndarray) -> None:
            if not np.all((host >= low - tolerance(low)) & (host <= high + tolerance(high))):
                raise ValueError(f"timesteps must lie in [{low:g}, {high:g}], got {timesteps}")

        t = times_beside(like, timesteps, check)
        above = backend.clip(xp.searchsorted(times, t), 1, times.shape[0] - 1)
        t0, t1 = xp.take(times, above - 1), xp.take(times, above)
        # 1e-30: two times may be equal once rounded
        part = backend.clip((t - t0) / (t1 - t0 + 1e-30), 0.0, 1.0)
        shape = (-1, *ones) if batch else ()
        alpha, sigma = (
            xp.reshape(xp.take(v, above - 1) * (1 - part) + xp.take(v, above) * part, shape)
            for v in (alphas, sigmas)
        )
        return alpha, sigma

    def add_noise(self, original_samples: Array, noise: Array, timesteps: Any) -> Array:
        """Return alpha x0 + sigma noise at timesteps: one for all rows, or one per row.

        Any framework, inside jit too; noise is like original_samples.
        """
        alpha, sigma = self._alpha_sigma(original_samples, timesteps)
        return mix(original_samples, noise, alpha, sigma)

    def get_velocity(self, sample: Array, noise: Array, timesteps: Any) -> Array:
        """Return v = alpha noise - sigma sample, where alpha^2 + sigma^2 = 1; see `add_noise`."""
        alpha, sigma = self._alpha_sigma(sample, timesteps)
        size = resolve(sample).xp.sqrt(alpha * alpha + sigma * sigma)
        return mix(sample, noise, -sigma / size, alpha / size)

    def __len__(self) -> int:
        """Return the number of training steps."""
        return int(self._options.num_train_timesteps)


class SchedulerMixin(LevelsMixin):
    """Base of the named schedulers.

    Class attributes of a scheduler:
        step_options: what `step` takes after the sample, in the reference's order.
    """

    step_options: ClassVar[Mapping[str, Any]] = {"generator": None, "return_dict": True}
    output_class: ClassVar[type[SchedulerOutput]] = OriginalSampleOutput

    # state of the stateful habit
    _begin_index: int | None = None
    _run: Run | None = None
    _said: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class `step` with its own signature."""
        super().__init_subclass__(**kwargs)
        base = SchedulerMixin  # a method of the class's own, or of a parent, stays as it is
        if cls.step.__code__ is base.step.__code__:
            names, extra = ("model_output", "timestep", "sample"), ["generator", "variance_noise"]
            cls.step = signed(base.step, names, cls.step_options, extra)  # type: ignore[method-assign]

    # the stateful habit

    def _restart(self) -> None:
        self._begin_index, self._run = None, None

    @property
    def sigmas(self) -> Array:
        """Noise levels of all evaluations and the end: sigma / alpha, for flow schedules sigma."""
        return self._shown(np.array([self._exposed(p) for p in self._sigma_points()]))

    def _sigma_points(self) -> list[Point]:
        """Return the points whose levels `sigmas` shows."""
        if self._plan is not None:
            return [*self._plan.points, self._plan.grid.points[-1]]
        points = [*self._training_points(), self._last(self._options)]
        return [points[-1], *points[:-1]] if self.upward else points

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
        return None if self._run is None else self._run.entry

    @property
    def begin_index(self) -> int | None:
        """The entry of `timesteps` to start from, if it was set."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start from this entry of `timesteps` (image to image).

        Raises:
            ValueError: there is no such entry, or it is inside a step of several evaluations.
        """
        if not isinstance(begin_index, np.integer):
            check_kind("begin_index", begin_index, 0)
        if begin_index < 0:
            raise ValueError(f"begin_index must be at least 0, got {begin_index}")
        if self._plan is not None:
            self._step_at(self._plan, begin_index)
        self._begin_index, self._run = int(begin_index), None

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Any = None) -> int:
        """Return the entry of `timesteps` with this value; of equal ones that which begins a step.

        Raises:
            ValueError: no entry has this value.
        """
        plan = self._set()
        times = plan.timesteps
        if schedule_timesteps is not None:
            times = np.asarray(spacings.host(schedule_timesteps), dtype=np.float64)
        t = one_time(timestep)
        found = np.flatnonzero(np.abs(times - t) <= tolerance(t)) if math.isfinite(t) else times[:0]
        if found.size == 0:
            entries = ", ".join(f"{v:g}" for v in times[:8]) + (", ..." if len(times) > 8 else "")
            raise ValueError(
                f"timestep {t:g} is not one of the scheduler's timesteps [{entries}]; pass one of"
                " scheduler.timesteps"
            )
        begins = [i for i in found.tolist() if i < len(plan) and begins_step(plan, i)]
        return int((begins or found.tolist())[0])

    def _step_at(self, plan: Plan, entry: int) -> int:
        """Return the grid step that begins at this entry of timesteps."""
        if entry >= len(plan):
            raise ValueError(f"begin_index={entry} is past the {len(plan)} timesteps")
        if not begins_step(plan, entry):
            step = plan.steps[entry]
            count, first = plan.steps.count(step), plan.steps.index(step)
            raise ValueError(
                f"entry {entry} of timesteps is inside a step of {count} evaluations; start at an"
                f" entry that begins one, such as {first}"
            )
        return plan.steps[entry]

    def _at(self, timestep: Any) -> Run:
        """Return the run at this timestep: begun by the first call, counted from then on."""
        run = self._run or self._begun(timestep)
        i = run.entry - run.first
        if i >= len(run.plan.rows):
            raise ValueError(
                f"the loop is over: all {i} steps are taken; call set_timesteps again before"
                " another loop"
            )
        if isinstance(timestep, ON_HOST):
            expected = run.plan.rows[i].point.t
            if timestep != expected and not abs(float(timestep) - expected) <= tolerance(expected):
                return self._elsewhere(run, timestep, expected)
        elif timestep is not None and not hasattr(timestep, "shape"):
            one_time(timestep)
        return run

    def _begun(self, timestep: Any) -> Run:
        """Return a new run: the only time that a timestep is looked up."""
        plan, entry = self._set(), self._begin_index
        plan.check_traced()
        if entry is None:
            # an integer beside fractional times is more likely the number of an entry
            counts = isinstance(timestep, int | np.integer) and not plan.grid.integral
            entry = 0 if counts or timestep is None else self.index_for_timestep(timestep)
        return self._from(plan, entry)

    def _from(self, plan: Plan, entry: int) -> Run:
        """Return a new run that begins at an entry of `timesteps`."""
        skipped = self._step_at(plan, entry)
        rest = plan.skip(skipped) if skipped else plan
        return Run(rest, rest, {}, entry, entry)

    def _elsewhere(self, run: Run, timestep: Any, expected: float) -> Run:
        """Return the run moved to another timestep, which only loops without memory allow."""
        if isinstance(timestep, int | np.integer) and not run.plan.grid.integral:
            raise ValueError(
                f"timestep {timestep} is an integer, this step is at {expected:g}; pass entries of"
                " scheduler.timesteps, not their numbers"
            )
        entry = self.index_for_timestep(timestep)
        if self._run is None or run.plan.check_traced().slots or entry < run.first:
            raise ValueError(
                f"timestep {timestep:g} is not the one this step is at ({expected:g}, entry"
                f" {run.entry}); call set_timesteps or set_begin_index to start elsewhere"
            )
        return run._replace(entry=entry, index=None)

    def scale_model_input(self, sample: Array, timestep: Any = None) -> Array:
        """Return the network's input: the sample, scaled where this class's network wants that."""
        plan = self._plan
        if (self.schedule if plan is None else plan.grid.schedule).sigma_data == 0.0:
            return sample
        backend = resolve(sample)
        run = self._at(timestep)
        scale = run.plan.rows[run.entry - run.first].point.scale
        scaled = engine.scaled(backend, sample, scale)
        self._run = run
        return scaled

    def step(
        self, model_output: Array, timestep: Any, sample: Array, *args: Any, **kwargs: Any
    ) -> Any:
        """Take one step: the sample at the next point from the network's output at this one.

        Args:
            model_output: the network's output, like sample.
            timestep: the entry of `timesteps` this step is at. It is looked up at the first step
                after `set_timesteps` (without `set_begin_index`); after that steps are counted.
            sample: the present sample, an array of any framework.
            *args: the class's `step_options` by position.
            **kwargs: `generator`, where noise comes from: a native generator or key, a list with
                one per sample, an int or `cmsched.Rng`; None draws from fresh entropy (kept as
                `last_seed`; an error under JAX). `variance_noise`, the noise itself.
                `return_dict=False` for a tuple. Others are options of the class's sampler.

        Returns:
            An object with prev_sample (and the class's estimate of x0), or a tuple.

        Raises:
            ValueError, TypeError: wrong order of calls, shapes, frameworks; the scheduler is
                unchanged then.
        """
        if args:
            kwargs = by_name(args, kwargs, tuple(self.step_options), "step")
        generator, noise = kwargs.pop("generator", None), kwargs.pop("variance_noise", None)
        return_dict = kwargs.pop("return_dict", True)
        backend = resolve(sample)
        run = self._at(timestep)
        if kwargs:
            model_output = self._heard(model_output, sample, kwargs)
            own = self._own_step(run, model_output, sample, generator, noise, kwargs)
            if own is not None:
                self._run = run._replace(entry=run.entry + 1, index=None)
                return self.output_class(own) if return_dict else (own,)
        if kwargs != run.options:
            run = self._with_options(run, kwargs)
        plan, i, memory = run.plan, run.entry - run.first, run.memory
        row, layout = plan.rows[i], plan.check_traced()
        if layout.slots and not i:
            memory = (sample,) * len(layout.slots)  # read by no first row
        elif memory and (memory[0].shape != sample.shape or type(memory[0]) is not type(sample)):
            engine.check_like(backend, sample, "what earlier steps stored", memory[0])
        index: Any = i
        if backend.index_on_device and not backend.traced(sample):
            index = plan.on(sample).where[1, i] - 1 if run.index is None else run.index

        seed, fresh, unused = None, run.generator, False
        if noise is not None:
            if generator is not None:
                raise ValueError("pass either generator or variance_noise, not both")
            engine.check_like(backend, sample, "variance_noise", noise)
            unused = not layout.stochastic
        if not row.draws:
            generator = noise = None
        elif generator is None and noise is None:
            generator = fresh
            if generator is None:
                generator, seed = self._source(backend, backend.device(sample))
                fresh = None if seed is None else generator
        if layout.draws and generator is None and index is not i:
            # a table draws in every row, with weight 0 where the loop does not
            noise = (backend.zeros_like(sample) if noise is None else noise,) * len(layout.draws)

        state = engine.State(sample, memory, index)
        after = engine.step(plan, state, model_output, rng=generator, noise=noise)
        if unused:
            self._once("variance_noise has no effect: this configuration draws no noise")
        self._run = Run(
            plan, run.base, kwargs, run.first, run.entry + 1, after.memory, after.index, fresh
        )
        if seed is not None:
            self.last_seed = seed
        output = self.output_class
        if len(output.fields) == 1:
            return output(after.sample) if return_dict else (after.sample,)

        def second() -> Array:
            return self._second(plan, state, model_output)

        if return_dict:
            return output.lazy(after.sample, second)
        return after.sample, second()

    def _second(self, plan: Plan, state: engine.State, output: Array) -> Array:
        """Return the second field of an output: the estimate of x0."""
        if isinstance(state.index, int):
            return engine.estimate_x0(plan, state.index, state.sample, output)
        return engine.estimate(plan, state, output).x0

    def _heard(self, model_output: Array, sample: Array, options: dict[str, Any]) -> Array:
        """Return what stands for the network's output; such options are taken out of the others."""
        return model_output

    def _own_step(
        self,
        run: Run,
        model_output: Array,
        sample: Array,
        generator: Any,
        noise: Array | None,
        options: dict[str, Any],
    ) -> Array | None:
        """Return the next sample where an option, removed then, is no sampler's but the class's."""
        return None

    def _with_options(self, run: Run, options: dict[str, Any]) -> Run:
        """Return the run with sampler options given to step."""
        known, base = self.step_options, run.base
        # some pipelines write None for the default
        options = {k: known.get(k) if v is None else v for k, v in options.items()}
        for name, value in options.items():
            if name not in known:
                raise TypeError(f"step() has no option {name!r}{nearest(name, known)}")
            check_option(name, value, known[name])
        names = {name: self.renamed.get(name, name) for name in options}
        changed = {
            names[k]: v for k, v in options.items() if base.options.get(names[k], known[k]) != v
        }
        plan = self._changed(base, changed) if changed else base
        if not begins_step(run.plan, run.entry - run.first):
            raise ValueError(
                f"the options of step() cannot change inside a step of {self.order} evaluations;"
                " give both the same"
            )
        have, need = (p.check_traced().slots for p in (run.plan, plan))
        if run.memory and not {*need} <= {*have}:
            raise ValueError(
                f"step() was given {changed}, which needs estimates that earlier steps did not"
                " keep; give it from the first step on"
            )
        memory = tuple(run.memory[have.index(slot)] for slot in need) if run.memory else ()
        return run._replace(plan=plan, options=options, memory=memory)

    def _changed(self, plan: Plan, options: dict[str, Any]) -> Plan:
        """Return the plan with other options of its sampler."""
        return make_plan(plan.sampler, plan.grid, plan.prediction, {**plan.options, **options})

    def _once(self, text: str) -> None:
        if text not in self._said:
            warnings.warn(f"{type(self).__name__}: {text}", stacklevel=3)
            self._said = self._said | {text}


def begins_step(plan: Plan, entry: int) -> bool:
    """Return whether this evaluation is the first one of its step."""
    return not entry or plan.steps[entry] != plan.steps[entry - 1]


def tolerance(t: float) -> float:
    """Return by how much a time may be off: what float32 rounds away."""
    return 1e-6 * max(1.0, abs(t))


def one_time(timestep: Any, name: str = "timestep") -> float:
    """Return a timestep as a number, or raise TypeError."""
    try:
        if not isinstance(timestep, str | bytes):
            return float(timestep)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(f"{name} must be a number or an array of one, got {timestep!r}")


def times_beside(
    like: Array,
    timesteps: Any,
    check: Callable[[np.ndarray], None],
    name: str = "timesteps",
) -> Array:
    """Return timesteps, one or one per row of `like`, as an array of one axis beside it.

    `check` sees those that are on the host; others are not looked at.
    """
    backend = resolve(like)
    acc, batch = backend.accumulation(like.dtype), tuple(like.shape[:1])
    if not hasattr(timesteps, "shape") or isinstance(timesteps, ARRAYS):
        host = np.asarray(timesteps)
        if host.dtype.kind not in "iuf":
            raise TypeError(f"{name} must be one number or one per row, got {timesteps!r}")
        host = host.astype(np.float64)
        check(host)
        timesteps = backend.put(host, like, acc)
    elif resolve(timesteps) is not backend:
        raise TypeError(
            f"{name} is an array of {resolve(timesteps).name}, the sample one of"
            f" {backend.name}; convert one of them"
        )
    if tuple(timesteps.shape) not in ((), (1,), batch):
        raise ValueError(
            f"{name} must be one number or one per row {batch}, got shape {tuple(timesteps.shape)}"
        )
    return backend.xp.reshape(backend.astype(timesteps, acc), (-1,))


def mix(x: Array, noise: Array, a: Array, b: Array) -> Array:
    """Return a x + b noise, in the dtype of x."""
    backend = resolve(x)
    engine.check_like(backend, x, "noise", noise)
    mixed = backend.combine([x, noise], [a, b], backend.accumulation(x.dtype))
    return backend.astype(mixed, x.dtype)
