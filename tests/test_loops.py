"""Whole loops: what they touch, who may share a plan, and what may not spread through them.

`test_torch` and `test_jax` show that no loop of pure functions reads a value back; here are the
rest of a device's demands, many loops on one plan, and arrays that are not used.
"""

import dataclasses
import itertools
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import array_api_compat.numpy
import numpy as np
import pytest
from conftest import few
from problems import a_plan, given_of, network, start_of, traced_variants
from scheduling import DEFAULTS, build, label, native

import cmsched
from cmsched import State
from cmsched.backends import threefry
from cmsched.samplers import REGISTRY

SHAPE = (2, 3, 4)
# a memoryless sampler, one that draws, one of two evaluations, and ones with a history
FAMILIES = [
    ("ddim", {}),
    ("ddpm", {"variance": "learned_range"}),
    ("heun", {"s_churn": 5.0}),
    ("dpmpp_multistep", {"solver_order": 3, "eta": 1.0}),
    ("unipc", {}),
]
SETTINGS = ({}, {"kind": "sample", "end": "zero"}, {"projection": "boundary"})
SAMPLERS = [
    pytest.param(name, entry.variants[0], id=name)
    for name, entry in REGISTRY.items()
    if entry.traced
]


def walk(program, state, model, n, rng=None, noise=lambda state: None, given=None):
    """Take n steps by hand."""
    for _ in range(n):
        output = model(*cmsched.model_input(program, state))
        z = noise(state)
        state = cmsched.step(program, state, output, rng=None if z else rng, noise=z, given=given)
    return state


def same(xp, a, b):
    """Whether two states hold the same numbers, bit by bit."""
    return all(
        np.array_equal(xp.numpy(x), xp.numpy(y), equal_nan=True)
        for x, y in zip((a.sample, *a.memory), (b.sample, *b.memory), strict=True)
    )


# what a device asks for


@pytest.mark.parametrize("visit", DEFAULTS, ids=label)
def test_a_stateful_loop_reads_nothing_back(torch, visit):
    """Tensors without data: whatever asked for a value would fail."""
    scheduler = build(visit)
    x = torch.empty(SHAPE, device="meta")
    plan = scheduler.plan(4)
    if not plan.traced or plan.layout.given:
        pytest.skip("no step of a loop over timesteps")
    scheduler.set_timesteps(4)
    wide = torch.empty((2, 6, 4), device="meta") if plan.prediction.variance_head else x
    for t in scheduler.timesteps:
        assert scheduler.scale_model_input(x, t).device.type == "meta"
        out = scheduler.step(wide, t, x, generator=torch.Generator().manual_seed(0))
        for field in out.values():
            assert (field.shape, field.dtype, field.device) == (x.shape, x.dtype, x.device)
        x = out.prev_sample


@pytest.mark.parametrize("visit", DEFAULTS, ids=label)
def test_a_stateful_loop_can_be_traced(jax, visit):
    """Values that do not exist cannot be read."""
    scheduler = build(visit)
    plan = scheduler.plan(3)
    if not plan.traced or plan.layout.given:
        pytest.skip("no step of a loop over timesteps")
    shape = jax.ShapeDtypeStruct(SHAPE, jax.numpy.float32)

    def loop(x, key):
        scheduler.set_timesteps(3)
        for t in scheduler.timesteps:
            output = jax.numpy.tanh(scheduler.scale_model_input(x, t))
            x = scheduler.step(output, t, x, generator=key).prev_sample
        return x

    out = jax.eval_shape(loop, shape, jax.random.key(0))
    assert (out.shape, out.dtype) == (shape.shape, shape.dtype)


@pytest.mark.parametrize(("sampler", "options"), SAMPLERS)
def test_no_loop_transfers_anything(jax, sampler, options):
    plan = a_plan(sampler, options, n=3)
    model = jax.jit(network(jax.numpy, plan.prediction))
    x = jax.numpy.asarray(start_of(SHAPE))
    given = given_of(plan, SHAPE)
    given = given and {name: jax.numpy.asarray(array) for name, array in given.items()}
    key, table = jax.random.key(3), plan.on(x)
    index = jax.numpy.zeros((2,), jax.numpy.int32)
    start = cmsched.init(table, x, rng=key, given=given, index=index)
    expected = walk(table, start, model, len(plan), key, given=given)  # compiles
    with jax.transfer_guard("disallow"):
        start = cmsched.init(table, x, rng=key, given=given, index=index)
        state = walk(table, start, model, len(plan), key, given=given)
    assert np.array_equal(state.sample, expected.sample)


def refusing_doubles(torch, device):
    """A mode that raises where an operation makes float64 on a device."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for out in tree_leaves(result):
                if isinstance(out, torch.Tensor) and out.device.type == device:
                    assert out.dtype != torch.float64, f"{function} makes float64"
            return result

    return Mode()


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_torch_puts_no_double_on_a_device(torch, sampler, options):
    """From a plan that was never used on: meta stands for a device without float64."""
    import array_api_compat.torch as namespace

    for projection in ("none", "threshold"):
        plan = a_plan(sampler, options, n=3, projection=projection, schedule="ve")
        plan = dataclasses.replace(plan)  # one that has placed nothing yet
        model = network(namespace, plan.prediction)
        x = torch.empty(SHAPE, device="meta")
        given = dict.fromkeys(given_of(plan, SHAPE) or (), x) or None
        with refusing_doubles(torch, "meta"):
            with pytest.raises(AssertionError, match="makes float64"):
                x.double()
            for shape in (None, (), (2,)):
                index = 0
                if shape is not None:
                    index = torch.zeros(shape, dtype=torch.int32, device="meta")
                rng = torch.Generator().manual_seed(0)
                state = cmsched.init(plan, x, given=given, rng=rng, index=index)
                for _ in range(len(plan)):
                    output = model(*cmsched.model_input(plan, state))
                    cmsched.estimate(plan, state, output, given=given)
                    cmsched.transition(plan, state, output, given=given)
                    state = cmsched.step(plan, state, output, rng=rng, given=given)


def test_torch_draws_without_doubles(torch):
    """As on a device: by tensor operations, not through NumPy."""
    import array_api_compat.torch as namespace

    key = tuple(torch.tensor([5, 6], dtype=torch.int32) for _ in range(2))
    with refusing_doubles(torch, "cpu"):
        for row in (3, torch.tensor([1, 2])):
            spec = threefry.NoiseSpec(SHAPE, torch.float32, torch.device("cpu"), row)
            z = threefry.normals(namespace, key, spec)
            assert z.dtype == torch.float32


def avals(jaxpr):
    """Every abstract value in a jaxpr and in those within it."""
    from jax.extend.core import jaxprs_in_params

    for equation in jaxpr.eqns:
        for variable in (*equation.invars, *equation.outvars):
            yield equation.primitive.name, variable.aval
        for inner in jaxprs_in_params(equation.params):
            yield from avals(inner)


def is_double(aval):
    """Whether a value is an array of float64; a number is one until it is converted."""
    return getattr(aval, "dtype", None) == np.float64 and aval.shape != ()


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_jax_has_no_double_in_the_loop(jax, sampler, options):
    """With 64 bits switched on, where nothing else would show them."""
    assert jax.config.jax_enable_x64
    plan = a_plan(sampler, options, n=2, projection="threshold", schedule="ve")
    model = network(jax.numpy, plan.prediction)
    x = jax.numpy.asarray(start_of(SHAPE), jax.numpy.float32)
    given = given_of(plan, SHAPE)
    given = given and {k: jax.numpy.asarray(v, jax.numpy.float32) for k, v in given.items()}
    table, key = plan.on(x), jax.random.key(1)
    assert table.numbers.dtype == jax.numpy.float32

    def loop(table, x, given, unroll):
        return cmsched.sample(model, table, x, rng=key, given=given, unroll=unroll)

    def one(table, x, given):
        state = cmsched.init(table, x, rng=key, given=given)
        output = model(*cmsched.model_input(table, state))
        estimate = cmsched.estimate(table, state, output, given=given)
        return estimate, cmsched.transition(table, state, output, given=given)

    traces = [jax.make_jaxpr(loop, static_argnums=3)(table, x, given, u) for u in (False, True)]
    traces.append(jax.make_jaxpr(one)(table, x, given))
    for trace in traces:
        found = list(avals(trace.jaxpr))
        assert len(found) > 10
        assert not {name for name, aval in found if is_double(aval)}
    trace = jax.make_jaxpr(lambda x: x.astype("float64").astype("float32"))(x)
    assert any(is_double(aval) for _, aval in avals(trace.jaxpr))


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_the_plain_backend_makes_no_double(monkeypatch, sampler, options):
    """The expressions that any namespace runs: every array of this one is made in one place."""
    import array_api_strict
    from array_api_strict._array_object import Array

    plan = a_plan(sampler, options, n=3, projection="threshold", schedule="ve")
    model = network(array_api_strict, plan.prediction)
    float32 = array_api_strict.float32
    x = array_api_strict.asarray(start_of(SHAPE), dtype=float32)
    given = given_of(plan, SHAPE)
    given = given and {k: array_api_strict.asarray(v, dtype=float32) for k, v in given.items()}
    made = []
    new = Array._new.__func__

    def refusing(cls, array, *args, **kwargs):
        assert array.dtype != np.float64 or array.shape == ()  # which numbers are made into
        made.append(array.shape)
        return new(cls, array, *args, **kwargs)

    monkeypatch.setattr(Array, "_new", classmethod(refusing))
    for index in (0, array_api_strict.zeros((2,), dtype=array_api_strict.int32)):
        state = cmsched.init(plan, x, given=given, rng=5, index=index)
        for _ in range(len(plan)):
            output = model(*cmsched.model_input(plan, state))
            cmsched.estimate(plan, state, output, given=given)
            state = cmsched.step(plan, state, output, rng=5, given=given)
    assert made.count(SHAPE) > 2 * len(plan)
    with pytest.raises(AssertionError):
        array_api_strict.zeros(3, dtype=array_api_strict.float64)


@pytest.mark.parametrize(("sampler", "options"), FAMILIES, ids=str)
def test_numpy_takes_half_the_memory_in_single_precision(sampler, options):
    """Call by call, at the worst moment: a double in a loop of singles would show as a whole."""
    shape = (1, 2, 1 << 15)
    peaks = {}
    for dtype in ("float32", "float64"):
        plan = a_plan(sampler, options, n=4, projection="clip", schedule="ve")
        model = network(array_api_compat.numpy, plan.prediction)
        x = start_of(shape).astype(dtype)
        found = peaks[dtype] = []
        rng = np.random.default_rng(0)

        def watched(function, *args, found=found, **kwargs):
            tracemalloc.start()
            result = function(*args, **kwargs)
            found.append(tracemalloc.get_traced_memory()[1] / (1 << 16))
            tracemalloc.stop()
            return result

        for index in (0, np.zeros(1, np.int32)):
            first = found.copy()
            for _ in range(2):  # the first loop fills what is kept
                del found[len(first) :]
                state = watched(cmsched.init, plan, x, rng=rng, index=index)
                for _ in range(len(plan)):
                    output = model(*watched(cmsched.model_input, plan, state))
                    watched(cmsched.estimate, plan, state, output)
                    z = watched(cmsched.draw, plan, state, rng)
                    state = watched(cmsched.step, plan, state, output, noise=z)
        assert len(found) == 2 * (1 + 4 * len(plan))
        assert max(found) > 3 * x.itemsize  # three arrays at least
    small = 0.2  # bytes an element: objects that are no arrays
    assert np.all(np.abs(np.array(peaks["float64"]) / 2 - np.array(peaks["float32"])) < small)


# many loops, one plan


@pytest.mark.parametrize("kind", ["int", "array", "table", "stack"])
@pytest.mark.parametrize(("sampler", "options"), FAMILIES, ids=str)
def test_eight_threads_share_a_plan(xp, sampler, options, kind):
    """From its first use on, all at once, each with a start of its own."""
    model = network(xp.xp, a_plan(sampler, options).prediction)
    starts = [xp.asarray(start_of(SHAPE, seed)) for seed in range(8)]
    gate = threading.Barrier(8)

    def loop(plan, k):
        x = starts[k]
        program, more = plan, {"index": 0 if kind == "int" else xp.asarray(np.zeros(2, np.int32))}
        if kind == "table":
            program = plan.on(x)
        if kind == "stack":
            program, more = cmsched.stack([plan, plan]), {"which": [k % 2, 1]}
        state = cmsched.init(program, x, rng=k, **more)
        return walk(program, state, model, len(plan), rng=k)

    def together(plan, k):
        gate.wait()
        return loop(plan, k)

    plan, alone = (dataclasses.replace(a_plan(sampler, options, n=4)) for _ in range(2))
    assert alone is not plan
    with ThreadPoolExecutor(8) as pool:
        shared = list(pool.map(lambda k: together(plan, k), range(8)))
    for k in range(8):
        assert same(xp, shared[k], loop(alone, k))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_eight_threads_with_large_arrays(xp, dtype):
    """Above the size from which rows may be compiled, or taken in blocks."""
    model = lambda x, t: x * 0.5  # noqa: E731
    hosts = [start_of((2, 1 << 19), seed) for seed in range(2)]
    starts = [xp.asarray(host, dtype) for host in hosts]

    def loop(plan, k):
        index = xp.asarray(np.zeros(2, np.int32)) if k % 4 < 2 else 0
        return walk(plan, cmsched.init(plan, starts[k % 2], index=index), model, len(plan))

    plan = a_plan("dpmpp_multistep", {"solver_order": 3}, n=4)
    plan, other = dataclasses.replace(plan), dataclasses.replace(plan)
    with ThreadPoolExecutor(8) as pool:
        shared = list(pool.map(lambda k: loop(plan, k), range(8)))
    alone = [loop(other, k) for k in range(4)]
    for k in range(8):
        assert same(xp, shared[k], alone[k % 4])


@pytest.mark.parametrize("kind", ["int", "array"])
@pytest.mark.parametrize(("sampler", "options"), FAMILIES, ids=str)
def test_two_loops_in_any_order(xp, sampler, options, kind):
    """Loops of two plans, each with a generator of its own, in turns that chance decides."""
    plans = [a_plan(sampler, options, n=n, schedule=s) for n, s in [(3, "linear"), (5, "cosine")]]
    model = network(xp.xp, plans[0].prediction)
    starts = [xp.asarray(start_of(SHAPE, seed)) for seed in (1, 2)]

    def begin(k):
        index = 0 if kind == "int" else xp.asarray(np.zeros(2, np.int32))
        rng = native(xp, k)
        return cmsched.init(plans[k], starts[k], rng=rng, index=index), rng

    alone = []
    for k in range(2):
        state, rng = begin(k)
        alone.append(walk(plans[k], state, model, len(plans[k]), rng))
    loops = [begin(k) for k in range(2)]
    turns = [k for k in range(2) for _ in range(len(plans[k]))]
    for k in np.random.default_rng(7).permutation(turns):
        state, rng = loops[k]
        loops[k] = walk(plans[k], state, model, 1, rng), rng
    for (state, _), expected in zip(loops, alone, strict=True):
        assert same(xp, state, expected)


# what is not used does not spread


def read(plan):
    """For every row the values that it or a later row reads; values are numbered as in `Layout`."""
    layout = plan.layout
    sample, output = 0, 1
    wanted, rows = {layout.next_sample}, []
    for i, row in reversed([*enumerate(plan.rows)]):
        reads = {value: {value} for value in range(layout.x0)}
        for value, drawn in row.draws:
            reads[value] = {value, output} if drawn.log_range is not None else {value}
        if plan.prediction.projects:
            p, q, skip, out = row.estimate
            terms = {sample: (p * out, skip), output: (q * out,)}
            reads[layout.x0] = {v for v, numbers in terms.items() if any(numbers)}
        for value, sources, weights, _ in row.program:
            used = [reads[v] for v, c in zip(sources, weights, strict=True) if c != 0.0]
            reads[value] = set().union(*used)
        rows.append(set().union(*(reads[value] for value in wanted)))
        memory = [v - 2 for v in rows[-1] if 2 <= v < layout.first_draw]
        # the network reads every sample
        wanted = {layout.next_sample, *(plan.rows[i - 1].stores_from[slot] for slot in memory)}
    return rows[::-1]


def poisoned_loop(xp, plan, index, poison):
    """The sample of a loop in which what no row will read is poison, and how often that was."""
    layout = plan.layout
    model = network(xp.xp, plan.prediction)
    x = xp.asarray(start_of(SHAPE))
    bad = xp.asarray(np.resize([np.nan, np.inf, -np.inf], SHAPE))
    given = given_of(plan, SHAPE)
    given = given and {name: xp.asarray(array) for name, array in given.items()}
    state = cmsched.init(plan, x, rng=5, given=given, index=index)
    count = 0

    def unless(used, value, array):
        nonlocal count
        if used or not poison:
            return array
        count += 1
        return bad

    for row, values in zip(plan.rows, read(plan), strict=True):
        sample, memory, at = state
        shown = cmsched.model_input(plan, state)
        output = model(*shown)
        memory = tuple(unless(2 + k in values, 2 + k, array) for k, array in enumerate(memory))
        sample = unless(0 in values, 0, sample)
        if output.shape == sample.shape:
            output = unless(1 in values, 1, output)
        clean = cmsched.draw(plan, state, 5) or ()
        numbers = range(layout.first_draw, layout.first_given)
        if isinstance(at, int):
            numbers = [value for value, _ in row.draws]
        z = [unless(v in values, v, z) for v, z in zip(numbers, clean, strict=True)]
        arrays = given
        if given:
            arrays = dict(given)
            for k, name in enumerate(layout.given):
                value = layout.first_given + k
                arrays[name] = unless(value in values, value, given[name])
        state = cmsched.step(
            plan, State(sample, memory, at), output, noise=tuple(z) or None, given=arrays
        )
    return xp.numpy(state.sample), count


@pytest.mark.parametrize("kind", ["int", "()", "(batch,)"])
@pytest.mark.parametrize("sampler", [name for name, entry in REGISTRY.items() if entry.traced])
def test_what_is_not_used_does_not_spread(xp, sampler, kind):
    """NaN and infinity in memory not filled yet or read no more, in draws and outputs left out."""
    shapes = {"()": (), "(batch,)": (2,)}
    variants = few(REGISTRY[sampler].variants)
    variants = variants if xp.backend == "numpy" else variants[:1]
    for options, settings in itertools.product(variants, SETTINGS):
        try:
            plan = a_plan(sampler, options, n=4, **settings)
        except ValueError:  # it has no such step
            assert settings.get("end")
            continue
        index = 0 if kind == "int" else xp.asarray(np.zeros(shapes[kind], np.int32))
        expected, _ = poisoned_loop(xp, plan, index, poison=False)
        assert np.all(np.isfinite(expected))
        with np.errstate(invalid="ignore"):  # a product that is not looked at
            result, count = poisoned_loop(xp, plan, index, poison=True)
        assert np.array_equal(result, expected)
        assert count >= len(plan.layout.slots)  # at least the memory that is not filled yet


# captured once, replayed with other numbers


def numbers_of(table):
    return [getattr(table, name) for name in ("numbers", "where", "start")]


def captured_loop(plan, model):
    """A function of a table's tensors and the start alone."""
    layout, n = plan.layout, len(plan)

    def loop(numbers, where, start, index, x):
        table = cmsched.Table(layout, numbers, where, start)
        return walk(table, cmsched.init(table, x, index=index), model, n).sample

    return loop


DETERMINISTIC = [
    ("ddim", {}),
    ("heun", {}),
    ("dpmpp_multistep", {"solver_order": 3}),
    ("unipc", {}),
]


@pytest.mark.parametrize(("sampler", "options"), DETERMINISTIC, ids=str)
@pytest.mark.parametrize("shape", [(), (2,)], ids=str)
def test_a_recording_serves_another_plan(torch, sampler, options, shape):
    """As a CUDA graph is: the operations of one loop, repeated on the table of another plan."""
    import array_api_compat.torch as namespace
    from torch.fx.experimental.proxy_tensor import make_fx

    plans = [a_plan(sampler, options, n=4, schedule=s) for s in ("linear", "scaled_linear")]
    model = network(namespace, plans[0].prediction)
    x = torch.tensor(start_of(SHAPE))
    index = torch.zeros(shape, dtype=torch.int32)
    arguments = [[*numbers_of(plan.on(x)), index, x] for plan in plans]
    recording = make_fx(captured_loop(plans[0], model), tracing_mode="fake")(*arguments[0])
    results = [recording(*given) for given in arguments]
    for plan, result in zip(plans, results, strict=True):
        expected = cmsched.run(model, plan, x)
        assert torch.allclose(result, expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(*results, rtol=1e-3, atol=1e-3)


# on a GPU


@pytest.fixture
def cuda(torch):
    """PyTorch on a GPU; whatever mode a test leaves is undone."""
    if not torch.cuda.is_available():
        assert "cupy" not in os.environ.get("CMSCHED_REQUIRE_BACKENDS", ""), "no CUDA device"
        pytest.skip("no CUDA device")
    yield torch
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("rng", ["native", "portable"])
@pytest.mark.parametrize("shape", [None, (), (2,)], ids=str)
@pytest.mark.parametrize(("sampler", "options"), SAMPLERS)
def test_a_loop_on_cuda_waits_for_nothing(cuda, sampler, options, shape, rng):
    import array_api_compat.torch as namespace

    plan = a_plan(sampler, options, n=4, projection="threshold", schedule="ve")
    model = network(namespace, plan.prediction)
    generator = cuda.Generator("cuda").manual_seed(0) if rng == "native" else 5
    x = cuda.tensor(start_of(SHAPE), dtype=cuda.float32, device="cuda")
    given = given_of(plan, SHAPE)
    given = given and {k: cuda.tensor(v).to(x) for k, v in given.items()}
    index = 0 if shape is None else cuda.zeros(shape, dtype=cuda.int32, device="cuda")
    if shape is not None:
        plan.on(x)
    state = cmsched.init(plan, x, rng=generator, given=given, index=index)
    cmsched.draw(plan, state, generator)  # and what the generator keeps
    cmsched.model_input(plan, state)  # places the times, or the table
    cuda.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="synchroniz"):
        x.sum().item()
    state = cmsched.init(plan, x, rng=generator, given=given, index=index)
    state = walk(plan, state, model, len(plan), generator, given=given)
    cuda.cuda.set_sync_debug_mode("default")
    assert state.sample.device == x.device
    assert state.sample.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(), (2,)], ids=str)
@pytest.mark.parametrize(("sampler", "options"), DETERMINISTIC, ids=str)
def test_a_cuda_graph_serves_another_plan(cuda, sampler, options, shape):
    import array_api_compat.torch as namespace

    plans = [a_plan(sampler, options, n=4, schedule=s) for s in ("linear", "scaled_linear")]
    model = network(namespace, plans[0].prediction)
    x = cuda.tensor(start_of(SHAPE), device="cuda")
    index = cuda.zeros(shape, dtype=cuda.int32, device="cuda")
    tables = [numbers_of(plan.on(x)) for plan in plans]
    held = [tensor.clone() for tensor in tables[0]]
    loop = captured_loop(plans[0], model)
    aside = cuda.cuda.Stream()
    aside.wait_stream(cuda.cuda.current_stream())
    with cuda.cuda.stream(aside):  # what is allocated at first use
        loop(*held, index, x)
    cuda.cuda.current_stream().wait_stream(aside)
    graph = cuda.cuda.CUDAGraph()
    with cuda.cuda.graph(graph):
        result = loop(*held, index, x)
    for plan, numbers in [*zip(plans, tables, strict=True)][::-1]:
        cuda.cuda.set_sync_debug_mode("error")
        for old, new in zip(held, numbers, strict=True):
            old.copy_(new)
        graph.replay()
        cuda.cuda.set_sync_debug_mode("default")
        expected = cmsched.run(model, plan, x)
        assert cuda.allclose(result, expected, rtol=1e-10, atol=1e-10)
