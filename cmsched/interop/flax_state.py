"""States and outputs of the Flax schedulers: pytrees whose structure never changes."""

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

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


class CommonSchedulerState(NamedTuple):
    """What the betas say at every training step, arrays (num_train_timesteps,)."""

    alphas: Array
    betas: Array
    alphas_cumprod: Array


@dataclass(frozen=True)
class FlaxSchedulerState:
    """Where a loop stands; made by `create_state` and `set_timesteps`.

    What a class does not have is None. `plan` and `num_inference_steps` are static, and None before
    `set_timesteps`; the rest are arrays.
    """

    plan: Plan | None
    num_inference_steps: int | None
    common: CommonSchedulerState | None
    init_noise_sigma: Array  # the scale of the unit normals that a loop starts from
    timesteps: Array | None  # one per evaluation; before `set_timesteps` all training steps
    sigmas: Array | None = None
    final_alpha_cumprod: Array | None = None
    schedule: Array | None = None  # of KarrasVe: levels, increasing
    discrete_sigmas: Array | None = None  # of ScoreSdeVe: levels, increasing
    table: Table | None = None
    index: Array | None = None  # the column of the table that the next step is at
    memory: tuple[Array, ...] | None = None  # the stored arrays; None until the shape is known

    def replace(self, **changes: Any) -> "FlaxSchedulerState":
        """Return the state with other values of these fields."""
        return replace(self, **changes)


_FIELDS = [field.name for field in fields(FlaxSchedulerState)]
_STATIC, _ARRAYS = _FIELDS[:2], _FIELDS[2:]
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
        prev_sample: the sample at the next point, like the sample.
        state: the state for the next step.
    """

    fields = ("prev_sample", "state")


class FlaxKarrasVeOutput(schedulers.SchedulerOutput):
    """Output of `FlaxKarrasVeScheduler.step` and `step_correct`; derivative is d x / d sigma."""

    fields = ("prev_sample", "derivative", "state")


class FlaxSdeVeOutput(schedulers.SchedulerOutput):
    """Output of `FlaxScoreSdeVeScheduler.step_pred`; the mean is without the noise of the step."""

    fields = ("prev_sample", "prev_sample_mean", "state")


def _register(cls: type[schedulers.SchedulerOutput]) -> None:
    pytree(cls, lambda out: (out.to_tuple(), None), lambda _, values: cls(*values))


for _output in (FlaxSchedulerOutput, FlaxKarrasVeOutput, FlaxSdeVeOutput):
    _register(_output)
