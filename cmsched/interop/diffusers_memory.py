"""What diffusers' schedulers keep between two calls of `step`, as memory of a plan's rows.

A habit reads the row that a call takes, and its memory, from the attributes of a scheduler, and
writes there what diffusers' own `step` would. It has no state of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers.utils.torch_utils import randn_tensor

from .. import engine, samplers
from ..plan import Plan
from ..rows import Row

__all__ = [
    "TABLES",
    "Counted",
    "Done",
    "Following",
    "Habit",
    "Latent",
    "Place",
    "Taken",
    "Timed",
    "close",
]

Array = Any
TABLES = ("alphas_cumprod", "final_alpha_cumprod", "timesteps", "num_inference_steps")
Place = tuple[Plan, int, tuple[Array, ...]]  # a plan, the number of its row, and the row's memory


class Taken(NamedTuple):
    """A run: its plan, or None where it is diffusers' to take, and the tables it goes with."""

    plan: Any
    seen: tuple[Any, ...]  # the tables, as they were when the plan was compared with them
    config: dict[str, Any]  # the attributes of the configuration, to which pipelines assign
    times: tuple[float, ...] = ()  # of the plan's evaluations
    slot: tuple[str, int] = ("k", 0)  # kind and rank of the slots of converted outputs
    data: bool = False  # whether these are of x0, and not of eps
    aside: tuple[Any, ...] = ()  # what a habit shows beside, by entry
    wasted: int | None = None  # the row in which diffusers draws noise of no use


class Done(NamedTuple):
    """A row that was taken."""

    plan: Plan
    number: int  # of the row
    row: Row
    sample: Array
    memory: tuple[Array, ...]
    output: Array
    taken: Taken
    following: Array
    kept: tuple[Array, ...]
    x0: Array | None

    @property
    def state(self) -> engine.State:
        """The state that the row took."""
        return engine.State(self.sample, self.memory, self.number)

    def stored(self, kind: str, rank: int = 0) -> Array | None:
        """Return what the row stored in the slot of a kind and rank, if it made anything new."""
        slots = self.plan.layout.slots
        if (kind, rank, 1) not in slots:
            return None
        k = slots.index((kind, rank, 1))
        old = 2 <= self.row.stores_from[k] < 2 + len(slots)
        return None if old else self.kept[k]

    def estimate(self) -> engine.Estimate:
        """Return what the output says."""
        return engine.estimate(self.plan, self.state, self.output)


@dataclass(frozen=True)
class Habit:
    """Of classes that keep nothing: a step is that of its timestep.

    Args:
        tables: the attributes that say where the steps lie.
        last: in runs of so many steps or more, the last one draws noise of no use; None: never.
        dtype: of the noise, if it is not the sample's.
        unlike: with which configurations diffusers does what no sampler here does.
        unheard: arguments of `step` that have no effect there.
    """

    tables: tuple[str, ...] = TABLES
    last: int | None = None
    dtype: Any = None
    unlike: Callable[[Any], bool] = lambda config: False
    unheard: tuple[str, ...] = ()

    # the tables

    def agrees(self, s: Any, core: Any, plan: Plan, near: float) -> bool:
        """Return whether a plan's levels are those of the scheduler's tables."""
        if s.num_inference_steps != len(plan.grid):
            return False
        for name in self.tables:
            if name not in ("timesteps", "num_inference_steps") and hasattr(s, name):
                shown, own = getattr(s, name), getattr(core, name)
                own = torch.as_tensor(own, dtype=torch.float64)
                if shown.shape != own.shape or not close(shown, own, near):
                    return False
        return self.times_agree(s, plan)

    def times_agree(self, s: Any, plan: Plan) -> bool:
        """Return whether the timesteps shown are the plan's, or the last or first of them."""
        times, shown = plan.timesteps.tolist(), s.timesteps.tolist()
        return all(t in times for t in shown)

    def times(self, s: Any, plan: Plan) -> tuple[float, ...]:
        """Return the times by which rows are found."""
        return tuple(plan.timesteps.tolist())

    def aside(self, s: Any, plan: Plan) -> tuple[Any, ...]:
        """Return what is shown beside what is kept, by entry."""
        return ()

    # a row

    def place(self, s: Any, taken: Taken, timestep: Any, sample: Array) -> Place | None:
        """Return the row that a call takes, or None where it is none of the run's."""
        entry = self.entry(s, taken, timestep)
        return None if entry is None else (taken.plan, entry, ())

    def entry(self, s: Any, taken: Taken, timestep: Any) -> int | None:
        """Return the evaluation at a timestep."""
        times = taken.times
        if isinstance(timestep, torch.Tensor):
            if timestep.numel() != 1 or timestep.is_floating_point():
                return None
            known = whose(timestep, s.timesteps, len(times))
            if known is not None:
                return known
            timestep = timestep.item()
        return times.index(timestep) if isinstance(timestep, int) and timestep in times else None

    def wasted(self, plan: Plan) -> int | None:
        """Return the row in which diffusers draws noise of no use."""
        if self.last is None or len(plan) < self.last or plan.rows[-1].draws:
            return None
        stochastic = samplers.get(plan.sampler).trait("stochastic", plan.options)
        return len(plan) - 1 if stochastic else None

    def drawn(self, sample: Array, generator: Any) -> tuple[Any, Array]:
        """Return where a row's noise comes from, or the noise itself as diffusers draws it."""
        each = generator if isinstance(generator, list) else [generator]
        if not all(g is None or isinstance(g, torch.Generator) for g in each):
            return generator, None
        dtype = self.dtype or sample.dtype
        like = {"device": sample.device, "dtype": dtype}
        return None, randn_tensor(sample.shape, generator=generator, **like)

    def keep(self, s: Any, done: Done) -> None:
        """Write what diffusers keeps of a step."""


@dataclass(frozen=True)
class Counted(Habit):
    """Of classes that count their steps, and look a timestep up only for the first one.

    Args:
        fractional: whether `step` refuses whole numbers.
        scaled: whether it says so when the input was not scaled.
    """

    tables: tuple[str, ...] = ("sigmas",)
    fractional: bool = False
    scaled: bool = False

    def agrees(self, s: Any, core: Any, plan: Plan, near: float) -> bool:
        """Return whether a plan's levels are the sigmas."""
        where = core.recipe().discretization
        levels = [where.level(p) for p in plan.grid.points]
        shown = self.levels(s.sigmas.tolist(), len(levels))
        return len(shown) == len(levels) and all(
            math.isclose(a, b, rel_tol=near, abs_tol=1e-9)
            for a, b in zip(shown, levels, strict=True)
        )

    def levels(self, sigmas: list[float], count: int) -> list[float]:
        """Return the levels of the steps and the end among the sigmas."""
        return sigmas

    def times(self, s: Any, plan: Plan) -> tuple[float, ...]:
        """Return the times by which rows are found."""
        return tuple(s.timesteps.tolist())

    def place(self, s: Any, taken: Taken, timestep: Any, sample: Array) -> Place | None:
        """Return the row that a call takes, or None where it is none of the run's."""
        if self.scaled and not s.is_scale_input_called:
            return None
        if self.fractional and (
            not isinstance(timestep, torch.Tensor) or not timestep.is_floating_point()
        ):
            return None
        entry = s._step_index
        if entry is None:
            self.begin(s, taken, timestep)
            entry = s._step_index
        if not 0 <= entry < len(taken.times):
            return None
        return self.at(s, taken, entry, timestep, sample)

    def begin(self, s: Any, taken: Taken, timestep: Any) -> None:
        """Begin to count at a timestep, of equal ones at the second, as diffusers does."""
        known = None
        if getattr(s, "_begin_index", 0) is None and isinstance(timestep, torch.Tensor):
            known = whose(timestep, s.timesteps, len(taken.times))
        if known is None:
            s._init_step_index(timestep)
        else:
            equal = [k for k, t in enumerate(taken.times) if t == taken.times[known]]
            s._step_index = equal[min(1, len(equal) - 1)]

    def at(self, s: Any, taken: Taken, entry: int, timestep: Any, sample: Array) -> Place | None:
        """Return the row of an entry."""
        return taken.plan, entry, ()

    def keep(self, s: Any, done: Done) -> None:
        """Count the step."""
        s._step_index += 1


@dataclass(frozen=True)
class Timed(Counted):
    """Of classes that count, but take the level where a step starts from its timestep."""

    tables: tuple[str, ...] = TABLES

    agrees = Habit.agrees

    def times_agree(self, s: Any, plan: Plan) -> bool:
        """Return whether the timesteps shown are the plan's."""
        shown: list[float] = s.timesteps.tolist()
        return bool(shown == plan.timesteps.tolist())

    def at(self, s: Any, taken: Taken, entry: int, timestep: Any, sample: Array) -> Place | None:
        """Return the row of an entry, if the timestep is that of it."""
        return (taken.plan, entry, ()) if self.entry(s, taken, timestep) == entry else None


@dataclass(frozen=True)
class Latent(Timed):
    """Of LCM, which also sets what its scalings are made with."""

    def keep(self, s: Any, done: Done) -> None:
        """Count the step."""
        s.sigma_data = 0.5
        s._step_index += 1


@dataclass(frozen=True)
class Following(Habit):
    """Of DDPM, whose steps go to the next of the timesteps."""

    times_agree = Timed.times_agree


def close(shown: Array, own: Array, near: float) -> bool:
    """Return whether two tables are equal but for the rounding of float32."""
    shown = shown.detach().cpu().double()
    return bool(torch.all(torch.abs(shown - own) <= near * torch.abs(own) + 1e-9))


def whose(timestep: Array, timesteps: Array, count: int) -> int | None:
    """Return which of `count` timesteps this is a view of, without a wait for their device."""
    if (
        timestep.dtype is not timesteps.dtype
        or timestep.numel() != 1
        or len(timesteps) != count
        or timestep.untyped_storage().data_ptr() != timesteps.untyped_storage().data_ptr()
    ):
        return None
    return int((timestep.storage_offset() - timesteps.storage_offset()) // timesteps.stride(0))
