"""What only JAX has: jit, scan, vmap, grad, shardings, transfer guards and 32 bits by default."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from problems import a_plan, given_of, network, registered, start_of, traced_variants

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import cmsched  # noqa: E402
from cmsched.samplers import register  # noqa: E402

KEY = jax.random.key(5)  # portable noise takes seconds to compile
FAMILIES = [
    ("ddpm", {"variance": "learned_range"}),
    ("heun", {}),
    ("dpmpp_multistep", {"solver_order": 3}),
]


def array(shape, seed=0):
    return jnp.asarray(start_of(shape, seed))


def close(a, b, tolerance=1e-12):
    return np.max(np.abs(np.asarray(a) - np.asarray(b))) <= tolerance * max(1, np.max(np.abs(b)))


@pytest.mark.parametrize(("sampler", "options"), FAMILIES, ids=str)
def test_scan_unroll_and_loop_agree(sampler, options):
    plan = a_plan(sampler, options, n=3, projection="clip", schedule="ve")
    model = network(jnp, plan.prediction)
    x = array((2, 3, 2))
    expected = cmsched.sample(model, plan, x, rng=KEY)
    for recipe, unroll in [(plan, False), (plan, True), (plan.on(x), True)]:
        loop = jax.jit(
            lambda x, recipe=recipe, unroll=unroll: cmsched.sample(
                model, recipe, x, rng=KEY, unroll=unroll
            )
        )
        with jax.checking_leaks():
            assert close(loop(x), expected)


def test_one_compilation_for_each_layout_and_length():
    x = array((2, 3))
    traces = []

    def loop(table, x):
        traces.append(len(table))
        return cmsched.sample(network(jnp, table.layout.prediction), table, x, rng=KEY)

    compiled = jax.jit(loop)
    for n, schedule in [(4, "linear"), (4, "scaled_linear"), (4, "cosine"), (6, "linear")]:
        plan = a_plan("dpmpp_multistep", {"eta": 1.0}, n=n, schedule=schedule)
        model = network(jnp, plan.prediction)
        assert close(compiled(plan.on(x), x), cmsched.run(model, plan, x, rng=KEY), 1e-9)
    assert traces == [4, 6]
    compiled(a_plan("ddpm", n=4).on(x), x)
    assert traces == [4, 6, 4]


def test_a_step_with_a_traced_index_compiles_once():
    plan = a_plan("ddpm", n=3)
    model = network(jnp, plan.prediction)
    x = array((2, 3))
    traces = []

    def step(table, state):
        traces.append(1)
        output = model(*cmsched.model_input(table, state))
        return cmsched.step(table, state, output, rng=5)

    compiled = jax.jit(step)
    for shape in ((), (2,)):
        state = cmsched.init(plan, x, rng=5, index=jnp.zeros(shape, jnp.int32))
        for _ in range(len(plan)):
            state = compiled(plan.on(x), state)
        assert close(state.sample, cmsched.run(model, plan, x, rng=5))
    assert len(traces) == 2


def test_eager_steps_compile_once():
    plan = a_plan("dpmpp_multistep", {"solver_order": 3}, n=8)
    x = array((2, 3, 5))
    state = cmsched.init(plan, x)
    assert isinstance(state.index, jax.Array)
    state = cmsched.step(plan, state, x)
    cmsched.model_input(plan, state)
    compiled = []

    def listen(event, _seconds, **_):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    for _ in range(6):
        cmsched.model_input(plan, state)
        state = cmsched.step(plan, state, x)
    assert compiled == []
    jax.jit(lambda x: x + 1)(x)
    assert compiled  # the listener hears what there is to hear


def test_vmap_over_samples_and_plans():
    model_of = lambda plan: network(jnp, plan.prediction)  # noqa: E731
    plans = [a_plan("dpmpp_multistep", n=4, schedule=s) for s in ("linear", "scaled_linear")]
    x = array((2, 3, 2))
    alone = [[cmsched.sample(model_of(plan), plan, x[k]) for k in range(2)] for plan in plans]
    over_samples = jax.vmap(lambda x: cmsched.sample(model_of(plans[0]), plans[0], x))(x)
    for k in range(2):
        assert close(over_samples[k], alone[0][k])
    tables = jax.tree_util.tree_map(lambda *a: jnp.stack(a), *[plan.on(x) for plan in plans])
    over_plans = jax.vmap(
        lambda table: cmsched.sample(model_of(plans[0]), table, x[0]), in_axes=(0,)
    )(tables)
    for k in range(2):
        assert close(over_plans[k], alone[k][0])


def test_vmap_with_portable_noise():
    plan = a_plan("ddpm", n=3)
    model = network(jnp, plan.prediction)
    x = array((2, 4, 3))
    mapped = jax.vmap(lambda x: cmsched.sample(model, plan, x, rng=5))(x)
    for k in range(2):
        assert close(mapped[k], cmsched.sample(model, plan, x[k], rng=5))


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize(("sampler", "options"), FAMILIES, ids=str)
def test_gradients_agree_with_differences(sampler, options, unroll):
    plan = a_plan(sampler, options, n=2)
    model = network(jnp, plan.prediction)
    direction = array((2, 3), 7)

    @jax.jit
    def value(x):
        return jnp.sum(jnp.cos(cmsched.sample(model, plan, x, rng=KEY, unroll=unroll)))

    x, h = array((2, 3)), 1e-5
    slope = jnp.sum(jax.grad(value)(x) * direction)
    difference = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
    assert abs(slope - difference) < 1e-6 * max(1, abs(difference))


def test_gradients_with_respect_to_the_table():
    plan = a_plan("ddim", n=3)
    model = network(jnp, plan.prediction)
    x = array((2, 3))

    def value(numbers):
        table = cmsched.Table(plan.layout, numbers, plan.on(x).where, plan.on(x).start)
        return jnp.sum(cmsched.sample(model, table, x))

    numbers, h = plan.on(x).numbers, 1e-6
    slope = jax.grad(value)(numbers)
    bump = jnp.zeros_like(numbers).at[-1, 1].set(h)
    difference = (value(numbers + bump) - value(numbers - bump)) / (2 * h)
    assert abs(slope[-1, 1] - difference) < 1e-6 * max(1, abs(difference))


def test_only_the_network_is_traced():
    """Noise is concrete: the loop is unrolled around a network whose weights are not."""
    plan = a_plan("dpmpp_multistep", {"eta": 1.0}, n=3)
    x = array((2, 3))

    def value(weight):
        return jnp.sum(cmsched.sample(lambda x, t: jnp.tanh(x * weight + t), plan, x, rng=KEY))

    with jax.checking_leaks():
        slope = jax.jit(jax.grad(value))(0.3)
    h = 1e-6
    difference = (value(0.3 + h) - value(0.3 - h)) / (2 * h)
    assert abs(slope - difference) < 1e-6 * max(1, abs(difference))
    # and the concrete loop is none the worse for it, with an int index too
    assert np.isfinite(np.asarray(value(0.3)))

    def by_hand(weight):
        state = cmsched.init(plan, x, index=0)
        for _ in range(len(plan)):
            x_in, t = cmsched.model_input(plan, state)
            state = cmsched.step(plan, state, jnp.tanh(x_in * weight + t), rng=KEY)
        return jnp.sum(state.sample)

    with jax.checking_leaks():
        assert close(jax.jit(by_hand)(0.3), value(0.3))
    assert close(by_hand(0.3), value(0.3))


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_no_loop_reads_anything_back(sampler, options):
    """Values that do not exist cannot be read."""
    plan = a_plan(sampler, options, n=3, projection="threshold", schedule="ve")
    model = network(jnp, plan.prediction)
    shape = jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)
    names = dict.fromkeys(given_of(plan, shape.shape) or (), shape) or None
    for unroll in (False, True):
        out = jax.eval_shape(
            lambda x, given, unroll=unroll: cmsched.sample(
                model, plan, x, given=given, rng=KEY, unroll=unroll
            ),
            shape,
            names,
        )
        assert (out.shape, out.dtype) == (shape.shape, shape.dtype)


def test_nothing_is_transferred_in_the_loop():
    plan = a_plan("dpmpp_multistep", {"solver_order": 3, "eta": 1.0}, n=4, projection="clip")
    model = jax.jit(network(jnp, plan.prediction))
    x = array((2, 3))
    key = jax.random.key(3)
    for rng in (5, key):
        for shape in ((), (2,)):
            start = cmsched.init(plan, x, index=jnp.zeros(shape, jnp.int32))
            for guard in ("allow", "disallow"):  # the first loop compiles and places the table
                state = start
                with jax.transfer_guard(guard):
                    for _ in range(len(plan)):
                        output = model(*cmsched.model_input(plan, state))
                        state = cmsched.step(plan, state, output, rng=rng)
                        cmsched.estimate(plan, state, output)
            assert np.all(np.isfinite(np.asarray(state.sample)))
    with jax.transfer_guard("disallow"):
        cmsched.sample(model, plan, x, rng=5)


def test_keys_do_not_repeat_their_noise():
    plan = a_plan("ddpm", n=4)
    x = array((2, 3))
    state = cmsched.init(plan, x)
    key = jax.random.key(0)
    draws = []
    for _ in range(3):
        (z,) = cmsched.draw(plan, state, key)
        draws.append(np.asarray(z))
        state = cmsched.step(plan, state, x, noise=z)
    assert len({z.tobytes() for z in draws}) == 3
    model = network(jnp, plan.prediction)
    loop = jax.jit(lambda key: cmsched.sample(model, plan, x, rng=key))
    assert close(loop(key), cmsched.sample(model, plan, x, rng=key))


def test_callbacks_need_concrete_arrays():
    plan = a_plan("ddim", n=2)
    x = array((2, 3))
    show = lambda *args: None  # noqa: E731
    for keywords in ({"callback": show}, {"progress": True}):
        with pytest.raises(ValueError, match="concrete arrays; call sample outside jit"):
            jax.jit(lambda x, k=keywords: cmsched.sample(lambda x, t: x, plan, x, **k))(x)
    with pytest.raises(ValueError, match="callback needs concrete arrays"):
        jax.jit(lambda w: cmsched.sample(lambda x, t: x * w, plan, x, callback=show))(0.5)


def test_states_are_donated():
    """No two arrays of a state share a buffer."""
    plan = a_plan("dpmpp_multistep", {"solver_order": 3}, n=4)
    x = array((2, 3))
    step = jax.jit(
        lambda table, state, output: cmsched.step(table, state, output), donate_argnums=1
    )
    state = cmsched.init(plan, x + 0)
    for _ in range(4):
        state = step(plan.on(x), state, x)
    assert np.all(np.isfinite(np.asarray(state.sample)))


def test_a_sampler_without_a_table_runs_inside_jit():
    with registered("bare"):

        @register("bare", paper="this test", traced=False)
        def bare(x, grid, noise):
            for a, b in grid.steps():
                x, x0 = yield x, a
                x = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)
            return x

        plan = a_plan("bare", n=3)
        model = network(jnp, plan.prediction)
        x = array((2, 3))
        result = jax.jit(lambda x: cmsched.sample(model, plan, x))(x)
        assert close(result, cmsched.sample(model, a_plan("ddim", n=3), x))


def run_alone(code, **environment):
    """Run code in a process of its own, with warnings as errors."""
    environment = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(["tests", "."])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_without_64_bits():
    run_alone(
        """
        import jax, jax.numpy as jnp, numpy as np
        import cmsched
        from problems import a_plan, network, start_of

        for sampler, options in [("ddpm", {}), ("heun", {})]:
            plan = a_plan(sampler, options, n=4)
            host = start_of((2, 3))
            x = jnp.asarray(host, jnp.float32)
            model = network(jnp, plan.prediction)
            results = [
                cmsched.sample(model, plan, x, rng=5),
                jax.jit(lambda x: cmsched.sample(model, plan, x, rng=5))(x),
                cmsched.run(model, plan, x, rng=5),
            ]
            state = cmsched.init(plan, x, index=0)
            for _ in range(len(plan)):
                x_in, t = cmsched.model_input(plan, state)
                assert t.dtype == jnp.int32
                state = cmsched.step(plan, state, model(x_in, t), rng=5)
            import array_api_compat.numpy as xp
            expected = cmsched.run(network(xp, plan.prediction), plan, host, rng=5)
            for result in (*results, state.sample):
                assert result.dtype == jnp.float32
                assert np.abs(np.asarray(result) - expected).max() < 1e-4 * np.abs(expected).max()
        try:
            cmsched.Rng(0).normal((2, 3), xp="jax", dtype="float64")
        except ValueError as error:
            assert "jax_enable_x64" in str(error) and "float64" in str(error)
        else:
            raise AssertionError
    """,
        JAX_ENABLE_X64="0",
    )


def test_sharded_samples_stay_sharded():
    run_alone(
        """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec
        import cmsched
        from problems import a_plan, network, start_of

        mesh = jax.make_mesh((4,), ("batch",))
        host = start_of((8, 3, 2)).astype(np.float32)
        sharding = NamedSharding(mesh, PartitionSpec("batch"))
        x = jax.device_put(host, sharding)
        for sampler, options in [("dpmpp_multistep", {"eta": 1.0}), ("heun", {})]:
            plan = a_plan(sampler, options, n=3)
            model = network(jnp, plan.prediction)
            expected = cmsched.sample(model, plan, jnp.asarray(host), rng=5)
            loop = jax.jit(lambda table, x: cmsched.sample(model, table, x, rng=5))
            for result in (cmsched.sample(model, plan, x, rng=5), loop(plan.on(x), x)):
                assert result.sharding.is_equivalent_to(sharding, result.ndim), result.sharding
                assert np.allclose(result, expected, rtol=1e-4, atol=1e-4)
    """,
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
