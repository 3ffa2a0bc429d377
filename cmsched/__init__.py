"""cmsched: diffusion, consistency and flow-matching schedulers for any array framework.

Every sampler is written once, as the loop its paper prints, and traced to a small float64 table before the loop starts;
a step is then one linear combination of arrays, pure, on NumPy, PyTorch, JAX, CuPy or any array-API namespace.
"""

from .engine import Estimate, State, draw, estimate, init, model_input, run, sample, step
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
    "draw",
    "estimate",
    "init",
    "make_plan",
    "model_input",
    "run",
    "sample",
    "step",
]
__all__ += _schedulers
