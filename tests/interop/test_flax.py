"""The Flax call shape: against diffusers' torch schedulers; configurations, errors, the page."""

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
from parity.lifted import Draws, reference

import cmsched
import cmsched.interop.flax as interop
from cmsched.interop.flax import FlaxDDIMScheduler, FlaxKarrasVeScheduler, FlaxScoreSdeVeScheduler
from interop.flax_cases import (
    CASES,
    LATENT,
    SHAPE,
    STEPPED,
    STEPS,
    begun,
    close,
    constant,
    drawn,
    made,
    network,
    start,
    theirs_options,
    told,
)

CLASSES = [
    getattr(interop, name) for name in interop.__all__ if re.fullmatch("Flax.*Scheduler", name)
]


# against diffusers


@pytest.mark.parametrize(
    ("name", "n"),
    # diffusers has no Runge-Kutta steps of fewer than four
    # and PyTorch's start a single even step at 0
    [
        (name, n)
        for name in CASES
        for n in (1, 3, STEPS)
        if n > 3 or (name != "pndm" and (n > 1 or name not in ("euler", "lms")))
    ],
)
def test_numbers_are_those_of_diffusers(name, n):
    scheduler = made(name)
    draws = Draws()
    with reference(scheduler.named.__name__, draws, lifted=True) as cls:
        theirs = cls(**theirs_options(name))
        theirs.set_timesteps(n)
        state = begun(scheduler, n)
        times = theirs.timesteps
        close(state.timesteps, times.int() if name.startswith("lms") else times, 2e-3)
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
            both = network(scaled, told(scheduler, t)), network(ours, told(scheduler, i))
            other = theirs.step(both[0], t, other).prev_sample
            z = [jnp.asarray(z.numpy()) for z in draws.handed_over()] or [jnp.zeros(SHAPE)]
            noise = drawn(scheduler, lambda *_, z=z: z[0])
            x, state = scheduler.step(state, both[1], i, x, **noise, return_dict=False)
            close(x, other)


@STEPPED
def test_levels_are_those_of_diffusers(name):
    scheduler = made(name)
    with reference(scheduler.named.__name__, Draws(), lifted=True) as cls:
        theirs = cls(**theirs_options(name))
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
        theirs = cls(**theirs_options(name))
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
    assert cls.named.__name__ in repr(scheduler)
    if cls is not FlaxKarrasVeScheduler:
        assert len(scheduler) == scheduler.config.num_train_timesteps


def test_options_of_the_named_class_are_the_options():
    for cls in CLASSES:
        for name, value in cls.named.options.items():
            assert cls(**{name: value}).config[name] == value
        with pytest.raises(TypeError, match="beta_begin"):
            cls(beta_begin=0.1)


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
    with pytest.raises(ValueError, match="one number for all rows"):
        scheduler.step(state, x, state.timesteps, x)
    with pytest.raises(TypeError, match="timestep must be a number"):
        scheduler.step(state, x, "999", x)
    with pytest.raises(ValueError, match="set_timesteps was given shape"):
        scheduler.step(state, x[:1], 999, x[:1])
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
    with pytest.raises(ImportError, match="pip install jax"):
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
