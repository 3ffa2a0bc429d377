"""What only classes in the frame of k-diffusion have: LMS weights, EDM in parts, noise paths."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import cmsched

from . import runs
from .lifted import Draws, reference

pytestmark = pytest.mark.peers

LMS, EDM, SDE = "LMSDiscreteScheduler", "EDMEulerScheduler", "DPMSolverSDEScheduler"
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


@pytest.mark.parametrize("order", [1, 4, 12])
def test_lms_is_exact_for_polynomials(order: int) -> None:
    """Of a degree below its order: slopes sigma^k, whose integral is known.

    Weights of nodes far from the step cancel, hence the tolerance.
    """
    scheduler = cmsched.LMSDiscreteScheduler(use_exponential_sigmas=True)
    scheduler.set_timesteps(14)
    s, t = scheduler.sigmas, 11
    nodes = s[t - order + 1 : t + 1][::-1]
    w = np.array([scheduler.get_lms_coefficient(order, t, k) for k in range(order)])
    for degree in range(order):
        exact = (s[t + 1] ** (degree + 1) - s[t] ** (degree + 1)) / (degree + 1)
        size = float(np.abs(w) @ nodes**degree)
        assert float(w @ nodes**degree) == pytest.approx(exact, abs=1e-10 * size)


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


def test_edm_given_estimate_of_the_paper() -> None:
    """Without churn at step() both orders are the same."""
    scheduler = cmsched.EDMEulerScheduler()
    scheduler.set_timesteps(4)
    s = scheduler.sigmas
    t, x = scheduler.timesteps[0], X.numpy()
    found = scheduler.step(EPS.numpy(), t, x, pred_original_sample=X0.numpy()).prev_sample
    expected = X0.numpy() + s[1] / s[0] * (x - X0.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    with pytest.raises(ValueError, match="shape"):
        scheduler.step(EPS.numpy(), scheduler.timesteps[1], x, pred_original_sample=x[:1])
    assert scheduler.step_index == 1


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


def exact(plan: cmsched.Plan, **options: Any) -> np.ndarray:
    """Samples of Gaussian data of spread 0.5, whose exact estimate is linear in x."""

    def model(x: np.ndarray, t: Any) -> np.ndarray:
        level = plan.grid.schedule.at(t=float(t))
        estimate = x / level.scale * (0.25 / (0.25 + level.ratio**2))
        return (x / level.scale - estimate) / level.sigma

    return cmsched.sample(
        model, plan, cmsched.Rng(5).normal((4, 3, 8, 8), dtype="float64"), **options
    )


def test_one_brownian_path_whatever_the_steps() -> None:
    """On one path, runs of more and more steps come together; on independent noise they do not."""
    scheduler = cmsched.DPMSolverSDEScheduler(use_karras_sigmas=True)

    def distances(**options: Any) -> list[float]:
        out = [exact(scheduler.plan(n), rng=cmsched.Rng(0, **options)) for n in (20, 80, 320)]
        return [float(np.sqrt(np.mean((a - out[-1]) ** 2))) for a in out[:-1]]

    coarse, fine = distances(path=True)
    assert fine < 0.5 * coarse < 0.5 * 0.2
    assert min(distances()) > 0.4


def test_noise_sampler_seed() -> None:
    """The stateful habit follows the seed's path, from any entry on; the seed may be a list."""

    def run(scheduler: Any, first: int = 0, **options: Any) -> np.ndarray:
        scheduler.set_timesteps(5)
        scheduler.set_begin_index(first)
        x = X.numpy()
        for i, t in enumerate(scheduler.timesteps[first:]):
            m = runs.normal(X.shape, X.dtype, 7, i).numpy()
            x = scheduler.step(m, t, x, **options).prev_sample
        return x

    seeded = cmsched.DPMSolverSDEScheduler(noise_sampler_seed=7)
    plain = cmsched.DPMSolverSDEScheduler()
    path = cmsched.Rng(7, path=True)
    for first in (0, 4):
        expected = run(plain, first, generator=path)
        np.testing.assert_array_equal(run(seeded, first), expected)
        np.testing.assert_array_equal(run(seeded, first), expected)
        assert np.abs(run(plain, first) - expected).max() > 0.1
    assert seeded.last_seed is None
    assert plain.last_seed is not None
    np.testing.assert_array_equal(run(seeded, generator=3), run(plain, generator=3))
    many = cmsched.DPMSolverSDEScheduler(noise_sampler_seed=[7, 8])
    paths = [cmsched.Rng(7, path=True), cmsched.Rng(8, path=True)]
    np.testing.assert_array_equal(run(many), run(plain, generator=paths))
    assert many.noise_sampler_seed == [7, 8]
    for wrong in (-1, 1.5, "a", [1, None]):
        with pytest.raises((TypeError, ValueError), match="noise_sampler_seed"):
            cmsched.DPMSolverSDEScheduler(noise_sampler_seed=wrong)


def test_options_of_step_inside_a_step() -> None:
    """s_noise is of both noises of a step, which are one path."""
    scheduler = cmsched.DPMSolverSDEScheduler()
    scheduler.set_timesteps(4)
    x = X.numpy()
    x = scheduler.step(x, scheduler.timesteps[0], x, generator=1, s_noise=1.1).prev_sample
    with pytest.raises(ValueError, match="inside a step"):
        scheduler.step(x, scheduler.timesteps[1], x, generator=1)
    assert scheduler.step_index == 1
    x = scheduler.step(x, scheduler.timesteps[1], x, generator=1, s_noise=1.1).prev_sample
    scheduler.step(x, scheduler.timesteps[2], x, generator=1)


def test_timesteps_of_all_evaluations_or_of_the_starts() -> None:
    """A list with the middles is the run it shows; whole numbers are where steps start."""
    for name in ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", SDE):
        scheduler = getattr(cmsched, name)()
        scheduler.set_timesteps(5)
        assert len(scheduler.plan(timesteps=scheduler.timesteps).grid) == 5
        assert len(scheduler.plan(timesteps=scheduler.timesteps.astype("float32")).grid) == 5
        assert len(scheduler.plan(timesteps=[900.0, 500.0, 250.0, 100.0, 0.0]).grid) == 5
        assert len(scheduler.plan(timesteps=[500, 499, 498]).grid) == 3


def test_middle_in_log_sigma() -> None:
    """k-diffusion: sqrt(sigma_a sigma_down), where sigma_down is sigma_b or sigma_b^2 / sigma_a."""
    for name, middle in (
        ("KDPM2DiscreteScheduler", lambda a, b: math.sqrt(a * b)),
        (SDE, lambda a, b: math.sqrt(a * b)),
        ("KDPM2AncestralDiscreteScheduler", lambda a, b: math.sqrt(a * b**2 / a)),
    ):
        plan = getattr(cmsched, name)().plan(6)
        s = [p.sigma for p in plan.grid.points]
        for i in range(5):
            assert plan.points[2 * i].sigma == s[i]
            assert plan.points[2 * i + 1].sigma == pytest.approx(middle(s[i], s[i + 1]), rel=1e-12)
        assert len(plan) == 11
