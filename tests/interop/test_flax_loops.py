"""The Flax call shape in every loop that JAX compiles, and its noise."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.lifted import Draws, reference

import cmsched
from cmsched.interop.flax import FlaxDDPMScheduler
from interop.flax_cases import (
    CASES,
    COMPILED,
    SHAPE,
    STEPPED,
    STEPS,
    begun,
    body,
    close,
    constant,
    drawn,
    made,
    network,
    start,
    told,
)


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
    # DDPM's keys are else the reference's, one a step
    compatibility = "paper" if name.startswith("ddpm") else "diffusers"
    scheduler, key = made(name, compatibility=compatibility), jax.random.key(5)
    state = begun(scheduler, STEPS)
    x = start()

    def model(x, t):
        return network(x, told(scheduler, t))

    expected = cmsched.sample(model, state.plan, x, rng=key)
    x = x * state.init_noise_sigma
    for i in range(len(state.timesteps)):
        x, state = body(scheduler, key)(i, (x, state))
    close(x, expected, 1e-12)


@COMPILED
def test_a_loop_may_begin_at_any_step(name):
    scheduler = made(name)
    state, x = begun(scheduler, STEPS), start()
    plan, z = state.plan, np.asarray(constant())
    for k in range(STEPS):
        entry, rest = plan.steps.index(k), plan.skip(k)
        assert len(rest) == len(plan) - entry
        host = cmsched.init(rest, np.asarray(x))._replace(sample=np.asarray(x))
        for row in rest.rows:
            scaled, t = cmsched.model_input(rest, host)
            output = network(scaled, told(scheduler, t))
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
    for own, compatibility in ((dtype, "diffusers"), ("float32", "paper")):
        scheduler = made(name, dtype=jnp.dtype(own), compatibility=compatibility)
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
    exact, rounded = made(name), made(name, dtype=jnp.dtype(dtype))
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
    scheduler = made("ddpm large", compatibility="paper")
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
