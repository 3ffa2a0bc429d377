"""DDIM, DDPM, LCM and their kin."""

import functools
import math
from typing import Any

import pytest
import torch

from .. import runs
from ..declaring import (
    COGVIDEOX,
    DDIM,
    DDPM,
    DECODER,
    EPS,
    INVERSE,
    LCM,
    TCD,
    X,
    both,
    close,
    constant,
    differs,
    ours,
    quick,
    theirs,
)
from ..grid import GIVEN, TRAIN, Case, Space, count
from ..lifted import Draws, reference
from ..spaces import SPACES
from .shared import (
    LAST_STEP_OF_LENGTH_ZERO,
    LIMITS,
    PRECISION,
    REJECTED_OPTIONS,
    UNNEEDED_NOISE,
    VARIANCES,
)


def off_the_list(space: Space, case: Case) -> bool:
    """Whether a step does not end where the next one starts."""
    grid = runs.plan_of(space, case).grid
    return grid.ends is not None and grid.ends != grid.points[1:]


DDIM_STRIDE = differs(
    "end of a DDIM step",
    "the next timestep of the list",
    "num_train_timesteps // n below the timestep, whatever the next one is; of an explicit list, "
    "which the reference does not take, the next timestep",
    right="arXiv:2010.02502, eq. 12: x at tau_(i-1) is made of alpha at tau_(i-1)",
).concerns(DDIM, where=off_the_list)


@DDIM_STRIDE.proves
def ddim_stride() -> None:
    """A step of an exact network ends at the next marginal, or beside it."""

    def misses(scheduler: Any) -> float:
        """How far from the next marginal a step of an exact network ends."""
        scheduler.set_timesteps(30)
        t, following = scheduler.timesteps[20:22]
        x = scheduler.add_noise(X, EPS, t[None])
        after = scheduler.step(EPS, t, x).prev_sample
        return float((after - scheduler.add_noise(X, EPS, following[None])).abs().max())

    options = {"timestep_spacing": "linspace", "clip_sample": False}
    with theirs(DDIM, **options) as scheduler:
        assert misses(scheduler) > 1e-3
    assert misses(ours(DDIM, **options)) > 1e-3
    assert misses(ours(DDIM, "paper", **options)) < 1e-12


DDPM_LAST_NOISE = differs(
    "noise of DDPM's last step",
    "none",
    "drawn wherever the last timestep is not 0: of variance 1e-20, where large or learned of more",
    right="arXiv:2006.11239, algorithm 2, line 3: z = 0 in the last step",
).concerns(DDPM, where=lambda space, case: runs.plan_of(space, case).points[-1].t > 0)


@DDPM_LAST_NOISE.proves
def ddpm_last() -> None:
    options = {"timestep_spacing": "trailing", "variance_type": "fixed_large"}
    draws = Draws()
    with reference("DDPMScheduler", draws, lifted=True) as cls:
        quick(cls(**options), 1)
    assert len(draws.handed_over()) == 1
    assert len(ours(DDPM, **options).plan(1).rows[-1].draws) == 1
    assert len(ours(DDPM, "paper", **options).plan(1).rows[-1].draws) == 0


def without_log(case: Case) -> Case:
    """The variance that the reference means by fixed_large_log."""
    return {**case, "variance_type": "fixed_large"}


VARIANCES.concerns(
    DDPM,
    where=lambda space, case: case["variance_type"] == "fixed_large_log",
    translate=without_log,
)


@VARIANCES.proves
def fixed_large_log() -> None:
    """The variance is beta; the reference takes the root of log beta, NaN.

    ArXiv:2102.09672, section 3.1: beta_t is the upper bound of the variance.
    """
    with theirs(DDPM, variance_type="fixed_large_log") as scheduler:
        assert not torch.isfinite(quick(scheduler, 4)).any()
    for mode in both():
        log, plain = (
            ours(DDPM, mode, variance_type=kind).plan(4).rows
            for kind in ("fixed_large_log", "fixed_large")
        )
        assert log == plain


VARIANCES.concerns(
    DDPM,
    where=lambda space, case: case["variance_type"] == "learned",
    translate=lambda case: {**case, "as.head": "variance"},
)


@VARIANCES.proves
def learned() -> None:
    """The head is the log variance; the reference takes the root of the bare head, NaN below 0.

    ArXiv:2102.09672 and its published code: p_theta's log variance is what is learned.
    """
    doubled = torch.cat([EPS, -torch.ones_like(EPS)], dim=1)
    with theirs(DDPM, variance_type="learned") as scheduler:
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[0]
        assert not torch.isfinite(scheduler.step(doubled, t, X).prev_sample).any()
    for mode in both():
        after = []
        for z in (0.0, 1.0):
            scheduler = ours(DDPM, mode, variance_type="learned")
            scheduler.set_timesteps(4)
            noise = functools.partial(constant, z)
            after.append(scheduler.step(doubled, 750, X, generator=noise).prev_sample)
        assert close(after[1] - after[0], math.exp(-0.5))


UNNEEDED_NOISE.concerns(
    LCM,
    where=lambda space, case: case["set.timesteps"] == GIVEN and case["set.strength"] < 1,
    translate=lambda case: {**case, "set.strength": 1.0, "as.cut": case["set.strength"]},
)


@UNNEEDED_NOISE.proves
def lcm_strength() -> None:
    """The last step draws nothing; the reference counts to the length before the cut and adds
    noise.

    ArXiv:2310.04378, algorithm 3: noise is added only while steps are left.
    """
    draws = Draws()
    chosen = {"timesteps": [999, 759, 499, 259], "strength": 0.5}
    with reference("LCMScheduler", draws, lifted=True) as cls:
        scheduler = cls()
        scheduler.set_timesteps(**chosen)
        for t in scheduler.timesteps:
            scheduler.step(EPS, t, X)
    assert len(draws.handed_over()) == 2
    for mode in both():
        assert [len(row.draws) for row in ours(LCM, mode).plan(**chosen).rows] == [1, 0]


LIMITS.concerns(DDIM)


@LIMITS.proves
def residue() -> None:
    """The coefficient of eps is 0; in the reference it is the root of a residue, 1e-8 or NaN.

    ArXiv:2010.02502, eq. 16: at alpha = 0 and eta = 1 std^2 = 1 - alpha_(t-1).
    """
    options = {
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
        "prediction_type": "v_prediction",
        "clip_sample": False,
    }
    with theirs(DDIM, **options) as scheduler:
        scheduler.set_timesteps(7)
        t = scheduler.timesteps[0]
        zero = torch.zeros_like(X)
        after = scheduler.step(zero, t, X, eta=1.0, variance_noise=zero).prev_sample
        assert not (float(after.abs().max()) < 1e-12)
    for mode in both():
        terms = ours(DDIM, mode, **options).plan(7, eta=1.0).rows[0].statements[-1][1]
        assert 0 not in [value for value, _, _ in terms], "the sample is not read"


DDIM_STRIDE.concerns(
    INVERSE,
    where=lambda space, case: (
        case["timestep_spacing"] == "trailing" and case["num_train_timesteps"] % count(case) != 0
    ),
)


@DDIM_STRIDE.proves
def inverse_stride() -> None:
    """A step of the inversion begins where the one before ended; in the reference a stride below
    where it goes.

    Then inversion and DDIM go through the same levels.
    """
    options = {"timestep_spacing": "trailing", "set_alpha_to_one": False}
    n, bar = 30, ours(INVERSE).alphas_cumprod
    for mode, gap in (("paper", None), ("diffusers", 33)):
        scheduler = ours(INVERSE, mode, **options)
        scheduler.set_timesteps(n)
        went = scheduler.timesteps
        start = scheduler.plan(n).points[10].alpha ** 2
        assert close(start, bar[went[9] if gap is None else went[10] - gap])
    with theirs(INVERSE, **options) as scheduler:
        scheduler.set_timesteps(n)
        t = scheduler.timesteps[10]
        after = scheduler.step(torch.zeros_like(X), t, X).prev_sample
        x0 = (X / bar[t - 33] ** 0.5).clamp(-1, 1)
        assert close(after, x0 * bar[t] ** 0.5)
    assert went[10] - 33 != went[9]


LAST_STEP_OF_LENGTH_ZERO.concerns(
    INVERSE,
    where=lambda space, case: (
        not case["set_alpha_to_one"]
        and case["timestep_spacing"] == "leading"
        and not case["steps_offset"]
        and case["n"] != TRAIN
    ),
)


@LAST_STEP_OF_LENGTH_ZERO.proves
def inverse_of_length_zero() -> None:
    """The same at the other end: an inversion that starts from timestep 0 does not step to it."""
    options = {"set_alpha_to_one": False, "clip_sample": False}
    with theirs(INVERSE, **options) as scheduler:
        assert close(quick(scheduler, 5), X)
    for mode in both():
        assert close(quick(ours(INVERSE, mode, **options), 5), X) == (mode == "diffusers")


LIMITS.concerns(INVERSE)


@LIMITS.proves
def clean_start() -> None:
    """Raises and says so; in the reference the noise of clean data is 0 / 0.

    ArXiv:2010.02502, eq. 12: eps = (x - alpha x0) / sigma is not defined where sigma = 0.
    """
    options = {"prediction_type": "sample"}
    with theirs(INVERSE, **options) as scheduler:
        assert not torch.isfinite(quick(scheduler, 4)).any()
    for mode in both():
        with pytest.raises(ValueError, match="set_alpha_to_one=False"):
            ours(INVERSE, mode, **options)


PRECISION.concerns(
    INVERSE,
    where=lambda space, case: (
        case["beta_schedule"] == "squaredcos_cap_v2"
        and case["trained_betas"] is None
        and case["prediction_type"] == "sample"
    ),
    scope="none as installed",
)


@PRECISION.proves
def first_levels() -> None:
    """Computed from float64 tables; in single precision the reference is as far from its own double
    precision as from us.

    eps = (x - alpha x0) / sqrt(1 - alpha_bar) at the first steps of a cosine schedule, 1e-5.
    """
    space = SPACES[INVERSE[0]]
    case = {**space.default, "n": 3, "beta_schedule": "squaredcos_cap_v2"}
    case |= {"prediction_type": "sample", "set_alpha_to_one": False, "steps_offset": 1}
    exact, single = (runs.through_diffusers(space, case, lifted=lifted) for lifted in (True, False))
    assert not close(single.samples[0], exact.samples[0], 1e-4)
    assert close(runs.through_plan(space, case, [[]] * 3, lifted=True).samples[0], exact.samples[0])


REJECTED_OPTIONS.concerns(INVERSE)


@REJECTED_OPTIONS.proves
def inverse_linspace() -> None:
    """timestep_spacing="linspace" inverts what DDIM does with it."""
    with (
        theirs(INVERSE, timestep_spacing="linspace") as scheduler,
        pytest.raises(ValueError, match="not supported"),
    ):
        scheduler.set_timesteps(4)
    for mode in both():
        pair = [ours(names, mode, timestep_spacing="linspace") for names in (DDIM, INVERSE)]
        down, up = (scheduler.plan(4).timesteps.tolist() for scheduler in pair)
        assert up == down[::-1] == [0, 333, 666, 999]


REJECTED_OPTIONS.concerns(
    TCD,
    where=lambda space, case: case["clip_sample"] or case["thresholding"],
    scope="none",
)


@REJECTED_OPTIONS.proves
def tcd_projects() -> None:
    """clip_sample and thresholding act on the estimate of x0, as in every other class.

    The step is the paper's (arXiv:2402.19159, algorithm 4) with the clipped x0 and the output eps.
    """
    for options, seen in (
        ({"clip_sample": True, "clip_sample_range": 0.5}, lambda x0: x0.clamp(-0.5, 0.5)),
        ({"thresholding": True, "sample_max_value": 1.0}, lambda x0: x0.clamp(-1, 1)),
    ):
        with theirs(TCD, **options) as scheduler:
            ignored = quick(scheduler, 2, eta=0.0)
        with theirs(TCD) as scheduler:
            assert close(ignored, quick(scheduler, 2, eta=0.0))
        for mode in both():
            scheduler = ours(TCD, mode, **options)
            bar = scheduler.alphas_cumprod
            t, s = scheduler.plan(2).timesteps.tolist()
            x0 = seen((X - (1 - bar[t]) ** 0.5 * EPS) / bar[t] ** 0.5)
            wanted = bar[s] ** 0.5 * x0 + (1 - bar[s]) ** 0.5 * EPS
            assert close(quick(scheduler, 2, eta=0.0), wanted)
            assert not close(ignored, wanted)


REJECTED_OPTIONS.concerns(DDIM)


@REJECTED_OPTIONS.proves
def mean_of_rows() -> None:
    """batch_step_no_noise takes any eta: the step without its noise; the reference asserts 0."""
    with theirs(("DDIMParallelScheduler",)) as scheduler:
        scheduler.set_timesteps(4)
        with pytest.raises(AssertionError):
            scheduler.batch_step_no_noise(EPS, scheduler.timesteps[:2], X, eta=0.5)
    for mode in both():
        scheduler = ours(("DDIMParallelScheduler",), mode)
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[1]
        zero = torch.zeros_like(X)
        wanted = scheduler.step(EPS, t, X, eta=0.5, variance_noise=zero).prev_sample
        found = scheduler.batch_step_no_noise(EPS, torch.stack([t, t]), X, eta=0.5)
        assert close(found, wanted)


COGVIDEOX_CLIP = differs(
    "clip_sample of CogVideoX",
    "clips the estimate of x0, as in DDIM",
    "never clips",
    right="the documentation of the class: clip the predicted sample",
).concerns(COGVIDEOX, where=lambda space, case: case["clip_sample"])


@COGVIDEOX_CLIP.proves
def cogvideox_clips() -> None:
    """The reference takes the option and does not look at it."""
    names = COGVIDEOX[:1]
    with theirs(names) as scheduler, theirs(names, clip_sample=False) as plain:
        ignored = quick(scheduler, 4)
        assert close(ignored, quick(plain, 4))
    for mode in both():
        scheduler = ours(names, mode)
        after = quick(scheduler, 4)
        bar = scheduler.alphas_cumprod
        a, b = (bar[t] for t in scheduler.timesteps[:2])
        x0 = (X - (1 - a) ** 0.5 * EPS) / a**0.5
        assert float(x0.abs().max()) > 1
        x0 = x0.clamp(-1, 1) if mode == "paper" else x0
        assert close(after, b**0.5 * x0 + (1 - b) ** 0.5 * EPS)
        assert close(after, ignored) == (mode == "diffusers")


REJECTED_OPTIONS.concerns(COGVIDEOX)


@REJECTED_OPTIONS.proves
def cogvideox_noise() -> None:
    """eta and variance_noise of step are DDIM's; the reference looks at neither."""
    names, z, options = COGVIDEOX[:1], torch.ones_like(X), {"clip_sample": False}
    with theirs(names, **options) as scheduler:
        plain = quick(scheduler, 4)
        assert close(plain, quick(scheduler, 4, eta=1.0, variance_noise=z))
    scheduler = ours(names, "paper", **options)
    assert close(quick(scheduler, 4), plain)
    means = [quick(scheduler, 4, eta=1.0, variance_noise=sign * z) for sign in (1, -1)]
    std = scheduler._get_variance(scheduler.timesteps[0]) ** 0.5
    assert close((means[0] - means[1]) / 2, std)
    scheduler = ours(names, **options)
    with pytest.warns(UserWarning, match=r"(eta|variance_noise) has no effect"):
        assert close(quick(scheduler, 4, eta=1.0, variance_noise=z), plain)


@REJECTED_OPTIONS.proves
def cogvideox_given_noise() -> None:
    """variance_noise of CogVideoX's DPM is its noise; the reference draws. eta warns, once a call.

    The noise of a first step from alpha_bar to alpha_bar' is that of SDE-DPM-Solver++
    (arXiv:2211.01095, eq. 16): sigma' sqrt(1 - e^-2h).
    """
    names, zero = COGVIDEOX[1:], torch.zeros_like(X)
    draws = Draws()
    with reference(names[0], draws, lifted=True) as cls:
        scheduler = cls()
        scheduler.set_timesteps(4)
        t, following = scheduler.timesteps[:2]
        drawn = scheduler.step(EPS, None, t, None, X, variance_noise=zero)[0]
        z = draws.handed_over()[0]
    for mode in both():
        scheduler = ours(names, mode, clip_sample=False)
        scheduler.set_timesteps(4)
        a, b = (scheduler.alphas_cumprod[i] for i in (t, following))
        std = ((1 - b) * (1 - a * (1 - b) / ((1 - a) * b))) ** 0.5
        mean = scheduler.step(EPS, None, t, None, X, variance_noise=zero)[0]
        assert close(drawn - mean, std * z)
        with pytest.warns(UserWarning, match="eta has no effect"):
            scheduler.step(EPS, None, t, None, X, eta=0.5, variance_noise=zero)


COGVIDEOX_DRAWS = differs(
    "draws of a CogVideoX DPM step",
    "one, where it adds noise",
    "two from an earlier estimate of x0, and the second is used",
    right="arXiv:2211.01095, eq. 16: one unit normal a step",
).concerns(COGVIDEOX[1:])


@COGVIDEOX_DRAWS.proves
def cogvideox_draws_twice() -> None:
    """The reference draws for the first-order step too, which it makes and throws away."""
    names, counts = COGVIDEOX[1:], []

    def count(scheduler: Any, **options: Any) -> None:
        scheduler.set_timesteps(4)
        first, second = scheduler.timesteps[:2]
        x, old = scheduler.step(EPS, None, first, None, X, **options)
        scheduler.step(EPS, old, second, first, x, **options)

    def source(shape: Any, dtype: Any, interval: Any) -> torch.Tensor:
        counts.append(shape)
        return torch.ones(tuple(shape), dtype=dtype)

    draws = Draws()
    with reference(names[0], draws, lifted=True) as cls:
        count(cls())
    assert len(draws.handed_over()) == 3
    for mode, number in (("paper", 2), ("diffusers", 3)):
        counts.clear()
        count(ours(names, mode), generator=source)
        assert len(counts) == number


COGVIDEOX_BETAS = differs(
    "betas of CogVideoX",
    "betas and alphas are those of alphas_cumprod; the reference's are those before the shift and "
    "the rescaling",
    right="alphas_cumprod is the cumulative product of alphas, in name and in every class",
).concerns(COGVIDEOX)


@COGVIDEOX_BETAS.proves
def cogvideox_betas() -> None:
    """The product of alphas."""
    names = COGVIDEOX[:1]
    with theirs(names) as scheduler:
        assert not close(torch.cumprod(scheduler.alphas, 0), scheduler.alphas_cumprod)
    for mode in both():
        for options in ({}, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}):
            scheduler = ours(names, mode, **options)
            assert close(torch.cumprod(scheduler.alphas, 0), scheduler.alphas_cumprod)


DISTILLED_TIMES = differs(
    "timesteps of distilled networks",
    "TCD's original_inference_steps= is the number of steps that the distillation used, as in the "
    "configuration; the consistency decoder visits the network's own times next to all and to half "
    "of the training steps",
    "any original_inference_steps= means all training steps; the decoder visits 1008 and 512 of "
    "any number",
    right="the documentation of set_timesteps, and LCM's, which means the former; "
    "round_timesteps of github.com/openai/consistencydecoder",
)
DISTILLED_TIMES.concerns(
    TCD,
    where=lambda space, case: (
        case["set.original_inference_steps"] not in (None, case["num_train_timesteps"])
        and case["set.timesteps"] is None
    ),
).concerns(DECODER, where=lambda space, case: case["num_train_timesteps"] != 1024)


@DISTILLED_TIMES.proves
def original_steps() -> None:
    """TCD: the same number by either way means the same timesteps."""
    right, full = [999, 759, 499, 259], [999, 749, 499, 249]
    with theirs(TCD) as scheduler:
        for options, times in (({}, right), ({"original_inference_steps": 50}, full)):
            scheduler.set_timesteps(4, **options)
            assert scheduler.timesteps.tolist() == times
    for mode, times in (("paper", right), ("diffusers", full)):
        assert ours(TCD, mode).plan(4).timesteps.tolist() == right
        assert ours(TCD, mode).plan(4, original_inference_steps=50).timesteps.tolist() == times


@DISTILLED_TIMES.proves
def decoder_times() -> None:
    """The decoder: proportional, and the published ones for the published number."""
    with theirs(DECODER, num_train_timesteps=2048) as scheduler:
        scheduler.set_timesteps(2)
        assert scheduler.timesteps.tolist() == [1008, 512]
    for train, mode, times in (
        (1024, "paper", [1008, 512]),
        (2048, "paper", [2016, 1024]),
        (2048, "diffusers", [1008, 512]),
    ):
        plan = ours(DECODER, mode, num_train_timesteps=train).plan(2)
        assert plan.timesteps.tolist() == times


UNNEEDED_NOISE.concerns(TCD)


@UNNEEDED_NOISE.proves
def tcd_strength() -> None:
    """A cut TCD run: the reference counts to the length before the cut, and draws for nothing."""
    draws = Draws()
    chosen = {"timesteps": [999, 759, 499, 259], "strength": 0.5}
    with reference("TCDScheduler", draws, lifted=True) as cls:
        scheduler = cls()
        scheduler.set_timesteps(**chosen)
        for t in scheduler.timesteps:
            scheduler.step(EPS, t, X)
    assert len(draws.handed_over()) == 2
    for mode in both():
        assert [len(row.draws) for row in ours(TCD, mode).plan(**chosen).rows] == [1, 0]


ROWS = differs(
    "steps of many rows at once",
    "every row is what step makes of it alone; in the reference DDPM's rows go a stride down, "
    "whatever the next timestep is, and DDIM's end at alpha_bar = 1 for either set_alpha_to_one",
    right="arXiv:2305.16317, algorithm 1: the same drift, evaluated in parallel",
).concerns((*DDIM, *DDPM))


@ROWS.proves
def ddpm_rows() -> None:
    """DDPM: the mean of step, whatever the timesteps are."""

    def misses(scheduler: Any) -> float:
        """How far a row is from the step, in the mean."""
        scheduler.set_timesteps(30)
        t = scheduler.timesteps[20]
        small = scheduler._get_variance(t)
        after = scheduler.step(EPS, t, X, generator=torch.Generator().manual_seed(0))
        z = torch.randn(X.shape, generator=torch.Generator().manual_seed(0), dtype=X.dtype)
        rows = scheduler.batch_step_no_noise(EPS, torch.stack([t, t]), X)
        return float((after.prev_sample - small**0.5 * z - rows).abs().max())

    names, options = ("DDPMParallelScheduler",), {"timestep_spacing": "linspace"}
    draws = Draws()
    with reference(names[0], draws, lifted=True) as cls:
        scheduler = cls(**options)
        scheduler.set_timesteps(30)
        t = scheduler.timesteps[20]
        after = scheduler.step(EPS, t, X).prev_sample
        mean = after - scheduler._get_variance(t) ** 0.5 * draws.handed_over()[0]
        rows = scheduler.batch_step_no_noise(EPS, torch.stack([t, t]), X)
        assert float((mean - rows).abs().max()) > 1e-3
    for mode in both():
        assert misses(ours(names, mode, **options)) < 1e-12


@ROWS.proves
def ddim_rows() -> None:
    """DDIM: the end of the last step is that of the configuration."""
    names, options = ("DDIMParallelScheduler",), {"set_alpha_to_one": False, "clip_sample": False}

    def misses(scheduler: Any) -> bool:
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[-1]
        rows = scheduler.batch_step_no_noise(EPS, torch.stack([t, t]), X)
        return not close(rows, scheduler.step(EPS, t, X).prev_sample)

    with theirs(names, **options) as scheduler:
        assert misses(scheduler)
    for mode in both():
        assert not misses(ours(names, mode, **options))


VARIANCES.concerns(DDPM)


@VARIANCES.proves
def variance_by_name() -> None:
    """_get_variance is a variance for every type; the reference's is a std, a log or the head.

    ArXiv:2305.16317's pipeline takes its root, whatever the type is.
    """
    names = ("DDPMParallelScheduler",)
    with theirs(names) as scheduler:
        scheduler.set_timesteps(4)
        small = float(scheduler._get_variance(500))
        large = float(scheduler._get_variance(500, variance_type="fixed_large"))
        assert close(scheduler._get_variance(500, variance_type="fixed_small_log"), small**0.5)
        assert close(scheduler._get_variance(500, variance_type="fixed_large_log"), math.log(large))
        bounds = [
            scheduler._get_variance(500, torch.tensor(v), variance_type="learned_range")
            for v in (-1.0, 1.0)
        ]
        assert close(bounds, [math.log(small), math.log(large)])
    for mode in both():
        scheduler = ours(names, mode)
        scheduler.set_timesteps(4)
        for kind, wanted in (("small", small), ("large", large)):
            for log in ("", "_log"):
                found = scheduler._get_variance(500, variance_type=f"fixed_{kind}{log}")
                assert close(found, wanted)
        for v, wanted in ((-1.0, small), (1.0, large)):
            head = torch.full((2, 1), v)
            assert close(scheduler._get_variance(500, head, "learned_range"), wanted, 1e-6)
            assert close(scheduler._get_variance(500, head, "learned"), math.exp(v), 1e-6)
