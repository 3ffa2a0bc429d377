"""Where we and diffusers 0.42.1 do not give the same numbers: who is right, and proofs.

`python -m tests.parity.differences` prints what `compatibility` changes.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import cmsched
from cmsched.samplers.multistep import weights

from . import runs
from .grid import GIVEN, RAMPS, SPACES, TRAIN, Case, Space, count
from .lifted import Draws, reference

BETA_CLASSES = tuple(name for name in SPACES if name != "CMStochasticIterativeScheduler")
SIGMA_CLASSES = tuple(name for name in BETA_CLASSES if SPACES[name].sigmas)
DPM = ("DPMSolverMultistepScheduler",)
DDIM, DDPM, LCM = ("DDIMScheduler",), ("DDPMScheduler",), ("LCMScheduler",)
EULER, ANCESTRAL = ("EulerDiscreteScheduler",), ("EulerAncestralDiscreteScheduler",)
X = runs.normal((2, 3, 4, 5), torch.float64, 10)
EPS = runs.normal((2, 3, 4, 5), torch.float64, 11)


@dataclass(frozen=True)
class Difference:
    """One difference.

    Args:
        paper, diffusers: what `compatibility` of that name does; they are equal where the reference
            is not followed in either.
        right: who is, by which source.
        prove: asserts that the reference does what is said here, and that we do.
        where: the cases of the grid that it concerns.
        scope: how such a case is compared: "none" of its numbers, all "but the estimate", or "but
            the last step", which leaves the sample alone.
        translate: the case, and the network's output, that the reference has to be given instead.
    """

    name: str
    classes: tuple[str, ...]
    paper: str
    diffusers: str
    right: str
    prove: Callable[[], None]
    where: Callable[[Space, Case], bool] = lambda space, case: False
    scope: str = "all"
    translate: Callable[[Case], Case] | None = None

    @property
    def copied(self) -> bool:
        """Whether `compatibility` chooses."""
        return self.paper != self.diffusers


DIFFERENCES: list[Difference] = []


def differs(
    name: str, classes: tuple[str, ...], paper: str, diffusers: str = "", **fields: Any
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Declare a difference; the decorated function proves it."""

    def declare(prove: Callable[[], None]) -> Callable[[], None]:
        DIFFERENCES.append(
            Difference(name, classes, paper, diffusers or paper, prove=prove, **fields)
        )
        return prove

    return declare


@contextmanager
def theirs(names: tuple[str, ...], *, lifted: bool = True, **options: Any) -> Iterator[Any]:
    """A scheduler of the reference."""
    with reference(names[0], Draws(), lifted=lifted) as cls:
        yield cls(**options)


def ours(names: tuple[str, ...], compatibility: str = "diffusers", **options: Any) -> Any:
    """A scheduler of ours."""
    return getattr(cmsched, names[0])(**options, compatibility=compatibility, xp="torch")


def close(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
    """Whether two arrays or numbers are the same."""
    return bool(np.allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance))


def both() -> tuple[str, str]:
    """The values of `compatibility`."""
    return "paper", "diffusers"


def zero_length(space: Space, case: Case) -> bool:
    """Whether the last step goes nowhere."""
    points = runs.plan_of(space, case).grid.points
    return points[-2].ratio == points[-1].ratio


def lowered(case: Case) -> int:
    """How many steps at the end of a multistep run are of lower order than 3."""
    if case["lower_order_final"] and count(case) < 15:
        return 2
    return int(case["euler_at_final"] or case["final_sigmas_type"] == "zero")


def ramped(case: Case) -> bool:
    """Whether sigmas are placed by a curve and times read back from them."""
    return any(case.get(name) for name in (*RAMPS, "use_lu_lambdas"))


# what compatibility="diffusers" copies


@differs(
    "end of a DDIM step",
    DDIM,
    "the next timestep of the list",
    "num_train_timesteps // n below the timestep, whatever the next one is",
    right="arXiv:2010.02502, eq. 12: x at tau_(i-1) is made of alpha at tau_(i-1)",
    where=lambda space, case: runs.plan_of(space, case).grid.arrivals is not None,
)
def _ddim_stride() -> None:
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


@differs(
    "order of churn",
    EULER,
    "noise is added, then the network sees the sample; at `step` it is too late for that",
    "the network sees the sample, then noise is added",
    right="arXiv:2206.00364, algorithm 2, lines 5 to 7: the denoiser is evaluated at x-hat",
    where=lambda space, case: (
        case["step.s_churn"] > 0
        and any(
            case["step.s_tmin"] <= p.ratio <= case["step.s_tmax"]
            for p in runs.plan_of(space, case).points
        )
    ),
)
def _churn() -> None:
    spread = {mode: final_std(ours(EULER, mode).plan(20, s_churn=5.0)) for mode in both()}
    assert spread["paper"] < 1e-7, "all data are one point, so all samples are"
    assert spread["diffusers"] > 0.01
    with theirs(EULER) as scheduler:
        scheduler.set_timesteps(5)
        t = scheduler.timesteps[0]
        seen = scheduler.scale_model_input(X, t)
        assert close(seen, X / math.hypot(scheduler.sigmas[0], 1)), "the network sees no churn"
    with pytest.raises(ValueError, match="already seen"):
        quick(ours(EULER, "paper"), 5, s_churn=1.0)


def final_std(plan: cmsched.Plan) -> float:
    """The exact spread of the samples where the data are one point and the network is exact."""
    variance = sum(
        c**2 * (plan.grid.init_scale**2 if v == 0 else 1) for v, c, _ in plan.start.terms
    )
    for row in plan.rows:
        c = {v: number for v, number, _ in row.statements[-1][1]}
        gain = c.get(0, 0.0) + c.get(1, 0.0) / row.point.sigma  # it says x / sigma
        variance = gain**2 * variance + sum(w**2 for v, w in c.items() if v > 1)
    return math.sqrt(variance)


def quick(scheduler: Any, n: int, **options: Any) -> torch.Tensor:
    """The first step of a run."""
    scheduler.set_timesteps(n)
    t = scheduler.timesteps[0]
    scheduler.scale_model_input(X, t)
    return scheduler.step(EPS, t, X, **options).prev_sample


@differs(
    "third order of SDE-DPM-Solver++",
    DPM,
    "(1 - e^-2h - 2h) / (2h)^2 + 1/2, which vanishes with h",
    "(1 - e^-2h - 2h) / (2h)^2 - 1/2, which is -1 at h = 0",
    right="arXiv:2211.01095, appendix B: a step of length zero changes nothing",
    where=lambda space, case: (
        case["solver_order"] == 3
        and case["algorithm_type"] == "sde-dpmsolver++"
        and len(runs.plan_of(space, case)) - lowered(case) >= 3
    ),
)
def _third_order_sign() -> None:
    h = 1e-6
    assert abs(weights(3, 2 * h, "midpoint", "published")[2]) < 1e-5
    assert abs(weights(3, 2 * h, "midpoint", "reference")[2] + 1.0) < 1e-5
    options = {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}
    assert ours(DPM, **options).plan(5).options["third_order"] == "reference"
    assert ours(DPM, "paper", **options).plan(5).options["third_order"] == "published"


@differs(
    "one linspace step",
    tuple(name for name in BETA_CLASSES if name not in (*DPM, *LCM)),
    "starts at the noisiest timestep",
    "starts at timestep 0, the least noisy",
    right="a sample starts from noise (arXiv:2006.11239, algorithm 2)",
    where=lambda space, case: (
        case["n"] == 1
        and case["timestep_spacing"] == "linspace"
        and GIVEN not in (case.get("set.timesteps"), case.get("set.sigmas"))
        and case.get("interpolation_type") != "log_linear"
    ),
)
def _linspace_one() -> None:
    for name in ("DDIMScheduler", "HeunDiscreteScheduler"):
        options = {"timestep_spacing": "linspace"}
        for scheduler, first in (
            (ours((name,), **options), 0),
            (ours((name,), "paper", **options), 999),
        ):
            scheduler.set_timesteps(1)
            assert scheduler.timesteps.tolist() == [first]
        with theirs((name,), **options) as scheduler:
            scheduler.set_timesteps(1)
            assert scheduler.timesteps.tolist() == [0]


@differs(
    "times between training steps",
    DPM,
    "as the level says, fractional",
    "cut to integers, while the step is taken from the fractional level",
    right="the network must be told the level it sees; integers only where it knows no other",
    where=lambda space, case: bool(np.any(runs.plan_of(space, case, "paper").timesteps % 1)),
)
def _truncated() -> None:
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    options["use_exponential_sigmas"] = True
    with theirs(DPM, **options) as scheduler:
        scheduler.set_timesteps(10)
        assert scheduler.timesteps.dtype == torch.int64
        assert scheduler.timesteps[1] == 874
    for mode, t in (("diffusers", 874.0), ("paper", 874.7)):
        scheduler = ours(DPM, mode, **options)
        scheduler.set_timesteps(10)
        assert abs(float(scheduler.timesteps[1]) - t) < 0.05


@differs(
    "last step of length zero",
    (*DDIM, *EULER, *DPM),
    "the last level is the end, and n steps lead there",
    "n - 1 steps lead there, the last network call changes nothing",
    right='final_sigmas_type="sigma_min", and set_alpha_to_one=False, ask for another end only',
    where=lambda space, case: (
        zero_length(space, case)
        and case.get("set.timesteps") is None
        and (case["n"] != TRAIN or space.name not in DDIM)
    ),
)
def _zero_length() -> None:
    options = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
    with theirs(EULER, **options) as scheduler:
        scheduler.set_timesteps(5)
        assert close(scheduler.sigmas[-1], scheduler.sigmas[-2])
    for mode in both():
        scheduler = ours(EULER, mode, **options)
        scheduler.set_timesteps(5)
        assert close(scheduler.sigmas[-1], scheduler.sigmas[-2]) == (mode == "diffusers")


@differs(
    "noise of DDPM's last step",
    DDPM,
    "none",
    "drawn wherever the last timestep is not 0: of variance 1e-20, where large or learned of more",
    right="arXiv:2006.11239, algorithm 2, line 3: z = 0 in the last step",
    where=lambda space, case: runs.plan_of(space, case).points[-1].t > 0,
)
def _ddpm_last() -> None:
    options = {"timestep_spacing": "trailing", "variance_type": "fixed_large"}
    draws = Draws()
    with reference("DDPMScheduler", draws, lifted=True) as cls:
        quick(cls(**options), 1)
    assert len(draws.handed_over()) == 1
    assert len(ours(DDPM, **options).plan(1).rows[-1].draws) == 1
    assert len(ours(DDPM, "paper", **options).plan(1).rows[-1].draws) == 0


@differs(
    "more linspace steps than integers",
    DPM,
    "goes between the training steps",
    "raises; the reference repeats timesteps and divides by zero",
    right="two equal levels are no step",
)
def _crowded() -> None:
    options = {"num_train_timesteps": 40, "solver_order": 3, "lower_order_final": False}
    with theirs(DPM, **options) as scheduler:
        scheduler.set_timesteps(60)
        assert len(set(scheduler.timesteps.tolist())) < 60
    with pytest.raises(ValueError, match="not all different"):
        ours(DPM, **options).set_timesteps(60)
    assert len(ours(DPM, "paper", **options).plan(60)) == 60


# what no value of `compatibility` copies


def without_log(case: Case) -> Case:
    """The variance that the reference means by fixed_large_log."""
    return {**case, "variance_type": "fixed_large"}


@differs(
    "fixed_large_log",
    DDPM,
    "the variance is beta; the reference takes the root of log beta, NaN",
    right="arXiv:2102.09672, section 3.1: beta_t is the upper bound of the variance",
    where=lambda space, case: case["variance_type"] == "fixed_large_log",
    translate=without_log,
)
def _fixed_large_log() -> None:
    with theirs(DDPM, variance_type="fixed_large_log") as scheduler:
        assert not torch.isfinite(quick(scheduler, 4)).any()
    for mode in both():
        log, plain = (
            ours(DDPM, mode, variance_type=kind).plan(4).rows
            for kind in ("fixed_large_log", "fixed_large")
        )
        assert log == plain


@differs(
    "learned",
    DDPM,
    "the head is the log variance; the reference takes the root of the bare head, NaN below 0",
    right="arXiv:2102.09672 and its published code: p_theta's log variance is what is learned",
    where=lambda space, case: case["variance_type"] == "learned",
    translate=lambda case: {**case, "as.head": "variance"},
)
def _learned() -> None:
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


def constant(z: float, shape: Any, dtype: Any, interval: Any) -> torch.Tensor:
    """Noise that is the same number everywhere."""
    return torch.full(tuple(shape), z, dtype=dtype)


@differs(
    "custom timesteps with strength",
    LCM,
    "the last step draws nothing; the reference counts to the length before the cut and adds noise",
    right="arXiv:2310.04378, algorithm 3: noise is added only while steps are left",
    where=lambda space, case: case["set.timesteps"] == GIVEN and case["set.strength"] < 1,
    translate=lambda case: {**case, "set.strength": 1.0, "as.cut": case["set.strength"]},
)
def _lcm_strength() -> None:
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


@differs(
    "interpolation_type=log_linear",
    EULER,
    "n levels, and the times that belong to them; the reference makes n + 1 levels beside n times"
    " of another spacing, so the loop stops before the end",
    right="a step of the loop goes from one level to the next, and the network is told which",
    where=lambda space, case: (
        case["interpolation_type"] == "log_linear"
        and not ramped(case)
        and case["set.sigmas"] is None
    ),
    scope="none",
)
def _log_linear() -> None:
    with theirs(EULER, interpolation_type="log_linear") as scheduler:
        scheduler.set_timesteps(10)
        assert len(scheduler.timesteps) == 10
        assert len(scheduler.sigmas) == 12
        assert scheduler.sigmas[10] > 0
    for mode in both():
        scheduler = ours(EULER, mode, interpolation_type="log_linear")
        scheduler.set_timesteps(10)
        assert len(scheduler.sigmas) == 11
        assert scheduler.sigmas[-1] == 0
        assert close(np.diff(np.log(scheduler.sigmas[:-1].numpy()), 2), 0, 1e-10)


@differs(
    "get_velocity of Euler",
    EULER,
    "alpha of the timestep; the reference indexes its training table by the number of the step",
    right="arXiv:2202.00512, section 4: v = alpha_t eps - sigma_t x at the same t",
)
def _velocity() -> None:
    with theirs(EULER) as scheduler:
        scheduler.set_timesteps(10)
        t = scheduler.timesteps[:1].repeat(2)
        wrong = scheduler.get_velocity(X, EPS, t)
        bar = scheduler.alphas_cumprod
    assert close(wrong, bar[0].sqrt() * EPS - (1 - bar[0]).sqrt() * X)
    for mode in both():
        scheduler = ours(EULER, mode)
        scheduler.set_timesteps(10)
        v = scheduler.get_velocity(X, EPS, scheduler.timesteps[:1])
        assert close(v, bar[-1].sqrt() * EPS - (1 - bar[-1]).sqrt() * X)


@differs(
    "formulas at length zero",
    DPM,
    "a step of length zero leaves the sample as it is; the reference divides zero by zero",
    right="the limit of every formula of arXiv:2211.01095, appendix B, at h = 0",
    where=zero_length,
    scope="but the last step",
)
def _zero_length_solver() -> None:
    options = {
        "solver_type": "heun",
        "use_exponential_sigmas": True,
        "final_sigmas_type": "sigma_min",
        "beta_schedule": "squaredcos_cap_v2",
    }

    def last(scheduler: Any) -> tuple[torch.Tensor, torch.Tensor]:
        scheduler.set_timesteps(20)
        x = X
        for i, t in enumerate(scheduler.timesteps):
            before, x = x, scheduler.step(runs.normal(X.shape, X.dtype, i), t, x).prev_sample
        return before, x

    with theirs(DPM, **options) as scheduler:
        before, after = last(scheduler)
        assert torch.isfinite(before).all()
        assert not torch.isfinite(after).any()
    before, after = last(ours(DPM, **options))
    assert close(before, after)


@differs(
    "draws that are thrown away",
    ("CMStochasticIterativeScheduler", *DDIM, *EULER, *ANCESTRAL, *DPM),
    "a step draws only where the noise has a coefficient; the reference draws in the last step too",
    right="the result is the same; a stream of noise shared with other code is not shifted",
)
def _thrown_away() -> None:
    for name, options in (
        ("CMStochasticIterativeScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ):
        draws = Draws()
        with reference(name, draws, lifted=True) as cls:
            scheduler = cls(**options)
            scheduler.set_timesteps(4)
            for t in scheduler.timesteps:
                scheduler.step(EPS, t, X)
        assert len(draws.handed_over()) == 4
        for mode in both():
            assert sum(len(row.draws) for row in ours((name,), mode, **options).plan(4).rows) == 3


@differs(
    "equal timesteps",
    SIGMA_CLASSES,
    "the first of equal timesteps begins the run; the reference takes the second, skips a step and"
    " then reads past the end",
    right="steps are counted; levels that differ may have times that are equal once cut",
)
def _equal_times() -> None:
    options = {
        "use_beta_sigmas": True,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    }
    with theirs(DPM, lifted=False, **options) as scheduler:
        scheduler.set_timesteps(32)
        assert scheduler.timesteps[0] == scheduler.timesteps[1]
        quick(scheduler, 32)
        assert scheduler.step_index == 2
    for mode in both():
        scheduler = ours(DPM, mode, **options)
        quick(scheduler, 32)
        assert scheduler.step_index == 1


@differs(
    "unknown timestep",
    DPM,
    "raises; the reference silently takes the last step",
    right="a timestep that is not in the list is a mistake of the caller",
)
def _unknown() -> None:
    with theirs(DPM) as scheduler:
        scheduler.set_timesteps(10)
        assert scheduler.index_for_timestep(123) == 9
    for mode in both():
        scheduler = ours(DPM, mode)
        scheduler.set_timesteps(10)
        with pytest.raises(ValueError, match="not one of"):
            scheduler.step(EPS, 123, X)


@differs(
    "mu stays in the config",
    DPM,
    "mu holds for one run; in the reference it replaces config.flow_shift for good",
    right="a call that sets the timesteps of a run does not change the configuration",
)
def _mu() -> None:
    options = {
        "use_flow_sigmas": True,
        "use_dynamic_shifting": True,
        "prediction_type": "flow_prediction",
    }

    def forgets(scheduler: Any) -> bool:
        scheduler.set_timesteps(5)
        before = np.asarray(scheduler.sigmas)
        scheduler.set_timesteps(5, mu=1.0)
        scheduler.set_timesteps(5)
        return close(before, scheduler.sigmas)

    with theirs(DPM, **options) as scheduler:
        assert not forgets(scheduler)
    assert all(forgets(ours(DPM, mode, **options)) for mode in both())


@differs(
    "v_prediction of flow samples",
    DPM,
    "x0 = (alpha x - sigma v) / (alpha^2 + sigma^2); the reference leaves the division out, which"
    " is right only where the sum of squares is 1",
    right="arXiv:2202.00512: v = alpha eps - sigma x0, solved for x0",
    where=lambda space, case: case["use_flow_sigmas"] and case["prediction_type"] == "v_prediction",
    scope="none",
)
def _flow_v() -> None:
    options = {"use_flow_sigmas": True, "prediction_type": "v_prediction"}

    def recovers(scheduler: Any) -> bool:
        scheduler.set_timesteps(4)
        t, s = scheduler.timesteps[0], float(scheduler.sigmas[0])
        x, v = (1 - s) * X + s * EPS, (1 - s) * EPS - s * X
        end = float(scheduler.sigmas[1])
        return close(scheduler.step(v, t, x).prev_sample, (1 - end) * X + end * EPS)

    with theirs(DPM, **options) as scheduler:
        assert not recovers(scheduler)
    assert all(recovers(ours(DPM, mode, **options)) for mode in both())


@differs(
    "flow_prediction of samples with alpha^2 + sigma^2 = 1",
    DPM,
    "x0 = (x - sigma m) / (alpha + sigma); the reference takes sigma / alpha for sigma, undivided",
    right="arXiv:2210.02747: m = eps - x0, with x = alpha x0 + sigma eps solved for x0",
)
def _vp_flow() -> None:
    options = {"prediction_type": "flow_prediction"}

    def recovers(scheduler: Any) -> bool:
        scheduler.set_timesteps(4)
        t, following = scheduler.timesteps[:2]
        x = scheduler.add_noise(X, EPS, t[None].repeat(2))
        after = scheduler.step(EPS - X, t, x).prev_sample
        scheduler.set_timesteps(4)
        return close(after, scheduler.add_noise(X, EPS, following[None].repeat(2)))

    with theirs(DPM, **options) as scheduler:
        assert not recovers(scheduler)
    assert all(recovers(ours(DPM, mode, **options)) for mode in both())


@differs(
    "float32 tables",
    tuple(SPACES),
    "tables are float64; the reference's are float32, and betas near 1 or 0 lose four digits",
    right="rounding is not part of any paper",
)
def _float32() -> None:
    exact = ours(EULER).sigmas
    with theirs(EULER, lifted=False) as scheduler:
        assert 1e-6 < float((scheduler.sigmas[:-1] / exact[:-1] - 1).abs().max()) < 1e-2
    with theirs(EULER) as scheduler:
        assert close(scheduler.sigmas, exact, 1e-10)


@differs(
    "float32 noise prediction near alpha = 0",
    DPM,
    "computed as the caller's precision allows; in single precision the reference is as far from"
    " its own double precision as from us",
    right="a rounded noise estimate is divided by alpha; arXiv:2211.01095 predicts data instead",
    where=lambda space, case: (
        not case["algorithm_type"].endswith(("++", "deis"))
        and runs.plan_of(space, case).points[0].alpha < 1e-3
    ),
    scope="none as installed",
)
def _noise_prediction() -> None:
    options = {
        "algorithm_type": "dpmsolver",
        "final_sigmas_type": "sigma_min",
        "rescale_betas_zero_snr": True,
        "prediction_type": "sample",
    }
    results = []
    for lifted, dtype in ((True, torch.float64), (False, torch.float32)):
        with theirs(DPM, lifted=lifted, **options) as scheduler:
            scheduler.set_timesteps(1)
            t = scheduler.timesteps[0]
            results.append(scheduler.step(EPS.to(dtype), t, X.to(dtype)).prev_sample.double())
    assert float((results[0] - results[1]).abs().max()) > 1e-4


@differs(
    "dtype of a result",
    (*EULER, *ANCESTRAL, *DPM, "HeunDiscreteScheduler"),
    "the sample's; the reference gives the model output's, and Euler's estimate in float32",
    right="a loop keeps the dtype that it was given",
)
def _dtype() -> None:
    half = X.to(torch.float16)
    with theirs(EULER, lifted=False) as scheduler:
        scheduler.set_timesteps(4)
        out = scheduler.step(half, scheduler.timesteps[0], half)
        assert out.pred_original_sample.dtype == torch.float32
        assert (
            torch.float32
            == scheduler.step(half.float(), scheduler.timesteps[1], half).prev_sample.dtype
        )
    for mode in both():
        scheduler = ours(EULER, mode)
        scheduler.set_timesteps(4)
        out = scheduler.step(half, scheduler.timesteps[0], half)
        assert out.pred_original_sample.dtype == out.prev_sample.dtype == torch.float16


@differs(
    "prediction_type=sample of Euler ancestral",
    ANCESTRAL,
    "works; the reference raises NotImplementedError",
    right="x0 = m needs nothing else",
    where=lambda space, case: case["prediction_type"] == "sample",
    scope="none",
)
def _ancestral_sample() -> None:
    with (
        theirs(ANCESTRAL, prediction_type="sample") as scheduler,
        pytest.raises(NotImplementedError),
    ):
        quick(scheduler, 4)
    for mode in both():
        plan = ours(ANCESTRAL, mode, prediction_type="sample").plan(3)
        assert close(cmsched.sample(lambda x, t: EPS, plan, X, rng=0), EPS)


@differs(
    "eta = 1 from zero terminal SNR",
    DDIM,
    "the coefficient of eps is 0; in the reference it is the root of a residue, 1e-8 or NaN",
    right="arXiv:2010.02502, eq. 16: at alpha = 0 and eta = 1 std^2 = 1 - alpha_(t-1)",
)
def _residue() -> None:
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


@differs(
    "estimate of a churned step",
    EULER,
    "what the network says at the sample it saw; the reference mixes in the noise added after it",
    right="arXiv:2206.00364, algorithm 2, line 7: D(x; sigma) of what was evaluated",
    where=lambda space, case: case["step.s_churn"] > 0,
    scope="but the estimate",
)
def _churned_estimate() -> None:
    def estimate(scheduler: Any) -> torch.Tensor:
        scheduler.set_timesteps(4)
        t, s = scheduler.timesteps[0], scheduler.sigmas[0]
        x = X + s * EPS
        noise = {"generator": lambda shape, *_: torch.ones(shape, dtype=X.dtype)}
        noise = {} if type(scheduler).__module__.startswith("diffusers") else noise
        return scheduler.step(EPS, t, x, s_churn=4.0, **noise).pred_original_sample

    with theirs(EULER) as scheduler:
        assert not close(estimate(scheduler), X, 1e-3)
    assert close(estimate(ours(EULER)), X)


@differs(
    "where explicit sigmas end",
    EULER,
    "a list without its end gets it; in the reference the last entry always is the end",
    right="one rule for every class: a terminal entry is recognised and not doubled",
)
def _explicit_sigmas() -> None:
    with theirs(EULER) as scheduler:
        scheduler.set_timesteps(sigmas=[10.0, 1.0])
        assert len(scheduler.timesteps) == 1
    for mode in both():
        scheduler = ours(EULER, mode)
        for given in ([10.0, 1.0], [10.0, 1.0, 0.0]):
            scheduler.set_timesteps(sigmas=given)
            assert close(scheduler.sigmas, [10.0, 1.0, 0.0])


@differs(
    "variance channels",
    DPM,
    "half of the output's channels; the reference keeps three, whatever the sample has",
    right="arXiv:2102.09672: mean and variance have the sample's channels each",
)
def _three_channels() -> None:
    latent = X.repeat(1, 2, 1, 1)[:, :4]
    doubled = torch.cat([latent, latent], dim=1)
    with theirs(DPM, variance_type="learned_range") as scheduler:
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[0]
        with pytest.raises(RuntimeError, match="size of tensor"):
            scheduler.step(doubled, t, latent)
    for mode in both():
        scheduler = ours(DPM, mode, variance_type="learned_range")
        scheduler.set_timesteps(4)
        assert scheduler.step(doubled, t, latent).prev_sample.shape == latent.shape


@differs(
    "algorithm_type=deis ending at zero",
    DPM,
    "means dpmsolver++, which can end there; the reference rejects it before it reads it so",
    right="both read deis as dpmsolver++, which data prediction takes to sigma = 0",
)
def _deis() -> None:
    with pytest.raises(ValueError, match="final_sigmas_type"), theirs(DPM, algorithm_type="deis"):
        pass
    for mode in both():
        rows = [
            ours(DPM, mode, algorithm_type=kind).plan(5).rows for kind in ("deis", "dpmsolver++")
        ]
        assert rows[0] == rows[1]


@differs(
    "leading steps past the last training step",
    SIGMA_CLASSES,
    "raises; the reference tells the network a time it was not trained with, at the level before",
    right="there is no training step num_train_timesteps",
)
def _past_the_end() -> None:
    for name in (*EULER, *ANCESTRAL, "HeunDiscreteScheduler"):
        options = {"num_train_timesteps": 60, "timestep_spacing": "leading", "steps_offset": 1}
        with theirs((name,), **options) as scheduler:
            scheduler.set_timesteps(60)
            assert scheduler.timesteps[0] == 60
            assert scheduler.sigmas[0] == scheduler.sigmas[1]
        for mode in both():
            with pytest.raises(ValueError, match="last training step"):
                ours((name,), mode, **options).set_timesteps(60)


@differs(
    "before set_timesteps",
    (*EULER, "HeunDiscreteScheduler"),
    "timesteps and sigmas of the training steps, to the configured end; the reference's Heun shows"
    " a run of as many steps placed by its ramp and spacing, its Euler always ends at 0",
    right="one rule for every class",
)
def _fresh() -> None:
    with theirs(("HeunDiscreteScheduler",), use_karras_sigmas=True) as scheduler:
        bar, run = scheduler.alphas_cumprod, scheduler.sigmas
    table = ((1 - bar) / bar).sqrt().flip(0)
    assert not close(run[0:-1:2], table, 1e-3)
    with theirs(EULER, final_sigmas_type="sigma_min") as scheduler:
        assert scheduler.sigmas[-1] == 0
        scheduler.set_timesteps(5)
        assert scheduler.sigmas[-1] > 0
    for mode in both():
        scheduler = ours(("HeunDiscreteScheduler",), mode, use_karras_sigmas=True)
        assert close(scheduler.sigmas[0:-1:2], table)
        assert ours(EULER, mode, final_sigmas_type="sigma_min").sigmas[-1] > 0


@differs(
    "zero terminal SNR, every training step",
    (*EULER, *ANCESTRAL, *DPM),
    "a run that visits the last two training steps raises; the reference gives the last one sigma ="
    " 4096, less than the one before it, and goes up in noise",
    right="a sampler goes from noise to data",
)
def _rising() -> None:
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    for names in (EULER, ANCESTRAL, DPM):
        with theirs(names, **options) as scheduler:
            scheduler.set_timesteps(1000)
            assert scheduler.sigmas[1] > scheduler.sigmas[0]
        for mode in both():
            with pytest.raises(ValueError, match="from noise to data"):
                ours(names, mode, **options).set_timesteps(1000)


@differs(
    "flow sigmas that end above their last level",
    DPM,
    'raises; with final_sigmas_type="sigma_min" the reference ends at the least sigma of its betas,'
    " which has nothing to do with the flow and may be above the level before it",
    right="a sampler goes from noise to data",
)
def _rising_flow() -> None:
    options = {
        "num_train_timesteps": 60,
        "beta_start": 0.00085,
        "use_flow_sigmas": True,
        "final_sigmas_type": "sigma_min",
    }
    with theirs(DPM, **options) as scheduler:
        scheduler.set_timesteps(60)
        assert scheduler.sigmas[-1] > scheduler.sigmas[-2]
    for mode in both():
        with pytest.raises(ValueError, match="from noise to data"):
            ours(DPM, mode, **options).set_timesteps(60)


@differs(
    "epsilon prediction at zero terminal SNR",
    (*DDIM, *DDPM, *LCM),
    "raises; in the reference the sample becomes NaN or infinite",
    right="arXiv:2305.08891, section 3.1: at alpha = 0 epsilon says nothing about x0",
)
def _zero_snr() -> None:
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
    with theirs(DDIM, **options) as scheduler:
        assert not torch.isfinite(quick(scheduler, 4)).any()
    for mode in both():
        with pytest.raises(ValueError, match="zero terminal"):
            ours(DDIM, mode, **options).set_timesteps(4)


def active(space: Space, case: Case) -> list[Difference]:
    """The differences that a case meets and that both values of `compatibility` have."""
    return [
        d for d in DIFFERENCES if space.name in d.classes and not d.copied and d.where(space, case)
    ]


def table() -> list[tuple[str, str, str, str]]:
    """What `compatibility` changes: name, class, paper, diffusers."""
    return [
        (d.name, name.removesuffix("Scheduler"), d.paper, d.diffusers)
        for d in DIFFERENCES
        if d.copied
        for name in d.classes
    ]


def main() -> None:
    """Print the table."""
    print("| what | class | paper | diffusers |\n| --- | --- | --- | --- |")
    for row in table():
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
