"""Any sampler with any schedule, spacing, prediction and projection, through `cmsched.Scheduler`.

Everything is driven from the tables, so what is added to them is visited here. All the data is one
point, for which exact answers are known: along the probability-flow ODE the noise of a sample never
changes, and whoever walks to sigma = 0 arrives at the point.
"""

import itertools
import json
import math

import numpy as np
import pytest
from conftest import few
from exact import interpret, label
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import cmsched
from cmsched.predictions import PREDICTION_TYPES, output_from_x0
from cmsched.samplers import REGISTRY, get
from cmsched.schedules import BETA_SCHEDULES, SCHEDULES, Betas
from cmsched.spacings import SPACINGS

pytestmark = pytest.mark.host

VARIANTS = [
    (name, {k: v for k, v in options.items() if k != "prediction_type"})
    for name, entry in REGISTRY.items()
    for options in few(entry.variants)
]
ZERO_SNR = {"rescale_betas_zero_snr": True}
BETAS = {"trained_betas": np.linspace(1e-4, 0.3, 40).tolist(), "num_train_timesteps": 40}
CURVES = [
    *((name, {}) for name in (*BETA_SCHEDULES, *SCHEDULES)),
    *((name, ZERO_SNR) for name in ("scaled_linear", "squaredcos_cap_v2")),
    ("betas", BETAS),
    ("linear", {"frame": "ve", "sigma_data": 1.0}),
    ("vp_sde", {"frame": "ve"}),
    *((name, {"frame": "flow"}) for name in ("cosine", "ve_sde")),
    ("flow", {"frame": "vp"}),
    ("vp_sde", {"frame": "trig", "sigma_data": 0.7}),
]
PROJECTIONS = [{}, {"clip_sample_range": 3.0}, {"dynamic_thresholding_ratio": 1.0}]
CENTRE = 0.25
SHAPE = (2, 4, 8, 8)
SOME = settings(max_examples=settings.default.max_examples // 3)  # for each of many samplers
# these end with noise on the last step: the first as published, the other by its definition
NOISY_END = {"flow_sde", "euler_late_churn"}


def say(plan, at, x):
    """What the exact network says; a second half of its channels puts a variance in the middle."""
    output = output_from_x0(plan.prediction, at, x, CENTRE + 0 * x)
    return np.concatenate([output, 0 * output], axis=1) if plan.prediction.variance_head else output


def made(plan):
    """Start and end of the loop: of a traced plan point by point, of others by their times."""
    noise = np.random.default_rng(0).normal(size=SHAPE)
    # an image, and a mask that keeps nothing of it
    given = {k: np.zeros(SHAPE) for k in get(plan.sampler).given} or None
    if not plan.traced:

        def network(x, t):
            at = plan.grid.at(t=float(t))
            return say(plan, at, x / at.scale)

        end = cmsched.run(network, plan, noise, rng=1, given=given)
        return noise * plan.grid.init_scale, end
    state = cmsched.init(plan, noise, rng=1, given=given)
    start = state.sample
    for at in plan.points:
        output = say(plan, at, state.sample)
        state = cmsched.step(plan, state, output, rng=1, given=given)
    return start, state.sample


def rounding(plan):
    """How far roundings can carry the end of a traced plan's loop: its rows, with absolute values.

    From nearly no signal the weights of solvers with memory go to thousands, and cancel.
    """
    size = 8.0  # of the numbers in a loop that starts from normal noise
    ulp = size * np.finfo(float).eps
    errors = dict.fromkeys(range(len(plan.layout.slots) + 2), 0.0)
    for row in plan.rows:
        there, moved = (output_from_x0(plan.prediction, row.point, x, 0.0) for x in (0.0, 1.0))
        errors[1] = abs(moved - there) * errors[0]
        for value, terms in row.statements:
            errors[value] = sum(abs(w) * (errors.get(v, 0.0) + ulp) for v, w, _ in terms)
        kept = [errors.get(v, 0.0) for v in row.stores_from]
        errors = {0: errors[plan.layout.next_sample], **dict(enumerate(kept, start=2))}
    return errors[0]


def check_sentence(error, *names):
    """One sentence, which names what it is about."""
    text = str(error)
    assert "\n" not in text
    assert ". " not in text.replace("... ", ""), text
    assert len(text) < 400, text
    assert any(name in text for name in names), text


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=label)
@SOME
@given(
    curve=st.sampled_from(CURVES),
    spacing=st.sampled_from([*SPACINGS]),
    kind=st.sampled_from(PREDICTION_TYPES),
    projection=st.sampled_from(PROJECTIONS),
    end=st.sampled_from(["zero", "sigma_min"]),
    n=st.sampled_from([1, 2, 3, 7, 20]),
)
def test_any(name, options, curve, spacing, kind, projection, end, n):
    scheduler = cmsched.Scheduler(
        sampler=name,
        sampler_options=options,
        schedule=curve[0],
        schedule_options=curve[1],
        spacing=spacing,
        prediction_type=kind,
        final_sigmas_type=end,
        **projection,
    )
    try:
        plan = scheduler.plan(n)
        start, x = made(plan)
    except ValueError as error:
        check_sentence(error, name, spacing, "prediction_type", "alpha = 0", "ve frame")
        return
    points, entry = plan.grid.points, get(name)
    assert len(points) == n + 1
    assert all(a.ratio > b.ratio for a, b in itertools.pairwise(points))
    assert np.all(np.isfinite(x))
    first, last = points[0], points[-1]
    noise = (start - first.alpha * CENTRE) / first.sigma
    away = x / last.alpha - CENTRE
    if not entry.trait("stochastic", options):
        # between the steps of a table a time does not tell the level exactly
        if plan.traced or not isinstance(plan.grid.schedule, Betas):
            atol = min(max(1e-5, rounding(plan)), 0.05) if plan.traced else 1e-5
            np.testing.assert_allclose(away, last.ratio * noise, atol=atol)
    elif last.ratio == 0.0:
        if entry.trait("singular", options) and name not in NOISY_END:
            np.testing.assert_allclose(away, 0.0, atol=1e-9)
    elif entry.trait("exact", options):
        assert np.std(away) < 1.3 * last.ratio * max(1.0, np.std(noise))


@pytest.mark.parametrize("curve", [("flow", {}), ("cosine", {}), ("scaled_linear", ZERO_SNR)])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=label)
def test_all_noise(name, options, curve):
    """A start where alpha is 0: every sampler can, or is registered as one that cannot."""
    for kind, n in (("v_prediction", 1), ("sample", 2), ("flow_prediction", 5), ("trigflow", 9)):
        scheduler = cmsched.Scheduler(
            sampler=name,
            sampler_options=options,
            schedule=curve[0],
            schedule_options=curve[1],
            prediction_type=kind,
        )
        if not get(name).trait("singular", options):
            with pytest.raises(ValueError, match=name):
                made(scheduler.plan(n))
            continue
        plan = scheduler.plan(n)
        assert plan.points[0].alpha == 0.0
        assert np.all(np.isfinite(made(plan)[1]))


# beta is the variance of a step forward in the frame's own x, and a network's is that frame's too
OF_ITS_FRAME = {"fixed_large", "fixed_large_log", "learned", "learned_range"}
IN_EVERY_FRAME = [
    (name, options)
    for name, options in VARIANTS
    if get(name).traced
    and not get(name).given
    and options.get("variance") not in OF_ITS_FRAME
    and name != "euler_maruyama"  # the SDE of a frame
]


@pytest.mark.parametrize(("name", "options"), IN_EVERY_FRAME, ids=label)
@SOME
@given(
    curve=st.sampled_from(["linear", "cosine", "vp_sde", "ve_sde", "logarithmic", "flow"]),
    spacing=st.sampled_from([name for name in SPACINGS if name != "ipndm"]),
    n=st.integers(1, 9),
)
def test_frames_agree(name, options, curve, spacing, n):
    """The grid is one of levels, so a run is the same in every frame but for the factor alpha."""
    rng = np.random.default_rng(5)
    estimates, start = rng.normal(size=(10 * n, 4)), rng.normal(size=4)
    draws = {(i, k): rng.normal(size=4) for i in range(-1, 10 * n) for k in range(3)}
    in_time = SPACINGS[spacing].in_time  # the others are of sigma in flow
    frames = ["vp", "ve", *(["flow"] if in_time else [])]
    ends = []
    for frame in frames:
        scheduler = cmsched.Scheduler(
            sampler=name,
            sampler_options=options,
            schedule=curve,
            schedule_options={"frame": frame},
            spacing=spacing,
            prediction_type="sample",
            final_sigmas_type="zero" if get(name).trait("singular", options) else "sigma_min",
        )
        try:
            plan = scheduler.plan(n)
        except ValueError as error:
            check_sentence(error, name, spacing, "ve frame")
            assume(False)
        said = iter(estimates)
        path = interpret(
            plan,
            lambda x, at, said=said: next(said),
            start * plan.grid.points[0].alpha,
            lambda i, k: draws[i, k],
        )
        ends.append(path[-1] / plan.grid.points[-1].alpha)
    size = max(1.0, float(np.max(np.abs(ends[0]))))
    for x in ends[1:]:
        np.testing.assert_allclose(x, ends[0], rtol=1e-8, atol=1e-9 * size)


# options of the parts


def test_what_has_no_effect_is_said_once():
    for spacing, option in (
        ("trailing", {"sigma_min": 0.1}),
        ("ays_sdxl", {"sigma_max": 10.0}),
        ("linear_quadratic", {"sigma_min": 0.1}),
        ("karras", {"steps_offset": 1}),
    ):
        scheduler = cmsched.Scheduler(spacing=spacing, **option)
        with pytest.warns(UserWarning, match=f"{next(iter(option))} has no effect with spacing="):
            scheduler.plan(3)
        scheduler.plan(3)  # a second warning would be an error


def test_parts_reach_the_plan():
    """Each option does what it says, by the numbers of the plan."""
    points = cmsched.Scheduler(spacing="leading", steps_offset=1).plan(4).points
    assert [p.t for p in points] == [751, 501, 251, 1]
    options = {"spacing": "polyexponential", "spacing_options": {"rho": 2.0}}
    points = cmsched.Scheduler(**options, sigma_max=16.0, sigma_min=1.0).plan(3).points
    assert [p.ratio for p in points] == pytest.approx([16.0, 2.0, 1.0])
    flow = {"schedule": "flow", "prediction_type": "flow_prediction"}
    points = cmsched.Scheduler(**flow, shift=3.0).plan(4).points
    assert [p.sigma for p in points] == pytest.approx([1.0, 0.9, 0.75, 0.5])
    points = cmsched.Scheduler(**flow, spacing="linear_quadratic").plan(4).points
    assert [p.sigma for p in points][:3] == pytest.approx([1.0, 0.9875, 0.975])
    last = cmsched.Scheduler(final_sigmas_type="sigma_min", sigma_min=0.2, spacing="lu").grid(5)
    assert [last.points[-1].ratio, len({p.ratio for p in last.points})] == [pytest.approx(0.2), 6]
    last = cmsched.Scheduler(**flow, final_sigmas_type="sigma_min", sigma_min=0.1).grid(5)
    assert last.points[-1].sigma == pytest.approx(0.1)
    edm = cmsched.Scheduler(
        schedule="logarithmic", schedule_options={"sigma_data": 1.3}, prediction_type="edm"
    )
    assert edm.prediction.sigma_data == 1.3
    late = cmsched.Scheduler(sampler="euler_late_churn", prediction_type="v_prediction")
    assert late.plan(3).options["prediction_type"] == "v_prediction"
    learned = cmsched.Scheduler(sampler="ddpm", sampler_options={"variance": "learned_range"})
    assert learned.prediction.variance_head


def test_explicit_levels():
    """Lists instead of a spacing, on discrete and continuous schedules."""
    for schedule, times in (("vp_sde", [0.9, 0.4, 0.05]), ("trigflow", [1.5, 1.0, 0.2])):
        scheduler = cmsched.Scheduler(schedule=schedule)
        plan = scheduler.plan(timesteps=times)
        assert [p.t for p in plan.points] == times
        again = scheduler.plan(sigmas=[p.ratio for p in plan.points])
        assert [p.t for p in again.points] == pytest.approx(times)
    with pytest.raises(ValueError, match="decreasing"):
        scheduler.plan(timesteps=[0.2, 1.0])


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"spacing": "karas"}, ValueError, "did you mean 'karras'"),
        ({"schedule": "cosin"}, ValueError, "did you mean 'cosine'"),
        ({"schedule": "trigflow", "schedule_options": {"sigma_dta": 1.0}}, ValueError, "no option"),
        ({"spacing_options": {"rho": 7.0}}, TypeError, "'trailing' has no option 'rho'"),
        ({"spacing": "karras", "spacing_options": {"roh": 7.0}}, TypeError, "did you mean 'rho'"),
        (
            {"spacing": "karras", "spacing_options": {"rho": None}},
            TypeError,
            "rho must be a number",
        ),
        ({"spacing_options": 7}, TypeError, "spacing_options must be a dict"),
        ({"sigma_min": 0.0}, ValueError, "sigma_min must be positive"),
        ({"sigma_max": -1.0}, ValueError, "sigma_max must be positive"),
        ({"schedule": "flow", "shift": 0.0}, ValueError, "shift must be positive"),
        ({"shift": 3.0}, ValueError, "shift=3.0 is for flow schedules, not for 'scaled_linear'"),
        ({"steps_offset": -1}, ValueError, "steps_offset must be at least 0"),
        ({"final_sigmas_type": "sigma_mn"}, ValueError, "did you mean 'sigma_min'"),
        ({"prediction_type": "trigflo"}, ValueError, "did you mean 'trigflow'"),
    ],
)
def test_option_errors(options, kind, text):
    with pytest.raises(kind, match=text) as raised:
        cmsched.Scheduler(**options)
    check_sentence(raised.value, *options, "option", "rho")


@pytest.mark.parametrize(
    ("options", "n", "text"),
    [
        ({"spacing": "simple"}, 1001, "1001 simple timesteps over 1000 .* not all different"),
        ({"spacing": "normal", "sigma_min": 0.2}, 4, "4 normal steps go to .* below the 0.2 where"),
        ({"spacing": "exponential", "sigma_min": 200.0}, 4, "noise levels must go down, got 4"),
        ({"spacing": "ipndm", "schedule": "vp_sde"}, 4, "VPSDE never reaches alpha = 0"),
        ({"schedule": "flow", "prediction_type": "score"}, 4, "'score' does not determine x0"),
    ],
)
def test_plan_errors(options, n, text):
    end = {} if "sigma_min" not in options else {"final_sigmas_type": "sigma_min"}
    with pytest.raises(ValueError, match=text) as raised:
        cmsched.Scheduler(**options, **end).plan(n)
    check_sentence(raised.value, "simple", "normal", "noise levels", "alpha = 0", "prediction_type")


@pytest.mark.parametrize("curve", CURVES, ids=lambda c: "-".join([c[0], *c[1]]))
def test_plans_are_plain_data(curve):
    """Every schedule survives a file, in a configuration and in a plan."""
    scheduler = cmsched.Scheduler(
        sampler="ddim", schedule=curve[0], schedule_options=curve[1], prediction_type="v_prediction"
    )
    again = cmsched.Scheduler.from_config(json.loads(json.dumps(dict(scheduler.config))))
    plan = scheduler.plan(3)
    assert again.plan(3) == plan == cmsched.Plan.from_json(plan.to_json())
    assert math.isfinite(plan.points[0].t)
