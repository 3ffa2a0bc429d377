"""Explicit lists of times and levels, against loops that are written out."""

from typing import Any

import numpy as np
import pytest

import cmsched

BOTH = ("paper", "diffusers")
X = np.random.default_rng(0).standard_normal((2, 3, 4))
# no multiples of a stride, of a thinned run, and a part of one
TIMES = ([999, 845, 730, 587, 443, 310, 193, 116, 53, 13], [901, 601, 401, 201], [980, 960, 940])
DDIM = ("DDIMScheduler", "DDIMParallelScheduler", "CogVideoXDDIMScheduler")


def eps(x: np.ndarray, t: float) -> np.ndarray:
    """A network's noise."""
    return 0.6 * np.tanh(x) + 1e-4 * t


def moved(x: np.ndarray, m: np.ndarray, a: float, b: float) -> np.ndarray:
    """DDIM's step along m from one alpha_bar to another (arXiv:2010.02502, eq. 12)."""
    x0 = (x - (1 - a) ** 0.5 * m) / a**0.5
    return b**0.5 * x0 + (1 - b) ** 0.5 * m


def made(name: str, mode: str, **options: Any) -> Any:
    """A scheduler without clipping, where its class has that."""
    cls = getattr(cmsched, name)
    clip = {"clip_sample": False} if "clip_sample" in cls.options else {}
    return cls(**clip, **options, compatibility=mode)


def walked(scheduler: Any, times: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a run over a list, as a plan and as a loop."""
    scheduler.set_timesteps(timesteps=times)
    x = X
    for t in scheduler.timesteps:
        x = scheduler.step(eps(x, float(t)), t, x).prev_sample
    return x, cmsched.sample(eps, scheduler.plan(timesteps=times), X)


def levels(scheduler: Any, times: list[int]) -> list[float]:
    """alpha_bar of the times, and of the end."""
    bar = scheduler.alphas_cumprod
    return [*(float(bar[t]) for t in times), 1.0 if scheduler.config.set_alpha_to_one else bar[0]]


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("times", TIMES, ids=len)
@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("name", DDIM)
def test_a_step_of_ddim_goes_to_the_next_entry(
    name: str, mode: str, times: list[int], to_one: bool
) -> None:
    scheduler = made(name, mode, set_alpha_to_one=to_one)
    bar, x = levels(scheduler, times), X
    for i, t in enumerate(times):
        x = moved(x, eps(x, t), bar[i], bar[i + 1])
    for found in walked(scheduler, times):
        np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("times", TIMES, ids=len)
@pytest.mark.parametrize("mode", BOTH)
def test_a_step_of_the_inversion_comes_from_the_entry_before(mode: str, times: list[int]) -> None:
    scheduler = made("DDIMInverseScheduler", mode, set_alpha_to_one=False)
    up, x = times[::-1], X
    bar = [scheduler.alphas_cumprod[0], *(scheduler.alphas_cumprod[t] for t in up)]
    for i, t in enumerate(up):
        x = moved(x, eps(x, t), bar[i], bar[i + 1])
    for found in walked(scheduler, up):
        np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("skip", [True, False], ids=["plms", "runge-kutta"])
@pytest.mark.parametrize("times", TIMES[:2], ids=len)
@pytest.mark.parametrize("mode", BOTH)
def test_a_step_of_pndm_goes_to_the_next_entry(mode: str, times: list[int], skip: bool) -> None:
    """arXiv:2202.09778, algorithm 2: the middle of a step is in the middle of its times."""
    scheduler = made("PNDMScheduler", mode, skip_prk_steps=skip, set_alpha_to_one=True)
    bar, x, past = levels(scheduler, times), X, []
    for i, t in enumerate(times):
        a, b, m = bar[i], bar[i + 1], eps(x, t)
        if skip and i == 0:
            past, m = [m], (m + eps(moved(x, m, a, b), times[1])) / 2
        elif not skip and i < 3:
            past, to = [m, *past], times[i + 1]
            mid = (t + to) // 2
            c = float(scheduler.alphas_cumprod[mid])
            second = eps(moved(x, m, a, c), mid)
            third = eps(moved(x, second, a, c), mid)
            fourth = eps(moved(x, third, a, b), to)
            m = (m + 2 * second + 2 * third + fourth) / 6
        else:
            past = [m, *past][:4]
            weights = {1: (1,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12)}
            weights[4] = (55 / 24, -59 / 24, 37 / 24, -9 / 24)
            m = sum(w * e for w, e in zip(weights[len(past)], past, strict=True))
        x = moved(x, m, a, b)
    for found in walked(scheduler, times):
        np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)


def test_a_number_of_steps_keeps_the_stride_of_the_reference() -> None:
    """And the list of its times does not: it goes to the next entry."""
    scheduler = made("DDIMScheduler", "diffusers", timestep_spacing="linspace")
    counted = scheduler.plan(7)
    listed = scheduler.plan(timesteps=counted.timesteps)
    assert [b.t for _, b in counted.grid.steps()][:2] == [999 - 142, 832 - 142]
    assert [b.t for _, b in listed.grid.steps()][:2] == [832, 666]


@pytest.mark.parametrize("mode", BOTH)
def test_the_last_step_of_a_list_is_of_first_order(mode: str) -> None:
    """Of CogVideoX's solver, whose reference asks whether a stride leaves the table."""
    scheduler = made("CogVideoXDPMScheduler", mode, set_alpha_to_one=False)
    assert scheduler.plan(timesteps=[900, 700, 500]).options["euler_at_final"] is True


# lists of levels


def test_a_list_to_zero_is_shifted_as_in_the_reference_and_asked_there() -> None:
    """Euler's steps along shifted sigmas, the last one going nowhere; by the paper there is none.

    Shifted: 3 s / (1 + 2 s).
    """
    given = [1.0, 0.75, 0.5, 0.25, 0.0]
    scheduler = cmsched.FlowMatchEulerDiscreteScheduler(shift=3.0, compatibility="diffusers")
    scheduler.set_timesteps(sigmas=given)
    moved = [3 * s / (1 + 2 * s) for s in given]
    np.testing.assert_allclose(scheduler.sigmas, [*moved, 0.0], atol=1e-12)
    x = y = X
    for a, b, t in zip(moved, [*moved[1:], 0.0], scheduler.timesteps, strict=True):
        y = scheduler.step(eps(y, t), t, y).prev_sample
        x = x + (b - a) * eps(x, 1000 * a)
        np.testing.assert_allclose(y, x, rtol=1e-9, atol=1e-12)
    with pytest.warns(UserWarning, match="shift has no effect"):
        plan = cmsched.FlowMatchEulerDiscreteScheduler(shift=3.0).plan(sigmas=given)
    assert [p.sigma for p in plan.grid.points] == pytest.approx(given)


@pytest.mark.parametrize("corrector", [{}, {"disable_corrector": [0, 1, 2]}])
def test_an_evaluation_in_clean_data_changes_nothing(corrector: dict[str, Any]) -> None:
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "solver_order": 3}
    scheduler = cmsched.UniPCMultistepScheduler(**options, **corrector, compatibility="diffusers")
    longer, shorter = (
        cmsched.sample(eps, scheduler.plan(sigmas=levels), X)
        for levels in ([0.9, 0.6, 0.3, 0.0], [0.9, 0.6, 0.3])
    )
    assert np.array_equal(longer, shorter)


@pytest.mark.parametrize(("mode", "steps"), [("paper", 3), ("diffusers", 4)])
def test_a_last_level_that_stands_twice_is_the_end(mode: str, steps: int) -> None:
    """A step from there goes nowhere, and by the paper there is none."""
    plan = made("EulerDiscreteScheduler", mode).plan(sigmas=[10.0, 4.0, 1.0, 0.2, 0.2])
    assert len(plan) == steps
    assert [p.ratio for p in plan.grid.points[:3]] == pytest.approx([10.0, 4.0, 1.0])
    assert plan.grid.points[-1].ratio == pytest.approx(0.2)
    x = cmsched.sample(eps, plan, X)
    whole = made("EulerDiscreteScheduler", mode).plan(sigmas=[10.0, 4.0, 1.0, 0.2])
    assert not np.allclose(x, cmsched.sample(eps, whole, X))
    up = made("DPMSolverMultistepInverseScheduler", mode).plan(sigmas=[0.1, 1.0, 10.0, 10.0])
    assert [p.ratio for p in up.grid.points[:2]] == pytest.approx([0.1, 1.0])
    assert up.grid.points[-1].ratio == pytest.approx(10.0)


@pytest.mark.parametrize("end", ["zero", "sigma_min"])
@pytest.mark.parametrize("ramp", [{}, {"use_karras_sigmas": True}], ids=["even", "karras"])
@pytest.mark.parametrize("mode", BOTH)
def test_levels_of_evaluations_are_given_back(mode: str, ramp: dict[str, Any], end: str) -> None:
    """Those in the middle of a step, which are the next start's to rounding, make no steps."""
    cls = cmsched.KDiffusionScheduler
    scheduler = cls(compatibility=mode, final_sigmas_type=end, **ramp)
    plan = scheduler.plan(5)
    levels = [p.ratio for p in plan.points]
    again = scheduler.plan(sigmas=levels)
    found = [p.ratio for p in again.grid.points]
    np.testing.assert_allclose(found, [p.ratio for p in plan.grid.points], rtol=1e-12)
    assert len(again) == len(plan)


def test_an_end_that_stands_three_times_is_one() -> None:
    """As in diffusers' `sigmas` of this class; where it is no end, the list is no list."""
    scheduler = cmsched.KDPM2DiscreteScheduler()
    levels = [10.0, 4.0, 4.0, 1.0, 1.0]
    ends = [p.ratio for p in scheduler.plan(sigmas=[*levels, 0.0, 0.0, 0.0]).grid.points]
    assert ends == pytest.approx([10.0, 4.0, 1.0, 0.0])
    for wrong in ([10.0, 4.0, 4.0, 4.0, 1.0, 1.0, 0.0], [10.0, 4.0, 4.0, 1.0, 1.0, 1.0]):
        with pytest.raises(ValueError, match="sigmas must be strictly decreasing"):
            scheduler.plan(sigmas=wrong)


def test_noise_of_the_solver_is_drawn_in_float32_as_in_the_reference() -> None:
    draws = {
        np.float32: np.random.default_rng(3).standard_normal(X.shape, np.float32),
        np.float64: np.random.default_rng(3).standard_normal(X.shape),
    }
    for mode, dtype in zip(BOTH, (np.float64, np.float32), strict=True):
        options = {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}
        cls = cmsched.DPMSolverMultistepScheduler
        drawn, given = (cls(**options, compatibility=mode) for _ in range(2))
        for scheduler in (drawn, given):
            scheduler.set_timesteps(4)
        t, m = drawn.timesteps[0], eps(X, 0.0)
        found = drawn.step(m, t, X, generator=np.random.default_rng(3)).prev_sample
        expected = given.step(m, t, X, variance_noise=draws[dtype].astype(np.float64)).prev_sample
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("mode", BOTH)
def test_ends_of_a_ramp_come_from_files_of_other_classes(mode: str) -> None:
    file = {"_class_name": "EulerDiscreteScheduler", "sigma_min": 0.05, "sigma_max": 10.0}
    for name in ("HeunDiscreteScheduler", "DPMSolverMultistepScheduler", "KDPM2DiscreteScheduler"):
        cls = getattr(cmsched, name)
        scheduler = cls.from_config(file, use_karras_sigmas=True, compatibility=mode)
        points = scheduler.plan(6).grid.points
        assert (points[0].ratio, points[-2].ratio) == pytest.approx((10.0, 0.05))
