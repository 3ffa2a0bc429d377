"""Tables in which a run may begin at any step: each run is that of the plan of the rest."""

import itertools
import sys

import numpy as np
import pytest
from problems import a_plan, given_of, network, registered, start_of, traced_variants

import cmsched
from cmsched import State, entries, make_plan
from cmsched.entries import entry_table, in_numbers_of
from cmsched.samplers import register
from cmsched.tables import column_of

SHAPE = (2, 3)
SETTINGS = (
    {},
    {"kind": "v_prediction", "end": "zero"},
    {"projection": "boundary"},
    {"projection": "clip"},
    {"schedule": "flow", "kind": "flow_prediction"},
)


def a_plan_or_none(sampler, options, **settings):
    try:
        return a_plan(sampler, options, **settings)
    except ValueError:  # it has no such step
        return None


def runs(plan):
    """The plan of the rest from every step; None where one cannot be made or stored beside."""
    try:
        late = [plan.skip(k) for k in range(len(plan.grid))]
        found = [(rest, in_numbers_of(rest.rows, rest.layout, plan.layout)) for rest in late]
    except ValueError:
        return None
    left = [len(plan) - plan.steps.index(k) for k in range(len(plan.grid))]
    return found if [len(rest) for rest in late] == left else None


def columns_from(table, k):
    """The columns that a run from step k goes through."""
    column, found = int(table.first_columns[k]), []
    while (following := int(table.next_columns[column])) != column:
        found.append(column)
        column = following
    return found


@pytest.mark.host
@pytest.mark.parametrize(("sampler", "options"), traced_variants())
@pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 24])
def test_every_run_has_the_rows_of_the_plan_of_the_rest(sampler, options, n):
    for settings in SETTINGS:
        plan = a_plan_or_none(sampler, options, n=n, **settings)
        if plan is None:
            continue
        if plan.layout.slots and runs(plan) is None:
            with pytest.raises(ValueError, match=r"cannot take|one table|coefficient of"):
                entry_table(plan)
            continue
        table = entry_table(plan)
        begins = [plan.steps.index(k) for k in range(n)]
        if not plan.layout.slots:
            assert table.first_columns[:n].tolist() == begins
            assert np.array_equal(table.numbers, plan.on(np.zeros(1)).numbers, equal_nan=True)
            continue
        assert np.all(table.first_columns[n:] == -1)
        for k, (rest, rows) in enumerate(runs(plan)):
            visited, first = columns_from(table, k), begins[k]
            assert len(visited) == len(rest) == len(plan) - first
            expected = np.array([column_of(table.layout, row, plan.prediction) for row in rows]).T
            assert np.array_equal(table.numbers[:, visited], expected, equal_nan=True)
            named = np.arange(first, len(plan)) + 1  # draws as in the whole run
            assert np.array_equal(table.row_numbers[visited], named)
            start = plan.skip(k).on(np.zeros(1)).start
            own = visited[0] != first
            assert not own or np.array_equal(table.start[:, visited[0]], start[:, 0])
            lead = [column for column in visited if column > len(plan)]
            assert visited == [*lead, *range(first + len(lead), len(plan))]
            if lead:  # no longer than need be
                last = first + len(lead) - 1
                assert not np.array_equal(
                    table.numbers[:, lead[-1]], table.numbers[:, last], equal_nan=True
                )


@pytest.mark.host
@pytest.mark.parametrize(
    ("sampler", "more"),
    [
        ("dpmpp_multistep", {}),
        ("dpm_multistep", {}),
        ("dpmpp_multistep", {"corrector": "unic"}),  # what a row stores is used in the next one
    ],
    ids=str,
)
def test_few_rows_are_traced(monkeypatch, sampler, more):
    """Of every later run as many as its history is long, a few times over."""
    traced = []
    trace = entries.trace

    def counting(*args, **first):
        found = trace(*args, **first)
        traced.append(len(found.points))
        return found

    monkeypatch.setattr(entries, "trace", counting)
    for order, n in itertools.product((2, 3), (30, 60)):
        traced.clear()
        options = {"solver_order": order, "third_order": "exact", **more}
        entry_table(a_plan(sampler, options, n=n))
        assert len(traced) == n - 1
        assert max(traced) <= 3 * (order - 1) + 2


def test_a_run_that_differs_late_is_traced_to_its_end():
    """A loop whose every other step is of its own, counted from where it begins."""

    def alternating(x, grid, noise):
        old = None
        for i, (a, b) in enumerate(grid.steps()):
            x, x0 = yield x, a
            mean = x0 if old is None or i % 2 else 0.75 * x0 + 0.25 * old
            old = x0
            eps = (x - a.alpha * mean) / a.sigma
            x = b.alpha * mean + b.sigma * eps
        return x

    with registered("alternating"):
        register("alternating", paper="", stored=1)(alternating)
        plan = a_plan("alternating", n=12)
        table = entry_table(plan)
        for k, (_, rows) in enumerate(runs(plan)):
            expected = np.array([column_of(table.layout, row, plan.prediction) for row in rows]).T
            assert np.array_equal(table.numbers[:, columns_from(table, k)], expected)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [("dpmpp_multistep", {"solver_order": 3}), ("unipc", {}), ("heun", {}), ("lms", {})],
    ids=str,
)
def test_stepping_through_it_is_the_plan_of_the_rest(xp, sampler, options):
    plan = a_plan(sampler, options, n=7)
    host = entry_table(plan)
    model = network(xp.xp, plan.prediction)
    x = xp.asarray(start_of(SHAPE))
    given = given_of(plan, SHAPE)
    assert not given
    arrays = (xp.asarray(np.array(a)) for a in (host.numbers, host.where, host.start))
    table = cmsched.Table(host.layout, *arrays)
    for k in range(len(plan.grid)):
        rest = make_plan(sampler, plan.grid.skip(k), plan.prediction, options)
        start = cmsched.init(rest, x)
        index = xp.asarray(np.int32(host.first_columns[k]).reshape(()))
        memory = tuple(xp.asarray(np.full(SHAPE, np.nan)) for _ in host.layout.slots)
        state, expected = State(start.sample, memory, index), start
        for _ in range(len(rest)):
            output = model(*cmsched.model_input(table, state))
            state = cmsched.step(table, state, output)
            output = model(*cmsched.model_input(rest, expected))
            expected = cmsched.step(rest, expected, output)
        found, wanted = xp.numpy(state.sample), xp.numpy(expected.sample)
        assert np.allclose(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.host
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("dpmpp_multistep", {"solver_order": 3}),
        ("lms", {}),
        ("plms", {}),
        ("pndm", {}),
        ("unipc", {"solver_order": 3}),
    ],
)
def test_the_work_grows_as_the_number_of_steps(sampler, options):
    """Counted in calls of functions, which no other load of the machine changes."""

    def calls(n):
        plan, count = a_plan(sampler, options, n=n), 0
        _ = plan.layout

        def counted(_frame, event, _argument):
            nonlocal count
            count += event == "call"

        entry_table.cache_clear()
        before = sys.getprofile()
        sys.setprofile(counted)
        try:
            entry_table(plan)
        finally:
            sys.setprofile(before)
        return count

    calls(30)  # what is computed once
    short, long = calls(100), calls(400)
    assert long < 4.2 * short


def test_rows_beside_are_those_of_a_loop_without_memory():
    """A run may begin with any of them, and goes on with the plan's below it."""
    plan, other = a_plan("ddim", {}, n=4), a_plan("ddim", {}, n=7)
    table, n = entry_table(plan, other), 4
    assert columns_from(table, 0) == [0, 1, 2, 3]
    for k, row in enumerate(other.rows):
        column, *rest = columns_from(table, n + k)
        assert float(table.times[column]) == row.point.t
        assert all(plan.rows[i].point.t < row.point.t for i in rest)
        np.testing.assert_allclose(
            table.numbers[:6, column],
            column_of(other.layout, row, other.prediction)[:6],
            rtol=1e-12,
        )
    with pytest.raises(ValueError, match="cannot begin anywhere: it remembers"):
        entry_table(a_plan("lms", {}, n=4), other)
