"""The call shape of diffusers' former Flax schedulers, over plans; see flax.md beside this file.

    scheduler, state = FlaxDDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    state = scheduler.set_timesteps(state, 50, shape=x.shape)
    for t in state.timesteps:
        output = model(scheduler.scale_model_input(state, x, t), t)
        x, state = scheduler.step(state, output, t, x).to_tuple()

A scheduler here is a named class without its cursor: that is in the state, a pytree whose structure
never changes, for `jit`, `fori_loop`, `scan`, `pmap` and donated arguments. Flax is not needed.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import engine, schedulers
from .._messages import nearest
from ..backends import named, pytree
from ..noise import standard_normal
from ..plan import Plan
from ..schedulers.base import ON_HOST, by_name, one_time, tolerance
from ..schedulers.plans import check_option
from ..schedules import Schedule
from ..tables import EVERYWHERE, Layout, Row, Table, columns

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise ImportError('cmsched.interop.flax needs JAX: pip install "cmsched[jax]"') from error

__all__ = [
    "CommonSchedulerState",
    "FlaxDDIMScheduler",
    "FlaxDDPMScheduler",
    "FlaxDPMSolverMultistepScheduler",
    "FlaxEulerDiscreteScheduler",
    "FlaxKarrasVeOutput",
    "FlaxKarrasVeScheduler",
    "FlaxLMSDiscreteScheduler",
    "FlaxPNDMScheduler",
    "FlaxSchedulerOutput",
    "FlaxSchedulerState",
    "FlaxScoreSdeVeScheduler",
    "FlaxSdeVeOutput",
]

Array = Any
JAX = named("jax")
KEPT = 32  # tables on the host


class CommonSchedulerState(NamedTuple):
    """What the betas say at every training step, arrays (num_train_timesteps,)."""

    alphas: Array
    betas: Array
    alphas_cumprod: Array


@dataclass(frozen=True)
class FlaxSchedulerState:
    """Where a loop stands; made by `create_state` and `set_timesteps`.

    What a class does not have is None. `plan` and `num_inference_steps` are static, and None before
    `set_timesteps`; the rest are arrays.
    """

    plan: Plan | None
    num_inference_steps: int | None
    common: CommonSchedulerState | None
    init_noise_sigma: Array  # the scale of the unit normals that a loop starts from
    timesteps: Array | None  # one per evaluation; before `set_timesteps` all training steps
    sigmas: Array | None = None
    final_alpha_cumprod: Array | None = None
    schedule: Array | None = None  # of KarrasVe: levels, increasing
    discrete_sigmas: Array | None = None  # of ScoreSdeVe: levels, increasing
    table: Table | None = None
    index: Array | None = None  # the column of the table that the next step is at
    memory: tuple[Array, ...] | None = None  # the stored arrays; None until the shape is known

    def replace(self, **changes: Any) -> "FlaxSchedulerState":
        """Return the state with other values of these fields."""
        return replace(self, **changes)


_FIELDS = [field.name for field in fields(FlaxSchedulerState)]
_STATIC, _ARRAYS = _FIELDS[:2], _FIELDS[2:]
pytree(
    FlaxSchedulerState,
    lambda state: (
        [getattr(state, name) for name in _ARRAYS],
        tuple(getattr(state, name) for name in _STATIC),
    ),
    lambda static, arrays: FlaxSchedulerState(*static, *arrays),
)


class FlaxSchedulerOutput(schedulers.SchedulerOutput):
    """Output of `step`.

    Args:
        prev_sample: the sample at the next point, like the sample.
        state: the state for the next step.
    """

    fields = ("prev_sample", "state")


class FlaxKarrasVeOutput(schedulers.SchedulerOutput):
    """Output of `FlaxKarrasVeScheduler.step` and `step_correct`; derivative is d x / d sigma."""

    fields = ("prev_sample", "derivative", "state")


class FlaxSdeVeOutput(schedulers.SchedulerOutput):
    """Output of `FlaxScoreSdeVeScheduler.step_pred`; the mean is without the noise of the step."""

    fields = ("prev_sample", "prev_sample_mean", "state")


def _register(cls: type[schedulers.SchedulerOutput]) -> None:
    pytree(cls, lambda out: (out.to_tuple(), None), lambda _, values: cls(*values))


for _output in (FlaxSchedulerOutput, FlaxKarrasVeOutput, FlaxSdeVeOutput):
    _register(_output)


class FlaxScheduler:
    """Base of the Flax classes: the configuration, and states made from it.

    Class attributes of a scheduler:
        named: the class of cmsched that it stands for, whose options are its own.
        shown: levels that its state shows.
    """

    named: ClassVar[Any]
    shown: ClassVar[tuple[str, ...]] = ("sigmas",)
    has_state: ClassVar[bool] = True
    config_name: ClassVar[str] = "scheduler_config.json"

    def __init__(
        self,
        *args: Any,
        dtype: Any = jnp.float32,
        compatibility: str = "diffusers",
        **kwargs: Any,
    ) -> None:
        """Take the options of the named class.

        Args:
            *args: options by position.
            dtype: of the start scale, of `common` and of stored arrays. A step is computed in it,
                or for half precision in float32. For float64 samples it must be float64.
            compatibility: "diffusers" for its numbers, "paper" where the README says it differs.
            **kwargs: options by name.
        """
        self._hold(self.named(*args, compatibility=compatibility, xp=None, **kwargs), dtype)

    def _hold(self, scheduler: Any, dtype: Any) -> None:
        self.dtype = JAX.dtype(np.dtype(dtype).name)
        self._acc = JAX.accumulation(self.dtype)
        self._named = self._last = scheduler

    # configuration

    @property
    def config(self) -> Any:
        """The present values of the options, frozen."""
        return self._named.config

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        return_unused_kwargs: bool = False,
        *,
        dtype: Any = jnp.float32,
        compatibility: str = "diffusers",
        **kwargs: Any,
    ) -> Any:
        """Return the scheduler of a config, which may be another class's; keywords win over it."""
        scheduler = cls.__new__(cls)
        made = cls.named.from_config(
            config, return_unused_kwargs, compatibility=compatibility, **kwargs
        )
        held, *unused = made if return_unused_kwargs else (made,)
        scheduler._hold(held, dtype)
        return (scheduler, *unused) if return_unused_kwargs else scheduler

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Return (scheduler, state) of a folder, a file or a model id, and keywords not used."""
        config, kwargs = cls.named.load_config(
            pretrained_model_name_or_path, return_unused_kwargs=True, subfolder=subfolder, **kwargs
        )
        made = cls.from_config(config, return_unused_kwargs, **kwargs)
        scheduler, *unused = made if return_unused_kwargs else (made,)
        return (scheduler, scheduler.create_state(), *unused)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write the config into a folder, as that of the named class, which diffusers has too."""
        self._named.save_pretrained(save_directory, **kwargs)

    save_config = save_pretrained

    def __repr__(self) -> str:
        """Show the config."""
        return f"Flax{self._named!r}"

    # states

    def create_state(self, common: CommonSchedulerState | None = None) -> FlaxSchedulerState:
        """Return a state without timesteps, for `add_noise` and `set_timesteps`.

        Args:
            common: that of another state of the same betas, to share its arrays.

        Raises:
            ValueError: other betas than this scheduler's.
        """
        own = self._common()
        if common is not None:
            self._check_common(common, own)
        return self._state(None, common or own)

    def set_timesteps(
        self,
        state: FlaxSchedulerState,
        num_inference_steps: int | None = None,
        shape: tuple[int, ...] = (),
        **options: Any,
    ) -> FlaxSchedulerState:
        """Return the state at the start of a run; inside `jit` too.

        Args:
            state: any state of this scheduler.
            num_inference_steps: the number of steps, static.
            shape: the sample's, to make the stored arrays now. Needed where `step` is called inside
                a compiled loop and the sampler remembers; otherwise the first step makes them.
            **options: those of the named class's `plan`: `timesteps` or `sigmas` in place of the
                number, `strength`, `eta`, `s_churn`, ...

        Raises:
            ValueError, TypeError: as `plan`.
        """
        plan = self._named.plan(num_inference_steps, **options)
        return self._state(plan, state.common, tuple(shape))

    def _state(
        self, plan: Plan | None, common: Any, shape: tuple[int, ...] = ()
    ) -> FlaxSchedulerState:
        """Return a state whose arrays are new ones, so that it may be donated."""
        at = self._with(plan)
        times, levels = at.timesteps, {name: getattr(at, name) for name in self.shown}
        whole = times is not None and times.dtype.kind == "i"
        return FlaxSchedulerState(
            plan,
            at.num_inference_steps,
            common,
            init_noise_sigma=jnp.array(at.init_noise_sigma, self.dtype),
            timesteps=None if times is None else jnp.array(times, np.int32 if whole else self._acc),
            **{k: None if v is None else jnp.array(v, self._acc) for k, v in levels.items()},
            **self._loop(plan, shape),
        )

    def _loop(self, plan: Plan | None, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the fields that a class with one `step` has."""
        return {}

    def _with(self, plan: Plan | None) -> Any:
        """Return the named class with this plan set; the last one is kept, for its tables."""
        at = self._last
        if at._plan is not plan:
            if plan is not None:
                self._check(plan)
            at = copy.copy(self._named)
            at._restart()
            at._plan = plan
            if plan is not None:
                at._timesteps, at.num_inference_steps = at._times_of(plan), len(plan.grid)
            self._last = at
        return at

    def _check(self, plan: Plan) -> None:
        """Raise unless a plan is one of this scheduler's, but for what a run may be given."""
        own = self._named
        config = own._options
        sampler, _ = own._sampler(config, 1)
        same = (sampler, own._prediction(config)) == (plan.sampler, plan.prediction)
        if not same or not self._agree(own._schedule(config), plan.grid.schedule):
            raise ValueError(
                f"the state is of another class or configuration than this {type(self).__name__}:"
                f" its sampler is {plan.sampler!r}, here {sampler!r}, or its schedule or prediction"
                " differs; make it with this scheduler,"
                " scheduler.set_timesteps(scheduler.create_state(), ...)"
            )

    def _agree(self, own: Schedule, given: Schedule) -> bool:
        """Return whether a state's schedule may be this one."""
        return given == own

    def _common(self) -> CommonSchedulerState | None:
        if not hasattr(self._named, "alphas_cumprod"):
            return None
        names = CommonSchedulerState._fields
        return CommonSchedulerState(
            *(jnp.array(getattr(self._named, k), self.dtype) for k in names)
        )

    def _check_common(self, common: Any, own: CommonSchedulerState | None) -> None:
        name = type(self).__name__
        if own is None:
            raise ValueError(f"common: {name} has no betas that a state could share; leave it out")
        if JAX.traced(*jax.tree_util.tree_leaves(common)):
            raise ValueError("common must be known: call create_state outside jit")
        near = float(jnp.finfo(self.dtype).eps) * len(own.betas)
        given, mine = (np.asarray(c.alphas_cumprod, np.float64) for c in (common, own))
        if given.shape != mine.shape or not np.allclose(given, mine, rtol=near, atol=near):
            raise ValueError(
                f"common holds other betas than this {name}'s config; make the scheduler with"
                " trained_betas= or beta_schedule= of these"
            )

    # the parts of a step that all classes have

    def scale_model_input(
        self, state: FlaxSchedulerState, sample: Array, timestep: Any = None
    ) -> Array:
        """Return the network's input, which is the sample unless the class scales it."""
        return sample

    def add_noise(
        self, state: FlaxSchedulerState, original_samples: Array, noise: Array, timesteps: Any
    ) -> Array:
        """Return alpha x0 + sigma noise at timesteps: one for all rows, or one per row."""
        return self._with(state.plan).add_noise(original_samples, noise, timesteps)


class FlaxStepScheduler(FlaxScheduler):
    """Base of the classes with one `step`.

    Class attributes of a scheduler:
        step_options: what `step` takes after the sample, in the reference's order.
    """

    step_options: ClassVar[Mapping[str, Any]] = {"return_dict": True}

    def _loop(self, plan: Plan | None, shape: tuple[int, ...]) -> dict[str, Any]:
        if plan is None:
            return {}
        table = self._table(plan)
        memory = tuple(jnp.zeros(shape, self.dtype) for _ in table.layout.slots)
        known = bool(shape) or not memory
        return {"table": table, "index": jnp.int32(0), "memory": memory if known else None}

    def _table(self, plan: Plan) -> Table:
        layout, (numbers, where, start) = begun_anywhere(plan)
        return Table(
            layout, jnp.array(numbers, self._acc), jnp.array(where), jnp.array(start, self._acc)
        )

    def scale_model_input(
        self, state: FlaxSchedulerState, sample: Array, timestep: Any = None
    ) -> Array:
        """Return the network's input: the sample, scaled where this class's network wants that.

        Args:
            state: the present state.
            sample: the sample, or several of its shape stacked.
            timestep: an entry of `state.timesteps`; None for the one that the state is at.
        """
        if self._named.schedule.sigma_data == 0.0:
            return sample
        table, index = self._place(state, sample, timestep)
        at = engine.State(sample, (), index)
        return engine.model_input(table, at)[0]

    def step(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        timestep: Any,
        sample: Array,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Take one step; inside `jit` and compiled loops too.

        Args:
            state: the present state, from `set_timesteps` or the last step.
            model_output: the network's output, like sample.
            timestep: the entry of `state.timesteps` this step is at, or the whole part of it. Steps
                are counted, on the device; at another timestep than the next one a run begins anew
                there (image to image), with nothing remembered. None for the next one.
            sample: the present sample.
            *args: the class's `step_options` by position.
            **kwargs: `key`, where noise comes from: a JAX key, which may be the same at every step,
                or what `cmsched.step` takes as `rng`. `return_dict=False` for (prev_sample, state).
                Options of the class's sampler, where that remembers nothing.

        Returns:
            An object with prev_sample and state, or a tuple.

        Raises:
            ValueError, TypeError: `set_timesteps` was not called, or by another class or
                configuration; shapes, dtypes; no such timestep, if it is a Python number; no key
                where the step draws; stored arrays without a shape inside `jit`.
        """
        if args:
            kwargs = by_name(args, kwargs, tuple(self.step_options), "step")
        key, return_dict = kwargs.pop("key", None), kwargs.pop("return_dict", True)
        table, index = self._place(state, sample, timestep)
        if kwargs:
            table = self._changed(state, table, kwargs)
        memory = self._memory(state, sample)
        if table.layout.draws and key is None:
            raise ValueError(
                "this step draws noise: pass key=jax.random.key(0), which may be the same at every"
                " step"
            )
        at = engine.State(sample, memory, index)
        after = engine.step(table, at, model_output, rng=key if table.layout.draws else None)
        kept = zip(after.memory, memory, strict=True)
        state = state.replace(
            index=after.index, memory=tuple(JAX.astype(new, old.dtype) for new, old in kept)
        )
        out = FlaxSchedulerOutput(after.sample, state)
        return out if return_dict else out.to_tuple()

    def _place(
        self, state: FlaxSchedulerState, sample: Array, timestep: Any
    ) -> tuple[Table, Array]:
        """Return the table, and the column of it that a timestep is at."""
        if state.plan is None or state.table is None:
            raise ValueError(
                "the state has no timesteps yet: call state = scheduler.set_timesteps(state,"
                " num_inference_steps, shape=sample.shape) before the loop"
            )
        self._with(state.plan)  # which checks it
        kind = type(sample)
        if not JAX.owns(kind):
            raise TypeError(
                f"sample must be a JAX array, got a {kind.__name__} of {kind.__module__}: convert"
                " it by jnp.asarray(sample)"
            )
        wanted, have = JAX.accumulation(sample.dtype), state.table.numbers.dtype
        if wanted != have:
            raise ValueError(
                f"a sample of {sample.dtype} needs coefficients of {wanted}, the state's are of"
                f" {have}; make the scheduler with dtype={wanted.name!r}"
            )
        if timestep is None:
            return state.table, state.index
        if isinstance(timestep, ON_HOST) or not hasattr(timestep, "shape"):
            check_entry(state.plan, one_time(timestep))
        elif timestep.size != 1:
            raise ValueError(
                f"timestep must be one number for all rows, got shape {tuple(timestep.shape)}"
            )
        return state.table, _located(state.table, state.index, timestep)

    def _memory(self, state: FlaxSchedulerState, sample: Array) -> tuple[Array, ...]:
        """Return the stored arrays, made if there are none yet."""
        memory = state.memory
        if memory is None:
            if JAX.traced(sample):
                raise ValueError(
                    "this sampler remembers, and inside jit or a compiled loop a state cannot"
                    " grow: call set_timesteps(state, num_inference_steps,"
                    f" shape={tuple(sample.shape)}) before"
                )
            slots = state.table.layout.slots  # type: ignore[union-attr]
            memory = tuple(jnp.zeros(sample.shape, self.dtype) for _ in slots)
        for held in memory[:1]:
            if held.shape != sample.shape:
                raise ValueError(
                    f"sample has shape {tuple(sample.shape)}, but set_timesteps was given"
                    f" shape={tuple(held.shape)}; give both the same"
                )
        return memory

    def _changed(
        self, state: FlaxSchedulerState, table: Table, options: Mapping[str, Any]
    ) -> Table:
        """Return the table with options of the sampler given to step."""
        plan: Any = state.plan
        given = {self._named.renamed.get(name, name): value for name, value in options.items()}
        for name, value in given.items():
            if name not in plan.options:
                raise TypeError(f"step() has no option {name!r}{nearest(name, plan.options)}")
            check_option(name, value, plan.options[name])
        changed = {name: value for name, value in given.items() if plan.options[name] != value}
        if not changed:
            return table
        if table.layout.slots:
            raise ValueError(
                f"step() was given {dict(options)}, but this sampler remembers: give its options to"
                " set_timesteps"
            )
        return self._table(self._named._changed(plan, changed))

    def get_velocity(
        self, state: FlaxSchedulerState, sample: Array, noise: Array, timesteps: Any
    ) -> Array:
        """Return v = alpha noise - sigma sample, where alpha^2 + sigma^2 = 1."""
        return self._with(state.plan).get_velocity(sample, noise, timesteps)

    def __len__(self) -> int:
        """Return the number of training steps."""
        return len(self._named)


def check_entry(plan: Plan, t: float) -> None:
    """Raise unless a timestep is one of the plan's, or the whole part of one."""
    times = np.array([row.point.t for row in plan.rows])
    if not np.min(np.abs([times - t, np.trunc(times) - t])) <= tolerance(t):
        listed = ", ".join(f"{v:g}" for v in times[:8]) + (", ..." if len(times) > 8 else "")
        raise ValueError(
            f"timestep {t:g} is not one of the state's timesteps [{listed}]; pass one of"
            " state.timesteps"
        )


@jax.jit  # type: ignore[untyped-decorator]
def _located(table: Table, index: Array, timestep: Array) -> Array:
    """Return the column that a timestep is at: the next one, or where a run begins there."""
    times, (following, _, begins) = table.numbers[1], table.where[:3]
    t = jnp.reshape(timestep, ()).astype(times.dtype)

    def off(entries: Array) -> Array:  # a loop may have cut its times to whole numbers
        return jnp.minimum(jnp.abs(entries - t), jnp.abs(jnp.trunc(entries) - t))

    near = 1e-6 * jnp.maximum(1, jnp.abs(t))
    counted = (off(times[index]) <= near) & (following[index] != index)  # the end is no step
    anew = begins[jnp.argmin(jnp.where(begins < 0, jnp.inf, off(times[begins])))]
    return jnp.where(counted, index, anew)


@lru_cache(maxsize=KEPT)
def begun_anywhere(plan: Plan) -> tuple[Layout, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return a table on the host in which a run may begin at any step.

    `where[2, k]` is the column where a run from grid step k begins. Where the sampler remembers,
    the first rows of such a run are its own (those of `plan.skip(k)`), and lead into the plan's.
    """
    layout, n = plan.check_traced(), len(plan.grid)
    begins = [plan.steps.index(k) for k in range(n)]
    heads, leads, at = [plan], [], len(plan) + 1
    for k in range(1, n) if layout.slots else ():
        late, first = plan.skip(k), begins[k]
        rows = renumbered(late, layout)
        pairs = zip(rows, plan.rows[first:], strict=True)
        own = [i for i, (row, same) in enumerate(pairs, start=1) if computed(row) != computed(same)]
        if own:
            heads.append(replace(late, rows=rows[: own[-1]]))
            leads.append((at, first, own[-1]))
            begins[k], at = at, at + own[-1] + 1

    terms: list[set[tuple[int, int]]] = [set(terms) for terms in layout.pattern]
    for row in (row for head in heads for row in head.rows):
        for value, sources, _, regions in row.program:
            places = regions or (EVERYWHERE,) * len(sources)
            terms[value - layout.estimate].update(zip(sources, places, strict=True))
    layout = replace(layout, pattern=tuple(tuple(sorted(pairs)) for pairs in terms))
    numbers, where, start = columns(layout, [replace(head, layout=layout) for head in heads], at)
    linked = where.copy()
    linked[2], linked[2, :n] = -1, begins
    for at, first, count in leads:
        linked[0, at + count - 1] = first + count
        linked[1, at : at + count] = np.arange(first, first + count) + 1  # draws as in the whole
    return layout, (numbers, linked, start)


def computed(row: Row) -> tuple[Any, ...]:
    """Return what a row does, which in another layout may be the same."""
    return row.point, row.estimate, row.draws, row.program


def renumbered(plan: Plan, layout: Layout) -> tuple[Row, ...]:
    """Return a plan's rows with the value numbers of a layout that has the same values and more."""
    places = {name: v for v, name in enumerate(value_keys(layout))}
    to = [places[name] for name in value_keys(plan.check_traced())]
    return tuple(
        row._replace(
            draws=tuple((to[v], draw) for v, draw in row.draws),
            program=tuple(
                (to[value], tuple(to[v] for v in sources), weights, regions)
                for value, sources, weights, regions in row.program
            ),
        )
        for row in plan.rows
    )


def value_keys(layout: Layout) -> list[Any]:
    """Return what the values of a layout are, in the order of their numbers."""
    draws, keeps = [("draw", rank) for rank, _ in layout.draws], range(layout.keeps)
    names = ["sample", "output", *layout.slots, *draws, *layout.given, "estimate", "raw"]
    return [*names, *(("keep", k) for k in keeps), "following"]


class FlaxDDIMScheduler(FlaxStepScheduler):
    """See `DDIMScheduler`; eta > 0 draws its noise, and needs a key."""

    named = schedulers.DDIMScheduler
    shown = ("sigmas", "final_alpha_cumprod")
    step_options: ClassVar = {"eta": 0.0, "return_dict": True, "key": None}


class FlaxDDPMScheduler(FlaxStepScheduler):
    """See `DDPMScheduler`; there is no key that is used where none is given."""

    named = schedulers.DDPMScheduler
    step_options: ClassVar = {"key": None, "return_dict": True}


class FlaxDPMSolverMultistepScheduler(FlaxStepScheduler):
    """See `DPMSolverMultistepScheduler`."""

    named = schedulers.DPMSolverMultistepScheduler


class FlaxEulerDiscreteScheduler(FlaxStepScheduler):
    """See `EulerDiscreteScheduler`."""

    named = schedulers.EulerDiscreteScheduler


class FlaxLMSDiscreteScheduler(FlaxStepScheduler):
    """See `LMSDiscreteScheduler`."""

    named = schedulers.LMSDiscreteScheduler
    step_options: ClassVar = {"order": 4, "return_dict": True}


class FlaxPNDMScheduler(FlaxStepScheduler):
    """See `PNDMScheduler`."""

    named = schedulers.PNDMScheduler
    shown = ("sigmas", "final_alpha_cumprod")


class FlaxKarrasVeScheduler(FlaxScheduler):
    """See `KarrasVeScheduler`: its loop, with the state before the other arguments.

    `state.schedule[t]` is the level at which timestep t starts.
    """

    named = schedulers.KarrasVeScheduler
    shown = ("schedule",)

    def add_noise_to_input(
        self, state: FlaxSchedulerState, sample: Array, sigma: Any, key: Any
    ) -> tuple[Array, Array]:
        """Return the sample noised up from level sigma, and the level it is then at.

        gamma = min(s_churn / n, sqrt 2 - 1) in [s_min, s_max]: arXiv:2206.00364, algorithm 2. Here
        sigma may be traced, and another key is to be given at every step.
        """
        config, n = self.config, self._steps(state)
        acc = JAX.accumulation(sample.dtype)
        sigma = jnp.asarray(sigma, acc)
        inside = (config.s_min <= sigma) & (sigma <= config.s_max)
        gamma = jnp.where(inside, min(config.s_churn / n, 2**0.5 - 1), 0.0).astype(acc)
        z = standard_normal(key, sample.shape, sample.dtype, sample, row=0).astype(acc)
        std = config.s_noise * sigma * jnp.sqrt(gamma * (2 + gamma))
        return (sample.astype(acc) + std * z).astype(sample.dtype), sigma * (1 + gamma)

    def step(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        sigma_hat: Any,
        sigma_prev: Any,
        sample_hat: Array,
        return_dict: bool = True,
    ) -> Any:
        """Take Euler's step from level sigma_hat to sigma_prev; see `KarrasVeScheduler.step`.

        Returns prev_sample, derivative and state, or the tuple of these.
        """
        self._steps(state)
        both = self._named.step(model_output, sigma_hat, sigma_prev, sample_hat, False)
        return FlaxKarrasVeOutput(*both, state) if return_dict else (*both, state)

    def step_correct(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        sigma_hat: Any,
        sigma_prev: Any,
        sample_hat: Array,
        sample_prev: Array,
        derivative: Array,
        return_dict: bool = True,
    ) -> Any:
        """Take the step again with the mean of both derivatives; returns what `step` does."""
        self._steps(state)
        given = (model_output, sigma_hat, sigma_prev, sample_hat, sample_prev, derivative)
        both = self._named.step_correct(*given, False)
        return FlaxKarrasVeOutput(*both, state) if return_dict else (*both, state)

    def _steps(self, state: FlaxSchedulerState) -> int:
        if state.num_inference_steps is None:
            raise ValueError(
                "the state has no timesteps yet: call state = scheduler.set_timesteps(state,"
                " num_inference_steps) before the loop"
            )
        self._with(state.plan)
        return state.num_inference_steps


class FlaxScoreSdeVeScheduler(FlaxScheduler):
    """See `ScoreSdeVeScheduler`: its loop, with the state before the other arguments.

    A new state is ready for num_train_timesteps steps. Every call needs a key of its own.
    """

    named = schedulers.ScoreSdeVeScheduler
    shown = ("sigmas", "discrete_sigmas")

    def create_state(self, common: CommonSchedulerState | None = None) -> FlaxSchedulerState:
        """Return a state of num_train_timesteps steps; this class has no `common`."""
        if common is not None:
            self._check_common(common, None)
        return self._state(self._named.plan(len(self)), None)

    def set_sigmas(
        self,
        state: FlaxSchedulerState,
        num_inference_steps: int,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sampling_eps: float | None = None,
    ) -> FlaxSchedulerState:
        """Return the state with other levels than the configuration's, at times that stay."""
        at = copy.copy(self._with(state.plan))
        at.set_sigmas(num_inference_steps, sigma_min, sigma_max, sampling_eps)
        return self._state(at._plan, None)

    def _agree(self, own: Schedule, given: Schedule) -> bool:
        return type(given) is type(own)  # whose ends `set_sigmas` may have changed

    def get_adjacent_sigma(self, state: FlaxSchedulerState, timesteps: Array, t: Array) -> Array:
        """Return the level below each of these numbers of levels, 0 below number 0, beside t."""
        return self._with(state.plan).get_adjacent_sigma(timesteps, t)

    def step_pred(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        timestep: Any,
        sample: Array,
        key: Any,
        return_dict: bool = True,
    ) -> Any:
        """Take the predictor's step from a time, or a time for each row, to the next.

        Returns prev_sample, prev_sample_mean and state, or the tuple of these.
        """
        both = self._once(state).step_pred(model_output, timestep, sample, key, False)
        return FlaxSdeVeOutput(*both, state) if return_dict else (*both, state)

    def step_correct(
        self,
        state: FlaxSchedulerState,
        model_output: Array,
        sample: Array,
        key: Any,
        return_dict: bool = True,
    ) -> Any:
        """Take a Langevin step at the present level; returns prev_sample and state."""
        (x,) = self._once(state).step_correct(model_output, sample, key, False)
        return FlaxSchedulerOutput(x, state) if return_dict else (x, state)

    def _once(self, state: FlaxSchedulerState) -> Any:
        """Return the named class for one call: what it counts is not kept."""
        return copy.copy(self._with(state.plan))

    def __len__(self) -> int:
        """Return the number of training steps."""
        return len(self._named)
