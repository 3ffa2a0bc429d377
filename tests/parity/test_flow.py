"""What only the reference's flow classes have: shifts by hand, noise, tokens at their own times."""

from typing import Any

import pytest
import torch

import cmsched

from . import runs
from .declared.flow import FLOW_EULER, FLOW_HEUN, FLOWS
from .declaring import close, theirs
from .lifted import Draws, reference

pytestmark = pytest.mark.peers

X, V, Z = (runs.normal((2, 5, 4), torch.float64, seed) for seed in range(3))


def ours(names: tuple[str, ...], **options: Any) -> Any:
    return getattr(cmsched, names[0])(**options, compatibility="diffusers", xp="torch")


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_set_shift(shift: float) -> None:
    """It moves the levels of a run, but not the ends of the table they begin with."""
    for before in (1.0, 2.0):
        with theirs(FLOW_EULER, shift=before) as ref:
            mine = ours(FLOW_EULER, shift=before)
            for scheduler in (ref, mine):
                scheduler.set_shift(shift)
                scheduler.set_timesteps(7)
            assert close(mine.sigmas, ref.sigmas)
            assert mine.shift == ref.shift == shift
            assert mine.config.shift == ref.config.shift == before


@pytest.mark.parametrize("name", FLOWS)
def test_ends_of_the_table(name: str) -> None:
    for options in ({}, {"shift": 3.0}, {"shift": 0.4, "num_train_timesteps": 60}):
        with theirs((name,), **options) as ref:
            mine = ours((name,), **options)
            assert close(mine.sigma_min, ref.sigma_min)
            assert close(mine.sigma_max, ref.sigma_max)
            assert len(mine) == len(ref)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_shifts_by_hand(kind: str) -> None:
    options = {"use_dynamic_shifting": True, "time_shift_type": kind, "shift_terminal": 0.1}
    t = torch.linspace(1, 0.01, 9, dtype=torch.float64)
    with theirs(FLOW_EULER, **options) as ref:
        mine = ours(FLOW_EULER, **options)
        for mu, power in ((0.6, 1.0), (1.1, 2.0)):
            assert close(mine.time_shift(mu, power, t), ref.time_shift(mu, power, t))
        assert close(mine.stretch_shift_to_terminal(t), ref.stretch_shift_to_terminal(t))


def test_heun_scale_noise() -> None:
    with theirs(FLOW_HEUN, shift=3.0) as ref:
        mine = ours(FLOW_HEUN, shift=3.0)
        for scheduler in (ref, mine):
            scheduler.set_timesteps(4)
        t = ref.timesteps[0]
        assert close(mine.scale_noise(X, mine.timesteps[0], Z), ref.scale_noise(X, t, Z))


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("entry", [0, 2, 3])
def test_tokens_at_their_own_times(stochastic: bool, entry: int) -> None:
    """On levels of the run, between them, above all of them, and clean."""
    options, draws = {"shift": 3.0, "stochastic_sampling": stochastic}, Draws()
    with reference(FLOW_EULER[0], draws, lifted=True) as cls:
        ref, mine = cls(**options), ours(FLOW_EULER, **options)
        for scheduler in (ref, mine):
            scheduler.set_timesteps(4)
            scheduler.set_begin_index(entry)
        levels = ref.timesteps
        times = torch.stack(
            [
                torch.stack([levels[0], levels[2], levels[3], levels[1], 0 * levels[0]]),
                torch.tensor([1000.0, 640.0, 33.0, 0.5, 0.0], dtype=torch.float64),
            ]
        )
        x = y = X
        for t in levels[entry:]:
            y = ref.step(V, t, y, per_token_timesteps=times).prev_sample
            noise = {"variance_noise": draws.handed_over()[0]} if stochastic else {}
            x = mine.step(V, t, x, per_token_timesteps=times, **noise).prev_sample
            assert close(x, y)
            assert mine.step_index == ref.step_index
