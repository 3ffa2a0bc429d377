"""DPM-Solver and its kin."""

from typing import Any

import numpy as np
import pytest
import torch

import cmsched
from cmsched.samplers.formulas import weights
from cmsched.schedulers.singlestep import stages

from .. import runs
from ..declaring import DPM, EPS, X, both, close, differs, ours, quick, theirs, zero_length
from ..grid import Case, Space, count
from .shared import (
    LAST_STEP_OF_LENGTH_ZERO,
    LIMITS,
    LIST_OF_LEVELS,
    NO_SUCH_RUN,
    PRECISION,
    PREDICTIONS,
    REJECTED_OPTIONS,
    VARIANCES,
)

INVERSE = ("DPMSolverMultistepInverseScheduler",)
SINGLE = ("DPMSolverSinglestepScheduler",)
DEIS, UNIPC = ("DEISMultistepScheduler",), ("UniPCMultistepScheduler",)
OTHERS = (*INVERSE, *SINGLE, *DEIS, *UNIPC)


def shortened(space: Space, case: Case) -> bool:
    """Whether only the copy of the reference has a last step that goes nowhere."""
    points = runs.plan_of(space, case, "paper").grid.points
    return zero_length(space, case) and points[-2].ratio != points[-1].ratio


LAST_STEP_OF_LENGTH_ZERO.concerns(OTHERS, where=shortened)


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
    (*DPM, *OTHERS),
    where=lambda space, case: bool(np.any(runs.plan_of(space, case, "paper").timesteps % 1)),
)


@TIMES_BETWEEN.proves
def truncated() -> None:
    """As the level says; in the reference cut to integers, beside the fractional level.

    The network must be told the level it sees.
    """
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
    "repeats timesteps, by steps of length zero that change nothing; the reference divides by zero "
    "there, and its inversion leaves repeated ones out",
    right="two equal levels are no step",
).concerns((*DPM, *SINGLE, *DEIS, *UNIPC, *INVERSE))


@MORE_STEPS_THAN_INTEGERS.proves
def crowded() -> None:
    options = {"num_train_timesteps": 40, "solver_order": 3, "lower_order_final": False}
    with theirs(DPM, **options) as scheduler:
        scheduler.set_timesteps(60)
        assert len(set(scheduler.timesteps.tolist())) < 60
    assert ours(DPM, **options).plan(60).timesteps.tolist() == scheduler.timesteps.tolist()
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


STAYS = differs(
    "set_timesteps changes the config",
    "mu holds for one run, and lower_order_final stays; in the reference mu replaces "
    "config.flow_shift for good, and a number of steps sets lower_order_final",
    right="a call that sets the timesteps of a run does not change the configuration",
).concerns((*DPM, *SINGLE, *DEIS))


@STAYS.proves
def mu() -> None:
    """The shift of a run is of that run; the reference keeps it."""
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

    for names in (DPM, SINGLE, DEIS):
        with theirs(names, **options) as scheduler:
            assert not forgets(scheduler)
        assert all(forgets(ours(names, mode, **options)) for mode in both())


PREDICTIONS.concerns(
    (*DPM, *SINGLE, *DEIS, *UNIPC),
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


def solves_for_eps(space: Space, case: Case) -> bool:
    """Whether the integral is that of eps."""
    algorithm = case.get("algorithm_type", "")
    return space.name in DEIS or not case.get("predict_x0", algorithm.endswith(("++", "deis")))


def far_from_data(space: Space, case: Case) -> bool:
    """Whether the network is asked where hardly anything is left of the data."""
    return min(p.alpha for p in runs.plan_of(space, case).points) < 1e-3


PRECISION.concerns(
    (*DPM, *OTHERS),
    where=lambda space, case: solves_for_eps(space, case) and far_from_data(space, case),
    scope="none as installed",
).concerns(
    OTHERS,
    where=lambda space, case: (
        case["beta_schedule"] == "squaredcos_cap_v2" and far_from_data(space, case)
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


LIST_OF_LEVELS.concerns(INVERSE, where=lambda space, case: case["use_flow_sigmas"], scope="none")


@LIST_OF_LEVELS.proves
def inverse_flow() -> None:
    """An inversion goes up in noise; on flow sigmas the reference goes down.

    ArXiv:2211.01095 integrates the ODE from one end to the other, and its class is named after the
    way up.
    """
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    with theirs(INVERSE, **options) as scheduler:
        scheduler.set_timesteps(5)
        assert scheduler.sigmas[0] > scheduler.sigmas[3]
    for mode in both():
        scheduler = ours(INVERSE, mode, **options)
        scheduler.set_timesteps(5)
        assert scheduler.sigmas[0] < scheduler.sigmas[3]


@LIST_OF_LEVELS.proves
def inverse_repeated() -> None:
    """Every level has its time; where rounded times repeat, the reference leaves out times,
    but not their levels, and stops before the end.

    A step of the loop goes from one level to the next, and the network is told which.
    """
    options = {"use_karras_sigmas": True, "num_train_timesteps": 60}
    with theirs(INVERSE, **options) as scheduler:
        scheduler.set_timesteps(20)
        assert len(scheduler.timesteps) < len(scheduler.sigmas) - 1
    for mode in both():
        scheduler = ours(INVERSE, mode, **options)
        scheduler.set_timesteps(20)
        assert len(scheduler.timesteps) == len(scheduler.sigmas) - 1 == 20


STEPS_OF_STAGES = differs(
    "steps of several stages",
    "a run that begins later begins a step there",
    "it takes what is left of the step that the whole run takes there, as a step of its own",
    right="arXiv:2211.01095, algorithm 1: a stage starts from the base of its own step",
).concerns(SINGLE)


@STEPS_OF_STAGES.proves
def restarted() -> None:
    """From the second stage of three, with one output the reference takes its third stage as a
    second one over both intervals.

    ArXiv:2211.01095, algorithm 1.
    """
    options = {"solver_order": 3, "final_sigmas_type": "sigma_min"}
    with theirs(SINGLE, **options) as scheduler:
        scheduler.set_timesteps(6)
        scheduler.set_begin_index(1)
        scheduler.step(EPS, scheduler.timesteps[1], X)
        scheduler.step(EPS, scheduler.timesteps[2], X)
        assert scheduler.order_list[1:3] == [2, 3]
        assert close(scheduler.sample, X), "the base of the second interval too"
    for mode, rest in (("paper", [1, 2, 3, 1, 2]), ("diffusers", [1, 2, 1, 2, 3])):
        scheduler = ours(SINGLE, mode, **options)
        plan = scheduler.plan(6)
        assert stages(plan.grid, plan.options) == [1, 2, 3, 1, 2, 3]
        assert stages(plan.grid.skip(1), plan.options) == rest


@STAYS.proves
def lower_order_final() -> None:
    """The configuration stays; the reference sets lower_order_final, for every later run too.

    A call that sets the timesteps of a run does not change the configuration.
    """
    options = {"solver_order": 2, "final_sigmas_type": "sigma_min"}
    with theirs(SINGLE, **options) as scheduler:
        scheduler.set_timesteps(5)
        assert scheduler.config.lower_order_final
        scheduler.set_timesteps(4)
        assert scheduler.order_list == [1, 2, 1, 1]
    for mode in both():
        scheduler = ours(SINGLE, mode, **options)
        scheduler.set_timesteps(5)
        assert scheduler.order_list == [1, 2, 1, 2, 1]
        assert not scheduler.config.lower_order_final
        scheduler.set_timesteps(4)
        assert scheduler.order_list == [1, 2, 1, 2]


REJECTED_OPTIONS.concerns(SINGLE)


@REJECTED_OPTIONS.proves
def threshold_of_noise() -> None:
    """Dynamic thresholding works with algorithm_type="dpmsolver"; the reference takes alpha of all
    training steps for that of the timestep.

    ArXiv:2205.11487, section 2.3: the estimate of x0 is thresholded, whatever is integrated.
    """
    options = {
        "algorithm_type": "dpmsolver",
        "thresholding": True,
        "final_sigmas_type": "sigma_min",
    }
    with theirs(SINGLE, **options) as scheduler, pytest.raises(RuntimeError):
        quick(scheduler, 4)
    for mode in both():
        results = [
            quick(ours(SINGLE, mode, **{**options, "algorithm_type": kind}), 4)
            for kind in ("dpmsolver", "dpmsolver++")
        ]
        assert close(*results), "they have the first order in common"


LIMITS.concerns(
    UNIPC,
    where=lambda space, case: (
        zero_length(space, case) and case["solver_order"] > 2 and not case["lower_order_final"]
    ),
    scope="none",
)


@LIMITS.proves
def last_step_of_unipc() -> None:
    """To sigma = 0 the limit, whatever the options; the reference's last step is not finite with
    "bh1", without predict_x0, without lower_order_final; nor is one of length zero of order 3.

    ArXiv:2302.04867: B(h) may be any function that is h to first order, and at infinite h only the
    first-order part of eq. 3, x = x0, is left.
    """
    ends = ({"solver_type": "bh1"}, {"predict_x0": False}, {"lower_order_final": False})
    nowhere = {
        "solver_order": 3,
        "lower_order_final": False,
        "use_karras_sigmas": True,
        "final_sigmas_type": "sigma_min",
    }

    def last(scheduler: Any) -> torch.Tensor:
        scheduler.set_timesteps(6)
        x = X
        for t in scheduler.timesteps:
            x = scheduler.step(EPS, t, x).prev_sample
        return x

    for options in (*ends, nowhere):
        with theirs(UNIPC, prediction_type="sample", **options) as scheduler:
            assert not torch.isfinite(last(scheduler)).all()
        for mode in both():
            found = last(ours(UNIPC, mode, prediction_type="sample", **options))
            assert torch.isfinite(found).all()
            assert options is nowhere or close(found, EPS), "what the network says all the time"


FIRST_FLOW_SIGMA = differs(
    "first level of a flow",
    "sigma = 1, where steps are of first order",
    "sigma = 1 - 1e-6, whose small alpha stands in the history of later steps",
    right="arXiv:2210.02747: a flow starts from pure noise, at sigma = 1",
).concerns(
    UNIPC,
    where=lambda space, case: runs.plan_of(space, case, "paper").points[0].alpha == 0.0,
)


@FIRST_FLOW_SIGMA.proves
def away_from_one() -> None:
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    with theirs(UNIPC, **options) as scheduler:
        scheduler.set_timesteps(4)
        assert close(scheduler.sigmas[0], 1 - 1e-6, 1e-12)
    for mode, level in (("diffusers", 1 - 1e-6), ("paper", 1.0)):
        assert close(ours(UNIPC, mode, **options).plan(4).points[0].sigma, level, 1e-12)
    # a constant flow goes straight on, from there as from anywhere
    plan = ours(UNIPC, "paper", solver_order=3, **options).plan(6)
    assert close(cmsched.sample(lambda x, t: EPS, plan, X), X - EPS, 1e-12)


REJECTED_OPTIONS.concerns(UNIPC)


@REJECTED_OPTIONS.proves
def noise_of_unipc() -> None:
    """Thresholding and flow_prediction work with predict_x0=False; the reference ignores the first
    and rejects the second.

    An estimate of x0 gives one of eps, whatever is integrated.
    """
    options = {"predict_x0": False, "final_sigmas_type": "sigma_min"}
    flow = {**options, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    with theirs(UNIPC, **flow) as scheduler, pytest.raises(ValueError, match="flow_prediction"):
        quick(scheduler, 4)
    with theirs(UNIPC, thresholding=True, **options) as scheduler:
        ignored = quick(scheduler, 4)
    with theirs(UNIPC, **options) as scheduler:
        assert close(ignored, quick(scheduler, 4))
    for mode in both():
        assert torch.isfinite(quick(ours(UNIPC, mode, **flow), 4)).all()
        found = quick(ours(UNIPC, mode, thresholding=True, **options), 4)
        data = quick(ours(UNIPC, mode, **{**options, "predict_x0": True}, thresholding=True), 4)
        assert not close(found, ignored)
        assert close(found, data), "the first step is of first order"


NO_SUCH_RUN.concerns(UNIPC)


@NO_SUCH_RUN.proves
def ramps_of_a_flow() -> None:
    """Levels of a ramp are those of sigma / alpha, in a flow too; the reference takes sigmas above
    1 for those of a flow, unless it is the ramp of Karras, and its alpha is negative.

    In a flow sigma and alpha are parts of 1.
    """
    for name in ("use_exponential_sigmas", "use_beta_sigmas"):
        options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", name: True}
        with theirs(UNIPC, **options) as scheduler:
            scheduler.set_timesteps(4)
            assert scheduler.sigmas[0] > 1
        for mode in both():
            points = ours(UNIPC, mode, **options).plan(4).points
            assert all(close(p.alpha + p.sigma, 1.0, 1e-15) for p in points)
            assert points[0].ratio > 100


LIMITS.concerns(SINGLE)


@LIMITS.proves
def bend_of_the_third_stage() -> None:
    """The weight of the second difference vanishes with the length of a step; with
    sde-dpmsolver++ and "heun" the reference has (1 - e^-2h - 2h) / (2h)^2 - 1/2, which goes to -1.

    arXiv:2211.01095, appendix B, as in its multistep form.
    """
    options = {
        "algorithm_type": "sde-dpmsolver++",
        "solver_type": "heun",
        "solver_order": 3,
        "final_sigmas_type": "sigma_min",
        "prediction_type": "sample",
    }
    zero, one = torch.zeros_like(X), torch.ones_like(X)

    def bent(scheduler: Any) -> float:
        """What the middle one of three outputs does to the third stage of a short step."""
        scheduler.set_timesteps(999)
        for i in range(2):
            scheduler.step(zero, scheduler.timesteps[i], zero)
        outputs = [zero, one, zero]
        after = scheduler.singlestep_dpm_solver_third_order_update(outputs, sample=zero, noise=zero)
        return float(after.flatten()[0])

    with theirs(SINGLE, **options) as scheduler:
        found = bent(scheduler)
    assert all(abs(bent(ours(SINGLE, mode, **options))) < 0.1 * abs(found) for mode in both())


PREDICTIONS.concerns(UNIPC)


@PREDICTIONS.proves
def corrected_predictor() -> None:
    """What the network said of x0 (of eps without predict_x0) stays as the sample is corrected,
    with solver_p as well; there the reference reads the output anew at the corrected sample.

    ArXiv:2302.04867, algorithm 1: what was evaluated at the prediction is kept for later steps.
    """
    options = {"solver_order": 1, "final_sigmas_type": "sigma_min"}

    def second(scheduler: Any) -> torch.Tensor:
        scheduler.set_timesteps(4)
        x = scheduler.step(EPS, scheduler.timesteps[0], X).prev_sample
        return scheduler.step(X, scheduler.timesteps[1], x).prev_sample

    with (
        theirs(DPM, solver_order=1) as inner,
        theirs(UNIPC, solver_p=inner, **options) as scheduler,
    ):
        expected = second(scheduler)
    with theirs(UNIPC, **options) as scheduler:
        plain = second(scheduler)
    for mode in both():
        inner = ours(DPM, mode, solver_order=1)
        found = second(ours(UNIPC, mode, solver_p=inner, **options))
        assert close(found, plain), "the predictor of UniPC-1 is the first-order step"
        assert not close(found, expected)
