"""Running a plan on arrays: pure functions over any framework.

`step` has two executions. With an int index it follows that row's own terms with Python floats
(eager code: no zero terms, nothing moves to the device). With an array index it gathers weights
from the plan's table (compiled code, and batches whose rows are at different steps). Nothing here
depends on the sampler.
"""

from .batches import join, take
from .checks import check_like
from .draws import draw
from .loops import Step, run, sample, trajectory
from .serving import move, remaining, warm
from .start import init
from .steps import estimate, estimate_x0, model_input, step, step_and_x0
from .transition import Transition, transition
from .values import Estimate, Program, State, scaled

__all__ = [
    "Estimate",
    "Program",
    "State",
    "Step",
    "Transition",
    "check_like",
    "draw",
    "estimate",
    "estimate_x0",
    "init",
    "join",
    "model_input",
    "move",
    "remaining",
    "run",
    "sample",
    "scaled",
    "step",
    "step_and_x0",
    "take",
    "trajectory",
    "transition",
    "warm",
]
