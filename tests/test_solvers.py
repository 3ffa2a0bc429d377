"""The exponential integrators: what they are in the limit, by closed forms, and their options."""

import copy
import itertools
import math
import pickle
import warnings

import numpy as np
import pytest

import cmsched
from cmsched.schedulers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    UniPCMultistepScheduler,
)
from cmsched.schedulers.singlestep import stages

pytestmark = pytest.mark.host

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
TIMES = [990, 700, 320, 90, 11]
FAMILY = [
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    DEISMultistepScheduler,
    UniPCMultistepScheduler,
]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
RNG = np.random.default_rng(0)
X, EPS, X0 = RNG.standard_normal((3, 2, 3, 4))


def samples(plan, seed=1):
    """Every sample of a run on network outputs picked by chance."""
    outputs = np.random.default_rng(seed).standard_normal((len(plan), *X.shape))
    state, seen = cmsched.init(plan, X), []
    for m in outputs:
        state = cmsched.step(plan, state, m)
        seen.append(state.sample)
    return np.array(seen)


FIRST = [
    (DEISMultistepScheduler, {}),
    (DPMSolverMultistepScheduler, {"final_sigmas_type": "sigma_min"}),
    (
        DPMSolverMultistepScheduler,
        {"final_sigmas_type": "sigma_min", "algorithm_type": "dpmsolver"},
    ),
    (DPMSolverSinglestepScheduler, {"final_sigmas_type": "sigma_min"}),
    (
        DPMSolverSinglestepScheduler,
        {"final_sigmas_type": "sigma_min", "algorithm_type": "dpmsolver"},
    ),
    (UniPCMultistepScheduler, {"final_sigmas_type": "sigma_min"}),
    (UniPCMultistepScheduler, {"final_sigmas_type": "sigma_min", "predict_x0": False}),
]


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(("cls", "options"), FIRST)
def test_order_one_is_ddim(cls, options, kind):
    """arXiv:2206.00927, section 4.1; arXiv:2204.13902, proposition 2."""
    if cls is UniPCMultistepScheduler:
        options = {**options, "disable_corrector": list(range(9))}
    common = {**BETAS, "prediction_type": kind}
    ddim = DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=False)
    plan = cls(**common, **options, solver_order=1).plan(timesteps=TIMES)
    expected = samples(ddim.plan(timesteps=TIMES))
    np.testing.assert_allclose(
        samples(plan), expected, rtol=1e-12, atol=1e-12 * abs(expected).max()
    )


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("n", range(1, 14))
@pytest.mark.parametrize("order", [1, 2, 3])
def test_exact_estimates_stay_on_the_way(cls, n, order):
    """Where the network knows x0 and eps, every step lands on alpha x0 + sigma eps."""
    for options in ({}, {"prediction_type": "v_prediction"}, {"final_sigmas_type": "sigma_min"}):
        if not options.keys() <= cls.options.keys():
            continue
        scheduler = cls(**BETAS, **options, solver_order=order)
        scheduler.set_timesteps(n)
        points = scheduler.plan(n).grid.points
        x = points[0].alpha * X0 + points[0].sigma * EPS
        for t, at, to in zip(scheduler.timesteps, points, points[1:], strict=False):
            v = at.alpha * EPS - at.sigma * X0
            x = scheduler.step(v if "prediction_type" in options else EPS, t, x).prev_sample
            np.testing.assert_allclose(x, to.alpha * X0 + to.sigma * EPS, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", range(1, 14))
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_stages(n, order, lower, final):
    """Every run is cut into whole steps; one to sigma = 0 is of first order."""
    scheduler = DPMSolverSinglestepScheduler(
        solver_order=order, lower_order_final=lower, final_sigmas_type=final
    )
    stages = scheduler.get_order_list(n)
    scheduler.set_timesteps(n)
    assert scheduler.order_list == stages
    assert len(stages) == n
    assert all(b in (1, a + 1) for a, b in itertools.pairwise([0, *stages]))
    assert max(stages) <= order
    if final == "zero" or (lower and n % order == 0):
        assert stages[-1] == 1
    elif not lower and n % order == 0:
        assert stages == list(range(1, order + 1)) * (n // order)
    assert not scheduler.config.lower_order_final or lower


INVERSIONS = [
    {},
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "trailing"},
    {"use_karras_sigmas": True},
    {"algorithm_type": "dpmsolver"},
    {"solver_order": 3},
    {"lambda_min_clipped": -2.0},
    {**FLOW, "flow_shift": 2.0},
]


@pytest.mark.parametrize("options", INVERSIONS)
@pytest.mark.parametrize("compatibility", ["paper", "diffusers"])
def test_inversion_goes_up(options, compatibility):
    options = {"prediction_type": "v_prediction", **options}
    scheduler = DPMSolverMultistepInverseScheduler(**options, compatibility=compatibility)
    for n in (1, 2, 5, 12):
        scheduler.set_timesteps(n)
        sigmas = scheduler.sigmas
        assert len(scheduler.timesteps) == len(sigmas) - 1 == n
        steps = np.diff(sigmas)
        assert np.all(steps[:-1] > 0)
        assert steps[-1] > 0 or (compatibility == "diffusers" and steps[-1] == 0)
        points = scheduler.plan(n).grid.points
        x = points[0].alpha * X0 + points[0].sigma * EPS
        for t, at, to in zip(scheduler.timesteps, points, points[1:], strict=False):
            flow = options["prediction_type"] == "flow_prediction"
            m = EPS - X0 if flow else at.alpha * EPS - at.sigma * X0
            x = scheduler.step(m, t, x).prev_sample
            np.testing.assert_allclose(x, to.alpha * X0 + to.sigma * EPS, rtol=1e-9, atol=1e-9)


def test_where_an_inversion_steps():
    """Whole times up from the least noisy one; the noisiest is no start but the end."""
    for options, times in (
        ({}, [0, 250, 500, 749]),  # of five even ones
        ({"timestep_spacing": "leading"}, [0, 200, 400, 600]),
        ({"timestep_spacing": "trailing"}, [199, 399, 599, 799]),
    ):
        plan = DPMSolverMultistepInverseScheduler(**options).plan(4)
        assert plan.timesteps.tolist() == times
        assert plan.grid.points[-1].t == 999
    options["compatibility"] = "diffusers"  # where a trailing run starts its last step at its end
    plan = DPMSolverMultistepInverseScheduler(**options).plan(4)
    assert plan.timesteps.tolist() == [249, 499, 749, 999]
    ratios = [p.ratio for p in plan.grid.points]
    assert ratios[-1] == ratios[-2]


def test_down_and_up_again():
    """Order 1 upward undoes order 1 downward where the network says the same at both ends."""
    down = DPMSolverMultistepScheduler(solver_order=1, final_sigmas_type="sigma_min", **BETAS)
    up = DPMSolverMultistepInverseScheduler(solver_order=1, **BETAS)
    plan = down.plan(6)
    x = cmsched.sample(lambda x, t: EPS, plan, X)
    back = up.plan(sigmas=[p.ratio for p in plan.grid.points[::-1]])
    np.testing.assert_allclose(cmsched.sample(lambda x, t: EPS, back, x), X, rtol=1e-12, atol=1e-12)
    assert [p.ratio for p in back.grid.points] == [p.ratio for p in plan.grid.points[::-1]]


def test_inversion_adds_no_noise():
    with pytest.raises(ValueError, match="inversion needs"):
        DPMSolverMultistepInverseScheduler(algorithm_type="sde-dpmsolver++")
    scheduler = DPMSolverMultistepInverseScheduler()
    with pytest.raises(ValueError, match="strictly increasing"):
        scheduler.set_timesteps(timesteps=[500, 100])
    with pytest.raises(ValueError, match="start above 0 and end below"):
        scheduler.set_timesteps(sigmas=[0.0, 1.0])
    assert cmsched.schedulers.DPMSolverMultistepInverse is DPMSolverMultistepInverseScheduler


@pytest.mark.parametrize("cls", [*FAMILY, DPMSolverMultistepInverseScheduler])
@pytest.mark.parametrize("integrates", ["x0", "eps"])
def test_thresholding_is_heard(cls, integrates):
    """The first step takes the thresholded estimate, whatever is integrated."""
    options = {"thresholding": True, "dynamic_thresholding_ratio": 0.5, "sample_max_value": 1.3}
    if "algorithm_type" in cls.options and cls is not DEISMultistepScheduler:
        options["algorithm_type"] = "dpmsolver++" if integrates == "x0" else "dpmsolver"
    if "predict_x0" in cls.options:
        options["predict_x0"] = integrates == "x0"
    if "final_sigmas_type" in cls.options:
        options["final_sigmas_type"] = "sigma_min"
    scheduler = cls(prediction_type="sample", **options)
    scheduler.set_timesteps(4)
    a, b = scheduler.plan(4).grid.points[:2]
    m = 2 * X0
    s = np.clip(np.quantile(abs(m.reshape(2, -1)), 0.5, axis=1), 1, 1.3)[:, None, None]
    x0 = np.clip(m, -s, s) / s
    expected = b.alpha * x0 + b.sigma * (X - a.alpha * x0) / a.sigma
    found = scheduler.step(m, scheduler.timesteps[0], X).prev_sample
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


SHIFTED = [DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, DEISMultistepScheduler]


@pytest.mark.parametrize("cls", [*SHIFTED, UniPCMultistepScheduler])
def test_flow_shifts(cls):
    """shift s / (1 + (shift - 1) s) of even levels; e^mu for one run only."""
    unipc = cls is UniPCMultistepScheduler
    even = np.linspace(1, 1 / 1000, 6)
    even = even[:-1] if unipc else (1 - even)[:0:-1]
    dynamic = cls(**FLOW, use_dynamic_shifting=True, flow_shift=3.0)
    for mu, shift in ((None, 3.0), (0.7, math.exp(0.7))):
        expected = shift * even / (1 + (shift - 1) * even)
        scheduler = cls(**FLOW, flow_shift=3.0) if mu is None else dynamic
        found = [p.sigma for p in scheduler.plan(5, mu=mu).points]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        given = scheduler.plan(sigmas=even, mu=mu)
        np.testing.assert_allclose([p.sigma for p in given.points], expected, rtol=1e-12)
    if not unipc:
        with pytest.raises(ValueError, match="mu needs"):
            cls(**FLOW).plan(5, mu=0.7)


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("ramp", ["use_karras_sigmas", "use_exponential_sigmas"])
def test_ramps_of_a_flow(cls, ramp):
    """The levels of sigma / alpha are those without the flow."""
    plain, flow = (
        [p.ratio for p in cls(**{ramp: True}, **more).plan(6).points] for more in ({}, FLOW)
    )
    if cls is DEISMultistepScheduler:  # it ends at 0 there
        flow, plain = flow[:1], plain[:1]
    else:
        end = cls(**{ramp: True}, **FLOW, final_sigmas_type="sigma_min").plan(6).grid.points[-1]
        assert end.ratio == pytest.approx(plain[-1], rel=1e-9)
    np.testing.assert_allclose(flow, plain, rtol=1e-9)
    with pytest.warns(UserWarning, match="flow_shift has no effect"):
        cls(**{ramp: True}, **FLOW, flow_shift=2.0).plan(3)


def test_unipc_of_any_order():
    for order in range(1, 10):
        scheduler = UniPCMultistepScheduler(solver_order=order)
        assert scheduler.plan(12).options["solver_order"] == order
    for wrong in (0, 10):
        with pytest.raises(ValueError, match="solver_order"):
            UniPCMultistepScheduler(solver_order=wrong)


def test_unipc_options():
    with pytest.raises(ValueError, match="needs mu"):
        UniPCMultistepScheduler(**FLOW, use_dynamic_shifting=True).set_timesteps(4)
    with pytest.raises(ValueError, match="mu must be positive"):
        UniPCMultistepScheduler(
            **FLOW, use_dynamic_shifting=True, time_shift_type="linear"
        ).set_timesteps(4, mu=-1.0)
    with pytest.raises(ValueError, match="needs use_flow_sigmas"):
        UniPCMultistepScheduler(shift_terminal=0.1)
    with pytest.raises(ValueError, match=r"shift_terminal must lie in \[0, 1\)"):
        UniPCMultistepScheduler(**FLOW, shift_terminal=1.0)
    with pytest.raises(ValueError, match="stretched"):
        UniPCMultistepScheduler(**FLOW, shift_terminal=0.1).set_timesteps(1)
    for wrong in ([-1], ["0"], 3, [True]):
        with pytest.raises(TypeError, match="disable_corrector"):
            UniPCMultistepScheduler(disable_corrector=wrong)
    for name in ("sigma_min", "sigma_max"):
        with pytest.warns(UserWarning, match=f"{name} has no effect"):
            UniPCMultistepScheduler(**{name: 0.5}).plan(3)
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            UniPCMultistepScheduler(**{name: -1.0})
    with pytest.warns(UserWarning, match="mu has no effect"):
        UniPCMultistepScheduler(**FLOW).plan(3, mu=1.0)


def test_ends_of_unipc():
    """sigma_min is the end of the ramp, or of the flow; n steps lead there."""
    options = {"final_sigmas_type": "sigma_min"}
    plan = UniPCMultistepScheduler(
        **options, use_karras_sigmas=True, sigma_min=0.2, sigma_max=30.0
    ).plan(5)
    assert plan.points[0].ratio == pytest.approx(30.0)
    assert plan.grid.points[-1].ratio == pytest.approx(0.2)
    assert plan.points[-1].ratio > 0.3
    plan = UniPCMultistepScheduler(**FLOW, **options, shift_terminal=0.1).plan(5)
    assert plan.grid.points[-1].sigma == pytest.approx(0.1)
    assert len(plan) == 5
    assert plan.points[-1].sigma > 0.2
    to_zero = UniPCMultistepScheduler(**FLOW, shift_terminal=0.1).plan(5)  # its last step is longer
    assert to_zero.points[-1].sigma == pytest.approx(0.1)
    assert to_zero.grid.points[-1].sigma == 0.0
    scheduler = UniPCMultistepScheduler(**FLOW, **options, use_dynamic_shifting=True)
    end = scheduler.plan(5, mu=0.7).grid.points[-1].sigma
    assert end == pytest.approx(math.exp(0.7) * 1e-3 / (1 + (math.exp(0.7) - 1) * 1e-3))


def test_disabled_corrector():
    """Without the corrector of one step the others are as they were."""
    plain, off, none = (
        samples(UniPCMultistepScheduler(disable_corrector=list(steps)).plan(7))
        for steps in ((), (3,), range(7))
    )
    same = [np.array_equal(a, b) for a, b in zip(plain, off, strict=True)]
    assert same == [True] * 4 + [False] * 3
    assert [np.array_equal(a, b) for a, b in zip(plain, none, strict=True)].index(False) == 1


def test_solver_p_corrected_by_its_own_order_is_unipc():
    """UniP of order 1 is DDIM's step, of any parametrisation; UniC is the rest."""
    common = {**BETAS, "prediction_type": "sample", "lower_order_final": False}
    other = DPMSolverMultistepScheduler(**common, solver_order=1)
    for solver in ("bh1", "bh2"):
        options = {**common, "solver_order": 1, "solver_type": solver}
        pair = [
            UniPCMultistepScheduler(**options, solver_p=given).plan(8) for given in (other, None)
        ]
        assert [plan.sampler for plan in pair] == ["dpmpp_multistep", "unipc"]
        np.testing.assert_allclose(*map(samples, pair), rtol=1e-10, atol=1e-10)


def test_solver_p_in_a_config():
    scheduler = UniPCMultistepScheduler(solver_p=DDIMScheduler(clip_sample=False))
    for again in (
        copy.deepcopy(scheduler),
        pickle.loads(pickle.dumps(scheduler)),
        UniPCMultistepScheduler.from_config(scheduler.config),
    ):
        assert isinstance(again.solver_p, DDIMScheduler)
        assert again.plan(5).options == scheduler.plan(5).options
    with pytest.raises(TypeError, match="solver_p"):
        scheduler.to_json_string()
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="solver_p the predictor"):
        scheduler.multistep_uni_p_bh_update(EPS, sample=X, order=1)


def test_a_run_of_a_rest_starts_with_a_step():
    """From a later entry groups begin anew, in the habit and in a plan."""
    scheduler = DPMSolverSinglestepScheduler(solver_order=3, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(9)
    scheduler.set_begin_index(2)
    x = X
    for t in scheduler.timesteps[2:]:
        x = scheduler.step(EPS, t, x).prev_sample
    rest = scheduler.plan(9).skip(2)
    state = cmsched.init(rest, X)._replace(sample=X)
    for _ in range(len(rest)):
        state = cmsched.step(rest, state, EPS)
    np.testing.assert_allclose(state.sample, x, rtol=1e-12)
    assert stages(rest.grid, rest.options) == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize("cls", [*FAMILY, DPMSolverMultistepInverseScheduler])
def test_names_of_other_solvers(cls):
    """What another solver's configuration says is read as this one's own."""
    names = {"solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2")}
    if "algorithm_type" in cls.options:
        names["algorithm_type"] = ("deis", "dpmsolver++")
    for option, values in names.items():
        for value in values:
            assert len(cls(**{option: value}).plan(3)) == 3
        with pytest.raises(ValueError, match=option):
            cls(**{option: "euler"})


def test_nothing_warns_by_default():
    with warnings.catch_warnings(action="error"):
        for cls in (*FAMILY, DPMSolverMultistepInverseScheduler):
            cls().set_timesteps(5)
            cls(**FLOW).set_timesteps(5)
