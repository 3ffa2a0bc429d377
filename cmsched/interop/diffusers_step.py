"""diffusers' schedulers with steps that are rows of cmsched's plans.

A class here is diffusers' own but for `step`, so that what it accepts, refuses, shows, keeps and
draws is diffusers' code. A call of `step` that belongs to a run of `set_timesteps` is a row of the
plan of that run. Any other is left to diffusers' own `step`: a timestep that is not in the list,
tables that were written to, arrays that are not alike. Both keep what a run remembers in the same
attributes (see `diffusers_habits`), so that they can take turns.
"""

import dataclasses
import functools
import importlib
import inspect
import sys
import threading
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from .. import engine, samplers, schedulers
from ..backends import named
from ..engine.steps import take_row
from ..engine.values import estimated, mean_channels
from ..frozen import FrozenDict
from ..plan import Plan
from ..schedulers.base import by_name, signed
from ..schedulers.distilled import before_noise
from ..schedulers.habit import with_options
from ..schedulers.solver_parts import integrates_x0
from .diffusers_memory import Done, Habit, Taken
from .diffusers_own import compatibles

__all__ = ["Either", "Stepping", "reference_of"]

Array = Any
Beside: Any = object  # stands for the class of diffusers that a class here is mixed with
TORCH = named("torch")
ALWAYS = ("generator", "variance_noise", "return_dict")  # arguments of `step` that no plan knows
NEAR = 1e-5  # how far levels of diffusers, in float32, may be from a plan's
# where diffusers keeps classes that its top level does not name
ELSEWHERE = (
    "diffusers.schedulers.deprecated",
    "diffusers.schedulers.scheduling_consistency_decoder",
)
# the last runs, with the tables that they agree with, by class, options and arguments
RUNS: dict[Any, tuple[list[Any], Taken]] = {}
MOST = 64
LOCK = threading.Lock()
# classes that estimate x0 in float32 at the least, and TCD, which shows another sample
APART = {
    "TCDScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
}


@functools.cache
def quiet(cls: Any) -> Any:
    """Return a class of cmsched that says nothing of options without effect."""
    return type(cls.__name__, (cls,), {"idle": {}, "say_once": lambda self, text: None})


@functools.lru_cache(maxsize=64)
def core_of(cls: Any, options: FrozenDict) -> Any:
    """Return cmsched's scheduler of these options, with diffusers' numbers."""
    return quiet(cls)(**options, compatibility="diffusers", xp="torch")


def plain_list(values: Any) -> tuple[float, ...]:
    """Return a list, tensor or array of numbers as a tuple."""
    values = values.detach().cpu() if isinstance(values, torch.Tensor) else values
    return tuple(np.asarray(values, dtype=np.float64).tolist())


def same(known: Any, value: Any) -> bool:
    """Return whether a table is the same, or equal."""
    if isinstance(value, torch.Tensor):
        alike = known.shape == value.shape and known.device == value.device
        return bool(alike and torch.equal(known, value))
    return bool(known == value)


class Seen(NamedTuple):
    """An attribute as it was when a plan was compared with it."""

    name: str
    value: Any
    version: int | None  # PyTorch's count of writes, which inference tensors do not have
    copy: Any

    @classmethod
    def of(cls, scheduler: Any, name: str) -> "Seen":
        """Return the attribute as it is now."""
        value = getattr(scheduler, name, None)
        if not isinstance(value, torch.Tensor):
            return cls(name, value, None, None)
        if value.is_inference():
            return cls(name, value, None, value.clone())
        return cls(name, value, value._version, None)


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function by name."""
    return dict(inspect.signature(function).parameters)


def reference_of(name: str) -> Any:
    """Return diffusers' class of this name, if it has one."""
    for module in ("diffusers", *ELSEWHERE):
        found = getattr(importlib.import_module(module), name, None)
        if isinstance(found, type):
            return found
    return None


@functools.cache
def anywhere() -> frozenset[str]:
    """Return the options of all of diffusers' classes, which files of others may have as well."""
    found = map(reference_of, schedulers.CLASSES)
    return frozenset(k for kind in found if kind for k in parameters(kind.__init__))


@functools.cache
def inner(cls: Any) -> frozenset[str]:
    """Return the methods that diffusers' `step` may call on the way."""
    found = (k for k, v in inspect.getmembers(cls._reference, inspect.isfunction))
    outer = {"__init__", "step", "set_timesteps", "add_noise", "scale_model_input"}
    return frozenset(found) - outer


@functools.cache
def changed(cls: Any) -> bool:
    """Return whether a class has methods of its own in the place of these."""
    lineage = cls.__mro__[: cls.__mro__.index(Stepping)]
    own = {name for kind in lineage if "_reference" not in vars(kind) for name in vars(kind)}
    return not own.isdisjoint(inner(cls))


def own_options(cls: Any, given: dict[str, Any]) -> bool:
    """Return whether an option is given that only cmsched's class has."""
    return any(k in given and given[k] != v for k, v in cls._own_options.items())


class Either(Beside):  # type: ignore[misc]
    """A scheduler of diffusers that cmsched knows the meaning of.

    Class attributes of a scheduler:
        core: cmsched's class of the same name.
    """

    core: ClassVar[Any]
    _reference: ClassVar[Any]  # diffusers' class
    _home: ClassVar[str]  # its module
    _own: ClassVar[Any]  # cmsched's class, with diffusers' configuration
    _own_options: ClassVar[dict[str, Any]]  # names and defaults of those that diffusers has not

    compatibility = "diffusers"
    _made = False  # whether the constructor is through, which plans all training steps

    def __new__(cls, *args: Any, compatibility: str = "diffusers", **kwargs: Any) -> Any:
        """Return an object of cmsched's class where the options ask for it."""
        own = vars(cls).get("_own")
        if own is None or (compatibility == "diffusers" and not own_options(cls, kwargs)):
            return super().__new__(cls)
        return super().__new__(own)

    def __init__(self, *args: Any, compatibility: str = "diffusers", **kwargs: Any) -> None:
        if compatibility != "diffusers" or own_options(type(self), kwargs):
            name = self.core.__name__
            raise TypeError(
                f"{type(self).__name__} derives from diffusers' {name}, which has no"
                f' compatibility="{compatibility}" and none of cmsched\'s own options; derive from'
                f" cmsched.{name}"
            )
        super().__init__(*args, **{k: v for k, v in kwargs.items() if k not in self._own_options})
        self._made = True
        if "_home" in vars(type(self)):
            # A saved pipeline has the name of this module and the class, and shall load anywhere.
            self.__module__ = self._home

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show what cmsched's class has beside diffusers' options, which files may have."""
        super().__init_subclass__(**kwargs)
        if "_reference" not in vars(cls):
            return
        p = inspect.Parameter
        shown = parameters(cls._reference.__init__)
        known = {*shown, *anywhere()}
        hidden = cls.core.hidden_options
        cls._own_options = {k: v for k, v in hidden.items() if k not in known}
        own = {**cls._own_options, "compatibility": "diffusers"}
        named = {k: p(k, p.KEYWORD_ONLY, default=v) for k, v in own.items()}
        rest = {k: v for k, v in shown.items() if v.kind is p.VAR_KEYWORD}
        given = {k: v for k, v in shown.items() if k not in rest}
        every = [*given.values(), *named.values(), *rest.values()]

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            super(cls, self).__init__(*args, **kwargs)

        __init__.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[method-assign]

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        """Return the classes that the config is meant for: ours where there is one."""
        return compatibles(cls)

    def cmsched(self) -> Any:
        """Return cmsched's scheduler of the present configuration, with diffusers' numbers.

        Raises:
            ValueError, TypeError: cmsched refuses the configuration.
        """
        return core_of(self.core, self._options())

    def _options(self) -> FrozenDict:
        """Return the present value of every option that cmsched's class has."""
        # pipelines assign to attributes of the config, not to its items
        config, own = self._internal_dict, self.core
        known = [k for k in (*own.options, *own.hidden_options) if hasattr(config, k)]
        values = [getattr(config, k) for k in known]
        plain = [tuple(v) if isinstance(v, list) else v for v in values]
        return FrozenDict(zip(known, plain, strict=True))

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Return the plan of a run, for any framework; see `cmsched.Plan`."""
        return self.cmsched().plan(*args, **kwargs)  # type: ignore[no-any-return]

    def recipe(self, **run: Any) -> Any:
        """Return what the present configuration means: a frozen value that prints."""
        return self.cmsched().recipe(**run)


def scale_model_input(self: Any, sample: Array, timestep: Any) -> Array:
    """Return the network's input; see diffusers."""
    taken = self._run()
    if self._step_index is None and taken.plan is not None:
        self.habit.begin(self, taken, timestep)  # without a wait for the timestep's device
    return super(Stepping, self).scale_model_input(sample, timestep)


class Stepping(Either):
    """A scheduler of diffusers whose runs are cmsched's.

    Class attributes of a scheduler:
        habit: what diffusers keeps between the steps, and where.
    """

    habit: ClassVar[Habit]
    _defaults: ClassVar[dict[str, Any]]  # of the arguments of `step` after the sample
    _output: ClassVar[Any]  # what `step` returns
    _fields: ClassVar[int]  # how many fields that has
    _second_apart: ClassVar[bool]  # whether the second may be no estimate in the sample's dtype

    timesteps: Array
    sigmas: Array
    sigmas_interpol: Array
    _asked: Any = None  # what `set_timesteps` was given
    _listed = False  # whether that was a list which diffusers' class does not take
    _taken: Taken | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class methods with the signatures of diffusers'."""
        super().__init_subclass__(**kwargs)
        if "_reference" not in vars(cls):
            return
        given = [*parameters(cls._reference.step).items()][1:]
        cls._defaults = {k: p.default for k, p in given[3:]}
        cls.step = signed(Stepping.step, [k for k, _ in given[:3]], cls._defaults, ())  # type: ignore[method-assign]
        scaling = getattr(cls._reference, "scale_model_input", None)
        if scaling and "_init_step_index" in scaling.__code__.co_names:
            cls.scale_model_input = scale_model_input
        times = {k: p.default for k, p in [*parameters(cls._reference.set_timesteps).items()][1:]}
        cls.set_timesteps = signed(Stepping.set_timesteps, (), times, ("timesteps", "sigmas"))  # type: ignore[method-assign]
        home = vars(sys.modules[cls._reference.__module__])
        names = f"{cls.__name__}Output", "DDIMSchedulerOutput", "SchedulerOutput"
        cls._output = next(home[name] for name in names if name in home)
        cls._fields = len(dataclasses.fields(cls._output))
        cls._second_apart = cls.__name__ in APART

    # the run

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set the discrete times of a run; see diffusers.

        Every class takes lists of `timesteps` and of `sigmas`: where diffusers' class takes none,
        they are read as cmsched's class does.
        """
        own = inspect.signature(self._reference.set_timesteps)
        lists = {
            k: kwargs.pop(k)
            for k in ("timesteps", "sigmas")
            if k in kwargs and k not in own.parameters
        }
        lists = {k: plain_list(v) for k, v in lists.items() if v is not None}
        if lists:
            given = by_name(args, kwargs, [*own.parameters][1:], "set_timesteps")
            device = given.pop("device", None)
            given = {k: v for k, v in given.items() if v is not None}
            plan = self.cmsched().plan(**given, **lists)
            super().set_timesteps(len(plan.grid), device=device)
            self._show(plan, device)
            self._asked, self._listed = {**given, **lists}, True
        else:
            with torch.inference_mode(False):  # whose tensors do not count what is written
                super().set_timesteps(*args, **kwargs)
            given = own.bind(self, *args, **kwargs).arguments
            self._asked = {
                k: plain_list(v) if k in ("timesteps", "sigmas") else v
                for k, v in given.items()
                if v is not None and k not in ("self", "device")
            }
            self._listed = False
        self._taken = None
        if self._made:
            self._run()  # while reading the tables is no wait for a device
        else:
            self._asked = None

    def _show(self, plan: Plan, device: Any) -> None:
        """Show the times and levels of a plan in place of diffusers' own."""
        core, dtype = self.cmsched().with_plan(plan), self.timesteps.dtype
        times = torch.as_tensor(plan.timesteps)
        times = times if dtype.is_floating_point else times.double().round()
        self.timesteps = times.to(device=device, dtype=dtype)
        for name in self.habit.tables:
            if name in ("sigmas", "betas", "alphas"):
                setattr(self, name, torch.as_tensor(getattr(core, name), dtype=torch.float32))
        if hasattr(self, "sigmas_interpol"):  # of the middle of a step, for both its evaluations
            middles = [p.ratio for p in plan.points[1::2]]
            self.sigmas_interpol = torch.tensor([*middles, 0.0]).repeat_interleave(2)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs, which compares the tables anew."""
        return {k: v for k, v in vars(self).items() if k != "_taken"}

    def _run(self) -> Taken:
        """Return the run of the present tables."""
        taken = self._taken
        if taken is not None:
            for name, value, version, copy in taken.seen:
                now = getattr(self, name, None)
                if now is not value:
                    break
                if version is not None:
                    if now._version != version:
                        break
                elif copy is not None and not torch.equal(now, copy):
                    break
            else:
                own = vars(self)  # of a run that has begun, options stay
                if own.get("_step_index") is not None or vars(self._internal_dict) == taken.config:
                    return taken
        seen = tuple(Seen.of(self, name) for name in ("_internal_dict", *self.habit.tables))
        taken = Taken(None, seen, dict(vars(self._internal_dict)))
        try:
            cls: Any = type(self)
            whole = not changed(cls) and inner(cls).isdisjoint(vars(self))
            if self._asked is not None and whole:  # no part of diffusers' step was replaced
                taken = self._planned(taken)
        except (TypeError, ValueError, ArithmeticError, LookupError):
            pass  # what cmsched refuses is diffusers' to take
        self._taken = taken
        return taken

    def _planned(self, none: Taken) -> Taken:
        """Return the run that was asked for, or `none` where the tables are others."""
        options = self._options()
        key = type(self), options, tuple(self._asked.items())
        tables = [one.value for one in none.seen[1:]]
        known = RUNS.get(key)
        if known is None or not all(map(same, known[0], tables)):
            core = core_of(self.core, options)
            plan = self._plan_of(core)
            habit = self.habit
            if habit.unlike(self.config) or not habit.agrees(self, core, plan, NEAR):
                return none
            taken = none._replace(
                plan=plan,
                times=habit.times(self, plan),
                aside=habit.aside(self, plan),
                wasted=habit.wasted(plan),
            )
            if hasattr(core, "history_slot"):
                data = integrates_x0(core.meant(core.filled_config))
                taken = taken._replace(slot=core.history_slot, data=data)
            kept = [v.clone() if isinstance(v, torch.Tensor) else v for v in tables]
            with LOCK:
                RUNS[key] = known = kept, taken
                if len(RUNS) > MOST:
                    del RUNS[next(iter(RUNS))]
        return known[1]._replace(seen=none.seen, config=none.config)

    def _plan_of(self, core: Any) -> Plan:
        """Return the plan of the run that was asked for."""
        asked = dict(self._asked)
        count = asked.get("num_inference_steps")
        if any(count == len(asked.get(name, ())) for name in ("timesteps", "sigmas")):
            del asked["num_inference_steps"]
        if "from_start" in samplers.get(core.recipe().sampler).options:
            asked["from_start"] = True
        plan: Plan = core.plan(**asked)
        return plan

    def step(
        self, model_output: Array, timestep: Any, sample: Array, *args: Any, **kwargs: Any
    ) -> Any:
        """Take one step; see diffusers.

        Args:
            model_output: the network's output.
            timestep: the entry of `timesteps` this step is at.
            sample: the present sample.
            *args: diffusers' options of this class by position.
            **kwargs: the same by name. `generator` also takes what `cmsched.step` takes as rng:
                an int, `cmsched.Rng`, one per row.
        """
        if args:
            kwargs = by_name(args, kwargs, [*self._defaults], "step")
        done = self._row(model_output, timestep, sample, kwargs)
        if done is None:
            if self._listed:
                raise ValueError(
                    f"this step of {type(self).__name__} leaves the run whose timesteps or sigmas"
                    " were given as a list, which diffusers' class does not take; take the"
                    " timesteps in turn"
                )
            return super().step(model_output, timestep, sample, **kwargs)
        self.habit.keep(self, done)
        if self._fields == 1:
            fields: tuple[Array, ...] = (done.following,)
        else:
            fields = done.following, done.x0 if done.x0 is not None else self._second(done)
        return fields if kwargs.get("return_dict", True) is False else self._output(*fields)

    def _row(
        self, output: Array, timestep: Any, sample: Array, given: dict[str, Any]
    ) -> Done | None:
        """Return the row that a call of `step` takes, or None where it belongs to no run."""
        taken = self._run()
        plan = taken.plan
        if (
            plan is None
            or type(sample) is not torch.Tensor
            or type(output) is not torch.Tensor
            or output.dtype is not sample.dtype
            or not sample.is_floating_point()
            or output.device != sample.device
            or (output.shape != sample.shape and not plan.layout.prediction.variance_head)
        ):
            return None
        for name, value in given.items():
            if name in ALWAYS or name in self.habit.unheard:
                continue
            if name not in self._defaults:
                return None
            default = self._defaults[name]
            if value is default or value == default or (default is False and value is None):
                continue
            if name != "eta" or not isinstance(value, int | float) or "eta" not in plan.options:
                return None
            plan = with_options(plan, (("eta", float(value)),))
            taken = taken._replace(plan=plan, wasted=self.habit.wasted(plan))
        placed = self.habit.place(self, taken, timestep, sample)
        if placed is None:
            return None
        plan, number, memory = placed
        row, rng, z = plan.rows[number], given.get("generator"), given.get("variance_noise")
        if row.draws or (number == taken.wasted):
            if z is None:
                rng, z = self.habit.drawn(sample, rng)
            elif rng is not None or type(z) is not torch.Tensor or z.shape != sample.shape:
                return None
        draws: Any = ()
        if row.draws:
            state = engine.State(sample, memory, number)
            draws = engine.draw(plan, state, rng) if z is None else (z.to(sample.dtype),)
        mean = output
        if output.shape != sample.shape:
            mean = mean_channels(plan.layout.prediction, sample, output)
        whole = self._fields == 2 and not (self._second_apart and self._needs_second(sample))
        arrays = sample, memory, output, mean, draws
        # diffusers keeps the sample that it was given, and no copy
        made = take_row(TORCH, plan, number, *arrays, None, whole, owned=False)
        return Done(plan, number, row, sample, memory, output, taken, *made)

    def _needs_second(self, sample: Array) -> bool:
        """Return whether the second field is no estimate of x0 in the sample's dtype."""
        return bool(self._output.__name__ == "TCDSchedulerOutput" or sample.dtype.itemsize < 4)

    def _second(self, done: Done) -> Array:
        """Return TCD's sample before its noise, or the estimate of x0 in float32."""
        if self._output.__name__ == "TCDSchedulerOutput":
            return engine.step(before_noise(done.plan), done.state, done.output).sample
        sample, layout = done.sample, done.plan.layout
        acc = TORCH.accumulation(sample.dtype)
        mean = mean_channels(layout.prediction, sample, done.output)
        return estimated(TORCH, layout, done.row.estimate, sample, mean, acc)
