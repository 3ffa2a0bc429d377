"""Linear forms: what a loop may do with its arrays, and what it is told when it does more."""

import math

import numpy as np
import pytest
from problems import a_plan, grid_of, registered

from cmsched.grids import Grid
from cmsched.plan import make_plan
from cmsched.predictions import Prediction
from cmsched.samplers import Evaluate, Store, register
from cmsched.schedules import VPSDE, Point
from cmsched.tracing import Form

pytestmark = pytest.mark.host


def plan_of(loop, n=3, *, stored=0, prediction=None, grid=None, **traits):
    """The plan of a loop registered for the moment."""
    with registered("probe"):
        register("probe", paper="this test", stored=stored, **traits)(loop)
        return make_plan("probe", grid or grid_of("linear", n), prediction or Prediction("sample"))


def coefficients(form):
    return {leaf: c for leaf, (c, _) in form.terms.items()}


def test_arithmetic_of_forms():
    x, y = Form.leaf("x", 0, 0), Form.leaf("d", 0, 0)
    form = 2 * x - y / 4 + (-x) * 0.5 + sum([y, x])
    assert coefficients(form) == {("x", 0, 0): 2.5, ("d", 0, 0): 0.75}


def test_rounding_residue_is_no_term():
    x, y = Form.leaf("x", 0, 0), Form.leaf("d", 0, 0)
    residue = (0.1 + 0.2) * x - 0.3 * x + y
    assert residue.terms[("x", 0, 0)][0] != 0
    assert residue.clean("here") == {("d", 0, 0): 1.0}
    small = 1e-30 * x + y
    assert small.clean("here") == {("x", 0, 0): 1e-30, ("d", 0, 0): 1.0}


def test_a_mask_gives_two_coefficients():
    x, y = Form.leaf("x", 0, 0), Form.leaf("d", 0, 0)
    mask = np.array([1.0, 0.0])
    inside = (mask * x + (1 - mask) * y).clean("here")
    assert inside[("x", 0, 0)].tolist() == [1.0, 0.0]
    assert inside[("d", 0, 0)].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("x * x", "product of two arrays"),
        ("x / x", "quotient of two arrays"),
        ("1.0 / x", "quotient of two arrays"),
        ("x + 1.0", "cannot add 1.0 to an array"),
        ("1.0 + x", "cannot add 1.0 to an array"),
        ("x - 1", "cannot add 1 to an array"),
        ("1 - x", "cannot add 1 to an array"),
        ("x + None", "cannot add None"),
        ("0.0 + x", "cannot add 0.0"),
    ],
)
def test_what_is_not_linear_is_refused(operation, words):
    def loop(x, grid, noise):
        for a, _ in grid.steps():
            x, _ = yield x, a
            x = eval(operation)
        return x

    with pytest.raises(TypeError, match=words):
        plan_of(loop)


@pytest.mark.parametrize("operation", ["x**2", "abs(x)", "x > 0", "math.sqrt(x)", "float(x)"])
def test_other_operations_fail(operation):
    def loop(x, grid, noise):
        for a, _ in grid.steps():
            x, _ = yield x, a
            eval(operation, {"math": math, "x": x})
        return x

    with pytest.raises(TypeError):
        plan_of(loop)


def test_a_missing_store_is_named():
    def loop(x, grid, noise):
        history = []
        for a, b in grid.steps():
            x, x0 = yield x, a
            history = [0.5 * x + x0, *history[:1]]
            x = b.alpha * x0 + sum(b.sigma * old for old in history)
        return x

    with pytest.raises(
        ValueError, match=r"stored=1 but needs 2 .*d\[-1\], x\[-1\].*yield Store\(x\)"
    ):
        plan_of(loop, stored=1, prediction=Prediction("epsilon"), grid=grid_of("linear", 3))
    assert len(plan_of(loop, stored=2).layout.slots) == 2


def test_store_keeps_one_array_and_changes_nothing():
    def loop(x, grid, noise, *, keep=True):
        old = None
        for a, b in grid.steps():
            x, x0 = yield x, a
            mixed = 0.5 * x + x0
            if keep:
                mixed = yield Store(mixed)
            x = b.alpha * x0 + b.sigma * (mixed if old is None else 0.5 * (mixed + old))
            old = mixed
        return x

    with registered("probe"):
        register("probe", paper="", stored=lambda o: 1 if o["keep"] else 2)(loop)
        kept = a_plan("probe")
        bare = a_plan("probe", {"keep": False})
        assert [slot[0] for slot in kept.layout.slots] == ["k"]
        assert [slot[0] for slot in bare.layout.slots] == ["d", "x"]


def test_store_before_the_first_evaluation_stores_nothing():
    def loop(x, grid, noise):
        x = yield Store(2 * x)
        for a, b in grid.steps():
            x, x0 = yield x, a
            x = b.alpha * x0
        return x

    plan = plan_of(loop)
    assert plan.start.terms == ((0, 2.0, 0),)
    assert plan.layout.slots == ()


def test_the_start_cannot_be_used_later():
    def loop(x, grid, noise):
        start = x
        for a, b in grid.steps():
            x, x0 = yield x, a
            x = b.alpha * x0 + 0.1 * start
        return x

    with pytest.raises(ValueError, match="'probe' uses an array from before its first evaluation"):
        plan_of(loop)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        ("b.alpha / b.sigma", "'probe' cannot take step 2 .*division by zero"),
        ("math.sqrt(-b.alpha)", "'probe' cannot take step 0 "),
        ("math.exp(1e4)", "'probe' cannot take step 0 "),
        ("math.inf", "probe, evaluation 0: the coefficient of .* is (inf|nan)"),
        ("math.inf - math.inf", "probe, evaluation 0: the coefficient of .* is nan"),
        ("b.lam", "probe, evaluation 2: the coefficient of .* is (inf|nan)"),
    ],
)
def test_steps_that_cannot_be_taken_name_sampler_and_step(factor, words):
    def loop(x, grid, noise):
        for a, b in grid.steps():
            x, x0 = yield x, a
            x = eval(factor, {"math": math, "b": b}) * x0 + x
        return x

    with pytest.raises(ValueError, match=words):
        plan_of(loop)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("return None", "'probe' returned None where an array"),
        ("yield x", "'probe' yielded .*yield x, point"),
        ("yield x, 3.0", "'probe' yielded .*yield x, point"),
        ("yield x, a, True", "'probe' yielded .*yield x, point"),
        ("yield Evaluate(x, 3.0)", "'probe' yielded .*yield x, point"),
        ("yield 3.0, a", "'probe' yielded 3.0 where an array"),
        ("yield Store(3.0)", "'probe' stored 3.0 where an array"),
    ],
)
def test_requests_that_are_none(bad, words):
    namespace = {"Evaluate": Evaluate, "Store": Store}
    exec(
        "def loop(x, grid, noise):\n    for a, b in grid.steps():\n        x, _ = yield x, a\n"
        f"        {bad}\n    return x\n",
        namespace,
    )
    with pytest.raises(TypeError, match=words):
        plan_of(namespace["loop"])


def test_a_loop_that_never_evaluates():
    def loop(x, grid, noise):
        return x
        yield

    with pytest.raises(ValueError, match="'probe' never evaluates the network"):
        plan_of(loop)


def test_an_evaluation_in_its_long_form():
    def short(x, grid, noise):
        for a, b in grid.steps():
            x, x0 = yield x, a
            x = b.alpha * x0 + b.sigma * x
        return x

    def long(x, grid, noise):
        for a, b in grid.steps():
            x, x0 = yield Evaluate(x, a)
            x = b.alpha * x0 + b.sigma * x
        return x

    assert plan_of(short).rows == plan_of(long).rows


@pytest.mark.parametrize("clip", [None, 1.0])
def test_raw_noise_and_projected_estimates(clip):
    def loop(x, grid, noise):
        for a, _ in grid.steps():
            x, x0, eps = yield Evaluate(x, a, eps=True)
            x = 0.25 * x0 + 0.5 * eps
        return x

    plan = plan_of(loop, prediction=Prediction("sample", clip=clip))
    at, ((_, terms), *_) = plan.rows[0].point, plan.rows[0].statements
    found = {v: c for v, c, _ in terms}
    output = -0.5 * at.alpha / at.sigma
    expected = {0: 0.5 / at.sigma, 1: output + 0.25}
    if clip is not None:
        expected |= {1: output, plan.layout.x0: 0.25}
    assert found == pytest.approx(expected, rel=1e-14)


def test_raw_noise_of_a_clean_sample():
    """Where sigma is 0 the noise estimate is not made of x and x0, but of the output itself."""
    grid = Grid((Point(0.0, 1.0, 0.0), Point(1.0, 0.6, 0.8)), VPSDE())
    for kind, x, m in (("epsilon", 0.6, 0.8), ("v_prediction", 0.6, 0.8), ("score", 0.6, 0.0)):
        terms = {
            v: c for v, c, _ in make_plan("ddim", grid, Prediction(kind)).rows[0].statements[0][1]
        }
        assert terms == pytest.approx({k: c for k, c in ((0, x), (1, m)) if c}, rel=1e-14)
    with pytest.raises(ValueError, match="does not determine eps"):
        make_plan("ddim", grid, Prediction("sample"))


def test_draws_that_are_not_used_are_not_drawn():
    def loop(x, grid, noise):
        for a, b in grid.steps():
            x, x0 = yield x, a
            noise(a, b)
            x = b.alpha * x0 + b.sigma * noise()
        return x

    plan = plan_of(loop, stochastic=True)
    assert plan.layout.draws == ((1, False),)
    assert [len(row.draws) for row in plan.rows] == [1, 1, 0]


def test_a_draw_remembered_is_stored():
    def loop(x, grid, noise):
        old = None
        for a, b in grid.steps():
            x, x0 = yield x, a
            z = noise()
            x = b.alpha * x0 + b.sigma * (z if old is None else 0.6 * z + 0.8 * old)
            old = z
        return x

    plan = plan_of(loop, stored=1, stochastic=True, n=4, grid=grid_of("linear", 4, end="last"))
    assert plan.layout.slots == (("z", 0, 1),)


def test_what_is_stored_does_not_grow_with_the_steps():
    for n in (12, 50):
        plan = a_plan("dpmpp_multistep", {"solver_order": 3, "third_order": "exact"}, n=n)
        assert plan.layout.slots == (("d", 0, 1), ("d", 0, 2))
