"""Inversion, rows stepped at once, TCD, the consistency decoder, DDIM from no signal."""

import itertools
import math

import numpy as np
import pytest
from scheduling import native, normals

import cmsched
from cmsched import State
from cmsched.backends import resolve

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# --- inversion -----------------------------------------------------------------------------------


def gaussian(scheduler, mean=0.3, std=0.5):
    """The exact network of normal data, as the scheduler's prediction type."""
    kind = scheduler.config.prediction_type

    def model(x, t):
        p = scheduler.schedule.at(t=float(t))
        eps = p.sigma * (x - p.alpha * mean) / ((p.alpha * std) ** 2 + p.sigma**2)
        x0 = mean + p.alpha * std**2 * (x - p.alpha * mean) / ((p.alpha * std) ** 2 + p.sigma**2)
        return {"epsilon": eps, "sample": x0, "v_prediction": p.alpha * eps - p.sigma * x0}[kind]

    return model


def there_and_back(n, **options):
    """How far from data a round trip ends."""
    up, down = cmsched.DDIMInverseScheduler(**options), cmsched.DDIMScheduler(**options)
    x = np.linspace(-1.2, 1.8, 40)
    model = gaussian(down)
    noised = cmsched.sample(model, up.plan(n), x)
    back = cmsched.sample(model, down.plan(n), noised)
    return np.abs(back - x).max(), np.abs(noised - x).max()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("end", [True, False])
def test_a_round_trip_of_an_exact_network(kind, spacing, end):
    """Its error vanishes to first order in the length of the steps."""
    options = {**SD, "clip_sample": False, "prediction_type": kind, "timestep_spacing": spacing}
    options["set_alpha_to_one"] = end
    if kind == "sample" and end:
        with pytest.raises(ValueError, match="set_alpha_to_one=False"):
            there_and_back(5, **options)
        return
    errors = [there_and_back(n, **options)[0] for n in (25, 50, 100, 200)]
    assert there_and_back(200, **options)[1] > 0.5, "the way there is long"
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert errors[-1] < 0.04
    # x0 at the time of the arrival is divided by the departure's small sigma, which n steps resolve
    most = 1.65 if kind == "sample" else 1.25
    assert all(0.85 < slope < most for slope in slopes), slopes


def test_inversion_asks_the_times_that_sampling_asks():
    for options, mode in itertools.product(
        ({}, {"timestep_spacing": "trailing"}, {"steps_offset": 1, "set_alpha_to_one": False}),
        ("paper", "diffusers"),
    ):
        up, down = (
            cls(**SD, **options, compatibility=mode).plan(7)
            for cls in (cmsched.DDIMInverseScheduler, cmsched.DDIMScheduler)
        )
        assert up.timesteps.tolist() == down.timesteps.tolist()[::-1]
        walked = [(a, b) for b, a in [*down.grid.steps()][::-1]]
        for (a, b), (c, d) in zip(up.grid.steps(), walked, strict=True):
            assert (a.ratio, a.t, b) == (c.ratio, d.t, d)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("clip", [True, False])
def test_the_first_step_is_from_clean_data(xp, kind, clip):
    """There the noise is what the network says: the only thing it can say."""
    scheduler = cmsched.DDIMInverseScheduler(clip_sample=clip, prediction_type=kind)
    plan = scheduler.plan(4)
    x, m = xp.asarray(2 * normals((2, 3))), xp.asarray(normals((2, 3), 1))
    for index in (0, xp.asarray(0), xp.asarray([0, 0])):
        found = cmsched.estimate(plan, State(x, (), index), m)
        close(xp.numpy(found.eps), xp.numpy(m))
        close(xp.numpy(found.x0), np.clip(xp.numpy(x), -1, 1) if clip else xp.numpy(x))
        close(xp.numpy(found.v), xp.numpy(m))
        state = cmsched.step(plan, State(x, (), index), m)
        later = cmsched.estimate(plan, state, m)
        p = plan.points[1]
        eps = (xp.numpy(state.sample) - p.alpha * xp.numpy(later.x0)) / p.sigma
        close(xp.numpy(later.eps), eps)


def test_strength_of_an_inversion_leaves_the_noisiest_steps_out():
    scheduler = cmsched.DDIMInverseScheduler()
    whole, part = scheduler.plan(10), scheduler.plan(10, strength=0.55)
    assert part.timesteps.tolist() == whole.timesteps.tolist()[:5]
    assert part.rows == whole.rows[:5]


def test_its_lists_increase():
    scheduler = cmsched.DDIMInverseScheduler()
    with pytest.raises(ValueError, match=r"increasing; the same values in order: \[3, 20, 30\]"):
        scheduler.plan(timesteps=[30, 20, 3])
    plan = scheduler.plan(timesteps=[3, 20, 30])
    assert plan.timesteps.tolist() == [3, 20, 30]
    assert [p.ratio for p in plan.grid.points] == [
        0.0,
        *(scheduler.schedule.at(t=t).ratio for t in (3.0, 20.0, 30.0)),
    ]
    with pytest.raises(ValueError, match="goes from noise to data only"):
        scheduler.plan(4, eta=0.5)


def test_inversion_of_a_schedule_without_signal_at_its_end():
    """It ends at pure noise: alpha = 0, where the sample is what the network said last."""
    scheduler = cmsched.DDIMInverseScheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(3)
    x, m = normals((1, 4)), normals((1, 4), 1)
    for t in scheduler.timesteps:
        x = scheduler.step(m, t, x).prev_sample
    close(x, m)


# --- many rows at once ---------------------------------------------------------------------------

PARALLEL = [
    (cmsched.DDIMParallelScheduler, {}),
    (cmsched.DDIMParallelScheduler, {"timestep_spacing": "linspace", "clip_sample": False}),
    (cmsched.DDIMParallelScheduler, {"set_alpha_to_one": False, "thresholding": True}),
    (cmsched.DDPMParallelScheduler, {}),
    (
        cmsched.DDPMParallelScheduler,
        {"timestep_spacing": "trailing", "variance_type": "fixed_large"},
    ),
    (cmsched.DDPMParallelScheduler, {"variance_type": "learned_range", "clip_sample": False}),
]


def rows_of(scheduler, n, shape=(3, 4)):
    """A sample and an output for every entry of timesteps, and every step's mean of its row."""
    scheduler.set_timesteps(n)
    width = 2 if str(scheduler.config.get("variance_type")).startswith("learned") else 1
    x, m = normals((n, *shape)), normals((n, width * shape[0], *shape[1:]), 1)
    wanted = []
    for i, t in enumerate(scheduler.timesteps.tolist()):
        zero = np.zeros_like(x[i : i + 1])
        noise = {"variance_noise": zero} if scheduler.plan(n).rows[i].draws else {}
        scheduler.set_begin_index(i)
        wanted.append(scheduler.step(m[i : i + 1], t, x[i : i + 1], **noise).prev_sample)
    return x, m, np.concatenate(wanted)


@pytest.mark.parametrize("mode", ["paper", "diffusers"])
@pytest.mark.parametrize(("cls", "options"), PARALLEL)
def test_every_row_is_what_step_makes_of_it(xp, cls, options, mode):
    scheduler = cls(**options, compatibility=mode)
    x, m, wanted = rows_of(scheduler, 7)
    order = np.array([3, 0, 6, 6, 2, 1])
    times = np.asarray(scheduler.timesteps)[order]
    before = scheduler.run
    a, b = xp.asarray(x[order]), xp.asarray(m[order])
    for t in (times, times.tolist(), xp.asarray(times), xp.asarray(times.astype(float))):
        found = scheduler.batch_step_no_noise(b, t, a)
        close(xp.numpy(found), wanted[order])
    for t in (int(times[0]), xp.asarray(times[:1]), xp.asarray(np.array(times[0]))):
        found = scheduler.batch_step_no_noise(b[:1, ...], t, a[:1, ...])
        close(xp.numpy(found), wanted[order[:1]])
    single = [xp.asarray(v, "float32") for v in (m, x)]
    found = scheduler.batch_step_no_noise(single[0], scheduler.timesteps, single[1])
    assert found.dtype == xp.xp.float32
    close(xp.numpy(found), wanted, 1e-4)
    assert scheduler.run is before
    if xp.name == "jax":
        import jax

        traced = jax.jit(scheduler.batch_step_no_noise)
        close(xp.numpy(traced(b, xp.asarray(times), a)), wanted[order])
    if xp.name == "torch" and mode == "paper":
        import torch

        torch._dynamo.reset()
        traced = torch.compile(scheduler.batch_step_no_noise, backend="eager")
        close(xp.numpy(traced(b, xp.asarray(times), a)), wanted[order])


def test_rows_of_other_timesteps(xp):
    """Those that can be seen raise; others become NaN, and only they."""
    scheduler = cmsched.DDIMParallelScheduler()
    x, m, wanted = rows_of(scheduler, 4)
    a, b = xp.asarray(x), xp.asarray(m)
    times = scheduler.timesteps.copy()
    times[2] += 1
    array = xp.asarray(times)
    seen = resolve(array).known(array) is not None
    for t in (times, times.tolist(), *([array] if seen else [])):
        with pytest.raises(ValueError, match="timestep 251 is not one of"):
            scheduler.batch_step_no_noise(b, t, a)
    if not seen:
        found = xp.numpy(scheduler.batch_step_no_noise(b, array, a))
        assert np.isnan(found[2]).all()
        close(found[[0, 1, 3]], wanted[[0, 1, 3]])
    if xp.backend != "numpy":
        with pytest.raises(TypeError, match="timesteps is an array of"):
            scheduler.batch_step_no_noise(m, xp.asarray(times), x)
    with pytest.raises(ValueError, match="one per row"):
        scheduler.batch_step_no_noise(b, scheduler.timesteps[:3], a)
    with pytest.raises(ValueError, match="call set_timesteps"):
        cmsched.DDIMParallelScheduler().batch_step_no_noise(b, times, a)
    for bad in ({"eta": -1.0}, {"eta": "1"}, {"use_clipped_model_output": 1}):
        with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
            scheduler.batch_step_no_noise(b, scheduler.timesteps, a, **bad)


def test_options_of_rows():
    scheduler = cmsched.DDIMParallelScheduler(clip_sample_range=0.5)
    scheduler.set_timesteps(5)
    x, m = normals((5, 4)), normals((5, 4), 1)
    times = scheduler.timesteps
    plain = scheduler.batch_step_no_noise(m, times, x)
    for options in ({"eta": 0.7}, {"use_clipped_model_output": True}):
        found = scheduler.batch_step_no_noise(m, times, x, **options)
        assert np.abs(found - plain).max() > 1e-3
        plan = scheduler.plan(5, **options)
        for i in range(5):
            state = State(x[i : i + 1], (), i)
            close(found[i : i + 1], cmsched.transition(plan, state, m[i : i + 1]).mean)


def test_a_trajectory_found_in_parallel_is_the_one_found_in_turn():
    """ArXiv:2305.16317, algorithm 1: each sweep makes one more step exact, all noise given."""
    n = 6
    for cls in (cmsched.DDIMParallelScheduler, cmsched.DDPMParallelScheduler):
        scheduler = cls(**SD, clip_sample=False)
        scheduler.set_timesteps(n)
        times, model = scheduler.timesteps, gaussian(scheduler)
        noise = normals((n, 5), 3) * np.sqrt(
            [[scheduler._get_variance(t) if t else 0.0] for t in times.tolist()]
        )
        noise = noise * (not scheduler._is_ode_scheduler)
        start = normals((5,))
        in_turn = start
        for t, z in zip(times, noise, strict=True):
            m = model(in_turn[None], t)
            in_turn = scheduler.batch_step_no_noise(m, t, in_turn[None])[0] + z
        path = np.repeat(start[None], n + 1, axis=0)
        errors = []
        for _ in range(n):
            m = np.stack([model(x, t) for x, t in zip(path[:-1], times, strict=True)])
            drift = scheduler.batch_step_no_noise(m, times, path[:-1]) - path[:-1]
            path = np.concatenate([path[:1], path[0] + np.cumsum(drift + noise, axis=0)])
            errors.append(np.abs(path[-1] - in_turn).max())
        assert errors[0] > 1e-2
        assert errors[-1] < 1e-12


def test_variance_of_a_step():
    """Eq. 16 of arXiv:2010.02502 and eq. 7 of arXiv:2006.11239: the same number."""
    for cls in (cmsched.DDIMParallelScheduler, cmsched.DDPMParallelScheduler):
        scheduler = cls()
        scheduler.set_timesteps(5)
        bar = scheduler.alphas_cumprod
        times = scheduler.timesteps
        for t, s in itertools.pairwise(times.tolist()):
            wanted = (1 - bar[s]) / (1 - bar[t]) * (1 - bar[t] / bar[s])
            for at in (t, times[times == t][0], float(t)):
                assert scheduler._get_variance(at) == pytest.approx(wanted, rel=1e-10)
            if cls is cmsched.DDIMParallelScheduler:
                assert scheduler._get_variance(t, s) == pytest.approx(wanted, rel=1e-10)
                std = cmsched.transition(
                    scheduler.plan(5, eta=1.0),
                    State(normals((1, 2)), (), times.tolist().index(t)),
                    normals((1, 2)),
                ).std
                assert std**2 == pytest.approx(wanted, rel=1e-10)
        assert scheduler._get_variance(0) == pytest.approx(0.0, abs=1e-19)
    fresh = cmsched.DDPMScheduler()
    wanted = (1 - bar[499]) / (1 - bar[500]) * (1 - bar[500] / bar[499])
    assert fresh._get_variance(500) == pytest.approx(wanted, rel=1e-10)
    with pytest.raises(ValueError, match="predicted_variance"):
        fresh._get_variance(500, variance_type="learned")


# --- TCD -----------------------------------------------------------------------------------------


def test_tcd_without_noise_is_ddim():
    tcd = cmsched.TCDScheduler()
    plan = tcd.plan(5, eta=0.0)
    ddim = cmsched.DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False)
    other = ddim.plan(timesteps=plan.timesteps)
    x, outputs = normals((2, 3)), [normals((2, 3), i) for i in range(1, 6)]
    ends = []
    for one in (plan, other):
        state = cmsched.init(one, x)
        for m in outputs:
            state = cmsched.step(one, state, m)
        ends.append(state.sample)
    close(*ends)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_what_tcd_shows_before_its_noise(xp, eta):
    """Algorithm 4 of arXiv:2402.19159: x_s at s = floor((1 - gamma) t), then noised up to t."""
    scheduler = cmsched.TCDScheduler(prediction_type="v_prediction")
    scheduler.set_timesteps(4)
    bar = scheduler.alphas_cumprod
    x, m = normals((2, 3, 2)), normals((2, 3, 2), 1)
    times = [*scheduler.timesteps.tolist(), 0]
    for as_tuple in (False, True):
        scheduler.set_timesteps(4)
        for t, following in itertools.pairwise(times):
            s = math.floor((1 - eta) * following)
            x0 = bar[t] ** 0.5 * x - (1 - bar[t]) ** 0.5 * m
            eps = bar[t] ** 0.5 * m + (1 - bar[t]) ** 0.5 * x
            reached = bar[s] ** 0.5 * x0 + (1 - bar[s]) ** 0.5 * eps
            generator = native(xp, 7) if xp.name != "strict" else 7
            out = scheduler.step(
                xp.asarray(m), t, xp.asarray(x), eta, generator, return_dict=not as_tuple
            )
            close(xp.numpy(out[1]), reached, 1e-10)
            noised = np.array_equal(xp.numpy(out[0]), xp.numpy(out[1]))
            assert noised == (s == following)


def test_eta_of_tcd_is_a_part():
    scheduler = cmsched.TCDScheduler()
    scheduler.set_timesteps(4)
    x = normals((1, 2))
    for refused in (
        lambda: scheduler.plan(4, eta=1.5),
        lambda: scheduler.step(x, 999, x, eta=1.5, generator=7),
    ):
        with pytest.raises(ValueError, match=r"eta is the part of a time, in \[0, 1\], got 1.5"):
            refused()
    assert scheduler.step_index is None


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
def test_options_without_effect_say_so(name):
    cls = getattr(cmsched, name)
    for option, value in (("timestep_spacing", "trailing"), ("steps_offset", 1)):
        with pytest.warns(UserWarning, match=f"{option} has no effect"):
            scheduler = cls(**{option: value})
        assert scheduler.plan(4) == cls().plan(4)
    with pytest.warns(UserWarning, match="timestep_scaling has no effect"):
        cmsched.TCDScheduler(timestep_scaling=1.0)


# --- the consistency decoder ---------------------------------------------------------------------


def published_times(n):
    """consistencydecoder's __call__ and round_timesteps: 64 distilled steps, schedule 1 - k / n."""
    picked = []
    for k in range(n):
        i = int((1024 - 1) * (1 - k / n) + 1e-9)
        rounded = (i // 16 + 1) * 16
        picked.append(rounded - 16 if rounded == 1024 else rounded)
    return picked


def test_times_of_the_decoder():
    scheduler = cmsched.ConsistencyDecoderScheduler()
    assert scheduler.plan(2).timesteps.tolist() == [1008, 512]
    for n in range(1, 33):
        assert scheduler.plan(n).timesteps.tolist() == published_times(n)
    with pytest.raises(ValueError, match="num_inference_steps=33 asks for more times"):
        scheduler.set_timesteps(33)
    for train in (2, 40, 100, 4096):
        plan = cmsched.ConsistencyDecoderScheduler(train).plan(1)
        assert 0 < plan.timesteps[0] < train


def test_a_run_of_the_decoder():
    """EDM's scalings at alpha_bar of the squared cosine; the same noise at both levels."""
    scheduler = cmsched.ConsistencyDecoderScheduler(sigma_data=0.7)
    t = np.arange(1025) / 1024
    bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    bar = np.cumprod(1 - np.minimum(1 - bar[1:] / bar[:-1], 0.999))
    ratio = np.sqrt(1 / bar - 1)
    scheduler.set_timesteps(2)
    x, z = normals((1, 3)), normals((1, 3), 1)
    outputs = normals((1, 3), 2), normals((1, 3), 3)
    assert scheduler.init_noise_sigma == pytest.approx(math.sqrt(1 - bar[1008]))
    for i, (t, m) in enumerate(zip((1008, 512), outputs, strict=True)):
        size = np.hypot(ratio[t], 0.7)
        close(scheduler.scale_model_input(x, t), x / np.sqrt(bar[t]) / size, 1e-9)
        wanted = 0.7**2 / size**2 * x / np.sqrt(bar[t]) + ratio[t] * 0.7 / size * m
        if i == 0:
            wanted = np.sqrt(bar[512]) * wanted + np.sqrt(1 - bar[512]) * z
        x = scheduler.step(m, t, x, variance_noise=z).prev_sample
        close(x, wanted, 1e-9)


# --- DDIM as Stable Diffusion needs it -----------------------------------------------------------


def test_ddim_from_no_signal_to_an_image():
    """ArXiv:2305.08891: zero terminal SNR, trailing timesteps, v prediction, rescaled guidance."""
    shipped = {
        **SD,
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.8.0",
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "clip_sample": False,
        "trained_betas": None,
    }
    scheduler = cmsched.DDIMScheduler.from_config(
        shipped, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == list(range(999, 0, -100))
    root = np.sqrt(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    assert scheduler.alphas_cumprod[-1] == scheduler.plan(10).points[0].alpha == 0.0
    x = normals((2, 4, 8, 8)) * scheduler.init_noise_sigma
    conditional = gaussian(scheduler, mean=normals(x.shape, 1))
    unconditional = gaussian(scheduler, mean=normals(x.shape, 2))
    for t, following in itertools.pairwise([*scheduler.timesteps.tolist(), -1]):
        c, u = conditional(x, t), unconditional(x, t)
        v = cmsched.guidance.rescale_noise_cfg(u + 3.0 * (c - u), c, guidance_rescale=0.7)
        a, b = root[t], root[following] if following >= 0 else root[0]
        x0 = a * x - math.sqrt(1 - a**2) * v
        eps = a * v + math.sqrt(1 - a**2) * x
        out = scheduler.step(v, t, x)
        close(out.pred_original_sample, x0, 1e-9)
        x = b * x0 + math.sqrt(1 - b**2) * eps
        close(out.prev_sample, x, 1e-9)
    assert np.all(np.isfinite(x))
