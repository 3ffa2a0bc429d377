"""What only classes in the frame of k-diffusion have: LMS weights and orders, EDM in parts."""

import math
from typing import Any

import pytest
import torch

import cmsched

from . import runs
from .lifted import Draws, reference

pytestmark = pytest.mark.peers

LMS, EDM = "LMSDiscreteScheduler", "EDMEulerScheduler"
X, EPS, X0 = (runs.normal((2, 3, 4, 5), torch.float64, seed) for seed in range(3))


def pair(cls: type, name: str, n: int, **options: Any) -> tuple[Any, Any]:
    """A scheduler of the reference and one of ours, set to n steps."""
    made = cls(**options), getattr(cmsched, name)(**options, compatibility="diffusers", xp="torch")
    for scheduler in made:
        scheduler.set_timesteps(n)
    return made


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}, {"use_beta_sigmas": True}])
def test_lms_coefficients(options: dict[str, Any]) -> None:
    with reference(LMS, Draws(), lifted=True) as cls:
        theirs, mine = pair(cls, LMS, 8, **options)
        for t in range(8):
            for order in range(1, t + 2):
                for k in range(order):
                    found, expected = (s.get_lms_coefficient(order, t, k) for s in (mine, theirs))
                    assert type(found) is float
                    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
        for wrong in ((3, 1, 0), (2, 4, 2), (1, 8, 0), (1, 3, -1)):
            with pytest.raises(ValueError, match=r"order.*current_order"):
                mine.get_lms_coefficient(*wrong)


def test_lms_order_may_fall_and_not_rise() -> None:
    with reference(LMS, Draws(), lifted=True) as cls:
        theirs, mine = pair(cls, LMS, 8)
        x = y = X
        for i, t in enumerate(theirs.timesteps):
            m, order = runs.normal(X.shape, X.dtype, 7, i), 4 if i < 5 else 2
            theirs.scale_model_input(x, t)
            x, y = (s.step(m, t, z, order).prev_sample for s, z in ((theirs, x), (mine, y)))
            assert float((x - y).abs().max()) < 1e-9 * float(x.abs().max())
            if i == 6:
                before = mine.step_index
                with pytest.raises(ValueError, match="earlier steps did not"):
                    mine.step(m, mine.timesteps[7], y, order=3)
                assert mine.step_index == before
    with pytest.raises(ValueError, match="order must be at least 1"):
        mine.plan(4, order=0)
    assert mine.plan(30, order=20).options["solver_order"] == 20


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("churn", [{}, {"s_churn": 20.0, "s_noise": 1.007}])
def test_edm_with_a_given_estimate(kind: str, churn: dict[str, float]) -> None:
    """At every other step; by name and, in the reference's place, by position."""
    options = {"prediction_type": kind, "sigma_data": 0.7}
    draws = Draws()
    with reference(EDM, draws, lifted=True) as cls:
        theirs, mine = pair(cls, EDM, 6, **options)
        x = y = X * float(theirs.init_noise_sigma)
        for i, t in enumerate(theirs.timesteps):
            m, given = runs.normal(X.shape, X.dtype, 7, i), X0 if i % 2 else None
            seen = theirs.scale_model_input(x, t)
            assert torch.allclose(mine.scale_model_input(y, t), seen, rtol=1e-12)
            a = theirs.step(m, t, x, **churn, pred_original_sample=given)
            noise = iter(draws.handed_over())
            b = mine.step(
                *(m, t, y, churn.get("s_churn", 0.0), 0.0, math.inf, churn.get("s_noise", 1.0)),
                *(lambda *_, noise=noise: next(noise), True, given),
            )
            x, y = a.prev_sample, b.prev_sample
            assert torch.allclose(x, y, rtol=1e-9, atol=1e-9)
            if given is not None:
                assert torch.allclose(a.pred_original_sample, X0)
                assert torch.equal(b.pred_original_sample, X0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_edm_in_parts(kind: str) -> None:
    with reference(EDM, Draws(), lifted=True) as cls:
        theirs, mine = pair(cls, EDM, 5, prediction_type=kind, sigma_data=0.7)
        for sigma in (3.0, torch.tensor(3.0), torch.rand(2, 1, 1, 1) + 0.1):
            calls = (
                lambda s, sigma=sigma: s.precondition_inputs(X, sigma),
                lambda s, sigma=sigma: s.precondition_noise(sigma),
                lambda s, sigma=sigma: s.precondition_outputs(X, EPS, sigma),
            )
            for call in calls:
                found, expected = call(mine), call(theirs)
                assert found.shape == expected.shape
                assert torch.allclose(found, expected, rtol=1e-12)
        # and the same numbers in a step
        t, s = mine.timesteps[2], float(mine.sigmas[2])
        plan = mine.plan(5)
        p, q = plan.prediction.linear(plan.points[2])
        assert torch.allclose(p * X + q * EPS, mine.precondition_outputs(X, EPS, s), rtol=1e-12)
        assert math.isclose(float(mine.precondition_noise(s)), float(t), rel_tol=1e-12)


def test_edm_places_on_the_karras_ramp() -> None:
    """With compatibility="diffusers" `sigmas` are what the reference takes them for."""
    places = torch.linspace(0, 1, 7, dtype=torch.float64) ** 1.5
    for end in ("zero", "sigma_min"):
        with reference(EDM, Draws(), lifted=True) as cls:
            theirs, mine = pair(cls, EDM, 5, rho=3.0, final_sigmas_type=end)
            for scheduler in (theirs, mine):
                scheduler.set_timesteps(sigmas=places)
            assert torch.allclose(mine.timesteps, theirs.timesteps, rtol=1e-12)
            assert torch.allclose(mine.sigmas, theirs.sigmas, rtol=1e-12)
            x = y = X * float(theirs.init_noise_sigma)
            for i, t in enumerate(theirs.timesteps):
                m = runs.normal(X.shape, X.dtype, 7, i)
                theirs.scale_model_input(x, t)
                x, y = (s.step(m, t, z).prev_sample for s, z in ((theirs, x), (mine, y)))
            assert torch.allclose(x, y, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="places on the ramp"):
        mine.set_timesteps(sigmas=[80.0, 1.0])
