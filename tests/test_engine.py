"""The two executions of a plan against the sampler's own loop, on every backend."""

import copy
import inspect
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import array_api_compat.numpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    PROJECTIONS,
    a_plan,
    given_of,
    grid_of,
    network,
    plans,
    prediction_of,
    registered,
    start_of,
    traced_variants,
)

import cmsched
from cmsched import Rng, State
from cmsched.plan import make_plan
from cmsched.predictions import Prediction
from cmsched.samplers import Evaluate, register

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}


def distance(xp, got, expected):
    """Largest difference from the expected array, relative to its largest element."""
    got = xp.numpy(got).astype(np.float64)
    assert got.shape == expected.shape
    assert np.all(np.isfinite(got))
    return np.max(np.abs(got - expected), initial=0) / max(1.0, np.max(np.abs(expected), initial=0))


def condition(plan):
    """How much rounding may be magnified: the largest number that the loop or the plan uses."""
    numbers = [c for row in plan.rows for _, terms in row.statements for _, c, _ in terms]
    numbers += [number for row in plan.rows for number in row.estimate]
    numbers += [1 / level for p in plan.grid.points for level in (p.alpha, p.sigma) if level]
    return max(map(abs, numbers))


def yardstick(plan, x, rng=5, **arguments):
    """The sampler's own loop on NumPy arrays in float64."""
    model = network(array_api_compat.numpy, plan.prediction)
    return cmsched.run(model, plan, np.asarray(x), rng=rng, **arguments)


def walk(program, state, model, n, rng=5, given=None):
    """Take n steps by hand."""
    for _ in range(n):
        output = model(*cmsched.model_input(program, state))
        state = cmsched.step(program, state, output, rng=rng, given=given)
    return state


def executions(xp, plan, x, rng=5, given=None, kinds=("int", "()", "(batch,)", "frames", "table")):
    """The sample by each way of executing a plan."""
    model = network(xp.xp, plan.prediction)
    shapes = {"()": (), "(batch,)": x.shape[:1], "frames": x.shape[:2]}
    results = {}
    for kind in kinds:
        if kind == "table":
            table = plan.on(x)
            results[kind] = cmsched.sample(model, table, x, rng=rng, given=given)
            continue
        index = 0 if kind == "int" else xp.asarray(np.zeros(shapes[kind], np.int32))
        state = cmsched.init(plan, x, rng=rng, given=given, index=index)
        results[kind] = walk(plan, state, model, len(plan), rng, given).sample
    return results


def check_executions(xp, plan, shape=(2, 3, 2, 2), dtype="float64", seed=0, given=None, **kinds):
    """Check that run, int index, array index and table agree with the yardstick."""
    host = start_of(shape, seed)
    x = xp.asarray(host, dtype)
    given = given or given_of(plan, shape)
    here = None if given is None else {k: xp.asarray(v, dtype) for k, v in given.items()}
    expected = yardstick(plan, host, given=given)
    results = executions(xp, plan, x, given=here, **kinds)
    model = network(xp.xp, plan.prediction)
    results["run"] = cmsched.run(model, plan, x, rng=5, given=here)
    for name, result in results.items():
        assert result.dtype == x.dtype, name
        error = distance(xp, result, expected)
        assert error <= TOLERANCE[dtype] * condition(plan), f"{name}: {error}"


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_every_execution_agrees_with_the_loop(xp, sampler, options):
    plan = a_plan(sampler, options, projection="boundary")
    if xp.backend == "jax":  # each way compiles anew; see also the generated problems
        check_executions(xp, plan, kinds=["int", "frames"])
    else:
        check_executions(xp, plan)


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_generated_problems(xp, sampler, options):
    slow = xp.backend == "jax"  # each shape compiles anew
    shapes = [(2, 4, 2)] if slow else [(3,), (1, 1), (2, 4, 2), (0, 2, 3), (3, 2, 0), (2, 1, 3, 2)]
    if str(options.get("variance", "")).startswith("learned"):
        shapes = [shape for shape in shapes if len(shape) > 1]

    @settings(max_examples=2 if slow else 8)
    @given(plans(sampler, options), st.sampled_from(shapes), st.integers(0, 2**32 - 1))
    def check(plan, shape, seed):
        kinds = ["(batch,)", "table"] if slow else ["int", "()", "(batch,)", "table"]
        check_executions(xp, plan, shape, seed=seed, kinds=kinds)

    check()


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ddim", {}),
        ("ddpm", {"variance": "learned_range"}),
        ("heun", {"s_churn": 5.0}),
        ("dpmpp_multistep", {"solver_order": 3, "eta": 1.0}),
    ],
    ids=str,
)
def test_lower_precision_is_accumulated_higher(xp, sampler, options):
    kinds, projections = ["int", "()", "frames", "table"], list(PROJECTIONS)
    dtypes = [name for name in TOLERANCE if hasattr(xp.xp, name)]
    if xp.backend == "jax":  # each way compiles anew
        kinds, projections, dtypes = ["()"], ["boundary"], ["float32", "bfloat16"]
    for dtype in dtypes:
        for projection in projections:
            plan = a_plan(sampler, options, projection=projection)
            check_executions(xp, plan, dtype=dtype, kinds=kinds)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_single_number_is_a_sample(xp, projection):
    plan = a_plan("dpmpp_multistep", {"eta": 1.0}, projection=projection)
    x = xp.asarray(np.array(0.7))
    model = network(xp.xp, plan.prediction)
    expected = yardstick(plan, np.array(0.7))
    for result in (
        cmsched.run(model, plan, x, rng=5),
        cmsched.sample(model, plan, x, rng=5),
        cmsched.sample(model, plan.on(x), x, rng=5),
    ):
        assert tuple(result.shape) == ()
        assert distance(xp, result, np.asarray(expected)) < 1e-12


# given arrays, and draws before the first evaluation


def inpaint(x, grid, noise, image, mask, *, eta=0.0):
    """DDIM that puts the noised-up image back outside the mask after every step."""
    for a, b in grid.steps():
        x, x0, raw = yield Evaluate(x, a, eps=True)
        eps = (x - a.alpha * raw) / a.sigma
        known = b.alpha * image + b.sigma * noise()
        x = mask * (b.alpha * x0 + b.sigma * eps) + (1 - mask) * known
    return x


@pytest.mark.parametrize("projection", ["none", "clip"])
@pytest.mark.parametrize("soft", [False, True])
def test_given_image_and_mask(xp, soft, projection):
    with registered("inpaint"):
        register("inpaint", paper="", given=("image", "mask"), stochastic=True)(inpaint)
        plan = a_plan("inpaint", n=4, projection=projection)
        uniform = np.random.default_rng(1).uniform(size=(1, 1, 2, 2))
        arrays = {
            "image": start_of((2, 3, 2, 2), 9),
            "mask": uniform if soft else np.round(uniform),
        }
        check_executions(xp, plan, given=arrays)
        if xp.name != "strict":
            check_executions(xp, plan, dtype="float16", given=arrays, kinds=["int", "()"])
        copies = [plan, pickle.loads(pickle.dumps(plan)), cmsched.Plan.from_json(plan.to_json())]
        assert all(each.rows == plan.rows for each in copies)


@pytest.mark.parametrize("how", ["init", "step", "run", "estimate"])
def test_given_arrays_are_checked(xp, how):
    with registered("inpaint"):
        register("inpaint", paper="", given=("image", "mask"), stochastic=True)(inpaint)
        plan = a_plan("inpaint", n=2)
        x = xp.asarray(start_of((2, 3, 2)))
        good = {"image": x, "mask": xp.asarray(np.ones((1, 3, 1)))}
        state = cmsched.init(plan, x, given=good, index=0)

        def call(arrays):
            if how == "init":
                cmsched.init(plan, x, given=arrays)
            elif how == "run":
                cmsched.run(lambda x, t: x, plan, x, given=arrays, rng=1)
            elif how == "estimate":
                cmsched.estimate(plan, state, x, given=arrays)
            else:
                cmsched.step(plan, state, x, rng=1, given=arrays)

        call(good)
        for bad, error, words in [
            (None, ValueError, r"given.*image.*mask.*\[\]"),
            ({"image": x}, ValueError, r"given.*'image', 'mask'.*\['image'\]"),
            ({**good, "extra": x}, ValueError, "extra"),
            ({**good, "image": x[:1, ...]}, ValueError, r"given\['image'\] has shape \(1, 3, 2\)"),
            ({**good, "mask": xp.asarray(np.ones(3))}, ValueError, r"mask.*\(3,\)"),
            ({**good, "mask": xp.asarray(np.ones((1, 2, 3, 2)))}, ValueError, "mask.*broadcast"),
            ({**good, "mask": xp.asarray(np.ones((1, 3, 1), bool))}, TypeError, "mask.*bool"),
            ({**good, "image": [1.0]}, TypeError, r"given\['image'\]"),
            ([x, x], TypeError, "given must be a mapping"),
        ]:
            with pytest.raises(error, match=words):
                call(bad)


def test_given_arrays_nobody_asked_for(xp):
    plan = a_plan("ddim")
    x = xp.asarray(start_of((1, 2)))
    with pytest.raises(ValueError, match=r"given.*image"):
        cmsched.step(plan, cmsched.init(plan, x), x, given={"image": x})


def test_churn_draws_before_the_first_evaluation(xp):
    plan = a_plan("euler", {"s_churn": 40.0})
    assert plan.layout.start_draws == (0,)
    x = xp.asarray(start_of((2, 3)))
    for program in (plan, plan.on(x)):
        with pytest.raises(ValueError, match=r"before its first evaluation.*rng="):
            cmsched.init(program, x)
        first = cmsched.init(program, x, rng=5).sample
        scale = [c for _, c, _ in plan.start.terms]
        z = cmsched.noise.standard_normal(5, x, 0)
        expected = plan.grid.init_scale * scale[0] * xp.numpy(x) + scale[1] * xp.numpy(z)
        assert distance(xp, first, expected) < 1e-14


def test_image_to_image_start(xp):
    plan = a_plan("ddim", n=6).skip(3)
    first = plan.points[0]
    image, x = start_of((2, 3), 4), start_of((2, 3))
    expected = first.alpha * image + first.sigma * x
    for program in (plan, plan.on(xp.asarray(x))):
        state = cmsched.init(program, xp.asarray(x), x0=xp.asarray(image))
        assert distance(xp, state.sample, expected) < 1e-15
    model = network(xp.xp, plan.prediction)
    result = cmsched.run(model, plan, xp.asarray(x), x0=xp.asarray(image))
    assert distance(xp, result, yardstick(plan, x, x0=image)) < 1e-13


@pytest.mark.parametrize("kind", ["int", "()"])
def test_arrays_of_other_dtypes_are_converted(xp, kind):
    """The sample decides: a network in half or double precision changes nothing else."""
    dtypes = [name for name in TOLERANCE if hasattr(xp.xp, name)]
    if xp.backend == "jax":  # each pair compiles anew
        dtypes = ["float32", "float16"]
    index = 0 if kind == "int" else xp.asarray(np.zeros((), np.int32))
    for sampler, options in [("ddpm", {}), ("dpmpp_multistep", {"solver_order": 3})]:
        plan = a_plan(sampler, options, n=3, kind="v_prediction", schedule="ve")
        host = start_of((2, 3))
        for dtype in dtypes:
            x = xp.asarray(host, dtype)
            for other in dtypes:
                output = xp.asarray(host, other)  # exact in all of them but bfloat16
                noise = xp.asarray(host, other) if sampler == "ddpm" else None
                exact = "bfloat16" not in (dtype, other)
                states = [cmsched.init(plan, x, index=index)] * 2
                for _ in range(3):
                    same = xp.asarray(host, dtype)
                    states = [
                        cmsched.step(plan, states[0], output, noise=noise),
                        cmsched.step(plan, states[1], same, noise=None if noise is None else same),
                    ]
                arrays = [(state.sample, *state.memory) for state in states]
                for a, b in zip(*arrays, strict=True):
                    assert a.dtype == b.dtype == x.dtype
                    if exact:
                        assert distance(xp, a, xp.numpy(b).astype(np.float64)) <= TOLERANCE[dtype]


# purity


@pytest.mark.parametrize("kind", ["int", "()", "(batch,)", "table"])
def test_arguments_are_left_as_they_were(xp, kind):
    for name, options in [
        ("dpmpp_multistep", {"solver_order": 3, "eta": 1.0}),
        ("heun", {"s_churn": 5.0}),
        ("ddpm", {"variance": "learned"}),
    ]:
        plan = a_plan(name, options, projection="threshold", schedule="ve")
        x = xp.asarray(start_of((2, 3, 2)))
        before = xp.numpy(x).copy()
        model = network(xp.xp, plan.prediction)
        shape = {"(batch,)": (2,)}.get(kind, ())
        index = 0 if kind == "int" else xp.asarray(np.zeros(shape, np.int32))
        program = plan.on(x) if kind == "table" else plan
        state = cmsched.init(program, x, rng=5, index=index)
        for _ in range(len(plan)):
            held = [state.sample, *state.memory]
            values = [xp.numpy(a).copy() for a in held]
            inputs = cmsched.model_input(program, state)
            output = model(*inputs)
            noise = cmsched.draw(program, state, 5) or ()
            held += [*inputs, output, *noise]
            values += [xp.numpy(a).copy() for a in (*inputs, output, *noise)]
            following = cmsched.step(program, state, output, noise=noise or None)
            cmsched.estimate(program, state, output)
            cmsched.transition(program, state, output)
            for array, value in zip(held, values, strict=True):
                assert np.array_equal(xp.numpy(array), value)
            state = following
        assert np.array_equal(xp.numpy(x), before)


def test_what_a_plan_keeps_cannot_be_written_into():
    plan = a_plan("ddim")
    x = start_of((2, 3))
    _, t = cmsched.model_input(plan, cmsched.init(plan, x))
    with pytest.raises(ValueError, match="read-only"):
        t += 1
    with pytest.raises(ValueError, match="read-only"):
        plan.on(x).numbers[0, 0] = 2.0


@pytest.mark.parametrize("sampler", ["dpmpp_multistep", "ddpm"])
def test_a_finished_row_stays_as_it_is(xp, sampler):
    plan = a_plan(sampler, n=3)
    model = network(xp.xp, plan.prediction)
    x = xp.asarray(start_of((2, 3)))
    for shape in ((), (2,), (2, 3)):
        state = cmsched.init(plan, x, index=xp.asarray(np.zeros(shape, np.int32)))
        state = walk(plan, state, model, 3)
        assert np.all(xp.numpy(state.index) == 3)
        nan = xp.asarray(np.full((2, 3), np.nan))
        after = cmsched.step(plan, state, nan, noise=None if sampler != "ddpm" else nan)
        assert np.array_equal(xp.numpy(after.sample), xp.numpy(state.sample))
        assert np.array_equal(xp.numpy(after.index), xp.numpy(state.index))
        assert np.all(np.isfinite(xp.numpy(cmsched.estimate(plan, after, x).eps)))


def test_nan_stays_in_its_row(xp):
    plan = a_plan("dpmpp_multistep", {"solver_order": 3}, n=4, projection="threshold")
    model = network(xp.xp, plan.prediction)
    x = start_of((2, 3))
    broken = np.concatenate([x, np.full((1, 3), np.nan)])
    start = xp.asarray(np.array([0, 2, 4], np.int32))
    state = cmsched.init(plan, xp.asarray(broken), index=start)
    state = walk(plan, state, model, 4)
    good = walk(plan, cmsched.init(plan, xp.asarray(x), index=start[:2]), model, 4)
    assert np.array_equal(xp.numpy(state.sample)[:2], xp.numpy(good.sample))
    assert np.all(np.isnan(xp.numpy(state.sample)[2]))


def test_plans_of_rows_at_different_steps(xp):
    """A batch whose rows start late does to each row what a batch of its own does."""
    plan = a_plan("dpmpp_multistep", {"solver_order": 3, "eta": 1.0}, n=5)
    model = network(xp.xp, plan.prediction)
    x = xp.asarray(start_of((3, 4)))
    alone = cmsched.init(plan, x, index=xp.asarray(np.zeros(3, np.int32)))
    rows = [alone]
    for _ in range(5):
        rows.append(walk(plan, rows[-1], model, 1))
    at = [0, 2, 5]
    mixed = State(
        xp.xp.stack([rows[i].sample[k, ...] for k, i in enumerate(at)]),
        tuple(
            xp.xp.stack([rows[i].memory[m][k, ...] for k, i in enumerate(at)])
            for m in range(len(alone.memory))
        ),
        xp.asarray(np.array(at, np.int32)),
    )
    done = walk(plan, mixed, model, 5)
    assert np.array_equal(xp.numpy(done.sample), xp.numpy(rows[-1].sample))


# resume


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_resume_is_bitwise(xp, sampler, options):
    plan = a_plan(sampler, options, n=3, end="last")
    model = network(xp.xp, plan.prediction)
    x = xp.asarray(start_of((2, 3, 2)))
    arrays = given_of(plan, (2, 3, 2)) or {}
    arrays = {key: xp.asarray(value) for key, value in arrays.items()} or None
    state = cmsched.init(plan, x, rng=5, given=arrays)
    half = walk(plan, state, model, 2, given=arrays)
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    assert again.rows == plan.rows
    held = pickle.loads(pickle.dumps(half))
    resumed = walk(again, held, model, len(plan) - 2, given=arrays)
    straight = walk(plan, half, model, len(plan) - 2, given=arrays)
    assert np.array_equal(xp.numpy(resumed.sample), xp.numpy(straight.sample))


def test_states_of_another_plan_are_refused(xp):
    two = a_plan("dpmpp_multistep", {"solver_order": 2})
    three = a_plan("dpmpp_multistep", {"solver_order": 3})
    x = xp.asarray(start_of((2, 3)))
    state = cmsched.init(two, x)
    with pytest.raises(ValueError, match=r"state holds 1 stored arrays.*plan"):
        cmsched.step(three, state, x)
    assert cmsched.step(a_plan("dpmpp_multistep", n=9), state, x).memory


# noise does not depend on how the work is split


def test_batch_and_split_independence(xp):
    plan = a_plan("ddpm", n=4)
    model = network(xp.xp, plan.prediction)
    host = start_of((5, 3, 2))
    whole = cmsched.sample(model, plan, xp.asarray(host), rng=11)
    parts = [
        cmsched.sample(model, plan, xp.asarray(host[a:b]), rng=Rng(11, sample=range(a, b)))
        for a, b in [(0, 2), (2, 5)]
    ]
    split = np.concatenate([xp.numpy(part) for part in parts])
    assert distance(xp, whole, split) < 1e-14
    rows = cmsched.init(plan, xp.asarray(host), index=xp.asarray(np.zeros(5, np.int32)))
    by_row = walk(plan, rows, model, 4, rng=11)
    assert distance(xp, by_row.sample, split) < 1e-13


def test_loops_can_be_interleaved(xp):
    plan = a_plan("dpmpp_multistep", {"eta": 1.0})
    model = network(xp.xp, plan.prediction)
    starts = [xp.asarray(start_of((2, 3), seed)) for seed in (1, 2)]
    alone = [cmsched.sample(model, plan, x, rng=3) for x in starts]
    states = [cmsched.init(plan, x) for x in starts]
    for _ in range(len(plan)):
        states = [walk(plan, state, model, 1, rng=3) for state in states]
    for state, result in zip(states, alone, strict=True):
        assert np.array_equal(xp.numpy(state.sample), xp.numpy(result))


def test_threads_share_a_plan(xp):
    plan = a_plan("dpmpp_multistep", {"eta": 1.0}, n=20)
    model = network(xp.xp, plan.prediction)
    hosts = [start_of((2, 3), seed) for seed in range(8)]

    def work(host):
        return xp.numpy(cmsched.sample(model, plan, xp.asarray(host), rng=3))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, hosts))
    for host, result in zip(hosts, results, strict=True):
        assert np.array_equal(work(host), result)


def test_rng_and_drawn_noise_are_the_same(xp):
    plan = a_plan("ddpm")
    x = xp.asarray(start_of((2, 3)))
    for index in (0, xp.asarray(np.zeros(2, np.int32))):
        state = cmsched.init(plan, x, index=index)
        z = cmsched.draw(plan, state, 7)
        assert len(z) == 1
        by_rng = cmsched.step(plan, state, x, rng=7)
        for noise in (z, list(z), z[0]):
            by_noise = cmsched.step(plan, state, x, noise=noise)
            assert np.array_equal(xp.numpy(by_rng.sample), xp.numpy(by_noise.sample))


def test_a_draw_per_row_is_numbered_by_the_row(xp):
    plan = a_plan("ddpm", n=4)
    x = xp.asarray(start_of((3, 2)))
    index = xp.asarray(np.array([0, 1, 2], np.int32))
    state = cmsched.init(plan, x, index=0)._replace(index=index)
    (mixed,) = cmsched.draw(plan, state, 7)
    for k in range(3):
        (whole,) = cmsched.draw(plan, state._replace(index=k), 7)
        assert np.array_equal(xp.numpy(mixed)[k], xp.numpy(whole)[k])


# what a step reports


def test_estimate_inverts_the_marginal(xp):
    for schedule in ("scaled_linear", "ve", "flow"):
        plan = a_plan("ddim", n=3, schedule=schedule, kind="v_prediction")
        x = xp.asarray(start_of((2, 3)))
        state = cmsched.init(plan, x, index=0)
        state = walk(plan, state, network(xp.xp, plan.prediction), 1)
        at = plan.points[1]
        output = xp.asarray(start_of((2, 3), 1))
        index = xp.asarray(np.full(2, 1, np.int32))
        for each in (state, state._replace(index=index)):
            x0, eps, v = (xp.numpy(a) for a in cmsched.estimate(plan, each, output))
            sample = xp.numpy(state.sample)
            assert np.allclose(at.alpha * x0 + at.sigma * eps, sample, rtol=1e-13, atol=1e-13)
            size = at.scale * math.hypot(at.alpha, at.sigma)
            assert np.allclose(v, xp.numpy(output) / size, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["int", "(batch,)"])
@pytest.mark.parametrize(
    "settings",
    [
        {"clip": 0.7},
        {"threshold": (0.9, 1.5)},
        {"threshold": (0.5, 0.8)},
        {"threshold": (1.0, 2.0)},
    ],
    ids=str,
)
def test_projections_are_their_formulas(xp, settings, kind):
    """Clipping, and arXiv:2205.11487, section 2.3, with NumPy's quantile."""
    plan = make_plan("ddim", grid_of("linear", 3), Prediction("sample", **settings))
    output = start_of((4, 7), 3) * np.array([[0.2], [0.7], [1.0], [5.0]])
    if "clip" in settings:
        expected = np.clip(output, -0.7, 0.7)
    else:
        ratio, largest = settings["threshold"]
        level = np.quantile(np.abs(output), ratio, axis=1, keepdims=True)
        level = np.minimum(np.maximum(level, 1.0), largest)
        expected = np.clip(output, -level, level) / level
    x = xp.asarray(start_of((4, 7)))
    index = 0 if kind == "int" else xp.asarray(np.zeros(4, np.int32))
    state = cmsched.init(plan, x, index=index)
    found = cmsched.estimate(plan, state, xp.asarray(output))
    assert distance(xp, found.x0, expected) < 1e-14


def test_the_boundary_comes_after_the_projection(xp):
    """LCM's c_skip x + c_out x0, arXiv:2310.04378, section 4.1."""
    prediction = Prediction("sample", clip=0.7, timestep_scaling=0.001)
    plan = make_plan("consistency", grid_of("linear", 3), prediction)
    x, output = start_of((2, 3)), start_of((2, 3), 1)
    t = plan.points[0].t * 0.001
    skip, out = 0.25 / (t**2 + 0.25), t / math.sqrt(t**2 + 0.25)
    state = cmsched.init(plan, xp.asarray(x), index=0)
    sample = xp.numpy(state.sample)
    found = cmsched.estimate(plan, state, xp.asarray(output))
    assert distance(xp, found.x0, skip * sample + out * np.clip(output, -0.7, 0.7)) < 1e-14


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_callback_sees_every_evaluation(xp, projection):
    plan = a_plan("heun", n=3, projection=projection)
    model = network(xp.xp, plan.prediction)
    x = xp.asarray(start_of((2, 3)))
    seen = {"sample": [], "run": []}
    for name in seen:
        getattr(cmsched, name)(
            model, plan, x, callback=lambda *args, name=name: seen[name].append(args)
        )
    assert [i for i, _, _ in seen["sample"]] == list(range(len(plan)))
    for (i, state, x0), (j, other, other_x0) in zip(*seen.values(), strict=True):
        assert i == j
        assert distance(xp, state.sample, xp.numpy(other.sample)) < 1e-12
        assert distance(xp, x0, xp.numpy(other_x0)) < 1e-11


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ddpm", {"variance": "fixed_large"}),
        ("ddpm", {"variance": "learned_range"}),
        ("dpmpp_multistep", {"eta": 1.0}),
        ("euler", {"s_churn": 40.0}),
    ],
    ids=str,
)
def test_transition_is_the_law_of_the_step(xp, sampler, options):
    """Step with noise z is mean + std z; the density is the normal one, from its formula."""
    plan = a_plan(sampler, options)
    model = network(xp.xp, plan.prediction)
    x = xp.asarray(start_of((2, 3)))
    state = walk(plan, cmsched.init(plan, x, rng=5, index=0), model, 2)
    output = model(*cmsched.model_input(plan, state))
    z = start_of((2, 3), 8)
    for each in (state, state._replace(index=xp.asarray(np.full(2, 2, np.int32)))):
        law = cmsched.transition(plan, each, output)
        following = cmsched.step(plan, each, output, noise=xp.asarray(z)).sample
        std = law.std if isinstance(law.std, float) else xp.numpy(law.std)
        assert np.allclose(xp.numpy(following), xp.numpy(law.mean) + std * z, rtol=1e-12)
        expected = np.sum(-(z**2) / 2 - np.log(std * math.sqrt(2 * math.pi)), axis=1)
        assert np.allclose(xp.numpy(law.log_prob(following)), expected, rtol=1e-9)


def test_transition_of_a_masked_step(xp):
    with registered("inpaint"):
        register("inpaint", paper="", given=("image", "mask"), stochastic=True)(inpaint)
        plan = a_plan("inpaint", n=3)
        x = xp.asarray(start_of((2, 3)))
        arrays = {"image": x, "mask": xp.asarray(np.array([[0.0, 0.25, 0.5]]))}
        state = cmsched.init(plan, x, given=arrays, index=0)
        for index in (0, xp.asarray(np.zeros((), np.int32))):
            law = cmsched.transition(plan, state._replace(index=index), x, given=arrays)
            expected = plan.points[1].sigma * np.array([1.0, 0.75, 0.5])
            assert np.allclose(xp.numpy(law.std).reshape(-1)[-3:], expected)


def test_transition_without_noise_has_no_density(xp):
    plan = a_plan("ddim")
    x = xp.asarray(start_of((2, 3)))
    state = cmsched.init(plan, x)
    law = cmsched.transition(plan, state, x)
    assert law.std == 0.0
    assert distance(xp, law.mean, xp.numpy(cmsched.step(plan, state, x).sample)) == 0
    with pytest.raises(ValueError, match="no density"):
        law.log_prob(x)


# a new sampler


def test_ten_lines_make_a_sampler_and_its_tests(xp):
    with registered("gently"):

        @register("gently", paper="this test", order=1, stored=1, variants=({}, {"weight": 0.5}))
        def gently(x, grid, noise, *, weight=0.25):
            old = None
            for a, b in grid.steps():
                x, x0 = yield x, a
                mixed = x0 if old is None else (1 - weight) * x0 + weight * old
                eps = (x - a.alpha * mixed) / a.sigma
                old = x0
                x = b.alpha * mixed + b.sigma * eps
            return x

        mine = [param for param in traced_variants() if param.values[0] == "gently"]
        assert len(mine) == 2
        for param in mine:
            test_every_execution_agrees_with_the_loop(xp, *param.values)
            test_generated_problems(xp, *param.values)
            test_resume_is_bitwise(xp, *param.values)


def test_a_sampler_that_looks_at_the_data(xp):
    """It has no table: `sample` runs it, the pure functions say that they cannot."""
    with registered("adaptive"):

        @register("adaptive", paper="this test", traced=False)
        def adaptive(x, grid, noise):
            for a, b in grid.steps():
                x, x0 = yield x, a
                if float(abs(x[0, 0])) > 0:
                    x = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)
            return x

        plan = a_plan("adaptive", n=3)
        x = xp.asarray(start_of((2, 3)))
        model = network(xp.xp, plan.prediction)
        expected = yardstick(a_plan("ddim", n=3), start_of((2, 3)))
        assert distance(xp, cmsched.sample(model, plan, x), expected) < 1e-12
        for call in (
            lambda: cmsched.init(plan, x),
            lambda: cmsched.step(plan, State(x, (), 0), x),
            lambda: plan.on(x),
            lambda: plan.describe(),
        ):
            with pytest.raises(TypeError, match=r"cmsched\.run"):
                call()


# hostile input


def wrong_outputs(xp, x):
    host = xp.numpy(x)
    yield x[:1, ...], ValueError, r"output has shape \(1, 3\), the sample \(2, 3\)"
    yield xp.asarray(host[:, :1]), ValueError, r"output has shape \(2, 1\)"
    yield xp.asarray(host[None]), ValueError, r"output has shape \(1, 2, 3\)"
    yield xp.asarray(np.zeros(())), ValueError, r"output has shape \(\)"
    yield xp.asarray(np.ones((2, 3), np.int32)), TypeError, "output has dtype .*int32.*floating"
    yield xp.asarray(np.ones((2, 3), bool)), TypeError, "output has dtype .*bool.*floating"
    yield host.tolist(), TypeError, r"returned a list of 2: pass lambda x, t: model\(x, t\)\[0\]"
    yield None, TypeError, "must return an array.*None"
    if xp.backend == "numpy":
        import array_api_strict

        yield array_api_strict.asarray(host), TypeError, "output is an array of array_api_strict"
    else:
        yield host, TypeError, "output is an array of numpy, the sample one of"


@pytest.mark.parametrize("kind", ["int", "(batch,)"])
@pytest.mark.parametrize("function", ["step", "estimate", "transition"])
def test_wrong_outputs(xp, function, kind):
    plan = a_plan("ddim")
    x = xp.asarray(start_of((2, 3)))
    index = 0 if kind == "int" else xp.asarray(np.zeros(2, np.int32))
    state = cmsched.init(plan, x, index=index)
    before = xp.numpy(state.sample).copy()
    for output, error, words in wrong_outputs(xp, x):
        with pytest.raises(error, match=words):
            getattr(cmsched, function)(plan, state, output)
    assert np.array_equal(xp.numpy(state.sample), before)


def test_wrong_outputs_of_the_model(xp):
    plan = a_plan("ddim")
    x = xp.asarray(start_of((2, 3)))
    for output, error, words in wrong_outputs(xp, x):
        for way in (cmsched.run, cmsched.sample):
            with pytest.raises(error, match=words):
                way(lambda x, t, output=output: output, plan, x)


def test_a_variance_head_has_its_shapes(xp):
    plan = a_plan("ddpm", {"variance": "learned"})
    x = xp.asarray(start_of((2, 3)))
    state = cmsched.init(plan, x)
    with pytest.raises(ValueError, match=r"\(2, 9\).*equal or \(2, 6\)"):
        cmsched.step(plan, state, xp.asarray(np.zeros((2, 9))), rng=1)
    with pytest.raises(ValueError, match="learned variance needs an output with twice"):
        cmsched.step(plan, state, x, rng=1)
    with pytest.raises(ValueError, match="learned variance needs an output with twice"):
        cmsched.run(lambda x, t: x, plan, x, rng=1)


def test_wrong_starts(xp):
    plan = a_plan("ddim")
    x = xp.asarray(start_of((2, 3)))
    for noise, words in [
        (xp.asarray(np.ones((2, 3), np.int32)), "int32.*float32"),
        (xp.asarray(np.ones((2, 3), bool)), "bool.*float32"),
        ([0.0, 1.0], "noise: .*list.*convert"),
        (None, "noise: .*NoneType"),
    ]:
        for call in (
            lambda noise=noise: cmsched.init(plan, noise),
            lambda noise=noise: cmsched.sample(lambda x, t: x, plan, noise),
            lambda noise=noise: cmsched.run(lambda x, t: x, plan, noise),
        ):
            with pytest.raises(TypeError, match=words):
                call()
    for x0, error in [
        (x[:1, ...], ValueError),
        (xp.asarray(np.ones((2, 3), np.int32)), TypeError),
        (1.0, TypeError),
    ]:
        with pytest.raises(error, match="x0"):
            cmsched.init(plan, x, x0=x0)
        with pytest.raises(error, match="x0"):
            cmsched.run(lambda x, t: x, plan, x, x0=x0)


def test_wrong_indices(xp):
    plan = a_plan("ddim", n=3)
    x = xp.asarray(start_of((2, 3)))
    for index, error, words in [
        (-1, ValueError, "index=-1.*starts at 0"),
        (2, ValueError, "index=2.*skip"),
        (True, ValueError, "index=True"),
        (xp.asarray(np.zeros(2)), TypeError, "index must be an int.*float64"),
        (xp.asarray(np.zeros(3, np.int32)), ValueError, r"index has shape \(3,\)"),
        (xp.asarray(np.zeros(1, np.int32)), ValueError, r"index has shape \(1,\)"),
        (xp.asarray(np.zeros((2, 3, 1), np.int32)), ValueError, r"index has shape \(2, 3, 1\)"),
        ([0, 0], TypeError, "index: .*list"),
    ]:
        with pytest.raises(error, match=words):
            cmsched.init(plan, x, index=index)
    state = cmsched.init(plan, x, index=0)
    for index, words in [(-1, "must not be negative, got -1"), (3, "loop is over: index 3")]:
        bad = state._replace(index=index)
        for call in (
            lambda bad=bad: cmsched.step(plan, bad, x),
            lambda bad=bad: cmsched.model_input(plan, bad),
            lambda bad=bad: cmsched.draw(plan, bad, 0),
            lambda bad=bad: cmsched.estimate(plan, bad, x),
            lambda bad=bad: cmsched.transition(plan, bad, x),
        ):
            with pytest.raises(ValueError, match=words):
                call()
    shaped = state._replace(index=xp.asarray(np.zeros(3, np.int32)))
    with pytest.raises(ValueError, match=r"index has shape \(3,\)"):
        cmsched.step(plan, shaped, x)
    for call in (
        lambda: cmsched.init(plan.on(x), x, index=0),
        lambda: cmsched.model_input(plan.on(x), state),
        lambda: cmsched.step(plan.on(x), state, x),
    ):
        with pytest.raises(TypeError, match="table or a stack needs an array index"):
            call()
    with pytest.raises(TypeError, match=r"run.*pass a plan, no table"):
        cmsched.run(lambda x, t: x, plan.on(x), x)


@pytest.mark.parametrize("kind", ["int", "(batch,)"])
def test_wrong_noise(xp, kind):
    plan = a_plan("ddpm")
    x = xp.asarray(start_of((2, 3)))
    index = 0 if kind == "int" else xp.asarray(np.zeros(2, np.int32))
    state = cmsched.init(plan, x, index=index)
    with pytest.raises(ValueError, match=r"draws noise: pass rng=.*noise=cmsched\.draw"):
        cmsched.step(plan, state, x)
    with pytest.raises(ValueError, match=r"draws noise: pass rng="):
        cmsched.draw(plan, state, None)
    for noise, error, words in [
        ((), ValueError, "noise has 0 arrays.*draws 1"),
        ((x, x), ValueError, "noise has 2 arrays.*draws 1"),
        (x[:1, ...], ValueError, r"noise has shape \(1, 3\)"),
        (xp.asarray(np.ones((2, 3), np.int32)), TypeError, "noise has dtype"),
        ([0.0], TypeError, "noise: .*float"),
        ("gaussian", TypeError, "noise: .*str"),
    ]:
        with pytest.raises(error, match=words):
            cmsched.step(plan, state, x, noise=noise)
    with pytest.raises(ValueError, match="either rng or noise"):
        cmsched.step(plan, state, x, rng=1, noise=x)
    with pytest.raises(TypeError, match="rng="):
        cmsched.step(plan, state, x, rng="seed")
    quiet = a_plan("ddim")
    with pytest.raises(ValueError, match=r"noise has 1 arrays.*draws none: leave noise out"):
        cmsched.step(quiet, cmsched.init(quiet, x, index=index), x, noise=x)
    assert cmsched.draw(quiet, cmsched.init(quiet, x, index=index), None) is None


def test_the_last_step_of_ddpm_draws_nothing(xp):
    plan = a_plan("ddpm", n=2, end="zero")
    x = xp.asarray(start_of((2, 3)))
    state = cmsched.init(plan, x, index=0)._replace(index=1)
    assert cmsched.draw(plan, state, None) is None
    with pytest.raises(ValueError, match="draws none"):
        cmsched.step(plan, state, x, noise=x)
    cmsched.step(plan, state, x)


def test_a_callable_rng_is_told_the_interval(xp):
    plan = a_plan("ddpm", n=2)
    x = xp.asarray(start_of((2, 3)))
    seen = []

    def rng(shape, dtype, interval):
        seen.append((shape, dtype, interval))
        return x

    cmsched.step(plan, cmsched.init(plan, x, index=0), x, rng=rng)
    points = plan.grid.points
    assert seen == [((2, 3), x.dtype, (points[0].lam, points[1].lam))]


def test_every_public_function_has_the_documented_signature():
    shown = {
        name: list(inspect.signature(getattr(cmsched, name)).parameters)
        for name in ("init", "model_input", "draw", "step", "estimate", "sample", "run")
    }
    assert shown == {
        "init": ["plan", "noise", "x0", "given", "rng", "index", "which"],
        "model_input": ["plan", "state"],
        "draw": ["plan", "state", "rng"],
        "step": ["plan", "state", "output", "rng", "noise", "given"],
        "estimate": ["plan", "state", "output", "given"],
        "sample": [
            *("model", "plan", "noise", "x0", "given", "rng"),
            *("callback", "progress", "unroll"),
        ],
        "run": [
            *("model", "plan", "noise", "x0", "given", "rng"),
            *("callback", "progress", "return_info", "report"),
        ],
    }


def test_progress_shows_a_bar(xp, capsys):
    plan = a_plan("ddim", n=3)
    x = xp.asarray(start_of((1, 2)))
    for way in (cmsched.sample, cmsched.run):
        way(lambda x, t: x, plan, x, progress=True)
        assert "3/3" in capsys.readouterr().err


def test_copies_of_a_state_are_independent():
    plan = a_plan("dpmpp_multistep")
    state = cmsched.init(plan, start_of((2, 3)))
    other = copy.deepcopy(state)
    other.sample[:] = 0
    assert np.any(state.sample != 0)


def test_plans_on_a_hard_grid_name_the_sampler():
    with pytest.raises(ValueError, match=r"dpm_multistep.*step 4"):
        make_plan("dpm_multistep", grid_of("linear", 5), prediction_of("epsilon", "none", {}), {})
