"""The step of the Flax schedulers: one compiled call over a table of all steps."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from .. import engine
from ..checks import nearest
from ..entries import entry_table
from ..plan import Plan
from ..schedulers.base import by_name
from ..schedulers.options import check_step_option
from ..schedulers.timeline import ON_HOST, one_time
from ..tables import Table
from .flax_base import JAX, FlaxScheduler
from .flax_state import FlaxSchedulerState

__all__ = ["FlaxStepScheduler"]

Array = Any
NO_TIMESTEPS = (
    "the state has no timesteps yet: call state = scheduler.set_timesteps(state,"
    " num_inference_steps, shape=sample.shape) before the loop"
)


class FlaxStepScheduler(FlaxScheduler):
    """Base of the classes with one `step`.

    Class attributes of a scheduler:
        step_options: what `step` takes after the sample, in the reference's order.
        anywhere: whether a step may be taken at every training step, listed or not, and before
            `set_timesteps` (there to the training step below).
        own_noise: whether a JAX key gives the noise that it gave in MaxDiffusion.
    """

    step_options: ClassVar[Mapping[str, Any]] = {"return_dict": True}
    anywhere: ClassVar[bool] = False
    own_noise: ClassVar[bool] = False

    def _loop(self, plan: Plan | None, shape: tuple[int, ...]) -> dict[str, Any]:
        if plan is None:
            return {}
        table = placed(self._host_table(plan), self._acc)
        memory = tuple(jnp.zeros(shape, self.dtype) for _ in table.layout.slots)
        known = bool(shape) or not memory
        return {"table": table, "index": jnp.int32(0), "memory": memory if known else None}

    def _host_table(self, plan: Plan) -> Table:
        return entry_table(plan, self._elsewhere(plan))

    def _elsewhere(self, plan: Plan) -> Plan | None:
        """Return the plan whose rows are steps from every training step, if `anywhere`."""
        return None

    def _training_table(self, acc: Any) -> Table:
        """Return the table of all training steps, for a state without timesteps."""
        own = self._named.recipe()
        if (own, acc) not in self._tables:
            host = entry_table(own.training_plan())
            with jax.ensure_compile_time_eval():
                self._tables = {(own, acc): placed(host, acc)}
        return self._tables[own, acc]  # type: ignore[no-any-return]

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
        (sample,) = self._widened(sample)
        table, index = self._time_table(state, sample)
        return _scaled(table, index, self._time(timestep), sample)

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
                there (image to image), with nothing remembered, and at one that is not listed at
                the nearest entry (where a class steps from every training step, there). None for
                the next one.
            sample: the present sample. What is returned has the widest dtype of the sample's, the
                output's and the scheduler's; with compatibility="paper" the sample's.
            *args: the class's `step_options` by position.
            **kwargs: `key`, where noise comes from: a JAX key, which may be the same at every step
                (of DDPM with "paper" only), or what `cmsched.step` takes as `rng`.
                `return_dict=False` for (prev_sample, state). Options of the class's sampler, where
                that remembers nothing.

        Returns:
            An object with prev_sample and state, or a tuple.

        Raises:
            ValueError, TypeError: `set_timesteps` was not called, or by another class or
                configuration; shapes, dtypes; no key where the step draws; stored arrays without a
                shape inside `jit`.
        """
        if args:
            kwargs = by_name(args, kwargs, tuple(self.step_options), "step")
        key, return_dict = kwargs.pop("key", None), kwargs.pop("return_dict", True)
        if state.table is None and not self.anywhere:
            raise ValueError(NO_TIMESTEPS)
        sample, model_output = self._widened(sample, model_output)
        table, index = self._time_table(state, sample)
        if kwargs:
            table = self._changed(state, table, kwargs)
        memory = self._memory(state, table, sample)
        after = self._advance(table, memory, index, self._time(timestep), sample, model_output, key)
        if state.table is not None:
            state = state.replace(index=after.index, memory=after.memory)
        out = self.output_class(after.sample, state)
        return out if return_dict else out.to_tuple()

    def _advance(
        self,
        table: Table,
        memory: tuple[Array, ...],
        index: Array | None,
        timestep: Any,
        sample: Array,
        output: Array,
        key: Any,
    ) -> engine.State:
        """Return the state of the engine after the step."""
        if not table.layout.draws:
            return _stepped(None, table, memory, index, timestep, sample, output, None)  # type: ignore[no-any-return]
        if key is None:
            key = self._no_key()
        if self.own_noise and self.as_reference and JAX.is_generator(key):
            given = table, memory, index, timestep, sample, output, key
            return _stepped(self.dtype, *given)  # type: ignore[no-any-return]
        index = index if timestep is None else _located(table, index, timestep)
        at = engine.State(sample, memory, index)
        return kept(engine.step(table, at, output, rng=key), memory)

    def _no_key(self) -> Any:
        """Return the key where none is given, or raise."""
        raise ValueError(
            "this step draws noise: pass key=jax.random.key(0), which may be the same at every step"
        )

    def _time_table(self, state: FlaxSchedulerState, sample: Array) -> tuple[Table, Array | None]:
        """Return the table in the dtype of a sample, and the column that the state is at.

        Without timesteps it is that of all training steps, and no column.
        """
        acc = JAX.accumulation(sample.dtype)
        if state.plan is None or state.table is None:
            return self._training_table(acc), None
        self._with(state.plan)  # which checks it
        table = state.table
        if table.numbers.dtype != acc:
            table = placed(self._host_table(state.plan), acc)
        return table, state.index

    def _time(self, timestep: Any) -> Any:
        """Return a timestep as a number or an array of one; None as it is."""
        if timestep is None:
            return None
        if isinstance(timestep, ON_HOST) or not hasattr(timestep, "shape"):
            return one_time(timestep)
        if timestep.size != 1:
            raise ValueError(
                f"timestep must be one number for all rows, got shape {tuple(timestep.shape)}"
            )
        return timestep

    def _memory(self, state: FlaxSchedulerState, table: Table, sample: Array) -> tuple[Array, ...]:
        """Return the stored arrays, made if there are none yet."""
        slots, memory = table.layout.slots, state.memory
        if memory is None:
            if slots and JAX.traced(sample):
                raise ValueError(
                    "this sampler remembers, and inside jit or a compiled loop a state cannot"
                    " grow: call set_timesteps(state, num_inference_steps,"
                    f" shape={tuple(sample.shape)}) before"
                )
            return tuple(jnp.zeros(sample.shape, self.dtype) for _ in slots)
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
        plan: Any = state.plan or self._named.recipe().training_plan()
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
        other = self._named.replan(plan, changed)
        host = entry_table(other) if state.plan is None else self._host_table(other)
        return placed(host, table.numbers.dtype)

    def get_velocity(
        self, state: FlaxSchedulerState, sample: Array, noise: Array, timesteps: Any
    ) -> Array:
        """Return v = alpha noise - sigma sample, where alpha^2 + sigma^2 = 1."""
        at, (sample, noise) = self._with(state.plan), self._widened(sample, noise)
        return at.get_velocity(sample, noise, self._asked(state.plan, timesteps))

    def __len__(self) -> int:
        """Return the number of training steps."""
        return len(self._named)


def placed(host: Table, acc: Any) -> Table:
    """Return a table of NumPy as one of JAX, of new arrays."""
    arrays = jnp.array(host.numbers, acc), jnp.array(host.where), jnp.array(host.start, acc)
    return Table(host.layout, *arrays)


def kept(after: engine.State, memory: tuple[Array, ...]) -> engine.State:
    """Return a state whose stored arrays keep the dtypes that they had."""
    pairs = zip(after.memory, memory, strict=True)
    return after._replace(memory=tuple(JAX.astype(new, old.dtype) for new, old in pairs))


def reference_noise(key: Array, like: Array, dtype: Any) -> Array:
    """Return the unit normals that MaxDiffusion draws at a step with this key."""
    return jax.random.normal(jax.random.split(key, 2)[1], like.shape, dtype)


@partial(jax.jit, static_argnums=0)
def _stepped(
    noise_dtype: Any,
    table: Table,
    memory: tuple[Array, ...],
    index: Array | None,
    timestep: Array | None,
    sample: Array,
    output: Array,
    key: Array | None,
) -> engine.State:
    """Return the state after a step at a timestep, or at the column `index`: one program."""
    if timestep is not None:
        index = located(table, index, timestep)
    noise = None
    if key is not None:
        noise = reference_noise(key, sample, noise_dtype).astype(sample.dtype)
    at = engine.State(sample, memory, index)
    return kept(engine.step(table, at, output, noise=noise), memory)


@jax.jit  # type: ignore[untyped-decorator]
def _scaled(table: Table, index: Array | None, timestep: Array | None, sample: Array) -> Array:
    if timestep is not None:
        index = located(table, index, timestep)
    return engine.model_input(table, engine.State(sample, (), index))[0]


def located(table: Table, index: Array | None, timestep: Array) -> Array:
    """Return the column that a timestep is at: the next one, or where a run begins there."""
    times, begins = table.times, table.first_columns
    t = jnp.reshape(jnp.asarray(timestep), ()).astype(times.dtype)

    def off(entries: Array) -> Array:  # a loop may have cut its times to whole numbers
        return jnp.minimum(jnp.abs(entries - t), jnp.abs(jnp.trunc(entries) - t))

    def searched() -> Array:
        apart = jnp.where(begins < 0, jnp.inf, off(times[begins]))
        anew = begins[jnp.argmin(apart)]
        if index is None:
            return anew
        return jnp.where(goes_on & (off(times[index]) <= jnp.min(apart)), index, anew)

    if index is None:
        return searched()
    goes_on = table.next_columns[index] != index  # the end is no step
    here = goes_on & (off(times[index]) <= 1e-6 * jnp.maximum(1, jnp.abs(t)))
    return jax.lax.cond(here, lambda: index, searched)  # nearly always without a search


_located = jax.jit(located)
