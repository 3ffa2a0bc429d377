"""A row in one pass over memory against the plain chain of `combine`, however it is evaluated."""

import ctypes
import shutil
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise

import array_api_compat.numpy
import numpy as np
import pytest
from conftest import left_out
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import a_plan, network, start_of, traced_variants

import cmsched
from cmsched import backends
from cmsched.backends import base, fused, jitted

NUMPY = backends.named("numpy")
needs_numba = pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed")
needs_torch = pytest.mark.usefixtures("torch")
# "wired" is what PyTorch does where numba is, but with blocks: it needs no numba
WAYS = [pytest.param("numba", marks=needs_numba), "blocks", "wired"]
BLOCK = 5


def use(monkeypatch, way, least=1):
    """Take rows of `least` elements on in one pass, this way; return a list of what is taken."""
    for name, value in [("LEAST", least), ("LEAST_BLOCKS", least), ("BLOCK", BLOCK)]:
        monkeypatch.setattr(fused, name, value)
    if find_spec("torch") and "torch" not in left_out():
        from cmsched.backends import torch_rows

        monkeypatch.setattr(torch_rows, "THREADS", 1 << 20)  # however many this machine has
    if way != "numba":
        monkeypatch.setattr(jitted, "numba", lambda: "wired" if way == "wired" else None)
        monkeypatch.setattr(jitted, "installed", lambda: way == "wired")
        monkeypatch.setattr(fused, "compiled", fused.blocks)
    taken, evaluate = [], fused.evaluate

    def counting(*arguments):
        taken.append(arguments[0])
        return evaluate(*arguments)

    monkeypatch.setattr(fused, "evaluate", counting)
    return taken


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    return use(monkeypatch, request.param)


@pytest.fixture(params=WAYS[::2])
def torch_way(request, monkeypatch, torch):
    return use(monkeypatch, request.param)


def chain(statements, values, weights):
    """What statements make of values by `Backend.combine`, one after another."""
    values = [*values, *[None] * (1 + max(value for value, _ in statements) - len(values))]
    wanted = [value for value, _ in statements]
    base.Backend.combinations(NUMPY, statements, wanted, values, weights, weights.dtype)
    return values


# statements

WEIGHTS = st.sampled_from([0.0, 1.0, -1.0]) | st.floats(0.1, 3) | st.floats(-3, -0.1)


@st.composite
def problems(draw):
    """Statements of 1 to 12 terms over inputs and earlier results, with numbers for them."""
    given, made = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    statements = []
    for value in range(given, given + made):
        sources = st.lists(st.integers(0, value - 1), min_size=1, max_size=12)
        statements.append((value, tuple(draw(sources))))
    unwanted = (
        draw(st.sets(st.integers(given, given + made - 2), max_size=made)) if made > 1 else ()
    )
    wanted = tuple(value for value, _ in statements if value not in unwanted)
    dtype = draw(st.sampled_from(["float32", "float64"]))
    rows = draw(st.integers(1, 3))
    size = draw(st.sampled_from([1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 2]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = [rng.standard_normal((rows, size)).astype(dtype) for _ in range(given)]
    sources = [source for _, sources in statements for source in sources]
    weights = np.array([[draw(WEIGHTS) for _ in range(rows)] for _ in sources], dtype)
    if draw(st.booleans()):  # one that is not looked at
        hidden, row = draw(st.integers(0, given - 1)), draw(st.integers(0, rows - 1))
        weights[[k for k, source in enumerate(sources) if source == hidden], row] = 0
        values[hidden][row] = draw(st.sampled_from([np.nan, np.inf]))
    return tuple(statements), wanted, values, weights


def check_statements(statements, wanted, values, weights):
    kept = [v.copy() for v in values]
    for v in values[::2]:
        v.flags.writeable = False
    got = fused.evaluate(statements, wanted, values, weights)
    expected = chain(statements, kept, weights[:, :, None])
    assert tuple(got) == wanted
    for value, result in got.items():
        assert (result.dtype, result.shape) == (kept[0].dtype, kept[0].shape)
        assert result.flags.writeable
        assert np.all(np.isfinite(result))
        np.testing.assert_array_equal(result, expected[value])
        assert not any(np.shares_memory(result, v) for v in values)
    assert not any(np.shares_memory(got[a], got[b]) for a in wanted for b in wanted if a != b)
    for k, (value, copy) in enumerate(zip(values, kept, strict=True)):
        np.testing.assert_array_equal(value, copy)
        assert value.flags.writeable == bool(k % 2)


@settings(max_examples=200)
@given(problem=problems())
def test_blocks_are_the_chain(monkeypatch, problem):
    with monkeypatch.context() as patch:
        use(patch, "blocks")
        check_statements(*problem)


@needs_numba
@settings(max_examples=20)  # each is compiled
@given(problem=problems())
def test_compiled_is_the_chain(problem):
    check_statements(*problem)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_plans_are_the_chain(way, dtype):
    """All the different structures, with several rows whose weights are numbers of plans."""
    seen = set()
    for parameter in traced_variants():
        plan = a_plan(*parameter.values, n=4)
        layout = plan.layout
        if layout.masked or (layout.statements, layout.results) in seen:
            continue
        seen.add((layout.statements, layout.results))
        if dtype == "float32" and len(seen) > 4:  # each is compiled
            break
        numbers = plan.on(np.zeros(1, dtype)).numbers
        weights = np.ascontiguousarray(numbers[-len(layout.terms) :, [0, 2, -1]])
        shape = (3, 2 * BLOCK + 1)
        count = 1 + max(fused.inputs(layout.statements))
        values = [start_of(shape, seed).astype(dtype) for seed in range(count)]
        for k in range(1, count):
            values[k][-1] = np.nan  # the column of the end looks at nothing but the sample
        got = fused.evaluate(layout.statements, layout.results, values, weights)
        expected = chain(layout.statements, values, weights[:, :, None])
        for value in layout.results:
            np.testing.assert_array_equal(got[value], expected[value])
        np.testing.assert_array_equal(got[layout.next_sample][-1], values[0][-1])
    assert len(seen) > 4


# what is taken


def test_what_suits(monkeypatch):
    statements = ((3, (0, 1)), (4, (0, 3)))
    dtype = np.dtype("float32")
    x = np.zeros((4, 6), dtype)

    def suits(a=x, b=x, dtype=dtype, rows=1):
        return fused.suits([a, b, None, None, None], statements, dtype, rows)

    use(monkeypatch, "wired", least=24)
    assert suits()
    assert suits(rows=24)
    assert not suits(x[:, :5], x[:, :5])
    assert not suits(x[:3], x[:3])
    assert not suits(b=x.astype("float64"))
    assert not suits(b=None)
    assert not suits(b=x[:1])
    assert not suits(b=np.asfortranarray(x))
    assert not suits(b=x.reshape(6, 4))
    assert not suits(b=np.broadcast_to(np.zeros((4, 1), dtype), x.shape))
    assert not suits(b=x.view(np.ma.MaskedArray))
    for other in (np.dtype("float16"), np.dtype(">f4")):
        assert not suits(x.astype(other), x.astype(other), other)
    use(monkeypatch, "blocks", least=24)
    assert suits()
    assert suits(rows=4)
    assert not suits(rows=5)  # shorter than a block
    monkeypatch.setattr(fused, "LEAST_BLOCKS", 25)
    assert not suits()


def test_small_rows_are_left_alone(monkeypatch):
    taken = use(monkeypatch, "wired", least=25)
    for size in (24, 25):
        plan, x = fresh("ddim"), start_of((1, size))
        for index in (0, np.zeros((), np.int32)):
            cmsched.step(plan, cmsched.init(plan, x, index=index), x)
        assert len(taken) == (2 if size == 25 else 0)


# whole loops


def fresh(sampler, options=None, **arguments):
    """A plan whose kernels and tables are not made yet."""
    plan = a_plan(sampler, options, **arguments)
    plan._kernels.clear()
    plan._tables.clear()
    return plan


def walk(plan, x, index, to=np.asarray, back=np.asarray):
    """Outputs and states of a loop; the network and the noise are NumPy's, the same everywhere."""
    model = network(array_api_compat.numpy, plan.prediction)
    state = cmsched.init(plan, to(x), index=index, rng=5)
    yield to(x), state
    for _ in range(len(plan)):
        scaled, t = cmsched.model_input(plan, state)
        output = to(model(back(scaled), back(t)))
        state = cmsched.step(plan, state, output, rng=5)
        yield output, state


def shared(steps):
    """Which of the arrays before, given to and after each step share memory, as numbers."""
    found = []
    for (_, one), (output, other) in pairwise(steps):
        arrays = [one.sample, *one.memory, output, other.sample, *other.memory]
        arrays = list(enumerate(map(np.asarray, arrays)))
        found.append([(i, j) for i, a in arrays for j, b in arrays if np.shares_memory(a, b)])
    return found


def same(steps, others, tolerance=None):
    for (_, one), (_, other) in zip(steps, others, strict=True):
        for a, b in zip((one.sample, *one.memory), (other.sample, *other.memory), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            assert a.dtype == b.dtype
            assert np.all(np.isfinite(a))
            if tolerance is None:
                np.testing.assert_array_equal(a, b)
            else:
                scale = max(1.0, np.abs(b).max())
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_loops_of_every_sampler(monkeypatch, sampler, options):
    kinds = {"int": 0, "()": np.zeros((), np.int32), "rows": np.zeros(2, np.int32)}
    x = start_of((2, 3, 4))
    plan = fresh(sampler, options)
    if plan.layout.masked:
        pytest.skip("a mask is not fused")
    with monkeypatch.context() as patch:
        use(patch, "blocks", least=10**9)
        plain = {kind: list(walk(plan, x, index)) for kind, index in kinds.items()}
    for way in ("numba", "blocks") if find_spec("numba") else ("blocks",):
        with monkeypatch.context() as patch:
            taken = use(patch, way)
            plan._kernels.clear()
            for kind, index in kinds.items():
                # an int index takes a row's own terms, unit weights first
                before, tolerance = len(taken), 1e-13 if kind == "int" else None
                fast = list(walk(plan, x, index))
                same(fast, plain[kind], tolerance)
                rows_that_draw = [len(row.draws) == len(plan.layout.draws) for row in plan.rows]
                steps = sum(rows_that_draw) if kind == "int" else len(plan)
                learned = any(is_learned for _, is_learned in plan.layout.draws)
                if not learned:  # half of an output is no array of its own
                    assert len(taken) - before == steps
                for now, before in zip(shared(fast), shared(plain[kind]), strict=True):
                    assert {*now} <= {*before}
    plan._kernels.clear()


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_loops_of_every_sampler_in_torch(torch_way, sampler, options):
    import torch

    taken = torch_way
    plan = fresh(sampler, options)
    if plan.layout.masked or any(is_learned for _, is_learned in plan.layout.draws):
        pytest.skip("not fused")
    x = start_of((2, 3, 4))
    for shape in ((), (2,), None):
        index, other = (0, 0) if shape is None else (np.zeros(shape, np.int32),) * 2
        if shape is not None:
            other = torch.zeros(shape, dtype=torch.int32)
        before = len(taken)
        expected = list(walk(plan, x, index))
        middle = len(taken)
        states = list(walk(plan, x, other, torch.tensor, lambda a: a.numpy()))
        full = [len(row.draws) == len(plan.layout.draws) for row in plan.rows]
        assert len(taken) - middle == middle - before == (sum(full) if shape is None else len(plan))
        others = shape is None and not all(full)  # rows that are not taken
        for _, state in states:
            assert all(type(a) is torch.Tensor for a in (state.sample, *state.memory))
        same(states, expected, 1e-13 if others or plan.layout.start_draws else None)
        assert shared(states) == shared(expected)
    plan._kernels.clear()


def test_dead_slots_stay_arrays_of_their_own(torch_way):
    """Where nothing is stored, a slot keeps what it held: not the array of another slot."""
    import torch

    plan = fresh("dpmpp_multistep", {"solver_order": 3}, n=4)
    x = torch.tensor(start_of((2, 12)))
    state = cmsched.init(plan, x)
    for row in plan.rows:
        output = torch.tanh(state.sample)
        dead = [k for k, v in enumerate(row.stores_from) if v == 2 + k]
        new = cmsched.step(plan, state, output)
        assert all(new.memory[k] is state.memory[k] for k in dead)
        held = [x, output, state.sample, new.sample, *new.memory]
        assert len({a.data_ptr() for a in held}) == len(held) - (state.sample is x)
        state = new
    assert any(v == 2 + k for row in plan.rows for k, v in enumerate(row.stores_from))
    plan._kernels.clear()


@pytest.mark.parametrize("index", ["int", "array"])
def test_results_may_be_written_into(torch_way, index):
    import torch

    plan = fresh("dpmpp_multistep", n=4)
    x = torch.tensor(start_of((2, 12)))
    state = cmsched.init(plan, x, index=0 if index == "int" else torch.zeros((), dtype=torch.int32))
    state = cmsched.step(plan, state, x)
    output = torch.tanh(state.sample)
    held = [x, output, state.sample, *state.memory]
    copies, table = [a.clone() for a in held], plan.on(x).numbers.clone()
    new = cmsched.step(plan, state, output)
    again = cmsched.step(plan, state, output)
    assert torch_way
    assert new.sample._version == 0
    new.sample.mul_(2).add_(1)
    for a, copy in zip(held, copies, strict=True):
        assert torch.equal(a, copy)
    assert torch.equal(new.sample, again.sample * 2 + 1)
    assert torch.equal(plan.on(x).numbers, table)
    if index == "array":
        new.index.add_(1)
        assert (int(state.index), int(again.index)) == (1, 2)
    plan._kernels.clear()


def test_read_only_arrays_and_their_flags(way):
    for index in (0, np.zeros((), np.int32)):
        plan, x = fresh("dpmpp_multistep", n=3), start_of((2, 12))
        frozen = np.tanh(x)
        frozen.flags.writeable = False
        state = cmsched.init(plan, x, index=index)
        for output in (frozen, x, frozen):
            state = cmsched.step(plan, state, output)
            assert state.sample.flags.writeable
        assert x.flags.writeable
        assert not frozen.flags.writeable
    assert way


def test_threads_share_a_row(way):
    plan = fresh("unipc", n=4)
    x = start_of((2, 30))
    index = np.zeros(2, np.int32)

    def work(k):
        return [state.sample for _, state in walk(plan, x, 0 if k % 2 else index)]

    expected = work(0), work(1)

    with ThreadPoolExecutor(8) as pool:
        for k, got in enumerate(pool.map(work, range(32))):
            np.testing.assert_array_equal(got, expected[k % 2])
    assert way


# what is not taken gives the same numbers as before

LAYOUTS = {
    "transposed": lambda a: a.swapaxes(1, 2).copy().swapaxes(1, 2),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "broadcast": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "fortran": np.asfortranarray,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "index", [0, np.zeros((), np.int32), np.zeros(2, np.int32)], ids=["int", "()", "rows"]
)
def test_layouts_fall_back(way, monkeypatch, layout, index):
    plan, x = fresh("dpmpp_multistep", n=3), LAYOUTS[layout](start_of((2, 3, 4)))
    assert not x.flags.c_contiguous
    state = cmsched.init(plan, x, index=index)
    got = cmsched.step(plan, state, x).sample
    assert not way
    with monkeypatch.context() as patch:
        use(patch, "blocks", least=10**9)
        np.testing.assert_array_equal(cmsched.step(plan, state, x).sample, got)


@pytest.mark.parametrize(("sample", "output"), [("float16", "float16"), ("float32", "float64")])
def test_dtypes_fall_back_or_are_converted(way, monkeypatch, sample, output):
    for index in (0, np.zeros((), np.int32), np.zeros(2, np.int32)):
        plan, x = fresh("dpmpp_multistep", n=3), start_of((2, 12)).astype(sample)
        state = cmsched.init(plan, x, index=index)
        got = cmsched.step(plan, state, np.tanh(x).astype(output))
        assert got.sample.dtype == x.dtype
        assert bool(way) == (sample == "float32")
        with monkeypatch.context() as patch:
            use(patch, "blocks", least=10**9)
            expected = cmsched.step(plan, state, np.tanh(x).astype(output))
            same([(x, got)], [(x, expected)], 1e-6)


def watched():
    """Things that follow what is done to tensors, as functions of (step, output)."""
    import torch
    from torch.autograd import forward_ad
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen += "add" in str(func)
            return func(*args, **(kwargs or {}))

    def mode(step, output):
        with Mode() as spy:
            result = step(output)
        assert spy.seen
        return result

    def jit(step, output):
        return torch.jit.trace(step, (torch.zeros_like(output),), check_trace=False)(output)

    def forward(step, output):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(output, torch.ones_like(output))
            return forward_ad.unpack_dual(step(dual)).tangent

    def backward(step, output):
        output = output.clone().requires_grad_()
        step(output).sum().backward()
        return output.grad

    def no_grad(step, output):
        with torch.no_grad():
            return step(output.clone().requires_grad_())

    def inference(step, output):
        with torch.inference_mode():
            result = step(output * 1)
        assert result.is_inference()
        return result.clone()

    def compiled(step, output):
        torch._dynamo.reset()
        return torch.compile(step, backend="eager", fullgraph=True)(output)

    def vmap(step, output):
        return torch.func.vmap(step)(torch.stack([output, output]))[1]

    def negated(step, output):
        hidden = torch.complex(torch.zeros_like(output), -output).conj().imag
        assert hidden.is_neg()
        return step(hidden)

    return {
        "mode": mode,
        "jit": jit,
        "fx": lambda step, output: make_fx(step)(torch.zeros_like(output))(output),
        "forward": forward,
        "jvp": lambda step, output: torch.func.jvp(step, (output,), (output,))[1],
        "backward": backward,
        "no_grad": no_grad,
        "inference": inference,
        "compiled": compiled,
        "vmap": vmap,
        "negated": negated,
        "parameter": lambda step, output: step(torch.nn.Parameter(output)).detach(),
        "channels": lambda step, output: step(output.to(memory_format=torch.channels_last)),
        "half": lambda step, output: step(output.half()),
        "double": lambda step, output: step(output.double()),
    }


WATCHED = (
    *("mode", "jit", "fx", "forward", "jvp", "backward", "no_grad", "inference", "compiled"),
    *("vmap", "negated", "parameter", "channels", "half", "double"),
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("index", ["int", "()", "(batch,)"])
@pytest.mark.parametrize("what", WATCHED)
def test_what_is_followed_or_unusual_falls_back(torch_way, monkeypatch, what, index):
    import torch

    from cmsched.backends import torch_rows

    warnings.simplefilter("ignore", torch.jit.TracerWarning)
    plan = fresh("dpmpp_multistep", n=4)
    # small numbers: traces take a float for equal only to their own tolerance
    x = torch.tensor(start_of((2, 3, 2, 2)), dtype=torch.float32)
    shapes = {"()": (), "(batch,)": (2,)}
    at = 0 if index == "int" else torch.zeros(shapes[index], dtype=torch.int32)
    state = cmsched.init(plan, x, index=at)
    state = cmsched.step(plan, state, torch.tanh(x))
    table = plan if index == "int" else plan.on(x)
    torch_way.clear()
    torch_rows._number.cache_clear()

    def step(output):
        return cmsched.step(table, state, output).sample

    got = watched()[what](step, torch.tanh(state.sample))
    # with an int index an output of another dtype is converted first
    assert bool(torch_way) == (
        what == "inference" or (index == "int" and what in ("half", "double"))
    )
    after = step(torch.tanh(state.sample))  # nothing is left behind
    assert type(after) is torch.Tensor
    assert len(torch_way) > 0
    with monkeypatch.context() as patch:
        use(patch, "blocks")  # PyTorch uses none
        plan._kernels.clear()
        expected = watched()[what](step, torch.tanh(state.sample))
        torch.testing.assert_close(after, step(torch.tanh(state.sample)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert got.abs().max() > 0.01
    plan._kernels.clear()


@pytest.mark.parametrize("index", ["int", "array"])
def test_fake_tensors_and_no_data(torch_way, index):
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    def steps(x):
        at = 0 if index == "int" else torch.zeros((), dtype=torch.int32, device=x.device)
        plan = fresh("dpmpp_multistep", n=3)
        state = cmsched.init(plan, x, index=at)
        for _ in range(3):
            state = cmsched.step(plan, state, x)
        return state.sample

    with FakeTensorMode():
        assert type(steps(torch.zeros(2, 12))) is FakeTensor
    assert steps(torch.zeros(2, 12, device="meta")).is_meta
    assert not torch_way
    assert type(steps(torch.zeros(2, 12))) is torch.Tensor
    assert torch_way


def test_other_functions_of_a_table(torch_way):
    """Model input, estimate, start and transition of large tensors go through NumPy as well."""
    import torch

    index = np.zeros(2, np.int32)
    for sampler in ("ddpm", "heun"):
        for shape in [(2,), (2, 12)]:
            plan, x = fresh(sampler, n=3), start_of(shape)
            results = []
            for to in (np.asarray, torch.tensor):
                state = cmsched.init(plan, to(x), index=to(index), rng=5)
                output = to(np.tanh(x))
                moved = cmsched.transition(plan, state, output)
                found = (
                    *(state.sample, *cmsched.model_input(plan, state), *moved),
                    *cmsched.estimate(plan, state, output),
                )
                results.append(found)
            for a, b in zip(*results, strict=True):
                if not isinstance(b, float):
                    assert type(b) is torch.Tensor
                    assert b.numpy().dtype == a.dtype
                np.testing.assert_allclose(np.asarray(b), a, rtol=1e-12)


@needs_torch
def test_a_sample_without_axes_beside_a_large_table(monkeypatch):
    """NumPy's results without axes are scalars of its own."""
    import torch

    plan = a_plan("ddpm", n=3)
    x = torch.tensor(0.5, dtype=torch.float64)
    index = torch.zeros((), dtype=torch.int32)
    use(monkeypatch, "wired", least=10**9)
    plain = cmsched.transition(plan, cmsched.init(plan, x, index=index), x)
    use(monkeypatch, "wired")
    moved = cmsched.transition(plan, cmsched.init(plan, x, index=index), x)
    for a, b in zip(plain, moved, strict=True):
        torch.testing.assert_close(a, b)


# C++

compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
TYPES = {"float32": "float", "float64": "double"}


def cpp(cases, folder):
    """Compile the text of kernels as loops over elements, one function a case."""
    lines = [f"typedef {c} {name};" for name, c in TYPES.items()]
    for k, (statements, wanted, types, dtype) in enumerate(cases):
        given, made, body = fused.elementwise(statements, wanted, types, dtype)
        takes, gives = (part.split(", ") for part in (given, made))
        inputs = [one.split() for one in takes]
        arrays = [f"const {t} *p_{name}" for t, name in inputs]
        arrays += [f"{one.split()[0]} *p_{one.split()[1]}" for one in gives]
        lines += [
            f'extern "C" void f{k}(long n, {", ".join(arrays)}) {{',
            "  for (long i = 0; i < n; i++) {",
            *(f"    const {t} {name} = p_{name}[i];" for t, name in inputs),
            *(f"    {one};" for one in gives),
            body,
            *(f"    p_{one.split()[1]}[i] = {one.split()[1]};" for one in gives),
            "  }\n}",
        ]
    (folder / "kernels.cpp").write_text("\n".join(lines))
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-O1", "-ffp-contract=off", "-Wall", "-Werror"),
            *("-o", "kernels.so", "kernels.cpp"),
        ],
        cwd=folder,
        check=True,
    )
    return ctypes.CDLL(str(folder / "kernels.so"))


@pytest.mark.skipif(compiler is None, reason="there is no C++ compiler")
def test_cpp_is_the_chain(tmp_path):
    """CuPy's kernels, on the host: 1 to 12 terms, rows of plans, mixed types, hidden nan."""
    structures = [(((12, tuple(range(n))),), (12,)) for n in range(1, 13)]
    structures.append((((3, (0, 1)), (4, (3, 2, 0)), (5, (4, 3, 1))), (3, 5)))
    for sampler in ("ddim", "dpmpp_multistep", "unipc", "deis", "heun"):
        layout = a_plan(sampler).layout
        structures.append((layout.statements, layout.results))
    cases = []
    for statements, wanted in structures:
        for dtype, other in [("float32", "float32"), ("float64", "float64"),
                             ("float64", "float32"), ("float32", "float64")]:  # fmt: skip
            count = len(fused.inputs(statements))
            types = [dtype if k % 2 else other for k in range(count)]
            cases.append((statements, wanted, types, dtype))
    library, rng = cpp(cases, tmp_path), np.random.default_rng(0)
    for k, (statements, wanted, types, dtype) in enumerate(cases):
        read = fused.inputs(statements)
        terms = [source for _, sources in statements for source in sources]
        values = [None] * (max(read) + 1)
        for n, name in zip(read, types, strict=True):
            values[n] = rng.standard_normal(50).astype(name)
        # a weight an element, as those of rows are broadcast
        weights = rng.choice([0, 1, 0.3, -2.7, 1.1], (len(terms), 50)).astype(dtype)
        hidden = [j for j, source in enumerate(terms) if source == read[0]]
        weights[hidden, :10] = 0
        values[read[0]][:10] = np.nan
        results = [np.empty(50, dtype) for _ in wanted]
        arrays = [*(values[n] for n in read), *weights, *results]
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
        getattr(library, f"f{k}")(ctypes.c_long(50), *pointers)
        expected = chain(statements, values, weights)
        for value, result in zip(wanted, results, strict=True):
            np.testing.assert_array_equal(result, expected[value])
