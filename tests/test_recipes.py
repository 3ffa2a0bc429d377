"""A configuration means a recipe: equal, printed, handed on; and the classes around it."""

import ast
import importlib
import inspect
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from scheduling import VISITS, build, label, normals

import cmsched
from cmsched import schedulers
from cmsched.schedulers import FAMILIES
from cmsched.schedules import SCHEDULES

pytestmark = pytest.mark.host

ROOT = Path(cmsched.__file__).parent
# other tests define classes too
CLASSES = {
    name: cls
    for name, cls in schedulers.CLASSES.items()
    if cls.__module__.startswith("cmsched.schedulers.")
}
PLANNED = {name: cls for name, cls in CLASSES.items() if hasattr(cls, "meaning")}
every_visit = pytest.mark.parametrize("visit", VISITS, ids=label)


def names():
    """Everything that the text of a recipe may name."""
    found = {"inf": math.inf}
    parts = ["frozen", "recipe", "discretizations", "predictions", "schedules"]
    for module in [*parts, *(f"schedulers.{family}" for family in (*FAMILIES, "solvers"))]:
        found |= vars(importlib.import_module(f"cmsched.{module}"))
    return found


NAMES = names()


@every_visit
@pytest.mark.parametrize("compatibility", ["paper", "diffusers"])
def test_a_recipe_is_a_value_and_its_text_is_it(visit, compatibility):
    recipe, again = (build(visit, compatibility=compatibility).recipe() for _ in range(2))
    assert recipe == again
    assert hash(recipe) == hash(again)
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert eval(repr(recipe), dict(NAMES)) == recipe


@every_visit
@pytest.mark.parametrize("compatibility", ["paper", "diffusers"])
def test_the_general_class_makes_the_plans_of_every_named_one(visit, compatibility):
    named = build(visit, compatibility=compatibility)
    general = cmsched.Scheduler(recipe=named.recipe())
    for n in (1, 4):
        assert general.plan(n) == named.plan(n)


def test_parts_by_name_are_the_named_classes():
    """The same plan from the general options, to the last digit and its way to tell the time."""
    trained = {"beta_start": 0.00085, "beta_end": 0.012}
    scaled = {"frame": "ve", "sigma_data": 1.0}
    presets = [
        (
            cmsched.DDIMScheduler(clip_sample=False),
            {"sampler": "ddim", "schedule": "linear", "spacing": "leading"},
        ),
        (
            cmsched.DDIMScheduler(timestep_spacing="trailing", prediction_type="v_prediction"),
            {"sampler": "ddim", "prediction_type": "v_prediction", "clip_sample_range": 1.0},
        ),
        (
            cmsched.DDPMScheduler(thresholding=True),
            {"sampler": "ddpm", "spacing": "leading", "dynamic_thresholding_ratio": 0.995},
        ),
        (
            cmsched.EulerAncestralDiscreteScheduler(),
            {"sampler": "euler_ancestral", "spacing": "linspace", "schedule_options": scaled},
        ),
        (
            cmsched.HeunDiscreteScheduler(beta_schedule="scaled_linear", use_karras_sigmas=True),
            {"sampler": "heun", "schedule": "scaled_linear", "spacing": "karras"}
            | {"schedule_options": scaled | trained},
        ),
        (
            cmsched.FlowMatchHeunDiscreteScheduler(),
            {"sampler": "heun", "schedule": "flow", "spacing": "linspace"}
            | {"prediction_type": "flow_prediction", "sampler_options": {"variable": "flow"}},
        ),
        (
            cmsched.EDMEulerScheduler(),
            {"sampler": "euler", "schedule": "logarithmic", "spacing": "karras"}
            | {"prediction_type": "edm", "final_sigmas_type": "zero"},
        ),
    ]
    for named, options in presets:
        general = cmsched.Scheduler(**{"schedule": "linear", **options})
        for n in (3, 10):
            a, b = named.plan(n), general.plan(n)
            assert (a.sampler, a.prediction, dict(a.options)) == (
                b.sampler,
                b.prediction,
                dict(b.options),
            ), named
            if a.grid.schedule.frame == "vp":
                assert a == b, named
            for p, q in zip(a.grid.points, b.grid.points, strict=True):
                assert (p.t, p.alpha, p.sigma, p.scale) == pytest.approx(
                    (q.t, q.alpha, q.sigma, q.scale), rel=1e-12, abs=1e-12
                )


def test_a_recipe_that_is_none():
    with pytest.raises(TypeError, match="recipe must be a Recipe, as scheduler"):
        cmsched.Scheduler(recipe="ddim")
    with pytest.raises(TypeError, match="has no Recipe"):
        cmsched.Scheduler(recipe=cmsched.DDIMScheduler().recipe()).to_json_string()
    with pytest.raises(TypeError, match=r"recipe\(\) has no option 'm'; did you mean 'mu'"):
        cmsched.FlowMatchEulerDiscreteScheduler().recipe(m=1.0)


def test_options_without_effect_say_so():
    recipe = cmsched.DDIMScheduler().recipe()
    with pytest.warns(UserWarning, match="spacing has no effect beside recipe"):
        cmsched.Scheduler(recipe=recipe, spacing="karras").plan(5)
    euler = cmsched.EulerDiscreteScheduler
    with pytest.raises(ValueError, match="timesteps cannot be set with exponential sigmas"):
        euler(interpolation_type="log_linear").plan(timesteps=[604, 453, 258])
    for options in ({}, {"interpolation_type": "log_linear"}):
        scheduler = euler(sigma_min=0.5, **options)
        with pytest.warns(UserWarning, match="sigma_min has no effect without a ramp"):
            scheduler.plan(5)
        scheduler.plan(5)  # once
    with pytest.warns(UserWarning, match="sigma_max has no effect"):
        euler(sigma_max=5.0).plan(sigmas=[3.0, 1.0])


# --- the general class on every schedule ---------------------------------------------------------


@pytest.mark.parametrize("train", [1000, 20])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", *SCHEDULES])
def test_every_schedule_with_every_method(name, train):
    """Noise is added at the schedule's own levels, before and after `set_timesteps`."""
    options = {"schedule": name, "prediction_type": "v_prediction", "num_train_timesteps": train}
    scheduler = cmsched.Scheduler(**options)
    x, z = normals((4, 3)), normals((4, 3), 1)
    for configured in (False, True):
        if configured:
            scheduler.set_timesteps(6)
            out = scheduler.step(x, scheduler.timesteps[0], x)
            assert np.all(np.isfinite(out.prev_sample))
            assert np.all(np.isfinite(out.pred_original_sample))
        times = np.asarray(scheduler.timesteps, np.float64)
        assert len(scheduler.sigmas) == len(times) + 1
        assert math.isfinite(scheduler.init_noise_sigma)
        between = times[0] + (times[-1] - times[0]) * np.array([0.0, 0.21, 0.77, 1.0])
        points = [scheduler.schedule.at(t=t) for t in between.tolist()]
        alpha, sigma = (
            np.array([[getattr(p, name)] for p in points]) for name in ("alpha", "sigma")
        )
        np.testing.assert_allclose(
            scheduler.add_noise(x, z, between), alpha * x + sigma * z, rtol=1e-9, atol=1e-9
        )
        size = np.hypot(alpha, sigma)
        np.testing.assert_allclose(
            scheduler.get_velocity(x, z, between),
            (alpha * z - sigma * x) / size,
            rtol=1e-9,
            atol=1e-9,
        )


# --- the shape of the house ----------------------------------------------------------------------


def ours(cls):
    return [base for base in cls.__mro__ if base.__module__.startswith("cmsched")]


def is_method(value):
    """A static one is a value of the class."""
    return inspect.isfunction(value) or isinstance(value, property | classmethod)


def test_named_classes_are_shallow_and_override_little():
    overridden = set()
    for cls in PLANNED.values():
        chain = ours(cls)
        assert len(chain) <= 5, [base.__name__ for base in chain]
        for k, base in enumerate(chain):
            for name, value in vars(base).items():
                above = [vars(other)[name] for other in chain[k + 1 :] if name in vars(other)]
                special = name.startswith("__") or name in ("step", "set_timesteps")
                made = not special and above and is_method(value)
                if made and any(value is not other for other in above):
                    overridden.add(name)
    own = {"restart", "__init__"}  # the habits' own layers
    assert len(overridden - own) <= 10, sorted(overridden)


def test_interop_uses_no_private_name_of_the_schedulers():
    """Of a scheduler other than self, and of the modules."""
    private = {
        name
        for path in (ROOT / "schedulers").glob("*.py")
        for name in re.findall(r"\bdef (_[a-z]\w*)", path.read_text())
    }
    for path in (ROOT / "interop").rglob("*.py"):
        tree = ast.parse(path.read_text())
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert not (used & private) - own, (path.name, sorted((used & private) - own))
        assert not {name for name in imported if name.startswith("_")}, path.name


def test_families_name_all_classes():
    assert {name for name in CLASSES if "Scheduler" in name} <= {*schedulers.__all__}
    for family, found in FAMILIES.items():
        module = importlib.import_module(f"cmsched.schedulers.{family}")
        for name in found:
            assert getattr(schedulers, name) is getattr(module, name)
