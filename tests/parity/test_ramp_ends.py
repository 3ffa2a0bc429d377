"""sigma_min and sigma_max: the ends of ramps, in files of other classes too."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import cmsched

from . import runs
from .lifted import Draws, reference

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:.*no effect")]

SVD = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "use_karras_sigmas": True,
    "sigma_min": 0.0485,
    "sigma_max": 124.8983,
}
DISCRETE = {**SVD, "timestep_type": "discrete", "use_karras_sigmas": False}
DISCRETE |= {"sigma_min": 0.05, "sigma_max": 10.0}
SOLVERS = ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"]
SOLVERS += ["DEISMultistepScheduler", "UniPCMultistepScheduler"]
OWN = ["EulerDiscreteScheduler", "UniPCMultistepScheduler"]  # which have these options themselves
CLASSES = [*SOLVERS, "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"]
CLASSES += ["KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"]
# whose Karras ramp has the schedule's ends in the reference
DEAF = ("LMSDiscreteScheduler", "DPMSolverSDEScheduler")
RAMPS = ("karras", "exponential", "beta")


def pair(name: str, config: dict[str, Any], ramp: str, mode: str = "diffusers") -> tuple[Any, Any]:
    """A scheduler of the reference and ours, handed the file of another class, after 8 steps."""
    switches = {f"use_{each}_sigmas": each == ramp for each in RAMPS}
    with reference(name, Draws(), lifted=True) as cls, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = cls.from_config(config, **switches)
        theirs.set_timesteps(8)
        mine = getattr(cmsched, name).from_config(config, **switches, compatibility=mode)
        mine.set_timesteps(8, xp="torch")
    return theirs, mine


def levels(scheduler: Any) -> np.ndarray:
    """The different levels above 0, increasing."""
    found = np.sort(np.asarray(scheduler.sigmas, dtype=np.float64))
    found = found[found > 0]
    return found[np.insert(np.diff(found) > 1e-9 * found[1:], 0, True)]


@pytest.mark.parametrize(("config", "ramp"), [*((DISCRETE, r) for r in RAMPS), (SVD, "karras")])
@pytest.mark.parametrize("name", CLASSES)
def test_ramps_heed_the_ends_of_a_file(name: str, config: dict[str, Any], ramp: str) -> None:
    theirs, mine = pair(name, config, ramp)
    np.testing.assert_allclose(levels(mine), levels(theirs), rtol=1e-9)
    assert torch.allclose(mine.timesteps.double(), theirs.timesteps.double(), atol=1e-6)
    assert mine.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=1e-9)
    ends = levels(theirs)[-1], levels(theirs)[0]
    heeds = ends == pytest.approx((config["sigma_max"], config["sigma_min"]))
    assert heeds != (name in DEAF and ramp == "karras")


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("name", CLASSES)
def test_ramps_heed_them_by_the_paper_too(name: str, ramp: str) -> None:
    """Every one of them: they are in the published file."""
    _, mine = pair(name, DISCRETE, ramp, "paper")
    points = mine.timeline.plan.grid.points
    assert (points[0].ratio, points[-2].ratio) == pytest.approx((10.0, 0.05), rel=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("ramp", RAMPS)
def test_solvers_step_along_them(name: str, ramp: str) -> None:
    theirs, mine = pair(name, DISCRETE, ramp)
    x = y = runs.normal((2, 3, 4, 5), torch.float64, 0)
    with reference(name, Draws(), lifted=True):
        for t, s in zip(theirs.timesteps[:-1], mine.timesteps[:-1], strict=True):
            m = torch.tanh(x)
            x, y = theirs.step(m, t, x).prev_sample, mine.step(m, s, y).prev_sample
            assert torch.allclose(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CLASSES)
def test_they_survive_the_way_through_a_class(name: str) -> None:
    cls = getattr(cmsched, name)
    there = cls.from_config(DISCRETE)
    assert (there.config.sigma_min, there.config.sigma_max) == (0.05, 10.0)
    back = cmsched.EulerDiscreteScheduler.from_config(there.config)
    assert (back.config.sigma_min, back.config.sigma_max) == (0.05, 10.0)
    assert ("sigma_min" in cls().config) == (name in OWN)


@pytest.mark.parametrize("mode", ["paper", "diffusers"])
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", *SOLVERS[:2]])
def test_a_ramp_below_the_last_level_ends_where_it_does(name: str, mode: str) -> None:
    """And does not go up to the schedule's own lowest level."""
    cls = getattr(cmsched, name)
    options = {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True, "sigma_min": 0.002}
    points = cls(**options, compatibility=mode).plan(6).grid.points
    assert points[-1].ratio == pytest.approx(0.002)
