"""Which framework an array belongs to, and the operations that each does natively."""

import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmsched import backends
from cmsched.backends import registry

needs_torch = pytest.mark.usefixtures("torch")
needs_jax = pytest.mark.usefixtures("jax")

# without those whose products leave float32's normal range, where rounding is absolute
FLOATS = st.floats(-4, 4, width=32).map(lambda w: w if abs(w) > 1e-30 else 0.0)


def dtype_of(xp, name):
    return backends.resolve(xp.asarray(np.zeros(1), "float32")).dtype(name)


# finding the framework


def test_import_loads_no_framework():
    code = (
        "import sys, cmsched.backends as b; import numpy\n"
        "b.resolve(numpy.zeros(2)); b.resolve(numpy.float32(1)); b.named('numpy')\n"
        "print([m for m in ('torch', 'jax', 'cupy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_resolve_and_named_agree(xp):
    backend = backends.resolve(xp.asarray(np.zeros(3), "float32"))
    assert backend is backends.resolve(xp.asarray(np.zeros((2, 2)), "int32"))
    assert backend is backends.named(xp.xp)
    assert backend.name == xp.backend
    if xp.name != "strict":
        assert backend is backends.named(xp.backend)
    with ThreadPoolExecutor(8) as pool:
        arrays = [xp.asarray(np.zeros(1), "float32")] * 64
        assert set(pool.map(backends.resolve, arrays)) == {backend}


@pytest.mark.parametrize("bad", [[1.0], 1.0, 3, None, "numpy", {1: 2}, object()])
def test_resolve_refuses_what_is_no_array(bad):
    with pytest.raises(TypeError, match=rf"got builtins\.{type(bad).__name__}: convert it first"):
        backends.resolve(bad)


def test_named_says_what_is_known(monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'torch'"):
        backends.named("pytorch")
    with pytest.raises(ValueError, match="no array namespace"):
        backends.named(pickle)
    monkeypatch.setitem(sys.modules, "cupy", None)  # makes its import fail
    monkeypatch.delitem(sys.modules, "cmsched.backends.cupy", raising=False)
    with pytest.raises(ImportError, match="pip install cupy-cuda12x"):
        backends.named("cupy")


def test_from_device(xp):
    x = xp.asarray(np.zeros(2), "float32")
    backend = backends.resolve(x)
    if xp.backend == "numpy":
        assert backends.from_device(None) is backend
    else:
        assert backends.from_device(backend.device(x)) is backend


def test_from_device_refuses():
    with pytest.raises(TypeError, match="device=3 is no device"):
        backends.from_device(3)


def test_registered_type(monkeypatch):
    class Mine:
        pass

    monkeypatch.setattr(registry, "_registered", {})
    namespace = backends.named("numpy").xp
    backends.register("mine", Mine, namespace)
    assert backends.resolve(Mine()) is backends.named("mine")
    assert backends.resolve(np.zeros(1)) is backends.named("numpy")
    assert backends.named("mine").xp.take is namespace.take
    registry._by_type.pop(Mine)


def test_a_framework_that_is_known_cannot_be_registered(xp, monkeypatch):
    """Neither its name nor its arrays; nothing is registered then."""

    class Mine:
        pass

    monkeypatch.setattr(registry, "_registered", {})
    namespace = backends.named("numpy").xp
    for name in registry.FRAMEWORKS:
        with pytest.raises(ValueError, match=f"name='{name}' is a framework known already"):
            backends.register(name, Mine, namespace)
    x = xp.asarray(np.zeros(1))
    if xp.name != "strict":
        for array in (type(x), (Mine, type(x))):
            with pytest.raises(ValueError, match=f"would take the arrays of {xp.backend}, which"):
                backends.register("mine", array, namespace)
    with pytest.raises(ValueError, match="would take the arrays of numpy"):
        backends.register("mine", object, namespace)
    assert registry._registered == {}
    assert backends.resolve(x) is backends.named(xp.xp)


@needs_jax
def test_pytree_before_and_after_jax():
    code = (
        "from cmsched import backends\n"
        "class A:\n    def __init__(self, x): self.x = x\n"
        "class B(A): pass\n"
        "backends.pytree(A, lambda a: ((a.x,), None), lambda _, c: A(*c))\n"
        "import jax; backends.resolve(jax.numpy.zeros(2))\n"
        "backends.pytree(B, lambda a: ((a.x,), None), lambda _, c: B(*c))\n"
        "for cls in (A, B): print(jax.tree.map(lambda x: x + 1, cls(1)).x)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["2", "2"]


# dtypes, placing


@pytest.mark.parametrize(
    ("name", "expected"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"),
     ("float64", "float64")],
)  # fmt: skip
def test_accumulation(xp, name, expected):
    if not hasattr(xp.xp, name):
        pytest.skip(f"{xp.name} has no {name}")
    backend = backends.resolve(xp.asarray(np.zeros(1), "float32"))
    dtype = xp.asarray(np.zeros(1), name).dtype
    assert backend.accumulation(dtype) == getattr(xp.xp, expected)
    assert backend.accumulation(dtype) == getattr(xp.xp, expected)  # cached


@pytest.mark.parametrize("name", ["int32", "bool", "complex64"])
def test_accumulation_refuses(xp, name):
    x = xp.asarray(np.zeros(1), name)
    with pytest.raises(TypeError, match="convert to float32"):
        backends.resolve(x).accumulation(x.dtype)


def test_default_int_is_what_the_framework_counts_in(xp):
    backend = backends.resolve(xp.asarray(np.zeros(1), "float32"))
    assert xp.asarray(np.zeros(1, np.int64)).dtype == backend.default_int


def test_put_where_clip_zeros(xp):
    like = xp.asarray(np.zeros(1), "float32")
    backend = backends.resolve(like)
    host = np.array([-2.0, 0.1, 3.0])
    host.flags.writeable = False
    x = backend.to_device_of(host, like, "float32")
    assert x.dtype == xp.xp.float32
    np.testing.assert_array_equal(xp.numpy(x), host.astype(np.float32))
    assert backend.to_device_of(host, like).dtype == xp.xp.float64
    np.testing.assert_array_equal(xp.numpy(backend.clip(x, -1, 1)), np.float32([-1, 0.1, 1]))
    chosen = backend.where(x > 1.0, x, backend.zeros_like(x))
    np.testing.assert_array_equal(xp.numpy(chosen), [0, 0, 3])


# combine


def permuted(xp, array):
    """Axes in another order in memory: a matrix transposed, an image with its channels last."""
    order = [0, *range(2, array.ndim), 1] if array.ndim > 2 else [*range(array.ndim)][::-1]
    copy = xp.asarray(np.transpose(array, order).copy(order="C"))
    return xp.xp.permute_dims(copy, tuple(np.argsort(order).tolist())) if order else copy


def spaced(xp, array):
    """Every other element of an array twice as long."""
    return xp.asarray(np.repeat(array, 2, axis=-1))[..., ::2] if array.ndim else xp.asarray(array)


LAYOUTS = {
    "contiguous": lambda xp, array: xp.asarray(array),
    "permuted": permuted,
    "spaced": spaced,
    "broadcast": lambda xp, array: xp.xp.broadcast_to(xp.asarray(array.flat[0]), array.shape),
}


@st.composite
def combinations(draw, xp):
    """Values of any dtype, shape and layout, and the weights of 1 to 12 terms."""
    name = draw(st.sampled_from([n for n in EPS if hasattr(xp.xp, n) and fits(xp, n)]))
    higher = "float32" if name.endswith("16") else name
    shape = draw(st.sampled_from([(), (1,), (0, 3), (3, 2), (2, 3, 4), (2, 3, 2, 2)]))
    count = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layouts = list(LAYOUTS) if 0 not in shape else ["contiguous", "permuted"]
    values = []
    for _ in range(count):
        array = rng.standard_normal(shape).astype(np.float64 if name == "float64" else np.float32)
        made = LAYOUTS[draw(st.sampled_from(layouts))](xp, array)
        values.append(xp.xp.astype(made, getattr(xp.xp, name)) if name.endswith("16") else made)
    rows = draw(st.sampled_from([None, 0, 1, 2]))
    if rows is None:  # numbers of the host
        weights = draw(st.lists(FLOATS | st.just(1.0), min_size=count, max_size=count))
        return values, weights, [np.full(shape, w) for w in weights], higher
    # of all, of each row, of each (row, frame)
    full = shape[:rows] + (1,) * len(shape[rows:])
    numbers = st.lists(FLOATS | st.just(1.0) | st.just(0.0), min_size=0, max_size=9)
    host = [np.resize([*draw(numbers), 1.5], full).astype(higher) for _ in range(count)]
    weights = [xp.asarray(w, higher) for w in host]
    for k, w in enumerate(host):  # what is not looked at may be anything
        hidden = np.broadcast_to(w == 0, shape)
        if hidden.any() and draw(st.booleans()):
            # a copy: some layouts repeat an element
            there = xp.numpy(values[k]).astype(np.float32 if name != "float64" else np.float64)
            there = np.where(hidden, draw(st.sampled_from([np.nan, np.inf, -np.inf])), there)
            values[k] = LAYOUTS[draw(st.sampled_from(layouts[:3]))](xp, there)
            if name.endswith("16"):
                values[k] = xp.xp.astype(values[k], getattr(xp.xp, name))
    return values, weights, [np.broadcast_to(w, shape) for w in host], higher


EPS = {"float16": None, "bfloat16": None, "float32": 2.0**-23, "float64": 2.0**-52}


def fits(xp, name):
    return name != "float64" or xp.float64


@given(data=st.data())
def test_combine_is_the_weighted_sum(xp, data):
    values, weights, numbers, name = data.draw(combinations(xp))
    kept = [np.array(xp.numpy(value)) for value in values]
    backend = backends.resolve(values[0])
    dtype = getattr(xp.xp, name)
    out = backend.combine(values, weights, dtype)
    plain = backends.Backend.combine(backend, values, weights, dtype)  # what all are to equal

    shape = tuple(values[0].shape)
    expected, size = np.zeros(shape), np.zeros(shape)
    for value, number in zip(kept, numbers, strict=True):
        value, number = value.astype(np.float64), np.asarray(number, name).astype(np.float64)
        seen = not isinstance(weights[0], float)
        term = np.where(number == 0, 0, value) * number if seen else value * number
        expected, size = expected + term, size + np.abs(term)
    for found in (out, plain):
        assert found.dtype == dtype
        assert tuple(found.shape) == shape
        assert backends.resolve(found) is backend
        error = np.abs(xp.numpy(found) - expected)
        assert np.all(error <= (len(values) + 1) * EPS[name] * size)
    for value, copy in zip(values, kept, strict=True):
        np.testing.assert_array_equal(xp.numpy(value), copy)
    if not (len(values) == 1 and isinstance(weights[0], float) and weights[0] == 1.0):
        assert all(out is not value for value in values)
        if xp.backend in ("numpy", "torch"):
            assert not any(np.shares_memory(xp.numpy(out), xp.numpy(v)) for v in values)


def test_a_row_does_not_depend_on_what_its_neighbours_hide(xp):
    """To the bit: a batch with a finished row, and the same without it."""
    host = np.random.default_rng(0).standard_normal((5, 3, 40))
    for name in ("float32", "float64"):
        values = [xp.asarray(h, name) for h in host]
        weights = np.random.default_rng(1).standard_normal((5, 3, 1)).astype(name)
        hiding = weights.copy()
        hiding[:, 2] = [[1], [0], [0], [1], [0]]
        one, other = (
            backends.resolve(values[0]).combine(
                values, [xp.asarray(w, name) for w in each], getattr(xp.xp, name)
            )
            for each in (weights, hiding)
        )
        np.testing.assert_array_equal(xp.numpy(one)[:2], xp.numpy(other)[:2])


def test_combine_copies_a_single_value(xp):
    x = xp.asarray([1.5, -0.0, math.inf], "float32")
    backend = backends.resolve(x)
    for out in (backend.combine([x], [1.0], x.dtype), backend.copy(x)):
        assert (out is x) == (xp.backend == "jax")  # where nobody can write to it
        assert out.dtype == x.dtype
        assert xp.numpy(out).tobytes() == xp.numpy(x).tobytes()


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_a_single_value_of_another_dtype_is_converted(xp, name):
    if not hasattr(xp.xp, name) or not fits(xp, name):
        pytest.skip(f"{xp.name} has no {name}")
    out = backends.resolve(x := xp.asarray(np.ones(3), name)).combine([x], [1.0], xp.xp.float32)
    assert out.dtype == xp.xp.float32
    np.testing.assert_array_equal(xp.numpy(out), 1)


@pytest.mark.parametrize("arrays", [False, True])
def test_half_precision_is_accumulated_in_float32(xp, arrays):
    if not hasattr(xp.xp, "float16"):
        pytest.skip(f"{xp.name} has no float16")
    # In float16 the first product overflows, and 4096 + 1 is 4096.
    values = [xp.asarray([40000.0, 2048.0], "float16"), xp.asarray([40000.0, 1.0], "float16")]
    values.append(values[0])
    weights = [2.0, 1.0, -2.0]
    if arrays:
        weights = [xp.asarray(w, "float32") for w in weights]
    out = backends.resolve(values[0]).combine(values, weights, xp.xp.float32)
    assert out.dtype == xp.xp.float32
    np.testing.assert_array_equal(xp.numpy(out), [40000.0, 1.0])


@needs_torch
class TestTorch:
    def values(self, count=3, shape=(2, 3, 4, 4)):
        import torch

        generator = torch.Generator().manual_seed(0)
        return [torch.randn(shape, generator=generator) for _ in range(count)]

    def combine(self, *values, weights=(0.5, 1.0, -2.0)):
        import torch

        return backends.named("torch").combine(values, weights, torch.float32)

    def test_keeps_channels_last(self):
        import torch

        a, b, c = (v.contiguous(memory_format=torch.channels_last) for v in self.values())
        for weights in [(0.5, 1.0, -2.0), (1.0, 0.5, 2.0)]:
            out = self.combine(a, b, c, weights=weights)
            assert out.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("batched", [0, 1, 2])
    def test_under_vmap_with_one_batched_value(self, batched):
        import torch

        values = self.values()
        dims = [0 if i == batched else None for i in range(3)]
        single = [v if d == 0 else v[0] for v, d in zip(values, dims, strict=True)]
        out = torch.func.vmap(self.combine, in_dims=tuple(dims))(*single)
        torch.testing.assert_close(out, self.combine(*(torch.broadcast_tensors(*single))))

    def test_compiles_as_one_graph(self):
        import torch

        compiled = torch.compile(self.combine, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*self.values()), self.combine(*self.values()))

        def whole(x):
            backend = backends.resolve(x)
            return backend.combine([x, x], [0.5, 0.25], backend.accumulation(x.dtype))

        x = self.values(1)[0]
        out = torch.compile(whole, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(out, 0.75 * x)

    def test_meta(self):
        out = self.combine(*(v.to("meta") for v in self.values()))
        assert out.is_meta
        assert out.shape == (2, 3, 4, 4)

    @pytest.mark.parametrize("weights", [(0.5, 1.0, -2.0), (1.0, 0.5, -2.0)])
    def test_gradients(self, weights):
        import torch

        values = [v.requires_grad_() for v in self.values()]
        self.combine(*values, weights=weights).sum().backward()
        for value, weight in zip(values, weights, strict=True):
            torch.testing.assert_close(value.grad, torch.full_like(value, weight))

    def test_gradient_through_values_of_inference_mode(self):
        import torch

        a, b, c = self.values()
        a.requires_grad_()
        with torch.inference_mode():
            b = b * 1
            assert self.combine(a, b, c).is_inference()
        self.combine(a, b, c).sum().backward()
        torch.testing.assert_close(a.grad, torch.full_like(a, 0.5))


@needs_jax
class TestJax:
    def test_execute_compiles_once_and_not_in_a_trace(self):
        import jax
        import jax.numpy as jnp

        backend, traces = backends.named("jax"), []

        def fn(static, tree):
            traces.append(static)
            return tree["x"] * static

        for _ in range(3):
            assert backend.execute(fn, 2, {"x": jnp.ones(3)}).tolist() == [2, 2, 2]
        assert traces == [2]
        assert jax.jit(lambda x: backend.execute(fn, 3, {"x": x}))(jnp.ones(1)).tolist() == [3]
        assert traces == [2, 3]

    def test_tracers_resolve(self):
        import jax
        import jax.numpy as jnp

        backend = backends.named("jax")

        def fn(x):
            assert backends.resolve(x) is backend
            assert backend.traced(x)
            assert not backend.traced(jnp)
            kept.append(backend.to_device_of(np.ones(2), x, "float32"))
            return x * kept[-1]

        kept = []
        for transform in (jax.jit, jax.vmap, lambda f: jax.grad(lambda x: f(x).sum())):
            transform(fn)(jnp.ones((2, 2)))
        assert not backend.traced(*kept)

    def test_put_and_combine_pass_a_transfer_guard(self):
        import jax
        import jax.numpy as jnp

        backend, x = backends.named("jax"), jnp.ones(2)

        def fn(static, x):
            return backend.combine([x, x], [0.5, 0.25], x.dtype)

        with jax.transfer_guard("disallow"):
            backend.to_device_of(np.ones(2), x)
            backend.execute(fn, None, x)

    def test_64_bits_are_refused_not_truncated(self):
        import jax

        with jax.enable_x64(False):
            backend = backends.named("jax")
            with pytest.raises(ValueError, match="jax_enable_x64"):
                backend.dtype("float64")
            x = backend.to_device_of(np.ones(2), jax.numpy.ones(1), "float64")
            assert x.dtype == np.float32


def test_execute_is_a_call_elsewhere():
    x = np.ones(2)
    assert backends.resolve(x).execute(lambda s, a, b: (s, a, b), 1, x, 2) == (1, x, 2)
