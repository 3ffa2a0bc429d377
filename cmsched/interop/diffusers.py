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
    from diffusers.utils.torch_utils import randn_tensor
except ImportError as error:
    raise ImportError(
        f"cmsched.interop.diffusers needs diffusers and PyTorch, which cannot be imported here"
        f' ({error}): pip install "cmsched[diffusers]"'
    ) from error

from .. import samplers, schedulers
from ..plan import Plan, make_plan
from ..schedulers.base import Run
from ..schedulers.solvers import SolverScheduler

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
    idle: ClassVar[Any] = {}  # no warning of options without effect, which pipelines write

    def __init__(self, *args: Any, compatibility: str = "diffusers", **kwargs: Any) -> None:
        super().__init__(*args, compatibility=compatibility, xp="torch", **kwargs)
        # before this it is cmsched's, which nobody can write to
        self._internal_dict = FrozenDict(self._internal_dict)
        if self._reference:
            # A saved pipeline has the name of this module and the class, and shall load anywhere.
            self.__module__ = self._reference.__module__

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
    """The stateful habit, where pipelines read and write what happens between the steps."""

    _plan: Plan | None
    _run: Run | None
    _given: Array = None  # the timesteps of `set_timesteps`, whatever is shown now
    _levels_shown: tuple[Any, Array, list[float]] = (None, None, [])  # of a plan, and as they were

    def _set_on(self, backend: Any, host: np.ndarray, device: Any) -> None:
        super()._set_on(backend, host, device)
        self._given = self._timesteps

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
        grid = replace(plan.grid, points=tuple(changed))
        self._plan = make_plan(plan.sampler, grid, plan.prediction, plan.options)
        self._levels_shown = self._plan, shown, levels

    def _at(self, timestep: Any) -> Run:
        self._take_written()
        run: Run = super()._at(self._on_host(timestep))
        return run

    def _on_host(self, timestep: Any) -> Any:
        """Return the time of a tensor, if that can be had without a wait for the device."""
        given, plan = self._given, self._plan
        if not isinstance(timestep, torch.Tensor) or timestep.numel() != 1 or plan is None:
            return timestep
        if same_storage(timestep, given):  # an entry of `timesteps`
            entry = (timestep.storage_offset() - given.storage_offset()) // given.stride(0)
            return float(plan.points[entry].t)
        # On a device diffusers looks as well, where it does not count steps.
        counts = self._reference is None or hasattr(self._reference, "begin_index")
        return timestep if counts and timestep.device.type != "cpu" else timestep.item()

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


def drawing_to_the_end(step: Any, least: int) -> Any:
    """Return a `step` that draws in the last step of `least` or more, though there is no use.

    As the reference does: what one generator gives to the next image is the same then.
    """
    signature = inspect.signature(step)

    @functools.wraps(step)
    def drawn(self: Any, *args: Any, **kwargs: Any) -> Any:
        result, run = step(self, *args, **kwargs), self._run
        plan = run.plan
        if least <= run.first + len(plan) == run.entry and not plan.rows[-1].draws:
            given = signature.bind(self, *args, **kwargs).arguments
            sample, generator = given["sample"], given.get("generator")
            each = generator if isinstance(generator, list) else [generator]
            torchs = all(g is None or isinstance(g, torch.Generator) for g in each)
            stochastic = samplers.get(plan.sampler).trait("stochastic", plan.options)
            if stochastic and torchs and given.get("variance_noise") is None:
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
    reference = reference_of(name)
    kinds = {SolverScheduler: Solved, schedulers.SchedulerMixin: Stepped}
    habit = next((mine for kind, mine in kinds.items() if issubclass(ours, kind)), Configured)
    theirs = (reference,) if reference else (SchedulerMixin, ConfigMixin)
    text = f"`cmsched.{name}` as diffusers' pipelines want it; see there for its options."
    members = {"__module__": __name__, "__doc__": text, "_reference": reference}
    if name in WASTEFUL:
        members["step"] = drawing_to_the_end(ours.step, WASTEFUL[name])  # type: ignore[attr-defined]
    cls: Any = type(name, (habit, ours, *theirs), members)

    # Configurations are read by their names in the constructor's signature.
    signature = inspect.signature(cls.__init__)
    shown = [
        p.replace(default="diffusers") if p.name == "compatibility" else p
        for p in signature.parameters.values()
        if p.name != "xp"
    ]
    cls.__init__.__signature__ = signature.replace(parameters=shown)
    return cls  # type: ignore[no-any-return]


ADAPTED: dict[str, Any] = {
    name: adapted(name, ours) for name, ours in dict(schedulers.CLASSES).items()
}
globals().update(ADAPTED)
__all__ = ["convert", *ADAPTED]


def convert(
    pipeline: Any, *, only: Collection[str] | None = None, back: bool = False
) -> dict[str, str]:
    """Exchange the schedulers that a pipeline holds for ours of the same class and configuration.

    Schedulers inside its models (that of `ConsistencyDecoderVAE`) and in pipelines inside it are
    exchanged too. A new scheduler has no timesteps yet: pipelines set them in each call.

    Args:
        pipeline: a `DiffusionPipeline`, changed in place.
        only: names of the schedulers to exchange, such as "scheduler" or "vae.decoder_scheduler";
            by default all.
        back: exchange ours for diffusers' own.

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
    if only is not None:
        if isinstance(only, str) or (absent := [name for name in only if name not in held]):
            what = repr(only) if isinstance(only, str) else ", ".join(map(repr, absent))
            raise ValueError(
                f"only={what} is no list of schedulers of this {type(pipeline).__name__}; it holds"
                f" {', '.join(held) or 'none'}"
            )
        held = {name: held[name] for name in only}
    made: dict[int, Any] = {}  # one scheduler may be held in several places
    for name, (_, _, scheduler) in held.items():
        if isinstance(scheduler, Configured) is back and id(scheduler) not in made:
            made[id(scheduler)] = counterpart(name, scheduler, back=back)
    done = {}
    for name, (owner, attribute, scheduler) in held.items():
        if id(scheduler) in made:
            setattr(owner, attribute, made[id(scheduler)])
            sides = ("cmsched", "diffusers") if back else ("diffusers", "cmsched")
            done[name] = f"{type(scheduler).__name__} of {sides[0]} -> of {sides[1]}"
    return done


def places(owner: Any, path: str = "") -> Iterator[tuple[str, Any, str, Any]]:
    """Yield name, owner, attribute and scheduler for every scheduler that something holds."""
    for attribute, value in list(vars(owner).items()):
        name = path + attribute
        if isinstance(value, SchedulerMixin):
            yield name, owner, attribute, value
        elif isinstance(value, diffusers.DiffusionPipeline | torch.nn.Module):
            yield from places(value, f"{name}.")


def counterpart(name: str, scheduler: Any, *, back: bool) -> Any:
    """Return the other side's scheduler of the same class and configuration."""
    kind: Any = type(scheduler)
    if back:
        other = kind._reference
    else:
        other = next((c for c in ADAPTED.values() if c._reference is kind), None)
    if other is None:
        side = "diffusers" if back else "cmsched"
        others = "; leave it out by only=" if not back else ""
        raise ValueError(
            f"{name} is a {kind.__name__}, which {side} does not have; the pipeline is unchanged"
            f"{others}"
        )
    config = {key: getattr(scheduler.config, key) for key in scheduler.config}
    try:
        # a default that a pipeline has changed in place is no default any more
        made = other.from_config({**config, "_use_default_values": []})
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: {other.__name__} does not take this configuration ({error}); the pipeline is"
            " unchanged"
        ) from error
    made._internal_dict = FrozenDict(config)
    return made
