"""One loop for diffusers' schedulers and ours, on a small function in place of a network."""

import inspect
import warnings

import numpy as np
import torch

import cmsched.interop.diffusers as ours

SHAPE = (2, 4, 3, 2, 2)  # of videos: rows, channels, frames, height, width
NEAR = 1e-4
# their steps take other things, or run from data to noise, or draw from a tree of their own
OTHERS = {
    *("CogVideoXDPMScheduler", "ConsistencyDecoderScheduler", "KarrasVeScheduler"),
    *("RePaintScheduler", "ScoreSdeVeScheduler", "ScoreSdeVpScheduler", "VQDiffusionScheduler"),
    *("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverSDEScheduler"),
}
# an option of diffusers' that it would set, with a warning, in `set_timesteps`
OPTIONS = {"DPMSolverSinglestepScheduler": {"lower_order_final": True}}
COUNTERPARTS = {name: cls for name, cls in ours.ADAPTED.items() if cls._reference}
NAMES = [name for name in COUNTERPARTS if name not in OTHERS]
COUNTED = [name for name in NAMES if hasattr(COUNTERPARTS[name]._reference, "set_begin_index")]


def made(name, **options):
    """Diffusers' scheduler and ours."""
    options = {**OPTIONS.get(name, {}), **options}
    cls = COUNTERPARTS[name]
    with warnings.catch_warnings(action="ignore"):  # diffusers' own of NumPy and itself
        return cls._reference(**options), cls(**options)


def parameters(method):
    return [*inspect.signature(method).parameters.values()]


def takes(method, name):
    return any(parameter.name == name for parameter in parameters(method))


def draws(seed=1):
    return torch.Generator().manual_seed(seed)


def start(scheduler, seed=0):
    """Where a loop begins."""
    return torch.randn(SHAPE, generator=draws(seed)) * getattr(scheduler, "init_noise_sigma", 1.0)


def one_step(scheduler, x, t, generator):
    seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    output = 0.4 * torch.tanh(seen) + 0.1 * seen.roll(1, 1)
    options = {"generator": generator} if takes(scheduler.step, "generator") else {}
    return scheduler.step(output, t, x, return_dict=False, **options)[0]


def loop(scheduler, *, x=None, timesteps=None, before=None, generator=None):
    """A run; before each step, `before(i, x)` may do something and returns the sample."""
    x = start(scheduler) if x is None else x
    generator = generator or draws()
    for i, t in enumerate(scheduler.timesteps if timesteps is None else timesteps):
        x = x if before is None else before(i, x)
        x = one_step(scheduler, x, t, generator)
    return x


def off(a, b):
    """The largest difference, in parts of the range of what is there beyond 1."""
    a, b = (np.asarray(v, dtype=np.float64) for v in (a, b))
    assert a.shape == b.shape
    assert np.isfinite(b).all()
    assert np.ptp(b) > 100 * NEAR
    return np.abs(a - b).max() / max(1.0, np.abs(b).max())
