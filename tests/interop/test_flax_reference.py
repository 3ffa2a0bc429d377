"""The Flax classes against statements of what diffusers' former ones and MaxDiffusion's compute.

The loops here are written in NumPy, from what those files state; the sums over a whole loop are
those that MaxDiffusion's own tests expect.
"""

import inspect
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cmsched.interop.flax as interop
from cmsched.interop.flax import (
    FlaxDDIMScheduler,
    FlaxDDPMScheduler,
    FlaxDPMSolverMultistepScheduler,
    FlaxEulerDiscreteScheduler,
    FlaxLMSDiscreteScheduler,
    FlaxPNDMScheduler,
    FlaxUniPCMultistepScheduler,
)
from interop.flax_cases import CASES, LATENT, SHAPE, close, constant, made, network, start

STEPPED = [cls for cls, _ in CASES.values()] + [FlaxUniPCMultistepScheduler]
STEPPED = sorted({*STEPPED}, key=lambda cls: cls.__name__)
EVERY_CLASS = pytest.mark.parametrize("cls", STEPPED)
SUMMED = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02}


def alpha_bars(start=0.0001, end=0.02, n=1000):
    return np.cumprod(1 - np.linspace(start, end, n))


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
@pytest.mark.parametrize("predict_x0", [True, False])
@pytest.mark.parametrize("last", ["sigma_min", "zero"])
def test_unipc_is_the_published_algorithm(kind, order, predict_x0, last):
    if last == "zero" and not predict_x0:
        pytest.skip("the noise form has no step to sigma = 0")
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


# a step at any timestep


@pytest.mark.parametrize("alpha_to_one", [True, False])
@pytest.mark.parametrize("kind", ["number", "array", "traced"])
def test_ddim_steps_from_every_training_step(alpha_to_one, kind):
    """As far down as the run's stride, or to the end."""
    options = {"clip_sample": False, "set_alpha_to_one": alpha_to_one}
    scheduler, bars = FlaxDDIMScheduler(**options, dtype=jnp.float64), alpha_bars()
    x, output = start(), start(seed=1)
    last = 1.0 if alpha_to_one else bars[0]
    step = jax.jit(scheduler.step) if kind == "traced" else scheduler.step
    for n in (None, 7, 50):
        state = scheduler.create_state()
        stride = 1
        if n is not None:
            state, stride = scheduler.set_timesteps(state, n), 1000 // n
        for t in (999, 980, 500, stride, stride - 1, 1, 0):
            now, then = bars[t], bars[t - stride] if t >= stride else last
            x0 = (x - np.sqrt(1 - now) * output) / np.sqrt(now)
            expected = np.sqrt(then) * x0 + np.sqrt(1 - then) * output
            found = step(state, output, t if kind == "number" else jnp.int32(t), x)
            close(found.prev_sample, expected, 1e-8)


@EVERY_CLASS
@pytest.mark.parametrize("t", [0, 1, 313, 998])
def test_a_timestep_that_is_not_listed_is_accepted(cls, t):
    """Where a class does not step from every training step: at the nearest entry."""
    scheduler, x, output = cls(dtype=jnp.float64), start(), start(seed=1)
    state = scheduler.set_timesteps(scheduler.create_state(), 11, SHAPE)
    more = {"key": constant} if cls is FlaxDDPMScheduler else {}
    found = scheduler.step(state, output, t, x, **more).prev_sample
    close(jax.jit(scheduler.step, static_argnames="key")(state, output, t, x, **more)[0], found)
    if cls not in (FlaxDDIMScheduler, FlaxDDPMScheduler):
        entry = state.timesteps[np.argmin(np.abs(np.asarray(state.timesteps) - t))]
        close(scheduler.step(state, output, entry, x).prev_sample, found)


@EVERY_CLASS
def test_straight_after_create_state(cls):
    scheduler, x = cls(), start(jnp.float32)
    state = scheduler.create_state()
    whole = scheduler.step if "DDIM" in cls.__name__ or "DDPM" in cls.__name__ else None
    if whole is None:
        with pytest.raises(ValueError, match=r"state = scheduler.set_timesteps\(state"):
            scheduler.step(state, x, 1, x)
    else:
        more = {"key": jax.random.key(0)} if "DDPM" in cls.__name__ else {}
        assert whole(state, x, 1, x, **more).prev_sample.shape == x.shape
    if "UniPC" not in cls.__name__:
        assert state.timesteps.dtype == jnp.int32
        assert state.timesteps.tolist() == [*range(999, -1, -1)]
    scaled = scheduler.scale_model_input(state, x, 999)
    level = (
        0.0 if cls.named.__name__ not in ("EulerDiscreteScheduler", "LMSDiscreteScheduler") else 1
    )
    sigma = level * np.sqrt((1 - alpha_bars()[-1]) / alpha_bars()[-1])
    close(scaled, x / np.hypot(1, sigma), 1e-4)


# what is taken, and what is given back


@EVERY_CLASS
@pytest.mark.parametrize("own", ["float32", "bfloat16"])
@pytest.mark.parametrize("given", ["float32", "bfloat16", "float16", "float64"])
def test_the_widest_dtype_is_given_back(cls, own, given):
    scheduler, x = cls(dtype=jnp.dtype(own)), start(jnp.dtype(given))
    state = scheduler.set_timesteps(scheduler.create_state(), 5, SHAPE)
    more = {"key": jax.random.key(0)} if cls is FlaxDDPMScheduler else {}
    for host in (False, True):  # NumPy's arrays too
        sample, output = (np.asarray(x), np.asarray(x)) if host else (x, x)
        out = scheduler.step(state, output, state.timesteps[1], sample, **more)
        assert out.prev_sample.dtype == jnp.promote_types(own, given)
        assert isinstance(out.prev_sample, jax.Array)
        kinds = [[(m.shape, m.dtype) for m in s.memory] for s in (state, out.state)]
        assert kinds[0] == kinds[1]
        noisy = scheduler.add_noise(state, sample, output, state.timesteps[1])
        assert noisy.dtype == jnp.promote_types(own, given)
    paper = cls(dtype=jnp.float32, compatibility="paper")
    if given != "float64":
        state = paper.set_timesteps(paper.create_state(), 5, SHAPE)
        out = paper.step(state, x, state.timesteps[1], x, **more)
        assert out.prev_sample.dtype == given


@EVERY_CLASS
def test_constructors_show_their_options_and_no_more(cls):
    parameters = inspect.signature(cls.__init__).parameters
    assert "kwargs" not in parameters
    assert cls._deprecated_kwargs == []
    assert {"dtype", "num_train_timesteps", "beta_end"} <= {*parameters}
    assert parameters["dtype"].default == jnp.float32
    defaults = {k: p.default for k, p in parameters.items() if k in cls.named.options}
    assert defaults == dict(cls.named.options)
    assert cls in cls().compatibles
    assert all(found.__name__.startswith("Flax") for found in cls().compatibles)


@EVERY_CLASS
def test_outputs_and_states_have_the_names_that_they_had(cls):
    name = cls.__name__.removeprefix("Flax")
    out = cls.output_class
    assert out.__name__ in (f"{cls.__name__}Output", "FlaxLMSSchedulerOutput")
    assert getattr(interop, out.__name__) is out
    assert issubclass(out, interop.FlaxSchedulerOutput)
    assert getattr(interop, f"{name}State") is interop.FlaxSchedulerState


@EVERY_CLASS
def test_the_former_name_of_an_option(cls):
    """MaxDiffusion's; where the class has no such option it was without effect."""
    if "rescale_betas_zero_snr" not in cls.named.options:
        with pytest.raises(TypeError, match="rescale_zero_terminal_snr"):
            cls(rescale_zero_terminal_snr=True)
        return
    scheduler = cls(rescale_zero_terminal_snr=True)
    assert scheduler.config.rescale_betas_zero_snr
    again = cls.from_config({"_class_name": cls.__name__, "rescale_zero_terminal_snr": True})
    assert again.config.rescale_betas_zero_snr
    assert float(scheduler.create_state().common.alphas_cumprod[-1]) < 1e-6


def test_a_variance_that_there_is_not(tmp_path):
    with pytest.warns(UserWarning, match="variance_type='other' is none of fixed_small"):
        scheduler = FlaxDDPMScheduler(variance_type="other")
    assert scheduler.config.variance_type == "fixed_small"
    config = {"_class_name": "FlaxDDPMScheduler", "variance_type": "other"}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="taken for 'fixed_small'"):
        FlaxDDPMScheduler.from_pretrained(tmp_path)


def test_ddpm_without_a_key_has_the_same_noise_at_every_step():
    scheduler, x = FlaxDDPMScheduler(), start(jnp.float32)
    state = scheduler.create_state()
    with pytest.warns(UserWarning, match="no key was given"):
        found = scheduler.step(state, x, 500, x)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert np.array_equal(found, scheduler.step(state, x, 500, x)[0])
    assert np.array_equal(found, scheduler.step(state, x, 500, x, jax.random.key(0))[0])
    paper = FlaxDDPMScheduler(compatibility="paper")
    with pytest.raises(ValueError, match="draws noise: pass key="):
        paper.step(paper.create_state(), x, 500, x)


@pytest.mark.parametrize("train", [1, 5, 25, 100])
@EVERY_CLASS
def test_few_training_steps(cls, train):
    """As many steps as there are, or one, at their first timestep."""
    scheduler, x = cls(num_train_timesteps=train), start(jnp.float32)
    n = 1 if cls is FlaxPNDMScheduler and train < 4 else min(train, 25)
    state = scheduler.set_timesteps(scheduler.create_state(), n, SHAPE)
    more = {"key": jax.random.key(0)} if cls is FlaxDDPMScheduler else {}
    out = scheduler.step(state, x, state.timesteps[0], x, **more)
    assert jnp.isfinite(out.prev_sample).all()


# what a state shows


def test_variances():
    scheduler = FlaxDDIMScheduler(**SUMMED)
    state = scheduler.create_state()
    for now, then, expected in [
        (0, 0, 0.0),
        (420, 400, 0.14771),
        (980, 960, 0.32460),
        (487, 486, 0.00979),
        (999, 998, 0.02),
    ]:
        assert abs(scheduler._get_variance(state, now, then) - expected) < 1e-5
        traced = jax.jit(scheduler._get_variance)(state, jnp.int32(now), jnp.int32(then))
        assert abs(traced - expected) < 1e-5
    close(scheduler._get_variance(state, 3, -1), 0.0, 1e-7)
    scheduler = FlaxDDPMScheduler(**SUMMED, dtype=jnp.float64)
    state = scheduler.create_state()
    for t, expected in [(0, 0.0), (487, 0.00979), (999, 0.02)]:
        assert abs(scheduler._get_variance(state, t) - expected) < 1e-5
    bars, betas = alpha_bars(), np.linspace(0.0001, 0.02, 1000)
    small = (1 - bars[499]) / (1 - bars[500]) * betas[500]
    said = np.array([-1.0, 0.0, 0.5])
    for kind, expected in {
        "fixed_small": small,
        "fixed_small_log": np.log(small),
        "fixed_large": betas[500],
        "fixed_large_log": np.log(betas[500]),
        "learned": said,
        "learned_range": (said + 1) / 2 * betas[500] + (1 - said) / 2 * small,
    }.items():
        close(scheduler._get_variance(state, 500, said, kind), expected, 1e-8)
    with pytest.raises(ValueError, match="pass predicted_variance"):
        scheduler._get_variance(state, 500, variance_type="learned")
    with pytest.raises(ValueError, match="variance_type='other' is not one of"):
        scheduler._get_variance(state, 500, variance_type="other")


@pytest.mark.parametrize("name", ["pndm", "plms"])
def test_pndm_shows_its_parts(name):
    """prk_timesteps, plms_timesteps, counter, and the past outputs in `ets`, newest last."""
    scheduler, n = made(name), 8
    state = scheduler.create_state()
    assert state.counter is state.ets is state.prk_timesteps is None
    state, x = scheduler.set_timesteps(state, n, SHAPE), start()
    warm = 12 if name == "pndm" else 0
    assert len(state.prk_timesteps) == warm
    assert state.timesteps.tolist() == [
        *state.prk_timesteps.tolist(),
        *state.plms_timesteps.tolist(),
    ]
    assert not state.ets.any()
    assert state.ets.shape == (4, *SHAPE)
    past = []
    for i, t in enumerate(state.timesteps[:-1]):
        assert int(state.counter) == i
        output = network(x, t)
        step = scheduler.step_prk if i < warm else scheduler.step_plms
        x, state = step(state, output, t, x)
        if (i % 4 == 0) if i < warm else (i != 1 or name == "pndm"):
            past = [output, *past][:3]
        if i < len(state.timesteps) - 2:
            close(state.ets[1:], [*[jnp.zeros(SHAPE)] * (3 - len(past)), *past[::-1]], 1e-12)
        assert not state.ets[0].any()


@pytest.mark.parametrize("name", ["plms", "dpm 3", "unipc"])
def test_past_outputs_may_be_replaced(name):
    cls = {"unipc": FlaxUniPCMultistepScheduler}.get(name)
    scheduler = made(name) if cls is None else cls(solver_order=3, dtype=jnp.float64)
    state = scheduler.set_timesteps(scheduler.create_state(), 6, SHAPE)
    field, count = ("ets", 4) if name == "plms" else ("model_outputs", 3)
    x = start()
    for t in state.timesteps[:4]:
        x, state = scheduler.step(state, network(x, t), t, x).to_tuple()
    t = state.timesteps[4]
    expected = scheduler.step(state, network(x, t), t, x).prev_sample
    same = state.replace(**{field: getattr(state, field)})
    close(scheduler.step(same, network(x, t), t, x).prev_sample, expected, 1e-12)
    others = jnp.stack([start(seed=20 + k) for k in range(count)])
    other = state.replace(**{field: others})
    assert jax.tree.structure(other) == jax.tree.structure(state)
    found = scheduler.step(other, network(x, t), t, x).prev_sample
    assert not np.allclose(found, expected)
    newest = len(state.memory) if name != "plms" else 3
    close(getattr(other, field)[-newest:], others[-newest:], 0.0)
    with pytest.raises(TypeError, match="the state has no field moved"):
        state.replace(moved=1)


def test_unipc_may_begin_at_an_entry():
    scheduler = FlaxUniPCMultistepScheduler(dtype=jnp.float64)
    state, x = scheduler.set_timesteps(scheduler.create_state(), 8, SHAPE), start()
    at = scheduler.set_begin_index(state, 3)
    assert int(at.step_index) == 3
    t = state.timesteps[3]
    expected = scheduler.step(state, x, t, x, True, None).prev_sample  # with a generator
    close(scheduler.step(at, x, None, x).prev_sample, expected, 0.0)
    with pytest.raises(ValueError, match="none of the 8 timesteps"):
        scheduler.set_begin_index(state, 8)
    with pytest.raises(ValueError, match="call set_timesteps before"):
        scheduler.set_begin_index(scheduler.create_state())
