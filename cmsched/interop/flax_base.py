"""Bases of the Flax schedulers: states made from plans, and the step over a table."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from .. import engine
from ..backends import named
from ..checks import nearest
from ..entries import entry_table
from ..plan import Plan
from ..schedulers.base import by_name
from ..schedulers.options import check_step_option
from ..schedulers.timeline import ON_HOST, one_time, tolerance
from ..schedules import Schedule
from ..tables import Table
from .flax_state import CommonSchedulerState, FlaxSchedulerOutput, FlaxSchedulerState

__all__ = ["JAX", "FlaxScheduler", "FlaxStepScheduler"]

Array = Any
JAX = named("jax")


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
        have = self._last.timeline
        if (None if have is None else have.plan) is not plan:
            if plan is not None:
                self._check(plan)
            self._last = self._named.with_plan(plan)
        return self._last

    def _check(self, plan: Plan) -> None:
        """Raise unless a plan is one of this scheduler's, but for what a run may be given."""
        own = self._named.recipe()
        same = (own.sampler, own.prediction) == (plan.sampler, plan.prediction)
        if not same or not self._agree(own.discretization.schedule, plan.grid.schedule):
            raise ValueError(
                f"the state is of another class or configuration than this {type(self).__name__}:"
                f" its sampler is {plan.sampler!r}, here {own.sampler!r}, or its schedule or"
                " prediction differs; make it with this scheduler,"
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
        host, acc = entry_table(plan), self._acc
        arrays = jnp.array(host.numbers, acc), jnp.array(host.where), jnp.array(host.start, acc)
        return Table(host.layout, *arrays)

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
            check_step_option(name, value, plan.options[name])
        changed = {name: value for name, value in given.items() if plan.options[name] != value}
        if not changed:
            return table
        if table.layout.slots:
            raise ValueError(
                f"step() was given {dict(options)}, but this sampler remembers: give its options to"
                " set_timesteps"
            )
        return self._table(self._named.replan(plan, changed))

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
    times, following, begins = table.times, table.next_columns, table.first_columns
    t = jnp.reshape(timestep, ()).astype(times.dtype)

    def off(entries: Array) -> Array:  # a loop may have cut its times to whole numbers
        return jnp.minimum(jnp.abs(entries - t), jnp.abs(jnp.trunc(entries) - t))

    near = 1e-6 * jnp.maximum(1, jnp.abs(t))
    counted = (off(times[index]) <= near) & (following[index] != index)  # the end is no step
    anew = begins[jnp.argmin(jnp.where(begins < 0, jnp.inf, off(times[begins])))]
    return jnp.where(counted, index, anew)
