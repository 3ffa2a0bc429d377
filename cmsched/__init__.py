"""cmsched: diffusion, consistency and flow-matching schedulers for any array framework.

Every sampler is written once, as the loop its paper prints, and traced to a small float64 table
before the loop starts; a step is then one linear combination of arrays, pure, on NumPy, PyTorch,
JAX, CuPy or any array-API namespace.
"""

from .conversion import convert
from .engine import (
    Estimate,
    State,
    Transition,
    draw,
    estimate,
    init,
    join,
    model_input,
    run,
    sample,
    step,
    take,
    transition,
)
from .guidance import guide, rescale_guidance, rescale_noise_cfg
from .noise import Rng
from .plan import Plan, make_plan
from .schedulers import *  # noqa: F403
from .schedulers import __all__ as _schedulers
from .tables import Stack, Table, stack

__all__ = [
    "Estimate",
    "Plan",
    "Rng",
    "Stack",
    "State",
    "Table",
    "Transition",
    "convert",
    "draw",
    "estimate",
    "guide",
    "init",
    "join",
    "make_plan",
    "model_input",
    "rescale_guidance",
    "rescale_noise_cfg",
    "run",
    "sample",
    "stack",
    "step",
    "take",
    "transition",
]
__all__ += _schedulers
