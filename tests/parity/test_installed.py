"""Random options beside the reference as it is installed, in float64 samples, at every step."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from . import runs
from .declaring import ramped
from .differences import active
from .grid import TRAIN, Case, Space
from .spaces import SPACES

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:.*no effect")]

NEAR, LIFTED, COUNT = 5e-5, 1e-9, 15
# the classes over a table of betas
CLASSES = (
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMInverseScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
# what turns the rounding of the reference's own float32 formulas into more: quantiles, a root that
# not every processor rounds alike, eps of an x0 next to the data, schedules that end in 1e-11,
# 1 - sigma at the first levels of a flow
LEFT_OUT = {
    "use_flow_sigmas": (True,),
    "thresholding": (True,),
    "rescale_betas_zero_snr": (True,),
    "prediction_type": ("sample",),
    "beta_schedule": ("exp", "laplace", "sigmoid"),
    "lambda_min_clipped": (-5.1,),
}


def chosen(space: Space, left_out: Mapping[str, Sequence[Any]]) -> list[Case]:
    """Random cases of a class, which both libraries can run."""
    rng, found, left_out = random.Random(space.name), list[Case](), {"n": (TRAIN,), **left_out}
    values = {
        name: [value for value in every if value not in left_out.get(name, ())]
        for name, every in space.factors.items()
    }
    while len(found) < COUNT:
        case = {name: rng.choice(every) for name, every in values.items()}
        if not all(rule.allows(case) for rule in space.rules):
            continue
        if "none" not in {concern.scope for concern in active(space, case)}:
            found.append(case)
    return found


def off(space: Space, case: Case, *, lifted: bool) -> float | None:
    """The largest difference of a step beside what goes into it; None where the reference has none.

    What is subtracted from a large sample keeps its rounding.
    """
    concerns = active(space, case)
    asked = case
    for concern in concerns:
        asked = concern.translate(asked) if concern.translate else asked
    try:
        ref = runs.through_diffusers(space, asked, lifted=lifted)
    except IndexError:  # it begins at the second of two equal timesteps, and runs over the end
        return None
    if not all(torch.isfinite(x).all() for x in ref.samples) or repeats(ref):
        return None
    if case.get("sigma_max") == 0.9 and ramped(case):  # below the last level it may go up
        return None
    mine = runs.through_habit(space, case, ref.draws, lifted=lifted)
    steps = len(ref.samples) - any(c.scope == "but the last step" for c in concerns)
    before, worst = [ref.inputs[0] * ref.init_noise_sigma, *ref.samples], 0.0
    for i in range(steps):
        scale = max(1.0, *(float(x.abs().max()) for x in before[max(i - 1, 0) : i + 2]))
        gap = (mine.samples[i].double() - ref.samples[i].double()).abs().max()
        worst = max(worst, float(gap) / scale)
    return worst


def repeats(run: runs.Run) -> bool:
    """Whether timesteps repeat, of which the reference takes the second."""
    times = run.timesteps.tolist()
    return len(set(times)) < len(times) and run.timesteps.dtype.kind == "i"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of float64 on either side: what is compared are tables and formulas."""
    monkeypatch.setattr(runs, "dtype_of", lambda lifted: torch.float64)


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_off_is_the_reference_in_float32(name: str) -> None:
    """Of all options: with its tables and formulas in float64, and ours, nothing is."""
    space = SPACES[name]
    for case in chosen(space, {}):
        if (off(space, case, lifted=False) or 0.0) > NEAR:
            exact = off(space, case, lifted=True)
            assert exact is not None
            assert exact <= LIFTED, case


def test_most_classes_are_near() -> None:
    """All but two, whose formulas cancel."""
    far = {}
    for name in CLASSES:
        space = SPACES[name]
        each = [off(space, case, lifted=False) or 0.0 for case in chosen(space, LEFT_OUT)]
        far |= {name: max(each)} if max(each) > NEAR else {}
    assert len(far) <= 2, far
