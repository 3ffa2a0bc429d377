"""The Flax classes against statements of what diffusers' former ones and MaxDiffusion's compute.

The loops here are written in NumPy, from what those files state; the sums over a whole loop are
those that MaxDiffusion's own tests expect.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmsched.interop.flax import (
    FlaxDDIMScheduler,
    FlaxDDPMScheduler,
    FlaxDPMSolverMultistepScheduler,
    FlaxEulerDiscreteScheduler,
    FlaxLMSDiscreteScheduler,
    FlaxPNDMScheduler,
    FlaxUniPCMultistepScheduler,
)
from interop.flax_cases import LATENT, SHAPE, SUMMED, alpha_bars, close, network, start


def ramp(shape):
    """The deterministic sample of those tests, batch last in the order of its numbers."""
    n = int(np.prod(shape))
    x = np.arange(n).reshape(*shape[1:], shape[0]) / n
    return jnp.asarray(np.moveaxis(x, -1, 0), jnp.float32)


def summed_model(x, t):
    return x * t / (t + 1)


IMAGES, ROWS = (4, 3, 8, 8), (4, 3, 8)


def walked(scheduler, n=10, shape=IMAGES, first=0, x=None, model=summed_model):
    """The loop of those tests."""
    state = scheduler.set_timesteps(scheduler.create_state(), n, shape)
    x = ramp(shape) if x is None else x
    for t in state.timesteps[first:]:
        x, state = scheduler.step(state, model(x, t), t, x, return_dict=False)
    return x


# numbers


def test_ddpm_over_all_training_steps():
    """No run is set: steps go to the training step below; the noise is that of MaxDiffusion.

    Its own sum, 257.33148, has the error of 1 - alphas_cumprod in single precision: 1.7e-4 of the
    last step.
    """
    scheduler, bars = FlaxDDPMScheduler(**SUMMED), alpha_bars()
    state, x = scheduler.create_state(), ramp(IMAGES)
    y = np.asarray(x, np.float64)
    key, rest = jax.random.split(jax.random.PRNGKey(0))
    for t in reversed(range(1000)):
        x, state = scheduler.step(state, summed_model(x, t), t, x, key).to_tuple()
        z = np.asarray(jax.random.normal(jax.random.split(key, 2)[1], IMAGES, jnp.float32))
        now, then = bars[t], bars[t - 1] if t else 1.0
        beta = 1 - now / then
        x0 = np.clip((y - np.sqrt(1 - now) * summed_model(y, t)) / np.sqrt(now), -1, 1)
        y = (np.sqrt(then) * beta * x0 + np.sqrt(1 - beta) * (1 - then) * y) / (1 - now)
        y = y + np.sqrt((1 - then) / (1 - now) * beta) * z
        key, rest = jax.random.split(rest)
    close(x, y, 1e-4)
    assert abs(float(jnp.abs(x).sum()) / 257.33148 - 1) < 2e-4


def test_ddpm_step_is_the_posterior_of_the_training_step_below():
    scheduler, bars = FlaxDDPMScheduler(clip_sample=False, dtype=jnp.float64), alpha_bars()
    state, x, output = scheduler.create_state(), start(), start(seed=1)
    for t in (0, 1, 487, 999):
        now, then = bars[t], bars[t - 1] if t else 1.0
        beta = 1 - now / then
        x0 = (x - np.sqrt(1 - now) * output) / np.sqrt(now)
        mean = (np.sqrt(then) * beta * x0 + np.sqrt(1 - beta) * (1 - then) * x) / (1 - now)
        std = np.sqrt((1 - then) / (1 - now) * beta)
        key = jax.random.key(t)
        z = jax.random.normal(jax.random.split(key, 2)[1], SHAPE, jnp.float64)
        for timestep in (t, jnp.int32(t)):
            found = scheduler.step(state, output, timestep, x, key)
            close(found.prev_sample, mean + std * z, 1e-8)
        assert found.state is state


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({}, 172.0067),
        ({"set_alpha_to_one": True, "beta_start": 0.01}, 149.8295),
        ({"set_alpha_to_one": False, "beta_start": 0.01}, 149.0784),
    ],
)
def test_ddim_sums(options, total):
    found = walked(FlaxDDIMScheduler(**{**SUMMED, **options}))
    assert abs(float(jnp.abs(found).sum()) - total) < 1e-2


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({}, 198.1318),
        ({"set_alpha_to_one": True, "beta_start": 0.01}, 186.9466),
        ({"set_alpha_to_one": False, "beta_start": 0.01}, 186.9482),
    ],
)
def test_pndm_sums_by_both_parts(options, total):
    scheduler = FlaxPNDMScheduler(**{**SUMMED, **options})
    state, x = scheduler.create_state(), ramp(IMAGES)
    state = scheduler.set_timesteps(state, 10, shape=x.shape)
    for t in state.prk_timesteps:
        x, state = scheduler.step_prk(state, summed_model(x, t), t, x)
    for t in state.plms_timesteps:
        x, state = scheduler.step_plms(state, summed_model(x, t), t, x)
    assert abs(float(jnp.abs(x).sum()) - total) < 1e-2


@pytest.mark.parametrize(
    ("shape", "options", "mean"),
    [
        (IMAGES, {}, 0.2464),
        (IMAGES, {"prediction_type": "v_prediction"}, 0.1014),
        (ROWS, {}, 0.2441),
        (ROWS, {"prediction_type": "v_prediction"}, 0.1014),
    ],
)
def test_unipc_sums(shape, options, mean):
    scheduler = FlaxUniPCMultistepScheduler(**SUMMED, final_sigmas_type="sigma_min", **options)
    assert abs(float(jnp.abs(walked(scheduler, shape=shape)).mean()) - mean) < 1e-3


@pytest.mark.parametrize(("shape", "total"), [(IMAGES, 315.5757), (ROWS, 39.0870)])
def test_unipc_from_the_middle(shape, total):
    scheduler = FlaxUniPCMultistepScheduler(**SUMMED, final_sigmas_type="sigma_min")
    state = scheduler.set_timesteps(scheduler.create_state(), 10, shape)
    n = int(np.prod(shape))
    noise = np.arange(n)[::-1].reshape(*shape[1:], shape[0]) / n
    noise = jnp.asarray(np.moveaxis(noise, -1, 0), jnp.float32)
    x = scheduler.add_noise(state, ramp(shape), noise, state.timesteps[8:9])
    assert abs(float(jnp.abs(walked(scheduler, shape=shape, first=8, x=x)).sum()) - total) < 1e-2


def unipc_by_hand(x, sigmas, alpha_of, model, times, order, kind, predict_x0, end):
    """arXiv:2302.04867, algorithms 1 to 4, as the published code lays them out; b(h) is `kind`."""
    outputs, lams, last, before = [], [], None, 1

    def lam(sigma):
        alpha = alpha_of(sigma)
        return np.log(alpha) - np.log(alpha * sigma if alpha_of is vp else sigma)

    def size(sigma):
        return alpha_of(sigma) * sigma if alpha_of is vp else sigma

    def combined(x, s, t, used, p, corrected=None):
        h = lam(t) - lam(s)
        hh = -h if predict_x0 else h
        scale = alpha_of(t) if predict_x0 else size(t)
        part = size(t) / size(s) if predict_x0 else alpha_of(t) / alpha_of(s)
        m0 = used[0][1]
        rks = [(at - lam(s)) / h for at, _ in used[1:p]]
        diffs = [(m - m0) / r for (_, m), r in zip(used[1:p], rks, strict=True)]
        rks.append(1.0)
        big = hh if kind == "bh1" else np.expm1(hh)
        rows, b, phi, factorial = [], [], np.expm1(hh) / hh - 1, 1
        for i in range(1, p + 1):
            rows.append(np.power(rks, i - 1))
            b.append(phi * factorial / big)
            factorial *= i + 1
            phi = phi / hh - 1 / factorial
        y = part * x - scale * np.expm1(hh) * m0
        if corrected is None:
            rho = [0.5] if p == 2 else np.linalg.solve(np.array(rows)[:-1, :-1], b[:-1])
            return y - scale * big * sum(r * d for r, d in zip(rho, diffs, strict=False))
        rho = [0.5] if p == 1 else np.linalg.solve(np.array(rows), b)
        more = sum(r * d for r, d in zip(rho[:-1], diffs, strict=True))
        return y - scale * big * (more + rho[-1] * (corrected - m0))

    n = len(times)
    for i, t in enumerate(times):
        s, alpha = sigmas[i], alpha_of(sigmas[i])
        m = model(x, t)
        x0 = x - s * m if end == "flow" else (x - size(s) * m) / alpha
        m = x0 if predict_x0 else (x - alpha * x0) / size(s)
        if last is not None:
            used = list(zip(lams, outputs, strict=True))
            x = combined(last, sigmas[i - 1], s, used, before, corrected=m)
        outputs, lams = [m, *outputs], [lam(s), *lams]
        p = min(order, n - i, i + 1)
        last, before = x, p
        if sigmas[i + 1] == 0:
            x = x0
        else:
            x = combined(x, s, sigmas[i + 1], list(zip(lams, outputs, strict=True)), p)
    return x


def vp(sigma):
    return 1 / np.sqrt(sigma**2 + 1)


def flow(sigma):
    return 1 - sigma


def numpy_network(x, t):
    return 0.4 * x / (1 + x * x) + 1e-4 * float(t)


@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(  # the noise form has no step to sigma = 0
    ("predict_x0", "last"), [(True, "sigma_min"), (True, "zero"), (False, "sigma_min")]
)
def test_unipc_is_the_published_algorithm(kind, order, predict_x0, last):
    options = {"solver_order": order, "solver_type": kind, "predict_x0": predict_x0}
    scheduler = FlaxUniPCMultistepScheduler(**options, final_sigmas_type=last, dtype=jnp.float64)
    n, bars = 7, alpha_bars()
    times = np.round(np.linspace(0, 999, n + 1))[::-1][:-1].astype(int)
    levels = np.sqrt((1 - bars) / bars)
    sigmas = [*levels[times], levels[0] if last == "sigma_min" else 0.0]
    state = scheduler.set_timesteps(scheduler.create_state(), n, SHAPE)
    assert state.timesteps.tolist() == times.tolist()
    assert state.timesteps.dtype == jnp.int32
    close(state.sigmas, sigmas, 1e-8)
    own = np.asarray(start())
    expected = unipc_by_hand(own, sigmas, vp, numpy_network, times, order, kind, predict_x0, "vp")
    close(walked(scheduler, n, SHAPE, x=start(), model=network), expected, 1e-7)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_unipc_of_wan(shift):
    """A flow's sigmas begin a training step below 1, and its times are cut."""
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    scheduler = FlaxUniPCMultistepScheduler(**options, dtype=jnp.float64)
    n = 6
    even = (1 - np.linspace(1, 1 / 1000, n + 1))[::-1][:-1]
    sigmas = [*(shift * even / (1 + (shift - 1) * even)), 0.0]
    times = (np.array(sigmas[:-1]) * 1000).astype(int)
    state = scheduler.set_timesteps(scheduler.create_state(), n, SHAPE)
    close(state.sigmas, sigmas)
    assert state.timesteps.tolist() == times.tolist()
    own = np.asarray(start())
    expected = unipc_by_hand(own, sigmas, flow, numpy_network, times, 2, "bh2", True, "flow")
    close(walked(scheduler, n, SHAPE, x=start(), model=network), expected, 1e-7)


@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
@pytest.mark.parametrize("kind", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_ends_at_the_first_training_level(algorithm, kind, order):
    """arXiv:2206.00927 and 2211.01095, multistep, the last step to timestep 0."""
    n, bars = 6, alpha_bars()
    options = {"solver_order": order, "algorithm_type": algorithm, "solver_type": kind}
    scheduler = FlaxDPMSolverMultistepScheduler(**options, dtype=jnp.float64)
    alpha, sigma = np.sqrt(bars), np.sqrt(1 - bars)
    lam = np.log(alpha / sigma)
    times = [*np.round(np.linspace(0, 999, n + 1))[::-1][:-1].astype(int), 0]
    x, past, data = np.asarray(start()), [], algorithm.endswith("++")
    for i, t in enumerate(times[:-1]):
        to = times[i + 1]
        m = numpy_network(x, t)
        past = [(x - sigma[t] * m) / alpha[t] if data else m, *past]
        h = lam[to] - lam[t]
        k = h if data else -h
        part = sigma[to] / sigma[t] if data else alpha[to] / alpha[t]
        scale = alpha[to] if data else sigma[to]
        one = np.expm1(-k)
        y = part * x - scale * one * past[0]
        p = min(order, i + 1, n - i)
        if p >= 2:
            r = (lam[t] - lam[times[i - 1]]) / h
            first = (past[0] - past[1]) / r
        if p == 2:
            y = y + scale * (-0.5 * one if kind == "midpoint" else one / k + 1) * first
        if p == 3:
            r1 = (lam[times[i - 1]] - lam[times[i - 2]]) / h
            older = (past[1] - past[2]) / r1
            second = (first - older) / (r + r1)
            first = first + r / (r + r1) * (first - older)
            y = y + scale * ((one / k + 1) * first - ((one + k) / k**2 - 0.5) * second)
        x = y
    close(walked(scheduler, n, SHAPE, x=start(), model=network), x, 1e-8)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("n", [1, 4, 10])
def test_euler_times_and_steps(spacing, n):
    """Even times in single precision; leading ones a step higher than PyTorch's."""
    scheduler = FlaxEulerDiscreteScheduler(**LATENT, timestep_spacing=spacing)
    times = {
        "linspace": np.asarray(jnp.linspace(999, 0, n, dtype=jnp.float32)),
        "leading": np.arange(n)[::-1] * (1000 // n) + 1.0,
        "trailing": np.round(np.arange(1000, 0, -1000 / n)) - 1,
    }[spacing]
    state = scheduler.set_timesteps(scheduler.create_state(), n)
    assert state.timesteps.dtype == jnp.float32
    assert state.timesteps.tolist() == times.tolist()
    bars = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    levels = np.interp(times, np.arange(1000), np.sqrt((1 - bars) / bars))
    sigmas = [*levels, 0.0]
    close(state.sigmas, sigmas, 2e-5)
    top = max(sigmas)
    close(state.init_noise_sigma, np.hypot(top, 1) if spacing == "leading" else top, 2e-5)
    x = start(jnp.float32) * state.init_noise_sigma
    y = np.asarray(x, np.float64)
    for i, t in enumerate(times):
        scaled = scheduler.scale_model_input(state, x, t)
        close(scaled, y / np.hypot(sigmas[i], 1), 1e-4)
        x, state = scheduler.step(state, network(scaled, t), t, x).to_tuple()
        y = y + (sigmas[i + 1] - sigmas[i]) * numpy_network(y / np.hypot(sigmas[i], 1), t)
        close(x, y, 3e-4)


def test_lms_times_are_cut_and_keep_their_levels():
    scheduler = FlaxLMSDiscreteScheduler(dtype=jnp.float64)
    state = scheduler.create_state()
    bars = alpha_bars()
    levels = np.sqrt((1 - bars) / bars)
    close(state.sigmas, levels, 1e-8)
    state = scheduler.set_timesteps(state, 7, SHAPE)
    exact = np.linspace(999, 0, 7)
    assert state.timesteps.dtype == jnp.int32
    assert state.timesteps.tolist() == np.asarray(jnp.linspace(999, 0, 7)).astype(int).tolist()
    sigmas = np.interp(exact, np.arange(1000), levels)
    close(state.sigmas, [*sigmas, 0.0], 1e-8)
    for i in ([3, 3], [1, 5]):
        noisy = scheduler.add_noise(state, start(), start(seed=1), state.timesteps[np.array(i)])
        close(noisy, start() + sigmas[i].reshape(2, 1, 1, 1) * start(seed=1), 1e-8)
