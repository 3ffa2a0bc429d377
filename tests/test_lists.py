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
