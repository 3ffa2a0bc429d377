"""What each of diffusers' classes keeps between two calls of `step`, and how its rows are found.

`HABITS` is the table: a class that is not in it takes diffusers' own steps. A habit has no state.
"""

from dataclasses import dataclass
from typing import Any

import torch

from ..plan import Plan
from .diffusers_memory import (
    TABLES,
    Counted,
    Done,
    Following,
    Habit,
    Latent,
    Place,
    Taken,
    Timed,
    close,
)

__all__ = ["HABITS"]

Array = Any


def within(plan: Plan, index: int, sample: Array, find: Any) -> Place | None:
    """Return the row of a number with its memory, of which `find` knows what each slot holds."""
    slots = plan.layout.slots
    if not index or not slots:
        return plan, index, (sample,) * len(slots)  # read by no first row
    memory, shape, dtype = [], sample.shape, sample.dtype
    for k, slot in enumerate(slots, start=2):
        value = find(*slot)
        if getattr(value, "dtype", None) is not dtype or value.shape != shape:
            if any([k in sources for _, sources, *_ in plan.rows[index].program]):
                return None
            value = sample
        memory.append(value)
    return plan, index, tuple(memory)


def begun_late(plan: Plan, entry: int, seen: int) -> tuple[Plan, int]:
    """Return the plan and row of an entry of a run that has taken `seen` steps."""
    most = max((age for *_, age in plan.layout.slots), default=0)
    return (plan, entry) if entry == seen or seen >= most else (plan.skip(entry - seen), seen)


@dataclass(frozen=True)
class History(Counted):
    """Of multistep solvers, which keep converted outputs, the newest last."""

    def agrees(self, s: Any, core: Any, plan: Plan, near: float) -> bool:
        """Return whether a plan's levels are the sigmas, and it has as many steps."""
        same = s.num_inference_steps == len(s.timesteps) == len(plan)
        return same and super().agrees(s, core, plan, near)

    def seen(self, s: Any) -> int:
        """Return how many outputs are kept."""
        return int(s.lower_order_nums)

    def at(self, s: Any, taken: Taken, entry: int, timestep: Any, sample: Array) -> Place | None:
        """Return the row of an entry, if what is kept can be of the steps before."""
        seen = self.seen(s)
        if seen > entry:
            return None
        plan, index = begun_late(taken.plan, entry, seen)
        outputs, slot = s.model_outputs, taken.slot

        def find(kind: str, rank: int, age: int) -> Array | None:
            return outputs[-age] if (kind, rank) == slot else self.base(s)

        return within(plan, index, sample, find)

    def base(self, s: Any) -> Array | None:
        """Return the sample that is kept."""
        return s.sample

    def keep(self, s: Any, done: Done) -> None:
        """Keep the converted output."""
        self.keep_output(s, done)
        s.lower_order_nums = min(s.lower_order_nums + 1, len(s.model_outputs))
        s._step_index += 1

    def keep_output(self, s: Any, done: Done) -> None:
        """Put the converted output at the end of those kept."""
        outputs = s.model_outputs
        outputs[:-1] = outputs[1:]
        outputs[-1] = self.converted(done)

    def converted(self, done: Done) -> Array:
        """Return what the output says of x0, or of eps."""
        kept = done.stored(*done.taken.slot)
        if kept is None:
            found = done.estimate()
            kept = found.x0 if done.taken.data else found.eps
        return kept


@dataclass(frozen=True)
class Singlestep(History):
    """Of singlestep solvers, which also keep the sample that a step began with."""

    def seen(self, s: Any) -> int:
        """Return how many outputs are kept."""
        return sum(output is not None for output in s.model_outputs)

    def keep(self, s: Any, done: Done) -> None:
        """Keep the converted output, and the sample where a step begins."""
        self.keep_output(s, done)
        if min(s.order_list[s._step_index], self.seen(s)) == 1:
            s.sample = done.sample
        s._step_index += 1


@dataclass(frozen=True)
class Corrected(History):
    """Of UniPC, which keeps where the step before began, and times and orders beside."""

    def at(self, s: Any, taken: Taken, entry: int, timestep: Any, sample: Array) -> Place | None:
        """Return the row of an entry, if what is kept can be of the steps before."""
        if s.solver_p or (s.last_sample is None) != (s.lower_order_nums == 0):
            return None
        placed = super().at(s, taken, entry, timestep, sample)
        if placed is not None:
            s.timestep_list[:] = [*s.timestep_list[1:], timestep]
        return placed

    def base(self, s: Any) -> Array | None:
        """Return the sample that the last step began with."""
        return s.last_sample

    def keep(self, s: Any, done: Done) -> None:
        """Keep the converted output, the corrected sample and the order."""
        i, c, slots = s._step_index, s.config, done.plan.layout.slots
        base = done.stored("k", max((rank for kind, rank, _ in slots if kind == "k"), default=0))
        if base is None and i and i - 1 not in s.disable_corrector and s.last_sample is not None:
            base = s.multistep_uni_c_bh_update(  # which no later row reads
                self.converted(done),
                last_sample=s.last_sample,
                this_sample=done.sample,
                order=s.this_order,
            )
        left = len(s.timesteps) - i if c.lower_order_final else c.solver_order
        s.this_order = min(c.solver_order, left, s.lower_order_nums + 1)
        s.last_sample = done.sample if base is None else base
        super().keep(s, done)


@dataclass(frozen=True)
class TwoStages(Counted):
    """Of methods of two evaluations a step, which keep what the first one has to do with.

    Args:
        base: the attribute that is None where a step begins.
    """

    base: str = "sample"

    def levels(self, sigmas: list[float], count: int) -> list[float]:
        """Return the levels of the steps and the end among the sigmas."""
        return [*sigmas[:1], *sigmas[1::2]][:count]

    def at(self, s: Any, taken: Taken, entry: int, timestep: Any, sample: Array) -> Place | None:
        """Return the row of an entry, if it is that evaluation of its step."""
        steps = taken.plan.steps
        begins = not entry or steps[entry] != steps[entry - 1]
        if begins != (getattr(s, self.base) is None):
            return None
        if begins:
            return taken.plan, entry, (sample,) * len(taken.plan.layout.slots)  # not read
        return within(taken.plan, entry, sample, lambda kind, rank, age: self.kept(s, kind))

    def kept(self, s: Any, kind: str) -> Array | None:
        """Return what is kept in a slot of this kind."""
        return s.sample

    def begins(self, done: Done) -> bool:
        """Return whether the row was the first one of its step."""
        steps, i = done.plan.steps, done.number
        return not i or steps[i] != steps[i - 1]

    def keep(self, s: Any, done: Done) -> None:
        """Keep the sample inside a step."""
        s.sample = done.sample if self.begins(done) else None
        s._step_index += 1


@dataclass(frozen=True)
class Heun(TwoStages):
    """Of Heun's method, which also keeps the slope and the length of the step.

    Args:
        single: whether what is kept is float32, whatever the sample.
    """

    base: str = "dt"
    single: bool = False

    def at(self, s: Any, taken: Taken, entry: int, timestep: Any, sample: Array) -> Place | None:
        """Return the row of an entry, if it is that evaluation of its step."""
        if self.single and sample.dtype is not torch.float32:
            return None
        return super().at(s, taken, entry, timestep, sample)

    def aside(self, s: Any, plan: Plan) -> tuple[Any, ...]:
        """Return the lengths between levels."""
        return tuple((s.sigmas[1:] - s.sigmas[:-1]).unbind())

    def kept(self, s: Any, kind: str) -> Array | None:
        """Return what is kept in a slot of this kind."""
        return s.sample if kind == "x" else s.prev_derivative

    def keep(self, s: Any, done: Done) -> None:
        """Keep sample, slope and length inside a step."""
        begins = self.begins(done)
        s.dt = s.prev_derivative = None
        if begins:
            i = s._step_index
            s.dt = done.taken.aside[i]
            slope = done.stored("k")
            if slope is None:
                x0, sample = done.estimate().x0, done.sample
                slope = (sample - x0) / s.sigmas[i]
            s.prev_derivative = slope
        super().keep(s, done)


@dataclass(frozen=True)
class Ancestral(TwoStages):
    """Of KDPM2 ancestral, which keeps the length of the first part."""

    def aside(self, s: Any, plan: Plan) -> tuple[Any, ...]:
        """Return the lengths of first parts."""
        levels = torch.tensor([p.ratio for p in (*plan.points, plan.grid.points[-1])])
        return tuple((levels[1:] - levels[:-1]).unbind())

    def keep(self, s: Any, done: Done) -> None:
        """Keep sample and length."""
        if self.begins(done):
            s.dt = done.taken.aside[s._step_index]
        super().keep(s, done)


@dataclass(frozen=True)
class Slopes(Counted):
    """Of linear multistep methods, which keep a list of slopes, the newest last.

    Args:
        kept: the name of the list.
        most: how many stay in it; None: all.
        late: whether a run that begins late has a first step of order 1.
    """

    kept: str = "ets"
    most: int | None = None
    late: bool = True

    def at(self, s: Any, taken: Taken, entry: int, timestep: Any, sample: Array) -> Place | None:
        """Return the row of an entry, if the list can be of the steps before."""
        slopes, plan = getattr(s, self.kept), taken.plan
        seen, needed = len(slopes), max((age for *_, age in plan.layout.slots), default=0)
        if seen > entry or (not self.late and seen < min(entry, needed)):
            return None
        plan, index = begun_late(plan, entry, min(seen, needed))

        def find(kind: str, rank: int, age: int) -> Array | None:
            return slopes[-age] if age <= seen else None

        return within(plan, index, sample, find)

    def keep(self, s: Any, done: Done) -> None:
        """Keep the slope."""
        slope = done.stored("k")
        slopes = getattr(s, self.kept)
        slopes.append(done.estimate().eps if slope is None else slope)
        if self.most is not None and len(slopes) > self.most:
            slopes.pop(0)
        s._step_index += 1


@dataclass(frozen=True)
class Improved(Slopes):
    """Of iPNDM, whose levels are called betas."""

    tables: tuple[str, ...] = ("betas", "alphas")

    def agrees(self, s: Any, core: Any, plan: Plan, near: float) -> bool:
        """Return whether a plan's levels are the betas."""
        levels = torch.tensor([p.sigma for p in plan.grid.points], dtype=torch.float64)
        same = s.betas.shape == levels.shape and close(s.betas, levels, near)
        return same and len(plan) > 1  # one step divides by the alpha of noise alone


@dataclass(frozen=True)
class Pseudo(Timed):
    """Of PNDM, which counts its calls and keeps outputs, the newest last."""

    def place(self, s: Any, taken: Taken, timestep: Any, sample: Array) -> Place | None:
        """Return the row that a call takes, or None where it is none of the run's."""
        count, plan, times = s.counter, taken.plan, taken.times
        entry = self.entry(s, taken, timestep)
        if count >= len(times) or entry is None or times[entry] != times[count]:
            return None
        ages = self.past(s, plan, count)
        if ages is None:
            return None
        base, total = s.cur_sample, s.cur_model_output

        def find(kind: str, rank: int, age: int) -> Array | None:
            if plan.sampler == "plms":
                return base if rank else ages.get(age)
            return [ages.get(1), ages.get(2), ages.get(3), base, total][rank]

        return within(plan, count, sample, find)

    def past(self, s: Any, plan: Plan, count: int) -> dict[int, Array] | None:
        """Return the outputs kept by their age, if they can be those of the calls before."""
        if plan.sampler == "plms":
            expected = min(count, 1) if count < 2 else min(count - 1, 4)
        else:
            expected = min(-(-count // 4), 3) if count <= 12 else min(3 + count - 12, 4)
        if len(s.ets) != expected:
            return None
        return {age: s.ets[-age] for age in range(1, len(s.ets) + 1)}

    def keep(self, s: Any, done: Done) -> None:
        """Keep the output."""
        count = s.counter
        kept = done.stored("k")
        if done.plan.sampler == "pndm" and count < 12:
            if count % 4 == 0:
                s.ets.append(kept)
                s.cur_sample = done.stored("k", 3)
            s.cur_model_output = 0 if count % 4 == 3 else done.stored("k", 4)
        elif done.plan.sampler == "plms" and count == 1:
            s.cur_sample = None
        else:
            kept = done.output.clone() if kept is None else kept
            s.ets = [*s.ets[-3:], kept]
            if done.plan.sampler == "plms" and not count:
                s.cur_sample = done.sample
        s.counter += 1


def says_x0(config: Any) -> bool:
    """Return whether the network says x0."""
    return bool(config.prediction_type == "sample")


def learns_all(config: Any) -> bool:
    """Return whether the network says a variance, of which others say the logarithm."""
    return bool(config.variance_type == "learned")


def projects(config: Any) -> bool:
    """Return whether estimates are asked to be clipped, which TCD has options for, and no code."""
    return bool(config.clip_sample or config.thresholding)


def jumps_upward(config: Any) -> bool:
    """Return whether a flow told 1 - sigma jumps along a velocity of the other sign."""
    return bool(config.stochastic_sampling and config.invert_sigmas)


def mixes_frames(config: Any) -> bool:
    """Return whether a flow's samples are read by the v of others."""
    return bool(config.use_flow_sigmas and config.prediction_type == "v_prediction")


# of the classes whose steps are rows here; the others are diffusers' alone: DPM-Solver++ SDE, whose
# time is its Brownian tree's, and those whose loop the caller puts together
HABITS: dict[str, Habit] = {
    "CMStochasticIterativeScheduler": Counted(last=2, fractional=True, scaled=True),
    "CogVideoXDDIMScheduler": Habit(unheard=("eta", "use_clipped_model_output")),
    "DDIMInverseScheduler": Habit((*TABLES, "initial_alpha_cumprod")),
    "DDIMParallelScheduler": Habit(last=1),
    "DDIMScheduler": Habit(last=1),
    "DDPMParallelScheduler": Following(unlike=learns_all),
    "DDPMScheduler": Following(unlike=learns_all),
    "DEISMultistepScheduler": History(unlike=mixes_frames),
    "DPMSolverMultistepInverseScheduler": History(unlike=mixes_frames),
    "DPMSolverMultistepScheduler": History(last=1, dtype=torch.float32, unlike=mixes_frames),
    "DPMSolverSinglestepScheduler": Singlestep(last=1, unlike=mixes_frames),
    "EDMEulerScheduler": Counted(fractional=True, scaled=True),
    "EulerAncestralDiscreteScheduler": Counted(
        last=1, fractional=True, scaled=True, unlike=says_x0
    ),
    "EulerDiscreteScheduler": Counted(fractional=True, scaled=True),
    "FlowMatchEulerDiscreteScheduler": Counted(last=1, fractional=True, unlike=jumps_upward),
    "FlowMatchHeunDiscreteScheduler": Heun(fractional=True, single=True),
    "HeunDiscreteScheduler": Heun(),
    "IPNDMScheduler": Improved(),
    "KDPM2AncestralDiscreteScheduler": Ancestral(unlike=says_x0),
    "KDPM2DiscreteScheduler": TwoStages(unlike=says_x0),
    "LCMScheduler": Latent(),
    "LMSDiscreteScheduler": Slopes(kept="derivatives", most=4, late=False, scaled=True),
    "PNDMScheduler": Pseudo(),
    "TCDScheduler": Timed(unlike=projects),
    "UniPCMultistepScheduler": Corrected(unlike=mixes_frames),
}
