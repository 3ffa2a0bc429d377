"""The stateful habit of the named schedulers: the numbers of the pure functions, and a cursor."""

import copy
import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scheduling import (
    CLASSES,
    DEFAULTS,
    NUMPY,
    VISITS,
    Problem,
    build,
    label,
    last,
    native,
    normals,
    stochastic,
)

import cmsched

every_class = pytest.mark.parametrize("visit", DEFAULTS, ids=label)


def close(xp, a, b, tolerance=1e-12):
    a, b = xp.numpy(a), xp.numpy(b)
    assert a.shape == b.shape
    assert np.all(np.isfinite(a))
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def equal(xp, a, b):
    np.testing.assert_array_equal(xp.numpy(a), xp.numpy(b))


def test_comparison_can_fail(xp):
    with pytest.raises(AssertionError):
        close(xp, xp.asarray([1.0, 2.0]), xp.asarray([1.0, 2.0 + 1e-9]))
    with pytest.raises(AssertionError):
        close(xp, xp.asarray([[1.0]]), xp.asarray([1.0]))
    with pytest.raises(AssertionError):
        close(xp, xp.asarray([np.nan]), xp.asarray([np.nan]))


# --- the same as the pure functions --------------------------------------------------------------


def check_against_pure(xp, visit):
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    scheduler.set_timesteps(4)
    steps = problem.stateful(scheduler, generator=7)
    for out, (x, x0) in zip(steps, problem.pure(7), strict=True):
        close(xp, out.prev_sample, x)
        assert out[0] is out.prev_sample is out["prev_sample"] is out.to_tuple()[0]
        if len(out) > 1:
            name = list(out)[1]
            assert out[1] is getattr(out, name) is out[name] is out.to_tuple()[1]
            if name != "pred_noised_sample":  # TCD's, tested in test_first_order
                close(xp, out[1], x0)


@every_class
def test_equals_the_pure_functions(xp, visit):
    check_against_pure(xp, visit)


@pytest.mark.parametrize("visit", VISITS, ids=label)
def test_equals_the_pure_functions_in_every_setting(visit):
    check_against_pure(NUMPY, visit)  # the others differ only in the engine


@every_class
def test_equals_sample(xp, visit):
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    outputs = iter(problem.outputs)
    whole = cmsched.sample(lambda x, t: next(outputs), problem.plan, problem.noise, rng=7)
    scheduler.set_timesteps(4)
    close(xp, last(problem.stateful(scheduler, generator=7)), whole)


@every_class
def test_tuples(xp, visit):
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    scheduler.set_timesteps(4)
    objects = list(problem.stateful(scheduler, generator=7))
    scheduler.set_timesteps(4)
    for one, out in zip(
        problem.stateful(scheduler, generator=7, return_dict=False), objects, strict=True
    ):
        assert type(one) is tuple
        assert len(one) == len(out)
        for a, b in zip(one, out.to_tuple(), strict=True):
            close(xp, a, b)


@every_class
def test_positional_arguments_have_the_reference_s_order(visit):
    scheduler, problem = build(visit), Problem(NUMPY, build(visit))
    by_position = [7 if k == "generator" else v for k, v in scheduler.step_options.items()]
    scheduler.set_timesteps(4)
    x = problem.start(scheduler)
    for i, t in enumerate(scheduler.timesteps):
        more = {} if "generator" in scheduler.step_options else {"generator": 7}
        x = scheduler.step(problem.outputs[i], t, x, *by_position, **more).prev_sample
    scheduler.set_timesteps(
        *[4 if k == "num_inference_steps" else v for k, v in scheduler.timesteps_options.items()]
    )
    equal(NUMPY, x, last(problem.stateful(scheduler, generator=7)))


def test_outputs_are_mappings_that_can_be_made_copied_and_stored(xp):
    kinds = {cls.output_class for cls in CLASSES.values()}
    for kind in kinds:
        values = [xp.asarray(normals((2, 2), i)) for i, _ in enumerate(kind.fields)]
        out = kind(**dict(zip(kind.fields, values, strict=True)))
        assert list(out.keys()) == list(kind.fields) == list(out)
        assert out[:1] == (values[0],)
        assert dict(out.items()) == dict(zip(kind.fields, values, strict=True))
        assert out.get("nothing") is None
        assert kind(*values)[-1] is values[-1]
        equal(xp, pickle.loads(pickle.dumps(out))[-1], values[-1])
        with pytest.raises(KeyError):
            out["pred"]
        with pytest.raises(IndexError):
            out[len(kind.fields)]
        with pytest.raises(AttributeError, match="prev_sample"):
            _ = out.prev
        with pytest.raises(TypeError, match="prev_sample"):
            kind(nothing=1)


@every_class
def test_lazy_estimate_survives_a_pickle(xp, visit):
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    scheduler.set_timesteps(4)
    for out in problem.stateful(scheduler, generator=7):
        equal(xp, pickle.loads(pickle.dumps(out))[-1], out[-1])


# --- noise ---------------------------------------------------------------------------------------


def sources(xp):
    yield "int", lambda: 7
    yield "Rng", lambda: cmsched.Rng(8)
    yield "part", lambda: cmsched.Rng(7, sample=range(4, 6))
    yield "ints", lambda: [3, 4]
    yield "native", lambda: native(xp, 17)
    yield "natives", lambda: [native(xp, 17), native(xp, 18)]
    yield "function", lambda: lambda shape, dtype, interval: xp.asarray(normals(shape, 9))


@pytest.mark.parametrize("visit", stochastic(DEFAULTS), ids=label)
def test_every_form_of_generator(xp, visit):
    results = []
    for _, make in sources(xp):
        scheduler = build(visit)
        problem = Problem(xp, scheduler)
        scheduler.set_timesteps(4)
        generator = make()
        x = last(problem.stateful(scheduler, generator=lambda i, g=generator: g))
        *_, (whole, _) = problem.pure(make())
        close(xp, x, whole)
        results.append(xp.numpy(x))
    for i, a in enumerate(results):
        for b in results[:i]:
            assert not np.array_equal(a, b)


@pytest.mark.parametrize("visit", stochastic(DEFAULTS), ids=label)
def test_one_int_or_key_never_repeats_its_noise(xp, visit):
    scheduler = build(visit)
    for seed in (7, native(xp, 7)) if xp.name == "jax" else (7,):
        problem = Problem(xp, scheduler)
        draws = []
        for i, row in enumerate(problem.plan.rows):
            if row.draws:
                state = cmsched.State(problem.noise, (), i)
                draws.append(xp.numpy(cmsched.draw(problem.plan, state, seed)[0]).ravel())
        assert len(draws) >= 3
        correlation = np.corrcoef(draws) - np.eye(len(draws))
        assert np.abs(correlation).max() < 0.5
        scheduler.set_timesteps(4)
        *_, (whole, _) = problem.pure(seed)
        close(xp, last(problem.stateful(scheduler, generator=lambda i, g=seed: g)), whole)


def ambient(xp):
    state = [random.getstate(), np.random.get_state(legacy=False)]  # noqa: NPY002
    if xp.backend == "torch":
        state.append(xp.xp.get_rng_state().tolist())
    return repr(state)


@pytest.mark.parametrize("visit", stochastic(DEFAULTS), ids=label)
def test_without_generator_entropy_is_fresh_and_can_be_replayed(xp, visit):
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    before = ambient(xp)
    scheduler.set_timesteps(4)
    if xp.backend == "jax":
        with pytest.raises(ValueError, match=r"generator=jax.random.key\(0\)"):
            last(problem.stateful(scheduler))
        assert scheduler.last_seed is None
        return
    x = last(problem.stateful(scheduler))
    seed = scheduler.last_seed
    assert 0 <= seed < 2**63
    scheduler.set_timesteps(4)
    again = last(problem.stateful(scheduler))
    assert scheduler.last_seed != seed
    assert not np.array_equal(xp.numpy(x), xp.numpy(again))
    scheduler.set_timesteps(4)
    generator = native(xp, seed)
    equal(xp, x, last(problem.stateful(scheduler, generator=lambda i: generator)))
    assert ambient(xp) == before


@every_class
def test_noise_by_hand(xp, visit):
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    if not problem.plan.layout.stochastic:
        scheduler.set_timesteps(4)
        with pytest.warns(UserWarning, match="variance_noise has no effect"):
            x = last(problem.stateful(scheduler, variance_noise=lambda i: problem.noise))
        scheduler.set_timesteps(4)  # said once
        equal(xp, x, last(problem.stateful(scheduler, variance_noise=lambda i: problem.noise)))
        return
    noise = [
        cmsched.draw(problem.plan, cmsched.State(problem.noise, (), i), 7)
        for i in range(len(problem.plan))
    ]
    given = [problem.noise if z is None else z[0] for z in noise]
    scheduler.set_timesteps(4)
    x = last(problem.stateful(scheduler, variance_noise=lambda i: given[i]))
    *_, (whole, _) = problem.pure(7)
    close(xp, x, whole)


# --- the cursor ----------------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("how", ["slice", "begin_index"])
def test_starting_later(xp, visit, how):
    """From entry k: the plan of the rest, however the start is named."""
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    skip = 2
    scheduler.set_timesteps(4)
    entry = problem.plan.steps.index(skip)
    rest = problem.plan.skip(skip)
    x = scheduler.add_noise(problem.noise, problem.noise * 0.5, scheduler.timesteps[entry])
    if how == "begin_index":
        scheduler.set_begin_index(entry)
        assert scheduler.begin_index == entry
    assert scheduler.step_index is None
    outs = list(problem.stateful(scheduler, entry, x, generator=7))
    assert scheduler.step_index == len(problem.plan)
    state = cmsched.init(rest, problem.noise)._replace(sample=x)
    for out, output in zip(outs, problem.outputs[entry:], strict=True):
        state = cmsched.step(rest, state, output, rng=7)
        close(xp, out.prev_sample, state.sample)


@every_class
def test_step_index_counts(xp, visit):
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    assert scheduler.step_index is scheduler.begin_index is None
    scheduler.set_timesteps(4)
    x = problem.start(scheduler)
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(problem.outputs[i], t, x, generator=7).prev_sample
        assert scheduler.step_index == i + 1
    scheduler.set_timesteps(3)
    assert scheduler.step_index is scheduler.begin_index is None
    assert scheduler.num_inference_steps == 3


@every_class
def test_inside_a_step_one_cannot_start(xp, visit):
    scheduler = build(visit)
    scheduler.set_timesteps(4)
    steps = scheduler.plan(4).steps
    for entry in range(1, len(steps)):
        if steps[entry] == steps[entry - 1]:
            count = steps.count(steps[entry])
            with pytest.raises(ValueError, match=f"inside a step of {count} evaluations"):
                scheduler.set_begin_index(entry)
            assert scheduler.begin_index is None
        else:
            scheduler.set_begin_index(entry)
            assert scheduler.begin_index == entry
            scheduler.set_timesteps(4)


@every_class
def test_a_second_set_timesteps_starts_anew(xp, visit):
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    scheduler.set_timesteps(4)
    first = last(problem.stateful(scheduler, generator=7))
    for taken in (1, 3):
        scheduler.set_timesteps(4)
        steps = problem.stateful(scheduler, generator=7)
        for _ in range(taken):
            next(steps)
        scheduler.set_timesteps(4)
        equal(xp, first, last(problem.stateful(scheduler, generator=7)))


@pytest.mark.parametrize("visit", VISITS, ids=label)
def test_memoryless_loops_may_jump_others_may_not(visit):
    scheduler = build(visit)
    problem = Problem(NUMPY, scheduler)
    scheduler.set_timesteps(4)
    times, plan = scheduler.timesteps, problem.plan
    x = problem.start(scheduler)
    scheduler.step(problem.outputs[0], times[0], x, generator=7)
    target = len(plan) - 1
    if plan.layout.slots:
        with pytest.raises(ValueError, match="set_timesteps or set_begin_index"):
            scheduler.step(problem.outputs[target], times[target], x, generator=7)
        assert scheduler.step_index == 1
        return
    out = scheduler.step(problem.outputs[target], times[target], x, generator=7)
    state = cmsched.State(x, (), target)
    equal(NUMPY, out[0], cmsched.step(plan, state, problem.outputs[target], rng=7).sample)
    assert scheduler.step_index == len(plan)


# --- copies, pickles, threads --------------------------------------------------------------------


@every_class
def test_copies_in_the_middle_of_a_run_go_on_alike(xp, visit):
    check_copies(xp, visit)


@pytest.mark.parametrize("visit", VISITS, ids=label)
def test_copies_go_on_alike_in_every_setting(visit):
    check_copies(NUMPY, visit)


def check_copies(xp, visit):
    scheduler = build(visit, xp=xp.xp)
    problem = Problem(xp, scheduler)
    scheduler.set_timesteps(4)
    options = {"generator": 7} if xp.backend == "jax" else {}
    steps = problem.stateful(scheduler, **options)
    x = [next(steps), next(steps)][-1].prev_sample
    twins = [copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))]
    rest = last(problem.stateful(scheduler, 2, x, **options))
    for twin in twins:
        assert twin.step_index == 2
        equal(xp, rest, last(problem.stateful(twin, 2, x, **options)))


@every_class
def test_two_schedulers_interleaved(xp, visit):
    one, two = build(visit), build(visit)
    a, b = Problem(xp, one, 4), Problem(xp, two, 3)
    one.set_timesteps(4)
    two.set_timesteps(3)
    alone = last(a.stateful(one, generator=7)), last(b.stateful(two, generator=8))
    one.set_timesteps(4)
    two.set_timesteps(3)
    runs = [a.stateful(one, generator=7), b.stateful(two, generator=8)]
    ends = [None, None]
    for _ in range(len(a.plan)):
        for i, run in enumerate(runs):
            ends[i] = next(run, ends[i])
    for end, want in zip(ends, alone, strict=True):
        equal(xp, end.prev_sample, want)


def test_a_scheduler_per_thread(xp):
    def work(visit):
        scheduler = build(visit)
        problem = Problem(xp, scheduler)
        scheduler.set_timesteps(4)
        return xp.numpy(last(problem.stateful(scheduler, generator=7)))

    tasks = DEFAULTS * 2
    expected = [work(visit) for visit in DEFAULTS] * 2
    with ThreadPoolExecutor(4) as pool:
        for want, got in zip(expected, pool.map(work, tasks), strict=True):
            np.testing.assert_array_equal(want, got)


# --- dtypes and shapes ---------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_dtype_is_the_sample_s(xp, visit, dtype):
    if xp.name == "strict" and dtype == "float16":
        return  # the standard has no float16
    scheduler = build(visit)
    problem = Problem(xp, scheduler, dtype=dtype)
    wide = Problem(xp, scheduler)
    narrow, exact = (list(_run(scheduler, p))[-1] for p in (problem, wide))
    for a in narrow.to_tuple():
        assert a.dtype == problem.noise.dtype
    scale = np.abs(xp.numpy(exact.prev_sample)).max()
    error = np.abs(xp.numpy(narrow.prev_sample) - xp.numpy(exact.prev_sample)).max()
    assert error < {"float16": 2e-2, "float32": 2e-5}[dtype] * max(scale, 1.0)


def _run(scheduler, problem):
    scheduler.set_timesteps(4)
    x = problem.start(scheduler)
    for i, t in enumerate(scheduler.timesteps):
        out = scheduler.step(problem.outputs[i], t, x, generator=7)
        yield out
        x = out.prev_sample


@every_class
@pytest.mark.parametrize("shape", [(1, 1), (0, 3), (3,), (2, 1, 3, 1, 2)], ids=str)
def test_any_shape(xp, visit, shape):
    scheduler = build(visit)
    problem = Problem(xp, scheduler, shape=shape)
    scheduler.set_timesteps(4)
    for out in problem.stateful(scheduler, generator=7):
        assert all(tuple(a.shape) == shape for a in out.to_tuple())


@every_class
def test_arguments_are_not_written_to(xp, visit):
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    scheduler.set_timesteps(4)
    before = [xp.numpy(a).copy() for a in (problem.noise, *problem.outputs)]
    x = problem.noise
    for i, t in enumerate(scheduler.timesteps):
        held = xp.numpy(x).copy()
        new = scheduler.step(problem.outputs[i], t, x, generator=7).prev_sample
        np.testing.assert_array_equal(xp.numpy(x), held)
        x = new
    for a, b in zip((problem.noise, *problem.outputs), before, strict=True):
        np.testing.assert_array_equal(xp.numpy(a), b)
