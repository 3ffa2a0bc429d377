"""Classes that walk over sigmas: midpoints, noise paths, multistep weights, EDM in parts."""

import math

import numpy as np
import pytest
from scheduling import normals

import cmsched

X, EPS, X0 = (normals((2, 3, 4, 5), seed) for seed in range(3))
SDE = "DPMSolverSDEScheduler"


def test_middle_in_log_sigma():
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
        scheduler = getattr(cmsched, name)()
        scheduler.set_timesteps(6)
        np.testing.assert_array_equal(scheduler.sigmas, np.repeat(s, 2)[1:-1])
        np.testing.assert_array_equal(
            scheduler.timesteps[::2], [p.t for p in plan.grid.points[:-1]]
        )


def test_timesteps_of_all_evaluations_or_of_the_starts():
    """A list with the middles is the run it shows; whole numbers are where steps start."""
    for name in ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", SDE):
        scheduler = getattr(cmsched, name)()
        scheduler.set_timesteps(5)
        assert len(scheduler.plan(timesteps=scheduler.timesteps).grid) == 5
        assert len(scheduler.plan(timesteps=scheduler.timesteps.astype("float32")).grid) == 5
        assert len(scheduler.plan(timesteps=[900.0, 500.0, 250.0, 100.0, 0.0]).grid) == 5
        assert len(scheduler.plan(timesteps=[500, 499, 498]).grid) == 3


def test_the_path_of_a_seed_on_every_framework(xp):
    """Also where there is no fresh entropy."""
    results = []
    for asarray in (xp.asarray, np.asarray):
        scheduler = cmsched.DPMSolverSDEScheduler(noise_sampler_seed=7)
        scheduler.set_timesteps(4)
        x = asarray(X, dtype="float64")
        for i, t in enumerate(scheduler.timesteps):
            m = asarray(normals(X.shape, i), dtype="float64")
            x = scheduler.step(m, t, x).prev_sample
        results.append(x)
    np.testing.assert_allclose(xp.numpy(results[0]), results[1], rtol=1e-9, atol=1e-9)


def test_options_of_step_inside_a_step():
    """s_noise is of both noises of a step, which are one path."""
    scheduler = cmsched.DPMSolverSDEScheduler()
    scheduler.set_timesteps(4)
    x = X
    x = scheduler.step(x, scheduler.timesteps[0], x, generator=1, s_noise=1.1).prev_sample
    with pytest.raises(ValueError, match="inside a step"):
        scheduler.step(x, scheduler.timesteps[1], x, generator=1)
    assert scheduler.step_index == 1
    x = scheduler.step(x, scheduler.timesteps[1], x, generator=1, s_noise=1.1).prev_sample
    scheduler.step(x, scheduler.timesteps[2], x, generator=1)


def exact(plan, **options):
    """Samples of Gaussian data of spread 0.5, whose exact estimate is linear in x."""

    def model(x, t):
        level = plan.grid.schedule.at(t=float(t))
        estimate = x / level.scale * (0.25 / (0.25 + level.ratio**2))
        return (x / level.scale - estimate) / level.sigma

    return cmsched.sample(
        model, plan, cmsched.Rng(5).normal((4, 3, 8, 8), dtype="float64"), **options
    )


@pytest.mark.host
def test_one_brownian_path_whatever_the_steps():
    """On one path, runs of more and more steps come together; on independent noise they do not."""
    scheduler = cmsched.DPMSolverSDEScheduler(use_karras_sigmas=True)

    def distances(**options):
        out = [exact(scheduler.plan(n), rng=cmsched.Rng(0, **options)) for n in (20, 80, 320)]
        return [float(np.sqrt(np.mean((a - out[-1]) ** 2))) for a in out[:-1]]

    coarse, fine = distances(path=True)
    assert fine < 0.5 * coarse < 0.5 * 0.2
    assert min(distances()) > 0.4


def test_noise_sampler_seed():
    """The stateful habit follows the seed's path, from any entry on; the seed may be a list."""

    def run(scheduler, first=0, **options):
        scheduler.set_timesteps(5)
        scheduler.set_begin_index(first)
        x = X
        for i, t in enumerate(scheduler.timesteps[first:]):
            m = normals(X.shape, 7 + i)
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


@pytest.mark.parametrize("order", [1, 4, 12])
def test_lms_is_exact_for_polynomials(order):
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


def test_lms_weights_after_a_fall_of_its_order():
    """The newest slopes are kept: x + w0 d0 + w1 d1 with the weights of order 2."""
    scheduler = cmsched.LMSDiscreteScheduler()
    scheduler.set_timesteps(8)
    x, slopes = X * scheduler.init_noise_sigma, []
    for i, t in enumerate(scheduler.timesteps):
        slopes.insert(0, normals(X.shape, 7 + i))
        order = min(i + 1, 4 if i < 5 else 2)
        w = [scheduler.get_lms_coefficient(order, i, k) for k in range(order)]
        expected = x + sum(a * d for a, d in zip(w, slopes, strict=False))
        x = scheduler.step(slopes[0], t, x, order=4 if i < 5 else 2).prev_sample
        np.testing.assert_allclose(x, expected, rtol=1e-11, atol=1e-11 * np.abs(x).max())


@pytest.mark.parametrize(("kind", "sign"), [("epsilon", 1), ("v_prediction", -1)])
def test_edm_table_1(kind, sign):
    """c_skip, c_out, c_in and c_noise of arXiv:2206.00364; the two predictions differ in a sign."""
    scheduler = cmsched.EDMEulerScheduler(prediction_type=kind, sigma_data=0.7)
    s, total = 3.0, 9.0 + 0.49
    np.testing.assert_allclose(
        scheduler.precondition_inputs(X, s), X / math.sqrt(total), rtol=1e-14
    )
    np.testing.assert_allclose(scheduler.precondition_noise(s), [math.log(3.0) / 4], rtol=1e-14)
    x0 = 0.49 / total * X + sign * 3.0 * 0.7 / math.sqrt(total) * EPS
    np.testing.assert_allclose(scheduler.precondition_outputs(X, EPS, s), x0, rtol=1e-12)
    scheduler.set_timesteps(4)
    ramp = (80 ** (1 / 7) + np.linspace(0, 1, 4) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # eq. 5
    np.testing.assert_allclose(scheduler.sigmas, [*ramp, 0.0], rtol=1e-12)
    level = scheduler.sigmas[1]
    scheduler.set_begin_index(1)
    out = scheduler.step(EPS, scheduler.timesteps[1], X)
    found = scheduler.precondition_outputs(X, EPS, level)
    np.testing.assert_allclose(out.pred_original_sample, found, rtol=1e-12)
    half = X.astype("float16")
    assert scheduler.precondition_inputs(half, level).dtype == np.float16


def test_edm_given_estimate_of_the_paper():
    """Without churn at step() both orders are the same."""
    scheduler = cmsched.EDMEulerScheduler()
    scheduler.set_timesteps(4)
    s = scheduler.sigmas
    t, x = scheduler.timesteps[0], X
    found = scheduler.step(EPS, t, x, pred_original_sample=X0).prev_sample
    expected = X0 + s[1] / s[0] * (x - X0)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    with pytest.raises(ValueError, match="shape"):
        scheduler.step(EPS, scheduler.timesteps[1], x, pred_original_sample=x[:1])
    assert scheduler.step_index == 1
