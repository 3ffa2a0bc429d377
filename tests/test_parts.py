"""Names as people type them, parts of one's own in place of names, and time that is continuous."""

import itertools
import json
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import cmsched
from cmsched import predictions, schedules, spacings
from cmsched.demo.names import find
from cmsched.schedules import Flow, Schedule
from cmsched.spacings import SPACINGS

pytestmark = pytest.mark.host


def meant(**options):
    return cmsched.Scheduler(**options).config


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("eps", "epsilon"),
        ("EPS", "epsilon"),
        ("x0", "sample"),
        ("v", "v_prediction"),
        ("V-Prediction", "v_prediction"),
        ("velocity", "v_prediction"),
        ("flow", "flow_prediction"),
    ],
)
def test_predictions_as_people_type_them(typed, name):
    assert meant(prediction_type=typed)["prediction_type"] == name
    assert cmsched.Prediction(typed).type == name
    if name != "flow_prediction":
        assert cmsched.DDIMScheduler(prediction_type=typed).config.prediction_type == name


def test_velocity_is_that_of_the_schedule():
    for typed in ("v", "velocity", "flow"):
        assert meant(schedule="flow", prediction_type=typed).prediction_type == "flow_prediction"
        rising = meant(schedule=Flow(rising=True), prediction_type=typed)
        assert rising.prediction_type == "data_flow_prediction"


@pytest.mark.parametrize(
    ("option", "typed", "name"),
    [
        ("schedule", "VP", "vp_sde"),
        ("schedule", "ve", "ve_sde"),
        ("schedule", "Scaled Linear", "scaled_linear"),
        ("spacing", "Karras", "karras"),
        ("spacing", "SGM Uniform", "sgm_uniform"),
        ("sampler", "dpmpp_2m", "dpmpp_multistep"),
        ("sampler", "DPM++ 2M", "dpmpp_multistep"),
        ("sampler", "euler a", "euler_ancestral"),
        ("sampler", "sample_dpmpp_2s_ancestral", "dpmpp_2s_ancestral"),
        ("sampler", "UniPC", "unipc"),
        ("sampler", "cm", "consistency"),
    ],
)
def test_other_names(option, typed, name):
    config = meant(**{option: typed})
    assert config[option] == name
    assert json.loads(cmsched.Scheduler(**{option: typed}).to_json_string())[option] == name


def test_a_name_brings_its_options():
    config = meant(sampler="DPM++ 3M SDE")
    assert config.sampler_options["solver_order"] == 3
    assert config.sampler_options["eta"] == 1.0
    assert cmsched.KDiffusionScheduler(sampler="DPM++ 2M").config.sampler == "dpmpp_multistep"
    assert type(cmsched.from_a1111("dpmpp_2m")) is cmsched.DPMSolverMultistepScheduler
    assert find("DPM++ 2M").short == find("dpmpp-2m").short == "dpmpp_2m"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "edm"}, '"identity" for a denoiser.*"logarithmic" for a raw network'),
        ({"schedule": "karras"}, 'spacing="karras"'),
        ({"spacing": "align your steps"}, "ays_sdxl"),
        ({"prediction_type": "epsilom"}, "did you mean 'epsilon'"),
        ({"sampler": "dpmpp_2n"}, "did you mean"),
        ({"schedule": "flow", "num_train_timesteps": 1}, r'"length": 1.0'),
    ],
)
def test_what_a_name_may_mean_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        cmsched.Scheduler(**options).plan(4)


@dataclass(frozen=True)
class Root(Schedule):
    """Ratio = t^2, of a user."""

    frame: str = "ve"

    @property
    def span(self):
        return 3.0, 0.1

    def ratio_at(self, t):
        return t * t

    def time_at(self, ratio):
        return ratio**0.5


def even(n, high, low):
    return np.linspace(high, low, n)


def negative(alpha, sigma, scale, o):
    return 0.0, -1.0


def test_parts_of_ones_own():
    """As objects they do what they do under a name, and print; a file needs a name."""
    made = cmsched.Scheduler(schedule=Root(), spacing=even, prediction_type=negative)
    np.testing.assert_allclose([p.sigma for p in made.plan(3).points], [9.0, 4.505, 0.01])
    assert "Root()" in repr(made.recipe())
    assert "even" in repr(made.recipe())
    assert "negative" in repr(made.recipe())
    assert "Root" in repr(made)
    again = cmsched.Scheduler(recipe=made.recipe())
    assert again.plan(3) == made.plan(3) == pickle.loads(pickle.dumps(made.plan(3)))
    x = np.random.default_rng(0).standard_normal((2, 3))
    plain = cmsched.Scheduler(schedule=Root(), spacing=even)
    found = cmsched.sample(lambda x, t: -np.tanh(x), made.plan(3), x)
    np.testing.assert_array_equal(found, cmsched.sample(lambda x, t: np.tanh(x), plain.plan(3), x))
    np.testing.assert_allclose(made.add_noise(0 * x, 1 + 0 * x, [1.5, 2.0])[:, 0], [2.25, 4.0])
    for option, part in (("schedule", Root()), ("spacing", even), ("prediction_type", negative)):
        with pytest.raises(TypeError, match=r"config\['" + option + r"'\].*register"):
            cmsched.Scheduler(**{option: part}).to_json_string()
    with pytest.raises(TypeError, match=r"schedules\.register"):
        made.plan(3).to_json()


def test_registered_parts_have_names_in_files():
    schedules.register("root", Root)
    spacings.register("even", even)
    predictions.register("negative", negative)
    try:
        by_object = cmsched.Scheduler(schedule=Root(), spacing=even, prediction_type="negative")
        by_name = cmsched.Scheduler(schedule="root", spacing="even", prediction_type="negative")
        assert by_object.config.schedule == "root"
        assert by_object.config.spacing == "even"
        assert by_object.plan(3) == by_name.plan(3)
        config = json.loads(by_object.to_json_string())
        assert cmsched.Scheduler.from_config(config).plan(3) == by_name.plan(3)
        assert cmsched.Plan.from_json(by_name.plan(3).to_json()) == by_name.plan(3)
    finally:
        del schedules.SCHEDULES["root"], SPACINGS["even"], predictions.OUTPUTS["negative"]


def test_what_is_no_part_is_refused():
    for option in ("schedule", "spacing"):
        with pytest.raises(TypeError, match=f"{option} must be"):
            cmsched.Scheduler(**{option: object()})
    with pytest.raises(ValueError, match="schedule_options are for a schedule by name"):
        cmsched.Scheduler(schedule=Root(), schedule_options={"frame": "vp"})
    with pytest.raises(ValueError, match="fields of a Prediction"):
        cmsched.Scheduler(prediction_type=cmsched.Prediction("sample"), clip_sample_range=1.0)


# --- continuous time -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SPACINGS])
def test_flows_on_any_span(name):
    """The same levels, whatever time is called, and times that go back into `timesteps=`."""
    usual = cmsched.Scheduler(schedule="flow", spacing=name, prediction_type="v").plan(4)
    for length, rising in itertools.product((1.0, 1000.0), (False, True)):
        one = {"length": length, "rising": rising}
        scheduler = cmsched.Scheduler(
            schedule="flow", schedule_options=one, spacing=name, prediction_type="velocity"
        )
        plan = scheduler.plan(4)
        sigmas = np.array([p.sigma for p in plan.points])
        np.testing.assert_allclose(sigmas, [p.sigma for p in usual.points], rtol=1e-9, atol=1e-12)
        times = length * (1 - sigmas if rising else sigmas)
        np.testing.assert_allclose(plan.timesteps, times, rtol=1e-9, atol=1e-12)
        listed = scheduler.plan(timesteps=plan.timesteps).timesteps
        np.testing.assert_array_equal(listed, plan.timesteps)
        with pytest.raises(ValueError, match="increasing" if rising else "decreasing"):
            scheduler.plan(timesteps=plan.timesteps[::-1])


SIZE, MEAN = 0.5, 0.3  # of normal data


def torchcfm(t, x):
    """E[x1 - x0 | x] of x = (1 - t) x0 + t x1, unit noise at t = 0 and normal data at t = 1."""
    spread = (1 - t) ** 2 + (t * SIZE) ** 2
    off = (x - t * MEAN) / spread
    return MEAN + (t * SIZE**2 - (1 - t)) * off


RISING = {"schedule": "flow", "schedule_options": {"length": 1.0, "rising": True}}
RISING |= {"prediction_type": "velocity", "spacing": "simple"}


def test_euler_by_hand():
    """`net(t, x)` of torchcfm, not wrapped, and the loop that its users write."""
    x = np.random.default_rng(0).standard_normal((4, 3))
    told = []
    plan = cmsched.Scheduler(sampler="euler", **RISING).plan(25)
    found = cmsched.sample(lambda x, t: (told.append(float(t)), torchcfm(t, x))[1], plan, x)
    wanted = x.copy()
    for i in range(25):
        wanted = wanted + torchcfm(i / 25, wanted) / 25
    np.testing.assert_allclose(told, np.arange(25) / 25, atol=1e-12)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_closed_form_and_an_ode_solver():
    integrate = pytest.importorskip("scipy.integrate")
    x = np.random.default_rng(1).standard_normal(5)
    wanted = MEAN + SIZE * x  # quantiles stay
    solved = integrate.solve_ivp(torchcfm, (0, 1), x, rtol=1e-10, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(solved, wanted, rtol=1e-8)
    for name, n, off in (("heun", 100, 2e-4), ("unipc", 200, 1e-4), ("euler", 400, 1e-2)):
        plan = cmsched.Scheduler(sampler=name, **RISING).plan(n)
        found = cmsched.sample(lambda x, t: torchcfm(t, x), plan, x)
        assert np.max(np.abs(found - wanted)) < off, name
    falling = {**RISING, "schedule_options": {"length": 1.0}}
    plan = cmsched.Scheduler(sampler="heun", **falling).plan(100)
    found = cmsched.sample(lambda x, t: -torchcfm(1 - t, x), plan, x)
    assert np.max(np.abs(found - wanted)) < 2e-4


def test_consistency_functions_that_begin_at_sigma_min():
    """c_skip and c_out of arXiv:2303.01469, and no evaluation where they are 1 and 0."""
    low, data = 0.002, 0.5
    scheduler = cmsched.Scheduler(
        sampler="consistency",
        schedule="identity",
        spacing="karras",
        sigma_min=low,
        sigma_max=80.0,
        prediction_type="consistency",
    )
    plan = scheduler.plan(2)
    first, second = plan.timesteps
    wanted = (80 ** (1 / 7) + low ** (1 / 7)) / 2
    assert (first, second) == pytest.approx((80.0, wanted**7))
    at = scheduler.schedule.at(t=0.8)
    skip, out = plan.prediction.linear(at)
    assert skip == pytest.approx(data**2 / ((0.8 - low) ** 2 + data**2))
    assert out == pytest.approx(data * (0.8 - low) / np.hypot(0.8, data))
    z = [np.array([[0.3]]), np.array([[-0.7]])]
    found = cmsched.sample(lambda x, t: 0.1 * x, plan, z[0], rng=lambda *_: z[1])

    def f(x, s):
        c = data**2 / ((s - low) ** 2 + data**2), data * (s - low) / np.hypot(s, data)
        return c[0] * x + c[1] * 0.1 * x

    x = f(80.0 * z[0], 80.0)
    x = f(x + np.sqrt(second**2 - low**2) * z[1], second)
    np.testing.assert_allclose(found, x, rtol=1e-9)
