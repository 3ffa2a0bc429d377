"""CogVideoX: shifted signal-to-noise ratios, and a step whose caller keeps the last estimate."""

import numpy as np
import pytest
from scheduling import normals

import cmsched
from cmsched.schedules import Betas, make_schedule

DDIM, DPM = cmsched.CogVideoXDDIMScheduler, cmsched.CogVideoXDPMScheduler
SHAPE = (2, 3, 4)
X, M = normals(SHAPE), normals(SHAPE, 1)


@pytest.mark.parametrize("cls", [DDIM, DPM])
@pytest.mark.parametrize("scale", [3.0, 1.0, 0.5])
def test_ratios_are_divided(cls, scale):
    """alpha_bar / (1 - alpha_bar) of the betas, divided; then the terminal one is made zero."""
    bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    shifted = bar / (1 - bar) / scale
    shifted /= 1 + shifted
    found = cls(snr_shift_scale=scale).alphas_cumprod
    np.testing.assert_allclose(found, shifted, rtol=1e-10)
    root = np.sqrt(shifted)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    rescaled = cls(snr_shift_scale=scale, rescale_betas_zero_snr=True).alphas_cumprod
    np.testing.assert_allclose(rescaled, root**2, rtol=1e-8, atol=1e-15)
    assert rescaled[-1] == 0.0


def test_any_schedule_of_betas_takes_it():
    """The log signal-to-noise ratio moves by log(scale) / 2 at every training step."""
    plain, moved = Betas(), make_schedule("linear", snr_shift_scale=4.0)
    for t in (0.0, 10.0, 500.0, 999.0):
        assert moved.at(t=t).lam == pytest.approx(plain.at(t=t).lam - np.log(2), abs=1e-12)
    assert make_schedule(**moved.to_dict()) == moved
    plan = cmsched.Scheduler(schedule_options={"snr_shift_scale": 4.0}).plan(5)
    assert cmsched.Plan.from_json(plan.to_json()) == plan
    for wrong in (0.0, -1.0, "3", float("nan")):
        with pytest.raises((ValueError, TypeError), match="snr_shift_scale"):
            Betas(snr_shift_scale=wrong)
        for cls in (DDIM, DPM):
            with pytest.raises((ValueError, TypeError), match="snr_shift_scale"):
                cls(snr_shift_scale=wrong)


def loop(scheduler, x, start=0, **options):
    """The loop that its docstring shows."""
    old = back = None
    for t in scheduler.timesteps[start:]:
        x, old = scheduler.step(0.3 * x, old, t, back, x, **options)
        back = t
    return x


@pytest.mark.parametrize(
    "options",
    [
        {"clip_sample": False},
        {"clip_sample": True, "clip_sample_range": 0.5, "set_alpha_to_one": False},
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
    ],
)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_loop_is_that_of_sample(xp, options, n):
    scheduler = DPM(**options)
    plan = scheduler.plan(n)
    noise = xp.asarray(X, "float32")
    expected = cmsched.sample(lambda x, t: 0.3 * x, plan, noise, rng=5)
    scheduler.set_timesteps(n)
    found = loop(scheduler, noise, generator=5)
    np.testing.assert_allclose(xp.numpy(found), xp.numpy(expected), rtol=2e-5, atol=1e-6)
    assert type(found) is type(noise)


def test_a_run_that_starts_later_is_one_of_its_own():
    scheduler = DPM(clip_sample=False)
    scheduler.set_timesteps(8)
    rest = scheduler.plan(8).skip(3)
    state = cmsched.State(X, (X,), 0)
    for row in rest.rows:
        state = cmsched.step(rest, state, 0.3 * state.sample, noise=M if row.draws else None)
    found = loop(scheduler, X, start=3, variance_noise=M)
    np.testing.assert_allclose(found, state.sample, rtol=1e-12)


def test_second_order():
    """An earlier estimate is heeded, and only by steps that have one."""
    scheduler = DPM(clip_sample=False)
    scheduler.set_timesteps(4)
    times = scheduler.timesteps.tolist()

    def after(old, t, back):
        zero = np.zeros_like(X)
        return scheduler.step(M, old, t, back, X, variance_noise=zero)[0]

    assert not np.allclose(after(X, times[1], times[0]), after(2 * X, times[1], times[0]))
    assert np.array_equal(after(X, times[3], times[2]), after(2 * X, times[3], times[2]))
    out = scheduler.step(M, None, times[0], None, X, generator=0, return_dict=True)
    assert type(out) is cmsched.DDIMSchedulerOutput
    assert out.keys() == {"prev_sample", "pred_original_sample"}


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"timestep_back": None}, ValueError, "belong together"),
        ({"old_pred_original_sample": None}, ValueError, "belong together"),
        ({"timestep_back": 250}, ValueError, "not the entry of timesteps before"),
        ({"timestep_back": 751}, ValueError, "not one of the scheduler's timesteps"),
        ({"timestep": 750, "timestep_back": 750}, ValueError, "not the entry"),
        ({"timestep": 3}, ValueError, "not one of the scheduler's timesteps"),
        ({"old_pred_original_sample": X[:1]}, ValueError, "old_pred_original_sample"),
        ({"model_output": M[:1]}, ValueError, "model_output|output"),
        ({"variance_noise": M[:1], "generator": None}, ValueError, "variance_noise"),
        ({"variance_noise": M}, ValueError, "either generator or variance_noise"),
        ({"eta": -1.0}, ValueError, "eta"),
        ({"eta": "1"}, TypeError, "eta"),
    ],
)
def test_wrong_arguments(change, kind, message):
    """Nothing changes then: the next step draws what it would have."""
    right = {
        **{"model_output": M, "old_pred_original_sample": X, "timestep": 500},
        **{"timestep_back": 750, "sample": X, "generator": 3},
    }

    def fresh():
        scheduler = DPM()
        scheduler.set_timesteps(4)
        return scheduler

    tried, plain = fresh(), fresh()
    with pytest.raises(kind, match=message):
        tried.step(**{**right, **change})
    assert np.array_equal(tried.step(**right)[0], plain.step(**right)[0])
    with pytest.raises(ValueError, match="set_timesteps"):
        DPM().step(**right)


@pytest.mark.parametrize("name", ["eta", "use_clipped_model_output"])
def test_what_has_no_effect_says_so(name):
    scheduler = DPM()
    scheduler.set_timesteps(4)
    value = 1.0 if name == "eta" else True
    with pytest.warns(UserWarning, match=f"{name} has no effect"):
        scheduler.step(M, None, 750, None, X, generator=0, **{name: value})
