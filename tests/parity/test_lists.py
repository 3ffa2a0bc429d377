"""Explicit lists, and runs of as many steps as there are training steps."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import cmsched

from . import runs
from .lifted import Draws, reference

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:.*no effect")]

BOTH = ("paper", "diffusers")
X = runs.normal((2, 3, 4, 5), torch.float64, 0)
TO_ZERO = [1.0, 0.75, 0.5, 0.25, 0.0]
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
EULER, UNIPC = "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"
SOLVERS = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    UNIPC,
)


def loop(scheduler: Any, **options: Any) -> list[torch.Tensor]:
    """The samples of a run whose network says tanh(x)."""
    x, out = X, []
    for t in scheduler.timesteps:
        x = scheduler.step(torch.tanh(x), t, x, **options).prev_sample
        out.append(x)
    return out


def pair(name: str, call: Callable[[Any], None], **options: Any) -> tuple[Any, Any]:
    """A scheduler of the reference and one of ours, set to a run by a call."""
    with reference(name, Draws(), lifted=True) as cls:
        theirs = cls(**options)
        call(theirs)
        mine = getattr(cmsched, name)(**options, compatibility="diffusers", xp="torch")
        call(mine)
    return theirs, mine


# lists of a flow that end at 0


@pytest.mark.parametrize(
    ("name", "options", "call"),
    [
        (EULER, {"shift": 3.0}, {}),
        (EULER, {"shift": 3.0, "invert_sigmas": True}, {}),
        (EULER, {"shift": 3.0, "shift_terminal": 0.1}, {}),
        (EULER, {"use_dynamic_shifting": True}, {"mu": 0.7}),
        (UNIPC, FLOW, {}),
        (UNIPC, {**FLOW, "final_sigmas_type": "sigma_min"}, {}),
    ],
)
def test_a_list_to_zero_is_shifted_and_asked_there_too(
    name: str, options: dict[str, Any], call: dict[str, Any]
) -> None:
    def set_to(scheduler: Any) -> None:
        with np.errstate(divide="ignore"):
            scheduler.set_timesteps(sigmas=np.array(TO_ZERO), **call)

    theirs, mine = pair(name, set_to, **options)
    assert len(mine.timesteps) == 5
    # the reference makes this list one of float32 before it is shifted
    assert torch.allclose(mine.sigmas, theirs.sigmas.double(), atol=1e-6)
    assert torch.allclose(mine.timesteps.double(), theirs.timesteps.double(), atol=1e-3)
    with reference(name, Draws(), lifted=True):
        expected = loop(theirs)
    found = loop(mine)
    for x, y in list(zip(found, expected, strict=True))[: 5 if name == EULER else 3]:
        assert torch.allclose(x, y, rtol=1e-6, atol=1e-6)
    length = float(mine.sigmas[-2] - mine.sigmas[-1])
    assert torch.equal(found[-1], found[-2]) == (length == 0.0)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_of_a_flow_are_finite_at_zero(name: str, order: int) -> None:
    """Where the reference, if it takes a list, is not."""
    scheduler = getattr(cmsched, name)(solver_order=order, **FLOW, compatibility="diffusers")
    scheduler.set_timesteps(sigmas=TO_ZERO, xp="torch")
    assert len(scheduler.timesteps) == 5
    found = loop(scheduler)
    assert all(torch.isfinite(x).all() for x in found)
    assert torch.equal(found[-1], found[-2])
    if name == "DEISMultistepScheduler":  # its other lists end where their last step starts
        return
    shorter = getattr(cmsched, name)(solver_order=order, **FLOW, compatibility="diffusers")
    shorter.set_timesteps(sigmas=TO_ZERO[:-1], xp="torch")
    assert torch.allclose(loop(shorter)[-1], found[-1])


@pytest.mark.parametrize(("name", "options"), [(EULER, {"shift": 3.0}), (UNIPC, FLOW)])
def test_by_the_paper_it_has_the_levels_and_says_so(name: str, options: dict[str, Any]) -> None:
    scheduler = getattr(cmsched, name)(**options)
    with pytest.warns(UserWarning, match="shift has no effect on sigmas that"):
        scheduler.set_timesteps(sigmas=TO_ZERO)
    np.testing.assert_allclose(scheduler.sigmas, TO_ZERO, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unshifted = {k: v for k, v in options.items() if "shift" not in k}
        getattr(cmsched, name)(**unshifted).set_timesteps(sigmas=TO_ZERO)


# levels given back


RAMPS = ({}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, FLOW)


@pytest.mark.parametrize("final", ["sigma_min", "zero"])
@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("options", RAMPS, ids=["spaced", "karras", "exponential", "flow"])
@pytest.mark.parametrize(
    "name", [*SOLVERS, "EulerDiscreteScheduler", "DPMSolverMultistepInverseScheduler"]
)
def test_levels_given_back_are_the_same_run(
    name: str, options: dict[str, Any], mode: str, final: str
) -> None:
    """Also where the last one stands there twice; the reference shifts a flow's lists to 0."""
    cls = getattr(cmsched, name)
    options = {**options, "final_sigmas_type": final}
    chosen = {k: v for k, v in options.items() if k in cls.options}
    if len(chosen) < len(options) - 1 or (options.keys() >= FLOW.keys() and final == "zero"):
        return
    first, again = (cls(**chosen, compatibility=mode, xp="torch") for _ in range(2))
    first.set_timesteps(5)
    again.set_timesteps(sigmas=first.sigmas)
    assert torch.allclose(again.sigmas, first.sigmas, rtol=1e-9)
    assert len(again.timesteps) == len(first.timesteps)
    for x, y in zip(loop(again), loop(first), strict=True):
        assert torch.allclose(x, y, rtol=1e-6, atol=1e-6)


def test_euler_takes_its_own_levels_as_the_reference_does() -> None:
    options = {"final_sigmas_type": "sigma_min"}
    with reference("EulerDiscreteScheduler", Draws(), lifted=True) as cls:
        theirs = cls(**options)
        theirs.set_timesteps(5)
        given = theirs.sigmas
        theirs.set_timesteps(sigmas=given)
        mine = cmsched.EulerDiscreteScheduler(**options, compatibility="diffusers", xp="torch")
        mine.set_timesteps(sigmas=given)
        assert mine.num_inference_steps == theirs.num_inference_steps == 5
        # the list itself is made one of float32 there
        assert torch.allclose(mine.sigmas, theirs.sigmas.double(), rtol=1e-6)
        for s in (theirs, mine):
            s.scale_model_input(X, s.timesteps[0])
        for x, y in zip(loop(mine), loop(theirs), strict=True):
            assert torch.allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", BOTH)
def test_a_level_repeated_elsewhere_is_a_mistake(mode: str) -> None:
    scheduler = cmsched.EulerDiscreteScheduler(compatibility=mode)
    with pytest.raises(ValueError, match="strictly decreasing"):
        scheduler.plan(sigmas=[10.0, 5.0, 5.0, 1.0])
    with pytest.raises(ValueError, match="strictly decreasing"):
        scheduler.plan(sigmas=[10.0, 5.0, 5.0, 5.0])


# as many steps as training steps


@pytest.mark.parametrize("n", [40, 60])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", SOLVERS)
def test_repeated_timesteps_are_steps_of_length_zero(name: str, order: int, n: int) -> None:
    """The reference's samples up to the first of them, and finite ones after that.

    UniPC corrects its sample there, and a stage of the singlestep solver is taken anew.
    """
    options = {"num_train_timesteps": 40, "solver_order": order}
    theirs, mine = pair(name, lambda s: s.set_timesteps(n), **options)
    times = theirs.timesteps.tolist()
    assert mine.timesteps.tolist() == times
    assert len(set(times)) < n
    repeated = [i for i in range(n - 1) if times[i] == times[i + 1]]
    found, x = loop(mine), X
    assert all(torch.isfinite(x).all() for x in found)
    with reference(name, Draws(), lifted=True):
        for t, y in zip(theirs.timesteps[: repeated[0]], found, strict=False):
            x = theirs.step(torch.tanh(x), t, x).prev_sample
            assert torch.allclose(x, y, rtol=1e-9, atol=1e-9)
    if name not in (UNIPC, "DPMSolverSinglestepScheduler"):
        for i in repeated:
            assert torch.allclose(found[i], found[i - 1], rtol=1e-12, atol=1e-12)


def test_the_reference_divides_by_zero_there() -> None:
    """But with order 1, whose last sample is ours."""
    name = "DPMSolverMultistepScheduler"
    for order in (1, 2, 3):
        options = {"num_train_timesteps": 40, "solver_order": order}
        theirs, mine = pair(name, lambda s: s.set_timesteps(40), **options)
        with reference(name, Draws(), lifted=True):
            expected = loop(theirs)[-1]
        if order == 1:
            assert torch.allclose(loop(mine)[-1], expected, rtol=1e-9, atol=1e-9)
        else:
            assert not torch.isfinite(expected).any()


@pytest.mark.parametrize("n", [40, 60])
def test_the_inversion_leaves_repeated_timesteps_out(n: int) -> None:
    name = "DPMSolverMultistepInverseScheduler"
    theirs, mine = pair(name, lambda s: s.set_timesteps(n), num_train_timesteps=40)
    assert mine.timesteps.tolist() == theirs.timesteps.tolist()
    assert mine.num_inference_steps == theirs.num_inference_steps < n
    assert all(torch.isfinite(x).all() for x in loop(mine))


@pytest.mark.parametrize("name", SOLVERS[1:])
def test_by_the_paper_two_equal_levels_are_no_step(name: str) -> None:
    scheduler = getattr(cmsched, name)(num_train_timesteps=40)
    assert len(set(scheduler.plan(40).timesteps.tolist())) == 40
