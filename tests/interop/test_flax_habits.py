"""What the Flax classes take and give back as diffusers' former ones and MaxDiffusion's do."""

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
    FlaxPNDMScheduler,
    FlaxUniPCMultistepScheduler,
)
from interop.flax_cases import (
    EVERY_CLASS,
    SHAPE,
    SUMMED,
    alpha_bars,
    close,
    constant,
    made,
    network,
    start,
)

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
def test_the_file_of_a_config(cls, tmp_path):
    """Read and written as by diffusers' base class."""
    scheduler = cls(num_train_timesteps=321)
    scheduler.save_config(tmp_path)
    config = cls.load_config(tmp_path)
    assert config["num_train_timesteps"] == 321
    scheduler.to_json_file(tmp_path / "again.json")
    texts = scheduler.to_json_string(), (tmp_path / "again.json").read_text()
    for values in (config, *map(json.loads, texts)):
        again = cls.from_config(values).config
        assert {k: again[k] for k in cls.named.options} == {
            k: scheduler.config[k] for k in cls.named.options
        }


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


def test_what_the_former_states_kept_for_their_own_steps():
    """Their running values under names that this state has none of."""
    state = made("plms").set_timesteps(made("plms").create_state(), 5, SHAPE)
    for name in ("cur_sample", "cur_model_output", "prev_timestep", "lower_order_nums"):
        assert not hasattr(state, name)
        with pytest.raises(TypeError, match=f"the state has no field {name}"):
            state.replace(**{name: None})
    assert state.memory


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
