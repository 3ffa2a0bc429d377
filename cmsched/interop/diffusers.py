"""Schedulers that diffusers accepts wherever its own are accepted, and pipelines changed to them.

    pipe = DiffusionPipeline.from_pretrained(...)
    cmsched.interop.diffusers.convert(pipe)

For every named scheduler with a counterpart there is a class of the same name here, which is both
cmsched's and diffusers': `isinstance` holds for either. Configuration, files and the Hub are
diffusers' own code; numbers are those of `compatibility="diffusers"`, which is the default here.
What else pipelines count on: torch tensors on the device asked for, torch's default generator where
none is given, `sigmas` and `timesteps` that may be written to, `model_outputs` that may be sliced.

A pipeline that is saved names diffusers' classes, so that it loads without cmsched; call `convert`
again to have ours. Classes without a counterpart (`Scheduler`, `KDiffusionScheduler`) can be a
pipeline's scheduler as well, but who loads that pipeline needs cmsched.
"""

import functools
import importlib
import inspect
import operator
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

try:
    import diffusers
    import torch
    from diffusers.configuration_utils import ConfigMixin, FrozenDict
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from diffusers.utils import PushToHubMixin
    from diffusers.utils.import_utils import DummyObject
    from diffusers.utils.torch_utils import randn_tensor
except ImportError as error:
    raise ImportError(
        f"cmsched.interop.diffusers needs diffusers and PyTorch, which cannot be imported here"
        f' ({error}): pip install "cmsched[diffusers]"'
    ) from error

from .. import samplers, schedulers
from ..plan import Plan, make_plan
from ..schedulers.base import ON_HOST, Run, tolerance
from ..schedulers.solvers import SolverScheduler
from ..spacings import Grid

Array = Any

# where diffusers keeps classes that its top level does not name
ELSEWHERE = (
    "diffusers.schedulers.deprecated",
    "diffusers.schedulers.scheduling_consistency_decoder",
)
Beside: Any = object  # stands for the cmsched class that a class here is mixed with


class Configured(Beside):  # type: ignore[misc]
    """A cmsched scheduler with diffusers' configuration, in torch."""

    _internal_dict: Any
    _reference: type | None = None  # diffusers' own class
    _home: str | None = None  # its module
    idle: ClassVar[Any] = {}  # no warning of options without effect, which pipelines write

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the default of `compatibility` here, and no `xp`, in the constructor's signature."""
        super().__init_subclass__(**kwargs)
        signature = inspect.signature(cls.__init__)
        if "__init__" in vars(cls) and "xp" in signature.parameters:
            shown = [
                p.replace(default="diffusers") if p.name == "compatibility" else p
                for p in signature.parameters.values()
                if p.name != "xp"
            ]
            cls.__init__.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]

    def __init__(self, *args: Any, compatibility: str = "diffusers", **kwargs: Any) -> None:
        if "xp" in kwargs:
            name = type(self).__name__
            raise TypeError(f"{name}() is for torch and has no xp; cmsched.{name} has")
        registered = getattr(self, "_internal_dict", {})  # a subclass's own options
        super().__init__(*args, compatibility=compatibility, xp="torch", **kwargs)
        # before this it is cmsched's, which nobody can write to
        self._internal_dict = FrozenDict({**registered, **self._internal_dict})
        if self._home and ADAPTED.get(type(self).__name__) is type(self):
            # A saved pipeline has the name of this module and the class, and shall load anywhere.
            self.__module__ = self._home

    @property
    def _options(self) -> schedulers.FrozenDict:
        """Every option; pipelines assign to attributes of the config, not to its items."""
        known, config = {**self.options, **self.hidden_options}, self._internal_dict
        return schedulers.FrozenDict({k: getattr(config, k, v) for k, v in known.items()})

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        """Return the classes that the config is meant for: ours where there is one."""
        names = dict.fromkeys([cls.__name__, *cls._compatibles])
        found = [ADAPTED.get(name) or getattr(diffusers, name, None) for name in names]
        return [known for known in found if known]

    def _set_on(self, backend: Any, host: np.ndarray, device: Any) -> None:
        super()._set_on(backend, single(host), device)

    def _shown(self, host: np.ndarray) -> Array:
        return super()._shown(single(host))

    def _source(self, backend: Any, device: Any) -> tuple[Any, int | None]:
        """Return torch's default generator of the device, which diffusers draws from."""
        device = torch.device(device)
        if device.type in ("cpu", "meta"):
            return torch.default_generator, None
        generators = getattr(torch, device.type).default_generators
        return generators[device.index or 0], None


# The rest of the configuration is diffusers' code, which inheritance alone would put last.
machinery = {**vars(PushToHubMixin), **vars(ConfigMixin), **vars(SchedulerMixin)}
for name, member in machinery.items():
    special = name.startswith("__") and name not in ("__getattr__", "__repr__")
    if not special and name not in (*vars(Configured), "_compatibles"):
        setattr(Configured, name, member)


class Stepped(Configured):
    """The stateful habit, where pipelines read and write what happens between the steps.

    Class attributes of a scheduler:
        counts: whether diffusers counts steps; else it looks each timestep up.
    """

    counts: ClassVar[bool] = True
    _plan: Plan | None
    _run: Run | None
    _planned: schedulers.FrozenDict | None = None  # the options that the plan was made with
    _given: Array = None  # the timesteps of `set_timesteps`, whatever is shown now
    _levels_shown: tuple[Any, Array, list[float]] = (None, None, [])  # of a plan, and as they were

    def _set_on(self, backend: Any, host: np.ndarray, device: Any) -> None:
        super()._set_on(backend, host, device)
        self._given, self._planned = self._timesteps, self._options

    def _set(self) -> Plan:
        """Return the plan: without `set_timesteps` of all training steps, as in training loops."""
        if self._plan is None:
            shown, config = self.timesteps, self._options
            points = (*self._training_points()[:: self.order], self._last(config))
            whole = self.whole_times and all(p.t == int(p.t) for p in points[:-1])
            scale = self._init_scale(config, points[0])
            self._plan = self._planned_over(Grid(points, self._schedule(config), scale, whole))
            self._timesteps = shown
        return self._plan

    def _planned_over(self, grid: Grid, **options: Any) -> Plan:
        """Return a plan over a grid with the present configuration, and options beside it."""
        self._planned = config = self._options
        sampler, fixed = self._sampler(config, len(grid))
        return make_plan(sampler, grid, self._prediction(config), {**options, **fixed})

    @property
    def timesteps(self) -> Array:
        """Model times, one per evaluation.

        They may be replaced: by the last of them, by a copy of another dtype, or by others, for
        which a run is planned as `set_timesteps(timesteps=...)` does.
        """
        return super().timesteps

    @timesteps.setter
    def timesteps(self, value: Array) -> None:
        plan, value = self._set(), torch.as_tensor(value)
        host = value.detach().cpu()
        last = torch.as_tensor(single(plan.timesteps))[max(len(plan) - len(host), 0) :]
        if not torch.equal(host, last.to(host.dtype)):
            plan = self.plan(timesteps=host.double().numpy())
            self._plan, self.num_inference_steps = plan, len(plan.grid)
            self._planned = self._options
            self._restart()
        if len(host) == len(plan):
            self._given = value
        self._timesteps = value

    @property
    def sigmas(self) -> Array:
        """Noise levels, on the host. What is written into them before the first step counts."""
        plan, shown, _ = self._levels_shown
        if shown is None or plan is not self._plan:
            with torch.inference_mode(False):  # so that they can be written to
                shown = super().sigmas
            self._levels_shown = self._plan, shown, shown.tolist()
        return shown

    @sigmas.setter
    def sigmas(self, value: Array) -> None:
        _ = self.sigmas
        plan, shown, were = self._levels_shown
        if tuple(value.shape) != tuple(shown.shape):
            raise ValueError(
                f"sigmas must have the shape {tuple(shown.shape)} of those before, got"
                f" {tuple(value.shape)}; for another number use set_timesteps(sigmas=...)"
            )
        self._levels_shown = plan, value, were

    def _take_written(self) -> None:
        """Plan with the levels that were written into `sigmas`."""
        plan, shown, were = self._levels_shown
        if shown is None or plan is not self._plan or plan is None:
            return
        if shown.device.type != "cpu" and self._run is not None:
            return  # looking would wait for the device
        levels = shown.tolist()
        if levels == were:
            return
        if self._run is not None:
            raise ValueError("sigmas were changed during a run; change them before its first step")
        points, schedule = plan.grid.points, plan.grid.schedule
        if len(levels) != len(points):
            raise ValueError(
                f"sigmas of {type(self).__name__}, one per evaluation, cannot be changed; pass"
                " those of the steps to set_timesteps(sigmas=...)"
            )
        name = "sigma" if schedule.frame == "flow" else "ratio"
        known = dict(zip(were, points, strict=True))  # where another was, without rounding
        changed = [
            p if level == was else replace(known.get(level) or schedule.at(**{name: level}), t=p.t)
            for p, level, was in zip(points, levels, were, strict=True)
        ]
        scale = self._init_scale(self._options, changed[0])
        grid = replace(plan.grid, points=tuple(changed), init_scale=scale)
        self._plan = make_plan(plan.sampler, grid, plan.prediction, plan.options)
        self._levels_shown = self._plan, shown, levels

    @property
    def init_noise_sigma(self) -> float:
        """The scale of the unit normal noise a run starts from."""
        self._take_written()
        scale: float = super().init_noise_sigma
        return scale

    def _at(self, timestep: Any) -> Run:
        if self._run is None:
            self._take_changed()
        self._take_written()
        time = self._on_host(timestep)
        if not self.counts and isinstance(time, ON_HOST):
            self._go_to(float(time))
        run: Run = super()._at(time)
        return run

    def _take_changed(self) -> None:
        """Plan with the options as they are now, and with what was written into `timesteps`."""
        if self._plan is None:
            return
        if self._planned != self._options:
            known = samplers.get(self._sampler(self._options, 1)[0]).options
            given = {k: v for k, v in self._plan.options.items() if k in known}
            self._plan = self._planned_over(self._plan.grid, **given)
        given = self._given
        if given is not None and given.device.type == "cpu":
            times = torch.as_tensor(single(self._plan.timesteps)).to(given.dtype)
            if not torch.equal(given, times):
                self.timesteps = self._timesteps

    def _go_to(self, time: float) -> None:
        """Move a run that remembers nothing to a time, wherever it is, as diffusers does."""
        run = self._run
        if run is None or run.plan.check_traced().slots:
            return
        over = run.entry - run.first >= len(run.plan)
        if over or abs(time - run.plan.rows[run.entry - run.first].point.t) > tolerance(time):
            entry = self.index_for_timestep(time)
            if over or entry < run.first:
                self._run = self._from(self._set(), entry)

    def _on_host(self, timestep: Any) -> Any:
        """Return the time of a tensor, if that can be had without a wait for the device."""
        given, plan = self._given, self._plan
        if not isinstance(timestep, torch.Tensor) or timestep.numel() != 1 or plan is None:
            return timestep
        if given is not None and same_storage(timestep, given):  # an entry of `timesteps`
            entry = (timestep.storage_offset() - given.storage_offset()) // given.stride(0)
            return float(plan.rows[entry].point.t)
        # On a device diffusers looks as well, where it does not count steps.
        if self.counts and timestep.device.type != "cpu":
            return timestep
        time = timestep.item()
        if given is None:  # of all training steps, between which shown times are rounded
            near = min(plan.timesteps.tolist(), key=lambda t: abs(t - time))
            return near if abs(near - time) < 0.01 else time
        return time

    @property
    def _step_index(self) -> int | None:
        """The same as `step_index`, which code that takes a step apart moves by itself."""
        entry: int | None = self.step_index
        return entry

    @_step_index.setter
    def _step_index(self, entry: int | None) -> None:
        run = self._run
        if entry is None:
            self._run = None
        elif run is None or entry < run.first:
            self._run = self._from(self._set(), entry)
        else:
            self._run = run._replace(entry=entry, index=None)


class Solved(Stepped):
    """Multistep solvers, whose history pipelines cut and fill in."""

    _listed: tuple[Run | None, list[Array]] = (None, [])  # what is shown of a run's history

    @property
    def model_outputs(self) -> list[Array]:
        """The converted outputs, the newest last, in a list whose items may be replaced."""
        if self._listed[0] is not self._run or not self._listed[1]:
            self._listed = self._run, super().model_outputs
        return self._listed[1]

    @model_outputs.setter
    def model_outputs(self, outputs: list[Array]) -> None:
        order = self._options.solver_order
        if len(outputs) != order:
            raise ValueError(f"model_outputs must have solver_order={order} items, got {outputs}")
        self._listed = self._run, list(outputs)

    @property
    def lower_order_nums(self) -> int:
        """How many outputs the run has seen, at most solver_order; steps are counted here."""
        seen: int = super().lower_order_nums
        return seen

    @lower_order_nums.setter
    def lower_order_nums(self, value: int) -> None:
        if not 0 <= value - self.lower_order_nums <= 1:
            raise ValueError(
                f"lower_order_nums={value} cannot be: the run has seen {self.lower_order_nums}"
                " outputs; call set_timesteps for another run"
            )

    @property
    def last_sample(self) -> None:
        """None: the corrector here needs nothing but the converted outputs."""

    @property
    def _step_index(self) -> int | None:
        """See `Stepped`."""
        return super()._step_index

    @_step_index.setter
    def _step_index(self, entry: int | None) -> None:
        outputs = self._listed[1] if self._listed[0] is self._run else []
        Stepped._step_index.fset(self, entry)  # type: ignore[attr-defined]
        self._listed = self._run, outputs

    def _at(self, timestep: Any) -> Run:
        """Return the run, with the outputs in the list that was shown of it."""
        run = super()._at(timestep)
        seen, outputs = self._listed
        if seen is not run or not outputs:
            return run
        slots = run.plan.check_traced().slots
        memory = list(run.memory) or [None] * len(slots)
        for k, (*place, age) in enumerate(slots):
            if tuple(place) == self._place and outputs[-age] is not None:
                memory[k] = outputs[-age]
        same = len(memory) == len(run.memory) and all(map(operator.is_, memory, run.memory))
        if same or any(array is None for array in memory):
            return run
        self._run = run = run._replace(memory=tuple(memory))  # the same, as the list shows it
        self._listed = run, outputs
        return run


def single(host: np.ndarray) -> np.ndarray:
    """Return floats as diffusers has them."""
    return host.astype(np.float32) if host.dtype == np.float64 else host


def same_storage(part: Array, whole: Array) -> bool:
    """Return whether a tensor is a view of another."""
    alike = part.dtype == whole.dtype and part.device == whole.device
    start = whole.untyped_storage().data_ptr()
    return alike and bool(part.untyped_storage().data_ptr() == start)


def movable(name: str, own: property) -> property:
    """Return the property of a table that code moves to another device or dtype, but cannot change.

    It is a copy: what counts is the configuration.
    """
    attribute = f"_moved_{name}"

    def shown(self: Any) -> Array:
        return vars(self).get(attribute, own.__get__(self))

    def move(self: Any, value: Array) -> None:
        table = own.__get__(self)
        same = isinstance(value, torch.Tensor) and value.shape == table.shape
        if not same or not torch.allclose(
            value.detach().cpu().float(), table.to(value.dtype).float()
        ):
            raise ValueError(
                f"{name} follows from the configuration and cannot be set to other values;"
                " construct the scheduler with trained_betas=, beta_schedule= or"
                " rescale_betas_zero_snr="
            )
        setattr(self, attribute, value)

    return property(shown, move, doc=own.__doc__)


def drawing_to_the_end(step: Any, least: int) -> Any:
    """Return a `step` that draws in the last step of `least` or more, though there is no use.

    As the reference does: what one generator gives to the next image is the same then.
    """
    signature = inspect.signature(step)

    @functools.wraps(step)
    def drawn(self: Any, *args: Any, **kwargs: Any) -> Any:
        result, run = step(self, *args, **kwargs), self._run
        plan = run.plan
        ended = least <= run.first + len(plan) == run.entry and not plan.rows[-1].draws
        if ended and samplers.get(plan.sampler).trait("stochastic", plan.options):
            given = signature.bind(self, *args, **kwargs).arguments
            sample, generator = given["sample"], given.get("generator")
            each = generator if isinstance(generator, list) else [generator]
            torchs = all(g is None or isinstance(g, torch.Generator) for g in each)
            if torchs and given.get("variance_noise") is None:
                like = {"dtype": sample.dtype, "device": sample.device}
                randn_tensor(sample.shape, generator=generator, **like)
        return result

    return drawn


# how many steps there must be for the last one to draw
WASTEFUL = {
    "CMStochasticIterativeScheduler": 2,
    "DDIMParallelScheduler": 1,
    "DDIMScheduler": 1,
    "DPMSolverMultistepScheduler": 1,
    "DPMSolverSinglestepScheduler": 1,
    "EulerAncestralDiscreteScheduler": 1,
    "FlowMatchEulerDiscreteScheduler": 1,
}


def reference_of(name: str) -> type | None:
    """Return diffusers' class of this name, if it has one."""
    for module in ("diffusers", *ELSEWHERE):
        found = getattr(importlib.import_module(module), name, None)
        if isinstance(found, type):
            return found
    return None


def adapted(name: str, ours: type) -> type:
    """Return the class of this name that is both cmsched's and diffusers'."""
    reference = named = reference_of(name)
    if isinstance(named, DummyObject):  # it wants packages that are not there; ours does not
        reference = None
    kinds = {SolverScheduler: Solved, schedulers.SchedulerMixin: Stepped}
    habit = next((mine for kind, mine in kinds.items() if issubclass(ours, kind)), Configured)
    theirs = (reference,) if reference else (SchedulerMixin, ConfigMixin)
    text = f"`cmsched.{name}` as diffusers' pipelines want it; see there for its options."
    members: dict[str, Any] = {
        **{"__module__": __name__, "__doc__": text, "_reference": reference},
        "_home": named and named.__module__,
        "counts": reference is None or hasattr(reference, "begin_index"),
        **{
            table: movable(table, own)
            for table in ("betas", "alphas", "alphas_cumprod", "final_alpha_cumprod")
            if isinstance(own := getattr(ours, table, None), property)
        },
    }
    if name in WASTEFUL:
        members["step"] = drawing_to_the_end(ours.step, WASTEFUL[name])  # type: ignore[attr-defined]
    cls: Any = type(name, (habit, ours, *theirs), members)
    return cls  # type: ignore[no-any-return]


ADAPTED: dict[str, Any] = {
    name: adapted(name, ours) for name, ours in dict(schedulers.CLASSES).items()
}
# what a scheduler of diffusers, or a plain one of ours, becomes
BESIDE = {cls._reference: cls for cls in ADAPTED.values() if cls._reference}
BESIDE |= {ours: ADAPTED[name] for name, ours in schedulers.CLASSES.items()}
globals().update(ADAPTED)
__all__ = ["convert", *ADAPTED]


def convert(
    pipeline: Any,
    *,
    only: Collection[str] | None = None,
    back: bool = False,
    compatibility: str = "diffusers",
) -> dict[str, str]:
    """Exchange the schedulers that a pipeline holds for ours of the same class and configuration.

    Schedulers inside its models (that of `ConsistencyDecoderVAE`) and in pipelines inside it are
    exchanged too, everywhere that they are held. A new scheduler has no timesteps yet: pipelines
    set them in each call.

    Args:
        pipeline: a `DiffusionPipeline`, changed in place.
        only: names of the schedulers to exchange, such as "scheduler" or "vae.decoder_scheduler";
            by default all.
        back: exchange ours for diffusers' own.
        compatibility: of the new ones; "paper" follows the papers where diffusers does not.

    Returns:
        What was done: the classes, by the names of the schedulers.

    Raises:
        TypeError: `pipeline` is none.
        ValueError: a scheduler has no counterpart, or does not take the configuration, or `only`
            names what is not there. The pipeline is unchanged then.
    """
    if not isinstance(pipeline, diffusers.DiffusionPipeline):
        raise TypeError(
            f"convert takes a DiffusionPipeline, got {type(pipeline).__name__}; for a scheduler use"
            " cmsched.interop.diffusers.<its class>.from_config(scheduler.config)"
        )
    held = {name: place for name, *place in places(pipeline)}
    names = list(held) if only is None else [only] if isinstance(only, str) else list(only)
    if absent := [name for name in names if name not in held]:
        raise ValueError(
            f"only={absent[0]!r}: this {type(pipeline).__name__} holds no such scheduler, but"
            f" {', '.join(held) or 'none'}"
        )
    options = {} if back else {"compatibility": compatibility}
    made: dict[int, Any] = {}  # one scheduler may be held in several places
    for name in names:
        scheduler = held[name][-1]
        if isinstance(scheduler, Configured) is back and id(scheduler) not in made:
            made[id(scheduler)] = counterpart(name, scheduler, options, back=back)
    done = {}
    for name, (owner, attribute, scheduler) in held.items():
        if id(scheduler) in made:
            setattr(owner, attribute, made[id(scheduler)])
            sides = ("cmsched", "diffusers") if back else ("diffusers", "cmsched")
            done[name] = f"{type(scheduler).__name__} of {sides[0]} -> of {sides[1]}"
    return done


def places(
    owner: Any, path: str = "", seen: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Any, str, Any]]:
    """Yield name, owner, attribute and scheduler for every scheduler that something holds."""
    holders, seen = diffusers.DiffusionPipeline | torch.nn.Module, seen | {id(owner)}
    for attribute, value in list(vars(owner).items()):
        name = path + attribute
        if isinstance(value, SchedulerMixin | schedulers.ConfigMixin):
            yield name, owner, attribute, value
        elif isinstance(value, holders) and id(value) not in seen:
            yield from places(value, f"{name}.", seen)


def counterpart(name: str, scheduler: Any, options: dict[str, Any], *, back: bool) -> Any:
    """Return the other side's scheduler of the same class and configuration."""
    kind: Any = type(scheduler)
    other = kind._reference if back else BESIDE.get(kind)
    if other is None:
        side = "diffusers does not have here" if back else "cmsched does not have"
        hint = "" if back else "; leave it out by only="
        raise ValueError(
            f"{name} is a {kind.__name__}, which {side}; the pipeline is unchanged{hint}"
        )
    config = {key: getattr(scheduler.config, key) for key in scheduler.config}
    try:
        # a default that a pipeline has changed in place is no default any more
        made = other.from_config({**config, "_use_default_values": []}, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: {other.__name__} does not take this configuration ({error}); the pipeline is"
            " unchanged"
        ) from error
    made._internal_dict = FrozenDict(config)
    return made
