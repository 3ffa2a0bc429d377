"""DPM-Solver and its kin."""

from typing import Any

import numpy as np
import pytest
import torch

from cmsched.samplers.formulas import weights

from .. import runs
from ..declaring import DPM, EPS, X, both, close, differs, ours, theirs, zero_length
from ..grid import Case, count
from .shared import LIMITS, NO_SUCH_RUN, PRECISION, PREDICTIONS, REJECTED_OPTIONS, VARIANCES


def lowered(case: Case) -> int:
    """How many steps at the end of a multistep run are of lower order than 3."""
    if case["lower_order_final"] and count(case) < 15:
        return 2
    return int(case["euler_at_final"] or case["final_sigmas_type"] == "zero")


THIRD_ORDER = differs(
    "third order of SDE-DPM-Solver++",
    "(1 - e^-2h - 2h) / (2h)^2 + 1/2, which vanishes with h",
    "(1 - e^-2h - 2h) / (2h)^2 - 1/2, which is -1 at h = 0",
    right="arXiv:2211.01095, appendix B: a step of length zero changes nothing",
).concerns(
    DPM,
    where=lambda space, case: (
        case["solver_order"] == 3
        and case["algorithm_type"] == "sde-dpmsolver++"
        and len(runs.plan_of(space, case)) - lowered(case) >= 3
    ),
)


@THIRD_ORDER.proves
def third_order_sign() -> None:
    h = 1e-6
    assert abs(weights(3, 2 * h, "midpoint", "published")[2]) < 1e-5
    assert abs(weights(3, 2 * h, "midpoint", "reference")[2] + 1.0) < 1e-5
    options = {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}
    assert ours(DPM, **options).plan(5).options["third_order"] == "reference"
    assert ours(DPM, "paper", **options).plan(5).options["third_order"] == "published"


TIMES_BETWEEN = differs(
    "times between training steps",
    "as the level says, fractional",
    "cut to integers, while the step is taken from the fractional level",
    right="the network must be told the level it sees; integers only where it knows no other",
).concerns(
    DPM, where=lambda space, case: bool(np.any(runs.plan_of(space, case, "paper").timesteps % 1))
)


@TIMES_BETWEEN.proves
def truncated() -> None:
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


MORE_STEPS_THAN_INTEGERS = differs(
    "more linspace steps than integers",
    "goes between the training steps",
    "raises; the reference repeats timesteps and divides by zero",
    right="two equal levels are no step",
).concerns(DPM)


@MORE_STEPS_THAN_INTEGERS.proves
def crowded() -> None:
    options = {"num_train_timesteps": 40, "solver_order": 3, "lower_order_final": False}
    with theirs(DPM, **options) as scheduler:
        scheduler.set_timesteps(60)
        assert len(set(scheduler.timesteps.tolist())) < 60
    with pytest.raises(ValueError, match="not all different"):
        ours(DPM, **options).set_timesteps(60)
    assert len(ours(DPM, "paper", **options).plan(60)) == 60


LIMITS.concerns(DPM, where=zero_length, scope="but the last step")


@LIMITS.proves
def zero_length_solver() -> None:
    """A step of length zero leaves the sample as it is; the reference divides zero by zero.

    The limit of every formula of arXiv:2211.01095, appendix B, at h = 0.
    """
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


MU = differs(
    "mu stays in the config",
    "mu holds for one run; in the reference it replaces config.flow_shift for good",
    right="a call that sets the timesteps of a run does not change the configuration",
).concerns(DPM)


@MU.proves
def mu() -> None:
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


PREDICTIONS.concerns(
    DPM,
    where=lambda space, case: case["use_flow_sigmas"] and case["prediction_type"] == "v_prediction",
    scope="none",
)


@PREDICTIONS.proves
def flow_v() -> None:
    """X0 = (alpha x - sigma v) / (alpha^2 + sigma^2); the reference leaves the division out,
    which is right only where the sum of squares is 1.

    ArXiv:2202.00512: v = alpha eps - sigma x0, solved for x0.
    """
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


PREDICTIONS.concerns(DPM)


@PREDICTIONS.proves
def vp_flow() -> None:
    """X0 = (x - sigma m) / (alpha + sigma); the reference takes sigma / alpha for sigma,
    undivided.

    ArXiv:2210.02747: m = eps - x0, with x = alpha x0 + sigma eps solved for x0.
    """
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


PRECISION.concerns(
    DPM,
    where=lambda space, case: (
        not case["algorithm_type"].endswith(("++", "deis"))
        and runs.plan_of(space, case).points[0].alpha < 1e-3
    ),
    scope="none as installed",
)


@PRECISION.proves
def noise_prediction() -> None:
    """Computed as the caller's precision allows; in single precision the reference is as far from
    its own double precision as from us.

    A rounded noise estimate is divided by alpha; arXiv:2211.01095 predicts data instead.
    """
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


VARIANCES.concerns(DPM)


@VARIANCES.proves
def three_channels() -> None:
    """Half of the output's channels; the reference keeps three, whatever the sample has.

    ArXiv:2102.09672: mean and variance have the sample's channels each.
    """
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


REJECTED_OPTIONS.concerns(DPM)


@REJECTED_OPTIONS.proves
def deis() -> None:
    """Means dpmsolver++, which can end there; the reference rejects it before it reads it so.

    Both read deis as dpmsolver++, which data prediction takes to sigma = 0.
    """
    with pytest.raises(ValueError, match="final_sigmas_type"), theirs(DPM, algorithm_type="deis"):
        pass
    for mode in both():
        rows = [
            ours(DPM, mode, algorithm_type=kind).plan(5).rows for kind in ("deis", "dpmsolver++")
        ]
        assert rows[0] == rows[1]


NO_SUCH_RUN.concerns(DPM)


@NO_SUCH_RUN.proves
def rising_flow() -> None:
    """Raises; with final_sigmas_type="sigma_min" the reference ends at the least sigma of its
    betas, which has nothing to do with the flow and may be above the level before it.

    A sampler goes from noise to data.
    """
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
