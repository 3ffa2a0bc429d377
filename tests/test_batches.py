"""Batches whose rows run different plans, stand at different steps, and come and go."""

import array_api_compat.numpy
import numpy as np
import pytest
from problems import (
    a_plan,
    given_of,
    network,
    registered,
    start_of,
    traced_variants,
)

import cmsched
from cmsched import Rng, State
from cmsched.backends import fused, resolve
from cmsched.samplers import register
from cmsched.tables import COLUMNS

HOST = array_api_compat.numpy
KINDS, SEEDS = [1, 0, 2, 0], [11, 12, 13, 14]  # the plan that each row runs, and its noise
SHAPE = (4, 3, 2)
CHOSEN = [  # several stored arrays, draws, learned variance, draws before the first evaluation
    ("dpmpp_multistep", {"solver_order": 3, "eta": 1.0}),
    ("ddpm", {"variance": "learned_range"}),
    ("unipc", {"solver_order": 3}),
    ("heun", {"s_churn": 5.0}),
]


def three(sampler, options, **more):
    """Plans of one sampler: 5 and 7 evaluations or so, and another schedule."""
    more = {"projection": "boundary", **more}
    other = "scaled_linear" if "s_tmax" in options else "linear"  # churn at the start, or at none
    kinds = [{"n": 5}, {"n": 7}, {"n": 6, "schedule": other}]
    return [a_plan(sampler, options, **{**more, **kind}) for kind in kinds]


def condition(plan):
    """How much rounding may be magnified: the largest number that the loop or the plan uses."""
    numbers = [c for row in plan.rows for _, terms in row.statements for _, c, _ in terms]
    numbers += [number for row in plan.rows for number in row.estimate]
    numbers += [1 / level for p in plan.grid.points for level in (p.alpha, p.sigma) if level]
    return max(map(abs, numbers))


def separate(plan, x, seed, given=None):
    """One request alone: the sampler's own loop on NumPy arrays in float64."""
    rng = seed if seed is None else [seed]
    return cmsched.run(network(HOST, plan.prediction), plan, x, rng=rng, given=given)


def off(xp, got, expected):
    """Largest difference, relative to the largest element expected."""
    got = xp.numpy(got).astype(np.float64)
    assert got.shape == expected.shape
    assert np.all(np.isfinite(got))
    return np.max(np.abs(got - expected), initial=0) / max(1.0, np.max(np.abs(expected), initial=0))


def same(xp, a, b):
    """Whether two states, or arrays, are equal in every bit (NaN as NaN); in JAX, nearly."""
    if isinstance(a, State):
        pairs = [*zip(a.memory, b.memory, strict=True), (a.sample, b.sample), (a.index, b.index)]
        return all(same(xp, one, other) for one, other in pairs)
    if isinstance(a, int):
        return a == b
    if a.dtype != b.dtype:
        return False
    a, b = xp.numpy(a), xp.numpy(b)
    if xp.backend == "jax" and a.dtype.kind == "f":  # compiled for each shape, and fused as may be
        off = 4 * np.finfo(a.dtype).eps * np.max(np.abs(b), initial=1, where=np.isfinite(b))
        return np.allclose(a, b, rtol=0, atol=off, equal_nan=True)
    return np.array_equal(a, b, equal_nan=True)


def poisoned(xp, x, rows, value=np.nan):
    """An array with some rows replaced."""
    host = np.array(xp.numpy(x))
    host[rows] = value
    return xp.asarray(host)


def rows_of(arrays, k):
    """The given arrays of one row."""
    return arrays and {name: array[k : k + 1] for name, array in arrays.items()}


def placed(xp, arrays):
    """Given arrays in a framework."""
    return arrays and {name: xp.asarray(array) for name, array in arrays.items()}


def advance(program, state, rng=None, given=None):
    """Take one step."""
    model = network(resolve(state.sample).xp, program.layout.prediction)
    output = model(*cmsched.model_input(program, state))
    return cmsched.step(program, state, output, rng=rng, given=given)


# equal to separate runs


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_rows_on_different_plans_equal_separate_runs(xp, sampler, options):
    plans, start = three(sampler, options), start_of(SHAPE)
    stacked = cmsched.stack(plans, capacity=128)
    given = given_of(plans[0], SHAPE)
    here, model = placed(xp, given), network(xp.xp, plans[0].prediction)
    state = cmsched.init(stacked, xp.asarray(start), which=KINDS, rng=SEEDS, given=here)
    lengths = [len(plans[k]) for k in KINDS]
    assert len(stacked) == max(lengths)
    for i in range(len(stacked) + 1):
        over = [row for row, n in enumerate(lengths) if i >= n]
        output = poisoned(xp, model(*cmsched.model_input(stacked, state)), over)
        last, state = state, cmsched.step(stacked, state, output, rng=SEEDS, given=here)
        stays = xp.numpy(last.sample)[over], xp.numpy(last.index)[over]
        assert np.array_equal(xp.numpy(state.sample)[over], stays[0])
        assert np.array_equal(xp.numpy(state.index)[over], stays[1])
    for k, kind in enumerate(KINDS):
        plan = plans[kind]
        expected = separate(plan, start[k : k + 1], SEEDS[k], rows_of(given, k))
        error = off(xp, state.sample[k : k + 1, ...], expected)
        assert error <= 1e-12 * condition(plan), f"row {k}: {error}"


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_what_a_new_row_finds_in_its_memory_does_not_matter(xp, sampler, options):
    plans = three(sampler, options)
    stacked = cmsched.stack(plans, capacity=128)
    here = placed(xp, given_of(plans[0], SHAPE))
    clean = cmsched.init(stacked, xp.asarray(start_of(SHAPE)), which=KINDS, rng=SEEDS, given=here)
    if not clean.memory:
        return
    dirty = clean._replace(memory=tuple(poisoned(xp, m, [0, 2], np.inf) for m in clean.memory))
    for _ in range(len(stacked)):
        clean, dirty = (advance(stacked, state, SEEDS, here) for state in (clean, dirty))
        assert same(xp, clean.sample, dirty.sample)


@pytest.mark.parametrize(("sampler", "options"), CHOSEN)
@pytest.mark.parametrize("path", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_row_does_not_depend_on_its_neighbours(xp, sampler, options, path):
    plans, start = three(sampler, options), start_of(SHAPE)
    stacked = cmsched.stack(plans)
    seeds = [Rng(seed, path=path) for seed in SEEDS]
    together = cmsched.init(stacked, xp.asarray(start), which=KINDS, rng=seeds)
    alone = [
        cmsched.init(stacked, xp.asarray(start[k : k + 1]), which=[kind], rng=[seed])
        for k, (kind, seed) in enumerate(zip(KINDS, seeds, strict=True))
    ]
    for _ in range(len(stacked)):
        drawn = cmsched.draw(stacked, together, seeds)
        together = advance(stacked, together, seeds)
        for k, seed in enumerate(seeds):
            if drawn is not None:
                own = cmsched.draw(stacked, alone[k], [seed])
                assert all(
                    same(xp, z[k : k + 1, ...], z_own) for z, z_own in zip(drawn, own, strict=True)
                )
            alone[k] = advance(stacked, alone[k], [seed])
            assert same(xp, cmsched.take(together, [k]), alone[k])
    for k, kind in enumerate(KINDS):
        expected = separate(plans[kind], start[k : k + 1], seeds[k])
        assert off(xp, alone[k].sample, expected) <= 1e-12 * condition(plans[kind])


def test_paths_and_seeds_beside_each_other(xp):
    plans = three("dpmpp_sde", {"eta": 1.0})
    stacked = cmsched.stack(plans)
    seeds = [Rng(3, path=True), 4, Rng(5, sample=[9], path=True), Rng(6, sample=[2])]
    start = start_of(SHAPE)
    state = cmsched.init(stacked, xp.asarray(start), which=KINDS, rng=seeds)
    for _ in range(len(stacked)):
        state = advance(stacked, state, seeds)
    for k, kind in enumerate(KINDS):
        expected = separate(plans[kind], start[k : k + 1], seeds[k])
        assert off(xp, state.sample[k : k + 1, ...], expected) <= 1e-12 * condition(plans[kind])


@pytest.mark.parametrize(("sampler", "options"), CHOSEN[:1] + CHOSEN[2:])
def test_frames_on_different_plans(xp, sampler, options):
    plans, start = three(sampler, options, projection="none"), start_of((2, 3, 2, 2))
    stacked, kinds, seeds = cmsched.stack(plans), np.array([[0, 1, 2], [2, 2, 1]]), [21, 22]
    state = cmsched.init(stacked, xp.asarray(start), which=kinds, rng=seeds)
    assert tuple(state.index.shape) == (2, 3)
    for _ in range(len(stacked)):
        state = advance(stacked, state, seeds)
    for (k, frame), kind in np.ndenumerate(kinds):
        expected = separate(plans[kind], start[k : k + 1], seeds[k])[:, frame]
        error = off(xp, state.sample[k : k + 1, frame, ...], expected)
        assert error <= 1e-12 * condition(plans[kind])


@pytest.mark.parametrize(("sampler", "options"), [CHOSEN[0], ("euler", {"s_churn": 5.0})])
def test_everything_else_takes_a_stack(xp, sampler, options):
    plans, start = three(sampler, options, projection="clip"), start_of(SHAPE)
    stacked = cmsched.stack(plans)
    state = cmsched.init(stacked, xp.asarray(start), which=KINDS, rng=SEEDS)
    single = [
        cmsched.init(plans[kind], start[k : k + 1], rng=[SEEDS[k]]) for k, kind in enumerate(KINDS)
    ]
    model = network(HOST, plans[0].prediction)
    for i in range(5):
        x, t = cmsched.model_input(stacked, state)
        outputs = [model(*cmsched.model_input(plans[k], s)) for k, s in zip(KINDS, single)]  # noqa: B905
        output = xp.asarray(np.concatenate(outputs))
        known = cmsched.estimate(stacked, state, output)
        normal = cmsched.transition(stacked, state, output)
        for k, (kind, s) in enumerate(zip(KINDS, single, strict=True)):
            own_x, own_t = cmsched.model_input(plans[kind], s)
            assert off(xp, x[k : k + 1, ...], own_x) < 1e-12
            assert float(xp.numpy(t)[k]) == float(own_t)
            own = cmsched.estimate(plans[kind], s, outputs[k])
            for got, expected in zip(known, own, strict=True):
                assert off(xp, got[k : k + 1, ...], expected) < 1e-11
            own = cmsched.transition(plans[kind], s, outputs[k])
            assert off(xp, normal.mean[k : k + 1, ...], own.mean) < 1e-11
            std = np.broadcast_to(xp.numpy(normal.std), SHAPE)[k] if stacked.layout.draws else 0.0
            assert np.allclose(std, own.std, rtol=1e-12), i
        state = cmsched.step(stacked, state, output, rng=SEEDS)
        single = [
            cmsched.step(plans[kind], s, outputs[k], rng=[SEEDS[k]])
            for k, (kind, s) in enumerate(zip(KINDS, single, strict=True))
        ]


@pytest.mark.parametrize(("sampler", "options"), CHOSEN)
def test_large_batches_make_the_same(xp, sampler, options, monkeypatch):
    plans, start = three(sampler, options), start_of(SHAPE)
    stacked = cmsched.stack(plans)
    first = cmsched.init(stacked, xp.asarray(start), which=KINDS, rng=SEEDS)
    results = []
    for large in (False, True):
        if large:  # every array counts as such
            for name, value in {"LEAST": 1, "LEAST_BLOCKS": 1, "BLOCK": 4}.items():
                monkeypatch.setattr(fused, name, value)
        model, state = network(xp.xp, plans[0].prediction), first
        for _ in range(len(stacked)):
            output = model(*cmsched.model_input(stacked, state))
            following = cmsched.step(stacked, state, output, rng=SEEDS)
            over = np.nonzero(xp.numpy(following.index == state.index))[0]
            output = poisoned(xp, output, over)
            state = cmsched.step(stacked, state, output, rng=SEEDS)
        results.append(state.sample)
    assert over.tolist() == [1, 2, 3]  # but for the longest plan, all had an output of NaN
    assert off(xp, results[1], xp.numpy(results[0])) < 1e-14


# coming and going


@pytest.mark.parametrize(("sampler", "options"), CHOSEN)
@pytest.mark.parametrize("path", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_requests_come_and_go_at_any_time(xp, sampler, options, path):
    plans, order = three(sampler, options), np.random.default_rng(2)
    stacked, most = cmsched.stack(plans), 3
    start = start_of((6, 3, 2))
    waiting = [(k, k % 3, Rng(100 + k, path=path)) for k in range(6)]
    running, state, results, turns = [], None, {}, 0
    while waiting or running:
        if waiting and len(running) < most and turns % 2 == 0:
            k, kind, rng = waiting.pop(0)
            new = cmsched.init(stacked, xp.asarray(start[k : k + 1]), which=[kind], rng=[rng])
            state = new if state is None else cmsched.join([new, state])
            running.insert(0, [k, len(plans[kind]), rng])
        state = advance(stacked, state, [rng for *_, rng in running])
        turns += 1
        for request in running:
            request[1] -= 1
        for row, (k, left, _) in enumerate(running):
            if left == 0:
                results[k] = cmsched.take(state, [row]).sample
        stay = [row for row in order.permutation(len(running)) if running[row][1]]  # in any order
        running = [running[row] for row in stay]
        state = cmsched.take(state, stay) if stay else None
    assert sorted(results) == list(range(6))
    for k, sample in results.items():
        plan = plans[k % 3]
        expected = separate(plan, start[k : k + 1], Rng(100 + k, path=path))
        assert off(xp, sample, expected) <= 1e-12 * condition(plan)


def some_state(xp, *, dtype="float64", index="int32", batch=4):
    """A stack, and a state whose rows are in the middle of it."""
    stacked = cmsched.stack(three("unipc", {"solver_order": 3}))
    x = xp.asarray(start_of((batch, *SHAPE[1:])), dtype)
    first = cmsched.init(stacked, x, which=KINDS[:batch])
    state = State(first.sample, first.memory, xp.asarray(xp.numpy(first.index), index))
    return stacked, advance(stacked, advance(stacked, state))


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [
        ([2, 0], [2, 0]),
        ((1, 1, -1), [1, 1, 3]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        (slice(1, 2), [1]),
        (range(1, 3), [1, 2]),
        ([True, False, False, True], [0, 3]),
        (np.array([0, 2], np.uint8), [0, 2]),
        (np.array([False, True, True, False]), [1, 2]),
        ([], []),
        (np.zeros(4, bool), []),
    ],
    ids=str,
)
def test_take_and_join_are_indexing_and_concatenation(xp, rows, numbers):
    _, state = some_state(xp)
    for given in (rows, xp.asarray(np.array(numbers, np.int64))):
        taken = cmsched.take(state, given)
        arrays = [(state.sample, taken.sample), (state.index, taken.index)]
        for whole, part in [*arrays, *zip(state.memory, taken.memory, strict=True)]:
            assert part.dtype == whole.dtype
            assert np.array_equal(xp.numpy(part), xp.numpy(whole)[numbers])
    both = cmsched.join(iter([taken, state, taken]))
    again = cmsched.take(both, range(len(numbers), len(numbers) + 4))
    assert same(xp, again, state)
    assert same(xp, cmsched.take(both, slice(0, len(numbers))), taken)


def test_states_with_an_int_index_join_where_they_agree(xp):
    plan = a_plan("dpmpp_multistep")
    x = xp.asarray(start_of((2, 3)))
    state = advance(plan, cmsched.init(plan, x, index=0))
    both = cmsched.join([state, cmsched.take(state, [1])])
    assert both.index == 1
    both, state = advance(plan, both), advance(plan, state)
    assert same(xp, cmsched.take(both, [0, 1]), state)
    with pytest.raises(
        ValueError, match=r"states\[1\] has an index of shape \(\).*which=\[k, ...\]"
    ):
        cmsched.join([both, cmsched.init(plan, x, index=0)])


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_half_precision_and_the_dtype_of_the_index_are_kept(xp, dtype, index):
    if not hasattr(xp.xp, dtype):
        pytest.skip(f"{xp.name} has no {dtype}")
    stacked, state = some_state(xp, dtype=dtype, index=index)
    whole = some_state(xp)[1]
    state = cmsched.join([cmsched.take(state, [3, 1]), cmsched.take(state, slice(2))])
    for _ in range(2):
        state, whole = advance(stacked, state), advance(stacked, whole)
    for x in (state.sample, *state.memory):
        assert x.dtype == getattr(xp.xp, dtype)
    assert state.index.dtype == getattr(xp.xp, index)
    tolerance = {"float16": 1e-2, "bfloat16": 8e-2, "float32": 1e-5}[dtype]
    assert off(xp, state.sample, xp.numpy(whole.sample)[[3, 1, 0, 1]]) < tolerance


def test_empty_batches(xp):
    stacked, state = some_state(xp)
    empty = cmsched.take(state, [])
    none = cmsched.init(stacked, xp.asarray(np.zeros((0, *SHAPE[1:]))), which=[])
    for each in (empty, none, cmsched.join([empty, none])):
        x, t = cmsched.model_input(stacked, each)
        assert tuple(x.shape) == (0, *SHAPE[1:])
        assert tuple(t.shape) == (0,)
        after = cmsched.step(stacked, each, x)
        assert tuple(after.sample.shape) == (0, *SHAPE[1:])
    assert same(xp, cmsched.join([empty, state, empty]), state)
    hollow = xp.asarray(np.zeros((2, 0)))
    assert tuple(advance(stacked, cmsched.init(stacked, hollow, which=[0, 2])).sample.shape) == (
        2,
        0,
    )


def test_nothing_given_is_changed(xp):
    stacked, state = some_state(xp)
    arrays = [state.sample, *state.memory, state.index]
    before = [np.array(xp.numpy(a)) for a in arrays]
    rows = np.array([3, 0])
    halves = [cmsched.take(state, rows), cmsched.take(state, [1])]
    advance(stacked, cmsched.join(halves))
    advance(stacked, state)
    assert all(np.array_equal(xp.numpy(a), b) for a, b in zip(arrays, before, strict=True))
    assert rows.tolist() == [3, 0]
    kept = stacked.on(state.sample)
    assert stacked.on(state.sample) is kept


# not a number


def test_nan_in_a_row_stays_there(xp):
    stacked, state = some_state(xp)
    clean = state
    state = State(
        poisoned(xp, state.sample, [0]),
        tuple(poisoned(xp, m, [0]) for m in state.memory),
        state.index,
    )
    for _ in range(len(stacked)):
        state, clean = advance(stacked, state), advance(stacked, clean)
        rest = slice(1, None)
        assert same(xp, cmsched.take(state, rest).sample, cmsched.take(clean, rest).sample)
        assert np.all(np.isnan(xp.numpy(state.sample)[0]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_refilled_where_not_a_number_was(xp, value):
    stacked, state = some_state(xp)
    state = State(
        poisoned(xp, state.sample, [1], value),
        tuple(poisoned(xp, m, [1], value) for m in state.memory),
        state.index,
    )
    start = start_of((1, *SHAPE[1:]), 7)
    new = cmsched.init(stacked, xp.asarray(start), which=[2])
    state = cmsched.join([cmsched.take(state, [0]), new, cmsched.take(state, slice(2, None))])
    # and the way a server with a fixed batch does it: only what the next steps look at
    index = np.array(xp.numpy(state.index))
    refilled = State(state.sample, tuple(poisoned(xp, m, [1], value) for m in state.memory), index)
    refilled = refilled._replace(index=xp.asarray(index))
    for _ in range(len(stacked)):
        state, refilled = advance(stacked, state), advance(stacked, refilled)
        assert same(xp, state.sample, refilled.sample)
    plan = stacked.plans[2]
    expected = separate(plan, start, None)
    assert off(xp, state.sample[1:2, ...], expected) <= 1e-12 * condition(plan)


# other stacks


def test_a_stack_that_begins_alike_continues_the_same_states(xp):
    a, b, c = three("unipc", {"solver_order": 3})
    short, long = cmsched.stack([a, b]), cmsched.stack([a, b, c], capacity=50)
    x = xp.asarray(start_of(SHAPE))
    state = advance(short, cmsched.init(short, x, which=[0, 1, 1, 0]))
    other = state
    for _ in range(len(b)):
        state, other = advance(short, state), advance(long, other)
    assert same(xp, state, other)


def test_one_plan_is_a_stack(xp):
    plan = a_plan("dpmpp_multistep", {"eta": 1.0})
    x = xp.asarray(start_of(SHAPE))
    for stacked in (cmsched.stack([plan]), cmsched.stack([plan], capacity=9).on(x)):
        state = cmsched.init(stacked, x)
        assert tuple(state.index.shape) == ()
        model = network(xp.xp, plan.prediction)
        one = cmsched.sample(model, stacked, x, rng=5)
        assert same(xp, one, cmsched.sample(model, plan.on(x), x, rng=5))


def test_where_plans_begin_and_end(xp):
    plans = three("ddim", {})
    stacked = cmsched.stack(plans, capacity=30)
    table = stacked.on(xp.asarray(np.zeros(1)))
    assert stacked.capacity == table.numbers.shape[1] == 30
    assert cmsched.stack(plans).capacity == sum(len(plan) + 1 for plan in plans)
    x = xp.asarray(np.ones((3, 2)))
    for plan in ([0, 1, 2], np.arange(3), xp.asarray(np.arange(3, dtype=np.int32))):
        for program in (stacked, stacked.on(x)):
            state = cmsched.init(program, x, which=plan)
            assert (xp.numpy(state.index) % COLUMNS).tolist() == [0, 6, 14]
            assert state.index.dtype == xp.xp.int32
    for _ in range(9):
        state = cmsched.step(stacked, state, x)
    assert (xp.numpy(state.index) % COLUMNS).tolist() == [5, 13, 20]
    every = cmsched.init(stacked, x, which=1)
    assert tuple(every.index.shape) == ()
    assert int(xp.numpy(every.index)) % COLUMNS == 6


def test_plans_that_store_alike_but_compute_otherwise(xp):
    # rows of other terms, and a schedule that scales what the network sees: the union is stacked
    options = {"solver_order": 2}
    plans = [
        a_plan("dpmpp_multistep", options),
        a_plan("dpmpp_multistep", {**options, "euler_at_final": True}),
        a_plan("dpmpp_multistep", options, schedule="ve"),
        a_plan("dpmpp_multistep", options, schedule="cosine", end="zero"),
    ]
    stacked, start = cmsched.stack(plans), start_of(SHAPE)
    assert (stacked.layout.scaled, plans[0].layout.scaled) == (True, False)
    state = cmsched.init(stacked, xp.asarray(start), which=[0, 1, 2, 3])
    for _ in range(len(stacked)):
        state = advance(stacked, state)
    for k, plan in enumerate(plans):
        expected = separate(plan, start[k : k + 1], None)
        assert off(xp, state.sample[k : k + 1, ...], expected) <= 1e-12 * condition(plan)


def test_terms_that_only_a_later_plan_has(xp):
    corrected = {"solver_order": 2, "corrector": "unic"}
    plans = [a_plan("dpmpp_multistep", corrected, n=n) for n in (2, 3)]
    first, later = ({*plan.layout.terms} for plan in plans)
    assert later - first
    start = start_of(SHAPE)[:2]
    stacked = cmsched.stack(plans)
    state = cmsched.init(stacked, xp.asarray(start), which=[0, 1])
    for _ in range(len(stacked)):
        state = advance(stacked, state)
    for k, plan in enumerate(plans):
        expected = separate(plan, start[k : k + 1], None)
        assert off(xp, state.sample[k : k + 1, ...], expected) <= 1e-12 * condition(plan)


def turn(where, table, state, noise, plan, refill, output):
    """One turn of a server with a fixed batch, as one function of arrays."""
    state = cmsched.step(table, state, output)
    new = cmsched.init(table, noise, which=plan)
    along = refill[:, None, None]
    state = State(
        where(along, new.sample, state.sample),
        tuple(where(along, n, m) for n, m in zip(new.memory, state.memory, strict=True)),
        where(refill, new.index, state.index),
    )
    return cmsched.take(state, plan), state, cmsched.model_input(table, state)


def stacks_of_one_capacity():
    """Stacks of the same layout and capacity: fewer plans, more, and others."""
    a, b, c = three("unipc", {"solver_order": 3})
    d = a_plan("unipc", {"solver_order": 3}, n=6, projection="boundary")
    return [cmsched.stack(plans, capacity=40) for plans in ([a, b], [a, b, c], [d, a])]


def check_turn(compiled, stacked, asarray, as_numpy):
    """Check a compiled turn against the same by hand in NumPy."""
    x, output = start_of(SHAPE), start_of(SHAPE, 3)
    plan, refill = np.array([1, 0, 1, 1], np.int32), np.array([False, True, False, True])
    state = cmsched.init(stacked, x, which=[0, 1, 1, 0])
    here = cmsched.init(stacked, asarray(x), which=[0, 1, 1, 0])
    arrays = [asarray(a) for a in (x, plan, refill, output)]
    taken, made, seen = compiled(stacked.on(arrays[0]), here, *arrays)
    stepped, new = cmsched.step(stacked, state, output), cmsched.init(stacked, x, which=plan)
    expected = np.where(refill[:, None, None], new.sample, stepped.sample)
    index = np.where(refill, new.index, stepped.index)
    assert np.allclose(as_numpy(made.sample), expected, rtol=1e-13)
    assert as_numpy(made.index).tolist() == index.tolist()
    assert np.allclose(as_numpy(taken.sample), expected[plan], rtol=1e-13)
    sees = cmsched.model_input(stacked, State(expected, stepped.memory, index))
    assert all(np.allclose(as_numpy(a), b) for a, b in zip(seen, sees, strict=True))


def test_another_stack_of_the_same_capacity_does_not_trace_anew_in_jax(jax):
    traces = []

    @jax.jit
    def compiled(*arguments):
        traces.append(1)
        return turn(jax.numpy.where, *arguments)

    for stacked in stacks_of_one_capacity():
        check_turn(compiled, stacked, jax.numpy.asarray, np.asarray)
    assert len(traces) == 1
    larger = cmsched.stack(stacked.plans, capacity=50)
    check_turn(compiled, larger, jax.numpy.asarray, np.asarray)
    assert len(traces) == 2


def test_a_turn_in_jax_moves_nothing_to_the_device(jax):
    stacked, state = stacks_of_one_capacity()[0], None
    x, plan = jax.numpy.asarray(start_of(SHAPE)), jax.numpy.asarray([0, 1, 1, 0])
    rows = jax.numpy.asarray([2, 0, 1, 3])
    for guard in ("allow", "disallow"):  # what is compiled first, and then
        with jax.transfer_guard(guard):
            state = cmsched.init(stacked, x, which=plan)
            seen, _ = cmsched.model_input(stacked, state)
            state = cmsched.step(stacked, state, seen)
            state = cmsched.take(cmsched.join([state, state]), rows)
    assert state.sample.shape == SHAPE


def test_another_stack_of_the_same_capacity_does_not_compile_anew_in_torch(torch):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(
        lambda *arguments: turn(torch.where, *arguments), backend=counter, fullgraph=True
    )
    try:
        for stacked in stacks_of_one_capacity():
            check_turn(compiled, stacked, torch.asarray, torch.Tensor.numpy)
        assert counter.frame_count == 1
    finally:
        torch._dynamo.reset()


# errors


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (
            ("dpmpp_multistep", {}, {}),
            ("ddim", {}, {}),
            r"plans\[1\].*stored arrays.*it stores nothing, plans\[0\] d\[-1\]",
        ),
        (
            ("unipc", {"solver_order": 3}, {}),
            ("unipc", {"solver_order": 2}, {}),
            r"it stores d\[-1\], d\[-2\], plans\[0\] d\[-1\], d\[-2\], d\[-3\]",
        ),
        (("lms", {"solver_order": 4}, {}), ("ddim", {}, {}), r"plans\[0\] k0\[-1\], k0\[-2\]"),
        (("ddim", {}, {}), ("ddim", {"eta": 1.0}, {}), "its draws differ"),
        (
            ("euler", {"s_churn": 5.0}, {}),
            ("euler", {"s_churn": 5.0, "s_tmin": 1e-3, "s_tmax": 1.0}, {}),
            "draws before the first evaluation differ",
        ),
        (("ddim", {}, {}), ("ddim", {}, {"schedule": "edm"}), "model time .*differ"),
        (("ddim", {}, {}), ("ddim", {}, {"kind": "v_prediction"}), "prediction differ"),
        (("ddim", {}, {}), ("ddim", {}, {"projection": "clip"}), "prediction differ"),
    ],
)
def test_layouts_that_differ(one, other, words):
    plans = [a_plan(name, options, **more) for name, options, more in (one, other)]
    with pytest.raises(ValueError, match=words):
        cmsched.stack(plans)
    with pytest.raises(ValueError, match=r"plans\[2\] has another layout than plans\[0\]"):
        cmsched.stack([plans[0], plans[0], plans[1]])


def with_image(x, grid, noise, image):
    """A loop that is given an image."""
    for a, b in grid.steps():
        x, x0 = yield x, a
        x = x0 * b.alpha + image * b.sigma
    return x


def with_mask(x, grid, noise, mask):
    """A loop that is given a mask."""
    for a, _ in grid.steps():
        x, x0 = yield x, a
        x = mask * x0 + (1 - mask) * x
    return x


@pytest.mark.parametrize(
    ("loop", "name", "words"),
    [(with_image, "image", "given arrays differ"), (with_mask, "mask", "mask differ")],
)
def test_given_arrays_that_differ(loop, name, words):
    with registered("given"):
        register("given", paper="", given=(name,))(loop)
        with pytest.raises(ValueError, match=words):
            cmsched.stack([a_plan("ddim"), a_plan("given")])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (lambda p: ([],), ValueError, "plans is empty.*at least one"),
        (lambda p: (p,), TypeError, "plans is Plan.*pass a sequence"),
        (lambda p: (None,), TypeError, "plans is NoneType"),
        (lambda p: ([p, 3],), TypeError, r"plans\[1\] is int.*scheduler\.plan"),
        (lambda p: ([p, cmsched.stack([p])],), TypeError, r"plans\[1\] is Stack"),
        (lambda p: ([p, p], 11), ValueError, "capacity=11.*need 12 columns"),
        (lambda p: ([p], 0), ValueError, "capacity=0.*need 6"),
        (lambda p: ([p], 8.0), ValueError, r"capacity=8\.0.*pass an int"),
        (lambda p: ([a_plan("dpm_adaptive")],), TypeError, "dpm_adaptive.*no table"),
    ],
)
def test_stack_says_what_is_wrong(arguments, error, words):
    with pytest.raises(error, match=words):
        cmsched.stack(*arguments(a_plan("ddim")))


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (2, TypeError, r"rows=2 .*slice\(k, k \+ 1\)"),
        (True, TypeError, "rows=True"),
        (np.int64(2), TypeError, "rows=.*2.* does not say which rows"),
        (None, TypeError, "rows=None"),
        ("01", TypeError, "rows='01'"),
        ([0.5], TypeError, r"rows=\[0\.5\] must be integers or booleans"),
        ([[0, 1]], TypeError, r"rows=\[\[0, 1\]\].*one axis"),
        ([[0], [1, 2]], TypeError, "one axis"),
        (np.array(1), TypeError, "one axis"),
        (np.array([0.0]), TypeError, "integers or booleans"),
        ([4], ValueError, r"rows=.*4.* batch of 4"),
        ([-5], ValueError, "does not fit a batch of 4"),
        ([True, False], ValueError, "does not fit a batch of 4"),
    ],
    ids=str,
)
def test_take_says_what_is_wrong(xp, rows, error, words):
    _, state = some_state(xp)
    with pytest.raises(error, match=words):
        cmsched.take(state, rows)


def test_take_of_arrays_that_are_no_rows(xp):
    _, state = some_state(xp)
    if xp.backend != "numpy":
        for bad in (np.zeros((1, 1), np.int32), np.zeros(2), np.zeros(4, bool), np.array(1)):
            with pytest.raises(TypeError, match=r"rows=.*integers.*one axis"):
                cmsched.take(state, xp.asarray(bad))
    whole = cmsched.init(a_plan("ddim"), xp.asarray(np.array(0.5)))
    with pytest.raises(ValueError, match=r"shape \(\).*batch axis"):
        cmsched.take(whole, [0])


def test_take_of_rows_of_another_framework(jax, torch):
    plan = a_plan("ddim")
    for x, rows in [
        (torch.ones(2, 2), jax.numpy.asarray([0])),
        (jax.numpy.ones((2, 2)), torch.tensor([0])),
    ]:
        with pytest.raises(TypeError, match=r"rows=.*int64 array of (torch|jax)"):
            cmsched.take(cmsched.init(plan, x), rows)


def test_join_says_what_is_wrong(xp):
    stacked, state = some_state(xp)
    plan, x = a_plan("ddim"), xp.asarray(start_of(SHAPE))
    other = cmsched.init(plan, x, index=xp.asarray(np.zeros(4, np.int32)))
    wider = cmsched.init(stacked, xp.asarray(start_of((4, 3, 5))), which=KINDS)
    frames = cmsched.init(stacked, x, which=np.zeros((4, 3), int))
    scalar = cmsched.init(plan, xp.asarray(np.array(0.5)))
    alike = cmsched.init(stacked, x, which=0)
    single = cmsched.init(stacked, xp.asarray(start_of(SHAPE), "float32"), which=KINDS)
    for states, error, words in [
        ([], TypeError, "states must be a sequence of at least one State"),
        (None, TypeError, "states must be .* got None"),
        (state, TypeError, "states must be a sequence"),
        ([state, x], TypeError, "states must be a sequence"),
        ([state, other], ValueError, r"states\[1\] stores 0 arrays, states\[0\] 3"),
        ([state, state, wider], ValueError, r"states\[2\] has samples of shape \(4, 3, 5\)"),
        ([scalar, scalar], ValueError, r"states\[0\] has samples of shape \(\)"),
        ([state, single], ValueError, r"states\[1\] is .*float32.*states\[0\] .*float64"),
        ([state, frames], ValueError, r"states\[1\] has an index of shape \(4, 3\).*which="),
        ([state, alike], ValueError, r"states\[1\] has an index of shape \(\)"),
        ([alike, alike], ValueError, r"states\[0\] has an index of shape \(\)"),
    ]:
        with pytest.raises(error, match=words):
            cmsched.join(states)


def test_join_of_frameworks(torch):
    plan = a_plan("ddim")
    here, there = cmsched.init(plan, np.ones((2, 2))), cmsched.init(plan, torch.ones(2, 2))
    with pytest.raises(TypeError, match=r"states\[1\] is of torch, states\[0\] of numpy"):
        cmsched.join([here, there])


def test_init_says_what_is_wrong(xp):
    plans = three("ddim", {})
    stacked, x = cmsched.stack(plans), xp.asarray(start_of(SHAPE))
    zeros = xp.asarray(np.zeros(4, np.int32))
    for program, arguments, error, words in [
        (stacked, {}, ValueError, r"stack of 3 plans starts by .*which=k.*\(batch,\)"),
        (stacked, {"index": zeros}, ValueError, "stack of 3 plans starts by .*which=k"),
        (stacked, {"which": [0] * 4, "index": zeros}, ValueError, "either which= or index="),
        (plans[0], {"which": [0] * 4}, TypeError, r"which=.*pass cmsched\.stack"),
        (plans[0].on(x), {"index": 0}, TypeError, "needs an array index"),
        (stacked, {"which": [0.0] * 4}, TypeError, r"which must hold integers.*\[0\.0"),
        (stacked, {"which": True}, TypeError, "which must hold integers"),
        (stacked, {"which": [True] * 4}, TypeError, "which must hold integers"),
        (stacked, {"which": "abcd"}, TypeError, "which must hold integers.*'abcd'"),
        (stacked, {"which": x}, TypeError, "which must hold integers"),
        (stacked, {"which": object()}, TypeError, "which: expected an array"),
        (stacked, {"which": [0, 1, 2, 3]}, ValueError, r"which=\[0, 1, 2, 3\].*0 to 2"),
        (stacked, {"which": [-1, 0, 0, 0]}, ValueError, r"which=\[-1, .*use 0 to 2"),
        (
            stacked,
            {"which": [0, 1]},
            ValueError,
            r"which has shape \(2,\).*\(4, 3, 2\).*\(batch,\)",
        ),
        (stacked, {"which": zeros[:3]}, ValueError, r"which has shape \(3,\)"),
    ]:
        with pytest.raises(error, match=words):
            cmsched.init(program, x, **arguments)


def test_a_stack_needs_an_array_index(xp):
    plan = a_plan("ddim")
    state = cmsched.init(plan, xp.asarray(start_of(SHAPE)), index=0)
    with pytest.raises(TypeError, match="needs an array index"):
        cmsched.step(cmsched.stack([plan]), state, state.sample)
    with pytest.raises(TypeError, match="needs an array index"):
        cmsched.model_input(cmsched.stack([plan]), state)


def test_states_of_another_layout_are_refused(xp):
    _, state = some_state(xp)
    with pytest.raises(ValueError, match="holds 3 stored arrays"):
        cmsched.step(cmsched.stack([a_plan("ddim")]), state, state.sample)
