"""Linear multistep methods in eps."""

import numpy as np
import pytest
import torch

from .. import runs
from ..declaring import EPS, X, both, close, differs, ours, quick, theirs
from ..grid import GIVEN, Case, Space, count
from ..lifted import Draws, reference
from .first_order import DDIM_STRIDE
from .shared import (
    LAST_STEP_OF_LENGTH_ZERO,
    LIMITS,
    NO_SUCH_RUN,
    ONE_LINSPACE_STEP,
    PREDICTIONS,
    REJECTED_OPTIONS,
    WHICH_STEP,
)

PNDM, IPNDM = ("PNDMScheduler",), ("IPNDMScheduler",)


def plain(space: Space, case: Case, mode: str = "diffusers"):
    """The plan of a case."""
    return runs.plan_of(space, case, mode)


ONE_LINSPACE_STEP.concerns(
    PNDM, where=lambda space, case: case["n"] == 1 and case["timestep_spacing"] == "linspace"
)
