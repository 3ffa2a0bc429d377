"""What the score classes have beside their loops: levels of an own range, noise by number."""

import numpy as np
import pytest
import torch

from . import runs
from .declaring import EPS, X, both, close, ours, theirs

pytestmark = pytest.mark.peers
VE, KARRAS = ("ScoreSdeVeScheduler",), ("KarrasVeScheduler",)


@pytest.mark.parametrize("ends", [{}, {"sigma_min": 0.5}, {"sigma_min": 0.1, "sigma_max": 9.0}])
@pytest.mark.parametrize("n", [2, 5, 60])
def test_levels_of_a_run(n: int, ends: dict) -> None:
    for mode in both():
        with theirs(VE) as ref:
            mine = ours(VE, mode)
            for scheduler in (ref, mine):
                scheduler.set_timesteps(n, 1e-4)
                scheduler.set_sigmas(n, **ends)
            for name in ("timesteps", "sigmas", "discrete_sigmas"):
                assert close(getattr(mine, name), getattr(ref, name)), name
            numbers, t = torch.tensor([0, n - 1, 1]), torch.zeros(3, dtype=torch.float64)
            found = mine.get_adjacent_sigma(numbers, t)
            assert close(found, ref.get_adjacent_sigma(numbers, t))
            assert found.dtype == torch.float64
            for timesteps in (torch.tensor([1, 0]), torch.tensor([n - 1])):
                assert close(mine.add_noise(X, EPS, timesteps), ref.add_noise(X, EPS, timesteps))
            for t in ref.timesteps:
                z = runs.normal(tuple(X.shape), torch.float64, n)
                expected = ref.step_pred(EPS, t, X).prev_sample_mean
                found = mine.step_pred(EPS, t, X, generator=lambda *_, z=z: z).prev_sample_mean
                assert close(found, expected)


def test_a_time_for_each_row() -> None:
    with theirs(VE) as ref:
        mine = ours(VE)
        for scheduler in (ref, mine):
            scheduler.set_timesteps(7)
            scheduler.set_sigmas(7)
        for t in (ref.timesteps[[2, 5]], ref.timesteps[[0, 6]], ref.timesteps[3]):
            found = mine.step_pred(EPS, t, X, generator=torch.Generator())
            assert close(found.prev_sample_mean, ref.step_pred(EPS, t, X).prev_sample_mean)


@pytest.mark.parametrize("n", [2, 5, 18])
def test_levels_of_karras(n: int) -> None:
    with theirs(KARRAS) as ref:
        mine = ours(KARRAS)
        for scheduler in (ref, mine):
            scheduler.set_timesteps(n)
        assert close(mine.schedule, ref.schedule)
        assert np.array_equal(mine.timesteps, ref.timesteps)
        for sigma in (0.04, 0.05, 7.0, 50.0, 51.0):
            z = runs.normal(tuple(X.shape), torch.float64, n)
            hat, level = mine.add_noise_to_input(X, sigma, lambda *_, z=z: z)
            _, expected = ref.add_noise_to_input(X, sigma)
            assert close(level, expected)
            assert close(hat, X + 1.007 * (expected**2 - sigma**2) ** 0.5 * z)
