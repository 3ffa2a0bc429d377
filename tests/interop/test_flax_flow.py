"""MaxDiffusion's schedulers of flows, against statements of their formulas in NumPy."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cmsched
from cmsched.interop.flax import FlaxFlowMatchScheduler, FlaxRectifiedFlowMultistepScheduler
from interop.flax_cases import close, network, start

RF = FlaxRectifiedFlowMultistepScheduler
LOW = 0.003 / 1.002


def shifted(s, shift):
    return shift * s / (1 + (shift - 1) * s)


def flow_sigmas(n, shift=3.0, high=1.0, low=LOW, strength=1.0, extra=False, turn=None):
    """The sigmas of MaxDiffusion's set_timesteps; turn is "reverse" or "inverse"."""
    s = np.linspace(low + (high - low) * strength, low, n + extra)[:n]
    s = shifted(s[::-1] if turn == "inverse" else s, shift)
    return 1 - s if turn == "reverse" else s


FLOW_CASES = {
    "as it is": ({}, {}, {}),
    "wan": (
        {"shift": 5.0, "sigma_min": 0.0, "extra_one_step": True},
        {},
        {"shift": 5.0, "low": 0.0, "extra": True},
    ),
    "sigma 0": ({"sigma_min": 0.0}, {}, {"low": 0.0}),
    "sigma_max": ({"sigma_max": 0.9}, {}, {"high": 0.9}),
    "strength": ({}, {"denoising_strength": 0.4}, {"strength": 0.4}),
    "shift": ({}, {"shift": 1.5}, {"shift": 1.5}),
    "dynamic": ({"use_dynamic_shifting": True}, {"shift": 0.7}, {"shift": np.exp(0.7)}),
    "dynamic, linear": (
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"shift": 2.0},
        {"shift": 2.0},
    ),
    "reverse": ({"reverse_sigmas": True}, {}, {"turn": "reverse"}),
    "inverse": ({"inverse_timesteps": True}, {}, {"turn": "inverse"}),
}


def set_up(case, n, dtype=jnp.float64, **more):
    options, run, _ = FLOW_CASES[case]
    scheduler = FlaxFlowMatchScheduler(**options, dtype=dtype)
    return scheduler, scheduler.set_timesteps(scheduler.create_state(), n, **run, **more)


@pytest.mark.parametrize("case", FLOW_CASES)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_flow_match_levels_and_steps(case, n):
    scheduler, state = set_up(case, n)
    sigmas = flow_sigmas(n, **FLOW_CASES[case][2])
    close(state.sigmas, sigmas)
    close(state.timesteps, 1000 * sigmas)
    assert state.num_inference_steps == n
    assert state.sigmas.dtype == state.timesteps.dtype == jnp.float64
    end = 1.0 if case in ("reverse", "inverse") else 0.0
    levels = [*sigmas, end]
    x, y = start(), np.asarray(start())
    for i, t in enumerate(state.timesteps):
        x, state = scheduler.step(state, network(x, t), t, x, return_dict=False)
        y = y + np.asarray(network(y, 1000 * levels[i])) * (levels[i + 1] - levels[i])
        close(x, y)
    found = cmsched.sample(network, state.plan, start())
    close(found, y)


@pytest.mark.parametrize("case", ["as it is", "reverse"])
def test_flow_match_steps_from_the_nearest_time(case):
    """One for all rows or one per row; to the end at once; by the number of the entry."""
    scheduler, state = set_up(case, 6)
    levels = [*np.asarray(state.sigmas), 1.0 if case == "reverse" else 0.0]
    x, v = start(), start(seed=1)
    times = np.asarray(state.timesteps)
    for step in (scheduler.step, jax.jit(scheduler.step, static_argnums=4)):
        for t in (0.0, times[2] + 3.0, 500.3, 1000.0):
            i = int(np.argmin(np.abs(times - t)))
            close(step(state, v, jnp.asarray(t), x)[0], x + (levels[i + 1] - levels[i]) * v)
            close(step(state, v, jnp.asarray(t), x, True)[0], x + (levels[-1] - levels[i]) * v)
        rows = [int(np.argmin(np.abs(times - t))) for t in (times[5], times[1] - 2)]
        sizes = np.array([levels[i + 1] - levels[i] for i in rows]).reshape(2, 1, 1, 1)
        out = step(state, v, jnp.array([times[5], times[1] - 2]), x)
        close(out.prev_sample, x + sizes * v)
        assert jax.tree.structure(out.state) == jax.tree.structure(state)
    by_number = scheduler.step(state, v, None, x, step_index=4).prev_sample
    close(by_number, x + (levels[5] - levels[4]) * v)
    with pytest.raises(ValueError, match="one number or one per row"):
        scheduler.step(state, v, jnp.zeros((2, 3)), x)


def test_flow_match_in_a_compiled_loop():
    scheduler, state = set_up("as it is", 8)

    @jax.jit
    def loop(x, state):
        def body(i, carry):
            x, state = carry
            t = state.timesteps[i]
            return scheduler.step(state, network(x, t), t, x, return_dict=False)

        return jax.lax.fori_loop(0, 8, body, (x, state))[0]

    close(loop(start(), state), cmsched.sample(network, state.plan, start()), 1e-12)


@pytest.mark.parametrize("terminal", [None, 0.1])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("given", ["number", "sigmas", "timesteps"])
def test_flow_match_as_ltx2_sets_it(terminal, dynamic, given):
    """Explicit lists are shifted, and the levels stretched to end at shift_terminal."""
    config = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "shift": 1.0,
        "shift_terminal": terminal,
        "use_dynamic_shifting": dynamic,
        "base_shift": 0.95,
    }
    scheduler = FlaxFlowMatchScheduler.from_config(config, dtype=jnp.float64)
    n, mu = 5, 1.3
    even = np.linspace(1.0, 1 / n, n) if given != "number" else np.linspace(1.0, LOW, n)
    run = {
        "number": {},
        "sigmas": {"sigmas": jnp.asarray(even)},
        "timesteps": {"timesteps": 1000 * even},
    }[given]
    state = scheduler.set_timesteps_ltx2(scheduler.create_state(), n, shift=mu, **run)
    sigmas = shifted(even, np.exp(mu) if dynamic else mu)
    if terminal:
        sigmas = 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])
    close(state.sigmas, sigmas)
    close(state.timesteps, 1000 * (even if given == "timesteps" else sigmas))
    x, v = start(), start(seed=1)
    then = [*sigmas, 0.0]
    for i, t in enumerate(state.timesteps):
        close(scheduler.step(state, v, t, x)[0], x + (then[i + 1] - then[i]) * v)


def test_flow_match_lists_as_they_are():
    scheduler = FlaxFlowMatchScheduler(dtype=jnp.float64)
    state = scheduler.create_state()
    sigmas = np.array([1.0, 0.75, 0.3])
    for run in ({"sigmas": sigmas}, {"timesteps": 1000 * sigmas}):
        set_ = scheduler.set_timesteps(state, **run)
        close(set_.sigmas, sigmas)
        close(set_.timesteps, 1000 * sigmas)
        assert set_.num_inference_steps == 3
    both = scheduler.set_timesteps(state, sigmas=sigmas, timesteps=[900.0, 500.0, 10.0])
    assert both.timesteps.tolist() == [900, 500, 10]
    close(both.sigmas, sigmas)
    assert len(scheduler.set_timesteps(state).timesteps) == 100


def test_flow_match_training():
    scheduler = FlaxFlowMatchScheduler(dtype=jnp.float64)
    empty = scheduler.create_state()
    assert (empty.timesteps, empty.sigmas, empty.training) == (None, None, False)
    assert empty.num_inference_steps == 0
    state = scheduler.set_timesteps(empty, num_inference_steps=1000, training=True)
    sigmas, n = flow_sigmas(1000), 1000
    bell = np.exp(-2 * ((1000 * sigmas - n / 2) / n) ** 2)
    weights = (bell - bell.min()) * n / (bell - bell.min()).sum()
    assert state.training
    close(state.linear_timesteps_weights, weights)
    x0, noise = start(seed=1), start(seed=2)
    for t in (333.3, np.array([10.0, 990.0])):
        i = np.argmin(np.abs(1000 * sigmas - np.reshape(t, (-1, 1))), axis=1)
        s = sigmas[i].reshape(-1, 1, 1, 1)
        close(scheduler.add_noise(state, x0, noise, jnp.asarray(t)), (1 - s) * x0 + s * noise)
        close(np.atleast_1d(scheduler.training_weight(state, jnp.asarray(t))), weights[i])
        back = scheduler.return_to_timestep(state, jnp.asarray(t), x0, noise)
        close(back, (x0 - noise) / s)
    assert np.array_equal(scheduler.training_target(x0, noise, 5), noise - x0)
    key = jax.random.key(0)
    u = np.asarray(jax.random.uniform(key, (6,)))
    times = scheduler.sample_timesteps(key, 6)
    close(times, 1000 * shifted(u, 3.0), 1e-6)
    assert scheduler.sample_timesteps(key, 1).shape == ()
    noisy, target, own = scheduler.apply_flow_match(noise, x0, times[:2])
    part = (np.asarray(times[:2]) / 1000).reshape(2, 1, 1, 1)
    s = (1 - part) * LOW + part
    close(noisy, (1 - s) * x0 + s * noise, 1e-6)
    assert np.array_equal(target, noise - x0)
    bell = np.exp(-2 * ((np.asarray(times[:2]) - 500) / 1000) ** 2)
    close(own, (bell - bell.min()) * 1000 / (bell - bell.min()).sum(), 1e-6)
    with pytest.raises(ValueError, match=r"set_timesteps.*training=True"):
        scheduler.training_weight(scheduler.set_timesteps(empty, 5), 3.0)
    for call in (scheduler.step, scheduler.add_noise):
        with pytest.raises(ValueError, match="no timesteps yet"):
            call(empty, x0, noise, 5.0) if call == scheduler.add_noise else call(empty, x0, 5.0, x0)


def test_flow_match_refuses():
    with pytest.raises(ValueError, match="both turn the levels round"):
        FlaxFlowMatchScheduler(inverse_timesteps=True, reverse_sigmas=True)
    with pytest.raises(ValueError, match="shift_terminal stretches"):
        FlaxFlowMatchScheduler(shift_terminal=0.1, reverse_sigmas=True)
    with pytest.raises(ValueError, match=r"sigma_max=0\.2 must be above sigma_min=0\.3"):
        FlaxFlowMatchScheduler(sigma_max=0.2, sigma_min=0.3)
    scheduler = FlaxFlowMatchScheduler()
    state = scheduler.create_state()
    with pytest.raises(ValueError, match="denoising_strength must lie in"):
        scheduler.set_timesteps(state, 5, denoising_strength=1.5)
    with pytest.raises(ValueError, match="lie in"):
        scheduler.set_timesteps(state, sigmas=[1.2, 0.5])
    with pytest.raises(ValueError, match="give one each step"):
        scheduler.set_timesteps(state, sigmas=[1.0, 0.5], timesteps=[900.0])


@pytest.mark.parametrize("given", ["float32", "bfloat16"])
def test_dtypes(given):
    for scheduler in (FlaxFlowMatchScheduler(), RF()):
        state = scheduler.set_timesteps(scheduler.create_state(), 4)
        x = start(jnp.dtype(given))
        out = scheduler.step(state, x, state.timesteps[1], x)
        assert out.prev_sample.dtype == state.sigmas.dtype == state.timesteps.dtype == jnp.float32
        half = type(scheduler)(dtype=jnp.bfloat16)
        state = half.set_timesteps(half.create_state(), 4)
        out = half.step(state, x, state.timesteps[1], x)
        assert out.prev_sample.dtype == given
        assert state.sigmas.dtype == jnp.bfloat16


# rectified flow


def linear_quadratic(n, threshold=0.025):
    """LTX-Video's linear-quadratic schedule, by its own coefficients."""
    if n == 1:
        return np.array([1.0])
    even = n // 2
    line = np.arange(even) * threshold / even
    gap, rest = even - threshold * n, n - even
    a = gap / (even * rest**2)
    b = threshold / even - 2 * gap / rest**2
    i = np.arange(even, n)
    return 1 - np.concatenate([line, a * i**2 + b * i + a * even**2])


def sd3(t, tokens, terminal=None):
    mu = 0.95 + (2.05 - 0.95) / (4096 - 1024) * (tokens - 1024)
    t = np.exp(mu) / (np.exp(mu) + (1 / t - 1))
    return t if terminal is None else 1 - (1 - t) * (1 - terminal) / (1 - t[-1])


def simple(t, tokens, base):
    with np.errstate(divide="ignore"):
        snr = np.log((t / (1 - t)) ** 2) + 2 * np.log(tokens / base)
    return 1 / (1 + np.exp(-0.5 * snr))


TOKENS = {(2, 300, 8): 300, (2, 8, 20, 30): 600, (2, 8, 3, 10, 20): 600}
RF_CASES = {
    "uniform": ({}, lambda n, k: np.linspace(1, 1 / n, n)),
    "linear quadratic": ({"sampler": "LinearQuadratic"}, lambda n, k: linear_quadratic(n)),
    "constant": (
        {"sampler": "Constant", "shift": 1.2},
        lambda n, k: np.exp(1.2) / (np.exp(1.2) + 1 / np.linspace(1, 1 / n, n) - 1),
    ),
    "sd3": ({"shifting": "SD3"}, lambda n, k: sd3(np.linspace(1, 1 / n, n), k)),
    "sd3, terminal": (
        {"shifting": "SD3", "target_shift_terminal": 0.1},
        lambda n, k: sd3(np.linspace(1, 1 / n, n), k, 0.1),
    ),
    "simple": (
        {"shifting": "SimpleDiffusion", "base_resolution": 1024},
        lambda n, k: simple(np.linspace(1, 1 / n, n), k, 1024),
    ),
}


@pytest.mark.parametrize("case", RF_CASES)
@pytest.mark.parametrize("shape", TOKENS)
def test_rectified_flow_times_and_steps(case, shape):
    options, rule = RF_CASES[case]
    scheduler = RF(**options, dtype=jnp.float64)
    for n in (2, 5, 12):
        state = scheduler.set_timesteps(scheduler.create_state(), n, shape)
        times = rule(n, TOKENS[shape])
        close(state.timesteps, times)
        close(state.sigmas, times)
        assert state.num_inference_steps == n
        x, y, then = start(), np.asarray(start()), [*times, 0.0]
        for i, t in enumerate(state.timesteps):
            x, state = scheduler.step(state, network(x, t), t, x, return_dict=False)
            y = y - (then[i] - then[i + 1]) * np.asarray(network(y, then[i]))
            close(x, y)
        close(cmsched.sample(network, state.plan, start()), y)
    if "shifting" in options:  # without a shape nothing is shifted
        state = scheduler.set_timesteps(state, 4)
        close(state.timesteps, np.linspace(1, 0.25, 4))


def test_rectified_flow_tokens_have_times_of_their_own():
    """Each goes to the next listed time below its own, as LTX-Video's PyTorch class does."""
    scheduler = RF(sampler="LinearQuadratic", dtype=jnp.float64)
    state = scheduler.set_timesteps(scheduler.create_state(), 5)
    listed = [*linear_quadratic(5), 0.0]
    x, v = (jax.random.normal(jax.random.key(k), (2, 3, 4)) for k in (0, 1))
    for times in (
        jnp.array([[1.0, listed[2], 0.0], [listed[4], 0.5, 0.99]]),
        jnp.array([listed[1], 0.31]),
        jnp.asarray(0.42),
        0.42,
    ):
        now = np.asarray(times, np.float64)
        then = np.vectorize(lambda t: max([s for s in listed if s < t - 1e-6], default=0.0))(now)
        size = (now - then).reshape(*now.shape, *(1,) * (3 - now.ndim))
        for step in (scheduler.step, jax.jit(scheduler.step)):
            close(step(state, v, times, x).prev_sample, x - size * v)
        key = jax.random.key(7)
        z = jax.random.normal(key, x.shape, jnp.float64)
        out = scheduler.step(state, v, times, x, True, True, key).prev_sample
        t, s = (a.reshape(*now.shape, *(1,) * (3 - now.ndim)) for a in (now, then))
        close(out, (1 - s) * (x - t * v) + s * z)
    noisy = scheduler.add_noise(state.common, x, v, jnp.array([0.2, 0.9]))
    t = np.array([0.2, 0.9]).reshape(2, 1, 1)
    close(noisy, (1 - t) * x + t * v)


def test_rectified_flow_files(tmp_path):
    config = {
        "_class_name": "RectifiedFlowScheduler",
        "_diffusers_version": "0.25.1",
        "num_train_timesteps": 1000,
        "shifting": None,
        "base_resolution": None,
        "sampler": "LinearQuadratic",
    }
    scheduler = RF.from_config(config)
    state = scheduler.set_timesteps(scheduler.create_state(), 5, (1, 256, 128))
    close(state.timesteps, linear_quadratic(5), 1e-6)
    assert state.init_noise_sigma == 1.0
    assert state.common.betas.shape == (1000,)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    assert RF.from_pretrained_jax(tmp_path).config.sampler == "LinearQuadratic"
    header = {"__metadata__": {"config": json.dumps({"scheduler": config})}}
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    assert (
        RF.from_pretrained_jax(tmp_path / "model.safetensors").config.sampler == config["sampler"]
    )
    (tmp_path / "none.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ValueError, match="no configuration of a scheduler"):
        RF.from_pretrained_jax(tmp_path / "none.safetensors")


def test_rectified_flow_refuses():
    with pytest.raises(ValueError, match='sampler="Constant" needs shift='):
        RF(sampler="Constant")
    with pytest.raises(ValueError, match="sampler='Linear' is not one of"):
        RF(sampler="Linear")
    with pytest.raises(ValueError, match="base_resolution must be positive"):
        RF(base_resolution=0)
    with pytest.raises(ValueError, match="target_shift_terminal must lie in"):
        RF(target_shift_terminal=1.5)
    scheduler, x = RF(), start(jnp.float32)
    state = scheduler.create_state()
    with pytest.raises(ValueError, match="no timesteps yet"):
        scheduler.step(state, x, 1.0, x)
    for wrong in ({}, {"num_inference_steps": 3, "timesteps": [1.0, 0.5]}):
        with pytest.raises(ValueError, match="pass exactly one of"):
            scheduler.set_timesteps(state, **wrong)
    with pytest.raises(ValueError, match="samples_shape must be"):
        scheduler.set_timesteps(state, 5, (2, 3))
    state = scheduler.set_timesteps(state, timesteps=[1.0, 0.5])
    assert state.timesteps.tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="needs generator="):
        scheduler.step(state, x, 1.0, x, stochastic_sampling=True)
    with pytest.raises(ValueError, match="one number, one per row or one per token"):
        scheduler.step(state, x, jnp.zeros(3), x)
    assert len(scheduler.set_timesteps(scheduler.create_state(), 2000).timesteps) == 1000
