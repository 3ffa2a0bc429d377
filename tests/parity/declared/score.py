"""Score SDEs, stochastic Heun, and RePaint."""

import itertools
from typing import Any

import numpy as np
import torch

from .. import runs
from ..declaring import EPS, X, both, close, differs, ours, theirs
from ..grid import count
from ..spaces import SPACES
from .shared import LIMITS, ONE_LINSPACE_STEP, PRECISION, UNNEEDED_NOISE, WHICH_STEP

KARRAS, VE, VP = ("KarrasVeScheduler",), ("ScoreSdeVeScheduler",), ("ScoreSdeVpScheduler",)
REPAINT = ("RePaintScheduler",)

SQUARED_LEVELS = differs(
    "levels of Karras-VE",
    "sigma_i = sigma_max (sigma_min / sigma_max)^(i / (n - 1))",
    "the squares of these, while the start noise has the size sigma_max",
    right="arXiv:2206.00364, table 1, column VE: these squares are times, and sigma(t) = sqrt(t)",
).concerns(KARRAS, where=lambda space, case: True)


@SQUARED_LEVELS.proves
def squares() -> None:
    with theirs(KARRAS) as scheduler:
        scheduler.set_timesteps(5)
        start, levels = scheduler.init_noise_sigma, scheduler.schedule.numpy()
        assert close(levels[-1], start**2)
    copy, paper = ours(KARRAS), ours(KARRAS, "paper")
    for scheduler in (copy, paper):
        scheduler.set_timesteps(5)
        assert scheduler.init_noise_sigma == start
    assert close(copy.schedule, levels)
    assert close(paper.schedule**2, levels)


LIMITS.concerns(KARRAS, where=lambda space, case: case["n"] == 1, scope="none")


@LIMITS.proves
def one_level() -> None:
    """One level is the noisiest; the reference divides zero by zero.

    ArXiv:2206.00364, table 1: the levels begin at sigma_max.
    """
    with theirs(KARRAS) as scheduler:
        scheduler.set_timesteps(1)
        assert scheduler.schedule.isnan().all()
    for mode, level in zip(both(), (100.0, 1e4), strict=True):
        assert ours(KARRAS, mode).plan(1, s_churn=0).points[0].sigma == level


LIMITS.concerns(KARRAS)


@LIMITS.proves
def corrected_at_zero() -> None:
    """The derivative at level 0 is the network's; the reference divides by that level.

    ArXiv:2206.00364, equation 3: the derivative is minus sigma times the score.
    """
    with theirs(KARRAS) as scheduler:
        assert not torch.isfinite(
            scheduler.step_correct(EPS, 1.0, 0.0, X, X, EPS).prev_sample
        ).any()
    for mode in both():
        after = ours(KARRAS, mode).step_correct(EPS, 1.0, 0.0, X, X, EPS).prev_sample
        assert close(after, X)


PRECISION.concerns(
    KARRAS,
    where=lambda space, case: case["n"] in (2, 3) and case["sigma_max"] == 100,
    scope="none as installed",
)


@PRECISION.proves
def far_levels() -> None:
    """The slope is the network's output; in single precision the reference is as far from its own
    double precision as from us.

    It forms (x - (x + sigma m)) / sigma, at sigma = 4e-4 and x of 1e4 (rounding is no method).
    """
    space = SPACES[KARRAS[0]]
    case = {**space.default, "n": 2, "s_noise": 1.0}
    exact, single = (runs.through_diffusers(space, case, lifted=lifted) for lifted in (True, False))
    mine = runs.through_plan(space, case, single.draws, lifted=False)
    size = float(exact.samples[-1].abs().max())
    again = runs.through_plan(space, case, exact.draws, lifted=True)
    assert float((again.samples[-1] - exact.samples[-1]).abs().max()) < 1e-9 * size
    assert float((single.samples[-1] - exact.samples[-1]).abs().max()) > 1e-2 * size
    assert float((mine.samples[-1] - exact.samples[-1]).abs().max()) < 1e-5 * size


ONE_LINSPACE_STEP.concerns(VE, where=lambda space, case: case["n"] == 1)


@ONE_LINSPACE_STEP.proves
def one_level_of_the_sde() -> None:
    """The only level is the noisiest; the reference takes sigma_min, from noise of size sigma_max.

    ArXiv:2011.13456, algorithm 2: the sample starts from the prior.
    """
    with theirs(VE) as scheduler:
        scheduler.set_timesteps(1)
        scheduler.set_sigmas(1)
        assert close(scheduler.discrete_sigmas, [0.01])
        assert scheduler.timesteps.tolist() == [1.0]
    for mode, level in zip(both(), (1348.0, 0.01), strict=True):
        scheduler = ours(VE, mode)
        scheduler.set_timesteps(1)
        assert close(scheduler.discrete_sigmas, [level])
        assert scheduler.init_noise_sigma == 1348.0


UNNEEDED_NOISE.concerns((*VE, *VP))


@UNNEEDED_NOISE.proves
def noise_of_the_last_step() -> None:
    """A step to the end has none; the reference adds it to the sample, not to the mean it uses.

    ArXiv:2011.13456, algorithms 2 and 3, and appendix G: the last step is without noise.
    """

    def last(scheduler: Any) -> tuple[Any, Any]:
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[-1]
        if hasattr(scheduler, "set_sigmas"):
            scheduler.set_sigmas(4)
            return scheduler.step_pred(EPS, t, X, return_dict=False)
        return scheduler.step_pred(EPS, X, t)

    for names in (VE, VP):
        with theirs(names) as scheduler:
            x, mean = last(scheduler)
            assert not close(x, mean)
        x, mine = last(ours(names))
        assert close(x, mine)
        assert close(mine, mean)


WHICH_STEP.concerns(VE)


@WHICH_STEP.proves
def level_of_a_time() -> None:
    """`set_timesteps` sets the levels too, and each time has its own; in the reference they are
    those of another run until `set_sigmas`, and two times may share one.

    ArXiv:2011.13456, equation 47: the levels of a run of N steps.
    """
    with theirs(VE) as scheduler:
        scheduler.set_timesteps(4)
        assert len(scheduler.discrete_sigmas) == 2000
    mine = ours(VE)
    mine.set_timesteps(4)
    assert close(mine.discrete_sigmas, np.geomspace(0.01, 1348, 4))

    def means(scheduler: Any) -> list[torch.Tensor]:
        scheduler.set_timesteps(4, 0.5)
        scheduler.set_sigmas(4)
        return [scheduler.step_pred(EPS, t, X).prev_sample_mean for t in scheduler.timesteps]

    with theirs(VE) as scheduler:
        after = means(scheduler)
        assert any(close(a, b) for a, b in itertools.pairwise(after))
    after = means(mine)
    assert not any(close(a, b) for a, b in itertools.pairwise(after))


EULER_LENGTH = differs(
    "length of a step of the VP SDE",
    "from a time to the next, the last one to 0",
    "1 / n, wherever the times lie",
    right="arXiv:2011.13456, appendix E: the SDE is discretised on the times of the grid",
).concerns(VP, where=lambda space, case: case["n"] != 1)


@EULER_LENGTH.proves
def step_length() -> None:
    def drift(scheduler: Any) -> float:
        """How long the first step is, from its drift -beta x / 2."""
        scheduler.set_timesteps(2)
        _, mean = scheduler.step_pred(torch.zeros_like(X), X, scheduler.timesteps[0])
        return float(((mean - X) / (0.5 * 20.0 * X)).mean())

    with theirs(VP) as scheduler:
        assert close(drift(scheduler), 0.5)
    assert close(drift(ours(VP)), 0.5)
    assert close(drift(ours(VP, "paper")), 0.999)


def jumps_late(space: Any, case: Any) -> bool:
    """Whether there are jumps, by more than single training steps."""
    n = count(case)
    again = case["set.jump_n_sample"] > 1 and n > case["set.jump_length"]
    return bool(again and case["num_train_timesteps"] // n > 1)


LATE_JUMPS = differs(
    "noise of a RePaint jump",
    "from the level where the sample is to the one where it is needed",
    "as much as one step later, by the betas from the timestep up",
    right="arXiv:2201.09865, algorithm 1, line 10: x_t is made of x_(t-1)",
).concerns(REPAINT, where=jumps_late)


@LATE_JUMPS.proves
def variance_of_a_jump() -> None:
    """The variance that a jump adds at timestep 600 of ten."""

    def added(scheduler: Any) -> float:
        scheduler.set_timesteps(10)
        zeros = torch.zeros(200_000, dtype=torch.float64)
        return float(scheduler.undo_step(zeros, 600, torch.Generator().manual_seed(0)).var())

    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    bar = np.asarray(ours(REPAINT, **options).alphas_cumprod)
    late, right = 1 - bar[699] / bar[599], 1 - bar[600] / bar[500]
    assert late > 1.1 * right
    with theirs(REPAINT, **options) as scheduler:
        assert close(added(scheduler), late, 1e-2)
    assert close(added(ours(REPAINT, **options)), late, 1e-2)
    assert close(added(ours(REPAINT, "paper", **options)), right, 1e-2)
