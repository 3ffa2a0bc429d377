"""The digits and their exact networks, against direct float64 formulas; the samples they make."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

import cmsched

pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra: demo)")

from cmsched.demo import digits

pytestmark = pytest.mark.slow
BANDWIDTH = 0.1
LEVELS = [(1.0, 80.0), (1.0, 3.0), (0.5, 0.8), (0.99, 0.1), (1.0, 0.002), (0.0, 1.0), (0.07, 0.99)]
TOLERANCE = {"float64": 1e-12, "float32": 3e-6}


def noisy(alpha, sigma, number=48, seed=0):
    """Samples x = alpha x0 + sigma eps of the smoothed digits."""
    rng = np.random.default_rng(seed)
    shape = (number, 1, 8, 8)
    x0 = digits.images()[rng.integers(0, 1797, number)] + BANDWIDTH * rng.standard_normal(shape)
    return alpha * x0 + sigma * rng.standard_normal(shape)


def direct_denoiser(x, alpha, sigma):
    """The posterior mean from all squared distances, float64."""
    flat, images = x.reshape(len(x), 64), digits.images().reshape(-1, 64)
    s2 = sigma**2 + (alpha * BANDWIDTH) ** 2
    logits = -((flat[:, None] - alpha * images) ** 2).sum(-1) / (2 * s2)
    weights = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    gain = alpha * BANDWIDTH**2 / s2
    means = images + gain * (flat[:, None] - alpha * images)
    return np.einsum("bk,bkd->bd", weights, means).reshape(x.shape)


def rms(difference):
    return np.sqrt(np.mean(difference**2, axis=(1, 2, 3)))


def nearest(x):
    """The nearest training image of each sample, and its root mean square distance."""
    flat, images = x.reshape(len(x), 64), digits.images().reshape(-1, 64)
    index = np.argmin((images**2).sum(1) - 2 * flat @ images.T, axis=1)
    return index, rms(x - digits.images()[index])


def make(xp, plan, estimate, number, seed=0, dtype="float32"):
    """Samples of a plan as a host array, with portable noise."""
    noise = cmsched.Rng(seed).normal((number, 1, 8, 8), xp=xp.xp, dtype=dtype)
    return xp.numpy(cmsched.sample(digits.network(plan, estimate), plan, noise, rng=seed))


@pytest.fixture(scope="module")
def denoiser():
    return digits.Denoiser()


def test_images_are_scaled_and_read_only():
    images, labels = digits.images(), digits.labels()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min(), images.max()) == (-1.0, 1.0)
    assert sorted(set(labels.tolist())) == list(range(10))
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_denoiser_is_the_posterior_mean(xp, denoiser, alpha, sigma, dtype):
    x = noisy(alpha, sigma).astype(dtype).astype(np.float64)
    got = denoiser(xp.asarray(x, dtype), alpha, sigma)
    assert got.dtype == getattr(xp.xp, dtype)
    expected = direct_denoiser(x, alpha, sigma)
    np.testing.assert_allclose(xp.numpy(got), expected, rtol=0, atol=TOLERANCE[dtype])


def test_denoiser_takes_one_level_per_sample(xp, denoiser):
    x = np.concatenate([noisy(alpha, sigma, 1) for alpha, sigma in LEVELS])
    alpha, sigma = np.array(LEVELS).T
    got = xp.numpy(denoiser(xp.asarray(x), xp.asarray(alpha), xp.asarray(sigma)))
    for i, level in enumerate(LEVELS):
        np.testing.assert_allclose(got[i], direct_denoiser(x[i : i + 1], *level)[0], atol=1e-13)


def test_half_precision_is_computed_in_float32(xp, denoiser):
    if not hasattr(xp.xp, "float16"):
        pytest.skip(f"{xp.name} has no float16")
    x = noisy(0.5, 0.8).astype(np.float16)
    got = denoiser(xp.asarray(x), 0.5, 0.8)
    assert got.dtype == xp.xp.float16
    expected = direct_denoiser(x.astype(np.float64), 0.5, 0.8)
    np.testing.assert_allclose(xp.numpy(got), expected, rtol=1e-3, atol=1e-3)


def test_other_shapes_are_refused(xp, denoiser):
    with pytest.raises(ValueError, match=r"\(batch, 1, 8, 8\)"):
        denoiser(xp.asarray(np.zeros((2, 64))), 1.0, 1.0)
    assert denoiser(xp.asarray(np.zeros((0, 1, 8, 8))), 1.0, 1.0).shape == (0, 1, 8, 8)


def test_bandwidth_must_be_positive():
    with pytest.raises(ValueError, match="bandwidth=0"):
        digits.Denoiser(bandwidth=0)


@pytest.mark.parametrize("sigma", [80.0, 2.0])
def test_consistency_function_has_converged(denoiser, sigma):
    x = noisy(1.0, sigma, 128)
    once, twice = (denoiser.consistency(steps=n)(x, 1.0, sigma) for n in (40, 80))
    scale = np.sqrt(np.mean(twice**2))
    assert np.max(rms(once - twice)) < 1e-3 * scale


@cache
def direct_flow(start, end, steps=400):
    """Noisy samples u at one level, and where the probability flow takes them by another.

    du / dsigma = (u - D(u, sigma)) / sigma, in small midpoint steps.
    """
    u = first = noisy(1.0, start, 4)
    for a, b in pairwise(np.geomspace(start, end, steps + 1)):
        middle = np.sqrt(a * b)
        v = u + (middle - a) / a * (u - direct_denoiser(u, 1.0, a))
        u = u + (b - a) / middle * (v - direct_denoiser(v, 1.0, middle))
    return first, u


def test_consistency_function_solves_the_probability_flow(xp, denoiser):
    first, last = direct_flow(0.75, 0.05)
    consistent = denoiser.consistency(sigma_min=0.05)
    got = consistent(xp.asarray(0.8 * first), 0.8, 0.8 * 0.75)
    np.testing.assert_allclose(xp.numpy(got), last, rtol=0, atol=2e-5)


def test_consistency_function_is_the_identity_at_its_end(xp, denoiser):
    x = noisy(0.9, 0.9 * 0.002, 8)
    got = denoiser.consistency(sigma_min=0.002)(xp.asarray(x), 0.9, 0.9 * 0.002)
    np.testing.assert_allclose(xp.numpy(got), x / 0.9, rtol=0, atol=1e-13)


# The networks for a plan, and what the schedulers make of them


KARRAS = {"use_karras_sigmas": True}
DETERMINISTIC = [
    (cmsched.DDIMScheduler, {"clip_sample": False}),
    (cmsched.DDIMScheduler, {"clip_sample": False, "prediction_type": "v_prediction"}),
    (cmsched.DDIMScheduler, {"clip_sample": False, "prediction_type": "sample"}),
    (cmsched.EulerDiscreteScheduler, {}),
    (cmsched.EulerDiscreteScheduler, {"prediction_type": "v_prediction"}),
    (cmsched.HeunDiscreteScheduler, {}),
    (cmsched.DPMSolverMultistepScheduler, KARRAS),
    (cmsched.LCMScheduler, {}),
    (cmsched.CMStochasticIterativeScheduler, {"clip_denoised": False}),
]


@pytest.mark.parametrize(("cls", "options"), DETERMINISTIC)
def test_network_gives_the_exact_estimate(xp, denoiser, cls, options):
    plan = cls(**options).plan(num_inference_steps=4)
    function = denoiser
    if cls is cmsched.LCMScheduler:
        function = denoiser.consistency(sigma_min=plan.grid.schedule.ratio_at(0))
    elif cls is cmsched.CMStochasticIterativeScheduler:
        function = denoiser.consistency(sigma_min=0.002)
    model = digits.network(plan, denoiser)
    noise = cmsched.Rng(1).normal((3, 1, 8, 8), xp=xp.xp, dtype="float64")
    state = cmsched.init(plan, noise)
    for point in plan.points:
        output = model(*cmsched.model_input(plan, state))
        estimate = xp.numpy(cmsched.estimate(plan, state, output).x0)
        exact = xp.numpy(function(state.sample, point.alpha, point.sigma))
        np.testing.assert_allclose(estimate, exact, rtol=0, atol=1e-9)
        state = cmsched.step(plan, state, output, rng=0)


def test_network_finds_the_level_of_each_row(xp, denoiser):
    """Rows at different evaluations of one plan, by their model times."""
    plan = cmsched.EulerDiscreteScheduler().plan(num_inference_steps=5)
    model = digits.network(plan, denoiser)
    x = noisy(1.0, 1.0, 5)
    times = xp.asarray(np.asarray(plan.timesteps))
    together = xp.numpy(model(xp.asarray(x), times))
    for i in range(5):
        alone = xp.numpy(model(xp.asarray(x[i : i + 1]), times[i, ...]))
        np.testing.assert_allclose(together[i], alone[0], rtol=0, atol=1e-11)


def test_learned_variance_gets_its_channels(denoiser):
    plan = cmsched.DDPMScheduler(variance_type="learned_range").plan(num_inference_steps=3)
    output = digits.network(plan, denoiser)(noisy(0.1, 0.9, 2), np.asarray(999))
    assert output.shape == (2, 2, 8, 8)
    assert not output[:, 1:].any()


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_samples_are_new_digits(xp, denoiser, beta_schedule):
    """All classes, and at the right distance from their nearest training image: the bandwidth."""
    scheduler = cmsched.DPMSolverMultistepScheduler(beta_schedule=beta_schedule, **KARRAS)
    plan = scheduler.plan(num_inference_steps=20)
    index, distance = nearest(make(xp, plan, denoiser, 256))
    assert np.bincount(digits.labels()[index], minlength=10).min() >= 10
    assert np.mean(distance) == pytest.approx(BANDWIDTH, rel=0.1)


@pytest.mark.parametrize(
    ("cls", "options", "steps"),
    [
        (cmsched.CMStochasticIterativeScheduler, {"clip_denoised": False}, 1),
        (cmsched.CMStochasticIterativeScheduler, {"clip_denoised": False}, 2),
        (cmsched.LCMScheduler, {}, 4),
    ],
)
def test_consistency_models_make_sharp_digits_in_few_steps(xp, denoiser, cls, options, steps):
    plan = cls(**options).plan(num_inference_steps=steps)
    index, distance = nearest(make(xp, plan, denoiser, 64))
    assert len(set(digits.labels()[index].tolist())) == 10
    assert np.mean(distance) == pytest.approx(BANDWIDTH, rel=0.1)
    assert np.max(distance) < 2 * BANDWIDTH


def test_network_traces_under_jit(jax, denoiser):
    plan = cmsched.EulerDiscreteScheduler().plan(num_inference_steps=4)
    noise = cmsched.Rng(0).normal((2, 1, 8, 8), xp="jax", dtype="float64")
    model = digits.network(plan, digits.Denoiser())  # its constants are first placed in the trace

    def whole(noise):
        return cmsched.sample(model, plan, noise)

    compiled = jax.jit(whole)(noise)
    np.testing.assert_allclose(compiled, whole(noise), rtol=0, atol=1e-11)
    assert np.all(np.isfinite(jax.grad(lambda x: whole(x).sum())(noise)))


# Tokens, and samplers that choose their levels


@pytest.fixture(scope="module")
def tokens():
    return cmsched.VQDiffusionScheduler(num_vec_classes=18).plan(timesteps=[99, 60, 20, 0])


def direct_token_posterior(x, alpha, beta, blur):
    """p(x_0 | x_t) of one image's tokens: Bayes' rule over images, pixel by pixel."""
    levels = np.round((digits.images().reshape(-1, 64) + 1) * 8).astype(int)
    prior = (1 - blur) * np.eye(17)[levels] + blur / 17  # (images, 64, 17)
    joint = np.empty_like(prior)
    for i, token in enumerate(x):
        seen = np.ones(17) if token == 17 else alpha * (np.arange(17) == token) + beta
        joint[:, i] = prior[:, i] * seen
    log_weight = np.log(joint.sum(axis=2)).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    return np.einsum("k,kil->li", weight, joint / joint.sum(axis=2, keepdims=True))


@pytest.mark.parametrize("blur", [0.01, 0.3])
def test_token_network_is_the_posterior(xp, tokens, blur):
    levels = np.round((digits.images()[:3].reshape(-1, 64) + 1) * 8).astype(int)
    rng = np.random.default_rng(0)
    for t, masked in zip(tokens.timesteps, (1.0, 0.6, 0.3, 0.0), strict=True):
        noise = rng.integers(0, 17, levels.shape)
        x = np.where(rng.random(levels.shape) < 0.1, noise, levels)
        x = np.where(rng.random(levels.shape) < masked, 17, x)
        model = digits.token_network(tokens, blur, dtype="float64")
        got = np.exp(xp.numpy(model(xp.asarray(x), xp.asarray(np.asarray(t)))))
        alpha, beta, _ = tokens.cumulative(t)
        for one, expected in zip(got, x, strict=True):
            np.testing.assert_allclose(
                one, direct_token_posterior(expected, alpha, beta, blur), atol=1e-10
            )


def test_levels_that_a_sampler_chooses():
    """An adaptive sampler asks at levels of its own; the network answers at each exactly."""
    options = {"schedule": "vp_sde", "spacing": "karras", "final_sigmas_type": "sigma_min"}
    plan = cmsched.Scheduler(sampler="dpm_adaptive", **options).plan(1)
    denoiser = digits.Denoiser()
    model = digits.network(plan, denoiser)
    for t in (0.9, 0.4123, 0.02):
        at = plan.grid.schedule.at(t=t)
        x = noisy(at.alpha, at.sigma, 4)
        eps = model(x, np.asarray(t))
        expected = (x - at.alpha * denoiser(x, at.alpha, at.sigma)) / at.sigma
        np.testing.assert_allclose(eps, expected, rtol=0, atol=1e-10)
