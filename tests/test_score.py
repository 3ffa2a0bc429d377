"""KarrasVe, ScoreSdeVe, ScoreSdeVp and RePaint: classes whose loop is put together from parts."""

import copy
import math
import pickle

import numpy as np
import pytest
from exact import Gaussian, interpret, normals

import cmsched
from cmsched import (
    KarrasVeScheduler,
    RePaintScheduler,
    ScoreSdeVeScheduler,
    ScoreSdeVpScheduler,
)
from cmsched.noise import standard_normal

CLASSES = (KarrasVeScheduler, ScoreSdeVeScheduler, ScoreSdeVpScheduler, RePaintScheduler)
every_class = pytest.mark.parametrize("cls", CLASSES)
SHAPE = (2, 3, 4, 5)


def normal(*seed, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape)


def queue(xp, dtype="float64"):
    """Noise that is a function of how often it was asked for."""
    asked = []

    def give(shape, _dtype, interval):
        asked.append(None)
        return xp.asarray(normal(99, len(asked), shape=shape), dtype)

    return give


def pictures(xp, dtype="float64"):
    """An image, and a mask of zeros, ones and parts."""
    mask = np.clip(0.5 + normal(5)[:, :1], 0.0, 1.0)
    return {"image": xp.asarray(normal(4), dtype), "mask": xp.asarray(mask, dtype)}


def wavy(x, t):
    """A network that is no function of anything."""
    return 0.3 * x * x - 0.5 * x


def tame(x, t):
    """One that a sample without clipping survives."""
    return 0.4 * x + 0.1


# --- one part of each class, called alike --------------------------------------------------------


def part(scheduler, x, m, entry, generator=None, given=None):
    """Take a step at one of the run's entries; return arrays."""
    if isinstance(scheduler, KarrasVeScheduler):
        levels = [*np.asarray(scheduler.schedule).tolist()[::-1], 0.0]
        hat, sigma = scheduler.add_noise_to_input(x, levels[entry], generator)
        return scheduler.step(m, sigma, levels[entry + 1], hat).to_tuple()
    t = scheduler.timesteps[entry]
    if isinstance(scheduler, RePaintScheduler):
        image, mask = (given or {"image": m, "mask": 0 * m}).values()
        return scheduler.step(m, t, x, image, mask, generator=generator).to_tuple()
    if isinstance(scheduler, ScoreSdeVeScheduler):
        x = scheduler.step_correct(m, x, generator).prev_sample
        return scheduler.step_pred(m, t, x, generator).to_tuple()
    return scheduler.step_pred(m, x, t, generator)


@every_class
def test_a_part_on_every_framework(xp, cls):
    results = []
    for asarray, name in ((xp.asarray, xp.xp), (np.asarray, "numpy")):
        scheduler = cls(xp=name)
        scheduler.set_timesteps(5)
        x, m = asarray(normal(1)), asarray(normal(2))
        held = normal(1), normal(2)
        results.append([part(scheduler, x, m, k, generator=7) for k in (0, 2, 4)])
        for array, before in zip((x, m), held, strict=True):
            np.testing.assert_array_equal(xp.numpy(array) if name != "numpy" else array, before)
    for mine, host in zip(*results, strict=True):
        for a, b in zip(mine, host, strict=True):
            np.testing.assert_allclose(xp.numpy(a), b, rtol=1e-9, atol=1e-9 * np.abs(b).max())


@every_class
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_dtype_is_the_sample_s(xp, cls, dtype):
    if xp.name == "strict" and dtype == "float16":
        return  # the standard has no float16
    options = {} if cls in (RePaintScheduler, ScoreSdeVpScheduler) else {"sigma_max": 20.0}
    runs = []
    for kind in (dtype, "float64"):
        scheduler = cls(**options)
        scheduler.set_timesteps(5)
        x, m = (xp.asarray(normal(k), kind) for k in (1, 2))
        runs.append(part(scheduler, x, m, 2, generator=7))
        assert all(a.dtype == x.dtype for a in runs[-1])
    for narrow, wide in zip(*runs, strict=True):
        wide = xp.numpy(wide)
        error = np.abs(xp.numpy(narrow) - wide).max() / np.abs(wide).max()
        assert error < {"float16": 5e-3, "float32": 5e-6}[dtype]


@every_class
@pytest.mark.parametrize("shape", [(1, 1), (0, 3), (3,), ()], ids=str)
def test_any_shape(xp, cls, shape):
    scheduler = cls(xp=xp.xp)
    scheduler.set_timesteps(4)
    x, m = (xp.asarray(normal(k, shape=shape)) for k in (1, 2))
    for entry in (0, 3):
        assert all(tuple(a.shape) == shape for a in part(scheduler, x, m, entry, generator=7))


@every_class
def test_noise_of_parts(xp, cls):
    """An int gives other noise at every call and the same in another run; fresh entropy is kept."""
    x, m = xp.asarray(normal(1)), xp.asarray(0.1 * normal(2))
    options = {"eta": 1.0} if cls is RePaintScheduler else {}
    options |= {"s_max": 1e6} if cls is KarrasVeScheduler else {}
    scheduler = cls(**options)

    def steps(generator):
        return [xp.numpy(part(scheduler, x, m, 1, generator)[0]) for _ in range(2)]

    scheduler.set_timesteps(5)
    first = steps(7)
    assert not np.allclose(*first)
    scheduler.set_timesteps(5)
    np.testing.assert_array_equal(steps(7), first)
    scheduler.set_timesteps(5)
    assert not np.allclose(steps(8), first)
    if xp.backend == "jax":
        with pytest.raises(ValueError, match="generator="):
            part(scheduler, x, m, 1)
        return
    scheduler.set_timesteps(5)
    drawn = steps(None)
    assert not np.allclose(*drawn)
    seed, device = scheduler.last_seed, None
    from cmsched.backends import resolve

    source = resolve(x).fresh(seed, device)
    scheduler.set_timesteps(5)
    np.testing.assert_array_equal(steps(source), drawn)


@every_class
def test_configurations_and_copies(cls, tmp_path):
    scheduler = cls(compatibility="diffusers")
    scheduler.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert {k: again.config[k] for k in cls.options} == dict(cls.options)
    scheduler.set_timesteps(5)
    x, m = normal(1), normal(2)
    part(scheduler, x, m, 0, generator=7)
    twins = [copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))]
    expected = part(scheduler, x, m, 1, generator=7)
    for twin in twins:
        np.testing.assert_array_equal(part(twin, x, m, 1, generator=7), expected)


# --- Karras-VE -----------------------------------------------------------------------------------


def in_pairs(scheduler, model, x, generator):
    """The loop in the class's documentation."""
    schedule, n = scheduler.schedule, scheduler.num_inference_steps
    churn, low, high = (scheduler.config[name] for name in ("s_churn", "s_min", "s_max"))
    for t in range(n - 1, -1, -1):
        sigma, following = schedule[t], schedule[t - 1] if t > 0 else 0
        added = churn > 0 and low <= float(sigma) <= high  # else a draw, if any, is thrown away
        hat, sigma_hat = scheduler.add_noise_to_input(x, sigma, generator if added else 0)
        out = scheduler.step(model(hat, sigma_hat), sigma_hat, following, hat)
        x = out.prev_sample
        if t > 0:
            again = model(x, following)
            out = scheduler.step_correct(again, sigma_hat, following, hat, x, out.derivative)
            x = out.prev_sample
    return x


@pytest.mark.parametrize("mode", ["paper", "diffusers"])
@pytest.mark.parametrize("options", [{}, {"s_churn": 0.0}, {"s_max": 1e6, "s_min": 0.0}])
def test_karras_parts_are_the_plan(xp, options, mode):
    scheduler = KarrasVeScheduler(**options, sigma_max=20.0, compatibility=mode, xp=xp.xp)
    scheduler.set_timesteps(7)

    def model(x, sigma):
        return -(x - 0.3) * sigma / (sigma**2 + 0.5)

    noise = xp.asarray(normal(1))
    x = in_pairs(scheduler, model, noise * scheduler.init_noise_sigma, queue(xp))
    y = cmsched.run(model, scheduler.plan(7), noise, rng=queue(xp))
    np.testing.assert_allclose(xp.numpy(x), xp.numpy(y), rtol=1e-12, atol=1e-12)


def test_karras_levels():
    """arXiv:2206.00364, table 1: the square roots of times that go from 100^2 to 0.02^2."""
    scheduler = KarrasVeScheduler()
    scheduler.set_timesteps(50)
    times = [100**2 * (0.02**2 / 100**2) ** (i / 49) for i in range(50)]
    np.testing.assert_allclose(scheduler.schedule[::-1], np.sqrt(times), rtol=1e-12)
    np.testing.assert_array_equal(scheduler.timesteps, np.arange(50)[::-1])
    assert KarrasVeScheduler().schedule is None
    x0, z = normal(1), normal(2)
    noisy = scheduler.add_noise(x0, z, [49, 0])
    np.testing.assert_allclose(noisy, x0 + np.array([100, 0.02])[:, None, None, None] * z)


def test_karras_on_gaussian_data():
    """Heun without churn: the exact mean and spread, with an error of second order."""
    data, errors = Gaussian(), []
    for n in (40, 80, 160):
        plan = KarrasVeScheduler(s_churn=0.0).plan(n)
        start = data.marginal(plan.grid.points[0], 3)
        end = interpret(plan, data.estimate, start)[-1]
        errors.append(abs(math.hypot(*end[1:]) / data.std - 1))
    assert errors[0] / errors[1] > 3.0
    assert errors[1] / errors[2] > 3.0
    assert errors[2] < 5e-3


# --- score SDEs ----------------------------------------------------------------------------------


def test_ve_predictor():
    """arXiv:2011.13456, equation 47, and the same inside a plan."""
    scheduler = ScoreSdeVeScheduler(sigma_max=50.0, correct_steps=0)
    scheduler.set_timesteps(6)
    levels = np.array([0.0, *0.01 * (50 / 0.01) ** (np.arange(6) / 5)])
    x, m, z = normal(1), normal(2), normal(3)
    for k, t in enumerate(scheduler.timesteps):
        high, low = levels[6 - k] ** 2, levels[5 - k] ** 2
        out = scheduler.step_pred(m, t, x, generator=lambda *_: z)
        np.testing.assert_allclose(out.prev_sample_mean, x + (high - low) * m, rtol=1e-12)
        noise = math.sqrt(high - low) * (k < 5)
        np.testing.assert_allclose(
            out.prev_sample, x + (high - low) * m + noise * z, rtol=1e-10, atol=1e-12
        )
        state = cmsched.State(x, (), k)
        after = cmsched.step(scheduler.plan(6), state, m, noise=z if k < 5 else None)
        np.testing.assert_allclose(after.sample, out.prev_sample, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cls", [ScoreSdeVeScheduler, ScoreSdeVpScheduler])
def test_a_time_for_each_row(xp, cls):
    """Rows at different times take the steps that they take alone, in a compiled function too."""
    scheduler = cls(xp=xp.xp)
    scheduler.set_timesteps(6)
    x, m = xp.asarray(normal(1)), xp.asarray(normal(2))
    z = xp.asarray(normal(3))
    times = scheduler.timesteps[:2] if xp.name != "strict" else scheduler.timesteps[slice(0, 2)]

    def both(x, m, t):
        found = part_at(scheduler, x, m, t, lambda *_: z)
        return found[0], found[1]

    found = [both(x, m, times)]
    if xp.backend == "jax":
        import jax

        found.append(jax.jit(both)(x, m, times))
    alone = [part_at(scheduler, x, m, float(t), lambda *_: z) for t in xp.numpy(times)]
    for results in found:
        for k in (0, 1):
            for row in (0, 1):
                np.testing.assert_allclose(
                    xp.numpy(results[k])[row], xp.numpy(alone[row][k])[row], rtol=1e-12
                )


def part_at(scheduler, x, m, t, generator):
    if isinstance(scheduler, ScoreSdeVeScheduler):
        return scheduler.step_pred(m, t, x, generator, return_dict=False)
    return scheduler.step_pred(m, x, t, generator)


def test_langevin_settles_where_theory_says():
    """x -> (1 - h / s^2) x + sqrt(2 h) z with h = 2 snr^2 s^4 / v: variance v = s^2 (1 + snr^2)."""
    s, snr = 0.7, 0.4
    scheduler = ScoreSdeVeScheduler(snr=snr)
    x, source = 3.0 * normal(1, shape=(1, 200_000)), np.random.default_rng(3)
    for _ in range(80):
        x = scheduler.step_correct(-x / s**2, x, generator=source).prev_sample
    assert np.var(x) == pytest.approx(s**2 * (1 + snr**2), rel=0.01)
    assert abs(np.mean(x)) < 0.01


def test_ve_samples_gaussian_data():
    """The predictor's spread is off by a first-order error, which Langevin steps take away."""
    mean, std, snr = 0.4, 0.8, 0.1
    low, ratio = 0.01, 30.0 / 0.01

    def score(x, t):
        return (mean - x) / (std**2 + (low * ratio ** float(t)) ** 2)

    def off(n, correct_steps):
        scheduler = ScoreSdeVeScheduler(sigma_max=30.0, correct_steps=correct_steps, snr=snr)
        noise, source = normal(1, shape=(1, 100_000)), np.random.default_rng(2)
        x = cmsched.sample(score, scheduler.plan(n), noise, rng=source)
        assert np.mean(x) == pytest.approx(mean, abs=0.01)  # four standard errors
        return np.std(x) / std - 1

    coarse, fine = off(50, 0), off(100, 0)
    assert 1.6 < coarse / fine < 2.4
    settled = math.sqrt(1 + snr**2) - 1  # of the corrector alone, see above
    for correct_steps in (1, 2):
        assert abs(off(100, correct_steps) - settled) < 0.01 < fine / 3


def test_ve_plan_is_the_published_loop(xp):
    """`run` and the loop of parts, with correctors and the same noise; the result is the mean."""
    scheduler = ScoreSdeVeScheduler(sigma_max=20.0, correct_steps=2, xp=xp.xp)
    scheduler.set_timesteps(5)
    noise, source = xp.asarray(normal(1)), queue(xp)
    x = noise * scheduler.init_noise_sigma
    mean = x
    for t in scheduler.timesteps:
        for _ in range(2):
            x = scheduler.step_correct(wavy(x / 50, t), x, source).prev_sample
        out = scheduler.step_pred(wavy(x / 50, t), t, x, source)
        x, mean = out.prev_sample, out.prev_sample_mean
    plan = scheduler.plan(5)
    for sampled in (cmsched.sample, cmsched.run):
        y = sampled(lambda x, t: wavy(x / 50, t), plan, noise, rng=queue(xp))
        np.testing.assert_allclose(xp.numpy(y), xp.numpy(mean), rtol=1e-9)


def test_a_step_length_for_each_sample(xp):
    """With per_sample a row does not depend on the others; as published all share one length."""
    x, m = normal(1), normal(2)
    z = xp.asarray(normal(3))
    other = m * np.array([1.0, 9.0])[:, None, None, None]
    for per_sample in (True, False):
        scheduler = ScoreSdeVeScheduler(per_sample=per_sample)
        plan = scheduler.plan(3)
        assert plan.options["per_sample"] is per_sample
        rows = [
            xp.numpy(
                scheduler.step_correct(
                    xp.asarray(score), xp.asarray(x), generator=lambda *_: z
                ).prev_sample
            )[0]
            for score in (m, other)
        ]
        assert np.allclose(*rows, rtol=1e-12) == per_sample
    size = 0.15 * np.sqrt(np.mean(xp.numpy(z)[0] ** 2) / np.mean(m[0] ** 2))
    by_hand = x[0] + 2 * size**2 * m[0] + 2 * size * xp.numpy(z)[0]
    scheduler = ScoreSdeVeScheduler(per_sample=True)
    found = scheduler.step_correct(xp.asarray(m), xp.asarray(x), lambda *_: z, return_dict=False)
    np.testing.assert_allclose(xp.numpy(found[0])[0], by_hand, rtol=1e-12)


def test_ve_levels_and_times():
    scheduler = ScoreSdeVeScheduler()
    assert len(scheduler) == len(scheduler.timesteps) == len(scheduler.discrete_sigmas) == 2000
    scheduler.set_timesteps(5, 1e-3)
    np.testing.assert_allclose(scheduler.timesteps, np.linspace(1, 1e-3, 5))
    np.testing.assert_allclose(scheduler.sigmas, 0.01 * 134800 ** np.linspace(1, 1e-3, 5))
    scheduler.set_sigmas(5, sigma_max=10.0)
    np.testing.assert_allclose(scheduler.timesteps, np.linspace(1, 1e-3, 5))
    np.testing.assert_allclose(scheduler.discrete_sigmas, np.geomspace(0.01, 10, 5))
    np.testing.assert_allclose(scheduler.sigmas, 0.01 * 1000 ** np.linspace(1, 1e-3, 5))
    assert scheduler.config.sigma_max == 1348.0
    scheduler.set_sigmas(3)
    assert len(scheduler.timesteps) == len(scheduler.sigmas) == 3
    x0, z = normal(1), normal(2)
    noisy = scheduler.add_noise(x0, z, np.array([0, 2]))
    np.testing.assert_allclose(noisy, x0 + np.array([0.01, 1348])[:, None, None, None] * z)
    drawn = scheduler.add_noise(x0, None, 0)
    again = standard_normal(np.random.default_rng(scheduler.last_seed), x0, 0)
    np.testing.assert_allclose(drawn, x0 + 0.01 * again)


def test_vp_steps_follow_the_grid():
    """x - (f x - g^2 score) dt with f = -beta / 2, g^2 = beta; dt to the next time, or 1 / n."""
    x, m, z = normal(1), normal(2), normal(3)
    for mode in ("paper", "diffusers"):
        scheduler = ScoreSdeVpScheduler(compatibility=mode)
        scheduler.set_timesteps(4)
        times = [*scheduler.timesteps.tolist(), 0.0]
        np.testing.assert_allclose(times[:-1], np.linspace(1, 1e-3, 4))
        for k, t in enumerate(times[:-1]):
            dt = t - times[k + 1] if mode == "paper" else 0.25
            beta = 0.1 + t * 19.9
            std = math.sqrt(1 - math.exp(-0.5 * t**2 * 19.9 - t * 0.1))
            mean = x + (0.5 * beta * x - beta * m / std) * dt
            found = scheduler.step_pred(m, x, t, generator=lambda *_: z)
            np.testing.assert_allclose(found[1], mean, rtol=1e-9, atol=1e-9)
            noise = math.sqrt(beta * dt) * (k < 3)
            np.testing.assert_allclose(found[0], mean + noise * z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["paper", "diffusers"])
def test_vp_converges_to_the_data(mode):
    data, errors = Gaussian(), []
    for n in (100, 400, 1600):
        plan = ScoreSdeVpScheduler(compatibility=mode).plan(n)
        size = 3 + 2 * n
        start = data.marginal(plan.grid.points[0], size)
        end = interpret(plan, data.estimate, start, normals(size))[-1]
        errors.append(max(abs(end[0] / data.mean - 1), abs(math.hypot(*end[1:]) / data.std - 1)))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.03


# --- RePaint -------------------------------------------------------------------------------------

INPAINT = [
    {"jump_length": 2, "jump_n_sample": 3},
    {"jump_length": 1, "jump_n_sample": 2},
    {},
]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("options", INPAINT)
def test_repaint_through_the_pure_interface(xp, options, clip):
    """The plan, the untraced loop, jit, NumPy: one result; where the mask is 1 it is the image."""
    plan = RePaintScheduler(eta=0.5, clip_sample=clip).plan(8, **options)
    noise, given = xp.asarray(normal(1)), pictures(xp)
    x = xp.numpy(cmsched.sample(tame, plan, noise, given=given, rng=0))
    y = xp.numpy(cmsched.run(tame, plan, noise, given=given, rng=0))
    np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-10)
    if xp.backend == "jax":
        import jax

        z = jax.jit(lambda n, g: cmsched.sample(tame, plan, n, given=g, rng=0))(noise, given)
        np.testing.assert_allclose(np.asarray(z), x, rtol=1e-9, atol=1e-10)
    host = pictures(Host)
    mask = np.broadcast_to(host["mask"], SHAPE)
    assert (mask == 1).any()
    assert ((mask > 0) & (mask < 1)).any()
    np.testing.assert_allclose(x[mask == 1], host["image"][mask == 1], rtol=1e-12)
    alone = cmsched.sample(tame, plan, normal(1), given=host, rng=0)
    np.testing.assert_allclose(x, alone, rtol=1e-9, atol=1e-9)


class Host:
    """NumPy, as the `xp` fixture shows a framework."""

    asarray = staticmethod(np.asarray)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("options", [{"jump_length": 1, "jump_n_sample": 3}, {"jump_n_sample": 1}])
def test_repaint_parts_are_the_plan(xp, options, eta):
    """The loop in the class's documentation, where a jump is one step and so one draw."""
    scheduler = RePaintScheduler(eta=eta, xp=xp.xp)
    scheduler.set_timesteps(6, **options)
    noise, given, source = xp.asarray(normal(1)), pictures(xp), queue(xp)
    x, last = noise, 10_000
    for t in xp.numpy(scheduler.timesteps).tolist():
        if t < last:
            out = scheduler.step(tame(x, t), t, x, *given.values(), generator=source)
            x = out.prev_sample
        else:
            x = scheduler.undo_step(x, last, source)
        last = t
    y = cmsched.run(tame, scheduler.plan(6, **options), noise, given=given, rng=queue(xp))
    np.testing.assert_allclose(xp.numpy(x), xp.numpy(y), rtol=1e-10, atol=1e-10)


def test_undoing_steps_gives_the_marginals():
    """From the clean image up: sqrt(alpha_bar) of the image and 1 - alpha_bar of variance."""
    for mode in ("paper", "diffusers"):
        scheduler = RePaintScheduler(compatibility=mode, num_train_timesteps=200)
        scheduler.set_timesteps(20)
        bar = scheduler.alphas_cumprod
        x, draws = np.ones(100_000), queue(Host)
        for t in (0, 10, 20, 30):
            x = scheduler.undo_step(x, t, draws)
            late = 9 if mode == "diffusers" else 0
            assert np.mean(x) == pytest.approx(math.sqrt(bar[t + late]), abs=5e-3)
            assert np.var(x) == pytest.approx(1 - bar[t + late], rel=0.03)


def test_repaint_times():
    """Figure 9 of the paper in small: down, and up again by jump_length at every jump_length."""
    scheduler = RePaintScheduler(num_train_timesteps=60)
    scheduler.set_timesteps(6, jump_length=2, jump_n_sample=2)
    up = [50, 40, 30, 20, 30, 40, 30, 20, 10, 0, 10, 20, 10, 0]
    assert scheduler.timesteps.tolist() == up
    assert scheduler.plan(6, jump_length=2, jump_n_sample=2).timesteps.tolist() == [
        t for k, t in enumerate(up) if k == 0 or t < up[k - 1]
    ]


# --- errors --------------------------------------------------------------------------------------

X = normal(1)
WRONG = {
    "no run": (RePaintScheduler, None, lambda s: s.step(X, 0, X, X, X), "set_timesteps"),
    "no run up": (RePaintScheduler, None, lambda s: s.undo_step(X, 0), "set_timesteps"),
    "no levels": (KarrasVeScheduler, None, lambda s: s.add_noise_to_input(X, 1.0), "set_timesteps"),
    "no times": (ScoreSdeVpScheduler, None, lambda s: s.step_pred(X, X, 1.0), "set_timesteps"),
    "time": (RePaintScheduler, 5, lambda s: s.step(X, 3, X, X, X), r"3 is not one of.*\[800"),
    "time up": (RePaintScheduler, 5, lambda s: s.undo_step(X, "a"), "timestep must be a number"),
    "time of sde": (ScoreSdeVeScheduler, 5, lambda s: s.step_pred(X, 0.3, X), "0.3 is not one of"),
    "times of sde": (ScoreSdeVeScheduler, 5, lambda s: s.step_pred(X, np.ones(3), X), "shape"),
    "output": (ScoreSdeVpScheduler, 5, lambda s: s.step_pred(X[:1], X, 1.0), "output has shape"),
    "image": (RePaintScheduler, 5, lambda s: s.step(X, 0, X, X[:1], X), "image"),
    "mask": (RePaintScheduler, 5, lambda s: s.step(X, 0, X, X, X[:, :2]), "mask"),
    "score": (ScoreSdeVeScheduler, 5, lambda s: s.step_correct(X[:1], X), "model_output has shape"),
    "karras": (KarrasVeScheduler, 5, lambda s: s.step(X[:1], 2.0, 1.0, X), "model_output has"),
    "level": (KarrasVeScheduler, 5, lambda s: s.step(X, "a", 1.0, X), "sigma must be a number"),
    "derivative": (
        KarrasVeScheduler,
        5,
        lambda s: s.step_correct(X, 2.0, 1.0, X, X, X[:1]),
        "derivative has shape",
    ),
    "number": (KarrasVeScheduler, 5, lambda s: s.add_noise(X, X, 5), "whole numbers from 0 to 4"),
    "part": (ScoreSdeVeScheduler, 5, lambda s: s.add_noise(X, X, 0.5), "whole numbers"),
    "steps": (KarrasVeScheduler, 5, lambda s: s.set_timesteps(0), "num_inference_steps"),
    "eps": (ScoreSdeVeScheduler, 5, lambda s: s.set_timesteps(4, 2.0), "sampling_eps"),
    "jump": (RePaintScheduler, 5, lambda s: s.set_timesteps(4, 0), "jump_length"),
    "too many": (RePaintScheduler, 5, lambda s: s.set_timesteps(2000), "more than 1000"),
    "sigmas": (ScoreSdeVeScheduler, 5, lambda s: s.set_sigmas(4, sigma_max=-1.0), "sigma_max"),
}


def held(scheduler):
    """What can change in a scheduler, but for what it keeps of computations."""
    kept = "_steps", "_singles"
    return {k: v if k == "_draws" else id(v) for k, v in vars(scheduler).items() if k not in kept}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls(name):
    """The right error; and the scheduler is as it was."""
    cls, n, call, match = WRONG[name]
    scheduler = cls()
    if n:
        scheduler.set_timesteps(n)
    before = held(scheduler)
    with pytest.raises((ValueError, TypeError), match=match):
        call(scheduler)
    assert held(scheduler) == before


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (KarrasVeScheduler, {"sigma_min": 0.0}),
        (KarrasVeScheduler, {"sigma_max": 0.01}),
        (KarrasVeScheduler, {"s_churn": -1.0}),
        (ScoreSdeVeScheduler, {"snr": 0.0}),
        (ScoreSdeVeScheduler, {"sigma_max": 0.001}),
        (ScoreSdeVeScheduler, {"correct_steps": -1}),
        (ScoreSdeVeScheduler, {"correct_steps": 0.5}),
        (ScoreSdeVeScheduler, {"per_sample": 1}),
        (ScoreSdeVpScheduler, {"beta_min": 0.0}),
        (ScoreSdeVpScheduler, {"beta_max": 0.01}),
        (ScoreSdeVpScheduler, {"sampling_eps": 1.0}),
        (RePaintScheduler, {"eta": -0.1}),
        (RePaintScheduler, {"beta_schedule": "exp"}),
        (RePaintScheduler, {"num_train_timesteps": 0}),
    ],
)
def test_wrong_options(cls, options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        cls(**options)
