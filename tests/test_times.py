"""Times: those in host memory are looked at in whatever they come; one per row, or per frame."""

import numpy as np
import pytest
from scheduling import normals

import cmsched
from cmsched.backends import resolve

OUTSIDE = {
    "DDIMScheduler": (1000, -1),
    "DDPMScheduler": (1000, -1),
    "EulerDiscreteScheduler": (1000, -1),
    "LCMScheduler": (1000, -1),
    "FlowMatchEulerDiscreteScheduler": (1500.0, -3.0),
    "CMStochasticIterativeScheduler": (1e6, -1e6),
    "EDMEulerScheduler": (44, 933),
}


@pytest.mark.parametrize("name", [*OUTSIDE])
def test_times_out_of_range(xp, name):
    scheduler, x = getattr(cmsched, name)(), xp.asarray(np.ones((2, 3), np.float32))
    for outside in OUTSIDE[name]:
        for kind in ("int64", "float32") if isinstance(outside, int) else ("float32",):
            times = xp.asarray(np.full(2, outside, kind))
            given = [[float(outside)] * 2]
            given += [times] if resolve(times).known(times) is not None else []
            for t in given:
                for method in ("add_noise", "get_velocity"):
                    with pytest.raises(ValueError, match="timesteps must lie in"):
                        getattr(scheduler, method)(x, x, t)
                if hasattr(scheduler, "scale_noise"):
                    with pytest.raises(ValueError, match="timesteps must lie in"):
                        scheduler.scale_noise(x, t, x)


def test_a_step_is_where_its_time_is(xp):
    """Truncated runs and time travel, by numbers and by arrays alike."""
    results = []
    for kind in (int, lambda t: xp.asarray(np.array(t))):
        scheduler = cmsched.DDIMScheduler(clip_sample=False, prediction_type="sample")
        scheduler.set_timesteps(1000)
        x = xp.asarray(normals((2, 3)))
        for t in (10, 0):
            x = scheduler.step(0.3 * x, kind(t), x).prev_sample
        scheduler.set_timesteps(10)
        times = scheduler.timesteps
        y = xp.asarray(np.ones((1, 2)))
        for i in (0, 1, 0, 1, 2):
            y = scheduler.step(0.3 * y, kind(times[i]), y).prev_sample
        results.append((xp.numpy(x), xp.numpy(y)))
    array = xp.asarray(np.array(10))
    if resolve(array).known(array) is not None:
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_time_per_frame(xp):
    """Rows and frames are what they are alone."""
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 2, 4, 3))
    times = rng.integers(0, 1000, (2, 4))
    for scheduler in (cmsched.DDIMScheduler(), cmsched.FlowMatchEulerDiscreteScheduler()):
        for method in ("add_noise", "get_velocity"):
            f = getattr(scheduler, method)
            got = xp.numpy(f(xp.asarray(x0), xp.asarray(noise), xp.asarray(times)))
            flat = f(x0.reshape(8, 3), noise.reshape(8, 3), times.reshape(8))
            np.testing.assert_allclose(got, flat.reshape(2, 4, 3), rtol=1e-6, atol=1e-6)
    scheduler = cmsched.FlowMatchEulerDiscreteScheduler()
    got = scheduler.scale_noise(x0, times.astype(float), noise)
    np.testing.assert_allclose(got, scheduler.add_noise(x0, noise, times))
    alpha, sigma = rng.uniform(0.2, 0.8, (2, 2, 4))
    levels = xp.asarray(alpha), xp.asarray(sigma)
    got = cmsched.convert(xp.asarray(noise), xp.asarray(x0), levels, "epsilon", "sample")
    wanted = (x0 - sigma[..., None] * noise) / alpha[..., None]
    np.testing.assert_allclose(xp.numpy(got), wanted, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="or frame"):
        scheduler.add_noise(x0, noise, times[:, :3])


def test_devices_without_float64(monkeypatch):
    """As Apple's: float64 is refused there, and times are float32."""
    torch = pytest.importorskip("torch")
    real = torch.tensor

    def tensor(*args, **kwargs):
        made = real(*args, **kwargs)
        if made.device.type == "meta" and made.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return made

    monkeypatch.setattr(torch, "tensor", tensor)
    names = [n for n in cmsched.schedulers.__all__ if n.endswith("Scheduler")]
    done = 0
    for name in names:
        try:
            scheduler = getattr(cmsched, name)()
        except (TypeError, ValueError):
            continue  # options that must be given
        if not hasattr(scheduler, "set_timesteps") or name == "RePaintScheduler":
            continue
        scheduler.set_timesteps(2, device="meta")
        assert scheduler.timesteps.dtype in (torch.float32, torch.int64), name
        done += 1
    assert done > 30


def test_stored_steps_of_several_rows(xp):
    """Their log-probability, each at another step: the latents are a state as they are."""
    plan = cmsched.DDIMScheduler(clip_sample=False).plan(6, eta=1.0)
    state = cmsched.init(plan, xp.asarray(normals((3, 4))))
    states, logs = [state], []
    for _ in range(5):
        output = 0.6 * state.sample
        new = cmsched.step(plan, state, output, rng=1)
        logs.append(xp.numpy(cmsched.transition(plan, state, output).log_prob(new.sample)))
        states.append(state := new)
    picked = [3, 0, 4]
    rows = [
        np.stack([xp.numpy(states[k + d].sample)[r] for r, k in enumerate(picked)]) for d in (0, 1)
    ]
    x, y = (xp.asarray(row) for row in rows)
    index = xp.asarray(np.array(picked, np.int32))
    found = cmsched.transition(plan, cmsched.State(x, (), index), 0.6 * x).log_prob(y)
    wanted = [logs[k][r] for r, k in enumerate(picked)]
    np.testing.assert_allclose(xp.numpy(found), wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda x: (x,), r"returned a tuple of 1: pass lambda x, t: model\(x, t\)\[0\]"),
        (lambda x: {"out": x}, r"returned a dict of \['out'\]"),
        (lambda x: None, "returned None"),
        (lambda x: type("Out", (), {"sample": x})(), r"returned a Out: .*model\(x, t\)\.sample"),
    ],
)
def test_networks_that_return_no_array(output, words):
    plan, noise = cmsched.DDIMScheduler().plan(2), np.zeros((1, 4))
    for how in (cmsched.sample, cmsched.run):
        with pytest.raises(TypeError, match=words):
            how(lambda x, t: output(x), plan, noise)


def test_twice_the_channels_are_explained():
    noise = np.zeros((1, 3, 2, 2))
    with pytest.raises(ValueError, match="learned variance: variance_type="):
        cmsched.sample(
            lambda x, t: np.concatenate([x, x], 1), cmsched.DDIMScheduler().plan(2), noise
        )


def test_a_guidance_scale_for_each_sample(xp):
    x = xp.asarray(normals((2, 3)))
    times = xp.asarray(np.array([1.0, 1.0]))
    scales = [1.0, 3.0]

    def network(both, t):  # halves of other sizes
        return xp.asarray(xp.numpy(both) * np.array([[1.0], [1.0], [2.0], [2.0]]))

    found = xp.numpy(cmsched.guide(network, xp.asarray(np.array(scales)))(x, times))
    for row, scale in enumerate(scales):
        np.testing.assert_allclose(found[row], xp.numpy(x)[row] * (1 + scale), rtol=1e-6)
