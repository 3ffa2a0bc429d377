"""Schedulers by the names of A1111 and k-diffusion: every row of the field's table, and more."""

import ast
import re

import numpy as np
import pytest

import cmsched
from cmsched.samplers import REGISTRY
from cmsched.schedulers.a1111 import A1111, ALIASES, SUFFIXES

pytestmark = pytest.mark.host

# the table of the reference documentation: name | class | how to construct it
TABLE = """
| DPM++ 2M            | [`DPMSolverMultistepScheduler`]     |  |
| DPM++ 2M Karras     | [`DPMSolverMultistepScheduler`]     | 使用`use_karras_sigmas=True`进行初始化 |
| DPM++ 2M SDE        | [`DPMSolverMultistepScheduler`]     | 使用`algorithm_type="sde-dpmsolver++"`进行初始化 |
| DPM++ 2M SDE Karras | [`DPMSolverMultistepScheduler`]     | 使用`use_karras_sigmas=True`和`algorithm_type="sde-dpmsolver++"`进行初始化 |
| DPM++ 2S a          | N/A                                 | 与`DPMSolverSinglestepScheduler`非常相似 |
| DPM++ 2S a Karras   | N/A                                 | 与`DPMSolverSinglestepScheduler(use_karras_sigmas=True, ...)`非常相似 |
| DPM++ SDE           | [`DPMSolverSinglestepScheduler`]    |  |
| DPM++ SDE Karras    | [`DPMSolverSinglestepScheduler`]    | 使用`use_karras_sigmas=True`进行初始化 |
| DPM2                | [`KDPM2DiscreteScheduler`]          |  |
| DPM2 Karras         | [`KDPM2DiscreteScheduler`]          | 使用`use_karras_sigmas=True`进行初始化 |
| DPM2 a              | [`KDPM2AncestralDiscreteScheduler`] |  |
| DPM2 a Karras       | [`KDPM2AncestralDiscreteScheduler`] | 使用`use_karras_sigmas=True`进行初始化 |
| DPM自适应            | N/A                                 |  |
| DPM快速             | N/A                                 |  |
| Euler               | [`EulerDiscreteScheduler`]          |  |
| Euler a             | [`EulerAncestralDiscreteScheduler`] |  |
| Heun                | [`HeunDiscreteScheduler`]           |  |
| LMS                 | [`LMSDiscreteScheduler`]            |  |
| LMS Karras          | [`LMSDiscreteScheduler`]            | 使用`use_karras_sigmas=True`进行初始化 |
| N/A                 | [`DEISMultistepScheduler`]          |  |
| N/A                 | [`UniPCMultistepScheduler`]         |  |
"""  # noqa: E501
ROWS = [[cell.strip() for cell in line.split("|")[1:4]] for line in TABLE.strip().splitlines()]
NAMED = [row for row in ROWS if row[0] != "N/A"]


@pytest.mark.parametrize(("name", "cls", "usage"), NAMED, ids=[row[0] for row in NAMED])
def test_rows_of_the_table(name, cls, usage):
    """The class and the options that the table says; where it says none, the sampler itself."""
    scheduler = cmsched.from_a1111(name)
    found = type(scheduler).__name__
    if cls == "N/A":
        assert found == "KDiffusionScheduler"
        sampler = {"DPM++ 2S a": "dpmpp_2s_ancestral", "DPM自适应": "dpm_adaptive"}
        assert scheduler.config.sampler == sampler.get(name.removesuffix(" Karras"), "dpm_fast")
    elif name.startswith("DPM++ SDE"):  # which that class is not, whatever older tables say
        assert found == "DPMSolverSDEScheduler"
    else:
        assert found == re.search(r"`(\w+)`", cls).group(1)
    for option, value in re.findall(r"(\w+)=([\w\"+-]+)", usage):
        assert scheduler.config[option] == ast.literal_eval(value)
    for option in SUFFIXES.values():
        if option in scheduler.config and option not in usage:
            assert not scheduler.config[option]
    assert scheduler.config.beta_schedule == "scaled_linear"


@pytest.mark.parametrize("cls", [row[1].strip("[]`") for row in ROWS if row[0] == "N/A"])
def test_rows_without_a_name(cls):
    """Classes that A1111 has no name for are there by their own."""
    short = re.match(r"[A-Z][a-z]*[A-Z]+(?=[A-Z]|$)|[A-Z]+(?=[A-Z])", cls).group()
    assert type(cmsched.from_a1111(short)).__name__ == cls


@pytest.mark.parametrize("suffix", ["", *SUFFIXES])
@pytest.mark.parametrize("name", A1111)
def test_every_name_runs(name, suffix):
    """Every name, in every placement, takes a Gaussian to its data."""
    scheduler = cmsched.from_a1111(f"{name} {suffix}".strip())
    plan = scheduler.plan(30 if name == "LCM" else 90)
    sampler = A1111[name][2]
    assert plan.sampler in (sampler, "euler_late_churn")
    assert REGISTRY[sampler].trait("stochastic", plan.options) == (
        name.endswith(" a") or "SDE" in name or name == "LCM"
    )
    schedule, std = plan.grid.schedule, 0.5
    levels = {round(p.t, 6): p for p in plan.points}

    def network(x, t):
        """The eps of data N(0, std^2)."""
        at = levels.get(round(float(t), 6)) or schedule.at(t=float(t))
        x = x / at.scale
        return x * at.sigma / (at.alpha**2 * std**2 + at.sigma**2)

    noise = cmsched.Rng(1).normal((4, 2000), dtype="float64")
    x = cmsched.sample(network, plan, noise, rng=0)
    assert np.std(x) == pytest.approx(std, rel=0.12 if name != "LCM" else 1.0)


def test_spelling():
    for a, b in (("dpm++2m karras", "DPM++ 2M Karras"), (" Euler  A ", "Euler a")):
        assert cmsched.from_a1111(a).config == cmsched.from_a1111(b).config
    for alias, name in ALIASES.items():
        assert cmsched.from_a1111(alias).config == cmsched.from_a1111(name).config


def test_a_models_own_config_is_kept():
    config = cmsched.DDIMScheduler(
        prediction_type="v_prediction", beta_end=0.03, timestep_spacing="trailing"
    ).config
    for name in ("DPM++ 2M Karras", "DPM++ 2S a", "DPM fast"):
        scheduler = cmsched.from_a1111(name, config)
        kept = scheduler.config
        assert (kept.prediction_type, kept.beta_end) == ("v_prediction", 0.03)
        assert kept.timestep_spacing == "trailing"
    scheduler = cmsched.from_a1111("Euler", config, beta_end=0.01)
    assert scheduler.config.beta_end == 0.01


def test_errors_name_the_nearest():
    with pytest.raises(
        ValueError, match=r"no A1111 sampler 'DPM\+\+ 2N'; did you mean 'DPM\+\+ 2M'"
    ):
        cmsched.from_a1111("DPM++ 2N")
    with pytest.raises(TypeError, match="did you mean 'solver_order'"):
        cmsched.from_a1111("DPM++ 2M", solver_odrer=3)
    with pytest.raises(TypeError, match="name must be a string"):
        cmsched.from_a1111(3)


def test_the_adaptive_one_has_no_steps_to_take_by_hand():
    scheduler = cmsched.from_a1111("DPM adaptive")
    scheduler.set_timesteps(10)
    with pytest.raises(TypeError, match=r"use.*cmsched\.sample"):
        scheduler.step(np.zeros((1, 2)), 0.0, np.zeros((1, 2)))
