"""PNDM and iPNDM: their parts, where they begin, what they are told."""

import math

import numpy as np
import pytest
from scheduling import normals

import cmsched
from cmsched import IPNDMScheduler, PNDMScheduler

# Adams-Bashforth, newest first
WEIGHTS = {
    1: (1,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def eps_is_true(scheduler, n, first=0):
    """How far from x0 a network that says the very eps ends."""
    scheduler.set_timesteps(n)
    x0, eps = normals((1, 4)), normals((1, 4), 1)
    t = scheduler.timesteps[first]
    x = scheduler.add_noise(x0, eps, t)
    for t in scheduler.timesteps[first:]:
        x = scheduler.step(eps, t, x).prev_sample
    return float(np.abs(x - x0).max())


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 13])
def test_a_constant_eps_is_followed_exactly(skip, spacing, n):
    """All weights sum to one."""
    options = {"skip_prk_steps": skip, "timestep_spacing": spacing, "set_alpha_to_one": True}
    assert eps_is_true(PNDMScheduler(**options), n) < 1e-11
    scheduler = PNDMScheduler(**options)
    scheduler.set_timesteps(n)
    warm = 0 if skip or n < 4 else 12
    assert len(scheduler.prk_timesteps) == warm
    assert len(scheduler.timesteps) == (n + 9 if warm else n + (n > 1))
    both = [*scheduler.prk_timesteps, *scheduler.plms_timesteps]
    assert both == scheduler.timesteps.tolist()


@pytest.mark.parametrize("skip", [False, True])
def test_it_may_begin_at_every_step(skip):
    options = {"skip_prk_steps": skip, "set_alpha_to_one": True}
    steps = PNDMScheduler(**options).plan(10).steps
    for step in range(1, 10):
        entry = steps.index(step)
        assert eps_is_true(PNDMScheduler(**options), 10, entry) < 1e-11


def test_plms_may_begin_at_its_second_evaluation():
    """It is level with the third, where it then begins: pipelines count entries as steps."""
    ends = []
    for first in (1, 2):
        scheduler = PNDMScheduler(skip_prk_steps=True)
        scheduler.set_timesteps(6)
        scheduler.set_begin_index(first)
        x = normals((1, 4))
        for t in scheduler.timesteps[first:]:
            x = scheduler.step(np.tanh(x) + t / 1000, t, x).prev_sample
        assert scheduler.step_index == 7
        ends.append(x)
    assert (ends[0] == ends[1]).all()


def test_a_warm_up_that_was_begun_goes_on():
    """Entered at its second Runge-Kutta step, a run has two of them, and then Adams-Bashforth."""
    whole = PNDMScheduler(set_alpha_to_one=True).plan(10)
    rest = whole.skip(1)
    assert rest.timesteps.tolist() == whole.timesteps[4:].tolist()
    assert whole.skip(3).timesteps.tolist() == whole.timesteps[12:].tolist()


def test_a_runge_kutta_step_by_hand():
    """arXiv:2202.09778, eq. 13, in u = x / alpha and r = sigma / alpha, where du/dr = eps."""
    scheduler = PNDMScheduler(set_alpha_to_one=True)
    scheduler.set_timesteps(20)
    points, slopes = scheduler.plan(20).points, [normals((1, 3), i) for i in range(4)]
    a, mid, _, b = points[:4]
    assert [p.t for p in points[:4]] == [950, 925, 925, 900]
    x = normals((1, 3), 9)
    u, half, whole = x / a.alpha, mid.ratio - a.ratio, b.ratio - a.ratio
    ends = [u + half * slopes[0], u + half * slopes[1], u + whole * slopes[2]]
    k1, k2, k3, k4 = slopes
    ends.append(u + whole * (k1 + 2 * k2 + 2 * k3 + k4) / 6)
    for i, (end, at) in enumerate(zip(ends, (mid, mid, b, b), strict=True)):
        x = scheduler.step(slopes[i], scheduler.timesteps[i], x).prev_sample
        np.testing.assert_allclose(x, at.alpha * end, rtol=1e-10, atol=1e-10)


def test_plms_by_hand():
    """In u and r as above; the first step is of the mean of both its slopes."""
    scheduler = PNDMScheduler(set_alpha_to_one=True, skip_prk_steps=True)
    scheduler.set_timesteps(6)
    points, eps = scheduler.plan(6).grid.points, [normals((1, 3), i) for i in range(7)]
    x = normals((1, 3), 9)
    u = x / points[0].alpha
    means = [
        0.5 * (eps[0] + eps[1]),
        (3 * eps[2] - eps[0]) / 2,
        (23 * eps[3] - 16 * eps[2] + 5 * eps[0]) / 12,
        (55 * eps[4] - 59 * eps[3] + 37 * eps[2] - 9 * eps[0]) / 24,
        (55 * eps[5] - 59 * eps[4] + 37 * eps[3] - 9 * eps[2]) / 24,
        (55 * eps[6] - 59 * eps[5] + 37 * eps[4] - 9 * eps[3]) / 24,
    ]
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(eps[i], t, x).prev_sample
        if i == 0:
            first = points[1].alpha * (u + (points[1].ratio - points[0].ratio) * eps[0])
            np.testing.assert_allclose(x, first, rtol=1e-10, atol=1e-10)
            continue
        a, b = points[i - 1 : i + 1]
        u = u + (b.ratio - a.ratio) * means[i - 1]
        np.testing.assert_allclose(x, b.alpha * u, rtol=1e-9, atol=1e-9)


def test_the_two_parts_by_name():
    scheduler = PNDMScheduler(set_alpha_to_one=True)
    assert scheduler.prk_timesteps is None
    assert scheduler.plms_timesteps is None
    x = normals((1, 4))
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step_prk(x, 900, x)
    for by_name in (True, False):
        y = x
        scheduler.set_timesteps(10)
        for i, t in enumerate(scheduler.timesteps):
            part, other = ("step_prk", "step_plms") if i < 12 else ("step_plms", "step_prk")
            with pytest.raises(ValueError, match=f"{other} at entry {i} .*use {part}"):
                getattr(scheduler, other)(0.1 * y, t, y)
            step = getattr(scheduler, part if by_name else "step")
            (y,) = step(0.1 * y, t, y, return_dict=False)
        results = (y,) if by_name else (*results, y)  # noqa: F821
    np.testing.assert_array_equal(*results)


def test_a_list_of_all_evaluations_is_one_of_steps():
    for skip in (True, False):
        scheduler = PNDMScheduler(skip_prk_steps=skip, set_alpha_to_one=True)
        scheduler.set_timesteps(9)
        assert scheduler.plan(timesteps=scheduler.timesteps) == scheduler.plan(9)
        with pytest.raises(ValueError, match="strictly decreasing"):
            scheduler.plan(timesteps=[900, 800, 700, 700, 600])


# --- iPNDM ---------------------------------------------------------------------------------------


def test_ipndm_levels():
    scheduler = IPNDMScheduler()
    scheduler.set_timesteps(7)
    sigma = np.sin(np.linspace(1, 0, 8) * math.pi / 2) ** 2
    np.testing.assert_allclose(scheduler.betas, sigma, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(scheduler.alphas, np.sqrt(1 - sigma**2), rtol=1e-7, atol=1e-15)
    angle = np.arctan2(sigma, np.sqrt(1 - sigma**2))[:-1]
    np.testing.assert_allclose(scheduler.timesteps, angle * 2 / math.pi, rtol=1e-7)


def by_hand(betas, outputs, x):
    """arXiv:2204.13902, section 3.2, of v, from a level with a signal."""
    alphas, past = np.sqrt(1 - betas**2), []
    for i, v in enumerate(outputs):
        past = [betas[i] * x + alphas[i] * v, *past][:4]
        eps = sum(w * e for w, e in zip(WEIGHTS[len(past)], past, strict=True))
        x = alphas[i + 1] * (x - betas[i] * eps) / alphas[i] + betas[i + 1] * eps
        yield x


def test_ipndm_by_hand(xp):
    betas = np.linspace(0.98, 0.02, 8)
    scheduler = IPNDMScheduler(trained_betas=betas)
    scheduler.set_timesteps(7)
    x, outputs = normals((2, 3)), [normals((2, 3), 1 + i) for i in range(7)]
    y = xp.asarray(x)
    for i, want in enumerate(by_hand(betas, outputs, x)):
        y = scheduler.step(xp.asarray(outputs[i]), scheduler.timesteps[i], y).prev_sample
        np.testing.assert_allclose(xp.numpy(y), want, rtol=1e-9, atol=1e-9)
    assert len(scheduler.run.memory) == 3


def test_ipndm_from_no_signal():
    """At alpha = 0 v says -x0, and one step is enough."""
    x0 = normals((2, 3))
    out = cmsched.sample(lambda x, t: -x0, IPNDMScheduler().plan(1), normals((2, 3), 1))
    np.testing.assert_allclose(out, x0, atol=1e-12)


@pytest.mark.parametrize(
    ("betas", "text"),
    [
        ([0.1, 0.5, 0.9], "strictly decreasing"),
        ([0.9], "at least two"),
        ([1.2, 0.5, 0.0], r"in \[0, 1\]"),
        ([0.9, -0.1], r"in \[0, 1\]"),
    ],
)
def test_ipndm_wrong_levels(betas, text):
    with pytest.raises(ValueError, match=text):
        IPNDMScheduler(trained_betas=betas)


def test_ipndm_wrong_number_of_steps():
    scheduler = IPNDMScheduler(trained_betas=[0.9, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"num_inference_steps=5.*set_timesteps\(2\)"):
        scheduler.set_timesteps(5)
    scheduler.set_timesteps(2)
    assert scheduler.betas.tolist() == pytest.approx([0.9, 0.5, 0.0])


@pytest.mark.parametrize("variable", [False, True])
def test_variable_step(variable):
    """The weights of the steps as they are integrate a cubic; those of equal steps do not."""
    levels = np.sin(np.linspace(0.9, 0.2, 9) * math.pi / 2) ** 2
    scheduler = IPNDMScheduler(trained_betas=levels, variable_step=variable)
    scheduler.set_timesteps(8)
    points, x, off = scheduler.plan(8).grid.points, np.ones((1, 1)), []
    for a, b, t in zip(points[:-1], points[1:], scheduler.timesteps, strict=True):
        before, v = x / a.alpha, (a.ratio**3 - a.sigma * x) / a.alpha
        x = scheduler.step(v, t, x).prev_sample
        exact = (b.ratio**4 - a.ratio**4) / 4
        off.append(abs(float((x / b.alpha - before)[0, 0]) / exact - 1))
    assert (max(off[3:]) < 1e-8) == variable
    assert off[0] > 1e-3, "the first step is Euler's"
