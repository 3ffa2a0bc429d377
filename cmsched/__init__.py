"""cmsched: diffusion, consistency and flow-matching schedulers for any array framework.

Every sampler is written once, as the loop its paper prints, and traced to a small float64 table
before the loop starts; a step is then one linear combination of arrays, pure, on NumPy, PyTorch,
JAX, CuPy or any array-API namespace.
"""

from typing import TYPE_CHECKING, Any

from . import schedulers
from .checks import nearest
from .conversion import convert
from .engine import (
    Estimate,
    State,
    Step,
    Transition,
    draw,
    estimate,
    init,
    join,
    model_input,
    move,
    remaining,
    run,
    sample,
    step,
    take,
    trajectory,
    transition,
    warm,
)
from .grids import Grid
from .guidance import guide, rescale_guidance
from .noise import Rng
from .plan import Plan, make_plan
from .predictions import Prediction
from .recipe import Recipe
from .samplers import register
from .schedules import Point, make_schedule
from .stacks import Stack, stack
from .tables import Table

if TYPE_CHECKING:
    from .schedulers.typed import *  # noqa: F403

__version__ = "0.1.0"

# of what `schedulers` names these are not for users
HIDDEN = {"CLASSES", "ConfigMixin", "SchedulerMixin", "DPMSolverMultistepInverse"}
LATER = [name for name in schedulers.__all__ if name not in HIDDEN]  # loaded when asked for

__all__ = [
    "Estimate",
    "Grid",
    "Plan",
    "Point",
    "Prediction",
    "Recipe",
    "Rng",
    "Stack",
    "State",
    "Step",
    "Table",
    "Transition",
    "convert",
    "draw",
    "estimate",
    "guide",
    "init",
    "join",
    "make_plan",
    "make_schedule",
    "model_input",
    "move",
    "register",
    "remaining",
    "rescale_guidance",
    "run",
    "sample",
    "stack",
    "step",
    "take",
    "trajectory",
    "transition",
    "warm",
]
__all__ += LATER


if not TYPE_CHECKING:  # where a name that is not here is an error

    def __getattr__(name: str) -> Any:
        if name not in LATER:
            hint = nearest(name, __all__, 0.8)
            hint = hint if "mean" in hint else ""
            if name.endswith("Scheduler"):
                hint += "; docs/schedulers.md lists those of diffusers that are not here"
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
        value = getattr(schedulers, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*globals(), *LATER]
