"""The stateful habit around a plan, the same for every named scheduler."""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import checks, engine
from ..backends import resolve
from ..checks import nearest
from ..engine.checks import check_like
from ..plan import Plan, make_plan
from .base import PlanMixin, by_name, like_single, signed
from .options import check_kind, check_step_option
from .outputs import OriginalSampleOutput, SchedulerOutput
from .timeline import ON_HOST, Timeline, one_time, tolerance

__all__ = ["Run", "SchedulerMixin", "with_options"]

Array = Any


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


class SchedulerMixin(PlanMixin):
    """Base of the named schedulers: the loop of `set_timesteps`, `scale_model_input` and `step`.

    Class attributes of a scheduler, beside those of `PlanMixin`:
        step_options: what `step` takes after the sample, in the reference's order.
        single_noise: whether the reference draws noise in float32, whatever the sample is of.
        output_class: what `step` returns.
    """

    step_options: ClassVar[Mapping[str, Any]] = {"generator": None, "return_dict": True}
    single_noise: ClassVar[bool] = False
    output_class: ClassVar[type[SchedulerOutput]] = OriginalSampleOutput

    run: Run | None = None  # where the loop stands
    _begin_index: int | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class `step` with its own signature."""
        super().__init_subclass__(**kwargs)
        base = SchedulerMixin  # a method of the class's own, or of a parent, stays as it is
        if cls.step.__code__ is base.step.__code__:
            names, extra = ("model_output", "timestep", "sample"), ["generator", "variance_noise"]
            cls.step = signed(base.step, names, cls.step_options, extra)  # type: ignore[method-assign]

    def restart(self, timeline: Timeline | None) -> None:
        """Begin a run over these entries, or none."""
        super().restart(timeline)
        self._begin_index, self.run = None, None

    @property
    def sigmas(self) -> Array:
        """Noise levels of all evaluations and the end: sigma / alpha, for flow schedules sigma."""
        recipe = self.recipe()
        where, plan = recipe.discretization, None
        if self.timeline is not None:
            plan = self.timeline.plan
        elif self.training_entries_are == "evaluations" and self.sigmas_are == "entries":
            plan = recipe.training_plan()
        points = where.training_points() if plan is None else [*plan.grid.points]
        if self.sigmas_are == "ends":
            points = [point for point in points for _ in range(2)][1:-1]
        elif plan is not None:
            points = [*plan.points, points[-1]]
        return self.show(np.array([where.level(p) for p in points]))

    @property
    def step_index(self) -> int | None:
        """The entry of `timesteps` the next step is at; None before the first one."""
        return None if self.run is None else self.run.entry

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
        if self.timeline is not None:
            self.begin_run(int(begin_index))
        self._begin_index, self.run = int(begin_index), None

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Any = None) -> int:
        """Return the entry of `timesteps` with this value; of equal ones that which begins a step.

        Raises:
            ValueError: no entry has this value.
        """
        times = schedule_timesteps
        if times is not None:
            times = np.asarray(checks.host(times), dtype=np.float64)
        return self.required().entry(timestep, times)

    def begin_run(self, entry: int) -> Run:
        """Return a new run that begins at an entry of `timesteps`."""
        timeline = self.required()
        skipped = timeline.step_at(entry)
        rest = timeline.plan.skip(skipped) if skipped else timeline.plan
        return Run(rest, rest, {}, entry, entry)

    def run_at(self, timestep: Any) -> Run:
        """Return the run at this timestep: begun by the first call, counted from then on."""
        run = self.run or self._begun(timestep)
        i = run.entry - run.first
        if i >= len(run.plan.rows):
            raise ValueError(
                f"the loop is over: all {i} steps are taken; call set_timesteps again before"
                " another loop"
            )
        if timestep is not None and not isinstance(timestep, ON_HOST):
            timestep = self._number(timestep)
        if timestep is not None:
            expected = run.plan.rows[i].point.t
            if timestep != expected and not abs(float(timestep) - expected) <= tolerance(expected):
                return self._moved(run, timestep, expected)
        return run

    @staticmethod
    def _number(timestep: Any) -> Any:
        """Return the number in an array of one that lies in host memory; None if it is not known.

        What no device is waited for is counted.
        """
        if not hasattr(timestep, "shape"):
            return one_time(timestep)
        values = resolve(timestep).known(timestep)
        return values.item() if values is not None and values.size == 1 else None

    def _begun(self, timestep: Any) -> Run:
        """Return a new run: the only time that a timestep is looked up."""
        timeline, entry = self.required(), self._begin_index
        _ = timeline.plan.layout  # which raises where there is no table
        if entry is None:
            # an integer beside fractional times is more likely the number of an entry
            whole = timeline.plan.grid.integral
            counts = isinstance(timestep, int | np.integer) and not whole
            entry = 0 if counts or timestep is None else timeline.entry(timestep)
        return self.begin_run(entry)

    def _moved(self, run: Run, timestep: Any, expected: float) -> Run:
        """Return the run moved to another timestep, which only loops without memory allow."""
        if isinstance(timestep, int | np.integer) and not run.plan.grid.integral:
            raise ValueError(
                f"timestep {timestep} is an integer, this step is at {expected:g}; pass entries of"
                " scheduler.timesteps, not their numbers"
            )
        entry = self.required().entry(timestep)
        if self.run is None or run.plan.layout.slots or entry < run.first:
            raise ValueError(
                f"timestep {timestep:g} is not the one this step is at ({expected:g}, entry"
                f" {run.entry}); call set_timesteps or set_begin_index to start elsewhere"
            )
        return run._replace(entry=entry, index=None)

    def scale_model_input(self, sample: Array, timestep: Any = None) -> Array:
        """Return the network's input: the sample, scaled where this class's network wants that.

        Where nothing is scaled it is the sample itself, as in the reference: do not write to it.
        """
        timeline = self.timeline
        schedule = self.schedule if timeline is None else timeline.plan.grid.schedule
        if schedule.sigma_data == 0.0:
            return sample
        backend = resolve(sample)
        run = self.run_at(timestep)
        scale = run.plan.rows[run.entry - run.first].point.scale
        scaled = engine.scaled(backend, sample, scale)
        self.run = run
        return scaled

    def step(
        self, model_output: Array, timestep: Any, sample: Array, *args: Any, **kwargs: Any
    ) -> Any:
        """Take one step: the sample at the next point from the network's output at this one.

        Args:
            model_output: the network's output, like sample.
            timestep: the entry of `timesteps` this step is at. In an array on a device it is looked
                up at the first step after `set_timesteps` (without `set_begin_index`); after that
                steps are counted.
            sample: the present sample, an array of any framework.
            *args: the class's `step_options` by position.
            **kwargs: `generator`, where noise comes from: a native generator or key, a list with
                one per sample, an int or `cmsched.Rng`; None draws from fresh entropy (kept as
                `last_seed`; an error under JAX). `variance_noise`, the noise itself.
                `return_dict=False` for a tuple. Others are options of the class's sampler.

        Returns:
            An object with prev_sample (and the class's estimate of x0, of this step whatever is
            written to the arguments later), or a tuple. All are new arrays.

        Raises:
            ValueError, TypeError: wrong order of calls, shapes, frameworks; the scheduler is
                unchanged then.
        """
        if args:
            kwargs = by_name(args, kwargs, tuple(self.step_options), "step")
        generator, noise = kwargs.pop("generator", None), kwargs.pop("variance_noise", None)
        return_dict = kwargs.pop("return_dict", True)
        backend = resolve(sample)
        run = self.run_at(timestep)
        if kwargs:
            model_output = self.read_output(model_output, sample, kwargs)
            own = self.special_step(run, model_output, sample, generator, noise, kwargs)
            if own is not None:
                self.run = run._replace(entry=run.entry + 1, index=None)
                return self.output_class(own) if return_dict else (own,)
        if kwargs != run.options:
            run = self._with_options(run, kwargs)
        plan, i, memory = run.plan, run.entry - run.first, run.memory
        row, layout = plan.rows[i], plan.layout
        if layout.slots and not i:
            memory = (sample,) * len(layout.slots)  # read by no first row
        elif memory and (memory[0].shape != sample.shape or type(memory[0]) is not type(sample)):
            check_like(backend, sample, "what earlier steps stored", memory[0])
        index: Any = i
        if backend.index_on_device and not backend.traced(sample):
            index = plan.on(sample).row_numbers[i] - 1 if run.index is None else run.index

        seed, fresh, unused = None, run.generator, False
        if noise is not None:
            if generator is not None:
                raise ValueError("pass either generator or variance_noise, not both")
            check_like(backend, sample, "variance_noise", noise)
            unused = not layout.stochastic
        if not row.draws:
            generator = noise = None
        elif generator is None and noise is None:
            generator = fresh
            if generator is None:
                generator, seed = self.noise_source(backend, backend.device(sample))
                fresh = None if seed is None else generator
        if layout.draws and generator is None and index is not i:
            # a table draws in every row, with weight 0 where the loop does not
            noise = (backend.zeros_like(sample) if noise is None else noise,) * len(layout.draws)

        state = engine.State(sample, memory, index)
        if generator is not None and self.single_noise and self.as_reference:
            single = engine.State(like_single(sample), memory, index)
            noise = engine.draw(plan, single, generator)
            noise, generator = tuple(backend.astype(z, sample.dtype) for z in noise or ()), None
        fields: tuple[Array, ...]
        if len(self.output_class.fields) == 1:
            after = engine.step(plan, state, model_output, rng=generator, noise=noise)
            fields = (after.sample,)
        else:
            after, second = self.step_and_second(
                plan, state, model_output, rng=generator, noise=noise
            )
            fields = after.sample, second
        if unused:
            self.say_once("variance_noise has no effect: this configuration draws no noise")
        self.run = Run(
            plan, run.base, kwargs, run.first, run.entry + 1, after.memory, after.index, fresh
        )
        if seed is not None:
            self.last_seed = seed
        return self.output_class(*fields) if return_dict else fields

    def step_and_second(
        self, plan: Plan, state: engine.State, output: Array, **noise: Any
    ) -> tuple[engine.State, Array]:
        """Return the state after a step, and the second field of its output: the estimate of x0."""
        return engine.step_and_x0(plan, state, output, **noise)

    def read_output(self, model_output: Array, sample: Array, options: dict[str, Any]) -> Array:
        """Return the network's output, or what an option of `step` gives in its place.

        Such an option is taken out of the others.
        """
        return model_output

    def special_step(
        self,
        run: Run,
        model_output: Array,
        sample: Array,
        generator: Any,
        noise: Array | None,
        options: dict[str, Any],
    ) -> Array | None:
        """Return the next sample where an option of the class asks for another step, else None.

        Such an option is taken out of the others.
        """
        return None

    def _with_options(self, run: Run, options: dict[str, Any]) -> Run:
        """Return the run with sampler options given to step."""
        known, base = self.step_options, run.base
        # some pipelines write None for the default
        options = {k: known.get(k) if v is None else v for k, v in options.items()}
        for name, value in options.items():
            if name not in known:
                raise TypeError(f"step() has no option {name!r}{nearest(name, known)}")
            check_step_option(name, value, known[name])
        names = {name: self.renamed.get(name, name) for name in options}
        changed = {
            names[k]: v for k, v in options.items() if base.options.get(names[k], known[k]) != v
        }
        plan = self.replan(base, changed) if changed else base
        i = run.entry - run.first
        if i and run.plan.steps[i] == run.plan.steps[i - 1]:
            raise ValueError(
                f"the options of step() cannot change inside a step of {self.order} evaluations;"
                " give both the same"
            )
        have, need = (p.layout.slots for p in (run.plan, plan))
        if run.memory and not {*need} <= {*have}:
            raise ValueError(
                f"step() was given {changed}, which needs estimates that earlier steps did not"
                " keep; give it from the first step on"
            )
        memory = tuple(run.memory[have.index(slot)] for slot in need) if run.memory else ()
        return run._replace(plan=plan, options=options, memory=memory)

    def replan(self, plan: Plan, options: dict[str, Any]) -> Plan:
        """Return the plan with other options of its sampler."""
        return with_options(plan, tuple(options.items()))


@functools.lru_cache(maxsize=16)
def with_options(plan: Plan, options: tuple[tuple[str, Any], ...]) -> Plan:
    """Return a plan with other options of its sampler."""
    changed = {**plan.options, **dict(options)}
    return make_plan(plan.sampler, plan.grid, plan.prediction, changed)
