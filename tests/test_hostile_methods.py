"""Wrong arguments to methods that single classes have, and to functions: the right error."""

import inspect
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduling import CLASSES as STEPPED
from scheduling import normals
from test_combinations import attempt, check, raised_here
from test_hostile import NASTY, snapshot

import cmsched
from cmsched.schedulers import CLASSES

X, M = normals((2, 3)), normals((2, 3), 1)
DOWN = {"sample": X, "model_output": M}
SOLVED = [M, 2 * M, 3 * M]


def stepped(scheduler):
    """Take two steps of a run."""
    for t in scheduler.timesteps[:2]:
        scheduler.step(M, t, X)


# class: (options, what is done before, method, its right arguments)
METHODS = [
    *(
        (name, options, None, method, {first: X, "noise": M, "timesteps": [1, 1]})
        for name, options in (("DDIMScheduler", {}), ("EulerDiscreteScheduler", {}))
        for method, first in (("add_noise", "original_samples"), ("get_velocity", "sample"))
    ),
    *(
        (name, {}, None, "scale_noise", {"sample": X, "timestep": 750.0, "noise": M})
        for name in ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
    ),
    ("FlowMatchEulerDiscreteScheduler", {}, None, "set_shift", {"shift": 3.0}),
    (
        "FlowMatchEulerDiscreteScheduler",
        {},
        None,
        "step",
        {
            **DOWN,
            "timestep": 1000.0,
            "per_token_timesteps": np.full((2, 3), 1000.0),
        },
    ),
    (
        "DDIMParallelScheduler",
        {},
        None,
        "batch_step_no_noise",
        {**DOWN, "timesteps": [750, 0], "eta": 0.5, "use_clipped_model_output": True},
    ),
    ("DDPMParallelScheduler", {}, None, "batch_step_no_noise", {**DOWN, "timesteps": [750, 0]}),
    *(
        (name, {}, stepped, "convert_model_output", {"model_output": M, "sample": X})
        for name in (
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "DEISMultistepScheduler",
            "UniPCMultistepScheduler",
        )
    ),
    (
        "DPMSolverMultistepScheduler",
        {},
        stepped,
        "dpm_solver_first_order_update",
        {"model_output": M, "sample": X},
    ),
    *(
        (name, {"solver_order": 3}, stepped, method, {"model_output_list": SOLVED, "sample": X})
        for name, method in (
            ("DPMSolverMultistepScheduler", "multistep_dpm_solver_second_order_update"),
            ("DPMSolverMultistepScheduler", "multistep_dpm_solver_third_order_update"),
            ("DEISMultistepScheduler", "multistep_deis_third_order_update"),
        )
    ),
    (
        "UniPCMultistepScheduler",
        {},
        stepped,
        "multistep_uni_p_bh_update",
        {"model_output": M, "sample": X, "order": 2},
    ),
    ("DPMSolverSinglestepScheduler", {}, None, "get_order_list", {"num_inference_steps": 7}),
    ("PNDMScheduler", {}, None, "step_prk", {**DOWN, "timestep": 800}),
    ("PNDMScheduler", {"skip_prk_steps": True}, None, "step_plms", {**DOWN, "timestep": 800}),
    (
        "KarrasVeScheduler",
        {},
        None,
        "add_noise_to_input",
        {"sample": X, "sigma": 2.0, "generator": 7},
    ),
    (
        "KarrasVeScheduler",
        {},
        None,
        "step",
        {"model_output": M, "sigma_hat": 2.0, "sigma_prev": 1.0, "sample_hat": X},
    ),
    (
        "KarrasVeScheduler",
        {},
        None,
        "step_correct",
        {
            **{"model_output": M, "sigma_hat": 2.0, "sigma_prev": 1.0, "sample_hat": X},
            **{"sample_prev": 0.5 * X, "derivative": M},
        },
    ),
    (
        "ScoreSdeVeScheduler",
        {},
        None,
        "set_sigmas",
        {"num_inference_steps": 5, "sigma_min": 0.02, "sigma_max": 100.0, "sampling_eps": 1e-3},
    ),
    ("ScoreSdeVeScheduler", {}, None, "step_pred", {**DOWN, "timestep": 1.0, "generator": 7}),
    ("ScoreSdeVeScheduler", {}, None, "step_correct", {**DOWN, "generator": 7}),
    ("ScoreSdeVpScheduler", {}, None, "step_pred", {"score": M, "x": X, "t": 1.0, "generator": 7}),
    (
        "RePaintScheduler",
        {},
        None,
        "step",
        {
            **{**DOWN, "timestep": 750, "generator": 7},
            **{"original_image": 2 * X, "mask": np.ones((2, 3))},
        },
    ),
    ("RePaintScheduler", {}, None, "undo_step", {"sample": X, "timestep": 750, "generator": 7}),
    (
        "CogVideoXDPMScheduler",
        {},
        None,
        "step",
        {
            **{**DOWN, "timestep": 500, "timestep_back": 750, "generator": 7},
            **{"old_pred_original_sample": 0.5 * X, "eta": 0.0, "use_clipped_model_output": False},
        },
    ),
    (
        "VQDiffusionScheduler",
        {"num_vec_classes": 3},
        None,
        "step",
        {
            **{"model_output": np.log(np.full((2, 2, 4), 0.5)), "timestep": 2},
            **{"sample": np.array([[0, 1, 2, 2]] * 2), "generator": 7},
        },
    ),
    (
        "VQDiffusionScheduler",
        {"num_vec_classes": 3},
        None,
        "q_posterior",
        {"log_p_x_0": np.log(np.full((2, 2, 4), 0.5)), "x_t": np.array([[0, 1, 2, 2]] * 2), "t": 2},
    ),
]
# names that stand for the argument in messages of what it is handed to
WORDS = ("seed", "steps", "sigma", "output", "array", "sample", "shape", "dtype", "per row")
CACHES = ("_tables", "_placed", "_steps", "_singles")
WRONG = [
    *NASTY,
    *(
        X[:1],
        X[:, :1],
        X[0],
        X[None],
        X.astype(int),
        X > 0,
        X.astype(complex),
        np.float64(math.nan),
    ),
]


def ready(case):
    """Return a scheduler in the middle of a run."""
    name, options, before, _, _ = case
    scheduler = CLASSES[name](**options)
    scheduler.set_timesteps(4)
    if before:
        before(scheduler)
    return scheduler


def finite(result):
    """Whether every number of a result is."""
    if isinstance(result, tuple | list):
        return all(map(finite, result))
    if hasattr(result, "to_tuple"):
        return finite(result.to_tuple())
    if isinstance(result, np.ndarray | float):
        return bool(np.all(np.isfinite(result)))
    return True


def state(scheduler):
    """What a failed call must leave: all but what is computed once and kept."""
    return {k: v for k, v in snapshot(scheduler).items() if k not in CACHES}


def accepted(call, arguments, changed, unchanged=lambda: True):
    """Whether a call takes these; if not, that it says so, and leaves everything as it was."""
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", message=r".*(\(kept in the config\)|has no effect)")
        raised, result = attempt(lambda: call(**{**arguments, **changed}))
    if raised is None:
        assert finite(result) or not all(map(finite, changed.values()))
        return True
    assert type(raised) in (ValueError, TypeError)
    assert raised_here(raised), raised
    assert any(name in str(raised) for name in (*changed, *WORDS)), raised
    assert unchanged()
    return False


def outcome(case, changed):
    """Call a method with some arguments changed; whether it was accepted."""
    scheduler = ready(case)
    before, held = state(scheduler), dict(vars(scheduler))  # held: no id is used again
    method = getattr(scheduler, case[3])
    return accepted(method, case[4], changed, lambda: state(scheduler) == before and bool(held))


def wrong(key):
    """Values of which few are right for an argument."""
    if key == "generator":  # what a function of the caller's raises is the caller's
        return [v for v in WRONG if not callable(v)]
    if key.startswith("num_"):  # a million steps are right, and take their time
        return [v for v in WRONG if not (isinstance(v, int) and v == 10**6)]
    return WRONG


def label(case):
    return f"{case[0]}-{case[3]}"


@pytest.mark.parametrize("case", METHODS, ids=label)
def test_wrong_arguments_of_methods(case):
    assert outcome(case, {})
    for key in case[4].keys() - {"model_output_list"}:
        took = [outcome(case, {key: value}) for value in wrong(key)]
        assert sum(took) < len(took) / 2, key


@given(st.data())
def test_wrong_combinations_of_arguments(data):
    case = data.draw(st.sampled_from(METHODS))
    known = sorted(case[4].keys() - {"model_output_list"})
    keys = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=3))
    outcome(case, {key: data.draw(st.sampled_from(wrong(key))) for key in keys})


STEP = cmsched.DDPMScheduler().plan(4)
TRANSITION = cmsched.transition(STEP, cmsched.init(STEP, X), M)
FUNCTIONS = {
    "from_a1111": (
        cmsched.from_a1111,
        {"name": "Euler a", "config": {"beta_end": 0.012}, "steps_offset": 1, "xp": "numpy"},
    ),
    "convert": (
        cmsched.convert,
        {"output": M, "sample": X, "at": STEP.points[1], "source": "epsilon", "target": "sample"},
    ),
    "log_prob": (TRANSITION.log_prob, {"next_sample": X, "sum": True, "zero_std": "raise"}),
    "Rng": (cmsched.Rng, {"seed": 3, "sample": [0, 1], "path": True}),
    "plan": (
        cmsched.DDIMScheduler().plan,
        {"num_inference_steps": 4, "strength": 1.0, "eta": 0.5, "use_clipped_model_output": True},
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_arguments_of_functions(name):
    call, arguments = FUNCTIONS[name]
    assert accepted(call, arguments, {})
    for key in arguments:
        for value in WRONG:
            accepted(call, arguments, {key: value})


TOKENS = {"VQDiffusionScheduler": {"num_vec_classes": 5}}


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - STEPPED.keys()))
def test_every_option_of_other_classes_with_nasty_values(name):
    """As the test of that name, for classes without one `step` that counts."""
    cls = CLASSES[name]
    for option in (*cls.options, *cls.hidden_options):
        options = TOKENS.get(name, {})
        took = [check(name, {**options, option: value}, "paper", 3, {}) for value in NASTY]
        assert sum(took) < len(NASTY) / 2, option


@pytest.mark.parametrize("name", CLASSES)
def test_wrong_options_of_set_timesteps(name):
    cls = CLASSES[name]
    known = {*inspect.signature(cls.set_timesteps).parameters, *getattr(cls, "grid_options", ())}
    for key in known - {"self", "device", "xp", "timesteps", "sigmas"}:
        for value in wrong(key):
            scheduler = cls(**TOKENS.get(name, {}))
            scheduler.set_timesteps(3)
            before, held = state(scheduler), dict(vars(scheduler))  # held: no id is used again
            accepted(
                scheduler.set_timesteps,
                {"num_inference_steps": 2},
                {key: value},
                lambda s=scheduler, b=before: state(s) == b,
            )
            assert held
