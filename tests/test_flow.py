"""Flow matching: shifts, lists, noise, tokens at their own times, steps that have a density."""

import math

import numpy as np
import pytest
from scheduling import normals

import cmsched
from cmsched import FlowMatchEulerDiscreteScheduler as Euler
from cmsched import FlowMatchHeunDiscreteScheduler as Heun
from cmsched.backends import resolve
from cmsched.schedules import Flow

both = pytest.mark.parametrize("cls", [Euler, Heun])


def moved(sigma, shift):
    """arXiv:2403.03206, eq. 23."""
    return shift * sigma / (1 + (shift - 1) * sigma)


# --- levels --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_static_shift(cls, shift):
    scheduler = cls(shift=shift)
    scheduler.set_timesteps(5)
    want = moved(np.linspace(1, 0.001, 5), shift)
    levels = scheduler.sigmas[[0, *range(1, 9, 2)]] if cls is Heun else scheduler.sigmas[:5]
    np.testing.assert_allclose(levels, want, rtol=1e-12)
    assert scheduler.sigmas[-1] == 0.0
    np.testing.assert_allclose(scheduler.timesteps, 1000 * scheduler.sigmas[:-1], rtol=1e-12)
    assert scheduler.sigma_max == 1.0
    assert scheduler.sigma_min == pytest.approx(moved(0.001, shift), rel=1e-12)
    assert scheduler.shift == shift


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("mu", [0.5, 1.15])
def test_dynamic_shift(kind, mu):
    scheduler = Euler(use_dynamic_shifting=True, time_shift_type=kind, shift=7.0)
    shift = math.exp(mu) if kind == "exponential" else mu
    scheduler.set_timesteps(4, mu=mu)
    np.testing.assert_allclose(scheduler.sigmas[:-1], moved(np.linspace(1, 0.001, 4), shift))
    scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.2], mu=mu)
    np.testing.assert_allclose(scheduler.sigmas, [*moved(np.array([1, 0.6, 0.2]), shift), 0])
    with pytest.raises(ValueError, match="use_dynamic_shifting needs mu="):
        scheduler.set_timesteps(4)


@pytest.mark.parametrize("shift", [1e-3, 0.1, 0.7, math.exp(1.15), 1e3])
def test_the_noisiest_level_stays_where_it_is(shift):
    """Also where 1 + (shift - 1) is not shift, in floats."""
    scheduler = Euler(use_dynamic_shifting=True, time_shift_type="linear")
    assert scheduler.plan(3, mu=shift).points[0].sigma == 1.0


def test_terminal():
    scheduler = Euler(shift=2.0, shift_terminal=0.1)
    scheduler.set_timesteps(6)
    levels = moved(np.linspace(1, 0.001, 6), 2.0)
    want = 1 - (1 - levels) * (0.9 / (1 - levels[-1]))
    np.testing.assert_allclose(scheduler.sigmas[:-1], want, rtol=1e-12)
    assert scheduler.sigmas[-2] == pytest.approx(0.1, rel=1e-12)


def test_inverted():
    """The same run in the time 1 - sigma, where the network says x0 - eps."""
    plain, inverted = Euler(shift=3.0), Euler(shift=3.0, invert_sigmas=True)
    for scheduler in (plain, inverted):
        scheduler.set_timesteps(5)
    np.testing.assert_allclose(inverted.sigmas, 1 - plain.sigmas, atol=1e-15)
    np.testing.assert_allclose(inverted.timesteps, 1000 - plain.timesteps, atol=1e-12)
    x = y = normals((2, 3))
    for i in range(5):
        v = normals((2, 3), i)
        x = plain.step(v, plain.timesteps[i], x).prev_sample
        y = inverted.step(-v, inverted.timesteps[i], y).prev_sample
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


def test_rising_time():
    schedule = Flow(num_train_timesteps=40, rising=True)
    assert schedule.at(t=10.0).sigma == pytest.approx(0.75)
    assert schedule.at(sigma=0.75).t == pytest.approx(10.0)
    assert schedule.at(sigma=1.0).t == 0.0
    first, last = (schedule.at(t=t) for t in schedule.span)
    assert (first.alpha, first.sigma) == (0.0, 1.0)
    assert last.sigma == pytest.approx(1 / 40)


def test_set_shift():
    scheduler = Euler()
    scheduler.set_shift(3.0)
    assert scheduler.shift == 3.0
    assert scheduler.config.shift == 1.0
    assert scheduler.plan(4) == Euler(shift=3.0).plan(4)
    for wrong in (0.0, -1.0, "3", None, True, math.nan):
        with pytest.raises((ValueError, TypeError), match="shift"):
            scheduler.set_shift(wrong)
    assert scheduler.shift == 3.0


@pytest.mark.parametrize("shift", [1.0, 0.4, 3.0])
def test_shift_methods(xp, shift):
    t = xp.asarray([0.9, 0.5, 0.2])
    scheduler = Euler(use_dynamic_shifting=True, time_shift_type="linear", shift_terminal=0.05)
    got = scheduler.time_shift(shift, 1.0, t)
    np.testing.assert_allclose(xp.numpy(got), moved(np.array([0.9, 0.5, 0.2]), shift), rtol=1e-12)
    got = scheduler.time_shift(shift, 2.0, t)
    want = shift / (shift + (1 / np.array([0.9, 0.5, 0.2]) - 1) ** 2)
    np.testing.assert_allclose(xp.numpy(got), want, rtol=1e-12)
    assert scheduler.time_shift(shift, 1.0, 0.0) == 0.0
    assert scheduler.time_shift(shift, 1.0, 1.0) == 1.0
    got = xp.numpy(scheduler.stretch_shift_to_terminal(t))
    np.testing.assert_allclose(got, 1 - (1 - xp.numpy(t)) * (0.95 / 0.8), rtol=1e-12)
    with pytest.raises(ValueError, match="shift_terminal"):
        Euler().stretch_shift_to_terminal(t)


# --- lists ---------------------------------------------------------------------------------------


def test_a_list_with_its_length_and_with_times():
    scheduler = Euler(shift=2.0)
    sigmas, times = [1.0, 0.5, 0.25], [999.0, 600.0, 7.0]
    alone = scheduler.plan(sigmas=sigmas)
    assert scheduler.plan(3, sigmas=sigmas) == alone
    assert scheduler.plan(3, timesteps=times) == scheduler.plan(timesteps=times)
    told = scheduler.plan(sigmas=sigmas, timesteps=times)
    assert told.timesteps.tolist() == times
    assert [p.sigma for p in told.grid.points] == [p.sigma for p in alone.grid.points]
    for wrong in (
        {"num_inference_steps": 4, "sigmas": sigmas},
        {"num_inference_steps": 2, "timesteps": times},
        {"sigmas": sigmas, "timesteps": times[:2]},
    ):
        with pytest.raises(ValueError, match="disagree on the number of steps"):
            scheduler.plan(**wrong)


def test_what_has_no_effect_says_so():
    for scheduler, options in (
        (Euler(), {"num_inference_steps": 3, "mu": 1.0}),
        (Euler(use_dynamic_shifting=True), {"sigmas": [1.0, 0.5, 0.0], "mu": 1.0}),
        (Euler(shift=3.0), {"sigmas": [1.0, 0.5, 0.0]}),
        (Euler(use_dynamic_shifting=True), {"timesteps": [900, 500], "mu": 1.0}),
        (Euler(invert_sigmas=True), {"sigmas": [1.0, 0.5], "timesteps": [900, 500]}),
    ):
        with pytest.warns(UserWarning, match="has no effect"):
            scheduler.plan(**options)
        scheduler.plan(**options)  # once


@pytest.mark.filterwarnings("ignore:.*shift has no effect")
def test_lists_that_count_upward():
    scheduler = Euler(invert_sigmas=True, shift=3.0)
    scheduler.set_timesteps(4)
    plan = scheduler.plan(4)
    for name in ("sigmas", "timesteps"):
        again = scheduler.plan(**{name: getattr(scheduler, name)})
        np.testing.assert_allclose(again.timesteps, plan.timesteps, atol=1e-9)
        for p, q in zip(again.grid.points, plan.grid.points, strict=True):
            assert p.sigma == pytest.approx(q.sigma, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shift": 0.0}, "shift must be positive"),
        ({"shift_terminal": 1.0}, r"shift_terminal must lie in \[0, 1\)"),
        ({"time_shift_type": "exp"}, "time_shift_type"),
        ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "only one of"),
        ({"sde_eta": -0.1}, "sde_eta must be at least 0"),
        ({"sde_eta": 0.7, "stochastic_sampling": True}, "choose one"),
    ],
)
def test_wrong_options(options, text):
    with pytest.raises(ValueError, match=text):
        Euler(**options)


# --- noise ---------------------------------------------------------------------------------------


@both
def test_scale_noise(xp, cls):
    scheduler = cls(shift=3.0)
    scheduler.set_timesteps(6)
    x, z = normals((2, 3, 4)), normals((2, 3, 4), 1)
    picks = scheduler.timesteps[[2, 5]]
    got = xp.numpy(scheduler.scale_noise(xp.asarray(x), xp.asarray(picks), xp.asarray(z)))
    sigma = (picks / 1000)[:, None, None]
    np.testing.assert_allclose(got, (1 - sigma) * x + sigma * z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"shift": 3.0}, {"invert_sigmas": True}], ids=str)
def test_noise_is_added_at_any_time(options):
    """Training draws times between those of any run, down to 0."""
    scheduler, t = Euler(**options), np.array([0.0, 0.3, 517.25, 999.9, 1000.0])
    x, z = normals((5, 3)), normals((5, 3), 1)
    for _ in range(2):
        sigma = (1 - t / 1000 if "invert_sigmas" in options else t / 1000)[:, None]
        np.testing.assert_allclose(scheduler.add_noise(x, z, t), (1 - sigma) * x + sigma * z)
        scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=r"\[0, 1000\]"):
        scheduler.add_noise(x, z, 1000.5)


def test_scale_noise_needs_noise():
    with pytest.raises(TypeError, match="needs noise="):
        Euler().scale_noise(normals((1, 2)), 1000.0)


# --- tokens at their own times -------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"invert_sigmas": True}], ids=str)
def test_diffusion_forcing(xp, options):
    """An array index of shape (batch, tokens) and per_token_timesteps take the same step."""
    scheduler = Euler(shift=3.0, **options)
    scheduler.set_timesteps(6)
    plan = scheduler.plan(6)
    rows = np.array([[0, 3, 5], [2, 2, 4]])
    x, v = xp.asarray(normals((2, 3, 4))), xp.asarray(normals((2, 3, 4), 1))
    backend = resolve(x)
    state = cmsched.State(x, (), backend.to_device_of(rows.astype(np.int32), x))
    seen, times = cmsched.model_input(plan, state)
    np.testing.assert_allclose(xp.numpy(times), plan.timesteps[rows], rtol=1e-6)
    want = cmsched.step(plan, state, v).sample
    got = scheduler.step(v, scheduler.timesteps[0], seen, per_token_timesteps=times).prev_sample
    np.testing.assert_allclose(xp.numpy(got), xp.numpy(want), rtol=1e-6, atol=1e-6)
    assert scheduler.step_index == 1
    scheduler.step(v, scheduler.timesteps[1], seen)  # and the habit goes on


def test_tokens_between_levels(xp):
    """Each goes to the next level below it; a clean one stays."""
    scheduler = Euler()
    scheduler.set_timesteps(sigmas=[0.8, 0.4])
    x, v = normals((1, 4, 2)), normals((1, 4, 2), 1)
    times = np.array([[900.0, 800.0, 500.0, 0.0]])
    step = np.array([[0.8 - 0.9, 0.4 - 0.8, 0.4 - 0.5, 0.0]])[..., None]
    got = scheduler.step(
        xp.asarray(v), scheduler.timesteps[0], xp.asarray(x), per_token_timesteps=xp.asarray(times)
    )
    np.testing.assert_allclose(xp.numpy(got[0]), x + step * v, rtol=1e-6, atol=1e-6)
    pair = scheduler.step(
        xp.asarray(v),
        scheduler.timesteps[1],
        xp.asarray(x),
        per_token_timesteps=xp.asarray(times),
        return_dict=False,
    )
    assert len(pair) == 1


def test_stochastic_tokens(xp):
    scheduler = Euler(stochastic_sampling=True)
    scheduler.set_timesteps(sigmas=[0.8, 0.4])
    x, v, z = (normals((1, 2, 3), i) for i in range(3))
    now, then = np.array([[0.8, 0.4]])[..., None], np.array([[0.4, 0.0]])[..., None]
    t, times = scheduler.timesteps[0], xp.asarray(now[..., 0] * 1000)
    arrays = xp.asarray(v), t, xp.asarray(x)
    with pytest.raises(ValueError, match="needs generator="):
        scheduler.step(*arrays, per_token_timesteps=times)
    got = scheduler.step(*arrays, per_token_timesteps=times, variance_noise=xp.asarray(z))
    want = (1 - then) * (x - now * v) + then * z
    np.testing.assert_allclose(xp.numpy(got.prev_sample), want, rtol=1e-6, atol=1e-6)
    again = [Euler(stochastic_sampling=True, xp=xp.xp) for _ in range(2)]
    results = []
    for one in again:
        one.set_timesteps(sigmas=[0.8, 0.4])
        results.append(one.step(*arrays, per_token_timesteps=times, generator=3).prev_sample)
    np.testing.assert_array_equal(*map(xp.numpy, results))


def test_wrong_tokens():
    scheduler = Euler()
    scheduler.set_timesteps(3)
    x, t = normals((2, 3, 4)), 1000.0
    for wrong in (normals((2, 4)), normals((3,)), normals((2, 3, 4)), [[1.0] * 3] * 2, 7.0, "t"):
        with pytest.raises((ValueError, TypeError), match="per_token_timesteps"):
            scheduler.step(x, t, x, per_token_timesteps=wrong)
    times = np.full((2, 3), 500.0)
    with pytest.raises(ValueError, match="already seen"):
        scheduler.step(x, t, x, per_token_timesteps=times, s_churn=1.0)
    with pytest.raises(ValueError, match="model_output"):
        scheduler.step(x[:1], t, x, per_token_timesteps=times)
    assert scheduler.step_index is None
    scheduler = Euler(sde_eta=0.7)
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match="sde_eta"):
        scheduler.step(x, t, x, per_token_timesteps=times)


# --- an SDE whose steps have a density -----------------------------------------------------------


def flow_grpo(x, v, z, sigmas, i, level):
    """A step as arXiv:2505.05470 publishes it: mean, std and sum of the log density."""
    sigma, dt = sigmas[i], sigmas[i + 1] - sigmas[i]
    std = level * math.sqrt(sigma / (1 - (sigmas[1] if sigma == 1 else sigma)))
    mean = x * (1 + std**2 / (2 * sigma) * dt) + v * ((1 + std**2 * (1 - sigma) / (2 * sigma)) * dt)
    after = mean + std * math.sqrt(-dt) * z
    spread = std * math.sqrt(-dt)
    density = -((after - mean) ** 2) / (2 * spread**2) - math.log(spread * math.sqrt(2 * math.pi))
    return mean, spread, after, density.sum(axis=(1, 2))


@pytest.mark.parametrize("level", [0.3, 0.7])
def test_flow_grpo(xp, level):
    scheduler = Euler(shift=3.0, sde_eta=level)
    scheduler.set_timesteps(5)
    plan, x = scheduler.plan(5), normals((2, 3, 4))
    for i in range(5):
        v, z = normals((2, 3, 4), 10 + i), normals((2, 3, 4), 20 + i)
        mean, std, after, density = flow_grpo(x, v, z, scheduler.sigmas.tolist(), i, level)
        state = cmsched.State(xp.asarray(x), (), i)
        found = cmsched.transition(plan, state, xp.asarray(v))
        np.testing.assert_allclose(xp.numpy(found.mean), mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.std, std, rtol=1e-9)
        out = cmsched.step(plan, state, xp.asarray(v), noise=xp.asarray(z)).sample
        np.testing.assert_allclose(xp.numpy(out), after, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(xp.numpy(found.log_prob(out)), density, rtol=1e-9)
        args = xp.asarray(v), scheduler.timesteps[i], xp.asarray(x)
        habit = scheduler.step(*args, variance_noise=xp.asarray(z)).prev_sample
        np.testing.assert_allclose(xp.numpy(habit), after, rtol=1e-9, atol=1e-9)
        x = after


def test_sde_is_chosen_where_it_is_made():
    assert "sde_eta" not in Euler().config
    scheduler = Euler(sde_eta=0.7)
    assert scheduler.config.sde_eta == 0.7
    assert Euler.from_config(scheduler.config).plan(4) == scheduler.plan(4)
    assert scheduler.plan(4, eta=0.0) != scheduler.plan(4)
    assert not scheduler.plan(4, eta=0.0).layout.stochastic


# --- exact data ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("options", [{}, {"s_churn": 5.0}], ids=str)
def test_one_point_is_reached(cls, options):
    """Along straight lines every step is exact."""
    plan = cls(shift=3.0).plan(6, **options)
    out = cmsched.sample(lambda x, t: (x - 0.4) / (t / 1000), plan, normals((2, 3)), rng=0)
    np.testing.assert_allclose(out, 0.4, atol=1e-12)


def gaussian(x, t):
    """The velocity of normal data of spread 0.5, whose exact map ends at 0.5 x."""
    s = float(t) / 1000
    return (s - (1 - s) * 0.25) / (s * s + (1 - s) ** 2 * 0.25) * x


@pytest.mark.parametrize(("cls", "order"), [(Euler, 1), (Heun, 2)])
def test_orders(cls, order):
    misses = []
    for n in (80, 160):
        plan = cls().plan(sigmas=np.linspace(1, 0, n + 1))
        misses.append(abs(cmsched.sample(gaussian, plan, np.ones((1, 1)))[0, 0] - 0.5))
    assert order - 0.15 < math.log2(misses[0] / misses[1]) < order + 0.5


def test_a_ramp_beyond_the_flow():
    """Cosmos 2: Karras' levels from 80, x = x0 + sigma eps, and a rising list of which n counts."""
    scheduler = Euler(use_karras_sigmas=True, sigma_max=80.0, sigma_min=0.002)
    levels = (80 ** (1 / 7) + np.linspace(0, 1, 5) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    for given in ({"num_inference_steps": 5}, {"sigmas": np.linspace(0, 1, 5)}):
        scheduler.set_timesteps(**given)
        assert np.allclose(scheduler.sigmas, [*levels, 0.0], rtol=1e-12)
        assert np.allclose(scheduler.timesteps, 1000 * levels, rtol=1e-12)
    again = scheduler.plan(sigmas=scheduler.sigmas)
    assert np.allclose([p.sigma for p in again.points], levels, rtol=1e-12)
    # the exact noise of one image leads to it, from wherever
    x0 = np.linspace(-1, 1, 12).reshape(1, 3, 4)
    noisy = scheduler.add_noise(x0, np.ones_like(x0), scheduler.timesteps[1])
    assert np.allclose(noisy, x0 + levels[1])
    x = x0 + levels[0]
    for t, sigma in zip(scheduler.timesteps, levels, strict=True):
        x = scheduler.step((x - x0) / sigma, t, x).prev_sample
    assert np.allclose(x, x0, atol=1e-12)


def test_ends_of_a_ramp():
    levels = np.geomspace(0.9, 0.1, 4)
    ends = {"use_exponential_sigmas": True, "sigma_max": 0.9, "sigma_min": 0.1}
    assert np.allclose([p.sigma for p in Euler(**ends).plan(4).points], levels)
    with pytest.warns(UserWarning, match="sigma_max has no effect without a ramp"):
        Euler(sigma_max=0.9).plan(4)
    wide = {"use_karras_sigmas": True, "sigma_max": 80.0}
    for wrong, text in (
        ({"sigma_min": -1.0}, "sigma_min must be positive, got -1.0"),
        ({**ends, "sigma_min": 2.0}, "sigma_max=0.9 must be above sigma_min=2.0"),
        ({**wide, "stochastic_sampling": True}, "stochastic_sampling is for a flow"),
        ({**wide, "invert_sigmas": True}, "invert_sigmas is for a flow"),
    ):
        with pytest.raises(ValueError, match=text):
            Euler(**wrong)
