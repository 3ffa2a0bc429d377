"""What the tests of the Flax call shape share: cases, a network, loops."""

import jax.numpy as jnp
import numpy as np
import pytest

import cmsched
from cmsched.interop.flax import (
    FlaxDDIMScheduler,
    FlaxDDPMScheduler,
    FlaxDPMSolverMultistepScheduler,
    FlaxEulerDiscreteScheduler,
    FlaxLMSDiscreteScheduler,
    FlaxPNDMScheduler,
    FlaxUniPCMultistepScheduler,
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


def made(name, dtype=jnp.float64, **more):
    cls, config = CASES[name]
    return cls(**{**config, **more}, dtype=dtype)


def network(x, t):
    output = 0.4 * x / (1 + x * x) + 1e-4 * t
    return output.astype(x.dtype) if hasattr(x, "astype") else output


def theirs_options(name):
    """The options of a case and what the Flax class has for other defaults than PyTorch's."""
    cls, config = CASES[name]
    ours, plain = cls.named.options, getattr(cmsched, cls.named.__name__).options
    return {**{k: v for k, v in ours.items() if plain[k] != v}, **config}


def told(scheduler, t):
    """The time that a network is told; LMS cuts it, whatever the level, and tests leave it out."""
    return 0 * t if isinstance(scheduler, FlaxLMSDiscreteScheduler) else t


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
        output = network(both[: len(x)], told(scheduler, t))
        return scheduler.step(state, output, t, x, **drawn(scheduler, key)).to_tuple()

    return one


def close(found, expected, tolerance=1e-9):
    found, expected = (np.asarray(a, np.float64) for a in (found, expected))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# every class with one `step` over betas, and what is stated of their tables

STEPPED_CLASSES = sorted(
    {FlaxUniPCMultistepScheduler, *(cls for cls, _ in CASES.values())},
    key=lambda cls: cls.__name__,
)
EVERY_CLASS = pytest.mark.parametrize("cls", STEPPED_CLASSES)
SUMMED = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02}


def alpha_bars(start=0.0001, end=0.02, n=1000):
    return np.cumprod(1 - np.linspace(start, end, n))
