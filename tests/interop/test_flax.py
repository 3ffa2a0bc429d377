"""The Flax call shape: against diffusers' torch schedulers, and in every loop that JAX compiles."""

import functools
import json
import pickle
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.lifted import Draws, own_tables, reference

import cmsched
import cmsched.interop.flax as interop
from cmsched.interop.flax import (
    FlaxDDIMScheduler,
    FlaxDDPMScheduler,
    FlaxDPMSolverMultistepScheduler,
    FlaxEulerDiscreteScheduler,
    FlaxKarrasVeScheduler,
    FlaxLMSDiscreteScheduler,
    FlaxPNDMScheduler,
    FlaxScoreSdeVeScheduler,
)

SHAPE = (2, 3, 4, 4)
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
V = {**LATENT, "prediction_type": "v_prediction"}
DPM = FlaxDPMSolverMultistepScheduler
CASES = {
    "ddim": (FlaxDDIMScheduler, {}),
    "ddim latent": (
        FlaxDDIMScheduler,
        {**LATENT, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
    ),
    "ddim v trailing": (
        FlaxDDIMScheduler,
        {**V, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    ),
    "ddpm": (FlaxDDPMScheduler, {}),
    "ddpm large": (FlaxDDPMScheduler, {**V, "variance_type": "fixed_large", "clip_sample": False}),
    "dpm": (DPM, LATENT),
    "dpm 3": (
        DPM,
        {
            **LATENT,
            "solver_order": 3,
            "algorithm_type": "dpmsolver",
            "final_sigmas_type": "sigma_min",
        },
    ),
    "dpm karras": (DPM, {**V, "use_karras_sigmas": True, "solver_type": "heun"}),
    "dpm sde": (DPM, {**LATENT, "algorithm_type": "sde-dpmsolver++"}),
    "euler": (FlaxEulerDiscreteScheduler, LATENT),
    "euler leading": (FlaxEulerDiscreteScheduler, {**V, "timestep_spacing": "leading"}),
    "lms": (FlaxLMSDiscreteScheduler, LATENT),
    "lms v": (FlaxLMSDiscreteScheduler, {**V, "timestep_spacing": "leading"}),
    "pndm": (FlaxPNDMScheduler, {}),
    "plms": (
        FlaxPNDMScheduler,
        {**LATENT, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
    ),
}
STEPPED = pytest.mark.parametrize("name", CASES)
COMPILED = pytest.mark.parametrize(  # one of each kind: compiling is what takes the time
    "name", ["ddim latent", "ddpm large", "dpm 3", "dpm sde", "euler", "lms", "pndm", "plms"]
)
STEPS = 8
CLASSES = [
    getattr(interop, name) for name in interop.__all__ if re.fullmatch("Flax.*Scheduler", name)
]


@pytest.fixture(autouse=True)
def lifted_tables():
    """Our tables are in float64, as those are that they are compared with."""
    with own_tables(lifted=True):
        yield


def made(name, dtype=jnp.float64, **more):
    cls, config = CASES[name]
    return cls(**{**config, **more}, dtype=dtype)


def network(x, t):
    return 0.4 * x / (1 + x * x) + 1e-4 * t


def start(dtype=jnp.float64, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(SHAPE), dtype)


def constant(*_):
    """What is given as a key where the noise is to be the same in two loops."""
    return start(seed=7)


def begun(scheduler, n, shape=SHAPE, **options):
    return scheduler.set_timesteps(scheduler.create_state(), n, shape, **options)


def drawn(scheduler, key):
    """The key, for a class that takes one."""
    return {"key": key} if "key" in scheduler.step_options or "sde" in str(scheduler.config) else {}


def body(scheduler, key=None, cut=False):
    """The body of the former pipelines' fori_loop."""

    def one(i, carry):
        x, state = carry
        t = jnp.array(state.timesteps, *([jnp.int32] if cut else []))[i]
        both = jnp.concatenate([x] * 2)
        both = scheduler.scale_model_input(state, both, t)
        output = network(both[: len(x)], t)
        return scheduler.step(state, output, t, x, **drawn(scheduler, key)).to_tuple()

    return one


def close(found, expected, tolerance=1e-9):
    found, expected = (np.asarray(a, np.float64) for a in (found, expected))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# against diffusers


@pytest.mark.parametrize(
    ("name", "n"),
    # diffusers has no Runge-Kutta steps of fewer than four
    [(name, n) for name in CASES for n in (1, 3, STEPS) if name != "pndm" or n > 3],
)
def test_numbers_are_those_of_diffusers(name, n):
    scheduler = made(name)
    draws = Draws()
    with reference(scheduler.named.__name__, draws, lifted=True) as cls:
        theirs = cls(**CASES[name][1])
        theirs.set_timesteps(n)
        state = begun(scheduler, n)
        close(state.timesteps, theirs.timesteps)
        close(state.init_noise_sigma, theirs.init_noise_sigma)
        assert state.num_inference_steps == n
        if hasattr(theirs, "sigmas"):
            close(state.sigmas, theirs.sigmas)
        x = start() * state.init_noise_sigma
        other = torch.tensor(np.asarray(x))
        for t, i in zip(theirs.timesteps, state.timesteps, strict=True):
            scaled = theirs.scale_model_input(other, t)
            ours = scheduler.scale_model_input(state, x, i)
            close(ours, scaled)
            other = theirs.step(network(scaled, t), t, other).prev_sample
            z = [jnp.asarray(z.numpy()) for z in draws.handed_over()] or [jnp.zeros(SHAPE)]
            noise = drawn(scheduler, lambda *_, z=z: z[0])
            x, state = scheduler.step(state, network(ours, i), i, x, **noise, return_dict=False)
            close(x, other)


@STEPPED
def test_levels_are_those_of_diffusers(name):
    scheduler = made(name)
    with reference(scheduler.named.__name__, Draws(), lifted=True) as cls:
        theirs = cls(**CASES[name][1])
        state = scheduler.create_state()
        close(state.common.alphas_cumprod, theirs.alphas_cumprod, 1e-8)
        close(state.common.betas, theirs.betas, 1e-8)
        theirs.set_timesteps(STEPS)  # before that some of theirs find no level
        state = scheduler.set_timesteps(state, STEPS)
        x0, noise = start(seed=1), start(seed=2)
        host = [torch.tensor(np.asarray(a)) for a in (x0, noise)]
        add_noise = jax.jit(scheduler.add_noise)
        for i in ([0, 0], [2, 5], [7, 3]):
            expected = theirs.add_noise(*host, theirs.timesteps[i])
            for function in (scheduler.add_noise, add_noise):
                close(function(state, x0, noise, state.timesteps[np.array(i)]), expected, 1e-8)
        if hasattr(theirs, "get_velocity"):
            expected = theirs.get_velocity(*host, theirs.timesteps[[1, 6]])
            if name.startswith("euler"):  # theirs takes the number of an entry for a training step
                sigma = theirs.sigmas[[1, 6]].reshape(2, 1, 1, 1)
                expected = (host[1] - sigma * host[0]) / (1 + sigma**2) ** 0.5
            found = scheduler.get_velocity(state, x0, noise, state.timesteps[np.array([1, 6])])
            close(found, expected, 1e-8)


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("dpm", "ddim", "euler"))])
def test_a_late_start_is_that_of_diffusers(name):
    scheduler, n, k = made(name), 9, 4
    draws = Draws()
    with reference(scheduler.named.__name__, draws, lifted=True) as cls:
        theirs = cls(**CASES[name][1])
        theirs.set_timesteps(n)
        if hasattr(theirs, "set_begin_index"):
            theirs.set_begin_index(k)
        state, x = begun(scheduler, n), start()
        other = torch.tensor(np.asarray(x))
        for t in theirs.timesteps[k:]:
            scaled = theirs.scale_model_input(other, t)
            other = theirs.step(network(scaled, t), t, other).prev_sample
            z = [jnp.asarray(z.numpy()) for z in draws.handed_over()] or [jnp.zeros(SHAPE)]
            i = jnp.asarray(t.numpy())
            output = network(scheduler.scale_model_input(state, x, i), i)
            noise = drawn(scheduler, lambda *_, z=z: z[0])
            x, state = scheduler.step(state, output, i, x, **noise).to_tuple()
            close(x, other)


def test_karras_ve_is_that_of_diffusers():
    scheduler = FlaxKarrasVeScheduler(dtype=jnp.float64)
    noised = jax.jit(scheduler.add_noise_to_input, static_argnums=3)
    for n in (2, 5):
        with reference("KarrasVeScheduler", Draws(), lifted=True) as cls:
            theirs = cls()
            theirs.set_timesteps(n)
            state = scheduler.set_timesteps(scheduler.create_state(), n)
            close(state.schedule, theirs.schedule)
            close(state.timesteps, theirs.timesteps)
            close(state.init_noise_sigma, theirs.init_noise_sigma)
            x, noise = start(), start(seed=1)
            z = functools.partial(lambda noise, *_: noise, noise)
            for t in state.timesteps[:-1]:
                sigma, following = state.schedule[t], state.schedule[t - 1]
                hat, level = noised(state, x, sigma, z)
                _, expected = theirs.add_noise_to_input(torch.tensor(np.asarray(x)), float(sigma))
                close(level, expected, 1e-8)
                grown = (expected**2 - float(sigma) ** 2) ** 0.5
                close(hat, x + 1.007 * grown * noise, 1e-8)
                own = scheduler._named  # the named class, at the same noise
                own.set_timesteps(n)
                close(hat, own.add_noise_to_input(x, float(sigma), z)[0], 1e-8)
                args = [network(hat, 1.0), float(level), float(following), hat]
                host = [torch.tensor(np.asarray(a)) if hasattr(a, "shape") else a for a in args]
                out, other = scheduler.step(state, *args), theirs.step(*host)
                close(out.prev_sample, other.prev_sample, 1e-8)
                close(out.derivative, other.derivative, 1e-8)
                args += [out.prev_sample, out.derivative]
                host += [other.prev_sample, other.derivative]
                args[0], host[0] = network(out.prev_sample, 2.0), network(other.prev_sample, 2.0)
                x, _, same = scheduler.step_correct(state, *args, return_dict=False)
                close(x, theirs.step_correct(*host).prev_sample, 1e-8)
                assert same is state


@pytest.mark.parametrize("n", [2, 7])
def test_score_sde_is_that_of_diffusers(n):
    scheduler = FlaxScoreSdeVeScheduler(dtype=jnp.float64)
    with reference("ScoreSdeVeScheduler", Draws(), lifted=True) as cls:
        theirs = cls()
        theirs.set_timesteps(n, 1e-4)
        theirs.set_sigmas(n, sigma_min=0.1)
        state = scheduler.set_timesteps(scheduler.create_state(), n, sampling_eps=1e-4)
        state = scheduler.set_sigmas(state, n, sigma_min=0.1)
        for name in ("timesteps", "sigmas", "discrete_sigmas"):
            close(getattr(state, name), getattr(theirs, name), 1e-8)
        x, output = start(), start(seed=1)
        host = [torch.tensor(np.asarray(a)) for a in (output, x)]
        step, z = jax.jit(scheduler.step_pred, static_argnums=4), start(seed=7)
        for i, t in enumerate(theirs.timesteps):
            out = step(state, output, state.timesteps[i], x, constant)
            expected = theirs.step_pred(host[0], t, host[1]).prev_sample_mean
            close(out.prev_sample_mean, expected, 1e-8)
            levels = [*np.asarray(state.discrete_sigmas)[::-1], 0.0]
            std = np.sqrt(levels[i] ** 2 - levels[i + 1] ** 2) if i + 1 < n else 0.0
            close(out.prev_sample, out.prev_sample_mean + std * z, 1e-8)
        numbers = jnp.array([0, n - 1, 1])
        close(
            scheduler.get_adjacent_sigma(state, numbers, jnp.zeros(3)),
            theirs.get_adjacent_sigma(torch.tensor([0, n - 1, 1]), torch.zeros(3)),
        )
        once = scheduler.step_correct(state, output, x, constant)
        norm = [np.linalg.norm(np.asarray(a).reshape(2, -1), axis=1).mean() for a in (z, output)]
        size = 2 * (0.15 * norm[0] / norm[1]) ** 2
        close(once.prev_sample, x + size * output + np.sqrt(2 * size) * z)
        key = jax.random.key(3)
        first, second = (scheduler.step_correct(state, output, x, key)[0] for _ in range(2))
        assert np.array_equal(first, second)  # nothing is counted behind the state's back


# in compiled loops


@functools.cache
def compiled(name):
    """The loop of the former pipelines, from the entry `first` on."""
    scheduler = made(name)

    def loop(first, x, state):
        last = len(state.timesteps)
        return jax.lax.fori_loop(first, last, body(scheduler, constant), (x, state))

    return jax.jit(loop)


@COMPILED
def test_compiled_loops_are_the_loop_by_hand(name):
    scheduler = made(name)
    state = begun(scheduler, STEPS)
    x = start() * state.init_noise_sigma
    expected = x, state
    for i in range(len(state.timesteps)):
        expected = body(scheduler, constant)(i, expected)
    found, after = compiled(name)(0, x, state)
    close(found, expected[0], 1e-12)
    assert int(after.index) == int(expected[1].index) == len(state.plan)

    @jax.jit  # the timesteps set inside, as the former pipelines do in pmap; and a scan
    def whole(x, state):
        state = scheduler.set_timesteps(state, STEPS, shape=x.shape)
        one = body(scheduler, constant)
        places = jnp.arange(len(state.timesteps))
        return jax.lax.scan(lambda carry, i: (one(i, carry), None), (x, state), places)[0][0]

    close(whole(x, scheduler.create_state()), expected[0], 1e-12)


@STEPPED
def test_a_loop_is_that_of_the_plan(name):
    scheduler, key = made(name), jax.random.key(5)
    state = begun(scheduler, STEPS)
    x = start()
    expected = cmsched.sample(network, state.plan, x, rng=key)
    x = x * state.init_noise_sigma
    for i in range(len(state.timesteps)):
        x, state = body(scheduler, key)(i, (x, state))
    close(x, expected, 1e-12)


@COMPILED
def test_a_loop_may_begin_at_any_step(name):
    state, x = begun(made(name), STEPS), start()
    plan, z = state.plan, np.asarray(constant())
    for k in range(STEPS):
        entry, rest = plan.steps.index(k), plan.skip(k)
        assert len(rest) == len(plan) - entry
        host = cmsched.init(rest, np.asarray(x))._replace(sample=np.asarray(x))
        for row in rest.rows:
            output = network(*cmsched.model_input(rest, host))
            host = cmsched.step(rest, host, output, noise=(z,) * len(row.draws) or None)
        found, after = compiled(name)(entry, x, state)
        close(found, host.sample, 1e-12)
        assert int(after.index) == len(plan)
    assert compiled(name)._cache_size() == 1


@COMPILED
def test_a_loop_may_begin_again(name):
    scheduler = made(name)
    state, x = begun(scheduler, STEPS), start()
    first, over = compiled(name)(0, x, state)
    close(compiled(name)(0, x, over)[0], first, 1e-12)
    if not state.memory:
        for t in state.timesteps:  # nor need the state be carried
            output = network(scheduler.scale_model_input(state, x, t), t)
            x = scheduler.step(state, output, t, x, **drawn(scheduler, constant)).prev_sample
        close(x, first, 1e-12)


def test_times_may_be_cut_to_whole_numbers():
    scheduler = made("euler")
    state = begun(scheduler, 7)
    assert np.any(np.asarray(state.timesteps) % 1 > 0.1)

    def loop(cut, first):
        def one(i, carry):
            x, state = carry
            t = jnp.array(state.timesteps, *([jnp.int32] if cut else []))[i]
            return scheduler.step(state, scheduler.scale_model_input(state, x, t), t, x).to_tuple()

        return jax.lax.fori_loop(first, 7, one, (start(), state))[0]

    whole, cut = (jax.jit(functools.partial(loop, cut)) for cut in (False, True))
    for first in (0, 3):
        close(whole(first), cut(first), 1e-15)  # two programs: a compiler may fuse differently


@STEPPED
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_state_keeps_its_structure_and_dtypes(name, dtype):
    for own in (jnp.float32, jnp.dtype(dtype)):
        scheduler = made(name, dtype=own)
        state, x = begun(scheduler, 20), start(dtype)
        out = jax.eval_shape(functools.partial(body(scheduler, jax.random.key(0)), 0), (x, state))
        kinds = [
            [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]
            for tree in ((jax.eval_shape(lambda c: c, (x, state))), out)
        ]
        assert kinds[0] == kinds[1]
        assert jax.tree.structure(out) == jax.tree.structure((x, state))
        assert state.init_noise_sigma.dtype == state.common.betas.dtype == own
        assert state.table.numbers.dtype == np.float32


@pytest.mark.parametrize("name", ["ddpm large", "dpm", "euler"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_half_precision_is_near(name, dtype):
    exact, rounded = made(name), made(name, dtype=jnp.float32)
    wanted = compiled(name)(5, start(), begun(exact, STEPS))[0]
    found = start(dtype), begun(rounded, STEPS)
    for i in range(5, STEPS):
        found = body(rounded, lambda *_: constant().astype(dtype))(i, found)
    assert found[0].dtype == dtype
    close(found[0], wanted, {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}[dtype])


@pytest.mark.parametrize("name", ["ddpm large", "dpm 3"])
def test_states_replicate_and_map(name):
    state = begun(made(name), STEPS)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), state)
    x = jnp.stack([start(seed=1), start(seed=2)])
    mapped = jax.vmap(functools.partial(compiled(name), 0))(x, many)[0]
    for k in range(2):
        close(mapped[k], compiled(name)(0, x[k], state)[0], 1e-12)
    one = jax.tree.map(lambda leaf: leaf[:1], (x, many))
    close(jax.pmap(functools.partial(compiled(name), 0))(*one)[0][0], mapped[0], 1e-12)


@COMPILED
def test_a_state_may_be_donated(name):
    scheduler = made(name, dtype=jnp.float32)
    kept = begun(scheduler, 6)
    step = jax.jit(body(scheduler, lambda *_: constant().astype("float32")), donate_argnums=1)
    state, x = scheduler.set_timesteps(kept.replace(common=None), 6, SHAPE), start(jnp.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(len(state.timesteps)):
            before = x, state
            x, state = step(i, before)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert step._cache_size() == 1
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(kept))
    begun(scheduler, 6).table.numbers.block_until_ready()


# noise


def test_one_key_gives_other_noise_at_every_step():
    scheduler = made("ddpm large")
    state, x, key = begun(scheduler, 6), start(), jax.random.key(0)
    zero = jnp.zeros(SHAPE)
    added = []
    for t in state.timesteps:
        mean = scheduler.step(state, zero, t, x, lambda *_: zero)[0]
        added.append(np.asarray(scheduler.step(state, zero, t, x, key)[0] - mean).ravel())
    norms = [np.linalg.norm(a) for a in added]
    assert all(
        abs(added[i] @ added[j]) <= 0.4 * norms[i] * norms[j] for i in range(6) for j in range(i)
    )
    with pytest.raises(ValueError, match=r"draws noise: pass key=jax.random.key\(0\)"):
        scheduler.step(state, zero, 0, x)


def test_eta_adds_the_noise_that_it_takes_from_the_direction():
    scheduler = made("ddim latent")
    state, x, key = begun(scheduler, 6), start(), jax.random.key(0)
    output = start(seed=4)
    for t in state.timesteps:
        found = scheduler.step(state, output, t, x, 0.7, key=key)
        other = begun(scheduler, 6, eta=0.7)
        close(found[0], scheduler.step(other, output, t, x, key=key)[0], 1e-15)
        with reference("DDIMScheduler", Draws(), lifted=True) as cls:
            theirs = cls(**CASES["ddim latent"][1])
            theirs.set_timesteps(6)
            z = start(seed=6)
            host = [torch.tensor(np.asarray(a)) for a in (output, x, z)]
            expected = theirs.step(host[0], int(t), host[1], eta=0.7, variance_noise=host[2])[0]
            close(scheduler.step(state, output, t, x, 0.7, key=lambda *_: z)[0], expected)
    with pytest.raises(ValueError, match="pass key="):
        scheduler.step(state, output, t, x, eta=0.7)


def test_learned_variances():
    config = {"variance_type": "learned_range", "clip_sample": False}
    scheduler = FlaxDDPMScheduler(**config, dtype=jnp.float64)
    draws = Draws()
    with reference("DDPMScheduler", draws, lifted=True) as cls:
        theirs = cls(**config)
        theirs.set_timesteps(5)
        state, x = begun(scheduler, 5), start()
        output = jnp.concatenate([start(seed=1), jnp.tanh(start(seed=2))], axis=1)
        for t in theirs.timesteps:
            expected = theirs.step(
                *(torch.tensor(np.asarray(a)) for a in (output, t, x))
            ).prev_sample
            z = [jnp.asarray(z.numpy()) for z in draws.handed_over()] or [jnp.zeros(SHAPE)]
            x, state = scheduler.step(state, output, int(t), x, lambda *_, z=z: z[0], False)
            close(x, expected)


# configurations


@pytest.mark.parametrize("cls", CLASSES)
def test_files_of_the_former_classes_load(cls, tmp_path):
    folder = tmp_path / "scheduler"
    folder.mkdir()
    config = {"_class_name": cls.__name__, "_diffusers_version": "0.30.0"}
    config |= {"trained_betas": None, **LATENT} if "beta_start" in cls.named.options else {}
    (folder / "scheduler_config.json").write_text(json.dumps(config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler, state = cls.from_pretrained(tmp_path, subfolder="scheduler", dtype=jnp.bfloat16)
    assert type(scheduler) is cls
    assert scheduler.dtype == jnp.bfloat16
    assert scheduler.config.get("beta_end", 0.012) == 0.012
    assert state.init_noise_sigma.dtype == jnp.bfloat16
    scheduler.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "scheduler_config.json").read_text())
    assert saved["_class_name"] == cls.named.__name__
    loaded = cls.named.from_pretrained(tmp_path / "again")
    assert all(loaded.config[name] == scheduler.config[name] for name in cls.named.options)
    again, _, unused = cls.from_pretrained(tmp_path / "again", return_unused_kwargs=True, other=1)
    assert unused["other"] == 1
    assert "dtype" not in again.config
    assert cls.__name__ in repr(scheduler)
    if cls is not FlaxKarrasVeScheduler:
        assert len(scheduler) == scheduler.config.num_train_timesteps


def test_options_of_the_named_class_are_the_options():
    for cls in CLASSES:
        for name, value in cls.named.options.items():
            assert cls(**{name: value}).config[name] == value
        with pytest.raises(TypeError, match="beta_begin"):
            cls(beta_begin=0.1)
    paper = FlaxEulerDiscreteScheduler(compatibility="paper")
    copied = FlaxEulerDiscreteScheduler()
    assert begun(paper, 1).timesteps[0] == 999  # see the README's differences
    assert begun(copied, 1).timesteps[0] == 0


def test_options_of_a_run():
    scheduler, x0 = made("dpm"), start()
    state = begun(scheduler, None, timesteps=[900, 400, 100])
    assert state.timesteps.tolist() == [900, 400, 100]
    state = begun(scheduler, 10, strength=0.6)
    assert state.timesteps.shape == (6,)
    noisy = scheduler.add_noise(state, x0, start(seed=1), state.timesteps[0])
    expected = cmsched.init(state.plan, start(seed=1), x0=x0).sample
    close(noisy, expected, 1e-6)
    order = begun(made("lms"), 6, solver_order=2)
    assert len(order.memory) == 1


def test_a_state_shares_the_tables_of_another():
    one = made("ddim")
    common = one.create_state().common
    state = made("dpm", **dict.fromkeys([]), beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    assert state.create_state(common).common is common
    with pytest.raises(ValueError, match="common holds other betas"):
        made("dpm").create_state(common)
    with pytest.raises(ValueError, match="has no betas"):
        FlaxKarrasVeScheduler().create_state(common)


# errors


def test_errors_say_what_to_do():
    scheduler = made("dpm")
    state, x = scheduler.create_state(), start()
    with pytest.raises(ValueError, match=r"set_timesteps\(state, num_inference_steps, shape="):
        scheduler.step(state, x, 999, x)
    with pytest.raises(ValueError, match="set_timesteps"):
        made("euler").scale_model_input(state, x, 999)
    unshaped = begun(scheduler, 5, shape=())
    with pytest.raises(ValueError, match=r"call set_timesteps.*shape=\(2, 3, 4, 4\)"):
        jax.jit(scheduler.step)(unshaped, x, 999, x)
    t = unshaped.timesteps[0]
    close(
        scheduler.step(unshaped, x, t, x)[0],  # made at the first step
        scheduler.step(begun(scheduler, 5), x, t, x)[0],
        0.0,
    )
    state = begun(scheduler, 5)
    with pytest.raises(ValueError, match="timestep 998 is not one of the state's timesteps"):
        scheduler.step(state, x, 998, x)
    with pytest.raises(ValueError, match="one number for all rows"):
        scheduler.step(state, x, state.timesteps, x)
    with pytest.raises(TypeError, match="timestep must be a number"):
        scheduler.step(state, x, "999", x)
    with pytest.raises(ValueError, match="set_timesteps was given shape"):
        scheduler.step(state, x[:1], 999, x[:1])
    with pytest.raises(ValueError, match="make the scheduler with dtype='float32'"):
        scheduler.step(state, x, 999, x.astype(jnp.float32))
    with pytest.raises(TypeError, match="sample must be a JAX array, got a ndarray of numpy"):
        scheduler.step(state, x, 999, np.asarray(x))
    with pytest.raises(ValueError, match="output"):
        scheduler.step(state, x[:, :1], 999, x)
    with pytest.raises(TypeError, match="takes 1 arguments by position"):
        scheduler.step(state, x, 999, x, True, None)
    with pytest.raises(TypeError, match="no option 'eta_'"):
        made("ddim").step(begun(made("ddim"), 5), x, 800, x, eta_=1.0)
    with pytest.raises(ValueError, match="give its options to set_timesteps"):
        made("lms").step(begun(made("lms"), 5), x, 999, x, order=2)
    assert made("lms").step(begun(made("lms"), 5), x, 999, x, order=4).state.index == 1
    with pytest.raises(ValueError, match="num_inference_steps"):
        begun(scheduler, 0)
    with pytest.raises(TypeError, match="dtype"):
        FlaxDDIMScheduler(dtype=jnp.int32)
    karras = FlaxKarrasVeScheduler()
    with pytest.raises(ValueError, match="no timesteps yet"):
        karras.step(karras.create_state(), x, 1.0, 0.5, x)


@pytest.mark.parametrize("name", ["ddim", "dpm karras", "euler", "lms", "pndm"])
def test_a_state_of_another_scheduler(name):
    """Another class, schedule or prediction: every call refuses it, inside jit too."""
    scheduler, x = made(name), start()
    prediction = "sample" if scheduler.config.prediction_type == "epsilon" else "epsilon"
    others = [made(name, beta_end=0.01), made(name, prediction_type=prediction), made("ddpm")]
    for other in others:
        state = begun(other, 5)
        t = state.timesteps[0]
        for call in (scheduler.step, functools.partial(jax.eval_shape, scheduler.step)):
            with pytest.raises(ValueError, match=r"another class or configuration.*set_timesteps"):
                call(state, x, t, x)
        with pytest.raises(ValueError, match="another class or configuration"):
            scheduler.add_noise(state, x, x, t)
    with pytest.raises(ValueError, match="another class or configuration"):
        made("euler").scale_model_input(begun(made("ddpm"), 5), x)
    for options in ({}, {"strength": 0.6}):  # of a run, and an equal scheduler's
        state = begun(made(name), 5, **options)
        assert int(scheduler.step(state, x, None, x).state.index) == 1
    karras = FlaxKarrasVeScheduler()
    with pytest.raises(ValueError, match="than this FlaxKarrasVeScheduler"):
        karras.step(state, x, 1.0, 0.5, x)
    score = FlaxScoreSdeVeScheduler()
    with pytest.raises(ValueError, match="than this FlaxScoreSdeVeScheduler"):
        score.step_pred(state, x, 0.5, x, jax.random.key(0))


def test_outputs_are_trees_and_mappings():
    scheduler = made("dpm")
    state, x = begun(scheduler, 5), start()
    out = jax.jit(scheduler.step)(state, x, 999, x)
    assert isinstance(out, interop.FlaxSchedulerOutput)
    assert out["prev_sample"] is out[0] is out.prev_sample is out.to_tuple()[0]
    assert out.state.index == 1
    assert state.replace(index=3).index == 3
    assert int(state.index) == 0


@pytest.mark.parametrize("name", interop.__all__)
def test_classes_are_of_this_module(name):
    """Wherever they are written: pickles name it."""
    cls = getattr(interop, name)
    assert cls.__module__ == "cmsched.interop.flax"
    assert pickle.loads(pickle.dumps(cls)) is cls


def test_without_jax(monkeypatch):
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "cmsched.interop.flax")
    with pytest.raises(ImportError, match=r'pip install "cmsched\[jax\]"'):
        importlib.import_module("cmsched.interop.flax")


# the page


PAGE = Path(interop.__file__).with_name("flax.md")
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text() if PAGE.exists() else "", re.M | re.S)


@pytest.mark.parametrize("code", CODE)
def test_the_page_runs(code, tmp_path, monkeypatch):
    (tmp_path / "model" / "scheduler").mkdir(parents=True)
    config = {"_class_name": "FlaxDDIMScheduler", **LATENT}
    (tmp_path / "model" / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    with jax.enable_x64(False):
        exec(compile(code, "flax.md", "exec"), {})
