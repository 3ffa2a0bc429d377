"""Order of convergence of the deterministic samplers, and what is known of their structure.

The problem is a mixture in one dimension, whose exact solution keeps quantiles, on steps that are
long and short in turn between two finite lam.
"""

import dataclasses
import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from conftest import PROFILE
from exact import (
    FRAMES,
    Mixture,
    arrivals,
    grid_between,
    grid_singular,
    interpret,
    label,
    plan_between,
    variants,
)

import cmsched
from cmsched.engine import run
from cmsched.grids import Grid
from cmsched.plan import make_plan
from cmsched.predictions import Prediction
from cmsched.samplers import REGISTRY, get
from cmsched.schedules import VESDE, VPSDE, Betas, Cosine, Flow, Logarithmic, TrigFlow

pytestmark = pytest.mark.host

FLOOR = 1e-11
STEPS = tuple(15 * 2**k for k in range(6))  # whole groups of a singlestep method of order 3
THIRD = {"solver_order": 3, "third_order": "exact"}
QUANTILES = np.array([0.03, 0.2, 0.45, 0.7, 0.98])


def error(name, options, frame, n, *, history):
    """Largest error at the end, the first `history` steps landing on the exact solution."""
    plan, data = plan_between(name, tuple(options.items()), frame, n), Mixture()
    ends = arrivals(plan)

    def pin(i):
        between_steps = i + 1 < len(plan) and plan.steps[i] != plan.steps[i + 1]
        return data.quantiles(QUANTILES, ends[i]) if i < history and between_steps else None

    start = data.quantiles(QUANTILES, plan.grid.points[0])
    got = interpret(plan, data.estimate, start, pin=pin)[-1]
    exact = data.quantiles(QUANTILES, plan.grid.points[-1])
    return float(np.max(np.abs(got - exact))) / plan.grid.points[-1].alpha


def slope(errors):
    """Mean order over the last three halvings of the step above the floor."""
    errors = [e for e in errors if e > FLOOR][-4:]
    assert len(errors) == 4, f"too few errors above {FLOOR}: {errors}"
    assert all(b < a for a, b in itertools.pairwise(errors)), errors
    return math.log2(errors[0] / errors[-1]) / 3


@pytest.mark.parametrize("frame", ["vp"] if PROFILE == "dev" else FRAMES)
@pytest.mark.parametrize(("name", "options"), variants(stochastic=False), ids=label)
def test_order(name, options, frame, record_property):
    """The registry's order, neither less nor more, with exact history."""
    entry = get(name)
    order, stored = entry.trait("order", options), entry.trait("stored", options)
    steps = STEPS if not entry.trait("smooth", options) else tuple(2 * n for n in STEPS)
    if options.get("corrector"):  # what it changes of an exact history decays by an order per pass
        stored, steps = 4 * stored, tuple(2 * n for n in STEPS)
    errors = [error(name, options, frame, n, history=stored) for n in steps]
    measured = slope(errors)
    record_property("order", measured)
    assert order - 0.15 <= measured < order + 0.5, (order, measured, errors)


@pytest.mark.parametrize(("name", "options"), variants(stochastic=False), ids=label)
def test_order_from_a_cold_start(name, options):
    """Started without history a method takes its first step at order 1, which costs order 2."""
    order = get(name).trait("order", options)
    errors = [error(name, options, "vp", n, history=0) for n in STEPS]
    assert slope(errors) >= min(order, 2) - 0.15, errors


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unipc", {"solver_order": 3, "ramp_down": True}),
        ("dpmpp_multistep", {**THIRD, "euler_at_final": True}),
        ("deis", {"solver_order": 3, "ramp_down": True, "corrector": "unic"}),
        ("lms", {"euler_at_final": True}),
    ],
    ids=label,
)
def test_a_last_step_of_order_1_leaves_order_2(name, options):
    entry = get(name)
    assert entry.trait("order", options) == 2
    stored = entry.trait("stored", options)
    errors = [error(name, options, "vp", 2 * n, history=stored) for n in STEPS]
    assert abs(slope(errors) - 2) < 0.15, errors


@pytest.mark.parametrize(("name", "options"), variants(stochastic=False), ids=label)
def test_inversion(name, options):
    """From data to noise the same loop has the same order: the ODE runs both ways."""
    order, data, errors = get(name).trait("order", options), Mixture(), []
    for n in (60, 120, 240):
        down = plan_between(name, tuple(options.items()), "vp", n)
        points = down.grid.points[::-1]
        grid = dataclasses.replace(down.grid, points=points, init_scale=1.0)
        plan = make_plan(name, grid, down.prediction, options)
        got = interpret(plan, data.estimate, data.quantiles(QUANTILES, points[0]))[-1]
        errors.append(np.max(np.abs(got - data.quantiles(QUANTILES, points[-1]))))
    assert errors[0] / errors[2] > 4 ** (min(order, 2) - 0.25), errors


@pytest.mark.parametrize(("name", "options"), variants(stochastic=True), ids=label)
def test_inversion_needs_an_ode(name, options):
    points = grid_between(VPSDE(), 4).points[::-1]
    with pytest.raises(ValueError, match="goes from noise to data only"):
        make_plan(name, Grid(points, VPSDE()), Prediction(), options)


def test_the_published_third_order_is_not():
    """The second difference's weight doubled gains an order; at the same steps it is far closer."""
    errors = {
        third: error(
            "dpmpp_multistep", {"solver_order": 3, "third_order": third}, "vp", 512, history=2
        )
        for third in ("published", "exact")
    }
    assert errors["exact"] < errors["published"] / 50


@pytest.mark.parametrize("solver_order", [2, 3])
def test_steps_chosen_by_their_error(solver_order):
    """Error in proportion to the tolerance; steps to the inverse root of a local error's order."""
    data, schedule = Mixture(), VPSDE()
    grid = grid_between(schedule, 1)
    start, exact = (data.quantiles(QUANTILES, p) for p in grid.points)
    taken = []
    for tolerance in (1e-3, 1e-5):
        options = {"solver_order": solver_order, "rtol": tolerance, "atol": tolerance}
        options["h_init"] = 6.0  # in lam, longer than the whole way
        plan = make_plan("dpm_adaptive", grid, Prediction("sample"), options)
        got, info = run(
            lambda x, t: data.estimate(x, schedule.at(t=float(t))),
            plan,
            start / grid.init_scale,
            return_info=True,
        )
        off = np.max(np.abs(got - exact)) / grid.points[-1].alpha
        assert 0.1 * tolerance < off < 4 * tolerance
        assert info["rejected"] > 0
        assert info["evaluations"] == solver_order * (info["accepted"] + info["rejected"])
        taken.append(info["accepted"])
    assert taken[1] / taken[0] == pytest.approx(100 ** (1 / solver_order), rel=0.3)


# structure


@pytest.mark.parametrize("name", REGISTRY)
def test_stored_and_evaluations(name):
    """The registered figures are reached, and stored arrays do not grow with the steps."""
    entry = get(name)
    if not entry.traced:
        return
    reached = Counter()
    for _, options in (v for v in variants() if v[0] == name):
        stored = {
            n: len(plan_between(name, (*options.items(),), "vp", n).layout.slots) for n in (12, 50)
        }
        registered = entry.trait("stored", options)
        if options.get("corrector"):  # what it keeps may be what the sampler keeps
            assert stored[12] == stored[50] <= registered, options
        else:
            assert stored[12] == stored[50] == registered, options
        plan = plan_between(name, (*options.items(),), "vp", 50)
        assert set(plan.steps) == set(range(50))
        reached.update(Counter(plan.steps).values())
    if name != "repaint":
        assert reached.most_common(1)[0][0] == entry.evaluations
    if name not in ("plms", "pndm", "repaint"):  # warm-ups, and steps taken again
        assert set(reached) == {entry.evaluations}


@pytest.mark.parametrize("name", ["euler_ancestral", "ddim", "euler", "dpmpp_multistep"])
def test_first_order_steps_read_two_arrays(name):
    """A first-order step folds to the sample, the output and its draws."""
    options = {"solver_order": 1} if name == "dpmpp_multistep" else {}
    for frame in FRAMES:
        plan = plan_between(name, (*options.items(),), frame, 12)
        assert all(len(terms) <= 2 + len(plan.layout.draws) for terms in plan.layout.sums)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow_prediction"])
@pytest.mark.parametrize(("name", "options"), variants(), ids=label)
def test_structure_does_not_depend_on_rounding(name, options, kind):
    """Many schedules, one layout: a term that is zero but for rounding is no term."""
    if options.get("prediction_type", kind) != kind:
        options = {**options, "prediction_type": kind}
    rng = np.random.default_rng(3)
    layouts = set()
    for _ in range(5 if PROFILE == "dev" else 50):
        low, high = rng.uniform(-4, -1), rng.uniform(1, 4)
        schedule = [VPSDE(beta_max=rng.uniform(15, 25)), Flow(frame="vp"), Betas(beta_end=0.02)]
        grid = grid_between(schedule[rng.integers(3)], 6, low, high)
        layouts.add(make_plan(name, grid, Prediction(kind), options).layout)
    assert len(layouts) == 1


# samplers that are one another


def weights(plan):
    """A plan's rows as numbers."""
    return [
        {(value, v): c for value, terms in row.statements for v, c, _ in terms} for row in plan.rows
    ]


def assert_same_rows(a, b, tolerance=1e-12):
    for left, right in zip(weights(a), weights(b), strict=True):
        for key in left.keys() | right.keys():
            assert left.get(key, 0.0) == pytest.approx(
                right.get(key, 0.0), rel=tolerance, abs=1e-15
            )


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("euler", {}), ("ddim", {})),
        (("euler_late_churn", {}), ("ddim", {})),
        (("euler_ancestral", {}), ("ddim", {"eta": 1.0})),
        (("ddpm", {}), ("ddim", {"eta": 1.0})),
        (("dpmpp_multistep", {"solver_order": 1}), ("ddim", {})),
        (("dpm_multistep", {"solver_order": 1}), ("ddim", {})),
        (("dpmpp_multistep", {"solver_order": 1, "eta": 1.0}), ("ddim", {"eta": 1.0})),
    ],
    ids=lambda v: f"{v[0]}({label(v[1])})",
)
def test_same_by_two_names(one, other, frame):
    a, b = (plan_between(name, (*options.items(),), frame, 20) for name, options in (one, other))
    assert_same_rows(a, b)


def test_zero_length_steps_change_nothing():
    """Two equal points (a grid that ends on its own last level) are a step of length zero."""
    schedule = VPSDE()
    for name, options in variants(stochastic=False):
        if name == "dpm_fast" or "singlestep" in name:  # one step more is another choice of points
            continue
        if name == "unipc" or options.get("corrector"):  # one evaluation more corrects the end
            continue
        grid = grid_between(schedule, 6)
        doubled = type(grid)((*grid.points, grid.points[-1]), schedule)
        plan = make_plan(name, doubled, FRAMES["vp"][1], options)
        data = Mixture()
        path = interpret(plan, data.estimate, data.quantiles(QUANTILES, grid.points[0]))
        last = len(plan) - plan.steps.count(6)
        np.testing.assert_allclose(path[-1], path[last], rtol=1e-12)


# beta is the variance of a step forward in the frame's own x, and a network's is that frame's too
OF_ITS_FRAME = {"fixed_large", "fixed_large_log", "learned", "learned_range"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        v
        for v in variants()
        if v[1].get("variance") not in OF_ITS_FRAME and v[0] != "euler_maruyama"
    ],
    ids=label,
)
def test_frames_agree(name, options):
    """One curve in three frames: the same samples after x / alpha, for the same draws."""
    kind = options.get("prediction_type", "sample")
    rng = np.random.default_rng(5)
    n = 9
    estimates = rng.normal(size=(9 * n, 4))
    draws = {(i, k): rng.normal(size=4) for i in range(-1, 9 * n) for k in range(3)}
    start = rng.normal(size=4)
    ends = []
    for frame in ("vp", "ve", "flow"):
        grid = grid_between(VPSDE(frame=frame), n)
        plan = make_plan(name, grid, Prediction(kind), options)
        said = iter(estimates)
        path = interpret(
            plan,
            lambda x, at, said=said: next(said),
            start * grid.points[0].alpha,
            lambda i, k: draws[i, k],
        )
        ends.append(path[-1] / grid.points[-1].alpha)
    for x in ends[1:]:
        np.testing.assert_allclose(x, ends[0], rtol=1e-11, atol=1e-12)


# steps at the singular ends


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("frame", ["vp", "flow"])
@pytest.mark.parametrize(("name", "options"), variants(), ids=label)
def test_from_alpha_zero_to_sigma_zero(name, options, frame, kind):
    """Zero terminal SNR and flow at sigma = 1: finite, or one sentence that says why not."""
    schedule = Flow() if frame == "flow" else Betas(rescale_betas_zero_snr=True)
    if "prediction_type" in options:
        options = {**options, "prediction_type": kind}
    singular = get(name).trait("singular", options)
    for n in (1, 2, 3, 6):
        raised = 0
        for start, end in ((True, True), (False, True), (True, False)):
            grid = grid_singular(schedule, n, start=start, end=end)
            plan, said = None, ""
            try:
                plan = make_plan(name, grid, Prediction(kind), options)
            except ValueError as error:
                said = str(error)
            if plan is None:
                assert not singular, said
                assert re.search(r"cannot (take )?step .*; use|has no", said), said
                raised += 1
                continue
            numbers = [c for row in weights(plan) for c in row.values()]
            assert np.all(np.isfinite(numbers))
            assert max(map(abs, numbers)) < 30
        assert singular or raised


def test_history_does_not_reach_back_to_alpha_zero():
    """The estimate made at lam = -inf has no place in a difference quotient."""
    grid = grid_singular(Flow(), 8)
    plan = make_plan("dpmpp_multistep", grid, Prediction("sample"), {"solver_order": 3})
    memory = [
        {v for _, terms in row.statements for v, _, _ in terms if 2 <= v < 4} for row in plan.rows
    ]
    assert memory[:4] == [set(), set(), {2}, {2, 3}]
    # nor does it count for the order: with one finite node before it, that is a step of order 2
    second = make_plan("dpmpp_multistep", grid, Prediction("sample"), {"solver_order": 2})
    third_of = [
        sorted(c for _, terms in p.rows[2].statements for _, c, _ in terms) for p in (plan, second)
    ]
    assert third_of[0] == pytest.approx(third_of[1], rel=1e-14)
    assert memory[-1] == set()


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({}, [0, 1, 2, 2, 2, 2]),
        ({"ramp_down": True}, [0, 1, 2, 2, 1, 0]),
        ({"euler_at_final": True}, [0, 1, 2, 2, 2, 0]),
    ],
    ids=label,
)
def test_lower_orders_at_the_end(options, reads):
    """How many earlier estimates each step of a method of order 3 reads."""
    grid = grid_between(VPSDE(), 6)
    options = {"solver_order": 3, **options}
    plan = make_plan("dpmpp_multistep", grid, Prediction("sample"), options)
    memory = [
        {v for _, terms in row.statements for v, _, _ in terms if 2 <= v < 4} for row in plan.rows
    ]
    assert [len(read) for read in memory] == reads


def test_heun_is_euler_at_both_ends():
    """No second evaluation where its level is infinite or zero."""
    for schedule in (Flow(), Betas(rescale_betas_zero_snr=True)):
        plan = make_plan("heun", grid_singular(schedule, 5), Prediction("v_prediction"))
        assert plan.steps == (0, 1, 1, 2, 2, 3, 3, 4)


@pytest.mark.parametrize(("name", "options"), variants(), ids=label)
def test_epsilon_at_alpha_zero(name, options):
    grid = grid_singular(Flow(), 4, end=False)
    singular = get(name).trait("singular", options)
    with pytest.raises(ValueError, match="v_prediction" if singular else "cannot|has no"):
        make_plan(name, grid, Prediction("epsilon"), options)


# options


def test_option_errors_name_the_value_and_the_nearest():
    grid = grid_between(Logarithmic(), 3)
    prediction = Prediction("edm")
    for name, options, kind, text in [
        ("ddim", {"etta": 1.0}, TypeError, "did you mean 'eta'"),
        ("ddim", {"eta": -0.5}, ValueError, "eta must be at least 0, got -0.5"),
        ("ddim", {"eta": math.nan}, TypeError, "eta must be a number"),
        ("ddim", {"eta": "1"}, TypeError, "eta must be a number, got '1'"),
        ("ddim", {"eta": True}, TypeError, "eta must be a number"),
        ("ddpm", {"variance": "fixed_smal"}, ValueError, "did you mean 'fixed_small'"),
        (
            "dpmpp_multistep",
            {"solver_order": 4},
            ValueError,
            "solver_order=4 is not one of 1, 2, 3",
        ),
        ("dpmpp_multistep", {"solver_order": True}, ValueError, "solver_order=True"),
        ("dpmpp_multistep", {"solver_type": "mid"}, ValueError, "midpoint"),
        ("dpm_multistep", {"third_order": "exakt"}, ValueError, "did you mean 'exact'"),
        ("euler", {"s_churn": -1}, ValueError, "s_churn"),
        ("dpmpp_multistp", {}, ValueError, "did you mean 'dpmpp_multistep'"),
    ]:
        with pytest.raises(kind, match=text):
            make_plan(name, grid, prediction, options)


def test_options_are_plain_numbers():
    """Options given as NumPy numbers are kept as Python's, so a recipe is JSON."""
    plan = make_plan(
        "dpmpp_multistep",
        grid_between(VPSDE(), 4),
        Prediction(),
        {"eta": np.float32(0.5), "solver_order": np.int64(2)},
    )
    assert type(plan.options["eta"]) is float
    assert type(plan.options["solver_order"]) is int
    assert type(plan).from_json(plan.to_json()) == plan


@pytest.mark.parametrize("eta", [1.5, 4.0])
def test_more_than_all_noise_is_all_noise(eta):
    """A large eta is cut where the step has no room for more noise, and marginals stay exact."""
    plan = make_plan("ddim", grid_between(VPSDE(), 4), Prediction("sample"), {"eta": eta})
    for row, b in zip(weights(plan), arrivals(plan), strict=True):
        draw = row[plan.layout.next_sample, plan.layout.first_draw]
        assert draw <= b.sigma * (1 + 1e-15)


def test_churn_of_a_resumed_run_is_the_whole_runs():
    """The noise added per step depends on the steps of the whole run, not of what is left."""
    options = {"s_churn": 3.0}
    plan = make_plan("euler", grid_between(VPSDE(), 10), Prediction(), options)
    rest = plan.skip(4)
    assert rest.points == plan.points[4:]
    assert rest.skip(3).points == plan.points[7:]


# equalities and limits of single samplers


def test_the_corrector_of_another_sampler_is_unipcs():
    """DDIM with UniC-1 is UniPC-1, for x0 and, between finite levels, for eps."""
    for predict_x0 in (True, False):
        for end in (True, False) if predict_x0 else (False,):
            grid = grid_singular(VPSDE(), 6, start=False, end=end)
            own = (("solver_order", 1), ("predict_x0", predict_x0))
            ends = []
            for name, options in (
                ("ddim", {"corrector": own}),
                ("unipc", {"solver_order": 1, "predict_x0": predict_x0}),
            ):
                plan = make_plan(name, grid, Prediction("sample"), options)
                start = Mixture().quantiles(QUANTILES, grid.points[0])
                ends.append(interpret(plan, Mixture().estimate, start)[-1])
            np.testing.assert_allclose(*ends, rtol=1e-12)


def test_a_corrector_has_the_order_of_its_sampler():
    deis = get("deis")
    for chosen in ("unic", {}, (("solver_type", "bh1"),), {"predict_x0": False}):
        options = {"solver_order": 3, "corrector": chosen}
        assert deis.trait("order", options) == (4 if chosen else 3)
    with pytest.raises(TypeError, match="did you mean 'solver_type'"):
        deis.complete({"corrector": {"solver_tipe": "bh1"}})


@pytest.mark.parametrize(
    "schedule", [VPSDE(), Flow(), Cosine(), TrigFlow(), Flow(rising=True)], ids=str
)
def test_slopes_of_curves(schedule):
    """d lam / dt against a difference of fourth order, near both ends of time too."""
    top = 1000.0 if isinstance(schedule, Flow) else 1.0
    for t in (0.003 * top, 0.4 * top, 0.9 * top):
        h = 1e-4 * t
        lam = [-math.log(schedule.ratio_at(t + k * h)) for k in (-2, -1, 1, 2)]
        slope = (lam[0] - 8 * lam[1] + 8 * lam[2] - lam[3]) / (12 * h)
        assert schedule.slope(t) == pytest.approx(slope, rel=1e-9)


def test_the_adaptive_solver_stops_where_it_cannot_go_on():
    grid = grid_between(VPSDE(), 4)
    noise = np.ones((2, 3))
    for options, words in (
        ({"h_init": 0.0}, "h_init=0"),
        ({"accept_safety": 3.0}, "accept_safety=3"),
        ({"rtol": 0.0, "atol": 1e-100}, "no step is short enough"),
    ):
        plan = make_plan("dpm_adaptive", grid, Prediction("sample"), options)
        with pytest.raises(ValueError, match=words):
            cmsched.run(lambda x, t: np.sin(x), plan, noise)


def test_equal_grids_give_equal_rows():
    """Whether two points are one object does not matter."""
    whole = Grid(tuple(Betas().at(t=t) for t in (900.0, 600.0, 300.0, 0.0)), Betas(), integral=True)
    copy = dataclasses.replace(whole, ends=tuple(map(dataclasses.replace, whole.points[1:])))
    for name in ("plms", "tcd", "ddim"):
        plans = [make_plan(name, grid, Prediction()) for grid in (whole, copy)]
        assert plans[0].rows == plans[1].rows


def test_a_consistency_function_where_it_stops():
    """The loop and its table agree at sigma_min, where the output says nothing."""
    schedule = VESDE(sigma_data=0.5)
    points = tuple(schedule.at(ratio=r) for r in (10.0, 1.0, 0.002))
    grid = Grid((*points, schedule.point(0.0, 0.0)), schedule)
    noise = np.ones((1, 3))
    for name in ("ddim", "lms", "unipc"):
        plan = make_plan(name, grid, Prediction("consistency", sigma_min=0.002))
        ways = [way(lambda x, t: np.sin(x), plan, noise) for way in (cmsched.sample, cmsched.run)]
        np.testing.assert_allclose(*ways, rtol=1e-12)
