"""Plans: equality, storage, tables, and what goes wrong when one is made."""

import copy
import dataclasses
import gc
import json
import math
import pickle
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    PROJECTIONS,
    SCHEDULES,
    a_plan,
    grid_of,
    network,
    plans,
    prediction_of,
    registered,
    start_of,
    traced_variants,
)

import cmsched
from cmsched import Plan, make_plan
from cmsched.grids import Grid
from cmsched.listing import _finite, _infinite
from cmsched.plan import PLAN_CACHE_SIZE, Table, _cache
from cmsched.predictions import Prediction
from cmsched.samplers import register
from cmsched.schedules import Schedule


def anew(make, *args):
    """What `make` gives while no plan is kept."""
    _cache.clear()
    return make(*args)


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_stored_plans_are_the_same_plan(sampler, options):
    @settings(max_examples=10)
    @given(plans(sampler, options))
    def check(plan):
        text = plan.to_json()
        json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
        stored = pickle.dumps(plan)
        for other in (
            anew(Plan.from_json, text),
            anew(pickle.loads, stored),
            anew(make_plan, sampler, plan.grid, plan.prediction, options),
        ):
            assert other is not plan
            assert other == plan
            assert hash(other) == hash(plan)
            assert (other.rows, other.start, other.layout) == (plan.rows, plan.start, plan.layout)
            assert other.steps == plan.steps
        assert copy.deepcopy(plan) is plan  # which nothing changes
        assert plan.describe().count("\n  ") >= len(plan)

    check()


def test_infinite_numbers_survive_json():
    for schedule in ("flow", "zero_snr", "edm"):
        plan = a_plan("ddim", schedule=schedule, end="zero", kind="v_prediction")
        other = Plan.from_json(plan.to_json())
        assert math.isinf(plan.grid.points[-1].lam)
        assert [p.lam for p in other.grid.points] == [p.lam for p in plan.grid.points]
    assert Plan.from_json(a_plan("euler", {"s_churn": 5.0}).to_json()).options["s_tmax"] == math.inf
    numbers = {"a": [math.inf, -math.inf, 1.0], "b": "inf"}
    assert _infinite(json.loads(json.dumps(_finite(numbers), allow_nan=False))) == numbers


def test_plans_differ_where_their_recipes_do():
    base = a_plan("ddim")
    others = [
        a_plan("ddim", {"eta": 0.5}),
        a_plan("ddim", n=6),
        a_plan("ddim", schedule="linear"),
        a_plan("ddim", end="zero"),
        a_plan("ddim", kind="v_prediction"),
        a_plan("ddim", projection="clip"),
        a_plan("euler"),
    ]
    assert len({base, *others}) == len(others) + 1
    assert base == a_plan("ddim", {"eta": 0.0})
    assert base != "ddim"
    assert {base: 1}[a_plan("ddim")] == 1


def test_a_plan_cannot_be_changed():
    plan = a_plan("ddim")
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.sampler = "euler"
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.layout.slots = ()
    with pytest.raises(TypeError):
        plan.options["eta"] = 1.0
    with pytest.raises(AttributeError):
        plan.rows[0].stores_from = ()
    plan.timesteps[:] = 0
    assert plan.timesteps[0] == 999


def test_length_counts_evaluations():
    assert len(a_plan("ddim", n=4)) == 4
    heun = a_plan("heun", n=4, end="zero")
    assert len(heun) == 7
    assert heun.steps == (0, 0, 1, 1, 2, 2, 3)
    assert len(heun.timesteps) == len(heun.points) == 7
    assert heun.timesteps.dtype == np.int64
    assert a_plan("ddim", schedule="edm").timesteps.dtype == np.float64


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_skip_is_a_plan_on_the_rest_of_the_grid(sampler, options):
    plan = a_plan(sampler, options, n=5)
    points = plan.grid.points
    for k in range(5):
        whole = plan.grid  # of which the rest remembers that something came before it
        rest = Grid(points[k:], whole.schedule, points[k].sigma, whole.integral, first_step=k)
        skipped, fresh = plan.skip(k), anew(make_plan, sampler, rest, plan.prediction, options)
        assert skipped is not fresh
        assert skipped.rows == fresh.rows
        assert len(plan.skip(k).grid) == 5 - k
    for k in (-1, 5, 6):
        with pytest.raises(ValueError, match=f"skip {k} of 5 steps"):
            plan.skip(k)


def test_skip_warms_a_multistep_method_up_again():
    plan = a_plan("dpmpp_multistep", {"solver_order": 3}, n=6).skip(2)
    assert [len(row.statements[-1][1]) for row in plan.rows] == [2, 3, 4, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a plan"),
        ("[1, 2]", "not a plan.*cmsched"),
        ("{}", "not a plan.*cmsched"),
        ('{"cmsched": "plan 1"}', "not a plan: KeyError: 'prediction'"),
        ('{"cmsched": "plan 2"}', "plan 1"),
    ],
)
def test_texts_that_are_no_plan(text, words):
    with pytest.raises(ValueError, match=words):
        Plan.from_json(text)


def test_damaged_plans():
    good = json.loads(a_plan("ddim").to_json())
    damages = [
        ({"sampler": "ddin"}, "sampler='ddin'.*'ddim'"),
        ({"options": {"etta": 1.0}}, "not a plan.*etta"),
        ({"options": None}, None),
        ({"grid": {}}, "not a plan: KeyError"),
        ({"grid": []}, "not a plan"),
        ({"prediction": {**good["prediction"], "type": "epsilom"}}, "prediction_type='epsilom'"),
        ({"prediction": {**good["prediction"], "extra": 1}}, "not a plan.*extra"),
    ]
    for damage, words in damages:
        text = json.dumps({**good, **damage})
        if words is None:
            assert Plan.from_json(text) == a_plan("ddim")
            continue
        with pytest.raises(ValueError, match=words):
            Plan.from_json(text)


def test_unknown_names_get_the_nearest_one():
    grid, prediction = grid_of("linear", 3), Prediction()
    with pytest.raises(ValueError, match=r"sampler='dimm'.*did you mean 'ddim'"):
        make_plan("dimm", grid, prediction)
    with pytest.raises(TypeError, match="'ddim' has no option 'etta'; did you mean 'eta'"):
        make_plan("ddim", grid, prediction, {"etta": 1})
    with pytest.raises(TypeError, match=r"eta.*function"):
        make_plan("ddim", grid, prediction, {"eta": lambda: 1})


def test_options_become_plain_data():
    plan = make_plan("ddim", grid_of("linear", 3), Prediction(), {"eta": np.float32(0.5)})
    assert type(plan.options["eta"]) is float
    assert Plan.from_json(plan.to_json()) == plan


def test_outputs_that_say_nothing_at_zero_snr():
    for kind in ("epsilon", "score", "scaled_score"):
        with pytest.raises(ValueError, match=f"{kind}.*alpha is 0.*v_prediction"):
            a_plan("ddim", schedule="zero_snr", kind=kind)


def test_the_table_is_placed_once(xp):
    plan = a_plan("ddpm", schedule="edm")
    x, y = xp.asarray(start_of((2, 3))), xp.asarray(start_of((2, 3)), "float32")
    table = plan.on(x)
    assert plan.on(x) is table
    assert plan.on(y) is not table
    assert isinstance(table, Table)
    assert table.layout is plan.layout
    assert len(table) == len(plan)
    for like, one in ((x, table), (y, plan.on(y))):
        assert one.numbers.dtype == one.start.dtype == like.dtype
        assert str(one.where.dtype).endswith("int32")


def test_half_precision_has_a_table_in_single(xp):
    if not hasattr(xp.xp, "float16"):
        assert xp.name == "strict"
        return
    x = xp.asarray(start_of((2, 3)), "float16")
    assert a_plan("ddim").on(x).numbers.dtype == xp.xp.float32


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_have_the_right_type(xp, schedule):
    plan = a_plan("ddim", schedule=schedule, kind="v_prediction")
    dtypes = ["float64", "float32", *(["float16"] if hasattr(xp.xp, "float16") else [])]
    for dtype in dtypes:
        x = xp.asarray(start_of((2, 3)), dtype)
        real = {"float64": "float64", "float32": "float32", "float16": "float32"}[dtype]
        name = "int64" if plan.grid.integral else real
        for shape in (None, (), (2,), (2, 3)):
            index = 0 if shape is None else xp.asarray(np.zeros(shape, np.int32))
            scaled, t = cmsched.model_input(plan, cmsched.init(plan, x, index=index))
            assert str(t.dtype).endswith(name)
            assert tuple(t.shape) == (shape or ())
            assert scaled.dtype == x.dtype
            assert np.all(xp.numpy(t) == np.asarray(plan.timesteps[0], name))


def test_the_input_is_scaled(xp):
    plan = a_plan("ddim", schedule="edm")
    x = xp.asarray(start_of((2, 3)))
    for index in (0, xp.asarray(np.zeros((), np.int32))):
        state = cmsched.init(plan, x, index=index)
        scaled, _ = cmsched.model_input(plan, state)
        scale = plan.points[0].scale
        assert scale == pytest.approx(1 / math.hypot(0.5, 40.0))
        assert np.allclose(xp.numpy(scaled), xp.numpy(state.sample) * scale, rtol=1e-15)


@given(st.integers(1, 200))
@settings(max_examples=20)
def test_layouts_do_not_depend_on_the_length(n):
    layouts = {a_plan("dpmpp_multistep", {"solver_order": 3}, n=m).layout for m in (n + 3, n + 4)}
    assert len(layouts) == 1


def test_layouts_do_not_depend_on_the_numbers():
    for sampler, options in [p.values for p in traced_variants()]:
        if options.get("s_churn"):
            continue  # which rows churn is a matter of the levels
        one = a_plan(sampler, options, schedule="linear", n=7)
        two = a_plan(sampler, options, schedule="scaled_linear", n=7)
        assert one.layout == two.layout, sampler


def test_a_line_says_what_a_plan_is():
    heun = cmsched.HeunDiscreteScheduler().plan(5)
    assert repr(heun) == "Plan(heun, 9 evaluations, ve, t 999 ... 0)"
    assert repr(heun.skip(4)) == "Plan(heun, 1 evaluation, ve, t 0 ... 0)"
    adaptive = cmsched.from_a1111("DPM adaptive").plan(5)
    assert repr(adaptive).startswith("Plan(dpm_adaptive, steps of its own, ve, t 999 ...")
    several = cmsched.stack([heun] * 4, capacity=64)
    assert repr(several) == f"Stack(4 plans, capacity 64: {', '.join([repr(heun)] * 3)}, ...)"


def test_nothing_times_a_value_is_not_described():
    plan = cmsched.DDIMScheduler(prediction_type="sample", clip_sample=False).plan(3)
    text = plan.describe()
    assert "x0 = 1 output" in text
    assert "0 x " not in text.replace("0.0", "")


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_plan_describes_itself(projection):
    text = a_plan("dpmpp_multistep", {"eta": 1.0}, projection=projection, n=3).describe()
    assert text.startswith("dpmpp_multistep: 3 evaluations, stored 1\nstart   x = ")
    assert ("project(" in text) == (projection != "none")
    assert "z0" in text
    assert "x0[-1]" in text


def test_schedules_of_ones_own_say_that_json_cannot_hold_them():
    class Mine(Schedule):
        def ratio_at(self, t):
            return t

        def time_at(self, ratio):
            return ratio

    schedule = Mine("ve")
    grid = Grid(tuple(schedule.at(t=t) for t in (3.0, 2.0, 1.0)), schedule, 3.0)
    plan = make_plan("ddim", grid, prediction_of("epsilon", "none", {}))
    with pytest.raises(TypeError, match=r"Mine has no name.*schedules.register"):
        plan.to_json()


def test_tables_have_no_int_index(xp):
    plan = a_plan("ddim")
    x = xp.asarray(start_of((2, 3)))
    model = network(xp.xp, plan.prediction)
    state = cmsched.init(plan.on(x), x)
    assert tuple(state.index.shape) == ()
    assert np.array_equal(
        xp.numpy(cmsched.sample(model, plan.on(x), x)),
        xp.numpy(cmsched.sample(model, plan.on(x), x)),
    )


def test_an_equal_recipe_gives_the_same_plan():
    scheduler, other = cmsched.UniPCMultistepScheduler(), cmsched.UniPCMultistepScheduler()
    plan = scheduler.plan(20)
    assert scheduler.plan(20) is other.plan(20) is plan
    assert pickle.loads(pickle.dumps(plan)) is copy.deepcopy(plan) is plan
    assert Plan.from_json(plan.to_json()) is plan
    assert plan.skip(3) is plan.skip(3)
    for one, two in ((scheduler, other), (other, scheduler)):
        one.set_timesteps(20)
        assert one.plan(20) is two.plan(20) is plan


def test_only_the_last_plans_are_kept(xp):
    def plan_of(n):
        return a_plan("ddim", n=n)

    x = xp.asarray(start_of((2, 3)))
    first, second = plan_of(2), weakref.ref(plan_of(3))
    table = second().on(x)
    for n in range(4, PLAN_CACHE_SIZE + 3):
        plan_of(n)
        assert plan_of(2) is first  # asked for again and again
    assert len(_cache) == PLAN_CACHE_SIZE
    gc.collect()
    assert second() is None
    again = plan_of(3)
    assert np.array_equal(xp.numpy(again.on(x).numbers), xp.numpy(table.numbers))


def counted(traces, scale):
    """A loop that tells when it is traced."""

    def loop(x, grid, noise):
        traces.append(scale)
        time.sleep(0.001)  # other threads have their turn
        for a, b in grid.steps():
            x, x0 = yield x, a
            x = (b.sigma / a.sigma) * x + (scale * (b.alpha - a.alpha * b.sigma / a.sigma)) * x0
        return x

    return loop


def test_threads_that_ask_at_once_get_one_plan():
    traces, barrier, grid = [], Barrier(8), grid_of("linear", 50)

    def ask(_):
        barrier.wait()
        return [make_plan("probe", grid.until(n), Prediction()) for n in (50, 49, 48)]

    with registered("probe"):
        register("probe", paper="this test")(counted(traces, 1.0))
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(ask, range(8)))
    assert len(traces) == 3
    assert len({id(plan) for plans in found for plan in plans}) == 3
    assert [len(plan) for plan in found[0]] == [50, 49, 48]


def test_a_name_registered_anew_means_the_new_loop():
    traces, grid, plans = [], grid_of("linear", 3), []
    for scale in (1.0, 2.0):
        with registered("probe"):
            register("probe", paper="this test", exact=scale == 1.0)(counted(traces, scale))
            plans += [make_plan("probe", grid, Prediction()) for _ in range(2)]
    assert traces == [1.0, 2.0]
    assert plans[0] is plans[1]
    assert plans[2] is plans[3]
    assert plans[0].rows != plans[2].rows


def test_equal_options_of_other_kinds_are_other_recipes():
    grid, prediction = grid_of("linear", 4), Prediction()
    make_plan("unipc", grid, prediction, {"disable_corrector": (1,)})
    with pytest.raises(ValueError, match=r"disable_corrector.*\(True,\)"):
        make_plan("unipc", grid, prediction, {"disable_corrector": (True,)})


def test_schedules_of_ones_own_may_hold_what_they_do_not_compare():
    class Bent(Schedule):
        def ratio_at(self, t):
            return t

        def time_at(self, ratio):
            return ratio * self.factor

    plans = []
    for factor in (1.0, 2.0):
        schedule = Bent("ve")
        object.__setattr__(schedule, "factor", factor)
        grid = Grid(tuple(schedule.at(t=t) for t in (3.0, 2.0, 1.0)), schedule, 3.0)
        plans.append(make_plan("dpm2", grid, Prediction()))
    assert plans[0].grid == plans[1].grid
    assert 2 * plans[0].points[1].t == plans[1].points[1].t


def test_lists_become_tuples():
    grid = grid_of("linear", 3)
    same = Grid([*grid.points], grid.schedule, grid.init_scale, grid.integral)
    prediction = Prediction(threshold=[0.9, 1.5])
    plan = make_plan("ddim", same, prediction)
    assert plan is make_plan("ddim", grid, Prediction(threshold=(0.9, 1.5)))
    assert hash(same) == hash(grid)
