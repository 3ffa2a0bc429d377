"""What the tests of the named schedulers share: every class, settings of its options, and loops."""

import warnings
from importlib.util import find_spec

import array_api_compat.numpy
import numpy as np
from conftest import Backend, few

import cmsched
from cmsched import schedulers

ZERO_SNR = [
    {"rescale_betas_zero_snr": True, "beta_start": 0.00085, "beta_end": 0.012, **spacing}
    for spacing in ({}, {"timestep_spacing": "trailing"})
]
# Those whose steps come from a plan; the one over tokens has tests of its own.
CLASSES = {
    name: cls
    for name, cls in schedulers.CLASSES.items()
    if issubclass(cls, schedulers.SchedulerMixin) and cls.__module__.startswith(schedulers.__name__)
}
NUMPY = Backend("numpy", "numpy", array_api_compat.numpy)

# Option sets; a class is visited with those whose options it has, so a new one needs no line here.
SETTINGS = [
    {},
    *({"timestep_spacing": spacing} for spacing in ("linspace", "leading", "trailing")),
    *({"prediction_type": kind} for kind in ("sample", "v_prediction")),
    *({"beta_schedule": name} for name in ("linear", "scaled_linear", "squaredcos_cap_v2")),
    {"steps_offset": 1, "timestep_spacing": "leading"},
    {"num_train_timesteps": 40},
    *({"prediction_type": "v_prediction", **more} for more in ZERO_SNR),
    {"clip_sample": True},
    {"clip_sample": False},
    {"clip_denoised": False},
    {"thresholding": True, "sample_max_value": 1.5},
    {"set_alpha_to_one": False},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    *([{"use_beta_sigmas": True}] if find_spec("scipy") else []),
    {"use_lu_lambdas": True},
    {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
    {"final_sigmas_type": "sigma_min"},
    {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True},
    {"final_sigmas_type": "sigma_min", "timestep_spacing": "leading"},
    {"timestep_type": "continuous", "prediction_type": "v_prediction"},
    {"interpolation_type": "log_linear"},
    {"sigma_min": 0.1, "sigma_max": 10.0, "use_karras_sigmas": True},
    *({"solver_order": order} for order in (1, 3)),
    {"algorithm_type": "sde-dpmsolver++"},
    {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "euler_at_final": True},
    {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
    {"lambda_min_clipped": -5.1},
    {"solver_order": 3, "lower_order_final": False},
    {"predict_x0": False},
    {"disable_corrector": [1]},
    *({"variance_type": name} for name in ("fixed_large", "fixed_small_log", "learned_range")),
    {"s_noise": 1.01},
    {"sigma_schedule": "exponential", "final_sigmas_type": "sigma_min"},
    {"original_inference_steps": 30},
    *({"sampler": name} for name in ("ddim", "heun", "euler_ancestral")),
    {"schedule": "flow", "prediction_type": "flow_prediction"},
    {"spacing": "karras"},
    *({"shift": shift} for shift in (0.5, 3.0)),
    {"invert_sigmas": True, "shift": 3.0},
    {"stochastic_sampling": True},
    {"sde_eta": 0.7},
    {"skip_prk_steps": True},
    {"set_alpha_to_one": True},
    {"variable_step": True},
]


def settings_of(cls):
    """Every setting that a class has and allows."""
    for setting in SETTINGS:
        if setting.keys() <= {*cls.options, *cls.hidden_options}:
            with warnings.catch_warnings(action="error"):
                try:
                    cls(**setting)
                except (ValueError, UserWarning):  # a value of other classes, or without effect
                    continue
            yield setting


VISITS = [(name, setting) for name, cls in CLASSES.items() for setting in few(settings_of(cls))]
DEFAULTS = [(name, {}) for name in CLASSES]


def build(visit, **kwargs):
    name, setting = visit
    return CLASSES[name](**setting, **kwargs)


def label(visit):
    name, setting = visit
    return "-".join([name, *(f"{key}={value}" for key, value in setting.items())])


def normals(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


class Problem:
    """Start noise, and an output for every evaluation, of a scheduler with `steps` steps."""

    def __init__(self, xp, scheduler, steps=4, shape=(2, 3, 4, 4), dtype="float64", **options):
        self.plan = scheduler.plan(steps, **options)
        head = self.plan.prediction.variance_head
        wide = (shape[0], 2 * shape[1], *shape[2:]) if head else shape
        self.noise = xp.asarray(normals(shape), dtype)
        self.outputs = [
            xp.asarray(0.5 * normals(wide, 1 + i), dtype) for i in range(len(self.plan))
        ]

    def start(self, scheduler):
        return self.noise * scheduler.init_noise_sigma

    def pure(self, rng):
        """Return every sample and estimate of the loop by pure functions."""
        state = cmsched.init(self.plan, self.noise)
        for output in self.outputs:
            x0 = cmsched.estimate(self.plan, state, output).x0
            state = cmsched.step(self.plan, state, output, rng=rng)
            yield state.sample, x0

    def stateful(self, scheduler, first=0, x=None, **options):
        """Return what every step of the stateful loop returns, from this entry on."""
        x = self.start(scheduler) if x is None else x
        for i, t in enumerate(scheduler.timesteps[first:], first):
            scheduler.scale_model_input(x, t)
            given = {k: v(i) if callable(v) else v for k, v in options.items()}
            out = scheduler.step(self.outputs[i], t, x, **given)
            yield out
            x = out.prev_sample if hasattr(out, "prev_sample") else out[0]


def last(steps):
    """Return the last sample of a stateful loop."""
    return list(steps)[-1].prev_sample


def stochastic(visits, steps=4):
    return [v for v in visits if build(v).plan(steps).layout.stochastic]


def native(xp, seed):
    """Return a generator of the framework's own, or an int where it has none."""
    if xp.backend == "torch":
        import torch

        return torch.Generator().manual_seed(seed)
    if xp.backend == "jax":
        import jax

        return jax.random.key(seed)
    if xp.backend == "cupy":
        return xp.xp.random.default_rng(seed)
    return np.random.default_rng(seed) if xp.backend == "numpy" else seed
