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
    model_input,
    run,
    sample,
    step,
    transition,
)
from .guidance import guide, rescale_guidance, rescale_noise_cfg
from .noise import Rng
from .plan import Plan, Table, make_plan
from .schedulers import *  # noqa: F403
from .schedulers import __all__ as _schedulers

__all__ = [
    "Estimate",
    "Plan",
    "Rng",
    "State",
    "Table",
    "Transition",
    "convert",
    "draw",
    "estimate",
    "guide",
    "init",
    "make_plan",
    "model_input",
    "rescale_guidance",
    "rescale_noise_cfg",
    "run",
    "sample",
    "step",
    "transition",
]
__all__ += _schedulers
