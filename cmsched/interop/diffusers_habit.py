"""The named schedulers in torch with diffusers' configuration, which pipelines write into."""

import inspect
import operator
from dataclasses import replace
from typing import Any, ClassVar

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import PushToHubMixin

from .. import samplers
from ..frozen import FrozenDict as Options
from ..grids import Grid
from ..plan import make_plan
from ..schedulers.habit import Run
from ..schedulers.timeline import ON_HOST, Timeline, tolerance

__all__ = ["ADAPTED", "Configured", "Solved", "Stepped"]

Array = Any
ADAPTED: dict[str, Any] = {}  # the classes for pipelines, by name, which diffusers.py makes
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
    def filled_config(self) -> Options:
        """Every option; pipelines assign to attributes of the config, not to its items."""
        known, config = {**self.options, **self.hidden_options}, self._internal_dict
        return Options({k: getattr(config, k, v) for k, v in known.items()})

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        """Return the classes that the config is meant for: ours where there is one."""
        names = dict.fromkeys([cls.__name__, *cls._compatibles])
        found = [ADAPTED.get(name) or getattr(diffusers, name, None) for name in names]
        return [known for known in found if known]

    def set_times(self, backend: Any, host: np.ndarray, device: Any) -> None:
        """Set the timesteps, on a device."""
        super().set_times(backend, single(host), device)

    def show(self, host: np.ndarray) -> Array:
        """Return a host table in torch."""
        return super().show(single(host))

    def fresh_noise(self, backend: Any, device: Any) -> tuple[Any, int | None]:
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
    ready = True  # a run over all training steps, as in training loops
    timeline: Timeline | None
    run: Run | None
    _planned: Options | None = None  # the options that the plan was made with
    _given: Array = None  # the timesteps of `set_timesteps`, whatever is shown now
    _levels_shown: tuple[Any, Array, list[float]] = (None, None, [])  # of a plan, and as they were

    def set_times(self, backend: Any, host: np.ndarray, device: Any) -> None:
        """Set the timesteps, on a device."""
        super().set_times(backend, host, device)
        self._given, self._planned = self._timesteps, self.filled_config

    def required(self) -> Timeline:
        """Return the entries of the run, of all training steps without `set_timesteps`."""
        shown = self.timesteps if self.timeline is None else None
        timeline: Timeline = super().required()
        if shown is not None:
            self._timesteps, self._planned = shown, self.filled_config
        return timeline

    def _planned_over(self, grid: Grid, **options: Any) -> Timeline:
        """Return the entries over a grid with the present configuration, and options beside it."""
        self._planned, recipe = self.filled_config, self.recipe()
        others = {name: v for name, v in options.items() if name not in recipe.options}
        timeline: Timeline = self.timeline_of(recipe.over(grid, **others))
        return timeline

    @property
    def timesteps(self) -> Array:
        """Model times, one per evaluation.

        They may be replaced: by the last of them, by a copy of another dtype, or by others, for
        which a run is planned as `set_timesteps(timesteps=...)` does.
        """
        return super().timesteps

    @timesteps.setter
    def timesteps(self, value: Array) -> None:
        timeline, value = self.required(), torch.as_tensor(value)
        host = value.detach().cpu()
        last = torch.as_tensor(single(timeline.times))[max(len(timeline) - len(host), 0) :]
        if not torch.equal(host, last.to(host.dtype)):
            timeline = self.timeline_of(self.plan(timesteps=host.double().numpy()))
            self._planned = self.filled_config
            self.restart(timeline)
        if len(host) == len(timeline):
            self._given = value
        self._timesteps = value

    @property
    def sigmas(self) -> Array:
        """Noise levels, on the host. What is written into them before the first step counts."""
        timeline, shown, _ = self._levels_shown
        if shown is None or timeline is not self.timeline:
            with torch.inference_mode(False):  # so that they can be written to
                shown = super().sigmas
            self._levels_shown = self.timeline, shown, shown.tolist()
        return shown

    @sigmas.setter
    def sigmas(self, value: Array) -> None:
        _ = self.sigmas
        timeline, shown, were = self._levels_shown
        if tuple(value.shape) != tuple(shown.shape):
            raise ValueError(
                f"sigmas must have the shape {tuple(shown.shape)} of those before, got"
                f" {tuple(value.shape)}; for another number use set_timesteps(sigmas=...)"
            )
        self._levels_shown = timeline, value, were

    def _take_written(self) -> None:
        """Plan with the levels that were written into `sigmas`."""
        timeline, shown, were = self._levels_shown
        if shown is None or timeline is not self.timeline or timeline is None:
            return
        if shown.device.type != "cpu" and self.run is not None:
            return  # looking would wait for the device
        levels = shown.tolist()
        if levels == were:
            return
        if self.run is not None:
            raise ValueError("sigmas were changed during a run; change them before its first step")
        plan = timeline.plan
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
        scale = self.recipe().start(changed[0])
        grid = replace(plan.grid, points=tuple(changed), init_scale=scale)
        plan = make_plan(plan.sampler, grid, plan.prediction, plan.options)
        self.timeline = self.timeline_of(plan)
        self._levels_shown = self.timeline, shown, levels

    @property
    def init_noise_sigma(self) -> float:
        """The scale of the unit normal noise a run starts from."""
        self._take_written()
        scale: float = super().init_noise_sigma
        return scale

    def run_at(self, timestep: Any) -> Run:
        """Return the run at this timestep, with what was written since."""
        if self.run is None:
            self._take_changed()
        self._take_written()
        time = self._on_host(timestep)
        if not self.counts and isinstance(time, ON_HOST):
            self._go_to(float(time))
        run: Run = super().run_at(time)
        return run

    def _take_changed(self) -> None:
        """Plan with the options as they are now, and with what was written into `timesteps`."""
        if self.timeline is None:
            return
        if self._planned != self.filled_config:
            plan, known = self.timeline.plan, samplers.get(self.recipe().sampler).options
            given = {k: v for k, v in plan.options.items() if k in known}
            self.timeline = self._planned_over(plan.grid, **given)
        given = self._given
        if given is not None and given.device.type == "cpu":
            times = torch.as_tensor(single(self.timeline.times)).to(given.dtype)
            if not torch.equal(given, times):
                self.timesteps = self._timesteps

    def _go_to(self, time: float) -> None:
        """Move a run that remembers nothing to a time, wherever it is, as diffusers does."""
        run = self.run
        if run is None or run.plan.layout.slots:
            return
        over = run.entry - run.first >= len(run.plan)
        if over or abs(time - run.plan.rows[run.entry - run.first].point.t) > tolerance(time):
            entry = self.index_for_timestep(time)
            if over or entry < run.first:
                self.run = self.begin_run(entry)

    def _on_host(self, timestep: Any) -> Any:
        """Return the time of a tensor, if that can be had without a wait for the device."""
        given, timeline = self._given, self.timeline
        if not isinstance(timestep, torch.Tensor) or timestep.numel() != 1 or timeline is None:
            return timestep
        if given is not None and same_storage(timestep, given):  # an entry of `timesteps`
            entry = (timestep.storage_offset() - given.storage_offset()) // given.stride(0)
            return float(timeline.times[entry])
        # On a device diffusers looks as well, where it does not count steps.
        if self.counts and timestep.device.type != "cpu":
            return timestep
        time = timestep.item()
        if given is None:  # of all training steps, between which shown times are rounded
            near = min(timeline.times.tolist(), key=lambda t: abs(t - time))
            return near if abs(near - time) < 0.01 else time
        return time

    @property
    def _step_index(self) -> int | None:
        """The same as `step_index`, which code that takes a step apart moves by itself."""
        entry: int | None = self.step_index
        return entry

    @_step_index.setter
    def _step_index(self, entry: int | None) -> None:
        run = self.run
        if entry is None:
            self.run = None
        elif run is None or entry < run.first:
            self.run = self.begin_run(entry)
        else:
            self.run = run._replace(entry=entry, index=None)


class Solved(Stepped):
    """Multistep solvers, whose history pipelines cut and fill in."""

    _history: tuple[Run | None, list[Array]] = (None, [])  # what is shown of a run's history

    @property
    def model_outputs(self) -> list[Array]:
        """The converted outputs, the newest last, in a list whose items may be replaced."""
        if self._history[0] is not self.run or not self._history[1]:
            self._history = self.run, super().model_outputs
        return self._history[1]

    @model_outputs.setter
    def model_outputs(self, outputs: list[Array]) -> None:
        order = self.filled_config.solver_order
        if len(outputs) != order:
            raise ValueError(f"model_outputs must have solver_order={order} items, got {outputs}")
        self._history = self.run, list(outputs)

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
        outputs = self._history[1] if self._history[0] is self.run else []
        Stepped._step_index.fset(self, entry)  # type: ignore[attr-defined]
        self._history = self.run, outputs

    def run_at(self, timestep: Any) -> Run:
        """Return the run, with the outputs in the list that was shown of it."""
        run = super().run_at(timestep)
        seen, outputs = self._history
        if seen is not run or not outputs:
            return run
        slots = run.plan.layout.slots
        memory = list(run.memory) or [None] * len(slots)
        for k, (*place, age) in enumerate(slots):
            if tuple(place) == self.history_slot and outputs[-age] is not None:
                memory[k] = outputs[-age]
        same = len(memory) == len(run.memory) and all(map(operator.is_, memory, run.memory))
        if same or any(array is None for array in memory):
            return run
        self.run = run = run._replace(memory=tuple(memory))  # the same, as the list shows it
        self._history = run, outputs
        return run


def single(host: np.ndarray) -> np.ndarray:
    """Return floats as diffusers has them."""
    return host.astype(np.float32) if host.dtype == np.float64 else host


def same_storage(part: Array, whole: Array) -> bool:
    """Return whether a tensor is a view of another."""
    alike = part.dtype == whole.dtype and part.device == whole.device
    start = whole.untyped_storage().data_ptr()
    return alike and bool(part.untyped_storage().data_ptr() == start)
