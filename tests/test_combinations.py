"""Right values in any combination: finite coefficients at any number of steps, or a sentence."""

import math
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cmsched
from cmsched.schedulers import CLASSES
from cmsched.schedulers.base import run_options

HOME = Path(cmsched.__file__).parent
ON_OFF = (True, False)
TRAIN = (1000, 40)
RIGHT = {
    "num_train_timesteps": TRAIN,
    "beta_start": (0.0001, 0.00085),
    "beta_end": (0.02, 0.012),
    "beta_schedule": (
        *("linear", "scaled_linear", "squaredcos_cap_v2"),
        *("sigmoid", "laplace", "exp"),
    ),
    "trained_betas": (None, [0.01] * 40, [0.0005] * 1000),
    "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
    "interpolation_type": ("linear", "log_linear"),
    "timestep_type": ("discrete", "continuous"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "steps_offset": (0, 1),
    "final_sigmas_type": ("zero", "sigma_min"),
    "sigma_min": (None, 0.002, 0.1),
    "sigma_max": (None, 80.0, 10.0),
    "clip_sample_range": (1.0, 0.5),
    "sigma_data": (0.5, 1.0),
    "s_noise": (1.0, 1.007),
    "rho": (7.0, 3.0),
    "sampler": tuple(cmsched.samplers.REGISTRY),
    "sampler_options": (None, {}),
    "original_inference_steps": (50, 20),
    "dynamic_thresholding_ratio": (0.995, 0.9),
    "sample_max_value": (1.0, 1.5),
    "timestep_scaling": (10.0, 1.0),
    "sigma_schedule": ("karras", "exponential"),
    "variance_type": (None, *cmsched.samplers.first_order.VARIANCES),
    "shift": (1.0, 0.5, 3.0),
    "base_shift": (0.5, None),
    "max_shift": (1.15, None),
    "base_image_seq_len": (256, 64),
    "max_image_seq_len": (4096, 1024),
    "shift_terminal": (None, 0.02, 0.1),
    "time_shift_type": ("exponential", "linear"),
    "sde_eta": (0.0, 0.7),
    "snr_shift_scale": (3.0, 1.0, 0.5),
    "schedule": ("scaled_linear", "flow", "vp_sde", "ve_sde", "cosine", "trigflow"),
    "schedule_options": (None, {}),
    "spacing": ("trailing", "linspace", "leading", "karras", "exponential", "simple", "ays_sdxl"),
    "spacing_options": (None, {}),
    "noise_sampler_seed": (None, 3),
    "solver_order": (1, 2, 3, 4),
    "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver", "deis"),
    "solver_type": ("midpoint", "heun", "bh1", "bh2", "logrho"),
    "flow_shift": (1.0, 3.0, 12.0),
    "lambda_min_clipped": (-math.inf, -5.1),
    "third_order": ("published", "exact"),
    "recipe": (None, cmsched.LCMScheduler().recipe()),
    "eta": (0.0, 0.5, 1.0),
    "s_churn": (0.0, 80.0),
    "s_min": (0.05, 0.0),
    "s_max": (50.0, math.inf),
    "snr": (0.15, 0.3),
    "sampling_eps": (1e-5, 1e-3),
    "correct_steps": (0, 1, 2),
    "beta_min": (0.1, 0.5),
    "beta_max": (20.0, 10.0),
    "disable_corrector": ([], [0, 1], (2,)),
    "solver_p": (None, cmsched.DDIMScheduler(), cmsched.DEISMultistepScheduler(solver_order=3)),
    "num_vec_classes": (5, 2),
    "alpha_cum_start": (0.99999, 0.9),
    "alpha_cum_end": (0.000009, 0.0),
    "gamma_cum_start": (0.000009, 0.0),
    "gamma_cum_end": (0.99999, 0.9),
}
SET = {  # what `plan` takes beside
    "mu": (None, 0.5, 1.15),
    "original_inference_steps": (None, 20),
    "num_train_timesteps": (None, 40),
    "sampling_eps": (None, 1e-3),
    "strength": (1.0, 0.4),
    "jump_length": (10, 2),
    "jump_n_sample": (1, 2),
}


def values(cls, option):
    """Right values of an option: those of its name, both of a switch."""
    default = {**cls.options, **cls.hidden_options}[option]
    return ON_OFF if isinstance(default, bool) else RIGHT[option]


def combination(data, name):
    """Return a class's options, compatibility, a number of steps and options of plan, by chance."""
    cls = CLASSES[name]
    known = [*cls.options, *cls.hidden_options]
    changed = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=6))
    changed += [key for key in known if cls.options.get(key) is cmsched.schedulers.config.REQUIRED]
    options = {key: data.draw(st.sampled_from(values(cls, key))) for key in sorted(set(changed))}
    if name == "VQDiffusionScheduler":
        return options, "paper", data.draw(st.integers(1, 50)), {}
    taken = {*run_options(cls.meaning), *cls.timesteps_options, "strength"} & SET.keys()
    call = {key: data.draw(st.sampled_from(SET[key])) for key in sorted(taken)}
    mode = data.draw(st.sampled_from(("paper", "diffusers")))
    return options, mode, data.draw(st.integers(1, 50)), call


def check(name, options, mode, n, call):
    """Return whether there is such a run; then every number of it is finite."""
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", message=".*has no effect")
        make = CLASSES[name]
        raised, plan = attempt(lambda: make(**options, compatibility=mode).plan(n, **call))
    if raised is not None:
        assert raised_here(raised), raised
        return False
    if name == "VQDiffusionScheduler":
        return True
    numbers = [p for point in plan.points for p in (point.t, point.alpha, point.sigma)]
    for row in plan.rows:
        numbers += [*row.estimate, *coefficients(row.statements)]
    numbers += coefficients([(0, plan.start.terms)] if plan.start else [])
    assert np.all(np.isfinite(np.array(numbers, dtype=float)))
    return True


def coefficients(statements):
    """Return the coefficients of statements, and the regions of their terms."""
    return [number for _, terms in statements for _, *numbers in terms for number in numbers]


def attempt(call):
    """Return what a call refuses with, or None, and what it gives."""
    try:
        return None, call()
    except (ValueError, TypeError) as error:
        return error, None


def raised_here(error):
    """Whether it is a sentence of cmsched's own, not what some call inside did not like."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(HOME) and len(str(error).split()) > 2


def test_every_option_has_right_values():
    for cls in CLASSES.values():
        for option in (*cls.options, *cls.hidden_options):
            assert len(values(cls, option)) > 1


@pytest.mark.parametrize("name", CLASSES)
@given(st.data())
def test_right_combinations(name, data):
    check(name, *combination(data, name))


def test_what_is_no_sentence_is_seen():
    assert raised_here(attempt(lambda: cmsched.DDIMScheduler(beta_start=-1.0))[0])
    assert not raised_here(attempt(lambda: float("a b c d"))[0])
    assert not raised_here(attempt(lambda: np.zeros((2, 3)) @ np.zeros((2, 3)))[0])
