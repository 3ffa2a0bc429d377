"""Which framework an array belongs to, and the operations that each does natively."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmsched import backends

needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed")
needs_jax = pytest.mark.skipif(not find_spec("jax"), reason="jax is not installed")

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
    with pytest.raises(ImportError, match=r'pip install "cmsched\[cupy\]"'):
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

    backend = backends.Backend("numpy", "mine")
    monkeypatch.setattr(backends, "_registered", [])
    backends.register(lambda cls: cls is Mine, lambda: backend)
    assert backends.resolve(Mine()) is backend
    assert backends.resolve(np.zeros(1)) is backends.named("numpy")
    backends._by_type.pop(Mine)


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
    x = backend.put(host, like, "float32")
    assert x.dtype == xp.xp.float32
    np.testing.assert_array_equal(xp.numpy(x), host.astype(np.float32))
    assert backend.put(host, like).dtype == xp.xp.float64
    np.testing.assert_array_equal(xp.numpy(backend.clip(x, -1, 1)), np.float32([-1, 0.1, 1]))
    chosen = backend.where(x > 1.0, x, backend.zeros_like(x))
    np.testing.assert_array_equal(xp.numpy(chosen), [0, 0, 3])


# combine


@given(data=st.data())
def test_combine_is_the_weighted_sum(xp, data):
    shape = data.draw(st.sampled_from([(), (1,), (0, 3), (3, 2), (2, 3, 2, 2)]))
    count = data.draw(st.integers(1, 4))
    weights = data.draw(st.lists(FLOATS | st.just(1.0), min_size=count, max_size=count))
    names = [n for n in ("float32", "float64") if n == "float32" or xp.float64]
    name = data.draw(st.sampled_from(names))
    seed = data.draw(st.integers(0, 99))
    host = np.random.default_rng(seed).standard_normal((count, *shape)).astype(name)
    values = [xp.asarray(h, name) for h in host]
    arrays = data.draw(st.booleans())
    if arrays:
        full = (shape[0],) + (1,) * (len(shape) - 1) if shape and data.draw(st.booleans()) else ()
        given_weights = [xp.asarray(np.full(full, w), name) for w in weights]
    else:
        given_weights = weights
    backend = backends.resolve(values[0])
    out = backend.combine(values, given_weights, getattr(xp.xp, name))

    expected = np.zeros(shape)
    size = np.zeros(shape)
    for h, w in zip(host, weights, strict=True):
        expected = expected + h.astype(np.float64) * np.array(w, name).astype(np.float64)
        size = size + np.abs(h.astype(np.float64) * w)
    assert out.dtype == getattr(xp.xp, name)
    assert tuple(out.shape) == shape
    assert backends.resolve(out) is backend
    error = np.abs(xp.numpy(out) - expected)
    assert np.all(error <= 4 * np.finfo(name).eps * size)
    for value, h in zip(values, host, strict=True):
        np.testing.assert_array_equal(xp.numpy(value), h)
    if not (count == 1 and not arrays and weights[0] == 1.0):
        assert all(out is not value for value in values)
        if xp.backend in ("numpy", "torch"):
            assert not any(np.shares_memory(xp.numpy(out), xp.numpy(v)) for v in values)


def test_combine_gives_a_single_value_back_itself(xp):
    x = xp.asarray(np.arange(3), "float32")
    assert backends.resolve(x).combine([x], [1.0], x.dtype) is x


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
            kept.append(backend.put(np.ones(2), x, "float32"))
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
            backend.put(np.ones(2), x)
            backend.execute(fn, None, x)

    def test_64_bits_are_refused_not_truncated(self):
        import jax

        with jax.enable_x64(False):
            backend = backends.named("jax")
            with pytest.raises(ValueError, match="jax_enable_x64"):
                backend.dtype("float64")
            x = backend.put(np.ones(2), jax.numpy.ones(1), "float64")
            assert x.dtype == np.float32


def test_execute_is_a_call_elsewhere():
    x = np.ones(2)
    assert backends.resolve(x).execute(lambda s, a, b: (s, a, b), 1, x, 2) == (1, x, 2)
