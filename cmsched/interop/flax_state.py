"""States and outputs of the Flax schedulers: pytrees whose structure never changes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from .. import schedulers
from ..backends import pytree
from ..plan import Plan
from ..tables import Table

__all__ = [
    "CommonSchedulerState",
    "FlaxKarrasVeOutput",
    "FlaxSchedulerOutput",
    "FlaxSchedulerState",
    "FlaxSdeVeOutput",
]

Array = Any
PAST = 4  # the past outputs that PNDM's state shows
WARM = 12  # evaluations of its Runge-Kutta steps
SOLVERS = ("dpm_multistep", "dpmpp_multistep", "unipc")


class CommonSchedulerState(NamedTuple):
    """What the betas say at every training step, arrays (num_train_timesteps,)."""

    alphas: Array
    betas: Array
    alphas_cumprod: Array

    @classmethod
    def create(cls, scheduler: Any) -> "CommonSchedulerState":
        """Return that of a scheduler's betas."""
        return scheduler.create_state().common  # type: ignore[no-any-return]


@dataclass(frozen=True)
class FlaxSchedulerState:
    """Where a loop stands; made by `create_state` and `set_timesteps`.

    What a class does not have is None. `plan`, `num_inference_steps` and `training` are static, and
    None before `set_timesteps`; the rest are arrays.
    """

    plan: Plan | None
    num_inference_steps: int | None
    training: bool | None = None
    common: CommonSchedulerState | None = None
    init_noise_sigma: Array | None = None  # the scale of the unit normals that a loop starts from
    timesteps: Array | None = None  # one per evaluation; before `set_timesteps` all training steps
    sigmas: Array | None = None
    final_alpha_cumprod: Array | None = None
    schedule: Array | None = None  # of KarrasVe: levels, increasing
    discrete_sigmas: Array | None = None  # of ScoreSdeVe: levels, increasing
    alpha_t: Array | None = None  # of the training steps, increasing
    sigma_t: Array | None = None
    lambda_t: Array | None = None
    prk_timesteps: Array | None = None  # of PNDM: those of its Runge-Kutta steps
    plms_timesteps: Array | None = None  # and those after them
    linear_timesteps_weights: Array | None = None  # of FlowMatch: of the loss, one a timestep
    table: Table | None = None
    index: Array | None = None  # the column of the table that the next step is at
    memory: tuple[Array, ...] | None = None  # the stored arrays; None until the shape is known

    @classmethod
    def create(cls, **fields: Any) -> "FlaxSchedulerState":
        """Return a state without a run; `create_state` of a scheduler makes all its fields."""
        return cls(None, 0, training=False, **fields)

    def replace(self, **changes: Any) -> "FlaxSchedulerState":
        """Return the state with other values of these fields.

        `ets` and `model_outputs` may be given as well: the stored arrays take their newest entries.

        Raises:
            TypeError: there is no such field.
        """
        for name in ("ets", "model_outputs"):
            if name in changes:
                changes["memory"] = self._remembering(changes.pop(name))
        if unknown := sorted(changes.keys() - _NAMES):
            raise TypeError(f"the state has no field {', '.join(unknown)}; it has {_FIELDS}")
        other = object.__new__(type(self))  # much faster than dataclasses.replace
        other.__dict__.update(self.__dict__)
        other.__dict__.update(changes)
        return other

    # the reference's running values, which are not fields but read out of these

    @property
    def step_index(self) -> Array | None:
        """The number of the entry of `timesteps` that the next step is at, int32 of shape ()."""
        if self.index is None or self.table is None:
            return None
        return self.table.row_numbers[self.index] - 1

    @property
    def counter(self) -> Array | None:
        """Of PNDM: how many steps were taken, in a run from the first one."""
        return self.step_index if self._sampler in ("pndm", "plms") else None

    @property
    def ets(self) -> Array | None:
        """Of PNDM: its past outputs, (4, *shape), the newest last.

        Those that no later step looks at are 0: the oldest one, and all that there are not yet.
        """
        if self.counter is None or not self.memory:
            return None
        count = self.counter - (self.counter > 1)  # the second evaluation of PLMS is not kept
        if self._sampler == "pndm":
            done = self.counter
            count = jnp.where(done < WARM, (done + 3) // 4, done - WARM + 3)
        past = [jnp.where(k < count, m, 0) for k, m in enumerate(self.memory[: PAST - 1])]
        return jnp.stack([jnp.zeros_like(past[0]), *past[::-1]])

    @property
    def model_outputs(self) -> Array | None:
        """Of DPM-Solver and UniPC: past outputs converted, (solver_order, *shape), newest last.

        Those that no later step looks at are 0.
        """
        if self._sampler not in SOLVERS or self.memory is None:
            return None
        order = self.plan.options["solver_order"]  # type: ignore[union-attr]
        past = [*self.memory[:order]]
        if not past:
            return None
        return jnp.stack([*[jnp.zeros_like(past[0])] * (order - len(past)), *past[::-1]])

    @property
    def _sampler(self) -> str | None:
        return None if self.plan is None else self.plan.sampler

    def _remembering(self, outputs: Array) -> tuple[Array, ...]:
        """Return the stored arrays with these outputs, the newest last, as the newest ones."""
        if self.table is None:
            raise ValueError("the state has no timesteps yet: call set_timesteps before")
        count = len(self.table.layout.slots)
        newest = [*outputs][::-1][: min(count, PAST - 1 if self.counter is not None else count)]
        held = self.memory or tuple(jnp.zeros_like(newest[0]) for _ in range(count))
        newest = [new.astype(old.dtype) for new, old in zip(newest, held, strict=False)]
        return (*newest, *held[len(newest) :])


_FIELDS = [field.name for field in fields(FlaxSchedulerState)]
_NAMES = {*_FIELDS}
_STATIC, _ARRAYS = _FIELDS[:3], _FIELDS[3:]
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
        prev_sample: the sample at the next point.
        state: the state for the next step.
    """

    fields: ClassVar[tuple[str, ...]] = ("prev_sample", "state")


class FlaxKarrasVeOutput(schedulers.SchedulerOutput):
    """Output of `FlaxKarrasVeScheduler.step` and `step_correct`; derivative is d x / d sigma."""

    fields = ("prev_sample", "derivative", "state")


class FlaxSdeVeOutput(FlaxSchedulerOutput):
    """Output of `FlaxScoreSdeVeScheduler`; the mean is without the noise of the step.

    `step_correct` has no mean, and a tuple of the two others.
    """

    fields = ("prev_sample", "state", "prev_sample_mean")

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that there are, in order."""
        return tuple(value for value in super().to_tuple() if value is not None)


def _register(cls: type[schedulers.SchedulerOutput]) -> None:
    names = cls.fields
    pytree(
        cls,
        lambda out: (tuple(getattr(out, name) for name in names), None),
        lambda _, values: cls(*values),
    )


def output_class(scheduler: str) -> type[FlaxSchedulerOutput]:
    """Return the class of what `step` of a scheduler returns, by the scheduler's name."""
    name = {"FlaxLMSDiscreteScheduler": "FlaxLMSScheduler"}.get(scheduler, scheduler)
    name = name.replace("FlowMultistep", "Flow") + "Output"
    space: Mapping[str, Any] = {"__doc__": f"Output of `{scheduler}.step`."}
    cls = type(name, (FlaxSchedulerOutput,), dict(space))
    _register(cls)
    return cls


for _output in (FlaxSchedulerOutput, FlaxKarrasVeOutput, FlaxSdeVeOutput):
    _register(_output)
